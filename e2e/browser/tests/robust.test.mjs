// What must not throw the page off its feet: odd answers, slow ones, none at all, and people who are faster than both.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { close, launch, logInByHand, open, toast } from "../lib/page.mjs";
import { until, World } from "../lib/world.mjs";

let world, browser, home;

before(async () => {
  [world, browser] = await Promise.all([World.start(), launch()]);
  home = await world.mapping("home.example.com", { description: "Home" });
  await world.mapping("photos.example.com", { description: "Photos" });
  await world.visit("home.example.com", "/first");
});

after(async () => {
  await browser.close();
  await world.stop();
});

const at = (page, path) => page.waitForURL((url) => url.pathname === path);
const heading = (page, name) => page.getByRole("heading", { level: 1, name, exact: true }).waitFor();
const focused = (page) => page.evaluate(() => document.activeElement.textContent.trim());
const AWAY = /ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED|ERR_EMPTY_RESPONSE|ERR_CONNECTION_RESET|ERR_NETWORK_CHANGED|ERR_SOCKET_NOT_CONNECTED/;

/** Holds the answers to what is asked of a path until `answer()` is called; `asked` counts. */
async function slow(page, pattern, method, first = Infinity) {
  const held = [];
  const self = {
    asked: 0,
    async answer() {
      await until(`a ${method}`, () => held.length > 0);
      for (const go of held.splice(0)) go();
    },
  };
  await page.route(pattern, async (route) => {
    if (route.request().method() !== method) return route.fallback();
    if (++self.asked <= first) await new Promise((go) => held.push(go));
    await route.continue();
  });
  return self;
}

/** Every value in a JSON document replaced by another one; what tells things apart stays. */
function changed(value, change, key = "") {
  if (Array.isArray(value)) return value.map((one) => changed(one, change, key));
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, changed(one, change, name)]));
  }
  return change(key, value);
}

const PAGES = () => ["/", "/mappings", `/mappings/${home.id}`, "/requests", "/logs", "/logs?of=gateway", "/gateway", "/gateway/caddy-config", "/settings", "/settings/data", "/settings/sessions"];

/** Goes through all pages while the API answers with what `change` makes of the truth. */
async function withAnswers(page, change, look) {
  await page.route("**/api/v1/events", (route) => route.abort());
  await page.route("**/api/v1/**", async (route) => {
    if (route.request().method() !== "GET" || /events$/.test(route.request().url())) return route.fallback();
    const response = await route.fetch();
    if (!(response.headers()["content-type"] ?? "").includes("json")) return route.fulfill({ response });
    await route.fulfill({ response, json: changed(await response.json(), change) });
  });
  for (const path of PAGES()) {
    await page.goto(world.url + path);
    await page.waitForSelector("main h1:not(.start-name)");
    await page.waitForLoadState("load");
    // Everything that the page has asked for is there and drawn.
    await until(`the answers of ${path}`, () => page.evaluate(() => document.querySelector(".ring-loader:not([hidden])") === null));
    assert.equal(await page.locator("main.start").innerText({ timeout: 1 }).catch(() => ""), "", path);
    await look(path);
  }
  await page.unrouteAll({ behavior: "ignoreErrors" });
}

test("fields that are null are shown as nothing, not as a broken page", async () => {
  const page = await open(browser, world, "/login", { loggedIn: true });
  page.expected.push(/ERR_FAILED|events/);
  const stays = /^(id|mappingId|enabled|isEnabled|success|hasMore|current|html|time|bucketSeconds)$/;
  await withAnswers(page, (key, value) => (stays.test(key) ? value : null), async (path) => {
    assert.equal(await page.locator(".toast-error").count(), 0, path);
    const words = await page.locator("main").innerText();
    assert.doesNotMatch(words, /undefined|NaN|\[object|\bnull\b/, path);
  });
  assert.deepEqual(page.faults, []);
  await close(page);
});

test("long texts, markup and text from right to left stay what they are, at 360 px too", async () => {
  const page = await open(browser, world, "/login", { loggedIn: true, width: 360, height: 740 });
  page.expected.push(/ERR_FAILED|events/);
  const free = /^(name|description|externalDomain|internalHost|path|queryString|userAgent|clientIp|errorMessage|mappingName|routeError|lastError|message|gatewayUrl|url|issuer|address|title|disconnectReason|adminUrl|mode)$/;
  const odd = `<img src=x onerror="document.title='run'"> \u202eשלום ${"W".repeat(700)}`;
  await withAnswers(page, (key, value) => (free.test(key) ? odd : value), async (path) => {
    assert.equal(await page.locator("main img").count(), 0, path);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(wide <= 0, `${path} is ${wide} px too wide`);
  });
  assert.doesNotMatch(await page.title(), /^run/);
  await close(page);
});

test("a filter in the address that is none is left out", async () => {
  const page = await open(browser, world, "/requests?from=yesterday&to=%00&status=4xx", {});
  await page.getByRole("heading", { name: "No request fits" }).waitFor();
  assert.equal(await page.getByLabel("From").inputValue(), "");
  assert.equal(await page.getByLabel("Status", { exact: true }).inputValue(), "4xx");
  await close(page);
});

test("a dialog goes with the page that it belongs to", async () => {
  const page = await open(browser, world, "/mappings");
  await page.getByRole("link", { name: "Requests" }).click();
  await page.locator(".requests-table tbody button").first().click();
  await page.getByRole("dialog").waitFor();
  await page.evaluate(() => history.back());
  await heading(page, "Port Mappings");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  await page.getByPlaceholder("Search mappings...").click();
  assert.equal(await page.locator("body.has-modal").count(), 0);
  await close(page);
});

test("a session that ends under a dialog leads to a login that can be used", async () => {
  const page = await open(browser, world, "/requests", { loggedIn: false });
  page.expected.push(/status of 401/);
  await logInByHand(page);
  await page.locator(".requests-table tbody button").first().click();
  await page.getByRole("dialog").waitFor();
  await world.api("POST", "/auth/logout-all");
  delete world.token;
  delete world.cookies;
  await at(page, "/login");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  await logInByHand(page);
  await heading(page, "Requests");
  await close(page);
});

test("after the password was asked for over edits, the page is live again", async () => {
  const page = await open(browser, world, "/mappings/new", { loggedIn: false });
  page.expected.push(/status of 401/);
  await logInByHand(page);
  await page.getByLabel("Mapping Name").fill("precious");
  await page.clock.install();
  await world.api("POST", "/auth/logout-all");
  delete world.token;
  delete world.cookies;
  const dialog = page.getByRole("dialog", { name: "Your session has ended" });
  await dialog.waitFor();
  // Long enough for whatever is tried again by itself.
  await page.clock.runFor(10_000);
  await dialog.getByLabel("Password").fill("correct horse");
  const stream = page.waitForRequest("**/api/v1/events");
  await page.keyboard.press("Enter");
  await dialog.waitFor({ state: "detached" });
  await page.clock.runFor(10_000);
  await stream;
  assert.equal(await page.getByLabel("Mapping Name").inputValue(), "precious");
  await close(page);
});

test("logging in again in one tab frees the others, whose edits are still there", async () => {
  const page = await open(browser, world, "/mappings/new", { loggedIn: false });
  page.expected.push(/status of 401/);
  await logInByHand(page);
  await page.getByLabel("Mapping Name").fill("precious");
  await world.api("POST", "/auth/logout-all");
  delete world.token;
  delete world.cookies;
  const dialog = page.getByRole("dialog", { name: "Your session has ended" });
  await dialog.waitFor();
  const other = await page.context().newPage();
  await other.goto(`${world.url}/login`);
  await logInByHand(other);
  await heading(other, "Control Panel");
  await dialog.waitFor({ state: "detached" });
  assert.equal(await page.getByLabel("Mapping Name").inputValue(), "precious");
  await close(page);
});

test("a renewal that fails for now does not end the session", async () => {
  const page = await open(browser, world, "/mappings/new", { loggedIn: false });
  page.expected.push(/status of (401|503)/);
  await logInByHand(page);
  await page.getByLabel("Mapping Name").fill("x");
  await page.getByLabel("Mapping Name").fill("");
  await page.route("**/auth/refresh", (route) => route.fulfill({ status: 503, json: { message: "busy" } }));
  await page.context().clearCookies({ name: "octoporty_access" });
  await page.getByRole("button", { name: "Test target" }).click();
  await page.locator(".target-test .notice", { hasText: /session.*renewed/ }).waitFor();
  assert.equal(new URL(page.url()).pathname, "/mappings/new");
  await page.unroute("**/auth/refresh");
  await page.getByRole("button", { name: "Test target" }).click();
  await page.locator(".target-test .notice", { hasText: /answer/ }).waitFor();
  assert.equal(await page.getByRole("dialog").count(), 0);
  await close(page);
});

test("the skip link leads to the content and nowhere else", async () => {
  const page = await open(browser, world, "/mappings/new");
  await page.getByLabel("Mapping Name").fill("half done");
  await page.getByRole("link", { name: "Skip to content" }).focus();
  await page.keyboard.press("Enter");
  await until("the focus", () => page.evaluate(() => document.activeElement.id === "main"));
  assert.equal(await page.getByRole("dialog").count(), 0);
  assert.equal(await page.getByLabel("Mapping Name").inputValue(), "half done");
  // The way back still leads to where one was.
  await page.getByRole("link", { name: "Dashboard" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Leave" }).click();
  await heading(page, "Control Panel");
  await page.goBack();
  await heading(page, "Create Mapping");
  await close(page);
});

test("pages that were not looked at yet are there while the Agent is away", async () => {
  const page = await open(browser, world, "/");
  page.expected.push(AWAY);
  await until("all pages", () => page.evaluate(() => performance.getEntriesByType("resource").filter(({ name, responseEnd }) => /\/js\/pages\//.test(name) && responseEnd > 0).length >= 11));
  await world.agent.stop();
  try {
    await page.getByText("The Agent does not answer.").first().waitFor();
    await page.getByRole("link", { name: "Inspector" }).click();
    await heading(page, "Request Inspector");
    await page.getByRole("link", { name: "Settings" }).click();
    await heading(page, "Settings");
    await page.getByRole("link", { name: "Dashboard" }).click();
    await heading(page, "Control Panel");
    assert.equal(await page.getByText("Something went wrong").count(), 0);
  } finally {
    await world.startAgent();
    await world.connected();
  }
  await page.getByText("What you see is the last known state").waitFor({ state: "hidden" });
  await close(page);
});

test("a page that cannot be fetched says so, and comes by itself", async () => {
  const page = await open(browser, world, "/login", { loggedIn: true });
  page.expected.push(AWAY, /ERR_FAILED/);
  await page.route("**/js/pages/inspector.js", (route) => route.abort());
  await page.goto(world.url);
  await heading(page, "Control Panel");
  await page.getByRole("link", { name: "Inspector" }).click();
  await heading(page, "This page cannot be shown");
  await page.unroute("**/js/pages/inspector.js");
  await page.getByRole("button", { name: "Try again" }).click();
  await heading(page, "Request Inspector");

  await page.route("**/js/pages/logs.js", (route) => route.abort());
  await page.goto(world.url);
  await heading(page, "Control Panel");
  await page.getByRole("link", { name: "Logs" }).click();
  await heading(page, "This page cannot be shown");
  await page.unroute("**/js/pages/logs.js");
  await world.agent.stop();
  await world.startAgent();
  await heading(page, "Logs");
  await close(page);
});

test("what arrives does not take away the button that one is about to press", async () => {
  const page = await open(browser, world, `/mappings/${home.id}`);
  const copy = page.getByRole("button", { name: "Copy" });
  await copy.focus();
  await world.visit("home.example.com", "/while-focused");
  await page.getByRole("cell", { name: "/while-focused" }).waitFor();
  await page.getByText(/Last Request/).locator("..").getByText(/just now|s ago/).waitFor();
  await world.api("PATCH", `/mappings/${home.id}`, { description: "Home again" });
  await page.locator(".crumbs", { hasText: "Home again" }).waitFor();
  assert.equal(await focused(page), "Copy");
  await world.api("PATCH", `/mappings/${home.id}`, { description: "Home" });
  await close(page);
});

test("a list that changes keeps the focus where it is", async () => {
  const gone = await world.mapping("aaa.example.com", { description: "AAA" });
  const page = await open(browser, world, "/mappings");
  const flip = page.getByRole("switch", { name: "Disable mapping Photos" });
  await flip.focus();
  await world.api("DELETE", `/mappings/${gone.id}`);
  await page.getByText("Showing 2 of 2 mappings").waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute("aria-label")), "Disable mapping Photos");
  await close(page);
});

test("a button that has done its work has the focus again", async () => {
  const page = await open(browser, world, `/mappings/${home.id}`);
  await page.getByRole("button", { name: "Check now" }).focus();
  const asked = page.waitForResponse(/certificate\?fresh=true/);
  await page.keyboard.press("Enter");
  await asked;
  await until("the button", () => page.getByRole("button", { name: "Check now" }).isEnabled());
  assert.equal(await focused(page), "Check now");
  await close(page);
});

test("a deletion under way cannot be dismissed, and leads where it should", async () => {
  const gone = await world.mapping("gone.example.com", { description: "Gone" });
  const page = await open(browser, world, `/mappings/${gone.id}`);
  page.expected.push(/status of 404/); // What is known of it may be asked for while it goes.
  const wait = await slow(page, `**/api/v1/mappings/${gone.id}`, "DELETE");
  await page.getByRole("button", { name: "Delete Mapping" }).click();
  const dialog = page.getByRole("dialog", { name: "Delete Mapping" });
  await dialog.getByRole("button", { name: "Delete", exact: true }).click();
  await dialog.getByText("Please wait…").waitFor();
  await page.keyboard.press("Escape");
  await page.mouse.click(5, 5);
  await page.keyboard.press("Escape");
  // A browser may insist; then it is back a moment later.
  await page.evaluate(() => new Promise((done) => setTimeout(() => requestAnimationFrame(done))));
  assert.ok(await dialog.isVisible());
  await wait.answer();
  await at(page, "/mappings");
  await toast(page, "Mapping deleted");
  assert.equal(wait.asked, 1);
  await close(page);
});

test("a form that is being saved takes no more, and is saved once", async () => {
  const page = await open(browser, world, `/mappings/${home.id}`);
  const name = page.getByLabel("Mapping Name");
  await until("the values", async () => (await name.inputValue()) === "Home");
  const wait = await slow(page, `**/api/v1/mappings/${home.id}`, "PUT");
  await name.fill("Home 2");
  await name.press("Enter");
  await page.getByText("Saving…").waitFor();
  // Would be overwritten by the answer.
  await page.keyboard.type("3");
  await page.keyboard.press("Enter");
  await wait.answer();
  await toast(page, "Mapping updated");
  assert.equal(await name.inputValue(), "Home 2");
  assert.equal((await world.api("GET", `/mappings/${home.id}`)).value.description, "Home 2");
  assert.equal(wait.asked, 1);
  await until("the focus", () => page.evaluate(() => document.activeElement !== document.body));
  await page.unroute(`**/api/v1/mappings/${home.id}`);
  await name.fill("Home");
  await page.getByRole("button", { name: "Update Mapping" }).click();
  await until("saved", async () => (await world.api("GET", `/mappings/${home.id}`)).value.description === "Home");
  await close(page);
});

test("a switch and a button that are slow do it once", async () => {
  const page = await open(browser, world, "/mappings");
  const toggles = await slow(page, "**/toggle", "PATCH");
  const flip = page.getByRole("switch", { name: "Disable mapping Home", exact: true });
  await flip.click();
  await flip.click();
  await toggles.answer();
  await toast(page, "Mapping disabled");
  await page.getByRole("switch", { name: "Enable mapping Home", exact: true }).click();
  await toggles.answer();
  await toast(page, "Mapping enabled");
  assert.equal(toggles.asked, 2);
  await world.login(); // A program's session.
  await page.getByRole("link", { name: "Settings" }).click();
  await page.getByRole("link", { name: "Sessions" }).click();
  const others = page.locator("tbody tr").filter({ hasNotText: "THIS ONE" });
  const ends = await slow(page, "**/auth/sessions/*", "DELETE");
  await others.last().getByRole("button").dblclick();
  await ends.answer();
  await toast(page, "Session ended");
  assert.equal(ends.asked, 1);
  await close(page);
});

test("of two looks at an import, the one that was asked for last is shown", async () => {
  const page = await open(browser, world, "/settings/data");
  const first = await slow(page, /import\?mode=replace/, "POST");
  const later = page.waitForResponse(/import\?mode=merge/);
  const file = { format: "octoporty-mappings", version: 1, mappings: [{ externalDomain: "new.example.com", internalHost: "127.0.0.1", internalPort: 80, description: "New" }] };
  await page.getByRole("button", { name: "Delete others" }).click();
  await page.locator("input[type=file]").setInputFiles({ name: "m.json", mimeType: "application/json", buffer: Buffer.from(JSON.stringify(file)) });
  await until("the first look", () => first.asked === 1);
  await page.getByRole("button", { name: "Keep others" }).click();
  await later;
  await page.getByRole("button", { name: "Import 1 change" }).waitFor();
  const stale = page.waitForResponse(/import\?mode=replace/);
  await first.answer();
  await (await stale).finished();
  // One more turn of the page, so that what came had its chance.
  await page.evaluate(() => new Promise((done) => setTimeout(() => requestAnimationFrame(done))));
  assert.equal(await page.locator(".badge", { hasText: "DELETED" }).count(), 0);
  assert.ok(await page.getByRole("button", { name: "Import 1 change" }).isEnabled());
  await close(page);
});

test("a search that was begun stays on its page", async () => {
  const page = await open(browser, world, "/requests");
  // The next page takes its time, so the one that is left stays in sight.
  let release;
  const held = new Promise((resolve) => (release = resolve));
  await page.route("**/js/pages/mappings.js", async (route) => {
    await held;
    await route.continue();
  });
  await page.reload();
  await page.locator(".requests-table tbody tr").first().waitFor();
  await page.clock.install();
  await page.clock.pauseAt(new Date(Date.now() + 3_600_000));
  await page.getByPlaceholder("Search requests...").fill("left behind");
  await page.getByRole("link", { name: "Mappings" }).click();
  await page.waitForURL("**/mappings");
  await page.clock.runFor(2_000);
  assert.equal(new URL(page.url()).search, "");
  await page.getByLabel("Status").selectOption({ index: 1 });
  assert.equal(new URL(page.url()).search, "");
  release();
  await heading(page, "Port Mappings");
  assert.equal(new URL(page.url()).search, "");
  await close(page);
});

test("a log that was held misses nothing that came while the Agent was away", async () => {
  const page = await open(browser, world, "/logs?of=gateway");
  page.expected.push(AWAY);
  await page.locator(".log-line").first().waitFor();
  await page.getByRole("button", { name: "Pause" }).click();
  await world.agent.stop();
  await page.getByText("What you see is the last known state").waitFor();
  await world.visit("home.example.com", "/");
  await world.startAgent();
  await world.connected();
  await page.getByText("What you see is the last known state").waitFor({ state: "hidden" });
  assert.equal(await page.locator(".log-line", { hasText: "the agent is away" }).count(), 0);
  await page.getByRole("button", { name: /Resume/ }).click();
  await page.locator(".log-line", { hasText: "the agent is away" }).first().waitFor();
  await close(page);
});

test("the inspector can be typed into at once", async () => {
  const page = await open(browser, world, "/gateway/inspector");
  await until("the focus", () => page.evaluate(() => document.activeElement.id === "probe-url"));
  await close(page);
});

test("what is read again by itself does not complain while the Agent is away", async () => {
  const page = await open(browser, world, "/");
  page.expected.push(AWAY);
  await page.getByRole("link", { name: "Home home.example.com" }).waitFor();
  await world.agent.stop();
  try {
    await page.locator(".notice", { hasText: "What you see is the last known state" }).waitFor();
    const asked = page.waitForRequest("**/api/v1/mappings");
    await page.evaluate(() => import("/js/events.js").then(({ events }) => events.dispatchEvent(new CustomEvent("MappingsChanged", { detail: {} }))));
    await (await asked).response();
    await page.evaluate(() => new Promise((done) => setTimeout(() => requestAnimationFrame(done))));
    assert.equal(await page.locator(".toast-error").count(), 0);
    assert.ok(await page.getByRole("link", { name: "Home home.example.com" }).isVisible());
  } finally {
    await world.startAgent();
    await world.connected();
  }
  await close(page);
});

test("the time that a Gateway has run is not counted on while it is away", async () => {
  const page = await open(browser, world, "/gateway");
  const uptime = page.locator(".fact", { hasText: "Gateway Uptime" }).locator(".data");
  await until("an uptime", async () => /\ds$/.test(await uptime.innerText()));
  await world.gateway.stop("SIGKILL");
  await until("that nobody knows", async () => (await uptime.innerText()) === "Unknown");
  await world.startGateway();
  await until("a new one", async () => /^\d+s$/.test(await uptime.innerText()));
  await close(page);
});

test("a mapping is made, tested, looked at and deleted with the keyboard alone", async () => {
  const page = await open(browser, world, "/mappings");
  const here = () => page.evaluate(() => {
    const { activeElement: one } = document;
    const label = document.getElementById(one.getAttribute("aria-labelledby")?.split(" ")[0]);
    return one.getAttribute("aria-label") ?? label?.textContent ?? one.labels?.[0]?.textContent ?? one.textContent.trim();
  });
  const tabTo = async (name, key = "Tab") => {
    const seen = [];
    for (let i = 0; i < 80; i++) {
      await page.keyboard.press(key);
      seen.push(await here());
      if (seen.at(-1) === name) return;
    }
    assert.fail(`${name} was not reached: ${seen.join(", ")}`);
  };
  await tabTo("New Mapping");
  await page.keyboard.press("Enter");
  await heading(page, "Create Mapping");
  await tabTo("Mapping Name");
  await page.keyboard.type("By hand");
  await tabTo("Domain");
  await page.keyboard.type("keys.example.com");
  await tabTo("Host");
  await page.keyboard.type("127.0.0.1");
  await tabTo("Port");
  await page.keyboard.type(String(world.site.port));
  await tabTo("Test target");
  await page.keyboard.press("Enter");
  await page.getByText("It answers: 200 OK").waitFor();
  await tabTo("Create Mapping");
  await page.keyboard.press("Enter");
  await toast(page, "Mapping created");
  await page.getByRole("button", { name: "QR code" }).waitFor();
  await tabTo("QR code");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog", { name: "Open on another device" }).waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.closest("dialog") !== null), true);
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  assert.equal(await here(), "QR code");
  await tabTo("Enable Mapping", "Shift+Tab");
  await page.keyboard.press("Space");
  await tabTo("Update Mapping");
  await page.keyboard.press("Enter");
  await toast(page, "Mapping updated");
  assert.equal((await world.api("GET", "/mappings")).value.find(({ name }) => name === "By hand").enabled, false);
  await until("the focus is back", async () => (await here()) === "Update Mapping");
  await tabTo("Delete Mapping", "Shift+Tab");
  await page.keyboard.press("Enter");
  await page.getByRole("dialog", { name: "Delete Mapping" }).waitFor();
  assert.equal(await here(), "Cancel"); // What does no harm is at hand.
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  assert.equal(await here(), "Delete Mapping");
  await page.keyboard.press("Enter");
  await tabTo("Delete");
  await page.keyboard.press("Enter");
  await at(page, "/mappings");
  await toast(page, "Mapping deleted");
  await until("the heading", async () => (await here()) === "Port Mappings");
  await close(page);
});

test("what happens before the stream of events has opened is not missed", async () => {
  const page = await open(browser, world, "/login", { loggedIn: true });
  const stream = await slow(page, "**/api/v1/events", "GET", 1);
  await page.goto(`${world.url}/mappings/${home.id}`);
  await page.locator(".crumbs", { hasText: "Home" }).waitFor();
  await until("the stream", () => stream.asked > 0);
  await world.api("PATCH", `/mappings/${home.id}`, { description: "Meanwhile" });
  await stream.answer();
  await page.locator(".crumbs", { hasText: "Meanwhile" }).waitFor();
  await world.api("PATCH", `/mappings/${home.id}`, { description: "Home" });
  await close(page);
});
