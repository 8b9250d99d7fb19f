//! Totals of requests.

use shared::reason::Reason;

use super::{Durations, RequestEntry};

/// Totals of some requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) requests: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// 1xx to 5xx.
    pub(crate) status: [u64; 5],
    pub(crate) failed: u64,
    pub(crate) durations: Durations,
}

impl Counts {
    pub(super) fn clear(&mut self) {
        let mut durations = std::mem::take(&mut self.durations);
        durations.clear();
        *self = Counts { durations, ..Counts::default() };
    }

    pub(crate) fn merge(&mut self, other: &Counts) {
        self.requests += other.requests;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        for (count, more) in self.status.iter_mut().zip(other.status) {
            *count += more;
        }
        self.failed += other.failed;
        self.durations.merge(&other.durations);
    }

    pub(super) fn add(&mut self, entry: &RequestEntry<'_>) {
        self.requests += 1;
        self.bytes_in += entry.request_bytes.saturating_sub(entry.counted.0);
        self.bytes_out += entry.response_bytes.saturating_sub(entry.counted.1);
        if let Some(count) =
            usize::from(entry.status / 100).checked_sub(1).and_then(|n| self.status.get_mut(n))
        {
            *count += 1;
        }
        self.failed += u64::from(is_failure(entry.failure));
        // The hours of an upgraded connection say nothing about how fast anything is.
        if entry.status != 101 {
            self.durations.add(entry.micros);
        }
    }
}

/// A visitor who leaves is noted, but nothing has failed.
pub(super) fn is_failure(failure: Option<(Reason, &str)>) -> bool {
    failure.is_some_and(|(reason, _)| reason != Reason::VisitorGone)
}
