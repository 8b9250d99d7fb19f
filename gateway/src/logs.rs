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

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use shared::frame::Side;
    use shared::hello::ToGateway;
    use shared::link::Link;
    use shared::logging::Level;
    use shared::poll::Poller;

    use super::*;
    use crate::tunnels::{TunnelSettings, Tunnels};

    fn ring(count: u64) -> Ring {
        let ring = Ring::default();
        for number in 1..=count {
            ring.push(number as i64, Level::Information, format!("line {number}"));
        }
        ring
    }

    fn ask(ring: &Ring, before: u64, count: u32, contains: Option<&str>) -> (Vec<u64>, bool) {
        let asked = GetLogs { request: 7, before, count, contains: contains.map(str::to_owned) };
        let page = page(ring, &asked);
        assert_eq!(page.request, 7);
        (page.lines.iter().map(|line| line.id).collect(), page.has_more)
    }

    #[test]
    fn pages_go_from_the_newest_line_back() {
        let ring = ring(10);
        assert_eq!(ask(&ring, 0, 3, None), (vec![10, 9, 8], true));
        assert_eq!(ask(&ring, 8, 3, None), (vec![7, 6, 5], true));
        assert_eq!(ask(&ring, 3, 2, None), (vec![2, 1], false), "nothing is older");
        assert_eq!(ask(&ring, 1, 5, None), (vec![], false));
        assert_eq!(ask(&ring, 99, 0, None), (vec![10], true), "at least one");
        assert_eq!(ask(&Ring::default(), 0, 5, None), (vec![], false));
    }

    #[test]
    fn lines_are_searched_as_far_as_the_ring_goes() {
        let ring = ring(2500);
        let (found, more) = ask(&ring, 0, 5, Some("line 7"));
        assert_eq!((found, more), (vec![799, 798, 797, 796, 795], true));
        assert_eq!(ask(&ring, 0, 5, Some("line 2500")), (vec![2500], false));
        assert_eq!(ask(&ring, 0, 5, Some("nowhere")), (vec![], false));
    }

    #[test]
    fn a_page_of_long_lines_ends_early_and_says_so() {
        let ring = Ring::default();
        for _ in 0..200 {
            ring.push(0, Level::Error, "x".repeat(8000));
        }
        let asked = GetLogs { request: 1, before: 0, count: MAX_LOG_LINES, contains: None };
        let page = page(&ring, &asked);
        assert!(!page.lines.is_empty() && ToAgent::Logs(page).to_json().len() < 2 * MAX_LOG_BYTES);
    }

    #[test]
    fn an_agent_that_does_not_read_costs_no_more_than_its_bound() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let _silent = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let (socket, _) = listener.accept().expect("a connection");
        let poller = Poller::new().expect("a poller");
        let link = Link::new("t0".into(), Side::Gateway, socket, None, poller.handle()).expect("a link");
        let tunnels = Tunnels::new(TunnelSettings {
            heartbeat_seconds: 30,
            links: 1,
            max_streams: 1,
            max_agents: 1,
            hold_seconds: 0,
            fqdn: None,
        });
        let hello = r#"{"type":"hello","minVersion":1,"maxVersion":1,"agentVersion":"1","agentId":"an-agent","credit":1}"#;
        let Ok(ToGateway::Hello(hello)) = ToGateway::parse(hello.as_bytes()) else { panic!("a hello") };
        let (session, _) = tunnels.greet(&link, &hello, "gateway.test").expect("welcome");

        let mut watcher = Watcher { session: Arc::downgrade(&session), last: 0, dropped: 0 };
        let line = |id| Line { id, time_ms: 0, level: Level::Information, text: "x".repeat(1000).into() };
        let mut sent = 0;
        // Whatever the kernel keeps for the peer: some time it is full.
        while watcher.dropped == 0 && sent < 1_000_000 {
            let lines: Vec<_> = (sent + 1..=sent + 100).map(line).collect();
            assert!(watcher.send(lines.iter().collect()));
            sent += 100;
            assert!(link.later_bytes() < 2 * LINK_FULL, "{} bytes wait", link.later_bytes());
        }
        assert_eq!(watcher.dropped, 100, "counted, for the next message that goes");
        assert!(watcher.send(vec![&line(sent + 1)]));
        assert_eq!(watcher.dropped, 101);
        assert!(!link.is_closed(), "and the tunnel goes on");
        link.close("the test is over");
        tunnels.link_closed(&link, Some(&session), "the test is over");
        assert!(!watcher.send(vec![&line(sent + 2)]), "nobody is sent to when the session is over");
    }

    #[test]
    fn a_line_travels_with_one_of_four_levels() {
        let ring = Ring::default();
        for level in [Level::Fatal, Level::Warning, Level::Information, Level::Verbose] {
            ring.push(5, level, "text");
        }
        let levels: Vec<_> = ring.before(u64::MAX, 9).iter().map(|line| wire(line).level).collect();
        assert_eq!(levels, ["Error", "Warning", "Info", "Debug"]);
    }
}
