//! Who may be waiting for whom at a service that serves few connections at once.
//!
//! Small devices serve one connection at a time: the next one gets its turn when the one before is closed. An idle
//! connection of ours is then what a request of ours waits for. So it is given up when there are signs of that, and
//! what was learned is remembered for a while:
//!
//! ```text
//!   a new connection is silent,   ── the idle ones are ended ──▶   it is answered: a turn
//!   others have been answered                                      two of them: the service has a limit
//! ```
//! Connections are accepted in the order in which they were made. So whoever is answered shows that those made before are
//! being served too, even if they are silent (a request that waits for news). There is an exception: where the queue of
//! connections to be accepted is full, TCP lets some wait for longer. So an overtaken one is a sign only now and then.
//! What is served at once is no sign of a limit; an ordinary service shows so with its first page.
//!
//! Pure: connections are numbers, times are microseconds of a clock that the caller has.

use std::collections::HashSet;

/// After a complete answer: a new connection that has been silent for this long may be waiting for the end of this one.
const SUSPECT: u64 = 250_000;
/// A new connection that has been silent for this long may be waiting for the end of idle ones.
const SILENT: u64 = 500_000;
/// The same while fewer connections are open than the service was seen to serve at once.
const SILENT_WITH_ROOM: u64 = 5_000_000;
/// The same of a connection that others have overtaken; twice as long each time that it did not help.
const SILENT_OVERTAKEN: u64 = 2_000_000;
/// A limit is believed for this long after it was last confirmed.
const BELIEVED: u64 = 15 * 60_000_000;
/// A service with a limit has others to serve: an idle connection is kept for the next part of a page.
const IDLE_WITH_LIMIT: u64 = 1_000_000;
/// So many turns one after the other are no coincidence.
const TURNS: u32 = 2;

/// What is known of the connections to one service.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    /// New connections without a byte of answer.
    waiting: Vec<Waiting>,
    /// Connections that were answered, now or before.
    served: HashSet<usize>,
    /// How many connections have been made.
    made: u64,
    /// Most connections that were served at once.
    at_once: usize,
    /// Of how many open connections one or more were ended so that another gets its turn; until one is answered.
    ended_of: Option<usize>,
    /// Answers in a row that came after that.
    turns: u32,
    limit: Option<Limit>,
}

#[derive(Debug)]
struct Waiting {
    connection: usize,
    /// Its place among the connections made; none while it is being made.
    made: Option<u64>,
    since: u64,
    /// How long it is left to wait, once it was overtaken.
    overtaken: Option<u64>,
}

/// It serves so many connections at once, as far as is known.
#[derive(Clone, Copy, Debug)]
struct Limit {
    connections: usize,
    until: u64,
}

impl Turns {
    /// A connection is being made.
    pub(crate) fn dials(&mut self, connection: usize, now: u64) {
        match self.waiting.iter_mut().find(|waiting| waiting.connection == connection) {
            // To another address.
            Some(waiting) => waiting.made = None,
            None => self.waiting.push(Waiting { connection, made: None, since: now, overtaken: None }),
        }
    }

    /// A connection has been made.
    pub(crate) fn connected(&mut self, connection: usize) {
        self.made += 1;
        let made = self.made;
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.connection == connection) {
            waiting.made = Some(made);
        }
    }

    /// The request on a connection has become complete: an answer can be expected from now on.
    pub(crate) fn asked(&mut self, connection: usize, now: u64) {
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.connection == connection) {
            waiting.since = now;
        }
    }

    /// The first bytes of an answer came on a new connection.
    pub(crate) fn answers(&mut self, connection: usize, now: u64) {
        if !self.served.insert(connection) {
            return;
        }
        let Some(at) = self.waiting.iter().position(|waiting| waiting.connection == connection) else {
            return;
        };
        let answered = self.waiting.swap_remove(at).made;
        let mut overtook = false;
        for waiting in
            self.waiting.iter_mut().filter(|waiting| waiting.made.is_some() && waiting.made < answered)
        {
            overtook = true;
            waiting.since = now;
            waiting.overtaken.get_or_insert(SILENT_OVERTAKEN);
        }
        let ended_of = self.ended_of.take();
        let open = self.served.len();
        self.at_once = self.at_once.max(open);
        self.limit = self.limit.filter(|limit| !overtook && limit.connections >= open);
        match ended_of {
            Some(connections) if !overtook && open <= connections => {
                self.turns += 1;
                if self.turns >= TURNS {
                    self.limit = Some(Limit { connections, until: now + BELIEVED });
                }
            }
            _ => self.turns = 0,
        }
    }

    /// A connection is over.
    pub(crate) fn ends(&mut self, connection: usize) {
        if !self.served.remove(&connection) {
            self.waiting.retain(|waiting| waiting.connection != connection);
        }
    }

    /// A served connection has become idle: for how long it may stay so. `None`: it is to be ended at once.
    pub(crate) fn may_idle(&mut self, now: u64) -> Option<u64> {
        if self.somebody_waits_for_us(SUSPECT, now) {
            return None;
        }
        Some(if self.limit(now).is_some() { IDLE_WITH_LIMIT } else { u64::MAX })
    }

    /// Whether the idle connections, of which there are some, are to be ended for somebody who waits.
    pub(crate) fn idle_are_in_the_way(&mut self, now: u64) -> bool {
        self.somebody_waits_for_us(SILENT, now)
    }

    fn somebody_waits_for_us(&mut self, patience: u64, now: u64) -> bool {
        let open = self.served.len();
        let patience = match self.limit(now) {
            Some(limit) if open >= limit => 0,
            None if open >= self.at_once => patience,
            _ => SILENT_WITH_ROOM,
        };
        let mut waits = false;
        for waiting in &mut self.waiting {
            let waited = now.saturating_sub(waiting.since);
            match &mut waiting.overtaken {
                Some(patience) if waited >= *patience => {
                    waits = true;
                    waiting.since = now;
                    *patience *= 2;
                }
                None if waited >= patience => waits = true,
                _ => {}
            }
        }
        if waits {
            self.ended_of = Some(open);
        }
        waits
    }

    fn limit(&self, now: u64) -> Option<usize> {
        self.limit.filter(|limit| now < limit.until).map(|limit| limit.connections)
    }

    /// Whether nothing is known that would be missed.
    pub(crate) fn is_blank(&self, now: u64) -> bool {
        self.waiting.is_empty() && self.served.is_empty() && self.limit(now).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000;
    const FOREVER: Option<u64> = Some(u64::MAX);

    /// New connections are made and carry a request each.
    fn ask(turns: &mut Turns, connections: impl IntoIterator<Item = usize>, now: u64) {
        for connection in connections {
            turns.dials(connection, now);
            turns.connected(connection);
        }
    }

    /// A device that serves one connection at a time is asked three times at once; the third is served last.
    fn limited() -> Turns {
        let mut turns = Turns::default();
        ask(&mut turns, 1..=3, 0);
        for connection in 1..=3 {
            let now = connection as u64 * 300 * MS;
            turns.answers(connection, now);
            assert_eq!(turns.may_idle(now).is_none(), connection < 3, "connection {connection}");
            turns.ends(connection);
        }
        turns
    }

    #[test]
    fn one_at_a_time_means_that_nobody_waits_for_an_idle_connection() {
        let mut turns = limited();
        // What was learned makes the next ones wait for nobody, however quick they are.
        let now = 60_000 * MS;
        ask(&mut turns, [4, 5], now);
        turns.answers(4, now + 20 * MS);
        assert_eq!(turns.may_idle(now + 20 * MS), None);
        turns.ends(4);
        turns.answers(5, now + 40 * MS);
        assert_eq!(turns.may_idle(now + 40 * MS), Some(IDLE_WITH_LIMIT), "nobody waits");
    }

    #[test]
    fn a_quick_device_is_found_out_by_silence() {
        let mut turns = Turns::default();
        ask(&mut turns, 1..=4, 0);
        turns.answers(1, 50 * MS);
        assert_eq!(turns.may_idle(50 * MS), FOREVER, "the others have waited no longer than it took");
        assert!(!turns.idle_are_in_the_way(499 * MS));
        assert!(turns.idle_are_in_the_way(500 * MS));
        turns.ends(1);
        turns.answers(2, 550 * MS);
        assert_eq!(turns.may_idle(550 * MS), None);
        turns.ends(2);
        turns.answers(3, 600 * MS);
        assert_eq!(turns.limit(600 * MS), Some(1));
        assert_eq!(turns.may_idle(600 * MS), None);
    }

    #[test]
    fn a_device_with_four_places_is_left_with_four() {
        let mut turns = Turns::default();
        ask(&mut turns, 1..=7, 0);
        for connection in 1..=4 {
            turns.answers(connection, 10 * MS);
            assert_eq!(turns.may_idle(10 * MS), FOREVER);
        }
        assert!(turns.idle_are_in_the_way(600 * MS));
        turns.ends(1);
        turns.answers(5, 610 * MS);
        assert_eq!(turns.may_idle(610 * MS), None);
        turns.ends(5);
        turns.answers(6, 620 * MS);
        assert_eq!(turns.limit(620 * MS), Some(4));
    }

    #[test]
    fn an_ordinary_service_keeps_its_connections() {
        let mut turns = Turns::default();
        ask(&mut turns, 1..=6, 0);
        for connection in 1..=5 {
            turns.answers(connection, 5 * MS);
            assert_eq!(turns.may_idle(5 * MS), FOREVER);
        }
        // The sixth takes its time; the others go on, and are kept.
        assert_eq!(turns.may_idle(200 * MS), FOREVER);
        turns.answers(6, 4_000 * MS);
        ask(&mut turns, [7], 5_000 * MS);
        turns.ends(6);
        turns.ends(5);
        assert_eq!(turns.may_idle(6_000 * MS), FOREVER, "it has served more at once than are open");
        assert!(!turns.idle_are_in_the_way(9_900 * MS));
        assert!(turns.idle_are_in_the_way(10_000 * MS), "others may use it too");
    }

    #[test]
    fn a_request_that_waits_for_news_is_seldom_a_sign() {
        let mut turns = Turns::default();
        ask(&mut turns, [1], 0);
        ask(&mut turns, [2], 10 * MS);
        turns.answers(2, 15 * MS);
        // 1 was made before 2, which is served. In five minutes it costs seven connections.
        let ended = |now: &u64| turns.may_idle(*now).is_none();
        let ended: Vec<_> = (1..=300).map(|second| second * 1_000 * MS + 20 * MS).filter(ended).collect();
        assert_eq!(
            ended.iter().map(|now| now / 1_000 / MS).collect::<Vec<_>>(),
            [2, 6, 14, 30, 62, 126, 254]
        );
        turns.answers(1, 310_000 * MS);
        assert_eq!(turns.at_once, 2);
        turns.ends(1);
        turns.ends(2);
        assert!(turns.is_blank(310_000 * MS));
    }

    #[test]
    fn one_that_was_overtaken_gets_its_turn() {
        let mut turns = Turns::default();
        ask(&mut turns, [1], 0);
        turns.dials(2, 0);
        ask(&mut turns, [3], MS);
        turns.connected(2);
        // The queue was full: 2 was let in before 3, for which the device is still without room.
        turns.answers(1, 300 * MS);
        assert_eq!(turns.may_idle(300 * MS), None);
        turns.ends(1);
        turns.answers(2, 600 * MS);
        assert!(!turns.idle_are_in_the_way(2_599 * MS));
        assert!(turns.idle_are_in_the_way(2_600 * MS));
    }

    #[test]
    fn one_that_is_still_being_made_is_not_overtaken() {
        let mut turns = Turns::default();
        turns.dials(1, 0);
        ask(&mut turns, [2], 0);
        turns.answers(2, 10 * MS);
        assert!(turns.idle_are_in_the_way(500 * MS), "1 may have found no place to wait in");
    }

    #[test]
    fn slow_answers_by_chance_one_after_the_other_do_not_stay_a_limit() {
        let mut turns = limited();
        let now = 10_000 * MS;
        ask(&mut turns, [4, 5], now);
        turns.answers(5, now + MS);
        assert_eq!(turns.limit(now + MS), None, "5 was served beside 4");
        assert_eq!(turns.may_idle(now + MS), FOREVER);
    }

    #[test]
    fn a_single_turn_proves_nothing() {
        let mut turns = Turns::default();
        ask(&mut turns, [1, 2], 0);
        turns.answers(1, 300 * MS);
        assert_eq!(turns.may_idle(300 * MS), None);
        turns.ends(1);
        turns.answers(2, 3_000 * MS);
        assert_eq!(turns.may_idle(3_000 * MS), FOREVER);
        // The next is answered without that anything was ended for it.
        ask(&mut turns, [3], 3_000 * MS);
        turns.answers(3, 3_010 * MS);
        assert_eq!((turns.turns, turns.at_once), (0, 2));
    }

    #[test]
    fn waiting_for_an_answer_begins_with_the_end_of_the_request() {
        let mut turns = Turns::default();
        ask(&mut turns, [1, 2], 0);
        turns.asked(2, 900 * MS);
        turns.answers(1, 1_000 * MS);
        assert_eq!(turns.may_idle(1_000 * MS), FOREVER);
    }

    #[test]
    fn a_limit_is_forgotten_when_it_is_not_confirmed() {
        let turns = limited();
        assert!(!turns.is_blank(600 * MS + BELIEVED - 1));
        assert!(turns.is_blank(900 * MS + BELIEVED));
    }

    #[test]
    fn what_is_over_leaves_nothing_behind() {
        let mut turns = Turns::default();
        ask(&mut turns, 0..100, 0);
        for connection in 0..50 {
            turns.answers(connection, MS);
        }
        for connection in (0..100).chain(0..100) {
            turns.ends(connection);
        }
        assert!(turns.is_blank(MS));
    }
}
