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

mod fields;
mod request;
mod response;
mod tunnel_response;

pub use fields::is_hop_by_hop;
pub(crate) use fields::{is_gateways_own, is_value_byte, split_field};
pub use request::{
    RequestFault, RequestHead, parse_request, parse_tunnel_request, write_tunnel_request,
    write_upstream_request,
};
pub use response::{ResponseFault, ResponseHead, parse_response, write_tunnel_response};
pub use tunnel_response::{HopConnection, TunnelResponse, parse_tunnel_response, write_visitor_response};

/// Largest head of a request or response that is accepted.
pub const MAX_HEAD: usize = 64 * 1024;
/// Interim answers (1xx) that one request may get …
pub const MAX_INTERIM: usize = 8;
/// … and bytes of their heads in all. A service that sends more is broken.
pub const MAX_INTERIM_BYTES: usize = 64 * 1024;
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

#[cfg(test)]
mod tests;
