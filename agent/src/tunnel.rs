//! The tunnel to one Gateway: dials, greets, keeps the Links alive, and never gives up.
//!
//! ```text
//!   Connecting ─▶ Authenticating ─▶ Syncing ─▶ Connected ──lost──▶ Reconnecting ─▶ Connecting …
//! ```
//! One thread per Gateway URL runs this; everything that happens reaches it as an [`Event`].

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender, bounded};
use rustls::ClientConfig;
use shared::backoff;
use shared::control::{LandingPage, WatchLogs};
use shared::frame::Side;
use shared::hello::{
    CLOSE_REPLACED, Config, ConfigAck, GREETING_SECONDS, Hello, RouteReport, ToAgent, ToGateway, VERSION_MAX,
    VERSION_MIN, Welcome,
};
use shared::link::{Link, Threads};
use shared::monotime;
use shared::threads::{self, lock};
use time::OffsetDateTime;

use crate::agent::Core;
use crate::asks::{Asks, Urgency};
use crate::config::GatewayUrl;
use crate::control::{AskFault, TunnelState, TunnelStatus};
use crate::dial::{self, DialFault, Step};
use crate::downlink::Downlink;
use crate::events;
use crate::news::News;
use crate::session::Session;

/// Events that may wait; more control messages than that, and the Gateway is not sane.
const MOST_EVENTS: usize = 1024;
/// The mapping table must be acknowledged after this long.
const SYNC_TIME: Duration = Duration::from_secs(30);
/// Right after a loss the Gateway's address is tried this often …
const PROBE_SOON: Duration = Duration::from_secs(1);
/// … for this long,
const SOON: Duration = Duration::from_secs(60);
/// then this often.
const PROBE_LATER: Duration = Duration::from_secs(15);
/// How long to wait for the Gateway's answer to `draining`.
const DRAIN_ANSWER: Duration = Duration::from_secs(2);
/// No Stream for this long after it, and none is coming.
const DRAIN_QUIET: Duration = Duration::from_millis(100);
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
    /// A further Link was dialled.
    Joined(Result<(Arc<Link>, Threads), DialFault>),
    /// The mapping table changed.
    TableChanged,
    /// The operator wants a fresh connection.
    Reconnect,
    /// The daemon stops; running exchanges may go on until then.
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
        };
        (Arc::new(tunnel), receiver)
    }

    /// Tells the tunnel something.
    pub(crate) fn tell(&self, event: Event) {
        if self.sender.send(event).is_err() {
            log::debug!("tunnel {} has ended", self.number);
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
            session.links().into_iter().next().ok_or(AskFault::NotConnected)?
        };
        self.asks.ask(&link, kind, urgency, patience, question)
    }

    /// Brings the landing page over if the Gateway holds another. Its acknowledgement is noted when it comes.
    fn offer_page(&self, link: &Link, held: Option<&str>) {
        let page = self.core.pages.now();
        self.news.holds_page(held.map(str::to_owned));
        if page.as_ref().map(|page| page.hash.as_str()) == held {
            return;
        }
        let message = ToGateway::LandingPage(LandingPage {
            request: 0,
            html: page.as_ref().map(|page| page.html.clone()),
            saved_at: page.as_ref().map(|page| page.saved_at.clone()),
        });
        if !link.later(&message.to_json()) {
            log::warn!("gateway {}: no room to send the landing page", self.url);
        }
        link.flush();
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
                Ok((session, welcome)) => {
                    (attempt, before) = (0, true);
                    let began = Instant::now();
                    let meter = Arc::clone(&session);
                    let row =
                        self.core.recorder.connected(&origin(&self.url), Box::new(move || meter.traffic()));
                    let end = self.serve(&session, &welcome, events, &mut threads);
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
                Ok(Event::Joined(Ok((link, _)))) => link.close("the session is over"),
                Ok(
                    Event::Message(..) | Event::LinkClosed(..) | Event::TableChanged | Event::Joined(Err(_)),
                ) => {}
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

    /// Dials one Link and starts its threads.
    fn open_link(self: &Arc<Self>, session: &Arc<Session>) -> Result<(Arc<Link>, Threads), DialFault> {
        let dialled =
            dial::dial(&self.url, self.tls.as_ref(), &self.core.config.api_key, &self.core.resolver)?;
        let name = format!("g{}.{}", self.number, self.links_made.fetch_add(1, Relaxed));
        let start = || {
            let poller = self.core.poller.clone();
            let link = Link::new(name, Side::Agent, dialled.socket, dialled.tls, poller)?;
            let receiver = Downlink::new(
                Arc::clone(&self.core),
                Arc::clone(session),
                self.sender.clone(),
                Arc::clone(&self.asks),
                Arc::clone(&self.news),
            );
            let threads = link.start(dialled.early, receiver)?;
            Ok((link, threads))
        };
        start().map_err(|e: std::io::Error| DialFault { step: Step::Tcp, text: e.to_string() })
    }

    fn hello(&self, link: &Link, session: Option<String>) {
        let core = &self.core;
        let hello = Hello {
            min_version: VERSION_MIN,
            max_version: VERSION_MAX,
            agent_version: crate::VERSION.into(),
            agent_id: core.agent_id.clone(),
            agent_name: core.config.name.clone(),
            fqdn: core.config.gateway_fqdn.clone(),
            session,
            credit: core.request_credit,
            landing_page_hash: core.pages.hash(),
            mappings_hash: Some(core.targets.offer().hash),
        };
        link.control(&ToGateway::Hello(hello).to_json());
        // Learn the round trip at once: windows grow by it.
        link.beat();
        link.flush();
    }

    fn send_table(&self, link: &Link) {
        let offer = self.core.targets.offer();
        let config = Config { request: offer.version, hash: offer.hash, mappings: offer.mappings };
        link.control(&ToGateway::Config(config).to_json());
        link.flush();
    }

    /// Dials, greets and brings the mapping table over.
    fn establish(
        self: &Arc<Self>,
        events: &Receiver<Event>,
        all_threads: &mut Vec<(Arc<Link>, Threads)>,
    ) -> Result<(Arc<Session>, Welcome), Failure> {
        while let Ok(event) = events.try_recv() {
            match event {
                Event::Stop { .. } => return Err(Failure::Stop),
                // A further Link for a Session that is over.
                Event::Joined(Ok((link, _))) => link.close("the session is over"),
                // Of that Session too; or a change of the table, which is about to be sent.
                _ => {}
            }
        }
        let session = Arc::new(Session::new(self.core.request_credit));
        let (link, threads) = self.open_link(&session)?;
        all_threads.push((Arc::clone(&link), threads));
        self.set_state(TunnelState::Authenticating);
        self.hello(&link, None);
        let mut welcome: Option<Welcome> = None;
        let mut deadline = Instant::now() + Duration::from_secs(GREETING_SECONDS);
        let give_up = |step, text: String| {
            session.end("giving up");
            link.close(&text);
            Err(Failure::Fault(DialFault { step, text }))
        };
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match events.recv_timeout(left) {
                Err(_) => {
                    let what = if welcome.is_some() { "the mapping table" } else { "our greeting" };
                    return give_up(Step::Greeting, format!("the gateway does not answer {what}"));
                }
                Ok(Event::Stop { .. }) => {
                    session.end("the agent is shutting down");
                    link.close("the agent is shutting down");
                    return Err(Failure::Stop);
                }
                Ok(Event::LinkClosed(closed, why)) if Arc::ptr_eq(&closed, &link) => {
                    return give_up(Step::Greeting, format!("the gateway closed the connection: {why}"));
                }
                Ok(Event::Message(from, message)) if Arc::ptr_eq(&from, &link) => match *message {
                    ToAgent::Welcome(answer) => {
                        session.allow_streams(answer.max_streams as usize);
                        session.add(&link, heartbeat(&self.core, &answer));
                        {
                            let mut state = lock(&self.state);
                            state.status.gateway_version = Some(answer.gateway_version.clone());
                            state.status.gateway_uptime = Some(answer.uptime_seconds);
                            state.session = Some(Arc::clone(&session));
                        }
                        self.set_state(TunnelState::Syncing);
                        self.send_table(&link);
                        deadline = Instant::now() + SYNC_TIME;
                        welcome = Some(answer);
                    }
                    ToAgent::Refused(refused) => {
                        return give_up(Step::Greeting, format!("{} ({})", refused.message, refused.code));
                    }
                    ToAgent::ConfigAck(ack) => {
                        if let Some(welcome) = welcome {
                            self.connected(&ack, &welcome);
                            self.offer_page(&link, welcome.landing_page_hash.as_deref());
                            return Ok((session, welcome));
                        }
                        return give_up(Step::Greeting, "the gateway answers what was not asked".into());
                    }
                    ToAgent::Draining => session.drain(),
                    ToAgent::Bye => return give_up(Step::Greeting, "the gateway is shutting down".into()),
                    other => self.strange(&other),
                },
                Ok(Event::Joined(Ok((link, _)))) => link.close("the session is over"),
                // Of an earlier Session; or a change of the table, which is about to be sent anyway.
                Ok(_) => {}
            }
        }
    }

    /// Lets the Gateway send lines of its log while somebody here listens.
    fn watch_logs(&self, session: &Session) {
        let (news, wanted) = (&self.news, self.core.hub.has_listeners());
        if news.watching.load(Relaxed) == wanted || news.cannot_watch.load(Relaxed) {
            return;
        }
        let Some(link) = session.links().into_iter().next() else { return };
        news.watching.store(wanted, Relaxed);
        let wish = WatchLogs { on: wanted, after: news.last_line() };
        link.control(&ToGateway::WatchLogs(wish).to_json());
        link.flush();
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

    fn connected(&self, ack: &ConfigAck, welcome: &Welcome) {
        self.note_ack(ack);
        {
            let mut state = lock(&self.state);
            state.status.last_connected = Some(OffsetDateTime::now_utc());
            state.status.connected_since = Some(Instant::now());
            state.status.last_error = None;
            state.status.reconnect_attempts = 0;
        }
        self.set_state(TunnelState::Connected);
        log::info!(
            "gateway {}: connected, version {}, {} mappings in force",
            self.url,
            welcome.gateway_version,
            ack.routes.iter().filter(|r| r.error.is_none()).count()
        );
    }

    fn note_ack(&self, ack: &ConfigAck) {
        for route in &ack.routes {
            if let Some(error) = &route.error {
                log::warn!("gateway {}: mapping {}: {error}", self.url, route.id);
            }
        }
        self.news.acknowledged(&ack.routes);
        let mut state = lock(&self.state);
        state.acknowledged = Some(ack.request);
        state.routes.clone_from(&ack.routes);
        drop(state);
        self.acknowledged.notify_all();
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

    /// Keeps an established Session going until it ends.
    fn serve(
        self: &Arc<Self>,
        session: &Arc<Session>,
        welcome: &Welcome,
        events: &Receiver<Event>,
        all_threads: &mut Vec<(Arc<Link>, Threads)>,
    ) -> End {
        let wanted = usize::from(self.core.config.links.unwrap_or(welcome.links).clamp(1, 8));
        let mut joining = false;
        let mut join_failures = 0;
        let mut greeting: Option<Arc<Link>> = None;
        let mut next_join = Instant::now();
        let mut next_tick = Instant::now() + Duration::from_secs(1);
        let (mut mono, mut wall) = (Instant::now(), SystemTime::now());
        loop {
            self.beat();
            let now = Instant::now();
            if !joining && session.links().len() < wanted && now >= next_join && !session.is_draining() {
                joining = self.join_link(session, welcome);
                next_join = now + Duration::from_secs(1);
            }
            if now >= next_tick {
                next_tick = now + Duration::from_secs(1);
                if slept(mono, wall) {
                    log::info!("gateway {}: the machine has slept; checking the tunnel", self.url);
                    for link in session.links() {
                        link.beat();
                        link.flush();
                    }
                }
                (mono, wall) = (Instant::now(), SystemTime::now());
                session.tick();
                self.watch_logs(session);
            }
            let event = match events.recv_timeout(next_tick.saturating_duration_since(now)) {
                Ok(event) => event,
                Err(crossbeam_channel::RecvTimeoutError::Timeout) => continue,
                Err(crossbeam_channel::RecvTimeoutError::Disconnected) => return End::Stop,
            };
            match event {
                Event::Message(link, message) => match *message {
                    ToAgent::Welcome(_) => {
                        session.add(&link, heartbeat(&self.core, welcome));
                        (joining, join_failures) = (false, 0);
                    }
                    ToAgent::Refused(refused) => {
                        log::warn!("gateway {}: a further link was refused: {}", self.url, refused.message);
                        link.close(&refused.message);
                        if refused.code == "session-unknown" {
                            session.end("the gateway does not know the session");
                        }
                    }
                    ToAgent::ConfigAck(ack) => self.note_ack(&ack),
                    ToAgent::Draining => {
                        log::info!("gateway {}: it is shutting down", self.url);
                    }
                    ToAgent::Bye => session.end("the gateway is shutting down"),
                    other => self.strange(&other),
                },
                Event::LinkClosed(link, why) => {
                    let left = session.lose(&link);
                    if left == 0 {
                        let replaced = link.close_code() == CLOSE_REPLACED;
                        return if replaced { End::Replaced } else { End::Lost(why) };
                    }
                    if greeting.as_ref().is_some_and(|g| Arc::ptr_eq(g, &link)) {
                        joining = false;
                        join_failures += 1;
                    }
                    log::info!("gateway {}: link {} closed ({why}), {left} left", self.url, link.name());
                }
                Event::Joined(result) => {
                    match result {
                        Ok((link, threads)) => {
                            all_threads.push((Arc::clone(&link), threads));
                            self.hello(&link, Some(welcome.session.clone()));
                            // Not another one before this one is welcome, or closed.
                            greeting = Some(link);
                        }
                        Err(fault) => {
                            joining = false;
                            join_failures += 1;
                            log::info!("gateway {}: a further link failed: {fault}", self.url);
                        }
                    }
                    next_join = Instant::now()
                        + backoff::delay(join_failures, Duration::from_secs(1), Duration::from_secs(60), 0.0);
                }
                Event::TableChanged => match session.links().first() {
                    Some(link) => self.send_table(link),
                    None => log::debug!("the table goes out with the next session"),
                },
                Event::Reconnect => {
                    log::info!("gateway {}: reconnecting as asked", self.url);
                    return End::Reconnect;
                }
                Event::Stop { until } => {
                    self.drain(session, events, until);
                    return End::Stop;
                }
            }
        }
    }

    /// Dials a further Link in a thread of its own, because events must not wait for that.
    fn join_link(self: &Arc<Self>, session: &Arc<Session>, _welcome: &Welcome) -> bool {
        let (tunnel, session) = (Arc::clone(self), Arc::clone(session));
        let dial = move || {
            let result = tunnel.open_link(&session);
            tunnel.tell(Event::Joined(result));
        };
        match threads::spawn(format!("g{}-join", self.number), dial) {
            Ok(_detached) => true, // Ends by itself: every step of dialling has a deadline.
            Err(e) => {
                log::warn!("no thread for a further link: {e}");
                false
            }
        }
    }

    /// Takes no new Streams and lets running ones finish.
    fn drain(&self, session: &Session, events: &Receiver<Event>, until: Instant) {
        session.drain();
        if let Some(link) = session.links().first() {
            link.control(&ToGateway::Draining.to_json());
            link.flush();
        }
        // The Gateway answers on every Link when it opens no more Streams; one may have been opened just before.
        let patience = (Instant::now() + DRAIN_ANSWER).min(until);
        let mut answered = 0;
        let mut quiet = Instant::now();
        while Instant::now() < until && !session.links().is_empty() {
            let now = Instant::now();
            let waits_for_answer = answered < session.links().len() && now < patience;
            if waits_for_answer || !session.streams.is_empty() {
                quiet = now;
            }
            if now >= quiet + DRAIN_QUIET {
                break;
            }
            match events.recv_timeout(DRAIN_QUIET / 4) {
                Ok(Event::LinkClosed(link, _)) => drop(session.lose(&link)),
                Ok(Event::Message(_, message)) if *message == ToAgent::Draining => answered += 1,
                // Nothing else matters any more; a further Link is closed with the others.
                Ok(Event::Joined(Ok((link, _)))) => link.close("the agent is shutting down"),
                _ => {}
            }
        }
        if let Some(link) = session.links().first() {
            link.control(&ToGateway::Bye.to_json());
            link.flush();
        }
    }
}

/// Why there is no Session.
enum Failure {
    Stop,
    Fault(DialFault),
}

impl From<DialFault> for Failure {
    fn from(fault: DialFault) -> Failure {
        Failure::Fault(fault)
    }
}

/// The shorter of what both sides want, microseconds.
fn heartbeat(core: &Core, welcome: &Welcome) -> u64 {
    core.config.heartbeat_seconds.min(welcome.heartbeat_seconds.max(1)) * 1_000_000
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
