//! What a request says about a mapping, in either spelling, and what becomes of it with what is stored: a mapping, or
//! every fault by its field.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde_json::{Map, Value};
use time::OffsetDateTime;

use shared::hostname::Hostname;
use shared::mapping::{HostHeader, Mapping, MappingId, UpstreamHost};
use shared::target;

use crate::admin::App;
use crate::admin::problem::Fault;
use crate::store::{Stored, Unreadable};
use crate::timestamp;

/// Longest description, in characters; the column says so too.
const MAX_DESCRIPTION: usize = 500;

/// What a request does with the fields it does not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::admin) enum Kind {
    Create,
    Replace,
    Merge,
    Toggle,
}

/// A request to be applied to what is stored, which is known only once the writer has it in its hands.
pub(in crate::admin) struct Change {
    id: MappingId,
    kind: Kind,
    body: Map<String, Value>,
    now: OffsetDateTime,
    surroundings: Surroundings,
}

/// Where no mapping may lead.
#[derive(Clone)]
pub(in crate::admin) struct Surroundings {
    /// Where we listen ourselves.
    own: SocketAddr,
    /// The Gateway's own host.
    gateway: String,
}

impl Surroundings {
    pub(in crate::admin) fn of(app: &App) -> Surroundings {
        let gateway = host_of(&app.control.status().gateway_url).to_ascii_lowercase();
        Surroundings { own: app.address(), gateway }
    }

    #[cfg(test)]
    pub(in crate::admin) fn for_tests() -> Surroundings {
        Surroundings { own: "[::]:17201".parse().expect("an address"), gateway: "gateway.example".into() }
    }
}

/// What is stored, as far as it can be read.
#[derive(Default)]
struct Current {
    domain: Option<Hostname>,
    host: Option<UpstreamHost>,
    port: Option<u16>,
    tls: Option<bool>,
    allow_invalid_certificates: Option<bool>,
    enabled: Option<bool>,
    description: Option<Option<String>>,
    host_header: Option<HostHeader>,
    created_at: Option<OffsetDateTime>,
}

impl Current {
    fn of(row: &Stored) -> Current {
        match row {
            Stored::Mapping(mapping) => Current {
                domain: Some(mapping.domain.clone()),
                host: Some(mapping.host.clone()),
                port: Some(mapping.port),
                tls: Some(mapping.tls),
                allow_invalid_certificates: Some(mapping.allow_invalid_certificates),
                enabled: Some(mapping.enabled),
                description: Some(mapping.description.clone()),
                host_header: Some(mapping.host_header.clone()),
                created_at: Some(mapping.created_at),
            },
            Stored::Unreadable(row) => Current::of_unreadable(row),
        }
    }

    fn of_unreadable(row: &Unreadable) -> Current {
        Current {
            domain: Hostname::parse(&row.domain).ok(),
            host: UpstreamHost::parse(row.host.trim()).ok(),
            port: u16::try_from(row.port).ok().filter(|port| *port != 0),
            tls: Some(row.tls),
            allow_invalid_certificates: Some(row.allow_invalid_certificates),
            enabled: Some(row.enabled),
            description: Some(row.description.clone()),
            // It was written by the earlier program, which always did this.
            host_header: Some(HostHeader::Target),
            created_at: row.created_at,
        }
    }
}

impl Change {
    pub(in crate::admin) fn new(
        id: MappingId,
        kind: Kind,
        body: Map<String, Value>,
        now: OffsetDateTime,
        surroundings: Surroundings,
    ) -> Change {
        Change { id, kind, body, now, surroundings }
    }

    pub(super) fn asked(app: &App, id: MappingId, kind: Kind, body: Map<String, Value>) -> Change {
        Change::new(id, kind, body, timestamp::now(), Surroundings::of(app))
    }

    /// The mapping this makes, or everything that is wrong with it at once.
    pub(in crate::admin) fn apply(&self, row: Option<&Stored>) -> Result<Mapping, Vec<Fault>> {
        let current = row.map(Current::of).unwrap_or_default();
        let mut faults = Vec::new();
        let mut fields = Fields { body: &self.body, toggle: self.kind == Kind::Toggle, faults: &mut faults };

        let given_domain = fields.pick(&["externalDomain"], current.domain.as_ref(), |_, value| {
            let domain = Hostname::parse(text(value)?).map_err(|fault| fault.to_string())?;
            Ok(Some(domain))
        });
        let host = fields.pick(&["internalHost"], current.host.as_ref(), |_, value| {
            UpstreamHost::parse(text(value)?.trim()).map(Some).map_err(|fault| fault.to_string())
        });
        let port = fields.pick(&["internalPort"], current.port.as_ref(), |_, value| port(value).map(Some));
        let tls =
            fields.pick(&["internalProtocol", "internalUseTls"], current.tls.as_ref(), |name, value| {
                if name == "internalProtocol" { protocol(value).map(Some) } else { boolean(value).map(Some) }
            });
        let allow = fields.pick(
            &["allowInvalidCertificates", "allowSelfSignedCerts"],
            current.allow_invalid_certificates.as_ref(),
            |_, value| boolean(value).map(Some),
        );
        // The one thing a toggle is about.
        fields.toggle = false;
        let enabled = fields
            .pick(&["enabled", "isEnabled"], current.enabled.as_ref(), |_, value| boolean(value).map(Some));
        fields.toggle = self.kind == Kind::Toggle;
        let domain = given_domain.clone().or_else(|| current.domain.clone());
        let description =
            fields.pick(&["description", "name"], current.description.as_ref(), |name, value| {
                if name == "name" && (value.is_null() || is_domain(value, &domain, &current.domain)) {
                    // What a mapping without a description shows as its name says nothing.
                    return Ok(None);
                }
                description(value, current.description.as_ref()).map(Some)
            });
        let host_header =
            fields.pick(&["hostHeader"], current.host_header.as_ref(), |_, value| match value {
                Value::Null => Ok(None),
                _ => HostHeader::parse(text(value)?.trim()).map(Some).map_err(|fault| fault.to_string()),
            });

        let keeps = matches!(self.kind, Kind::Merge | Kind::Toggle);
        let domain = self.settle(&mut faults, "externalDomain", given_domain, current.domain.clone());
        let host = self.settle(&mut faults, "internalHost", host, current.host.clone());
        let port = self.settle(&mut faults, "internalPort", port, current.port);
        let or_default = |given: Option<bool>, stored: Option<bool>, default: bool| {
            given.or(stored.filter(|_| keeps)).unwrap_or(default)
        };
        let enabled = match self.kind {
            Kind::Toggle => enabled.unwrap_or(false),
            _ => or_default(enabled, current.enabled, true),
        };
        if let Some(domain) = &domain
            && current.domain.as_ref() != Some(domain)
            && domain.as_str() == self.surroundings.gateway
        {
            // It would take the Gateway's own paths, the tunnel's among them, and could not be taken back.
            faults.push(("externalDomain".into(), format!("{domain} is the Gateway's own name")));
        }
        if let (Some(host), Some(port)) = (&host, port)
            && (current.host.as_ref(), current.port) != (Some(host), Some(port))
            && leads_to(host, port, self.surroundings.own)
        {
            faults.push(("internalHost".into(), "leads to this Agent's own admin page".into()));
        }
        match (domain, host, port) {
            (Some(domain), Some(host), Some(port)) if faults.is_empty() => Ok(Mapping {
                id: self.id,
                domain,
                host,
                port,
                tls: or_default(tls, current.tls, false),
                allow_invalid_certificates: or_default(allow, current.allow_invalid_certificates, false),
                enabled,
                description: description.or(current.description.filter(|_| keeps)).flatten(),
                host_header: host_header.or(current.host_header).unwrap_or(HostHeader::Preserve),
                created_at: current.created_at.unwrap_or(self.now),
                updated_at: self.now,
            }),
            _ => Err(faults),
        }
    }

    /// A field without a default: given, or kept where this kind of change keeps, or missing.
    fn settle<T>(
        &self,
        faults: &mut Vec<Fault>,
        name: &str,
        given: Option<T>,
        stored: Option<T>,
    ) -> Option<T> {
        let value = given.or(match self.kind {
            Kind::Merge | Kind::Toggle => stored,
            Kind::Create | Kind::Replace => None,
        });
        // One that was given and is wrong has been named already.
        if value.is_none() && !faults.iter().any(|(field, _)| field == name) {
            let text = match self.kind {
                Kind::Create | Kind::Replace => "must not be empty",
                Kind::Merge | Kind::Toggle => "must be sent too: what is stored cannot be used",
            };
            faults.push((name.to_owned(), text.to_owned()));
        }
        value
    }
}

/// The members of a request's body, by either of their names.
struct Fields<'a> {
    body: &'a Map<String, Value>,
    /// A toggle changes one field, whatever else comes with it.
    toggle: bool,
    faults: &'a mut Vec<Fault>,
}

impl Fields<'_> {
    /// What the request says about one thing under any of `names`; `None` when nothing, or nothing that will
    /// do. `read` gets the name as listed and returns `None` for a value that says nothing.
    fn pick<T: PartialEq>(
        &mut self,
        names: &[&str],
        stored: Option<&T>,
        read: impl Fn(&str, &Value) -> Result<Option<T>, String>,
    ) -> Option<T> {
        if self.toggle {
            return None;
        }
        let mut given: Vec<(&str, T)> = Vec::new();
        for name in names {
            let Some((_, value)) = self.body.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)) else {
                continue;
            };
            match read(name, value) {
                Ok(Some(value)) => given.push((name, value)),
                Ok(None) => {}
                Err(fault) => self.faults.push(((*name).to_owned(), fault)),
            }
        }
        let disagree = given.windows(2).any(|pair| pair[0].1 != pair[1].1);
        if disagree {
            given.retain(|(_, value)| Some(value) != stored);
            if let [(first, _), (second, _)] = given.as_slice() {
                let fault = format!("says otherwise than \"{second}\", which means the same");
                self.faults.push(((*first).to_owned(), fault));
                return None;
            }
        }
        given.pop().map(|(_, value)| value)
    }
}

fn text(value: &Value) -> Result<&str, String> {
    match value {
        Value::Null => Err("must not be empty".into()),
        Value::String(text) => Ok(text),
        _ => Err("must be a string".into()),
    }
}

fn boolean(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| "must be true or false".into())
}

/// A number, also as a string: the earlier program took both.
fn port(value: &Value) -> Result<u16, String> {
    let number = match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let Some(number) = number else { return Err("must be a whole number between 1 and 65535".into()) };
    u16::try_from(number)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| format!("must be between 1 and 65535, is {number}"))
}

fn protocol(value: &Value) -> Result<bool, String> {
    match value.as_str() {
        Some(text) if text.eq_ignore_ascii_case("http") => Ok(false),
        Some(text) if text.eq_ignore_ascii_case("https") => Ok(true),
        _ => Err("must be \"Http\" or \"Https\"".into()),
    }
}

/// An empty one is none. One that is stored may stay as it is, even if it is longer than we would take.
fn description(value: &Value, stored: Option<&Option<String>>) -> Result<Option<String>, String> {
    if value.is_null() {
        return Ok(None);
    }
    let text = text(value)?;
    let unchanged = matches!(stored, Some(Some(stored)) if stored == text);
    if unchanged {
        return Ok(Some(text.to_owned()));
    }
    let text = text.trim();
    let length = text.chars().count();
    if length > MAX_DESCRIPTION {
        return Err(format!("must be {MAX_DESCRIPTION} characters or fewer, has {length}"));
    }
    if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        return Err("must not contain control characters".into());
    }
    Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
}

fn is_domain(value: &Value, new: &Option<Hostname>, old: &Option<Hostname>) -> bool {
    let Some(text) = value.as_str() else { return false };
    [new, old].into_iter().flatten().any(|domain| domain.as_str().eq_ignore_ascii_case(text.trim()))
}

/// As far as the text tells; what a name leads to is asked again at every connect.
fn leads_to(host: &UpstreamHost, port: u16, own: SocketAddr) -> bool {
    let addresses = match host {
        UpstreamHost::Address(ip) => vec![*ip],
        UpstreamHost::Name(name) => {
            let name = name.as_str().trim_end_matches('.');
            if name == "localhost" || name.ends_with(".localhost") {
                vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
            } else {
                Vec::new()
            }
        }
    };
    addresses.into_iter().any(|ip| target::reaches_listener(SocketAddr::new(ip, port), own))
}

/// The host of `scheme://host:port`.
fn host_of(url: &str) -> &str {
    let authority = url.split_once("://").map_or("", |(_, rest)| rest);
    let authority = authority.split(['/', '?']).next().unwrap_or(authority);
    authority.rsplit_once(':').map_or(authority, |(host, _)| host)
}

#[cfg(test)]
mod tests;
