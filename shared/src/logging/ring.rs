//! The newest lines, kept in memory for the admin page.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::Level;
use crate::threads::lock;

/// Most lines.
const LINES: usize = 10_000;
/// Most bytes of text: an idle daemon should not be large because it has once been talkative.
const BYTES: usize = 2 * 1024 * 1024;
/// Bytes that a line costs besides its text.
const OVERHEAD: usize = 48;
/// Most who may listen; each open page is one.
const SUBSCRIBERS: usize = 64;

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Rises by one from line to line, from 1.
    pub id: u64,
    /// Milliseconds since 1970.
    pub time_ms: i64,
    /// How important it is.
    pub level: Level,
    /// The message: one line, nothing invisible in it.
    pub text: Arc<str>,
}

/// The newest 10,000 lines, or as many as fit into 2 MiB.
#[derive(Debug, Default)]
pub struct Ring {
    lines: Mutex<Lines>,
    subscribers: Mutex<Vec<Subscriber>>,
}

#[derive(Debug, Default)]
struct Lines {
    lines: VecDeque<Line>,
    bytes: usize,
    last: u64,
}

#[derive(Clone, Debug)]
struct Subscriber {
    sender: Sender<Line>,
    dropped: Arc<AtomicU64>,
}

/// Lines as they are written. Ends when dropped.
#[derive(Debug)]
pub struct Subscription {
    /// The lines.
    pub receiver: Receiver<Line>,
    dropped: Arc<AtomicU64>,
}

impl Subscription {
    /// How many lines were not delivered since this was last asked, because the channel was full.
    pub fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Relaxed)
    }
}

impl Ring {
    /// Adds a line, and hands it to the subscribers that have room for it.
    pub fn push(&self, time_ms: i64, level: Level, text: impl Into<Arc<str>>) {
        let line = lock(&self.lines).push(time_ms, level, text.into());
        let subscribers = lock(&self.subscribers).clone();
        let mut gone = false;
        for subscriber in subscribers {
            match subscriber.sender.try_send(line.clone()) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => {
                    subscriber.dropped.fetch_add(1, Relaxed);
                }
                Err(TrySendError::Disconnected(_)) => gone = true,
            }
        }
        if gone {
            self.forget_gone();
        }
    }

    /// Whoever dropped the subscription holds no count of its losses any more.
    fn forget_gone(&self) {
        lock(&self.subscribers).retain(|subscriber| Arc::strong_count(&subscriber.dropped) > 1);
    }

    /// At most `count` lines after line `id`, oldest first: the next page for who has read up to `id`.
    pub fn since(&self, id: u64, count: usize) -> Vec<Line> {
        let ring = lock(&self.lines);
        let from = ring.lines.partition_point(|line| line.id <= id);
        ring.lines.range(from..).take(count).cloned().collect()
    }

    /// The newest `count` lines before line `id`, oldest first: the page before, for who scrolls up. `u64::MAX` gives
    /// the newest of all.
    pub fn before(&self, id: u64, count: usize) -> Vec<Line> {
        let ring = lock(&self.lines);
        let to = ring.lines.partition_point(|line| line.id < id);
        ring.lines.range(to.saturating_sub(count)..to).cloned().collect()
    }

    /// As [`Ring::before`], of those lines only that are `wanted`, newest first.
    pub fn before_where(&self, id: u64, count: usize, wanted: impl Fn(&Line) -> bool) -> Vec<Line> {
        let ring = lock(&self.lines);
        let to = ring.lines.partition_point(|line| line.id < id);
        ring.lines.range(..to).rev().filter(|line| wanted(line)).take(count).cloned().collect()
    }

    /// Lines from now on, of which `capacity` may wait to be taken; `None` when too many listen already. Subscribe
    /// first and read the past afterwards: then a line may come twice, which its id tells, but none is missed.
    pub fn subscribe(&self, capacity: usize) -> Option<Subscription> {
        self.forget_gone();
        let mut subscribers = lock(&self.subscribers);
        if subscribers.len() >= SUBSCRIBERS {
            return None;
        }
        let (sender, receiver) = bounded(capacity.max(1));
        let dropped = Arc::new(AtomicU64::new(0));
        subscribers.push(Subscriber { sender, dropped: Arc::clone(&dropped) });
        Some(Subscription { receiver, dropped })
    }
}

impl Lines {
    fn push(&mut self, time_ms: i64, level: Level, text: Arc<str>) -> Line {
        self.last += 1;
        let line = Line { id: self.last, time_ms, level, text };
        self.bytes += line.text.len() + OVERHEAD;
        self.lines.push_back(line.clone());
        while self.lines.len() > LINES || self.bytes > BYTES {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.bytes -= oldest.text.len() + OVERHEAD;
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(lines: &[Line]) -> Vec<u64> {
        lines.iter().map(|line| line.id).collect()
    }

    fn ring(count: usize) -> Ring {
        let ring = Ring::default();
        for number in 1..=count {
            ring.push(0, Level::Information, format!("line {number}"));
        }
        ring
    }

    #[test]
    fn pages_go_forward_and_back() {
        let ring = ring(10);
        assert_eq!(ids(&ring.since(0, 3)), [1, 2, 3]);
        assert_eq!(ids(&ring.since(8, 3)), [9, 10]);
        assert_eq!(ids(&ring.since(10, 3)), [] as [u64; 0]);
        assert_eq!(ids(&ring.before(u64::MAX, 3)), [8, 9, 10]);
        assert_eq!(ids(&ring.before(8, 3)), [5, 6, 7]);
        assert_eq!(ids(&ring.before(2, 3)), [1]);
        assert_eq!(ids(&ring.before(0, 3)), [] as [u64; 0]);
        assert_eq!(&*ring.since(4, 1)[0].text, "line 5");
    }

    #[test]
    fn pages_of_some_lines_only_skip_the_others() {
        let ring = ring(10);
        let even = |line: &Line| line.id.is_multiple_of(2);
        assert_eq!(ids(&ring.before_where(u64::MAX, 3, even)), [10, 8, 6]);
        assert_eq!(ids(&ring.before_where(6, 3, even)), [4, 2]);
        assert_eq!(ids(&ring.before_where(u64::MAX, 3, |_| false)), [] as [u64; 0]);
    }

    #[test]
    fn only_the_newest_lines_are_kept() {
        let ring = ring(LINES + 5);
        assert_eq!(ids(&ring.since(0, 2)), [6, 7]);
        assert_eq!(ids(&ring.before(u64::MAX, 1)), [LINES as u64 + 5]);
    }

    #[test]
    fn long_lines_are_bounded_by_their_bytes() {
        let ring = Ring::default();
        for _ in 0..1000 {
            ring.push(0, Level::Information, "x".repeat(8192));
        }
        let lines = ring.since(0, usize::MAX);
        assert_eq!(lines.len(), BYTES / (8192 + OVERHEAD));
        assert_eq!(lines[lines.len() - 1].id, 1000);
    }

    #[test]
    fn a_slow_subscriber_loses_lines_and_learns_how_many() {
        let ring = Ring::default();
        let slow = ring.subscribe(2).expect("room");
        for number in 0..5 {
            ring.push(number, Level::Error, "x");
        }
        assert_eq!(ids(&slow.receiver.try_iter().collect::<Vec<_>>()), [1, 2]);
        assert_eq!((slow.take_dropped(), slow.take_dropped()), (3, 0));
        ring.push(5, Level::Error, "x");
        assert_eq!(slow.receiver.try_recv().map(|line| line.id), Ok(6));
    }

    #[test]
    fn dropped_subscriptions_make_room() {
        let ring = Ring::default();
        let all: Vec<_> = (0..SUBSCRIBERS).map(|_| ring.subscribe(1).expect("room")).collect();
        assert!(ring.subscribe(1).is_none());
        drop(all);
        assert!(ring.subscribe(1).is_some());
        ring.push(0, Level::Error, "x");
        assert_eq!(lock(&ring.subscribers).len(), 0);
    }
}
