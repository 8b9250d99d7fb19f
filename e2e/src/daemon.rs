//! A daemon as a process: started with an environment of its own, everything it says collected, ended by its id.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use crate::journal::{Journal, PATIENCE, try_until, until};

/// What a daemon's readiness line contains before its address.
const LISTENING: &str = "listening on http://";
/// Lines shown of each daemon when a test fails.
const SHOWN: usize = 150;

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Program {
    /// `octoporty-gateway`.
    Gateway,
    /// `octoporty-agent`.
    Agent,
}

impl Program {
    /// Name of the binary.
    pub fn name(self) -> &'static str {
        match self {
            Program::Gateway => "octoporty-gateway",
            Program::Agent => "octoporty-agent",
        }
    }

    /// The binary, built if need be.
    ///
    /// `OCTOPORTY_BIN_DIR` names a folder with binaries to test instead, such as the ones of a release.
    pub fn binary(self) -> PathBuf {
        static FOLDER: OnceLock<PathBuf> = OnceLock::new();
        let folder = FOLDER.get_or_init(|| match std::env::var_os("OCTOPORTY_BIN_DIR") {
            Some(folder) => folder.into(),
            None => build(),
        });
        folder.join(self.name())
    }
}

/// Builds both daemons with the profile of this test, and gives the folder where they are: the tests' own package
/// depends on neither, so that Cargo alone would not.
fn build() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    // <target>/<profile>/deps/<test>, or <target>/<profile>/<example or binary>
    let folder = test.parent().expect("a folder");
    let folder = if folder.ends_with("deps") { folder.parent().expect("a folder") } else { folder };
    let target = folder.parent().expect("the target folder");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "-p", Program::Gateway.name(), "-p", Program::Agent.name()]);
    cargo.arg("--manifest-path").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"));
    cargo.arg("--target-dir").arg(target);
    // What Cargo tells this test about its own package would make build scripts believe that something has changed.
    let about_us = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| about_us.iter().any(|prefix| name.starts_with(prefix))) {
            cargo.env_remove(name);
        }
    }
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.status().unwrap_or_else(|e| panic!("cannot run {cargo:?}: {e}"));
    assert!(status.success(), "{cargo:?}: {status}");
    folder.to_owned()
}

/// A running daemon; killed when dropped.
pub struct Daemon {
    name: String,
    child: Child,
    lines: Arc<Journal<String>>,
    readers: Vec<thread::JoinHandle<()>>,
}

/// What a daemon's process said until it ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Runs a daemon that is expected to end by itself: `--help`, `--check`, a wrong setting.
pub fn run(program: Program, arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
    let mut command = Command::new(program.binary());
    command.args(arguments).env_clear().envs(environment.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let read = |stream: Option<Box<dyn Read + Send>>| {
        let mut stream = stream.expect("piped");
        thread::spawn(move || {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).expect("output of a child");
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let out = read(child.stdout.take().map(|s| Box::new(s) as _));
    let err = read(child.stderr.take().map(|s| Box::new(s) as _));
    let status = wait_for_exit(&mut child, PATIENCE).unwrap_or_else(|| {
        child.kill().expect("kill");
        panic!("{command:?} did not end within {PATIENCE:?}")
    });
    let text = |thread: thread::JoinHandle<String>| thread.join().expect("reading does not panic");
    Ended { status, out: text(out), err: text(err) }
}

impl Daemon {
    /// Starts a program. It is ready once [`address`](Daemon::address) returns.
    pub fn spawn<'e>(
        name: &str,
        command: &mut Command,
        env: impl IntoIterator<Item = (&'e str, &'e str)>,
    ) -> Daemon {
        command.env_clear().env("RUST_BACKTRACE", "1").envs(env);
        // Where `sh` and friends are, and where a coverage build writes to.
        for kept in ["PATH", "LLVM_PROFILE_FILE"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        reaper(&format!("+ {}", child.id()));
        let lines = Arc::new(Journal::default());
        let readers = vec![
            collect(child.stdout.take().expect("piped"), &lines),
            collect(child.stderr.take().expect("piped"), &lines),
        ];
        Daemon { name: name.to_owned(), child, lines, readers }
    }

    /// What the test calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits for the readiness line and gives the address in it.
    pub fn address(&mut self) -> SocketAddr {
        let line = self.wait_line(LISTENING);
        let (_, rest) = line.split_once(LISTENING).expect("waited for it");
        let text = rest.split(['/', ' ', ',']).next().unwrap_or_default();
        text.parse().unwrap_or_else(|e| panic!("{}: address in {line:?}: {e}", self.name))
    }

    /// Waits for a line that contains `wanted`.
    pub fn wait_line(&mut self, wanted: &str) -> String {
        self.wait_lines(wanted, 1)
    }

    /// Waits until `count` lines contain `wanted`; gives the last of them.
    pub fn wait_lines(&mut self, wanted: &str, count: usize) -> String {
        let find = |lines: &[String]| lines.iter().filter(|l| l.contains(wanted)).nth(count - 1).cloned();
        // A daemon that has ended says nothing more: no use in waiting for the whole patience.
        until(&format!("{}: {count} lines with {wanted:?}", self.name), PATIENCE, || {
            let found = self.lines.wait(Duration::from_millis(100), find);
            if found.is_none()
                && let Some(status) = self.child.try_wait().expect("wait")
            {
                let said = self.lines.look(|lines| lines.join("\n"));
                panic!("{} ended with {status} before it said {wanted:?}:\n{said}", self.name);
            }
            found
        })
    }

    /// Everything it said so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.look(<[_]>::to_vec)
    }

    /// Everything it said, once it has ended.
    pub fn ended(mut self) -> String {
        self.wait_exit(PATIENCE);
        for reader in self.readers.drain(..) {
            reader.join().expect("reading does not panic");
        }
        self.lines().join("\n")
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap_or_else(|e| panic!("{}: {e}", self.name));
        self.child.wait().expect("wait");
        reaper(&format!("- {}", self.pid()));
    }

    /// Sends a signal by its name: `TERM`, `STOP`, `CONT`, `INT`, `HUP`.
    pub fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        let status = Command::new("kill").args(["-s", signal, &pid]).status();
        let status = status.unwrap_or_else(|e| panic!("kill: {e}"));
        assert!(status.success(), "kill -s {signal} {}: {status}", self.name);
    }

    /// Waits until it has ended by itself.
    pub fn wait_exit(&mut self, patience: Duration) -> ExitStatus {
        let status = wait_for_exit(&mut self.child, patience);
        status.unwrap_or_else(|| panic!("{} still runs after {patience:?}", self.name))
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.status_number("VmRSS:")
    }

    /// Number of threads.
    pub fn threads(&self) -> u64 {
        self.status_number("Threads:")
    }

    /// Number of open descriptors.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("a running process").count()
    }

    fn status_number(&self, field: &str) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a running process");
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.unwrap_or_else(|| panic!("no {field} in {status}"))
    }

    /// Prints the last lines, for a test that fails.
    pub fn show(&self) {
        // Asking for the status again and again is how tests wait.
        let lines: Vec<_> = self.lines().into_iter().filter(|l| !l.contains("GET /api/v1/status")).collect();
        let first = lines.len().saturating_sub(SHOWN);
        eprintln!("--- {} said ({} lines, the last {}):", self.name, lines.len(), lines.len() - first);
        for line in &lines[first..] {
            eprintln!("    {line}");
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already, which is all that is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
        reaper(&format!("- {}", self.pid()));
        for reader in self.readers.drain(..) {
            // Ends with the pipe, which closes with the process.
            drop(reader.join());
        }
    }
}

/// Kills what is left when the tests end without a chance to do so themselves: by a signal, a debugger, a time limit.
/// It reads the ids of daemons that begin (`+ 123`) and have ended (`- 123`) until the pipe closes with the tests.
const REAPER: &str = r#"
trap '' HUP INT TERM
running=
while read -r what pid; do
    left=
    for other in $running; do
        [ "$other" = "$pid" ] || left="$left $other"
    done
    running=$left
    [ "$what" = - ] || running="$running $pid"
done
[ -z "$running" ] || kill -s KILL $running
"#;

#[expect(clippy::zombie_processes, reason = "it outlives the tests on purpose")]
fn reaper(line: &str) {
    static REAPER_INPUT: OnceLock<Mutex<ChildStdin>> = OnceLock::new();
    let input = REAPER_INPUT.get_or_init(|| {
        let mut command = Command::new("sh");
        command.args(["-c", REAPER]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Mutex::new(child.stdin.expect("piped"))
    });
    // Without it the tests are as good; only what they leave behind when they are killed is not.
    let mut input = input.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(e) = writeln!(input, "{line}") {
        eprintln!("the reaper has gone: {e}");
    }
}

/// A daemon's command line.
pub fn command(program: Program) -> Command {
    Command::new(program.binary())
}

/// The same, with a limit for open files that the process cannot raise.
pub fn command_with_descriptors(program: Program, limit: u32) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit -n {limit} && exec \"$0\""));
    command.arg::<&OsStr>(program.binary().as_ref());
    command
}

fn collect(stream: impl Read + Send + 'static, lines: &Arc<Journal<String>>) -> thread::JoinHandle<()> {
    let lines = Arc::clone(lines);
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n') {
            match line {
                Ok(line) => lines.add(String::from_utf8_lossy(&line).into_owned()),
                Err(e) => return lines.add(format!("(the rest cannot be read: {e})")),
            }
        }
    })
}

fn wait_for_exit(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    try_until(patience, || child.try_wait().expect("wait"))
}
