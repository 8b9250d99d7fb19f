//! The history as it happens, for whoever has the admin page open.

use std::time::Instant;

use serde_json::{Value, json};

use super::Counts;
use crate::timestamp;

/// Requests told in a second: what is shown beyond that nobody can read, and making it costs more than serving does.
const REQUESTS: usize = 100;

/// A request as `GET /api/v1/requests` and the event `RequestLogged` show it.
pub(crate) struct Item<'a> {
    pub(crate) id: String,
    pub(crate) timestamp: String,
    pub(crate) mapping: String,
    /// Name and domain of the mapping, if they are known.
    pub(crate) called: Option<(&'a str, &'a str)>,
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    pub(crate) status: i64,
    pub(crate) request_bytes: i64,
    pub(crate) response_bytes: i64,
    pub(crate) millis: i64,
    pub(crate) client: Option<&'a str>,
    pub(crate) user_agent: Option<&'a str>,
    pub(crate) error: Option<&'a str>,
}

impl Item<'_> {
    pub(crate) fn value(&self) -> Value {
        json!({
            "id": self.id,
            "timestamp": self.timestamp,
            "mappingId": self.mapping,
            "mappingName": self.called.map(|(name, _)| name),
            "externalDomain": self.called.map(|(_, domain)| domain),
            "method": self.method,
            "path": self.path,
            "queryString": self.query,
            "statusCode": self.status,
            "requestSize": self.request_bytes,
            "responseSize": self.response_bytes,
            "durationMs": self.millis,
            "clientIp": self.client,
            "userAgent": self.user_agent,
            "errorMessage": self.error,
        })
    }
}

/// The figures since they were last told.
pub(super) struct Figures {
    since: Instant,
    pub(super) counts: Counts,
    /// The second in which requests are being told, and how many were.
    second: Instant,
    told: usize,
}

impl Figures {
    pub(super) fn new(now: Instant) -> Figures {
        Figures { since: now, counts: Counts::default(), second: now, told: 0 }
    }

    /// Whether one more request may be told.
    pub(super) fn may_tell(&mut self, now: Instant) -> bool {
        if now.duration_since(self.second).as_secs() >= 1 {
            (self.second, self.told) = (now, 0);
        }
        self.told += 1;
        self.told <= REQUESTS
    }

    /// What the event `Traffic` shows; begins anew.
    pub(super) fn take(&mut self, now: Instant, active: usize) -> Value {
        let seconds = now.duration_since(self.since).as_secs_f64();
        self.since = now;
        let counts = &mut self.counts;
        let value = json!({
            "timestamp": timestamp::api_form(timestamp::now()),
            "seconds": (seconds * 1000.0).round() / 1000.0,
            "requests": counts.requests,
            "bytesIn": counts.bytes_in,
            "bytesOut": counts.bytes_out,
            "active": active,
            "p50Ms": counts.durations.percentile(50),
            "p95Ms": counts.durations.percentile(95),
            "status2xx": counts.status[1],
            "status3xx": counts.status[2],
            "status4xx": counts.status[3],
            "status5xx": counts.status[4],
            "failed": counts.failed,
        });
        counts.clear();
        value
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn figures_begin_anew_when_they_were_told() {
        let start = Instant::now();
        let mut figures = Figures::new(start);
        figures.counts.requests = 3;
        figures.counts.status[1] = 2;
        figures.counts.durations.add(10_000);
        let told = figures.take(start + Duration::from_secs(2), 7);
        assert_eq!(
            (&told["requests"], &told["status2xx"], &told["active"]),
            (&json!(3), &json!(2), &json!(7))
        );
        assert_eq!(told["seconds"], 2.0);
        assert!(told["p50Ms"].as_f64().is_some_and(|ms| ms > 8.0));
        let told = figures.take(start + Duration::from_secs(3), 0);
        assert_eq!(
            (&told["requests"], &told["p50Ms"], &told["seconds"]),
            (&json!(0), &json!(0.0), &json!(1.0))
        );
    }

    #[test]
    fn of_a_flood_a_hundred_a_second_are_told() {
        let start = Instant::now();
        let mut figures = Figures::new(start);
        let mut told = |at| (0..500).filter(|_| figures.may_tell(at)).count();
        assert_eq!(told(start), REQUESTS);
        assert_eq!(told(start + Duration::from_millis(999)), 0);
        assert_eq!(told(start + Duration::from_secs(1)), REQUESTS);
    }
}
