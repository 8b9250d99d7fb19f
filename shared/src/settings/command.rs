//! The command line: which sub-command, with which options and arguments.
//!
//! One table per program; parsing, suggestions for misspelt words and `--help` (see `help`) come from it. What a
//! sub-command does is left to the daemons.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;

use super::{Daemon, distance};

/// Exit status after being told to stop, and of everything that went well.
pub const EXIT_STOPPED: u8 = 0;
/// Exit status of a failure that may go away by itself.
pub const EXIT_FAILED: u8 = 1;
/// Exit status of wrong arguments or settings: starting again does not help.
pub const EXIT_WRONG: u8 = 2;

/// Options that every sub-command knows.
pub(super) const GLOBAL: [Flag; 4] = [
    Flag::value(
        "--env-file",
        "FILE",
        "Reads settings from FILE: KEY=VALUE lines, # comments, an optional 'export ', single quotes (literal) or \
         double quotes (\\\", \\\\, \\$ and \\n are understood). $ is never expanded. What the environment of the \
         process says wins over the file.",
    ),
    Flag::switch("--check", "Checks all settings, reports every fault at once, and exits."),
    Flag::switch("--help", "Prints this page; after a command, that command's page."),
    Flag::switch("--version", "Prints the version."),
];

/// Something the program can do instead of running as a daemon.
#[derive(Debug)]
pub struct Subcommand {
    /// Its name: one word, or two when several belong together (`mappings list`).
    pub name: &'static str,
    /// What may follow it, for the synopsis: `FILE`, `[FILE]` for one that may be left out, `NAME...` for any number
    /// from one; empty when nothing may.
    pub arguments: &'static str,
    /// What it does.
    pub help: &'static str,
    /// Options of its own.
    pub options: &'static [Flag],
    /// Command lines that people will want, and what each does.
    pub examples: &'static [(&'static str, &'static str)],
    /// What its exit statuses mean, where they say more than the program's own.
    pub statuses: &'static [(&'static str, &'static str)],
    /// Whether it uses the settings file of the installed service when nobody says otherwise. The daemon itself never
    /// does: there the unit says what is read.
    pub finds_env_file: bool,
}

impl Subcommand {
    /// One without arguments and options.
    pub const fn new(name: &'static str, help: &'static str) -> Subcommand {
        Subcommand {
            name,
            arguments: "",
            help,
            options: &[],
            examples: &[],
            statuses: &[],
            finds_env_file: false,
        }
    }

    /// What may follow it.
    pub const fn takes(mut self, arguments: &'static str) -> Subcommand {
        self.arguments = arguments;
        self
    }

    /// Options of its own.
    pub const fn options(mut self, options: &'static [Flag]) -> Subcommand {
        self.options = options;
        self
    }

    /// Examples for its page of help.
    pub const fn examples(mut self, examples: &'static [(&'static str, &'static str)]) -> Subcommand {
        self.examples = examples;
        self
    }

    /// Meaning of its exit statuses.
    pub const fn statuses(mut self, statuses: &'static [(&'static str, &'static str)]) -> Subcommand {
        self.statuses = statuses;
        self
    }

    /// Looks for the settings file of the installed service.
    pub const fn finds_env_file(mut self) -> Subcommand {
        self.finds_env_file = true;
        self
    }

    /// Least and greatest number of arguments.
    fn bounds(&self) -> (usize, usize) {
        let (mut least, mut most) = (0, 0_usize);
        for word in self.arguments.split_whitespace() {
            least += usize::from(!word.starts_with('['));
            most = if word.ends_with("...") { usize::MAX } else { most.saturating_add(1) };
        }
        (least, most)
    }
}

/// An option.
#[derive(Debug)]
pub struct Flag {
    /// Its name, with the two hyphens.
    pub name: &'static str,
    /// What its value is called; `None` when it has none.
    pub value: Option<&'static str>,
    /// What it does.
    pub help: &'static str,
}

impl Flag {
    /// One with a value: `--name VALUE` or `--name=VALUE`.
    pub const fn value(name: &'static str, value: &'static str, help: &'static str) -> Flag {
        Flag { name, value: Some(value), help }
    }

    /// One that is there or not.
    pub const fn switch(name: &'static str, help: &'static str) -> Flag {
        Flag { name, value: None, help }
    }
}

/// The sub-commands that both daemons have.
pub const COMMON: [Subcommand; 4] = [
    Subcommand::new("run", "Runs the daemon in the foreground. The default."),
    Subcommand::new(
        "check",
        "Checks the settings, prints those that are set, and exits. The same as --check.",
    ),
    Subcommand::new(
        "healthcheck",
        "Asks the running daemon on this machine for /health; exits 0 if it answers that it is there, else 1. Needs \
         neither a shell nor curl, so that it works in an image with nothing else in it.",
    )
    .statuses(&[("0", "The daemon is there."), ("1", "It is not, or it answers something else.")])
    .finds_env_file(),
    Subcommand::new("version", "Prints the version. The same as --version."),
];

/// A command line, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// `run`, `check`, `version`, `help` or another of the daemon's sub-commands.
    pub command: &'static str,
    /// What `help` is asked about: a command, or the first word of several. Empty for the program.
    pub topic: &'static str,
    /// Argument of `--env-file`.
    pub env_file: Option<PathBuf>,
    /// The sub-command's own options with their values; a switch has an empty one.
    pub options: Vec<(&'static str, OsString)>,
    /// What follows a sub-command that takes arguments.
    pub arguments: Vec<OsString>,
}

impl Invocation {
    /// The value of an option.
    pub fn value(&self, name: &str) -> Option<&OsStr> {
        self.options.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_os_str())
    }

    /// The value of an option as text.
    pub fn text(&self, name: &str) -> Result<Option<&str>, UsageFault> {
        self.value(name)
            .map(|value| value.to_str().ok_or_else(|| UsageFault(format!("{name}: is not UTF-8"))))
            .transpose()
    }

    /// Whether an option is there.
    pub fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }
}

/// What is wrong with a command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageFault(pub(super) String);

impl fmt::Display for UsageFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageFault {}

fn fault<T>(text: impl Into<String>) -> Result<T, UsageFault> {
    Err(UsageFault(text.into()))
}

/// What has been said so far.
struct Parser {
    daemon: &'static Daemon,
    /// First word of commands that have two, when the second is still to come.
    group: Option<&'static str>,
    command: Option<&'static Subcommand>,
    instead: Option<&'static str>,
    env_file: Option<PathBuf>,
    options: Vec<(&'static str, OsString)>,
    arguments: Vec<OsString>,
}

/// Understands the arguments that follow the program's name.
pub fn parse(
    daemon: &'static Daemon,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Invocation, UsageFault> {
    let mut parser = Parser {
        daemon,
        group: None,
        command: None,
        instead: None,
        env_file: None,
        options: Vec::new(),
        arguments: Vec::new(),
    };
    let mut arguments = arguments.into_iter();
    let mut options_over = false;
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--") if !options_over => options_over = true,
            // A lone hyphen is a file: standard input or output.
            Some(text) if text.starts_with('-') && text != "-" && !options_over => {
                let (name, value) = match text.split_once('=') {
                    Some((name, value)) if text.starts_with("--") => (name, Some(OsString::from(value))),
                    _ => (text, None),
                };
                parser.option(name, value, &mut arguments)?;
            }
            _ => parser.word(argument)?,
        }
    }
    parser.finish()
}

impl Parser {
    fn option(
        &mut self,
        name: &str,
        value: Option<OsString>,
        rest: &mut impl Iterator<Item = OsString>,
    ) -> Result<(), UsageFault> {
        let full = match name {
            "-h" => "--help",
            "-V" => "--version",
            name => name,
        };
        let own = self.command.map_or(&[][..], |command| command.options);
        let Some(flag) = own.iter().chain(&GLOBAL).find(|flag| flag.name == full) else {
            return fault(self.unknown_option(name));
        };
        let value = match (flag.value, value) {
            (None, None) => OsString::new(),
            (None, Some(_)) => return fault(format!("{name}: takes no value")),
            (Some(what), None) => match rest.next() {
                Some(value) => value,
                None => return fault(format!("{name}: needs a {what}")),
            },
            (Some(_), Some(value)) => value,
        };
        match flag.name {
            "--help" => self.instead = Some("help"),
            // Help wins: whoever asks for it reads, and nothing else happens.
            "--version" => self.instead = self.instead.or(Some("version")),
            "--check" => self.instead = self.instead.or(Some("check")),
            "--env-file" if value.is_empty() => return fault("--env-file: names no file"),
            "--env-file" if self.env_file.is_some() => return fault("--env-file: is given twice"),
            "--env-file" => self.env_file = Some(value.into()),
            known if self.options.iter().any(|(other, _)| *other == known) => {
                return fault(format!("{known}: is given twice"));
            }
            known => self.options.push((known, value)),
        }
        Ok(())
    }

    fn unknown_option(&self, name: &str) -> String {
        let own = self.command.map_or(&[][..], |command| command.options);
        let known = own.iter().chain(&GLOBAL).map(|flag| flag.name);
        if let Some(near) = nearest(known, name) {
            return format!("unknown option {name:?}; did you mean {near}?");
        }
        let place = |command: &&Subcommand| command.options.iter().any(|flag| flag.name == name);
        match self.daemon.commands.iter().find(place) {
            // It is one of ours, in another place.
            Some(owner) if self.command.is_none() => {
                format!("{name} belongs behind the command: {} {name}", owner.name)
            }
            _ => format!("unknown option {name:?}"),
        }
    }

    fn word(&mut self, argument: OsString) -> Result<(), UsageFault> {
        if let Some(command) = self.command {
            if self.arguments.len() >= command.bounds().1 {
                return fault(format!("unknown argument {:?}", argument.to_string_lossy()));
            }
            self.arguments.push(argument);
            return Ok(());
        }
        let Some(word) = argument.to_str() else {
            return fault(format!("unknown command {:?}", argument.to_string_lossy()));
        };
        if word == "help" && self.group.is_none() && self.instead.is_none() {
            self.instead = Some("help");
            return Ok(());
        }
        let full = match self.group {
            Some(group) => format!("{group} {word}"),
            None => word.to_owned(),
        };
        if let Some(command) = self.daemon.commands.iter().find(|command| command.name == full) {
            self.command = Some(command);
            return Ok(());
        }
        if self.group.is_none()
            && let Some(group) = self.daemon.commands.iter().find_map(|command| {
                command.name.split_once(' ').map(|(group, _)| group).filter(|group| *group == word)
            })
        {
            self.group = Some(group);
            return Ok(());
        }
        let known = self.daemon.commands.iter().flat_map(|command| {
            [Some(command.name), command.name.split_once(' ').map(|(group, _)| group)].into_iter().flatten()
        });
        match nearest(known, &full) {
            Some(near) => fault(format!("unknown command {full:?}; did you mean {near}?")),
            None => fault(format!("unknown command {full:?}")),
        }
    }

    fn finish(self) -> Result<Invocation, UsageFault> {
        let topic = self.command.map(|command| command.name).or(self.group).unwrap_or_default();
        let command = match (self.instead, self.command) {
            (Some("help" | "version"), _) => self.instead.unwrap_or("help"),
            (_, None) if self.group.is_some() => {
                let group = self.group.unwrap_or_default();
                return fault(format!("{group}: needs one of {}", alternatives(self.daemon, group)));
            }
            // `run --check` is a check; `hash-password --check` is a mistake.
            (Some(_), None) => "check",
            (Some(_), Some(command)) if matches!(command.name, "run" | "check") => "check",
            (Some(_), Some(command)) => return fault(format!("--check does not go with {}", command.name)),
            (None, None) => "run",
            (None, Some(command)) => {
                if self.arguments.len() < command.bounds().0 {
                    return fault(format!("{}: needs {}", command.name, command.arguments));
                }
                command.name
            }
        };
        let Parser { env_file, options, arguments, .. } = self;
        Ok(Invocation { command, topic, env_file, options, arguments })
    }
}

/// `list, add or rm`.
fn alternatives(daemon: &Daemon, group: &str) -> String {
    let second = |command: &Subcommand| {
        let (first, second) = command.name.split_once(' ')?;
        (first == group).then_some(second)
    };
    let words: Vec<&str> = daemon.commands.iter().filter_map(second).collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => words.join(""),
    }
}

/// The word that was probably meant.
fn nearest(known: impl Iterator<Item = &'static str>, word: &str) -> Option<&'static str> {
    let (away, near) = known.map(|name| (distance(name, word), name)).min()?;
    (away <= 2 && away < word.len()).then_some(near)
}
