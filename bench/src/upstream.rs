//! The Upstream behind every system: one thread, one poller, answers prepared in advance, so that what is
//! measured is the way to it and not the server itself.
//!
//! `GET /100`, `GET /10k`: small answers. `GET /gib?n=BYTES`: a download. `POST /sink`: an upload that is
//! counted and dropped. `GET /ws`: a WebSocket that echoes. Everything else is 404. Requests need a
//! `Content-Length`; a chunked one is answered 411, since no proxy in the bench has a reason to send it.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Message, WebSocket};

use crate::fault::Fault;

const ACCEPT: Token = Token(usize::MAX);
const WAKE: Token = Token(usize::MAX - 1);
/// Longest request head.
const HEAD_LIMIT: usize = 16 * 1024;
/// Bulk data is moved in pieces of this size: one system call each.
const PIECE: usize = 256 * 1024;
/// Pieces one peer may move before the next peer has its turn, so that a download on loopback, which
/// never blocks, does not starve the small answers.
const PIECES_A_TURN: usize = 4;

/// The server, bound but not yet running.
#[derive(Debug)]
pub struct Upstream {
    poll: Poll,
    listener: TcpListener,
    stop: Stopper,
}

/// Ends a running [`Upstream`] from another thread.
#[derive(Clone, Debug)]
pub struct Stopper {
    waker: Arc<Waker>,
    stopped: Arc<AtomicBool>,
}

impl Stopper {
    /// Makes `run` return.
    pub fn stop(&self) -> io::Result<()> {
        self.stopped.store(true, Ordering::Release);
        self.waker.wake()
    }
}

impl Upstream {
    /// Binds; from here on the kernel accepts connections.
    pub fn bind(addr: SocketAddr) -> Result<Self, Fault> {
        let build = || -> io::Result<Self> {
            let poll = Poll::new()?;
            let mut listener = TcpListener::bind(addr)?;
            poll.registry().register(&mut listener, ACCEPT, Interest::READABLE)?;
            let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
            Ok(Self { poll, listener, stop: Stopper { waker, stopped: Arc::default() } })
        };
        build().map_err(Fault::io(format!("upstream on {addr}")))
    }

    /// The address bound.
    pub fn local_addr(&self) -> Result<SocketAddr, Fault> {
        self.listener.local_addr().map_err(Fault::io("upstream's address"))
    }

    /// A handle to end `run`.
    pub fn stopper(&self) -> Stopper {
        self.stop.clone()
    }

    /// Serves until stopped.
    pub fn run(mut self) -> Result<(), Fault> {
        self.serve().map_err(Fault::io("upstream"))
    }

    fn serve(&mut self) -> io::Result<()> {
        let ready = Prepared::new();
        let mut events = Events::with_capacity(1024);
        let mut peers: Vec<Option<Peer>> = Vec::new();
        let mut free: Vec<usize> = Vec::new();
        // Peers that used up their turn with work left.
        let mut waiting: VecDeque<usize> = VecDeque::new();
        let mut scratch = vec![0; PIECE];
        let mut turn: Vec<(usize, bool)> = Vec::new();
        while !self.stop.stopped.load(Ordering::Acquire) {
            let timeout = if waiting.is_empty() { None } else { Some(std::time::Duration::ZERO) };
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            turn.clear();
            turn.extend(waiting.drain(..).map(|at| (at, true)));
            for event in &events {
                match event.token() {
                    ACCEPT => self.accept(&mut peers, &mut free)?,
                    WAKE => {}
                    Token(at) => turn.push((at, event.is_read_closed())),
                }
            }
            for &(at, to_the_end) in &turn {
                let Some(slot) = peers.get_mut(at) else { continue };
                let Some(peer) = slot.as_mut() else { continue };
                match peer.turn(&ready, &mut scratch, to_the_end) {
                    Ok(Next::Wait) => {}
                    Ok(Next::Again) => {
                        if !waiting.contains(&at) {
                            waiting.push_back(at);
                        }
                    }
                    // A peer that went away or spoke nonsense is dropped; which of the two is for the
                    // generator to say, which sees its request fail.
                    Ok(Next::Done) | Err(_) => {
                        *slot = None;
                        free.push(at);
                    }
                }
            }
        }
        Ok(())
    }

    fn accept(&self, peers: &mut Vec<Option<Peer>>, free: &mut Vec<usize>) -> io::Result<()> {
        loop {
            let mut sock = match self.listener.accept() {
                Ok((sock, _)) => sock,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The peer hung up before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            sock.set_nodelay(true)?;
            let at = free.pop().unwrap_or_else(|| {
                peers.push(None);
                peers.len() - 1
            });
            self.poll.registry().register(&mut sock, Token(at), Interest::READABLE | Interest::WRITABLE)?;
            peers[at] = Some(Peer::new(sock));
        }
    }
}

/// The answers, whole.
struct Prepared {
    hundred: Vec<u8>,
    ten_k: Vec<u8>,
    swallowed: Vec<u8>,
    not_found: Vec<u8>,
    length_required: Vec<u8>,
    bulk: Vec<u8>,
}

impl Prepared {
    fn new() -> Self {
        let answer = |status: &str, length: usize| {
            let head =
                format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n");
            let mut bytes = head.into_bytes();
            bytes.resize(bytes.len() + length, b'x');
            bytes
        };
        Self {
            hundred: answer("200 OK", 100),
            ten_k: answer("200 OK", 10 * 1024),
            swallowed: answer("200 OK", 2),
            not_found: answer("404 Not Found", 0),
            length_required: answer("411 Length Required", 0),
            bulk: vec![b'x'; PIECE],
        }
    }
}

/// What to do with a peer after its turn.
enum Next {
    /// Until the poller reports it.
    Wait,
    /// After the others.
    Again,
    /// Close it.
    Done,
}

/// One connection.
struct Peer {
    line: Option<Line>,
    /// Bytes of a request head that has not ended.
    input: Vec<u8>,
    /// What did not fit the socket.
    output: Vec<u8>,
    sent: usize,
    /// Bytes of a download still to be sent, after `output`.
    download: u64,
    /// Bytes of an upload still to be swallowed.
    upload: u64,
    close: bool,
}

enum Line {
    Plain(TcpStream),
    Socket(Box<WebSocket<TcpStream>>),
}

/// A request, as far as the Upstream cares.
struct Request {
    kind: Kind,
    length: u64,
    close: bool,
}

enum Kind {
    Hundred,
    TenK,
    Download(u64),
    Upload,
    Socket(String),
    Chunked,
    Unknown,
}

impl Peer {
    fn new(sock: TcpStream) -> Self {
        Self {
            line: Some(Line::Plain(sock)),
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            download: 0,
            upload: 0,
            close: false,
        }
    }

    fn turn(&mut self, ready: &Prepared, scratch: &mut [u8], to_the_end: bool) -> io::Result<Next> {
        for _ in 0..PIECES_A_TURN {
            if let Some(Line::Socket(socket)) = self.line.as_mut() {
                return echo(socket);
            }
            let Some(Line::Plain(sock)) = self.line.as_mut() else { return Ok(Next::Done) };
            while self.sent < self.output.len() {
                match sock.write(&self.output[self.sent..]) {
                    Ok(count) => self.sent += count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Next::Wait),
                    Err(error) => return Err(error),
                }
            }
            self.output.clear();
            self.sent = 0;
            if self.download > 0 {
                let length = usize::try_from(self.download).unwrap_or(PIECE).min(PIECE);
                match sock.write(&ready.bulk[..length]) {
                    Ok(count) => self.download -= count as u64,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Next::Wait),
                    Err(error) => return Err(error),
                }
                continue;
            }
            if self.close {
                return Ok(Next::Done);
            }
            let count = match sock.read(scratch) {
                Ok(0) => return Ok(Next::Done),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Next::Wait),
                Err(error) => return Err(error),
            };
            self.take(&scratch[..count], ready)?;
            // A short read has emptied the socket, even under edge triggering (epoll(7)), unless the peer's
            // end came with it, which is reported only once.
            let idle = self.output.is_empty() && self.download == 0 && !self.close && !to_the_end;
            if idle && count < scratch.len() && matches!(self.line, Some(Line::Plain(_))) {
                return Ok(Next::Wait);
            }
        }
        Ok(Next::Again)
    }

    /// Takes bytes in: the rest of an upload, then requests.
    fn take(&mut self, bytes: &[u8], ready: &Prepared) -> io::Result<()> {
        let joined;
        let mut bytes = bytes;
        if self.upload > 0 {
            let count = usize::try_from(self.upload).unwrap_or(usize::MAX).min(bytes.len());
            self.upload -= count as u64;
            bytes = &bytes[count..];
            if self.upload == 0 {
                self.answer(&ready.swallowed)?;
            }
        } else if !self.input.is_empty() {
            self.input.extend_from_slice(bytes);
            joined = std::mem::take(&mut self.input);
            bytes = &joined;
        }
        while !bytes.is_empty() {
            let Some((request, used)) = parse(bytes)? else {
                if bytes.len() > HEAD_LIMIT {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "request head too long"));
                }
                self.input = bytes.to_vec();
                return Ok(());
            };
            bytes = &bytes[used..];
            self.close = request.close;
            match request.kind {
                Kind::Hundred => self.answer(&ready.hundred)?,
                Kind::TenK => self.answer(&ready.ten_k)?,
                Kind::Unknown => self.answer(&ready.not_found)?,
                Kind::Chunked => {
                    self.close = true;
                    return self.answer(&ready.length_required);
                }
                Kind::Download(length) => {
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n\
                         Content-Length: {length}\r\n\r\n"
                    );
                    self.answer(head.as_bytes())?;
                    self.download = length;
                    // Pipelined requests behind a download are nobody's here.
                    return Ok(());
                }
                Kind::Upload => {
                    let here = usize::try_from(request.length).unwrap_or(usize::MAX).min(bytes.len());
                    bytes = &bytes[here..];
                    self.upload = request.length - here as u64;
                    if self.upload == 0 {
                        self.answer(&ready.swallowed)?;
                    }
                }
                Kind::Socket(key) => return self.upgrade(&key, bytes.to_vec()),
            }
        }
        Ok(())
    }

    /// Sends at once what fits; the rest waits in `output`.
    fn answer(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut sent = 0;
        if let (Some(Line::Plain(sock)), true) = (self.line.as_mut(), self.output.is_empty()) {
            match sock.write(bytes) {
                Ok(count) => sent = count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        self.output.extend_from_slice(&bytes[sent..]);
        Ok(())
    }

    /// RFC 6455 section 4.2.2.
    fn upgrade(&mut self, key: &str, rest: Vec<u8>) -> io::Result<()> {
        let accept = derive_accept_key(key.as_bytes());
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        self.answer(head.as_bytes())?;
        if !self.output.is_empty() {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "no room for a handshake"));
        }
        self.close = false;
        if let Some(Line::Plain(sock)) = self.line.take() {
            // Small buffers: five thousand of these stand open in one process.
            let config = WebSocketConfig::default().read_buffer_size(2048).write_buffer_size(0);
            let socket = WebSocket::from_partially_read(sock, rest, Role::Server, Some(config));
            self.line = Some(Line::Socket(Box::new(socket)));
        }
        Ok(())
    }
}

/// Sends every message back until the socket has no more.
fn echo(socket: &mut WebSocket<TcpStream>) -> io::Result<Next> {
    loop {
        let done = match socket.read() {
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => socket.send(message),
            Ok(_) => socket.flush(),
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => {}
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok(Next::Wait);
            }
            Err(tungstenite::Error::Io(error)) => return Err(error),
            Err(_) => return Ok(Next::Done),
        }
    }
}

fn parse(bytes: &[u8]) -> io::Result<Option<(Request, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Request::new(&mut fields);
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let httparse::Status::Complete(used) = head.parse(bytes).map_err(invalid)? else { return Ok(None) };
    let (mut length, mut close, mut chunked, mut key) = (0, false, false, None);
    for field in head.headers.iter() {
        let text = || std::str::from_utf8(field.value).unwrap_or_default();
        if field.name.eq_ignore_ascii_case("content-length") {
            length = text().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        } else if field.name.eq_ignore_ascii_case("connection") {
            close = text().eq_ignore_ascii_case("close");
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = true;
        } else if field.name.eq_ignore_ascii_case("sec-websocket-key") {
            key = Some(text().to_owned());
        }
    }
    let path = head.path.unwrap_or_default();
    let kind = match (path, key) {
        _ if chunked => Kind::Chunked,
        ("/100", _) => Kind::Hundred,
        ("/10k", _) => Kind::TenK,
        ("/sink", _) => Kind::Upload,
        ("/ws", Some(key)) => Kind::Socket(key),
        _ => match path.strip_prefix("/gib?n=").and_then(|count| count.parse().ok()) {
            Some(count) => Kind::Download(count),
            None => Kind::Unknown,
        },
    };
    // nginx talks HTTP/1.0 to an Upstream unless told otherwise, and then waits for the end (RFC 9112
    // section 9.3).
    close |= head.version == Some(0);
    Ok(Some((Request { kind, length, close }, used)))
}
