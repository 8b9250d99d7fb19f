// The pieces that every page is put together from.

import { fresh, h } from "../dom.js";

/** A page: its title, what it is about, what can be done with it, and the rest. */
export const frame = ({ title, about = "", actions = [], above = null, below = null }, ...content) =>
  h(
    "div",
    { class: "page" },
    above,
    h("div", { class: "page-head" }, h("div", {}, h("h1", {}, title), about && h("p", { class: "subtitle" }, about)), h("div", { class: "actions" }, actions)),
    below,
    content,
  );

export const crumbs = (path, from, name) =>
  h("nav", { class: "crumbs", "aria-label": "Breadcrumb" }, h("a", { href: path }, from), h("span", { "aria-hidden": "true" }, "›"), h("span", { "aria-current": "page" }, name));

/** A box with a title and, beside it, what belongs to the whole of it. */
export function panel(title, head, ...content) {
  const id = fresh("panel");
  return h(
    "section",
    { class: "panel", "aria-labelledby": id },
    h("div", { class: "panel-head" }, h("h2", { class: "panel-title", id }, title), head),
    content,
  );
}

/** A value under its name. */
export const fact = (label, ...value) =>
  h("div", { class: "fact" }, h("span", { class: "label" }, label), h("span", { class: "data" }, value));

/** A table that scrolls by itself where it is too wide; `rows` is a `tbody` or rows. */
export const table = (name, columns, rows, kind = "") =>
  h(
    "div",
    { class: `scroll ${kind}`, tabindex: "0", role: "region", "aria-label": `Table of ${name}` },
    h(
      "table",
      { class: "data" },
      h("thead", {}, h("tr", {}, columns.map((text) => h("th", { scope: "col" }, text)))),
      rows.tagName ? rows : h("tbody", {}, rows),
    ),
  );

export const row = (...cells) => h("tr", {}, cells.map((cell) => (cell?.tagName === "TD" ? cell : h("td", {}, cell))));

const LIGHTS = { good: "led-emerald", warn: "led-amber", bad: "led-rose", off: "led-off" };

/** A light; what it means is said beside it. `look` is a word or a class of its own. */
export const led = (look, more = "") => h("span", { class: `led ${LIGHTS[look] ?? look} ${more}`, "aria-hidden": "true" });

export const quiet = (...content) => h("p", { class: "quiet" }, content);

export const actions = (...content) => h("div", { class: "actions" }, content);

/** Where what goes wrong is said, and read out. */
export const alarm = () => h("p", { class: "problem", role: "alert" });

/** A word in a frame; `look` is good, warn, bad, off or cyan. */
export const badge = (look, ...content) => h("span", { class: `badge badge-${look}` }, content);

export const loader = () => h("div", { class: "ring-loader", role: "status", "aria-label": "Loading" });

/** `look`: cyan, amber, emerald or rose. */
export const notice = (look, picture, ...content) => h("div", { class: `notice notice-${look}` }, picture, h("div", {}, content));
