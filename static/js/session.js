// Who is logged in, and renewing that before it runs out. The tokens are in cookies that no script can read; what is
// kept here is only until when they are good, shared by all tabs of this browser.

import { keep, kept } from "./kept.js";

const KEY = "octoporty_session";
const EARLY_MS = 2 * 60_000;
const DEFAULT_LIFE_MS = 15 * 60_000;

/** `ended`: log in again. `begun`: logged in, here or in another tab. */
export const session = new EventTarget();

let renewing = null;
let timer = null;

function goodUntil() {
  const text = kept(KEY);
  return text === null ? null : Number(text);
}

/** Whether this browser has logged in and not out. The Agent may still see it otherwise. */
export const known = () => goodUntil() !== null;

/** Logs in. Returns the Response; on success the session is running. */
export async function login(password) {
  const response = await fetch("/api/v1/auth/login", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ password }),
  });
  if (response.ok) {
    await granted(response);
    session.dispatchEvent(new Event("begun"));
  }
  return response;
}

/** Ends this browser's session. Other tabs hear of it first, so that they do not stumble over its end. */
export function logout() {
  forget();
  return fetch("/api/v1/auth/logout", { method: "POST" });
}

/** The session is over: forget it and say so. */
export function ended() {
  forget();
  session.dispatchEvent(new Event("ended"));
}

function forget() {
  keep(KEY, null);
  clearTimeout(timer);
}

/** Starts renewing in time; at once when the time has passed. Resolves to whether there is a session. */
export async function resume() {
  if (!known()) return false;
  if (goodUntil() - Date.now() < EARLY_MS) return (await renew()) !== false;
  plan();
  return true;
}

/** Renews the session, once for all who ask at the same time. Resolves to whether there is one; null: nobody knows. */
export function renew() {
  renewing ??= exclusive(exchange).finally(() => (renewing = null));
  return renewing;
}

// A renewal token works once, and two tabs have the same one.
const exclusive = (work) => (navigator.locks ? navigator.locks.request(KEY, work) : work());

const seen = { until: null };

async function exchange() {
  const until = goodUntil();
  // Another tab has renewed it since this one looked.
  if (until !== null && seen.until !== null && until > seen.until && until > Date.now()) {
    plan();
    return true;
  }
  const response = await fetch("/api/v1/auth/refresh", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: "{}",
  }).catch(() => null);
  if (response?.ok) {
    await granted(response);
    return true;
  }
  // The Agent is away or busy: nothing is known about the session, so it is not given up.
  if (![400, 401].includes(response?.status)) {
    clearTimeout(timer);
    timer = setTimeout(renew, 5_000);
    return null;
  }
  // Without locks (plain http) another tab may have been faster by a blink; then its cookies are ours too.
  const alive = await fetch("/api/v1/status").then((answer) => answer.ok, () => false);
  if (alive) plan(); else keep(KEY, null);
  return alive;
}

async function granted(response) {
  const body = await response.json().catch(() => ({}));
  // By the Agent's own clock: a Raspberry Pi that has just started may think it is 1970.
  const now = Date.parse(response.headers.get("Date") ?? "");
  const life = Date.parse(body.expiresAt ?? "") - now;
  keep(KEY, Date.now() + (Number.isFinite(life) && life > 0 ? life : DEFAULT_LIFE_MS));
  plan();
}

function plan() {
  clearTimeout(timer);
  seen.until = goodUntil() ?? Date.now() + DEFAULT_LIFE_MS;
  const early = Math.min(EARLY_MS, (seen.until - Date.now()) / 2);
  // Tabs spread out, so that the first one renews and the others notice.
  timer = setTimeout(renew, Math.max(1_000, seen.until - Date.now() - early + Math.random() * 10_000));
}

addEventListener("storage", (event) => {
  if (event.key !== KEY) return;
  if (event.newValue === null) session.dispatchEvent(new Event("ended"));
  else if (event.oldValue === null) session.dispatchEvent(new Event("begun"));
});

// Timers stand still while a computer sleeps.
addEventListener("visibilitychange", () => {
  if (!document.hidden && known() && goodUntil() - Date.now() < EARLY_MS) renew();
});
