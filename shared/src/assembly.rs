//! Puts the pieces of one direction of a Stream back in order when they came over several Links.
//!
//! Pure. A Stream's Frames normally stay on its own Link and arrive in order. A long transfer may spread its `Data`
//! over all Links of the Session (one TCP connection does not fill a long line); each piece then says at which
//! position it belongs. What is ahead of its turn waits here; the Stream's window bounds how much that can be.

use std::collections::BTreeMap;

/// Pieces that may wait; a peer that sends smaller ones out of order than that many is broken.
const MOST_PIECES: usize = 8192;

/// One direction of one Stream.
#[derive(Default, Debug)]
pub struct Assembly {
    /// Bytes delivered so far.
    next: u64,
    early: BTreeMap<u64, Piece>,
    held: usize,
}

#[derive(Debug)]
struct Piece {
    bytes: Vec<u8>,
    end: bool,
}

/// What to do with a piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// It is next: deliver it, then ask [`Assembly::pop`] for more.
    Now,
    /// It is kept until its turn.
    Later,
}

impl Assembly {
    /// Takes note of a piece at position `at`, or, without one, directly behind the last. An error is a protocol
    /// error of the peer.
    pub fn arrive(&mut self, at: Option<u64>, bytes: &[u8], end: bool) -> Result<Turn, String> {
        let at = at.unwrap_or(self.next);
        if at == self.next && (self.early.is_empty() || !self.early.contains_key(&at)) {
            self.next += bytes.len() as u64;
            if let Some((first, _)) = self.early.first_key_value()
                && *first < self.next
            {
                return Err(format!("a piece up to byte {} overlaps one at byte {first}", self.next));
            }
            return Ok(Turn::Now);
        }
        if at < self.next {
            return Err(format!("a piece for byte {at}, where byte {} is next", self.next));
        }
        if self.early.len() >= MOST_PIECES {
            return Err(format!("{MOST_PIECES} pieces wait for byte {}", self.next));
        }
        self.held += bytes.len();
        if self.early.insert(at, Piece { bytes: bytes.to_vec(), end }).is_some() {
            return Err(format!("two pieces for byte {at}"));
        }
        Ok(Turn::Later)
    }

    /// The next piece that waited and whose turn it is.
    pub fn pop(&mut self) -> Option<(Vec<u8>, bool)> {
        let entry = self.early.first_entry()?;
        if *entry.key() != self.next {
            return None;
        }
        let piece = entry.remove();
        self.next += piece.bytes.len() as u64;
        self.held -= piece.bytes.len();
        Some((piece.bytes, piece.end))
    }

    /// Whether something is missing before what has come.
    pub fn has_gap(&self) -> bool {
        !self.early.is_empty()
    }

    /// Bytes that wait for their turn.
    pub fn held(&self) -> usize {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn assemble(pieces: &[(u64, Vec<u8>, bool)]) -> (Vec<u8>, bool) {
        let mut assembly = Assembly::default();
        let (mut got, mut ended) = (Vec::new(), false);
        for (at, bytes, end) in pieces {
            if assembly.arrive(Some(*at), bytes, *end).unwrap() == Turn::Now {
                got.extend_from_slice(bytes);
                ended |= end;
                while let Some((bytes, end)) = assembly.pop() {
                    got.extend_from_slice(&bytes);
                    ended |= end;
                }
            }
        }
        assert_eq!(assembly.held(), 0);
        (got, ended)
    }

    proptest! {
        #[test]
        fn any_order_of_arrival_gives_the_same_bytes(
            sizes in proptest::collection::vec(1usize..50, 1..40), seed in any::<u64>(),
        ) {
            let mut pieces = Vec::new();
            let (mut at, mut whole) = (0u64, Vec::new());
            for (i, size) in sizes.iter().enumerate() {
                let bytes: Vec<u8> = (0..*size).map(|n| (n * 7 + i) as u8).collect();
                whole.extend_from_slice(&bytes);
                pieces.push((at, bytes, i + 1 == sizes.len()));
                at += *size as u64;
            }
            let mut random = seed;
            for i in (1..pieces.len()).rev() {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                pieces.swap(i, (random >> 33) as usize % (i + 1));
            }
            prop_assert_eq!(assemble(&pieces), (whole, true));
        }
    }

    #[test]
    fn an_end_without_bytes_waits_for_what_comes_before_it() {
        assert_eq!(assemble(&[(3, vec![], true), (0, b"abc".to_vec(), false)]), (b"abc".to_vec(), true));
    }

    #[test]
    fn repeated_and_overlapping_pieces_are_refused() {
        let mut assembly = Assembly::default();
        assert_eq!(assembly.arrive(None, b"abc", false), Ok(Turn::Now));
        assert!(assembly.arrive(Some(0), b"a", false).is_err());
        assert_eq!(assembly.arrive(Some(5), b"f", false), Ok(Turn::Later));
        assert!(assembly.arrive(Some(5), b"f", false).is_err());
        assert!(assembly.arrive(Some(3), b"def", false).is_err());
    }
}
