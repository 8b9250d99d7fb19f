//! One request and one answer of the admin API, as values.
//!
//! Small on purpose: the handlers are functions from one to the other. Bytes and sockets are left to
//! `listener`.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::net::IpAddr;

use serde_json::Value;

/// A complete request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Without the query, as received: no path of ours needs decoding.
    pub(crate) path: String,
    /// What follows the first `?`, as received; empty when there is none.
    pub(crate) query: String,
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

    /// The first parameter of this name in the query, decoded as a form is (`+` and `%20` are spaces). Bytes that
    /// are not UTF-8 and escapes that are none are replaced and kept, for whoever parses the value to refuse.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        self.query
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .find(|(n, _)| decoded(n) == name)
            .map(|(_, value)| decoded(value))
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

/// `application/x-www-form-urlencoded`, one name or value (WHATWG URL 5.1).
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let escaped = match (first, after) {
            (b'%', [high, low, ..]) => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                digit(*high).zip(digit(*low)).map(|(high, low)| (high * 16 + low) as u8)
            }
            _ => None,
        };
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => bytes.push(if *first == b'+' { b' ' } else { *first }),
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

/// An answer. Its framing, Date and Connection are added on the way out.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Body,
}

/// What an answer carries.
pub(crate) enum Body {
    /// All of it, with its length.
    Bytes(Cow<'static, [u8]>),
    /// Made while it is sent: see [`Response::stream`].
    Stream(Stream),
}

/// Writes a body. An error ends the connection in a way the peer sees, so that half an answer is never taken for
/// a whole one.
pub(crate) type Stream = Box<dyn FnOnce(&mut dyn Sink) -> io::Result<()> + Send>;

/// Where a [`Body::Stream`] is written to. Writes are collected; `flush` sends them at once, which is for events.
/// A peer that takes nothing for ten seconds makes the next write fail.
pub(crate) trait Sink: io::Write {
    /// Whether there is nobody to write for any more: the peer has gone, or the Agent stops. To be asked now and
    /// then by whoever waits between writes.
    fn ended(&self) -> bool;
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Body::Bytes(bytes) => write!(f, "{:?}", String::from_utf8_lossy(bytes)),
            Body::Stream(_) => f.write_str("a stream"),
        }
    }
}

impl Response {
    /// An answer without a body.
    pub(crate) fn empty(status: u16) -> Response {
        Response::bytes(status, b"".as_slice())
    }

    /// An answer whose type is still to be said.
    pub(crate) fn bytes(status: u16, body: impl Into<Cow<'static, [u8]>>) -> Response {
        Response { status, headers: Vec::new(), body: Body::Bytes(body.into()) }
    }

    /// An answer in JSON.
    pub(crate) fn json(status: u16, value: &Value) -> Response {
        Response::bytes(status, value.to_string().into_bytes())
            .with("Content-Type", "application/json; charset=utf-8")
    }

    /// An answer that is made while it is sent, on the connection's own thread: `write` may wait. Sent in chunks,
    /// unless the handler has given a Content-Length, which must then be true.
    pub(crate) fn stream(
        status: u16,
        content_type: &'static str,
        write: impl FnOnce(&mut dyn Sink) -> io::Result<()> + Send + 'static,
    ) -> Response {
        Response { status, headers: Vec::new(), body: Body::Stream(Box::new(write)) }
            .with("Content-Type", content_type)
    }

    /// Adds a field. Its value is ours or has been parsed: nothing a peer sent gets here unread.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Response {
        let value = value.into();
        debug_assert!(!value.contains(['\r', '\n', '\0']), "{name}: {value:?}");
        self.headers.push((name, value));
        self
    }

    /// The first field of this name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Requests for tests, and what is read from answers.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    impl Request {
        pub(crate) fn new(method: &str, target: &str) -> Request {
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            Request {
                method: method.into(),
                path: path.into(),
                query: query.into(),
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
        /// The body, which a stream writes here and now.
        pub(crate) fn written(self) -> io::Result<Vec<u8>> {
            struct Memory(Vec<u8>);
            impl io::Write for Memory {
                fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                    self.0.write(bytes)
                }
                fn flush(&mut self) -> io::Result<()> {
                    Ok(())
                }
            }
            impl Sink for Memory {
                fn ended(&self) -> bool {
                    false
                }
            }
            match self.body {
                Body::Bytes(bytes) => Ok(bytes.into_owned()),
                Body::Stream(write) => {
                    let mut memory = Memory(Vec::new());
                    write(&mut memory).map(|()| memory.0)
                }
            }
        }

        pub(crate) fn value(&self) -> Value {
            let Body::Bytes(bytes) = &self.body else { panic!("a stream") };
            serde_json::from_slice(bytes)
                .unwrap_or_else(|e| panic!("{e}: {:?}", String::from_utf8_lossy(bytes)))
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

    #[test]
    fn parameters_are_decoded_and_the_first_of_a_name_counts() {
        let request =
            Request::new("GET", "/x?q=a+b%20c%2B&empty=&bare&q=second&n%61me=1&bad=%zz%4&utf=%c3%a9%ff");
        for (name, expected) in [
            ("q", Some("a b c+")),
            ("empty", Some("")),
            ("bare", Some("")),
            ("name", Some("1")),
            ("bad", Some("%zz%4")),
            ("utf", Some("\u{e9}\u{fffd}")),
            ("none", None),
        ] {
            assert_eq!(request.parameter(name).as_deref(), expected, "{name}");
        }
        assert_eq!(Request::new("GET", "/x").parameter("q"), None);
    }
}
