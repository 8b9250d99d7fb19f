//! Who is the visitor, and what the upstream is told about him.
//!
//! The Gateway's TCP peer is the visitor himself, or a proxy in front (Caddy). Only proxies the operator
//! trusts may say on whose behalf they ask; what others say about themselves is dropped by `head.rs`. The
//! upstream gets exactly one `X-Forwarded-For`, `X-Forwarded-Proto`, `X-Forwarded-Host` and `X-Real-IP`,
//! whatever came in.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use crate::head::RequestHead;
use crate::hostname::Host;

/// Most elements of a chain that are passed on, counted from the right: no honest path has more proxies.
pub const MAX_CHAIN: usize = 32;
/// Longest element that is an obfuscated name (RFC 7239 6.3) rather than an address.
const MAX_TOKEN: usize = 64;

/// Addresses that begin with the same bits. IPv4 is kept as IPv4-mapped IPv6, so there is one comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    base: u128,
    mask: u128,
}

impl Network {
    fn new(address: IpAddr, bits: u32) -> Option<Network> {
        let (base, bits) = match address {
            IpAddr::V4(v4) if bits <= 32 => (v4.to_ipv6_mapped().to_bits(), bits + 96),
            IpAddr::V6(v6) if bits <= 128 => (v6.to_bits(), bits),
            _ => return None,
        };
        let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
        Some(Network { base: base & mask, mask })
    }

    fn contains(&self, address: u128) -> bool {
        address & self.mask == self.base
    }
}

const LOOPBACK: [(IpAddr, u32); 2] =
    [(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8), (IpAddr::V6(Ipv6Addr::LOCALHOST), 128)];

/// RFC 1918, carrier-grade NAT (RFC 6598), unique local (RFC 4193) and link-local IPv6.
const PRIVATE: [(IpAddr, u32); 6] = [
    (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)), 8),
    (IpAddr::V4(Ipv4Addr::new(172, 16, 0, 0)), 12),
    (IpAddr::V4(Ipv4Addr::new(192, 168, 0, 0)), 16),
    (IpAddr::V4(Ipv4Addr::new(100, 64, 0, 0)), 10),
    (IpAddr::V6(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0)), 7),
    (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
];

/// The peers that may say who the visitor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedProxies(Vec<Network>);

impl TrustedProxies {
    /// Reads a list separated by commas: `loopback`, `private`, addresses, networks (`10.0.0.0/8`); `none` or
    /// an empty text for nobody.
    pub fn parse(text: &str) -> Result<TrustedProxies, String> {
        let mut networks = Vec::new();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            match item.to_ascii_lowercase().as_str() {
                "loopback" => {
                    networks.extend(LOOPBACK.iter().filter_map(|&(base, bits)| Network::new(base, bits)))
                }
                "private" => {
                    networks.extend(PRIVATE.iter().filter_map(|&(base, bits)| Network::new(base, bits)))
                }
                "none" if text.trim() == item => {}
                "none" => return Err(format!("trusted proxies {text:?}: none stands alone")),
                _ => networks.push(parse_network(item)?),
            }
        }
        Ok(TrustedProxies(networks))
    }

    /// Whether this peer may say who the visitor is. `::ffff:10.0.0.1` is the same as `10.0.0.1`.
    pub fn trusts(&self, ip: IpAddr) -> bool {
        let bits = match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        self.0.iter().any(|network| network.contains(bits))
    }
}

impl Default for TrustedProxies {
    /// Loopback and private ranges, where Caddy lives.
    fn default() -> TrustedProxies {
        let all = LOOPBACK.iter().chain(&PRIVATE);
        TrustedProxies(all.filter_map(|&(base, bits)| Network::new(base, bits)).collect())
    }
}

fn parse_network(item: &str) -> Result<Network, String> {
    let wrong = || {
        format!("trusted proxy {item:?}: is no address, no network (10.0.0.0/8), loopback, private or none")
    };
    let (address, bits) = match item.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (item, None),
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = match bits {
        None => most,
        // Only digits: `parse` would take a sign.
        Some(bits) if !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit()) => {
            bits.parse().map_err(|_| wrong())?
        }
        Some(_) => return Err(wrong()),
    };
    Network::new(address, bits).ok_or_else(|| format!("trusted proxy {item:?}: has more than {most} bits"))
}

/// Fields that the Gateway adds to a request head. `write_tunnel_request` drops the visitor's fields of these
/// names whether or not they are here.
#[derive(Clone, Copy, Debug)]
pub struct Extra<'a> {
    fields: [Option<(&'static str, &'a [u8])>; 5],
}

impl<'a> Extra<'a> {
    /// Nothing to add.
    pub fn none() -> Extra<'a> {
        Extra { fields: [None; 5] }
    }

    /// Names and values, in the order in which they are written.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &'a [u8])> + '_ {
        self.fields.iter().flatten().copied()
    }
}

/// What is known about a visitor and what the upstream is told.
#[derive(Clone, Debug)]
pub struct Visitor<'a> {
    address: IpAddr,
    /// The chain, and behind it the address as text if it is not in the chain: one allocation for both.
    text: String,
    chain: usize,
    /// Where the address is in `text`.
    written: Range<usize>,
    proto: &'static str,
    host: &'a [u8],
    request_id: &'a str,
}

impl<'a> Visitor<'a> {
    /// The visitor's address as far as we believe it; an IPv4 address is never given in its IPv6 form.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The same as text, as in `X-Real-IP`.
    pub fn address_text(&self) -> &str {
        &self.text[self.written.clone()]
    }

    /// The value of `X-Forwarded-For`.
    pub fn chain(&self) -> &str {
        &self.text[..self.chain]
    }

    /// `http` or `https`, as of `X-Forwarded-Proto`.
    pub fn proto(&self) -> &'static str {
        self.proto
    }

    /// The value of `X-Forwarded-Host`; empty if nothing is known.
    pub fn host(&self) -> &'a [u8] {
        self.host
    }

    /// What `write_tunnel_request` is to add.
    pub fn extra(&self) -> Extra<'_> {
        Extra {
            fields: [
                Some(("X-Forwarded-For", self.chain().as_bytes())),
                Some(("X-Forwarded-Proto", self.proto.as_bytes())),
                (!self.host.is_empty()).then_some(("X-Forwarded-Host", self.host)),
                Some(("X-Real-IP", self.address_text().as_bytes())),
                Some(("X-Octoporty-Request-Id", self.request_id.as_bytes())),
            ],
        }
    }
}

/// Finds out who the visitor is. `peer` is the Gateway's TCP peer, `request_id` our own id for the request.
///
/// A peer that is not trusted is the visitor, and the chain is his address. A trusted one has appended its
/// own peer to the chain already, so its address (`127.0.0.1` for Caddy beside us) would add nothing and is
/// left out, unless there is no chain. The chain is read from the right, where the nearest proxy wrote: the
/// first address that is not trusted is the visitor; if all are, the left-most. It is cut before the first
/// element from the right that is no address, no `unknown` and no obfuscated name, and after [`MAX_CHAIN`];
/// ports are removed. Left of an `unknown` nothing is believed, since nobody knows who wrote it.
pub fn visitor<'a>(
    trusted: &TrustedProxies,
    peer: IpAddr,
    head: &'a RequestHead<'a>,
    request_id: &'a str,
) -> Visitor<'a> {
    let peer = peer.to_canonical();
    let believed = trusted.trusts(peer);
    let mut text = String::with_capacity(96);
    let found = if believed { read_chain(trusted, head, &mut text) } else { None };
    // Where there is no chain the peer is it. Where its right end names nobody the peer is the visitor, but
    // stays out of it.
    let end = text.len();
    let (address, written) = found.unwrap_or_else(|| {
        push_address(&mut text, peer);
        (peer, end..text.len())
    });
    let chain = if end == 0 { text.len() } else { end };
    let said = |name| if believed { head.get(name).map(first_element) } else { None };
    let proto = if said("x-forwarded-proto") == Some(b"https") { "https" } else { "http" };
    let own = head.get("host");
    // Nearly always the proxy says what `Host` says, and that has been parsed.
    let host = said("x-forwarded-host").filter(|&host| own == Some(host) || Host::parse(host).is_ok());
    let host = host.or(own).filter(|host| !host.is_empty()).unwrap_or(head.host.authority().as_bytes());
    Visitor { address, text, chain, written, proto, host, request_id }
}

fn first_element(value: &[u8]) -> &[u8] {
    value.split(|&b| b == b',').next().unwrap_or_default().trim_ascii()
}

/// As `Display` would, but an IPv4 address several times faster: this is done for every request.
fn push_address(text: &mut String, address: IpAddr) {
    let v4 = match address {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(v6) => return write!(text, "{v6}").expect("writing to a string cannot fail"),
    };
    for (index, byte) in v4.octets().into_iter().enumerate() {
        if index > 0 {
            text.push('.');
        }
        if byte >= 100 {
            text.push(char::from(b'0' + byte / 100));
        }
        if byte >= 10 {
            text.push(char::from(b'0' + byte / 10 % 10));
        }
        text.push(char::from(b'0' + byte % 10));
    }
}

/// An element of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element<'a> {
    Address(IpAddr),
    /// `unknown` or an obfuscated name.
    Token(&'a str),
}

/// Writes the clean chain to `text` and gives the visitor's address and where it is in `text`; none if nobody
/// is named by somebody we trust.
fn read_chain(
    trusted: &TrustedProxies,
    head: &RequestHead<'_>,
    text: &mut String,
) -> Option<(IpAddr, Range<usize>)> {
    let mut elements = [Element::Token(""); MAX_CHAIN];
    let mut count = 0;
    let mut visitor = None;
    let mut searching = true;
    let lines = head.fields.iter().rev().filter(|field| field.name.eq_ignore_ascii_case("x-forwarded-for"));
    let values = lines.flat_map(|field| field.value.rsplit(|&b| b == b',')).map(<[u8]>::trim_ascii);
    for value in values.filter(|value| !value.is_empty()).take(MAX_CHAIN) {
        let Some(element) = parse_element(value) else { break };
        match element {
            Element::Address(found) if searching => {
                visitor = Some((found, count));
                searching = trusted.trusts(found);
            }
            Element::Address(_) => {}
            Element::Token(_) => searching = false,
        }
        elements[count] = element;
        count += 1;
    }
    let mut written = None;
    for (index, element) in elements[..count].iter().enumerate().rev() {
        if !text.is_empty() {
            text.push_str(", ");
        }
        let start = text.len();
        match *element {
            Element::Address(address) => push_address(text, address),
            Element::Token(token) => text.push_str(token),
        }
        if let Some((address, place)) = visitor
            && place == index
        {
            written = Some((address, start..text.len()));
        }
    }
    written
}

/// An address, with or without port, brackets around IPv6 or not; `unknown`; or `_name` (RFC 7239 6).
fn parse_element(value: &[u8]) -> Option<Element<'_>> {
    let text = str::from_utf8(value).ok()?;
    let plain = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let address = match plain {
        Some(v6) => v6.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => text.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip())),
    };
    if let Some(address) = address {
        return Some(Element::Address(address.to_canonical()));
    }
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let token = text.eq_ignore_ascii_case("unknown")
        || (text.starts_with('_') && text.len() <= MAX_TOKEN && text.bytes().all(fine));
    token.then_some(Element::Token(text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::head;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap_or_else(|_| panic!("{text:?} is no address"))
    }

    fn with_head<T>(fields: &str, look: impl FnOnce(&RequestHead<'_>) -> T) -> T {
        let bytes = format!("GET / HTTP/1.1\r\nHost: Demo.example:81\r\n{fields}\r\n");
        let (head, _) = head::parse_request(bytes.as_bytes()).expect("is fine").expect("is complete");
        look(&head)
    }

    /// Chain and address that `fields` from `peer` lead to, by default trust.
    fn chain(peer: &str, fields: &str) -> (String, String) {
        with_head(fields, |head| {
            let found = visitor(&TrustedProxies::default(), ip(peer), head, "id");
            assert_eq!(ip(found.address_text()), found.address());
            (found.chain().to_owned(), found.address_text().to_owned())
        })
    }

    fn check(peer: &str, fields: &str, expected: (&str, &str)) {
        let (chain, address) = chain(peer, fields);
        assert_eq!((chain.as_str(), address.as_str()), expected, "{peer} says {fields:?}");
    }

    #[test]
    fn a_stranger_is_the_visitor_whatever_he_says() {
        let said =
            "X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.example\r\n";
        check("203.0.113.5", said, ("203.0.113.5", "203.0.113.5"));
        with_head(said, |head| {
            let found = visitor(&TrustedProxies::default(), ip("203.0.113.5"), head, "id");
            assert_eq!((found.proto(), found.host()), ("http", b"Demo.example:81".as_slice()));
        });
    }

    #[test]
    fn caddy_beside_us_tells_who_the_visitor_is() {
        check("127.0.0.1", "X-Forwarded-For: 203.0.113.5\r\n", ("203.0.113.5", "203.0.113.5"));
        check("::ffff:127.0.0.1", "X-Forwarded-For: 203.0.113.5\r\n", ("203.0.113.5", "203.0.113.5"));
        check("127.0.0.1", "", ("127.0.0.1", "127.0.0.1"));
    }

    #[test]
    fn the_right_most_stranger_is_the_visitor() {
        check(
            "127.0.0.1",
            "X-Forwarded-For: 1.1.1.1, 2.2.2.2, 10.0.0.9\r\n",
            ("1.1.1.1, 2.2.2.2, 10.0.0.9", "2.2.2.2"),
        );
        check(
            "127.0.0.1",
            "X-Forwarded-For: 192.168.1.5, 10.0.0.9\r\n",
            ("192.168.1.5, 10.0.0.9", "192.168.1.5"),
        );
    }

    #[test]
    fn several_lines_are_one_chain() {
        let lines = "X-Forwarded-For: 1.1.1.1\r\nx-forwarded-for: 2.2.2.2,10.0.0.9\r\n";
        check("127.0.0.1", lines, ("1.1.1.1, 2.2.2.2, 10.0.0.9", "2.2.2.2"));
    }

    #[test]
    fn elements_are_cleaned_and_nonsense_cuts_the_chain() {
        let line = "X-Forwarded-For: 1.1.1.1:99, [2001:DB8::1]:80, [2001:db8::2], ::ffff:2.2.2.2\r\n";
        check("127.0.0.1", line, ("1.1.1.1, 2001:db8::1, 2001:db8::2, 2.2.2.2", "2.2.2.2"));
        check("127.0.0.1", "X-Forwarded-For: 1.1.1.1, <script>, 10.0.0.9\r\n", ("10.0.0.9", "10.0.0.9"));
        check("127.0.0.1", "X-Forwarded-For: 1.1.1.1, nonsense\r\n", ("127.0.0.1", "127.0.0.1"));
        check("127.0.0.1", "X-Forwarded-For: , 1.1.1.1 ,,\r\n", ("1.1.1.1", "1.1.1.1"));
        check("127.0.0.1", "X-Forwarded-For: \u{fc}\r\n", ("127.0.0.1", "127.0.0.1"));
    }

    #[test]
    fn nobody_is_believed_behind_an_unknown() {
        check(
            "127.0.0.1",
            "X-Forwarded-For: 1.1.1.1, unknown, 10.0.0.9\r\n",
            ("1.1.1.1, unknown, 10.0.0.9", "10.0.0.9"),
        );
        check("127.0.0.1", "X-Forwarded-For: _secret\r\n", ("_secret", "127.0.0.1"));
    }

    #[test]
    fn a_chain_keeps_its_right_end_only() {
        let long = (1..=100).map(|n| format!("10.0.0.{n}")).collect::<Vec<_>>().join(",");
        let (chain, address) = chain("127.0.0.1", &format!("X-Forwarded-For: {long}\r\n"));
        assert_eq!(chain.split(", ").count(), MAX_CHAIN);
        assert!(chain.ends_with("10.0.0.100"));
        assert_eq!(address, "10.0.0.69");
    }

    #[test]
    fn proto_and_host_of_a_trusted_proxy_are_believed_if_they_make_sense() {
        let cases: [(&str, &str, &str); 7] = [
            ("X-Forwarded-Proto: https\r\nX-Forwarded-Host: a.example\r\n", "https", "a.example"),
            (
                "X-Forwarded-Proto: https, http\r\nX-Forwarded-Host: a.example, b.example\r\n",
                "https",
                "a.example",
            ),
            ("X-Forwarded-Proto: http\r\n", "http", "Demo.example:81"),
            ("X-Forwarded-Proto: gopher\r\n", "http", "Demo.example:81"),
            ("X-Forwarded-Proto: HTTPS\r\n", "http", "Demo.example:81"),
            ("X-Forwarded-Host: a/b\r\n", "http", "Demo.example:81"),
            ("X-Forwarded-Host:\r\n", "http", "Demo.example:81"),
        ];
        for (fields, proto, host) in cases {
            with_head(fields, |head| {
                let found = visitor(&TrustedProxies::default(), ip("127.0.0.1"), head, "id");
                assert_eq!((found.proto(), found.host()), (proto, host.as_bytes()), "{fields:?}");
            });
        }
    }

    #[test]
    fn an_address_is_written_as_everywhere_else() {
        for address in ["0.0.0.0", "1.10.100.255", "99.9.199.200", "2001:db8::1", "::"] {
            let mut text = String::new();
            push_address(&mut text, ip(address));
            assert_eq!(text, address);
        }
    }

    #[test]
    fn extra_has_the_five_fields_once() {
        with_head("", |head| {
            let found = visitor(&TrustedProxies::default(), ip("2001:db8::9"), head, "req-1");
            let extra = found.extra();
            let lines: Vec<_> =
                extra.iter().map(|(name, value)| (name, str::from_utf8(value).expect("ascii"))).collect();
            let expected = [
                ("X-Forwarded-For", "2001:db8::9"),
                ("X-Forwarded-Proto", "http"),
                ("X-Forwarded-Host", "Demo.example:81"),
                ("X-Real-IP", "2001:db8::9"),
                ("X-Octoporty-Request-Id", "req-1"),
            ];
            assert_eq!(lines, expected);
        });
    }

    #[test]
    fn a_request_without_host_gets_no_forwarded_host() {
        let (head, _) =
            head::parse_request(b"GET / HTTP/1.0\r\n\r\n").expect("is fine").expect("is complete");
        let found = visitor(&TrustedProxies::default(), ip("127.0.0.1"), &head, "id");
        assert!(found.extra().iter().all(|(name, _)| name != "X-Forwarded-Host"));
        let bytes = b"GET http://Demo.example/ HTTP/1.0\r\n\r\n";
        let (head, _) = head::parse_request(bytes).expect("is fine").expect("is complete");
        let found = visitor(&TrustedProxies::default(), ip("127.0.0.1"), &head, "id");
        assert_eq!(found.host(), b"demo.example");
    }

    #[test]
    fn the_list_of_trusted_proxies_is_names_addresses_and_networks() {
        let trusted =
            TrustedProxies::parse("loopback, 10.0.0.0/8,203.0.113.7 , 2001:db8::/32").expect("is fine");
        for inside in ["127.9.9.9", "::1", "10.255.0.1", "::ffff:10.1.1.1", "203.0.113.7", "2001:db8:ffff::1"]
        {
            assert!(trusted.trusts(ip(inside)), "{inside}");
        }
        for outside in ["192.168.0.1", "203.0.113.8", "11.0.0.0", "2001:db9::", "::2", "::", "fe80::1"] {
            assert!(!trusted.trusts(ip(outside)), "{outside}");
        }
        assert_eq!(TrustedProxies::parse("loopback,private"), Ok(TrustedProxies::default()));
        for private in ["172.31.255.255", "192.168.0.1", "100.127.0.1", "fd00::1", "fe80::1"] {
            assert!(TrustedProxies::default().trusts(ip(private)), "{private}");
        }
        for public in ["172.32.0.1", "100.128.0.1", "8.8.8.8", "2606::1", "fec0::1"] {
            assert!(!TrustedProxies::default().trusts(ip(public)), "{public}");
        }
    }

    #[test]
    fn nobody_or_everybody_can_be_trusted() {
        for nobody in ["none", "", " , "] {
            let trusted = TrustedProxies::parse(nobody).expect("is fine");
            assert!(!trusted.trusts(ip("127.0.0.1")), "{nobody:?}");
        }
        let all = TrustedProxies::parse("0.0.0.0/0,::/0").expect("is fine");
        assert!(all.trusts(ip("8.8.8.8")) && all.trusts(ip("2606::1")));
        let v4 = TrustedProxies::parse("0.0.0.0/0").expect("is fine");
        assert!(v4.trusts(ip("8.8.8.8")) && !v4.trusts(ip("2606::1")));
    }

    #[test]
    fn a_typo_in_the_list_is_named() {
        for wrong in [
            "10.0.0.0/33",
            "::/129",
            "10.0.0",
            "localhost",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "none,private",
            "1.2.3.4/x",
        ] {
            let text = TrustedProxies::parse(wrong).expect_err(wrong);
            assert!(text.contains(wrong), "{text}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_said_the_chain_is_clean(said in "[ ,.:_\\[\\]0-9a-fnkuow]{0,80}", peer in any::<[u8; 4]>()) {
            let bytes = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For:{said}\r\n\r\n");
            let (head, _) = head::parse_request(bytes.as_bytes()).expect("is fine").expect("is complete");
            let trusted = TrustedProxies::parse("0.0.0.0/1").expect("is fine");
            let found = visitor(&trusted, IpAddr::from(peer), &head, "id");
            prop_assert!(!found.chain().is_empty());
            for element in found.chain().split(", ") {
                prop_assert!(parse_element(element.as_bytes()).is_some(), "{:?}", element);
            }
            if peer[0] >= 128 {
                prop_assert_eq!(found.address(), IpAddr::from(peer));
            }
        }
    }
}
