// The logs of the Agent and of the Gateway, one at a time.

import { h, put } from "../dom.js";
import { pills } from "../parts/field.js";
import { frame } from "../parts/layout.js";
import { logView } from "../parts/logview.js";
import { setQuery } from "../router.js";

const SOURCES = {
  agent: { title: "Agent Logs", path: "/agent/logs", event: "AgentLog", name: "octoporty-agent" },
  gateway: { title: "Gateway Logs", path: "/gateway/logs", event: "GatewayLog", name: "octoporty-gateway" },
};

export function page({ query, signal }) {
  const place = h("div", {});
  let view = null; // The AbortController of the log that is shown.
  const first = query.get("of") === "gateway" ? "gateway" : "agent";
  const choice = pills("Whose log", [["agent", "Agent"], ["gateway", "Gateway"]], first, (of) => {
    setQuery(of === "agent" ? "" : `?of=${of}`);
    show(of);
  });
  function show(of) {
    view?.abort();
    view = new AbortController();
    put(place, logView(SOURCES[of], AbortSignal.any([signal, view.signal])).element);
  }
  show(first);
  return {
    title: "Logs",
    element: frame({ title: "Logs", about: "What both programs say, as it happens", actions: choice.element }, place),
  };
}
