// What programs that used the earlier Agent's API rely on, through the same processes as the page.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { until, World } from "../lib/world.mjs";

let world;

before(async () => {
  world = await World.start();
  await world.mapping("echo.example.com", { internalPort: world.site.port });
});

after(() => world.stop());

const bare = (path, init) => fetch(`${world.url}${path}`, init);

test("health is open, and says whether the tunnel is", async () => {
  const answer = await bare("/health");
  assert.deepEqual([answer.status, await answer.json()], [200, { status: "healthy" }]);
  const gateway = await fetch(`${world.gatewayUrl}/health`);
  assert.deepEqual([gateway.status, (await gateway.json()).status], [200, "healthy"]);
});

test("nothing else is open without a login", async () => {
  for (const [method, path] of [
    ["GET", "/mappings"], ["POST", "/mappings"], ["GET", "/status"], ["POST", "/gateway/update"], ["GET", "/settings/landing-page"], ["PUT", "/settings/landing-page"],
    ["GET", "/gateway/logs"], ["GET", "/agent/logs"], ["GET", "/requests"], ["GET", "/settings/backup"], ["GET", "/events"], ["GET", "/test/echo"], ["POST", "/test/diagnose"], ["GET", "/mappings/export"],
  ]) {
    const answer = await bare(`/api/v1${path}`, { method, headers: { "Content-Type": "application/json" }, body: method === "GET" ? undefined : "{}" });
    assert.equal(answer.status, 401, `${method} ${path}`);
    await answer.arrayBuffer();
  }
});

test("logging in gives a token that opens the API", async () => {
  const { token, expiresAt } = await world.login();
  assert.ok(token.length > 20);
  assert.ok(Date.parse(expiresAt) > Date.now());
  const answer = await bare("/api/v1/mappings", { headers: { Authorization: `Bearer ${token}` } });
  assert.equal(answer.status, 200);
  assert.ok(Array.isArray(await answer.json()));
});

test("the status has the Gateway's version and whether there is a newer one", async () => {
  const { value } = await world.api("GET", "/status");
  assert.equal(typeof value.gatewayUpdateAvailable, "boolean");
  assert.match(value.gatewayVersion, /^\d+\.\d+\.\d+$/);
  assert.equal(value.connectionStatus, "Connected");
});

test("a mapping is created, read, changed and deleted, with fields of old clients", async () => {
  const made = await world.api("POST", "/mappings", { externalDomain: "api.example.com", externalPort: 443, internalHost: "192.168.1.100", internalPort: 80, description: "old client" });
  assert.equal(made.status, 201);
  const path = `/mappings/${made.value.id}`;
  assert.equal((await world.api("GET", path)).value.externalDomain, "api.example.com");
  assert.equal((await world.api("PUT", path, { externalDomain: "api.example.com", internalHost: "192.168.1.100", internalPort: 8081, description: "changed" })).status, 200);
  const { value } = await world.api("GET", path);
  assert.deepEqual([value.internalPort, value.description], [8081, "changed"]);
  const duplicate = await world.api("POST", "/mappings", { externalDomain: "api.example.com", internalHost: "192.168.1.100", internalPort: 80 });
  assert.equal(duplicate.status, 409);
  assert.equal((await world.api("DELETE", path)).status, 204);
  assert.equal((await world.api("GET", path)).status, 404);
});

test("the landing page is read, changed, refused when empty, and reset", async () => {
  const path = "/settings/landing-page";
  const first = (await world.api("GET", path)).value;
  assert.match(first.hash, /^[0-9a-f]{32}$/);
  assert.equal(first.isDefault, true);
  const changed = await world.api("PUT", path, { html: "<h1>Mine</h1>" });
  assert.equal(changed.status, 200);
  assert.notEqual(changed.value.hash, first.hash);
  const now = (await world.api("GET", path)).value;
  assert.deepEqual([now.hash, now.isDefault, now.html], [changed.value.hash, false, "<h1>Mine</h1>"]);
  assert.equal((await world.api("PUT", path, { html: "" })).status, 400);
  const reset = (await world.api("DELETE", path)).value;
  assert.equal(reset.isDefault, true);
  assert.match(reset.html, /Octoporty Gateway/);
});

test("an update that is not needed is refused in words", async () => {
  const answer = await world.api("POST", "/gateway/update", {});
  assert.equal(answer.status, 200);
  assert.deepEqual(["success", "message", "agentVersion"].map((key) => typeof answer.value[key]), ["boolean", "string", "string"]);
  assert.equal(answer.value.success, false);
  assert.equal((await world.api("POST", "/gateway/update", { force: true })).status, 200);
});

test("the echo answers who asks, directly and through the tunnel", async () => {
  const get = (await world.api("GET", "/test/echo")).value;
  assert.match(get.message, /Octoporty Agent/);
  const posted = (await world.api("POST", "/test/echo", { data: { a: 1 } })).value;
  assert.deepEqual([posted.success, JSON.parse(posted.request.body)], [true, { a: 1 }]);
  const through = await world.visit("echo.example.com", "/through");
  assert.equal(through.status, 200);
});

test("the Gateway tells holders of the key about the tunnel, and nobody else", async () => {
  const ask = (path, headers, init = {}) => fetch(`${world.gatewayUrl}${path}`, { ...init, headers: { ...headers } });
  assert.equal((await ask("/test/tunnel", {})).status, 401);
  const key = { "X-Api-Key": world.key };
  const answer = await ask("/test/tunnel", key);
  assert.equal(answer.status, 200);
  const value = await answer.json();
  assert.equal(value.connected, true);
  assert.ok(value.mappingCount >= 1 && Array.isArray(value.mappings), JSON.stringify(value));
  const echo = await ask("/test/tunnel/echo", { ...key, "Content-Type": "application/json" }, { method: "POST", body: "{}" });
  assert.equal(echo.status, 200);
  const { success, statusCode } = await echo.json();
  assert.deepEqual([success, typeof statusCode], [true, "number"]);
});

// Last: the tunnel is gone afterwards.
test("without a Gateway, an update says that there is none", async () => {
  await world.gateway.stop();
  await until("the Agent notices", async () => (await (await bare("/health")).json()).status === "degraded");
  const { value } = await world.api("POST", "/gateway/update", {});
  assert.equal(value.success, false);
  assert.match(`${value.message} ${value.error}`, /not connected/i);
});
