// Logging in: the page, and the same form as a dialog where a session ran out over edits that are not saved.

import { h, mark, put, say } from "../dom.js";
import { span } from "../format.js";
import { dialog } from "../parts/dialog.js";
import { icon } from "../parts/icon.js";
import { login, session } from "../session.js";

function form(done) {
  const input = h("input", { type: "password", id: "password", class: "input", placeholder: "Enter password", autocomplete: "current-password", "aria-describedby": "login-problem", required: true });
  const problem = h("div", { id: "login-problem", class: "login-error", role: "alert" });
  const button = h("button", { type: "submit", class: "button primary large wide", disabled: true }, "Access Control Panel");
  let locked = null;

  const ready = () => mark(button, "disabled", locked !== null || input.value === "");
  function fault(text) {
    put(problem, text && h("div", { class: "bg-rose-glow" }, icon("warning"), h("span", { class: "text-rose-base" }, text)));
  }

  /** Counts down what is left of a lockout; the button is free again at its end. */
  function lock(seconds) {
    const end = performance.now() + seconds * 1000;
    // Read out once; a screen reader must not be made to count along.
    fault(`Too many failed attempts. Try again in ${span(seconds)}.`);
    const text = problem.querySelector(".text-rose-base");
    const left = h("span", { class: "countdown", "aria-hidden": "true" });
    text.after(left);
    const tick = () => {
      const rest = Math.ceil((end - performance.now()) / 1000);
      if (rest > 0) return say(left, `${Math.floor(rest / 60)}:${String(rest % 60).padStart(2, "0")}`);
      clearInterval(locked);
      locked = null;
      fault("");
      ready();
      input.focus();
    };
    locked = setInterval(tick, 500);
    tick();
    ready();
  }

  const element = h(
    "form",
    { class: "login-form" },
    problem,
    h("label", { for: "password", class: "label" }, "Password"),
    h("div", { class: "input-with-icon" }, icon("lock"), input),
    button,
  );
  input.addEventListener("input", ready);
  element.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (locked !== null || input.value === "") return;
    fault("");
    mark(button, "disabled", true);
    put(button, h("span", { class: "spinner", "aria-hidden": "true" }), "Authenticating…");
    try {
      const response = await login(input.value);
      if (response.ok) return done();
      const body = await response.json().catch(() => null);
      if (response.status === 429) return lock(Number(response.headers.get("Retry-After")) || 300);
      if (response.status === 401) fault("Invalid password");
      else fault(body?.message ?? `The Agent answered ${response.status}.`);
      input.select();
    } catch {
      fault("The Agent does not answer. Is it running, and is this computer in its network?");
    } finally {
      put(button, "Access Control Panel");
      ready();
    }
    input.focus();
  });
  return element;
}

/** The login page. `why` says why one is here, when there is a reason. */
export function page(why = "") {
  return h(
    "main",
    { class: "login" },
    h("div", { class: "login-rings", "aria-hidden": "true" }, [1, 2, 3].map((i) => h("span", { class: `ring ring-${i}` })), [1, 2, 3, 4, 5, 6].map((i) => h("span", { class: `dot dot-${i}` }))),
    h(
      "div",
      { class: "login-card" },
      h("img", { src: "/logo.svg", alt: "", width: 72, height: 72 }),
      h("h1", { class: "login-name" }, "Octoporty"),
      h("p", { class: "login-sub" }, "AGENT CONTROL PANEL"),
      why && h("p", { class: "login-why", role: "status" }, why),
      form(() => {}),
    ),
    h("p", { class: "login-foot" }, "SECURE TUNNEL MANAGEMENT INTERFACE"),
  );
}

let asking = false;

/** Asks for the password over the page, whose edits stay as they are. */
export async function again() {
  if (asking) return;
  asking = true;
  await dialog({ title: "Your session has ended", firm: true }, (close) => {
    // In this tab or in another one.
    session.addEventListener("begun", close, { once: true });
    return h("div", { class: "modal-body" }, h("p", {}, "Log in again to go on. What you have not saved is still here."), form(() => {}));
  });
  asking = false;
}
