//! `GET /metrics`: what the Agent tells Prometheus, to the Operator or whoever has the token for it.

use shared::link;
use shared::logging;
use shared::metrics::{CONTENT_TYPE, Kind, Page};
use shared::monotime;

use super::App;
use super::api::Params;
use super::http::{Request, Response};

/// Whether the request shows `Agent__MetricsToken`. It opens this one path and nothing else.
pub(crate) fn has_token(app: &App, request: &Request) -> bool {
    let Some(wanted) = &app.config.metrics_token else { return false };
    let given = request.header("authorization").and_then(|value| value.split_once(' '));
    given.is_some_and(|(scheme, token)| {
        scheme.eq_ignore_ascii_case("bearer") && wanted.matches(token.trim().as_bytes())
    })
}

/// `GET /metrics`.
pub(crate) fn metrics(app: &App, _: &Request, _: &Params<'_>) -> Response {
    let mut page = Page::default();
    page.process("agent", &app.config.version, monotime::seconds());
    app.control.metrics(&mut page);
    page.one(
        "octoporty_event_listeners",
        Kind::Gauge,
        "Pages that listen to events.",
        app.live.hub.listeners(),
    );
    page.metric(
        "octoporty_queue_overflows_total",
        Kind::Counter,
        "What was dropped because a queue was full.",
    )
    .series(&[("queue", "log")], logging::DROPPED.get())
    .series(&[("queue", "messages")], link::LATER_DROPPED.get())
    .series(&[("queue", "events")], app.live.hub.dropped())
    .series(&[("queue", "audit")], app.history.dropped());
    Response::bytes(200, page.finish().into_bytes()).with("Content-Type", CONTENT_TYPE)
}
