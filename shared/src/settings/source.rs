//! Where the texts of settings come from, and which one counts when there are several.
//!
//! ```text
//!   process environment  >  systemd credentials  >  --env-file        a source nearer to the process wins
//!   within one source:  KEY, KEY_FILE  >  aliases                     the key wins over its aliases
//!   the same name (or two aliases) with two different values: a fault  there is no telling which was meant
//! ```

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::{Daemon, Fault, MAX_VALUE, Reader, Setting, distance, nearest, obfuscate, shorten};

/// Largest env file; one with more in it is some other file.
const MAX_FILE: u64 = 1024 * 1024;
/// Where systemd puts the files of `LoadCredential=`.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";
/// What the earlier program was told its port with.
const ASPNET_URLS: &str = "ASPNETCORE_URLS";
/// `KEY_FILE` names a file that holds the value of `KEY`.
const FILE_SUFFIX: &str = "_FILE";

/// Where a text was found. In order of precedence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The environment of the process.
    Environment,
    /// A file in systemd's credentials directory.
    Credential,
    /// A line of the `--env-file`.
    EnvFile {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
}

impl Source {
    fn rank(&self) -> u8 {
        match self {
            Source::Environment => 0,
            Source::Credential => 1,
            Source::EnvFile { .. } => 2,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Environment => f.write_str("environment"),
            Source::Credential => f.write_str("systemd credential"),
            Source::EnvFile { path, line } => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// The text that counts for a setting.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) setting: &'static Setting,
    pub(super) text: String,
    /// The name as it was written.
    name: String,
    pub(super) source: Source,
    /// Whether the name is the key, or the key with `_FILE`.
    canonical: bool,
}

impl Found {
    pub(super) fn shown(&self) -> String {
        if self.setting.is_secret() { obfuscate(&self.text) } else { shorten(&self.text) }
    }

    pub(super) fn fault(&self, rule: String) -> Fault {
        let (value, source) = (Some(self.shown()), Some(self.source.clone()));
        Fault { name: self.name.clone(), value, source, rule }
    }
}

/// A name and value as found.
struct Given {
    name: String,
    value: Value,
    source: Source,
}

enum Value {
    Text(String),
    NotUtf8,
    /// To be read if the name turns out to be a setting.
    In(PathBuf),
}

/// Everything that was found, before any of it is understood.
#[derive(Default)]
pub(super) struct Sources {
    given: Vec<Given>,
    faults: Vec<Fault>,
    aspnet_urls: Option<String>,
    variables: Vec<String>,
}

impl Sources {
    /// Takes all variables; which of them matter is decided later. Names that are not UTF-8 cannot be ours.
    pub(super) fn add_environment(&mut self, variables: impl IntoIterator<Item = (OsString, OsString)>) {
        for (name, value) in variables {
            let Ok(name) = name.into_string() else { continue };
            self.variables.push(name.clone());
            let value = value.into_string();
            if name.eq_ignore_ascii_case(ASPNET_URLS) {
                self.aspnet_urls = value.ok();
                continue;
            }
            if name == CREDENTIALS {
                match value {
                    Ok(directory) if directory.is_empty() => {}
                    Ok(directory) => self.add_credentials(Path::new(&directory)),
                    Err(_) => self.refuse(&name, None, "is not UTF-8".into()),
                }
                continue;
            }
            let value = value.map_or(Value::NotUtf8, Value::Text);
            self.given.push(Given { name, value, source: Source::Environment });
        }
        // The environment has no order: faults and warnings should.
        self.given.sort_by(|a, b| a.name.cmp(&b.name));
    }

    fn add_credentials(&mut self, directory: &Path) {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) => {
                let shown = Some(shorten(&directory.display().to_string()));
                return self.refuse(CREDENTIALS, shown, format!("cannot be listed: {error}"));
            }
        };
        for entry in entries.flatten() {
            if let Ok(name) = entry.file_name().into_string() {
                self.given.push(Given { name, value: Value::In(entry.path()), source: Source::Credential });
            }
        }
    }

    /// Reads an env file. Its faults are collected with the others.
    pub(super) fn add_file(&mut self, path: &Path) {
        let shown = Some(shorten(&path.display().to_string()));
        let text = match read_limited(path, MAX_FILE) {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => text,
                Err(_) => return self.refuse("--env-file", shown, "is not UTF-8".into()),
            },
            Err(error) => return self.refuse("--env-file", shown, format!("cannot be read: {error}")),
        };
        // Editors of another system put a byte order mark first.
        for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let source = Source::EnvFile { path: path.to_owned(), line: index + 1 };
            match parse_line(line) {
                Ok(None) => {}
                Ok(Some((name, value))) => {
                    if name.eq_ignore_ascii_case(ASPNET_URLS) {
                        self.aspnet_urls.get_or_insert(value);
                    } else {
                        self.given.push(Given { name: name.to_owned(), value: Value::Text(value), source });
                    }
                }
                // The line is not shown: it may hold a secret.
                Err(rule) => {
                    self.faults.push(Fault {
                        name: source.to_string(),
                        value: None,
                        source: None,
                        rule: rule.into(),
                    });
                }
            }
        }
    }

    fn refuse(&mut self, name: &str, value: Option<String>, rule: String) {
        self.faults.push(Fault { name: name.to_owned(), value, source: None, rule });
    }

    /// Decides which text counts for which setting, and reports names that nobody knows.
    pub(super) fn resolve(self, daemon: &'static Daemon) -> Reader {
        let Sources { given, faults, aspnet_urls, variables } = self;
        let mut reader =
            Reader { daemon, found: Vec::new(), faults, warnings: Vec::new(), aspnet_urls, variables };
        let mut candidates: Vec<Found> = Vec::new();
        for given in given {
            match recognise(daemon, &given.name) {
                Known::Setting { setting, canonical, in_file } => {
                    match text_of(setting, &given, in_file) {
                        Ok(text) if text.is_empty() && !setting.keep_empty => {}
                        Ok(text) => {
                            let Given { name, source, .. } = given;
                            candidates.push(Found { setting, text, name, source, canonical });
                        }
                        Err(rule) => {
                            let (name, source) = (given.name, Some(given.source));
                            reader.faults.push(Fault { name, value: None, source, rule });
                        }
                    };
                }
                Known::Legacy => reader.warn(format!("{} ({}) is no longer used", given.name, given.source)),
                Known::Typo(rule) => {
                    let (name, source) = (given.name, Some(given.source));
                    reader.faults.push(Fault { name, value: None, source, rule });
                }
                Known::NearMiss(meant) => reader.warn(format!(
                    "{} ({}) is not a setting and is ignored; did you mean {meant}?",
                    given.name, given.source
                )),
                Known::Foreign => {}
            }
        }
        for setting in daemon.settings {
            let mut of_setting: Vec<&Found> =
                candidates.iter().filter(|c| std::ptr::eq(c.setting, setting)).collect();
            // Stable: within a source and kind of name, the first stays first.
            of_setting.sort_by_key(|found| (found.source.rank(), !found.canonical));
            let Some(winner) = of_setting.first().copied() else { continue };
            for other in &of_setting[1..] {
                if other.source.rank() != winner.source.rank() || other.text == winner.text {
                    continue;
                }
                if other.canonical == winner.canonical {
                    let rule = format!(
                        "differs from {} ({}), and both set {}",
                        winner.name, winner.source, setting.key
                    );
                    reader.faults.push(other.fault(rule));
                } else {
                    reader.warn(format!(
                        "{} ({}) differs from {} ({}), which wins",
                        other.name, other.source, winner.name, winner.source
                    ));
                }
            }
            reader.found.push(winner.clone());
        }
        reader
    }
}

/// What a name is to a daemon.
enum Known {
    Setting {
        setting: &'static Setting,
        canonical: bool,
        in_file: bool,
    },
    /// An earlier version used it.
    Legacy,
    /// It has one of our prefixes, and must be a mistake.
    Typo(String),
    /// It is nearly one of our names, but may be somebody else's.
    NearMiss(&'static str),
    /// Somebody else's.
    Foreign,
}

fn recognise(daemon: &'static Daemon, name: &str) -> Known {
    if let Some((setting, canonical)) = named(daemon, name) {
        return Known::Setting { setting, canonical, in_file: false };
    }
    if let Some(stem) = strip_suffix(name, FILE_SUFFIX)
        && let Some((setting, canonical)) = named(daemon, stem)
    {
        if setting.is_secret() {
            return Known::Setting { setting, canonical, in_file: true };
        }
        return Known::Typo(format!(
            "is unknown: only secrets are read from a file, {} is none",
            setting.key
        ));
    }
    let legacy = |pattern: &&str| match pattern.strip_suffix('*') {
        Some(start) => strip_prefix(name, start).is_some(),
        None => name.eq_ignore_ascii_case(pattern),
    };
    if daemon.legacy.iter().any(legacy) {
        return Known::Legacy;
    }
    if daemon.prefixes.iter().any(|prefix| strip_prefix(name, prefix).is_some()) {
        // A third of the letters wrong is still a guess worth making, as the name is wrong anyhow.
        return Known::Typo(match nearest(daemon, name, name.len() / 3) {
            Some(meant) => format!("is not a setting; did you mean {meant}?"),
            None => "is not a setting".into(),
        });
    }
    // With another prefix it may be anybody's: speak up only when it is all but one of ours.
    match nearest(daemon, name, 2) {
        Some(meant) if name.len() > 8 && distance(meant, name) > 0 => Known::NearMiss(meant),
        _ => Known::Foreign,
    }
}

fn named(daemon: &'static Daemon, name: &str) -> Option<(&'static Setting, bool)> {
    let same = |known: &str| known.eq_ignore_ascii_case(name);
    daemon.settings.iter().find_map(|setting| match setting.names().position(same)? {
        0 => Some((setting, true)),
        _ => Some((setting, false)),
    })
}

fn strip_prefix<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = name.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

fn strip_suffix<'a>(name: &'a str, suffix: &str) -> Option<&'a str> {
    let (rest, end) = name.split_at_checked(name.len().checked_sub(suffix.len())?)?;
    end.eq_ignore_ascii_case(suffix).then_some(rest)
}

/// The text of a setting. White space around it is dropped, except around secrets: theirs may be meant.
fn text_of(setting: &Setting, given: &Given, in_file: bool) -> Result<String, String> {
    let text = match &given.value {
        Value::Text(text) if in_file && text.is_empty() => String::new(),
        Value::Text(path) if in_file => secret_file(Path::new(path))?,
        Value::Text(text) => text.clone(),
        Value::In(path) => secret_file(path)?,
        Value::NotUtf8 => return Err("is not UTF-8".into()),
    };
    if text.len() > MAX_VALUE {
        return Err(format!("has {} bytes, at most {MAX_VALUE} are allowed", text.len()));
    }
    if text.contains('\0') {
        return Err("contains a zero byte".into());
    }
    if text.trim().is_empty() {
        return Ok(String::new());
    }
    if setting.is_secret() {
        return Ok(text);
    }
    let text = text.trim();
    // `docker run --env-file` hands quotes on that every other reader of such a file takes off. No value needs any.
    let inside = ['\'', '"'].iter().find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote));
    let inside = inside.filter(|_| given.source == Source::Environment);
    Ok(inside.unwrap_or(text).to_owned())
}

/// The content of a file that holds one secret; one newline at its end belongs to the editor, not to the secret.
fn secret_file(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let bytes = read_limited(path, MAX_VALUE as u64)
        .map_err(|error| format!("file {shown} cannot be read: {error}"))?;
    let text = String::from_utf8(bytes).map_err(|_| format!("file {shown} is not UTF-8"))?;
    let text = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
    if text.trim().is_empty() {
        return Err(format!("file {shown} is empty"));
    }
    Ok(text.to_owned())
}

fn read_limited(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is larger than {most} bytes")));
    }
    Ok(bytes)
}

/// One line of an env file: `KEY=VALUE`, or nothing. `$` is never expanded, whatever the quotes: a `$6$` hash must
/// arrive as it stands.
fn parse_line(line: &str) -> Result<Option<(&str, String)>, &'static str> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let line = match line.strip_prefix("export") {
        Some(rest) if rest.starts_with([' ', '\t']) => rest.trim_start(),
        _ => line,
    };
    let (name, value) = line.split_once('=').ok_or("is no KEY=VALUE line")?;
    let name = name.trim_end();
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)) {
        return Err("is no KEY=VALUE line: the key must be of letters, digits and underscores");
    }
    let value = value.trim_start();
    let (text, rest) = match value.as_bytes().first() {
        Some(b'\'') => {
            let (text, rest) = value[1..].split_once('\'').ok_or("has no closing single quote")?;
            (text.to_owned(), rest)
        }
        Some(b'"') => double_quoted(&value[1..])?,
        _ => {
            // ` #` begins a comment, as in compose's env files; `#` inside a word does not.
            let end = value.find(" #").or_else(|| value.find("\t#"));
            let end = if value.starts_with('#') { 0 } else { end.unwrap_or(value.len()) };
            (value[..end].trim_end().to_owned(), "")
        }
    };
    let rest = rest.trim_start();
    if !rest.is_empty() && !rest.starts_with('#') {
        return Err("has something after the closing quote");
    }
    Ok(Some((name, text)))
}

/// The pairs in the text of an env file, for the tests of what writes them.
#[cfg(test)]
pub(super) fn read_env_text(text: &str) -> Vec<(String, String)> {
    let pair = |line| {
        parse_line(line).expect("a line").map(|(name, value): (&str, String)| (name.to_owned(), value))
    };
    text.lines().filter_map(pair).collect()
}

/// What stands between double quotes, and what follows them.
fn double_quoted(value: &str) -> Result<(String, &str), &'static str> {
    let mut text = String::new();
    let mut chars = value.char_indices();
    while let Some((index, c)) = chars.next() {
        match c {
            '"' => return Ok((text, &value[index + 1..])),
            '\\' => match chars.next() {
                Some((_, '"')) => text.push('"'),
                Some((_, '\\')) => text.push('\\'),
                // As systemd, compose and shells have it.
                Some((_, '$')) => text.push('$'),
                Some((_, 'n')) => text.push('\n'),
                // Of others both characters stay.
                Some((_, other)) => text.extend(['\\', other]),
                None => break,
            },
            c => text.push(c),
        }
    }
    Err("has no closing double quote")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_env_file_line_is_read_without_expansion() {
        let rows = [
            ("A=b", "b"),
            ("  A = b  ", "b"),
            ("export A=b", "b"),
            ("A=", ""),
            ("A=b c # comment", "b c"),
            ("A=b#c", "b#c"),
            ("A=# comment", ""),
            ("A=$6$rounds=5000$salt$hash", "$6$rounds=5000$salt$hash"),
            ("A='$6$x$y' # the hash", "$6$x$y"),
            ("A='a \\n \" b'", "a \\n \" b"),
            (r#"A="a \"b\" \\ \n $HOME \$x \x""#, "a \"b\" \\ \n $HOME $x \\x"),
            ("A=Data Source=/x/y.db", "Data Source=/x/y.db"),
            ("A=b\r", "b"),
        ];
        for (line, value) in rows {
            assert_eq!(parse_line(line), Ok(Some(("A", value.to_owned()))), "{line}");
        }
        for line in ["", "   ", "# A=b", "\t#"] {
            assert_eq!(parse_line(line), Ok(None), "{line:?}");
        }
        for line in ["A", "=b", "A B=c", "A='b", "A=\"b", "A=\"b\\", "A='b'c", "export", "é=1"] {
            assert!(parse_line(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_name_starting_with_export_is_a_name() {
        assert_eq!(parse_line("exported=1"), Ok(Some(("exported", "1".to_owned()))));
    }
}
