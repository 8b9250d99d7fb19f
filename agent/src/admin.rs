//! The Operator's side of the Agent: its page, its API, and who may use them.
//!
//! `listener` decides who gets a connection, `connection` turns bytes into a [`http::Request`] and `reply` a
//! [`http::Response`] into bytes; everything between is a function from one to the other ([`api::handle_for`]) and is tested without a socket. What a save changes in
//! the tunnel is left to [`crate::control`], what is stored and how to [`crate::store`].

mod api;
mod backup;
mod connection;
mod diagnose;
mod echo;
mod events;
mod gateway;
mod history;
mod http;
mod landing;
mod listener;
mod lockout;
mod login;
mod logs;
mod mappings;
mod metrics;
pub(crate) mod offline;
mod openapi;
mod pages;
mod probe;
mod problem;
mod reply;
mod routes;
mod status;
#[cfg(test)]
mod testing;
mod token;
mod transfer;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, OnceLock};

use time::OffsetDateTime;

use shared::secret::Secret;

use crate::config::Config;
use crate::control::Control;
use crate::events::Live;
use crate::history::Recorder;
use crate::password::{PasswordHash, PasswordHashFault};
use crate::store::Store;
use crate::timestamp;

/// What the admin page needs to know from the settings.
#[derive(Clone, Debug)]
pub struct AdminConfig {
    /// Where to listen; port 0 for any free one. `::` means every address, also where there is no IPv6.
    pub bind: SocketAddr,
    /// Signs the tokens of those who have logged in.
    pub jwt_secret: Secret,
    /// The Operator's password, hashed (`$6$`).
    pub password_hash: Secret,
    /// The Agent's version, as the page shows it.
    pub version: String,
    /// Its name.
    pub name: String,
    /// Seconds between two signs of life in the tunnel.
    pub heartbeat_seconds: u64,
    /// Opens `/metrics` to whoever shows it.
    pub metrics_token: Option<Secret>,
}

impl AdminConfig {
    /// What concerns us of the settings.
    pub fn new(config: &Config) -> AdminConfig {
        AdminConfig {
            bind: SocketAddr::new(config.bind_address, config.port),
            jwt_secret: config.jwt_secret.clone(),
            password_hash: config.password_hash.clone(),
            version: crate::VERSION.into(),
            name: config.name.clone(),
            heartbeat_seconds: config.heartbeat_seconds,
            metrics_token: config.metrics_token.clone(),
        }
    }
}

/// What the endpoints for finding faults need to know from the settings.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Lets whoever sends it use the echo.
    api_key: Option<Secret>,
    /// Ports of the Gateways, where public addresses may be as well.
    gateway_ports: Vec<u16>,
    /// Certificates that Gateways are trusted by, besides those of the system.
    gateway_ca_file: Option<PathBuf>,
}

impl Reach {
    /// From the settings.
    pub fn of(config: &Config) -> Reach {
        Reach {
            api_key: Some(config.api_key.clone()),
            gateway_ports: config.gateway_urls.iter().map(|url| url.port).collect(),
            gateway_ca_file: config.gateway_ca_file.clone(),
        }
    }
}

/// What every request may use. One per process.
pub struct App {
    config: AdminConfig,
    reach: Reach,
    password: PasswordHash,
    /// Says with which password a session was begun.
    password_tag: String,
    store: Store,
    history: Arc<Recorder>,
    control: Arc<dyn Control>,
    live: Live,
    lockouts: Mutex<lockout::Lockouts>,
    /// When the Agent was started.
    started: OffsetDateTime,
    /// Passwords being checked at this moment.
    checking: AtomicUsize,
    /// Where we really listen, once we do.
    address: OnceLock<SocketAddr>,
}

/// Why there is no admin page.
#[derive(Debug)]
pub enum AdminError {
    /// The address cannot be listened on.
    Bind(SocketAddr, io::Error),
    /// The thread that accepts could not be started.
    Thread(io::Error),
    /// The password hash is none.
    PasswordHash(PasswordHashFault),
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdminError::Bind(address, e) => write!(f, "the admin page cannot listen on {address}: {e}"),
            AdminError::Thread(e) => write!(f, "cannot start the thread of the admin page: {e}"),
            AdminError::PasswordHash(fault) => write!(f, "the password hash of the admin page: {fault}"),
        }
    }
}

impl std::error::Error for AdminError {}

impl App {
    /// Puts together what the requests will use.
    pub fn new(
        config: AdminConfig,
        store: Store,
        history: Arc<Recorder>,
        control: Arc<dyn Control>,
        live: Live,
    ) -> Result<App, AdminError> {
        let password =
            PasswordHash::parse(config.password_hash.expose()).map_err(AdminError::PasswordHash)?;
        let password_tag =
            token::password_tag(config.jwt_secret.expose().as_bytes(), config.password_hash.expose());
        let started = timestamp::now();
        // Those of an earlier password are over; nobody needs to be told.
        if let Err(e) = store.prune_sessions(password_tag.clone(), started) {
            log::warn!("admin: cannot delete sessions that are over: {e}");
        }
        Ok(App {
            config,
            reach: Reach::default(),
            password,
            password_tag,
            store,
            history,
            control,
            live,
            lockouts: Mutex::default(),
            started,
            checking: AtomicUsize::new(0),
            address: OnceLock::new(),
        })
    }

    /// With what the endpoints for finding faults need; without it they know no key and no Gateway.
    #[must_use]
    pub fn reaching(mut self, reach: Reach) -> App {
        self.reach = reach;
        self
    }

    /// Where we listen: no Mapping may lead there.
    fn address(&self) -> SocketAddr {
        self.address.get().copied().unwrap_or(self.config.bind)
    }
}

/// The admin page, listening. Dropping it is [`Admin::stop`].
pub struct Admin {
    address: SocketAddr,
    running: Option<listener::Running>,
}

impl Admin {
    /// The address it got; the port is the real one.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets requests being answered finish, closes everything and joins the threads. Returns the names of
    /// those that had panicked: none, if all is well.
    pub fn stop(mut self) -> Vec<String> {
        self.running.take().map(listener::Running::stop).unwrap_or_default()
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop();
        }
    }
}

/// Listens where the configuration says and answers from then on.
pub fn start(app: App) -> Result<Admin, AdminError> {
    let wanted = app.config.bind;
    let (listener, address) = bind(wanted)
        .and_then(|listener| listener.local_addr().map(|address| (listener, address)))
        .map_err(|e| AdminError::Bind(wanted, e))?;
    // Nobody else sets it: the App has just been moved here.
    let _ = app.address.set(address);
    let running = listener::start(listener, Arc::new(app)).map_err(AdminError::Thread)?;
    Ok(Admin { address, running: Some(running) })
}

/// `::` takes IPv4 too (Linux's default); on a machine that has IPv6 switched off it does not exist.
fn bind(wanted: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(wanted) {
        Err(e)
            if wanted.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && e.kind() != io::ErrorKind::AddrInUse =>
        {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, wanted.port()))
        }
        bound => bound,
    }
}
