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
const HTTP: &[BorrowedFormatItem<'_>] =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");

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
    at.to_offset(UtcOffset::UTC).format(HTTP).unwrap_or_default()
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
