// One mapping: its form, and beside it how it is doing. A new one is the form alone, with a test of the target.

import { ApiError, get, post, put as replace } from "../api.js";
import { calmly, h, press, put, redraw, say } from "../dom.js";
import { on, onReturn } from "../events.js";
import { count, millis, time } from "../format.js";
import { onConnection } from "../live.js";
import { busy } from "../parts/dialog.js";
import { icon } from "../parts/icon.js";
import { addressActions, certificateBadge, certificateFacts, deleteMapping, internalUrl, publicUrl, routeBadge, routeOf } from "../parts/mapping.js";
import { crumbs, fact, frame, loader, panel, quiet, row, table } from "../parts/layout.js";
import { mappingForm } from "../parts/mappingform.js";
import { failed, toast } from "../parts/toast.js";
import { trafficPanel } from "../parts/traffic.js";
import { go, guardEdits, retitle } from "../router.js";

export function page({ params, signal }) {
  return params.id === "new" ? create(signal) : detail(params.id, signal);
}

const way = (name) => crumbs("/mappings", "Mappings", name);

function create(signal) {
  const form = mappingForm({
    submit: "Create Mapping",
    save: (values) => post("/mappings", values),
    saved: (mapping) => {
      toast("success", "Mapping created", routeOf(mapping).text);
      go(`/mappings/${mapping.id}`, { force: true });
    },
  });
  guardEdits(form.dirty, signal);
  return {
    title: "Create Mapping",
    element: frame({ title: "Create Mapping", about: "Give a service in your network a public address", above: way("New Mapping") }, form.element),
  };
}

function detail(id, signal) {
  let mapping = null;
  const crumb = h("div", {});
  const wait = loader();
  const body = h("div", { class: "columns", hidden: true });
  const lower = h("div", { class: "stack", hidden: true });
  const changed = h("div", { class: "notice notice-cyan", role: "status", hidden: true });
  const side = {
    address: h("div", { class: "panel-body" }),
    route: h("div", { class: "state-row" }),
    certificate: h("div", { class: "facts" }),
    certificateBadge: h("span", {}),
    info: h("div", { class: "facts" }),
    flow: h("div", { class: "terminal flow-drawing" }),
  };
  const form = mappingForm({
    submit: "Update Mapping",
    save: (values) => replace(`/mappings/${id}`, values),
    saved: (now) => {
      toast("success", "Mapping updated", routeOf(now).text);
      take(now);
    },
    extra: press("danger", { onclick: erase }, icon("trash", 15), "Delete Mapping"),
  });
  guardEdits(form.dirty, signal);

  async function erase() {
    if (await deleteMapping(mapping)) go("/mappings", { force: true });
  }

  function take(next) {
    mapping = next;
    form.fill(mapping);
    changed.hidden = true;
    paint();
  }

  function paint() {
    retitle(mapping.name);
    redraw(crumb, mapping.name, () => way(mapping.name));
    const route = routeOf(mapping);
    redraw(side.address, mapping.externalDomain, () => [h("p", { class: "data address" }, publicUrl(mapping)), addressActions(mapping)]);
    put(side.route, routeBadge(mapping), h("span", { class: route.look === "bad" ? "problem" : "quiet" }, route.text));
    put(side.certificateBadge, certificateBadge(mapping.certificate));
    certificateFacts(side.certificate, mapping.certificate);
    put(
      side.info,
      fact("ID", mapping.id),
      fact("Created", time(mapping.createdAt)),
      fact("Last Updated", time(mapping.updatedAt)),
      fact("Last Request", time(mapping.lastRequestAt, "ago")),
      fact("Status", mapping.enabled ? "Active" : "Disabled"),
    );
    put(
      side.flow,
      h("div", {}, h("span", { class: "log-info" }, "External "), publicUrl(mapping)),
      h("div", { class: "flow-via" }, "   │  via tunnel"),
      h("div", { class: "flow-via" }, "   ▼"),
      h("div", {}, h("span", { class: "log-info" }, "Internal "), internalUrl(mapping)),
    );
  }

  // Reads under way: news that come meanwhile may be newer than what is being read.
  let reading = 0;

  async function load() {
    reading++;
    try {
      const next = await get(`/mappings/${id}`, signal);
      if (mapping === null) {
        take(next);
        wait.hidden = true;
        body.hidden = lower.hidden = false;
        lower.append(trafficPanel({ mapping: id }, signal).element, recent.element);
        recent.load();
        look(false);
        return;
      }
      const theirs = next.updatedAt !== mapping.updatedAt;
      if (!form.dirty()) return take(next);
      mapping = { ...mapping, routeState: next.routeState, routeError: next.routeError, lastRequestAt: next.lastRequestAt };
      paint();
      if (theirs) {
        // Edits are not thrown away because somebody else saved.
        put(changed, icon("info"), h("div", {}, "This mapping was changed elsewhere while you were editing it."), press("small", { onclick: () => take(next) }, "Load the new values"));
        changed.hidden = false;
      }
    } catch (error) {
      if (ApiError.gone(error)) return;
      if (error.status === 404) {
        toast("error", "Mapping not found", mapping === null ? error.message : "It has been deleted.");
        return go("/mappings", { replace: true, force: true });
      }
      if (mapping === null) failed("Failed to load the mapping", error);
    } finally {
      reading--;
    }
  }

  /** Looks at the certificate as the Gateway sees it. */
  async function look(fresh) {
    try {
      const certificate = await get(`/mappings/${id}/certificate${fresh ? "?fresh=true" : ""}`, signal);
      mapping = { ...mapping, certificate };
      paint();
    } catch (error) {
      if (fresh) failed("The certificate cannot be looked at", error);
    }
  }

  const check = press("small", {}, "Check now");
  check.addEventListener("click", () => busy(check, "Checking…", () => look(true)));
  const recent = recentRequests(id, signal);

  body.append(
    form.element,
    h(
      "div",
      { class: "stack" },
      panel("Public Address", null, side.address, side.route),
      panel("Certificate", [side.certificateBadge, check], side.certificate),
      panel("Mapping Info", null, side.info),
      panel("Connection Flow", null, side.flow),
    ),
  );

  const reload = calmly(300, load, signal);
  on("MappingsChanged", ({ ids }) => (!ids || ids.includes(id)) && reload(), signal);
  onReturn(load, signal);
  on("MappingStatusUpdate", (news) => {
    if (news.mappingId !== id) return;
    if (reading > 0) reload();
    if (mapping === null) return;
    mapping = { ...mapping, routeState: news.routeState ?? mapping.routeState, routeError: news.routeError ?? null, lastRequestAt: news.lastRequestAt ?? mapping.lastRequestAt };
    paint();
  }, signal);
  onConnection(reload, signal);
  const repaint = calmly(500, paint, signal);
  on("RequestLogged", (request) => {
    if (mapping === null || request.mappingId !== id) return;
    mapping.lastRequestAt = request.timestamp;
    repaint();
    recent.add(request);
  }, signal);
  load();
  return {
    title: "Edit Mapping",
    element: frame({ title: "Edit Mapping", above: crumb }, changed, wait, body, lower),
  };
}

const RECENT = 8;

/** The last requests of one mapping. */
function recentRequests(id, signal) {
  let items = [];
  const rows = h("tbody", {});
  const empty = quiet("No request yet.");
  const paint = calmly(250, () => {
    empty.hidden = items.length > 0;
    put(rows, items.map((item) => row(time(item.timestamp, "near"), item.method, h("td", { class: "cut" }, item.path), String(item.statusCode || "–"), millis(item.durationMs))));
    say(total, items.length === 0 ? "" : `the last ${count(items.length)}`);
  }, signal);
  const total = h("span", { class: "quiet" });
  const element = panel("Recent Requests", [total, h("a", { href: `/requests?mapping=${id}` }, "View all")], empty, table("recent requests", ["Time", "Method", "Path", "Status", "Took"], rows));
  return {
    element,
    add(item) {
      items = [item, ...items].slice(0, RECENT);
      paint();
    },
    async load() {
      try {
        ({ items } = await get(`/requests?mapping=${id}&limit=${RECENT}`, signal));
        paint();
      } catch (error) {
        if (!ApiError.gone(error)) say(empty, `The requests cannot be shown: ${error.message}`);
      }
    },
  };
}
