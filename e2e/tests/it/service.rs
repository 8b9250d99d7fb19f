//! Under a service manager: the daemons tell `NOTIFY_SOCKET` how they are, and take a socket that is handed over. The
//! test plays the service manager.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use e2e::daemon::{Daemon, Ended, Program, run};
use e2e::journal::PATIENCE;
use e2e::world::{Agent, Folder, Gateway, Settings};
use socket2::SockRef;

/// What the service manager listens to, in a folder.
struct Manager {
    folder: Folder,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Manager {
        let folder = Folder::new();
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        Manager { folder, socket }
    }

    /// Adds to a daemon's settings what a unit with `Type=notify` and `WatchdogSec=1` adds.
    fn tell(&self, settings: &mut Settings) {
        settings.set("NOTIFY_SOCKET", self.folder.path().join("notify").display().to_string());
        settings.set("WATCHDOG_USEC", "1000000");
    }

    fn message(&self) -> String {
        let mut bytes = [0; 4096];
        let count = self.socket.recv(&mut bytes).expect("a message in time");
        String::from_utf8(bytes[..count].to_vec()).expect("UTF-8")
    }

    /// Reads on until a message pleases; gives it.
    fn wait(&self, wanted: impl Fn(&str) -> bool) -> String {
        let mut count = 0;
        loop {
            let message = self.message();
            if wanted(&message) {
                return message;
            }
            count += 1;
            assert!(count < 500, "five hundred other messages, the last one {message:?}");
        }
    }
}

#[test]
fn a_gateway_says_when_it_is_ready_that_it_lives_and_that_it_stops() {
    let manager = Manager::new();
    let mut settings = Settings::gateway();
    manager.tell(&mut settings);
    let mut gateway = Gateway::start(settings);
    let ready = manager.message();
    let status = format!("STATUS=listening on {}: 0 Agents, 0 routes, 0 running requests", gateway.address());
    assert_eq!(ready, format!("READY=1\n{status}"));
    // What it says first is true: who is told so may connect.
    TcpStream::connect(gateway.address()).expect("it listens");
    for _ in 0..3 {
        manager.wait(|message| message == "WATCHDOG=1");
    }
    gateway.daemon.signal("TERM");
    manager.wait(|message| message.starts_with("STOPPING=1\nSTATUS="));
    assert_eq!(gateway.daemon.wait_exit(PATIENCE).code(), Some(0));
}

#[test]
fn an_agent_is_ready_without_its_gateway_and_says_what_is_missing() {
    let manager = Manager::new();
    let mut settings = Settings::agent();
    manager.tell(&mut settings);
    settings.set("Agent__GatewayUrl", "ws://127.0.0.1:1/tunnel");
    let database = manager.folder.path().join("octoporty.db");
    settings.set("ConnectionStrings__DefaultConnection", format!("Data Source={}", database.display()));
    let mut agent = Agent::start(settings);
    let ready = manager.message();
    assert!(ready.starts_with("READY=1\nSTATUS="), "{ready}");
    assert!(ready.ends_with(&format!("admin page on http://{}", agent.api())), "{ready}");
    let missing = |text: &str| text.contains("STATUS=not connected: ") && text.contains("127.0.0.1:1");
    // It may have found that out before.
    if !missing(&ready) {
        manager.wait(missing);
    }
    for _ in 0..3 {
        manager.wait(|message| message == "WATCHDOG=1");
    }
    agent.daemon.signal("TERM");
    manager.wait(|message| message.starts_with("STOPPING=1\nSTATUS="));
    assert_eq!(agent.daemon.wait_exit(PATIENCE).code(), Some(0));
}

#[test]
fn a_notify_socket_that_cannot_be_used_stops_the_start() {
    let mut environment = vec![("NOTIFY_SOCKET", "nowhere")];
    let key = "an-api-key-for-tests-0123456789-abcdefghij";
    environment.extend([("Gateway__ApiKey", key), ("Gateway__Port", "0"), ("Gateway__CaddyMode", "off")]);
    environment.push(("Logging__FilePath", ""));
    let Ended { status, err, .. } = run(Program::Gateway, &[], &environment);
    assert_eq!(status.code(), Some(1), "{err}");
    assert!(err.contains("NOTIFY_SOCKET=nowhere: "), "{err}");
}

/// The command of a Gateway that gets `socket` as descriptor 3; `count` is how many it is told.
fn activated(socket: &impl AsRawFd, count: usize) -> Command {
    let script = format!("exec 3<&{}; LISTEN_PID=$$ LISTEN_FDS={count} exec \"$0\"", socket.as_raw_fd());
    // Not sh: dash takes no descriptor of two digits, and a test among many others has one.
    let mut command = Command::new("bash");
    command.arg("-c").arg(script).arg(Program::Gateway.binary());
    command
}

/// A listening socket that programs started by this test keep.
fn inheritable() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    SockRef::from(&listener).set_cloexec(false).expect("a flag");
    listener
}

#[test]
fn a_restart_with_a_socket_unit_refuses_nobody() {
    let listener = inheritable();
    let address = listener.local_addr().expect("bound");
    let mut settings = Settings::gateway();
    settings.set("Gateway__Port", address.port().to_string());
    let mut gateway = Gateway::start_with(settings.clone(), activated(&listener, 1));
    assert_eq!(gateway.address(), address);
    assert_eq!(gateway.visitor("gateway.test").get("/health").status(), 200);
    gateway.daemon.signal("TERM");
    assert_eq!(gateway.daemon.wait_exit(PATIENCE).code(), Some(0));
    // Nobody runs: the kernel takes the connection, and the next Gateway answers it.
    let mut early = TcpStream::connect(address).expect("the socket is open");
    early.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    early
        .write_all(b"GET /health HTTP/1.1\r\nHost: gateway.test\r\nConnection: close\r\n\r\n")
        .expect("sent");
    let gateway = Gateway::start_with(settings, activated(&listener, 1));
    let mut answer = String::new();
    early.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    drop(gateway);
}

/// Between the two a visitor has been accepted by a Gateway that is told to stop; nobody told him.
#[test]
fn a_request_on_its_way_is_answered_by_a_gateway_that_stops() {
    let mut gateway = Gateway::start(Settings::gateway());
    let mut visitor = TcpStream::connect(gateway.address()).expect("it listens");
    visitor.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    // Somebody who came after him was answered, so he has been accepted.
    assert_eq!(gateway.visitor("gateway.test").get("/health").status(), 200);
    gateway.daemon.signal("TERM");
    gateway.daemon.wait_line("running requests have");
    visitor.write_all(b"GET /health HTTP/1.1\r\nHost: gateway.test\r\n\r\n").expect("sent");
    let mut answer = String::new();
    visitor.read_to_string(&mut answer).expect("an answer, and the end");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(gateway.daemon.wait_exit(PATIENCE).code(), Some(0));
}

#[test]
fn a_port_that_differs_from_the_socket_unit_is_said() {
    let listener = inheritable();
    let mut settings = Settings::gateway();
    settings.set("Gateway__Port", "17200");
    let mut gateway = Gateway::start_with(settings, activated(&listener, 1));
    let line = gateway.daemon.wait_line("the socket unit listens on");
    assert!(line.contains("Gateway__Port say 127.0.0.1:17200"), "{line}");
}

#[test]
fn a_wrong_socket_unit_stops_the_start_and_is_named() {
    let listener = inheritable();
    let connected = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
    SockRef::from(&connected).set_cloexec(false).expect("a flag");
    for (mut command, words) in
        [(activated(&listener, 2), "hands over 2 sockets"), (activated(&connected, 1), "not listening")]
    {
        let environment = Settings::gateway();
        let mut daemon = Daemon::spawn("gateway", &mut command, environment.pairs());
        let status = daemon.wait_exit(Duration::from_secs(30));
        assert_eq!(status.code(), Some(1));
        // Everything it said has been read when its pipes are closed.
        let said = daemon.ended();
        assert!(said.contains(words) && said.contains("ListenStream="), "{said}");
    }
}
