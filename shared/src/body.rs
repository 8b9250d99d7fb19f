//! Message bodies on one hop: [`Decoder`] takes off the framing of what arrived (RFC 9112 6 and 7),
//! [`Encoder`] puts it on for the next hop and holds the sender to what was declared.
//!
//! Both are fed with bytes and never read or write themselves. What the framing is was found in `head.rs`.
//! Chunk extensions are dropped: they belong to one hop (RFC 9112 7.1.1).

use std::error::Error;
use std::fmt;

use crate::head::{self, Framing};

/// Longest chunk-size line with its extensions; sizes need 16 digits, and nobody uses extensions.
pub const MAX_CHUNK_LINE: usize = 1024;
/// Most bytes of a trailer section.
pub const MAX_TRAILERS: usize = 16 * 1024;
/// Most lines of a trailer section.
pub const MAX_TRAILER_LINES: usize = 64;

/// What [`Decoder::decode`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'i> {
    /// A piece of the body.
    Data {
        /// How many bytes of the input are spent, framing included.
        used: usize,
        /// The piece; never empty.
        data: &'i [u8],
    },
    /// Nothing to hand out: all of the input is spent and more is needed.
    More {
        /// The length of the input.
        used: usize,
    },
    /// The body is complete; what follows `used` belongs to the next message.
    End {
        /// How many bytes of the input are spent.
        used: usize,
        /// The trailer fields as `Name: value\r\n` lines, without those that are not allowed there.
        trailers: Option<Vec<u8>>,
    },
}

/// Why a body is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFault {
    /// A chunk-size line that is not hex digits, optional extension, CRLF.
    ChunkSize,
    /// A chunk-size line beyond [`MAX_CHUNK_LINE`], or a size beyond 64 bits.
    ChunkSizeTooLong,
    /// No CRLF after a chunk's bytes.
    ChunkEnd,
    /// A trailer section that is not field lines, each with CRLF.
    Trailer,
    /// A trailer section beyond [`MAX_TRAILERS`] or [`MAX_TRAILER_LINES`].
    TrailersTooLarge,
    /// The connection closed before the body was complete.
    Truncated,
    /// More bytes than declared.
    TooMuch,
    /// The sender finished with this many bytes of the declared length missing.
    TooLittle(u64),
}

impl fmt::Display for BodyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BodyFault::ChunkSize => f.write_str("a chunk of the body has a malformed size"),
            BodyFault::ChunkSizeTooLong => {
                f.write_str("a chunk of the body has a size line that is too long")
            }
            BodyFault::ChunkEnd => f.write_str("a chunk of the body does not end where it should"),
            BodyFault::Trailer => f.write_str("the trailer fields after the body are malformed"),
            BodyFault::TrailersTooLarge => f.write_str("the trailer fields after the body are too large"),
            BodyFault::Truncated => f.write_str("the body ended before it was complete"),
            BodyFault::TooMuch => f.write_str("the body is longer than declared"),
            BodyFault::TooLittle(missing) => write!(f, "the body is {missing} bytes shorter than declared"),
        }
    }
}

impl Error for BodyFault {}

#[derive(Clone, Copy, Debug)]
enum State {
    /// So many bytes are still to come.
    Length(u64),
    UntilClose,
    /// In the digits of a chunk size.
    Size {
        value: u64,
        digits: u8,
    },
    /// White space after the size; only an extension may follow.
    SizePad {
        value: u64,
        line: usize,
    },
    Extension {
        value: u64,
        line: usize,
    },
    SizeLf {
        value: u64,
    },
    Chunk(u64),
    ChunkCr,
    ChunkLf,
    TrailerStart,
    TrailerLine,
    TrailerLf,
    EndLf,
    Done,
    Failed(BodyFault),
}

/// Trailers are rare, so what they need is allocated when the first one comes.
#[derive(Debug, Default)]
struct Trailers {
    line: Vec<u8>,
    kept: Vec<u8>,
    bytes: usize,
    lines: usize,
}

/// Takes the framing off a body. However the input is split, the body and the trailers are the same; after a
/// fault every further call reports it again.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    trailers: Option<Box<Trailers>>,
}

impl Decoder {
    /// A decoder for a body that is framed so.
    pub fn new(framing: Framing) -> Decoder {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size { value: 0, digits: 0 },
            Framing::UntilClose => State::UntilClose,
        };
        Decoder { state, trailers: None }
    }

    /// Takes bytes that arrived, up to the first piece of body in them. To be called again with the rest
    /// until it says `More` or `End`.
    pub fn decode<'i>(&mut self, input: &'i [u8]) -> Result<Step<'i>, BodyFault> {
        let step = self.step(input);
        if let Err(fault) = step {
            self.state = State::Failed(fault);
        }
        step
    }

    /// Tells that the connection closed: the good end of a body without length, too early for every other.
    pub fn at_eof(&mut self) -> Result<(), BodyFault> {
        match self.state {
            State::Done => Ok(()),
            State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            State::Failed(fault) => Err(fault),
            _ => {
                self.state = State::Failed(BodyFault::Truncated);
                Err(BodyFault::Truncated)
            }
        }
    }

    /// Whether the body is complete: no further byte belongs to it.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    fn step<'i>(&mut self, input: &'i [u8]) -> Result<Step<'i>, BodyFault> {
        let mut at = 0;
        loop {
            match self.state {
                State::Done => return Ok(Step::End { used: at, trailers: self.take_trailers() }),
                State::Failed(fault) => return Err(fault),
                _ => {}
            }
            let rest = &input[at..];
            let Some(&byte) = rest.first() else { return Ok(Step::More { used: at }) };
            match self.state {
                State::UntilClose => return Ok(Step::Data { used: input.len(), data: rest }),
                State::Length(left) | State::Chunk(left) => {
                    let chunk = matches!(self.state, State::Chunk(_));
                    let take = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
                    let left = left - take as u64;
                    self.state = match (left, chunk) {
                        (0, true) => State::ChunkCr,
                        (0, false) => State::Done,
                        (_, true) => State::Chunk(left),
                        (_, false) => State::Length(left),
                    };
                    return Ok(Step::Data { used: at + take, data: &rest[..take] });
                }
                _ => {
                    self.state = self.framing_byte(byte)?;
                    at += 1;
                }
            }
        }
    }

    /// One byte that is not body. Byte by byte is slow, but there are few of them: about eight per chunk.
    fn framing_byte(&mut self, byte: u8) -> Result<State, BodyFault> {
        match self.state {
            State::Size { value, digits } => {
                if let Some(digit) = char::from(byte).to_digit(16) {
                    if digits == 16 {
                        return Err(BodyFault::ChunkSizeTooLong);
                    }
                    return Ok(State::Size { value: value << 4 | u64::from(digit), digits: digits + 1 });
                }
                if digits == 0 {
                    return Err(BodyFault::ChunkSize);
                }
                let line = usize::from(digits) + 1;
                match byte {
                    b'\r' => Ok(State::SizeLf { value }),
                    b';' => Ok(State::Extension { value, line }),
                    b' ' | b'\t' => Ok(State::SizePad { value, line }),
                    _ => Err(BodyFault::ChunkSize),
                }
            }
            // BWS is allowed before the semicolon of an extension (RFC 9112 7.1.1), not before the line's
            // end.
            State::SizePad { line, .. } | State::Extension { line, .. }
                if line >= MAX_CHUNK_LINE && byte != b'\r' =>
            {
                Err(BodyFault::ChunkSizeTooLong)
            }
            State::SizePad { value, line } => match byte {
                b' ' | b'\t' => Ok(State::SizePad { value, line: line + 1 }),
                b';' => Ok(State::Extension { value, line: line + 1 }),
                _ => Err(BodyFault::ChunkSize),
            },
            State::Extension { value, line } => match byte {
                b'\r' => Ok(State::SizeLf { value }),
                b'\t' | b' '..=0x7e | 0x80.. => Ok(State::Extension { value, line: line + 1 }),
                // A bare LF here is the best known way to make two parsers disagree about a body.
                _ => Err(BodyFault::ChunkSize),
            },
            State::SizeLf { value } => match (byte, value) {
                (b'\n', 0) => Ok(State::TrailerStart),
                (b'\n', size) => Ok(State::Chunk(size)),
                _ => Err(BodyFault::ChunkSize),
            },
            State::ChunkCr if byte == b'\r' => Ok(State::ChunkLf),
            State::ChunkLf if byte == b'\n' => Ok(State::Size { value: 0, digits: 0 }),
            State::ChunkCr | State::ChunkLf => Err(BodyFault::ChunkEnd),
            State::TrailerStart if byte == b'\r' => Ok(State::EndLf),
            State::TrailerStart => {
                let trailers = self.trailers.get_or_insert_default();
                trailers.lines += 1;
                if trailers.lines > MAX_TRAILER_LINES {
                    return Err(BodyFault::TrailersTooLarge);
                }
                trailers.line.clear();
                self.trailer_byte(byte)
            }
            State::TrailerLine if byte == b'\r' => Ok(State::TrailerLf),
            State::TrailerLine => self.trailer_byte(byte),
            State::TrailerLf => {
                let trailers = self.trailers.get_or_insert_default();
                if byte != b'\n' || !keep_trailer(&trailers.line, &mut trailers.kept) {
                    return Err(BodyFault::Trailer);
                }
                Ok(State::TrailerStart)
            }
            State::EndLf if byte == b'\n' => Ok(State::Done),
            State::EndLf => Err(BodyFault::Trailer),
            State::Length(_) | State::UntilClose | State::Chunk(_) | State::Done => Ok(self.state),
            State::Failed(fault) => Err(fault),
        }
    }

    fn trailer_byte(&mut self, byte: u8) -> Result<State, BodyFault> {
        if !head::is_value_byte(byte) {
            return Err(BodyFault::Trailer);
        }
        let trailers = self.trailers.get_or_insert_default();
        trailers.bytes += 1;
        if trailers.bytes > MAX_TRAILERS {
            return Err(BodyFault::TrailersTooLarge);
        }
        trailers.line.push(byte);
        Ok(State::TrailerLine)
    }

    fn take_trailers(&mut self) -> Option<Vec<u8>> {
        self.trailers.take().map(|trailers| trailers.kept).filter(|kept| !kept.is_empty())
    }
}

/// Appends a trailer line (without its CRLF) to `kept` if its field may be one; false if it is no field line.
fn keep_trailer(line: &[u8], kept: &mut Vec<u8>) -> bool {
    let Some((name, value)) = head::split_field(line) else { return false };
    if !value.iter().all(|&b| head::is_value_byte(b)) {
        return false;
    }
    if !is_forbidden_trailer(name) {
        kept.extend_from_slice(name.as_bytes());
        kept.extend_from_slice(b": ");
        kept.extend_from_slice(value);
        kept.extend_from_slice(b"\r\n");
    }
    true
}

/// Fields that must not come after a body, because somebody acted without them already (RFC 9110 6.5.1):
/// framing, routing, authentication, request and response control, and what only the Gateway says.
fn is_forbidden_trailer(name: &str) -> bool {
    const FORBIDDEN: [&str; 32] = [
        "age",
        "authorization",
        "cache-control",
        "content-encoding",
        "content-length",
        "content-location",
        "content-range",
        "content-type",
        "cookie",
        "date",
        "expect",
        "expires",
        "host",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "location",
        "max-forwards",
        "pragma",
        "proxy-authenticate",
        "proxy-authorization",
        "range",
        "retry-after",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "vary",
        "warning",
        "www-authenticate",
    ];
    FORBIDDEN.iter().any(|forbidden| forbidden.eq_ignore_ascii_case(name))
        || head::is_hop_by_hop(name)
        || head::is_gateways_own(name)
}

/// Puts the framing on a body for the next hop and counts against what was declared.
#[derive(Debug)]
pub struct Encoder {
    framing: Framing,
    /// Bytes still owed for a declared length.
    left: u64,
    finished: bool,
}

impl Encoder {
    /// An encoder for a body that is to be framed so.
    pub fn new(framing: Framing) -> Encoder {
        let left = match framing {
            Framing::Length(length) => length,
            Framing::None | Framing::Chunked | Framing::UntilClose => 0,
        };
        Encoder { framing, left, finished: false }
    }

    /// Notes that `len` bytes of body go out; to be asked before they do.
    pub fn account(&mut self, len: u64) -> Result<(), BodyFault> {
        if len == 0 {
            return Ok(());
        }
        if self.finished {
            return Err(BodyFault::TooMuch);
        }
        match self.framing {
            Framing::Chunked | Framing::UntilClose => Ok(()),
            Framing::None | Framing::Length(_) => {
                self.left = self.left.checked_sub(len).ok_or(BodyFault::TooMuch)?;
                Ok(())
            }
        }
    }

    /// What goes before a piece of `len` bytes: the chunk-size line, or nothing. Nothing for an empty piece
    /// too, because a chunk of size 0 would end the body.
    pub fn prefix(&self, len: usize) -> ChunkPrefix {
        if self.framing != Framing::Chunked || len == 0 {
            return ChunkPrefix { bytes: [0; 18], start: 18 };
        }
        let mut prefix = ChunkPrefix { bytes: [0; 18], start: 16 };
        prefix.bytes[16..].copy_from_slice(b"\r\n");
        let mut rest = len;
        while rest > 0 {
            prefix.start -= 1;
            prefix.bytes[usize::from(prefix.start)] = b"0123456789abcdef"[rest & 15];
            rest >>= 4;
        }
        prefix
    }

    /// What goes after a piece that is not empty: the CRLF of a chunk, or nothing.
    pub fn suffix(&self) -> &'static [u8] {
        if self.framing == Framing::Chunked { b"\r\n" } else { b"" }
    }

    /// Writes what ends the body: the last chunk with the trailer fields (`Name: value\r\n` lines) for a
    /// chunked one, nothing for the others, where trailers have no place and are dropped (RFC 9110 6.5.1
    /// allows that). A second call does nothing.
    pub fn finish(&mut self, trailers: Option<&[u8]>, out: &mut Vec<u8>) -> Result<(), BodyFault> {
        if self.finished {
            return Ok(());
        }
        if self.left > 0 {
            return Err(BodyFault::TooLittle(self.left));
        }
        if self.framing == Framing::Chunked {
            // Trailers came through the tunnel, and are checked again: an empty line among them would end the
            // body.
            let kept = match trailers {
                Some(section) => check_trailers(section)?,
                None => Vec::new(),
            };
            out.extend_from_slice(b"0\r\n");
            out.extend_from_slice(&kept);
            out.extend_from_slice(b"\r\n");
        }
        self.finished = true;
        Ok(())
    }
}

fn check_trailers(section: &[u8]) -> Result<Vec<u8>, BodyFault> {
    // The lines may have grown by a space each when they were first written.
    if section.len() > MAX_TRAILERS + 4 * MAX_TRAILER_LINES {
        return Err(BodyFault::TrailersTooLarge);
    }
    let mut kept = Vec::with_capacity(section.len());
    let mut rest = section;
    while !rest.is_empty() {
        let end = rest.iter().position(|&b| b == b'\r').ok_or(BodyFault::Trailer)?;
        if rest.get(end + 1) != Some(&b'\n') || !keep_trailer(&rest[..end], &mut kept) {
            return Err(BodyFault::Trailer);
        }
        rest = &rest[end + 2..];
    }
    Ok(kept)
}

/// A chunk-size line, without an allocation.
#[derive(Clone, Copy, Debug)]
pub struct ChunkPrefix {
    /// 16 digits and CRLF, filled from the end.
    bytes: [u8; 18],
    start: u8,
}

impl AsRef<[u8]> for ChunkPrefix {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[usize::from(self.start)..]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Body, trailers, and how many bytes were left over.
    type Decoded = (Vec<u8>, Option<Vec<u8>>, usize);
    type Rest = (Option<Vec<u8>>, usize);

    /// Feeds the pieces one after the other and collects the body in `body`; `None` if it is not complete.
    fn feed(framing: Framing, pieces: &[&[u8]], body: &mut Vec<u8>) -> Result<Option<Rest>, BodyFault> {
        let mut decoder = Decoder::new(framing);
        for (index, piece) in pieces.iter().enumerate() {
            let mut rest = *piece;
            loop {
                match decoder.decode(rest)? {
                    Step::Data { used, data } => {
                        assert!(!data.is_empty() && used >= data.len());
                        body.extend_from_slice(data);
                        rest = &rest[used..];
                    }
                    Step::More { used } => {
                        assert_eq!(used, rest.len());
                        break;
                    }
                    Step::End { used, trailers } => {
                        assert!(decoder.is_done());
                        assert_eq!(decoder.decode(b"next"), Ok(Step::End { used: 0, trailers: None }));
                        let later: usize = pieces[index + 1..].iter().map(|piece| piece.len()).sum();
                        return Ok(Some((trailers, rest.len() - used + later)));
                    }
                }
            }
        }
        Ok(None)
    }

    fn decode(framing: Framing, pieces: &[&[u8]]) -> Result<Option<Decoded>, BodyFault> {
        let mut body = Vec::new();
        let end = feed(framing, pieces, &mut body)?;
        Ok(end.map(|(trailers, left)| (body, trailers, left)))
    }

    fn check(framing: Framing, input: &[u8], expected: Result<Option<Decoded>, BodyFault>) {
        let text = String::from_utf8_lossy(input);
        assert_eq!(decode(framing, &[input]), expected, "{text:?}");
        let bytes: Vec<&[u8]> = input.chunks(1).collect();
        assert_eq!(decode(framing, &bytes), expected, "{text:?}, byte by byte");
    }

    fn complete(body: &str, trailers: Option<&str>, left: usize) -> Result<Option<Decoded>, BodyFault> {
        Ok(Some((body.into(), trailers.map(Into::into), left)))
    }

    #[test]
    fn a_body_of_no_length_is_complete_at_once() {
        for framing in [Framing::None, Framing::Length(0)] {
            let mut decoder = Decoder::new(framing);
            assert!(decoder.is_done());
            assert_eq!(decoder.decode(b""), Ok(Step::End { used: 0, trailers: None }));
            assert_eq!(decoder.decode(b"GET"), Ok(Step::End { used: 0, trailers: None }));
            assert_eq!(decoder.at_eof(), Ok(()));
        }
    }

    #[test]
    fn a_declared_length_is_read_and_no_byte_more() {
        let mut decoder = Decoder::new(Framing::Length(5));
        assert_eq!(decoder.decode(b""), Ok(Step::More { used: 0 }));
        assert_eq!(decoder.decode(b"hello, world"), Ok(Step::Data { used: 5, data: b"hello" }));
        assert!(decoder.is_done());
        assert_eq!(decoder.decode(b", world"), Ok(Step::End { used: 0, trailers: None }));
        check(Framing::Length(5), b"hell", Ok(None));
        check(Framing::Length(u64::MAX), b"hell", Ok(None));
    }

    #[test]
    fn a_body_until_close_ends_with_the_connection() {
        let mut decoder = Decoder::new(Framing::UntilClose);
        assert_eq!(decoder.decode(b"abc"), Ok(Step::Data { used: 3, data: b"abc" }));
        assert!(!decoder.is_done());
        assert_eq!(decoder.at_eof(), Ok(()));
        assert!(decoder.is_done());
        assert_eq!(decoder.decode(b""), Ok(Step::End { used: 0, trailers: None }));
    }

    #[test]
    fn the_end_of_the_connection_is_too_early_for_the_others() {
        for framing in [Framing::Length(5), Framing::Chunked] {
            let mut decoder = Decoder::new(framing);
            assert_eq!(decoder.at_eof(), Err(BodyFault::Truncated));
            assert_eq!(decoder.decode(b"0\r\n\r\n"), Err(BodyFault::Truncated), "and it stays so");
            assert!(!decoder.is_done());
        }
    }

    #[test]
    fn chunks_are_joined() {
        check(Framing::Chunked, b"0\r\n\r\n", complete("", None, 0));
        check(Framing::Chunked, b"5\r\nhello\r\n0\r\n\r\nGET", complete("hello", None, 3));
        check(
            Framing::Chunked,
            b"5\r\nhello\r\nA\r\n0123456789\r\n00\r\n\r\n",
            complete("hello0123456789", None, 0),
        );
        check(
            Framing::Chunked,
            b"000000000000000a\r\n\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n",
            complete("\r\n\r\n\r\n\r\n\r\n", None, 0),
        );
        check(Framing::Chunked, b"5\r\nhello\r\n0\r\n", Ok(None));
    }

    #[test]
    fn chunk_extensions_are_dropped() {
        check(Framing::Chunked, b"2;a\r\nhi\r\n0;b=\"c d\"\r\n\r\n", complete("hi", None, 0));
        check(Framing::Chunked, b"2 \t;a=b;c\r\nhi\r\n0\r\n\r\n", complete("hi", None, 0));
        let most = format!("2;{}\r\nhi\r\n0\r\n\r\n", "x".repeat(MAX_CHUNK_LINE - 2));
        check(Framing::Chunked, most.as_bytes(), complete("hi", None, 0));
        let endless = format!("2;{}", "x".repeat(MAX_CHUNK_LINE));
        check(Framing::Chunked, endless.as_bytes(), Err(BodyFault::ChunkSizeTooLong));
        let padded = format!("2{}", " ".repeat(MAX_CHUNK_LINE));
        check(Framing::Chunked, padded.as_bytes(), Err(BodyFault::ChunkSizeTooLong));
    }

    #[test]
    fn trailers_are_kept_but_for_those_that_come_too_late() {
        let input = b"0\r\nX-Sum: 1\r\nContent-Length: 5\r\nset-cookie: a=b\r\nX-Forwarded-For: 1.1.1.1\r\nx-two:  \t2 \r\nE:\r\n\r\n";
        check(Framing::Chunked, input, complete("", Some("X-Sum: 1\r\nx-two: 2\r\nE: \r\n"), 0));
        check(Framing::Chunked, b"0\r\nHost: a\r\n\r\n", complete("", None, 0));
        check(
            Framing::Chunked,
            b"0\r\nGrpc-Message: \xc3\xbc\r\n\r\n",
            complete("", Some("Grpc-Message: \u{fc}\r\n"), 0),
        );
    }

    #[test]
    fn trailers_have_bounds() {
        let lines = |count: usize| format!("0\r\n{}\r\n", "A: b\r\n".repeat(count));
        assert!(
            decode(Framing::Chunked, &[lines(MAX_TRAILER_LINES).as_bytes()])
                .is_ok_and(|found| found.is_some())
        );
        check(Framing::Chunked, lines(MAX_TRAILER_LINES + 1).as_bytes(), Err(BodyFault::TrailersTooLarge));
        let long = format!("0\r\nA: {}", "b".repeat(MAX_TRAILERS));
        check(Framing::Chunked, long.as_bytes(), Err(BodyFault::TrailersTooLarge));
    }

    #[test]
    fn bad_chunks_are_refused() {
        let cases: [(&[u8], BodyFault); 34] = [
            (b"\r\n", BodyFault::ChunkSize),
            (b"\n", BodyFault::ChunkSize),
            (b" 5\r\nhello", BodyFault::ChunkSize),
            (b";a\r\n", BodyFault::ChunkSize),
            (b"+5\r\nhello", BodyFault::ChunkSize),
            (b"-1\r\n", BodyFault::ChunkSize),
            (b"0x5\r\nhello", BodyFault::ChunkSize),
            (b"g\r\n", BodyFault::ChunkSize),
            (b"5 \r\nhello", BodyFault::ChunkSize),
            (b"5 5\r\nhello", BodyFault::ChunkSize),
            (b"5,5\r\nhello", BodyFault::ChunkSize),
            (b"5_0\r\nhello", BodyFault::ChunkSize),
            (b"5\nhello\n0\n\n", BodyFault::ChunkSize),
            (b"5\rhello", BodyFault::ChunkSize),
            (b"5\r\rhello", BodyFault::ChunkSize),
            (b"5;a\nhello", BodyFault::ChunkSize),
            (b"5;a\0\r\nhello", BodyFault::ChunkSize),
            (b"5;a\rb\r\nhello", BodyFault::ChunkSize),
            (b"\xc2\xb2\r\nhi", BodyFault::ChunkSize),
            (b"00000000000000005\r\nhello", BodyFault::ChunkSizeTooLong),
            (b"fffffffffffffffff\r\n", BodyFault::ChunkSizeTooLong),
            (b"5\r\nhelloo\r\n", BodyFault::ChunkEnd),
            (b"5\r\nhello\n0\r\n\r\n", BodyFault::ChunkEnd),
            (b"5\r\nhello0\r\n\r\n", BodyFault::ChunkEnd),
            (b"5\r\nhello\r0\r\n\r\n", BodyFault::ChunkEnd),
            (b"0\r\n\n", BodyFault::Trailer),
            (b"0\r\n\rX", BodyFault::Trailer),
            (b"0\r\n: a\r\n\r\n", BodyFault::Trailer),
            (b"0\r\nGET / HTTP/1.1\r\n\r\n", BodyFault::Trailer),
            (b"0\r\nA : b\r\n\r\n", BodyFault::Trailer),
            (b"0\r\nA: b\r\n c\r\n\r\n", BodyFault::Trailer),
            (b"0\r\nA: b\nC: d\r\n\r\n", BodyFault::Trailer),
            (b"0\r\nA: b\0\r\n\r\n", BodyFault::Trailer),
            (b"0\r\nA: b\rc\r\n\r\n", BodyFault::Trailer),
        ];
        for (input, fault) in cases {
            check(Framing::Chunked, input, Err(fault));
        }
    }

    #[test]
    fn a_fault_stays() {
        let mut decoder = Decoder::new(Framing::Chunked);
        assert_eq!(decoder.decode(b"x"), Err(BodyFault::ChunkSize));
        assert_eq!(decoder.decode(b"0\r\n\r\n"), Err(BodyFault::ChunkSize));
        assert_eq!(decoder.at_eof(), Err(BodyFault::ChunkSize));
    }

    #[test]
    fn the_encoder_holds_to_the_declared_length() {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(Framing::Length(5));
        assert_eq!(encoder.account(3), Ok(()));
        assert_eq!(encoder.finish(None, &mut out), Err(BodyFault::TooLittle(2)));
        assert_eq!(encoder.account(3), Err(BodyFault::TooMuch));
        assert_eq!(encoder.account(2), Ok(()));
        assert_eq!(encoder.finish(Some(b"A: b\r\n"), &mut out), Ok(()));
        assert!(out.is_empty(), "there is no place for trailers");
        assert_eq!(encoder.account(1), Err(BodyFault::TooMuch));
        assert_eq!(Encoder::new(Framing::None).account(1), Err(BodyFault::TooMuch));
        assert_eq!(Encoder::new(Framing::None).finish(None, &mut out), Ok(()));
        assert!(encoder.prefix(3).as_ref().is_empty() && encoder.suffix().is_empty());
    }

    #[test]
    fn the_encoder_writes_chunks_and_trailers() {
        let mut encoder = Encoder::new(Framing::Chunked);
        assert_eq!(encoder.prefix(1).as_ref(), b"1\r\n");
        assert_eq!(encoder.prefix(0x1_0af0).as_ref(), b"10af0\r\n");
        assert_eq!(encoder.prefix(usize::MAX).as_ref(), format!("{:x}\r\n", usize::MAX).as_bytes());
        assert!(encoder.prefix(0).as_ref().is_empty());
        assert_eq!(encoder.suffix(), b"\r\n");
        let mut out = Vec::new();
        assert_eq!(encoder.finish(Some(b"A: b\r\nHost: c\r\n"), &mut out), Ok(()));
        assert_eq!(encoder.finish(None, &mut out), Ok(()));
        assert_eq!(out, b"0\r\nA: b\r\n\r\n");
        assert_eq!(encoder.account(1), Err(BodyFault::TooMuch), "nothing follows the last chunk");
    }

    #[test]
    fn trailers_that_would_end_the_body_are_refused() {
        for section in [
            &b"\r\n"[..],
            b"A: b",
            b"A: b\n",
            b"A: b\r\n\r\nGET / HTTP/1.1\r\n",
            b"A: b\rc\r\n",
            b"A: b\0\r\n",
        ] {
            let mut out = Vec::new();
            let result = Encoder::new(Framing::Chunked).finish(Some(section), &mut out);
            assert_eq!(result, Err(BodyFault::Trailer), "{:?}", String::from_utf8_lossy(section));
            assert!(out.is_empty());
        }
    }

    fn encode(pieces: &[Vec<u8>], trailers: Option<&[u8]>) -> Vec<u8> {
        let mut encoder = Encoder::new(Framing::Chunked);
        let mut out = Vec::new();
        for piece in pieces {
            encoder.account(piece.len() as u64).expect("chunked has no length");
            out.extend_from_slice(encoder.prefix(piece.len()).as_ref());
            out.extend_from_slice(piece);
            out.extend_from_slice(encoder.suffix());
        }
        encoder.finish(trailers, &mut out).expect("trailers are fine");
        out
    }

    /// Cuts `input` at these places.
    fn split<'i>(input: &'i [u8], cuts: &[prop::sample::Index]) -> Vec<&'i [u8]> {
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
        places.extend([0, input.len()]);
        places.sort_unstable();
        places.windows(2).map(|pair| &input[pair[0]..pair[1]]).collect()
    }

    /// Bytes that are nearly a chunked body.
    fn nearly_chunked() -> impl Strategy<Value = Vec<u8>> {
        let part = prop::sample::select(vec![
            "0",
            "1",
            "2",
            "a",
            "\r\n",
            "\r\n",
            "\r\n",
            "\r",
            "\n",
            ";x",
            " ",
            "A: b",
            ":",
            "x",
            "\0",
            "0\r\n\r\n",
            "1\r\nx\r\n",
            "2;y=z\r\nxy\r\n",
        ]);
        prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat().into_bytes())
    }

    fn any_framing() -> impl Strategy<Value = Framing> {
        prop_oneof![
            Just(Framing::None),
            (0..20u64).prop_map(Framing::Length),
            Just(Framing::Chunked),
            Just(Framing::Chunked),
            Just(Framing::UntilClose),
        ]
    }

    proptest! {
        #[test]
        fn encoding_and_decoding_gives_the_body_back(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            trailer in prop::option::of("[a-z]{1,8}: [!-~]{1,8}\r\n"),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
        ) {
            let trailers = trailer.map(|line| format!("x-{line}").into_bytes());
            let wire = encode(&pieces, trailers.as_deref());
            let decoded = decode(Framing::Chunked, &split(&wire, &cuts));
            prop_assert_eq!(decoded, Ok(Some((pieces.concat(), trailers, 0))));
        }

        #[test]
        fn every_split_gives_the_same(
            framing in any_framing(),
            input in prop_oneof![nearly_chunked(), prop::collection::vec(any::<u8>(), 0..60)],
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
        ) {
            // What was handed out before a fault or the end of the input counts too.
            let trace = |pieces: &[&[u8]]| {
                let mut body = Vec::new();
                let end = feed(framing, pieces, &mut body);
                (body, end)
            };
            let whole = trace(&[&input]);
            prop_assert_eq!(&trace(&split(&input, &cuts)), &whole);
            let mut bytes: Vec<&[u8]> = input.chunks(1).collect();
            bytes.push(b"");
            prop_assert_eq!(&trace(&bytes), &whole);
        }
    }
}
