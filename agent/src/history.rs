//! What has been asked for and what became of it: the audit trail, the totals behind the charts, and the tunnel's own
//! connections.
//!
//! Those who serve requests only copy a few bytes and add to counters, under a lock that nobody holds for long; the
//! thread `history` has all of it written some times a minute, and a reader has it written first, so that what he sees
//! is complete. The rows have a bounded queue: of a flood of requests some are only counted ([`Recorder::dropped`]). The
//! counters have no such bound, so totals are exact. The tables are left to the store.

mod durations;
mod live;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use shared::mapping::MappingId;
use shared::reason::Reason;
use shared::threads::{self, lock};
use time::OffsetDateTime;

use crate::config::Config;
use crate::events::{Event, Hub};
use crate::random;
use crate::store::{Store, StoreError};
use crate::timestamp;

pub(crate) use durations::Durations;
use live::Figures;
pub(crate) use live::Item;

/// Rows that may wait to be written.
const MOST_ROWS: usize = 6144;
/// Bytes of text that they may have together; a row has a few hundred, at most 7 KiB.
const MOST_TEXT: usize = 4 * 1024 * 1024;
/// As many as this are written before their time …
const MANY_ROWS: usize = MOST_ROWS / 2;
/// … but not sooner after the last time than this, which makes about 1,500 rows a second at most: what an SD card and a
/// small processor can take beside the traffic itself.
const AT_LEAST: Duration = Duration::from_secs(4);
/// How long rows wait otherwise.
const AT_MOST: Duration = Duration::from_secs(20);
/// How often what is old is looked for, and an open connection's bytes are written, when nothing else is.
const HOUSEKEEPING: Duration = Duration::from_secs(3600);
/// How often the figures are told while somebody listens; a listener who comes in between waits for so long.
const TELL: Duration = Duration::from_secs(2);
/// Connections of the tunnel that may wait to be written; more than that come and go only if the disk is full.
const MOST_CONNECTIONS: usize = 1000;
/// Ends of columns, in bytes; the widths are those of the earlier program.
const METHOD: usize = 10;
const PATH: usize = 2048;
const CLIENT: usize = 45;
const USER_AGENT: usize = 500;
const ERROR: usize = 1000;

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

/// Totals of some requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) requests: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// 1xx to 5xx.
    pub(crate) status: [u64; 5],
    pub(crate) failed: u64,
    pub(crate) durations: Durations,
}

impl Counts {
    fn clear(&mut self) {
        let mut durations = std::mem::take(&mut self.durations);
        durations.clear();
        *self = Counts { durations, ..Counts::default() };
    }

    pub(crate) fn merge(&mut self, other: &Counts) {
        self.requests += other.requests;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        for (count, more) in self.status.iter_mut().zip(other.status) {
            *count += more;
        }
        self.failed += other.failed;
        self.durations.merge(&other.durations);
    }

    fn add(&mut self, entry: &RequestEntry<'_>) {
        self.requests += 1;
        self.bytes_in += entry.request_bytes.saturating_sub(entry.counted.0);
        self.bytes_out += entry.response_bytes.saturating_sub(entry.counted.1);
        if let Some(count) =
            usize::from(entry.status / 100).checked_sub(1).and_then(|n| self.status.get_mut(n))
        {
            *count += 1;
        }
        self.failed += u64::from(is_failure(entry.failure));
        // The hours of an upgraded connection say nothing about how fast anything is.
        if entry.status != 101 {
            self.durations.add(entry.micros);
        }
    }
}

/// A visitor who leaves is noted, but nothing has failed.
fn is_failure(failure: Option<(Reason, &str)>) -> bool {
    failure.is_some_and(|(reason, _)| reason != Reason::VisitorGone)
}

/// Rows with their texts in one place, so that a request costs no allocation.
#[derive(Default)]
pub(crate) struct Rows {
    rows: Vec<Row>,
    text: String,
}

struct Row {
    id: MappingId,
    mapping: MappingId,
    at: i64,
    status: u16,
    request_bytes: u64,
    response_bytes: u64,
    millis: u64,
    /// Where method, path, query, client, user agent and error end.
    ends: [u32; 6],
    has_query: bool,
    has_error: bool,
}

/// A row to be written.
pub(crate) struct RowView<'r> {
    pub(crate) id: MappingId,
    pub(crate) mapping: MappingId,
    pub(crate) at: i64,
    pub(crate) method: &'r str,
    pub(crate) path: &'r str,
    pub(crate) query: Option<&'r str>,
    pub(crate) status: u16,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    pub(crate) millis: u64,
    pub(crate) client: &'r str,
    pub(crate) user_agent: Option<&'r str>,
    pub(crate) error: Option<&'r str>,
}

impl Rows {
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    fn has_room(&self) -> bool {
        self.rows.len() < MOST_ROWS && self.text.len() < MOST_TEXT
    }

    fn push(&mut self, id: MappingId, at: i64, queries: bool, entry: &RequestEntry<'_>) {
        let (path, query) = match entry.target.split_once('?') {
            Some((path, query)) => (path, Some(query).filter(|_| queries)),
            None => (entry.target, None),
        };
        let mut ends = [0; 6];
        let mut put = |index: usize, text: &str, most| {
            self.text.push_str(clip(text, most));
            ends[index] = self.text.len() as u32;
        };
        put(0, entry.method, METHOD);
        put(1, path, PATH);
        put(2, query.unwrap_or_default(), PATH);
        put(3, entry.visitor, CLIENT);
        put(4, entry.user_agent, USER_AGENT);
        if let Some((reason, text)) = entry.failure {
            let start = self.text.len();
            self.text.push_str(reason.name());
            self.text.push_str(" at the ");
            self.text.push_str(hop_name(reason));
            if !text.is_empty() {
                self.text.push_str(": ");
                self.text.push_str(clip(text, ERROR - (self.text.len() - start)));
            }
        }
        ends[5] = self.text.len() as u32;
        self.rows.push(Row {
            id,
            mapping: entry.mapping,
            at,
            status: entry.status,
            request_bytes: entry.request_bytes,
            response_bytes: entry.response_bytes,
            millis: entry.micros / 1000,
            ends,
            has_query: query.is_some(),
            has_error: entry.failure.is_some(),
        });
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = RowView<'_>> {
        let mut start = 0;
        self.rows.iter().map(move |row| {
            let mut texts = row.ends.iter().map(|end| {
                let text = &self.text[start..*end as usize];
                start = *end as usize;
                text
            });
            let mut next = || texts.next().unwrap_or_default();
            let (method, path, query) = (next(), next(), next());
            let (client, user_agent, error) = (next(), next(), next());
            RowView {
                id: row.id,
                mapping: row.mapping,
                at: row.at,
                method,
                path,
                query: Some(query).filter(|_| row.has_query),
                status: row.status,
                request_bytes: row.request_bytes,
                response_bytes: row.response_bytes,
                millis: row.millis,
                client,
                user_agent: Some(user_agent).filter(|text| !text.is_empty()),
                error: Some(error).filter(|_| row.has_error),
            }
        })
    }
}

/// As `GET /api/v1/requests` will show it.
fn event(id: MappingId, at: i64, queries: bool, entry: &RequestEntry<'_>) -> serde_json::Value {
    // By way of a row, so that it is cut as the row is.
    let mut rows = Rows::default();
    rows.push(id, at, queries, entry);
    let row = rows.iter().next().expect("just pushed");
    let item = Item {
        id: id.to_string(),
        timestamp: timestamp::api_form(from_ticks(at)),
        mapping: entry.mapping.to_string(),
        called: entry.called,
        method: row.method,
        path: row.path,
        query: row.query,
        status: row.status.into(),
        request_bytes: row.request_bytes as i64,
        response_bytes: row.response_bytes as i64,
        millis: row.millis as i64,
        client: Some(row.client),
        user_agent: row.user_agent,
        error: row.error,
    };
    item.value()
}

fn hop_name(reason: Reason) -> &'static str {
    match reason.hop() {
        shared::reason::Hop::Visitor => "visitor",
        shared::reason::Hop::Gateway => "gateway",
        shared::reason::Hop::Tunnel => "tunnel",
        shared::reason::Hop::Agent => "agent",
        shared::reason::Hop::Upstream => "upstream",
    }
}

/// At most `most` bytes, whole characters.
pub(crate) fn clip(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
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

/// The thread `history`.
fn keep(ledger: &Arc<Ledger>, store: &Store, woken: &Receiver<()>) {
    let mut written = Instant::now();
    let mut kept = Instant::now();
    let mut told = Instant::now();
    let mut many = false;
    let mut failing = false;
    loop {
        let due = written + if many { AT_LEAST } else { AT_MOST };
        match woken.recv_deadline(due.min(told + TELL)) {
            Ok(()) => {
                many = true;
                continue;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                if let Err(e) = store.record(ledger, true) {
                    log::error!("the last requests are not in the history: {e}");
                }
                return;
            }
        }
        let now = Instant::now();
        if now >= told + TELL {
            told = now;
            let figures = lock(&ledger.pages).figures.take(now, ledger.active.load(Relaxed));
            ledger.hub.publish(Event::Traffic(figures));
        }
        if now < due {
            continue;
        }
        (written, many) = (Instant::now(), false);
        let housekeeping = kept.elapsed() >= HOUSEKEEPING;
        let result = store.record(ledger, housekeeping).and_then(|()| {
            if housekeeping {
                kept = Instant::now();
                keep_house(ledger, store)?;
            }
            Ok(())
        });
        match result {
            Ok(()) if std::mem::take(&mut failing) => log::info!("requests are kept again"),
            Ok(()) => {}
            // Once, not three times a minute.
            Err(e) if !std::mem::replace(&mut failing, true) => {
                log::error!("requests cannot be kept at the moment, only counted: {e}");
            }
            Err(e) => log::debug!("requests still cannot be kept: {e}"),
        }
    }
}

/// What is too old goes, also when nothing new comes.
fn keep_house(ledger: &Ledger, store: &Store) -> Result<(), StoreError> {
    let tidied = store.tidy_history(ledger.limits.days);
    // To be counted again: else rows that went would count as rows that are too many.
    ledger.rows.store(u64::MAX, Relaxed);
    tidied
}

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

/// A version 7 UUID (RFC 9562 5.7): rises with time, so that rows are added at the end of the table's index and not all
/// over it. The fraction of the millisecond follows (6.2, method 3), then a sequence that begins at random.
fn row_id(ticks: i64, sequence: u64) -> MappingId {
    let ticks = ticks.max(0) as u64;
    let (millis, rest) = (ticks / 10_000, ticks % 10_000);
    let fraction = rest * 4096 / 10_000;
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
    bytes[6..8].copy_from_slice(&(0x7000 | fraction as u16).to_be_bytes());
    bytes[8..].copy_from_slice(&((sequence & (u64::MAX >> 2)) | (1 << 63)).to_be_bytes());
    MappingId::from_bytes(bytes)
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
mod tests {
    use super::*;

    use super::some_request as entry;

    #[test]
    fn rows_come_out_as_they_went_in() {
        let mut rows = Rows::default();
        rows.push(UNKNOWN, 1, true, &entry("/a?x=1&y=?"));
        rows.push(UNKNOWN, 2, false, &entry("/b?secret=1"));
        let failure = Some((Reason::UpstreamRefused, "192.168.1.2:80: refused"));
        rows.push(UNKNOWN, 3, true, &RequestEntry { failure, user_agent: "", ..entry("/c?") });
        rows.push(UNKNOWN, 4, true, &RequestEntry { failure: Some((Reason::LinkLost, "")), ..entry("/d") });
        assert_eq!(rows.len(), 4);
        let shown: Vec<_> = rows
            .iter()
            .map(|row| (row.at, row.method, row.path, row.query, row.user_agent, row.error))
            .collect();
        assert_eq!(
            shown,
            [
                (1, "GET", "/a", Some("x=1&y=?"), Some("curl/8"), None),
                (2, "GET", "/b", None, Some("curl/8"), None),
                (
                    3,
                    "GET",
                    "/c",
                    Some(""),
                    None,
                    Some("UpstreamRefused at the upstream: 192.168.1.2:80: refused")
                ),
                (4, "GET", "/d", None, Some("curl/8"), Some("LinkLost at the tunnel")),
            ]
        );
        assert!(rows.iter().all(|row| row.client == "203.0.113.9" && row.millis == 12 && row.status == 200));
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let long = format!("/{}?{}", "ä".repeat(3_000), "q".repeat(5_000));
        let text = "ö".repeat(2_000);
        let agent = format!("x{}", "ü".repeat(400));
        let mut rows = Rows::default();
        let failure = Some((Reason::Protocol, text.as_str()));
        rows.push(UNKNOWN, 1, true, &RequestEntry { failure, user_agent: &agent, ..entry(&long) });
        let row = rows.iter().next().expect("a row");
        assert_eq!((row.path.len(), row.query.map(str::len)), (2047, Some(2048)));
        assert_eq!(row.user_agent.map(str::len), Some(499));
        assert!(row.error.is_some_and(|error| error.len() <= 1_000 && error.len() > 990));
    }

    #[test]
    fn counts_add_up_and_leave_out_what_was_counted_before() {
        let mut counts = Counts::default();
        counts.add(&RequestEntry { counted: (4, 900), ..entry("/") });
        counts.add(&RequestEntry { status: 404, ..entry("/") });
        counts.add(&RequestEntry { status: 101, micros: 3_600_000_000, ..entry("/") });
        counts.add(&RequestEntry { status: 502, failure: Some((Reason::UpstreamDns, "")), ..entry("/") });
        counts.add(&RequestEntry { status: 499, failure: Some((Reason::VisitorGone, "")), ..entry("/") });
        counts.add(&RequestEntry { status: 0, ..entry("/") });
        assert_eq!((counts.requests, counts.bytes_in, counts.bytes_out), (6, 56, 5_100));
        assert_eq!((counts.status, counts.failed), ([1, 1, 0, 2, 1], 1));
        assert!(counts.durations.percentile(100) < 20.0, "an upgrade's hours are no latency");
        let mut twice = counts.clone();
        twice.merge(&counts);
        assert_eq!((twice.requests, twice.failed, twice.status[3]), (12, 2, 4));
    }

    #[test]
    fn ids_rise_with_time_and_differ_at_the_same() {
        let start = to_ticks(OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000));
        let ids: Vec<_> = (0..5_000).map(|n| row_id(start + n * 7, n as u64)).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
        assert_ne!(row_id(start, 1), row_id(start, 2));
        let text = ids[0].to_string();
        assert_eq!((&text[14..15], matches!(text.as_bytes()[19], b'8'..=b'b')), ("7", true), "{text}");
        assert_eq!(to_ticks(from_ticks(start + 1)), start + 1);
        assert_eq!(minute(start + 1) % 60, 0);
    }

    fn recorder(store: &Store, rows: u64) -> Arc<Recorder> {
        Recorder::start(store.clone(), Limits { days: 30, rows, queries: true }, Arc::default())
            .expect("a recorder")
    }

    #[test]
    fn a_flood_is_counted_in_full_and_kept_in_part() {
        let scratch = crate::store::scratch::Scratch::new();
        let store = scratch.store();
        let recorder = recorder(&store, 1_000_000);
        // As if the writer were busy: what arrives waits.
        assert!(!recorder.stop());
        let ledger = Arc::clone(&recorder.ledger);
        for _ in 0..MOST_ROWS + 100 {
            recorder.request(&entry("/flood"));
        }
        assert_eq!(recorder.dropped(), 100);
        let pending = ledger.take(false).expect("something");
        assert_eq!(pending.rows.len(), MOST_ROWS);
        let counted: u64 = pending.counts.values().map(|counts| counts.requests).sum();
        assert_eq!(counted, MOST_ROWS as u64 + 100);
        // The disk was full: rows are lost, totals and the last request are not.
        ledger.give_back(pending);
        assert_eq!(recorder.dropped(), MOST_ROWS as u64 + 100);
        let again = ledger.take(false).expect("something");
        assert_eq!(again.rows.len(), 0);
        assert_eq!(again.counts.values().map(|counts| counts.requests).sum::<u64>(), counted);
        assert_eq!(again.last.len(), 1);
        assert!(ledger.take(true).is_none());
    }

    #[test]
    fn rows_that_went_by_age_do_not_count_as_too_many() {
        let scratch = crate::store::scratch::Scratch::new();
        let store = scratch.store();
        let recorder = recorder(&store, 10);
        let rows = || {
            recorder.settle();
            store.requests(&Default::default(), &HashMap::new(), None, 100).expect("rows").len()
        };
        (0..10).for_each(|_| recorder.request(&entry("/old")));
        assert_eq!(rows(), 10);
        scratch.sql("UPDATE RequestLogs SET Timestamp = '2020-01-01 00:00:00' WHERE rowid % 2 = 0");
        keep_house(&recorder.ledger, &store).expect("kept");
        assert_eq!(rows(), 5);
        (0..5).for_each(|_| recorder.request(&entry("/new")));
        assert_eq!(rows(), 10);
        recorder.request(&entry("/one too many"));
        assert_eq!(rows(), 10);
    }

    #[test]
    fn ids_that_a_gateway_makes_up_do_not_fill_memory() {
        let scratch = crate::store::scratch::Scratch::new();
        let store = scratch.store();
        let recorder = recorder(&store, 0);
        for n in 0..200_u8 {
            let mapping = MappingId::from_bytes([n; 16]);
            recorder.request(&RequestEntry { mapping, called: None, status: 404, ..entry("/") });
        }
        assert!(recorder.last_requests().is_empty());
        let pages = lock(&recorder.ledger.pages);
        // Two, should the minute have ended meanwhile.
        assert!(pages.pending.counts.len() <= 2);
    }
}
