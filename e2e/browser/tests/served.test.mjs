// The scripts and styles as the Agent serves them, short, mean what the ones in static/ say.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { extname } from "node:path";
import { after, before, test } from "node:test";

import { parse } from "acorn";

import { close, launch, open } from "../lib/page.mjs";
import { World } from "../lib/world.mjs";

const STATIC = new URL("../../../static/", import.meta.url);

let world, browser;

before(async () => {
  [world, browser] = await Promise.all([World.start(), launch()]);
});

after(async () => {
  await browser.close();
  await world.stop();
});

/** [name, as written, as served] of all files of a kind. */
async function pairs(kind) {
  const names = readdirSync(STATIC, { recursive: true }).map((name) => name.replaceAll("\\", "/")).filter((name) => extname(name) === kind);
  assert.ok(names.length >= 3, `${names}`);
  return Promise.all(
    names.map(async (name) => {
      const answer = await fetch(`${world.url}/${name}`);
      assert.equal(answer.status, 200, name);
      return [name, readFileSync(new URL(name, STATIC), "utf8"), await answer.text()];
    }),
  );
}

test("scripts are the same programs", async () => {
  // The tree of the program, without the places in the file and the spelling of literals.
  const tree = (source) => JSON.stringify(parse(source, { ecmaVersion: "latest", sourceType: "module" }), (key, value) => (["start", "end"].includes(key) || (key === "raw" && typeof value === "string") ? undefined : value));
  assert.notEqual(tree("a = `x`"), tree("a = `y`"));
  assert.notEqual(tree("a + b"), tree("a - b"));
  for (const [name, written, served] of await pairs(".js")) {
    assert.ok(served.length < written.length, name);
    assert.equal(tree(served), tree(written), name);
  }
});

test("styles are the same rules", async () => {
  const page = await open(browser, world, "/login", { loggedIn: false });
  // As the browser writes them; only values with var() stay as they were written, with their spaces.
  const rules = (text) =>
    page.evaluate((text) => {
      const sheet = new CSSStyleSheet();
      sheet.replaceSync(text);
      return [...sheet.cssRules].map((rule) => rule.cssText.replace(/\s+/g, " ").replace(/ ?([,/]) ?/g, "$1"));
    }, text);
  assert.notDeepEqual(await rules("a { margin: 0 1px }"), await rules("a { margin: 01px }"));
  for (const [name, written, served] of await pairs(".css")) {
    assert.ok(served.length < written.length, name);
    const expected = await rules(written);
    assert.ok(expected.length >= 3, name);
    assert.deepEqual(await rules(served), expected, name);
  }
  await close(page);
});
