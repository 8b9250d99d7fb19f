//! From a visitor's socket to his Agent: reading, the heads of requests, what becomes of each, and their bodies. What
//! comes back is in `response`.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use shared::credit::Level;
use shared::forwarded;
use shared::frame::{Frame, Open};
use shared::head::{self, Framing, RequestHead};
use shared::metrics::Requests;
use shared::monotime;
use shared::reason::Reason;
use shared::spread::Place;
use shared::stream::{Sent, Stream};
use shared::streams::NoStream;

use super::exchange::Exchange;
use super::{After, Context, HEAD_TIME, IDLE_TIME, Inner, Phase, Visitor};
use crate::answers::{self, Answer};
use crate::metrics;
use crate::own;
use crate::tunnels::{Choice, Session};

/// Requests that wait for an Agent at the same time.
const MAX_HELD: usize = 256;

/// What to do with the bytes of a request.
pub(super) enum Begun {
    /// They are used.
    Used,
    /// They must be kept: the request waits.
    Kept,
    /// The connection is no longer ours.
    Gone,
}

impl Visitor {
    /// Reads and uses input until there is none, or none is wanted.
    pub(super) fn drive(self: &Arc<Self>, inner: &mut Inner, context: &mut Context, scratch: &mut [u8]) {
        loop {
            // No next request while an answer is unsent: who does not read must not make us answer on and on.
            let next = matches!(inner.phase, Phase::Head) && inner.after == After::Nothing;
            if next && inner.outbox.is_empty() && inner.worth_parsing() {
                self.parse_head(inner, context);
                continue;
            }
            let mut place = None;
            let wanted = match &inner.phase {
                Phase::Head if inner.after != After::Nothing || !inner.outbox.is_empty() => 0,
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
        if metrics::is_asked(head, core.config.trusted_proxies.trusts(self.peer)) {
            return self.own_metrics(inner, context, head);
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
            interim: (0, 0),
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
}
