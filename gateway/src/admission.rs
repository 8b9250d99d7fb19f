//! Who may open a Link: the checks before the WebSocket handshake of `/tunnel`, and the count of wrong keys.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;

use shared::head::{Framing, RequestHead};
use shared::hello::{SUB_PROTOCOL, TUNNEL_PATH};
use shared::monotime;
use shared::secret::Secret;
use shared::threads::lock;
use tungstenite::handshake::derive_accept_key;

use crate::answers::{self, Answer};
use crate::config::Config;

/// Wrong keys from one address within a minute before it has to wait.
const MOST_FAILURES: u32 = 10;
/// The window of that count, and the wait. Microseconds.
const MINUTE: u64 = 60_000_000;
/// Addresses remembered; beyond that the oldest go first.
const MOST_ADDRESSES: usize = 4096;

/// Counts wrong keys by address.
#[derive(Default)]
pub(crate) struct Admission {
    failures: Mutex<HashMap<IpAddr, Failures>>,
}

#[derive(Clone, Copy)]
struct Failures {
    since: u64,
    count: u32,
    blocked_until: u64,
}

impl Admission {
    /// Checks a request for the tunnel endpoint, in the order of `docs/protocol.md`. `Ok` is the 101 response.
    pub(crate) fn check(
        &self,
        config: &Config,
        head: &RequestHead<'_>,
        visitor: IpAddr,
        has_room: impl FnOnce() -> bool,
    ) -> Result<Vec<u8>, Answer> {
        let websocket = head.get("upgrade").is_some_and(|v| v.eq_ignore_ascii_case(b"websocket"));
        let key = head.get("sec-websocket-key").filter(|key| key.len() == 24);
        let version = head.get("sec-websocket-version") == Some(b"13");
        let (Some(key), true) = (
            key,
            head.method == "GET" && head.upgrade && websocket && version && head.framing == Framing::None,
        ) else {
            return Err(Answer::plain_fault(
                400,
                "this is the tunnel endpoint: it takes WebSocket connections of Agents only",
            ));
        };
        self.key(config, head, visitor)?;
        if let Some(origin) = head.get("origin")
            && !std::str::from_utf8(origin).is_ok_and(|origin| config.allowed_origins.allows(origin))
        {
            return Err(Answer::plain_fault(
                403,
                "this origin may not open a tunnel (Gateway__AllowedOrigins)",
            ));
        }
        if !offers_our_protocol(head) {
            let text = format!("this Gateway speaks {SUB_PROTOCOL} only: update the older side");
            return Err(Answer::plain_fault(426, &text));
        }
        if !has_room() {
            return Err(Answer::plain_fault(503, "no more tunnels are accepted at the moment"));
        }
        let accept = derive_accept_key(key);
        Ok(format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {SUB_PROTOCOL}\r\n\r\n"
        )
        .into_bytes())
    }

    /// Checks the key that a request brings.
    pub(crate) fn key(&self, config: &Config, head: &RequestHead<'_>, visitor: IpAddr) -> Result<(), Answer> {
        self.judge(&config.api_key, head.get("x-api-key"), visitor, monotime::micros())
    }

    /// The right key is always right. Only wrong keys count: a missing one is not a guess, and any web page can make
    /// a browser ask without one.
    fn judge(
        &self,
        expected: &Secret,
        given: Option<&[u8]>,
        visitor: IpAddr,
        now: u64,
    ) -> Result<(), Answer> {
        let visitor = network(visitor);
        match given {
            None => Err(Answer::plain_fault(401, "the X-Api-Key header is missing")),
            Some(key) if key_matches(expected, key) => Ok(()),
            Some(_) if self.is_blocked(visitor, now) => {
                Err(Answer::plain_fault(429, "too many wrong keys from this address; wait a minute"))
            }
            Some(_) => {
                self.note_failure(visitor, now);
                let text =
                    "the key is wrong: Agent__ApiKey must be the same as the Gateway's Gateway__ApiKey";
                Err(Answer::plain_fault(401, text))
            }
        }
    }

    fn is_blocked(&self, address: IpAddr, now: u64) -> bool {
        lock(&self.failures).get(&address).is_some_and(|f| f.blocked_until > now)
    }

    fn note_failure(&self, address: IpAddr, now: u64) {
        let mut all = lock(&self.failures);
        if all.len() >= MOST_ADDRESSES && !all.contains_key(&address) {
            all.retain(|_, f| f.blocked_until > now || now.saturating_sub(f.since) < MINUTE);
            if all.len() >= MOST_ADDRESSES
                && let Some(oldest) = all.iter().min_by_key(|(_, f)| f.since).map(|(ip, _)| *ip)
            {
                all.remove(&oldest);
            }
        }
        let failures = all.entry(address).or_insert(Failures { since: now, count: 0, blocked_until: 0 });
        if now.saturating_sub(failures.since) >= MINUTE {
            *failures = Failures { since: now, count: 0, blocked_until: 0 };
        }
        failures.count += 1;
        if failures.count >= MOST_FAILURES {
            failures.blocked_until = now + MINUTE;
        }
    }
}

/// Whether a request is an Agent's for a Link, and not a visitor's for a path that happens to have this name.
pub(crate) fn asks_for_link(head: &RequestHead<'_>) -> bool {
    answers::path(head.target) == TUNNEL_PATH && head.upgrade && offers_our_protocol(head)
}

fn offers_our_protocol(head: &RequestHead<'_>) -> bool {
    let offered = head.fields.iter().filter(|f| f.name.eq_ignore_ascii_case("sec-websocket-protocol"));
    offered
        .flat_map(|f| f.value.split(|b| *b == b','))
        .any(|name| name.trim_ascii() == SUB_PROTOCOL.as_bytes())
}

/// What counts as one address: of IPv6 the /64, which one household has whole.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(ip) => IpAddr::from((u128::from(ip) >> 64 << 64).to_be_bytes()),
    }
}

/// Compares digests in constant time, so neither content nor length of the key shows in the time it takes.
fn key_matches(expected: &Secret, given: &[u8]) -> bool {
    expected.matches(given)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_wrong_keys_in_a_minute_block_an_address_for_a_minute() {
        let admission = Admission::default();
        let (a, b) = (IpAddr::from([203, 0, 113, 1]), IpAddr::from([203, 0, 113, 2]));
        for i in 0..10 {
            assert!(!admission.is_blocked(a, i));
            admission.note_failure(a, i);
        }
        assert!(admission.is_blocked(a, 10) && !admission.is_blocked(b, 10));
        assert!(!admission.is_blocked(a, 10 + MINUTE));
    }

    #[test]
    fn the_right_key_is_right_whatever_came_before_it() {
        let (admission, key) = (Admission::default(), Secret::new("a key of many characters"));
        let (a, neighbour) =
            (IpAddr::from([0xfd00, 0, 0, 1, 0, 0, 0, 1]), IpAddr::from([0xfd00, 0, 0, 1, 9, 9, 9, 9]));
        let status = |given: Option<&[u8]>, who| admission.judge(&key, given, who, 1).map_err(|a| a.status);
        for _ in 0..100 {
            assert_eq!(status(None, a), Err(401));
        }
        for _ in 0..10 {
            assert_eq!(status(Some(b"wrong"), a), Err(401));
        }
        assert_eq!(status(Some(b"wrong"), a), Err(429));
        assert_eq!(status(Some(b"wrong"), neighbour), Err(429), "one /64 is one address");
        assert_eq!(status(None, a), Err(401));
        assert_eq!(status(Some(b"a key of many characters"), a), Ok(()));
    }

    #[test]
    fn wrong_keys_spread_over_time_block_nobody() {
        let admission = Admission::default();
        let a = IpAddr::from([203, 0, 113, 1]);
        for i in 0..100 {
            admission.note_failure(a, i * MINUTE / 9);
            assert!(!admission.is_blocked(a, i * MINUTE / 9));
        }
    }

    #[test]
    fn the_table_of_addresses_is_bounded() {
        let admission = Admission::default();
        for i in 0..2 * MOST_ADDRESSES as u32 {
            admission.note_failure(IpAddr::from(i.to_be_bytes()), u64::from(i));
        }
        assert!(lock(&admission.failures).len() <= MOST_ADDRESSES);
    }
}
