//! What has been asked for and what became of it: the audit trail, the totals behind the charts, and the tunnel's own
//! connections.
//!
//! Those who serve requests only copy a few bytes and add to counters, under a lock that nobody holds for long; the
//! thread `history` has all of it written some times a minute, and a reader has it written first, so that what he sees
//! is complete. The rows have a bounded queue: of a flood of requests some are only counted ([`Recorder::dropped`]). The
//! counters have no such bound, so totals are exact. The tables are left to the store.

mod counts;
mod durations;
mod keeper;
mod live;
mod rows;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime};

use crossbeam_channel::{Sender, bounded};
use shared::mapping::MappingId;
use shared::reason::Reason;
use shared::threads::{self, lock};
use time::OffsetDateTime;

use crate::config::Config;
use crate::events::{Event, Hub};
use crate::random;
use crate::store::{Store, StoreError};

pub(crate) use counts::Counts;
pub(crate) use durations::Durations;
use keeper::keep;
use live::Figures;
pub(crate) use live::Item;
use rows::{ERROR, MOST_ROWS, event, row_id};
pub(crate) use rows::{Rows, clip};

/// As many as this are written before their time.
const MANY_ROWS: usize = MOST_ROWS / 2;
/// Connections of the tunnel that may wait to be written; more than that come and go only if the disk is full.
const MOST_CONNECTIONS: usize = 1000;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Days for which requests and connections are kept.
    pub days: u64,
    /// Requests kept at most; 0 for none.
    pub rows: u64,
    /// Whether query strings are.
    pub queries: bool,
}

impl Limits {
    /// Those of the settings.
    pub(crate) fn of(config: &Config) -> Limits {
        Limits {
            days: config.request_log_days,
            rows: config.request_log_rows,
            queries: config.log_query_strings,
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { days: 30, rows: 200_000, queries: true }
    }
}

/// A request that is over, as whoever served it knows it.
pub(crate) struct RequestEntry<'e> {
    pub(crate) mapping: MappingId,
    /// What it is called, and its domain; `None` when there is no such mapping.
    pub(crate) called: Option<(&'e str, &'e str)>,
    pub(crate) method: &'e str,
    /// Path and query.
    pub(crate) target: &'e str,
    pub(crate) status: u16,
    /// Bytes of the body.
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    /// Those of them that [`Recorder::progress`] has been told of.
    pub(crate) counted: (u64, u64),
    pub(crate) micros: u64,
    pub(crate) visitor: &'e str,
    pub(crate) user_agent: &'e str,
    /// Why it did not end as it should, and in which words.
    pub(crate) failure: Option<(Reason, &'e str)>,
}

/// Takes note of requests and connections. One per process.
pub struct Recorder {
    ledger: Arc<Ledger>,
    store: Store,
    /// `None` once stopped.
    wake: Mutex<Option<Sender<()>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What has not been written yet, and who wants to know.
pub(crate) struct Ledger {
    hub: Arc<Hub>,
    pub(crate) limits: Limits,
    pages: Mutex<Pages>,
    /// Requests that are in no row.
    dropped: AtomicU64,
    active: AtomicUsize,
    /// Rows in the table; `u64::MAX` before they have been counted.
    pub(crate) rows: AtomicU64,
}

struct Pages {
    pending: Pending,
    figures: Figures,
    open: Vec<Connection>,
    last: HashMap<MappingId, i64>,
    /// Makes ids of one process differ.
    sequence: u64,
}

/// Everything that is to be written.
#[derive(Default)]
pub(crate) struct Pending {
    pub(crate) rows: Rows,
    /// By minute (in seconds since 1970) and mapping.
    pub(crate) counts: HashMap<(i64, MappingId), Counts>,
    /// The last request of each mapping, in ticks.
    pub(crate) last: HashMap<MappingId, i64>,
    pub(crate) connections: Vec<ConnectionRow>,
}

/// How a connection's bytes are asked for: sent and received by us.
type Meter = Box<dyn Fn() -> (u64, u64) + Send>;

struct Connection {
    row: ConnectionRow,
    meter: Meter,
}

/// A connection of the tunnel, as it is to be written.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionRow {
    pub(crate) id: MappingId,
    pub(crate) gateway_url: String,
    pub(crate) connected_at: i64,
    pub(crate) disconnected_at: Option<i64>,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) reason: Option<String>,
}

/// A request that is under way, as long as it lives.
pub(crate) struct Active(Arc<Ledger>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}

impl Recorder {
    /// Starts the thread that has things written.
    /// `hub` hears of requests while somebody listens.
    pub fn start(store: Store, limits: Limits, hub: Arc<Hub>) -> Result<Arc<Recorder>, StoreError> {
        let last = store.last_requests()?;
        let pages = Pages {
            pending: Pending::default(),
            figures: Figures::new(Instant::now()),
            open: Vec::new(),
            last,
            sequence: u64::from_ne_bytes(random::bytes()),
        };
        let ledger = Arc::new(Ledger {
            hub,
            limits,
            pages: Mutex::new(pages),
            dropped: AtomicU64::new(0),
            active: AtomicUsize::new(0),
            rows: AtomicU64::new(u64::MAX),
        });
        // One is enough: it says "look".
        let (wake, woken) = bounded(1);
        let thread = {
            let (ledger, store) = (Arc::clone(&ledger), store.clone());
            threads::spawn("history", move || keep(&ledger, &store, &woken)).map_err(StoreError::Thread)?
        };
        Ok(Arc::new(Recorder {
            ledger,
            store,
            wake: Mutex::new(Some(wake)),
            thread: Mutex::new(Some(thread)),
        }))
    }

    /// Has everything written and ends the thread. Whether it had panicked.
    pub(crate) fn stop(&self) -> bool {
        lock(&self.wake).take();
        lock(&self.thread).take().is_some_and(|thread| thread.join().is_err())
    }

    /// Requests that were counted but are in no row, since the start: there were too many at a time, or the disk took
    /// none.
    pub fn dropped(&self) -> u64 {
        self.ledger.dropped.load(Relaxed)
    }

    /// Requests under way.
    pub fn active(&self) -> usize {
        self.ledger.active.load(Relaxed)
    }

    /// When each mapping was last asked for.
    pub fn last_requests(&self) -> HashMap<MappingId, OffsetDateTime> {
        lock(&self.ledger.pages).last.iter().map(|(id, at)| (*id, from_ticks(*at))).collect()
    }

    /// When this mapping was.
    pub(crate) fn last_request(&self, mapping: MappingId) -> Option<OffsetDateTime> {
        lock(&self.ledger.pages).last.get(&mapping).copied().map(from_ticks)
    }

    /// Has what is known so far written, so that a reader sees it. He sees the rest if that cannot be done.
    pub(crate) fn settle(&self) {
        if let Err(e) = self.store.record(&self.ledger, true) {
            log::error!("what is shown of the history is not complete: {e}");
        }
    }

    /// A request begins; it counts as under way until the answer is dropped.
    pub(crate) fn begins(&self) -> Active {
        self.ledger.active.fetch_add(1, Relaxed);
        Active(Arc::clone(&self.ledger))
    }

    /// A long request has moved so many bytes more: they count now, not only when it ends.
    pub(crate) fn progress(&self, mapping: MappingId, request_bytes: u64, response_bytes: u64) {
        let minute = minute(now_ticks());
        let mut pages = lock(&self.ledger.pages);
        let pages = &mut *pages;
        let counts = pages.pending.counts.entry((minute, mapping)).or_default();
        for counts in [counts, &mut pages.figures.counts] {
            counts.bytes_in += request_bytes;
            counts.bytes_out += response_bytes;
        }
    }

    /// A request is over.
    pub(crate) fn request(&self, entry: &RequestEntry<'_>) {
        let now = now_ticks();
        let at = now.saturating_sub_unsigned(entry.micros.saturating_mul(10));
        let ledger = &self.ledger;
        let listened = ledger.hub.has_listeners();
        let (many, id, told) = {
            let mut pages = lock(&ledger.pages);
            let pages = &mut *pages;
            // What a Gateway may make up must not fill memory.
            let counted = if entry.called.is_some() { entry.mapping } else { UNKNOWN };
            pages.pending.counts.entry((minute(now), counted)).or_default().add(entry);
            if entry.called.is_some() {
                pages.last.insert(entry.mapping, at);
                pages.pending.last.insert(entry.mapping, at);
            }
            pages.sequence = pages.sequence.wrapping_add(1);
            let id = row_id(at, pages.sequence);
            let told = listened && {
                pages.figures.counts.add(entry);
                pages.figures.may_tell(Instant::now())
            };
            let rows = &mut pages.pending.rows;
            let many = if ledger.limits.rows == 0 {
                false
            } else if rows.has_room() {
                rows.push(id, at, ledger.limits.queries, entry);
                rows.len() == MANY_ROWS
            } else {
                ledger.dropped.fetch_add(1, Relaxed);
                false
            };
            (many, id, told)
        };
        if told {
            ledger.hub.publish(Event::RequestLogged(event(id, at, ledger.limits.queries, entry)));
        }
        if many && let Some(wake) = &*lock(&self.wake) {
            // Full: it has been told already.
            let _ = wake.try_send(());
        }
    }

    /// A Session with a Gateway begins; `meter` says how many bytes it has sent and received.
    pub(crate) fn connected(&self, gateway_url: &str, meter: Meter) -> MappingId {
        let at = now_ticks();
        let mut pages = lock(&self.ledger.pages);
        pages.sequence = pages.sequence.wrapping_add(1);
        let id = row_id(at, pages.sequence);
        let row = ConnectionRow {
            id,
            gateway_url: gateway_url.to_owned(),
            connected_at: at,
            disconnected_at: None,
            sent: 0,
            received: 0,
            reason: None,
        };
        pages.pending.connections.push(row.clone());
        pages.open.push(Connection { row, meter });
        id
    }

    /// It is over.
    pub(crate) fn disconnected(&self, id: MappingId, reason: &str) {
        let mut pages = lock(&self.ledger.pages);
        let Some(index) = pages.open.iter().position(|open| open.row.id == id) else { return };
        let Connection { mut row, meter } = pages.open.swap_remove(index);
        (row.sent, row.received) = meter();
        row.disconnected_at = Some(now_ticks());
        row.reason = Some(clip(reason, ERROR).to_owned());
        if pages.pending.connections.len() < MOST_CONNECTIONS {
            pages.pending.connections.push(row);
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Ledger {
    /// What is to be written, with the bytes of open connections if something is, or if they are asked for.
    pub(crate) fn take(&self, open: bool) -> Option<Pending> {
        let mut pages = lock(&self.pages);
        let pages = &mut *pages;
        let pending = &pages.pending;
        let nothing = pending.rows.len() == 0
            && pending.counts.is_empty()
            && pending.connections.is_empty()
            && pending.last.is_empty();
        if nothing && (!open || pages.open.is_empty()) {
            return None;
        }
        let mut taken = std::mem::take(&mut pages.pending);
        for connection in &mut pages.open {
            let bytes = (connection.meter)();
            if bytes != (connection.row.sent, connection.row.received) {
                (connection.row.sent, connection.row.received) = bytes;
                taken.connections.push(connection.row.clone());
            }
        }
        Some(taken)
    }

    /// It could not be written. The rows are lost, the totals are not.
    pub(crate) fn give_back(&self, pending: Pending) {
        self.dropped.fetch_add(pending.rows.len() as u64, Relaxed);
        let mut pages = lock(&self.pages);
        for (key, counts) in pending.counts {
            pages.pending.counts.entry(key).or_default().merge(&counts);
        }
        for (id, at) in pending.last {
            pages.pending.last.entry(id).or_insert(at);
        }
        let newer = std::mem::take(&mut pages.pending.connections);
        pages.pending.connections = pending.connections;
        pages.pending.connections.extend(newer);
        pages.pending.connections.truncate(MOST_CONNECTIONS);
    }
}

/// Counts of requests for mappings that do not exist.
pub(crate) const UNKNOWN: MappingId = MappingId::from_bytes([0; 16]);

/// Start of the minute, seconds since 1970.
fn minute(ticks: i64) -> i64 {
    ticks.div_euclid(TICKS).div_euclid(60) * 60
}

/// Ticks of 100 ns in a second: the finest step that the database can show.
const TICKS: i64 = 10_000_000;

/// Now, in ticks since 1970.
fn now_ticks() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (since.as_nanos() / 100) as i64
}

/// Ticks since 1970 as a date.
pub(crate) fn from_ticks(ticks: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ticks) * 100).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// A date as ticks since 1970.
pub(crate) fn to_ticks(at: OffsetDateTime) -> i64 {
    (at.unix_timestamp_nanos() / 100) as i64
}

/// For tests of this crate.
#[cfg(test)]
pub(crate) fn some_request(target: &str) -> RequestEntry<'_> {
    RequestEntry {
        mapping: MappingId::from_bytes([1; 16]),
        called: Some(("NAS", "nas.example")),
        method: "GET",
        target,
        status: 200,
        request_bytes: 10,
        response_bytes: 1_000,
        counted: (0, 0),
        micros: 12_345,
        visitor: "203.0.113.9",
        user_agent: "curl/8",
        failure: None,
    }
}

#[cfg(test)]
mod tests;
