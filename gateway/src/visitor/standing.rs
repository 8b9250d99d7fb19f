//! How a visitor's connection stands when there are not enough places, and how it gives way. Who has to is decided in
//! `places`.

use std::sync::{Arc, TryLockError};

use shared::reason::Reason;

use super::{Context, Inner, Phase, Visitor};
use crate::places::{Busy, Standing};

impl Visitor {
    /// How it stands; `None`: it stays, because something is being done for it. Never waits for its lock, since whoever
    /// asks may hold another visitor's.
    pub(crate) fn standing(&self) -> Option<Standing> {
        match self.inner.try_lock() {
            Ok(inner) => self.standing_of(&inner),
            Err(TryLockError::Poisoned(inner)) => self.standing_of(&inner.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn standing_of(&self, inner: &Inner) -> Option<Standing> {
        // Those of a kind have as long, so the one that is due first is the oldest.
        let time = self.deadline();
        match &inner.phase {
            Phase::Exchange(ongoing) => match &ongoing.seat {
                Some(seat) => Some(Standing::Busy(Busy {
                    network: seat.network,
                    since: inner.since,
                    moved: ongoing.exchange.sent() + ongoing.exchange.received(),
                    raw: ongoing.exchange.is_raw(),
                })),
                None => Some(Standing::Unread(time)),
            },
            Phase::Head | Phase::Linger if !inner.outbox.is_empty() => Some(Standing::Unread(time)),
            Phase::Head if inner.asked && inner.pending.is_empty() => Some(Standing::Idle(time)),
            Phase::Head | Phase::Linger => Some(Standing::Unfinished(time)),
            Phase::Held | Phase::Own(_) | Phase::Closed => None,
        }
    }

    /// Makes room for others, if it still stands as it `stood`; else false.
    pub(crate) fn give_way(self: &Arc<Self>, stood: &Standing, context: &mut Context) -> bool {
        let mut inner = match self.inner.try_lock() {
            Ok(inner) => inner,
            Err(TryLockError::Poisoned(inner)) => inner.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        let inner = &mut *inner;
        if !self.standing_of(inner).is_some_and(|now| stood.is_still(&now)) {
            return false;
        }
        let Phase::Exchange(ongoing) = &mut inner.phase else {
            self.close(inner, false);
            return true;
        };
        ongoing.seat = None;
        let begun = ongoing.exchange.status() != 0 || ongoing.exchange.failure().is_some();
        self.fail_exchange(inner, Reason::TooManyStreams, "its place was needed for others", context);
        if begun {
            self.abort(inner);
        } else {
            self.proceed(inner, context);
        }
        true
    }
}
