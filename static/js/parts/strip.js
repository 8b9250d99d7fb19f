// The history of the tunnel as a strip: when it was open, when not, and when nobody knows.

import { onConnection } from "../live.js";
import { get } from "../api.js";
import { every, h, mark, put, s, say } from "../dom.js";
import { bytes, dateText, many, span, time, utc } from "../format.js";
import { on } from "../events.js";
import { pills } from "./field.js";
import { alarm, panel, quiet, row, table } from "./layout.js";

const SPANS = { day: 86_400, week: 7 * 86_400 };
const WIDTH = 1000;

/** Spans of one kind put together where they touch or overlap. Sorted by their start. */
export function union(spans) {
  const out = [];
  for (const [from, to] of [...spans].sort((a, b) => a[0] - b[0])) {
    const last = out.at(-1);
    if (last && from <= last[1]) last[1] = Math.max(last[1], to);
    else out.push([from, to]);
  }
  return out;
}

export function connectionStrip(signal) {
  let range = "day";
  let items = [];
  let complete = true;
  const svg = s("svg", { class: "strip", viewBox: `0 0 ${WIDTH} 28`, preserveAspectRatio: "none", role: "img", "aria-label": "Connection history, not read yet" });
  const share = quiet();
  const ends = h("div", { class: "strip-ends" });
  const rows = h("tbody", {});
  const problem = alarm();
  const empty = quiet("No connection has been recorded yet.");
  const all = h("details", { class: "more" }, h("summary", {}, "Every connection"), table("connections", ["Opened", "Lasted", "Gateway", "Sent", "Received", "Ended by"], rows));
  const choice = pills("Time span", [["day", "24 hours"], ["week", "7 days"]], range, (value) => {
    range = value;
    load();
  });
  const element = panel("Connection History", [share, choice.element], problem, svg, ends, empty, all);

  function paint() {
    const now = Date.now();
    const from = now - SPANS[range] * 1000;
    const spans = union(
      items.map((item) => [Date.parse(item.connectedAt), item.disconnectedAt ? Date.parse(item.disconnectedAt) : now]),
    ).filter(([, to]) => to > from);
    // Nothing is known before the first connection that was recorded, nor before those that were read.
    const known = Math.max(from, Math.min(now, ...items.map((item) => Date.parse(item.connectedAt))));
    const x = (at) => ((Math.max(at, from) - from) / (now - from)) * WIDTH;
    const open = spans.reduce((total, [a, b]) => total + b - Math.max(a, from), 0);
    const rest = [];
    let end = known;
    for (const [a, b] of spans) {
      if (a > end) rest.push([end, a]);
      end = Math.max(end, b);
    }
    if (end < now && items.length > 0) rest.push([end, now]);
    const title = (word, [a, b]) =>
      s("title", {}, `${word} ${dateText(new Date(a))} to ${dateText(new Date(b))} (${span((b - a) / 1000)}; from ${utc(new Date(a))})`);
    put(
      svg,
      s("rect", { class: "strip-unknown", x: 0, y: 10, width: WIDTH, height: 8 }),
      spans.map((one) => s("rect", { class: "strip-open", x: x(one[0]), y: 2, width: Math.max(1.5, x(one[1]) - x(one[0])), height: 24 }, title("Open", one))),
      rest.map((one) => s("rect", { class: "strip-away", x: x(one[0]), y: 11, width: Math.max(1.5, x(one[1]) - x(one[0])), height: 6 }, title("Not open", one))),
    );
    const percent = now > known ? (100 * open) / (now - known) : 0;
    const words = items.length === 0 ? "" : `open ${percent >= 99.995 ? "100" : percent.toFixed(2)} % of the time, ${many(rest.length, "gap")}`;
    say(share, words);
    mark(svg, "aria-label", `Connection history of the last ${range === "day" ? "24 hours" : "7 days"}: ${words || "nothing recorded"}`);
    put(ends, h("span", { title: utc(new Date(from)) }, dateText(new Date(from)).slice(0, 16)), h("span", {}, complete ? "" : "older ones are not shown"), h("span", {}, "now"));
    empty.hidden = items.length > 0;
    all.hidden = items.length === 0;
  }

  async function load() {
    try {
      const answer = await get("/connections?limit=500", signal);
      // The earlier program may have left some that began nobody knows when.
      items = answer.items.filter((item) => item.connectedAt);
      complete = answer.next === null || answer.next === undefined || Date.parse(items.at(-1)?.connectedAt) < Date.now() - SPANS[range] * 1000;
      put(problem);
    } catch (error) {
      if (error.name !== "AbortError") say(problem, `The history cannot be shown: ${error.message}`);
      return;
    }
    paint();
    put(
      rows,
      items.slice(0, 100).map((item) =>
        row(
          time(item.connectedAt),
          span(item.durationSeconds ?? (Date.now() - Date.parse(item.connectedAt)) / 1000),
          host(item.gatewayUrl),
          bytes(item.bytesSent),
          bytes(item.bytesReceived),
          item.disconnectedAt ? (item.disconnectReason ?? "") : "still open",
        ),
      ),
    );
  }

  load();
  every(15_000, load, signal);
  onConnection(load, signal);
  on("open", load, signal);
  return { element };
}

/** "gateway.example" of "wss://gateway.example:443/tunnel". */
export function host(url) {
  try {
    return new URL(url).hostname;
  } catch {
    return url ?? "";
  }
}
