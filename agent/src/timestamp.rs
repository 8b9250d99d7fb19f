//! Points in time as the database and the API spell them.
//!
//! Both are those of the earlier program: UTC, up to seven digits of a second (its clock ticks every 100 ns),
//! no trailing zeros.

use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime, UtcOffset};

/// Nanoseconds in the finest step either form can show.
const TICK: u32 = 100;

const DATABASE: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
const API: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
const FILE: &[BorrowedFormatItem<'_>] = format_description!("[year][month][day]-[hour][minute][second]");

/// Now, cut to what both forms can show, so that a value read back equals the one written.
pub(crate) fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_nanosecond(now.nanosecond() / TICK * TICK).unwrap_or(now)
}

/// `2026-01-20 19:58:47.6824427`: text that sorts by time, as the database has it.
pub(crate) fn database_form(at: OffsetDateTime) -> String {
    written(at, DATABASE)
}

/// `2026-01-20T19:58:47.6824427Z`.
pub(crate) fn api_form(at: OffsetDateTime) -> String {
    written(at, API) + "Z"
}

/// As [`api_form`], for milliseconds since 1970; empty for a time that no calendar has.
pub(crate) fn api_form_ms(ms: i64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).map(api_form).unwrap_or_default()
}

/// `Tue, 20 Jan 2026 19:58:47 GMT` (RFC 9110 5.6.7), for `Date` and for cookies.
pub(crate) fn http_form(at: OffsetDateTime) -> String {
    shared::clock::http_date(at)
}

/// `20260120-195847`, for the name of a file.
pub(crate) fn file_form(at: OffsetDateTime) -> String {
    at.to_offset(UtcOffset::UTC).format(FILE).unwrap_or_default()
}

/// Reads the database's form: 0 to 7 digits of a second, no zone, meant as UTC.
pub(crate) fn from_database(text: &str) -> Option<OffsetDateTime> {
    let (seconds, fraction) = match text.split_once('.') {
        Some((seconds, fraction)) => (seconds, fraction),
        None => (text, ""),
    };
    if fraction.len() > 7 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let ticks = format!("{fraction:0<7}").parse::<u32>().ok()?;
    let at = PrimitiveDateTime::parse(seconds, DATABASE).ok()?;
    at.replace_nanosecond(ticks * TICK).ok().map(PrimitiveDateTime::assume_utc)
}

/// Reads what people and programs send: `2026-01-20T19:58:47.68Z`, with an offset in place of the `Z` or with neither,
/// which means UTC as it did with the earlier program; a space may stand for the `T`; a date alone is its midnight.
/// Digits of a second beyond the seventh are dropped.
pub(crate) fn from_api(text: &str) -> Option<OffsetDateTime> {
    let text = text.trim();
    if text.len() == 10 {
        return from_database(&format!("{text} 00:00:00"));
    }
    let (date, rest) = (text.get(..10)?, text.get(11..)?);
    if !matches!(text.as_bytes()[10], b'T' | b't' | b' ') {
        return None;
    }
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != ':' && c != '.').unwrap_or(rest.len());
    let (time, zone) = rest.split_at(end);
    let time = match time.split_once('.') {
        Some((seconds, digits)) if digits.len() > 7 && digits.bytes().all(|b| b.is_ascii_digit()) => {
            format!("{seconds}.{}", &digits[..7])
        }
        _ => time.to_owned(),
    };
    let at = from_database(&format!("{date} {time}"))?;
    let offset = match zone.as_bytes() {
        [] | [b'Z' | b'z'] => UtcOffset::UTC,
        [sign @ (b'+' | b'-'), ..] => {
            let (hours, minutes) = zone[1..].split_once(':')?;
            let (hours, minutes) = (hours.parse::<i8>().ok()?, minutes.parse::<i8>().ok()?);
            let sign = if *sign == b'-' { -1 } else { 1 };
            UtcOffset::from_hms(sign * hours, sign * minutes, 0).ok()?
        }
        _ => return None,
    };
    at.checked_sub(time::Duration::seconds(offset.whole_seconds().into()))
}

/// The formats have only parts that every date has, so formatting cannot fail; years beyond 9999 cannot be
/// reached without a feature of `time` that is off.
fn written(at: OffsetDateTime, format: &[BorrowedFormatItem<'_>]) -> String {
    let at = at.to_offset(UtcOffset::UTC);
    let mut text = at.format(format).unwrap_or_default();
    let ticks = at.nanosecond() / TICK;
    if ticks != 0 {
        let digits = format!("{ticks:07}");
        text.push('.');
        text.push_str(digits.trim_end_matches('0'));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_to_seven_digits_survive_both_ways() {
        for text in [
            "2026-01-20 19:37:06",
            "2026-01-20 19:37:06.5",
            "2026-01-20 19:58:47.682442",
            "2026-01-20 19:58:47.6824427",
            "2026-01-20 19:58:47.0000001",
        ] {
            let at = from_database(text).expect(text);
            assert_eq!(database_form(at), text);
            assert_eq!(api_form(at), format!("{}Z", text.replace(' ', "T")));
        }
        assert_eq!(from_database("2026-01-20 19:37:06.500"), from_database("2026-01-20 19:37:06.5"));
    }

    #[test]
    fn other_forms_are_refused() {
        for text in [
            "",
            "2026-01-20",
            "2026-01-20T19:37:06",
            "2026-01-20 19:37:06Z",
            "2026-13-20 19:37:06",
            "2026-01-20 19:37:06.12345678",
            "2026-01-20 19:37:06.-1",
        ] {
            assert_eq!(from_database(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_others_send_is_understood_or_refused() {
        for (text, expected) in [
            ("2026-01-20T19:58:47.6824427Z", "2026-01-20 19:58:47.6824427"),
            ("2026-01-20T19:58:47", "2026-01-20 19:58:47"),
            ("2026-01-20 19:58:47.5", "2026-01-20 19:58:47.5"),
            ("2026-01-20T19:58:47.123456789Z", "2026-01-20 19:58:47.1234567"),
            ("2026-01-20T19:58:47+01:30", "2026-01-20 18:28:47"),
            ("2026-01-20t00:30:00-02:00", "2026-01-20 02:30:00"),
            (" 2026-01-20 ", "2026-01-20 00:00:00"),
        ] {
            assert_eq!(from_api(text).map(database_form).as_deref(), Some(expected), "{text}");
        }
        for text in [
            "",
            "2026-01-2",
            "2026-01-20T",
            "2026-01-20x19:58:47",
            "2026-01-20T19:58:47+0100",
            "2026-01-20T19:58:47+01:xx",
            "2026-01-20T19:58:47ZZ",
            "2026-01-20T25:58:47Z",
            "2026-02-30T00:00:00Z",
            "2026-01-20T19:58:47.1.2Z",
            "20260120T195847ä",
            "2026-01-2äT19:58:47",
        ] {
            assert_eq!(from_api(text), None, "{text:?}");
        }
    }

    #[test]
    fn now_survives_the_database() {
        let now = now();
        assert_eq!(from_database(&database_form(now)), Some(now));
    }

    #[test]
    fn a_header_gets_the_fixed_date() {
        let at = from_database("2026-01-20 19:58:47.6824427").expect("a date");
        assert_eq!(http_form(at), "Tue, 20 Jan 2026 19:58:47 GMT");
    }
}
