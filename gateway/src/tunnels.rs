//! The Agents: greeting, Sessions, their mapping tables, their Links' health, and which of them serves a request.
//!
//! ```text
//!   Tunnel (one Agent, by its identity; outlives its Sessions)
//!     └─ Session (one greeted life; generation rises; the newest wins at once)
//!          ├─ Link × 1..8
//!          └─ Streams
//! ```
//! A Session serves traffic once its first `config` is applied; until then, and while the Agent is away, the routes
//! of its last table stay in force, so that requests can be held instead of refused.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, RwLock};

use shared::alive::{Alive, Verdict};
use shared::control::LandingPage;
use shared::hello::{
    CLOSE_REPLACED, Config, ConfigAck, ConfigMapping, GREETING_SECONDS, Hello, Refused, RouteReport, ToAgent,
    Welcome,
};
use shared::hostname::Hostname;
use shared::link::{Link, Threads};
use shared::mapping::MappingId;
use shared::metrics::{Registry, Requests, Row};
use shared::monotime;
use shared::reason::Reason;
use shared::streams::Streams;
use shared::threads::lock;

use crate::caddy::{Table, Tables};
use crate::landing::Page;
use crate::routes::Routes;
use crate::visitor::{Context, Visitor};

/// Most mappings of one Agent.
const MAX_MAPPINGS: usize = 10_000;
/// Links that have not greeted yet; a stranger needs the key to get here.
const MAX_GREETING: usize = 64;
/// A round trip below this is a local line. Microseconds.
const NEAR: u64 = 3_000;
/// Streams that share a Link on a local line before the next one is used.
const SHARED: usize = 256;
/// Differences in unsent bytes below this do not matter.
const UNSENT_STEP: usize = 16 * 1024;
/// An Agent that has been away this long is forgotten, with its routes. Microseconds.
const FORGET_AFTER: u64 = 24 * 3600 * 1_000_000;

/// One Agent's relation to this Gateway.
pub(crate) struct Tunnel {
    /// The Agent's own UUID.
    pub(crate) agent_id: String,
    state: Mutex<TunnelState>,
}

#[derive(Default)]
struct TunnelState {
    generation: u64,
    /// The newest Session, whether or not it serves yet.
    session: Option<Arc<Session>>,
    table: Vec<(MappingId, Hostname)>,
    /// Whether a table has arrived; it may be empty.
    told: bool,
    hash: String,
    name: String,
    own_hosts: Vec<String>,
    /// What its operator wrote for them.
    page: Option<Arc<Page>>,
    /// When the last Session ended, microseconds.
    lost: Option<u64>,
}

/// One greeted life of a Tunnel.
pub(crate) struct Session {
    /// Secret: names the Session when further Links join.
    id: String,
    /// Small number for logs and thread names.
    number: u64,
    pub(crate) agent_name: String,
    pub(crate) agent_version: String,
    pub(crate) tunnel: Arc<Tunnel>,
    pub(crate) streams: Streams<Visitor>,
    /// Bytes of request body that may be sent on a new Stream.
    pub(crate) credit: u32,
    links: Mutex<Vec<(Arc<Link>, Alive)>>,
    link_count: AtomicUsize,
    configured: AtomicBool,
    draining: AtomicBool,
    /// What it was told last, by type of message.
    told: Mutex<HashMap<&'static str, Vec<u8>>>,
}

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
    /// The Agent has been away for a moment: keep the request for a while.
    Hold,
    /// The Agent is away.
    Away,
    /// Nobody publishes this name.
    Unknown,
}

/// Settings of the tunnel side.
pub(crate) struct TunnelSettings {
    pub(crate) heartbeat_seconds: u64,
    pub(crate) links: u8,
    pub(crate) max_streams: usize,
    pub(crate) max_agents: usize,
    pub(crate) hold_seconds: u64,
    pub(crate) fqdn: Option<String>,
}

/// All Agents.
pub(crate) struct Tunnels {
    settings: TunnelSettings,
    tunnels: Mutex<HashMap<String, Arc<Tunnel>>>,
    routes: RwLock<Arc<Routes<Target>>>,
    greeting: Mutex<Vec<(Arc<Link>, u64)>>,
    threads: Mutex<Vec<Threads>>,
    sessions_made: AtomicU64,
    links_made: AtomicU64,
    turn: AtomicUsize,
    draining: AtomicBool,
    /// Counters by mapping.
    requests: Registry,
}

/// How many there are of each, for `/health` and tests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Agents with a Session that serves.
    pub agents: usize,
    /// Open Links of all Sessions.
    pub links: usize,
    /// Open Streams of all Sessions.
    pub streams: usize,
    /// Host names with a route.
    pub routes: usize,
}

impl Tunnel {
    /// What the Agent publishes.
    pub(crate) fn table(&self) -> Vec<(MappingId, Hostname)> {
        lock(&self.state).table.clone()
    }
}

impl Session {
    /// Whether the Agent publishes this host name.
    pub(crate) fn publishes(&self, host: &str) -> bool {
        lock(&self.tunnel.state).table.iter().any(|(_, known)| known.as_str() == host)
    }

    /// Sends a message that tells all of its subject, unless it is the one sent before. It is made under a lock, so that
    /// of two the one that knows more is sent last. Nothing is sent before the Agent's table is in force: until then it
    /// expects nothing but the answer to that.
    pub(crate) fn tell_if_new(&self, kind: &'static str, make: impl FnOnce() -> Vec<u8>) {
        if !self.configured.load(Relaxed) {
            return;
        }
        let mut told = lock(&self.told);
        let json = make();
        if told.get(kind) == Some(&json) {
            return;
        }
        // Always over the same Link, so that an older message cannot overtake a newer one.
        let Some(link) = self.links().into_iter().next() else { return };
        if link.later(&json) {
            told.insert(kind, json);
            drop(told);
            link.flush();
        }
    }

    /// All Links.
    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        lock(&self.links).iter().map(|(link, _)| Arc::clone(link)).collect()
    }

    /// The home of a new Stream: the Link with the fewest long transfers, then unsent bytes, then Streams. On a local line a
    /// few dozen Streams share a Link, because there the hand-over from thread to thread is what costs.
    pub(crate) fn choose_link(&self) -> Option<Arc<Link>> {
        let links = lock(&self.links);
        let load = |link: &Arc<Link>| {
            let share = if (1..NEAR).contains(&link.base_rtt()) { SHARED } else { 1 };
            (link.heavy(), link.unsent() / UNSENT_STEP, link.streams() / share)
        };
        links.iter().map(|(link, _)| link).min_by_key(|link| load(link)).cloned()
    }

    /// What others may call it: its own id is secret.
    pub(crate) fn connection_id(&self) -> String {
        format!("{:08x}", self.number)
    }

    /// Whether it takes new Streams.
    pub(crate) fn serves(&self) -> bool {
        self.configured.load(Relaxed) && !self.draining.load(Relaxed) && self.link_count.load(Relaxed) > 0
    }

    /// The Agent said that it is shutting down.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Ends it at once: the Links' sockets are shut, never waited for, and every Stream ends with `reason`.
    fn end(&self, reason: Reason, why: &str) {
        let code = if reason == Reason::AgentReplaced { CLOSE_REPLACED } else { 1001 };
        for link in self.links() {
            link.close_with(code, why);
        }
        let mut context = Context::default();
        for (number, visitor) in self.streams.close() {
            visitor.fail(number, reason, &mut context);
        }
        context.settle();
    }

    pub(crate) fn label(&self) -> String {
        format!("agent {:?}, session {}", self.agent_name, self.number)
    }
}

impl Tunnels {
    pub(crate) fn new(settings: TunnelSettings) -> Tunnels {
        Tunnels {
            settings,
            tunnels: Mutex::default(),
            routes: RwLock::default(),
            greeting: Mutex::default(),
            threads: Mutex::default(),
            sessions_made: AtomicU64::new(0),
            links_made: AtomicU64::new(0),
            turn: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            requests: Registry::default(),
        }
    }

    /// Host names with their mappings' counters.
    pub(crate) fn requests(&self) -> Vec<Row> {
        let tunnels: Vec<_> = lock(&self.tunnels).values().cloned().collect();
        let row = |(id, host): (MappingId, Hostname)| Row {
            mapping: id.to_string(),
            host: host.as_str().to_owned(),
            requests: self.requests.of(id),
        };
        tunnels.iter().flat_map(|tunnel| tunnel.table()).map(row).collect()
    }

    /// Name for the next Link; its threads are called after it.
    pub(crate) fn next_link_name(&self) -> String {
        format!("t{}", self.links_made.fetch_add(1, Relaxed))
    }

    /// Whether a Link may begin to greet.
    pub(crate) fn has_room(&self) -> bool {
        !self.draining.load(Relaxed) && lock(&self.greeting).len() < MAX_GREETING
    }

    /// A Link has been accepted and must greet soon.
    pub(crate) fn expect_greeting(&self, link: &Arc<Link>) {
        let deadline = monotime::micros() + GREETING_SECONDS * 1_000_000;
        lock(&self.greeting).push((Arc::clone(link), deadline));
    }

    /// The two threads of a Link, to be joined when it is over.
    pub(crate) fn keep_threads(&self, threads: Threads) {
        let mut all = lock(&self.threads);
        let (ended, running) = all.drain(..).partition::<Vec<_>, _>(Threads::ended);
        *all = running;
        all.push(threads);
        drop(all);
        for threads in ended {
            report_panics(&threads.join());
        }
    }

    /// The Agent's first message on a Link. `host` is the name under which it reached us.
    pub(crate) fn greet(
        &self,
        link: &Arc<Link>,
        hello: &Hello,
        host: &str,
    ) -> Result<(Arc<Session>, Welcome), Refused> {
        lock(&self.greeting).retain(|(known, _)| !Arc::ptr_eq(known, link));
        let refuse = |code: &str, message: String| Err(Refused { code: code.into(), message });
        let Some(version) = shared::hello::common_version(hello.min_version, hello.max_version) else {
            let (min, max) = (shared::hello::VERSION_MIN, shared::hello::VERSION_MAX);
            return refuse(
                "version",
                format!(
                    "the Agent speaks protocol versions {}-{}, this Gateway (version {}) {min}-{max}: update the older one",
                    hello.min_version,
                    hello.max_version,
                    crate::VERSION
                ),
            );
        };
        if self.draining.load(Relaxed) {
            return refuse("draining", "this Gateway is shutting down".into());
        }
        if !(8..=64).contains(&hello.agent_id.len())
            || !hello.agent_id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        {
            return refuse("hello-invalid", "the Agent's identity is not a UUID".into());
        }
        let tunnel = {
            let mut tunnels = lock(&self.tunnels);
            if !tunnels.contains_key(&hello.agent_id) && tunnels.len() >= self.settings.max_agents {
                let gone =
                    tunnels.iter().filter_map(|(id, t)| Some((lock(&t.state).lost?, id.clone()))).min();
                match gone {
                    Some((_, id)) => drop(tunnels.remove(&id)),
                    None => {
                        return refuse(
                            "too-many-agents",
                            format!("{} Agents are connected already (Gateway__MaxAgents)", tunnels.len()),
                        );
                    }
                }
            }
            Arc::clone(tunnels.entry(hello.agent_id.clone()).or_insert_with(|| {
                Arc::new(Tunnel { agent_id: hello.agent_id.clone(), state: Mutex::default() })
            }))
        };
        let mut state = lock(&tunnel.state);
        let session = match &hello.session {
            Some(id) => match &state.session {
                Some(session) if session.id == *id => Arc::clone(session),
                _ => return refuse("session-unknown", "the session to join has ended".into()),
            },
            None => {
                state.generation += 1;
                let session = Arc::new(Session {
                    id: new_session_id(),
                    number: self.sessions_made.fetch_add(1, Relaxed) + 1,
                    agent_name: clean(&hello.agent_name),
                    agent_version: clean(&hello.agent_version),
                    tunnel: Arc::clone(&tunnel),
                    streams: Streams::default(),
                    credit: hello.credit.min(shared::credit::MAX_WINDOW),
                    links: Mutex::default(),
                    link_count: AtomicUsize::new(0),
                    configured: AtomicBool::new(false),
                    draining: AtomicBool::new(false),
                    told: Mutex::default(),
                });
                state.name = session.agent_name.clone();
                state.lost = None;
                state.own_hosts = hello.fqdn.iter().cloned().chain([host.to_owned()]).collect();
                session
            }
        };
        let mut links = lock(&session.links);
        if links.len() >= 8 {
            return refuse("hello-invalid", "the session has 8 links already".into());
        }
        links.push((Arc::clone(link), Alive::new(self.settings.heartbeat_seconds * 1_000_000)));
        session.link_count.store(links.len(), Relaxed);
        drop(links);
        let replaced =
            if hello.session.is_none() { state.session.replace(Arc::clone(&session)) } else { None };
        let welcome = Welcome {
            version,
            gateway_version: crate::VERSION.into(),
            session: session.id.clone(),
            generation: state.generation,
            heartbeat_seconds: self.settings.heartbeat_seconds,
            max_streams: u32::try_from(self.settings.max_streams).unwrap_or(u32::MAX),
            links: self.settings.links,
            uptime_seconds: monotime::seconds(),
            landing_page_hash: state.page.as_ref().map(|page| page.hash.clone()),
            mappings_hash: (!state.hash.is_empty()).then(|| state.hash.clone()),
        };
        drop(state);
        if let Some(old) = replaced {
            log::info!("{} replaces session {}", session.label(), old.number);
            old.end(Reason::AgentReplaced, "replaced by a newer session of the same agent");
        } else if hello.session.is_none() {
            log::info!("{}: connected, version {:?}", session.label(), clean(&hello.agent_version));
        }
        Ok((session, welcome))
    }

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
        state.told = true;
        state.hash.clone_from(&config.hash);
        drop(state);
        self.rebuild();
        let first = !session.configured.swap(true, Relaxed);
        log::info!("{}: {count} mappings{}", session.label(), if first { ", serving" } else { "" });
        Ok(ConfigAck { request: config.request, hash: config.hash.clone(), routes: reports })
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
    fn rebuild(&self) {
        let mut routes = Routes::default();
        let mut ids = HashSet::new();
        // Held while the new table is put in place, so that of two changes the later one stays.
        let tunnels = lock(&self.tunnels);
        self.settings.fqdn.iter().for_each(|host| routes.reserve(host));
        for tunnel in tunnels.values() {
            let state = lock(&tunnel.state);
            state.own_hosts.iter().for_each(|host| routes.reserve(host));
            for (mapping, host) in &state.table {
                ids.insert(*mapping);
                let requests = self.requests.of(*mapping);
                routes.add(host, Target { tunnel: Arc::clone(tunnel), mapping: *mapping, requests });
            }
        }
        self.requests.keep(&ids);
        let mut place = self.routes.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        *place = Arc::new(routes);
    }

    fn routes(&self) -> Arc<Routes<Target>> {
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
                let agent = tunnel.agent_id.clone();
                tables.agents.push(Table { agent, rows: state.table.clone(), lost: state.lost });
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

    /// Who serves a host name now. Among several Agents the one with the fewest Streams, in turn when equal.
    pub(crate) fn choose(&self, host: &str) -> Choice {
        let routes = self.routes();
        let targets = routes.find(host);
        if targets.is_empty() {
            return Choice::Unknown;
        }
        let turn = if targets.len() > 1 { self.turn.fetch_add(1, Relaxed) } else { 0 };
        let mut best: Option<(usize, Arc<Session>, &Target)> = None;
        let mut lost_lately = false;
        let now = monotime::micros();
        for i in 0..targets.len() {
            let target = &targets[(turn + i) % targets.len()];
            let state = lock(&target.tunnel.state);
            match &state.session {
                Some(session) if session.serves() => {
                    let load = session.streams.len();
                    if best.as_ref().is_none_or(|(least, ..)| load < *least) {
                        best = Some((load, Arc::clone(session), target));
                    }
                }
                // Greeted, and its table is on its way; or draining, and its next Session is.
                Some(_) => lost_lately = true,
                None => {
                    let away = state.lost.map_or(u64::MAX, |lost| now.saturating_sub(lost));
                    lost_lately |= away < self.settings.hold_seconds * 1_000_000;
                }
            }
        }
        match best {
            Some((_, session, target)) => {
                Choice::Serve(session, target.mapping, Arc::clone(&target.requests))
            }
            None if lost_lately && self.settings.hold_seconds > 0 => Choice::Hold,
            None => Choice::Away,
        }
    }

    /// A Link is closed: its Streams end; with the last Link the Session does.
    pub(crate) fn link_closed(&self, link: &Arc<Link>, session: Option<&Arc<Session>>, why: &str) {
        lock(&self.greeting).retain(|(known, _)| !Arc::ptr_eq(known, link));
        let Some(session) = session else {
            log::info!("link {} closed before its greeting: {why}", link.name());
            return;
        };
        let left = {
            let mut links = lock(&session.links);
            links.retain(|(known, _)| !Arc::ptr_eq(known, link));
            session.link_count.store(links.len(), Relaxed);
            links.len()
        };
        let mut context = Context::default();
        for (number, visitor) in session.streams.all() {
            visitor.fail_on_link(number, link, &mut context);
        }
        context.settle();
        if left > 0 {
            log::info!("{}: link {} closed ({why}), {left} left", session.label(), link.name());
            return;
        }
        let mut state = lock(&session.tunnel.state);
        let current = state.session.as_ref().is_some_and(|current| Arc::ptr_eq(current, session));
        if current {
            state.session = None;
            state.lost = Some(monotime::micros());
        }
        drop(state);
        for (number, visitor) in session.streams.close() {
            visitor.fail(number, Reason::LinkLost, &mut context);
        }
        context.settle();
        if current {
            log::warn!("{}: disconnected: {why}", session.label());
        }
    }

    /// Once a second: Beats, dead Links, late greetings, Agents to forget.
    pub(crate) fn tick(&self) {
        let now = monotime::micros();
        let late: Vec<_> = lock(&self.greeting)
            .iter()
            .filter(|(_, at)| *at <= now)
            .map(|(link, _)| Arc::clone(link))
            .collect();
        for link in late {
            link.close_with(1002, &format!("no hello within {GREETING_SECONDS} s"));
        }
        let mut forget = Vec::new();
        let tunnels: Vec<_> = lock(&self.tunnels).values().cloned().collect();
        for tunnel in tunnels {
            let state = lock(&tunnel.state);
            if state.lost.is_some_and(|lost| now.saturating_sub(lost) > FORGET_AFTER) {
                forget.push(tunnel.agent_id.clone());
            }
            let Some(session) = state.session.clone() else { continue };
            drop(state);
            let mut dead = Vec::new();
            let mut beat = Vec::new();
            for (link, alive) in lock(&session.links).iter_mut() {
                match alive.look(link.signs(link.streams() > 0)) {
                    Verdict::Fine => {}
                    Verdict::Beat => beat.push(Arc::clone(link)),
                    Verdict::Dead => dead.push(Arc::clone(link)),
                }
            }
            for link in beat {
                link.beat();
                link.flush();
            }
            for link in dead {
                link.close("nothing has arrived for too long");
            }
        }
        if !forget.is_empty() {
            lock(&self.tunnels).retain(|id, _| !forget.contains(id));
            self.rebuild();
        }
    }

    /// Tells every Agent that no new Streams come.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Relaxed);
        for session in self.sessions() {
            if let Some(link) = session.choose_link() {
                link.control(&ToAgent::Draining.to_json());
                link.flush();
            }
        }
    }

    /// Ends every Session and joins the threads of all Links. Returns the names of threads that panicked.
    pub(crate) fn stop(&self) -> Vec<&'static str> {
        for session in self.sessions() {
            if let Some(link) = session.choose_link() {
                link.control(&ToAgent::Bye.to_json());
                link.flush();
            }
            session.end(Reason::Draining, "the gateway is shutting down");
        }
        for (link, _) in lock(&self.greeting).drain(..) {
            link.close_with(1001, "the gateway is shutting down");
        }
        let threads = std::mem::take(&mut *lock(&self.threads));
        threads.into_iter().flat_map(Threads::join).collect()
    }

    pub(crate) fn sessions(&self) -> Vec<Arc<Session>> {
        let tunnels = lock(&self.tunnels);
        tunnels.values().filter_map(|tunnel| lock(&tunnel.state).session.clone()).collect()
    }

    /// How many there are of each.
    pub(crate) fn counts(&self) -> Counts {
        let sessions = self.sessions();
        Counts {
            agents: sessions.iter().filter(|s| s.serves()).count(),
            links: sessions.iter().map(|s| s.link_count.load(Relaxed)).sum(),
            streams: sessions.iter().map(|s| s.streams.len()).sum(),
            routes: self.routes().len(),
        }
    }

    /// Most Streams of one Session.
    pub(crate) fn max_streams(&self) -> usize {
        self.settings.max_streams
    }
}

fn report_panics(names: &[&'static str]) {
    for name in names {
        log::error!("a link's {name} thread panicked; the link is closed");
    }
}

/// 128 random bits: a Session's number must not be guessable.
fn new_session_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Text from an Agent for our log: printable, short.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}
