// The configuration of Caddy as the Gateway sees it, with the routes that are ours marked.

import { get } from "../api.js";
import { calmly, every, h, mark, press, put, redraw, say } from "../dom.js";
import { on, onReturn } from "../events.js";
import { many, time } from "../format.js";
import { onConnection } from "../live.js";
import { busy } from "../parts/dialog.js";
import { copyButton } from "../parts/copy.js";
import { icon } from "../parts/icon.js";
import { crumbs, fact, frame, led, loader, panel, quiet } from "../parts/layout.js";
import { failed, toast } from "../parts/toast.js";

export const CADDY_STATES = {
  off: ["off", "Not managed"],
  ok: ["good", "All routes are in place"],
  pending: ["warn", "Being brought up to date"],
  unreachable: ["bad", "Caddy does not answer"],
  forbidden: ["bad", "Caddy refuses the Gateway"],
  no_server: ["bad", "Caddy has no HTTP server to put routes in"],
  rejected: ["bad", "Caddy has rejected the configuration"],
};

/** The text in pieces: each route of ours, from its brace to the matching one, is a piece of its own. */
export function pieces(value) {
  const text = JSON.stringify(value, null, 2);
  const lines = text.split("\n");
  const ours = new Array(lines.length).fill(false);
  lines.forEach((line, i) => {
    const found = /^(\s*)"@id": "octoporty-/.exec(line);
    if (!found) return;
    const indent = found[1].length - 2;
    const opens = (l) => l.length - l.trimStart().length === indent && l.trimEnd().endsWith("{");
    const closes = (l) => l.length - l.trimStart().length === indent && l.trimStart().startsWith("}");
    let from = i;
    while (from > 0 && !opens(lines[from])) from--;
    let to = i;
    while (to < lines.length - 1 && !closes(lines[to])) to++;
    ours.fill(true, from, to + 1);
  });
  const out = [];
  lines.forEach((line, i) => {
    const last = out.at(-1);
    // A route begins with its brace; two in a row are two.
    const begins = ours[i] && line.trim() === "{" && i > 0 && lines[i - 1].trim() === "},";
    if (last && last.ours === ours[i] && !begins) last.text += `\n${line}`;
    else out.push({ ours: ours[i], text: line });
  });
  return out;
}

export function page({ signal }) {
  let text = "";
  const state = h("div", { class: "facts" });
  const code = h("div", { class: "json", tabindex: "0", role: "region", "aria-label": "Configuration of Caddy" }, loader());
  const number = h("span", { class: "quiet" });
  const refresh = press("", {}, icon("refresh", 15), "Refresh");
  refresh.addEventListener("click", () => busy(refresh, "Refreshing…", () => load(true)));

  /** `asked`: by somebody who waits for it. */
  async function load(asked) {
    try {
      const [answer, report] = await Promise.all([get("/gateway/caddy-config", signal), get("/gateway/caddy", signal).catch(() => null)]);
      showState(report);
      if (!answer.success) throw new Error(answer.error ?? "there is no answer");
      const value = JSON.parse(answer.configJson);
      text = JSON.stringify(value, null, 2);
      const parts = pieces(value);
      const ours = parts.filter((part) => part.ours).length;
      say(number, ours === 0 ? "no route of ours" : `${many(ours, "route")} of ours, marked`);
      redraw(code, text, () => h("pre", {}, parts.map((part) => (part.ours ? h("span", { class: "json-own" }, h("span", { class: "hidden" }, "Route of Octoporty: "), part.text, "\n") : `${part.text}\n`))));
      mark(copy, "hidden", null);
      if (asked) toast("success", "Config refreshed");
    } catch (error) {
      if (error.name === "AbortError") return;
      say(number, "");
      mark(copy, "hidden", true);
      redraw(code, error.message, () => h("div", { class: "empty" }, icon("warning", 34), h("p", {}, error.message)));
      if (asked) failed("Failed to load config", error);
    }
  }

  function showState(report) {
    if (report === null || report.success === false) return put(state, quiet(report?.error ?? ""));
    const [look, words] = CADDY_STATES[report.state] ?? ["off", report.state];
    put(
      state,
      fact("State", led(look), words),
      fact("Mode", report.mode),
      fact("Admin API", report.adminUrl ?? "–"),
      fact("Last looked", time(report.lastPassAt, "ago", "never")),
      fact("Last written", time(report.lastWriteAt, "ago", "never")),
      report.lastError && h("p", { class: "problem" }, report.lastError),
    );
  }

  const copy = copyButton("Copy", () => text, "");
  mark(copy, "hidden", true);
  load(false);
  const reload = calmly(500, load, signal);
  for (const kind of ["MappingsChanged", "MappingStatusUpdate"]) on(kind, reload, signal);
  onReturn(reload, signal);
  onConnection(reload, signal);
  every(15_000, load, signal);
  return {
    title: "Caddy Configuration",
    element: frame(
      { title: "Caddy Configuration", about: "What the web server in front of the Gateway is told to do", actions: [copy, refresh], above: crumbs("/gateway", "Gateway", "Caddy Configuration") },
      panel("State", null, state),
      panel("JSON Configuration", number, code),
      panel("About Caddy Configuration", null, h("p", {}, "This is the whole configuration that Caddy runs with, read through its admin API; secrets in it are left out. Routes of Octoporty have ids of the form ", h("code", {}, "octoporty-[mapping-id]"), ". The Gateway adds, changes and removes those; everything else is left as it is.")),
    ),
  };
}
