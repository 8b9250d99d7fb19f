//! Versions of our programs, compared number by number. Pure.
//!
//! As in Semantic Versioning 2.0 (11): `0.9.100` is later than `0.9.47`, and `1.0.0-rc.1` earlier than `1.0.0`. A
//! leading `v` and what follows `+` do not count.

use std::cmp::Ordering;
use std::fmt;

/// Longest version, bytes.
const MAX: usize = 64;

/// A version such as `1.2.3` or `1.2.3-rc.1`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version {
    numbers: [u64; 3],
    /// What follows `-`, by dots.
    pre: Vec<Part>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Part {
    // Numbers are lower than words.
    Number(u64),
    Word(String),
}

impl Version {
    /// Reads one to three numbers and what may follow them; missing numbers are 0. `None`: it is no version.
    pub fn parse(text: &str) -> Option<Version> {
        if text.len() > MAX {
            return None;
        }
        let text = text.strip_prefix('v').unwrap_or(text);
        let (text, build) = text.split_once('+').unwrap_or((text, "x"));
        let (core, pre) = text.split_once('-').map_or((text, None), |(core, pre)| (core, Some(pre)));
        let word = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
        };
        if !word(build) {
            return None;
        }
        let mut numbers = [0; 3];
        let mut parts = core.split('.');
        for (i, place) in numbers.iter_mut().enumerate() {
            match parts.next() {
                Some(part) => *place = number(part)?,
                None if i > 0 => {}
                None => return None,
            }
        }
        if parts.next().is_some() {
            return None;
        }
        let pre = pre.map_or(Some(Vec::new()), |pre| {
            pre.split('.')
                .map(|part| match number(part) {
                    Some(number) => Some(Part::Number(number)),
                    None => word(part).then(|| Part::Word(part.to_owned())),
                })
                .collect()
        })?;
        Some(Version { numbers, pre })
    }
}

fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Version) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Version) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            _ => self.pre.cmp(&other.pre),
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(f, "{major}.{minor}.{patch}")?;
        for (i, part) in self.pre.iter().enumerate() {
            f.write_str(if i == 0 { "-" } else { "." })?;
            match part {
                Part::Number(number) => write!(f, "{number}")?,
                Part::Word(word) => f.write_str(word)?,
            }
        }
        Ok(())
    }
}

/// Whether `ours` is later than `theirs`. One that cannot be read is older than all others.
pub fn newer(ours: &str, theirs: &str) -> bool {
    match (Version::parse(ours), Version::parse(theirs)) {
        (Some(ours), Some(theirs)) => ours > theirs,
        (ours, _) => ours.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let rising = [
            "0.9.9",
            "0.9.47",
            "0.9.100",
            "0.10.0",
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-rc.2",
            "1.0.0-rc.11",
            "1.0.0",
            "1.0.1",
        ];
        for pair in rising.windows(2) {
            assert!(newer(pair[1], pair[0]) && !newer(pair[0], pair[1]), "{pair:?}");
        }
        for (one, other) in
            [("v1.2.3", "1.2.3"), ("1.2.3+build.5", "1.2.3"), ("1.2", "1.2.0"), ("2", "2.0.0")]
        {
            assert!(!newer(one, other) && !newer(other, one), "{one} {other}");
        }
        assert!(newer("0.0.1", "rubbish") && !newer("rubbish", "0.0.1") && !newer("rubbish", "rubbish"));
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for text in [
            "",
            "v",
            "1.",
            "1..2",
            "1.2.3.4",
            "1.2.x",
            "1.0.0-",
            "1.0.0-a..b",
            "1.0.0+",
            "-1",
            "1.0 ",
            "1;rm",
            "1.0.0-ä",
        ] {
            assert_eq!(Version::parse(text), None, "{text:?}");
        }
        assert_eq!(Version::parse(&format!("1.{}", "0".repeat(80))), None);
        assert_eq!(Version::parse("99999999999999999999999"), None);
    }

    #[test]
    fn it_is_written_as_it_was_read() {
        for text in ["1.2.3", "1.0.0-rc.1", "0.9.47"] {
            assert_eq!(Version::parse(text).expect("a version").to_string(), text);
        }
        assert_eq!(Version::parse("v1.2+x").expect("a version").to_string(), "1.2.0");
    }
}
