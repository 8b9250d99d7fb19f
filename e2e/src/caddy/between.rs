//! Something between the Gateway and Caddy's admin API: sees every call, and may do something else instead.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use crate::journal::{Journal, PATIENCE};
use crate::message::Incoming;
use crate::socket::Socket;

/// A call, and what became of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// `GET`, `PATCH`, ...
    pub method: String,
    /// The path.
    pub path: String,
    /// The body, as text.
    pub body: String,
}

/// What to do with a call.
pub enum Wanted {
    /// Caddy shall have it.
    Pass,
    /// This answer, with this status.
    Answer(u16, String),
    /// The connection is cut; Caddy does not get the call.
    Cut,
    /// Caddy gets the call, and the answer is lost.
    PassAndCut,
}

/// A listener that passes calls on.
pub struct Between {
    address: SocketAddr,
    calls: Arc<Journal<Call>>,
}

impl Between {
    /// In front of the admin API at a port of this machine. `decide` is asked for each call.
    pub fn new(admin: u16, decide: impl Fn(&Call) -> Wanted + Send + Sync + 'static) -> Between {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("bound");
        let calls = Arc::new(Journal::default());
        let (seen, decide) = (Arc::clone(&calls), Arc::new(decide));
        // Ends with the process; it holds nothing but its port.
        thread::spawn(move || {
            for tcp in listener.incoming().flatten() {
                let (seen, decide) = (Arc::clone(&seen), Arc::clone(&decide));
                thread::spawn(move || serve(tcp, admin, &seen, &*decide));
            }
        });
        Between { address, calls }
    }

    /// For `Gateway__CaddyAdminUrl`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.look(<[Call]>::to_vec)
    }

    /// All calls so far that would change something.
    pub fn writes(&self) -> Vec<Call> {
        self.calls().into_iter().filter(|call| call.method != "GET").collect()
    }

    /// Waits until there were so many reads.
    pub fn wait_reads(&self, count: usize) {
        let reads = |calls: &[Call]| calls.iter().filter(|call| call.method == "GET").count();
        let enough = self.calls.wait(PATIENCE * 2, |calls| (reads(calls) >= count).then_some(()));
        assert!(enough.is_some(), "{count} reads; there were {:?}", self.calls());
    }
}

/// One call of a connection, as the Gateway makes them.
fn serve(tcp: TcpStream, admin: u16, seen: &Journal<Call>, decide: &dyn Fn(&Call) -> Wanted) {
    let socket = Socket::plain(tcp);
    socket.set_read_timeout(PATIENCE);
    let mut incoming = Incoming::new(socket.clone());
    let Ok(head) = incoming.head() else { return };
    incoming.begin_body(head.request_framing());
    let Ok(body) = incoming.rest() else { return };
    let call = Call {
        method: head.method(),
        path: head.target(),
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    let wanted = decide(&call);
    let send = |bytes: &[u8]| {
        // The Gateway may have gone.
        drop((&socket).write_all(bytes));
    };
    match wanted {
        Wanted::Cut => {}
        Wanted::Answer(status, text) => {
            let len = text.len();
            send(
                format!("HTTP/1.1 {status} X\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{text}")
                    .as_bytes(),
            );
        }
        Wanted::Pass | Wanted::PassAndCut => {
            let mut request = format!(
                "{} {} HTTP/1.1\r\nHost: localhost:{admin}\r\nConnection: close\r\n",
                call.method, call.path
            );
            for name in ["if-match", "content-type"] {
                request.extend(head.get(name).map(|value| format!("{name}: {value}\r\n")));
            }
            if !body.is_empty() {
                request.push_str(&format!("Content-Length: {}\r\n", body.len()));
            }
            let request = [request.as_bytes(), b"\r\n", &body].concat();
            if let Some(answer) = exchange(admin, &request)
                && !matches!(wanted, Wanted::PassAndCut)
            {
                send(&answer);
            }
        }
    }
    seen.add(call);
    socket.close();
}

/// Everything that Caddy answers until it closes.
fn exchange(admin: u16, request: &[u8]) -> Option<Vec<u8>> {
    use std::io::Read;
    let mut tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, admin)).ok()?;
    tcp.set_read_timeout(Some(PATIENCE)).ok()?;
    tcp.write_all(request).ok()?;
    let mut answer = Vec::new();
    // What came before a reset counts.
    drop(tcp.read_to_end(&mut answer));
    Some(answer)
}
