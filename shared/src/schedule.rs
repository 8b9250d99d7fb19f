//! Who writes next on a Link: control first, then the first Frames of new Streams, then Streams in turn, then what may
//! wait (log lines, pages of the log).
//!
//! Pure queue of encoded Frames. It is used only while a Link's socket is behind; a Link with nothing queued sends
//! at once without coming here. An upload never delays a page by more than one Frame per active Stream.

use std::collections::{HashMap, VecDeque};

/// Most Data Frames queued for one Stream; with more, its source must wait.
pub const MAX_PER_STREAM: usize = 2;
/// Most bytes of Frames queued for all Streams of a Link.
pub const MAX_QUEUED: usize = 256 * 1024;
/// Frames of Streams that go before one that may wait: it delays traffic by a seventeenth, and always arrives.
pub const PATIENCE: usize = 16;

/// The queue of one Link.
#[derive(Default, Debug)]
pub struct Schedule {
    control: VecDeque<Vec<u8>>,
    streams: HashMap<u32, VecDeque<Vec<u8>>>,
    /// Streams whose next Frame is their first: a page's head overtakes the downloads.
    fresh: VecDeque<u32>,
    /// Streams in turn.
    ring: VecDeque<u32>,
    /// What may wait.
    later: VecDeque<Vec<u8>>,
    /// Frames of Streams that went before the first of `later`.
    passed: usize,
    queued: usize,
    control_bytes: usize,
    later_bytes: usize,
}

impl Schedule {
    /// An empty queue.
    pub fn new() -> Schedule {
        Schedule::default()
    }

    /// Queues a Frame that goes before all others: Control, Beat, Credit.
    pub fn push_control(&mut self, frame: Vec<u8>) {
        self.control_bytes += frame.len();
        self.control.push_back(frame);
    }

    /// Queues a Frame that may wait: it goes when nothing else is queued, or after [`PATIENCE`] Frames of Streams.
    pub fn push_later(&mut self, frame: Vec<u8>) {
        self.later_bytes += frame.len();
        self.later.push_back(frame);
    }

    /// Queues a Frame of a Stream, after the earlier ones of the same Stream. `first`: an `Open` or `Head`, which
    /// goes before other Streams' data.
    pub fn push(&mut self, stream: u32, frame: Vec<u8>, first: bool) {
        self.queued += frame.len();
        let queue = self.streams.entry(stream).or_default();
        queue.push_back(frame);
        if queue.len() == 1 {
            if first { self.fresh.push_back(stream) } else { self.ring.push_back(stream) }
        }
    }

    /// Drops what is queued for a Stream and lets `reset` go out as control.
    pub fn reset(&mut self, stream: u32, reset: Vec<u8>) {
        self.forget(stream);
        self.push_control(reset);
    }

    /// Drops what is queued for a Stream.
    pub fn forget(&mut self, stream: u32) {
        if let Some(queue) = self.streams.remove(&stream) {
            self.queued -= queue.iter().map(Vec::len).sum::<usize>();
            self.fresh.retain(|s| *s != stream);
            self.ring.retain(|s| *s != stream);
        }
    }

    /// The Frame that goes next.
    pub fn pop(&mut self) -> Option<Vec<u8>> {
        if let Some(frame) = self.control.pop_front() {
            self.control_bytes -= frame.len();
            return Some(frame);
        }
        let waited = self.passed >= PATIENCE || self.streams.is_empty();
        if waited && let Some(frame) = self.later.pop_front() {
            self.passed = 0;
            self.later_bytes -= frame.len();
            return Some(frame);
        }
        let stream = self.fresh.pop_front().or_else(|| self.ring.pop_front())?;
        self.passed = if self.later.is_empty() { 0 } else { self.passed + 1 };
        let queue = self.streams.get_mut(&stream).expect("a stream in turn has frames");
        let frame = queue.pop_front().expect("a stream in turn has frames");
        if queue.is_empty() {
            self.streams.remove(&stream);
        } else {
            self.ring.push_back(stream);
        }
        self.queued -= frame.len();
        Some(frame)
    }

    /// Whether the Stream may queue another Data Frame.
    pub fn room(&self, stream: u32) -> bool {
        self.queued < MAX_QUEUED && self.streams.get(&stream).is_none_or(|queue| queue.len() < MAX_PER_STREAM)
    }

    /// Nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.control.is_empty() && self.streams.is_empty() && self.later.is_empty()
    }

    /// Bytes queued for Streams.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Bytes queued as control.
    pub fn control_bytes(&self) -> usize {
        self.control_bytes
    }

    /// Bytes queued that may wait.
    pub fn later_bytes(&self) -> usize {
        self.later_bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(schedule: &mut Schedule) -> String {
        std::iter::from_fn(|| schedule.pop())
            .map(|f| String::from_utf8(f).unwrap())
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn control_goes_first_then_new_streams_then_data_in_turn() {
        let mut s = Schedule::new();
        s.push(1, b"1a".to_vec(), false);
        s.push(1, b"1b".to_vec(), false);
        s.push(2, b"2a".to_vec(), false);
        s.push(2, b"2b".to_vec(), false);
        s.push(3, b"3head".to_vec(), true);
        s.push(3, b"3a".to_vec(), false);
        s.push_control(b"beat".to_vec());
        assert_eq!(order(&mut s), "beat 3head 1a 2a 3a 1b 2b");
        assert!(s.is_empty());
        assert_eq!((s.queued(), s.control_bytes()), (0, 0));
    }

    #[test]
    fn a_reset_drops_what_the_stream_had_queued() {
        let mut s = Schedule::new();
        s.push(1, b"1a".to_vec(), false);
        s.push(2, b"2a".to_vec(), false);
        s.reset(1, b"reset".to_vec());
        assert_eq!(order(&mut s), "reset 2a");
    }

    #[test]
    fn what_may_wait_goes_last_and_still_goes() {
        let mut s = Schedule::new();
        s.push_later(b"log".to_vec());
        s.push_later(b"log2".to_vec());
        s.push(1, b"1a".to_vec(), false);
        s.push_control(b"beat".to_vec());
        assert_eq!(order(&mut s), "beat 1a log log2");
        assert_eq!((s.is_empty(), s.later_bytes()), (true, 0));

        s.push_later(b"log".to_vec());
        for _ in 0..PATIENCE + 3 {
            s.push(1, b"1".to_vec(), false);
        }
        let before = std::iter::from_fn(|| s.pop()).take_while(|frame| frame == b"1").count();
        assert_eq!(before, PATIENCE);
        assert_eq!(order(&mut s), "1 1 1");
    }

    #[test]
    fn a_stream_may_queue_two_frames() {
        let mut s = Schedule::new();
        assert!(s.room(1));
        s.push(1, vec![0; 10], false);
        assert!(s.room(1));
        s.push(1, vec![0; 10], false);
        assert!(!s.room(1));
        assert!(s.room(2));
        s.push(2, vec![0; MAX_QUEUED], false);
        assert!(!s.room(3));
    }

    proptest! {
        /// Frames of one Stream keep their order, nothing is lost, and no Stream waits for more than one Frame of
        /// each other Stream.
        #[test]
        fn turns_are_fair_and_nothing_is_lost(pushes in proptest::collection::vec((1u32..6, any::<bool>()), 1..80)) {
            let mut s = Schedule::new();
            let mut expected: HashMap<u32, Vec<Vec<u8>>> = HashMap::new();
            for (i, (stream, first)) in pushes.iter().enumerate() {
                let frame = vec![*stream as u8, i as u8];
                expected.entry(*stream).or_default().push(frame.clone());
                s.push(*stream, frame, *first);
            }
            let mut seen: HashMap<u32, Vec<Vec<u8>>> = HashMap::new();
            let mut since: HashMap<u32, usize> = HashMap::new();
            while let Some(frame) = s.pop() {
                let stream = u32::from(frame[0]);
                let others = expected.len();
                for (other, turns) in &mut since {
                    *turns += 1;
                    let left = expected[other].len() > seen.get(other).map_or(0, Vec::len);
                    prop_assert!(*other == stream || !left || *turns <= 2 * others);
                }
                since.insert(stream, 0);
                seen.entry(stream).or_default().push(frame);
            }
            prop_assert_eq!(seen, expected);
            prop_assert!(s.is_empty() && s.queued() == 0);
        }
    }
}
