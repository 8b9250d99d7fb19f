// All mappings: finding, switching, and the way to each of them.

import { onConnection } from "../live.js";
import { get } from "../api.js";
import { calmly, h, keyed, mark, press, put, say } from "../dom.js";
import { setTime, time } from "../format.js";
import { on } from "../events.js";
import { keep, kept } from "../kept.js";
import { pills, toggle } from "../parts/field.js";
import { icon } from "../parts/icon.js";
import { actions, badge, frame, led, loader, table } from "../parts/layout.js";
import { breakable, deleteMapping, internalUrl, publicUrl, routeBadge, routeOf, setEnabled } from "../parts/mapping.js";
import { failed } from "../parts/toast.js";

const VIEW = "octoporty_view";

export function page({ query, signal }) {
  let all = null;
  let filter = ["active", "disabled"].includes(query.get("show")) ? query.get("show") : "all";
  let view = kept(VIEW) === "table" ? "table" : "grid";
  const search = h("input", { type: "search", class: "input", placeholder: "Search mappings...", "aria-label": "Search mappings" });
  const choice = pills("Which mappings", [["all", "All"], ["active", "Active"], ["disabled", "Disabled"]], filter, (value) => {
    filter = value;
    paint();
  });
  const views = [["grid", "Grid view"], ["table", "Table view"]].map(([value, title]) =>
    h("button", { class: "icon-button", title, "aria-label": title, onclick: () => setView(value) }, icon(value)),
  );
  const cards = h("ul", { class: "cards" });
  const body = h("tbody", {});
  const list = table("mappings", ["Name", "External Endpoint", "Internal Target", "Status", "Last request", "Actions"], body, "panel flush mappings-table acts");
  const summary = h("p", { class: "quiet summary", role: "status" });
  const empty = h("div", { class: "empty", hidden: true });
  const wait = loader();
  const paintCards = keyed(cards, (mapping) => mapping.id, card);
  const paintRows = keyed(body, (mapping) => mapping.id, row);

  function setView(value) {
    view = value;
    keep(VIEW, value);
    paint();
  }

  function paint() {
    views.forEach((button, i) => mark(button, "aria-pressed", String((i === 0) === (view === "grid"))));
    if (all === null) return;
    wait.hidden = true;
    const active = all.filter((mapping) => mapping.enabled);
    say(choice.button("all"), `All (${all.length})`);
    say(choice.button("active"), `Active (${active.length})`);
    say(choice.button("disabled"), `Disabled (${all.length - active.length})`);
    const words = search.value.trim().toLowerCase();
    const shown = all.filter(
      (mapping) =>
        (filter === "all" || mapping.enabled === (filter === "active")) &&
        [mapping.name, mapping.externalDomain, mapping.internalHost].some((text) => (text ?? "").toLowerCase().includes(words)),
    );
    cards.hidden = view !== "grid" || shown.length === 0;
    list.hidden = view === "grid" || shown.length === 0;
    if (view === "grid") paintCards(shown);
    else paintRows(shown);
    say(summary, all.length === 0 ? "" : `Showing ${shown.length} of ${all.length} mappings`);
    empty.hidden = shown.length > 0;
    if (shown.length === 0) put(empty, icon("mappings", 40), ...nothing(words));
  }

  function nothing(words) {
    if (all.length === 0) {
      return [h("h2", {}, "No mappings yet"), h("p", {}, "A mapping gives a service in your network a public address."), h("a", { class: "button primary", href: "/mappings/new" }, "Create First Mapping")];
    }
    if (words !== "") return [h("h2", {}, `Nothing fits “${search.value.trim()}”`), h("p", {}, "Names, domains and internal hosts were searched.")];
    return [h("h2", {}, filter === "active" ? "No active mappings" : "No disabled mappings")];
  }

  const swap = (now) => {
    if (now === null) return;
    all = all.map((mapping) => (mapping.id === now.id ? now : mapping));
    paint();
  };

  /** What a card and a row have in common: a switch, and buttons. */
  function controls(first) {
    let mapping = first;
    const flip = toggle({
      label: "",
      quiet: true,
      change: async (on) => {
        mark(flip.button, "aria-busy", "true");
        const now = await setEnabled(mapping, on);
        mark(flip.button, "aria-busy", null);
        if (now === null) flip.value = mapping.enabled;
        else swap({ ...mapping, ...now });
      },
    });
    const edit = h("a", { class: "button small", href: "" }, icon("edit", 15), "Edit");
    const erase = press("small ghost-danger", {}, icon("trash", 15), "Delete");
    erase.addEventListener("click", async () => {
      if (!(await deleteMapping(mapping))) return;
      all = all.filter(({ id }) => id !== mapping.id);
      paint();
      search.focus();
    });
    return {
      flip,
      edit,
      erase,
      update(next) {
        mapping = next;
        if (!flip.button.ariaBusy) flip.value = next.enabled;
        mark(flip.button, "aria-label", `${next.enabled ? "Disable" : "Enable"} mapping ${next.name}`);
        mark(edit, "href", `/mappings/${next.id}`);
        mark(edit, "aria-label", `Edit ${next.name}`);
        mark(edit, "title", `Edit ${next.name}`);
        mark(erase, "aria-label", `Delete ${next.name}`);
        mark(erase, "title", `Delete ${next.name}`);
      },
    };
  }

  function badges(mapping) {
    const state = badge(mapping.enabled ? "good" : "off", mapping.enabled ? "ACTIVE" : "DISABLED");
    const insecure = mapping.internalUseTls && mapping.allowInvalidCertificates && badge("warn", "INSECURE SSL");
    const route = mapping.enabled && routeOf(mapping).look !== "good" && routeBadge(mapping);
    return [state, route, insecure];
  }

  function card(first) {
    const own = controls(first);
    const name = h("a", { class: "card-name", href: "" });
    const tags = h("div", { class: "badges" });
    const outside = h("span", { class: "data" });
    const inside = h("span", { class: "data" });
    const fault = h("p", { class: "problem", hidden: true });
    const seen = time(null, "ago", "never");
    const made = time(null, "date");
    const element = h(
      "li",
      { class: "card group" },
      h("div", { class: "card-head" }, h("div", { class: "card-title" }, h("h2", {}, name), tags), own.flip.element),
      h("div", { class: "flow" },
        h("div", { class: "flow-end" }, h("span", { class: "label" }, "EXTERNAL"), outside),
        h("span", { class: "flow-arrow", "aria-hidden": "true" }, icon("arrow"), h("span", { class: "flow-dot" })),
        h("div", { class: "flow-end" }, h("span", { class: "label" }, "INTERNAL"), inside)),
      fault,
      h("div", { class: "card-foot" }, h("div", { class: "quiet" }, h("p", {}, "Created ", made), h("p", {}, "Last request ", seen)), actions(own.edit, own.erase)),
    );
    return {
      element,
      update(mapping) {
        own.update(mapping);
        mark(element, "class", `card group ${mapping.enabled ? routeOf(mapping).look : "off"}`);
        mark(name, "href", `/mappings/${mapping.id}`);
        say(name, mapping.name);
        put(tags, badges(mapping));
        put(outside, breakable(publicUrl(mapping)));
        put(inside, breakable(internalUrl(mapping)));
        const route = routeOf(mapping);
        fault.hidden = route.look !== "bad";
        say(fault, route.look === "bad" ? route.text : "");
        setTime(made, mapping.createdAt, "date");
        setTime(seen, mapping.lastRequestAt, "ago", "never");
      },
    };
  }

  function row(first) {
    const own = controls(first);
    const cells = ["cut", "cut", "cut", "", ""].map((look) => h("td", { class: look }));
    const element = h("tr", { class: "group" }, cells, h("td", {}, actions(own.flip.element, own.edit, own.erase)));
    return {
      element,
      update(mapping) {
        own.update(mapping);
        put(cells[0], led(routeOf(mapping).look), h("a", { href: `/mappings/${mapping.id}` }, mapping.name));
        say(cells[1], publicUrl(mapping));
        say(cells[2], internalUrl(mapping));
        cells.slice(0, 3).forEach((cell) => (cell.title = cell.textContent));
        put(cells[3], h("div", { class: "badges" }, badges(mapping)));
        put(cells[4], time(mapping.lastRequestAt, "ago", "never"));
      },
    };
  }

  // Reads under way: news that come meanwhile may be newer than what is being read.
  let reading = 0;

  async function load() {
    reading++;
    try {
      all = await get("/mappings", signal);
      paint();
    } catch (error) {
      wait.hidden = true;
      if (all === null) failed("Failed to load mappings", error);
    } finally {
      reading--;
    }
  }

  search.addEventListener("input", paint);
  const reload = calmly(300, load, signal);
  on("MappingsChanged", reload, signal);
  on("open", load, signal);
  onConnection(reload, signal);
  on("MappingStatusUpdate", (detail) => {
    if (reading > 0) reload();
    const found = all?.find((mapping) => mapping.id === detail.mappingId);
    if (!found) return;
    swap({
      ...found,
      routeState: detail.routeState ?? found.routeState,
      routeError: detail.routeError ?? null,
      lastRequestAt: detail.lastRequestAt ?? found.lastRequestAt,
    });
  }, signal);
  const repaint = calmly(1000, paint, signal);
  on("RequestLogged", (detail) => {
    const found = all?.find((mapping) => mapping.id === detail.mappingId);
    if (!found) return;
    found.lastRequestAt = detail.timestamp;
    repaint();
  }, signal);

  paint();
  load();
  return {
    title: "Port Mappings",
    element: frame(
      { title: "Port Mappings", about: "Which public name leads to which service in your network", actions: h("a", { class: "button primary", href: "/mappings/new" }, icon("plus", 15), "New Mapping") },
      h("div", { class: "toolbar" }, h("div", { class: "input-with-icon" }, icon("search"), search), choice.element, h("div", { class: "toolbar-end view-switch", role: "group", "aria-label": "View" }, views)),
      wait,
      cards,
      list,
      empty,
      summary,
    ),
  };
}
