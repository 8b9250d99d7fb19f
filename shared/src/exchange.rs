//! One request and its answer, at one of the two ends of the Stream that carries them: the machine that both daemons
//! run, each in its [`Role`]. Pure: bytes of a socket, Frames of the peer and the time come in; bytes and Frames go out
//! through a [`Port`]; what is to be done with the connection says [`Exchange::next`].
//!
//! ```text
//!             Gateway: visitor's socket                         Agent: service's socket
//!   request   Body ──last byte──▶ Done          ═ Stream ═▶     Body ──end──▶ Done
//!                │                                                │
//!   answer    Waiting ──Head──▶ Body ──end──▶ Done  ◀═ Stream ═ Waiting ──head──▶ Body ──last byte──▶ Done
//!                │ (interim heads stay in Waiting)
//!                └──101, and the request is Done──▶ both halves begin anew, Raw, and end each on its own
//!
//!   at any moment: Open ──answer Done──▶ complete        Open ──Reset, Link lost, fault, timeout──▶ failed
//!   a daemon stops: what would never end ──▶ complete, or failed: `part`
//! ```
//! The half that is read from the socket is [`Sending`]: its framing is taken off, it is spent against the peer's Credit
//! and becomes Data. The other is [`Receiving`]: its pieces are put in order, get the framing of the socket's hop, and
//! earn the peer Credit when the socket took them. On the Gateway the request is the sending half, on the Agent the
//! answer.
//!
//! Whether another message may follow on the connection follows from the framing of both halves alone:
//! [`Exchange::may_be_followed`] is the one place that decides it.
//!
//! One exchange, from the visitor's bytes to the service's and back:
//! ```
//! use shared::exchange::{Exchange, Line, Next, Order, Port};
//! use shared::frame::{Frame, Open, Side};
//! use shared::head;
//!
//! /// What a machine sent: bytes to its socket, Frames to its peer.
//! #[derive(Default)]
//! struct Sent(Vec<u8>, Vec<Vec<u8>>);
//!
//! impl Port for Sent {
//!     fn write(&mut self, parts: &[&[u8]]) {
//!         self.0.extend(parts.concat());
//!     }
//!     fn frame(&mut self, frame: &Frame<'_>, _order: Order) {
//!         let mut bytes = Vec::new();
//!         frame.encode(&mut bytes);
//!         self.1.push(bytes);
//!     }
//!     fn wake(&mut self) {}
//! }
//!
//! // A visitor asks.
//! let (mut visitor, mut service) = (Sent::default(), Sent::default());
//! let request = b"GET / HTTP/1.1\r\nHost: app.example.com\r\n\r\n";
//! let (head, _) = head::parse_request(request).unwrap().unwrap();
//! let in_tunnel = b"GET / HTTP/1.1\r\nHost: app.example.com\r\n\r\n";
//! let open = Open {
//!     stream: 1, body: false, upgrade: false, credit: 1000, mapping: [0; 16],
//!     request_id: "r", visitor: "192.0.2.1", head: in_tunnel,
//! };
//! let mut gateway = Exchange::ask(&open, &head, 1000, 0, &mut visitor);
//!
//! // The Agent opens its end of the Stream, and asks the service.
//! let Ok(Some(Frame::Open(open))) = Frame::decode(&visitor.1[0], Side::Agent) else { panic!() };
//! let (head, _) = head::parse_tunnel_request(open.head).unwrap().unwrap();
//! let mut agent = Exchange::serve(&open, &head, "10.0.0.2", 1000, 0, &mut service).unwrap();
//! assert_eq!(service.0, b"GET / HTTP/1.1\r\nHost: 10.0.0.2\r\n\r\n");
//!
//! // The service answers; its Frames reach the Gateway, and the visitor has his answer.
//! let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
//! let used = agent.input(answer, 0, &mut service);
//! agent.input(&answer[used..], 0, &mut service);
//! assert_eq!(agent.next(0), Next::Finish);
//! for frame in &service.1 {
//!     let frame = Frame::decode(frame, Side::Gateway).unwrap().unwrap();
//!     gateway.frame(&frame, 0, &mut visitor).unwrap();
//! }
//! assert_eq!(visitor.0, answer);
//! gateway.written(0, 0, || Line { rtt: 0, may_grow: true }, &mut visitor);
//! assert_eq!(gateway.next(0), Next::Finish);
//! assert!(agent.may_be_followed(0, 0) && gateway.may_be_followed(0, 0));
//! ```

mod agent;
mod gateway;
mod halves;

use crate::body::BodyFault;
use crate::frame::{Frame, MAX_DATA};
use crate::head::Version;
use crate::lasting::{Course, Parting};
use crate::reason::Reason;
use halves::{Receiving, Sending, Taken};

/// A request on which no byte moves either way fails after this long at the Gateway. Microseconds.
const IDLE_AT_GATEWAY: u64 = 300_000_000;
/// Slightly less at the Agent, so that the answer names the hop that is silent.
const IDLE_AT_AGENT: u64 = 299_000_000;
/// After the loss of a Link that may have carried some of it, a piece that is missing must come within this time.
/// Microseconds.
const MISSING_TIME: u64 = 30_000_000;
/// An idle connection to a service is kept for this long, or for what the service says. Microseconds.
const POOL_TIME: u64 = 30_000_000;

/// Carries out what an [`Exchange`] decides, at once and in order.
pub trait Port {
    /// Bytes for the socket, which are to be sent one part behind the other.
    fn write(&mut self, parts: &[&[u8]]);

    /// A Frame for the peer.
    fn frame(&mut self, frame: &Frame<'_>, order: Order);

    /// Input that was not wanted before may be wanted now.
    fn wake(&mut self);
}

/// How a Frame goes among the others of its Link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Before the Data of other Streams: what a page waits for.
    First,
    /// Behind the earlier ones of its Stream, in turn with other Streams.
    InTurn,
    /// Before everything of any Stream.
    Urgent,
    /// Instead of whatever of its Stream has not been sent yet.
    Instead,
}

/// What is known of the line to the peer, for the growth of windows.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// Its shortest round trip, microseconds.
    pub rtt: u64,
    /// There is memory for larger windows.
    pub may_grow: bool,
}

/// Which end of the Stream this is.
#[derive(Debug)]
enum Role {
    /// The visitor's.
    Gateway {
        /// What the visitor speaks.
        version: Version,
        /// The answer's end is the end of the connection.
        until_close: bool,
        /// The answer is the Gateway's own.
        own_answer: bool,
    },
    /// The service's.
    Agent {
        method: String,
        /// The request, kept while it may have to be sent again.
        again: Option<Vec<u8>>,
        /// The connection served a Stream before, so the service may have closed it meanwhile.
        reused: bool,
        /// Something of an answer came.
        touched: bool,
        /// More came than the answer.
        surplus: bool,
        /// The request cannot be sent, or no further: what was not, is dropped. An answer may have been sent before.
        deaf: bool,
        /// To be asked again on another connection.
        retry: bool,
        /// For how long the connection may be kept afterwards, microseconds.
        pool_time: u64,
    },
}

/// Why an exchange failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The kind of it, which the visitor is told.
    pub reason: Reason,
    /// In the words of whoever noticed; empty if there is nothing to add.
    pub text: String,
    /// Noticed at this end of the Stream.
    pub here: bool,
    /// The body of the visitor's request is malformed.
    pub body: Option<BodyFault>,
}

/// What the socket may be read for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wants {
    /// Nothing: what comes is not part of the exchange, or has to wait.
    Nothing,
    /// The head of the answer; as much as there is.
    Head,
    /// A body, or raw bytes; at most what [`Exchange::credit`] allows.
    Body,
}

/// What the owner of the connection has to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Nothing: the exchange goes on.
    Wait,
    /// Gateway: it failed before an answer began. Write one, and tell [`Exchange::answered`].
    Answer,
    /// Raw: the peer's direction has ended. Close the sending half of the socket, and tell
    /// [`Exchange::closed_sending_half`].
    HalfClose,
    /// It is over. [`Exchange::may_be_followed`] says whether the connection may be used again.
    Finish,
    /// Gateway: the answer cannot be completed. Close so that the visitor sees it: with a reset if
    /// [`Exchange::ends_with_connection`].
    Cut,
    /// Nothing is left to tell anybody: close.
    Close,
    /// Agent: the kept-alive connection had been closed at the other end. [`Exchange::retry`] on a new one.
    Retry,
}

/// The machine.
#[derive(Debug)]
pub struct Exchange {
    role: Role,
    number: u32,
    /// The Stream has not ended on this side.
    open: bool,
    upgrade: bool,
    /// The connection was upgraded: bytes go through as they are, in both directions.
    raw: bool,
    /// Of the answer; 0 until its head has come.
    status: u16,
    /// How far the answer has got, and how it ends.
    course: Course,
    /// Interim answers so far, and bytes of their heads.
    interim: (usize, usize),
    keep_alive: bool,
    half_closed: bool,
    failure: Option<Failure>,
    deadline: u64,
    /// A Link was lost that may have carried some of what comes.
    lost_beside: bool,
    sending: Sending,
    receiving: Receiving,
}

impl Exchange {
    // What it is.

    /// The Stream's number in its Session.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The Stream has not ended on this side: Frames for it are to be given to [`frame`](Self::frame).
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Whether it is an upgraded connection.
    pub fn is_raw(&self) -> bool {
        self.raw
    }

    /// Status of the answer; 0 until its head has come.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// How it failed, if it did.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// Bytes of body, or raw ones, that were read from the socket and sent to the peer.
    pub fn sent(&self) -> u64 {
        self.sending.bytes
    }

    /// Bytes of body, or raw ones, that came from the peer and whose turn it was.
    pub fn received(&self) -> u64 {
        self.receiving.bytes
    }

    /// All that is read from the socket has been read, to the last byte of its framing.
    pub fn is_sent(&self) -> bool {
        self.sending.done
    }

    /// All that goes to the socket has come.
    pub fn is_received(&self) -> bool {
        self.receiving.done
    }

    /// Bytes that came from the peer ahead of their turn.
    pub fn early(&self) -> usize {
        self.receiving.early()
    }

    /// What the peer may have on its way, bytes.
    pub fn window(&self) -> u32 {
        self.receiving.window()
    }

    /// When it fails if nothing happens, [`expired`](Self::expired) has to be told. Microseconds; `u64::MAX`: never.
    pub fn deadline(&self) -> u64 {
        self.deadline
    }

    // The socket's side.

    /// What is to be read from the socket.
    pub fn wants(&self) -> Wants {
        if !self.open || self.failure.is_some() {
            return Wants::Nothing;
        }
        if self.status == 0 && matches!(self.role, Role::Agent { .. }) {
            return Wants::Head;
        }
        if self.sending.done { Wants::Nothing } else { Wants::Body }
    }

    /// How many bytes the peer would take now.
    pub fn credit(&self) -> usize {
        self.sending.credit()
    }

    /// Whether what is sent may go over several Links: the peer knows the Stream, and it is long.
    pub fn may_spread(&self) -> bool {
        self.sending.may_spread()
    }

    /// What is sent next goes over another Link than what came before, so it says from now on where it belongs.
    pub fn spread(&mut self) {
        self.sending.spread();
    }

    /// Takes bytes of the socket, and returns how many are used; the rest is to be given again, with what follows it,
    /// when more is [wanted](Self::wants). A body, or raw bytes, may not be longer than [`credit`](Self::credit).
    pub fn input(&mut self, bytes: &[u8], now: u64, port: &mut impl Port) -> usize {
        match self.wants() {
            Wants::Nothing => 0,
            Wants::Head => self.heads(bytes, now, port),
            Wants::Body => self.body(bytes, now, port),
        }
    }

    /// Bytes of a body, or raw ones.
    fn body(&mut self, bytes: &[u8], now: u64, port: &mut impl Port) -> usize {
        self.progress(now);
        if self.raw {
            self.sending.put(self.number, bytes, false, port);
            return bytes.len();
        }
        match self.sending.take(self.number, bytes, port) {
            Taken::All => bytes.len(),
            Taken::UpTo(used) => self.sent_all(bytes.len(), used),
            Taken::Fault(fault) => {
                self.bad_body(fault, port);
                bytes.len()
            }
        }
    }

    /// The body that the socket gave is complete behind `used` of `len` bytes; returns how many are done with.
    fn sent_all(&mut self, len: usize, used: usize) -> usize {
        match &mut self.role {
            Role::Gateway { .. } => used,
            Role::Agent { surplus, .. } => {
                *surplus |= len > used;
                self.open = false;
                len
            }
        }
    }

    /// The socket gives no more: its other end closed its sending half.
    pub fn input_ended(&mut self, port: &mut impl Port) {
        if self.raw {
            if self.open && !self.sending.done {
                self.sending.end(self.number, port);
            }
            self.leave_if_both_ended();
            return;
        }
        match self.role {
            Role::Gateway { .. } => self.gone(port),
            Role::Agent { .. } if self.status != 0 && self.open && self.sending.may_end_here() => {
                self.sending.end(self.number, port);
                self.surplus();
                self.open = false;
            }
            Role::Agent { .. } => self.broke("it closed the connection", port),
        }
    }

    /// The socket took some of what was written: `waiting` bytes are left. Grants the peer Credit for the rest.
    /// Whether it took anything of a body.
    pub fn written(
        &mut self,
        waiting: usize,
        now: u64,
        line: impl FnOnce() -> Line,
        port: &mut impl Port,
    ) -> bool {
        let Some(taken) = self.receiving.taken(waiting) else { return false };
        self.progress(now);
        if let Some(bytes) = self.receiving.grant(taken, now, line())
            && self.open
        {
            port.frame(&Frame::Credit { stream: self.number, bytes }, Order::Urgent);
        }
        true
    }

    /// The sending half of the socket is closed.
    pub fn closed_sending_half(&mut self) {
        self.half_closed = true;
    }

    // The peer's side.

    /// Takes a Frame of this Stream. An error is a fault of the peer against the protocol: its Link is to be closed.
    pub fn frame(&mut self, frame: &Frame<'_>, now: u64, port: &mut impl Port) -> Result<(), String> {
        if !self.open {
            return Ok(());
        }
        match *frame {
            Frame::Head { body, switched, interim, head, .. } => {
                self.head((body, switched, interim), head, now, port)
            }
            Frame::Data { end, at, bytes, .. } => {
                self.expects_body("data")?;
                if self.receiving.arrive(self.number, at, bytes, end)? {
                    self.deliver(bytes, end, now, port);
                }
                while self.open
                    && let Some((bytes, end)) = self.receiving.pop()
                {
                    self.deliver(&bytes, end, now, port);
                }
                self.mind_the_gap(now);
                Ok(())
            }
            Frame::End { at, trailers, .. } => {
                self.expects_body("an end")?;
                if self.receiving.arrive_end(at, trailers)? {
                    self.received_all(trailers, port);
                }
                self.mind_the_gap(now);
                Ok(())
            }
            Frame::Reset { reason, text, .. } => {
                self.ended_by_peer(reason, text);
                Ok(())
            }
            Frame::Credit { bytes, .. } => {
                if self.sending.grant(bytes) {
                    port.wake();
                }
                Ok(())
            }
            Frame::Control { .. } | Frame::Beat { .. } | Frame::BeatAck { .. } | Frame::Open(_) => {
                Err(format!("a frame on stream {} that concerns no open stream", self.number))
            }
        }
    }

    fn expects_body(&self, what: &str) -> Result<(), String> {
        let begun = self.status != 0 || matches!(self.role, Role::Agent { .. });
        if begun && !self.receiving.done {
            return Ok(());
        }
        Err(format!("{what} on stream {} outside of a body", self.number))
    }

    /// Bytes whose turn it is.
    fn deliver(&mut self, bytes: &[u8], end: bool, now: u64, port: &mut impl Port) {
        self.progress(now);
        if self.receiving.count(bytes.len(), self.raw).is_err() {
            let (reason, text) = match self.role {
                Role::Gateway { .. } => (Reason::UpstreamInvalid, "more bytes than the head declared"),
                Role::Agent { .. } => (Reason::Protocol, "more bytes than the request declared"),
            };
            return self.fail(reason, text, port);
        }
        if !bytes.is_empty() && !self.is_deaf() {
            self.receiving.pass(bytes, self.raw, port);
        }
        if end {
            self.received_all(b"", port);
        }
    }

    /// The half that goes to the socket is complete.
    fn received_all(&mut self, trailers: &[u8], port: &mut impl Port) {
        if self.raw || self.is_deaf() {
            self.receiving.done = true;
            return self.leave_if_both_ended();
        }
        let complete = self.receiving.finish(trailers, port).is_ok();
        match (&self.role, complete) {
            (Role::Gateway { .. }, true) => self.open = false,
            // The peer ended it: there is nobody to tell but the visitor.
            (Role::Gateway { .. }, false) => {
                self.open = false;
                self.failure.get_or_insert(Failure {
                    reason: Reason::UpstreamBroke,
                    text: "fewer bytes than the head declared".to_owned(),
                    here: true,
                    body: None,
                });
            }
            (Role::Agent { .. }, true) => {}
            (Role::Agent { .. }, false) => {
                self.fail(Reason::Protocol, "fewer bytes than the request declared", port);
            }
        }
    }

    /// Raw: the Stream is over when both directions are.
    fn leave_if_both_ended(&mut self) {
        if self.raw && self.sending.done && self.receiving.done {
            self.open = false;
        }
    }

    // How it ends.

    /// It fails, noticed here: the peer is told, unless the Stream is over.
    pub fn fail(&mut self, reason: Reason, text: &str, port: &mut impl Port) {
        self.failed(reason, text, true);
        if self.open {
            // Behind what the service did send.
            let order = match self.role {
                Role::Agent { .. } if self.status != 0 => Order::InTurn,
                _ => Order::Instead,
            };
            port.frame(&Frame::Reset { stream: self.number, reason, text }, order);
        }
        self.open = false;
    }

    /// It fails, and the peer knows, or cannot be told.
    pub fn lost(&mut self, reason: Reason, text: &str) {
        self.failed(reason, text, true);
        self.open = false;
    }

    /// A Link of the Session was lost that carried nothing which this side sent. The peer may have sent some of what is
    /// still to come over it, and may have left since, so that nobody would say that it is lost.
    pub fn lost_beside(&mut self, now: u64) {
        self.lost_beside |= self.open && self.receiving.is_spread() && !self.receiving.done;
        self.mind_the_gap(now);
    }

    /// Whether a piece is missing that nobody may send any more.
    fn misses(&self) -> bool {
        self.lost_beside && self.receiving.has_gap()
    }

    fn mind_the_gap(&mut self, now: u64) {
        if self.misses() {
            self.deadline = self.deadline.min(now + MISSING_TIME);
        }
    }

    fn ended_by_peer(&mut self, reason: Reason, text: &str) {
        self.failed(reason, text, false);
        self.open = false;
    }

    /// Takes note of the first failure, if it matters: an answer that has come completely is one, whatever happens
    /// while the visitor takes it.
    fn failed(&mut self, reason: Reason, text: &str, here: bool) {
        let complete = match self.role {
            // Raw: the visitor has taken everything and knows that nothing follows.
            Role::Gateway { .. } => {
                self.receiving.done && (!self.raw || self.sending.done || self.half_closed)
            }
            Role::Agent { .. } => false,
        };
        if !complete {
            self.failure.get_or_insert(Failure { reason, text: text.to_owned(), here, body: None });
        }
    }

    /// Whether it may finish before the daemon stops. `age`: microseconds since it began.
    pub fn may_finish(&self, age: u64) -> bool {
        self.open && self.course.parting(age) == Parting::Wait
    }

    /// The daemon stops: what would not end by itself ends, in the way that makes visitors come back; see
    /// [`lasting`](crate::lasting). `age`: microseconds since it began.
    pub fn part(&mut self, age: u64, port: &mut impl Port) {
        if !self.open {
            return;
        }
        match self.course.parting(age) {
            Parting::Wait => {}
            Parting::End => self.end_well(port),
            Parting::Cut => self.fail(Reason::Draining, self.stops(), port),
        }
    }

    fn stops(&self) -> &'static str {
        match self.role {
            Role::Gateway { .. } => "the gateway is shutting down",
            Role::Agent { .. } => "the agent is shutting down",
        }
    }

    /// Ends the answer, or both directions of an upgraded connection, behind what has been delivered, as if the service
    /// had.
    fn end_well(&mut self, port: &mut impl Port) {
        match self.role {
            // All of it is here: the visitor has only to take it.
            Role::Gateway { .. } if self.receiving.done && !self.half_closed => {}
            Role::Gateway { .. } => {
                let frame =
                    Frame::Reset { stream: self.number, reason: Reason::Draining, text: self.stops() };
                port.frame(&frame, Order::Instead);
                self.open = false;
                if !self.receiving.done {
                    self.receiving.end_here(self.raw, port);
                }
            }
            // It has ended by itself; the visitor's direction is all that is left.
            Role::Agent { .. } if self.sending.done => self.fail(Reason::Draining, self.stops(), port),
            Role::Agent { .. } => {
                self.sending.end(self.number, port);
                self.surplus();
                self.open = false;
                // The service still gets what the visitor had sent before.
                self.receiving.done = true;
            }
        }
    }

    /// Nothing happened until the [deadline](Self::deadline).
    pub fn expired(&mut self, port: &mut impl Port) {
        if self.misses() {
            let text = "a link was lost with a part of it";
            return self.fail(Reason::LinkLost, text, port);
        }
        let reason = match self.role {
            Role::Agent { .. } if self.status == 0 => Reason::UpstreamTimeout,
            _ => Reason::IdleTimeout,
        };
        self.fail(reason, "no byte for 5 minutes", port);
    }

    /// What is to be done with the connection, of whose outbox `unsent` bytes are left.
    pub fn next(&self, unsent: usize) -> Next {
        match &self.role {
            Role::Gateway { own_answer, .. } => {
                if let Some(failure) = self.failure.as_ref().filter(|_| !own_answer) {
                    return match (failure.reason, self.status) {
                        (Reason::VisitorGone, _) if failure.here && failure.body.is_none() => Next::Close,
                        (_, 0) => Next::Answer,
                        _ if unsent == 0 => Next::Cut,
                        _ => Next::Wait,
                    };
                }
                if self.receiving.done && unsent == 0 && !self.raw {
                    return Next::Finish;
                }
            }
            Role::Agent { retry, .. } => {
                if *retry {
                    return Next::Retry;
                }
                if self.failure.is_some() {
                    return Next::Close;
                }
                if self.status != 0 && self.sending.done && !self.raw {
                    return Next::Finish;
                }
            }
        }
        match self.raw && self.receiving.done && unsent == 0 {
            true if !self.half_closed => Next::HalfClose,
            // Or it has been left: by the peer, or because the daemon stops.
            true if self.sending.done || !self.open => Next::Finish,
            _ => Next::Wait,
        }
    }

    /// Whether another message may follow on the connection, of whose outbox `unsent` bytes are left, and on which
    /// `unread` bytes came that are not used: both messages are complete to the last byte of their framing, and both
    /// sides keep the connection (RFC 9112 9.3). On a connection to a service nothing may have come that nobody asked
    /// for (RFC 9112 9.2).
    pub fn may_be_followed(&self, unsent: usize, unread: usize) -> bool {
        let complete = !self.raw && self.sending.done && self.receiving.done;
        complete
            && self.keep_alive
            && match self.role {
                Role::Gateway { until_close, .. } => !until_close,
                Role::Agent { surplus, deaf, pool_time, .. } => {
                    !surplus && !deaf && pool_time > 0 && unsent == 0 && unread == 0 && self.failure.is_none()
                }
            }
    }

    /// Something moved.
    fn progress(&mut self, now: u64) {
        let idle = match self.role {
            Role::Gateway { .. } => IDLE_AT_GATEWAY,
            Role::Agent { .. } => IDLE_AT_AGENT,
        };
        self.deadline = if self.raw { u64::MAX } else { now + idle };
        self.mind_the_gap(now);
    }

    /// The connection is upgraded: behind the end of the request both directions begin anew, raw (RFC 9110 7.8).
    fn switch(&mut self) {
        self.raw = true;
        self.course = Course::Raw;
        self.sending.done = false;
        self.receiving.done = false;
        self.deadline = u64::MAX;
    }
}
