//! The log: lines to standard error, to a rolling file and to a ring that the admin page reads.
//!
//! ```text
//!   any thread ─ log::info!() ─ try_send ─▶ thread `log` ─▶ standard error
//!                                                        ├▶ file of the day
//!                                                        └▶ Ring ─▶ whoever subscribed
//! ```
//! Whoever logs never waits for a disk or a terminal: when the queue is full, lines are dropped and counted. What is
//! logged, and that it contains no secret, is left to whoever logs it.

mod banner;
mod config;
mod line;
mod ring;
mod rolling;

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender, TrySendError, bounded};
use log::{LevelFilter, Log, Metadata, Record};

use crate::metrics::Counter;
use crate::{clock, threads};

pub use banner::{banner, print_banner, uid_gid};
pub use config::{FILE_SIZE, LEVEL, Level, LogConfig, LogFile, RETAINED, file_setting};
pub use line::MAX_TEXT;
use line::{Zone, escape};
pub use ring::{Line, Ring, Subscription};
use rolling::{Change, Rolling};

/// Target of lines that say why the daemon ends: `log::error!(target: FATAL, ...)`.
pub const FATAL: &str = "fatal";

/// Lines that were dropped until now because writing them took too long.
pub static DROPPED: Counter = Counter::new();

/// Lines that may wait for the log thread: a second of a busy Gateway. More would cost memory while a disk hangs.
const QUEUE: usize = 4096;
/// Bytes that are collected before they are written.
const BATCH: usize = 64 * 1024;
/// Lines read back from the files at start.
const REFILL: usize = 10_000;
/// How long the end of the daemon may be held up by a log that cannot be written.
const PATIENCE: Duration = Duration::from_secs(2);
/// Names of crates whose lines are ours. Those of others count from Warning on, unless everything is asked for.
const OURS: [&str; 7] =
    ["shared", "gateway", "agent", "octoporty_shared", "octoporty_gateway", "octoporty_agent", FATAL];

/// A line on its way.
struct Event {
    time_ms: i64,
    level: Level,
    text: Box<str>,
}

enum Message {
    Line(Event),
    /// Write what has come so far, and end.
    End,
}

/// Why there is no log.
#[derive(Debug)]
pub enum LogFault {
    /// This process has one already.
    Started,
    /// Its thread cannot be started.
    Thread(io::Error),
}

impl fmt::Display for LogFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogFault::Started => f.write_str("the log has been started already"),
            LogFault::Thread(error) => write!(f, "the log's thread cannot be started: {error}"),
        }
    }
}

impl std::error::Error for LogFault {}

/// The running log. Dropping it writes what is left and ends it; later lines go to standard error at once.
#[derive(Debug)]
pub struct LogHandle {
    ring: Arc<Ring>,
    sender: Sender<Message>,
    /// Ends when the thread does.
    ended: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl LogHandle {
    /// The newest lines.
    pub fn ring(&self) -> Arc<Ring> {
        Arc::clone(&self.ring)
    }
}

impl Drop for LogHandle {
    fn drop(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        // A full queue means that writing hangs; then it is not waited for.
        let told = self.sender.send_deadline(Message::End, deadline);
        let told = !matches!(told, Err(SendTimeoutError::Timeout(_)));
        // The channel carries nothing: either it has ended, and the thread is as good as finished, or it hangs.
        if told
            && self.ended.recv_deadline(deadline) == Err(RecvTimeoutError::Disconnected)
            && let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            say("the log's thread has panicked");
        }
    }
}

/// Starts the log of this process.
pub fn start(config: &LogConfig) -> Result<LogHandle, LogFault> {
    let (logger, handle) = launch(config, Box::new(io::stderr()), on_journal())?;
    let most = match config.level {
        Level::Fatal | Level::Error => LevelFilter::Error,
        Level::Warning => LevelFilter::Warn,
        Level::Information => LevelFilter::Info,
        Level::Debug => LevelFilter::Debug,
        Level::Verbose => LevelFilter::Trace,
    };
    // Dropping the handle ends the thread again.
    log::set_boxed_logger(Box::new(logger)).map_err(|_| LogFault::Started)?;
    log::set_max_level(most);
    Ok(handle)
}

/// The log without its entry in the `log` crate, of which a process has but one.
fn launch(
    config: &LogConfig,
    console: Box<dyn Write + Send>,
    journal: bool,
) -> Result<(Logger, LogHandle), LogFault> {
    let (sender, receiver) = bounded(QUEUE);
    let (end, ended) = bounded(0);
    let ring = Arc::new(Ring::default());
    let dropped = Arc::new(AtomicU64::new(0));
    let logger = Logger { level: config.level, sender: sender.clone(), dropped: Arc::clone(&dropped) };
    let mut writer = Writer {
        console,
        journal,
        file: config.file.as_ref().map(|file| Rolling::new(file, config.size_limit, config.retained)),
        ring: Arc::clone(&ring),
        zone: Zone::default(),
        batch: Vec::new(),
        dropped,
    };
    let run = move || {
        writer.open();
        writer.run(&receiver);
        drop(end);
    };
    let thread = threads::spawn("log", run).map_err(LogFault::Thread)?;
    Ok((logger, LogHandle { ring, sender, ended, thread: Some(thread) }))
}

/// What the `log` crate hands lines to.
struct Logger {
    level: Level,
    sender: Sender<Message>,
    dropped: Arc<AtomicU64>,
}

fn level_of(metadata: &Metadata<'_>) -> Level {
    match metadata.level() {
        log::Level::Error if metadata.target() == FATAL => Level::Fatal,
        log::Level::Error => Level::Error,
        log::Level::Warn => Level::Warning,
        log::Level::Info => Level::Information,
        log::Level::Debug => Level::Debug,
        log::Level::Trace => Level::Verbose,
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let level = level_of(metadata);
        if level > self.level {
            return false;
        }
        let origin = metadata.target().split("::").next().unwrap_or_default();
        level <= Level::Warning || self.level == Level::Verbose || OURS.contains(&origin)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = level_of(record.metadata());
        let text = if level >= Level::Debug {
            // Where it happened matters when a fault is looked for, and only then.
            let current = thread::current();
            escape(&format!("{}: {}", current.name().unwrap_or("?"), record.args()))
        } else {
            match record.args().as_str() {
                Some(text) => escape(text),
                None => escape(&record.args().to_string()),
            }
        };
        match self.sender.try_send(Message::Line(Event { time_ms: clock::epoch_ms(), level, text })) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                self.dropped.fetch_add(1, Relaxed);
                DROPPED.add(1);
            }
            // After the end of the log, in the last moments of the process.
            Err(TrySendError::Disconnected(Message::Line(event))) => say(&event.text),
            Err(TrySendError::Disconnected(Message::End)) => {}
        }
    }

    fn flush(&self) {}
}

/// The last resort: straight to standard error. If that fails too, there is nobody to tell.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Whether standard error is the journal, which keeps the time itself and takes the level from a prefix
/// (systemd.exec, `$JOURNAL_STREAM`; sd-daemon). The variable is inherited by programs whose standard error goes
/// elsewhere, so it is compared with what standard error is.
fn on_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(error) = fs::metadata("/proc/self/fd/2") else { return false };
    stream == format!("{}:{}", error.dev(), error.ino())
}

/// What the log thread works with.
struct Writer {
    console: Box<dyn Write + Send>,
    journal: bool,
    file: Option<Rolling>,
    ring: Arc<Ring>,
    zone: Zone,
    /// Lines for the console that are not written yet.
    batch: Vec<u8>,
    dropped: Arc<AtomicU64>,
}

impl Writer {
    /// Opens the file of the day, after reading back what its predecessors hold.
    fn open(&mut self) {
        let Some(file) = &mut self.file else { return };
        for old in file.tail(REFILL) {
            self.ring.push(old.time_ms, old.level, old.text);
        }
        let time_ms = clock::epoch_ms();
        let change = file.open(self.zone.local(time_ms), Instant::now());
        self.note(change, time_ms);
        self.write_out();
    }

    fn run(&mut self, receiver: &Receiver<Message>) {
        loop {
            let Ok(message) = receiver.recv() else { return self.write_out() };
            let mut next = Some(message);
            while let Some(message) = next {
                match message {
                    Message::Line(event) => self.line(event),
                    Message::End => {
                        self.report_dropped();
                        return self.write_out();
                    }
                }
                next = if self.batch.len() < BATCH { receiver.try_recv().ok() } else { None };
            }
            self.report_dropped();
            self.write_out();
        }
    }

    fn line(&mut self, event: Event) {
        self.print(&event);
        self.record(&event);
        self.ring.push(event.time_ms, event.level, event.text);
    }

    fn print(&mut self, event: &Event) {
        let local = (!self.journal).then(|| self.zone.local(event.time_ms));
        line::console(&mut self.batch, local, event.level, &event.text);
    }

    fn record(&mut self, event: &Event) {
        let Some(file) = &mut self.file else { return };
        let change = file.push(self.zone.local(event.time_ms), event.level, &event.text, Instant::now());
        self.note(change, event.time_ms);
    }

    /// Says what happened to the file, everywhere but there.
    fn note(&mut self, change: Option<Change>, time_ms: i64) {
        if let Some(change) = change {
            let (level, text) = change.describe();
            let event = Event { time_ms, level, text: escape(&text) };
            self.print(&event);
            self.ring.push(time_ms, level, event.text);
        }
    }

    fn report_dropped(&mut self) {
        let count = self.dropped.swap(0, Relaxed);
        if count > 0 {
            let text = format!("{count} log lines were dropped, because writing them took too long");
            self.line(Event { time_ms: clock::epoch_ms(), level: Level::Warning, text: text.into() });
        }
    }

    fn write_out(&mut self) {
        if let Some(file) = &mut self.file {
            let change = file.flush(Instant::now());
            self.note(change, clock::epoch_ms());
        }
        // A console that has gone away takes nothing with it: file and ring have the lines.
        let _ = self.console.write_all(&self.batch).and_then(|()| self.console.flush());
        self.batch.clear();
        self.batch.shrink_to(BATCH);
    }
}

#[cfg(test)]
mod tests;
