// What is known about the Agent right now: its status, kept up to date by the event stream and looked at by every page.

import { get } from "./api.js";
import { events } from "./events.js";

/** Dispatches `status` whenever anything of it has changed. */
export const live = new EventTarget();

/** The last GET /status, or null before the first. */
let status = null;
/** When it was received, by the browser's clock: uptimes go on counting from there. */
let receivedAt = 0;
let firstVersion = null;

export const current = () => status;

/** Seconds of a span that was `seconds` long when the status came. */
export const grown = (seconds) =>
  seconds === null || seconds === undefined ? null : seconds + (performance.now() - receivedAt) / 1000;

function take(next) {
  const before = status;
  status = { ...status, ...next };
  receivedAt = performance.now();
  firstVersion ??= status.version;
  live.dispatchEvent(new CustomEvent("status", { detail: { before, status } }));
}

/** Calls now, if anything is known, and at every change until the signal ends it. */
export function onStatus(call, signal) {
  live.addEventListener("status", (event) => call(event.detail.status, event.detail.before), { signal });
  if (status !== null) call(status, status);
}

/** Calls when the tunnel's state has become another one. */
export const onConnection = (call, signal) =>
  live.addEventListener("status", ({ detail: { before, status: now } }) => {
    if (before && before.connectionStatus !== now.connectionStatus) call();
  }, { signal });

export async function refresh() {
  take(await get("/status"));
  return status;
}

/** Whether the Agent has been replaced by another version since this page was loaded. */
export const outdated = () => firstVersion !== null && status?.version !== firstVersion;

/** Forgets everything, at logout. */
export function forget() {
  status = null;
}

events.addEventListener("StatusUpdate", ({ detail }) => {
  take({ connectionStatus: detail.connectionStatus, ...detail.status });
});

// What happened while the stream was away is not told again.
events.addEventListener("open", ({ detail: again }) => {
  if (again) refresh().catch(() => {});
});
