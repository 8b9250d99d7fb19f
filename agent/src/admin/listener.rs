//! The admin port: bytes to [`Request`], [`Response`] to bytes, over connections that are few and never wait
//! long.
//!
//! Heads and bodies are parsed by the same strict code as the Gateway's ingress, so nothing ambiguous reaches
//! a handler. It is written by hand because the port lies open to the home network before any login: every
//! head, body, connection and wait has a bound here. When all places are taken, a connection that has no
//! complete request yet makes room, first of whoever holds most of them; so idle or slow ones keep nobody
//! out. What a request means is left to `api`.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use socket2::SockRef;

use shared::body::{Decoder, Step};
use shared::head::{self, Framing, RequestHead, Version};
use shared::threads;

use super::App;
use super::api;
use super::http::{MAX_BODY, Request, Response};
use super::lockout::network;
use super::problem::problem;
use crate::timestamp;

/// Connections at a time: a browser takes six, and there is one Operator.
const MOST: usize = 64;
/// Largest head; browsers send two KiB.
const MAX_HEAD: usize = 16 * 1024;
/// From the first byte of a head to its last.
const HEAD: Duration = Duration::from_secs(10);
/// For a whole body of at most [`MAX_BODY`].
const BODY: Duration = Duration::from_secs(30);
/// Between two requests on a connection.
const IDLE: Duration = Duration::from_secs(60);
/// For a whole answer to be taken.
const ANSWER: Duration = Duration::from_secs(10);
/// For a refused peer to read why before the connection is reset under it, and what it may send meanwhile.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 512 * 1024;
/// Before accepting again after an error that is likely to come back (no descriptors left).
const PAUSE: Duration = Duration::from_millis(500);
/// Bytes read at once.
const READ: usize = 4096;

/// The listener at work.
pub(crate) struct Running {
    shared: Arc<Shared>,
    listener: Arc<TcpListener>,
    /// Closed to end a pause.
    stop: Option<Sender<()>>,
    accept: Option<JoinHandle<()>>,
}

struct Shared {
    app: Arc<App>,
    stopping: AtomicBool,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    connections: HashMap<u64, Connection>,
    /// Threads of connections that are over, but for their last instructions.
    leaving: Vec<JoinHandle<()>>,
}

struct Connection {
    socket: Arc<TcpStream>,
    peer: IpAddr,
    since: Instant,
    /// Has a complete request: is not closed to make room.
    busy: bool,
    /// `None` for the moment until its thread is started.
    thread: Option<JoinHandle<()>>,
}

pub(crate) fn start(listener: TcpListener, app: Arc<App>) -> io::Result<Running> {
    let listener = Arc::new(listener);
    let shared = Arc::new(Shared { app, stopping: AtomicBool::new(false), open: Mutex::default() });
    // Nothing is ever sent: it closes.
    let (stop, stopped) = crossbeam_channel::bounded(0);
    let accept = {
        let (shared, listener) = (Arc::clone(&shared), Arc::clone(&listener));
        threads::spawn("admin", move || accept(&shared, &listener, &stopped))?
    };
    Ok(Running { shared, listener, stop: Some(stop), accept: Some(accept) })
}

impl Running {
    /// Ends it all; names the threads that had panicked.
    pub(crate) fn stop(mut self) -> Vec<String> {
        let mut panicked = Vec::new();
        let mut join = |thread: JoinHandle<()>| {
            let name = thread.thread().name().unwrap_or("admin").to_owned();
            if thread.join().is_err() {
                panicked.push(name);
            }
        };
        self.shared.stopping.store(true, Ordering::Release);
        self.stop = None;
        // Wakes `accept` (on Linux it then fails), and the port is free from here on.
        if let Err(e) = SockRef::from(&*self.listener).shutdown(Shutdown::Both) {
            log::debug!("admin: closing the listener: {e}");
        }
        if let Some(accept) = self.accept.take() {
            join(accept);
        }
        let threads: Vec<_> = {
            let mut open = threads::lock(&self.shared.open);
            let mut threads = std::mem::take(&mut open.leaving);
            for connection in open.connections.values_mut() {
                // Readers see the end; an answer on its way is finished first.
                close(&connection.socket, Shutdown::Read);
                threads.extend(connection.thread.take());
            }
            threads
        };
        threads.into_iter().for_each(&mut join);
        panicked
    }
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener, stopped: &Receiver<()>) {
    let mut failing = false;
    while !shared.stopping.load(Ordering::Acquire) {
        match listener.accept() {
            Ok((socket, peer)) => {
                failing = false;
                if let Err(e) = admit(shared, socket, peer) {
                    log::warn!("admin: cannot serve {peer}: {e}");
                }
            }
            Err(_) if shared.stopping.load(Ordering::Acquire) => break,
            // The peer's own doing; the next one is not hurt.
            Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
            Err(e) => {
                if !std::mem::replace(&mut failing, true) {
                    log::error!("admin: cannot accept connections, trying again: {e}");
                }
                // Ends early only when the channel closes.
                let _ = stopped.recv_timeout(PAUSE);
            }
        }
    }
}

fn admit(shared: &Arc<Shared>, socket: TcpStream, peer: SocketAddr) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = Arc::new(socket);
    let evicted = {
        let mut open = threads::lock(&shared.open);
        open.leaving.retain(|thread| !thread.is_finished());
        if open.connections.len() < MOST { Ok(None) } else { open.make_room().map(Some).ok_or(()) }
    };
    match evicted {
        Ok(None) => {}
        Ok(Some(thread)) => {
            // Its socket is shut, so it ends now; waiting for that keeps the number of threads within bounds.
            if thread.join().is_err() {
                log::error!("admin: the thread of a connection had panicked");
            }
        }
        Err(()) => {
            log::warn!("admin: all {MOST} connections are busy, {peer} was turned away");
            return Ok(());
        }
    }
    let mut open = threads::lock(&shared.open);
    let number = open.next;
    open.next += 1;
    let connection = Connection {
        socket: Arc::clone(&socket),
        peer: network(peer.ip()),
        since: Instant::now(),
        busy: false,
        thread: None,
    };
    open.connections.insert(number, connection);
    // Started under the lock, so that it cannot end before its handle is in its place.
    let started = {
        let shared = Arc::clone(shared);
        threads::spawn(format!("c{number}-admin"), move || {
            let place = Place { shared: &shared, number };
            converse(&place, &socket, peer.ip());
        })
    };
    match started {
        Ok(thread) => {
            if let Some(connection) = open.connections.get_mut(&number) {
                connection.thread = Some(thread);
            }
            Ok(())
        }
        Err(e) => {
            open.connections.remove(&number);
            Err(e)
        }
    }
}

impl Open {
    /// Closes the oldest connection without a request among those of the network that has most of them, and
    /// gives its thread to be joined. `None` when every connection has a request.
    fn make_room(&mut self) -> Option<JoinHandle<()>> {
        let waiting = || self.connections.iter().filter(|(_, connection)| !connection.busy);
        let mut held: HashMap<IpAddr, usize> = HashMap::new();
        for (_, connection) in waiting() {
            *held.entry(connection.peer).or_default() += 1;
        }
        let number = waiting()
            .max_by_key(|(_, c)| (held.get(&c.peer).copied().unwrap_or(0), std::cmp::Reverse(c.since)))
            .map(|(number, _)| *number)?;
        let connection = self.connections.remove(&number)?;
        close(&connection.socket, Shutdown::Both);
        connection.thread
    }
}

/// A connection's place among the open ones, given back when its thread ends, however it ends.
struct Place<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Place<'_> {
    /// `false` when the place has been given to somebody else, or everything is to end.
    fn set_busy(&self, busy: bool) -> bool {
        let mut open = threads::lock(&self.shared.open);
        let Some(connection) = open.connections.get_mut(&self.number) else { return false };
        connection.busy = busy;
        connection.since = Instant::now();
        busy || !self.shared.stopping.load(Ordering::Acquire)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut open = threads::lock(&self.shared.open);
        let connection = open.connections.remove(&self.number);
        // If the handle is not there, somebody has taken it to join us.
        open.leaving.extend(connection.and_then(|connection| connection.thread));
    }
}

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
fn converse(place: &Place<'_>, socket: &TcpStream, peer: IpAddr) {
    let mut buffer = Vec::new();
    while place.set_busy(false) {
        match receive(socket, peer, &mut buffer) {
            Ok(received) => {
                if !place.set_busy(true) {
                    return;
                }
                let response = api::handle(&place.shared.app, &received.request);
                let Request { method, path, .. } = &received.request;
                log::debug!("admin: {peer} {} {} {}", method, path.escape_debug(), response.status);
                let keep_alive = received.keep_alive && !place.shared.stopping.load(Ordering::Acquire);
                let bytes = encode(&response, method == "HEAD", received.version, keep_alive);
                if let Err(e) = send(socket, &bytes) {
                    log::debug!("admin: {peer} did not take its answer: {e}");
                    return;
                }
                if !keep_alive {
                    return linger(socket);
                }
            }
            Err(Refusal::Gone) => return,
            Err(Refusal::Answer(response)) => {
                log::debug!("admin: {peer} was refused: {}", response.status);
                let bytes = encode(&response, false, Version::Http11, false);
                if send(socket, &bytes).is_ok() {
                    linger(socket);
                }
                return;
            }
        }
    }
}

/// Reads one request. `buffer` keeps what came after it.
fn receive(socket: &TcpStream, peer: IpAddr, buffer: &mut Vec<u8>) -> Result<Received, Refusal> {
    let (mut received, framing, expects) = receive_head(socket, peer, buffer)?;
    if matches!(framing, Framing::Length(length) if length > MAX_BODY as u64) {
        return Err(refuse(api::too_large()));
    }
    if expects && buffer.is_empty() && send(socket, b"HTTP/1.1 100 Continue\r\n\r\n").is_err() {
        return Err(Refusal::Gone);
    }
    let deadline = Instant::now() + BODY;
    let mut decoder = Decoder::new(framing);
    loop {
        match decoder.decode(buffer) {
            Ok(Step::Data { used, data }) => {
                if received.request.body.len() + data.len() > MAX_BODY {
                    return Err(refuse(api::too_large()));
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
    let path = head.target.split('?').next().unwrap_or_default();
    let field = |f: &head::Field<'_>| (f.name.to_owned(), String::from_utf8_lossy(f.value).into_owned());
    Received {
        request: Request {
            method: head.method.to_owned(),
            path: if path.is_empty() { "/".to_owned() } else { path.to_owned() },
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

/// Sends all of it or fails; a peer that takes a byte now and then is not waited for.
fn send(mut socket: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    let deadline = Instant::now() + ANSWER;
    while !bytes.is_empty() {
        let left = left_until(deadline).ok_or(io::ErrorKind::TimedOut)?;
        match socket.set_write_timeout(Some(left)).and_then(|()| socket.write(bytes)) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(e) if is_pause(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
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

fn close(socket: &TcpStream, how: Shutdown) {
    // Fails only when the peer was faster.
    let _ = socket.shutdown(how);
}

fn left_until(deadline: Instant) -> Option<Duration> {
    Some(deadline.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
}

fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

fn encode(response: &Response, head_only: bool, version: Version, keep_alive: bool) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {} {}\r\n", response.status, reason(response.status));
    for (name, value) in &response.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(&format!("Date: {}\r\n", timestamp::http_form(timestamp::now())));
    // RFC 9110 8.6: none with a 204.
    if response.status != 204 {
        text.push_str(&format!("Content-Length: {}\r\n", response.body.len()));
    }
    match (keep_alive, version) {
        (false, _) => text.push_str("Connection: close\r\n"),
        (true, Version::Http10) => text.push_str("Connection: keep-alive\r\n"),
        (true, Version::Http11) => {}
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    if !head_only {
        bytes.extend_from_slice(&response.body);
    }
    bytes
}

/// For people who look at the bytes; programs go by the number.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        505 => "HTTP Version Not Supported",
        _ => "Status",
    }
}
