//! Frames: what Gateway and Agent exchange, one per binary WebSocket message, to bytes and back.
//!
//! Layout: `type u8 · flags u8 · reserved u16 · stream u32 big-endian · payload`. Pure: no socket, no clock.
//! What the frames *mean* for a Stream is decided by the Gateway's ingress and the Agent's exchanges;
//! `docs/protocol.md` describes them for people who write another Agent, and a test compares its tables
//! with the ones here.

use std::fmt;

use crate::reason::Reason;

/// Bytes before the payload of every Frame.
pub const HEADER: usize = 8;
/// Most bytes of body or upgraded data in one `Data` Frame. Measured best size for `wss`, equal for `ws`.
pub const MAX_DATA: usize = 16 * 1024;
/// Most bytes of one Frame, header included; a longer WebSocket message is a protocol error.
pub const MAX_FRAME: usize = 128 * 1024;
/// Most bytes of one `Control` Frame's payload; a longer control message is split (flag [`MORE`]).
pub const MAX_CONTROL_PART: usize = 64 * 1024;
/// Most bytes of a control message after reassembly: a landing page of 1 MB, escaped as JSON, fits.
pub const MAX_CONTROL: usize = 8 * 1024 * 1024;
/// Most bytes of trailers in an `End`.
pub const MAX_TRAILERS: usize = 16 * 1024;
/// Most bytes of the text in a `Reset`; longer text is cut by the sender.
pub const MAX_RESET_TEXT: usize = 512;

/// Flag of `Open` and `Head`: body bytes follow in `Data`, closed by `End` or by a `Data` with [`END`].
pub const BODY: u8 = 1;
/// Flag of `Open`: the visitor asks for a protocol upgrade.
pub const UPGRADE: u8 = 2;
/// Flag of `Head`: the upstream switched protocols (status 101); both directions are raw bytes from here on.
pub const SWITCHED: u8 = 2;
/// Flag of `Head`: an interim answer (1xx other than 101); another `Head` follows.
pub const INTERIM: u8 = 4;
/// Flag of `Data`: the last of its direction; no `End` follows.
pub const END: u8 = 1;
/// Flag of `Data` and `End`: the payload begins with its position, the number of bytes of this direction before it
/// (u64 big-endian). Once a direction has sent one such Frame all its later ones have it, because they may travel
/// over any Link of the Session.
pub const AT: u8 = 2;
/// Flag of `Control`: the message goes on in the next `Control` Frame.
pub const MORE: u8 = 1;
/// Flag of `Control`: it belongs to a message of the lowest priority, whose parts may have whole other messages
/// between them; they are put together on their own.
pub const LATER: u8 = 2;

/// The types of Frame and their numbers on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// JSON of a control message (or a part of it); stream 0.
    Control = 1,
    /// "Are you there?", with the sender's monotonic time in microseconds; stream 0.
    Beat = 2,
    /// The answer to a `Beat`: its time, and the answering side's uptime in seconds; stream 0.
    BeatAck = 3,
    /// A visitor's request begins a Stream.
    Open = 4,
    /// A response head.
    Head = 5,
    /// Up to 16 KiB of body or upgraded bytes, counted against Credit.
    Data = 6,
    /// This direction is finished; trailers if any.
    End = 7,
    /// The Stream is over in both directions.
    Reset = 8,
    /// Bytes more that the peer may send on this Stream.
    Credit = 9,
}

impl Kind {
    /// Every type, in the order of their numbers.
    pub const ALL: [Kind; 9] = [
        Kind::Control,
        Kind::Beat,
        Kind::BeatAck,
        Kind::Open,
        Kind::Head,
        Kind::Data,
        Kind::End,
        Kind::Reset,
        Kind::Credit,
    ];

    fn from_number(number: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// Which side reads a Frame. `Open` goes to the Agent only, `Head` to the Gateway only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The public daemon.
    Gateway,
    /// The private daemon.
    Agent,
}

/// The beginning of a Stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Open<'b> {
    /// Number of the new Stream.
    pub stream: u32,
    /// A request body follows in `Data`.
    pub body: bool,
    /// The visitor asks for a protocol upgrade.
    pub upgrade: bool,
    /// Bytes of response body that the Agent may send before it gets more Credit.
    pub credit: u32,
    /// The Mapping that serves the request.
    pub mapping: [u8; 16],
    /// Label of the request in the logs of both sides, 1-64 bytes.
    pub request_id: &'b str,
    /// The visitor's address as text, 1-64 bytes.
    pub visitor: &'b str,
    /// The request head in tunnel form (`head.rs`).
    pub head: &'b [u8],
}

/// One Frame, borrowed from the message that carried it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame<'b> {
    /// A control message or a part of it.
    Control {
        /// The message goes on in the next `Control` with the same `later`.
        more: bool,
        /// It may wait for everything else.
        later: bool,
        /// UTF-8 JSON.
        json: &'b [u8],
    },
    /// Asks for a [`Frame::BeatAck`].
    Beat {
        /// Sender's monotonic time, microseconds.
        time: u64,
    },
    /// Answers a [`Frame::Beat`].
    BeatAck {
        /// The time of the `Beat`, echoed.
        time: u64,
        /// How long the answering daemon has run, seconds.
        uptime: u64,
    },
    /// Begins a Stream.
    Open(Open<'b>),
    /// A response head.
    Head {
        /// Stream number.
        stream: u32,
        /// A body follows.
        body: bool,
        /// Status 101: raw bytes both ways from here on.
        switched: bool,
        /// An interim answer: another `Head` follows.
        interim: bool,
        /// The head in tunnel form.
        head: &'b [u8],
    },
    /// Bytes of the body.
    Data {
        /// Stream number.
        stream: u32,
        /// The last of its direction.
        end: bool,
        /// Position, if it may have come over any Link.
        at: Option<u64>,
        /// At most [`MAX_DATA`].
        bytes: &'b [u8],
    },
    /// The direction is finished.
    End {
        /// Stream number.
        stream: u32,
        /// Position, if it may have come over any Link.
        at: Option<u64>,
        /// Raw trailer lines (`Name: value\r\n` each), empty when there are none.
        trailers: &'b [u8],
    },
    /// The Stream is over.
    Reset {
        /// Stream number.
        stream: u32,
        /// Why.
        reason: Reason,
        /// For the log of the other side; never shown to a visitor.
        text: &'b str,
    },
    /// The peer may send more.
    Credit {
        /// Stream number.
        stream: u32,
        /// How many bytes more.
        bytes: u32,
    },
}

/// What is wrong with a Frame; each is a protocol error that closes the Link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FrameFault {
    /// Shorter than its header or its fixed fields.
    Short {
        /// What it was meant to be.
        kind: &'static str,
        /// Its length.
        len: usize,
    },
    /// A type below 0x80 that this version does not know.
    UnknownType(u8),
    /// Sent to the wrong side.
    WrongSide(Kind),
    /// A Stream number where none belongs, or 0 where one does.
    BadStream(Kind, u32),
    /// More bytes than the type allows.
    TooLong(Kind, usize),
    /// Text that is not UTF-8, or is empty or too long where it must not be.
    BadText(Kind),
    /// A Credit of nothing.
    NoCredit,
}

impl fmt::Display for FrameFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameFault::Short { kind, len } => write!(f, "{kind} frame of {len} bytes is too short"),
            FrameFault::UnknownType(t) => write!(f, "unknown frame type {t:#04x}"),
            FrameFault::WrongSide(kind) => write!(f, "{kind:?} frame sent in the wrong direction"),
            FrameFault::BadStream(kind, n) => write!(f, "{kind:?} frame with stream number {n}"),
            FrameFault::TooLong(kind, len) => write!(f, "{kind:?} frame with {len} bytes is too long"),
            FrameFault::BadText(kind) => write!(f, "{kind:?} frame with malformed text"),
            FrameFault::NoCredit => f.write_str("credit frame that grants nothing"),
        }
    }
}

impl std::error::Error for FrameFault {}

/// The eight bytes before a payload.
pub fn header(kind: Kind, flags: u8, stream: u32) -> [u8; HEADER] {
    let s = stream.to_be_bytes();
    [kind as u8, flags, 0, 0, s[0], s[1], s[2], s[3]]
}

/// What stands before the bytes of a `Data` Frame: its header, and its position if it has one.
pub struct DataPrefix {
    bytes: [u8; HEADER + 8],
    len: usize,
}

impl AsRef<[u8]> for DataPrefix {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Makes what stands before the bytes of a `Data` Frame.
pub fn data_prefix(stream: u32, end: bool, at: Option<u64>) -> DataPrefix {
    let mut bytes = [0; HEADER + 8];
    bytes[..HEADER].copy_from_slice(&header(Kind::Data, flag(end, END) | flag(at.is_some(), AT), stream));
    bytes[HEADER..].copy_from_slice(&at.unwrap_or(0).to_be_bytes());
    DataPrefix { bytes, len: if at.is_some() { HEADER + 8 } else { HEADER } }
}

/// Splits the position off, if the flags say that there is one.
fn position<'b>(
    kind: &'static str,
    flags: u8,
    payload: &'b [u8],
) -> Result<(Option<u64>, &'b [u8]), FrameFault> {
    if flags & AT == 0 {
        return Ok((None, payload));
    }
    Ok((Some(number_at(kind, payload, 0)?), &payload[8..]))
}

impl<'b> Frame<'b> {
    /// The Stream that it concerns; 0 for what concerns the Link.
    pub fn stream(&self) -> u32 {
        match self {
            Frame::Control { .. } | Frame::Beat { .. } | Frame::BeatAck { .. } => 0,
            Frame::Open(open) => open.stream,
            Frame::Head { stream, .. }
            | Frame::Data { stream, .. }
            | Frame::End { stream, .. }
            | Frame::Reset { stream, .. }
            | Frame::Credit { stream, .. } => *stream,
        }
    }

    /// Reads one Frame meant for `reader`. `Ok(None)` is a type from 0x80 up that this version may ignore.
    pub fn decode(bytes: &'b [u8], reader: Side) -> Result<Option<Frame<'b>>, FrameFault> {
        let Some((head, payload)) = bytes.split_at_checked(HEADER) else {
            return Err(FrameFault::Short { kind: "any", len: bytes.len() });
        };
        let (number, flags) = (head[0], head[1]);
        let stream = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        if number >= 0x80 {
            return Ok(None);
        }
        let kind = Kind::from_number(number).ok_or(FrameFault::UnknownType(number))?;
        let on_link = matches!(kind, Kind::Control | Kind::Beat | Kind::BeatAck);
        if on_link != (stream == 0) {
            return Err(FrameFault::BadStream(kind, stream));
        }
        if bytes.len() > MAX_FRAME {
            return Err(FrameFault::TooLong(kind, bytes.len()));
        }
        let frame = match kind {
            Kind::Control => {
                Frame::Control { more: flags & MORE != 0, later: flags & LATER != 0, json: payload }
            }
            Kind::Beat => Frame::Beat { time: number_at("Beat", payload, 0)? },
            Kind::BeatAck => Frame::BeatAck {
                time: number_at("BeatAck", payload, 0)?,
                uptime: number_at("BeatAck", payload, 8)?,
            },
            Kind::Open if reader == Side::Agent => Frame::Open(Open::decode(stream, flags, payload)?),
            Kind::Head if reader == Side::Gateway => Frame::Head {
                stream,
                body: flags & BODY != 0,
                switched: flags & SWITCHED != 0,
                interim: flags & INTERIM != 0,
                head: payload,
            },
            Kind::Open | Kind::Head => return Err(FrameFault::WrongSide(kind)),
            Kind::Data => {
                let (at, bytes) = position("Data", flags, payload)?;
                if bytes.len() > MAX_DATA {
                    return Err(FrameFault::TooLong(kind, bytes.len()));
                }
                Frame::Data { stream, end: flags & END != 0, at, bytes }
            }
            Kind::End => {
                let (at, trailers) = position("End", flags, payload)?;
                if trailers.len() > MAX_TRAILERS {
                    return Err(FrameFault::TooLong(kind, trailers.len()));
                }
                Frame::End { stream, at, trailers }
            }
            Kind::Reset => {
                let (code, text) = payload
                    .split_at_checked(2)
                    .ok_or(FrameFault::Short { kind: "Reset", len: payload.len() })?;
                let text = std::str::from_utf8(text).map_err(|_| FrameFault::BadText(kind))?;
                Frame::Reset {
                    stream,
                    reason: Reason::from_code(u16::from_be_bytes([code[0], code[1]])),
                    text,
                }
            }
            Kind::Credit => {
                let bytes: [u8; 4] = payload
                    .try_into()
                    .map_err(|_| FrameFault::Short { kind: "Credit", len: payload.len() })?;
                match u32::from_be_bytes(bytes) {
                    0 => return Err(FrameFault::NoCredit),
                    bytes => Frame::Credit { stream, bytes },
                }
            }
        };
        Ok(Some(frame))
    }

    /// Appends the Frame's bytes. Text of a `Reset` is cut to [`MAX_RESET_TEXT`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Frame::Control { more, later, json } => {
                out.extend_from_slice(&header(Kind::Control, flag(more, MORE) | flag(later, LATER), 0));
                out.extend_from_slice(json);
            }
            Frame::Beat { time } => {
                out.extend_from_slice(&header(Kind::Beat, 0, 0));
                out.extend_from_slice(&time.to_be_bytes());
            }
            Frame::BeatAck { time, uptime } => {
                out.extend_from_slice(&header(Kind::BeatAck, 0, 0));
                out.extend_from_slice(&time.to_be_bytes());
                out.extend_from_slice(&uptime.to_be_bytes());
            }
            Frame::Open(open) => open.encode(out),
            Frame::Head { stream, body, switched, interim, head } => {
                let flags = flag(body, BODY) | flag(switched, SWITCHED) | flag(interim, INTERIM);
                out.extend_from_slice(&header(Kind::Head, flags, stream));
                out.extend_from_slice(head);
            }
            Frame::Data { stream, end, at, bytes } => {
                out.extend_from_slice(data_prefix(stream, end, at).as_ref());
                out.extend_from_slice(bytes);
            }
            Frame::End { stream, at, trailers } => {
                out.extend_from_slice(&header(Kind::End, flag(at.is_some(), AT), stream));
                out.extend(at.iter().flat_map(|at| at.to_be_bytes()));
                out.extend_from_slice(trailers);
            }
            Frame::Reset { stream, reason, text } => {
                out.extend_from_slice(&header(Kind::Reset, 0, stream));
                out.extend_from_slice(&reason.code().to_be_bytes());
                out.extend_from_slice(cut(text, MAX_RESET_TEXT).as_bytes());
            }
            Frame::Credit { stream, bytes } => {
                out.extend_from_slice(&header(Kind::Credit, 0, stream));
                out.extend_from_slice(&bytes.to_be_bytes());
            }
        }
    }
}

impl<'b> Open<'b> {
    /// `credit u32 · mapping 16 · request id length u8 · request id · visitor length u8 · visitor · head`.
    fn decode(stream: u32, flags: u8, payload: &'b [u8]) -> Result<Open<'b>, FrameFault> {
        let short = || FrameFault::Short { kind: "Open", len: payload.len() };
        let (fixed, rest) = payload.split_at_checked(20).ok_or_else(short)?;
        let credit = u32::from_be_bytes([fixed[0], fixed[1], fixed[2], fixed[3]]);
        let mut mapping = [0; 16];
        mapping.copy_from_slice(&fixed[4..]);
        let (request_id, rest) = text_field(rest).ok_or_else(short)??;
        let (visitor, head) = text_field(rest).ok_or_else(short)??;
        Ok(Open {
            stream,
            body: flags & BODY != 0,
            upgrade: flags & UPGRADE != 0,
            credit,
            mapping,
            request_id,
            visitor,
            head,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let flags = flag(self.body, BODY) | flag(self.upgrade, UPGRADE);
        out.extend_from_slice(&header(Kind::Open, flags, self.stream));
        out.extend_from_slice(&self.credit.to_be_bytes());
        out.extend_from_slice(&self.mapping);
        for text in [cut(self.request_id, 64), cut(self.visitor, 64)] {
            out.push(text.len() as u8);
            out.extend_from_slice(text.as_bytes());
        }
        out.extend_from_slice(self.head);
    }
}

/// `length u8 · text`, 1-64 bytes of UTF-8. `None`: too short.
#[allow(clippy::type_complexity)]
fn text_field(bytes: &[u8]) -> Option<Result<(&str, &[u8]), FrameFault>> {
    let (len, rest) = bytes.split_first()?;
    if *len == 0 || *len > 64 {
        return Some(Err(FrameFault::BadText(Kind::Open)));
    }
    let (text, rest) = rest.split_at_checked(*len as usize)?;
    Some(std::str::from_utf8(text).map(|text| (text, rest)).map_err(|_| FrameFault::BadText(Kind::Open)))
}

fn flag(on: bool, bit: u8) -> u8 {
    if on { bit } else { 0 }
}

fn number_at(kind: &'static str, payload: &[u8], at: usize) -> Result<u64, FrameFault> {
    let bytes = payload.get(at..at + 8).and_then(|b| b.try_into().ok());
    bytes.map(u64::from_be_bytes).ok_or(FrameFault::Short { kind, len: payload.len() })
}

/// The longest prefix of `text` of at most `max` bytes that ends between characters.
fn cut(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    let end = (0..=max).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(frame: Frame<'_>, reader: Side) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        assert_eq!(Frame::decode(&bytes, reader), Ok(Some(frame)));
    }

    #[test]
    fn every_frame_comes_back_as_it_was() {
        check(Frame::Control { more: true, later: false, json: b"{}" }, Side::Agent);
        check(Frame::Control { more: false, later: true, json: b"{}" }, Side::Gateway);
        check(Frame::Beat { time: u64::MAX }, Side::Gateway);
        check(Frame::BeatAck { time: 7, uptime: 9 }, Side::Gateway);
        check(
            Frame::Open(Open {
                stream: 5,
                body: true,
                upgrade: false,
                credit: 262_144,
                mapping: [3; 16],
                request_id: "r-1",
                visitor: "203.0.113.9",
                head: b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            }),
            Side::Agent,
        );
        for bits in 0..8 {
            let (body, switched, interim) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
            check(Frame::Head { stream: 1, body, switched, interim, head: b"x" }, Side::Gateway);
        }
        for at in [None, Some(1 << 40)] {
            check(Frame::Data { stream: 9, end: true, at, bytes: &[7; MAX_DATA] }, Side::Agent);
            check(Frame::End { stream: 9, at, trailers: b"a: b\r\n" }, Side::Gateway);
        }
        check(Frame::Reset { stream: 9, reason: Reason::UpstreamDns, text: "no such host" }, Side::Gateway);
        check(Frame::Credit { stream: u32::MAX, bytes: 1 }, Side::Agent);
    }

    #[test]
    fn frames_for_the_other_side_are_refused() {
        let mut bytes = Vec::new();
        Frame::Head { stream: 1, body: false, switched: false, interim: false, head: b"" }.encode(&mut bytes);
        assert_eq!(Frame::decode(&bytes, Side::Agent), Err(FrameFault::WrongSide(Kind::Head)));
    }

    #[test]
    fn unknown_types_are_ignored_from_0x80_and_refused_below() {
        assert_eq!(Frame::decode(&[0x80, 0, 0, 0, 0, 0, 0, 0], Side::Agent), Ok(None));
        assert_eq!(Frame::decode(&[0x7f; 8], Side::Agent), Err(FrameFault::UnknownType(0x7f)));
    }

    #[test]
    fn a_stream_number_must_fit_the_type() {
        assert_eq!(
            Frame::decode(&[1, 0, 0, 0, 0, 0, 0, 1], Side::Agent),
            Err(FrameFault::BadStream(Kind::Control, 1))
        );
        assert_eq!(
            Frame::decode(&[6, 0, 0, 0, 0, 0, 0, 0], Side::Agent),
            Err(FrameFault::BadStream(Kind::Data, 0))
        );
    }

    #[test]
    fn long_reset_text_is_cut_between_characters() {
        let text = "ü".repeat(400);
        let mut bytes = Vec::new();
        Frame::Reset { stream: 1, reason: Reason::Protocol, text: &text }.encode(&mut bytes);
        assert_eq!(bytes.len(), HEADER + 2 + MAX_RESET_TEXT);
        assert!(Frame::decode(&bytes, Side::Gateway).is_ok());
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u8..12) {
            let _ = Frame::decode(&bytes, Side::Agent);
            let mut typed = vec![kind, 0, 0, 0, 0, 0, 0, 1];
            typed.extend_from_slice(&bytes);
            let _ = Frame::decode(&typed, Side::Agent);
            let _ = Frame::decode(&typed, Side::Gateway);
        }

        #[test]
        fn what_decodes_encodes_to_the_same_frame(
            bytes in proptest::collection::vec(any::<u8>(), 0..100), kind in 1u8..10, stream in 0u32..3,
        ) {
            let mut typed = header(Kind::from_number(kind).unwrap(), kind % 4, stream).to_vec();
            typed.extend_from_slice(&bytes);
            for side in [Side::Agent, Side::Gateway] {
                if let Ok(Some(frame)) = Frame::decode(&typed, side) {
                    let mut again = Vec::new();
                    frame.encode(&mut again);
                    prop_assert_eq!(Frame::decode(&again, side), Ok(Some(frame)));
                }
            }
        }
    }
}
