// Asks the Agent to call a service before it is published, and says what came back or which step failed.

import { post } from "../api.js";
import { h, press, put } from "../dom.js";
import { millis } from "../format.js";
import { busy } from "./dialog.js";
import { icon } from "./icon.js";
import { notice } from "./layout.js";

/** The result of POST /mappings/test as a notice. */
export function testResult(result) {
  if (result.ok) {
    const facts = [result.title && `“${result.title}”`, result.address, millis(result.durationMs)].filter(Boolean).join(" · ");
    return notice("emerald", icon("check"), h("strong", {}, `It answers: ${result.statusCode} ${result.statusText ?? ""}`.trim()), facts && h("p", { class: "hint" }, facts));
  }
  return notice("rose", icon("warning"), h("strong", {}, result.hop ? `It does not answer (${result.hop}): ` : "It does not answer: "), result.error ?? "no reason is known", result.hint && h("p", { class: "hint" }, result.hint));
}

/** What the test needs of a mapping's fields. */
export const testBody = ({ internalHost, internalPort, internalUseTls, allowSelfSignedCerts, hostHeader, externalDomain }) => ({
  internalHost, internalPort, internalUseTls, allowSelfSignedCerts, hostHeader, externalDomain,
});

/**
 * @param {() => object} values  the mapping's fields as they are now
 * @param {() => boolean} valid  whether asking makes sense
 */
export function targetTest(values, valid, tested = () => {}) {
  const place = h("div", { role: "status" });
  const button = press("small", {}, icon("bolt", 15), "Test target");
  button.addEventListener("click", async () => {
    if (!valid()) return;
    try {
      const result = await busy(button, "Testing…", () => post("/mappings/test", testBody(values())));
      put(place, testResult(result));
      tested(result);
    } catch (error) {
      const faults = Object.entries(error.errors ?? {}).map(([name, texts]) => `${name} ${[texts].flat().join("; ")}`);
      put(place, notice("rose", icon("warning"), faults.join(". ") || error.message));
    }
  });
  return {
    element: h("div", { class: "target-test" }, button, place),
    button,
    /** The fields have changed: what was found out is about something else. */
    stale: () => put(place),
  };
}
