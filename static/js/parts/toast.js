// Short notices at the lower right. Screen readers read them out; errors at once, the rest when there is a pause.

import { h, mark } from "../dom.js";
import { icon } from "./icon.js";

const LIFE_MS = { success: 5_000, info: 5_000, warning: 8_000, error: 12_000 };
const ICONS = { success: "check", info: "info", warning: "warning", error: "warning" };
const MOST = 5;

// There before anything is said in it: a live region that appears with its text is often not read.
const region = h("section", { class: "toasts", "aria-label": "Notifications", "aria-live": "polite" });
document.body.append(region);

/**
 * @param {"success"|"info"|"warning"|"error"} kind
 * @param {string} [key] replaces the toast that has the same one, so that a flapping line does not pile them up
 */
export function toast(kind, title, text = "", { key = null } = {}) {
  if (key !== null) region.querySelector(`[data-key="${CSS.escape(key)}"]`)?.remove();
  const body = h("div", { class: "toast-text" }, h("strong", {}, title), text && h("p", {}, text));
  const gone = () => {
    clearTimeout(timer);
    element.remove();
  };
  const element = h(
    "div",
    { class: `toast toast-${kind}`, role: kind === "error" ? "alert" : null },
    icon(ICONS[kind]),
    body,
    h("button", { class: "icon-button", "aria-label": `Close: ${title}`, onclick: gone }, icon("close", 16)),
  );
  mark(element, "data-key", key);
  let timer = null;
  const run = () => {
    clearTimeout(timer);
    timer = setTimeout(gone, LIFE_MS[kind]);
  };
  // Who reads or is about to press something has time.
  element.addEventListener("pointerenter", () => clearTimeout(timer));
  element.addEventListener("focusin", () => clearTimeout(timer));
  element.addEventListener("pointerleave", run);
  element.addEventListener("focusout", run);
  region.append(element);
  while (region.children.length > MOST) region.firstElementChild.remove();
  run();
}

/** What a failed call says. Nothing when nobody waits for it any more. */
export function failed(title, error) {
  if (error?.name !== "AbortError" && error?.status !== 401) toast("error", title, error.message);
}
