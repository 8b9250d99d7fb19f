//! Settings: one table per daemon, from which parsing, `--help`, `--check` and suggestions for typos all come.
//!
//! Here is what a setting is and how its text becomes a value; `source` says where texts come from, `command` what
//! the command line may say. What a value means is left to the daemon's `config.rs`. All faults are collected, so
//! that the Operator mends a file once, not once per fault.

pub mod command;
pub mod console;
pub mod env_file;
pub mod example;
pub mod healthcheck;
pub mod help;
pub mod setup;
mod source;
pub mod start;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::{fmt, fs};

use crate::hostname::Host;
use crate::secret::{Secret, obfuscate};

pub use source::Source;
use source::{Found, Sources};

/// Characters of a wrong value that a fault shows: enough to recognise it, not a whole certificate.
const SHOWN: usize = 120;
/// Longest value of any setting, in bytes.
const MAX_VALUE: usize = 64 * 1024;

/// One setting: everything there is to know about it.
#[derive(Debug)]
pub struct Setting {
    /// The name: `Section__Key`.
    pub key: &'static str,
    /// Other names under which it is accepted; the key wins over them.
    pub aliases: &'static [&'static str],
    /// What its text must look like.
    pub kind: Kind,
    /// What it does and why one would change it.
    pub help: &'static str,
    /// Whether the daemon refuses to start without it.
    pub required: bool,
    /// Whether an empty text is a value. Otherwise it counts as not set, as compose files write `KEY=${KEY:-}`.
    pub keep_empty: bool,
    /// How `--help` names a default that depends on the machine.
    pub default_text: Option<&'static str>,
}

/// What the text of a setting must look like.
#[derive(Debug)]
pub enum Kind {
    /// A whole number.
    Number {
        /// Value when not set; `None` when the daemon works it out.
        default: Option<u64>,
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// `true` or `false`.
    Switch {
        /// Value when not set.
        default: bool,
    },
    /// Anything that the daemon's own parser accepts.
    Text {
        /// The form, for `--help`.
        form: &'static str,
        /// Text when not set; empty for none.
        default: &'static str,
    },
    /// A text that is never shown, and may come from a file or a systemd credential.
    Secret {
        /// Least number of characters.
        min: usize,
    },
}

impl Setting {
    const fn new(key: &'static str, kind: Kind, help: &'static str) -> Setting {
        Setting { key, aliases: &[], kind, help, required: false, keep_empty: false, default_text: None }
    }

    /// A whole number from `min` to `max`.
    pub const fn number(key: &'static str, default: u64, min: u64, max: u64, help: &'static str) -> Setting {
        assert!(min <= default && default <= max);
        Setting::new(key, Kind::Number { default: Some(default), min, max }, help)
    }

    /// A whole number whose default the daemon works out; `default` is how `--help` names it.
    pub const fn number_or(
        key: &'static str,
        default: &'static str,
        min: u64,
        max: u64,
        help: &'static str,
    ) -> Setting {
        let mut setting = Setting::new(key, Kind::Number { default: None, min, max }, help);
        setting.default_text = Some(default);
        setting
    }

    /// `true` or `false`.
    pub const fn switch(key: &'static str, default: bool, help: &'static str) -> Setting {
        Setting::new(key, Kind::Switch { default }, help)
    }

    /// A text that the daemon parses; `form` is shown by `--help`.
    pub const fn text(
        key: &'static str,
        form: &'static str,
        default: &'static str,
        help: &'static str,
    ) -> Setting {
        Setting::new(key, Kind::Text { form, default }, help)
    }

    /// A secret of at least `min` characters.
    pub const fn secret(key: &'static str, min: usize, help: &'static str) -> Setting {
        Setting::new(key, Kind::Secret { min }, help)
    }

    /// Further names.
    pub const fn aliases(mut self, aliases: &'static [&'static str]) -> Setting {
        self.aliases = aliases;
        self
    }

    /// The daemon does not start without it.
    pub const fn required(mut self) -> Setting {
        self.required = true;
        self
    }

    /// An empty text is a value.
    pub const fn keep_empty(mut self) -> Setting {
        self.keep_empty = true;
        self
    }

    /// How `--help` names the default.
    pub const fn default_text(mut self, text: &'static str) -> Setting {
        self.default_text = Some(text);
        self
    }

    /// Whether its value must not be seen.
    pub fn is_secret(&self) -> bool {
        matches!(self.kind, Kind::Secret { .. })
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.key).chain(self.aliases.iter().copied())
    }
}

/// What settings and command line need to know about a daemon.
#[derive(Debug)]
pub struct Daemon {
    /// Name of the program.
    pub program: &'static str,
    /// Version of the program.
    pub version: &'static str,
    /// One line: what it is.
    pub summary: &'static str,
    /// For `--help`.
    pub description: &'static str,
    /// Its settings, in the order in which `--help` shows them.
    pub settings: &'static [Setting],
    /// Beginnings of names that belong to it, as in `Gateway__`: an unknown one is a typo.
    pub prefixes: &'static [&'static str],
    /// Names that an earlier version knew and this one ignores; a final `*` stands for any end.
    pub legacy: &'static [&'static str],
    /// Its sub-commands.
    pub commands: &'static [command::Subcommand],
    /// Command lines that a newcomer wants first, and what each does.
    pub examples: &'static [(&'static str, &'static str)],
    /// Where the installed service has its settings.
    pub env_file: &'static str,
    /// Files and what they are for.
    pub files: &'static [(&'static str, &'static str)],
    /// Name of the setting whose default is the port of `ASPNETCORE_URLS`.
    pub port_key: &'static str,
}

impl Daemon {
    fn setting(&self, key: &str) -> &'static Setting {
        let found = self.settings.iter().find(|setting| setting.key == key);
        found.unwrap_or_else(|| panic!("the settings table of {} has no {key}", self.program))
    }
}

/// What is wrong with one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The name as the Operator wrote it, or the key.
    pub name: String,
    /// The value, shortened, and obfuscated when secret; `None` when there is none.
    pub value: Option<String>,
    /// Where it was found.
    pub source: Option<Source>,
    /// The rule it breaks.
    pub rule: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(value) = &self.value {
            write!(f, " {value}")?;
        }
        if let Some(source) = &self.source {
            write!(f, " ({source})")?;
        }
        write!(f, ": {}", self.rule)
    }
}

impl std::error::Error for Fault {}

/// Reads settings by key and collects what is wrong with them.
///
/// A faulty setting reads as its default, so that reading goes on to the next fault; `finish` then refuses.
#[derive(Debug)]
pub struct Reader {
    daemon: &'static Daemon,
    found: Vec<Found>,
    faults: Vec<Fault>,
    warnings: Vec<String>,
    aspnet_urls: Option<String>,
    /// Names of all variables of the process, also those that are nobody's settings.
    variables: Vec<String>,
}

impl Reader {
    /// Collects the texts of all settings: from `environment`, from systemd's credentials, from `env_file`.
    pub fn new(
        daemon: &'static Daemon,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        env_file: Option<&Path>,
    ) -> Reader {
        let mut sources = Sources::default();
        sources.add_environment(environment);
        if let Some(path) = env_file {
            sources.add_file(path);
        }
        sources.resolve(daemon)
    }

    fn found(&self, key: &str) -> Option<&Found> {
        self.found.iter().find(|found| found.setting.key == key)
    }

    /// Whether somebody set it.
    pub fn is_set(&self, key: &str) -> bool {
        self.found(key).is_some()
    }

    /// Whether the environment of the process has a variable of this name; it need not be a setting.
    pub fn has_variable(&self, name: &str) -> bool {
        self.variables.iter().any(|variable| variable == name)
    }

    /// A number; the table's default when it is not set.
    pub fn number(&mut self, key: &str) -> u64 {
        let Kind::Number { default: Some(default), .. } = self.daemon.setting(key).kind else {
            panic!("{key} is no number with a default");
        };
        self.optional_number(key).unwrap_or(default)
    }

    /// A number that the daemon works out when it is not set.
    pub fn optional_number(&mut self, key: &str) -> Option<u64> {
        let Kind::Number { min, max, .. } = self.daemon.setting(key).kind else {
            panic!("{key} is no number");
        };
        self.parsed(key, |text| match text.parse::<u64>() {
            Ok(number) if (min..=max).contains(&number) && text.bytes().all(|b| b.is_ascii_digit()) => {
                Ok(number)
            }
            _ => Err(format!("must be a whole number from {min} to {max}")),
        })
    }

    /// The port: its own setting, else that of `ASPNETCORE_URLS`, else the default.
    pub fn port(&mut self) -> u16 {
        let key = self.daemon.port_key;
        if !self.is_set(key)
            && let Some(urls) = self.aspnet_urls.take()
        {
            match aspnet_port(&urls) {
                Some(port) => return port,
                None => self.warn(format!(
                    "ASPNETCORE_URLS {}: names no http port and is ignored; the port is set with {key}",
                    shorten(&urls)
                )),
            }
        }
        // The table's bounds are those of a u16; a test reads every default.
        u16::try_from(self.number(key)).unwrap_or_default()
    }

    /// A switch; the table's default when it is not set.
    pub fn switch(&mut self, key: &str) -> bool {
        let Kind::Switch { default } = self.daemon.setting(key).kind else { panic!("{key} is no switch") };
        let parse = |text: &str| match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(true),
            "false" | "0" | "no" | "off" => Ok(false),
            _ => Err("must be true or false".to_owned()),
        };
        self.parsed(key, parse).unwrap_or(default)
    }

    /// A text, or the table's default; `None` when neither is there.
    pub fn text(&mut self, key: &str) -> Option<String> {
        self.parsed(key, |text| Ok(text.to_owned()))
    }

    /// What `parse` makes of the text or of the table's default; `None` when there is none or it is refused.
    pub fn parsed<T>(&mut self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let setting = self.daemon.setting(key);
        match self.found(key) {
            Some(found) => match parse(&found.text) {
                Ok(value) => Some(value),
                Err(rule) => {
                    self.fault(key, rule);
                    None
                }
            },
            None => match setting.kind {
                Kind::Text { default, .. } if !default.is_empty() => {
                    let value = parse(default);
                    Some(value.unwrap_or_else(|rule| panic!("default {default:?} of {key}: {rule}")))
                }
                _ => {
                    self.require(setting);
                    None
                }
            },
        }
    }

    /// A secret of the length that the table asks for; empty when it is missing or refused.
    pub fn secret(&mut self, key: &str) -> Secret {
        self.optional_secret(key).unwrap_or_else(|| Secret::new(""))
    }

    /// A secret, if it is set.
    pub fn optional_secret(&mut self, key: &str) -> Option<Secret> {
        let Kind::Secret { min } = self.daemon.setting(key).kind else { panic!("{key} is no secret") };
        self.parsed(key, |text| {
            let count = text.chars().count();
            if count < min {
                return Err(format!("must have at least {min} characters, has {count}"));
            }
            Ok(Secret::new(text))
        })
    }

    /// A secret that travels in a header field: visible ASCII; white space around it is dropped, as any recipient of
    /// the field would (RFC 9110 5.5).
    pub fn header_secret(&mut self, key: &str) -> Option<Secret> {
        let secret = self.optional_secret(key)?;
        let text = secret.expose().trim();
        if !text.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
            self.fault(key, "must be of visible ASCII characters, because it travels in a header");
            return None;
        }
        Some(Secret::new(text))
    }

    fn require(&mut self, setting: &'static Setting) {
        if setting.required && !self.faults.iter().any(|fault| fault.name == setting.key) {
            self.missing(setting.key, format!("is required: {}", setting.help.trim_end_matches('.')));
        }
    }

    /// Reports a setting that must be there and is not.
    pub fn missing(&mut self, key: &str, rule: impl Into<String>) {
        let (name, rule) = (self.daemon.setting(key).key.to_owned(), rule.into());
        self.faults.push(Fault { name, value: None, source: None, rule });
    }

    /// Reports a setting whose value breaks `rule`.
    pub fn fault(&mut self, key: &str, rule: impl Into<String>) {
        let fault = match self.found(key) {
            Some(found) => found.fault(rule.into()),
            None => Fault { name: key.to_owned(), value: None, source: None, rule: rule.into() },
        };
        self.faults.push(fault);
    }

    /// Notes something that does not stop the start.
    pub fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }

    /// What is set, for `--check`: name, value (obfuscated when secret), source.
    pub fn given(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for setting in self.daemon.settings {
            if let Some(found) = self.found(setting.key) {
                lines.push(format!("{} = {} ({})", setting.key, found.shown(), found.source));
            }
        }
        lines
    }

    /// The warnings, when nothing is wrong; else all faults.
    pub fn finish(self) -> Result<Vec<String>, Vec<Fault>> {
        if self.faults.is_empty() { Ok(self.warnings) } else { Err(self.faults) }
    }
}

/// Reads a bare host name, or an address, as it stands in a URL. Lower case in the result.
pub fn parse_fqdn(text: &str) -> Result<String, String> {
    if text.contains("://") || text.contains('/') {
        return Err("must be a bare host name such as gateway.example.com, without scheme and path".into());
    }
    let host = Host::parse(text.as_bytes()).map_err(|fault| format!("must be a host name: {fault}"))?;
    if host.port().is_some() {
        return Err("must be a bare host name such as gateway.example.com, without port".into());
    }
    Ok(host.name().to_owned())
}

/// Reads an address to listen on.
pub fn parse_address(text: &str) -> Result<IpAddr, String> {
    // Brackets and `*` are what other programs take here.
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    match bare {
        "*" | "+" => Ok(Ipv6Addr::UNSPECIFIED.into()),
        _ => bare.parse().map_err(|_| "must be an IP address, without port".to_owned()),
    }
}

/// A budget in MiB: `usual`, or a quarter of it on a machine with less than 1 GiB of memory.
pub fn by_memory(usual: u64) -> u64 {
    let small = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_kib(&text));
    // Where it cannot be known there is no /proc, which small machines with Linux do have.
    if small.is_some_and(|kib| kib < 1024 * 1024) { usual / 4 } else { usual }
}

fn total_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// A value as a message shows it: quoted, escaped, of bounded length, without passwords.
fn shorten(text: &str) -> String {
    let text = &hide_passwords(text);
    if text.chars().count() <= SHOWN {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(SHOWN).collect();
    format!("{start:?}...")
}

/// Hides what follows `Password=` in connection strings and what stands before the `@` in addresses. Neither has a
/// place in our settings, which is just when a fault would show them.
fn hide_passwords(text: &str) -> String {
    let part = |part: &str| match part.split_once('=') {
        Some((name, _)) if ["password", "pwd"].contains(&name.trim().to_ascii_lowercase().as_str()) => {
            format!("{name}=****")
        }
        _ => part.split(',').map(hide_user).collect::<Vec<_>>().join(","),
    };
    text.split(';').map(part).collect::<Vec<_>>().join(";")
}

fn hide_user(url: &str) -> String {
    match url.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?.1))) {
        Some((scheme, host)) => format!("{scheme}://****@{host}"),
        None => url.to_owned(),
    }
}

/// The port of the first `http` address in a list such as `http://+:17201;https://+:443`.
fn aspnet_port(urls: &str) -> Option<u16> {
    let mut urls = urls.split(';').map(str::trim);
    urls.find_map(|url| {
        let (scheme, rest) = url.split_once("://")?;
        let (_, port) = rest.trim_end_matches('/').rsplit_once(':')?;
        (scheme.eq_ignore_ascii_case("http")).then(|| port.parse().ok().filter(|port| *port != 0))?
    })
}

/// How many letters to add, drop, change or swap with their neighbour to make `b` of `a`, without regard to case
/// (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.to_ascii_lowercase(), b.to_ascii_lowercase());
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let change = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = change.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = last;
        last = row;
    }
    last[b.len()]
}

/// The known name nearest to `name`, when it is near enough to have been meant.
fn nearest(daemon: &Daemon, name: &str, most: usize) -> Option<&'static str> {
    let names = daemon.settings.iter().flat_map(Setting::names);
    // Cheap first: there may be thousands of variables.
    let names = names.filter(|known| known.len().abs_diff(name.len()) <= most);
    let (away, name) = names.map(|known| (distance(known, name), known)).min_by_key(|(away, _)| *away)?;
    (away <= most).then_some(name)
}

#[cfg(test)]
mod tests;
