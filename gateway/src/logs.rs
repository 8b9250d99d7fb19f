//! The Gateway's log for Agents: pages of it, and lines as they are written.
//!
//! Nothing in here writes to the log, for each line would lead to the next.

use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, never, select};
use shared::control::{GetLogs, LogLine, LogNews, Logs, MAX_LOG_BYTES, MAX_LOG_LINES, WatchLogs};
use shared::hello::ToAgent;
use shared::logging::{Line, Ring, Subscription};
use shared::threads;

use crate::tunnels::Session;

/// Lines looked at per turn of the ring's lock when a page is searched.
const SEARCH_STEP: usize = 1000;
/// Lines that may wait to be sent.
const WAITING: usize = 2048;
/// Most lines in one message …
const BATCH_LINES: usize = 500;
/// … and most bytes of text.
const BATCH_BYTES: usize = 64 * 1024;
/// Lines that an Agent is sent from before it began to watch.
const CATCH_UP: usize = 1000;
/// A Link with this much waiting gets no lines.
const LINK_FULL: usize = 256 * 1024;
/// Pause between messages, so that a busy log becomes few of them.
const PACE: Duration = Duration::from_millis(100);

/// A line as it travels.
pub(crate) fn wire(line: &Line) -> LogLine {
    LogLine {
        id: line.id,
        time: line.time_ms,
        level: line.level.word().to_owned(),
        message: line.text.to_string(),
    }
}

/// The page that was asked for.
pub(crate) fn page(ring: &Ring, asked: &GetLogs) -> Logs {
    let count = asked.count.clamp(1, MAX_LOG_LINES) as usize;
    let wanted = asked.contains.as_deref().unwrap_or_default();
    let mut before = if asked.before == 0 { u64::MAX } else { asked.before };
    let (mut lines, mut bytes) = (Vec::new(), 0);
    loop {
        let step = ring.before(before, SEARCH_STEP);
        let Some(oldest) = step.first() else {
            return Logs { request: asked.request, lines, has_more: false };
        };
        before = oldest.id;
        for line in step.iter().rev().filter(|line| line.text.contains(wanted)) {
            if lines.len() == count || bytes > MAX_LOG_BYTES {
                return Logs { request: asked.request, lines, has_more: true };
            }
            bytes += line.text.len();
            lines.push(wire(line));
        }
    }
}

/// What the thread is told.
enum Command {
    Watch(Arc<Session>, WatchLogs),
    Stop,
}

/// Sends lines to Agents that want them.
pub(crate) struct Feed {
    ring: Arc<Ring>,
    commands: Sender<Command>,
    receiver: Receiver<Command>,
}

struct Watcher {
    session: Weak<Session>,
    /// The newest line that it has been offered.
    last: u64,
    dropped: u64,
}

impl Feed {
    pub(crate) fn new(ring: Arc<Ring>) -> Feed {
        let (commands, receiver) = bounded(256);
        Feed { ring, commands, receiver }
    }

    /// The log itself.
    pub(crate) fn ring(&self) -> &Ring {
        &self.ring
    }

    /// An Agent wants lines, or no more of them. Never waits: who changes his mind that often is not heard.
    pub(crate) fn watch(&self, session: &Arc<Session>, wish: WatchLogs) {
        let _ = self.commands.try_send(Command::Watch(Arc::clone(session), wish));
    }

    /// Starts the thread.
    pub(crate) fn start(&self) -> std::io::Result<JoinHandle<()>> {
        let (ring, receiver) = (Arc::clone(&self.ring), self.receiver.clone());
        threads::spawn("log-feed", move || {
            Feeding { ring, watchers: Vec::new(), source: None }.run(&receiver)
        })
    }

    /// Ends it.
    pub(crate) fn stop(&self) {
        let _ = self.commands.send(Command::Stop);
    }
}

/// What the thread works with.
struct Feeding {
    ring: Arc<Ring>,
    watchers: Vec<Watcher>,
    /// Only while somebody watches: a busy log costs nothing more otherwise.
    source: Option<Subscription>,
}

impl Feeding {
    fn run(&mut self, commands: &Receiver<Command>) {
        loop {
            let nothing = never();
            let lines = self.source.as_ref().map_or(&nothing, |source| &source.receiver);
            let (command, line) = select! {
                recv(commands) -> command => (command.ok(), None),
                recv(lines) -> line => (None, line.ok()),
            };
            match (command, line) {
                (Some(Command::Watch(session, wish)), _) => self.wish(&session, wish),
                (_, Some(line)) => {
                    self.pass_on(line);
                    match commands.recv_timeout(PACE) {
                        Ok(Command::Watch(session, wish)) => self.wish(&session, wish),
                        Ok(Command::Stop) => return,
                        Err(_) => {}
                    }
                }
                _ => return,
            }
            if self.watchers.is_empty() {
                self.source = None;
            }
        }
    }

    fn wish(&mut self, session: &Arc<Session>, wish: WatchLogs) {
        self.watchers.retain(|known| !std::ptr::eq(known.session.as_ptr(), Arc::as_ptr(session)));
        if !wish.on {
            return;
        }
        // First listen, then look back: no line is missed, and what comes twice is left out by its number.
        if self.source.is_none() {
            self.source = self.ring.subscribe(WAITING);
        }
        let newest = self.ring.before(u64::MAX, 1).last().map_or(0, |line| line.id);
        let after = wish.after.unwrap_or(newest);
        let mut watcher = Watcher { session: Arc::downgrade(session), last: newest, dropped: 0 };
        let missed = self.ring.before(newest + 1, CATCH_UP);
        let missed: Vec<_> = missed.into_iter().filter(|line| line.id > after).collect();
        for lines in missed.chunks(BATCH_LINES) {
            watcher.send(lines.iter().collect());
        }
        self.watchers.push(watcher);
    }

    /// Sends a line, and those that have come since.
    fn pass_on(&mut self, first: Line) {
        let Some(source) = &self.source else { return };
        let (mut bytes, mut lines) = (first.text.len(), vec![first]);
        while lines.len() < BATCH_LINES
            && bytes < BATCH_BYTES
            && let Ok(line) = source.receiver.try_recv()
        {
            bytes += line.text.len();
            lines.push(line);
        }
        let dropped = source.take_dropped();
        self.watchers.retain_mut(|watcher| {
            watcher.dropped += dropped;
            let last = watcher.last;
            watcher.send(lines.iter().filter(|line| line.id > last).collect())
        });
    }
}

impl Watcher {
    /// Sends lines, or counts them when there is no room. `false`: the Agent is gone.
    fn send(&mut self, lines: Vec<&Line>) -> bool {
        let Some(session) = self.session.upgrade() else { return false };
        let Some(link) = session.links().into_iter().next() else { return false };
        let Some(newest) = lines.last() else { return true };
        self.last = self.last.max(newest.id);
        let count = lines.len() as u64;
        let news = LogNews { lines: lines.into_iter().map(wire).collect(), dropped: self.dropped };
        if link.later_bytes() < LINK_FULL && link.later(&ToAgent::Log(news).to_json()) {
            self.dropped = 0;
            link.flush();
        } else {
            self.dropped += count;
        }
        true
    }
}
