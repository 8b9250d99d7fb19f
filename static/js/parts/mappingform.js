// The form of a mapping. The server's rules are the rules; what is checked here is only what can be said sooner.

import { h, mark, say } from "../dom.js";
import { busy } from "./dialog.js";
import { field, placeFaults, toggle } from "./field.js";
import { icon } from "./icon.js";
import { alarm, badge, notice } from "./layout.js";
import { targetTest } from "./targettest.js";
import { failed } from "./toast.js";

const MAX_NAME = 500;

const domainFault = (text) => {
  const domain = text.trim();
  if (domain === "") return "Domain is required";
  if (domain.length > 255) return `Domain has ${domain.length} characters; at most 255 are possible`;
  // What is left is for the server, which knows the rule exactly.
  return /[\s/:@!?#]/.test(domain) ? "Invalid domain format: a name only, such as app.example.com" : null;
};

const portFault = (text) => {
  const port = Number(text);
  return Number.isInteger(port) && port >= 1 && port <= 65535 ? null : "Port must be a number from 1 to 65535";
};

/**
 * @param {{submit: string, save: (values: object) => Promise<object>, saved: (mapping: object) => void,
 *   extra?: Element}} spec
 */
export function mappingForm({ submit, save, saved, extra = null }) {
  const name = field({
    label: "Mapping Name", placeholder: "e.g., My Web App", autocomplete: "off", maxlength: MAX_NAME,
    hint: "The description by which you know it.",
    check: (text) => (text.trim() === "" ? "Mapping name is required" : null),
  });
  const domain = field({
    label: "Domain", placeholder: "app.example.com", autocomplete: "off", autocapitalize: "none", spellcheck: "false", inputmode: "url",
    hint: "Points to the Gateway in DNS. *.example.com takes every name below it.", check: domainFault,
  });
  const protocol = field({ label: "Protocol", options: [["Http", "HTTP"], ["Https", "HTTPS"]] });
  const host = field({
    label: "Host", placeholder: "localhost", value: "localhost", autocomplete: "off", autocapitalize: "none", spellcheck: "false",
    check: (text) => (text.trim() === "" ? "Host is required" : null),
  });
  const port = field({ label: "Port", type: "number", min: 1, max: 65535, value: "80", inputmode: "numeric", check: portFault });
  const invalid = toggle({ label: "Allow Invalid Certificates", hint: "For services with a self-signed or expired certificate.", change: () => follow() });
  const warning = notice("amber", icon("warning"), "The Agent will not notice when somebody in your network pretends to be this service.");
  const header = field({
    label: "Host Header",
    options: [["preserve", "The visitor's (recommended)"], ["target", "The target's host and port"], ["other", "Another name…"]],
    hint: "The name by which the service is asked. Some services answer only to a certain one.",
  });
  const headerName = field({ label: "Name in the Host Header", placeholder: "service.internal", autocomplete: "off", autocapitalize: "none", spellcheck: "false",
    check: (text) => (header.value === "other" && text.trim() === "" ? "A name is required" : null) });
  const enabled = toggle({ label: "Enable Mapping", hint: "Active immediately after saving.", on: true, change: () => follow() });
  const problem = alarm();
  const button = h("button", { type: "submit", class: "button primary" }, submit);
  const test = targetTest(() => values(), () => [host, port].map((one) => one.valid()).every(Boolean));
  const fields = {
    name, description: name, externalDomain: domain, internalHost: host, internalPort: port, internalProtocol: protocol,
    internalUseTls: protocol, hostHeader: headerName,
  };
  const invalidRow = h("div", { class: "stack" }, invalid.element, warning);

  const values = () => ({
    name: name.value.trim(),
    description: name.value.trim(),
    externalDomain: domain.value.trim(),
    internalHost: host.value.trim(),
    internalPort: Number(port.value),
    internalProtocol: protocol.value,
    internalUseTls: protocol.value === "Https",
    allowInvalidCertificates: invalid.value,
    allowSelfSignedCerts: invalid.value,
    enabled: enabled.value,
    isEnabled: enabled.value,
    hostHeader: header.value === "other" ? headerName.value.trim() : header.value,
  });

  /** What depends on something else. */
  function follow() {
    invalidRow.hidden = protocol.value !== "Https";
    warning.hidden = !invalid.value;
    headerName.element.hidden = header.value !== "other";
  }

  let clean = "";
  const element = h(
    "form",
    { class: "panel mapping-form", novalidate: true, "aria-label": "Mapping Configuration" },
    h("div", { class: "panel-head" }, h("h2", { class: "panel-title" }, "Mapping Configuration")),
    name.element,
    h("fieldset", { class: "box" }, h("legend", { class: "box-title" }, icon("gateway", 16), "External Endpoint"),
      domain.element,
      h("p", { class: "hint with-tag" }, badge("good", icon("lock", 12), "HTTPS"), "Visitors always come over HTTPS; the certificate is got and renewed by itself.")),
    h("fieldset", { class: "box" }, h("legend", { class: "box-title" }, icon("device", 16), "Internal Target"),
      h("div", { class: "field-row" }, protocol.element, host.element, port.element),
      invalidRow,
      header.element,
      headerName.element,
      test.element),
    enabled.element,
    problem,
    h("div", { class: "form-foot" }, extra, h("span", { class: "grow" }), h("a", { class: "button", href: "/mappings" }, "Cancel"), button),
  );

  element.addEventListener("input", () => {
    follow();
    test.stale();
  });
  element.addEventListener("submit", async (event) => {
    event.preventDefault();
    say(problem, "");
    const wrong = [name, domain, host, port, headerName].filter((one) => !one.valid());
    if (wrong.length > 0) return wrong[0].input.focus();
    const sent = values();
    // What is typed meanwhile would be lost.
    const focused = document.activeElement;
    element.inert = true;
    try {
      const mapping = await busy(button, "Saving…", () => save(sent)).finally(() => {
        element.inert = false;
        focused.focus();
      });
      clean = JSON.stringify(sent);
      saved(mapping);
    } catch (error) {
      const rest = placeFaults(error, fields);
      say(problem, rest);
      failed("Save failed", error);
    }
  });

  function fill(mapping) {
    name.value = mapping.description ?? mapping.name;
    domain.value = mapping.externalDomain;
    host.value = mapping.internalHost;
    port.value = mapping.internalPort;
    protocol.value = mapping.internalProtocol;
    invalid.value = mapping.allowInvalidCertificates;
    enabled.value = mapping.enabled;
    const literal = !["preserve", "target"].includes(mapping.hostHeader ?? "target");
    header.value = literal ? "other" : (mapping.hostHeader ?? "target");
    headerName.value = literal ? mapping.hostHeader : "";
    for (const one of Object.values(fields)) one.fault(null);
    follow();
    clean = JSON.stringify(values());
  }

  follow();
  clean = JSON.stringify(values());
  mark(element, "autocomplete", "off");
  return { element, fill, values, dirty: () => JSON.stringify(values()) !== clean };
}
