//! Programs of others that judge what the daemons make: real parsers, written in Python.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where `scripts/test-tools` puts an interpreter with the packages that tests use.
fn interpreter() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/python/bin/python")
}

/// A command that runs a program which goes on for longer.
pub fn command(program: &str) -> Command {
    let mut command = Command::new(interpreter());
    command.args(["-I", "-u", "-c", program]);
    command
}

/// Runs a program with `input` at its standard input, and gives what it printed. Panics with what it complained of
/// when it fails.
pub fn run(program: &str, input: &[u8]) -> String {
    let python = interpreter();
    let mut child = Command::new(&python)
        .args(["-I", "-c", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{}: {e}; scripts/test-tools installs it", python.display()));
    let mut stdin = child.stdin.take().expect("a pipe");
    let written = stdin.write_all(input);
    drop(stdin);
    let output = child.wait_with_output().expect("an end");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    written.expect("it read everything");
    String::from_utf8(output.stdout).expect("text")
}
