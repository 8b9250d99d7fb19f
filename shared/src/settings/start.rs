//! From the command line to a configuration, or to an exit status: what both `main` functions begin with.

use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::command::{self, EXIT_FAILED, EXIT_STOPPED, EXIT_WRONG, Invocation, Subcommand};
pub use super::console::{Console, Failure, Terminal};
use super::{Daemon, Fault, Reader, healthcheck, help};

/// What `main` does next.
#[derive(Debug)]
pub enum Command<C> {
    /// Run the daemon.
    Run(Box<C>),
    /// Everything is done and said: exit with this status.
    Done(u8),
}

/// What differs between the daemons.
pub struct Program<C> {
    /// Its settings and sub-commands.
    pub daemon: &'static Daemon,
    /// Makes the configuration of the settings.
    pub load: fn(Reader) -> Result<C, Vec<Fault>>,
    /// What the configuration's reader warned of.
    pub warnings: fn(&C) -> &[String],
    /// Where the daemon listens, for the health check.
    pub address: fn(&mut Reader) -> (IpAddr, u16),
    /// Does what a sub-command asks for that only this daemon has, and gives the exit status.
    pub other: Option<Other>,
}

/// A daemon's own sub-commands.
pub type Other = fn(&Invocation, Reader, &mut Console<'_>) -> Result<u8, Failure>;

/// Does what the command line says, up to the point where the daemon would start.
pub fn start<C>(
    program: &Program<C>,
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    console: &mut Console<'_>,
) -> Command<C> {
    match decide(program, arguments, environment, console) {
        Ok(command) => command,
        // Whoever reads has gone away (`--help | head`), and with him the place to say so.
        Err(_) => Command::Done(EXIT_FAILED),
    }
}

fn decide<C>(
    program: &Program<C>,
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    console: &mut Console<'_>,
) -> io::Result<Command<C>> {
    let daemon = program.daemon;
    let name = daemon.program;
    let invocation = match command::parse(daemon, arguments) {
        Ok(invocation) => invocation,
        Err(fault) => {
            writeln!(console.error, "{name}: {fault}\n{}", help::usage(daemon))?;
            return Ok(Command::Done(EXIT_WRONG));
        }
    };
    let environment: Vec<(OsString, OsString)> = environment.into_iter().collect();
    let env_file = match (&invocation.env_file, daemon.commands.iter().find(|c| c.name == invocation.command))
    {
        (None, Some(command)) => usual_env_file(daemon, command, &environment),
        (given, _) => given.clone(),
    };
    let reader = || Reader::new(daemon, environment, env_file.as_deref());
    let status = match invocation.command {
        "help" => {
            write!(console.output, "{}", help::help(daemon, invocation.topic))?;
            EXIT_STOPPED
        }
        "version" => {
            writeln!(console.output, "{name} {}", daemon.version)?;
            EXIT_STOPPED
        }
        "run" => match (program.load)(reader()) {
            Ok(config) => return Ok(Command::Run(Box::new(config))),
            Err(faults) => report(daemon, &faults, console)?,
        },
        "check" => {
            let reader = reader();
            let given = reader.given();
            match (program.load)(reader) {
                Ok(config) => {
                    for line in given {
                        writeln!(console.output, "{line}")?;
                    }
                    for warning in (program.warnings)(&config) {
                        writeln!(console.error, "{name}: warning: {warning}")?;
                    }
                    writeln!(console.output, "{name}: the settings are valid")?;
                    EXIT_STOPPED
                }
                Err(faults) => report(daemon, &faults, console)?,
            }
        }
        "healthcheck" => {
            let mut reader = reader();
            let (bind, port) = (program.address)(&mut reader);
            match healthcheck::ask(bind, port) {
                Ok(()) => EXIT_STOPPED,
                Err(unwell) => {
                    writeln!(console.error, "{name}: {unwell}")?;
                    EXIT_FAILED
                }
            }
        }
        command => {
            let other = program.other.unwrap_or_else(|| panic!("nobody does the sub-command {command}"));
            match other(&invocation, reader(), console) {
                Ok(status) => status,
                Err(Failure::Console(error)) => return Err(error),
                Err(Failure::Silent(status)) => status,
                Err(Failure::Said(status, text)) => {
                    writeln!(console.error, "{name}: {text}")?;
                    status
                }
            }
        }
    };
    console.output.flush()?;
    Ok(Command::Done(status))
}

/// The settings file of the installed service, for commands that want it, when the environment has no settings.
fn usual_env_file(
    daemon: &Daemon,
    command: &Subcommand,
    environment: &[(OsString, OsString)],
) -> Option<PathBuf> {
    let file = Path::new(daemon.env_file);
    if !command.finds_env_file || daemon.env_file.is_empty() || !file.exists() {
        return None;
    }
    let names = || environment.iter().filter_map(|(name, _)| name.to_str());
    let is_setting = |name: &str| {
        // A secret may be in a file that a variable names.
        let stem = name.len().checked_sub("_FILE".len()).and_then(|at| name.split_at_checked(at));
        let stem = stem.filter(|(_, end)| end.eq_ignore_ascii_case("_FILE")).map(|(stem, _)| stem);
        let mut known = daemon.settings.iter().flat_map(|setting| setting.names());
        known.any(|known| [Some(name), stem].iter().flatten().any(|name| name.eq_ignore_ascii_case(known)))
    };
    (!names().any(is_setting)).then(|| file.to_owned())
}

/// Says everything that is wrong, at once.
pub fn report(daemon: &Daemon, faults: &[Fault], console: &mut Console<'_>) -> io::Result<u8> {
    let name = daemon.program;
    let count = faults.len();
    let what = if count == 1 { "1 setting is wrong" } else { &format!("{count} settings are wrong") };
    writeln!(console.error, "{name}: {what}:")?;
    for fault in faults {
        writeln!(console.error, "  {fault}")?;
    }
    writeln!(console.error, "try '{name} --help' for all settings")?;
    Ok(EXIT_WRONG)
}

#[cfg(test)]
mod tests {
    use super::super::Setting;
    use super::super::command::COMMON;
    use super::*;

    #[test]
    fn the_file_of_the_installed_service_is_for_commands_that_were_told_nothing() {
        let path = std::env::temp_dir().join(format!("octoporty-usual-{}.env", std::process::id()));
        std::fs::write(&path, "").expect("written");
        let env_file: &'static str = path.to_str().expect("UTF-8").to_owned().leak();
        const SETTINGS: &[Setting] =
            &[Setting::number("Test__Port", 1, 0, 9, "A port.").aliases(&["TEST_PORT"])];
        let daemon = |env_file| Daemon {
            program: "octoporty-test",
            version: "1",
            summary: "",
            description: "",
            settings: SETTINGS,
            prefixes: &["Test__"],
            legacy: &[],
            commands: &COMMON,
            examples: &[],
            env_file,
            files: &[],
            port_key: "Test__Port",
        };
        let found = |env_file, command: &str, names: &[&str]| {
            let command = COMMON.iter().find(|known| known.name == command).expect("a command");
            let environment: Vec<_> =
                names.iter().map(|n| (OsString::from(n), OsString::from("1"))).collect();
            usual_env_file(&daemon(env_file), command, &environment).is_some()
        };
        assert!(found(env_file, "healthcheck", &["PATH", "HOME"]));
        assert!(!found(env_file, "run", &["PATH"]), "the unit says what the daemon reads");
        for name in ["Test__Port", "test__port", "TEST_PORT", "Test__Port_FILE"] {
            assert!(!found(env_file, "healthcheck", &[name]), "{name}: somebody has said something");
        }
        assert!(!found("", "healthcheck", &[]));
        std::fs::remove_file(&path).expect("removed");
        assert!(!found(env_file, "healthcheck", &[]), "it is not there");
    }
}
