// One call of the Agent's API. Renews the session once when it has run out; who is logged in is session.js's matter.

import { ended, renew } from "./session.js";

const BASE = "/api/v1";

/** What went wrong, in words for people. `status` is 0 when the Agent did not answer. */
export class ApiError extends Error {
  constructor(status, message, { errors = {}, body = null, retryAfter = null } = {}) {
    super(message);
    this.name = "ApiError";
    Object.assign(this, { status, errors, body, retryAfter });
  }

  /** Whether somebody has gone to another page and nobody waits for this any more. */
  static gone(error) {
    return error?.name === "AbortError";
  }
}

/**
 * Sends a request and returns the `Response` when its status is a good one.
 * @param {object} [options] `json` or `text` to send, `accept`, `signal`
 */
export async function send(method, path, options = {}) {
  let response = await once(method, path, options);
  if (response.status === 401) {
    const renewed = await renew();
    if (renewed === null) throw new ApiError(503, "The session cannot be renewed at this moment. Try again.");
    if (renewed) response = await once(method, path, options);
  }
  if (response.ok) return response;
  const error = await fault(response);
  if (response.status === 401) ended();
  throw error;
}

/** The JSON that is answered; null for an empty answer. */
export async function call(method, path, options) {
  const response = await send(method, path, options);
  const text = await response.text();
  if (text === "") return null;
  try {
    return JSON.parse(text);
  } catch {
    throw new ApiError(response.status, `${method} ${path}: the answer is no JSON. Does a proxy stand in between?`);
  }
}

export const get = (path, signal) => call("GET", path, { signal });
export const post = (path, json, signal) => call("POST", path, { json, signal });
export const put = (path, json) => call("PUT", path, { json });
export const patch = (path, json) => call("PATCH", path, { json });
export const remove = (path) => call("DELETE", path);

/** `?a=b` from an object; empty values are left out. */
export function query(values) {
  const entries = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return entries.length === 0 ? "" : `?${new URLSearchParams(entries)}`;
}

async function once(method, path, { json, text, accept = "application/json", signal }) {
  const headers = { Accept: accept };
  if (json !== undefined || text !== undefined) headers["Content-Type"] = "application/json";
  const body = json === undefined ? text : JSON.stringify(json);
  try {
    return await fetch(BASE + path, { method, headers, body, signal, cache: "no-store" });
  } catch (error) {
    if (ApiError.gone(error)) throw error;
    throw new ApiError(0, "The Agent does not answer. Is it running, and is this computer in its network?");
  }
}

async function fault(response) {
  const retryAfter = Number(response.headers.get("Retry-After")) || null;
  let body = null;
  try {
    body = JSON.parse(await response.text());
  } catch {
    // Not from us, or cut off: the status has to do.
  }
  const message = typeof body?.message === "string" ? body.message : `The Agent answered ${response.status}.`;
  const errors = body && typeof body.errors === "object" && body.errors !== null ? body.errors : {};
  return new ApiError(response.status, message, { errors, body, retryAfter });
}

/**
 * Reads an answer to its end and reports how far it is.
 * @param {(bytes: number, total: number|null) => void} progress
 */
export async function download(path, { accept, signal, progress }) {
  const response = await send("GET", path, { accept, signal });
  const total = Number(response.headers.get("Content-Length")) || null;
  const name = /filename="([^"]+)"/.exec(response.headers.get("Content-Disposition") ?? "")?.[1] ?? null;
  const chunks = [];
  let bytes = 0;
  const reader = response.body.getReader();
  for (;;) {
    let step;
    try {
      step = await reader.read();
    } catch (error) {
      if (ApiError.gone(error)) throw error;
      throw new ApiError(0, `The download was cut off after ${bytes} bytes. Try again.`);
    }
    if (step.done) break;
    chunks.push(step.value);
    bytes += step.value.length;
    progress?.(bytes, total);
  }
  return { blob: new Blob(chunks, { type: response.headers.get("Content-Type") ?? "" }), name };
}

/** Hands a file to the browser's downloads. */
export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  // The browser has taken hold of it by then; a minute later it certainly has.
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
