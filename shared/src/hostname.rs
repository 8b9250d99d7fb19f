//! Names of hosts: [`Host`] is what a visitor asked for, [`Hostname`] is what a mapping answers to.
//!
//! Both can only be made by their `parse`, so nobody downstream checks again. Which mapping wins when
//! several match is decided by the Gateway's routes, not here.

use std::error::Error;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Longest host name in its text form without the final dot (RFC 1035 2.3.4 gives 255 octets on the wire).
pub const MAX_NAME: usize = 253;
/// Longest label of a host name (RFC 1035 2.3.4).
pub const MAX_LABEL: usize = 63;

/// A host and optional port as found in a `Host` field or in an absolute-form target.
///
/// Names are lower case and without the final dot, addresses in their shortest form, so that equal hosts
/// are equal values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// `name`, `name:port`, `[v6]` or `[v6]:port`; empty when there is no host.
    text: String,
    /// Where the name lies in `text`; shorter than 256 bytes, because `MAX_NAME` is.
    start: u8,
    end: u8,
    port: Option<u16>,
    ip: bool,
}

impl Host {
    /// Reads `uri-host [ ":" port ]` (RFC 9110 7.2), without user information or zone identifier.
    ///
    /// An empty port (`example.org:`) means none, as RFC 3986 3.2.3 has it. Percent-encoded names are
    /// refused: no DNS name needs them, and two spellings of one host are a way around a routing table.
    pub fn parse(value: &[u8]) -> Result<Host, HostFault> {
        if value.is_empty() {
            return Err(HostFault::Empty);
        }
        if let Some(rest) = value.strip_prefix(b"[") {
            return Host::parse_v6(rest);
        }
        let colon = value.iter().position(|&b| b == b':');
        let (name, port) = match colon {
            Some(at) => (&value[..at], parse_port(&value[at + 1..])?),
            None => (value, None),
        };
        let name = name.strip_suffix(b".").unwrap_or(name);
        let ip = match check_name(name) {
            Ok(NameKind::Name) => false,
            Ok(NameKind::Ipv4) => true,
            Err(fault) => return Err(fault.into()),
        };
        // The check above left ASCII only, so every byte is a character.
        let mut text = String::with_capacity(name.len() + 6);
        text.extend(name.iter().map(|&b| char::from(b.to_ascii_lowercase())));
        Ok(Host::with_port(text, 0, name.len(), port, ip))
    }

    fn parse_v6(rest: &[u8]) -> Result<Host, HostFault> {
        let close = rest.iter().position(|&b| b == b']').ok_or(HostFault::Address)?;
        let inner = str::from_utf8(&rest[..close]).map_err(|_| HostFault::Address)?;
        let address = Ipv6Addr::from_str(inner).map_err(|_| HostFault::Address)?;
        let port = match &rest[close + 1..] {
            [] => None,
            [b':', port @ ..] => parse_port(port)?,
            _ => return Err(HostFault::Port),
        };
        let text = format!("[{address}]");
        let end = text.len() - 1;
        Ok(Host::with_port(text, 1, end, port, true))
    }

    fn with_port(mut text: String, start: usize, end: usize, port: Option<u16>, ip: bool) -> Host {
        if let Some(port) = port {
            text.push(':');
            text.push_str(&port.to_string());
        }
        let narrow = |at: usize| u8::try_from(at).expect("check_name bounds names to MAX_NAME");
        Host { text, start: narrow(start), end: narrow(end), port, ip }
    }

    /// No host at all: an HTTP/1.0 request may come without one.
    pub fn none() -> Host {
        Host { text: String::new(), start: 0, end: 0, port: None, ip: false }
    }

    /// The name or address alone: lower case, no port, no brackets, no final dot. Empty for [`Host::none`].
    pub fn name(&self) -> &str {
        &self.text[usize::from(self.start)..usize::from(self.end)]
    }

    /// Name and port in the form a `Host` field has, with brackets around an IPv6 address.
    pub fn authority(&self) -> &str {
        &self.text
    }

    /// The port, if one was given.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Whether it is an IPv4 or IPv6 address.
    pub fn is_ip(&self) -> bool {
        self.ip
    }

    /// Whether there is no host.
    pub fn is_none(&self) -> bool {
        self.text.is_empty()
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a `Host` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostFault {
    /// Nothing is there.
    Empty,
    /// Longer than [`MAX_NAME`].
    TooLong,
    /// An empty label, one longer than [`MAX_LABEL`], or one that begins or ends with a hyphen.
    Label,
    /// A byte that no host name has.
    Character,
    /// Looks like an address, but is none.
    Address,
    /// What follows the colon is no port.
    Port,
}

impl fmt::Display for HostFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HostFault::Empty => "the host is empty",
            HostFault::TooLong => "the host name is longer than 253 characters",
            HostFault::Label => {
                "the host name has a part that is empty, too long, or has a hyphen at its edge"
            }
            HostFault::Character => "the host name has a character that host names cannot have",
            HostFault::Address => "the host looks like an address but is none",
            HostFault::Port => "the port of the host is no number from 0 to 65535",
        })
    }
}

impl Error for HostFault {}

impl From<NameFault> for HostFault {
    fn from(fault: NameFault) -> HostFault {
        match fault {
            NameFault::Empty => HostFault::Empty,
            NameFault::TooLong => HostFault::TooLong,
            NameFault::Label => HostFault::Label,
            NameFault::Character => HostFault::Character,
            NameFault::Address => HostFault::Address,
        }
    }
}

/// The public domain of a mapping: `demo.example.org`, or `*.example.org` for every name with exactly one
/// label more.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hostname(String);

impl Hostname {
    /// Reads what the operator typed: letters, digits, hyphens and underscores, in any case, a final dot
    /// allowed. Underscores are no host name by RFC 952, but people have them and DNS carries them.
    pub fn parse(text: &str) -> Result<Hostname, HostnameFault> {
        let fault = |kind| HostnameFault { text: text.chars().take(MAX_NAME + 1).collect(), kind };
        let name = text.trim();
        if !name.is_ascii() {
            return Err(fault(HostnameFaultKind::NotAscii));
        }
        if name.contains('/') {
            return Err(fault(HostnameFaultKind::Url));
        }
        if name.starts_with('[') || name.parse::<Ipv6Addr>().is_ok() {
            return Err(fault(HostnameFaultKind::Address));
        }
        if name.contains(':') {
            return Err(fault(HostnameFaultKind::Port));
        }
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.len() > MAX_NAME {
            return Err(fault(HostnameFaultKind::TooLong));
        }
        let plain = name.strip_prefix("*.").unwrap_or(name);
        if plain.contains('*') {
            return Err(fault(HostnameFaultKind::Wildcard));
        }
        match check_name(plain.as_bytes()) {
            Ok(NameKind::Name) => Ok(Hostname(name.to_ascii_lowercase())),
            Ok(NameKind::Ipv4) | Err(NameFault::Address) => Err(fault(HostnameFaultKind::Address)),
            Err(NameFault::Empty) => Err(fault(HostnameFaultKind::Empty)),
            Err(NameFault::TooLong) => Err(fault(HostnameFaultKind::TooLong)),
            Err(NameFault::Label) => Err(fault(HostnameFaultKind::Label)),
            Err(NameFault::Character) => Err(fault(HostnameFaultKind::Character)),
        }
    }

    /// The domain, lower case, with its `*.` if it is a wildcard.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it begins with `*.`.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with("*.")
    }

    /// Whether a request for `name` (as of [`Host::name`]) is for this domain. A wildcard stands for one
    /// label, as in certificates (RFC 9525 6.3), and not for the bare domain.
    pub fn matches(&self, name: &str) -> bool {
        match self.0.strip_prefix("*.") {
            None => self.0.eq_ignore_ascii_case(name),
            Some(parent) => match name.split_once('.') {
                Some((label, rest)) => !label.is_empty() && parent.eq_ignore_ascii_case(rest),
                None => false,
            },
        }
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Hostname {
    type Err = HostnameFault;

    fn from_str(text: &str) -> Result<Hostname, HostnameFault> {
        Hostname::parse(text)
    }
}

/// What was typed and why it is no domain for a mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostnameFault {
    /// The text, cut if it is long.
    pub text: String,
    /// What is wrong with it.
    pub kind: HostnameFaultKind,
}

/// What is wrong with a [`Hostname`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostnameFaultKind {
    /// Nothing is there.
    Empty,
    /// Longer than [`MAX_NAME`].
    TooLong,
    /// An empty label, one longer than [`MAX_LABEL`], or one that begins or ends with a hyphen.
    Label,
    /// A character that no domain has.
    Character,
    /// Letters beyond ASCII: the punycode form is needed.
    NotAscii,
    /// A star elsewhere than in a first label of its own.
    Wildcard,
    /// An IP address.
    Address,
    /// A port is with it.
    Port,
    /// A scheme or a path is with it.
    Url,
}

impl fmt::Display for HostnameFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.kind {
            HostnameFaultKind::Empty => "is empty",
            HostnameFaultKind::TooLong => "is longer than 253 characters",
            HostnameFaultKind::Label => {
                "has a part that is empty, longer than 63 characters, or begins or ends with a hyphen"
            }
            HostnameFaultKind::Character => "may have letters, digits, hyphens, underscores and dots only",
            HostnameFaultKind::NotAscii => "has letters beyond a-z: enter its xn-- form",
            HostnameFaultKind::Wildcard => {
                "may have a star only as its whole first part, as in *.example.org"
            }
            HostnameFaultKind::Address => "is an address: a mapping needs a domain name",
            HostnameFaultKind::Port => "has a port: enter the name alone",
            HostnameFaultKind::Url => "is a url: enter the name alone, without scheme and path",
        };
        write!(f, "domain {:?} {why}", self.text)
    }
}

impl Error for HostnameFault {}

enum NameKind {
    Name,
    Ipv4,
}

enum NameFault {
    Empty,
    TooLong,
    Label,
    Character,
    Address,
}

/// Checks a name without final dot, port and wildcard.
fn check_name(name: &[u8]) -> Result<NameKind, NameFault> {
    if name.is_empty() {
        return Err(NameFault::Empty);
    }
    if name.len() > MAX_NAME {
        return Err(NameFault::TooLong);
    }
    let mut numeric = false;
    for label in name.split(|&b| b == b'.') {
        if !label.iter().all(|&b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return Err(NameFault::Character);
        }
        let edge = label.first() == Some(&b'-') || label.last() == Some(&b'-');
        if label.is_empty() || label.len() > MAX_LABEL || edge {
            return Err(NameFault::Label);
        }
        numeric = label.iter().all(u8::is_ascii_digit);
    }
    if !numeric {
        return Ok(NameKind::Name);
    }
    // No top-level domain is a number, so this means an address; half of one (`1.2.3`) or one with octal
    // parts is read differently by different programs (WHATWG URL 3.5), which is reason enough to refuse it.
    let text = str::from_utf8(name).map_err(|_| NameFault::Character)?;
    match Ipv4Addr::from_str(text) {
        Ok(_) => Ok(NameKind::Ipv4),
        Err(_) => Err(NameFault::Address),
    }
}

fn parse_port(digits: &[u8]) -> Result<Option<u16>, HostFault> {
    if digits.is_empty() {
        return Ok(None);
    }
    if digits.len() > 5 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(HostFault::Port);
    }
    let number = digits.iter().fold(0u32, |n, d| n * 10 + u32::from(d - b'0'));
    u16::try_from(number).map(Some).map_err(|_| HostFault::Port)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(text: &str) -> Host {
        Host::parse(text.as_bytes()).unwrap_or_else(|fault| panic!("{text:?}: {fault}"))
    }

    #[test]
    fn a_host_is_lower_case_and_apart_from_its_port() {
        let found = host("Demo.Example.ORG:8080");
        assert_eq!(found.name(), "demo.example.org");
        assert_eq!(found.authority(), "demo.example.org:8080");
        assert_eq!(found.port(), Some(8080));
        assert!(!found.is_ip() && !found.is_none());
    }

    #[test]
    fn a_final_dot_and_an_empty_port_say_nothing() {
        assert_eq!(host("example.org.:81"), host("example.org:81"));
        assert_eq!(host("example.org:"), host("example.org"));
        assert_eq!(host("example.org.").authority(), "example.org");
    }

    #[test]
    fn addresses_are_hosts_in_their_shortest_form() {
        let v6 = host("[2001:DB8:0:0::1]:443");
        assert_eq!((v6.name(), v6.authority(), v6.port()), ("2001:db8::1", "[2001:db8::1]:443", Some(443)));
        assert!(v6.is_ip());
        assert_eq!(host("[::1]").name(), "::1");
        let v4 = host("192.0.2.7:80");
        assert_eq!((v4.name(), v4.is_ip()), ("192.0.2.7", true));
        assert!(Host::none().is_none() && Host::none().name().is_empty());
    }

    #[test]
    fn what_is_no_host_is_refused() {
        let long_label = format!("{}.org", "a".repeat(64));
        let long_name = format!("{}org", "abc.".repeat(63));
        assert_eq!(long_name.len(), 255);
        let cases: [(&str, HostFault); 27] = [
            ("", HostFault::Empty),
            (":80", HostFault::Empty),
            (".", HostFault::Empty),
            ("a..b", HostFault::Label),
            (".a", HostFault::Label),
            ("a.b..", HostFault::Label),
            ("-a.org", HostFault::Label),
            ("a-.org", HostFault::Label),
            (&long_label, HostFault::Label),
            (&long_name, HostFault::TooLong),
            ("a b", HostFault::Character),
            ("a/b", HostFault::Character),
            ("user@a", HostFault::Character),
            ("a%2eorg", HostFault::Character),
            ("a,b", HostFault::Character),
            ("b\u{fc}cher.de", HostFault::Character),
            ("1.2.3", HostFault::Address),
            ("1.2.3.256", HostFault::Address),
            ("01.2.3.4", HostFault::Address),
            ("a.1", HostFault::Address),
            ("[::1", HostFault::Address),
            ("[fe80::1%25eth0]", HostFault::Address),
            ("[v1.a]", HostFault::Address),
            ("[::1]x", HostFault::Port),
            ("a:http", HostFault::Port),
            ("a:65536", HostFault::Port),
            ("::1", HostFault::Port),
        ];
        for (text, fault) in cases {
            assert_eq!(Host::parse(text.as_bytes()), Err(fault), "{text:?}");
        }
    }

    #[test]
    fn a_hostname_is_a_domain_or_a_wildcard_of_one() {
        for (text, kept) in [
            ("Demo.Example.org", "demo.example.org"),
            (" demo ", "demo"),
            ("localhost.", "localhost"),
            ("*.Example.org", "*.example.org"),
            ("my_app.example.org", "my_app.example.org"),
            ("xn--bcher-kva.de", "xn--bcher-kva.de"),
            ("4.example", "4.example"),
        ] {
            let name = Hostname::parse(text).unwrap_or_else(|fault| panic!("{fault}"));
            assert_eq!(name.as_str(), kept);
            assert_eq!(name.is_wildcard(), kept.starts_with('*'));
            assert_eq!(Hostname::parse(name.as_str()), Ok(name.clone()), "parsing again changes nothing");
        }
    }

    #[test]
    fn what_is_no_domain_is_refused_with_the_reason() {
        use HostnameFaultKind as Kind;
        let long = format!("*.{}org", "abc.".repeat(62));
        assert_eq!(long.len(), 253);
        assert!(Hostname::parse(&long).is_ok());
        let long = format!("a{long}");
        for (text, kind) in [
            ("", Kind::Empty),
            ("  ", Kind::Empty),
            ("a..b", Kind::Label),
            ("-a", Kind::Label),
            ("a b", Kind::Character),
            ("a;b", Kind::Character),
            ("b\u{fc}cher.de", Kind::NotAscii),
            ("*", Kind::Wildcard),
            ("*.", Kind::Wildcard),
            ("a.*.org", Kind::Wildcard),
            ("*.*.org", Kind::Wildcard),
            ("*a.org", Kind::Wildcard),
            ("192.0.2.1", Kind::Address),
            ("*.0.2.1", Kind::Address),
            ("::1", Kind::Address),
            ("[::1]", Kind::Address),
            ("a.org:80", Kind::Port),
            ("https://a.org", Kind::Url),
            ("a.org/", Kind::Url),
            (&long, Kind::TooLong),
        ] {
            let fault = Hostname::parse(text).expect_err(text);
            assert_eq!(fault.kind, kind, "{text:?}");
            assert!(fault.to_string().starts_with("domain \""), "{fault}");
        }
    }

    #[test]
    fn a_wildcard_stands_for_exactly_one_label() {
        let wildcard = Hostname::parse("*.example.org").expect("is one");
        assert!(wildcard.matches("a.example.org"));
        for other in ["example.org", "a.b.example.org", ".example.org", "aexample.org", "a.example.com", ""] {
            assert!(!wildcard.matches(other), "{other:?}");
        }
        let exact = Hostname::parse("example.org").expect("is one");
        assert!(exact.matches("example.org") && !exact.matches("a.example.org"));
    }

    proptest! {
        #[test]
        fn a_host_parses_to_itself(bytes in "[A-Za-z0-9.:_\\[\\]-]{0,24}") {
            if let Ok(found) = Host::parse(bytes.as_bytes()) {
                prop_assert_eq!(Host::parse(found.authority().as_bytes()), Ok(found.clone()));
                prop_assert!(!found.name().is_empty());
                if !found.is_ip() && !found.name().contains(':') {
                    prop_assert!(Hostname::parse(found.name()).is_ok_and(|name| name.matches(found.name())));
                }
            }
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in ".{0,300}") {
            let _ = Host::parse(&bytes);
            let _ = Hostname::parse(&text);
        }
    }
}
