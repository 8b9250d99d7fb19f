//! The guides in `docs/` and the README against the program: what they quote and name must be there.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The pages that operators read, with their names.
fn pages() -> Vec<(PathBuf, String)> {
    let docs = fs::read_dir(root().join("docs")).expect("docs");
    let mut paths: Vec<PathBuf> = docs.map(|entry| entry.expect("an entry").path()).collect();
    for name in ["README.md", "SECURITY.md", "CHANGELOG.md"] {
        paths.push(root().join(name));
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md") && path.exists());
    paths.sort();
    assert!(paths.len() > 12, "{paths:?}");
    paths.into_iter().map(|path| (path.clone(), read(&path))).collect()
}

/// The sources as the compiler sees their texts: a backslash at the end of a line joins it with the next.
fn sources() -> String {
    fn collect(folder: &Path, out: &mut String) {
        for entry in fs::read_dir(folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                collect(&path, out);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = read(&path);
                let mut lines = text.split("\\\n");
                out.push_str(lines.next().unwrap_or_default());
                for line in lines {
                    out.push_str(line.trim_start());
                }
            }
        }
    }
    let mut out = String::new();
    for part in ["shared", "gateway", "agent"] {
        collect(&root().join(part).join("src"), &mut out);
    }
    assert!(out.len() > 500_000, "{} bytes of sources", out.len());
    // Texts stand in string literals.
    out.replace("\\\"", "\"")
}

/// The scripts that operators run.
fn scripts() -> Vec<(&'static str, String)> {
    ["install-gateway", "install-agent", "update", "uninstall", "lib/release.sh"]
        .map(|name| (name, read(&root().join("scripts").join(name))))
        .to_vec()
}

/// What the troubleshooting guide quotes: the texts in its headings and in the first cells of its tables. A text is cut
/// where a name, number or address stands in it.
fn quoted() -> Vec<Vec<String>> {
    let page = read(&root().join("docs/troubleshooting.md"));
    let mut texts = Vec::new();
    for line in page.lines() {
        let heading = line.strip_prefix("### ");
        let cell = line.strip_prefix("| ").and_then(|rest| rest.split(" | ").next());
        // A heading in words is a symptom that has no text.
        for text in heading.or(cell).unwrap_or_default().split('`').skip(1).step_by(2) {
            let parts =
                text.split('…').map(|part| part.trim_matches(&[' ', '?', ':', '.', ';'][..]).to_owned());
            texts.push(parts.filter(|part| part.chars().any(char::is_alphanumeric)).collect());
        }
    }
    texts
}

#[test]
fn every_error_text_of_the_troubleshooting_guide_is_one_of_ours() {
    let scripts: String = scripts().into_iter().map(|(_, text)| text.replace("\\\"", "\"")).collect();
    let sources = sources() + &scripts;
    let texts = quoted();
    let missing: Vec<&String> =
        texts.iter().flatten().filter(|part| !sources.contains(part.as_str())).collect();
    assert!(missing.is_empty(), "no source says {missing:#?}");
    assert!(texts.len() > 120, "{} texts", texts.len());
}

/// Texts that nobody has to look up: of our own defects, and those that are the rest of another.
const SELF_EVIDENT: &[&str] = &[
    ": does not exist",
    "asks for an update to",
    "cannot ask for the update",
    "Caddy: all is as wanted",
    ", in server ",
    "Caddy, route ",
    "$(tail -n 1 ",
    "The visitor closed the connection.",
    "the thread that writes the database has ended",
    "cannot start the thread that writes the database",
    "the Agent's identity is not a UUID",
    "the session has 8 links already",
    "the session to join has ended",
    "too large to be ours",
    "a head that is no text",
    "a coding that HTTP/1.0 does not have",
    "domain must be a host name",
    "written and kept up to date by this Gateway",
    "its origins must allow an empty Host",
    "it allows only certain Host values",
    "is Caddy running? Its admin API is usually on port 2019",
    "the answer is longer than",
    "cannot be a name in TLS",
    "published names are learned anew",
    "with on-demand TLS each name under a wildcard gets its own certificate",
    "Caddy had no site at all: made the server",
    "Caddy asked for",
    "had panicked",
    "cannot look at the certificates of new mappings",
    "The update to",
    "An update to",
    "Waiting for the updater",
    "the updater left an outcome that is none",
    "is no version",
    "cannot be read",
    "cannot be pinned",
    "could not be put in place",
    "cannot be put back",
    "cannot be kept",
    "cannot be written",
    "cannot be found out",
    "cannot take",
    "the settings made are wrong",
    "no temporary folder",
    "no release was installed; nothing was changed",
    "the release was not verified; nothing was changed",
    "the signature is not checked",
    "cannot download",
    "is there already and is kept",
    "is not installed, or does not run",
    "the signal file",
    "names no version to update to",
    "the program of release",
    "taking it back",
];

/// The string literals of a line of Rust.
fn literals(line: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut rest = line;
    while let Some(begin) = rest.find('"') {
        let mut text = String::new();
        let mut escaped = false;
        let mut end = None;
        for (at, c) in rest[begin + 1..].char_indices() {
            match c {
                _ if escaped => {
                    escaped = false;
                    text.push(c);
                }
                '\\' => escaped = true,
                '"' => {
                    end = Some(begin + 1 + at + 1);
                    break;
                }
                c => text.push(c),
            }
        }
        out.push(text);
        let Some(end) = end else { break };
        rest = &rest[end..];
    }
    out
}

#[test]
fn every_error_that_people_meet_is_in_the_troubleshooting_guide() {
    let texts = quoted();
    // Short parts would be found anywhere.
    let parts: Vec<&String> = texts.iter().flatten().filter(|part| part.len() >= 10).collect();
    let explained = |text: &str| {
        parts.iter().any(|part| text.contains(part.as_str()))
            || SELF_EVIDENT.iter().any(|evident| text.contains(evident))
    };
    let mut met: Vec<(String, String)> = Vec::new();
    let mut files: Vec<PathBuf> = ["reason.rs"].map(|name| root().join("shared/src").join(name)).to_vec();
    files.extend(["dial.rs", "store/error.rs"].map(|name| root().join("agent/src").join(name)));
    files.push(root().join("gateway/src/update.rs"));
    let caddy = fs::read_dir(root().join("gateway/src/caddy")).expect("the folder");
    files.extend(caddy.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file()));
    // What a file of many other texts says to the other side.
    let some = [("agent/src/tunnel/greeting.rs", "give_up("), ("gateway/src/tunnels/greeting.rs", "refuse(")];
    let of = |path: &Path, only: Option<&str>, met: &mut Vec<(String, String)>| {
        let source = read(path).replace("\r\n", " ");
        let source = source.split("#[cfg(test)]").next().unwrap_or_default();
        let joined: Vec<&str> = source.split("\\\n").collect();
        let joined: String = joined
            .iter()
            .enumerate()
            .map(|(n, part)| if n == 0 { part } else { part.trim_start() })
            .collect();
        // The calls that a line begins and the next ones end.
        let mut within = 0;
        for line in joined.lines() {
            if only.is_some_and(|only| line.contains(only)) {
                within = 4;
            }
            within -= i32::from(within > 0);
            let said = only.is_none() || within > 0;
            let inner = ["//", "log::debug", "log::info", ".expect("].iter().any(|mark| line.contains(mark));
            if !said || inner {
                continue;
            }
            for text in literals(line) {
                // Sentences; what is shorter is a name.
                if text.matches(' ').count() >= 3 && !text.contains("HTTP/1.") {
                    let name = path.strip_prefix(root()).unwrap_or(path);
                    met.push((name.display().to_string(), text));
                }
            }
        }
    };
    for path in &files {
        of(path, None, &mut met);
    }
    for (path, only) in some {
        of(&root().join(path), Some(only), &mut met);
    }
    let rust = met.len();
    for (name, text) in scripts() {
        for line in text.lines() {
            for mark in
                ["fail \"", "warn \"", "wrong \"", "finish failed \"", "finish rolled-back \"", "why=\""]
            {
                if let Some(at) = line.find(mark)
                    && !line.trim_start().starts_with('#')
                {
                    let said = literals(&line[at + mark.len() - 1..]).swap_remove(0);
                    // Wrong options are told with what is right.
                    if said.matches(' ').count() >= 2 && mark != "wrong \"" {
                        met.push((name.to_owned(), said));
                    }
                }
            }
        }
    }
    assert!(rust > 80 && met.len() > rust + 40, "{rust} texts of the daemons, {} in all", met.len());
    met.retain(|(_, text)| !explained(text));
    assert!(met.is_empty(), "not in docs/troubleshooting.md: {met:#?}");
    let sources: String = sources() + &scripts().into_iter().map(|(_, text)| text).collect::<String>();
    let unused: Vec<_> = SELF_EVIDENT.iter().filter(|text| !sources.contains(**text)).collect();
    assert!(unused.is_empty(), "nobody says {unused:#?}");
}

#[test]
fn every_setting_in_the_guides_exists() {
    // Both files are compared with the tables by tests of the daemons.
    let examples: String = ["gateway", "agent"]
        .map(|daemon| read(&root().join(format!("containers/{daemon}/.env.example"))))
        .concat();
    let known = |name: &str| examples.contains(&format!("#{name}="));
    let mut count = 0;
    for (path, text) in pages() {
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            let ours = ["Gateway__", "Agent__", "Logging__", "ConnectionStrings__"]
                .iter()
                .any(|prefix| word.len() > prefix.len() && word.starts_with(prefix));
            if !ours || word.ends_with("__") {
                continue;
            }
            count += 1;
            let name = word.strip_suffix("_FILE").unwrap_or(word);
            assert!(known(name), "{}: {word} is no setting", path.display());
        }
    }
    assert!(count > 40, "{count} settings are named");
}

/// GitHub's name of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars()
        .filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-' || *c == '_')
        .collect::<String>()
        .replace(' ', "-")
}

#[test]
fn every_link_between_the_pages_leads_somewhere() {
    let mut count = 0;
    for (path, text) in pages() {
        let folder = path.parent().expect("a folder");
        let mut fenced = false;
        for line in text.lines() {
            fenced ^= line.trim_start().starts_with("```");
            if fenced {
                continue;
            }
            for rest in line.split("](").skip(1) {
                let target = rest.split(')').next().unwrap_or_default();
                if target.contains("://") {
                    continue;
                }
                count += 1;
                let (file, place) = target.split_once('#').unwrap_or((target, ""));
                let target_path = if file.is_empty() { path.clone() } else { folder.join(file) };
                assert!(target_path.exists(), "{}: {target} leads nowhere", path.display());
                if !place.is_empty() {
                    let page = read(&target_path);
                    let mut headings = page.lines().filter(|line| line.starts_with('#'));
                    assert!(
                        headings.any(|line| anchor(line.trim_start_matches('#')) == place),
                        "{}: {target}: no such heading",
                        path.display()
                    );
                }
            }
        }
    }
    assert!(count > 30, "{count} links");
}
