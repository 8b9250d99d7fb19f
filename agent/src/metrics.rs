//! What the tunnels and their requests tell for `/metrics`. Who may ask is left to `admin`.

use std::sync::Arc;

use shared::link;
use shared::metrics::{Kind, Page, Row};

use crate::agent::Core;
use crate::control::{TunnelState, TunnelStatus};

/// Adds it all to a page. One status for each Gateway.
pub(crate) fn write(core: &Core, tunnels: &[TunnelStatus], page: &mut Page) {
    page.metric("octoporty_tunnel_up", Kind::Gauge, "1 when the tunnel to the Gateway is in service.");
    for tunnel in tunnels {
        let labels = [("gateway", tunnel.gateway_url.as_str())];
        page.series(&labels, u8::from(tunnel.state == TunnelState::Connected));
    }
    for (name, help, value) in [
        ("octoporty_tunnel_links", "Open links of the tunnel.", (|t| t.links) as fn(&TunnelStatus) -> usize),
        ("octoporty_tunnel_streams", "Requests under way in the tunnel.", |t| t.streams),
        ("octoporty_tunnel_attempts", "Dials since the tunnel was last in service.", |t| {
            t.reconnect_attempts as usize
        }),
    ] {
        page.metric(name, Kind::Gauge, help);
        for tunnel in tunnels {
            page.series(&[("gateway", &tunnel.gateway_url)], value(tunnel));
        }
    }
    page.metric("octoporty_tunnel_rtt_seconds", Kind::Gauge, "Round trip of the last beat.");
    for tunnel in tunnels {
        if let Some(ms) = tunnel.rtt_ms {
            page.series(&[("gateway", &tunnel.gateway_url)], ms / 1e3);
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

    let targets = core.targets.all();
    let enabled = targets.iter().filter(|target| target.mapping.enabled).count();
    page.metric("octoporty_mappings", Kind::Gauge, "Mappings that can be used.")
        .series(&[("state", "enabled")], enabled)
        .series(&[("state", "disabled")], targets.len() - enabled);
    let rows = targets.iter().map(|target| Row {
        mapping: target.mapping.id.to_string(),
        host: target.mapping.domain.as_str().to_owned(),
        requests: Arc::clone(&target.requests),
    });
    page.requests(rows.collect());

    let upstreams = core.upstreams.len();
    page.one("octoporty_upstream_connections", Kind::Gauge, "Open connections to services.", upstreams);
    let idle = core.pool.len();
    page.one("octoporty_upstream_connections_idle", Kind::Gauge, "Those kept for the next request.", idle);
    let budget = &core.budget;
    page.one(
        "octoporty_memory_held_bytes",
        Kind::Gauge,
        "Bytes received and not yet passed on.",
        budget.held(),
    );
    page.one("octoporty_memory_budget_bytes", Kind::Gauge, "Most such bytes.", budget.limit());
}
