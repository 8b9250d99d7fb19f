//! A value that must not be seen: it prints as stars and compares in constant time.
//!
//! Where a secret comes from and how long it must be is the settings' business; who may `expose` it is a question
//! for review.

use std::fmt;
use std::hint::black_box;
use std::io;

use sha2::{Digest, Sha256};

use crate::os;

/// What a hidden value looks like, whatever its length: stars that count characters would tell the length.
const STARS: &str = "****";

/// Characters of a secret that we make: 43 of 62 are 256 bits.
const GENERATED: usize = 43;

/// A key, token or hash.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Takes the text into custody.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// A new one that nobody can guess: 43 letters and digits, 256 bits. They mean the same to every shell and file.
    pub fn generate() -> io::Result<Secret> {
        const DIGITS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        let mut text = String::with_capacity(GENERATED);
        while text.len() < GENERATED {
            let mut bytes = [0; 64];
            os::random(&mut bytes)?;
            // Of 64 values two are passed over, so that all others are equally likely.
            let digits = bytes.iter().filter_map(|byte| DIGITS.get(usize::from(byte % 64)));
            text.extend(digits.map(|digit| char::from(*digit)).take(GENERATED - text.len()));
        }
        Ok(Secret(text))
    }

    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `given` is this secret; takes the same time wherever they differ. An empty secret matches nothing:
    /// else a key that somebody forgot to set would let in whoever sends none.
    pub fn matches(&self, given: &[u8]) -> bool {
        !self.0.is_empty() & same(self.0.as_bytes(), given)
    }

    /// For the banner and fault messages: see [`obfuscate`].
    pub fn obfuscated(&self) -> String {
        obfuscate(&self.0)
    }
}

/// Compares digests, so that neither the position of the first difference nor the length shows in the time taken.
fn same(a: &[u8], b: &[u8]) -> bool {
    let (a, b) = (Sha256::digest(a), Sha256::digest(b));
    let difference = a.iter().zip(b.iter()).fold(0u8, |seen, (a, b)| black_box(seen | (a ^ b)));
    black_box(difference) == 0
}

impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        same(self.0.as_bytes(), other.0.as_bytes())
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(STARS)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(STARS)
    }
}

/// Enough of a secret to tell two apart, and no more: the first two characters, four stars, the last two. Of eight
/// characters or fewer nothing is shown, because four known ones would be half of it.
pub fn obfuscate(text: &str) -> String {
    let count = text.chars().count();
    if count == 0 {
        return "(not set)".into();
    }
    if count <= 8 {
        return STARS.into();
    }
    // Control characters would break the line that shows them.
    let visible = |c: char| if c.is_control() { '?' } else { c };
    let first = text.chars().take(2).map(visible);
    let last = text.chars().skip(count - 2).map(visible);
    first.chain(STARS.chars()).chain(last).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_secret_is_long_plain_and_another_each_time() {
        let one = Secret::generate().expect("random bytes");
        assert_eq!(one.expose().len(), 43);
        assert!(one.expose().bytes().all(|b| b.is_ascii_alphanumeric()));
        assert_ne!(one.expose(), Secret::generate().expect("random bytes").expose());
    }

    #[test]
    fn a_secret_prints_four_stars() {
        let secret = Secret::new("correct horse battery staple");
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "**** **** Some(****)");
    }

    #[test]
    fn a_secret_matches_itself_only() {
        let secret = Secret::new("0123456789abcdef");
        assert!(secret.matches(b"0123456789abcdef"));
        for other in ["", "0", "0123456789abcdeF", "0123456789abcdef ", "1123456789abcdef"] {
            assert!(!secret.matches(other.as_bytes()), "{other}");
            assert_ne!(secret, Secret::new(other));
        }
        assert_eq!(secret, secret.clone());
    }

    #[test]
    fn an_empty_secret_matches_nothing() {
        assert!(!Secret::new("").matches(b""));
        assert!(!Secret::new("").matches(b"x"));
    }

    #[test]
    fn obfuscation_hides_length_and_short_values() {
        let rows = [
            ("", "(not set)"),
            ("a", "****"),
            ("12345678", "****"),
            ("123456789", "12****89"),
            ("a-much-longer-secret-value", "a-****ue"),
            ("ääääääääää", "ää****ää"),
            ("\u{1b}[31mred secret\n", "?[****t?"),
        ];
        for (text, shown) in rows {
            assert_eq!(obfuscate(text), shown, "{text:?}");
        }
    }
}
