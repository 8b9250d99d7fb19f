//! `GET /api/v1/status`: how the Agent is doing, also for those who listen to events.

use std::sync::Arc;

use serde_json::{Value, json};
use shared::version;
use time::OffsetDateTime;

use super::App;
use super::api::Params;
use super::http::{Request, Response};
use super::problem;
use crate::control::{Control, TunnelState, TunnelStatus};
use crate::history::Recorder;
use crate::store::{Store, StoreError};
use crate::timestamp;

/// `GET /api/v1/status`.
pub(crate) fn status(app: &App, _: &Request, _: &Params<'_>) -> Response {
    match Source::new(app).value() {
        Ok(value) => Response::json(200, &value),
        Err(e) => problem::internal(&e),
    }
}

/// What the status is made of: outlives the request of whoever listens.
#[derive(Clone)]
pub(crate) struct Source {
    store: Store,
    history: Arc<Recorder>,
    control: Arc<dyn Control>,
    version: String,
    name: String,
    heartbeat_seconds: u64,
    started: OffsetDateTime,
}

impl Source {
    pub(crate) fn new(app: &App) -> Source {
        Source {
            store: app.store.clone(),
            history: Arc::clone(&app.history),
            control: Arc::clone(&app.control),
            version: app.config.version.clone(),
            name: app.config.name.clone(),
            heartbeat_seconds: app.config.heartbeat_seconds,
            started: app.started,
        }
    }

    /// The status now.
    pub(crate) fn value(&self) -> Result<Value, StoreError> {
        let mappings = self.store.mappings()?;
        let tunnel = self.control.status();
        let connected = tunnel.state == TunnelState::Connected;
        let uptime = tunnel.connected_since.filter(|_| connected).map(|since| since.elapsed().as_secs_f64());
        let update =
            tunnel.gateway_version.as_deref().is_some_and(|theirs| version::newer(&self.version, theirs));
        let gateways: Vec<_> = self.control.statuses().iter().map(gateway).collect();
        Ok(json!({
            "connectionStatus": tunnel.state.to_string(),
            "gatewayUrl": tunnel.gateway_url,
            "lastConnected": tunnel.last_connected.map(timestamp::api_form),
            "lastDisconnected": tunnel.last_disconnected.map(timestamp::api_form),
            "reconnectAttempts": tunnel.reconnect_attempts,
            "uptimeSeconds": uptime,
            "uptime": uptime,
            "version": self.version,
            "startedAt": timestamp::api_form(self.started),
            "activeMappings": mappings.iter().filter(|mapping| mapping.enabled).count(),
            "gatewayVersion": tunnel.gateway_version,
            "lastError": tunnel.last_error,
            "gatewayUpdateAvailable": update,
            "gatewayUptime": tunnel.gateway_uptime,
            "rttMs": tunnel.rtt_ms,
            "links": tunnel.links,
            "agentId": self.store.agent_id()?,
            "agentName": self.name,
            "gatewayUrls": gateways,
            "droppedRequests": self.history.dropped(),
            "database": { "path": self.store.path().display().to_string(), "bytes": self.store.bytes() },
            "heartbeatSeconds": self.heartbeat_seconds,
        }))
    }
}

/// One of the Gateways.
fn gateway(tunnel: &TunnelStatus) -> Value {
    json!({
        "url": tunnel.gateway_url,
        "state": tunnel.state.to_string(),
        "lastError": tunnel.last_error,
        "lastConnected": tunnel.last_connected.map(timestamp::api_form),
        "lastDisconnected": tunnel.last_disconnected.map(timestamp::api_form),
        "reconnectAttempts": tunnel.reconnect_attempts,
        "version": tunnel.gateway_version,
        "rttMs": tunnel.rtt_ms,
        "links": tunnel.links,
        "streams": tunnel.streams,
    })
}
