//! From the command line to a configuration, or to an exit status: what both `main` functions begin with.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::IpAddr;

use super::command::{self, EXIT_FAILED, EXIT_STOPPED, EXIT_WRONG, Invocation};
use super::{Daemon, Fault, Reader, healthcheck};

/// What `main` does next.
#[derive(Debug)]
pub enum Command<C> {
    /// Run the daemon.
    Run(Box<C>),
    /// Everything is done and said: exit with this status.
    Done(u8),
}

/// Standard input, output and error, so that a test can look.
pub struct Console<'a> {
    /// Standard input.
    pub input: &'a mut dyn Read,
    /// Standard output: what was asked for.
    pub output: &'a mut dyn Write,
    /// Standard error: what went wrong.
    pub error: &'a mut dyn Write,
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
pub type Other = fn(&Invocation, Reader, &mut Console<'_>) -> io::Result<u8>;

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
            writeln!(console.error, "{name}: {fault}\n{}", command::usage(daemon))?;
            return Ok(Command::Done(EXIT_WRONG));
        }
    };
    let reader = || Reader::new(daemon, environment, invocation.env_file.as_deref());
    let status = match invocation.command {
        "help" => {
            write!(console.output, "{}", command::help(daemon))?;
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
            other(&invocation, reader(), console)?
        }
    };
    console.output.flush()?;
    Ok(Command::Done(status))
}

/// Says everything that is wrong, at once.
fn report(daemon: &Daemon, faults: &[Fault], console: &mut Console<'_>) -> io::Result<u8> {
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
