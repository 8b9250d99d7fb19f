//! SHA-512 crypt hashes (`$6$`), as `openssl passwd -6` makes them: reading, making and checking.
//!
//! How often and by whom a password may be tried is left to the login.

use std::fmt;
use std::io;

use sha_crypt::{Params, sha512_crypt};
use sha2::{Digest, Sha512};

/// Rounds when the hash does not say.
const DEFAULT_ROUNDS: u32 = 5_000;
/// Rounds of hashes that we make: ten times the default, still a fraction of a second on a small machine.
const OUR_ROUNDS: u32 = 50_000;
/// Rounds above which a login takes seconds on any machine.
const SLOW_ROUNDS: u32 = 2_000_000;
/// Longest salt.
const MAX_SALT: usize = 16;
/// Characters of the hash proper: 64 bytes at six bits each.
const HASH: usize = 86;
/// Longest password, in bytes: hashing costs time by its length, and anybody may send one.
pub(crate) const MAX_PASSWORD: usize = 1024;
/// The digits of crypt's base 64, in order.
const DIGITS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A hash whose form has been checked.
#[derive(Clone)]
pub(crate) struct PasswordHash {
    rounds: u32,
    salt: String,
    hash: String,
}

/// Why a text is no usable hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PasswordHashFault {
    /// Another kind of hash.
    Kind(&'static str),
    /// No hash at all.
    None,
    /// `rounds=` is out of bounds.
    Rounds,
    /// The salt is too long or has a character that it cannot have.
    Salt,
    /// The hash proper has the wrong length: that many characters.
    Length(usize),
    /// The hash proper has a character that it cannot have.
    Character,
}

impl fmt::Display for PasswordHashFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PasswordHashFault::Kind(kind) => {
                write!(f, "is a hash of kind {kind}, must be SHA-512 crypt ($6$...)")
            }
            PasswordHashFault::None => f.write_str("must be a SHA-512 crypt hash: $6$SALT$HASH"),
            PasswordHashFault::Rounds => {
                write!(f, "the rounds must be a number from {} to {}", Params::ROUNDS_MIN, Params::ROUNDS_MAX)
            }
            PasswordHashFault::Salt => {
                write!(f, "the salt must have 1 to {MAX_SALT} visible ASCII characters, without ':' and '$'")
            }
            PasswordHashFault::Length(count) => {
                write!(f, "the part after the salt must have {HASH} characters, has {count}")
            }
            PasswordHashFault::Character => {
                f.write_str("the part after the salt has a character that no hash has, or has been cut")
            }
        }
    }
}

impl std::error::Error for PasswordHashFault {}

impl PasswordHash {
    /// Reads `$6$[rounds=N$]SALT$HASH`.
    pub(crate) fn parse(text: &str) -> Result<PasswordHash, PasswordHashFault> {
        let Some(rest) = text.strip_prefix("$6$") else { return Err(other_kind(text)) };
        let (rounds, rest) = match rest.strip_prefix("rounds=") {
            Some(rest) => {
                let (number, rest) = rest.split_once('$').ok_or(PasswordHashFault::Rounds)?;
                let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
                let rounds = number.parse().ok().filter(|rounds| digits && Params::new(*rounds).is_ok());
                (rounds.ok_or(PasswordHashFault::Rounds)?, rest)
            }
            None => (DEFAULT_ROUNDS, rest),
        };
        let (salt, hash) = rest.split_once('$').ok_or(PasswordHashFault::None)?;
        if !(1..=MAX_SALT).contains(&salt.len()) || !salt.bytes().all(|b| b.is_ascii_graphic() && b != b':') {
            return Err(PasswordHashFault::Salt);
        }
        if hash.len() != HASH {
            return Err(PasswordHashFault::Length(hash.chars().count()));
        }
        // The last digit holds the two bits that are left of 512.
        if !hash.bytes().all(|b| DIGITS.contains(&b)) || !DIGITS[..4].contains(&hash.as_bytes()[HASH - 1]) {
            return Err(PasswordHashFault::Character);
        }
        Ok(PasswordHash { rounds, salt: salt.to_owned(), hash: hash.to_owned() })
    }

    /// Makes a hash with a random salt.
    pub(crate) fn make(password: &[u8]) -> io::Result<PasswordHash> {
        let mut random = [0; MAX_SALT];
        shared::os::random(&mut random)?;
        let salt = random.iter().map(|byte| char::from(DIGITS[usize::from(byte % 64)])).collect();
        Ok(PasswordHash::with(password, OUR_ROUNDS, salt))
    }

    fn with(password: &[u8], rounds: u32, salt: String) -> PasswordHash {
        let hash = encode(&digest(password, rounds, &salt));
        PasswordHash { rounds, salt, hash }
    }

    /// Whether this is the password. Takes the time of all the rounds, but not more for one that is nearly right;
    /// a password longer than [`MAX_PASSWORD`] is never right.
    pub(crate) fn verify(&self, password: &[u8]) -> bool {
        let fits = password.len() <= MAX_PASSWORD;
        let password = if fits { password } else { &password[..MAX_PASSWORD] };
        let made = encode(&digest(password, self.rounds, &self.salt));
        // Comparing digests tells nothing about how much of the hash was right.
        let (made, known) = (Sha512::digest(made), Sha512::digest(&self.hash));
        let difference = made.iter().zip(known.iter()).fold(0, |seen, (a, b)| seen | (a ^ b));
        fits & (std::hint::black_box(difference) == 0)
    }

    /// Whether checking takes so many rounds that logging in is a trial.
    pub(crate) fn is_slow(&self) -> bool {
        self.rounds > SLOW_ROUNDS
    }
}

impl fmt::Display for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("$6$")?;
        if self.rounds != DEFAULT_ROUNDS {
            write!(f, "rounds={}$", self.rounds)?;
        }
        write!(f, "{}${}", self.salt, self.hash)
    }
}

/// Prints no part of the hash: what is logged by mistake should not be a gift.
impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(****)")
    }
}

fn other_kind(text: &str) -> PasswordHashFault {
    let kinds = [
        ("$1$", "MD5 crypt"),
        ("$5$", "SHA-256 crypt"),
        ("$2a$", "bcrypt"),
        ("$2b$", "bcrypt"),
        ("$2y$", "bcrypt"),
        ("$7$", "scrypt"),
        ("$y$", "yescrypt"),
        ("$argon2", "Argon2"),
    ];
    match kinds.iter().find(|(start, _)| text.starts_with(start)) {
        Some((_, kind)) => PasswordHashFault::Kind(kind),
        None => PasswordHashFault::None,
    }
}

fn digest(password: &[u8], rounds: u32, salt: &str) -> [u8; 64] {
    let params = Params::new(rounds).expect("rounds are checked by parse, and ours are in bounds");
    sha512_crypt(password, salt.as_bytes(), params)
}

/// Crypt's own base 64: three bytes at a time, taken from places 21 apart, lowest bits first.
fn encode(digest: &[u8; 64]) -> String {
    let mut out = String::with_capacity(HASH);
    let mut push = |mut bits: u32, count: usize| {
        for _ in 0..count {
            out.push(char::from(DIGITS[(bits & 63) as usize]));
            bits >>= 6;
        }
    };
    let (mut a, mut b, mut c) = (0, 21, 42);
    for _ in 0..21 {
        let [high, middle, low] = [a, b, c].map(|place| u32::from(digest[place]));
        push(high << 16 | middle << 8 | low, 4);
        (a, b, c) = (b + 1, c + 1, a + 1);
    }
    push(u32::from(digest[63]), 2);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes made by others: glibc's `crypt` (the first three passwords and salts are those of its specification)
    /// and `openssl passwd -6`.
    const KNOWN: [(&str, &str); 6] = [
        (
            "Hello world!",
            "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1",
        ),
        (
            "Hello world!",
            "$6$rounds=10000$saltstringsaltst$OW1/O6BYHV6BcXZu8QVeXbDWra3Oeqh0sbHbbMCVNSnCM/UrjmM0Dp8vOuZeHBy/YTBmSK6H9qs/y3RnOaw5v.",
        ),
        (
            "a short string",
            "$6$rounds=1400$anotherlongsalts$SAu0xGXppllhPD9yNR32OgiJVhVXUbqF.y4UgOGG7d/nFYCFpaB43f5cW0d.q2OdGqPxRgXYYRc0Cg4uiz4PD/",
        ),
        (
            "",
            "$6$rounds=1000$x/.Y$TvWRKrdzVpok72Ptka/gR.Ndv.SFwOI83cJeBpDNzuSid4iSwhm4s98tVd975Niz3fOBbMAPyzTdNKpeG6wyi/",
        ),
        (
            "password",
            "$6$abcdefgh$yVfUwsw5T.JApa8POvClA1pQ5peiq97DUNyXCZN5IrF.BMSkiaLQ5kvpuEm/VQ1Tvh/KV2TcaWh8qinoW5dhA1",
        ),
        (
            "ünïcode pässword with spaces",
            "$6$abcdefgh$k8E9GzpzSGhPB.RQYssrLvzc8JqJwd9KQFTkHpoU7xFCnrEgtTQmzPk1CrtOXQxSK8jyrH9SGBrjyajrlbNGZ.",
        ),
    ];

    #[test]
    fn hashes_made_by_others_are_verified() {
        for (password, text) in KNOWN {
            let hash = PasswordHash::parse(text).expect(text);
            assert!(hash.verify(password.as_bytes()), "{text}");
            assert!(!hash.verify(format!("{password}x").as_bytes()), "{text}");
            assert_eq!(hash.to_string(), text);
            assert_eq!(format!("{hash:?}"), "PasswordHash(****)");
        }
    }

    #[test]
    fn our_own_hash_is_read_back_and_salted_anew_each_time() {
        let made = PasswordHash::make(b"secret").expect("random bytes");
        let read = PasswordHash::parse(&made.to_string()).expect("our own form");
        assert!(made.to_string().starts_with("$6$rounds=50000$"));
        assert_eq!((read.rounds, &read.salt, &read.hash), (made.rounds, &made.salt, &made.hash));
        assert!(read.verify(b"secret"));
        assert_ne!(made.salt, PasswordHash::make(b"secret").expect("random bytes").salt);
    }

    #[test]
    fn a_password_beyond_the_limit_is_wrong_even_if_its_start_is_right() {
        let hash = PasswordHash::with(&[b'a'; MAX_PASSWORD], 1000, "salt".into());
        assert!(hash.verify(&[b'a'; MAX_PASSWORD]));
        assert!(!hash.verify(&[b'a'; MAX_PASSWORD + 1]));
    }

    #[test]
    fn what_is_no_hash_is_refused_with_its_reason() {
        let hash = &KNOWN[4].1[12..];
        let rows = [
            ("".to_owned(), PasswordHashFault::None),
            ("password".to_owned(), PasswordHashFault::None),
            ("$6$".to_owned(), PasswordHashFault::None),
            ("$6$salt".to_owned(), PasswordHashFault::None),
            (format!("$5$salt${hash}"), PasswordHashFault::Kind("SHA-256 crypt")),
            ("$2b$12$abc".to_owned(), PasswordHashFault::Kind("bcrypt")),
            (format!("$6$rounds=999$salt${hash}"), PasswordHashFault::Rounds),
            (format!("$6$rounds=1000000000$salt${hash}"), PasswordHashFault::Rounds),
            (format!("$6$rounds=+5000$salt${hash}"), PasswordHashFault::Rounds),
            (format!("$6$rounds=$salt${hash}"), PasswordHashFault::Rounds),
            (format!("$6$${hash}"), PasswordHashFault::Salt),
            (format!("$6$12345678901234567${hash}"), PasswordHashFault::Salt),
            (format!("$6$sa lt${hash}"), PasswordHashFault::Salt),
            (format!("$6$salt${}", &hash[1..]), PasswordHashFault::Length(85)),
            (format!("$6$salt${hash}="), PasswordHashFault::Length(87)),
            (format!("$6$salt$!{}", &hash[1..]), PasswordHashFault::Character),
            (format!("$6$salt${}z", &hash[..85]), PasswordHashFault::Character),
        ];
        for (text, fault) in rows {
            assert_eq!(PasswordHash::parse(&text).err(), Some(fault), "{text}");
        }
    }
}
