//! One request and one answer of the admin API, as values.
//!
//! Small on purpose: the handlers are functions from one to the other. Bytes and sockets are left to
//! `listener`.

use std::borrow::Cow;
use std::net::IpAddr;

use serde_json::Value;

/// Largest body; the largest sensible one is a mapping with a long description.
pub(crate) const MAX_BODY: usize = 256 * 1024;

/// A complete request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Without the query, as received: no path of ours needs decoding.
    pub(crate) path: String,
    /// Field names and values, in order; bytes that are not UTF-8 are replaced.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) peer: IpAddr,
}

impl Request {
    /// The first field of this name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers
            .iter()
            .filter(move |(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The first cookie of this name (RFC 6265 5.4 puts the one with the longest path first).
    pub(crate) fn cookie(&self, name: &str) -> Option<&str> {
        self.all("cookie")
            .flat_map(|line| line.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .find(|(n, _)| *n == name)
            .map(|(_, value)| value)
    }

    /// Whether it came over TLS, ended by somebody in front of us. Who lies here changes only his own
    /// cookies.
    pub(crate) fn is_https(&self) -> bool {
        self.header("x-forwarded-proto").is_some_and(|proto| proto.trim().eq_ignore_ascii_case("https"))
    }

    /// Whether it changes anything (RFC 9110 9.2.1).
    pub(crate) fn is_safe(&self) -> bool {
        matches!(self.method.as_str(), "GET" | "HEAD")
    }
}

/// An answer. Content-Length, Date and Connection are added on the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Cow<'static, [u8]>,
}

impl Response {
    /// An answer without a body.
    pub(crate) fn empty(status: u16) -> Response {
        Response { status, headers: Vec::new(), body: Cow::Borrowed(b"") }
    }

    /// An answer in JSON.
    pub(crate) fn json(status: u16, value: &Value) -> Response {
        let body = Cow::Owned(value.to_string().into_bytes());
        Response { status, headers: Vec::new(), body }.with("Content-Type", "application/json; charset=utf-8")
    }

    /// Adds a field. Its value is ours or has been parsed: nothing a peer sent gets here unread.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Response {
        let value = value.into();
        debug_assert!(!value.contains(['\r', '\n', '\0']), "{name}: {value:?}");
        self.headers.push((name, value));
        self
    }
}

/// Requests for tests, and what is read from answers.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    impl Request {
        pub(crate) fn new(method: &str, path: &str) -> Request {
            Request {
                method: method.into(),
                path: path.into(),
                headers: Vec::new(),
                body: Vec::new(),
                peer: IpAddr::from([192, 168, 1, 50]),
            }
        }

        pub(crate) fn field(mut self, name: &str, value: &str) -> Request {
            self.headers.push((name.into(), value.into()));
            self
        }

        pub(crate) fn json(mut self, body: &str) -> Request {
            self.body = body.into();
            self.field("Content-Type", "application/json")
        }
    }

    impl Response {
        pub(crate) fn header(&self, name: &str) -> Option<&str> {
            self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
        }

        pub(crate) fn value(&self) -> Value {
            serde_json::from_slice(&self.body)
                .unwrap_or_else(|e| panic!("{e}: {:?}", String::from_utf8_lossy(&self.body)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_found_among_others() {
        let request = Request::new("GET", "/")
            .field("Cookie", "a=1; octoporty_access=x.y=z;b=2")
            .field("cookie", "octoporty_access=second; c=3");
        assert_eq!(request.cookie("octoporty_access"), Some("x.y=z"));
        assert_eq!(request.cookie("c"), Some("3"));
        assert_eq!(request.cookie("octoporty"), None);
    }
}
