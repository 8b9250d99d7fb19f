//! From a visitor's socket to his Agent: reading, the heads of requests, what becomes of each, and their bodies. What
//! comes back is in `response`.

use std::io::{self, Read};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use shared::carrier::Carrier;
use shared::credit::Level;
use shared::exchange::{Exchange, Wants};
use shared::forwarded;
use shared::frame::Open;
use shared::head::{self, Framing, RequestHead};
use shared::metrics::Requests;
use shared::monotime;
use shared::poll::TURN;
use shared::reason::Reason;
use shared::spread::{Place, Spread};
use shared::streams::NoStream;

use super::exchange::Ongoing;
use super::{After, Context, HEAD_TIME, Inner, Phase, Visitor};
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
        let mut turn = TURN;
        loop {
            if turn == 0 {
                // Others first; then go on.
                return self.core.poller.resume(self.token);
            }
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
                Phase::Exchange(o) if o.exchange.wants() == Wants::Body && o.exchange.credit() > 0 => {
                    place = o.spread.place(self.token, o.exchange.may_spread(), || o.session.links());
                    place.as_ref().map_or(0, |place| place.room.min(o.exchange.credit()))
                }
                _ => 0,
            };
            if wanted == 0 {
                return;
            }
            if !inner.pending.is_empty() && !matches!(inner.phase, Phase::Head) {
                let input = std::mem::take(&mut inner.pending);
                let (now, later) = input.split_at(wanted.min(input.len()));
                turn = turn.saturating_sub(now.len());
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
                    turn = turn.saturating_sub(n);
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
        match core.choose(head) {
            Choice::Serve(session, mapping, requests) => {
                let mapping = *mapping.as_bytes();
                match self.open(inner, context, head, session, (mapping, requests), now) {
                    Ok(()) => Begun::Used,
                    Err(NoStream::Full) => {
                        self.refuse(inner, context, head, Reason::TooManyStreams);
                        Begun::Used
                    }
                    // It ended between the choice and now.
                    Err(NoStream::Closed | NoStream::Reused) => self.hold(inner, context, head, (now, now)),
                }
            }
            Choice::Hold(from) => self.hold(inner, context, head, (now, from)),
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
        let request_id = core.next_request_id();
        let visitor = forwarded::visitor(&core.config.trusted_proxies, self.peer, head, &request_id);
        let seat = core.seat(visitor.address(), context).ok_or(NoStream::Full)?;
        let number = session.streams.open(Arc::clone(self), core.most_streams())?;
        link.stream_begins();
        let mut bytes = Vec::with_capacity(1024);
        head::write_tunnel_request(head, &visitor.extra(), &mut bytes);
        let address = visitor.address().to_string();
        let open = Open {
            stream: number,
            body: !matches!(head.framing, Framing::None | Framing::Length(0)),
            upgrade: head.upgrade,
            credit: core.budget.initial(link.good_window()),
            mapping,
            request_id: &request_id,
            visitor: &address,
            head: &bytes,
        };
        let mut spread = Spread::new(&link, number);
        let mut carrier = Carrier::new(&mut spread, &mut inner.outbox, None::<&TcpStream>, context);
        let exchange = Exchange::ask(&open, head, session.credit, now, &mut carrier);
        self.deadline.store(exchange.deadline(), Relaxed);
        inner.since = now;
        inner.hold_until = 0;
        inner.phase = Phase::Exchange(Box::new(Ongoing {
            exchange,
            spread,
            left: false,
            method: head.method.to_owned(),
            host: head.host.name().to_owned(),
            target: head.target.chars().take(512).collect(),
            wants_html: answers::wants_html(head),
            heavy: false,
            requests,
            seat: Some(seat),
            visitor: address,
            label: head.visitor_label().map_or_else(String::new, |label| format!(" [{label}]")),
            request_id,
            session,
        }));
        if link.is_closed() {
            // Its end was handled before this Stream stood in the table.
            if let Phase::Exchange(ongoing) = &mut inner.phase {
                ongoing.exchange.lost(Reason::LinkLost, "");
            }
            self.proceed(inner, context);
        }
        Ok(())
    }

    /// The Agent has just gone: the request waits in `pending`.
    fn hold(
        self: &Arc<Self>,
        inner: &mut Inner,
        context: &mut Context,
        head: &RequestHead<'_>,
        (now, from): (u64, u64),
    ) -> Begun {
        if inner.hold_until == 0 {
            inner.hold_until = from + self.core.config.hold_seconds * 1_000_000;
        }
        let most = MAX_HELD.min(self.core.bounds.places.saturating_sub(self.core.seats.taken()));
        let room = now < inner.hold_until && self.core.held.fetch_add(1, Relaxed) < most;
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
        if !matches!(self.core.choose(head), Choice::Hold(_)) {
            // The Agent came between the choice and the note, and nobody would wake us.
            self.core.poller.resume(self.token);
        }
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
        let ongoing = match &mut inner.phase {
            Phase::Exchange(ongoing) => ongoing,
            Phase::Own(_) => return self.own_body(inner, context, bytes),
            Phase::Linger | Phase::Closed => return bytes.len(),
            Phase::Head | Phase::Held => return 0,
        };
        let (exchange, carrier) = ongoing.machine(&mut inner.outbox, None, context);
        let mut carrier = match place {
            Some(place) => carrier.at(place, exchange),
            None => carrier,
        };
        let used = exchange.input(bytes, monotime::micros(), &mut carrier);
        let done = carrier.done;
        self.follow_up(inner, done, context);
        used
    }

    /// The visitor closed his sending half.
    fn end_of_input(self: &Arc<Self>, inner: &mut Inner, context: &mut Context) {
        let Phase::Exchange(ongoing) = &mut inner.phase else { return self.gone(inner, context) };
        let (exchange, mut carrier) = ongoing.machine(&mut inner.outbox, None, context);
        exchange.input_ended(&mut carrier);
        self.proceed(inner, context);
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
