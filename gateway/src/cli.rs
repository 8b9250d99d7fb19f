//! What `octoporty-gateway` does besides running: one file per sub-command, and the table of them.
//!
//! Parsing and `--help` are left to `shared::settings`.

mod caddyfile;
mod init;

use shared::settings::Reader;
use shared::settings::command::{COMMON, Invocation, Subcommand};
use shared::settings::console::{Console, Failure};

/// All sub-commands, in the order of `--help`.
pub(crate) const COMMANDS: &[Subcommand] = {
    let [run, check, healthcheck, version] = COMMON;
    &[run, init::COMMAND, check, healthcheck, version]
};

/// What a newcomer wants first.
pub(crate) const EXAMPLES: &[(&str, &str)] = &[
    (
        "octoporty-gateway init --fqdn gateway.example.com",
        "Makes a key, writes the settings and a Caddyfile.",
    ),
    (
        "octoporty-gateway --env-file /etc/octoporty/gateway.env",
        "Runs the Gateway with the settings of the installed service.",
    ),
    ("octoporty-gateway check --env-file gateway.env", "Says what is wrong with settings, all at once."),
];

/// Does what a sub-command of the Gateway's own asks for.
pub(crate) fn run(invocation: &Invocation, _: Reader, console: &mut Console<'_>) -> Result<u8, Failure> {
    match invocation.command {
        "init" => init::run(invocation, console),
        command => unreachable!("the table has the sub-command {command}, and nobody does it"),
    }
}
