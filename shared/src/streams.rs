//! The open Streams of a Session: which numbers are in use, which have been, which never were.
//!
//! Pure but for its lock. Frames of a Stream that has ended were in flight and are dropped; Frames of a Stream
//! that never was are a protocol error (`docs/protocol.md`, "Streams").

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::threads::lock;

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
}

impl<S> Default for Streams<S> {
    fn default() -> Self {
        Streams { inner: Mutex::new(Inner { open: HashMap::new(), highest: 0, closed: false }) }
    }
}

/// Why no Stream can be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoStream {
    /// As many as allowed are open.
    Full,
    /// The Session is over, or all 2^32 - 1 numbers are used up.
    Closed,
    /// The number was used before (the peer's mistake).
    Reused,
}

impl<S> Streams<S> {
    /// Gateway: opens a Stream with the next number, at most `most` at a time.
    pub fn open(&self, stream: Arc<S>, most: usize) -> Result<u32, NoStream> {
        let mut inner = lock(&self.inner);
        if inner.closed || inner.highest == u32::MAX {
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

    /// Agent: a Stream that the Gateway opened. Numbers may arrive out of order over several Links, so a number is
    /// taken as reused only while its Stream is open.
    pub fn accept(&self, number: u32, stream: Arc<S>, most: usize) -> Result<(), NoStream> {
        let mut inner = lock(&self.inner);
        if inner.closed {
            return Err(NoStream::Closed);
        }
        inner.highest = inner.highest.max(number);
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
        let mut inner = lock(&self.inner);
        inner.highest = inner.highest.max(number);
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
    fn a_closed_table_opens_nothing() {
        let streams = Streams::default();
        streams.open(Arc::new(()), 9).unwrap();
        assert_eq!(streams.close().len(), 1);
        assert_eq!(streams.open(Arc::new(()), 9), Err(NoStream::Closed));
    }
}
