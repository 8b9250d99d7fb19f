//! Connections to a service are used by one visitor after the other: nothing of one may reach the next.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use e2e::journal::PATIENCE;
use e2e::site::Site;
use e2e::upstream::{Event, Exchange, Then};

/// A service that takes a connection for its user's once he has shown who he is, as those with NTLM do.
fn with_logins(site: &Site, offer: &'static [(&'static str, &'static str)]) {
    let users: Arc<Mutex<HashMap<u64, String>>> = Arc::default();
    site.upstream.on("/mail", move |x| {
        let mut users = users.lock().expect("no handler panics");
        let given = x.head.all("authorization").into_iter().find_map(|value| {
            let (_, token) = value.split_once(' ')?;
            Some(token.strip_prefix("proof-")?.to_owned())
        });
        if let Some(user) = given {
            users.insert(x.connection(), user);
        }
        match users.get(&x.connection()) {
            Some(user) => x.reply(200, offer, format!("mail of {user}").as_bytes()),
            None => x.reply(401, offer, b"who are you?"),
        }
    });
}

/// How many visitors without a login come after one with it: more than could find another idle connection.
const STRANGERS: usize = 5;

#[test]
fn a_connection_that_somebody_logged_in_on_serves_nobody_else() {
    let offers: [&[(&str, &str)]; 2] = [&[], &[("WWW-Authenticate", "NTLM")]];
    for offer in offers {
        for scheme in ["NTLM", "ntlm", "Negotiate", "NEGOTIATE", "Kerberos"] {
            let site = Site::new();
            with_logins(&site, offer);
            let credentials = format!("{scheme} proof-alice");
            for fields in [
                vec![("Authorization", credentials.as_str())],
                // Some servers read the last one.
                vec![("Authorization", "Basic YTpi"), ("Authorization", credentials.as_str())],
            ] {
                let answer = site.request("GET", "/mail", &fields, None);
                assert_eq!((answer.status(), answer.text().as_str()), (200, "mail of alice"), "{fields:?}");
                let connection = site.upstream.journal().look(|events| {
                    events.iter().rev().find_map(|event| match event {
                        Event::Request { connection, head } => {
                            head.get("authorization").and(Some(*connection))
                        }
                        _ => None,
                    })
                });
                let connection = connection.expect("the request with the login");
                site.upstream.wait_closed(connection, PATIENCE);
                for _ in 0..STRANGERS {
                    let answer = site.get("/mail");
                    assert_eq!(
                        (answer.status(), answer.text().as_str()),
                        (401, "who are you?"),
                        "{fields:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_connection_on_which_a_service_speaks_of_such_a_login_serves_nobody_else() {
    let ways: [&[(&str, &str)]; 5] = [
        &[("WWW-Authenticate", "NTLM")],
        &[("WWW-Authenticate", "Basic realm=\"x\""), ("WWW-Authenticate", "Negotiate")],
        &[("WWW-Authenticate", "Basic realm=\"x\", NTLM")],
        &[("Persistent-Auth", "true")],
        &[("Proxy-Support", "Session-Based-Authentication")],
    ];
    for way in ways {
        let site = Site::new();
        with_logins(&site, way);
        // A scheme that we do not know of, which logs the connection in all the same.
        let answer = site.request("GET", "/mail", &[("Authorization", "Vendor proof-alice")], None);
        assert_eq!((answer.status(), answer.text().as_str()), (200, "mail of alice"), "{way:?}");
        for _ in 0..STRANGERS {
            let answer = site.get("/mail");
            assert_eq!((answer.status(), answer.text().as_str()), (401, "who are you?"), "{way:?}");
        }
    }
}

#[test]
fn ordinary_logins_keep_connections() {
    let site = Site::new();
    site.upstream.on("/page", |x| x.reply(200, &[("WWW-Authenticate", "Basic realm=\"ntlm\"")], b"page"));
    for _ in 0..20 {
        let answer = site.request("GET", "/page", &[("Authorization", "Basic YTpi")], None);
        assert_eq!(answer.text(), "page");
    }
    assert!(site.upstream.accepted() <= 2, "{} connections for 20 requests", site.upstream.accepted());
}

/// Answers without a body, and what the service sends behind them all the same.
const BODILESS: [(&str, &str, &str); 4] = [
    ("HEAD", "/head", "HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n"),
    ("GET", "/not-modified", "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 17\r\n\r\n"),
    ("GET", "/no-content", "HTTP/1.1 204 No Content\r\n\r\n"),
    ("DELETE", "/deleted", "HTTP/1.1 204 No Content\r\n\r\n"),
];
const STRAY: [&str; 2] = ["<p>not for you.\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nnot for you"];

/// Has the service answer so, and send `stray` in a packet of its own when it is told to.
fn answers_with_stray(site: &Site, path: &str, head: &'static str, stray: &'static str) -> Sender<()> {
    let (go, told): (Sender<()>, Receiver<()>) = channel();
    let told = Mutex::new(told);
    site.upstream.on(path, move |x| {
        x.send(head)?;
        // Dropped when the test is over.
        if told.lock().expect("no handler panics").recv_timeout(PATIENCE).is_ok() {
            x.send(stray)?;
            x.note("stray");
        }
        Ok(Then::Keep)
    });
    go
}

fn mine(x: &mut Exchange<'_>) -> std::io::Result<Then> {
    let who = x.head.query("who").unwrap_or_default();
    x.reply(200, &[], format!("for {who}").as_bytes())
}

#[test]
fn what_comes_behind_a_complete_answer_is_nobodys() {
    for stray in STRAY {
        for (method, path, head) in BODILESS {
            let site = Site::new();
            site.upstream.on("/mine", mine);
            let go = answers_with_stray(&site, path, head, stray);
            let mut first = site.visitor();
            assert!(first.request(method, path, &[], None).body.is_empty());
            let (connection, _) = site.upstream.wait_request(path);
            go.send(()).expect("the service waits");
            // The idle connection is closed as soon as anything arrives on it.
            site.upstream.wait_closed(connection, PATIENCE);
            for who in ["second", "third"] {
                let answer = site.get(&format!("/mine?who={who}"));
                assert_eq!((answer.status(), answer.text()), (200, format!("for {who}")), "{path} {stray:?}");
            }
            assert_eq!(first.get("/mine?who=first").text(), "for first", "{path} {stray:?}");
        }
    }
}

#[test]
fn a_body_that_comes_while_the_next_request_is_under_way_is_not_its_answer() {
    for (method, path, head) in BODILESS {
        let site = Site::new();
        site.upstream.on("/mine", mine);
        site.upstream.on(path, move |x| {
            x.send(head)?;
            // The next request is on its way already.
            x.socket().tcp().peek(&mut [0])?;
            x.send(STRAY[0])?;
            Ok(Then::Keep)
        });
        assert!(site.request(method, path, &[], None).body.is_empty());
        let before = site.upstream.accepted();
        let answer = site.get("/mine?who=second");
        assert_eq!((answer.status(), answer.text().as_str()), (200, "for second"), "{path}");
        assert_eq!(site.upstream.accepted(), before + 1, "it was asked again, on a new connection");
    }
}

#[test]
fn a_farewell_to_an_idle_connection_is_not_the_next_ones_answer() {
    const FAREWELL: &str = "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let site = Site::new();
    site.upstream.on("/mine", mine);
    site.upstream.on("/first", |x| {
        x.reply(200, &[], b"first")?;
        // The next request is on its way already.
        x.socket().tcp().peek(&mut [0])?;
        x.send(FAREWELL)?;
        x.wait_gone()
    });
    site.upstream.on("/slow", |x| x.send(FAREWELL).map(|()| Then::Close));
    assert_eq!(site.get("/first").text(), "first");
    let before = site.upstream.accepted();
    let answer = site.get("/mine?who=second");
    assert_eq!((answer.status(), answer.text().as_str()), (200, "for second"));
    assert_eq!(site.upstream.accepted(), before + 1, "it was asked again, on a new connection");
    // Twice is not asked, and what may have had an effect neither.
    assert_eq!(site.get("/slow").status(), 408);
    assert_eq!(site.get("/first").text(), "first");
    assert_eq!(site.request("POST", "/mine?who=third", &[], Some(b"once")).status(), 408);
}
