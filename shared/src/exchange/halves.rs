//! The two halves of an exchange: what is read from the socket and sent to the peer, and what comes from the peer and
//! goes to the socket.

use super::{Frame, Line, MAX_DATA, Order, Port};
use crate::assembly::{Assembly, Turn};
use crate::body::{BodyFault, Decoder, Encoder, Step};
use crate::credit::{RecvWindow, SendCredit};
use crate::head::Framing;

/// Bytes that must have been sent before a half may be spread over several Links.
const LONG: u64 = 512 * 1024;

/// The half whose Frames this side sends.
#[derive(Debug)]
pub(super) struct Sending {
    decoder: Decoder,
    credit: SendCredit,
    /// The peer has granted Credit, so it has seen the beginning.
    known: bool,
    /// It went over several Links, so each piece says where it belongs.
    spread: bool,
    /// Behind its end this side leaves the Stream, and can say no more that a Link was lost with some of it.
    last: bool,
    /// Bytes of body, or raw ones, that were sent.
    pub(super) bytes: u64,
    /// Its end was sent, or it has none.
    pub(super) done: bool,
}

/// What became of bytes that the socket gave.
pub(super) enum Taken {
    /// All are used, and more are to come.
    All,
    /// The body is complete: so many are used, what follows is not part of it.
    UpTo(usize),
    /// They are not what the framing promised; what of the body came before has been sent.
    Fault(BodyFault),
}

impl Sending {
    /// Without a body until [`frame`](Self::frame) says how one is framed. `last`: the Stream ends with it.
    pub(super) fn new(credit: u32, last: bool) -> Sending {
        Sending {
            decoder: Decoder::new(Framing::None),
            credit: SendCredit::new(credit),
            known: false,
            spread: false,
            last,
            bytes: 0,
            done: false,
        }
    }

    /// How the body is framed that the socket gives; without one, this half is complete.
    pub(super) fn frame(&mut self, framing: Framing) {
        self.done = matches!(framing, Framing::None | Framing::Length(0));
        self.decoder = Decoder::new(framing);
    }

    pub(super) fn credit(&self) -> usize {
        self.credit.left()
    }

    pub(super) fn may_spread(&self) -> bool {
        self.known && self.bytes >= LONG
    }

    pub(super) fn spread(&mut self) {
        self.spread = true;
    }

    /// The peer granted Credit; true if there was none left, so that reading can go on.
    pub(super) fn grant(&mut self, bytes: u32) -> bool {
        let dry = self.credit.left() == 0;
        self.credit.grant(bytes);
        self.known = true;
        dry
    }

    /// The socket's other end closed: whether the body may end so.
    pub(super) fn may_end_here(&mut self) -> bool {
        !self.done && self.decoder.at_eof().is_ok()
    }

    /// Takes the framing off, and sends what is body.
    pub(super) fn take(&mut self, stream: u32, bytes: &[u8], port: &mut impl Port) -> Taken {
        let mut used = 0;
        // One piece behind, so that the last one can say that it is.
        let mut data: Option<&[u8]> = None;
        loop {
            match self.decoder.decode(&bytes[used..]) {
                Ok(Step::Data { used: n, data: piece }) => {
                    used += n;
                    if let Some(piece) = data.replace(piece) {
                        self.put(stream, piece, false, port);
                    }
                }
                Ok(Step::More { .. }) => {
                    if let Some(piece) = data {
                        self.put(stream, piece, false, port);
                    }
                    return Taken::All;
                }
                Ok(Step::End { used: n, trailers }) => {
                    used += n;
                    if trailers.is_none() && !(self.spread && self.last) {
                        self.put(stream, data.unwrap_or_default(), true, port);
                        return Taken::UpTo(used);
                    }
                    if let Some(piece) = data {
                        self.put(stream, piece, false, port);
                    }
                    self.done = true;
                    // The end goes over the Stream's own Link: if another one is lost, the peer sees what is missing.
                    let trailers = trailers.unwrap_or_default();
                    let frame = Frame::End { stream, at: self.position(), trailers: &trailers };
                    port.frame(&frame, Order::InTurn);
                    return Taken::UpTo(used);
                }
                Err(fault) => {
                    if let Some(piece) = data {
                        self.put(stream, piece, false, port);
                    }
                    return Taken::Fault(fault);
                }
            }
        }
    }

    /// Sends bytes of body, or raw ones.
    pub(super) fn put(&mut self, stream: u32, bytes: &[u8], end: bool, port: &mut impl Port) {
        self.credit.spend(bytes.len());
        self.done |= end;
        let mut rest = bytes;
        loop {
            let (piece, more) = rest.split_at(rest.len().min(MAX_DATA));
            rest = more;
            let end = end && rest.is_empty();
            if !piece.is_empty() || end {
                port.frame(&Frame::Data { stream, end, at: self.position(), bytes: piece }, Order::InTurn);
            }
            self.bytes += piece.len() as u64;
            if rest.is_empty() {
                return;
            }
        }
    }

    /// The socket gives no more, and that is the end.
    pub(super) fn end(&mut self, stream: u32, port: &mut impl Port) {
        self.put(stream, b"", true, port);
    }

    fn position(&self) -> Option<u64> {
        self.spread.then_some(self.bytes)
    }
}

/// The half whose Frames arrive here.
#[derive(Debug)]
pub(super) struct Receiving {
    encoder: Encoder,
    window: RecvWindow,
    assembly: Assembly,
    /// It came over several Links, as likely as not: each piece says where it belongs.
    spread: bool,
    /// Trailers that came before the last bytes of the body.
    late_trailers: Vec<u8>,
    /// Bytes that the socket has not taken.
    unconsumed: usize,
    /// Bytes of body, or raw ones, whose turn has come.
    pub(super) bytes: u64,
    /// Its end has come, or it has none.
    pub(super) done: bool,
}

impl Receiving {
    /// Without a body until [`frame`](Self::frame) says how one is framed.
    pub(super) fn new(window: u32) -> Receiving {
        Receiving {
            encoder: Encoder::new(Framing::None),
            window: RecvWindow::new(window),
            assembly: Assembly::default(),
            spread: false,
            late_trailers: Vec::new(),
            unconsumed: 0,
            bytes: 0,
            done: false,
        }
    }

    /// How the body is framed that the socket gets. With [`Framing::None`] this half is complete; with any other its
    /// end is still to come, even if its length is 0.
    pub(super) fn frame(&mut self, framing: Framing) {
        self.done = framing == Framing::None;
        self.encoder = Encoder::new(framing);
    }

    pub(super) fn window(&self) -> u32 {
        self.window.size()
    }

    /// Whether a Link other than its own may have carried some of it.
    pub(super) fn is_spread(&self) -> bool {
        self.spread
    }

    /// Whether something is missing before what has come.
    pub(super) fn has_gap(&self) -> bool {
        self.assembly.has_gap()
    }

    /// Bytes that wait for their turn.
    pub(super) fn early(&self) -> usize {
        self.assembly.held()
    }

    /// Takes note of Data. True: it is to be delivered, and then what [`pop`](Self::pop) gives.
    pub(super) fn arrive(
        &mut self,
        stream: u32,
        at: Option<u64>,
        bytes: &[u8],
        end: bool,
    ) -> Result<bool, String> {
        self.spread |= at.is_some();
        self.window.arrived(bytes.len()).map_err(|over| {
            format!("{} bytes on stream {stream} where {} were allowed", over.sent, over.allowed)
        })?;
        Ok(self.assembly.arrive(at, bytes, end)? == Turn::Now)
    }

    /// Takes note of End. False: its trailers are kept until its turn comes.
    pub(super) fn arrive_end(&mut self, at: Option<u64>, trailers: &[u8]) -> Result<bool, String> {
        self.spread |= at.is_some();
        let turn = self.assembly.arrive(at, b"", true)?;
        if turn == Turn::Later {
            self.late_trailers = trailers.to_vec();
        }
        Ok(turn == Turn::Now)
    }

    /// The next bytes that waited and whose turn it is, and whether they are the last.
    pub(super) fn pop(&mut self) -> Option<(Vec<u8>, bool)> {
        self.assembly.pop()
    }

    /// Counts `len` bytes whose turn it is, before they are [passed on](Self::pass). An error: more than the head
    /// declared.
    pub(super) fn count(&mut self, len: usize, raw: bool) -> Result<(), BodyFault> {
        if !raw {
            self.encoder.account(len as u64)?;
        }
        self.bytes += len as u64;
        self.unconsumed += len;
        Ok(())
    }

    /// Hands bytes on with the framing of the socket's hop.
    pub(super) fn pass(&self, bytes: &[u8], raw: bool, port: &mut impl Port) {
        if raw {
            return port.write(&[bytes]);
        }
        let prefix = self.encoder.prefix(bytes.len());
        port.write(&[prefix.as_ref(), bytes, self.encoder.suffix()]);
    }

    /// It is complete: writes what its framing ends with. An error: fewer bytes than the head declared.
    pub(super) fn finish(&mut self, trailers: &[u8], port: &mut impl Port) -> Result<(), BodyFault> {
        self.done = true;
        let late = std::mem::take(&mut self.late_trailers);
        let trailers = if trailers.is_empty() { &late } else { trailers };
        let mut out = Vec::new();
        self.encoder.finish((!trailers.is_empty()).then_some(trailers), &mut out)?;
        if !out.is_empty() {
            port.write(&[&out]);
        }
        Ok(())
    }

    /// Nothing follows what has been delivered, although more was to come: ends it there, in the way of its framing.
    pub(super) fn end_here(&mut self, raw: bool, port: &mut impl Port) {
        self.done = true;
        if raw {
            return;
        }
        let mut out = Vec::new();
        // Only a body of known length can end too early, and such a one has not been ended here.
        if self.encoder.finish(None, &mut out).is_ok() && !out.is_empty() {
            port.write(&[&out]);
        }
    }

    /// Of what was written, `waiting` bytes are left: how many of a body the socket took, if any.
    pub(super) fn taken(&mut self, waiting: usize) -> Option<usize> {
        let still = self.unconsumed.min(waiting);
        let taken = self.unconsumed - still;
        self.unconsumed = still;
        (taken > 0).then_some(taken)
    }

    /// The Credit to grant, now that the socket took `taken` bytes.
    pub(super) fn grant(&mut self, taken: usize, now: u64, line: Line) -> Option<u32> {
        self.window.consumed(taken, now, line.rtt, line.may_grow)
    }
}
