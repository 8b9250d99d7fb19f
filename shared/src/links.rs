//! The Links of one Session: which there are, which of them may be given something new, and the timer's look at them.
//!
//! When to ask and when to give up is decided in `alive`; here it is done. Both daemons use it alike.

use std::sync::{Arc, Mutex};

use crate::alive::{Alive, Verdict, Watch};
use crate::link::Link;
use crate::threads::lock;

/// Most Links of a Session. A text of the Gateway says so, too.
pub const MOST_LINKS: usize = 8;

/// Why the timer closed a Link.
const DEAD: &str = "nothing has arrived for too long";

/// The Links of a Session, in the order in which they joined.
#[derive(Debug, Default)]
pub struct Links {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    members: Vec<Member>,
    watch: Watch,
}

#[derive(Debug)]
struct Member {
    link: Arc<Link>,
    alive: Alive,
    /// What the Agent calls it, if it says so.
    name: Option<String>,
}

impl Links {
    /// A Link was greeted. `interval`: of heartbeats, microseconds. Returns how many there are now.
    pub fn add(&self, link: &Arc<Link>, interval: u64, name: Option<String>) -> usize {
        let mut inner = lock(&self.inner);
        inner.members.push(Member { link: Arc::clone(link), alive: Alive::new(interval), name });
        inner.members.len()
    }

    /// From now on the Session is also asked as a whole, so that a loss of all Links is noticed while nobody waits:
    /// for the side that can make new ones. `interval`: of heartbeats, microseconds.
    pub fn pulse(&self, interval: u64) {
        lock(&self.inner).watch = Watch::with_pulse(interval);
    }

    /// Takes a Link out; true if it was there. With how many are left.
    pub fn remove(&self, link: &Arc<Link>) -> (bool, usize) {
        let members = &mut lock(&self.inner).members;
        let before = members.len();
        members.retain(|member| !Arc::ptr_eq(&member.link, link));
        (members.len() < before, members.len())
    }

    /// Takes out those that the Agent has a name for, but does not hold any more.
    pub fn keep(&self, held: &[String]) -> Vec<Arc<Link>> {
        let members = &mut lock(&self.inner).members;
        let is_held = |member: &Member| member.name.as_ref().is_none_or(|name| held.contains(name));
        let (kept, gone): (Vec<_>, Vec<_>) = members.drain(..).partition(is_held);
        *members = kept;
        gone.into_iter().map(|member| member.link).collect()
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Link>> {
        lock(&self.inner).members.iter().map(|member| Arc::clone(&member.link)).collect()
    }

    /// How many may be given something new.
    pub fn sound(&self) -> usize {
        lock(&self.inner).members.iter().filter(|member| member.link.is_sound()).count()
    }

    /// Of those that may be given something new, the one with the least load; the first of equal ones.
    pub fn least<K: Ord>(&self, load: impl Fn(&Link) -> K) -> Option<Arc<Link>> {
        let inner = lock(&self.inner);
        let links = inner.members.iter().map(|member| &member.link).filter(|link| link.is_sound());
        links.min_by_key(|link| load(link)).cloned()
    }

    /// One on which to say something that must be said now: the first that may be given something new, or else the
    /// first.
    pub fn speaker(&self) -> Option<Arc<Link>> {
        let inner = lock(&self.inner);
        let mut links = inner.members.iter().map(|member| &member.link);
        links.clone().find(|link| link.is_sound()).or_else(|| links.next()).cloned()
    }

    /// Something happened that may concern all of them: asks each for a sign of life, and gives none of them anything
    /// new before it has answered.
    pub fn doubt(&self) {
        for link in self.all() {
            link.doubt();
        }
    }

    /// Looks after them: Beats, doubts, and the end of those that are dead. True: an answer is outstanding, look again
    /// soon.
    pub fn tick(&self) -> bool {
        let (todo, pressing) = {
            let mut inner = lock(&self.inner);
            let Inner { members, watch } = &mut *inner;
            let links: Vec<_> = members.iter().map(|member| Arc::clone(&member.link)).collect();
            let signs = links.iter().map(|link| link.signs(link.streams() > 0));
            let verdicts = watch.look(members.iter_mut().map(|member| &mut member.alive).zip(signs));
            let pressing = Watch::is_pressing(members.iter().map(|m| (&m.alive, m.link.in_doubt())));
            (links.into_iter().zip(verdicts).collect::<Vec<_>>(), pressing)
        };
        let mut doubted = false;
        for (link, verdict) in todo {
            match verdict {
                Verdict::Fine => {}
                Verdict::Beat => {
                    link.beat();
                    link.flush();
                }
                Verdict::Doubt => {
                    link.doubt();
                    doubted = true;
                }
                Verdict::Dead => link.close(DEAD),
            }
        }
        pressing || doubted
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::frame::{Frame, Side};
    use crate::link::Receiver;
    use crate::poll::Poller;

    /// A Link whose other end is a socket that says nothing.
    fn link(poller: &Poller, name: &str) -> (Arc<Link>, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let (far, _) = listener.accept().expect("accepted");
        (Link::new(name.into(), Side::Gateway, near, None, poller.handle()).expect("a link"), far)
    }

    #[test]
    fn only_what_the_agent_names_and_no_longer_holds_is_dropped() {
        let poller = Poller::new().expect("a poller");
        let links = Links::default();
        let (one, _far_one) = link(&poller, "t1");
        let (two, _far_two) = link(&poller, "t2");
        let (nameless, _far_nameless) = link(&poller, "t3");
        links.add(&one, 1, Some("g1.1".into()));
        links.add(&two, 1, Some("g1.2".into()));
        assert_eq!(links.add(&nameless, 1, None), 3);
        let gone = links.keep(&["g1.2".into(), "g1.7".into()]);
        assert_eq!(gone.iter().map(|link| link.name()).collect::<Vec<_>>(), ["t1"]);
        assert_eq!(links.all().iter().map(|link| link.name()).collect::<Vec<_>>(), ["t2", "t3"]);
        assert_eq!(links.remove(&one), (false, 2));
        assert_eq!(links.remove(&two), (true, 1));
    }

    /// Takes what comes.
    struct Deaf;

    impl Receiver for Deaf {
        fn stream_frame(&mut self, _: &Arc<Link>, _: Frame<'_>) -> Result<(), String> {
            Ok(())
        }
        fn control(&mut self, _: &Arc<Link>, _: &[u8]) -> Result<(), String> {
            Ok(())
        }
        fn pause(&mut self, _: &Arc<Link>) {}
        fn closed(&mut self, _: &Arc<Link>, _: &str) {}
    }

    fn until(what: &str, mut condition: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !condition() {
            assert!(Instant::now() < end, "waited in vain: {what}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_full_socket_is_seen_and_so_is_what_it_takes() {
        let poller = Poller::new().expect("a poller");
        let (link, mut far) = link(&poller, "t1");
        let threads = link.start(Vec::new(), Deaf).expect("threads");
        assert!(!link.signs(false).blocked);
        while !link.signs(false).blocked {
            link.data(1, &[7; 16 * 1024], false, None);
            link.flush();
        }
        until("nothing is taken any more", || {
            let signs = link.signs(false);
            signs.now > signs.last_out + 100_000
        });
        let before = link.signs(false).drained;
        let mut buffer = vec![0; 1 << 20];
        far.set_read_timeout(Some(Duration::from_millis(10))).expect("a duration");
        until("what was full takes more", || {
            // At the end nothing is left to be read, and it may still have to be noted.
            drop(far.read(&mut buffer));
            link.signs(false).drained > before
        });
        link.close("test");
        while far.read(&mut buffer).is_ok_and(|n| n > 0) {}
        assert_eq!(threads.join(), [""; 0]);
    }

    #[test]
    fn a_link_in_doubt_or_closed_gets_nothing_new() {
        let poller = Poller::new().expect("a poller");
        let links = Links::default();
        let (one, _far_one) = link(&poller, "t1");
        let (two, _far_two) = link(&poller, "t2");
        links.add(&one, 1, None);
        links.add(&two, 1, None);
        let least = || links.least(|link| link.streams()).map(|link| link.name().to_owned());
        assert_eq!((least().as_deref(), links.sound()), (Some("t1"), 2));
        one.doubt();
        assert_eq!((least().as_deref(), links.sound()), (Some("t2"), 1));
        assert_eq!(links.speaker().expect("a link").name(), "t2");
        two.close("test");
        assert_eq!((least(), links.sound()), (None, 0));
        assert_eq!(links.speaker().expect("better than none").name(), "t1");
    }
}
