//! What the Gateway should have of ours, and whether it does: the mapping table, the landing page, whether its log is wanted.
//!
//! Nothing is sent because something happened; it is sent because what the Gateway has acknowledged is not what is
//! wanted. Events only make the tunnel look sooner. So an event that is lost, while it greets, reconnects or takes
//! leave, costs a second and not the change. [`Offer`] is pure.

use std::sync::atomic::Ordering::Relaxed;

use shared::control::{LandingPage, WatchLogs};
use shared::hello::{Config, ConfigAck, ToGateway};
use shared::link::Link;
use shared::monotime;

use super::Tunnel;
use crate::session::Session;

/// How long what was sent may stay unanswered before it is sent again. Microseconds, like all below.
const ANSWER_TIME: u64 = 30_000_000;
/// What was refused is offered again after this long, doubling …
const FIRST_PAUSE: u64 = 5_000_000;
/// … up to this.
const MAX_PAUSE: u64 = 300_000_000;

/// One thing of which the Gateway should have the newest.
#[derive(Debug)]
pub(super) struct Offer<V> {
    /// What it has, as far as it has said.
    held: Option<V>,
    /// What is under way to it; never more than one, so that an older one cannot come in last.
    sent: Option<Sent<V>>,
    refusals: u32,
    not_before: u64,
}

#[derive(Debug)]
struct Sent<V> {
    what: V,
    /// Name of the Link that carries it.
    link: String,
    at: u64,
}

impl<V> Default for Offer<V> {
    fn default() -> Self {
        Offer { held: None, sent: None, refusals: 0, not_before: 0 }
    }
}

impl<V: PartialEq> Offer<V> {
    /// Whether `wanted` must be sent now.
    pub(super) fn is_due(&self, wanted: &V, now: u64) -> bool {
        let under_way = self.sent.as_ref().is_some_and(|sent| now.saturating_sub(sent.at) < ANSWER_TIME);
        self.held.as_ref() != Some(wanted) && !under_way && now >= self.not_before
    }

    /// `what` is under way over a Link.
    pub(super) fn sent(&mut self, what: V, link: &str, now: u64) {
        self.sent = Some(Sent { what, link: link.to_owned(), at: now });
    }

    /// The Gateway says what it has.
    pub(super) fn holds(&mut self, what: V) {
        if self.sent.as_ref().is_some_and(|sent| sent.what == what) {
            self.sent = None;
            self.refusals = 0;
        }
        self.held = Some(what);
    }

    /// The Gateway does not take what was sent; not now, at least.
    pub(super) fn refused(&mut self, now: u64) {
        if self.sent.take().is_some() {
            let pause = FIRST_PAUSE.saturating_mul(1 << self.refusals.min(16)).min(MAX_PAUSE);
            self.refusals += 1;
            self.not_before = now + pause;
        }
    }

    /// A Link is closed: what was under way over it may not have arrived, or its answer not.
    pub(super) fn lost(&mut self, link: &str) {
        if self.sent.as_ref().is_some_and(|sent| sent.link == link) {
            self.sent = None;
        }
    }
}

/// Everything that the Gateway of one Session should have.
#[derive(Debug)]
pub(super) struct Wanted {
    /// By version.
    table: Offer<u64>,
    /// By hash; `None` is the Gateway's default page.
    page: Offer<Option<String>>,
    /// What it was last told about its log, which it does not acknowledge; `None` when that may not have arrived.
    watching: Option<bool>,
    /// The Link over which it was told.
    watch_link: String,
}

impl Default for Wanted {
    fn default() -> Self {
        // A Session begins with nobody watching.
        let (watching, watch_link) = (Some(false), String::new());
        Wanted { table: Offer::default(), page: Offer::default(), watching, watch_link }
    }
}

impl Wanted {
    /// The Gateway has acknowledged a table.
    pub(super) fn acknowledged(&mut self, ack: &ConfigAck) {
        self.table.holds(ack.request);
    }

    /// A Link of the Session is closed.
    pub(super) fn lost(&mut self, link: &Link) {
        self.table.lost(link.name());
        self.page.lost(link.name());
        if self.watch_link == link.name() {
            self.watching = None;
        }
    }
}

impl Tunnel {
    /// Sends the mapping table if the Gateway has another one.
    pub(super) fn offer_table(&self, link: &Link, wanted: &mut Wanted) {
        let now = monotime::micros();
        if !wanted.table.is_due(&self.core.targets.version(), now) {
            return;
        }
        let offer = self.core.targets.offer();
        wanted.table.sent(offer.version, link.name(), now);
        let config = Config { request: offer.version, hash: offer.hash, mappings: offer.mappings };
        link.control(&ToGateway::Config(config).to_json());
        link.flush();
    }

    /// Sends the landing page if the Gateway holds another one.
    fn offer_page(&self, link: &Link, wanted: &mut Wanted) {
        let now = monotime::micros();
        if self.news.take_page_refusal() {
            wanted.page.refused(now);
        }
        if let Some(held) = self.news.held_page() {
            wanted.page.holds(held);
        }
        let page = self.core.pages.now();
        let hash = page.as_ref().map(|page| page.hash.clone());
        // One that the API has just sent is waited for.
        if !wanted.page.is_due(&hash, now) || self.asks.is_asked("landing-page") {
            return;
        }
        let message = ToGateway::LandingPage(LandingPage {
            request: 0,
            html: page.as_ref().map(|page| page.html.clone()),
            saved_at: page.as_ref().map(|page| page.saved_at.clone()),
        });
        wanted.page.sent(hash, link.name(), now);
        if !link.later(&message.to_json()) {
            log::warn!("gateway {}: no room to send the landing page", self.url);
            wanted.page.refused(now);
        }
        link.flush();
    }

    /// Lets the Gateway send lines of its log while somebody here listens.
    fn watch_logs(&self, link: &Link, wanted: &mut Wanted) {
        let (news, listens) = (&self.news, self.core.hub.has_listeners());
        if wanted.watching == Some(listens) || news.cannot_watch.load(Relaxed) {
            return;
        }
        wanted.watching = Some(listens);
        link.name().clone_into(&mut wanted.watch_link);
        let wish = WatchLogs { on: listens, after: news.last_line() };
        link.control(&ToGateway::WatchLogs(wish).to_json());
        link.flush();
    }

    /// Brings the Gateway whatever it should have and has not.
    pub(super) fn catch_up(&self, session: &Session, wanted: &mut Wanted) {
        // Before looking: what changes from here on makes us look again.
        self.looks_soon.store(false, Relaxed);
        let Some(link) = session.links.speaker() else { return };
        self.offer_table(&link, wanted);
        self.offer_page(&link, wanted);
        // What is not acknowledged stays on one Link, so that an older wish cannot come in last.
        let before = session.links().into_iter().find(|link| link.name() == wanted.watch_link);
        self.watch_logs(&before.unwrap_or(link), wanted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    #[test]
    fn it_is_sent_until_it_is_held() {
        let mut offer = Offer::default();
        assert!(offer.is_due(&1, 0), "nothing is known to be held");
        offer.sent(1, "a", 0);
        assert!(!offer.is_due(&1, S), "under way");
        assert!(offer.is_due(&1, ANSWER_TIME), "never answered");
        offer.holds(1);
        assert!(!offer.is_due(&1, 100 * S));
        assert!(offer.is_due(&2, 100 * S));
    }

    #[test]
    fn a_change_while_one_is_under_way_follows_it() {
        let mut offer = Offer::default();
        offer.sent(1, "a", 0);
        assert!(!offer.is_due(&2, S), "one at a time, so that they cannot overtake one another");
        offer.holds(1);
        assert!(offer.is_due(&2, S));
    }

    #[test]
    fn an_answer_to_something_else_does_not_count() {
        let mut offer = Offer::default();
        offer.sent(2, "a", 0);
        offer.holds(1);
        assert!(!offer.is_due(&2, S), "still under way");
        assert!(offer.is_due(&2, ANSWER_TIME));
    }

    #[test]
    fn what_was_under_way_on_a_lost_link_is_sent_again() {
        let mut offer = Offer::default();
        offer.sent(1, "a", 0);
        offer.lost("b");
        assert!(!offer.is_due(&1, S));
        offer.lost("a");
        assert!(offer.is_due(&1, S));
    }

    #[test]
    fn what_is_refused_is_offered_less_and_less_often() {
        let mut offer = Offer::default();
        let mut now = 0;
        for pause in [5, 10, 20, 40, 80, 160, 300, 300] {
            assert!(offer.is_due(&1, now));
            offer.sent(1, "a", now);
            offer.refused(now);
            assert!(!offer.is_due(&1, now + pause * S - 1), "{pause}");
            now += pause * S;
        }
        offer.sent(1, "a", now);
        offer.holds(1);
        offer.sent(2, "a", now);
        offer.refused(now);
        assert!(offer.is_due(&2, now + FIRST_PAUSE), "an answer ends the series");
        offer.refused(now + FIRST_PAUSE);
        assert!(offer.is_due(&2, now + FIRST_PAUSE), "nothing was under way");
    }

    /// Any order of changes, answers, losses and refusals ends with what is wanted being held, once things calm down.
    #[test]
    fn whatever_happens_the_newest_is_held_in_the_end() {
        let mut seed = 7u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for round in 0..2_000 {
            let (mut offer, mut now, mut wanted) = (Offer::default(), 0, 0u64);
            // What the Gateway has got, and answers that are on their way back.
            let mut under_way: Option<u64> = None;
            for _ in 0..random(40) {
                now += random(20 * S);
                match random(5) {
                    0 => wanted += 1,
                    1 => {
                        if let Some(what) = under_way.take() {
                            offer.holds(what);
                        }
                    }
                    2 => {
                        under_way = None;
                        offer.lost("a");
                    }
                    3 => {
                        under_way = None;
                        offer.refused(now);
                    }
                    _ => {}
                }
                if random(2) == 0 && offer.is_due(&wanted, now) {
                    offer.sent(wanted, "a", now);
                    under_way = Some(wanted);
                }
            }
            let mut held = offer.held;
            for _ in 0..3 {
                if let Some(what) = under_way.take() {
                    offer.holds(what);
                    held = Some(what);
                }
                now += MAX_PAUSE;
                if offer.is_due(&wanted, now) {
                    offer.sent(wanted, "a", now);
                    under_way = Some(wanted);
                }
            }
            assert_eq!(held, Some(wanted), "round {round}");
        }
    }
}
