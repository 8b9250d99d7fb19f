// Starts the page: who is logged in decides whether there is a shell with pages or the login.

import { h, press } from "./dom.js";
import * as events from "./events.js";
import * as live from "./live.js";
import { closeAll } from "./parts/dialog.js";
import { failed } from "./parts/toast.js";
import * as router from "./router.js";
import { session, known, resume } from "./session.js";
import { shell } from "./shell.js";
import * as login from "./pages/login.js";

const app = document.getElementById("app");
let running = null; // The AbortController of the shell.

router.setUp([
  { pattern: "/", nav: "/", load: () => import("./pages/dashboard.js") },
  { pattern: "/mappings", nav: "/mappings", load: () => import("./pages/mappings.js") },
  { pattern: "/mappings/:id", nav: "/mappings", load: () => import("./pages/mapping.js") },
  { pattern: "/requests", nav: "/requests", load: () => import("./pages/requests.js") },
  { pattern: "/logs", nav: "/logs", load: () => import("./pages/logs.js") },
  { pattern: "/gateway", nav: "/gateway", load: () => import("./pages/gateway.js") },
  { pattern: "/gateway/caddy-config", nav: "/gateway", load: () => import("./pages/caddy.js") },
  { pattern: "/gateway/inspector", nav: "/gateway/inspector", load: () => import("./pages/inspector.js") },
  { pattern: "/settings", nav: "/settings", load: () => import("./pages/landing.js") },
  { pattern: "/settings/data", nav: "/settings", load: () => import("./pages/data.js") },
  { pattern: "/settings/sessions", nav: "/settings", load: () => import("./pages/sessions.js") },
]);

/** Only addresses of our own pages are gone back to. */
function nextPath() {
  const next = new URLSearchParams(location.search).get("next") ?? "/";
  return next.startsWith("/") && !next.startsWith("//") && router.match(next.split("?")[0]) ? next : "/";
}

async function enter() {
  running?.abort();
  running = new AbortController();
  const { element, main } = shell(running.signal);
  app.replaceChildren(element);
  router.showIn(main);
  live.refresh().catch((error) => failed("Failed to load the status", error));
  events.start();
  if (location.pathname === "/login") await router.go(nextPath(), { replace: true, force: true });
  else await router.show();
  router.preload();
}

function leave(why = "") {
  const from = location.pathname === "/login" ? null : location.pathname + location.search;
  events.stop();
  closeAll();
  live.forget();
  router.leave();
  running?.abort();
  running = null;
  const query = from === null ? location.search : from === "/" ? "" : `?${new URLSearchParams({ next: from })}`;
  history.replaceState(null, "", `/login${query}`);
  document.title = "Log in - Octoporty Agent";
  app.replaceChildren(login.page(why));
  app.querySelector("input")?.focus();
}

session.addEventListener("begun", () => (running === null ? enter() : events.start()));
session.addEventListener("ended", () => {
  if (running === null) return;
  // Edits that are not saved are worth more than the way to the login page.
  if (router.unsaved()) {
    events.stop(true);
    login.again();
  } else leave("Your session has ended. Log in again.");
});
events.on("open", router.again);
addEventListener("octoporty-logout", () => leave());

addEventListener("unhandledrejection", (event) => {
  if (event.reason?.name !== "AbortError") crash(event.reason);
});
addEventListener("error", (event) => event.error && crash(event.error));

/** Something that must not happen has happened: say so instead of standing there half done. */
function crash(error) {
  console.error(error);
  events.stop();
  app.replaceChildren(
    h(
      "main",
      { class: "start" },
      h("h1", {}, "Something went wrong"),
      h("p", {}, "This is a fault of the page. Refreshing it usually helps; nothing at the Agent has changed."),
      h("pre", { class: "code" }, String(error?.stack ?? error)),
      press("primary", { onclick: () => location.reload() }, "Refresh Page"),
    ),
  );
}

if (await resume()) enter();
else leave(known() ? "Your session has ended. Log in again." : "");
