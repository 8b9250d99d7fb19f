//! The API for sub-commands: of the running Agent, or of the database when none runs. Says which it is.
//!
//! On the Agent's own machine nobody has to log in: whoever may read the settings has the secret that signs tokens.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use shared::hostname::Host;
use shared::mapping::MappingId;
use shared::settings::command::{Flag, Invocation};
use shared::settings::console::{Console, Failure};
use shared::settings::healthcheck;
use shared::settings::setup::first_line;

use crate::admin::{AdminConfig, App, offline};
use crate::config::Config;
use crate::control::{Control, RouteState, TunnelStatus};
use crate::events::Live;
use crate::exchange::{self, Answer, Channel, Fault, Question, Step, Trouble};
use crate::history::{Limits, Recorder};
use crate::store::{Store, user_id};
use crate::tls;

/// How long the Agent may take to answer; a save waits for the Gateway, an import writes much.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it takes to find out whether an Agent runs here.
const LOOK: Duration = Duration::from_secs(3);
/// Largest answer.
const MOST: usize = 64 * 1024 * 1024;

/// `--agent-url`.
pub(super) const AGENT_URL: Flag = Flag::value(
    "--agent-url",
    "URL",
    "Asks the Agent at URL, as in http://nas:17201, instead of the one of these settings. Needs --password-file.",
);
/// `--password-file`.
pub(super) const PASSWORD_FILE: Flag = Flag::value(
    "--password-file",
    "FILE",
    "Logs in with the password in the first line of FILE (- is standard input), with --agent-url.",
);

/// Where the API is.
pub(super) enum Api {
    /// A running Agent's.
    Running(Running),
    /// No Agent runs: its database.
    Offline {
        app: Box<App>,
        path: PathBuf,
        /// Whether that is known: an Agent on any free port cannot be found.
        sure: bool,
    },
}

/// A running Agent.
pub(super) struct Running {
    addresses: Vec<SocketAddr>,
    host: String,
    authority: String,
    tls: Option<Arc<ClientConfig>>,
    token: String,
}

impl Api {
    /// The one that the command line and the settings mean.
    pub(super) fn open(
        invocation: &Invocation,
        load: impl FnOnce(&mut Console<'_>) -> Result<Config, Failure>,
        console: &mut Console<'_>,
    ) -> Result<Api, Failure> {
        if let Some(url) = invocation.text("--agent-url")? {
            return Ok(Api::Running(Running::remote(url, invocation, console)?));
        }
        if invocation.has("--password-file") {
            return Err(Failure::wrong("--password-file: goes with --agent-url; here the settings suffice"));
        }
        let config = load(console)?;
        match Running::local(&config)? {
            Some(running) => Ok(Api::Running(running)),
            None => Api::offline(&config),
        }
    }

    /// The API on the database, without a tunnel.
    pub(super) fn offline(config: &Config) -> Result<Api, Failure> {
        let path = config.database.clone();
        if let Some(owner) = foreign_owner(&path) {
            return Err(Failure::failed(format_args!(
                "database {}: would be made by another user than the Agent's; start the Agent once, or run this as user \
                 id {owner}",
                path.display()
            )));
        }
        let store = Store::open(&path).map_err(Failure::failed)?;
        let admin = AdminConfig::new(config);
        let gateway = config.gateway_urls.first().map(ToString::to_string).unwrap_or_default();
        let live = Live::default();
        let history = Recorder::start(store.clone(), Limits::of(config), Arc::clone(&live.hub));
        let history = history.map_err(Failure::failed)?;
        let app = App::new(admin, store, history, Arc::new(NoTunnel { gateway }), live);
        Ok(Api::Offline { app: Box::new(app.map_err(Failure::failed)?), path, sure: config.port != 0 })
    }

    /// In words: whom a change went to.
    pub(super) fn place(&self) -> String {
        match self {
            Api::Running(running) => format!("the running Agent at {}", running.authority),
            Api::Offline { path, sure: true, .. } => {
                format!("the database {}; no Agent is running", path.display())
            }
            Api::Offline { path, .. } => format!(
                "the database {}; Agent__Port is 0, so a running Agent is not found and notices at its next start",
                path.display()
            ),
        }
    }

    /// Whether the Agent runs.
    pub(super) fn is_running(&self) -> bool {
        matches!(self, Api::Running(_))
    }

    /// Status and body of an answer, whatever the status.
    pub(super) fn call(
        &self,
        method: &str,
        target: &str,
        body: Option<&[u8]>,
    ) -> Result<(u16, Vec<u8>), Failure> {
        match self {
            Api::Running(running) => {
                let answer = running.ask(method, target, body).map_err(|fault| running.failure(&fault))?;
                if !answer.complete {
                    let text = format_args!("the Agent at {}: the answer is incomplete", running.authority);
                    return Err(Failure::failed(text));
                }
                Ok((answer.status, answer.body))
            }
            Api::Offline { app, path, .. } => offline::ask(app, method, target, body)
                .map_err(|e| Failure::failed(format_args!("database {}: {e}", path.display()))),
        }
    }

    /// The JSON of a good answer; what is wrong in words otherwise.
    pub(super) fn json(&self, method: &str, target: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let body = body.map(|body| body.to_string().into_bytes());
        let (status, bytes) = self.call(method, target, body.as_deref())?;
        if !(200..300).contains(&status) {
            return Err(refusal(status, &bytes));
        }
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes)
            .map_err(|e| Failure::failed(format_args!("{}: the answer is no JSON: {e}", self.place())))
    }
}

/// Who should make a database that is not there yet, if that is somebody else: root, asked to add a mapping before the
/// first start, would leave a file that the Agent may not write. (One that is there keeps its owner: SQLite sees to
/// that.)
fn foreign_owner(database: &Path) -> Option<u32> {
    let directory = database.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let owner = directory.metadata().ok()?.uid();
    (!database.exists() && owner != user_id()).then_some(owner)
}

/// A problem document (RFC 9457) in words.
pub(super) fn refusal(status: u16, body: &[u8]) -> Failure {
    let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let message = value["message"].as_str().or(value["detail"].as_str()).unwrap_or("no reason is given");
    let mut text = match value["errors"].as_object().is_some_and(|errors| !errors.is_empty()) {
        // The fields say it all.
        true => "refused:".to_owned(),
        false => format!("{message} (status {status})"),
    };
    for (field, faults) in value["errors"].as_object().into_iter().flatten() {
        for fault in faults.as_array().into_iter().flatten().filter_map(Value::as_str) {
            text.push_str(&format!("\n  {field}: {fault}"));
        }
    }
    Failure::failed(text)
}

impl Running {
    /// The Agent of these settings on this machine, if it runs.
    pub(super) fn local(config: &Config) -> Result<Option<Running>, Failure> {
        if config.port == 0 {
            return Ok(None);
        }
        let addresses = healthcheck::addresses(config.bind_address);
        let addresses: Vec<_> = addresses.into_iter().map(|ip| SocketAddr::new(ip, config.port)).collect();
        let authority = addresses.first().map(ToString::to_string).unwrap_or_default();
        let token = offline::operator_token(config.jwt_secret.expose().as_bytes());
        let mut running = Running {
            addresses,
            host: String::new(),
            authority: format!("http://{authority}"),
            tls: None,
            token,
        };
        let until = Instant::now() + LOOK;
        match exchange::connect(&running.addresses, until, |_| Ok(())) {
            Ok((_, address)) => running.addresses = vec![address],
            Err(fault) if fault.trouble == Trouble::Refused => return Ok(None),
            Err(fault) => return Err(running.failure(&fault)),
        }
        let answer = running.ask("GET", "/api/v1/status", None).map_err(|fault| running.failure(&fault))?;
        match answer.status {
            200 => Ok(Some(running)),
            401 => Err(Failure::failed(format_args!(
                "the Agent at {} does not accept a token of these settings: it runs with another Agent__JwtSecret. Use \
                 its settings (--env-file), or --agent-url and --password-file",
                running.authority
            ))),
            status => Err(Failure::failed(format_args!(
                "what listens at {} is no Agent that works (status {status}); the port is set by Agent__Port",
                running.authority
            ))),
        }
    }

    /// An Agent somewhere, with a password.
    fn remote(url: &str, invocation: &Invocation, console: &mut Console<'_>) -> Result<Running, Failure> {
        let wrong =
            |why: &str| Failure::wrong(format_args!("--agent-url {url:?}: {why}, as in http://nas:17201"));
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("must be a URL"))?;
        let secure = match scheme {
            "http" => false,
            "https" => true,
            _ => return Err(wrong("must begin with http:// or https://")),
        };
        let host = Host::parse(rest.trim_end_matches('/').as_bytes()).map_err(|f| wrong(&f.to_string()))?;
        let port = host.port().unwrap_or(if secure { 443 } else { 80 });
        let file = invocation
            .value("--password-file")
            .ok_or_else(|| Failure::wrong("--agent-url: needs --password-file to log in"))?;
        let password = first_line("--password-file", &file.to_owned(), console)?;
        let tls = match secure {
            true => Some(
                tls::gateway_config(None).map_err(|e| Failure::failed(format_args!("certificates: {e}")))?,
            ),
            false => None,
        };
        let mut running = Running {
            addresses: Vec::new(),
            host: host.name().to_owned(),
            authority: format!("{scheme}://{host}"),
            tls,
            token: String::new(),
        };
        running.addresses = exchange::resolve(host.name(), port, Instant::now() + LOOK * 3)
            .map_err(|fault| running.failure(&fault))?;
        let body = json!({ "password": String::from_utf8_lossy(&password) }).to_string();
        let answer = running
            .ask("POST", "/api/v1/auth/login", Some(body.as_bytes()))
            .map_err(|fault| running.failure(&fault))?;
        let value: Value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
        match (answer.status, value["token"].as_str()) {
            (200, Some(token)) => {
                running.token = token.to_owned();
                Ok(running)
            }
            (status, _) => {
                let said = value["message"].as_str().unwrap_or("no Agent answers there");
                Err(Failure::failed(format_args!(
                    "{}: cannot log in: {said} (status {status})",
                    running.authority
                )))
            }
        }
    }

    /// Asks on a connection of its own.
    pub(super) fn ask(&self, method: &str, target: &str, body: Option<&[u8]>) -> Result<Answer, Fault> {
        let until = Instant::now() + PATIENCE;
        let (socket, _) = exchange::connect(&self.addresses, Instant::now() + LOOK, |_| Ok(()))?;
        let mut channel = match &self.tls {
            None => Channel::plain(socket, until),
            Some(config) => {
                let fault = |text| Fault { step: Step::Tls, trouble: Trouble::Other, text };
                let name = ServerName::try_from(self.host.clone())
                    .map_err(|_| fault(format!("{:?} cannot be a name in TLS", self.host)))?;
                let connection = rustls::ClientConnection::new(Arc::clone(config), name)
                    .map_err(|e| fault(e.to_string()))?;
                Channel::secure(socket, connection, until)?
            }
        };
        let authorization = format!("Bearer {}", self.token);
        let mut fields: Vec<(&str, &str)> = Vec::new();
        if !self.token.is_empty() {
            fields.push(("Authorization", &authorization));
        }
        if body.is_some() {
            fields.push(("Content-Type", "application/json"));
        }
        let authority = self.authority.split_once("://").map_or("", |(_, authority)| authority);
        let question = Question { method, target, authority, fields: &fields, body, most: MOST };
        exchange::ask(&mut channel, &question)
    }

    fn failure(&self, fault: &Fault) -> Failure {
        Failure::failed(format_args!("the Agent at {}: {fault}", self.authority))
    }
}

/// The tunnel of an Agent that does not run.
struct NoTunnel {
    gateway: String,
}

impl Control for NoTunnel {
    fn status(&self) -> TunnelStatus {
        TunnelStatus { gateway_url: self.gateway.clone(), ..TunnelStatus::default() }
    }

    fn mappings_changed(&self, _: Duration) -> Vec<(MappingId, RouteState)> {
        Vec::new()
    }

    fn reconnect(&self) {}
}
