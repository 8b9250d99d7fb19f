//! What the `init` commands of both daemons share: options, where the file goes, and that it is checked before it is
//! put there. What is asked and written is left to the daemons.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::command::{Flag, Invocation};
use super::console::{Console, Failure};
use super::env_file::{PRIVATE, Prepared};
use super::{Daemon, Fault, Reader};
use crate::secret::Secret;

/// `--api-key`.
pub const API_KEY: Flag = Flag::value(
    "--api-key",
    "KEY",
    "The key that Gateway and Agents share, at least 32 characters. Others on this machine can see it while the \
     command runs: --api-key-file hides it.",
);
/// `--api-key-file`.
pub const API_KEY_FILE: Flag =
    Flag::value("--api-key-file", "FILE", "Reads the key from FILE; - is standard input.");
/// `--output`.
pub const OUTPUT: Flag = Flag::value(
    "--output",
    "FILE",
    "The env file to write, with rights 0600. Without it: in /etc/octoporty when that can be written, else in the \
     present directory.",
);
/// `--force`.
pub const FORCE: Flag =
    Flag::switch("--force", "Replaces files that exist; the old ones are kept beside them as FILE.old.");
/// `--non-interactive`.
pub const NON_INTERACTIVE: Flag =
    Flag::switch("--non-interactive", "Asks nothing, also on a terminal: options and defaults must do.");

/// Longest file with one secret in it.
const MAX_SECRET: u64 = 64 * 1024;

/// Where the env file goes.
pub fn output(daemon: &Daemon, invocation: &Invocation) -> PathBuf {
    if let Some(path) = invocation.value("--output") {
        return path.into();
    }
    let installed = Path::new(daemon.env_file);
    if installed.parent().is_some_and(can_be_written) {
        return installed.to_owned();
    }
    installed.file_name().unwrap_or_default().into()
}

/// Whether files can be made in `directory`, after making it if need be.
fn can_be_written(directory: &Path) -> bool {
    if fs::create_dir_all(directory).is_err() {
        return false;
    }
    let probe = directory.join(format!(".write-test-{}", std::process::id()));
    let made = fs::OpenOptions::new().write(true).create_new(true).open(&probe).is_ok();
    made && fs::remove_file(&probe).is_ok()
}

/// The first line of a file, or of standard input for `-`.
pub fn first_line(option: &str, file: &OsString, console: &mut Console<'_>) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = if file == "-" {
        (&mut *console.input).take(MAX_SECRET).read_to_end(&mut bytes)
    } else {
        File::open(file).and_then(|file| file.take(MAX_SECRET).read_to_end(&mut bytes))
    };
    read.map_err(|e| Failure::wrong(format!("{option} {}: {e}", file.to_string_lossy())))?;
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err(Failure::wrong(format!("{option} {}: is empty", file.to_string_lossy())));
    }
    Ok(line.to_vec())
}

/// The key from `--api-key` or `--api-key-file`, if one is there.
pub fn api_key(invocation: &Invocation, console: &mut Console<'_>) -> Result<Option<String>, Failure> {
    match (invocation.text("--api-key")?, invocation.value("--api-key-file")) {
        (Some(_), Some(_)) => Err(Failure::wrong("--api-key and --api-key-file: only one of them, please")),
        (Some(key), None) => Ok(Some(key.to_owned())),
        (None, Some(file)) => {
            let line = first_line("--api-key-file", &file.to_owned(), console)?;
            let key = String::from_utf8(line).map_err(|_| {
                Failure::wrong(format!("--api-key-file {}: is not UTF-8", file.to_string_lossy()))
            })?;
            Ok(Some(key.trim().to_owned()))
        }
        (None, None) => Ok(None),
    }
}

/// Asks until `check` is content.
pub fn ask_until<T>(
    console: &mut Console<'_>,
    question: &str,
    default: &str,
    check: impl Fn(&str) -> Result<T, String>,
) -> Result<T, Failure> {
    loop {
        let answer = console.ask(question, default)?;
        match check(&answer) {
            Ok(value) => return Ok(value),
            Err(rule) => console.note(format_args!("  {rule}"))?,
        }
    }
}

/// A new secret, or the reason why there is none.
pub fn new_secret() -> Result<Secret, Failure> {
    Secret::generate().map_err(|e| Failure::failed(format!("the system gives no random bytes: {e}")))
}

/// Writes the env file beside its place and has the daemon read it, so that what is put in place is known to work.
/// The faults name settings, not options; both are close enough to be recognised.
pub fn prepare<C>(
    daemon: &'static Daemon,
    load: fn(Reader) -> Result<C, Vec<Fault>>,
    path: &Path,
    text: &str,
    force: bool,
) -> Result<(Prepared, C), Failure> {
    let prepared = Prepared::new(path, text.as_bytes(), PRIVATE, force).map_err(Failure::failed)?;
    match load(Reader::new(daemon, [], Some(prepared.temporary()))) {
        Ok(config) => Ok((prepared, config)),
        Err(faults) => {
            let mut said = String::from("nothing was written:");
            for mut fault in faults {
                // The file and line are those of a file that will be gone.
                fault.source = None;
                said.push_str(&format!("\n  {fault}"));
            }
            Err(Failure::wrong(said))
        }
    }
}
