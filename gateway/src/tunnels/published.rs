//! What Agents publish: their mapping tables and landing pages, the routes made of them, and who serves a request.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use shared::control::LandingPage;
use shared::hello::{Config, ConfigAck, ConfigMapping, RouteReport};
use shared::hostname::Hostname;
use shared::mapping::MappingId;
use shared::metrics::Requests;
use shared::monotime;
use shared::threads::lock;

use super::{Session, Tunnel, Tunnels};
use crate::caddy::{Table, Tables, known};
use crate::landing::Page;
use crate::routes::Routes;

/// Most mappings of one Agent.
const MAX_MAPPINGS: usize = 10_000;

/// What a host name leads to.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) tunnel: Arc<Tunnel>,
    pub(crate) mapping: MappingId,
    requests: Arc<Requests>,
}

/// What to do with a request for a host name.
pub(crate) enum Choice {
    /// Send it to this Session.
    Serve(Arc<Session>, MappingId, Arc<Requests>),
    /// The Agent has been away for a moment or is about to go, or the Gateway has just been started: keep the request for
    /// a while, which is counted from this time (microseconds).
    Hold(u64),
    /// The Agent is away.
    Away,
    /// Nobody publishes this name.
    Unknown,
}

impl Tunnels {
    /// Applies a mapping table: swapped for this Agent at once, or not at all.
    pub(crate) fn configure(&self, session: &Arc<Session>, config: &Config) -> Result<ConfigAck, String> {
        if config.mappings.len() > MAX_MAPPINGS {
            return Err(format!(
                "config with {} mappings, at most {MAX_MAPPINGS} are allowed",
                config.mappings.len()
            ));
        }
        let tunnel = &session.tunnel;
        let mut state = lock(&tunnel.state);
        if !state.session.as_ref().is_some_and(|current| Arc::ptr_eq(current, session)) {
            return Err("config for a session that has been replaced".into());
        }
        let mut applied = lock(&session.applied);
        if let Some(newer) = applied.as_ref().filter(|newer| newer.request > config.request) {
            // It came over a Link that the Agent has given up, behind one that it sent later.
            log::info!("{}: an older table came late and is left out", session.label());
            return Ok(newer.clone());
        }
        let mut table = Vec::with_capacity(config.mappings.len());
        let mut reports = Vec::with_capacity(config.mappings.len());
        for row in &config.mappings {
            let parsed = self.parse_row(row, &state.own_hosts);
            let error = parsed.as_ref().err().cloned();
            reports.push(RouteReport {
                certificate: None,
                id: row.id.clone(),
                state: if error.is_some() { "error" } else { "ok" }.into(),
                error,
            });
            table.extend(parsed);
        }
        let count = table.len();
        state.table = table;
        state.hash.clone_from(&config.hash);
        let ack = ConfigAck { request: config.request, hash: config.hash.clone(), routes: reports };
        *applied = Some(ack.clone());
        drop(applied);
        drop(state);
        self.rebuild();
        // Not before its names are found: whoever is told that nobody is awaited looks for them once more.
        lock(&session.tunnel.state).told = true;
        let first = !session.configured.swap(true, Relaxed);
        log::info!("{}: {count} mappings{}", session.label(), if first { ", serving" } else { "" });
        Ok(ack)
    }

    /// The page that an Agent's operator wrote for our own host. Gives the hash of what is held now.
    pub(crate) fn set_page(&self, session: &Session, asked: LandingPage) -> Result<Option<String>, String> {
        let page = asked.html.map(|html| Page::new(html, asked.saved_at)).transpose()?.map(Arc::new);
        let hash = page.as_ref().map(|page| page.hash.clone());
        lock(&session.tunnel.state).page = page;
        match &hash {
            Some(hash) => log::info!("{}: landing page {hash}", session.label()),
            None => log::info!("{}: default landing page", session.label()),
        }
        Ok(hash)
    }

    /// The page to show on a host: `None` when the host is not ours, `Some(None)` for the default page. Of several
    /// Agents that call us by this name the one whose operator saved last decides.
    pub(crate) fn page(&self, host: &str) -> Option<Option<Arc<Page>>> {
        let everybody = self.settings.fqdn.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(host));
        let tunnels = lock(&self.tunnels);
        let mut ours = everybody;
        let mut best: Option<(Arc<Page>, &String)> = None;
        for (id, tunnel) in tunnels.iter() {
            let state = lock(&tunnel.state);
            if !everybody && !state.own_hosts.iter().any(|own| own.eq_ignore_ascii_case(host)) {
                continue;
            }
            ours = true;
            if let Some(page) = &state.page
                && best.as_ref().is_none_or(|(b, other)| (&b.saved_at, *other) < (&page.saved_at, id))
            {
                best = Some((Arc::clone(page), id));
            }
        }
        ours.then(|| best.map(|(page, _)| page))
    }

    fn parse_row(&self, row: &ConfigMapping, own_hosts: &[String]) -> Result<(MappingId, Hostname), String> {
        let id: MappingId = row.id.parse().map_err(|e| format!("mapping {:?}: {e}", row.id))?;
        let host = Hostname::parse(&row.domain).map_err(|e| e.to_string())?;
        let mut own = self.settings.fqdn.iter().chain(own_hosts);
        if own.any(|own| own.eq_ignore_ascii_case(host.as_str())) || self.routes().is_own(host.as_str()) {
            return Err(format!("{host} is the Gateway's own address: the tunnel itself would be cut off"));
        }
        Ok((id, host))
    }

    /// Makes the routes anew from all tables.
    pub(super) fn rebuild(&self) {
        let mut routes = Routes::default();
        let mut ids = HashSet::new();
        // Held while the new table is put in place, so that of two changes the later one stays.
        let tunnels = lock(&self.tunnels);
        self.settings.fqdn.iter().for_each(|host| routes.reserve(host));
        let mut publishing = 0;
        for tunnel in tunnels.values() {
            let state = lock(&tunnel.state);
            publishing += usize::from(!state.table.is_empty());
            state.own_hosts.iter().for_each(|host| routes.reserve(host));
            for (mapping, host) in &state.table {
                ids.insert(*mapping);
                let requests = self.requests.of(*mapping);
                routes.add(host, Target { tunnel: Arc::clone(tunnel), mapping: *mapping, requests });
            }
        }
        self.requests.keep(&ids);
        self.publishing.store(publishing, Relaxed);
        let mut place = self.routes.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        *place = Arc::new(routes);
    }

    pub(super) fn routes(&self) -> Arc<Routes<Target>> {
        Arc::clone(&self.routes.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// What Caddy should know: the table of every Agent that has sent one, and the Gateway's own names.
    pub(crate) fn tables(&self) -> Tables {
        let mut tables = Tables::default();
        tables.own.extend(self.settings.fqdn.iter().map(|host| host.to_ascii_lowercase()));
        for tunnel in lock(&self.tunnels).values() {
            let state = lock(&tunnel.state);
            tables.own.extend(state.own_hosts.iter().map(|host| host.to_ascii_lowercase()));
            if state.told {
                tables.agents.push(Table {
                    agent: tunnel.agent_id.clone(),
                    rows: state.table.clone(),
                    own: state.own_hosts.clone(),
                    lost: state.lost,
                });
            }
        }
        tables.own.sort();
        tables.own.dedup();
        tables
    }

    /// Whether an Agent publishes a name (lower case), whether or not it is connected.
    pub(crate) fn is_published(&self, host: &str) -> bool {
        !self.routes().find(host).is_empty()
    }

    /// Whether a name (lower case) is the Gateway's own.
    pub(crate) fn is_own(&self, host: &str) -> bool {
        let fqdn = self.settings.fqdn.as_deref();
        fqdn.is_some_and(|own| own.eq_ignore_ascii_case(host)) || self.routes().is_own(host)
    }

    /// Whether the Agent with this [`mark`](known::mark) has sent its table; `None`: whether any has.
    pub(crate) fn told(&self, agent: Option<&str>) -> bool {
        let meant = |tunnel: &Tunnel| agent.is_none_or(|agent| known::mark(&tunnel.agent_id) == agent);
        lock(&self.tunnels).values().any(|tunnel| lock(&tunnel.state).told && meant(tunnel))
    }

    /// What to do with a request for a name that was published before the Gateway was started, by an Agent that has not
    /// sent its table yet. It has as long as one that has just gone, and while one greets.
    pub(crate) fn choose_awaited(&self) -> Choice {
        let arriving = monotime::micros() < self.settings.hold_seconds * 1_000_000;
        let greeting = || self.sessions().iter().any(|session| !session.configured.load(Relaxed));
        if self.settings.hold_seconds > 0 && (arriving || greeting()) {
            Choice::Hold(monotime::micros())
        } else {
            Choice::Away
        }
    }

    /// Who serves a host name now. Among several Agents the one with the fewest Streams, in turn when equal.
    pub(crate) fn choose(&self, host: &str) -> Choice {
        let routes = self.routes();
        let targets = routes.find(host);
        if targets.is_empty() {
            return Choice::Unknown;
        }
        let turn = if targets.len() > 1 { self.turn.fetch_add(1, Relaxed) } else { 0 };
        let mut best: Option<(usize, Arc<Session>, &Target)> = None;
        let mut hold_from: Option<u64> = None;
        let now = monotime::micros();
        for i in 0..targets.len() {
            let target = &targets[(turn + i) % targets.len()];
            let state = lock(&target.tunnel.state);
            match &state.session {
                Some(session) if session.serves() && session.is_sound() => {
                    let load = session.streams.len();
                    if best.as_ref().is_none_or(|(least, ..)| load < *least) {
                        best = Some((load, Arc::clone(session), target));
                    }
                }
                // Greeted, and its table is on its way; or draining, and its next Session is; or its Links are in doubt.
                Some(session) => hold_from = hold_from.max(Some(session.leaves_until().max(now))),
                None => {
                    let away = state.lost.map_or(u64::MAX, |lost| now.saturating_sub(lost));
                    if away < self.settings.hold_seconds * 1_000_000 {
                        hold_from = hold_from.max(Some(now));
                    }
                }
            }
        }
        match best {
            Some((_, session, target)) => {
                Choice::Serve(session, target.mapping, Arc::clone(&target.requests))
            }
            None => match hold_from.filter(|_| self.settings.hold_seconds > 0) {
                Some(from) => Choice::Hold(from),
                None => Choice::Away,
            },
        }
    }
}
