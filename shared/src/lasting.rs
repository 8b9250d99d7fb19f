//! What becomes of an exchange when a daemon stops as planned: which ones are waited for, and which would never end.
//!
//! | answer | when the daemon stops |
//! |---|---|
//! | not there yet, or of a known length | has its time |
//! | of unknown length | the same, but not when it has gone on for [`LONG`]: nobody can tell whether it ends |
//! | a stream by its type: events, camera pictures | ends at once, as such answers end |
//! | an upgraded connection: WebSocket and others | ends at once, both directions |
//!
//! The sign that makes clients come back is an end in good order, behind everything that has been delivered so far: the
//! last chunk of an event stream (an `EventSource` connects again, HTML 9.2.3, and drops an event that is not complete),
//! a closed connection for a WebSocket. A Close Frame with 1001 or 1012 (RFC 6455 7.4.1) would be politer, but is not ours
//! to say: what passes through an upgraded connection is bytes, perhaps in the middle of a Frame, perhaps of another
//! protocol. Clients treat the end without one as they do a lost connection (1006), and come back. What ended early although
//! somebody may take it for complete is cut off visibly instead. Pure.

use crate::head::Framing;

/// An answer of unknown length that has gone on for this long is not waited for. Microseconds.
pub const LONG: u64 = 10_000_000;

/// How far an answer has got, and how it ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Course {
    /// It has not begun.
    #[default]
    Awaited,
    /// Its length is known.
    Sized,
    /// It ends when it ends.
    Unsized,
    /// It goes on until somebody leaves, and clients come back when it ends.
    Endless,
    /// The connection was upgraded.
    Raw,
}

/// What to do with an exchange when the daemon stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parting {
    /// It may finish.
    Wait,
    /// End the answer as if the service had.
    End,
    /// End it so that everybody sees that it is not complete.
    Cut,
}

impl Course {
    /// Of a final answer that is not a 101: how its body is delimited, and its `Content-Type`.
    pub fn of(framing: Framing, content_type: Option<&[u8]>) -> Course {
        let essence = content_type.unwrap_or_default().split(|b| *b == b';').next().unwrap_or_default();
        let is = |name: &str| essence.trim_ascii().eq_ignore_ascii_case(name.as_bytes());
        match framing {
            Framing::None | Framing::Length(_) => Course::Sized,
            _ if is("text/event-stream") || is("multipart/x-mixed-replace") => Course::Endless,
            _ => Course::Unsized,
        }
    }

    /// What becomes of an exchange that began `age` microseconds ago.
    pub fn parting(self, age: u64) -> Parting {
        match self {
            Course::Awaited | Course::Sized => Parting::Wait,
            Course::Unsized if age < LONG => Parting::Wait,
            Course::Unsized => Parting::Cut,
            Course::Endless | Course::Raw => Parting::End,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_finish_is_waited_for_and_what_cannot_ends() {
        let events: Option<&[u8]> = Some(b"Text/Event-Stream; charset=utf-8");
        let camera: Option<&[u8]> = Some(b"multipart/x-mixed-replace;boundary=x");
        let table = [
            (Framing::Length(5), None, Course::Sized),
            (Framing::None, events, Course::Sized),
            (Framing::Length(5), events, Course::Sized),
            (Framing::Chunked, events, Course::Endless),
            (Framing::UntilClose, camera, Course::Endless),
            (Framing::Chunked, Some(b"application/zip".as_slice()), Course::Unsized),
            (Framing::Chunked, None, Course::Unsized),
        ];
        for (framing, content_type, expected) in table {
            assert_eq!(Course::of(framing, content_type), expected, "{framing:?}");
        }
        for (course, young, old) in [
            (Course::default(), Parting::Wait, Parting::Wait),
            (Course::Sized, Parting::Wait, Parting::Wait),
            (Course::Unsized, Parting::Wait, Parting::Cut),
            (Course::Endless, Parting::End, Parting::End),
            (Course::Raw, Parting::End, Parting::End),
        ] {
            assert_eq!((course.parting(LONG - 1), course.parting(LONG)), (young, old), "{course:?}");
        }
    }
}
