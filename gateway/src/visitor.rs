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
mod exchange;
mod request;
mod response;
mod standing;

use std::io;
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shared::credit::{Held, Holding, Level};
use shared::exchange::{Line, Wants};
use shared::head::{self, Framing, RequestHead};
use shared::monotime;
use shared::outbox::Outbox;
use shared::outer::Outer;
use shared::reason::Reason;
use shared::threads::lock;
use socket2::SockRef;

use crate::answers::{self, Answer};
use crate::gateway::Core;
use endpoint::OwnRequest;
use exchange::Ongoing;

/// Most bytes read from a visitor at a time.
pub(crate) const SCRATCH: usize = 64 * 1024;
/// A request head must be complete this long after its first byte. Microseconds, like all below.
const HEAD_TIME: u64 = 30_000_000;
/// A kept-alive connection may be silent this long between requests.
const KEEP_ALIVE_TIME: u64 = 120_000_000;
/// After an answer to an incomplete request the rest is read and dropped for this long, so that the answer is not
/// lost to a connection reset (RFC 9112 9.6).
const LINGER_TIME: u64 = 5_000_000;

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
    /// Bytes that wait for the visitor, and bytes of his that wait for more, as the budget knows.
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
}

enum Phase {
    /// Between requests, or in the middle of a head.
    Head,
    /// The request is in `pending`, the Agent away.
    Held,
    /// An endpoint of our own is at work.
    Own(Box<OwnRequest>),
    Exchange(Box<Ongoing>),
    /// Everything is answered; what still comes is dropped.
    Linger,
    Closed,
}

impl Outer for Visitor {
    fn flush(self: &Arc<Self>, context: &mut Context) {
        let mut inner = lock(&self.inner);
        self.write(&mut inner, context);
    }

    fn holding(&self) -> Holding {
        let inner = lock(&self.inner);
        let window = match &inner.phase {
            Phase::Exchange(ongoing) => Some(ongoing.exchange.window() as usize),
            _ => None,
        };
        inner.held.holding(window)
    }

    fn evict(self: &Arc<Self>, context: &mut Context) {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        if let Phase::Exchange(ongoing) = &inner.phase {
            log::warn!(
                "{} cut off: {} bytes wait for a visitor who does not read",
                ongoing.request_id,
                inner.held.bytes()
            );
        }
        self.fail_exchange(inner, Reason::TooManyStreams, "memory budget used up", context);
        self.abort(inner);
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
        self.account(&mut inner);
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
        self.account(&mut inner);
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
            Phase::Exchange(o) if o.exchange.wants() == Wants::Nothing && !o.exchange.is_raw() => {}
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

    /// Nobody is there any more.
    fn gone(self: &Arc<Self>, inner: &mut Inner, context: &mut Context) {
        if let Phase::Exchange(ongoing) = &mut inner.phase {
            let (exchange, mut carrier) = ongoing.machine(&mut inner.outbox, None, context);
            exchange.gone(&mut carrier);
        }
        self.close(inner, false);
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
        if let Phase::Exchange(ongoing) = &mut inner.phase {
            ongoing.exchange.answered(answer.status, keep, monotime::micros());
        } else if keep {
            self.deadline.store(monotime::micros() + KEEP_ALIVE_TIME, Relaxed);
        } else {
            inner.after = After::Close;
        }
        context.touch(self);
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
        self.account(inner);
        let (waiting, budget) = (inner.outbox.len(), &self.core.budget);
        if let Phase::Exchange(ongoing) = &mut inner.phase {
            let (home, window) = (Arc::clone(ongoing.spread.home()), ongoing.exchange.window());
            let line = || Line { rtt: home.base_rtt(), may_grow: budget.level() < Level::Stop };
            let (exchange, mut carrier) = ongoing.machine(&mut inner.outbox, None, context);
            exchange.written(waiting, monotime::micros(), line, &mut carrier);
            if exchange.window() > window {
                home.note_window(exchange.window());
            }
            return self.proceed(inner, context);
        }
        if !inner.outbox.is_empty() {
            return;
        }
        if inner.after == After::Close {
            return self.last_answer_sent(inner);
        }
        if matches!(inner.phase, Phase::Head) && (inner.readable || !inner.pending.is_empty()) {
            // The next request waited for this answer to be sent.
            inner.tried = usize::MAX;
            self.core.poller.resume(self.token);
        }
    }

    /// Tells the budget what is held for this connection.
    fn account(&self, inner: &mut Inner) {
        let bytes = inner.outbox.len() + inner.kept();
        if inner.held.set(bytes, &self.core.budget, monotime::micros) {
            self.core.over_budget();
        }
    }

    /// The exchange is over and all of its answer sent.
    fn finish(self: &Arc<Self>, inner: &mut Inner) {
        let Phase::Exchange(mut ongoing) = std::mem::replace(&mut inner.phase, Phase::Head) else { return };
        ongoing.leave();
        ongoing.note(inner.since);
        if ongoing.exchange.is_raw() {
            return self.close(inner, false);
        }
        let unread = inner.pending.len();
        if ongoing.exchange.may_be_followed(inner.outbox.len(), unread) && !self.core.is_draining() {
            self.deadline.store(monotime::micros() + KEEP_ALIVE_TIME, Relaxed);
            if inner.readable || unread > 0 {
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
    fn abort(&self, inner: &mut Inner) {
        let unsent = inner.outbox.len();
        let unclear = matches!(&inner.phase, Phase::Exchange(o) if o.exchange.ends_with_connection(unsent));
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
            Phase::Exchange(mut ongoing) => {
                ongoing.leave();
                ongoing.note(inner.since);
            }
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
                self.deadline.store(now + KEEP_ALIVE_TIME, Relaxed);
                let input = std::mem::take(&mut inner.pending);
                match head::parse_request(&input) {
                    Ok(Some((head, len))) => {
                        self.answer_away(inner, context, &head);
                        inner.pending = input[len..].to_vec();
                    }
                    _ => self.close(inner, false),
                }
            }
            Phase::Exchange(ongoing) => {
                let stalled = inner.held.bytes() > 0 || ongoing.exchange.is_received();
                let Phase::Exchange(ongoing) = &mut inner.phase else { return };
                let (exchange, mut carrier) = ongoing.machine(&mut inner.outbox, None, context);
                exchange.expired(&mut carrier);
                if stalled {
                    return self.abort(inner);
                }
                self.proceed(inner, context);
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
        self.fail_exchange(&mut inner, Reason::Draining, "", context);
        self.abort(&mut inner);
    }
}

impl Inner {
    /// Bytes that wait for something else than the visitor's socket: for the rest of a head, for their turn, for a place
    /// on a Link.
    fn kept(&self) -> usize {
        let more = match &self.phase {
            Phase::Exchange(ongoing) => ongoing.exchange.early(),
            Phase::Own(request) => request.kept(),
            _ => 0,
        };
        self.pending.capacity() + more
    }

    /// The exchange, if it is still the one of this Stream and open.
    fn ongoing(&mut self, stream: u32) -> Option<&mut Ongoing> {
        match &mut self.phase {
            Phase::Exchange(ongoing) if ongoing.exchange.number() == stream && ongoing.exchange.is_open() => {
                Some(ongoing)
            }
            _ => None,
        }
    }
}
