// The way to the first mapping, in three steps: choose a service, see that it answers, give it a name. Then: the address.

import { ApiError, get, post } from "../api.js";
import { h, mark, press, put, say } from "../dom.js";
import { current } from "../live.js";
import { busy } from "./dialog.js";
import { field, placeFaults, toggle } from "./field.js";
import { icon } from "./icon.js";
import { addressActions, publicUrl, routeBadge } from "./mapping.js";
import { qrImage } from "./qr.js";
import { host as hostOf } from "./strip.js";
import { testBody, testResult } from "./targettest.js";
import { actions, alarm, loader, quiet } from "./layout.js";

const STEPS = ["Choose a service", "Test it", "Give it a name", "Done"];

/** "example.com" of "gateway.example.com": where new names usually go. */
function parentDomain() {
  const gateway = hostOf(current()?.gatewayUrl);
  if (/^[\d.]+$|:|^localhost$|^$/.test(gateway)) return "";
  const labels = gateway.split(".");
  return labels.length > 2 ? labels.slice(1).join(".") : gateway;
}

/** @param {() => void} over  called when the operator is through with it */
export function firstRun(signal, over) {
  const target = { internalHost: "127.0.0.1", internalPort: 80, internalUseTls: false, allowSelfSignedCerts: false, hostHeader: "preserve", name: "" };
  let finished = false;
  const steps = STEPS.map((text) => h("li", {}, text));
  const place = h("div", { class: "first-body" });
  const element = h(
    "section",
    { class: "panel first-run", "aria-labelledby": "first-title" },
    h("div", { class: "first-head" }, h("h2", { id: "first-title" }, "Publish your first service"), h("p", { class: "subtitle" }, "It takes a minute, and nothing is public before the last step.")),
    h("ol", { class: "steps" }, steps),
    place,
  );

  function show(number, ...content) {
    steps.forEach((step, i) => {
      mark(step, "aria-current", i === number ? "step" : null);
      mark(step, "class", i < number ? "done" : null);
    });
    put(place, ...content);
  }

  const move = (...content) => {
    show(...content);
    // The button that was pressed is gone; go on where it leads.
    place.querySelector("h3")?.focus();
  };
  const heading = (text) => h("h3", { tabindex: "-1" }, text);
  const back = (work) => press("", { onclick: work }, "Back");

  function choose(entering = false) {
    const list = h("div", { class: "services", role: "group", "aria-label": "Services found" }, loader());
    const other = h("button", { class: "service", onclick: () => manual() }, icon("edit"), h("span", { class: "row-text" }, h("span", { class: "row-name" }, "Another service"), h("span", { class: "quiet" }, "On this or another machine of your network")));
    (entering ? show : move)(0, heading("Which service shall be reachable?"), quiet("These listen on the Agent's own machine:"), list, other);
    get("/discover", signal).then(
      ({ services }) =>
        put(
          list,
          services.length === 0 && quiet("None was found on the Agent's own machine."),
          services.map((service) =>
            h(
              "button",
              { class: "service", onclick: () => take(service) },
              icon("gateway"),
              h("span", { class: "row-text" }, h("span", { class: "row-name" }, service.title || service.process || `Port ${service.port}`),
                h("span", { class: "quiet data" }, `${service.protocol === "https" ? "https" : "http"}://${service.host}:${service.port}${service.process && service.title ? ` · ${service.process}` : ""}`)),
              icon("right", 16),
            ),
          ),
        ),
      (error) => !ApiError.gone(error) && put(list, h("p", { class: "problem" }, `Services cannot be looked for: ${error.message}`)),
    );
  }

  function take(service) {
    const tls = service.protocol === "https";
    Object.assign(target, { internalHost: service.host, internalPort: service.port, internalUseTls: tls, allowSelfSignedCerts: tls, name: service.title || service.process || "", suggested: service.suggestedName });
    test();
  }

  function manual() {
    const protocol = field({ label: "Protocol", options: [["http", "HTTP"], ["https", "HTTPS"]] });
    const host = field({ label: "Host", value: target.internalHost, placeholder: "192.168.1.20", autocapitalize: "none", spellcheck: "false", check: (text) => (text.trim() ? null : "Host is required") });
    const port = field({ label: "Port", type: "number", min: 1, max: 65535, value: String(target.internalPort), check: (text) => (Number.isInteger(Number(text)) && text > 0 && text < 65536 ? null : "Port must be a number from 1 to 65535") });
    const invalid = toggle({ label: "Allow Invalid Certificates", hint: "For a self-signed certificate." });
    invalid.element.hidden = true;
    protocol.input.addEventListener("change", () => (invalid.element.hidden = protocol.value !== "https"));
    const form = h("form", { novalidate: true }, heading("Where is it?"), h("div", { class: "field-row" }, protocol.element, host.element, port.element), invalid.element,
      h("div", { class: "form-foot" }, back(() => choose()), h("span", { class: "grow" }), h("button", { type: "submit", class: "button primary" }, "Next")));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (![host, port].map((one) => one.valid()).every(Boolean)) return;
      Object.assign(target, { internalHost: host.value.trim(), internalPort: Number(port.value), internalUseTls: protocol.value === "https", allowSelfSignedCerts: protocol.value === "https" && invalid.value, suggested: "" });
      test();
    });
    move(0, form);
  }

  async function test() {
    const where = `${target.internalUseTls ? "https" : "http"}://${target.internalHost}:${target.internalPort}`;
    const result = h("div", { role: "status" }, loader());
    const next = press("primary", { disabled: true, onclick: () => name() }, "Next");
    const again = press("", { onclick: () => test() }, "Test again");
    move(1, heading(`Does ${where} answer?`), result, h("div", { class: "form-foot" }, back(() => choose()), h("span", { class: "grow" }), again, next));
    try {
      const answer = await post("/mappings/test", testBody(target), signal);
      put(result, testResult(answer));
      say(next, answer.ok ? "Next" : "Go on anyway");
      if (!target.name && answer.title) target.name = answer.title;
      mark(next, "disabled", false);
      next.focus();
    } catch (error) {
      if (ApiError.gone(error)) return;
      // Refused fields: the target may not be published at all.
      const faults = Object.values(error.errors ?? {}).flat().join(". ");
      put(result, testResult({ ok: false, error: faults || error.message }));
    }
  }

  function name() {
    const parent = parentDomain();
    const word = target.suggested || target.name.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 30) || "app";
    const domain = field({ label: "Domain", placeholder: "app.example.com", value: parent ? `${word}.${parent}` : "", autocapitalize: "none", spellcheck: "false", autocomplete: "off",
      hint: "Its DNS entry must lead to the Gateway.", check: (text) => (text.trim() ? null : "Domain is required") });
    const title = field({ label: "Mapping Name", value: target.name || word, placeholder: "e.g., My Web App", check: (text) => (text.trim() ? null : "Mapping name is required") });
    const problem = alarm();
    const create = h("button", { type: "submit", class: "button primary" }, "Publish");
    const form = h("form", { novalidate: true }, heading("Under which name?"), domain.element, title.element, problem,
      h("div", { class: "form-foot" }, back(() => test()), h("span", { class: "grow" }), create));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      say(problem, "");
      if (![domain, title].map((one) => one.valid()).every(Boolean)) return;
      try {
        finished = true; // The list of mappings changes under us now; this stays until the address was seen.
        const { suggested, name: ignored, ...fields } = target;
        const mapping = await busy(create, "Publishing…", () => post("/mappings", { ...fields, externalDomain: domain.value.trim(), description: title.value.trim(), isEnabled: true }));
        done(mapping);
      } catch (error) {
        finished = false;
        say(problem, placeFaults(error, { externalDomain: domain, description: title, name: title }));
      }
    });
    move(2, form);
  }

  function done(mapping) {
    move(
      3,
      h("div", { class: "first-done" },
        qrImage(publicUrl(mapping)),
        h("div", { class: "stack" },
          heading("It is published"),
          h("p", { class: "data address" }, publicUrl(mapping)),
          addressActions(mapping),
          h("div", { class: "state-row" }, routeBadge(mapping), h("span", { class: "quiet" }, "The first visit may take some seconds, while the certificate is got.")),
          actions(h("a", { class: "button", href: `/mappings/${mapping.id}` }, "Look at the mapping"), press("primary", { onclick: over }, "Done")))),
    );
  }

  choose(true);
  return { element, busy: () => finished };
}
