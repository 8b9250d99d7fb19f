//! The Caddyfile of a Gateway's server. Pure: values in, text out.
//!
//! Two kinds. With *ask*, one site takes every host name, and Caddy asks the Gateway before it gets a certificate for
//! one: a new mapping needs no change of Caddy's configuration, and so cuts no connection. With *routes*, the file has
//! the Gateway's own site only, and the Gateway writes one route per mapping through Caddy's admin API.

use std::fmt::Write;

/// How Caddy learns host names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It asks.
    Ask,
    /// The Gateway tells it.
    Routes,
}

/// What the file depends on. Everything has been checked by whoever fills it in.
#[derive(Debug)]
pub(super) struct Caddyfile<'a> {
    /// The Gateway's own host name.
    pub(super) fqdn: &'a str,
    /// Address for the certificate authority's warnings.
    pub(super) email: Option<&'a str>,
    /// Where Caddy finds the Gateway: `host:port`.
    pub(super) upstream: &'a str,
    /// How Caddy learns host names.
    pub(super) kind: Kind,
}

impl Caddyfile<'_> {
    pub(super) fn text(&self) -> String {
        let Caddyfile { fqdn, upstream, kind, .. } = self;
        let mut out = String::from(
            "# Caddy in front of an Octoporty Gateway, written by octoporty-gateway init.\n\
             {\n\t# Never on an address that others can reach: whoever can talk to it owns this server.\n\
             \tadmin localhost:2019\n",
        );
        if let Some(email) = self.email {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "\temail {email}");
        }
        if *kind == Kind::Ask {
            let _ = write!(
                out,
                "\t# Certificates only for names that an Agent has mapped.\n\
                 \ton_demand_tls {{\n\t\task http://{upstream}/caddy/ask\n\t}}\n"
            );
        }
        out.push_str("\tservers {\n\t\tmax_header_size 64KB\n\t}\n}\n\n");
        let _ = write!(
            out,
            "(octoporty) {{\n\
             \treverse_proxy {upstream} {{\n\
             \t\tflush_interval 20ms\n\
             \t\t# What only the Gateway may say, nobody outside may.\n\
             \t\theader_up -X-Octoporty-*\n\
             \t\theader_up -Forwarded\n\
             \t\theader_up X-Real-IP {{remote_host}}\n\
             \t\t# While the Gateway restarts, visitors wait instead of failing.\n\
             \t\tlb_try_duration 5s\n\
             \t\tlb_try_interval 250ms\n\
             \t\t# With Caddy 2.7 or later: connections survive a change of this file.\n\
             \t\t# stream_close_delay 24h\n\
             \t\ttransport http {{\n\t\t\tcompression off\n\t\t\tdial_timeout 3s\n\t\t}}\n\
             \t}}\n\
             \thandle_errors {{\n\
             \t\theader Retry-After 5\n\
             \t\theader Cache-Control no-store\n\
             \t\trespond \"The tunnel's Gateway is being restarted. Please try again in a moment.\" 503\n\
             \t}}\n}}\n\n\
             # The Gateway itself: where Agents connect.\n\
             {fqdn} {{\n\timport octoporty\n}}\n"
        );
        match kind {
            Kind::Ask => out.push_str(
                "\n# Every other name: Caddy asks the Gateway whether it is mapped.\n\
                 https:// {\n\ttls {\n\t\ton_demand\n\t}\n\timport octoporty\n}\n",
            ),
            Kind::Routes => out.push_str(
                "\n# Mapped names are added by the Gateway through the admin API (Gateway__CaddyMode=routes).\n",
            ),
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(kind: Kind) -> String {
        let upstream = "127.0.0.1:17200";
        Caddyfile { fqdn: "gateway.example.com", email: Some("me@example.com"), upstream, kind }.text()
    }

    #[test]
    fn asking_has_a_site_for_every_name_and_a_question() {
        let text = file(Kind::Ask);
        assert!(text.contains("\n\t\task http://127.0.0.1:17200/caddy/ask\n"), "{text}");
        assert!(text.contains("\nhttps:// {\n"), "{text}");
        assert!(text.contains("\ngateway.example.com {\n"), "{text}");
        assert!(text.contains("\n\temail me@example.com\n"), "{text}");
        let text = file(Kind::Routes);
        assert!(!text.contains("on_demand") && !text.contains("https://"), "{text}");
    }

    #[test]
    fn braces_are_balanced() {
        for kind in [Kind::Ask, Kind::Routes] {
            let text = file(kind);
            assert_eq!(text.matches('{').count(), text.matches('}').count(), "{text}");
        }
    }
}
