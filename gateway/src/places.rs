//! Who gets a place when there are not enough: which connection goes first, and how much one address may have. Pure,
//! but for the count of who has what.
//!
//! A *place* is a request under way. Connections without one are kept beyond the bound of places, in a spare room: what
//! a connection wants is known only from its head, and an Agent that comes back or a question about our health must
//! always get so far. Answers of the Gateway's own need no place.
//!
//! ```text
//!   accepted ──▶ spare room ──request──▶ place ──answer complete──▶ spare room      (keep-alive)
//!                 │ full: goes first       │ all taken: goes first
//!                 ▼                        ▼
//!                 no complete head,        of the address with most places
//!                 idle, unread answer;     the one that moves least
//!                 the oldest of each
//! ```

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use shared::threads::lock;

/// A request is not slow before it has lasted this long. Microseconds, like all below.
const SLOW_AFTER: u64 = 5_000_000;
/// After a look at all connections it takes this long for each of them until another is worth it. A look costs a tenth of
/// that.
const LOOK_AGAIN: u64 = 2;
/// An address may always have this many places, however few there are: a browser asks for as much at once.
const ADDRESS_LEAST: usize = 16;
/// Bounds of the spare room.
const SPARE: (usize, usize) = (8, 512);

/// How many connections and requests there may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Bounds {
    /// Requests under way.
    pub(crate) places: usize,
    /// Connections beyond that.
    pub(crate) spare: usize,
    /// Requests of one address.
    pub(crate) per_address: usize,
    /// Requests that one of several Agents may have.
    pub(crate) per_agent: usize,
}

impl Bounds {
    /// For `wanted` connections, of which the system has `available`, and `streams` for each Agent.
    pub(crate) fn new(wanted: usize, available: usize, streams: usize) -> Bounds {
        let spare = |most: usize| (most / 20).clamp(SPARE.0, SPARE.1);
        let places = wanted.min(available.saturating_sub(spare(available)).max(16));
        Bounds {
            places,
            spare: spare(places),
            per_address: (places.min(streams) / 4).max(ADDRESS_LEAST),
            per_agent: (places / 4 * 3).min(streams),
        }
    }

    /// Connections that there may be at all.
    pub(crate) fn connections(&self) -> usize {
        self.places + self.spare
    }
}

/// How a connection stands. The times order those of a kind: the smallest goes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// It has sent no request, or a part of one.
    Unfinished(u64),
    /// It is between requests.
    Idle(u64),
    /// It has not taken an answer of the Gateway's own.
    Unread(u64),
    /// It has a place.
    Busy(Busy),
}

/// A request under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Busy {
    /// The visitor's.
    pub(crate) network: IpAddr,
    /// When it began.
    pub(crate) since: u64,
    /// Bytes that have gone through, in both directions.
    pub(crate) moved: u64,
    /// It is an upgraded connection, which may be silent and of use.
    pub(crate) raw: bool,
}

impl Busy {
    /// Bytes a second; upgraded connections come after all others.
    fn speed(&self, now: u64) -> (bool, u64) {
        let age = now.saturating_sub(self.since).max(1);
        let speed = u128::from(self.moved) * 1_000_000 / u128::from(age);
        (self.raw, u64::try_from(speed).unwrap_or(u64::MAX))
    }
}

impl Standing {
    /// The order among those that have no place; `None`: it has one.
    fn light(&self) -> Option<(u8, u64)> {
        match *self {
            Standing::Unfinished(time) => Some((0, time)),
            Standing::Idle(time) => Some((1, time)),
            Standing::Unread(time) => Some((2, time)),
            Standing::Busy(_) => None,
        }
    }

    /// It is still the same, though more bytes may have gone through it.
    pub(crate) fn is_still(&self, now: &Standing) -> bool {
        match (self, now) {
            (Standing::Busy(then), Standing::Busy(now)) => then.since == now.since,
            (then, now) => then == now,
        }
    }
}

/// What kind of connection should go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Want {
    /// One that has no place, so that another can be accepted.
    Connection,
    /// One that has a place, so that another request gets it.
    Place,
}

/// Connections by their tokens, the one that goes first in front.
type Turn = VecDeque<(usize, Standing)>;

/// Those who go next, in order, from the last look at all of them.
#[derive(Default)]
pub(crate) struct Queue {
    light: Turn,
    busy: Turn,
    /// Before this no other look is worth it.
    next_look: u64,
}

impl Queue {
    /// Who goes next, by its token and how it stood. `look` gives all connections.
    pub(crate) fn next(
        &mut self,
        want: Want,
        now: u64,
        look: impl FnOnce() -> Vec<(usize, Standing)>,
    ) -> Option<(usize, Standing)> {
        let due = now >= self.next_look;
        let look_again = match (want, self.light.front()) {
            // There are as many as the spare room is large, so looking pays.
            (Want::Connection, None) => true,
            (Want::Connection, Some((_, Standing::Unfinished(_)))) => false,
            // Others may have come since that should go first.
            (Want::Connection, Some(_)) => due,
            (Want::Place, _) => due && self.busy.is_empty(),
        };
        if look_again {
            let all = look();
            self.next_look = now + all.len() as u64 * LOOK_AGAIN;
            (self.light, self.busy) = order(all, now);
        }
        match want {
            Want::Connection => self.light.pop_front(),
            Want::Place => self.busy.pop_front(),
        }
    }
}

/// The order in which they go: those without a place, and those with one.
fn order(all: Vec<(usize, Standing)>, now: u64) -> (Turn, Turn) {
    let mut light = Vec::new();
    let mut addresses: HashMap<IpAddr, Vec<(usize, Busy)>> = HashMap::new();
    for (token, standing) in all {
        match standing {
            Standing::Busy(busy) => addresses.entry(busy.network).or_default().push((token, busy)),
            _ => light.push((token, standing)),
        }
    }
    light.sort_by_key(|(_, standing)| standing.light());
    // Those that are not slow stay, and count.
    let mut most = BinaryHeap::new();
    for (network, theirs) in &mut addresses {
        let places = theirs.len();
        theirs.retain(|(_, busy)| now.saturating_sub(busy.since) >= SLOW_AFTER);
        theirs.sort_by_key(|(_, busy)| Reverse(busy.speed(now)));
        most.extend(theirs.last().map(|(_, next)| (places, Reverse(next.speed(now)), *network)));
    }
    let mut busy = VecDeque::new();
    while let Some((places, _, network)) = most.pop() {
        let Some(theirs) = addresses.get_mut(&network) else { continue };
        busy.extend(theirs.pop().map(|(token, busy)| (token, Standing::Busy(busy))));
        most.extend(theirs.last().map(|(_, next)| (places - 1, Reverse(next.speed(now)), network)));
    }
    (light.into(), busy)
}

/// Counts who has how many places.
#[derive(Default)]
pub(crate) struct Seats {
    taken: AtomicUsize,
    of: Mutex<HashMap<IpAddr, usize>>,
}

/// A place, given back when dropped.
pub(crate) struct Seat {
    seats: Arc<Seats>,
    counted: Option<IpAddr>,
    pub(crate) network: IpAddr,
}

impl Seats {
    /// How many are taken.
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }

    /// Takes one for this network; `None`: it has `most` already. Without a bound it is not counted by network.
    pub(crate) fn take(self: &Arc<Seats>, network: IpAddr, most: Option<usize>) -> Option<Seat> {
        if let Some(most) = most {
            let mut of = lock(&self.of);
            let count = of.entry(network).or_insert(0);
            if *count >= most {
                return None;
            }
            *count += 1;
        }
        self.taken.fetch_add(1, Relaxed);
        Some(Seat { seats: Arc::clone(self), counted: most.map(|_| network), network })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.taken.fetch_sub(1, Relaxed);
        let Some(network) = self.counted else { return };
        let mut of = lock(&self.seats.of);
        if let Some(count) = of.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                of.remove(&network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 100_000_000;

    fn network(n: u8) -> IpAddr {
        IpAddr::from([203, 0, 113, n])
    }

    /// A request of address `n` that began `age` seconds ago and has moved so much.
    fn busy(n: u8, age: u64, moved: u64) -> Standing {
        Standing::Busy(Busy { network: network(n), since: NOW - age * 1_000_000, moved, raw: false })
    }

    fn raw(n: u8, age: u64) -> Standing {
        Standing::Busy(Busy { network: network(n), since: NOW - age * 1_000_000, moved: 0, raw: true })
    }

    /// The places in the list of those who go, in order.
    fn going(want: Want, all: &[Standing]) -> Vec<usize> {
        let mut queue = Queue::default();
        let mut looks = 0;
        let mut look = || {
            looks += 1;
            if looks == 1 { all.iter().copied().enumerate().collect() } else { Vec::new() }
        };
        std::iter::from_fn(|| queue.next(want, NOW, &mut look)).map(|(token, _)| token).collect()
    }

    #[test]
    fn unfinished_heads_go_first_then_idle_ones_then_unread_answers_the_oldest_of_each() {
        let all = [
            Standing::Idle(3),
            busy(1, 60, 0),
            Standing::Unfinished(9),
            Standing::Unread(1),
            Standing::Unfinished(7),
            Standing::Idle(2),
        ];
        assert_eq!(going(Want::Connection, &all), [4, 2, 5, 0, 3]);
    }

    #[test]
    fn the_slowest_of_the_address_with_most_places_goes_and_then_of_the_one_that_has_most_now() {
        let all = [
            busy(1, 10, 500),
            busy(1, 10, 100),
            busy(1, 20, 900),
            busy(2, 10, 0),
            busy(2, 10, 7_000),
            busy(3, 90, 0),
        ];
        // Address 1 has three: its 10 bytes a second go. Then 1 and 2 have two each, and 2 has the slower one. Then 1
        // has most; then all have one, and the slowest of them goes.
        assert_eq!(going(Want::Place, &all), [1, 3, 2, 5, 0, 4]);
        assert_eq!(going(Want::Connection, &all), [] as [usize; 0]);
    }

    #[test]
    fn young_requests_stay_and_upgraded_connections_go_last() {
        assert_eq!(going(Want::Place, &[busy(1, 4, 0), busy(1, 0, 0)]), [] as [usize; 0]);
        assert_eq!(going(Want::Place, &[raw(1, 60), busy(1, 60, 1_000_000), busy(1, 4, 0)]), [1, 0]);
    }

    #[test]
    fn who_finds_no_place_does_not_make_us_look_at_all_again_and_again() {
        let mut queue = Queue::default();
        let mut looks = 0;
        let mut ask = |now| {
            let look = || {
                looks += 1;
                vec![(0, busy(1, 1, 0)); 1000]
            };
            assert!(queue.next(Want::Place, now, look).is_none());
            looks
        };
        assert_eq!((ask(NOW), ask(NOW + 1), ask(NOW + 1_999)), (1, 1, 1));
        assert_eq!(ask(NOW + 2_000), 2);
    }

    #[test]
    fn idle_connections_stay_while_there_are_silent_ones_that_came_later() {
        let mut queue = Queue::default();
        let first = || vec![(0, Standing::Unfinished(1)), (1, Standing::Idle(1))];
        let later = || vec![(1, Standing::Idle(1)), (2, Standing::Unfinished(2))];
        let token = |found: Option<(usize, Standing)>| found.map(|(token, _)| token);
        assert_eq!(token(queue.next(Want::Connection, NOW, first)), Some(0));
        assert_eq!(token(queue.next(Want::Connection, NOW + 1_000, later)), Some(2));
    }

    #[test]
    fn a_connection_that_has_moved_on_is_not_the_one_that_was_to_go() {
        assert!(Standing::Idle(3).is_still(&Standing::Idle(3)));
        assert!(!Standing::Idle(3).is_still(&Standing::Idle(4)));
        assert!(!Standing::Unfinished(3).is_still(&Standing::Idle(3)));
        assert!(busy(1, 10, 0).is_still(&busy(1, 10, 700)));
        assert!(!busy(1, 10, 0).is_still(&busy(1, 9, 0)));
    }

    #[test]
    fn an_address_has_no_more_than_its_share_and_gives_it_back() {
        let seats = Arc::new(Seats::default());
        let all: Vec<_> = (0..3).map(|_| seats.take(network(1), Some(3)).expect("a place")).collect();
        assert!(seats.take(network(1), Some(3)).is_none());
        assert!(seats.take(network(2), Some(3)).is_some(), "others have theirs");
        assert!(seats.take(network(1), None).is_some(), "no bound");
        assert_eq!(seats.taken(), 3);
        drop(all);
        assert_eq!((seats.taken(), lock(&seats.of).len()), (0, 0));
        assert!(seats.take(network(1), Some(3)).is_some());
    }

    #[test]
    fn bounds_leave_room_for_others_and_fit_what_the_system_has() {
        let bounds = |wanted, available, streams| {
            let b = Bounds::new(wanted, available, streams);
            (b.places, b.spare, b.per_address, b.per_agent)
        };
        assert_eq!(bounds(10_000, 1_000_000, 10_000), (10_000, 500, 2_500, 7_500));
        assert_eq!(bounds(10_000, 1_000_000, 400), (10_000, 500, 100, 400));
        assert_eq!(bounds(64, 1_000_000, 10_000), (64, 8, 16, 48));
        // 1024 descriptors without those kept for other things.
        assert_eq!(bounds(10_000, 960, 10_000), (912, 45, 228, 684));
        assert_eq!(bounds(10_000, 26, 10_000).0 + 8, 26);
        assert_eq!(bounds(10_000, 16, 10_000).0, 16);
    }
}
