//! What a pass found out, where others see it, and in the log where it is different from before.

use std::collections::{HashMap, HashSet};

use shared::clock;
use shared::mapping::MappingId;
use shared::threads::lock;

use super::client::Fault;
use super::plan::Row;
use super::servers::Server;
use super::{Caddy, Overview, RouteState, RouteStatus, State};

/// How a pass ended.
pub(super) struct Outcome {
    pub(super) state: State,
    pub(super) error: Option<String>,
    pub(super) server: Option<Server>,
    /// `None`: nothing new is known about the mappings.
    pub(super) routes: Option<Vec<RouteStatus>>,
    pub(super) own_routes: Option<Vec<String>>,
    pub(super) front: Option<(Option<String>, u16)>,
}

impl Outcome {
    pub(super) fn failed(state: State, error: String) -> Outcome {
        Outcome { state, error: Some(error), server: None, routes: None, own_routes: None, front: None }
    }

    pub(super) fn of(fault: &Fault) -> Outcome {
        let state = match fault {
            Fault::Unreachable(_) => State::Unreachable,
            Fault::Forbidden(_) => State::Forbidden,
            Fault::Stale => State::Pending,
            Fault::Refused { .. } => State::Rejected,
        };
        Outcome::failed(state, fault.to_string())
    }

    /// Puts the outcome where others see it, and logs what is different from before. Whether anything is.
    pub(super) fn publish(self, caddy: &Caddy, rows: &[Row], noted: &mut Option<String>) -> bool {
        let outcome = self;
        let mut view = lock(&caddy.view);
        let routes = outcome.routes.unwrap_or_else(|| {
            // Caddy has not been seen: mappings stay as they were, new ones wait.
            let text = outcome.error.as_ref();
            let old = by_mapping(&view.routes);
            let row = |row: &Row| match old.get(&(row.id, &row.agent)) {
                Some(&old) if old.host == row.host.as_str() => old.clone(),
                _ => status(row, RouteState::Pending, text.cloned()),
            };
            rows.iter().map(row).collect()
        });
        let note = outcome.server.as_ref().and_then(|server| server.note.clone());
        if note.is_some() && note != *noted {
            log::warn!("Caddy: {}", note.as_deref().unwrap_or_default());
        }
        *noted = note;
        let old = &view.overview;
        let overview = Overview {
            state: outcome.state,
            server: outcome.server.map(|server| server.name).or_else(|| old.server.clone()),
            last_error: outcome.error,
            last_pass_at: Some(clock::now_iso()),
            last_write_at: old.last_write_at.clone(),
            own_routes: outcome.own_routes.unwrap_or_else(|| old.own_routes.clone()),
        };
        let same = Overview { last_pass_at: old.last_pass_at.clone(), ..overview.clone() } == *old;
        log_overview(old, &overview);
        log_routes(&view.routes, &routes);
        let changed = !same || view.routes != routes;
        let hosts: HashSet<&str> = routes.iter().map(|route| route.host.as_str()).collect();
        view.certificates.retain(|host, _| hosts.contains(host.as_str()));
        view.overview = overview;
        view.routes = routes;
        if outcome.front.is_some() {
            view.front = outcome.front;
        }
        changed
    }
}

/// A row in this state.
pub(super) fn status(row: &Row, state: RouteState, error: Option<String>) -> RouteStatus {
    RouteStatus { id: row.id, agent: row.agent.clone(), host: row.host.as_str().to_owned(), state, error }
}

fn by_mapping(routes: &[RouteStatus]) -> HashMap<(MappingId, &String), &RouteStatus> {
    routes.iter().map(|route| ((route.id, &route.agent), route)).collect()
}

fn log_overview(old: &Overview, new: &Overview) {
    if (old.state, &old.last_error) == (new.state, &new.last_error) {
        return;
    }
    match (&new.last_error, new.state) {
        (Some(error), _) => log::warn!("Caddy: {error}"),
        (None, State::Ok) => log::info!(
            "Caddy: all is as wanted{}",
            new.server.as_ref().map(|name| format!(", in server {name}")).unwrap_or_default()
        ),
        (None, _) => {}
    }
}

fn log_routes(old: &[RouteStatus], new: &[RouteStatus]) {
    let before = by_mapping(old);
    let mut served = 0;
    for route in new {
        let known = before.get(&(route.id, &route.agent));
        if known.is_some_and(|known| **known == *route) {
            continue;
        }
        match (&route.error, route.state) {
            (Some(error), RouteState::Conflict | RouteState::Invalid | RouteState::Rejected) => {
                log::warn!("Caddy, route {}: {}: {error}", route.host, route.state);
            }
            (_, RouteState::Served) => served += 1,
            _ => log::debug!("Caddy, route {}: {}", route.host, route.state),
        }
    }
    if served > 0 {
        log::info!("Caddy: {served} more names are served");
    }
}
