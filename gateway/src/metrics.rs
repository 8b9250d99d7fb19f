//! `/metrics`: what the Gateway tells Prometheus.
//!
//! Only whoever reaches the port itself from a trusted address is told: a request that a proxy passed on is a
//! visitor's, and our names of hosts and Agents are not for him.

use std::sync::atomic::Ordering::Relaxed;

use shared::head::RequestHead;
use shared::link;
use shared::logging;
use shared::metrics::{Counter, Kind, Page};
use shared::monotime;

use crate::answers::path;
use crate::gateway::Core;

/// Where it is served, on hosts that nobody publishes.
const PATH: &str = "/metrics";

/// What no other place counts.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Answers of the Gateway's own: errors, and its own paths.
    pub(crate) own_answers: Counter,
}

/// Whether the request asks for this page, and may. `trusted`: it comes from where proxies are.
pub(crate) fn is_asked(head: &RequestHead<'_>, trusted: bool) -> bool {
    let asks = path(head.target) == PATH && matches!(head.method, "GET" | "HEAD");
    let passed_on = ["x-forwarded-for", "forwarded", "via", "x-real-ip"];
    asks && trusted && passed_on.iter().all(|name| head.get(name).is_none())
}

/// The text. It asks for every mapping's counters, so the ingress leaves it to the desk.
pub(crate) fn page(core: &Core) -> String {
    let mut page = Page::default();
    page.process("gateway", crate::VERSION, monotime::seconds());
    tunnels(core, &mut page);
    page.one(
        "octoporty_visitor_connections",
        Kind::Gauge,
        "Open connections of visitors.",
        core.visitors.len(),
    );
    let most = core.bounds.places;
    page.one("octoporty_visitor_connections_limit", Kind::Gauge, "Most connections at a time.", most);
    let held = core.held.load(Relaxed);
    page.one(
        "octoporty_held_requests",
        Kind::Gauge,
        "Requests that wait for their Agent to come back.",
        held,
    );
    let own = core.counters.own_answers.get();
    let help = "Answers of the Gateway's own: errors, and its own paths.";
    page.one("octoporty_own_answers_total", Kind::Counter, help, own);
    page.requests(core.tunnels.requests());
    let budget = &core.budget;
    page.one(
        "octoporty_memory_held_bytes",
        Kind::Gauge,
        "Bytes received and not yet passed on.",
        budget.held(),
    );
    page.one("octoporty_memory_budget_bytes", Kind::Gauge, "Most such bytes.", budget.limit());
    page.metric(
        "octoporty_queue_overflows_total",
        Kind::Counter,
        "What was dropped because a queue was full.",
    )
    .series(&[("queue", "log")], logging::DROPPED.get())
    .series(&[("queue", "messages")], link::LATER_DROPPED.get());
    caddy(core, &mut page);
    page.finish()
}

fn tunnels(core: &Core, page: &mut Page) {
    let counts = core.tunnels.counts();
    page.one("octoporty_agents", Kind::Gauge, "Agents whose session serves.", counts.agents);
    page.one("octoporty_routes", Kind::Gauge, "Host names that are published.", counts.routes);
    let mut sessions: Vec<_> = core
        .tunnels
        .sessions()
        .into_iter()
        .map(|session| (session.tunnel.agent_id.clone(), session))
        .collect();
    sessions.sort_by(|(a, _), (b, _)| a.cmp(b));
    let rows: Vec<_> = sessions.iter().map(|(id, session)| (id, session, session.links())).collect();
    page.metric(
        "octoporty_tunnel_up",
        Kind::Gauge,
        "1 when the Agent's session serves, 0 while it begins or ends.",
    );
    for (id, session, _) in &rows {
        let labels = [("agent", id.as_str()), ("name", &session.agent_name)];
        page.series(&labels, u8::from(session.serves()));
    }
    page.metric("octoporty_tunnel_links", Kind::Gauge, "Open links of the tunnel.");
    for (id, _, links) in &rows {
        page.series(&[("agent", id)], links.len());
    }
    page.metric("octoporty_tunnel_streams", Kind::Gauge, "Requests under way in the tunnel.");
    for (id, session, _) in &rows {
        page.series(&[("agent", id)], session.streams.len());
    }
    page.metric(
        "octoporty_tunnel_rtt_seconds",
        Kind::Gauge,
        "Round trip of the last beat, of the quickest link.",
    );
    for (id, _, links) in &rows {
        // 0: no beat has been answered yet.
        if let Some(micros) = links.iter().map(|link| link.rtt()).filter(|micros| *micros > 0).min() {
            page.series(&[("agent", id)], micros as f64 / 1e6);
        }
    }
    let (received, sent) = (link::RECEIVED.get(), link::SENT.get());
    page.one(
        "octoporty_tunnel_received_bytes_total",
        Kind::Counter,
        "Bytes received on all links.",
        received,
    );
    page.one("octoporty_tunnel_sent_bytes_total", Kind::Counter, "Bytes sent on all links.", sent);
}

fn caddy(core: &Core, page: &mut Page) {
    let counters = &core.caddy.counters;
    for (name, help, counter) in [
        ("octoporty_caddy_passes_total", "Comparisons of Caddy's routes with ours.", &counters.passes),
        ("octoporty_caddy_writes_total", "Changes that Caddy accepted.", &counters.writes),
        ("octoporty_caddy_failures_total", "Comparisons that ended with an error.", &counters.failures),
    ] {
        page.one(name, Kind::Counter, help, counter.load(Relaxed));
    }
    page.metric(
        "octoporty_caddy_questions_total",
        Kind::Counter,
        "Caddy's questions whether a name is ours.",
    )
    .series(&[("answer", "yes")], counters.allowed.load(Relaxed))
    .series(&[("answer", "no")], counters.denied.load(Relaxed));
}
