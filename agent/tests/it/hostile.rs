//! What strangers may do at the admin port, and what it costs.

use std::io::{ErrorKind, Write};
use std::net::Shutdown;
use std::sync::atomic::Ordering;

use serde_json::json;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::world::{SOON, World, status};

/// Heads that two parsers could read in two ways, each before a body of that length that would be a request.
const AMBIGUOUS: [&str; 33] = [
    "POST /health HTTP/1.1\r\nHost: nas\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n",
    "POST /health HTTP/1.1\r\nHost: nas\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n",
    "POST /health HTTP/1.1\r\nHost: nas\r\nContent-Length: 4\r\nContent-Length: 5\r\n",
    "POST /health HTTP/1.1\r\nHost: nas\r\nContent-Length: 4, 5\r\n",
    "POST /health HTTP/1.1\r\nHost: nas\r\nContent-Length: +4\r\n",
    "POST /health HTTP/1.1\r\nHost: nas\r\nContent-Length: -1\r\n",
    "POST /health HTTP/1.1\r\nHost: nas\r\nContent-Length: 0x4\r\n",
    "POST /health HTTP/1.1\r\nHost: nas\r\nContent-Length: 4 4\r\n",
    "POST /health HTTP/1.1\r\nHost: nas\r\nContent-Length: 99999999999999999999\r\n",
    "POST /health HTTP/1.1\r\nHost: nas\r\nContent-Length:\r\n",
    "POST /health HTTP/1.1\r\nHost: nas\r\nContent-Length : 4\r\n",
    "POST /health HTTP/1.1\r\nHost: nas\r\n Content-Length: 4\r\n",
    "POST /health HTTP/1.1\r\nHost: nas\r\nX: y\r\n Content-Length: 4\r\n",
    "POST /health HTTP/1.1\r\nHost: nas\r\nTransfer-Encoding : chunked\r\n",
    "POST /health HTTP/1.1\r\nHost: nas\r\nTransfer-Encoding:\r\n chunked\r\n",
    "POST /health HTTP/1.1\r\nHost: nas\r\nTransfer-Encoding: xchunked\r\n",
    "POST /health HTTP/1.1\r\nHost: nas\r\nTransfer-Encoding: chunked, identity\r\n",
    "POST /health HTTP/1.1\r\nHost: nas\r\nTransfer-Encoding: chunked, chunked\r\n",
    "POST /health HTTP/1.1\r\nHost: nas\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
    "POST /health HTTP/1.1\r\nHost: nas\r\nTransfer-Encoding: identity\r\n",
    "POST /health HTTP/1.1\r\nHost: nas\r\nTransfer-Encoding: \x0bchunked\r\n",
    "POST /health HTTP/1.1\r\nHost: nas\r\nTransfer-Encoding: \"chunked\"\r\n",
    "POST /health HTTP/1.1\r\nHost: nas\r\nX: a\rTransfer-Encoding: chunked\r\n",
    "POST /health HTTP/1.1\r\nHost: nas\r\nX: a\nTransfer-Encoding: chunked\r\n",
    "POST /health HTTP/1.1\r\nHost: nas\r\nX: a\0b\r\n",
    "POST /health HTTP/1.1\r\nHost: nas\r\nHost: other\r\n",
    "POST /health HTTP/1.1\r\nX: no host\r\n",
    "POST /health HTTP/1.1\r\nHost: nas/path\r\n",
    "POST http://other/health HTTP/1.1\r\nHost: nas\r\n",
    "POST /health HTTP/1.0\r\nHost: nas\r\nTransfer-Encoding: chunked\r\n",
    "POST /health HTTP/1.1 \r\nHost: nas\r\n",
    "POST /hea lth HTTP/1.1\r\nHost: nas\r\n",
    "POST\t/health\tHTTP/1.1\r\nHost: nas\r\n",
];

/// Bodies in chunks with a fault, after which a request would follow.
const CHUNKS: [&str; 11] = [
    "0x0\r\n\r\n",
    "+0\r\n\r\n",
    "-1\r\n\r\n",
    " 0\r\n\r\n",
    "0 \r\n\r\n",
    "0\n\n",
    "\r\n\r\n",
    "g\r\n\r\n",
    "fffffffffffffffff\r\n",
    "1\r\naa\r\n0\r\n\r\n",
    "0;x=\ny\r\n\r\n",
];

#[test]
fn no_smuggled_request_reaches_a_handler() {
    let world = World::new();
    let token = world.log_in();
    let smuggled = format!(
        "POST /api/v1/reconnect HTTP/1.1\r\nHost: nas\r\nAuthorization: Bearer {token}\r\n\
         Connection: close\r\n\r\n"
    );
    // It would be answered, and does what it says.
    let sound = world.exchange(format!("GET /health HTTP/1.1\r\nHost: nas\r\n\r\n{smuggled}"));
    assert_eq!(sound.matches("HTTP/1.1 200").count(), 2, "{sound}");
    assert_eq!(world.reconnects.swap(0, Ordering::Relaxed), 1);

    let chunked = "POST /api/v1/auth/login HTTP/1.1\r\nHost: nas\r\nTransfer-Encoding: chunked\r\n\r\n";
    let heads = AMBIGUOUS.map(|head| format!("{head}\r\n"));
    let bodies = CHUNKS.map(|body| format!("{chunked}{body}"));
    for text in heads.iter().chain(&bodies) {
        let answer = world.exchange(format!("{text}{smuggled}{smuggled}"));
        assert!((400..=501).contains(&status(&answer)), "{text:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{text:?}: {answer}");
        assert!(answer.contains("\r\nConnection: close\r\n"), "{text:?}: {answer}");
        assert_eq!(world.reconnects.load(Ordering::Relaxed), 0, "{text:?}");
    }
    world.stop();
}

#[test]
fn what_follows_a_refused_body_is_not_a_request() {
    let world = World::new();
    let token = world.log_in();
    let smuggled =
        format!("POST /api/v1/reconnect HTTP/1.1\r\nHost: nas\r\nAuthorization: Bearer {token}\r\n\r\n");
    // Not logged in, and more than a stranger may send: the body is not read, nor taken for a request.
    for path in ["/api/v1/mappings", "/api/v1/auth/login", "/api/v1/settings/landing-page", "/nothing"] {
        let head = format!("POST {path} HTTP/1.1\r\nHost: nas\r\nContent-Length: 1000000\r\n\r\n");
        let answer = world.exchange(format!("{head}{smuggled}"));
        assert!([401, 404, 405, 413].contains(&status(&answer)), "{path}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{path}: {answer}");
    }
    assert_eq!(world.reconnects.load(Ordering::Relaxed), 0);
    // The Operator may send as much.
    let html = "x".repeat(999_000);
    let (status, saved) =
        world.ask("PUT", "/api/v1/settings/landing-page", Some(&token), Some(&json!({ "html": html })));
    assert_eq!((status, saved["isDefault"].clone()), (200, json!(false)));
    world.stop();
}

#[test]
fn strangers_who_do_not_take_their_answers_make_room() {
    let world = World::new();
    let asked = "GET / HTTP/1.1\r\nHost: nas\r\n\r\n".repeat(100);
    let stuck: Vec<_> = (0..64)
        .map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.set_recv_buffer_size(1024).expect("a small buffer");
            socket.connect(&SockAddr::from(world.address)).expect("a connection");
            socket.set_nonblocking(true).expect("no waiting");
            let since = std::time::Instant::now();
            // Until nobody reads any more, because he waits for his answers to be taken.
            let mut full = 0;
            while full < 50 {
                match (&socket).write(asked.as_bytes()) {
                    Ok(_) => full = 0,
                    Err(e) if e.kind() == ErrorKind::WouldBlock => {
                        full += 1;
                        std::thread::yield_now();
                    }
                    Err(e) => panic!("{e}"),
                }
                assert!(since.elapsed() < SOON);
            }
            socket
        })
        .collect();
    let token = world.log_in();
    assert_eq!(world.ask("GET", "/api/v1/status", Some(&token), None).0, 200);
    for socket in &stuck {
        // It may be over already.
        let _ = socket.shutdown(Shutdown::Both);
    }
    drop(stuck);
    world.stop();
}
