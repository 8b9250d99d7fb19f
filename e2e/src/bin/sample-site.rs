//! `sample-site`: a small real web site, for trying the tunnel out: a page that shows the request as it arrived,
//! Server-Sent Events, an upload with progress, a download, and a WebSocket on which visitors talk to one another.
//!
//! Listens on this machine only. Ends with Ctrl-C or SIGTERM; there is nothing to clean up.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use e2e::bytes::{Hash, pattern};
use e2e::upstream::{Exchange, Then, Upstream};
use e2e::websocket::{self, WebSocket};
use tungstenite::Message;

const USAGE: &str =
    "usage: sample-site [--port N]\n\n  --port N   port on 127.0.0.1; 0, the default, is any free one\n";
const PAGE: &str = include_str!("sample-site.html");
/// Longest message that is passed on.
const MOST_WORDS: usize = 2000;
/// Most bytes of a download.
const MOST_BYTES: u64 = 10_000_000_000;
/// A talker who takes longer than this to accept a message has left without saying so.
const PATIENCE: Duration = Duration::from_secs(5);

/// The talkers' sockets, for writing.
type Talkers = Arc<Mutex<Vec<(u64, WebSocket)>>>;

fn main() -> ExitCode {
    let port = match arguments(std::env::args().skip(1)) {
        Ok(Some(port)) => port,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(fault) => {
            eprint!("sample-site: {fault}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(listener) => listener,
        Err(e) => {
            eprintln!("sample-site: cannot listen on 127.0.0.1:{port}: {e}; choose another port with --port");
            return ExitCode::FAILURE;
        }
    };
    let site = Upstream::without_journal(listener);
    install(&site);
    println!("listening on http://{}", site.address());
    // A pipe that nobody reads is no reason to stop serving.
    drop(io::stdout().flush());
    loop {
        thread::park();
    }
}

/// The port, or `None` for help.
fn arguments(mut arguments: impl Iterator<Item = String>) -> Result<Option<u16>, String> {
    let mut port = 0;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--help" | "-h" => return Ok(None),
            "--port" => {
                let text = arguments.next().ok_or("--port needs a number")?;
                port = text.parse().map_err(|_| format!("--port {text:?} is no number from 0 to 65535"))?;
            }
            other => return Err(format!("unknown argument {other:?}")),
        }
    }
    Ok(Some(port))
}

fn install(site: &Upstream) {
    site.on("/", page);
    site.on("/clock", clock);
    site.on("/upload", upload);
    site.on("/download", download);
    let talkers = Talkers::default();
    site.on("/talk", move |x| talk(x, &talkers));
    site.on("*", |x| x.reply(404, &[("Content-Type", "text/plain")], b"There is only one page here: /\n"));
}

fn page(x: &mut Exchange<'_>) -> io::Result<Then> {
    let mut rows = String::new();
    for (name, value) in &x.head.fields {
        let value = escape(&String::from_utf8_lossy(value));
        write!(rows, "<tr><td>{}</td><td>{value}</td></tr>", escape(name)).expect("writing to a string");
    }
    let line = escape(&String::from_utf8_lossy(&x.head.start));
    let html = PAGE.replace("<!--LINE-->", &line).replace("<!--FIELDS-->", &rows);
    x.reply(
        200,
        &[("Content-Type", "text/html; charset=utf-8"), ("Cache-Control", "no-store")],
        html.as_bytes(),
    )
}

fn clock(x: &mut Exchange<'_>) -> io::Result<Then> {
    x.send(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\
         Transfer-Encoding: chunked\r\n\r\n",
    )?;
    for number in 1u64.. {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = now.as_secs() % 86_400;
        let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        x.chunk(format!("id: {number}\ndata: {h:02}:{m:02}:{s:02}\n\n").as_bytes())?;
        // A clock has a pace of its own: to the beginning of the next second. Sending fails when the visitor has gone.
        thread::sleep(Duration::from_millis(1000 - u64::from(now.subsec_millis())));
    }
    Ok(Then::Close)
}

fn upload(x: &mut Exchange<'_>) -> io::Result<Then> {
    let (mut len, mut hash) = (0u64, Hash::default());
    while let Some(piece) = x.piece()? {
        len += piece.len() as u64;
        hash.add(&piece);
    }
    x.reply(200, &[("Content-Type", "text/plain")], format!("{len} bytes, hash {}", hash.hex()).as_bytes())
}

fn download(x: &mut Exchange<'_>) -> io::Result<Then> {
    let wanted = x.head.query("n").map_or(Some(1_000_000), |n| n.parse().ok());
    let Some(len) = wanted.filter(|len| *len <= MOST_BYTES) else {
        return x.reply(
            400,
            &[("Content-Type", "text/plain")],
            b"n must be a number of bytes up to 10000000000\n",
        );
    };
    x.send(format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {len}\r\n\r\n"
    ))?;
    if x.head.method() == "HEAD" {
        return Ok(Then::Keep);
    }
    // The pattern's period is longer than a block; the same block again and again is random enough for a download.
    let block = pattern(0, 64 * 1024);
    let mut left = len;
    while left > 0 {
        let size = left.min(block.len() as u64);
        x.send(&block[..size as usize])?;
        left -= size;
    }
    Ok(Then::Keep)
}

/// Passes every message on to everybody who is there.
fn talk(x: &mut Exchange<'_>, talkers: &Talkers) -> io::Result<Then> {
    if x.head.get("sec-websocket-key").is_none() {
        return x.reply(426, &[("Upgrade", "websocket"), ("Connection", "Upgrade")], b"WebSocket only\n");
    }
    let number = x.connection();
    let mut socket = x.websocket("")?;
    x.socket().set_write_timeout(PATIENCE);
    talkers
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push((number, websocket::server(x.socket().clone(), Vec::new())));
    tell(talkers, &format!("visitor {number} is here"));
    loop {
        match socket.read() {
            Ok(Message::Text(text)) if text.len() <= MOST_WORDS => {
                tell(talkers, &format!("{number}: {text}"))
            }
            Ok(Message::Close(_)) | Err(_) => break,
            Ok(_) => {}
        }
    }
    talkers.lock().unwrap_or_else(PoisonError::into_inner).retain(|(other, _)| *other != number);
    tell(talkers, &format!("visitor {number} has left"));
    // Sends the answer to the close frame; whoever has gone without one does not need it.
    drop(socket.flush());
    Ok(Then::Close)
}

fn tell(talkers: &Talkers, text: &str) {
    let mut talkers = talkers.lock().unwrap_or_else(PoisonError::into_inner);
    talkers.retain_mut(|(_, socket)| socket.send(Message::text(text)).is_ok());
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<u16>, String> {
        arguments(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments_are_understood_or_refused() {
        assert_eq!(parse(""), Ok(Some(0)));
        assert_eq!(parse("--port 8080"), Ok(Some(8080)));
        assert_eq!(parse("--help"), Ok(None));
        for wrong in ["--port", "--port x", "--port 70000", "8080"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_visitors_fields_cannot_become_markup() {
        assert_eq!(escape("<b a=\"1\">&"), "&lt;b a=&quot;1&quot;&gt;&amp;");
    }
}
