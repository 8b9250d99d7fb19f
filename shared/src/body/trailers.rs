//! Fields after a body: which of them may be there.

use super::BodyFault;
use crate::head;

/// Most bytes of a trailer section.
pub const MAX_TRAILERS: usize = 16 * 1024;
/// Most lines of a trailer section.
pub const MAX_TRAILER_LINES: usize = 64;

/// Appends a trailer line (without its CRLF) to `kept` if its field may be one; false if it is no field line.
pub(super) fn keep_trailer(line: &[u8], kept: &mut Vec<u8>) -> bool {
    let Some((name, value)) = head::split_field(line) else { return false };
    if !value.iter().all(|&b| head::is_value_byte(b)) {
        return false;
    }
    if !is_forbidden_trailer(name) {
        kept.extend_from_slice(name.as_bytes());
        kept.extend_from_slice(b": ");
        kept.extend_from_slice(value);
        kept.extend_from_slice(b"\r\n");
    }
    true
}

/// Fields that must not come after a body, because somebody acted without them already (RFC 9110 6.5.1):
/// framing, routing, authentication, request and response control, and what only the Gateway says.
fn is_forbidden_trailer(name: &str) -> bool {
    const FORBIDDEN: [&str; 32] = [
        "age",
        "authorization",
        "cache-control",
        "content-encoding",
        "content-length",
        "content-location",
        "content-range",
        "content-type",
        "cookie",
        "date",
        "expect",
        "expires",
        "host",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "location",
        "max-forwards",
        "pragma",
        "proxy-authenticate",
        "proxy-authorization",
        "range",
        "retry-after",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "vary",
        "warning",
        "www-authenticate",
    ];
    FORBIDDEN.iter().any(|forbidden| forbidden.eq_ignore_ascii_case(name))
        || head::is_hop_by_hop(name)
        || head::is_gateways_own(name)
}

pub(super) fn check_trailers(section: &[u8]) -> Result<Vec<u8>, BodyFault> {
    // The lines may have grown by a space each when they were first written.
    if section.len() > MAX_TRAILERS + 4 * MAX_TRAILER_LINES {
        return Err(BodyFault::TrailersTooLarge);
    }
    let mut kept = Vec::with_capacity(section.len());
    let mut rest = section;
    while !rest.is_empty() {
        let end = rest.iter().position(|&b| b == b'\r').ok_or(BodyFault::Trailer)?;
        if rest.get(end + 1) != Some(&b'\n') || !keep_trailer(&rest[..end], &mut kept) {
            return Err(BodyFault::Trailer);
        }
        rest = &rest[end + 2..];
    }
    Ok(kept)
}
