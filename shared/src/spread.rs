//! Which Link the next bytes of a Stream go to.
//!
//! A Stream stays on the Link that it was opened on, its *home*. One TCP connection fills a long line only with
//! large windows at both ends, and collapses with loss; so once a Stream has proved to be a long transfer, and its
//! home is behind, its `Data` may go over any Link of the Session that is not. Each piece then carries its position.

use std::sync::Arc;

use crate::link::Link;

/// Bytes that a Stream must have sent on its home before it may use other Links.
const LONG: u64 = 512 * 1024;

/// One direction of one Stream, on the sending side.
#[derive(Debug)]
pub struct Spread {
    home: Arc<Link>,
    stream: u32,
    /// Bytes sent.
    at: u64,
    /// Other Links that were used; empty: the Stream is not spread.
    used: Vec<Arc<Link>>,
    /// The receiver has granted Credit, so it has seen the beginning.
    known: bool,
}

/// Where the next bytes go.
pub struct Place {
    link: Arc<Link>,
    /// How many.
    pub room: usize,
}

impl Spread {
    /// A Stream that begins.
    pub fn new(home: &Arc<Link>, stream: u32) -> Spread {
        Spread { home: Arc::clone(home), stream, at: 0, used: Vec::new(), known: false }
    }

    /// The Link that carries all but spread data.
    pub fn home(&self) -> &Arc<Link> {
        &self.home
    }

    /// The receiver granted Credit.
    pub fn granted(&mut self) {
        self.known = true;
    }

    /// Where to put the next bytes, at most one batch. `None`: nowhere now; `token` is resumed when there is room.
    /// `links` gives the Links of the Session, and is asked only if they matter.
    pub fn place(&self, token: usize, links: impl FnOnce() -> Vec<Arc<Link>>) -> Option<Place> {
        let at_home = |room| (room > 0).then(|| Place { link: Arc::clone(&self.home), room });
        if !self.known || self.at < LONG {
            return at_home(self.home.room_or_wait(self.stream, token));
        }
        if let Some(place) = at_home(self.home.room_at_once()) {
            return Some(place);
        }
        let links = links();
        for link in &links {
            let room = link.room_at_once();
            if room > 0 {
                return Some(Place { link: Arc::clone(link), room });
            }
        }
        // All are behind: whichever has a place in its queue, home first; wait for all of them otherwise.
        if let Some(place) = at_home(self.home.room_or_wait(self.stream, token)) {
            return Some(place);
        }
        for link in links.iter().filter(|link| !Arc::ptr_eq(link, &self.home)) {
            let room = link.room_or_wait(self.stream, token);
            if room > 0 {
                return Some(Place { link: Arc::clone(link), room });
            }
        }
        None
    }

    /// Queues bytes at a place that was just given; returns the Link to flush. Without a place they go home: the rest
    /// of what was read already, which must not wait.
    pub fn put<'p>(&'p mut self, place: Option<&'p Place>, bytes: &[u8], end: bool) -> &'p Arc<Link> {
        if let Some(Place { link, .. }) = place
            && !Arc::ptr_eq(link, &self.home)
            && !self.used.iter().any(|used| Arc::ptr_eq(used, link))
        {
            self.used.push(Arc::clone(link));
        }
        let position = self.position();
        let link = place.map_or(&self.home, |place| &place.link);
        link.data(self.stream, bytes, end, position);
        self.at += bytes.len() as u64;
        link
    }

    /// Queues the end of the direction on the home Link.
    pub fn end(&mut self) -> &Arc<Link> {
        let position = self.position();
        self.home.data(self.stream, b"", true, position);
        &self.home
    }

    /// The position that the next Frame must carry, if any.
    pub fn position(&self) -> Option<u64> {
        (!self.used.is_empty()).then_some(self.at)
    }

    /// Whether `link` carried any of it, so that its loss is a loss of bytes.
    pub fn uses(&self, link: &Arc<Link>) -> bool {
        Arc::ptr_eq(&self.home, link) || self.used.iter().any(|used| Arc::ptr_eq(used, link))
    }
}
