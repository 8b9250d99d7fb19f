//! Flow control: who may send how much on a Stream, and how a window grows to fill a long line.
//!
//! Pure: time comes in as microseconds of a monotonic clock. The receiver hands out Credit for bytes that its
//! destination *accepted*, never for bytes that merely arrived, so what can pile up for one Stream is at most its
//! window, and what piles up in the whole process is bounded by the [`Budget`].
//!
//! ```text
//!   sender                           receiver
//!   SendCredit ── Data (spend) ────▶ RecvWindow.arrived     (more than granted: protocol error)
//!        ▲                               │ destination accepts bytes
//!        └────────── Credit (grant) ◀── RecvWindow.consumed (half a window used up)
//! ```

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Credit of a new Stream in each direction, bytes.
pub const INITIAL: u32 = 256 * 1024;
/// Credit of a new Stream while more than half of the [`Budget`] is used, bytes.
pub const INITIAL_TIGHT: u32 = 64 * 1024;
/// Most that a Stream may start with, when its Link's last window proved good, bytes.
pub const INITIAL_WARM: u32 = 1024 * 1024;
/// Largest window, bytes: 1 Gbit/s at 130 ms.
pub const MAX_WINDOW: u32 = 16 * 1024 * 1024;
/// Round trips shorter than this count as this long, microseconds: on a local line the window should cover the
/// time a busy thread needs to come round, not the microseconds of the wire.
const MIN_RTT: u64 = 1_000;

/// What this side may still send on a Stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SendCredit(u64);

impl SendCredit {
    /// Starts with what the peer granted.
    pub fn new(bytes: u32) -> SendCredit {
        SendCredit(bytes.into())
    }

    /// Bytes that may be sent now.
    pub fn left(&self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// Takes `bytes` away; the caller asked [`left`](Self::left) before.
    ///
    /// # Panics
    /// When more is spent than was granted: a defect of ours, not of the peer.
    pub fn spend(&mut self, bytes: usize) {
        self.0 = self.0.checked_sub(bytes as u64).expect("the caller sends no more than left()");
    }

    /// The peer granted more. Saturates: a peer that grants without end gains nothing.
    pub fn grant(&mut self, bytes: u32) {
        self.0 = self.0.saturating_add(bytes.into());
    }
}

/// The peer sent more than it was allowed to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Overrun {
    /// Bytes that arrived.
    pub sent: usize,
    /// Bytes it could have sent.
    pub allowed: u64,
}

/// What the peer may still send on a Stream, and when to grant more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecvWindow {
    window: u32,
    /// Granted and not yet arrived.
    outstanding: u64,
    /// Accepted by the destination since the last grant.
    consumed: u32,
    last_grant: Option<u64>,
}

impl RecvWindow {
    /// A window whose first `bytes` the peer already knows of.
    pub fn new(bytes: u32) -> RecvWindow {
        RecvWindow { window: bytes, outstanding: bytes.into(), consumed: 0, last_grant: None }
    }

    /// Bytes that may be on their way or unconsumed at the same time.
    pub fn size(&self) -> u32 {
        self.window
    }

    /// `bytes` of Data arrived.
    pub fn arrived(&mut self, bytes: usize) -> Result<(), Overrun> {
        match self.outstanding.checked_sub(bytes as u64) {
            Some(rest) => {
                self.outstanding = rest;
                Ok(())
            }
            None => Err(Overrun { sent: bytes, allowed: self.outstanding }),
        }
    }

    /// The destination accepted `bytes`. Returns how much Credit to send now, if any: when half of the window has
    /// been used up. Two grants less than one and a half round trips apart mean that the window, not the
    /// destination, is what limits the Stream, so it doubles if `may_grow`.
    pub fn consumed(&mut self, bytes: usize, now: u64, rtt: u64, may_grow: bool) -> Option<u32> {
        self.consumed += u32::try_from(bytes).expect("no more is consumed than one window");
        if self.consumed < self.window / 2 {
            return None;
        }
        let mut grant = self.consumed;
        let hurried = self.last_grant.is_some_and(|last| now.saturating_sub(last) < rtt.max(MIN_RTT) * 3 / 2);
        if hurried && may_grow && self.window < MAX_WINDOW {
            let larger = (self.window * 2).min(MAX_WINDOW);
            grant += larger - self.window;
            self.window = larger;
        }
        self.consumed = 0;
        self.last_grant = Some(now);
        self.outstanding += u64::from(grant);
        Some(grant)
    }
}

/// How full a [`Budget`] is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// Up to half.
    Easy,
    /// Above half: new Streams start small.
    Tight,
    /// Above three quarters: windows stop growing.
    Stop,
    /// Nothing left: new Streams are refused, and whoever holds most above his window must go, or has stalled longest.
    Full,
}

/// Bytes held for all Streams of a process: arrived, and not yet accepted by their destination.
///
/// It counts what is really held, not what was granted: thousands of silent WebSockets hold nothing, and so cost
/// nothing, while a thousand stalled downloads cost at most the limit (see `docs/architecture.md`).
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    held: AtomicU64,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Budget {
        Budget { limit, held: AtomicU64::new(0) }
    }

    /// Bytes held now.
    pub fn held(&self) -> u64 {
        self.held.load(Relaxed)
    }

    /// The limit, bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Adds `bytes`; tells whether the limit is passed now.
    pub fn hold(&self, bytes: usize) -> Level {
        let held = self.held.fetch_add(bytes as u64, Relaxed) + bytes as u64;
        self.level_of(held)
    }

    /// Gives `bytes` back.
    pub fn release(&self, bytes: usize) {
        self.held.fetch_sub(bytes as u64, Relaxed);
    }

    /// How full it is.
    pub fn level(&self) -> Level {
        self.level_of(self.held())
    }

    fn level_of(&self, held: u64) -> Level {
        match held {
            h if h >= self.limit => Level::Full,
            h if h > self.limit / 4 * 3 => Level::Stop,
            h if h > self.limit / 2 => Level::Tight,
            _ => Level::Easy,
        }
    }

    /// The window of a new Stream, `last_good` being the largest window that a Stream of the same Link grew to.
    pub fn initial(&self, last_good: u32) -> u32 {
        match self.level() {
            Level::Easy => last_good.clamp(INITIAL, INITIAL_WARM),
            _ => INITIAL_TIGHT,
        }
    }
}

/// Heads that may wait beside the bytes of a window: an answer's, and the interim ones before it.
const BESIDE_WINDOW: usize = 128 * 1024;

/// What an outer socket holds, for the choice of who must go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holding {
    /// Bytes that wait.
    pub bytes: usize,
    /// Of these, more than its Stream may have waiting; all, if it has none.
    pub above: usize,
    /// Since when the socket has taken none, microseconds.
    pub since: u64,
}

/// What one outer socket has of the [`Budget`]: bytes that wait for it, and bytes of its own that wait for more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    bytes: usize,
    /// When the socket last took a byte, or bytes began to wait.
    since: u64,
}

impl Held {
    /// Nothing waits.
    pub fn new(now: u64) -> Held {
        Held { bytes: 0, since: now }
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What is held, by a socket whose Stream has this window, or that has none: whom to cut off when the budget is used
    /// up.
    pub fn holding(&self, window: Option<usize>) -> Holding {
        // A head comes on top of a window, and framing: 8 bytes for a whole Frame, more for small ones.
        let allowed = window.map_or(0, |window| window + window / 8 + BESIDE_WINDOW);
        Holding { bytes: self.bytes, above: self.bytes.saturating_sub(allowed), since: self.since }
    }

    /// `bytes` wait now; tells the budget, and whether its limit is passed by that. `now` is asked when it matters.
    pub fn set(&mut self, bytes: usize, budget: &Budget, now: impl FnOnce() -> u64) -> bool {
        let mut full = false;
        if bytes == self.bytes {
            return full;
        }
        if bytes > self.bytes {
            full = budget.hold(bytes - self.bytes) == Level::Full;
        } else {
            budget.release(self.bytes - bytes);
        }
        if bytes < self.bytes || self.bytes == 0 {
            self.since = now();
        }
        self.bytes = bytes;
        full
    }

    /// The socket is closed: nothing waits any more.
    pub fn clear(&mut self, budget: &Budget) {
        budget.release(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn half_a_window_brings_a_grant_of_what_was_consumed() {
        let mut window = RecvWindow::new(1000);
        window.arrived(800).unwrap();
        assert_eq!(window.consumed(499, 0, 0, true), None);
        assert_eq!(window.consumed(1, 0, 0, true), Some(500));
    }

    #[test]
    fn hurried_grants_double_the_window_up_to_its_bound() {
        let mut window = RecvWindow::new(INITIAL);
        let mut now = 0;
        for _ in 0..20 {
            let half = (window.size() / 2) as usize;
            window.arrived(half).unwrap();
            assert!(window.consumed(half, now, 100_000, true).is_some());
            now += 149_999;
        }
        assert_eq!(window.size(), MAX_WINDOW);
    }

    #[test]
    fn slow_grants_and_a_tight_budget_leave_the_window_alone() {
        for (pause, may_grow) in [(150_000, true), (1, false)] {
            let mut window = RecvWindow::new(INITIAL);
            for i in 0..10 {
                window.arrived(INITIAL as usize / 2).unwrap();
                window.consumed(INITIAL as usize / 2, i * pause, 100_000, may_grow);
            }
            assert_eq!(window.size(), INITIAL);
        }
    }

    #[test]
    fn more_than_granted_is_an_overrun() {
        let mut window = RecvWindow::new(100);
        assert_eq!(window.arrived(100), Ok(()));
        assert_eq!(window.arrived(1), Err(Overrun { sent: 1, allowed: 0 }));
    }

    #[test]
    fn new_streams_start_small_when_the_budget_is_tight() {
        let budget = Budget::new(1000);
        assert_eq!(budget.initial(0), INITIAL);
        assert_eq!(budget.initial(MAX_WINDOW), INITIAL_WARM);
        assert_eq!(budget.hold(501), Level::Tight);
        assert_eq!(budget.initial(MAX_WINDOW), INITIAL_TIGHT);
        assert_eq!(budget.hold(500), Level::Full);
        budget.release(1001);
        assert_eq!(budget.level(), Level::Easy);
    }

    #[test]
    fn what_waits_is_counted_once_and_stalls_from_when_nothing_was_taken() {
        let budget = Budget::new(1000);
        let mut held = Held::new(1);
        assert!(!held.set(600, &budget, || 2));
        let stalled = |held: &Held| (held.bytes(), held.holding(None).since);
        assert_eq!(stalled(&held), (600, 2));
        assert!(held.set(1000, &budget, || unreachable!("more came, nothing was taken")));
        assert_eq!(stalled(&held), (1000, 2));
        assert!(!held.set(400, &budget, || 3));
        assert_eq!((stalled(&held), budget.held()), ((400, 3), 400));
        assert_eq!((held.holding(None).above, held.holding(Some(100)).above), (400, 0));
        held.clear(&budget);
        held.clear(&budget);
        assert_eq!((held.bytes(), budget.held()), (0, 0));
    }

    proptest! {
        /// Sender and receiver joined: whatever the pieces, no credit is lost, none is made up, and what is
        /// outstanding never exceeds the window.
        #[test]
        fn no_credit_is_lost(steps in proptest::collection::vec((1usize..70_000, 1usize..70_000, 0u64..400_000), 1..200)) {
            let (mut send, mut recv) = (SendCredit::new(INITIAL), RecvWindow::new(INITIAL));
            let (mut held, mut now) = (0usize, 0u64);
            for (offered, accepted, pause) in steps {
                now += pause;
                let sent = offered.min(send.left());
                send.spend(sent);
                recv.arrived(sent).unwrap();
                held += sent;
                let taken = accepted.min(held);
                held -= taken;
                if let Some(grant) = recv.consumed(taken, now, 100_000, true) {
                    send.grant(grant);
                }
                prop_assert!(send.left() + held <= recv.size() as usize);
                prop_assert!(recv.size() <= MAX_WINDOW);
            }
            // Everything accepted: the sender has more than half a window, so it can always go on.
            if let Some(grant) = recv.consumed(held, now, 100_000, false) {
                send.grant(grant);
            }
            prop_assert!(send.left() > recv.size() as usize / 2);
        }
    }
}
