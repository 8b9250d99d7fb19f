//! What holds for heads of all kinds, and on every hop. The helpers are for the tests of the parts, too.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::forwarded::{self, TrustedProxies};

pub(super) fn request(text: &str) -> RequestHead<'_> {
    let (head, used) = parse_request(text.as_bytes())
        .unwrap_or_else(|fault| panic!("{text:?}: {fault}"))
        .unwrap_or_else(|| panic!("{text:?} is not complete"));
    assert_eq!(used, text.len());
    head
}

pub(super) fn response<'b>(text: &'b str, method: &str) -> ResponseHead<'b> {
    let (head, used) = parse_response(text.as_bytes(), method)
        .unwrap_or_else(|fault| panic!("{text:?}: {fault}"))
        .unwrap_or_else(|| panic!("{text:?} is not complete"));
    assert_eq!(used, text.len());
    head
}

pub(super) fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("the test has only utf-8")
}

/// The same however the bytes come: what the first bytes say is never taken back.
pub(super) fn parse_progressively(input: &[u8]) -> Result<Option<(RequestHead<'_>, usize)>, RequestFault> {
    for end in 0..input.len() {
        match parse_request(&input[..end]) {
            Ok(None) => {}
            found => return found,
        }
    }
    parse_request(input)
}

/// Heads that are nearly right, or right and odd.
fn nearly_request() -> impl Strategy<Value = Vec<u8>> {
    let line = prop::sample::select(vec![
        "GET / HTTP/1.1\r\n",
        "POST /a?b HTTP/1.1\r\n",
        "POST / HTTP/1.0\r\n",
        "GET http://a/x HTTP/1.1\r\n",
        "GET http://a?x HTTP/1.1\r\n",
        "OPTIONS * HTTP/1.1\r\n",
        "\r\nGET / HTTP/1.1\r\n",
        "GET / HTTP/1.1\n",
        "GET /\u{fc} HTTP/1.1\r\n",
    ]);
    let field = prop::sample::select(vec![
        "Host: a\r\n",
        "Host: b\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 007\r\n",
        "Content-Length:\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Connection: Upgrade, X-A\r\n",
        "Connection: keep-alive\r\n",
        "Connection: host, content-length, close\r\n",
        "Upgrade: websocket\r\n",
        "Expect: 100-continue\r\n",
        "X-A: b \t\r\n",
        "x-a:\r\n",
        "X-Forwarded-For: 1.1.1.1, x\r\n",
        "X-Octoporty-Request-Id: y\r\n",
        "\u{fc}: y\r\n",
        "X: \u{fc}\r\n",
        "X: y\n",
        "X: y\r",
        "X: y\0\r\n",
        "X : y\r\n",
        " folded\r\n",
        "\r\n",
    ]);
    let ok = prop::sample::select(vec!["Host: a\r\n", "Host: a:80\r\n", ""]);
    (line, ok, prop::collection::vec(field, 0..5), prop::sample::select(vec!["\r\n", "\r\nGET /", "\n", ""]))
        .prop_map(|(line, host, fields, end)| format!("{line}{host}{}{end}", fields.concat()).into_bytes())
}

fn nearly_response() -> impl Strategy<Value = Vec<u8>> {
    let line = prop::sample::select(vec![
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200\r\n",
        "HTTP/1.0 200 OK\r\n",
        "HTTP/1.1 204 \u{fc}\r\n",
        "HTTP/1.1 304 \r\n",
        "HTTP/1.1 101 \r\n",
        "HTTP/1.1 103 \r\n",
        "HTTP/1.1 200 OK\n",
    ]);
    let field = prop::sample::select(vec![
        "Content-Length: 5\r\n",
        "Content-Length: 05, 5\r\n",
        "Content-Length: 6\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: close, x-a\r\n",
        "Upgrade: websocket\r\n",
        "X-A : b \r\n",
        "X-A: \u{fc}\r\n",
        "X-A:\n",
        "X-A: b\rC: d\r\n",
        "\r\n",
    ]);
    (line, prop::collection::vec(field, 0..5), prop::sample::select(vec!["\r\n", "\r\nabc", "\n", ""]))
        .prop_map(|(line, fields, end)| format!("{line}{}{end}", fields.concat()).into_bytes())
}

proptest! {
    #[test]
    fn no_bytes_panic(input in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_request(&input);
        let _ = parse_response(&input, "GET");
        let _ = parse_tunnel_response(&input);
    }

    #[test]
    fn a_request_is_the_same_however_it_arrives(input in nearly_request()) {
        prop_assert_eq!(parse_progressively(&input), parse_request(&input));
    }

    #[test]
    fn a_response_is_the_same_however_it_arrives(input in nearly_response()) {
        let whole = parse_response(&input, "GET");
        for end in 0..input.len() {
            match parse_response(&input[..end], "GET") {
                Ok(None) => {}
                found => {
                    prop_assert_eq!(&found, &whole);
                    break;
                }
            }
        }
    }

    /// What we accept is accepted on every further hop, and has the same body there.
    #[test]
    fn what_is_accepted_means_the_same_on_every_hop(input in nearly_request()) {
        let Ok(Some((head, _))) = parse_request(&input) else { return Ok(()) };
        if head.host.is_none() {
            return Ok(());
        }
        let peer = IpAddr::from([127, 0, 0, 1]);
        let visitor = forwarded::visitor(&TrustedProxies::default(), peer, &head, "id");
        let mut tunnel = Vec::new();
        write_tunnel_request(&head, &visitor.extra(), &mut tunnel);
        let (inside, used) = parse_tunnel_request(&tunnel).expect("we wrote it").expect("all of it");
        prop_assert_eq!(used, tunnel.len());
        let chunked = head.framing == Framing::Chunked;
        prop_assert_eq!(inside.framing, if chunked { Framing::None } else { head.framing });
        prop_assert_eq!(inside.host.name(), head.host.name());
        prop_assert_eq!(inside.get("x-octoporty-request-id"), Some(b"id".as_slice()));
        let mut upstream = Vec::new();
        write_upstream_request(&inside, "u", chunked, head.upgrade, &mut upstream);
        let (outside, used) = parse_tunnel_request(&upstream).expect("we wrote it").expect("all of it");
        prop_assert_eq!(used, upstream.len());
        prop_assert_eq!(outside.framing, head.framing);
        prop_assert_eq!(outside.upgrade, head.upgrade);
        prop_assert_eq!(outside.host.name(), "u");
        prop_assert!(outside.keep_alive);
    }

    #[test]
    fn a_response_means_the_same_to_the_visitor(
        input in nearly_response(),
        method in prop::sample::select(vec!["GET", "HEAD"]),
    ) {
        let Ok(Some((head, _))) = parse_response(&input, method) else { return Ok(()) };
        let mut tunnel = Vec::new();
        write_tunnel_response(&head, &mut tunnel);
        let inside = parse_tunnel_response(&tunnel).expect("we wrote it");
        prop_assert_eq!(inside.status, head.status);
        let chunked = matches!(head.framing, Framing::Chunked | Framing::UntilClose);
        let mut out = Vec::new();
        write_visitor_response(&inside, chunked, HopConnection::Default, &mut out);
        let (outside, used) = parse_response(&out, method).expect("we wrote it").expect("all of it");
        prop_assert_eq!(used, out.len());
        prop_assert_eq!(outside.framing, if chunked { Framing::Chunked } else { head.framing });
        prop_assert_eq!(outside.reason, head.reason);
    }
}
