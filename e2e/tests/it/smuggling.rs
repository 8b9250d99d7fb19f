//! Whatever two parsers could read in two ways is refused, and the connection with it: RFC 9112 11.2.

use e2e::bytes::{excerpt, find};
use e2e::message::Broken;
use e2e::site::Site;

/// Sends `request` (`HOST` stands for the site's name) with another request behind it, and expects this status, the
/// end of the connection, and that not a byte reached the upstream.
fn refused(site: &Site, status: u16, request: &[u8]) {
    let shown = excerpt(&request[..request.len().min(200)]);
    let before = site.upstream.requests().len();
    let mut visitor = site.visitor();
    visitor.send(with_host(request, site.domain()));
    // What a gadget would turn into a second answer. The Gateway may have closed already.
    drop(visitor.try_send(format!("GET /smuggled HTTP/1.1\r\nHost: {}\r\n\r\n", site.domain())));
    let head = visitor.try_head("GET").unwrap_or_else(|broken| panic!("{shown}: no answer: {broken}"));
    assert_eq!(head.status(), status, "{shown}: {head:?}");
    assert!(head.lists("connection", "close"), "{shown}: {head:?}");
    let (rest, end) = visitor.all_until_end();
    assert_ne!(end, Broken::Silent, "{shown}: the connection stays open");
    assert!(find(&rest, b"HTTP/1.1 2").is_none(), "{shown}: a second answer: {}", excerpt(&rest));
    let seen = site.upstream.requests().split_off(before);
    assert!(seen.is_empty(), "{shown}: the upstream saw {seen:?}");
}

fn with_host(request: &[u8], domain: &str) -> Vec<u8> {
    let mut rest = request;
    let mut whole = Vec::new();
    while let Some(place) = find(rest, b"HOST") {
        whole.extend_from_slice(&rest[..place]);
        whole.extend_from_slice(domain.as_bytes());
        rest = &rest[place + 4..];
    }
    whole.extend_from_slice(rest);
    whole
}

#[test]
fn ambiguous_framing_is_refused() {
    let site = Site::new();
    let table: &[&[u8]] = &[
        b"POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 5, 6\r\n\r\nhello!",
        b"POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: +5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: -5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0x5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 5 5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: five\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length:\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 18446744073709551616\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 99999999999999999999999999\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.0\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ];
    for request in table {
        refused(&site, 400, request);
    }
}

#[test]
fn an_unknown_transfer_coding_is_not_implemented() {
    let site = Site::new();
    refused(
        &site,
        501,
        b"POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    );
}

#[test]
fn malformed_lines_are_refused() {
    let site = Site::new();
    let table: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\nHost: HOST\r\nX-Space : 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding : chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: HOST\r\n X-Folded: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\n X-First: 1\r\nHost: HOST\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: HOST\r\nX-Fold: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: HOST\r\nX-Fold: a\r\n\tb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: HOST\r\nX-Bare: a\rb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: HOST\r\nX-Nul: a\0b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: HOST\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: HOST\r\n: no name\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: HOST\r\nX(Name): 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: HOST\r\nX Name: 1\r\n\r\n",
        b"GET / HTTP/1.1\nHost: HOST\n\n",
        b"GET / HTTP/1.1\r\nHost: HOST\nX-Line: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: HOST\r\nX-Line: 1\n\r\n",
        b"GET / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0\r\n\n",
        b"GET /\r\nHost: HOST\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: HOST\r\n\r\n",
        b"GET / HTTP/1.1 \r\nHost: HOST\r\n\r\n",
        b"GET / / HTTP/1.1\r\nHost: HOST\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: HOST\r\n\r\n",
        b"GET\t/ HTTP/1.1\r\nHost: HOST\r\n\r\n",
        b"G(T / HTTP/1.1\r\nHost: HOST\r\n\r\n",
        b"GET / http/1.1\r\nHost: HOST\r\n\r\n",
        b"GET / HTTP/1.10\r\nHost: HOST\r\n\r\n",
        b"GET / HTTPS/1.1\r\nHost: HOST\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ];
    for request in table {
        refused(&site, 400, request);
    }
}

#[test]
fn an_ambiguous_host_is_refused() {
    let site = Site::new();
    let table: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: HOST\r\nHost: HOST\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: HOST\r\nHost: other.test\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: HOST, other.test\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: HOST/path\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: user@HOST\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: HOST:99999\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: HOST:port\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: http://HOST\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: HO ST\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a..b\r\n\r\n",
        b"GET http://other.test/ HTTP/1.1\r\nHost: HOST\r\n\r\n",
        b"GET http://HOST@other.test/ HTTP/1.1\r\nHost: HOST\r\n\r\n",
        b"GET HOST HTTP/1.1\r\nHost: HOST\r\n\r\n",
        b"GET ftp://HOST/ HTTP/1.1\r\nHost: HOST\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: HOST\r\n\r\n",
    ];
    for request in table {
        refused(&site, 400, request);
    }
}

#[test]
fn tunnels_and_other_versions_are_refused() {
    let site = Site::new();
    refused(&site, 405, b"CONNECT HOST:443 HTTP/1.1\r\nHost: HOST\r\n\r\n");
    refused(&site, 505, b"GET / HTTP/2.0\r\nHost: HOST\r\n\r\n");
    refused(&site, 505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
}

#[test]
fn heads_beyond_the_bounds_are_refused() {
    let site = Site::new();
    let many: String = (0..201).map(|n| format!("X-{n}: 1\r\n")).collect();
    refused(&site, 431, format!("GET / HTTP/1.1\r\nHost: HOST\r\n{many}\r\n").as_bytes());
    let large = "v".repeat(66_000);
    refused(&site, 431, format!("GET / HTTP/1.1\r\nHost: HOST\r\nX-Large: {large}\r\n\r\n").as_bytes());
    refused(&site, 414, format!("GET /{} HTTP/1.1\r\nHost: HOST\r\n\r\n", "t".repeat(17_000)).as_bytes());
    // Refused at the bound, not when the end comes, which never does.
    refused(&site, 431, format!("GET / HTTP/1.1\r\nHost: HOST\r\nX-Endless: {large}").as_bytes());
    refused(&site, 414, format!("GET /{}", "t".repeat(70_000)).as_bytes());
}

#[test]
fn malformed_chunks_never_end_well() {
    let site = Site::new();
    let table: &[&[u8]] = &[
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"\r\nhello\r\n0\r\n\r\n",
        b"g\r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nBad Name: 1\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX-Fold: 1\r\n 2\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX: a\rb\r\n\r\n",
        b"5;x=\0\r\nhello\r\n0\r\n\r\n",
    ];
    for body in table {
        let mut visitor = site.visitor();
        let head =
            format!("POST /upload HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n", site.domain());
        visitor.send([head.as_bytes(), body].concat());
        drop(visitor.try_send(format!("GET /smuggled HTTP/1.1\r\nHost: {}\r\n\r\n", site.domain())));
        // The request was on its way already: an error or the end of the connection, but no success.
        if let Ok(answer) = visitor.try_response("POST") {
            assert!(answer.status() >= 400, "{}: {answer:?}", body.escape_ascii());
            assert_ne!(
                visitor.ending(),
                Broken::Silent,
                "{}: the connection stays open",
                body.escape_ascii()
            );
        }
    }
    let events = site.upstream.journal().look(|events| format!("{events:?}"));
    assert!(!events.contains("upload complete") && !events.contains("/smuggled"), "{events}");
}

#[test]
fn an_endless_chunk_size_or_trailer_is_cut_off() {
    let site = Site::new();
    let head =
        format!("POST /upload HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n", site.domain());
    for start in ["5;", "0\r\nX-Endless: "] {
        let mut visitor = site.visitor();
        visitor.send(format!("{head}{start}"));
        // Far beyond the bounds; the verdict must come without waiting for an end.
        drop(visitor.try_send("x".repeat(256 * 1024)));
        if let Ok(answer) = visitor.try_response("POST") {
            assert!(answer.status() >= 400, "{start:?}: {answer:?}");
        }
        assert_ne!(visitor.ending(), Broken::Silent, "{start:?}: the connection stays open");
    }
    let events = site.upstream.journal().look(|events| format!("{events:?}"));
    assert!(!events.contains("upload complete"), "{events}");
}

#[test]
fn an_answer_that_could_be_read_in_two_ways_is_not_passed_on() {
    let site = Site::new();
    let table: &'static [&'static [u8]] = &[
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Nul: a\0b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Split: a\rSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
    ];
    for (n, answer) in table.iter().copied().enumerate() {
        let path = format!("/answer-{n}");
        site.upstream.on(&path, move |x| {
            x.send(answer)?;
            x.wait_gone()
        });
        let response = site.get(&path);
        assert_eq!(response.status(), 502, "{}: {response:?}", answer.escape_ascii());
        assert_eq!(response.json()["hop"], "upstream");
    }
}

#[test]
fn bytes_behind_an_answer_are_not_taken_for_the_next_answer() {
    let site = Site::new();
    site.upstream.on("/two", |x| {
        x.send(
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\noneHTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned",
        )?;
        x.wait_gone()
    });
    for _ in 0..10 {
        assert_eq!(site.get("/two").text(), "one");
        assert_eq!(site.get("/hello").text(), "hello\n");
    }
    let mut visitor = site.visitor();
    for _ in 0..10 {
        assert_eq!(visitor.request("HEAD", "/two", &[], None).status(), 200);
        assert_eq!(visitor.get("/hello").text(), "hello\n");
    }
}
