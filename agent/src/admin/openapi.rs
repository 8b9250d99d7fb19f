//! `GET /api/v1/openapi.json`: the API, described for programs (OpenAPI 3.1).
//!
//! One file per subject, with its paths and the schemas they use. Tests compare it with the table of routes and
//! real answers with it.

use std::sync::OnceLock;

use serde_json::{Value, json};

use super::App;
use super::api::Params;
use super::http::{Request, Response};
use super::problem;

const BASE: &str = include_str!("openapi/base.json");
const SUBJECTS: [&str; 8] = [
    include_str!("openapi/auth.json"),
    include_str!("openapi/status.json"),
    include_str!("openapi/mappings.json"),
    include_str!("openapi/gateway.json"),
    include_str!("openapi/history.json"),
    include_str!("openapi/settings.json"),
    include_str!("openapi/test.json"),
    include_str!("openapi/events.json"),
];

/// `GET /api/v1/openapi.json`.
pub(crate) fn openapi(app: &App, _: &Request, _: &Params<'_>) -> Response {
    static TEXT: OnceLock<String> = OnceLock::new();
    if let Some(text) = TEXT.get() {
        return response(text);
    }
    match document(&app.config.version) {
        Ok(document) => response(TEXT.get_or_init(|| document.to_string())),
        Err(e) => problem::internal(&format_args!("the description of the API: {e}")),
    }
}

fn response(text: &'static str) -> Response {
    Response::bytes(200, text.as_bytes()).with("Content-Type", "application/json; charset=utf-8")
}

/// All of it. The files are part of the program, so it fails in a test or never.
pub(super) fn document(version: &str) -> Result<Value, serde_json::Error> {
    let mut document: Value = serde_json::from_str(BASE)?;
    document["info"]["version"] = version.into();
    document["paths"] = json!({});
    for subject in SUBJECTS {
        let subject: Value = serde_json::from_str(subject)?;
        for (from, to) in [("paths", &["paths"][..]), ("schemas", &["components", "schemas"])] {
            let place = to.iter().fold(&mut document, |place, name| &mut place[*name]);
            for (name, value) in subject[from].as_object().into_iter().flatten() {
                place[name] = value.clone();
            }
        }
    }
    Ok(document)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_subject_describes_what_another_does() {
        let mut names = HashSet::new();
        for subject in SUBJECTS {
            let subject: Value = serde_json::from_str(subject).expect("JSON");
            for part in ["paths", "schemas"] {
                let members = subject[part].as_object().expect("an object");
                assert!(!members.is_empty());
                for name in members.keys() {
                    assert!(names.insert(name.clone()), "{name} twice");
                }
            }
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_schema_is_used() {
        let document = document("1.0.0").expect("JSON");
        let text = document.to_string();
        let schemas = document["components"]["schemas"].as_object().expect("schemas");
        let used: HashSet<_> = text
            .split("\"$ref\":\"#/components/schemas/")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .collect();
        assert!(used.len() > 20, "{used:?}");
        for name in &used {
            assert!(schemas.contains_key(*name), "{name} is used and not described");
        }
        // What events carry is text to OpenAPI.
        for name in schemas.keys().filter(|name| {
            !["StatusUpdate", "MappingStatusUpdate", "MappingsChanged"].contains(&name.as_str())
        }) {
            assert!(used.contains(name.as_str()), "{name} is described and not used");
        }
    }
}
