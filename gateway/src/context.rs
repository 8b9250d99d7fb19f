//! What one thread has queued and must send before it waits again.
//!
//! Frames that are ready together leave in one system call: so handlers only queue, and note here whom they queued
//! for; the thread settles at the end of its round.

use std::sync::Arc;

use shared::link::Link;

use crate::visitor::Visitor;

/// Notes of one thread: the ingress poller or a Link's reader.
#[derive(Default)]
pub(crate) struct Context {
    links: Vec<Arc<Link>>,
    visitors: Vec<Arc<Visitor>>,
}

impl Context {
    /// Something was queued on `link`.
    pub(crate) fn touch_link(&mut self, link: &Arc<Link>) {
        if !self.links.iter().any(|known| Arc::ptr_eq(known, link)) {
            self.links.push(Arc::clone(link));
        }
    }

    /// Something was queued for `visitor`.
    pub(crate) fn touch_visitor(&mut self, visitor: &Arc<Visitor>) {
        if !self.visitors.last().is_some_and(|known| Arc::ptr_eq(known, visitor)) {
            self.visitors.push(Arc::clone(visitor));
        }
    }

    /// Sends everything: visitors first, because that leads to Credit for the Links.
    pub(crate) fn settle(&mut self) {
        while let Some(visitor) = self.visitors.pop() {
            visitor.flush(self);
        }
        for link in self.links.drain(..) {
            link.flush();
        }
    }
}
