//! What all parts of the Agent share, and the threads that make it run.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use shared::control::{
    CertificateReport, GetCaddy, GetCertificate, GetLogs, LandingPage, Update, UpdateOutcome,
};
use shared::credit::{Budget, INITIAL, INITIAL_TIGHT};
use shared::hello::{RouteReport, ToAgent, ToGateway};
use shared::mapping::MappingId;
use shared::metrics::{Done, Page};
use shared::notify::Vital;
use shared::poll::{Handle, Poller, Table};
use shared::reason::Reason;
use shared::streams::Lookup;
use shared::threads;

use crate::asks::{ANSWER_TIME, Urgency};
use crate::config::Config;
use crate::control::{
    AskFault, CaddyAnswer, Control, LogPage, RouteState, TunnelState, TunnelStatus, UpdateReply,
};
use crate::events::{self, Hub};
use crate::history::{Limits, Recorder, RequestEntry};
use crate::landing::Pages;
use crate::metrics;
use crate::news;
use crate::pool::Pool;
use crate::resolver::Resolver;
use crate::session::Session;
use crate::store::Store;
use crate::targets::Targets;
use crate::tls::{self, UpstreamTls};
use crate::tunnel::{Event, Tunnel};
use crate::upstream::{Summary, Upstream};
use crate::upstreams::{self, Upstreams};

/// Of the time to stop, what is kept for requests that begin while others finish.
const LAST_TIME: Duration = Duration::from_secs(5);
/// How often is looked whether requests have finished.
const FINISH_ROUND: Duration = Duration::from_millis(20);
/// Most bytes of domain and target in a line of the log.
const LINE: usize = 512;

/// Shared by all threads that serve Streams.
pub(crate) struct Core {
    pub(crate) config: Config,
    /// Made at first start, kept in the database.
    pub(crate) agent_id: String,
    pub(crate) budget: Budget,
    pub(crate) poller: Handle,
    pub(crate) upstreams: Table<Upstream>,
    pub(crate) pool: Pool,
    pub(crate) resolver: Resolver,
    pub(crate) targets: Targets,
    /// The landing page for the Gateways' own hosts.
    pub(crate) pages: Pages,
    pub(crate) tls: UpstreamTls,
    /// Bytes of request body that a Gateway may send on a new Stream.
    pub(crate) request_credit: u32,
    /// Who has the admin page open.
    pub(crate) hub: Arc<Hub>,
    pub(crate) recorder: Arc<Recorder>,
    admin: OnceLock<SocketAddr>,
}

impl Core {
    /// Where our own admin page listens: never an upstream.
    pub(crate) fn admin_address(&self) -> SocketAddr {
        let unknown = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), self.config.port);
        self.admin.get().copied().unwrap_or(unknown)
    }

    /// The memory budget is used up.
    pub(crate) fn over_budget(&self) {
        self.poller.resume(upstreams::OVER_BUDGET);
    }

    /// Tells those who listen how mappings stand now.
    pub(crate) fn tell_standings(&self, changed: Vec<(MappingId, RouteReport)>) {
        for (id, report) in changed {
            let value = news::route_value(&report, self.recorder.last_request(id));
            self.hub.publish(events::Event::MappingStatusUpdate(value));
        }
    }

    /// A request is over.
    pub(crate) fn served(&self, summary: &Summary<'_>) {
        let line = summary.line;
        self.recorder.request(&RequestEntry {
            mapping: summary.mapping.id,
            called: Some(summary.mapping.called()),
            method: summary.method,
            target: &line[summary.mapping.domain.as_str().len()..],
            status: summary.status,
            request_bytes: summary.request_bytes,
            response_bytes: summary.response_bytes,
            counted: summary.counted,
            micros: summary.micros,
            visitor: summary.visitor,
            user_agent: summary.user_agent,
            failure: summary.failed.map(|reason| (reason, summary.failure)),
        });
        summary.requests.count(Done {
            status: summary.status,
            failed: summary.failed.is_some_and(|reason| reason != Reason::VisitorGone),
            bytes_in: summary.request_bytes,
            bytes_out: summary.response_bytes,
            micros: summary.micros,
        });
        if !log::log_enabled!(log::Level::Info) {
            return;
        }
        let failed = summary.failed.map_or_else(String::new, |r| format!(" {} at the {}", r.name(), r.hop()));
        log::info!(
            "{} {} {} {} via {} -> {}{failed}, {} B in, {} B out, {} ms",
            summary.request_id,
            summary.visitor,
            summary.method,
            crate::history::clip(line, LINE),
            summary.target,
            summary.status,
            summary.request_bytes,
            summary.response_bytes,
            summary.micros / 1000,
        );
    }
}

/// The tunnel side of a running Agent. The admin page is started beside it and talks to it as [`Control`].
pub struct Agent {
    tunnels: Arc<TunnelSet>,
    threads: Vec<JoinHandle<()>>,
    poller: JoinHandle<()>,
}

struct TunnelSet {
    core: Arc<Core>,
    store: Store,
    tunnels: Vec<Arc<Tunnel>>,
}

/// What does not let an Agent start.
#[derive(Debug)]
pub enum StartFault {
    /// The database.
    Store(crate::store::StoreError),
    /// The file of `Agent__GatewayCaFile`.
    CaFile(io::Error),
    /// Threads, descriptors.
    System(io::Error),
}

impl std::fmt::Display for StartFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StartFault::Store(e) => write!(f, "database: {e}"),
            StartFault::CaFile(e) => write!(f, "Agent__GatewayCaFile: {e}"),
            StartFault::System(e) => write!(f, "system: {e}"),
        }
    }
}

impl std::error::Error for StartFault {}

/// Starts dialling and serving; `hub` hears of it.
pub fn start(config: Config, store: Store, hub: Arc<Hub>) -> Result<Agent, StartFault> {
    shared::os::raise_descriptor_limit();
    let wants_tls = config.gateway_urls.iter().any(|url| url.tls);
    let gateway_tls = if wants_tls {
        Some(tls::gateway_config(config.gateway_ca_file.as_deref()).map_err(StartFault::CaFile)?)
    } else {
        None
    };
    let poller = Poller::new().map_err(StartFault::System)?;
    // By an Agent that was killed; only one runs on a database.
    store.close_connections().map_err(StartFault::Store)?;
    let limits = Limits::of(&config);
    let recorder = Recorder::start(store.clone(), limits, Arc::clone(&hub)).map_err(StartFault::Store)?;
    let core = Arc::new(Core {
        agent_id: store.agent_id().map_err(StartFault::Store)?,
        budget: Budget::new(config.memory_budget),
        poller: poller.handle(),
        upstreams: Table::default(),
        pool: Pool::default(),
        resolver: Resolver::new(),
        targets: Targets::default(),
        pages: Pages::default(),
        tls: UpstreamTls::default(),
        request_credit: if config.memory_budget < 32 * 1024 * 1024 { INITIAL_TIGHT } else { INITIAL },
        hub,
        recorder,
        admin: OnceLock::new(),
        config,
    });
    core.targets.replace(|| store.mappings()).map_err(StartFault::Store)?;
    core.pages.read(&store).map_err(StartFault::Store)?;
    let watcher = Upstreams::new(Arc::clone(&core));
    let poller = threads::spawn("upstreams", move || watcher.run(poller)).map_err(StartFault::System)?;
    let mut tunnels = Vec::new();
    let mut running = Vec::new();
    for (number, url) in core.config.gateway_urls.iter().enumerate() {
        let tls = if url.tls { gateway_tls.clone() } else { None };
        let (tunnel, events): (_, Receiver<Event>) = Tunnel::new(Arc::clone(&core), number, url.clone(), tls);
        let runner = Arc::clone(&tunnel);
        let thread = threads::spawn(format!("g{number}-tunnel"), move || runner.run(&events));
        running.push(thread.map_err(StartFault::System)?);
        tunnels.push(tunnel);
    }
    let tunnels = Arc::new(TunnelSet { core, store, tunnels });
    Ok(Agent { tunnels, threads: running, poller })
}

impl Agent {
    /// What has been asked for so far.
    pub fn recorder(&self) -> Arc<Recorder> {
        Arc::clone(&self.tunnels.core.recorder)
    }

    /// What the admin page may ask.
    pub fn control(&self) -> Arc<dyn Control> {
        Arc::clone(&self.tunnels) as Arc<dyn Control>
    }

    /// Waits until the requests are done that now run and may finish. Others may begin meanwhile; they are not waited for.
    fn let_finish(&self, until: Instant) {
        let sessions = self.tunnels.tunnels.iter().filter_map(|tunnel| tunnel.session());
        let mut running: Vec<(Arc<Session>, u32)> = sessions
            .flat_map(|session| session.may_finish().into_iter().map(move |n| (Arc::clone(&session), n)))
            .collect();
        if running.is_empty() {
            return;
        }
        log::info!("{} requests have their time; until they are done, new ones are served", running.len());
        while !running.is_empty() && Instant::now() < until {
            std::thread::park_timeout(FINISH_ROUND);
            running.retain(|(session, number)| {
                matches!(session.streams.get(*number), Lookup::Open(upstream) if upstream.may_finish(*number))
            });
        }
    }

    /// What must go on for visitors to be served: the thread of the upstreams, and that of each tunnel.
    pub fn vitals(&self) -> Vec<Vital> {
        let mut vitals = vec![Vital::poller("upstreams", self.tunnels.core.poller.clone())];
        for (number, tunnel) in self.tunnels.tunnels.iter().enumerate() {
            let tunnel = Arc::clone(tunnel);
            vitals.push(Vital::new(format!("g{number}-tunnel"), || {}, move || tunnel.is_alive()));
        }
        vitals
    }

    /// Where the admin page listens, so that no Mapping can lead there.
    pub fn set_admin_address(&self, address: SocketAddr) {
        if self.tunnels.core.admin.set(address).is_err() {
            log::debug!("the admin address was set before");
        }
    }

    /// Lets running requests finish for up to `drain`, and ends everything. Returns the names of threads that had panicked:
    /// none, if all is well.
    ///
    /// As long as a request runs that may finish, everything goes on, with all Gateways, also new requests: nobody else is
    /// there to serve them. Then new ones are held by the Gateways until the next process is there, which takes a moment,
    /// and what would never end is ended: once, when a successor is near.
    pub fn stop(self, drain: Duration) -> Vec<String> {
        let end = Instant::now() + drain;
        self.let_finish(end - LAST_TIME.min(drain));
        let until = end.min(Instant::now() + LAST_TIME);
        for tunnel in &self.tunnels.tunnels {
            tunnel.tell(Event::Stop { until });
        }
        let mut panicked = Vec::new();
        for thread in self.threads {
            let name = thread.thread().name().unwrap_or("tunnel").to_owned();
            if thread.join().is_err() {
                panicked.push(name);
            }
        }
        self.tunnels.core.poller.stop();
        if self.poller.join().is_err() {
            panicked.push("upstreams".into());
        }
        if self.tunnels.core.recorder.stop() {
            panicked.push("history".into());
        }
        panicked
    }
}

impl Control for TunnelSet {
    fn statuses(&self) -> Vec<TunnelStatus> {
        self.tunnels.iter().map(|tunnel| tunnel.status()).collect()
    }

    fn metrics(&self, page: &mut Page) {
        metrics::write(&self.core, &self.statuses(), page);
    }

    /// Of several Gateways the first that is connected, else the first.
    fn status(&self) -> TunnelStatus {
        let mut all = self.statuses();
        let best = all.iter().position(|status| status.state == TunnelState::Connected).unwrap_or(0);
        if all.is_empty() { TunnelStatus::default() } else { all.swap_remove(best) }
    }

    fn mappings_changed(&self, wait: Duration) -> Vec<(MappingId, RouteState)> {
        let core = &self.core;
        let mut ids = Vec::new();
        let read = || {
            let mappings = self.store.mappings()?;
            ids.extend(mappings.iter().map(|mapping| (mapping.id, mapping.enabled)));
            Ok::<_, crate::store::StoreError>(mappings)
        };
        let version = match core.targets.replace(read) {
            Ok(version) => version,
            Err(e) => {
                log::error!("cannot read the mappings: {e}");
                return Vec::new();
            }
        };
        for tunnel in &self.tunnels {
            tunnel.look();
        }
        let deadline = Instant::now() + wait;
        let acknowledged: Vec<_> =
            self.tunnels.iter().filter_map(|tunnel| tunnel.wait_acknowledged(version, deadline)).collect();
        ids.into_iter()
            .map(|(id, enabled)| {
                let text = id.to_string();
                let routes = || acknowledged.iter().flatten().filter(|route| route.id == text);
                let state = match routes().find_map(|route| route.error.clone()) {
                    Some(error) => RouteState::Failed(error),
                    None if routes().any(|route| route.state == "ok") => RouteState::Synced,
                    // The table without it is in force.
                    None if !enabled && !acknowledged.is_empty() => RouteState::Synced,
                    None => RouteState::Pending,
                };
                (id, state)
            })
            .collect()
    }

    fn reconnect(&self) {
        for tunnel in &self.tunnels {
            tunnel.tell(Event::Reconnect);
        }
    }

    fn gateway_logs(&self, before: u64, count: u32, contains: Option<&str>) -> Result<LogPage, AskFault> {
        let tunnel = self.tunnel()?;
        let contains = contains.map(str::to_owned);
        let question = |request| ToGateway::GetLogs(GetLogs { request, before, count, contains });
        match tunnel.ask("get-logs", Urgency::Now, ANSWER_TIME, question)? {
            ToAgent::Logs(logs) => {
                if let Some(newest) = logs.lines.first() {
                    tunnel.news().read_to(newest.id);
                }
                Ok(LogPage {
                    lines: logs.lines.into_iter().map(news::line).collect(),
                    has_more: logs.has_more,
                })
            }
            other => Err(strange(&other)),
        }
    }

    fn caddy(&self, config: bool) -> Result<CaddyAnswer, AskFault> {
        let question = |request| ToGateway::GetCaddy(GetCaddy { request, config });
        match self.tunnel()?.ask("get-caddy", Urgency::Now, ANSWER_TIME, question)? {
            ToAgent::Caddy(caddy) => {
                let none = || caddy.error.clone().unwrap_or_else(|| "the Gateway sent none".into());
                let config = config.then(|| caddy.config.clone().ok_or_else(none));
                Ok(CaddyAnswer { report: caddy.report, config })
            }
            other => Err(strange(&other)),
        }
    }

    fn certificate(&self, host: &str, fresh: bool) -> Result<CertificateReport, AskFault> {
        let tunnel = self.tunnel()?;
        let question =
            |request| ToGateway::GetCertificate(GetCertificate { request, host: host.to_owned(), fresh });
        match tunnel.ask("get-certificate", Urgency::Now, ANSWER_TIME, question)? {
            ToAgent::Certificate(certificate) => {
                tunnel.news().certificate(&certificate.report);
                Ok(certificate.report)
            }
            other => Err(strange(&other)),
        }
    }

    fn known_certificate(&self, host: &str) -> Option<CertificateReport> {
        self.best()?.news().known_certificate(host)
    }

    fn request_update(&self, target_version: &str, force: bool) -> Result<UpdateReply, AskFault> {
        let target_version = target_version.to_owned();
        let question = |request| ToGateway::Update(Update { request, target_version, force });
        match self.tunnel()?.ask("update", Urgency::Now, ANSWER_TIME, question)? {
            ToAgent::UpdateAck(ack) => Ok(UpdateReply { status: ack.status, message: ack.message }),
            other => Err(strange(&other)),
        }
    }

    fn update_outcome(&self) -> Option<UpdateOutcome> {
        self.best()?.news().last_outcome()
    }

    fn landing_page_changed(&self, wait: Duration) -> Result<(), AskFault> {
        if let Err(e) = self.core.pages.read(&self.store) {
            log::error!("cannot read the landing page: {e}");
            return Err(AskFault::Refused(format!("the Agent's database: {e}")));
        }
        let deadline = Instant::now() + wait;
        let page = self.core.pages.now();
        let mut outcome = Err(AskFault::NotConnected);
        // Whoever is not asked below, or does not answer, gets it by himself.
        for tunnel in &self.tunnels {
            let left = deadline.saturating_duration_since(Instant::now());
            let question = |request| {
                let (html, saved_at) =
                    page.as_ref().map(|page| (page.html.clone(), page.saved_at.clone())).unzip();
                ToGateway::LandingPage(LandingPage { request, html, saved_at })
            };
            match tunnel.ask("landing-page", Urgency::Later, left, question) {
                Ok(_) => outcome = Ok(()),
                Err(fault) if outcome.is_err() && fault != AskFault::NotConnected => outcome = Err(fault),
                Err(_) => {}
            }
        }
        outcome
    }

    fn gateway_landing_page(&self) -> Option<Option<String>> {
        self.best()?.news().held_page()
    }

    fn route_reports(&self) -> Vec<(MappingId, RouteReport)> {
        self.best().map(|tunnel| tunnel.news().reports()).unwrap_or_default()
    }
}

impl TunnelSet {
    /// The tunnel that [`Control::status`] tells of.
    fn best(&self) -> Option<&Arc<Tunnel>> {
        let connected = |tunnel: &&Arc<Tunnel>| tunnel.status().state == TunnelState::Connected;
        self.tunnels.iter().find(connected).or(self.tunnels.first())
    }

    /// The first that is connected.
    fn tunnel(&self) -> Result<&Arc<Tunnel>, AskFault> {
        self.best().ok_or(AskFault::NotConnected)
    }
}

/// An answer to another question than ours.
fn strange(answer: &ToAgent) -> AskFault {
    log::debug!("the gateway's answer does not fit the question: {answer:?}");
    AskFault::Refused("the Gateway's answer does not fit the question".into())
}
