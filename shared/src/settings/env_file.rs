//! Writing an env file that everybody reads alike, and putting files in place without ever half writing one.
//!
//! Who reads such a file, and what each makes of a value:
//!
//! | reader | `$` | quotes | ` #` |
//! |---|---|---|---|
//! | `--env-file` of ours | literal | removed; `'…'` literal, `"…"` knows `\"`, `\\`, `\$`, `\n` | comment |
//! | systemd `EnvironmentFile=` | literal | removed; `'…'` literal, `"…"` knows `\"`, `\\`, `\$` | literal |
//! | compose `.env` and `env_file:` | **expanded**, except in `'…'` | removed | comment |
//! | `docker run --env-file` | literal | **part of the value** | literal |
//! | a shell (`. file`) | **expanded**, except in `'…'` | removed | comment |
//!
//! So a value of harmless characters stands as it is, and anything else in single quotes; only what cannot stand
//! there (a single quote, a backslash) is put in double quotes with backslashes. `docker run` then hands the quotes
//! on: values that are no secrets, and the password hash, which always needs them, are therefore accepted with them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::{fmt, process};

/// Rights of a file with secrets.
pub const PRIVATE: u32 = 0o600;
/// Rights of a file that anybody may read.
pub const PUBLIC: u32 = 0o644;

/// A file in the making.
#[derive(Debug, Default)]
pub struct EnvFile(String);

impl EnvFile {
    /// An empty one.
    pub fn new() -> EnvFile {
        EnvFile::default()
    }

    /// Comment lines.
    pub fn comment(&mut self, text: &str) {
        for line in text.lines() {
            self.0.push_str("# ");
            self.0.push_str(line);
            self.0.push('\n');
        }
    }

    /// An empty line.
    pub fn gap(&mut self) {
        self.0.push('\n');
    }

    /// A setting. Refuses a value that no line can hold.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let value =
            quoted(value).ok_or_else(|| format!("{key}: a value of one line has no control characters"))?;
        self.0.push_str(&format!("{key}={value}\n"));
        Ok(())
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// The value as it stands in the file; `None` when it has a control character.
pub fn quoted(value: &str) -> Option<String> {
    if value.chars().any(|c| c.is_control() && c != '\t') {
        return None;
    }
    let harmless = |c: char| c.is_ascii_alphanumeric() || "_./:,=@%+-".contains(c);
    if value.chars().all(harmless) {
        return Some(value.to_owned());
    }
    // Compose takes `\'` in single quotes for a quote, and older versions of systemd a backslash for an escape.
    if !value.contains(['\'', '\\']) {
        return Some(format!("'{value}'"));
    }
    let mut text = String::from('"');
    for c in value.chars() {
        if matches!(c, '"' | '\\' | '$') {
            text.push('\\');
        }
        text.push(c);
    }
    text.push('"');
    Some(text)
}

/// Why a file was not put in place.
#[derive(Debug)]
pub enum PutFault {
    /// There is one already.
    Exists(PathBuf),
    /// The system; at which file.
    Io(PathBuf, io::Error),
    /// What was to be put there is not right.
    Refused(String),
}

impl fmt::Display for PutFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PutFault::Exists(path) => {
                write!(f, "{} exists; --force replaces it and keeps the old one beside it", path.display())
            }
            PutFault::Io(path, e) => write!(f, "{}: {e}", path.display()),
            PutFault::Refused(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for PutFault {}

/// A file that is there under another name until it is put in place; removed if that never happens.
#[derive(Debug)]
pub struct Prepared {
    path: PathBuf,
    temporary: PathBuf,
}

impl Prepared {
    /// Writes `content` beside `path`, with these rights, on the disk when this returns. Fails at once when `path`
    /// exists and may not be replaced.
    pub fn new(path: &Path, content: &[u8], mode: u32, replace: bool) -> Result<Prepared, PutFault> {
        if !replace && path.symlink_metadata().is_ok() {
            return Err(PutFault::Exists(path.to_owned()));
        }
        let name = path.file_name().ok_or_else(|| {
            PutFault::Io(path.to_owned(), io::Error::new(io::ErrorKind::InvalidInput, "names no file"))
        })?;
        let mut temporary = name.to_owned();
        temporary.push(format!(".{}.tmp", process::id()));
        let prepared = Prepared { path: path.to_owned(), temporary: path.with_file_name(temporary) };
        let write = || -> io::Result<()> {
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(mode).open(&prepared.temporary)?;
            file.write_all(content)?;
            file.sync_all()
        };
        write().map_err(|e| PutFault::Io(path.to_owned(), e))?;
        Ok(prepared)
    }

    /// Where it is until then: for whoever checks it.
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Puts it in place in one step. What was there is kept as `PATH.old`, and its place returned. Without `replace`
    /// a file that has come into being meanwhile is not touched.
    pub fn put(self, replace: bool) -> Result<Option<PathBuf>, PutFault> {
        let io = |e| PutFault::Io(self.path.clone(), e);
        let mut kept = None;
        if replace {
            if self.path.symlink_metadata().is_ok() {
                let mut name = self.path.file_name().unwrap_or_default().to_owned();
                name.push(".old");
                let old = self.path.with_file_name(name);
                fs::rename(&self.path, &old).map_err(io)?;
                kept = Some(old);
            }
            fs::rename(&self.temporary, &self.path).map_err(io)?;
        } else {
            match fs::hard_link(&self.temporary, &self.path) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(PutFault::Exists(self.path.clone()));
                }
                // Some file systems have no links (FAT, some network shares).
                Err(_) => fs::rename(&self.temporary, &self.path).map_err(io)?,
            }
        }
        // The directory, so that the name survives a power cut; not every file system lets it be opened.
        let directory = self.path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if let Ok(directory) = File::open(directory) {
            directory.sync_all().map_err(io)?;
        }
        Ok(kept)
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        // It has been renamed, or is of no use any more.
        let _ = fs::remove_file(&self.temporary);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;
    use std::sync::atomic::{AtomicU32, Ordering};

    use proptest::prelude::*;

    use super::super::source::read_env_text;
    use super::*;

    const HASH: &str = "$6$rounds=50000$abc./XYZ01234567$yVfUwsw5T.JApa8POvClA1pQ5peiq97DUNyXCZN5IrF.BMSkiaLQ5kvpuEm/VQ1Tvh/KV2TcaWh8qinoW5dhA1";

    /// `EnvironmentFile=` of systemd, by its manual: quotes are removed, backslashes escape outside single quotes,
    /// nothing is expanded.
    fn systemd(value: &str) -> String {
        let mut out = String::new();
        let mut chars = value.chars();
        let quote = chars.next().filter(|c| matches!(c, '\'' | '"'));
        let mut chars = if quote.is_some() { chars } else { value.chars() };
        while let Some(c) = chars.next() {
            match (quote, c) {
                (Some(quote), c) if c == quote => break,
                (Some('\''), c) => out.push(c),
                (Some(_), '\\') => match chars.next() {
                    Some(c @ ('"' | '\\' | '`' | '$')) => out.push(c),
                    Some(c) => out.extend(['\\', c]),
                    None => {}
                },
                (None, '\\') => out.extend(chars.next()),
                (_, c) => out.push(c),
            }
        }
        if quote.is_none() { out.trim_end().to_owned() } else { out }
    }

    /// Compose's `.env` and `env_file:`, by its documentation: single quotes are literal, elsewhere variables are
    /// expanded, and ` #` begins a comment outside quotes. None of the variables is set here.
    fn compose(value: &str) -> String {
        if let Some(rest) = value.strip_prefix('\'') {
            return rest.split_once('\'').expect("a closing quote").0.to_owned();
        }
        let double = value.starts_with('"');
        let text =
            if double { &value[1..value.len() - 1] } else { value.split('#').next().unwrap_or_default() };
        let mut out = String::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\\' if double => out.extend(chars.next()),
                '$' => while chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_').is_some() {},
                c => out.push(c),
            }
        }
        if double { out } else { out.trim_end().to_owned() }
    }

    /// `docker run --env-file`: everything after the first `=` is the value.
    fn docker_run(value: &str) -> String {
        value.to_owned()
    }

    fn ours(line: &str) -> String {
        let read = read_env_text(line);
        let [(name, value)] = read.as_slice() else { panic!("{line:?}: {read:?}") };
        assert_eq!(name, "KEY");
        value.clone()
    }

    fn written(value: &str) -> String {
        let mut file = EnvFile::new();
        file.set("KEY", value).expect("one line");
        file.text().trim_end_matches('\n').to_owned()
    }

    #[test]
    fn a_password_hash_is_read_alike_by_everybody() {
        let line = written(HASH);
        assert_eq!(line, format!("KEY='{HASH}'"));
        let value = line.strip_prefix("KEY=").expect("the key");
        assert_eq!(ours(&line), HASH);
        assert_eq!(systemd(value), HASH);
        assert_eq!(compose(value), HASH);
        // The Agent takes these quotes off again.
        assert_eq!(docker_run(value), format!("'{HASH}'"));
    }

    #[test]
    fn what_init_writes_needs_no_quotes_and_is_read_alike_by_everybody() {
        for value in
            ["gateway.example.com", "abcDEF012+/=", "wss://gateway.example.com:8443/tunnel", "17201", ""]
        {
            let line = written(value);
            assert_eq!(line, format!("KEY={value}"));
            for read in [ours(&line), systemd(value), compose(value), docker_run(value)] {
                assert_eq!(read, value);
            }
        }
    }

    #[test]
    fn a_shell_reads_the_same() {
        for value in [
            HASH,
            "plain",
            "Data Source=/srv/my data/octoporty.db",
            "~",
            "a'b\"c$HOME`id`\\ #d",
            "$(id)",
            "a b",
            " x ",
        ] {
            let line = written(value);
            // In double quotes a shell expands backquotes, which nobody else does: such a value is for others.
            if value.contains('`') {
                continue;
            }
            let script = format!("{line}\nprintf %s \"$KEY\"");
            let output = Command::new("sh").arg("-c").arg(&script).output().expect("a shell");
            assert_eq!(String::from_utf8_lossy(&output.stdout), value, "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_value_survives_being_written_and_read(value in "[^\\p{Cc}]{0,60}") {
            let line = written(&value);
            prop_assert_eq!(ours(&line), value.as_str());
        }

        #[test]
        fn any_visible_value_is_read_alike_by_systemd(value in "[ -~]{0,60}") {
            let line = written(&value);
            let text = line.strip_prefix("KEY=").expect("the key");
            prop_assert_eq!(systemd(text), value.as_str());
        }

        #[test]
        fn any_visible_value_is_read_alike_by_compose(value in "[ -~]{0,60}") {
            let line = written(&value);
            let text = line.strip_prefix("KEY=").expect("the key");
            prop_assert_eq!(compose(text), value.as_str());
        }

        #[test]
        fn any_password_hash_is_read_alike(
            rounds in 1000..999_999_999_u32,
            salt in "[./0-9A-Za-z]{1,16}",
            hash in "[./0-9A-Za-z]{86}",
        ) {
            let value = format!("$6$rounds={rounds}${salt}${hash}");
            let line = written(&value);
            let text = line.strip_prefix("KEY=").expect("the key");
            for read in [ours(&line), systemd(text), compose(text)] {
                prop_assert_eq!(read, value.as_str());
            }
            let quoted = format!("'{value}'");
            prop_assert_eq!(docker_run(text), quoted);
        }
    }

    #[test]
    fn a_value_of_several_lines_is_refused() {
        for value in ["a\nb", "a\r", "\0"] {
            assert!(EnvFile::new().set("KEY", value).is_err(), "{value:?}");
        }
    }

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Folder {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let name = format!("octoporty-put-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).expect("a folder");
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_is_put_in_place_with_its_rights_and_nothing_else_is_left() {
        let folder = Folder::new();
        let path = folder.0.join("agent.env");
        let prepared = Prepared::new(&path, b"secret", PRIVATE, false).expect("prepared");
        assert!(!path.exists() && prepared.temporary().exists());
        assert_eq!(prepared.put(false).expect("put"), None);
        assert_eq!(fs::read(&path).expect("the file"), b"secret");
        assert_eq!(fs::metadata(&path).expect("the file").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&folder.0).expect("the folder").count(), 1);
    }

    #[test]
    fn a_file_that_is_there_is_replaced_only_by_force_and_kept() {
        let folder = Folder::new();
        let path = folder.0.join("agent.env");
        // It may come into being between the two steps.
        let prepared = Prepared::new(&path, b"new", PRIVATE, false).expect("prepared");
        fs::write(&path, "old").expect("written");
        assert!(matches!(prepared.put(false), Err(PutFault::Exists(_))));
        assert!(matches!(Prepared::new(&path, b"new", PRIVATE, false), Err(PutFault::Exists(_))));
        assert_eq!(fs::read(&path).expect("the file"), b"old");

        let kept = Prepared::new(&path, b"new", PRIVATE, true).expect("prepared").put(true).expect("put");
        assert_eq!(fs::read(&path).expect("the file"), b"new");
        assert_eq!(fs::read(kept.expect("the old one")).expect("the old one"), b"old");
        assert_eq!(fs::read_dir(&folder.0).expect("the folder").count(), 2);
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let folder = Folder::new();
        let path = folder.0.join("no/agent.env");
        let fault = Prepared::new(&path, b"", PRIVATE, false).expect_err("no folder");
        assert!(fault.to_string().starts_with(&path.display().to_string()), "{fault}");
    }
}
