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
