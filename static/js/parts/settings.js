// The three pages of Settings, and what they share.

import { h } from "../dom.js";
import { frame } from "./layout.js";

const PAGES = [["/settings", "Landing page"], ["/settings/data", "Import, export, backup"], ["/settings/sessions", "Sessions"]];

export const settings = (path, about, actions, ...content) => ({
  title: "Settings",
  element: frame(
    { title: "Settings", about, actions, below: h("nav", { class: "tabs", "aria-label": "Settings" }, PAGES.map(([href, text]) => h("a", { href, "aria-current": href === path ? "page" : null }, text))) },
    content,
  ),
});
