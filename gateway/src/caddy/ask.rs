//! `GET /caddy/ask?domain=`: whether Caddy may get a certificate for a name.
//!
//! A wrong yes lets strangers use up a certificate authority's quota, so: only for names that are published, and only
//! to Caddy itself. Caddy calls us by the address in its Caddyfile and adds no `X-Forwarded-For`; a visitor who comes
//! through Caddy can avoid neither a public `Host` nor that field.

use std::time::{Duration, Instant};

use shared::head::RequestHead;
use shared::hostname::Host;

/// How often a refusal is worth a line in the log.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Whether a request can be Caddy's own question. `trusted`: it comes from where proxies are.
pub(crate) fn is_caddys(head: &RequestHead<'_>, trusted: bool) -> bool {
    trusted && head.get("x-forwarded-for").is_none() && is_private_name(&head.host)
}

/// A name that no visitor can have asked for through a public name server: an address, a bare name, or one of the
/// endings for private use (RFC 6761, RFC 6762, ICANN's `internal`).
fn is_private_name(host: &Host) -> bool {
    let name = host.name();
    let ending = name.rsplit_once('.').map_or(name, |(_, ending)| ending);
    host.is_ip()
        || !name.is_empty() && (!name.contains('.') || matches!(ending, "localhost" | "local" | "internal"))
}

/// The `domain` of a query.
pub(crate) fn domain(target: &str) -> Option<String> {
    let (_, query) = target.split_once('?')?;
    let value = query.split('&').find_map(|pair| pair.strip_prefix("domain="))?;
    percent_decoded(value)
}

/// A text with its `%XX` and `+` undone; `None`: it is not well encoded.
pub(crate) fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(b) = rest.next() {
        bytes.push(match b {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            b'+' => b' ',
            b => b,
        });
    }
    String::from_utf8(bytes).ok()
}

/// Status and text for the question about `domain`.
pub(crate) fn decide(domain: &str, is_published: impl Fn(&str) -> bool) -> (u16, &'static str) {
    match Host::parse(domain.as_bytes()) {
        Ok(host) if host.port().is_none() && !host.is_ip() && is_published(host.name()) => {
            (200, "published here")
        }
        Ok(_) => (404, "not published here"),
        Err(_) => (400, "domain must be a host name"),
    }
}

/// Refusals, for the log.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    said: Option<Instant>,
    /// Since then.
    unsaid: u64,
}

impl Asked {
    /// A name was refused.
    pub(crate) fn refused(&mut self, domain: &str, now: Instant) {
        if self.said.is_some_and(|said| now.duration_since(said) < LOG_EVERY) {
            self.unsaid += 1;
            return;
        }
        let domain: String = domain.chars().take(100).collect();
        match std::mem::take(&mut self.unsaid) {
            0 => log::info!("Caddy asked for {domain:?}, which is not published: no certificate"),
            more => log::info!(
                "Caddy asked for {domain:?}, which is not published: no certificate (and {more} more refusals)"
            ),
        }
        self.said = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(host: &str, more: &str, trusted: bool) -> bool {
        let text = format!("GET /caddy/ask?domain=a HTTP/1.1\r\nHost: {host}\r\n{more}\r\n");
        let (head, _) = shared::head::parse_request(text.as_bytes()).unwrap().unwrap();
        is_caddys(&head, trusted)
    }

    #[test]
    fn only_caddy_itself_may_ask() {
        for host in
            ["127.0.0.1:17200", "[::1]:17200", "localhost:17200", "gateway:17200", "gw.internal", "gw.local"]
        {
            assert!(asks(host, "", true), "{host}");
            assert!(!asks(host, "", false), "{host} from elsewhere");
            assert!(!asks(host, "X-Forwarded-For: 192.0.2.1\r\n", true), "{host} through Caddy");
        }
        assert!(!asks("gateway.example.com", "", true));
        assert!(!asks("local.example.com:17200", "", true));
    }

    #[test]
    fn only_published_names_are_allowed() {
        let published = |name: &str| name == "app.example.com";
        for (domain, status) in [
            ("app.example.com", 200),
            ("APP.Example.COM", 200),
            ("app.example.com.", 200),
            ("app.example.com:443", 404),
            ("other.example.com", 404),
            ("x.app.example.com", 404),
            ("127.0.0.1", 404),
            ("*.example.com", 400),
            ("", 400),
            ("a b", 400),
            ("app.example.com\0", 400),
        ] {
            assert_eq!(decide(domain, published).0, status, "{domain:?}");
        }
        // Addresses never, not even when somebody managed to publish one.
        assert_eq!(decide("127.0.0.1", |_| true).0, 404);
    }

    #[test]
    fn the_domain_is_found_in_the_query() {
        for (target, expected) in [
            ("/caddy/ask?domain=a.test", Some("a.test")),
            ("/caddy/ask?x=1&domain=a%2Etest&domain=b.test", Some("a.test")),
            ("/caddy/ask?domain=", Some("")),
            ("/caddy/ask?domains=a.test", None),
            ("/caddy/ask?", None),
            ("/caddy/ask", None),
            ("/caddy/ask?domain=%", None),
            ("/caddy/ask?domain=%zz", None),
            ("/caddy/ask?domain=%+f", None),
            ("/caddy/ask?domain=%ff", None),
        ] {
            assert_eq!(domain(target).as_deref(), expected, "{target}");
        }
    }
}
