//! WebSockets and any other protocol to which HTTP/1.1 can switch.

use e2e::bytes::{first_difference, pattern};
use e2e::message::Broken;
use e2e::sample::beside;
use e2e::site::{Site, is_direct};
use e2e::upstream::Then;
use e2e::visitor::Visitor;
use e2e::websocket;
use tungstenite::protocol::CloseFrame;
use tungstenite::{Bytes, Message};

/// Switches a connection to `test/1` and reads the upstream's hello, which comes right behind the 101.
fn upgraded(site: &Site) -> Visitor {
    let mut visitor = site.visitor();
    visitor.ask("GET", "/upgrade", &[("Connection", "upgrade"), ("Upgrade", "test/1")]);
    let head = visitor.head("GET");
    assert_eq!((head.status(), head.get("upgrade").as_deref()), (101, Some("test/1")), "{head:?}");
    assert!(head.lists("connection", "upgrade"), "{head:?}");
    assert_eq!(head.get("x-kept").as_deref(), Some("yes"));
    assert_eq!(visitor.raw(24), b"hello from the upstream\n");
    visitor
}

#[test]
fn messages_are_echoed() {
    let site = Site::new();
    let (_, mut socket) = site.visitor().websocket("/ws", &[]);
    let messages = [
        Message::text("hello"),
        Message::text(""),
        Message::text("grüße €"),
        Message::binary(pattern(0, 1)),
        Message::binary(pattern(0, 125)),
        Message::binary(pattern(0, 126)),
        Message::binary(pattern(0, 65_536)),
        Message::binary(pattern(0, 300_000)),
    ];
    for message in messages {
        socket.send(message.clone()).expect("sent");
        assert_eq!(socket.read().expect("echoed"), message);
    }
}

#[test]
fn a_message_of_16_mib_passes_both_ways() {
    let site = Site::new();
    let (_, mut socket) = site.visitor().websocket("/ws", &[]);
    let body = pattern(0, 16 << 20);
    socket.send(Message::binary(body.clone())).expect("sent");
    let echoed = socket.read().expect("echoed").into_data();
    assert_eq!(first_difference(&echoed, &body), None);
}

#[test]
fn many_small_messages_keep_their_order() {
    let site = Site::new();
    let (_, mut socket) = site.visitor().websocket("/ws", &[]);
    let writer = socket.get_ref().clone();
    let sender = beside(move || {
        let mut socket = websocket::client(writer, Vec::new());
        for n in 0..5000 {
            socket.send(Message::text(n.to_string())).expect("sent");
        }
    });
    for n in 0..5000 {
        assert_eq!(socket.read().expect("echoed"), Message::text(n.to_string()));
    }
    sender.join().expect("the sender");
}

#[test]
fn sub_protocols_and_extensions_are_negotiated_end_to_end() {
    let site = Site::new();
    site.upstream.on("/negotiate", |x| {
        let extensions = x.head.all("sec-websocket-extensions").join(" / ");
        assert_eq!(extensions, "permessage-deflate; client_max_window_bits / x-other");
        let fields = "Sec-WebSocket-Protocol: chat.v2\r\n\
             Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n";
        let mut socket = x.websocket(fields)?;
        // Beyond the handshake nothing of a WebSocket concerns a tunnel: raw bytes from here on.
        let stream = socket.get_mut();
        let mut bytes = [0; 9];
        std::io::Read::read_exact(stream, &mut bytes)?;
        std::io::Write::write_all(stream, &bytes)?;
        Ok(Then::Close)
    });
    let fields = [
        ("Sec-WebSocket-Protocol", "chat.v1, chat.v2"),
        ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),
        ("Sec-WebSocket-Extensions", "x-other"),
    ];
    let (head, mut socket) = site.visitor().websocket("/negotiate", &fields);
    assert_eq!(head.get("sec-websocket-protocol").as_deref(), Some("chat.v2"));
    let extensions = "permessage-deflate; server_no_context_takeover";
    assert_eq!(head.get("sec-websocket-extensions").as_deref(), Some(extensions));
    // A compressed message, reserved bit and all, as no WebSocket library without the extension would pass it on.
    let compressed = [0xc1, 0x83, 1, 2, 3, 4, 0xf2, 0x4a, 0x04];
    std::io::Write::write_all(socket.get_mut(), &compressed).expect("sent");
    let mut echoed = [0; 9];
    std::io::Read::read_exact(socket.get_mut(), &mut echoed).expect("echoed");
    assert_eq!(echoed, compressed);
    let seen = site.upstream.requests().pop().expect("a handshake");
    assert_eq!(seen.get("sec-websocket-protocol").as_deref(), Some("chat.v1, chat.v2"));
    assert_eq!(seen.get("sec-websocket-key").as_deref(), Some(websocket::KEY));
    assert_eq!(seen.get("sec-websocket-version").as_deref(), Some("13"));
}

#[test]
fn a_visitors_close_code_reaches_the_upstream_and_comes_back() {
    let site = Site::new();
    for code in [1000, 1001, 3000, 4999] {
        let (_, mut socket) = site.visitor().websocket("/ws", &[]);
        socket.close(Some(CloseFrame { code: code.into(), reason: "done".into() })).expect("sent");
        match socket.read().expect("an answer") {
            Message::Close(Some(frame)) => assert_eq!(u16::from(frame.code), code),
            other => panic!("{other:?}"),
        }
        site.upstream.wait_note(&format!("close Some({code})"));
    }
}

#[test]
fn an_upstreams_close_code_reaches_the_visitor() {
    let site = Site::new();
    site.upstream.on("/kick", |x| {
        let mut socket = x.websocket("")?;
        let frame = CloseFrame { code: 4001.into(), reason: "go away".into() };
        socket.close(Some(frame)).map_err(std::io::Error::other)?;
        while socket.read().is_ok() {}
        Ok(Then::Close)
    });
    let (_, mut socket) = site.visitor().websocket("/kick", &[]);
    match socket.read().expect("a close frame") {
        Message::Close(Some(frame)) => {
            assert_eq!((u16::from(frame.code), frame.reason.as_str()), (4001, "go away"))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn pings_and_pongs_travel_end_to_end() {
    let site = Site::new();
    site.upstream.on("/ping", |x| {
        let mut socket = x.websocket("")?;
        socket
            .send(Message::Ping(Bytes::from_static(b"from the upstream")))
            .map_err(std::io::Error::other)?;
        loop {
            match socket.read().map_err(std::io::Error::other)? {
                Message::Pong(payload) => x.note(format!("pong {}", payload.escape_ascii())),
                Message::Close(_) => return Ok(Then::Close),
                _ => {}
            }
        }
    });
    let (_, mut socket) = site.visitor().websocket("/ping", &[]);
    assert_eq!(socket.read().expect("a ping"), Message::Ping(Bytes::from_static(b"from the upstream")));
    socket.send(Message::Ping(Bytes::from_static(b"from the visitor"))).expect("sent");
    assert_eq!(socket.read().expect("a pong"), Message::Pong(Bytes::from_static(b"from the visitor")));
    site.upstream.wait_note("pong from the upstream");
}

#[test]
fn an_upstream_may_refuse_to_switch() {
    let site = Site::new();
    let mut visitor = site.visitor();
    let answer = visitor.request("GET", "/ws-refused", &websocket::request_fields(&[]), None);
    assert_eq!((answer.status(), answer.text().as_str()), (403, "no WebSocket here"));
    assert_eq!(answer.get("x-why").as_deref(), Some("not today"));
    assert_eq!(visitor.get("/hello").text(), "hello\n", "the connection is usable");
}

#[test]
fn an_upstream_may_ignore_the_wish_to_switch() {
    let site = Site::new();
    let mut visitor = site.visitor();
    let answer = visitor.request("GET", "/hello", &[("Connection", "Upgrade"), ("Upgrade", "h2c")], None);
    assert_eq!((answer.status(), answer.text().as_str()), (200, "hello\n"));
    assert_eq!(visitor.get("/hello").text(), "hello\n", "the connection is usable");
}

#[test]
fn any_protocol_becomes_a_raw_stream() {
    let site = Site::new();
    let mut visitor = upgraded(&site);
    for bytes in [&b"\x00\xff\r\n\r\n"[..], b"GET / HTTP/1.1\r\n\r\n", &pattern(0, 200_000)] {
        visitor.send(bytes);
        assert_eq!(first_difference(&visitor.raw(bytes.len()), bytes), None);
    }
}

#[test]
fn bytes_right_behind_the_request_reach_the_upstream() {
    let site = Site::new();
    let mut visitor = site.visitor();
    visitor.send(format!(
        "GET /upgrade HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: test/1\r\n\r\nearly bird",
        site.domain()
    ));
    assert_eq!(visitor.head("GET").status(), 101);
    assert_eq!(visitor.raw(34), b"hello from the upstream\nearly bird");
}

#[test]
fn a_connection_may_be_upgraded_after_other_requests() {
    let site = Site::new();
    let mut visitor = site.visitor();
    assert_eq!(visitor.get("/hello").text(), "hello\n");
    assert_eq!(visitor.request("POST", "/echo", &[], Some(b"body")).text(), "body");
    let (_, mut socket) = visitor.websocket("/ws", &[]);
    socket.send(Message::text("now")).expect("sent");
    assert_eq!(socket.read().expect("echoed"), Message::text("now"));
}

#[test]
fn a_visitor_who_finishes_sending_can_still_listen() {
    let site = Site::new();
    let mut visitor = upgraded(&site);
    visitor.send("last words");
    visitor.finish_writing();
    assert_eq!(visitor.raw(36), b"last wordsgoodbye from the upstream\n");
    site.upstream.wait_note("the visitor has finished");
    assert_eq!(visitor.ending(), Broken::Closed);
}

#[test]
fn an_upstream_that_finishes_sending_can_still_listen() {
    let site = Site::new();
    site.upstream.on("/half", |x| {
        x.send("HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: test/1\r\n\r\nbye")?;
        x.socket().finish_writing()?;
        let mut all = Vec::new();
        while let Ok(bytes) = x.raw() {
            all.extend(bytes);
        }
        x.note(format!("heard {}", all.escape_ascii()));
        Ok(Then::Close)
    });
    let mut visitor = site.visitor();
    visitor.ask("GET", "/half", &[("Connection", "Upgrade"), ("Upgrade", "test/1")]);
    assert_eq!(visitor.head("GET").status(), 101);
    assert_eq!(visitor.all_until_end(), (b"bye".to_vec(), Broken::Closed));
    visitor.send("are you ");
    visitor.send("still there?");
    visitor.finish_writing();
    site.upstream.wait_note("heard are you still there?");
}

#[test]
fn a_visitor_who_leaves_ends_the_upstreams_connection() {
    for abort in [false, true] {
        let site = Site::new();
        let visitor = upgraded(&site);
        let (connection, _) = site.upstream.wait_request("/upgrade");
        if abort {
            visitor.abort()
        } else {
            visitor.leave()
        }
        site.upstream.wait_closed(connection, std::time::Duration::from_secs(1));
    }
}

#[test]
fn an_upstream_that_leaves_ends_the_visitors_connection() {
    let site = Site::new();
    site.upstream.on("/leave", |x| {
        x.send("HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: test/1\r\n\r\n")?;
        let bytes = x.raw()?;
        Ok(if bytes == b"close" { Then::Close } else { Then::Abort })
    });
    for how in ["close", "abort"] {
        let mut visitor = site.visitor();
        visitor.ask("GET", "/leave", &[("Connection", "Upgrade"), ("Upgrade", "test/1")]);
        assert_eq!(visitor.head("GET").status(), 101);
        visitor.send(how);
        let end = visitor.ending();
        match how {
            "close" => assert_eq!(end, Broken::Closed),
            _ => assert_ne!(end, Broken::Silent),
        }
    }
}

#[test]
fn bulk_flows_through_an_upgraded_stream_both_ways_at_once() {
    let site = Site::new();
    let mut visitor = upgraded(&site);
    let socket = visitor.socket().clone();
    let len = 16 << 20;
    let sender = beside(move || {
        std::io::Write::write_all(&mut &socket, &pattern(0, len)).expect("sent");
        socket.finish_writing().expect("finished");
    });
    assert_eq!(first_difference(&visitor.raw(len), &pattern(0, len)), None);
    sender.join().expect("the sender");
    assert_eq!(visitor.raw(26), b"goodbye from the upstream\n");
}

#[test]
fn idle_sockets_cost_no_threads() {
    if is_direct() {
        return;
    }
    // Daemons of its own, so that what is counted is this test's.
    let world = e2e::world::World::start();
    let _upstream = world.publish("idle.test");
    let before = (world.gateway().daemon.threads(), world.agent().daemon.threads());
    let open = |_| world.visitor("idle.test").websocket("/ws", &[]).1;
    let mut sockets: Vec<_> = (0..300).map(open).collect();
    for (n, socket) in sockets.iter_mut().enumerate() {
        socket.send(Message::text(n.to_string())).expect("sent");
    }
    for (n, socket) in sockets.iter_mut().enumerate() {
        assert_eq!(socket.read().expect("echoed"), Message::text(n.to_string()));
    }
    let after = (world.gateway().daemon.threads(), world.agent().daemon.threads());
    assert!(after.0 < before.0 + 50 && after.1 < before.1 + 50, "{before:?} threads became {after:?}");
}

/// The body of an upgrade request in each framing, as it is sent.
fn bodies() -> [(&'static str, &'static [u8], &'static [u8]); 5] {
    [
        ("", b"", b""),
        ("Content-Length: 0\r\n", b"", b""),
        ("Content-Length: 38\r\n", SMUGGLED, SMUGGLED),
        (
            "Transfer-Encoding: chunked\r\n",
            b"26\r\nGET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n0\r\n\r\n",
            SMUGGLED,
        ),
        (
            "Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n",
            b"26\r\nGET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n0\r\nX-Sum: 1\r\n\r\n",
            SMUGGLED,
        ),
    ]
}

/// A body that looks like the next request.
const SMUGGLED: &[u8] = b"GET /smuggled HTTP/1.1\r\nHost: a.test\r\n";

#[test]
fn an_upgrade_request_that_is_answered_as_an_ordinary_one_leaves_nothing_behind() {
    let site = Site::new();
    site.upstream.on("/offer", |x| {
        let body = x.body()?;
        x.reply(200, &[], &body)
    });
    // One service connection serves all of them, so that what is left on it would meet the next request.
    for (fields, sent, body) in bodies() {
        let mut visitor = site.visitor();
        let head = format!(
            "POST /offer HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n{fields}\r\n",
            site.domain()
        );
        visitor.send([head.as_bytes(), sent].concat());
        let answer = visitor.response("POST");
        assert_eq!((answer.status(), &answer.body[..]), (200, body), "{fields:?}");
        assert_eq!(visitor.request("POST", "/offer", &[], Some(b"mine")).body, b"mine", "{fields:?}");
        assert_eq!(site.request("POST", "/offer", &[], Some(b"theirs")).body, b"theirs", "{fields:?}");
    }
    let paths: Vec<_> = site.upstream.requests().iter().map(|head| head.path()).collect();
    assert_eq!(paths, vec!["/offer"; 15], "not a byte of a body became a request");
}

#[test]
fn raw_bytes_begin_behind_the_body_of_an_upgrade_request() {
    let site = Site::new();
    site.upstream.on("/attach", |x| {
        let body = x.body()?;
        x.send("HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")?;
        let raw = x.raw()?;
        x.send([format!("{} bytes, then ", body.len()).as_bytes(), &raw].concat())?;
        Ok(Then::Close)
    });
    for (fields, sent, body) in bodies() {
        let mut visitor = site.visitor();
        let head = format!(
            "POST /attach HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n{fields}\r\n",
            site.domain()
        );
        visitor.send([head.as_bytes(), sent].concat());
        assert_eq!(visitor.head("POST").status(), 101, "{fields:?}");
        visitor.send("raw");
        let expected = format!("{} bytes, then raw", body.len());
        assert_eq!(visitor.raw(expected.len()), expected.as_bytes(), "{fields:?}");
        assert_eq!(visitor.ending(), Broken::Closed, "{fields:?}");
    }
}

#[test]
fn an_upgrade_request_whose_body_is_not_there_ends_both_connections_with_an_early_answer() {
    let site = Site::new();
    for (path, status) in [("/early-no", 403), ("/early-yes", 200)] {
        site.upstream.on(path, move |x| {
            x.forget_body();
            x.reply(status, &[], b"early")
        });
        let mut visitor = site.visitor();
        visitor.send(format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: x\r\nContent-Length: 40\r\n\r\n",
            site.domain()
        ));
        let answer = visitor.response("POST");
        assert_eq!((answer.status(), &answer.body[..]), (status, &b"early"[..]));
        let (connection, _) = site.upstream.wait_request(path);
        // Others come on connections on which nothing is owed.
        site.upstream.on("/after", |x| x.reply(200, &[("X-Connection", &x.connection().to_string())], b""));
        let after = site.get("/after");
        assert_ne!(after.get("x-connection"), Some(connection.to_string()));
        drop(visitor.try_send(SMUGGLED));
        assert_ne!(visitor.ending(), Broken::Silent);
    }
    assert!(site.upstream.requests().iter().all(|head| head.path() != "/smuggled"));
}
