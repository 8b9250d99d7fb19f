//! Answers that come slowly, event by event, or not for minutes.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use e2e::sample::beside;
use e2e::site::Site;
use e2e::upstream::Then;
use e2e::visitor::Visitor;

/// How long the silent answers are silent, seconds. `OCTOPORTY_E2E_SILENCE` shortens it while a test is written.
fn silence() -> Duration {
    let text = std::env::var("OCTOPORTY_E2E_SILENCE").unwrap_or_else(|_| "240".into());
    Duration::from_secs(text.parse().expect("OCTOPORTY_E2E_SILENCE is a number of seconds"))
}

/// An upstream path that sends what the test gives it, when the test gives it.
fn fed(site: &Site, path: &str, head: &'static str) -> Sender<Vec<u8>> {
    let (sender, receiver) = channel::<Vec<u8>>();
    let receiver: Arc<Mutex<Receiver<Vec<u8>>>> = Arc::new(Mutex::new(receiver));
    site.upstream.on(path, move |x| {
        x.send(head)?;
        for bytes in receiver.lock().expect("one visitor").iter() {
            x.chunk(&bytes)?;
        }
        x.send("0\r\n\r\n")?;
        Ok(Then::Keep)
    });
    sender
}

const EVENTS: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n\
     Transfer-Encoding: chunked\r\n\r\n";

#[test]
fn events_arrive_one_by_one_as_they_are_sent() {
    let site = Site::new();
    let events = fed(&site, "/sse", EVENTS);
    let mut visitor = site.visitor();
    visitor.ask("GET", "/sse", &[("Accept", "text/event-stream")]);
    let head = visitor.head("GET");
    assert_eq!(head.get("content-type").as_deref(), Some("text/event-stream"));
    for n in 0..100 {
        // The next event is sent only when this one has arrived: a byte that waits for company ends the test.
        let event = format!("id: {n}\ndata: event {n}\n\n");
        events.send(event.clone().into_bytes()).expect("the upstream listens");
        assert_eq!(visitor.exactly(event.len()), event.as_bytes());
    }
    drop(events);
    assert!(visitor.rest().is_empty());
}

#[test]
fn the_head_arrives_before_the_first_byte_of_the_body() {
    let site = Site::new();
    let events = fed(&site, "/late", EVENTS);
    let mut visitor = site.visitor();
    visitor.ask("GET", "/late", &[]);
    assert_eq!(visitor.head("GET").status(), 200);
    events.send(b"at last".to_vec()).expect("the upstream listens");
    drop(events);
    assert_eq!(visitor.rest(), b"at last");
}

#[test]
fn a_body_until_close_streams() {
    let site = Site::new();
    let (sender, receiver) = channel::<&'static str>();
    let receiver = Mutex::new(receiver);
    site.upstream.on("/stream", move |x| {
        x.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
        for text in receiver.lock().expect("one visitor").iter() {
            x.send(text)?;
        }
        Ok(Then::Close)
    });
    let mut visitor = site.visitor();
    visitor.ask("GET", "/stream", &[]);
    assert_eq!(visitor.head("GET").status(), 200);
    for text in ["one", "two", "three"] {
        sender.send(text).expect("the upstream listens");
        assert_eq!(visitor.exactly(text.len()), text.as_bytes());
    }
    drop(sender);
    assert!(visitor.rest().is_empty());
}

#[test]
fn many_visitors_hear_events_at_the_same_time() {
    let site = Site::new();
    let mut all: Vec<(Sender<Vec<u8>>, Visitor)> = Vec::new();
    for n in 0..50 {
        let path = format!("/sse-{n}");
        let events = fed(&site, &path, EVENTS);
        let mut visitor = site.visitor();
        visitor.ask("GET", &path, &[]);
        assert_eq!(visitor.head("GET").status(), 200);
        all.push((events, visitor));
    }
    for round in 0..5 {
        for (n, (events, _)) in all.iter().enumerate() {
            events.send(format!("{n} in round {round}").into_bytes()).expect("the upstream listens");
        }
        for (n, (_, visitor)) in all.iter_mut().enumerate() {
            let text = format!("{n} in round {round}");
            assert_eq!(visitor.exactly(text.len()), text.as_bytes());
        }
    }
    for (events, mut visitor) in all {
        drop(events);
        assert!(visitor.rest().is_empty());
    }
}

/// Waits for as long as the silence lasts; a word on the channel would end it early.
fn be_silent(until: &Receiver<()>) {
    assert_eq!(until.recv_timeout(silence()), Err(RecvTimeoutError::Timeout));
}

/// Three kinds of silence at the same time, because each takes four minutes: an answer that is long in coming, an
/// event stream between two events, and a WebSocket on which nobody speaks.
#[test]
fn four_silent_minutes_end_nothing() {
    let site = Arc::new(Site::new());
    let patience = silence() + Duration::from_secs(30);
    let (_never, receiver) = channel();
    let receiver = Mutex::new(receiver);
    site.upstream.on("/long-poll", move |x| {
        be_silent(&receiver.lock().expect("one visitor"));
        x.reply(200, &[], b"finally")
    });
    let events = fed(&site, "/sse", EVENTS);

    let poll = beside({
        let site = Arc::clone(&site);
        move || {
            let mut visitor = site.visitor();
            visitor.set_patience(patience);
            visitor.get("/long-poll").text()
        }
    });
    let listen = beside({
        let site = Arc::clone(&site);
        move || {
            let mut visitor = site.visitor();
            visitor.set_patience(patience);
            visitor.ask("GET", "/sse", &[]);
            assert_eq!(visitor.head("GET").status(), 200);
            let before = visitor.exactly(6);
            (before, visitor.exactly(5))
        }
    });
    let (_, mut socket) = site.visitor().websocket("/ws", &[]);
    let echo = |socket: &mut e2e::websocket::WebSocket, text: &str| {
        socket.send(text.into()).expect("sent");
        assert_eq!(socket.read().expect("echoed"), text.into());
    };
    echo(&mut socket, "before");
    events.send(b"before".to_vec()).expect("the upstream listens");

    let began = Instant::now();
    let (_never_either, silence_here) = channel();
    be_silent(&silence_here);
    assert!(began.elapsed() >= silence());

    events.send(b"after".to_vec()).expect("the upstream listens");
    drop(events);
    echo(&mut socket, "after");
    assert_eq!(listen.join().expect("the listener"), (b"before".to_vec(), b"after".to_vec()));
    assert_eq!(poll.join().expect("the long poll"), "finally");
}
