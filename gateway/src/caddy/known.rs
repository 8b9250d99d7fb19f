//! Host names that were published lately, in a small file, so that a restarted Gateway knows what it served while its
//! Agents are still dialling: it refuses these names neither to Caddy nor to visitors.
//!
//! Names, the hour they were last seen, and marks of the Agents that published them; nothing else. Losing the file is
//! harmless. A name is forgotten seven days after it was last seen, and at once when its Agent, being back, does
//! not publish it. The Gateway's own names are in it too, so that a wildcard does not take them meanwhile.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use shared::hostname::Hostname;

use super::Table;

/// Name of the file in the state directory.
pub(crate) const FILE: &str = "known-hosts";
/// Seconds for which a name is remembered.
const KEEP: u64 = 7 * 24 * 3600;
/// Seconds after which the file is written again although no name has changed, so that it does not grow old.
const REFRESH: u64 = 6 * 3600;
/// Most names in the file.
const MAX_NAMES: usize = 100_000;
/// Most Agents remembered for one name.
const MAX_AGENTS: usize = 64;
/// Largest file that is read.
const MAX_FILE: u64 = 32 << 20;
/// Stands before a name of the Gateway's own in the file.
const OWN: char = '=';

/// The names.
#[derive(Debug, Default)]
pub(crate) struct Known {
    path: Option<PathBuf>,
    names: Names,
    written_at: u64,
    /// Said once that the file cannot be written.
    complained: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Names {
    published: HashMap<String, Entry>,
    /// Names by which Agents call the Gateway itself.
    own: HashMap<String, Entry>,
}

/// One name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Entry {
    /// When it was last seen, in seconds since 1970.
    seen: u64,
    /// Marks of the Agents that publish it; none in a file of an earlier version.
    agents: BTreeSet<String>,
}

/// Text for the file; written by [`write`](Unwritten::write), which may wait for the disk.
#[derive(Debug)]
pub(crate) struct Unwritten {
    path: PathBuf,
    text: String,
}

impl Known {
    /// Reads the file, if there is one.
    pub(crate) fn load(directory: Option<&Path>) -> Known {
        let Some(directory) = directory else { return Known::default() };
        let path = directory.join(FILE);
        let names = match read(&path) {
            Ok(text) => parse(&text, now()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Names::default(),
            Err(e) => {
                log::warn!("{}: {e}; published names are learned anew", path.display());
                Names::default()
            }
        };
        Known { path: Some(path), names, ..Known::default() }
    }

    /// Whether a name is remembered, exactly or by a wildcard, of an Agent that has not sent its table: it may come and
    /// publish it. `told` says whether the one with this [`mark`] has, or (`None`) whether any Agent has.
    pub(crate) fn awaits(&self, name: &str, told: impl Fn(Option<&str>) -> bool) -> bool {
        let waits = |names: &HashMap<String, Entry>, name: &str| {
            names.get(name).is_some_and(|entry| entry.waits(&told))
        };
        if waits(&self.names.own, name) {
            return false;
        }
        let published = &self.names.published;
        waits(published, name)
            || name.split_once('.').is_some_and(|(_, parent)| waits(published, &format!("*.{parent}")))
    }

    /// Whether a name, as it stands in a table, is in the file or has been published: it is not new.
    pub(crate) fn is_old(&self, name: &str) -> bool {
        self.names.published.contains_key(name)
    }

    /// Remembered names of Agents that have not sent their table.
    pub(crate) fn waiting(&self, told: impl Fn(Option<&str>) -> bool) -> HashSet<String> {
        let waiting = self.names.published.iter().filter(|(_, entry)| entry.waits(&told));
        waiting.map(|(name, _)| name.clone()).collect()
    }

    /// This is what Agents publish that have sent a table. Gives what must be written: the names have changed, or the file
    /// has grown old.
    pub(crate) fn publish(&mut self, tables: &[Table]) -> Option<Unwritten> {
        self.publish_at(tables, now())
    }

    fn publish_at(&mut self, tables: &[Table], now: u64) -> Option<Unwritten> {
        let names = |table: &Table| table.rows.iter().map(|(_, host)| host.as_str().to_owned()).collect();
        let mut changed = update(&mut self.names.published, tables, names, now);
        let own = |table: &Table| {
            table
                .own
                .iter()
                .filter_map(|host| Some(Hostname::parse(host).ok()?.as_str().to_owned()))
                .collect()
        };
        changed |= update(&mut self.names.own, tables, own, now);
        let old = !self.names.published.is_empty() && now.saturating_sub(self.written_at) > REFRESH;
        if !changed && !old {
            return None;
        }
        self.written_at = now;
        Some(Unwritten { path: self.path.clone()?, text: self.names.text() })
    }

    /// How writing went.
    pub(crate) fn wrote(&mut self, result: io::Result<()>) {
        let (Err(e), Some(path)) = (&result, &self.path) else {
            self.complained = false;
            return;
        };
        if !std::mem::replace(&mut self.complained, true) {
            log::warn!(
                "{}: {e}; after a restart Caddy is refused new certificates, and visitors get 404, until the Agents \
                 are back (set Gateway__StateDirectory)",
                path.display()
            );
        }
    }
}

impl Entry {
    fn waits(&self, told: impl Fn(Option<&str>) -> bool) -> bool {
        // Nobody knows whose it was: the first Agent decides.
        self.agents.is_empty() && !told(None) || self.agents.iter().any(|agent| !told(Some(agent)))
    }
}

/// Brings the entries up to what Agents say that have sent a table; the others' stay. Whether there is another name, or
/// another Agent for one.
fn update(
    entries: &mut HashMap<String, Entry>,
    tables: &[Table],
    names: impl Fn(&Table) -> HashSet<String>,
    now: u64,
) -> bool {
    let said: HashMap<String, HashSet<String>> =
        tables.iter().map(|table| (mark(&table.agent), names(table))).collect();
    let mut changed = false;
    entries.retain(|name, entry| {
        let before = entry.agents.len();
        entry.agents.retain(|agent| said.get(agent).is_none_or(|names| names.contains(name)));
        let taken_out = before > 0 && entry.agents.is_empty();
        changed |= entry.agents.len() != before;
        !taken_out && now.saturating_sub(entry.seen) < KEEP
    });
    let before = entries.len();
    for table in tables {
        let agent = mark(&table.agent);
        for name in said.get(&agent).into_iter().flatten() {
            let new = || Entry { seen: now, ..Entry::default() };
            let entry = entries.entry(name.clone()).or_insert_with(new);
            if table.lost.is_none() {
                entry.seen = now;
            }
            if !entry.agents.contains(&agent) && entry.agents.len() < MAX_AGENTS {
                changed = true;
                entry.agents.insert(agent.clone());
            }
        }
    }
    changed || entries.len() != before
}

/// Stands for an Agent in the file, so that its identity need not: the beginning of a digest of it.
pub(crate) fn mark(agent: &str) -> String {
    Sha256::digest(agent).iter().take(8).map(|b| format!("{b:02x}")).collect()
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

/// Lines of seconds, marks of Agents, and the name. What cannot be read is left out: it is a cache.
fn parse(text: &str, now: u64) -> Names {
    let mut names = Names::default();
    for line in text.lines().take(MAX_NAMES) {
        let mut words = line.split(' ');
        let (Some(seen), Some(name)) = (words.next(), words.next_back()) else { continue };
        let Ok(seen) = seen.parse::<u64>() else { continue };
        // A clock that was wrong then must not make a name live for ever.
        let seen = seen.min(now);
        let (own, name) = match name.strip_prefix(OWN) {
            Some(name) => (true, name),
            None => (false, name),
        };
        let Ok(name) = Hostname::parse(name) else { continue };
        let agents: BTreeSet<String> = words.take(MAX_AGENTS).map(str::to_owned).collect();
        if now - seen < KEEP {
            let kind = if own { &mut names.own } else { &mut names.published };
            kind.insert(name.as_str().to_owned(), Entry { seen, agents });
        }
    }
    names
}

impl Names {
    fn text(&self) -> String {
        let line = |own: &str, name: &str, entry: &Entry| {
            let agents: String = entry.agents.iter().map(|agent| format!(" {agent}")).collect();
            format!("{}{agents} {own}{name}\n", entry.seen)
        };
        let own = self.own.iter().map(|(name, entry)| line(&OWN.to_string(), name, entry));
        let published = self.published.iter().map(|(name, entry)| line("", name, entry));
        let mut lines: Vec<_> = own.chain(published).take(MAX_NAMES).collect();
        lines.sort();
        lines.concat()
    }
}

impl Unwritten {
    /// Puts the file in its place.
    pub(crate) fn write(&self) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(self.text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use shared::mapping::MappingId;

    use super::*;

    const NOW: u64 = 10_000_000;

    fn table(agent: &str, names: &[&str]) -> Table {
        let id = MappingId::from_random([7; 16]);
        let rows = names.iter().map(|name| (id, Hostname::parse(name).expect("a name"))).collect();
        Table { agent: agent.into(), rows, own: vec!["gateway.w.test".into()], lost: None }
    }

    /// As a Gateway that has just been started knows them.
    fn restarted(tables: &[Table]) -> Known {
        let mut known = Known::default();
        known.publish_at(tables, NOW);
        Known { names: parse(&known.names.text(), NOW), ..Known::default() }
    }

    fn nobody(_: Option<&str>) -> bool {
        false
    }

    fn only(agent: &str) -> impl Fn(Option<&str>) -> bool + use<> {
        let agent = mark(agent);
        move |asked| asked.is_none_or(|asked| asked == agent)
    }

    #[test]
    fn a_remembered_name_counts_until_its_agent_speaks() {
        let mut known =
            restarted(&[table("one", &["a.test", "both.test"]), table("two", &["*.w.test", "both.test"])]);
        for name in ["a.test", "x.w.test", "*.w.test", "both.test"] {
            assert!(known.awaits(name, nobody), "{name}");
        }
        for name in ["w.test", "x.y.w.test", "b.test", "gateway.w.test"] {
            assert!(!known.awaits(name, nobody), "{name}");
        }
        assert!(!known.awaits("a.test", only("one")), "the table decides now");
        assert!(known.awaits("both.test", only("one")), "the other has not spoken yet");
        assert_eq!(known.waiting(only("two")), HashSet::from(["a.test".into(), "both.test".into()]));
        known.publish_at(&[table("one", &["both.test"])], NOW);
        assert!(!known.is_old("a.test"), "taken out while the Gateway was away");
        assert!(!known.awaits("a.test", nobody));
        assert!(known.is_old("both.test") && known.awaits("x.w.test", only("one")));
        known.publish_at(&[table("one", &[]), table("two", &[])], NOW);
        assert!(known.names.published.is_empty());
    }

    #[test]
    fn a_file_of_an_earlier_version_holds_until_the_first_agent_speaks() {
        let mut known = Known { names: parse("9999999 a.test\n9999999 b.test\n", NOW), ..Known::default() };
        assert!(known.awaits("a.test", nobody) && !known.awaits("a.test", only("one")));
        known.publish_at(&[table("one", &["a.test"])], NOW);
        assert!(
            known.awaits("a.test", nobody) && !known.awaits("a.test", only("one")),
            "it has an Agent now"
        );
    }

    #[test]
    fn a_name_lives_seven_days() {
        let text = format!(
            "{} old.test\n{} x young.test\nnonsense\n{} x {} future.test\n1 _/x\n{NOW} x =own.test\n",
            NOW - KEEP,
            NOW - KEEP + 1,
            NOW + 5,
            mark("one")
        );
        let names = parse(&text, NOW);
        let mut published: Vec<_> = names.published.iter().map(|(name, e)| (name.as_str(), e.seen)).collect();
        published.sort_unstable();
        assert_eq!(published, [("future.test", NOW), ("young.test", NOW - KEEP + 1)]);
        assert_eq!(names.published["future.test"].agents.len(), 2);
        assert_eq!(parse(&names.text(), NOW), names, "there and back");
        let mut known = Known { names, ..Known::default() };
        let away = Table { lost: Some(1), ..table("one", &["future.test"]) };
        known.publish_at(std::slice::from_ref(&away), NOW + 1);
        assert_eq!(known.names.published["future.test"].seen, NOW, "its Agent is away");
        known.publish_at(&[table("one", &["future.test"])], NOW + 2);
        assert_eq!(known.names.published["future.test"].seen, NOW + 2);
    }

    #[test]
    fn it_is_written_when_something_has_changed_or_the_file_is_old() {
        let mut known = Known { path: Some("/x/known-hosts".into()), ..Known::default() };
        let tables = [table("one", &["a.test"])];
        assert_eq!(
            known.publish_at(&tables, NOW).expect("new").text,
            format!("{NOW} {mark} =gateway.w.test\n{NOW} {mark} a.test\n", mark = mark("one"))
        );
        assert!(known.publish_at(&tables, NOW + REFRESH).is_none());
        assert!(known.publish_at(&tables, NOW + REFRESH + 1).is_some());
        let tables = [table("one", &["a.test"]), table("two", &["a.test"])];
        assert!(known.publish_at(&tables, NOW + REFRESH + 1).is_some(), "another Agent has it too");
        assert!(known.publish_at(&tables[1..], NOW + REFRESH + 1).is_none(), "the first is only away");
    }

    #[test]
    fn the_file_survives_and_its_loss_does_no_harm() {
        let folder = std::env::temp_dir().join(format!("octoporty-known-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let mut known = Known::load(Some(&folder));
        let unwritten = known.publish(&[table("one", &["b.test", "a.test"])]).expect("something new");
        known.wrote(unwritten.write());
        let again = Known::load(Some(&folder));
        assert!(again.awaits("a.test", nobody) && again.awaits("b.test", nobody));
        fs::write(folder.join(FILE), [0xff, 0xfe]).expect("a file");
        assert!(Known::load(Some(&folder)).names.published.is_empty());
        fs::remove_dir_all(&folder).expect("gone");
        // Cannot be written: said, and nothing else happens.
        let unwritten = known.publish(&[table("one", &["c.test"])]).expect("something new");
        known.wrote(unwritten.write());
        assert!(known.complained && known.is_old("c.test"));
    }
}
