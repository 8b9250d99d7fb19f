//! `octoporty-agent`: arguments, settings, run, exit status.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use agent::admin::{self, AdminConfig, App, Reach};
use agent::config::{self, Config};
use agent::control::{TunnelState, TunnelStatus};
use agent::events::Live;
use agent::store::Store;
use shared::logging;
use shared::notify::{Notify, Vital};
use shared::settings::healthcheck;
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
                eprintln!("octoporty-agent: {fault}");
                ExitCode::FAILURE
            }
        },
    }
}

fn run(config: Config) -> Result<(), String> {
    let stop = Stop::new();
    let _signals = stop.on_signals().map_err(|e| format!("cannot listen to signals: {e}"))?;
    let log = logging::start(&config.log).map_err(|e| e.to_string())?;
    logging::print_banner("Agent", agent::VERSION, &config.banner()).map_err(|e| format!("banner: {e}"))?;
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    let notify = Notify::from_environment().map_err(|e| e.to_string())?;
    config.make_database_directory();
    let store = Store::open(&config.database).map_err(|e| e.to_string())?;
    let reach = Reach::of(&config);
    let admin = AdminConfig::new(&config);
    let live = Live { hub: Arc::default(), log: log.ring() };
    let running = agent::start(config, store.clone(), Arc::clone(&live.hub)).map_err(|e| e.to_string())?;
    let app =
        App::new(admin, store, running.recorder(), running.control(), live).map_err(|e| e.to_string())?;
    let app = app.reaching(reach);
    let admin = admin::start(app).map_err(|e| format!("{e}; the port is set by Agent__Port"))?;
    running.set_admin_address(admin.address());
    log::info!("admin page listening on http://{}", admin.address());
    let mut vitals = running.vitals();
    let address = admin.address();
    vitals.push(Vital::new(
        "admin page",
        || {},
        move || healthcheck::ask(address.ip(), address.port()).is_ok(),
    ));
    let control = running.control();
    let status = move || describe(&control.status(), address);
    let keeper = notify.ready(vitals, status).map_err(|e| e.to_string())?;
    stop.wait();
    log::info!("stopping; running requests have {} s to finish", DRAIN.as_secs());
    keeper.stopping("running requests may finish");
    let mut panicked = running.stop(DRAIN);
    panicked.extend(admin.stop());
    if panicked.is_empty() {
        log::info!("stopped");
        Ok(())
    } else {
        Err(format!("threads that had panicked: {}", panicked.join(", ")))
    }
}

/// The line that the service manager shows.
fn describe(status: &TunnelStatus, admin: SocketAddr) -> String {
    let gateway = &status.gateway_url;
    let tunnel = match (status.state, &status.last_error) {
        (TunnelState::Connected, _) => format!("connected to {gateway}"),
        (_, Some(error)) => format!("not connected: {error}"),
        (_, None) => format!("connecting to {gateway}"),
    };
    format!("{tunnel}; admin page on http://{admin}")
}
