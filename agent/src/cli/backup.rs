//! `octoporty-agent backup` and `restore`: the database as one file, and back.

use std::path::{Path, PathBuf};

use shared::settings::Reader;
use shared::settings::command::{EXIT_STOPPED, Flag, Invocation, Subcommand};
use shared::settings::console::{Console, Failure};
use shared::settings::start;

use crate::config::{self, DAEMON};
use crate::store;
use crate::timestamp;

pub(super) const BACKUP: Subcommand = Subcommand::new(
    "backup",
    "Copies the database (mappings, landing page, request log) into FILE, whether the Agent runs or not; a running one \
     does not notice. A FILE that exists is not overwritten; in a directory, a file with date and time in its name is \
     made. The copy is readable by its owner only.",
)
.takes("FILE|DIRECTORY")
.options(&[Flag::switch("--json", "Prints the file and its size as JSON.")])
.examples(&[
    ("octoporty-agent backup octoporty.db.bak", "Makes one copy."),
    ("octoporty-agent backup /srv/backups", "Makes /srv/backups/octoporty-YYYYMMDD-HHMMSS.db: for a timer."),
])
.finds_env_file();

pub(super) const RESTORE: Subcommand = Subcommand::new(
    "restore",
    "Puts a copy of FILE in the place of the database. FILE is checked before: it must be whole, an Agent's, and not of \
     a newer version. The database that was there is kept beside it. Stop the Agent first: while one runs, nothing is \
     changed.",
)
.takes("FILE")
.examples(&[
    (
        "octoporty-agent restore octoporty.db.bak",
        "Goes back to a backup, after systemctl stop octoporty-agent and before it is started again.",
    ),
    ("octoporty-agent restore /mnt/old/octoporty.db", "Takes over the database of the earlier program, too."),
])
.statuses(&[
    ("0", "Restored."),
    ("1", "FILE is not right, or an Agent runs; nothing was changed."),
    ("2", "Wrong arguments or settings."),
])
.finds_env_file();

pub(super) fn run(invocation: &Invocation, reader: Reader, console: &mut Console<'_>) -> Result<u8, Failure> {
    let file = PathBuf::from(invocation.arguments.first().cloned().unwrap_or_default());
    // The rest of the settings does not matter here: a backup must not fail because of a port.
    let database = match config::database_of(reader) {
        Ok(database) => database,
        Err(faults) => {
            let status = start::report(&DAEMON, &faults, console).map_err(Failure::Console)?;
            return Err(Failure::Silent(status));
        }
    };
    match invocation.command {
        "backup" => backup(&database, file, invocation.has("--json"), console),
        _ => restore(&database, &file, console),
    }
}

fn backup(database: &Path, to: PathBuf, json: bool, console: &mut Console<'_>) -> Result<u8, Failure> {
    let to = match to.is_dir() {
        true => to.join(format!("octoporty-{}.db", timestamp::file_form(timestamp::now()))),
        false => to,
    };
    let bytes = store::backup(database, &to).map_err(Failure::failed)?;
    let file = to.display().to_string();
    if json {
        console.say(serde_json::json!({ "file": file, "bytes": bytes }))?;
    } else {
        console.say(format_args!("wrote {file} ({bytes} bytes)"))?;
    }
    Ok(EXIT_STOPPED)
}

fn restore(database: &Path, from: &Path, console: &mut Console<'_>) -> Result<u8, Failure> {
    let restored = store::restore(database, from).map_err(Failure::failed)?;
    let count = restored.mappings;
    console.say(format_args!("restored {} with {count} mappings", database.display()))?;
    if let Some(kept) = restored.kept {
        console.say(format_args!("kept the database that was there as {}", kept.display()))?;
    }
    Ok(EXIT_STOPPED)
}
