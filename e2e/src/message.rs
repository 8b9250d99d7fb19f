//! HTTP/1.1 messages as they arrive at a test: every byte of the head kept, the body decoded piece by piece.
//!
//! Deliberately simple and independent of the daemons' own parser. It judges only what a recipient must notice:
//! whether a message is complete, and if not, how it ended.

use std::fmt;
use std::io::{self, ErrorKind, Read};

use crate::bytes::{excerpt, find};
use crate::socket::Socket;

/// Most bytes of a head that a test accepts.
const MAX_HEAD: usize = 1024 * 1024;

/// A request or response head.
#[derive(Clone, PartialEq, Eq)]
pub struct Head {
    /// The very bytes, with the empty line.
    pub raw: Vec<u8>,
    /// First line, without its end.
    pub start: Vec<u8>,
    /// Names and values in order, values without white space around.
    pub fields: Vec<(String, Vec<u8>)>,
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", excerpt(&self.raw))
    }
}

impl Head {
    /// Reads a complete head, empty line included.
    pub fn parse(raw: &[u8]) -> Result<Head, String> {
        let text = raw.strip_suffix(b"\r\n\r\n").ok_or("no empty line at the end of the head")?;
        let mut rest = text;
        let mut lines = Vec::new();
        while let Some(end) = find(rest, b"\r\n") {
            lines.push(&rest[..end]);
            rest = &rest[end + 2..];
        }
        lines.push(rest);
        let mut fields = Vec::new();
        for line in &lines[1..] {
            let colon = line.iter().position(|b| *b == b':');
            let (name, value) =
                line.split_at(colon.ok_or_else(|| format!("no colon: {}", line.escape_ascii()))?);
            let name = String::from_utf8(name.to_vec()).map_err(|e| e.to_string())?;
            fields.push((name, value[1..].trim_ascii().to_vec()));
        }
        Ok(Head { raw: raw.to_vec(), start: lines[0].to_vec(), fields })
    }

    /// The first field of this name, as text.
    pub fn get(&self, name: &str) -> Option<String> {
        self.all(name).into_iter().next()
    }

    /// All fields of this name, as text.
    pub fn all(&self, name: &str) -> Vec<String> {
        let named = self.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        named.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    }

    /// Whether a list field (such as `Connection`) has this member.
    pub fn lists(&self, name: &str, member: &str) -> bool {
        self.all(name)
            .iter()
            .flat_map(|value| value.split(','))
            .any(|m| m.trim().eq_ignore_ascii_case(member))
    }

    /// A word of the first line.
    pub fn word(&self, n: usize) -> String {
        let words = self.start.splitn(3, |b| *b == b' ');
        words.map(|word| String::from_utf8_lossy(word).into_owned()).nth(n).unwrap_or_default()
    }

    /// Of a request: its method.
    pub fn method(&self) -> String {
        self.word(0)
    }

    /// Of a request: its target.
    pub fn target(&self) -> String {
        self.word(1)
    }

    /// Of a request: the path of its target.
    pub fn path(&self) -> String {
        let target = self.target();
        target.split_once('?').map_or(target.as_str(), |(path, _)| path).to_owned()
    }

    /// Of a request: a parameter of its query, not decoded.
    pub fn query(&self, name: &str) -> Option<String> {
        let target = self.target();
        let (_, query) = target.split_once('?')?;
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find_map(|(n, value)| (n == name).then(|| value.to_owned()))
    }

    /// Of a response: its status.
    pub fn status(&self) -> u16 {
        let word = self.word(1);
        word.parse().unwrap_or_else(|_| panic!("no status in {self:?}"))
    }

    /// Of a response: the bytes after the status.
    pub fn reason(&self) -> Vec<u8> {
        self.start.splitn(3, |b| *b == b' ').nth(2).unwrap_or_default().to_vec()
    }

    /// How a request with this head delimits its body.
    pub fn request_framing(&self) -> Framing {
        if self.lists("transfer-encoding", "chunked") {
            return Framing::Chunked;
        }
        match self.get("content-length") {
            Some(len) => Framing::Length(len.parse().unwrap_or_else(|_| panic!("bad length in {self:?}"))),
            None => Framing::None,
        }
    }

    /// How a response with this head to a request with this method delimits its body (RFC 9112 6.3).
    pub fn response_framing(&self, method: &str) -> Framing {
        let status = self.status();
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            return Framing::None;
        }
        match self.request_framing() {
            Framing::None => Framing::UntilClose,
            framing => framing,
        }
    }
}

/// How a body is delimited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// There is none.
    None,
    /// So many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
    /// All that comes.
    UntilClose,
}

/// How a connection ended, or why a message could not be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Broken {
    /// The other side closed its direction in an orderly way.
    Closed,
    /// The other side reset the connection, or TLS ended without its closing message.
    Reset,
    /// Nothing came for as long as the test was willing to wait.
    Silent,
    /// What came is not HTTP.
    Malformed(String),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Broken {}

impl From<Broken> for io::Error {
    fn from(broken: Broken) -> io::Error {
        let kind = match &broken {
            Broken::Closed => ErrorKind::UnexpectedEof,
            Broken::Reset => ErrorKind::ConnectionReset,
            Broken::Silent => ErrorKind::TimedOut,
            Broken::Malformed(_) => ErrorKind::InvalidData,
        };
        io::Error::new(kind, broken)
    }
}

/// The receiving half of a connection.
#[derive(Debug)]
pub struct Incoming {
    socket: Socket,
    buffer: Vec<u8>,
    body: Body,
    trailers: Vec<(String, Vec<u8>)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Body {
    Done,
    Length(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    UntilClose,
}

impl Incoming {
    /// Reads from `socket`.
    pub fn new(socket: Socket) -> Incoming {
        Incoming { socket, buffer: Vec::new(), body: Body::Done, trailers: Vec::new() }
    }

    /// The next head.
    pub fn head(&mut self) -> Result<Head, Broken> {
        assert_eq!(self.body, Body::Done, "the body before this head was not read");
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let raw: Vec<u8> = self.buffer.drain(..end + 4).collect();
                return Head::parse(&raw)
                    .map_err(|why| Broken::Malformed(format!("{why}: {}", excerpt(&raw))));
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(Broken::Malformed(format!("endless head: {}", excerpt(&self.buffer))));
            }
            self.fill()?;
        }
    }

    /// A body follows.
    pub fn begin_body(&mut self, framing: Framing) {
        self.trailers.clear();
        self.body = match framing {
            Framing::None | Framing::Length(0) => Body::Done,
            Framing::Length(len) => Body::Length(len),
            Framing::Chunked => Body::ChunkSize,
            Framing::UntilClose => Body::UntilClose,
        };
    }

    /// The next bytes of the body; `None` when it is complete.
    pub fn piece(&mut self) -> Result<Option<Vec<u8>>, Broken> {
        loop {
            match self.body {
                Body::Done => return Ok(None),
                Body::UntilClose => {
                    if !self.buffer.is_empty() {
                        return Ok(Some(std::mem::take(&mut self.buffer)));
                    }
                    match self.fill() {
                        Ok(()) => {}
                        Err(Broken::Closed) => self.body = Body::Done,
                        Err(broken) => return Err(broken),
                    }
                }
                Body::Length(left) | Body::Chunk(left) => {
                    if self.buffer.is_empty() {
                        self.fill()?;
                    }
                    let len = left.min(self.buffer.len() as u64);
                    self.body = match self.body {
                        Body::Length(_) if left == len => Body::Done,
                        Body::Length(_) => Body::Length(left - len),
                        _ if left == len => Body::ChunkEnd,
                        _ => Body::Chunk(left - len),
                    };
                    return Ok(Some(self.buffer.drain(..len as usize).collect()));
                }
                Body::ChunkSize => {
                    let line = self.line()?;
                    let text = String::from_utf8_lossy(&line).into_owned();
                    let digits = text.split(';').next().unwrap_or_default();
                    let size = u64::from_str_radix(digits, 16)
                        .map_err(|_| Broken::Malformed(format!("chunk size {text:?}")))?;
                    if size > 0 {
                        self.body = Body::Chunk(size);
                        continue;
                    }
                    loop {
                        let line = self.line()?;
                        if line.is_empty() {
                            break;
                        }
                        let head = Head::parse(&[b"x\r\n", &line[..], b"\r\n\r\n"].concat());
                        self.trailers.extend(head.map_err(Broken::Malformed)?.fields);
                    }
                    self.body = Body::Done;
                }
                Body::ChunkEnd => {
                    let line = self.line()?;
                    if !line.is_empty() {
                        return Err(Broken::Malformed(format!(
                            "{:?} after a chunk",
                            line.escape_ascii().to_string()
                        )));
                    }
                    self.body = Body::ChunkSize;
                }
            }
        }
    }

    /// The whole rest of the body.
    pub fn rest(&mut self) -> Result<Vec<u8>, Broken> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece()? {
            body.extend(piece);
        }
        Ok(body)
    }

    /// Exactly `len` bytes of the body; the rest stays for later.
    pub fn exactly(&mut self, len: usize) -> Result<Vec<u8>, Broken> {
        let mut body = Vec::new();
        while body.len() < len {
            match self.body {
                // Never take more from the buffer than was asked for.
                Body::Length(left) | Body::Chunk(left) if !self.buffer.is_empty() => {
                    let take = left.min(self.buffer.len() as u64).min((len - body.len()) as u64);
                    body.extend(self.buffer.drain(..take as usize));
                    self.body = match self.body {
                        Body::Length(_) if left == take => Body::Done,
                        Body::Length(_) => Body::Length(left - take),
                        _ if left == take => Body::ChunkEnd,
                        _ => Body::Chunk(left - take),
                    };
                }
                Body::UntilClose if !self.buffer.is_empty() => {
                    let take = self.buffer.len().min(len - body.len());
                    body.extend(self.buffer.drain(..take));
                }
                Body::Length(_) | Body::Chunk(_) | Body::UntilClose => self.fill()?,
                Body::Done => {
                    return Err(Broken::Malformed(format!(
                        "the body ended after {} of {len} bytes",
                        body.len()
                    )));
                }
                Body::ChunkSize | Body::ChunkEnd => {
                    // Framing only: goes on to the next chunk's first byte, which is put back.
                    if let Some(piece) = self.piece()? {
                        let size = piece.len() as u64;
                        self.buffer.splice(..0, piece);
                        self.body = match self.body {
                            Body::Chunk(left) => Body::Chunk(left + size),
                            Body::ChunkEnd => Body::Chunk(size),
                            other => panic!("{other:?} after a piece of a chunk"),
                        };
                    }
                }
            }
        }
        Ok(body)
    }

    /// The trailers of the body that was read last.
    pub fn trailers(&self) -> &[(String, Vec<u8>)] {
        &self.trailers
    }

    /// Raw bytes, at least one: after a protocol upgrade.
    pub fn raw(&mut self) -> Result<Vec<u8>, Broken> {
        if self.buffer.is_empty() {
            self.fill()?;
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Exactly `len` raw bytes.
    pub fn raw_exactly(&mut self, len: usize) -> Result<Vec<u8>, Broken> {
        while self.buffer.len() < len {
            self.fill()?;
        }
        Ok(self.buffer.drain(..len).collect())
    }

    /// What has arrived and was not read yet.
    pub fn take_buffer(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    /// Waits for more bytes, which stay in the buffer.
    pub fn fill(&mut self) -> Result<(), Broken> {
        let mut arrived = [0; 64 * 1024];
        loop {
            match (&self.socket).read(&mut arrived) {
                Ok(0) => return Err(Broken::Closed),
                Ok(len) => {
                    self.buffer.extend_from_slice(&arrived[..len]);
                    return Ok(());
                }
                Err(e) => match e.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return Err(Broken::Silent),
                    ErrorKind::InvalidData => return Err(Broken::Malformed(e.to_string())),
                    _ => return Err(Broken::Reset),
                },
            }
        }
    }

    fn line(&mut self) -> Result<Vec<u8>, Broken> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Ok(line[..end].to_vec());
            }
            self.fill()?;
        }
    }
}
