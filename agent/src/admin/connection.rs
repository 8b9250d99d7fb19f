//! One connection of the admin port: bytes to [`Request`], request by request.
//!
//! Heads and bodies are parsed by the same strict code as the Gateway's ingress, so nothing ambiguous reaches a
//! handler, and each has a bound in bytes and in time. How answers are written is left to `reply`.

use std::io::{self, Read};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::time::{Duration, Instant};

use shared::body::{Decoder, Step};
use shared::head::{self, Framing, RequestHead, Version};

use super::App;
use super::api::{self, Asker};
use super::http::{Request, Response};
use super::listener::{Place, Stage};
use super::problem::problem;
use super::reply::{Reply, send};

/// Largest head; browsers send two KiB.
const MAX_HEAD: usize = 16 * 1024;
/// From the first byte of a head to its last.
const HEAD: Duration = Duration::from_secs(10);
/// For a body of [`SOME_BODY`]; a route that takes more gives as much time for each such part.
const BODY: Duration = Duration::from_secs(30);
const SOME_BODY: usize = 1024 * 1024;
/// Between two requests on a connection.
const IDLE: Duration = Duration::from_secs(60);
/// For a refused peer to read why before the connection is reset under it, and what it may send meanwhile.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 512 * 1024;
/// Bytes read at once.
const READ: usize = 4096;

/// A request and what is to become of the connection after it.
struct Received {
    request: Request,
    keep_alive: bool,
    version: Version,
}

/// Why there is no request.
enum Refusal {
    /// The peer has gone, or has nothing more to ask.
    Gone,
    /// It gets this, and the connection ends.
    Answer(Box<Response>),
}

fn refuse(response: Response) -> Refusal {
    Refusal::Answer(Box::new(api::guarded(response)))
}

/// Serves one connection, request by request.
pub(super) fn converse(app: &App, place: &Place<'_>, socket: &TcpStream, peer: IpAddr) {
    let mut buffer = Vec::new();
    while place.enter(Stage::Waiting) {
        match receive(app, socket, peer, &mut buffer) {
            Ok(Received { request, keep_alive, version }) => {
                if !place.enter(Stage::Busy) {
                    return;
                }
                let (response, asker) = api::handle_for(app, &request);
                let Request { method, path, .. } = &request;
                log::debug!("admin: {peer} {} {} {}", method, path.escape_debug(), response.status);
                if asker == Asker::Stranger && !place.enter(Stage::Answering) {
                    return;
                }
                let keep_alive = keep_alive && !place.stopping();
                let reply = Reply { socket, place, version, keep_alive };
                match reply.send(response, method == "HEAD") {
                    Ok(true) => {}
                    Ok(false) => return linger(socket),
                    Err(e) => return log::debug!("admin: the answer to {peer} was cut short: {e}"),
                }
            }
            Err(Refusal::Gone) => return,
            Err(Refusal::Answer(response)) => {
                log::debug!("admin: {peer} was refused: {}", response.status);
                let reply = Reply { socket, place, version: Version::Http11, keep_alive: false };
                if place.enter(Stage::Answering) && reply.send(*response, false).is_ok() {
                    linger(socket);
                }
                return;
            }
        }
    }
}

/// Reads one request. `buffer` keeps what came after it.
fn receive(app: &App, socket: &TcpStream, peer: IpAddr, buffer: &mut Vec<u8>) -> Result<Received, Refusal> {
    let (mut received, framing, expects) = receive_head(socket, peer, buffer)?;
    if framing == Framing::None {
        return Ok(received);
    }
    let limit = api::body_limit(app, &received.request);
    if matches!(framing, Framing::Length(length) if length > limit as u64) {
        return Err(refuse(api::refusal_of_body(app, &received.request, limit)));
    }
    if expects && buffer.is_empty() && send(socket, b"HTTP/1.1 100 Continue\r\n\r\n").is_err() {
        return Err(Refusal::Gone);
    }
    let deadline = Instant::now() + BODY + BODY * (limit / SOME_BODY) as u32;
    let mut decoder = Decoder::new(framing);
    loop {
        match decoder.decode(buffer) {
            Ok(Step::Data { used, data }) => {
                if received.request.body.len() + data.len() > limit {
                    return Err(refuse(api::refusal_of_body(app, &received.request, limit)));
                }
                received.request.body.extend_from_slice(data);
                buffer.drain(..used);
            }
            Ok(Step::More { .. }) => {
                buffer.clear();
                if !read(socket, buffer, deadline)? {
                    return Err(refuse(problem(408, "the body took too long")));
                }
            }
            Ok(Step::End { used, .. }) => {
                buffer.drain(..used);
                return Ok(received);
            }
            Err(fault) => return Err(refuse(problem(400, fault.to_string()))),
        }
    }
}

fn receive_head(
    socket: &TcpStream,
    peer: IpAddr,
    buffer: &mut Vec<u8>,
) -> Result<(Received, Framing, bool), Refusal> {
    let mut deadline = Instant::now() + if buffer.is_empty() { IDLE } else { HEAD };
    // A head is looked at when a line is complete, so that one sent byte by byte is not parsed as often.
    let mut line = buffer.contains(&b'\n');
    loop {
        if line {
            match head::parse_request(buffer) {
                Ok(Some((head, used))) if used <= MAX_HEAD => {
                    let taken = (owned(&head, peer), head.framing, head.expect_continue);
                    buffer.drain(..used);
                    return Ok(taken);
                }
                Ok(Some(_)) => return Err(refuse(problem(431, "the request's head is too large"))),
                Ok(None) => {}
                Err(fault) => return Err(refuse(problem(fault.status(), fault.to_string()))),
            }
        }
        if buffer.len() > MAX_HEAD {
            return Err(refuse(problem(431, "the request's head is too large")));
        }
        let (fresh, before) = (buffer.is_empty(), buffer.len());
        if !read(socket, buffer, deadline)? {
            // Silence between requests is no fault.
            return Err(if fresh {
                Refusal::Gone
            } else {
                refuse(problem(408, "the request took too long"))
            });
        }
        if fresh {
            deadline = Instant::now() + HEAD;
        }
        line = buffer[before..].contains(&b'\n');
    }
}

fn owned(head: &RequestHead<'_>, peer: IpAddr) -> Received {
    let (path, query) = head.target.split_once('?').unwrap_or((head.target, ""));
    let field = |f: &head::Field<'_>| (f.name.to_owned(), String::from_utf8_lossy(f.value).into_owned());
    Received {
        request: Request {
            method: head.method.to_owned(),
            path: if path.is_empty() { "/".to_owned() } else { path.to_owned() },
            query: query.to_owned(),
            headers: head.fields.iter().map(field).collect(),
            body: Vec::new(),
            peer: peer.to_canonical(),
        },
        keep_alive: head.keep_alive,
        version: head.version,
    }
}

/// Appends what arrives next; `false` when nothing did until `deadline`.
fn read(mut socket: &TcpStream, buffer: &mut Vec<u8>, deadline: Instant) -> Result<bool, Refusal> {
    let mut bytes = [0; READ];
    loop {
        let Some(left) = left_until(deadline) else { return Ok(false) };
        let result = socket.set_read_timeout(Some(left)).and_then(|()| socket.read(&mut bytes));
        match result {
            Ok(0) => return Err(Refusal::Gone),
            Ok(count) => {
                buffer.extend_from_slice(&bytes[..count]);
                return Ok(true);
            }
            Err(e) if is_pause(&e) => {}
            Err(_) => return Err(Refusal::Gone),
        }
    }
}

/// RFC 9112 9.6: closing while the peer still sends may reset the connection before it has read the answer;
/// so say that we are done, and wait a little for it to be, too.
fn linger(socket: &TcpStream) {
    close(socket, Shutdown::Write);
    let deadline = Instant::now() + LINGER;
    let mut bytes = Vec::new();
    let mut count = 0;
    while count < LINGER_BYTES && matches!(read(socket, &mut bytes, deadline), Ok(true)) {
        count += bytes.len();
        bytes.clear();
    }
}

pub(super) fn close(socket: &TcpStream, how: Shutdown) {
    // Fails only when the peer was faster.
    let _ = socket.shutdown(how);
}

pub(super) fn left_until(deadline: Instant) -> Option<Duration> {
    Some(deadline.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
}

pub(super) fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
