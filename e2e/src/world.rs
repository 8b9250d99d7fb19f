//! Gateways and Agents, started as processes and wired together: what a user would have after installing them.
//!
//! Everything is on any free port, in a folder of its own, and ends with the [`World`].

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::daemon::{self, Daemon, Program};
use crate::journal::{PATIENCE, until};
use crate::line::Line;
use crate::upstream::Upstream;
use crate::visitor::{Response, Visitor};

/// The key that Gateways and Agents share.
pub const KEY: &str = "an-api-key-for-tests-0123456789-abcdefghij";
/// The Operator's password.
pub const PASSWORD: &str = "correct horse battery";
/// Its hash; few rounds, because the tests are not what it protects.
pub const PASSWORD_HASH: &str = "$6$rounds=1000$octoportye2e$9.rUAMyJCXDEcXopmjQDj3etfAKpByWLX71GBKikrzbKlVMldWhxuDEZZ5aKdn0eNQ3vNoMVi3XMKhMOPEXSX/";
/// Signs the Operator's tokens.
pub const JWT_SECRET: &str = "a-jwt-secret-for-tests-0123456789-abcdefgh";

/// Settings of a daemon, by name. The last one given wins.
#[derive(Clone, Debug, Default)]
pub struct Settings(Vec<(String, String)>);

impl Settings {
    /// Sets one.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        self.0.retain(|(k, _)| k != key);
        self.0.push((key.to_owned(), value.into()));
    }

    fn of(pairs: &[(&str, &str)]) -> Settings {
        Settings(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    /// All of them.
    pub fn list(self) -> Vec<(String, String)> {
        self.0
    }

    /// As a process gets them.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// The settings a Gateway starts with.
    pub fn gateway() -> Settings {
        Settings::of(&[
            ("Gateway__ApiKey", KEY),
            ("Gateway__Port", "0"),
            ("Gateway__BindAddress", "127.0.0.1"),
            ("Gateway__CaddyMode", "off"),
            ("Gateway__StateDirectory", ""),
            ("Logging__FilePath", ""),
            ("Logging__LogLevel", "Debug"),
        ])
    }

    /// The settings an Agent starts with, but for the Gateway's address and the database.
    pub fn agent() -> Settings {
        Settings::of(&[
            ("Agent__ApiKey", KEY),
            ("Agent__JwtSecret", JWT_SECRET),
            ("Agent__Auth__PasswordHash", PASSWORD_HASH),
            ("Agent__Port", "0"),
            ("Agent__BindAddress", "127.0.0.1"),
            ("Agent__ReconnectDelaySeconds", "1"),
            ("Agent__MaxReconnectDelaySeconds", "2"),
            ("Logging__FilePath", ""),
            ("Logging__LogLevel", "Debug"),
        ])
    }
}

/// A folder that is removed when dropped.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Default for Folder {
    fn default() -> Folder {
        Folder::new()
    }
}

impl Folder {
    /// A new, empty one.
    pub fn new() -> Folder {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("octoporty-e2e-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Folder(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file into it and gives its path.
    pub fn write(&self, name: &str, content: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        path.to_str().expect("a path in UTF-8").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} stays: {e}", self.0.display());
        }
    }
}

/// A Gateway that runs, or has run.
pub struct Gateway {
    /// The process.
    pub daemon: Daemon,
    settings: Settings,
    address: SocketAddr,
}

impl Gateway {
    /// Starts one and waits until it is ready.
    pub fn start(settings: Settings) -> Gateway {
        Gateway::start_with(settings, daemon::command(Program::Gateway))
    }

    /// The same with a command line of one's own.
    pub fn start_with(settings: Settings, mut command: std::process::Command) -> Gateway {
        let mut daemon = Daemon::spawn("gateway", &mut command, settings.pairs());
        let address = daemon.address();
        Gateway { daemon, settings, address }
    }

    /// Where Visitors and Agents reach it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A visitor's connection.
    pub fn visitor(&self, host: &str) -> Visitor {
        Visitor::connect(self.address, host)
    }

    /// Kills it if it runs, and starts it again at the same address.
    pub fn restart(&mut self) {
        self.daemon.kill();
        self.start_again();
    }

    /// Starts it again at the same address after it has ended.
    pub fn start_again(&mut self) {
        self.settings.set("Gateway__Port", self.address.port().to_string());
        let mut command = daemon::command(Program::Gateway);
        self.daemon = Daemon::spawn("gateway, again", &mut command, self.settings.pairs());
        assert_eq!(self.daemon.address(), self.address);
    }
}

/// An Agent that runs, or has run.
pub struct Agent {
    /// The process.
    pub daemon: Daemon,
    settings: Settings,
    api: SocketAddr,
    token: String,
}

impl Agent {
    /// Starts one, waits until its API is ready, and logs in.
    pub fn start(settings: Settings) -> Agent {
        Agent::start_named("agent", settings)
    }

    fn start_named(name: &str, settings: Settings) -> Agent {
        let mut daemon = Daemon::spawn(name, &mut daemon::command(Program::Agent), settings.pairs());
        let api = daemon.address();
        let mut agent = Agent { daemon, settings, api, token: String::new() };
        let answer = agent.call("POST", "/api/v1/auth/login", Some(&json!({ "password": PASSWORD })));
        assert_eq!(answer.status(), 200, "{answer:?}");
        agent.token = answer.json()["token"].as_str().expect("a token").to_owned();
        agent
    }

    /// Another one with the same settings, but a database of its own and no Gateway: two that are the same at a Gateway
    /// would replace each other.
    pub fn beside(&self, database: &Path) -> Agent {
        let mut settings = self.settings.clone();
        settings.set("ConnectionStrings__DefaultConnection", format!("Data Source={}", database.display()));
        settings.set("Agent__GatewayUrl", "ws://127.0.0.1:9");
        Agent::start_named("agent, beside", settings)
    }

    /// Starts it again after it has ended, with the same database.
    pub fn start_again(&mut self) {
        *self = Agent::start_named("agent, again", self.settings.clone());
    }

    /// Kills it if it runs, and starts it again with the same database.
    pub fn restart(&mut self) {
        self.daemon.kill();
        self.start_again();
    }

    /// Where its API is.
    pub fn api(&self) -> SocketAddr {
        self.api
    }

    /// Its settings, with the port that it got: what its sub-commands are called with.
    pub fn environment(&self) -> Vec<(String, String)> {
        let mut settings = self.settings.clone();
        settings.set("Agent__Port", self.api.port().to_string());
        settings.list()
    }

    /// The Operator's token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Calls the API as the Operator.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Response {
        let authorization = format!("Bearer {}", self.token);
        let mut fields = vec![("Connection", "close")];
        if !self.token.is_empty() {
            fields.push(("Authorization", &authorization));
        }
        self.call_with(method, path, &fields, body)
    }

    /// Calls the API with fields of one's own and no token.
    pub fn call_with(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Response {
        let body = body.map(|body| serde_json::to_vec(body).expect("JSON"));
        let mut fields = fields.to_vec();
        if body.is_some() {
            fields.push(("Content-Type", "application/json"));
        }
        let mut visitor = Visitor::connect(self.api, &self.api.to_string());
        visitor.request(method, path, &fields, body.as_deref())
    }

    /// The status object.
    pub fn status(&self) -> Value {
        let answer = self.call("GET", "/api/v1/status", None);
        assert_eq!(answer.status(), 200, "{answer:?}");
        answer.json()
    }

    /// Waits until it says that it is connected.
    pub fn wait_connected(&self) {
        self.wait_status("Connected");
    }

    /// Waits until it says that its connection is in this state.
    pub fn wait_status(&self, wanted: &str) {
        until(&format!("connectionStatus {wanted}"), PATIENCE, || {
            (self.status()["connectionStatus"] == wanted).then_some(())
        });
    }

    /// Creates a mapping to a port of this machine, waits until the Gateway has it, and gives its id.
    pub fn map(&self, domain: &str, port: u16) -> String {
        self.map_with(domain, port, json!({}))
    }

    /// The same, with more fields (or others).
    pub fn map_with(&self, domain: &str, port: u16, more: Value) -> String {
        let answer = self.call("POST", "/api/v1/mappings", Some(&mapping(domain, port, more)));
        assert_eq!(answer.status(), 201, "{answer:?}");
        let created = answer.json();
        assert_saved(&created);
        created["id"].as_str().expect("an id").to_owned()
    }

    /// Replaces a mapping and waits until the Gateway has it.
    pub fn change(&self, id: &str, mapping: &Value) -> Value {
        let answer = self.call("PUT", &format!("/api/v1/mappings/{id}"), Some(mapping));
        assert_eq!(answer.status(), 200, "{answer:?}");
        assert_saved(&answer.json());
        answer.json()
    }

    /// Deletes a mapping.
    pub fn unmap(&self, id: &str) {
        let answer = self.call("DELETE", &format!("/api/v1/mappings/{id}"), None);
        assert_eq!(answer.status(), 204, "{answer:?}");
    }
}

/// The Gateway has a mapping that was saved. What Caddy makes of it may be known by then or not.
fn assert_saved(mapping: &Value) {
    let state = mapping["routeState"].as_str().expect("a word");
    assert!(["served", "pending", "off"].contains(&state), "{mapping}");
}

/// The JSON of a mapping to a port of this machine, with more fields (or others).
pub fn mapping(domain: &str, port: u16, more: Value) -> Value {
    let mut mapping = json!({
        "externalDomain": domain,
        "internalHost": "127.0.0.1",
        "internalPort": port,
        "internalUseTls": false,
        "allowSelfSignedCerts": false,
        "isEnabled": true,
        "description": format!("{domain} of a test"),
    });
    for (key, value) in more.as_object().expect("an object") {
        mapping[key] = value.clone();
    }
    mapping
}

/// What to start.
#[derive(Debug)]
pub struct Plan {
    gateways: usize,
    agents: usize,
    line: bool,
    connections: u64,
    gateway: Settings,
    agent: Settings,
    descriptors: Option<u32>,
}

/// Daemons that belong together. Dropped in this order: Agents, line, Gateways, folder.
pub struct World {
    /// The Agents.
    pub agents: Vec<Agent>,
    line: Option<Line>,
    /// The Gateways.
    pub gateways: Vec<Gateway>,
    folder: Folder,
}

impl Plan {
    /// How many Gateways; every Agent connects to each.
    pub fn gateways(mut self, count: usize) -> Plan {
        self.gateways = count;
        self
    }

    /// How many Agents, each with a database of its own.
    pub fn agents(mut self, count: usize) -> Plan {
        self.agents = count;
        self
    }

    /// Agents reach the (only) Gateway through a [`Line`].
    pub fn line(mut self) -> Plan {
        self.line = true;
        self
    }

    /// The same, with a line that carries only so many connections.
    pub fn line_of(mut self, connections: u64) -> Plan {
        self.line = true;
        self.connections = connections;
        self
    }

    /// A setting of the Gateways.
    pub fn gateway(mut self, key: &str, value: impl Into<String>) -> Plan {
        self.gateway.set(key, value);
        self
    }

    /// A setting of the Agents.
    pub fn agent(mut self, key: &str, value: impl Into<String>) -> Plan {
        self.agent.set(key, value);
        self
    }

    /// Most descriptors that a Gateway may have open.
    pub fn gateway_descriptors(mut self, limit: u32) -> Plan {
        self.descriptors = Some(limit);
        self
    }

    /// Starts everything and waits until every Agent is connected.
    pub fn start(self) -> World {
        let world = self.start_apart();
        for agent in &world.agents {
            agent.wait_connected();
        }
        world
    }

    /// Starts everything without waiting for connections.
    pub fn start_apart(self) -> World {
        let folder = Folder::new();
        let start_gateway = || match self.descriptors {
            None => Gateway::start(self.gateway.clone()),
            Some(limit) => {
                let command = daemon::command_with_descriptors(Program::Gateway, limit);
                Gateway::start_with(self.gateway.clone(), command)
            }
        };
        let gateways: Vec<_> = (0..self.gateways).map(|_| start_gateway()).collect();
        let line = self.line.then(|| {
            assert_eq!(gateways.len(), 1, "a line leads to one Gateway");
            let line = Line::to(gateways[0].address());
            line.carry_at_most(self.connections);
            line
        });
        let addresses = match &line {
            Some(line) => vec![line.address()],
            None => gateways.iter().map(Gateway::address).collect(),
        };
        let urls: Vec<_> = addresses.iter().map(|address| format!("ws://{address}/tunnel")).collect();
        let start_agent = |number: usize| {
            let mut settings = self.agent.clone();
            settings.set("Agent__GatewayUrl", urls.join(","));
            settings.set("Agent__Name", format!("agent-{number}"));
            let database = folder.path().join(format!("agent-{number}.db"));
            settings
                .set("ConnectionStrings__DefaultConnection", format!("Data Source={}", database.display()));
            Agent::start_named(&format!("agent {number}"), settings)
        };
        let agents = (0..self.agents).map(start_agent).collect();
        World { agents, line, gateways, folder }
    }
}

impl World {
    /// One Gateway and one Agent, until told otherwise.
    pub fn plan() -> Plan {
        Plan {
            gateways: 1,
            agents: 1,
            line: false,
            connections: u64::MAX,
            gateway: Settings::gateway(),
            agent: Settings::agent(),
            descriptors: None,
        }
    }

    /// Starts one Gateway and one Agent.
    pub fn start() -> World {
        World::plan().start()
    }

    /// The first Gateway.
    pub fn gateway(&self) -> &Gateway {
        &self.gateways[0]
    }

    /// The first Agent.
    pub fn agent(&self) -> &Agent {
        &self.agents[0]
    }

    /// The line between them.
    pub fn line(&self) -> &Line {
        self.line.as_ref().expect("a world planned with a line")
    }

    /// A folder for the test's own files.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// An upstream with all of [`crate::sample`], mapped to `domain` by the first Agent.
    pub fn publish(&self, domain: &str) -> Upstream {
        let upstream = Upstream::start();
        crate::sample::install(&upstream);
        self.agent().map(domain, upstream.port());
        upstream
    }

    /// A visitor's connection to the first Gateway.
    pub fn visitor(&self, host: &str) -> Visitor {
        self.gateway().visitor(host)
    }

    /// A `GET` on a new connection to the first Gateway.
    pub fn get(&self, host: &str, target: &str) -> Response {
        self.visitor(host).get(target)
    }

    /// Waits until the first Gateway answers 200 to `GET /hello`, and gives how long it took. After a daemon has been
    /// killed this tells more than [`Agent::wait_connected`], which may not have noticed yet.
    pub fn wait_served(&self, host: &str) -> Duration {
        let began = Instant::now();
        until(&format!("{host} in service"), PATIENCE, || {
            (self.get(host, "/hello").status() == 200).then_some(())
        });
        began.elapsed()
    }

    /// Prints what all daemons said, for a test that fails.
    pub fn show(&self) {
        for gateway in &self.gateways {
            gateway.daemon.show();
        }
        for agent in &self.agents {
            agent.daemon.show();
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if thread::panicking() {
            self.show();
        }
    }
}
