//! The thread that watches all upstream connections and their deadlines.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use shared::monotime;
use shared::outer::make_room;
use shared::poll::{Poller, Ready, Watcher};

use crate::agent::Core;
use crate::upstream::{Context, SCRATCH, Upstream};

/// Note: the memory budget is used up.
pub(crate) const OVER_BUDGET: usize = usize::MAX - 1;

/// What the thread owns.
pub(crate) struct Upstreams {
    core: Arc<Core>,
    context: Context,
    scratch: Vec<u8>,
}

impl Upstreams {
    pub(crate) fn new(core: Arc<Core>) -> Upstreams {
        Upstreams { core, context: Context::default(), scratch: vec![0; SCRATCH] }
    }

    /// Runs until the poller is stopped, then closes every connection.
    pub(crate) fn run(mut self, mut poller: Poller) {
        if let Err(e) = poller.run(&mut self) {
            log::error!("cannot wait for upstreams: {e}");
            std::process::exit(1);
        }
        for upstream in self.core.upstreams.all() {
            upstream.stop();
        }
    }

    /// Runs what concerns one connection; a panic in it ends its Stream only.
    fn guarded(&mut self, token: usize, run: impl FnOnce(&Arc<Upstream>, &mut Context, &mut [u8])) {
        let Some(upstream) = self.core.upstreams.get(token) else { return };
        let (context, scratch) = (&mut self.context, &mut self.scratch);
        if catch_unwind(AssertUnwindSafe(|| run(&upstream, &mut *context, scratch))).is_err() {
            log::error!("a defect ended one stream; the others go on");
            upstream.defect(context);
        }
    }
}

impl Watcher for Upstreams {
    fn ready(&mut self, token: usize, ready: Ready) {
        self.guarded(token, |upstream, context, scratch| {
            upstream.ready(ready.readable, ready.writable, ready.closed, context, scratch);
        });
    }

    fn resume(&mut self, token: usize) {
        if token == OVER_BUDGET {
            let core = &self.core;
            return make_room(&core.budget, || core.upstreams.all(), &mut self.context);
        }
        self.guarded(token, |upstream, context, scratch| upstream.resume(context, scratch));
    }

    fn round(&mut self) {
        self.context.settle();
    }

    fn sweep(&mut self) {
        let now = monotime::micros();
        for upstream in self.core.upstreams.all() {
            if upstream.deadline() <= now {
                upstream.expire(now, &mut self.context);
            }
        }
        for upstream in self.core.pool.make_way(now) {
            upstream.make_way();
        }
    }

    fn busy(&self) -> bool {
        !self.core.upstreams.is_empty()
    }
}
