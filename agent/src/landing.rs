//! The landing page that the Gateways should show: read from the store once, replaced when the operator saves another.

use std::sync::{Arc, Mutex};

use shared::landing;
use shared::threads::lock;

use crate::store::{Store, StoreError};

/// A page of the operator's.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) html: String,
    pub(crate) hash: String,
    /// When it was saved, as it stands in messages.
    pub(crate) saved_at: String,
}

/// The page as it was last read; none for the Gateway's default.
#[derive(Default)]
pub(crate) struct Pages {
    now: Mutex<Option<Arc<Page>>>,
}

impl Pages {
    /// Reads it from the store. Under the lock, so that of two changes the later one stays.
    pub(crate) fn read(&self, store: &Store) -> Result<(), StoreError> {
        let mut now = lock(&self.now);
        let stored = store.landing_page_saved()?;
        *now = stored.map(|(html, saved)| {
            Arc::new(Page { hash: landing::hash(&html), html, saved_at: shared::clock::iso(saved) })
        });
        Ok(())
    }

    /// The page.
    pub(crate) fn now(&self) -> Option<Arc<Page>> {
        lock(&self.now).clone()
    }

    /// Its hash.
    pub(crate) fn hash(&self) -> Option<String> {
        lock(&self.now).as_ref().map(|page| page.hash.clone())
    }
}
