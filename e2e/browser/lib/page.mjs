// A browser, and pages in it that are watched: an error in the console, a report of the policy or a request to another
// origin makes the test fail, whatever else it looks at.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

import { chromium } from "playwright-core";

import { PASSWORD } from "./world.mjs";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const FLAGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];
/** An upper bound, not a pace. */
const PATIENCE_MS = 15_000;

export const launch = () => chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });

/**
 * A page of the Agent, logged in unless it is told otherwise.
 * @param {{loggedIn?: boolean, theme?: "dark"|"light", width?: number, height?: number}} options
 */
export async function open(browser, world, path = "/", { loggedIn = true, theme = "dark", width = 1280, height = 900, ...more } = {}) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: theme, reducedMotion: "reduce", acceptDownloads: true, timezoneId: "Europe/Vienna", ...more });
  context.setDefaultTimeout(PATIENCE_MS);
  if (loggedIn) await logIn(context, world);
  const page = await context.newPage();
  watch(page, world);
  await page.goto(world.url + path);
  await page.waitForSelector("main h1:not(.start-name)");
  return page;
}

/** Gives a context the cookies of a login, without the page of it. */
export async function logIn(context, world) {
  world.cookies ??= (await world.login()).cookies;
  await context.addCookies(
    world.cookies.map((line) => {
      const [pair, ...attributes] = line.split("; ");
      const at = pair.indexOf("=");
      const cookiePath = attributes.find((one) => one.toLowerCase().startsWith("path=")).slice(5);
      return { name: pair.slice(0, at), value: pair.slice(at + 1), domain: "127.0.0.1", path: cookiePath, httpOnly: true, sameSite: "Strict" };
    }),
  );
  await context.addInitScript(() => {
    if (location.protocol.startsWith("http") && window.top === window && !sessionStorage.getItem("seeded")) {
      sessionStorage.setItem("seeded", "1");
      localStorage.setItem("octoporty_session", String(Date.now() + 14 * 60_000));
    }
  });
}

/** Through the page of it. */
export async function logInByHand(page, password = PASSWORD) {
  await page.fill("input[placeholder='Enter password']", password);
  await page.click("button[type='submit']");
}

function watch(page, world) {
  const faults = [];
  const origin = new URL(world.url).origin;
  page.faults = faults;
  page.expected = []; // Patterns of console errors that a test provokes.
  page.on("console", (message) => {
    if (message.type() !== "error" && message.type() !== "warning") return;
    const text = `${message.text()} ${message.location().url ?? ""}`;
    if (!page.expected.some((pattern) => pattern.test(text))) faults.push(`console: ${text}`);
  });
  page.on("pageerror", (error) => faults.push(`error: ${error.stack ?? error}`));
  page.on("request", (request) => {
    const url = request.url();
    if (!url.startsWith("blob:") && !url.startsWith("data:") && new URL(url).origin !== origin) faults.push(`request to another origin: ${url}`);
  });
  page.context().addInitScript(() => {
    addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
  });
}

/** Ends a page and fails when anything was wrong with it. */
export async function close(page) {
  const { faults } = page;
  await page.context().close();
  assert.deepEqual(faults, []);
}

/** Fails when axe-core finds anything. */
export async function accessible(page, name) {
  if (!(await page.evaluate(() => "axe" in window))) await page.evaluate(AXE);
  const found = await page.evaluate(async () => {
    const { violations, passes } = await window.axe.run(document, { iframes: false, resultTypes: ["violations"] });
    return { passes: passes.length, violations: violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map((node) => node.html.slice(0, 200)).join(" | ")}`) };
  });
  assert.ok(found.passes > 10, `${name}: axe looked at hardly anything`);
  assert.deepEqual(found.violations, [], name);
}

/** Waits for a toast and returns its text. */
export async function toast(page, title) {
  const found = page.locator(".toast", { hasText: title }).last();
  await found.waitFor();
  return found.innerText();
}
