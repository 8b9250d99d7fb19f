//! Requests as a table for a spreadsheet.

use std::collections::HashMap;
use std::io;

use serde_json::Value;

use super::{MOST, given, shown};
use crate::admin::http::{Request, Response, Sink};
use crate::history::Item;
use crate::store::{Named, Place, RequestFilter, Store};
use crate::timestamp;

pub(super) fn wants_csv(request: &Request) -> bool {
    let accepted = request.header("accept").is_some_and(|accept| {
        accept
            .split(',')
            .any(|kind| kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/csv"))
    });
    // For a link, which cannot say what it accepts.
    accepted || given(request, "format").is_some_and(|format| format.eq_ignore_ascii_case("csv"))
}

/// All of a selection (RFC 4180), read in pages, so that it takes no memory and holds up no writer.
pub(super) fn csv(store: Store, filter: RequestFilter, names: HashMap<String, Named>) -> Response {
    let name = format!("octoporty-requests-{}.csv", timestamp::file_form(timestamp::now()));
    let write = move |sink: &mut dyn Sink| {
        let mut before: Option<Place> = None;
        loop {
            let page = store.requests(&filter, &names, before.as_ref(), MOST).map_err(|e| {
                log::error!("admin: {e}");
                io::Error::other("the database cannot be read")
            })?;
            for (index, row) in page.iter().enumerate() {
                let Value::Object(fields) = shown(row, &names).value() else { continue };
                if before.is_none() && index == 0 {
                    line(sink, fields.keys().map(|name| name.clone().into()))?;
                }
                line(sink, fields.into_values())?;
            }
            let Some(last) = page.last().filter(|_| page.len() == MOST) else {
                if before.is_none() && page.is_empty() {
                    // Whoever opens it sees what would be there.
                    let Value::Object(fields) = empty_item().value() else { return Ok(()) };
                    line(sink, fields.keys().map(|name| name.clone().into()))?;
                }
                return Ok(());
            };
            before = Some(Place { at: last.at.clone(), id: last.id.clone() });
            if sink.ended() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
    };
    Response::stream(200, "text/csv; charset=utf-8; header=present", write)
        .with("Content-Disposition", format!("attachment; filename=\"{name}\""))
        .with("Vary", "Accept")
}

fn empty_item() -> Item<'static> {
    Item {
        id: String::new(),
        timestamp: String::new(),
        mapping: String::new(),
        called: None,
        method: "",
        path: "",
        query: None,
        status: 0,
        request_bytes: 0,
        response_bytes: 0,
        millis: 0,
        client: None,
        user_agent: None,
        error: None,
    }
}

fn line(sink: &mut dyn Sink, values: impl Iterator<Item = Value>) -> io::Result<()> {
    let mut text = String::new();
    for (index, value) in values.enumerate() {
        if index > 0 {
            text.push(',');
        }
        match value {
            Value::Null => {}
            Value::String(cell) => quoted(&cell, &mut text),
            other => text.push_str(&other.to_string()),
        }
    }
    text.push_str("\r\n");
    sink.write_all(text.as_bytes())
}

/// What a spreadsheet would take for a formula gets an apostrophe: visitors choose these texts.
fn quoted(cell: &str, text: &mut String) {
    let formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
    if !formula && !cell.contains(['"', ',', '\r', '\n']) {
        text.push_str(cell);
        return;
    }
    text.push('"');
    if formula {
        text.push('\'');
    }
    text.push_str(&cell.replace('"', "\"\""));
    text.push('"');
}
