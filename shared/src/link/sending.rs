//! The sending half of a Link: Frames are queued by any thread, and go out without waiting, as far as the socket takes
//! them; for the rest there is the writer thread.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::MutexGuard;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use socket2::SockRef;

use super::{LATER_DROPPED, Link, SEND_TIMEOUT, SENT};
use crate::frame::{self, Frame, HEADER, MAX_CONTROL_PART, MAX_DATA};
use crate::monotime;
use crate::schedule::{MAX_LATER, Overflow, Schedule};
use crate::threads::lock;
use crate::ws;

/// Bytes encoded into one `send`.
const BATCH: usize = 64 * 1024;
/// Sends by one sender before the writer thread takes over: a sender is somebody's reader and has other work.
const BATCHES: usize = 4;
/// A write that took this long has waited for room, microseconds.
const WAITED: u64 = 10_000;
/// Waiting sources looked at per batch.
const WAITERS_PER_BATCH: usize = 32;

/// Who may write to the socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    /// Nobody is writing; what is in `out` waits for a flush.
    Nobody,
    /// A sender, in a system call that does not wait.
    Sender,
    /// The writer thread, which may wait.
    Writer,
}

pub(super) struct Sending {
    pub(super) owner: Owner,
    /// WebSocket bytes in the clear, not yet given to anybody.
    pub(super) out: Vec<u8>,
    /// Bytes as they go over the wire that the socket did not take.
    pub(super) rest: Vec<u8>,
    pub(super) schedule: Schedule,
    /// Sources that wait for room: Stream and the token to resume.
    pub(super) waiting: VecDeque<(u32, usize)>,
    /// Those that wait until the head of an answer may be read.
    pub(super) waiting_first: VecDeque<(u32, usize)>,
    pub(super) closed: bool,
}

impl Sending {
    /// Nothing is queued and nobody writes: Frames may be encoded right away.
    fn fast(&self) -> bool {
        self.owner == Owner::Nobody
            && !self.closed
            && self.rest.is_empty()
            && self.out.len() < BATCH
            && self.schedule.is_empty()
    }

    fn is_empty(&self) -> bool {
        self.out.is_empty() && self.rest.is_empty() && self.schedule.is_empty()
    }

    /// Keeps an emptied buffer for the next batch, unless it grew beyond what batches need.
    fn reuse(&mut self, mut buffer: Vec<u8>) {
        if self.out.capacity() == 0 && buffer.capacity() < 2 * BATCH {
            buffer.clear();
            self.out = buffer;
        }
    }
}

/// The Frames of a control message.
fn control_frames(json: &[u8], part: usize, later: bool) -> Vec<Vec<u8>> {
    let mut parts = json.chunks(part).peekable();
    let mut frames = Vec::with_capacity(json.len() / part + 1);
    while let Some(part) = parts.next() {
        let mut bytes = Vec::with_capacity(part.len() + HEADER);
        Frame::Control { more: parts.peek().is_some(), later, json: part }.encode(&mut bytes);
        frames.push(bytes);
    }
    frames
}

/// Bytes to send.
enum Batch {
    /// To be encrypted first, if the Link has TLS.
    Clear(Vec<u8>),
    /// As they are: the rest of an earlier batch.
    Wire(Vec<u8>),
}

/// The next bytes to send, and the tokens of sources that have room now.
fn next_batch(sending: &mut Sending, masked: bool) -> (Batch, Vec<usize>) {
    if !sending.rest.is_empty() {
        return (Batch::Wire(std::mem::take(&mut sending.rest)), Vec::new());
    }
    while sending.out.len() < BATCH
        && let Some(frame) = sending.schedule.pop()
    {
        ws::append_binary(&mut sending.out, masked, &[&frame]);
    }
    let mut wake = Vec::new();
    // Whoever is woken may have nothing to send. So when nothing is left nobody may be left waiting, for no other batch
    // would come.
    let most = if sending.schedule.is_empty() { usize::MAX } else { WAITERS_PER_BATCH };
    for _ in 0..sending.waiting.len().min(most) {
        if let Some((stream, token)) = sending.waiting.pop_front() {
            if sending.schedule.room(stream) {
                wake.push(token);
            } else {
                sending.waiting.push_back((stream, token));
            }
        }
    }
    if sending.schedule.room_for_first() {
        let some = sending.waiting_first.len().min(most);
        wake.extend(sending.waiting_first.drain(..some).map(|(_, token)| token));
    }
    (Batch::Clear(std::mem::take(&mut sending.out)), wake)
}

impl Link {
    /// Queues a control message, in parts if it is long. Call [`flush`](Self::flush) afterwards.
    pub fn control(&self, json: &[u8]) {
        let mut frames = control_frames(json, MAX_CONTROL_PART, false);
        if frames.len() == 1 {
            return self.urgent_bytes(frames.remove(0));
        }
        // Under one lock: no part of another message may come between.
        let mut sending = lock(&self.sending);
        if sending.closed {
            return;
        }
        let pushed = frames.into_iter().try_for_each(|frame| sending.schedule.push_control(frame));
        self.check(sending, pushed);
    }

    /// Queues a control message that may wait for everything else, in parts if it is long. `false`: there is no room
    /// for it, it is dropped. Call [`flush`](Self::flush) afterwards.
    pub fn later(&self, json: &[u8]) -> bool {
        let mut frames = control_frames(json, MAX_DATA, true);
        let mut sending = lock(&self.sending);
        // All of its parts or none.
        let bytes: usize = frames.iter().map(Vec::len).sum();
        if sending.closed || sending.schedule.later_bytes() + bytes > MAX_LATER {
            LATER_DROPPED.add(1);
            return false;
        }
        if frames.len() == 1 && sending.fast() {
            ws::append_binary(&mut sending.out, self.masked(), &[&frames.remove(0)]);
            return true;
        }
        frames.into_iter().try_for_each(|frame| sending.schedule.push_later(frame)).is_ok()
    }

    /// Bytes queued that may wait for everything else.
    pub fn later_bytes(&self) -> usize {
        lock(&self.sending).schedule.later_bytes()
    }

    /// Queues a Beat.
    pub fn beat(&self) {
        self.urgent(&Frame::Beat { time: monotime::micros() });
    }

    /// Queues a Frame that goes before the Streams' data: Control, Beat, Credit.
    pub fn urgent(&self, frame: &Frame<'_>) {
        let mut bytes = Vec::with_capacity(32);
        frame.encode(&mut bytes);
        self.urgent_bytes(bytes);
    }

    fn urgent_bytes(&self, bytes: Vec<u8>) {
        let mut sending = lock(&self.sending);
        if sending.fast() {
            ws::append_binary(&mut sending.out, self.masked(), &[&bytes]);
        } else if !sending.closed {
            let pushed = sending.schedule.push_control(bytes);
            self.check(sending, pushed);
        }
    }

    /// Ends the Link if more waits than may.
    fn check(&self, sending: MutexGuard<'_, Sending>, pushed: Result<(), Overflow>) {
        drop(sending);
        if let Err(overflow) = pushed {
            self.close(&overflow.to_string());
        }
    }

    /// Queues an `Open` or `Head`, which goes before other Streams' data.
    pub fn first(&self, stream: u32, frame: &Frame<'_>) {
        self.push(stream, frame, true);
    }

    /// Queues an `End` after the Stream's data.
    pub fn last(&self, stream: u32, frame: &Frame<'_>) {
        self.push(stream, frame, false);
    }

    fn push(&self, stream: u32, frame: &Frame<'_>, first: bool) {
        let mut bytes = Vec::with_capacity(512);
        frame.encode(&mut bytes);
        let mut sending = lock(&self.sending);
        if sending.fast() {
            ws::append_binary(&mut sending.out, self.masked(), &[&bytes]);
        } else if !sending.closed {
            let pushed = sending.schedule.push(stream, bytes, first);
            self.check(sending, pushed);
        }
    }

    /// Queues bytes of a Stream as `Data` Frames; the caller asked for room. With `end`, the last one says so. With
    /// `at`, each says at which position of its direction it belongs.
    pub fn data(&self, stream: u32, bytes: &[u8], end: bool, mut at: Option<u64>) {
        let mut sending = lock(&self.sending);
        let mut pieces = bytes.chunks(MAX_DATA).peekable();
        let mut pushed = Ok(());
        if bytes.is_empty() && end {
            pushed = self.piece(&mut sending, stream, b"", true, at);
        }
        while let Some(piece) = pieces.next() {
            let end = end && pieces.peek().is_none();
            pushed = pushed.and(self.piece(&mut sending, stream, piece, end, at));
            at = at.map(|at| at + piece.len() as u64);
        }
        self.check(sending, pushed);
    }

    fn piece(
        &self,
        sending: &mut Sending,
        stream: u32,
        bytes: &[u8],
        end: bool,
        at: Option<u64>,
    ) -> Result<(), Overflow> {
        let prefix = frame::data_prefix(stream, end, at);
        if sending.fast() {
            ws::append_binary(&mut sending.out, self.masked(), &[prefix.as_ref(), bytes]);
        } else if !sending.closed {
            let mut frame = Vec::with_capacity(prefix.as_ref().len() + bytes.len());
            frame.extend_from_slice(prefix.as_ref());
            frame.extend_from_slice(bytes);
            return sending.schedule.push(stream, frame, false);
        }
        Ok(())
    }

    /// Queues a `Reset` and drops what the Stream had queued.
    pub fn reset(&self, stream: u32, frame: &Frame<'_>) {
        let mut bytes = Vec::with_capacity(64);
        frame.encode(&mut bytes);
        let mut sending = lock(&self.sending);
        sending.waiting.retain(|(s, _)| *s != stream);
        sending.waiting_first.retain(|(s, _)| *s != stream);
        if sending.fast() {
            ws::append_binary(&mut sending.out, self.masked(), &[&bytes]);
        } else if !sending.closed {
            let pushed = sending.schedule.reset(stream, bytes);
            self.check(sending, pushed);
        }
    }

    /// How many bytes of Data would go out at once, without queueing: all of a batch or nothing.
    pub fn room_at_once(&self) -> usize {
        if lock(&self.sending).fast() { BATCH } else { 0 }
    }

    /// How many bytes of Data the Stream may queue now. With 0, the poller is asked to resume `token` when there is
    /// room.
    pub fn room_or_wait(&self, stream: u32, token: usize) -> usize {
        let mut sending = lock(&self.sending);
        if sending.closed {
            return 0;
        }
        if sending.fast() {
            return BATCH;
        }
        if sending.schedule.room(stream) {
            return MAX_DATA;
        }
        if !sending.waiting.iter().any(|(s, _)| *s == stream) {
            sending.waiting.push_back((stream, token));
        }
        0
    }

    /// Whether the head of an answer may be read now, to be queued as a first Frame. If not, the poller is asked to resume
    /// `token` when it may.
    pub fn room_for_first_or_wait(&self, stream: u32, token: usize) -> bool {
        let mut sending = lock(&self.sending);
        if sending.closed || sending.schedule.room_for_first() {
            // What becomes of a closed Link's Streams is decided when its end is handled.
            return !sending.closed;
        }
        if !sending.waiting_first.iter().any(|(s, _)| *s == stream) {
            sending.waiting_first.push_back((stream, token));
        }
        false
    }

    /// Sends what is queued, as far as the socket takes it now; the rest is left to the writer thread. Never waits.
    pub fn flush(&self) {
        let mut sending = lock(&self.sending);
        if sending.owner != Owner::Nobody || sending.is_empty() || sending.closed {
            return;
        }
        sending.owner = Owner::Sender;
        for _ in 0..BATCHES {
            let (batch, wake) = next_batch(&mut sending, self.masked());
            drop(sending);
            self.wake(wake);
            let result = self.encrypt(batch).and_then(|wire| Ok((self.send_now(&wire)?, wire)));
            sending = lock(&self.sending);
            match result {
                Ok((sent, mut wire)) => {
                    let done = sent == wire.len();
                    if done {
                        sending.reuse(wire);
                    } else {
                        wire.drain(..sent);
                        sending.rest = wire;
                    }
                    if done && sending.is_empty() {
                        sending.owner = Owner::Nobody;
                        return;
                    }
                    if !done {
                        break;
                    }
                }
                Err(e) => {
                    drop(sending);
                    self.close(&format!("sending failed: {e}"));
                    return;
                }
            }
        }
        sending.owner = Owner::Writer;
        self.writer.notify_one();
    }

    /// What goes over the wire for a batch.
    fn encrypt(&self, batch: Batch) -> io::Result<Vec<u8>> {
        match (batch, &self.tls) {
            (Batch::Wire(bytes), _) | (Batch::Clear(bytes), None) => Ok(bytes),
            (Batch::Clear(bytes), Some(tls)) => {
                let mut wire = Vec::with_capacity(bytes.len() + 256);
                let mut connection = lock(tls);
                connection.writer().write_all(&bytes)?;
                while connection.wants_write() {
                    connection.write_tls(&mut wire)?;
                }
                Ok(wire)
            }
        }
    }

    pub(super) fn wake(&self, tokens: Vec<usize>) {
        for token in tokens {
            self.poller.resume(token);
        }
    }

    pub(super) fn write_loop(&self) {
        let mut sending = lock(&self.sending);
        loop {
            while sending.owner != Owner::Writer && !sending.closed {
                sending = self.writer.wait(sending).unwrap_or_else(std::sync::PoisonError::into_inner);
            }
            if sending.closed {
                return;
            }
            if sending.is_empty() {
                sending.owner = Owner::Nobody;
                continue;
            }
            let (batch, wake) = next_batch(&mut sending, self.masked());
            drop(sending);
            self.wake(wake);
            let sent = self.encrypt(batch).and_then(|wire| self.send_patiently(&wire).map(|()| wire));
            match sent {
                Ok(wire) => {
                    sending = lock(&self.sending);
                    sending.reuse(wire);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return self.close(&format!("the peer took nothing for {} s", SEND_TIMEOUT.as_secs()));
                }
                Err(e) => return self.close(&format!("sending failed: {e}")),
            }
        }
    }

    /// Sends all of it, and waits as long as the socket goes on taking something. Whoever had to wait for room knows
    /// that the other end has taken something, which counts as a sign of life.
    fn send_patiently(&self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        let mut full = false;
        let mut last = monotime::micros();
        while !rest.is_empty() {
            let began = monotime::micros();
            let result = (&self.socket).write(rest);
            let now = monotime::micros();
            match result {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => {
                    self.note_out(sent);
                    if full || now.saturating_sub(began) >= WAITED {
                        self.drained.store(now, Relaxed);
                    }
                    rest = &rest[sent..];
                    full = true;
                    last = now;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if Duration::from_micros(now.saturating_sub(last)) >= SEND_TIMEOUT {
                        return Err(e);
                    }
                    full = true;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn note_out(&self, bytes: usize) {
        self.last_out.store(monotime::micros(), Relaxed);
        self.bytes_out.fetch_add(bytes as u64, Relaxed);
        SENT.add(bytes as u64);
    }

    /// Sends without waiting; returns how many bytes went.
    fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        let socket = SockRef::from(&self.socket);
        let mut sent = 0;
        while sent < bytes.len() {
            match socket.send_with_flags(&bytes[sent..], libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) {
                Ok(n) => sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        if sent > 0 {
            self.note_out(sent);
        }
        Ok(sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{MAX_FIRST, MAX_QUEUED};

    #[test]
    fn nobody_is_left_waiting_when_nothing_is_left_to_send() {
        let mut sending = Sending {
            owner: Owner::Sender,
            out: Vec::new(),
            rest: Vec::new(),
            schedule: Schedule::new(),
            waiting: (0..1000).map(|n| (n, n as usize)).collect(),
            waiting_first: (1000..2000).map(|n| (n, n as usize)).collect(),
            closed: false,
        };
        sending.schedule.push(1, vec![0; MAX_FIRST], true).expect("within the bound");
        sending.schedule.push(2, vec![0; MAX_QUEUED], false).expect("within the bound");
        let mut woken = Vec::new();
        while !sending.is_empty() {
            let (_, tokens) = next_batch(&mut sending, false);
            woken.extend(tokens);
        }
        woken.sort_unstable();
        assert_eq!(woken, (0..2000).collect::<Vec<_>>());
    }
}
