//! `octoporty-agent mappings …`: what the admin page does with mappings, for scripts and terminals.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};
use shared::hostname::Host;
use shared::settings::Reader;
use shared::settings::command::{EXIT_FAILED, EXIT_STOPPED, Flag, Invocation, Subcommand};
use shared::settings::console::{Colour, Console, Failure};
use shared::settings::env_file::{PUBLIC, Prepared};

use super::client::{AGENT_URL, Api, PASSWORD_FILE, refusal};
use super::load;

/// Largest file that is imported; the API takes as much.
const MAX_IMPORT: u64 = 4 * 1024 * 1024;

const JSON: Flag = Flag::switch("--json", "Prints what the API answers.");
const DESCRIPTION: Flag = Flag::value("--description", "TEXT", "Your own words, at most 500 characters.");
const HOST_HEADER: Flag = Flag::value(
    "--host-header",
    "WHICH",
    "Host header that the service sees: preserve (the visitor's), target (the service's own), or a name.",
);

/// What every one of them does about finding the Agent.
macro_rules! explained {
    ($text:literal) => {
        concat!(
            $text,
            "\n\nAsks the running Agent, and changes its database when it is not running: the same checks apply. The \
             settings must be those of the Agent; whoever can read them need not log in."
        )
    };
}

pub(super) const LIST: Subcommand =
    Subcommand::new("mappings list", explained!("Lists the mappings: public name, target, state."))
        .options(&[JSON, AGENT_URL, PASSWORD_FILE])
        .examples(&[
            ("octoporty-agent mappings list", "Prints a table."),
            ("octoporty-agent mappings list --json | jq -r '.[].externalDomain'", "Prints the public names."),
            (
                "octoporty-agent mappings list --agent-url http://nas:17201 --password-file password.txt",
                "Asks an Agent on another machine.",
            ),
        ])
        .finds_env_file();

pub(super) const ADD: Subcommand = Subcommand::new(
    "mappings add",
    explained!(
        "Publishes TARGET, as in http://192.168.1.10:3000 or https://nas:8443, under the host name DOMAIN, which may \
         be *.example.com."
    ),
)
.takes("DOMAIN TARGET")
.options(&[
    DESCRIPTION,
    HOST_HEADER,
    Flag::switch(
        "--allow-invalid-certificates",
        "Accepts any certificate of an https target: self-signed, expired, for another name.",
    ),
    Flag::switch("--disabled", "Saves it switched off."),
    JSON,
    AGENT_URL,
    PASSWORD_FILE,
])
.examples(&[
    ("octoporty-agent mappings add photos.example.com http://192.168.1.10:2283", "Publishes a service."),
    (
        "octoporty-agent mappings add nas.example.com https://nas:5001 --allow-invalid-certificates",
        "The same, for one with a certificate of its own.",
    ),
])
.finds_env_file();

pub(super) const SET: Subcommand = Subcommand::new(
    "mappings set",
    explained!(
        "Changes what the options say of the mapping with this public name or id; everything else stays."
    ),
)
.takes("DOMAIN|ID")
.options(&[
    Flag::value("--domain", "DOMAIN", "Another public name."),
    Flag::value("--target", "TARGET", "Another service."),
    DESCRIPTION,
    HOST_HEADER,
    Flag::value(
        "--allow-invalid-certificates",
        "true|false",
        "Whether any certificate of an https target is accepted.",
    ),
    Flag::switch("--enable", "Switches it on."),
    Flag::switch("--disable", "Switches it off; it keeps its place in the list."),
    JSON,
    AGENT_URL,
    PASSWORD_FILE,
])
.examples(&[
    (
        "octoporty-agent mappings set photos.example.com --target http://192.168.1.11:2283",
        "The service has moved.",
    ),
    ("octoporty-agent mappings set photos.example.com --disable", "Takes it off the net for a while."),
])
.finds_env_file();

pub(super) const RM: Subcommand =
    Subcommand::new("mappings rm", explained!("Deletes the mappings with these public names or ids."))
        .takes("DOMAIN|ID...")
        .options(&[AGENT_URL, PASSWORD_FILE])
        .examples(&[("octoporty-agent mappings rm photos.example.com", "Deletes one.")])
        .statuses(&[
            ("0", "All are deleted."),
            ("1", "One is not there, or the Agent refuses; those before it are deleted."),
            ("2", "Wrong arguments or settings."),
        ])
        .finds_env_file();

pub(super) const IMPORT: Subcommand = Subcommand::new(
    "mappings import",
    explained!(
        "Takes mappings from FILE (- is standard input): an export of this program, or the list that the earlier \
         program's API answers. All or nothing: when one row is wrong, every fault is listed and nothing is changed."
    ),
)
.takes("FILE")
.options(&[
    Flag::switch("--replace", "Deletes mappings that are not in FILE; without it they stay."),
    Flag::switch("--dry-run", "Says what would change and changes nothing."),
    JSON,
    AGENT_URL,
    PASSWORD_FILE,
])
.examples(&[
    ("octoporty-agent mappings import mappings.json --dry-run", "Shows what would change."),
    ("octoporty-agent mappings import - --replace < mappings.json", "Makes the list exactly what the file says."),
])
.statuses(&[
    ("0", "Imported, or would be."),
    ("1", "Nothing was imported; the faults are on standard error."),
    ("2", "Wrong arguments or settings."),
])
.finds_env_file();

pub(super) const EXPORT: Subcommand = Subcommand::new(
    "mappings export",
    explained!("Writes all mappings as JSON to FILE, or to standard output."),
)
.takes("[FILE]")
.options(&[Flag::switch("--force", "Replaces FILE if it exists."), AGENT_URL, PASSWORD_FILE])
.examples(&[
    ("octoporty-agent mappings export mappings.json", "Writes a file."),
    ("octoporty-agent mappings export | jq .mappings", "Prints them."),
])
.finds_env_file();

pub(super) fn run(invocation: &Invocation, reader: Reader, console: &mut Console<'_>) -> Result<u8, Failure> {
    // What can be found wrong without the Agent is, before anything is opened.
    let argument = |at: usize| -> Result<&str, Failure> {
        let argument = invocation.arguments.get(at).and_then(|argument| argument.to_str());
        argument.ok_or_else(|| Failure::wrong("an argument is not UTF-8"))
    };
    let change = match invocation.command {
        "mappings add" => Some(added(invocation, argument(0)?, argument(1)?)?),
        "mappings set" => Some(changed(invocation)?),
        _ => None,
    };
    let document = match invocation.command {
        "mappings import" => Some(read_document(argument(0)?, console)?),
        _ => None,
    };
    let api = Api::open(invocation, |console| load(reader, console), console)?;
    match (invocation.command, change, document) {
        ("mappings list", ..) => list(&api, invocation, console),
        ("mappings add", Some(body), _) => {
            let saved = api.json("POST", "/api/v1/mappings", Some(&body))?;
            show_saved("added", &saved, &api, invocation, console)
        }
        ("mappings set", Some(body), _) => {
            let id = find(&api, argument(0)?)?;
            let saved = api.json("PATCH", &format!("/api/v1/mappings/{id}"), Some(&body))?;
            show_saved("changed", &saved, &api, invocation, console)
        }
        ("mappings rm", ..) => {
            for at in 0..invocation.arguments.len() {
                let id = find(&api, argument(at)?)?;
                api.json("DELETE", &format!("/api/v1/mappings/{id}"), None)?;
                console.say(format_args!("deleted {} ({})", argument(at)?, api.place()))?;
            }
            Ok(EXIT_STOPPED)
        }
        ("mappings import", _, Some(document)) => import(&api, &document, invocation, console),
        ("mappings export", ..) => export(&api, invocation, console),
        (command, ..) => unreachable!("the table has {command}, and nobody does it"),
    }
}

/// `http[s]://host[:port]`, or `host:port`, as fields of the API.
fn target(text: &str) -> Result<[(&'static str, Value); 3], Failure> {
    let wrong = |why: &str| {
        Failure::wrong(format_args!("target {text:?}: {why}; must be like http://192.168.1.10:3000"))
    };
    let (tls, rest) = match text.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
        Some((scheme, _)) => return Err(wrong(&format!("unknown scheme {scheme:?}"))),
        None => (false, text),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#']) {
        return Err(wrong("a path has no place here: visitors' paths are passed on as they are"));
    }
    let host = Host::parse(rest.as_bytes()).map_err(|fault| wrong(&fault.to_string()))?;
    let port = match host.port() {
        Some(port) => port,
        None if text.contains("://") => {
            if tls {
                443
            } else {
                80
            }
        }
        None => return Err(wrong("has no port")),
    };
    Ok([("internalHost", host.name().into()), ("internalPort", port.into()), ("internalUseTls", tls.into())])
}

/// The body that creates a mapping.
fn added(invocation: &Invocation, domain: &str, to: &str) -> Result<Value, Failure> {
    let mut body = Map::new();
    body.insert("externalDomain".into(), domain.into());
    for (field, value) in target(to)? {
        body.insert(field.into(), value);
    }
    texts(invocation, &mut body)?;
    body.insert("allowSelfSignedCerts".into(), invocation.has("--allow-invalid-certificates").into());
    body.insert("isEnabled".into(), (!invocation.has("--disabled")).into());
    Ok(body.into())
}

/// The body that changes one.
fn changed(invocation: &Invocation) -> Result<Value, Failure> {
    let mut body = Map::new();
    if let Some(domain) = invocation.text("--domain")? {
        body.insert("externalDomain".into(), domain.into());
    }
    if let Some(text) = invocation.text("--target")? {
        for (field, value) in target(text)? {
            body.insert(field.into(), value);
        }
    }
    texts(invocation, &mut body)?;
    match invocation.text("--allow-invalid-certificates")? {
        None => {}
        Some("true") => drop(body.insert("allowSelfSignedCerts".into(), true.into())),
        Some("false") => drop(body.insert("allowSelfSignedCerts".into(), false.into())),
        Some(text) => {
            let text = format!("--allow-invalid-certificates {text:?}: must be true or false");
            return Err(Failure::wrong(text));
        }
    }
    match (invocation.has("--enable"), invocation.has("--disable")) {
        (true, true) => return Err(Failure::wrong("--enable and --disable contradict each other")),
        (false, false) => {}
        (enable, _) => drop(body.insert("isEnabled".into(), enable.into())),
    }
    if body.is_empty() {
        return Err(Failure::wrong("mappings set: no option says what to change"));
    }
    Ok(body.into())
}

fn texts(invocation: &Invocation, body: &mut Map<String, Value>) -> Result<(), Failure> {
    for (option, field) in [("--description", "description"), ("--host-header", "hostHeader")] {
        if let Some(text) = invocation.text(option)? {
            body.insert(field.into(), text.into());
        }
    }
    Ok(())
}

fn all(api: &Api) -> Result<Vec<Value>, Failure> {
    match api.json("GET", "/api/v1/mappings", None)? {
        Value::Array(rows) => Ok(rows),
        _ => Err(Failure::failed(format_args!("{}: the answer is no list of mappings", api.place()))),
    }
}

/// The id of the mapping with this public name or id.
fn find(api: &Api, name: &str) -> Result<String, Failure> {
    let rows = all(api)?;
    let is = |row: &&Value| {
        ["id", "externalDomain"]
            .iter()
            .any(|f| row[*f].as_str().is_some_and(|t| t.eq_ignore_ascii_case(name)))
    };
    match rows.iter().find(is).and_then(|row| row["id"].as_str()) {
        Some(id) => Ok(id.to_owned()),
        None => Err(Failure::failed(format_args!(
            "there is no mapping {name:?}; octoporty-agent mappings list shows all"
        ))),
    }
}

fn list(api: &Api, invocation: &Invocation, console: &mut Console<'_>) -> Result<u8, Failure> {
    let rows = all(api)?;
    if invocation.has("--json") {
        return print(&rows.into(), console);
    }
    if rows.is_empty() {
        console.say("there are no mappings; octoporty-agent mappings add DOMAIN TARGET adds one")?;
        return Ok(EXIT_STOPPED);
    }
    let mut table = vec![["DOMAIN".to_owned(), "TARGET".into(), "STATE".into(), "DESCRIPTION".into()]];
    for row in &rows {
        table.push([
            clean(&row["externalDomain"]),
            target_of(row),
            state_of(row, api.is_running()),
            clean(&row["description"]),
        ]);
    }
    let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..3).map(width).collect();
    for (index, row) in table.iter().enumerate() {
        let mut line = String::new();
        for (text, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{text:width$}  "));
        }
        line.push_str(&row[3]);
        let line = line.trim_end();
        let line = if index == 0 { console.paint(Colour::Dim, line) } else { line.to_owned() };
        console.say(line)?;
    }
    if !api.is_running() {
        console.note(format_args!("({})", api.place()))?;
    }
    Ok(EXIT_STOPPED)
}

/// The text of a field, fit for a terminal: whoever wrote it may have meant mischief.
fn clean(value: &Value) -> String {
    value.as_str().unwrap_or_default().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn target_of(row: &Value) -> String {
    let scheme = if row["internalUseTls"] == true { "https" } else { "http" };
    let host = clean(&row["internalHost"]);
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    format!("{scheme}://{host}:{}", row["internalPort"])
}

fn state_of(row: &Value, running: bool) -> String {
    match (row["isEnabled"] == true, row["routeState"].as_str()) {
        (false, _) => "off".into(),
        // A row that cannot be used says why.
        (true, Some(state)) if state.starts_with("not used") => clean(&row["routeState"]),
        (true, Some(state)) if running && state != "unknown" => match row["routeError"].as_str() {
            Some(_) => format!("{state}: {}", clean(&row["routeError"])),
            None => state.to_owned(),
        },
        (true, _) => "on".into(),
    }
}

fn show_saved(
    what: &str,
    saved: &Value,
    api: &Api,
    invocation: &Invocation,
    console: &mut Console<'_>,
) -> Result<u8, Failure> {
    if invocation.has("--json") {
        return print(saved, console);
    }
    let (domain, to) = (clean(&saved["externalDomain"]), target_of(saved));
    let state = state_of(saved, api.is_running());
    console.say(format_args!("{what} {domain} -> {to}, {state} ({})", api.place()))?;
    Ok(EXIT_STOPPED)
}

fn print(value: &Value, console: &mut Console<'_>) -> Result<u8, Failure> {
    console.say(format_args!("{value:#}"))?;
    Ok(EXIT_STOPPED)
}

fn read_document(file: &str, console: &mut Console<'_>) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = match file {
        "-" => (&mut *console.input).take(MAX_IMPORT + 1).read_to_end(&mut bytes),
        _ => File::open(file).and_then(|file| file.take(MAX_IMPORT + 1).read_to_end(&mut bytes)),
    };
    read.map_err(|e| Failure::failed(format_args!("{file}: {e}")))?;
    if bytes.len() as u64 > MAX_IMPORT {
        return Err(Failure::failed(format_args!("{file}: is larger than {} MiB", MAX_IMPORT / 1024 / 1024)));
    }
    Ok(bytes)
}

fn import(
    api: &Api,
    document: &[u8],
    invocation: &Invocation,
    console: &mut Console<'_>,
) -> Result<u8, Failure> {
    let mode = if invocation.has("--replace") { "replace" } else { "merge" };
    let path = format!("/api/v1/mappings/import?mode={mode}&dryRun={}", invocation.has("--dry-run"));
    let (status, bytes) = api.call("POST", &path, Some(document))?;
    let value: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    let list = |field: &str| value[field].as_array().cloned().unwrap_or_default();
    let faults = list("faults");
    if status != 200 && faults.is_empty() {
        return Err(refusal(status, &bytes));
    }
    if invocation.has("--json") {
        print(&value, console)?;
        return Ok(if status == 200 { EXIT_STOPPED } else { EXIT_FAILED });
    }
    if !faults.is_empty() {
        let count = faults.len();
        console
            .note(format_args!("nothing was imported; {count} of the file's rows or fields are wrong:"))?;
        for fault in &faults {
            let (row, field) = (&fault["row"], clean(&fault["field"]));
            let domain = clean(&fault["externalDomain"]);
            console.note(format_args!("  row {row} {domain} {field}: {}", clean(&fault["message"])))?;
        }
        return Ok(EXIT_FAILED);
    }
    let would = if value["applied"] == true { "" } else { "would be " };
    for (field, word) in [("added", "added"), ("changed", "changed"), ("removed", "deleted")] {
        for row in list(field) {
            let shown = if row.get("after").is_some() { &row["after"] } else { &row };
            console.say(format_args!(
                "{would}{word} {} -> {}",
                clean(&shown["externalDomain"]),
                target_of(shown)
            ))?;
        }
    }
    let unchanged = value["unchanged"].as_u64().unwrap_or(0);
    console.say(format_args!("{unchanged} unchanged ({})", api.place()))?;
    Ok(EXIT_STOPPED)
}

fn export(api: &Api, invocation: &Invocation, console: &mut Console<'_>) -> Result<u8, Failure> {
    let value = api.json("GET", "/api/v1/mappings/export", None)?;
    let text = format!("{value:#}\n");
    let Some(file) = invocation.arguments.first().filter(|file| *file != "-") else {
        console.put(text.as_bytes())?;
        return Ok(EXIT_STOPPED);
    };
    let (path, force) = (Path::new(file), invocation.has("--force"));
    let prepared = Prepared::new(path, text.as_bytes(), PUBLIC, force).map_err(Failure::failed)?;
    prepared.put(force).map_err(Failure::failed)?;
    let count = value["mappings"].as_array().map_or(0, Vec::len);
    console.say(format_args!("wrote {count} mappings to {} ({})", path.display(), api.place()))?;
    Ok(EXIT_STOPPED)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_target_is_a_url_without_a_path() {
        for (text, host, port, tls) in [
            ("http://192.168.1.10:3000", "192.168.1.10", 3000, false),
            ("HTTPS://Nas", "nas", 443, true),
            ("http://nas/", "nas", 80, false),
            ("nas:8080", "nas", 8080, false),
            ("http://[fd00::1]:81", "fd00::1", 81, false),
        ] {
            let Ok(fields) = target(text) else { panic!("{text}") };
            let fields: Map<String, Value> = fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
            let expected = json!({ "internalHost": host, "internalPort": port, "internalUseTls": tls });
            assert_eq!(Value::from(fields), expected, "{text}");
        }
        for text in
            ["nas", "ftp://nas", "http://nas/path", "http://a b", "http://", "nas:x", "http://user@nas"]
        {
            assert!(matches!(target(text), Err(Failure::Said(2, _))), "{text}");
        }
    }
}
