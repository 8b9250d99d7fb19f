//! Whether a service answers, asked the way the Agent would ask it for a Visitor: same rules about addresses, same
//! trust in certificates. Used before a mapping is saved, by discovery and by `doctor`.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shared::mapping::UpstreamHost;
use shared::target;

use crate::exchange::{self, Answer, Channel, Fault, Question, Step, Trouble};
use crate::tls::UpstreamTls;

/// How long one question may take: what a person waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(8);
/// How long the TLS handshake may take: what does not speak TLS often just waits.
const HANDSHAKE: Duration = Duration::from_secs(4);
/// Bytes of a page that are searched for its title.
const PAGE: usize = 64 * 1024;
/// Longest title, in characters.
const MAX_TITLE: usize = 120;

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) host: &'a UpstreamHost,
    pub(crate) port: u16,
    pub(crate) tls: bool,
    pub(crate) any_certificate: bool,
    /// The `Host` field; the target's own name when there is none.
    pub(crate) host_header: Option<&'a str>,
    pub(crate) path: &'a str,
}

impl Target<'_> {
    /// Host and port as the service itself would be called.
    pub(crate) fn authority(&self) -> String {
        let host = match self.host {
            UpstreamHost::Address(std::net::IpAddr::V6(ip)) => format!("[{ip}]"),
            host => host.to_string(),
        };
        let own_port = if self.tls { 443 } else { 80 };
        if self.port == own_port { host } else { format!("{host}:{}", self.port) }
    }
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// An answer came, and the service does not say that it is broken.
    pub(crate) ok: bool,
    pub(crate) status: Option<u16>,
    pub(crate) reason: String,
    pub(crate) duration: Duration,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) server: Option<String>,
    pub(crate) title: Option<String>,
    /// The step that failed.
    pub(crate) hop: Option<Step>,
    pub(crate) error: Option<String>,
    /// What to do.
    pub(crate) hint: Option<String>,
}

impl Report {
    /// As the API shows it.
    pub(crate) fn shown(&self) -> Value {
        json!({
            "ok": self.ok,
            "statusCode": self.status,
            "statusText": self.status.map(|_| &self.reason),
            "durationMs": (self.duration.as_secs_f64() * 10_000.0).round() / 10.0,
            "address": self.address.map(|address| address.to_string()),
            "server": self.server,
            "title": self.title,
            "hop": self.hop.map(Step::name),
            "error": self.error,
            "hint": self.hint,
        })
    }
}

/// Asks. `own` is where our admin page listens, which is never a target.
pub(crate) fn probe(target: &Target<'_>, own: SocketAddr) -> Report {
    let began = Instant::now();
    let mut report = Report::default();
    let result = ask(target, own, began + PATIENCE, &mut report.address, PAGE);
    report.duration = began.elapsed();
    match result {
        Ok(answer) => describe(target, &answer, &mut report),
        Err(fault) => {
            report.hop = Some(fault.step);
            report.hint = hint(target, &fault);
            report.error = Some(fault.text);
        }
    }
    report
}

/// The question itself; of the body at most `most` bytes are read.
pub(crate) fn ask(
    target: &Target<'_>,
    own: SocketAddr,
    until: Instant,
    reached: &mut Option<SocketAddr>,
    most: usize,
) -> Result<Answer, Fault> {
    static TLS: LazyLock<UpstreamTls> = LazyLock::new(UpstreamTls::default);
    let addresses = match target.host {
        UpstreamHost::Address(ip) => vec![SocketAddr::new(*ip, target.port)],
        UpstreamHost::Name(name) => exchange::resolve(name.as_str(), target.port, until)?,
    };
    let allowed = |address: SocketAddr| match target::forbidden(address.ip()) {
        Some(why) => Err(format!("{} {why}", address.ip())),
        None if target::reaches_listener(address, own) => Err("this is the Agent's own admin page".into()),
        None => Ok(()),
    };
    let (socket, address) = exchange::connect(&addresses, until, allowed)?;
    // An address of this machine other than loopback is known as our own only now.
    if socket.local_addr().is_ok_and(|local| local.ip() == address.ip()) && address.port() == own.port() {
        let text = "this is the Agent's own admin page".to_owned();
        return Err(Fault { step: Step::Rules, trouble: Trouble::Other, text });
    }
    *reached = Some(address);
    let mut channel = if target.tls {
        let tls = TLS.connect(target.host, target.any_certificate).map_err(|text| Fault {
            step: Step::Tls,
            trouble: Trouble::Other,
            text,
        })?;
        let handshake = until.min(Instant::now() + HANDSHAKE);
        Channel::secure(socket, tls, handshake)?.until(until)
    } else {
        Channel::plain(socket, until)
    };
    let authority = target.host_header.map_or_else(|| target.authority(), str::to_owned);
    let question =
        Question { method: "GET", target: target.path, authority: &authority, fields: &[], body: None, most };
    exchange::ask(&mut channel, &question)
}

fn describe(target: &Target<'_>, answer: &Answer, report: &mut Report) {
    report.status = Some(answer.status);
    report.reason = if answer.reason.is_empty() {
        standard_reason(answer.status).into()
    } else {
        one_line(&answer.reason, MAX_TITLE)
    };
    report.server = answer.get("server").map(|text| one_line(text, MAX_TITLE));
    report.title = title(&String::from_utf8_lossy(&answer.body));
    report.ok = answer.status < 500 && !is_plain_on_tls(target.tls, answer);
    if !report.ok {
        report.hop = Some(Step::Http);
    }
    let (error, hint) = if is_plain_on_tls(target.tls, answer) {
        (Some("the service expects HTTPS at this port".to_owned()), Some("switch HTTPS on for this target"))
    } else if answer.status >= 500 {
        let error = format!("the service answers {} {}", answer.status, report.reason);
        (Some(error), Some("the connection works; look into the service's own log"))
    } else if is_redirect_to_https(target, answer) {
        (None, Some("the service redirects to HTTPS: use https and its HTTPS port as the target"))
    } else if answer.status == 421 || (answer.status == 400 && target.host_header.is_some()) {
        (
            None,
            Some(
                "the service may not accept this Host header; try the setting 'target', or add the public name and this machine to its trusted proxies",
            ),
        )
    } else if answer.status == 404 {
        (None, Some("the service answers; it has no page at this path"))
    } else if matches!(answer.status, 401 | 403) {
        (None, Some("the service answers and wants a login"))
    } else {
        (None, None)
    };
    report.error = error;
    report.hint = hint.map(str::to_owned);
}

/// What servers say that got HTTP where they speak TLS.
pub(crate) fn is_plain_on_tls(tls: bool, answer: &Answer) -> bool {
    if tls || !matches!(answer.status, 400 | 497) {
        return false;
    }
    let body = String::from_utf8_lossy(&answer.body).to_lowercase();
    [
        "plain http request was sent to https",
        "http request to an https server",
        "speaking plain http to an ssl",
    ]
    .iter()
    .any(|words| body.contains(words))
}

fn is_redirect_to_https(target: &Target<'_>, answer: &Answer) -> bool {
    !target.tls
        && matches!(answer.status, 301 | 302 | 307 | 308)
        && answer.get("location").is_some_and(|to| to.to_ascii_lowercase().starts_with("https://"))
}

fn hint(target: &Target<'_>, fault: &Fault) -> Option<String> {
    let text = match (fault.step, fault.trouble) {
        (Step::Dns, Trouble::Silent) => "is the name server of this machine reachable?".into(),
        (Step::Dns, _) => {
            "check the spelling, or use the address; in a container use the service's name or the \
                           host's address"
                .into()
        }
        (Step::Rules, _) => "choose another target: this one is never connected to".into(),
        (Step::Connect, Trouble::Refused) => format!(
            "nothing listens at port {}: is the service running, is the port right, and does it listen on this address?",
            target.port
        ),
        (Step::Connect, Trouble::Silent) => {
            "is the machine switched on, and does its firewall let this machine in?".into()
        }
        (Step::Connect, _) => "is the address in a network that this machine can reach?".into(),
        (Step::Tls, Trouble::NotTls) => "the service speaks plain HTTP at this port: switch HTTPS off".into(),
        (Step::Tls, Trouble::CertificateIssuer | Trouble::CertificateName | Trouble::CertificateTime) => {
            "allow invalid certificates for this mapping if you trust the way to the service".into()
        }
        (Step::Tls, Trouble::Closed | Trouble::Silent) => {
            "does the service speak HTTPS at this port? if it is plain HTTP, switch HTTPS off".into()
        }
        (Step::Http, Trouble::Closed) if !target.tls => {
            "does the service speak HTTPS at this port? then switch HTTPS on".into()
        }
        (Step::Http, Trouble::NotHttp) if !target.tls => {
            "what listens there is no web service, or speaks HTTPS".into()
        }
        (Step::Http, Trouble::Silent) => {
            "the service accepts connections and does not answer: is it busy?".into()
        }
        _ => return None,
    };
    Some(text)
}

fn standard_reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "",
    }
}

/// The title of an HTML page, as a person reads it.
pub(crate) fn title(page: &str) -> Option<String> {
    // Lower-casing ASCII only keeps every position.
    let lower = page.to_ascii_lowercase();
    let start = lower.find("<title")?;
    let start = start + lower[start..].find('>')? + 1;
    let end = start + lower[start..].find("</title")?;
    let text = one_line(&entities(&page[start..end]), MAX_TITLE);
    (!text.is_empty()).then_some(text)
}

/// The few escapes that titles have.
fn entities(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.find(';').filter(|end| *end <= 10);
        let known = end.and_then(|end| {
            let name = &rest[1..end];
            let code = match name.strip_prefix('#') {
                Some(number) => match number.strip_prefix(['x', 'X']) {
                    Some(hex) => u32::from_str_radix(hex, 16).ok(),
                    None => number.parse().ok(),
                },
                None => None,
            };
            let c = match name {
                "amp" => Some('&'),
                "lt" => Some('<'),
                "gt" => Some('>'),
                "quot" => Some('"'),
                "apos" => Some('\''),
                "nbsp" => Some(' '),
                "middot" => Some('\u{b7}'),
                "ndash" => Some('\u{2013}'),
                "mdash" => Some('\u{2014}'),
                _ => code.and_then(char::from_u32),
            };
            c.map(|c| (c, end))
        });
        match known {
            Some((c, end)) => {
                out.push(c);
                rest = &rest[end + 1..];
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// Without line ends and control characters, and not too long: strangers write it.
fn one_line(text: &str, most: usize) -> String {
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect();
    words.join(" ").chars().take(most).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    const OWN: &str = "127.0.0.1:1";

    /// What is reported of a service that reads a request and answers these bytes.
    fn of(answer: &'static [u8], tls: bool) -> Report {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let server = thread::spawn(move || {
            let (mut socket, _) = listener.accept().expect("asked");
            let mut bytes = [0; 4096];
            let count = socket.read(&mut bytes).expect("a request");
            socket.write_all(answer).expect("answered");
            String::from_utf8_lossy(&bytes[..count]).into_owned()
        });
        let host = UpstreamHost::parse("127.0.0.1").expect("a host");
        let target =
            Target { host: &host, port, tls, any_certificate: false, host_header: None, path: "/x?y" };
        let report = probe(&target, OWN.parse().expect("an address"));
        let request = server.join().expect("no panic");
        if !tls {
            assert!(
                request.starts_with(&format!("GET /x?y HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n")),
                "{request}"
            );
        }
        report
    }

    #[test]
    fn a_service_that_answers_is_described() {
        let report = of(
            b"HTTP/1.1 200 Fine\r\nServer: nginx\r\nContent-Length: 46\r\n\r\n<html><TITLE lang=en>\n A &amp; B </Title></html>",
            false,
        );
        assert!(report.ok, "{report:?}");
        assert_eq!((report.status, report.reason.as_str()), (Some(200), "Fine"));
        assert_eq!((report.server.as_deref(), report.title.as_deref()), (Some("nginx"), Some("A & B")));
        assert_eq!((report.hop, report.error.as_ref(), report.hint.as_ref()), (None, None, None));
        let shown = report.shown();
        for field in [
            "ok",
            "statusCode",
            "statusText",
            "durationMs",
            "address",
            "server",
            "title",
            "hop",
            "error",
            "hint",
        ] {
            assert!(shown.get(field).is_some(), "{field}");
        }
        let silent = of(b"HTTP/1.1 401\r\nContent-Length: 0\r\n\r\n", false);
        assert!(
            silent.ok && silent.reason == "Unauthorized" && silent.hint.expect("a hint").contains("login")
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_what_to_do() {
        let rows: [(&[u8], bool, Step, &str, &str); 6] = [
            (b"HTTP/1.1 503 Starting\r\nContent-Length: 0\r\n\r\n", false, Step::Http, "503 Starting", "own log"),
            (
                b"HTTP/1.1 400 Bad Request\r\nContent-Length: 49\r\n\r\nThe plain HTTP request was sent to HTTPS port....",
                false,
                Step::Http,
                "expects HTTPS",
                "switch HTTPS on",
            ),
            (b"", false, Step::Http, "hung up", "HTTPS"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", false, Step::Http, "not HTTP", "no web service"),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", true, Step::Tls, "does not speak TLS", "HTTPS off"),
            (b"", true, Step::Tls, "ended the connection", "does the service speak HTTPS"),
        ];
        for (answer, tls, hop, error, hint) in rows {
            let report = of(answer, tls);
            assert!(!report.ok, "{report:?}");
            assert_eq!(report.hop, Some(hop), "{report:?}");
            assert!(report.error.as_deref().is_some_and(|text| text.contains(error)), "{report:?}");
            assert!(report.hint.as_deref().is_some_and(|text| text.contains(hint)), "{report:?}");
        }
    }

    #[test]
    fn nobody_there_and_nobody_allowed_are_different_things() {
        let free = TcpListener::bind(("127.0.0.1", 0)).expect("a port").local_addr().expect("bound");
        let own = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let own = own.local_addr().expect("bound");
        let rows = [
            ("127.0.0.1", free.port(), Step::Connect, "nothing listens"),
            ("no-such-name.invalid", 80, Step::Dns, "spelling"),
            ("localhost", own.port(), Step::Rules, "another target"),
        ];
        for (host, port, hop, hint) in rows {
            let host = UpstreamHost::parse(host).expect("a host");
            let target = Target {
                host: &host,
                port,
                tls: false,
                any_certificate: false,
                host_header: None,
                path: "/",
            };
            let report = probe(&target, own);
            assert_eq!((report.ok, report.hop), (false, Some(hop)), "{report:?}");
            assert!(report.hint.as_deref().is_some_and(|text| text.contains(hint)), "{report:?}");
        }
    }

    #[test]
    fn titles_are_found_in_whatever_pages_are() {
        for (page, expected) in [
            ("<title>Home</title>", Some("Home")),
            ("<TiTlE data-x=\"1\">\n  Two\n words </TITLE>", Some("Two words")),
            ("<title>&lt;b&gt; &#39;x&#x27; &unknown; &amp;amp;</title>", Some("<b> 'x' &unknown; &amp;")),
            ("<title></title>", None),
            ("<title>never ends", None),
            ("no title", None),
            ("<title>a\u{7}b\u{fffd}\u{130}</title>", Some("a b\u{fffd}\u{130}")),
        ] {
            assert_eq!(title(page).as_deref(), expected, "{page}");
        }
        let long = title(&format!("<title>{}</title>", "x".repeat(5000))).expect("a title");
        assert_eq!(long.len(), MAX_TITLE);
    }
}
