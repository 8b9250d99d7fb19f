//! The socket at a Stream's outer end: a visitor's on the Gateway, an upstream's on the Agent. What may be done to
//! any of them without knowing which it is.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::context::Context;
use crate::credit::{Budget, Holding, Level};

/// A visitor's or an upstream's connection.
pub trait Outer: Sized {
    /// Sends what was queued for it, as far as it takes that now. Leads to Credit for Links, which `context` notes.
    fn flush(self: &Arc<Self>, context: &mut Context<Self>);

    /// What it has of the memory budget.
    fn holding(&self) -> Holding;

    /// Cuts it off: what waits for it is needed for others.
    fn evict(self: &Arc<Self>, context: &mut Context<Self>);
}

/// When the memory budget is used up: cuts off those that hold more than their window allows (without one: anything), the
/// largest excess first, and then those that have taken nothing for longest, until a tenth of it is free.
pub fn make_room<O: Outer>(budget: &Budget, all: impl FnOnce() -> Vec<Arc<O>>, context: &mut Context<O>) {
    if budget.level() < Level::Full {
        return;
    }
    let all = all().into_iter().map(|outer| (outer.holding(), outer));
    let mut holding: Vec<_> = all.filter(|(holding, _)| holding.bytes > 0).collect();
    holding.sort_by_key(|(holding, _)| (Reverse(holding.above), holding.since));
    for (_, outer) in holding {
        if budget.held() < budget.limit() / 10 * 9 {
            break;
        }
        outer.evict(context);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::credit::Held;
    use crate::threads::lock;

    /// Of every socket here, bytes.
    const WINDOW: usize = 256 * 1024;
    /// Of the budget, bytes.
    const MIB: usize = 1024 * 1024;

    struct Fake(Arc<Budget>, Mutex<Held>);

    impl Outer for Fake {
        fn flush(self: &Arc<Self>, _context: &mut Context<Self>) {}

        fn holding(&self) -> Holding {
            lock(&self.1).holding(Some(WINDOW))
        }

        fn evict(self: &Arc<Self>, _context: &mut Context<Self>) {
            lock(&self.1).clear(&self.0);
        }
    }

    /// Sockets that hold so much since then; what is left of each when room has been made in a budget of 1 MiB.
    fn left(sockets: &[(usize, u64)]) -> Vec<usize> {
        let budget = Arc::new(Budget::new(MIB as u64));
        let all: Vec<_> = sockets
            .iter()
            .map(|&(bytes, since)| {
                let mut held = Held::new(0);
                held.set(bytes, &budget, || since);
                Arc::new(Fake(Arc::clone(&budget), Mutex::new(held)))
            })
            .collect();
        make_room(&budget, || all.clone(), &mut Context::default());
        all.iter().map(|fake| fake.holding().bytes).collect()
    }

    #[test]
    fn those_who_have_not_read_for_longest_go_until_a_tenth_is_free() {
        let w = WINDOW;
        assert_eq!(left(&[(w, 7), (w / 2, 5), (0, 1), (w, 6), (w, 9), (w, 8)]), [w, 0, 0, 0, w, w]);
    }

    #[test]
    fn those_with_more_than_their_window_go_first_however_short_they_have_stalled() {
        let w = WINDOW;
        assert_eq!(left(&[(w, 1), (w, 2), (2 * w, 8), (3 * w, 9)]), [w, w, 0, 0]);
        // What framing and heads add to a window is nobody's excess.
        assert_eq!(left(&[(w + 700, 9), (w, 1), (w, 3), (w, 2)]), [w + 700, 0, w, w]);
    }

    #[test]
    fn nobody_goes_while_there_is_room() {
        assert_eq!(left(&[(3 * WINDOW, 7), (WINDOW - 1, 5)]), [3 * WINDOW, WINDOW - 1]);
    }
}
