//! Child processes: started with a log of their own, ended by their process id, looked at through `/proc`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::fault::Fault;

/// How long a daemon may take to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(5);
/// Clock ticks per second in `/proc/PID/stat`: the kernel's `USER_HZ`, 100 on every architecture we run on.
const TICKS: f64 = 100.0;

/// How to start a daemon; kept to start it again after it was killed.
#[derive(Clone, Debug)]
pub struct Launch {
    /// For messages and the name of its log.
    pub name: String,
    /// The namespace it lives in.
    pub netns: Option<String>,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Added to the environment.
    pub env: Vec<(String, String)>,
    /// Where its output goes.
    pub log: PathBuf,
}

/// A running daemon; dropping it ends it.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

/// Wraps a program so that the kernel ends it with its parent, and puts it into its namespace. Both
/// wrappers replace themselves, so the process id is the program's.
pub fn wrapped(netns: Option<&str>, program: &OsStr) -> Command {
    let mut command = match netns {
        None => Command::new("setpriv"),
        Some(netns) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", netns, "setpriv"]);
            command
        }
    };
    command.args(["--pdeathsig", "TERM", "--"]).arg(program);
    command
}

impl Launch {
    /// Starts it; being started says nothing about being ready.
    pub fn start(&self) -> Result<Daemon, Fault> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(Fault::io(format!("log {}", self.log.display())))?;
        let errors = log.try_clone().map_err(Fault::io(format!("log {}", self.log.display())))?;
        let child = wrapped(self.netns.as_deref(), self.program.as_os_str())
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(Fault::io(format!("start {}", self.name)))?;
        Ok(Daemon { name: self.name.clone(), child, log: self.log.clone() })
    }
}

impl Daemon {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// An error with its last words if it has ended.
    pub fn check(&mut self) -> Result<(), Fault> {
        let status = self.child.try_wait().map_err(Fault::io(format!("wait for {}", self.name)))?;
        match status {
            None => Ok(()),
            Some(status) => {
                Err(Fault::Child { name: self.name.clone(), why: format!("{status}\n{}", tail(&self.log)) })
            }
        }
    }

    /// SIGKILL, and waits for it.
    pub fn kill(&mut self) -> Result<(), Fault> {
        let what = || format!("kill {}", self.name);
        self.child.kill().map_err(Fault::io(what()))?;
        self.child.wait().map_err(Fault::io(what())).map(drop)
    }

    /// It and its descendants.
    pub fn family(&self) -> Vec<u32> {
        let mut family = vec![self.child.id()];
        let processes: Vec<(u32, u32)> = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter_map(|pid| Some((pid, stat(pid)?.0)))
            .collect();
        let mut at = 0;
        while let Some(&parent) = family.get(at) {
            family.extend(processes.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| pid));
            at += 1;
        }
        family
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(fault) = end(&mut self.child, &self.name) {
            eprintln!("bench: {fault}");
        }
    }
}

/// Ends a child by SIGTERM, by SIGKILL if that does not help.
pub fn end(child: &mut Child, name: &str) -> Result<(), Fault> {
    let what = || format!("end {name}");
    if child.try_wait().map_err(Fault::io(what()))?.is_some() {
        return Ok(());
    }
    // The standard library knows SIGKILL only, which would leave nginx's workers behind.
    let pid = child.id().to_string();
    Command::new("kill").args(["-TERM", &pid]).status().map_err(Fault::io(what()))?;
    let begin = Instant::now();
    while begin.elapsed() < GRACE {
        if child.try_wait().map_err(Fault::io(what()))?.is_some() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(2));
    }
    child.kill().map_err(Fault::io(what()))?;
    child.wait().map_err(Fault::io(what())).map(drop)
}

/// The last lines of a log.
pub fn tail(path: &Path) -> String {
    match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(1500)..]).trim().to_owned(),
        Err(error) => format!("{}: {error}", path.display()),
    }
}

/// Parent and CPU ticks from `/proc/PID/stat`; `None` once the process is gone.
fn stat(pid: u32) -> Option<(u32, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the fields count from behind it (proc(5)).
    let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some((fields.get(1)?.parse().ok()?, ticks))
}

/// CPU seconds used so far, ended threads included, in steps of 10 ms.
pub fn cpu_seconds(pids: &[u32]) -> f64 {
    pids.iter().filter_map(|&pid| stat(pid)).map(|(_, ticks)| ticks as f64 / TICKS).sum()
}

/// CPU seconds used so far by threads that still live: to the nanosecond, for idle daemons.
pub fn cpu_seconds_exact(pids: &[u32]) -> f64 {
    let tasks = pids.iter().flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten());
    tasks
        .filter_map(|task| {
            let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        })
        .map(|nanos| nanos as f64 / 1e9)
        .sum()
}

/// Resident memory in MiB.
pub fn rss_mib(pids: &[u32]) -> f64 {
    let kib = |pid: &u32| -> Option<f64> {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse().ok()
    };
    pids.iter().filter_map(kib).sum::<f64>() / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_can_be_looked_at() {
        let own = [std::process::id()];
        assert!(rss_mib(&own) > 0.1);
        assert!(cpu_seconds(&own) >= 0.0);
        assert!(cpu_seconds_exact(&own) > 0.0);
        assert!(stat(own[0]).is_some());
    }

    #[test]
    fn a_daemon_is_ended_and_its_last_words_are_kept() {
        let log = std::env::temp_dir().join(format!("octoporty-bench-test-{}.log", std::process::id()));
        let launch = |script: &str| Launch {
            name: "sh".to_owned(),
            netns: None,
            program: "sh".into(),
            args: vec!["-c".to_owned(), script.to_owned()],
            env: vec![("WORD".to_owned(), "farewell".to_owned())],
            log: log.clone(),
        };
        let mut short = launch("echo $WORD; exit 3").start().expect("sh");
        short.child.wait().expect("ends");
        let fault = short.check().expect_err("has ended").to_string();
        assert!(fault.contains("farewell") && fault.contains('3'), "{fault}");

        let mut long = launch("exec sleep 1000").start().expect("sh");
        assert!(long.family().contains(&long.child.id()));
        end(&mut long.child, "sleep").expect("ends by SIGTERM");
        long.check().expect_err("has ended");
        fs::remove_file(&log).expect("written");
    }
}
