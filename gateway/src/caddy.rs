//! Caddy, which stands in front of the Gateway: its routes, its questions, its certificates, and what is known of it.
//!
//! In reading order: `plan` (what the routes should be; pure), `servers` (what Caddy's configuration says; pure),
//! `client` (the admin API), `reconcile` (the thread that makes the one like the other), `view` (what it found), `ask`
//! (on-demand TLS), `known` (names remembered over a restart), `certificate` (what visitors get to see), `looks` (at that,
//! once for each new mapping), `redact` (what operators may see). The Caddyfile that `init` writes is in
//! `cli/caddyfile.rs`.

pub(crate) mod ask;
pub(crate) mod certificate;
pub(crate) mod client;
pub(crate) mod known;
mod looks;
pub(crate) mod plan;
pub(crate) mod reconcile;
pub(crate) mod redact;
pub(crate) mod servers;
mod view;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use shared::control::{CaddyReport, CertificateReport};
use shared::hello::RouteReport;
use shared::hostname::Hostname;
use shared::mapping::MappingId;
use shared::threads::lock;

use crate::config::{CaddyMode, Config};
use ask::Asked;
use client::Client;
use known::Known;

/// Where Caddy asks whether a name is ours.
pub(crate) const ASK_PATH: &str = "/caddy/ask";

/// How Caddy sees one mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RouteState {
    /// `Gateway__CaddyMode=off`: nobody looks.
    Off,
    /// Caddy leads visitors of this name to the Gateway.
    Served,
    /// Not yet.
    Pending,
    /// Somebody else has the name.
    Conflict,
    /// No name that Caddy could serve.
    Invalid,
    /// Caddy refused the route.
    Rejected,
}

impl RouteState {
    /// The word of the API.
    pub(crate) fn word(self) -> &'static str {
        match self {
            RouteState::Off => "off",
            RouteState::Served => "served",
            RouteState::Pending => "pending",
            RouteState::Conflict => "conflict",
            RouteState::Invalid => "invalid",
            RouteState::Rejected => "rejected",
        }
    }
}

/// One mapping as Caddy sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RouteStatus {
    pub(crate) id: MappingId,
    /// Identity of the Agent that it belongs to.
    pub(crate) agent: String,
    pub(crate) host: String,
    pub(crate) state: RouteState,
    /// A sentence for the operator.
    pub(crate) error: Option<String>,
}

/// Caddy as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum State {
    /// `Gateway__CaddyMode=off`.
    Off,
    /// As wanted.
    Ok,
    /// Not looked at yet, or about to be written.
    #[default]
    Pending,
    /// No answer from the admin API.
    Unreachable,
    /// The admin API refuses us.
    Forbidden,
    /// Nothing that could serve visitors.
    NoServer,
    /// Caddy refuses what we write.
    Rejected,
}

impl State {
    /// The word of the API.
    pub(crate) fn word(self) -> &'static str {
        match self {
            State::Off => "off",
            State::Ok => "ok",
            State::Pending => "pending",
            State::Unreachable => "unreachable",
            State::Forbidden => "forbidden",
            State::NoServer => "no_server",
            State::Rejected => "rejected",
        }
    }
}

/// What the thread found out about Caddy as a whole.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Overview {
    state: State,
    /// Name of Caddy's server that has the routes.
    server: Option<String>,
    /// What is wrong, while it is.
    last_error: Option<String>,
    /// ISO 8601.
    last_pass_at: Option<String>,
    /// ISO 8601.
    last_write_at: Option<String>,
    /// `@id`s of our routes in Caddy.
    own_routes: Vec<String>,
}

/// What is counted, for `/metrics`.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Comparisons of Caddy's routes with the wanted ones.
    pub(crate) passes: AtomicU64,
    /// Changes that Caddy accepted.
    pub(crate) writes: AtomicU64,
    /// Passes that ended with an error.
    pub(crate) failures: AtomicU64,
    /// Questions of Caddy that were answered with yes.
    pub(crate) allowed: AtomicU64,
    /// Questions of Caddy that were answered with no.
    pub(crate) denied: AtomicU64,
}

/// The names that one Agent publishes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Table {
    /// Identity of the Agent.
    pub(crate) agent: String,
    pub(crate) rows: Vec<(MappingId, Hostname)>,
    /// The names by which it calls the Gateway.
    pub(crate) own: Vec<String>,
    /// Since when it has been away, microseconds of the process's clock; `None` while it is connected.
    pub(crate) lost: Option<u64>,
}

/// What the Gateway tells Caddy's thread about Agents.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tables {
    /// Every Agent that has sent its table.
    pub(crate) agents: Vec<Table>,
    /// The Gateway's own names.
    pub(crate) own: Vec<String>,
}

/// Everything about Caddy that several threads share.
#[derive(Debug)]
pub(crate) struct Caddy {
    pub(crate) settings: Settings,
    pub(crate) counters: Counters,
    pub(crate) known: Mutex<Known>,
    asked: Mutex<Asked>,
    view: Mutex<View>,
    wake: (Mutex<Wake>, Condvar),
}

/// The settings that concern Caddy.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) mode: CaddyMode,
    pub(crate) client: Client,
    /// `Gateway__CaddyServer`.
    pub(crate) server: Option<String>,
    /// `Gateway__CaddyUpstream`.
    pub(crate) upstream: Option<String>,
    /// The Gateway's port, as it was bound.
    pub(crate) port: u16,
    /// The Gateway's address, unless it listens on all.
    pub(crate) address: Option<std::net::IpAddr>,
    pub(crate) remove_when_away: bool,
    /// Where names are remembered.
    pub(crate) state_directory: Option<PathBuf>,
}

impl Settings {
    /// The settings, with the address that was bound.
    pub(crate) fn new(config: &Config, bound: std::net::SocketAddr) -> Settings {
        Settings {
            mode: config.caddy_mode,
            client: Client::new(&config.caddy_admin_url),
            server: config.caddy_server.clone(),
            upstream: config.caddy_upstream.clone(),
            port: bound.port(),
            address: (!bound.ip().is_unspecified()).then(|| bound.ip()),
            remove_when_away: config.remove_routes_on_tunnel_unavailable,
            state_directory: config.state_directory.clone(),
        }
    }
}

/// What is known.
#[derive(Debug, Default)]
struct View {
    overview: Overview,
    routes: Vec<RouteStatus>,
    /// By host name, what the last look at its certificate found.
    certificates: HashMap<String, CertificateReport>,
    /// Where Caddy takes visitors: address (`None` for that of the admin API) and port.
    front: Option<(Option<String>, u16)>,
}

/// Why the thread should get up.
#[derive(Debug, Default)]
struct Wake {
    /// The first and the last change of a table since the last pass.
    changed: Option<(Instant, Instant)>,
    /// Caddy has just cut something off: it may have been reloaded.
    hurry: bool,
    stop: bool,
}

/// How long a burst of changes is gathered.
const GATHER: Duration = Duration::from_millis(250);
/// The longest that the first change of a burst waits.
const GATHER_MOST: Duration = Duration::from_secs(2);

/// Why the wait of [`Caddy::wait`] is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Woken {
    /// There is a new table, or Caddy was reloaded.
    Changed,
    /// The time is over.
    Due,
    /// The Gateway ends.
    Stopped,
}

impl Caddy {
    pub(crate) fn new(settings: Settings) -> Caddy {
        let off = settings.mode == CaddyMode::Off;
        let overview =
            Overview { state: if off { State::Off } else { State::Pending }, ..Overview::default() };
        let known = Known::load(settings.state_directory.as_deref());
        Caddy {
            settings,
            counters: Counters::default(),
            known: Mutex::new(known),
            asked: Mutex::default(),
            view: Mutex::new(View { overview, ..View::default() }),
            wake: Default::default(),
        }
    }

    /// How the Gateway and Caddy get along.
    pub(crate) fn report(&self) -> CaddyReport {
        let overview = lock(&self.view).overview.clone();
        CaddyReport {
            mode: self.settings.mode.word().to_owned(),
            state: overview.state.to_string(),
            server: overview.server,
            admin_url: self.settings.client.url().to_owned(),
            last_error: overview.last_error,
            last_pass_at: overview.last_pass_at,
            last_write_at: overview.last_write_at,
            writes: self.counters.writes.load(Relaxed),
            own_routes: overview.own_routes,
        }
    }

    /// All mappings of all Agents, as Caddy sees them.
    pub(crate) fn states(&self) -> Vec<RouteStatus> {
        lock(&self.view).routes.clone()
    }

    /// The rows of one Agent's table, as Caddy sees them. Rows that the thread has not seen yet are pending.
    pub(crate) fn route_reports(&self, agent: &str, table: Vec<(MappingId, Hostname)>) -> Vec<RouteReport> {
        let view = lock(&self.view);
        let known: HashMap<_, _> = view
            .routes
            .iter()
            .filter(|route| route.agent == agent)
            .map(|route| ((route.id, route.host.as_str()), route))
            .collect();
        let unknown =
            if self.settings.mode == CaddyMode::Off { RouteState::Off } else { RouteState::Pending };
        let row = |(id, host): (MappingId, Hostname)| {
            let route = known.get(&(id, host.as_str()));
            RouteReport {
                id: id.to_string(),
                state: route.map_or(unknown, |route| route.state).to_string(),
                error: route.and_then(|route| route.error.clone()),
                certificate: view.certificates.get(host.as_str()).cloned(),
            }
        };
        table.into_iter().map(row).collect()
    }

    /// Caddy's configuration as JSON, with secrets redacted and our routes marked. Asks Caddy, which may take 15 s.
    pub(crate) fn config_redacted(&self) -> Result<String, String> {
        if self.settings.mode == CaddyMode::Off {
            return Err("Caddy is left alone (Gateway__CaddyMode=off)".to_owned());
        }
        let answer = self.settings.client.get("/config/").map_err(|fault| fault.to_string())?;
        let mut config = answer.json()?;
        redact::redact(&mut config);
        Ok(config.to_string())
    }

    /// What visitors of a host get to see. `fresh`: looks now, which may take 15 s; else only if nothing is known.
    pub(crate) fn certificate(&self, host: &str, fresh: bool) -> CertificateReport {
        let (known, front) = {
            let view = lock(&self.view);
            (view.certificates.get(host).cloned(), view.front.clone())
        };
        if let Some(known) = known
            && !fresh
        {
            return known;
        }
        let (address, port) = front.unwrap_or((None, 443));
        let address = address.unwrap_or_else(|| self.settings.client.host().to_owned());
        let report = match self.settings.mode {
            CaddyMode::Off => {
                certificate::unknown(host, "Gateway__CaddyMode=off: the Gateway does not know where Caddy is")
            }
            mode => certificate::look(&address, port, host, mode == CaddyMode::Ask, &|| self.is_stopped()),
        };
        lock(&self.view).certificates.insert(host.to_owned(), report.clone());
        report
    }

    /// Whether Caddy may get a certificate for `domain`: the answer's status and a word for people. `is_ours` says whether
    /// a name is published, or was and is waited for.
    pub(crate) fn may_have_certificate(
        &self,
        domain: &str,
        is_ours: impl Fn(&str) -> bool,
    ) -> (u16, &'static str) {
        let (status, text) = ask::decide(domain, is_ours);
        if status == 200 {
            self.counters.allowed.fetch_add(1, Relaxed);
        } else {
            self.counters.denied.fetch_add(1, Relaxed);
            lock(&self.asked).refused(domain, Instant::now());
        }
        (status, text)
    }

    /// A table has changed. Cheap; the work is done by Caddy's own thread.
    pub(crate) fn table_changed(&self) {
        let now = Instant::now();
        let mut wake = lock(&self.wake.0);
        wake.changed = Some((wake.changed.map_or(now, |(first, _)| first), now));
        self.wake.1.notify_all();
    }

    /// Caddy cut a Link off, as it does whenever its configuration changes.
    pub(crate) fn was_reloaded(&self) {
        lock(&self.wake.0).hurry = true;
        self.wake.1.notify_all();
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        lock(&self.wake.0).stop = true;
        self.wake.1.notify_all();
    }

    /// Whether the thread is to end.
    pub(crate) fn is_stopped(&self) -> bool {
        lock(&self.wake.0).stop
    }

    /// Waits for `time`, at most until the thread is to end; whether it is.
    pub(crate) fn stopped_within(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut wake = lock(&self.wake.0);
        while !wake.stop && Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            wake = match self.wake.1.wait_timeout(wake, left) {
                Ok((wake, _)) => wake,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        wake.stop
    }

    /// Waits until there is something to do, at most until `due`.
    pub(crate) fn wait(&self, due: Instant) -> Woken {
        let mut wake = lock(&self.wake.0);
        loop {
            if wake.stop {
                return Woken::Stopped;
            }
            let now = Instant::now();
            let gathered = wake.changed.map(|(first, last)| (first + GATHER_MOST).min(last + GATHER));
            if wake.hurry || gathered.is_some_and(|at| at <= now) {
                wake.hurry = false;
                wake.changed = None;
                return Woken::Changed;
            }
            if due <= now {
                return Woken::Due;
            }
            let until = gathered.map_or(due, |at| at.min(due));
            wake = match self.wake.1.wait_timeout(wake, until - now) {
                Ok((wake, _)) => wake,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}

impl fmt::Display for RouteState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
