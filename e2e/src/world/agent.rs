//! An Agent as a process, and what its Operator does over the API.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use super::{PASSWORD, Settings};
use crate::daemon::{self, Daemon, Program};
use crate::journal::{PATIENCE, until};
use crate::visitor::{Response, Visitor};

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

    pub(super) fn start_named(name: &str, settings: Settings) -> Agent {
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

    /// The settings it was started with.
    pub fn settings(&self) -> Settings {
        self.settings.clone()
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
