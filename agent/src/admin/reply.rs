//! An answer on its way out: [`Response`] to bytes, whole or in pieces.
//!
//! Whatever is made while it is sent goes out in chunks (RFC 9112 7.1), or with the length the handler promised;
//! to a peer of HTTP/1.0 it ends with the connection. If it cannot be completed the connection is reset, because
//! to close it would make half an answer look whole.

use std::cell::Cell;
use std::io::{self, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use socket2::SockRef;

use shared::head::Version;

use super::connection::{is_pause, left_until};
use super::http::{Body, Response, Sink};
use super::listener::Place;
use crate::timestamp;

/// For a whole answer to be taken, or one piece of an answer in pieces.
const ANSWER: Duration = Duration::from_secs(10);
/// Bytes of a piece.
const PIECE: usize = 16 * 1024;
/// For answers in pieces to be finished once the Agent stops.
const LAST: Duration = Duration::from_secs(3);
/// How often whoever waits for a peer looks whether the Agent stops.
const LOOK: Duration = Duration::from_millis(500);

/// How answers are sent on a connection.
pub(super) struct Reply<'a> {
    pub(super) socket: &'a TcpStream,
    pub(super) place: &'a Place<'a>,
    pub(super) version: Version,
    pub(super) keep_alive: bool,
}

/// How the peer knows where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// RFC 9110 8.6: nothing is said with a 204.
    None,
    Length(u64),
    Chunked,
    /// With the connection.
    Close,
}

impl Reply<'_> {
    /// Sends it; whether the connection can take another request. After an error it is closed or reset.
    pub(super) fn send(self, response: Response, head_only: bool) -> io::Result<bool> {
        let framing = match &response.body {
            _ if response.status == 204 => Framing::None,
            Body::Bytes(bytes) => Framing::Length(bytes.len() as u64),
            Body::Stream(_) => match response.header("Content-Length").map(str::parse) {
                Some(Ok(length)) => Framing::Length(length),
                _ if self.version == Version::Http11 => Framing::Chunked,
                _ => Framing::Close,
            },
        };
        let keep_alive = self.keep_alive && framing != Framing::Close;
        let mut bytes = encode_head(&response, framing, self.version, keep_alive).into_bytes();
        match response.body {
            _ if head_only => send(self.socket, &bytes)?,
            Body::Bytes(body) => {
                bytes.extend_from_slice(&body);
                send(self.socket, &bytes)?;
            }
            Body::Stream(write) => {
                send(self.socket, &bytes)?;
                let mut pieces = Pieces::new(&self, framing);
                if let Err(e) = write(&mut pieces).and_then(|()| pieces.end()) {
                    // An abrupt end, whatever the framing.
                    let _ = SockRef::from(self.socket).set_linger(Some(Duration::ZERO));
                    return Err(e);
                }
            }
        }
        Ok(keep_alive)
    }
}

/// Takes a body in pieces.
struct Pieces<'a> {
    socket: &'a TcpStream,
    place: &'a Place<'a>,
    framing: Framing,
    piece: Vec<u8>,
    /// Bytes of the body until now.
    sent: u64,
    /// When everything has to be over, once the Agent stops.
    last: Cell<Option<Instant>>,
}

impl<'a> Pieces<'a> {
    fn new(reply: &Reply<'a>, framing: Framing) -> Pieces<'a> {
        let Reply { socket, place, .. } = *reply;
        Pieces { socket, place, framing, piece: Vec::new(), sent: 0, last: Cell::new(None) }
    }

    /// Sends what was written.
    fn end(&mut self) -> io::Result<()> {
        self.flush()?;
        match self.framing {
            Framing::Chunked => self.pass(b"0\r\n\r\n"),
            Framing::Length(length) if length != self.sent => {
                Err(io::Error::other(format!("{} bytes instead of {length}", self.sent)))
            }
            _ => Ok(()),
        }
    }

    fn pass(&self, mut bytes: &[u8]) -> io::Result<()> {
        let deadline = Instant::now() + ANSWER;
        while !bytes.is_empty() {
            if self.place.stopping() {
                let last = self.last.get().unwrap_or_else(|| Instant::now() + LAST);
                self.last.set(Some(last));
                left_until(last).ok_or_else(|| io::Error::other("the Agent stops"))?;
            }
            let left = left_until(deadline).ok_or(io::ErrorKind::TimedOut)?;
            let sent = self.socket.set_write_timeout(Some(left.min(LOOK)));
            match sent.and_then(|()| {
                let mut socket = self.socket;
                socket.write(bytes)
            }) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => bytes = &bytes[count..],
                Err(e) if is_pause(&e) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        let taken = &bytes[..bytes.len().min(PIECE - self.piece.len())];
        self.piece.extend_from_slice(taken);
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // An empty chunk would be the end.
        if self.piece.is_empty() {
            return Ok(());
        }
        self.sent += self.piece.len() as u64;
        if matches!(self.framing, Framing::Length(length) if self.sent > length) {
            return Err(io::Error::other("more bytes than were promised"));
        }
        if self.framing == Framing::Chunked {
            let mut chunk = format!("{:x}\r\n", self.piece.len()).into_bytes();
            chunk.extend_from_slice(&self.piece);
            chunk.extend_from_slice(b"\r\n");
            self.pass(&chunk)?;
        } else {
            self.pass(&self.piece)?;
        }
        self.piece.clear();
        Ok(())
    }
}

impl Sink for Pieces<'_> {
    fn ended(&self) -> bool {
        self.place.stopping() || is_closed(self.socket)
    }
}

/// Whether the peer has closed or reset the connection. What it has sent is left where it is.
fn is_closed(socket: &TcpStream) -> bool {
    let mut byte = [std::mem::MaybeUninit::uninit()];
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    match SockRef::from(socket).recv_with_flags(&mut byte, flags) {
        Ok(count) => count == 0,
        Err(e) => !is_pause(&e),
    }
}

/// Sends all of it or fails; a peer that takes a byte now and then is not waited for.
pub(super) fn send(mut socket: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
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

fn encode_head(response: &Response, framing: Framing, version: Version, keep_alive: bool) -> String {
    let mut text = format!("HTTP/1.1 {} {}\r\n", response.status, reason(response.status));
    for (name, value) in response.headers.iter().filter(|(name, _)| *name != "Content-Length") {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(&format!("Date: {}\r\n", timestamp::http_form(timestamp::now())));
    match framing {
        Framing::None | Framing::Close => {}
        Framing::Length(length) => text.push_str(&format!("Content-Length: {length}\r\n")),
        Framing::Chunked => text.push_str("Transfer-Encoding: chunked\r\n"),
    }
    match (keep_alive, version) {
        (false, _) => text.push_str("Connection: close\r\n"),
        (true, Version::Http10) => text.push_str("Connection: keep-alive\r\n"),
        (true, Version::Http11) => {}
    }
    text.push_str("\r\n");
    text
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
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Status",
    }
}
