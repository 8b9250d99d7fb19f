//! How a Link and a Session begin, against peers that are played by hand.

use std::time::Duration;

use e2e::journal::{PATIENCE, until};
use e2e::peer::{FakeGateway, Peer, SUB_PROTOCOL, agent_fields, hello, kind, welcome};
use e2e::sample::beside;
use e2e::websocket;
use e2e::world::{Agent, Folder, Gateway, KEY, Settings, World};
use serde_json::{Value, json};

const ID: &str = "11111111-2222-4333-8444-555555555555";
const OTHER: &str = "99999999-2222-4333-8444-555555555555";

fn gateway() -> Gateway {
    Gateway::start(Settings::gateway())
}

/// An Agent that dials a Gateway played by the test.
fn agent(url: &str) -> (Folder, Agent) {
    let folder = Folder::new();
    let mut settings = Settings::agent();
    settings.set("Agent__GatewayUrl", url);
    settings.set("Agent__Name", "the machine at home");
    settings
        .set("ConnectionStrings__DefaultConnection", format!("Data Source={}/a.db", folder.path().display()));
    let agent = Agent::start(settings);
    (folder, agent)
}

/// The fields of an Agent, one replaced (or, with an empty value, left out).
fn fields_with<'f>(name: &'f str, value: &'f str) -> Vec<(&'f str, &'f str)> {
    let mut fields = agent_fields();
    fields.retain(|(n, _)| *n != name);
    if !value.is_empty() {
        fields.push((name, value));
    }
    fields
}

#[test]
fn a_link_is_refused_with_the_reason() {
    let gateway = gateway();
    let table = [
        ("Upgrade", "", 400),
        ("Upgrade", "h2c", 400),
        ("Sec-WebSocket-Key", "", 400),
        ("Sec-WebSocket-Version", "8", 400),
        ("X-Api-Key", "", 401),
        ("X-Api-Key", "wrong", 401),
        ("X-Api-Key", "an-api-key-for-tests-0123456789-abcdefghik", 401),
        ("Sec-WebSocket-Protocol", "", 426),
        ("Sec-WebSocket-Protocol", "octoporty.v9, chat", 426),
    ];
    for (name, value, status) in table {
        let Err(answer) = Peer::try_dial(gateway.address(), &fields_with(name, value)) else {
            panic!("{name}: {value:?} was accepted");
        };
        assert_eq!(answer.status(), status, "{name}: {value:?}: {answer:?}");
        assert!(!answer.text().contains(KEY), "{answer:?}");
        match status {
            426 => assert!(answer.text().contains(SUB_PROTOCOL), "says what it speaks: {}", answer.text()),
            401 => {
                assert!(answer.text().to_lowercase().contains("key"), "says what is wrong: {}", answer.text())
            }
            _ => {}
        }
    }
    assert!(
        Peer::try_dial(gateway.address(), &agent_fields()).is_ok(),
        "the same without a fault is accepted"
    );
}

#[test]
fn the_key_is_accepted_in_the_header_only() {
    let gateway = gateway();
    let mut visitor = gateway.visitor("localhost");
    let fields = websocket::request_fields(&[("Sec-WebSocket-Protocol", SUB_PROTOCOL)]);
    for query in ["api_key", "apiKey", "X-Api-Key", "key"] {
        let answer = visitor.try_request("GET", &format!("/tunnel?{query}={KEY}"), &fields, None);
        match answer {
            Ok(answer) => assert_eq!(answer.status(), 401, "{query}: {answer:?}"),
            Err(failed) => panic!("{query}: {failed:?}"),
        }
        visitor = gateway.visitor("localhost");
    }
}

#[test]
fn an_origin_must_be_allowed() {
    let mut settings = Settings::gateway();
    settings.set("Gateway__AllowedOrigins", "https://admin.example.com");
    let gateway = Gateway::start(settings);
    let foreign = Peer::try_dial(gateway.address(), &fields_with("Origin", "https://evil.example"));
    let Err(answer) = foreign else { panic!("a foreign page opened a tunnel") };
    assert_eq!(answer.status(), 403, "{answer:?}");
    assert!(Peer::try_dial(gateway.address(), &fields_with("Origin", "https://admin.example.com")).is_ok());
    assert!(Peer::try_dial(gateway.address(), &agent_fields()).is_ok(), "Agents send none");
}

#[test]
fn guessing_keys_is_slowed_down() {
    let gateway = gateway();
    for _ in 0..10 {
        let Err(answer) = Peer::try_dial(gateway.address(), &fields_with("X-Api-Key", "guess")) else {
            panic!("a guess was accepted");
        };
        assert_eq!(answer.status(), 401);
    }
    let Err(answer) = Peer::try_dial(gateway.address(), &fields_with("X-Api-Key", "guess")) else {
        panic!("a guess was accepted");
    };
    assert_eq!(answer.status(), 429, "{answer:?}");
}

#[test]
fn there_is_room_for_so_many_agents_only() {
    let mut settings = Settings::gateway();
    settings.set("Gateway__MaxAgents", "1");
    let gateway = Gateway::start(settings);
    let first = Peer::publishing(gateway.address(), ID, &["one.test"]);
    match Peer::try_dial(gateway.address(), &agent_fields()) {
        Err(answer) => assert_eq!(answer.status(), 503, "{answer:?}"),
        // The identity is known after the hello only.
        Ok(mut peer) => {
            peer.control(&hello(OTHER));
            let refused = peer.receive().json();
            assert_eq!((&refused["type"], &refused["code"]), (&json!("refused"), &json!("too-many-agents")));
        }
    }
    drop(first);
    until("room for another", PATIENCE, || {
        let mut peer = Peer::try_dial(gateway.address(), &agent_fields()).ok()?;
        peer.control(&hello(OTHER));
        (peer.receive().json()["type"] == "welcome").then_some(())
    });
}

#[test]
fn the_welcome_tells_what_the_agent_needs() {
    let (_peer, welcome) = Peer::greeted(gateway().address(), ID);
    assert_eq!(welcome["version"], 1, "{welcome}");
    assert_eq!(welcome["links"], 4, "{welcome}");
    assert_eq!(welcome["heartbeatSeconds"], 30, "{welcome}");
    assert!(welcome["session"].as_str().is_some_and(|s| s.len() >= 16), "hard to guess: {welcome}");
    assert!(welcome["generation"].is_u64() && welcome["maxStreams"].is_u64(), "{welcome}");
}

#[test]
fn versions_are_negotiated_or_refused() {
    let gateway = gateway();
    let versions = |min: u32, max: u32| {
        let mut hello = hello(ID);
        hello["minVersion"] = json!(min);
        hello["maxVersion"] = json!(max);
        let mut peer = Peer::dial(gateway.address());
        peer.control(&hello);
        (peer.receive().json(), peer)
    };
    let (newer, _peer) = versions(1, 99);
    assert_eq!((&newer["type"], &newer["version"]), (&json!("welcome"), &json!(1)), "the highest both speak");
    let (refused, mut peer) = versions(98, 99);
    assert_eq!((&refused["type"], &refused["code"]), (&json!("refused"), &json!("version")));
    assert!(refused["message"].as_str().is_some_and(|m| !m.is_empty()), "{refused}");
    assert!(peer.ending().is_over());
}

#[test]
fn a_hello_that_makes_no_sense_closes_the_link() {
    let gateway = gateway();
    let broken: [Value; 4] = [
        json!({ "type": "hello" }),
        json!({ "type": "config", "request": 1, "hash": "", "mappings": [] }),
        json!({ "minVersion": 1 }),
        json!(["hello"]),
    ];
    for hello in &broken {
        let mut peer = Peer::dial(gateway.address());
        peer.control(hello);
        let end = loop {
            match peer.try_receive() {
                Ok(frame) => assert_ne!(frame.json()["type"], "welcome", "{hello}"),
                Err(end) => break end,
            }
        };
        assert!(end.is_over(), "{hello}: {end:?}");
    }
    let mut peer = Peer::dial(gateway.address());
    peer.send(kind::CONTROL, 0, 0, b"\xff no JSON");
    assert!(peer.ending().is_over());
}

#[test]
fn a_peer_that_never_says_hello_is_not_kept() {
    let gateway = gateway();
    let mut peer = Peer::dial(gateway.address());
    peer.set_patience(Duration::from_secs(25));
    assert!(peer.ending().is_over());
}

#[test]
fn unknown_fields_are_ignored_and_unknown_messages_answered() {
    let gateway = gateway();
    let mut peer = Peer::dial(gateway.address());
    let mut hello = hello(ID);
    hello["aFieldOfTheFuture"] = json!({ "deep": [1, 2, 3] });
    peer.control(&hello);
    peer.expect_control("welcome");
    peer.control(&json!({ "type": "message-of-the-future", "x": 1 }));
    let unsupported = peer.expect_control("unsupported");
    assert_eq!(unsupported["what"], "message-of-the-future");
    peer.publish(&["still.test"]);
}

#[test]
fn a_session_serves_after_its_first_config_only() {
    let gateway = gateway();
    let (mut peer, _) = Peer::greeted(gateway.address(), ID);
    assert_eq!(gateway.visitor("first.test").get("/").status(), 404);
    peer.publish(&["first.test"]);
    let mut visitor = gateway.visitor("first.test");
    visitor.ask("GET", "/path", &[]);
    let open = peer.expect_open();
    assert_eq!(open.mapping, 1u128.to_be_bytes());
    assert_eq!((open.head.method().as_str(), open.head.target().as_str()), ("GET", "/path"));
    assert_eq!(open.visitor, "127.0.0.1");
    assert_eq!(open.flags, 0, "no body, no upgrade");
    peer.answer(open.stream, b"from the first");
    assert_eq!(visitor.response("GET").text(), "from the first");
}

#[test]
fn a_new_session_of_the_same_agent_replaces_the_old_one_at_once() {
    let gateway = gateway();
    let mut old = Peer::publishing(gateway.address(), ID, &["same.test"]);
    // The old one is frozen: it answers nothing, and nobody waits for it.
    old.ignore_beats();
    let mut waiting = gateway.visitor("same.test");
    waiting.ask("GET", "/under-way", &[]);
    old.expect_open();
    let (mut new, _) = Peer::greeted(gateway.address(), ID);
    old.set_patience(Duration::from_secs(2));
    assert!(old.ending().is_over(), "the old session's socket stays open");
    let answer = waiting.response("GET");
    assert_eq!((answer.status(), &answer.json()["hop"]), (502, &json!("tunnel")), "{answer:?}");
    assert!(answer.get("retry-after").is_some(), "trying again helps: {answer:?}");
    new.publish(&["same.test"]);
    let mut visitor = gateway.visitor("same.test");
    visitor.ask("GET", "/", &[]);
    let open = new.expect_open();
    new.answer(open.stream, b"new");
    assert_eq!(visitor.response("GET").text(), "new");
}

#[test]
fn routes_of_the_old_session_stay_until_the_new_ones_are_there() {
    let gateway = gateway();
    let old = Peer::publishing(gateway.address(), ID, &["stays.test", "goes.test"]);
    drop(old);
    let (mut new, _) = Peer::greeted(gateway.address(), ID);
    // Known, so held or told to try again: not "nothing is published here".
    let mut held = gateway.visitor("stays.test");
    held.ask("GET", "/", &[]);
    new.publish(&["stays.test"]);
    let open = new.expect_open();
    new.answer(open.stream, b"held");
    assert_eq!(held.response("GET").text(), "held");
    assert_eq!(gateway.visitor("goes.test").get("/").status(), 404, "it is in no table any more");
}

#[test]
fn links_join_a_session_and_share_its_streams() {
    let gateway = gateway();
    let (mut first, welcome) = Peer::greeted(gateway.address(), ID);
    first.publish(&["linked.test"]);
    let mut join = hello(ID);
    join["session"] = welcome["session"].clone();
    let mut second = Peer::dial(gateway.address());
    second.control(&join);
    assert_eq!(second.expect_control("welcome")["session"], welcome["session"]);
    // Losing one Link costs its own Streams only, and the other one goes on.
    second.cut();
    wait_lost(&gateway, 1);
    for n in 0..10 {
        let mut visitor = gateway.visitor("linked.test");
        visitor.ask("GET", &format!("/{n}"), &[]);
        let open = first.expect_open();
        first.answer(open.stream, b"ok");
        assert_eq!(visitor.response("GET").text(), "ok");
    }
}

/// A further Link of a Session, called `name`, by an Agent that says which others it holds.
fn join(gateway: &Gateway, welcome: &Value, name: &str, holds: &[&str]) -> Peer {
    let mut hello = hello(ID);
    hello["session"] = welcome["session"].clone();
    hello["link"] = json!(name);
    hello["holds"] = json!(holds);
    let mut peer = Peer::dial(gateway.address());
    peer.control(&hello);
    peer.expect_control("welcome");
    peer
}

#[test]
fn the_gateway_drops_links_that_the_agent_has_lost() {
    let gateway = gateway();
    let mut first = Peer::dial(gateway.address());
    let mut greeting = hello(ID);
    greeting["link"] = json!("one");
    first.control(&greeting);
    let welcome = first.expect_control("welcome");
    first.publish(&["lost.test"]);
    // An older Agent does not name its Links: they are left alone.
    let mut nameless = Peer::dial(gateway.address());
    let mut greeting = hello(ID);
    greeting["session"] = welcome["session"].clone();
    nameless.control(&greeting);
    nameless.expect_control("welcome");
    // The others have been asked for a sign of life, and nobody reads that here: this is the one for a request.
    let mut second = join(&gateway, &welcome, "two", &["one"]);
    let mut waiting = gateway.visitor("lost.test");
    waiting.ask("GET", "/", &[]);
    second.expect_open();
    let mut third = join(&gateway, &welcome, "three", &["one"]);
    assert!(second.ending().is_over());
    let answer = waiting.response("GET");
    assert_eq!((answer.status(), &answer.json()["hop"]), (502, &json!("tunnel")), "{answer:?}");
    for peer in [&mut first, &mut nameless, &mut third] {
        peer.set_patience(Duration::from_secs(1));
        assert!(!peer.ending().is_over(), "the others stay");
    }
}

/// Waits until the Gateway has noticed the end of its Link with this number, which it counts from 0.
fn wait_lost(gateway: &Gateway, number: usize) {
    let closed = format!("link t{number} closed");
    until(&closed, PATIENCE, || {
        gateway.daemon.lines().iter().any(|line| line.contains(&closed)).then_some(())
    });
}

/// Plays a Link that answers Beats, and requests with `here`, until it ends; gives how many requests there were.
fn answering(mut peer: Peer) -> std::thread::JoinHandle<usize> {
    beside(move || {
        let mut seen = 0;
        while let Ok(frame) = peer.try_receive() {
            if frame.kind == kind::OPEN {
                peer.answer(frame.stream, b"here");
                seen += 1;
            }
        }
        seen
    })
}

#[test]
fn nothing_new_goes_over_a_link_that_does_not_answer() {
    let gateway = gateway();
    let (mut silent, welcome) = Peer::greeted(gateway.address(), ID);
    silent.publish(&["doubt.test"]);
    let others: Vec<_> = ["one", "two"]
        .iter()
        .map(|name| answering(join(&gateway, &welcome, name, &["one", "two"])))
        .collect();
    // A Link is lost: all are asked, and so is this one, which was sound until now.
    let lost = join(&gateway, &welcome, "lost", &["one", "two"]);
    lost.cut();
    wait_lost(&gateway, 3);
    silent.ignore_beats();
    silent.expect(kind::BEAT);
    let visitors: Vec<_> = (0..32)
        .map(|_| {
            let mut visitor = gateway.visitor("doubt.test");
            visitor.ask("GET", "/", &[]);
            visitor
        })
        .collect();
    for mut visitor in visitors {
        assert_eq!(visitor.response("GET").text(), "here");
    }
    // The others answer, so it need not be waited for long.
    silent.set_patience(Duration::from_secs(8));
    loop {
        match silent.try_receive() {
            Ok(frame) => assert_ne!(frame.kind, kind::OPEN, "a request over a link in doubt"),
            Err(end) => break assert!(end.is_over(), "{end:?}"),
        }
    }
    drop(gateway);
    let seen: usize = others.into_iter().map(|thread| thread.join().expect("a link that answers")).sum();
    assert_eq!(seen, 32);
}

#[test]
fn while_no_link_answers_requests_wait() {
    let gateway = gateway();
    let (mut first, welcome) = Peer::greeted(gateway.address(), ID);
    first.publish(&["doubt.test"]);
    // The greeting of a further Link is a reason to ask the first one, which does not answer; then that is lost.
    first.ignore_beats();
    join(&gateway, &welcome, "second", &[]).cut();
    wait_lost(&gateway, 1);
    let mut visitor = gateway.visitor("doubt.test");
    visitor.ask("GET", "/", &[]);
    visitor.expect_silence(Duration::from_millis(300));
    let mut beats = Vec::new();
    first.set_patience(Duration::from_millis(300));
    while let Ok(frame) = first.try_receive() {
        assert_ne!(frame.kind, kind::OPEN, "a request over a link in doubt");
        beats.extend((frame.kind == kind::BEAT).then_some(frame));
    }
    first.set_patience(PATIENCE);
    // The answer ends the doubt, and the request goes on.
    let beat = beats.pop().expect("a beat");
    first.send(kind::BEAT_ACK, 0, 0, &[&beat.payload[..], &7u64.to_be_bytes()].concat());
    let open = first.expect_open();
    first.answer(open.stream, b"late");
    assert_eq!(visitor.response("GET").text(), "late");
}

#[test]
fn a_session_cannot_be_joined_by_guessing_or_by_another_agent() {
    let gateway = gateway();
    let (mut first, welcome) = Peer::greeted(gateway.address(), ID);
    first.publish(&["mine.test"]);
    for (id, session) in [(ID, json!("guessed")), (OTHER, welcome["session"].clone())] {
        let mut join = hello(id);
        join["session"] = session;
        let mut peer = Peer::dial(gateway.address());
        peer.control(&join);
        let answer = peer.receive().json();
        assert_eq!(
            (&answer["type"], &answer["code"]),
            (&json!("refused"), &json!("session-unknown")),
            "{answer}"
        );
    }
    let mut visitor = gateway.visitor("mine.test");
    visitor.ask("GET", "/", &[]);
    let open = first.expect_open();
    first.answer(open.stream, b"undisturbed");
    assert_eq!(visitor.response("GET").text(), "undisturbed");
}

#[test]
fn an_agent_introduces_itself() {
    let gateway = FakeGateway::new();
    let (_folder, agent) = agent(&gateway.url());
    let (head, mut peer) = gateway.accept();
    assert_eq!((head.method().as_str(), head.target().as_str()), ("GET", "/tunnel"));
    assert_eq!(head.get("x-api-key").as_deref(), Some(KEY));
    assert!(head.lists("sec-websocket-protocol", SUB_PROTOCOL), "{head:?}");
    assert_eq!(head.get("origin"), None);
    assert!(gateway.url().contains(&head.get("host").unwrap_or_default()), "{head:?}");
    let hello = peer.expect_control("hello");
    assert_eq!((&hello["minVersion"], &hello["maxVersion"]), (&json!(1), &json!(1)), "{hello}");
    assert_eq!(hello["agentId"].as_str().map(str::len), Some(36), "a UUID: {hello}");
    assert_eq!(hello["agentName"], "the machine at home");
    assert!(hello["credit"].as_u64().is_some_and(|c| c >= 64 * 1024), "{hello}");
    assert!(hello["session"].is_null(), "{hello}");
    peer.control(&welcome());
    let config = peer.expect_control("config");
    assert_eq!(config["mappings"], json!([]), "{config}");
    assert_ne!(agent.status()["connectionStatus"], "Connected", "not before the table is acknowledged");
    peer.control(&json!({
        "type": "config-ack", "request": config["request"], "hash": config["hash"], "routes": [],
    }));
    agent.wait_connected();
    assert_eq!(agent.status()["gatewayVersion"], "0.0.0-test");
}

#[test]
fn an_agent_keeps_its_identity() {
    let gateway = FakeGateway::new();
    let (_folder, mut agent) = agent(&gateway.url());
    let (hello, peer) = gateway.greet();
    drop(peer);
    agent.restart();
    // What is left of the old process's attempts may come first; the identity is the same in any case.
    let (again, _peer) = gateway.greet();
    assert_eq!(hello["agentId"], again["agentId"]);
}

#[test]
fn an_agent_sends_enabled_mappings_only_and_no_targets() {
    let gateway = FakeGateway::new();
    let (_folder, agent) = agent(&gateway.url());
    let (_, mut peer) = gateway.greet();
    agent.wait_connected();
    let acknowledge = |peer: &mut Peer| {
        let config = peer.expect_control("config");
        let rows = config["mappings"].as_array().expect("a table").clone();
        let routes: Vec<_> = rows.iter().map(|row| json!({ "id": row["id"], "state": "ok" })).collect();
        peer.control(&json!({
            "type": "config-ack", "request": config["request"], "hash": config["hash"], "routes": routes,
        }));
        rows
    };
    let saving = e2e::sample::beside(move || {
        agent.map("shown.test", 4711);
        let hidden = e2e::world::mapping("hidden.test", 4712, json!({ "isEnabled": false }));
        assert_eq!(agent.call("POST", "/api/v1/mappings", Some(&hidden)).status(), 201);
        agent
    });
    let rows = acknowledge(&mut peer);
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0]["domain"], "shown.test");
    let text = rows[0].to_string();
    assert!(!text.contains("4711") && !text.contains("127.0.0.1"), "targets stay at home: {text}");
    drop(saving.join().expect("the operator"));
}

#[test]
fn a_refused_agent_shows_why_and_tries_again() {
    let gateway = FakeGateway::new();
    let (_folder, agent) = agent(&gateway.url());
    let refuse = || {
        let (_, mut peer) = gateway.accept();
        peer.expect_control("hello");
        peer.control(
            &json!({ "type": "refused", "code": "version", "message": "please update the Gateway first" }),
        );
        assert!(peer.ending().is_over());
    };
    refuse();
    until("the reason in the status", PATIENCE, || {
        let status = agent.status();
        status["lastError"]
            .as_str()
            .is_some_and(|e| e.contains("please update the Gateway first"))
            .then_some(())
    });
    refuse();
    gateway.greet();
}

#[test]
fn an_agent_with_a_wrong_key_says_so_and_goes_on_trying() {
    let world =
        World::plan().agent("Agent__ApiKey", "a-different-key-0123456789-0123456789-0123").start_apart();
    let error =
        until("an error", PATIENCE, || world.agent().status()["lastError"].as_str().map(str::to_owned));
    assert!(error.to_lowercase().contains("key"), "{error}");
    until("another try", PATIENCE, || {
        world.agent().status()["reconnectAttempts"].as_u64().filter(|n| *n >= 2)
    });
}

#[test]
fn an_agent_survives_gateways_that_are_none() {
    let gateway = FakeGateway::new();
    let (_folder, agent) = agent(&gateway.url());
    let answers: [&[u8]; 7] = [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 301 Moved\r\nLocation: http://elsewhere.example/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Accept: wrong\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x03\x00\x02\x02\x28",
    ];
    for answer in answers {
        let (_, mut socket) = gateway.accept_head();
        std::io::Write::write_all(&mut socket, answer).expect("the answer");
        drop(socket);
    }
    let (_, peer) = gateway.greet();
    agent.wait_connected();
    drop(peer);
}

#[test]
fn a_gateway_that_breaks_off_at_any_point_is_dialled_again() {
    let gateway = FakeGateway::new();
    let (_folder, agent) = agent(&gateway.url());
    let (_, peer) = gateway.accept();
    peer.cut();
    let (_, mut peer) = gateway.accept();
    peer.expect_control("hello");
    peer.cut();
    let (_, mut peer) = gateway.accept();
    peer.expect_control("hello");
    peer.control(&welcome());
    peer.expect_control("config");
    peer.cut();
    let (_, peer) = gateway.greet();
    agent.wait_connected();
    drop(peer);
}
