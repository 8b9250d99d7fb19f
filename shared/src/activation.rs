//! Sockets that the service manager has opened for us (`sd_listen_fds(3)`), so that a restart refuses nobody: while we
//! are away the socket stays open, and who connects then waits.

use std::io;
use std::net::TcpListener;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::Socket;

use crate::os;

/// The first descriptor handed over.
const FIRST: RawFd = 3;
/// More than anybody hands over; a bound on what we believe.
const MOST: RawFd = 64;

/// A socket may have one owner only.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The listening socket that was handed over, if one was. Several, or one that is no listening TCP socket, are an
/// error: the unit is wrong. Can be taken once.
pub fn listener() -> io::Result<Option<TcpListener>> {
    let text = |name| std::env::var(name).ok();
    let Some(count) =
        handed_over(text("LISTEN_PID").as_deref(), text("LISTEN_FDS").as_deref(), std::process::id())
            .map_err(io::Error::other)?
    else {
        return Ok(None);
    };
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(None);
    }
    if count != 1 {
        return Err(io::Error::other(format!(
            "the service manager hands over {count} sockets, but one listening socket is served: keep one ListenStream= \
             in the socket unit"
        )));
    }
    let socket = os::adopt_descriptor(FIRST)
        .map_err(|e| io::Error::new(e.kind(), format!("the socket handed over (descriptor {FIRST}): {e}")))?;
    listening(socket).map(Some)
}

/// How many sockets are meant for the process `own_pid`.
fn handed_over(pid: Option<&str>, count: Option<&str>, own_pid: u32) -> Result<Option<RawFd>, String> {
    let (Some(pid), Some(count)) = (pid, count) else { return Ok(None) };
    // Left over from our parent's environment.
    if pid.parse() != Ok(own_pid) {
        return Ok(None);
    }
    match count.parse::<RawFd>() {
        Ok(0) => Ok(None),
        Ok(count) if (1..=MOST).contains(&count) => Ok(Some(count)),
        _ => Err(format!("LISTEN_FDS={count:?} is no number of sockets (1 to {MOST})")),
    }
}

fn listening(socket: OwnedFd) -> io::Result<TcpListener> {
    let socket = Socket::from(socket);
    let wrong = |what: &str| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("the socket handed over is {what}: the socket unit must have ListenStream= with a port"),
        )
    };
    let kind = socket.r#type().map_err(|e| wrong(&format!("not usable ({e})")))?;
    let domain = socket.domain()?;
    if kind != socket2::Type::STREAM || !matches!(domain, socket2::Domain::IPV4 | socket2::Domain::IPV6) {
        return Err(wrong("no TCP socket"));
    }
    if !socket.is_listener()? {
        return Err(wrong("not listening (Accept=yes?)"));
    }
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpStream, UdpSocket};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_what_is_meant_for_us_counts() {
        let meant = |pid: Option<&str>, count: Option<&str>| handed_over(pid, count, 7);
        for (pid, count) in [(None, None), (Some("7"), None), (Some("8"), Some("1")), (Some("x"), Some("1"))]
        {
            assert_eq!(meant(pid, count), Ok(None), "{pid:?} {count:?}");
        }
        assert_eq!(meant(Some("7"), Some("0")), Ok(None));
        assert_eq!(meant(Some("7"), Some("1")), Ok(Some(1)));
        for count in ["-1", "one", "65", ""] {
            let fault = meant(Some("7"), Some(count)).expect_err(count);
            assert!(fault.contains(&format!("LISTEN_FDS={count:?}")), "{fault}");
        }
    }

    #[test]
    fn only_a_listening_tcp_socket_is_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let connected = TcpStream::connect(address).expect("connected");
        assert_eq!(listening(listener.into()).expect("it listens").local_addr().expect("bound"), address);
        let path = std::env::temp_dir().join(format!("octoporty-activation-{}", std::process::id()));
        let unix = UnixListener::bind(&path).expect("a free path");
        std::fs::remove_file(&path).expect("just made");
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        for (socket, words) in [
            (connected.into(), "not listening"),
            (unix.into(), "no TCP socket"),
            (udp.into(), "no TCP socket"),
        ] {
            let error = listening(socket).expect_err(words).to_string();
            assert!(error.contains(words) && error.contains("ListenStream="), "{error}");
        }
    }
}
