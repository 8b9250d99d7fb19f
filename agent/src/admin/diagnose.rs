//! `POST /api/v1/test/diagnose`: asks a public address the way a visitor does and the service behind it directly, side
//! by side, and says at which hop they differ.
//!
//! Only addresses that a mapping publishes, at ports where a Gateway can be: the Agent is no proxy into the world.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use serde_json::{Map, Value, json};
use shared::hostname::Host;
use shared::logging::Line;
use shared::mapping::{HostHeader, Mapping, MappingId};
use shared::target;

use super::App;
use super::api::{Params, json_object};
use super::http::{Request, Response};
use super::problem::{self, problem};
use super::token;
use crate::control::TunnelState;
use crate::events::line_value;
use crate::exchange::{self, Answer, Channel, Fault, Question, Step, Trouble};
use crate::probe::{self, Target};
use crate::{random, tls};

/// Everything together takes at most this long.
const PATIENCE: Duration = Duration::from_secs(28);
/// Each of the two questions, which are asked at the same time.
const PROBE: Duration = Duration::from_secs(20);
/// A log line is written when the request is over, and that is a moment after its answer.
const SOON: Duration = Duration::from_millis(100);
/// How often to look for it again.
const LOOKS: usize = 10;
/// Lines of each log.
const LINES: usize = 500;
/// Bytes of a body that are shown: unless asked otherwise, at least, at most.
const BODY: (usize, u64, u64) = (128 * 1024, 1024, 512 * 1024);
/// Longest address.
const MAX_URL: usize = 8 * 1024;
/// Diagnoses at the same time.
const MOST: usize = 4;

static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// A place among those who may ask; given back when dropped.
struct Place;

impl Place {
    fn take() -> Option<Place> {
        let claim = |count| (count < MOST).then_some(count + 1);
        RUNNING.fetch_update(Relaxed, Relaxed, claim).ok().map(|_| Place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Relaxed);
    }
}

/// A public address, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Url {
    tls: bool,
    host: String,
    port: u16,
    /// For the `Host` field.
    authority: String,
    /// Path and query.
    target: String,
}

impl Url {
    fn parse(text: &str) -> Result<Url, String> {
        if text.len() > MAX_URL {
            return Err(format!("the URL has {} bytes, at most {MAX_URL} are allowed", text.len()));
        }
        let wrong = || "the URL must be like https://app.example.com/path".to_owned();
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(format!("{} (the scheme is {scheme:?})", wrong())),
        };
        let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let host = Host::parse(authority.as_bytes()).map_err(|fault| format!("the URL's host: {fault}"))?;
        if host.is_none() || !target.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(format!("{}, with everything else percent-encoded", wrong()));
        }
        let slash = if target.starts_with('/') { "" } else { "/" };
        Ok(Url {
            tls,
            host: host.name().to_owned(),
            port: host.port().unwrap_or(if tls { 443 } else { 80 }),
            authority: host.authority().to_owned(),
            target: format!("{slash}{target}"),
        })
    }
}

/// One hop of the way.
struct Hop {
    name: &'static str,
    ok: bool,
    time: Option<Duration>,
    message: String,
}

/// What came of one of the two questions.
#[derive(Default)]
struct Probe {
    hops: Vec<Hop>,
    outcome: Option<Result<Answer, Fault>>,
    /// Until the answer was there.
    time: Duration,
}

/// `POST /api/v1/test/diagnose`.
pub(crate) fn diagnose(app: &App, request: &Request, _: &Params<'_>) -> Response {
    let body = match json_object(request) {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    let text = match body.get("url") {
        Some(Value::String(url)) => url.trim().to_owned(),
        _ => return problem::invalid(&[("url".into(), "must be the public address to ask".into())]),
    };
    let most = match body.get("maxBodyBytes") {
        None | Some(Value::Null) => BODY.0,
        Some(value) => match value.as_u64() {
            Some(most) => usize::try_from(most.clamp(BODY.1, BODY.2)).unwrap_or(BODY.0),
            None => return problem::invalid(&[("maxBodyBytes".into(), "must be a number".into())]),
        },
    };
    let Some(_place) = Place::take() else {
        return problem(503, "others are being diagnosed at this moment; try again in a few seconds")
            .with("Retry-After", "5");
    };
    let mappings = match app.store.mappings() {
        Ok(mappings) => mappings,
        Err(e) => return problem::internal(&e),
    };
    let checked = Url::parse(&text).and_then(|url| {
        let mapping = find(&mappings, &url.host).ok_or_else(|| {
            format!("no mapping publishes {:?}: only addresses of mappings are asked", url.host)
        })?;
        if ![80, 443].contains(&url.port) && !app.reach.gateway_ports.contains(&url.port) {
            return Err(format!("no Gateway is at port {}: use that of the public address", url.port));
        }
        Ok((url, mapping))
    });
    let (url, mapping) = match checked {
        Ok(found) => found,
        Err(why) => return refused(&text, &why),
    };
    Response::json(200, &run(app, &text, &url, mapping, most))
}

fn refused(url: &str, why: &str) -> Response {
    Response::json(
        200,
        &json!({
            "success": false, "error": why, "requestId": "invalid", "url": url, "mapping": null,
            "gateway": null, "agent": null, "hops": [], "gatewayLogs": [], "agentLogs": [],
        }),
    )
}

/// The mapping of a host: its own, or the wildcard's.
fn find<'m>(mappings: &'m [Mapping], host: &str) -> Option<&'m Mapping> {
    let exact = mappings.iter().find(|mapping| mapping.domain.as_str() == host);
    exact.or_else(|| mappings.iter().find(|mapping| mapping.domain.matches(host)))
}

fn run(app: &App, text: &str, url: &Url, mapping: &Mapping, most: usize) -> Value {
    let until = Instant::now() + PATIENCE;
    let probe_until = Instant::now() + PROBE;
    let id = format!("diag-{}", MappingId::from_random(random::bytes()).to_string().replace('-', ""));
    let own = app.address();
    let (public, direct) = thread::scope(|scope| {
        let tls = url.tls.then(|| tls::gateway_config(app.reach.gateway_ca_file.as_deref()));
        let public = {
            let id = id.as_str();
            thread::Builder::new()
                .name("diagnose".into())
                .spawn_scoped(scope, move || ask_public(url, tls, own, id, most, probe_until))
        };
        let direct = mapping.enabled.then(|| ask_direct(url, mapping, own, most, probe_until));
        // A thread that cannot be had or panics leaves an empty probe.
        (public.ok().and_then(|thread| thread.join().ok()).unwrap_or_default(), direct)
    });
    let (gateway_logs, agent_logs) = logs(app, &id, until);
    let hops = hops(app, mapping, &public, direct.as_ref());
    let broken = hops.iter().find(|hop| !hop.ok);
    let hops: Vec<_> = hops
        .iter()
        .map(|hop| {
            json!({
                "name": hop.name,
                "ok": hop.ok,
                "durationMs": hop.time.map(millis),
                "message": hop.message,
            })
        })
        .collect();
    let off = || not_asked("the mapping is switched off", 0.0);
    json!({
        "success": broken.is_none(),
        "error": broken.map(|hop| format!("{}: {}", hop.name, hop.message)),
        "requestId": id,
        "url": text,
        "mapping": {
            "id": mapping.id.to_string(),
            "externalDomain": mapping.domain.as_str(),
            "internalTarget": mapping.authority(),
        },
        "gateway": shown(&public),
        "agent": direct.as_ref().map_or_else(off, shown),
        "hops": hops,
        "gatewayLogs": gateway_logs.iter().map(line_value).collect::<Vec<_>>(),
        "agentLogs": agent_logs.iter().map(line_value).collect::<Vec<_>>(),
    })
}

/// Asks the public address as a visitor would. Redirects are shown, not followed.
fn ask_public(
    url: &Url,
    tls: Option<io::Result<Arc<ClientConfig>>>,
    own: SocketAddr,
    id: &str,
    most: usize,
    until: Instant,
) -> Probe {
    let began = Instant::now();
    let mut probe = Probe::default();
    let mut channel = match open_public(url, tls, own, until, &mut probe.hops) {
        Ok(channel) => channel,
        Err(fault) => {
            probe.time = began.elapsed();
            probe.outcome = Some(Err(fault));
            return probe;
        }
    };
    let fields =
        [("X-Octoporty-Request-Id", id), ("X-Octoporty-Debug", "true"), ("Cache-Control", "no-cache")];
    let question = Question {
        method: "GET",
        target: &url.target,
        authority: &url.authority,
        fields: &fields,
        body: None,
        most,
    };
    let asked = Instant::now();
    let outcome = exchange::ask(&mut channel, &question);
    probe.hops.push(match &outcome {
        Ok(answer) => public_hop(answer, asked.elapsed()),
        Err(fault) => {
            Hop { name: "gateway", ok: false, time: Some(asked.elapsed()), message: fault.to_string() }
        }
    });
    probe.time = began.elapsed();
    probe.outcome = Some(outcome);
    probe
}

/// What the answer says about the Gateway: its own errors name the hop that failed.
fn public_hop(answer: &Answer, time: Duration) -> Hop {
    let said: Option<Value> = serde_json::from_slice(&answer.body).ok().filter(|said: &Value| {
        answer.status >= 400 && said.get("hop").is_some() && said.get("requestId").is_some()
    });
    let hop = said.as_ref().and_then(|said| said["hop"].as_str()).unwrap_or_default();
    let name = match hop {
        "tunnel" => "tunnel",
        "agent" => "agent",
        "upstream" => "service, through the tunnel",
        _ => "gateway",
    };
    let message = match &said {
        Some(said) => format!("status {}: {}", answer.status, said["message"].as_str().unwrap_or_default()),
        None => format!("status {} {}", answer.status, answer.reason),
    };
    Hop { name, ok: said.is_none(), time: Some(time), message }
}

fn open_public(
    url: &Url,
    tls: Option<io::Result<Arc<ClientConfig>>>,
    own: SocketAddr,
    until: Instant,
    hops: &mut Vec<Hop>,
) -> Result<Channel, Fault> {
    let mut step = |name, began: Instant, outcome: Result<String, &Fault>| {
        let (ok, message) = match outcome {
            Ok(message) => (true, message),
            Err(fault) => (false, fault.to_string()),
        };
        hops.push(Hop { name, ok, time: Some(began.elapsed()), message });
    };
    let began = Instant::now();
    let addresses = exchange::resolve(&url.host, url.port, until);
    let names = |all: &Vec<SocketAddr>| {
        all.iter().map(|address| address.ip().to_string()).collect::<Vec<_>>().join(", ")
    };
    step("name", began, addresses.as_ref().map(names));
    let addresses = addresses?;
    let began = Instant::now();
    let allowed = |address: SocketAddr| match target::forbidden(address.ip()) {
        Some(why) => Err(format!("{} {why}", address.ip())),
        None if target::reaches_listener(address, own) => {
            Err(format!("{address} is the Agent's own admin page"))
        }
        None => Ok(()),
    };
    let connected = exchange::connect(&addresses, until, allowed);
    step("connection", began, connected.as_ref().map(|(_, address)| address.to_string()));
    let (socket, _) = connected?;
    if !url.tls {
        return Ok(Channel::plain(socket, until));
    }
    let began = Instant::now();
    let wrong = |text: String| Fault { step: Step::Tls, trouble: Trouble::Other, text };
    let secure = || {
        let config = tls.unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()));
        let config = config.map_err(|e| wrong(format!("Agent__GatewayCaFile: {e}")))?;
        let name = ServerName::try_from(url.host.clone())
            .map_err(|_| wrong(format!("{:?} cannot be a name in TLS", url.host)))?;
        let connection = ClientConnection::new(config, name).map_err(|e| wrong(e.to_string()))?;
        Channel::secure(socket, connection, until)
    };
    let channel = secure();
    step("certificate", began, channel.as_ref().map(|_| "valid for this name".to_owned()));
    channel
}

/// Asks the service itself, as the Agent does for a visitor.
fn ask_direct(url: &Url, mapping: &Mapping, own: SocketAddr, most: usize, until: Instant) -> Probe {
    let began = Instant::now();
    let host_header = match &mapping.host_header {
        HostHeader::Preserve => Some(url.authority.as_str()),
        HostHeader::Target => None,
        HostHeader::Literal(value) => Some(value.as_str()),
    };
    let target = Target {
        host: &mapping.host,
        port: mapping.port,
        tls: mapping.tls,
        any_certificate: mapping.allow_invalid_certificates,
        host_header,
        path: &url.target,
    };
    let outcome = probe::ask(&target, own, until, &mut None, most);
    let time = began.elapsed();
    let hop = match &outcome {
        Ok(answer) => Hop {
            name: "service, asked directly",
            ok: answer.status < 500,
            time: Some(time),
            message: format!("status {} {}", answer.status, answer.reason),
        },
        Err(fault) => {
            Hop { name: "service, asked directly", ok: false, time: Some(time), message: fault.to_string() }
        }
    };
    Probe { hops: vec![hop], outcome: Some(outcome), time }
}

/// The way from the visitor to the service.
fn hops(app: &App, mapping: &Mapping, public: &Probe, direct: Option<&Probe>) -> Vec<Hop> {
    let status = app.control.status();
    let connected = status.state == TunnelState::Connected;
    let tunnel = Hop {
        name: "tunnel",
        ok: connected,
        time: status.rtt_ms.filter(|_| connected).map(|rtt| Duration::from_secs_f64(rtt / 1000.0)),
        message: match (&status.last_error, connected) {
            (_, true) => format!("connected to {}", status.gateway_url),
            (Some(error), false) => error.clone(),
            (None, false) => status.state.to_string(),
        },
    };
    let enabled = Hop {
        name: "mapping",
        ok: mapping.enabled,
        time: None,
        message: if mapping.enabled {
            format!("leads to {}", mapping.authority())
        } else {
            "is switched off".into()
        },
    };
    let copy = |hop: &Hop| Hop { name: hop.name, ok: hop.ok, time: hop.time, message: hop.message.clone() };
    let mut hops: Vec<_> = public.hops.iter().map(copy).collect();
    if !hops.iter().any(|hop| hop.name == "tunnel") {
        hops.push(tunnel);
    }
    hops.push(enabled);
    hops.extend(direct.into_iter().flat_map(|probe| probe.hops.iter().map(copy)));
    hops
}

/// Lines of both logs about the request, oldest first.
fn logs(app: &App, id: &str, until: Instant) -> (Vec<Line>, Vec<Line>) {
    let mut lines = Vec::new();
    for _ in 0..LOOKS {
        let Some(found) = gateway_lines(app, id, until) else { break };
        lines = found;
        if !lines.is_empty() || Instant::now() + SOON > until {
            break;
        }
        thread::sleep(SOON);
    }
    lines.reverse();
    // The Gateway's own number of the request begins its line, and is what the Agent calls it too.
    let mark = format!("[{id}]");
    let numbers: Vec<String> = lines
        .iter()
        .filter(|line| line.text.contains(&mark))
        .filter_map(|line| line.text.split(' ').next().map(str::to_owned))
        .collect();
    let mut ours = Vec::new();
    for _ in 0..LOOKS {
        ours = app.live.log.before_where(u64::MAX, LINES, |line| {
            numbers.iter().any(|number| line.text.contains(number)) || line.text.contains(id)
        });
        if !ours.is_empty() || numbers.is_empty() || Instant::now() + SOON > until {
            break;
        }
        thread::sleep(SOON);
    }
    ours.reverse();
    (lines, ours)
}

/// Asks the Gateway in a thread of its own, because it may take longer than there is time. `None`: no answer.
fn gateway_lines(app: &App, id: &str, until: Instant) -> Option<Vec<Line>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let (control, id) = (Arc::clone(&app.control), id.to_owned());
    let ask = move || {
        // Nobody may be waiting any more.
        let _ = sender.send(control.gateway_logs(0, LINES as u32, Some(&id)));
    };
    shared::threads::spawn("diagnose-logs", ask).ok()?;
    let answer = receiver.recv_timeout(until.saturating_duration_since(Instant::now())).ok()?;
    answer.ok().map(|page| page.lines)
}

/// A probe without an answer.
fn not_asked(error: &str, time: f64) -> Value {
    json!({
        "success": false, "error": error, "statusCode": null, "durationMs": time, "headers": {},
        "contentType": null, "bodySize": 0, "bodyTruncated": false, "bodyText": null, "bodyBase64": null,
    })
}

fn shown(probe: &Probe) -> Value {
    let time = millis(probe.time);
    let answer = match &probe.outcome {
        Some(Ok(answer)) => answer,
        other => {
            let error = match other {
                Some(Err(fault)) => fault.to_string(),
                _ => "no thread to ask with".to_owned(),
            };
            return not_asked(&error, time);
        }
    };
    let mut headers = Map::new();
    for (name, value) in &answer.fields {
        if let Value::Array(values) = headers.entry(name.as_str()).or_insert_with(|| json!([])) {
            values.push(value.as_str().into());
        }
    }
    let kind = answer.get("content-type");
    let encoded =
        answer.get("content-encoding").is_some_and(|coding| !coding.eq_ignore_ascii_case("identity"));
    let text = (is_text(kind) && !encoded).then(|| String::from_utf8_lossy(&answer.body).into_owned());
    json!({
        "success": true,
        "error": null,
        "statusCode": answer.status,
        "durationMs": time,
        "headers": headers,
        "contentType": kind,
        "bodySize": answer.body.len(),
        "bodyTruncated": !answer.complete,
        "bodyBase64": text.is_none().then(|| token::base64(&answer.body)),
        "bodyText": text,
    })
}

/// Whether a body of this type can be read by people.
fn is_text(kind: Option<&str>) -> bool {
    let Some(kind) = kind else { return true };
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind.starts_with("text/")
        || ["json", "xml", "javascript", "x-www-form-urlencoded"].iter().any(|word| kind.contains(word))
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_address_is_taken_apart() {
        let url = Url::parse("https://App.Example:8443/a/b?c=d#e").expect("an address");
        let expected = Url {
            tls: true,
            host: "app.example".into(),
            port: 8443,
            authority: "app.example:8443".into(),
            target: "/a/b?c=d".into(),
        };
        assert_eq!(url, expected);
        let url = Url::parse("http://app.example?x").expect("an address");
        assert_eq!((url.port, url.target.as_str()), (80, "/?x"));
        for wrong in [
            "",
            "app.example",
            "/path",
            "ftp://app.example",
            "https://",
            "https://a b/",
            "https://user:secret@app.example/",
            "https://app.example/a b",
            "https://app.example/\r\nX: 1",
            "file:///etc/passwd",
        ] {
            assert!(Url::parse(wrong).is_err(), "{wrong:?}");
        }
        assert!(Url::parse(&format!("https://app.example/{}", "a".repeat(MAX_URL))).is_err());
    }

    #[test]
    fn an_answer_of_the_gateways_own_names_the_hop() {
        let answer = |status: u16, body: &str| Answer {
            status,
            reason: "Reason".into(),
            fields: Vec::new(),
            body: body.into(),
            complete: true,
        };
        let time = Duration::from_millis(5);
        let own = r#"{"status":"Bad Gateway","message":"refused","requestId":"1-2","hop":"upstream"}"#;
        let hop = public_hop(&answer(502, own), time);
        assert_eq!((hop.name, hop.ok), ("service, through the tunnel", false));
        assert!(hop.message.contains("refused"));
        let hop = public_hop(&answer(404, "{}"), time);
        assert_eq!((hop.name, hop.ok, hop.message.as_str()), ("gateway", true, "status 404 Reason"));
    }

    #[test]
    fn a_probe_has_the_same_fields_whatever_came_of_it() {
        let answer = Answer {
            status: 200,
            reason: String::new(),
            fields: vec![("Set-Cookie".into(), "a".into()), ("Set-Cookie".into(), "b".into())],
            body: b"hi".to_vec(),
            complete: true,
        };
        let answered = shown(&Probe { outcome: Some(Ok(answer)), ..Probe::default() });
        assert_eq!(answered["headers"]["Set-Cookie"], json!(["a", "b"]));
        let fields = |value: &Value| {
            let mut names: Vec<_> = value.as_object().expect("an object").keys().cloned().collect();
            names.sort();
            names
        };
        for other in [not_asked("off", 0.0), shown(&Probe::default())] {
            assert_eq!(fields(&other), fields(&answered));
            assert_eq!(other["success"], false);
        }
    }

    #[test]
    fn bodies_are_shown_as_what_they_are() {
        for (kind, expected) in [
            (None, true),
            (Some("text/html; charset=utf-8"), true),
            (Some("application/problem+json"), true),
            (Some("image/svg+xml"), true),
            (Some("image/png"), false),
            (Some("application/octet-stream"), false),
        ] {
            assert_eq!(is_text(kind), expected, "{kind:?}");
        }
    }
}
