//! How long requests took, counted in classes: from it come medians and percentiles of any set of requests, and sets are
//! put together by adding.
//!
//! Four classes to each doubling, so what is read from them is at most a tenth off.

/// Classes up to 64 µs are one.
const FIRST: u32 = 6;
/// Classes in a doubling, as a power of two.
const FINE: u32 = 2;
/// Beyond about an hour all is the same.
const CLASSES: usize = ((32 - FIRST) << FINE) as usize;

/// A count per class of duration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Durations(Vec<u64>);

impl Default for Durations {
    fn default() -> Durations {
        Durations(vec![0; CLASSES])
    }
}

impl Durations {
    /// Counts one of so many microseconds.
    pub(crate) fn add(&mut self, micros: u64) {
        self.0[class(micros)] += 1;
    }

    /// Adds all of `other`.
    pub(crate) fn merge(&mut self, other: &Durations) {
        for (count, more) in self.0.iter_mut().zip(&other.0) {
            *count = count.saturating_add(*more);
        }
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.0.fill(0);
    }

    /// Milliseconds that `percent` of the requests did not exceed; 0 when there were none.
    pub(crate) fn percentile(&self, percent: u64) -> f64 {
        let all: u64 = self.0.iter().sum();
        let wanted = (all * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (class, count) in self.0.iter().enumerate() {
            seen += count;
            if all > 0 && seen >= wanted {
                // To a hundredth: what is below is noise.
                return (middle(class) / 10.0).round() / 100.0;
            }
        }
        0.0
    }

    /// As the database has it: pairs of class and count for those that are not 0, in LEB128.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (class, count) in self.0.iter().enumerate().filter(|(_, count)| **count > 0) {
            put(&mut bytes, class as u64);
            put(&mut bytes, *count);
        }
        bytes
    }

    /// Adds what [`Durations::to_bytes`] wrote; what is damaged is left out.
    pub(crate) fn merge_bytes(&mut self, mut bytes: &[u8]) {
        while let (Some(class), Some(count)) = (get(&mut bytes), get(&mut bytes)) {
            if let Some(own) = self.0.get_mut(class as usize) {
                *own = own.saturating_add(count);
            }
        }
    }
}

fn class(micros: u64) -> usize {
    let octave = micros.max(1).ilog2();
    if octave < FIRST {
        return 0;
    }
    let fine = (micros >> (octave - FINE)) & ((1 << FINE) - 1);
    ((((octave - FIRST) as u64) << FINE) + fine).min(CLASSES as u64 - 1) as usize
}

/// The middle of a class, microseconds.
fn middle(class: usize) -> f64 {
    let octave = FIRST + (class as u32 >> FINE);
    let fine = (class & ((1 << FINE) - 1)) as f64;
    let step = f64::from(1 << FINE);
    2_f64.powi(octave as i32) * (1.0 + (fine + 0.5) / step)
}

fn put(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn get(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_at_most_a_tenth_off() {
        for micros in [100_u64, 999, 1_000, 12_345, 250_000, 3_000_000, 299_000_000] {
            let mut durations = Durations::default();
            durations.add(micros);
            let (said, truth) = (durations.percentile(50), micros as f64 / 1000.0);
            assert!((said - truth).abs() <= truth * 0.13 + 0.01, "{said} for {truth}");
        }
        let mut durations = Durations::default();
        (0..94).for_each(|_| durations.add(10_000));
        (0..6).for_each(|_| durations.add(1_000_000));
        assert!((8.0..12.0).contains(&durations.percentile(50)));
        assert!((900.0..1_130.0).contains(&durations.percentile(95)));
        assert_eq!(Durations::default().percentile(95), 0.0);
    }

    #[test]
    fn classes_rise_with_time_and_end() {
        let mut before = 0;
        for shift in 0..64 {
            for micros in [1_u64 << shift, (1 << shift) + (1 << shift) / 2] {
                let now = class(micros);
                assert!(now >= before && now < CLASSES, "{micros}");
                before = now;
            }
        }
        assert_eq!((class(0), class(u64::MAX)), (0, CLASSES - 1));
    }

    #[test]
    fn what_is_written_is_read_and_damage_does_no_harm() {
        let mut durations = Durations::default();
        for n in 0..1_000_u64 {
            durations.add(n * n * 17);
        }
        let bytes = durations.to_bytes();
        let mut read = Durations::default();
        read.merge_bytes(&bytes);
        assert_eq!(read, durations);
        read.merge(&durations);
        let mut twice = Durations::default();
        twice.merge_bytes(&bytes);
        twice.merge_bytes(&bytes);
        assert_eq!(read, twice);
        for end in 0..bytes.len() {
            Durations::default().merge_bytes(&bytes[..end]);
        }
        let mut none = Durations::default();
        none.merge_bytes(&[0xff; 40]);
        none.merge_bytes(&[0xf0, 0x7f, 1]);
        assert_eq!(none, Durations::default());
        none.add(1);
        none.clear();
        assert_eq!(none, Durations::default());
    }
}
