//! A list of what happened, on which a test can wait; and waiting for what cannot be listened to.
//!
//! Nothing here is a pace: every duration is an upper bound, after which the test fails with what it has seen.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// How long a test waits for something that should happen at once: long enough for a debug build on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How often [`until`] looks.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What happened so far, in order.
#[derive(Debug)]
pub struct Journal<T> {
    entries: Mutex<Vec<T>>,
    grown: Condvar,
}

impl<T> Default for Journal<T> {
    fn default() -> Journal<T> {
        Journal { entries: Mutex::new(Vec::new()), grown: Condvar::new() }
    }
}

impl<T> Journal<T> {
    /// Something happened.
    pub fn add(&self, entry: T) {
        self.lock().push(entry);
        self.grown.notify_all();
    }

    /// Looks at all entries.
    pub fn look<R>(&self, look: impl FnOnce(&[T]) -> R) -> R {
        look(&self.lock())
    }

    /// Waits until `look` finds what it wants, at most for `patience`.
    pub fn wait<R>(&self, patience: Duration, mut look: impl FnMut(&[T]) -> Option<R>) -> Option<R> {
        let deadline = Instant::now() + patience;
        let mut entries = self.lock();
        loop {
            if let Some(found) = look(&entries) {
                return Some(found);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            entries = self.grown.wait_timeout(entries, left).expect("a test panicked while it looked").0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        self.entries.lock().expect("a test panicked while it looked")
    }
}

/// Asks again and again until there is an answer: for states of other processes, which send no event. Panics when
/// `patience` is over.
pub fn until<R>(what: &str, patience: Duration, look: impl FnMut() -> Option<R>) -> R {
    try_until(patience, look).unwrap_or_else(|| panic!("waited {patience:?} in vain: {what}"))
}

/// The same, with `None` when `patience` is over.
pub fn try_until<R>(patience: Duration, mut look: impl FnMut() -> Option<R>) -> Option<R> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() > deadline {
            return None;
        }
        thread::park_timeout(LOOK_AGAIN);
    }
}
