//! What responses are accepted, and how they are written.

use super::*;
use crate::head::tests::{response, text};
use crate::head::{HopConnection, parse_tunnel_response, write_visitor_response};

#[test]
fn a_response_is_taken_apart() {
    let head =
        response("HTTP/1.1 404 Not \u{fc}ber Found\r\nSet-Cookie: a\r\nContent-Length: 5\r\n\r\n", "GET");
    assert_eq!((head.status, text(head.reason), head.version), (404, "Not \u{fc}ber Found", Version::Http11));
    assert_eq!(head.framing, Framing::Length(5));
    assert!(head.keep_alive && !head.upgrade);
    assert_eq!(head.get("set-cookie"), Some(b"a".as_slice()));
    for bare in ["HTTP/1.1 200\r\n\r\n", "HTTP/1.1 200 \r\n\r\n", "HTTP/1.1 200 \n\n"] {
        assert_eq!(response(bare, "GET").reason, b"");
    }
}

#[test]
fn the_body_of_a_response_depends_on_method_status_and_version() {
    let framing = |line: &str, fields: &str, method: &str| {
        let input = format!("{line}\r\n{}\r\n", fields.replace('|', "\r\n"));
        let head = response(&input, method);
        (head.framing, head.keep_alive)
    };
    let length = "Content-Length: 5|";
    let chunked = "Transfer-Encoding: CHUNKED|";
    assert_eq!(framing("HTTP/1.1 200 OK", length, "GET"), (Framing::Length(5), true));
    assert_eq!(framing("HTTP/1.1 200 OK", length, "HEAD"), (Framing::None, true));
    assert_eq!(framing("HTTP/1.1 200 OK", "", "HEAD"), (Framing::None, true));
    assert_eq!(framing("HTTP/1.1 304 OK", length, "GET"), (Framing::None, true));
    assert_eq!(framing("HTTP/1.1 204 OK", chunked, "GET"), (Framing::None, true));
    assert_eq!(framing("HTTP/1.1 103 OK", length, "GET"), (Framing::None, true));
    assert_eq!(framing("HTTP/1.1 101 OK", "", "GET"), (Framing::None, false));
    assert_eq!(framing("HTTP/1.1 200 OK", chunked, "GET"), (Framing::Chunked, true));
    assert_eq!(framing("HTTP/1.1 200 OK", "", "GET"), (Framing::UntilClose, false));
    assert_eq!(framing("HTTP/1.0 200 OK", "", "GET"), (Framing::UntilClose, false));
    assert_eq!(framing("HTTP/1.0 200 OK", length, "GET"), (Framing::Length(5), false));
    let kept = "Content-Length: 5|Connection: Keep-Alive|";
    assert_eq!(framing("HTTP/1.0 200 OK", kept, "GET"), (Framing::Length(5), true));
    assert_eq!(
        framing("HTTP/1.1 999 OK", "Content-Length: 5|Connection: close|", "GET"),
        (Framing::Length(5), false)
    );
    assert_eq!(
        framing("HTTP/1.1 200 OK", "Content-Length: 5, 5|content-length: 05|", "GET"),
        (Framing::Length(5), true)
    );
}

#[test]
fn a_keep_alive_timeout_is_found() {
    for (value, seconds) in [
        ("timeout=5, max=100", Some(5)),
        ("max=100,Timeout=60", Some(60)),
        ("timeout=99999999999", Some(u32::MAX)),
        ("timeout=", None),
        ("timeout=x", None),
        ("5", None),
        ("\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}", None),
    ] {
        let input = format!("HTTP/1.1 200 OK\r\nKeep-Alive: {value}\r\n\r\n");
        assert_eq!(response(&input, "GET").keep_alive_timeout, seconds, "{value:?}");
    }
}

#[test]
fn responses_whose_length_is_a_question_are_refused() {
    for (pattern, fault) in [
        ("HTTP/1.1 200 OK|Content-Length: 5|Transfer-Encoding: chunked||", ResponseFault::LengthAndCoding),
        ("HTTP/1.1 200 OK|Content-Length: 5|Content-Length: 6||", ResponseFault::Length),
        ("HTTP/1.1 200 OK|Content-Length: 5, 6||", ResponseFault::Length),
        ("HTTP/1.1 200 OK|Content-Length: 5,||", ResponseFault::Length),
        ("HTTP/1.1 200 OK|Content-Length: +5||", ResponseFault::Length),
        ("HTTP/1.1 200 OK|Content-Length:||", ResponseFault::Length),
        ("HTTP/1.1 304 OK|Content-Length: x||", ResponseFault::Length),
        ("HTTP/1.1 200 OK|Transfer-Encoding: gzip, chunked||", ResponseFault::Coding),
        ("HTTP/1.1 200 OK|Transfer-Encoding: gzip||", ResponseFault::Coding),
        ("HTTP/1.1 200 OK|Transfer-Encoding: chunked|Transfer-Encoding: chunked||", ResponseFault::Coding),
        ("HTTP/1.0 200 OK|Transfer-Encoding: chunked||", ResponseFault::CodingInHttp10),
        ("HTTP/1.1 200 OK|A: b| c||", ResponseFault::FieldName),
        ("HTTP/1.1 200 OK|A b: c||", ResponseFault::FieldName),
        ("HTTP/1.1 200 OK|A: b\0||", ResponseFault::FieldValue),
        ("HTTP/1.1 200 OK|A: b\rC: d||", ResponseFault::FieldValue),
        ("HTTP/1.1 200 OK|A: b\nC: d||", ResponseFault::LineEnd),
        ("HTTP/1.1 200 OK\nA: b||", ResponseFault::LineEnd),
        ("HTTP/1.1 200 OK|A: b\n\n", ResponseFault::LineEnd),
        ("HTTP/1.1 200 OK|A: b|\n", ResponseFault::LineEnd),
        ("HTTP/1.1 200 OK\n|", ResponseFault::LineEnd),
        ("HTTP/1.1 200 O\0K||", ResponseFault::StatusLine),
        ("HTTP/1.1 099 OK||", ResponseFault::StatusLine),
        ("HTTP/1.1 20 OK||", ResponseFault::StatusLine),
        ("HTTP/1.1 2000 OK||", ResponseFault::StatusLine),
        ("HTTP/1.1  200 OK||", ResponseFault::StatusLine),
        ("HTTP/2 200 OK||", ResponseFault::StatusLine),
        ("ICY 200 OK||", ResponseFault::StatusLine),
        ("|HTTP/1.1 200 OK||", ResponseFault::StatusLine),
        ("SSH-2.0-OpenSSH_9|", ResponseFault::StatusLine),
    ] {
        let input = pattern.replace('|', "\r\n");
        assert_eq!(parse_response(input.as_bytes(), "GET"), Err(fault), "{input:?}");
    }
    let over = format!("HTTP/1.1 200 OK\r\nA: {}", "b".repeat(MAX_HEAD));
    assert_eq!(parse_response(over.as_bytes(), "GET"), Err(ResponseFault::HeadTooLarge));
    let over = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(MAX_FIELDS + 1));
    assert_eq!(parse_response(over.as_bytes(), "GET"), Err(ResponseFault::TooManyFields));
}

/// From the upstream through the tunnel to the visitor.
fn check_response(received: &str, method: &str, tunnel: &str) {
    let input = format!("{}\r\n", received.replace('|', "\r\n"));
    let mut out = Vec::new();
    write_tunnel_response(&response(&input, method), &mut out);
    assert_eq!(text(&out), format!("{}\r\n", tunnel.replace('|', "\r\n")));
    let parsed = parse_tunnel_response(&out).expect("is what we wrote");
    let mut visitors = Vec::new();
    write_visitor_response(&parsed, false, HopConnection::Default, &mut visitors);
    assert_eq!(visitors, out);
}

#[test]
fn a_response_goes_on_without_what_is_for_one_hop() {
    check_response(
        "HTTP/1.0 200 Fine|Server : x|Connection: close, X-Own, Content-Length|Keep-Alive: timeout=5|X-Own: 1|\
         Set-Cookie: a|content-LENGTH: 05|Content-Length: 5|Set-Cookie: b|Upgrade: h2c|Trailer: X-Sum|",
        "GET",
        "HTTP/1.1 200 Fine|Server: x|Set-Cookie: a|content-LENGTH: 5|Set-Cookie: b|Trailer: X-Sum|",
    );
    check_response("HTTP/1.1 200|Transfer-Encoding: chunked|", "GET", "HTTP/1.1 200 |");
    check_response("HTTP/1.1 200 OK|Content-Length: 5|", "HEAD", "HTTP/1.1 200 OK|Content-Length: 5|");
    check_response("HTTP/1.1 304 OK|Content-Length: 5, 5|", "GET", "HTTP/1.1 304 OK|Content-Length: 5|");
    check_response("HTTP/1.1 204 OK|Content-Length: 0|", "GET", "HTTP/1.1 204 OK|");
    check_response("HTTP/1.1 103 Early|Link: a|", "GET", "HTTP/1.1 103 Early|Link: a|");
    check_response(
        "HTTP/1.1 101 Switch|Connection: Upgrade|Upgrade: websocket|Sec-WebSocket-Accept: x|",
        "GET",
        "HTTP/1.1 101 Switch|Upgrade: websocket|Sec-WebSocket-Accept: x|",
    );
}

#[test]
fn a_head_with_bare_line_feeds_is_written_anew() {
    let mut out = Vec::new();
    write_tunnel_response(&response("HTTP/1.1 200 OK\nA: b\nContent-Length: 5\n\n", "GET"), &mut out);
    assert_eq!(text(&out), "HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 5\r\n\r\n");
}
