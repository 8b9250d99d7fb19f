//! What the admin API may ask of the running tunnel, and what it is told.
//!
//! A trait, so that the API is tested with a fake and the tunnel needs to know nothing about HTTP.
//! Implementing it is left to the tunnel; turning it into JSON is left to the API.

use std::fmt;
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use shared::mapping::MappingId;

/// The tunnel, as the admin API sees it. Every call returns at once, except where it says how long it may
/// wait.
pub trait Control: Send + Sync {
    /// How the tunnel is doing now.
    fn status(&self) -> TunnelStatus;

    /// The mapping table in the store has changed: offer it to the Gateway, wait at most `wait` for its
    /// acknowledgement, and say how each mapping stands. One that is off has no route; it is
    /// [`RouteState::Synced`] once the Gateway has acknowledged a table without it. A mapping missing from the
    /// answer counts as [`RouteState::Pending`].
    fn mappings_changed(&self, wait: Duration) -> Vec<(MappingId, RouteState)>;

    /// The Operator wants a fresh connection: drop what there is and dial without waiting for the back-off.
    fn reconnect(&self);
}

/// How far the Gateway has got with one mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteState {
    /// The Gateway has acknowledged it and routes to it.
    Synced,
    /// The Gateway has not answered yet, or is not connected; it gets the table when it is.
    Pending,
    /// The Gateway cannot serve it; its words.
    Failed(String),
}

impl fmt::Display for RouteState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RouteState::Synced => f.write_str("synced"),
            RouteState::Pending => f.write_str("pending"),
            RouteState::Failed(why) => f.write_str(why),
        }
    }
}

/// The stages of a tunnel, with the names that scripts written for the earlier program look for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TunnelState {
    /// Not connected and not trying at this moment.
    #[default]
    Disconnected,
    /// Dialling for the first time.
    Connecting,
    /// The connection is up, the Hello is not answered yet.
    Authenticating,
    /// Greeted; the first mapping table is not acknowledged yet.
    Syncing,
    /// In service.
    Connected,
    /// Was connected before; dialling again or waiting to.
    Reconnecting,
}

impl fmt::Display for TunnelState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TunnelState::Disconnected => "Disconnected",
            TunnelState::Connecting => "Connecting",
            TunnelState::Authenticating => "Authenticating",
            TunnelState::Syncing => "Syncing",
            TunnelState::Connected => "Connected",
            TunnelState::Reconnecting => "Reconnecting",
        })
    }
}

/// A snapshot of the tunnel for the status answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TunnelStatus {
    /// The stage it is in.
    pub state: TunnelState,
    /// `scheme://host:port` of the Gateway in use.
    pub gateway_url: String,
    /// When a Session was last established.
    pub last_connected: Option<OffsetDateTime>,
    /// When a Session was last lost.
    pub last_disconnected: Option<OffsetDateTime>,
    /// Dials since the last established Session; 0 while connected.
    pub reconnect_attempts: u32,
    /// Since when the present Session stands: on the monotonic clock, so that setting the wall clock (which a
    /// machine without a battery does right after boot) does not make up an uptime.
    pub connected_since: Option<Instant>,
    /// Version from the last greeting; kept after a disconnect.
    pub gateway_version: Option<String>,
    /// Why the last dial or Session failed; `None` once connected again.
    pub last_error: Option<String>,
    /// Seconds the Gateway has been up, from its last heartbeat answer.
    pub gateway_uptime: Option<u64>,
    /// Round trip of the last heartbeat, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Links now open in the Session.
    pub links: usize,
}
