//! `docs/protocol.md` says what the code does: its tables are compared here.

use std::path::Path;

use shared::frame::{self, Kind};
use shared::hello::CONTROL_MESSAGES;
use shared::reason::Reason;

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol.md");
    std::fs::read_to_string(path).expect("docs/protocol.md")
}

/// The cells of all table rows whose first cell is a code word, under the heading that begins with `section`.
fn rows(section: &str) -> Vec<Vec<String>> {
    let document = document();
    let start = document.find(section).unwrap_or_else(|| panic!("no section {section:?}"));
    let rest = &document[start + section.len()..];
    let text = &rest[..rest.find("\n## ").unwrap_or(rest.len())];
    let rows: Vec<Vec<String>> = text
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect())
        .collect();
    assert!(!rows.is_empty(), "no rows under {section:?}");
    rows
}

#[test]
fn frame_types_are_as_documented() {
    let documented: Vec<(String, u8)> = rows("## 3. Frames")
        .into_iter()
        .filter(|row| row.len() == 4 && row[1].parse::<u8>().is_ok())
        .map(|row| (row[0].clone(), row[1].parse().unwrap()))
        .collect();
    let coded: Vec<(String, u8)> = Kind::ALL.iter().map(|kind| (format!("{kind:?}"), *kind as u8)).collect();
    assert_eq!(documented, coded);
}

#[test]
fn flags_are_as_documented() {
    let coded = [
        ("BODY", frame::BODY),
        ("UPGRADE", frame::UPGRADE),
        ("SWITCHED", frame::SWITCHED),
        ("INTERIM", frame::INTERIM),
        ("END", frame::END),
        ("AT", frame::AT),
        ("MORE", frame::MORE),
        ("LATER", frame::LATER),
    ];
    let documented: Vec<(String, u8)> = rows("## 3. Frames")
        .into_iter()
        .filter_map(|row| Some((row[0].clone(), row[2].parse().ok()?)))
        .filter(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase()))
        .collect();
    assert_eq!(documented, coded.map(|(name, value)| (name.to_owned(), value)));
}

#[test]
fn reasons_are_as_documented() {
    let documented: Vec<[String; 4]> =
        rows("## 9. Reasons").into_iter().map(|row| row.try_into().expect("four cells")).collect();
    let coded: Vec<[String; 4]> = Reason::ALL
        .iter()
        .map(|r| [r.name().to_owned(), r.code().to_string(), r.status().to_string(), r.hop().to_string()])
        .collect();
    assert_eq!(documented, coded);
}

#[test]
fn control_messages_are_as_documented() {
    let documented: Vec<String> =
        rows("## 6. Control messages").into_iter().map(|row| row[0].clone()).collect();
    assert_eq!(documented, CONTROL_MESSAGES);
}
