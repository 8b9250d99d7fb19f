//! What the Operator wrote down: one public host name and the private service behind it.
//!
//! Every part is parsed once, here, so that whoever holds a [`Mapping`] need not look again. Where mappings
//! are kept is left to the Agent's store, which addresses are forbidden to [`crate::target`], the public name
//! to [`crate::hostname`].

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use time::OffsetDateTime;

use crate::hostname::Hostname;
use crate::target;

/// Longest text accepted for a host: RFC 1035 2.3.4 allows 255 octets on the wire, which is 253 characters.
const MAX_HOST: usize = 253;
/// Longest label of a name (RFC 1035 2.3.4).
const MAX_LABEL: usize = 63;

/// One public host name and the Upstream that answers for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Names the Mapping for ever, also in the tunnel protocol.
    pub id: MappingId,
    /// What Visitors ask for: an exact name or `*.example.com`.
    pub domain: Hostname,
    /// The Upstream's name or address.
    pub host: UpstreamHost,
    /// The Upstream's port, never 0.
    pub port: u16,
    /// Whether the Upstream speaks TLS.
    pub tls: bool,
    /// Whether any certificate of the Upstream will do (expired, another name, self-signed).
    pub allow_invalid_certificates: bool,
    /// A Mapping that is off keeps its place in the list and is not offered to the Gateway.
    pub enabled: bool,
    /// The Operator's own words.
    pub description: Option<String>,
    /// Which `Host` the Upstream sees.
    pub host_header: HostHeader,
    /// When it was made (UTC).
    pub created_at: OffsetDateTime,
    /// When it was last changed (UTC).
    pub updated_at: OffsetDateTime,
}

impl Mapping {
    /// What lists call it, and its domain: the Operator's words, or the domain in their place.
    pub fn called(&self) -> (&str, &str) {
        (self.description.as_deref().unwrap_or(self.domain.as_str()), self.domain.as_str())
    }

    /// `host:port` as it stands in a URL or a `Host` header: an IPv6 address gets its brackets.
    pub fn authority(&self) -> String {
        match self.host {
            UpstreamHost::Address(IpAddr::V6(ip)) => format!("[{ip}]:{}", self.port),
            _ => format!("{}:{}", self.host, self.port),
        }
    }
}

/// The identity of a [`Mapping`]: a UUID.
///
/// `Display` is the lower-case form of the API; the database holds [`MappingId::database_form`]. Both are
/// read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MappingId([u8; 16]);

/// A text that is no UUID in the form `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappingIdFault;

impl fmt::Display for MappingIdFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an id of the form 00000000-0000-0000-0000-000000000000")
    }
}

impl std::error::Error for MappingIdFault {}

impl MappingId {
    /// The id with exactly these bytes, as they travel in an `Open` Frame.
    pub const fn from_bytes(bytes: [u8; 16]) -> MappingId {
        MappingId(bytes)
    }

    /// A version 4 UUID (RFC 9562 5.4) from 16 random bytes; six of their bits are overwritten.
    pub const fn from_random(mut bytes: [u8; 16]) -> MappingId {
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        MappingId(bytes)
    }

    /// The bytes in the order in which the text shows them.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Upper-case, because the earlier program compares ids in the database as text and writes them so.
    pub fn database_form(&self) -> String {
        self.to_string().to_ascii_uppercase()
    }
}

impl fmt::Display for MappingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for MappingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MappingId {
    type Err = MappingIdFault;

    /// With hyphens (`D`) or without (`N`), in any case: both forms are common.
    fn from_str(text: &str) -> Result<MappingId, MappingIdFault> {
        let text = text.as_bytes();
        let hyphens = match text.len() {
            36 => true,
            32 => false,
            _ => return Err(MappingIdFault),
        };
        let mut bytes = [0; 16];
        let mut digits = 0;
        for (index, &byte) in text.iter().enumerate() {
            if hyphens && matches!(index, 8 | 13 | 18 | 23) {
                if byte != b'-' {
                    return Err(MappingIdFault);
                }
                continue;
            }
            let digit = match byte {
                b'0'..=b'9' => byte - b'0',
                b'a'..=b'f' => byte - b'a' + 10,
                b'A'..=b'F' => byte - b'A' + 10,
                _ => return Err(MappingIdFault),
            };
            bytes[digits / 2] = (bytes[digits / 2] << 4) | digit;
            digits += 1;
        }
        Ok(MappingId(bytes))
    }
}

/// Where a Mapping leads: a name to resolve, or an address. Never a URL, a port or a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamHost {
    /// A name, lower-case; made by [`UpstreamHost::parse`] only.
    Name(UpstreamName),
    /// An address; `parse` makes none that [`crate::target`] forbids.
    Address(IpAddr),
}

/// A name that was found to be one. A trailing dot is kept, for it switches the resolver's search list off.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamName(String);

impl UpstreamName {
    /// The name, lower-case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is no [`UpstreamHost`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamHostFault {
    /// Nothing there.
    Empty,
    /// Longer than a name can be; the length.
    TooLong(usize),
    /// Looks like a URL, or has a path, port or user in it.
    NotOnlyAHost,
    /// A character that no name has.
    Character(char),
    /// A label that is empty, longer than 63 or has a hyphen at an end.
    Label(String),
    /// Looks like an address, but is not one in the usual form (`127.1`, `0x7f000001`, `1.2.3.256`).
    Address,
    /// An address to which nobody may connect; why, from [`target::forbidden`].
    Forbidden(IpAddr, &'static str),
}

impl fmt::Display for UpstreamHostFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpstreamHostFault::Empty => f.write_str("must not be empty"),
            UpstreamHostFault::TooLong(length) => {
                write!(f, "must be {MAX_HOST} characters or fewer, has {length}")
            }
            UpstreamHostFault::NotOnlyAHost => {
                f.write_str("must be a host name or an address only, without scheme, port or path")
            }
            UpstreamHostFault::Character(c) if !c.is_ascii() => {
                write!(f, "has {c:?}, write international names in their xn-- form")
            }
            UpstreamHostFault::Character(c) => write!(f, "has {c:?}, which no host name has"),
            UpstreamHostFault::Label(label) => write!(
                f,
                "has the part {label:?}: each part between dots is 1 to {MAX_LABEL} characters without a \
                 hyphen at its ends"
            ),
            UpstreamHostFault::Address => {
                f.write_str("looks like an address, but is none of the form 192.0.2.1 or 2001:db8::1")
            }
            UpstreamHostFault::Forbidden(ip, why) => write!(f, "{ip} {why}"),
        }
    }
}

impl std::error::Error for UpstreamHostFault {}

impl UpstreamHost {
    /// The only way to an `UpstreamHost` for a text from outside.
    pub fn parse(text: &str) -> Result<UpstreamHost, UpstreamHostFault> {
        let host = UpstreamHost::parse_any(text)?;
        if let UpstreamHost::Address(ip) = host
            && let Some(why) = target::forbidden(ip)
        {
            return Err(UpstreamHostFault::Forbidden(ip, why));
        }
        Ok(host)
    }

    /// As `parse`, without the question whether one may connect there: a `Host` header is only a text.
    fn parse_any(text: &str) -> Result<UpstreamHost, UpstreamHostFault> {
        if text.is_empty() {
            return Err(UpstreamHostFault::Empty);
        }
        if text.len() > MAX_HOST {
            return Err(UpstreamHostFault::TooLong(text.len()));
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(UpstreamHost::Address(ip));
        }
        if let Some(inside) = text.strip_prefix('[') {
            // The brackets belong to a URL, but people copy them along.
            let ip = inside.strip_suffix(']').and_then(|ip| ip.parse::<Ipv6Addr>().ok());
            return ip.map(|ip| UpstreamHost::Address(IpAddr::V6(ip))).ok_or(UpstreamHostFault::NotOnlyAHost);
        }
        if text.contains(['/', ':', '@', '?', '#', '\\']) {
            return Err(UpstreamHostFault::NotOnlyAHost);
        }
        // The underscore is no host name character (RFC 952), but container names have it and resolvers take
        // it.
        if let Some(c) = text.chars().find(|&c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')))
        {
            return Err(UpstreamHostFault::Character(c));
        }
        let name = text.to_ascii_lowercase();
        let labels = name.strip_suffix('.').unwrap_or(&name);
        for label in labels.split('.') {
            if label.is_empty() || label.len() > MAX_LABEL || label.starts_with('-') || label.ends_with('-') {
                return Err(UpstreamHostFault::Label(label.to_owned()));
            }
        }
        // Resolvers read `127.1` and `0x7f000001` as addresses (inet_aton); no top-level name looks like
        // that.
        let last = labels.rsplit('.').next().unwrap_or(labels);
        let hexadecimal =
            last.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
        if hexadecimal || last.bytes().all(|b| b.is_ascii_digit()) {
            return Err(UpstreamHostFault::Address);
        }
        Ok(UpstreamHost::Name(UpstreamName(name)))
    }
}

impl fmt::Display for UpstreamHost {
    /// An IPv6 address without brackets; [`Mapping::authority`] adds them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpstreamHost::Name(name) => f.write_str(name.as_str()),
            UpstreamHost::Address(ip) => write!(f, "{ip}"),
        }
    }
}

impl FromStr for UpstreamHost {
    type Err = UpstreamHostFault;

    fn from_str(text: &str) -> Result<UpstreamHost, UpstreamHostFault> {
        UpstreamHost::parse(text)
    }
}

/// Which `Host` header the Upstream is sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostHeader {
    /// What the Visitor sent. The default for new Mappings: most applications build their links from it.
    Preserve,
    /// `host:port` of the Upstream, as the earlier program always did.
    Target,
    /// Always this.
    Literal(HostValue),
}

/// A text that may stand in a `Host` header: name or address, with or without a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostValue(String);

impl HostValue {
    /// The text, lower-case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn parse(text: &str) -> Result<HostValue, UpstreamHostFault> {
        let (host, port) = match text.rsplit_once(':') {
            // What follows the last colon of `[::1]` or `::1` is no port.
            Some((host, port)) if !port.ends_with(']') && (!host.contains(':') || host.ends_with(']')) => {
                (host, Some(port))
            }
            _ => (text, None),
        };
        let host = match UpstreamHost::parse_any(host)? {
            UpstreamHost::Address(IpAddr::V6(ip)) => format!("[{ip}]"),
            host => host.to_string(),
        };
        let Some(port) = port else { return Ok(HostValue(host)) };
        match port.parse::<u16>() {
            // `parse` alone would take a plus sign.
            Ok(number) if number != 0 && port.bytes().all(|b| b.is_ascii_digit()) => {
                Ok(HostValue(format!("{host}:{number}")))
            }
            _ => Err(UpstreamHostFault::NotOnlyAHost),
        }
    }
}

impl HostHeader {
    /// Marks a literal that could be taken for one of the two words.
    const LITERAL: &str = "literal:";

    /// Reads `preserve`, `target`, a literal, or `literal:` and a literal.
    pub fn parse(text: &str) -> Result<HostHeader, HostHeaderFault> {
        match text {
            "preserve" => return Ok(HostHeader::Preserve),
            "target" => return Ok(HostHeader::Target),
            _ => {}
        }
        let literal = text.strip_prefix(HostHeader::LITERAL).unwrap_or(text);
        HostValue::parse(literal).map(HostHeader::Literal).map_err(HostHeaderFault)
    }

    /// Always with the mark before a literal, so that a value in the database says what it is.
    pub fn database_form(&self) -> String {
        match self {
            HostHeader::Literal(value) => format!("{}{}", HostHeader::LITERAL, value.as_str()),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for HostHeader {
    /// The form of the API: a literal stands as it is, unless it looks like one of the two words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostHeader::Preserve => f.write_str("preserve"),
            HostHeader::Target => f.write_str("target"),
            HostHeader::Literal(value) => {
                if matches!(value.as_str(), "preserve" | "target") {
                    f.write_str(HostHeader::LITERAL)?;
                }
                f.write_str(value.as_str())
            }
        }
    }
}

/// Why a text is no [`HostHeader`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostHeaderFault(UpstreamHostFault);

impl fmt::Display for HostHeaderFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            UpstreamHostFault::NotOnlyAHost => {
                f.write_str("must be \"preserve\", \"target\" or a host name with or without a port")
            }
            ref fault => fault.fmt(f),
        }
    }
}

impl std::error::Error for HostHeaderFault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_both_cases_and_prints_each_where_it_belongs() {
        let text = "0F8FAD5B-d9cb-469f-A165-70867728950e";
        let id: MappingId = text.parse().expect("a UUID");
        assert_eq!(id.to_string(), "0f8fad5b-d9cb-469f-a165-70867728950e");
        assert_eq!(id.database_form(), "0F8FAD5B-D9CB-469F-A165-70867728950E");
        assert_eq!(MappingId::from_bytes(*id.as_bytes()), id);
    }

    #[test]
    fn an_id_in_any_other_form_is_refused() {
        for text in [
            "",
            "{0f8fad5b-d9cb-469f-a165-70867728950e}",
            "0f8fad5b-d9cb-469f-a165-70867728950",
            "0f8fad5b-d9cb-469f-a165-70867728950g",
            "0f8fad5b+d9cb-469f-a165-70867728950e",
            "0f8fad5b-d9cb-469fa-165-70867728950e",
        ] {
            assert_eq!(text.parse::<MappingId>(), Err(MappingIdFault), "{text:?}");
        }
    }

    #[test]
    fn random_bytes_become_a_version_4_id() {
        let id = MappingId::from_random([0xff; 16]).to_string();
        assert_eq!(id, "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(MappingId::from_random([0; 16]).to_string(), "00000000-0000-4000-8000-000000000000");
    }

    #[test]
    fn a_host_is_a_name_or_an_address() {
        for (text, expected) in [
            ("nas", "nas"),
            ("NAS.Local", "nas.local"),
            ("nas.local.", "nas.local."),
            ("localhost", "localhost"),
            ("metadata-db.lan", "metadata-db.lan"),
            ("my_app-1", "my_app-1"),
            ("3com.example", "3com.example"),
            ("192.168.1.20", "192.168.1.20"),
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "::1"),
            ("[fd00::1]", "fd00::1"),
        ] {
            assert_eq!(UpstreamHost::parse(text).expect(text).to_string(), expected);
        }
    }

    #[test]
    fn a_host_is_nothing_else() {
        let long = "a".repeat(254);
        let label = "a".repeat(64);
        for (text, word) in [
            ("", "empty"),
            (long.as_str(), "253"),
            (label.as_str(), "63"),
            ("http://nas", "only"),
            ("nas:80", "only"),
            ("nas/path", "only"),
            ("user@nas", "only"),
            ("[::1]:80", "only"),
            ("[::1", "only"),
            ("fe80::1%eth0", "only"),
            ("na s", "' '"),
            ("nas\r\nx", "'\\r'"),
            ("müller.lan", "xn--"),
            (".nas", "part"),
            ("nas..lan", "part"),
            ("-nas", "part"),
            ("nas-.lan", "part"),
            (".", "part"),
            ("127.1", "address"),
            ("2130706433", "address"),
            ("0x7f000001", "address"),
            ("1.2.3.256", "address"),
            ("169.254.169.254", "link-local"),
            ("[fe80::1]", "link-local"),
            ("0.0.0.0", "unspecified"),
            ("*.lan", "'*'"),
        ] {
            let fault = UpstreamHost::parse(text).expect_err(text).to_string();
            assert!(fault.contains(word), "{text:?}: {fault}");
        }
    }

    #[test]
    fn a_host_header_survives_the_api_and_the_database() {
        for (text, api, database) in [
            ("preserve", "preserve", "preserve"),
            ("target", "target", "target"),
            ("App.Lan", "app.lan", "literal:app.lan"),
            ("app.lan:8080", "app.lan:8080", "literal:app.lan:8080"),
            ("[::1]:8080", "[::1]:8080", "literal:[::1]:8080"),
            ("::1", "[::1]", "literal:[::1]"),
            ("[::1]", "[::1]", "literal:[::1]"),
            ("169.254.1.1", "169.254.1.1", "literal:169.254.1.1"),
            ("literal:target", "literal:target", "literal:target"),
            ("literal:app.lan", "app.lan", "literal:app.lan"),
        ] {
            let value = HostHeader::parse(text).expect(text);
            assert_eq!(value.to_string(), api);
            assert_eq!(value.database_form(), database);
            assert_eq!(HostHeader::parse(api).as_ref(), Ok(&value));
            assert_eq!(HostHeader::parse(database).as_ref(), Ok(&value));
        }
    }

    #[test]
    fn a_host_header_cannot_break_out_of_its_line() {
        for text in ["", "literal:", "a b", "a\r\nX: y", "a:0", "a:99999", "a:+80", "http://a", "a/b"] {
            assert!(HostHeader::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_ipv6_upstream_gets_brackets_in_its_authority() {
        let mut mapping = Mapping {
            id: MappingId::from_random([1; 16]),
            domain: Hostname::parse("app.example.com").expect("a host name"),
            host: UpstreamHost::parse("fd00::1").expect("an address"),
            port: 8080,
            tls: false,
            allow_invalid_certificates: false,
            enabled: true,
            description: None,
            host_header: HostHeader::Preserve,
            created_at: OffsetDateTime::UNIX_EPOCH,
            updated_at: OffsetDateTime::UNIX_EPOCH,
        };
        assert_eq!(mapping.authority(), "[fd00::1]:8080");
        mapping.host = UpstreamHost::parse("nas").expect("a name");
        assert_eq!(mapping.authority(), "nas:8080");
    }
}
