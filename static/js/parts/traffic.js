// The traffic panel: four charts of the last hour, day or month, for everything or for one mapping.

import { get, query } from "../api.js";
import { every, h, put, say } from "../dom.js";
import { bytes, count, many, millis, short } from "../format.js";
import { keep, kept } from "../kept.js";
import { chart } from "./chart.js";
import { pills } from "./field.js";
import { alarm, panel, quiet } from "./layout.js";

const EVERY_MS = { hour: 10_000, day: 60_000, month: 300_000 };
const KEY = "octoporty_range";

/** @param {{mapping?: string, onData?: (traffic: object) => void}} options */
export function trafficPanel({ mapping = null, onData = () => {} }, signal) {
  const perSecond = (key) => (bucket, seconds) => bucket[key] / seconds;
  const rate = (n) => `${bytes(n)}/s`;
  const charts = [
    chart({
      title: "Requests per second",
      format: short,
      series: [{ label: "Requests", look: "s1", of: perSecond("requests") }],
    }),
    chart({
      title: "Answers by status",
      format: count,
      stacked: true,
      series: [
        { label: "2xx", look: "s1", of: (b) => b.status2xx },
        { label: "3xx", look: "s2", of: (b) => b.status3xx },
        { label: "4xx", look: "s4", of: (b) => b.status4xx },
        { label: "5xx", look: "s5", of: (b) => b.status5xx },
        { label: "No answer", look: "s6", of: (b) => b.failed },
      ],
    }),
    chart({
      title: "Bytes per second",
      format: rate,
      series: [
        { label: "To visitors", look: "s1", of: perSecond("bytesOut") },
        { label: "From visitors", look: "s3", of: perSecond("bytesIn") },
      ],
    }),
    chart({
      title: "Time to answer",
      format: millis,
      series: [
        { label: "p50: half are faster", look: "s1", of: (b) => (b.requests ? b.p50Ms : null) },
        { label: "p95", look: "s5", of: (b) => (b.requests ? b.p95Ms : null) },
      ],
    }),
  ];
  let range = kept(KEY) in EVERY_MS ? kept(KEY) : "hour";
  let turn = 0;
  const totals = quiet();
  const problem = alarm();
  const choice = pills("Time range", [["hour", "Hour"], ["day", "Day"], ["month", "Month"]], range, (value) => {
    range = value;
    keep(KEY, value);
    load();
  });
  const element = panel("Traffic", [totals, choice.element], problem, h("div", { class: "charts" }, charts.map(({ element: figure }) => figure)));

  async function load() {
    const mine = ++turn;
    try {
      const traffic = await get(`/traffic${query({ range, mapping })}`, signal);
      if (mine !== turn) return;
      put(problem);
      for (const one of charts) one.draw(traffic);
      const { requests, bytesIn, bytesOut, failed } = traffic.totals;
      say(totals, `${many(requests, "request")}, ${bytes(bytesOut)} out, ${bytes(bytesIn)} in, ${count(failed)} without answer`);
      onData(traffic);
    } catch (error) {
      if (mine === turn && error.name !== "AbortError") say(problem, `The traffic cannot be shown: ${error.message}`);
    }
  }

  load();
  let last = performance.now();
  every(5_000, () => {
    if (performance.now() - last < EVERY_MS[range]) return;
    last = performance.now();
    load();
  }, signal);
  return { element, load };
}
