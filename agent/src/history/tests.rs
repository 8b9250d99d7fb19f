//! What is kept of requests, and counted.

use std::time::Duration;

use super::keeper::keep_house;
use super::some_request as entry;
use super::*;

#[test]
fn rows_come_out_as_they_went_in() {
    let mut rows = Rows::default();
    rows.push(UNKNOWN, 1, true, &entry("/a?x=1&y=?"));
    rows.push(UNKNOWN, 2, false, &entry("/b?secret=1"));
    let failure = Some((Reason::UpstreamRefused, "192.168.1.2:80: refused"));
    rows.push(UNKNOWN, 3, true, &RequestEntry { failure, user_agent: "", ..entry("/c?") });
    rows.push(UNKNOWN, 4, true, &RequestEntry { failure: Some((Reason::LinkLost, "")), ..entry("/d") });
    assert_eq!(rows.len(), 4);
    let shown: Vec<_> =
        rows.iter().map(|row| (row.at, row.method, row.path, row.query, row.user_agent, row.error)).collect();
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
