//! Are the Links of a Session alive? Decides when to send a Beat, which Links get nothing new, and when to give one up.
//!
//! ```text
//!               a Beat goes out                 the answer is overdue; the socket takes nothing;
//!                                               another Link of the Session is doubted or lost
//!     sound ──────────────────────▶ sound, ─────────────────────────────▶ in doubt ──── nothing ───▶ dead
//!       ▲                           asked                                    │          arrives
//!       ├──── anything arrives ───────┘                                      │
//!       └──── its Beat is answered ──────────────────────────────────────────┘
//! ```
//! What kills one connection often kills its neighbours: a router forgets its table, a firewall drops or resets what it
//! saw begin. So one suspicious Link makes all of the Session be asked at once, and nothing new goes over a Link that
//! has not answered since. Doubt costs little when it was wrong. A Link is given up sooner when another one shows that
//! the line is well.
//!
//! Pure: the daemon's timer asks, once a second and more often in between while answers are outstanding. Every time is
//! microseconds of one monotonic clock.

/// Silence, while Streams wait for an answer, after which a Beat is sent.
const WAITING_SILENCE: u64 = 3_000_000;
/// While data flows a Beat is sent this often, so that flow control knows the round trip.
const SAMPLE: u64 = 1_000_000;
/// An answer is overdue after four round trips, but not before this …
const OVERDUE_LEAST: u64 = 2_000_000;
/// … and at the latest after this.
const OVERDUE_MOST: u64 = 10_000_000;
/// A socket that takes nothing for this long, although there is something to send, is suspicious.
const STALLED: u64 = 3_000_000;
/// How long nothing may arrive on a Link in doubt, beyond what is overdue, while another Link answers.
const GRACE: u64 = 1_000_000;
/// How long nothing may arrive on it while no other Link answers either: then it may be the line that rests, and giving
/// up serves nobody.
const ALONE: u64 = 10_000_000;
/// The Session as a whole is asked this many times in a heartbeat interval.
const PULSES: u64 = 6;

/// What the timer should do with a Link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing.
    Fine,
    /// Send a Beat.
    Beat,
    /// Send a Beat, and give the Link nothing new until that is answered.
    Doubt,
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
    /// When a full socket last took more, so that the other end must have taken something.
    pub drained: u64,
    /// Somebody waits for the socket to take what is to be sent.
    pub blocked: bool,
    /// When a Beat was last answered, or else when the Link was made.
    pub answered: u64,
    /// Since when the Link is in doubt.
    pub doubted: Option<u64>,
    /// Round trip; 0 if none was measured.
    pub rtt: u64,
    /// Streams wait for an answer from the other side.
    pub waiting: bool,
    /// Data arrived since the timer last looked.
    pub busy: bool,
}

impl Signs {
    /// When the other end last showed that it is there.
    fn last_sign(&self) -> u64 {
        self.last_in.max(self.drained)
    }

    /// How long an answer may take.
    fn patience(&self) -> u64 {
        (4 * self.rtt).clamp(OVERDUE_LEAST, OVERDUE_MOST)
    }
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

    /// Looks at one Link by itself. `company`: another Link has answered since this one is in doubt.
    fn look(&mut self, signs: &Signs, company: bool) -> Verdict {
        let now = signs.now;
        let silence = now.saturating_sub(signs.last_in);
        if silence >= 2 * self.interval {
            return Verdict::Dead;
        }
        if let Some(since) = signs.doubted {
            self.probe = None;
            let allowed = if company { signs.patience() + GRACE } else { ALONE };
            let dead = now.saturating_sub(since.max(signs.last_sign())) >= allowed;
            return if dead { Verdict::Dead } else { Verdict::Fine };
        }
        if self.probe.is_some_and(|sent| signs.last_sign() >= sent) {
            self.probe = None;
        }
        let overdue = self.probe.is_some_and(|sent| now.saturating_sub(sent) >= signs.patience());
        let stalled = signs.blocked && now.saturating_sub(signs.last_out) >= STALLED;
        if overdue || stalled {
            return Verdict::Doubt;
        }
        let idle = now.saturating_sub(signs.last_out) >= self.interval;
        let waits = signs.waiting && silence >= WAITING_SILENCE;
        let sample = signs.busy && now.saturating_sub(self.beat) >= SAMPLE;
        if self.probe.is_none() && (idle || waits || sample) {
            return Verdict::Beat;
        }
        Verdict::Fine
    }

    /// A Beat goes out.
    fn beats(&mut self, now: u64) {
        self.beat = now;
        self.probe = Some(now);
    }
}

/// The memory of one Session's timer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch {
    /// How often the Session is asked as a whole, if it is.
    pulse: Option<u64>,
    /// When it was asked so.
    pulsed: u64,
}

impl Watch {
    /// For the side that can make new Links: besides what each Link is asked for its own sake, the one that has been
    /// silent longest is asked six times in a heartbeat interval (microseconds), so that a loss of all of them is
    /// noticed soon although nobody waits for anything.
    pub fn with_pulse(interval: u64) -> Watch {
        Watch { pulse: Some(interval / PULSES), pulsed: 0 }
    }

    /// Looks at all Links of a Session; the caller does what is answered, in the same order.
    ///
    /// ```
    /// use shared::alive::{Alive, Signs, Verdict, Watch};
    ///
    /// const S: u64 = 1_000_000;
    /// let quiet = Signs { now: 4 * S, last_in: 0, last_out: 4 * S, drained: 0, blocked: false, answered: 0,
    ///                     doubted: None, rtt: 20_000, waiting: false, busy: false };
    /// let mut watch = Watch::default();
    /// let mut links = [Alive::new(30 * S); 2];
    /// let mut look = |watch: &mut Watch, signs: [Signs; 2]| {
    ///     watch.look(links.iter_mut().zip(signs).map(|(alive, signs)| (alive, signs)))
    /// };
    /// // A visitor waits on the first Link, and nothing comes: a Beat.
    /// let waiting = Signs { waiting: true, ..quiet };
    /// assert_eq!(look(&mut watch, [waiting, quiet]), [Verdict::Beat, Verdict::Fine]);
    /// // It is not answered: both are asked, and get nothing new before they answer.
    /// let later = |signs| Signs { now: 6 * S, ..signs };
    /// assert_eq!(look(&mut watch, [later(waiting), later(quiet)]), [Verdict::Doubt, Verdict::Doubt]);
    /// // The second one does, the first one does not.
    /// let (first, second) = (Some(6 * S), None);
    /// let first = Signs { now: 9 * S, doubted: first, ..waiting };
    /// let second = Signs { now: 9 * S, doubted: second, answered: 7 * S, last_in: 7 * S, ..quiet };
    /// assert_eq!(look(&mut watch, [first, second]), [Verdict::Dead, Verdict::Fine]);
    /// ```
    pub fn look<'a>(&mut self, links: impl IntoIterator<Item = (&'a mut Alive, Signs)>) -> Vec<Verdict> {
        let mut links: Vec<_> = links.into_iter().collect();
        // Who answers is never in doubt himself, so nobody is his own company.
        let newest_answer =
            links.iter().filter(|(_, s)| s.doubted.is_none()).map(|(_, s)| s.answered).max().unwrap_or(0);
        let mut verdicts: Vec<_> = links
            .iter_mut()
            .map(|(alive, signs)| alive.look(signs, signs.doubted.is_some_and(|since| newest_answer > since)))
            .collect();
        // One that was in doubt and is dead now is no news: all were asked when the doubt began.
        let news = |(verdict, (_, signs)): (&Verdict, &(&mut Alive, Signs))| {
            matches!(verdict, Verdict::Doubt | Verdict::Dead) && signs.doubted.is_none()
        };
        if verdicts.iter().zip(&links).any(news) {
            for (verdict, (_, signs)) in verdicts.iter_mut().zip(&links) {
                if matches!(verdict, Verdict::Fine | Verdict::Beat) && signs.doubted.is_none() {
                    *verdict = Verdict::Doubt;
                }
            }
        }
        self.add_pulse(&mut verdicts, &links);
        for (verdict, (alive, signs)) in verdicts.iter().zip(&mut links) {
            match verdict {
                Verdict::Beat | Verdict::Doubt => alive.beats(signs.now),
                Verdict::Fine | Verdict::Dead => {}
            }
        }
        verdicts
    }

    /// Has the Link asked that has been silent longest, of those that are not being asked anyway.
    fn add_pulse(&mut self, verdicts: &mut [Verdict], links: &[(&mut Alive, Signs)]) {
        let Some(pulse) = self.pulse else { return };
        let silent = links
            .iter()
            .zip(verdicts)
            .filter(|((alive, signs), verdict)| {
                **verdict == Verdict::Fine && alive.probe.is_none() && signs.doubted.is_none()
            })
            .min_by_key(|((_, signs), _)| signs.last_in);
        let Some(((_, signs), verdict)) = silent else { return };
        if signs.now.saturating_sub(signs.last_in.max(self.pulsed)) >= pulse {
            self.pulsed = signs.now;
            *verdict = Verdict::Beat;
        }
    }

    /// Whether the timer should look again sooner than usual, because an answer is outstanding.
    pub fn is_pressing<'a>(links: impl IntoIterator<Item = (&'a Alive, bool)>) -> bool {
        links.into_iter().any(|(alive, doubted)| alive.probe.is_some() || doubted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;
    const INTERVAL: u64 = 30 * S;
    /// How often the timer looks here.
    const LOOK: u64 = S / 5;

    /// Links between two ends, one of which is looked at; `silent` says from when on nothing gets through.
    struct Line {
        now: u64,
        watch: Watch,
        links: Vec<(Alive, Signs)>,
        silent: Vec<Option<u64>>,
        rtt: u64,
        /// Answers to Beats under way: on which Link, and when they arrive.
        answers: Vec<(usize, u64)>,
        beats: usize,
    }

    impl Line {
        fn new(links: usize, watch: Watch, rtt: u64) -> Line {
            let signs = Signs {
                now: 0,
                last_in: 0,
                last_out: 0,
                drained: 0,
                blocked: false,
                answered: 0,
                doubted: None,
                rtt,
                waiting: false,
                busy: false,
            };
            let links = vec![(Alive::new(INTERVAL), signs); links];
            let silent = vec![None; links.len()];
            Line { now: 0, watch, links, silent, rtt, answers: Vec::new(), beats: 0 }
        }

        /// A further Link, which has just been greeted.
        fn join(&mut self) {
            let signs =
                Signs { last_in: self.now, last_out: self.now, answered: self.now, ..self.links[0].1 };
            self.links.push((Alive::new(INTERVAL), Signs { doubted: None, waiting: false, ..signs }));
            self.silent.push(None);
        }

        fn silence(&mut self, links: impl IntoIterator<Item = usize>) {
            for link in links {
                self.silent[link] = Some(self.now);
            }
        }

        /// Lets time pass until a Link gets this verdict; gives when and which.
        fn until(&mut self, wanted: Verdict, patience: u64) -> Option<(u64, Vec<usize>)> {
            let end = self.now + patience;
            while self.now < end {
                let found: Vec<_> =
                    self.step().into_iter().enumerate().filter(|(_, v)| *v == wanted).collect();
                if !found.is_empty() {
                    return Some((self.now, found.into_iter().map(|(at, _)| at).collect()));
                }
            }
            None
        }

        fn step(&mut self) -> Vec<Verdict> {
            self.now += LOOK;
            let now = self.now;
            self.answers.retain(|&(link, at)| {
                let signs = &mut self.links[link].1;
                if at <= now {
                    (signs.last_in, signs.answered, signs.doubted) = (at, at, None);
                }
                at > now
            });
            for (_, signs) in &mut self.links {
                signs.now = now;
            }
            let verdicts = self.watch.look(self.links.iter_mut().map(|(alive, signs)| (alive, *signs)));
            for (at, verdict) in verdicts.iter().enumerate() {
                if matches!(verdict, Verdict::Beat | Verdict::Doubt) {
                    self.beats += 1;
                    let signs = &mut self.links[at].1;
                    signs.last_out = now;
                    if *verdict == Verdict::Doubt {
                        signs.doubted = Some(now);
                    }
                    if self.silent[at].is_none_or(|since| since > now) {
                        self.answers.push((at, now + self.rtt));
                    }
                }
            }
            verdicts
        }
    }

    #[test]
    fn an_idle_link_beats_once_per_interval() {
        let mut line = Line::new(1, Watch::default(), S / 50);
        let (at, _) = line.until(Verdict::Beat, 100 * S).expect("a beat");
        assert_eq!(at, 30 * S);
        let (at, _) = line.until(Verdict::Beat, 100 * S).expect("another");
        assert_eq!(at, 60 * S);
    }

    #[test]
    fn two_silent_intervals_are_death_even_if_other_things_keep_it_in_doubt() {
        let mut alive = Alive::new(2 * S);
        let quiet = Line::new(1, Watch::default(), 0).links[0].1;
        let signs = Signs { now: 4 * S, drained: 4 * S, doubted: Some(3 * S), ..quiet };
        assert_eq!(alive.look(&signs, false), Verdict::Dead);
    }

    #[test]
    fn a_waiting_stream_finds_a_half_open_link_in_fifteen_seconds_if_no_other_answers() {
        let mut line = Line::new(1, Watch::default(), S / 50);
        line.links[0].1.waiting = true;
        line.silence([0]);
        assert_eq!(line.until(Verdict::Beat, 9 * S), Some((3 * S, vec![0])));
        assert_eq!(line.until(Verdict::Doubt, 9 * S), Some((5 * S, vec![0])));
        assert_eq!(line.until(Verdict::Dead, 20 * S), Some((15 * S, vec![0])));
    }

    #[test]
    fn an_answer_ends_the_doubt() {
        let mut line = Line::new(1, Watch::default(), S / 50);
        line.links[0].1.waiting = true;
        assert_eq!(line.until(Verdict::Doubt, 60 * S), None);
        assert_eq!(line.until(Verdict::Dead, 60 * S), None);
    }

    #[test]
    fn one_suspicious_link_has_all_of_them_asked_at_once() {
        let mut line = Line::new(4, Watch::default(), S / 50);
        line.links[2].1.waiting = true;
        line.silence(0..4);
        assert_eq!(line.until(Verdict::Beat, 9 * S), Some((3 * S, vec![2])));
        assert_eq!(line.until(Verdict::Doubt, 9 * S), Some((5 * S, vec![0, 1, 2, 3])));
        // The line as a whole may rest: nobody is given up for a while, and then all at once.
        assert_eq!(line.until(Verdict::Dead, 20 * S), Some((15 * S, vec![0, 1, 2, 3])));
    }

    #[test]
    fn a_new_link_shows_that_the_line_is_well_and_the_silent_ones_are_given_up() {
        let mut line = Line::new(4, Watch::with_pulse(INTERVAL), S / 50);
        line.silence(0..4);
        let (doubted, all) = line.until(Verdict::Doubt, 20 * S).expect("doubt");
        assert_eq!(all, [0, 1, 2, 3]);
        line.step();
        line.join();
        let (dead, all) = line.until(Verdict::Dead, 20 * S).expect("death");
        assert_eq!(all, [0, 1, 2, 3]);
        assert!(dead <= doubted + 4 * S, "{doubted} {dead}");
        assert!(dead <= 12 * S, "{dead}");
        assert_eq!(line.links[4].1.doubted, None, "the death of what was doubted is no news");
    }

    #[test]
    fn of_several_links_only_the_silent_one_is_given_up() {
        let mut line = Line::new(4, Watch::default(), S / 50);
        line.links[1].1.waiting = true;
        line.silence([1]);
        let (doubted, all) = line.until(Verdict::Doubt, 20 * S).expect("doubt");
        assert_eq!(all, [0, 1, 2, 3]);
        line.step();
        let sound: Vec<_> = line.links.iter().map(|(_, signs)| signs.doubted.is_none()).collect();
        assert_eq!(sound, [true, false, true, true], "who has answered may be used again");
        assert_eq!(line.until(Verdict::Dead, 20 * S), Some((doubted + 3 * S, vec![1])));
    }

    #[test]
    fn with_a_pulse_the_loss_of_all_idle_links_is_noticed_in_eight_seconds_whenever_it_comes() {
        for start in 0..100 {
            let mut line = Line::new(4, Watch::with_pulse(INTERVAL), S / 50);
            for _ in 0..300 + start {
                let verdicts = line.step();
                assert!(verdicts.iter().all(|v| matches!(v, Verdict::Fine | Verdict::Beat)), "{verdicts:?}");
            }
            let began = line.now;
            line.silence(0..4);
            let (doubted, _) = line.until(Verdict::Doubt, 60 * S).expect("doubt");
            assert!(doubted - began <= 8 * S, "{start}: {}", doubted - began);
        }
    }

    #[test]
    fn the_pulse_costs_six_beats_an_interval_with_one_link_or_four() {
        for links in [1, 4] {
            let mut line = Line::new(links, Watch::with_pulse(INTERVAL), S / 50);
            assert_eq!(line.until(Verdict::Doubt, 10 * INTERVAL), None);
            assert!((55..=60).contains(&line.beats), "{links} links: {}", line.beats);
        }
    }

    #[test]
    fn a_long_line_has_more_patience() {
        let mut line = Line::new(2, Watch::with_pulse(INTERVAL), S);
        line.links[0].1.waiting = true;
        assert_eq!(line.until(Verdict::Doubt, 300 * S), None);
        let mut line = Line::new(2, Watch::with_pulse(INTERVAL), 8 * S);
        line.links[0].1.waiting = true;
        assert_eq!(line.until(Verdict::Dead, 300 * S), None, "doubted, but never given up");
    }

    #[test]
    fn a_socket_that_takes_nothing_is_suspicious_and_one_that_takes_something_lives() {
        let mut line = Line::new(2, Watch::default(), S / 50);
        line.links[0].1.blocked = true;
        line.silence([0]);
        assert_eq!(line.until(Verdict::Doubt, 20 * S), Some((3 * S, vec![0, 1])));
        for _ in 0..100 {
            // A slow line: the Beat waits behind data, which goes out bit by bit.
            line.links[0].1.drained = line.now;
            assert!(!line.step().contains(&Verdict::Dead));
        }
        let stopped = line.now;
        let (dead, all) = line.until(Verdict::Dead, 20 * S).expect("death");
        assert_eq!(all, [0]);
        assert!(dead - stopped <= 11 * S, "{}", dead - stopped);
    }

    #[test]
    fn flowing_data_is_sampled_every_second() {
        let mut line = Line::new(1, Watch::default(), S / 50);
        line.links[0].1.busy = true;
        assert_eq!(line.until(Verdict::Beat, 9 * S), Some((S, vec![0])));
        assert_eq!(line.until(Verdict::Beat, 9 * S), Some((2 * S, vec![0])));
        line.links[0].1.busy = false;
        assert_eq!(line.until(Verdict::Beat, 9 * S), None);
    }

    #[test]
    fn the_timer_looks_sooner_while_an_answer_is_outstanding() {
        let mut alive = Alive::new(INTERVAL);
        assert!(!Watch::is_pressing([(&alive, false)]));
        assert!(Watch::is_pressing([(&alive, true)]));
        alive.beats(1);
        assert!(Watch::is_pressing([(&alive, false)]));
    }
}
