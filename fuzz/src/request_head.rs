//! Request heads: from a visitor into the tunnel, and from the tunnel to a service.

use shared::forwarded::Extra;
use shared::head::{
    Framing, MAX_EMPTY_LINES, MAX_FIELDS, MAX_HEAD, RequestHead, is_hop_by_hop, parse_request,
    parse_tunnel_request, write_tunnel_request, write_upstream_request,
};

/// Fields that are written by the Gateway or anew on each hop, so that they are not those of the visitor.
const OWN: [&str; 11] = [
    "host",
    "content-length",
    "expect",
    "upgrade",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-real-ip",
    "x-request-id",
    "te",
];

/// A visitor sends this.
pub fn check(data: &[u8]) {
    let Ok(Some((head, used))) = super::grows(data, true, parse_request) else { return };
    assert!(used <= MAX_HEAD + 2 * MAX_EMPTY_LINES && head.fields.len() <= MAX_FIELDS);
    assert_ne!(head.framing, Framing::UntilClose);
    if head.host.is_none() {
        return; // No route leads anywhere.
    }
    let mut tunnel = Vec::new();
    write_tunnel_request(&head, &Extra::none(), &mut tunnel);
    assert!(tunnel.len() <= used + 512, "{} bytes became {}", used, tunnel.len());
    let in_tunnel = alone(&tunnel, parse_tunnel_request(&tunnel).expect("what we wrote is a head"));
    // A body in chunks has no framing in the tunnel, where Frames carry it.
    let framing = if head.framing == Framing::Chunked { Framing::None } else { head.framing };
    assert_eq!((in_tunnel.method, in_tunnel.framing), (head.method, framing));
    assert_eq!(in_tunnel.host.name(), head.host.name());
    assert_eq!(own_way(head.target), in_tunnel.target);
    passed(&head, &in_tunnel);
    for (chunked, upgrade) in [(false, false), (true, false), (true, true)] {
        let mut out = Vec::new();
        write_upstream_request(&in_tunnel, "service.test:8080", chunked, upgrade, &mut out);
        // With the room for what we added.
        let at_service = alone(&out, parse_tunnel_request(&out).expect("what we wrote is a head"));
        let framing = if chunked { Framing::Chunked } else { in_tunnel.framing };
        assert_eq!((at_service.method, at_service.framing), (head.method, framing));
        assert_eq!(at_service.target, in_tunnel.target);
        assert_eq!(at_service.host.authority(), "service.test:8080");
        assert!(at_service.upgrade <= upgrade, "nobody asked for an upgrade");
        passed(&head, &at_service);
    }
}

/// The head, which is all there is.
fn alone<'b>(written: &[u8], parsed: Option<(RequestHead<'b>, usize)>) -> RequestHead<'b> {
    let (head, used) = parsed.expect("what we wrote is complete");
    assert_eq!(used, written.len());
    head
}

/// A query without a path is written with one.
fn own_way(target: &str) -> String {
    if target.starts_with('?') { format!("/{target}") } else { target.to_owned() }
}

/// The visitor's own fields are there, in their order, and unchanged.
fn passed(head: &RequestHead<'_>, then: &RequestHead<'_>) {
    let listed = |name: &str| {
        let named = head.fields.iter().filter(|field| field.name.eq_ignore_ascii_case("connection"));
        named
            .flat_map(|field| field.value.split(|b| *b == b','))
            .any(|member| member.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
    };
    let ends = |name: &str| {
        let name = name.to_ascii_lowercase();
        is_hop_by_hop(&name)
            || OWN.contains(&name.as_str())
            || name.starts_with("x-octoporty-")
            || listed(&name)
    };
    let own = |head: &RequestHead<'_>| -> Vec<(String, Vec<u8>)> {
        let kept = head.fields.iter().filter(|field| !ends(field.name));
        kept.map(|field| (field.name.to_owned(), field.value.to_vec())).collect()
    };
    assert_eq!(own(head), own(then));
}
