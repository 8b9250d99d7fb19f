//! Message bodies on one hop: [`Decoder`] takes off the framing of what arrived (RFC 9112 6 and 7),
//! [`Encoder`] puts it on for the next hop and holds the sender to what was declared.
//!
//! Both are fed with bytes and never read or write themselves. What the framing is was found in `head.rs`.
//! Chunk extensions are dropped: they belong to one hop (RFC 9112 7.1.1).

mod decoder;
mod encoder;
mod trailers;

use std::error::Error;
use std::fmt;

pub use decoder::{Decoder, MAX_CHUNK_LINE, Step};
pub use encoder::{ChunkPrefix, Encoder};
pub use trailers::{MAX_TRAILER_LINES, MAX_TRAILERS};

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

#[cfg(test)]
mod tests;
