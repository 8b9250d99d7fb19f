//! The part of an `.env.example` that lists every setting, made of the table that parses them.
//!
//! The files in `containers/` have a head written by hand, for what must be filled in; below their marker stands what
//! this makes. Tests of both daemons compare the two, so the files cannot miss a setting.

use super::help::form;
use super::{Daemon, Kind, Setting};

/// The line of an `.env.example` below which everything is made here.
pub const MARKER: &str = "# ---- Every setting, with its default. Below this line the file is made from the table in the program. ----";
/// Longest line.
const WIDTH: usize = 118;

/// All settings of a daemon as lines that are comments, so that the file says nothing until one is uncommented.
pub fn text(daemon: &Daemon) -> String {
    let mut out = format!("{MARKER}\n");
    for setting in daemon.settings {
        out.push('\n');
        comment(&mut out, setting.help);
        comment(&mut out, &form(setting));
        if !setting.aliases.is_empty() {
            comment(&mut out, &format!("Also accepted as {}.", setting.aliases.join(", ")));
        }
        out.push_str(&format!("#{}={}\n", setting.key, default(setting)));
    }
    out
}

fn default(setting: &Setting) -> String {
    match setting.kind {
        Kind::Number { default: Some(number), .. } => number.to_string(),
        Kind::Switch { default } => default.to_string(),
        Kind::Text { default, .. } => default.to_owned(),
        Kind::Number { default: None, .. } | Kind::Secret { .. } => String::new(),
    }
}

fn comment(out: &mut String, text: &str) {
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            out.push_str(&line);
            out.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    out.push_str(&line);
    out.push('\n');
}
