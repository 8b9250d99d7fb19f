//! Response heads: from a service into the tunnel, and from the tunnel to a visitor.

use shared::head::{
    Framing, HopConnection, MAX_FIELDS, MAX_HEAD, parse_response, parse_tunnel_response,
    write_tunnel_response, write_visitor_response,
};

/// A service sends this, after a byte that tells what it was asked for.
pub fn check(data: &[u8]) {
    let Some((method, data)) = data.split_first() else { return };
    let method = ["GET", "HEAD", "CONNECT", "POST"][usize::from(*method) % 4];
    let Ok(Some((head, used))) = super::grows(data, false, |bytes| parse_response(bytes, method)) else {
        return;
    };
    assert!(used <= MAX_HEAD && head.fields.len() <= MAX_FIELDS);
    let bodiless = method == "HEAD" || matches!(head.status, 100..=199 | 204 | 304);
    assert_eq!(bodiless, head.framing == Framing::None, "{method} {}", head.status);
    assert!(!(head.keep_alive && head.framing == Framing::UntilClose), "it ends with the connection");
    let mut tunnel = Vec::new();
    write_tunnel_response(&head, &mut tunnel);
    assert!(tunnel.len() <= used + MAX_FIELDS + 64, "{used} bytes became {}", tunnel.len());
    let in_tunnel = parse_tunnel_response(&tunnel).expect("what we wrote is a head");
    assert_eq!(in_tunnel.status, head.status);
    if let Framing::Length(length) = head.framing {
        assert_eq!(in_tunnel.content_length, Some(length));
    }
    let chunked = !bodiless && !matches!(head.framing, Framing::Length(_));
    for connection in [HopConnection::Default, HopConnection::KeepAlive, HopConnection::Close] {
        let mut out = Vec::new();
        write_visitor_response(&in_tunnel, chunked, connection, &mut out);
        let parsed = parse_response(&out, method).expect("what we wrote is a head");
        let (at_visitor, used) = parsed.expect("what we wrote is complete");
        assert_eq!((used, at_visitor.status, at_visitor.reason), (out.len(), head.status, head.reason));
        let framing = if chunked { Framing::Chunked } else { head.framing };
        assert_eq!(at_visitor.framing, framing, "{}", out.escape_ascii());
    }
}
