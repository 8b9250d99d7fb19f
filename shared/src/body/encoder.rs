//! Puts the framing on for the next hop, and holds the sender to what was declared.

use super::BodyFault;
use super::trailers::check_trailers;
use crate::head::Framing;

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
