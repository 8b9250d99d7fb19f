//! One greeted life of the tunnel to one Gateway: its Links and Streams.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use shared::alive::{Alive, Verdict};
use shared::link::Link;
use shared::reason::Reason;
use shared::streams::{NoStream, Streams};
use shared::threads::lock;

use crate::upstream::{Context, Upstream};

/// Streams accepted before the Gateway's `welcome` says how many there may be.
const MOST_BEFORE_WELCOME: usize = 1;

/// Links and Streams.
pub(crate) struct Session {
    pub(crate) streams: Streams<Upstream>,
    links: Mutex<Vec<(Arc<Link>, Alive)>>,
    max_streams: AtomicUsize,
    request_credit: u32,
    draining: AtomicBool,
    /// What Links that are gone have received and sent.
    before: (AtomicU64, AtomicU64),
}

impl Session {
    /// A Session whose Streams may each receive `request_credit` bytes before more is granted.
    pub(crate) fn new(request_credit: u32) -> Session {
        Session {
            streams: Streams::default(),
            links: Mutex::default(),
            max_streams: AtomicUsize::new(MOST_BEFORE_WELCOME),
            request_credit,
            draining: AtomicBool::new(false),
            before: Default::default(),
        }
    }

    /// Bytes of request body that the Gateway may send on a new Stream.
    pub(crate) fn request_credit(&self) -> u32 {
        self.request_credit
    }

    /// The Gateway says how many Streams it will open.
    pub(crate) fn allow_streams(&self, most: usize) {
        self.max_streams.store(most, Relaxed);
    }

    /// Enters a Stream that the Gateway opened.
    pub(crate) fn accept(&self, stream: u32, upstream: &Arc<Upstream>) -> Result<(), (Reason, String)> {
        self.streams.accept(stream, Arc::clone(upstream), self.max_streams.load(Relaxed)).map_err(|e| match e
        {
            NoStream::Full => (Reason::TooManyStreams, "more streams than the gateway announced".into()),
            NoStream::Closed => (Reason::LinkLost, "the session is over".into()),
            NoStream::Reused => (Reason::Protocol, format!("stream number {stream} is in use")),
        })
    }

    /// No new Streams are taken.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// A Link was greeted.
    pub(crate) fn add(&self, link: &Arc<Link>, heartbeat_micros: u64) {
        lock(&self.links).push((Arc::clone(link), Alive::new(heartbeat_micros)));
    }

    /// A Link is closed: its Streams end. Returns how many Links are left.
    pub(crate) fn lose(&self, link: &Arc<Link>) -> usize {
        let left = {
            let mut links = lock(&self.links);
            if links.iter().any(|(known, _)| Arc::ptr_eq(known, link)) {
                let (received, sent) = link.traffic();
                self.before.0.fetch_add(received, Relaxed);
                self.before.1.fetch_add(sent, Relaxed);
            }
            links.retain(|(known, _)| !Arc::ptr_eq(known, link));
            links.len()
        };
        let mut context = Context::default();
        for (number, upstream) in self.streams.all() {
            upstream.abandon_on_link(number, link, &mut context);
        }
        context.settle();
        left
    }

    /// All Links, in the order in which they joined.
    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        lock(&self.links).iter().map(|(link, _)| Arc::clone(link)).collect()
    }

    /// Bytes that all its Links have sent and received.
    pub(crate) fn traffic(&self) -> (u64, u64) {
        let links = lock(&self.links);
        let before = (self.before.1.load(Relaxed), self.before.0.load(Relaxed));
        links
            .iter()
            .map(|(link, _)| link.traffic())
            .fold(before, |(all_out, all_in), (more_in, more_out)| (all_out + more_out, all_in + more_in))
    }

    /// Beats, and the end of Links that are dead.
    pub(crate) fn tick(&self) {
        let mut todo = Vec::new();
        for (link, alive) in lock(&self.links).iter_mut() {
            let verdict = alive.look(link.signs(link.streams() > 0));
            if verdict != Verdict::Fine {
                todo.push((Arc::clone(link), verdict));
            }
        }
        for (link, verdict) in todo {
            if verdict == Verdict::Dead {
                link.close("nothing has arrived for too long");
            } else {
                link.beat();
                link.flush();
            }
        }
    }

    /// Ends it: Links are shut, Streams dropped.
    pub(crate) fn end(&self, why: &str) {
        for link in self.links() {
            link.close_with(1001, why);
        }
        for (number, upstream) in self.streams.close() {
            upstream.abandon(number, Reason::LinkLost);
        }
    }
}
