//! What one thread has queued and must send before it waits again: the Agent's counterpart of the Gateway's.

use std::sync::Arc;

use shared::link::Link;

use crate::upstream::Upstream;

/// Notes of one thread: the upstream poller, a Link's reader or a resolver.
#[derive(Default)]
pub(crate) struct Context {
    links: Vec<Arc<Link>>,
    upstreams: Vec<Arc<Upstream>>,
}

impl Context {
    /// Something was queued on `link`.
    pub(crate) fn touch_link(&mut self, link: &Arc<Link>) {
        if !self.links.iter().any(|known| Arc::ptr_eq(known, link)) {
            self.links.push(Arc::clone(link));
        }
    }

    /// Something was queued for `upstream`.
    pub(crate) fn touch_upstream(&mut self, upstream: &Arc<Upstream>) {
        if !self.upstreams.last().is_some_and(|known| Arc::ptr_eq(known, upstream)) {
            self.upstreams.push(Arc::clone(upstream));
        }
    }

    /// Sends everything: upstreams first, because that leads to Credit for the Links.
    pub(crate) fn settle(&mut self) {
        while let Some(upstream) = self.upstreams.pop() {
            upstream.flush(self);
        }
        for link in self.links.drain(..) {
            link.flush();
        }
    }
}
