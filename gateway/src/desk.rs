//! Threads that may wait: for what Agents ask and what the Gateway's own endpoints do.
//!
//! Readers of Links and the ingress never wait, so they put such work here. Two queues, so that somebody who asks a
//! silent Caddy does not keep the others from the log.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use shared::threads;

use crate::gateway::Core;

/// Work that waits at most this deep; more than that is refused.
const QUEUE: usize = 64;
/// Threads for what takes long.
const SLOW_THREADS: usize = 4;

/// A piece of work.
pub(crate) type Job = Box<dyn FnOnce(&Arc<Core>) + Send>;

/// Where work is handed in.
pub(crate) struct Desk {
    quick: Queue,
    slow: Queue,
}

struct Queue {
    sender: Sender<Option<Job>>,
    receiver: Receiver<Option<Job>>,
}

impl Default for Queue {
    fn default() -> Self {
        let (sender, receiver) = bounded(QUEUE);
        Queue { sender, receiver }
    }
}

impl Desk {
    /// A desk that nobody works at yet.
    pub(crate) fn new() -> Desk {
        Desk { quick: Queue::default(), slow: Queue::default() }
    }

    /// Work that needs the processor or the disk for a moment. `false`: too much of it waits already.
    #[must_use]
    pub(crate) fn quick(&self, job: Job) -> bool {
        self.quick.put(job)
    }

    /// Work that waits for others, such as Caddy. `false`: too much of it waits already.
    #[must_use]
    pub(crate) fn slow(&self, job: Job) -> bool {
        self.slow.put(job)
    }

    /// Starts the threads.
    pub(crate) fn start(core: &Arc<Core>) -> std::io::Result<Threads> {
        let quick = work("desk", core, core.desk.quick.receiver.clone())?;
        let slow = (0..SLOW_THREADS)
            .map(|number| work(&format!("desk-slow{number}"), core, core.desk.slow.receiver.clone()))
            .collect::<std::io::Result<_>>()?;
        Ok(Threads { quick, slow })
    }
}

impl Queue {
    fn put(&self, job: Job) -> bool {
        !matches!(self.sender.try_send(Some(job)), Err(TrySendError::Full(_)))
    }
}

fn work(name: &str, core: &Arc<Core>, jobs: Receiver<Option<Job>>) -> std::io::Result<JoinHandle<()>> {
    let core = Arc::clone(core);
    threads::spawn(name.to_owned(), move || {
        while let Ok(Some(job)) = jobs.recv() {
            if catch_unwind(AssertUnwindSafe(|| job(&core))).is_err() {
                log::error!("a defect ended one question to the gateway; the others go on");
            }
        }
    })
}

/// The threads at the desk.
pub(crate) struct Threads {
    quick: JoinHandle<()>,
    slow: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Ends them. One that waits for somebody is not waited for: it ends with the process, and holds nothing that
    /// must be put away.
    pub(crate) fn stop(self, core: &Core) -> Option<&'static str> {
        // A full queue is worked off first; its end comes all the same.
        if core.desk.quick.sender.send(None).is_err() {
            log::debug!("the desk has closed already");
        }
        for _ in &self.slow {
            if core.desk.slow.sender.try_send(None).is_err() {
                log::debug!("the desk is busy until the end");
            }
        }
        let slow = self.slow.into_iter().filter(JoinHandle::is_finished).map(JoinHandle::join);
        let panicked = slow.chain([self.quick.join()]).any(|end| end.is_err());
        panicked.then_some("desk")
    }
}
