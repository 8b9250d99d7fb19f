//! What becomes of running exchanges when the Agent stops as planned.

use std::sync::Arc;

use shared::monotime;
use shared::reason::Reason;
use shared::threads::lock;

use super::exchange::Ongoing;
use super::{Context, Upstream, ongoing_of};

/// Microseconds since its request came.
fn age(ongoing: &Ongoing) -> u64 {
    monotime::micros().saturating_sub(ongoing.started)
}

impl Upstream {
    /// Whether this Stream is open and may finish before the Agent stops.
    pub(crate) fn may_finish(&self, stream: u32) -> bool {
        let mut inner = lock(&self.inner);
        ongoing_of(&mut inner.ongoing, stream)
            .is_some_and(|ongoing| ongoing.exchange.may_finish(age(ongoing)))
    }

    /// Ends the Stream if it would not end by itself, in the way that makes visitors come back.
    pub(crate) fn part(self: &Arc<Self>, stream: u32, context: &mut Context) {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        let Some(ongoing) = ongoing_of(&mut inner.ongoing, stream) else { return };
        let age = age(ongoing);
        let (exchange, mut carrier) = ongoing.machine(&mut inner.outbox, None, context);
        exchange.part(age, &mut carrier);
        if !exchange.is_open() {
            // Nobody waits for a service that does not take what a visitor had sent.
            ongoing.leave();
        }
        self.proceed(inner, context);
    }

    /// Ends the Stream: there is no more time.
    pub(crate) fn cut(self: &Arc<Self>, stream: u32, context: &mut Context) {
        let mut inner = lock(&self.inner);
        if ongoing_of(&mut inner.ongoing, stream).is_some() {
            self.fail(&mut inner, Reason::Draining, "the agent is shutting down", context);
        }
    }
}
