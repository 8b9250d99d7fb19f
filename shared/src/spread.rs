//! Which Link the next bytes of a Stream go to.
//!
//! A Stream stays on the Link that it was opened on, its *home*. One TCP connection fills a long line only with
//! large windows at both ends, and collapses with loss; so once a Stream has proved to be a long transfer, and its
//! home is behind, its `Data` may go over any Link of the Session that is not, unless that one is in doubt: the loss of
//! a piece would be the loss of the Stream. Each piece then carries its position.

use std::sync::Arc;

use crate::link::Link;

/// One direction of one Stream, on the sending side.
#[derive(Debug)]
pub struct Spread {
    home: Arc<Link>,
    stream: u32,
    /// Other Links that were used; empty: the Stream is not spread.
    used: Vec<Arc<Link>>,
}

/// Where the next bytes go.
#[derive(Debug)]
pub struct Place {
    link: Arc<Link>,
    /// How many.
    pub room: usize,
}

impl Spread {
    /// A Stream that begins.
    pub fn new(home: &Arc<Link>, stream: u32) -> Spread {
        Spread { home: Arc::clone(home), stream, used: Vec::new() }
    }

    /// The Link that carries all but spread data.
    pub fn home(&self) -> &Arc<Link> {
        &self.home
    }

    /// Where to put the next bytes, at most one batch; with `away`, other Links of the Session will do. `None`: nowhere
    /// now; `token` is resumed when there is room. `links` gives the Links of the Session, and is asked only if they
    /// matter.
    pub fn place(&self, token: usize, away: bool, links: impl FnOnce() -> Vec<Arc<Link>>) -> Option<Place> {
        let at_home = |room| (room > 0).then(|| Place { link: Arc::clone(&self.home), room });
        if !away {
            return at_home(self.home.room_or_wait(self.stream, token));
        }
        if let Some(place) = at_home(self.home.room_at_once()) {
            return Some(place);
        }
        let mut links = links();
        links.retain(|link| link.is_sound());
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

    /// Whether the head of an answer may be read. If not, `token` is resumed when it may.
    pub fn room_for_head(&self, token: usize) -> bool {
        self.home.room_for_first_or_wait(self.stream, token)
    }

    /// The next bytes go to this place; true if that is not home.
    pub fn goes_to(&mut self, place: &Place) -> bool {
        let away = !Arc::ptr_eq(&place.link, &self.home);
        if away && !self.used.iter().any(|used| Arc::ptr_eq(used, &place.link)) {
            self.used.push(Arc::clone(&place.link));
        }
        away
    }

    /// The Link of a place, or home.
    pub fn link<'p>(&'p self, place: Option<&'p Place>) -> &'p Arc<Link> {
        place.map_or(&self.home, |place| &place.link)
    }

    /// Whether `link` carried any of it, so that its loss is a loss of bytes.
    pub fn uses(&self, link: &Arc<Link>) -> bool {
        Arc::ptr_eq(&self.home, link) || self.used.iter().any(|used| Arc::ptr_eq(used, link))
    }
}
