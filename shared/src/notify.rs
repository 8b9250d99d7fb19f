//! What the daemon tells the service manager: that it is ready, how it is doing, that it lives, that it stops.
//!
//! The protocol is `sd_notify(3)`: datagrams of `KEY=VALUE` lines to the socket that `NOTIFY_SOCKET` names. Nobody asked
//! means that nothing is sent and no thread is started. Sockets that the service manager hands over are left to
//! [`crate::activation`].
//!
//! ```text
//!   WATCHDOG=1 is sent three times per WatchdogSec, and only while every Vital answers:
//!
//!     ask all ── a third of WatchdogSec ──▶ all answered?  yes: feed, ask again
//!                                                          no:  name the silent ones, do not feed, look again later
//! ```
//!
//! So a thread that hangs for good has the daemon restarted after `WatchdogSec`, and one that hangs for a third of it
//! costs nothing but a line in the log.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::stop::Stop;
use crate::threads;

/// How often the status line is looked at, when nothing makes us look more often.
const STATUS: Duration = Duration::from_secs(5);
/// Longest wait for the service manager to take a message: it is on this machine, and nobody may hang for it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Something that must go on for the daemon to be of use: a loop that can be asked for a sign of life.
pub struct Vital {
    name: String,
    ask: Box<dyn Fn() + Send>,
    answered: Box<dyn Fn() -> bool + Send>,
}

impl Vital {
    /// `ask` wants a sign of life and does not wait for it; `answered` tells whether it has come since.
    pub fn new(
        name: impl Into<String>,
        ask: impl Fn() + Send + 'static,
        answered: impl Fn() -> bool + Send + 'static,
    ) -> Vital {
        Vital { name: name.into(), ask: Box::new(ask), answered: Box::new(answered) }
    }

    /// A poller's thread: woken up, it must come round.
    pub fn poller(name: &str, poller: crate::poll::Handle) -> Vital {
        let asked = poller.clone();
        Vital::new(name, move || asked.ask(), move || poller.has_answered())
    }
}

impl fmt::Debug for Vital {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Vital").field(&self.name).finish()
    }
}

/// The way to the service manager, if there is one.
#[derive(Debug)]
pub struct Notify {
    to: Option<(UnixDatagram, SocketAddr)>,
    /// `WatchdogSec`, if it wants to be fed.
    watchdog: Option<Duration>,
}

impl Notify {
    /// As the environment says. A socket that cannot be used is an error: without it the service manager would kill us
    /// later for not being ready, and nobody would know why.
    pub fn from_environment() -> io::Result<Notify> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Notify::new(
            variable("NOTIFY_SOCKET").as_deref(),
            variable("WATCHDOG_USEC"),
            variable("WATCHDOG_PID"),
            std::process::id(),
        )
    }

    /// [`from_environment`](Self::from_environment) with everything it looks at handed in.
    pub fn new(
        socket: Option<&OsStr>,
        watchdog_usec: Option<OsString>,
        watchdog_pid: Option<OsString>,
        own_pid: u32,
    ) -> io::Result<Notify> {
        let Some(path) = socket else { return Ok(Notify { to: None, watchdog: None }) };
        let wrong =
            |e: io::Error| io::Error::new(e.kind(), format!("NOTIFY_SOCKET={}: {e}", path.to_string_lossy()));
        let address = match path.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
            [b'/', ..] => SocketAddr::from_pathname(path),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "is neither a path nor @ and a name")),
        };
        let address = address.map_err(wrong)?;
        let from = UnixDatagram::unbound()?;
        from.set_write_timeout(Some(PATIENCE))?;
        let number = |text: &OsString| text.to_str().and_then(|text| text.parse::<u64>().ok());
        // For another process of the service: not ours to feed.
        let ours = watchdog_pid.as_ref().and_then(number).is_none_or(|pid| pid == u64::from(own_pid));
        let watchdog = watchdog_usec.as_ref().and_then(number).filter(|micros| *micros > 0 && ours);
        Ok(Notify { to: Some((from, address)), watchdog: watchdog.map(Duration::from_micros) })
    }

    /// Says that the daemon serves, and looks after status and watchdog from then on.
    ///
    /// `status` gives the line that `systemctl status` shows.
    pub fn ready(
        self,
        vitals: Vec<Vital>,
        status: impl Fn() -> String + Send + 'static,
    ) -> io::Result<Keeper> {
        let link = Arc::new(self);
        if link.to.is_none() {
            return Ok(Keeper { link, stop: Stop::new(), thread: None });
        }
        let first = one_line(&status());
        link.send(&format!("READY=1\nSTATUS={first}"));
        let stop = Stop::new();
        let thread = {
            let (link, stop) = (Arc::clone(&link), stop.clone());
            threads::spawn("notify", move || link.keep(vitals, &status, first, &stop))?
        };
        Ok(Keeper { link, stop, thread: Some(thread) })
    }

    fn keep(&self, vitals: Vec<Vital>, status: &dyn Fn() -> String, mut said: String, stop: &Stop) {
        let feeding = self.watchdog.map(|period| period / 3);
        let mut watch = Watch { vitals, asked: false, well: true };
        let mut next_feed = Instant::now();
        let pause = feeding.map_or(STATUS, |feeding| feeding.min(STATUS));
        loop {
            let now = Instant::now();
            if let Some(feeding) = feeding
                && now >= next_feed
            {
                next_feed = now + feeding;
                match watch.round() {
                    Ok(()) => self.send("WATCHDOG=1"),
                    Err(silent) => {
                        log::error!("watchdog: no sign of life within {feeding:?} from: {silent}");
                        self.send(&format!("STATUS=no sign of life from: {silent}"));
                        said.clear();
                    }
                }
            }
            let text = one_line(&status());
            if text != said && watch.well {
                self.send(&format!("STATUS={text}"));
                said = text;
            }
            if stop.wait_timeout(pause) {
                return;
            }
        }
    }

    fn send(&self, message: &str) {
        let Some((from, address)) = &self.to else { return };
        if let Err(e) = from.send_to_addr(message.as_bytes(), address) {
            // Said again each time: whoever reads this wonders why the service is restarted.
            log::warn!(
                "the service manager cannot be told {:?}: {e}",
                message.lines().next().unwrap_or_default()
            );
        }
    }
}

/// Keeps the service manager informed until dropped.
#[derive(Debug)]
pub struct Keeper {
    link: Arc<Notify>,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// The daemon begins to stop, and says what it still does. The watchdog is fed meanwhile.
    pub fn stopping(&self, status: &str) {
        self.link.send(&format!("STOPPING=1\nSTATUS={}", one_line(status)));
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.trigger();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread that talks to the service manager has panicked");
        }
    }
}

/// Who was asked, and whether all answered.
struct Watch {
    vitals: Vec<Vital>,
    asked: bool,
    /// What came out of the last round.
    well: bool,
}

impl Watch {
    /// Looks for the answers to the last question; only when all are there, asks again. The names of the silent ones
    /// otherwise: their question stands.
    fn round(&mut self) -> Result<(), String> {
        if self.asked {
            let silent: Vec<&str> =
                self.vitals.iter().filter(|vital| !(vital.answered)()).map(|v| v.name.as_str()).collect();
            self.well = silent.is_empty();
            if !self.well {
                return Err(silent.join(", "));
            }
        }
        self.asked = true;
        for vital in &self.vitals {
            (vital.ask)();
        }
        Ok(())
    }
}

/// A message's value ends with its line.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

    use super::*;

    /// A service manager's end, at an abstract address.
    fn manager(name: &str) -> (UnixDatagram, OsString) {
        let name = format!("octoporty-test-{name}-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name.as_bytes()).expect("an address");
        let socket = UnixDatagram::bind_addr(&address).expect("a free name");
        socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a time-out");
        (socket, format!("@{name}").into())
    }

    fn next(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 4096];
        let count = socket.recv(&mut bytes).expect("a message");
        String::from_utf8(bytes[..count].to_vec()).expect("UTF-8")
    }

    #[test]
    fn nobody_asked_means_that_nothing_happens() {
        let notify = Notify::new(None, Some("1000000".into()), None, 1).expect("nothing to fail");
        let keeper = notify.ready(vec![], || unreachable!("nobody reads a status")).expect("no thread");
        assert!(keeper.thread.is_none());
        keeper.stopping("now");
    }

    #[test]
    fn a_socket_that_is_none_is_named() {
        for wrong in ["relative/path", "tcp:1"] {
            let error = Notify::new(Some(OsStr::new(wrong)), None, None, 1).expect_err(wrong).to_string();
            assert!(error.contains("NOTIFY_SOCKET=") && error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn readiness_status_and_the_end_are_told() {
        let (manager, address) = manager("told");
        let notify = Notify::new(Some(&address), None, None, 1).expect("a socket");
        let keeper = notify.ready(vec![], || "two\nlines".into()).expect("a thread");
        assert_eq!(next(&manager), "READY=1\nSTATUS=two lines");
        keeper.stopping("draining");
        assert_eq!(next(&manager), "STOPPING=1\nSTATUS=draining");
    }

    #[test]
    fn the_watchdog_is_fed_only_while_everybody_answers() {
        let (manager, address) = manager("fed");
        let notify =
            Notify::new(Some(&address), Some("30000".into()), Some("7".into()), 7).expect("a socket");
        let alive = Arc::new(AtomicBool::new(true));
        let vital = {
            let alive = Arc::clone(&alive);
            Vital::new("loop", || {}, move || alive.load(SeqCst))
        };
        let keeper = notify.ready(vec![vital], || "well".into()).expect("a thread");
        assert_eq!(next(&manager), "READY=1\nSTATUS=well");
        assert_eq!(next(&manager), "WATCHDOG=1");
        assert_eq!(next(&manager), "WATCHDOG=1");
        alive.store(false, SeqCst);
        // One may have been under way.
        while next(&manager) == "WATCHDOG=1" {}
        for _ in 0..3 {
            assert_eq!(next(&manager), "STATUS=no sign of life from: loop");
        }
        alive.store(true, SeqCst);
        let mut later: Vec<String> = Vec::new();
        while !later.iter().any(|message| message == "WATCHDOG=1") {
            assert!(later.len() < 100, "{later:?}");
            later.push(next(&manager));
        }
        drop(keeper);
    }

    #[test]
    fn a_status_that_changes_at_once_is_told() {
        let (manager, address) = manager("changes");
        let notify = Notify::new(Some(&address), None, None, 1).expect("a socket");
        let calls = AtomicUsize::new(0);
        let status = move || if calls.fetch_add(1, SeqCst) == 0 { "connecting" } else { "connected" }.into();
        let keeper = notify.ready(vec![], status).expect("a thread");
        assert_eq!(next(&manager), "READY=1\nSTATUS=connecting");
        assert_eq!(next(&manager), "STATUS=connected");
        drop(keeper);
    }

    #[test]
    fn a_watchdog_of_another_process_is_not_fed() {
        let notify = |usec: &str, pid: Option<&str>| {
            let pid = pid.map(OsString::from);
            Notify::new(Some(OsStr::new("@x")), Some(usec.into()), pid, 7).expect("a socket").watchdog
        };
        assert_eq!(notify("5000000", None), Some(Duration::from_secs(5)));
        assert_eq!(notify("5000000", Some("7")), Some(Duration::from_secs(5)));
        assert_eq!(notify("5000000", Some("8")), None);
        assert_eq!(notify("0", None), None);
        assert_eq!(notify("soon", None), None);
    }

    #[test]
    fn a_silent_one_is_not_asked_again_until_it_has_answered() {
        let (asked, answered) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let vital = {
            let (asked, seen, answered) = (Arc::clone(&asked), Arc::clone(&asked), Arc::clone(&answered));
            Vital::new(
                "loop",
                move || {
                    asked.fetch_add(1, SeqCst);
                },
                move || answered.load(SeqCst) >= seen.load(SeqCst),
            )
        };
        let mut watch = Watch { vitals: vec![vital], asked: false, well: true };
        assert_eq!(watch.round(), Ok(()));
        assert_eq!(watch.round(), Err("loop".into()));
        assert_eq!(watch.round(), Err("loop".into()));
        assert_eq!(asked.load(SeqCst), 1);
        answered.store(1, SeqCst);
        assert_eq!(watch.round(), Ok(()));
        assert_eq!(asked.load(SeqCst), 2);
    }
}
