//! Idle connections to upstreams, kept for the next request to the same target.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use shared::threads::lock;

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
    by_serial: HashMap<u64, Vec<Arc<Upstream>>>,
    len: usize,
}

impl Pool {
    /// The connection to a target that was used last.
    pub(crate) fn take(&self, serial: u64) -> Option<Arc<Upstream>> {
        let mut inner = lock(&self.inner);
        let list = inner.by_serial.get_mut(&serial)?;
        let upstream = list.pop();
        if list.is_empty() {
            inner.by_serial.remove(&serial);
        }
        if upstream.is_some() {
            inner.len -= 1;
        }
        upstream
    }

    /// How many connections are idle.
    pub(crate) fn len(&self) -> usize {
        lock(&self.inner).len
    }

    /// Keeps a connection; `false`: the pool is full.
    pub(crate) fn put(&self, serial: u64, upstream: Arc<Upstream>) -> bool {
        let mut inner = lock(&self.inner);
        if inner.len >= MOST {
            return false;
        }
        let list = inner.by_serial.entry(serial).or_default();
        if list.len() >= MOST_PER_TARGET {
            return false;
        }
        list.push(upstream);
        inner.len += 1;
        true
    }

    /// Forgets a connection that is closing.
    pub(crate) fn remove(&self, serial: u64, upstream: &Arc<Upstream>) {
        let mut inner = lock(&self.inner);
        let Some(list) = inner.by_serial.get_mut(&serial) else { return };
        let before = list.len();
        list.retain(|known| !Arc::ptr_eq(known, upstream));
        let removed = before - list.len();
        if list.is_empty() {
            inner.by_serial.remove(&serial);
        }
        inner.len -= removed;
    }
}
