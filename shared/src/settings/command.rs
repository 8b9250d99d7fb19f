//! The command line: which sub-command, which env file, and the text of `--help`.
//!
//! By hand, because there are three options; what a sub-command does is left to the daemons.

use std::ffi::OsString;
use std::fmt::{self, Write};
use std::path::PathBuf;

use super::{Daemon, Kind, Setting, distance};

/// Exit status after being told to stop, and of everything that went well.
pub const EXIT_STOPPED: u8 = 0;
/// Exit status of a failure that may go away by itself.
pub const EXIT_FAILED: u8 = 1;
/// Exit status of wrong arguments or settings: starting again does not help.
pub const EXIT_WRONG: u8 = 2;

/// Width of the text of `--help`.
const WIDTH: usize = 90;
/// Indentation of explanations in `--help`.
const INDENT: usize = 8;

/// Something the program can do instead of running as a daemon.
#[derive(Debug)]
pub struct Subcommand {
    /// Its name.
    pub name: &'static str,
    /// What may follow it, for the synopsis; empty when nothing may.
    pub arguments: &'static str,
    /// What it does.
    pub help: &'static str,
}

/// The sub-commands that both daemons have.
pub const COMMON: [Subcommand; 4] = [
    Subcommand { name: "run", arguments: "", help: "Runs the daemon in the foreground. The default." },
    Subcommand {
        name: "check",
        arguments: "",
        help: "Checks the settings, prints those that are set, and exits. The same as --check.",
    },
    Subcommand {
        name: "healthcheck",
        arguments: "",
        help: "Asks the running daemon on this machine for /health; exits 0 if it answers that it is there, else 1.",
    },
    Subcommand { name: "version", arguments: "", help: "Prints the version. The same as --version." },
];

/// A command line, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// `run`, `check`, `version`, `help` or another of the daemon's sub-commands.
    pub command: &'static str,
    /// Argument of `--env-file`.
    pub env_file: Option<PathBuf>,
    /// What follows a sub-command that takes arguments.
    pub arguments: Vec<OsString>,
}

/// What is wrong with a command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageFault(String);

impl fmt::Display for UsageFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageFault {}

/// Understands the arguments that follow the program's name.
pub fn parse(
    daemon: &'static Daemon,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Invocation, UsageFault> {
    let mut command: Option<&'static Subcommand> = None;
    let mut instead: Option<&'static str> = None;
    let mut env_file = None;
    let mut rest = Vec::new();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let text = argument.to_str();
        match text {
            Some("--help" | "-h") => instead = Some("help"),
            // Help wins: whoever asks for it reads, and nothing else happens.
            Some("--version" | "-V") => instead = instead.or(Some("version")),
            Some("--check") => instead = instead.or(Some("check")),
            Some("--env-file") => {
                let file = arguments.next().ok_or_else(|| UsageFault("--env-file: names no file".into()))?;
                set_once(&mut env_file, file)?;
            }
            Some(text) if text.starts_with("--env-file=") => {
                set_once(&mut env_file, text["--env-file=".len()..].into())?;
            }
            _ if command.is_some_and(|command| !command.arguments.is_empty()) => rest.push(argument),
            Some(text) if !text.starts_with('-') && command.is_none() => {
                command = Some(subcommand(daemon, text)?);
            }
            _ => return Err(UsageFault(format!("unknown argument {:?}", argument.to_string_lossy()))),
        }
    }
    let command = match (instead, command.map_or("run", |command| command.name)) {
        (None, command) => command,
        // `run --check` is a check; `hash-password --check` is a mistake.
        (Some("check"), "run" | "check") => "check",
        (Some("check"), command) => return Err(UsageFault(format!("--check does not go with {command}"))),
        (Some(instead), _) => instead,
    };
    Ok(Invocation { command, env_file, arguments: rest })
}

fn set_once(env_file: &mut Option<PathBuf>, file: OsString) -> Result<(), UsageFault> {
    if file.is_empty() {
        return Err(UsageFault("--env-file: names no file".into()));
    }
    match env_file.replace(file.into()) {
        None => Ok(()),
        Some(_) => Err(UsageFault("--env-file: is given twice".into())),
    }
}

fn subcommand(daemon: &'static Daemon, name: &str) -> Result<&'static Subcommand, UsageFault> {
    if let Some(found) = daemon.commands.iter().find(|command| command.name == name) {
        return Ok(found);
    }
    let near = daemon.commands.iter().map(|command| (distance(command.name, name), command.name)).min();
    Err(UsageFault(match near {
        Some((away, near)) if away <= 2 => format!("unknown command {name:?}; did you mean {near}?"),
        _ => format!("unknown command {name:?}"),
    }))
}

/// One line for standard error after a wrong command line.
pub fn usage(daemon: &Daemon) -> String {
    format!("usage: {}\ntry '{} --help' for more", synopsis(daemon), daemon.program)
}

fn synopsis(daemon: &Daemon) -> String {
    let names: Vec<&str> = daemon.commands.iter().map(|command| command.name).collect();
    format!("{} [{}] [--env-file FILE] [--check] [--help] [--version]", daemon.program, names.join("|"))
}

/// The whole of `--help`: a manual page in plain text.
pub fn help(daemon: &Daemon) -> String {
    let mut out = String::new();
    heading(&mut out, "NAME");
    paragraph(&mut out, 4, &format!("{} - {}", daemon.program, daemon.summary));
    heading(&mut out, "SYNOPSIS");
    paragraph(&mut out, 4, &synopsis(daemon));
    heading(&mut out, "DESCRIPTION");
    for (index, text) in daemon.description.split("\n\n").enumerate() {
        if index > 0 {
            out.push('\n');
        }
        paragraph(&mut out, 4, text);
    }
    heading(&mut out, "COMMANDS");
    for command in daemon.commands {
        let title = format!("{} {}", command.name, command.arguments);
        entry(&mut out, title.trim_end(), &[command.help]);
    }
    heading(&mut out, "OPTIONS");
    entry(
        &mut out,
        "--env-file FILE",
        &[
            "Reads settings from FILE: KEY=VALUE lines, # comments, an optional 'export ', single quotes (literal) or \
           double quotes (\\\", \\\\ and \\n are understood). $ is never expanded. What the environment of the \
           process says wins over the file.",
        ],
    );
    entry(&mut out, "--check", &["Checks all settings, reports every fault at once, and exits."]);
    entry(&mut out, "-h, --help", &["Prints this page."]);
    entry(&mut out, "-V, --version", &["Prints the version."]);
    heading(&mut out, "SETTINGS");
    let introduction = format!(
        "Environment variables; upper and lower case are the same. A secret may also be given as KEY_FILE, the path \
         of a file with the value, or as the systemd credential KEY. An empty value counts as not set, where nothing \
         else is said. Other variables are ignored, but an unknown one that begins with {} is a fault.",
        daemon.prefixes.join(" or ")
    );
    paragraph(&mut out, 4, &introduction);
    for setting in daemon.settings {
        let mut lines = vec![setting.help.to_owned(), form(setting)];
        if !setting.aliases.is_empty() {
            lines.push(format!("Also accepted as {}.", setting.aliases.join(", ")));
        }
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        out.push('\n');
        entry(&mut out, setting.key, &lines);
    }
    heading(&mut out, "FILES");
    for (file, text) in daemon.files {
        entry(&mut out, file, &[text]);
    }
    heading(&mut out, "SIGNALS");
    entry(
        &mut out,
        "SIGTERM, SIGINT",
        &[
            "Stops: takes nothing new, lets what is running finish for a while, and exits. A second one exits at once \
           with status 1.",
        ],
    );
    entry(&mut out, "SIGHUP", &["Is noted in the log and ignored: settings are read at start only."]);
    heading(&mut out, "EXIT STATUS");
    entry(&mut out, "0", &["Stopped as asked."]);
    entry(&mut out, "1", &["Failed; starting again may help."]);
    entry(&mut out, "2", &["Wrong arguments or settings; starting again does not help."]);
    out
}

/// Bounds and default of a setting, in words.
fn form(setting: &Setting) -> String {
    let (form, default) = match &setting.kind {
        Kind::Number { default, min, max } => {
            (format!("A whole number from {min} to {max}"), default.map(|number| number.to_string()))
        }
        Kind::Switch { default } => ("true or false".to_owned(), Some(default.to_string())),
        Kind::Text { form, default } => {
            ((*form).to_owned(), (!default.is_empty()).then(|| (*default).to_owned()))
        }
        Kind::Secret { min: 0 } => ("A secret".to_owned(), None),
        Kind::Secret { min } => (format!("A secret of at least {min} characters"), None),
    };
    match setting.default_text.map(str::to_owned).or(default) {
        _ if setting.required => format!("{form}; required."),
        Some(default) => format!("{form}; default: {default}."),
        None => format!("{form}; default: none."),
    }
}

fn heading(out: &mut String, title: &str) {
    if !out.is_empty() {
        out.push('\n');
    }
    out.push_str(title);
    out.push('\n');
}

fn entry(out: &mut String, title: &str, texts: &[&str]) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "    {title}");
    for text in texts {
        paragraph(out, INDENT, text);
    }
}

/// Adds `text`, broken between words.
fn paragraph(out: &mut String, indent: usize, text: &str) {
    let mut column = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > WIDTH {
            out.push('\n');
            column = 0;
        }
        if column == 0 {
            out.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        } else {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out.push('\n');
}
