//! How long to wait before dialling again. Pure: the number of the attempt and a random number in, a delay out.

use std::time::Duration;

/// Longest random delay of the first attempt after an established Session was lost, so that the Agents of a
/// restarted Gateway do not all come in the same millisecond.
const FIRST_JITTER: Duration = Duration::from_millis(500);

/// The delay before attempt `attempt` (0 = the first after a loss), with `random` in `0.0..1.0`.
///
/// Attempt 0 comes after at most half a second; then `initial`, doubling, up to `max`, each varied by a fifth.
pub fn delay(attempt: u32, initial: Duration, max: Duration, random: f64) -> Duration {
    if attempt == 0 {
        return FIRST_JITTER.mul_f64(random);
    }
    let factor = 2u32.saturating_pow((attempt - 1).min(30));
    let base = initial.saturating_mul(factor).min(max);
    base.mul_f64(0.8 + 0.4 * random).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_from_initial_to_max() {
        let (initial, max) = (Duration::from_secs(5), Duration::from_secs(300));
        let seconds = |attempt| delay(attempt, initial, max, 0.5).as_secs();
        assert_eq!((0..9).map(seconds).collect::<Vec<_>>(), [0, 5, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(delay(u32::MAX, initial, max, 0.999), max);
    }

    #[test]
    fn jitter_stays_within_a_fifth() {
        let (initial, max) = (Duration::from_secs(5), Duration::from_secs(300));
        assert_eq!(delay(1, initial, max, 0.0), Duration::from_secs(4));
        assert!(delay(1, initial, max, 0.9999) < Duration::from_secs(6));
        assert!(delay(0, initial, max, 0.9999) < FIRST_JITTER);
    }
}
