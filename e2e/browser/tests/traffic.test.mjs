// Requests and logs: history, live, filters, and taking them along.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";

import { close, launch, open, toast } from "../lib/page.mjs";
import { until, World } from "../lib/world.mjs";

let world, browser, home;

before(async () => {
  [world, browser] = await Promise.all([World.start(), launch()]);
  home = await world.mapping("home.example.com", { description: "Home" });
  await world.mapping("shop.example.com", { description: "Shop" });
});

after(async () => {
  await browser.close();
  await world.stop();
});

const rows = (page) => page.locator(".requests-table tbody tr");
const row = (page, text) => rows(page).filter({ hasText: text });

test("requests appear as they happen, the newest first", async () => {
  const page = await open(browser, world, "/requests");
  await page.getByRole("heading", { name: "No requests yet" }).waitFor();
  await world.visit("home.example.com", "/first");
  await row(page, "home.example.com/first").waitFor();
  await world.visit("shop.example.com", "/second?a=<b>&c=1", { headers: { "User-Agent": "A browser" } });
  await row(page, "shop.example.com/second?a=<b>&c=1").waitFor();
  assert.match(await rows(page).first().innerText(), /second/);
  assert.match(await rows(page).first().innerText(), /200/);
  await close(page);
});

test("filters are the same for what was and for what comes, and are kept in the address", async () => {
  for (const path of ["/status/204", "/status/302", "/status/404", "/status/500"]) await world.visit("home.example.com", path);
  await world.visit("shop.example.com", "/status/404", { method: "POST" });
  const page = await open(browser, world, "/requests");
  await row(page, "/status/500").waitFor();
  await page.getByLabel("Status", { exact: true }).selectOption("4xx");
  await until("404s only", async () => (await rows(page).count()) === 2);
  await page.getByLabel("Mapping", { exact: true }).selectOption(home.id);
  await until("those of one mapping", async () => (await rows(page).count()) === 1);
  await page.waitForURL(`**/requests?mapping=${home.id}&status=4xx`);
  await world.visit("shop.example.com", "/status/410");
  await world.visit("home.example.com", "/ok");
  await world.visit("home.example.com", "/status/451");
  await row(page, "/status/451").waitFor();
  assert.equal(await rows(page).count(), 2);
  await page.reload();
  await until("the same after a reload", async () => (await rows(page).count()) === 2);
  assert.equal(await page.getByLabel("Status", { exact: true }).inputValue(), "4xx");
  await page.getByRole("button", { name: "Clear filters" }).click();
  await row(page, "/ok").waitFor();
  await page.getByLabel("Method", { exact: true }).selectOption("POST");
  await until("one POST", async () => (await rows(page).count()) === 1);
  await page.getByRole("button", { name: "Clear filters" }).click();
  await page.getByPlaceholder("Search requests...").fill("STATUS/302");
  await until("one found", async () => (await rows(page).count()) === 1);
  await page.getByPlaceholder("Search requests...").fill("nothing at all");
  await page.getByRole("heading", { name: "No request fits" }).waitFor();
  await close(page);
});

test("a span of time is a filter, in the browser's zone", async () => {
  await world.visit("home.example.com", "/now");
  const page = await open(browser, world, "/requests");
  await row(page, "/now").first().waitFor();
  await page.getByLabel("To", { exact: true }).fill("2020-01-01T12:00:00");
  await page.getByRole("heading", { name: "No request fits" }).waitFor();
  await page.waitForURL((url) => url.searchParams.get("to") === "2020-01-01T11:00:00.000Z");
  await page.getByLabel("To", { exact: true }).fill("");
  await page.getByLabel("From", { exact: true }).fill("2020-01-01T12:00:00");
  await row(page, "/now").first().waitFor();
  await close(page);
});

test("a request without an answer says why", async () => {
  await world.mapping("dead.example.com", { internalPort: 9, description: "Dead" });
  assert.equal((await world.visit("dead.example.com", "/x")).status, 502);
  const page = await open(browser, world, "/requests?status=error");
  await row(page, "dead.example.com/x").getByRole("button").click();
  const dialog = page.getByRole("dialog");
  await dialog.locator(".problem", { hasText: /refused|9/ }).waitFor();
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "detached" });
  await close(page);
});

test("details of a request, and asking again", async () => {
  await world.visit("home.example.com", "/details?x=1", { headers: { "User-Agent": "Sample/1.0" } });
  const page = await open(browser, world, "/requests?q=details");
  await row(page, "/details").first().getByRole("button").click();
  const dialog = page.getByRole("dialog");
  for (const text of ["Sample/1.0", "127.0.0.1", "Home", "home.example.com/details?x=1"]) await dialog.getByText(text).first().waitFor();
  assert.match(await dialog.locator("time").getAttribute("title"), /UTC$/);
  await dialog.getByRole("button", { name: "Only this mapping" }).click();
  await page.waitForURL(`**/requests?mapping=${home.id}&q=details`);
  await row(page, "/details").first().getByRole("button").click();
  await page.getByRole("dialog").getByRole("link", { name: "Ask again" }).click();
  await page.getByRole("heading", { name: "Request Inspector" }).waitFor();
  assert.equal(await page.locator("#probe-url").inputValue(), "https://home.example.com/details?x=1");
  await close(page);
});

test("the live tail can be held", async () => {
  const page = await open(browser, world, "/requests");
  await rows(page).first().waitFor();
  await page.getByRole("button", { name: "Live" }).click();
  await page.getByRole("button", { name: "Paused" }).waitFor();
  await world.visit("home.example.com", "/while-paused");
  await world.api("GET", "/requests?q=while-paused"); // It is written by now.
  assert.equal(await row(page, "/while-paused").count(), 0);
  await page.getByRole("button", { name: "Paused" }).click();
  await row(page, "/while-paused").waitFor();
  await close(page);
});

test("older requests are loaded on demand", async () => {
  for (let i = 0; i < 130; i++) await world.visit("shop.example.com", `/many/${i}`);
  const page = await open(browser, world, "/requests?q=many");
  await until("a page of them", async () => (await rows(page).count()) === 100);
  await page.getByRole("button", { name: "Load older requests" }).click();
  await until("all of them", async () => (await rows(page).count()) === 130);
  await row(page, "/many/0").first().waitFor();
  assert.ok(await page.getByRole("button", { name: "Load older requests" }).isHidden());
  await close(page);
});

test("the selection is exported as CSV", async () => {
  for (const path of ["/leave-me", "/export-me"]) await world.visit("home.example.com", path);
  const page = await open(browser, world, "/requests?q=export-me");
  await row(page, "/export-me").first().waitFor();
  const [file] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "Export CSV" }).click()]);
  assert.match(file.suggestedFilename(), /\.csv$/);
  const lines = readFileSync(await file.path(), "utf8").trim().split(/\r?\n/);
  assert.equal(lines.length, 2);
  assert.match(lines[1], /export-me/);
  await toast(page, "Requests exported");
  await close(page);
});

const line = (page, text) => page.locator(".log-line", { hasText: text });

for (const [of, path, needle] of [["Agent", "/logs", "via 127.0.0.1"], ["Gateway", "/logs?of=gateway", "home.example.com/seen-by-gateway"]]) {
  test(`the log of the ${of}: history, live, levels, search, pause`, async () => {
    await world.visit("home.example.com", "/seen-by-gateway");
    const page = await open(browser, world, path);
    await page.getByRole("heading", { name: `${of} Logs` }).waitFor();
    await line(page, needle).last().waitFor();
    const box = page.locator(".terminal");
    await until("the end of it", () => box.evaluate((e) => e.scrollHeight - e.scrollTop - e.clientHeight < 50));
    const mark = `/live-${of.toLowerCase()}`;
    await world.visit("home.example.com", mark);
    await line(page, mark).waitFor();
    assert.match(await line(page, mark).locator("time").getAttribute("title"), /UTC\)$/);
    // Each line once, whether it came from history or live.
    const texts = await page.locator(".log-line").allInnerTexts();
    assert.equal(texts.filter((text) => text.includes(mark)).length, 1);
    await page.getByRole("button", { name: "Pause" }).click();
    await world.visit("home.example.com", `${mark}-paused`);
    await page.getByRole("button", { name: /Resume \(\d+\)/ }).waitFor();
    assert.equal(await line(page, `${mark}-paused`).count(), 0);
    await page.getByRole("button", { name: /Resume/ }).click();
    await line(page, `${mark}-paused`).waitFor();
    await page.getByPlaceholder("Search logs...").fill(`${mark.toUpperCase()}-PAUSED`);
    await until("one line", async () => (await page.locator(".log-line:visible").count()) === 1);
    await page.getByPlaceholder("Search logs...").fill("");
    await page.getByLabel("Least level").selectOption("3");
    await until("no request lines", async () => (await line(page, mark).first().isVisible()) === false);
    await page.getByLabel("Least level").selectOption("0");
    await line(page, mark).first().waitFor();
    const [file] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "Download" }).click()]);
    assert.match(file.suggestedFilename(), new RegExp(`^octoporty-${of.toLowerCase()}-.*\\.log$`));
    assert.match(readFileSync(await file.path(), "utf8"), new RegExp(`\\[Info\\].*${mark}`));
    await page.getByRole("button", { name: "Clear" }).click();
    await toast(page, "Logs cleared");
    await page.getByText(`Waiting for ${of.toLowerCase()} logs…`).waitFor();
    await close(page);
  });
}

test("older lines are loaded when one scrolls up, and stay in order", async () => {
  for (let i = 0; i < 40; i++) await Promise.all(Array.from({ length: 30 }, (_, k) => world.visit("shop.example.com", `/fill/${i}/${k}`)));
  const page = await open(browser, world, "/logs");
  await until("a page of lines", async () => (await page.locator(".log-line").count()) >= 1000);
  const box = page.locator(".terminal");
  const before = await page.locator(".log-line").count();
  await box.evaluate((e) => (e.scrollTop = 0));
  await until("more lines", async () => (await page.locator(".log-line").count()) > before);
  const times = await page.locator(".log-line time").evaluateAll((list) => list.map((one) => Date.parse(one.dateTime)));
  assert.deepEqual(times, [...times].sort((a, b) => a - b));
  // A search goes through what is not loaded as well.
  await page.reload();
  await until("a page of lines", async () => (await page.locator(".log-line").count()) >= 1000);
  await page.getByPlaceholder("Search logs...").fill("listening on");
  await line(page, "listening on").first().waitFor();
  await close(page);
});

test("what a visitor writes into a log is text, not markup", async () => {
  await world.visit("home.example.com", "/%3Cimg%20src=x%20onerror=alert(1)%3E?<img src=x onerror=alert(2)>".replaceAll(" ", "%20"), { headers: { "User-Agent": "<script>alert(3)</script>" } });
  for (const path of ["/logs", "/requests"]) {
    const page = await open(browser, world, path);
    page.on("dialog", () => page.faults.push("a script of the visitor ran"));
    await page.getByText("onerror").first().waitFor();
    assert.equal(await page.locator("main img, main script").count(), 0);
    await close(page);
  }
});
