// The control panel, and what every page does when the tunnel or the Agent goes away and comes back.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { close, launch, open, toast } from "../lib/page.mjs";
import { until, World } from "../lib/world.mjs";

let world, browser;

before(async () => {
  [world, browser] = await Promise.all([World.start(), launch()]);
  for (const name of ["one", "two", "three", "four", "five"]) await world.mapping(`${name}.example.com`);
});

after(async () => {
  await browser.close();
  await world.stop();
});

const at = (page, path) => page.waitForURL((url) => url.pathname === path);
const badge = (page, word) => page.locator(".connection-badge", { hasText: word }).waitFor();

test("the dashboard shows the tunnel, versions and what can be done", async () => {
  const page = await open(browser, world, "/");
  assert.equal(await page.title(), "Control Panel - Octoporty Agent");
  await badge(page, "ONLINE");
  await page.locator(".state-label", { hasText: "ONLINE" }).waitFor();
  assert.ok(await page.getByText("Tunnel active").isVisible());
  assert.ok(await page.locator(".connection-badge .led-emerald").isVisible());
  assert.equal(await page.locator(".gateway-name").innerText(), "127.0.0.1");
  assert.match(await page.locator(".brand-version").innerText(), /^AGENT v\d+\.\d+\.\d+$/);
  await page.getByText("uptime: just started").waitFor();
  for (const name of ["Connection", "Quick Actions", "Active Mappings", "Traffic", "Connection History"]) {
    assert.ok(await page.getByRole("heading", { name, exact: true }).isVisible(), name);
  }
  assert.ok(await page.getByText("Reconnect Attempts: 0").isVisible());
  assert.ok(await page.getByText("OCTOPORTY AGENT CONTROL INTERFACE").isVisible());
  await close(page);
});

test("the first four mappings are shown, and how many there are", async () => {
  const page = await open(browser, world, "/");
  await page.getByRole("link", { name: "View all 5 mappings" }).waitFor();
  assert.equal(await page.locator(".rows .row").count(), 4);
  await page.locator(".rows .row", { hasText: "one.example.com" }).click();
  await page.getByRole("heading", { name: "Edit Mapping" }).waitFor();
  await close(page);
});

test("quick actions lead where they say", async () => {
  const page = await open(browser, world, "/");
  for (const [name, path] of [["Create New Mapping", "/mappings/new"], ["View All Mappings", "/mappings"], ["Watch Requests", "/requests"]]) {
    await page.getByRole("link", { name }).click();
    await at(page, path);
    await page.getByRole("link", { name: "Dashboard" }).click();
    await at(page, "/");
  }
  // Nothing to reconnect.
  await page.locator(".state-label", { hasText: "ONLINE" }).waitFor();
  assert.ok(await page.getByRole("button", { name: "Force Reconnect" }).isDisabled());
  await close(page);
});

test("the sidebar leads to every page and says which one is shown", async () => {
  const page = await open(browser, world, "/");
  const nav = page.locator("nav[aria-label='Pages']");
  assert.deepEqual(await nav.locator("a").allInnerTexts(), ["Dashboard", "Mappings", "Requests", "Logs", "Gateway", "Inspector", "Settings"]);
  for (const [name, path, heading] of [
    ["Mappings", "/mappings", "Port Mappings"], ["Requests", "/requests", "Requests"], ["Logs", "/logs", "Logs"], ["Gateway", "/gateway", "Gateway"],
    ["Inspector", "/gateway/inspector", "Request Inspector"], ["Settings", "/settings", "Settings"], ["Dashboard", "/", "Control Panel"],
  ]) {
    await nav.getByRole("link", { name, exact: true }).click();
    await at(page, path);
    await page.getByRole("heading", { level: 1, name: heading }).waitFor();
    assert.deepEqual(await nav.locator("[aria-current='page']").allInnerTexts(), [name]);
    assert.match(await page.title(), new RegExp(`^${heading} - `));
  }
  await page.goBack();
  await page.getByRole("heading", { level: 1, name: "Settings" }).waitFor();
  await page.goForward();
  await page.getByRole("heading", { level: 1, name: "Control Panel" }).waitFor();
  await close(page);
});

test("numbers move by themselves", async () => {
  const page = await open(browser, world, "/");
  const tile = page.locator(".tile", { hasText: "Requests / s" }).locator(".tile-value");
  await until("the first measurement", async () => (await tile.innerText()) !== "–");
  const traffic = setInterval(() => world.visit("one.example.com").catch(() => {}), 20);
  try {
    await until("requests in the tile", async () => Number((await tile.innerText()).replace("k", "")) > 0);
  } finally {
    clearInterval(traffic);
  }
  const totals = page.getByText(/[1-9][\d,]* requests, .* out/);
  await totals.waitFor();
  await close(page);
});

test("what was a moment ago gets older by itself", async () => {
  await world.visit("one.example.com");
  const page = await open(browser, world, "/login", { loggedIn: true });
  await page.clock.install();
  await page.goto(`${world.url}/mappings`);
  const seen = page.locator(".card time[data-ago]").first();
  await seen.waitFor();
  assert.match(await seen.innerText(), /just now|s ago|minutes? ago/);
  await page.clock.fastForward("02:10:00");
  await until("two hours", async () => (await seen.innerText()) === "2 hours ago");
  assert.match(await seen.getAttribute("title"), /^\d{4}-.* \(.* UTC\)$/);
  await close(page);
});

test("charts can be read with the keyboard and as a table", async () => {
  await world.visit("two.example.com");
  const page = await open(browser, world, "/");
  const plot = page.getByRole("img", { name: /^Answers by status\. .*2xx: last/ });
  await plot.waitFor();
  await plot.focus();
  await page.keyboard.press("End");
  const tip = page.locator(".chart-tip:visible");
  await tip.getByText("2xx").waitFor();
  assert.match(await tip.locator("time").innerText(), /^\d{4}-\d\d-\d\d \d\d:\d\d\n\d{4}-.* UTC$/);
  const last = await tip.locator("time").innerText();
  await page.keyboard.press("ArrowLeft");
  await until("the bar before", async () => (await tip.locator("time").innerText()) !== last);
  await page.keyboard.press("Escape");
  await tip.waitFor({ state: "hidden" });
  const figure = page.locator("figure", { hasText: "Answers by status" });
  await figure.getByText("Show as table").click();
  await until("the table", async () => (await figure.locator("tbody tr").count()) === 60);
  // Not by colour alone: every class has a hatching of its own.
  const looks = await figure.locator(".legend rect").evaluateAll((list) => list.map((one) => one.getAttribute("fill")));
  assert.equal(new Set(looks).size, 5);
  // Nor lines: each of a chart has dashes of its own.
  for (const name of ["Bytes per second", "Time to answer"]) {
    const lines = page.locator("figure", { hasText: name }).locator(".legend .line");
    const dashes = await lines.evaluateAll((list) => list.map((one) => getComputedStyle(one).strokeDasharray));
    assert.deepEqual([dashes.length, new Set(dashes).size], [2, 2], name);
  }
  for (const [name, rows] of [["Day", 96], ["Month", 30]]) {
    await page.getByRole("button", { name, exact: true }).click();
    await until(name, async () => (await figure.locator("tbody tr").count()) === rows);
  }
  await close(page);
});

test("when the Gateway goes away and comes back, the page says so by itself", async () => {
  const page = await open(browser, world, "/");
  await badge(page, "ONLINE");
  await world.gateway.stop("SIGKILL");
  await page.locator(".connection-badge", { hasText: /RECONNECTING|OFFLINE|CONNECTING/ }).waitFor();
  await toast(page, "Disconnected");
  const again = page.getByRole("button", { name: "Reconnect", exact: true });
  await again.waitFor();
  await page.getByText(/Last Connected: \d{4}-/).waitFor();
  assert.ok(await page.getByRole("button", { name: "Force Reconnect" }).isEnabled());
  await page.getByRole("button", { name: "Force Reconnect" }).click();
  await toast(page, "Reconnecting");
  await again.click();
  await world.startGateway();
  await Promise.all([badge(page, "ONLINE"), toast(page, "The tunnel is open.")]);
  await page.locator(".toast", { hasText: "Disconnected" }).waitFor({ state: "detached" });
  await close(page);
});

test("when the Agent is restarted, the page says so and goes on without a reload", async () => {
  const page = await open(browser, world, "/mappings/new");
  page.expected.push(/ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED|ERR_EMPTY_RESPONSE|ERR_CONNECTION_RESET|ERR_NETWORK_CHANGED/);
  await page.getByLabel("Mapping Name").fill("half done");
  await page.evaluate(() => (window.mark = "the same page"));
  await world.agent.stop();
  await page.getByText("The Agent does not answer.").waitFor();
  await badge(page, "AGENT AWAY");
  // What is done meanwhile says why it cannot be.
  await page.getByRole("button", { name: "Test target" }).click();
  await page.locator(".target-test .notice", { hasText: "The Agent does not answer" }).waitFor();
  await world.startAgent();
  await toast(page, "The Agent was restarted");
  await page.getByText("What you see is the last known state").waitFor({ state: "hidden" });
  await badge(page, "ONLINE");
  assert.equal(await page.evaluate(() => window.mark), "the same page");
  assert.equal(await page.getByLabel("Mapping Name").inputValue(), "half done");
  await close(page);
});

test("an Agent that was updated under the page asks for a reload", async () => {
  const page = await open(browser, world, "/mappings");
  await badge(page, "ONLINE");
  const notice = page.getByText("The Agent has been updated.");
  assert.ok(await notice.isHidden());
  await page.route("**/api/v1/status", async (route) => {
    const response = await route.fetch();
    await route.fulfill({ response, json: { ...(await response.json()), version: "99.0.0" } });
  });
  await page.evaluate(() => import("/js/live.js").then(({ refresh }) => refresh().then(() => 0)));
  await notice.waitFor();
  await page.unroute("**/api/v1/status");
  await page.evaluate(() => (window.mark = "the old page"));
  await page.getByRole("button", { name: "Reload", exact: true }).click();
  await until("a new page", () => page.evaluate(() => window.mark === undefined && document.querySelector("main h1:not(.start-name)") !== null).catch(() => false));
  assert.ok(await notice.isHidden());
  await close(page);
});

test("an Agent that is away is said at the login too", async () => {
  const page = await open(browser, world, "/login", { loggedIn: false });
  page.expected.push(/ERR_FAILED|ERR_CONNECTION/);
  await page.route("**/api/**", (route) => route.abort());
  await page.fill("input[placeholder='Enter password']", "x");
  await page.click("button[type='submit']");
  await page.locator(".text-rose-base", { hasText: "The Agent does not answer" }).waitFor();
  await close(page);
});

test("toasts can be closed, and go by themselves", async () => {
  const page = await open(browser, world, "/mappings", {});
  await page.getByRole("switch", { name: "Disable mapping one" }).click();
  const first = page.locator(".toast", { hasText: "Mapping disabled" });
  await first.getByRole("button", { name: "Close: Mapping disabled" }).click();
  await first.waitFor({ state: "detached" });
  await page.getByRole("switch", { name: "Enable mapping one" }).click();
  const second = page.locator(".toast", { hasText: "Mapping enabled" });
  await second.waitFor();
  assert.equal(await page.locator(".toasts").getAttribute("aria-live"), "polite");
  await second.waitFor({ state: "detached" });
  await close(page);
});

test("a fault of the page itself is shown, not left half done", async () => {
  const page = await open(browser, world, "/");
  page.expected.push(/made up/);
  await page.evaluate(() => setTimeout(() => {
    throw new Error("made up");
  }));
  await page.getByRole("heading", { name: "Something went wrong" }).waitFor();
  await page.getByText("made up").first().waitFor();
  await page.getByRole("button", { name: "Refresh Page" }).click();
  await page.getByRole("heading", { name: "Control Panel" }).waitFor();
  page.faults.length = 0;
  await close(page);
});
