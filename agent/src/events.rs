//! What happens in the Agent, handed to whoever has the admin page open.
//!
//! Publishing never waits: each listener has a queue with a bound. Whoever does not keep up is sent away and comes
//! back with the number of the last log line he has seen; of requests, of which there may be thousands in a second,
//! he gets a sample instead. How events look on the wire is left to `admin::events`.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use serde_json::{Value, json};

use shared::logging::{Line, Ring};
use shared::mapping::MappingId;
use shared::threads::lock;

use crate::timestamp;

/// Most listeners: each open page is one, and takes a connection of the admin port.
pub const LISTENERS: usize = 16;
/// Events and bytes that may wait for a listener.
const WAITING: usize = 1024;
const WAITING_BYTES: usize = 512 * 1024;
/// Requests told in a second; the others are in the traffic figures and in the audit trail.
const REQUESTS: usize = 100;
const SECOND: Duration = Duration::from_secs(1);

/// What those who listen can hear: events, and the lines of the Agent's own log.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// Events.
    pub hub: Arc<Hub>,
    /// The newest lines of the log, those of earlier runs included.
    pub log: Arc<Ring>,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The tunnel is in another state. Each listener looks for himself which.
    StatusUpdate,
    /// A line of the Gateway's log, with the Gateway's number for it.
    GatewayLog(Line),
    /// How a mapping stands: `{mappingId,status,lastRequestAt,errorMessage,routeState,routeError}`.
    MappingStatusUpdate(Value),
    /// The mapping table is another.
    MappingsChanged {
        /// `created`, `updated`, `deleted` or `imported`.
        reason: &'static str,
        /// Which ones.
        ids: Vec<MappingId>,
    },
    /// A request was served: an item of `GET /api/v1/requests`. At most a hundred a second reach a listener.
    RequestLogged(Value),
    /// The figures of the last seconds.
    Traffic(Value),
    /// What became of an update of the Gateway: the answer of `GET /api/v1/gateway/update`.
    UpdateOutcome(Value),
}

/// An event in its final form, shared by all who get it.
#[derive(Debug)]
pub(crate) struct Message {
    /// Its name in the stream.
    pub(crate) name: &'static str,
    /// JSON, in one line.
    pub(crate) data: String,
    /// The Gateway's number, of a line of its log.
    pub(crate) gateway_line: Option<u64>,
}

/// Why a listener gets nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It did not keep up.
    Slow,
    /// Its session is over.
    Session,
    /// The Agent stops.
    Stopping,
}

/// What has come since a listener last looked.
#[derive(Debug, Default)]
pub(crate) struct News {
    pub(crate) messages: VecDeque<Arc<Message>>,
    /// The status may be another.
    pub(crate) status: bool,
    pub(crate) end: Option<End>,
}

/// Who listens. One per process.
#[derive(Debug, Default)]
pub struct Hub {
    listeners: Mutex<Listeners>,
    /// How many there are, for those who only want to know whether it is worth the trouble.
    count: AtomicUsize,
    /// Events that a listener missed because he did not keep up, and requests told to nobody.
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Listeners {
    closed: bool,
    next: u64,
    all: HashMap<u64, Queue>,
    /// The second for which requests are being counted, and how many were told in it.
    second: Option<Instant>,
    requests: usize,
}

#[derive(Debug)]
struct Queue {
    /// The session in whose name it listens; `None` for a token that belongs to none.
    session: Option<MappingId>,
    news: News,
    bytes: usize,
    /// Of one place: full means that it has been woken already.
    wake: Sender<()>,
}

/// One who listens. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    hub: Arc<Hub>,
    number: u64,
    /// Something is there to be taken.
    pub(crate) woken: Receiver<()>,
}

impl Hub {
    /// Tells everyone who listens. Never waits; costs next to nothing when nobody does.
    pub fn publish(&self, event: Event) {
        if !self.has_listeners() {
            return;
        }
        let mut listeners = lock(&self.listeners);
        if matches!(event, Event::RequestLogged(_)) && !listeners.may_tell_request(Instant::now()) {
            self.dropped.fetch_add(1, Relaxed);
            return;
        }
        let message = Message::of(event).map(Arc::new);
        for queue in listeners.all.values_mut() {
            if !queue.push(message.as_ref()) {
                self.dropped.fetch_add(1, Relaxed);
            }
        }
    }

    /// Whether anybody listens: whoever makes an event at some cost asks first.
    pub fn has_listeners(&self) -> bool {
        self.count.load(Relaxed) > 0
    }

    /// How many listen.
    pub(crate) fn listeners(&self) -> usize {
        self.count.load(Relaxed)
    }

    /// Events that did not reach somebody who listened.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Listens from now on; `None` when [`LISTENERS`] do, or the Agent stops.
    pub(crate) fn listen(self: &Arc<Hub>, session: Option<MappingId>) -> Option<Listener> {
        let mut listeners = lock(&self.listeners);
        if listeners.closed || listeners.all.len() >= LISTENERS {
            return None;
        }
        let (wake, woken) = bounded(1);
        let number = listeners.next;
        listeners.next += 1;
        listeners.all.insert(number, Queue { session, news: News::default(), bytes: 0, wake });
        self.count.store(listeners.all.len(), Relaxed);
        Some(Listener { hub: Arc::clone(self), number, woken })
    }

    /// Ends everyone who listens in the name of a session of which `over` is true.
    pub(crate) fn end_sessions(&self, over: impl Fn(MappingId) -> bool) {
        for queue in lock(&self.listeners).all.values_mut() {
            if queue.session.is_some_and(&over) {
                queue.end(End::Session);
            }
        }
    }

    /// Ends everyone, for good.
    pub(crate) fn close(&self) {
        let mut listeners = lock(&self.listeners);
        listeners.closed = true;
        for queue in listeners.all.values_mut() {
            queue.end(End::Stopping);
        }
    }
}

impl Listeners {
    fn may_tell_request(&mut self, now: Instant) -> bool {
        if self.second.is_none_or(|since| now.duration_since(since) >= SECOND) {
            self.second = Some(now);
            self.requests = 0;
        }
        self.requests += 1;
        self.requests <= REQUESTS
    }
}

impl Queue {
    /// Adds a message, or the news that the status may be another. `false` when there is no room for it.
    fn push(&mut self, message: Option<&Arc<Message>>) -> bool {
        if self.news.end.is_some() {
            return false;
        }
        match message {
            None => self.news.status = true,
            Some(message) => {
                self.bytes += message.data.len();
                self.news.messages.push_back(Arc::clone(message));
                if self.news.messages.len() > WAITING || self.bytes > WAITING_BYTES {
                    self.end(End::Slow);
                    return false;
                }
            }
        }
        self.wake();
        true
    }

    fn end(&mut self, why: End) {
        self.news.end.get_or_insert(why);
        self.news.messages.clear();
        self.wake();
    }

    fn wake(&self) {
        // Full: it is awake.
        let _ = self.wake.try_send(());
    }
}

impl Listener {
    /// What has come since the last time.
    pub(crate) fn take(&self) -> News {
        let mut listeners = lock(&self.hub.listeners);
        let Some(queue) = listeners.all.get_mut(&self.number) else { return News::default() };
        queue.bytes = 0;
        let end = queue.news.end;
        // An end stays.
        std::mem::replace(&mut queue.news, News { end, ..News::default() })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut listeners = lock(&self.hub.listeners);
        listeners.all.remove(&self.number);
        self.hub.count.store(listeners.all.len(), Relaxed);
    }
}

impl Message {
    /// `None` for [`Event::StatusUpdate`], which each listener makes himself.
    fn of(event: Event) -> Option<Message> {
        let (name, data, gateway_line) = match event {
            Event::StatusUpdate => return None,
            Event::GatewayLog(line) => ("GatewayLog", line_value(&line), Some(line.id)),
            Event::MappingStatusUpdate(value) => ("MappingStatusUpdate", value, None),
            Event::MappingsChanged { reason, ids } => {
                let ids: Vec<_> = ids.iter().map(MappingId::to_string).collect();
                ("MappingsChanged", json!({ "reason": reason, "ids": ids }), None)
            }
            Event::RequestLogged(value) => ("RequestLogged", value, None),
            Event::Traffic(value) => ("Traffic", value, None),
            Event::UpdateOutcome(value) => ("UpdateOutcome", value, None),
        };
        Some(Message { name, data: data.to_string(), gateway_line })
    }
}

/// A line of a log, as the API shows it.
pub(crate) fn line_value(line: &Line) -> Value {
    json!({
        "id": line.id,
        "timestamp": timestamp::api_form_ms(line.time_ms),
        "level": line.level.word(),
        "message": &*line.text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub() -> Arc<Hub> {
        Arc::new(Hub::default())
    }

    fn outcome(text: &str) -> Event {
        Event::UpdateOutcome(json!(text))
    }

    fn data(news: &News) -> Vec<&str> {
        news.messages.iter().map(|message| message.data.as_str()).collect()
    }

    #[test]
    fn everyone_who_listens_is_told_in_order() {
        let hub = hub();
        hub.publish(outcome("nobody"));
        let (one, two) = (hub.listen(None).expect("room"), hub.listen(None).expect("room"));
        hub.publish(outcome("a"));
        hub.publish(Event::StatusUpdate);
        hub.publish(outcome("b"));
        assert_eq!(one.woken.try_recv(), Ok(()));
        let news = one.take();
        assert_eq!((data(&news), news.status, news.end), (vec!["\"a\"", "\"b\""], true, None));
        let news = one.take();
        assert_eq!((data(&news), news.status), (vec![], false));
        assert_eq!(data(&two.take()), ["\"a\"", "\"b\""]);
        drop((one, two));
        assert!(!hub.has_listeners());
    }

    #[test]
    fn whoever_does_not_keep_up_is_sent_away_alone() {
        for (size, most) in [(1, WAITING), (1000, WAITING_BYTES / 1002)] {
            let hub = hub();
            let (slow, quick) = (hub.listen(None).expect("room"), hub.listen(None).expect("room"));
            for _ in 0..=most {
                assert_eq!(slow.hub.dropped(), 0);
                hub.publish(outcome(&"x".repeat(size)));
                assert_eq!(quick.take().messages.len(), 1);
            }
            let news = slow.take();
            assert_eq!((news.messages.len(), news.end), (0, Some(End::Slow)));
            assert_eq!(slow.take().end, Some(End::Slow), "for good");
            assert_eq!((quick.take().end, hub.dropped()), (None, 1));
        }
    }

    #[test]
    fn of_many_requests_a_sample_is_told_and_the_rest_counted() {
        let mut listeners = Listeners::default();
        let now = Instant::now();
        let told = |listeners: &mut Listeners, now| {
            (0..3 * REQUESTS).filter(|_| listeners.may_tell_request(now)).count()
        };
        assert_eq!(told(&mut listeners, now), REQUESTS);
        assert_eq!(told(&mut listeners, now + SECOND / 2), 0);
        assert_eq!(told(&mut listeners, now + SECOND), REQUESTS);
    }

    #[test]
    fn there_are_no_more_than_sixteen() {
        let hub = hub();
        let all: Vec<_> = (0..LISTENERS).map(|_| hub.listen(None).expect("room")).collect();
        assert!(hub.listen(None).is_none());
        drop(all);
        assert!(hub.listen(None).is_some());
    }

    #[test]
    fn a_session_that_is_over_hears_nothing_more() {
        let hub = hub();
        let id = |byte| MappingId::from_random([byte; 16]);
        let (ended, other) = (hub.listen(Some(id(1))).expect("room"), hub.listen(Some(id(2))).expect("room"));
        let command = hub.listen(None).expect("room");
        hub.end_sessions(|session| session == id(1));
        hub.publish(outcome("secret"));
        let news = ended.take();
        assert_eq!((data(&news), news.end), (vec![], Some(End::Session)));
        assert_eq!(data(&other.take()), ["\"secret\""]);
        hub.close();
        assert_eq!((other.take().end, command.take().end), (Some(End::Stopping), Some(End::Stopping)));
        assert_eq!(ended.take().end, Some(End::Session));
        assert!(hub.listen(None).is_none());
    }
}
