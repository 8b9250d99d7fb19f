// Which page belongs to which address, and going from one to the next without loading anything anew.

import { h, press } from "./dom.js";
import { ask, closeAll } from "./parts/dialog.js";

/** Dispatches `page` with the route that is shown from now on. */
export const router = new EventTarget();

let routes = [];
let container = null;
let shown = null; // { route, controller }
let guard = null;
let place = history.state?.place ?? 0; // Position in the history, to undo a "back" that was not meant.
let here = null; // The address that is shown.
let missing = false; // Its page could not be fetched.
let undoing = false;
let showing = 0;

/**
 * @param {Array<{pattern: string, load: () => Promise<object>}>} table  `:name` stands for one part of a path
 */
export function setUp(table) {
  routes = table.map((route) => ({ ...route, parts: route.pattern.split("/") }));
}

/** The route of a path and the values in it, or null. */
export function match(path, table = routes) {
  const parts = (path.length > 1 ? path.replace(/\/$/, "") : path).split("/");
  for (const route of table) {
    if (route.parts.length !== parts.length) continue;
    const params = {};
    const fits = route.parts.every((part, i) => {
      if (!part.startsWith(":")) return part === parts[i];
      if (parts[i] === "") return false;
      try {
        params[part.slice(1)] = decodeURIComponent(parts[i]);
      } catch {
        return false;
      }
      return true;
    });
    if (fits) return { route, params };
  }
  return null;
}

/** Where pages are put. */
export function showIn(element) {
  container = element;
}

/** Asks before leaving while `dirty()` says that there is something to lose. */
export function guardEdits(dirty, signal) {
  guard = dirty;
  signal.addEventListener("abort", () => {
    if (guard === dirty) guard = null;
  });
}

/** Whether something would be lost by leaving now. */
export const unsaved = () => guard?.() === true;

async function mayLeave() {
  if (!unsaved()) return true;
  // Asked again while it was still open.
  closeAll();
  const leave = await ask({
    title: "Leave without saving?",
    text: "What you have changed here is not saved yet.",
    confirm: "Leave",
    cancel: "Stay",
    danger: true,
  });
  if (leave) guard = null;
  return leave;
}

/** Goes to a path of ours. */
export async function go(path, { replace = false, force = false } = {}) {
  if (!force && !(await mayLeave())) return;
  if (force) guard = null;
  if (replace || path === here) history.replaceState({ place }, "", path);
  else history.pushState({ place: ++place }, "", path);
  await show();
}

/** Changes the query of this page's address only; the page has done the rest. One that is being left changes nothing. */
export function setQuery(text) {
  if (shown === null || shown.controller.signal.aborted) return;
  history.replaceState({ place }, "", location.pathname + text);
  here = address();
}

const address = () => location.pathname + location.search;

/** Fetches all pages ahead, so that they are there when the Agent is not. */
export const preload = () => routes.forEach(({ load }) => load().catch(() => {}));

/** Tries again what could not be fetched. */
export const again = () => missing && show();

const missingPage = () => ({
  title: "Not here",
  element: h(
    "div",
    { class: "empty" },
    h("h1", {}, "This page cannot be shown"),
    h("p", {}, "The Agent does not send it. It comes by itself when the Agent answers again."),
    press("primary", { onclick: show }, "Try again"),
  ),
});

/** Shows the page of the present address. */
export async function show() {
  const found = match(location.pathname);
  if (found === null) return go("/", { replace: true, force: true });
  const turn = ++showing;
  const { route, params } = found;
  here = address();
  // It stays in sight until the next one is here, and has no say any more: the address is not its own.
  shown?.controller.abort();
  const module = await route.load().catch((error) => {
    // That is what browsers say when a module cannot be fetched.
    if (error.name !== "TypeError") throw error;
    return null;
  });
  if (turn !== showing) return;
  missing = module === null;
  closeAll();
  const controller = new AbortController();
  shown = { route, controller };
  router.dispatchEvent(new CustomEvent("page", { detail: route }));
  const page = missing ? missingPage() : module.page({ params, query: new URLSearchParams(location.search), signal: controller.signal });
  document.title = `${page.title} - Octoporty Agent`;
  container.replaceChildren(page.element);
  scrollTo(0, 0);
  // So that a screen reader says where it is now, and Tab goes on from there.
  const heading = container.querySelector("[autofocus]") ?? container.querySelector("h1");
  if (heading?.tagName === "H1") heading.tabIndex = -1;
  heading?.focus({ preventScroll: true });
}

/** Ends the page that is shown: at logout. */
export function leave() {
  guard = null;
  shown?.controller.abort();
  shown = null;
  showing++;
}

/** The title, for pages that learn it later. */
export const retitle = (title) => (document.title = `${title} - Octoporty Agent`);

addEventListener("popstate", async (event) => {
  if (undoing) {
    undoing = false;
    return;
  }
  // Another place in the same page.
  if (shown !== null && address() === here) {
    if (event.state) ({ place } = event.state);
    return;
  }
  const target = event.state?.place ?? 0;
  const step = target - place;
  if (unsaved()) {
    undoing = true;
    history.go(-step);
    if (!(await mayLeave())) return;
    undoing = true;
    history.go(step);
    await new Promise((done) => addEventListener("popstate", done, { once: true }));
  }
  place = target;
  if (shown !== null) show();
});

addEventListener("beforeunload", (event) => {
  if (unsaved()) event.preventDefault();
});

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href]");
  if (!link || event.defaultPrevented || event.button !== 0 || link.target || link.hasAttribute("download")) return;
  if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey || link.origin !== location.origin) return;
  if (match(link.pathname) === null) return;
  if (link.hash && link.pathname === location.pathname) return;
  event.preventDefault();
  go(link.pathname + link.search);
});
