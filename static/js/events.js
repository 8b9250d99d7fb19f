// The one event stream from the Agent. Every kind of event is dispatched here under its own name with its data as
// `detail`; `open` (detail: whether it was lost before) and `away` tell how the stream is.

import { get } from "./api.js";
import { known } from "./session.js";

const KINDS = [
  "StatusUpdate", "GatewayLog", "AgentLog", "MappingStatusUpdate", "MappingsChanged", "RequestLogged", "Traffic",
  "UpdateOutcome",
];
const RETRY_MS = 2_000;
/** A tab nobody looks at gives its connection back: a browser has six for one Agent, and the Agent sixteen in all. */
const UNSEEN_MS = 30_000;

export const events = new EventTarget();

let source = null;
let timer = null;
let wanted = false;
let lost = false;
let state = "connecting";

/** Calls with the data of every event of a kind until the signal ends it. */
export const on = (kind, call, signal) => events.addEventListener(kind, (event) => call(event.detail), { signal });

/** Calls when the stream has opened, the first time too: what happened before is not told. */
export const onReturn = (call, signal) => on("open", () => call(), signal);

const tell = (kind, detail) => events.dispatchEvent(new CustomEvent(kind, { detail }));

export function start() {
  wanted = true;
  if (!document.hidden) open();
}

/** `forNow`: it is begun again, and what came in between is not told. */
export function stop(forNow = false) {
  wanted = false;
  lost = forNow;
  close();
}

function close() {
  clearTimeout(timer);
  source?.close();
  source = null;
}

function open() {
  close();
  source = new EventSource("/api/v1/events");
  source.onopen = () => {
    state = "open";
    tell("open", lost);
    lost = false;
  };
  source.onerror = () => {
    close();
    retry();
  };
  for (const kind of KINDS) {
    source.addEventListener(kind, (event) => {
      let detail;
      try {
        detail = JSON.parse(event.data);
      } catch (error) {
        console.error(`event ${kind} is no JSON: ${error.message}`);
        return;
      }
      tell(kind, detail);
    });
  }
}

// Asks something first: that renews a session that ran out during sleep, and tells a stream that is refused (there are
// too many) from an Agent that is away. In the first case the answers to these questions are the news.
async function retry() {
  lost = true;
  if (!known()) return;
  try {
    const status = await get("/status");
    if (!wanted) return;
    tell("StatusUpdate", { connectionStatus: status.connectionStatus, status });
    if (state === "away") {
      state = "connecting";
      return open();
    }
  } catch (error) {
    if (!wanted) return;
    if (error.status === 0 || error.status >= 500) {
      if (state !== "away") {
        state = "away";
        tell("away");
      }
    }
  }
  clearTimeout(timer);
  timer = setTimeout(() => wanted && !document.hidden && open(), RETRY_MS);
}

document.addEventListener("visibilitychange", () => {
  if (!wanted) return;
  clearTimeout(timer);
  if (!document.hidden) {
    if (source === null) open();
  } else {
    timer = setTimeout(() => {
      lost = true;
      close();
    }, UNSEEN_MS);
  }
});
