//! Ready-made behaviour for a test's upstream, by path. Everything that an HTTP service may do, and some things that
//! it must not.

use std::io;
use std::thread;

use crate::bytes::{Hash, pattern};
use crate::upstream::{Exchange, Then, Upstream};
use crate::websocket;

/// Length of the body of `/short` and `/long` that is announced.
pub const ANNOUNCED: usize = 1000;

/// Installs every path below.
pub fn install(upstream: &Upstream) {
    upstream.on("/raw", |x| {
        let head = x.head.raw.clone();
        x.reply(200, &[("Content-Type", "application/octet-stream")], &head)
    });
    upstream.on("*", |x| {
        x.body()?;
        let head = x.head.raw.clone();
        x.reply(200, &[], &head)
    });
    upstream.on("/hello", |x| x.reply(200, &[("Content-Type", "text/plain")], b"hello\n"));
    upstream.on("/status", status);
    upstream.on("/headers", |x| {
        x.send(
            b"HTTP/1.1 200 Bien s\xc3\xbbr\r\nX-Twice: one\r\nx-CASE: kept\r\nX-Twice: two\r\nX-Latin: caf\xe9\r\n\
              X-Utf8: \xe2\x82\xac\r\nX-Empty: \r\nX-Twice: one\r\nServer: test\r\nContent-Length: 2\r\n\r\nok",
        )?;
        Ok(Then::Keep)
    });
    upstream.on("/bare", |x| {
        x.send("HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok")?;
        Ok(Then::Keep)
    });
    upstream.on("/bytes", bytes);
    upstream.on("/chunked", chunked);
    upstream.on("/until-close", |x| {
        let len = x.number("n", 5000) as usize;
        x.send([b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", &pattern(0, len)[..]].concat())?;
        Ok(Then::Close)
    });
    upstream.on("/until-close-broken", |x| {
        x.send([b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", &pattern(0, 5000)[..]].concat())?;
        // The request's body is how the test says that it has seen all that: a reset may destroy what is under way.
        x.body()?;
        Ok(Then::Abort)
    });
    upstream.on("/http10", |x| {
        x.send([b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n", &pattern(0, 5000)[..]].concat())?;
        Ok(Then::Close)
    });
    upstream.on("/short", |x| {
        x.send([announce().as_bytes(), &pattern(0, ANNOUNCED - 1)].concat())?;
        Ok(Then::Close)
    });
    upstream.on("/long", |x| {
        x.send([announce().as_bytes(), &pattern(0, ANNOUNCED + 500)].concat())?;
        x.wait_gone()
    });
    upstream.on("/chunked-broken", |x| {
        x.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        x.chunk(&pattern(0, 3000))?;
        Ok(Then::Close)
    });
    upstream.on("/chunked-garbage", |x| {
        x.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        x.chunk(&pattern(0, 3000))?;
        x.send("this is no chunk size\r\n")?;
        x.wait_gone()
    });
    upstream.on("/no-answer", |x| {
        x.body()?;
        Ok(Then::Close)
    });
    upstream.on("/no-answer-abort", |_| Ok(Then::Abort));
    upstream.on("/hang", |x| x.wait_gone());
    upstream.on("/deaf", |x| Ok(x.stay_deaf()));
    upstream.on("/hang-after-head", |x| {
        x.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        x.chunk(b"first")?;
        x.wait_gone()
    });
    upstream.on("/endless", |x| {
        x.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        let block = pattern(0, 16 * 1024);
        loop {
            x.chunk(&block)?;
        }
    });
    upstream.on("/early-413", |x| {
        x.send("HTTP/1.1 413 Too Much\r\nConnection: close\r\nContent-Length: 9\r\n\r\ntoo large")?;
        // Reading on: closing with unread bytes would reset the connection and may destroy the answer (RFC 9112 9.6).
        while x.piece()?.is_some() {}
        Ok(Then::Close)
    });
    upstream.on("/continue", |x| {
        x.send("HTTP/1.1 100 Continue\r\n\r\n")?;
        let body = x.body()?;
        x.reply(200, &[], &body)
    });
    upstream.on("/no-continue", |x| {
        x.forget_body();
        x.send("HTTP/1.1 417 Expectation Failed\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")?;
        Ok(Then::Close)
    });
    upstream.on("/early-hints", |x| {
        x.send(
            "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n\
             HTTP/1.1 102 Processing\r\n\r\n",
        )?;
        x.reply(200, &[], b"after the hints")
    });
    upstream.on("/trailers", |x| {
        x.send("HTTP/1.1 200 OK\r\nTrailer: X-Checksum, X-After\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        x.chunk(b"body")?;
        x.send("0\r\nX-Checksum: 1234\r\nX-After: \u{20ac}\r\n\r\n")?;
        Ok(Then::Keep)
    });
    upstream.on("/upload-trailers", |x| {
        let body = x.body()?;
        let lines = x.trailers().into_iter().map(|(n, v)| format!("{n}={}\n", String::from_utf8_lossy(&v)));
        let text = format!("{} bytes\n{}", body.len(), lines.collect::<String>());
        x.reply(200, &[], text.as_bytes())
    });
    upstream.on("/upload", upload);
    upstream.on("/echo", |x| {
        let body = x.body()?;
        x.reply(200, &[], &body)
    });
    upstream.on("/duplex", |x| {
        x.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        while let Some(piece) = x.piece()? {
            x.chunk(&piece)?;
        }
        x.send("0\r\n\r\n")?;
        Ok(Then::Keep)
    });
    upstream
        .on("/redirect", |x| x.reply(302, &[("Location", "http://elsewhere.example/a%20b?c=d")], b"moved"));
    upstream.on("/cookies", |x| {
        let cookies = [
            ("Set-Cookie", "a=1; Path=/; HttpOnly"),
            ("set-cookie", "b=2; SameSite=Lax"),
            ("Set-Cookie", "a=3"),
        ];
        let sent = x.head.all("cookie").join(" | ");
        x.reply(200, &cookies, sent.as_bytes())
    });
    upstream.on("/gzip", |x| {
        // An empty stored block: not for decoding, only to come through unchanged.
        let bytes = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        x.reply(
            200,
            &[("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding"), ("ETag", "W/\"x\"")],
            &bytes,
        )
    });
    upstream.on("/ranges", ranges);
    upstream.on("/close-after", |x| {
        x.reply(200, &[("Connection", "close")], b"the last one")?;
        Ok(Then::Close)
    });
    upstream.on("/close-unannounced", |x| {
        x.body()?;
        x.reply(200, &[], b"and gone")?;
        Ok(Then::Close)
    });
    upstream.on("/ws", |x| {
        let protocols = x.head.get("sec-websocket-protocol");
        let chosen = protocols.and_then(|offered| offered.split(',').next().map(|p| p.trim().to_owned()));
        let chosen = chosen.map_or_else(String::new, |p| format!("Sec-WebSocket-Protocol: {p}\r\n"));
        let mut socket = x.websocket(&chosen)?;
        let code = websocket::echo(&mut socket);
        x.note(format!("close {code:?}"));
        Ok(Then::Close)
    });
    upstream.on("/ws-refused", |x| x.reply(403, &[("X-Why", "not today")], b"no WebSocket here"));
    upstream.on("/upgrade", upgrade);
}

fn announce() -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {ANNOUNCED}\r\n\r\n")
}

/// `/status?code=204`: that status, with a body where it may have one.
fn status(x: &mut Exchange<'_>) -> io::Result<Then> {
    let code = x.number("code", 200);
    match code {
        204 => x.send("HTTP/1.1 204 No Content\r\nX-Here: yes\r\n\r\n")?,
        304 => x.send("HTTP/1.1 304 Not Modified\r\nETag: \"v1\"\r\nContent-Length: 1234\r\n\r\n")?,
        _ => return x.reply(code as u16, &[], format!("status {code}").as_bytes()),
    }
    Ok(Then::Keep)
}

/// `/bytes?n=1000000`: that many bytes of the pattern, with their length.
fn bytes(x: &mut Exchange<'_>) -> io::Result<Then> {
    let len = x.number("n", 1000);
    x.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n"))?;
    if x.head.method() != "HEAD" {
        let mut sent = 0;
        while sent < len {
            let size = (len - sent).min(64 * 1024);
            x.send(pattern(sent, size as usize))?;
            sent += size;
        }
    }
    Ok(Then::Keep)
}

/// `/chunked?n=10000&size=7`: that many bytes of the pattern, in chunks of that size.
fn chunked(x: &mut Exchange<'_>) -> io::Result<Then> {
    let (len, size) = (x.number("n", 10_000), x.number("size", 1000));
    x.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    let mut sent = 0;
    while sent < len {
        let size = (len - sent).min(size);
        x.chunk(&pattern(sent, size as usize))?;
        sent += size;
    }
    x.send("0\r\n\r\n")?;
    Ok(Then::Keep)
}

/// Answers with length and hash of the request's body, and how it was framed.
fn upload(x: &mut Exchange<'_>) -> io::Result<Then> {
    let (mut len, mut hash) = (0, Hash::default());
    loop {
        match x.piece() {
            Ok(Some(piece)) => {
                len += piece.len();
                hash.add(&piece);
            }
            Ok(None) => break,
            Err(e) => {
                x.note(format!("upload broken: {e}"));
                return Err(e);
            }
        }
    }
    x.note("upload complete");
    let framing = x.head.request_framing();
    x.reply(200, &[], format!("{len} {} {framing:?}", hash.hex()).as_bytes())
}

/// Answers ranges of a body of 10,000 bytes, as a file server does.
fn ranges(x: &mut Exchange<'_>) -> io::Result<Then> {
    let whole = pattern(0, 10_000);
    let Some(range) = x.head.get("range") else {
        return x.reply(200, &[("Accept-Ranges", "bytes")], &whole);
    };
    let bounds = range.strip_prefix("bytes=").and_then(|r| r.split_once('-'));
    match bounds.map(|(from, to)| (from.parse::<usize>(), to.parse::<usize>())) {
        Some((Ok(from), Ok(to))) if from <= to && to < whole.len() => {
            let shown = format!("bytes {from}-{to}/{}", whole.len());
            x.reply(206, &[("Content-Range", &shown)], &whole[from..=to])
        }
        _ => x.reply(416, &[("Content-Range", "bytes */10000")], b""),
    }
}

/// Switches to the protocol that was asked for: says hello, then echoes until the other side has finished, then says
/// goodbye. So each direction can be seen to end by itself.
fn upgrade(x: &mut Exchange<'_>) -> io::Result<Then> {
    let Some(protocol) = x.head.get("upgrade") else { return x.reply(426, &[("Upgrade", "test/1")], b"") };
    x.send(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: {protocol}\r\nConnection: Upgrade\r\nX-Kept: yes\r\n\r\nhello from the upstream\n"
    ))?;
    loop {
        match x.raw() {
            Ok(bytes) => x.send(bytes)?,
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(e) => return Err(e),
        }
    }
    x.note("the visitor has finished");
    x.send("goodbye from the upstream\n")?;
    Ok(Then::Close)
}

/// Runs `work` beside the test; joined when the result is dropped, so that its panics are the test's.
pub fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    thread::Builder::new().name("beside".into()).spawn(work).expect("a thread")
}
