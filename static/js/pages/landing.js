// The page that the Gateway shows at its own name: an editor and, beside it, what it looks like.

import { onConnection } from "../live.js";
import { ApiError, get, put as replace, remove } from "../api.js";
import { onReturn } from "../events.js";
import { h, mark, press, say } from "../dom.js";
import { count } from "../format.js";
import { ask, busy } from "../parts/dialog.js";
import { failed, toast } from "../parts/toast.js";
import { panel } from "../parts/layout.js";
import { settings } from "../parts/settings.js";
import { guardEdits } from "../router.js";

/** In UTF-16 units, as the API counts. */
const MOST = 1_000_000;

export function page({ signal }) {
  let saved = null; // The last answer of the API.
  const editor = h("textarea", { class: "input editor", spellcheck: "false", "aria-label": "HTML of the landing page", "aria-describedby": "landing-problem" });
  // Sandboxed without a name of its own: it can neither reach this page nor the API.
  const preview = h("iframe", { class: "preview", title: "Live preview of the landing page", sandbox: "allow-scripts", src: "/preview.html", tabindex: "-1" });
  const reset = press("", { disabled: true }, "Reset to Default");
  const save = press("primary", { disabled: true }, "Save Changes");
  const status = h("span", { class: "data" }, "–");
  const hash = h("span", { class: "data" }, "–");
  const gateway = h("span", { class: "data" }, "–");
  const size = h("span", { class: "quiet" });
  const unsaved = h("span", { class: "badge badge-warn", role: "status" });
  const problem = h("p", { class: "problem", id: "landing-problem", role: "alert" });

  const dirty = () => saved !== null && editor.value !== saved.html;
  guardEdits(dirty, signal);

  let loaded = false;
  preview.addEventListener("load", () => {
    loaded = true;
    draw();
  });
  const draw = () => loaded && preview.contentWindow.postMessage({ html: editor.value }, "*");

  function paint() {
    say(unsaved, dirty() ? "Unsaved changes" : "");
    unsaved.hidden = !dirty();
    mark(save, "disabled", !dirty() || editor.value.trim() === "" || editor.value.length > MOST);
    mark(reset, "disabled", saved === null || saved.isDefault);
    say(size, `${count(editor.value.length)} of ${count(MOST)} characters`);
    if (saved === null) return;
    say(status, saved.isDefault ? "Default" : "Custom");
    say(hash, saved.hash?.slice(0, 8));
    say(gateway, saved.synced === true ? "has it" : saved.synced === false ? "does not have it yet" : "not connected");
    if (editor.value.length > MOST) say(problem, `The page has ${count(editor.value.length)} characters; at most ${count(MOST)} are possible.`);
    else if (saved !== null && editor.value.trim() === "") say(problem, "The page must not be empty. Reset it to get the default.");
    else say(problem, "");
  }

  async function load() {
    try {
      const next = await get("/settings/landing-page", signal);
      const edited = dirty();
      saved = next;
      if (!edited) {
        editor.value = next.html;
        draw();
      }
      paint();
    } catch (error) {
      if (!ApiError.gone(error)) failed("Failed to load landing page", error);
    }
  }

  editor.addEventListener("input", () => {
    draw();
    paint();
  });
  save.addEventListener("click", async () => {
    const html = editor.value;
    try {
      const answer = await busy(save, "Saving…", () => replace("/settings/landing-page", { html }));
      saved = { ...saved, isDefault: false, ...answer, html };
      toast("success", "Landing page saved", "Visitors of the Gateway's own name see it from now on.");
      // Whether the Gateway has it is known a moment later.
      load();
    } catch (error) {
      failed("Failed to save landing page", error);
      say(problem, Object.values(error.errors ?? {}).flat().join(". ") || error.message);
      return;
    }
    paint();
  });
  reset.addEventListener("click", async () => {
    let next = null;
    const done = await ask({
      title: "Reset to Default?",
      text: "Your own page is deleted and the default comes back. This cannot be undone.",
      confirm: "Reset",
      danger: true,
      run: async () => (next = await remove("/settings/landing-page")),
    });
    if (!done) return;
    saved = { ...saved, ...next };
    editor.value = saved.html;
    draw();
    paint();
    toast("success", "Landing page reset");
    load();
  });
  onReturn(load, signal);
  onConnection(load, signal);
  paint();
  load();
  const item = (word, value) => h("span", {}, h("span", { class: "label" }, word), value);
  return settings(
    "/settings",
    "What visitors of the Gateway's own name see",
    [reset, save],
    h("div", { class: "status-bar" }, item("Status: ", status), item("Hash: ", hash), item("Gateway: ", gateway), unsaved),
    problem,
    h("div", { class: "columns" }, panel("HTML Editor", size, editor), panel("Live Preview", h("span", { class: "quiet" }, "Runs no scripts, loads nothing from elsewhere"), preview)),
  );
}
