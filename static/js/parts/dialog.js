// Dialogs over the page: focus goes in, stays in, and the browser returns it to where it was; Escape and a click outside
// close them.

import { fresh, h, mark, press, put, say } from "../dom.js";
import { icon } from "./icon.js";

const opened = new Set();

/** Ends all that are open: the page that they belong to is left. */
export const closeAll = () => opened.forEach((close) => close());

/**
 * Opens a dialog. `build(close)` gives what is in it; `close(result)` ends it. Resolves to the result, `undefined`
 * when it was dismissed.
 * @param {{title: string, wide?: boolean, firm?: boolean}} options  one cannot be dismissed while it is firm
 */
export function dialog(options, build) {
  return new Promise((resolve) => {
    const id = fresh("dialog");
    let result;
    const close = (value) => {
      result = value;
      opened.delete(close);
      element.close();
    };
    const dismiss = () => options.firm || close();
    const element = h(
      "dialog",
      { class: options.wide ? "modal modal-wide" : "modal", "aria-labelledby": id },
      h(
        "div",
        { class: "modal-box bg-surface-2" },
        h(
          "div",
          { class: "modal-head" },
          h("h2", { id }, options.title),
          !options.firm && h("button", { class: "icon-button", "aria-label": "Close", onclick: dismiss }, icon("close")),
        ),
        build(close),
      ),
    );
    element.addEventListener("pointerdown", (event) => event.target === element && dismiss());
    element.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && options.firm) event.preventDefault();
      keepInside(element, event);
    });
    element.addEventListener("cancel", (event) => options.firm && event.preventDefault());
    element.addEventListener("close", () => {
      // A browser may close it whatever is said at "cancel", so a firm one comes back.
      if (opened.has(close) && options.firm) return element.showModal();
      opened.delete(close);
      element.remove();
      document.body.classList.toggle("has-modal", document.querySelector("dialog[open]") !== null);
      resolve(result);
    });
    document.body.append(element);
    document.body.classList.add("has-modal");
    opened.add(close);
    element.showModal();
  });
}

// The browser keeps the page behind out of reach, but lets Tab wander off to its own buttons.
function keepInside(element, event) {
  if (event.key !== "Tab") return;
  const stops = [...element.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']")].filter(
    (stop) => !stop.disabled && stop.checkVisibility(),
  );
  if (stops.length === 0) return;
  const [first, last] = [stops[0], stops.at(-1)];
  if (event.shiftKey && document.activeElement === first) last.focus();
  else if (!event.shiftKey && document.activeElement === last) first.focus();
  else return;
  event.preventDefault();
}

/**
 * Asks a question. With `run`, the answer is acted upon before the dialog closes, and what goes wrong is said in it.
 * Resolves to whether it was confirmed.
 */
export async function ask({ title, text, confirm, cancel = "Cancel", danger = false, run = null }) {
  const options = { title };
  const answer = await dialog(options, (close) => {
    const problem = h("p", { class: "problem", role: "alert" });
    const yes = h("button", { class: danger ? "button danger" : "button primary" }, confirm);
    const no = press("", { autofocus: true, onclick: () => close(false) }, cancel);
    yes.addEventListener("click", async () => {
      if (run === null) return close(true);
      say(problem, "");
      mark(no, "disabled", true);
      // What comes of it must be seen.
      options.firm = true;
      try {
        await busy(yes, "Please wait…", run);
        close(true);
      } catch (error) {
        say(problem, error.message);
        options.firm = false;
        mark(no, "disabled", false);
        yes.focus();
      }
    });
    return h(
      "div",
      { class: "modal-body" },
      h("div", { class: danger ? "modal-sign danger" : "modal-sign" }, icon(danger ? "warning" : "info", 26)),
      h("p", {}, text),
      problem,
      h("div", { class: "modal-foot" }, no, yes),
    );
  });
  return answer === true;
}

/** Says what failed, with the details that a report needs. */
export const report = (title, message, details = "") =>
  dialog({ title }, (close) =>
    h(
      "div",
      { class: "modal-body" },
      h("p", {}, message),
      details && [h("h3", { class: "label" }, "Details"), h("pre", { class: "code", tabindex: "0" }, details)],
      h("div", { class: "modal-foot" }, press("", { onclick: () => close() }, "Close")),
    ),
  );

/** A button that is busy while its work runs, and has the focus again after it. */
export async function busy(button, text, work) {
  const before = [...button.childNodes];
  const focused = document.activeElement === button;
  mark(button, "disabled", true);
  mark(button, "aria-busy", "true");
  put(button, h("span", { class: "spinner", "aria-hidden": "true" }), text);
  try {
    return await work();
  } finally {
    put(button, ...before);
    mark(button, "aria-busy", null);
    mark(button, "disabled", false);
    if (focused && document.activeElement === document.body) button.focus();
  }
}
