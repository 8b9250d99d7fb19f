//! What strangers at the admin port cost the Agent: the real program, its memory and its descriptors.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use e2e::daemon::{self, Daemon, Program};
use e2e::journal::{PATIENCE, until};
use e2e::visitor::Visitor;
use e2e::world::{Folder, PASSWORD, Settings};
use serde_json::json;

/// What the strangers may cost in memory, in KiB: 64 connections with a thread, a head of 16 KiB and a body of 16 KiB
/// each, and as much again for what the allocator keeps.
const MOST_KIB: u64 = 10 * 1024;

fn start(folder: &Folder, descriptors: u32) -> (Daemon, SocketAddr) {
    let mut settings = Settings::agent();
    settings.set("Agent__GatewayUrl", "ws://127.0.0.1:9");
    let database = folder.path().join("agent.db");
    settings.set("ConnectionStrings__DefaultConnection", format!("Data Source={}", database.display()));
    let mut command = daemon::command_with_descriptors(Program::Agent, descriptors);
    let mut agent = Daemon::spawn("agent", &mut command, settings.pairs());
    let address = agent.address();
    (agent, address)
}

fn log_in(address: SocketAddr) {
    let body = json!({ "password": PASSWORD }).to_string();
    let fields = [("Content-Type", "application/json")];
    let answer = Visitor::connect(address, "agent").request(
        "POST",
        "/api/v1/auth/login",
        &fields,
        Some(body.as_bytes()),
    );
    assert_eq!(answer.status(), 200, "{answer:?}");
}

/// One that has sent much and is not done.
fn stranger(address: SocketAddr, number: usize) -> TcpStream {
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE).expect("a connection");
    let text = match number % 4 {
        0 => String::new(),
        1 => format!("GET / HTTP/1.1\r\nHost: agent\r\nX: {}", "x".repeat(15_000)),
        2 => format!(
            "POST /api/v1/auth/login HTTP/1.1\r\nHost: agent\r\nContent-Length: 16384\r\n\r\n{}",
            "x".repeat(16_000)
        ),
        _ => format!(
            "POST /api/v1/settings/landing-page HTTP/1.1\r\nHost: agent\r\nTransfer-Encoding: chunked\r\n\r\n3e80\r\n{}",
            "x".repeat(15_900)
        ),
    };
    // Those that had to make room already may say so.
    let _ = socket.write_all(text.as_bytes());
    socket
}

#[test]
fn a_thousand_strangers_cost_a_bounded_amount_of_memory_and_keep_nobody_out() {
    let folder = Folder::new();
    let (agent, address) = start(&folder, 4096);
    log_in(address);
    let before = agent.resident_kib();
    let mut most = 0;
    for wave in 0..5 {
        let crowd: Vec<_> = (0..200).map(|number| stranger(address, number)).collect();
        most = most.max(agent.resident_kib());
        log_in(address);
        most = most.max(agent.resident_kib());
        assert!(agent.threads() < 64 + 20, "wave {wave}: {} threads", agent.threads());
        drop(crowd);
    }
    println!("resident: {before} KiB before, at most {most} KiB");
    assert!(most < before + MOST_KIB, "{before} KiB before, {most} KiB");
}

#[test]
fn running_out_of_descriptors_does_not_end_the_admin_page_and_strangers_make_room() {
    let folder = Folder::new();
    let (mut agent, address) = start(&folder, 40);
    log_in(address);
    let crowd: Vec<_> = (0..120).map(|number| stranger(address, 4 * number)).collect();
    agent.wait_line("cannot accept connections");
    // They hold all descriptors there are, and say nothing.
    log_in(address);
    assert!(agent.is_running());
    drop(crowd);
    until("the page as before", PATIENCE, || {
        (Visitor::connect(address, "agent").get("/health").status() == 200).then_some(())
    });
}
