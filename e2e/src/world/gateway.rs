//! A Gateway as a process.

use std::net::SocketAddr;

use super::Settings;
use crate::daemon::{self, Daemon, Program};
use crate::visitor::Visitor;

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
