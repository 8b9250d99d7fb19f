//! The way to one Gateway, from its name to its greeting.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::Value;
use shared::clock;
use shared::frame::{Frame, Side};
use shared::hello::{Hello, ToAgent, ToGateway, VERSION_MAX, VERSION_MIN};
use shared::mapping::MappingId;
use shared::monotime;
use shared::settings::console::Failure;
use shared::version::Version;
use time::OffsetDateTime;
use tungstenite::Message;
use tungstenite::protocol::{Role, WebSocket};

use super::certificate::Certificate;
use super::report::Report;
use crate::config::{Config, GatewayUrl};
use crate::dial::{self, Dialled, Step as DialStep};
use crate::exchange::{self, Answer, Channel, Fault, Question, Step, Trouble};
use crate::random;
use crate::resolver::Resolver;
use crate::tls;

/// For each hop.
const PATIENCE: Duration = Duration::from_secs(10);
/// A clock that is off by more makes certificates seem expired and logins seem over.
const SKEW: i64 = 60;
/// Bytes of a page that are looked at.
const PAGE: usize = 16 * 1024;

/// How far it goes.
pub(super) struct Way {
    pub(super) url: GatewayUrl,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// Whether a Gateway answers at its end.
    pub(super) clear: bool,
}

/// Walks it.
pub(super) fn walk(url: &GatewayUrl, config: &Config, report: &mut Report<'_, '_>) -> Result<Way, Failure> {
    let subject = url.to_string();
    let mut way = Way { url: url.clone(), addresses: Vec::new(), tls: None, clear: false };
    way.addresses = match exchange::resolve(&url.host, url.port, Instant::now() + PATIENCE) {
        Ok(addresses) => addresses,
        Err(fault) => {
            let hint = match fault.trouble {
                Trouble::Silent => "does this machine reach its name server, and is it online at all?",
                _ => {
                    "is the name spelt right (Agent__GatewayFqdn), and does it have an A or AAAA record? A new record \
                      may take a while to be known everywhere"
                }
            };
            report.fail("dns", &subject, &format!("{}: {fault}", url.host), Some(hint.into()))?;
            return Ok(way);
        }
    };
    let list: Vec<String> = way.addresses.iter().map(|address| address.ip().to_string()).collect();
    match url.host.parse::<std::net::IpAddr>() {
        Ok(_) => report.ok("dns", &subject, "not needed: an address is given")?,
        Err(_) => report.ok("dns", &subject, &format!("{} is {}", url.host, list.join(", ")))?,
    }

    let Some(socket) = tcp(&way, &subject, report)? else { return Ok(way) };
    let mut channel = if url.tls {
        let trust = match tls::gateway_config(config.gateway_ca_file.as_deref()) {
            Ok(trust) => trust,
            Err(e) => {
                report.fail("tls", &subject, &format!("Agent__GatewayCaFile: {e}"), None)?;
                return Ok(way);
            }
        };
        way.tls = Some(Arc::clone(&trust));
        match secure(url, socket, &trust) {
            Ok(channel) => {
                certificate(&channel, &subject, report)?;
                channel
            }
            Err(fault) => {
                report.fail("tls", &subject, &fault.text, tls_hint(url, &fault))?;
                return Ok(way);
            }
        }
    } else {
        report.skip("tls", &subject, "not used: ws:// on a private way")?;
        Channel::plain(socket, Instant::now() + PATIENCE)
    };

    let answers = health(url, &mut channel, &subject, report)?;
    if answers == Some(false) {
        return Ok(way);
    }
    tunnel(&mut way, config, &subject, report)?;
    Ok(way)
}

/// Every address is tried: one of them may be dead while the other hides it.
fn tcp(way: &Way, subject: &str, report: &mut Report<'_, '_>) -> Result<Option<TcpStream>, Failure> {
    let mut reached = None;
    let mut faults = Vec::new();
    for address in &way.addresses {
        match exchange::connect(&[*address], Instant::now() + PATIENCE / 2, |_| Ok(())) {
            Ok((socket, address)) => {
                reached.get_or_insert((socket, address));
            }
            Err(fault) => faults.push(fault),
        }
    }
    let hint = |fault: &Fault| match fault.trouble {
        Trouble::Refused => format!(
            "the machine is there and nothing listens at port {}: is Caddy (or the Gateway) running, and is the port \
             right?",
            way.url.port
        ),
        Trouble::Silent => format!(
            "nobody answers: is the server up, does its firewall (also the provider's) let port {} in, and does the \
             name lead to the right server?",
            way.url.port
        ),
        _ => "is this machine online?".to_owned(),
    };
    match (&reached, faults.first()) {
        (None, Some(fault)) => {
            let texts: Vec<_> = faults.iter().map(|fault| fault.text.as_str()).collect();
            report.fail("tcp", subject, &texts.join("; "), Some(hint(fault)))?;
        }
        (Some((_, address)), Some(fault)) => {
            let text = format!("{address} answers, but {}", fault.text);
            let hint = "remove the address from DNS if it is out of date; visitors try it too".to_owned();
            report.warn("tcp", subject, &text, Some(hint))?;
        }
        (Some((_, address)), None) => report.ok("tcp", subject, &format!("{address} answers"))?,
        (None, None) => report.fail("tcp", subject, "there is no address to connect to", None)?,
    }
    Ok(reached.map(|(socket, _)| socket))
}

fn secure(url: &GatewayUrl, socket: TcpStream, trust: &Arc<ClientConfig>) -> Result<Channel, Fault> {
    let fault = |text| Fault { step: Step::Tls, trouble: Trouble::Other, text };
    let name = ServerName::try_from(url.host.clone())
        .map_err(|_| fault(format!("{:?} cannot be a name in TLS", url.host)))?;
    let connection = ClientConnection::new(Arc::clone(trust), name).map_err(|e| fault(e.to_string()))?;
    let channel = Channel::secure(socket, connection, Instant::now() + PATIENCE / 2)?;
    Ok(channel.until(Instant::now() + PATIENCE * 2))
}

/// What to do about a certificate that is not accepted.
pub(super) fn tls_hint(url: &GatewayUrl, fault: &Fault) -> Option<String> {
    Some(match fault.trouble {
        Trouble::CertificateIssuer => {
            "if this is a private authority (Caddy's own, for instance), give its certificate in Agent__GatewayCaFile; \
             else somebody between here and the Gateway opens the traffic"
                .into()
        }
        Trouble::CertificateName => {
            format!("Caddy has no certificate for {}: is there a site for that name in its Caddyfile?", url.host)
        }
        Trouble::CertificateTime => {
            "is the clock of this machine right? if so, Caddy could not renew the certificate: its log says why".into()
        }
        Trouble::NotTls => format!(
            "what listens at port {} speaks no TLS: the port of Caddy's HTTPS is meant (443), not the Gateway's own",
            url.port
        ),
        Trouble::Closed | Trouble::Silent => {
            "Caddy may have no certificate for this name yet: its log says why; are ports 80 and 443 open?".into()
        }
        _ => "Caddy's log says more; it may have no certificate for this name yet".into(),
    })
}

fn certificate(channel: &Channel, subject: &str, report: &mut Report<'_, '_>) -> Result<(), Failure> {
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let Some(found) = channel.certificate().and_then(|der| Certificate::read(&der, now)) else {
        return report.ok("tls", subject, "the connection is secure");
    };
    let text = format!(
        "the certificate is for {}, by {}, good for {} days",
        found.names.join(", "),
        found.issuer,
        found.days_left
    );
    if found.ends_soon() {
        let hint = "Caddy should have renewed it: its log says why it did not";
        return report.warn("tls", subject, &text, Some(hint.into()));
    }
    report.ok("tls", subject, &text)
}

/// What answers at the Gateway's host, and what its clock says. `Some(false)`: no Gateway, and no use in going on.
/// `None`: nothing is known for sure.
fn health(
    url: &GatewayUrl,
    channel: &mut Channel,
    subject: &str,
    report: &mut Report<'_, '_>,
) -> Result<Option<bool>, Failure> {
    let authority = url.authority();
    let question = Question {
        method: "GET",
        target: "/health",
        authority: &authority,
        fields: &[],
        body: None,
        most: PAGE,
    };
    let answer = match exchange::ask(channel, &question) {
        Ok(answer) => answer,
        Err(fault) => {
            let hint = match fault.trouble {
                Trouble::NotHttp => "another service has this port: is the port in Agent__GatewayUrl right?",
                Trouble::Closed if !url.tls => "is TLS expected there? then the address begins with wss://",
                _ => "is what answers there Caddy, or the Gateway itself?",
            };
            report.fail("gateway", subject, &fault.text, Some(hint.into()))?;
            return Ok(Some(false));
        }
    };
    let status = serde_json::from_slice::<Value>(&answer.body).ok();
    let status = status.as_ref().and_then(|value| value["status"].as_str());
    let server = answer.get("server").map_or_else(String::new, |name| format!(" ({name})"));
    let result = match (answer.status, status) {
        (200, Some(word @ ("healthy" | "degraded"))) => {
            let agents = if word == "healthy" { "" } else { ", and no Agent is connected to it" };
            report.ok("gateway", subject, &format!("the Gateway answers{agents}"))?;
            Some(true)
        }
        (502..=504, _) => {
            let hint = "on the server: is octoporty-gateway running (systemctl status octoporty-gateway), and is the \
                        address behind reverse_proxy in the Caddyfile the one it listens on?";
            let text = format!(
                "status {}: the proxy{server} is up, the Gateway behind it does not answer",
                answer.status
            );
            report.fail("gateway", subject, &text, Some(hint.into()))?;
            Some(false)
        }
        (301 | 302 | 303 | 307 | 308, _) => {
            let to = answer.get("location").unwrap_or("somewhere").to_owned();
            let hint = if url.tls {
                "the name belongs to another site: is there a site for it in the Caddyfile?"
            } else {
                "use wss:// (or Agent__GatewayFqdn alone)"
            };
            let text = format!("status {}: redirected to {to}{server}", answer.status);
            report.fail("gateway", subject, &text, Some(hint.into()))?;
            Some(false)
        }
        // It may still be one, under a path of its own: the WebSocket decides.
        (status, _) => {
            let hint = "is there a site for this name in the Caddyfile, and does it lead to the Gateway?";
            let text = format!("status {status}: what answers{server} does not look like a Gateway");
            report.warn("gateway", subject, &text, Some(hint.into()))?;
            None
        }
    };
    self::clock(&answer, subject, report)?;
    Ok(result)
}

/// Compares clocks by the `Date` of an answer (RFC 9110 6.6.1), which has whole seconds.
fn clock(answer: &Answer, subject: &str, report: &mut Report<'_, '_>) -> Result<(), Failure> {
    let Some(there) = answer.get("date").and_then(clock::parse_http_date) else {
        return report.skip("clock", subject, "the answer has no date to compare with");
    };
    let skew = OffsetDateTime::now_utc().unix_timestamp() - there.unix_timestamp();
    if skew.abs() <= SKEW {
        return report.ok("clock", subject, "this machine and the server agree about the time");
    }
    let direction = if skew > 0 { "ahead of" } else { "behind" };
    let text = format!("this machine is {} s {direction} the server", skew.abs());
    let hint =
        "set the clock (timedatectl set-ntp true): a wrong one makes certificates and logins look expired";
    report.fail("clock", subject, &text, Some(hint.into()))
}

/// The WebSocket, the key, and the greeting under an identity of our own.
fn tunnel(way: &mut Way, config: &Config, subject: &str, report: &mut Report<'_, '_>) -> Result<(), Failure> {
    let dialled = match dial::dial(&way.url, way.tls.as_ref(), &config.api_key, &Resolver::new()) {
        Ok(dialled) => dialled,
        Err(fault) => {
            let hint = match fault.step {
                DialStep::Key => {
                    report.ok("websocket", subject, "the request reaches the Gateway")?;
                    "compare Agent__ApiKey here with Gateway__ApiKey on the server; both daemons show the first and \
                     last two characters when they start"
                }
                _ if is_version(&fault.text) => {
                    report.ok("websocket", subject, "the request reaches the Gateway")?;
                    "update the older of the two: they have no protocol in common"
                }
                _ => {
                    "does the proxy pass upgrades on (Caddy does by itself), and does this path lead to the Gateway?"
                }
            };
            let hop = match fault.step {
                DialStep::Key => "key",
                _ if is_version(&fault.text) => "version",
                _ => "websocket",
            };
            return report.fail(hop, subject, &fault.text, Some(hint.into()));
        }
    };
    report.ok("websocket", subject, "the upgrade gets through")?;
    report.ok("key", subject, "is accepted")?;
    match greeted(dialled, config) {
        Ok(greeting) => {
            way.clear = true;
            versions(&greeting, subject, report)
        }
        Err(text) => {
            let hint = if text.contains("version") {
                "update the older of the two; neighbouring versions understand each other"
            } else {
                "the Gateway's log says more"
            };
            report.fail("version", subject, &text, Some(hint.into()))
        }
    }
}

/// Whether the upgrade was declined because of the sub-protocol, whose number is the protocol's major version.
fn is_version(text: &str) -> bool {
    text.contains("status 426")
}

struct Greeting {
    gateway_version: String,
    protocol: u32,
    rtt: Duration,
    uptime: u64,
}

fn versions(greeting: &Greeting, subject: &str, report: &mut Report<'_, '_>) -> Result<(), Failure> {
    let theirs = &greeting.gateway_version;
    let text = format!(
        "Gateway {theirs}, Agent {}, protocol {}; round trip {:.1} ms, up for {} s",
        crate::VERSION,
        greeting.protocol,
        greeting.rtt.as_secs_f64() * 1000.0,
        greeting.uptime
    );
    match (Version::parse(theirs), Version::parse(crate::VERSION)) {
        (Some(gateway), Some(agent)) if gateway != agent => {
            let older = if gateway < agent { "the Gateway is older" } else { "this Agent is older" };
            let hint = format!("{older}: update it; until then it lacks what the other one has");
            report.warn("version", subject, &text, Some(hint))
        }
        _ => report.ok("version", subject, &text),
    }
}

fn greeted(dialled: Dialled, config: &Config) -> Result<Greeting, String> {
    let Dialled { socket, tls, early, .. } = dialled;
    for set in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
        set(&socket, Some(PATIENCE)).map_err(|e| e.to_string())?;
    }
    match tls {
        Some(tls) => greet(StreamOwned::new(tls, socket), early, config),
        None => greet(socket, early, config),
    }
}

/// Says hello under an identity that nobody else has, so that a running Agent is not replaced, publishes nothing,
/// measures the round trip and leaves.
fn greet(stream: impl Read + Write, early: Vec<u8>, config: &Config) -> Result<Greeting, String> {
    let mut socket = WebSocket::from_partially_read(stream, early, Role::Client, None);
    let hello = Hello {
        min_version: VERSION_MIN,
        max_version: VERSION_MAX,
        agent_version: crate::VERSION.into(),
        agent_id: MappingId::from_random(random::bytes()).to_string(),
        agent_name: format!("{} (doctor)", config.name),
        fqdn: None,
        session: None,
        link: None,
        holds: None,
        credit: shared::credit::INITIAL,
        landing_page_hash: None,
        mappings_hash: None,
    };
    send(
        &mut socket,
        &Frame::Control { more: false, later: false, json: &ToGateway::Hello(hello).to_json() },
    )?;
    let until = Instant::now() + PATIENCE;
    let welcome = loop {
        let bytes = receive(&mut socket, until)?;
        let frame = Frame::decode(&bytes, Side::Agent).map_err(|e| format!("the Gateway's frame: {e}"))?;
        let Some(Frame::Control { more: false, json, .. }) = frame else { continue };
        match ToAgent::parse(json) {
            Ok(ToAgent::Welcome(welcome)) => break welcome,
            Ok(ToAgent::Refused(refused)) => {
                return Err(format!("the Gateway refuses: {} ({})", refused.message, refused.code));
            }
            _ => {}
        }
    };
    let began = monotime::micros();
    send(&mut socket, &Frame::Beat { time: began })?;
    let (rtt, uptime) = loop {
        let bytes = receive(&mut socket, until)?;
        match Frame::decode(&bytes, Side::Agent) {
            Ok(Some(Frame::BeatAck { time, uptime })) if time == began => {
                break (Duration::from_micros(monotime::micros().saturating_sub(began)), uptime);
            }
            Ok(_) => {}
            Err(e) => return Err(format!("the Gateway's frame: {e}")),
        }
    };
    // It notices anyhow when the connection ends.
    let _ = send(&mut socket, &Frame::Control { more: false, later: false, json: &ToGateway::Bye.to_json() });
    let _ = socket.close(None);
    let _ = socket.flush();
    Ok(Greeting { gateway_version: welcome.gateway_version, protocol: welcome.version, rtt, uptime })
}

fn send<S: Read + Write>(socket: &mut WebSocket<S>, frame: &Frame<'_>) -> Result<(), String> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    socket.send(Message::binary(bytes)).map_err(|e| format!("the Gateway hung up: {e}"))
}

fn receive<S: Read + Write>(socket: &mut WebSocket<S>, until: Instant) -> Result<Vec<u8>, String> {
    while Instant::now() < until {
        match socket.read() {
            Ok(Message::Binary(bytes)) => return Ok(bytes.to_vec()),
            Ok(Message::Close(Some(frame))) => return Err(format!("the Gateway hung up: {}", frame.reason)),
            Ok(_) => {}
            Err(e) => return Err(format!("the Gateway does not answer the greeting: {e}")),
        }
    }
    Err("the Gateway does not answer the greeting".into())
}
