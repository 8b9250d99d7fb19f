//! Requests added up in equal steps, for charts.

use std::collections::HashMap;

use serde_json::{Value, json};

use shared::mapping::MappingId;

use super::given;
use crate::admin::App;
use crate::admin::api::Params;
use crate::admin::http::{Request, Response};
use crate::admin::problem;
use crate::history::{Counts, Recorder, UNKNOWN};
use crate::store::{Store, StoreError};
use crate::timestamp;

/// The steps of a chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    name: &'static str,
    seconds: i64,
    steps: i64,
}

pub(super) const RANGES: [Range; 3] = [
    Range { name: "hour", seconds: 60, steps: 60 },
    Range { name: "day", seconds: 900, steps: 96 },
    Range { name: "month", seconds: 86_400, steps: 30 },
];

/// `GET /api/v1/traffic`: added up in equal steps, the last of which is not over yet.
pub(crate) fn traffic(app: &App, request: &Request, _: &Params<'_>) -> Response {
    show_traffic(&app.store, &app.history, request)
}

pub(super) fn show_traffic(store: &Store, history: &Recorder, request: &Request) -> Response {
    let mut faults = Vec::new();
    let wanted = given(request, "range").unwrap_or_else(|| RANGES[0].name.to_owned());
    let range = RANGES.iter().find(|range| range.name == wanted).copied();
    if range.is_none() {
        faults.push(("range".into(), "must be hour, day or month".into()));
    }
    let mapping = match given(request, "mapping").map(|text| text.parse()).transpose() {
        Ok(mapping) => mapping,
        Err(fault) => {
            faults.push(("mapping".into(), format!("is {fault}")));
            None
        }
    };
    let Some(range) = range.filter(|_| faults.is_empty()) else { return problem::invalid(&faults) };
    history.settle();
    match chart(store, range, mapping, timestamp::now().unix_timestamp()) {
        Ok(value) => Response::json(200, &value),
        Err(e) => problem::internal(&e),
    }
}

pub(super) fn chart(
    store: &Store,
    range: Range,
    mapping: Option<MappingId>,
    now: i64,
) -> Result<Value, StoreError> {
    let to = (now.div_euclid(range.seconds) + 1) * range.seconds;
    let from = to - range.steps * range.seconds;
    let mut steps = vec![Counts::default(); range.steps as usize];
    let mut totals = Counts::default();
    let mut mappings: HashMap<String, Counts> = HashMap::new();
    store.traffic(range.seconds, from, to, mapping, |start, id, counts| {
        if let Some(step) = steps.get_mut(((start - from) / range.seconds) as usize) {
            step.merge(&counts);
        }
        totals.merge(&counts);
        mappings.entry(id).or_default().merge(&counts);
    })?;
    let date = |seconds: i64| {
        time::OffsetDateTime::from_unix_timestamp(seconds).map(timestamp::api_form).unwrap_or_default()
    };
    let buckets: Vec<_> = steps
        .iter()
        .enumerate()
        .map(|(index, counts)| {
            json!({
                "time": date(from + index as i64 * range.seconds),
                "requests": counts.requests,
                "bytesIn": counts.bytes_in,
                "bytesOut": counts.bytes_out,
                "p50Ms": counts.durations.percentile(50),
                "p95Ms": counts.durations.percentile(95),
                "status1xx": counts.status[0],
                "status2xx": counts.status[1],
                "status3xx": counts.status[2],
                "status4xx": counts.status[3],
                "status5xx": counts.status[4],
                "failed": counts.failed,
            })
        })
        .collect();
    let names = store.names()?;
    let mut mappings: Vec<_> = mappings.into_iter().collect();
    mappings.sort_by(|(a, one), (b, two)| two.requests.cmp(&one.requests).then_with(|| a.cmp(b)));
    let mappings: Vec<_> = mappings
        .iter()
        .map(|(id, counts)| {
            let named = names.get(id);
            json!({
                // Requests for mappings that do not exist are of none.
                "mappingId": (*id != UNKNOWN.database_form()).then(|| id.to_lowercase()),
                "name": named.map(|named| &named.name),
                "externalDomain": named.map(|named| &named.domain),
                "requests": counts.requests,
                "bytesIn": counts.bytes_in,
                "bytesOut": counts.bytes_out,
                "failed": counts.failed,
            })
        })
        .collect();
    Ok(json!({
        "range": range.name,
        "bucketSeconds": range.seconds,
        "from": date(from),
        "to": date(to),
        "buckets": buckets,
        "totals": {
            "requests": totals.requests,
            "bytesIn": totals.bytes_in,
            "bytesOut": totals.bytes_out,
            "failed": totals.failed,
        },
        "mappings": mappings,
    }))
}
