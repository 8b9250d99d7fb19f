//! Bytes on their way to a socket that does not take them all at once.
//!
//! Kept in pieces of at most 16 KiB, so that nothing here asks the allocator for a large block (musl maps those)
//! and what is sent is freed at once.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};

/// Pieces are filled up to this size before a new one is begun.
const PIECE: usize = 16 * 1024;
/// Pieces handed to one system call.
const BATCH: usize = 16;

/// The queue of one socket.
#[derive(Default, Debug)]
pub struct Outbox {
    pieces: VecDeque<Vec<u8>>,
    /// Bytes of the first piece that are gone already.
    sent: usize,
    len: usize,
}

impl Outbox {
    /// An empty queue; allocates nothing.
    pub fn new() -> Outbox {
        Outbox::default()
    }

    /// Bytes waiting.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends bytes.
    pub fn push(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len();
        if let Some(last) = self.pieces.back_mut() {
            let fits = bytes.len().min(PIECE.saturating_sub(last.len()));
            last.extend_from_slice(&bytes[..fits]);
            bytes = &bytes[fits..];
        }
        for piece in bytes.chunks(PIECE) {
            self.pieces.push_back(piece.to_vec());
        }
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        *self = Outbox::new();
    }

    /// Writes as much as `socket` takes without waiting, then as much of `tail` as it takes, and queues the rest of
    /// `tail`. An error other than `WouldBlock` and `Interrupted` is returned; the queue is then of no more use.
    pub fn write_with(&mut self, socket: &mut dyn Write, tail: &[&[u8]]) -> io::Result<()> {
        let tail_len: usize = tail.iter().map(|t| t.len()).sum();
        let mut tail_sent = 0;
        while self.len > 0 || tail_sent < tail_len {
            let mut slices = [IoSlice::new(&[]); BATCH + 4];
            let mut count = 0;
            let mut skip = self.sent;
            for piece in self.pieces.iter().take(BATCH) {
                slices[count] = IoSlice::new(&piece[skip..]);
                count += 1;
                skip = 0;
            }
            if self.pieces.len() <= BATCH {
                let mut skip = tail_sent;
                for part in tail.iter().take(4) {
                    if skip < part.len() {
                        slices[count] = IoSlice::new(&part[skip..]);
                        count += 1;
                        skip = 0;
                    } else {
                        skip -= part.len();
                    }
                }
            }
            match socket.write_vectored(&slices[..count]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => tail_sent += self.advance(n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        for part in tail {
            let skip = tail_sent.min(part.len());
            tail_sent -= skip;
            if skip < part.len() {
                self.push(&part[skip..]);
            }
        }
        Ok(())
    }

    /// Writes as much as `socket` takes without waiting.
    pub fn write(&mut self, socket: &mut dyn Write) -> io::Result<()> {
        self.write_with(socket, &[])
    }

    /// Takes `n` sent bytes off; returns how many of them were beyond the queue.
    fn advance(&mut self, mut n: usize) -> usize {
        let beyond = n.saturating_sub(self.len);
        n -= beyond;
        self.len -= n;
        while n > 0 {
            let first = self.pieces.front().expect("len counts the bytes of all pieces").len() - self.sent;
            if n < first {
                self.sent += n;
                break;
            }
            n -= first;
            self.sent = 0;
            self.pieces.pop_front();
        }
        if self.pieces.is_empty() {
            self.pieces.shrink_to(0);
        }
        beyond
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Takes what `takes` says per call, then blocks once per zero.
    struct Slow {
        takes: Vec<usize>,
        got: Vec<u8>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self.takes.pop() {
                Some(0) | None => Err(io::ErrorKind::WouldBlock.into()),
                Some(n) => {
                    let n = n.min(bytes.len());
                    self.got.extend_from_slice(&bytes[..n]);
                    Ok(n)
                }
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn every_byte_arrives_once_and_in_order(
            sizes in proptest::collection::vec(0usize..40_000, 1..20),
            takes in proptest::collection::vec(0usize..30_000, 0..60),
        ) {
            let mut socket = Slow { takes, got: Vec::new() };
            let mut outbox = Outbox::new();
            let mut expected = Vec::new();
            for (i, size) in sizes.iter().enumerate() {
                let bytes: Vec<u8> = (0..*size).map(|n| (n + i) as u8).collect();
                expected.extend_from_slice(&bytes);
                if i % 3 == 0 {
                    outbox.push(&bytes);
                } else {
                    let (a, b) = bytes.split_at(size / 3);
                    outbox.write_with(&mut socket, &[a, b]).unwrap();
                }
                prop_assert_eq!(outbox.len() + socket.got.len(), expected.len());
            }
            while !outbox.is_empty() {
                socket.takes = vec![7_777; 8];
                outbox.write(&mut socket).unwrap();
            }
            prop_assert_eq!(socket.got, expected);
        }
    }
}
