//! What the admin API may ask of the running tunnel, and what it is told.
//!
//! A trait, so that the API is tested with a fake and the tunnel needs to know nothing about HTTP.
//! Implementing it is left to the tunnel; turning it into JSON is left to the API.

use std::fmt;
use std::time::{Duration, Instant};

use shared::control::{CaddyReport, CertificateReport, UpdateOutcome, UpdateStatus};
use shared::hello::RouteReport;
use shared::logging::Line;
use shared::mapping::MappingId;
use shared::metrics::Page;
use time::OffsetDateTime;

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

    /// How the tunnel to each Gateway is doing, in the order of the settings.
    fn statuses(&self) -> Vec<TunnelStatus> {
        vec![self.status()]
    }

    /// What the tunnels and the requests in them tell for `/metrics`.
    fn metrics(&self, page: &mut Page) {
        let _ = page;
    }

    // What follows asks the Gateway; by itself it answers as when none is connected, so that a fake need not.

    /// A page of the Gateway's log, newest first: lines before the one with this id (0 for the newest), at most
    /// `count`, only those that contain the text. Waits for the Gateway, 30 s at most, like all that ask it something.
    fn gateway_logs(&self, before: u64, count: u32, contains: Option<&str>) -> Result<LogPage, AskFault> {
        let _ = (before, count, contains);
        Err(AskFault::NotConnected)
    }

    /// How the Gateway and Caddy get along; with `config` also Caddy's configuration.
    fn caddy(&self, config: bool) -> Result<CaddyAnswer, AskFault> {
        let _ = config;
        Err(AskFault::NotConnected)
    }

    /// The certificate that visitors of a host get; with `fresh` the Gateway looks again.
    fn certificate(&self, host: &str, fresh: bool) -> Result<CertificateReport, AskFault> {
        let _ = (host, fresh);
        Err(AskFault::NotConnected)
    }

    /// What the Gateway last said of a host's certificate; `None` when it said nothing yet. Does not wait.
    fn known_certificate(&self, host: &str) -> Option<CertificateReport> {
        let _ = host;
        None
    }

    /// Asks the Gateway to have itself updated to this version.
    fn request_update(&self, target_version: &str, force: bool) -> Result<UpdateReply, AskFault> {
        let _ = (target_version, force);
        Err(AskFault::NotConnected)
    }

    /// How far the last update of the Gateway has got, as it last said; `None` when it never did.
    fn update_outcome(&self) -> Option<UpdateOutcome> {
        None
    }

    /// The landing page in the store has changed: bring it to the Gateways. Waits at most `wait` for the first one.
    fn landing_page_changed(&self, wait: Duration) -> Result<(), AskFault> {
        let _ = wait;
        Err(AskFault::NotConnected)
    }

    /// Hash of the landing page that the Gateway holds for this Agent, as it last said: `None` when that is not
    /// known, `Some(None)` for its default page.
    fn gateway_landing_page(&self) -> Option<Option<String>> {
        None
    }

    /// How each mapping stands at the Gateway, as it last said. Empty when none is connected.
    fn route_reports(&self) -> Vec<(MappingId, RouteReport)> {
        Vec::new()
    }
}

/// A page of the Gateway's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogPage {
    /// Newest first.
    pub lines: Vec<Line>,
    /// There are lines older than the last one of these.
    pub has_more: bool,
}

/// What the Gateway says of Caddy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CaddyAnswer {
    /// How they get along.
    pub report: CaddyReport,
    /// Caddy's configuration, or why there is none; `None` when it was not asked for.
    pub config: Option<Result<String, String>>,
}

/// What became of the wish to update the Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdateReply {
    /// In a word.
    pub status: UpdateStatus,
    /// In a sentence.
    pub message: String,
}

/// Why the Gateway did not answer a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AskFault {
    /// No Gateway is connected.
    NotConnected,
    /// It is older and does not know the question.
    Unsupported,
    /// No answer for 30 seconds.
    Timeout,
    /// The connection was lost before the answer came.
    Lost,
    /// It cannot do that; its words.
    Refused(String),
}

impl fmt::Display for AskFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AskFault::NotConnected => "Not connected to the Gateway",
            AskFault::Unsupported => "The Gateway is older and cannot do this; update it first",
            AskFault::Timeout => "The Gateway did not answer within 30 seconds",
            AskFault::Lost => "The connection to the Gateway was lost before it answered",
            AskFault::Refused(why) => why,
        })
    }
}

impl std::error::Error for AskFault {}

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
    /// Requests now under way in the Session.
    pub streams: usize,
}
