//! Both machines of an exchange, without sockets: random walks through whatever may happen to a request and its answer.

use shared::exchange::{Exchange, Line, Next, Order, Port};
use shared::frame::{Frame, Open};
use shared::head;
use shared::lasting::LONG;
use shared::reason::Reason;

use crate::corpus::checks::exchange::world::{Dice, World};

/// Random walks; more with `OCTOPORTY_WALKS`.
const WALKS: u64 = 20_000;
/// Events of a walk, before everything comes to its end.
const STEPS: usize = 150;

/// Says which walk failed.
struct Walk(u64);

impl Drop for Walk {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("walk {} failed", self.0);
        }
    }
}

#[test]
fn nothing_of_one_exchange_reaches_another_whatever_happens() {
    let walks = std::env::var("OCTOPORTY_WALKS").map_or(WALKS, |walks| walks.parse().expect("a number"));
    let threads = std::thread::available_parallelism().map_or(2, usize::from) as u64;
    let complete: usize = std::thread::scope(|scope| {
        let run = |first: u64| {
            let mut complete = 0;
            for seed in (first..walks).step_by(threads as usize) {
                let _walk = Walk(seed);
                let mut world = World::new(Dice::random(seed));
                world.run(STEPS);
                complete += world.complete;
            }
            complete
        };
        let running: Vec<_> = (0..threads).map(|first| scope.spawn(move || run(first))).collect();
        running
            .into_iter()
            .map(|walk| walk.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .sum()
    });
    assert!(
        complete as u64 > walks,
        "only {complete} exchanges of {walks} walks ended well: nothing is tested"
    );
}

/// What one end did: bytes for its socket, Frames for its peer as text.
#[derive(Default)]
struct Did(Vec<u8>, Vec<String>);

impl Port for Did {
    fn write(&mut self, parts: &[&[u8]]) {
        self.0.extend(parts.concat());
    }

    fn frame(&mut self, frame: &Frame<'_>, _order: Order) {
        self.1.push(format!("{frame:?}"));
    }

    fn wake(&mut self) {
        self.1.push("wake".into());
    }
}

/// The Agent's end of a request whose body is framed by `field`, with a window of ten bytes, and what it did.
fn served(field: &str) -> (Exchange, Did) {
    let bytes = format!("POST / HTTP/1.1\r\nHost: app.example.com\r\n{field}\r\n");
    let (head, _) = head::parse_tunnel_request(bytes.as_bytes()).expect("a head").expect("all of it");
    let open = Open {
        stream: 1,
        body: true,
        upgrade: false,
        credit: 10,
        mapping: [0; 16],
        request_id: "r",
        visitor: "192.0.2.1",
        head: bytes.as_bytes(),
    };
    let mut did = Did::default();
    let exchange = Exchange::serve(&open, &head, "10.0.0.2", 10, 0, &mut did).expect("a good Open");
    (exchange, Did::default())
}

fn data(bytes: &[u8], at: Option<u64>, end: bool) -> Frame<'_> {
    Frame::Data { stream: 1, end, at, bytes }
}

#[test]
fn pieces_and_trailers_that_come_early_wait_for_their_turn() {
    let (mut exchange, mut did) = served("");
    exchange.frame(&Frame::End { stream: 1, at: Some(5), trailers: b"X-Sum: 7\r\n" }, 0, &mut did).unwrap();
    exchange.frame(&data(b"de", Some(3), false), 0, &mut did).unwrap();
    assert_eq!((did.0.len(), exchange.early()), (0, 2));
    exchange.frame(&data(b"abc", Some(0), false), 0, &mut did).unwrap();
    assert_eq!(String::from_utf8_lossy(&did.0), "3\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 7\r\n\r\n");
    assert_eq!((exchange.received(), exchange.early(), exchange.is_received()), (5, 0, true));
}

#[test]
fn more_than_the_window_and_anything_behind_the_end_is_the_peers_mistake() {
    let (mut exchange, mut did) = served("");
    let fault = exchange.frame(&data(b"elevenbytes", None, false), 0, &mut did).unwrap_err();
    assert_eq!(fault, "11 bytes on stream 1 where 10 were allowed");
    let (mut exchange, mut did) = served("");
    exchange.frame(&data(b"a", None, true), 0, &mut did).unwrap();
    let fault = exchange.frame(&data(b"b", None, false), 0, &mut did).unwrap_err();
    assert_eq!(fault, "data on stream 1 outside of a body");
}

#[test]
fn a_declared_length_is_held_to() {
    for (body, text) in [(&b"abcd"[..], "more bytes"), (b"ab", "fewer bytes")] {
        let (mut exchange, mut did) = served("Content-Length: 3\r\n");
        exchange.frame(&data(body, None, true), 0, &mut did).unwrap();
        let failure = exchange.failure().expect("a failure").clone();
        assert_eq!(failure.text, format!("{text} than the request declared"));
        assert!(did.1.iter().any(|frame| frame.starts_with("Reset")), "{:?}", did.1);
        assert_eq!(exchange.next(0), Next::Close);
    }
}

#[test]
fn credit_follows_what_the_socket_took() {
    let (mut exchange, mut did) = served("");
    let line = || Line { rtt: 0, may_grow: false };
    exchange.frame(&data(b"abcdefgh", None, false), 0, &mut did).unwrap();
    assert!(exchange.written(4, 0, line, &mut did), "four of eight were taken");
    assert_eq!(did.1, Vec::<String>::new(), "less than half a window");
    assert!(exchange.written(0, 0, line, &mut did));
    assert_eq!(did.1, ["Credit { stream: 1, bytes: 8 }"]);
    assert!(!exchange.written(0, 0, line, &mut did), "it is granted once");
}

/// The Gateway's end of a request, and what the Agent sends for it: a head with these fields, and a first piece.
fn answered(request: &str, flags: (bool, bool), fields: &str) -> (Exchange, Did) {
    let bytes = format!("{request}\r\nHost: app.example.com\r\nConnection: upgrade\r\nUpgrade: raw\r\n\r\n");
    let (head, _) = head::parse_request(bytes.as_bytes()).expect("a head").expect("all of it");
    let open = Open {
        stream: 1,
        body: false,
        upgrade: true,
        credit: 10,
        mapping: [0; 16],
        request_id: "r",
        visitor: "192.0.2.1",
        head: b"",
    };
    let mut did = Did::default();
    let mut exchange = Exchange::ask(&open, &head, 10, 0, &mut did);
    let (body, switched) = flags;
    let status = if switched { "101" } else { "200" };
    let head = format!("HTTP/1.1 {status} OK\r\n{fields}\r\n");
    let head = Frame::Head { stream: 1, body, switched, interim: false, head: head.as_bytes() };
    exchange.frame(&head, 0, &mut did).unwrap();
    exchange.frame(&data(b"first", None, false), 0, &mut did).unwrap();
    (exchange, Did::default())
}

const EVENTS: &str = "Content-Type: text/event-stream\r\n";

#[test]
fn a_gateway_that_stops_ends_what_never_ends_in_good_order() {
    let (mut exchange, mut did) = answered("GET / HTTP/1.1", (true, false), EVENTS);
    assert!(!exchange.may_finish(0));
    exchange.part(0, &mut did);
    assert_eq!(did.0, b"0\r\n\r\n");
    assert!(did.1.len() == 1 && did.1[0].contains("Draining"), "{:?}", did.1);
    assert_eq!((exchange.is_open(), exchange.failure()), (false, None));
    assert_eq!((exchange.next(1), exchange.next(0)), (Next::Wait, Next::Finish));
    // HTTP/1.0: the end of the connection is the end of the answer.
    let (mut exchange, mut did) = answered("GET / HTTP/1.0", (true, false), EVENTS);
    exchange.part(0, &mut did);
    assert_eq!((did.0.len(), exchange.next(0)), (0, Next::Finish));
    assert!(!exchange.may_be_followed(0, 0));
}

#[test]
fn a_daemon_that_stops_waits_for_what_may_end_and_then_cuts_it_off() {
    for (fields, flags) in [("", (true, false)), ("Content-Length: 9\r\n", (true, false))] {
        let (mut exchange, mut did) = answered("GET / HTTP/1.1", flags, fields);
        exchange.part(LONG - 1, &mut did);
        assert!(exchange.may_finish(LONG - 1) && did.0.is_empty() && did.1.is_empty(), "{:?}", did.1);
        exchange.part(LONG, &mut did);
        let cut = fields.is_empty();
        assert_eq!(exchange.may_finish(LONG), !cut, "{fields:?}");
        assert_eq!(exchange.next(0), if cut { Next::Cut } else { Next::Wait }, "{fields:?}");
        assert_eq!(did.0, b"", "a cut answer gets no end");
    }
}

#[test]
fn an_upgraded_connection_ends_with_what_has_been_delivered() {
    let (mut exchange, mut did) = answered("GET / HTTP/1.1", (false, true), "");
    exchange.part(0, &mut did);
    assert_eq!(exchange.next(5), Next::Wait, "what is here is sent first");
    assert_eq!(exchange.next(0), Next::HalfClose);
    exchange.closed_sending_half();
    assert_eq!((exchange.next(0), exchange.failure()), (Next::Finish, None));
}

#[test]
fn whoever_has_everything_of_an_upgraded_connection_sees_no_failure() {
    for taken in [true, false] {
        let (mut exchange, mut did) = answered("GET / HTTP/1.1", (false, true), "");
        exchange.frame(&data(b"", None, true), 0, &mut did).unwrap();
        if taken {
            assert_eq!(exchange.next(0), Next::HalfClose);
            exchange.closed_sending_half();
        }
        exchange.lost(Reason::LinkLost, "");
        assert_eq!(exchange.failure().is_some(), !taken);
        assert_eq!(exchange.next(0), if taken { Next::Finish } else { Next::Cut });
        assert!(!exchange.ends_with_connection(0), "all of it has been taken, so that no reset is needed");
        assert!(exchange.ends_with_connection(1));
    }
}

#[test]
fn an_agent_that_stops_ends_what_never_ends_behind_what_it_has_sent() {
    let (mut exchange, mut did) = served("Content-Length: 3\r\n");
    exchange.connected(false, 0);
    let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{EVENTS}\r\n2\r\nhi\r\n");
    let used = exchange.input(answer.as_bytes(), 0, &mut did);
    exchange.input(&answer.as_bytes()[used..], 0, &mut did);
    did.1.clear();
    exchange.part(0, &mut did);
    assert_eq!(did.1, ["Data { stream: 1, end: true, at: None, bytes: [] }"]);
    assert_eq!((exchange.next(0), exchange.failure()), (Next::Finish, None));
    assert!(!exchange.may_be_followed(0, 0), "the service has not ended it");
    did.1.clear();
    exchange.part(0, &mut did);
    assert_eq!(did.1, [""; 0], "once");
}

#[test]
fn a_piece_that_went_down_with_another_link_is_not_waited_for() {
    const WAIT: u64 = 30_000_000;
    let (mut exchange, mut did) = served("");
    exchange.frame(&data(b"abc", Some(0), false), 0, &mut did).unwrap();
    let idle = exchange.deadline();
    exchange.lost_beside(5);
    assert_eq!(exchange.deadline(), idle, "nothing is known to be missing");
    exchange.frame(&data(b"gh", Some(6), false), 7, &mut did).unwrap();
    assert_eq!(exchange.deadline(), 7 + WAIT);
    exchange.frame(&data(b"def", Some(3), false), 9, &mut did).unwrap();
    assert_eq!(exchange.deadline(), 9 + idle, "it came after all");
    exchange.frame(&Frame::End { stream: 1, at: Some(9), trailers: b"" }, 11, &mut did).unwrap();
    assert_eq!(exchange.deadline(), 11 + WAIT, "the ninth byte is missing");
    exchange.expired(&mut did);
    assert_eq!(exchange.failure().map(|failure| failure.reason), Some(Reason::LinkLost));
}

#[test]
fn the_end_of_what_is_spread_goes_over_its_own_link() {
    let (mut exchange, mut did) = served("Content-Length: 0\r\n");
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
    assert_eq!(exchange.input(answer, 0, &mut did), answer.len());
    exchange.spread();
    exchange.input(b"hi", 0, &mut did);
    let end = "End { stream: 1, at: Some(2), trailers: [] }";
    assert_eq!(did.1.last().map(String::as_str), Some(end), "{:?}", did.1);
}
