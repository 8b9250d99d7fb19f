//! `octoporty-agent`: arguments, settings, run, exit status.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use agent::admin::{self, AdminConfig, App, Reach};
use agent::config::{Config, PROGRAM};
use agent::control::{TunnelState, TunnelStatus};
use agent::events::Live;
use agent::store::Store;
use shared::notify::Vital;
use shared::process::{self, Process};
use shared::settings::healthcheck;

fn main() -> ExitCode {
    process::main(&PROGRAM, run)
}

fn run(config: Config) -> Result<(), String> {
    let process = Process::begin("Agent", agent::VERSION, &config.log, &config.banner(), &config.warnings)?;
    config.make_database_directory();
    let store = Store::open(&config.database).map_err(|e| e.to_string())?;
    let reach = Reach::of(&config);
    let admin = AdminConfig::new(&config);
    let live = Live { hub: Arc::default(), log: process.ring() };
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
    process.until_stopped(vitals, status, |drain| {
        let mut panicked = running.stop(drain);
        panicked.extend(admin.stop());
        panicked
    })
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
