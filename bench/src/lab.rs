//! What one run has to itself: the programs to measure, a directory that vanishes, ports, namespaces joined
//! by a line, and a way to run the generators with a time limit.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::daemon::{Daemon, Launch, end, tail, wrapped};
use crate::fault::Fault;
use crate::line::{self, Quality};
use crate::mapping;
use crate::target::Target;

/// The programs.
#[derive(Clone, Debug)]
pub struct Tools {
    /// This program, for the generators.
    pub bench: PathBuf,
    /// nginx.
    pub nginx: PathBuf,
    /// Caddy.
    pub caddy: PathBuf,
    /// rathole.
    pub rathole: PathBuf,
    /// Our Gateway.
    pub gateway: PathBuf,
    /// Our Agent.
    pub agent: PathBuf,
    /// Gateway and Agent of the build before, to compare with.
    pub before: Option<(PathBuf, PathBuf)>,
}

/// One run's belongings.
#[derive(Debug)]
pub struct Lab {
    /// The programs.
    pub tools: Tools,
    /// Set by a signal.
    pub stop: Arc<AtomicBool>,
    dir: PathBuf,
    next_port: AtomicU16,
    /// What `--help` of a program says, asked once so that later starts are not slowed.
    help: Mutex<HashMap<PathBuf, String>>,
}

impl Lab {
    /// Makes the directory.
    pub fn new(tools: Tools, stop: Arc<AtomicBool>) -> Result<Self, Fault> {
        let dir = std::env::temp_dir().join(format!("octoporty-bench-{}", std::process::id()));
        fs::create_dir(&dir).map_err(Fault::io(format!("directory {}", dir.display())))?;
        // Below the range the kernel picks source ports from, or a generator's connection could sit on a
        // daemon's port while the daemon is being restarted.
        Ok(Self { tools, stop, dir, next_port: AtomicU16::new(20_000), help: Mutex::default() })
    }

    /// A directory inside the run's own; kept if it is there already.
    pub fn dir(&self, name: &str) -> Result<PathBuf, Fault> {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir).map_err(Fault::io(format!("directory {}", dir.display())))?;
        Ok(dir)
    }

    /// A port nobody listens on.
    pub fn port(&self) -> Result<u16, Fault> {
        for _ in 0..10_000 {
            let port = self.next_port.fetch_add(1, Ordering::Relaxed);
            if TcpListener::bind(("127.0.0.1", port)).is_ok() {
                return Ok(port);
            }
        }
        Err(Fault::Usage("no free port between 20000 and 30000".to_owned()))
    }

    /// Whether a daemon of ours knows a setting, going by its `--help`: an unknown one would keep it from
    /// starting.
    pub fn knows(&self, program: &Path, setting: &str) -> Result<bool, Fault> {
        let cached = |help: &HashMap<PathBuf, String>| help.get(program).map(|text| text.contains(setting));
        if let Some(known) = cached(&self.help.lock().expect("no panic under this lock")) {
            return Ok(known);
        }
        let what = || format!("help of {}", program.display());
        let output = Command::new(program).arg("--help").output().map_err(Fault::io(what()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let known = text.contains(setting);
        self.help.lock().expect("no panic under this lock").insert(program.to_owned(), text);
        Ok(known)
    }

    /// An error if a signal came.
    pub fn check(&self) -> Result<(), Fault> {
        if self.stop.load(Ordering::Relaxed) { Err(Fault::Interrupted) } else { Ok(()) }
    }

    /// Waits, unless a signal comes.
    pub fn pause(&self, time: Duration) -> Result<(), Fault> {
        let begin = Instant::now();
        while begin.elapsed() < time {
            self.check()?;
            thread::sleep((time - begin.elapsed().min(time)).min(Duration::from_millis(50)));
        }
        self.check()
    }

    /// A generator, without its limit.
    pub fn spawn(&self, netns: Option<&str>, args: &[String], stdin: Stdio) -> Result<Child, Fault> {
        wrapped(netns, self.tools.bench.as_os_str())
            .args(args)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Fault::io(format!("start bench {}", args.join(" "))))
    }

    /// Runs a generator to its end and reads its JSON. `watch` is called every few milliseconds.
    pub fn generate(
        &self,
        netns: Option<&str>,
        args: &[String],
        limit: Duration,
        mut watch: impl FnMut(),
    ) -> Result<Value, Fault> {
        let what = format!("bench {}", args.join(" "));
        let mut child = self.spawn(netns, args, Stdio::null())?;
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().map_err(Fault::io(what.clone()))? {
                break status;
            }
            let late = begin.elapsed() > limit;
            if late || self.check().is_err() {
                end(&mut child, &what)?;
                self.check()?;
                return Err(Fault::Late { what, limit });
            }
            watch();
            thread::sleep(Duration::from_millis(20));
        };
        let (mut said, mut complained) = (String::new(), String::new());
        // Both are far smaller than a pipe, so the child never waited for us to read.
        for (pipe, text) in [
            (child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read>), &mut said),
            (child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read>), &mut complained),
        ] {
            if let Some(mut pipe) = pipe {
                pipe.read_to_string(text).map_err(Fault::io(what.clone()))?;
            }
        }
        if !status.success() {
            return Err(Fault::Child { name: what, why: complained.trim().to_owned() });
        }
        serde_json::from_str(&said).map_err(|error| Fault::Answer(format!("{what}: {error} in {said:?}")))
    }

    /// Waits until a request is answered 200; a daemon that ends meanwhile ends the waiting.
    pub fn until_served(
        &self,
        netns: Option<&str>,
        target: &Target,
        path: &str,
        daemons: &mut [Daemon],
    ) -> Result<Duration, Fault> {
        let limit = Duration::from_secs(20);
        let result = match netns {
            None => mapping::until_served(target, path, limit, &self.stop),
            Some(netns) => {
                let mut args = vec!["probe".to_owned()];
                args.extend(target.to_args());
                args.extend(["--path".to_owned(), path.to_owned()]);
                let waited = self.generate(Some(netns), &args, limit * 2, || {});
                waited.map(|value| Duration::from_secs_f64(value["ms"].as_f64().unwrap_or(0.0) / 1e3))
            }
        };
        result.map_err(|fault| match daemons.iter_mut().find_map(|daemon| daemon.check().err()) {
            Some(ended) => ended,
            None => fault,
        })
    }

    /// Waits until somebody listens on `addr`.
    pub fn until_listening(&self, netns: Option<&str>, addr: SocketAddr) -> Result<(), Fault> {
        let limit = Duration::from_secs(10);
        match netns {
            None => mapping::until_listening(addr, limit, &self.stop),
            Some(_) => {
                let args = ["probe".to_owned(), "--tcp".to_owned(), addr.to_string()];
                self.generate(netns, &args, limit * 2, || {}).map(drop)
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            eprintln!("bench: {}: {error}", self.dir.display());
        }
    }
}

/// Two network namespaces and the line between them; dropping it removes them. Field order: the line ends
/// before its namespaces go.
#[derive(Debug)]
pub struct Country {
    _line: Daemon,
    /// Where the Visitors and the public daemon live.
    pub front: Netns,
    /// Where the private daemon and the Upstream live.
    pub back: Netns,
}

/// A network namespace.
#[derive(Debug)]
pub struct Netns {
    /// As `ip netns` knows it.
    pub name: String,
}

impl Netns {
    fn add(name: String) -> Result<Self, Fault> {
        ip(&["netns", "add", &name])?;
        // Built before the next call, so that it is removed if that fails.
        let netns = Self { name };
        ip(&["-n", &netns.name, "link", "set", "lo", "up"])?;
        Ok(netns)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(fault) = ip(&["netns", "del", &self.name]) {
            eprintln!("bench: {fault}");
        }
    }
}

impl Country {
    /// Addresses of the two ends, from the range set aside for benchmarks (RFC 2544, RFC 6890).
    pub const FRONT: &str = "198.18.0.1";
    /// See [`Self::FRONT`].
    pub const BACK: &str = "198.18.0.2";

    /// Builds both ends and the line.
    pub fn build(lab: &Lab, quality: &Quality, life: Duration) -> Result<Self, Fault> {
        let id = std::process::id();
        let front = Netns::add(format!("octobench-f{id}"))?;
        let back = Netns::add(format!("octobench-b{id}"))?;
        let devices = [format!("ob{id}f"), format!("ob{id}b")];
        let command = line::command(&lab.tools.bench, [&devices[0], &devices[1]], quality, life);
        let strings = command.get_args().map(|arg| arg.to_string_lossy().into_owned());
        let launch = Launch {
            name: "line".to_owned(),
            netns: None,
            program: command.get_program().into(),
            args: strings.collect(),
            env: Vec::new(),
            log: lab.dir("line")?.join("log"),
        };
        let mut line = launch.start()?;
        let begin = Instant::now();
        while !devices.iter().all(|name| Path::new("/sys/class/net").join(name).exists()) {
            line.check()?;
            lab.check()?;
            if begin.elapsed() > Duration::from_secs(5) {
                let why = format!("no tun devices after 5 s: {}", tail(&launch.log));
                return Err(Fault::Child { name: launch.name, why });
            }
            thread::sleep(Duration::from_millis(2));
        }
        for (netns, device, own, peer) in [
            (&front.name, &devices[0], Self::FRONT, Self::BACK),
            (&back.name, &devices[1], Self::BACK, Self::FRONT),
        ] {
            ip(&["link", "set", device, "netns", netns])?;
            ip(&["-n", netns, "addr", "add", own, "peer", peer, "dev", device])?;
            ip(&["-n", netns, "link", "set", device, "up"])?;
        }
        Ok(Self { _line: line, front, back })
    }
}

/// Runs `ip`.
fn ip(args: &[&str]) -> Result<(), Fault> {
    let what = format!("ip {}", args.join(" "));
    let output = Command::new("ip").args(args).output().map_err(Fault::io(what.clone()))?;
    if output.status.success() {
        return Ok(());
    }
    let why = format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    Err(Fault::Child { name: what, why })
}
