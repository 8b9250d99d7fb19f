//! The head of a request: what a visitor may send, and how it is written into the tunnel and to the upstream.

use std::error::Error;
use std::fmt;
use std::mem::MaybeUninit;

use httparse::Status;

use super::fields::{
    Coding, CodingVerdict, Connection, Kind, LineEnds, Slots, get, is_label, is_listed, is_value_byte,
    line_ends, parse_decimal, write_field, write_length,
};
use super::{
    Field, Framing, MAX_EMPTY_LINES, MAX_FIELDS, MAX_HEAD, MAX_METHOD, MAX_TARGET, MAX_TUNNEL_FIELDS,
    MAX_TUNNEL_HEAD, Version,
};
use crate::forwarded::Extra;
use crate::hostname::{Host, HostFault};

/// The head of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestHead<'b> {
    /// The method, a token.
    pub method: &'b str,
    /// The target as received if it is origin-form or `*`; the part after the authority if it was
    /// absolute-form, `/` (for `OPTIONS` `*`, RFC 9112 3.2.4) if nothing is there. It begins with `?` when an
    /// absolute-form has a query but no path; the head is then written with the `/` in front.
    pub target: &'b str,
    /// The version.
    pub version: Version,
    /// All fields, in order.
    pub fields: Vec<Field<'b>>,
    /// From `Host` or the absolute-form. [`Host::none`] only for HTTP/1.0 requests without one.
    pub host: Host,
    /// `None`, `Length` or `Chunked`.
    pub framing: Framing,
    /// Whether the visitor's connection may serve another request after this one.
    pub keep_alive: bool,
    /// The visitor waits for a 100 before he sends the body (RFC 9110 10.1.1): HTTP/1.1 with a body only.
    pub expect_continue: bool,
    /// HTTP/1.1 with `Connection: upgrade` and an `Upgrade` field. Never set for a head from the tunnel,
    /// where there is no `Connection`: the Open Frame's flag tells.
    pub upgrade: bool,
    /// `Connection` names fields beyond those that are removed anyway.
    listed: bool,
    /// Length of the head as received, to reserve room for what is written.
    size: usize,
}

impl<'b> RequestHead<'b> {
    /// The value of the first field of this name, in any case.
    pub fn get(&self, name: &str) -> Option<&'b [u8]> {
        get(&self.fields, name)
    }

    /// The visitor's own `X-Octoporty-Request-Id`, if it is well-formed: a label for the log, never a
    /// decision.
    pub fn visitor_label(&self) -> Option<&'b str> {
        let value = self.get("x-octoporty-request-id")?;
        if is_label(value) { str::from_utf8(value).ok() } else { None }
    }
}

/// Why a request is refused. The connection is of no use afterwards, because nobody knows where the next
/// request begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RequestFault {
    /// The first line is not `method SP target SP version`.
    RequestLine,
    /// More than [`MAX_EMPTY_LINES`] before the request line.
    EmptyLines,
    /// The method is longer than [`MAX_METHOD`].
    MethodTooLong,
    /// `CONNECT`: this is no forward proxy.
    Connect,
    /// The target is neither origin-form nor absolute-form with http or https, nor `*` for `OPTIONS`.
    Target,
    /// The target is longer than [`MAX_TARGET`].
    TargetTooLong,
    /// Another version than HTTP/1.0 and HTTP/1.1.
    Version,
    /// A bare CR, a bare LF, or a line end that is not CRLF.
    LineEnd,
    /// A field name that is no token; white space before the colon and folded lines are the usual reason.
    FieldName,
    /// A field value with a control byte.
    FieldValue,
    /// The head is larger than [`MAX_HEAD`].
    HeadTooLarge,
    /// More than [`MAX_FIELDS`].
    TooManyFields,
    /// HTTP/1.1 without `Host`.
    HostMissing,
    /// Several `Host` fields.
    HostRepeated,
    /// `Host` is no host name or address.
    Host(HostFault),
    /// `Host` is another than in the absolute-form target.
    HostMismatch,
    /// `Content-Length` is no number, or beyond 64 bits.
    LengthInvalid,
    /// `Content-Length` more than once.
    LengthRepeated,
    /// `Content-Length` together with `Transfer-Encoding`.
    LengthAndCoding,
    /// `Transfer-Encoding` in HTTP/1.0, which has none.
    CodingInHttp10,
    /// `Transfer-Encoding` does not end with `chunked`, or has it twice, or is malformed.
    Coding,
    /// A transfer coding besides `chunked`.
    CodingUnknown,
}

impl RequestFault {
    /// The status of the answer.
    pub fn status(&self) -> u16 {
        match self {
            RequestFault::Connect => 405,
            RequestFault::TargetTooLong => 414,
            RequestFault::HeadTooLarge | RequestFault::TooManyFields => 431,
            // RFC 9112 3: a method longer than any implemented one; RFC 9112 6.1: a coding that is not
            // understood.
            RequestFault::MethodTooLong | RequestFault::CodingUnknown => 501,
            RequestFault::Version => 505,
            RequestFault::RequestLine
            | RequestFault::EmptyLines
            | RequestFault::Target
            | RequestFault::LineEnd
            | RequestFault::FieldName
            | RequestFault::FieldValue
            | RequestFault::HostMissing
            | RequestFault::HostRepeated
            | RequestFault::Host(_)
            | RequestFault::HostMismatch
            | RequestFault::LengthInvalid
            | RequestFault::LengthRepeated
            | RequestFault::LengthAndCoding
            | RequestFault::CodingInHttp10
            | RequestFault::Coding => 400,
        }
    }
}

impl fmt::Display for RequestFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RequestFault::RequestLine => "the first line of the request is malformed",
            RequestFault::EmptyLines => "too many empty lines came before the request",
            RequestFault::MethodTooLong => "the method is longer than 64 characters",
            RequestFault::Connect => "the method CONNECT is not served here",
            RequestFault::Target => "the request target is malformed",
            RequestFault::TargetTooLong => "the request target is longer than 16 KiB",
            RequestFault::Version => "only HTTP/1.0 and HTTP/1.1 are spoken here",
            RequestFault::LineEnd => "a line of the request head does not end with CRLF",
            RequestFault::FieldName => "a header field of the request has a malformed name",
            RequestFault::FieldValue => "a header field of the request has a malformed value",
            RequestFault::HeadTooLarge => "the request head is larger than 64 KiB",
            RequestFault::TooManyFields => "the request has more than 200 header fields",
            RequestFault::HostMissing => "the request has no Host field",
            RequestFault::HostRepeated => "the request has several Host fields",
            RequestFault::Host(fault) => return write!(f, "the Host field is malformed: {fault}"),
            RequestFault::HostMismatch => "the Host field differs from the host in the request target",
            RequestFault::LengthInvalid => "the Content-Length field is malformed",
            RequestFault::LengthRepeated => "the request has several Content-Length fields",
            RequestFault::LengthAndCoding => "the request has both Content-Length and Transfer-Encoding",
            RequestFault::CodingInHttp10 => "an HTTP/1.0 request cannot have Transfer-Encoding",
            RequestFault::Coding => "the Transfer-Encoding field is not chunked",
            RequestFault::CodingUnknown => "the request has a transfer coding other than chunked",
        })
    }
}

impl Error for RequestFault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            RequestFault::Host(fault) => Some(fault),
            _ => None,
        }
    }
}

/// Parses a request head. `Ok(None)`: more bytes are needed; else the head and how many bytes it took, empty
/// lines in front included. A fault is the same however the bytes arrive.
///
/// Bytes beyond ASCII are accepted in the target if they are UTF-8, and pass untouched; `#` is refused there,
/// because no origin-form has it and servers disagree on what it means.
pub fn parse_request(buf: &[u8]) -> Result<Option<(RequestHead<'_>, usize)>, RequestFault> {
    parse_request_within(buf, MAX_HEAD, MAX_FIELDS)
}

/// Parses a request head out of the tunnel: as [`parse_request`], with room for what the Gateway adds.
pub fn parse_tunnel_request(buf: &[u8]) -> Result<Option<(RequestHead<'_>, usize)>, RequestFault> {
    parse_request_within(buf, MAX_TUNNEL_HEAD, MAX_TUNNEL_FIELDS)
}

fn parse_request_within(
    buf: &[u8],
    max_head: usize,
    max_fields: usize,
) -> Result<Option<(RequestHead<'_>, usize)>, RequestFault> {
    let Some(skipped) = skip_empty_lines(buf)? else { return Ok(None) };
    // Only what a head may have is looked at, so that a fault beyond the bound does not depend on how much
    // arrived.
    let window = &buf[skipped..buf.len().min(skipped.saturating_add(max_head))];
    if let Some((cut, fault)) = first_line_too_long(window) {
        // What is wrong before the bound comes first, as it would have if the bytes had come one by one.
        run_request_parser(&window[..cut])?;
        return Err(fault);
    }
    let Some(parsed) = run_request_parser(window)? else {
        return if window.len() >= max_head { Err(RequestFault::HeadTooLarge) } else { Ok(None) };
    };
    if parsed.fields.len() > max_fields {
        return Err(RequestFault::TooManyFields);
    }
    // The parser takes a bare LF for a line end, we do not (RFC 9112 2.2 leaves it open): a recipient behind
    // us could see other lines.
    if line_ends(window, parsed.used, &parsed.fields) != Some(LineEnds::CrLf) {
        return Err(RequestFault::LineEnd);
    }
    let used = skipped + parsed.used;
    judge_request(parsed).map(|head| Some((head, used)))
}

/// A request head that is well-formed; whether it makes sense is not yet known.
struct RawRequest<'b> {
    method: &'b str,
    target: &'b str,
    version: Version,
    fields: Vec<Field<'b>>,
    used: usize,
}

fn run_request_parser(window: &[u8]) -> Result<Option<RawRequest<'_>>, RequestFault> {
    let mut slots: Slots<'_> = [const { MaybeUninit::uninit() }; MAX_TUNNEL_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let used = match request.parse_with_uninit_headers(window, &mut slots) {
        Ok(Status::Complete(used)) => used,
        Ok(Status::Partial) => return Ok(None),
        Err(error) => return Err(request_fault(error, window)),
    };
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Err(RequestFault::RequestLine);
    };
    let version = if version == 0 { Version::Http10 } else { Version::Http11 };
    let fields = request.headers.iter().map(|h| Field { name: h.name, value: h.value }).collect();
    Ok(Some(RawRequest { method, target, version, fields, used }))
}

fn request_fault(error: httparse::Error, window: &[u8]) -> RequestFault {
    match error {
        httparse::Error::HeaderName => RequestFault::FieldName,
        httparse::Error::HeaderValue => RequestFault::FieldValue,
        httparse::Error::NewLine => RequestFault::LineEnd,
        httparse::Error::TooManyHeaders => RequestFault::TooManyFields,
        // Something that calls itself HTTP/<digit> is a version we do not speak (HTTP/2's preface is such a
        // line), anything else is no request line. Only the first digit decides, for the rest may not have
        // arrived.
        httparse::Error::Version => match window.splitn(3, |&b| b == b' ').nth(2) {
            Some([b'H', b'T', b'T', b'P', b'/', digit, ..]) if digit.is_ascii_digit() => {
                RequestFault::Version
            }
            _ => RequestFault::RequestLine,
        },
        httparse::Error::Token | httparse::Error::Status => RequestFault::RequestLine,
    }
}

/// How many bytes of empty lines are in front; `None` while that cannot be told.
fn skip_empty_lines(buf: &[u8]) -> Result<Option<usize>, RequestFault> {
    let mut skipped = 0;
    loop {
        match &buf[skipped..] {
            [b'\r', b'\n', ..] => skipped += 2,
            [] | [b'\r'] => return Ok(None),
            [b'\r' | b'\n', ..] => return Err(RequestFault::LineEnd),
            _ => return Ok(Some(skipped)),
        }
        if skipped > 2 * MAX_EMPTY_LINES {
            return Err(RequestFault::EmptyLines);
        }
    }
}

/// Finds a method or target beyond its bound, complete or not: how much of the window proves it, and the
/// fault.
fn first_line_too_long(window: &[u8]) -> Option<(usize, RequestFault)> {
    let method = &window[..window.len().min(MAX_METHOD + 1)];
    let Some(space) = method.iter().position(|&b| b == b' ') else {
        return (window.len() > MAX_METHOD).then_some((MAX_METHOD + 1, RequestFault::MethodTooLong));
    };
    let target = &window[space + 1..];
    if target.len() <= MAX_TARGET || target[..=MAX_TARGET].iter().any(|&b| b <= b' ') {
        return None;
    }
    Some((space + MAX_TARGET + 2, RequestFault::TargetTooLong))
}

fn judge_request(raw: RawRequest<'_>) -> Result<RequestHead<'_>, RequestFault> {
    let RawRequest { method, target, version, fields, used } = raw;
    if method == "CONNECT" {
        return Err(RequestFault::Connect);
    }
    let mut host: Option<&[u8]> = None;
    let mut length: Option<u64> = None;
    let mut coding: Option<Coding> = None;
    let mut expect = false;
    let mut upgrade = false;
    let mut options = Connection::default();
    for field in &fields {
        match Kind::of(field.name) {
            Kind::Host if host.is_some() => return Err(RequestFault::HostRepeated),
            Kind::Host => host = Some(field.value),
            Kind::ContentLength if length.is_some() => return Err(RequestFault::LengthRepeated),
            // RFC 9110 8.6 lets a recipient refuse a list of equal values; in requests nobody honest sends
            // one.
            Kind::ContentLength => {
                length = Some(parse_decimal(field.value).ok_or(RequestFault::LengthInvalid)?);
            }
            Kind::TransferEncoding => {
                coding.get_or_insert_default().add(field.value);
            }
            Kind::Connection => options.add(field.value),
            Kind::Expect => expect |= field.value.eq_ignore_ascii_case(b"100-continue"),
            Kind::Upgrade => upgrade |= !field.value.is_empty(),
            _ => {}
        }
    }
    let framing = match (coding, length) {
        (Some(_), Some(_)) => return Err(RequestFault::LengthAndCoding),
        (Some(_), None) if version == Version::Http10 => return Err(RequestFault::CodingInHttp10),
        (Some(coding), None) => match coding.verdict() {
            CodingVerdict::Chunked => Framing::Chunked,
            CodingVerdict::OtherThenChunked => return Err(RequestFault::CodingUnknown),
            CodingVerdict::Invalid => return Err(RequestFault::Coding),
        },
        (None, Some(length)) => Framing::Length(length),
        (None, None) => Framing::None,
    };
    let (target, authority) = split_target(method, target).ok_or(RequestFault::Target)?;
    let host = judge_host(version, host, authority)?;
    let body = !matches!(framing, Framing::None | Framing::Length(0));
    Ok(RequestHead {
        method,
        target,
        version,
        host,
        framing,
        keep_alive: options.keep_alive(version),
        // RFC 9110 10.1.1: a server must ignore the expectation in an HTTP/1.0 request.
        expect_continue: expect && body && version == Version::Http11,
        upgrade: upgrade && options.upgrade && version == Version::Http11,
        listed: options.others,
        fields,
        size: used,
    })
}

/// The authority of an absolute-form, and whether it came with https.
struct Authority<'b> {
    text: &'b str,
    default_port: u16,
}

/// Splits a target into what goes on and the authority it names, if it does (RFC 9112 3.2).
fn split_target<'b>(method: &str, target: &'b str) -> Option<(&'b str, Option<Authority<'b>>)> {
    if target == "*" {
        return (method == "OPTIONS").then_some((target, None));
    }
    if target.contains('#') {
        return None;
    }
    if target.starts_with('/') {
        return Some((target, None));
    }
    let (rest, default_port) = match (strip_prefix(target, "http://"), strip_prefix(target, "https://")) {
        (Some(rest), _) => (rest, 80),
        (_, Some(rest)) => (rest, 443),
        (None, None) => return None,
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (text, path) = rest.split_at(end);
    let path = match (path, method) {
        ("", "OPTIONS") => "*",
        ("", _) => "/",
        (path, _) => path,
    };
    Some((path, Some(Authority { text, default_port })))
}

fn strip_prefix<'b>(text: &'b str, prefix: &str) -> Option<&'b str> {
    match text.split_at_checked(prefix.len()) {
        Some((start, rest)) if start.eq_ignore_ascii_case(prefix) => Some(rest),
        _ => None,
    }
}

fn judge_host(
    version: Version,
    field: Option<&[u8]>,
    authority: Option<Authority<'_>>,
) -> Result<Host, RequestFault> {
    let named = match field {
        None if version == Version::Http11 => return Err(RequestFault::HostMissing),
        None => None,
        Some(b"") if version == Version::Http10 && authority.is_none() => None,
        Some(value) => Some(Host::parse(value).map_err(RequestFault::Host)?),
    };
    let Some(Authority { text, default_port }) = authority else {
        return Ok(named.unwrap_or_else(Host::none));
    };
    // User information is refused with the rest: an at sign is in no host name (RFC 9110 4.2.4).
    let target = Host::parse(text.as_bytes()).map_err(|_| RequestFault::Target)?;
    if let Some(named) = named {
        let port = |host: &Host| host.port().unwrap_or(default_port);
        if named.name() != target.name() || port(&named) != port(&target) {
            return Err(RequestFault::HostMismatch);
        }
    }
    Ok(target)
}

/// Writes the tunnel form of a request head: `METHOD target HTTP/1.1` and the fields with the very same
/// names, order, duplicates and value bytes, without those of one hop and without those that only the Gateway
/// may set, which `extra` gives. `Content-Length` stays when it is the framing, `Upgrade` when the request is
/// one, `Expect` unless it came with HTTP/1.0, where it means nothing.
///
/// A visitor's own `X-Octoporty-Request-Id` goes on as `X-Request-Id` if it is well-formed and he sent none
/// of that. A head without any host (HTTP/1.0) gets no `Host` line and is no valid tunnel form; no route
/// leads there.
pub fn write_tunnel_request(head: &RequestHead<'_>, extra: &Extra<'_>, out: &mut Vec<u8>) {
    out.reserve(head.size + 512);
    write_request_line(head, out);
    // HTTP/1.0 or absolute-form: the name may have been in the target only.
    if !head.host.is_none() && head.get("host").is_none_or(<[u8]>::is_empty) {
        write_field(out, "Host", head.host.authority().as_bytes());
    }
    let mut label = if head.get("x-request-id").is_none() { head.visitor_label() } else { None };
    for field in &head.fields {
        let keep = match Kind::of(field.name) {
            Kind::Host => !field.value.is_empty(),
            Kind::ContentLength => {
                write_length(out, field.name, head.framing);
                false
            }
            Kind::Expect => head.version == Version::Http11,
            Kind::Upgrade => head.upgrade,
            Kind::RequestId => {
                if let Some(label) = label.take() {
                    write_field(out, "X-Request-Id", label.as_bytes());
                }
                false
            }
            Kind::TransferEncoding
            | Kind::Connection
            | Kind::KeepAlive
            | Kind::HopByHop
            | Kind::Gateways
            | Kind::MappingId => false,
            Kind::Other => !(head.listed && is_listed(&head.fields, field.name)),
        };
        if keep {
            write_field(out, field.name, field.value);
        }
    }
    for (name, value) in extra.iter() {
        write_field(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the head for the upstream from its tunnel form. `host` goes where the original `Host` was, else
/// first; it comes from a parsed host and so has no line end. `chunked` adds `Transfer-Encoding` (and drops a
/// `Content-Length`), `upgrade` adds `Connection: Upgrade` and lets the `Upgrade` field stay.
pub fn write_upstream_request(
    tunnel_head: &RequestHead<'_>,
    host: &str,
    chunked: bool,
    upgrade: bool,
    out: &mut Vec<u8>,
) {
    debug_assert!(host.bytes().all(is_value_byte), "host {host:?} is not from a parser");
    out.reserve(tunnel_head.size + host.len() + 64);
    write_request_line(tunnel_head, out);
    if tunnel_head.get("host").is_none() {
        write_field(out, "Host", host.as_bytes());
    }
    for field in &tunnel_head.fields {
        let keep = match Kind::of(field.name) {
            Kind::Host => {
                write_field(out, field.name, host.as_bytes());
                false
            }
            Kind::ContentLength => {
                if !chunked {
                    write_length(out, field.name, tunnel_head.framing);
                }
                false
            }
            Kind::Upgrade => upgrade,
            Kind::TransferEncoding
            | Kind::Connection
            | Kind::KeepAlive
            | Kind::HopByHop
            | Kind::MappingId => false,
            Kind::Expect | Kind::Gateways | Kind::RequestId | Kind::Other => true,
        };
        if keep {
            write_field(out, field.name, field.value);
        }
    }
    if chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    if upgrade {
        out.extend_from_slice(b"Connection: Upgrade\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

fn write_request_line(head: &RequestHead<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(head.method.as_bytes());
    out.push(b' ');
    if head.target.starts_with('?') {
        out.push(b'/');
    }
    out.extend_from_slice(head.target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

#[cfg(test)]
mod tests;
