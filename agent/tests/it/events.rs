//! Live events over real sockets: who hears what, and who is sent away.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use agent::events::{Event, LISTENERS};
use shared::logging::{Level, Line};

use crate::world::{SECRET, SOON, World, status};

/// One who listens.
struct Listener {
    socket: TcpStream,
    reader: BufReader<TcpStream>,
    /// What the chunks contained and has not been read as events.
    text: String,
    over: bool,
}

/// An event as a browser would get it.
#[derive(Debug, PartialEq)]
struct Seen {
    id: Option<String>,
    name: String,
    data: Value,
}

impl Listener {
    /// Listens; the status if that is not 200.
    fn new(world: &World, token: &str, seen: Option<&str>) -> Result<Listener, u16> {
        let mut socket = world.connect();
        let seen = seen.map_or_else(String::new, |id| format!("Last-Event-ID: {id}\r\n"));
        write!(
            socket,
            "GET /api/v1/events HTTP/1.1\r\nHost: agent\r\nAuthorization: Bearer {token}\r\n{seen}\r\n"
        )
        .expect("sent");
        let mut reader = BufReader::new(socket.try_clone().expect("a handle"));
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(reader.read_line(&mut head).expect("a line"), 0, "{head}");
        }
        match status(&head) {
            200 => {}
            refused => return Err(refused),
        }
        for field in
            ["Content-Type: text/event-stream", "Cache-Control: no-store", "Transfer-Encoding: chunked"]
        {
            assert!(head.contains(field), "{head}");
        }
        let mut listener = Listener { socket, reader, text: String::new(), over: false };
        assert_eq!(listener.block().as_deref(), Some("retry: 2000"));
        Ok(listener)
    }

    /// The next block of lines; `None` at the regular end.
    fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let block = block.to_owned();
                self.text = rest.to_owned();
                return Some(block);
            }
            if self.over {
                return None;
            }
            let mut size = String::new();
            assert_ne!(self.reader.read_line(&mut size).expect("a chunk"), 0, "cut off");
            let size = usize::from_str_radix(size.trim_end(), 16).expect("a size");
            let mut chunk = vec![0; size + 2];
            self.reader.read_exact(&mut chunk).expect("a chunk");
            assert!(chunk.ends_with(b"\r\n"));
            self.text.push_str(std::str::from_utf8(&chunk[..size]).expect("text"));
            self.over = size == 0;
        }
    }

    /// The next event of this name; those of other names are left out.
    fn next(&mut self, wanted: &str) -> Option<Seen> {
        loop {
            let block = self.block()?;
            let field = |name: &str| {
                let prefix = format!("{name}: ");
                block.lines().find_map(|line| line.strip_prefix(&prefix)).map(str::to_owned)
            };
            if field("event").as_deref() == Some(wanted) {
                let data = serde_json::from_str(&field("data").expect("data")).expect("JSON");
                return Some(Seen { id: field("id"), name: wanted.into(), data });
            }
        }
    }

    fn line(&mut self) -> (String, String) {
        let seen = self.next("AgentLog").expect("a line");
        (seen.id.expect("an id"), seen.data["message"].as_str().expect("a text").to_owned())
    }

    /// Reads until it is ended by the Agent.
    fn end(mut self) {
        while self.block().is_some() {}
    }
}

fn log(world: &World, text: &str) {
    world.live.log.push(1_700_000_000_123, Level::Warning, text);
}

#[test]
fn the_status_is_told_at_once_and_when_it_changes() {
    let world = World::new();
    let token = world.log_in();
    let mut listener = Listener::new(&world, &token, None).expect("a stream");
    let first = listener.next("StatusUpdate").expect("a status");
    let (_, status) = world.ask("GET", "/api/v1/status", Some(&token), None);
    assert_eq!(first.data["connectionStatus"], "Connected");
    assert_eq!(
        first.data["status"].as_object().map(|o| o.keys().collect::<Vec<_>>()),
        status.as_object().map(|o| o.keys().collect::<Vec<_>>())
    );
    assert!(first.data["timestamp"].as_str().expect("a date").ends_with('Z'));
    assert_eq!(first.data["message"], Value::Null);
    let asked = Instant::now();
    world.live.hub.publish(Event::StatusUpdate);
    listener.next("StatusUpdate").expect("a status");
    // By itself it would come after five seconds.
    assert!(asked.elapsed() < SOON);
    world.stop();
    listener.end();
}

#[test]
fn events_arrive_in_the_shape_the_page_expects() {
    let world = World::new();
    let token = world.log_in();
    let mut listener = Listener::new(&world, &token, None).expect("a stream");
    listener.next("StatusUpdate").expect("it listens");
    world.live.hub.publish(Event::MappingsChanged {
        reason: "deleted",
        ids: vec!["0f8fad5bd9cb469fa16570867728950e".parse().expect("an id")],
    });
    world.live.hub.publish(Event::Traffic(json!({ "requests": 7 })));
    let changed = listener.next("MappingsChanged").expect("an event");
    assert_eq!(
        (changed.id, changed.data),
        (None, json!({ "reason": "deleted", "ids": ["0f8fad5b-d9cb-469f-a165-70867728950e"] }))
    );
    assert_eq!(listener.next("Traffic").expect("an event").data, json!({ "requests": 7 }));
    log(&world, "said \"so\"");
    let line = listener.next("AgentLog").expect("a line");
    assert_eq!(
        line.data,
        json!({ "id": 1, "timestamp": "2023-11-14T22:13:20.123Z", "level": "Warning", "message": "said \"so\"" })
    );
    world.stop();
}

#[test]
fn whoever_comes_back_gets_the_lines_he_missed_and_no_other() {
    let world = World::new();
    let token = world.log_in();
    log(&world, "before anybody listened");
    let mut listener = Listener::new(&world, &token, None).expect("a stream");
    let before_any_line = listener.next("StatusUpdate").expect("a status").id.expect("an id");
    log(&world, "one");
    let (id, text) = listener.line();
    assert_eq!(text, "one");
    drop(listener);
    for text in ["two", "three"] {
        log(&world, text);
    }
    let mut back = Listener::new(&world, &token, Some(&id)).expect("a stream");
    assert_eq!([back.line().1, back.line().1], ["two", "three"]);
    let mut back = Listener::new(&world, &token, Some(&before_any_line)).expect("a stream");
    assert_eq!([back.line().1, back.line().1, back.line().1], ["one", "two", "three"]);

    // The numbers of another run of the Agent say nothing about this one.
    let other = format!("{}1", id);
    for seen in [other.as_str(), "nonsense", "a1-g0"] {
        let mut new = Listener::new(&world, &token, Some(seen)).expect("a stream");
        new.next("StatusUpdate").expect("it listens");
        log(&world, seen);
        assert_eq!(new.line().1, seen);
    }
    world.stop();
}

#[test]
fn lines_of_the_gateway_are_caught_up_with_and_told_once() {
    let world = World::new();
    let token = world.log_in();
    let line = |id| {
        let text = format!("gateway {id}").into();
        Event::GatewayLog(Line { id, time_ms: 0, level: Level::Information, text })
    };
    let mut listener = Listener::new(&world, &token, None).expect("a stream");
    listener.next("StatusUpdate").expect("it listens");
    world.live.hub.publish(line(3));
    let id = listener.next("GatewayLog").expect("a line").id.expect("an id");
    drop(listener);
    let mut back = Listener::new(&world, &token, Some(&id)).expect("a stream");
    back.next("StatusUpdate").expect("it listens");
    // One that it gets anyway, and a new one.
    world.live.hub.publish(line(5));
    world.live.hub.publish(line(6));
    let told = [(); 3].map(|()| back.next("GatewayLog").expect("a line").data["message"].clone());
    assert_eq!(told, ["gateway 4", "gateway 5", "gateway 6"]);
    world.stop();
}

#[test]
fn sixteen_listen_and_the_operator_still_gets_in() {
    let world = World::new();
    let token = world.log_in();
    let mut listeners: Vec<_> =
        (0..LISTENERS).map(|_| Listener::new(&world, &token, None).expect("a stream")).collect();
    assert_eq!(Listener::new(&world, &token, None).err(), Some(503));
    assert_eq!(world.ask("GET", "/api/v1/status", Some(&token), None).0, 200);
    // Idle strangers on top of them make room for him, the listeners need not.
    let idle: Vec<_> = (0..100).map(|_| world.connect()).collect();
    assert_eq!(world.ask("GET", "/api/v1/status", Some(&token), None).0, 200);
    world.live.hub.publish(Event::Traffic(json!(1)));
    for listener in &mut listeners {
        assert_eq!(listener.next("Traffic").expect("still there").data, 1);
    }
    drop(idle);
    // A page that is closed gives its place back.
    let gone = listeners.pop().expect("one");
    gone.socket.shutdown(Shutdown::Both).expect("closed");
    drop(gone);
    let since = Instant::now();
    loop {
        world.live.hub.publish(Event::StatusUpdate);
        match Listener::new(&world, &token, None) {
            Ok(_) => break,
            Err(refused) => assert_eq!(refused, 503),
        }
        assert!(since.elapsed() < SOON, "the place is not given back");
    }
    world.stop();
}

#[test]
fn a_session_that_ends_takes_its_listeners_along() {
    let world = World::new();
    let (own, other) = (world.log_in(), world.log_in());
    let mut ended = Listener::new(&world, &own, None).expect("a stream");
    let mut stays = Listener::new(&world, &other, None).expect("a stream");
    ended.next("StatusUpdate").expect("it listens");
    assert_eq!(world.ask("POST", "/api/v1/auth/logout", Some(&own), None).0, 204);
    ended.end();
    assert_eq!(Listener::new(&world, &own, None).err(), Some(401));
    world.live.hub.publish(Event::Traffic(json!(1)));
    stays.next("Traffic").expect("an event");
    assert_eq!(world.ask("POST", "/api/v1/auth/logout-all", Some(&other), None).0, 204);
    stays.end();
    world.stop();
}

#[test]
fn a_listener_lives_no_longer_than_his_token() {
    let world = World::new();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs();
    let claims = json!({
        "sub": "admin", "token_type": "access", "iat": now, "exp": now + 2, "iss": "Octoporty.Agent",
        "aud": "Octoporty.Agent.Web",
    });
    let listener = Listener::new(&world, &signed(&claims), None).expect("a stream");
    listener.end();
    world.stop();
}

#[test]
fn a_slow_listener_is_sent_away_and_nobody_waits_for_him() {
    const EVENTS: usize = 20_000;
    let world = World::new();
    let token = world.log_in();
    let mut slow = Listener::new(&world, &token, None).expect("a stream");
    slow.next("StatusUpdate").expect("it listens");
    let mut quick = Listener::new(&world, &token, None).expect("a stream");
    quick.next("StatusUpdate").expect("it listens");
    let text = "x".repeat(2000);
    for number in 0..EVENTS {
        world.live.hub.publish(Event::Traffic(json!({ "number": number, "text": text })));
        // Not in the rhythm of the slow one.
        assert_eq!(quick.next("Traffic").expect("an event").data["number"], number);
    }
    assert!(world.live.hub.dropped() > 0);
    let mut got = 0;
    while slow.next("Traffic").is_some() {
        got += 1;
    }
    assert!(got < EVENTS, "{got}");
    world.stop();
}

#[test]
fn a_peer_of_http_1_0_gets_them_until_the_connection_ends() {
    let world = World::new();
    let token = world.log_in();
    let mut socket = world.connect();
    write!(socket, "GET /api/v1/events HTTP/1.0\r\nAuthorization: Bearer {token}\r\n\r\n").expect("sent");
    let mut start = [0; 15];
    socket.read_exact(&mut start).expect("an answer");
    assert_eq!(&start, b"HTTP/1.1 200 OK");
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        socket.read_to_string(&mut text).map(|_| text)
    });
    world.stop();
    let text = reader.join().expect("no panic").expect("a regular end");
    assert!(text.contains("\r\nConnection: close\r\n\r\nretry: 2000\n\n"), "{text}");
    assert!(!text.contains("chunked"), "{text}");
}

/// A token as a command on the Agent's machine would make it.
fn signed(claims: &Value) -> String {
    let part = |bytes: &[u8]| {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let bits =
            bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect::<Vec<_>>();
        let digit = |six: &[u8]| (0..6).fold(0, |value, at| value << 1 | six.get(at).copied().unwrap_or(0));
        bits.chunks(6).map(|six| char::from(DIGITS[usize::from(digit(six))])).collect::<String>()
    };
    let text = format!("{}.{}", part(b"{\"alg\":\"HS256\"}"), part(claims.to_string().as_bytes()));
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("a key");
    mac.update(text.as_bytes());
    format!("{text}.{}", part(&mac.finalize().into_bytes()))
}
