// Mappings: the list, the form, one of them, and the way to the first.

import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";

import { close, launch, open, toast } from "../lib/page.mjs";
import { freePort, until, World } from "../lib/world.mjs";

let world, browser;

before(async () => {
  [world, browser] = await Promise.all([World.start(), launch()]);
});

beforeEach(() => world.deleteAllMappings());

after(async () => {
  await browser.close();
  await world.stop();
});

const at = (page, path) => page.waitForURL((url) => url.pathname === path);
const card = (page, name) => page.locator(".card.group", { has: page.getByRole("link", { name, exact: true }) });

async function three() {
  return [await world.mapping("home.example.com", { description: "Home" }), await world.mapping("photos.example.com", { description: "Photos" }), await world.mapping("wiki.example.com", { description: "Wiki", enabled: false })];
}

test("the list shows every mapping with both ends, its state and its switch", async () => {
  await world.mapping("nas.example.com", { description: "NAS", internalUseTls: true, allowSelfSignedCerts: true });
  await three();
  const page = await open(browser, world, "/mappings");
  assert.equal(await page.locator("h1").innerText(), "Port Mappings");
  const nas = card(page, "NAS");
  await nas.getByText("https://nas.example.com").waitFor();
  assert.ok(await nas.getByText(`https://127.0.0.1:${world.site.port}`).isVisible());
  assert.ok(await nas.getByText("INSECURE SSL").isVisible());
  assert.ok(await nas.getByText("ACTIVE", { exact: true }).isVisible());
  assert.ok(await nas.getByRole("switch", { name: "Disable mapping NAS" }).isVisible());
  assert.ok(await card(page, "Wiki").getByText("DISABLED").isVisible());
  await page.getByText("Showing 4 of 4 mappings").waitFor();
  await close(page);
});

test("searching looks at names, domains and internal hosts", async () => {
  await three();
  await world.mapping("other.example.com", { internalHost: "192.168.77.1", description: "Other" });
  const page = await open(browser, world, "/mappings");
  await page.getByText("Showing 4 of 4 mappings").waitFor();
  const search = page.locator("input[placeholder*='Search']");
  for (const [text, name] of [["PHOTO", "Photos"], ["wiki.ex", "Wiki"], ["168.77", "Other"]]) {
    await search.fill(text);
    await page.getByText("Showing 1 of 4 mappings").waitFor();
    assert.ok(await card(page, name).isVisible(), text);
  }
  await search.fill("nowhere");
  await page.getByRole("heading", { name: "Nothing fits “nowhere”" }).waitFor();
  await search.fill("");
  await page.getByText("Showing 4 of 4 mappings").waitFor();
  await close(page);
});

test("filters count and show what they say", async () => {
  await three();
  const page = await open(browser, world, "/mappings");
  for (const [name, shown] of [["Active (2)", 2], ["Disabled (1)", 1], ["All (3)", 3]]) {
    await page.getByRole("button", { name }).click();
    await page.getByText(`Showing ${shown} of 3 mappings`).waitFor();
    assert.equal(await page.locator(".card").count(), shown);
    assert.equal(await page.getByRole("button", { name }).getAttribute("aria-pressed"), "true");
  }
  await world.deleteAllMappings();
  await page.getByRole("heading", { name: "No mappings yet" }).waitFor();
  await page.getByRole("link", { name: "Create First Mapping" }).click();
  await at(page, "/mappings/new");
  await close(page);
});

test("grid and table show the same, and the choice is kept", async () => {
  await three();
  const page = await open(browser, world, "/mappings");
  await card(page, "Home").waitFor();
  await page.locator("button[title='Table view']").click();
  await page.locator("tbody tr", { hasText: "Photos" }).waitFor();
  assert.equal(await page.locator("tbody tr").count(), 3);
  assert.equal(await page.locator(".card:visible").count(), 0);
  assert.deepEqual((await page.locator("thead th").allInnerTexts()).slice(0, 4).map((text) => text.toLowerCase()), ["name", "external endpoint", "internal target", "status"]);
  await page.reload();
  await page.locator("tbody tr", { hasText: "Photos" }).waitFor();
  await page.locator("button[title='Grid view']").click();
  await card(page, "Home").waitFor();
  await close(page);
});

test("the switch of a card takes a mapping out of service and back", async () => {
  await three();
  const page = await open(browser, world, "/mappings");
  assert.equal((await world.visit("home.example.com")).status, 200);
  await page.getByRole("switch", { name: "Disable mapping Home" }).click();
  assert.match(await toast(page, "Mapping disabled"), /home\.example\.com/);
  assert.equal((await world.visit("home.example.com")).status, 404);
  await page.getByRole("switch", { name: "Enable mapping Home" }).click();
  await toast(page, "Mapping enabled");
  assert.equal((await world.visit("home.example.com")).status, 200);
  await page.getByText("Showing 3 of 3 mappings").waitFor();
  await close(page);
});

test("edit leads to the form of that mapping", async () => {
  const [home] = await three();
  const page = await open(browser, world, "/mappings");
  await page.getByRole("link", { name: "Edit Home" }).click();
  await at(page, `/mappings/${home.id}`);
  await page.getByRole("heading", { name: "Edit Mapping" }).waitFor();
  await until("the values", async () => (await page.getByLabel("Domain").inputValue()) === "home.example.com");
  await close(page);
});

test("deleting asks first, and cancelling changes nothing", async () => {
  await three();
  const page = await open(browser, world, "/mappings");
  const erase = page.getByRole("button", { name: "Delete Photos" });
  await erase.click();
  const dialog = page.getByRole("dialog", { name: "Delete Mapping" });
  assert.match(await dialog.innerText(), /“Photos”.*photos\.example\.com/s);
  await dialog.getByRole("button", { name: "Cancel" }).click();
  await dialog.waitFor({ state: "detached" });
  assert.ok(await card(page, "Photos").isVisible());
  // Focus returns to where it was.
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute("aria-label")), "Delete Photos");
  await erase.click();
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "detached" });
  await erase.click();
  await page.mouse.click(5, 5); // Beside it.
  await dialog.waitFor({ state: "detached" });
  await erase.click();
  await dialog.getByRole("button", { name: "Delete" }).click();
  await toast(page, "Mapping deleted");
  await card(page, "Photos").waitFor({ state: "detached" });
  await page.getByText("Showing 2 of 2 mappings").waitFor();
  assert.equal((await world.visit("photos.example.com")).status, 404);
  await close(page);
});

test("a deletion that fails is said in the dialog, which stays", async () => {
  await three();
  const page = await open(browser, world, "/mappings");
  page.expected.push(/status of 500/);
  await page.route("**/api/v1/mappings/*", (route) => (route.request().method() === "DELETE" ? route.fulfill({ status: 500, contentType: "application/problem+json", body: '{"statusCode":500,"message":"the disk is full"}' }) : route.continue()));
  await page.getByRole("button", { name: "Delete Home" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByRole("button", { name: "Delete" }).click();
  await dialog.getByText("the disk is full").waitFor();
  await dialog.getByRole("button", { name: "Cancel" }).click();
  assert.ok(await card(page, "Home").isVisible());
  await close(page);
});

test("what others change appears by itself", async () => {
  const page = await open(browser, world, "/mappings");
  await page.getByRole("heading", { name: "No mappings yet" }).waitFor();
  const made = await world.mapping("late.example.com", { description: "Late" });
  await card(page, "Late").waitFor();
  await world.api("PUT", `/mappings/${made.id}`, { ...made, description: "Later", name: "Later" });
  await card(page, "Later").waitFor();
  await card(page, "Later").getByText("last request never").waitFor();
  await world.visit("late.example.com");
  await card(page, "Later").getByText("last request just now").waitFor();
  await world.api("DELETE", `/mappings/${made.id}`);
  await page.getByRole("heading", { name: "No mappings yet" }).waitFor();
  await close(page);
});

test("New Mapping leads to an empty form, and Cancel back", async () => {
  await three();
  const page = await open(browser, world, "/mappings");
  await page.getByRole("link", { name: "New Mapping" }).click();
  await at(page, "/mappings/new");
  await page.getByRole("heading", { name: "Create Mapping" }).waitFor();
  assert.equal(await page.getByPlaceholder("e.g., My Web App").inputValue(), "");
  assert.equal(await page.getByPlaceholder("app.example.com").inputValue(), "");
  assert.equal(await page.getByPlaceholder("localhost").inputValue(), "localhost");
  assert.equal(await page.getByLabel("Port", { exact: true }).inputValue(), "80");
  assert.equal(await page.getByRole("switch", { name: "Enable Mapping" }).getAttribute("aria-checked"), "true");
  await page.getByRole("link", { name: "Cancel" }).click();
  await at(page, "/mappings");
  await close(page);
});

test("the form creates a mapping with every field, and it is served", async () => {
  const page = await open(browser, world, "/mappings/new");
  await page.getByLabel("Mapping Name").fill("My site");
  await page.getByLabel("Domain").fill("site.example.com");
  await page.getByLabel("Host", { exact: true }).fill("127.0.0.1");
  await page.getByLabel("Port", { exact: true }).fill(String(world.site.port));
  assert.ok(await page.getByRole("switch", { name: "Allow Invalid Certificates" }).isHidden());
  await page.getByLabel("Protocol").selectOption("Https");
  await page.getByRole("switch", { name: "Allow Invalid Certificates" }).click();
  await page.getByText("pretends to be this service").waitFor();
  await page.getByLabel("Protocol").selectOption("Http");
  await page.getByLabel("Host Header", { exact: true }).selectOption("other");
  await page.getByLabel("Name in the Host Header").fill("inside.example");
  await page.getByRole("button", { name: "Create Mapping" }).click();
  await toast(page, "Mapping created");
  await page.getByRole("heading", { name: "Edit Mapping" }).waitFor();
  await page.getByText("SERVED").first().waitFor();
  const [mapping] = (await world.api("GET", "/mappings")).value;
  assert.deepEqual(
    [mapping.name, mapping.externalDomain, mapping.internalHost, mapping.internalPort, mapping.internalProtocol, mapping.allowInvalidCertificates, mapping.hostHeader, mapping.enabled],
    ["My site", "site.example.com", "127.0.0.1", world.site.port, "Http", true, "inside.example", true],
  );
  assert.match((await world.visit("site.example.com")).text, /Hello from/);
  assert.equal(world.site.seen.at(-1).headers.host, "inside.example");
  await close(page);
});

test("what is missing or wrong is said at its field before anything is sent", async () => {
  const page = await open(browser, world, "/mappings/new");
  let sent = 0;
  page.on("request", (request) => request.method() === "POST" && request.url().endsWith("/mappings") && sent++);
  await page.getByLabel("Domain").fill("invalid domain");
  await page.getByLabel("Host", { exact: true }).fill("");
  await page.getByLabel("Port", { exact: true }).fill("70000");
  await page.getByRole("button", { name: "Create Mapping" }).click();
  for (const text of ["Mapping name is required", "Invalid domain format", "Host is required", "Port must be a number from 1 to 65535"]) {
    await page.locator(".field-problem", { hasText: text }).waitFor();
  }
  // The first of them has the focus, and says what is wrong with it to a screen reader.
  assert.equal(await page.evaluate(() => document.activeElement.labels?.[0].textContent), "Mapping Name");
  assert.equal(await page.getByLabel("Mapping Name").getAttribute("aria-invalid"), "true");
  await page.getByLabel("Mapping Name").fill("x");
  await page.locator(".field-problem", { hasText: "Mapping name is required" }).waitFor({ state: "hidden" });
  assert.equal(sent, 0);
  await close(page);
});

test("what the server refuses is said at its field", async () => {
  await world.mapping("taken.example.com");
  const page = await open(browser, world, "/mappings/new");
  page.expected.push(/status of (400|409)/);
  const fill = async (domain, host) => {
    await page.getByLabel("Mapping Name").fill("x");
    await page.getByLabel("Domain").fill(domain);
    await page.getByLabel("Host", { exact: true }).fill(host);
    await page.getByRole("button", { name: "Create Mapping" }).click();
  };
  const fault = (label) => page.locator(".field", { has: page.getByLabel(label, { exact: true }) }).locator(".field-problem");
  await fill("invalid_domain.example..com", "127.0.0.1");
  await until("the domain's fault", async () => (await fault("Domain").innerText()) !== "");
  await fill("taken.example.com", "127.0.0.1");
  await until("the duplicate", async () => /already has a mapping/.test(await fault("Domain").innerText()));
  await toast(page, "Save failed");
  for (const host of ["169.254.169.254", "0.0.0.0", "http://nas"]) {
    await fill("new.example.com", host);
    await until(`the fault of ${host}`, async () => (await fault("Host").innerText()) !== "");
    assert.equal(await page.evaluate(() => document.activeElement.labels?.[0].textContent), "Host", host);
  }
  assert.equal((await world.api("GET", "/mappings")).value.length, 1);
  await close(page);
});

test("the target can be tested before it is saved", async () => {
  const page = await open(browser, world, "/mappings/new");
  await page.getByLabel("Host", { exact: true }).fill("127.0.0.1");
  await page.getByLabel("Port", { exact: true }).fill(String(world.site.port));
  await page.getByRole("button", { name: "Test target" }).click();
  await page.getByText("It answers: 200").waitFor();
  await page.getByText("“Sample site”").waitFor();
  await page.getByLabel("Port", { exact: true }).fill(String(await freePort()));
  // What was found out is about another target.
  await page.getByText("It answers: 200").waitFor({ state: "detached" });
  await page.getByRole("button", { name: "Test target" }).click();
  await page.getByText("It does not answer").waitFor();
  await close(page);
});

test("changing a mapping keeps the page and says how it stands", async () => {
  const [home] = await three();
  const page = await open(browser, world, `/mappings/${home.id}`);
  await until("the values", async () => (await page.getByLabel("Mapping Name").inputValue()) === "Home");
  await page.getByLabel("Domain").fill("casa.example.com");
  await page.getByRole("button", { name: "Update Mapping" }).click();
  assert.match(await toast(page, "Mapping updated"), /The Gateway serves it/);
  assert.equal(new URL(page.url()).pathname, `/mappings/${home.id}`);
  await page.locator(".address", { hasText: "https://casa.example.com" }).waitFor();
  assert.equal((await world.visit("casa.example.com")).status, 200);
  assert.equal((await world.visit("home.example.com")).status, 404);
  for (const text of ["Mapping Info", "Connection Flow", "Certificate", "Recent Requests", "Traffic"]) {
    assert.ok(await page.getByRole("heading", { name: text, exact: true }).isVisible(), text);
  }
  await close(page);
});

test("requests to a mapping appear on its page", async () => {
  const [home] = await three();
  const page = await open(browser, world, `/mappings/${home.id}`);
  await page.getByText("No request yet.").waitFor();
  await world.visit("home.example.com", "/watch/me");
  await page.locator("td", { hasText: "/watch/me" }).waitFor();
  await page.getByRole("link", { name: "View all" }).click();
  await page.waitForURL(`**/requests?mapping=${home.id}`);
  await close(page);
});

test("the public address can be copied, opened and carried to a phone", async () => {
  const [home] = await three();
  const page = await open(browser, world, `/mappings/${home.id}`, { permissions: ["clipboard-read", "clipboard-write"] });
  await page.getByRole("button", { name: "Copy" }).click();
  await toast(page, "Copied");
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), "https://home.example.com");
  const link = page.getByRole("link", { name: "Open" });
  assert.deepEqual([await link.getAttribute("href"), await link.getAttribute("target"), await link.getAttribute("rel")], ["https://home.example.com", "_blank", "noopener noreferrer"]);
  await page.getByRole("button", { name: "QR code" }).click();
  const code = page.getByRole("img", { name: "QR code of https://home.example.com" });
  await code.waitFor();
  // As a camera sees it: every module where it belongs, dark on light, with four light ones around. That the modules are
  // the right ones is seen in `modules`.
  const png = (await code.screenshot({ animations: "disabled" })).toString("base64");
  const [seen, meant] = await page.evaluate(async (png) => {
    const { qr } = await import("/js/parts/qr.js");
    const rows = qr("https://home.example.com");
    const size = rows.length + 8;
    const bitmap = await createImageBitmap(new Blob([Uint8Array.from(atob(png), (c) => c.charCodeAt(0))]));
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
    canvas.drawImage(bitmap, 0, 0);
    const { data, width, height } = canvas.getImageData(0, 0, bitmap.width, bitmap.height);
    const place = (i, length) => Math.floor(((i + 0.5) * length) / size);
    const dark = (x, y) => data[4 * (place(y, height) * width + place(x, width))] < 128;
    const all = [...Array(size - 2).keys()].map((i) => i + 1);
    return [all.map((y) => all.map((x) => Number(dark(x, y))).join("")), all.map((y) => all.map((x) => Number(rows[y - 4]?.[x - 4] ?? 0)).join(""))];
  }, png);
  assert.deepEqual(seen, meant);
  await page.keyboard.press("Escape");
  await close(page);
});

test("without the clipboard of secure pages, copying still works", async () => {
  const [home] = await three();
  const page = await open(browser, world, "/login", { loggedIn: true });
  await page.context().addInitScript(() => Object.defineProperty(navigator, "clipboard", { value: undefined }));
  await page.goto(`${world.url}/mappings/${home.id}`);
  await page.getByRole("button", { name: "Copy" }).click();
  await toast(page, "Copied");
  await close(page);
});

test("unsaved changes are not lost by accident", async () => {
  await three();
  const page = await open(browser, world, "/mappings");
  await page.getByRole("link", { name: "New Mapping" }).click();
  await page.getByLabel("Mapping Name").fill("half done");
  const dialog = page.getByRole("dialog", { name: "Leave without saving?" });
  await page.getByRole("link", { name: "Dashboard" }).click();
  await dialog.getByRole("button", { name: "Stay" }).click();
  assert.equal(new URL(page.url()).pathname, "/mappings/new");
  await page.evaluate(() => history.back());
  await dialog.waitFor();
  await dialog.getByRole("button", { name: "Stay" }).click();
  await at(page, "/mappings/new");
  assert.equal(await page.getByLabel("Mapping Name").inputValue(), "half done");
  await page.evaluate(() => history.back());
  await dialog.getByRole("button", { name: "Leave" }).click();
  await at(page, "/mappings");
  await page.getByText("Showing 3 of 3 mappings").waitFor();
  await close(page);
});

test("edits stay when somebody else saves the same mapping", async () => {
  const [home] = await three();
  const page = await open(browser, world, `/mappings/${home.id}`);
  await until("the values", async () => (await page.getByLabel("Mapping Name").inputValue()) === "Home");
  await page.getByLabel("Mapping Name").fill("Mine");
  await world.api("PATCH", `/mappings/${home.id}`, { internalPort: 4711 });
  await page.getByText("was changed elsewhere").waitFor();
  assert.equal(await page.getByLabel("Mapping Name").inputValue(), "Mine");
  await page.getByRole("button", { name: "Load the new values" }).click();
  assert.equal(await page.getByLabel("Port", { exact: true }).inputValue(), "4711");
  assert.equal(await page.getByLabel("Mapping Name").inputValue(), "Home");
  await close(page);
});

test("a mapping that is not there leads back to the list", async () => {
  const page = await open(browser, world, "/mappings/00000000-0000-4000-8000-000000000000", {});
  page.expected.push(/status of 404/);
  await toast(page, "Mapping not found");
  await at(page, "/mappings");
  page.faults.length = 0; // The 404 was logged before it was expected.
  await close(page);
});

test("the first mapping is made in three steps", async () => {
  const page = await open(browser, world, "/");
  await page.getByRole("heading", { name: "Publish your first service" }).waitFor();
  await page.locator(".service", { hasText: `127.0.0.1:${world.site.port}` }).click();
  await page.getByRole("heading", { name: `Does http://127.0.0.1:${world.site.port} answer?` }).waitFor();
  await page.getByText("It answers: 200").waitFor();
  await page.getByRole("button", { name: "Next" }).click();
  assert.equal(await page.getByLabel("Mapping Name").inputValue(), "Sample site");
  await page.getByLabel("Domain").fill("first.example.com");
  await page.getByRole("button", { name: "Publish" }).click();
  await page.getByRole("heading", { name: "It is published" }).waitFor();
  await page.getByRole("img", { name: "QR code of https://first.example.com" }).waitFor();
  assert.ok(await page.getByRole("button", { name: "Copy" }).isVisible());
  assert.ok(await page.getByRole("link", { name: "Open" }).isVisible());
  assert.match((await world.visit("first.example.com")).text, /Hello from/);
  await page.getByRole("button", { name: "Done" }).click();
  await page.getByRole("heading", { name: "Publish your first service" }).waitFor({ state: "detached" });
  await page.locator(".row", { hasText: "first.example.com" }).waitFor();
  await close(page);
});

test("the first mapping may lead to a service that does not run yet", async () => {
  const port = await freePort();
  const page = await open(browser, world, "/");
  page.expected.push(/status of (400|409)/);
  await page.getByRole("button", { name: /Another service/ }).click();
  await page.getByLabel("Host", { exact: true }).fill("127.0.0.1");
  await page.getByLabel("Port", { exact: true }).fill(String(port));
  await page.getByRole("button", { name: "Next" }).click();
  await page.getByText("It does not answer").waitFor();
  await page.getByRole("button", { name: "Go on anyway" }).click();
  await page.getByLabel("Domain").fill("not a domain");
  await page.getByRole("button", { name: "Publish" }).click();
  await until("the fault", async () => (await page.locator(".field-problem").first().innerText()) !== "");
  await page.getByLabel("Domain").fill("later.example.com");
  await page.getByRole("button", { name: "Publish" }).click();
  await page.getByRole("heading", { name: "It is published" }).waitFor();
  await close(page);
});
