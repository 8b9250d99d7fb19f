// Builds elements. What comes from data becomes a text node or an attribute value, never markup: there is no way in
// here to hand over HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element. Attributes that are null, undefined or false are left out; `onclick` and the like are listeners. */
export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);

/** A button; `kind` is how it looks. */
export const press = (kind, attributes, ...children) => h("button", { class: `button ${kind}`, ...attributes }, ...children);

/** The same for SVG. */
export const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

function fill(element, attributes, children) {
  // Unless it says so, a button sends no form.
  if (element.localName === "button") element.type = "button";
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "style") throw new Error("the policy of this page allows no style attributes");
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...nodes(children));
  return element;
}

const nodes = (children) =>
  children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);

/** Replaces what is inside. */
export function put(element, ...children) {
  element.replaceChildren(...nodes(children));
  return element;
}

const drawn = new WeakMap();
/** The same where what it shows has changed: what has the focus or is being pressed is not taken away. */
export function redraw(element, value, build) {
  const text = JSON.stringify(value);
  if (drawn.get(element) === text) return;
  drawn.set(element, text);
  put(element, build());
}

/** Changes a text only where it differs, so that selections and screen readers are left alone. */
export function say(element, text) {
  const value = text === null || text === undefined ? "" : String(text);
  if (element.textContent !== value) element.textContent = value;
  return element;
}

/** Sets an attribute, or removes it for null and false. */
export function mark(element, name, value) {
  if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value === true ? "" : value);
  return element;
}

/** A text for screen readers only. */
export const hidden = (text) => h("span", { class: "hidden" }, text);

let last = 0;
/** An id that no other element has. */
export const fresh = (word) => `${word}-${++last}`;

/**
 * A list whose rows keep their elements (and so focus, and switches in motion) when the data changes.
 * `make(item)` gives `{ element, update(item) }`.
 */
export function keyed(container, key, make) {
  let rows = new Map();
  return (items) => {
    const next = new Map(items.map((item) => [key(item), rows.get(key(item)) ?? make(item)]));
    // What is gone goes first: moving the others around it would take the focus from them.
    for (const [id, row] of rows) next.has(id) || row.element.remove();
    rows = next;
    let place = container.firstElementChild;
    for (const item of items) {
      const row = rows.get(key(item));
      row.update(item);
      if (row.element === place) place = place.nextElementSibling;
      else container.insertBefore(row.element, place);
    }
  };
}

/** Calls at most once per `ms`, at the end of the pause, until the signal ends it. */
export function calmly(ms, call, signal) {
  let timer = null;
  signal?.addEventListener("abort", () => clearTimeout(timer));
  return () => {
    if (timer !== null || signal?.aborted) return;
    timer = setTimeout(() => {
      timer = null;
      call();
    }, ms);
  };
}

/** Calls every `ms` while the page is looked at, until the signal ends it. */
export function every(ms, call, signal) {
  const timer = setInterval(() => document.hidden || call(), ms);
  signal.addEventListener("abort", () => clearInterval(timer));
}
