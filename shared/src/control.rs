//! What Agents ask a Gateway once they are greeted, what it answers, and what it tells them by itself: the payloads
//! of control messages. Their types and names on the wire are in `hello`.
//!
//! ```text
//!   Agent                                        Gateway
//!     │ get-logs, get-caddy, … (request) ──────────▶│   any number outstanding
//!     │◀─────── logs, caddy, … or failed (request) ─│   in any order
//!     │ watch-logs ────────────────────────────────▶│
//!     │◀──────────────── log … routes … update-outcome
//! ```
//! A `request` is a number that the Agent chose; the answer echoes it. Long answers and log lines travel with the
//! lowest priority (`Schedule::push_later`). Times are RFC 3339 in UTC, ending in `Z`. Pure.

use serde::{Deserialize, Serialize};

/// Most lines in one `logs`.
pub const MAX_LOG_LINES: u32 = 5000;
/// Most bytes of text in one `logs`; a page ends earlier rather than be longer, and says that there are more.
pub const MAX_LOG_BYTES: usize = 3 * 1024 * 1024;
/// Most bytes of HTML of a landing page: a million UTF-16 units, of which none needs more than three bytes.
pub const MAX_LANDING_PAGE: usize = 3_000_000;

/// A line of the Gateway's log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogLine {
    /// Rises from line to line, from 1; starts anew with the Gateway.
    pub id: u64,
    /// When it was written, milliseconds since 1970.
    pub time: i64,
    /// `Debug`, `Info`, `Warning` or `Error`.
    pub level: String,
    /// The text; one line.
    pub message: String,
}

/// `get-logs`: asks for a page of the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GetLogs {
    /// Echoed in the answer.
    pub request: u64,
    /// Lines older than the one with this id; 0 for the newest.
    #[serde(default)]
    pub before: u64,
    /// Most lines wanted, 1-5000.
    pub count: u32,
    /// Only lines that contain this text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
}

/// `logs`: a page of the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Logs {
    /// The number of the `get-logs`.
    pub request: u64,
    /// Newest first.
    pub lines: Vec<LogLine>,
    /// There are lines older than the last one of these.
    pub has_more: bool,
}

/// `watch-logs`: whether the Agent wants lines as they are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WatchLogs {
    /// Yes or no more.
    pub on: bool,
    /// The newest line that the Agent has; those written since come first, a thousand at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
}

/// `log`: lines as they were written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogNews {
    /// Oldest first.
    pub lines: Vec<LogLine>,
    /// Lines before these that were left out, because the Link had no room for them.
    #[serde(default)]
    pub dropped: u64,
}

/// `get-caddy`: asks how the Gateway and Caddy get along.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GetCaddy {
    /// Echoed in the answer.
    pub request: u64,
    /// Caddy's whole configuration is wanted too.
    #[serde(default)]
    pub config: bool,
}

/// How the Gateway and Caddy get along.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CaddyReport {
    /// `routes`, `ask` or `off` (`Gateway__CaddyMode`).
    pub mode: String,
    /// `off`, `ok`, `pending`, `unreachable`, `forbidden`, `no_server` or `rejected`.
    pub state: String,
    /// The name of Caddy's server that has our routes.
    pub server: Option<String>,
    /// Where Caddy's admin API is.
    pub admin_url: String,
    /// What went wrong last, if it still is.
    pub last_error: Option<String>,
    /// When the configuration was last looked at.
    pub last_pass_at: Option<String>,
    /// When it was last changed by us.
    pub last_write_at: Option<String>,
    /// How often it was changed by us since the Gateway started.
    pub writes: u64,
    /// `@id` of the routes in Caddy that are ours.
    pub own_routes: Vec<String>,
}

/// `caddy`: the answer to `get-caddy`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Caddy {
    /// The number of the `get-caddy`.
    pub request: u64,
    /// How they get along.
    pub report: CaddyReport,
    /// Caddy's configuration as JSON, secrets redacted, if it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// `get-certificate`: asks for the certificate that visitors of a host get.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GetCertificate {
    /// Echoed in the answer.
    pub request: u64,
    /// The host name, exact or `*.example.com`.
    pub host: String,
    /// Look now, whatever is known already.
    #[serde(default)]
    pub fresh: bool,
}

/// What is known of a host's certificate.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CertificateReport {
    /// The host name that was asked for.
    pub host: String,
    /// `ok`, `warning` (ends in less than ten days), `error` or `unknown`.
    pub state: String,
    /// Who signed it.
    pub issuer: Option<String>,
    /// Whom it names.
    pub subject: Option<String>,
    /// The host names in it.
    pub names: Vec<String>,
    /// From when it is valid.
    pub not_before: Option<String>,
    /// Until when.
    pub not_after: Option<String>,
    /// Whole days until then; negative when it has passed.
    pub days_left: Option<i64>,
    /// Why there is none, or why it is not good.
    pub error: Option<String>,
    /// When it was looked at.
    pub checked_at: Option<String>,
}

/// `certificate`: the answer to `get-certificate`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Certificate {
    /// The number of the `get-certificate`.
    pub request: u64,
    /// What is known.
    #[serde(flatten)]
    pub report: CertificateReport,
}

/// `update`: asks the Gateway to have itself updated.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Update {
    /// Echoed in the answer.
    pub request: u64,
    /// The version wanted; the Agent's own.
    pub target_version: String,
    /// The operator wants the version that is installed already to be installed again.
    #[serde(default)]
    pub force: bool,
}

/// What became of an `update`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateStatus {
    /// Whoever performs updates is asked to.
    Queued,
    /// Nothing was done; the message says why.
    Rejected,
    /// It had been asked for before and is not done yet.
    AlreadyQueued,
}

/// `update-ack`: the answer to `update`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UpdateAck {
    /// The number of the `update`.
    pub request: u64,
    /// What became of it.
    pub status: UpdateStatus,
    /// A sentence for the operator.
    pub message: String,
}

/// `update-outcome`: how far the last update of the Gateway has got; sent after each first `config` of a Session
/// and when it changes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpdateOutcome {
    /// `none`, `queued`, `running`, `succeeded`, `failed` or `rolled-back`.
    pub state: String,
    /// The version that was asked for.
    pub target_version: Option<String>,
    /// The version before.
    pub from_version: Option<String>,
    /// A sentence for the operator.
    pub message: Option<String>,
    /// When it got there.
    pub at: Option<String>,
}

/// `landing-page`: the page that the Agent's operator wrote for the Gateway's own host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LandingPage {
    /// Echoed in the answer.
    pub request: u64,
    /// The page; none for the Gateway's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub html: Option<String>,
    /// When it was saved. Of several Agents' pages for one host the one saved last is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved_at: Option<String>,
}

/// `landing-page-ack`: the answer to `landing-page`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LandingPageAck {
    /// The number of the `landing-page`.
    pub request: u64,
    /// Hash of what the Gateway now holds for this Agent; none for the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
}

/// `draining` of an Agent: it is shutting down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Leaving {
    /// How long what still runs may take, at most; whoever is held until it is back waits for that long in addition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
}

/// `draining` of a Gateway: it opens no new Streams.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Sealed {
    /// How many it has opened in this Session; so many `Open` have come, or are still to come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened: Option<u32>,
}

/// `failed`: a request could not be answered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failed {
    /// Its number.
    pub request: u64,
    /// Why, for the operator.
    pub error: String,
}
