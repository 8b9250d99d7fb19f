//! One visitor's connection: from the bytes of his requests to Frames, and from Frames to the bytes of answers.
//!
//! ```text
//!   Head ──request──▶ Exchange ──answer complete──▶ Head            (keep-alive)
//!    │                   │  └──101──▶ raw both ways ──▶ Closed
//!    │ agent away        └──answer complete, request not──▶ Linger ──▶ Closed
//!    └──▶ Held ──agent is back──▶ Exchange
//! ```
//! Two kinds of thread come here: the ingress poller, which alone reads the socket, and the readers of Links, which
//! write answers straight to it. Both hold the connection's lock and neither ever waits: a visitor who does not read
//! fills his own outbox, up to his Stream's window, and nobody else's.

mod endpoint;

use std::io::{self, Read};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use shared::assembly::Turn;
use shared::credit::{Held, Level};
use shared::forwarded;
use shared::frame::{Frame, Open};
use shared::head::{self, Framing, HopConnection, RequestHead, Version};
use shared::link::Link;
use shared::metrics::{Done, Requests};
use shared::monotime;
use shared::outbox::Outbox;
use shared::outer::Outer;
use shared::reason::Reason;
use shared::spread::Place;
use shared::stream::{Sent, Stream};
use shared::streams::NoStream;
use shared::threads::lock;
use socket2::SockRef;

use crate::answers::{self, Answer};
use crate::gateway::Core;
use crate::own;
use crate::tunnels::{Choice, Session};
use endpoint::OwnRequest;

/// Most bytes read from a visitor at a time.
pub(crate) const SCRATCH: usize = 64 * 1024;
/// A request head must be complete this long after its first byte. Microseconds, like all below.
const HEAD_TIME: u64 = 30_000_000;
/// A kept-alive connection may be silent this long between requests.
const KEEP_ALIVE_TIME: u64 = 120_000_000;
/// A request on which no byte moves either way is over after this long.
const IDLE_TIME: u64 = 300_000_000;
/// After an answer to an incomplete request the rest is read and dropped for this long, so that the answer is not
/// lost to a connection reset (RFC 9112 9.6).
const LINGER_TIME: u64 = 5_000_000;
/// Requests that wait for an Agent at the same time.
const MAX_HELD: usize = 256;
/// An answer that is longer than this is a long transfer: new Streams avoid its Link.
const HEAVY: u64 = 1024 * 1024;

/// Whom a thread has queued for.
pub(crate) type Context = shared::context::Context<Visitor>;

/// A visitor's connection.
pub(crate) struct Visitor {
    core: Arc<Core>,
    pub(crate) token: usize,
    socket: TcpStream,
    peer: IpAddr,
    /// When the poller's sweep must look at it; `u64::MAX` for never.
    deadline: AtomicU64,
    inner: Mutex<Inner>,
}

struct Inner {
    phase: Phase,
    /// Bytes read and not used yet: an incomplete head, a held request, the next pipelined requests.
    pending: Vec<u8>,
    /// Bytes of `pending` that were tried as a head and found incomplete; `usize::MAX`: not tried at all yet.
    tried: usize,
    /// There may be more to read.
    readable: bool,
    /// The kernel said that the visitor closed at least his sending half.
    closing: bool,
    outbox: Outbox,
    /// Bytes that wait for the visitor, as the budget knows.
    held: Held,
    after: After,
    /// When the request began.
    since: u64,
    /// Until when the request may be held; 0 when it has not been.
    hold_until: u64,
    /// A request has been read.
    asked: bool,
}

/// What happens when the outbox is empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum After {
    Nothing,
    /// The last answer: close the sending half, then linger or close.
    Close,
    /// An answer that cannot be completed: close so that the visitor sees it.
    Abort,
}

enum Phase {
    /// Between requests, or in the middle of a head.
    Head,
    /// The request is in `pending`, the Agent away.
    Held,
    /// An endpoint of our own is at work.
    Own(Box<OwnRequest>),
    Exchange(Box<Exchange>),
    /// Everything is answered; what still comes is dropped.
    Linger,
    Closed,
}

struct Exchange {
    session: Arc<Session>,
    /// It sends the request, and receives the answer.
    stream: Stream,
    request_id: String,
    /// What the visitor calls the request, with a space and brackets, for the log.
    label: String,
    visitor: String,
    method: String,
    host: String,
    target: String,
    version: Version,
    wants_html: bool,
    upgrade: bool,
    keep_alive: bool,
    /// Of the answer; 0 until its head has come.
    status: u16,
    until_close: bool,
    /// The answer is a long transfer, and its Link knows.
    heavy: bool,
    /// Raw: the Agent's direction has ended, and the sending half was closed.
    half_closed: bool,
    /// How it failed, for the log.
    failed: Option<Reason>,
    /// The counters of its mapping.
    requests: Arc<Requests>,
}

/// What to do with the bytes of a request.
enum Begun {
    /// They are used.
    Used,
    /// They must be kept: the request waits.
    Kept,
    /// The connection is no longer ours.
    Gone,
}

impl Outer for Visitor {
    fn flush(self: &Arc<Self>, context: &mut Context) {
        let mut inner = lock(&self.inner);
        self.write(&mut inner, context);
    }

    fn stalled(&self) -> (usize, u64) {
        lock(&self.inner).held.stalled()
    }

    fn evict(self: &Arc<Self>, context: &mut Context) {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        if let Phase::Exchange(exchange) = &mut inner.phase {
            exchange.failed.get_or_insert(Reason::TooManyStreams);
            log::warn!(
                "{} cut off: {} bytes wait for a visitor who does not read",
                exchange.request_id,
                inner.held.bytes()
            );
        }
        self.close_stream(inner, Some((Reason::TooManyStreams, "memory budget used up")), context);
        self.abort(inner, context);
    }
}

impl Visitor {
    pub(crate) fn new(core: Arc<Core>, token: usize, socket: TcpStream, peer: IpAddr) -> Visitor {
        let now = monotime::micros();
        Visitor {
            core,
            token,
            socket,
            peer,
            deadline: AtomicU64::new(now + HEAD_TIME),
            inner: Mutex::new(Inner {
                phase: Phase::Head,
                pending: Vec::new(),
                tried: 0,
                readable: false,
                closing: false,
                outbox: Outbox::new(),
                held: Held::new(now),
                after: After::Nothing,
                since: now,
                hold_until: 0,
                asked: false,
            }),
        }
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    pub(crate) fn deadline(&self) -> u64 {
        self.deadline.load(Relaxed)
    }

    /// The poller's thread: the socket is ready.
    pub(crate) fn ready(
        self: &Arc<Self>,
        readable: bool,
        writable: bool,
        closed: bool,
        context: &mut Context,
        scratch: &mut [u8],
    ) {
        let mut inner = lock(&self.inner);
        inner.readable |= readable || closed;
        inner.closing |= closed;
        if writable && !inner.outbox.is_empty() {
            self.write(&mut inner, context);
        }
        self.drive(&mut inner, context, scratch);
        self.notice_end(&mut inner, context);
    }

    /// The poller's thread: something that it waited for may have come.
    pub(crate) fn resume(self: &Arc<Self>, context: &mut Context, scratch: &mut [u8]) {
        let mut inner = lock(&self.inner);
        if matches!(inner.phase, Phase::Held) {
            inner.phase = Phase::Head;
            inner.tried = usize::MAX;
            self.core.held.fetch_sub(1, Relaxed);
        }
        self.drive(&mut inner, context, scratch);
        self.notice_end(&mut inner, context);
    }

    /// The end of the connection may have been announced together with the request itself.
    fn notice_end(self: &Arc<Self>, inner: &mut Inner, context: &mut Context) {
        if inner.closing && self.is_gone(inner) {
            self.gone(inner, context);
        }
    }

    /// A request is complete and only an end of the connection can come: has it?
    fn is_gone(&self, inner: &Inner) -> bool {
        match &inner.phase {
            Phase::Exchange(exchange) if !exchange.reads() && !exchange.stream.is_raw() => {}
            Phase::Held => {}
            Phase::Own(request) if request.is_complete() => {}
            _ => return false,
        }
        match self.socket.peek(&mut [0]) {
            Ok(0) => true,
            Ok(_) => false,
            Err(e) => !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        }
    }

    /// Reads and uses input until there is none, or none is wanted.
    fn drive(self: &Arc<Self>, inner: &mut Inner, context: &mut Context, scratch: &mut [u8]) {
        loop {
            if matches!(inner.phase, Phase::Head) && inner.after == After::Nothing && inner.worth_parsing() {
                self.parse_head(inner, context);
                continue;
            }
            let mut place = None;
            let wanted = match &inner.phase {
                Phase::Head if inner.after != After::Nothing => 0,
                Phase::Head | Phase::Linger => scratch.len(),
                Phase::Own(request) if !request.is_complete() => scratch.len(),
                Phase::Exchange(e) if e.reads() => {
                    place = e.stream.place(self.token, || e.session.links());
                    place.as_ref().map_or(0, |place| place.room)
                }
                _ => 0,
            };
            if wanted == 0 {
                return;
            }
            if !inner.pending.is_empty() && !matches!(inner.phase, Phase::Head) {
                let input = std::mem::take(&mut inner.pending);
                let (now, later) = input.split_at(wanted.min(input.len()));
                let used = self.consume(inner, context, place.as_ref(), now);
                let mut rest = now[used..].to_vec();
                rest.extend_from_slice(later);
                rest.append(&mut inner.pending);
                inner.pending = rest;
                inner.tried = usize::MAX;
                continue;
            }
            if !inner.readable {
                return;
            }
            let wanted = wanted.min(scratch.len());
            match (&self.socket).read(&mut scratch[..wanted]) {
                Ok(0) => {
                    inner.readable = false;
                    self.end_of_input(inner, context);
                }
                Ok(n) => {
                    // A short read emptied the socket; an end behind it is announced by `closing` or a new event.
                    inner.readable = n == wanted || inner.closing;
                    self.input(inner, context, place.as_ref(), &scratch[..n]);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    inner.readable = false;
                    return;
                }
                Err(_) => {
                    inner.readable = false;
                    self.gone(inner, context);
                }
            }
        }
    }

    /// Bytes from the socket, while `pending` holds at most an incomplete head.
    fn input(
        self: &Arc<Self>,
        inner: &mut Inner,
        context: &mut Context,
        place: Option<&Place>,
        bytes: &[u8],
    ) {
        if matches!(inner.phase, Phase::Head) {
            if inner.pending.is_empty() {
                self.deadline.store(monotime::micros() + HEAD_TIME, Relaxed);
                let used = self.head(inner, context, bytes);
                if used < bytes.len() && !matches!(inner.phase, Phase::Closed) {
                    inner.pending.extend_from_slice(&bytes[used..]);
                    inner.tried = if used == 0 { bytes.len() } else { usize::MAX };
                }
            } else {
                inner.pending.extend_from_slice(bytes);
            }
            return;
        }
        let used = self.consume(inner, context, place, bytes);
        inner.pending.extend_from_slice(&bytes[used..]);
        inner.tried = usize::MAX;
    }

    /// Tries the bytes in `pending` as a request head.
    fn parse_head(self: &Arc<Self>, inner: &mut Inner, context: &mut Context) {
        let mut input = std::mem::take(&mut inner.pending);
        let used = self.head(inner, context, &input);
        if !matches!(inner.phase, Phase::Closed) {
            input.drain(..used);
            inner.tried = if used == 0 { input.len() } else { usize::MAX };
            if !input.is_empty() {
                inner.pending = input;
            }
        }
    }

    /// Parses a request head at the beginning of `bytes`; returns how many are used.
    fn head(self: &Arc<Self>, inner: &mut Inner, context: &mut Context, bytes: &[u8]) -> usize {
        match head::parse_request(bytes) {
            Ok(None) => 0,
            Ok(Some((head, len))) => match self.begin(inner, context, &head, &bytes[len..]) {
                Begun::Used => len,
                Begun::Kept => 0,
                Begun::Gone => bytes.len(),
            },
            Err(fault) => {
                let answer = Answer::plain_fault(fault.status(), &fault.to_string());
                log::info!("{} bad request: {fault}", self.peer);
                self.answer(inner, context, &answer, false, false);
                bytes.len()
            }
        }
    }

    /// Decides what becomes of a request. `early` are the bytes that follow its head.
    fn begin(
        self: &Arc<Self>,
        inner: &mut Inner,
        context: &mut Context,
        head: &RequestHead<'_>,
        early: &[u8],
    ) -> Begun {
        let now = monotime::micros();
        let core = &self.core;
        inner.asked = true;
        if core.is_draining() {
            self.refuse(inner, context, head, Reason::Draining);
            return Begun::Used;
        }
        match core.tunnels.choose(head.host.name()) {
            Choice::Serve(session, mapping, requests) => {
                let mapping = *mapping.as_bytes();
                match self.open(inner, context, head, session, (mapping, requests), now) {
                    Ok(()) => Begun::Used,
                    Err(NoStream::Full) => {
                        self.refuse(inner, context, head, Reason::TooManyStreams);
                        Begun::Used
                    }
                    // It ended between the choice and now.
                    Err(NoStream::Closed | NoStream::Reused) => self.hold(inner, context, head, now),
                }
            }
            Choice::Hold => self.hold(inner, context, head, now),
            Choice::Away => {
                self.answer_away(inner, context, head);
                Begun::Used
            }
            Choice::Unknown => self.own(inner, context, head, early),
        }
    }

    /// A host name that nobody publishes: the Gateway's own paths, or nothing.
    fn own(
        self: &Arc<Self>,
        inner: &mut Inner,
        context: &mut Context,
        head: &RequestHead<'_>,
        early: &[u8],
    ) -> Begun {
        let core = &self.core;
        if answers::path(head.target) == shared::hello::TUNNEL_PATH {
            let visitor = forwarded::visitor(&core.config.trusted_proxies, self.peer, head, "-");
            match core.admission.check(&core.config, head, visitor.address(), || core.tunnels.has_room()) {
                Ok(accept) => {
                    self.become_link(inner, head.host.name(), &accept, early);
                    return Begun::Gone;
                }
                Err(answer) => {
                    log::warn!("{}: tunnel refused: {} {}", visitor.address(), answer.status, answer.message);
                    self.answer(inner, context, &answer, false, false);
                    return Begun::Used;
                }
            }
        }
        if head.method != "OPTIONS" && own::methods(answers::path(head.target)).is_some() {
            return self.own_task(inner, context, head);
        }
        let answer = answers::simple(core, head, self.peer);
        let keep = head.keep_alive && head.framing == Framing::None;
        self.answer(inner, context, &answer, keep, head.method == "HEAD");
        Begun::Used
    }

    /// Turns the connection into a Link.
    fn become_link(self: &Arc<Self>, inner: &mut Inner, host: &str, accept: &[u8], early: &[u8]) {
        let adopt = || -> io::Result<()> {
            self.core.poller.deregister(&self.socket)?;
            let socket = self.socket.try_clone()?;
            socket.set_nonblocking(false)?;
            socket.set_write_timeout(Some(Duration::from_secs(5)))?;
            io::Write::write_all(&mut &socket, accept)?;
            self.core.adopt_link(socket, host, early.to_vec())
        };
        if let Err(e) = adopt() {
            log::warn!("{}: cannot take the tunnel connection: {e}", self.peer);
        }
        inner.phase = Phase::Closed;
        self.core.forget(self.token);
    }

    /// Opens a Stream for a request.
    fn open(
        self: &Arc<Self>,
        inner: &mut Inner,
        context: &mut Context,
        head: &RequestHead<'_>,
        session: Arc<Session>,
        (mapping, requests): ([u8; 16], Arc<Requests>),
        now: u64,
    ) -> Result<(), NoStream> {
        let core = &self.core;
        let link = session.choose_link().ok_or(NoStream::Closed)?;
        if core.budget.level() == Level::Full || link.unsent() > 4 * 1024 * 1024 {
            return Err(NoStream::Full);
        }
        let number = session.streams.open(Arc::clone(self), core.tunnels.max_streams())?;
        link.stream_begins();
        let request_id = core.next_request_id();
        let visitor = forwarded::visitor(&core.config.trusted_proxies, self.peer, head, &request_id);
        let mut bytes = Vec::with_capacity(1024);
        head::write_tunnel_request(head, &visitor.extra(), &mut bytes);
        let address = visitor.address().to_string();
        let credit = core.budget.initial(link.good_window());
        let body = !matches!(head.framing, Framing::None | Framing::Length(0));
        let mut stream = Stream::new(&link, number, session.credit, credit);
        stream.sending.frame(head.framing);
        stream.sending.done = !body && !head.upgrade;
        let open = Open {
            stream: number,
            body,
            upgrade: head.upgrade,
            credit,
            mapping,
            request_id: &request_id,
            visitor: &address,
            head: &bytes,
        };
        stream.first(&Frame::Open(open), context);
        self.deadline.store(now + IDLE_TIME, Relaxed);
        inner.since = now;
        inner.hold_until = 0;
        inner.phase = Phase::Exchange(Box::new(Exchange {
            stream,
            method: head.method.to_owned(),
            host: head.host.name().to_owned(),
            target: head.target.chars().take(512).collect(),
            version: head.version,
            wants_html: answers::wants_html(head),
            upgrade: head.upgrade,
            keep_alive: head.keep_alive,
            status: 0,
            until_close: false,
            heavy: false,
            half_closed: false,
            failed: None,
            requests,
            visitor: address,
            label: head.visitor_label().map_or_else(String::new, |label| format!(" [{label}]")),
            request_id,
            session,
        }));
        if link.is_closed() {
            // Its end was handled before this Stream stood in the table.
            self.fail_inner(inner, number, Reason::LinkLost, context);
        }
        Ok(())
    }

    /// The Agent has just gone: the request waits in `pending`.
    fn hold(
        self: &Arc<Self>,
        inner: &mut Inner,
        context: &mut Context,
        head: &RequestHead<'_>,
        now: u64,
    ) -> Begun {
        if inner.hold_until == 0 {
            inner.hold_until = now + self.core.config.hold_seconds * 1_000_000;
        }
        let room = now < inner.hold_until && self.core.held.fetch_add(1, Relaxed) < MAX_HELD;
        if !room {
            if now < inner.hold_until {
                self.core.held.fetch_sub(1, Relaxed);
            }
            self.answer_away(inner, context, head);
            return Begun::Used;
        }
        self.deadline.store(inner.hold_until, Relaxed);
        inner.phase = Phase::Held;
        self.core.note_held(self.token);
        Begun::Kept
    }

    /// Uses bytes that follow a request's head; returns how many.
    /// They go to `place`, or home.
    fn consume(
        self: &Arc<Self>,
        inner: &mut Inner,
        context: &mut Context,
        place: Option<&Place>,
        bytes: &[u8],
    ) -> usize {
        let exchange = match &mut inner.phase {
            Phase::Exchange(exchange) => exchange,
            Phase::Own(_) => return self.own_body(inner, context, bytes),
            Phase::Linger | Phase::Closed => return bytes.len(),
            Phase::Head | Phase::Held => return 0,
        };
        if !exchange.reads() {
            return 0;
        }
        if !exchange.stream.is_raw() {
            self.deadline.store(monotime::micros() + IDLE_TIME, Relaxed);
        }
        let fault = match exchange.stream.send(place, bytes, context) {
            Sent::More => return bytes.len(),
            Sent::End(used) => return used,
            Sent::Fault(fault, _) => fault,
        };
        log::info!("{} {}: bad request body: {fault}", exchange.request_id, self.peer);
        let head_sent = exchange.status != 0;
        exchange.failed = Some(Reason::VisitorGone);
        self.close_stream(inner, Some((Reason::VisitorGone, "malformed request body")), context);
        if head_sent {
            self.abort(inner, context);
        } else {
            let answer = Answer::plain_fault(400, &format!("the request body is malformed: {fault}"));
            self.answer(inner, context, &answer, false, false);
        }
        bytes.len()
    }

    /// The visitor closed his sending half.
    fn end_of_input(self: &Arc<Self>, inner: &mut Inner, context: &mut Context) {
        if let Phase::Exchange(exchange) = &mut inner.phase
            && exchange.stream.is_raw()
        {
            if !exchange.stream.sending.done {
                exchange.stream.end(context);
            }
            if exchange.half_closed {
                self.finish(inner, context);
            }
            return;
        }
        self.gone(inner, context);
    }

    /// Nobody is there any more.
    fn gone(self: &Arc<Self>, inner: &mut Inner, context: &mut Context) {
        if let Phase::Exchange(exchange) = &mut inner.phase {
            exchange.failed.get_or_insert(Reason::VisitorGone);
        }
        self.close_stream(inner, Some((Reason::VisitorGone, "")), context);
        self.close(inner, false);
    }

    /// A Link's reader: the Agent's answer begins, or an interim answer comes.
    pub(crate) fn response_head(
        self: &Arc<Self>,
        stream: u32,
        (body, switched, interim): (bool, bool, bool),
        bytes: &[u8],
        context: &mut Context,
    ) -> Result<(), String> {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        let Some(exchange) = inner.exchange(stream) else { return Ok(()) };
        let head = match head::parse_tunnel_response(bytes) {
            Ok(head) => head,
            Err(fault) => return Err(format!("response head: {fault}")),
        };
        if exchange.status != 0 || exchange.stream.receiving.done {
            return Err(format!("second response head on stream {stream}"));
        }
        self.deadline.store(monotime::micros() + IDLE_TIME, Relaxed);
        let mut out = Vec::with_capacity(bytes.len() + 64);
        if interim {
            // RFC 9110 15.2: never to HTTP/1.0.
            if exchange.version == Version::Http11 {
                head::write_visitor_response(&head, false, HopConnection::Default, &mut out);
            }
        } else {
            exchange.status = head.status;
            let framing = match (body, head.content_length, exchange.version) {
                (false, ..) => Framing::None,
                (true, Some(length), _) => Framing::Length(length),
                (true, None, Version::Http11) => Framing::Chunked,
                (true, None, Version::Http10) => Framing::UntilClose,
            };
            if switched {
                if !exchange.upgrade {
                    return Err(format!("stream {stream} switched protocols without being asked"));
                }
                exchange.stream.switch();
                exchange.until_close = true;
                self.deadline.store(u64::MAX, Relaxed);
                keep_alive_probes(&self.socket);
                head::write_visitor_response(&head, false, HopConnection::Upgrade, &mut out);
            } else {
                if exchange.upgrade {
                    // Not switched: an ordinary answer to an ordinary request without a body.
                    exchange.upgrade = false;
                    exchange.stream.sending.done = true;
                }
                exchange.until_close = framing == Framing::UntilClose;
                exchange.keep_alive &= !exchange.until_close;
                // An answer with a known end before the request's end is a refusal, as a rule: say that the rest is
                // not wanted (RFC 9112 9.6). A stream of unknown length goes on beside the request.
                exchange.keep_alive &= exchange.stream.sending.done || framing == Framing::Chunked;
                exchange.stream.receiving.frame(framing);
                let connection = match (exchange.keep_alive, exchange.version) {
                    (true, Version::Http11) => HopConnection::Default,
                    (true, Version::Http10) => HopConnection::KeepAlive,
                    (false, _) => HopConnection::Close,
                };
                head::write_visitor_response(&head, framing == Framing::Chunked, connection, &mut out);
                exchange.stream.receiving.done = !body;
            }
        }
        let (switched, done) = (exchange.stream.is_raw(), exchange.stream.receiving.done);
        inner.outbox.push(&out);
        context.touch(self);
        if done {
            self.close_stream(inner, None, context);
        }
        if switched && (inner.readable || !inner.pending.is_empty()) {
            self.core.poller.resume(self.token);
        }
        Ok(())
    }

    /// A Link's reader: bytes of the answer.
    pub(crate) fn response_data(
        self: &Arc<Self>,
        stream: u32,
        at: Option<u64>,
        bytes: &[u8],
        end: bool,
        context: &mut Context,
    ) -> Result<(), String> {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        let Some(exchange) = inner.exchange(stream) else { return Ok(()) };
        if exchange.status == 0 || exchange.stream.receiving.done {
            return Err(format!("data on stream {stream} outside of a body"));
        }
        match exchange.stream.arrive(at, bytes, end)? {
            Turn::Now => self.deliver(inner, bytes, end, context),
            Turn::Later => self.wrote(inner, context),
        }
        while let Some((bytes, end)) = inner.exchange(stream).and_then(|e| e.stream.receiving.pop()) {
            self.deliver(inner, &bytes, end, context);
        }
        Ok(())
    }

    /// Bytes of the answer whose turn it is.
    fn deliver(self: &Arc<Self>, inner: &mut Inner, bytes: &[u8], end: bool, context: &mut Context) {
        let Phase::Exchange(exchange) = &mut inner.phase else { return };
        if !exchange.stream.is_raw() {
            self.deadline.store(monotime::micros() + IDLE_TIME, Relaxed);
        }
        if exchange.stream.count(bytes.len()).is_err() {
            exchange.failed = Some(Reason::UpstreamInvalid);
            let tell = (Reason::UpstreamInvalid, "more bytes than the head declared");
            self.close_stream(inner, Some(tell), context);
            return self.abort(inner, context);
        }
        if exchange.stream.receiving.bytes > HEAVY && exchange.stream.is_open() && !exchange.heavy {
            exchange.heavy = true;
            exchange.stream.link().heavy_begins();
        }
        if !bytes.is_empty() {
            match exchange.stream.pass(bytes, &mut inner.outbox, Some(&mut &self.socket)) {
                Ok(true) => self.wrote(inner, context),
                Ok(false) => context.touch(self),
                Err(_) => return self.gone(inner, context),
            }
        }
        if end {
            self.response_ends(inner, b"", context);
        }
    }

    /// A Link's reader: the answer is complete.
    pub(crate) fn response_end(
        self: &Arc<Self>,
        stream: u32,
        at: Option<u64>,
        trailers: &[u8],
        context: &mut Context,
    ) -> Result<(), String> {
        let mut inner = lock(&self.inner);
        let Some(exchange) = inner.exchange(stream) else { return Ok(()) };
        if exchange.status == 0 || exchange.stream.receiving.done {
            return Err(format!("end on stream {stream} outside of a body"));
        }
        if exchange.stream.arrive_end(at, trailers)? == Turn::Now {
            self.response_ends(&mut inner, trailers, context);
        }
        Ok(())
    }

    fn response_ends(self: &Arc<Self>, inner: &mut Inner, trailers: &[u8], context: &mut Context) {
        let Phase::Exchange(exchange) = &mut inner.phase else { return };
        context.touch(self);
        if exchange.stream.finish(trailers, &mut inner.outbox).is_err() {
            // Fewer bytes than declared: the visitor must see it.
            exchange.failed = Some(Reason::UpstreamBroke);
            inner.after = After::Abort;
        }
        if !exchange.stream.is_raw() {
            self.close_stream(inner, None, context);
        }
    }

    /// A Link's reader: the Agent ended the Stream.
    pub(crate) fn reset(self: &Arc<Self>, stream: u32, reason: Reason, text: &str, context: &mut Context) {
        let mut inner = lock(&self.inner);
        if let Some(exchange) = inner.exchange(stream) {
            log::debug!("{} reset by the agent: {reason} {text}", exchange.request_id);
            exchange.leave();
            self.fail_inner(&mut inner, stream, reason, context);
        }
    }

    /// A Link's reader: more may be sent.
    pub(crate) fn credit(self: &Arc<Self>, stream: u32, bytes: u32) {
        let mut inner = lock(&self.inner);
        if inner.exchange(stream).is_some_and(|exchange| exchange.stream.granted(bytes)) {
            self.core.poller.resume(self.token);
        }
    }

    /// The Stream ended without the Agent having said so.
    pub(crate) fn fail(self: &Arc<Self>, stream: u32, reason: Reason, context: &mut Context) {
        let mut inner = lock(&self.inner);
        self.fail_inner(&mut inner, stream, reason, context);
    }

    /// Fails the Stream if `link` carried it, or a part of it.
    pub(crate) fn fail_on_link(self: &Arc<Self>, stream: u32, link: &Arc<Link>, context: &mut Context) {
        let mut inner = lock(&self.inner);
        let Some(exchange) = inner.exchange(stream) else { return };
        if !exchange.stream.uses(link) {
            return;
        }
        if !Arc::ptr_eq(exchange.stream.link(), link) {
            exchange.stream.reset(Reason::LinkLost, "a link that carried a part of it was lost", context);
        }
        self.fail_inner(&mut inner, stream, Reason::LinkLost, context);
    }

    fn fail_inner(self: &Arc<Self>, inner: &mut Inner, stream: u32, reason: Reason, context: &mut Context) {
        let Phase::Exchange(exchange) = &mut inner.phase else { return };
        if exchange.stream.number() != stream || exchange.failed.is_some() {
            return;
        }
        if exchange.stream.receiving.done && !exchange.stream.is_raw() {
            return; // All of the answer is here; only the visitor has not taken it yet.
        }
        exchange.failed = Some(reason);
        let answered = exchange.status != 0;
        let answer = Answer::failure(reason, &exchange.request_id, exchange.wants_html);
        let keep = exchange.keep_alive && exchange.stream.sending.done;
        let is_head = exchange.method == "HEAD";
        self.close_stream(inner, None, context);
        if answered {
            inner.after = After::Abort;
            context.touch(self);
        } else {
            self.answer(inner, context, &answer, keep, is_head);
        }
    }

    /// Ends the Stream on this side; with a reason the Agent is told.
    fn close_stream(&self, inner: &mut Inner, tell: Option<(Reason, &str)>, context: &mut Context) {
        let Phase::Exchange(exchange) = &mut inner.phase else { return };
        if exchange.leave()
            && let Some((reason, text)) = tell
        {
            exchange.stream.reset(reason, text, context);
        }
    }

    /// Queues an answer of the Gateway's own.
    fn answer(
        self: &Arc<Self>,
        inner: &mut Inner,
        context: &mut Context,
        answer: &Answer,
        keep: bool,
        is_head: bool,
    ) {
        self.core.counters.own_answers.add(1);
        inner.outbox.push(&answer.to_bytes(keep, is_head));
        if let Phase::Exchange(exchange) = &mut inner.phase {
            exchange.status = answer.status;
            exchange.stream.receiving.done = true;
            exchange.keep_alive = keep;
        } else if keep {
            self.deadline.store(monotime::micros() + KEEP_ALIVE_TIME, Relaxed);
        } else {
            inner.after = After::Close;
        }
        context.touch(self);
    }

    fn refuse(
        self: &Arc<Self>,
        inner: &mut Inner,
        context: &mut Context,
        head: &RequestHead<'_>,
        reason: Reason,
    ) {
        let answer = Answer::failure(reason, &self.core.next_request_id(), answers::wants_html(head));
        log::info!("{} {} {}: {reason}", self.peer, head.host.name(), head.method);
        let keep = head.keep_alive && head.framing == Framing::None && reason != Reason::Draining;
        self.answer(inner, context, &answer, keep, head.method == "HEAD");
    }

    fn answer_away(self: &Arc<Self>, inner: &mut Inner, context: &mut Context, head: &RequestHead<'_>) {
        let answer = Answer::away(&self.core.next_request_id(), answers::wants_html(head));
        log::info!("{} {} {}: the agent is away", self.peer, head.host.name(), head.method);
        inner.phase = Phase::Head;
        let keep = head.keep_alive && head.framing == Framing::None;
        self.answer(inner, context, &answer, keep, head.method == "HEAD");
    }

    fn write(self: &Arc<Self>, inner: &mut Inner, context: &mut Context) {
        if matches!(inner.phase, Phase::Closed) {
            return;
        }
        if inner.outbox.write(&mut &self.socket).is_err() {
            self.gone(inner, context);
            return;
        }
        self.wrote(inner, context);
    }

    /// Accounts for what the socket took, and goes on with what waited for it.
    fn wrote(self: &Arc<Self>, inner: &mut Inner, context: &mut Context) {
        let early = match &inner.phase {
            Phase::Exchange(exchange) => exchange.stream.receiving.early(),
            _ => 0,
        };
        let waiting = inner.outbox.len() + early;
        let budget = &self.core.budget;
        if inner.held.set(waiting, budget, monotime::micros) {
            self.core.over_budget();
        }
        if let Phase::Exchange(exchange) = &mut inner.phase
            && exchange.stream.taken(waiting - early, budget, context)
            && !exchange.stream.is_raw()
        {
            self.deadline.store(monotime::micros() + IDLE_TIME, Relaxed);
        }
        if !inner.outbox.is_empty() {
            return;
        }
        match inner.after {
            After::Abort => return self.abort(inner, context),
            After::Close => return self.last_answer_sent(inner),
            After::Nothing => {}
        }
        if let Phase::Exchange(exchange) = &mut inner.phase
            && exchange.stream.receiving.done
        {
            if !exchange.stream.is_raw() {
                return self.finish(inner, context);
            }
            if !exchange.half_closed {
                exchange.half_closed = true;
                // It fails only when the visitor has closed already, which reading will show.
                let _ = self.socket.shutdown(Shutdown::Write);
            }
            if exchange.stream.sending.done {
                self.finish(inner, context);
            }
        }
    }

    /// The exchange is over and all of its answer sent.
    fn finish(self: &Arc<Self>, inner: &mut Inner, context: &mut Context) {
        self.close_stream(inner, None, context);
        let Phase::Exchange(exchange) = std::mem::replace(&mut inner.phase, Phase::Head) else { return };
        exchange.note(inner.since);
        if exchange.stream.is_raw() {
            return self.close(inner, false);
        }
        let whole = exchange.stream.sending.done && !exchange.until_close;
        if exchange.keep_alive && whole && !self.core.is_draining() {
            self.deadline.store(monotime::micros() + KEEP_ALIVE_TIME, Relaxed);
            if inner.readable || !inner.pending.is_empty() {
                inner.tried = usize::MAX;
                self.core.poller.resume(self.token);
            }
        } else {
            self.last_answer_sent(inner);
        }
    }

    /// Closes the sending half; stays a while for what the visitor is still sending.
    fn last_answer_sent(&self, inner: &mut Inner) {
        let unread = inner.readable || !inner.pending.is_empty();
        if matches!(inner.phase, Phase::Closed | Phase::Linger) {
            return;
        }
        if self.socket.shutdown(Shutdown::Write).is_err() || inner.closing && !unread {
            return self.close(inner, false);
        }
        inner.phase = Phase::Linger;
        inner.after = After::Nothing;
        inner.pending = Vec::new();
        self.deadline.store(monotime::micros() + LINGER_TIME, Relaxed);
        self.core.poller.resume(self.token);
    }

    /// Closes so that the visitor sees that the answer is not complete: a body that would end with the connection
    /// needs a reset for that, others end short of their declared or chunked end.
    fn abort(&self, inner: &mut Inner, context: &mut Context) {
        self.close_stream(inner, None, context);
        let unclear = matches!(&inner.phase, Phase::Exchange(e) if e.until_close);
        if unclear && let Err(e) = SockRef::from(&self.socket).set_linger(Some(Duration::ZERO)) {
            log::debug!("cannot reset a visitor's connection: {e}");
        }
        self.close(inner, unclear);
    }

    fn close(&self, inner: &mut Inner, reset: bool) {
        if matches!(inner.phase, Phase::Closed) {
            return;
        }
        match std::mem::replace(&mut inner.phase, Phase::Closed) {
            Phase::Exchange(exchange) => exchange.note(inner.since),
            Phase::Held => drop(self.core.held.fetch_sub(1, Relaxed)),
            _ => {}
        }
        inner.held.clear(&self.core.budget);
        inner.outbox.clear();
        inner.pending = Vec::new();
        if !reset {
            // It fails only when the connection is gone already.
            let _ = self.socket.shutdown(Shutdown::Both);
        }
        self.core.forget(self.token);
    }

    /// The poller's sweep: a deadline has passed.
    pub(crate) fn expire(self: &Arc<Self>, now: u64, context: &mut Context) {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        if self.deadline() > now {
            return;
        }
        match &inner.phase {
            Phase::Head if inner.pending.is_empty() => self.close(inner, false),
            Phase::Head => {
                let answer = Answer::plain_fault(408, "the request head was not complete within 30 seconds");
                self.deadline.store(now + LINGER_TIME, Relaxed);
                self.answer(inner, context, &answer, false, false);
            }
            Phase::Held => {
                self.core.held.fetch_sub(1, Relaxed);
                inner.phase = Phase::Head;
                self.deadline.store(now + IDLE_TIME, Relaxed);
                let input = std::mem::take(&mut inner.pending);
                match head::parse_request(&input) {
                    Ok(Some((head, len))) => {
                        self.answer_away(inner, context, &head);
                        inner.pending = input[len..].to_vec();
                    }
                    _ => self.close(inner, false),
                }
            }
            Phase::Exchange(exchange) => {
                let stream = exchange.stream.number();
                let stalled = inner.held.bytes() > 0 || exchange.stream.receiving.done;
                if exchange.stream.is_open() {
                    exchange.stream.reset(Reason::IdleTimeout, "no byte for 5 minutes", context);
                }
                self.deadline.store(now + LINGER_TIME, Relaxed);
                if stalled {
                    self.abort(inner, context);
                } else {
                    self.fail_inner(inner, stream, Reason::IdleTimeout, context);
                }
            }
            Phase::Own(request) if !request.is_complete() => {
                let answer = Answer::plain_fault(408, "the request was not complete within 30 seconds");
                inner.phase = Phase::Head;
                self.deadline.store(now + LINGER_TIME, Relaxed);
                self.answer(inner, context, &answer, false, false);
            }
            Phase::Linger | Phase::Own(_) => self.close(inner, false),
            Phase::Closed => {}
        }
    }

    /// It has been accepted, and its first request is on its way: nobody was told that we stop.
    pub(crate) fn is_fresh(&self) -> bool {
        let inner = lock(&self.inner);
        !inner.asked && matches!(inner.phase, Phase::Head)
    }

    /// The daemon is stopping: connections between requests are closed, those with one finish it.
    pub(crate) fn drain(self: &Arc<Self>) {
        let mut inner = lock(&self.inner);
        if matches!(inner.phase, Phase::Head | Phase::Linger)
            && inner.pending.is_empty()
            && inner.outbox.is_empty()
        {
            self.close(&mut inner, false);
        }
    }

    /// The daemon stops now.
    pub(crate) fn stop(self: &Arc<Self>, context: &mut Context) {
        let mut inner = lock(&self.inner);
        self.close_stream(&mut inner, Some((Reason::Draining, "")), context);
        self.abort(&mut inner, context);
    }
}

impl Inner {
    /// Whether `pending` should be tried as a head (again): when a head may be complete in it, or it has doubled,
    /// so that a head that comes byte by byte is not parsed from its start for each byte.
    fn worth_parsing(&self) -> bool {
        let len = self.pending.len();
        if len == 0 || self.tried == len {
            return false;
        }
        if self.tried == usize::MAX || len >= 2 * self.tried {
            return true;
        }
        let fresh = &self.pending[self.tried.saturating_sub(3)..];
        fresh.windows(2).any(|w| w == b"\n\n") || fresh.windows(4).any(|w| w == b"\r\n\r\n")
    }

    /// The exchange, if it is still the one of this Stream and open.
    fn exchange(&mut self, stream: u32) -> Option<&mut Exchange> {
        match &mut self.phase {
            Phase::Exchange(exchange) if exchange.stream.number() == stream && exchange.stream.is_open() => {
                Some(exchange)
            }
            _ => None,
        }
    }
}

impl Exchange {
    /// Whether input is wanted: a body that is not complete, or raw bytes. What follows an upgrade request waits for
    /// the upstream's answer, because it may be the next request.
    fn reads(&self) -> bool {
        let stream = &self.stream;
        stream.is_open() && !stream.sending.done && (stream.is_raw() || !self.upgrade)
    }

    /// The Stream is over on this side; false if it was before.
    fn leave(&mut self) -> bool {
        let left = self.stream.leave(&self.session.streams);
        if left && std::mem::take(&mut self.heavy) {
            self.stream.link().heavy_ends();
        }
        left
    }

    /// It is over: counts it, and writes its line.
    fn note(&self, since: u64) {
        let status = match self.failed {
            Some(reason) if self.status == 0 => reason.status(),
            _ => self.status,
        };
        let micros = monotime::micros().saturating_sub(since);
        self.requests.count(Done {
            status,
            failed: self.failed.is_some_and(|reason| reason != Reason::VisitorGone),
            bytes_in: self.stream.sending.bytes,
            bytes_out: self.stream.receiving.bytes,
            micros,
        });
        if !log::log_enabled!(log::Level::Info) {
            return;
        }
        let failed = self.failed.map_or_else(String::new, |r| format!(" {} at the {}", r.name(), r.hop()));
        log::info!(
            "{}{} {} {} {}{} -> {status}{failed}, {} B in, {} B out, {} ms, agent {:?}",
            self.request_id,
            self.label,
            self.visitor,
            self.method,
            self.host,
            self.target,
            self.stream.sending.bytes,
            self.stream.receiving.bytes,
            micros / 1000,
            self.session.agent_name,
        );
    }
}

/// Upgraded connections have no idle timeout: the kernel looks for dead visitors instead.
fn keep_alive_probes(socket: &TcpStream) {
    let probes = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(20));
    if let Err(e) = SockRef::from(socket).set_tcp_keepalive(&probes) {
        static ONCE: OnceLock<()> = OnceLock::new();
        ONCE.get_or_init(|| log::warn!("no TCP keep-alive for upgraded connections: {e}"));
    }
}
