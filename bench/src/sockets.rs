//! Idle WebSockets: opens many, holds them while the orchestration looks at memory, and asks a few for an
//! echo at the end, so that a system that dropped them silently does not look thrifty.

use std::io::{BufRead, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Message, WebSocket};

use crate::fault::Fault;
use crate::target::Target;
use crate::wire::{Wire, dial};

/// How many are asked for an echo.
const SAMPLE: usize = 50;

/// Opens up to each of `counts` in turn, writes a JSON line to `out` each time, and waits for a line on
/// `control`; the echo comes after the last. The end of `control` ends it at any point.
pub fn run(
    target: &Target,
    counts: &[usize],
    limit: Duration,
    control: &mut impl BufRead,
    out: &mut impl Write,
) -> Result<(), Fault> {
    let end = Instant::now() + limit;
    let mut open: Vec<WebSocket<Wire<TcpStream>>> = Vec::new();
    let mut say = |value: serde_json::Value| {
        writeln!(out, "{value}").and_then(|()| out.flush()).map_err(Fault::io("write to the orchestration"))
    };
    for &count in counts {
        while open.len() < count {
            if Instant::now() > end {
                return Err(Fault::Late { what: format!("{count} websockets, {} open", open.len()), limit });
            }
            open.push(connect(target)?);
        }
        say(json!({ "open": open.len() }))?;
        let mut line = String::new();
        if control.read_line(&mut line).map_err(Fault::io("read from the orchestration"))? == 0 {
            return Ok(());
        }
    }
    let step = (open.len() / SAMPLE).max(1);
    let mut echoed = 0;
    for socket in open.iter_mut().step_by(step) {
        let sent = Message::text("still there?");
        socket.send(sent.clone()).map_err(|error| Fault::Answer(format!("websocket send: {error}")))?;
        let back = socket.read().map_err(|error| Fault::Answer(format!("websocket echo: {error}")))?;
        if back != sent {
            return Err(Fault::Answer(format!("websocket echo: got {back:?}")));
        }
        echoed += 1;
    }
    say(json!({ "echoed": echoed }))
}

fn connect(target: &Target) -> Result<WebSocket<Wire<TcpStream>>, Fault> {
    let wire = dial(target, Duration::from_secs(10))?;
    let config = WebSocketConfig::default().read_buffer_size(1024).write_buffer_size(0);
    // The scheme is only for tungstenite, which is handed a connection that already has its TLS.
    let url = format!("ws://{}/ws", target.host);
    let (socket, _) = tungstenite::client::client_with_config(url, wire, Some(config))
        .map_err(|error| Fault::Answer(format!("websocket handshake: {error}")))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::upstream::Upstream;

    #[test]
    fn websockets_stay_open_and_echo() {
        let upstream = Upstream::bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let addr = upstream.local_addr().expect("bound");
        let stopper = upstream.stopper();
        let server = thread::spawn(move || upstream.run());
        let target = Target { tls: false, addr, host: "a.localhost".to_owned() };
        let mut said = Vec::new();
        run(&target, &[3, 7], Duration::from_secs(10), &mut &b"go\ngo\n"[..], &mut said).expect("echoed");
        assert_eq!(said, b"{\"open\":3}\n{\"open\":7}\n{\"echoed\":7}\n");
        stopper.stop().expect("a waker");
        server.join().expect("no panic").expect("served");
    }
}
