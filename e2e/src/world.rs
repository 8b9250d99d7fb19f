//! Gateways and Agents, started as processes and wired together: what a user would have after installing them.
//!
//! Everything is on any free port, in a folder of its own, and ends with the [`World`].

mod agent;
mod gateway;
mod settings;

use std::thread;
use std::time::{Duration, Instant};

use crate::daemon::{self, Program};
use crate::journal::{PATIENCE, until};
use crate::line::Line;
use crate::upstream::Upstream;
use crate::visitor::{Response, Visitor};

pub use agent::{Agent, mapping};
pub use gateway::Gateway;
pub use settings::{Folder, JWT_SECRET, KEY, PASSWORD, PASSWORD_HASH, Settings};

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

    /// The Gateway's own name, as the Agents dial it.
    pub fn own_name(&self) -> String {
        self.gateway().address().ip().to_string()
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
