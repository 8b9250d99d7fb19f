//! One monotonic clock for the process: microseconds since its first use, small enough for an atomic.

use std::sync::OnceLock;
use std::time::Instant;

static START: OnceLock<Instant> = OnceLock::new();

/// Microseconds since the clock was first asked; that is the start of the process, when `main` asks first.
pub fn micros() -> u64 {
    START.get_or_init(Instant::now).elapsed().as_micros() as u64
}

/// Whole seconds since the clock was first asked.
pub fn seconds() -> u64 {
    micros() / 1_000_000
}
