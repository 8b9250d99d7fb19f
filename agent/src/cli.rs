//! What `octoporty-agent` does besides running: one file per sub-command, and the table of them.
//!
//! Parsing and `--help` are left to `shared::settings`; what a command changes goes through the same code as a
//! change from the admin page.

mod backup;
mod client;
mod doctor;
mod hash_password;
mod init;
mod mappings;

use shared::settings::Reader;
use shared::settings::command::{COMMON, Invocation, Subcommand};
use shared::settings::console::{Console, Failure};
use shared::settings::start;

use crate::config::{Config, DAEMON};

/// All sub-commands, in the order of `--help`.
pub(crate) const COMMANDS: &[Subcommand] = {
    let [run, check, healthcheck, version] = COMMON;
    &[
        run,
        init::COMMAND,
        check,
        doctor::COMMAND,
        hash_password::COMMAND,
        mappings::LIST,
        mappings::ADD,
        mappings::SET,
        mappings::RM,
        mappings::IMPORT,
        mappings::EXPORT,
        backup::BACKUP,
        backup::RESTORE,
        healthcheck,
        version,
    ]
};

/// What a newcomer wants first.
pub(crate) const EXAMPLES: &[(&str, &str)] = &[
    ("octoporty-agent init --fqdn gateway.example.com", "Asks for key and password and writes the settings."),
    (
        "octoporty-agent doctor",
        "Says which part of the way to the Gateway and back is broken, and what to do.",
    ),
    ("octoporty-agent mappings add photos.example.com http://192.168.1.10:2283", "Publishes a service."),
    (
        "octoporty-agent --env-file /etc/octoporty/agent.env",
        "Runs the Agent with the settings of the installed service.",
    ),
];

/// Does what a sub-command of the Agent's own asks for.
pub(crate) fn run(invocation: &Invocation, reader: Reader, console: &mut Console<'_>) -> Result<u8, Failure> {
    match invocation.command {
        "init" => init::run(invocation, console),
        "doctor" => doctor::run(invocation, reader, console),
        "backup" | "restore" => backup::run(invocation, reader, console),
        "hash-password" => hash_password::run(console),
        command if command.starts_with("mappings ") => mappings::run(invocation, reader, console),
        command => unreachable!("the table has the sub-command {command}, and nobody does it"),
    }
}

/// The configuration, for commands that need all of it; its faults are said as at the start of the daemon.
fn load(reader: Reader, console: &mut Console<'_>) -> Result<Config, Failure> {
    match Config::load(reader) {
        Ok(config) => Ok(config),
        Err(faults) => {
            let status = start::report(&DAEMON, &faults, console).map_err(Failure::Console)?;
            Err(Failure::Silent(status))
        }
    }
}
