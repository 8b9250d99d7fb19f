// The audit trail: every request that came through the tunnel, live, with filters that are kept in the address.

import { ApiError, download, get, query as toQuery, save } from "../api.js";
import { h, mark, press, put, say } from "../dom.js";
import { on, onReturn } from "../events.js";
import { bytes, dateText, many, millis, time } from "../format.js";
import { busy, dialog } from "../parts/dialog.js";
import { icon } from "../parts/icon.js";
import { badge, fact, frame, led, loader, table } from "../parts/layout.js";
import { failed, toast } from "../parts/toast.js";
import { setQuery } from "../router.js";

const PAGE = 100;
/** Rows kept while new ones come in at the top. */
const MOST = 500;
const NAMES = ["mapping", "status", "method", "q", "from", "to"];
const STATUSES = [["", "Any status"], ["2xx", "2xx success"], ["3xx", "3xx redirect"], ["4xx", "4xx refused"], ["5xx", "5xx failed"], ["error", "No answer"]];
const METHODS = ["", "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];

/** The class of a status: 2 for 204; "error" where nothing came back. */
const statusClass = (item) => (item.errorMessage && !item.statusCode ? "error" : Math.floor(item.statusCode / 100));

/** Whether a live request belongs to what is looked at, by the rules of GET /requests. */
export function fits(item, filter) {
  if (filter.mapping && item.mappingId !== filter.mapping) return false;
  if (filter.method && item.method !== filter.method) return false;
  const at = Date.parse(item.timestamp);
  if (filter.from && at < Date.parse(filter.from)) return false;
  if (filter.to && at >= Date.parse(filter.to)) return false;
  if (filter.q) {
    const words = filter.q.toLowerCase();
    const texts = [item.path, item.queryString, item.clientIp, item.userAgent, item.externalDomain, item.errorMessage];
    if (!texts.some((text) => text?.toLowerCase().includes(words))) return false;
  }
  if (!filter.status) return true;
  return filter.status.split(",").some((word) => {
    if (word === "error") return Boolean(item.errorMessage);
    return word.endsWith("xx") ? String(item.statusCode)[0] === word[0] : String(item.statusCode) === word;
  });
}

export function page({ query, signal }) {
  const filter = Object.fromEntries(NAMES.map((name) => [name, query.get(name) ?? ""]));
  for (const name of ["from", "to"]) if (Number.isNaN(Date.parse(filter[name]))) filter[name] = "";
  let items = [];
  let next = null;
  let live = true;
  let turn = 0;
  let waiting = [];

  const select = (label, options, name) => {
    const element = h("select", { class: "input compact", "aria-label": label }, options.map(([value, text]) => h("option", { value }, text)));
    element.value = filter[name];
    if (element.value !== filter[name]) {
      element.append(h("option", { value: filter[name] }, filter[name]));
      element.value = filter[name];
    }
    element.addEventListener("change", () => {
      filter[name] = element.value;
      changed();
    });
    return element;
  };
  const mapping = h("select", { class: "input compact", "aria-label": "Mapping" }, h("option", { value: "" }, "All mappings"));
  mapping.addEventListener("change", () => {
    filter.mapping = mapping.value;
    changed();
  });
  const search = h("input", { type: "search", class: "input", placeholder: "Search requests...", "aria-label": "Search path, address, browser or error", value: filter.q });
  let typing = null;
  search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      filter.q = search.value.trim();
      changed();
    }, 250);
  });
  signal.addEventListener("abort", () => clearTimeout(typing));
  const moment = (label, name) => {
    const input = h("input", { type: "datetime-local", class: "input compact", step: 1 });
    if (filter[name]) input.value = dateText(new Date(filter[name]), "full").replace(" ", "T");
    input.addEventListener("change", () => {
      filter[name] = input.value ? new Date(input.value).toISOString() : "";
      changed();
    });
    return { input, element: h("label", { class: "inline-label" }, h("span", { class: "label" }, label), input) };
  };
  const [from, to] = [moment("From", "from"), moment("To", "to")];
  const status = select("Status", STATUSES, "status");
  const method = select("Method", METHODS.map((word) => [word, word || "Any method"]), "method");
  const reset = press("small", {}, "Clear filters");
  reset.addEventListener("click", () => {
    for (const name of NAMES) filter[name] = "";
    for (const input of [mapping, status, method, search, from.input, to.input]) input.value = "";
    changed();
  });
  const tail = press("small live-button", {});
  tail.addEventListener("click", () => {
    live = !live;
    if (live) load();
    paintTail();
  });
  const csv = press("small", {}, icon("download", 15), "Export CSV");
  csv.addEventListener("click", exportCsv);

  const rows = h("tbody", {});
  const summary = h("p", { class: "quiet summary", role: "status" });
  const more = press("", {}, "Load older requests");
  const empty = h("div", { class: "empty", hidden: true });
  const wait = loader();
  const list = table("requests", ["Time", "Status", "Method", "Address", "Took", "Size", "Visitor"], rows, "panel flush requests-table");

  const active = () => NAMES.filter((name) => filter[name] !== "").length;

  function changed() {
    setQuery(toQuery(filter));
    load();
  }

  function paintTail() {
    mark(tail, "aria-pressed", String(live));
    put(tail, led(live ? "good" : "off"), live ? "Live" : "Paused");
  }

  function line(item) {
    const kind = statusClass(item);
    const look = { 1: "off", 2: "good", 3: "cyan", 4: "warn", 5: "bad", error: "bad" }[kind] ?? "off";
    const address = `${item.externalDomain ?? ""}${item.path ?? ""}${item.queryString ? `?${item.queryString.replace(/^\?/, "")}` : ""}`;
    const open = h("button", { class: "link-button", "aria-label": `Details of ${item.method ?? ""} ${address}`, onclick: () => details(item, address) }, address);
    return h(
      "tr",
      { class: "group" },
      h("td", {}, time(item.timestamp, "near")),
      h("td", {}, badge(look, item.statusCode || "NONE")),
      h("td", {}, item.method ?? "–"),
      h("td", { class: "cut" }, open),
      h("td", { class: "number" }, millis(item.durationMs)),
      h("td", { class: "number" }, bytes(item.responseSize)),
      h("td", {}, item.clientIp ?? ""),
    );
  }

  function paint() {
    wait.hidden = true;
    list.hidden = items.length === 0;
    more.hidden = next === null;
    empty.hidden = items.length > 0;
    if (items.length === 0) {
      put(empty, icon("requests", 40), active() > 0
        ? [h("h2", {}, "No request fits"), h("p", {}, "Change the filters, or wait: new ones appear here.")]
        : [h("h2", {}, "No requests yet"), h("p", {}, "Every visitor's request through the tunnel appears here as it happens.")]);
    }
    reset.hidden = active() === 0;
    say(summary, items.length === 0 ? "" : `Showing ${many(items.length, "request")}${next === null ? "" : ", newest first"}`);
  }

  async function load() {
    const mine = ++turn;
    waiting = [];
    try {
      const answer = await get(`/requests${toQuery({ ...filter, limit: PAGE })}`, signal);
      if (mine !== turn) return;
      ({ items, next } = answer);
      put(rows, items.map(line));
      paint();
    } catch (error) {
      if (mine !== turn || ApiError.gone(error)) return;
      paint();
      failed("Failed to load requests", error);
    }
  }

  more.addEventListener("click", () => busy(more, "Loading…", async () => {
    const mine = turn;
    try {
      const answer = await get(`/requests${toQuery({ ...filter, limit: PAGE, before: next })}`, signal);
      if (mine !== turn) return;
      const known = new Set(items.map((item) => item.id));
      const older = answer.items.filter((item) => !known.has(item.id));
      items.push(...older);
      rows.append(...older.map(line));
      ({ next } = answer);
      paint();
    } catch (error) {
      failed("Failed to load requests", error);
    }
  }));

  /** Many come at once under load: what is not seen is not drawn. */
  function flush() {
    if (waiting.length === 0 || !live) return;
    const known = new Set(items.slice(0, MOST).map((item) => item.id));
    const news = waiting.filter((item) => !known.has(item.id)).slice(-PAGE).reverse();
    waiting = [];
    items = [...news, ...items];
    rows.prepend(...news.map(line));
    if (items.length > MOST) {
      items.length = MOST;
      while (rows.children.length > MOST) rows.lastElementChild.remove();
      // The form of a cursor: see GET /requests.
      next = `${items.at(-1).timestamp.replace("Z", "")}_${items.at(-1).id}`;
    }
    paint();
  }
  const timer = setInterval(flush, 400);
  signal.addEventListener("abort", () => clearInterval(timer));
  on("RequestLogged", (detail) => {
    if (!live || !fits(detail, filter)) return;
    waiting.push(detail);
    if (waiting.length > 2 * PAGE) waiting.shift();
  }, signal);
  onReturn(() => live && load(), signal);

  function details(item, address) {
    const url = `https://${address}`;
    return dialog({ title: `${item.method ?? ""} ${item.path ?? ""}`, wide: true }, (close) =>
      h(
        "div",
        { class: "modal-body" },
        item.errorMessage && h("p", { class: "problem" }, item.errorMessage),
        h(
          "div",
          { class: "facts" },
          fact("Time", time(item.timestamp)),
          fact("Status", item.statusCode ? String(item.statusCode) : "No answer"),
          fact("Address", address),
          fact("Mapping", item.mappingName ?? "–"),
          fact("Took", millis(item.durationMs)),
          fact("Sent to the visitor", bytes(item.responseSize)),
          fact("Sent by the visitor", bytes(item.requestSize)),
          fact("Visitor", item.clientIp ?? "–"),
          fact("Browser", item.userAgent ?? "–"),
        ),
        h(
          "div",
          { class: "modal-foot" },
          item.mappingId && press("", { onclick: () => {
            filter.mapping = mapping.value = item.mappingId;
            close();
            changed();
          } }, "Only this mapping"),
          item.clientIp && press("", { onclick: () => {
            filter.q = search.value = item.clientIp;
            close();
            changed();
          } }, "Only this visitor"),
          h("a", { class: "button primary", href: `/gateway/inspector?url=${encodeURIComponent(url)}`, onclick: () => close() }, icon("inspector", 15), "Ask again"),
        ),
      ),
    );
  }

  async function exportCsv() {
    try {
      const file = await busy(csv, "Exporting…", () =>
        download(`/requests${toQuery(filter)}`, { accept: "text/csv", signal, progress: (n) => say(csv.lastChild, `${bytes(n)}…`) }));
      save(file.blob, file.name ?? `octoporty-requests-${dateText(new Date(), "date")}.csv`);
      toast("success", "Requests exported", bytes(file.blob.size));
    } catch (error) {
      failed("Export failed", error);
    }
  }

  get("/mappings", signal).then(
    (all) => {
      mapping.append(...all.map((one) => h("option", { value: one.id }, one.name)));
      if (filter.mapping && !all.some((one) => one.id === filter.mapping)) mapping.append(h("option", { value: filter.mapping }, "A deleted mapping"));
      mapping.value = filter.mapping;
    },
    (error) => failed("Failed to load mappings", error),
  );
  paintTail();
  reset.hidden = active() === 0;
  more.hidden = true;
  list.hidden = true;
  load();
  return {
    title: "Requests",
    element: frame(
      { title: "Requests", about: "What visitors asked for, and what they got", actions: [tail, csv] },
      h("div", { class: "toolbar" }, h("div", { class: "input-with-icon" }, icon("search"), search), mapping, status, method, h("div", { class: "actions" }, from.element, to.element), reset),
      wait,
      list,
      empty,
      h("div", { class: "list-foot" }, summary, more),
    ),
  };
}
