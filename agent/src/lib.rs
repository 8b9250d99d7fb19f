//! The private daemon: holds the tunnel, the mappings and the admin page, and calls the services at home.
//!
//! In reading order: `config` (settings), `agent` (what is shared, start and stop), `tunnel` and `dial` (the way to
//! a Gateway), `session` and `downlink` (what comes over it), `asks` and `news` (what is asked, what is told), `landing`
//! (the page of the Gateway's own host), `targets` (where a Mapping leads), `upstream` (one connection to a service) with
//! `upstreams`, `pool`, `turns`, `resolver`, `wire` and `tls` below it, `store` and
//! `migrations` (SQLite), `control`, `events` and `admin` (the operator's page and API), `cli` (sub-commands),
//! `exchange`, `probe` and `discover` (questions about services, one at a time).

pub mod admin;
mod agent;
mod asks;
mod cli;
pub mod config;
pub mod control;
mod dial;
mod discover;
mod downlink;
pub mod events;
mod exchange;
pub mod history;
mod landing;
mod metrics;
mod migrations;
mod news;
pub mod password;
mod pool;
mod probe;
mod random;
mod resolver;
mod session;
pub mod store;
mod targets;
mod timestamp;
mod tls;
mod tunnel;
mod turns;
mod upstream;
mod upstreams;
mod wire;

pub use agent::{Agent, StartFault, start};

/// Version of the program.
pub const VERSION: &str = match option_env!("OCTOPORTY_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};
