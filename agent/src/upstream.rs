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
mod request;
mod response;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use shared::credit::Held;
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
use exchange::Exchange;
pub(crate) use exchange::{Summary, user_agent};

/// Most bytes read from an upstream at a time.
pub(crate) const SCRATCH: usize = 64 * 1024;
/// Connecting, with TLS, must be done after this long. Microseconds, like all below.
const CONNECT_TIME: u64 = 10_000_000;
/// A request on which no byte moves either way is over after this long. Slightly less than the Gateway's, so that
/// the answer names the hop that is silent.
const IDLE_TIME: u64 = 299_000_000;
/// An idle connection is kept for this long, or for what the upstream says.
const POOL_TIME: u64 = 30_000_000;

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
            && exchange.stream.is_complete()
            && exchange.pool_time > 0
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
