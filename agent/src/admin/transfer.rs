//! The list of mappings as a document: written, and read back with everything that would change said before.
//!
//! What becomes of a document is worked out in [`plan`] from what is stored, with nobody writing in between, so a dry run
//! says exactly what the real one does. Keeping the result is left to the store.

mod plan;

use serde_json::{Map, Value, json};

use shared::mapping::{Mapping, MappingId};

use self::plan::{Mode, Plan, Planner};
use super::App;
use super::api::{Params, json_value};
use super::http::{Request, Response};
use super::mappings::{ACKNOWLEDGE, Surroundings, shown};
use super::problem;
use crate::events::Event;
use crate::store::{Changes, Stored};
use crate::timestamp;

/// What the document calls itself.
const FORMAT: &str = "octoporty-mappings";
/// The only version so far.
const VERSION: u64 = 1;
/// Largest document: 5,000 mappings with all their fields fit.
pub(crate) const BODY: usize = 4 * 1024 * 1024;

/// `GET /api/v1/mappings/export`.
pub(crate) fn export(app: &App, _: &Request, _: &Params<'_>) -> Response {
    let (rows, agent) = match app.store.stored().and_then(|rows| Ok((rows, app.store.agent_id()?))) {
        Ok(read) => read,
        Err(e) => return problem::internal(&e),
    };
    let now = timestamp::now();
    let (usable, others): (Vec<_>, Vec<_>) = rows.iter().partition(|row| matches!(row, Stored::Mapping(_)));
    let mut document = json!({
        "format": FORMAT,
        "version": VERSION,
        "exportedAt": timestamp::api_form(now),
        "agent": { "id": agent, "version": app.config.version },
        "mappings": usable.into_iter().map(shown).collect::<Vec<_>>(),
    });
    if !others.is_empty() {
        // An import does not look at them: they would keep the others out.
        document["unusable"] = others.into_iter().map(shown).collect();
    }
    let name = format!("octoporty-mappings-{}.json", timestamp::file_form(now));
    Response::json(200, &document).with("Content-Disposition", format!("attachment; filename=\"{name}\""))
}

/// `POST /api/v1/mappings/import?mode=merge|replace&dryRun=true|false`: all of it or, when anything is wrong, nothing.
pub(crate) fn import(app: &App, request: &Request, _: &Params<'_>) -> Response {
    let mut faults = Vec::new();
    let mode = match parameter(request, "mode").as_deref() {
        None | Some("merge") => Mode::Merge,
        Some("replace") => Mode::Replace,
        Some(_) => {
            faults.push(("mode".into(), "must be merge or replace".into()));
            Mode::Merge
        }
    };
    let dry = match parameter(request, "dryrun").as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => {
            faults.push(("dryRun".into(), "must be true or false".into()));
            true
        }
    };
    if !faults.is_empty() {
        return problem::invalid(&faults);
    }
    let document = match json_value(request) {
        Ok(document) => document,
        Err(refusal) => return refusal,
    };
    let (rows, list_only) = match rows(document) {
        Ok(rows) => rows,
        Err(fault) => return problem::malformed(fault),
    };
    let agent = match app.store.agent_id() {
        Ok(agent) => agent,
        Err(e) => return problem::internal(&e),
    };
    let planner =
        Planner { mode, rows, list_only, agent, now: timestamp::now(), surroundings: Surroundings::of(app) };
    let planned = app.store.import(dry, move |existing| {
        let plan = planner.plan(existing);
        let changes = plan.faults.is_empty().then(|| changes(&plan));
        (plan, changes)
    });
    let plan = match planned {
        Ok(plan) => plan,
        Err(e) => return problem::internal(&e),
    };
    let applied = !dry && plan.faults.is_empty();
    if applied {
        told(app, &plan);
    }
    Response::json(if plan.faults.is_empty() { 200 } else { 400 }, &answer(&plan, dry, applied))
}

/// The first parameter of this name in any case, in lower case; `None` when it says nothing.
fn parameter(request: &Request, name: &str) -> Option<String> {
    let given = request.parameter(name).or_else(|| match name {
        "dryrun" => request.parameter("dryRun"),
        _ => None,
    });
    given.map(|value| value.trim().to_ascii_lowercase()).filter(|value| !value.is_empty())
}

/// The rows of a document, and whether it was a bare list: that is what the earlier program's API answered.
fn rows(document: Value) -> Result<(Vec<Value>, bool), String> {
    let mut object = match document {
        Value::Array(rows) => return Ok((rows, true)),
        Value::Object(object) => object,
        _ => return Err("the document must be an export, or a list of mappings".into()),
    };
    match field(&object, "format") {
        None | Some(Value::Null) => {}
        Some(format) if *format == FORMAT => {}
        Some(format) => return Err(format!("the document's format is {format}, not \"{FORMAT}\"")),
    }
    match field(&object, "version") {
        None | Some(Value::Null) => {}
        Some(version) if version.as_u64() == Some(VERSION) => {}
        Some(version) => {
            return Err(format!("the document's version is {version}; this Agent reads version {VERSION}"));
        }
    }
    let name = object.keys().find(|key| key.eq_ignore_ascii_case("mappings")).cloned();
    match name.and_then(|name| object.swap_remove(&name)) {
        Some(Value::Array(rows)) => Ok((rows, false)),
        _ => Err("the document has no list \"mappings\"".into()),
    }
}

/// A member of an object, in any case.
fn field<'o>(object: &'o Map<String, Value>, name: &str) -> Option<&'o Value> {
    object.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

fn changes(plan: &Plan) -> Changes {
    Changes {
        removed: plan.removed.iter().map(Stored::id).collect(),
        changed: plan.changed.iter().map(|(_, after)| after.clone()).collect(),
        added: plan.added.clone(),
    }
}

/// Tells the tunnel, and whoever listens.
fn told(app: &App, plan: &Plan) {
    let (added, changed, removed) = (plan.added.len(), plan.changed.len(), plan.removed.len());
    log::info!("mappings were imported: {added} added, {changed} changed, {removed} removed");
    if added + changed + removed == 0 {
        return;
    }
    app.control.mappings_changed(ACKNOWLEDGE);
    let ids = plan.added.iter().chain(plan.changed.iter().map(|(_, after)| after)).map(|mapping| mapping.id);
    let ids: Vec<MappingId> = ids.chain(plan.removed.iter().map(Stored::id)).collect();
    app.live.hub.publish(Event::MappingsChanged { reason: "imported", ids });
}

fn answer(plan: &Plan, dry: bool, applied: bool) -> Value {
    let mapping = |mapping: &Mapping| shown(&Stored::Mapping(mapping.clone()));
    let changed: Vec<_> = plan
        .changed
        .iter()
        .map(|(before, after)| {
            let (before, after) = (shown(before), mapping(after));
            let fields: Vec<_> = FIELDS.into_iter().filter(|name| before[*name] != after[*name]).collect();
            json!({ "before": before, "after": after, "fields": fields })
        })
        .collect();
    let faults: Vec<_> = plan
        .faults
        .iter()
        .map(|fault| {
            json!({
                "row": fault.row,
                "externalDomain": fault.domain,
                "field": fault.field,
                "message": fault.message,
            })
        })
        .collect();
    json!({
        "dryRun": dry,
        "mode": plan.mode.word(),
        "applied": applied,
        "added": plan.added.iter().map(mapping).collect::<Vec<_>>(),
        "changed": changed,
        "removed": plan.removed.iter().map(shown).collect::<Vec<_>>(),
        "unchanged": plan.unchanged,
        "faults": faults,
    })
}

/// What a mapping consists of, each under one of its names.
const FIELDS: [&str; 8] = [
    "externalDomain",
    "internalHost",
    "internalPort",
    "internalProtocol",
    "allowInvalidCertificates",
    "enabled",
    "description",
    "hostHeader",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_an_export_or_a_list() {
        for (document, expected) in [
            (json!([]), Ok((0, true))),
            (json!([{}, 1]), Ok((2, true))),
            (json!({ "mappings": [{}] }), Ok((1, false))),
            (json!({ "Format": FORMAT, "VERSION": 1, "Mappings": [], "more": 1 }), Ok((0, false))),
            (json!({ "format": null, "version": null, "mappings": [] }), Ok((0, false))),
            (json!({ "format": "other", "mappings": [] }), Err("format is \"other\"")),
            (json!({ "version": 2, "mappings": [] }), Err("version is 2")),
            (json!({ "version": "1", "mappings": [] }), Err("version is \"1\"")),
            (json!({ "mappings": {} }), Err("no list")),
            (json!({}), Err("no list")),
            (json!("text"), Err("must be an export")),
        ] {
            match (rows(document.clone()), expected) {
                (Ok((rows, list)), Ok(expected)) => assert_eq!((rows.len(), list), expected, "{document}"),
                (Err(said), Err(word)) => assert!(said.contains(word), "{document}: {said}"),
                (said, _) => panic!("{document}: {said:?}"),
            }
        }
    }
}
