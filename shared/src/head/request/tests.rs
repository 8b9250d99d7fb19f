//! What requests are accepted, and how they are written.

use std::net::IpAddr;

use super::*;
use crate::forwarded::{self, TrustedProxies};
use crate::head::tests::{parse_progressively, request, text};

#[test]
fn a_request_is_taken_apart() {
    let head = request("GET /a?b=%2F HTTP/1.1\r\nHost: Demo.example:81\r\nX-A: 1 \r\nx-a:\t2\r\n\r\n");
    assert_eq!((head.method, head.target, head.version), ("GET", "/a?b=%2F", Version::Http11));
    assert_eq!(head.host.authority(), "demo.example:81");
    assert_eq!(head.get("HOST"), Some(b"Demo.example:81".as_slice()));
    assert_eq!(head.get("x-a"), Some(b"1".as_slice()), "the first of two");
    assert_eq!(head.fields[2], Field { name: "x-a", value: b"2" });
    assert_eq!(head.framing, Framing::None);
    assert!(head.keep_alive && !head.upgrade && !head.expect_continue);
}

#[test]
fn bytes_after_the_head_are_left_alone() {
    let input = b"\r\n\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET";
    let (head, used) = parse_request(input).expect("is fine").expect("is complete");
    assert_eq!(&input[used..], b"abcGET");
    assert_eq!(head.framing, Framing::Length(3));
}

#[test]
fn framing_persistence_and_wishes_are_found() {
    let with = |version: &str, fields: &str| {
        let text = format!("POST / HTTP/{version}\r\nHost: a\r\n{fields}\r\n");
        let head = request(&text);
        (head.framing, head.keep_alive, head.expect_continue, head.upgrade)
    };
    let length = "Content-Length: 18446744073709551615\r\n";
    assert_eq!(with("1.1", length), (Framing::Length(u64::MAX), true, false, false));
    assert_eq!(with("1.1", "transfer-ENCODING: Chunked\r\n"), (Framing::Chunked, true, false, false));
    assert_eq!(with("1.1", "Connection: x, Close\r\n"), (Framing::None, false, false, false));
    assert_eq!(with("1.0", ""), (Framing::None, false, false, false));
    assert_eq!(with("1.0", "Connection: keep-alive\r\n"), (Framing::None, true, false, false));
    assert_eq!(
        with("1.0", "Connection: keep-alive\r\nConnection: close\r\n"),
        (Framing::None, false, false, false)
    );
    let expect = "Expect: 100-Continue\r\nContent-Length: 1\r\n";
    assert_eq!(with("1.1", expect), (Framing::Length(1), true, true, false));
    assert_eq!(with("1.0", expect), (Framing::Length(1), false, false, false));
    assert_eq!(
        with("1.1", "Expect: 100-continue\r\n"),
        (Framing::None, true, false, false),
        "nothing to wait for"
    );
    let upgrade = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n";
    assert_eq!(with("1.1", upgrade), (Framing::None, true, false, true));
    assert_eq!(with("1.0", upgrade), (Framing::None, true, false, false));
    assert_eq!(with("1.1", "Upgrade: websocket\r\n"), (Framing::None, true, false, false));
    assert_eq!(with("1.1", "Connection: upgrade\r\n"), (Framing::None, true, false, false));
}

#[test]
fn targets_of_every_form_are_understood() {
    for (line, target, host) in [
        ("GET / HTTP/1.1", "/", "a.org"),
        ("GET //b/%zz?x=[]|{}^\"< HTTP/1.1", "//b/%zz?x=[]|{}^\"<", "a.org"),
        ("GET /\u{fc} HTTP/1.1", "/\u{fc}", "a.org"),
        ("OPTIONS * HTTP/1.1", "*", "a.org"),
        ("GET http://A.org/x?y HTTP/1.1", "/x?y", "a.org"),
        ("GET HTTP://a.org:80 HTTP/1.1", "/", "a.org:80"),
        ("GET http://a.org?y/z HTTP/1.1", "?y/z", "a.org"),
        ("OPTIONS http://a.org HTTP/1.1", "*", "a.org"),
        ("PROPFIND /x HTTP/1.1", "/x", "a.org"),
    ] {
        let text = format!("{line}\r\nHost: a.org\r\n\r\n");
        let head = request(&text);
        assert_eq!((head.target, head.host.authority()), (target, host), "{line}");
    }
    let head = request("GET https://a.org:443/ HTTP/1.1\r\nHost: A.org\r\n\r\n");
    assert_eq!(head.host.authority(), "a.org:443", "the target wins, and 443 is what https means anyway");
    let mut out = Vec::new();
    write_tunnel_request(
        &request("GET http://a.org?y HTTP/1.1\r\nHost: a.org\r\n\r\n"),
        &Extra::none(),
        &mut out,
    );
    assert_eq!(text(&out), "GET /?y HTTP/1.1\r\nHost: a.org\r\n\r\n");
}

#[test]
fn http_1_0_may_come_without_host() {
    assert!(request("GET / HTTP/1.0\r\n\r\n").host.is_none());
    assert!(request("GET / HTTP/1.0\r\nHost:\r\n\r\n").host.is_none());
    assert_eq!(request("GET / HTTP/1.0\r\nHost: a\r\n\r\n").host.name(), "a");
    let head = request("GET http://a:81/x HTTP/1.0\r\n\r\n");
    let mut out = Vec::new();
    write_tunnel_request(&head, &Extra::none(), &mut out);
    assert_eq!(text(&out), "GET /x HTTP/1.1\r\nHost: a:81\r\n\r\n", "the tunnel form always has one");
}

/// What two parsers could read differently. `H` stands for a `Host` line.
const SMUGGLED: &[(&str, RequestFault)] = &[
    // Lengths.
    ("POST / HTTP/1.1|H|Content-Length: 5|Transfer-Encoding: chunked||", RequestFault::LengthAndCoding),
    ("POST / HTTP/1.1|H|Transfer-Encoding: chunked|Content-Length: 5||", RequestFault::LengthAndCoding),
    ("POST / HTTP/1.1|H|Transfer-Encoding: x|Content-Length: 0||", RequestFault::LengthAndCoding),
    ("POST / HTTP/1.0|H|Transfer-Encoding: chunked|Content-Length: 5||", RequestFault::LengthAndCoding),
    ("POST / HTTP/1.1|H|Content-Length: 5|Content-Length: 6||", RequestFault::LengthRepeated),
    ("POST / HTTP/1.1|H|Content-Length: 5|content-length: 5||", RequestFault::LengthRepeated),
    ("POST / HTTP/1.1|H|Content-Length: 5, 5||", RequestFault::LengthInvalid),
    ("POST / HTTP/1.1|H|Content-Length: 5,6||", RequestFault::LengthInvalid),
    ("POST / HTTP/1.1|H|Content-Length: +5||", RequestFault::LengthInvalid),
    ("POST / HTTP/1.1|H|Content-Length: -5||", RequestFault::LengthInvalid),
    ("POST / HTTP/1.1|H|Content-Length: 0x5||", RequestFault::LengthInvalid),
    ("POST / HTTP/1.1|H|Content-Length: 5 5||", RequestFault::LengthInvalid),
    ("POST / HTTP/1.1|H|Content-Length: 5_0||", RequestFault::LengthInvalid),
    ("POST / HTTP/1.1|H|Content-Length: 5;||", RequestFault::LengthInvalid),
    ("POST / HTTP/1.1|H|Content-Length: 1e1||", RequestFault::LengthInvalid),
    ("POST / HTTP/1.1|H|Content-Length: \u{662}||", RequestFault::LengthInvalid),
    ("POST / HTTP/1.1|H|Content-Length:||", RequestFault::LengthInvalid),
    ("POST / HTTP/1.1|H|Content-Length: \"5\"||", RequestFault::LengthInvalid),
    ("POST / HTTP/1.1|H|Content-Length: 18446744073709551616||", RequestFault::LengthInvalid),
    ("POST / HTTP/1.1|H|Content-Length : 5||", RequestFault::FieldName),
    ("POST / HTTP/1.1|H|Content-Length\t: 5||", RequestFault::FieldName),
    ("POST / HTTP/1.1|H|Content-Length: 5\x0b||", RequestFault::FieldValue),
    // Codings.
    ("POST / HTTP/1.0|H|Transfer-Encoding: chunked||", RequestFault::CodingInHttp10),
    ("POST / HTTP/1.1|H|Transfer-Encoding: gzip, chunked||", RequestFault::CodingUnknown),
    (
        "POST / HTTP/1.1|H|Transfer-Encoding: gzip;q=1|Transfer-Encoding: chunked||",
        RequestFault::CodingUnknown,
    ),
    ("POST / HTTP/1.1|H|Transfer-Encoding: chunked, gzip||", RequestFault::Coding),
    ("POST / HTTP/1.1|H|Transfer-Encoding: chunked|Transfer-Encoding: x||", RequestFault::Coding),
    ("POST / HTTP/1.1|H|Transfer-Encoding: chunked, chunked||", RequestFault::Coding),
    ("POST / HTTP/1.1|H|Transfer-Encoding: chunked|Transfer-Encoding: chunked||", RequestFault::Coding),
    ("POST / HTTP/1.1|H|Transfer-Encoding: identity||", RequestFault::Coding),
    ("POST / HTTP/1.1|H|Transfer-Encoding: xchunked||", RequestFault::Coding),
    ("POST / HTTP/1.1|H|Transfer-Encoding: chunkedx||", RequestFault::Coding),
    ("POST / HTTP/1.1|H|Transfer-Encoding: chunked;a=b||", RequestFault::Coding),
    ("POST / HTTP/1.1|H|Transfer-Encoding: \"chunked\"||", RequestFault::Coding),
    ("POST / HTTP/1.1|H|Transfer-Encoding: chunked,||", RequestFault::Coding),
    ("POST / HTTP/1.1|H|Transfer-Encoding: ,chunked||", RequestFault::Coding),
    ("POST / HTTP/1.1|H|Transfer-Encoding: g zip, chunked||", RequestFault::Coding),
    ("POST / HTTP/1.1|H|Transfer-Encoding:||", RequestFault::Coding),
    ("POST / HTTP/1.1|H|Transfer-Encoding: \x0bchunked||", RequestFault::FieldValue),
    ("POST / HTTP/1.1|H|Transfer-Encoding : chunked||", RequestFault::FieldName),
    ("POST / HTTP/1.1|H|Transfer-Encoding|: chunked||", RequestFault::FieldName),
    // Lines.
    ("POST / HTTP/1.1\nHost: a\n\n", RequestFault::LineEnd),
    ("POST / HTTP/1.1\nHost: a||", RequestFault::LineEnd),
    ("POST / HTTP/1.1|Host: a\n\n", RequestFault::LineEnd),
    ("POST / HTTP/1.1|Host: a|\n", RequestFault::LineEnd),
    ("POST / HTTP/1.1|Host: a\n|", RequestFault::LineEnd),
    ("POST / HTTP/1.1|X: y\nHost: a||", RequestFault::LineEnd),
    ("POST / HTTP/1.1|X:\nHost: a||", RequestFault::LineEnd),
    ("POST / HTTP/1.1|X: y \nHost: a||", RequestFault::LineEnd),
    ("\nPOST / HTTP/1.1|H||", RequestFault::LineEnd),
    ("\rPOST / HTTP/1.1|H||", RequestFault::LineEnd),
    ("|||||POST / HTTP/1.1|H||", RequestFault::EmptyLines),
    ("POST / HTTP/1.1|H|X: y\rContent-Length: 5||", RequestFault::FieldValue),
    ("POST / HTTP/1.1|H|X: y\0||", RequestFault::FieldValue),
    ("POST / HTTP/1.1|H|X: y\x7f||", RequestFault::FieldValue),
    ("POST / HTTP/1.1|H|X\0: y||", RequestFault::FieldName),
    ("POST / HTTP/1.1|H|X: y| folded||", RequestFault::FieldName),
    ("POST / HTTP/1.1| H: x|H||", RequestFault::FieldName),
    ("POST / HTTP/1.1|H|: y||", RequestFault::FieldName),
    ("POST / HTTP/1.1|H|X||", RequestFault::FieldName),
    ("POST / HTTP/1.1|H|X(: y||", RequestFault::FieldName),
    ("POST / HTTP/1.1|H|\u{fc}: y||", RequestFault::FieldName),
    ("POST / HTTP/1.1\r\r\nHost: a||", RequestFault::LineEnd),
    // Request lines.
    ("POST /|H||", RequestFault::RequestLine),
    ("POST|H||", RequestFault::RequestLine),
    (" POST / HTTP/1.1|H||", RequestFault::RequestLine),
    ("POST  / HTTP/1.1|H||", RequestFault::RequestLine),
    ("POST /  HTTP/1.1|H||", RequestFault::RequestLine),
    ("POST / HTTP/1.1 |H||", RequestFault::LineEnd),
    ("POST\t/ HTTP/1.1|H||", RequestFault::RequestLine),
    ("POST /\t HTTP/1.1|H||", RequestFault::RequestLine),
    ("POST / x HTTP/1.1|H||", RequestFault::RequestLine),
    ("POST /\0 HTTP/1.1|H||", RequestFault::RequestLine),
    ("PO(ST / HTTP/1.1|H||", RequestFault::RequestLine),
    ("POST / http/1.1|H||", RequestFault::RequestLine),
    ("POST / HTTP/x|H||", RequestFault::RequestLine),
    ("POST / HTTP/1.2|H||", RequestFault::Version),
    ("POST / HTTP/0.9|H||", RequestFault::Version),
    ("POST / HTTP/2|H||", RequestFault::Version),
    ("PRI * HTTP/2.0||SM||", RequestFault::Version),
    // Targets.
    ("CONNECT a:443 HTTP/1.1|H||", RequestFault::Connect),
    ("GET * HTTP/1.1|H||", RequestFault::Target),
    ("OPTIONS ** HTTP/1.1|H||", RequestFault::Target),
    ("GET a HTTP/1.1|H||", RequestFault::Target),
    ("GET a:80 HTTP/1.1|H||", RequestFault::Target),
    ("GET ?x HTTP/1.1|H||", RequestFault::Target),
    ("GET /a#b HTTP/1.1|H||", RequestFault::Target),
    ("GET ftp://a/ HTTP/1.1|H||", RequestFault::Target),
    ("GET http:/a/ HTTP/1.1|H||", RequestFault::Target),
    ("GET http:///x HTTP/1.1|H||", RequestFault::Target),
    ("GET http://u@a/ HTTP/1.1|H||", RequestFault::Target),
    ("GET http://b/ HTTP/1.1|H||", RequestFault::HostMismatch),
    ("GET http://a:81/ HTTP/1.1|H||", RequestFault::HostMismatch),
    ("GET https://a/ HTTP/1.1|Host: a:80||", RequestFault::HostMismatch),
    // Hosts.
    ("GET / HTTP/1.1||", RequestFault::HostMissing),
    ("GET http://a/ HTTP/1.1||", RequestFault::HostMissing),
    ("GET / HTTP/1.1|H|H||", RequestFault::HostRepeated),
    ("GET / HTTP/1.1|H|hOST: b||", RequestFault::HostRepeated),
    ("GET / HTTP/1.0|H|H||", RequestFault::HostRepeated),
    ("GET / HTTP/1.1|Host:||", RequestFault::Host(HostFault::Empty)),
    ("GET / HTTP/1.1|Host: a, b||", RequestFault::Host(HostFault::Character)),
    ("GET / HTTP/1.1|Host: a/b||", RequestFault::Host(HostFault::Character)),
    ("GET / HTTP/1.1|Host: u@a||", RequestFault::Host(HostFault::Character)),
    ("GET / HTTP/1.1|Host: a:x||", RequestFault::Host(HostFault::Port)),
    ("GET / HTTP/1.1|Host : a||", RequestFault::FieldName),
];

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    for (pattern, fault) in SMUGGLED {
        let lines: Vec<&str> =
            pattern.split('|').map(|line| if line == "H" { "Host: a" } else { line }).collect();
        let input = lines.join("\r\n");
        assert_eq!(parse_request(input.as_bytes()), Err(*fault), "{input:?}");
        assert_eq!(parse_progressively(input.as_bytes()), Err(*fault), "{input:?}, byte by byte");
        assert_eq!(parse_tunnel_request(input.as_bytes()), Err(*fault), "{input:?}, in the tunnel");
        assert!(!fault.to_string().ends_with('.'));
    }
}

#[test]
fn faults_have_their_status() {
    for (fault, status) in [
        (RequestFault::LengthAndCoding, 400),
        (RequestFault::Connect, 405),
        (RequestFault::TargetTooLong, 414),
        (RequestFault::HeadTooLarge, 431),
        (RequestFault::TooManyFields, 431),
        (RequestFault::CodingUnknown, 501),
        (RequestFault::MethodTooLong, 501),
        (RequestFault::Version, 505),
    ] {
        assert_eq!(fault.status(), status, "{fault}");
    }
}

#[test]
fn a_target_has_a_bound_even_when_it_never_ends() {
    let most = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(MAX_TARGET - 1));
    assert_eq!(request(&most).target.len(), MAX_TARGET);
    let over = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(MAX_TARGET));
    assert_eq!(parse_request(over.as_bytes()), Err(RequestFault::TargetTooLong));
    assert_eq!(parse_request(&over.as_bytes()[..MAX_TARGET + 4]), Ok(None));
    assert_eq!(parse_request(&over.as_bytes()[..MAX_TARGET + 5]), Err(RequestFault::TargetTooLong));
    let broken = over.replacen("/x", "/\0", 1);
    assert_eq!(parse_request(broken.as_bytes()), Err(RequestFault::RequestLine), "what comes first counts");
}

#[test]
fn a_method_has_a_bound() {
    let method = |length: usize| format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "M".repeat(length));
    assert_eq!(request(&method(MAX_METHOD)).method.len(), MAX_METHOD);
    assert_eq!(parse_progressively(method(MAX_METHOD + 1).as_bytes()), Err(RequestFault::MethodTooLong));
    assert_eq!(parse_request("\u{fc}".repeat(100).as_bytes()), Err(RequestFault::RequestLine));
}

#[test]
fn a_head_has_a_bound_even_when_it_never_ends() {
    let sized = |size: usize| {
        let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        format!("{start}{}\r\n\r\n", "x".repeat(size - start.len() - 4))
    };
    assert_eq!(request(&sized(MAX_HEAD)).fields.len(), 2);
    let over = sized(MAX_HEAD + 1);
    assert_eq!(parse_request(over.as_bytes()), Err(RequestFault::HeadTooLarge));
    assert_eq!(parse_request(&over.as_bytes()[..MAX_HEAD - 1]), Ok(None));
    assert_eq!(parse_request(&over.as_bytes()[..MAX_HEAD]), Err(RequestFault::HeadTooLarge));
    assert!(parse_tunnel_request(over.as_bytes()).is_ok_and(|found| found.is_some()));
    assert_eq!(parse_tunnel_request(sized(MAX_TUNNEL_HEAD + 1).as_bytes()), Err(RequestFault::HeadTooLarge));
}

#[test]
fn the_number_of_fields_has_a_bound() {
    let fields = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count - 1));
    assert_eq!(request(&fields(MAX_FIELDS)).fields.len(), MAX_FIELDS);
    for count in [MAX_FIELDS + 1, MAX_TUNNEL_FIELDS + 1] {
        assert_eq!(parse_request(fields(count).as_bytes()), Err(RequestFault::TooManyFields));
    }
    assert!(parse_tunnel_request(fields(MAX_FIELDS + 6).as_bytes()).is_ok_and(|found| found.is_some()));
}

#[test]
fn the_largest_head_fits_the_tunnel() {
    let chain = vec!["2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff"; 60].join(",");
    let start = format!("GET / HTTP/1.0\r\nHost: a\r\nX-Forwarded-For: {chain}\r\n{}", "X:\r\n".repeat(197));
    let input = format!("{start}Y: {}\r\n\r\n", "y".repeat(MAX_HEAD - start.len() - 7));
    let head = request(&input);
    assert_eq!((head.fields.len(), input.len()), (MAX_FIELDS, MAX_HEAD));
    let peer = IpAddr::from([127, 0, 0, 1]);
    let visitor = forwarded::visitor(&TrustedProxies::default(), peer, &head, "id");
    let mut out = Vec::new();
    write_tunnel_request(&head, &visitor.extra(), &mut out);
    assert!(parse_tunnel_request(&out).is_ok_and(|found| found.is_some()));
}

fn tunnel_form(input: &str) -> String {
    let head = request(input);
    let visitor =
        forwarded::visitor(&TrustedProxies::default(), IpAddr::from([203, 0, 113, 5]), &head, "our-id");
    let mut out = Vec::new();
    write_tunnel_request(&head, &visitor.extra(), &mut out);
    text(&out).to_owned()
}

const ADDED: &str = "X-Forwarded-For: 203.0.113.5\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: A.org\r\n\
                     X-Real-IP: 203.0.113.5\r\nX-Octoporty-Request-Id: our-id\r\n\r\n";

fn check_tunnel_form(received: &str, expected: &str) {
    let input = format!("{}\r\n", received.replace('|', "\r\n"));
    assert_eq!(tunnel_form(&input), format!("{}{ADDED}", expected.replace('|', "\r\n")));
}

#[test]
fn what_is_for_the_upstream_keeps_bytes_order_case_and_duplicates() {
    check_tunnel_form(
        "PURGE /%41?\u{fc} HTTP/1.1|aCCEPT:  */* |Host: A.org|Cookie: a|X-B:|Cookie: b|x-utf: \u{fc}|Trailer: X|",
        "PURGE /%41?\u{fc} HTTP/1.1|aCCEPT: */*|Host: A.org|Cookie: a|X-B: |Cookie: b|x-utf: \u{fc}|Trailer: X|",
    );
}

#[test]
fn what_is_for_one_hop_stays_behind() {
    check_tunnel_form(
        "POST / HTTP/1.1|Host: A.org|Connection: close, X-Own, Host|Keep-Alive: timeout=5|TE: trailers|\
         Proxy-Connection: x|Proxy-Authorization: x|Transfer-Encoding: chunked|Upgrade: h2c|x-own: 1|X-Other: 2|",
        "POST / HTTP/1.1|Host: A.org|X-Other: 2|",
    );
    check_tunnel_form(
        "POST / HTTP/1.1|Host: A.org|Connection: Content-Length|Content-Length: 007|Expect: 100-continue|",
        "POST / HTTP/1.1|Host: A.org|Content-Length: 7|Expect: 100-continue|",
    );
    check_tunnel_form(
        "GET / HTTP/1.1|Host: A.org|Connection: Upgrade|Upgrade: websocket|Sec-WebSocket-Key: x|",
        "GET / HTTP/1.1|Host: A.org|Upgrade: websocket|Sec-WebSocket-Key: x|",
    );
    check_tunnel_form(
        "POST / HTTP/1.0|Host: A.org|Expect: 100-continue|Content-Length: 1|",
        "POST / HTTP/1.1|Host: A.org|Content-Length: 1|",
    );
}

#[test]
fn only_the_gateway_says_who_the_visitor_is() {
    check_tunnel_form(
        "GET / HTTP/1.1|Host: A.org|X-Forwarded-For: 1|x-forwarded-proto: https|X-Forwarded-Host: b|X-Real-Ip: 1|\
         Forwarded: for=1|X_Forwarded_For: 1|X-Forwarded_Host: b|X-Octoporty-Mapping-Id: 1|\
         X_Octoporty_Request_Id: 1|X-Forwarded-Port: 1|",
        "GET / HTTP/1.1|Host: A.org|X-Forwarded-Port: 1|",
    );
}

#[test]
fn a_visitors_request_id_is_a_label_if_it_is_well_formed() {
    check_tunnel_form(
        "GET / HTTP/1.1|x-octoporty-request-id: probe_1.a-Z|Host: A.org|",
        "GET / HTTP/1.1|X-Request-Id: probe_1.a-Z|Host: A.org|",
    );
    check_tunnel_form(
        "GET / HTTP/1.1|Host: A.org|X-Octoporty-Request-Id: a|X-Octoporty-Request-Id: b|",
        "GET / HTTP/1.1|Host: A.org|X-Request-Id: a|",
    );
    check_tunnel_form(
        "GET / HTTP/1.1|Host: A.org|X-Octoporty-Request-Id: a|x-request-id: mine|",
        "GET / HTTP/1.1|Host: A.org|x-request-id: mine|",
    );
    let long = "a".repeat(65);
    for wrong in ["", "a b", "a/b", "\u{fc}", &long] {
        let received = format!("GET / HTTP/1.1|Host: A.org|X-Octoporty-Request-Id: {wrong}|");
        check_tunnel_form(&received, "GET / HTTP/1.1|Host: A.org|");
    }
}

#[test]
fn the_upstream_gets_the_host_of_the_mapping() {
    let check = |tunnel: &str, chunked: bool, upgrade: bool, expected: &str| {
        let input = format!("{}\r\n", tunnel.replace('|', "\r\n"));
        let (head, _) = parse_tunnel_request(input.as_bytes()).expect("is fine").expect("is complete");
        let mut out = Vec::new();
        write_upstream_request(&head, "10.0.0.5:8080", chunked, upgrade, &mut out);
        assert_eq!(text(&out), format!("{}\r\n", expected.replace('|', "\r\n")));
    };
    check(
        "GET / HTTP/1.1|A: b|host: a|X-Real-IP: 1.1.1.1|X-Octoporty-Request-Id: 1|Content-Length: 0|",
        false,
        false,
        "GET / HTTP/1.1|A: b|host: 10.0.0.5:8080|X-Real-IP: 1.1.1.1|X-Octoporty-Request-Id: 1|Content-Length: 0|",
    );
    check(
        "POST / HTTP/1.1|Host: a|Upgrade: h2c|Connection: x|",
        true,
        false,
        "POST / HTTP/1.1|Host: 10.0.0.5:8080|Transfer-Encoding: chunked|",
    );
    check(
        "GET / HTTP/1.1|Host: a|Upgrade: websocket|Content-Length: 5|",
        true,
        true,
        "GET / HTTP/1.1|Host: 10.0.0.5:8080|Upgrade: websocket|Transfer-Encoding: chunked|Connection: Upgrade|",
    );
    check(
        "GET / HTTP/1.0|Content-Length: 5|",
        false,
        false,
        "GET / HTTP/1.1|Host: 10.0.0.5:8080|Content-Length: 5|",
    );
}
