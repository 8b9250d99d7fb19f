//! Visitors, a Gateway, Links, an Agent and a service, all of them vectors: the two machines of an exchange meet what
//! may happen to them, in an order that dice decide, and everything that arrives anywhere is checked.
//!
//! The shells around the machines are the smallest that could be: they read, write and keep connections as the daemons
//! do, without sockets, threads or time. Visitors and the service have a parser of their own.

use std::collections::{HashMap, VecDeque};

use shared::exchange::{Exchange, Line, Next, Order, Port, Wants};
use shared::frame::{Frame, Open, Side};
use shared::head::{self, Framing};
use shared::lasting::LONG;
use shared::reason::Reason;

/// Links of the Session.
const LANES: usize = 2;
/// Small, so that a body needs Credit many times.
const WINDOW: u32 = 24;

/// What happens next: random numbers, or the bytes that a fuzzer tries.
pub struct Dice {
    state: u64,
    bytes: Option<VecDeque<u8>>,
}

impl Dice {
    /// The same numbers for the same seed.
    pub fn random(seed: u64) -> Dice {
        Dice { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d, bytes: None }
    }

    /// One byte for each roll.
    pub fn of(bytes: &[u8]) -> Dice {
        Dice { state: 0, bytes: Some(bytes.iter().copied().collect()) }
    }

    fn is_spent(&self) -> bool {
        self.bytes.as_ref().is_some_and(VecDeque::is_empty)
    }

    /// A number below `sides`.
    fn roll(&mut self, sides: usize) -> usize {
        if let Some(bytes) = &mut self.bytes {
            return usize::from(bytes.pop_front().unwrap_or(0)) % sides;
        }
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 33) as usize % sides
    }

    fn one_in(&mut self, sides: usize) -> bool {
        self.roll(sides) == sides - 1
    }
}

/// How a body is framed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Body {
    None,
    Empty,
    Length,
    Chunked,
    Trailers,
    /// Answers only.
    UntilClose,
}

/// What a visitor asks.
#[derive(Clone, Debug)]
struct Ask {
    method: &'static str,
    body: Body,
    len: usize,
    http10: bool,
    upgrade: bool,
    /// He goes away after so many bytes of it.
    cut: Option<usize>,
}

/// What the service does about it.
#[derive(Clone, Debug)]
struct Reply {
    status: u16,
    body: Body,
    len: usize,
    interim: usize,
    /// Before the request is complete.
    early: bool,
    close: bool,
    /// So many bytes of it, then the end.
    cut: Option<usize>,
    /// Bytes that nobody asked for behind it.
    stray: bool,
    /// By its type it has no end.
    events: bool,
}

/// Position and exchange can be told from each byte.
fn content(base: u8, k: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| base + ((k * 5 + i) % 23) as u8).collect()
}

fn request_body(ask: &Ask, k: usize) -> Vec<u8> {
    if matches!(ask.body, Body::None | Body::Empty) { Vec::new() } else { content(b'A', k, ask.len) }
}

fn answer_body(reply: &Reply, ask: &Ask, k: usize) -> Vec<u8> {
    let none = ask.method == "HEAD" || matches!(reply.status, 101 | 204 | 304);
    if none || matches!(reply.body, Body::None | Body::Empty) {
        return Vec::new();
    }
    content(b'a', k, reply.len)
}

/// The field that frames a body, and the body as it is framed.
fn framed(kind: Body, bytes: &[u8], k: usize, dice: &mut Dice) -> (String, Vec<u8>) {
    match kind {
        Body::None | Body::UntilClose => (String::new(), bytes.to_vec()),
        Body::Empty | Body::Length => (format!("Content-Length: {}\r\n", bytes.len()), bytes.to_vec()),
        Body::Chunked | Body::Trailers => {
            let (mut out, mut rest) = (Vec::new(), bytes);
            while !rest.is_empty() {
                let (piece, more) = rest.split_at(1 + dice.roll(rest.len()));
                out.extend(format!("{:x}\r\n", piece.len()).into_bytes());
                out.extend([piece, b"\r\n"].concat());
                rest = more;
            }
            let trailers = if kind == Body::Trailers { format!("X-Sum: {k}\r\n") } else { String::new() };
            out.extend(format!("0\r\n{trailers}\r\n").into_bytes());
            ("Transfer-Encoding: chunked\r\n".to_owned(), out)
        }
    }
}

/// A message at the beginning of `bytes`, as far as it is there.
struct Message {
    first_line: String,
    fields: String,
    body: Vec<u8>,
    trailers: String,
    complete: bool,
    /// Up to its end.
    len: usize,
}

/// The parser of visitors and service; `None` while the head is not complete. `until_close`: a body without length
/// goes on to the end.
fn message(bytes: &[u8], no_body: bool, until_close: bool) -> Option<Message> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end - 4]).into_owned();
    let (first_line, fields) = head.split_once("\r\n").unwrap_or((&head, ""));
    let fields = format!("{}\r\n", fields.to_ascii_lowercase());
    let mut found = Message {
        first_line: first_line.to_owned(),
        fields: fields.clone(),
        body: Vec::new(),
        trailers: String::new(),
        complete: true,
        len: end,
    };
    let rest = &bytes[end..];
    if no_body {
        return Some(found);
    }
    if fields.contains("transfer-encoding: chunked\r\n") {
        let mut at = 0;
        loop {
            found.complete = false;
            let Some(line) = rest[at..].windows(2).position(|w| w == b"\r\n") else { break };
            let size = String::from_utf8_lossy(&rest[at..at + line]).into_owned();
            let size = usize::from_str_radix(&size, 16).unwrap_or_else(|_| panic!("chunk size {size:?}"));
            at += line + 2;
            if size == 0 {
                while let Some(line) = rest[at..].windows(2).position(|w| w == b"\r\n") {
                    at += line + 2;
                    if line == 0 {
                        found.complete = true;
                        break;
                    }
                    found.trailers += &String::from_utf8_lossy(&rest[at - line - 2..at]);
                }
                break;
            }
            let there = size.min(rest.len() - at);
            found.body.extend_from_slice(&rest[at..at + there]);
            if rest.len() < at + size + 2 {
                break;
            }
            assert_eq!(&rest[at + size..at + size + 2], b"\r\n", "a chunk ends with CRLF");
            at += size + 2;
        }
        found.len = if found.complete { end + at } else { bytes.len() };
    } else if let Some((_, length)) = fields.split_once("content-length: ") {
        let length: usize = length.split("\r\n").next().unwrap_or_default().parse().expect("a number");
        let there = length.min(rest.len());
        found.body.extend_from_slice(&rest[..there]);
        found.complete = there == length;
        found.len = end + there;
    } else if until_close {
        found.body.extend_from_slice(rest);
        found.complete = false;
        found.len = bytes.len();
    }
    Some(found)
}

/// What one end of a Stream did.
#[derive(Default)]
struct Did {
    frames: Vec<(Vec<u8>, Order, u32, bool)>,
    wake: bool,
}

/// Collects it.
struct Desk<'d>(&'d mut Vec<u8>, &'d mut Did);

impl Port for Desk<'_> {
    fn write(&mut self, parts: &[&[u8]]) {
        self.0.extend(parts.concat());
    }

    fn frame(&mut self, frame: &Frame<'_>, order: Order) {
        let (stream, data) = match frame {
            Frame::Open(open) => (open.stream, false),
            Frame::Data { stream, .. } => (*stream, true),
            Frame::Head { stream, .. }
            | Frame::End { stream, .. }
            | Frame::Reset { stream, .. }
            | Frame::Credit { stream, .. } => (*stream, false),
            Frame::Control { .. } | Frame::Beat { .. } | Frame::BeatAck { .. } => panic!("{frame:?}"),
        };
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.1.frames.push((bytes, order, stream, data));
    }

    fn wake(&mut self) {
        self.1.wake = true;
    }
}

/// One direction of a Link: Frames, and the Streams they belong to.
type Queue = VecDeque<(u32, Vec<u8>)>;

#[derive(Default)]
struct Lane {
    alive: bool,
    to_agent: Queue,
    to_gateway: Queue,
}

fn queue(lanes: &mut [Lane], to: Side, home: usize, place: usize, did: &mut Did) {
    for (bytes, order, stream, data) in did.frames.drain(..) {
        let lane = &mut lanes[if data { place } else { home }];
        if !lane.alive {
            continue;
        }
        let queue = if to == Side::Agent { &mut lane.to_agent } else { &mut lane.to_gateway };
        match order {
            Order::First | Order::InTurn => queue.push_back((stream, bytes)),
            Order::Urgent => queue.push_front((stream, bytes)),
            Order::Instead => {
                queue.retain(|(of, _)| *of != stream);
                queue.push_front((stream, bytes));
            }
        }
    }
}

/// An exchange at one end.
struct End {
    exchange: Exchange,
    home: usize,
    used: Vec<usize>,
    k: usize,
}

impl End {
    fn uses(&self, lane: usize) -> bool {
        self.home == lane || self.used.contains(&lane)
    }

    /// A Link is lost; what is done about it, if it carried some of this.
    fn loses(&mut self, lane: usize) -> Option<Did> {
        if !self.uses(lane) {
            self.exchange.lost_beside(0);
            return None;
        }
        let (mut did, mut nothing) = (Did::default(), Vec::new());
        if self.home == lane {
            self.exchange.lost(Reason::LinkLost, "");
        } else {
            self.exchange.fail(Reason::LinkLost, "", &mut Desk(&mut nothing, &mut did));
        }
        Some(did)
    }
}

/// A visitor, and the Gateway's side of his connection.
#[derive(Default)]
struct Visitor {
    /// What he will still send, where each request of it ends, and what is sent behind a 101.
    script: VecDeque<u8>,
    asks: Vec<usize>,
    ends: HashMap<usize, usize>,
    raw: Option<usize>,
    gone: bool,
    got: Vec<u8>,
    /// At the Gateway.
    socket: VecDeque<u8>,
    pending: Vec<u8>,
    outbox: Vec<u8>,
    end: Option<End>,
    /// Requests that were read, and bytes that were used.
    begun: usize,
    used: usize,
    /// Raw: the Gateway sends nothing more.
    ended: bool,
    /// Nor does it use what still comes.
    half_closed: bool,
    closed: bool,
    reset: bool,
    /// An answer of the Gateway's own that ends the connection.
    last: bool,
}

/// A connection of the Agent to the service.
#[derive(Default)]
struct Connection {
    connected: bool,
    end: Option<End>,
    outbox: Vec<u8>,
    pending: Vec<u8>,
    idle: bool,
    closed: bool,
    half_closed: bool,
    /// At the service: what came, and how much of it was understood.
    received: Vec<u8>,
    parsed: usize,
    /// Being served: the request, and whether it was answered.
    serving: Option<(usize, bool)>,
    /// What the service sends, and whether it closes behind it.
    sends: VecDeque<u8>,
    closes: bool,
    /// It has been switched for this request: everything behind is raw.
    raw: Option<(usize, usize)>,
    /// Bytes of the last answer, and how many of it the exchange used.
    answer_len: usize,
    read_len: usize,
    /// It switched before the request was complete.
    mute: bool,
    /// Bytes nobody asked for that come with the last ones of the answer,
    tail: Vec<u8>,
    /// or later, when nothing is asked.
    stray: Vec<u8>,
    socket: VecDeque<u8>,
    ended: bool,
}

/// Everything.
pub struct World {
    dice: Dice,
    asks: Vec<Ask>,
    replies: Vec<Reply>,
    /// Something happened to it, so it may fail.
    disturbed: Vec<bool>,
    /// A daemon that stops has ended it.
    parted: Vec<bool>,
    /// How often it reached the service completely.
    served: Vec<usize>,
    visitors: Vec<Visitor>,
    connections: Vec<Connection>,
    lanes: Vec<Lane>,
    /// Windows do.
    may_grow: bool,
    streams: u32,
    highest: u32,
    /// What happened, for whoever reads a failure.
    log: Vec<String>,
    /// Exchanges that ended well, so that a test can tell whether anything is tested.
    pub complete: usize,
}

impl World {
    /// Visitors with one to three requests each, and what the service will do about them.
    pub fn new(mut dice: Dice) -> World {
        let (mut asks, mut replies, mut visitors) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..1 + dice.roll(2) {
            let mut visitor = Visitor::default();
            for last in (0..1 + dice.roll(3)).rev() {
                let k = asks.len();
                let ask = ask(&mut dice, last == 0);
                let reply = reply(&mut dice, &ask);
                let body = request_body(&ask, k);
                let (field, body) = framed(ask.body, &body, k, &mut dice);
                let upgrade = if ask.upgrade { "Connection: upgrade\r\nUpgrade: raw\r\n" } else { "" };
                let version = if ask.http10 { "1.0" } else { "1.1" };
                let head = format!(
                    "{} /{k} HTTP/{version}\r\nHost: app.example.com\r\n{field}{upgrade}\r\n",
                    ask.method
                );
                visitor.asks.push(k);
                let whole = [head.as_bytes(), &body].concat();
                let len = ask.cut.map_or(whole.len(), |cut| cut % whole.len());
                visitor.script.extend(&whole[..len]);
                visitor.ends.insert(k, visitor.script.len());
                if ask.upgrade && dice.one_in(2) {
                    // He does not wait for the answer.
                    visitor.script.extend(content(b'A', k + 1, 30));
                } else if ask.upgrade {
                    visitor.raw = Some(k);
                }
                asks.push(ask);
                replies.push(reply);
            }
            visitors.push(visitor);
        }
        let lanes = (0..LANES).map(|_| Lane { alive: true, ..Lane::default() }).collect();
        let may_grow = dice.one_in(2);
        World {
            dice,
            disturbed: asks
                .iter()
                .zip(&replies)
                .map(|(ask, reply)| ask.cut.is_some() || reply.cut.is_some())
                .collect(),
            parted: vec![false; asks.len()],
            served: vec![0; asks.len()],
            asks,
            replies,
            visitors,
            connections: Vec::new(),
            lanes,
            may_grow,
            streams: 0,
            highest: 0,
            log: Vec::new(),
            complete: 0,
        }
    }

    /// Lets things happen until dice or steps are spent, then lets everything come to its end, and checks it.
    pub fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            if self.dice.is_spent() {
                break;
            }
            self.step();
        }
        // Everybody does all he can.
        let mut rounds = 0;
        while self.settle() {
            rounds += 1;
            assert!(rounds < 10_000, "it never ends\n{}", self.story());
            // Most answers are under way only now.
            if self.dice.one_in(40) {
                let v = self.dice.roll(self.visitors.len());
                self.part(v);
            }
        }
        self.check();
    }

    /// What happened, and what was planned.
    pub fn story(&self) -> String {
        let plan = self.asks.iter().zip(&self.replies).enumerate();
        let plan: Vec<_> = plan.map(|(k, (ask, reply))| format!("{k}: {ask:?}\n   {reply:?}")).collect();
        format!("{}\n{}", plan.join("\n"), self.log.join("\n"))
    }

    fn step(&mut self) {
        let v = self.dice.roll(self.visitors.len());
        let some = 1 + self.dice.roll(40);
        match self.dice.roll(16) {
            0 | 1 => drop(self.visitor_sends(v, some)),
            2..=4 => drop(self.gateway_reads(v, some)),
            5 => drop(self.visitor_takes(v, some)),
            6..=8 => {
                let lane = self.dice.roll(LANES);
                let to = if self.dice.one_in(2) { Side::Agent } else { Side::Gateway };
                self.deliver(lane, to);
            }
            9..=13 if !self.connections.is_empty() => {
                let c = self.dice.roll(self.connections.len());
                match self.dice.roll(5) {
                    0 => drop(self.connect(c)),
                    1 => drop(self.agent_writes(c, some)),
                    2 => drop(self.service_works(c, some)),
                    _ => drop(self.agent_reads(c, some)),
                }
            }
            14 if self.dice.one_in(12) => self.misfortune(v),
            _ => {}
        }
        for visitor in &self.visitors {
            let Some(end) = &visitor.end else { continue };
            let reply = &self.replies[end.k];
            if reply.body == Body::Length || reply.status == 101 {
                // Without framing, what waits is what Credit allowed, and the rest of the head.
                let waits = visitor.outbox.len().min(end.exchange.received() as usize);
                assert!(waits <= end.exchange.window() as usize, "{waits} bytes wait\n{}", self.story());
            }
        }
    }

    /// All of it, as far as it goes. False: nothing moved.
    fn settle(&mut self) -> bool {
        let mut moved = false;
        for v in 0..self.visitors.len() {
            moved |= self.visitor_sends(v, usize::MAX);
            moved |= self.gateway_reads(v, usize::MAX);
            moved |= self.visitor_takes(v, usize::MAX);
        }
        for lane in 0..LANES {
            moved |= self.deliver(lane, Side::Agent) | self.deliver(lane, Side::Gateway);
        }
        for c in 0..self.connections.len() {
            moved |= self.connect(c);
            moved |= self.agent_writes(c, usize::MAX);
            moved |= self.service_works(c, usize::MAX);
            moved |= self.agent_reads(c, usize::MAX);
        }
        moved
    }

    /// Something that nobody wished for.
    fn misfortune(&mut self, v: usize) {
        match self.dice.roll(6) {
            0 => {
                let lane = self.dice.roll(LANES);
                if self.lanes.iter().filter(|lane| lane.alive).count() > 1 {
                    self.lose(lane);
                }
            }
            1 => {
                // The service closes a connection that it does not need, or believes so.
                let free = |c: &Connection| {
                    c.sends.is_empty() && c.serving.is_none() && c.raw.is_none() && c.connected && !c.ended
                };
                if let Some(c) = self.connections.iter_mut().position(|c| free(c) && c.parsed > 0) {
                    let connection = &mut self.connections[c];
                    self.log.push(format!("service closes idle connection {c}"));
                    connection.ended = true;
                    if let Some(end) = &connection.end
                        && (self.asks[end.k].method == "POST" || self.asks[end.k].body != Body::None)
                    {
                        self.disturbed[end.k] = true;
                    }
                }
            }
            2 => {
                let visitor = &mut self.visitors[v];
                self.log.push(format!("visitor {v} goes away"));
                visitor.gone = true;
                visitor.script.clear();
                for k in visitor.asks.clone() {
                    self.disturbed[k] = true;
                }
            }
            3 => {
                if let Some(end) = &mut self.visitors[v].end {
                    self.log.push(format!("gateway needs the memory of {}", end.k));
                    self.disturbed[end.k] = true;
                    let (mut did, mut nothing) = (Did::default(), Vec::new());
                    let port = &mut Desk(&mut nothing, &mut did);
                    end.exchange.fail(Reason::TooManyStreams, "", port);
                    queue(&mut self.lanes, Side::Agent, end.home, end.home, &mut did);
                    self.gateway_proceeds(v);
                }
            }
            4 => self.part(v),
            _ => {
                if let Some(c) = self.connections.iter().position(|c| c.end.is_some()) {
                    let end = self.connections[c].end.as_mut().expect("just found");
                    self.log.push(format!("agent needs the memory of {}", end.k));
                    self.disturbed[end.k] = true;
                    let (mut did, mut nothing) = (Did::default(), Vec::new());
                    end.exchange.fail(Reason::TooManyStreams, "", &mut Desk(&mut nothing, &mut did));
                    queue(&mut self.lanes, Side::Gateway, end.home, end.home, &mut did);
                    self.agent_proceeds(c);
                }
            }
        }
    }

    /// One of the daemons stops.
    fn part(&mut self, v: usize) {
        let age = [0, LONG][self.dice.roll(2)];
        let mut did = Did::default();
        if self.dice.one_in(2) {
            let visitor = &mut self.visitors[v];
            let Some(end) = visitor.end.as_mut().filter(|end| end.exchange.is_open()) else { return };
            self.log.push(format!("gateway parts with {}", end.k));
            (self.disturbed[end.k], self.parted[end.k]) = (true, true);
            end.exchange.part(age, &mut Desk(&mut visitor.outbox, &mut did));
            queue(&mut self.lanes, Side::Agent, end.home, end.home, &mut did);
            self.gateway_proceeds(v);
        } else {
            let open = |c: &Connection| c.end.as_ref().is_some_and(|end| end.exchange.is_open());
            let Some(c) = self.connections.iter().position(open) else { return };
            let connection = &mut self.connections[c];
            let end = connection.end.as_mut().expect("just found");
            self.log.push(format!("agent parts with {}", end.k));
            (self.disturbed[end.k], self.parted[end.k]) = (true, true);
            end.exchange.part(age, &mut Desk(&mut connection.outbox, &mut did));
            queue(&mut self.lanes, Side::Gateway, end.home, end.home, &mut did);
            self.agent_proceeds(c);
        }
    }

    fn lose(&mut self, lane: usize) {
        self.log.push(format!("link {lane} is lost"));
        self.lanes[lane] = Lane::default();
        for v in 0..self.visitors.len() {
            let Some(end) = self.visitors[v].end.as_mut().filter(|end| end.exchange.is_open()) else {
                continue;
            };
            self.disturbed[end.k] = true;
            if let Some(mut did) = end.loses(lane) {
                queue(&mut self.lanes, Side::Agent, end.home, end.home, &mut did);
                self.gateway_proceeds(v);
            }
        }
        for c in 0..self.connections.len() {
            let Some(end) = self.connections[c].end.as_mut().filter(|end| end.exchange.is_open()) else {
                continue;
            };
            self.disturbed[end.k] = true;
            if let Some(mut did) = end.loses(lane) {
                queue(&mut self.lanes, Side::Gateway, end.home, end.home, &mut did);
                self.agent_proceeds(c);
            }
        }
    }

    // The visitor and the Gateway.

    fn visitor_sends(&mut self, v: usize, most: usize) -> bool {
        let visitor = &mut self.visitors[v];
        if visitor.raw.is_some() && visitor.got.windows(12).any(|w| w == b"HTTP/1.1 101") {
            let k = visitor.raw.take().expect("just seen");
            visitor.script.extend(content(b'A', k + 1, 30));
        }
        let n = most.min(visitor.script.len());
        visitor.socket.extend(visitor.script.drain(..n));
        // What is cut short ends there.
        let cut = visitor.script.is_empty() && visitor.asks.iter().any(|k| self.asks[*k].cut.is_some());
        let leaves = cut && !std::mem::replace(&mut visitor.gone, true);
        n > 0 || leaves
    }

    fn gateway_reads(&mut self, v: usize, most: usize) -> bool {
        let visitor = &mut self.visitors[v];
        if visitor.closed {
            visitor.socket.clear();
            return false;
        }
        if visitor.half_closed {
            // What still comes is dropped.
            let any = !visitor.socket.is_empty();
            visitor.socket.clear();
            return any;
        }
        let Some(end) = &mut visitor.end else { return self.gateway_reads_head(v, most) };
        let raw = end.exchange.is_raw();
        if end.exchange.wants() != Wants::Body {
            return self.gateway_sees_end(v, raw);
        }
        // Raw bytes that came with the request wait in `pending`.
        if visitor.pending.is_empty() {
            let n = most.min(visitor.socket.len());
            visitor.pending.extend(visitor.socket.drain(..n));
        }
        let n = most.min(visitor.pending.len()).min(end.exchange.credit());
        if n == 0 {
            return visitor.pending.is_empty() && self.gateway_sees_end(v, raw);
        }
        let mut place = end.home;
        let known = self
            .connections
            .iter()
            .any(|c| c.end.as_ref().is_some_and(|other| other.exchange.number() == end.exchange.number()));
        if known && self.dice.one_in(3) {
            place = self.dice.roll(LANES);
            if place != end.home && self.lanes[place].alive {
                end.exchange.spread();
                end.used.push(place);
            } else {
                place = end.home;
            }
        }
        let mut did = Did::default();
        let used = end.exchange.input(&visitor.pending[..n], 0, &mut Desk(&mut visitor.outbox, &mut did));
        visitor.used += used;
        visitor.pending.drain(..used);
        queue(&mut self.lanes, Side::Agent, end.home, place, &mut did);
        self.gateway_proceeds(v);
        used > 0
    }

    /// An end of the connection, while nothing, or only raw bytes, are read.
    fn gateway_sees_end(&mut self, v: usize, raw: bool) -> bool {
        let visitor = &mut self.visitors[v];
        let Some(end) = &mut visitor.end else { return false };
        if !visitor.gone || !visitor.socket.is_empty() || raw && end.exchange.is_sent() {
            return false;
        }
        let mut did = Did::default();
        end.exchange.input_ended(&mut Desk(&mut visitor.outbox, &mut did));
        queue(&mut self.lanes, Side::Agent, end.home, end.home, &mut did);
        self.gateway_proceeds(v);
        true
    }

    fn gateway_reads_head(&mut self, v: usize, most: usize) -> bool {
        let visitor = &mut self.visitors[v];
        if visitor.last || !visitor.outbox.is_empty() {
            return false;
        }
        let n = most.min(visitor.socket.len());
        visitor.pending.extend(visitor.socket.drain(..n));
        let (head, len) = match head::parse_request(&visitor.pending) {
            Ok(Some((head, len))) => (head, len),
            Ok(None) => {
                if visitor.gone && visitor.socket.is_empty() {
                    visitor.closed = true;
                }
                return n > 0;
            }
            Err(_) => {
                visitor.outbox.extend(b"HTTP/1.1 400 Own\r\nContent-Length: 0\r\n\r\n");
                visitor.last = true;
                return true;
            }
        };
        let alive: Vec<_> = (0..LANES).filter(|lane| self.lanes[*lane].alive).collect();
        let home = alive[self.dice.roll(alive.len())];
        self.streams += 1;
        let k = visitor.asks[visitor.begun];
        visitor.begun += 1;
        assert_eq!(head.target, format!("/{k}"), "the next request is read where it begins");
        let in_tunnel = format!(
            "{} {} HTTP/1.1\r\nHost: app.example.com\r\n{}\r\n",
            head.method,
            head.target,
            match head.framing {
                Framing::Length(n) => format!("Content-Length: {n}\r\n"),
                _ => String::new(),
            } + if head.upgrade { "Upgrade: raw\r\n" } else { "" }
        );
        let open = Open {
            stream: self.streams,
            body: !matches!(head.framing, Framing::None | Framing::Length(0)),
            upgrade: head.upgrade,
            credit: WINDOW,
            mapping: [0; 16],
            request_id: "r",
            visitor: "192.0.2.1",
            head: in_tunnel.as_bytes(),
        };
        let mut did = Did::default();
        let exchange = Exchange::ask(&open, &head, WINDOW, 0, &mut Desk(&mut visitor.outbox, &mut did));
        self.log.push(format!("gateway asks {k} on stream {}", self.streams));
        visitor.end = Some(End { exchange, home, used: Vec::new(), k });
        visitor.pending.drain(..len);
        visitor.used += len;
        queue(&mut self.lanes, Side::Agent, home, home, &mut did);
        self.gateway_proceeds(v);
        true
    }

    fn visitor_takes(&mut self, v: usize, most: usize) -> bool {
        let visitor = &mut self.visitors[v];
        let n = most.min(visitor.outbox.len());
        if visitor.gone && n > 0 {
            // Nobody is there to take it.
            if let Some(end) = &mut visitor.end {
                let mut did = Did::default();
                end.exchange.gone(&mut Desk(&mut visitor.outbox, &mut did));
                queue(&mut self.lanes, Side::Agent, end.home, end.home, &mut did);
                self.gateway_proceeds(v);
            }
            let visitor = &mut self.visitors[v];
            visitor.outbox.clear();
            visitor.closed = true;
            return true;
        }
        if visitor.closed || n == 0 {
            return false;
        }
        visitor.got.extend(visitor.outbox.drain(..n));
        self.gateway_wrote(v);
        true
    }

    fn gateway_wrote(&mut self, v: usize) {
        let visitor = &mut self.visitors[v];
        let waiting = visitor.outbox.len();
        if visitor.last && waiting == 0 {
            visitor.half_closed = true;
        }
        if let Some(end) = &mut visitor.end {
            let (mut did, may_grow) = (Did::default(), self.may_grow);
            let line = || Line { rtt: 0, may_grow };
            end.exchange.written(waiting, 0, line, &mut Desk(&mut visitor.outbox, &mut did));
            queue(&mut self.lanes, Side::Agent, end.home, end.home, &mut did);
            self.gateway_proceeds(v);
        }
    }

    fn gateway_proceeds(&mut self, v: usize) {
        loop {
            let visitor = &mut self.visitors[v];
            let Some(end) = &mut visitor.end else { return };
            match end.exchange.next(visitor.outbox.len()) {
                Next::Wait => return,
                Next::Answer => {
                    let failure = end.exchange.failure().expect("it failed");
                    let bad = failure.body.is_some();
                    let (k, failure) = (end.k, format!("{failure:?}"));
                    assert!(self.disturbed[k] || self.is_refused(k), "{failure}\n{}", self.story());
                    let visitor = &mut self.visitors[v];
                    let end = visitor.end.as_mut().expect("as before");
                    let keep = end.exchange.could_keep() && !bad;
                    let connection = if keep { "" } else { "Connection: close\r\n" };
                    visitor
                        .outbox
                        .extend(format!("HTTP/1.1 502 Own\r\n{connection}Content-Length: 0\r\n\r\n").bytes());
                    end.exchange.answered(502, keep, 0);
                }
                Next::HalfClose => {
                    end.exchange.closed_sending_half();
                    visitor.ended = true;
                }
                Next::Finish => {
                    let keep = end.exchange.may_be_followed(visitor.outbox.len(), visitor.pending.len());
                    let end = visitor.end.take().expect("as before");
                    self.log.push(format!("gateway has finished {}, keep {keep}", end.k));
                    if keep {
                        let (ends, used) = (self.visitors[v].ends[&end.k], self.visitors[v].used);
                        assert_eq!(used, ends, "bytes used up to the end of {}\n{}", end.k, self.story());
                    } else if end.exchange.is_raw() {
                        self.visitors[v].closed = true;
                    } else {
                        self.visitors[v].half_closed = true;
                    }
                    return;
                }
                Next::Cut | Next::Close | Next::Retry => {
                    let end = visitor.end.take().expect("as before");
                    self.log.push(format!("gateway cuts {}: {:?}", end.k, end.exchange.failure()));
                    visitor.reset = end.exchange.ends_with_connection(visitor.outbox.len());
                    visitor.closed = true;
                    visitor.outbox.clear();
                    return;
                }
            }
        }
    }

    // Links.

    fn deliver(&mut self, lane: usize, to: Side) -> bool {
        let queue = match to {
            Side::Agent => &mut self.lanes[lane].to_agent,
            Side::Gateway => &mut self.lanes[lane].to_gateway,
        };
        let Some((_, bytes)) = queue.pop_front() else { return false };
        let frame = Frame::decode(&bytes, to).expect("a frame").expect("a known one");
        match to {
            Side::Agent => self.agent_receives(&frame, lane),
            Side::Gateway => self.gateway_receives(&frame),
        }
        true
    }

    fn gateway_receives(&mut self, frame: &Frame<'_>) {
        let stream = frame.stream();
        let open = |end: &End| end.exchange.number() == stream && end.exchange.is_open();
        let Some(v) = self.visitors.iter().position(|visitor| visitor.end.as_ref().is_some_and(open)) else {
            return;
        };
        let visitor = &mut self.visitors[v];
        let end = visitor.end.as_mut().expect("just found");
        let mut did = Did::default();
        let result = end.exchange.frame(frame, 0, &mut Desk(&mut visitor.outbox, &mut did));
        queue(&mut self.lanes, Side::Agent, end.home, end.home, &mut did);
        if let Err(fault) = result {
            panic!("the gateway complains: {fault}: {frame:?}\n{}", self.story());
        }
        self.gateway_proceeds(v);
    }

    fn agent_receives(&mut self, frame: &Frame<'_>, lane: usize) {
        let stream = frame.stream();
        if let Frame::Open(open) = frame {
            return self.agent_opens(open, lane);
        }
        let open = |end: &End| end.exchange.number() == stream && end.exchange.is_open();
        let Some(c) = self.connections.iter().position(|c| c.end.as_ref().is_some_and(open)) else {
            let reset = matches!(frame, Frame::Reset { .. });
            assert!(
                stream <= self.highest || reset,
                "a frame for {stream}, which never was\n{}",
                self.story()
            );
            return;
        };
        let connection = &mut self.connections[c];
        let end = connection.end.as_mut().expect("just found");
        let mut did = Did::default();
        let result = end.exchange.frame(frame, 0, &mut Desk(&mut connection.outbox, &mut did));
        queue(&mut self.lanes, Side::Gateway, end.home, end.home, &mut did);
        if let Err(fault) = result {
            panic!("the agent complains: {fault}: {frame:?}\n{}", self.story());
        }
        self.agent_proceeds(c);
    }

    // The Agent and the service.

    fn agent_opens(&mut self, open: &Open<'_>, lane: usize) {
        self.highest = self.highest.max(open.stream);
        let (head, len) = head::parse_tunnel_request(open.head).expect("a head").expect("all of it");
        assert_eq!(len, open.head.len());
        let k: usize = head.target[1..].parse().expect("the number of a request");
        let (mut outbox, mut did) = (Vec::new(), Did::default());
        let desk = &mut Desk(&mut outbox, &mut did);
        let mut exchange = Exchange::serve(open, &head, "10.0.0.2", WINDOW, 0, desk).expect("a good open");
        // Like the pool: the one that was used last, if nothing can be read from it.
        let usable = |c: &Connection| c.idle && !c.closed && c.socket.is_empty();
        // What a service sends before the next request arrives is seen; its end is seen when it is there to be read.
        let found = self.connections.iter().rposition(|c| usable(c) && !(c.ended && self.dice_knows()));
        let c = match found {
            Some(c) => {
                exchange.connected(true, 0);
                c
            }
            None => {
                self.connections.push(Connection::default());
                self.connections.len() - 1
            }
        };
        self.log.push(format!("agent serves {k} on connection {c}"));
        let connection = &mut self.connections[c];
        connection.idle = false;
        assert!(connection.outbox.is_empty() && connection.pending.is_empty(), "{}", self.story());
        let connection = &mut self.connections[c];
        connection.outbox = outbox;
        connection.end = Some(End { exchange, home: lane, used: Vec::new(), k });
    }

    /// An end may be on its way.
    fn dice_knows(&self) -> bool {
        self.streams.is_multiple_of(2)
    }

    fn connect(&mut self, c: usize) -> bool {
        let connection = &mut self.connections[c];
        if connection.connected || connection.closed {
            return false;
        }
        connection.connected = true;
        if let Some(end) = &mut connection.end {
            end.exchange.connected(false, 0);
        }
        self.agent_proceeds(c);
        true
    }

    fn agent_writes(&mut self, c: usize, most: usize) -> bool {
        let connection = &mut self.connections[c];
        let n = most.min(connection.outbox.len());
        if !connection.connected || connection.closed || n == 0 {
            return false;
        }
        if connection.ended {
            // A reset: nobody takes it.
            connection.outbox.clear();
            if let Some(end) = &mut connection.end {
                end.exchange.output_failed();
            }
        } else {
            connection.received.extend(connection.outbox.drain(..n));
        }
        let waiting = connection.outbox.len();
        if let Some(end) = &mut connection.end {
            let (mut did, may_grow) = (Did::default(), self.may_grow);
            let line = || Line { rtt: 0, may_grow };
            end.exchange.written(waiting, 0, line, &mut Desk(&mut connection.outbox, &mut did));
            queue(&mut self.lanes, Side::Gateway, end.home, end.home, &mut did);
            self.agent_proceeds(c);
        }
        true
    }

    /// Understands what came, answers, sends some of the answer.
    fn service_works(&mut self, c: usize, most: usize) -> bool {
        let mut moved = self.service_understands(c);
        let connection = &mut self.connections[c];
        let n = most.min(connection.sends.len());
        if n > 0 && !connection.ended {
            connection.socket.extend(connection.sends.drain(..n));
            if connection.sends.is_empty() {
                connection.socket.extend(std::mem::take(&mut connection.tail));
            }
            moved = true;
        }
        if connection.sends.is_empty() && connection.closes && !connection.ended {
            connection.ended = true;
            moved = true;
        }
        // What nobody asked for comes when everything else is done.
        if connection.sends.is_empty() && connection.idle && !connection.stray.is_empty() && !connection.ended
        {
            connection.socket.extend(std::mem::take(&mut connection.stray));
            moved = true;
        }
        moved
    }

    fn service_understands(&mut self, c: usize) -> bool {
        let connection = &mut self.connections[c];
        if let Some((k, from)) = connection.raw {
            let raw = connection.received[from..].to_vec();
            let sent = content(b'A', k + 1, 30);
            assert!(sent.starts_with(&raw), "raw bytes of {k}: {raw:?}\n{}", self.story());
            return false;
        }
        if connection.ended || connection.closed || connection.mute {
            return false;
        }
        let bytes = &connection.received[connection.parsed..];
        let Some(found) = message(bytes, false, false) else { return false };
        let target = found.first_line.split(' ').nth(1).unwrap_or_default();
        let k: usize = target.get(1..).and_then(|k| k.parse().ok()).unwrap_or_else(|| {
            panic!("the service was asked {:?}\n{}", found.first_line, self.story());
        });
        let connection = &mut self.connections[c];
        let body = request_body(&self.asks[k], k);
        assert!(body.starts_with(&found.body), "body of {k}: {:?}\n{}", found.body, self.story());
        let (begun, answered) = match connection.serving {
            Some((of, answered)) => {
                assert_eq!(of, k);
                (true, answered)
            }
            None => (false, false),
        };
        connection.serving = Some((k, answered));
        let mut moved = !begun;
        if !answered && (found.complete || self.replies[k].early) {
            let (ask, reply) = (&self.asks[k], self.replies[k].clone());
            let mut bytes = Vec::new();
            for _ in 0..reply.interim {
                bytes.extend(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
            }
            let body = answer_body(&reply, ask, k);
            let (mut field, mut framed) = framed(reply.body, &body, k, &mut self.dice);
            if reply.status == 101 {
                (field, framed) =
                    ("Connection: upgrade\r\nUpgrade: raw\r\n".into(), content(b'a', k, reply.len));
            } else if matches!(reply.status, 204) || ask.method == "HEAD" || reply.status == 304 {
                if reply.status == 204 {
                    field = String::new();
                }
                framed = Vec::new();
            }
            let close = if reply.close && reply.status != 101 { "Connection: close\r\n" } else { "" };
            if reply.events {
                field += "Content-Type: text/event-stream\r\n";
            }
            bytes.extend(
                format!("HTTP/1.1 {} X\r\nNumber: {k}\r\n{field}{close}\r\n", reply.status).into_bytes(),
            );
            bytes.extend(framed);
            let len = reply.cut.map_or(bytes.len(), |cut| cut % bytes.len());
            connection.sends.extend(&bytes[..len]);
            connection.answer_len = len;
            connection.closes |= reply.close || reply.cut.is_some();
            if reply.stray && !connection.closes {
                let place = if self.dice.one_in(2) { &mut connection.tail } else { &mut connection.stray };
                *place = b"HTTP/1.1 200 Stray\r\nContent-Length: 5\r\n\r\nstray".to_vec();
            }
            connection.serving = Some((k, true));
            if reply.status == 101 && !found.complete {
                // It goes on as if the request had ended: not to be believed from here on.
                connection.mute = true;
            } else if reply.status == 101 {
                connection.raw = Some((k, connection.parsed + found.len));
                self.served[k] += 1;
            }
            moved = true;
        }
        let connection = &mut self.connections[c];
        if found.complete && connection.serving == Some((k, true)) && connection.raw.is_none() {
            assert_eq!(found.body, body);
            if self.asks[k].body == Body::Trailers {
                assert_eq!(found.trailers, format!("X-Sum: {k}\r\n"));
            }
            connection.parsed += found.len;
            connection.serving = None;
            self.served[k] += 1;
            moved = true;
        }
        moved
    }

    fn agent_reads(&mut self, c: usize, most: usize) -> bool {
        let connection = &mut self.connections[c];
        if !connection.connected || connection.closed {
            return false;
        }
        if connection.idle {
            // Whatever comes now, the connection is of no more use.
            let any = !connection.socket.is_empty() || connection.ended;
            connection.closed |= any;
            return any;
        }
        let Some(end) = &mut connection.end else { return false };
        let n = match end.exchange.wants() {
            Wants::Nothing => return false,
            Wants::Head => most,
            Wants::Body => most.min(end.exchange.credit()),
        };
        let n = n.min(connection.socket.len() + connection.pending.len());
        let mut did = Did::default();
        if n == 0 {
            if !connection.ended
                || !connection.socket.is_empty()
                || end.exchange.wants() == Wants::Body
                    && end.exchange.credit() == 0
                    && !connection.pending.is_empty()
            {
                return false;
            }
            end.exchange.input_ended(&mut Desk(&mut connection.outbox, &mut did));
            queue(&mut self.lanes, Side::Gateway, end.home, end.home, &mut did);
            self.agent_proceeds(c);
            return true;
        }
        let before = connection.pending.len();
        if end.exchange.wants() == Wants::Head {
            let n = most.min(connection.socket.len());
            if n == 0 && !connection.ended {
                return false;
            }
            if n == 0 {
                end.exchange.input_ended(&mut Desk(&mut connection.outbox, &mut did));
                queue(&mut self.lanes, Side::Gateway, end.home, end.home, &mut did);
                self.agent_proceeds(c);
                return true;
            }
            connection.pending.extend(connection.socket.drain(..n));
        } else if before < n {
            connection.pending.extend(connection.socket.drain(..n - before));
        }
        let mut input = std::mem::take(&mut connection.pending);
        let most = if end.exchange.wants() == Wants::Head { input.len() } else { n };
        connection.pending = input.split_off(most);
        let mut place = end.home;
        if end.exchange.status() != 0 && end.exchange.credit() > 0 {
            let number = end.exchange.number();
            let known = |other: &End| other.exchange.number() == number && other.exchange.status() != 0;
            if self.visitors.iter().any(|v| v.end.as_ref().is_some_and(known)) && self.dice.one_in(3) {
                place = self.dice.roll(LANES);
                if place != end.home && self.lanes[place].alive {
                    end.exchange.spread();
                    end.used.push(place);
                } else {
                    place = end.home;
                }
            }
        }
        let used = end.exchange.input(&input, 0, &mut Desk(&mut connection.outbox, &mut did));
        connection.read_len += used;
        queue(&mut self.lanes, Side::Gateway, end.home, place, &mut did);
        self.agent_proceeds(c);
        let connection = &mut self.connections[c];
        if connection.end.is_some() {
            input.drain(..used);
            input.append(&mut connection.pending);
            connection.pending = input;
        }
        true
    }

    fn agent_proceeds(&mut self, c: usize) {
        loop {
            let connection = &mut self.connections[c];
            let Some(end) = &mut connection.end else { return };
            match end.exchange.next(connection.outbox.len()) {
                Next::Wait => return,
                Next::HalfClose => {
                    end.exchange.closed_sending_half();
                    connection.half_closed = true;
                    // The service hears the end, and has nothing more to say.
                    connection.closes = true;
                }
                Next::Finish => {
                    let unread = connection.pending.len();
                    let keep = end.exchange.may_be_followed(connection.outbox.len(), unread);
                    let end = connection.end.take().expect("as before");
                    if keep {
                        let (read, of) = (connection.read_len, connection.answer_len);
                        assert_eq!(read, of, "bytes used of {}\n{}", end.k, self.story());
                    }
                    let connection = &mut self.connections[c];
                    (connection.read_len, connection.idle) = (0, keep);
                    connection.closed = !keep;
                    connection.pending.clear();
                    connection.outbox.clear();
                    self.log.push(format!("agent has finished {}, keep {keep}", end.k));
                    return;
                }
                Next::Retry => {
                    let mut end = connection.end.take().expect("as before");
                    connection.closed = true;
                    connection.outbox.clear();
                    let (mut outbox, mut did) = (Vec::new(), Did::default());
                    end.exchange.retry(0, &mut Desk(&mut outbox, &mut did));
                    assert!(did.frames.is_empty());
                    self.log.push(format!("agent asks {} again", end.k));
                    let fresh = Connection { outbox, end: Some(end), ..Connection::default() };
                    self.connections.push(fresh);
                    return;
                }
                Next::Close | Next::Cut | Next::Answer => {
                    let end = connection.end.take().expect("as before");
                    self.log.push(format!("agent gives {} up: {:?}", end.k, end.exchange.failure()));
                    connection.closed = true;
                    connection.outbox.clear();
                    return;
                }
            }
        }
    }

    // What must hold.

    /// The service's answer, or the request, is one that must be refused.
    fn is_refused(&self, k: usize) -> bool {
        let (ask, reply) = (&self.asks[k], &self.replies[k]);
        reply.interim > head::MAX_INTERIM
            || reply.status == 101
                && (!ask.upgrade || reply.early && ask.body != Body::None && ask.body != Body::Empty)
    }

    fn check(&mut self) {
        for v in 0..self.visitors.len() {
            self.check_visitor(v);
        }
        for k in 0..self.asks.len() {
            let repeatable = self.asks[k].method != "POST" && request_body(&self.asks[k], k).is_empty();
            assert!(self.served[k] <= 1 + usize::from(repeatable), "{k} was served twice\n{}", self.story());
        }
    }

    /// What he got is what the service sent for each of his requests, in order, or visibly no answer.
    fn check_visitor(&mut self, v: usize) {
        let visitor = &self.visitors[v];
        let over = visitor.closed || visitor.half_closed || visitor.gone;
        let mut rest = visitor.got.as_slice();
        let mut complete = 0;
        for &k in &visitor.asks {
            let (ask, reply) = (&self.asks[k], &self.replies[k]);
            // Interim answers first.
            let mut interim = 0;
            while rest.starts_with(b"HTTP/1.1 103") {
                let Some(found) = message(rest, true, false) else { break };
                assert!(found.first_line == "HTTP/1.1 103 Early Hints" && !ask.http10, "{}", self.story());
                rest = &rest[found.len..];
                interim += 1;
            }
            assert!(interim <= reply.interim.min(head::MAX_INTERIM), "{}", self.story());
            let may_fail = self.disturbed[k] || self.is_refused(k);
            let unanswered = || format!("request {k} has no answer, over {over}\n{}", self.story());
            let no_body = ask.method == "HEAD" || matches!(reply.status, 204 | 304 | 101);
            let own = rest.windows(4).take(20).any(|w| w == b" Own");
            let Some(found) = message(rest, no_body && !own, true) else {
                // An answer that ended the connection came before, or he is gone.
                let ended =
                    over && visitor.asks.iter().take_while(|other| **other != k).any(|k| self.ends(*k));
                assert!(may_fail && over || ended || visitor.gone, "{}", unanswered());
                return;
            };
            if own {
                assert!(may_fail || self.after_switch(k), "{}", unanswered());
                rest = &rest[found.len..];
                continue;
            }
            let number = format!("number: {k}\r\n");
            assert!(
                found.fields.contains(&number),
                "{k} got {:?} {:?}\n{}",
                found.first_line,
                found.fields,
                self.story()
            );
            assert!(found.first_line.starts_with(&format!("HTTP/1.1 {}", reply.status)), "{}", self.story());
            if reply.status == 101 {
                let raw = content(b'a', k, reply.len);
                let got = &rest[found.len..];
                assert!(raw.starts_with(got), "{}", self.story());
                assert!(may_fail || visitor.gone || raw == got, "{got:?}\n{}", self.story());
                self.complete += usize::from(raw == got);
                return;
            }
            let body = answer_body(reply, ask, k);
            assert!(body.starts_with(&found.body), "{k} got {:?}\n{}", found.body, self.story());
            let known_end = found.complete;
            if !known_end {
                // The end of the connection is the end of the answer: without a reset it is complete.
                let until_close = !found.fields.contains("content-length: ")
                    && !found.fields.contains("transfer-encoding: ")
                    && !no_body;
                let whole = until_close && over && !visitor.reset && found.body == body;
                assert!(whole || may_fail || visitor.gone, "{k} got {:?}\n{}", found.body, self.story());
                assert!(over, "an answer that was cut leaves the connection open\n{}", self.story());
                let shown = !self.disturbed[k] || self.parted[k] && !reply.events && reply.cut.is_none();
                if until_close && !visitor.reset && !visitor.gone && shown {
                    assert_eq!(found.body, body, "{}", self.story());
                }
                self.complete += usize::from(whole);
                return;
            }
            // The end of a body without length cannot be told from a cut.
            let unclear = reply.body == Body::UntilClose && reply.cut.is_some();
            // One without end by its type ends well wherever it is.
            let parted = self.parted[k] && reply.events;
            let unclear = unclear || parted;
            assert!(found.body == body || unclear, "{k} got {:?}\n{}", found.body, self.story());
            if reply.body == Body::Trailers && !ask.http10 && !no_body && !parted {
                assert_eq!(found.trailers, format!("X-Sum: {k}\r\n"), "{}", self.story());
            }
            complete += 1;
            rest = &rest[found.len..];
        }
        self.complete += complete;
        // Behind the last answer at most a refusal of what followed an upgrade that was not made.
        assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 400 Own"), "{rest:?}\n{}", self.story());
    }

    /// The connection may end behind the answer to this request.
    fn ends(&self, k: usize) -> bool {
        let (ask, reply) = (&self.asks[k], &self.replies[k]);
        self.disturbed[k] || self.is_refused(k) || ask.http10 || reply.early || ask.upgrade
    }

    /// What he sent behind an upgrade that was not made is read as a request.
    fn after_switch(&self, k: usize) -> bool {
        self.asks[k].upgrade
    }
}

/// `last`: nothing of the visitor follows, so that he may upgrade or go away.
fn ask(dice: &mut Dice, last: bool) -> Ask {
    let body =
        [Body::None, Body::None, Body::Empty, Body::Length, Body::Chunked, Body::Trailers][dice.roll(6)];
    let method = match (body, dice.roll(4)) {
        (Body::None, 0) => "HEAD",
        (Body::None, 1 | 2) => "GET",
        (Body::None, _) => "POST",
        (_, 0) => "GET",
        _ => "POST",
    };
    let http10 = matches!(body, Body::None | Body::Length) && last && dice.one_in(6);
    let upgrade = last && !http10 && method != "HEAD" && dice.one_in(3);
    let cut = (last && !upgrade && dice.one_in(10)).then(|| dice.roll(200));
    Ask { method, body, len: 1 + dice.roll(90), http10, upgrade, cut }
}

fn reply(dice: &mut Dice, ask: &Ask) -> Reply {
    let early = ask.body != Body::None && dice.one_in(6);
    let status = match dice.roll(12) {
        0 => 204,
        1 => 304,
        2 if dice.one_in(3) => 101,
        _ if ask.upgrade && dice.one_in(2) => 101,
        _ => 200,
    };
    let body = [Body::Empty, Body::Length, Body::Length, Body::Chunked, Body::Trailers, Body::UntilClose]
        [dice.roll(6)];
    let body = if status == 304 && body == Body::UntilClose { Body::Length } else { body };
    let interim = [0, 0, 0, 0, 1, 2, 8, 9][dice.roll(8)];
    Reply {
        status,
        body,
        len: 1 + dice.roll(90),
        interim,
        early,
        close: (body == Body::UntilClose && !matches!(status, 101 | 204)) || status == 101 || dice.one_in(8),
        cut: dice.one_in(12).then(|| dice.roll(300)),
        stray: dice.one_in(10),
        events: dice.one_in(4),
    }
}
