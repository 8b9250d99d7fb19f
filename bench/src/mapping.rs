//! The little the bench needs of the Agent's admin API: log in, write a Mapping, and see how long it takes
//! until a Visitor can use it. A subcommand of its own, since the Agent may live in a namespace.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fault::Fault;
use crate::paced::exchange;
use crate::target::Target;
use crate::wire::dial;

/// The Agent's admin API.
#[derive(Debug)]
pub struct Admin {
    addr: SocketAddr,
    token: String,
}

impl Admin {
    /// Logs in.
    pub fn log_in(addr: SocketAddr, password: &str) -> Result<Self, Fault> {
        let body = json!({ "password": password });
        let answer = call(addr, "/api/v1/auth/login", "", &body)?;
        let token = answer.get("token").and_then(Value::as_str);
        let token = token.ok_or_else(|| Fault::Answer(format!("login: no token in {answer}")))?.to_owned();
        Ok(Self { addr, token })
    }

    /// Adds a Mapping from `domain` to a port on the Agent's own machine.
    pub fn add(&self, domain: &str, port: u16) -> Result<(), Fault> {
        let body = json!({
            "externalDomain": domain,
            "internalHost": "127.0.0.1",
            "internalPort": port,
            "internalUseTls": false,
            "isEnabled": true,
        });
        let authorization = format!("Authorization: Bearer {}\r\n", self.token);
        call(self.addr, "/api/v1/mappings", &authorization, &body).map(drop)
    }
}

/// POSTs JSON, expects a 2xx with JSON.
fn call(addr: SocketAddr, path: &str, fields: &str, body: &Value) -> Result<Value, Fault> {
    let what = || format!("POST {path} to the agent");
    let patience = Duration::from_secs(10);
    let body = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {addr}\r\nContent-Type: application/json\r\n{fields}\
         Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut bytes = Vec::new();
    TcpStream::connect_timeout(&addr, patience)
        .and_then(|mut sock| {
            sock.set_read_timeout(Some(patience))?;
            sock.write_all(request.as_bytes())?;
            sock.take(1 << 20).read_to_end(&mut bytes)
        })
        .map_err(Fault::io(what()))?;
    let text = String::from_utf8_lossy(&bytes);
    let status: u16 = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    if !(200..300).contains(&status) {
        return Err(Fault::Answer(format!("{}: {}", what(), text.trim_end())));
    }
    // The first brace to the last: the body, chunked or not, as these answers are one small object.
    let json = text.find('{').zip(text.rfind('}')).and_then(|(from, to)| text.get(from..=to));
    serde_json::from_str(json.unwrap_or("{}"))
        .map_err(|error| Fault::Answer(format!("{}: {error} in {}", what(), text.trim_end())))
}

/// Asks again and again until `target` answers 200; returns how long that took. `stop` ends it early.
pub fn until_served(
    target: &Target,
    path: &str,
    limit: Duration,
    stop: &AtomicBool,
) -> Result<Duration, Fault> {
    let begin = Instant::now();
    let request = target.get(path, true);
    let mut scratch = vec![0; 16 * 1024];
    loop {
        // A request that a system holds back until it can answer counts as served when it is answered;
        // one that was lost is given up after a while and asked again, as a person would.
        let asked = dial(target, Duration::from_secs(3)).and_then(|mut wire| {
            let answer = exchange(&mut wire, &request, &mut scratch)?;
            if answer.status == 200 {
                Ok(())
            } else {
                Err(Fault::Answer(format!("status {}", answer.status)))
            }
        });
        match asked {
            Ok(()) => return Ok(begin.elapsed()),
            Err(_) if stop.load(Ordering::Relaxed) => return Err(Fault::Interrupted),
            Err(fault) if begin.elapsed() > limit => {
                return Err(Fault::Late { what: format!("{} ({fault})", target.url()), limit });
            }
            // The resolution of what is measured here.
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Waits until somebody listens on `addr`.
pub fn until_listening(addr: SocketAddr, limit: Duration, stop: &AtomicBool) -> Result<(), Fault> {
    let begin = Instant::now();
    while TcpStream::connect_timeout(&addr, Duration::from_secs(1)).is_err() {
        if stop.load(Ordering::Relaxed) {
            return Err(Fault::Interrupted);
        }
        if begin.elapsed() > limit {
            return Err(Fault::Late { what: format!("a listener on {addr}"), limit });
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
