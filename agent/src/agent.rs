//! What all parts of the Agent share, and the threads that make it run.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use shared::credit::{Budget, INITIAL, INITIAL_TIGHT};
use shared::mapping::MappingId;
use shared::notify::Vital;
use shared::poll::{Handle, Poller, Table};
use shared::threads;

use crate::config::Config;
use crate::control::{Control, RouteState, TunnelState, TunnelStatus};
use crate::events::Hub;
use crate::pool::Pool;
use crate::resolver::Resolver;
use crate::store::Store;
use crate::targets::Targets;
use crate::tls::{self, UpstreamTls};
use crate::tunnel::{Event, Tunnel};
use crate::upstream::{Summary, Upstream};
use crate::upstreams::{self, Upstreams};

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
    pub(crate) tls: UpstreamTls,
    /// Bytes of request body that a Gateway may send on a new Stream.
    pub(crate) request_credit: u32,
    /// Who has the admin page open.
    pub(crate) hub: Arc<Hub>,
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

    /// A request is over.
    pub(crate) fn served(&self, summary: &Summary<'_>) {
        if !log::log_enabled!(log::Level::Info) {
            return;
        }
        let failed = summary.failed.map_or_else(String::new, |r| format!(" {} at the {}", r.name(), r.hop()));
        log::info!(
            "{} {} {} {} via {} -> {}{failed}, {} B in, {} B out, {} ms",
            summary.request_id,
            summary.visitor,
            summary.method,
            summary.line,
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
    let core = Arc::new(Core {
        agent_id: store.agent_id().map_err(StartFault::Store)?,
        budget: Budget::new(config.memory_budget),
        poller: poller.handle(),
        upstreams: Table::default(),
        pool: Pool::default(),
        resolver: Resolver::new(),
        targets: Targets::default(),
        tls: UpstreamTls::default(),
        request_credit: if config.memory_budget < 32 * 1024 * 1024 { INITIAL_TIGHT } else { INITIAL },
        hub,
        admin: OnceLock::new(),
        config,
    });
    core.targets.replace(|| store.mappings()).map_err(StartFault::Store)?;
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
    /// What the admin page may ask.
    pub fn control(&self) -> Arc<dyn Control> {
        Arc::clone(&self.tunnels) as Arc<dyn Control>
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

    /// Takes no new requests, lets running ones finish for up to `drain`, and ends everything. Returns the names of
    /// threads that had panicked: none, if all is well.
    pub fn stop(self, drain: Duration) -> Vec<String> {
        let until = Instant::now() + drain;
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
        panicked
    }
}

impl Control for TunnelSet {
    /// Of several Gateways the first that is connected, else the first.
    fn status(&self) -> TunnelStatus {
        let mut all: Vec<_> = self.tunnels.iter().map(|tunnel| tunnel.status()).collect();
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
            tunnel.tell(Event::TableChanged);
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
}
