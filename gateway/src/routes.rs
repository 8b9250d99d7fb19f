//! Which Tunnel serves a host name. Pure.
//!
//! Order: exact name, then wildcard (`*.example.com`, one label). Several Agents may publish the same name; their
//! targets stand side by side and the caller chooses among them.

use std::collections::{HashMap, HashSet};

use shared::hostname::Hostname;

/// A table from host name to targets; made anew from all mappings whenever one changes.
#[derive(Debug)]
pub(crate) struct Routes<T> {
    exact: HashMap<String, Vec<T>>,
    /// By what follows `*.`.
    wildcard: HashMap<String, Vec<T>>,
    /// The Gateway's own names: nobody may publish them, or the tunnel itself would be cut off.
    own: HashSet<String>,
}

impl<T> Default for Routes<T> {
    fn default() -> Self {
        Routes { exact: HashMap::new(), wildcard: HashMap::new(), own: HashSet::new() }
    }
}

impl<T> Routes<T> {
    /// Adds a target.
    pub(crate) fn add(&mut self, host: &Hostname, target: T) {
        let targets = match host.as_str().strip_prefix("*.") {
            Some(parent) => self.wildcard.entry(parent.to_owned()).or_default(),
            None => self.exact.entry(host.as_str().to_owned()).or_default(),
        };
        targets.push(target);
    }

    /// Reserves a name for the Gateway itself.
    pub(crate) fn reserve(&mut self, host: &str) {
        self.own.insert(host.to_ascii_lowercase());
    }

    /// Whether a name is reserved.
    pub(crate) fn is_own(&self, host: &str) -> bool {
        self.own.contains(host)
    }

    /// The targets of a lower-case host name; empty when it is not published.
    pub(crate) fn find(&self, host: &str) -> &[T] {
        if self.is_own(host) {
            return &[];
        }
        if let Some(targets) = self.exact.get(host) {
            return targets;
        }
        match host.split_once('.') {
            Some((label, parent)) if !label.is_empty() => {
                self.wildcard.get(parent).map_or(&[], Vec::as_slice)
            }
            _ => &[],
        }
    }

    /// How many names are published.
    pub(crate) fn len(&self) -> usize {
        self.exact.len() + self.wildcard.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(rows: &[(&str, u8)]) -> Routes<u8> {
        let mut routes = Routes::default();
        for (host, target) in rows {
            routes.add(&Hostname::parse(host).expect("a host name"), *target);
        }
        routes
    }

    #[test]
    fn an_exact_name_goes_before_a_wildcard() {
        let routes = routes(&[("*.example.com", 1), ("app.example.com", 2)]);
        assert_eq!(routes.find("app.example.com"), [2]);
        assert_eq!(routes.find("other.example.com"), [1]);
        assert_eq!(routes.len(), 2);
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        let routes = routes(&[("*.example.com", 1)]);
        for host in ["example.com", "a.b.example.com", ".example.com", "", "com"] {
            assert!(routes.find(host).is_empty(), "{host}");
        }
    }

    #[test]
    fn a_wildcard_does_not_take_the_gateways_own_name() {
        let mut routes = routes(&[("*.example.com", 1)]);
        routes.reserve("Gateway.example.com");
        assert!(routes.find("gateway.example.com").is_empty());
        assert_eq!(routes.find("app.example.com"), [1]);
    }

    #[test]
    fn agents_share_a_name() {
        assert_eq!(routes(&[("a.test", 1), ("A.test", 2)]).find("a.test"), [1, 2]);
    }
}
