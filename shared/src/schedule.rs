//! Who writes next on a Link: control first, then the first Frames of new Streams, then Streams in turn, then what may
//! wait (log lines, pages of the log).
//!
//! Pure queue of encoded Frames. It is used only while a Link's socket is behind; a Link with nothing queued sends
//! at once without coming here. An upload never delays a page by more than one Frame per active Stream.
//!
//! Every kind of Frame has a bound. Where a source can wait it asks before it makes a Frame ([`Schedule::room`],
//! [`Schedule::room_for_first`]); the bounds that nobody asks for are those of a peer that does not read, and what passes
//! them ends the Link.

use std::collections::{HashMap, VecDeque};
use std::fmt;

/// Most Data Frames queued for one Stream; with more, its source must wait.
pub const MAX_PER_STREAM: usize = 2;
/// Bytes of Frames queued for all Streams of a Link from which no more Data is taken.
pub const MAX_QUEUED: usize = 256 * 1024;
/// Bytes of first Frames queued from which no further head of an answer is read. More than of Data, so that pages do not
/// wait for downloads.
pub const MAX_FIRST: usize = 1024 * 1024;
/// Most bytes of Frames of Streams. Sources that ask for room, and Gateways that look at what is unsent before they open a
/// Stream, stay far below.
pub const MAX_STREAMS: usize = 16 * 1024 * 1024;
/// Most bytes of control.
pub const MAX_CONTROL: usize = 16 * 1024 * 1024;
/// Most bytes of what may wait for everything else.
pub const MAX_LATER: usize = 16 * 1024 * 1024;
/// Frames of Streams that go before one that may wait: it delays traffic by a seventeenth, and always arrives.
pub const PATIENCE: usize = 16;

/// More waits than may: the peer does not read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Overflow {
    /// Of what.
    what: &'static str,
    /// Most bytes of it.
    most: usize,
}

impl fmt::Display for Overflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the peer does not read what it is sent: more than {} MiB of {} wait",
            self.most >> 20,
            self.what
        )
    }
}

impl std::error::Error for Overflow {}

/// A Frame of a Stream.
#[derive(Debug)]
struct Queued {
    frame: Vec<u8>,
    first: bool,
}

/// The queue of one Link.
#[derive(Default, Debug)]
pub struct Schedule {
    control: VecDeque<Vec<u8>>,
    streams: HashMap<u32, VecDeque<Queued>>,
    /// Streams whose next Frame is their first: a page's head overtakes the downloads.
    fresh: VecDeque<u32>,
    /// Streams in turn.
    ring: VecDeque<u32>,
    /// What may wait.
    later: VecDeque<Vec<u8>>,
    /// Frames of Streams that went before the first of `later`.
    passed: usize,
    queued: usize,
    /// Of `queued`, those of first Frames.
    first_bytes: usize,
    control_bytes: usize,
    later_bytes: usize,
}

impl Schedule {
    /// An empty queue.
    pub fn new() -> Schedule {
        Schedule::default()
    }

    /// Queues a Frame that goes before all others: Control, Beat, Credit, Reset. An error: with it there is more than
    /// [`MAX_CONTROL`].
    pub fn push_control(&mut self, frame: Vec<u8>) -> Result<(), Overflow> {
        self.control_bytes += frame.len();
        self.control.push_back(frame);
        within("control messages", self.control_bytes, MAX_CONTROL)
    }

    /// Queues a Frame that may wait: it goes when nothing else is queued, or after [`PATIENCE`] Frames of Streams. An
    /// error: there is no room for it, and it is dropped.
    pub fn push_later(&mut self, frame: Vec<u8>) -> Result<(), Overflow> {
        within("messages that may wait", self.later_bytes + frame.len(), MAX_LATER)?;
        self.later_bytes += frame.len();
        self.later.push_back(frame);
        Ok(())
    }

    /// Queues a Frame of a Stream, after the earlier ones of the same Stream. `first`: an `Open` or `Head`, which
    /// goes before other Streams' data. An error: with it there is more than [`MAX_STREAMS`].
    pub fn push(&mut self, stream: u32, frame: Vec<u8>, first: bool) -> Result<(), Overflow> {
        self.queued += frame.len();
        self.first_bytes += if first { frame.len() } else { 0 };
        let queue = self.streams.entry(stream).or_default();
        queue.push_back(Queued { frame, first });
        if queue.len() == 1 {
            if first { self.fresh.push_back(stream) } else { self.ring.push_back(stream) }
        }
        within("requests and answers", self.queued, MAX_STREAMS)
    }

    /// Drops what is queued for a Stream and lets `reset` go out as control. An error as of
    /// [`push_control`](Self::push_control).
    pub fn reset(&mut self, stream: u32, reset: Vec<u8>) -> Result<(), Overflow> {
        self.forget(stream);
        self.push_control(reset)
    }

    /// Drops what is queued for a Stream.
    pub fn forget(&mut self, stream: u32) {
        if let Some(queue) = self.streams.remove(&stream) {
            queue.iter().for_each(|queued| self.leaves(queued));
            self.fresh.retain(|s| *s != stream);
            self.ring.retain(|s| *s != stream);
        }
    }

    fn leaves(&mut self, queued: &Queued) {
        self.queued -= queued.frame.len();
        self.first_bytes -= if queued.first { queued.frame.len() } else { 0 };
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
        let queued = queue.pop_front().expect("a stream in turn has frames");
        if queue.is_empty() {
            self.streams.remove(&stream);
        } else {
            self.ring.push_back(stream);
        }
        self.leaves(&queued);
        Some(queued.frame)
    }

    /// Whether the Stream may queue another Data Frame.
    pub fn room(&self, stream: u32) -> bool {
        self.queued < MAX_QUEUED && self.streams.get(&stream).is_none_or(|queue| queue.len() < MAX_PER_STREAM)
    }

    /// Whether the head of an answer may be read, to become a first Frame.
    pub fn room_for_first(&self) -> bool {
        self.first_bytes < MAX_FIRST
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

fn within(what: &'static str, bytes: usize, most: usize) -> Result<(), Overflow> {
    if bytes > most { Err(Overflow { what, most }) } else { Ok(()) }
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
        s.push(1, b"1a".to_vec(), false).unwrap();
        s.push(1, b"1b".to_vec(), false).unwrap();
        s.push(2, b"2a".to_vec(), false).unwrap();
        s.push(2, b"2b".to_vec(), false).unwrap();
        s.push(3, b"3head".to_vec(), true).unwrap();
        s.push(3, b"3a".to_vec(), false).unwrap();
        s.push_control(b"beat".to_vec()).unwrap();
        assert_eq!(order(&mut s), "beat 3head 1a 2a 3a 1b 2b");
        assert!(s.is_empty());
        assert_eq!((s.queued(), s.control_bytes()), (0, 0));
    }

    #[test]
    fn a_reset_drops_what_the_stream_had_queued() {
        let mut s = Schedule::new();
        s.push(1, b"1a".to_vec(), false).unwrap();
        s.push(2, b"2a".to_vec(), false).unwrap();
        s.reset(1, b"reset".to_vec()).unwrap();
        assert_eq!(order(&mut s), "reset 2a");
    }

    #[test]
    fn what_may_wait_goes_last_and_still_goes() {
        let mut s = Schedule::new();
        s.push_later(b"log".to_vec()).unwrap();
        s.push_later(b"log2".to_vec()).unwrap();
        s.push(1, b"1a".to_vec(), false).unwrap();
        s.push_control(b"beat".to_vec()).unwrap();
        assert_eq!(order(&mut s), "beat 1a log log2");
        assert_eq!((s.is_empty(), s.later_bytes()), (true, 0));

        s.push_later(b"log".to_vec()).unwrap();
        for _ in 0..PATIENCE + 3 {
            s.push(1, b"1".to_vec(), false).unwrap();
        }
        let before = std::iter::from_fn(|| s.pop()).take_while(|frame| frame == b"1").count();
        assert_eq!(before, PATIENCE);
        assert_eq!(order(&mut s), "1 1 1");
    }

    #[test]
    fn a_stream_may_queue_two_frames() {
        let mut s = Schedule::new();
        assert!(s.room(1));
        s.push(1, vec![0; 10], false).unwrap();
        assert!(s.room(1));
        s.push(1, vec![0; 10], false).unwrap();
        assert!(!s.room(1));
        assert!(s.room(2));
        s.push(2, vec![0; MAX_QUEUED], false).unwrap();
        assert!(!s.room(3));
    }

    #[test]
    fn every_kind_of_frame_has_a_bound() {
        let fill = |push: &dyn Fn(&mut Schedule) -> Result<(), Overflow>| {
            let mut s = Schedule::new();
            let overflow = (0..1000).find_map(|_| push(&mut s).err()).expect("no bound");
            (overflow.to_string(), s.queued() + s.control_bytes() + s.later_bytes())
        };
        let piece = || vec![0; 64 * 1024];
        let (text, most) = fill(&|s| s.push(1, piece(), false));
        assert_eq!(
            text,
            "the peer does not read what it is sent: more than 16 MiB of requests and answers wait"
        );
        assert!(most <= MAX_STREAMS + piece().len());
        for push in [
            &(|s: &mut Schedule| s.push(s.queued() as u32, piece(), true)) as &dyn Fn(&mut Schedule) -> _,
            &|s| s.push_control(piece()),
            &|s| s.reset(1, piece()),
            &|s| s.push_later(piece()),
        ] {
            assert!(fill(push).1 <= MAX_STREAMS + piece().len());
        }
    }

    #[test]
    fn heads_wait_when_many_do_and_not_for_data() {
        let mut s = Schedule::new();
        s.push(1, vec![0; MAX_QUEUED], false).unwrap();
        assert!(!s.room(2) && s.room_for_first());
        for stream in 0..16 {
            s.push(stream, vec![0; MAX_FIRST / 16], true).unwrap();
        }
        assert!(!s.room_for_first());
        s.forget(3);
        assert!(s.room_for_first());
        while s.pop().is_some() {}
        assert_eq!((s.queued(), s.first_bytes), (0, 0));
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
                s.push(*stream, frame, *first).unwrap();
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
