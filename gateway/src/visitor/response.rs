//! From the Agent to a visitor's socket: what the readers of Links bring for his Stream, and what is done with his
//! connection as the exchange goes on and ends.

use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use shared::carrier::Done;
use shared::exchange::Next;
use shared::frame::Frame;
use shared::link::Link;
use shared::monotime;
use shared::reason::Reason;
use shared::threads::lock;
use socket2::SockRef;
use std::sync::atomic::Ordering::Relaxed;

use super::{Context, Inner, Phase, Visitor};
use crate::answers::Answer;

/// An answer that is longer than this is a long transfer: new Streams avoid its Link.
const HEAVY: u64 = 1024 * 1024;

impl Visitor {
    /// A Link's reader: a Frame for this Stream.
    pub(crate) fn frame(
        self: &Arc<Self>,
        stream: u32,
        frame: &Frame<'_>,
        context: &mut Context,
    ) -> Result<(), String> {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        let Some(ongoing) = inner.ongoing(stream) else { return Ok(()) };
        if let Frame::Reset { reason, text, .. } = frame {
            log::debug!("{} reset by the agent: {reason} {text}", ongoing.request_id);
        }
        let Phase::Exchange(ongoing) = &mut inner.phase else { return Ok(()) };
        let (raw, early) = (ongoing.exchange.is_raw(), ongoing.exchange.early());
        let now = monotime::micros();
        let (exchange, mut carrier) = ongoing.machine(&mut inner.outbox, Some(&self.socket), context);
        exchange.frame(frame, now, &mut carrier)?;
        let mut done = carrier.done;
        done.wrote |= exchange.early() != early;
        if exchange.is_raw() && !raw {
            keep_alive_probes(&self.socket);
        }
        if exchange.received() > HEAVY && exchange.is_open() && !ongoing.heavy {
            ongoing.heavy = true;
            ongoing.spread.home().heavy_begins();
        }
        self.follow_up(inner, done, context);
        Ok(())
    }

    /// The Stream ended without the Agent having said so.
    pub(crate) fn fail(self: &Arc<Self>, stream: u32, reason: Reason, context: &mut Context) {
        let mut inner = lock(&self.inner);
        let Phase::Exchange(ongoing) = &mut inner.phase else { return };
        if ongoing.exchange.number() == stream {
            ongoing.exchange.lost(reason, "");
            self.proceed(&mut inner, context);
        }
    }

    /// The daemon stops: ends the answer if it would not end by itself, in the way that makes visitors come back.
    pub(crate) fn part(self: &Arc<Self>, stream: u32, context: &mut Context) {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        let age = monotime::micros().saturating_sub(inner.since);
        if inner.ongoing(stream).is_none() {
            return;
        }
        let Phase::Exchange(ongoing) = &mut inner.phase else { return };
        let (exchange, mut carrier) = ongoing.machine(&mut inner.outbox, None, context);
        exchange.part(age, &mut carrier);
        let done = carrier.done;
        self.follow_up(inner, done, context);
    }

    /// Fails the Stream if `link` carried it, or a part of it.
    pub(crate) fn fail_on_link(self: &Arc<Self>, stream: u32, link: &Arc<Link>, context: &mut Context) {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        let Some(ongoing) = inner.ongoing(stream) else { return };
        if !ongoing.spread.uses(link) {
            ongoing.exchange.lost_beside(monotime::micros());
            return self.proceed(inner, context);
        }
        if Arc::ptr_eq(ongoing.spread.home(), link) {
            ongoing.exchange.lost(Reason::LinkLost, "");
        } else {
            let text = "a link that carried a part of it was lost";
            self.fail_exchange(inner, Reason::LinkLost, text, context);
        }
        self.proceed(inner, context);
    }

    /// Ends the exchange on this side, and tells the Agent why. [`proceed`](Self::proceed) does what follows.
    pub(super) fn fail_exchange(&self, inner: &mut Inner, reason: Reason, text: &str, context: &mut Context) {
        let Phase::Exchange(ongoing) = &mut inner.phase else { return };
        let (exchange, mut carrier) = ongoing.machine(&mut inner.outbox, None, context);
        exchange.fail(reason, text, &mut carrier);
    }

    /// What follows a step of the machine.
    pub(super) fn follow_up(self: &Arc<Self>, inner: &mut Inner, done: Done, context: &mut Context) {
        if done.broken.is_some() {
            return self.gone(inner, context);
        }
        if done.wake {
            self.core.poller.resume(self.token);
        }
        if done.queued {
            context.touch(self);
        }
        if done.wrote {
            self.wrote(inner, context);
        } else {
            self.proceed(inner, context);
        }
    }

    /// Does with the connection what the exchange has come to.
    pub(super) fn proceed(self: &Arc<Self>, inner: &mut Inner, context: &mut Context) {
        loop {
            let Phase::Exchange(ongoing) = &mut inner.phase else { return };
            self.deadline.store(ongoing.exchange.deadline(), Relaxed);
            if !ongoing.exchange.is_open() {
                ongoing.leave();
            }
            match ongoing.exchange.next(inner.outbox.len()) {
                Next::Wait => return,
                Next::Answer => {
                    let Some(failure) = ongoing.exchange.failure() else { return };
                    let (answer, keep) = match failure.body {
                        Some(fault) => {
                            log::info!("{} {}: bad request body: {fault}", ongoing.request_id, self.peer);
                            let text = format!("the request body is malformed: {fault}");
                            (Answer::plain_fault(400, &text), false)
                        }
                        None => {
                            let answer =
                                Answer::failure(failure.reason, &ongoing.request_id, ongoing.wants_html);
                            (answer, ongoing.exchange.could_keep())
                        }
                    };
                    let is_head = ongoing.method == "HEAD";
                    self.answer(inner, context, &answer, keep, is_head);
                }
                Next::HalfClose => {
                    ongoing.exchange.closed_sending_half();
                    // It fails only when the visitor has closed already, which reading will show.
                    let _ = self.socket.shutdown(Shutdown::Write);
                }
                Next::Finish => return self.finish(inner),
                Next::Cut => return self.abort(inner),
                // The Gateway asks nobody twice.
                Next::Close | Next::Retry => return self.close(inner, false),
            }
        }
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
