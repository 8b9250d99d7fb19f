//! `octoporty-gateway`: arguments, settings, run, exit status.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use gateway::config::{self, Config};
use shared::activation;
use shared::logging;
use shared::notify::Notify;
use shared::settings::start::Command;
use shared::stop::Stop;

/// How long running exchanges may take to finish after SIGTERM.
const DRAIN: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    // Uptime counts from here.
    shared::monotime::micros();
    match config::command() {
        Command::Done(status) => ExitCode::from(status),
        Command::Run(config) => match run(*config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(fault) => {
                eprintln!("octoporty-gateway: {fault}");
                ExitCode::FAILURE
            }
        },
    }
}

fn run(config: Config) -> Result<(), String> {
    let stop = Stop::new();
    let _signals = stop.on_signals().map_err(|e| format!("cannot listen to signals: {e}"))?;
    let log = logging::start(&config.log).map_err(|e| e.to_string())?;
    logging::print_banner("Gateway", gateway::VERSION, &config.banner())
        .map_err(|e| format!("banner: {e}"))?;
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    let notify = Notify::from_environment().map_err(|e| e.to_string())?;
    let gateway = match activation::listener().map_err(|e| e.to_string())? {
        Some(listener) => {
            let wanted = SocketAddr::new(config.bind_address, config.port);
            let gateway = gateway::start_on(config, listener, log.ring()).map_err(|e| e.to_string())?;
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
        None => gateway::start(config, log.ring()).map_err(|e| e.to_string())?,
    };
    log::info!("listening on http://{}", gateway.address());
    let keeper = notify.ready(gateway.vitals(), gateway.status()).map_err(|e| e.to_string())?;
    stop.wait();
    log::info!("stopping; running requests have {} s to finish", DRAIN.as_secs());
    keeper.stopping("running requests may finish");
    let panicked = gateway.stop(DRAIN);
    if panicked.is_empty() {
        log::info!("stopped");
        Ok(())
    } else {
        Err(format!("threads that had panicked: {}", panicked.join(", ")))
    }
}
