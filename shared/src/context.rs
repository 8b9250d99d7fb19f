//! What one thread has queued and must send before it waits again.
//!
//! Frames that are ready together leave in one system call: so handlers only queue, and note here whom they queued
//! for; the thread settles at the end of its round.

use std::sync::Arc;

use crate::link::Link;
use crate::outer::Outer;

/// Notes of one thread: a poller's, a Link's reader, or one that did something for them.
#[derive(Debug)]
pub struct Context<O> {
    links: Vec<Arc<Link>>,
    outer: Vec<Arc<O>>,
}

impl<O> Default for Context<O> {
    fn default() -> Self {
        Context { links: Vec::new(), outer: Vec::new() }
    }
}

impl<O: Outer> Context<O> {
    /// Something was queued on `link`.
    pub fn touch_link(&mut self, link: &Arc<Link>) {
        if !self.links.iter().any(|known| Arc::ptr_eq(known, link)) {
            self.links.push(Arc::clone(link));
        }
    }

    /// Something was queued for `outer`.
    pub fn touch(&mut self, outer: &Arc<O>) {
        if !self.outer.last().is_some_and(|known| Arc::ptr_eq(known, outer)) {
            self.outer.push(Arc::clone(outer));
        }
    }

    /// Sends everything: outer sockets first, because that leads to Credit for the Links.
    pub fn settle(&mut self) {
        while let Some(outer) = self.outer.pop() {
            outer.flush(self);
        }
        for link in self.links.drain(..) {
            link.flush();
        }
    }
}
