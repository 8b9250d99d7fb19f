//! Threads with names, small stacks, and someone who joins them.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

/// Bytes of stack for our threads: deep enough for TLS and JSON, and only touched pages cost memory.
const STACK: usize = 512 * 1024;

/// Starts a named thread. The kernel keeps 15 bytes of the name, so what differs comes first.
pub fn spawn<T: Send + 'static>(
    name: impl Into<String>,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.into()).stack_size(STACK).spawn(run)
}

/// Locks data whose holders never leave it half-changed: also after one of them panicked, because then only the
/// Stream that panicked is lost.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
