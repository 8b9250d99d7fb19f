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

mod greeting;
mod published;
mod session;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, RwLock};

use shared::control::Sealed;
use shared::hello::{GREETING_SECONDS, ToAgent};
use shared::hostname::Hostname;
use shared::link::{Link, Threads};
use shared::mapping::MappingId;
use shared::metrics::{Registry, Row};
use shared::monotime;
use shared::reason::Reason;
use shared::threads::lock;

use crate::landing::Page;
use crate::routes::Routes;
use crate::visitor::Context;

pub(crate) use published::{Choice, Target};
pub(crate) use session::Session;

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
    /// Agents that publish anything, connected or not.
    publishing: AtomicUsize,
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
            publishing: AtomicUsize::new(0),
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

    /// A Link is closed: its Streams end; with the last Link the Session does.
    pub(crate) fn link_closed(&self, link: &Arc<Link>, session: Option<&Arc<Session>>, why: &str) {
        lock(&self.greeting).retain(|(known, _)| !Arc::ptr_eq(known, link));
        let Some(session) = session else {
            log::info!("link {} closed before its greeting: {why}", link.name());
            return;
        };
        let (_, left) = session.links.remove(link);
        session.link_count.store(left, Relaxed);
        if !link.in_doubt() {
            // What ended it may have ended the others. One in doubt was expected to end: they have been asked.
            session.links.doubt();
        }
        let mut context = Context::default();
        for (number, visitor) in session.streams.all() {
            visitor.fail_on_link(number, link, &mut context);
        }
        context.settle();
        session.forget_told(link);
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

    /// Once a second: Beats, dead Links, late greetings, Agents to forget. True: a Link's answer is outstanding, come
    /// again soon.
    pub(crate) fn tick(&self) -> bool {
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
        let mut pressing = false;
        let tunnels: Vec<_> = lock(&self.tunnels).values().cloned().collect();
        for tunnel in tunnels {
            let state = lock(&tunnel.state);
            if state.lost.is_some_and(|lost| now.saturating_sub(lost) > FORGET_AFTER) {
                forget.push(tunnel.agent_id.clone());
            }
            let Some(session) = state.session.clone() else { continue };
            drop(state);
            pressing |= session.links.tick();
        }
        if !forget.is_empty() {
            lock(&self.tunnels).retain(|id, _| !forget.contains(id));
            self.rebuild();
        }
        pressing
    }

    /// Tells every Agent that no new Streams come.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Relaxed);
        for session in self.sessions() {
            if let Some(link) = session.links.speaker() {
                link.control(&ToAgent::Draining(Sealed::default()).to_json());
                link.flush();
            }
        }
    }

    /// Ends the Streams that would not end by themselves.
    pub(crate) fn part(&self) {
        let mut context = Context::default();
        for session in self.sessions() {
            for (number, visitor) in session.streams.all() {
                visitor.part(number, &mut context);
            }
        }
        context.settle();
    }

    /// Ends every Session and joins the threads of all Links. Returns the names of threads that panicked.
    pub(crate) fn stop(&self) -> Vec<&'static str> {
        for session in self.sessions() {
            if let Some(link) = session.links.speaker() {
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

    /// Whether more than one Agent publishes anything.
    pub(crate) fn are_several(&self) -> bool {
        self.publishing.load(Relaxed) > 1
    }
}

fn report_panics(names: &[&'static str]) {
    for name in names {
        log::error!("a link's {name} thread panicked; the link is closed");
    }
}
