//! Web services on the Agent's own machine: what listens (from `/proc`), and what of it speaks HTTP.
//!
//! Only when the Operator asks, and politely: ports of well-known other protocols are not touched (a printer would
//! print the question), everything else gets one short request. In a container this sees the container's network.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shared::mapping::UpstreamHost;
use shared::threads::lock;

use crate::exchange::{self, Answer, Channel, Question};
use crate::probe::{is_plain_on_tls, title};
use crate::tls::UpstreamTls;

/// Services that are asked at most.
const MOST: usize = 64;
/// Asked at the same time.
const THREADS: usize = 8;
/// How long one may take; it is on this machine.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How long all may take.
const TOTAL: Duration = Duration::from_secs(8);
/// Bytes of a page that are searched for its title.
const PAGE: usize = 16 * 1024;
/// Processes whose descriptors are looked at.
const MOST_PROCESSES: usize = 4096;

/// Ports that speak something else, by the protocol that everybody has there. A request would be noise in their logs,
/// or on paper.
const OTHERS: &[u16] = &[
    21, 22, 23, 25, 53, 88, 110, 111, 119, 135, 139, 143, 179, 389, 445, 464, 465, 514, 515, 548, 554, 587,
    636, 873, 990, 993, 995, 1080, 1194, 1433, 1521, 1723, 1883, 2019, 2049, 3260, 3306, 3389, 4369, 5060,
    5061, 5222, 5269, 5353, 5432, 5672, 5900, 5901, 6000, 6379, 6667, 8883, 9100, 9418, 11211, 27017, 33060,
];

/// What people run at home, by its usual port: for a name when the page has none.
const KNOWN: &[(u16, &str)] = &[
    (1880, "node-red"),
    (2283, "immich"),
    (3001, "uptime-kuma"),
    (4533, "navidrome"),
    (5055, "overseerr"),
    (7878, "radarr"),
    (8006, "proxmox"),
    (8096, "jellyfin"),
    (8123, "home-assistant"),
    (8384, "syncthing"),
    (8989, "sonarr"),
    (9000, "portainer"),
    (9090, "prometheus"),
    (9443, "portainer"),
    (9696, "prowlarr"),
    (32400, "plex"),
];

/// A service that listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    /// Where a mapping would lead.
    pub(crate) address: SocketAddr,
    pub(crate) protocol: Protocol,
    /// Name of the program, if we may know.
    pub(crate) process: Option<String>,
    pub(crate) title: Option<String>,
    /// A label for a host name.
    pub(crate) name: String,
}

/// What it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http,
    Https,
    Unknown,
}

impl Service {
    /// As the API shows it.
    pub(crate) fn shown(&self) -> Value {
        json!({
            "host": self.address.ip().to_string(),
            "port": self.address.port(),
            "protocol": match self.protocol {
                Protocol::Http => "http",
                Protocol::Https => "https",
                Protocol::Unknown => "unknown",
            },
            "process": self.process,
            "title": self.title,
            "suggestedName": self.name,
        })
    }
}

/// A socket that listens, and the number by which processes hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listener {
    address: SocketAddr,
    inode: u64,
}

/// All services that may be mapped, those that speak HTTP first. `own` is our admin page.
pub(crate) fn services(own: SocketAddr) -> io::Result<Vec<Service>> {
    let proc = Path::new("/proc");
    let listeners = candidates(listening(proc)?, own);
    let processes = processes(proc, &listeners);
    Ok(ask_all(&listeners, &processes))
}

/// Everything that listens, by both families. A machine without IPv6 has no table of it.
fn listening(proc: &Path) -> io::Result<Vec<Listener>> {
    let v4 = fs::read_to_string(proc.join("net/tcp"))?;
    let v6 = match fs::read_to_string(proc.join("net/tcp6")) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(e),
    };
    Ok(v4.lines().chain(v6.lines()).filter_map(listener).collect())
}

/// A line of `/proc/net/tcp` or `tcp6`, if that socket listens (state 0A).
fn listener(line: &str) -> Option<Listener> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (&local, &state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?.parse().ok()?);
    if state != "0A" {
        return None;
    }
    let (ip, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // The kernel prints the words of the address in the byte order of the machine.
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let mut bytes = [0; 16];
            for (index, four) in bytes.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(index * 8)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some(Listener { address: SocketAddr::new(ip, port), inode })
}

/// One row per port, at the address where a mapping would find it, without what is not for the public.
fn candidates(listeners: Vec<Listener>, own: SocketAddr) -> Vec<Listener> {
    let mut by_port: BTreeMap<u16, Listener> = BTreeMap::new();
    for mut listener in listeners {
        let port = listener.address.port();
        if port == own.port() || OTHERS.contains(&port) {
            continue;
        }
        let ip = match listener.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            // `::` takes IPv4 as well, unless told otherwise; the question shows which.
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            ip => ip,
        };
        listener.address.set_ip(ip);
        if shared::target::forbidden(ip).is_some() {
            continue;
        }
        // Of several addresses the IPv4 loopback is what everybody writes.
        let rank = |ip: IpAddr| (ip != IpAddr::from(Ipv4Addr::LOCALHOST), !ip.is_loopback(), ip.is_ipv6());
        let better = by_port.get(&port).is_none_or(|known| rank(ip) < rank(known.address.ip()));
        if better {
            by_port.insert(port, listener);
        }
    }
    by_port.into_values().take(MOST).collect()
}

/// Names of the programs that hold these sockets, by inode. Those of other users only root may know.
fn processes(proc: &Path, listeners: &[Listener]) -> HashMap<u64, String> {
    let mut names = HashMap::new();
    let Ok(entries) = fs::read_dir(proc) else { return names };
    let numbered =
        entries.flatten().filter(|e| e.file_name().to_str().is_some_and(|n| n.parse::<u32>().is_ok()));
    for process in numbered.take(MOST_PROCESSES) {
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            let Ok(link) = fs::read_link(descriptor.path()) else { continue };
            let inode =
                link.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            let Some(inode) = inode.filter(|inode| listeners.iter().any(|l| l.inode == *inode)) else {
                continue;
            };
            if let Ok(name) = fs::read_to_string(process.path().join("comm")) {
                names.entry(inode).or_insert_with(|| name.trim().to_owned());
            }
        }
        if names.len() == listeners.len() {
            break;
        }
    }
    names
}

/// Asks all of them, a few at a time. Those for whom no time is left are listed as unknown.
fn ask_all(listeners: &[Listener], processes: &HashMap<u64, String>) -> Vec<Service> {
    let until = Instant::now() + TOTAL;
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for number in 0..THREADS.min(listeners.len()) {
            let work = || {
                while let Some(listener) = listeners.get(next.fetch_add(1, Relaxed)) {
                    let service = examine(listener.address, processes.get(&listener.inode).cloned(), until);
                    lock(&found).push(service);
                }
            };
            let spawned = thread::Builder::new().name(format!("discover{number}")).spawn_scoped(scope, work);
            if let Err(e) = spawned {
                log::warn!("no thread for discovery: {e}");
            }
        }
    });
    let mut services = found.into_inner().unwrap_or_default();
    services.sort_by_key(|service: &Service| (service.protocol == Protocol::Unknown, service.address.port()));
    services
}

fn examine(address: SocketAddr, process: Option<String>, until: Instant) -> Service {
    let mut address = address;
    let mut answer = speak(address, until);
    if answer.is_none() && address.ip() == IpAddr::from(Ipv4Addr::LOCALHOST) {
        // It listened on `::`, which here is IPv6 only.
        let other = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), address.port());
        answer = speak(other, until);
        if answer.is_some() {
            address = other;
        }
    }
    let (protocol, title) = match answer {
        Some((protocol, answer)) => (protocol, title(&String::from_utf8_lossy(&answer.body))),
        None => (Protocol::Unknown, None),
    };
    let name = suggest(address.port(), title.as_deref(), process.as_deref());
    Service { address, protocol, process, title, name }
}

/// Plain first: a TLS service says so in words or hangs up; a plain service may be confused by a handshake.
fn speak(address: SocketAddr, until: Instant) -> Option<(Protocol, Answer)> {
    let plain = question(address, false, until);
    if let Some(answer) = plain.filter(|answer| !is_plain_on_tls(false, answer)) {
        return Some((Protocol::Http, answer));
    }
    question(address, true, until).map(|answer| (Protocol::Https, answer))
}

fn question(address: SocketAddr, tls: bool, until: Instant) -> Option<Answer> {
    let until = until.min(Instant::now() + PATIENCE);
    let (socket, _) = exchange::connect(&[address], until, |_| Ok(())).ok()?;
    let mut channel = if tls {
        // Whose certificate it is does not matter here: nothing is sent that anybody could want.
        let connection = UpstreamTls::default().connect(&UpstreamHost::Address(address.ip()), true).ok()?;
        Channel::secure(socket, connection, until).ok()?
    } else {
        Channel::plain(socket, until)
    };
    let authority = address.to_string();
    let question =
        Question { method: "GET", target: "/", authority: &authority, fields: &[], body: None, most: PAGE };
    exchange::ask(&mut channel, &question).ok()
}

/// A label for a host name: what the port is known for, else the first words of the title, else the program, else the
/// port.
fn suggest(port: u16, title: Option<&str>, process: Option<&str>) -> String {
    if let Some((_, name)) = KNOWN.iter().find(|(known, _)| *known == port) {
        return (*name).to_owned();
    }
    // `Login - Nextcloud`: the part that is not about the page.
    let parts = title
        .unwrap_or_default()
        .split(['|', '\u{2013}', '\u{2014}', '\u{b7}', ':'])
        .flat_map(|p| p.split(" - "));
    let dull = ["", "login", "log-in", "sign-in", "home", "index", "welcome", "dashboard", "error"];
    let of_title = parts
        .map(|part| label(part, 2))
        .find(|name| !dull.contains(&name.as_str()) && !name.starts_with(|c: char| c.is_ascii_digit()));
    // What runs many things names none of them.
    let runtimes = [
        "node",
        "python",
        "python3",
        "java",
        "docker-proxy",
        "php",
        "ruby",
        "dotnet",
        "nginx",
        "caddy",
        "main",
    ];
    let of_process = process
        .map(|name| label(name, 3))
        .filter(|name| !name.is_empty() && !runtimes.contains(&name.as_str()));
    of_title.or(of_process).unwrap_or_else(|| format!("app-{port}"))
}

/// Letters, digits and hyphens of the first words (RFC 1035 2.3.1), at most 30 of them.
fn label(text: &str, words: usize) -> String {
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .take(words)
        .collect();
    let mut name: String = words.join("-").chars().take(30).collect();
    name.truncate(name.trim_end_matches('-').len());
    name
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::store::scratch::Scratch;

    const TCP: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 111 1 0 100 0 0 10 0
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 222 1 0 100 0 0 10 0
   2: 0100007F:C001 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 333 1 0 100 0 0 10 0
   3: 1401A8C0:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 444 1 0 100 0 0 10 0
   4: 00000000:4331 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 555 1 0 100 0 0 10 0
";
    const TCP6: &str = "\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:1FBB 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 666 1 0 100 0 0 10 0
   1: 00000000000000000000000001000000:0BB8 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 777 1 0 100 0 0 10 0
   2: 0000000000000000FFFF00000100007F:2382 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 888 1 0 100 0 0 10 0
";

    #[test]
    #[cfg(target_endian = "little")]
    fn listeners_are_read_from_the_kernels_tables() {
        let scratch = Scratch::new();
        fs::create_dir(scratch.path().join("net")).expect("a folder");
        fs::write(scratch.path().join("net/tcp"), TCP).expect("written");
        let v4 = listening(scratch.path()).expect("readable without IPv6");
        assert_eq!(v4.len(), 4, "{v4:?}");
        fs::write(scratch.path().join("net/tcp6"), TCP6).expect("written");
        let all = listening(scratch.path()).expect("readable");
        let addresses: Vec<_> = all.iter().map(|l| l.address.to_string()).collect();
        assert_eq!(
            addresses,
            [
                "127.0.0.1:8080",
                "0.0.0.0:22",
                "192.168.1.20:3000",
                "0.0.0.0:17201",
                "[::]:8123",
                "[::1]:3000",
                "127.0.0.1:9090"
            ]
        );
        // Without SSH and ourselves; one row per port.
        let rows = candidates(all, "[::]:17201".parse().expect("an address"));
        let addresses: Vec<_> = rows.iter().map(|l| l.address.to_string()).collect();
        assert_eq!(addresses, ["[::1]:3000", "127.0.0.1:8080", "127.0.0.1:8123", "127.0.0.1:9090"]);
    }

    #[test]
    fn lines_that_are_none_are_passed_over() {
        for line in
            ["", "  sl  local_address", "0: zz:1F90 0:0 0A 0 0 0 0 0 1", "0: 0100007F:1F90 x 0A 0 0 0 0 0 x"]
        {
            assert_eq!(listener(line), None, "{line:?}");
        }
    }

    #[test]
    fn programs_are_found_by_the_sockets_they_hold() {
        let scratch = Scratch::new();
        let process = scratch.path().join("42");
        fs::create_dir_all(process.join("fd")).expect("a folder");
        fs::write(process.join("comm"), "jellyfin\n").expect("written");
        symlink("socket:[111]", process.join("fd/3")).expect("a link");
        symlink("/dev/null", process.join("fd/0")).expect("a link");
        fs::create_dir_all(scratch.path().join("sys/fd")).expect("a folder");
        let listeners = [
            Listener { address: "127.0.0.1:1".parse().expect("an address"), inode: 111 },
            Listener { address: "127.0.0.1:2".parse().expect("an address"), inode: 222 },
        ];
        let names = processes(scratch.path(), &listeners);
        assert_eq!(names, HashMap::from([(111, "jellyfin".to_owned())]));
    }

    #[test]
    fn names_are_labels_that_people_would_choose() {
        for (port, title, process, expected) in [
            (8123, Some("Home Assistant"), None, "home-assistant"),
            (8080, Some("Login - Nextcloud"), Some("apache2"), "nextcloud"),
            (8080, Some("Grafana"), Some("grafana-server"), "grafana"),
            (8080, Some("Paperless-ngx sign in"), None, "paperless-ngx"),
            (8080, None, Some("gitea"), "gitea"),
            (8080, Some("  "), Some("node"), "app-8080"),
            (8080, Some("404 Not Found"), Some("docker-proxy"), "app-8080"),
            (8080, Some("\u{65e5}\u{672c}"), None, "app-8080"),
        ] {
            let name = suggest(port, title, process);
            assert_eq!(name, expected);
            assert!(shared::hostname::Hostname::parse(&format!("{name}.example.com")).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_service_of_this_machine_is_found_and_our_own_page_is_not() {
        let web = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let own = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let (web_address, own_address) = (web.local_addr().expect("bound"), own.local_addr().expect("bound"));
        let server = thread::spawn(move || {
            let (mut socket, _) = web.accept().expect("asked");
            let mut bytes = [0; 2048];
            let count = socket.read(&mut bytes).expect("a request");
            assert!(bytes[..count].starts_with(b"GET / HTTP/1.1\r\n"));
            let page = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n<title>My Photos</title>";
            socket.write_all(page).expect("answered");
            web
        });
        let only = |l: &Listener| [web_address, own_address].contains(&l.address);
        let listeners: Vec<_> =
            listening(Path::new("/proc")).expect("Linux").into_iter().filter(only).collect();
        assert_eq!(listeners.len(), 2);
        let listeners = candidates(listeners, own_address);
        let names = processes(Path::new("/proc"), &listeners);
        let found = ask_all(&listeners, &names);
        let [service] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((service.address, service.protocol), (web_address, Protocol::Http));
        assert_eq!((service.title.as_deref(), service.name.as_str()), (Some("My Photos"), "my-photos"));
        assert!(service.process.is_some(), "our own process may be looked into");
        drop(server.join().expect("no panic"));
    }
}
