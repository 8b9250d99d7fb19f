//! The Agent's own mapping table, as requests need it: looked up by id for every Stream.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use shared::hello::{ConfigMapping, table_hash};
use shared::mapping::{HostHeader, Mapping, UpstreamHost};
use shared::metrics::{Registry, Requests};
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
    /// The counters of the Mapping.
    pub(crate) requests: Arc<Requests>,
}

/// What an id stands for.
pub(crate) enum Found {
    Target(Arc<Target>),
    Disabled(Arc<Target>),
    Unknown,
}

#[derive(Default)]
struct Table {
    by_id: HashMap<[u8; 16], Arc<Target>>,
    /// Rises with every change.
    version: u64,
}

/// What the Gateway is told.
pub(crate) struct Offer {
    pub(crate) mappings: Vec<ConfigMapping>,
    pub(crate) hash: String,
    pub(crate) version: u64,
}

/// The table, swapped as a whole.
#[derive(Default)]
pub(crate) struct Targets {
    table: RwLock<Arc<Table>>,
    /// Held by whoever swaps.
    swapping: Mutex<()>,
    serials: AtomicU64,
    requests: Registry,
}

impl Targets {
    /// Puts a new table in force and returns its version. Mappings that did not change keep their target, and so
    /// their connections. `read` is called while nobody else swaps, so that the newest table stays.
    pub(crate) fn replace<E>(&self, read: impl FnOnce() -> Result<Vec<Mapping>, E>) -> Result<u64, E> {
        let _swapping = lock(&self.swapping);
        let mappings = read()?;
        let old = self.table();
        let by_id = mappings.into_iter().map(|mapping| {
            let key = *mapping.id.as_bytes();
            let target = match old.by_id.get(&key) {
                Some(known) if known.mapping == mapping => Arc::clone(known),
                _ => {
                    let requests = self.requests.of(mapping.id);
                    Arc::new(Target::new(mapping, self.serials.fetch_add(1, Relaxed), requests))
                }
            };
            (key, target)
        });
        let version = old.version + 1;
        let table = Arc::new(Table { by_id: by_id.collect(), version });
        self.requests.keep(&table.by_id.values().map(|target| target.mapping.id).collect());
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = table;
        Ok(version)
    }

    /// The version of the table in force.
    pub(crate) fn version(&self) -> u64 {
        self.table().version
    }

    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks an id up.
    pub(crate) fn find(&self, id: &[u8; 16]) -> Found {
        match self.table.read().unwrap_or_else(PoisonError::into_inner).by_id.get(id) {
            Some(target) if target.mapping.enabled => Found::Target(Arc::clone(target)),
            Some(target) => Found::Disabled(Arc::clone(target)),
            None => Found::Unknown,
        }
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Arc<Target>> {
        self.table().by_id.values().cloned().collect()
    }

    /// What the Gateway is told: the enabled ones, without their targets.
    pub(crate) fn offer(&self) -> Offer {
        let table = self.table();
        let enabled = table.by_id.values().map(|target| &target.mapping).filter(|mapping| mapping.enabled);
        let mappings: Vec<_> = enabled
            .map(|mapping| ConfigMapping {
                id: mapping.id.to_string(),
                domain: mapping.domain.as_str().to_owned(),
                name: mapping.description.clone().unwrap_or_default(),
            })
            .collect();
        Offer { hash: table_hash(&mappings), mappings, version: table.version }
    }
}

impl Target {
    fn new(mapping: Mapping, serial: u64, requests: Arc<Requests>) -> Target {
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
        Target { serial, mapping, host_header, authority, requests }
    }
}
