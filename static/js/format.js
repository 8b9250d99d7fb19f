// Numbers, spans and times as people read them. Times are in the browser's zone; UTC is in the tooltip.

import { h, mark, say } from "./dom.js";

const number = new Intl.NumberFormat("en");
const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

export const count = (n) => number.format(n ?? 0);

/** "1 request", "2 requests". */
export const many = (n, one, more = `${one}s`) => `${count(n)} ${n === 1 ? one : more}`;

/** "1.2 MB". */
export function bytes(n) {
  let value = n ?? 0;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit++;
  }
  const parts = value < 99.5 && (unit > 0 || !Number.isInteger(value));
  return `${parts ? value.toFixed(1) : Math.round(value)} ${UNITS[unit]}`;
}

/** A rate or the like, with as many digits as say something. */
export function short(n) {
  if (n >= 1e6) return `${(n / 1e6).toFixed(1)}M`;
  if (n >= 1e4) return `${(n / 1e3).toFixed(1)}k`;
  if (n >= 100 || Number.isInteger(n)) return count(Math.round(n));
  return n >= 10 ? n.toFixed(1) : n.toFixed(2);
}

/** "12 ms", "1.4 s". */
export function millis(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 10) return `${Number(ms.toFixed(1))} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return ms < 60_000 ? `${(ms / 1000).toFixed(1)} s` : span(ms / 1000);
}

/** "1d 2h", "3h 4m", "5m 10s". */
export function span(seconds) {
  if (seconds === null || seconds === undefined) return "Unknown";
  const [d, hours, m] = [Math.floor(seconds / 86_400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (d > 0) return `${d}d ${hours}h`;
  if (hours > 0) return `${hours}h ${m}m`;
  return m > 0 ? `${m}m ${Math.floor(seconds % 60)}s` : `${Math.floor(seconds)}s`;
}

/** Only the largest unit: "3 hours". */
export function uptime(seconds) {
  if (seconds >= 86_400) return many(Math.floor(seconds / 86_400), "day");
  if (seconds >= 3600) return many(Math.floor(seconds / 3600), "hour");
  return seconds >= 60 ? many(Math.floor(seconds / 60), "minute") : "just started";
}

/** "3 minutes ago". */
export function ago(date, now = Date.now()) {
  const seconds = Math.max(0, (now - date) / 1000);
  if (seconds < 5) return "just now";
  return `${seconds < 60 ? `${Math.floor(seconds)} s` : uptime(seconds)} ago`;
}

const pad = (n, width = 2) => String(n).padStart(width, "0");
const day = (d) => `${d.getFullYear()}-${pad(d.getMonth() + 1)}-${pad(d.getDate())}`;
const clock = (d) => `${pad(d.getHours())}:${pad(d.getMinutes())}:${pad(d.getSeconds())}`;

const FORMS = {
  date: day,
  clock,
  full: (d) => `${day(d)} ${clock(d)}`,
  minute: (d) => `${pad(d.getHours())}:${pad(d.getMinutes())}`,
  near: (d) => (day(d) === day(new Date()) ? clock(d) : `${day(d)} ${clock(d)}`),
  ago: (d) => ago(d),
};

/** A date as text; `form` is one of the above. */
export const dateText = (date, form = "full") => FORMS[form](date);

export const utc = (date) => `${date.toISOString().replace("T", " ").replace(/\.\d+Z$|Z$/, "")} UTC`;

/** A point in time, from the API's text. */
export function time(text, form = "full", none = "Never") {
  const element = h("time", { class: "time" });
  setTime(element, text, form, none);
  return element;
}

export function setTime(element, text, form = "full", none = "Never") {
  const date = text ? new Date(text) : null;
  if (date === null || Number.isNaN(date.getTime())) {
    mark(element, "datetime", null);
    mark(element, "title", null);
    delete element.dataset.ago;
    say(element, none);
    return;
  }
  mark(element, "datetime", date.toISOString());
  mark(element, "title", form === "ago" ? `${dateText(date)} (${utc(date)})` : utc(date));
  if (form === "ago") element.dataset.ago = "";
  say(element, FORMS[form](date));
}

// "3 minutes ago" gets older by itself.
setInterval(() => {
  if (document.hidden) return;
  for (const element of document.querySelectorAll("time[data-ago]")) say(element, ago(new Date(element.dateTime)));
}, 5_000);
