// Form fields: a label, an input, a hint, and room for what is wrong, tied together for screen readers.

import { fresh, h, mark, say } from "../dom.js";

// A message that appears while a button is being pressed moves the button away from under the pointer: what leaving a
// field has to say waits until the press is over.
let pressed = false;
const waiting = [];
addEventListener("pointerdown", () => (pressed = true), true);
for (const over of ["pointerup", "pointercancel"]) {
  addEventListener(over, () => {
    pressed = false;
    setTimeout(() => waiting.splice(0).forEach((look) => look()));
  }, true);
}

/**
 * @param {{label: string, hint?: string, type?: string, options?: Array<[string, string]>}} spec  the rest are
 *   attributes of the input; `check(value)` gives what is wrong, or null
 */
export function field({ label, hint = "", options = null, check = null, area = false, ...attributes }) {
  const id = fresh("field");
  const input = options
    ? h("select", { id, class: "input", ...attributes }, options.map(([value, text]) => h("option", { value }, text)))
    : h(area ? "textarea" : "input", { id, class: "input", type: area ? null : "text", ...attributes });
  const problem = h("p", { id: `${id}-problem`, class: "field-problem text-rose-base" });
  const note = h("p", { id: `${id}-hint`, class: "hint" }, hint);
  const element = h("div", { class: "field" }, h("label", { for: id, class: "label" }, label), input, problem, hint && note);
  mark(input, "aria-describedby", hint ? `${id}-problem ${id}-hint` : `${id}-problem`);
  let told = false;
  const self = {
    element,
    input,
    get value() {
      return input.value;
    },
    set value(value) {
      input.value = value ?? "";
    },
    /** Shows what is wrong; null when nothing is. */
    fault(text) {
      say(problem, text ?? "");
      mark(input, "aria-invalid", text ? "true" : null);
      told = Boolean(text);
    },
    /** Whether the value will do; says so when not. */
    valid() {
      const text = check?.(input.value) ?? null;
      self.fault(text);
      return text === null;
    },
  };
  const look = () => check && input.value !== "" && self.valid();
  input.addEventListener("blur", () => (pressed ? waiting.push(look) : look()));
  // Once something was wrong, it is checked with every key: the message goes as soon as it is mended.
  input.addEventListener("input", () => told && (check ? self.valid() : self.fault(null)));
  return self;
}

/** A switch. */
export function toggle({ label, hint = "", on = false, quiet = false, change = () => {} }) {
  const id = fresh("switch");
  const button = h("button", { role: "switch", class: "toggle", "aria-checked": String(on) }, h("span", {}));
  if (quiet) mark(button, "aria-label", label);
  else mark(button, "aria-labelledby", id);
  if (hint) mark(button, "aria-describedby", `${id}-hint`);
  const self = {
    element: quiet
      ? button
      : h(
          "div",
          { class: "switch-row" },
          h("div", {}, h("span", { id, class: "switch-label" }, label), hint && h("p", { id: `${id}-hint`, class: "hint" }, hint)),
          button,
        ),
    button,
    get value() {
      return button.getAttribute("aria-checked") === "true";
    },
    set value(value) {
      mark(button, "aria-checked", String(Boolean(value)));
    },
  };
  button.addEventListener("click", () => {
    if (button.ariaBusy) return;
    self.value = !self.value;
    change(self.value);
  });
  return self;
}

/** A choice of a few, as pills. `choose(value)` is called when another one is pressed. */
export function pills(label, choices, value, choose) {
  const buttons = new Map();
  const set = (chosen) => buttons.forEach((button, key) => mark(button, "aria-pressed", String(key === chosen)));
  const element = h(
    "div",
    { class: "pills", role: "group", "aria-label": label },
    choices.map(([key, text]) => {
      const button = h("button", { class: "pill" }, text);
      button.addEventListener("click", () => {
        set(key);
        choose(key);
      });
      buttons.set(key, button);
      return button;
    }),
  );
  set(value);
  return { element, set, button: (key) => buttons.get(key) };
}

/** Puts what the server says at the fields it is about. Returns what belongs to none of them. */
export function placeFaults(error, fields) {
  const rest = [];
  let first = null;
  for (const [name, texts] of Object.entries(error.errors ?? {})) {
    const place = fields[name];
    const text = [texts].flat().join("; ");
    if (place) {
      place.fault(text);
      first ??= place;
    } else rest.push(name === "serializerErrors" ? text : `${name}: ${text}`);
  }
  first?.input?.focus();
  if (first === null && rest.length === 0) rest.push(error.message);
  return rest.join(" ");
}
