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

mod connecting;
mod exchange;
mod parting;
mod request;
mod response;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use shared::carrier::Done;
use shared::credit::{Held, Holding, Level};
use shared::exchange::{Line, Next};
use shared::frame::Frame;
use shared::link::Link;
use shared::monotime;
use shared::outbox::Outbox;
use shared::outer::Outer;
use shared::reason::Reason;
use shared::threads::lock;

use crate::agent::Core;
use crate::history::clip;
use crate::targets::Target;
use crate::wire::Wire;
use exchange::Ongoing;
pub(crate) use exchange::{Summary, user_agent};

/// Most bytes read from an upstream at a time.
pub(crate) const SCRATCH: usize = 64 * 1024;
/// Connecting, with TLS, must be done after this long. Microseconds, like all below.
const CONNECT_TIME: u64 = 10_000_000;

/// Bytes of domain and target in a line of the log.
const MAX_LINE: usize = 512;

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
    ongoing: Option<Box<Ongoing>>,
    /// Bytes read and not used yet: an incomplete head, a body for which there is no Credit.
    pending: Vec<u8>,
    readable: bool,
    closing: bool,
    outbox: Outbox,
    held: Held,
    /// Bytes of an answer have come on it, now or before.
    answered: bool,
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

impl Outer for Upstream {
    fn flush(self: &Arc<Self>, context: &mut Context) {
        let mut inner = lock(&self.inner);
        self.write(&mut inner, context);
    }

    fn holding(&self) -> Holding {
        let inner = lock(&self.inner);
        let window = inner.ongoing.as_ref().map(|ongoing| ongoing.exchange.window() as usize);
        inner.held.holding(window)
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
        ongoing: Box<Ongoing>,
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
                ongoing: Some(ongoing),
                pending: Vec::new(),
                readable: false,
                closing: false,
                outbox,
                held: Held::new(now),
                answered: false,
            }),
        }
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
        if matches!(inner.phase, Phase::Connecting { .. }) {
            if writable || readable || closed {
                self.progress(&mut inner, context);
            }
        } else if writable {
            self.write(&mut inner, context);
        }
        self.drive(&mut inner, context, scratch);
        self.account(&mut inner);
    }

    /// The poller's thread: something that it waited for may have come.
    pub(crate) fn resume(self: &Arc<Self>, context: &mut Context, scratch: &mut [u8]) {
        let mut inner = lock(&self.inner);
        self.drive(&mut inner, context, scratch);
        self.account(&mut inner);
    }

    /// A Link's reader: a Frame for this Stream.
    pub(crate) fn frame(
        self: &Arc<Self>,
        stream: u32,
        frame: &Frame<'_>,
        context: &mut Context,
    ) -> Result<(), String> {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        let Some(ongoing) = ongoing_of(&mut inner.ongoing, stream) else { return Ok(()) };
        let (early, received) = (ongoing.exchange.early(), ongoing.exchange.is_received());
        // Before it is connected, the socket takes nothing.
        let wire = inner.wire.as_mut().filter(|_| matches!(inner.phase, Phase::Exchange));
        let (exchange, mut carrier) = ongoing.machine(&mut inner.outbox, wire, context);
        exchange.frame(frame, monotime::micros(), &mut carrier)?;
        let mut done = carrier.done;
        done.wrote |= exchange.early() != early || exchange.is_deaf();
        if exchange.is_received() && !received && !inner.answered {
            let now = monotime::micros();
            self.core.pool.note(self.target.serial, |turns| turns.asked(self.token, now));
        }
        ongoing.note_progress(&self.core, &self.target);
        self.follow_up(inner, done, context);
        Ok(())
    }

    /// Ends the Stream without telling the Gateway: it knows, or cannot be told.
    pub(crate) fn abandon(self: &Arc<Self>, stream: u32, reason: Reason) {
        let mut inner = lock(&self.inner);
        if let Some(ongoing) = ongoing_of(&mut inner.ongoing, stream) {
            ongoing.exchange.lost(reason, "");
            self.close(&mut inner);
        }
    }

    /// Ends the Stream if `link` carried it, or a part of it.
    pub(crate) fn abandon_on_link(self: &Arc<Self>, stream: u32, link: &Arc<Link>, context: &mut Context) {
        let mut inner = lock(&self.inner);
        let Some(ongoing) = ongoing_of(&mut inner.ongoing, stream) else { return };
        if Arc::ptr_eq(ongoing.spread.home(), link) {
            drop(inner);
            self.abandon(stream, Reason::LinkLost);
        } else if ongoing.spread.uses(link) {
            self.fail(&mut inner, Reason::LinkLost, "a link that carried a part of it was lost", context);
        } else {
            ongoing.exchange.lost_beside(monotime::micros());
            self.proceed(&mut inner, context);
        }
    }

    /// Ends the Stream after a defect of ours.
    pub(crate) fn defect(self: &Arc<Self>, context: &mut Context) {
        let mut inner = lock(&self.inner);
        self.fail(&mut inner, Reason::Protocol, "internal error", context);
    }

    /// Ends the Stream, tells the Gateway why, and closes the connection.
    fn fail(self: &Arc<Self>, inner: &mut Inner, reason: Reason, text: &str, context: &mut Context) {
        if let Some(ongoing) = &mut inner.ongoing {
            let (exchange, mut carrier) = ongoing.machine(&mut inner.outbox, None, context);
            exchange.fail(reason, text, &mut carrier);
            self.note_failure(ongoing);
        }
        self.close(inner);
    }

    /// Says in the log how the exchange failed, unless the Gateway ended it.
    fn note_failure(&self, ongoing: &Ongoing) {
        let failure = ongoing.exchange.failure().filter(|failure| failure.here);
        if let Some(failure) = failure.filter(|failure| failure.reason != Reason::VisitorGone) {
            let (line, text) = (clip(&ongoing.line, MAX_LINE), &failure.text);
            log::warn!("{} {line}: {}: {text}", ongoing.request_id, failure.reason);
        }
    }

    /// What follows a step of the machine.
    fn follow_up(self: &Arc<Self>, inner: &mut Inner, done: Done, context: &mut Context) {
        if let Some(e) = &done.broken {
            self.write_failed(inner, e);
        }
        if done.wake {
            self.core.poller.resume(self.token);
        }
        if done.queued {
            context.touch(self);
        }
        if done.wrote || done.broken.is_some() {
            self.wrote(inner, context);
        } else {
            self.proceed(inner, context);
        }
    }

    /// Does with the connection what the exchange has come to.
    fn proceed(self: &Arc<Self>, inner: &mut Inner, context: &mut Context) {
        loop {
            let Some(ongoing) = &mut inner.ongoing else { return };
            if matches!(inner.phase, Phase::Exchange) {
                self.deadline.store(ongoing.exchange.deadline(), Relaxed);
            }
            match ongoing.exchange.next(inner.outbox.len()) {
                Next::Wait => return,
                Next::HalfClose => {
                    ongoing.exchange.closed_sending_half();
                    if let Some(wire) = &mut inner.wire
                        && let Err(e) = wire.shutdown_write()
                    {
                        log::debug!("half-close of an upgraded connection: {e}");
                    }
                }
                Next::Finish => return self.finish(inner, context),
                Next::Retry => return self.retry(inner, context),
                // Visitors are answered by the Gateway.
                Next::Close | Next::Cut | Next::Answer => {
                    self.note_failure(ongoing);
                    return self.close(inner);
                }
            }
        }
    }

    fn write(self: &Arc<Self>, inner: &mut Inner, context: &mut Context) {
        if !matches!(inner.phase, Phase::Exchange) {
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
        if let Some(ongoing) = &mut inner.ongoing {
            let line = clip(&ongoing.line, MAX_LINE);
            log::debug!("{} {line}: sending failed: {e}", ongoing.request_id);
            ongoing.exchange.output_failed();
        }
        inner.outbox.clear();
        (inner.readable, inner.closing) = (true, true);
        self.core.poller.resume(self.token);
    }

    /// Accounts for what the socket took, and goes on with what waited for it.
    fn wrote(self: &Arc<Self>, inner: &mut Inner, context: &mut Context) {
        self.account(inner);
        let (waiting, budget) = (inner.outbox.len(), &self.core.budget);
        let Some(ongoing) = &mut inner.ongoing else { return };
        let (home, window) = (Arc::clone(ongoing.spread.home()), ongoing.exchange.window());
        let line = || Line { rtt: home.base_rtt(), may_grow: budget.level() < Level::Stop };
        let (exchange, mut carrier) = ongoing.machine(&mut inner.outbox, None, context);
        exchange.written(waiting, monotime::micros(), line, &mut carrier);
        if exchange.window() > window {
            home.note_window(exchange.window());
        }
        self.proceed(inner, context);
    }

    /// Tells the budget what is held for this connection: what waits for it, and what of its own waits for more, or for a
    /// place on a Link.
    fn account(&self, inner: &mut Inner) {
        let early = inner.ongoing.as_ref().map_or(0, |ongoing| ongoing.exchange.early());
        let bytes = inner.outbox.len() + early + inner.pending.capacity();
        if inner.held.set(bytes, &self.core.budget, monotime::micros) {
            self.core.over_budget();
        }
    }

    /// The answer is complete.
    fn finish(self: &Arc<Self>, inner: &mut Inner, context: &mut Context) {
        let Some(mut ongoing) = inner.ongoing.take() else { return };
        ongoing.leave();
        self.core.served(&ongoing.summary(&self.target));
        context.touch_link(ongoing.spread.home());
        let reusable =
            ongoing.exchange.may_be_followed(inner.outbox.len(), inner.pending.len()) && !inner.closing;
        if reusable {
            let now = monotime::micros();
            if let Some(most) = self.core.pool.put(self.target.serial, self, now) {
                inner.phase = Phase::Idle;
                self.deadline.store(now + ongoing.exchange.pool_time().min(most), Relaxed);
                return;
            }
        }
        self.close(inner);
    }

    fn close(self: &Arc<Self>, inner: &mut Inner) {
        if matches!(inner.phase, Phase::Closed) {
            return;
        }
        self.core.pool.remove(self.target.serial, self);
        inner.phase = Phase::Closed;
        if let Some(mut ongoing) = inner.ongoing.take() {
            ongoing.leave();
            self.core.served(&ongoing.summary(&self.target));
        }
        inner.held.clear(&self.core.budget);
        inner.outbox.clear();
        inner.pending = Vec::new();
        if let Some(mut wire) = inner.wire.take() {
            wire.say_goodbye();
        }
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
                let inner = &mut *inner;
                let Some(ongoing) = &mut inner.ongoing else { return };
                let (exchange, mut carrier) = ongoing.machine(&mut inner.outbox, None, context);
                exchange.expired(&mut carrier);
                self.proceed(inner, context);
            }
            Phase::Idle => self.close(&mut inner),
            Phase::Closed => {}
        }
    }

    /// The poller's sweep took it out of the pool, so that another gets its turn.
    pub(crate) fn make_way(self: &Arc<Self>) {
        let mut inner = lock(&self.inner);
        if matches!(inner.phase, Phase::Idle) {
            self.close(&mut inner);
        }
    }

    /// The daemon stops.
    pub(crate) fn stop(self: &Arc<Self>) {
        let mut inner = lock(&self.inner);
        self.close(&mut inner);
    }
}

/// The exchange, if it is still the one of this Stream.
fn ongoing_of(ongoing: &mut Option<Box<Ongoing>>, stream: u32) -> Option<&mut Ongoing> {
    ongoing.as_deref_mut().filter(|o| o.exchange.number() == stream && o.exchange.is_open())
}
