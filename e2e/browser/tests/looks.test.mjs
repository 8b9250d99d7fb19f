// Every page in both themes, wide and narrow: nothing that axe-core finds, nothing wider than the screen, a picture of
// each to look at, and how heavy and how fast the whole is.

import assert from "node:assert/strict";
import { mkdirSync, readdirSync } from "node:fs";
import { get } from "node:http";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

import { accessible, close, launch, logInByHand, open } from "../lib/page.mjs";
import { until, World } from "../lib/world.mjs";

const PICTURES = join(process.env.CARGO_TARGET_DIR ?? join(dirname(fileURLToPath(import.meta.url)), "../../../target"), "screenshots");
const STATIC = join(dirname(fileURLToPath(import.meta.url)), "../../../static");
const MOST_BYTES = 200_000;

/** How many bytes the body of an answer has on the wire. */
const sent = (url, encoding) =>
  new Promise((resolve, reject) => {
    get(url, { headers: { "Accept-Encoding": encoding } }, (answer) => {
      let bytes = 0;
      answer.on("data", (chunk) => (bytes += chunk.length));
      answer.on("end", () => (answer.statusCode === 200 ? resolve(bytes) : reject(new Error(`${url}: ${answer.statusCode}`))));
      answer.on("error", reject);
    }).on("error", reject);
  });

let world, browser, home;

before(async () => {
  mkdirSync(PICTURES, { recursive: true });
  [world, browser] = await Promise.all([World.start({ caddy: true }), launch()]);
  home = await world.mapping("home.example.com", { description: "Home Assistant" });
  await world.mapping("photos.example.com", { description: "Photos", internalUseTls: true, allowSelfSignedCerts: true });
  await world.mapping("cloud.example.com", { description: "Nextcloud" });
  await world.mapping("wiki.example.com", { description: "Wiki", enabled: false });
  for (const path of ["/", "/api/states", "/status/304", "/status/404", "/status/500", "/lovelace/default_view?edit=1"]) await world.visit("home.example.com", path);
});

after(async () => {
  await browser.close();
  await world.stop();
});

/** Waits until what a page loads is there. */
const PAGES = {
  dashboard: ["/", (page) => page.locator(".plot[viewBox]").nth(3).waitFor()],
  mappings: ["/mappings", (page) => page.getByText("Showing 4 of 4 mappings").waitFor()],
  "mapping-new": ["/mappings/new", (page) => page.getByRole("button", { name: "Create Mapping" }).waitFor()],
  mapping: [() => `/mappings/${home.id}`, (page) => page.locator(".plot[viewBox]").nth(3).waitFor()],
  requests: ["/requests", (page) => page.locator("tbody tr").nth(5).waitFor()],
  logs: ["/logs", (page) => page.locator(".log-line").nth(5).waitFor()],
  gateway: ["/gateway", (page) => page.locator(".log-line").nth(5).waitFor()],
  caddy: ["/gateway/caddy-config", (page) => page.locator(".json-own").first().waitFor()],
  inspector: ["/gateway/inspector", (page) => page.getByRole("button", { name: "Run Probe" }).waitFor()],
  settings: ["/settings", (page) => page.frameLocator("iframe").getByRole("heading").first().waitFor()],
  "settings-data": ["/settings/data", (page) => page.getByRole("button", { name: "Download backup" }).waitFor()],
  "settings-sessions": ["/settings/sessions", (page) => page.getByText("THIS ONE").waitFor()],
};

/** At a time, the whole of one theme and width: pages are gone through in one tab, as people do. */
for (const theme of ["dark", "light"]) {
  for (const width of [1280, 360]) {
    test(`every page is accessible and fits: ${theme}, ${width} px`, async () => {
      const size = { theme, width, height: width === 360 ? 740 : 900 };
      let told = 0;
      const picture = (page, name) => page.screenshot({ path: join(PICTURES, `${name}-${theme}-${width}.png`), fullPage: true });
      const look = async (page, name) => {
        await accessible(page, `${name} ${theme} ${width}`);
        const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        assert.ok(wide <= 0, `${name} is ${wide} px wider than ${width}`);
        const times = await page.evaluate(() => [...document.querySelectorAll("main time[datetime]")].map((one) => [one.outerHTML, /UTC/.test(one.title + one.textContent)]));
        told += times.length;
        assert.deepEqual(times.filter(([, utc]) => !utc), [], `${name}: a time without its UTC`);
        await picture(page, name);
      };
      const login = await open(browser, world, "/login", { ...size, loggedIn: false });
      assert.equal(await login.evaluate(() => document.documentElement.dataset.theme), theme);
      await look(login, "login");
      await close(login);
      const page = await open(browser, world, "/", size);
      for (const [name, [path, ready]] of Object.entries(PAGES)) {
        await page.evaluate((to) => import("/js/router.js").then((router) => router.go(to)), typeof path === "string" ? path : path());
        await ready(page);
        await look(page, name);
      }
      assert.ok(told > 20, `only ${told} times`);
      await close(page);
    });
  }
}

for (const theme of ["dark", "light"]) test(`dialogs, toasts, faults and the menu are accessible too: ${theme}`, async () => {
  const page = await open(browser, world, "/mappings", { theme });
  await page.getByRole("button", { name: "Delete Home Assistant" }).click();
  await page.getByRole("dialog").waitFor();
  await accessible(page, "confirm dialog");
  // Tab goes round inside it.
  const inside = [];
  for (let i = 0; i < 5; i++) {
    await page.keyboard.press("Tab");
    inside.push(await page.evaluate(() => document.activeElement.closest("dialog") !== null));
  }
  assert.deepEqual(inside, [true, true, true, true, true]);
  await page.keyboard.press("Escape");
  await page.getByRole("switch", { name: "Disable mapping Nextcloud" }).click();
  await page.locator(".toast").waitFor();
  await accessible(page, "toast");
  await page.getByRole("switch", { name: "Enable mapping Nextcloud" }).click();
  await page.locator("button[title='Table view']").click();
  await page.locator("tbody tr").first().waitFor();
  await accessible(page, "table of mappings");
  assert.equal(await page.locator(".mappings-table").evaluate((e) => e.scrollWidth - e.clientWidth), 0);
  await page.screenshot({ path: join(PICTURES, `mappings-table-${theme}-1280.png`) });
  await page.getByRole("link", { name: "New Mapping" }).click();
  await page.getByRole("button", { name: "Create Mapping" }).click();
  await page.locator(".field-problem", { hasText: "required" }).first().waitFor();
  await accessible(page, "faults of a form");
  await page.evaluate(() => import("/js/router.js").then((router) => router.go("/requests", { force: true })));
  await page.locator("tbody button").first().click();
  await page.getByRole("dialog").waitFor();
  await accessible(page, "details of a request");
  await close(page);
});

test("the first run is accessible in both themes, wide and narrow", async () => {
  const empty = await World.start();
  try {
    for (const theme of ["dark", "light"]) {
      for (const width of [1280, 360]) {
        const page = await open(browser, empty, "/", { theme, width, height: 800 });
        await page.locator(".service").nth(1).waitFor();
        await accessible(page, `first run ${theme} ${width}`);
        await page.screenshot({ path: join(PICTURES, `first-run-${theme}-${width}.png`), fullPage: true });
        assert.ok((await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)) <= 0);
        await close(page);
      }
    }
  } finally {
    await empty.stop();
  }
});

test("everything can be reached with the keyboard alone", async () => {
  const page = await open(browser, world, "/login", { loggedIn: false });
  await page.keyboard.type("correct horse");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Control Panel" }).waitFor();
  // The heading has the focus after going somewhere; the way back to the top begins with the skip link.
  assert.equal(await page.evaluate(() => document.activeElement.tagName), "H1");
  await page.evaluate(() => document.activeElement.blur());
  await page.evaluate(() => scrollTo(0, 0));
  const seen = new Set();
  await page.keyboard.press("Tab");
  for (let i = 0; i < 70; i++) {
    const [name, outline, none] = await page.evaluate(() => {
      const { activeElement } = document;
      const style = getComputedStyle(activeElement);
      return [activeElement.textContent.trim() || activeElement.getAttribute("aria-label"), style.outlineStyle !== "none" || style.boxShadow !== "none", activeElement === document.body];
    });
    if (name) seen.add(name);
    // At the end the browser's own buttons have their turn.
    assert.ok(outline || none, `no focus to be seen on ${name}`);
    await page.keyboard.press("Tab");
  }
  for (const name of ["Dashboard", "Mappings", "Requests", "Logs", "Gateway", "Inspector", "Settings", "Logout", "Light theme", "Create New Mapping", "Hour", "Month"]) {
    assert.ok(seen.has(name), `${name} was not reached: ${[...seen].join(", ")}`);
  }
  await close(page);
});

test("on a phone the menu opens, closes and is out of the way when it is closed", async () => {
  const page = await open(browser, world, "/", { width: 360, height: 740, hasTouch: true });
  const menu = page.getByRole("button", { name: "Menu" });
  assert.equal(await menu.getAttribute("aria-expanded"), "false");
  assert.equal(await page.locator("#sidebar").evaluate((e) => e.inert), true);
  await menu.click();
  assert.equal(await menu.getAttribute("aria-expanded"), "true");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Dashboard");
  await accessible(page, "menu");
  await page.keyboard.press("Escape");
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute("aria-label")), "Menu");
  await menu.click();
  await page.locator("#sidebar").getByRole("link", { name: "Logs" }).click();
  await page.getByRole("heading", { level: 1, name: "Logs" }).waitFor();
  assert.equal(await menu.getAttribute("aria-expanded"), "false");
  await menu.click();
  await page.touchscreen.tap(340, 400); // Beside it.
  await until("the menu is closed", async () => (await menu.getAttribute("aria-expanded")) === "false");
  await close(page);
});

test("the theme follows the device until one is chosen, which is kept", async () => {
  const page = await open(browser, world, "/", { theme: "light" });
  const theme = () => page.evaluate(() => document.documentElement.dataset.theme);
  assert.equal(await theme(), "light");
  await page.emulateMedia({ colorScheme: "dark" });
  await until("dark", async () => (await theme()) === "dark");
  await page.getByRole("button", { name: "Light theme" }).click();
  assert.equal(await theme(), "light");
  await page.reload();
  await page.getByRole("heading", { name: "Control Panel" }).waitFor();
  assert.equal(await theme(), "light");
  assert.equal(await page.getByRole("button", { name: "Light theme" }).getAttribute("aria-pressed"), "true");
  await page.getByRole("button", { name: "Theme of the device" }).click();
  await until("dark again", async () => (await theme()) === "dark");
  await close(page);
});

test("nothing moves for who has asked for less motion", async () => {
  const page = await open(browser, world, "/");
  const running = await page.evaluate(() => document.getAnimations().filter((one) => one.playState === "running" && one.effect.getComputedTiming().iterations > 1).length);
  assert.equal(running, 0);
  await close(page);
});

test("the whole page is small, compressed, and asked for again only when it has changed", async (t) => {
  const page = await open(browser, world, "/", { loggedIn: false });
  const files = new Map();
  const read = (response) => {
    const url = new URL(response.url());
    if (url.pathname.startsWith("/api/") || url.origin !== world.url) return;
    files.set(url.pathname, { tag: response.headers()["etag"] });
  };
  page.on("response", read);
  await page.reload();
  await logInByHand(page);
  await page.getByRole("heading", { name: "Control Panel" }).waitFor();
  for (const [path, ready] of Object.values(PAGES)) {
    await page.evaluate((to) => import("/js/router.js").then((router) => router.go(to)), typeof path === "string" ? path : path());
    await ready(page);
  }
  // What the visit did not need is weighed all the same: everything that the Agent has.
  const names = readdirSync(STATIC, { recursive: true, withFileTypes: true }).filter((one) => one.isFile());
  const served = names.map((one) => join(one.parentPath, one.name).slice(STATIC.length)).map((path) => (path === "/index.html" ? "/" : path));
  let total = 0;
  let compressed = 0;
  for (const path of served) {
    for (const encoding of ["identity", "gzip"]) {
      const bytes = await sent(world.url + path, encoding);
      if (encoding === "gzip") compressed += bytes;
      else total += bytes;
    }
  }
  t.diagnostic(`${served.length} files, ${total} bytes uncompressed, ${compressed} compressed; one visit of every page: ${files.size} files`);
  assert.ok(files.size > 30, `only ${files.size} files`);
  assert.deepEqual([...files.keys()].filter((path) => path.includes(".") && !served.includes(path)), []);
  assert.ok(total < MOST_BYTES, `${total} bytes`);
  for (const [path, { tag }] of files) {
    assert.match(tag ?? "", /^"[0-9a-f]{16}(-gz)?"$/, path);
    const zipped = await fetch(world.url + path, { headers: { "Accept-Encoding": "gzip" } });
    assert.equal(zipped.headers.get("content-encoding"), "gzip", path);
    await zipped.arrayBuffer();
    const again = await fetch(world.url + path, { headers: { "Accept-Encoding": "gzip", "If-None-Match": zipped.headers.get("etag") } });
    assert.equal(again.status, 304, path);
  }
  await close(page);
});

test("first paint on a slow computer", async (t) => {
  for (const path of ["/login", "/"]) {
    const page = await open(browser, world, path, { loggedIn: path === "/" });
    const client = await page.context().newCDPSession(page);
    await client.send("Emulation.setCPUThrottlingRate", { rate: 4 });
    await client.send("Network.enable");
    await client.send("Network.setCacheDisabled", { cacheDisabled: true });
    await page.reload({ waitUntil: "load" });
    const paint = await until("a first paint", () => page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0]?.startTime));
    const heading = await page.evaluate(() => performance.now());
    await page.waitForSelector("main h1:not(.start-name)");
    // Measured for the report; how busy the machine is must not decide about a test.
    t.diagnostic(`${path}: first contentful paint ${Math.round(paint)} ms at a quarter of the speed (loaded ${Math.round(heading)} ms)`);
    await close(page);
  }
});
