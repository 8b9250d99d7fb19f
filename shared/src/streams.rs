//! The open Streams of a Session: which numbers are in use, which have been, which never were.
//!
//! Pure but for its lock. Frames of a Stream that has ended were in flight and are dropped; Frames of a Stream
//! that never was are a protocol error (`docs/protocol.md`, "Streams").

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use crate::threads::lock;

/// Most numbers that are remembered as not having come; there are as many as Opens that overtake one another.
const MAX_GAPS: usize = 4096;

/// What a number stands for.
#[derive(Debug)]
pub enum Lookup<S> {
    /// An open Stream.
    Open(Arc<S>),
    /// A Stream that has ended.
    Ended,
    /// No Stream had this number yet.
    Never,
}

/// The table of one Session.
#[derive(Debug)]
pub struct Streams<S> {
    inner: Mutex<Inner<S>>,
}

#[derive(Debug)]
struct Inner<S> {
    open: HashMap<u32, Arc<S>>,
    highest: u32,
    closed: bool,
    /// None is opened any more; those that are go on.
    sealed: bool,
    /// Numbers below the highest that have not come.
    gaps: HashSet<u32>,
    /// There were more of them than are remembered.
    gaps_lost: bool,
}

impl<S> Inner<S> {
    /// A number has come.
    fn note(&mut self, number: u32) {
        if number <= self.highest {
            self.gaps.remove(&number);
            return;
        }
        let gap = (number - self.highest - 1) as usize;
        if self.gaps.len() + gap > MAX_GAPS {
            self.gaps_lost = true;
        } else {
            self.gaps.extend(self.highest + 1..number);
        }
        self.highest = number;
    }
}

impl<S> Default for Streams<S> {
    fn default() -> Self {
        Streams {
            inner: Mutex::new(Inner {
                open: HashMap::new(),
                highest: 0,
                closed: false,
                sealed: false,
                gaps: HashSet::new(),
                gaps_lost: false,
            }),
        }
    }
}

/// Why no Stream can be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoStream {
    /// As many as allowed are open.
    Full,
    /// The Session is over or takes leave, or all 2^32 - 1 numbers are used up.
    Closed,
    /// The number was used before (the peer's mistake).
    Reused,
}

impl<S> Streams<S> {
    /// Gateway: opens a Stream with the next number, at most `most` at a time.
    pub fn open(&self, stream: Arc<S>, most: usize) -> Result<u32, NoStream> {
        let mut inner = lock(&self.inner);
        if inner.closed || inner.sealed || inner.highest == u32::MAX {
            return Err(NoStream::Closed);
        }
        if inner.open.len() >= most {
            return Err(NoStream::Full);
        }
        inner.highest += 1;
        let number = inner.highest;
        inner.open.insert(number, stream);
        Ok(number)
    }

    /// Gateway: opens none any more. Gives how many have been.
    pub fn seal(&self) -> u32 {
        let mut inner = lock(&self.inner);
        inner.sealed = true;
        inner.highest
    }

    /// Agent: a Stream that the Gateway opened. Numbers may arrive out of order over several Links, so a number is
    /// taken as reused only while its Stream is open.
    pub fn accept(&self, number: u32, stream: Arc<S>, most: usize) -> Result<(), NoStream> {
        let mut inner = lock(&self.inner);
        if inner.closed {
            return Err(NoStream::Closed);
        }
        inner.note(number);
        if inner.open.len() >= most {
            return Err(NoStream::Full);
        }
        if inner.open.contains_key(&number) {
            return Err(NoStream::Reused);
        }
        inner.open.insert(number, stream);
        Ok(())
    }

    /// What `number` stands for.
    pub fn get(&self, number: u32) -> Lookup<S> {
        let inner = lock(&self.inner);
        match inner.open.get(&number) {
            Some(stream) => Lookup::Open(Arc::clone(stream)),
            None if number <= inner.highest => Lookup::Ended,
            None => Lookup::Never,
        }
    }

    /// Puts another object in the place of an open Stream's.
    pub fn replace(&self, number: u32, stream: Arc<S>) {
        if let Some(place) = lock(&self.inner).open.get_mut(&number) {
            *place = stream;
        }
    }

    /// A `Reset` may name a Stream whose `Open` was withdrawn before it was sent.
    pub fn skip(&self, number: u32) {
        lock(&self.inner).note(number);
    }

    /// Agent: whether all of the first `count` Streams have come, over whichever Link.
    pub fn have_come(&self, count: u32) -> bool {
        let inner = lock(&self.inner);
        inner.highest >= count && inner.gaps.is_empty() && !inner.gaps_lost
    }

    /// Agent: a Link is closed; what has not come was on it, as likely as not, and will not come.
    pub fn forget_gaps(&self) {
        let mut inner = lock(&self.inner);
        inner.gaps = HashSet::new();
        inner.gaps_lost = false;
    }

    /// The Stream has ended.
    pub fn remove(&self, number: u32) -> Option<Arc<S>> {
        lock(&self.inner).open.remove(&number)
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        lock(&self.inner).open.len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All open ones, at this moment.
    pub fn all(&self) -> Vec<(u32, Arc<S>)> {
        lock(&self.inner).open.iter().map(|(number, stream)| (*number, Arc::clone(stream))).collect()
    }

    /// Ends the table: no Stream can be opened any more. Returns those that were open.
    pub fn close(&self) -> Vec<(u32, Arc<S>)> {
        let mut inner = lock(&self.inner);
        inner.closed = true;
        inner.open.drain().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind<S>(lookup: Lookup<S>) -> &'static str {
        match lookup {
            Lookup::Open(_) => "open",
            Lookup::Ended => "ended",
            Lookup::Never => "never",
        }
    }

    #[test]
    fn numbers_rise_and_are_never_reused() {
        let streams = Streams::default();
        assert_eq!(streams.open(Arc::new(()), 2), Ok(1));
        assert_eq!(streams.open(Arc::new(()), 2), Ok(2));
        assert_eq!(streams.open(Arc::new(()), 2), Err(NoStream::Full));
        streams.remove(1);
        assert_eq!(streams.open(Arc::new(()), 2), Ok(3));
        assert_eq!(
            (kind(streams.get(1)), kind(streams.get(3)), kind(streams.get(4))),
            ("ended", "open", "never")
        );
    }

    #[test]
    fn a_second_open_with_the_same_number_is_refused() {
        let streams = Streams::default();
        assert_eq!(streams.accept(5, Arc::new(()), 9), Ok(()));
        assert_eq!(streams.accept(4, Arc::new(()), 9), Ok(()));
        assert_eq!(streams.accept(5, Arc::new(()), 9), Err(NoStream::Reused));
        assert_eq!(kind(streams.get(3)), "ended");
    }

    #[test]
    fn it_is_known_whether_all_have_come() {
        let streams = Streams::default();
        assert!(streams.have_come(0) && !streams.have_come(1));
        for number in [1, 4, 2] {
            streams.accept(number, Arc::new(()), 9).unwrap();
        }
        assert!(!streams.have_come(4), "the third is missing");
        streams.skip(3);
        assert!(streams.have_come(4) && !streams.have_come(5));
        streams.remove(1);
        streams.accept(6, Arc::new(()), 9).unwrap();
        assert!(!streams.have_come(6));
        streams.forget_gaps();
        assert!(streams.have_come(6));
        streams.accept(u32::MAX, Arc::new(()), 9).unwrap();
        assert!(!streams.have_come(6), "nobody knows, and nothing was remembered");
    }

    #[test]
    fn a_sealed_table_keeps_what_is_open() {
        let streams = Streams::default();
        assert_eq!(streams.open(Arc::new(()), 9), Ok(1));
        assert_eq!(streams.open(Arc::new(()), 9), Ok(2));
        streams.remove(2);
        assert_eq!(streams.seal(), 2);
        assert_eq!(streams.open(Arc::new(()), 9), Err(NoStream::Closed));
        assert_eq!((streams.seal(), streams.len()), (2, 1));
    }

    #[test]
    fn a_closed_table_opens_nothing() {
        let streams = Streams::default();
        streams.open(Arc::new(()), 9).unwrap();
        assert_eq!(streams.close().len(), 1);
        assert_eq!(streams.open(Arc::new(()), 9), Err(NoStream::Closed));
    }
}
