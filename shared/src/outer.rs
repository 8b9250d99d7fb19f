//! The socket at a Stream's outer end: a visitor's on the Gateway, an upstream's on the Agent. What may be done to
//! any of them without knowing which it is.

use std::sync::Arc;

use crate::context::Context;
use crate::credit::{Budget, Level};

/// A visitor's or an upstream's connection.
pub trait Outer: Sized {
    /// Sends what was queued for it, as far as it takes that now. Leads to Credit for Links, which `context` notes.
    fn flush(self: &Arc<Self>, context: &mut Context<Self>);

    /// Bytes that wait for it, and since when it has taken none.
    fn stalled(&self) -> (usize, u64);

    /// Cuts it off: what waits for it is needed for others.
    fn evict(self: &Arc<Self>, context: &mut Context<Self>);
}

/// When the memory budget is used up: cuts off those that have not read for longest, until a tenth of it is free.
pub fn make_room<O: Outer>(budget: &Budget, all: impl FnOnce() -> Vec<Arc<O>>, context: &mut Context<O>) {
    if budget.level() < Level::Full {
        return;
    }
    let all = all().into_iter().map(|outer| (outer.stalled(), outer));
    let mut stalled: Vec<_> = all.filter(|((bytes, _), _)| *bytes > 0).collect();
    stalled.sort_by_key(|((_, since), _)| *since);
    for (_, outer) in stalled {
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

    struct Fake(Arc<Budget>, Mutex<Held>);

    impl Outer for Fake {
        fn flush(self: &Arc<Self>, _context: &mut Context<Self>) {}

        fn stalled(&self) -> (usize, u64) {
            lock(&self.1).stalled()
        }

        fn evict(self: &Arc<Self>, _context: &mut Context<Self>) {
            lock(&self.1).clear(&self.0);
        }
    }

    /// Sockets that hold so much since then; what is left of each when room has been made in a budget of 1000.
    fn left(sockets: &[(usize, u64)]) -> Vec<usize> {
        let budget = Arc::new(Budget::new(1000));
        let all: Vec<_> = sockets
            .iter()
            .map(|&(bytes, since)| {
                let mut held = Held::new(0);
                held.set(bytes, &budget, || since);
                Arc::new(Fake(Arc::clone(&budget), Mutex::new(held)))
            })
            .collect();
        make_room(&budget, || all.clone(), &mut Context::default());
        all.iter().map(|fake| fake.stalled().0).collect()
    }

    #[test]
    fn those_who_have_not_read_for_longest_go_until_a_tenth_is_free() {
        assert_eq!(left(&[(300, 7), (50, 5), (0, 1), (101, 6), (599, 8)]), [300, 0, 0, 0, 599]);
    }

    #[test]
    fn nobody_goes_while_there_is_room() {
        assert_eq!(left(&[(500, 7), (499, 5)]), [500, 499]);
    }
}
