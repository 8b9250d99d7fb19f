// Single modules of the page, called in the browser that they are for.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";

import { close, launch, open } from "../lib/page.mjs";
import { World } from "../lib/world.mjs";

let world, browser, page;

before(async () => {
  [world, browser] = await Promise.all([World.start(), launch()]);
  page = await open(browser, world, "/login", { loggedIn: false });
});

after(async () => {
  await close(page);
  await browser.close();
  await world.stop();
});

test("QR codes are those of the standard", async () => {
  // Computed by an independent encoder with the mask that the standard's rules choose.
  const vectors = JSON.parse(readFileSync(new URL("qr.json", import.meta.url)));
  assert.ok(vectors.length >= 5);
  for (const { text, size, sha256, rows } of vectors) {
    const made = await page.evaluate(async (text) => (await import("/js/parts/qr.js")).qr(text).map((row) => row.map(Number).join("")), text);
    assert.equal(made.length, size, text);
    if (rows) assert.deepEqual(made, rows, text);
    assert.equal(createHash("sha256").update(made.join("\n")).digest("hex"), sha256, text);
  }
});

test("a text that fits into no QR code is refused", async () => {
  const [most, more] = await page.evaluate(async () => {
    const { qr } = await import("/js/parts/qr.js");
    const size = (n) => {
      try {
        return qr("x".repeat(n)).length;
      } catch (error) {
        return `${error.name}: ${error.message}`;
      }
    };
    return [size(666), size(667)];
  });
  assert.equal(most, 97);
  assert.equal(more, "RangeError: 667 bytes do not fit into a QR code of version 20");
});

test("addresses lead to the pages that they name", async () => {
  const found = await page.evaluate(async () => {
    const { match } = await import("/js/router.js");
    return ["/", "/mappings", "/mappings/", "/mappings/new", "/mappings/a%20b", "/mappings/%zz", "/nothing", "/gateway/inspector"].map((path) => {
      const one = match(path);
      return one && [one.route.pattern, one.params];
    });
  });
  assert.deepEqual(found, [
    ["/", {}], ["/mappings", {}], ["/mappings", {}], ["/mappings/:id", { id: "new" }], ["/mappings/:id", { id: "a b" }], null, null, ["/gateway/inspector", {}],
  ]);
});

test("axes end at round numbers", async () => {
  const ticks = (n) => page.evaluate(async (n) => (await import("/js/parts/chart.js")).ticks(n), n);
  assert.deepEqual(await ticks(0), [0, 1]);
  assert.deepEqual(await ticks(3), [0, 1, 2, 3]);
  assert.deepEqual(await ticks(140), [0, 50, 100, 150]);
  assert.deepEqual(await ticks(0.07), [0, 0.025, 0.05, 0.075]);
});

test("numbers are written as people read them", async () => {
  const texts = await page.evaluate(async () => {
    const f = await import("/js/format.js");
    return [f.bytes(0), f.bytes(7.5), f.bytes(999), f.bytes(1000), f.bytes(1_234_567), f.bytes(123_456_789), f.millis(3.14), f.millis(1400), f.span(3700), f.span(90_000), f.uptime(59), f.uptime(3600), f.uptime(200_000), f.short(0.5), f.short(12_345)];
  });
  assert.deepEqual(texts, ["0 B", "7.5 B", "999 B", "1.0 kB", "1.2 MB", "123 MB", "3.1 ms", "1.4 s", "1h 1m", "1d 1h", "just started", "1 hour", "2 days", "0.50", "12.3k"]);
});

test("times are in the browser's zone, with UTC beside them", async () => {
  const [text, title] = await page.evaluate(async () => {
    const element = (await import("/js/format.js")).time("2026-01-31T23:30:00.5Z");
    return [element.textContent, element.title];
  });
  assert.deepEqual([text, title], ["2026-02-01 00:30:00", "2026-01-31 23:30:00 UTC"]);
});

test("spans of time are put together where they overlap", async () => {
  const union = await page.evaluate(async () => (await import("/js/parts/strip.js")).union([[5, 9], [1, 3], [2, 4], [9, 10]]));
  assert.deepEqual(union, [[1, 4], [5, 10]]);
});

test("routes of ours are found in Caddy's configuration", async () => {
  const pieces = await page.evaluate(async () => {
    const { pieces } = await import("/js/pages/caddy.js");
    return pieces({ a: [{ "@id": "octoporty-1", b: { c: 1 } }, { "@id": "octoporty-2" }, { "@id": "other" }] }).map(({ ours, text }) => [ours, text.replace(/\s+/g, "")]);
  });
  assert.deepEqual(pieces.filter(([ours]) => ours).map(([, text]) => text), ['{"@id":"octoporty-1","b":{"c":1}},', '{"@id":"octoporty-2"},']);
  assert.equal(pieces.map(([, text]) => text).join(""), '{"a":[{"@id":"octoporty-1","b":{"c":1}},{"@id":"octoporty-2"},{"@id":"other"}]}');
});

test("live requests are filtered as the API filters them", async () => {
  const shown = await page.evaluate(async () => {
    const { fits } = await import("/js/pages/requests.js");
    const item = { mappingId: "m", method: "GET", path: "/Login", queryString: null, statusCode: 404, clientIp: "10.0.0.1", userAgent: "curl", externalDomain: "a.b", errorMessage: null, timestamp: "2026-01-02T00:00:00Z" };
    const filters = [{}, { mapping: "m" }, { mapping: "n" }, { status: "4xx" }, { status: "5xx" }, { status: "404,200" }, { status: "error" }, { q: "login" }, { q: "CURL" }, { q: "nope" }, { method: "POST" }, { from: "2026-01-01T00:00:00.000Z" }, { to: "2026-01-02T00:00:00.000Z" }];
    return filters.map((filter) => fits(item, filter));
  });
  assert.deepEqual(shown, [true, true, false, true, false, true, false, true, true, false, false, true, false]);
});

test("an element takes no markup and no style attribute", async () => {
  const [text, fault] = await page.evaluate(async () => {
    const { h } = await import("/js/dom.js");
    let fault = "";
    try {
      h("p", { style: "color:red" });
    } catch (error) {
      fault = error.message;
    }
    return [h("p", {}, "<b>x</b>").childElementCount, fault];
  });
  assert.equal(text, 0);
  assert.match(fault, /no style attributes/);
});

test("every test that the list of cases names is there", () => {
  const here = new URL(".", import.meta.url);
  const rows = [...readFileSync(new URL("../README.md", here), "utf8").matchAll(/^\| (\d+) \| .+ \| `(\w+)` \| (.+) \|$/gm)];
  assert.equal(rows.length, 68);
  rows.forEach(([, number, file, name], i) => {
    assert.equal(Number(number), i + 1);
    const text = readFileSync(new URL(`${file}.test.mjs`, here), "utf8");
    assert.ok(text.includes(`test("${name}"`), `${number}: ${file} has no "${name}"`);
  });
});
