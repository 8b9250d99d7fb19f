//! A look at the certificate of each new mapping, on a thread of its own because that may take long.

use std::collections::HashSet;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use shared::threads;

use super::RouteState;
use crate::config::CaddyMode;
use crate::gateway::Core;

/// Most looks at a time.
const MAX_LOOKS: usize = 1000;
/// Pauses before a certificate is looked at, again if there was none.
const PAUSES: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(15), Duration::from_secs(120)];

/// How often Agents hear of what has been found; each time they get the state of all their mappings.
const TELL: Duration = Duration::from_secs(2);

/// The new mappings.
#[derive(Default)]
pub(super) struct Looks {
    /// Names whose certificate has not been looked at.
    fresh: HashSet<String>,
    thread: Option<JoinHandle<()>>,
}

impl Looks {
    /// These names are published now; those of `new` were not before.
    pub(super) fn note<'n>(&mut self, all: &HashSet<&str>, new: impl Iterator<Item = &'n str>) {
        self.fresh.retain(|host| all.contains(host.as_str()));
        self.fresh.extend(new.map(str::to_owned));
    }

    /// Starts looking, if there is something to look at and nobody looks yet.
    pub(super) fn start(&mut self, core: &Arc<Core>) {
        if self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) || self.fresh.is_empty() {
            return;
        }
        if core.caddy.settings.mode == CaddyMode::Off {
            return self.fresh.clear();
        }
        let served = core.caddy.states().into_iter().filter(|route| route.state == RouteState::Served);
        let hosts: Vec<_> =
            served.map(|route| route.host).filter(|host| self.fresh.contains(host)).take(MAX_LOOKS).collect();
        if hosts.is_empty() {
            return;
        }
        self.fresh.retain(|host| !hosts.contains(host));
        let core = Arc::clone(core);
        match threads::spawn("certificates", move || look(&core, hosts)) {
            Ok(thread) => self.thread = Some(thread),
            Err(e) => log::warn!("cannot look at the certificates of new mappings: {e}"),
        }
    }

    /// Waits for the thread, which ends when Caddy's does.
    pub(super) fn join(mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread that looks at certificates had panicked");
        }
    }
}

fn look(core: &Arc<Core>, mut hosts: Vec<String>) {
    for (attempt, pause) in PAUSES.iter().enumerate() {
        if core.caddy.stopped_within(*pause) {
            return;
        }
        let mut told = Instant::now();
        hosts.retain(|host| {
            if core.caddy.is_stopped() {
                return false;
            }
            let found = core.caddy.certificate(host, true);
            match &found.error {
                None => log::info!("{host}: certificate by {}", found.issuer.as_deref().unwrap_or("nobody")),
                // At first Caddy may be getting it still.
                Some(error) if found.state == "error" && attempt + 1 < PAUSES.len() => {
                    log::debug!("{host}: {error}");
                }
                Some(error) if found.state != "unknown" => log::warn!("{host}: {error}"),
                Some(_) => {}
            }
            if told.elapsed() > TELL {
                told = Instant::now();
                core.routes_changed();
            }
            found.state == "error"
        });
        core.routes_changed();
        if hosts.is_empty() {
            return;
        }
    }
}
