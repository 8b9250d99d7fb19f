//! The page on the Gateway's own host: what Agents' operators wrote, and how it is kept from doing harm.
//!
//! Whoever has an Agent's key may write this page, and it lies on the origin of the tunnel endpoint. So browsers are
//! told to treat it as a page of nobody's: no scripts, no forms, no frames, an origin of its own.

use shared::control::MAX_LANDING_PAGE;
use shared::landing;

/// What browsers may do with an operator's page. `sandbox` without `allow-scripts` and `allow-same-origin` (CSP 3,
/// HTML 7.6) is what matters; links may be followed, and styles, pictures and fonts shown from wherever the operator
/// has them.
pub(crate) const POLICY: &str = "sandbox allow-popups allow-popups-to-escape-sandbox \
     allow-top-navigation-by-user-activation; default-src 'none'; img-src data: https:; \
     style-src 'unsafe-inline' https:; font-src data: https:; media-src data: https:; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'";
/// Longest date of a page, bytes.
const MAX_DATE: usize = 40;

/// A page that an operator wrote.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) html: String,
    /// Worked out here, never taken from the Agent.
    pub(crate) hash: String,
    /// RFC 3339 in UTC, so that later ones are greater; empty when the Agent did not say.
    pub(crate) saved_at: String,
}

impl Page {
    /// Checks what an Agent sent.
    pub(crate) fn new(html: String, saved_at: Option<String>) -> Result<Page, String> {
        if html.is_empty() || html.len() > MAX_LANDING_PAGE {
            return Err(format!("a landing page of {} bytes; it must have 1-{MAX_LANDING_PAGE}", html.len()));
        }
        let saved_at = saved_at.filter(|date| date.len() <= MAX_DATE && date.is_ascii()).unwrap_or_default();
        Ok(Page { hash: landing::hash(&html), html, saved_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_bounds_and_a_hash_of_our_own() {
        let page = Page::new("<h1>hi</h1>".into(), Some("2026-01-01T00:00:00.000Z".into())).expect("a page");
        assert_eq!(page.hash, landing::hash("<h1>hi</h1>"));
        assert!(Page::new(String::new(), None).is_err());
        assert!(Page::new("x".repeat(MAX_LANDING_PAGE), None).is_ok());
        let fault = Page::new("x".repeat(MAX_LANDING_PAGE + 1), None).expect_err("too long");
        assert!(fault.contains("3000001 bytes"), "{fault}");
        assert_eq!(Page::new("x".into(), Some("9".repeat(41))).expect("a page").saved_at, "");
    }

    #[test]
    fn scripts_have_no_place() {
        assert!(POLICY.starts_with("sandbox "));
        for word in ["allow-scripts", "allow-same-origin", "script-src", "connect-src", "allow-forms"] {
            assert!(!POLICY.contains(word), "{word}");
        }
    }
}
