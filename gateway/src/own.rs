//! The Gateway's endpoints for trying the tunnel: `/test/tunnel`, `/test/tunnel/echo` and `/test/tunnel/forward/{id}`.
//!
//! For whoever has the key, on hosts that nobody publishes. The last two take a while, so they are done at the desk
//! while the visitor waits.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use shared::clock;
use shared::head::RequestHead;
use shared::hostname::Hostname;
use shared::mapping::MappingId;

use crate::answers::{Answer, path};
use crate::caddy::ask::percent_decoded;
use crate::gateway::Core;
use crate::visit::{self, Fault, Visit};

/// Where they are.
pub(crate) const PREFIX: &str = "/test/tunnel";
/// Largest body of a request to them.
pub(crate) const MAX_BODY: usize = 256 * 1024;
/// Says who asks, to whom it concerns.
const FORWARDED_BY: (&str, &str) = ("X-Forwarded-By", "Octoporty.Gateway.Test");

/// What becomes of a request.
pub(crate) enum Own {
    Now(Answer),
    /// To be done when its body is here, by somebody who may wait.
    Later(Task),
}

/// A request that takes a while.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Task {
    /// A POST through the first mapping.
    Echo,
    /// Any request through a mapping.
    Forward { mapping: MappingId, method: String, target: String },
}

/// Which methods a path of ours takes; `None`: it is none of ours.
pub(crate) fn methods(path: &str) -> Option<&'static str> {
    let rest = path.strip_prefix(PREFIX)?;
    match rest {
        "" => Some("GET, HEAD"),
        "/echo" => Some("POST"),
        _ if rest.strip_prefix("/forward/").is_some_and(|id| !id.is_empty() && !id.contains('/')) => {
            Some("POST")
        }
        _ => None,
    }
}

/// Begins a request to one of these paths.
pub(crate) fn begin(core: &Core, head: &RequestHead<'_>, visitor: IpAddr) -> Own {
    let path = path(head.target);
    let allowed = methods(path).unwrap_or_default();
    if !allowed.split(", ").any(|method| method == head.method) {
        let text = format!("this path takes {allowed}");
        return Own::Now(Answer::plain_fault(405, &text).with("Allow", allowed));
    }
    if let Err(answer) = core.admission.key(&core.config, head, visitor) {
        return Own::Now(answer);
    }
    match path.strip_prefix(PREFIX).unwrap_or_default() {
        "" => Own::Now(tunnel(core)),
        "/echo" => Own::Later(Task::Echo),
        rest => match forward(rest.trim_start_matches("/forward/"), head.target) {
            Ok(task) => Own::Later(task),
            Err(why) => Own::Now(fault(400, &why)),
        },
    }
}

/// Understands the address of a forward.
fn forward(id: &str, target: &str) -> Result<Task, String> {
    let mapping = id.parse().map_err(|_| format!("{id:?} is no id of a mapping"))?;
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let given = |name: &str| {
        let value = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(n, _)| *n == name)?.1;
        Some(percent_decoded(value).ok_or_else(|| format!("{name} is not well encoded")))
    };
    let method = given("method").transpose()?.unwrap_or_else(|| "GET".into());
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if method.is_empty() || method.len() > 32 || !method.bytes().all(token) || method == "CONNECT" {
        return Err(format!("{method:?} is no method"));
    }
    let target = given("path").transpose()?.unwrap_or_else(|| "/".into());
    if !target.starts_with('/') || target.len() > 8192 || !target.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("path must begin with / and consist of visible ASCII".into());
    }
    Ok(Task::Forward { mapping, method, target })
}

/// Who is connected, and what they publish.
fn tunnel(core: &Core) -> Answer {
    let mut agents = Vec::new();
    let mut all = Vec::new();
    for session in core.tunnels.sessions().iter().filter(|session| session.serves()) {
        let mappings: Vec<_> = session
            .tunnel
            .table()
            .into_iter()
            .map(|(id, host)| {
                json!({
                    "id": id.to_string(),
                    "externalDomain": host.as_str(),
                    // Where a mapping leads stays with the Agent.
                    "internalTarget": null,
                    "enabled": true,
                })
            })
            .collect();
        all.extend(mappings.iter().cloned());
        let rtt = session.links().iter().map(|link| link.base_rtt()).filter(|rtt| *rtt > 0).min();
        agents.push(json!({
            "connectionId": session.connection_id(),
            "agentName": session.agent_name,
            "agentVersion": session.agent_version,
            "links": session.links().len(),
            "streams": session.streams.len(),
            "rttMs": rtt.map(|micros| micros as f64 / 1000.0),
            "mappingCount": mappings.len(),
        }));
    }
    let Some(first) = agents.first() else { return not_connected() };
    let value = json!({
        "connected": true,
        "connectionId": first["connectionId"],
        "agentVersion": first["agentVersion"],
        "mappingCount": all.len(),
        "mappings": all,
        "agents": agents,
        "timestamp": clock::now_iso(),
    });
    Answer::json(200, &value)
}

fn not_connected() -> Answer {
    let text = "No agent is connected";
    let value = json!({
        "connected": false, "success": false, "message": text, "error": text, "timestamp": clock::now_iso(),
    });
    Answer::json(503, &value)
}

fn fault(status: u16, why: &str) -> Answer {
    Answer::json(status, &json!({ "success": false, "error": why, "timestamp": clock::now_iso() }))
}

impl Task {
    /// Does it. Waits for the Agent and what is behind it.
    pub(crate) fn run(&self, core: &Arc<Core>, body: &[u8]) -> Answer {
        let mut published: Vec<_> = Vec::new();
        for session in core.tunnels.sessions().iter().filter(|session| session.serves()) {
            published.extend(session.tunnel.table());
        }
        if published.is_empty() && core.tunnels.counts().agents == 0 {
            return not_connected();
        }
        match self {
            Task::Echo => {
                published.sort_by(|(_, a), (_, b)| a.as_str().cmp(b.as_str()));
                match published.first() {
                    Some((id, host)) => echo(core, *id, host, body),
                    None => fault(400, "No enabled mapping to send the echo through"),
                }
            }
            Task::Forward { mapping, method, target } => {
                match published.iter().find(|(id, _)| id == mapping) {
                    Some((_, host)) => pass_on(core, host, method, target, body),
                    None => fault(404, &format!("Mapping {mapping} is not published here")),
                }
            }
        }
    }
}

/// A name that a mapping answers to.
fn name_of(host: &Hostname) -> String {
    host.as_str()
        .strip_prefix("*.")
        .map_or_else(|| host.as_str().to_owned(), |parent| format!("octoporty-test.{parent}"))
}

fn echo(core: &Core, id: MappingId, host: &Hostname, body: &[u8]) -> Answer {
    let body = if body.is_empty() {
        json!({ "data": { "message": "Octoporty tunnel test", "timestamp": clock::now_iso() } })
            .to_string()
            .into_bytes()
    } else if serde_json::from_slice::<Value>(body).is_ok() {
        body.to_vec()
    } else {
        return fault(400, "The body is not JSON");
    };
    let visit = Visit {
        method: "POST",
        host: &name_of(host),
        target: "/api/v1/test/echo",
        fields: &[("Content-Type", "application/json"), ("X-Test-Request", "true"), FORWARDED_BY],
        body: &body,
    };
    match visit::visit(core.address(), &visit) {
        Ok(answered) => {
            let value = json!({
                "success": true,
                "mappingId": id.to_string(),
                "externalDomain": host.as_str(),
                "statusCode": answered.status,
                "headers": answered.fields,
                "body": String::from_utf8_lossy(&answered.body),
                "bodyTruncated": answered.truncated,
                "roundTripMs": (answered.time.as_secs_f64() * 10_000.0).round() / 10.0,
            });
            Answer::json(200, &value)
        }
        Err(why) => no_answer(&why),
    }
}

fn pass_on(core: &Core, host: &Hostname, method: &str, target: &str, body: &[u8]) -> Answer {
    let visit = Visit { method, host: &name_of(host), target, fields: &[FORWARDED_BY], body };
    match visit::visit(core.address(), &visit) {
        Ok(answered) => {
            let value = json!({
                "statusCode": answered.status,
                "headers": answered.fields,
                "bodyLength": answered.body.len(),
                "bodyTruncated": answered.truncated,
                "body": String::from_utf8_lossy(&answered.body),
                "roundTripMs": (answered.time.as_secs_f64() * 10_000.0).round() / 10.0,
            });
            Answer::json(200, &value)
        }
        Err(why) => no_answer(&why),
    }
}

fn no_answer(why: &Fault) -> Answer {
    match why {
        Fault::Timeout => fault(504, &format!("Through the tunnel: {why}")),
        Fault::Broken(_) => fault(502, &format!("Through the tunnel: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

    #[test]
    fn only_these_paths_are_ours() {
        for (path, expected) in [
            ("/test/tunnel", Some("GET, HEAD")),
            ("/test/tunnel/echo", Some("POST")),
            ("/test/tunnel/forward/x", Some("POST")),
            ("/test/tunnel/forward/", None),
            ("/test/tunnel/forward/x/y", None),
            ("/test/tunnels", None),
            ("/test", None),
            ("/testing", None),
        ] {
            assert_eq!(methods(path), expected, "{path}");
        }
    }

    #[test]
    fn a_forward_names_method_and_path() {
        let task = |query: &str| forward(ID, &format!("/test/tunnel/forward/{ID}{query}"));
        let mapping: MappingId = ID.parse().expect("an id");
        let expected = |method: &str, target: &str| {
            Ok(Task::Forward { mapping, method: method.into(), target: target.into() })
        };
        assert_eq!(task(""), expected("GET", "/"));
        assert_eq!(task("?path=/a%3Fb%3Dc&method=PUT"), expected("PUT", "/a?b=c"));
        for wrong in [
            "?path=a",
            "?path=/a%0d%0aX:%201",
            "?path=/a%20b",
            "?method=",
            "?method=G%20T",
            "?method=CONNECT",
            "?path=%zz",
        ] {
            assert!(task(wrong).is_err(), "{wrong}");
        }
        assert!(forward("x", "/").is_err());
    }

    #[test]
    fn a_wildcard_is_visited_by_a_name_it_covers() {
        let name = |text: &str| name_of(&Hostname::parse(text).expect("a name"));
        assert_eq!(name("a.example.com"), "a.example.com");
        assert_eq!(name("*.example.com"), "octoporty-test.example.com");
    }
}
