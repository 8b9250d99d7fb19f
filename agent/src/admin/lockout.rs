//! Slows those who guess passwords: five failures within a minute lock an address out, longer each time.
//!
//! Pure; the clock is an argument. An attempt is counted before the password is checked and forgotten when it
//! was right, so that guesses made at the same time are all counted. Checking is left to `login`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Failures within [`WINDOW`] that lock.
const FAILURES: usize = 5;
const WINDOW: Duration = Duration::from_secs(60);
/// How long the first lock holds, the second, the third, and every one after.
const LOCKS: [Duration; 4] =
    [Duration::from_secs(60), Duration::from_secs(300), Duration::from_secs(900), Duration::from_secs(3600)];
/// After so long without a failure an address starts anew.
const FORGET: Duration = Duration::from_secs(24 * 3600);
/// Addresses remembered. Some 100 bytes each; whoever has more of them is met by the ceiling on checks in
/// flight.
const MOST: usize = 4096;

/// The addresses that failed lately.
#[derive(Debug, Default)]
pub(crate) struct Lockouts {
    entries: HashMap<IpAddr, Entry>,
}

#[derive(Debug)]
struct Entry {
    failures: Vec<Instant>,
    locks: usize,
    locked_until: Option<Instant>,
    last: Instant,
}

impl Lockouts {
    /// Counts an attempt, or says how long the address must wait.
    pub(crate) fn attempt(&mut self, ip: IpAddr, now: Instant) -> Result<(), Duration> {
        let key = network(ip);
        if self.entries.get(&key).is_some_and(|entry| now.duration_since(entry.last) >= FORGET) {
            self.entries.remove(&key);
        }
        if !self.entries.contains_key(&key) && self.entries.len() >= MOST {
            self.make_room(now);
        }
        let entry = self.entries.entry(key).or_insert_with(|| Entry {
            failures: Vec::with_capacity(FAILURES),
            locks: 0,
            locked_until: None,
            last: now,
        });
        if let Some(until) = entry.locked_until.filter(|until| *until > now) {
            return Err(until - now);
        }
        entry.last = now;
        entry.locked_until = None;
        entry.failures.retain(|at| now.duration_since(*at) < WINDOW);
        entry.failures.push(now);
        if entry.failures.len() >= FAILURES {
            // This attempt still gets its answer; the next one waits.
            entry.locked_until = Some(now + LOCKS[entry.locks.min(LOCKS.len() - 1)]);
            entry.locks += 1;
            entry.failures.clear();
        }
        Ok(())
    }

    /// The attempt counted last was right: the address has a clean slate.
    pub(crate) fn succeeded(&mut self, ip: IpAddr) {
        self.entries.remove(&network(ip));
    }

    /// Forgets whoever matters least: an address that is not locked before one that is, then the one longest
    /// quiet.
    fn make_room(&mut self, now: Instant) {
        let least = self
            .entries
            .iter()
            .min_by_key(|(_, entry)| (entry.locked_until.is_some_and(|until| until > now), entry.last))
            .map(|(key, _)| *key);
        if let Some(key) = least {
            self.entries.remove(&key);
        }
    }
}

/// One household has one IPv4 address or one /64 of IPv6, within which every host picks addresses as it
/// likes.
pub(crate) fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn fail(lockouts: &mut Lockouts, ip: IpAddr, now: Instant, times: usize) {
        for _ in 0..times {
            assert_eq!(lockouts.attempt(ip, now), Ok(()));
        }
    }

    #[test]
    fn locks_grow_from_a_minute_to_an_hour() {
        let mut lockouts = Lockouts::default();
        let mut now = Instant::now();
        for seconds in [60, 300, 900, 3600, 3600] {
            fail(&mut lockouts, ip("192.0.2.1"), now, 5);
            let lock = SECOND * seconds;
            assert_eq!(lockouts.attempt(ip("192.0.2.1"), now), Err(lock));
            assert_eq!(lockouts.attempt(ip("192.0.2.1"), now + lock - SECOND), Err(SECOND));
            now += lock;
        }
        assert_eq!(lockouts.attempt(ip("192.0.2.1"), now), Ok(()));
    }

    #[test]
    fn slow_failures_do_not_lock() {
        let mut lockouts = Lockouts::default();
        let now = Instant::now();
        for n in 0..20 {
            assert_eq!(lockouts.attempt(ip("192.0.2.1"), now + 16 * n * SECOND), Ok(()));
        }
    }

    #[test]
    fn success_and_a_quiet_day_wipe_the_slate() {
        let mut lockouts = Lockouts::default();
        let now = Instant::now();
        fail(&mut lockouts, ip("192.0.2.1"), now, 4);
        lockouts.succeeded(ip("192.0.2.1"));
        fail(&mut lockouts, ip("192.0.2.1"), now, 5);
        assert_eq!(lockouts.attempt(ip("192.0.2.1"), now), Err(60 * SECOND));
        let tomorrow = now + FORGET;
        fail(&mut lockouts, ip("192.0.2.1"), tomorrow, 5);
        assert_eq!(lockouts.attempt(ip("192.0.2.1"), tomorrow), Err(60 * SECOND));
    }

    #[test]
    fn addresses_are_counted_apart_but_a_v6_network_together() {
        let mut lockouts = Lockouts::default();
        let now = Instant::now();
        fail(&mut lockouts, ip("2001:db8::1"), now, 4);
        fail(&mut lockouts, ip("2001:db8::ffff:2"), now, 1);
        assert!(lockouts.attempt(ip("2001:db8::3"), now).is_err());
        assert_eq!(lockouts.attempt(ip("2001:db8:0:1::1"), now), Ok(()));
        fail(&mut lockouts, ip("::ffff:192.0.2.1"), now, 5);
        assert!(lockouts.attempt(ip("192.0.2.1"), now).is_err());
        assert_eq!(lockouts.attempt(ip("192.0.2.2"), now), Ok(()));
    }

    #[test]
    fn the_table_is_bounded_and_keeps_those_locked_out() {
        let mut lockouts = Lockouts::default();
        let now = Instant::now();
        fail(&mut lockouts, ip("192.0.2.1"), now, 5);
        for n in 0..2 * MOST as u32 {
            let other = IpAddr::from((0x0a00_0000 + n).to_be_bytes());
            assert_eq!(lockouts.attempt(other, now + SECOND), Ok(()));
        }
        assert_eq!(lockouts.entries.len(), MOST);
        assert!(lockouts.attempt(ip("192.0.2.1"), now + SECOND).is_err());
    }
}
