//! One connection to an upstream, and the Stream that it serves: from Frames to the bytes of a request, and from
//! the bytes of a response to Frames. The Gateway's counterpart is its `visitor`.
//!
//! ```text
//!   Resolving ──addresses──▶ Connecting ──TCP, TLS──▶ Exchange ──answer complete──▶ Idle (in the pool)
//!                                                        ▲  └──101──▶ raw both ways ──▶ Closed
//!                                                        └───────── next Stream ───────────┘
//! ```
//! The upstream poller reads the socket; the readers of Links write requests straight to it. Both hold the
//! connection's lock and neither ever waits. Only names are resolved elsewhere, by threads that may wait.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shared::assembly::Turn;
use shared::credit::{Held, Level};
use shared::frame::{Frame, Open};
use shared::head::{self, Framing, RequestHead};
use shared::link::Link;
use shared::mapping::{Mapping, UpstreamHost};
use shared::metrics::Requests;
use shared::monotime;
use shared::outbox::Outbox;
use shared::outer::Outer;
use shared::reason::Reason;
use shared::spread::Place;
use shared::stream::{Sent, Stream};
use shared::target;
use shared::threads::lock;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::agent::Core;
use crate::history::{Active, clip};
use crate::session::Session;
use crate::targets::Target;
use crate::wire::Wire;

/// Most bytes read from an upstream at a time.
pub(crate) const SCRATCH: usize = 64 * 1024;
/// Connecting, with TLS, must be done after this long. Microseconds, like all below.
const CONNECT_TIME: u64 = 10_000_000;
/// One address of several may take this long before the next is tried.
const ADDRESS_TIME: u64 = 3_000_000;
/// A request on which no byte moves either way is over after this long. Slightly less than the Gateway's, so that
/// the answer names the hop that is silent.
const IDLE_TIME: u64 = 299_000_000;
/// An idle connection is kept for this long, or for what the upstream says.
const POOL_TIME: u64 = 30_000_000;

/// Bytes of a request's target and of its user agent that are remembered.
const MAX_TARGET: usize = 4096;
const MAX_USER_AGENT: usize = 512;
/// Bytes of domain and target in a line of the log.
const MAX_LINE: usize = 512;
/// A long request's bytes are told to the history in steps of this size.
const PROGRESS: u64 = 1024 * 1024;

/// Whom a thread has queued for.
pub(crate) type Context = shared::context::Context<Upstream>;

/// A connection to an upstream.
pub(crate) struct Upstream {
    core: Arc<Core>,
    pub(crate) token: usize,
    target: Arc<Target>,
    /// When the poller's sweep must look at it; `u64::MAX` for never.
    deadline: AtomicU64,
    inner: Mutex<Inner>,
}

struct Inner {
    phase: Phase,
    wire: Option<Wire>,
    exchange: Option<Box<Exchange>>,
    /// Bytes read and not used yet: an incomplete head, a body for which there is no Credit.
    pending: Vec<u8>,
    readable: bool,
    closing: bool,
    outbox: Outbox,
    held: Held,
    /// It served a Stream before, so the upstream may have closed it meanwhile.
    reused: bool,
    /// Writing failed: the request is lost, but an answer may have been sent before.
    deaf: bool,
}

enum Phase {
    /// A resolver looks the name up.
    Resolving,
    /// TCP or TLS is under way; further addresses to try.
    Connecting {
        rest: Vec<SocketAddr>,
        tcp: bool,
    },
    /// Serving a Stream.
    Exchange,
    /// In the pool.
    Idle,
    Closed,
}

struct Exchange {
    session: Arc<Session>,
    /// It receives the request, and sends the answer.
    stream: Stream,
    request_id: String,
    visitor: String,
    method: String,
    /// Domain of the Mapping and what was asked for, as long as the history keeps it.
    line: String,
    user_agent: String,
    /// The request head, kept while the request may have to be sent again.
    again: Option<Vec<u8>>,
    upgrade: bool,
    started: u64,
    /// Of the answer; 0 until its head has come.
    status: u16,
    keep_alive: bool,
    pool_time: u64,
    half_closed: bool,
    failed: Option<Reason>,
    /// In the words of whoever noticed.
    failure: String,
    /// Bytes of request and response that the history knows of.
    counted: (u64, u64),
    _active: Active,
}

impl Outer for Upstream {
    fn flush(self: &Arc<Self>, context: &mut Context) {
        let mut inner = lock(&self.inner);
        self.write(&mut inner, context);
    }

    fn stalled(&self) -> (usize, u64) {
        lock(&self.inner).held.stalled()
    }

    fn evict(self: &Arc<Self>, context: &mut Context) {
        let mut inner = lock(&self.inner);
        self.fail(&mut inner, Reason::TooManyStreams, "the agent's memory budget is used up", context);
    }
}

impl Upstream {
    fn new(
        core: Arc<Core>,
        token: usize,
        target: Arc<Target>,
        exchange: Box<Exchange>,
        outbox: Outbox,
    ) -> Upstream {
        let now = monotime::micros();
        Upstream {
            core,
            token,
            target,
            deadline: AtomicU64::new(now + CONNECT_TIME),
            inner: Mutex::new(Inner {
                phase: Phase::Resolving,
                wire: None,
                exchange: Some(exchange),
                pending: Vec::new(),
                readable: false,
                closing: false,
                outbox,
                held: Held::new(now),
                reused: false,
                deaf: false,
            }),
        }
    }

    pub(crate) fn deadline(&self) -> u64 {
        self.deadline.load(Relaxed)
    }

    /// A Link's reader: the Gateway opens a Stream. `Err` is what it is told.
    pub(crate) fn open(
        core: &Arc<Core>,
        session: &Arc<Session>,
        link: &Arc<Link>,
        open: &Open<'_>,
        target: Arc<Target>,
        context: &mut Context,
    ) -> Result<(), (Reason, String)> {
        let head = match head::parse_tunnel_request(open.head) {
            Ok(Some((head, len))) if len == open.head.len() => head,
            Ok(_) => return Err((Reason::Protocol, "the request head is incomplete".into())),
            Err(fault) => return Err((Reason::Protocol, format!("request head: {fault}"))),
        };
        if core.budget.level() == Level::Full || link.unsent() > 4 * 1024 * 1024 {
            return Err((Reason::TooManyStreams, "the agent's memory budget is used up".into()));
        }
        let framing = match (open.body, head.framing) {
            (false, _) => Framing::None,
            (true, Framing::Length(length)) => Framing::Length(length),
            (true, _) => Framing::Chunked,
        };
        let mut bytes = Vec::with_capacity(open.head.len() + 128);
        let host = host_header(&target, &head);
        head::write_upstream_request(&head, &host, framing == Framing::Chunked, open.upgrade, &mut bytes);
        let mut stream = Stream::new(link, open.stream, open.credit, session.request_credit());
        stream.receiving.frame(framing);
        stream.receiving.done = !open.body && !open.upgrade;
        let idempotent = matches!(head.method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE");
        let exchange = Box::new(Exchange {
            session: Arc::clone(session),
            stream,
            request_id: open.request_id.to_owned(),
            visitor: open.visitor.to_owned(),
            method: head.method.to_owned(),
            line: [target.mapping.domain.as_str(), clip(head.target, MAX_TARGET)].concat(),
            user_agent: user_agent(&head),
            again: (idempotent && framing == Framing::None).then(|| bytes.clone()),
            upgrade: open.upgrade,
            started: monotime::micros(),
            status: 0,
            keep_alive: false,
            pool_time: POOL_TIME,
            half_closed: false,
            failed: None,
            failure: String::new(),
            counted: (0, 0),
            _active: core.recorder.begins(),
        });
        let mut outbox = Outbox::new();
        outbox.push(&bytes);
        link.stream_begins();
        let accepted = match Upstream::from_pool(core, &target, exchange, outbox) {
            Ok(upstream) => {
                let accepted = session.accept(open.stream, &upstream).inspect_err(|_| upstream.discard());
                accepted.map(|()| context.touch(&upstream))
            }
            Err((exchange, outbox)) => {
                let upstream = core
                    .upstreams
                    .insert(|token| Upstream::new(Arc::clone(core), token, target, exchange, outbox));
                let accepted = session.accept(open.stream, &upstream).inspect_err(|_| upstream.discard());
                accepted.map(|()| upstream.resolve(context))
            }
        };
        if link.is_closed()
            && let shared::streams::Lookup::Open(upstream) = session.streams.get(open.stream)
        {
            // Its end was handled before this Stream stood in the table.
            upstream.abandon(open.stream, Reason::LinkLost);
        }
        accepted
    }

    /// Its Stream was not accepted: whoever refuses it makes the note, and nothing is to be sent.
    fn discard(self: &Arc<Self>) {
        let mut inner = lock(&self.inner);
        if let Some(exchange) = inner.exchange.take() {
            exchange.stream.link().stream_ends();
        }
        self.close(&mut inner);
    }

    /// Gives the exchange to an idle connection, if there is a live one.
    #[allow(clippy::type_complexity)]
    fn from_pool(
        core: &Arc<Core>,
        target: &Arc<Target>,
        exchange: Box<Exchange>,
        outbox: Outbox,
    ) -> Result<Arc<Upstream>, (Box<Exchange>, Outbox)> {
        while let Some(upstream) = core.pool.take(target.serial) {
            let mut inner = lock(&upstream.inner);
            // What cannot be sent again must not be sent on a connection that the upstream has closed already.
            let usable = exchange.again.is_some() || inner.wire.as_ref().is_some_and(is_silent);
            if matches!(inner.phase, Phase::Idle) && !inner.closing && usable {
                inner.phase = Phase::Exchange;
                inner.reused = true;
                inner.exchange = Some(exchange);
                inner.outbox = outbox;
                upstream.deadline.store(monotime::micros() + IDLE_TIME, Relaxed);
                drop(inner);
                return Ok(upstream);
            }
        }
        Err((exchange, outbox))
    }

    /// Finds the addresses of the upstream: at once, or by a thread that may wait.
    fn resolve(self: &Arc<Self>, context: &mut Context) {
        // The poller may be asleep without a timeout; from now on there is a deadline to look at.
        self.core.poller.resume(self.token);
        let port = self.target.mapping.port;
        match &self.target.mapping.host {
            UpstreamHost::Address(ip) => self.resolved(Ok(vec![SocketAddr::new(*ip, port)]), context),
            UpstreamHost::Name(name) => match self.core.resolver.known(name.as_str(), port) {
                Some(addresses) => self.resolved(Ok(addresses), context),
                None => {
                    let upstream = Arc::clone(self);
                    let done = move |result| {
                        let mut context = Context::default();
                        upstream.resolved(result, &mut context);
                        context.settle();
                    };
                    if !self.core.resolver.resolve(name.as_str(), port, Box::new(done)) {
                        let mut inner = lock(&self.inner);
                        let text = "too many names are being looked up";
                        self.fail(&mut inner, Reason::TooManyStreams, text, context);
                    }
                }
            },
        }
    }

    fn resolved(self: &Arc<Self>, result: io::Result<Vec<SocketAddr>>, context: &mut Context) {
        let mut inner = lock(&self.inner);
        if !matches!(inner.phase, Phase::Resolving) {
            return; // Reset meanwhile.
        }
        match result {
            Ok(addresses) if addresses.is_empty() => {
                self.fail(&mut inner, Reason::UpstreamDns, "the name has no address", context);
            }
            Ok(mut addresses) => {
                addresses.reverse();
                self.connect(&mut inner, addresses, (Reason::UpstreamUnreachable, String::new()), context);
            }
            Err(e) => self.fail(&mut inner, Reason::UpstreamDns, &e.to_string(), context),
        }
    }

    /// Starts a connection to the last of `rest`, or fails with what the one before failed with.
    fn connect(
        self: &Arc<Self>,
        inner: &mut Inner,
        mut rest: Vec<SocketAddr>,
        mut failure: (Reason, String),
        context: &mut Context,
    ) {
        let end = self.exchange_start(inner) + CONNECT_TIME;
        while let Some(address) = rest.pop() {
            if let Some(why) = target::forbidden(address.ip()) {
                failure = (Reason::TargetForbidden, format!("{address} {why}"));
                continue;
            }
            let now = monotime::micros();
            let until = if rest.is_empty() { end } else { (now + ADDRESS_TIME).min(end) };
            match self.dial(address) {
                Ok(wire) => {
                    inner.wire = Some(wire);
                    inner.phase = Phase::Connecting { rest, tcp: true };
                    self.deadline.store(until, Relaxed);
                    return;
                }
                Err(e)
                    if e.raw_os_error() == Some(libc::EMFILE) || e.raw_os_error() == Some(libc::ENFILE) =>
                {
                    failure = (Reason::TooManyStreams, format!("out of descriptors: {e}"));
                }
                Err(e) => failure = (connect_reason(&e), format!("{address}: {e}")),
            }
        }
        self.fail(inner, failure.0, &failure.1, context);
    }

    /// Opens a socket and starts connecting it.
    fn dial(&self, address: SocketAddr) -> io::Result<Wire> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&address.into()) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(e) => return Err(e),
        }
        let mapping = &self.target.mapping;
        let tls = if mapping.tls {
            let tls = self.core.tls.connect(&mapping.host, mapping.allow_invalid_certificates);
            Some(tls.map_err(|text| io::Error::new(io::ErrorKind::InvalidInput, text))?)
        } else {
            None
        };
        let wire = Wire::new(TcpStream::from(socket), tls);
        self.core.poller.register(&wire, self.token)?;
        Ok(wire)
    }

    fn exchange_start(&self, inner: &Inner) -> u64 {
        inner.exchange.as_ref().map_or_else(monotime::micros, |e| e.started)
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
        if matches!(inner.phase, Phase::Connecting { .. }) {
            if writable || readable || closed {
                self.progress(&mut inner, context);
            }
        } else if writable {
            self.write(&mut inner, context);
        }
        self.drive(&mut inner, context, scratch);
    }

    /// The poller's thread: something that it waited for may have come.
    pub(crate) fn resume(self: &Arc<Self>, context: &mut Context, scratch: &mut [u8]) {
        let mut inner = lock(&self.inner);
        self.drive(&mut inner, context, scratch);
    }

    /// Takes connecting one step further.
    fn progress(self: &Arc<Self>, inner: &mut Inner, context: &mut Context) {
        let (Phase::Connecting { tcp, .. }, Some(wire)) = (&mut inner.phase, &mut inner.wire) else { return };
        let result = (|| {
            if *tcp {
                if let Some(e) = wire.socket().take_error().unwrap_or_else(Some) {
                    return Err((connect_reason(&e), e));
                }
                let peer = match wire.socket().peer_addr() {
                    Ok(peer) => peer,
                    Err(e) if e.kind() == io::ErrorKind::NotConnected => return Ok(false),
                    Err(e) => return Err((Reason::UpstreamUnreachable, e)),
                };
                *tcp = false;
                if target::reaches_listener(peer, self.core.admin_address()) {
                    let text = "this is the agent's own admin page";
                    return Err((Reason::TargetForbidden, io::Error::other(text)));
                }
            }
            wire.handshake().map_err(|e| match e.kind() {
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => (Reason::UpstreamTls, e),
                _ => (connect_reason(&e), e),
            })
        })();
        match result {
            Ok(false) => {}
            Ok(true) => {
                inner.phase = Phase::Exchange;
                self.deadline.store(monotime::micros() + IDLE_TIME, Relaxed);
                self.write(inner, context);
            }
            Err((reason, e)) => self.next_address(inner, reason, &e.to_string(), context),
        }
    }

    fn next_address(self: &Arc<Self>, inner: &mut Inner, reason: Reason, text: &str, context: &mut Context) {
        inner.wire = None;
        (inner.readable, inner.closing) = (false, false);
        let text = format!("{}: {text}", self.target.authority);
        match std::mem::replace(&mut inner.phase, Phase::Resolving) {
            // Another address will not have another certificate, nor be more allowed.
            Phase::Connecting { rest, .. }
                if !matches!(reason, Reason::UpstreamTls | Reason::TargetForbidden) =>
            {
                self.connect(inner, rest, (reason, text), context);
            }
            _ => self.fail(inner, reason, &text, context),
        }
    }

    /// Reads and uses input until there is none, or none is wanted.
    fn drive(self: &Arc<Self>, inner: &mut Inner, context: &mut Context, scratch: &mut [u8]) {
        loop {
            let mut place = None;
            let wanted = match (&inner.phase, &inner.exchange) {
                (Phase::Exchange, Some(e)) if e.status == 0 => scratch.len(),
                (Phase::Exchange, Some(e)) if !e.stream.sending.done => {
                    place = e.stream.place(self.token, || e.session.links());
                    place.as_ref().map_or(0, |place| place.room)
                }
                // The end, or bytes that nobody asked for.
                (Phase::Idle, _) => scratch.len(),
                _ => 0,
            };
            if wanted == 0 {
                return;
            }
            if inner.exchange.as_ref().is_some_and(|e| e.status != 0) && !inner.pending.is_empty() {
                let input = std::mem::take(&mut inner.pending);
                let (now, later) = input.split_at(wanted.min(input.len()));
                let used = self.consume(inner, context, place.as_ref(), now);
                let mut rest = now[used..].to_vec();
                rest.extend_from_slice(later);
                inner.pending = rest;
                continue;
            }
            if !inner.readable {
                return;
            }
            let Some(wire) = &mut inner.wire else { return };
            let wanted = wanted.min(scratch.len());
            match wire.read(&mut scratch[..wanted]) {
                Ok(0) => {
                    inner.readable = false;
                    self.end_of_input(inner, context);
                }
                Ok(n) => {
                    inner.readable = n == wanted || inner.closing || wire.has_decrypted();
                    self.input(inner, context, place.as_ref(), &scratch[..n]);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    inner.readable = false;
                    return;
                }
                Err(e) => {
                    inner.readable = false;
                    self.broke(inner, &e.to_string(), context);
                }
            }
        }
    }

    fn input(
        self: &Arc<Self>,
        inner: &mut Inner,
        context: &mut Context,
        place: Option<&Place>,
        bytes: &[u8],
    ) {
        let Some(exchange) = &inner.exchange else {
            // An idle connection on which something comes cannot be trusted with the next request.
            return self.close(inner);
        };
        if exchange.status != 0 {
            let used = self.consume(inner, context, place, bytes);
            inner.pending.extend_from_slice(&bytes[used..]);
            return;
        }
        if inner.pending.is_empty() {
            let used = self.heads(inner, context, bytes);
            if inner.exchange.is_some() {
                inner.pending.extend_from_slice(&bytes[used..]);
            }
        } else {
            let mut input = std::mem::take(&mut inner.pending);
            input.extend_from_slice(bytes);
            let used = self.heads(inner, context, &input);
            if inner.exchange.is_some() {
                input.drain(..used);
                inner.pending = input;
            }
        }
    }

    /// Parses response heads at the beginning of `bytes`, interim ones first; returns how many bytes are used.
    fn heads(self: &Arc<Self>, inner: &mut Inner, context: &mut Context, bytes: &[u8]) -> usize {
        let mut used = 0;
        loop {
            let Some(exchange) = &mut inner.exchange else { return bytes.len() };
            let (head, len) = match head::parse_response(&bytes[used..], &exchange.method) {
                Ok(None) => return used,
                Ok(Some(found)) => found,
                Err(fault) => {
                    self.fail(inner, Reason::UpstreamInvalid, &fault.to_string(), context);
                    return bytes.len();
                }
            };
            used += len;
            // It answered: whatever happens now, the request must not be sent again.
            exchange.again = None;
            self.deadline.store(monotime::micros() + IDLE_TIME, Relaxed);
            let stream = exchange.stream.number();
            let mut out = Vec::with_capacity(len + 64);
            head::write_tunnel_response(&head, &mut out);
            if head.status == 101 {
                if !exchange.upgrade {
                    let text = "status 101 to a request that asked for no upgrade";
                    self.fail(inner, Reason::UpstreamInvalid, text, context);
                    return bytes.len();
                }
                exchange.stream.switch();
                exchange.status = 101;
                let head = Frame::Head { stream, body: false, switched: true, interim: false, head: &out };
                exchange.stream.first(&head, context);
                self.deadline.store(u64::MAX, Relaxed);
                if let Some(wire) = &inner.wire {
                    keep_alive_probes(wire.socket());
                }
                return used;
            }
            if head.status < 200 {
                let head = Frame::Head { stream, body: false, switched: false, interim: true, head: &out };
                exchange.stream.first(&head, context);
                continue;
            }
            let body = !matches!(head.framing, Framing::None | Framing::Length(0));
            if exchange.upgrade {
                exchange.upgrade = false;
                exchange.stream.receiving.done = true;
            }
            exchange.status = head.status;
            exchange.keep_alive = head.keep_alive;
            if let Some(seconds) = head.keep_alive_timeout {
                // A second early: the upstream's clock starts before ours.
                exchange.pool_time = POOL_TIME.min(u64::from(seconds.saturating_sub(1)) * 1_000_000);
            }
            exchange.stream.sending.frame(head.framing);
            let head = Frame::Head { stream, body, switched: false, interim: false, head: &out };
            exchange.stream.first(&head, context);
            if !body {
                exchange.stream.sending.done = true;
                let more = bytes.len() > used;
                self.finish(inner, more, context);
                return bytes.len();
            }
            // What of the body is here already, as far as Credit and the Link allow.
            let room = exchange.stream.room_at_home(self.token);
            let now = &bytes[used..];
            let now = &now[..now.len().min(room)];
            if !now.is_empty() {
                used += self.consume(inner, context, None, now);
            }
            return used;
        }
    }

    /// Uses bytes of a response body, or raw ones; returns how many.
    /// They go to `place`, or home.
    fn consume(
        self: &Arc<Self>,
        inner: &mut Inner,
        context: &mut Context,
        place: Option<&Place>,
        bytes: &[u8],
    ) -> usize {
        let Some(exchange) = &mut inner.exchange else { return bytes.len() };
        exchange.note_progress(&self.core, &self.target);
        if !exchange.stream.is_raw() {
            self.deadline.store(monotime::micros() + IDLE_TIME, Relaxed);
        }
        match exchange.stream.send(place, bytes, context) {
            Sent::More => {}
            Sent::End(used) => {
                let more = bytes.len() > used;
                self.finish(inner, more, context);
            }
            Sent::Fault(fault, before) => {
                // What came before the fault is the visitor's.
                if let Some(piece) = before {
                    exchange.stream.put(place, piece, false, context);
                }
                self.fail(inner, Reason::UpstreamInvalid, &fault.to_string(), context);
            }
        }
        bytes.len()
    }

    /// The upstream closed its sending half.
    fn end_of_input(self: &Arc<Self>, inner: &mut Inner, context: &mut Context) {
        let Some(exchange) = &mut inner.exchange else { return self.close(inner) };
        if exchange.stream.is_raw() {
            exchange.stream.end(context);
            if exchange.half_closed {
                self.finish(inner, true, context);
            }
            return;
        }
        if exchange.status != 0 && exchange.stream.sending.may_end_here() {
            exchange.stream.end(context);
            return self.finish(inner, true, context);
        }
        self.broke(inner, "it closed the connection", context);
    }

    /// The connection failed in the middle of an exchange. A request that cannot have had an effect is sent again,
    /// once, on a new connection: the kept-alive one had been closed at the other end.
    fn broke(self: &Arc<Self>, inner: &mut Inner, text: &str, context: &mut Context) {
        let Some(exchange) = &mut inner.exchange else { return self.close(inner) };
        let untouched = exchange.status == 0 && inner.pending.is_empty() && inner.reused;
        if !untouched || exchange.again.is_none() {
            return self.fail(inner, Reason::UpstreamBroke, text, context);
        }
        let exchange = inner.exchange.take().expect("checked above");
        self.close(inner);
        let mut outbox = Outbox::new();
        outbox.push(exchange.again.as_deref().unwrap_or_default());
        let (session, stream) = (Arc::clone(&exchange.session), exchange.stream.number());
        let target = Arc::clone(&self.target);
        let mut exchange = exchange;
        exchange.again = None;
        exchange.started = monotime::micros();
        let core = &self.core;
        let fresh =
            core.upstreams.insert(|token| Upstream::new(Arc::clone(core), token, target, exchange, outbox));
        session.streams.replace(stream, Arc::clone(&fresh));
        fresh.resolve(context);
    }

    /// A Link's reader: bytes of the request's body, or raw ones.
    pub(crate) fn request_data(
        self: &Arc<Self>,
        stream: u32,
        at: Option<u64>,
        bytes: &[u8],
        end: bool,
        context: &mut Context,
    ) -> Result<(), String> {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        let Some(exchange) = exchange_of(&mut inner.exchange, stream) else { return Ok(()) };
        match exchange.stream.arrive(at, bytes, end)? {
            Turn::Now => self.deliver(inner, bytes, end, context),
            Turn::Later => self.wrote(inner, context),
        }
        while let Some((bytes, end)) = inner.exchange.as_mut().and_then(|e| e.stream.receiving.pop()) {
            self.deliver(inner, &bytes, end, context);
        }
        Ok(())
    }

    /// Bytes of the request whose turn it is.
    fn deliver(self: &Arc<Self>, inner: &mut Inner, bytes: &[u8], end: bool, context: &mut Context) {
        let Some(exchange) = &mut inner.exchange else { return };
        if !exchange.stream.is_raw() {
            self.deadline.store(monotime::micros() + IDLE_TIME, Relaxed);
        }
        if exchange.stream.count(bytes.len()).is_err() {
            return self.fail(inner, Reason::Protocol, "more bytes than the request declared", context);
        }
        exchange.note_progress(&self.core, &self.target);
        if inner.deaf {
            self.wrote(inner, context);
        } else if !bytes.is_empty() {
            let wire = inner.wire.as_mut().filter(|_| matches!(inner.phase, Phase::Exchange));
            match exchange.stream.pass(bytes, &mut inner.outbox, wire) {
                Ok(true) => self.wrote(inner, context),
                Ok(false) => context.touch(self),
                Err(e) => {
                    self.write_failed(inner, &e);
                    self.wrote(inner, context);
                }
            }
        }
        if end {
            self.request_ends(inner, b"", context);
        }
    }

    /// A Link's reader: the request is complete.
    pub(crate) fn request_end(
        self: &Arc<Self>,
        stream: u32,
        at: Option<u64>,
        trailers: &[u8],
        context: &mut Context,
    ) -> Result<(), String> {
        let mut inner = lock(&self.inner);
        let Some(exchange) = exchange_of(&mut inner.exchange, stream) else { return Ok(()) };
        if exchange.stream.receiving.done {
            return Err(format!("a second end on stream {stream}"));
        }
        if exchange.stream.arrive_end(at, trailers)? == Turn::Now {
            self.request_ends(&mut inner, trailers, context);
        }
        Ok(())
    }

    fn request_ends(self: &Arc<Self>, inner: &mut Inner, trailers: &[u8], context: &mut Context) {
        let Some(exchange) = &mut inner.exchange else { return };
        context.touch(self);
        if inner.deaf {
            exchange.stream.receiving.done = true;
        } else if exchange.stream.finish(trailers, &mut inner.outbox).is_err() {
            self.fail(inner, Reason::Protocol, "fewer bytes than the request declared", context);
        }
    }

    /// A Link's reader: the Gateway ended the Stream.
    pub(crate) fn reset(self: &Arc<Self>, stream: u32, reason: Reason) {
        self.abandon(stream, reason);
    }

    /// Ends the Stream without telling the Gateway: it knows, or cannot be told.
    pub(crate) fn abandon(self: &Arc<Self>, stream: u32, reason: Reason) {
        let mut inner = lock(&self.inner);
        if let Some(exchange) = exchange_of(&mut inner.exchange, stream) {
            exchange.failed = Some(reason);
            exchange.leave();
            self.close(&mut inner);
        }
    }

    /// Ends the Stream if `link` carried it, or a part of it.
    pub(crate) fn abandon_on_link(self: &Arc<Self>, stream: u32, link: &Arc<Link>, context: &mut Context) {
        let mut inner = lock(&self.inner);
        let Some(exchange) = exchange_of(&mut inner.exchange, stream) else { return };
        if Arc::ptr_eq(exchange.stream.link(), link) {
            drop(inner);
            self.abandon(stream, Reason::LinkLost);
        } else if exchange.stream.uses(link) {
            self.fail(&mut inner, Reason::LinkLost, "a link that carried a part of it was lost", context);
        }
    }

    /// Ends the Stream after a defect of ours.
    pub(crate) fn defect(self: &Arc<Self>, context: &mut Context) {
        let mut inner = lock(&self.inner);
        self.fail(&mut inner, Reason::Protocol, "internal error", context);
    }

    /// A Link's reader: more may be sent.
    pub(crate) fn credit(self: &Arc<Self>, stream: u32, bytes: u32) {
        let mut inner = lock(&self.inner);
        let exchange = exchange_of(&mut inner.exchange, stream);
        if exchange.is_some_and(|exchange| exchange.stream.granted(bytes)) {
            self.core.poller.resume(self.token);
        }
    }

    /// Ends the Stream, tells the Gateway why, and closes the connection.
    fn fail(self: &Arc<Self>, inner: &mut Inner, reason: Reason, text: &str, context: &mut Context) {
        if let Some(exchange) = &mut inner.exchange
            && exchange.stream.is_open()
        {
            exchange.failed = Some(reason);
            text.clone_into(&mut exchange.failure);
            if exchange.status == 0 {
                exchange.stream.reset(reason, text, context);
            } else {
                // Behind what the upstream did send.
                exchange.stream.reset_last(reason, text, context);
            }
            exchange.leave();
            if reason != Reason::VisitorGone {
                let line = clip(&exchange.line, MAX_LINE);
                log::warn!("{} {line}: {reason}: {text}", exchange.request_id);
            }
        }
        self.close(inner);
    }

    fn write(self: &Arc<Self>, inner: &mut Inner, context: &mut Context) {
        if !matches!(inner.phase, Phase::Exchange) || inner.deaf {
            if inner.deaf {
                inner.outbox.clear();
            }
            return self.wrote(inner, context);
        }
        let Some(wire) = &mut inner.wire else { return };
        let result = inner.outbox.write(wire).and_then(|()| wire.flush_tls().map(drop));
        if let Err(e) = result {
            self.write_failed(inner, &e);
        }
        self.wrote(inner, context);
    }

    /// The upstream takes no more of the request. It may have answered before (413 and close): reading tells.
    fn write_failed(&self, inner: &mut Inner, e: &io::Error) {
        if let Some(exchange) = &inner.exchange {
            log::debug!("{} {}: sending failed: {e}", exchange.request_id, clip(&exchange.line, MAX_LINE));
        }
        inner.deaf = true;
        inner.outbox.clear();
        (inner.readable, inner.closing) = (true, true);
        self.core.poller.resume(self.token);
    }

    /// Accounts for what the socket took, and goes on with what waited for it.
    fn wrote(self: &Arc<Self>, inner: &mut Inner, context: &mut Context) {
        let early = inner.exchange.as_ref().map_or(0, |e| e.stream.receiving.early());
        let waiting = inner.outbox.len() + early;
        let budget = &self.core.budget;
        if inner.held.set(waiting, budget, monotime::micros) {
            self.core.over_budget();
        }
        let Some(exchange) = &mut inner.exchange else { return };
        let waiting = waiting - early;
        let raw = exchange.stream.is_raw();
        if exchange.stream.taken(waiting, budget, context) && !raw && matches!(inner.phase, Phase::Exchange) {
            self.deadline.store(monotime::micros() + IDLE_TIME, Relaxed);
        }
        if waiting == 0 && raw && exchange.stream.receiving.done && !exchange.half_closed {
            exchange.half_closed = true;
            let done = exchange.stream.sending.done;
            if let Some(wire) = &mut inner.wire
                && let Err(e) = wire.shutdown_write()
            {
                log::debug!("half-close of an upgraded connection: {e}");
            }
            if done {
                self.finish(inner, true, context);
            }
        }
    }

    /// The answer is complete. `tainted`: the connection cannot serve another request.
    fn finish(self: &Arc<Self>, inner: &mut Inner, tainted: bool, context: &mut Context) {
        let Some(mut exchange) = inner.exchange.take() else { return };
        exchange.leave();
        self.core.served(&exchange.summary(&self.target));
        context.touch_link(exchange.stream.link());
        let reusable = exchange.keep_alive
            && exchange.stream.receiving.done
            && exchange.pool_time > 0
            && !exchange.stream.is_raw()
            && !tainted
            && !inner.deaf
            && !inner.closing
            && inner.outbox.is_empty()
            && inner.pending.is_empty();
        if reusable {
            inner.phase = Phase::Idle;
            self.deadline.store(monotime::micros() + exchange.pool_time, Relaxed);
            if self.core.pool.put(self.target.serial, Arc::clone(self)) {
                return;
            }
        }
        self.close(inner);
    }

    fn close(self: &Arc<Self>, inner: &mut Inner) {
        if matches!(inner.phase, Phase::Closed) {
            return;
        }
        if matches!(inner.phase, Phase::Idle) {
            self.core.pool.remove(self.target.serial, self);
        }
        inner.phase = Phase::Closed;
        if let Some(mut exchange) = inner.exchange.take() {
            exchange.leave();
            self.core.served(&exchange.summary(&self.target));
        }
        inner.held.clear(&self.core.budget);
        inner.outbox.clear();
        inner.pending = Vec::new();
        inner.wire = None;
        self.core.upstreams.remove(self.token);
    }

    /// The poller's sweep: a deadline has passed.
    pub(crate) fn expire(self: &Arc<Self>, now: u64, context: &mut Context) {
        let mut inner = lock(&self.inner);
        if self.deadline() > now {
            return;
        }
        match &inner.phase {
            Phase::Resolving => {
                self.fail(
                    &mut inner,
                    Reason::UpstreamDns,
                    "looking the name up took more than 10 s",
                    context,
                );
            }
            Phase::Connecting { tcp, .. } => {
                let (reason, text) = if *tcp {
                    (Reason::UpstreamUnreachable, "no answer to the connection attempt")
                } else {
                    (Reason::UpstreamTls, "the TLS handshake took too long")
                };
                self.next_address(&mut inner, reason, text, context);
            }
            Phase::Exchange => {
                let waits = inner.exchange.as_ref().is_some_and(|e| e.status == 0);
                let reason = if waits { Reason::UpstreamTimeout } else { Reason::IdleTimeout };
                self.fail(&mut inner, reason, "no byte for 5 minutes", context);
            }
            Phase::Idle => self.close(&mut inner),
            Phase::Closed => {}
        }
    }

    /// The daemon stops.
    pub(crate) fn stop(self: &Arc<Self>) {
        let mut inner = lock(&self.inner);
        self.close(&mut inner);
    }
}

/// The exchange, if it is still the one of this Stream.
fn exchange_of(exchange: &mut Option<Box<Exchange>>, stream: u32) -> Option<&mut Exchange> {
    exchange.as_deref_mut().filter(|e| e.stream.number() == stream && e.stream.is_open())
}

impl Exchange {
    /// The Stream is over for this side.
    fn leave(&mut self) {
        self.stream.leave(&self.session.streams);
    }

    /// Tells the history of a long request's bytes now and then, so that they count when they flow.
    fn note_progress(&mut self, core: &Core, target: &Target) {
        let (request, response) = (self.stream.receiving.bytes, self.stream.sending.bytes);
        let more = (request - self.counted.0, response - self.counted.1);
        if more.0 + more.1 >= PROGRESS {
            self.counted = (request, response);
            core.recorder.progress(target.mapping.id, more.0, more.1);
        }
    }

    fn summary<'e>(&'e self, target: &'e Target) -> Summary<'e> {
        // A visitor who ends an upgraded connection does what visitors do.
        let failed = self.failed.filter(|reason| !self.stream.is_raw() || *reason != Reason::VisitorGone);
        Summary {
            mapping: &target.mapping,
            request_id: &self.request_id,
            visitor: &self.visitor,
            user_agent: &self.user_agent,
            method: &self.method,
            line: &self.line,
            target: &target.authority,
            status: if self.status == 0 { self.failed.map_or(0, Reason::status) } else { self.status },
            failed,
            failure: &self.failure,
            request_bytes: self.stream.receiving.bytes,
            response_bytes: self.stream.sending.bytes,
            counted: self.counted,
            micros: monotime::micros().saturating_sub(self.started),
            requests: &target.requests,
        }
    }
}

/// One request, for the log and the history.
pub(crate) struct Summary<'e> {
    pub(crate) mapping: &'e Mapping,
    pub(crate) request_id: &'e str,
    pub(crate) visitor: &'e str,
    pub(crate) user_agent: &'e str,
    pub(crate) method: &'e str,
    /// Domain of the Mapping, and target.
    pub(crate) line: &'e str,
    /// Host and port of the upstream.
    pub(crate) target: &'e str,
    pub(crate) status: u16,
    pub(crate) failed: Option<Reason>,
    /// More about it, or nothing.
    pub(crate) failure: &'e str,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    /// Those of them that the history knows of.
    pub(crate) counted: (u64, u64),
    pub(crate) micros: u64,
    /// The counters of its mapping.
    pub(crate) requests: &'e Requests,
}

/// What the visitor's program calls itself, as long as the history keeps it.
pub(crate) fn user_agent(head: &RequestHead<'_>) -> String {
    let value = head.get("user-agent").unwrap_or_default();
    String::from_utf8_lossy(&value[..value.len().min(MAX_USER_AGENT)]).into_owned()
}

/// What the upstream is called: as the Mapping says, else as the visitor did.
fn host_header(target: &Target, head: &RequestHead<'_>) -> String {
    let visitor =
        || head.get("host").and_then(|value| std::str::from_utf8(value).ok()).filter(|v| !v.is_empty());
    match &target.host_header {
        Some(fixed) => fixed.clone(),
        None => visitor().unwrap_or(&target.authority).to_owned(),
    }
}

/// Whether an idle connection has nothing to read, not even its end.
fn is_silent(wire: &Wire) -> bool {
    wire.socket().peek(&mut [0]).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
}

/// Why a connection could not be made.
fn connect_reason(e: &io::Error) -> Reason {
    match e.kind() {
        io::ErrorKind::ConnectionRefused => Reason::UpstreamRefused,
        io::ErrorKind::InvalidInput => Reason::UpstreamTls,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Reason::UpstreamBroke,
        _ => Reason::UpstreamUnreachable,
    }
}

/// Upgraded connections have no idle timeout: the kernel looks for dead upstreams instead.
fn keep_alive_probes(socket: &TcpStream) {
    let probes =
        TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(20));
    if let Err(e) = SockRef::from(socket).set_tcp_keepalive(&probes) {
        log::debug!("no TCP keep-alive for an upgraded connection: {e}");
    }
}
