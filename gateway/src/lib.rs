//! The public daemon: visitors come in here and are handed to the Agent that serves their host name.
//!
//! In reading order: `config` (settings), `gateway` (what is shared, start and stop), `ingress` (the thread that
//! watches visitors' sockets), `visitor` (one connection), `places` (who goes when there are too many), `routes` and `tunnels` (which Agent serves it), `uplink`
//! (what Agents send) with `questions`, `desk` and `logs` (what they ask), `admission` (who may be an Agent), `answers`
//! and `landing` (pages of the Gateway's own), `caddy` (the web server in front), `cli` (sub-commands).

mod admission;
mod answers;
mod caddy;
mod cli;
pub mod config;
mod desk;
mod gateway;
mod ingress;
mod landing;
mod logs;
mod metrics;
mod own;
mod places;
mod questions;
mod routes;
mod tunnels;
mod update;
mod uplink;
mod visit;
mod visitor;

pub use gateway::{Gateway, start, start_on};
pub use tunnels::Counts;

/// Version of the program.
pub const VERSION: &str = match option_env!("OCTOPORTY_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};
