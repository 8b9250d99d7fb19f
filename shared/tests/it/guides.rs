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

#[test]
fn every_error_text_of_the_troubleshooting_guide_is_one_of_ours() {
    let sources = sources();
    let page = read(&root().join("docs/troubleshooting.md"));
    let mut quoted = 0;
    let mut missing = Vec::new();
    for heading in page.lines().filter_map(|line| line.strip_prefix("### ")) {
        // A heading in words is a symptom that has no text.
        let Some(text) = heading.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')) else { continue };
        quoted += 1;
        for part in text.split('…').filter(|part| part.chars().any(char::is_alphanumeric)) {
            if !sources.contains(part) {
                missing.push(part);
            }
        }
    }
    assert!(missing.is_empty(), "no source says {missing:#?}");
    assert!(quoted > 30, "{quoted} texts");
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
