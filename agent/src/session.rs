//! One greeted life of the tunnel to one Gateway: its Links and Streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

use shared::link::Link;
use shared::links::Links;
use shared::reason::Reason;
use shared::streams::{NoStream, Streams};

use crate::upstream::{Context, Upstream};

/// Streams accepted before the Gateway's `welcome` says how many there may be.
const MOST_BEFORE_WELCOME: usize = 1;

/// Links and Streams.
pub(crate) struct Session {
    pub(crate) streams: Streams<Upstream>,
    pub(crate) links: Links,
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
            links: Links::default(),
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

    /// The Streams that may finish before the Agent stops.
    pub(crate) fn may_finish(&self) -> Vec<u32> {
        let all = self.streams.all().into_iter();
        all.filter(|(number, upstream)| upstream.may_finish(*number)).map(|(number, _)| number).collect()
    }

    /// Ends what would not end by itself.
    pub(crate) fn part(&self) {
        let mut context = Context::default();
        for (number, upstream) in self.streams.all() {
            upstream.part(number, &mut context);
        }
        context.settle();
    }

    /// Ends what still runs, and tells the Gateway.
    pub(crate) fn cut(&self) {
        let mut context = Context::default();
        for (number, upstream) in self.streams.all() {
            upstream.cut(number, &mut context);
        }
        context.settle();
    }

    /// A Link was greeted.
    pub(crate) fn add(&self, link: &Arc<Link>, heartbeat_micros: u64) {
        if self.links.add(link, heartbeat_micros, None) == 1 {
            self.links.pulse(heartbeat_micros);
        }
    }

    /// A Link is closed: its Streams end. Returns how many Links are left.
    pub(crate) fn lose(&self, link: &Arc<Link>) -> usize {
        let (known, left) = self.links.remove(link);
        if known {
            let (received, sent) = link.traffic();
            self.before.0.fetch_add(received, Relaxed);
            self.before.1.fetch_add(sent, Relaxed);
            if !link.in_doubt() {
                // What ended it may have ended the others. One in doubt was expected to end: they have been asked.
                self.links.doubt();
            }
        }
        self.streams.forget_gaps();
        let mut context = Context::default();
        for (number, upstream) in self.streams.all() {
            upstream.abandon_on_link(number, link, &mut context);
        }
        context.settle();
        left
    }

    /// All Links, in the order in which they joined.
    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        self.links.all()
    }

    /// Bytes that all its Links have sent and received.
    pub(crate) fn traffic(&self) -> (u64, u64) {
        let before = (self.before.1.load(Relaxed), self.before.0.load(Relaxed));
        self.links()
            .iter()
            .map(|link| link.traffic())
            .fold(before, |(all_out, all_in), (more_in, more_out)| (all_out + more_out, all_in + more_in))
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
