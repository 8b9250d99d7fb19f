// What stands around every page: the sidebar, the state of the connection, and the notices at the top.

import { failed, toast } from "./parts/toast.js";
import { h, mark, press, put, say } from "./dom.js";
import { on } from "./events.js";
import { current, onStatus, outdated, refresh } from "./live.js";
import { ask, busy } from "./parts/dialog.js";
import { icon } from "./parts/icon.js";
import { kept } from "./kept.js";
import { post } from "./api.js";
import { logout } from "./session.js";
import { router, unsaved } from "./router.js";

const NAV = [
  ["/", "Dashboard", "dashboard"],
  ["/mappings", "Mappings", "mappings"],
  ["/requests", "Requests", "requests"],
  ["/logs", "Logs", "logs"],
  ["/gateway", "Gateway", "gateway"],
  ["/gateway/inspector", "Inspector", "inspector"],
  ["/settings", "Settings", "settings"],
];

/** Words and colours of the tunnel's states. */
const STATES = {
  Connected: { label: "ONLINE", led: "led-emerald", text: "Tunnel active" },
  Disconnected: { label: "OFFLINE", led: "led-rose", text: "Tunnel inactive" },
  Connecting: { label: "CONNECTING", led: "led-amber", text: "Establishing tunnel…" },
  Authenticating: { label: "AUTHENTICATING", led: "led-amber", text: "Verifying credentials…" },
  Syncing: { label: "SYNCING", led: "led-amber", text: "Syncing configuration…" },
  Reconnecting: { label: "RECONNECTING", led: "led-amber", text: "Restoring connection…" },
};
const UNKNOWN = { label: "UNKNOWN", led: "led-off", text: "Asking the Agent…" };
const AWAY = { label: "AGENT AWAY", led: "led-rose", text: "The Agent does not answer" };

export const stateOf = (word) => STATES[word] ?? UNKNOWN;

/** The frame; pages go into `main`. */
export function shell(signal) {
  const main = h("main", { id: "main", class: "main", tabindex: "-1" });
  const version = h("span", { class: "brand-version" }, "AGENT v0.0.0");
  const led = h("span", { class: "led led-off", "aria-hidden": "true" });
  const label = h("span", { class: "badge-label" }, UNKNOWN.label);
  const links = NAV.map(([path, text, picture]) =>
    h("a", { href: path, class: "nav-link" }, icon(picture, 19), text),
  );
  const sidebar = h(
    "aside",
    { class: "sidebar", id: "sidebar", "aria-label": "Octoporty" },
    h("div", { class: "brand" }, h("img", { src: "/logo.svg", alt: "", width: 40, height: 40 }), h("div", {}, h("span", { class: "brand-name" }, "Octoporty"), version)),
    h("div", { class: "connection-badge", role: "status" }, led, label),
    h("nav", { class: "nav", "aria-label": "Pages" }, links),
    h("div", { class: "sidebar-foot" }, themeSwitch(), h("button", { class: "nav-link logout", onclick: leave }, icon("logout", 19), "Logout")),
  );
  const menu = h("button", { class: "icon-button menu", "aria-label": "Menu", "aria-controls": "sidebar", "aria-expanded": "false" }, icon("menu", 22));
  const shade = h("div", { class: "shade" });
  const notices = h("div", { class: "notices" });
  const element = h(
    "div",
    { class: "shell" },
    h("a", { class: "skip", href: "#main", onclick: skip }, "Skip to content"),
    h("header", { class: "topbar" }, menu, h("span", { class: "brand-name" }, "Octoporty"), h("span", { class: "topbar-led" })),
    sidebar,
    shade,
    h("div", { class: "content" }, notices, main),
  );

  const narrow = matchMedia("(max-width: 768px)");
  const openMenu = (open) => {
    element.classList.toggle("menu-open", open);
    mark(menu, "aria-expanded", String(open));
    // What cannot be seen must not be reached with Tab either.
    sidebar.inert = narrow.matches && !open;
    if (open) sidebar.querySelector("a").focus();
  };
  narrow.addEventListener("change", () => openMenu(false), { signal });
  menu.addEventListener("click", () => openMenu(!element.classList.contains("menu-open")));
  shade.addEventListener("click", () => openMenu(false));
  sidebar.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !narrow.matches) return;
    openMenu(false);
    menu.focus();
  });
  openMenu(false);

  router.addEventListener("page", ({ detail: route }) => {
    for (const link of links) mark(link, "aria-current", link.getAttribute("href") === route.nav ? "page" : null);
    openMenu(false);
  }, { signal });

  const small = element.querySelector(".topbar-led");
  const show = (state) => {
    mark(led, "class", `led ${state.led}`);
    say(label, state.label);
    put(small, h("span", { class: `led ${state.led}`, "aria-hidden": "true" }), state.label);
  };
  onStatus((status) => {
    show(stateOf(status.connectionStatus));
    say(version, `AGENT v${status.version ?? "0.0.0"}`);
  }, signal);
  on("away", () => show(AWAY), signal);

  notices.append(awayNotice(signal), versionNotice(signal), updateBanner(signal));
  return { element, main };

  // Not by its address: that would be another place to go back to.
  function skip(event) {
    event.preventDefault();
    main.focus();
  }

  async function leave() {
    if (unsaved() && !(await ask({ title: "Log out without saving?", text: "What you have changed here is not saved yet.", confirm: "Log out", danger: true }))) return;
    try {
      await logout();
    } catch {
      toast("warning", "Logged out here only", "The Agent does not answer, so it could not be told.");
    }
    dispatchEvent(new Event("octoporty-logout"));
  }
}

function themeSwitch() {
  const KEY = "octoporty_theme";
  const choices = [["auto", "device", "Theme of the device"], ["light", "sun", "Light theme"], ["dark", "moon", "Dark theme"]];
  const now = () => kept(KEY) ?? "auto";
  const buttons = choices.map(([value, picture, label]) =>
    h("button", { class: "icon-button", "aria-label": label, title: label, onclick: () => choose(value) }, icon(picture, 16)),
  );
  const show = () => buttons.forEach((button, i) => mark(button, "aria-pressed", String(choices[i][0] === now())));
  const choose = (value) => {
    try {
      localStorage.setItem(KEY, value);
    } catch {
      toast("warning", "The theme cannot be kept", "This browser keeps nothing for this page.");
    }
    dispatchEvent(new Event("octoporty-theme"));
    show();
  };
  show();
  return h("div", { class: "theme-switch", role: "group", "aria-label": "Theme" }, buttons);
}

/** The Agent is away, and is back. */
function awayNotice(signal) {
  const notice = h("div", { class: "notice notice-rose", role: "alert", hidden: true });
  let startedAt = null;
  let away = false;
  on("away", () => {
    away = true;
    put(notice, h("span", { class: "spinner", "aria-hidden": "true" }), h("div", {}, h("strong", {}, "The Agent does not answer."),
      " It may be restarting. What you see is the last known state; this page goes on by itself when the Agent is back."));
    notice.hidden = false;
  }, signal);
  on("open", () => {
    notice.hidden = true;
    put(notice);
  }, signal);
  onStatus((status) => {
    if (startedAt !== null && status.startedAt && status.startedAt !== startedAt) {
      toast("success", "The Agent was restarted", "It is back, and so is this page.", { key: "agent" });
      away = false;
    }
    startedAt = status.startedAt ?? startedAt;
  }, signal);
  on("open", () => {
    if (!away) return;
    away = false;
    toast("success", "The Agent answers again", "", { key: "agent" });
  }, signal);
  return notice;
}

/** The Agent has been updated under this page. */
function versionNotice(signal) {
  const notice = h(
    "div",
    { class: "notice notice-cyan", role: "status", hidden: true },
    icon("info"),
    h("div", {}, "The Agent has been updated. Reload to get the page that belongs to it."),
    press("small", { onclick: () => location.reload() }, "Reload"),
  );
  onStatus(() => (notice.hidden = !outdated()), signal);
  return notice;
}

/** Asks the Gateway to update itself; says what came of it. Returns whether it was queued. */
export async function updateGateway(button) {
  try {
    const answer = await busy(button, "Updating…", () => post("/gateway/update", { force: false }));
    if (answer.success) {
      toast("success", "Update Queued", answer.message);
      refresh().catch(() => {});
      return true;
    }
    toast("error", "Update Failed", [answer.message, answer.error].filter(Boolean).join(": "));
  } catch (error) {
    failed("Update Failed", error);
  }
  return false;
}

const OUTCOMES = {
  succeeded: ["success", "Gateway updated"],
  failed: ["error", "Gateway update failed"],
  "rolled-back": ["error", "Gateway update taken back"],
};

function updateBanner(signal) {
  let dismissed = false;
  const versions = h("p", { class: "data" });
  const button = press("primary", {}, "Update Gateway");
  button.addEventListener("click", () => updateGateway(button));
  const banner = h(
    "section",
    { class: "banner", "aria-label": "Gateway update", hidden: true },
    icon("warning", 24),
    h("div", { class: "banner-text" }, h("h2", {}, "GATEWAY UPDATE AVAILABLE"),
      h("p", {}, "The Agent is newer than the Gateway. Update the Gateway, so that both have the same abilities."), versions),
    button,
    h("button", { class: "icon-button", title: "Dismiss", "aria-label": "Dismiss", onclick: () => {
      dismissed = true;
      banner.hidden = true;
    } }, icon("close")),
  );
  onStatus((status) => {
    banner.hidden = dismissed || !status.gatewayUpdateAvailable;
    say(versions, `Agent v${status.version} → Gateway v${status.gatewayVersion ?? "unknown"}`);
  }, signal);
  on("UpdateOutcome", (detail) => {
    const [kind, title] = OUTCOMES[detail.state] ?? ["info", "Gateway update"];
    toast(kind, title, detail.message ?? `${detail.state}: ${detail.targetVersion ?? ""}`, { key: "update" });
    if (current() !== null) refresh().catch(() => {});
  }, signal);
  return banner;
}
