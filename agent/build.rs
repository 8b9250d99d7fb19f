//! Puts the files of the admin page into the binary: as they are, compressed, and with the names of their contents.
//!
//! The page itself needs no build step. What is left out of its scripts and styles here, comments and spaces, is for
//! those who read the source; a browser on the other end of a slow line does without.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};
use sha2::{Digest, Sha256};

fn main() {
    let folder = Path::new(&variable("CARGO_MANIFEST_DIR")).join("../static");
    let out = PathBuf::from(variable("OUT_DIR"));
    println!("cargo:rerun-if-changed={}", folder.display());
    let mut paths = Vec::new();
    files(&folder, &mut paths);
    paths.sort();
    let mut table = String::from("[\n");
    for (number, path) in paths.iter().enumerate() {
        let inside = path.strip_prefix(&folder).expect("found below it").to_str().expect("a name in ASCII");
        let name = if inside == "index.html" { "/".to_owned() } else { format!("/{inside}") };
        let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let served = match path.extension().and_then(|e| e.to_str()) {
            Some("js") => without_line_ends(&without_gaps(inside, &without_comments(inside, &text, "//"))),
            Some("css") => without_spaces(&without_comments(inside, &text, "/*")),
            _ => text,
        };
        let hash = Sha256::digest(served.as_bytes());
        let tag: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let (plain, gzip) = (out.join(format!("{number}.plain")), out.join(format!("{number}.gz")));
        // No time of day in it, so that the same sources give the same binary.
        let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
        encoder.write_all(served.as_bytes()).expect("into memory");
        fs::write(&gzip, encoder.finish().expect("into memory")).expect("OUT_DIR can be written");
        fs::write(&plain, served).expect("OUT_DIR can be written");
        table += &format!(
            "    File {{ path: {name:?}, tag: {tag:?}, plain: include_bytes!({plain:?}), \
             gzip: include_bytes!({gzip:?}) }},\n"
        );
    }
    fs::write(out.join("pages.rs"), table + "]\n").expect("OUT_DIR can be written");
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|e| panic!("{name}, which cargo sets: {e}"))
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.expect("an entry of the folder").path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// Leaves out lines that are comments, empty lines and indentation. Knows nothing of the language, so it demands that
/// no text goes over several lines, where a line's beginning would count.
fn without_comments(name: &str, text: &str, sign: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut in_comment = false;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        let ticks = line.matches('`').count();
        assert!(
            in_comment || sign != "//" || ticks % 2 == 0,
            "{name}:{}: a text over several lines",
            number + 1
        );
        let opens = line.starts_with("/*");
        if in_comment || opens || (sign == "//" && line.starts_with(sign)) || line.is_empty() {
            in_comment = (in_comment || opens) && !line.contains("*/");
            continue;
        }
        kept += line;
        kept.push('\n');
    }
    assert!(!in_comment && !kept.is_empty(), "{name}: a comment without an end, or nothing else");
    kept
}

/// Leaves out comments at the ends of lines and the spaces beside brackets and operators. Texts, templates and patterns
/// stay what they are, code within a template is code.
fn without_gaps(name: &str, script: &str) -> String {
    // Two signs with nothing between them must not become another one: no `+`, `-` and `/`.
    let free = |c: char| "{}()[],;:?=<>&|!*".contains(c);
    let mut out = String::with_capacity(script.len());
    let mut inside = Vec::new(); // Open braces and templates.
    let mut left = script.chars().peekable();
    while let Some(c) = left.next() {
        if inside.last() == Some(&'`') {
            out.push(c);
            match c {
                '\\' => out.extend(left.next()),
                '`' => drop(inside.pop()),
                '$' if left.peek() == Some(&'{') => {
                    out.extend(left.next());
                    inside.push('{');
                }
                _ => {}
            }
            continue;
        }
        let before = out.trim_end();
        let operand = before.is_empty()
            || before.ends_with("return")
            || before.ends_with(|c| free(c) && c != ')' && c != ']');
        match (c, left.peek()) {
            ('{' | '`', _) => inside.push(c),
            ('}', _) => assert_eq!(inside.pop(), Some('{'), "{name}: a brace too many"),
            ('/', Some('/')) => {
                while left.next_if(|c| *c != '\n').is_some() {}
                out.truncate(before.len());
                continue;
            }
            ('/', Some('*')) => panic!("{name}: a comment within a line"),
            (' ', next) if out.ends_with(free) || next.is_some_and(|c| free(*c)) => continue,
            _ => {}
        }
        out.push(c);
        let closing = |set: bool, inner: char| if c == '/' { inner == '/' && !set } else { inner == c };
        if c == '"' || c == '\'' || (c == '/' && operand) {
            let mut set = false; // In a set of characters, a slash ends no pattern.
            loop {
                let inner = left
                    .next()
                    .filter(|c| *c != '\n')
                    .unwrap_or_else(|| panic!("{name}: {c} without its end"));
                out.push(inner);
                match inner {
                    '\\' => out.extend(left.next()),
                    '[' | ']' => set = inner == '[',
                    _ if closing(set, inner) => break,
                    _ => {}
                }
            }
        }
    }
    assert!(inside.is_empty(), "{name}: not closed: {inside:?}");
    out
}

/// A line that ends with an opening bracket or a comma goes on in the next one (ECMAScript 12.10 puts no semicolon
/// there). What is left has about one statement a line, so that a fault that a browser reports still has a place.
fn without_line_ends(script: &str) -> String {
    let goes_on = |line: &str| line.ends_with(['{', '(', '[', ',']);
    script.lines().flat_map(|line| [line, if goes_on(line) { "" } else { "\n" }]).collect()
}

/// A style sheet has the same meaning without the spaces that its formatting puts at fixed places.
fn without_spaces(css: &str) -> String {
    let short = |line: &str| match line.strip_suffix(';') {
        Some(_) => line.replacen(": ", ":", 1).replace(", ", ","),
        None => line.replace(" {", "{"),
    };
    // The last of a block needs no semicolon.
    css.lines().map(short).collect::<String>().replace(";}", "}")
}
