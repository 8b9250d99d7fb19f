//! The page of the Gateway's own host, which the Operator may write: `/api/v1/settings/landing-page`.

use std::time::Duration;

use serde_json::{Value, json};

use shared::landing;

use super::App;
use super::api::{Params, json_object};
use super::http::{Request, Response};
use super::problem;
use crate::control::AskFault;

/// Longest page, in UTF-16 units: what the earlier program counted.
const MOST: usize = 1_000_000;
/// Largest body in which such a page fits: each unit may be escaped in six bytes (RFC 8259 7).
pub(crate) const BODY: usize = 6 * MOST + 1024;
/// How long a save waits for the Gateway to have the page.
const ACKNOWLEDGE: Duration = Duration::from_secs(5);

/// `GET /api/v1/settings/landing-page`.
pub(crate) fn get(app: &App, _: &Request, _: &Params<'_>) -> Response {
    match app.store.landing_page() {
        Ok(page) => Response::json(200, &shown(app, page.as_deref())),
        Err(e) => problem::internal(&e),
    }
}

/// `PUT /api/v1/settings/landing-page`.
pub(crate) fn put(app: &App, request: &Request, _: &Params<'_>) -> Response {
    let body = match json_object(request) {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    let html = match body.get("html") {
        Some(Value::String(html)) if !html.trim().is_empty() => html.clone(),
        Some(Value::String(_) | Value::Null) | None => return invalid("HTML is required"),
        Some(_) => return invalid("must be text"),
    };
    let units = html.encode_utf16().count();
    if units > MOST {
        return invalid(&format!("has {units} characters (UTF-16), at most {MOST} are allowed (1 MB)"));
    }
    if let Err(e) = app.store.set_landing_page(html.clone()) {
        return problem::internal(&e);
    }
    log::info!("the landing page was saved, {} bytes", html.len());
    told(app, Some(&html))
}

/// `DELETE /api/v1/settings/landing-page`: back to the default.
pub(crate) fn reset(app: &App, _: &Request, _: &Params<'_>) -> Response {
    match app.store.reset_landing_page() {
        Ok(true) => log::info!("the landing page is the default one again"),
        Ok(false) => {}
        Err(e) => return problem::internal(&e),
    }
    told(app, None)
}

/// Brings it to the Gateway, and tells the Operator what became of it.
fn told(app: &App, page: Option<&str>) -> Response {
    let outcome = app.control.landing_page_changed(ACKNOWLEDGE);
    let mut value = shown(app, page);
    value["message"] = match outcome {
        Ok(()) => "Saved; the Gateway shows it".into(),
        Err(AskFault::NotConnected) => "Saved; the Gateway gets it when it is connected".into(),
        Err(fault) => format!("Saved, but the Gateway does not have it yet: {fault}").into(),
    };
    Response::json(200, &value)
}

fn shown(app: &App, page: Option<&str>) -> Value {
    let html = page.unwrap_or(landing::DEFAULT);
    let hash = landing::hash(html);
    let default = || landing::hash(landing::DEFAULT);
    let held = app.control.gateway_landing_page();
    let synced = held.as_ref().map(|held| held.as_deref() == page.map(|_| hash.as_str()));
    json!({
        "html": html,
        "hash": hash,
        "isDefault": page.is_none(),
        "gatewayHash": held.map(|held| held.unwrap_or_else(default)),
        "synced": synced.unwrap_or(false),
    })
}

fn invalid(text: &str) -> Response {
    problem::invalid(&[("html".into(), text.into())])
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use shared::mapping::MappingId;

    use super::*;
    use crate::admin::testing::app;
    use crate::control::{Control, RouteState, TunnelStatus};
    use crate::store::Store;

    /// A Gateway that takes the page when it is there.
    #[derive(Default)]
    struct Fake {
        fault: Option<AskFault>,
        store: Mutex<Option<Store>>,
        held: Mutex<Option<Option<String>>>,
    }

    impl Control for Fake {
        fn status(&self) -> TunnelStatus {
            TunnelStatus::default()
        }

        fn mappings_changed(&self, _: Duration) -> Vec<(MappingId, RouteState)> {
            Vec::new()
        }

        fn reconnect(&self) {}

        fn landing_page_changed(&self, _: Duration) -> Result<(), AskFault> {
            if let Some(fault) = &self.fault {
                return Err(fault.clone());
            }
            let store = self.store.lock().expect("store").clone().expect("a store");
            let page = store.landing_page().expect("asked");
            *self.held.lock().expect("held") = Some(page.as_deref().map(landing::hash));
            Ok(())
        }

        fn gateway_landing_page(&self) -> Option<Option<String>> {
            self.held.lock().expect("held").clone()
        }
    }

    fn put_html(app: &App, body: &Value) -> Response {
        put(app, &Request::new("PUT", "/x").json(&body.to_string()), &Params::default())
    }

    #[test]
    fn a_page_is_kept_shown_and_taken_back() {
        let (app, fake, scratch) = app(Fake::default());
        *fake.store.lock().expect("store") = Some(scratch.store());
        let request = Request::new("GET", "/x");
        let first = get(&app, &request, &Params::default()).value();
        let default = landing::hash(landing::DEFAULT);
        let expected = json!({
            "html": landing::DEFAULT, "hash": default, "isDefault": true, "gatewayHash": null, "synced": false,
        });
        assert_eq!(first, expected, "the Gateway has not said what it holds");

        let saved = put_html(&app, &json!({ "html": "<p>hi</p>" }));
        assert_eq!(saved.status, 200);
        let saved = saved.value();
        assert_eq!(saved["hash"], landing::hash("<p>hi</p>"));
        assert_eq!((&saved["gatewayHash"], &saved["synced"]), (&saved["hash"], &json!(true)));
        assert_eq!(get(&app, &request, &Params::default()).value()["html"], "<p>hi</p>");

        let back = reset(&app, &request, &Params::default()).value();
        assert_eq!((&back["html"], &back["isDefault"]), (&json!(landing::DEFAULT), &json!(true)));
        assert_eq!((&back["gatewayHash"], &back["synced"]), (&json!(default), &json!(true)));
    }

    #[test]
    fn a_page_must_be_there_and_not_too_long() {
        let (app, ..) = app(Fake { fault: Some(AskFault::NotConnected), ..Fake::default() });
        for (html, words) in [
            (Value::Null, "required"),
            (json!(""), "required"),
            (json!(" \n"), "required"),
            (json!(7), "text"),
            (json!("x".repeat(MOST + 1)), "1000001"),
            // Two units each.
            (json!("🐙".repeat(MOST / 2 + 1)), "1000002"),
        ] {
            let answer = put_html(&app, &json!({ "html": html }));
            assert_eq!(answer.status, 400);
            let text = answer.value()["errors"]["html"][0].as_str().expect("a text").to_owned();
            assert!(text.contains(words), "{text}");
        }
        let answer = put_html(&app, &json!({ "html": "ü".repeat(MOST) })).value();
        assert_eq!(answer["synced"], false);
        assert!(answer["message"].as_str().expect("a text").contains("when it is connected"), "{answer}");
        let longest = json!({ "html": "\u{1}".repeat(MOST) }).to_string();
        assert!(longest.len() <= BODY, "the longest page fits the body's limit however it is escaped");
    }
}
