//! Bodies stream in both directions, and are complete or visibly incomplete. Never a clean end of half a file.

use std::time::{Duration, Instant};

use e2e::bytes::{Hash, first_difference, pattern};
use e2e::journal::PATIENCE;
use e2e::sample::{self, beside};
use e2e::site::{Site, is_direct};
use e2e::upstream::Then;
use e2e::visitor::Visitor;

/// How soon an upstream must hear that its visitor has gone.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Sends a chunked body in pieces of this size, from another thread, so that the answer can be read meanwhile.
fn send_chunked(visitor: &Visitor, len: usize, size: usize) -> std::thread::JoinHandle<()> {
    let socket = visitor.socket().clone();
    beside(move || {
        let mut sent = 0;
        while sent < len {
            let piece = pattern(sent as u64, size.min(len - sent));
            let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), &piece, b"\r\n"].concat();
            std::io::Write::write_all(&mut &socket, &chunk).expect("the visitor's chunk");
            sent += piece.len();
        }
        std::io::Write::write_all(&mut &socket, b"0\r\n\r\n").expect("the visitor's last chunk");
    })
}

#[test]
fn bodies_of_every_size_arrive_whole() {
    let site = Site::new();
    let mut visitor = site.visitor();
    for len in [
        0, 1, 2, 1023, 4096, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 262_143, 262_144, 262_145,
        1_000_000,
    ] {
        for target in [format!("/bytes?n={len}"), format!("/chunked?n={len}&size=10007")] {
            let body = visitor.get(&target).body;
            assert_eq!(first_difference(&body, &pattern(0, len)), None, "{target}");
        }
        let body = pattern(0, len);
        let answer = visitor.request("POST", "/upload", &[], Some(&body));
        let wanted = format!("{len} {} Length({len})", Hash::of(&body).hex());
        assert_eq!(answer.text(), wanted);
        let answer = visitor.request("POST", "/echo", &[], Some(&body));
        assert_eq!(first_difference(&answer.body, &body), None, "echo of {len}");
    }
}

#[test]
fn a_large_download_arrives_whole() {
    let len = 64 << 20;
    let site = Site::new();
    let mut visitor = site.visitor();
    visitor.ask("GET", &format!("/bytes?n={len}"), &[]);
    let head = visitor.head("GET");
    assert_eq!(head.get("content-length"), Some(len.to_string()));
    let mut place = 0;
    while let Some(piece) = visitor.piece().expect("the next piece") {
        assert_eq!(first_difference(&piece, &pattern(place, piece.len())), None, "after {place} bytes");
        place += piece.len() as u64;
    }
    assert_eq!(place, len);
}

#[test]
fn a_large_upload_arrives_whole() {
    let len: usize = 64 << 20;
    let site = Site::new();
    let mut visitor = site.visitor();
    visitor
        .send(format!("POST /upload HTTP/1.1\r\nHost: {}\r\nContent-Length: {len}\r\n\r\n", site.domain()));
    let mut hash = Hash::default();
    let mut sent = 0;
    while sent < len {
        let piece = pattern(sent as u64, 1 << 20);
        hash.add(&piece);
        visitor.send(&piece);
        sent += piece.len();
    }
    assert_eq!(visitor.response("POST").text(), format!("{len} {} Length({len})", hash.hex()));
}

#[test]
fn chunked_uploads_of_every_grain_arrive_whole() {
    let site = Site::new();
    for (len, size) in [(3000, 1), (100_000, 7), (1_000_000, 4096), (3_000_000, 100_000)] {
        let mut visitor = site.visitor();
        visitor.send(format!(
            "PUT /upload HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
            site.domain()
        ));
        let sender = send_chunked(&visitor, len, size);
        let text = visitor.response("PUT").text();
        sender.join().expect("the sender");
        assert_eq!(text, format!("{len} {} Chunked", Hash::of(&pattern(0, len)).hex()), "chunks of {size}");
    }
}

#[test]
fn chunk_extensions_are_not_part_of_the_body() {
    let site = Site::new();
    let mut visitor = site.visitor();
    visitor.send(format!(
        "POST /echo HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n\
         5;name=\"a;b\"\r\nhello\r\n00006 ;x\r\n world\r\n0;last\r\n\r\n",
        site.domain()
    ));
    if is_direct() {
        return;
    }
    // White space before an extension is "bad white space" (RFC 9112 7.1.1): refusing it is right as well.
    match visitor.try_response("POST") {
        Ok(answer) if answer.status() == 200 => assert_eq!(answer.text(), "hello world"),
        Ok(answer) => assert_eq!(answer.status(), 400, "{answer:?}"),
        Err(failed) => panic!("{failed:?}"),
    }
}

#[test]
fn both_directions_stream_at_the_same_time() {
    let site = Site::new();
    let mut visitor = site.visitor();
    visitor.send(format!(
        "POST /duplex HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
        site.domain()
    ));
    // Each echo is awaited before the next piece is sent: nothing may hold back a byte in either direction.
    assert_eq!(visitor.head("POST").status(), 200);
    for n in 0..50u8 {
        let piece = [n; 100];
        visitor.send([&b"64\r\n"[..], &piece, b"\r\n"].concat());
        assert_eq!(visitor.exactly(100), piece);
    }
    visitor.send("0\r\n\r\n");
    assert!(visitor.rest().is_empty());
    assert_eq!(visitor.get("/hello").text(), "hello\n", "the connection is usable");
}

#[test]
fn a_large_echo_flows_both_ways() {
    let len = 32 << 20;
    let site = Site::new();
    let mut visitor = site.visitor();
    visitor.send(format!(
        "POST /duplex HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
        site.domain()
    ));
    let sender = send_chunked(&visitor, len, 50_000);
    let answer = visitor.response("POST");
    sender.join().expect("the sender");
    assert_eq!(first_difference(&answer.body, &pattern(0, len)), None);
}

#[test]
fn response_trailers_pass() {
    let site = Site::new();
    let mut visitor = site.visitor();
    let answer = visitor.request("GET", "/trailers", &[("TE", "trailers")], None);
    assert_eq!(answer.get("trailer").as_deref(), Some("X-Checksum, X-After"));
    let trailers: Vec<_> = answer.trailers.iter().map(|(n, v)| (n.as_str(), v.as_slice())).collect();
    assert_eq!(trailers, [("X-Checksum", &b"1234"[..]), ("X-After", "€".as_bytes())]);
    assert_eq!(visitor.get("/hello").text(), "hello\n");
}

#[test]
fn request_trailers_pass() {
    let site = Site::new();
    let mut visitor = site.visitor();
    visitor.send(format!(
        "POST /upload-trailers HTTP/1.1\r\nHost: {}\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\nabc\r\n0\r\nX-Sum: 99\r\nX-Other: x y\r\n\r\n",
        site.domain()
    ));
    assert_eq!(visitor.response("POST").text(), "3 bytes\nX-Sum=99\nX-Other=x y\n");
}

#[test]
fn expect_continue_is_answered_when_the_upstream_wants_the_body() {
    let site = Site::new();
    let mut visitor = site.visitor();
    visitor.ask("POST", "/continue", &[("Expect", "100-continue"), ("Content-Length", "4")]);
    assert_eq!(visitor.head("POST").status(), 100);
    visitor.send("body");
    let answer = visitor.response("POST");
    assert_eq!((answer.status(), answer.text().as_str(), answer.interim.len()), (200, "body", 0));
}

#[test]
fn expect_continue_may_be_declined() {
    let site = Site::new();
    let mut visitor = site.visitor();
    visitor.ask("POST", "/no-continue", &[("Expect", "100-continue"), ("Content-Length", "1000000")]);
    let answer = visitor.response("POST");
    assert_eq!((answer.status(), answer.text().as_str(), answer.interim.len()), (417, "no", 0));
}

#[test]
fn a_visitor_may_send_the_body_without_waiting_for_100() {
    let site = Site::new();
    let answer = site.request("POST", "/echo", &[("Expect", "100-continue")], Some(b"impatient"));
    assert_eq!((answer.status(), answer.text().as_str()), (200, "impatient"));
}

#[test]
fn an_early_answer_reaches_the_visitor_while_he_is_still_sending() {
    let site = Site::new();
    let mut visitor = site.visitor();
    visitor.ask("POST", "/early-413", &[("Content-Length", "100000000")]);
    visitor.send(pattern(0, 1000));
    let answer = visitor.response("POST");
    assert_eq!((answer.status(), answer.text().as_str()), (413, "too large"));
    // Nothing more is to be asked on this connection (RFC 9112 9.6).
    assert!(answer.head.lists("connection", "close"), "{:?}", answer.head);
}

#[test]
fn a_body_until_close_arrives_whole_and_ends_cleanly() {
    let site = Site::new();
    let answer = site.get("/until-close?n=300000");
    assert_eq!(first_difference(&answer.body, &pattern(0, 300_000)), None);
    if !is_direct() {
        assert!(answer.head.lists("transfer-encoding", "chunked"), "{:?}", answer.head);
        assert!(
            !answer.head.lists("connection", "close"),
            "closing was the upstream's hop: {:?}",
            answer.head
        );
    }
}

#[test]
fn an_upstream_that_breaks_off_is_visible_to_the_visitor() {
    let site = Site::new();
    let mut visitor = site.visitor();
    // Not a byte is invented to fill up what was announced.
    let failed = visitor.try_request("GET", "/short", &[], None).expect_err("a byte is missing");
    assert_eq!(failed.body, pattern(0, sample::ANNOUNCED - 1));

    let failed = site.visitor().try_request("GET", "/chunked-broken", &[], None).expect_err("no last chunk");
    assert_eq!(failed.body, pattern(0, 3000));

    let failed = site.visitor().try_request("GET", "/chunked-garbage", &[], None).expect_err("no chunk size");
    assert_eq!(failed.body, pattern(0, 3000));

    let mut visitor = site.visitor();
    visitor.ask("POST", "/until-close-broken", &[("Content-Length", "2")]);
    assert_eq!(visitor.head("POST").status(), 200);
    assert_eq!(visitor.exactly(5000), pattern(0, 5000));
    visitor.send("go");
    let end = visitor.piece();
    assert!(end.is_err(), "the upstream's reset looks like a clean end: {end:?}");
}

#[test]
fn more_than_announced_is_not_passed_on() {
    let site = Site::new();
    let mut visitor = site.visitor();
    let body = match visitor.try_request("GET", "/long", &[], None) {
        Ok(answer) => answer.body,
        Err(failed) => failed.body,
    };
    assert!(body.len() <= sample::ANNOUNCED, "{} bytes", body.len());
    if !is_direct() {
        // What came after is not taken for the answer to somebody else's request either.
        for _ in 0..5 {
            assert_eq!(site.get("/hello").text(), "hello\n");
        }
    }
}

#[test]
fn an_upload_that_breaks_off_never_looks_complete_to_the_upstream() {
    for framing in ["Content-Length: 1000", "Transfer-Encoding: chunked"] {
        let site = Site::new();
        let mut visitor = site.visitor();
        visitor.send(format!("POST /upload HTTP/1.1\r\nHost: {}\r\n{framing}\r\n\r\n1F4\r\n", site.domain()));
        visitor.send(pattern(0, 500));
        let (connection, _) = site.upstream.wait_request("/upload");
        visitor.leave();
        let end = site.upstream.wait_closed(connection, PATIENCE);
        assert!(end.is_some(), "{framing}: the upstream took it for complete");
        let complete =
            site.upstream.journal().look(|events| format!("{events:?}").contains("upload complete"));
        assert!(!complete, "{framing}");
    }
}

/// Starts a request, waits for what `reached` waits for, leaves, and expects that the upstream hears of it at once.
fn upstream_hears_of_leaving(path: &str, fields: &[(&str, &str)], reached: impl Fn(&mut Visitor)) {
    for abort in [false, true] {
        let site = Site::new();
        let mut visitor = site.visitor();
        visitor.ask("POST", path, fields);
        let (connection, _) = site.upstream.wait_request(path);
        reached(&mut visitor);
        let left = Instant::now();
        if abort {
            visitor.abort()
        } else {
            visitor.leave()
        }
        let end = site.upstream.wait_closed(connection, PATIENCE);
        assert!(end.is_some(), "the upstream ended it itself");
        assert!(
            left.elapsed() < AT_ONCE,
            "abort {abort}: the upstream heard of it after {:?}",
            left.elapsed()
        );
    }
}

#[test]
fn a_visitor_who_leaves_before_the_answer_ends_the_upstreams_request() {
    upstream_hears_of_leaving("/hang", &[], |_| ());
}

#[test]
fn a_visitor_who_leaves_during_a_silent_answer_ends_the_upstreams_request() {
    upstream_hears_of_leaving("/hang-after-head", &[], |visitor| {
        assert_eq!(visitor.head("GET").status(), 200);
        assert_eq!(visitor.exactly(5), b"first");
    });
}

#[test]
fn a_visitor_who_leaves_during_a_download_ends_the_upstreams_request() {
    upstream_hears_of_leaving("/endless", &[], |visitor| {
        assert_eq!(visitor.head("GET").status(), 200);
        assert_eq!(first_difference(&visitor.exactly(16 * 1024), &pattern(0, 16 * 1024)), None);
    });
}

#[test]
fn a_visitor_who_leaves_during_an_upload_ends_the_upstreams_request() {
    upstream_hears_of_leaving("/upload", &[("Content-Length", "1000000")], |visitor| {
        visitor.send(pattern(0, 5000))
    });
}

#[test]
fn an_upstream_that_answers_and_leaves_during_an_upload_leaves_a_usable_system() {
    let site = Site::new();
    site.upstream.on("/rude", |x| {
        x.send("HTTP/1.1 403 No\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")?;
        Ok(Then::Abort)
    });
    for _ in 0..10 {
        let mut visitor = site.visitor();
        visitor.ask("POST", "/rude", &[("Content-Length", "3000000")]);
        // The answer, an error of ours or a visible end: but never silence, and never a success.
        drop(visitor.try_send(pattern(0, 3_000_000)));
        if let Ok(answer) = visitor.try_response("POST") {
            assert!(matches!(answer.status(), 403 | 502), "{answer:?}");
        }
    }
    assert_eq!(site.get("/hello").text(), "hello\n");
}

#[test]
fn a_kept_connection_that_the_upstream_closed_is_not_used_again() {
    if is_direct() {
        return;
    }
    let site = Site::new();
    let mut visitor = site.visitor();
    for n in 1..=30 {
        let answer = visitor.request("POST", "/close-unannounced", &[], Some(b"once"));
        assert_eq!((answer.status(), answer.text().as_str()), (200, "and gone"));
        // The upstream has closed; a request that is sent now must go elsewhere and must not be lost.
        site.upstream.wait_closed(n, PATIENCE);
    }
    assert_eq!(site.upstream.requests().len(), 30, "each request reached the upstream once");
}

#[test]
fn upstream_connections_are_kept_and_reused() {
    if is_direct() {
        return;
    }
    let site = Site::new();
    for _ in 0..20 {
        assert_eq!(site.get("/hello").text(), "hello\n");
    }
    assert!(
        site.upstream.accepted() <= 4,
        "{} connections for 20 requests in turn",
        site.upstream.accepted()
    );
}

#[test]
fn a_request_is_never_sent_twice() {
    if is_direct() {
        return;
    }
    let site = Site::new();
    for path in ["/no-answer", "/no-answer-abort"] {
        let answer = site.request("POST", path, &[], Some(b"pay 100"));
        assert_eq!(answer.status(), 502, "{answer:?}");
        let sent = site.upstream.requests().iter().filter(|head| head.path() == path).count();
        assert_eq!(sent, 1, "{path}");
    }
}

#[test]
fn an_unread_request_body_does_not_disturb_the_next_request() {
    if is_direct() {
        return;
    }
    let site = Site::new();
    let mut visitor = site.visitor();
    for _ in 0..5 {
        let answer = visitor.request("POST", "/hello", &[], Some(&pattern(0, 100_000)));
        assert_eq!(answer.text(), "hello\n");
        // One that came before the Gateway had read the whole body, which nobody prevents, says so.
        if answer.head.lists("connection", "close") {
            visitor = site.visitor();
        }
        assert_eq!(visitor.get("/bytes?n=10").body, pattern(0, 10));
    }
}
