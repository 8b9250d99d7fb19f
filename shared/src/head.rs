//! Message heads: strict parsing of what visitors and upstreams send, and the three ways a head is written on
//! its way: into the tunnel, to the upstream, to the visitor.
//!
//! A head is bytes in, values out; nothing is decoded, re-encoded, reordered or invented on the way through.
//! Where two recipients could read a head differently it is refused, because a tunnel that guesses is a
//! smuggling gadget. Leaves to others: bodies (`body.rs`), host names (`hostname.rs`), who the visitor is
//! (`forwarded.rs`).
//!
//! Heads in the tunnel are HTTP/1.1 heads without the fields of one hop. They may be a little larger than
//! what was received ([`MAX_TUNNEL_HEAD`]), because the Gateway adds fields to them.

use std::error::Error;
use std::fmt;
use std::mem::MaybeUninit;

use httparse::{Header, ParserConfig, Status};

use crate::forwarded::Extra;
use crate::hostname::{Host, HostFault};

/// Largest head of a request or response that is accepted.
pub const MAX_HEAD: usize = 64 * 1024;
/// Most fields in a head.
pub const MAX_FIELDS: usize = 200;
/// Longest request target.
pub const MAX_TARGET: usize = 16 * 1024;
/// Longest method. The longest registered one has 17 letters.
pub const MAX_METHOD: usize = 64;
/// Largest head in the tunnel: what the Gateway adds is bounded by the chain of `forwarded.rs`.
pub const MAX_TUNNEL_HEAD: usize = MAX_HEAD + 8 * 1024;
/// Most fields of a head in the tunnel.
pub const MAX_TUNNEL_FIELDS: usize = MAX_FIELDS + 8;
/// Most empty lines before a request line (RFC 9112 2.2 asks for one at least).
pub const MAX_EMPTY_LINES: usize = 4;

/// HTTP version of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// HTTP/1.0: no chunking, no persistence unless asked for.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// A field line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field<'b> {
    /// The name as received; a token.
    pub name: &'b str,
    /// The value without white space around it; may have bytes beyond ASCII.
    pub value: &'b [u8],
}

/// How a message's body is delimited on one hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// There is no body.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunked transfer coding.
    Chunked,
    /// Until the connection closes; responses only.
    UntilClose,
}

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

type Slots<'b> = [MaybeUninit<Header<'b>>; MAX_TUNNEL_FIELDS];

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

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LineEnds {
    CrLf,
    Lf,
}

/// Which line ends a complete head has; `None` if they are mixed. The parser has accepted both, so it is
/// enough to look before each name and at the end, without another pass over the bytes.
fn line_ends(window: &[u8], used: usize, fields: &[Field<'_>]) -> Option<LineEnds> {
    let head = &window[..used];
    let base = window.as_ptr().addr();
    let ends = if head.ends_with(b"\r\n\r\n") {
        LineEnds::CrLf
    } else if head.ends_with(b"\n\n") && !head.ends_with(b"\r\n\n") {
        LineEnds::Lf
    } else {
        return None;
    };
    let same = fields.iter().all(|field| {
        let before = &window[..field.name.as_ptr().addr() - base];
        before.ends_with(b"\r\n") == (ends == LineEnds::CrLf)
    });
    same.then_some(ends)
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

/// What the `Transfer-Encoding` lines of a message say, taken together as one list (RFC 9110 5.3).
#[derive(Default)]
struct Coding {
    malformed: bool,
    chunked: u32,
    others: u32,
    chunked_is_last: bool,
}

enum CodingVerdict {
    Chunked,
    OtherThenChunked,
    Invalid,
}

impl Coding {
    fn add(&mut self, value: &[u8]) {
        for coding in value.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
            self.chunked_is_last = coding.eq_ignore_ascii_case(b"chunked");
            if self.chunked_is_last {
                self.chunked = self.chunked.saturating_add(1);
                continue;
            }
            self.others = self.others.saturating_add(1);
            let name = coding.split(|&b| b == b';').next().unwrap_or_default().trim_ascii_end();
            // `chunked` has no parameters, and an empty element is no coding.
            self.malformed |= !is_token(name) || name.eq_ignore_ascii_case(b"chunked");
        }
    }

    fn verdict(&self) -> CodingVerdict {
        if self.malformed || self.chunked != 1 || !self.chunked_is_last {
            CodingVerdict::Invalid
        } else if self.others > 0 {
            CodingVerdict::OtherThenChunked
        } else {
            CodingVerdict::Chunked
        }
    }
}

/// What the `Connection` lines of a message say (RFC 9110 7.6.1).
#[derive(Default)]
struct Connection {
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    others: bool,
}

impl Connection {
    fn add(&mut self, value: &[u8]) {
        for option in elements(value) {
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else {
                self.others = true;
            }
        }
    }

    /// RFC 9112 9.3.
    fn keep_alive(&self, version: Version) -> bool {
        !self.close && (version == Version::Http11 || self.keep_alive)
    }
}

/// The elements of a comma-separated list, empty ones left out (RFC 9110 5.6.1.2).
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
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

/// A response head from the tunnel: checked, but not taken apart, because nearly all of it goes out as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TunnelResponse<'b> {
    /// The status.
    pub status: u16,
    /// `Content-Length`; in an answer to `HEAD` and in 304 it is not the framing.
    pub content_length: Option<u64>,
    head: &'b [u8],
    /// Where the line of `Content-Length` is, from and to.
    length_line: Option<(usize, usize)>,
}

impl<'b> TunnelResponse<'b> {
    /// The fields, in order.
    pub fn fields(&self) -> impl Iterator<Item = Field<'b>> + use<'b> {
        let lines = self.head.split(|&b| b == b'\n').skip(1);
        lines.filter_map(|line| {
            let (name, value) = split_field(line.strip_suffix(b"\r")?)?;
            Some(Field { name, value })
        })
    }

    /// The value of the first field of this name, in any case.
    pub fn get(&self, name: &str) -> Option<&'b [u8]> {
        self.fields().find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    }
}

/// Checks a head that [`write_tunnel_response`] wrote; `buf` is the whole head and nothing else.
///
/// One pass over the bytes. The Agent is known, but its bytes go to a connection that other visitors share
/// when a proxy is in front, so line ends, names and framing are checked as if it were not.
pub fn parse_tunnel_response(buf: &[u8]) -> Result<TunnelResponse<'_>, ResponseFault> {
    if buf.len() > MAX_TUNNEL_HEAD {
        return Err(ResponseFault::HeadTooLarge);
    }
    if !buf.ends_with(b"\r\n\r\n") {
        return Err(ResponseFault::LineEnd);
    }
    let status = match buf.strip_prefix(b"HTTP/1.1 ") {
        Some([a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b' ', ..]) => {
            u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0')
        }
        _ => return Err(ResponseFault::StatusLine),
    };
    let mut response = TunnelResponse { status, content_length: None, head: buf, length_line: None };
    let mut at = line_end(buf, 0)?;
    let mut count = 0;
    let last = buf.len() - 2;
    while at < last {
        count += 1;
        if count > MAX_TUNNEL_FIELDS {
            return Err(ResponseFault::TooManyFields);
        }
        let end = line_end(buf, at)?;
        let (name, value) = split_field(&buf[at..end - 2]).ok_or(ResponseFault::FieldName)?;
        match Kind::of(name) {
            Kind::ContentLength => {
                if response.length_line.is_some() || matches!(status, 100..=199 | 204) {
                    return Err(ResponseFault::Length);
                }
                response.content_length = Some(parse_decimal(value).ok_or(ResponseFault::Length)?);
                response.length_line = Some((at, end));
            }
            Kind::TransferEncoding | Kind::Connection | Kind::KeepAlive | Kind::HopByHop => {
                return Err(ResponseFault::HopByHop);
            }
            Kind::Upgrade if status != 101 => return Err(ResponseFault::HopByHop),
            _ => {}
        }
        at = end;
    }
    Ok(response)
}

/// Where the line that begins at `at` ends, after its CRLF; a fault if any other control byte is in it.
fn line_end(buf: &[u8], at: usize) -> Result<usize, ResponseFault> {
    let line = &buf[at..];
    let length = first_control(line).ok_or(ResponseFault::LineEnd)?;
    match &line[length..] {
        [b'\r', b'\n', ..] => Ok(at + length + 2),
        [b'\r' | b'\n', ..] => Err(ResponseFault::LineEnd),
        _ => Err(ResponseFault::FieldValue),
    }
}

/// Where the first byte is that no field value has. Eight bytes at a time, because this looks at every byte
/// of every response head.
fn first_control(bytes: &[u8]) -> Option<usize> {
    const EACH: u64 = u64::from_le_bytes([1; 8]);
    let (blocks, _) = bytes.as_chunks::<8>();
    let mut at = 0;
    for block in blocks {
        let word = u64::from_le_bytes(*block);
        let delete = word ^ (0x7f * EACH);
        // The high bit of each byte that is below 0x20 or is 0x7f; a borrow can only mark bytes after a true
        // one.
        let low = word.wrapping_sub(0x20 * EACH) & !word;
        let marks = (low | (delete.wrapping_sub(EACH) & !delete)) & (0x80 * EACH);
        if marks != 0 {
            let found = at + marks.trailing_zeros() as usize / 8;
            if bytes[found] != b'\t' {
                return Some(found);
            }
            // A tab is allowed, and rare: the rest is looked at byte by byte.
            at = found;
            break;
        }
        at += 8;
    }
    bytes[at..].iter().position(|&b| !is_value_byte(b)).map(|more| at + more)
}

/// What the Gateway says about the visitor's connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HopConnection {
    /// Nothing: HTTP/1.1 connections persist.
    Default,
    /// `Connection: keep-alive`, for HTTP/1.0.
    KeepAlive,
    /// `Connection: close`.
    Close,
    /// `Connection: Upgrade`.
    Upgrade,
}

/// Writes the head for the visitor: the tunnel form as it is, then the fields of this hop. `chunked` adds
/// `Transfer-Encoding` and drops a `Content-Length`, because both together are what this module refuses.
pub fn write_visitor_response(
    head: &TunnelResponse<'_>,
    chunked: bool,
    connection: HopConnection,
    out: &mut Vec<u8>,
) {
    let fields = &head.head[..head.head.len() - 2];
    out.reserve(fields.len() + 64);
    match head.length_line {
        Some((from, to)) if chunked => {
            out.extend_from_slice(&fields[..from]);
            out.extend_from_slice(&fields[to..]);
        }
        _ => out.extend_from_slice(fields),
    }
    if chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    out.extend_from_slice(match connection {
        HopConnection::Default => b"\r\n",
        HopConnection::KeepAlive => b"Connection: keep-alive\r\n\r\n",
        HopConnection::Close => b"Connection: close\r\n\r\n",
        HopConnection::Upgrade => b"Connection: Upgrade\r\n\r\n",
    });
}

/// Whether a field belongs to one hop by its name (RFC 9110 7.6.1, and the two of proxy authentication, which
/// nobody behind us asked for). What `Connection` lists besides is removed by the writers.
pub fn is_hop_by_hop(name: &str) -> bool {
    match Kind::of(name) {
        Kind::TransferEncoding | Kind::Connection | Kind::Upgrade | Kind::KeepAlive | Kind::HopByHop => true,
        Kind::Other
        | Kind::Host
        | Kind::ContentLength
        | Kind::Expect
        | Kind::Gateways
        | Kind::MappingId
        | Kind::RequestId => false,
    }
}

/// Whether only the Gateway may set this field on the way to an upstream.
pub(crate) fn is_gateways_own(name: &str) -> bool {
    matches!(Kind::of(name), Kind::Gateways | Kind::MappingId | Kind::RequestId)
}

/// What a field is to us. Found once per field and pass, so by length first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Other,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    KeepAlive,
    Expect,
    Upgrade,
    /// Belongs to one hop, and we do not look at it.
    HopByHop,
    /// Who the visitor is: set by the Gateway from what it believes.
    Gateways,
    MappingId,
    RequestId,
}

impl Kind {
    fn of(name: &str) -> Kind {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        match name.len() {
            2 if is("te") => Kind::HopByHop,
            4 if is("host") => Kind::Host,
            6 if is("expect") => Kind::Expect,
            7 if is("upgrade") => Kind::Upgrade,
            // `Forwarded` (RFC 7239) says the same as X-Forwarded-*, and proxies that manage only those let a
            // visitor's own pass. Two stories about one visitor are one too many.
            9 if is("forwarded") || alias(name, "x-real-ip") => Kind::Gateways,
            10 if is("connection") => Kind::Connection,
            10 if is("keep-alive") => Kind::KeepAlive,
            14 if is("content-length") => Kind::ContentLength,
            15 if alias(name, "x-forwarded-for") => Kind::Gateways,
            16 if is("proxy-connection") => Kind::HopByHop,
            16 if alias(name, "x-forwarded-host") => Kind::Gateways,
            17 if is("transfer-encoding") => Kind::TransferEncoding,
            17 if alias(name, "x-forwarded-proto") => Kind::Gateways,
            18 if is("proxy-authenticate") => Kind::HopByHop,
            19 if is("proxy-authorization") => Kind::HopByHop,
            22 if alias(name, "x-octoporty-mapping-id") => Kind::MappingId,
            22 if is("x-octoporty-request-id") => Kind::RequestId,
            // An alias of the request id is nobody's label.
            22 if alias(name, "x-octoporty-request-id") => Kind::MappingId,
            _ => Kind::Other,
        }
    }
}

/// Compares names as CGI and WSGI see them, where `X_Forwarded_For` is the same variable as
/// `X-Forwarded-For`.
fn alias(name: &str, known: &str) -> bool {
    let plain = |b: u8| if b == b'_' { b'-' } else { b.to_ascii_lowercase() };
    name.len() == known.len() && name.bytes().zip(known.bytes()).all(|(a, b)| plain(a) == b)
}

fn get<'b>(fields: &[Field<'b>], name: &str) -> Option<&'b [u8]> {
    fields.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
}

/// Whether a `Connection` line lists this field. Only asked for fields that are nothing special to us: a
/// visitor cannot have `Host` or the framing removed by listing it.
fn is_listed(fields: &[Field<'_>], name: &str) -> bool {
    fields
        .iter()
        .filter(|field| Kind::of(field.name) == Kind::Connection)
        .flat_map(|field| elements(field.value))
        .any(|option| option.eq_ignore_ascii_case(name.as_bytes()))
}

/// `1-64 of A-Za-z0-9._-`.
fn is_label(value: &[u8]) -> bool {
    let fine = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=64).contains(&value.len()) && value.iter().all(fine)
}

fn is_token(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|&b| is_token_byte(b))
}

/// `tchar` of RFC 9110 5.6.2.
fn is_token_byte(b: u8) -> bool {
    const TOKEN: [bool; 256] = {
        let mut map = [false; 256];
        let mut at = 0;
        while at < 256 {
            map[at] = (at as u8).is_ascii_alphanumeric();
            at += 1;
        }
        let others = b"!#$%&'*+-.^_`|~";
        let mut at = 0;
        while at < others.len() {
            map[others[at] as usize] = true;
            at += 1;
        }
        map
    };
    TOKEN[usize::from(b)]
}

/// What may be in a field value (RFC 9110 5.5): no control byte but the tab.
pub(crate) fn is_value_byte(b: u8) -> bool {
    b == b'\t' || (b >= b' ' && b != 0x7f)
}

/// Splits a field line without its CRLF; `None` if the name is no token. The value is not looked at.
pub(crate) fn split_field(line: &[u8]) -> Option<(&str, &[u8])> {
    let colon = line.iter().position(|&b| !is_token_byte(b))?;
    if colon == 0 || line[colon] != b':' {
        return None;
    }
    let name = str::from_utf8(&line[..colon]).ok()?;
    Some((name, line[colon + 1..].trim_ascii()))
}

/// A number of digits only, as HTTP has them: no sign, no space, not empty, at most 64 bits.
fn parse_decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, &digit| match digit {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes the declared length anew rather than as received: `007` and `5, 5` are read differently out there.
fn write_length(out: &mut Vec<u8>, name: &str, framing: Framing) {
    let Framing::Length(length) = framing else { return };
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = length;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    write_field(out, name, &digits[at..]);
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::forwarded::{self, TrustedProxies};

    fn request(text: &str) -> RequestHead<'_> {
        let (head, used) = parse_request(text.as_bytes())
            .unwrap_or_else(|fault| panic!("{text:?}: {fault}"))
            .unwrap_or_else(|| panic!("{text:?} is not complete"));
        assert_eq!(used, text.len());
        head
    }

    fn response<'b>(text: &'b str, method: &str) -> ResponseHead<'b> {
        let (head, used) = parse_response(text.as_bytes(), method)
            .unwrap_or_else(|fault| panic!("{text:?}: {fault}"))
            .unwrap_or_else(|| panic!("{text:?} is not complete"));
        assert_eq!(used, text.len());
        head
    }

    fn text(bytes: &[u8]) -> &str {
        str::from_utf8(bytes).expect("the test has only utf-8")
    }

    /// The same however the bytes come: what the first bytes say is never taken back.
    fn parse_progressively(input: &[u8]) -> Result<Option<(RequestHead<'_>, usize)>, RequestFault> {
        for end in 0..input.len() {
            match parse_request(&input[..end]) {
                Ok(None) => {}
                found => return found,
            }
        }
        parse_request(input)
    }

    #[test]
    fn a_request_is_taken_apart() {
        let head = request("GET /a?b=%2F HTTP/1.1\r\nHost: Demo.example:81\r\nX-A: 1 \r\nx-a:\t2\r\n\r\n");
        assert_eq!((head.method, head.target, head.version), ("GET", "/a?b=%2F", Version::Http11));
        assert_eq!(head.host.authority(), "demo.example:81");
        assert_eq!(head.get("HOST"), Some(b"Demo.example:81".as_slice()));
        assert_eq!(head.get("x-a"), Some(b"1".as_slice()), "the first of two");
        assert_eq!(head.fields[2], Field { name: "x-a", value: b"2" });
        assert_eq!(head.framing, Framing::None);
        assert!(head.keep_alive && !head.upgrade && !head.expect_continue);
    }

    #[test]
    fn bytes_after_the_head_are_left_alone() {
        let input = b"\r\n\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET";
        let (head, used) = parse_request(input).expect("is fine").expect("is complete");
        assert_eq!(&input[used..], b"abcGET");
        assert_eq!(head.framing, Framing::Length(3));
    }

    #[test]
    fn framing_persistence_and_wishes_are_found() {
        let with = |version: &str, fields: &str| {
            let text = format!("POST / HTTP/{version}\r\nHost: a\r\n{fields}\r\n");
            let head = request(&text);
            (head.framing, head.keep_alive, head.expect_continue, head.upgrade)
        };
        let length = "Content-Length: 18446744073709551615\r\n";
        assert_eq!(with("1.1", length), (Framing::Length(u64::MAX), true, false, false));
        assert_eq!(with("1.1", "transfer-ENCODING: Chunked\r\n"), (Framing::Chunked, true, false, false));
        assert_eq!(with("1.1", "Connection: x, Close\r\n"), (Framing::None, false, false, false));
        assert_eq!(with("1.0", ""), (Framing::None, false, false, false));
        assert_eq!(with("1.0", "Connection: keep-alive\r\n"), (Framing::None, true, false, false));
        assert_eq!(
            with("1.0", "Connection: keep-alive\r\nConnection: close\r\n"),
            (Framing::None, false, false, false)
        );
        let expect = "Expect: 100-Continue\r\nContent-Length: 1\r\n";
        assert_eq!(with("1.1", expect), (Framing::Length(1), true, true, false));
        assert_eq!(with("1.0", expect), (Framing::Length(1), false, false, false));
        assert_eq!(
            with("1.1", "Expect: 100-continue\r\n"),
            (Framing::None, true, false, false),
            "nothing to wait for"
        );
        let upgrade = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n";
        assert_eq!(with("1.1", upgrade), (Framing::None, true, false, true));
        assert_eq!(with("1.0", upgrade), (Framing::None, true, false, false));
        assert_eq!(with("1.1", "Upgrade: websocket\r\n"), (Framing::None, true, false, false));
        assert_eq!(with("1.1", "Connection: upgrade\r\n"), (Framing::None, true, false, false));
    }

    #[test]
    fn targets_of_every_form_are_understood() {
        for (line, target, host) in [
            ("GET / HTTP/1.1", "/", "a.org"),
            ("GET //b/%zz?x=[]|{}^\"< HTTP/1.1", "//b/%zz?x=[]|{}^\"<", "a.org"),
            ("GET /\u{fc} HTTP/1.1", "/\u{fc}", "a.org"),
            ("OPTIONS * HTTP/1.1", "*", "a.org"),
            ("GET http://A.org/x?y HTTP/1.1", "/x?y", "a.org"),
            ("GET HTTP://a.org:80 HTTP/1.1", "/", "a.org:80"),
            ("GET http://a.org?y/z HTTP/1.1", "?y/z", "a.org"),
            ("OPTIONS http://a.org HTTP/1.1", "*", "a.org"),
            ("PROPFIND /x HTTP/1.1", "/x", "a.org"),
        ] {
            let text = format!("{line}\r\nHost: a.org\r\n\r\n");
            let head = request(&text);
            assert_eq!((head.target, head.host.authority()), (target, host), "{line}");
        }
        let head = request("GET https://a.org:443/ HTTP/1.1\r\nHost: A.org\r\n\r\n");
        assert_eq!(head.host.authority(), "a.org:443", "the target wins, and 443 is what https means anyway");
        let mut out = Vec::new();
        write_tunnel_request(
            &request("GET http://a.org?y HTTP/1.1\r\nHost: a.org\r\n\r\n"),
            &Extra::none(),
            &mut out,
        );
        assert_eq!(text(&out), "GET /?y HTTP/1.1\r\nHost: a.org\r\n\r\n");
    }

    #[test]
    fn http_1_0_may_come_without_host() {
        assert!(request("GET / HTTP/1.0\r\n\r\n").host.is_none());
        assert!(request("GET / HTTP/1.0\r\nHost:\r\n\r\n").host.is_none());
        assert_eq!(request("GET / HTTP/1.0\r\nHost: a\r\n\r\n").host.name(), "a");
        let head = request("GET http://a:81/x HTTP/1.0\r\n\r\n");
        let mut out = Vec::new();
        write_tunnel_request(&head, &Extra::none(), &mut out);
        assert_eq!(text(&out), "GET /x HTTP/1.1\r\nHost: a:81\r\n\r\n", "the tunnel form always has one");
    }

    /// What two parsers could read differently. `H` stands for a `Host` line.
    const SMUGGLED: &[(&str, RequestFault)] = &[
        // Lengths.
        ("POST / HTTP/1.1|H|Content-Length: 5|Transfer-Encoding: chunked||", RequestFault::LengthAndCoding),
        ("POST / HTTP/1.1|H|Transfer-Encoding: chunked|Content-Length: 5||", RequestFault::LengthAndCoding),
        ("POST / HTTP/1.1|H|Transfer-Encoding: x|Content-Length: 0||", RequestFault::LengthAndCoding),
        ("POST / HTTP/1.0|H|Transfer-Encoding: chunked|Content-Length: 5||", RequestFault::LengthAndCoding),
        ("POST / HTTP/1.1|H|Content-Length: 5|Content-Length: 6||", RequestFault::LengthRepeated),
        ("POST / HTTP/1.1|H|Content-Length: 5|content-length: 5||", RequestFault::LengthRepeated),
        ("POST / HTTP/1.1|H|Content-Length: 5, 5||", RequestFault::LengthInvalid),
        ("POST / HTTP/1.1|H|Content-Length: 5,6||", RequestFault::LengthInvalid),
        ("POST / HTTP/1.1|H|Content-Length: +5||", RequestFault::LengthInvalid),
        ("POST / HTTP/1.1|H|Content-Length: -5||", RequestFault::LengthInvalid),
        ("POST / HTTP/1.1|H|Content-Length: 0x5||", RequestFault::LengthInvalid),
        ("POST / HTTP/1.1|H|Content-Length: 5 5||", RequestFault::LengthInvalid),
        ("POST / HTTP/1.1|H|Content-Length: 5_0||", RequestFault::LengthInvalid),
        ("POST / HTTP/1.1|H|Content-Length: 5;||", RequestFault::LengthInvalid),
        ("POST / HTTP/1.1|H|Content-Length: 1e1||", RequestFault::LengthInvalid),
        ("POST / HTTP/1.1|H|Content-Length: \u{662}||", RequestFault::LengthInvalid),
        ("POST / HTTP/1.1|H|Content-Length:||", RequestFault::LengthInvalid),
        ("POST / HTTP/1.1|H|Content-Length: \"5\"||", RequestFault::LengthInvalid),
        ("POST / HTTP/1.1|H|Content-Length: 18446744073709551616||", RequestFault::LengthInvalid),
        ("POST / HTTP/1.1|H|Content-Length : 5||", RequestFault::FieldName),
        ("POST / HTTP/1.1|H|Content-Length\t: 5||", RequestFault::FieldName),
        ("POST / HTTP/1.1|H|Content-Length: 5\x0b||", RequestFault::FieldValue),
        // Codings.
        ("POST / HTTP/1.0|H|Transfer-Encoding: chunked||", RequestFault::CodingInHttp10),
        ("POST / HTTP/1.1|H|Transfer-Encoding: gzip, chunked||", RequestFault::CodingUnknown),
        (
            "POST / HTTP/1.1|H|Transfer-Encoding: gzip;q=1|Transfer-Encoding: chunked||",
            RequestFault::CodingUnknown,
        ),
        ("POST / HTTP/1.1|H|Transfer-Encoding: chunked, gzip||", RequestFault::Coding),
        ("POST / HTTP/1.1|H|Transfer-Encoding: chunked|Transfer-Encoding: x||", RequestFault::Coding),
        ("POST / HTTP/1.1|H|Transfer-Encoding: chunked, chunked||", RequestFault::Coding),
        ("POST / HTTP/1.1|H|Transfer-Encoding: chunked|Transfer-Encoding: chunked||", RequestFault::Coding),
        ("POST / HTTP/1.1|H|Transfer-Encoding: identity||", RequestFault::Coding),
        ("POST / HTTP/1.1|H|Transfer-Encoding: xchunked||", RequestFault::Coding),
        ("POST / HTTP/1.1|H|Transfer-Encoding: chunkedx||", RequestFault::Coding),
        ("POST / HTTP/1.1|H|Transfer-Encoding: chunked;a=b||", RequestFault::Coding),
        ("POST / HTTP/1.1|H|Transfer-Encoding: \"chunked\"||", RequestFault::Coding),
        ("POST / HTTP/1.1|H|Transfer-Encoding: chunked,||", RequestFault::Coding),
        ("POST / HTTP/1.1|H|Transfer-Encoding: ,chunked||", RequestFault::Coding),
        ("POST / HTTP/1.1|H|Transfer-Encoding: g zip, chunked||", RequestFault::Coding),
        ("POST / HTTP/1.1|H|Transfer-Encoding:||", RequestFault::Coding),
        ("POST / HTTP/1.1|H|Transfer-Encoding: \x0bchunked||", RequestFault::FieldValue),
        ("POST / HTTP/1.1|H|Transfer-Encoding : chunked||", RequestFault::FieldName),
        ("POST / HTTP/1.1|H|Transfer-Encoding|: chunked||", RequestFault::FieldName),
        // Lines.
        ("POST / HTTP/1.1\nHost: a\n\n", RequestFault::LineEnd),
        ("POST / HTTP/1.1\nHost: a||", RequestFault::LineEnd),
        ("POST / HTTP/1.1|Host: a\n\n", RequestFault::LineEnd),
        ("POST / HTTP/1.1|Host: a|\n", RequestFault::LineEnd),
        ("POST / HTTP/1.1|Host: a\n|", RequestFault::LineEnd),
        ("POST / HTTP/1.1|X: y\nHost: a||", RequestFault::LineEnd),
        ("POST / HTTP/1.1|X:\nHost: a||", RequestFault::LineEnd),
        ("POST / HTTP/1.1|X: y \nHost: a||", RequestFault::LineEnd),
        ("\nPOST / HTTP/1.1|H||", RequestFault::LineEnd),
        ("\rPOST / HTTP/1.1|H||", RequestFault::LineEnd),
        ("|||||POST / HTTP/1.1|H||", RequestFault::EmptyLines),
        ("POST / HTTP/1.1|H|X: y\rContent-Length: 5||", RequestFault::FieldValue),
        ("POST / HTTP/1.1|H|X: y\0||", RequestFault::FieldValue),
        ("POST / HTTP/1.1|H|X: y\x7f||", RequestFault::FieldValue),
        ("POST / HTTP/1.1|H|X\0: y||", RequestFault::FieldName),
        ("POST / HTTP/1.1|H|X: y| folded||", RequestFault::FieldName),
        ("POST / HTTP/1.1| H: x|H||", RequestFault::FieldName),
        ("POST / HTTP/1.1|H|: y||", RequestFault::FieldName),
        ("POST / HTTP/1.1|H|X||", RequestFault::FieldName),
        ("POST / HTTP/1.1|H|X(: y||", RequestFault::FieldName),
        ("POST / HTTP/1.1|H|\u{fc}: y||", RequestFault::FieldName),
        ("POST / HTTP/1.1\r\r\nHost: a||", RequestFault::LineEnd),
        // Request lines.
        ("POST /|H||", RequestFault::RequestLine),
        ("POST|H||", RequestFault::RequestLine),
        (" POST / HTTP/1.1|H||", RequestFault::RequestLine),
        ("POST  / HTTP/1.1|H||", RequestFault::RequestLine),
        ("POST /  HTTP/1.1|H||", RequestFault::RequestLine),
        ("POST / HTTP/1.1 |H||", RequestFault::LineEnd),
        ("POST\t/ HTTP/1.1|H||", RequestFault::RequestLine),
        ("POST /\t HTTP/1.1|H||", RequestFault::RequestLine),
        ("POST / x HTTP/1.1|H||", RequestFault::RequestLine),
        ("POST /\0 HTTP/1.1|H||", RequestFault::RequestLine),
        ("PO(ST / HTTP/1.1|H||", RequestFault::RequestLine),
        ("POST / http/1.1|H||", RequestFault::RequestLine),
        ("POST / HTTP/x|H||", RequestFault::RequestLine),
        ("POST / HTTP/1.2|H||", RequestFault::Version),
        ("POST / HTTP/0.9|H||", RequestFault::Version),
        ("POST / HTTP/2|H||", RequestFault::Version),
        ("PRI * HTTP/2.0||SM||", RequestFault::Version),
        // Targets.
        ("CONNECT a:443 HTTP/1.1|H||", RequestFault::Connect),
        ("GET * HTTP/1.1|H||", RequestFault::Target),
        ("OPTIONS ** HTTP/1.1|H||", RequestFault::Target),
        ("GET a HTTP/1.1|H||", RequestFault::Target),
        ("GET a:80 HTTP/1.1|H||", RequestFault::Target),
        ("GET ?x HTTP/1.1|H||", RequestFault::Target),
        ("GET /a#b HTTP/1.1|H||", RequestFault::Target),
        ("GET ftp://a/ HTTP/1.1|H||", RequestFault::Target),
        ("GET http:/a/ HTTP/1.1|H||", RequestFault::Target),
        ("GET http:///x HTTP/1.1|H||", RequestFault::Target),
        ("GET http://u@a/ HTTP/1.1|H||", RequestFault::Target),
        ("GET http://b/ HTTP/1.1|H||", RequestFault::HostMismatch),
        ("GET http://a:81/ HTTP/1.1|H||", RequestFault::HostMismatch),
        ("GET https://a/ HTTP/1.1|Host: a:80||", RequestFault::HostMismatch),
        // Hosts.
        ("GET / HTTP/1.1||", RequestFault::HostMissing),
        ("GET http://a/ HTTP/1.1||", RequestFault::HostMissing),
        ("GET / HTTP/1.1|H|H||", RequestFault::HostRepeated),
        ("GET / HTTP/1.1|H|hOST: b||", RequestFault::HostRepeated),
        ("GET / HTTP/1.0|H|H||", RequestFault::HostRepeated),
        ("GET / HTTP/1.1|Host:||", RequestFault::Host(HostFault::Empty)),
        ("GET / HTTP/1.1|Host: a, b||", RequestFault::Host(HostFault::Character)),
        ("GET / HTTP/1.1|Host: a/b||", RequestFault::Host(HostFault::Character)),
        ("GET / HTTP/1.1|Host: u@a||", RequestFault::Host(HostFault::Character)),
        ("GET / HTTP/1.1|Host: a:x||", RequestFault::Host(HostFault::Port)),
        ("GET / HTTP/1.1|Host : a||", RequestFault::FieldName),
    ];

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for (pattern, fault) in SMUGGLED {
            let lines: Vec<&str> =
                pattern.split('|').map(|line| if line == "H" { "Host: a" } else { line }).collect();
            let input = lines.join("\r\n");
            assert_eq!(parse_request(input.as_bytes()), Err(*fault), "{input:?}");
            assert_eq!(parse_progressively(input.as_bytes()), Err(*fault), "{input:?}, byte by byte");
            assert_eq!(parse_tunnel_request(input.as_bytes()), Err(*fault), "{input:?}, in the tunnel");
            assert!(!fault.to_string().ends_with('.'));
        }
    }

    #[test]
    fn faults_have_their_status() {
        for (fault, status) in [
            (RequestFault::LengthAndCoding, 400),
            (RequestFault::Connect, 405),
            (RequestFault::TargetTooLong, 414),
            (RequestFault::HeadTooLarge, 431),
            (RequestFault::TooManyFields, 431),
            (RequestFault::CodingUnknown, 501),
            (RequestFault::MethodTooLong, 501),
            (RequestFault::Version, 505),
        ] {
            assert_eq!(fault.status(), status, "{fault}");
        }
    }

    #[test]
    fn a_target_has_a_bound_even_when_it_never_ends() {
        let most = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(MAX_TARGET - 1));
        assert_eq!(request(&most).target.len(), MAX_TARGET);
        let over = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(MAX_TARGET));
        assert_eq!(parse_request(over.as_bytes()), Err(RequestFault::TargetTooLong));
        assert_eq!(parse_request(&over.as_bytes()[..MAX_TARGET + 4]), Ok(None));
        assert_eq!(parse_request(&over.as_bytes()[..MAX_TARGET + 5]), Err(RequestFault::TargetTooLong));
        let broken = over.replacen("/x", "/\0", 1);
        assert_eq!(
            parse_request(broken.as_bytes()),
            Err(RequestFault::RequestLine),
            "what comes first counts"
        );
    }

    #[test]
    fn a_method_has_a_bound() {
        let method = |length: usize| format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "M".repeat(length));
        assert_eq!(request(&method(MAX_METHOD)).method.len(), MAX_METHOD);
        assert_eq!(parse_progressively(method(MAX_METHOD + 1).as_bytes()), Err(RequestFault::MethodTooLong));
        assert_eq!(parse_request("\u{fc}".repeat(100).as_bytes()), Err(RequestFault::RequestLine));
    }

    #[test]
    fn a_head_has_a_bound_even_when_it_never_ends() {
        let sized = |size: usize| {
            let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
            format!("{start}{}\r\n\r\n", "x".repeat(size - start.len() - 4))
        };
        assert_eq!(request(&sized(MAX_HEAD)).fields.len(), 2);
        let over = sized(MAX_HEAD + 1);
        assert_eq!(parse_request(over.as_bytes()), Err(RequestFault::HeadTooLarge));
        assert_eq!(parse_request(&over.as_bytes()[..MAX_HEAD - 1]), Ok(None));
        assert_eq!(parse_request(&over.as_bytes()[..MAX_HEAD]), Err(RequestFault::HeadTooLarge));
        assert!(parse_tunnel_request(over.as_bytes()).is_ok_and(|found| found.is_some()));
        assert_eq!(
            parse_tunnel_request(sized(MAX_TUNNEL_HEAD + 1).as_bytes()),
            Err(RequestFault::HeadTooLarge)
        );
    }

    #[test]
    fn the_number_of_fields_has_a_bound() {
        let fields =
            |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count - 1));
        assert_eq!(request(&fields(MAX_FIELDS)).fields.len(), MAX_FIELDS);
        for count in [MAX_FIELDS + 1, MAX_TUNNEL_FIELDS + 1] {
            assert_eq!(parse_request(fields(count).as_bytes()), Err(RequestFault::TooManyFields));
        }
        assert!(parse_tunnel_request(fields(MAX_FIELDS + 6).as_bytes()).is_ok_and(|found| found.is_some()));
    }

    #[test]
    fn the_largest_head_fits_the_tunnel() {
        let chain = vec!["2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff"; 60].join(",");
        let start =
            format!("GET / HTTP/1.0\r\nHost: a\r\nX-Forwarded-For: {chain}\r\n{}", "X:\r\n".repeat(197));
        let input = format!("{start}Y: {}\r\n\r\n", "y".repeat(MAX_HEAD - start.len() - 7));
        let head = request(&input);
        assert_eq!((head.fields.len(), input.len()), (MAX_FIELDS, MAX_HEAD));
        let peer = IpAddr::from([127, 0, 0, 1]);
        let visitor = forwarded::visitor(&TrustedProxies::default(), peer, &head, "id");
        let mut out = Vec::new();
        write_tunnel_request(&head, &visitor.extra(), &mut out);
        assert!(parse_tunnel_request(&out).is_ok_and(|found| found.is_some()));
    }

    fn tunnel_form(input: &str) -> String {
        let head = request(input);
        let visitor =
            forwarded::visitor(&TrustedProxies::default(), IpAddr::from([203, 0, 113, 5]), &head, "our-id");
        let mut out = Vec::new();
        write_tunnel_request(&head, &visitor.extra(), &mut out);
        text(&out).to_owned()
    }

    const ADDED: &str = "X-Forwarded-For: 203.0.113.5\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: A.org\r\n\
                         X-Real-IP: 203.0.113.5\r\nX-Octoporty-Request-Id: our-id\r\n\r\n";

    fn check_tunnel_form(received: &str, expected: &str) {
        let input = format!("{}\r\n", received.replace('|', "\r\n"));
        assert_eq!(tunnel_form(&input), format!("{}{ADDED}", expected.replace('|', "\r\n")));
    }

    #[test]
    fn what_is_for_the_upstream_keeps_bytes_order_case_and_duplicates() {
        check_tunnel_form(
            "PURGE /%41?\u{fc} HTTP/1.1|aCCEPT:  */* |Host: A.org|Cookie: a|X-B:|Cookie: b|x-utf: \u{fc}|Trailer: X|",
            "PURGE /%41?\u{fc} HTTP/1.1|aCCEPT: */*|Host: A.org|Cookie: a|X-B: |Cookie: b|x-utf: \u{fc}|Trailer: X|",
        );
    }

    #[test]
    fn what_is_for_one_hop_stays_behind() {
        check_tunnel_form(
            "POST / HTTP/1.1|Host: A.org|Connection: close, X-Own, Host|Keep-Alive: timeout=5|TE: trailers|\
             Proxy-Connection: x|Proxy-Authorization: x|Transfer-Encoding: chunked|Upgrade: h2c|x-own: 1|X-Other: 2|",
            "POST / HTTP/1.1|Host: A.org|X-Other: 2|",
        );
        check_tunnel_form(
            "POST / HTTP/1.1|Host: A.org|Connection: Content-Length|Content-Length: 007|Expect: 100-continue|",
            "POST / HTTP/1.1|Host: A.org|Content-Length: 7|Expect: 100-continue|",
        );
        check_tunnel_form(
            "GET / HTTP/1.1|Host: A.org|Connection: Upgrade|Upgrade: websocket|Sec-WebSocket-Key: x|",
            "GET / HTTP/1.1|Host: A.org|Upgrade: websocket|Sec-WebSocket-Key: x|",
        );
        check_tunnel_form(
            "POST / HTTP/1.0|Host: A.org|Expect: 100-continue|Content-Length: 1|",
            "POST / HTTP/1.1|Host: A.org|Content-Length: 1|",
        );
    }

    #[test]
    fn only_the_gateway_says_who_the_visitor_is() {
        check_tunnel_form(
            "GET / HTTP/1.1|Host: A.org|X-Forwarded-For: 1|x-forwarded-proto: https|X-Forwarded-Host: b|X-Real-Ip: 1|\
             Forwarded: for=1|X_Forwarded_For: 1|X-Forwarded_Host: b|X-Octoporty-Mapping-Id: 1|\
             X_Octoporty_Request_Id: 1|X-Forwarded-Port: 1|",
            "GET / HTTP/1.1|Host: A.org|X-Forwarded-Port: 1|",
        );
    }

    #[test]
    fn a_visitors_request_id_is_a_label_if_it_is_well_formed() {
        check_tunnel_form(
            "GET / HTTP/1.1|x-octoporty-request-id: probe_1.a-Z|Host: A.org|",
            "GET / HTTP/1.1|X-Request-Id: probe_1.a-Z|Host: A.org|",
        );
        check_tunnel_form(
            "GET / HTTP/1.1|Host: A.org|X-Octoporty-Request-Id: a|X-Octoporty-Request-Id: b|",
            "GET / HTTP/1.1|Host: A.org|X-Request-Id: a|",
        );
        check_tunnel_form(
            "GET / HTTP/1.1|Host: A.org|X-Octoporty-Request-Id: a|x-request-id: mine|",
            "GET / HTTP/1.1|Host: A.org|x-request-id: mine|",
        );
        let long = "a".repeat(65);
        for wrong in ["", "a b", "a/b", "\u{fc}", &long] {
            let received = format!("GET / HTTP/1.1|Host: A.org|X-Octoporty-Request-Id: {wrong}|");
            check_tunnel_form(&received, "GET / HTTP/1.1|Host: A.org|");
        }
    }

    #[test]
    fn the_upstream_gets_the_host_of_the_mapping() {
        let check = |tunnel: &str, chunked: bool, upgrade: bool, expected: &str| {
            let input = format!("{}\r\n", tunnel.replace('|', "\r\n"));
            let (head, _) = parse_tunnel_request(input.as_bytes()).expect("is fine").expect("is complete");
            let mut out = Vec::new();
            write_upstream_request(&head, "10.0.0.5:8080", chunked, upgrade, &mut out);
            assert_eq!(text(&out), format!("{}\r\n", expected.replace('|', "\r\n")));
        };
        check(
            "GET / HTTP/1.1|A: b|host: a|X-Real-IP: 1.1.1.1|X-Octoporty-Request-Id: 1|Content-Length: 0|",
            false,
            false,
            "GET / HTTP/1.1|A: b|host: 10.0.0.5:8080|X-Real-IP: 1.1.1.1|X-Octoporty-Request-Id: 1|Content-Length: 0|",
        );
        check(
            "POST / HTTP/1.1|Host: a|Upgrade: h2c|Connection: x|",
            true,
            false,
            "POST / HTTP/1.1|Host: 10.0.0.5:8080|Transfer-Encoding: chunked|",
        );
        check(
            "GET / HTTP/1.1|Host: a|Upgrade: websocket|Content-Length: 5|",
            true,
            true,
            "GET / HTTP/1.1|Host: 10.0.0.5:8080|Upgrade: websocket|Transfer-Encoding: chunked|Connection: Upgrade|",
        );
        check(
            "GET / HTTP/1.0|Content-Length: 5|",
            false,
            false,
            "GET / HTTP/1.1|Host: 10.0.0.5:8080|Content-Length: 5|",
        );
    }

    #[test]
    fn a_response_is_taken_apart() {
        let head =
            response("HTTP/1.1 404 Not \u{fc}ber Found\r\nSet-Cookie: a\r\nContent-Length: 5\r\n\r\n", "GET");
        assert_eq!(
            (head.status, text(head.reason), head.version),
            (404, "Not \u{fc}ber Found", Version::Http11)
        );
        assert_eq!(head.framing, Framing::Length(5));
        assert!(head.keep_alive && !head.upgrade);
        assert_eq!(head.get("set-cookie"), Some(b"a".as_slice()));
        for bare in ["HTTP/1.1 200\r\n\r\n", "HTTP/1.1 200 \r\n\r\n", "HTTP/1.1 200 \n\n"] {
            assert_eq!(response(bare, "GET").reason, b"");
        }
    }

    #[test]
    fn the_body_of_a_response_depends_on_method_status_and_version() {
        let framing = |line: &str, fields: &str, method: &str| {
            let input = format!("{line}\r\n{}\r\n", fields.replace('|', "\r\n"));
            let head = response(&input, method);
            (head.framing, head.keep_alive)
        };
        let length = "Content-Length: 5|";
        let chunked = "Transfer-Encoding: CHUNKED|";
        assert_eq!(framing("HTTP/1.1 200 OK", length, "GET"), (Framing::Length(5), true));
        assert_eq!(framing("HTTP/1.1 200 OK", length, "HEAD"), (Framing::None, true));
        assert_eq!(framing("HTTP/1.1 200 OK", "", "HEAD"), (Framing::None, true));
        assert_eq!(framing("HTTP/1.1 304 OK", length, "GET"), (Framing::None, true));
        assert_eq!(framing("HTTP/1.1 204 OK", chunked, "GET"), (Framing::None, true));
        assert_eq!(framing("HTTP/1.1 103 OK", length, "GET"), (Framing::None, true));
        assert_eq!(framing("HTTP/1.1 101 OK", "", "GET"), (Framing::None, false));
        assert_eq!(framing("HTTP/1.1 200 OK", chunked, "GET"), (Framing::Chunked, true));
        assert_eq!(framing("HTTP/1.1 200 OK", "", "GET"), (Framing::UntilClose, false));
        assert_eq!(framing("HTTP/1.0 200 OK", "", "GET"), (Framing::UntilClose, false));
        assert_eq!(framing("HTTP/1.0 200 OK", length, "GET"), (Framing::Length(5), false));
        let kept = "Content-Length: 5|Connection: Keep-Alive|";
        assert_eq!(framing("HTTP/1.0 200 OK", kept, "GET"), (Framing::Length(5), true));
        assert_eq!(
            framing("HTTP/1.1 999 OK", "Content-Length: 5|Connection: close|", "GET"),
            (Framing::Length(5), false)
        );
        assert_eq!(
            framing("HTTP/1.1 200 OK", "Content-Length: 5, 5|content-length: 05|", "GET"),
            (Framing::Length(5), true)
        );
    }

    #[test]
    fn a_keep_alive_timeout_is_found() {
        for (value, seconds) in [
            ("timeout=5, max=100", Some(5)),
            ("max=100,Timeout=60", Some(60)),
            ("timeout=99999999999", Some(u32::MAX)),
            ("timeout=", None),
            ("timeout=x", None),
            ("5", None),
            ("\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}", None),
        ] {
            let input = format!("HTTP/1.1 200 OK\r\nKeep-Alive: {value}\r\n\r\n");
            assert_eq!(response(&input, "GET").keep_alive_timeout, seconds, "{value:?}");
        }
    }

    #[test]
    fn responses_whose_length_is_a_question_are_refused() {
        for (pattern, fault) in [
            (
                "HTTP/1.1 200 OK|Content-Length: 5|Transfer-Encoding: chunked||",
                ResponseFault::LengthAndCoding,
            ),
            ("HTTP/1.1 200 OK|Content-Length: 5|Content-Length: 6||", ResponseFault::Length),
            ("HTTP/1.1 200 OK|Content-Length: 5, 6||", ResponseFault::Length),
            ("HTTP/1.1 200 OK|Content-Length: 5,||", ResponseFault::Length),
            ("HTTP/1.1 200 OK|Content-Length: +5||", ResponseFault::Length),
            ("HTTP/1.1 200 OK|Content-Length:||", ResponseFault::Length),
            ("HTTP/1.1 304 OK|Content-Length: x||", ResponseFault::Length),
            ("HTTP/1.1 200 OK|Transfer-Encoding: gzip, chunked||", ResponseFault::Coding),
            ("HTTP/1.1 200 OK|Transfer-Encoding: gzip||", ResponseFault::Coding),
            (
                "HTTP/1.1 200 OK|Transfer-Encoding: chunked|Transfer-Encoding: chunked||",
                ResponseFault::Coding,
            ),
            ("HTTP/1.0 200 OK|Transfer-Encoding: chunked||", ResponseFault::CodingInHttp10),
            ("HTTP/1.1 200 OK|A: b| c||", ResponseFault::FieldName),
            ("HTTP/1.1 200 OK|A b: c||", ResponseFault::FieldName),
            ("HTTP/1.1 200 OK|A: b\0||", ResponseFault::FieldValue),
            ("HTTP/1.1 200 OK|A: b\rC: d||", ResponseFault::FieldValue),
            ("HTTP/1.1 200 OK|A: b\nC: d||", ResponseFault::LineEnd),
            ("HTTP/1.1 200 OK\nA: b||", ResponseFault::LineEnd),
            ("HTTP/1.1 200 OK|A: b\n\n", ResponseFault::LineEnd),
            ("HTTP/1.1 200 OK|A: b|\n", ResponseFault::LineEnd),
            ("HTTP/1.1 200 OK\n|", ResponseFault::LineEnd),
            ("HTTP/1.1 200 O\0K||", ResponseFault::StatusLine),
            ("HTTP/1.1 099 OK||", ResponseFault::StatusLine),
            ("HTTP/1.1 20 OK||", ResponseFault::StatusLine),
            ("HTTP/1.1 2000 OK||", ResponseFault::StatusLine),
            ("HTTP/1.1  200 OK||", ResponseFault::StatusLine),
            ("HTTP/2 200 OK||", ResponseFault::StatusLine),
            ("ICY 200 OK||", ResponseFault::StatusLine),
            ("|HTTP/1.1 200 OK||", ResponseFault::StatusLine),
            ("SSH-2.0-OpenSSH_9|", ResponseFault::StatusLine),
        ] {
            let input = pattern.replace('|', "\r\n");
            assert_eq!(parse_response(input.as_bytes(), "GET"), Err(fault), "{input:?}");
        }
        let over = format!("HTTP/1.1 200 OK\r\nA: {}", "b".repeat(MAX_HEAD));
        assert_eq!(parse_response(over.as_bytes(), "GET"), Err(ResponseFault::HeadTooLarge));
        let over = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(MAX_FIELDS + 1));
        assert_eq!(parse_response(over.as_bytes(), "GET"), Err(ResponseFault::TooManyFields));
    }

    /// From the upstream through the tunnel to the visitor.
    fn check_response(received: &str, method: &str, tunnel: &str) {
        let input = format!("{}\r\n", received.replace('|', "\r\n"));
        let mut out = Vec::new();
        write_tunnel_response(&response(&input, method), &mut out);
        assert_eq!(text(&out), format!("{}\r\n", tunnel.replace('|', "\r\n")));
        let parsed = parse_tunnel_response(&out).expect("is what we wrote");
        let mut visitors = Vec::new();
        write_visitor_response(&parsed, false, HopConnection::Default, &mut visitors);
        assert_eq!(visitors, out);
    }

    #[test]
    fn a_response_goes_on_without_what_is_for_one_hop() {
        check_response(
            "HTTP/1.0 200 Fine|Server : x|Connection: close, X-Own, Content-Length|Keep-Alive: timeout=5|X-Own: 1|\
             Set-Cookie: a|content-LENGTH: 05|Content-Length: 5|Set-Cookie: b|Upgrade: h2c|Trailer: X-Sum|",
            "GET",
            "HTTP/1.1 200 Fine|Server: x|Set-Cookie: a|content-LENGTH: 5|Set-Cookie: b|Trailer: X-Sum|",
        );
        check_response("HTTP/1.1 200|Transfer-Encoding: chunked|", "GET", "HTTP/1.1 200 |");
        check_response("HTTP/1.1 200 OK|Content-Length: 5|", "HEAD", "HTTP/1.1 200 OK|Content-Length: 5|");
        check_response("HTTP/1.1 304 OK|Content-Length: 5, 5|", "GET", "HTTP/1.1 304 OK|Content-Length: 5|");
        check_response("HTTP/1.1 204 OK|Content-Length: 0|", "GET", "HTTP/1.1 204 OK|");
        check_response("HTTP/1.1 103 Early|Link: a|", "GET", "HTTP/1.1 103 Early|Link: a|");
        check_response(
            "HTTP/1.1 101 Switch|Connection: Upgrade|Upgrade: websocket|Sec-WebSocket-Accept: x|",
            "GET",
            "HTTP/1.1 101 Switch|Upgrade: websocket|Sec-WebSocket-Accept: x|",
        );
    }

    #[test]
    fn a_head_with_bare_line_feeds_is_written_anew() {
        let mut out = Vec::new();
        write_tunnel_response(&response("HTTP/1.1 200 OK\nA: b\nContent-Length: 5\n\n", "GET"), &mut out);
        assert_eq!(text(&out), "HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 5\r\n\r\n");
    }

    #[test]
    fn the_visitor_gets_the_fields_of_his_hop() {
        let write = |tunnel: &str, chunked: bool, connection: HopConnection| {
            let mut out = Vec::new();
            let head = parse_tunnel_response(tunnel.as_bytes()).expect("is fine");
            write_visitor_response(&head, chunked, connection, &mut out);
            text(&out).to_owned()
        };
        let plain = "HTTP/1.1 200 OK\r\nA: b\r\n";
        let ended = format!("{plain}\r\n");
        assert_eq!(
            write(&ended, true, HopConnection::Default),
            format!("{plain}Transfer-Encoding: chunked\r\n\r\n")
        );
        assert_eq!(write(&ended, false, HopConnection::Close), format!("{plain}Connection: close\r\n\r\n"));
        assert_eq!(
            write(&ended, false, HopConnection::KeepAlive),
            format!("{plain}Connection: keep-alive\r\n\r\n")
        );
        assert_eq!(
            write(&ended, false, HopConnection::Upgrade),
            format!("{plain}Connection: Upgrade\r\n\r\n")
        );
        let declared = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nA: b\r\n\r\n";
        assert_eq!(write(declared, false, HopConnection::Default), declared);
        assert_eq!(
            write(declared, true, HopConnection::Default),
            format!("{plain}Transfer-Encoding: chunked\r\n\r\n")
        );
    }

    #[test]
    fn a_tunnel_response_is_read_where_it_lies() {
        let head = parse_tunnel_response(b"HTTP/1.1 304 \r\nA:b \r\nContent-Length: 5\r\nC: \xff\r\n\r\n")
            .expect("is fine");
        assert_eq!((head.status, head.content_length), (304, Some(5)));
        assert_eq!(head.get("c"), Some(b"\xff".as_slice()));
        let names: Vec<&str> = head.fields().map(|field| field.name).collect();
        assert_eq!(names, ["A", "Content-Length", "C"]);
        assert_eq!(parse_tunnel_response(b"HTTP/1.1 200 OK\r\n\r\n").expect("is fine").fields().count(), 0);
    }

    #[test]
    fn a_tunnel_response_that_is_none_is_refused() {
        for (pattern, fault) in [
            ("", ResponseFault::LineEnd),
            ("||", ResponseFault::StatusLine),
            ("HTTP/1.1 200 OK|", ResponseFault::LineEnd),
            ("HTTP/1.1 200 OK|A: b", ResponseFault::LineEnd),
            ("HTTP/1.1 200 OK||A: b||", ResponseFault::FieldName),
            ("HTTP/1.1 200 OK|||", ResponseFault::FieldName),
            ("HTTP/1.1 200 O\0K||", ResponseFault::FieldValue),
            ("HTTP/1.1 200||", ResponseFault::StatusLine),
            ("HTTP/1.1 000 ||", ResponseFault::StatusLine),
            ("HTTP/1.0 200 OK||", ResponseFault::StatusLine),
            ("HTTP/1.1 200 OK|A||", ResponseFault::FieldName),
            ("HTTP/1.1 200 OK|A : b||", ResponseFault::FieldName),
            ("HTTP/1.1 200 OK|A: b\nC: d||", ResponseFault::LineEnd),
            ("HTTP/1.1 200 OK|A: b\rC: d||", ResponseFault::LineEnd),
            ("HTTP/1.1 200 OK|A: b\0||", ResponseFault::FieldValue),
            ("HTTP/1.1 200 OK|transfer-encoding: chunked||", ResponseFault::HopByHop),
            ("HTTP/1.1 200 OK|Connection: close||", ResponseFault::HopByHop),
            ("HTTP/1.1 200 OK|Upgrade: h2c||", ResponseFault::HopByHop),
            ("HTTP/1.1 200 OK|Content-Length: 5|Content-Length: 5||", ResponseFault::Length),
            ("HTTP/1.1 200 OK|Content-Length: +5||", ResponseFault::Length),
            ("HTTP/1.1 204 OK|Content-Length: 5||", ResponseFault::Length),
        ] {
            let input = pattern.replace('|', "\r\n");
            assert_eq!(parse_tunnel_response(input.as_bytes()), Err(fault), "{input:?}");
        }
    }

    #[test]
    fn every_field_we_treat_is_known_by_its_name() {
        let hop = [
            "Connection",
            "Keep-Alive",
            "Proxy-Connection",
            "Proxy-Authenticate",
            "Proxy-Authorization",
            "TE",
            "Transfer-Encoding",
            "Upgrade",
        ];
        for name in hop {
            assert!(is_hop_by_hop(name) && is_hop_by_hop(&name.to_ascii_uppercase()), "{name}");
            assert!(!is_gateways_own(name), "{name}");
        }
        let own = [
            "Forwarded",
            "X-Forwarded-For",
            "X-Forwarded-Host",
            "X-Forwarded-Proto",
            "X-Real-IP",
            "X-Octoporty-Mapping-Id",
            "X-Octoporty-Request-Id",
        ];
        for name in own {
            assert!(is_gateways_own(name) && is_gateways_own(&name.replace('-', "_")), "{name}");
            assert!(!is_hop_by_hop(name), "{name}");
        }
        assert_eq!(Kind::of("Host"), Kind::Host);
        assert_eq!(Kind::of("Expect"), Kind::Expect);
        assert_eq!(Kind::of("Content-Length"), Kind::ContentLength);
        assert_eq!(Kind::of("Content_Length"), Kind::Other);
        assert_eq!(Kind::of("Trailer"), Kind::Other);
    }

    #[test]
    fn the_first_control_byte_is_found_wherever_it_is() {
        for byte in 0..=255 {
            for length in 0..20 {
                for at in 0..length {
                    for filler in [b'x', b'\t', b' ', 0x80, 0xff, b'~'] {
                        let mut bytes = vec![filler; length];
                        bytes[at] = byte;
                        let slowly = bytes.iter().position(|&b| !is_value_byte(b));
                        assert_eq!(first_control(&bytes), slowly, "{bytes:?}");
                        bytes[length - 1] = 0;
                        let slowly = bytes.iter().position(|&b| !is_value_byte(b));
                        assert_eq!(first_control(&bytes), slowly, "{bytes:?}");
                    }
                }
            }
        }
    }

    /// Heads that are nearly right, or right and odd.
    fn nearly_request() -> impl Strategy<Value = Vec<u8>> {
        let line = prop::sample::select(vec![
            "GET / HTTP/1.1\r\n",
            "POST /a?b HTTP/1.1\r\n",
            "POST / HTTP/1.0\r\n",
            "GET http://a/x HTTP/1.1\r\n",
            "GET http://a?x HTTP/1.1\r\n",
            "OPTIONS * HTTP/1.1\r\n",
            "\r\nGET / HTTP/1.1\r\n",
            "GET / HTTP/1.1\n",
            "GET /\u{fc} HTTP/1.1\r\n",
        ]);
        let field = prop::sample::select(vec![
            "Host: a\r\n",
            "Host: b\r\n",
            "Content-Length: 5\r\n",
            "Content-Length: 007\r\n",
            "Content-Length:\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip\r\n",
            "Connection: Upgrade, X-A\r\n",
            "Connection: keep-alive\r\n",
            "Connection: host, content-length, close\r\n",
            "Upgrade: websocket\r\n",
            "Expect: 100-continue\r\n",
            "X-A: b \t\r\n",
            "x-a:\r\n",
            "X-Forwarded-For: 1.1.1.1, x\r\n",
            "X-Octoporty-Request-Id: y\r\n",
            "\u{fc}: y\r\n",
            "X: \u{fc}\r\n",
            "X: y\n",
            "X: y\r",
            "X: y\0\r\n",
            "X : y\r\n",
            " folded\r\n",
            "\r\n",
        ]);
        let ok = prop::sample::select(vec!["Host: a\r\n", "Host: a:80\r\n", ""]);
        (
            line,
            ok,
            prop::collection::vec(field, 0..5),
            prop::sample::select(vec!["\r\n", "\r\nGET /", "\n", ""]),
        )
            .prop_map(|(line, host, fields, end)| {
                format!("{line}{host}{}{end}", fields.concat()).into_bytes()
            })
    }

    fn nearly_response() -> impl Strategy<Value = Vec<u8>> {
        let line = prop::sample::select(vec![
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200\r\n",
            "HTTP/1.0 200 OK\r\n",
            "HTTP/1.1 204 \u{fc}\r\n",
            "HTTP/1.1 304 \r\n",
            "HTTP/1.1 101 \r\n",
            "HTTP/1.1 103 \r\n",
            "HTTP/1.1 200 OK\n",
        ]);
        let field = prop::sample::select(vec![
            "Content-Length: 5\r\n",
            "Content-Length: 05, 5\r\n",
            "Content-Length: 6\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Connection: close, x-a\r\n",
            "Upgrade: websocket\r\n",
            "X-A : b \r\n",
            "X-A: \u{fc}\r\n",
            "X-A:\n",
            "X-A: b\rC: d\r\n",
            "\r\n",
        ]);
        (line, prop::collection::vec(field, 0..5), prop::sample::select(vec!["\r\n", "\r\nabc", "\n", ""]))
            .prop_map(|(line, fields, end)| format!("{line}{}{end}", fields.concat()).into_bytes())
    }

    proptest! {
        #[test]
        fn no_bytes_panic(input in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_request(&input);
            let _ = parse_response(&input, "GET");
            let _ = parse_tunnel_response(&input);
        }

        #[test]
        fn a_request_is_the_same_however_it_arrives(input in nearly_request()) {
            prop_assert_eq!(parse_progressively(&input), parse_request(&input));
        }

        #[test]
        fn a_response_is_the_same_however_it_arrives(input in nearly_response()) {
            let whole = parse_response(&input, "GET");
            for end in 0..input.len() {
                match parse_response(&input[..end], "GET") {
                    Ok(None) => {}
                    found => {
                        prop_assert_eq!(&found, &whole);
                        break;
                    }
                }
            }
        }

        /// What we accept is accepted on every further hop, and has the same body there.
        #[test]
        fn what_is_accepted_means_the_same_on_every_hop(input in nearly_request()) {
            let Ok(Some((head, _))) = parse_request(&input) else { return Ok(()) };
            if head.host.is_none() {
                return Ok(());
            }
            let peer = IpAddr::from([127, 0, 0, 1]);
            let visitor = forwarded::visitor(&TrustedProxies::default(), peer, &head, "id");
            let mut tunnel = Vec::new();
            write_tunnel_request(&head, &visitor.extra(), &mut tunnel);
            let (inside, used) = parse_tunnel_request(&tunnel).expect("we wrote it").expect("all of it");
            prop_assert_eq!(used, tunnel.len());
            let chunked = head.framing == Framing::Chunked;
            prop_assert_eq!(inside.framing, if chunked { Framing::None } else { head.framing });
            prop_assert_eq!(inside.host.name(), head.host.name());
            prop_assert_eq!(inside.get("x-octoporty-request-id"), Some(b"id".as_slice()));
            let mut upstream = Vec::new();
            write_upstream_request(&inside, "u", chunked, head.upgrade, &mut upstream);
            let (outside, used) = parse_tunnel_request(&upstream).expect("we wrote it").expect("all of it");
            prop_assert_eq!(used, upstream.len());
            prop_assert_eq!(outside.framing, head.framing);
            prop_assert_eq!(outside.upgrade, head.upgrade);
            prop_assert_eq!(outside.host.name(), "u");
            prop_assert!(outside.keep_alive);
        }

        #[test]
        fn a_response_means_the_same_to_the_visitor(
            input in nearly_response(),
            method in prop::sample::select(vec!["GET", "HEAD"]),
        ) {
            let Ok(Some((head, _))) = parse_response(&input, method) else { return Ok(()) };
            let mut tunnel = Vec::new();
            write_tunnel_response(&head, &mut tunnel);
            let inside = parse_tunnel_response(&tunnel).expect("we wrote it");
            prop_assert_eq!(inside.status, head.status);
            let chunked = matches!(head.framing, Framing::Chunked | Framing::UntilClose);
            let mut out = Vec::new();
            write_visitor_response(&inside, chunked, HopConnection::Default, &mut out);
            let (outside, used) = parse_response(&out, method).expect("we wrote it").expect("all of it");
            prop_assert_eq!(used, out.len());
            prop_assert_eq!(outside.framing, if chunked { Framing::Chunked } else { head.framing });
            prop_assert_eq!(outside.reason, head.reason);
        }
    }
}
