// Settings: the landing page, mappings as a file, backups.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";

import { close, launch, open, toast } from "../lib/page.mjs";
import { until, World } from "../lib/world.mjs";

let world, browser;

before(async () => {
  [world, browser] = await Promise.all([World.start(), launch()]);
});

after(async () => {
  await browser.close();
  await world.stop();
});

const OWN = "<!doctype html><html><head><style>h1 { color: rgb(1, 2, 3) }</style></head><body><h1>My own page</h1></body></html>";

test("the editor shows the default page and what it looks like", async () => {
  await world.api("DELETE", "/settings/landing-page");
  const page = await open(browser, world, "/settings");
  assert.equal(await page.locator("h1").innerText(), "Settings");
  for (const name of ["HTML Editor", "Live Preview"]) assert.ok(await page.getByRole("heading", { name }).isVisible(), name);
  await until("the page", async () => /Octoporty Gateway/.test(await page.locator("textarea").inputValue()));
  await page.frameLocator("iframe").getByRole("heading", { name: "Octoporty Gateway" }).waitFor();
  const bar = page.locator(".status-bar");
  assert.match(await bar.innerText(), /Status: Default/i);
  assert.match(await bar.innerText(), /Hash: [0-9a-f]{8}\b/i);
  assert.ok(await page.getByRole("button", { name: "Reset to Default" }).isDisabled());
  assert.ok(await page.getByRole("button", { name: "Save Changes" }).isDisabled());
  await close(page);
});

test("typing is previewed at once, saved, and reaches the Gateway", async () => {
  const page = await open(browser, world, "/settings");
  const editor = page.locator("textarea");
  await until("the page", async () => (await editor.inputValue()) !== "");
  await editor.fill(OWN);
  await page.getByText("Unsaved changes").waitFor();
  const heading = page.frameLocator("iframe").getByRole("heading", { name: "My own page" });
  await heading.waitFor();
  assert.equal(await heading.evaluate((e) => getComputedStyle(e).color), "rgb(1, 2, 3)");
  await page.getByRole("button", { name: "Save Changes" }).click();
  await toast(page, "Landing page saved");
  await page.getByText("Unsaved changes").waitFor({ state: "hidden" });
  assert.ok(await page.getByRole("button", { name: "Save Changes" }).isDisabled());
  await page.locator(".status-bar", { hasText: "Custom" }).waitFor();
  await page.locator(".status-bar", { hasText: "has it" }).waitFor();
  await until("the Gateway's page", async () => /My own page/.test((await world.visit(`127.0.0.1:${world.gatewayPort}`)).text));
  await close(page);
});

test("an empty page is not saved", async () => {
  const page = await open(browser, world, "/settings");
  await until("the page", async () => (await page.locator("textarea").inputValue()) !== "");
  await page.locator("textarea").fill("   ");
  await page.getByText("The page must not be empty.").waitFor();
  assert.ok(await page.getByRole("button", { name: "Save Changes" }).isDisabled());
  await close(page);
});

test("resetting asks first", async () => {
  await world.api("PUT", "/settings/landing-page", { html: OWN });
  const page = await open(browser, world, "/settings");
  const reset = page.getByRole("button", { name: "Reset to Default" });
  await until("something to reset", () => reset.isEnabled());
  await reset.click();
  const dialog = page.getByRole("dialog", { name: "Reset to Default?" });
  assert.match(await dialog.innerText(), /cannot be undone/);
  await dialog.getByRole("button", { name: "Cancel" }).click();
  await dialog.waitFor({ state: "detached" });
  assert.equal(await page.locator("textarea").inputValue(), OWN);
  await reset.click();
  await page.locator(".bg-surface-2 button", { hasText: "Reset" }).click();
  await toast(page, "Landing page reset");
  assert.match(await page.locator("textarea").inputValue(), /Octoporty Gateway/);
  await page.locator(".status-bar", { hasText: "Default" }).waitFor();
  await close(page);
});

test("the preview runs no scripts, loads nothing from elsewhere and reaches nobody", async () => {
  const page = await open(browser, world, "/settings");
  page.expected.push(/Content Security Policy|sandbox|policy: (script-src|frame-src|img-src)/i); // The preview's policy at work.
  await until("the page", async () => (await page.locator("textarea").inputValue()) !== "");
  await page.locator("textarea").fill(
    '<h1>Careful</h1><script>parent.postMessage("ran", "*"); document.title = "ran"</script><img src="http://127.0.0.1:1/x.png" onerror="parent.postMessage(\'ran\', \'*\')">' +
    '<meta http-equiv="refresh" content="0;url=/"><a href="/">away</a><iframe src="/"></iframe>',
  );
  await page.evaluate(() => addEventListener("message", (event) => (window.heard = event.data)));
  const frame = page.frameLocator("iframe.preview");
  await frame.getByRole("heading", { name: "Careful" }).waitFor();
  await frame.getByRole("link", { name: "away" }).click();
  await frame.getByRole("heading", { name: "Careful" }).waitFor();
  assert.equal(await page.evaluate(() => window.heard), undefined);
  const inside = await frame.locator("h1").evaluate(() => ({ origin: self.origin, title: document.title, cookie: (() => {
    try {
      return document.cookie;
    } catch (error) {
      return error.name;
    }
  })() }));
  assert.equal(inside.origin, "null");
  assert.notEqual(inside.title, "ran");
  assert.equal(inside.cookie, "SecurityError");
  page.faults.splice(0, page.faults.length, ...page.faults.filter((fault) => !/127\.0\.0\.1:1\//.test(fault)));
  await close(page);
});

test("mappings are exported, and imported after a look at what would change", async () => {
  const keep = await world.mapping("keep.example.com", { description: "Keep" });
  await world.mapping("gone.example.com", { description: "Gone" });
  const page = await open(browser, world, "/settings/data");
  const [file] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "Export mappings" }).click()]);
  await toast(page, "Mappings exported");
  const document = JSON.parse(readFileSync(await file.path(), "utf8"));
  assert.equal(document.format, "octoporty-mappings");
  assert.equal(document.mappings.length, 2);
  document.mappings = [{ ...document.mappings.find((one) => one.id === keep.id), internalPort: 4711 }, { externalDomain: "new.example.com", internalHost: "10.0.0.9", internalPort: 80 }];
  const choose = () => page.getByLabel("File", { exact: true }).setInputFiles({ name: "mappings.json", mimeType: "application/json", buffer: Buffer.from(JSON.stringify(document)) });
  await choose();
  const table = page.getByRole("region", { name: "Table of what would change" });
  await table.locator("tr", { hasText: "new.example.com" }).getByText("NEW", { exact: true }).waitFor();
  assert.match(await table.locator("tr", { hasText: "keep.example.com" }).innerText(), /CHANGED[\s\S]*internalPort: \d+ → 4711/);
  assert.equal(await table.locator("tr", { hasText: "gone.example.com" }).count(), 0);
  // Nothing has happened so far.
  assert.equal((await world.api("GET", `/mappings/${keep.id}`)).value.internalPort, world.site.port);
  await page.getByRole("button", { name: "Delete others" }).click();
  await table.locator("tr", { hasText: "gone.example.com" }).getByText("DELETED", { exact: true }).waitFor();
  await page.getByRole("button", { name: "Import and delete 1" }).click();
  await toast(page, "Mappings imported");
  await page.getByText("1 added, 1 changed, 1 deleted.").waitFor();
  const { value } = await world.api("GET", "/mappings");
  assert.deepEqual(value.map((one) => [one.externalDomain, one.internalPort]), [["keep.example.com", 4711], ["new.example.com", 80]]);
  await choose();
  await page.getByText("Nothing would change.").waitFor();
  assert.ok(await page.getByRole("button", { name: /^Import/ }).isHidden());
  await close(page);
});

test("a file with faults says where they are and changes nothing", async () => {
  const page = await open(browser, world, "/settings/data");
  page.expected.push(/status of 400/);
  const before = (await world.api("GET", "/mappings")).value.length;
  const choose = (text) => page.getByLabel("File", { exact: true }).setInputFiles({ name: "broken.json", mimeType: "application/json", buffer: Buffer.from(text) });
  await choose(JSON.stringify([{ externalDomain: "bad domain", internalHost: "169.254.169.254", internalPort: 0 }]));
  await page.getByText("Nothing can be imported before this is mended.").waitFor();
  assert.ok((await page.locator("tr", { hasText: "FAULT" }).count()) >= 1);
  assert.ok(await page.getByRole("button", { name: /^Import/ }).isHidden());
  await choose("no JSON at all");
  await page.locator(".problem", { hasText: "broken.json" }).waitFor();
  assert.equal((await world.api("GET", "/mappings")).value.length, before);
  await close(page);
});

test("a backup is downloaded as one file that SQLite knows", async () => {
  const page = await open(browser, world, "/settings/data");
  const [file] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "Download backup" }).click()]);
  assert.match(file.suggestedFilename(), /^octoporty-\d{8}-\d{6}\.db$/);
  assert.equal(readFileSync(await file.path()).subarray(0, 15).toString(), "SQLite format 3");
  await toast(page, "Backup downloaded");
  await page.getByText(/downloaded\.$/).waitFor();
  await close(page);
});

test("a backup shows how far it is, and can be stopped", async () => {
  const page = await open(browser, world, "/settings/data");
  page.expected.push(/ERR_ABORTED/);
  let go;
  await page.route("**/settings/backup", async (route) => {
    await new Promise((next) => (go = next));
    await route.abort("aborted").catch(() => {});
  });
  await page.getByRole("button", { name: "Download backup" }).click();
  await page.getByRole("progressbar", { name: "Backup" }).waitFor();
  await page.getByRole("button", { name: "Stop" }).click();
  await page.getByText("Stopped.").waitFor();
  assert.ok(await page.getByRole("button", { name: "Download backup" }).isEnabled());
  go();
  await close(page);
});

test("the sections of Settings are one click apart", async () => {
  const page = await open(browser, world, "/settings");
  for (const [name, path] of [["Import, export, backup", "/settings/data"], ["Sessions", "/settings/sessions"], ["Landing page", "/settings"]]) {
    await page.locator(".tabs").getByRole("link", { name }).click();
    await page.waitForURL((url) => url.pathname === path);
    await page.locator(".tabs [aria-current]", { hasText: name }).waitFor();
    assert.equal(await page.locator(".tabs [aria-current]").count(), 1);
  }
  await close(page);
});
