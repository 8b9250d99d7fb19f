//! Caddy's admin API: the only file that talks to it.
//!
//! Every accepted change restarts the admin listener as well, so there is no pool of connections, and a call that was
//! cut off is made again: reads are harmless, and writes carry `If-Match`, so that the second of two equal writes finds
//! that the first was done. A path of `unix:` leads to a socket, with HTTP/1.0 by hand: every Caddy accepts an empty
//! `Host` there, and no Caddy the same other one.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::Value;

/// For a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// For a whole call: a write waits for a lock that Caddy has only one of.
const CALL: Duration = Duration::from_secs(15);
/// Largest answer: a configuration with 10,000 routes has 2 MB.
const MAX_BODY: u64 = 16 << 20;
/// Pauses before a call that was cut off is made again.
const AGAIN: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
];
/// Longest text of Caddy's that is passed on.
const MAX_TEXT: usize = 500;

/// The admin API at one address.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    url: String,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    Tcp { agent: Box<ureq::Agent>, host: String },
    Unix(String),
}

/// What Caddy answered.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// For `If-Match`.
    pub(crate) etag: String,
    body: Vec<u8>,
}

/// Why there is no usable answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// No answer at all.
    Unreachable(String),
    /// 403.
    Forbidden(String),
    /// 412: somebody else changed the configuration since it was read.
    Stale,
    /// Any other status but 200, and Caddy's words.
    Refused { status: u16, text: String },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Unreachable(text) | Fault::Forbidden(text) => f.write_str(text),
            Fault::Stale => {
                f.write_str("Caddy's configuration was changed by somebody else at the same time")
            }
            Fault::Refused { status, text } => write!(f, "Caddy answered {status}: {text}"),
        }
    }
}

impl Reply {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Result<Value, String> {
        serde_json::from_slice(&self.body).map_err(|e| format!("Caddy's answer is no JSON: {e}"))
    }

    /// The text of an error.
    fn text(&self) -> String {
        let text = match self.json() {
            Ok(Value::Object(fields)) => fields.get("error").and_then(Value::as_str).map(str::to_owned),
            _ => None,
        };
        let text = text.unwrap_or_else(|| String::from_utf8_lossy(&self.body).trim().to_owned());
        text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect()
    }
}

impl Client {
    /// For `http://host:port` or `unix:/path`, as the settings give it.
    pub(crate) fn new(url: &str) -> Client {
        let place = match url.strip_prefix("unix:") {
            Some(path) => Place::Unix(path.to_owned()),
            None => {
                let authority = url.trim_start_matches("http://");
                let host = match authority.rsplit_once(':') {
                    Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
                    _ => authority,
                };
                let config = ureq::Agent::config_builder()
                    .timeout_connect(Some(CONNECT))
                    .timeout_global(Some(CALL))
                    .http_status_as_error(false)
                    .max_redirects(0)
                    .max_idle_connections(0)
                    // It is for our own machine or network, whatever the environment says.
                    .proxy(None)
                    .build();
                Place::Tcp {
                    agent: Box::new(config.new_agent()),
                    host: host.trim_matches(['[', ']']).to_owned(),
                }
            }
        };
        Client { url: url.to_owned(), place }
    }

    /// The address, as it was set.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Name or address of the machine that Caddy is on.
    pub(crate) fn host(&self) -> &str {
        match &self.place {
            Place::Unix(_) => "127.0.0.1",
            Place::Tcp { host, .. } => host,
        }
    }

    /// Whether Caddy is on this machine, as far as the address tells.
    pub(crate) fn is_local(&self) -> bool {
        let host = self.host();
        host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }

    /// Our own address on the way to Caddy.
    pub(crate) fn own_address(&self) -> io::Result<IpAddr> {
        let authority = self.url.trim_start_matches("http://");
        let port = if authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
            authority.to_owned()
        } else {
            format!("{authority}:80")
        };
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in port.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT) {
                Ok(socket) => return Ok(socket.local_addr()?.ip().to_canonical()),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// Reads a part of the configuration.
    pub(crate) fn get(&self, path: &str) -> Result<Reply, Fault> {
        self.call("GET", path, None, None)
    }

    /// Writes a part of the configuration, if it is still what `etag` says (any part's).
    pub(crate) fn write(
        &self,
        method: &str,
        path: &str,
        etag: Option<&str>,
        body: &Value,
    ) -> Result<(), Fault> {
        self.call(method, path, etag, Some(body.to_string().as_bytes())).map(drop)
    }

    fn call(
        &self,
        method: &str,
        path: &str,
        etag: Option<&str>,
        body: Option<&[u8]>,
    ) -> Result<Reply, Fault> {
        let began = Instant::now();
        let mut pauses = AGAIN.iter();
        let reply = loop {
            let once = match &self.place {
                Place::Tcp { agent, .. } => self.over_tcp(agent, method, path, etag, body),
                Place::Unix(socket) => over_unix(socket, method, path, etag, body),
            };
            match once {
                Ok(reply) => break reply,
                Err(e) if is_cut(&e) && began.elapsed() < CALL => match pauses.next() {
                    Some(pause) => std::thread::sleep(*pause),
                    None => return Err(self.unreachable(&e)),
                },
                Err(e) => return Err(self.unreachable(&e)),
            }
        };
        match reply.status {
            200 => Ok(reply),
            403 => Err(Fault::Forbidden(self.forbidden(&reply.text()))),
            412 => Err(Fault::Stale),
            status => Err(Fault::Refused { status, text: reply.text() }),
        }
    }

    fn over_tcp(
        &self,
        agent: &ureq::Agent,
        method: &str,
        path: &str,
        etag: Option<&str>,
        body: Option<&[u8]>,
    ) -> io::Result<Reply> {
        let request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.url));
        let request = match etag {
            Some(etag) => request.header("If-Match", etag),
            None => request,
        };
        let mut response = match body {
            Some(body) => {
                let request = request.header("Content-Type", "application/json").body(body);
                agent.run(request.map_err(io::Error::other)?)
            }
            None => agent.run(request.body(()).map_err(io::Error::other)?),
        }
        .map_err(ureq::Error::into_io)?;
        let status = response.status().as_u16();
        let etag = response.headers().get("etag").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = response.body_mut().with_config().limit(MAX_BODY).read_to_vec();
        let body = body.map_err(ureq::Error::into_io)?;
        let etag = etag.unwrap_or_else(|| fnv_etag(path, &body));
        Ok(Reply { status, etag, body })
    }

    fn unreachable(&self, e: &io::Error) -> Fault {
        let url = &self.url;
        let hint = match (&self.place, e.kind()) {
            (Place::Unix(_), io::ErrorKind::NotFound) => {
                "; there is no such socket: is Caddy running, with `admin unix/PATH`?"
            }
            (Place::Unix(_), io::ErrorKind::PermissionDenied) => {
                "; the Gateway needs to be in the group of the socket, and Caddy's line must be `admin unix/PATH|0660`"
            }
            (Place::Tcp { .. }, io::ErrorKind::ConnectionRefused) => {
                "; is Caddy running? Its admin API is usually on port 2019, some installations have it on 17202: see \
                 Gateway__CaddyAdminUrl"
            }
            _ => "",
        };
        Fault::Unreachable(format!("Caddy's admin API at {url} cannot be reached: {e}{hint}"))
    }

    fn forbidden(&self, text: &str) -> String {
        let url = &self.url;
        let authority = url.trim_start_matches("http://");
        let hint = match self.place {
            Place::Unix(_) => "its origins must allow an empty Host".to_owned(),
            Place::Tcp { .. } => format!(
                "it allows only certain Host values; use one of them in Gateway__CaddyAdminUrl (such as \
                 http://localhost:2019), or write `origins {authority}` into the admin block of the Caddyfile"
            ),
        };
        format!("Caddy's admin API at {url} refuses the Gateway ({text}): {hint}")
    }
}

/// Whether a call failed the way calls do while Caddy restarts its admin listener.
fn is_cut(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::NotFound
    )
}

/// Caddy before 2.8 sends its ETag as a trailer only; this is how it computes it: FNV-1a, 32 bits, over the whole body.
fn fnv_etag(path: &str, body: &[u8]) -> String {
    let hash = body.iter().fold(0x811c_9dc5_u32, |hash, &b| (hash ^ u32::from(b)).wrapping_mul(0x0100_0193));
    format!("\"{path} {hash:08x}\"")
}

fn over_unix(
    socket: &str,
    method: &str,
    path: &str,
    etag: Option<&str>,
    body: Option<&[u8]>,
) -> io::Result<Reply> {
    let deadline = Instant::now() + CALL;
    let stream = UnixStream::connect(socket)?;
    stream.set_write_timeout(Some(CALL))?;
    let mut head = format!("{method} {path} HTTP/1.0\r\nHost:\r\n");
    if let Some(etag) = etag {
        head.push_str(&format!("If-Match: {etag}\r\n"));
    }
    if let Some(body) = body {
        head.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    (&stream).write_all(head.as_bytes())?;
    (&stream).write_all(body.unwrap_or_default())?;
    let mut answer = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match (&stream).read(&mut piece) {
            Ok(0) => return parse_reply(path, &answer),
            Ok(len) => answer.extend_from_slice(&piece[..len]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            Err(e) => return Err(e),
        }
        if answer.len() as u64 > MAX_BODY {
            return Err(io::Error::other(format!("the answer is longer than {MAX_BODY} bytes")));
        }
    }
}

/// Reads a whole answer to HTTP/1.0: a head, and a body that ends with the connection.
fn parse_reply(path: &str, answer: &[u8]) -> io::Result<Reply> {
    let cut = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or_else(cut)?;
    let head = str::from_utf8(&answer[..end]).map_err(|_| invalid("a head that is no text"))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok());
    let status = status.ok_or_else(|| invalid("no status line"))?;
    let (mut etag, mut length) = (None, None);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        match name.to_ascii_lowercase().as_str() {
            "etag" => etag = Some(value.trim().to_owned()),
            "content-length" => length = value.trim().parse::<usize>().ok(),
            "transfer-encoding" => return Err(invalid("a coding that HTTP/1.0 does not have")),
            _ => {}
        }
    }
    let body = &answer[end + 4..];
    if length.is_some_and(|length| body.len() < length) {
        return Err(cut());
    }
    let etag = etag.unwrap_or_else(|| fnv_etag(path, body));
    Ok(Reply { status, etag, body: body.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_etag_of_older_caddys_is_computed() {
        // The vectors of FNV-1a, and the path that goes before them.
        assert_eq!(fnv_etag("/config/", b""), "\"/config/ 811c9dc5\"");
        assert_eq!(fnv_etag("/config/", b"foobar"), "\"/config/ bf9cf968\"");
    }

    #[test]
    fn an_answer_over_a_socket_is_read_or_found_cut() {
        let whole = b"HTTP/1.0 412 Precondition Failed\r\nEtag: \"/x 1\"\r\ncontent-length: 14\r\n\r\n{\"error\":\"no\"}";
        let reply = parse_reply("/x", whole).expect("an answer");
        assert_eq!((reply.status, reply.etag.as_str(), reply.text().as_str()), (412, "\"/x 1\"", "no"));
        for len in [0, 10, 40, whole.len() - 1] {
            let e = parse_reply("/x", &whole[..len]).expect_err("a cut answer");
            assert!(is_cut(&e), "{len}: {e}");
        }
        assert!(parse_reply("/x", b"nonsense\r\n\r\n").is_err());
    }

    #[test]
    fn what_cannot_be_reached_is_said_with_a_hint() {
        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .expect("a port")
            .local_addr()
            .expect("its address")
            .port();
        let fault =
            Client::new(&format!("http://127.0.0.1:{port}")).get("/config/").expect_err("nobody there");
        assert!(fault.to_string().contains("is Caddy running"), "{fault}");
        let fault = Client::new("unix:/nowhere/admin.sock").get("/config/").expect_err("nobody there");
        assert!(fault.to_string().contains("no such socket"), "{fault}");
    }

    #[test]
    fn the_machine_is_known_from_the_address() {
        for (url, host, local) in [
            ("http://localhost:2019", "localhost", true),
            ("http://127.0.0.1:2019", "127.0.0.1", true),
            ("http://[::1]:2019", "::1", true),
            ("http://caddy:2019", "caddy", false),
            ("http://caddy", "caddy", false),
            ("unix:/run/caddy/admin.sock", "127.0.0.1", true),
        ] {
            let client = Client::new(url);
            assert_eq!((client.host(), client.is_local()), (host, local), "{url}");
        }
    }
}
