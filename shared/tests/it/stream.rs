//! The two ends of a Stream, joined by Links over a real TCP connection.

use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Sender, unbounded};
use shared::assembly::Turn;
use shared::body::{BodyFault, Decoder, Step};
use shared::context::Context;
use shared::credit::Budget;
use shared::frame::{Frame, Side};
use shared::head::Framing;
use shared::link::{Link, Receiver};
use shared::outbox::Outbox;
use shared::outer::Outer;
use shared::poll::Poller;
use shared::stream::{Sent, Stream};
use shared::streams::Streams;

/// As an upper bound, never as a pace.
const LONG: Duration = Duration::from_secs(20);
const NUMBER: u32 = 1;
/// Small, so that a body of some size needs Credit many times.
const WINDOW: u32 = 16 * 1024;

struct Socket;

impl Outer for Socket {
    fn flush(self: &Arc<Self>, _context: &mut Context<Self>) {}

    fn stalled(&self) -> (usize, u64) {
        (0, 0)
    }

    fn evict(self: &Arc<Self>, _context: &mut Context<Self>) {}
}

fn links() -> (Arc<Link>, Arc<Link>) {
    let poller = Poller::new().expect("a poller");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let agent = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    let (gateway, _) = listener.accept().expect("a connection");
    let link =
        |side, socket| Link::new(format!("{side:?}"), side, socket, None, poller.handle()).expect("a link");
    (link(Side::Gateway, gateway), link(Side::Agent, agent))
}

/// A Stream whose Link goes nowhere: what it queues is of no interest.
fn alone(sends: Framing, receives: Framing) -> Stream {
    let mut stream = Stream::new(&links().0, NUMBER, WINDOW, WINDOW);
    stream.sending.frame(sends);
    stream.receiving.frame(receives);
    stream
}

/// What an outbox holds.
fn text(outbox: &mut Outbox) -> String {
    let mut bytes = Vec::new();
    outbox.write(&mut bytes).expect("a vector takes everything");
    String::from_utf8(bytes).expect("text")
}

/// Delivers a piece and what waited for it, as the daemons do.
fn deliver(stream: &mut Stream, at: Option<u64>, bytes: &[u8], end: bool, outbox: &mut Outbox) {
    let mut give = |stream: &mut Stream, bytes: &[u8], end| {
        stream.count(bytes.len()).expect("no more than declared");
        if !bytes.is_empty() {
            stream.pass(bytes, outbox, None::<&mut Vec<u8>>).expect("nothing is written");
        }
        if end {
            stream.finish(b"", outbox).expect("no less than declared");
        }
    };
    if stream.arrive(at, bytes, end).expect("a piece in order") == Turn::Now {
        give(stream, bytes, end);
    }
    while let Some((bytes, end)) = stream.receiving.pop() {
        give(stream, &bytes, end);
    }
}

/// Lends the sending end its Credit.
struct Near(Arc<Mutex<Stream>>, Sender<()>);

impl Receiver for Near {
    fn stream_frame(&mut self, _link: &Arc<Link>, frame: Frame<'_>) -> Result<(), String> {
        let Frame::Credit { bytes, .. } = frame else { return Err(format!("{frame:?}")) };
        if self.0.lock().expect("no panic").granted(bytes) {
            self.1.send(()).map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    fn control(&mut self, _link: &Arc<Link>, _json: &[u8]) -> Result<(), String> {
        Err("no control message was sent".into())
    }

    fn pause(&mut self, _link: &Arc<Link>) {}

    fn closed(&mut self, _link: &Arc<Link>, _why: &str) {}
}

/// Takes everything, and hands all of it out when it is complete.
struct Far {
    stream: Stream,
    context: Context<Socket>,
    budget: Budget,
    socket: Vec<u8>,
    outbox: Outbox,
    whole: Sender<Vec<u8>>,
}

impl Receiver for Far {
    fn stream_frame(&mut self, _link: &Arc<Link>, frame: Frame<'_>) -> Result<(), String> {
        let stream = &mut self.stream;
        let trailers: &[u8] = match frame {
            Frame::Data { at, bytes, end, .. } => {
                assert_eq!(stream.arrive(at, bytes, end)?, Turn::Now);
                stream.count(bytes.len()).map_err(|e| e.to_string())?;
                let written = stream.pass(bytes, &mut self.outbox, Some(&mut self.socket));
                if !written.map_err(|e| e.to_string())? {
                    self.outbox.write(&mut self.socket).map_err(|e| e.to_string())?;
                }
                stream.taken(self.outbox.len(), &self.budget, &mut self.context);
                if !end {
                    return Ok(());
                }
                b""
            }
            Frame::End { at, trailers, .. } => {
                assert_eq!(stream.arrive_end(at, trailers)?, Turn::Now);
                trailers
            }
            other => return Err(format!("{other:?}")),
        };
        stream.finish(trailers, &mut self.outbox).map_err(|e| e.to_string())?;
        self.outbox.write(&mut self.socket).map_err(|e| e.to_string())?;
        self.whole.send(std::mem::take(&mut self.socket)).map_err(|e| e.to_string())
    }

    fn control(&mut self, _link: &Arc<Link>, _json: &[u8]) -> Result<(), String> {
        Err("no control message was sent".into())
    }

    fn pause(&mut self, _link: &Arc<Link>) {
        self.context.settle();
    }

    fn closed(&mut self, _link: &Arc<Link>, _why: &str) {}
}

/// Sends `input`, which is framed so, through a Stream whose other end frames it as `onward`; returns what the far
/// socket got.
fn through(input: &[u8], framing: Framing, onward: Framing) -> Vec<u8> {
    let (gateway, agent) = links();
    let mut near = Stream::new(&gateway, NUMBER, WINDOW, WINDOW);
    near.sending.frame(framing);
    let near = Arc::new(Mutex::new(near));
    let (granted, more) = unbounded();
    let (whole, all) = unbounded();
    let mut stream = Stream::new(&agent, NUMBER, WINDOW, WINDOW);
    stream.receiving.frame(onward);
    let far = Far {
        stream,
        context: Context::default(),
        budget: Budget::new(u64::MAX),
        socket: Vec::new(),
        outbox: Outbox::new(),
        whole,
    };
    let near_threads = gateway.start(Vec::new(), Near(Arc::clone(&near), granted)).expect("threads");
    let far_threads = agent.start(Vec::new(), far).expect("threads");
    let mut context = Context::<Socket>::default();
    let (mut rest, mut done) = (input, false);
    while !done {
        let mut stream = near.lock().expect("no panic");
        let Some(place) = stream.place(0, || vec![Arc::clone(&gateway)]) else {
            drop(stream);
            more.recv_timeout(LONG).expect("credit");
            continue;
        };
        let (now, later) = rest.split_at(rest.len().min(place.room));
        match stream.send(Some(&place), now, &mut context) {
            Sent::More => assert!(!later.is_empty(), "the input is complete"),
            Sent::End(used) => {
                assert_eq!((used, later.len()), (now.len(), 0));
                done = true;
            }
            Sent::Fault(fault, _) => panic!("{fault}"),
        }
        rest = later;
        drop(stream);
        context.settle();
    }
    let got = all.recv_timeout(LONG).expect("the end of the body");
    for link in [gateway, agent] {
        link.close("the test is over");
    }
    for threads in [near_threads, far_threads] {
        assert_eq!(threads.join(), Vec::<&str>::new(), "threads that panicked");
    }
    got
}

/// The body in chunked bytes, with its trailers.
fn dechunked(bytes: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    let (mut decoder, mut at, mut body) = (Decoder::new(Framing::Chunked), 0, Vec::new());
    loop {
        match decoder.decode(&bytes[at..]).expect("a good body") {
            Step::Data { used, data } => {
                at += used;
                body.extend_from_slice(data);
            }
            Step::More { .. } => panic!("the body is not complete"),
            Step::End { used, trailers } => {
                assert_eq!(at + used, bytes.len());
                return (body, trailers);
            }
        }
    }
}

#[test]
fn a_body_many_windows_long_arrives_whole() {
    let body: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    let length = Framing::Length(body.len() as u64);
    assert!(through(&body, length, length) == body, "other bytes arrived");
    assert!(dechunked(&through(&body, length, Framing::Chunked)) == (body, None), "other bytes arrived");
}

#[test]
fn chunks_and_trailers_are_framed_anew() {
    let mut input = Vec::new();
    let mut body = Vec::new();
    for n in 0..200u32 {
        let piece = vec![n as u8; 1 + n as usize * 3];
        input.extend_from_slice(format!("{:x};ext=1\r\n", piece.len()).as_bytes());
        input.extend_from_slice(&piece);
        input.extend_from_slice(b"\r\n");
        body.extend_from_slice(&piece);
    }
    input.extend_from_slice(b"0\r\nX-Sum: 7\r\n\r\n");
    let got = through(&input, Framing::Chunked, Framing::Chunked);
    assert!(dechunked(&got) == (body, Some(b"X-Sum: 7\r\n".to_vec())), "other bytes arrived");
}

#[test]
fn what_follows_the_end_of_a_body_is_not_used() {
    let mut stream = alone(Framing::Length(3), Framing::None);
    let mut context = Context::<Socket>::default();
    assert!(matches!(stream.send(None, b"abcGET /", &mut context), Sent::End(3)));
    assert_eq!((stream.sending.bytes, stream.sending.done), (3, true));
}

#[test]
fn what_came_before_a_fault_is_handed_back() {
    let mut stream = alone(Framing::Chunked, Framing::None);
    let mut context = Context::<Socket>::default();
    let sent = stream.send(None, b"3\r\nabc\r\nx", &mut context);
    assert!(matches!(sent, Sent::Fault(BodyFault::ChunkSize, Some(b"abc"))), "{sent:?}");
    assert_eq!(stream.sending.bytes, 0);
}

#[test]
fn an_upgraded_connection_has_no_framing() {
    let mut stream = alone(Framing::None, Framing::None);
    stream.switch();
    let mut context = Context::<Socket>::default();
    assert!(matches!(stream.send(None, b"0\r\n\r\n", &mut context), Sent::More));
    assert_eq!(stream.sending.bytes, 5);
    let mut outbox = Outbox::new();
    deliver(&mut stream, None, b"raw", true, &mut outbox);
    assert_eq!((text(&mut outbox).as_str(), stream.receiving.done), ("raw", true));
}

#[test]
fn pieces_and_trailers_that_come_early_wait_for_their_turn() {
    let mut stream = alone(Framing::None, Framing::Chunked);
    let mut outbox = Outbox::new();
    assert_eq!(stream.arrive_end(Some(5), b"X-Sum: 7\r\n"), Ok(Turn::Later));
    deliver(&mut stream, Some(3), b"de", false, &mut outbox);
    assert_eq!((outbox.len(), stream.receiving.early()), (0, 2));
    deliver(&mut stream, Some(0), b"abc", false, &mut outbox);
    assert_eq!(text(&mut outbox), "3\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 7\r\n\r\n");
    assert_eq!((stream.receiving.bytes, stream.receiving.early()), (5, 0));
}

#[test]
fn more_than_the_window_and_anything_after_the_end_is_the_peers_mistake() {
    let mut stream = alone(Framing::None, Framing::Length(1));
    let fault = stream.arrive(None, &vec![0; WINDOW as usize + 1], false).unwrap_err();
    assert_eq!(fault, format!("{} bytes on stream 1 where {WINDOW} were allowed", WINDOW + 1));
    deliver(&mut stream, None, b"a", true, &mut Outbox::new());
    assert_eq!(stream.arrive(None, b"b", false).unwrap_err(), "data on stream 1 after its end");
}

#[test]
fn a_declared_length_is_held_to() {
    let mut stream = alone(Framing::None, Framing::Length(3));
    assert_eq!(stream.count(4), Err(BodyFault::TooMuch));
    assert_eq!(stream.receiving.bytes, 0, "what is not passed on is not counted");
    stream.count(2).unwrap();
    assert_eq!(stream.finish(b"", &mut Outbox::new()), Err(BodyFault::TooLittle(1)));
}

#[test]
fn nothing_is_sent_without_credit() {
    let mut stream = Stream::new(&links().0, NUMBER, 5, WINDOW);
    stream.sending.frame(Framing::UntilClose);
    let room = |stream: &Stream| stream.place(0, Vec::new).map(|place| place.room);
    assert_eq!((room(&stream), stream.room_at_home(0)), (Some(5), 5));
    let mut context = Context::<Socket>::default();
    assert!(matches!(stream.send(None, b"abcde", &mut context), Sent::More));
    assert_eq!((room(&stream), stream.room_at_home(0)), (None, 0));
    assert!(stream.granted(7), "there was none left");
    assert!(!stream.granted(1));
    assert_eq!(room(&stream), Some(8));
}

#[test]
fn a_stream_leaves_its_session_once() {
    let streams = Streams::default();
    let number = streams.open(Arc::new(()), 1).unwrap();
    let (link, _) = links();
    let mut stream = Stream::new(&link, number, WINDOW, WINDOW);
    link.stream_begins();
    assert!(stream.leave(&streams) && !stream.leave(&streams));
    assert_eq!((streams.len(), link.streams(), stream.is_open()), (0, 0, false));
}
