//! What a line looks like, and how it is read back.
//!
//! A message is one line whatever is in it: bytes of Visitors reach messages, and must not be able to forge lines,
//! move a terminal's cursor or turn the text around.

use std::fmt::Write as _;
use std::io::Write as _;

use time::{OffsetDateTime, UtcOffset};

use super::Level;
use crate::clock;

/// Longest message, in bytes; the rest is cut off and said to be.
pub const MAX_TEXT: usize = 8 * 1024;

/// Makes a message one visible line of bounded length.
pub(super) fn escape(text: &str) -> Box<str> {
    let mut cut = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(cut) {
        cut -= 1;
    }
    let kept = &text[..cut];
    if cut == text.len() && !kept.chars().any(is_hidden) {
        return text.into();
    }
    let mut out = String::with_capacity(kept.len() + 16);
    for c in kept.chars() {
        if is_hidden(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    if cut < text.len() {
        // Writing to a String cannot fail.
        let _ = write!(out, " [{} bytes more]", text.len() - cut);
    }
    out.into()
}

/// Controls (C0, DEL, C1), line separators, and the marks that change the direction of text.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// The local time zone. Its offset changes twice a year, and asking for it is not free: it is asked once a minute.
#[derive(Default)]
pub(super) struct Zone {
    minute: Option<i64>,
    offset: Option<UtcOffset>,
}

impl Zone {
    /// The local time; UTC when the zone is not known, as in an image without its data.
    pub(super) fn local(&mut self, time_ms: i64) -> OffsetDateTime {
        let time = clock::from_epoch_ms(time_ms).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let minute = time_ms.div_euclid(60_000);
        if self.minute != Some(minute) {
            self.minute = Some(minute);
            self.offset = UtcOffset::local_offset_at(time).ok();
        }
        self.offset.and_then(|offset| time.checked_to_offset(offset)).unwrap_or(time)
    }
}

/// `[HH:mm:ss LVL] message`; without a time, for the journal: `<N>[LVL] message`.
pub(super) fn console(out: &mut Vec<u8>, local: Option<OffsetDateTime>, level: Level, text: &str) {
    // Writing to a Vec cannot fail.
    let _ = match local {
        Some(time) => {
            let (hour, minute, second) = time.to_hms();
            writeln!(out, "[{hour:02}:{minute:02}:{second:02} {level}] {text}")
        }
        None => writeln!(out, "<{}>[{level}] {text}", priority(level)),
    };
}

/// The priorities of syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::Fatal => 2,
        Level::Error => 3,
        Level::Warning => 4,
        Level::Information => 6,
        Level::Debug | Level::Verbose => 7,
    }
}

/// `yyyy-MM-dd HH:mm:ss.fff zzz [LVL] message`.
pub(super) fn file(out: &mut Vec<u8>, local: OffsetDateTime, level: Level, text: &str) {
    let (year, month, day) = local.to_calendar_date();
    let (hour, minute, second, millisecond) = local.to_hms_milli();
    let offset = local.offset();
    let sign = if offset.is_negative() { '-' } else { '+' };
    let (east, north, _) = offset.as_hms();
    // Writing to a Vec cannot fail.
    let _ = writeln!(
        out,
        "{year:04}-{:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{millisecond:03} {sign}{:02}:{:02} [{level}] {text}",
        u8::from(month),
        east.unsigned_abs(),
        north.unsigned_abs(),
    );
}

/// A line read back from a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Old {
    pub(super) time_ms: i64,
    pub(super) level: Level,
    pub(super) text: Box<str>,
}

/// Reads what [`file()`] writes, and what the earlier program wrote.
pub(super) fn read_back(line: &str) -> Option<Old> {
    let (time, rest) = line.split_at_checked(23)?;
    let time = clock::parse_database(time).ok()?;
    let (zone, rest) = rest.strip_prefix(' ')?.split_at_checked(6)?;
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let seconds =
        hours.parse::<u8>().ok().map(i64::from)? * 3600 + minutes.parse::<u8>().ok().map(i64::from)? * 60;
    let east = match zone.as_bytes()[0] {
        b'+' => seconds,
        b'-' => -seconds,
        _ => return None,
    };
    let (letters, text) = rest.strip_prefix(" [")?.split_once("] ")?;
    let level = Level::from_letters(letters)?;
    let time_ms = time.unix_timestamp() * 1000 + i64::from(time.millisecond()) - east * 1000;
    Some(Old { time_ms, level, text: escape(text) })
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_message_is_one_visible_line() {
        let rows = [
            ("plain ünïcode text", "plain ünïcode text"),
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("\u{1b}[2Jgone", "\\u{1b}[2Jgone"),
            ("nul\0del\u{7f}c1\u{9b}", "nul\\u{0}del\\u{7f}c1\\u{9b}"),
            ("x\u{202e}txt.exe", "x\\u{202e}txt.exe"),
            ("a\u{2028}[12:00:00 INF] forged", "a\\u{2028}[12:00:00 INF] forged"),
            (r"C:\path", r"C:\path"),
        ];
        for (text, line) in rows {
            assert_eq!(&*escape(text), line);
        }
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let text = "ä".repeat(MAX_TEXT);
        let line = escape(&text);
        assert_eq!(&*line, format!("{} [{MAX_TEXT} bytes more]", "ä".repeat(MAX_TEXT / 2)));
        assert_eq!(escape(&"x".repeat(MAX_TEXT)).len(), MAX_TEXT);
    }

    #[test]
    fn console_lines_have_the_time_unless_the_journal_has_it() {
        let mut out = Vec::new();
        console(&mut out, Some(datetime!(2026-01-31 07:08:09 +2)), Level::Warning, "text");
        console(&mut out, None, Level::Information, "text");
        assert_eq!(String::from_utf8_lossy(&out), "[07:08:09 WRN] text\n<6>[INF] text\n");
    }

    #[test]
    fn file_lines_read_back() {
        let rows = [
            (datetime!(2026-01-31 07:08:09.012 UTC), "2026-01-31 07:08:09.012 +00:00 [ERR] a [b] c\n"),
            (datetime!(2026-01-31 07:08:09.9999 +5:30), "2026-01-31 07:08:09.999 +05:30 [ERR] a [b] c\n"),
            (datetime!(2026-01-31 07:08:09 -3:30), "2026-01-31 07:08:09.000 -03:30 [ERR] a [b] c\n"),
        ];
        for (time, line) in rows {
            let mut out = Vec::new();
            file(&mut out, time, Level::Error, "a [b] c");
            assert_eq!(String::from_utf8_lossy(&out), line);
            let time_ms = (time.unix_timestamp_nanos() / 1_000_000) as i64;
            let old = Old { time_ms, level: Level::Error, text: "a [b] c".into() };
            assert_eq!(read_back(line.trim_end()), Some(old));
        }
    }

    #[test]
    fn what_is_no_line_of_ours_is_not_read_back() {
        let lines = [
            "",
            "   at System.Exception",
            "2026-01-31 07:08:09.012",
            "2026-01-31 07:08:09.012 +00:00",
            "2026-01-31 07:08:09.012 +0000 [INF] x",
            "2026-01-31 07:08:09.012 é0:00 [INF] x",
            "2026-01-31 07:08:09.012 +00:00 [XYZ] x",
            "2026-01-31 07:08:09.012 =00:00 [INF] x",
        ];
        for line in lines {
            assert_eq!(read_back(line), None, "{line}");
        }
    }
}
