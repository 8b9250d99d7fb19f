// Asks a public address and the service behind it side by side: whichever differs names the hop to look at.

import { post } from "../api.js";
import { h, mark, put } from "../dom.js";
import { bytes, dateText, millis, utc } from "../format.js";
import { busy } from "../parts/dialog.js";
import { icon } from "../parts/icon.js";
import { badge, fact, frame, panel, quiet } from "../parts/layout.js";
import { failed, toast } from "../parts/toast.js";
import { setQuery } from "../router.js";

export function page({ query, signal }) {
  const input = h("input", { id: "probe-url", type: "url", class: "input", placeholder: "https://app.example.com/path", "aria-label": "Address to probe", autocapitalize: "none", spellcheck: "false", value: query.get("url") ?? "" });
  const button = h("button", { type: "submit", class: "button primary" }, "Run Probe");
  const about = h("div", { class: "facts", role: "status" });
  const results = h("div", { class: "stack", hidden: true });
  const form = h("form", { class: "probe", novalidate: true }, input, button);

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const url = input.value.trim();
    if (url === "") {
      toast("warning", "URL required", "Enter the public address to ask.");
      return input.focus();
    }
    setQuery(`?${new URLSearchParams({ url })}`);
    try {
      show(await busy(button, "Probing…", () => post("/test/diagnose", { url }, signal)));
    } catch (error) {
      failed("Probe failed", error);
    }
  });

  function show(answer) {
    if (!answer.success && !answer.gateway && !answer.agent) {
      results.hidden = true;
      put(about, h("p", { class: "problem" }, answer.error ?? "The probe failed."));
      return toast("error", "Probe failed", answer.error ?? "");
    }
    put(
      about,
      fact("Request ID", answer.requestId),
      fact("Mapping", answer.mapping ? [answer.mapping.externalDomain, " → ", answer.mapping.internalTarget] : "none has this domain"),
      answer.error && h("p", { class: "problem" }, answer.error),
    );
    put(
      results,
      answer.hops?.length > 0 && hops(answer.hops),
      h("div", { class: "columns" }, probe("Gateway Response", answer.gateway), probe("Agent Direct Response", answer.agent)),
      logs(answer.gatewayLogs ?? []),
    );
    results.hidden = false;
  }

  function hops(list) {
    return panel("Way of the Request", null, h("ol", { class: "hops" }, list.map((hop) => {
      const good = hop.ok ?? hop.success ?? !hop.error;
      return h("li", { class: good ? "good" : "bad" }, icon(good ? "check" : "warning", 16), h("div", {}, h("strong", {}, hop.name ?? hop.hop ?? ""), h("span", { class: "hidden" }, good ? " succeeded" : " failed"), typeof hop.durationMs === "number" && h("span", { class: "quiet" }, ` ${millis(hop.durationMs)}`), h("p", { class: "hint" }, hop.error ?? hop.message ?? hop.detail ?? "")));
    })));
  }

  function probe(title, result) {
    if (!result) return panel(title, null, quiet("Not asked."));
    const good = result.success && result.statusCode < 400;
    return panel(
      title,
      null,
      h("div", { class: "facts" },
        fact("Status", badge(good ? "good" : "bad", result.success ? String(result.statusCode) : "Failed")),
        fact("Duration", millis(result.durationMs)),
        fact("Content-Type", result.contentType ?? "–"),
        fact("Body Size", `${bytes(result.bodySize)}${result.bodyTruncated ? " (truncated)" : ""}`)),
      result.error && h("p", { class: "problem" }, result.error),
      block("Headers", result.headers ? JSON.stringify(result.headers, null, 2) : "", title),
      block("Body", body(result), title),
    );
  }

  function body(result) {
    if (result.bodyText) return result.bodyText;
    return result.bodyBase64 ? `base64:\n${result.bodyBase64}` : "(empty body)";
  }

  const block = (label, text, of) =>
    text !== "" && [h("h3", { class: "label" }, label), h("pre", { class: "code", tabindex: "0", role: "region", "aria-label": `${label}: ${of}` }, text)];

  function logs(list) {
    const rows = list.map((line) => {
      const date = new Date(line.timestamp);
      return h("div", { class: `log-line log-${String(line.level).toLowerCase()}` },
        h("time", { datetime: line.timestamp, title: utc(date) }, dateText(date, "clock")), " ", h("span", { class: "log-level" }, `[${line.level}]`), " ", h("span", { class: "log-text" }, line.message));
    });
    return panel("Gateway Logs", null, h("div", { class: "terminal", tabindex: "0", role: "region", "aria-label": "Log lines of this request" }, rows.length > 0 ? rows : h("p", { class: "terminal-empty" }, "No line of the Gateway's log is about this request.")));
  }

  mark(input, "autofocus", true);
  return {
    title: "Request Inspector",
    element: frame(
      { title: "Request Inspector", about: "Asks the public address and the service behind it, side by side" },
      panel("Probe URL", null, form, about),
      results,
    ),
  };
}
