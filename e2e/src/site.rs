//! An upstream of a test's own, published under a name of its own through a pair of daemons that tests share.
//!
//! Sharing keeps a hundred tests of HTTP quick. Whoever stops, breaks or configures a daemon starts a
//! [`World`] instead.
//!
//! With `OCTOPORTY_E2E_DIRECT=1` visitors go straight to the upstream: a test that fails then is wrong itself.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;

use serde_json::{Value, json};

use crate::sample;
use crate::upstream::Upstream;
use crate::visitor::{Response, Visitor};
use crate::world::World;

/// The daemons that are shared, as long as any test uses them.
static SHARED: Mutex<Weak<World>> = Mutex::new(Weak::new());

/// Held while a mapping is saved.
static SAVING: Mutex<()> = Mutex::new(());

/// An upstream that visitors reach.
pub struct Site {
    /// The upstream, with all of [`sample`].
    pub upstream: Upstream,
    domain: String,
    world: Option<Arc<World>>,
}

impl Default for Site {
    fn default() -> Site {
        Site::new()
    }
}

impl Site {
    /// Publishes an upstream.
    pub fn new() -> Site {
        Site::publish(Upstream::start(), json!({}))
    }

    /// Publishes with more fields in the mapping.
    pub fn with(more: Value) -> Site {
        Site::publish(Upstream::start(), more)
    }

    /// Publishes an upstream that runs already.
    pub fn publish(upstream: Upstream, more: Value) -> Site {
        static COUNT: AtomicU64 = AtomicU64::new(1);
        sample::install(&upstream);
        let domain = format!("s{}.test", COUNT.fetch_add(1, Ordering::Relaxed));
        let world = (!is_direct()).then(shared);
        if let Some(world) = &world {
            // One save at a time: what many at once do is a test of its own.
            let _saving = SAVING.lock().unwrap_or_else(PoisonError::into_inner);
            world.agent().map_with(&domain, upstream.port(), more);
        }
        Site { upstream, domain, world }
    }

    /// Its name.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Where visitors connect to.
    pub fn address(&self) -> SocketAddr {
        match &self.world {
            Some(world) => world.gateway().address(),
            None => self.upstream.address(),
        }
    }

    /// The daemons.
    pub fn world(&self) -> &World {
        self.world.as_ref().expect("this test needs the daemons")
    }

    /// A visitor's connection.
    pub fn visitor(&self) -> Visitor {
        Visitor::connect(self.address(), &self.domain)
    }

    /// A `GET` on a connection of its own.
    pub fn get(&self, target: &str) -> Response {
        self.visitor().get(target)
    }

    /// Any request on a connection of its own.
    pub fn request(
        &self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Response {
        self.visitor().request(method, target, fields, body)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(world) = &self.world
            && thread::panicking()
        {
            world.show();
        }
    }
}

/// Whether visitors go straight to upstreams.
pub fn is_direct() -> bool {
    std::env::var_os("OCTOPORTY_E2E_DIRECT").is_some_and(|value| value == "1")
}

fn shared() -> Arc<World> {
    // Poisoned: starting failed in another test. Trying again tells this test the reason as well.
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    match shared.upgrade() {
        Some(world) => world,
        None => {
            let world = Arc::new(World::start());
            *shared = Arc::downgrade(&world);
            world
        }
    }
}
