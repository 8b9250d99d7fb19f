// The Gateway: which version runs there, how well it is reached, what it and Caddy say.

import { get } from "../api.js";
import { calmly, every, h, press, put, say } from "../dom.js";
import { on } from "../events.js";
import { millis, span, time } from "../format.js";
import { current, grown, onConnection, onStatus } from "../live.js";
import { spark } from "../parts/chart.js";
import { actions, badge, fact, frame, led, panel, quiet, row, table } from "../parts/layout.js";
import { logView } from "../parts/logview.js";
import { connectionStrip } from "../parts/strip.js";
import { stateOf, updateGateway } from "../shell.js";
import { CADDY_STATES } from "./caddy.js";

export function page({ signal }) {
  return {
    title: "Gateway",
    element: frame(
      { title: "Gateway", about: "The public end of the tunnel" },
      h("div", { class: "columns wide-left" }, information(signal), h("div", { class: "stack" }, update(signal), caddy(signal))),
      connectionStrip(signal).element,
      logView({ title: "Gateway Logs", path: "/gateway/logs", event: "GatewayLog", name: "octoporty-gateway" }, signal).element,
    ),
  };
}

function information(signal) {
  const version = h("span", {});
  const state = h("span", {});
  const up = h("span", {});
  const rtt = h("span", {});
  const links = h("span", {});
  const line = spark("Round trip", "s1", millis);
  const urls = h("tbody", {});
  const list = table("Gateways", ["Address", "State", "Last fault"], urls);
  // What is away may be down.
  const tick = () => say(up, span(current()?.connectionStatus === "Connected" ? grown(current().gatewayUptime) : null));
  onStatus((status) => {
    const { led: look, label } = stateOf(status.connectionStatus);
    say(version, status.gatewayVersion ? `v${status.gatewayVersion}` : "Unknown");
    put(state, led(look), label);
    say(rtt, millis(status.rttMs));
    say(links, String(status.links ?? 0));
    if (typeof status.rttMs === "number") line.push(status.rttMs);
    const many = status.gatewayUrls ?? [];
    list.hidden = many.length === 0;
    put(urls, many.map((one) => row(one.url, [led(stateOf(one.state).led), stateOf(one.state).label], h("td", { class: "wrap" }, one.lastError ?? "–"))));
    tick();
  }, signal);
  every(1_000, tick, signal);
  return panel(
    "Gateway Information",
    null,
    h("div", { class: "facts grid" },
      fact("Gateway Version", version), fact("Connection Status", state), fact("Gateway Uptime", up), fact("Links", links),
      fact("Round Trip", rtt, line.element), fact("Reverse Proxy", h("a", { href: "/gateway/caddy-config" }, "View Caddy Config"))),
    list,
  );
}

const UPDATES = {
  none: ["off", "No update was asked for."],
  queued: ["warn", "An update waits for the Gateway's machine."],
  running: ["warn", "The Gateway is being updated."],
  succeeded: ["good", "The last update succeeded."],
  failed: ["bad", "The last update failed."],
  "rolled-back": ["bad", "The last update was taken back."],
};

function update(signal) {
  const words = h("p", {});
  const outcome = h("div", { class: "facts" });
  const button = press("primary", {}, "Update Gateway");
  button.addEventListener("click", async () => (await updateGateway(button)) && load());
  onStatus((status) => {
    const available = Boolean(status.gatewayUpdateAvailable);
    button.hidden = !available;
    const theirs = status.gatewayVersion ? `v${status.gatewayVersion}` : "an unknown version";
    say(words, available ? `The Gateway runs ${theirs}, the Agent v${status.version}.` : status.gatewayVersion ? `The Gateway is up to date (${theirs}).` : "The Gateway's version is not known yet.");
  }, signal);

  function show(report) {
    const state = report.state ?? "none";
    const [look, text] = UPDATES[state] ?? ["off", state];
    if (state === "none") return put(outcome);
    put(
      outcome,
      h("div", { class: "state-row" }, badge(look, state.toUpperCase()), text),
      report.message && h("p", { class: look === "bad" ? "problem" : "quiet" }, report.message),
      report.targetVersion && fact("Version", `${report.fromVersion ? `v${report.fromVersion} → ` : ""}v${report.targetVersion}`),
      report.at && fact("When", time(report.at, "ago")),
    );
  }
  const load = () => get("/gateway/update", signal).then(show, (error) => error.name !== "AbortError" && put(outcome, quiet(`What became of the last update is not known: ${error.message}`)));
  on("UpdateOutcome", (detail) => show(detail), signal);
  load();
  return panel("Update", null, words, outcome, actions(button));
}

function caddy(signal) {
  const place = h("div", { class: "facts" });
  async function load() {
    try {
      const report = await get("/gateway/caddy", signal);
      if (!report.success) return put(place, quiet(report.error));
      const [look, words] = CADDY_STATES[report.state] ?? ["off", report.state];
      put(
        place,
        fact("State", led(look), words),
        fact("Mode", report.mode),
        fact("Our routes", String(report.ownRoutes?.length ?? 0)),
        report.lastError && h("p", { class: "problem" }, report.lastError),
      );
    } catch (error) {
      if (error.name !== "AbortError") put(place, quiet(error.message));
    }
  }
  load();
  every(15_000, load, signal);
  const reload = calmly(500, load, signal);
  on("MappingsChanged", reload, signal);
  on("MappingStatusUpdate", reload, signal);
  onConnection(load, signal);
  return panel("Caddy", h("a", { class: "more-link", href: "/gateway/caddy-config" }, "Configuration"), place);
}
