//! The head of a response: what an upstream may send, and how it is written into the tunnel.

use std::error::Error;
use std::fmt;
use std::mem::MaybeUninit;

use httparse::{ParserConfig, Status};

use super::fields::{
    Coding, CodingVerdict, Connection, Kind, Slots, elements, get, is_listed, line_ends, parse_decimal,
    write_field, write_length,
};
use super::{Field, Framing, MAX_FIELDS, MAX_HEAD, MAX_TUNNEL_FIELDS, Version};

/// The head of a response.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResponseHead<'b> {
    /// The status, 100 to 999.
    pub status: u16,
    /// The reason phrase, often empty; may have bytes beyond ASCII.
    pub reason: &'b [u8],
    /// The version.
    pub version: Version,
    /// All fields, in order.
    pub fields: Vec<Field<'b>>,
    /// How the body is delimited.
    pub framing: Framing,
    /// Whether the connection may serve another request when the body is read.
    pub keep_alive: bool,
    /// `Keep-Alive: timeout=N`, in seconds.
    pub keep_alive_timeout: Option<u32>,
    /// The status is 101: what follows is another protocol.
    pub upgrade: bool,
    /// `Content-Length`, also where it is not the framing (answers to `HEAD`, and 304).
    length: Option<u64>,
    listed: bool,
    size: usize,
}

impl<'b> ResponseHead<'b> {
    /// The value of the first field of this name, in any case.
    pub fn get(&self, name: &str) -> Option<&'b [u8]> {
        get(&self.fields, name)
    }
}

/// Why a response is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResponseFault {
    /// The first line is not `HTTP/1.x SP status`.
    StatusLine,
    /// A bare CR, or line ends of both kinds.
    LineEnd,
    /// A field name that is no token, or a folded line.
    FieldName,
    /// A field value with a control byte.
    FieldValue,
    /// The head is larger than [`MAX_HEAD`].
    HeadTooLarge,
    /// More than [`MAX_FIELDS`].
    TooManyFields,
    /// `Content-Length` is no number, or has different values.
    Length,
    /// `Content-Length` together with `Transfer-Encoding`.
    LengthAndCoding,
    /// `Transfer-Encoding` in HTTP/1.0, which has none.
    CodingInHttp10,
    /// `Transfer-Encoding` is not just `chunked`.
    Coding,
    /// A head from the tunnel has a field of one hop.
    HopByHop,
}

impl fmt::Display for ResponseFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ResponseFault::StatusLine => "the first line of the response is malformed",
            ResponseFault::LineEnd => "the line ends of the response head are malformed",
            ResponseFault::FieldName => "a header field of the response has a malformed name",
            ResponseFault::FieldValue => "a header field of the response has a malformed value",
            ResponseFault::HeadTooLarge => "the response head is larger than 64 KiB",
            ResponseFault::TooManyFields => "the response has more than 200 header fields",
            ResponseFault::Length => {
                "the Content-Length of the response is malformed or has different values"
            }
            ResponseFault::LengthAndCoding => "the response has both Content-Length and Transfer-Encoding",
            ResponseFault::CodingInHttp10 => "an HTTP/1.0 response cannot have Transfer-Encoding",
            ResponseFault::Coding => "the Transfer-Encoding of the response is not chunked",
            ResponseFault::HopByHop => "the response head in the tunnel has a field that belongs to one hop",
        })
    }
}

impl Error for ResponseFault {}

/// Parses a response head; `method` is the request's. `Ok(None)`: more bytes are needed.
///
/// Tolerated, because RFC 9112 wants it so or because the head is written anew anyway: a missing reason
/// phrase (and the space before it), white space before a colon (5.1), and bare LF as line end if it is the
/// only kind in the head. A head that mixes both kinds is refused: that is what an injected line looks like.
/// So are folded lines and everything that makes the length of the body a question.
pub fn parse_response<'b>(
    buf: &'b [u8],
    method: &str,
) -> Result<Option<(ResponseHead<'b>, usize)>, ResponseFault> {
    let window = &buf[..buf.len().min(MAX_HEAD)];
    // The parser would skip empty lines; before a response they mean that the previous one was read wrongly.
    if let [b'\r' | b'\n', ..] = window {
        return Err(ResponseFault::StatusLine);
    }
    let mut slots: Slots<'_> = [const { MaybeUninit::uninit() }; MAX_TUNNEL_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let mut config = ParserConfig::default();
    config.allow_spaces_after_header_name_in_responses(true);
    let used = match config.parse_response_with_uninit_headers(&mut response, window, &mut slots) {
        Ok(Status::Complete(used)) => used,
        Ok(Status::Partial) if window.len() >= MAX_HEAD => return Err(ResponseFault::HeadTooLarge),
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::HeaderName) => return Err(ResponseFault::FieldName),
        Err(httparse::Error::HeaderValue) => return Err(ResponseFault::FieldValue),
        Err(httparse::Error::NewLine) => return Err(ResponseFault::LineEnd),
        Err(httparse::Error::TooManyHeaders) => return Err(ResponseFault::TooManyFields),
        Err(httparse::Error::Status | httparse::Error::Token | httparse::Error::Version) => {
            return Err(ResponseFault::StatusLine);
        }
    };
    if response.headers.len() > MAX_FIELDS {
        return Err(ResponseFault::TooManyFields);
    }
    let fields: Vec<Field<'b>> =
        response.headers.iter().map(|h| Field { name: h.name, value: h.value }).collect();
    if line_ends(window, used, &fields).is_none() {
        return Err(ResponseFault::LineEnd);
    }
    let (Some(status @ 100..), Some(version)) = (response.code, response.version) else {
        return Err(ResponseFault::StatusLine);
    };
    let version = if version == 0 { Version::Http10 } else { Version::Http11 };
    let reason = reason_of(&window[..used]);
    judge_response(method, status, reason, version, fields, used).map(|head| Some((head, used)))
}

/// The reason phrase of a head that has been parsed. The parser gives none when it has bytes beyond ASCII.
fn reason_of(head: &[u8]) -> &[u8] {
    let line = head.split(|&b| b == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    line.get("HTTP/1.1 200 ".len()..).unwrap_or_default()
}

fn judge_response<'b>(
    method: &str,
    status: u16,
    reason: &'b [u8],
    version: Version,
    fields: Vec<Field<'b>>,
    size: usize,
) -> Result<ResponseHead<'b>, ResponseFault> {
    let mut length: Option<u64> = None;
    let mut coding: Option<Coding> = None;
    let mut options = Connection::default();
    let mut keep_alive_timeout = None;
    for field in &fields {
        match Kind::of(field.name) {
            Kind::ContentLength => {
                // RFC 9110 8.6: equal values, in one line or several, may be taken as one.
                for value in field.value.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
                    let value = parse_decimal(value).ok_or(ResponseFault::Length)?;
                    if length.is_some_and(|length| length != value) {
                        return Err(ResponseFault::Length);
                    }
                    length = Some(value);
                }
            }
            Kind::TransferEncoding => coding.get_or_insert_default().add(field.value),
            Kind::Connection => options.add(field.value),
            Kind::KeepAlive => keep_alive_timeout = keep_alive_timeout.or(timeout_of(field.value)),
            _ => {}
        }
    }
    let framing = match (coding, length) {
        (Some(_), Some(_)) => return Err(ResponseFault::LengthAndCoding),
        (Some(_), None) if version == Version::Http10 => return Err(ResponseFault::CodingInHttp10),
        (Some(coding), None) => match coding.verdict() {
            CodingVerdict::Chunked => Framing::Chunked,
            CodingVerdict::OtherThenChunked | CodingVerdict::Invalid => return Err(ResponseFault::Coding),
        },
        (None, Some(length)) => Framing::Length(length),
        (None, None) => Framing::UntilClose,
    };
    // RFC 9112 6.3: these have no body, whatever their fields say.
    let bodiless = method == "HEAD" || has_no_content(status);
    let framing = if bodiless { Framing::None } else { framing };
    Ok(ResponseHead {
        status,
        reason,
        version,
        framing,
        keep_alive: options.keep_alive(version) && framing != Framing::UntilClose && status != 101,
        keep_alive_timeout,
        upgrade: status == 101,
        length,
        listed: options.others,
        fields,
        size,
    })
}

/// Statuses whose responses have no body. 304 has none either, but may tell the length it would have had.
fn has_no_content(status: u16) -> bool {
    matches!(status, 100..=199 | 204 | 304)
}

fn timeout_of(value: &[u8]) -> Option<u32> {
    elements(value).find_map(|parameter| {
        let (name, seconds) = parameter.split_at_checked("timeout=".len())?;
        if !name.eq_ignore_ascii_case(b"timeout=") {
            return None;
        }
        // A number too large for us is as good as the largest.
        parse_decimal(seconds).map(|seconds| u32::try_from(seconds).unwrap_or(u32::MAX))
    })
}

/// Writes the tunnel form of a response head: `HTTP/1.1 status reason` and the fields without those of one
/// hop. `Content-Length` stays, once, when it is the framing, and in answers to `HEAD` and in 304, where it
/// tells what the body would be; it is dropped in 1xx and 204, which must not have it (RFC 9110 8.6).
/// `Upgrade` stays in 101.
pub fn write_tunnel_response(head: &ResponseHead<'_>, out: &mut Vec<u8>) {
    out.reserve(head.size + 64);
    out.extend_from_slice(b"HTTP/1.1 ");
    let digit = |place: u16| b'0' + (head.status / place % 10) as u8;
    out.extend_from_slice(&[digit(100), digit(10), digit(1), b' ']);
    out.extend_from_slice(head.reason);
    out.extend_from_slice(b"\r\n");
    let mut length = match head.status {
        100..=199 | 204 => None,
        _ => head.length,
    };
    for field in &head.fields {
        let keep = match Kind::of(field.name) {
            Kind::ContentLength => {
                if let Some(length) = length.take() {
                    write_length(out, field.name, Framing::Length(length));
                }
                false
            }
            Kind::Upgrade => head.upgrade,
            Kind::TransferEncoding | Kind::Connection | Kind::KeepAlive | Kind::HopByHop => false,
            Kind::Host | Kind::Expect | Kind::Gateways | Kind::MappingId | Kind::RequestId | Kind::Other => {
                !(head.listed && is_listed(&head.fields, field.name))
            }
        };
        if keep {
            write_field(out, field.name, field.value);
        }
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;
