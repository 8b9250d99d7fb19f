//! What Caddy knows of our host names.

use shared::clock;
use shared::control::{CaddyReport, CertificateReport};

use crate::config::{CaddyMode, Config};

/// Our side of Caddy.
pub(crate) struct Caddy {
    admin_url: String,
    mode: CaddyMode,
}

impl Caddy {
    pub(crate) fn new(config: &Config) -> Caddy {
        Caddy { admin_url: config.caddy_admin_url.clone(), mode: config.caddy_mode }
    }

    /// How the Gateway and Caddy get along.
    pub(crate) fn report(&self) -> CaddyReport {
        let mode = match self.mode {
            CaddyMode::Routes => "routes",
            CaddyMode::Ask => "ask",
            CaddyMode::Off => "off",
        };
        CaddyReport {
            mode: mode.into(),
            state: "off".into(),
            admin_url: self.admin_url.clone(),
            ..CaddyReport::default()
        }
    }

    /// Caddy's configuration, secrets redacted. Waits for Caddy.
    pub(crate) fn config_redacted(&self) -> Result<String, String> {
        Err("Caddy is left alone (Gateway__CaddyMode=off)".into())
    }

    /// The certificate that visitors of a host get. Waits for Caddy.
    pub(crate) fn certificate(&self, host: &str, _fresh: bool) -> CertificateReport {
        CertificateReport {
            host: host.to_owned(),
            state: "unknown".into(),
            error: Some("Caddy is left alone (Gateway__CaddyMode=off)".into()),
            checked_at: Some(clock::now_iso()),
            ..CertificateReport::default()
        }
    }

    /// What Caddy does with a host: a word of `RouteReport::state`, what is wrong, and its certificate if that has
    /// been looked at.
    pub(crate) fn route_state(
        &self,
        _host: &str,
    ) -> (&'static str, Option<String>, Option<CertificateReport>) {
        ("off", None, None)
    }
}
