//! The file of the day: `agent-.log` becomes `agent-20260131.log`, then `agent-20260131_001.log` when it is full.
//!
//! A disk that is full or gone stops neither the daemon nor the log: lines are lost and counted, the file is tried
//! again from time to time, and what happened is handed to the caller to be said elsewhere.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use time::{Date, Month, OffsetDateTime};

use super::line::{self, Old, escape, read_back};
use super::{Level, LogFile};

/// Between two tries to write a file that cannot be written.
const RETRY: Duration = Duration::from_secs(30);
/// How often we look whether the file is still the one with that name: somebody may have moved or deleted it.
const LOOK: Duration = Duration::from_secs(10);
/// Bytes that are collected before they are written.
const BATCH: usize = 64 * 1024;
/// Bytes of old files that are read at start.
const TAIL: u64 = 2 * 1024 * 1024;

/// The rolling file.
pub(super) struct Rolling {
    names: Names,
    explicit: bool,
    size_limit: u64,
    retained: usize,
    open: Option<Open>,
    /// Lines that are not written yet.
    batch: Vec<u8>,
    batch_lines: u64,
    state: State,
}

struct Open {
    file: File,
    path: PathBuf,
    day: Date,
    number: u32,
    size: u64,
    looked: Instant,
}

/// Whether lines can be written.
enum State {
    Writing,
    Failing {
        lost: u64,
        retry: Instant,
    },
    /// A default that nobody asked for could not be written: not tried again.
    GivenUp,
}

/// What the Operator should know.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The default directory cannot be written.
    NoDefault(PathBuf, String),
    /// Lines are being lost.
    Failed(PathBuf, String),
    /// Lines are written again; so many have been lost.
    Recovered(PathBuf, u64),
    /// An old file cannot be deleted.
    Undeleted(PathBuf, String),
}

impl Change {
    /// In words.
    pub(super) fn describe(&self) -> (Level, String) {
        match self {
            Change::NoDefault(path, why) => {
                let text = format!(
                    "NO LOG FILE: {}: {why}; lines go to standard error only (set Logging__FilePath to another place, or to nothing)",
                    path.display()
                );
                (Level::Warning, text)
            }
            Change::Failed(path, why) => {
                let text = format!(
                    "LOG FILE CANNOT BE WRITTEN: {}: {why}; lines go to standard error only, tried again every {} s",
                    path.display(),
                    RETRY.as_secs()
                );
                (Level::Warning, text)
            }
            Change::Recovered(path, lost) => (
                Level::Warning,
                format!("log file {} is written again, {lost} lines are missing", path.display()),
            ),
            Change::Undeleted(path, why) => {
                (Level::Warning, format!("old log file {} cannot be deleted: {why}", path.display()))
            }
        }
    }
}

impl Rolling {
    pub(super) fn new(file: &LogFile, size_limit: u64, retained: usize) -> Rolling {
        Rolling {
            names: Names::new(&file.path),
            explicit: file.explicit,
            size_limit,
            retained,
            open: None,
            batch: Vec::new(),
            batch_lines: 0,
            state: State::Writing,
        }
    }

    /// Opens the file of the day, so that a fault is said at start and not with the first line.
    pub(super) fn open(&mut self, local: OffsetDateTime, now: Instant) -> Option<Change> {
        if let Err(error) = self.make_directory().and_then(|()| self.roll(local.date(), now)) {
            return Some(if self.explicit {
                self.fail(&error, now)
            } else {
                self.state = State::GivenUp;
                Change::NoDefault(self.names.directory.clone(), error.to_string())
            });
        }
        self.delete_old()
    }

    /// A directory that was asked for is made with all above it; of the default only the last part, because its
    /// parent is the system's.
    fn make_directory(&self) -> io::Result<()> {
        if self.names.directory.is_dir() {
            return Ok(());
        }
        DirBuilder::new().recursive(self.explicit).mode(0o750).create(&self.names.directory)
    }

    /// Adds a line.
    pub(super) fn push(
        &mut self,
        local: OffsetDateTime,
        level: Level,
        text: &str,
        now: Instant,
    ) -> Option<Change> {
        let mut recovered = None;
        match &mut self.state {
            State::Writing => {}
            State::GivenUp => return None,
            State::Failing { lost, retry } if now < *retry => {
                *lost += 1;
                return None;
            }
            State::Failing { lost, .. } => {
                let count = *lost;
                match self.make_directory().and_then(|()| self.roll(local.date(), now)) {
                    Ok(()) => {
                        self.state = State::Writing;
                        recovered = Some(Change::Recovered(self.path(), count));
                    }
                    Err(_) => {
                        // Said once already.
                        self.state = State::Failing { lost: count + 1, retry: now + RETRY };
                        return None;
                    }
                }
            }
        }
        let start = self.batch.len();
        line::file(&mut self.batch, local, level, text);
        self.batch_lines += 1;
        let full = match &self.open {
            // A clock that is set back stays in the file it is in: days only go forward.
            Some(open) => open.day < local.date() || open.size + self.batch.len() as u64 > self.size_limit,
            None => true,
        };
        let mut change = None;
        if full {
            // What came before belongs to the file that is open.
            let line = self.batch.split_off(start);
            self.batch_lines -= 1;
            let flushed = self.flush(now);
            let failed = flushed.or_else(|| {
                let error = self.roll(local.date(), now).err()?;
                Some(self.fail(&error, now))
            });
            if failed.is_some() {
                if let State::Failing { lost, .. } = &mut self.state {
                    *lost += 1;
                }
                return failed;
            }
            self.batch = line;
            self.batch_lines = 1;
            change = self.delete_old();
        } else if self.batch.len() >= BATCH {
            change = self.flush(now);
        }
        recovered.or(change)
    }

    /// Writes what has been added.
    pub(super) fn flush(&mut self, now: Instant) -> Option<Change> {
        if self.batch.is_empty() {
            return None;
        }
        let written = self.write(now);
        match written {
            Ok(()) => {
                self.batch.clear();
                self.batch.shrink_to(BATCH);
                self.batch_lines = 0;
                None
            }
            Err(error) => Some(self.fail(&error, now)),
        }
    }

    fn write(&mut self, now: Instant) -> io::Result<()> {
        if let Some(open) = &mut self.open
            && now.duration_since(open.looked) >= LOOK
        {
            open.looked = now;
            if !open.is_in_place() {
                let day = open.day;
                self.make_directory()?;
                self.roll(day, now)?;
            }
        }
        let open = self.open.as_mut().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        open.file.write_all(&self.batch)?;
        open.size += self.batch.len() as u64;
        Ok(())
    }

    /// Gives up the lines at hand, and the file for a while.
    fn fail(&mut self, error: &io::Error, now: Instant) -> Change {
        let path = self.path();
        self.open = None;
        self.batch.clear();
        self.state = State::Failing { lost: std::mem::take(&mut self.batch_lines), retry: now + RETRY };
        Change::Failed(path, error.to_string())
    }

    fn path(&self) -> PathBuf {
        self.open.as_ref().map_or_else(|| self.names.directory.clone(), |open| open.path.clone())
    }

    /// Opens the newest file of a day, or a new one when that is full.
    fn roll(&mut self, day: Date, now: Instant) -> io::Result<()> {
        // After the clock was set back there may be newer days; ours is the newest that is not older than today's.
        let last =
            self.names.list()?.into_iter().filter(|found| found.day == day).map(|found| found.number).max();
        let mut number = last.unwrap_or(0);
        loop {
            let path = self.names.path(day, number);
            let file = OpenOptions::new().append(true).create(true).mode(0o640).open(&path)?;
            let size = file.metadata()?.len();
            // A file that ended in the middle of a line, at a crash, is taken on as it is: the reader skips that.
            if size < self.size_limit || number == u32::MAX {
                self.open = Some(Open { file, path, day, number, size, looked: now });
                return Ok(());
            }
            number += 1;
        }
    }

    /// Deletes the oldest files, so that `retained` are left.
    fn delete_old(&self) -> Option<Change> {
        let open = self.open.as_ref().map(|open| (open.day, open.number));
        let mut files = match self.names.list() {
            Ok(files) => files,
            Err(error) => return Some(Change::Undeleted(self.names.directory.clone(), error.to_string())),
        };
        files.sort_by_key(|found| (found.day, found.number));
        let surplus = files.len().saturating_sub(self.retained);
        let mut change = None;
        for found in &files[..surplus] {
            if open == Some((found.day, found.number)) {
                continue;
            }
            let path = self.names.path(found.day, found.number);
            match fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => change = change.or(Some(Change::Undeleted(path, error.to_string()))),
            }
        }
        change
    }

    /// The last lines of the files that are there, oldest first. What cannot be read is not there: these lines are
    /// only shown, and whether the file can be written is found out by opening it.
    pub(super) fn tail(&self, count: usize) -> Vec<Old> {
        let mut files = self.names.list().unwrap_or_default();
        files.sort_by_key(|found| (found.day, found.number));
        let mut left = TAIL;
        let mut newest_first: Vec<Old> = Vec::new();
        for found in files.iter().rev() {
            if newest_first.len() >= count || left == 0 {
                break;
            }
            let Ok(text) = read_tail(&self.names.path(found.day, found.number), &mut left) else { continue };
            let lines = parse_lines(&text);
            newest_first.extend(lines.into_iter().rev().take(count - newest_first.len()));
        }
        newest_first.reverse();
        newest_first
    }
}

impl Open {
    fn is_in_place(&self) -> bool {
        let (Ok(named), Ok(ours)) = (fs::metadata(&self.path), self.file.metadata()) else { return false };
        (named.dev(), named.ino()) == (ours.dev(), ours.ino())
    }
}

/// The end of a file, from the start of a line; takes its length off `left`.
fn read_tail(path: &Path, left: &mut u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let start = size.saturating_sub(*left);
    // One byte earlier: if that is the end of a line, the first line is whole.
    file.seek(SeekFrom::Start(start.saturating_sub(1)))?;
    let mut bytes = Vec::new();
    file.take(*left + 1).read_to_end(&mut bytes)?;
    *left = left.saturating_sub(bytes.len() as u64);
    let whole = match bytes.iter().position(|&b| b == b'\n') {
        _ if start == 0 => 0,
        Some(end) => end + 1,
        None => bytes.len(),
    };
    Ok(String::from_utf8_lossy(&bytes[whole..]).into_owned())
}

/// Lines of other forms (the earlier program wrote exceptions over several) count with the line above them.
fn parse_lines(text: &str) -> Vec<Old> {
    let mut lines: Vec<Old> = Vec::new();
    for text in text.lines().filter(|text| !text.trim().is_empty()) {
        if let Some(old) = read_back(text) {
            lines.push(old);
        } else if let Some(above) = lines.last() {
            let (time_ms, level) = (above.time_ms, above.level);
            lines.push(Old { time_ms, level, text: escape(text) });
        }
    }
    lines
}

/// How the files are called: `directory/stem` + date + number + `extension`.
struct Names {
    directory: PathBuf,
    stem: String,
    extension: String,
}

struct Dated {
    day: Date,
    number: u32,
}

impl Names {
    fn new(path: &Path) -> Names {
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        // Settings refuse a path without a name.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let (stem, extension) = name.split_at(name.rfind('.').unwrap_or(name.len()));
        Names { directory, stem: stem.to_owned(), extension: extension.to_owned() }
    }

    fn path(&self, day: Date, number: u32) -> PathBuf {
        let date = format!("{:04}{:02}{:02}", day.year(), u8::from(day.month()), day.day());
        let name = match number {
            0 => format!("{}{date}{}", self.stem, self.extension),
            _ => format!("{}{date}_{number:03}{}", self.stem, self.extension),
        };
        self.directory.join(name)
    }

    /// Our files in the directory. Nothing else is counted, and so nothing else is ever deleted.
    fn list(&self) -> io::Result<Vec<Dated>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Some(dated) = entry.file_name().to_str().and_then(|name| self.parse(name))
            {
                found.push(dated);
            }
        }
        Ok(found)
    }

    fn parse(&self, name: &str) -> Option<Dated> {
        let middle = name.strip_prefix(&self.stem)?.strip_suffix(&self.extension)?;
        let (date, number) = match middle.split_once('_') {
            Some((date, number)) => (date, number.parse().ok().filter(|number| *number > 0)?),
            None => (middle, 0),
        };
        if date.len() != 8 || !date.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let month = Month::try_from(date[4..6].parse::<u8>().ok()?).ok()?;
        let day = Date::from_calendar_date(date[..4].parse().ok()?, month, date[6..].parse().ok()?).ok()?;
        let dated = Dated { day, number };
        // `_1` and `_+1` are not names that we give.
        let ours = self.path(day, number);
        (ours.file_name()?.to_str()? == name).then_some(dated)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use time::macros::datetime;

    use super::*;

    /// A directory of one test, removed at its end.
    struct Dir(PathBuf);

    impl Dir {
        fn new() -> Dir {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path =
                std::env::temp_dir().join(format!("octoporty-rolling-{}-{number}", std::process::id()));
            fs::create_dir(&path).expect("a fresh directory");
            Dir(path)
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).expect("there");
            let name = |entry: io::Result<fs::DirEntry>| entry.expect("read").file_name().into_string();
            let mut names: Vec<String> = entries.map(|entry| name(entry).expect("UTF-8")).collect();
            names.sort();
            names
        }

        fn rolling(&self, size_limit: u64, retained: usize) -> Rolling {
            let file = LogFile { path: self.0.join("agent-.log"), explicit: true };
            Rolling::new(&file, size_limit, retained)
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.0.join(name)).expect(name)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const DAY: OffsetDateTime = datetime!(2026-01-31 23:59:59 UTC);
    const NEXT_DAY: OffsetDateTime = datetime!(2026-02-01 00:00:00 UTC);

    fn push(rolling: &mut Rolling, local: OffsetDateTime, text: &str, now: Instant) -> Option<Change> {
        rolling.push(local, Level::Information, text, now)
    }

    #[test]
    fn each_day_has_its_file() {
        let dir = Dir::new();
        let now = Instant::now();
        let mut rolling = dir.rolling(1000, 30);
        assert_eq!(rolling.open(DAY, now), None);
        assert_eq!(push(&mut rolling, DAY, "old", now), None);
        assert_eq!(push(&mut rolling, NEXT_DAY, "new", now), None);
        // A clock set back does not go back to the old file.
        assert_eq!(push(&mut rolling, DAY, "late", now), None);
        assert_eq!(rolling.flush(now), None);
        assert_eq!(dir.names(), ["agent-20260131.log", "agent-20260201.log"]);
        assert_eq!(dir.read("agent-20260131.log"), "2026-01-31 23:59:59.000 +00:00 [INF] old\n");
        let new = "2026-02-01 00:00:00.000 +00:00 [INF] new\n2026-01-31 23:59:59.000 +00:00 [INF] late\n";
        assert_eq!(dir.read("agent-20260201.log"), new);
    }

    #[test]
    fn a_full_file_is_continued_in_a_numbered_one_also_after_a_restart() {
        let dir = Dir::new();
        let now = Instant::now();
        let line = "2026-01-31 23:59:59.000 +00:00 [INF] 1\n".len() as u64;
        for start in 0..3 {
            let mut rolling = dir.rolling(2 * line, 30);
            assert_eq!(rolling.open(DAY, now), None);
            for number in 0..3 {
                assert_eq!(push(&mut rolling, DAY, &format!("{}", start * 3 + number), now), None);
            }
            assert_eq!(rolling.flush(now), None);
        }
        let names = [
            "agent-20260131.log",
            "agent-20260131_001.log",
            "agent-20260131_002.log",
            "agent-20260131_003.log",
        ];
        assert_eq!(dir.names(), [&names[..], &["agent-20260131_004.log"]].concat());
        for name in names {
            assert_eq!(dir.read(name).len() as u64, 2 * line, "{name}");
        }
        let texts: Vec<_> =
            dir.rolling(1, 1).tail(100).into_iter().map(|old| old.text.into_string()).collect();
        assert_eq!(texts, (0..9).map(|number| number.to_string()).collect::<Vec<_>>());
    }

    #[test]
    fn only_our_oldest_files_are_deleted() {
        let dir = Dir::new();
        let others = [
            "agent-.log",
            "agent-20260199.log",
            "agent-2026013.log",
            "agent-20260101_1.log",
            "gateway-20260101.log",
        ];
        let old =
            ["agent-20251231.log", "agent-20260102.log", "agent-20260102_001.log", "agent-20260102_002.log"];
        for name in others.iter().chain(&old) {
            fs::write(dir.0.join(name), "x").expect("written");
        }
        let mut rolling = dir.rolling(1000, 2);
        assert_eq!(rolling.open(DAY, Instant::now()), None);
        let mut left: Vec<&str> = others.to_vec();
        left.extend(["agent-20260102_002.log", "agent-20260131.log"]);
        left.sort_unstable();
        assert_eq!(dir.names(), left);
    }

    #[test]
    fn a_directory_that_is_no_directory_is_said_once_and_tried_again_later() {
        let dir = Dir::new();
        let blocked = dir.0.join("log");
        fs::write(&blocked, "in the way").expect("written");
        let file = LogFile { path: blocked.join("agent-.log"), explicit: true };
        let mut rolling = Rolling::new(&file, 1000, 30);
        let now = Instant::now();
        let Some(change @ Change::Failed(..)) = rolling.open(DAY, now) else { panic!("not said") };
        let (level, text) = change.describe();
        assert_eq!(level, Level::Warning);
        assert!(text.contains(&blocked.display().to_string()), "{text}");
        assert_eq!(push(&mut rolling, DAY, "lost", now), None);
        assert_eq!(push(&mut rolling, DAY, "lost too", now + RETRY), None);
        fs::remove_file(&blocked).expect("removed");
        assert_eq!(push(&mut rolling, DAY, "too early to try", now + RETRY), None);
        let back = push(&mut rolling, DAY, "back", now + 2 * RETRY);
        assert_eq!(back, Some(Change::Recovered(blocked.join("agent-20260131.log"), 3)));
        assert_eq!(rolling.flush(now + 2 * RETRY), None);
        let text = fs::read_to_string(blocked.join("agent-20260131.log")).expect("written");
        assert_eq!(text, "2026-01-31 23:59:59.000 +00:00 [INF] back\n");
    }

    #[test]
    fn a_default_that_cannot_be_written_is_said_once_and_not_tried_again() {
        let file = LogFile { path: "/proc/none/agent-.log".into(), explicit: false };
        let mut rolling = Rolling::new(&file, 1000, 30);
        let now = Instant::now();
        let Some(change @ Change::NoDefault(..)) = rolling.open(DAY, now) else { panic!("not said") };
        assert_eq!(change.describe().0, Level::Warning);
        assert_eq!(push(&mut rolling, DAY, "x", now + 2 * RETRY), None);
        assert_eq!(rolling.flush(now), None);
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_anew() {
        let dir = Dir::new();
        let now = Instant::now();
        let mut rolling = dir.rolling(1000, 30);
        assert_eq!(rolling.open(DAY, now), None);
        fs::rename(dir.0.join("agent-20260131.log"), dir.0.join("taken")).expect("moved");
        assert_eq!(push(&mut rolling, DAY, "x", now + LOOK), None);
        assert_eq!(rolling.flush(now + LOOK), None);
        assert_eq!(dir.read("taken"), "");
        assert!(dir.read("agent-20260131.log").ends_with("[INF] x\n"));
    }

    #[test]
    fn a_full_disk_loses_lines_and_counts_them() {
        let dir = Dir::new();
        let now = Instant::now();
        let mut rolling = dir.rolling(1000, 30);
        assert_eq!(rolling.open(DAY, now), None);
        let full = OpenOptions::new().write(true).open("/dev/full").expect("a full device");
        rolling.open.as_mut().expect("open").file = full;
        assert_eq!(push(&mut rolling, DAY, "one", now), None);
        assert_eq!(push(&mut rolling, DAY, "two", now), None);
        assert!(matches!(rolling.flush(now), Some(Change::Failed(..))));
        assert_eq!(push(&mut rolling, DAY, "three", now), None);
        let back = push(&mut rolling, DAY, "four", now + RETRY);
        assert_eq!(back, Some(Change::Recovered(dir.0.join("agent-20260131.log"), 3)));
        assert_eq!(rolling.flush(now), None);
        assert!(dir.read("agent-20260131.log").ends_with("[INF] four\n"));
    }

    #[test]
    fn a_new_day_without_a_directory_loses_lines_and_counts_them() {
        let dir = Dir::new();
        let logs = dir.0.join("logs");
        let file = LogFile { path: logs.join("agent-.log"), explicit: true };
        let mut rolling = Rolling::new(&file, 1000, 30);
        let now = Instant::now();
        assert_eq!(rolling.open(DAY, now), None);
        assert_eq!(push(&mut rolling, DAY, "written", now), None);
        fs::rename(&logs, dir.0.join("moved")).expect("moved");
        fs::write(&logs, "in the way").expect("written");
        assert!(matches!(push(&mut rolling, NEXT_DAY, "lost", now), Some(Change::Failed(..))));
        assert!(dir.read("moved/agent-20260131.log").ends_with("[INF] written\n"));
        fs::remove_file(&logs).expect("removed");
        let back = push(&mut rolling, NEXT_DAY, "back", now + RETRY);
        assert_eq!(back, Some(Change::Recovered(logs.join("agent-20260201.log"), 1)));
    }

    #[test]
    fn the_tail_begins_with_a_whole_line() {
        let dir = Dir::new();
        let line = |n: u32| format!("2026-01-31 23:59:59.000 +00:00 [WRN] line {n:04}\n");
        fs::write(dir.0.join("agent-20260130.log"), format!("{}   at Some.Where\n\n", line(1)))
            .expect("written");
        fs::write(dir.0.join("agent-20260131.log"), [line(2), line(3), line(4)].concat()).expect("written");
        let texts = |count| -> Vec<String> {
            dir.rolling(1000, 30).tail(count).into_iter().map(|old| old.text.into_string()).collect()
        };
        assert_eq!(texts(10), ["line 0001", "   at Some.Where", "line 0002", "line 0003", "line 0004"]);
        assert_eq!(texts(2), ["line 0003", "line 0004"]);
        let path = dir.0.join("agent-20260131.log");
        let length = line(2).len() as u64;
        for (budget, first) in [(2 * length, line(3)), (2 * length - 1, line(4)), (3 * length, line(2))] {
            let mut left = budget;
            assert!(read_tail(&path, &mut left).expect("read").starts_with(&first), "{budget}");
        }
    }
}
