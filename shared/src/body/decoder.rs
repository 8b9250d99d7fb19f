//! Takes the framing off what arrived.

use super::BodyFault;
use super::trailers::{MAX_TRAILER_LINES, MAX_TRAILERS, keep_trailer};
use crate::head::{self, Framing};

/// Longest chunk-size line with its extensions; sizes need 16 digits, and nobody uses extensions.
pub const MAX_CHUNK_LINE: usize = 1024;

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
