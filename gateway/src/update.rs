//! Bringing the Gateway to another version: whether that is right, the file that asks for it, and what became of it.
//!
//! ```text
//!   Agent ── update ──▶ Gateway ── signal file ──▶ updater (another program, with the rights for it)
//!   Agent ◀── update-outcome ── Gateway ◀── signal file + ".outcome" ──┘
//! ```
//! The updater takes the signal file away when it begins, and writes what comes of it into the outcome file. All that
//! is known is in these two files, so it survives the restart in between, and nothing is queued for ever.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};
use shared::clock;
use shared::control::{UpdateOutcome, UpdateStatus};
use shared::threads::lock;
use shared::version::Version;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::config::Config;

/// Longest file that is read, bytes.
const MAX_FILE: u64 = 64 * 1024;
/// Longest text from a file that is passed on, characters.
const MAX_TEXT: usize = 500;
/// A signal that lies this long has nobody who looks for it.
const UNNOTICED: Duration = Duration::from_secs(3 * 60);
/// A signal or a running update that is older than this does not keep another from being asked for.
const GIVEN_UP: Duration = Duration::from_secs(3600);
/// How often the files are looked at.
pub(crate) const LOOK: Duration = Duration::from_secs(2);

/// The two files, and what they last said.
pub(crate) struct Update {
    allowed: bool,
    signal: PathBuf,
    outcome: PathBuf,
    last: Mutex<UpdateOutcome>,
}

/// What is to be done about a request.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Decision {
    Write,
    Answer(UpdateStatus, String),
}

impl Update {
    pub(crate) fn new(config: &Config) -> Update {
        let signal = config.update_signal_path.clone();
        let mut outcome = signal.clone().into_os_string();
        outcome.push(".outcome");
        let update = Update {
            allowed: config.allow_remote_update,
            signal,
            outcome: outcome.into(),
            last: Mutex::default(),
        };
        *lock(&update.last) = update.read(clock::now());
        update
    }

    /// An Agent asks for a version. `by` is what it calls itself.
    pub(crate) fn request(&self, target: &str, force: bool, by: &str) -> (UpdateStatus, String) {
        let now = clock::now();
        // One at a time: two Agents may ask at once.
        let mut last = lock(&self.last);
        *last = self.read(now);
        match decide(self.allowed, crate::VERSION, target, force, &last, now) {
            Decision::Answer(status, message) => (status, message),
            Decision::Write => {
                let text = json!({
                    "targetVersion": target,
                    "currentVersion": crate::VERSION,
                    "requestedBy": by,
                    "requestedAt": clock::iso(now),
                });
                match self.write(&text) {
                    Ok(()) => {
                        log::info!(
                            "agent {by:?} asks for an update to {target}; it is asked for in {}",
                            self.signal.display()
                        );
                        let message = format!("The update to {target} is queued");
                        (UpdateStatus::Queued, message)
                    }
                    Err(e) => {
                        log::warn!("cannot ask for the update to {target}: {}: {e}", self.signal.display());
                        let message = format!(
                            "The Gateway cannot write {}: {e}. Install its updater, or set Gateway__UpdateSignalPath",
                            self.signal.display()
                        );
                        (UpdateStatus::Rejected, message)
                    }
                }
            }
        }
    }

    /// How far the last update has got, as of the last look.
    pub(crate) fn last(&self) -> UpdateOutcome {
        lock(&self.last).clone()
    }

    /// Looks at the files. Whether that gave anything new.
    pub(crate) fn look(&self) -> bool {
        let now = self.read(clock::now());
        let mut last = lock(&self.last);
        let new = *last != now;
        *last = now;
        new
    }

    fn read(&self, now: OffsetDateTime) -> UpdateOutcome {
        match (read_json(&self.signal), read_json(&self.outcome)) {
            (Some(signal), _) => queued(&signal, now),
            (None, Some(outcome)) => ended(&outcome),
            (None, None) => UpdateOutcome { state: "none".into(), ..UpdateOutcome::default() },
        }
    }

    /// Writes the signal so that nobody ever sees half of it.
    fn write(&self, text: &Value) -> io::Result<()> {
        let directory = self.signal.parent().filter(|path| !path.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        let mut name = self.signal.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{}.tmp", std::process::id()));
        let temporary = directory.join(name);
        let write = || {
            let mut file = File::create(&temporary)?;
            file.write_all(format!("{text:#}\n").as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &self.signal)?;
            File::open(directory)?.sync_all()
        };
        let written = write();
        if written.is_err() {
            // It may never have been made.
            let _ = fs::remove_file(&temporary);
        }
        written
    }
}

fn decide(
    allowed: bool,
    current: &str,
    target: &str,
    force: bool,
    last: &UpdateOutcome,
    now: OffsetDateTime,
) -> Decision {
    let reject = |message: String| Decision::Answer(UpdateStatus::Rejected, message);
    if !allowed {
        return reject("This Gateway takes no updates from Agents (Gateway__AllowRemoteUpdate=false)".into());
    }
    let (Some(wanted), Some(present)) = (Version::parse(target), Version::parse(current)) else {
        return reject(format!("{:?} is no version", clean(target)));
    };
    if wanted < present {
        return reject(format!(
            "The Gateway has {current}, which is newer than {target}: it does not go back; update the Agent"
        ));
    }
    if wanted == present && !force {
        return reject(format!("The Gateway has {current} already"));
    }
    let fresh = last.at.as_deref().and_then(parse).is_some_and(|at| now - at < GIVEN_UP);
    let before = last.target_version.as_deref().and_then(Version::parse);
    let same = before.is_some_and(|before| before >= wanted);
    match last.state.as_str() {
        "queued" if fresh && same => Decision::Answer(
            UpdateStatus::AlreadyQueued,
            format!("The update to {} is queued already", last.target_version.as_deref().unwrap_or_default()),
        ),
        "running" if fresh => Decision::Answer(
            UpdateStatus::AlreadyQueued,
            format!(
                "An update to {} is running",
                last.target_version.as_deref().unwrap_or("another version")
            ),
        ),
        _ => Decision::Write,
    }
}

/// What the signal file says.
fn queued(signal: &Value, now: OffsetDateTime) -> UpdateOutcome {
    let at = text(signal, "requestedAt");
    let age = at.as_deref().and_then(parse).map(|at| now - at);
    let message = match age {
        Some(age) if age < UNNOTICED => "Waiting for the updater",
        _ => "The updater has not picked it up: is it installed and running on the Gateway's machine?",
    };
    UpdateOutcome {
        state: "queued".into(),
        target_version: text(signal, "targetVersion"),
        from_version: text(signal, "currentVersion"),
        message: Some(message.into()),
        at,
    }
}

/// What the outcome file says.
fn ended(outcome: &Value) -> UpdateOutcome {
    let state = text(outcome, "state").unwrap_or_default();
    let known = ["running", "succeeded", "failed", "rolled-back"].contains(&state.as_str());
    let message = text(outcome, "message");
    UpdateOutcome {
        message: if known {
            message
        } else {
            Some(format!("the updater left an outcome that is none: {state:?}"))
        },
        state: if known { state } else { "failed".into() },
        target_version: text(outcome, "targetVersion"),
        from_version: text(outcome, "fromVersion"),
        at: text(outcome, "at"),
    }
}

/// A file's JSON. One that cannot be read or understood counts as empty, so that it is seen to be there.
fn read_json(path: &Path) -> Option<Value> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes)) {
        Ok(_) => Some(serde_json::from_slice(&bytes).unwrap_or(Value::Null)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => {
            log::debug!("{}: {e}", path.display());
            None
        }
    }
}

fn text(value: &Value, field: &str) -> Option<String> {
    value.get(field).and_then(Value::as_str).map(clean)
}

fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect()
}

fn parse(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: &str = "2026-01-01T12:00:00.000Z";

    fn noon() -> OffsetDateTime {
        parse(NOON).expect("a time")
    }

    fn state(state: &str, target: &str, at: &str) -> UpdateOutcome {
        UpdateOutcome {
            state: state.into(),
            target_version: Some(target.into()),
            at: Some(at.into()),
            ..UpdateOutcome::default()
        }
    }

    fn status(decision: Decision) -> Option<UpdateStatus> {
        match decision {
            Decision::Write => None,
            Decision::Answer(status, message) => {
                assert!(!message.is_empty());
                Some(status)
            }
        }
    }

    #[test]
    fn only_forward_and_only_when_allowed() {
        let none = UpdateOutcome::default();
        let ask =
            |allowed, current, target, force| status(decide(allowed, current, target, force, &none, noon()));
        let rejected = Some(UpdateStatus::Rejected);
        assert_eq!(ask(true, "0.9.47", "0.9.100", false), None, "numbers, not text");
        assert_eq!(ask(true, "0.9.9", "0.9.47", false), None);
        assert_eq!(ask(true, "1.0.0-rc.1", "1.0.0", false), None);
        assert_eq!(ask(false, "1.0.0", "2.0.0", true), rejected);
        assert_eq!(ask(true, "1.0.0", "1.0.0", false), rejected);
        assert_eq!(ask(true, "1.0.0", "1.0.0", true), None, "again, as asked");
        assert_eq!(ask(true, "1.0.1", "1.0.0", true), rejected, "never back");
        assert_eq!(ask(true, "1.0.0", "2.0.0; rm -rf /", true), rejected);
    }

    #[test]
    fn what_is_queued_is_not_queued_for_ever() {
        let ask = |last: &UpdateOutcome, target| status(decide(true, "1.0.0", target, false, last, noon()));
        let queued = Some(UpdateStatus::AlreadyQueued);
        assert_eq!(ask(&state("queued", "1.1.0", "2026-01-01T11:59:00Z"), "1.1.0"), queued);
        assert_eq!(
            ask(&state("queued", "1.1.0", "2026-01-01T11:59:00Z"), "1.2.0"),
            None,
            "a later one goes on top"
        );
        assert_eq!(ask(&state("queued", "1.1.0", "2026-01-01T10:00:00Z"), "1.1.0"), None, "nobody came");
        assert_eq!(ask(&state("queued", "1.1.0", "rubbish"), "1.1.0"), None);
        assert_eq!(ask(&state("running", "1.1.0", "2026-01-01T11:50:00Z"), "1.2.0"), queued);
        assert_eq!(ask(&state("running", "1.1.0", "2026-01-01T10:50:00Z"), "1.2.0"), None);
        for ended in ["none", "succeeded", "failed", "rolled-back"] {
            assert_eq!(ask(&state(ended, "1.1.0", "2026-01-01T11:59:00Z"), "1.1.0"), None, "{ended}");
        }
    }

    #[test]
    fn the_files_say_how_far_it_has_got() {
        let directory = std::env::temp_dir().join(format!("octoporty-update-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        let update = Update {
            allowed: true,
            signal: directory.join("signal"),
            outcome: directory.join("signal.outcome"),
            last: Mutex::default(),
        };
        assert!(update.look());
        assert_eq!(update.last().state, "none");

        let (status, message) = update.request("999.0.0", false, "nas");
        assert_eq!(status, UpdateStatus::Queued, "{message}");
        let written: Value =
            serde_json::from_slice(&fs::read(&update.signal).expect("the signal")).expect("JSON");
        assert_eq!(written["targetVersion"], "999.0.0");
        assert_eq!(written["currentVersion"], crate::VERSION);
        assert_eq!(written["requestedBy"], "nas");
        assert_eq!(fs::read_dir(&directory).expect("a directory").count(), 1, "nothing but the signal");
        assert!(update.look());
        assert_eq!(update.last().state, "queued");
        assert_eq!(update.request("999.0.0", false, "nas").0, UpdateStatus::AlreadyQueued);

        // The updater takes it away, and says what it does.
        fs::remove_file(&update.signal).expect("the signal");
        let running = json!({ "state": "running", "targetVersion": "999.0.0", "at": clock::now_iso() });
        fs::write(&update.outcome, running.to_string()).expect("written");
        assert!(update.look());
        assert_eq!(update.last().state, "running");
        let ended = json!({
            "state": "rolled-back", "targetVersion": "999.0.0", "fromVersion": "1.0.0",
            "message": "no health after 60 s\n", "at": NOON,
        });
        fs::write(&update.outcome, ended.to_string()).expect("written");
        assert!(update.look());
        assert!(!update.look());
        assert_eq!(
            update.last(),
            UpdateOutcome {
                state: "rolled-back".into(),
                target_version: Some("999.0.0".into()),
                from_version: Some("1.0.0".into()),
                message: Some("no health after 60 s".into()),
                at: Some(NOON.into()),
            }
        );
        fs::write(&update.outcome, "{").expect("written");
        assert!(update.look());
        assert_eq!(update.last().state, "failed");
        fs::remove_dir_all(&directory).expect("removed");
        assert_eq!(
            update.request("999.0.0", false, "nas").0,
            UpdateStatus::Rejected,
            "no directory, no update"
        );
    }

    #[test]
    fn a_signal_that_nobody_takes_says_so() {
        let signal = |at: &str| json!({ "targetVersion": "2.0.0", "requestedAt": at });
        let message = |at: &str| queued(&signal(at), noon()).message.expect("a message");
        assert_eq!(message("2026-01-01T11:59:00Z"), "Waiting for the updater");
        assert!(message("2026-01-01T11:00:00Z").contains("has not picked it up"));
        assert!(message("?").contains("has not picked it up"));
    }
}
