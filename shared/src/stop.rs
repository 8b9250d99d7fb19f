//! Stopping: one value that every thread can ask, wait for, or select on; and the signals that set it.
//!
//! How long running work may take to finish is left to whoever does it.

use std::convert::Infallible;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{SigId, flag, low_level};

use crate::threads::{self, lock};

/// Whether to stop. Clones are the same value.
#[derive(Clone, Debug)]
pub struct Stop(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The only sender; dropping it is the message, which reaches any number of receivers and is never used up.
    sender: Mutex<Option<Sender<Infallible>>>,
    receiver: Receiver<Infallible>,
    stopped: AtomicBool,
}

impl Default for Stop {
    fn default() -> Stop {
        // Nothing is ever sent, so no capacity is needed.
        let (sender, receiver) = bounded(0);
        Stop(Arc::new(Inner { sender: Mutex::new(Some(sender)), receiver, stopped: AtomicBool::new(false) }))
    }
}

impl Stop {
    /// One that is not set.
    pub fn new() -> Stop {
        Stop::default()
    }

    /// Sets it, for good.
    pub fn trigger(&self) {
        self.0.stopped.store(true, Ordering::SeqCst);
        let sender = lock(&self.0.sender).take();
        drop(sender);
    }

    /// Whether it is set.
    pub fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::SeqCst)
    }

    /// Waits until it is set.
    pub fn wait(&self) {
        match self.0.receiver.recv() {
            Err(_) => {}
            Ok(never) => match never {},
        }
    }

    /// Waits until it is set, at most `time`. Whether it is set.
    pub fn wait_timeout(&self, time: Duration) -> bool {
        match self.0.receiver.recv_timeout(time) {
            Err(RecvTimeoutError::Disconnected) => true,
            Err(RecvTimeoutError::Timeout) => self.is_stopped(),
            Ok(never) => match never {},
        }
    }

    /// For `select!`: gives nothing, and ends when it is set.
    pub fn receiver(&self) -> &Receiver<Infallible> {
        &self.0.receiver
    }

    /// Lets SIGTERM and SIGINT set it. A second one ends the process at once with status 1, in case stopping hangs.
    /// SIGHUP is ignored with a log line: daemons that read their settings again do that then, and ours do not.
    ///
    /// The signals are heard until the result is dropped; after that they do nothing, because the process is ending.
    pub fn on_signals(&self) -> io::Result<Signals> {
        let (reader, waker) = UnixStream::pair()?;
        let hangup = Arc::new(AtomicBool::new(false));
        let armed = Arc::new(AtomicBool::new(false));
        // Made first, so that what is registered so far is taken back when something fails.
        let mut signals = Signals { ids: Vec::new(), waker, thread: None };
        for signal in [SIGTERM, SIGINT] {
            // In this order: the first signal arms, the second one finds it armed.
            signals.ids.push(flag::register_conditional_shutdown(signal, 1, Arc::clone(&armed))?);
            signals.ids.push(flag::register(signal, Arc::clone(&armed))?);
            signals.ids.push(low_level::pipe::register(signal, signals.waker.try_clone()?)?);
        }
        signals.ids.push(flag::register(SIGHUP, Arc::clone(&hangup))?);
        signals.ids.push(low_level::pipe::register(SIGHUP, signals.waker.try_clone()?)?);
        let stop = self.clone();
        signals.thread = Some(threads::spawn("signals", move || listen(reader, &stop, &armed, &hangup))?);
        Ok(signals)
    }
}

/// Hears signals until dropped.
#[derive(Debug)]
pub struct Signals {
    ids: Vec<SigId>,
    waker: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            low_level::unregister(id);
        }
        // The thread reads the end, also while clones of our side are open.
        let ended = self.waker.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take()
            && ended.is_ok()
            && thread.join().is_err()
        {
            log::error!("the thread that hears signals has panicked");
        }
    }
}

/// One byte arrives for each signal, or for several; the flags say which.
fn listen(mut reader: UnixStream, stop: &Stop, armed: &AtomicBool, hangup: &AtomicBool) {
    let mut bytes = [0; 16];
    loop {
        match reader.read(&mut bytes) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                // Deaf, we could not be stopped but by force; so stop while it can be done well.
                log::error!("signals cannot be heard any more: {error}; stopping");
                stop.trigger();
                return;
            }
        }
        if hangup.swap(false, Ordering::SeqCst) {
            log::info!("SIGHUP is ignored: settings are read at start only");
        }
        if armed.load(Ordering::SeqCst) && !stop.is_stopped() {
            log::info!("told to stop");
            stop.trigger();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn waiting_ends_when_it_is_triggered() {
        let stop = Stop::new();
        assert!(!stop.is_stopped());
        assert!(!stop.wait_timeout(Duration::ZERO));
        let clones: Vec<Stop> = (0..3).map(|_| stop.clone()).collect();
        let waiting: Vec<_> = clones
            .into_iter()
            .map(|stop| {
                thread::spawn(move || {
                    stop.wait();
                    stop.is_stopped()
                })
            })
            .collect();
        stop.trigger();
        for thread in waiting {
            assert!(thread.join().expect("no panic"));
        }
        assert!(stop.wait_timeout(Duration::MAX));
        // Twice is as good as once, and it stays set.
        stop.trigger();
        stop.wait();
        assert!(stop.is_stopped());
    }

    #[test]
    fn the_receiver_ends_a_select() {
        let stop = Stop::new();
        stop.trigger();
        crossbeam_channel::select! {
            recv(stop.receiver()) -> ended => assert!(ended.is_err()),
            default => panic!("not ended"),
        }
    }

    #[test]
    fn a_signal_stops_and_dropping_the_listener_joins_it() {
        let stop = Stop::new();
        let signals = stop.on_signals().expect("signals");
        low_level::raise(SIGHUP).expect("raised");
        assert!(!stop.is_stopped());
        low_level::raise(SIGTERM).expect("raised");
        stop.wait();
        drop(signals);
    }
}
