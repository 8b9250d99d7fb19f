//! Control messages: the JSON that Gateway and Agent exchange on Stream 0, and the greeting's rules.
//!
//! ```text
//!   Agent                                  Gateway
//!     │ hello (versions, identity, session?) ─▶│ picks the highest common version
//!     │◀──────────────── welcome or refused ───│
//!     │ config (mapping table, hash) ─────────▶│ swaps the table at once
//!     │◀──────────────────────── config-ack ───│ the Session serves traffic from here on
//!     │ hello with session on Links 2..n ─────▶│ joins
//! ```
//! Unknown fields are ignored and unknown messages answered with `unsupported`, so either side can be upgraded
//! first. Pure: text in, values out.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::control::{
    Caddy, CaddyReport, Certificate, CertificateReport, Failed, GetCaddy, GetCertificate, GetLogs,
    LandingPage, LandingPageAck, Leaving, LogNews, Logs, Sealed, Update, UpdateAck, UpdateOutcome, WatchLogs,
};

/// The WebSocket sub-protocol; its number is the major version of the protocol.
pub const SUB_PROTOCOL: &str = "octoporty.v1";
/// Lowest minor version that this code speaks.
pub const VERSION_MIN: u32 = 1;
/// Highest minor version that this code speaks.
pub const VERSION_MAX: u32 = 1;
/// Path of the tunnel endpoint on the Gateway's own host.
pub const TUNNEL_PATH: &str = "/tunnel";
/// WebSocket close code: a newer Session of the same Agent took over.
pub const CLOSE_REPLACED: u16 = 4001;
/// Seconds within which the greeting must be complete.
pub const GREETING_SECONDS: u64 = 10;

/// The Agent introduces itself.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// Lowest protocol version spoken.
    pub min_version: u32,
    /// Highest protocol version spoken.
    pub max_version: u32,
    /// Version of the program.
    pub agent_version: String,
    /// UUID made at first start; the same Agent after a restart has the same.
    pub agent_id: String,
    /// Host name, for people.
    #[serde(default)]
    pub agent_name: String,
    /// The Gateway's domain as the Agent was configured with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fqdn: Option<String>,
    /// Session to join, for Links after the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// What the Agent calls this Link; unique within the Session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Which other Links of the Session it still holds, for Links after the first: the Gateway drops those that have a
    /// name and are not among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds: Option<Vec<String>>,
    /// Bytes of request body that the Gateway may send on a new Stream before it gets more Credit.
    pub credit: u32,
    /// Hash of the Agent's landing page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub landing_page_hash: Option<String>,
    /// Hash of the Agent's mapping table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mappings_hash: Option<String>,
}

/// The Gateway accepts.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Welcome {
    /// Protocol version chosen.
    pub version: u32,
    /// Version of the program.
    pub gateway_version: String,
    /// Number of the Session, secret: whoever knows it and the key may join.
    pub session: String,
    /// Counts the Sessions of this Agent; the highest wins.
    pub generation: u64,
    /// Silence after which the Gateway sends a Beat; twice as much and the Link is dead.
    pub heartbeat_seconds: u64,
    /// Most Streams that the Gateway will open at the same time.
    pub max_streams: u32,
    /// Links that the Session should have, 1-8.
    pub links: u8,
    /// How long the Gateway has run, seconds.
    pub uptime_seconds: u64,
    /// Hash of the landing page that it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub landing_page_hash: Option<String>,
    /// Hash of the mapping table that it holds for this Agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mappings_hash: Option<String>,
}

/// The Gateway declines, then closes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Refused {
    /// Machine-readable: `version`, `session-unknown`, `hello-invalid`, `too-many-agents`, `draining`.
    pub code: String,
    /// A sentence for the operator.
    pub message: String,
}

/// One row of the mapping table, as the Gateway needs it. Targets stay with the Agent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConfigMapping {
    /// Mapping id, 32 or 36 characters of hexadecimal.
    pub id: String,
    /// Host name, exact or `*.example.com`.
    pub domain: String,
    /// What the operator calls it.
    #[serde(default)]
    pub name: String,
}

/// The Agent's whole table of enabled mappings.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Config {
    /// Echoed in the answer.
    pub request: u64,
    /// Hash of the table, [`table_hash`].
    pub hash: String,
    /// The table.
    pub mappings: Vec<ConfigMapping>,
}

/// What became of one mapping.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RouteReport {
    /// Mapping id.
    pub id: String,
    /// In `config-ack`: `ok`, `pending` or `error`. In `routes`, what Caddy does with the host: `off` (Caddy is not
    /// ours to ask), `served`, `pending`, `conflict`, `invalid` or `rejected`.
    pub state: String,
    /// What is wrong, when something is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The host's certificate as it was last seen, in `routes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateReport>,
}

/// `routes`: what Caddy does with the Agent's hosts; sent when it changes, and after each first `config` of a
/// Session. The whole list each time.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct RouteNews {
    /// One row per mapping of the Agent that the Gateway's table has.
    pub routes: Vec<RouteReport>,
    /// How the Gateway and Caddy get along.
    #[serde(default)]
    pub caddy: CaddyReport,
}

/// The table is in force.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ConfigAck {
    /// The number of the `config`.
    pub request: u64,
    /// Its hash.
    pub hash: String,
    /// One row per mapping.
    pub routes: Vec<RouteReport>,
}

/// Control messages to the Gateway.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ToGateway {
    /// Opens the greeting; the first message of every Link.
    Hello(Hello),
    /// The mapping table, after the greeting and after each change.
    Config(Config),
    /// Asks for a page of the Gateway's log.
    GetLogs(GetLogs),
    /// Whether lines of the Gateway's log are wanted as they are written.
    WatchLogs(WatchLogs),
    /// Asks how the Gateway and Caddy get along.
    GetCaddy(GetCaddy),
    /// Asks for the certificate of a host.
    GetCertificate(GetCertificate),
    /// Asks the Gateway to have itself updated.
    Update(Update),
    /// The page for the Gateway's own host.
    LandingPage(LandingPage),
    /// The Agent is shutting down: no new Streams, please.
    Draining(Leaving),
    /// The Agent closes the Session.
    Bye,
    /// An answer to a message that this side does not know.
    Unsupported {
        /// The type of the message.
        what: String,
    },
}

/// Control messages to the Agent.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ToAgent {
    /// The greeting succeeded.
    Welcome(Welcome),
    /// The greeting failed.
    Refused(Refused),
    /// Answers `config`.
    ConfigAck(ConfigAck),
    /// Answers `get-logs`.
    Logs(Logs),
    /// Lines of the log as they are written.
    Log(LogNews),
    /// Answers `get-caddy`.
    Caddy(Box<Caddy>),
    /// Answers `get-certificate`.
    Certificate(Box<Certificate>),
    /// Answers `update`.
    UpdateAck(UpdateAck),
    /// How far the last update has got.
    UpdateOutcome(UpdateOutcome),
    /// Answers `landing-page`.
    LandingPageAck(LandingPageAck),
    /// What Caddy does with the Agent's hosts.
    Routes(RouteNews),
    /// A request could not be answered.
    Failed(Failed),
    /// The Gateway opens no new Streams: it is shutting down, or the Agent has said that it is.
    Draining(Sealed),
    /// The Gateway closes the Session.
    Bye,
    /// An answer to a message that this side does not know.
    Unsupported {
        /// The type of the message.
        what: String,
    },
}

/// Names of all control messages, for `docs/protocol.md`.
pub const CONTROL_MESSAGES: [&str; 23] = [
    "hello",
    "welcome",
    "refused",
    "config",
    "config-ack",
    "get-logs",
    "logs",
    "watch-logs",
    "log",
    "get-caddy",
    "caddy",
    "get-certificate",
    "certificate",
    "update",
    "update-ack",
    "update-outcome",
    "landing-page",
    "landing-page-ack",
    "routes",
    "failed",
    "draining",
    "bye",
    "unsupported",
];

/// Why a control message cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ControlFault {
    /// A type that this version does not know: answer `unsupported`, go on.
    Unknown(String),
    /// A known type with wrong content, or no JSON at all: a protocol error.
    Malformed(String),
}

impl fmt::Display for ControlFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ControlFault::Unknown(what) => write!(f, "unknown control message {what:?}"),
            ControlFault::Malformed(why) => write!(f, "malformed control message: {why}"),
        }
    }
}

impl std::error::Error for ControlFault {}

#[derive(Deserialize)]
struct Typed {
    #[serde(rename = "type")]
    kind: String,
}

fn parse<'j, T: Deserialize<'j>>(json: &'j [u8]) -> Result<T, ControlFault> {
    serde_json::from_slice(json).map_err(|fault| match serde_json::from_slice::<Typed>(json) {
        Ok(typed) if !CONTROL_MESSAGES.contains(&typed.kind.as_str()) => {
            ControlFault::Unknown(typed.kind.chars().take(64).collect())
        }
        _ => ControlFault::Malformed(fault.to_string()),
    })
}

impl ToGateway {
    /// Reads a message from an Agent.
    pub fn parse(json: &[u8]) -> Result<ToGateway, ControlFault> {
        parse(json)
    }

    /// The message as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("control messages have string keys only")
    }
}

impl ToAgent {
    /// The request that it answers; 0 for none.
    pub fn answers(&self) -> u64 {
        match self {
            ToAgent::Logs(Logs { request, .. })
            | ToAgent::UpdateAck(UpdateAck { request, .. })
            | ToAgent::LandingPageAck(LandingPageAck { request, .. })
            | ToAgent::Failed(Failed { request, .. }) => *request,
            ToAgent::Caddy(caddy) => caddy.request,
            ToAgent::Certificate(certificate) => certificate.request,
            _ => 0,
        }
    }

    /// Reads a message from a Gateway.
    pub fn parse(json: &[u8]) -> Result<ToAgent, ControlFault> {
        parse(json)
    }

    /// The message as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("control messages have string keys only")
    }
}

/// The highest version both sides speak.
pub fn common_version(min: u32, max: u32) -> Option<u32> {
    let highest = max.min(VERSION_MAX);
    (min <= max && highest >= min.max(VERSION_MIN)).then_some(highest)
}

/// Hash of a mapping table: SHA-256 over `id domain` lines sorted by id, 32 hexadecimal digits of it.
pub fn table_hash(mappings: &[ConfigMapping]) -> String {
    use sha2::{Digest, Sha256};
    let mut rows: Vec<_> = mappings.iter().map(|m| format!("{} {} {}\n", m.id, m.domain, m.name)).collect();
    rows.sort();
    let mut hash = Sha256::new();
    rows.iter().for_each(|row| hash.update(row.as_bytes()));
    hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_are_ignored_and_unknown_messages_named() {
        let refused = br#"{"type":"refused","code":"version","message":"no","since":"2.0"}"#;
        let expected = Refused { code: "version".into(), message: "no".into() };
        assert_eq!(ToAgent::parse(refused), Ok(ToAgent::Refused(expected)));
        assert_eq!(
            ToAgent::parse(br#"{"type":"new-thing","x":1}"#),
            Err(ControlFault::Unknown("new-thing".into()))
        );
        assert!(matches!(ToAgent::parse(br#"{"type":"refused"}"#), Err(ControlFault::Malformed(_))));
        assert!(matches!(ToAgent::parse(b"\xff"), Err(ControlFault::Malformed(_))));
    }

    #[test]
    fn the_highest_common_version_is_chosen() {
        assert_eq!(common_version(VERSION_MIN, VERSION_MAX + 5), Some(VERSION_MAX));
        assert_eq!(common_version(VERSION_MAX + 1, VERSION_MAX + 5), None);
        assert_eq!(common_version(3, 1), None);
    }

    #[test]
    fn every_message_goes_there_and_back_under_its_name() {
        let caddy = r#""report":{"mode":"routes","state":"ok","writes":3}"#;
        let to_gateway = [
            r#""type":"hello","minVersion":1,"maxVersion":1,"agentVersion":"1","agentId":"x","credit":1"#
                .to_owned(),
            r#""type":"hello","minVersion":1,"maxVersion":1,"agentVersion":"1","agentId":"x","session":"s","link":"g1.5","holds":["g1.4"],"credit":1"#
                .to_owned(),
            r#""type":"config","request":1,"hash":"","mappings":[]"#.to_owned(),
            r#""type":"get-logs","request":1,"before":0,"count":10,"contains":"x""#.to_owned(),
            r#""type":"watch-logs","on":true,"after":7"#.to_owned(),
            r#""type":"get-caddy","request":1"#.to_owned(),
            r#""type":"get-certificate","request":1,"host":"a.test""#.to_owned(),
            r#""type":"update","request":1,"targetVersion":"2.0.0""#.to_owned(),
            r#""type":"landing-page","request":1,"html":"<p>""#.to_owned(),
            r#""type":"draining""#.to_owned(),
            r#""type":"draining","seconds":5"#.to_owned(),
            r#""type":"bye""#.to_owned(),
            r#""type":"unsupported","what":"x""#.to_owned(),
        ];
        let to_agent = [
            r#""type":"welcome","version":1,"gatewayVersion":"1","session":"s","generation":1,"heartbeatSeconds":30,"maxStreams":1,"links":1,"uptimeSeconds":1"#
                .to_owned(),
            r#""type":"refused","code":"version","message":"no""#.to_owned(),
            r#""type":"config-ack","request":1,"hash":"","routes":[{"id":"x","state":"ok"}]"#.to_owned(),
            r#""type":"logs","request":9,"lines":[{"id":1,"time":2,"level":"Info","message":"m"}],"hasMore":true"#
                .to_owned(),
            r#""type":"log","lines":[],"dropped":5"#.to_owned(),
            format!(r#""type":"caddy","request":9,{caddy}"#),
            r#""type":"certificate","request":9,"host":"a.test","state":"ok","names":["a.test"],"daysLeft":12"#
                .to_owned(),
            r#""type":"update-ack","request":9,"status":"already-queued","message":"m""#.to_owned(),
            r#""type":"update-outcome","state":"rolled-back""#.to_owned(),
            r#""type":"landing-page-ack","request":9,"hash":"h""#.to_owned(),
            r#""type":"routes","routes":[{"id":"x","state":"served","certificate":{"host":"a.test","state":"ok"}}]"#
                .to_owned(),
            r#""type":"failed","request":9,"error":"e""#.to_owned(),
            r#""type":"draining""#.to_owned(),
            r#""type":"draining","opened":12"#.to_owned(),
        ];
        let mut seen = Vec::new();
        let mut note = |json: &[u8]| {
            let typed: Typed = serde_json::from_slice(json).expect("a type");
            seen.push(typed.kind);
        };
        for fields in &to_gateway {
            let message = ToGateway::parse(format!("{{{fields}}}").as_bytes()).expect(fields);
            assert_eq!(ToGateway::parse(&message.to_json()), Ok(message.clone()), "{fields}");
            note(&message.to_json());
        }
        for fields in &to_agent {
            let message = ToAgent::parse(format!("{{{fields}}}").as_bytes()).expect(fields);
            assert_eq!(ToAgent::parse(&message.to_json()), Ok(message.clone()), "{fields}");
            assert_eq!(message.answers() == 9, fields.contains(r#""request":9"#), "{fields}");
            note(&message.to_json());
        }
        let mut listed = CONTROL_MESSAGES.map(str::to_owned).to_vec();
        seen.sort();
        seen.dedup();
        listed.sort();
        assert_eq!(seen, listed);
    }

    #[test]
    fn the_table_hash_ignores_the_order_of_rows() {
        let row = |id: &str| ConfigMapping { id: id.into(), domain: "a.test".into(), name: String::new() };
        assert_eq!(table_hash(&[row("1"), row("2")]), table_hash(&[row("2"), row("1")]));
        assert_ne!(table_hash(&[row("1")]), table_hash(&[row("2")]));
    }
}
