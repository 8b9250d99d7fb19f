//! Field lines: what each is to us, what the lists in them say, and how they are read and written.

use std::mem::MaybeUninit;

use httparse::Header;

use super::{Field, Framing, MAX_TUNNEL_FIELDS, Version};

pub(super) type Slots<'b> = [MaybeUninit<Header<'b>>; MAX_TUNNEL_FIELDS];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LineEnds {
    CrLf,
    Lf,
}

/// Which line ends a complete head has; `None` if they are mixed. The parser has accepted both, so it is
/// enough to look before each name and at the end, without another pass over the bytes.
pub(super) fn line_ends(window: &[u8], used: usize, fields: &[Field<'_>]) -> Option<LineEnds> {
    let head = &window[..used];
    let base = window.as_ptr().addr();
    let ends = if head.ends_with(b"\r\n\r\n") {
        LineEnds::CrLf
    } else if head.ends_with(b"\n\n") && !head.ends_with(b"\r\n\n") {
        LineEnds::Lf
    } else {
        return None;
    };
    let same = fields.iter().all(|field| {
        let before = &window[..field.name.as_ptr().addr() - base];
        before.ends_with(b"\r\n") == (ends == LineEnds::CrLf)
    });
    same.then_some(ends)
}

/// Whether a field belongs to one hop by its name (RFC 9110 7.6.1, and the two of proxy authentication, which
/// nobody behind us asked for). What `Connection` lists besides is removed by the writers.
pub fn is_hop_by_hop(name: &str) -> bool {
    match Kind::of(name) {
        Kind::TransferEncoding | Kind::Connection | Kind::Upgrade | Kind::KeepAlive | Kind::HopByHop => true,
        Kind::Other
        | Kind::Host
        | Kind::ContentLength
        | Kind::Expect
        | Kind::Gateways
        | Kind::MappingId
        | Kind::RequestId => false,
    }
}

/// Whether only the Gateway may set this field on the way to an upstream.
pub(crate) fn is_gateways_own(name: &str) -> bool {
    matches!(Kind::of(name), Kind::Gateways | Kind::MappingId | Kind::RequestId)
}

/// What a field is to us. Found once per field and pass, so by length first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Other,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    KeepAlive,
    Expect,
    Upgrade,
    /// Belongs to one hop, and we do not look at it.
    HopByHop,
    /// Who the visitor is: set by the Gateway from what it believes.
    Gateways,
    MappingId,
    RequestId,
}

impl Kind {
    pub(super) fn of(name: &str) -> Kind {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        match name.len() {
            2 if is("te") => Kind::HopByHop,
            4 if is("host") => Kind::Host,
            6 if is("expect") => Kind::Expect,
            7 if is("upgrade") => Kind::Upgrade,
            // `Forwarded` (RFC 7239) says the same as X-Forwarded-*, and proxies that manage only those let a
            // visitor's own pass. Two stories about one visitor are one too many.
            9 if is("forwarded") || alias(name, "x-real-ip") => Kind::Gateways,
            10 if is("connection") => Kind::Connection,
            10 if is("keep-alive") => Kind::KeepAlive,
            14 if is("content-length") => Kind::ContentLength,
            15 if alias(name, "x-forwarded-for") => Kind::Gateways,
            16 if is("proxy-connection") => Kind::HopByHop,
            16 if alias(name, "x-forwarded-host") => Kind::Gateways,
            17 if is("transfer-encoding") => Kind::TransferEncoding,
            17 if alias(name, "x-forwarded-proto") => Kind::Gateways,
            18 if is("proxy-authenticate") => Kind::HopByHop,
            19 if is("proxy-authorization") => Kind::HopByHop,
            22 if alias(name, "x-octoporty-mapping-id") => Kind::MappingId,
            22 if is("x-octoporty-request-id") => Kind::RequestId,
            // An alias of the request id is nobody's label.
            22 if alias(name, "x-octoporty-request-id") => Kind::MappingId,
            _ => Kind::Other,
        }
    }
}

/// Compares names as CGI and WSGI see them, where `X_Forwarded_For` is the same variable as
/// `X-Forwarded-For`.
fn alias(name: &str, known: &str) -> bool {
    let plain = |b: u8| if b == b'_' { b'-' } else { b.to_ascii_lowercase() };
    name.len() == known.len() && name.bytes().zip(known.bytes()).all(|(a, b)| plain(a) == b)
}

pub(super) fn get<'b>(fields: &[Field<'b>], name: &str) -> Option<&'b [u8]> {
    fields.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
}

/// Whether a `Connection` line lists this field. Only asked for fields that are nothing special to us: a
/// visitor cannot have `Host` or the framing removed by listing it.
pub(super) fn is_listed(fields: &[Field<'_>], name: &str) -> bool {
    fields
        .iter()
        .filter(|field| Kind::of(field.name) == Kind::Connection)
        .flat_map(|field| elements(field.value))
        .any(|option| option.eq_ignore_ascii_case(name.as_bytes()))
}

/// The elements of a comma-separated list, empty ones left out (RFC 9110 5.6.1.2).
pub(super) fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// What the `Transfer-Encoding` lines of a message say, taken together as one list (RFC 9110 5.3).
#[derive(Default)]
pub(super) struct Coding {
    malformed: bool,
    chunked: u32,
    others: u32,
    chunked_is_last: bool,
}

pub(super) enum CodingVerdict {
    Chunked,
    OtherThenChunked,
    Invalid,
}

impl Coding {
    pub(super) fn add(&mut self, value: &[u8]) {
        for coding in value.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
            self.chunked_is_last = coding.eq_ignore_ascii_case(b"chunked");
            if self.chunked_is_last {
                self.chunked = self.chunked.saturating_add(1);
                continue;
            }
            self.others = self.others.saturating_add(1);
            let name = coding.split(|&b| b == b';').next().unwrap_or_default().trim_ascii_end();
            // `chunked` has no parameters, and an empty element is no coding.
            self.malformed |= !is_token(name) || name.eq_ignore_ascii_case(b"chunked");
        }
    }

    pub(super) fn verdict(&self) -> CodingVerdict {
        if self.malformed || self.chunked != 1 || !self.chunked_is_last {
            CodingVerdict::Invalid
        } else if self.others > 0 {
            CodingVerdict::OtherThenChunked
        } else {
            CodingVerdict::Chunked
        }
    }
}

/// What the `Connection` lines of a message say (RFC 9110 7.6.1).
#[derive(Default)]
pub(super) struct Connection {
    close: bool,
    keep_alive: bool,
    pub(super) upgrade: bool,
    pub(super) others: bool,
}

impl Connection {
    pub(super) fn add(&mut self, value: &[u8]) {
        for option in elements(value) {
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else {
                self.others = true;
            }
        }
    }

    /// RFC 9112 9.3.
    pub(super) fn keep_alive(&self, version: Version) -> bool {
        !self.close && (version == Version::Http11 || self.keep_alive)
    }
}

/// `1-64 of A-Za-z0-9._-`.
pub(super) fn is_label(value: &[u8]) -> bool {
    let fine = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=64).contains(&value.len()) && value.iter().all(fine)
}

fn is_token(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|&b| is_token_byte(b))
}

/// `tchar` of RFC 9110 5.6.2.
fn is_token_byte(b: u8) -> bool {
    const TOKEN: [bool; 256] = {
        let mut map = [false; 256];
        let mut at = 0;
        while at < 256 {
            map[at] = (at as u8).is_ascii_alphanumeric();
            at += 1;
        }
        let others = b"!#$%&'*+-.^_`|~";
        let mut at = 0;
        while at < others.len() {
            map[others[at] as usize] = true;
            at += 1;
        }
        map
    };
    TOKEN[usize::from(b)]
}

/// What may be in a field value (RFC 9110 5.5): no control byte but the tab.
pub(crate) fn is_value_byte(b: u8) -> bool {
    b == b'\t' || (b >= b' ' && b != 0x7f)
}

/// Splits a field line without its CRLF; `None` if the name is no token. The value is not looked at.
pub(crate) fn split_field(line: &[u8]) -> Option<(&str, &[u8])> {
    let colon = line.iter().position(|&b| !is_token_byte(b))?;
    if colon == 0 || line[colon] != b':' {
        return None;
    }
    let name = str::from_utf8(&line[..colon]).ok()?;
    Some((name, line[colon + 1..].trim_ascii()))
}

/// A number of digits only, as HTTP has them: no sign, no space, not empty, at most 64 bits.
pub(super) fn parse_decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, &digit| match digit {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

pub(super) fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes the declared length anew rather than as received: `007` and `5, 5` are read differently out there.
pub(super) fn write_length(out: &mut Vec<u8>, name: &str, framing: Framing) {
    let Framing::Length(length) = framing else { return };
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = length;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    write_field(out, name, &digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_we_treat_is_known_by_its_name() {
        let hop = [
            "Connection",
            "Keep-Alive",
            "Proxy-Connection",
            "Proxy-Authenticate",
            "Proxy-Authorization",
            "TE",
            "Transfer-Encoding",
            "Upgrade",
        ];
        for name in hop {
            assert!(is_hop_by_hop(name) && is_hop_by_hop(&name.to_ascii_uppercase()), "{name}");
            assert!(!is_gateways_own(name), "{name}");
        }
        let own = [
            "Forwarded",
            "X-Forwarded-For",
            "X-Forwarded-Host",
            "X-Forwarded-Proto",
            "X-Real-IP",
            "X-Octoporty-Mapping-Id",
            "X-Octoporty-Request-Id",
        ];
        for name in own {
            assert!(is_gateways_own(name) && is_gateways_own(&name.replace('-', "_")), "{name}");
            assert!(!is_hop_by_hop(name), "{name}");
        }
        assert_eq!(Kind::of("Host"), Kind::Host);
        assert_eq!(Kind::of("Expect"), Kind::Expect);
        assert_eq!(Kind::of("Content-Length"), Kind::ContentLength);
        assert_eq!(Kind::of("Content_Length"), Kind::Other);
        assert_eq!(Kind::of("Trailer"), Kind::Other);
    }
}
