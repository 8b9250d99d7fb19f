// The first page: is the tunnel open, what goes through it, and the usual next steps.

import { get, post } from "../api.js";
import { calmly, every, h, keyed, mark, press, put, say } from "../dom.js";
import { on, onReturn } from "../events.js";
import { bytes, count, millis, setTime, short, time, uptime } from "../format.js";
import { current, grown, onConnection, onStatus } from "../live.js";
import { spark } from "../parts/chart.js";
import { busy } from "../parts/dialog.js";
import { firstRun } from "../parts/firstrun.js";
import { icon } from "../parts/icon.js";
import { actions, fact, frame, led, panel, quiet } from "../parts/layout.js";
import { routeOf } from "../parts/mapping.js";
import { connectionStrip, host } from "../parts/strip.js";
import { failed, toast } from "../parts/toast.js";
import { trafficPanel } from "../parts/traffic.js";
import { stateOf } from "../shell.js";

const SHOWN = 4;

export async function reconnect(button) {
  try {
    await busy(button, "Reconnecting…", () => post("/reconnect"));
    // It may be there before the answer is.
    if (current()?.connectionStatus !== "Connected") toast("info", "Reconnecting", "The Agent dials the Gateway anew.", { key: "connection" });
  } catch (error) {
    failed("Reconnect failed", error);
  }
}

export function page({ signal }) {
  const traffic = trafficPanel({}, signal);
  const mappings = activeMappings(signal);
  return {
    title: "Control Panel",
    element: frame(
      { title: "Control Panel", about: "System status and tunnel overview" },
      mappings.welcome,
      h("div", { class: "columns wide-left even" }, h("div", { class: "stack" }, connectionPanel(signal), quickActions(signal)), mappings.element),
      nowTiles(signal),
      traffic.element,
      connectionStrip(signal).element,
      footer(signal),
    ),
  };
}

function connectionPanel(signal) {
  const light = led("off", "large");
  const label = h("span", { class: "state-label" });
  const badge = h("span", { class: "badge" });
  const name = h("p", { class: "gateway-name" });
  const up = quiet();
  const flow = h("div", { class: "data-flow", "aria-hidden": "true" }, h("span", {}));
  const again = press("", {}, icon("refresh", 15), "Reconnect");
  again.addEventListener("click", () => reconnect(again));
  const lost = quiet("Last Connected: ");
  const lastConnected = time(null);
  lost.append(lastConnected);
  const fault = h("p", { class: "problem" });
  const facts = h("div", { class: "facts inline" });

  const tick = () => {
    const status = current();
    if (status?.connectionStatus === "Connected") say(up, `uptime: ${uptime(grown(status.uptimeSeconds) ?? 0)}`);
  };
  onStatus((status, before) => {
    const state = stateOf(status.connectionStatus);
    const connected = status.connectionStatus === "Connected";
    mark(light, "class", `led large ${state.led}`);
    say(label, state.label);
    say(badge, state.text);
    mark(badge, "class", `badge ${state.led.replace("led-", "tone-")}`);
    say(name, host(status.gatewayUrl));
    flow.hidden = up.hidden = facts.hidden = !connected;
    again.hidden = lost.hidden = connected;
    setTime(lastConnected, status.lastConnected, "full", "never");
    say(fault, connected ? "" : (status.lastError ?? ""));
    put(facts, fact("Round trip", millis(status.rttMs)), fact("Links", String(status.links ?? 0)), fact("Gateway", status.gatewayVersion ? `v${status.gatewayVersion}` : "unknown"));
    tick();
    if (before && before !== status && before.connectionStatus !== status.connectionStatus) {
      if (connected) toast("success", "Connected", "The tunnel is open.", { key: "connection" });
      else if (before.connectionStatus === "Connected") toast("warning", "Disconnected", status.lastError ?? "The tunnel is not open.", { key: "connection" });
    }
  }, signal);
  every(1_000, tick, signal);
  return panel(
    "Connection",
    badge,
    h("div", { class: "connection-state" }, light, label),
    name,
    up,
    flow,
    facts,
    fault,
    actions(again, lost),
  );
}

function quickActions(signal) {
  const force = h("button", { class: "action" }, icon("refresh"), h("span", {}, "Force Reconnect"));
  force.addEventListener("click", () => reconnect(force));
  onStatus((status) => mark(force, "disabled", status.connectionStatus === "Connected"), signal);
  const way = (href, picture, text) => h("a", { class: "action", href }, icon(picture), h("span", {}, text));
  return panel(
    "Quick Actions",
    null,
    h("div", { class: "quick" }, way("/mappings/new", "plus", "Create New Mapping"), way("/mappings", "mappings", "View All Mappings"), way("/requests", "requests", "Watch Requests"), force),
  );
}

/** What goes through right now, from the live measurements. */
function nowTiles(signal) {
  const tile = (label, look, format) => {
    const value = h("span", { class: "tile-value" }, "–");
    const line = spark(label, look, format);
    return {
      element: h("div", { class: "tile" }, h("h3", { class: "label" }, label), value, line.element),
      set(n) {
        say(value, format(n));
        line.push(n);
      },
    };
  };
  const rate = (n) => `${bytes(n)}/s`;
  const tiles = {
    requests: tile("Requests / s", "s1", short),
    out: tile("To visitors", "s1", rate),
    into: tile("From visitors", "s3", rate),
    active: tile("Active now", "s1", count),
    slow: tile("p95 now", "s5", millis),
  };
  let last = 0;
  on("Traffic", (detail) => {
    const seconds = detail.seconds > 0 ? detail.seconds : 1;
    tiles.requests.set(detail.requests / seconds);
    tiles.out.set(detail.bytesOut / seconds);
    tiles.into.set(detail.bytesIn / seconds);
    tiles.active.set(detail.active ?? 0);
    if (detail.p95Ms !== null && detail.p95Ms !== undefined) last = detail.p95Ms;
    tiles.slow.set(detail.p95Ms ?? last);
  }, signal);
  return h("section", { class: "tiles", "aria-label": "Right now" }, Object.values(tiles).map(({ element }) => element));
}

function activeMappings(signal) {
  let all = null;
  let guide = null;
  const list = h("ul", { class: "rows" });
  const rest = h("a", { href: "/mappings", class: "more-link" });
  const empty = h("div", { class: "empty small", hidden: true }, h("p", {}, "No active mappings"), quiet("Create one to give a service a public address."));
  const welcome = h("div", {});
  const paintRows = keyed(list, (mapping) => mapping.id, () => {
    const light = h("span", {});
    const name = h("span", { class: "row-name" });
    const domain = h("span", { class: "data quiet" });
    const link = h("a", { class: "row group" }, light, h("span", { class: "row-text" }, name, domain), icon("right", 16));
    return {
      element: h("li", {}, link),
      update(mapping) {
        put(light, led(routeOf(mapping).look));
        mark(link, "href", `/mappings/${mapping.id}`);
        mark(link, "title", routeOf(mapping).text);
        say(name, mapping.name);
        say(domain, mapping.externalDomain);
      },
    };
  });

  function paint() {
    const active = all.filter((mapping) => mapping.enabled);
    paintRows(active.slice(0, SHOWN));
    rest.hidden = active.length <= SHOWN;
    say(rest, `View all ${active.length} mappings`);
    empty.hidden = active.length > 0;
    if (all.length === 0 && guide === null) {
      guide = firstRun(signal, () => {
        guide = null;
        put(welcome);
      });
      put(welcome, guide.element);
    } else if (all.length > 0 && guide !== null && !guide.busy()) {
      guide = null;
      put(welcome);
    }
  }

  async function load() {
    try {
      all = await get("/mappings", signal);
      paint();
    } catch (error) {
      // Later on, that the Agent is away is said at the top.
      if (all === null) failed("Failed to load mappings", error);
    }
  }
  const reload = calmly(300, load, signal);
  on("MappingsChanged", reload, signal);
  on("MappingStatusUpdate", reload, signal);
  onReturn(load, signal);
  onConnection(reload, signal);
  load();
  return {
    welcome,
    element: panel("Active Mappings", null, list, empty, rest),
  };
}

function footer(signal) {
  const attempts = h("span", {});
  const lost = time(null);
  const lostText = h("span", {}, "Last Disconnected: ", lost);
  const dropped = h("span", {});
  onStatus((status) => {
    say(attempts, `Reconnect Attempts: ${status.reconnectAttempts ?? 0}`);
    lostText.hidden = !status.lastDisconnected;
    setTime(lost, status.lastDisconnected);
    dropped.hidden = !status.droppedRequests;
    say(dropped, `Not recorded: ${count(status.droppedRequests ?? 0)}`);
  }, signal);
  return h("div", { class: "foot-strip" }, attempts, lostText, dropped, h("span", { class: "grow" }), h("span", {}, "OCTOPORTY AGENT CONTROL INTERFACE"));
}
