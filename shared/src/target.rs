//! Which addresses an Agent never connects to, whatever a Mapping or DNS says.
//!
//! Private and loopback addresses are what people run at home and are allowed; what is refused here is either
//! no single host (unspecified, multicast, broadcast) or hands out credentials to whoever asks (link-local,
//! where cloud metadata lives). The rule is asked twice: when a Mapping is saved, and again for every address
//! a name resolves to just before connecting, because a name may change its mind in between (DNS rebinding).
//! Resolving and connecting are left to the Agent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// AWS serves instance metadata here too when IPv6 is on; it is inside the private range that is otherwise
/// allowed.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254);

/// Why nobody may connect to `ip`, or `None` when it is fine.
///
/// The text completes a sentence: `169.254.1.1 is a link-local address (cloud metadata lives there)`.
pub fn forbidden(ip: IpAddr) -> Option<&'static str> {
    match normalised(ip) {
        IpAddr::V4(v4) => forbidden_v4(v4),
        IpAddr::V6(v6) => forbidden_v6(v6),
    }
}

/// Whether connecting to `target` would reach the listener bound to `own`.
///
/// A listener on the unspecified address is reached over every local address; which addresses those are only
/// the kernel knows, so here that means loopback, the one that always exists. A caller who knows the address
/// its socket got asks again with that.
pub fn reaches_listener(target: SocketAddr, own: SocketAddr) -> bool {
    if target.port() != own.port() {
        return false;
    }
    let (target, own) = (normalised(target.ip()), normalised(own.ip()));
    target == own || (own.is_unspecified() && target.is_loopback())
}

/// `::ffff:a.b.c.d` (RFC 4291 2.5.5.2) and `64:ff9b::a.b.c.d` (RFC 6052 2.1) reach the IPv4 host they spell,
/// so they must be judged as that host.
fn normalised(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    if let Some(v4) = v6.to_ipv4_mapped() {
        return IpAddr::V4(v4);
    }
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
        _ => ip,
    }
}

fn forbidden_v4(ip: Ipv4Addr) -> Option<&'static str> {
    if ip.octets()[0] == 0 {
        // RFC 1122 3.2.1.3: 0/8 is "this network", never a destination; Linux takes 0.0.0.0 for itself.
        Some("is an unspecified address")
    } else if ip.is_link_local() {
        Some("is a link-local address (cloud metadata lives there)")
    } else if ip.is_multicast() {
        Some("is a multicast address")
    } else if ip.is_broadcast() {
        Some("is the broadcast address")
    } else {
        None
    }
}

fn forbidden_v6(ip: Ipv6Addr) -> Option<&'static str> {
    if ip.is_unspecified() {
        Some("is an unspecified address")
    } else if ip.is_unicast_link_local() {
        Some("is a link-local address (cloud metadata lives there)")
    } else if ip == METADATA_V6 {
        Some("is a cloud metadata address")
    } else if ip.is_multicast() {
        Some("is a multicast address")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ip: &str, expected: Option<&str>) {
        let reason = forbidden(ip.parse().expect("a test address"));
        match expected {
            Some(word) => {
                let reason = reason.unwrap_or_else(|| panic!("{ip} was allowed"));
                assert!(reason.contains(word), "{ip}: {reason}");
            }
            None => assert_eq!(reason, None, "{ip}"),
        }
    }

    #[test]
    fn addresses_people_run_at_home_are_allowed() {
        for ip in [
            "127.0.0.1",
            "10.0.0.1",
            "172.17.0.1",
            "192.168.1.20",
            "100.64.0.1",
            "8.8.8.8",
            "::1",
            "fd00::1",
            "fd00:ec2::253",
            "fec0::1",
            "2001:db8::1",
            "::ffff:192.168.1.20",
            "64:ff9b::808:808",
            "169.253.255.255",
            "169.255.0.0",
            "223.255.255.255",
            "255.255.255.254",
        ] {
            check(ip, None);
        }
    }

    #[test]
    fn link_local_and_metadata_are_refused_in_every_spelling() {
        for ip in [
            "169.254.0.0",
            "169.254.169.254",
            "169.254.255.255",
            "fe80::1",
            "febf:ffff::1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
        ] {
            check(ip, Some("link-local"));
        }
        check("fd00:ec2::254", Some("metadata"));
    }

    #[test]
    fn what_is_no_single_host_is_refused() {
        for ip in ["0.0.0.0", "0.1.2.3", "::", "::ffff:0.0.0.0"] {
            check(ip, Some("unspecified"));
        }
        for ip in ["224.0.0.1", "239.255.255.255", "ff02::1", "::ffff:224.0.0.1"] {
            check(ip, Some("multicast"));
        }
        for ip in ["255.255.255.255", "::ffff:255.255.255.255"] {
            check(ip, Some("broadcast"));
        }
    }

    #[test]
    fn the_own_listener_is_recognised_on_its_address_and_on_loopback() {
        let reaches = |target: &str, own: &str| {
            reaches_listener(target.parse().expect("a target"), own.parse().expect("an address"))
        };
        assert!(reaches("127.0.0.1:17201", "[::]:17201"));
        assert!(reaches("[::1]:17201", "0.0.0.0:17201"));
        assert!(reaches("192.168.1.2:17201", "192.168.1.2:17201"));
        assert!(reaches("[::ffff:192.168.1.2]:17201", "192.168.1.2:17201"));
        assert!(!reaches("127.0.0.1:8080", "[::]:17201"));
        assert!(!reaches("192.168.1.3:17201", "192.168.1.2:17201"));
        assert!(!reaches("192.168.1.3:17201", "[::]:17201"));
    }
}
