//! The Gateway's settings: what each is called, what it means, and what it may be.
//!
//! How texts are found and how faults are reported is left to `shared::settings`; nothing here opens a socket.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use shared::forwarded::TrustedProxies;
use shared::hostname::Host;
use shared::logging::{self, LogConfig};
use shared::secret::Secret;
use shared::settings::start::{Console, Program};
use shared::settings::{Daemon, Fault, Reader, Setting};

use crate::cli;

/// Where the log goes when nobody says otherwise, provided that the directory is there.
const LOG_FILE: &str = "/var/log/octoporty/gateway-.log";
/// The key of the published example: long enough, and known to everybody.
const EXAMPLE_KEY: &str = "your-secure-api-key-at-least-32-characters-long";
/// Where names are remembered when nobody says otherwise.
const STATE_DIRECTORY: &str = "/var/lib/octoporty";
/// Longest list of origins.
const MAX_ORIGINS: usize = 1000;

/// What `main` does next.
pub type Command = shared::settings::start::Command<Config>;

/// Everything the Gateway was told. Can only be made by [`Config::load`], so that nobody checks again.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Shared with the Agents; visible ASCII.
    pub api_key: Secret,
    /// Where Visitors (through Caddy) and Agents arrive; 0 for any free port.
    pub port: u16,
    /// The address to listen on; `::` stands for both families.
    pub bind_address: IpAddr,
    /// Caddy's admin API: `http://host:port`, or `unix:/path` for a socket.
    pub caddy_admin_url: String,
    /// How Caddy comes to know our host names.
    pub caddy_mode: CaddyMode,
    /// Where Caddy reaches the Gateway, as `host:port`; `None` to work it out.
    pub caddy_upstream: Option<String>,
    /// Name of Caddy's server that gets the routes; `None` to choose.
    pub caddy_server: Option<String>,
    /// Where small files live that may get lost; `None` for nowhere.
    pub state_directory: Option<PathBuf>,
    /// Which pages of others may use the Gateway's own endpoints.
    pub allowed_origins: AllowedOrigins,
    /// Whether an Agent's routes are taken out of Caddy while it is away.
    pub remove_routes_on_tunnel_unavailable: bool,
    /// The Gateway's own host name, lower case; `None` to use those that Agents name.
    pub gateway_fqdn: Option<String>,
    /// Whether an Agent may ask for an update of the Gateway.
    pub allow_remote_update: bool,
    /// The file that asks for the update.
    pub update_signal_path: PathBuf,
    /// Who may say who the Visitor is.
    pub trusted_proxies: TrustedProxies,
    /// How long requests wait for an Agent that has just gone; 0 for not at all.
    pub hold_seconds: u64,
    /// Most connections of Visitors and Agents together.
    pub max_connections: usize,
    /// Most Streams of one Agent.
    pub max_streams: usize,
    /// Most Agents.
    pub max_agents: usize,
    /// Links in a Session.
    pub links: u8,
    /// Bytes that all Streams together may have in flight.
    pub memory_budget: u64,
    /// Seconds of silence after which a Beat is sent.
    pub heartbeat_seconds: u64,
    /// What is logged, and where to.
    pub log: LogConfig,
    /// What the Operator should know about the settings; to be logged once the log runs.
    pub warnings: Vec<String>,
}

impl CaddyMode {
    /// The word in the settings.
    pub fn word(self) -> &'static str {
        match self {
            CaddyMode::Routes => "routes",
            CaddyMode::Ask => "ask",
            CaddyMode::Off => "off",
        }
    }
}

/// How Caddy comes to know our host names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaddyMode {
    /// The Gateway writes a route for each host name.
    Routes,
    /// Caddy has one site for everything, and asks which names are ours.
    Ask,
    /// Caddy is somebody else's business.
    Off,
}

/// Which pages of others may use the Gateway's own endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedOrigins {
    /// All.
    Any,
    /// These, as `scheme://host[:port]` in lower case.
    List(Vec<String>),
}

impl AllowedOrigins {
    /// Reads `*` or a list separated by commas.
    pub fn parse(text: &str) -> Result<AllowedOrigins, String> {
        let mut list = Vec::new();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            if item == "*" {
                return Ok(AllowedOrigins::Any);
            }
            list.push(parse_origin(item)?);
        }
        if list.len() > MAX_ORIGINS {
            return Err(format!("has {} origins, at most {MAX_ORIGINS} are allowed", list.len()));
        }
        Ok(AllowedOrigins::List(list))
    }

    /// Whether this `Origin` is welcome. Scheme and host are compared without regard to case (RFC 6454 5).
    pub fn allows(&self, origin: &str) -> bool {
        match self {
            AllowedOrigins::Any => true,
            AllowedOrigins::List(list) => list.iter().any(|known| known.eq_ignore_ascii_case(origin)),
        }
    }
}

/// An origin as browsers write it (RFC 6454 6.2): without the scheme's own port.
fn parse_origin(text: &str) -> Result<String, String> {
    let wrong = |why: &str| format!("origin {text:?}: {why}; must be like https://app.example.com");
    let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("has no scheme"))?;
    let scheme = scheme.to_ascii_lowercase();
    let own_port = match scheme.as_str() {
        "http" => 80,
        "https" => 443,
        _ => return Err(wrong("the scheme is neither http nor https")),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let host = Host::parse(rest.as_bytes()).map_err(|fault| wrong(&fault.to_string()))?;
    let authority = host.authority();
    let authority = authority.strip_suffix(&format!(":{own_port}")).unwrap_or(authority);
    Ok(format!("{scheme}://{authority}"))
}

const SETTINGS: &[Setting] = &[
    Setting::secret(
        "Gateway__ApiKey",
        32,
        "Key that Agents must present. Make one with: openssl rand -base64 32",
    )
    .required()
    .aliases(&["GATEWAY_API_KEY"]),
    Setting::number(
        "Gateway__Port",
        17200,
        0,
        65535,
        "Port on which Visitors (through Caddy) and Agents arrive; 0 takes any free one. When it is not set, the http \
         port in ASPNETCORE_URLS is used.",
    ),
    Setting::text(
        "Gateway__BindAddress",
        "An IP address; :: is all addresses of both families",
        "::",
        "Address to listen on. 127.0.0.1 suffices when Caddy runs on the same machine.",
    ),
    Setting::text(
        "Gateway__GatewayFqdn",
        "A host name",
        "",
        "The Gateway's own host name, where its landing page is; wins over what Agents say it is.",
    )
    .default_text("what the Agents say"),
    Setting::text(
        "Gateway__CaddyAdminUrl",
        "http://HOST[:PORT] or unix:/PATH",
        "http://localhost:2019",
        "Caddy's admin API.",
    )
    .aliases(&["CADDY_ADMIN_URL"]),
    Setting::text(
        "Gateway__CaddyMode",
        "routes, ask or off",
        "routes",
        "How Caddy learns our host names. routes: the Gateway writes one route for each. ask: Caddy has one site for \
         all with on-demand TLS, and asks /caddy/ask which names are ours. off: Caddy is left alone.",
    ),
    Setting::text(
        "Gateway__CaddyUpstream",
        "HOST:PORT",
        "",
        "Where Caddy reaches the Gateway, for the routes written in mode routes.",
    )
    .default_text("worked out from Caddy's configuration"),
    Setting::text(
        "Gateway__CaddyServer",
        "A name in Caddy's configuration",
        "",
        "Which of Caddy's servers gets the routes, for mode routes.",
    )
    .default_text("the one that names the Gateway's domain, or else listens on the https port"),
    Setting::text(
        "Gateway__StateDirectory",
        "A directory; empty for none",
        "",
        "Where host names that were published lately are remembered, so that a restarted Gateway refuses them neither to \
         Caddy nor to visitors while its Agents are still dialling.",
    )
    .aliases(&["STATE_DIRECTORY"])
    .keep_empty()
    .default_text("systemd's STATE_DIRECTORY, else /var/lib/octoporty when it can be written"),
    Setting::switch(
        "Gateway__RemoveRoutesOnTunnelUnavailable",
        false,
        "Whether Caddy's routes are removed while their Agent is away. Each change makes Caddy reload, which drops \
         long-lived connections.",
    ),
    Setting::text(
        "Gateway__AllowedOrigins",
        "* or a list of origins separated by commas",
        "*",
        "Pages that may use the Gateway's own endpoints from a browser (CORS). Services behind the tunnel have rules \
         of their own.",
    ),
    Setting::text(
        "Gateway__TrustedProxies",
        "A list separated by commas: addresses, networks (10.0.0.0/8), loopback, private; none or nothing for nobody",
        "",
        "Peers whose X-Forwarded-For, -Proto and -Host are believed: where Caddy runs.",
    )
    .keep_empty()
    .default_text("loopback,private"),
    Setting::number(
        "Gateway__HoldSeconds",
        8,
        0,
        60,
        "How long requests wait for an Agent that has just gone, or for all of them after a start of the Gateway, instead \
         of failing; 0 turns it off.",
    ),
    Setting::number(
        "Gateway__HeartbeatIntervalSeconds",
        30,
        5,
        300,
        "Silence after which a heartbeat is sent; a Link that stays silent for two intervals is given up.",
    ),
    Setting::number(
        "Gateway__MaxConnections",
        10_000,
        16,
        1_000_000,
        "Most connections with a request at once. Beyond it, those without a request are closed, then the slowest of the \
         address that has most; one address may have a quarter, one of several Agents three quarters. Some more are kept \
         for the tunnel and /health. The limit of open files must allow it.",
    ),
    Setting::number(
        "Gateway__MaxStreams",
        10_000,
        1,
        1_000_000,
        "Most requests in progress for one Agent; further ones are answered 503.",
    ),
    Setting::number("Gateway__MaxAgents", 64, 1, 10_000, "Most Agents connected at once."),
    Setting::number(
        "Gateway__Links",
        4,
        1,
        8,
        "Connections that each Agent opens. Several fill a long line better and survive the loss of one.",
    ),
    Setting::number_or(
        "Gateway__MemoryBudgetMiB",
        "128, or 32 on a machine with less than 1 GiB of memory",
        8,
        65_536,
        "Memory for data in flight of all requests together; what slow Visitors can cost at most.",
    ),
    Setting::switch(
        "Gateway__AllowRemoteUpdate",
        true,
        "Whether an Agent's page may ask for an update of the Gateway.",
    )
    .aliases(&["GATEWAY_ALLOW_REMOTE_UPDATE"]),
    Setting::text(
        "Gateway__UpdateSignalPath",
        "A path",
        "/data/update-signal",
        "File that is written to ask for an update; whoever performs it watches the file.",
    ),
    logging::LEVEL,
    logging::file_setting("/var/log/octoporty/gateway-.log when its directory exists"),
    logging::RETAINED,
    logging::FILE_SIZE,
];

/// The Gateway, as settings and command line know it.
pub static DAEMON: Daemon = Daemon {
    program: "octoporty-gateway",
    version: crate::VERSION,
    summary: "the public half of Octoporty: takes Visitors in and hands them to Agents",
    description: "Runs on a public server behind Caddy. Agents in private networks connect to it and publish services \
                  under host names; Visitors who ask for such a name reach the service through the Agent's tunnel.\n\n\
                  Runs in the foreground and logs to standard error.",
    settings: SETTINGS,
    prefixes: &["Gateway__", "Logging__"],
    legacy: &[
        "Gateway__ListenPort",
        "Gateway__DebugJson",
        "Logging__SeqUrl",
        "Logging__SeqApiKey",
        "Logging__MinimumLevel",
        "Logging__LogLevel__*",
    ],
    commands: cli::COMMANDS,
    examples: cli::EXAMPLES,
    env_file: "/etc/octoporty/gateway.env",
    files: &[
        ("/etc/octoporty/gateway.env", "Settings, where the systemd unit passes it with --env-file."),
        ("/var/log/octoporty/gateway-YYYYMMDD.log", "The log of a day."),
        ("/data/update-signal", "Asks for an update."),
    ],
    port_key: "Gateway__Port",
};

/// The program: its settings, its sub-commands, and what becomes of them.
pub const PROGRAM: Program<Config> = Program {
    daemon: &DAEMON,
    load: Config::load,
    warnings: |config| &config.warnings,
    address: |reader| (bind_address(reader), reader.port()),
    other: Some(cli::run),
};

/// What `main` does up to the point where the Gateway would start, with everything it looks at handed in.
pub fn start(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    console: &mut Console<'_>,
) -> Command {
    shared::settings::start::start(&PROGRAM, arguments, environment, console)
}

impl Config {
    /// Understands the settings; gives all faults if there are any.
    pub fn load(mut reader: Reader) -> Result<Config, Vec<Fault>> {
        let r = &mut reader;
        let mut config = Config {
            api_key: api_key(r, "Gateway__ApiKey"),
            port: r.port(),
            bind_address: bind_address(r),
            caddy_admin_url: r.parsed("Gateway__CaddyAdminUrl", parse_admin_url).unwrap_or_default(),
            caddy_mode: r.parsed("Gateway__CaddyMode", parse_mode).unwrap_or(CaddyMode::Off),
            caddy_upstream: r.parsed("Gateway__CaddyUpstream", parse_upstream),
            caddy_server: r.parsed("Gateway__CaddyServer", parse_server_name),
            state_directory: state_directory(r),
            allowed_origins: r
                .parsed("Gateway__AllowedOrigins", AllowedOrigins::parse)
                .unwrap_or(AllowedOrigins::Any),
            remove_routes_on_tunnel_unavailable: r.switch("Gateway__RemoveRoutesOnTunnelUnavailable"),
            gateway_fqdn: r.parsed("Gateway__GatewayFqdn", shared::settings::parse_fqdn),
            allow_remote_update: r.switch("Gateway__AllowRemoteUpdate"),
            update_signal_path: r.text("Gateway__UpdateSignalPath").unwrap_or_default().into(),
            trusted_proxies: r.parsed("Gateway__TrustedProxies", TrustedProxies::parse).unwrap_or_default(),
            hold_seconds: r.number("Gateway__HoldSeconds"),
            max_connections: r.number("Gateway__MaxConnections") as usize,
            max_streams: r.number("Gateway__MaxStreams") as usize,
            max_agents: r.number("Gateway__MaxAgents") as usize,
            links: r.number("Gateway__Links") as u8,
            memory_budget: r
                .optional_number("Gateway__MemoryBudgetMiB")
                .unwrap_or_else(|| shared::settings::by_memory(128))
                * 1024
                * 1024,
            heartbeat_seconds: r.number("Gateway__HeartbeatIntervalSeconds"),
            log: LogConfig::read(r, default_log_file()),
            warnings: Vec::new(),
        };
        config.warnings = reader.finish()?;
        Ok(config)
    }

    /// What the start-up banner shows, secrets obfuscated.
    pub fn banner(&self) -> Vec<(&'static str, String)> {
        vec![
            ("ApiKey", self.api_key.obfuscated()),
            ("CaddyAdminUrl", self.caddy_admin_url.clone()),
            ("CaddyMode", self.caddy_mode.word().into()),
            ("GatewayFqdn", self.gateway_fqdn.clone().unwrap_or_else(|| "(from Agent)".into())),
        ]
    }
}

fn bind_address(reader: &mut Reader) -> IpAddr {
    let address = reader.parsed("Gateway__BindAddress", shared::settings::parse_address);
    address.unwrap_or(Ipv6Addr::UNSPECIFIED.into())
}

fn api_key(reader: &mut Reader, key: &str) -> Secret {
    let secret = reader.header_secret(key).unwrap_or_else(|| Secret::new(""));
    if secret.expose() == EXAMPLE_KEY {
        reader.warn(format!(
            "{key} is the example from the documentation: anybody knows it and can publish here"
        ));
    }
    secret
}

fn default_log_file() -> Option<&'static Path> {
    let path = Path::new(LOG_FILE);
    path.parent().is_some_and(Path::is_dir).then_some(path)
}

fn parse_mode(text: &str) -> Result<CaddyMode, String> {
    match text.to_ascii_lowercase().as_str() {
        "routes" => Ok(CaddyMode::Routes),
        "ask" => Ok(CaddyMode::Ask),
        "off" => Ok(CaddyMode::Off),
        _ => Err("must be routes, ask or off".into()),
    }
}

/// `http://host[:port]`, `unix:/path`, and Caddy's own spelling of that, `unix//path`.
fn parse_admin_url(text: &str) -> Result<String, String> {
    let form = "must be http://HOST[:PORT] or unix:/PATH";
    for prefix in ["unix://", "unix:", "unix/"] {
        if let Some(path) = text.strip_prefix(prefix) {
            // Caddy allows a file mode after the path; it is for whoever creates the socket.
            let path = path.split_once('|').map_or(path, |(path, _)| path);
            if !path.starts_with('/') || path.ends_with('/') {
                return Err(format!("{form}: the path must be absolute and name a socket"));
            }
            return Ok(format!("unix:{path}"));
        }
    }
    let (scheme, rest) = text.split_once("://").ok_or(form)?;
    if !scheme.eq_ignore_ascii_case("http") {
        return Err(format!("{form}: Caddy's admin API does not speak {scheme}"));
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let host = Host::parse(rest.as_bytes()).map_err(|fault| format!("{form}: {fault}"))?;
    if host.port() == Some(0) {
        return Err(format!("{form}: port 0 cannot be reached"));
    }
    Ok(format!("http://{host}"))
}

/// What a path of the admin API can name as it is.
fn parse_server_name(text: &str) -> Result<String, String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if text.len() <= 100 && !text.is_empty() && text.bytes().all(fits) {
        Ok(text.to_owned())
    } else {
        Err("must be the name of a server, as in srv0: letters, digits, '_', '-' and '.'".into())
    }
}

/// The directory that was set (systemd separates several by colons), else the usual one if it is ours.
fn state_directory(reader: &mut Reader) -> Option<PathBuf> {
    if reader.is_set("Gateway__StateDirectory") {
        let text = reader.text("Gateway__StateDirectory").unwrap_or_default();
        let first = text.split(':').next().unwrap_or_default();
        return (!first.is_empty()).then(|| first.into());
    }
    let usual = Path::new(STATE_DIRECTORY);
    shared::os::can_write(usual).then(|| usual.to_owned())
}

fn parse_upstream(text: &str) -> Result<String, String> {
    let host = Host::parse(text.as_bytes()).map_err(|fault| format!("must be HOST:PORT: {fault}"))?;
    match host.port() {
        Some(port) if port != 0 => Ok(host.to_string()),
        _ => Err("must be HOST:PORT, as in 127.0.0.1:17200".into()),
    }
}

#[cfg(test)]
mod tests;
