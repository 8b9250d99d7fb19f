//! Two Links joined by a real TCP connection.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver as Channel, Sender, unbounded};
use shared::frame::{Frame, MAX_DATA, Side};
use shared::link::{Link, Receiver, Threads};
use shared::poll::Poller;

/// As an upper bound, never as a pace.
const LONG: Duration = Duration::from_secs(20);

#[derive(Debug, PartialEq)]
enum Seen {
    Data { stream: u32, len: usize, end: bool },
    Control(Vec<u8>),
    Closed(String),
}

struct Recorder(Sender<Seen>);

impl Receiver for Recorder {
    fn stream_frame(&mut self, _link: &Arc<Link>, frame: Frame<'_>) -> Result<(), String> {
        if let Frame::Data { stream, end, bytes, .. } = frame {
            self.0.send(Seen::Data { stream, len: bytes.len(), end }).map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    fn control(&mut self, _link: &Arc<Link>, json: &[u8]) -> Result<(), String> {
        self.0.send(Seen::Control(json.to_vec())).map_err(|e| e.to_string())
    }

    fn pause(&mut self, _link: &Arc<Link>) {}

    fn closed(&mut self, _link: &Arc<Link>, why: &str) {
        // The test may be over.
        let _ = self.0.send(Seen::Closed(why.to_owned()));
    }
}

struct End {
    link: Arc<Link>,
    seen: Channel<Seen>,
    threads: Threads,
}

fn end(side: Side, socket: TcpStream, poller: &Poller) -> End {
    let (sender, seen) = unbounded();
    let link = Link::new(format!("{side:?}"), side, socket, None, poller.handle()).expect("a link");
    let threads = link.start(Vec::new(), Recorder(sender)).expect("threads");
    End { link, seen, threads }
}

fn pair() -> (End, End) {
    let poller = Poller::new().expect("a poller");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let agent = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    let (gateway, _) = listener.accept().expect("a connection");
    (end(Side::Gateway, gateway, &poller), end(Side::Agent, agent, &poller))
}

#[test]
fn frames_of_all_sizes_arrive_whole_and_in_order() {
    let (gateway, agent) = pair();
    let sizes = [0usize, 1, 100, MAX_DATA - 1, MAX_DATA, MAX_DATA + 1, 60_000];
    for (i, size) in sizes.iter().enumerate() {
        agent.link.data(1, &vec![7; *size], i + 1 == sizes.len(), None);
        agent.link.flush();
    }
    let (mut got, mut ended) = (0, false);
    while !ended {
        match gateway.seen.recv_timeout(LONG).expect("data") {
            Seen::Data { stream, len, end } => {
                assert!(stream == 1 && len <= MAX_DATA);
                got += len;
                ended = end;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(got, sizes.iter().sum::<usize>());
    close(gateway, agent);
}

#[test]
fn control_overtakes_data_that_does_not_fit_the_socket() {
    let (gateway, agent) = pair();
    // Far more than the socket takes while nobody reads: the reader's channel is unbounded, so block it differently:
    // queue faster than the reader can decode.
    let mut sent = 0;
    for _ in 0..400 {
        agent.link.data(1, &vec![0; MAX_DATA], false, None);
        agent.link.flush();
        sent += MAX_DATA;
    }
    agent.link.control(b"{\"type\":\"bye\"}");
    agent.link.flush();
    let (mut got, mut control) = (0, false);
    while got < sent || !control {
        match gateway.seen.recv_timeout(LONG).expect("everything arrives") {
            Seen::Data { len, .. } => got += len,
            Seen::Control(json) => control = json == b"{\"type\":\"bye\"}",
            Seen::Closed(why) => panic!("{why}"),
        }
    }
    assert_eq!(got, sent);
    close(gateway, agent);
}

#[test]
fn a_long_control_message_is_put_together_again() {
    let (gateway, agent) = pair();
    let json = format!("{{\"type\":\"x\",\"y\":\"{}\"}}", "z".repeat(300_000)).into_bytes();
    gateway.link.control(&json);
    gateway.link.flush();
    assert_eq!(agent.seen.recv_timeout(LONG), Ok(Seen::Control(json)));
    close(gateway, agent);
}

#[test]
fn long_messages_that_may_wait_let_others_through_and_arrive_whole() {
    let (gateway, agent) = pair();
    // Nobody flushes before all of it is queued, so the order is that of the schedule.
    let page = vec![b'p'; 1_500_000];
    let next = vec![b'n'; 40_000];
    assert!(gateway.link.later(&page) && gateway.link.later(&next));
    assert!(gateway.link.later_bytes() >= page.len() + next.len());
    gateway.link.control(b"{}");
    gateway.link.data(1, &[7; 1000], true, None);
    gateway.link.flush();
    // In the middle of it: parts of two messages are on their way at the same time, and neither is mistaken.
    let long = vec![b'l'; 200_000];
    gateway.link.control(&long);
    gateway.link.flush();
    let mut seen = Vec::new();
    while seen.len() < 5 {
        seen.push(agent.seen.recv_timeout(LONG).expect("a message"));
    }
    assert_eq!(seen[0], Seen::Control(b"{}".to_vec()));
    assert_eq!(seen[1], Seen::Data { stream: 1, len: 1000, end: true });
    let place = |wanted: &[u8]| seen.iter().position(|seen| *seen == Seen::Control(wanted.to_vec()));
    // What may wait can be gone before the long one is queued: that depends on the socket.
    assert!(place(&long).is_some() && place(&page).is_some(), "each arrives whole");
    assert!(place(&page) < place(&next), "and in order");
    assert_eq!(gateway.link.later_bytes(), 0);
    close(gateway, agent);
}

#[test]
fn what_may_wait_has_a_bound() {
    let (gateway, agent) = pair();
    let piece = vec![b'x'; 1024 * 1024];
    let queued = (0..64).take_while(|_| gateway.link.later(&piece)).count();
    assert!((10..=16).contains(&queued), "{queued}: the rest is for whoever sends it to drop, and to count");
    assert!(!gateway.link.is_closed());
    gateway.link.flush();
    for _ in 0..queued {
        assert_eq!(agent.seen.recv_timeout(LONG), Ok(Seen::Control(piece.clone())));
    }
    close(gateway, agent);
}

#[test]
fn a_beat_is_answered_and_gives_the_round_trip() {
    let (gateway, agent) = pair();
    agent.link.beat();
    agent.link.flush();
    // The answer goes before this, so once it is here the round trip is known.
    gateway.link.control(b"{}");
    gateway.link.flush();
    let deadline = std::time::Instant::now() + LONG;
    while agent.link.rtt() == 0 {
        assert!(std::time::Instant::now() < deadline, "no answer to the beat");
        gateway.link.control(b"{}");
        gateway.link.flush();
        agent.seen.recv_timeout(LONG).expect("control");
    }
    close(gateway, agent);
}

#[test]
fn garbage_closes_the_link_and_says_why() {
    let (gateway, agent) = pair();
    // A Head is for the Gateway, not for the Agent.
    gateway
        .link
        .first(1, &Frame::Head { stream: 1, body: false, switched: false, interim: false, head: b"" });
    gateway.link.flush();
    match agent.seen.recv_timeout(LONG).expect("an end") {
        Seen::Closed(why) => assert!(why.contains("wrong direction"), "{why}"),
        other => panic!("{other:?}"),
    }
    match gateway.seen.recv_timeout(LONG).expect("an end") {
        Seen::Closed(why) => assert!(why.contains("1002"), "{why}"),
        other => panic!("{other:?}"),
    }
    close(gateway, agent);
}

/// Every test ends here: both threads of both ends are joined, none has panicked.
fn close(gateway: End, agent: End) {
    gateway.link.close("the test is over");
    agent.link.close("the test is over");
    assert!(gateway.threads.join().is_empty());
    assert!(agent.threads.join().is_empty());
}
