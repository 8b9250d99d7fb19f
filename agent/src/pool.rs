//! Idle connections to upstreams, kept for the next request to the same target; and of every target, whether its idle
//! connections are what its new ones wait for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use shared::threads::lock;

use crate::turns::Turns;
use crate::upstream::Upstream;

/// Idle connections per target; as many as a busy page with a few visitors uses at once.
const MOST_PER_TARGET: usize = 128;
/// Idle connections altogether.
const MOST: usize = 512;

/// The pool.
#[derive(Default)]
pub(crate) struct Pool {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    by_serial: HashMap<u64, Shelf>,
    len: usize,
}

/// Of one target.
#[derive(Default)]
struct Shelf {
    idle: Vec<Arc<Upstream>>,
    turns: Turns,
}

impl Pool {
    /// The connection to a target that was used last.
    pub(crate) fn take(&self, serial: u64) -> Option<Arc<Upstream>> {
        let mut inner = lock(&self.inner);
        let upstream = inner.by_serial.get_mut(&serial)?.idle.pop()?;
        inner.len -= 1;
        Some(upstream)
    }

    /// How many connections are idle.
    pub(crate) fn len(&self) -> usize {
        lock(&self.inner).len
    }

    /// Keeps a connection that has become idle, and says for how long at most, in microseconds. `None`: it is to be
    /// closed, because the pool is full or somebody may be waiting for that.
    pub(crate) fn put(&self, serial: u64, upstream: &Arc<Upstream>, now: u64) -> Option<u64> {
        let mut inner = lock(&self.inner);
        if inner.len >= MOST {
            return None;
        }
        let shelf = inner.by_serial.entry(serial).or_default();
        if shelf.idle.len() >= MOST_PER_TARGET {
            return None;
        }
        let most = shelf.turns.may_idle(now)?;
        shelf.idle.push(Arc::clone(upstream));
        inner.len += 1;
        Some(most)
    }

    /// A new connection to a target has come one step further.
    pub(crate) fn note(&self, serial: u64, step: impl FnOnce(&mut Turns)) {
        step(&mut lock(&self.inner).by_serial.entry(serial).or_default().turns);
    }

    /// Forgets a connection that is closing, idle or not.
    pub(crate) fn remove(&self, serial: u64, upstream: &Arc<Upstream>) {
        let mut inner = lock(&self.inner);
        let Some(shelf) = inner.by_serial.get_mut(&serial) else { return };
        let before = shelf.idle.len();
        shelf.idle.retain(|known| !Arc::ptr_eq(known, upstream));
        shelf.turns.ends(upstream.token);
        let removed = before - shelf.idle.len();
        inner.len -= removed;
    }

    /// Takes out the idle connections that others may be waiting for, to be closed by the caller; and forgets targets of
    /// which nothing is left to know.
    pub(crate) fn make_way(&self, now: u64) -> Vec<Arc<Upstream>> {
        let mut inner = lock(&self.inner);
        let mut ending = Vec::new();
        inner.by_serial.retain(|_, shelf| {
            if !shelf.idle.is_empty() && shelf.turns.idle_are_in_the_way(now) {
                ending.append(&mut shelf.idle);
            }
            !shelf.idle.is_empty() || !shelf.turns.is_blank(now)
        });
        inner.len -= ending.len();
        ending
    }
}
