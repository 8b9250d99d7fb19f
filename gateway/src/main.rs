//! `octoporty-gateway`: arguments, settings, run, exit status.

use std::net::SocketAddr;
use std::process::ExitCode;

use gateway::config::{Config, PROGRAM};
use shared::activation;
use shared::process::{self, Process};

fn main() -> ExitCode {
    process::main(&PROGRAM, run)
}

fn run(config: Config) -> Result<(), String> {
    let process =
        Process::begin("Gateway", gateway::VERSION, &config.log, &config.banner(), &config.warnings)?;
    let gateway = match activation::listener().map_err(|e| e.to_string())? {
        Some(listener) => {
            let wanted = SocketAddr::new(config.bind_address, config.port);
            let gateway = gateway::start_on(config, listener, process.ring()).map_err(|e| e.to_string())?;
            let found = gateway.address();
            // Closer than wanted is somebody's intention; wider, or elsewhere, is not.
            let wider = found.ip().is_unspecified() && !wanted.ip().is_unspecified();
            if wider || found.port() != wanted.port() {
                log::warn!(
                    "the socket unit listens on {found}, but Gateway__BindAddress and Gateway__Port say {wanted}: make \
                     both alike; the health check asks the latter"
                );
            }
            gateway
        }
        None => gateway::start(config, process.ring()).map_err(|e| e.to_string())?,
    };
    log::info!("listening on http://{}", gateway.address());
    process.until_stopped(gateway.vitals(), gateway.status(), |drain| gateway.stop(drain))
}
