//! The head of an answer as the Gateway gets it from the tunnel: checked where it lies, and handed to the visitor nearly
//! as it is.

use super::fields::{Kind, is_value_byte, parse_decimal, split_field};
use super::{Field, MAX_TUNNEL_FIELDS, MAX_TUNNEL_HEAD, ResponseFault};

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

/// Checks a head that [`write_tunnel_response`](super::write_tunnel_response) wrote; `buf` is the whole head and nothing else.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::tests::text;

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
}
