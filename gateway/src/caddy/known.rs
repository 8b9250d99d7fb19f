//! Host names that were published lately, in a small file, so that a restarted Gateway need not refuse them to Caddy
//! while its Agents are still dialling.
//!
//! Names and the hour they were last seen, nothing else. Losing the file is harmless. A name is forgotten seven days
//! after it was last seen, and at once when its Agent takes it out of its table.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use shared::hostname::Hostname;

/// Name of the file in the state directory.
pub(crate) const FILE: &str = "known-hosts";
/// Seconds for which a name is remembered.
const KEEP: u64 = 7 * 24 * 3600;
/// Seconds after which the file is written again although no name has changed, so that it does not grow old.
const REFRESH: u64 = 6 * 3600;
/// Most names in the file.
const MAX_NAMES: usize = 100_000;
/// Largest file that is read.
const MAX_FILE: u64 = 32 << 20;

/// The names.
#[derive(Debug, Default)]
pub(crate) struct Known {
    path: Option<PathBuf>,
    /// When each was last seen, in seconds since 1970.
    names: HashMap<String, u64>,
    /// Those that an Agent has published since the Gateway started.
    claimed: HashSet<String>,
    written_at: u64,
    /// Said once that the file cannot be written.
    complained: bool,
}

impl Known {
    /// Reads the file, if there is one.
    pub(crate) fn load(directory: Option<&Path>) -> Known {
        let Some(directory) = directory else { return Known::default() };
        let path = directory.join(FILE);
        let names = match read(&path) {
            Ok(text) => parse(&text, now()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => HashMap::new(),
            Err(e) => {
                log::warn!("{}: {e}; published names are learned anew", path.display());
                HashMap::new()
            }
        };
        Known { path: Some(path), names, ..Known::default() }
    }

    /// Whether a name is remembered from before the Gateway was started, exactly or by a wildcard.
    pub(crate) fn has(&self, name: &str) -> bool {
        let waits = |name: &str| self.names.contains_key(name) && !self.claimed.contains(name);
        waits(name) || name.split_once('.').is_some_and(|(_, parent)| waits(&format!("*.{parent}")))
    }

    /// Whether a name, as it stands in a table, is in the file or has been published: it is not new.
    pub(crate) fn is_old(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// Remembered names that no Agent has published since the start.
    pub(crate) fn waiting(&self) -> HashSet<String> {
        self.names.keys().filter(|name| !self.claimed.contains(*name)).cloned().collect()
    }

    /// These names are published now. Writes the file when it has changed or grown old.
    pub(crate) fn publish<'n>(&mut self, published: impl Iterator<Item = &'n str>) {
        let now = now();
        let published: HashSet<&str> = published.collect();
        let claimed = &self.claimed;
        let before = self.names.len();
        self.names.retain(|name, seen| {
            let taken_out = claimed.contains(name) && !published.contains(name.as_str());
            !taken_out && (published.contains(name.as_str()) || now.saturating_sub(*seen) < KEEP)
        });
        let mut changed = self.names.len() != before;
        self.claimed.retain(|name| published.contains(name.as_str()));
        for name in published {
            if !self.claimed.contains(name) {
                self.claimed.insert(name.to_owned());
            }
            changed |= !self.names.contains_key(name);
            self.names.insert(name.to_owned(), now);
        }
        if changed || (!self.names.is_empty() && now.saturating_sub(self.written_at) > REFRESH) {
            self.written_at = now;
            self.write();
        }
    }

    fn write(&mut self) {
        let Some(path) = &self.path else { return };
        match write(path, &self.names) {
            Ok(()) => self.complained = false,
            Err(e) => {
                if !std::mem::replace(&mut self.complained, true) {
                    log::warn!(
                        "{}: {e}; after a restart Caddy is refused new certificates until the Agents are back \
                         (set Gateway__StateDirectory)",
                        path.display()
                    );
                }
            }
        }
    }
}

fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn read(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MAX_FILE {
        return Err(io::Error::other("too large to be ours"));
    }
    fs::read_to_string(path)
}

/// Lines of seconds and name. What cannot be read is left out: it is a cache.
fn parse(text: &str, now: u64) -> HashMap<String, u64> {
    let line = |line: &str| {
        let (seen, name) = line.split_once(' ')?;
        let seen: u64 = seen.parse().ok()?;
        // A clock that was wrong then must not make a name live for ever.
        let seen = seen.min(now);
        let name = Hostname::parse(name).ok()?.as_str().to_owned();
        (now - seen < KEEP).then_some((name, seen))
    };
    text.lines().take(MAX_NAMES).filter_map(line).collect()
}

fn write(path: &Path, names: &HashMap<String, u64>) -> io::Result<()> {
    let mut lines: Vec<_> =
        names.iter().take(MAX_NAMES).map(|(name, seen)| format!("{seen} {name}\n")).collect();
    lines.sort();
    let new = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(lines.concat().as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(names: &[&str], claimed: &[&str]) -> Known {
        let mut known = Known::default();
        known.publish(claimed.iter().copied());
        known.names.extend(names.iter().map(|name| ((*name).to_owned(), now())));
        known
    }

    #[test]
    fn a_remembered_name_counts_until_an_agent_speaks_for_it() {
        let mut known = known(&["a.test", "*.w.test"], &[]);
        assert!(known.has("a.test") && known.has("x.w.test") && known.has("*.w.test"));
        assert!(!known.has("w.test") && !known.has("x.y.w.test") && !known.has("b.test"));
        known.publish(["a.test"].into_iter());
        assert!(!known.has("a.test"), "the table decides now");
        assert!(known.is_old("a.test"));
        known.publish(std::iter::empty());
        assert!(!known.has("a.test") && !known.is_old("a.test"), "taken out of the table");
        assert!(known.has("x.w.test"), "its Agent has not spoken yet");
    }

    #[test]
    fn a_name_lives_seven_days() {
        let now = 10_000_000;
        let text = format!(
            "{} old.test\n{} young.test\nnonsense\n{} future.test\n1 _/x\n",
            now - KEEP,
            now - KEEP + 1,
            now + 5
        );
        let mut names: Vec<_> = parse(&text, now).into_iter().collect();
        names.sort();
        assert_eq!(names, [("future.test".to_owned(), now), ("young.test".to_owned(), now - KEEP + 1)]);
    }

    #[test]
    fn the_file_survives_and_its_loss_does_no_harm() {
        let folder = std::env::temp_dir().join(format!("octoporty-known-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let mut known = Known::load(Some(&folder));
        known.publish(["b.test", "a.test"].into_iter());
        let again = Known::load(Some(&folder));
        assert!(again.has("a.test") && again.has("b.test"));
        fs::write(folder.join(FILE), [0xff, 0xfe]).expect("a file");
        assert!(Known::load(Some(&folder)).names.is_empty());
        fs::remove_dir_all(&folder).expect("gone");
        // Cannot be written: said, and nothing else happens.
        known.publish(["c.test"].into_iter());
        assert!(known.complained && known.is_old("c.test"));
    }
}
