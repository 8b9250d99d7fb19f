//! What Caddy's configuration says: which server takes the visitors, on which port, and whether it asks us. Pure.
//!
//! Names of servers are not stable (`srv0` follows the sorted listeners), so a server is chosen by what it does.

use serde_json::Value;

use super::plan::{MAX_DEPTH, dials_of, hosts_of, inner, is_ours};

/// The server that gets the routes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Server {
    pub(crate) name: String,
    /// Said to the operator when there was a choice.
    pub(crate) note: Option<String>,
}

/// Why no server can be chosen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum NoServer {
    /// Caddy has none at all.
    Empty,
    /// There are some, and none fits.
    Unclear(String),
}

/// Chooses among the servers in `http` (the value of `/config/apps/http`): the one that was set; else the one that
/// names the Gateway; else by port; else the only one.
pub(crate) fn choose_server(http: &Value, own: &[String], setting: Option<&str>) -> Result<Server, NoServer> {
    let Some(servers) = http.get("servers").and_then(Value::as_object).filter(|all| !all.is_empty()) else {
        return Err(NoServer::Empty);
    };
    let listing = || {
        let each = servers.iter().map(|(name, server)| format!("{name} ({})", listens(server).join(", ")));
        let mut each: Vec<_> = each.collect();
        each.sort();
        each.join(", ")
    };
    if let Some(name) = setting {
        return if servers.contains_key(name) {
            Ok(Server { name: name.to_owned(), note: None })
        } else {
            Err(NoServer::Unclear(format!(
                "Caddy has no server {name:?} (Gateway__CaddyServer); it has {}",
                listing()
            )))
        };
    }
    let (https, plain) = (https_port(http), http_port(http));
    let on = |server: &Value, port| listens(server).iter().any(|address| has_port(address, port));
    let names_us = |server: &Value| {
        let routes = server.get("routes").and_then(Value::as_array);
        routes.into_iter().flatten().filter(|route| !is_ours(route)).any(|r| names(r, own, 0))
    };
    let rules: [&dyn Fn(&Value) -> bool; 5] = [
        &|server| names_us(server) && on(server, https),
        &|server| names_us(server),
        &|server| on(server, https),
        &|server| on(server, plain),
        &|_| servers.len() == 1,
    ];
    for rule in rules {
        let mut fitting: Vec<_> =
            servers.iter().filter(|(_, server)| rule(server)).map(|(name, _)| name.clone()).collect();
        fitting.sort();
        if let Some(name) = fitting.first() {
            let note = (fitting.len() > 1).then(|| {
                format!(
                    "several of Caddy's servers would do ({}); {name} is used (set Gateway__CaddyServer to choose)",
                    fitting.join(", ")
                )
            });
            return Ok(Server { name: name.clone(), note });
        }
    }
    Err(NoServer::Unclear(format!(
        "none of Caddy's servers names the Gateway's domain or listens on port {https} or {plain}: {} (set \
         Gateway__CaddyServer)",
        listing()
    )))
}

/// Whether a route, or one inside it, is for one of the names.
fn names(route: &Value, own: &[String], depth: usize) -> bool {
    hosts_of(route).iter().any(|host| own.iter().any(|own| own.eq_ignore_ascii_case(host)))
        || depth < MAX_DEPTH && inner(route).any(|route| names(route, own, depth + 1))
}

/// The address at which a foreign route for the Gateway's own name reaches it already: what Caddy uses with success.
pub(crate) fn known_dial(server: &Value, own: &[String], port: u16) -> Option<String> {
    let routes = server.get("routes").and_then(Value::as_array);
    let mut dials = Vec::new();
    for route in routes.into_iter().flatten().filter(|route| !is_ours(route) && names(route, own, 0)) {
        dials_of(route, 0, &mut dials);
    }
    dials.into_iter().find(|dial| has_port(dial, port)).map(str::to_owned)
}

/// Where a server takes visitors: the address (`None` for all) and the port. The https port when it has several.
pub(crate) fn front(http: &Value, server: &Value) -> (Option<String>, u16) {
    let https = https_port(http);
    let addresses = listens(server);
    let address = addresses.iter().find(|address| has_port(address, https)).or(addresses.first());
    let Some((host, port)) = address.and_then(|address| split(address)) else { return (None, https) };
    let port = if has_port(address.map_or("", |a| a), https) { https } else { port.parse().unwrap_or(https) };
    let host = host.trim_matches(['[', ']']);
    let any = host.is_empty() || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_unspecified());
    ((!any).then(|| host.to_owned()), port)
}

fn listens(server: &Value) -> Vec<&str> {
    let all = server.get("listen").and_then(Value::as_array);
    all.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Host and port (or range of ports) of `[network/]host:port`.
fn split(address: &str) -> Option<(&str, &str)> {
    let address = match address.split_once('/') {
        Some((network, _)) if network.starts_with("unix") => return None,
        Some((_, rest)) => rest,
        None => address,
    };
    address.rsplit_once(':')
}

fn has_port(address: &str, port: u16) -> bool {
    let Some((_, ports)) = split(address) else { return false };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) => (first..=last).contains(&port),
        _ => false,
    }
}

pub(crate) fn https_port(http: &Value) -> u16 {
    port_setting(http, "https_port", 443)
}

fn http_port(http: &Value) -> u16 {
    port_setting(http, "http_port", 80)
}

fn port_setting(http: &Value, key: &str, default: u16) -> u16 {
    http.get(key).and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok()).unwrap_or(default)
}

/// Whether Caddy can get a certificate for a wildcard, or need not: because TLS is not its matter in this server, by an
/// authority of its own, by a DNS challenge, or because the operator brings certificates along.
pub(crate) fn has_wildcard_certificate(apps: &Value, server: &Value, host: &str) -> bool {
    let http = &apps["http"];
    let set = |key: &str| server.pointer(&format!("/automatic_https/{key}")) == Some(&Value::Bool(true));
    let addresses = listens(server);
    let plain = !addresses.is_empty() && addresses.iter().all(|address| has_port(address, http_port(http)));
    let loaded =
        apps.pointer("/tls/certificates").and_then(Value::as_object).is_some_and(|all| !all.is_empty());
    if plain || loaded || set("disable") || set("disable_certificates") {
        return true;
    }
    let policies = apps.pointer("/tls/automation/policies").and_then(Value::as_array);
    policies.into_iter().flatten().any(|policy| {
        let subjects = policy.get("subjects").and_then(Value::as_array);
        let is_for_it =
            subjects.is_none_or(|all| all.is_empty() || all.iter().any(|subject| subject == host));
        let managers = policy.get("get_certificate").and_then(Value::as_array);
        let issuers = policy.get("issuers").and_then(Value::as_array);
        let can = |issuer: &Value| {
            issuer.get("module").is_some_and(|module| module != "acme" && module != "zerossl")
                || issuer.pointer("/challenges/dns").is_some_and(|dns| !dns.is_null())
        };
        is_for_it && (managers.is_some_and(|all| !all.is_empty()) || issuers.into_iter().flatten().any(can))
    })
}

/// Whether `apps` (the value of `/config/apps`) gives certificates on demand and asks the Gateway whether it may. The
/// error says what is missing.
pub(crate) fn on_demand(apps: &Value) -> Result<(), String> {
    let automation = apps.pointer("/tls/automation").unwrap_or(&Value::Null);
    let policies = automation.get("policies").and_then(Value::as_array);
    let demands =
        policies.into_iter().flatten().any(|policy| policy.get("on_demand") == Some(&Value::Bool(true)));
    if !demands {
        return Err(
            "Caddy has no site with on-demand TLS: add the https:// site that `octoporty-gateway init` \
                    writes, or set Gateway__CaddyMode=routes"
                .to_owned(),
        );
    }
    let asks = ["/on_demand/ask", "/on_demand/permission/endpoint"]
        .iter()
        .filter_map(|path| automation.pointer(path)?.as_str())
        .any(|url| url.split('?').next().unwrap_or_default().ends_with(super::ASK_PATH));
    if asks {
        Ok(())
    } else {
        Err(format!(
            "Caddy makes certificates on demand without asking the Gateway: set on_demand_tls {{ ask \
             http://GATEWAY:PORT{} }}",
            super::ASK_PATH
        ))
    }
}

#[cfg(test)]
mod tests;
