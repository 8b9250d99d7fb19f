//! The systems that are measured, and how each is set up: the way its own documentation shows, with
//! keep-alive where it has it and without logs of requests.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::daemon::{Daemon, Launch};
use crate::fault::Fault;
use crate::lab::{Country, Lab, Tools};
use crate::target::Target;

/// One way from a Visitor to the Upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum System {
    /// No system at all.
    Direct,
    /// One reverse proxy.
    Nginx,
    /// Two: the same hops as a tunnel, without one.
    NginxNginx,
    /// A tunnel in Rust, over plain TCP.
    Rathole,
    /// Ours, over `ws://`.
    Ours,
    /// Ours, with Caddy in front of both Visitors and the Tunnel.
    OursTls,
    /// The build before, like [`Ours`](Self::Ours).
    Before,
    /// The build before, like [`OursTls`](Self::OursTls).
    BeforeTls,
}

impl System {
    /// All, in the order of the table.
    pub const ALL: [Self; 8] = [
        Self::Direct,
        Self::Nginx,
        Self::NginxNginx,
        Self::Rathole,
        Self::Ours,
        Self::OursTls,
        Self::Before,
        Self::BeforeTls,
    ];

    /// For `--only` and file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::NginxNginx => "nginx-nginx",
            Self::Rathole => "rathole",
            Self::Ours => "octoporty",
            Self::OursTls => "octoporty-wss",
            Self::Before => "before",
            Self::BeforeTls => "before-wss",
        }
    }

    /// For the table.
    pub fn title(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::NginxNginx => "nginx → nginx",
            Self::Rathole => "rathole",
            Self::Ours => "**Octoporty**",
            Self::OursTls => "**Octoporty, TLS by Caddy**",
            Self::Before => "the build before",
            Self::BeforeTls => "the build before, TLS by Caddy",
        }
    }

    /// Whether it is ours, of whichever build.
    pub fn is_ours(self) -> bool {
        matches!(self, Self::Ours | Self::OursTls | Self::Before | Self::BeforeTls)
    }

    /// Whether it is a build of ours from before.
    pub fn is_before(self) -> bool {
        matches!(self, Self::Before | Self::BeforeTls)
    }

    /// Whether Caddy is in front of it.
    fn has_tls(self) -> bool {
        matches!(self, Self::OursTls | Self::BeforeTls)
    }

    /// What it is compared with in the rows of ratios: peers, or the build before itself.
    pub fn peers(self) -> &'static [Self] {
        match self {
            Self::Ours => &[Self::NginxNginx, Self::Rathole, Self::Before],
            Self::OursTls => &[Self::NginxNginx, Self::Rathole, Self::BeforeTls],
            _ => &[],
        }
    }

    /// Our programs, of the build that it means.
    fn programs(self, tools: &Tools) -> (&PathBuf, &PathBuf) {
        match (&tools.before, self.is_before()) {
            (Some((gateway, agent)), true) => (gateway, agent),
            _ => (&tools.gateway, &tools.agent),
        }
    }

    /// What of its programs is missing.
    pub fn missing(self, lab: &Lab) -> Option<PathBuf> {
        let tools = &lab.tools;
        let (gateway, agent) = self.programs(tools);
        let needed: &[&PathBuf] = match self {
            Self::Direct => &[],
            Self::Nginx | Self::NginxNginx => &[&tools.nginx],
            Self::Rathole => &[&tools.rathole],
            Self::Ours | Self::Before => &[gateway, agent],
            Self::OursTls | Self::BeforeTls => &[gateway, agent, &tools.caddy],
        };
        needed.iter().find(|path| !path.is_file()).map(|path| (*path).clone())
    }
}

/// Where the public and the private half live.
#[derive(Clone, Debug)]
pub struct Place {
    /// Namespace of the Visitors and the public half.
    pub front: Option<String>,
    /// How the private half reaches the public one.
    pub front_ip: &'static str,
    /// Namespace of the private half and the Upstream.
    pub back: Option<String>,
    /// How the public half reaches the private one.
    pub back_ip: &'static str,
    /// What daemons that must be reached over the line listen on.
    any: &'static str,
    /// Keeps files of several places apart.
    name: &'static str,
}

impl Place {
    /// Everything on this machine's loopback.
    pub fn loopback() -> Self {
        let ip = "127.0.0.1";
        Self { front: None, front_ip: ip, back: None, back_ip: ip, any: ip, name: "here" }
    }

    /// Both halves with a line between them.
    pub fn country(country: &Country) -> Self {
        Self {
            front: Some(country.front.name.clone()),
            front_ip: Country::FRONT,
            back: Some(country.back.name.clone()),
            back_ip: Country::BACK,
            any: "0.0.0.0",
            name: "far",
        }
    }

    /// Starts the Upstream.
    pub fn upstream(&self, lab: &Lab) -> Result<(Daemon, u16), Fault> {
        let port = lab.port()?;
        let launch = Launch {
            name: "upstream".to_owned(),
            netns: self.back.clone(),
            program: lab.tools.bench.clone(),
            args: vec!["upstream".to_owned(), "--listen".to_owned(), format!("{}:{port}", self.any)],
            env: Vec::new(),
            log: lab.dir(self.name)?.join("upstream.log"),
        };
        let mut daemons = [launch.start()?];
        let target = Target::parse(&format!("http://127.0.0.1:{port}"), "bench.localhost")?;
        lab.until_served(self.back.as_deref(), &target, "/100", &mut daemons)?;
        let [upstream] = daemons;
        Ok((upstream, port))
    }
}

/// A system that serves.
#[derive(Debug)]
pub struct Running {
    /// Which one.
    pub system: System,
    /// The namespace of its Visitors.
    pub netns: Option<String>,
    /// Its entrance.
    pub target: Target,
    /// From the start of its first daemon to the first answer of the Upstream through it.
    pub serving: Duration,
    /// Its daemons, to look at.
    pub daemons: Vec<Daemon>,
    /// Ours has more to be asked.
    pub ours: Option<Ours>,
}

/// What the measurements that only concern us need.
#[derive(Debug)]
pub struct Ours {
    /// To start it again. Its daemon is the first.
    pub gateway: Launch,
    /// To start it again. Its daemon is the second.
    pub agent: Launch,
    /// The Agent's admin API.
    pub admin: SocketAddr,
    /// From the Gateway's start to its first answer.
    pub gateway_serving: Duration,
    /// From the Agent's start to the first answer through the Tunnel.
    pub agent_serving: Duration,
}

impl Running {
    /// Processes of all daemons.
    pub fn family(&self) -> Vec<u32> {
        self.daemons.iter().flat_map(Daemon::family).collect()
    }
}

/// Password of the throw-away Agents, and its hash as `openssl passwd -6` gives it.
pub const PASSWORD: &str = "bench password";
const PASSWORD_HASH: &str =
    "$6$benchbench$AV.7fwrDdEqgOZNRi6.XYnvhP4gHM15wMxOVeycvRpCXpGodv/h7vJ0stBYBnu4HmTOJ6dUXS4sFOCPvMQwpV/";
/// Shared by a throw-away Gateway and Agent on this machine.
const API_KEY: &str = "bench-only-key-of-a-throw-away-gateway-0123456789";
const JWT_SECRET: &str = "bench-only-secret-of-a-throw-away-agent-0123456789";
/// The name the Visitors ask for.
pub const DOMAIN: &str = "bench.localhost";

/// Sets a system up in `place`, in front of the Upstream's `port`, and waits until it serves. Ours keeps its
/// database from one start to the next, so `serving` holds no setting-up from the second start on.
pub fn start(lab: &Lab, system: System, place: &Place, port: u16) -> Result<Running, Fault> {
    let begin = Instant::now();
    let setup =
        Setup { lab, system, place, port, dir: lab.dir(&format!("{}/{}", place.name, system.name()))? };
    let mut running = match system {
        System::Direct => setup.direct(),
        System::Nginx => setup.nginx(),
        System::NginxNginx => setup.nginx_nginx(),
        System::Rathole => setup.rathole(),
        System::Ours | System::OursTls | System::Before | System::BeforeTls => setup.ours(),
    }?;
    let netns = running.netns.clone();
    lab.until_served(netns.as_deref(), &running.target, "/100", &mut running.daemons)?;
    running.serving = begin.elapsed();
    Ok(running)
}

struct Setup<'a> {
    lab: &'a Lab,
    system: System,
    place: &'a Place,
    port: u16,
    dir: PathBuf,
}

impl Setup<'_> {
    fn running(&self, url: &str, daemons: Vec<Daemon>) -> Result<Running, Fault> {
        Ok(Running {
            system: self.system,
            netns: self.place.front.clone(),
            target: Target::parse(url, DOMAIN)?,
            serving: Duration::ZERO,
            daemons,
            ours: None,
        })
    }

    fn launch(&self, name: &str, netns: &Option<String>, program: &Path, args: &[&str]) -> Launch {
        Launch {
            name: format!("{} of {}", name, self.system.name()),
            netns: netns.clone(),
            program: program.to_owned(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: Vec::new(),
            log: self.dir.join(format!("{name}.log")),
        }
    }

    fn set_known(&self, launch: &mut Launch, name: &str, value: &str) -> Result<(), Fault> {
        if self.lab.knows(&launch.program, name)? {
            set(launch, &[(name, value)]);
        }
        Ok(())
    }

    fn direct(&self) -> Result<Running, Fault> {
        self.running(&format!("http://{}:{}", self.place.back_ip, self.port), Vec::new())
    }

    fn nginx_daemon(
        &self,
        name: &str,
        netns: &Option<String>,
        listen: &str,
        upstream: &str,
    ) -> Result<Daemon, Fault> {
        let dir = self.lab.dir(&format!("{}/{}/{name}", self.place.name, self.system.name()))?;
        let conf = dir.join("nginx.conf");
        write(&conf, &nginx_conf(&dir, listen, upstream))?;
        let (dir, conf) = (dir.to_string_lossy(), conf.to_string_lossy());
        let args = ["-p", &*dir, "-c", &*conf, "-e", "stderr"];
        self.launch(name, netns, &self.lab.tools.nginx, &args).start()
    }

    fn nginx(&self) -> Result<Running, Fault> {
        let listen = format!("127.0.0.1:{}", self.lab.port()?);
        let upstream = format!("{}:{}", self.place.back_ip, self.port);
        let front = self.nginx_daemon("front", &self.place.front, &listen, &upstream)?;
        self.running(&format!("http://{listen}"), vec![front])
    }

    fn nginx_nginx(&self) -> Result<Running, Fault> {
        let (listen, port) = (format!("127.0.0.1:{}", self.lab.port()?), self.lab.port()?);
        let between = format!("{}:{port}", self.place.any);
        let upstream = format!("127.0.0.1:{}", self.port);
        let back = self.nginx_daemon("back", &self.place.back, &between, &upstream)?;
        let to_back = format!("{}:{port}", self.place.back_ip);
        let front = self.nginx_daemon("front", &self.place.front, &listen, &to_back)?;
        self.running(&format!("http://{listen}"), vec![front, back])
    }

    fn rathole(&self) -> Result<Running, Fault> {
        let (entrance, control) = (self.lab.port()?, self.lab.port()?);
        let server = self.dir.join("server.toml");
        write(
            &server,
            &format!(
                "[server]\nbind_addr = \"{}:{control}\"\ndefault_token = \"bench\"\n\
                 [server.services.web]\nbind_addr = \"127.0.0.1:{entrance}\"\n",
                self.place.any
            ),
        )?;
        let home = self.dir.join("client.toml");
        write(
            &home,
            &format!(
                "[client]\nremote_addr = \"{}:{control}\"\ndefault_token = \"bench\"\n\
                 [client.services.web]\nlocal_addr = \"127.0.0.1:{}\"\n",
                self.place.front_ip, self.port
            ),
        )?;
        let start = |name: &str, netns: &Option<String>, side: &str, conf: &Path| {
            let conf = conf.to_string_lossy();
            let mut launch = self.launch(name, netns, &self.lab.tools.rathole, &[side, &*conf]);
            launch.env.push(("RUST_LOG".to_owned(), "warn".to_owned()));
            launch.start()
        };
        let front = start("server", &self.place.front, "--server", &server)?;
        let listening = SocketAddr::new(address("127.0.0.1")?, control);
        self.lab.until_listening(self.place.front.as_deref(), listening)?;
        let back = start("client", &self.place.back, "--client", &home)?;
        self.running(&format!("http://127.0.0.1:{entrance}"), vec![front, back])
    }

    fn ours(&self) -> Result<Running, Fault> {
        let place = self.place;
        let tls = self.system.has_tls();
        let (gateway_program, agent_program) = self.system.programs(&self.lab.tools);
        let (gateway_port, admin_port) = (self.lab.port()?, self.lab.port()?);
        let mut daemons = Vec::new();

        let mut gateway = self.launch("gateway", &place.front, gateway_program, &[]);
        let bind = if tls { "127.0.0.1" } else { place.any };
        set(
            &mut gateway,
            &[
                ("Gateway__ApiKey", API_KEY),
                ("Gateway__Port", &gateway_port.to_string()),
                ("Gateway__BindAddress", bind),
                // Nobody listens there: a Caddy of this machine must not hear of the bench.
                ("Gateway__CaddyAdminUrl", "http://127.0.0.1:1"),
                ("Logging__LogLevel", "Warning"),
                ("Logging__FilePath", ""),
            ],
        );
        self.set_known(&mut gateway, "Gateway__CaddyMode", "off")?;
        let begin = Instant::now();
        daemons.push(gateway.start()?);
        let health = Target::parse(&format!("http://127.0.0.1:{gateway_port}"), "127.0.0.1")?;
        self.lab.until_served(place.front.as_deref(), &health, "/health", &mut daemons)?;
        let gateway_serving = begin.elapsed();

        let mut url = format!("http://127.0.0.1:{gateway_port}");
        let mut tunnel = format!("ws://{}:{gateway_port}/tunnel", place.front_ip);
        let mut caddy_and_ca = None;
        if tls {
            let port = self.lab.port()?;
            let (caddy, ca) = self.caddy(port, gateway_port)?;
            caddy_and_ca = Some((caddy, ca));
            url = format!("https://{}:{port}", place.front_ip);
            tunnel = format!("wss://{}:{port}/tunnel", place.front_ip);
        }

        let mut agent = self.launch("agent", &place.back, agent_program, &[]);
        let database = self.dir.join("agent.db");
        // Written once the Mapping stands; the database alone may be the rest of a start that failed.
        let mapped = self.dir.join("mapped");
        set(
            &mut agent,
            &[
                ("Agent__GatewayUrl", &tunnel),
                ("Agent__ApiKey", API_KEY),
                ("Agent__JwtSecret", JWT_SECRET),
                ("Agent__Auth__PasswordHash", PASSWORD_HASH),
                ("Agent__Port", &admin_port.to_string()),
                ("Agent__BindAddress", "127.0.0.1"),
                ("ConnectionStrings__DefaultConnection", &format!("Data Source={}", database.display())),
                ("Logging__LogLevel", "Warning"),
                ("Logging__FilePath", ""),
            ],
        );
        // The benchmark range of addresses is not a private one.
        self.set_known(&mut agent, "Agent__AllowInsecureGateway", "true")?;
        if let Some((_, ca)) = &caddy_and_ca {
            set(&mut agent, &[("Agent__GatewayCaFile", &ca.to_string_lossy())]);
        }
        let begin = Instant::now();
        daemons.push(agent.start()?);
        let admin = SocketAddr::new(address("127.0.0.1")?, admin_port);
        if !mapped.exists() {
            self.lab.until_listening(place.back.as_deref(), admin)?;
            let mut args = vec!["map".to_owned(), "--agent".to_owned(), admin.to_string()];
            args.extend(["--domain".to_owned(), DOMAIN.to_owned()]);
            args.extend(["--port".to_owned(), self.port.to_string()]);
            self.lab.generate(place.back.as_deref(), &args, Duration::from_secs(20), || {})?;
            write(&mapped, "")?;
        }
        let mut running = self.running(&url, daemons)?;
        let entrance = Target::parse(&format!("http://127.0.0.1:{gateway_port}"), DOMAIN)?;
        self.lab.until_served(place.front.as_deref(), &entrance, "/100", &mut running.daemons)?;
        let agent_serving = begin.elapsed();
        running.daemons.extend(caddy_and_ca.map(|(caddy, _)| caddy));
        running.ours = Some(Ours { gateway, agent, admin, gateway_serving, agent_serving });
        Ok(running)
    }

    /// Caddy with a CA of its own, and where that CA's certificate is.
    fn caddy(&self, port: u16, gateway: u16) -> Result<(Daemon, PathBuf), Fault> {
        let home = self.lab.dir(&format!("{}/{}/caddy", self.place.name, self.system.name()))?;
        let conf = home.join("Caddyfile");
        write(&conf, &caddyfile(&home, self.place.front_ip, port, gateway))?;
        let args = ["run", "--adapter", "caddyfile", "--config", &*conf.to_string_lossy()];
        let mut launch = self.launch("caddy", &self.place.front, &self.lab.tools.caddy, &args);
        // Whatever Caddy keeps beside its storage.
        for name in ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
            launch.env.push((name.to_owned(), home.to_string_lossy().into_owned()));
        }
        let mut daemons = [launch.start()?];
        let health = Target::parse(&format!("https://{}:{port}", self.place.front_ip), DOMAIN)?;
        // The Agent is not there yet, so the probe asks for a page of the Gateway's own.
        let own = Target { host: self.place.front_ip.to_owned(), ..health };
        self.lab.until_served(self.place.front.as_deref(), &own, "/health", &mut daemons)?;
        let ca = home.join("pki/authorities/local/root.crt");
        let [caddy] = daemons;
        if ca.is_file() {
            Ok((caddy, ca))
        } else {
            Err(Fault::Child { name: launch.name, why: format!("no CA certificate at {}", ca.display()) })
        }
    }
}

fn set(launch: &mut Launch, pairs: &[(&str, &str)]) {
    launch.env.extend(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
}

fn address(text: &str) -> Result<std::net::IpAddr, Fault> {
    text.parse().map_err(|error| Fault::Usage(format!("address {text:?}: {error}")))
}

fn write(path: &Path, text: &str) -> Result<(), Fault> {
    fs::write(path, text).map_err(Fault::io(format!("write {}", path.display())))
}

/// A plain reverse proxy with what the nginx documentation advises for keep-alive and WebSockets, and
/// without spooling bodies to disk, which would measure the disk.
fn nginx_conf(dir: &Path, listen: &str, upstream: &str) -> String {
    let dir = dir.display();
    format!(
        "user root;
daemon off;
worker_processes auto;
worker_rlimit_nofile 20000;
pid {dir}/pid;
error_log stderr error;
events {{ worker_connections 18000; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_max_body_size 0;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    upstream next {{
        server {upstream};
        keepalive 256;
        keepalive_requests 1000000000;
    }}
    server {{
        listen {listen} backlog=4096;
        location / {{
            proxy_pass http://next;
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_request_buffering off;
            proxy_max_temp_file_size 0;
            proxy_read_timeout 1h;
            proxy_send_timeout 1h;
        }}
    }}
}}
"
    )
}

/// TLS for Visitors and the Tunnel alike, by a CA made on the spot: no public CA is ever asked.
fn caddyfile(home: &Path, ip: &str, port: u16, gateway: u16) -> String {
    format!(
        "{{
    admin off
    auto_https disable_redirects
    local_certs
    skip_install_trust
    storage file_system {home}
    default_sni {ip}
    servers {{
        protocols h1
    }}
    log {{
        level ERROR
    }}
}}
https://{ip}:{port}, https://{DOMAIN}:{port} {{
    tls internal
    reverse_proxy 127.0.0.1:{gateway}
}}
",
        home = home.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_name_both_sides() {
        let conf = nginx_conf(Path::new("work"), "127.0.0.1:1", "127.0.0.1:2");
        assert!(conf.contains("listen 127.0.0.1:1 ") && conf.contains("server 127.0.0.1:2;"));
        assert_eq!(conf.matches('{').count(), conf.matches('}').count());
        let conf = caddyfile(Path::new("work"), "127.0.0.1", 3, 4);
        assert!(conf.contains("https://127.0.0.1:3") && conf.contains("reverse_proxy 127.0.0.1:4"));
        assert_eq!(conf.matches('{').count(), conf.matches('}').count());
    }

    #[test]
    fn names_are_distinct() {
        let names: std::collections::HashSet<_> = System::ALL.iter().map(|system| system.name()).collect();
        assert_eq!(names.len(), System::ALL.len());
    }
}
