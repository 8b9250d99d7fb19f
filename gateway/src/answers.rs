//! Answers that the Gateway gives itself: error pages, and its own few paths on hosts that nobody publishes.
//!
//! An error names the hop and what to do, never an internal address. JSON by default, a small self-contained page
//! when the visitor's `Accept` prefers HTML.

use std::net::IpAddr;

use shared::clock;
use shared::head::RequestHead;
use shared::landing;
use shared::reason::{Hop, Reason};

use crate::caddy::{self, ask};
use crate::config::AllowedOrigins;
use crate::gateway::Core;
use crate::own;

/// Seconds named in `Retry-After`.
const RETRY_AFTER: &str = "5";

/// One answer, not yet on the wire.
#[derive(Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) message: String,
    content_type: &'static str,
    extra: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    /// A request that cannot be parsed: plain text, because nothing is known about the visitor.
    pub(crate) fn plain_fault(status: u16, message: &str) -> Answer {
        Answer {
            status,
            message: message.to_owned(),
            content_type: "text/plain; charset=utf-8",
            extra: Vec::new(),
            body: format!("{status} {}: {message}\n", status_text(status)).into_bytes(),
        }
    }

    /// A Stream that ended before its answer began.
    pub(crate) fn failure(reason: Reason, request_id: &str, html: bool) -> Answer {
        Answer::error(reason.status(), reason.text(), reason.hop(), request_id, html, reason.retry_after())
    }

    /// The Agent that serves the host is not connected.
    pub(crate) fn away(request_id: &str, html: bool) -> Answer {
        let text = "The home side of this address is not connected at the moment; please try again shortly.";
        Answer::error(503, text, Hop::Tunnel, request_id, html, true)
    }

    fn error(status: u16, text: &str, hop: Hop, request_id: &str, html: bool, retry: bool) -> Answer {
        let reason_phrase = status_text(status);
        let timestamp = clock::now_iso();
        let (content_type, body) = if html {
            ("text/html; charset=utf-8", page(status, reason_phrase, text, hop, request_id, &timestamp))
        } else {
            let json = serde_json::json!({
                "status": reason_phrase,
                "message": text,
                "timestamp": timestamp,
                "requestId": request_id,
                "hop": hop.to_string(),
            });
            ("application/json; charset=utf-8", json.to_string())
        };
        let mut extra = vec![("Cache-Control", "no-store".to_owned())];
        if retry {
            extra.push(("Retry-After", RETRY_AFTER.to_owned()));
        }
        if html {
            let policy =
                "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'";
            extra.push(("Content-Security-Policy", policy.to_owned()));
        }
        Answer { status, message: text.to_owned(), content_type, extra, body: body.into_bytes() }
    }

    /// Bytes for the visitor. `keep`: the connection stays open. To `HEAD` the body is only announced.
    pub(crate) fn to_bytes(&self, keep: bool, is_head: bool) -> Vec<u8> {
        let mut out = format!("HTTP/1.1 {} {}\r\n", self.status, status_text(self.status));
        if !self.content_type.is_empty() {
            out.push_str(&format!("Content-Type: {}\r\n", self.content_type));
        }
        if self.status != 204 {
            out.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        out.push_str("X-Content-Type-Options: nosniff\r\n");
        for (name, value) in &self.extra {
            out.push_str(&format!("{name}: {value}\r\n"));
        }
        out.push_str(if keep { "Connection: keep-alive\r\n\r\n" } else { "Connection: close\r\n\r\n" });
        let mut out = out.into_bytes();
        if !is_head {
            out.extend_from_slice(&self.body);
        }
        out
    }

    /// Lets pages of the origin that asked read it, if they may (Fetch 3.2, "CORS protocol").
    pub(crate) fn shared_with(self, core: &Core, origin: Option<&[u8]>) -> Answer {
        let origin = origin.and_then(|origin| std::str::from_utf8(origin).ok());
        match (origin, &core.config.allowed_origins) {
            (Some(_), AllowedOrigins::Any) => self.with("Access-Control-Allow-Origin", "*"),
            (Some(origin), allowed) if allowed.allows(origin) => {
                self.with("Access-Control-Allow-Origin", origin).with("Vary", "Origin")
            }
            _ => self,
        }
    }

    /// A JSON object that only those who asked should see.
    pub(crate) fn json(status: u16, value: &serde_json::Value) -> Answer {
        Answer {
            status,
            message: String::new(),
            content_type: "application/json; charset=utf-8",
            extra: vec![("Cache-Control", "no-store".to_owned())],
            body: value.to_string().into_bytes(),
        }
    }

    /// The page for Prometheus.
    pub(crate) fn metrics(page: String) -> Answer {
        Answer {
            status: 200,
            message: String::new(),
            content_type: shared::metrics::CONTENT_TYPE,
            extra: vec![("Cache-Control", "no-store".to_owned())],
            body: page.into_bytes(),
        }
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Answer {
        self.extra.push((name, value.to_owned()));
        self
    }
}

/// A path of the Gateway's own, on a host that nobody publishes.
pub(crate) fn simple(core: &Core, head: &RequestHead<'_>, peer: IpAddr) -> Answer {
    let answer = match (path(head.target), head.method) {
        (caddy::ASK_PATH, "GET" | "HEAD")
            if ask::is_caddys(head, core.config.trusted_proxies.trusts(peer) || peer.is_loopback()) =>
        {
            let domain = ask::domain(head.target).unwrap_or_default();
            let ours = |host: &str| core.tunnels.is_published(host) || core.awaits(host);
            let (status, text) = core.caddy.may_have_certificate(&domain, ours);
            Answer {
                status,
                message: text.to_owned(),
                content_type: "text/plain; charset=utf-8",
                extra: vec![("Cache-Control", "no-store".to_owned())],
                body: format!("{text}\n").into_bytes(),
            }
        }
        ("/health", "GET" | "HEAD") => {
            let status = if core.tunnels.counts().agents > 0 { "healthy" } else { "degraded" };
            // With the time, for an Agent that wonders about its own clock.
            let date = shared::clock::http_date(shared::clock::now());
            Answer::json(200, &serde_json::json!({ "status": status })).with("Date", &date)
        }
        ("/health", "OPTIONS") => preflight("GET, HEAD"),
        ("/health", _) => {
            Answer::plain_fault(405, "only GET and HEAD are served here").with("Allow", "GET, HEAD")
        }
        (path, "OPTIONS") if own::methods(path).is_some() => {
            preflight(own::methods(path).unwrap_or_default())
        }
        _ => return elsewhere(core, head),
    };
    answer.shared_with(core, head.get("origin"))
}

/// What a browser asks before it sends a request from another page.
fn preflight(methods: &str) -> Answer {
    let answer =
        Answer { status: 204, message: String::new(), content_type: "", extra: Vec::new(), body: Vec::new() };
    answer
        .with("Access-Control-Allow-Methods", methods)
        .with("Access-Control-Allow-Headers", "Content-Type, X-Api-Key")
        .with("Access-Control-Max-Age", "600")
}

/// The landing page on our own host; elsewhere, nothing.
fn elsewhere(core: &Core, head: &RequestHead<'_>) -> Answer {
    let nothing =
        |text| Answer::error(404, text, Hop::Gateway, &core.next_request_id(), wants_html(head), false);
    let Some(page) = core.tunnels.page(head.host.name()) else {
        return nothing("Nothing is published at this address.");
    };
    match (path(head.target), head.method) {
        ("/", "GET" | "HEAD") => {
            let html = page.as_ref().map_or(landing::DEFAULT, |page| &page.html);
            Answer {
                status: 200,
                message: String::new(),
                content_type: "text/html; charset=utf-8",
                extra: vec![
                    ("Cache-Control", "no-cache".to_owned()),
                    ("Content-Security-Policy", crate::landing::POLICY.to_owned()),
                    ("X-Frame-Options", "DENY".to_owned()),
                    ("Referrer-Policy", "no-referrer".to_owned()),
                    ("Cross-Origin-Opener-Policy", "same-origin".to_owned()),
                ],
                body: html.as_bytes().to_vec(),
            }
        }
        ("/", _) => Answer::plain_fault(405, "only GET and HEAD are served here").with("Allow", "GET, HEAD"),
        // A person has gone astray; a program should be told.
        (_, "GET" | "HEAD") if wants_html(head) => Answer {
            status: 302,
            message: String::new(),
            content_type: "",
            extra: vec![("Location", "/".to_owned()), ("Cache-Control", "no-store".to_owned())],
            body: Vec::new(),
        },
        _ => nothing("This is the Gateway's own address; it has no such path."),
    }
}

/// The path of a target, without its query.
pub(crate) fn path(target: &str) -> &str {
    target.split_once('?').map_or(target, |(path, _)| path)
}

/// Whether `Accept` prefers HTML: it names `text/html`, and not with a lower weight than JSON (RFC 9110 12.5.1).
pub(crate) fn wants_html(head: &RequestHead<'_>) -> bool {
    let Some(accept) = head.get("accept").and_then(|value| std::str::from_utf8(value).ok()) else {
        return false;
    };
    let weight = |wanted: &str| {
        accept.split(',').find_map(|part| {
            let mut parameters = part.split(';');
            let range = parameters.next()?.trim();
            range.eq_ignore_ascii_case(wanted).then(|| {
                let quality = parameters.find_map(|p| p.trim().strip_prefix("q="));
                quality.map_or(1.0, |q| q.trim().parse::<f32>().unwrap_or(0.0))
            })
        })
    };
    let html = weight("text/html").unwrap_or(0.0);
    html > 0.0 && html >= weight("application/json").unwrap_or(0.0)
}

fn page(status: u16, phrase: &str, text: &str, hop: Hop, request_id: &str, timestamp: &str) -> String {
    // Nothing here comes from a visitor: the id and the time are ours, the rest is constant text.
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{status} {phrase}</title><style>\
         body{{margin:0;min-height:100vh;display:grid;place-items:center;background:#0b0f14;color:#d7e0ea;\
         font:16px/1.6 system-ui,sans-serif}}main{{max-width:34rem;padding:2rem}}h1{{font-size:1.4rem;color:#fff;\
         margin:0 0 .5rem}}.path{{display:flex;gap:.5rem;flex-wrap:wrap;margin:1.5rem 0;padding:0;list-style:none}}\
         .path li{{padding:.15rem .7rem;border:1px solid #2a3644;border-radius:1rem;color:#8fa1b3}}\
         .path li[aria-current]{{border-color:#ff6b6b;color:#ff9d9d}}footer{{color:#8fa1b3;font-size:.8rem}}\
         @media(prefers-color-scheme:light){{body{{background:#f6f8fa;color:#26313d}}h1{{color:#000}}\
         .path li,footer{{color:#536372;border-color:#c8d1da}}.path li[aria-current]{{border-color:#c62828;color:#a31515}}}}\
         </style></head><body><main><h1>{status} {phrase}</h1><p>{text}</p><ul class=\"path\">{}</ul>\
         <footer>Request {request_id} · {timestamp}</footer></main></body></html>\n",
        [Hop::Visitor, Hop::Gateway, Hop::Tunnel, Hop::Agent, Hop::Upstream]
            .map(|h| {
                let name = match h {
                    Hop::Visitor => "You",
                    Hop::Gateway => "Gateway",
                    Hop::Tunnel => "Tunnel",
                    Hop::Agent => "Agent",
                    Hop::Upstream => "Service",
                };
                if h == hop {
                    format!("<li aria-current=\"step\">{name} ✕</li>")
                } else {
                    format!("<li>{name}</li>")
                }
            })
            .concat()
    )
}

/// Reason phrase of a status that the Gateway gives.
fn status_text(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        204 => "No Content",
        302 => "Found",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn html(accept: &str) -> bool {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n\r\n");
        let (head, _) = shared::head::parse_request(request.as_bytes()).unwrap().unwrap();
        wants_html(&head)
    }

    #[test]
    fn a_browser_gets_a_page_and_a_program_json() {
        assert!(html("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"));
        assert!(html("application/json;q=0.5, text/html"));
        for program in ["*/*", "application/json", "application/json, text/html;q=0.9", "text/html;q=0", ""] {
            assert!(!html(program), "{program}");
        }
    }

    #[test]
    fn an_error_names_hop_and_request_and_nothing_else() {
        let answer = Answer::failure(Reason::UpstreamRefused, "r-7", false);
        let bytes = answer.to_bytes(true, false);
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{head}");
        let json: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(
            (&json["hop"], &json["requestId"], &json["status"]),
            (&"upstream".into(), &"r-7".into(), &"Bad Gateway".into())
        );
        assert_eq!(json.as_object().unwrap().len(), 5);
    }

    #[test]
    fn to_head_the_body_is_only_announced() {
        let answer = Answer::failure(Reason::Draining, "r-7", true);
        let (full, announced) = (answer.to_bytes(false, false), answer.to_bytes(false, true));
        assert!(full.starts_with(&announced) && full.len() > announced.len());
        assert!(announced.windows(13).any(|w| w == b"Retry-After: "));
    }
}
