// A log: what has been, what comes, and finding something in it. Used for the Agent's own log and for the Gateway's.

import { ApiError, get, query, save } from "../api.js";
import { fresh, h, mark, press, say } from "../dom.js";
import { on, onReturn } from "../events.js";
import { dateText, many, utc } from "../format.js";
import { busy, report } from "./dialog.js";
import { icon } from "./icon.js";
import { toast } from "./toast.js";

const LEVELS = ["Debug", "Info", "Warning", "Error"];
const PAGE = 1000;
/** Lines kept on the page while it follows. A reader who has scrolled up keeps everything. */
const MOST = 2000;
const NEAR_PX = 50;

/**
 * @param {{title: string, path: string, event: string, name: string}} spec  `event` brings live lines
 */
export function logView({ title, path, event, name }, signal) {
  let lines = []; // Oldest first: { id, timestamp, level, message, element }.
  let hasMore = false;
  let loading = null;
  let paused = false;
  let held = [];
  let missed = false; // Something came while it was held that is not in `held`.
  let least = 0;
  let words = "";

  const id = fresh("log");
  const box = h("div", { class: "terminal", tabindex: "0", role: "log", "aria-labelledby": id, "aria-live": "off" });
  const more = press("small ghost log-more", {}, "↑ Load more logs");
  const empty = h("p", { class: "terminal-empty" }, `Waiting for ${title.toLowerCase()}…`);
  const body = h("div", {});
  box.append(more, empty, body);
  const number = h("span", { class: "quiet", "aria-live": "polite" });
  const follow = h("input", { type: "checkbox", id: `${id}-follow`, checked: true });
  const level = h("select", { class: "input compact", "aria-label": "Least level" },
    [["0", "All levels"], ["1", "Info and above"], ["2", "Warnings and errors"], ["3", "Errors"]].map(([value, text]) => h("option", { value }, text)));
  const search = h("input", { type: "search", class: "input compact", placeholder: "Search logs...", "aria-label": `Search ${title.toLowerCase()}` });
  const pause = press("small", { "aria-pressed": "false" });
  const clear = press("small", {}, "Clear");
  const fetchAll = press("small", {}, icon("download", 15), "Download");
  const element = h(
    "section",
    { class: "panel log-panel", "aria-labelledby": id },
    h("div", { class: "panel-head" }, h("h2", { class: "panel-title", id }, title), number,
      h("label", { class: "check", for: `${id}-follow` }, follow, "Auto-scroll")),
    h("div", { class: "toolbar" }, search, level, h("div", { class: "toolbar-end" }, pause, clear, fetchAll)),
    box,
  );

  const shows = (line) =>
    LEVELS.indexOf(line.level) >= least && (words === "" || line.message.toLowerCase().includes(words));

  function row(line) {
    const date = new Date(line.timestamp);
    const known = LEVELS.includes(line.level) ? line.level.toLowerCase() : "info";
    line.element = h(
      "div",
      { class: `log-line log-${known}`, hidden: !shows(line) },
      h("time", { datetime: line.timestamp, title: `${dateText(date)} (${utc(date)})` }, dateText(date, "clock")),
      " ",
      h("span", { class: "log-level" }, `[${line.level}]`),
      " ",
      h("span", { class: "log-text" }, line.message),
    );
    return line.element;
  }

  const atEnd = () => box.scrollHeight - box.scrollTop - box.clientHeight <= NEAR_PX;
  const toEnd = () => (box.scrollTop = box.scrollHeight);

  function count() {
    const shown = lines.filter(shows).length;
    const all = many(lines.length, "entry", "entries");
    say(number, shown === lines.length ? `(${all})` : `(${shown} of ${all})`);
    say(empty, lines.length === 0 ? `Waiting for ${title.toLowerCase()}…` : "No line fits.");
    empty.hidden = shown > 0;
    more.hidden = !hasMore;
    put(pause);
  }

  function put(button) {
    mark(button, "aria-pressed", String(paused));
    button.replaceChildren(icon(paused ? "play" : "pause", 15), paused ? `Resume${held.length ? ` (${held.length})` : ""}` : "Pause");
  }

  function append(news) {
    const end = atEnd();
    const known = lines.at(-1)?.id ?? 0;
    const fresh = news.filter((line) => line.id === undefined || line.id > known);
    lines.push(...fresh);
    body.append(...fresh.map(row));
    if (lines.length > MOST && end && follow.checked) {
      for (const line of lines.splice(0, lines.length - MOST)) line.element.remove();
      hasMore = true;
    }
    count();
    if (end && follow.checked) toEnd();
  }

  async function fetchPage(beforeId) {
    const answer = await get(`${path}${query({ beforeId, count: PAGE })}`, signal);
    if (answer.success === false) throw new ApiError(200, answer.error ?? "there is no answer");
    return answer;
  }

  async function load() {
    missed = false;
    held = [];
    try {
      const answer = await fetchPage(0);
      lines = [...answer.logs].reverse();
      ({ hasMore } = answer);
      body.replaceChildren(...lines.map(row));
      count();
      toEnd();
    } catch (error) {
      if (ApiError.gone(error)) return;
      say(empty, `The log cannot be loaded: ${error.message}`);
      empty.hidden = lines.length > 0;
    }
  }

  /** Older lines, above those that are there; what is being read stays where it is. */
  function older() {
    loading ??= (async () => {
      try {
        const answer = await fetchPage(lines[0]?.id ?? 0);
        const first = lines[0]?.id ?? Infinity;
        const news = answer.logs.filter((line) => line.id < first).reverse();
        const before = box.scrollHeight - box.scrollTop;
        lines = [...news, ...lines];
        hasMore = answer.hasMore && news.length > 0;
        body.prepend(...news.map(row));
        count();
        box.scrollTop = box.scrollHeight - before;
        return news.filter(shows).length;
      } catch (error) {
        if (!ApiError.gone(error)) report("Failed to Load More Logs", "Older lines cannot be loaded.", error.message);
        return null;
      } finally {
        loading = null;
      }
    })();
    return loading;
  }

  /** Looks through the history until something is found: the loaded lines are only the newest ones. */
  async function seek() {
    for (const line of lines) line.element.hidden = !shows(line);
    count();
    const asked = `${words} ${least}`;
    while (hasMore && lines.filter(shows).length < 50 && asked === `${words} ${least}` && (words || least)) {
      if ((await older()) === null) break;
    }
    if (follow.checked) toEnd();
  }

  function live(detail) {
    if (detail.id !== undefined && lines.length > 0 && detail.id <= lines.at(-1).id) {
      // Numbers begin anew with the program that gives them; anything else we have already.
      if (detail.id < lines[0].id || Date.parse(detail.timestamp) > Date.parse(lines.at(-1).timestamp)) load();
      return;
    }
    held.push(detail);
    if (held.length > MOST) missed = Boolean(held.shift());
    if (paused) put(pause);
    else flush();
  }

  let flushing = false;
  function flush() {
    if (flushing) return;
    flushing = true;
    requestAnimationFrame(() => {
      flushing = false;
      if (paused || signal.aborted) return;
      const news = held;
      held = [];
      append(news);
    });
  }

  async function downloadAll() {
    const all = [];
    try {
      await busy(fetchAll, "Reading…", async () => {
        let [before, again] = [0, true];
        while (again) {
          const answer = await get(`${path}${query({ beforeId: before, count: 5000 })}`, signal);
          if (answer.success === false) throw new ApiError(200, answer.error ?? "there is no answer");
          all.push(...answer.logs);
          before = answer.logs.at(-1)?.id;
          again = answer.hasMore && answer.logs.length > 0;
        }
      });
    } catch (error) {
      if (!ApiError.gone(error)) report("Failed to Download Logs", "The log could not be read to its end.", error.message);
      return;
    }
    const text = all.reverse().map((line) => `${line.timestamp} [${line.level}] ${line.message}\n`).join("");
    save(new Blob([text], { type: "text/plain" }), `${name}-${dateText(new Date(), "date")}.log`);
  }

  more.addEventListener("click", older);
  box.addEventListener("scroll", () => box.scrollTop < NEAR_PX && hasMore && lines.length > 0 && older());
  follow.addEventListener("change", () => follow.checked && toEnd());
  level.addEventListener("change", () => {
    least = Number(level.value);
    seek();
  });
  search.addEventListener("input", () => {
    words = search.value.trim().toLowerCase();
    seek();
  });
  pause.addEventListener("click", () => {
    paused = !paused;
    put(pause);
    if (paused) return;
    if (missed) load();
    else flush();
  });
  clear.addEventListener("click", () => {
    lines = [];
    held = [];
    hasMore = false;
    body.replaceChildren();
    count();
    toast("info", "Logs cleared", "Only here: the log itself is as it was.", { key: "logs-cleared" });
  });
  fetchAll.addEventListener("click", downloadAll);
  on(event, live, signal);
  // Whatever came while the stream was away is in the history.
  onReturn(() => (paused ? (missed = true) : load()), signal);
  count();
  load();
  return { element, load };
}
