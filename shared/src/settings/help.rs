//! The text of `--help`: manual pages in plain text, from the tables that parse the command line and the settings.

use std::fmt::Write;

use super::command::{Flag, GLOBAL, Subcommand};
use super::{Daemon, Kind, Setting};

/// Width of the text.
const WIDTH: usize = 90;
/// Indentation of explanations.
const INDENT: usize = 8;

/// One line for standard error after a wrong command line.
pub fn usage(daemon: &Daemon) -> String {
    format!("usage: {}\ntry '{} --help' for more", synopsis(daemon), daemon.program)
}

fn synopsis(daemon: &Daemon) -> String {
    let mut names: Vec<&str> = Vec::new();
    for command in daemon.commands {
        let first = command.name.split(' ').next().unwrap_or_default();
        if names.last() != Some(&first) {
            names.push(first);
        }
    }
    format!("{} [{}] [--env-file FILE] [--check] [--help] [--version]", daemon.program, names.join("|"))
}

/// The page about `topic`: a command, the first word of several, or (empty) the program.
pub fn help(daemon: &Daemon, topic: &str) -> String {
    // Running is what the program is about.
    if topic == "run" {
        return program_page(daemon);
    }
    if let Some(command) = daemon.commands.iter().find(|command| command.name == topic) {
        return command_page(daemon, command);
    }
    let of_group: Vec<&Subcommand> = daemon
        .commands
        .iter()
        .filter(|command| command.name.split_once(' ').is_some_and(|(group, _)| group == topic))
        .collect();
    if of_group.is_empty() { program_page(daemon) } else { group_page(daemon, topic, &of_group) }
}

/// Every page of the program, the program's own first: for `docs/cli.md`.
pub fn topics(daemon: &Daemon) -> Vec<&'static str> {
    let mut topics = vec![""];
    for command in daemon.commands.iter().filter(|command| command.name != "run") {
        if let Some((group, _)) = command.name.split_once(' ')
            && !topics.contains(&group)
        {
            topics.push(group);
        }
        topics.push(command.name);
    }
    topics
}

fn program_page(daemon: &Daemon) -> String {
    let mut out = String::new();
    heading(&mut out, "NAME");
    paragraph(&mut out, 4, &format!("{} - {}", daemon.program, daemon.summary));
    heading(&mut out, "SYNOPSIS");
    paragraph(&mut out, 4, &synopsis(daemon));
    heading(&mut out, "DESCRIPTION");
    paragraphs(&mut out, 4, daemon.description);
    heading(&mut out, "COMMANDS");
    for command in daemon.commands {
        let first = command.help.split("\n\n").next().unwrap_or_default();
        entry(&mut out, &title(command), &[first]);
    }
    heading(&mut out, "OPTIONS");
    options(&mut out, &GLOBAL);
    heading(&mut out, "EXAMPLES");
    for (line, text) in daemon.examples {
        entry(&mut out, line, &[text]);
    }
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
    entry(&mut out, "0", &["Stopped as asked, or done."]);
    entry(&mut out, "1", &["Failed; starting again may help."]);
    entry(&mut out, "2", &["Wrong arguments or settings; starting again does not help."]);
    out
}

fn group_page(daemon: &Daemon, group: &str, commands: &[&Subcommand]) -> String {
    let mut out = String::new();
    heading(&mut out, "SYNOPSIS");
    paragraph(&mut out, 4, &format!("{} {group} COMMAND", daemon.program));
    heading(&mut out, "COMMANDS");
    for command in commands {
        let first = command.help.split("\n\n").next().unwrap_or_default();
        entry(&mut out, &title(command), &[first]);
    }
    heading(&mut out, "EXAMPLES");
    for (line, text) in commands.iter().flat_map(|command| command.examples) {
        entry(&mut out, line, &[text]);
    }
    out.push('\n');
    let more = format!("{} {group} COMMAND --help says more about each.", daemon.program);
    paragraph(&mut out, 0, &more);
    out
}

fn command_page(daemon: &Daemon, command: &Subcommand) -> String {
    let mut out = String::new();
    heading(&mut out, "SYNOPSIS");
    let own = if command.options.is_empty() { "" } else { " [OPTIONS]" };
    paragraph(&mut out, 4, &format!("{} {}{own}", daemon.program, title(command)));
    heading(&mut out, "DESCRIPTION");
    paragraphs(&mut out, 4, command.help);
    if command.finds_env_file {
        out.push('\n');
        let text = format!(
            "Settings come from the environment and from --env-file. When neither has any, {} is read if it is there.",
            daemon.env_file
        );
        paragraph(&mut out, 4, &text);
    }
    heading(&mut out, "OPTIONS");
    options(&mut out, command.options);
    options(&mut out, &GLOBAL[..1]);
    heading(&mut out, "EXAMPLES");
    if command.examples.is_empty() {
        paragraph(&mut out, 4, &format!("{} {}", daemon.program, command.name));
    }
    for (line, text) in command.examples {
        entry(&mut out, line, &[text]);
    }
    heading(&mut out, "EXIT STATUS");
    let statuses = if command.statuses.is_empty() {
        &[
            ("0", "Done."),
            ("1", "Failed; the reason is on standard error."),
            ("2", "Wrong arguments or settings."),
        ]
    } else {
        command.statuses
    };
    for (status, text) in statuses {
        entry(&mut out, status, &[text]);
    }
    out
}

fn title(command: &Subcommand) -> String {
    format!("{} {}", command.name, command.arguments).trim_end().to_owned()
}

fn options(out: &mut String, flags: &[Flag]) {
    for flag in flags {
        let short = match flag.name {
            "--help" => "-h, ",
            "--version" => "-V, ",
            _ => "",
        };
        let value = flag.value.map_or_else(String::new, |value| format!(" {value}"));
        entry(out, &format!("{short}{}{value}", flag.name), &[flag.help]);
    }
}

/// Bounds and default of a setting, in words.
pub(super) fn form(setting: &Setting) -> String {
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

/// Adds paragraphs that an empty line parts.
fn paragraphs(out: &mut String, indent: usize, text: &str) {
    for (index, text) in text.split("\n\n").enumerate() {
        if index > 0 {
            out.push('\n');
        }
        paragraph(out, indent, text);
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
