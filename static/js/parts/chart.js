// Charts over time, drawn as SVG. Lines differ by dashes and bars by hatching, so that colour is never needed; the same
// numbers are in the tooltip (pointer or arrow keys) and in a table below.

import { fresh, h, mark, put, s } from "../dom.js";
import { dateText, utc } from "../format.js";

const HEIGHT = 170;
const RIGHT = 10;
const TOP = 10;
const BOTTOM = 24;

/** Round numbers from 0 to at least `most`: three or four steps. */
export function ticks(most) {
  if (!(most > 0)) return [0, 1];
  const raw = most / 3;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((candidate) => candidate >= raw * 0.999);
  const out = [0];
  while (out.at(-1) < most * 0.999) out.push(Number((out.at(-1) + step).toPrecision(12)));
  return out;
}

/**
 * @param {{title: string, format: (n: number) => string, stacked?: boolean, wide?: boolean,
 *   series: Array<{label: string, look: string, of: (bucket: object, seconds: number) => number|null}>}} spec
 *   `look` is a class: `s1`...`s6`
 */
export function chart({ title, format, series, stacked = false }) {
  const name = fresh("chart");
  const svg = s("svg", { class: "plot", role: "img", tabindex: "0", height: HEIGHT, "aria-label": title });
  const tip = h("div", { class: "chart-tip", "aria-live": "polite", hidden: true });
  const table = h("div", { class: "chart-table" });
  const details = h("details", { class: "chart-details" }, h("summary", {}, "Show as table"), table);
  const element = h(
    "figure",
    { class: "chart" },
    h("figcaption", {}, h("h3", { class: "label" }, title), h("div", { class: "legend" }, series.map(legend))),
    h("div", { class: "plot-frame" }, svg, tip),
    details,
  );
  let data = null;
  let at = null;
  let left = 50;

  function legend({ label, look }) {
    const sample = stacked
      ? s("rect", { class: `bar ${look}`, width: 14, height: 10, fill: `url(#${name}-${look})` })
      : s("line", { class: `line ${look}`, x1: 0, y1: 5, x2: 22, y2: 5 });
    const width = stacked ? 14 : 22;
    return h(
      "span",
      { class: "legend-entry" },
      s("svg", { width, height: 10, viewBox: `0 0 ${width} 10`, "aria-hidden": "true" }, sample),
      label,
    );
  }

  const values = (bucket) => series.map(({ of }) => of(bucket, data.bucketSeconds));
  const sum = (list) => list.reduce((total, value) => total + (value ?? 0), 0);

  function draw(traffic) {
    data = traffic;
    paint();
    if (details.open) fillTable();
  }

  function paint() {
    const width = svg.parentElement.clientWidth;
    if (data === null || width === 0) return;
    const rows = data.buckets.map(values);
    const most = Math.max(0, ...rows.map((row) => (stacked ? sum(row) : Math.max(0, ...row.map((v) => v ?? 0)))));
    const scale = ticks(most);
    left = 16 + 6.1 * Math.max(...scale.map((value) => format(value).length));
    const high = HEIGHT - TOP - BOTTOM;
    const y = (value) => TOP + high - (value / scale.at(-1)) * high;
    const slot = (width - left - RIGHT) / Math.max(1, rows.length);
    const x = (i) => left + (i + 0.5) * slot;
    mark(svg, "viewBox", `0 0 ${width} ${HEIGHT}`);
    mark(svg, "aria-label", summary(rows));
    put(
      svg,
      stacked && s("defs", {}, series.map(({ look }) => hatch(`${name}-${look}`, look))),
      scale.map((value) => [
        s("line", { class: "gridline", x1: left, x2: width - RIGHT, y1: y(value), y2: y(value) }),
        s("text", { class: "axis", x: left - 8, y: y(value) + 3.5, "text-anchor": "end" }, format(value)),
      ]),
      labels(width, slot).map(([i, text]) =>
        s("text", { class: "axis", x: x(i), y: HEIGHT - 6, "text-anchor": "middle" }, text),
      ),
      stacked ? bars(rows, x, y, slot) : series.map((one, i) => line(one, rows.map((row) => row[i]), x, y)),
      s("line", { class: "cursor", y1: TOP, y2: TOP + high, x1: -9, x2: -9 }),
    );
    if (at !== null) point(Math.min(at, rows.length - 1));
  }

  function bars(rows, x, y, slot) {
    const wide = Math.max(1, slot - (slot > 5 ? 2 : 0.5));
    return rows.map((row, i) => {
      let base = 0;
      return row.map((value, k) => {
        if (!value) return null;
        const [from, to] = [y(base), y((base += value))];
        const look = series[k].look;
        return s("rect", {
          class: `bar ${look}`, x: x(i) - wide / 2, width: wide, y: to, height: Math.max(0.5, from - to),
          fill: `url(#${name}-${look})`,
        });
      });
    });
  }

  function line({ look }, list, x, y) {
    let [path, area, start] = ["", "", null];
    list.forEach((value, i) => {
      if (value === null) {
        start = null;
        return;
      }
      const alone = (i === 0 || list[i - 1] === null) && (i === list.length - 1 || list[i + 1] === null);
      path += `${start === null ? "M" : "L"}${x(i).toFixed(1)} ${y(value).toFixed(1)}${alone ? "m-2 0h4" : ""}`;
      if (start === null) area += `M${x(i).toFixed(1)} ${y(0)}`;
      area += `L${x(i).toFixed(1)} ${y(value).toFixed(1)}`;
      if (i === list.length - 1 || list[i + 1] === null) area += `L${x(i).toFixed(1)} ${y(0)}z`;
      start = i;
    });
    return [s("path", { class: `area ${look}`, d: area }), s("path", { class: `line ${look}`, d: path })];
  }

  /** Times along the lower edge, as many as fit without touching. */
  function labels(width, slot) {
    const step = Math.ceil(data.buckets.length / Math.max(2, Math.floor((width - left) / 90)));
    const out = [];
    for (let i = Math.floor(step / 2); i < data.buckets.length; i += step) out.push([i, when(data.buckets[i], true)]);
    return slot > 0 ? out : [];
  }

  function when(bucket, brief) {
    const date = new Date(bucket.time);
    if (data.bucketSeconds >= 86_400) return dateText(date, "date").slice(brief ? 5 : 0);
    return brief ? dateText(date, "minute") : dateText(date, "full").slice(0, 16);
  }

  function summary(rows) {
    const parts = series.map(({ label }, i) => {
      const list = rows.map((row) => row[i]).filter((value) => value !== null);
      if (list.length === 0) return `${label}: nothing`;
      return `${label}: last ${format(list.at(-1))}, highest ${format(Math.max(...list))}`;
    });
    return `${title}. ${parts.join("; ")}. Arrow keys read single values.`;
  }

  function point(i) {
    at = i;
    const bucket = data?.buckets[i];
    const cursor = svg.querySelector(".cursor");
    if (!bucket || !cursor) return hide();
    const width = svg.parentElement.clientWidth;
    const x = left + (i + 0.5) * ((width - left - RIGHT) / data.buckets.length);
    mark(cursor, "x1", x);
    mark(cursor, "x2", x);
    const row = values(bucket);
    put(
      tip,
      h("time", { datetime: bucket.time }, when(bucket, false), h("small", {}, utc(new Date(bucket.time)))),
      series.map(({ label }, k) =>
        h("div", {}, h("span", {}, label), h("b", {}, row[k] === null ? "–" : format(row[k]))),
      ),
    );
    tip.hidden = false;
    const half = tip.offsetWidth / 2;
    tip.style.left = `${Math.min(Math.max(x, half), width - half)}px`;
  }

  function hide() {
    at = null;
    tip.hidden = true;
    const cursor = svg.querySelector(".cursor");
    if (cursor) mark(cursor, "x1", -9), mark(cursor, "x2", -9);
  }

  svg.addEventListener("pointermove", (event) => {
    if (data === null) return;
    const box = svg.getBoundingClientRect();
    const share = (event.clientX - box.left - left) / (box.width - left - RIGHT);
    point(Math.min(data.buckets.length - 1, Math.max(0, Math.floor(share * data.buckets.length))));
  });
  svg.addEventListener("pointerleave", () => document.activeElement !== svg && hide());
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    if (data === null) return;
    const end = data.buckets.length - 1;
    const next = { ArrowLeft: (at ?? end + 1) - 1, ArrowRight: (at ?? -1) + 1, Home: 0, End: end }[event.key];
    if (event.key === "Escape") hide();
    if (next === undefined) return;
    event.preventDefault();
    point(Math.min(end, Math.max(0, next)));
  });
  details.addEventListener("toggle", () => details.open && fillTable());
  new ResizeObserver(paint).observe(svg.parentElement);

  function fillTable() {
    if (data === null) return;
    put(
      table,
      h(
        "table",
        {},
        h("caption", { class: "hidden" }, title),
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Time"), series.map(({ label }) => h("th", { scope: "col" }, label)))),
        h(
          "tbody",
          {},
          [...data.buckets].reverse().map((bucket) =>
            h(
              "tr",
              {},
              h("th", { scope: "row", title: utc(new Date(bucket.time)) }, when(bucket, false)),
              values(bucket).map((value) => h("td", {}, value === null ? "–" : format(value))),
            ),
          ),
        ),
      ),
    );
  }

  return { element, draw };
}

const HATCHES = {
  s1: "",
  s2: "M-1 3h8",
  s3: "M3 -1v8",
  s4: "M-1 7L7 -1M-1 1L1 -1M5 7L7 5",
  s5: "M-1 -1L7 7M-1 7L7 -1",
  s6: "M1 1h1v1h-1zM4 4h1v1h-1z",
};

const hatch = (id, look) =>
  s(
    "pattern",
    { id, width: 6, height: 6, patternUnits: "userSpaceOnUse" },
    s("rect", { class: `hatch-ground ${look}`, width: 6, height: 6 }),
    s("path", { class: "hatch-line", d: HATCHES[look] }),
  );

/** A small line without axes: the last values of something. */
export function spark(label, look, format, most = 60) {
  const list = [];
  const path = s("path", { class: `line ${look}` });
  const area = s("path", { class: `area ${look}` });
  const svg = s("svg", { class: "spark", viewBox: "0 0 120 32", preserveAspectRatio: "none", role: "img" }, area, path);
  const self = {
    element: svg,
    push(value) {
      list.push(value);
      if (list.length > most) list.shift();
      if (list.length < 2) return;
      const top = Math.max(...list, 1e-9) * 1.1;
      const points = list.map((v, i) => `${(120 - (list.length - 1 - i) * (120 / (most - 1))).toFixed(1)} ${(31 - (v / top) * 30).toFixed(1)}`);
      mark(path, "d", `M${points.join("L")}`);
      mark(area, "d", `M${points[0].split(" ")[0]} 32L${points.join("L")}L120 32z`);
      mark(svg, "aria-label", `${label}: now ${format(value)}, highest ${format(Math.max(...list))}`);
    },
  };
  mark(svg, "aria-label", label);
  return self;
}
