// A button that copies a text, also where the browser has no clipboard for pages without TLS.

import { h, press, put } from "../dom.js";
import { icon } from "./icon.js";
import { toast } from "./toast.js";

export async function copy(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Forbidden by the browser; the old way may not be.
    }
  }
  const area = h("textarea", { class: "offscreen", readonly: true, "aria-hidden": "true" });
  area.value = text;
  const parent = document.querySelector("dialog[open]") ?? document.body;
  const before = document.activeElement;
  parent.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  before?.focus();
  return copied;
}

/** @param {() => string} text  asked when pressed */
export function copyButton(label, text, kind = "small") {
  const button = press(kind, {}, icon("copy", 15), label);
  button.addEventListener("click", async () => {
    if (await copy(text())) {
      put(button, icon("check", 15), "Copied");
      setTimeout(() => put(button, icon("copy", 15), label), 2_000);
      toast("success", "Copied", text().slice(0, 200), { key: "copied" });
    } else {
      toast("warning", "Not copied", `The browser does not allow it. The text is: ${text()}`, { key: "copied" });
    }
  });
  return button;
}
