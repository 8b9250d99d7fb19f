//! The log as a whole, without the entry in the `log` crate.

use std::sync::{Condvar, Mutex};

use super::*;
use crate::threads::lock;

/// Longest wait for what must happen; an upper bound, never a pace.
const LONG: Duration = Duration::from_secs(10);

/// A console that keeps what is written, and can be held up.
#[derive(Clone, Default)]
struct Screen(Arc<Shared>);

#[derive(Default)]
struct Shared {
    written: Mutex<Vec<u8>>,
    held: Mutex<bool>,
    changed: Condvar,
}

impl Screen {
    fn text(&self) -> String {
        String::from_utf8(lock(&self.0.written).clone()).expect("UTF-8")
    }

    fn hold(&self, held: bool) {
        *lock(&self.0.held) = held;
        self.0.changed.notify_all();
    }
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let held = lock(&self.0.held);
        drop(self.0.changed.wait_while(held, |held| *held).expect("no panic"));
        lock(&self.0.written).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn config(level: Level) -> LogConfig {
    LogConfig { level, file: None, retained: 30, size_limit: 1_000_000 }
}

fn launched(level: Level) -> (Screen, Logger, LogHandle) {
    let screen = Screen::default();
    let (logger, handle) = launch(&config(level), Box::new(screen.clone()), true).expect("a thread");
    (screen, logger, handle)
}

fn write(logger: &Logger, target: &str, level: log::Level, text: &str) {
    logger.log(&Record::builder().target(target).level(level).args(format_args!("{text}")).build());
}

#[test]
fn levels_and_origins_decide_what_is_written() {
    use log::Level::{Debug, Error, Info, Trace, Warn};
    // Level set, target, level of the line, whether it is written.
    let rows = [
        (Level::Information, "gateway::ingress", Info, true),
        (Level::Information, "gateway::ingress", Debug, false),
        (Level::Information, "rustls::client", Info, false),
        (Level::Information, "rustls::client", Warn, true),
        (Level::Debug, "agent", Debug, true),
        (Level::Debug, "agent", Trace, false),
        (Level::Debug, "agents_of_others", Debug, false),
        (Level::Verbose, "rustls", Trace, true),
        (Level::Fatal, "shared", Error, false),
        (Level::Fatal, FATAL, Error, true),
        (Level::Error, "shared", Warn, false),
    ];
    for (set, target, level, written) in rows {
        let (screen, logger, handle) = launched(set);
        write(&logger, target, level, "text");
        drop(handle);
        assert_eq!(screen.text().contains("text"), written, "{set:?} {target} {level}");
    }
}

#[test]
fn a_line_goes_to_console_ring_and_subscribers() {
    let (screen, logger, handle) = launched(Level::Debug);
    let ring = handle.ring();
    let live = ring.subscribe(10).expect("room");
    write(&logger, "agent", log::Level::Info, "hello\nworld");
    let line = live.receiver.recv_timeout(LONG).expect("a line");
    assert_eq!((&*line.text, line.level, line.id), ("hello\\nworld", Level::Information, 1));
    assert_eq!(ring.since(0, 10), [line]);
    write(&logger, FATAL, log::Level::Error, "the end");
    write(&logger, "agent", log::Level::Debug, "detail");
    drop(handle);
    let name = thread::current().name().unwrap_or("?").to_owned();
    assert_eq!(screen.text(), format!("<6>[INF] hello\\nworld\n<2>[FTL] the end\n<7>[DBG] {name}: detail\n"));
}

#[test]
fn a_console_that_hangs_drops_lines_and_counts_them() {
    let (screen, logger, handle) = launched(Level::Information);
    screen.hold(true);
    // More than the queue and a batch can hold together, so some must be dropped, whenever the thread wakes up.
    let text = "x".repeat(4096);
    let total = 2 * QUEUE + BATCH / text.len() + 2;
    for _ in 0..total {
        write(&logger, "agent", log::Level::Info, &text);
    }
    screen.hold(false);
    drop(handle);
    let screen = screen.text();
    let count = |line: &str| {
        line.strip_suffix(" log lines were dropped, because writing them took too long")?
            .rsplit(' ')
            .next()?
            .parse::<usize>()
            .ok()
    };
    let reports: Vec<usize> = screen.lines().filter_map(count).collect();
    assert!(!reports.is_empty());
    assert_eq!(screen.matches(&text).count() + reports.iter().sum::<usize>(), total);
}

#[test]
fn a_console_that_hangs_for_ever_does_not_hold_up_the_end() {
    let (screen, logger, handle) = launched(Level::Information);
    screen.hold(true);
    write(&logger, "agent", log::Level::Info, "x");
    let start = Instant::now();
    drop(handle);
    assert!(start.elapsed() < LONG);
    screen.hold(false);
}

#[test]
fn lines_of_the_last_run_are_in_the_ring_before_those_of_this() {
    let directory = std::env::temp_dir().join(format!("octoporty-logging-{}", std::process::id()));
    let file = LogFile { path: directory.join("agent-.log"), explicit: true };
    let config = LogConfig { file: Some(file), ..config(Level::Information) };
    for run in ["first", "second"] {
        let (logger, handle) = launch(&config, Box::new(io::sink()), false).expect("a thread");
        let live = handle.ring().subscribe(10).expect("room");
        write(&logger, "agent", log::Level::Warn, run);
        while &*live.receiver.recv_timeout(LONG).expect("a line").text != run {}
        let lines = handle.ring().since(0, 10);
        let texts: Vec<&str> = lines.iter().map(|line| &*line.text).collect();
        let expected: &[&str] = if run == "first" { &["first"] } else { &["first", "second"] };
        assert_eq!(texts, expected);
        assert!(lines.iter().all(|line| line.level == Level::Warning));
    }
    fs::remove_dir_all(&directory).expect("made by the log");
}
