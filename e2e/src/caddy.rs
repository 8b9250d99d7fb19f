//! A real Caddy in front of the daemons: its own configuration, data, home and ports, and certificates of its own
//! authority. No public authority is ever asked.
//!
//! Debian's package `caddy` is what the tests are for; `OCTOPORTY_CADDY` names another binary. Without any the tests say
//! so and pass, but not with `CI=true`.

mod between;

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;

pub use between::{Between, Wanted};

use crate::daemon::Daemon;
use crate::journal::{PATIENCE, until};
use crate::machine;
use crate::socket::Socket;
use crate::visitor::{Response, Visitor};
use crate::world::Folder;

/// Caddy says this once at its start and once for each change of its configuration that it accepts.
const LOADED: &str = "autosaved config";
/// Times that ports are chosen anew because somebody else took one.
const ATTEMPTS: usize = 5;

/// The binary, if there is one.
fn binary() -> Option<PathBuf> {
    static BINARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = BINARY.get_or_init(|| {
        if let Some(named) = std::env::var_os("OCTOPORTY_CADDY") {
            return Some(named.into());
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|folder| folder.join("caddy")).find(|file| file.is_file())
    });
    found.clone()
}

/// Whether tests with Caddy can run.
pub fn is_here() -> bool {
    if binary().is_some() {
        return true;
    }
    machine::lacks("Caddy is not installed (apt-get install caddy, or OCTOPORTY_CADDY=path)");
    false
}

/// Whether this Caddy knows `stream_close_delay`, which keeps WebSockets over a reload (2.7).
pub fn keeps_streams() -> bool {
    let (major, minor) = version();
    (major, minor) >= (2, 7)
}

fn version() -> (u32, u32) {
    static VERSION: OnceLock<(u32, u32)> = OnceLock::new();
    *VERSION.get_or_init(|| {
        let output = Command::new(binary().expect("Caddy")).arg("version").output().expect("caddy version");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut parts = text.trim_start_matches('v').split('.').map(|part| part.parse().ok());
        let mut next = || parts.next().flatten().unwrap_or_else(|| panic!("a version: {text:?}"));
        (next(), next())
    })
}

/// Ports for one Caddy and the Gateway behind it.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// Of the admin API.
    pub admin: u16,
    /// For visitors without TLS.
    pub http: u16,
    /// For visitors with TLS.
    pub https: u16,
    /// For the Gateway.
    pub gateway: u16,
    /// For another server.
    pub other: u16,
}

impl Ports {
    /// Free ones, below those that the kernel gives to outgoing connections.
    pub fn free() -> Ports {
        let free = machine::free_port;
        Ports { admin: free(), http: free(), https: free(), gateway: free(), other: free() }
    }

    /// The global block of a Caddyfile, with more lines.
    pub fn global(&self, more: &str) -> String {
        let Ports { admin, http, https, .. } = self;
        format!(
            "{{\n\tadmin localhost:{admin}\n\thttp_port {http}\n\thttps_port {https}\n\tlocal_certs\n\
             \tskip_install_trust\n{more}\n}}\n"
        )
    }
}

/// A running Caddy.
pub struct Caddy {
    /// The process.
    pub daemon: Daemon,
    /// Its ports.
    pub ports: Ports,
    folder: Folder,
}

impl Caddy {
    /// Starts one with a Caddyfile (or JSON) made for its ports.
    pub fn start(config: impl Fn(&Ports) -> String) -> Caddy {
        for _ in 0..ATTEMPTS {
            let ports = Ports::free();
            if let Some(caddy) = Caddy::try_start(ports, &config(&ports)) {
                return caddy;
            }
        }
        panic!("Caddy does not start; see above");
    }

    /// Starts one on these ports.
    pub fn start_on(ports: Ports, config: &str) -> Caddy {
        Caddy::try_start(ports, config).expect("Caddy starts; see above")
    }

    fn try_start(ports: Ports, config: &str) -> Option<Caddy> {
        let folder = Folder::new();
        folder.write("config", config);
        let mut caddy = Caddy { daemon: spawn(&folder), ports, folder };
        caddy.is_ready().then_some(caddy)
    }

    /// Waits until its configuration is loaded.
    fn is_ready(&mut self) -> bool {
        let ready = until("Caddy ready", PATIENCE, || {
            if self.daemon.lines().iter().any(|line| line.contains("serving initial configuration")) {
                return Some(true);
            }
            (!self.daemon.is_running()).then_some(false)
        });
        if !ready {
            self.daemon.show();
        }
        ready
    }

    /// For `Gateway__CaddyAdminUrl`.
    pub fn admin_url(&self) -> String {
        format!("http://localhost:{}", self.ports.admin)
    }

    /// Calls the admin API.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Response {
        call(self.ports.admin, method, path, body)
    }

    /// Calls the admin API, which must answer 200.
    pub fn change(&self, method: &str, path: &str, body: Option<&Value>) {
        let answer = self.call(method, path, body);
        assert_eq!(answer.status(), 200, "{method} {path}: {answer:?}");
    }

    /// A part of its configuration.
    pub fn config(&self, path: &str) -> Value {
        let answer = self.call("GET", path, None);
        assert_eq!(answer.status(), 200, "{path}: {answer:?}");
        answer.json()
    }

    /// The routes of a server.
    pub fn routes(&self, server: &str) -> Vec<Value> {
        let routes = self.config(&format!("/config/apps/http/servers/{server}/routes"));
        routes.as_array().cloned().unwrap_or_default()
    }

    /// The first host of each route of a server, ours marked.
    pub fn hosts(&self, server: &str) -> Vec<String> {
        let name = |route: &Value| {
            let host = route["match"][0]["host"][0].as_str().unwrap_or("-").to_owned();
            let ours = route["@id"].as_str().is_some_and(|id| id.starts_with("octoporty-"));
            if ours { format!("{host} ours") } else { host }
        };
        self.routes(server).iter().map(name).collect()
    }

    /// Waits until a server has exactly these routes, in the words of [`hosts`](Caddy::hosts).
    pub fn wait_hosts(&self, server: &str, wanted: &[&str]) {
        let what = format!("routes {wanted:?} in {server}; there are {:?}", self.hosts(server));
        // Caddy is looked at every 15 s, and a busy machine may need longer.
        until(&what, PATIENCE * 2, || {
            let answer = try_call(self.ports.admin, "GET", &format!("/config/apps/http/servers/{server}"));
            let there = answer.is_some_and(|answer| answer.status() == 200 && !answer.json().is_null());
            (there && self.hosts(server) == wanted).then_some(())
        });
    }

    /// How often its configuration has been changed since it was started.
    pub fn reloads(&self) -> usize {
        let count = self.daemon.lines().iter().filter(|line| line.contains(LOADED)).count();
        count.checked_sub(1).expect("it was started")
    }

    /// How often the Gateway has read its configuration over the admin API.
    pub fn reads(&self) -> usize {
        let is_read = |line: &&String| line.contains("\"GET\"") && line.contains("\"/config/apps\"");
        self.daemon.lines().iter().filter(is_read).count()
    }

    /// `caddy reload` with the file that it was started with.
    pub fn reload(&self) {
        let mut command = Command::new(binary().expect("Caddy"));
        command.args(["reload", "--force", "--config"]).arg(self.folder.path().join("config"));
        command.args(["--address", &format!("localhost:{}", self.ports.admin)]).args(adapter(&self.folder));
        self.own_places(&mut command);
        let output = command.output().expect("caddy reload");
        assert!(output.status.success(), "{output:?}");
    }

    /// Kills it, and starts it again with the file that it was started with.
    pub fn restart(&mut self) {
        self.daemon.kill();
        self.start_again();
    }

    /// Starts it again after it has ended.
    pub fn start_again(&mut self) {
        self.daemon = spawn(&self.folder);
        assert!(self.is_ready(), "Caddy starts again");
    }

    fn own_places(&self, command: &mut Command) {
        for (name, value) in places(&self.folder) {
            command.env(name, value);
        }
    }

    /// The certificate of its own authority, as a file.
    pub fn authority(&self) -> PathBuf {
        let file = self.folder.path().join("data/caddy/pki/authorities/local/root.crt");
        until("Caddy's own authority", PATIENCE, || file.is_file().then_some(()));
        file
    }

    /// TLS settings of a client that trusts its own authority only.
    pub fn tls(&self) -> Arc<ClientConfig> {
        let pem = std::fs::read(self.authority()).expect("a certificate");
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            roots.add(certificate.expect("PEM")).expect("a root");
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has all of them");
        Arc::new(config.with_root_certificates(roots).with_no_client_auth())
    }

    /// A visitor's connection with TLS; fails when Caddy has no certificate for the host.
    pub fn try_visitor(&self, host: &str) -> std::io::Result<Visitor> {
        let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, self.ports.https))?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        Ok(Visitor::over(Socket::connect_tls(tcp, self.tls(), host)?, host))
    }

    /// A visitor's connection with TLS.
    pub fn visitor(&self, host: &str) -> Visitor {
        self.try_visitor(host).unwrap_or_else(|e| panic!("TLS for {host}: {e}"))
    }

    /// A visitor's connection with TLS to a host that has just got its certificate, or is about to.
    pub fn first_visitor(&self, host: &str) -> Visitor {
        until(&format!("a certificate for {host}"), PATIENCE, || self.try_visitor(host).ok())
    }

    /// Waits until visitors of a host reach what answers 200 to `GET /hello`.
    pub fn wait_served(&self, host: &str) {
        until(&format!("{host} served by Caddy"), PATIENCE, || {
            let answer = self.try_visitor(host).ok()?.try_request("GET", "/hello", &[], None).ok()?;
            (answer.status() == 200).then_some(())
        });
    }

    /// A visitor's connection without TLS.
    pub fn plain_visitor(&self, host: &str) -> Visitor {
        Visitor::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports.http)), host)
    }

    /// `curl` as a visitor with TLS: gives its standard output.
    pub fn curl(&self, host: &str, path: &str, arguments: &[&str]) -> String {
        let output = self.try_curl(host, path, arguments);
        assert!(output.status.success(), "{host}{path} {arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The same, however it ends.
    pub fn try_curl(&self, host: &str, path: &str, arguments: &[&str]) -> std::process::Output {
        let https = self.ports.https;
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--max-time", "60", "--cacert"]).arg(self.authority());
        command.args(["--resolve", &format!("{host}:{https}:127.0.0.1"), "--noproxy", "*"]).args(arguments);
        command.arg(format!("https://{host}:{https}{path}")).output().expect("curl")
    }
}

fn spawn(folder: &Folder) -> Daemon {
    let mut command = Command::new(binary().expect("a test that looked whether Caddy is here"));
    command.args(["run", "--config"]).arg(folder.path().join("config")).args(adapter(folder));
    let places = places(folder);
    Daemon::spawn("caddy", &mut command, places.iter().map(|(name, value)| (*name, value.as_str())))
}

/// Caddyfile or JSON: JSON is what begins with an object that has a quoted key.
fn adapter(folder: &Folder) -> &'static [&'static str] {
    let text = std::fs::read_to_string(folder.path().join("config")).expect("the file that was written");
    if text.starts_with("{\"") { &[] } else { &["--adapter", "caddyfile"] }
}

fn places(folder: &Folder) -> Vec<(&'static str, String)> {
    let path = |name: &str| folder.path().join(name).to_str().expect("a path in UTF-8").to_owned();
    vec![("HOME", path("home")), ("XDG_DATA_HOME", path("data")), ("XDG_CONFIG_HOME", path("home/config"))]
}

/// Calls the admin API at a port of this machine.
pub fn call(port: u16, method: &str, path: &str, body: Option<&Value>) -> Response {
    let body = body.map(Value::to_string);
    // Each change restarts the listener of the admin API; what is under way then is cut off.
    until(&format!("{method} {path}"), PATIENCE, || request(port, method, path, body.as_deref()))
}

fn try_call(port: u16, method: &str, path: &str) -> Option<Response> {
    request(port, method, path, None)
}

fn request(port: u16, method: &str, path: &str, body: Option<&str>) -> Option<Response> {
    let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    tcp.set_read_timeout(Some(PATIENCE)).expect("a duration above zero");
    let mut visitor = Visitor::over(Socket::plain(tcp), &format!("localhost:{port}"));
    let mut fields = vec![("Connection", "close")];
    if body.is_some() {
        fields.push(("Content-Type", "application/json"));
    }
    visitor.try_request(method, path, &fields, body.map(str::as_bytes)).ok()
}
