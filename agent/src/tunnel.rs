//! The tunnel to one Gateway: dials, greets, keeps the Links alive, and never gives up.
//!
//! ```text
//!   Connecting ─▶ Authenticating ─▶ Syncing ─▶ Connected ──lost──▶ Reconnecting ─▶ Connecting …
//! ```
//! One thread per Gateway URL runs this; everything that happens reaches it as an [`Event`].

mod greeting;
mod serving;
mod wanted;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use rustls::ClientConfig;
use shared::backoff;
use shared::hello::{ConfigAck, RouteReport, ToAgent, ToGateway};
use shared::link::{Link, Threads};
use shared::mapping::MappingId;
use shared::monotime;
use shared::threads::lock;
use time::OffsetDateTime;

use crate::agent::Core;
use crate::asks::{Asks, Urgency};
use crate::config::GatewayUrl;
use crate::control::{AskFault, TunnelState, TunnelStatus};
use crate::dial::{self, DialFault, Step};
use crate::events;
use crate::news::News;
use crate::session::Session;
use greeting::Failure;

/// Events that may wait; more control messages than that, and the Gateway is not sane.
const MOST_EVENTS: usize = 1024;
/// Of these so many may be control messages: the end of a Link must always find room, because its thread is waited for.
pub(crate) const MOST_MESSAGES: usize = MOST_EVENTS - 128;
/// Right after a loss the Gateway's address is tried this often …
const PROBE_SOON: Duration = Duration::from_secs(1);
/// … for this long,
const SOON: Duration = Duration::from_secs(60);
/// then this often.
const PROBE_LATER: Duration = Duration::from_secs(15);
/// The thread comes round every second, or every `PROBE_LATER` while it waits; but a name with many addresses, none of
/// which answers, keeps it dialling. Microseconds after which it counts as hanging.
const HANGS: u64 = 300_000_000;
/// A Session that lasted this long was not one of two that replace each other all the time.
const STABLE: Duration = Duration::from_secs(120);
/// A wall clock that runs ahead of the monotonic one by this much: the machine has slept.
const SLEPT: Duration = Duration::from_secs(5);

/// What happens to a tunnel.
pub(crate) enum Event {
    /// A control message arrived.
    Message(Arc<Link>, Box<ToAgent>),
    /// A Link is closed.
    LinkClosed(Arc<Link>, String),
    /// A further Link was dialled, for this Session.
    Joined(Arc<Session>, Result<(Arc<Link>, Threads), DialFault>),
    /// Something that the Gateway should have may have changed: it is time to look.
    Look,
    /// The operator wants a fresh connection.
    Reconnect,
    /// The daemon stops; exchanges that still run may go on until then.
    Stop {
        /// Until when.
        until: Instant,
    },
}

/// Why a Session is over.
enum End {
    Lost(String),
    /// Another process with our identity took over.
    Replaced,
    Reconnect,
    Stop,
}

impl End {
    /// For the history.
    fn why(&self) -> &str {
        match self {
            End::Lost(why) => why,
            End::Replaced => "another Agent with the same identity took over",
            End::Reconnect => "the Operator asked for a fresh connection",
            End::Stop => "the Agent was stopped",
        }
    }
}

/// The tunnel to one Gateway.
pub(crate) struct Tunnel {
    core: Arc<Core>,
    number: usize,
    url: GatewayUrl,
    tls: Option<Arc<ClientConfig>>,
    sender: Sender<Event>,
    state: Mutex<State>,
    acknowledged: Condvar,
    links_made: AtomicU64,
    /// When the thread last came round, microseconds.
    beat: AtomicU64,
    asks: Arc<Asks>,
    news: Arc<News>,
    /// An [`Event::Look`] is under way, or was since the thread last looked.
    looks_soon: AtomicBool,
}

#[derive(Default)]
struct State {
    status: TunnelStatus,
    session: Option<Arc<Session>>,
    /// Version of the table that the Gateway last acknowledged.
    acknowledged: Option<u64>,
    routes: Vec<RouteReport>,
}

impl Tunnel {
    /// Prepares a tunnel; [`run`](Self::run) makes it work.
    pub(crate) fn new(
        core: Arc<Core>,
        number: usize,
        url: GatewayUrl,
        tls: Option<Arc<ClientConfig>>,
    ) -> (Arc<Tunnel>, Receiver<Event>) {
        let (sender, receiver) = bounded(MOST_EVENTS);
        let status = TunnelStatus { gateway_url: origin(&url), ..TunnelStatus::default() };
        let state = Mutex::new(State { status, ..State::default() });
        let tunnel = Tunnel {
            core,
            number,
            url,
            tls,
            sender,
            state,
            acknowledged: Condvar::new(),
            links_made: AtomicU64::new(0),
            beat: AtomicU64::new(monotime::micros()),
            asks: Arc::default(),
            news: Arc::default(),
            looks_soon: AtomicBool::new(false),
        };
        (Arc::new(tunnel), receiver)
    }

    /// Tells the tunnel something.
    pub(crate) fn tell(&self, event: Event) {
        if self.sender.send(event).is_err() {
            log::debug!("tunnel {} has ended", self.number);
        }
    }

    /// The Session, while there is one.
    pub(crate) fn session(&self) -> Option<Arc<Session>> {
        lock(&self.state).session.clone()
    }

    /// Something that the Gateway should have may have changed. Never waits; however many changes there are, one event
    /// is under way, and if there is no room for it, or nobody takes it, the thread looks within a second by itself.
    pub(crate) fn look(&self) {
        if self.looks_soon.swap(true, Relaxed) {
            return;
        }
        match self.sender.try_send(Event::Look) {
            Ok(()) | Err(TrySendError::Full(_)) => {}
            Err(TrySendError::Disconnected(_)) => log::debug!("tunnel {} has ended", self.number),
        }
    }

    /// The thread comes round.
    fn beat(&self) {
        self.beat.store(monotime::micros(), Relaxed);
    }

    /// Whether the thread has come round lately.
    pub(crate) fn is_alive(&self) -> bool {
        monotime::micros().saturating_sub(self.beat.load(Relaxed)) < HANGS
    }

    /// How it is doing.
    pub(crate) fn status(&self) -> TunnelStatus {
        let state = lock(&self.state);
        let mut status = state.status.clone();
        if let Some(session) = &state.session {
            let links = session.links();
            status.links = links.len();
            status.streams = session.streams.len();
            if let Some(link) = links.first() {
                status.rtt_ms = (link.rtt() > 0).then(|| link.rtt() as f64 / 1000.0);
                status.gateway_uptime =
                    (link.peer_uptime() > 0).then(|| link.peer_uptime()).or(status.gateway_uptime);
            }
        }
        status
    }

    /// Waits until the Gateway has acknowledged this version of the table, or a later one. `None`: it has not, or is
    /// not connected.
    pub(crate) fn wait_acknowledged(&self, version: u64, deadline: Instant) -> Option<Vec<RouteReport>> {
        let mut state = lock(&self.state);
        loop {
            if state.status.state != TunnelState::Connected {
                return None;
            }
            if state.acknowledged.is_some_and(|acknowledged| acknowledged >= version) {
                return Some(state.routes.clone());
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            let waited = self.acknowledged.wait_timeout(state, left);
            state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// What it has told by itself.
    pub(crate) fn news(&self) -> &News {
        &self.news
    }

    /// Asks the Gateway something, and waits for the answer.
    pub(crate) fn ask(
        &self,
        kind: &'static str,
        urgency: Urgency,
        patience: Duration,
        question: impl FnOnce(u64) -> ToGateway,
    ) -> Result<ToAgent, AskFault> {
        let link = {
            let state = lock(&self.state);
            let connected = state.status.state == TunnelState::Connected;
            let session = state.session.as_ref().filter(|_| connected).ok_or(AskFault::NotConnected)?;
            session.links.speaker().ok_or(AskFault::NotConnected)?
        };
        self.asks.ask(&link, kind, urgency, patience, question)
    }

    /// The tunnel's thread.
    pub(crate) fn run(self: &Arc<Self>, events: &Receiver<Event>) {
        let mut attempt = 0;
        let mut before = false;
        let mut replaced = 0;
        loop {
            self.beat();
            self.set_state(if before { TunnelState::Reconnecting } else { TunnelState::Connecting });
            let mut threads = Vec::new();
            let outcome = self.establish(events, &mut threads);
            let (step, text) = match outcome {
                Ok((session, welcome, wanted)) => {
                    (attempt, before) = (0, true);
                    let began = Instant::now();
                    let meter = Arc::clone(&session);
                    let row =
                        self.core.recorder.connected(&origin(&self.url), Box::new(move || meter.traffic()));
                    let end = self.serve(&session, &welcome, wanted, events, &mut threads);
                    self.core.recorder.disconnected(row, end.why());
                    self.disconnected(&session);
                    join(threads);
                    match end {
                        End::Stop => break,
                        End::Reconnect => continue,
                        End::Lost(why) => (Step::Tcp, format!("the tunnel was lost: {why}")),
                        End::Replaced => {
                            // Two processes that take over from one another without end help nobody.
                            attempt = replaced + 1;
                            replaced = if began.elapsed() < STABLE { attempt } else { 0 };
                            let text = "another Agent with the same identity took over: is it running twice, \
                                        or from a copy of its database?";
                            (Step::Greeting, text.to_owned())
                        }
                    }
                }
                Err(Failure::Stop) => {
                    join(threads);
                    break;
                }
                Err(Failure::Fault(fault)) => {
                    join(threads);
                    attempt += 1;
                    (fault.step, fault.text)
                }
            };
            let config = &self.core.config;
            let initial = Duration::from_secs(config.reconnect_delay);
            let max = Duration::from_secs(config.max_reconnect_delay);
            let delay = match (step, attempt) {
                // Trying often does not make a wrong key right.
                (Step::Key, _) => max,
                (_, attempt) => backoff::delay(attempt, initial, max, rand::random()),
            };
            log::warn!(
                "gateway {}: {text}; next try in {:.1} s at the latest",
                self.url,
                delay.as_secs_f64()
            );
            {
                let mut state = lock(&self.state);
                state.status.last_error = Some(text);
                state.status.reconnect_attempts = attempt;
            }
            self.set_state(if before { TunnelState::Reconnecting } else { TunnelState::Disconnected });
            if !self.wait(events, delay, step) {
                break;
            }
        }
        self.set_state(TunnelState::Disconnected);
    }

    /// Waits before the next try, but not longer than needed. `false`: the daemon stops.
    fn wait(&self, events: &Receiver<Event>, delay: Duration, step: Step) -> bool {
        let (start, wall) = (Instant::now(), SystemTime::now());
        let mut next_probe = start + PROBE_SOON;
        loop {
            self.beat();
            let now = Instant::now();
            if now >= start + delay || slept(start, wall) {
                return true;
            }
            let until = (start + delay).min(next_probe).saturating_duration_since(now);
            match events.recv_timeout(until) {
                Ok(Event::Stop { .. }) => return false,
                Ok(Event::Reconnect) => return true,
                // A further Link for a Session that is over.
                Ok(Event::Joined(_, Ok((link, _)))) => link.close("the session is over"),
                // Of that Session, too; or a change, which is looked for once there is another one.
                Ok(Event::Message(..) | Event::LinkClosed(..) | Event::Look | Event::Joined(_, Err(_))) => {}
                Err(crossbeam_channel::RecvTimeoutError::Timeout) => {}
                Err(crossbeam_channel::RecvTimeoutError::Disconnected) => return false,
            }
            let now = Instant::now();
            if now >= next_probe {
                let soon = now - start < SOON;
                // What was not reachable may be now. Behind a proxy only a real try can tell.
                let worth_a_try = match step {
                    Step::Tcp | Step::Dns => dial::answers(&self.url, &self.core.resolver),
                    Step::Http => soon,
                    Step::Tls | Step::Key | Step::Greeting => false,
                };
                if worth_a_try {
                    return true;
                }
                next_probe = Instant::now() + if soon { PROBE_SOON } else { PROBE_LATER };
            }
        }
    }

    /// A message that leads to nothing.
    fn strange(&self, message: &ToAgent) {
        match message {
            ToAgent::Unsupported { what } => {
                log::warn!("gateway {}: it does not know {what:?}: it is older", self.url);
            }
            other => log::debug!("gateway {}: unexpected message {other:?}", self.url),
        }
    }

    /// The Gateway has a table. Gives the mappings that stand otherwise than before.
    fn note_ack(&self, ack: &ConfigAck) -> Vec<(MappingId, RouteReport)> {
        for route in &ack.routes {
            if let Some(error) = &route.error {
                log::warn!("gateway {}: mapping {}: {error}", self.url, route.id);
            }
        }
        let changed = self.news.acknowledged(&ack.routes);
        let mut state = lock(&self.state);
        state.acknowledged = Some(ack.request);
        state.routes.clone_from(&ack.routes);
        drop(state);
        self.acknowledged.notify_all();
        changed
    }

    fn disconnected(&self, session: &Session) {
        session.end("the session is over");
        self.news.session_ended();
        let mut state = lock(&self.state);
        state.session = None;
        state.acknowledged = None;
        state.routes.clear();
        state.status.last_disconnected = Some(OffsetDateTime::now_utc());
        state.status.connected_since = None;
        state.status.links = 0;
    }

    fn set_state(&self, new: TunnelState) {
        let mut state = lock(&self.state);
        let changed = std::mem::replace(&mut state.status.state, new) != new;
        drop(state);
        self.acknowledged.notify_all();
        if changed {
            log::debug!("gateway {}: {new}", self.url);
            self.core.hub.publish(events::Event::StatusUpdate);
        }
    }
}

/// `scheme://host:port`, the port always present: what the status shows.
fn origin(url: &GatewayUrl) -> String {
    let host = if url.host.contains(':') { format!("[{}]", url.host) } else { url.host.clone() };
    format!("{}://{host}:{}", if url.tls { "wss" } else { "ws" }, url.port)
}

/// Whether the wall clock ran ahead of the monotonic clock, which stands still while the machine sleeps.
fn slept(mono: Instant, wall: SystemTime) -> bool {
    wall.elapsed().is_ok_and(|elapsed| elapsed > mono.elapsed() + SLEPT)
}

/// Closes what is still open, also Links that were never welcomed, and waits for their threads.
fn join(links: Vec<(Arc<Link>, Threads)>) {
    for (link, threads) in links {
        link.close("the session is over");
        for name in threads.join() {
            log::error!("a link's {name} thread panicked; the link is closed");
        }
    }
}
