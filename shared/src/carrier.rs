//! Carries out what an [`Exchange`] decides: its bytes go to a socket, or to the outbox before it, its Frames to the
//! Links of a Session. It lives for one call of the machine, under the lock of the connection; nothing here waits.

use std::io::{self, Write};

use crate::context::Context;
use crate::exchange::{Exchange, Order, Port};
use crate::frame::Frame;
use crate::outbox::Outbox;
use crate::outer::Outer;
use crate::spread::{Place, Spread};

/// Bytes that are so many go to the socket at once, without being copied.
const DIRECT: usize = 4 * 1024;

/// The [`Port`] of both daemons.
pub struct Carrier<'c, O, W> {
    spread: &'c mut Spread,
    place: Option<&'c Place>,
    outbox: &'c mut Outbox,
    socket: Option<W>,
    context: &'c mut Context<O>,
    /// What was done.
    pub done: Done,
}

/// What a [`Carrier`] did, which the owner of the connection has to follow up.
#[derive(Default, Debug)]
pub struct Done {
    /// The socket was written to.
    pub wrote: bool,
    /// Something was put into the outbox, for the end of the round.
    pub queued: bool,
    /// The socket does not take anything any more.
    pub broken: Option<io::Error>,
    /// Input that was not wanted before may be wanted now.
    pub wake: bool,
}

impl<'c, O: Outer, W: Write> Carrier<'c, O, W> {
    /// For the connection with this outbox. With `socket`, which has to be non-blocking, much is written at once.
    pub fn new(
        spread: &'c mut Spread,
        outbox: &'c mut Outbox,
        socket: Option<W>,
        context: &'c mut Context<O>,
    ) -> Carrier<'c, O, W> {
        Carrier { spread, place: None, outbox, socket, context, done: Done::default() }
    }

    /// What of a body is sent goes to this place, and not home.
    pub fn at(mut self, place: &'c Place, exchange: &mut Exchange) -> Carrier<'c, O, W> {
        if self.spread.goes_to(place) {
            exchange.spread();
        }
        self.place = Some(place);
        self
    }
}

impl<O: Outer, W: Write> Port for Carrier<'_, O, W> {
    fn write(&mut self, parts: &[&[u8]]) {
        if self.done.broken.is_some() {
            return;
        }
        match &mut self.socket {
            Some(socket) if parts.iter().map(|part| part.len()).sum::<usize>() >= DIRECT => {
                self.done.wrote = true;
                self.done.broken = self.outbox.write_with(socket, parts).err();
            }
            _ => {
                self.done.queued = true;
                for part in parts {
                    self.outbox.push(part);
                }
            }
        }
    }

    fn frame(&mut self, frame: &Frame<'_>, order: Order) {
        let (stream, link) = match *frame {
            Frame::Data { stream, end, at, bytes } => {
                let link = self.spread.link(self.place);
                link.data(stream, bytes, end, at);
                return self.context.touch_link(link);
            }
            Frame::Open(open) => (open.stream, self.spread.home()),
            Frame::Head { stream, .. }
            | Frame::End { stream, .. }
            | Frame::Reset { stream, .. }
            | Frame::Credit { stream, .. } => (stream, self.spread.home()),
            Frame::Control { .. } | Frame::Beat { .. } | Frame::BeatAck { .. } => (0, self.spread.home()),
        };
        match order {
            Order::First => link.first(stream, frame),
            Order::InTurn => link.last(stream, frame),
            Order::Urgent => link.urgent(frame),
            Order::Instead => link.reset(stream, frame),
        }
        self.context.touch_link(link);
    }

    fn wake(&mut self) {
        self.done.wake = true;
    }
}
