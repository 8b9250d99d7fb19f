//! What all parts of the Gateway share, and the threads that make it run.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use shared::credit::Budget;
use shared::frame::Side;
use shared::head::RequestHead;
use shared::hello::{RouteNews, ToAgent};
use shared::link::Link;
use shared::logging::Ring;
use shared::monotime;
use shared::notify::Vital;
use shared::poll::{Handle, Poller, Table};
use shared::stop::Stop;
use shared::threads::{self, lock};
use socket2::{Domain, Protocol, Socket, Type};

use crate::admission::{self, Admission};
use crate::caddy::{self, Caddy, reconcile};
use crate::config::Config;
use crate::desk::{self, Desk};
use crate::ingress::{self, Ingress};
use crate::logs::Feed;
use crate::metrics;
use crate::places::{Bounds, Queue, Seats};
use crate::tunnels::{Choice, Counts, Session, TunnelSettings, Tunnels};
use crate::update::{self, Update};
use crate::uplink::Uplink;
use crate::visitor::Visitor;

/// Connections that the kernel keeps until we accept them.
const BACKLOG: i32 = 4096;
/// How long, when the daemon stops, a connection may take to send its first request.
const FIRST_REQUEST: Duration = Duration::from_secs(2);
/// The timer comes round every second; microseconds after which it counts as hanging.
const TIMER_LATE: u64 = 10_000_000;
/// How often the timer comes round …
const TICK: Duration = Duration::from_secs(1);
/// … and while a Link's answer is outstanding.
const TICK_PRESSING: Duration = Duration::from_millis(200);
/// Descriptors kept free of visitors, for Links, the log and what the system needs.
const RESERVED_DESCRIPTORS: u64 = 64;

/// Shared by all threads.
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) budget: Budget,
    pub(crate) poller: Handle,
    pub(crate) visitors: Table<Visitor>,
    pub(crate) tunnels: Tunnels,
    pub(crate) admission: Admission,
    pub(crate) desk: Desk,
    pub(crate) feed: Feed,
    pub(crate) caddy: Caddy,
    pub(crate) update: Update,
    pub(crate) counters: metrics::Counters,
    /// Requests that wait for an Agent.
    pub(crate) held: AtomicUsize,
    held_tokens: Mutex<Vec<usize>>,
    /// Where the ingress listens.
    address: SocketAddr,
    /// Most connections and requests at a time.
    pub(crate) bounds: Bounds,
    /// Who has the places.
    pub(crate) seats: Arc<Seats>,
    /// Who gives way next.
    pub(crate) queue: Mutex<Queue>,
    /// When it was last said that there is not enough room, microseconds.
    pub(crate) said_full: AtomicU64,
    draining: AtomicBool,
    /// The listener is closed.
    pub(crate) door_closed: AtomicBool,
    /// When the timer last came round, microseconds.
    ticked: AtomicU64,
    request_prefix: u32,
    request_count: AtomicU64,
}

impl Core {
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Where the ingress listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A label that is unique in this process and very likely elsewhere.
    pub(crate) fn next_request_id(&self) -> String {
        format!("{:08x}-{:06x}", self.request_prefix, self.request_count.fetch_add(1, Relaxed))
    }

    /// What to do with a request. After a restart the names of Agents that are still dialling are known from before;
    /// whoever dials must get through on such a name as well, for it may be ours, under a wildcard.
    pub(crate) fn choose(&self, head: &RequestHead<'_>) -> Choice {
        let host = head.host.name();
        match self.tunnels.choose(host) {
            Choice::Unknown if admission::asks_for_link(head) => Choice::Unknown,
            Choice::Unknown if self.awaits(host) => self.tunnels.choose_awaited(),
            // Nobody is awaited, perhaps because the table came between the two looks.
            Choice::Unknown => self.tunnels.choose(host),
            choice => choice,
        }
    }

    /// Whether a name (lower case) that nobody publishes is remembered of an Agent that has not sent its table.
    pub(crate) fn awaits(&self, host: &str) -> bool {
        !self.tunnels.is_own(host) && lock(&self.caddy.known).awaits(host, |agent| self.tunnels.told(agent))
    }

    /// A request waits for its Agent.
    pub(crate) fn note_held(&self, token: usize) {
        lock(&self.held_tokens).push(token);
    }

    /// A mapping table came into force, or a Link answered: requests that waited for it may go on.
    pub(crate) fn resume_held(&self) {
        for token in std::mem::take(&mut *lock(&self.held_tokens)) {
            self.poller.resume(token);
        }
    }

    /// A connection is over. Its token is free at once; events still under way for it are harmless to its successor.
    pub(crate) fn forget(&self, token: usize) {
        self.visitors.remove(token);
        self.poller.resume(ingress::LISTENER);
    }

    /// Tells an Agent what Caddy does with its hosts, unless it knows.
    pub(crate) fn route_news(&self, session: &Session) {
        session.tell_if_new("routes", || {
            let routes = self.caddy.route_reports(&session.tunnel.agent_id, session.tunnel.table());
            ToAgent::Routes(RouteNews { routes, caddy: self.caddy.report() }).to_json()
        });
    }

    /// Caddy sees a mapping, or itself, in another light than before.
    pub(crate) fn routes_changed(&self) {
        for session in self.tunnels.sessions() {
            self.route_news(&session);
        }
    }

    /// Tells an Agent how far the last update has got, unless it knows.
    pub(crate) fn tell_update(&self, session: &Session) {
        session.tell_if_new("update-outcome", || ToAgent::UpdateOutcome(self.update.last()).to_json());
    }

    /// Tells Agents what did not reach them.
    fn tell_again(&self) {
        for session in self.tunnels.sessions().iter().filter(|session| session.take_untold()) {
            self.route_news(session);
            self.tell_update(session);
        }
    }

    /// An update has got further.
    pub(crate) fn update_news(&self) {
        self.tunnels.sessions().iter().for_each(|session| self.tell_update(session));
    }

    /// The memory budget is used up.
    pub(crate) fn over_budget(&self) {
        self.poller.resume(ingress::OVER_BUDGET);
    }

    /// Takes a connection whose WebSocket handshake is done.
    pub(crate) fn adopt_link(
        self: &Arc<Self>,
        socket: TcpStream,
        host: &str,
        early: Vec<u8>,
    ) -> io::Result<()> {
        let link =
            Link::new(self.tunnels.next_link_name(), Side::Gateway, socket, None, self.poller.clone())?;
        self.tunnels.expect_greeting(&link);
        let receiver = Uplink::new(Arc::clone(self), host.to_owned());
        let threads = link.start(early, receiver)?;
        self.tunnels.keep_threads(threads);
        Ok(())
    }
}

/// A running Gateway.
pub struct Gateway {
    core: Arc<Core>,
    address: SocketAddr,
    ingress: JoinHandle<()>,
    timer: JoinHandle<()>,
    caddy: JoinHandle<()>,
    timer_stop: Stop,
    updates: JoinHandle<()>,
    feed: JoinHandle<()>,
    desk: desk::Threads,
}

/// Starts a Gateway: binds its port and runs until [`Gateway::stop`]. `log` is what its Agents may read.
pub fn start(config: Config, log: Arc<Ring>) -> io::Result<Gateway> {
    let listener = bind_as_told(&config)?;
    start_on(config, listener, log)
}

fn bind_as_told(config: &Config) -> io::Result<TcpListener> {
    bind(config.bind_address, config.port).map_err(|e| {
        let hint = if e.kind() == io::ErrorKind::AddrInUse {
            "; another program has it: set Gateway__Port"
        } else {
            ""
        };
        io::Error::new(
            e.kind(),
            format!("cannot listen on {}, port {}: {e}{hint}", config.bind_address, config.port),
        )
    })
}

/// [`start`] on a socket that somebody else has bound.
pub fn start_on(config: Config, listener: TcpListener, log: Arc<Ring>) -> io::Result<Gateway> {
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let poller = Poller::new()?;
    let descriptors = shared::os::raise_descriptor_limit();
    let available =
        usize::try_from(descriptors.saturating_sub(RESERVED_DESCRIPTORS).max(16)).unwrap_or(usize::MAX);
    let bounds = Bounds::new(config.max_connections, available, config.max_streams);
    if bounds.places < config.max_connections {
        log::warn!(
            "the system allows {descriptors} descriptors: {} connections at a time instead of {} (raise LimitNOFILE)",
            bounds.places,
            config.max_connections
        );
    }
    let core = Arc::new(Core {
        budget: Budget::new(config.memory_budget),
        poller: poller.handle(),
        visitors: Table::default(),
        tunnels: Tunnels::new(TunnelSettings {
            heartbeat_seconds: config.heartbeat_seconds,
            links: config.links,
            max_streams: config.max_streams,
            max_agents: config.max_agents,
            hold_seconds: config.hold_seconds,
            fqdn: config.gateway_fqdn.clone(),
        }),
        admission: Admission::default(),
        desk: Desk::new(),
        feed: Feed::new(log),
        update: Update::new(&config),
        counters: metrics::Counters::default(),
        caddy: Caddy::new(caddy::Settings::new(&config, address)),
        held: AtomicUsize::new(0),
        held_tokens: Mutex::default(),
        address,
        bounds,
        seats: Arc::default(),
        queue: Mutex::default(),
        said_full: AtomicU64::new(0),
        draining: AtomicBool::new(false),
        door_closed: AtomicBool::new(false),
        ticked: AtomicU64::new(monotime::micros()),
        request_prefix: rand::random(),
        request_count: AtomicU64::new(1),
        config,
    });
    let ingress = Ingress::new(Arc::clone(&core), listener)?;
    let ingress = threads::spawn("ingress", move || ingress.run(poller))?;
    let timer_stop = Stop::new();
    let timer = {
        let (core, stop) = (Arc::clone(&core), timer_stop.clone());
        threads::spawn("timer", move || {
            let mut pressing = false;
            while !stop.wait_timeout(if pressing { TICK_PRESSING } else { TICK }) {
                pressing = core.tunnels.tick();
                // Whoever began to wait just when what he waited for came.
                core.resume_held();
                core.tell_again();
                core.ticked.store(monotime::micros(), Relaxed);
            }
        })?
    };
    let caddy = {
        let core = Arc::clone(&core);
        threads::spawn("caddy", move || reconcile::run(&core))?
    };
    let updates = {
        let (core, stop) = (Arc::clone(&core), timer_stop.clone());
        threads::spawn("updates", move || {
            while !stop.wait_timeout(update::LOOK) {
                if core.update.look() {
                    core.update_news();
                }
            }
        })?
    };
    let feed = core.feed.start()?;
    let desk = Desk::start(&core)?;
    Ok(Gateway { core, address, ingress, timer, caddy, timer_stop, updates, feed, desk })
}

/// Listens on the address; where the system has no IPv6, `::` falls back to `0.0.0.0`.
fn bind(address: IpAddr, port: u16) -> io::Result<TcpListener> {
    match listen(SocketAddr::new(address, port)) {
        Err(e) if address == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && e.kind() != io::ErrorKind::AddrInUse => {
            listen(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port))
        }
        result => result,
    }
}

/// As `TcpListener::bind`, with a longer queue: at the bound of connections we stop accepting, and whoever comes then
/// should wait rather than be dropped.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl Gateway {
    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What must go on for visitors to be served: the thread that accepts and answers them, and the one that keeps the
    /// tunnels alive.
    pub fn vitals(&self) -> Vec<Vital> {
        let core = Arc::clone(&self.core);
        let timer = move || monotime::micros().saturating_sub(core.ticked.load(Relaxed)) < TIMER_LATE;
        vec![Vital::poller("ingress", self.core.poller.clone()), Vital::new("timer", || {}, timer)]
    }

    /// For the service manager: how it is doing, as of each call.
    pub fn status(&self) -> impl Fn() -> String + Send + 'static {
        let (core, address) = (Arc::clone(&self.core), self.address);
        move || {
            let counts = core.tunnels.counts();
            format!(
                "listening on {address}: {} Agents, {} routes, {} running requests",
                counts.agents, counts.routes, counts.streams
            )
        }
    }

    /// How many Agents, Links, Streams and routes there are.
    pub fn counts(&self) -> Counts {
        self.core.tunnels.counts()
    }

    /// Stops taking new requests, ends those that would not end by themselves, lets the others finish for up to `drain`,
    /// and ends everything. Returns the names of threads that had panicked: none, if all is well.
    pub fn stop(self, drain: Duration) -> Vec<&'static str> {
        let core = &self.core;
        // No more are accepted; who has been gets an answer to the request that is on its way.
        core.poller.resume(ingress::CLOSE);
        let patience = Instant::now() + FIRST_REQUEST.min(drain);
        while Instant::now() < patience
            && (!core.door_closed.load(Relaxed)
                || core.visitors.all().iter().any(|visitor| visitor.is_fresh()))
        {
            // The timer's stop is not set yet, so this is a pause.
            self.timer_stop.wait_timeout(Duration::from_millis(5));
        }
        core.draining.store(true, Relaxed);
        core.poller.resume(ingress::DRAIN);
        core.tunnels.drain();
        let deadline = Instant::now() + drain;
        core.tunnels.part();
        while core.tunnels.counts().streams > 0 && Instant::now() < deadline {
            // A WebSocket that has just been opened, an answer that has gone on for long.
            core.tunnels.part();
            self.timer_stop.wait_timeout(Duration::from_millis(50));
        }
        let mut panicked = core.tunnels.stop();
        core.poller.stop();
        core.caddy.stop();
        self.timer_stop.trigger();
        core.feed.stop();
        panicked.extend(self.desk.stop(core));
        for (name, thread) in [
            ("ingress", self.ingress),
            ("timer", self.timer),
            ("updates", self.updates),
            ("log-feed", self.feed),
            ("caddy", self.caddy),
        ] {
            if thread.join().is_err() {
                panicked.push(name);
            }
        }
        panicked
    }
}
