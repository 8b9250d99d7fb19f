//! The Agent's own mapping table, as requests need it: looked up by id for every Stream.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use shared::hello::{ConfigMapping, table_hash};
use shared::mapping::{HostHeader, Mapping, UpstreamHost};
use shared::threads::lock;

/// Where a Mapping leads.
#[derive(Debug)]
pub(crate) struct Target {
    /// Changes whenever the Mapping does: pooled connections belong to one serial.
    pub(crate) serial: u64,
    pub(crate) mapping: Mapping,
    /// `Host` for the upstream, unless the visitor's is kept.
    pub(crate) host_header: Option<String>,
    /// Host and port as the upstream itself would be called.
    pub(crate) authority: String,
}

/// What an id stands for.
pub(crate) enum Found {
    Target(Arc<Target>),
    Disabled,
    Unknown,
}

/// The table, swapped as a whole.
#[derive(Default)]
pub(crate) struct Targets {
    table: RwLock<Arc<HashMap<[u8; 16], Arc<Target>>>>,
    /// Held by whoever swaps.
    swapping: Mutex<()>,
    serials: AtomicU64,
}

impl Targets {
    /// Puts a new table in force. Mappings that did not change keep their target, and so their connections.
    pub(crate) fn replace(&self, mappings: Vec<Mapping>) {
        let _swapping = lock(&self.swapping);
        let old = self.table();
        let table = mappings.into_iter().map(|mapping| {
            let key = *mapping.id.as_bytes();
            let target = match old.get(&key) {
                Some(known) if known.mapping == mapping => Arc::clone(known),
                _ => Arc::new(Target::new(mapping, self.serials.fetch_add(1, Relaxed))),
            };
            (key, target)
        });
        let table = Arc::new(table.collect());
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = table;
    }

    fn table(&self) -> Arc<HashMap<[u8; 16], Arc<Target>>> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks an id up.
    pub(crate) fn find(&self, id: &[u8; 16]) -> Found {
        match self.table.read().unwrap_or_else(PoisonError::into_inner).get(id) {
            Some(target) if target.mapping.enabled => Found::Target(Arc::clone(target)),
            Some(_) => Found::Disabled,
            None => Found::Unknown,
        }
    }

    /// What the Gateway is told: the enabled ones, without their targets; and the hash of that.
    pub(crate) fn offer(&self) -> (Vec<ConfigMapping>, String) {
        let table = self.table();
        let enabled = table.values().map(|target| &target.mapping).filter(|mapping| mapping.enabled);
        let rows: Vec<_> = enabled
            .map(|mapping| ConfigMapping {
                id: mapping.id.to_string(),
                domain: mapping.domain.as_str().to_owned(),
                name: mapping.description.clone().unwrap_or_default(),
            })
            .collect();
        let hash = table_hash(&rows);
        (rows, hash)
    }
}

impl Target {
    fn new(mapping: Mapping, serial: u64) -> Target {
        let default_port = if mapping.tls { 443 } else { 80 };
        let host = match &mapping.host {
            UpstreamHost::Address(std::net::IpAddr::V6(ip)) => format!("[{ip}]"),
            host => host.to_string(),
        };
        // RFC 9110 7.2: the default port may be left out, and is by every browser.
        let authority = if mapping.port == default_port { host } else { format!("{host}:{}", mapping.port) };
        let host_header = match &mapping.host_header {
            HostHeader::Preserve => None,
            HostHeader::Target => Some(authority.clone()),
            HostHeader::Literal(value) => Some(value.as_str().to_owned()),
        };
        Target { serial, mapping, host_header, authority }
    }
}
