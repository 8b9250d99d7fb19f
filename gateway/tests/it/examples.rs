//! `containers/gateway/.env.example` against the table of settings.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use gateway::config::{Config, DAEMON};
use shared::settings::{Reader, example};

/// What a person fills in.
const FILLED: [(&str, &str); 3] = [
    ("GATEWAY_FQDN", "gateway.example.com"),
    ("ACME_EMAIL", "you@example.com"),
    ("GATEWAY_API_KEY", "0123456789abcdef0123456789abcdef"),
];

fn file() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../containers/gateway/.env.example"))
}

fn text() -> String {
    let file = file();
    fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

/// With `OCTOPORTY_WRITE_EXAMPLES` set, writes what it expects.
#[test]
fn the_example_lists_every_setting_of_the_table() {
    let text = text();
    let (head, _) = text.split_once(example::MARKER).unwrap_or((&text, ""));
    let expected = format!("{head}{}", example::text(&DAEMON));
    if std::env::var_os("OCTOPORTY_WRITE_EXAMPLES").is_some() {
        fs::write(file(), &expected).expect("the example can be written");
    } else if text != expected {
        let missing: Vec<&str> = expected.lines().filter(|line| !text.contains(line)).collect();
        panic!(
            "{} differs from the table; OCTOPORTY_WRITE_EXAMPLES=1 cargo test -p octoporty-gateway --test it example \
             writes it anew. Not in it: {missing:#?}",
            file().display()
        );
    }
    assert!(expected.matches("\n#Gateway__").count() > 10, "{expected}");
}

/// The lines of the file as variables, those that are switched off too, with what a person fills in.
fn filled(text: &str, also_off: bool) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let line = match line.strip_prefix('#') {
            // `# KEY` is prose, `#KEY=` a setting.
            Some(rest) if also_off && !rest.starts_with(' ') => rest,
            Some(_) => continue,
            None => line,
        };
        let Some((name, value)) = line.split_once('=') else { continue };
        found.insert(name.to_owned(), value.trim_matches('\'').to_owned());
    }
    for (name, value) in FILLED {
        let place = found.get_mut(name).unwrap_or_else(|| panic!("{name} is not to be filled in"));
        assert_eq!(place, "", "{name} has a value that everybody knows");
        *place = value.to_owned();
    }
    found
}

fn load(variables: BTreeMap<String, String>) -> Vec<String> {
    let variables = variables.into_iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    match Config::load(Reader::new(&DAEMON, variables, None)) {
        Ok(config) => config.warnings,
        Err(faults) => panic!("{faults:#?}"),
    }
}

#[test]
fn the_filled_in_example_is_a_valid_configuration() {
    assert_eq!(load(filled(&text(), false)), Vec::<String>::new());
}

#[test]
fn every_line_that_is_switched_off_may_be_switched_on() {
    let variables = filled(&text(), true);
    assert!(variables.len() > DAEMON.settings.len(), "{variables:?}");
    assert_eq!(load(variables), Vec::<String>::new());
}

#[test]
fn nothing_is_set_before_it_is_filled_in() {
    let secrets = text();
    for line in secrets.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, value) = line.split_once('=').expect("KEY=VALUE");
        assert!(FILLED.iter().any(|(filled, _)| *filled == name), "{name}");
        assert_eq!(value.trim_matches('\''), "", "{name}");
    }
}
