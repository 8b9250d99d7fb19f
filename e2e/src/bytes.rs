//! Bytes for tests: a pattern in which any loss, repetition or exchange shows, a hash, and printable excerpts.

/// The byte at a place of the pattern. Its period, 251 · 2^24, is far from any buffer's length, so a piece that
/// is missing or comes twice cannot go unnoticed.
pub fn pattern_at(place: u64) -> u8 {
    ((place % 251) as u8) ^ ((place >> 8) as u8) ^ ((place >> 16) as u8)
}

/// `len` bytes of the pattern, from its place `start`.
pub fn pattern(start: u64, len: usize) -> Vec<u8> {
    (start..start + len as u64).map(pattern_at).collect()
}

/// FNV-1a, to compare bodies that are too large to keep. Not for secrets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hash(u64);

impl Default for Hash {
    fn default() -> Hash {
        Hash(0xcbf2_9ce4_8422_2325)
    }
}

impl Hash {
    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Hash {
        let mut hash = Hash::default();
        hash.add(bytes);
        hash
    }

    /// Takes in more bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    /// Sixteen hexadecimal digits.
    pub fn hex(self) -> String {
        format!("{:016x}", self.0)
    }
}

/// The place at which two sequences first differ, for messages that do not print megabytes.
pub fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    match a.iter().zip(b).position(|(a, b)| a != b) {
        None if a.len() != b.len() => Some(a.len().min(b.len())),
        place => place,
    }
}

/// At most the first 2,000 bytes, printable.
pub fn excerpt(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(2000)];
    let more = if shown.len() < bytes.len() { format!("... ({} bytes)", bytes.len()) } else { String::new() };
    format!("{}{more}", shown.escape_ascii().to_string().replace("\\r\\n", "\\r\\n\n"))
}

/// Where `wanted` begins in `bytes`.
pub fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fnv_1a_and_does_not_depend_on_the_pieces() {
        assert_eq!(Hash::of(b"").hex(), "cbf29ce484222325");
        assert_eq!(Hash::of(b"foobar").hex(), "85944171f73967e8");
        let mut pieces = Hash::default();
        pieces.add(b"foo");
        pieces.add(b"bar");
        assert_eq!(pieces, Hash::of(b"foobar"));
    }

    #[test]
    fn the_pattern_does_not_repeat_where_buffers_end() {
        for size in [4096, 16 * 1024, 64 * 1024, 256 * 1024] {
            assert_ne!(pattern(0, 64), pattern(size, 64), "{size}");
        }
        assert_eq!(first_difference(b"abc", b"abd"), Some(2));
        assert_eq!(first_difference(b"abc", b"ab"), Some(2));
        assert_eq!(first_difference(b"abc", b"abc"), None);
    }
}
