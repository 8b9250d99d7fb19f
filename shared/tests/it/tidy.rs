//! The rules of the house that a program can check.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of the project") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

/// Every Rust file of the project with its text.
fn all() -> Vec<(String, String)> {
    let mut paths = Vec::new();
    for part in ["shared", "gateway", "agent", "e2e", "bench", "fuzz"] {
        sources(&root().join(part), &mut paths);
    }
    assert!(paths.len() > 40, "only {} files found", paths.len());
    let root = root();
    let text = |path: &PathBuf| fs::read_to_string(path).expect("a readable file");
    paths
        .iter()
        .map(|path| (path.strip_prefix(&root).unwrap_or(path).display().to_string(), text(path)))
        .collect()
}

/// The part of a file before its tests.
fn code(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod ").next().unwrap_or(text)
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent: Vec<_> =
        all().into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|(path, _)| path).collect();
    assert!(silent.is_empty(), "{silent:?}");
}

#[test]
fn pure_modules_know_no_socket_thread_file_or_clock() {
    let pure = [
        "alive",
        "assembly",
        "backoff",
        "body",
        "control",
        "credit",
        "exchange",
        "forwarded",
        "frame",
        "head",
        "hello",
        "hostname",
        "lasting",
        "login",
        "mapping",
        "reason",
        "schedule",
        "target",
        "version",
        "ws",
    ];
    let words =
        ["TcpStream", "TcpListener", "std::thread", "std::fs", "Instant::now", "SystemTime", "now_utc"];
    let shared = pure.iter().map(|module| format!("shared/src/{module}"));
    let gateway = ["places", "routes", "caddy/plan", "caddy/servers", "caddy/ask", "caddy/redact"];
    let gateway = gateway.iter().map(|module| format!("gateway/src/{module}"));
    let files = all();
    for module in shared.chain(gateway) {
        let (file, folder) = (format!("{module}.rs"), format!("{module}/"));
        let parts: Vec<_> = files
            .iter()
            .map(|(path, text)| (path.replace("../", ""), text))
            .filter(|(path, _)| *path == file || path.starts_with(&folder) && !path.ends_with("/tests.rs"))
            .collect();
        assert!(parts.iter().any(|(path, _)| *path == file), "there is no {file}");
        for (path, text) in parts {
            for word in words {
                assert!(!code(text).contains(word), "{path} uses {word}");
            }
        }
    }
}

#[test]
fn a_dependency_has_one_room() {
    let rooms: [(&str, &[&str]); 3] = [
        ("rusqlite::", &["agent/src/store.rs", "agent/src/store/", "agent/src/migrations.rs"]),
        ("mio::", &["shared/src/poll.rs"]),
        ("ureq::", &["gateway/src/caddy/client.rs"]),
    ];
    for (word, allowed) in rooms {
        let users: Vec<_> = all()
            .into_iter()
            .filter(|(path, text)| {
                path.contains("/src/") && !path.starts_with("bench") && code(text).contains(word)
            })
            .map(|(path, _)| path)
            .collect();
        assert!(!users.is_empty(), "nobody uses {word}");
        for user in users {
            assert!(
                allowed.iter().any(|room| user.replace("../", "").starts_with(room)),
                "{user} uses {word}"
            );
        }
    }
}

#[test]
fn daemons_do_not_know_each_other() {
    for (daemon, other) in [("gateway", "octoporty-agent"), ("agent", "octoporty-gateway")] {
        let manifest = fs::read_to_string(root().join(daemon).join("Cargo.toml")).expect("a manifest");
        let runtime = manifest.split("[dev-dependencies]").next().unwrap_or_default();
        assert!(
            !runtime
                .lines()
                .any(|line| line.starts_with(other) || line.starts_with(&other["octoporty-".len()..]))
        );
    }
}

#[test]
fn no_async_runtime_came_in() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock");
    for name in ["tokio", "async-std", "smol", "futures-executor", "hyper"] {
        assert!(!lock.contains(&format!("name = \"{name}\"\n")), "{name} is among the dependencies");
    }
}

#[test]
fn the_map_names_files_that_exist() {
    let map = fs::read_to_string(root().join("docs/architecture.md")).expect("the map");
    let files: Vec<String> = all().into_iter().map(|(path, _)| format!("/{path}")).collect();
    let named: Vec<&str> = map.split('`').skip(1).step_by(2).filter(|name| name.ends_with(".rs")).collect();
    assert!(named.len() > 80, "only {} files are named", named.len());
    // In a row of the map a file may be named without the folder of the one before it.
    let lost = named.iter().filter(|name| !files.iter().any(|file| file.ends_with(&format!("/{name}"))));
    let lost: Vec<_> = lost.collect();
    assert!(lost.is_empty(), "the map names files that are not there: {lost:?}");
}
