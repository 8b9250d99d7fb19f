//! One Stream at one of its ends: between a socket that speaks HTTP and the Links of a Session.
//!
//! ```text
//!   socket ── bytes read ──▶ Decoder ──▶ Credit, a place on a Link ──▶ Data, End     half `sending`
//!   socket ◀── its Outbox ── Encoder ◀── order, window ◀───────────── Data, End     half `receiving`
//! ```
//! Both daemons do this alike. Which half is the request, what a fault means, when a deadline runs and who is told is
//! left to the Gateway's `visitor` and the Agent's `upstream`. Nothing here waits, and all of it runs under the lock
//! of the connection that the Stream belongs to.

use std::io::{self, Write};
use std::sync::Arc;

use crate::assembly::{Assembly, Turn};
use crate::body::{BodyFault, Decoder, Encoder, Step};
use crate::context::Context;
use crate::credit::{Budget, Level, RecvWindow, SendCredit};
use crate::frame::Frame;
use crate::head::Framing;
use crate::link::Link;
use crate::monotime;
use crate::outbox::Outbox;
use crate::outer::Outer;
use crate::reason::Reason;
use crate::spread::{Place, Spread};
use crate::streams::Streams;

/// Data of this size goes to the socket at once, without being copied.
const DIRECT: usize = 4 * 1024;

/// One end of a Stream.
#[derive(Debug)]
pub struct Stream {
    number: u32,
    open: bool,
    /// The connection was upgraded: bytes go through as they are, in both directions.
    raw: bool,
    /// What comes from the socket.
    pub sending: Sending,
    /// What goes to the socket.
    pub receiving: Receiving,
}

/// The half whose Frames this side sends.
#[derive(Debug)]
pub struct Sending {
    decoder: Decoder,
    credit: SendCredit,
    spread: Spread,
    /// Bytes of body, or raw ones, that were sent.
    pub bytes: u64,
    /// Its end was sent, or it has none.
    pub done: bool,
}

/// The half whose Frames arrive here.
#[derive(Debug)]
pub struct Receiving {
    encoder: Encoder,
    window: RecvWindow,
    assembly: Assembly,
    /// Trailers that came before the last bytes of the body.
    late_trailers: Vec<u8>,
    /// Bytes that are in the socket's outbox.
    unconsumed: usize,
    /// Bytes of body, or raw ones, whose turn has come.
    pub bytes: u64,
    /// Its end has come, or it has none.
    pub done: bool,
}

/// What became of bytes that the socket gave.
#[derive(Debug)]
pub enum Sent<'b> {
    /// All are used, and more are to come.
    More,
    /// The body is complete: so many are used, what follows is not part of it.
    End(usize),
    /// They are not what the framing promised. With what of the body came before and was not sent.
    Fault(BodyFault, Option<&'b [u8]>),
}

impl Stream {
    /// A Stream that begins: `credit` is what the peer granted, `window` what it was granted. Neither half has a
    /// body until [`Sending::frame`] and [`Receiving::frame`] say so.
    pub fn new(link: &Arc<Link>, number: u32, credit: u32, window: u32) -> Stream {
        Stream {
            number,
            open: true,
            raw: false,
            sending: Sending {
                decoder: Decoder::new(Framing::None),
                credit: SendCredit::new(credit),
                spread: Spread::new(link, number),
                bytes: 0,
                done: false,
            },
            receiving: Receiving {
                encoder: Encoder::new(Framing::None),
                window: RecvWindow::new(window),
                assembly: Assembly::default(),
                late_trailers: Vec::new(),
                unconsumed: 0,
                bytes: 0,
                done: false,
            },
        }
    }

    /// Its number in the Session.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The Link that it was opened on, and that carries all but spread data.
    pub fn link(&self) -> &Arc<Link> {
        self.sending.spread.home()
    }

    /// It has not ended on this side.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Whether it is an upgraded connection.
    pub fn is_raw(&self) -> bool {
        self.raw
    }

    /// Both messages are complete, to the last byte of their framing: the one thing that decides whether what comes
    /// next on the connection may be another message. Never so for an upgraded connection.
    pub fn is_complete(&self) -> bool {
        !self.raw && self.sending.done && self.receiving.done
    }

    /// The connection was upgraded: behind the end of the request both directions begin anew, raw (RFC 9110 7.8).
    pub fn switch(&mut self) {
        self.raw = true;
        self.sending.done = false;
        self.receiving.done = false;
    }

    /// Whether `link` carried any of what this side sent.
    pub fn uses(&self, link: &Arc<Link>) -> bool {
        self.sending.spread.uses(link)
    }

    /// Takes it out of its Session's table; false if that was done before.
    pub fn leave<S>(&mut self, streams: &Streams<S>) -> bool {
        let open = std::mem::take(&mut self.open);
        if open {
            streams.remove(self.number);
            self.link().stream_ends();
        }
        open
    }

    /// Queues an `Open` or `Head`, which goes before other Streams' data.
    pub fn first<O: Outer>(&self, frame: &Frame<'_>, context: &mut Context<O>) {
        self.link().first(self.number, frame);
        context.touch_link(self.link());
    }

    /// Tells the peer why it ends; what was queued is dropped.
    pub fn reset<O: Outer>(&self, reason: Reason, text: &str, context: &mut Context<O>) {
        self.link().reset(self.number, &Frame::Reset { stream: self.number, reason, text });
        context.touch_link(self.link());
    }

    /// Tells the peer why it ends, behind what was queued.
    pub fn reset_last<O: Outer>(&self, reason: Reason, text: &str, context: &mut Context<O>) {
        self.link().last(self.number, &Frame::Reset { stream: self.number, reason, text });
        context.touch_link(self.link());
    }

    // From the socket to Links.

    /// Where the next bytes go, and how many. `None`: nowhere now; the poller resumes `token` when there is room, and
    /// [`granted`](Self::granted) says when there is Credit. `links` gives the Links of the Session.
    pub fn place(&self, token: usize, links: impl FnOnce() -> Vec<Arc<Link>>) -> Option<Place> {
        let left = self.sending.credit.left();
        if left == 0 {
            return None;
        }
        let mut place = self.sending.spread.place(token, links)?;
        place.room = place.room.min(left);
        Some(place)
    }

    /// How many bytes may go to the home Link now; with 0 because of the Link, `token` is resumed when there is room.
    pub fn room_at_home(&self, token: usize) -> usize {
        self.link().room_or_wait(self.number, token).min(self.sending.credit.left())
    }

    /// Takes bytes that the socket gave, as many as there was room for, and queues what of them is body at `place`,
    /// or at home.
    pub fn send<'b, O: Outer>(
        &mut self,
        place: Option<&Place>,
        bytes: &'b [u8],
        context: &mut Context<O>,
    ) -> Sent<'b> {
        if self.raw {
            self.put(place, bytes, false, context);
            return Sent::More;
        }
        let mut used = 0;
        // One piece behind, so that the last one can say that it is.
        let mut data: Option<&[u8]> = None;
        loop {
            match self.sending.decoder.decode(&bytes[used..]) {
                Ok(Step::Data { used: n, data: piece }) => {
                    used += n;
                    if let Some(piece) = data.replace(piece) {
                        self.put(place, piece, false, context);
                    }
                }
                Ok(Step::More { .. }) => {
                    if let Some(piece) = data {
                        self.put(place, piece, false, context);
                    }
                    return Sent::More;
                }
                Ok(Step::End { used: n, trailers }) => {
                    used += n;
                    self.sending.done = true;
                    match trailers {
                        Some(trailers) => {
                            if let Some(piece) = data {
                                self.put(place, piece, false, context);
                            }
                            let at = self.sending.spread.position();
                            let frame = Frame::End { stream: self.number, at, trailers: &trailers };
                            self.link().last(self.number, &frame);
                            context.touch_link(self.link());
                        }
                        None => self.put(place, data.unwrap_or_default(), true, context),
                    }
                    return Sent::End(used);
                }
                Err(fault) => return Sent::Fault(fault, data),
            }
        }
    }

    /// Queues bytes of body, or raw ones, at `place` or at home.
    pub fn put<O: Outer>(
        &mut self,
        place: Option<&Place>,
        bytes: &[u8],
        end: bool,
        context: &mut Context<O>,
    ) {
        let sending = &mut self.sending;
        sending.credit.spend(bytes.len());
        sending.bytes += bytes.len() as u64;
        context.touch_link(sending.spread.put(place, bytes, end));
    }

    /// The socket gives no more, and that is the end of this half.
    pub fn end<O: Outer>(&mut self, context: &mut Context<O>) {
        self.sending.done = true;
        context.touch_link(self.sending.spread.end());
    }

    /// The peer granted Credit; true if there was none left, so that reading can go on.
    pub fn granted(&mut self, bytes: u32) -> bool {
        let dry = self.sending.credit.left() == 0;
        self.sending.credit.grant(bytes);
        self.sending.spread.granted();
        dry
    }

    // From Links to the socket.

    /// Takes note of `Data`: at [`Turn::Now`] it is to be delivered, and then what [`pop`](Receiving::pop) gives. An
    /// error is a protocol error of the peer.
    pub fn arrive(&mut self, at: Option<u64>, bytes: &[u8], end: bool) -> Result<Turn, String> {
        let (number, receiving) = (self.number, &mut self.receiving);
        receiving.window.arrived(bytes.len()).map_err(|over| {
            format!("{} bytes on stream {number} where {} were allowed", over.sent, over.allowed)
        })?;
        if receiving.done {
            return Err(format!("data on stream {number} after its end"));
        }
        receiving.assembly.arrive(at, bytes, end)
    }

    /// Takes note of `End`. At [`Turn::Later`] its trailers are kept until the end is popped.
    pub fn arrive_end(&mut self, at: Option<u64>, trailers: &[u8]) -> Result<Turn, String> {
        let turn = self.receiving.assembly.arrive(at, b"", true)?;
        if turn == Turn::Later {
            self.receiving.late_trailers = trailers.to_vec();
        }
        Ok(turn)
    }

    /// Counts `len` bytes whose turn it is, before they are [passed on](Self::pass). An error: more than the head
    /// declared.
    pub fn count(&mut self, len: usize) -> Result<(), BodyFault> {
        if !self.raw {
            self.receiving.encoder.account(len as u64)?;
        }
        self.receiving.bytes += len as u64;
        self.receiving.unconsumed += len;
        Ok(())
    }

    /// Hands bytes on with the framing of the socket's hop: straight to `socket` if they are many, and there is one
    /// that may be written to, else into its outbox. True: the socket was written to.
    pub fn pass(
        &self,
        bytes: &[u8],
        outbox: &mut Outbox,
        socket: Option<&mut impl Write>,
    ) -> io::Result<bool> {
        let encoder = &self.receiving.encoder;
        let prefix = encoder.prefix(bytes.len());
        let parts: [&[u8]; 3] =
            if self.raw { [b"", bytes, b""] } else { [prefix.as_ref(), bytes, encoder.suffix()] };
        match socket {
            Some(socket) if bytes.len() >= DIRECT => outbox.write_with(socket, &parts).map(|()| true),
            _ => {
                for part in parts {
                    outbox.push(part);
                }
                Ok(false)
            }
        }
    }

    /// This half is complete: queues what its framing ends with. An error: fewer bytes than the head declared.
    pub fn finish(&mut self, trailers: &[u8], outbox: &mut Outbox) -> Result<(), BodyFault> {
        let receiving = &mut self.receiving;
        receiving.done = true;
        if self.raw {
            return Ok(());
        }
        let late = std::mem::take(&mut receiving.late_trailers);
        let trailers = if trailers.is_empty() { &late } else { trailers };
        let mut out = Vec::new();
        receiving.encoder.finish((!trailers.is_empty()).then_some(trailers), &mut out)?;
        outbox.push(&out);
        Ok(())
    }

    /// Of the outbox, `waiting` bytes are left: grants Credit for what the socket took. False if it took nothing.
    pub fn taken<O: Outer>(&mut self, waiting: usize, budget: &Budget, context: &mut Context<O>) -> bool {
        let receiving = &mut self.receiving;
        let still = receiving.unconsumed.min(waiting);
        let taken = receiving.unconsumed - still;
        receiving.unconsumed = still;
        if taken == 0 {
            return false;
        }
        let (link, window) = (self.sending.spread.home(), &mut receiving.window);
        let before = window.size();
        let may_grow = budget.level() < Level::Stop;
        if let Some(bytes) = window.consumed(taken, monotime::micros(), link.base_rtt(), may_grow)
            && self.open
        {
            link.urgent(&Frame::Credit { stream: self.number, bytes });
            context.touch_link(link);
            if window.size() > before {
                link.note_window(window.size());
            }
        }
        true
    }
}

impl Sending {
    /// How the body is framed that the socket gives; without one, this half is complete.
    pub fn frame(&mut self, framing: Framing) {
        self.done = matches!(framing, Framing::None | Framing::Length(0));
        self.decoder = Decoder::new(framing);
    }

    /// The socket's other end closed: whether the body may end so.
    pub fn may_end_here(&mut self) -> bool {
        self.decoder.at_eof().is_ok()
    }
}

impl Receiving {
    /// How the body is framed that the socket gets. With [`Framing::None`] this half is complete; with any other its
    /// end is still to come, even if its length is 0.
    pub fn frame(&mut self, framing: Framing) {
        self.done = framing == Framing::None;
        self.encoder = Encoder::new(framing);
    }

    /// The next bytes that waited and whose turn it is, and whether they are the last.
    pub fn pop(&mut self) -> Option<(Vec<u8>, bool)> {
        self.assembly.pop()
    }

    /// Bytes that wait for their turn.
    pub fn early(&self) -> usize {
        self.assembly.held()
    }
}
