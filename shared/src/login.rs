//! Logins that are good for a connection instead of a request.
//!
//! With NTLM and Negotiate a service takes whatever comes on a connection that logged in for that user's (RFC 4559 6,
//! and RFC 9110 3.3, which forbids it). Connections to services carry requests of many visitors, and behind a proxy so does the
//! visitor's own, so such a connection is closed behind the exchange: nobody is ever taken for somebody else. A login that
//! needs several steps on one connection then fails, visibly.
//!
//! Pure.

use crate::head::{RequestHead, ResponseHead};

/// Whether the request logs the connection in. A browser sends the scheme in any case, and so may any client.
pub fn in_request(head: &RequestHead<'_>) -> bool {
    let mut given = head.fields.iter().filter(|field| field.name.eq_ignore_ascii_case("authorization"));
    given.any(|field| is_bound(field.value))
}

/// Whether the answer says that the service takes such logins, or has taken one: it offers a scheme or goes on with one
/// (RFC 4559 4.1), or says of the connection that it is logged in.
pub fn in_response(head: &ResponseHead<'_>) -> bool {
    head.fields.iter().any(|field| {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        let says = |value: &[u8]| field.value.trim_ascii().eq_ignore_ascii_case(value);
        // Several challenges may stand in one field, with commas between them and within them; a parameter that begins
        // like one of these schemes costs one connection.
        (is("www-authenticate") && field.value.split(|&b| b == b',').any(is_bound))
            || (is("persistent-auth") && says(b"true"))
            || (is("proxy-support") && says(b"session-based-authentication"))
    })
}

/// Whether a challenge or credentials begin with a scheme that authenticates the connection.
fn is_bound(value: &[u8]) -> bool {
    let scheme = value.trim_ascii_start().split(|b| b.is_ascii_whitespace()).next().unwrap_or_default();
    [&b"ntlm"[..], b"negotiate", b"kerberos"].iter().any(|bound| scheme.eq_ignore_ascii_case(bound))
}

#[cfg(test)]
mod tests {
    use crate::head::{parse_request, parse_response};

    use super::*;

    fn request(fields: &str) -> bool {
        let head = format!("GET / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n");
        in_request(&parse_request(head.as_bytes()).expect("a head").expect("all of it").0)
    }

    fn response(fields: &str) -> bool {
        let head = format!("HTTP/1.1 401 Unauthorized\r\n{fields}\r\n");
        in_response(&parse_response(head.as_bytes(), "GET").expect("a head").expect("all of it").0)
    }

    #[test]
    fn schemes_that_log_a_connection_in_are_known_in_any_spelling() {
        for fields in [
            "Authorization: NTLM TlRMTVNTUAAB\r\n",
            "authorization: ntlm\r\n",
            "Authorization: Negotiate YII=\r\n",
            "Authorization:\tNEGOTIATE\tYII=\r\n",
            "Authorization: Kerberos YII=\r\n",
            "Authorization: Basic YTpi\r\nAuthorization: NTLM TlRM\r\n",
        ] {
            assert!(request(fields), "{fields:?}");
        }
        for fields in
            ["", "Authorization: Basic bnRsbTo=\r\n", "Authorization: Bearer ntlm\r\n", "X-NTLM: NTLM x\r\n"]
        {
            assert!(!request(fields), "{fields:?}");
        }
    }

    #[test]
    fn a_service_says_in_many_ways_that_it_takes_such_logins() {
        for fields in [
            "WWW-Authenticate: NTLM\r\n",
            "WWW-Authenticate: Basic realm=\"a, b\"\r\nwww-authenticate: negotiate\r\n",
            "WWW-Authenticate: Basic realm=\"x\", NTLM\r\n",
            "WWW-Authenticate: Negotiate oYG2MIGz\r\n",
            "Persistent-Auth: true\r\n",
            "Proxy-Support: Session-Based-Authentication\r\n",
        ] {
            assert!(response(fields), "{fields:?}");
        }
        for fields in [
            "",
            "WWW-Authenticate: Basic realm=\"ntlm\"\r\n",
            "WWW-Authenticate: Digest realm=\"x\", nonce=\"n\"\r\n",
            "Persistent-Auth: false\r\n",
        ] {
            assert!(!response(fields), "{fields:?}");
        }
    }
}
