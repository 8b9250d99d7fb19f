//! Is a Link alive? Decides when to send a Beat and when to give a Link up.
//!
//! Pure: the daemon's timer asks once a second. Every time is microseconds of one monotonic clock.

/// Silence, while Streams wait for an answer, after which a Beat is sent.
const WAITING_SILENCE: u64 = 5_000_000;
/// How long such a Beat may stay unanswered.
const WAITING_ANSWER: u64 = 10_000_000;
/// While data flows a Beat is sent this often, so that flow control knows the round trip.
const SAMPLE: u64 = 1_000_000;

/// What the timer should do with a Link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing.
    Fine,
    /// Send a Beat.
    Beat,
    /// Shut the socket: nothing has arrived for too long.
    Dead,
}

/// What is known about a Link at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Signs {
    /// The moment.
    pub now: u64,
    /// When anything last arrived.
    pub last_in: u64,
    /// When anything was last sent.
    pub last_out: u64,
    /// Streams wait for an answer from the other side.
    pub waiting: bool,
    /// Data arrived since the timer last looked.
    pub busy: bool,
}

/// The memory of one Link's timer.
#[derive(Clone, Copy, Debug)]
pub struct Alive {
    interval: u64,
    /// When the last Beat was sent.
    beat: u64,
    /// When a Beat was sent that nothing has answered yet.
    probe: Option<u64>,
}

impl Alive {
    /// Watches a Link with the given heartbeat interval, microseconds.
    pub fn new(interval: u64) -> Alive {
        Alive { interval, beat: 0, probe: None }
    }

    /// Looks at the signs; the caller does what is answered.
    pub fn look(&mut self, signs: Signs) -> Verdict {
        let silence = signs.now.saturating_sub(signs.last_in);
        if silence >= 2 * self.interval {
            return Verdict::Dead;
        }
        if self.probe.is_some_and(|sent| signs.last_in >= sent) {
            self.probe = None;
        }
        if let Some(sent) = self.probe {
            if signs.waiting && signs.now.saturating_sub(sent) >= WAITING_ANSWER {
                return Verdict::Dead;
            }
            return Verdict::Fine;
        }
        let idle = signs.now.saturating_sub(signs.last_out) >= self.interval;
        let doubt = signs.waiting && silence >= WAITING_SILENCE;
        let sample = signs.busy && signs.now.saturating_sub(self.beat) >= SAMPLE;
        if idle || doubt || sample {
            self.beat = signs.now;
            self.probe = Some(signs.now);
            return Verdict::Beat;
        }
        Verdict::Fine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    fn signs(now: u64, last_in: u64, last_out: u64, waiting: bool) -> Signs {
        Signs { now: now * S, last_in: last_in * S, last_out: last_out * S, waiting, busy: false }
    }

    #[test]
    fn an_idle_link_beats_once_per_interval() {
        let mut alive = Alive::new(30 * S);
        assert_eq!(alive.look(signs(29, 0, 0, false)), Verdict::Fine);
        assert_eq!(alive.look(signs(30, 0, 0, false)), Verdict::Beat);
        assert_eq!(alive.look(signs(31, 30, 30, false)), Verdict::Fine);
        assert_eq!(alive.look(signs(60, 30, 30, false)), Verdict::Beat);
    }

    #[test]
    fn two_silent_intervals_are_death() {
        let mut alive = Alive::new(30 * S);
        assert_eq!(alive.look(signs(30, 0, 0, false)), Verdict::Beat);
        assert_eq!(alive.look(signs(59, 0, 30, false)), Verdict::Fine);
        assert_eq!(alive.look(signs(60, 0, 30, false)), Verdict::Dead);
    }

    #[test]
    fn a_waiting_stream_finds_a_half_open_link_in_fifteen_seconds() {
        let mut alive = Alive::new(300 * S);
        assert_eq!(alive.look(signs(4, 0, 4, true)), Verdict::Fine);
        assert_eq!(alive.look(signs(5, 0, 4, true)), Verdict::Beat);
        assert_eq!(alive.look(signs(14, 0, 5, true)), Verdict::Fine);
        assert_eq!(alive.look(signs(15, 0, 5, true)), Verdict::Dead);
    }

    #[test]
    fn an_answer_to_the_probe_ends_the_doubt() {
        let mut alive = Alive::new(300 * S);
        assert_eq!(alive.look(signs(5, 0, 4, true)), Verdict::Beat);
        assert_eq!(alive.look(signs(6, 5, 5, true)), Verdict::Fine);
        assert_eq!(alive.look(signs(10, 5, 5, true)), Verdict::Beat);
    }

    #[test]
    fn flowing_data_is_sampled_every_second() {
        let mut alive = Alive::new(30 * S);
        let busy = |now: u64| Signs { busy: true, ..signs(now, now, now, false) };
        assert_eq!(alive.look(busy(1)), Verdict::Beat);
        assert_eq!(alive.look(busy(2)), Verdict::Beat);
        assert_eq!(alive.look(signs(3, 3, 3, false)), Verdict::Fine);
    }
}
