//! Devices that serve few connections at once, as many small ones do.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use e2e::message::Incoming;
use e2e::socket::Socket;
use e2e::world::World;
use socket2::{Domain, Type};

/// How long the Agent keeps an idle connection to a service: what every visitor paid who came beside another one.
const IDLE: Duration = Duration::from_secs(30);

/// A device that accepts the next connection when the one before has been closed by the other side, and takes `work`
/// for an answer. So many connections beyond the next one may wait for their turn; others get no answer from TCP. It ends with the first connection on which it is asked for `/off`.
fn one_at_a_time(work: Duration, waiting: i32) -> (u16, thread::JoinHandle<()>) {
    let listener = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a port");
    listener.listen(waiting).expect("listening");
    let listener = TcpListener::from(listener);
    let port = listener.local_addr().expect("bound").port();
    let serve = move || {
        loop {
            let (tcp, _) = listener.accept().expect("a connection");
            let mut socket = Socket::plain(tcp);
            socket.set_read_timeout(4 * IDLE);
            let mut incoming = Incoming::new(socket.clone());
            while let Ok(head) = incoming.head() {
                if head.path() == "/off" {
                    return;
                }
                incoming.begin_body(head.request_framing());
                if incoming.rest().is_err() {
                    break;
                }
                // The device's work, not a pace of the test.
                thread::sleep(work);
                if socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\non\n").is_err() {
                    break;
                }
            }
            socket.close();
        }
    };
    (port, thread::spawn(serve))
}

/// Visitors who come at the same moment, each on a connection of his own, and how long it took until all were served.
fn at_once(world: &World, method: &'static str, visitors: usize) -> Duration {
    let (done, served) = mpsc::channel();
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..visitors {
            let mut visitor = world.visitor("device.test");
            // So that it fails with what took so long.
            visitor.set_patience(4 * IDLE);
            let done = done.clone();
            scope.spawn(move || {
                let body = (method == "POST").then_some(&b"switch=1"[..]);
                let answer = visitor.request(method, "/state", &[], body);
                assert_eq!((answer.status(), answer.text().as_str()), (200, "on\n"));
                done.send(()).expect("the test waits");
            });
        }
    });
    drop(done);
    assert_eq!(served.iter().count(), visitors);
    began.elapsed()
}

#[test]
fn a_device_that_serves_one_connection_at_a_time_is_served_to_all_visitors() {
    for (method, work, waiting) in [("GET", 300, 64), ("GET", 10, 64), ("POST", 300, 64), ("GET", 300, 0)] {
        let (port, device) = one_at_a_time(Duration::from_millis(work), waiting);
        let world = World::start();
        world.agent().map("device.test", port);
        // What was learned from the first ones is of use to those who come later.
        for round in 1..=3 {
            let took = at_once(&world, method, 4);
            assert!(
                took < IDLE / 2,
                "{method}, {work} ms of work, {waiting} may wait, round {round}: all were served after {took:?}"
            );
        }
        drop(world);
        let mut off = TcpStream::connect(("127.0.0.1", port)).expect("the device is there");
        off.write_all(b"GET /off HTTP/1.1\r\nHost: device\r\n\r\n").expect("sent");
        device.join().expect("no panic in the device");
    }
}

#[test]
fn an_ordinary_service_keeps_its_connections_beside_a_slow_request() {
    let world = World::start();
    let service = world.publish("shop.test");
    service.on("/news", |x| x.wait_gone());
    let mut waiting = world.visitor("shop.test");
    waiting.ask("GET", "/news", &[]);
    service.wait_request("/news");
    // The slow one was there first, so whoever is served shows that it is served too.
    let mut visitor = world.visitor("shop.test");
    for _ in 0..50 {
        assert_eq!(visitor.get("/hello").status(), 200);
    }
    assert!(service.accepted() <= 3, "{} connections for 51 requests", service.accepted());
    waiting.leave();
}
