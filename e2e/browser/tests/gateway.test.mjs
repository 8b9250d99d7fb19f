// The Gateway's page, its update, Caddy (a real one), and the inspector.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { accessible, close, launch, open, toast } from "../lib/page.mjs";
import { until, World } from "../lib/world.mjs";

let world, browser, home;

before(async () => {
  [world, browser] = await Promise.all([World.start({ caddy: true }), launch()]);
  home = await world.mapping("home.example.com", { description: "Home" });
});

after(async () => {
  await browser.close();
  await world.stop();
});

test("the Gateway's page says what runs there and how well it is reached", async () => {
  const page = await open(browser, world, "/gateway");
  const facts = page.locator(".facts.grid");
  await until("the version", async () => /v\d+\.\d+\.\d+/.test(await facts.innerText()));
  const text = await facts.innerText();
  for (const word of ["Gateway Version", "Connection Status", "Gateway Uptime", "Links", "Round Trip", "Reverse Proxy"]) assert.match(text, new RegExp(word, "i"), word);
  assert.match(text, /ONLINE/);
  await until("the round trip", async () => /\d ms/.test(await facts.innerText()));
  await page.getByText("The Gateway is up to date").waitFor();
  await page.getByRole("heading", { name: "Gateway Logs" }).waitFor();
  await page.getByText(/\(\d+ entries\)/).waitFor();
  await page.getByRole("img", { name: /^Connection history of the last 24 hours: open/ }).waitFor();
  await page.getByText("Every connection").click();
  await page.getByText("still open").waitFor();
  await page.getByRole("button", { name: "7 days" }).click();
  await page.getByRole("img", { name: /last 7 days/ }).waitFor();
  await close(page);
});

test("Caddy's state is shown, and its configuration with our routes marked", async () => {
  const page = await open(browser, world, "/gateway");
  const panel = page.locator(".panel", { has: page.getByRole("heading", { name: "Caddy", exact: true }) });
  await panel.getByText("All routes are in place").waitFor();
  await page.getByRole("link", { name: "View Caddy Config" }).click();
  await page.getByRole("heading", { name: "Caddy Configuration", exact: true }).waitFor();
  const own = page.locator(".json-own");
  await own.first().waitFor();
  assert.match(await own.first().innerText(), new RegExp(`"@id": "octoporty-${home.id.replaceAll("-", "")}"`));
  assert.ok((await own.allInnerTexts()).every((text) => !text.includes("blog.example")));
  assert.match(await page.locator(".json").innerText(), /blog\.example/);
  await page.getByRole("button", { name: "Refresh" }).click();
  await toast(page, "Config refreshed");
  // Without a click, too.
  await page.getByText(/^1 route of ours/).waitFor();
  const live = await world.mapping("live.example.com");
  await page.getByText(/^2 routes of ours/).waitFor();
  await world.api("DELETE", `/mappings/${live.id}`);
  await page.getByText(/^1 route of ours/).waitFor();
  await close(page);
});

test("a Caddy that goes away is said so, and its return too", async () => {
  const page = await open(browser, world, "/gateway");
  const panel = page.locator(".panel", { has: page.getByRole("heading", { name: "Caddy", exact: true }) });
  await panel.getByText("All routes are in place").waitFor();
  await world.caddy.stop();
  await panel.getByText("Caddy does not answer").waitFor({ timeout: 60_000 });
  // It comes back with a configuration that knows nothing of us.
  await world.startCaddy();
  await panel.getByText("All routes are in place").waitFor({ timeout: 60_000 });
  const routes = await (await fetch(`${world.caddyAdmin}/id/octoporty-${home.id.replaceAll("-", "")}`)).json();
  assert.equal(routes["@id"], `octoporty-${home.id.replaceAll("-", "")}`);
  await close(page);
});

test("Caddy left alone is said on its page", async () => {
  const other = await World.start();
  try {
    const page = await open(browser, other, "/gateway/caddy-config");
    await page.getByText(/CaddyMode=off/).first().waitFor();
    await accessible(page, "Caddy left alone");
    await close(page);
  } finally {
    await other.stop();
  }
});

/** As if the Gateway were older: versions are compiled in, so this is the one thing that is made up. */
async function older(page) {
  page.expected.push(/ERR_FAILED|events/);
  await page.route("**/api/v1/events", (route) => route.abort());
  await page.route("**/api/v1/status", async (route) => {
    const response = await route.fetch();
    await route.fulfill({ response, json: { ...(await response.json()), gatewayUpdateAvailable: true, gatewayVersion: "0.9.0" } });
  });
}

test("a banner tells of an older Gateway, with both versions, and can be dismissed", async () => {
  const page = await open(browser, world, "/login", { loggedIn: true });
  await older(page);
  await page.goto(`${world.url}/mappings`);
  const banner = page.locator(".banner");
  await banner.getByText("GATEWAY UPDATE AVAILABLE").waitFor();
  assert.match(await banner.innerText(), /Agent v\d+\.\d+\.\d+ → Gateway v0\.9\.0/);
  assert.ok(await banner.getByRole("button", { name: "Update Gateway" }).isVisible());
  await banner.locator("[title='Dismiss']").click();
  await banner.waitFor({ state: "hidden" });
  await page.getByRole("link", { name: "Gateway", exact: true }).click();
  await page.getByText("The Gateway runs v0.9.0").waitFor();
  assert.ok(await banner.isHidden());
  page.faults.length = 0;
  // An answer may be on its way through the route still.
  await page.unrouteAll({ behavior: "wait" });
  await close(page);
});

test("asking for the update is busy, then says what came of it", async () => {
  const page = await open(browser, world, "/login", { loggedIn: true });
  await older(page);
  await page.goto(`${world.url}/mappings`);
  const button = page.locator(".banner").getByRole("button", { name: "Update Gateway" });
  await button.waitFor();
  let answer;
  await page.route("**/api/v1/gateway/update", async (route) => {
    if (route.request().method() !== "POST") return route.continue();
    await new Promise((go) => (answer = go));
    await route.continue();
  });
  await button.click();
  await page.locator(".banner button[aria-busy]", { hasText: "Updating…" }).waitFor();
  assert.ok(await page.locator(".banner button[aria-busy]").isDisabled());
  await until("the question", () => answer);
  answer();
  // The real Gateway is of the same version, so it refuses.
  await toast(page, "Update Failed");
  await page.unroute("**/api/v1/gateway/update");
  await page.route("**/api/v1/gateway/update", (route) =>
    route.request().method() === "POST" ? route.fulfill({ json: { success: true, message: "It is queued.", error: null, agentVersion: "1.0.0", gatewayVersion: "0.9.0", status: 0, statusText: "Queued" } }) : route.continue());
  await button.click();
  assert.match(await toast(page, "Update Queued"), /It is queued/);
  page.faults.length = 0;
  await close(page);
});

test("the inspector shows both sides and the log lines of a request", async () => {
  const page = await open(browser, world, "/gateway/inspector");
  await page.getByRole("button", { name: "Run Probe" }).click();
  await toast(page, "URL required");
  await page.fill("#probe-url", "ftp://home.example.com/");
  await page.getByRole("button", { name: "Run Probe" }).click();
  await toast(page, "Probe failed");
  await page.fill("#probe-url", "http://home.example.com/inspected");
  await page.getByRole("button", { name: "Run Probe" }).click();
  await page.getByText(/^diag-[0-9a-f]{32}$/).waitFor({ timeout: 40_000 });
  assert.match(await page.locator(".panel", { has: page.getByRole("heading", { name: "Probe URL" }) }).innerText(), /home\.example\.com → 127\.0\.0\.1:\d+/);
  const side = (name) => page.locator(".panel", { has: page.getByRole("heading", { name }) });
  // The service itself answers; its public name is nobody's in this test.
  await side("Agent Direct Response").getByText("Hello from /inspected").waitFor();
  assert.match(await side("Agent Direct Response").innerText(), /200/);
  assert.match(await side("Gateway Response").innerText(), /Failed/);
  assert.ok(await side("Gateway Logs").isVisible());
  await page.waitForURL("**/gateway/inspector?url=http%3A%2F%2Fhome.example.com%2Finspected");
  await accessible(page, "inspector with results");
  await close(page);
});
