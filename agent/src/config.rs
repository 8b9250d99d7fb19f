//! The Agent's settings: what each is called, what it means, and what it may be.
//!
//! How texts are found and how faults are reported is left to `shared::settings`. Nothing here opens a socket or the
//! database; the file of certificates is read, so that a wrong one stops the start and not the first connection.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use shared::hostname::Host;
use shared::logging::{self, LogConfig};
use shared::secret::Secret;
use shared::settings::start::{Console, Program};
use shared::settings::{Daemon, Fault, Reader, Setting};

use crate::cli;
use crate::password::PasswordHash;

/// Where the log goes when nobody says otherwise.
const LOG_FILE: &str = "/var/log/octoporty/agent-.log";
/// Values of the published example: long enough, and known to everybody.
const EXAMPLES: [&str; 2] =
    ["your-secure-api-key-at-least-32-characters-long", "your-jwt-secret-at-least-32-characters-long"];
/// Path of the tunnel at a Gateway.
const TUNNEL_PATH: &str = "/tunnel";
/// Most Gateways one Agent connects to.
const MAX_GATEWAYS: usize = 16;
/// Longest path in a Gateway's address.
const MAX_PATH: usize = 1024;
/// Longest name of an Agent.
const MAX_NAME: usize = 64;
/// Name of the database file.
pub(crate) const DATABASE: &str = "octoporty.db";
/// Where images keep their data.
const CONTAINER_DATA: &str = "/app/data";
/// Where an installed service keeps its data.
const SYSTEM_DATA: &str = "/var/lib/octoporty";

/// What `main` does next.
pub type Command = shared::settings::start::Command<Config>;

/// Everything the Agent was told. Can only be made by [`Config::load`], so that nobody checks again.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The Gateways, one Session each; at least one.
    pub gateway_urls: Vec<GatewayUrl>,
    /// The Gateway's host name, lower case, if it was given.
    pub gateway_fqdn: Option<String>,
    /// Shared with the Gateway; visible ASCII.
    pub api_key: Secret,
    /// Signs the tokens of the admin page.
    pub jwt_secret: Secret,
    /// The Operator's password, hashed; `PasswordHash::parse` accepts it.
    pub password_hash: Secret,
    /// Port of the admin page; 0 for any free port.
    pub port: u16,
    /// The address that the admin page listens on; `::` stands for both families.
    pub bind_address: IpAddr,
    /// Seconds of silence after which a Beat is sent.
    pub heartbeat_seconds: u64,
    /// Seconds before the second try to reconnect.
    pub reconnect_delay: u64,
    /// Most seconds between tries to reconnect; not less than `reconnect_delay`.
    pub max_reconnect_delay: u64,
    /// Certificates that Gateways are trusted by, besides those of the system.
    pub gateway_ca_file: Option<PathBuf>,
    /// Links in a Session; `None` for as many as the Gateway says.
    pub links: Option<u8>,
    /// Bytes that all Streams together may have in flight.
    pub memory_budget: u64,
    /// The database file.
    pub database: PathBuf,
    /// Days for which requests are kept.
    pub request_log_days: u64,
    /// Requests that are kept at most.
    pub request_log_rows: u64,
    /// Whether query strings are stored.
    pub log_query_strings: bool,
    /// Lets whoever sends it read `/metrics`.
    pub metrics_token: Option<Secret>,
    /// What the Agent calls itself.
    pub name: String,
    /// What is logged, and where to.
    pub log: LogConfig,
    /// What the Operator should know about the settings; to be logged once the log runs.
    pub warnings: Vec<String>,
}

/// Where a Gateway is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GatewayUrl {
    /// Whether TLS is spoken: `wss`.
    pub tls: bool,
    /// Host name in lower case, or address; IPv6 without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The path; begins with `/`.
    pub path: String,
}

impl GatewayUrl {
    /// Reads `ws[s]://host[:port][/path]`. `http` and `https` mean the same.
    pub fn parse(text: &str) -> Result<GatewayUrl, String> {
        let wrong = |why: &str| format!("{why}; must be like wss://gateway.example.com/tunnel");
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("has no scheme"))?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "wss" | "https" => true,
            "ws" | "http" => false,
            _ => return Err(wrong(&format!("unknown scheme {scheme:?}"))),
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(wrong("user names and passwords have no place here"));
        }
        if path.contains(['?', '#']) {
            return Err(wrong("has a query or a fragment"));
        }
        if path.len() > MAX_PATH || !path.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(wrong("the path is too long or has a character that must be encoded"));
        }
        let host = Host::parse(authority.as_bytes()).map_err(|fault| wrong(&fault.to_string()))?;
        let port = host.port().unwrap_or(if tls { 443 } else { 80 });
        if port == 0 {
            return Err(wrong("port 0 cannot be reached"));
        }
        let path = if matches!(path, "" | "/") { TUNNEL_PATH } else { path };
        Ok(GatewayUrl { tls, host: host.name().to_owned(), port, path: path.to_owned() })
    }

    /// The host as it stands in a `Host` field: an IPv6 address in brackets, the port unless it is the scheme's own.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let own_port = if self.tls { 443 } else { 80 };
        if self.port == own_port { host } else { format!("{host}:{}", self.port) }
    }

    /// Whether the way there stays inside: this machine, a private network, or a name that only such a network knows.
    fn is_near(&self) -> bool {
        match self.host.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
            Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
            Ok(IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
            // A single label is never resolved by public DNS; `localhost` is this machine (RFC 6761 6.3).
            Err(_) => !self.host.contains('.') || self.host.ends_with(".localhost"),
        }
    }
}

impl fmt::Display for GatewayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.tls { "wss" } else { "ws" }, self.authority(), self.path)
    }
}

const SETTINGS: &[Setting] = &[
    Setting::text(
        "Agent__GatewayFqdn",
        "A host name",
        "",
        "The Gateway's host name, as in gateway.example.com. The Agent connects to wss://HOST/tunnel, and the Gateway \
         shows its landing page under this name. Either this or Agent__GatewayUrl is required.",
    )
    .aliases(&["AGENT_GATEWAY_FQDN"]),
    Setting::text(
        "Agent__GatewayUrl",
        "wss://HOST[:PORT][/PATH], or several separated by commas",
        "",
        "Where the Gateway is, if not where Agent__GatewayFqdn says. The Agent connects to each of several. ws:// is \
         refused except for a private network, because the key would travel in clear.",
    )
    .aliases(&["AGENT_GATEWAY_URL"])
    .default_text("worked out from Agent__GatewayFqdn"),
    Setting::secret("Agent__ApiKey", 32, "The Gateway's key: the same as Gateway__ApiKey there.")
        .required()
        .aliases(&["AGENT_API_KEY"]),
    Setting::secret(
        "Agent__JwtSecret",
        32,
        "Signs who is logged in at the admin page. Make one with: openssl rand -base64 32",
    )
    .required()
    .aliases(&["AGENT_JWT_SECRET"]),
    Setting::secret(
        "Agent__Auth__PasswordHash",
        0,
        "SHA-512 crypt hash ($6$...) of the admin page's password. Make one with: octoporty-agent hash-password, or: \
         openssl passwd -6. In a compose file each $ must be doubled; in an env file of compose the value must stand \
         in single quotes.",
    )
    .required()
    .aliases(&["AGENT_AUTH_PASSWORD_HASH", "AGENT_PASSWORD_HASH"]),
    Setting::number(
        "Agent__Port",
        17201,
        0,
        65535,
        "Port of the admin page; 0 takes any free one. When it is not set, the http port in ASPNETCORE_URLS is used.",
    ),
    Setting::text(
        "Agent__BindAddress",
        "An IP address; :: is all addresses of both families",
        "::",
        "Address that the admin page listens on.",
    ),
    Setting::text(
        "Agent__Name",
        "1 to 64 characters",
        "",
        "What this Agent is called at the Gateway and in logs.",
    )
    .default_text("the name of the machine"),
    Setting::number(
        "Agent__HeartbeatIntervalSeconds",
        30,
        5,
        300,
        "Silence after which a heartbeat is sent; a Link that stays silent for two intervals is given up. Must be \
         shorter than the patience of routers on the way.",
    ),
    Setting::number(
        "Agent__ReconnectDelaySeconds",
        5,
        1,
        3600,
        "Delay before a failed reconnection is tried again; doubles each time.",
    ),
    Setting::number(
        "Agent__MaxReconnectDelaySeconds",
        300,
        1,
        86_400,
        "Longest delay between reconnection attempts; not less than Agent__ReconnectDelaySeconds.",
    ),
    Setting::text(
        "Agent__GatewayCaFile",
        "A path to PEM certificates",
        "",
        "Certificates that Gateways are trusted by, besides those of the system: for a Gateway with a private CA.",
    ),
    Setting::switch(
        "Agent__AllowInsecureGateway",
        false,
        "Allows ws:// to a Gateway outside the private network. The key and all traffic can then be read and changed \
         by anybody on the way.",
    ),
    Setting::number_or(
        "Agent__Links",
        "as many as the Gateway says",
        1,
        8,
        "Connections to each Gateway. 1 or 2 suffice for a small machine on a slow line.",
    ),
    Setting::number_or(
        "Agent__MemoryBudgetMiB",
        "64, or 16 on a machine with less than 1 GiB of memory",
        8,
        65_536,
        "Memory for data in flight of all requests together.",
    ),
    Setting::text(
        "ConnectionStrings__DefaultConnection",
        "Data Source=PATH",
        "",
        "The SQLite database with mappings and request log. Its directory is created if need be and must be writable.",
    )
    .aliases(&["CONNECTION_STRING"])
    .default_text(
        "/app/data/octoporty.db in a container, else /var/lib/octoporty/octoporty.db, else ./octoporty.db when that \
         directory cannot be written",
    ),
    Setting::number("Agent__RequestLogDays", 30, 1, 3650, "Days for which requests are kept."),
    Setting::number(
        "Agent__RequestLogRows",
        200_000,
        0,
        100_000_000,
        "Requests that are kept at most; 0 keeps none.",
    ),
    Setting::switch("Agent__LogQueryStrings", true, "Whether the query string of a request is stored with it."),
    Setting::secret(
        "Agent__MetricsToken",
        16,
        "Bearer token with which /metrics may be read without logging in.",
    ),
    logging::LEVEL,
    logging::file_setting(LOG_FILE),
    logging::RETAINED,
    logging::FILE_SIZE,
];

/// The Agent, as settings and command line know it.
pub static DAEMON: Daemon = Daemon {
    program: "octoporty-agent",
    version: crate::VERSION,
    summary: "the private half of Octoporty: publishes services through a Gateway",
    description: "Runs in a private network and connects to a Gateway on a public server. What Visitors ask of the \
                  Gateway under a mapped host name, the Agent asks of the service inside. Mappings are kept in a \
                  database and changed on the admin page.\n\n\
                  Runs in the foreground and logs to standard error.",
    settings: SETTINGS,
    prefixes: &["Agent__", "ConnectionStrings__", "Logging__"],
    legacy: &[
        "Agent__Auth__Username",
        "Agent__Auth__Password",
        "AGENT_USERNAME",
        "AGENT_PASSWORD",
        "Logging__SeqUrl",
        "Logging__SeqApiKey",
        "Logging__MinimumLevel",
        "Logging__LogLevel__*",
    ],
    commands: cli::COMMANDS,
    examples: cli::EXAMPLES,
    env_file: "/etc/octoporty/agent.env",
    files: &[
        ("/etc/octoporty/agent.env", "Settings, where the systemd unit passes it with --env-file."),
        ("/var/lib/octoporty/octoporty.db", "Mappings, request log and sessions (/app/data in a container)."),
        ("/var/log/octoporty/agent-YYYYMMDD.log", "The log of a day."),
    ],
    port_key: "Agent__Port",
};

/// The program: its settings, its sub-commands, and what becomes of them.
pub const PROGRAM: Program<Config> = Program {
    daemon: &DAEMON,
    load: Config::load,
    warnings: |config| &config.warnings,
    address: |reader| (bind_address(reader), reader.port()),
    other: Some(cli::run),
};

/// What `main` does up to the point where the Agent would start, with everything it looks at handed in.
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
        let gateway_fqdn = r.parsed("Agent__GatewayFqdn", shared::settings::parse_fqdn);
        let gateway_urls = gateway_urls(r, gateway_fqdn.as_deref());
        let reconnect_delay = r.number("Agent__ReconnectDelaySeconds");
        let mut config = Config {
            gateway_urls,
            gateway_fqdn,
            api_key: r.header_secret("Agent__ApiKey").unwrap_or_else(|| Secret::new("")),
            jwt_secret: r.secret("Agent__JwtSecret"),
            password_hash: password_hash(r),
            port: r.port(),
            bind_address: bind_address(r),
            heartbeat_seconds: r.number("Agent__HeartbeatIntervalSeconds"),
            reconnect_delay,
            max_reconnect_delay: max_reconnect_delay(r, reconnect_delay),
            gateway_ca_file: r.parsed("Agent__GatewayCaFile", ca_file),
            links: r.optional_number("Agent__Links").map(|links| links as u8),
            memory_budget: r
                .optional_number("Agent__MemoryBudgetMiB")
                .unwrap_or_else(|| shared::settings::by_memory(64))
                * 1024
                * 1024,
            database: database(r),
            request_log_days: r.number("Agent__RequestLogDays"),
            request_log_rows: r.number("Agent__RequestLogRows"),
            log_query_strings: r.switch("Agent__LogQueryStrings"),
            metrics_token: r.header_secret("Agent__MetricsToken"),
            name: r.parsed("Agent__Name", parse_name).unwrap_or_else(machine_name),
            log: LogConfig::read(r, Some(Path::new(LOG_FILE))),
            warnings: Vec::new(),
        };
        for (key, secret) in [("Agent__ApiKey", &config.api_key), ("Agent__JwtSecret", &config.jwt_secret)] {
            if EXAMPLES.contains(&secret.expose()) {
                r.warn(format!("{key} is the example from the documentation: anybody knows it"));
            }
        }
        config.warnings = reader.finish()?;
        Ok(config)
    }

    /// Makes the directory of the database, if it is not there; only its owner gets in. When that fails, opening the
    /// database says why, and better.
    pub fn make_database_directory(&self) {
        let Some(directory) = self.database.parent().filter(|path| !path.as_os_str().is_empty()) else {
            return;
        };
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        if let Err(e) = made {
            log::debug!("directory {}: cannot be made: {e}", directory.display());
        }
    }

    /// What the start-up banner shows, secrets obfuscated. Of the hash only the start goes in: its salt is public,
    /// the rest is not.
    pub fn banner(&self) -> Vec<(&'static str, String)> {
        let urls: Vec<String> = self.gateway_urls.iter().map(GatewayUrl::to_string).collect();
        let hash: String = self.password_hash.expose().chars().take(20).chain("...".chars()).collect();
        vec![
            ("Name", self.name.clone()),
            ("GatewayFqdn", self.gateway_fqdn.clone().unwrap_or_else(|| "(not set)".into())),
            ("GatewayUrl", urls.join(", ")),
            ("ApiKey", self.api_key.obfuscated()),
            ("JwtSecret", self.jwt_secret.obfuscated()),
            ("PasswordHash", shared::secret::obfuscate(&hash)),
            ("Database", self.database.display().to_string()),
            ("Container UID:GID", logging::uid_gid()),
        ]
    }
}

fn bind_address(reader: &mut Reader) -> IpAddr {
    let address = reader.parsed("Agent__BindAddress", shared::settings::parse_address);
    address.unwrap_or(Ipv6Addr::UNSPECIFIED.into())
}

fn gateway_urls(reader: &mut Reader, fqdn: Option<&str>) -> Vec<GatewayUrl> {
    let key = "Agent__GatewayUrl";
    let insecure_allowed = reader.switch("Agent__AllowInsecureGateway");
    let mut warnings = Vec::new();
    let urls = if reader.is_set(key) {
        let parse = |text: &str| parse_urls(text, insecure_allowed, &mut warnings);
        reader.parsed(key, parse).unwrap_or_default()
    } else if let Some(fqdn) = fqdn {
        let path = TUNNEL_PATH.to_owned();
        vec![GatewayUrl { tls: true, host: fqdn.to_owned(), port: 443, path }]
    } else {
        // A faulty name has been reported already.
        if !reader.is_set("Agent__GatewayFqdn") {
            let rule =
                "is required (or Agent__GatewayUrl): the Gateway's host name, as in gateway.example.com";
            reader.missing("Agent__GatewayFqdn", rule);
        }
        Vec::new()
    };
    for warning in warnings {
        reader.warn(format!("{key} {warning}"));
    }
    urls
}

fn parse_urls(
    text: &str,
    insecure_allowed: bool,
    warnings: &mut Vec<String>,
) -> Result<Vec<GatewayUrl>, String> {
    let mut urls: Vec<GatewayUrl> = Vec::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        // Of several, say which.
        let which = if item == text.trim() { String::new() } else { format!("{item:?} ") };
        let url = GatewayUrl::parse(item)
            .map_err(|why| if item.contains('@') { why } else { format!("{which}{why}") })?;
        if !url.tls && !url.is_near() {
            let why = "without TLS the key and all traffic can be read and changed by anybody on the way";
            if !insecure_allowed {
                return Err(format!(
                    "{which}is refused: {why}; use wss://, or set Agent__AllowInsecureGateway=true if the way is safe"
                ));
            }
            warnings.push(format!("{item:?}: {why}"));
        }
        if item.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("http")) {
            warnings.push(format!("{item:?} is read as {url}"));
        }
        if urls.contains(&url) {
            warnings.push(format!("{item:?} is named twice and used once"));
        } else {
            urls.push(url);
        }
    }
    match urls.len() {
        0 => Err("names no Gateway".into()),
        count if count > MAX_GATEWAYS => {
            Err(format!("names {count} Gateways, at most {MAX_GATEWAYS} are allowed"))
        }
        _ => Ok(urls),
    }
}

fn password_hash(reader: &mut Reader) -> Secret {
    let key = "Agent__Auth__PasswordHash";
    let mut slow = false;
    let parse = |text: &str| {
        let text = unquoted(text.trim());
        match PasswordHash::parse(text) {
            Ok(hash) => {
                slow = hash.is_slow();
                Ok(Secret::new(text))
            }
            Err(fault) => Err(format!("{fault}; {}", hash_hint(text))),
        }
    };
    let hash = reader.parsed(key, parse);
    if slow {
        reader.warn(format!("{key} asks for so many rounds that logging in will take long"));
    }
    hash.unwrap_or_else(|| Secret::new(""))
}

/// Without the quotes that `docker run --env-file` takes for a part of the value: no hash has any, and every other
/// reader of env files needs them.
fn unquoted(text: &str) -> &str {
    let inside = ['\'', '"'].iter().find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote));
    inside.unwrap_or(text)
}

/// What has probably happened to a hash that is none.
fn hash_hint(text: &str) -> &'static str {
    if text.starts_with(['\'', '"']) {
        return "it begins with a quote: whatever reads this file takes quotes as part of the value, so leave them out";
    }
    if text.starts_with("$$6$$") {
        return "each $ is doubled: that is right in a compose file only";
    }
    let kind = ["$1$", "$2", "$5$", "$7$", "$y$", "$argon2"].iter().any(|start| text.starts_with(start));
    // A shell or compose replaces $6, $rounds, $salt by nothing, which leaves a stump; sometimes with the `6` or the
    // `=5000` of the rounds in front.
    if !kind && text.len() < 100 {
        return "it looks as if a shell or compose has expanded the parts after each $: put it in single quotes, and \
                double each $ inside a compose file; a new one is made with: octoporty-agent hash-password";
    }
    "make one with: octoporty-agent hash-password, or: openssl passwd -6"
}

fn max_reconnect_delay(reader: &mut Reader, least: u64) -> u64 {
    let key = "Agent__MaxReconnectDelaySeconds";
    let most = reader.number(key);
    if most < least && reader.is_set(key) {
        reader.fault(key, format!("must not be less than Agent__ReconnectDelaySeconds ({least})"));
    }
    // A long first delay with the cap left alone is meant.
    most.max(least)
}

/// Certificates must be there and readable now: nobody looks when a connection fails in a month.
fn ca_file(text: &str) -> Result<PathBuf, String> {
    let pem = fs::read(text).map_err(|error| format!("cannot be read: {error}"))?;
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| format!("is no PEM file: {error}"))?;
        let mut store = rustls::RootCertStore::empty();
        store.add(certificate).map_err(|error| format!("certificate {}: {error}", count + 1))?;
        count += 1;
    }
    if count == 0 {
        return Err("contains no PEM certificate (BEGIN CERTIFICATE)".into());
    }
    Ok(text.into())
}

fn parse_name(text: &str) -> Result<String, String> {
    if text.chars().count() > MAX_NAME || text.chars().any(char::is_control) {
        return Err(format!("must have at most {MAX_NAME} characters, none of them a control character"));
    }
    Ok(text.to_owned())
}

fn machine_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = name.and_then(|name| parse_name(name.trim()).ok()).filter(|name| !name.is_empty());
    name.unwrap_or_else(|| "agent".into())
}

/// Where the database is, for commands to which nothing else matters.
pub(crate) fn database_of(mut reader: Reader) -> Result<PathBuf, Vec<Fault>> {
    let path = database(&mut reader);
    reader.finish().map(|_| path)
}

fn database(reader: &mut Reader) -> PathBuf {
    let key = "ConnectionStrings__DefaultConnection";
    if reader.is_set(key) {
        return reader.parsed(key, parse_connection_string).unwrap_or_default();
    }
    let told = ["DOTNET_RUNNING_IN_CONTAINER", "container"].iter().any(|name| reader.has_variable(name));
    let in_container = told || Path::new(CONTAINER_DATA).is_dir();
    default_database(in_container, writable)
}

/// `Data Source=PATH;...`: the file; other parts mean nothing here.
fn parse_connection_string(text: &str) -> Result<PathBuf, String> {
    let form = "must be like Data Source=/path/octoporty.db";
    let mut parts = text.split(';').filter_map(|part| part.split_once('='));
    let names = ["data source", "datasource", "filename"];
    let found = parts.find(|(name, _)| names.contains(&name.trim().to_ascii_lowercase().as_str()));
    let (_, value) = found.ok_or_else(|| format!("{form}: no Data Source is in it"))?;
    let value = value.trim();
    let unquoted = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
    let path = unquoted.unwrap_or(value);
    match path {
        "" => Err(format!("{form}: the path is empty")),
        ":memory:" => Err(format!("{form}: in memory all mappings would be lost at the next start")),
        _ if path.starts_with("file:") => Err(format!("{form}: a path, not a URI")),
        _ if path.ends_with('/') || Path::new(path).is_dir() => {
            Err(format!("{form}: the path is a directory"))
        }
        _ => Ok(path.into()),
    }
}

/// Where the database is when nobody says: in the image's volume, in the service's directory, or here.
fn default_database(in_container: bool, writable: impl Fn(&Path) -> bool) -> PathBuf {
    let directory = if in_container {
        Path::new(CONTAINER_DATA)
    } else if writable(Path::new(SYSTEM_DATA)) {
        Path::new(SYSTEM_DATA)
    } else {
        Path::new(".")
    };
    directory.join(DATABASE)
}

/// Whether files can be made in `directory`, or in the nearest one above it that is there. Found out by trying:
/// mode bits say nothing about read-only file systems and access lists.
pub(crate) fn writable(directory: &Path) -> bool {
    let Some(present) = directory.ancestors().find(|path| path.exists()) else { return false };
    let probe = present.join(format!(".write-test-{}", process::id()));
    let made = fs::OpenOptions::new().write(true).create_new(true).open(&probe).is_ok();
    made && fs::remove_file(&probe).is_ok()
}

#[cfg(test)]
mod tests;
