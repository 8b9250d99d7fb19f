//! The time of day, and its text forms: UTC, with the zone either `Z` or left out.
//!
//! For measuring use `monotime`: this clock jumps when somebody sets it.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time};

/// Now, in UTC.
pub fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

/// Now, as [`iso`] writes it.
pub fn now_iso() -> String {
    iso(now())
}

/// Milliseconds since 1970; negative before.
pub fn epoch_ms() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
    }
}

/// The time at `ms` milliseconds since 1970; `None` outside the years 1 to 9999, which have no text form.
pub fn from_epoch_ms(ms: i64) -> Option<OffsetDateTime> {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok()?;
    (1..=9999).contains(&time.year()).then_some(time)
}

/// `2026-01-31T12:34:56.789Z`: what JSON carries and `Date` of every browser reads.
pub fn iso(time: OffsetDateTime) -> String {
    let time = time.to_utc();
    let (date, clock) = (time.date(), time.time());
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    let (hour, minute, second) = (clock.hour(), clock.minute(), clock.second());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", clock.millisecond())
}

/// `2026-01-31 12:34:56.789`: what the database holds, with up to seven decimals and no zero at their end. Texts of
/// this form sort by time well enough, and equal times are equal texts.
pub fn database(time: OffsetDateTime) -> String {
    let time = time.to_utc();
    let (date, clock) = (time.date(), time.time());
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    let (hour, minute, second) = (clock.hour(), clock.minute(), clock.second());
    let mut text = format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}");
    // Steps of 100 ns, which is what the earlier program counts in.
    let decimals = format!("{:07}", clock.nanosecond() / 100);
    let decimals = decimals.trim_end_matches('0');
    if !decimals.is_empty() {
        text.push('.');
        text.push_str(decimals);
    }
    text
}

/// A text that is no time of the database's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeFault;

impl fmt::Display for TimeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("is no time of the form yyyy-MM-dd HH:mm:ss with up to seven decimals")
    }
}

impl std::error::Error for TimeFault {}

/// Reads what [`database`] writes.
pub fn parse_database(text: &str) -> Result<OffsetDateTime, TimeFault> {
    parse(text, b' ').ok_or(TimeFault)
}

fn parse(text: &str, separator: u8) -> Option<OffsetDateTime> {
    let (seconds, decimals) = text.split_at_checked(19)?;
    let bytes = seconds.as_bytes();
    let marks = [(4, b'-'), (7, b'-'), (10, separator), (13, b':'), (16, b':')];
    if marks.iter().any(|&(place, mark)| bytes[place] != mark) {
        return None;
    }
    let number = |from: usize, to: usize| digits(&bytes[from..to]);
    let month = Month::try_from(u8::try_from(number(5, 7)?).ok()?).ok()?;
    let date = Date::from_calendar_date(number(0, 4)? as i32, month, number(8, 10)? as u8).ok()?;
    let nanoseconds = match decimals.as_bytes() {
        [] => 0,
        [b'.', decimals @ ..] if (1..=7).contains(&decimals.len()) => {
            digits(decimals)? * 10u32.pow(9 - decimals.len() as u32)
        }
        _ => return None,
    };
    let (hour, minute, second) = (number(11, 13)? as u8, number(14, 16)? as u8, number(17, 19)? as u8);
    let clock = Time::from_hms_nano(hour, minute, second, nanoseconds).ok()?;
    Some(PrimitiveDateTime::new(date, clock).assume_utc())
}

/// At most seven digits.
fn digits(bytes: &[u8]) -> Option<u32> {
    bytes.iter().try_fold(0, |sum, b| b.is_ascii_digit().then(|| sum * 10 + u32::from(b - b'0')))
}

/// A date as HTTP writes it (RFC 9110 5.6.7): `Sun, 06 Nov 1994 08:49:37 GMT`.
pub fn http_date(time: OffsetDateTime) -> String {
    let time = time.to_utc();
    let day = &time.weekday().to_string()[..3];
    let month = &time.month().to_string()[..3];
    let (date, year) = (time.day(), time.year());
    let (hour, minute, second) = time.as_hms();
    format!("{day}, {date:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

/// Reads such a date; the two obsolete forms, which nobody sends any more, are not read.
pub fn parse_http_date(text: &str) -> Option<OffsetDateTime> {
    let (_, rest) = text.trim().split_once(", ")?;
    let mut words = rest.split(' ');
    let day: u8 = words.next()?.parse().ok()?;
    let names = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = words.next()?;
    let month = names.iter().position(|name| *name == month)? as u8 + 1;
    let year: i32 = words.next()?.parse().ok()?;
    let mut parts = words.next()?.split(':').map(|part| part.parse::<u8>().ok());
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    if words.next() != Some("GMT") || words.next().is_some() || parts.next().is_some() {
        return None;
    }
    let date = Date::from_calendar_date(year, Month::try_from(month).ok()?, day).ok()?;
    // A leap second is the second after.
    let time = Time::from_hms(hour, minute, second.min(59)).ok()?;
    Some(PrimitiveDateTime::new(date, time).assume_utc())
}

#[cfg(test)]
mod tests {
    use time::UtcOffset;
    use time::macros::datetime;

    use super::*;

    #[test]
    fn iso_has_milliseconds_and_z_whatever_the_zone() {
        let time = datetime!(2026-01-31 00:30:05.0987654 UTC);
        assert_eq!(iso(time), "2026-01-31T00:30:05.098Z");
        let east = time.to_offset(UtcOffset::from_hms(5, 30, 0).expect("an offset"));
        assert_eq!(iso(east), "2026-01-31T00:30:05.098Z");
        assert_eq!(database(east), "2026-01-31 00:30:05.0987654");
    }

    #[test]
    fn the_database_form_drops_zeros_at_the_end_and_reads_back() {
        let rows = [
            (datetime!(2026-01-31 12:34:56 UTC), "2026-01-31 12:34:56"),
            (datetime!(2026-01-31 12:34:56.7 UTC), "2026-01-31 12:34:56.7"),
            (datetime!(2026-01-31 12:34:56.000001 UTC), "2026-01-31 12:34:56.000001"),
            (datetime!(2024-02-29 23:59:59.9999999 UTC), "2024-02-29 23:59:59.9999999"),
            (datetime!(0001-01-01 00:00:00 UTC), "0001-01-01 00:00:00"),
        ];
        for (time, text) in rows {
            assert_eq!(database(time), text);
            assert_eq!(parse_database(text), Ok(time), "{text}");
        }
        // Finer than the form can say: cut, never rounded up into the next second.
        assert_eq!(database(datetime!(2026-01-01 00:00:00.999999999 UTC)), "2026-01-01 00:00:00.9999999");
    }

    #[test]
    fn what_is_no_time_is_refused() {
        let texts = [
            "",
            "2026-01-31",
            "2026-01-31T12:34:56",
            "2026-01-31 12:34",
            "2026-13-01 00:00:00",
            "2026-02-29 00:00:00",
            "2026-01-31 24:00:00",
            "2026-01-31 12:34:60",
            "2026-01-31 12:34:56.",
            "2026-01-31 12:34:56.12345678",
            "2026-01-31 12:34:56.1Z",
            "2026-01-31 12:34:56Z",
            "+026-01-31 12:34:56",
            "2026-01-31 12:34:5é",
            "2026-01-31 12:34:é56",
        ];
        for text in texts {
            assert_eq!(parse_database(text), Err(TimeFault), "{text}");
        }
    }

    #[test]
    fn dates_of_http_are_written_and_read() {
        // The example of RFC 9110 5.6.7.
        let text = "Sun, 06 Nov 1994 08:49:37 GMT";
        let time = parse_http_date(text).expect("a date");
        assert_eq!(time.unix_timestamp(), 784_111_777);
        assert_eq!(http_date(time), text);
        for text in [
            "",
            "06 Nov 1994",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 32 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
        ] {
            assert_eq!(parse_http_date(text), None, "{text}");
        }
    }

    #[test]
    fn epoch_milliseconds_go_there_and_back() {
        assert_eq!(from_epoch_ms(0), Some(OffsetDateTime::UNIX_EPOCH));
        assert_eq!(from_epoch_ms(-1).map(iso).as_deref(), Some("1969-12-31T23:59:59.999Z"));
        assert_eq!(from_epoch_ms(i64::MAX), None);
        assert_eq!(from_epoch_ms(i64::MIN), None);
        assert!(from_epoch_ms(epoch_ms()).is_some());
    }
}
