// The whole of Octoporty as processes of their own: a site, a Gateway, an Agent, and Caddy where a test wants it.

import { spawn, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { createServer as createSocket } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "../../..");
const BIN = process.env.OCTOPORTY_BIN_DIR ?? join(process.env.CARGO_TARGET_DIR ?? join(ROOT, "target"), "debug");
const READY_MS = 20_000;

export const PASSWORD = "correct horse";

/** Waits until `look()` gives something true. */
export async function until(what, look, ms = READY_MS) {
  const end = Date.now() + ms;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > end) throw new Error(`${what}: not within ${ms} ms`);
    await new Promise((next) => setTimeout(next, 20));
  }
}

/** A port that nobody has at this moment; for what must come back at the same address. */
export function freePort() {
  return new Promise((resolve, reject) => {
    const server = createSocket();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

class Daemon {
  constructor(name, command, args, env) {
    this.name = name;
    this.output = "";
    // Only what is given: an Agent__ variable of whoever runs the tests must not get in.
    const base = Object.fromEntries(["PATH", "HOME", "TMPDIR", "LANG"].filter((key) => process.env[key]).map((key) => [key, process.env[key]]));
    this.child = spawn(command, args, { env: { ...base, ...env }, stdio: ["ignore", "pipe", "pipe"] });
    for (const stream of [this.child.stdout, this.child.stderr]) stream.on("data", (data) => (this.output += data));
    this.ended = new Promise((resolve) => {
      this.child.once("exit", resolve);
      this.child.once("error", (error) => {
        this.output += `${error.message}\n`;
        resolve(-1);
      });
    });
    this.running = true;
    this.ended.then(() => (this.running = false));
  }

  /** The address it listens on. */
  ready() {
    return until(`${this.name} listening`, () => {
      if (!this.running) throw new Error(`${this.name} ended:\n${this.output}`);
      return /listening on (http:\/\/[^\s/]+)/.exec(this.output)?.[1];
    }).catch((error) => {
      throw new Error(`${error.message}\n${this.output}`);
    });
  }

  async stop(signal = "SIGTERM") {
    if (this.running) this.child.kill(signal);
    await this.ended;
  }
}

/** A small site: what it is asked for is in `seen`. */
async function site() {
  const seen = [];
  const server = createServer((request, response) => {
    seen.push({ method: request.method, url: request.url, headers: request.headers });
    const status = Number(/^\/status\/(\d{3})/.exec(request.url)?.[1] ?? 200);
    response.writeHead(status, { "Content-Type": "text/html; charset=utf-8" });
    response.end(`<!doctype html><title>Sample site</title><h1>Hello from ${request.url}</h1>`);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { seen, port: server.address().port, close: () => new Promise((done) => (server.closeAllConnections(), server.close(done))) };
}

export class World {
  /** @param {{agent?: object, gateway?: object, caddy?: boolean}} settings  environment on top of what is usual */
  static async start(settings = {}) {
    const world = new World();
    world.settings = settings;
    world.folder = mkdtempSync(join(tmpdir(), "octoporty-browser-"));
    world.key = randomBytes(32).toString("base64");
    world.secret = randomBytes(32).toString("base64");
    const hashed = spawnSync(join(BIN, "octoporty-agent"), ["hash-password"], { input: `${PASSWORD}\n`, encoding: "utf8" });
    if (hashed.status !== 0) throw new Error(`octoporty-agent hash-password: ${hashed.error ?? hashed.stderr}; build the binaries first`);
    world.hash = hashed.stdout.trim();
    world.gatewayPort = await freePort();
    world.agentPort = await freePort();
    world.site = await site();
    try {
      if (settings.caddy) await world.startCaddy();
      await world.startGateway();
      await world.startAgent();
      await world.connected();
    } catch (error) {
      await world.stop();
      throw error;
    }
    return world;
  }

  /** Caddy with one server of somebody else's, as a machine has it that serves more than us. */
  async startCaddy() {
    // The same ones when it comes back: the Gateway looks for it where it was.
    this.caddyPorts ??= [await freePort(), await freePort()];
    const [admin, listen] = this.caddyPorts;
    this.caddyAdmin = `http://127.0.0.1:${admin}`;
    const config = {
      admin: { listen: `127.0.0.1:${admin}`, config: { persist: false } },
      apps: {
        http: {
          servers: {
            srv0: {
              listen: [`127.0.0.1:${listen}`],
              automatic_https: { disable: true },
              routes: [{ match: [{ host: ["blog.example"] }], handle: [{ handler: "static_response", body: "not ours" }] }],
            },
          },
        },
      },
    };
    const file = join(this.folder, "caddy.json");
    writeFileSync(file, JSON.stringify(config));
    this.caddy = new Daemon("caddy", "caddy", ["run", "--config", file], { XDG_DATA_HOME: this.folder, XDG_CONFIG_HOME: this.folder });
    await until("Caddy's admin API", () => fetch(`${this.caddyAdmin}/config/`).then((answer) => answer.ok, () => false));
  }

  async startGateway() {
    const caddy = this.settings.caddy ? { Gateway__CaddyMode: "routes", Gateway__CaddyAdminUrl: this.caddyAdmin } : { Gateway__CaddyMode: "off" };
    this.gateway = new Daemon("gateway", join(BIN, "octoporty-gateway"), [], {
      Gateway__ApiKey: this.key, Gateway__Port: String(this.gatewayPort), Gateway__BindAddress: "127.0.0.1", Logging__FilePath: "", ...caddy, ...this.settings.gateway,
    });
    this.gatewayUrl = await this.gateway.ready();
  }

  async startAgent() {
    this.agent = new Daemon("agent", join(BIN, "octoporty-agent"), [], {
      Agent__ApiKey: this.key, Agent__GatewayUrl: `ws://127.0.0.1:${this.gatewayPort}/tunnel`, Agent__JwtSecret: this.secret,
      Agent__Auth__PasswordHash: this.hash, Agent__Port: String(this.agentPort), Agent__BindAddress: "127.0.0.1", Logging__FilePath: "",
      Agent__ReconnectDelaySeconds: "1", ConnectionStrings__DefaultConnection: `Data Source=${join(this.folder, "octoporty.db")}`, ...this.settings.agent,
    });
    this.url = await this.agent.ready();
  }

  async stop() {
    for (const daemon of [this.agent, this.gateway, this.caddy]) await daemon?.stop();
    await this.site?.close();
    if (existsSync(this.folder)) rmSync(this.folder, { recursive: true, force: true });
  }

  connected() {
    return until("the tunnel", async () => (await fetch(`${this.url}/health`).then((answer) => answer.json(), () => ({}))).status === "healthy");
  }

  /** A call of the API as a program makes it: with a token in a header. */
  async api(method, path, body) {
    this.token ??= (await this.login()).token;
    const ask = () => fetch(`${this.url}/api/v1${path}`, {
      method,
      headers: { Authorization: `Bearer ${this.token}`, "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    const response = await ask();
    const text = await response.text();
    let value = null;
    try {
      value = text === "" ? null : JSON.parse(text);
    } catch {
      value = text;
    }
    return { status: response.status, headers: response.headers, value };
  }

  async login() {
    const response = await fetch(`${this.url}/api/v1/auth/login`, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ password: PASSWORD }),
    });
    if (!response.ok) throw new Error(`login: ${response.status} ${await response.text()}`);
    return { ...(await response.json()), cookies: response.headers.getSetCookie() };
  }

  /** A mapping to the site. */
  async mapping(externalDomain, fields = {}) {
    const body = { externalDomain, internalHost: "127.0.0.1", internalPort: this.site.port, description: externalDomain.split(".")[0], ...fields };
    const { status, value } = await this.api("POST", "/mappings", body);
    if (status !== 201) throw new Error(`mapping ${externalDomain}: ${status} ${JSON.stringify(value)}`);
    return value;
  }

  /** What a visitor gets through the tunnel. */
  async visit(host, path = "/", init = {}) {
    const { request } = await import("node:http");
    return new Promise((resolve, reject) => {
      const asked = request({ host: "127.0.0.1", port: this.gatewayPort, path, method: init.method ?? "GET", headers: { Host: host, ...init.headers } }, (answer) => {
        let text = "";
        answer.on("data", (data) => (text += data)).on("end", () => resolve({ status: answer.statusCode, text, headers: answer.headers })).on("error", reject);
      });
      asked.on("error", reject);
      asked.end(init.body);
    });
  }

  async deleteAllMappings() {
    const { value } = await this.api("GET", "/mappings");
    for (const { id } of value) await this.api("DELETE", `/mappings/${id}`);
  }
}
