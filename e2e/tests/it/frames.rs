//! Frames, Credit and what happens to a peer that breaks the rules, from both sides of the tunnel.

use std::time::Duration;

use e2e::bytes::pattern;
use e2e::message::Broken;
use e2e::peer::{FakeGateway, Peer, flag, hello, kind, open_payload, welcome};
use e2e::sample;
use e2e::upstream::Upstream;
use e2e::visitor::Visitor;
use e2e::world::{Agent, Folder, Gateway, Settings};
use serde_json::{Value, json};
use tungstenite::Message;

const ID: &str = "11111111-2222-4333-8444-555555555555";

/// A Gateway and an Agent played by hand that publishes `app.test`.
fn played_agent() -> (Gateway, Peer) {
    let gateway = Gateway::start(Settings::gateway());
    let peer = Peer::publishing(gateway.address(), ID, &["app.test"]);
    (gateway, peer)
}

/// An Agent with an upstream, and a Gateway played by hand that knows the mapping.
struct PlayedGateway {
    peer: Peer,
    mapping: [u8; 16],
    upstream: Upstream,
    gateway: FakeGateway,
    agent: Agent,
    _folder: Folder,
    streams: u32,
}

impl PlayedGateway {
    fn new() -> PlayedGateway {
        let gateway = FakeGateway::new();
        let folder = Folder::new();
        let mut settings = Settings::agent();
        settings.set("Agent__GatewayUrl", gateway.url());
        settings.set(
            "ConnectionStrings__DefaultConnection",
            format!("Data Source={}/a.db", folder.path().display()),
        );
        let agent = Agent::start(settings);
        let upstream = Upstream::start();
        sample::install(&upstream);
        let (_, peer) = gateway.accept();
        // Saved before the greeting is complete, so that the first table has it.
        let body = e2e::world::mapping("app.test", upstream.port(), json!({}));
        assert_eq!(agent.call("POST", "/api/v1/mappings", Some(&body)).status(), 201);
        let mut played =
            PlayedGateway { peer, mapping: [0; 16], upstream, gateway, agent, _folder: folder, streams: 0 };
        played.greet();
        played
    }

    /// Accepts the next connection of the Agent, after this one was lost.
    fn accept_again(&mut self) {
        (_, self.peer) = self.gateway.accept();
        self.greet();
    }

    fn greet(&mut self) {
        self.peer.expect_control("hello");
        self.peer.control(&welcome());
        loop {
            let config = self.peer.expect_control("config");
            let rows = config["mappings"].as_array().expect("a table").clone();
            let routes: Vec<_> = rows.iter().map(|row| json!({ "id": row["id"], "state": "ok" })).collect();
            self.peer.control(&json!({
                "type": "config-ack", "request": config["request"], "hash": config["hash"], "routes": routes,
            }));
            if let Some(row) = rows.first() {
                self.mapping = bytes_of_id(&row["id"]);
                return self.agent.wait_connected();
            }
        }
    }

    fn open(&mut self, flags: u8, credit: u32, head: &str) -> u32 {
        self.streams += 1;
        self.peer.send(kind::OPEN, flags, self.streams, &open_payload(credit, self.mapping, head));
        self.streams
    }

    /// A whole request that must be answered: the Agent is alive.
    fn works(&mut self) {
        let stream = self.open(0, 256 * 1024, "GET /hello HTTP/1.1\r\nHost: app.test\r\n\r\n");
        let mut body = Vec::new();
        loop {
            let frame = self.peer.receive();
            if frame.stream != stream {
                continue;
            }
            match frame.kind {
                kind::HEAD => assert!(frame.payload.starts_with(b"HTTP/1.1 200 "), "{frame:?}"),
                kind::DATA => body.extend_from_slice(&frame.payload),
                kind::END => {}
                other => panic!("type {other}: {frame:?}"),
            }
            if frame.kind == kind::END || (frame.kind == kind::DATA && frame.flags & flag::END != 0) {
                break;
            }
        }
        assert_eq!(body, b"hello\n");
    }
}

fn bytes_of_id(id: &Value) -> [u8; 16] {
    let digits: String = id.as_str().expect("an id").chars().filter(|c| *c != '-').collect();
    u128::from_str_radix(&digits, 16).expect("hexadecimal").to_be_bytes()
}

/// A visitor whose request is at the played Agent, and its stream.
fn asked(gateway: &Gateway, peer: &mut Peer) -> (Visitor, u32) {
    let mut visitor = gateway.visitor("app.test");
    visitor.ask("GET", "/", &[]);
    let stream = peer.expect_open().stream;
    (visitor, stream)
}

#[test]
fn a_gateway_closes_the_link_of_an_agent_that_breaks_the_protocol() {
    let gateway = Gateway::start(Settings::gateway());
    let frame = |kind: u8, stream: u32, payload: &[u8]| {
        Message::binary([&[kind, 0, 0, 0][..], &stream.to_be_bytes(), payload].concat())
    };
    let faults = [
        ("a text message", Message::text("hello")),
        ("an empty message", Message::binary(Vec::new())),
        ("half a header", Message::binary(vec![kind::DATA, 0, 0])),
        ("an unknown type", frame(0x50, 1, b"")),
        ("type 0", frame(0, 1, b"")),
        ("an open from the agent", frame(kind::OPEN, 1, &[0; 40])),
        ("data on stream 0", frame(kind::DATA, 0, b"x")),
        ("a beat on a stream", frame(kind::BEAT, 1, &[0; 8])),
        ("a short beat", frame(kind::BEAT, 0, &[0; 7])),
        ("a stream that never was", frame(kind::DATA, 4711, b"x")),
        ("a reset of a stream that never was", frame(kind::RESET, 4711, &[0, 1])),
        ("too much data in a frame", frame(kind::DATA, 1, &[0; 16 * 1024 + 1])),
        ("a credit of nothing", frame(kind::CREDIT, 1, &[0; 4])),
        ("an oversized message", Message::binary(vec![kind::CONTROL; 129 * 1024])),
        ("control that is no JSON", frame(kind::CONTROL, 0, b"{")),
        ("a second hello", frame(kind::CONTROL, 0, hello(ID).to_string().as_bytes())),
    ];
    for (what, message) in faults {
        let mut peer = Peer::publishing(gateway.address(), ID, &["app.test"]);
        let (mut visitor, _) = asked(&gateway, &mut peer);
        // An oversized message may be cut off while it is being sent.
        drop(peer.message(message));
        let end = peer.ending();
        assert!(end.is_over(), "{what}: the link stays open");
        let answer = visitor.response("GET");
        assert_eq!((answer.status(), &answer.json()["hop"]), (502, &json!("tunnel")), "{what}: {answer:?}");
    }
    // And then everything is as before.
    let mut peer = Peer::publishing(gateway.address(), ID, &["app.test"]);
    let (mut visitor, stream) = asked(&gateway, &mut peer);
    peer.answer(stream, b"fine");
    assert_eq!(visitor.response("GET").text(), "fine");
}

#[test]
fn an_agent_closes_the_link_of_a_gateway_that_breaks_the_protocol_and_dials_again() {
    let mut played = PlayedGateway::new();
    let mapping = played.mapping;
    let open = |head: &str| open_payload(1000, mapping, head);
    let frame = |kind: u8, stream: u32, payload: &[u8]| {
        Message::binary([&[kind, 0, 0, 0][..], &stream.to_be_bytes(), payload].concat())
    };
    let faults = [
        ("a text message", Message::text("hello")),
        ("an empty message", Message::binary(Vec::new())),
        ("an unknown type", frame(0x7f, 1, b"")),
        ("a head from the gateway", frame(kind::HEAD, 1, b"HTTP/1.1 200 OK\r\n\r\n")),
        ("an open on stream 0", frame(kind::OPEN, 0, &open("GET / HTTP/1.1\r\nHost: a\r\n\r\n"))),
        ("a short open", frame(kind::OPEN, 9_000_000, &[0; 10])),
        ("a stream that never was", frame(kind::DATA, 9_000_000, b"x")),
        ("an oversized message", Message::binary(vec![kind::CONTROL; 129 * 1024])),
        ("control that is no JSON", frame(kind::CONTROL, 0, b"[")),
    ];
    for (what, message) in faults {
        drop(played.peer.message(message));
        let end = played.peer.ending();
        assert!(end.is_over(), "{what}: the link stays open");
        played.streams = 0;
        played.accept_again();
        played.works();
    }
}

#[test]
fn a_head_that_is_none_costs_its_own_stream_only() {
    let mut played = PlayedGateway::new();
    for head in ["", "nonsense\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : x\r\n\r\n"] {
        let stream = played.open(0, 1000, head);
        loop {
            match played.peer.try_receive() {
                Ok(frame) if frame.kind == kind::RESET && frame.stream == stream => break,
                Ok(frame) => assert_ne!((frame.kind, frame.stream), (kind::HEAD, stream), "{head:?}"),
                // Closing the Link is allowed as well: only a broken Gateway sends this.
                Err(end) => {
                    assert!(end.is_over(), "{head:?}: {end:?}");
                    played.streams = 0;
                    played.accept_again();
                    break;
                }
            }
        }
        played.works();
    }
    assert!(played.upstream.requests().iter().all(|head| head.path() == "/hello"));
}

#[test]
fn frames_of_the_future_are_ignored() {
    let (gateway, mut peer) = played_agent();
    peer.send(0x80, 7, 0, b"something new");
    peer.send(0xff, 0, 3, &[0; 1000]);
    let (mut visitor, stream) = asked(&gateway, &mut peer);
    peer.answer(stream, b"fine");
    assert_eq!(visitor.response("GET").text(), "fine");

    let mut played = PlayedGateway::new();
    played.peer.send(0x80, 7, 0, b"something new");
    played.works();
}

#[test]
fn frames_of_a_stream_that_has_ended_are_dropped() {
    let (gateway, mut peer) = played_agent();
    let (visitor, stream) = asked(&gateway, &mut peer);
    visitor.leave();
    assert_eq!(peer.expect(kind::RESET).stream, stream);
    // These were in flight when the visitor left.
    peer.answer(stream, b"too late");
    peer.send(kind::RESET, 0, stream, &[0, 7]);
    let (mut visitor, stream) = asked(&gateway, &mut peer);
    peer.answer(stream, b"in time");
    assert_eq!(visitor.response("GET").text(), "in time");
}

#[test]
fn beats_are_answered_with_their_time() {
    let (_gateway, mut peer) = played_agent();
    let time = 0x0102_0304_0506_0708u64.to_be_bytes();
    peer.send(kind::BEAT, 0, 0, &time);
    let ack = peer.expect(kind::BEAT_ACK);
    assert_eq!((&ack.payload[..8], ack.payload.len(), ack.stream), (&time[..], 16, 0));

    let mut played = PlayedGateway::new();
    played.peer.send(kind::BEAT, 0, 0, &time);
    assert_eq!(&played.peer.expect(kind::BEAT_ACK).payload[..8], &time);
}

#[test]
fn stream_numbers_rise_and_are_never_used_again() {
    let (gateway, mut peer) = played_agent();
    let mut last = 0;
    for _ in 0..50 {
        let (mut visitor, stream) = asked(&gateway, &mut peer);
        assert!(stream > last, "{stream} after {last}");
        last = stream;
        peer.answer(stream, b"ok");
        assert_eq!(visitor.response("GET").text(), "ok");
    }
}

#[test]
fn a_gateway_sends_no_more_than_its_credit() {
    let gateway = Gateway::start(Settings::gateway());
    let mut peer = Peer::dial(gateway.address());
    let mut small = hello(ID);
    small["credit"] = json!(10_000);
    peer.control(&small);
    peer.expect_control("welcome");
    peer.publish(&["app.test"]);
    let mut visitor = gateway.visitor("app.test");
    visitor.ask("POST", "/", &[("Content-Length", "50000")]);
    visitor.send(pattern(0, 50_000));
    let open = peer.expect_open();
    assert_eq!(open.flags & flag::BODY, flag::BODY);
    let mut body = Vec::new();
    for granted in [10_000usize, 1, 4_999, 35_000] {
        if !body.is_empty() {
            peer.send(kind::CREDIT, 0, open.stream, &(granted as u32).to_be_bytes());
        }
        let allowed = body.len() + granted;
        while body.len() < allowed {
            let frame = peer.expect(kind::DATA);
            body.extend_from_slice(&frame.payload);
            assert!(body.len() <= allowed, "{} bytes with credit for {allowed}", body.len());
        }
        // A Beat comes back in order: nothing more was sent before it.
        peer.send(kind::BEAT, 0, 0, &[1; 8]);
        let mut next = peer.receive();
        while next.kind == kind::CONTROL {
            // What the Gateway tells by itself may come at any time.
            next = peer.receive();
        }
        let ended = body.len() == 50_000 && matches!(next.kind, kind::END | kind::DATA);
        assert!(next.kind == kind::BEAT_ACK || ended, "{next:?} with the credit used up");
    }
    assert_eq!(body, pattern(0, 50_000));
    peer.answer(open.stream, b"thanks");
    assert_eq!(visitor.response("POST").text(), "thanks");
}

#[test]
fn an_agent_sends_no_more_than_its_credit() {
    let mut played = PlayedGateway::new();
    let stream = played.open(0, 10_000, "GET /bytes?n=50000 HTTP/1.1\r\nHost: app.test\r\n\r\n");
    assert_eq!(played.peer.expect(kind::HEAD).stream, stream);
    let mut body = Vec::new();
    for granted in [10_000usize, 1, 4_999, 35_000] {
        if !body.is_empty() {
            played.peer.send(kind::CREDIT, 0, stream, &(granted as u32).to_be_bytes());
        }
        let allowed = body.len() + granted;
        while body.len() < allowed {
            body.extend_from_slice(&played.peer.expect(kind::DATA).payload);
            assert!(body.len() <= allowed, "{} bytes with credit for {allowed}", body.len());
        }
    }
    assert_eq!(body, pattern(0, 50_000));
    played.works();
}

#[test]
fn an_agent_that_exceeds_its_credit_is_cut_off() {
    let (gateway, mut peer) = played_agent();
    let mut visitor = gateway.visitor("app.test");
    visitor.ask("GET", "/", &[]);
    let open = peer.expect_open();
    peer.send(kind::HEAD, flag::BODY, open.stream, b"HTTP/1.1 200 OK\r\n\r\n");
    // The visitor reads nothing, so no more is granted than was given at first and fits into sockets.
    let block = vec![0; 16 * 1024];
    let mut sent = 0;
    while sent < (64 << 20) && peer.try_send(kind::DATA, 0, open.stream, &block).is_ok() {
        sent += block.len();
    }
    assert!(sent < (64 << 20), "64 MiB were accepted with a credit of {}", open.credit);
    assert!(peer.ending().is_over());
    assert_ne!(visitor.ending(), Broken::Silent);
}

#[test]
fn a_gateway_that_exceeds_its_credit_is_cut_off() {
    let mut played = PlayedGateway::new();
    let stream = played.open(flag::BODY, 1000, "POST /deaf HTTP/1.1\r\nHost: app.test\r\n\r\n");
    let block = vec![0; 16 * 1024];
    let mut sent = 0;
    while sent < (64 << 20) && played.peer.try_send(kind::DATA, 0, stream, &block).is_ok() {
        sent += block.len();
    }
    assert!(sent < (64 << 20), "64 MiB were accepted");
    assert!(played.peer.ending().is_over());
}

#[test]
fn a_stalled_visitor_stops_his_own_stream_only() {
    let (gateway, mut peer) = played_agent();
    let (mut stalled, first) = asked(&gateway, &mut peer);
    peer.send(kind::HEAD, flag::BODY, first, b"HTTP/1.1 200 OK\r\n\r\n");
    let block = vec![7; 16 * 1024];
    // Exactly the credit given at first: the rules allow that whatever the visitor does.
    for _ in 0..4 {
        peer.send(kind::DATA, 0, first, &block);
    }
    for _ in 0..20 {
        let (mut visitor, stream) = asked(&gateway, &mut peer);
        peer.answer(stream, b"quick");
        assert_eq!(visitor.response("GET").text(), "quick");
    }
    peer.send(kind::END, 0, first, b"");
    assert_eq!(stalled.response("GET").body, vec![7; 64 * 1024]);
}

#[test]
fn a_declared_length_is_enforced_at_the_gateway() {
    let (gateway, mut peer) = played_agent();
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n";
    let (mut visitor, stream) = asked(&gateway, &mut peer);
    peer.send(kind::HEAD, flag::BODY, stream, head);
    peer.send(kind::DATA, flag::END, stream, b"too short");
    let failed = visitor.try_response("GET").expect_err("a byte is missing");
    assert_eq!(failed.body, b"too short");

    let (mut visitor, stream) = asked(&gateway, &mut peer);
    peer.send(kind::HEAD, flag::BODY, stream, head);
    peer.send(kind::DATA, flag::END, stream, b"much too long");
    let failed = visitor.try_response("GET").expect_err("the connection ends, and not behind ten bytes");
    assert!(failed.body.len() < 10, "{failed:?}");
    // The Stream was to blame, not the Link.
    let (mut visitor, stream) = asked(&gateway, &mut peer);
    peer.answer(stream, b"fine");
    assert_eq!(visitor.response("GET").text(), "fine");
}

#[test]
fn every_reason_becomes_its_status() {
    let (gateway, mut peer) = played_agent();
    let table = [
        (2u16, 502, "upstream"),
        (3, 502, "upstream"),
        (4, 502, "upstream"),
        (5, 502, "upstream"),
        (6, 504, "upstream"),
        (7, 502, "upstream"),
        (8, 502, "upstream"),
        (9, 404, "agent"),
        (10, 503, "agent"),
        (11, 502, "agent"),
        (12, 503, "gateway"),
        (13, 504, "upstream"),
        (16, 503, "tunnel"),
        (17, 502, "tunnel"),
        (999, 502, "tunnel"),
    ];
    for (code, status, hop) in table {
        let (mut visitor, stream) = asked(&gateway, &mut peer);
        peer.send(kind::RESET, 0, stream, &[&code.to_be_bytes()[..], b"secret: 10.0.0.7:8080"].concat());
        let answer = visitor.response("GET");
        assert_eq!(
            (answer.status(), &answer.json()["hop"]),
            (status, &json!(hop)),
            "code {code}: {answer:?}"
        );
        assert!(
            !answer.text().contains("10.0.0.7"),
            "the log's text is not the visitor's: {}",
            answer.text()
        );
        assert_eq!(answer.get("retry-after").is_some(), matches!(code, 12 | 16), "code {code}: {answer:?}");
    }
}

#[test]
fn an_agent_names_what_is_wrong() {
    let mut played = PlayedGateway::new();
    let mapping = played.mapping;
    let mut reset = |mapping: [u8; 16], head: &str| {
        played.mapping = mapping;
        let stream = played.open(0, 1000, head);
        let frame = played.peer.expect(kind::RESET);
        assert_eq!(frame.stream, stream);
        frame.code()
    };
    assert_eq!(reset([9; 16], "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n"), 9, "an unknown mapping");
    assert_eq!(
        reset(mapping, "GET /no-answer HTTP/1.1\r\nHost: app.test\r\n\r\n"),
        7,
        "an upstream that broke"
    );
    played.mapping = mapping;
    let stream = played.open(0, 1000, "GET /hang HTTP/1.1\r\nHost: app.test\r\n\r\n");
    let (connection, _) = played.upstream.wait_request("/hang");
    played.peer.send(kind::RESET, 0, stream, &[0, 1]);
    played.upstream.wait_closed(connection, Duration::from_secs(1));
    played.works();
}

#[test]
fn interim_heads_and_trailers_come_out_of_the_tunnel() {
    let (gateway, mut peer) = played_agent();
    let (mut visitor, stream) = asked(&gateway, &mut peer);
    peer.send(kind::HEAD, flag::INTERIM, stream, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    peer.send(kind::HEAD, flag::BODY, stream, b"HTTP/1.1 200 OK\r\nTrailer: X-End\r\n\r\n");
    peer.send(kind::DATA, 0, stream, b"body");
    peer.send(kind::END, 0, stream, b"X-End: yes\r\n");
    let answer = visitor.response("GET");
    assert_eq!((answer.interim.len(), answer.text().as_str()), (1, "body"));
    assert_eq!(answer.trailers, [("X-End".to_owned(), b"yes".to_vec())]);
}
