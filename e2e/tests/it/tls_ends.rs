//! How answers end over TLS. A server that has no more to say says so with `close_notify`, often in the same packet as its
//! last bytes, and some then wait for the other side's before they close (RFC 8446 6.1). That is the end, and is answered.

use std::process::Command;
use std::time::Duration;

use e2e::bytes::pattern;
use e2e::certificates::Identity;
use e2e::daemon::Daemon;
use e2e::machine;
use e2e::message::Broken;
use e2e::python;
use e2e::upstream::{Event, Exchange, Then, Upstream};
use e2e::world::{Folder, World};
use serde_json::json;

/// Requests to each server. When the end of the data was missed now and then, it was one in three to one in a hundred.
const REQUESTS: usize = 200;
/// An answer is late after this long: less than any of the servers waits for our goodbye.
const LATE: Duration = Duration::from_secs(15);

const PAGE: &str = "<p>hello</p>";

/// The page, as old programs send it: until the connection ends.
const ANSWER: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n<p>hello</p>";
const UPGRADED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nlast words";

fn identity() -> Identity {
    Identity::self_signed(&["127.0.0.1", "localhost"])
}

fn map(world: &World, domain: &str, port: u16) {
    let mapping = json!({ "internalUseTls": true, "allowSelfSignedCerts": true });
    world.agent().map_with(domain, port, mapping);
}

/// Asks again and again, each time on a new connection to the service.
fn none_is_late(world: &World, domain: &str, contains: &str) {
    for n in 0..REQUESTS {
        let mut visitor = world.visitor(domain);
        visitor.set_patience(LATE);
        let answer = visitor.try_request("GET", "/", &[], None);
        let answer = answer.unwrap_or_else(|failed| panic!("{domain}, request {n}: {failed:?}"));
        assert_eq!(answer.status(), 200, "{domain}, request {n}");
        assert!(answer.text().contains(contains), "{domain}, request {n}: {answer:?}");
    }
}

/// The same with upgraded connections.
fn none_is_left_open(world: &World, domain: &str) {
    for n in 0..REQUESTS {
        let mut visitor = world.visitor(domain);
        visitor.set_patience(LATE);
        visitor.ask("GET", "/up", &[("Connection", "Upgrade"), ("Upgrade", "echo")]);
        assert_eq!(visitor.head("GET").status(), 101, "{domain}, request {n}");
        let (bytes, ending) = visitor.all_until_end();
        assert_eq!((&bytes[..], ending), (&b"last words"[..], Broken::Closed), "{domain}, request {n}");
    }
}

/// Sends the last bytes and `close_notify` in one packet, and waits for the other side's.
fn last_words(x: &mut Exchange<'_>, words: &str) -> std::io::Result<Then> {
    x.socket().send_last(words.as_bytes(), None)?;
    loop {
        match x.raw() {
            Ok(_) => {}
            // Not before TLS said so: anything else is a reset here.
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                x.note("goodbye");
                return Ok(Then::Close);
            }
            Err(e) => return Err(e),
        }
    }
}

/// How many were seen.
fn goodbyes(events: &[Event]) -> usize {
    events.iter().filter(|event| matches!(event, Event::Note { text, .. } if text == "goodbye")).count()
}

#[test]
fn the_end_that_comes_with_the_last_bytes_is_seen_and_answered() {
    let world = World::start();
    let upstream = Upstream::start_tls(identity().server());
    upstream.on("/", |x| last_words(x, ANSWER));
    upstream.on("/up", |x| last_words(x, UPGRADED));
    map(&world, "page.test", upstream.port());
    none_is_late(&world, "page.test", PAGE);
    none_is_left_open(&world, "page.test");
    let all = |events: &[Event]| (goodbyes(events) == 2 * REQUESTS).then_some(());
    let answered = upstream.journal().wait(LATE, all);
    assert!(answered.is_some(), "{} of {}", upstream.journal().look(goodbyes), 2 * REQUESTS);
}

#[test]
fn what_is_broken_behind_the_last_bytes_ends_the_answer_as_well() {
    let world = World::start();
    let upstream = Upstream::start_tls(identity().server());
    upstream.on("/", |x| {
        // More than is deciphered at a time, and then a record that nobody can decipher.
        let answer = [ANSWER.as_bytes(), &pattern(0, 40_000)].concat();
        x.socket().send_last(&answer, Some(b"\x17\x03\x03\x00\x20this is not a record, is it now?"))?;
        x.wait_gone()
    });
    map(&world, "broken.test", upstream.port());
    let mut visitor = world.visitor("broken.test");
    visitor.set_patience(LATE);
    match visitor.try_request("GET", "/", &[], None) {
        Ok(answer) => assert_eq!(answer.status(), 502, "{answer:?}"),
        Err(failed) => assert_ne!(failed.broken, Broken::Silent, "{failed:?}"),
    }
}

#[test]
fn openssl_is_not_waited_for() {
    let Some(openssl) = machine::program("openssl", "openssl") else { return };
    let (world, folder) = (World::start(), Folder::new());
    let pem = folder.write("both.pem", &identity().pem());
    let mut command = Command::new(openssl);
    // `-www` answers each request with a page about its connection.
    command.args(["s_server", "-www", "-accept", "127.0.0.1:0", "-cert", &pem, "-key", &pem]);
    let mut server = Daemon::spawn("openssl", &mut command, []);
    let line = server.wait_line("ACCEPT 127.0.0.1:");
    let port = line.rsplit(':').next().and_then(|port| port.trim().parse().ok()).expect("its port");
    map(&world, "openssl.test", port);
    none_is_late(&world, "openssl.test", "s_server");
}

#[test]
fn python_is_not_waited_for() {
    const SERVER: &str = r#"
import asyncio, ssl, sys
PAGE = b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n<p>hello</p>'
UPGRADED = b'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nlast words'
async def serve(reader, writer):
    head = await reader.readuntil(b'\r\n\r\n')
    writer.write(UPGRADED if head.startswith(b'GET /up') else PAGE)
    writer.close()  # close_notify, then the other side's is waited for
async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1])
    patience = {'ssl_shutdown_timeout': 600} if sys.version_info >= (3, 11) else {}
    server = await asyncio.start_server(serve, '127.0.0.1', 0, ssl=context, **patience)
    print('port', server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"#;
    let (world, folder) = (World::start(), Folder::new());
    let mut command = python::command(SERVER);
    command.arg(folder.write("both.pem", &identity().pem()));
    let mut server = Daemon::spawn("python", &mut command, []);
    let line = server.wait_line("port ");
    let port = line.rsplit(' ').next().and_then(|port| port.trim().parse().ok()).expect("its port");
    map(&world, "python.test", port);
    none_is_late(&world, "python.test", PAGE);
    none_is_left_open(&world, "python.test");
}

#[test]
fn gnutls_is_not_waited_for() {
    let Some(gnutls) = machine::program("gnutls-serv", "gnutls-bin") else { return };
    let (world, folder) = (World::start(), Folder::new());
    let pem = folder.write("both.pem", &identity().pem());
    let port = machine::free_port();
    let mut command = Command::new(gnutls);
    command.args(["--http", "--disable-client-cert", "--port", &port.to_string()]);
    command.args(["--x509certfile", &pem, "--x509keyfile", &pem]);
    let mut server = Daemon::spawn("gnutls-serv", &mut command, []);
    server.wait_line(&format!("IPv4 0.0.0.0 port {port}...done"));
    map(&world, "gnutls.test", port);
    none_is_late(&world, "gnutls.test", "GnuTLS");
}

#[test]
fn stunnel_is_not_waited_for() {
    let Some(stunnel) = machine::program("stunnel", "stunnel4") else { return };
    let (world, folder) = (World::start(), Folder::new());
    // A plain program of the old kind behind it.
    let plain = Upstream::start();
    plain.on("/", |x| x.send(ANSWER).map(|()| Then::Close));
    plain.on("/up", |x| x.send(UPGRADED).map(|()| Then::Close));
    let pem = folder.write("both.pem", &identity().pem());
    let port = machine::free_port();
    let config = format!(
        "foreground = yes\npid =\nsyslog = no\n[page]\naccept = 127.0.0.1:{port}\nconnect = {}\ncert = {pem}\n\
         TIMEOUTclose = 600\n",
        plain.address()
    );
    let mut command = Command::new(stunnel);
    command.arg(folder.write("stunnel.conf", &config));
    let mut server = Daemon::spawn("stunnel", &mut command, []);
    server.wait_line("Configuration successful");
    map(&world, "stunnel.test", port);
    none_is_late(&world, "stunnel.test", PAGE);
    none_is_left_open(&world, "stunnel.test");
}
