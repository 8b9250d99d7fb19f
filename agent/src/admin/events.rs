//! `GET /api/v1/events`: what happens, as Server-Sent Events (WHATWG HTML 9.2).
//!
//! Each listener has the thread of his connection. Lines of the Agent's log are not queued for him but read from
//! the ring, from where he has got to; so a burst costs no memory, and after a break he misses none that the ring
//! still has. A listener who takes nothing for ten seconds is cut off by the sink.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use shared::logging::Ring;

use super::App;
use super::api::Params;
use super::http::{Request, Response, Sink};
use super::problem::problem;
use super::status::Source;
use crate::control::Control;
use crate::events::{LISTENERS, Listener, Live, Message, line_value};
use crate::timestamp;

/// The status is told at least so often.
const STATUS: Duration = Duration::from_secs(5);
/// A sign of life for whoever is in between.
const COMMENT: Duration = Duration::from_secs(15);
/// How often we look whether the peer is still there.
const LOOK: Duration = Duration::from_secs(1);
/// How long a browser waits before it comes back.
const RETRY: Duration = Duration::from_secs(2);
/// For how long a line of the Gateway's may come a second time after it was caught up with.
const TWICE: Duration = Duration::from_secs(5);
/// Lines taken from the ring at a time.
const LINES: usize = 500;

/// `GET /api/v1/events`.
pub(crate) fn events(app: &App, request: &Request, params: &Params<'_>) -> Response {
    let Some(operator) = params.operator else { return problem(401, "log in first") };
    let Some(listener) = app.live.hub.listen(operator.session) else {
        return problem(503, format!("{LISTENERS} pages listen already, which is the most"))
            .with("Retry-After", RETRY.as_secs().to_string());
    };
    let seen = request.header("last-event-id").and_then(Cursor::parse);
    let stream = EventStream {
        listener,
        live: app.live.clone(),
        status: Source::new(app),
        control: Arc::clone(&app.control),
        run: app.started.unix_timestamp(),
        expires: operator.expires,
    };
    Response::stream(200, "text/event-stream; charset=utf-8", move |sink| stream.run(sink, seen))
        // nginx would collect them.
        .with("X-Accel-Buffering", "no")
}

/// How far a listener has got in both logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    agent: u64,
    gateway: u64,
    /// The numbers begin anew with each run of the Agent; this tells one run from another.
    run: i64,
}

impl Cursor {
    /// `a<line of the Agent>-g<line of the Gateway>-<run>`.
    fn parse(text: &str) -> Option<Cursor> {
        let (agent, rest) = text.strip_prefix('a')?.split_once("-g")?;
        let (gateway, run) = rest.split_once('-')?;
        Some(Cursor { agent: agent.parse().ok()?, gateway: gateway.parse().ok()?, run: run.parse().ok()? })
    }

    fn text(self) -> String {
        format!("a{}-g{}-{}", self.agent, self.gateway, self.run)
    }
}

struct EventStream {
    listener: Listener,
    live: Live,
    status: Source,
    control: Arc<dyn Control>,
    /// Tells this run of the Agent from others.
    run: i64,
    /// When the token is over with which it was asked for, in seconds since 1970: it ends then, and the page, which
    /// has got another token in the meantime, comes back and has missed nothing.
    expires: i64,
}

impl EventStream {
    fn run(self, sink: &mut dyn Sink, seen: Option<Cursor>) -> io::Result<()> {
        let log = &self.live.log;
        // Before the past is read, so that nothing falls in between.
        let lines = log.subscribe(1).ok_or_else(|| io::Error::other("too many read the log"))?;
        let newest = log.before(u64::MAX, 1).last().map_or(0, |line| line.id);
        let mut cursor = seen.filter(|seen| seen.run == self.run && seen.agent <= newest).unwrap_or(Cursor {
            agent: newest,
            gateway: 0,
            run: self.run,
        });
        write!(sink, "retry: {}\n\n", RETRY.as_millis())?;
        self.tell_status(sink, cursor)?;
        // The Gateway may take its time.
        sink.flush()?;
        let mut caught_up = self.catch_up(sink, &mut cursor)?;
        let (mut told, mut commented) = (Instant::now(), Instant::now());
        loop {
            tell_lines(sink, log, &mut cursor)?;
            let news = self.listener.take();
            for message in &news.messages {
                if !caught_up.knows(message) {
                    tell(sink, message, &mut cursor)?;
                }
            }
            if news.status || told.elapsed() >= STATUS {
                told = Instant::now();
                self.tell_status(sink, cursor)?;
            }
            if commented.elapsed() >= COMMENT {
                commented = Instant::now();
                sink.write_all(b":\n\n")?;
            }
            sink.flush()?;
            if let Some(why) = news.end {
                log::debug!("admin: a page that listened was sent away: {why:?}");
                return Ok(());
            }
            if sink.ended() || timestamp::now().unix_timestamp() >= self.expires {
                return Ok(());
            }
            crossbeam_channel::select! {
                recv(self.listener.woken) -> _ => {}
                recv(lines.receiver) -> _ => {}
                default(LOOK) => {}
            }
        }
    }

    /// Tells the lines of the Gateway's log that were written while the listener was away.
    fn catch_up(&self, sink: &mut dyn Sink, cursor: &mut Cursor) -> io::Result<CaughtUp> {
        let mut caught_up = CaughtUp { to: 0, until: Instant::now() + TWICE };
        if cursor.gateway == 0 {
            return Ok(caught_up);
        }
        let page = match self.control.gateway_logs(0, LINES as u32, None) {
            Ok(page) => page,
            // It is away, or older than that: what it says from now on is told all the same.
            Err(fault) => {
                log::debug!("admin: no lines of the Gateway's log since {}: {fault}", cursor.gateway);
                return Ok(caught_up);
            }
        };
        for line in page.lines.iter().rev().filter(|line| line.id > cursor.gateway).collect::<Vec<_>>() {
            cursor.gateway = line.id;
            caught_up.to = line.id;
            write!(sink, "id: {}\nevent: GatewayLog\ndata: {}\n\n", cursor.text(), line_value(line))?;
        }
        caught_up.until = Instant::now() + TWICE;
        Ok(caught_up)
    }

    fn tell_status(&self, sink: &mut dyn Sink, cursor: Cursor) -> io::Result<()> {
        let status = self.status.value().map_err(|e| {
            log::error!("admin: {e}");
            io::Error::other("the database cannot be read")
        })?;
        let event = json!({
            "connectionStatus": status["connectionStatus"],
            "timestamp": timestamp::api_form(timestamp::now()),
            "message": status["lastError"],
            "status": status,
        });
        // With a number, so that whoever comes back before any line was written misses none either.
        write!(sink, "id: {}\nevent: StatusUpdate\ndata: {event}\n\n", cursor.text())
    }
}

/// How far the Gateway's log was caught up with.
struct CaughtUp {
    to: u64,
    until: Instant,
}

impl CaughtUp {
    /// Whether a line has been told already. Not asked for long: a Gateway that was started again counts anew.
    fn knows(&mut self, message: &Message) -> bool {
        if self.to > 0 && Instant::now() >= self.until {
            self.to = 0;
        }
        message.gateway_line.is_some_and(|line| line <= self.to)
    }
}

fn tell_lines(sink: &mut dyn Sink, log: &Ring, cursor: &mut Cursor) -> io::Result<()> {
    loop {
        let lines = log.since(cursor.agent, LINES);
        for line in &lines {
            cursor.agent = line.id;
            write!(sink, "id: {}\nevent: AgentLog\ndata: {}\n\n", cursor.text(), line_value(line))?;
        }
        if lines.len() < LINES {
            return Ok(());
        }
    }
}

fn tell(sink: &mut dyn Sink, message: &Message, cursor: &mut Cursor) -> io::Result<()> {
    if let Some(line) = message.gateway_line {
        cursor.gateway = line;
        writeln!(sink, "id: {}", cursor.text())?;
    }
    write!(sink, "event: {}\ndata: {}\n\n", message.name, message.data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        let cursor = Cursor { agent: 12, gateway: 345, run: 1_700_000_000_000 };
        assert_eq!(cursor.text(), "a12-g345-1700000000000");
        assert_eq!(Cursor::parse(&cursor.text()), Some(cursor));
        for text in
            ["", "a", "a1-g2", "a1-g-3", "1-2-3", "a1-g2-3-4", "a-1-g2-3", "a1-g99999999999999999999-1"]
        {
            assert_eq!(Cursor::parse(text), None, "{text}");
        }
    }
}
