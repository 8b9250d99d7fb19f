//! What has been asked for and what became of it: lists page by page, as a table for a spreadsheet, and added up for
//! charts.

mod charts;
mod csv;

use std::collections::HashMap;
use std::str::FromStr;

use serde_json::{Value, json};

use shared::mapping::MappingId;

use super::App;
use super::api::Params;
use super::http::{Request, Response};
use super::problem::{self, Fault};
use crate::history::{Item, Recorder};
use crate::store::{KeptConnection, KeptRequest, Named, Place, RequestFilter, StatusTest, Store};
use crate::timestamp;

pub(crate) use charts::traffic;
use csv::{csv, wants_csv};

/// Entries of a page when nobody says how many, and at most.
const PAGE: usize = 100;
const MOST: usize = 1000;
/// Longest text that is looked for, in bytes.
const MAX_TEXT: usize = 500;
/// Most mappings, methods or statuses that may be asked for at a time.
const MAX_CHOICES: usize = 100;

/// `GET /api/v1/requests`: the newest first. A spreadsheet (`Accept: text/csv` or `format=csv`) gets all there are.
pub(crate) fn requests(app: &App, request: &Request, _: &Params<'_>) -> Response {
    list_requests(&app.store, &app.history, request)
}

fn list_requests(store: &Store, history: &Recorder, request: &Request) -> Response {
    let mut faults = Vec::new();
    let filter = filter(request, &mut faults);
    let page = page(request, &mut faults);
    if !faults.is_empty() {
        return problem::invalid(&faults);
    }
    history.settle();
    let names = match store.names() {
        Ok(names) => names,
        Err(e) => return problem::internal(&e),
    };
    if wants_csv(request) {
        return csv(store.clone(), filter, names);
    }
    // One more tells whether there is more.
    match store.requests(&filter, &names, page.before.as_ref(), page.limit + 1) {
        Ok(mut items) => {
            let next = cut(&mut items, page.limit, |item| Place { at: item.at.clone(), id: item.id.clone() });
            let items: Vec<_> = items.iter().map(|item| shown(item, &names).value()).collect();
            Response::json(200, &json!({ "items": items, "next": next }))
        }
        Err(e) => problem::internal(&e),
    }
}

/// `GET /api/v1/connections`: those of the tunnel, the newest first.
pub(crate) fn connections(app: &App, request: &Request, _: &Params<'_>) -> Response {
    list_connections(&app.store, &app.history, request)
}

fn list_connections(store: &Store, history: &Recorder, request: &Request) -> Response {
    let mut faults = Vec::new();
    let page = page(request, &mut faults);
    if !faults.is_empty() {
        return problem::invalid(&faults);
    }
    history.settle();
    match store.connections(page.before.as_ref(), page.limit + 1) {
        Ok(mut items) => {
            let next = cut(&mut items, page.limit, |item| Place {
                at: item.connected_at.clone(),
                id: item.id.clone(),
            });
            let items: Vec<_> = items.iter().map(connection).collect();
            Response::json(200, &json!({ "items": items, "next": next }))
        }
        Err(e) => problem::internal(&e),
    }
}

fn connection(row: &KeptConnection) -> Value {
    let connected = timestamp::from_database(&row.connected_at);
    let disconnected = row.disconnected_at.as_deref().and_then(timestamp::from_database);
    let seconds =
        connected.map(|from| (disconnected.unwrap_or_else(timestamp::now) - from).as_seconds_f64().max(0.0));
    json!({
        "id": row.id.to_lowercase(),
        "connectedAt": connected.map(timestamp::api_form),
        "disconnectedAt": disconnected.map(timestamp::api_form),
        "durationSeconds": seconds.map(|seconds| (seconds * 1000.0).round() / 1000.0),
        "gatewayUrl": row.gateway_url,
        "bytesSent": row.sent,
        "bytesReceived": row.received,
        "disconnectReason": row.reason,
    })
}

/// A parameter that says something.
fn given(request: &Request, name: &str) -> Option<String> {
    request.parameter(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

struct Page {
    before: Option<Place>,
    limit: usize,
}

fn page(request: &Request, faults: &mut Vec<Fault>) -> Page {
    let mut page = Page { before: None, limit: PAGE };
    if let Some(text) = given(request, "limit") {
        match text.parse::<usize>().ok().filter(|limit| (1..=MOST).contains(limit)) {
            Some(limit) => page.limit = limit,
            None => faults.push(("limit".into(), format!("must be a whole number from 1 to {MOST}"))),
        }
    }
    if let Some(text) = given(request, "before") {
        page.before = place(&text);
        if page.before.is_none() {
            faults.push(("before".into(), "must be the \"next\" of the page before".into()));
        }
    }
    page
}

/// `<date>_<id>`: where the next page begins. The date is kept as it was written, or it would not be found again.
fn cursor(place: &Place) -> String {
    format!("{}_{}", place.at.replacen(' ', "T", 1), place.id.to_lowercase())
}

fn place(text: &str) -> Option<Place> {
    let (at, id) = text.split_once('_')?;
    let at = at.replacen('T', " ", 1);
    timestamp::from_database(&at)?;
    Some(Place { at, id: id.parse::<MappingId>().ok()?.database_form() })
}

/// Cuts a list that was asked for with one more, and gives the cursor of the next page.
fn cut<T>(items: &mut Vec<T>, limit: usize, place: impl Fn(&T) -> Place) -> Option<String> {
    if items.len() <= limit {
        return None;
    }
    items.truncate(limit);
    items.last().map(|item| cursor(&place(item)))
}

fn filter(request: &Request, faults: &mut Vec<Fault>) -> RequestFilter {
    let mut filter = RequestFilter {
        mappings: choices(request, "mapping", faults, |text| {
            MappingId::from_str(text).map_err(|fault| format!("{text:?} is {fault}"))
        }),
        status: choices(request, "status", faults, status_test),
        methods: choices(request, "method", faults, |text| Ok(text.to_ascii_uppercase())),
        ..RequestFilter::default()
    };
    filter.text = given(request, "q");
    if filter.text.as_ref().is_some_and(|text| text.len() > MAX_TEXT) {
        faults.push(("q".into(), format!("must have at most {MAX_TEXT} bytes")));
    }
    for (name, date) in [("from", &mut filter.from), ("to", &mut filter.to)] {
        if let Some(text) = given(request, name) {
            *date = timestamp::from_api(&text);
            if date.is_none() {
                faults.push((name.into(), "must be a date like 2026-01-31T12:00:00Z or 2026-01-31".into()));
            }
        }
    }
    filter
}

fn choices<T>(
    request: &Request,
    name: &str,
    faults: &mut Vec<Fault>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Vec<T> {
    let text = given(request, name).unwrap_or_default();
    let items: Vec<_> = text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
    if items.len() > MAX_CHOICES {
        faults.push((name.into(), format!("must name at most {MAX_CHOICES}")));
        return Vec::new();
    }
    let mut parsed = Vec::new();
    for item in items {
        match parse(item) {
            Ok(value) => parsed.push(value),
            Err(fault) => faults.push((name.into(), fault)),
        }
    }
    parsed
}

/// `200`, `4xx` or `error`.
fn status_test(text: &str) -> Result<StatusTest, String> {
    let text = text.to_ascii_lowercase();
    let test = match text.as_bytes() {
        b"error" => Some(StatusTest::Failed),
        [class @ b'1'..=b'5', b'x', b'x'] => {
            let class = u16::from(class - b'0') * 100;
            Some(StatusTest::Range(class, class + 99))
        }
        [_, _, _] => text
            .parse()
            .ok()
            .filter(|status| (100..=599).contains(status))
            .map(|status| StatusTest::Range(status, status)),
        _ => None,
    };
    test.ok_or_else(|| format!("{text:?} is no status like 200, no class like 4xx, and not \"error\""))
}

fn shown<'a>(row: &'a KeptRequest, names: &'a HashMap<String, Named>) -> Item<'a> {
    Item {
        id: row.id.to_lowercase(),
        timestamp: timestamp::from_database(&row.at).map(timestamp::api_form).unwrap_or_default(),
        mapping: row.mapping.to_lowercase(),
        called: names.get(&row.mapping).map(|named| (named.name.as_str(), named.domain.as_str())),
        method: &row.method,
        path: &row.path,
        query: row.query.as_deref(),
        status: row.status,
        request_bytes: row.request_bytes,
        response_bytes: row.response_bytes,
        millis: row.millis,
        client: row.client.as_deref(),
        user_agent: row.user_agent.as_deref(),
        error: row.error.as_deref(),
    }
}

#[cfg(test)]
mod tests;
