//! Every kind of HTTP message arrives as it was sent: heads, statuses, fields, in both directions.

use e2e::bytes::{find, pattern};
use e2e::message::{Broken, Head};
use e2e::site::{Site, is_direct};

/// The request head as the upstream saw it.
fn seen(site: &Site, method: &str, target: &str, fields: &[(&str, &str)]) -> Head {
    let answer = site.request(method, target, fields, None);
    assert_eq!(answer.status(), 200, "{answer:?}");
    site.upstream.requests().pop().expect("the request was answered")
}

#[test]
fn a_request_is_answered() {
    let site = Site::new();
    let answer = site.get("/hello");
    assert_eq!((answer.status(), answer.text().as_str()), (200, "hello\n"));
}

#[test]
fn the_path_is_never_decoded_or_encoded() {
    let site = Site::new();
    let targets = [
        "/a%2Fb/../c/./d//e",
        "/%zz%",
        "/caf%C3%A9?x=%20+%2B&y=[1]&z",
        "/;a=b,c/(d)/'e'/!*$&@:~_-.",
        "/?",
        "/??a?b",
        "//double//slash//",
        "/a?http://elsewhere.example/x",
        "/%00%0d%0a",
    ];
    for target in targets {
        assert_eq!(seen(&site, "GET", target, &[]).target(), target);
    }
}

#[test]
fn a_long_target_and_a_large_head_pass() {
    let site = Site::new();
    let target = format!("/{}", "x".repeat(15_000));
    let value = "v".repeat(20_000);
    let head = seen(&site, "GET", &target, &[("X-Large", &value), ("X-Larger", &value)]);
    assert_eq!(head.target(), target);
    assert_eq!((head.get("x-large"), head.get("x-larger")), (Some(value.clone()), Some(value)));
}

#[test]
fn any_method_passes() {
    let site = Site::new();
    for method in ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "TRACE", "QUERY", "x-My~method!"] {
        assert_eq!(seen(&site, method, "/any", &[]).method(), method);
    }
}

#[test]
fn options_asterisk_passes() {
    let site = Site::new();
    assert_eq!(seen(&site, "OPTIONS", "*", &[]).target(), "*");
}

#[test]
fn request_fields_keep_order_case_duplicates_and_bytes() {
    let site = Site::new();
    let mut visitor = site.visitor();
    let lines: &[u8] = b"X-One: 1\r\nx-tWO: b\r\nX-One: 1\r\nX-Latin: caf\xe9\r\nX-Utf8: \xe2\x82\xac\r\nX-Empty: \r\n\
        X-Spaces: a  b\tc\r\nX-Punctuation: \"quoted, \\\" text\"; q=0.5\r\nX_Underscore: yes\r\nX-One: 2\r\n";
    visitor.send(
        [format!("GET /any HTTP/1.1\r\nHost: {}\r\n", site.domain()).as_bytes(), lines, b"\r\n"].concat(),
    );
    assert_eq!(visitor.response("GET").status(), 200);
    let head = site.upstream.requests().pop().expect("answered");
    let shown = head.raw.escape_ascii().to_string();
    assert!(find(&head.raw, &lines[..lines.len() - 2]).is_some(), "{shown}");
}

#[test]
fn response_fields_keep_order_case_duplicates_and_bytes() {
    let answer = Site::new().get("/headers");
    let lines: &[u8] =
        b"X-Twice: one\r\nx-CASE: kept\r\nX-Twice: two\r\nX-Latin: caf\xe9\r\nX-Utf8: \xe2\x82\xac\r\n\
        X-Empty: \r\nX-Twice: one\r\nServer: test\r\n";
    assert!(find(&answer.head.raw, lines).is_some(), "{:?}", answer.head);
    assert_eq!(answer.head.start, b"HTTP/1.1 200 Bien s\xc3\xbbr");
    assert_eq!(answer.text(), "ok");
}

#[test]
fn date_content_type_and_server_are_never_invented() {
    let answer = Site::new().get("/status?code=200");
    for name in ["date", "content-type", "server", "via", "cache-control", "vary"] {
        assert_eq!(answer.get(name), None, "{:?}", answer.head);
    }
}

#[test]
fn every_status_passes_with_its_body() {
    let site = Site::new();
    let mut visitor = site.visitor();
    for code in [
        200, 201, 202, 203, 206, 207, 226, 299, 300, 301, 400, 401, 403, 404, 409, 410, 418, 429, 451, 499,
        500, 502, 503, 504, 511, 599, 700, 999,
    ] {
        let answer = visitor.get(&format!("/status?code={code}"));
        assert_eq!((answer.status(), answer.text()), (code, format!("status {code}")));
    }
}

#[test]
fn answers_without_a_body_leave_the_connection_usable() {
    let site = Site::new();
    let mut visitor = site.visitor();
    let none = visitor.get("/status?code=204");
    assert_eq!((none.status(), none.get("x-here").as_deref()), (204, Some("yes")));
    assert_eq!(none.get("content-length"), None, "RFC 9110 8.6: none in a 204");
    assert_eq!(none.get("transfer-encoding"), None, "RFC 9112 6.1: none in a 204");
    let unchanged = visitor.get("/status?code=304");
    assert_eq!((unchanged.status(), unchanged.get("etag").as_deref()), (304, Some("\"v1\"")));
    assert_eq!(unchanged.get("content-length").as_deref(), Some("1234"), "kept, though no body follows");
    assert_eq!(visitor.get("/hello").text(), "hello\n");
}

#[test]
fn head_is_answered_with_the_length_and_no_body() {
    let site = Site::new();
    let mut visitor = site.visitor();
    let answer = visitor.request("HEAD", "/bytes?n=123456", &[], None);
    assert_eq!((answer.status(), answer.get("content-length").as_deref()), (200, Some("123456")));
    assert!(answer.body.is_empty());
    assert_eq!(visitor.get("/hello").text(), "hello\n", "the connection is usable");
}

#[test]
fn a_reason_phrase_may_be_missing() {
    let answer = Site::new().get("/bare");
    assert_eq!((answer.status(), answer.text().as_str()), (200, "ok"));
    assert!(answer.head.start.starts_with(b"HTTP/1.1 200"), "{:?}", answer.head);
}

#[test]
fn interim_answers_pass() {
    let site = Site::new();
    let mut visitor = site.visitor();
    let answer = visitor.get("/early-hints");
    let interim: Vec<_> = answer.interim.iter().map(Head::status).collect();
    assert_eq!(interim, [103, 102]);
    assert_eq!(answer.interim[0].get("link").as_deref(), Some("</style.css>; rel=preload"));
    assert_eq!(answer.text(), "after the hints");
    assert_eq!(visitor.get("/hello").text(), "hello\n");
}

#[test]
fn redirects_are_not_followed_or_changed() {
    let answer = Site::new().get("/redirect");
    assert_eq!(answer.status(), 302);
    assert_eq!(answer.get("location").as_deref(), Some("http://elsewhere.example/a%20b?c=d"));
    assert_eq!(answer.text(), "moved");
}

#[test]
fn cookies_pass_untouched_and_are_not_shared() {
    let site = Site::new();
    let mut visitor = site.visitor();
    let answer = visitor.request("GET", "/cookies", &[("Cookie", "x=1; y=\"2\""), ("cookie", "z=3")], None);
    assert_eq!(answer.text(), "x=1; y=\"2\" | z=3");
    assert_eq!(answer.head.all("set-cookie"), ["a=1; Path=/; HttpOnly", "b=2; SameSite=Lax", "a=3"]);
    assert_eq!(visitor.get("/cookies").text(), "", "nobody remembers the cookies of the answer");
}

#[test]
fn ranges_and_conditions_pass() {
    let site = Site::new();
    let mut visitor = site.visitor();
    let part = visitor.request("GET", "/ranges", &[("Range", "bytes=1000-1999")], None);
    assert_eq!((part.status(), part.get("content-range").as_deref()), (206, Some("bytes 1000-1999/10000")));
    assert_eq!(part.body, pattern(1000, 1000));
    let beyond = visitor.request("GET", "/ranges", &[("Range", "bytes=20000-20001")], None);
    assert_eq!((beyond.status(), beyond.get("content-range").as_deref()), (416, Some("bytes */10000")));
    let whole = visitor.get("/ranges");
    assert_eq!((whole.status(), whole.get("accept-ranges").as_deref()), (200, Some("bytes")));
    let fields =
        [("If-None-Match", "\"v1\", W/\"v2\""), ("If-Modified-Since", "Sat, 29 Oct 1994 19:43:31 GMT")];
    visitor.request("GET", "/any", &fields, None);
    let head = site.upstream.requests().pop().expect("answered");
    assert_eq!(head.get("if-none-match").as_deref(), Some("\"v1\", W/\"v2\""));
}

#[test]
fn encodings_pass_untouched() {
    let site = Site::new();
    let answer = site.request("GET", "/gzip", &[("Accept-Encoding", "gzip, br;q=0.5")], None);
    assert_eq!(answer.get("content-encoding").as_deref(), Some("gzip"));
    assert_eq!((answer.body.len(), &answer.body[..3]), (20, &[0x1f, 0x8b, 8][..]));
    let head = site.upstream.requests().pop().expect("answered");
    assert_eq!(head.get("accept-encoding").as_deref(), Some("gzip, br;q=0.5"));
    assert_eq!(
        seen(&site, "GET", "/any", &[]).get("accept-encoding"),
        None,
        "nothing is asked for on its own"
    );
}

#[test]
fn a_connection_serves_many_requests() {
    let site = Site::new();
    let mut visitor = site.visitor();
    for n in 0..200 {
        assert_eq!(visitor.get(&format!("/bytes?n={n}")).body, pattern(0, n));
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let site = Site::new();
    let mut visitor = site.visitor();
    let host = site.domain();
    let mut burst = String::new();
    for n in 1..=20 {
        burst.push_str(&format!("GET /bytes?n={n} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        burst.push_str(&format!(
            "POST /echo HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\n\r\nbody{}",
            n % 10
        ));
    }
    visitor.send(&burst);
    for n in 1..=20 {
        assert_eq!(visitor.response("GET").body, pattern(0, n));
        assert_eq!(visitor.response("POST").text(), format!("body{}", n % 10));
    }
}

#[test]
fn a_request_may_arrive_byte_by_byte() {
    let site = Site::new();
    let mut visitor = site.visitor();
    let request = format!(
        "POST /echo HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
        site.domain()
    );
    for byte in request.bytes() {
        visitor.send([byte]);
    }
    assert_eq!(visitor.response("POST").text(), "abcde");
}

#[test]
fn empty_lines_before_a_request_are_skipped() {
    let site = Site::new();
    let mut visitor = site.visitor();
    assert_eq!(visitor.get("/hello").status(), 200);
    if !is_direct() {
        visitor.send("\r\n\r\n");
    }
    assert_eq!(visitor.get("/hello").status(), 200);
}

#[test]
fn connection_close_closes_after_the_answer() {
    if is_direct() {
        return;
    }
    let site = Site::new();
    let mut visitor = site.visitor();
    let answer = visitor.request("GET", "/hello", &[("Connection", "close")], None);
    assert_eq!(answer.text(), "hello\n");
    assert!(answer.head.lists("connection", "close"), "{:?}", answer.head);
    assert_eq!(visitor.ending(), Broken::Closed);
}

#[test]
fn an_upstream_that_closes_does_not_close_the_visitors_connection() {
    if is_direct() {
        return;
    }
    let site = Site::new();
    let mut visitor = site.visitor();
    for _ in 0..5 {
        assert_eq!(visitor.get("/close-after").text(), "the last one");
        assert_eq!(visitor.get("/http10").body, pattern(0, 5000));
    }
}

#[test]
fn http_1_0_without_keep_alive_is_closed_after_the_answer() {
    if is_direct() {
        return;
    }
    let site = Site::new();
    let mut visitor = site.visitor();
    visitor.send(format!("GET /hello HTTP/1.0\r\nHost: {}\r\n\r\n", site.domain()));
    let answer = visitor.response("GET");
    assert_eq!(answer.text(), "hello\n");
    assert_eq!(visitor.ending(), Broken::Closed);
}

#[test]
fn http_1_0_with_keep_alive_is_kept_when_the_length_is_known() {
    if is_direct() {
        return;
    }
    let site = Site::new();
    let mut visitor = site.visitor();
    let request = format!("GET /hello HTTP/1.0\r\nHost: {}\r\nConnection: keep-alive\r\n\r\n", site.domain());
    for _ in 0..3 {
        visitor.send(&request);
        let answer = visitor.response("GET");
        assert_eq!(answer.text(), "hello\n");
        assert!(answer.head.lists("connection", "keep-alive"), "{:?}", answer.head);
    }
}

#[test]
fn http_1_0_gets_no_chunks_and_no_interim_answers() {
    if is_direct() {
        return;
    }
    let site = Site::new();
    for target in ["/chunked?n=30000", "/early-hints", "/trailers"] {
        let mut visitor = site.visitor();
        visitor.send(format!(
            "GET {target} HTTP/1.0\r\nHost: {}\r\nConnection: keep-alive\r\n\r\n",
            site.domain()
        ));
        let answer = visitor.response("GET");
        assert_eq!((answer.status(), answer.interim.len()), (200, 0), "{target}");
        assert_eq!(answer.get("transfer-encoding"), None, "{target}");
        match target {
            "/trailers" => assert_eq!(answer.text(), "body"),
            "/early-hints" => assert_eq!(answer.text(), "after the hints"),
            _ => assert_eq!(answer.body, pattern(0, 30_000)),
        }
    }
}
