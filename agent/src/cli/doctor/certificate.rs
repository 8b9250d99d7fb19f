//! What a certificate says about itself. Whether it is to be trusted, the TLS library has decided before.

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

const DAY: i64 = 24 * 3600;
/// Most names shown.
const MOST: usize = 5;

/// The part that an Operator wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    pub(super) names: Vec<String>,
    pub(super) issuer: String,
    /// Whole days until it ends; negative when it has.
    pub(super) days_left: i64,
    /// How long it is good altogether, in days.
    days: i64,
}

impl Certificate {
    /// Reads a certificate in DER; `now` in seconds since 1970.
    pub(super) fn read(der: &[u8], now: i64) -> Option<Certificate> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        let (from, to) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        let mut names = Vec::new();
        if let Ok(Some(extension)) = certificate.subject_alternative_name() {
            for name in extension.value.general_names.iter().take(MOST) {
                match name {
                    GeneralName::DNSName(name) => names.push((*name).to_owned()),
                    GeneralName::IPAddress(bytes) => {
                        let v4 = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from);
                        let v6 = <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from);
                        names.extend(v4.or(v6).map(|ip| ip.to_string()).ok());
                    }
                    _ => {}
                }
            }
        }
        let issuer = certificate.issuer();
        let first = |text: Option<&str>| text.unwrap_or_default().to_owned();
        let organisation = first(issuer.iter_organization().find_map(|part| part.as_str().ok()));
        let common = first(issuer.iter_common_name().find_map(|part| part.as_str().ok()));
        let issuer = if organisation.is_empty() { common } else { format!("{organisation} ({common})") };
        Some(Certificate { names, issuer, days_left: (to - now).div_euclid(DAY), days: (to - from) / DAY })
    }

    /// Whether it should have been renewed by now: Caddy does when a third of the time is left.
    pub(super) fn ends_soon(&self) -> bool {
        self.days_left < 10.min(self.days / 5)
    }
}
