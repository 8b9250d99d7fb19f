//! One greeted life of an Agent's tunnel: its Links and Streams, and which Link a new Stream gets.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use shared::hello::{CLOSE_REPLACED, ConfigAck};
use shared::link::Link;
use shared::links::Links;
use shared::monotime;
use shared::reason::Reason;
use shared::streams::Streams;
use shared::threads::lock;

use super::Tunnel;
use crate::visitor::{Context, Visitor};

/// A round trip below this is a local line. Microseconds.
const NEAR: u64 = 3_000;
/// Streams that share a Link on a local line before the next one is used.
const SHARED: usize = 256;
/// What an Agent that is shutting down may announce at most, seconds.
const MOST_LEAVING: u64 = 60;
/// Differences in unsent bytes below this do not matter.
const UNSENT_STEP: usize = 16 * 1024;

/// One greeted life of a Tunnel.
pub(crate) struct Session {
    /// Secret: names the Session when further Links join.
    pub(super) id: String,
    /// Small number for logs and thread names.
    pub(super) number: u64,
    pub(crate) agent_name: String,
    pub(crate) agent_version: String,
    pub(crate) tunnel: Arc<Tunnel>,
    pub(crate) streams: Streams<Visitor>,
    /// Bytes of request body that may be sent on a new Stream.
    pub(crate) credit: u32,
    pub(super) links: Links,
    pub(super) link_count: AtomicUsize,
    pub(super) configured: AtomicBool,
    pub(super) draining: AtomicBool,
    /// Until when the Agent that said so may take, microseconds; 0 before.
    pub(super) leaves_until: AtomicU64,
    /// The answer to the newest table that was applied.
    pub(super) applied: Mutex<Option<ConfigAck>>,
    /// What it was told last, by type of message, and over which Link.
    pub(super) told: Mutex<HashMap<&'static str, Told>>,
    /// There was no room for something that it should be told, or it may not have arrived.
    pub(super) untold: AtomicBool,
}

/// A message that tells all of its subject.
pub(super) struct Told {
    json: Vec<u8>,
    link: Arc<Link>,
}

impl Session {
    /// Whether the Agent publishes this host name.
    pub(crate) fn publishes(&self, host: &str) -> bool {
        lock(&self.tunnel.state).table.iter().any(|(_, known)| known.as_str() == host)
    }

    /// Sends a message that tells all of its subject, unless it is the one sent before. It is made under a lock, so that
    /// of two the one that knows more is sent last. Nothing is sent before the Agent's table is in force: until then it
    /// expects nothing but the answer to that.
    pub(crate) fn tell_if_new(&self, kind: &'static str, make: impl FnOnce() -> Vec<u8>) {
        if !self.configured.load(Relaxed) {
            return;
        }
        let mut told = lock(&self.told);
        let json = make();
        if told.get(kind).is_some_and(|told| told.json == json) {
            return;
        }
        // Always over the same Link, so that an older message cannot overtake a newer one.
        let Some(link) = self.links().into_iter().next() else { return };
        if link.later(&json) {
            told.insert(kind, Told { json, link: Arc::clone(&link) });
            drop(told);
            link.flush();
        } else {
            self.untold.store(true, Relaxed);
        }
    }

    /// A Link is closed: what was told over it may not have arrived.
    pub(super) fn forget_told(&self, link: &Arc<Link>) {
        let mut told = lock(&self.told);
        let before = told.len();
        told.retain(|_, told| !Arc::ptr_eq(&told.link, link));
        if told.len() != before {
            self.untold.store(true, Relaxed);
        }
    }

    /// Whether there is something that it should be told again.
    pub(crate) fn take_untold(&self) -> bool {
        self.untold.swap(false, Relaxed)
    }

    /// All Links.
    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        self.links.all()
    }

    /// The home of a new Stream: the Link with the fewest long transfers, then unsent bytes, then Streams. On a local line a
    /// few dozen Streams share a Link, because there the hand-over from thread to thread is what costs. Never one that is
    /// in doubt.
    pub(crate) fn choose_link(&self) -> Option<Arc<Link>> {
        self.links.least(|link| {
            let share = if (1..NEAR).contains(&link.base_rtt()) { SHARED } else { 1 };
            (link.heavy(), link.unsent() / UNSENT_STEP, link.streams() / share)
        })
    }

    /// What others may call it: its own id is secret.
    pub(crate) fn connection_id(&self) -> String {
        format!("{:08x}", self.number)
    }

    /// Whether it takes new Streams.
    pub(crate) fn serves(&self) -> bool {
        self.configured.load(Relaxed) && !self.draining.load(Relaxed) && self.link_count.load(Relaxed) > 0
    }

    /// Whether a new Stream finds a Link. If not, all of them have been asked for a sign of life and have not answered.
    pub(crate) fn is_sound(&self) -> bool {
        self.links.sound() > 0
    }

    /// The Agent said that it is shutting down, within so many seconds. Opens no new Streams, and gives how many it has.
    pub(crate) fn drain(&self, seconds: u64) -> u32 {
        self.draining.store(true, Relaxed);
        let until = monotime::micros() + seconds.min(MOST_LEAVING) * 1_000_000;
        self.leaves_until.store(until, Relaxed);
        self.streams.seal()
    }

    /// Until when an Agent that is shutting down may take for what still runs; 0 when it is not. Microseconds.
    pub(super) fn leaves_until(&self) -> u64 {
        self.leaves_until.load(Relaxed)
    }

    /// Ends it at once: the Links' sockets are shut, never waited for, and every Stream ends with `reason`.
    pub(super) fn end(&self, reason: Reason, why: &str) {
        let code = if reason == Reason::AgentReplaced { CLOSE_REPLACED } else { 1001 };
        for link in self.links() {
            link.close_with(code, why);
        }
        let mut context = Context::default();
        for (number, visitor) in self.streams.close() {
            visitor.fail(number, reason, &mut context);
        }
        context.settle();
    }

    pub(crate) fn label(&self) -> String {
        format!("agent {:?}, session {}", self.agent_name, self.number)
    }
}
