//! `octoporty-agent hash-password`: a password in, the hash for `Agent__Auth__PasswordHash` out.

use shared::settings::command::{EXIT_STOPPED, Subcommand};
use shared::settings::console::{Console, Failure};

use crate::password::{MAX_PASSWORD, PasswordHash};

pub(super) const COMMAND: Subcommand = Subcommand::new(
    "hash-password",
    "Reads a password from standard input and prints its hash, for Agent__Auth__PasswordHash. On a terminal it asks \
     for the password and shows nothing of it.\n\n\
     The hash contains $: put it in single quotes in an env file and on a command line, and double each $ inside a \
     compose file.",
)
.examples(&[
    ("octoporty-agent hash-password", "Asks for a password and prints its hash."),
    ("octoporty-agent hash-password < password.txt", "Takes the first line of a file."),
]);

pub(super) fn run(console: &mut Console<'_>) -> Result<u8, Failure> {
    let password = console.ask_hidden("password")?;
    let hash = hash(&password)?;
    console.say(hash)?;
    Ok(EXIT_STOPPED)
}

/// The hash of a password that the Agent would accept.
pub(super) fn hash(password: &[u8]) -> Result<PasswordHash, Failure> {
    match password.len() {
        0 => Err(Failure::failed("the password is empty")),
        length if length > MAX_PASSWORD => {
            Err(Failure::failed(format_args!("the password is longer than {MAX_PASSWORD} bytes")))
        }
        _ => PasswordHash::make(password)
            .map_err(|e| Failure::failed(format_args!("the system gives no random bytes: {e}"))),
    }
}
