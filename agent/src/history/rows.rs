//! Requests that wait to be written, a row each, cut to what their columns take.

use shared::mapping::MappingId;
use shared::reason::Reason;

use super::{Item, RequestEntry, from_ticks};
use crate::timestamp;

/// Rows that may wait to be written.
pub(super) const MOST_ROWS: usize = 6144;
/// Bytes of text that they may have together; a row has a few hundred, at most 7 KiB.
const MOST_TEXT: usize = 4 * 1024 * 1024;
/// Ends of columns, in bytes; the widths are those of the earlier program.
const METHOD: usize = 10;
const PATH: usize = 2048;
const CLIENT: usize = 45;
const USER_AGENT: usize = 500;
pub(super) const ERROR: usize = 1000;

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

    pub(super) fn has_room(&self) -> bool {
        self.rows.len() < MOST_ROWS && self.text.len() < MOST_TEXT
    }

    pub(super) fn push(&mut self, id: MappingId, at: i64, queries: bool, entry: &RequestEntry<'_>) {
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
pub(super) fn event(id: MappingId, at: i64, queries: bool, entry: &RequestEntry<'_>) -> serde_json::Value {
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

/// A version 7 UUID (RFC 9562 5.7): rises with time, so that rows are added at the end of the table's index and not all
/// over it. The fraction of the millisecond follows (6.2, method 3), then a sequence that begins at random.
pub(super) fn row_id(ticks: i64, sequence: u64) -> MappingId {
    let ticks = ticks.max(0) as u64;
    let (millis, rest) = (ticks / 10_000, ticks % 10_000);
    let fraction = rest * 4096 / 10_000;
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
    bytes[6..8].copy_from_slice(&(0x7000 | fraction as u16).to_be_bytes());
    bytes[8..].copy_from_slice(&((sequence & (u64::MAX >> 2)) | (1 << 63)).to_be_bytes());
    MappingId::from_bytes(bytes)
}
