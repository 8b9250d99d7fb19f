//! The shortest round trip of a Link, which windows grow by.

/// How long the shortest round trip is believed, at least. Microseconds.
const BASE_RTT_TIME: u64 = 60_000_000;

/// The shortest round trip of the present minute and of the one before, so that a line that became longer is noticed.
#[derive(Default)]
pub(super) struct BaseRtt {
    since: u64,
    now: Option<u64>,
    before: Option<u64>,
}

impl BaseRtt {
    pub(super) fn add(&mut self, sample: u64, now: u64) {
        if now.saturating_sub(self.since) > BASE_RTT_TIME {
            *self = BaseRtt { since: now, now: None, before: self.now };
        }
        self.now = Some(self.now.map_or(sample, |least| least.min(sample)));
    }

    pub(super) fn get(&self) -> u64 {
        [self.now, self.before].into_iter().flatten().min().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_round_trip_is_believed_for_a_minute_or_two() {
        let mut base = BaseRtt::default();
        assert_eq!(base.get(), 0);
        base.add(70, 1);
        base.add(50, 2);
        base.add(900, 3);
        assert_eq!(base.get(), 50);
        base.add(900, BASE_RTT_TIME + 2);
        assert_eq!(base.get(), 50);
        base.add(900, 2 * BASE_RTT_TIME + 4);
        assert_eq!(base.get(), 900);
    }
}
