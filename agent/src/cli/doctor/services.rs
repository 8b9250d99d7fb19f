//! Of each mapping: does its target answer, has it a route, and does the way from outside lead to it?

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use serde_json::Value;
use shared::mapping::UpstreamHost;
use shared::settings::console::Failure;

use super::gateway::{Way, tls_hint};
use super::report::Report;
use crate::cli::client::{Api, Running};
use crate::config::{Config, GatewayUrl};
use crate::exchange::{self, Answer, Channel, Fault, Question, Step, Trouble};
use crate::probe::{self, Target};

/// Targets that are asked at the same time.
const THREADS: usize = 8;
/// For a public address: with on-demand TLS the first one waits for a certificate.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of a page that are looked at.
const PAGE: usize = 16 * 1024;

/// A mapping, as far as it matters here.
struct Service {
    domain: String,
    host: UpstreamHost,
    port: u16,
    tls: bool,
    any_certificate: bool,
    host_header: Option<String>,
    route_state: Option<String>,
    route_error: Option<String>,
}

/// Walks all of them.
pub(super) fn walk(
    config: &Config,
    running: Option<Running>,
    ways: &[Way],
    report: &mut Report<'_, '_>,
) -> Result<(), Failure> {
    let runs = running.is_some();
    let api = match running {
        Some(running) => Api::Running(running),
        // Looking must not make a database.
        None if !config.database.exists() => {
            return report.skip("target", "", "there are no mappings yet");
        }
        None => match Api::offline(config) {
            Ok(api) => api,
            // Said at the hop `database`.
            Err(Failure::Said(..)) => return report.skip("target", "", "the mappings cannot be read"),
            Err(failure) => return Err(failure),
        },
    };
    let rows = match api.json("GET", "/api/v1/mappings", None) {
        Ok(Value::Array(rows)) => rows,
        Ok(_) => return report.fail("target", "", "the Agent's list of mappings is no list", None),
        Err(Failure::Said(_, text)) => return report.fail("target", "", &text, None),
        Err(failure) => return Err(failure),
    };
    let enabled: Vec<&Value> = rows.iter().filter(|row| row["isEnabled"] == true).collect();
    if enabled.is_empty() {
        let text = "no mapping is switched on; octoporty-agent mappings add DOMAIN TARGET adds one";
        return report.skip("target", "", text);
    }
    let mut services = Vec::new();
    for row in enabled {
        match service(row) {
            Some(service) => services.push(service),
            None => {
                let domain = row["externalDomain"].as_str().unwrap_or("?");
                let why =
                    row["routeError"].as_str().or(row["routeState"].as_str()).unwrap_or("cannot be used");
                let hint = "change it on the admin page, or with octoporty-agent mappings set";
                report.fail("target", domain, why, Some(hint.into()))?;
            }
        }
    }
    let own = SocketAddr::new(config.bind_address, config.port);
    let reports = ask_all(&services, own);
    let clear = ways.iter().find(|way| way.clear);
    for (service, found) in services.iter().zip(&reports) {
        let target = format!("{}://{}", if service.tls { "https" } else { "http" }, authority(service));
        match (&found.error, found.status) {
            (Some(error), _) => {
                report.fail("target", &service.domain, &format!("{target}: {error}"), found.hint.clone())?;
            }
            (None, status) => {
                let status = status.unwrap_or_default();
                let text = format!("{target} answers {status} in {} ms", found.duration.as_millis());
                report.ok("target", &service.domain, &text)?;
            }
        }
        if !runs {
            continue;
        }
        route(service, report)?;
        match clear {
            Some(_) if found.error.is_some() => {
                report.skip("public", &service.domain, "not asked, because its target does not answer")?;
            }
            Some(way) => public(service, way, report)?,
            None => {
                report.skip("public", &service.domain, "not asked, because the way to the Gateway fails")?
            }
        }
    }
    Ok(())
}

fn service(row: &Value) -> Option<Service> {
    let text = |field: &str| row[field].as_str().map(str::to_owned);
    Some(Service {
        domain: text("externalDomain")?,
        host: UpstreamHost::parse(row["internalHost"].as_str()?).ok()?,
        port: u16::try_from(row["internalPort"].as_u64()?).ok().filter(|port| *port != 0)?,
        tls: row["internalUseTls"] == true,
        any_certificate: row["allowSelfSignedCerts"] == true,
        host_header: text("hostHeader"),
        route_state: text("routeState"),
        route_error: text("routeError"),
    })
}

fn authority(service: &Service) -> String {
    target(service).authority()
}

fn target(service: &Service) -> Target<'_> {
    let host_header = match service.host_header.as_deref() {
        Some("preserve") => Some(service.domain.trim_start_matches("*.")),
        Some("target") | None => None,
        Some(name) => Some(name),
    };
    Target {
        host: &service.host,
        port: service.port,
        tls: service.tls,
        any_certificate: service.any_certificate,
        host_header,
        path: "/",
    }
}

/// The reports, in the order of the services.
fn ask_all(services: &[Service], own: SocketAddr) -> Vec<probe::Report> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut found = Vec::new();
        loop {
            let index = next.fetch_add(1, Relaxed);
            let Some(service) = services.get(index) else { return found };
            found.push((index, probe::probe(&target(service), own)));
        }
    };
    let mut all: Vec<(usize, probe::Report)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS.min(services.len())).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a probe does not panic")).collect()
    });
    all.sort_by_key(|(index, _)| *index);
    all.into_iter().map(|(_, report)| report).collect()
}

/// What the Gateway says of the mapping, as the Agent knows it.
fn route(service: &Service, report: &mut Report<'_, '_>) -> Result<(), Failure> {
    let domain = &service.domain;
    let error = service.route_error.clone();
    match service.route_state.as_deref() {
        Some("served" | "synced" | "ok" | "off") => report.ok("route", domain, "the Gateway serves it"),
        Some("pending") => {
            let text = error.unwrap_or_else(|| "the Gateway or Caddy has not put it in force yet".into());
            report.warn("route", domain, &text, Some("wait a few seconds and look again".into()))
        }
        Some(word @ ("conflict" | "invalid" | "rejected")) => {
            let text = error.map_or_else(|| word.to_owned(), |error| format!("{word}: {error}"));
            let hint = match word {
                "conflict" => {
                    "another site of Caddy, or another Agent, has this name: choose another or remove it there"
                }
                "invalid" => "change the public name of the mapping",
                _ => "Caddy's words say what it does not like; the Gateway's log has more",
            };
            report.fail("route", domain, &text, Some(hint.into()))
        }
        _ => report.skip("route", domain, "the Gateway has not said how it stands"),
    }
}

/// From outside: the public name, Caddy, Gateway, tunnel, service.
fn public(service: &Service, way: &Way, report: &mut Report<'_, '_>) -> Result<(), Failure> {
    let domain = &service.domain;
    if domain.starts_with("*.") {
        return report.skip("public", domain, "a wildcard has no address of its own to ask");
    }
    let until = Instant::now() + PATIENCE;
    let mut elsewhere = String::new();
    let addresses = if way.tls.is_some() {
        match exchange::resolve(domain, way.url.port, until) {
            Ok(addresses) => {
                if !addresses.iter().any(|a| way.addresses.iter().any(|b| a.ip() == b.ip())) {
                    let list = |all: &[SocketAddr]| {
                        all.iter().map(|a| a.ip().to_string()).collect::<Vec<_>>().join(", ")
                    };
                    elsewhere =
                        format!("{domain} is {}, the Gateway is {}", list(&addresses), list(&way.addresses));
                }
                addresses
            }
            Err(fault) => {
                let list: Vec<_> = way.addresses.iter().map(|address| address.ip().to_string()).collect();
                let hint =
                    format!("add a DNS record that leads {domain} to the Gateway ({})", list.join(", "));
                return report.fail("public", domain, &fault.text, Some(hint));
            }
        }
    } else {
        // Without TLS there is no public address: the Gateway itself is asked for the name.
        way.addresses.clone()
    };
    match ask(domain, way, &addresses, until) {
        Ok(answer) => judge(domain, way, &answer, &elsewhere, report),
        Err(fault) => {
            let mut url = way.url.clone();
            url.host.clone_from(domain);
            let hint = public_hint(&url, &fault, &elsewhere);
            report.fail("public", domain, &fault.text, hint)
        }
    }
}

fn ask(domain: &str, way: &Way, addresses: &[SocketAddr], until: Instant) -> Result<Answer, Fault> {
    let (socket, _) = exchange::connect(addresses, until, |_| Ok(()))?;
    let mut channel = match &way.tls {
        None => Channel::plain(socket, until),
        Some(trust) => {
            let fault = |text| Fault { step: Step::Tls, trouble: Trouble::Other, text };
            let name = ServerName::try_from(domain.to_owned())
                .map_err(|_| fault(format!("{domain:?} cannot be a name in TLS")))?;
            let connection =
                ClientConnection::new(Arc::clone(trust), name).map_err(|e| fault(e.to_string()))?;
            Channel::secure(socket, connection, until)?
        }
    };
    let own_port = if way.url.tls { 443 } else { 80 };
    let authority =
        if way.url.port == own_port { domain.to_owned() } else { format!("{domain}:{}", way.url.port) };
    let question =
        Question { method: "GET", target: "/", authority: &authority, fields: &[], body: None, most: PAGE };
    exchange::ask(&mut channel, &question)
}

fn public_hint(url: &GatewayUrl, fault: &Fault, elsewhere: &str) -> Option<String> {
    if !elsewhere.is_empty() {
        return Some(format!("{elsewhere}: the DNS record leads to another machine"));
    }
    match fault.step {
        Step::Tls => tls_hint(url, fault),
        Step::Connect => Some("the name leads to a machine that does not answer at this port".into()),
        _ => None,
    }
}

/// The answer of a service, or of somebody on the way who could not get there.
fn judge(
    domain: &str,
    way: &Way,
    answer: &Answer,
    elsewhere: &str,
    report: &mut Report<'_, '_>,
) -> Result<(), Failure> {
    let scheme = if way.url.tls { "https" } else { "http" };
    let value = serde_json::from_slice::<Value>(&answer.body).unwrap_or(Value::Null);
    if let (Some(hop), Some(_)) = (value["hop"].as_str(), value["requestId"].as_str()) {
        let message = value["message"].as_str().unwrap_or_default();
        let hint = match hop {
            "gateway" => {
                "the Gateway has no route for this name: is another Gateway meant, or another Agent's name?"
            }
            "tunnel" => "the tunnel was down at this moment: try again",
            "agent" => {
                "the Agent does not let it through: is the mapping switched on, and its target allowed?"
            }
            _ => "the target did not answer the Agent: see the hop target",
        };
        let text = format!("status {} at the hop {hop}: {message}", answer.status);
        return report.fail("public", domain, &text, Some(hint.into()));
    }
    let text = format!("{scheme}://{domain}/ answers {} through the tunnel", answer.status);
    if matches!(answer.status, 502..=504) {
        let text = format!("{scheme}://{domain}/ answers {}", answer.status);
        let hint = "Caddy answers and does not get through to the Gateway, or the service says so itself";
        return report.warn("public", domain, &text, Some(hint.into()));
    }
    if !elsewhere.is_empty() {
        let hint = "fine when a proxy or CDN stands in front; else the DNS record leads to another machine";
        let text = format!("{scheme}://{domain}/ answers {}, but {elsewhere}", answer.status);
        return report.warn("public", domain, &text, Some(hint.into()));
    }
    report.ok("public", domain, &text)
}
