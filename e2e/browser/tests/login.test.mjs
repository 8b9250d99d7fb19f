// Getting in, staying in, and getting out.

import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";

import { close, launch, logInByHand, open, toast } from "../lib/page.mjs";
import { until, World } from "../lib/world.mjs";

let world, browser;

before(async () => {
  [world, browser] = await Promise.all([World.start(), launch()]);
});

beforeEach(() => delete world.cookies);

after(async () => {
  await browser.close();
  await world.stop();
});

const at = (page, path) => page.waitForURL((url) => url.pathname === path);

test("the login page has its form, ready to be typed into", async () => {
  const page = await open(browser, world, "/", { loggedIn: false });
  await at(page, "/login");
  assert.equal(await page.title(), "Log in - Octoporty Agent");
  assert.equal(await page.locator("h1").innerText(), "Octoporty");
  assert.ok(await page.getByText("AGENT CONTROL PANEL").isVisible());
  assert.ok(await page.getByText("SECURE TUNNEL MANAGEMENT INTERFACE").isVisible());
  assert.equal(await page.evaluate(() => document.activeElement.placeholder), "Enter password");
  assert.ok(await page.getByLabel("Password").isVisible());
  assert.ok(await page.getByRole("button", { name: "Access Control Panel" }).isDisabled());
  await page.fill("input[placeholder='Enter password']", "x");
  assert.ok(await page.getByRole("button", { name: "Access Control Panel" }).isEnabled());
  await close(page);
});

test("the right password leads to the control panel, busy until then", async () => {
  const page = await open(browser, world, "/", { loggedIn: false });
  let answer;
  await page.route("**/api/v1/auth/login", async (route) => {
    await new Promise((go) => (answer = go));
    await route.continue();
  });
  await logInByHand(page);
  const button = page.locator("button[type='submit']");
  await page.getByText("Authenticating…").waitFor();
  assert.ok(await button.isDisabled());
  await until("the request", () => answer);
  answer();
  await at(page, "/");
  await page.getByRole("heading", { name: "Control Panel" }).waitFor();
  await page.getByText("Tunnel active").waitFor();
  await close(page);
});

test("no token is where a script could read it", async () => {
  const page = await open(browser, world, "/", { loggedIn: false });
  await logInByHand(page);
  await page.getByRole("heading", { name: "Control Panel" }).waitFor();
  const [kept, cookies] = await page.evaluate(() => [JSON.stringify({ ...localStorage, ...sessionStorage }), document.cookie]);
  assert.equal(cookies, "");
  assert.match(kept, /^\{"octoporty_session":"\d+"[^.]*\}$/);
  const names = (await page.context().cookies()).map(({ name, httpOnly, sameSite }) => [name, httpOnly, sameSite]);
  assert.deepEqual(names.sort(), [["octoporty_access", true, "Strict"], ["octoporty_refresh", true, "Strict"]]);
  await close(page);
});

test("a page that is asked for without a login comes after it", async () => {
  const page = await open(browser, world, "/requests?status=5xx", { loggedIn: false });
  await at(page, "/login");
  await logInByHand(page);
  await at(page, "/requests");
  assert.equal(new URL(page.url()).search, "?status=5xx");
  await page.getByRole("heading", { name: "Requests" }).waitFor();
  await close(page);
});

test("where to go after the login is one of our own pages", async () => {
  for (const next of ["//evil.example/", "https://evil.example/", "/nothing", "javascript:alert(1)"]) {
    const page = await open(browser, world, `/login?next=${encodeURIComponent(next)}`, { loggedIn: false });
    await logInByHand(page);
    await at(page, "/");
    await page.getByRole("heading", { name: "Control Panel" }).waitFor();
    await close(page);
  }
});

test("who is logged in does not see the login page", async () => {
  const page = await open(browser, world, "/login");
  await at(page, "/");
  await close(page);
});

test("an unknown address leads to the dashboard", async () => {
  const page = await open(browser, world, "/no/such/page");
  await at(page, "/");
  await close(page);
});

test("logging out ends the session", async () => {
  const page = await open(browser, world, "/mappings", { loggedIn: false });
  await logInByHand(page);
  await page.getByRole("heading", { name: "Port Mappings" }).waitFor();
  await page.getByRole("button", { name: "Logout" }).click();
  await at(page, "/login");
  assert.deepEqual(await page.context().cookies(), []);
  assert.equal(await page.evaluate(() => fetch("/health").then(() => localStorage.getItem("octoporty_session"))), null);
  await page.goto(`${world.url}/mappings`);
  await at(page, "/login");
  await close(page);
});

test("logging out in one tab logs out the others", async () => {
  const page = await open(browser, world, "/");
  const other = await page.context().newPage();
  await other.goto(world.url);
  await other.getByRole("heading", { name: "Control Panel" }).waitFor();
  // Its event stream ends with the session, and it may ask why before it hears of the logout.
  page.expected.push(/status of 401/);
  await other.getByRole("button", { name: "Logout" }).click();
  await at(page, "/login");
  await close(page);
});

test("an access token that has run out is renewed without a word, and edits stay", async () => {
  const page = await open(browser, world, "/mappings/new", { loggedIn: false });
  page.expected.push(/status\/?.* 401|status of 401/);
  await logInByHand(page);
  await page.getByLabel("Mapping Name").fill("half done");
  await page.context().clearCookies({ name: "octoporty_access" });
  await page.getByRole("button", { name: "Test target" }).click();
  await page.locator(".target-test .notice").waitFor();
  assert.equal(new URL(page.url()).pathname, "/mappings/new");
  assert.equal(await page.getByLabel("Mapping Name").inputValue(), "half done");
  const names = (await page.context().cookies()).map(({ name }) => name);
  assert.ok(names.includes("octoporty_access"), names.join());
  await close(page);
});

test("a session is renewed before it runs out", async () => {
  const page = await open(browser, world, "/", { loggedIn: false });
  await logInByHand(page);
  await page.getByRole("heading", { name: "Control Panel" }).waitFor();
  await page.evaluate(() => localStorage.setItem("octoporty_session", String(Date.now() + 60_000)));
  const renewed = page.waitForResponse((response) => response.url().endsWith("/auth/refresh"));
  await page.reload();
  assert.equal((await renewed).status(), 200);
  await page.getByText("Tunnel active").waitFor();
  assert.ok((await page.evaluate(() => Number(localStorage.getItem("octoporty_session")) - Date.now())) > 13 * 60_000);
  await close(page);
});

test("a session is renewed in time while nobody does anything, and edits stay", async () => {
  const page = await open(browser, world, "/mappings/new", { loggedIn: false });
  await page.clock.install();
  await logInByHand(page);
  await page.getByLabel("Mapping Name").fill("half done");
  for (let i = 0; i < 2; i++) {
    const renewed = page.waitForResponse((response) => response.url().endsWith("/auth/refresh"));
    await page.clock.fastForward("14:00");
    assert.equal((await renewed).status(), 200);
    // The next one is planned when this one has been read.
    await until("the new end", () => page.evaluate(() => Number(localStorage.getItem("octoporty_session")) - Date.now() > 13 * 60_000));
  }
  assert.equal(await page.getByLabel("Mapping Name").inputValue(), "half done");
  assert.equal(await page.getByRole("dialog").count(), 0);
  await close(page);
});

test("a session that was ended elsewhere leads to the login, which says so", async () => {
  const page = await open(browser, world, "/mappings", { loggedIn: false });
  page.expected.push(/status of 401/);
  await logInByHand(page);
  await page.getByRole("heading", { name: "Port Mappings" }).waitFor();
  await world.api("POST", "/auth/logout-all");
  delete world.token;
  // Without a click: the stream of events ends with the session.
  await at(page, "/login");
  await page.getByText("Your session has ended. Log in again.").waitFor();
  await logInByHand(page);
  await page.getByRole("heading", { name: "Port Mappings" }).waitFor();
  await close(page);
});

test("a session that ends over unsaved edits asks for the password and keeps them", async () => {
  const page = await open(browser, world, "/mappings/new", { loggedIn: false });
  page.expected.push(/status of 401/);
  await logInByHand(page);
  await page.getByLabel("Mapping Name").fill("precious");
  await page.getByLabel("Domain").fill("precious.example.com");
  await world.api("POST", "/auth/logout-all");
  delete world.token;
  const dialog = page.getByRole("dialog", { name: "Your session has ended" });
  await dialog.waitFor();
  await page.keyboard.press("Escape");
  // A browser may insist; then it is back a moment later.
  await page.evaluate(() => new Promise((done) => setTimeout(() => requestAnimationFrame(done))));
  assert.ok(await dialog.isVisible());
  await logInByHand({ fill: (_, text) => dialog.getByLabel("Password").fill(text), click: () => dialog.getByRole("button", { name: "Access Control Panel" }).click() });
  await dialog.waitFor({ state: "detached" });
  assert.equal(await page.getByLabel("Mapping Name").inputValue(), "precious");
  await page.getByRole("button", { name: "Create Mapping" }).click();
  await toast(page, "Mapping created");
  await close(page);
});

test("log out everywhere ends every session", async () => {
  const page = await open(browser, world, "/settings/sessions", { loggedIn: false });
  const other = await open(browser, world, "/mappings", { loggedIn: false });
  page.expected.push(/status of 40[01]/);
  other.expected.push(/status of 40[01]/);
  await logInByHand(page);
  // A reload while it is being answered would undo a login.
  await page.getByText("THIS ONE").waitFor();
  await logInByHand(other);
  await other.getByRole("heading", { name: "Port Mappings" }).waitFor();
  const rows = page.locator("tbody tr");
  await page.reload();
  await until("both sessions", async () => (await rows.count()) >= 2);
  await page.getByText("THIS ONE").waitFor();
  await page.getByRole("button", { name: "Log out everywhere" }).first().click();
  await page.getByRole("dialog").getByRole("button", { name: "Log out everywhere" }).click();
  await at(page, "/login");
  await at(other, "/login");
  await close(page);
  await close(other);
});

test("another session can be ended alone", async () => {
  const page = await open(browser, world, "/settings/sessions", { loggedIn: false });
  await logInByHand(page);
  await page.getByText("THIS ONE").waitFor();
  await world.login(); // A program's.
  await page.reload();
  const theirs = page.locator("tbody tr", { hasText: "Unknown program" }).or(page.locator("tbody tr", { hasText: "node" }));
  await theirs.first().waitFor();
  const before = await page.locator("tbody tr").count();
  await theirs.first().getByRole("button", { name: /^End the session/ }).click();
  await toast(page, "Session ended");
  await until("one session less", async () => (await page.locator("tbody tr").count()) === before - 1);
  assert.equal(new URL(page.url()).pathname, "/settings/sessions");
  await close(page);
});

// Last, for it locks everybody out.
test("wrong passwords are said to be wrong, and too many lock with a countdown", async () => {
  const page = await open(browser, world, "/login", { loggedIn: false });
  page.expected.push(/status of (401|429)/);
  for (let i = 0; i < 5; i++) {
    await logInByHand(page, "wrong");
    await page.locator(".bg-rose-glow .text-rose-base", { hasText: "Invalid password" }).waitFor();
    assert.equal(new URL(page.url()).pathname, "/login");
    await until("the form", () => page.getByRole("button", { name: "Access Control Panel" }).isEnabled());
    assert.equal(await page.evaluate(() => document.activeElement.id), "password");
    await page.fill("input[placeholder='Enter password']", "");
    if (i < 4) assert.ok(await page.locator(".text-rose-base", { hasText: "Invalid" }).isVisible());
  }
  await logInByHand(page, "wrong");
  await page.locator(".text-rose-base", { hasText: "Too many failed attempts. Try again in" }).waitFor();
  assert.ok(await page.locator("button[type='submit']").isDisabled());
  const left = async () => {
    const [, minutes, seconds] = /(\d+):(\d+)/.exec(await page.locator(".countdown").innerText());
    return Number(minutes) * 60 + Number(seconds);
  };
  const first = await left();
  assert.ok(first > 0 && first <= 60, String(first));
  await until("the countdown counts", async () => (await left()) < first);
  // The right one does not get in either.
  const answer = await page.evaluate(async (password) => (await fetch("/api/v1/auth/login", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ password }) })).status, "correct horse");
  assert.equal(answer, 429);
  await close(page);
});
