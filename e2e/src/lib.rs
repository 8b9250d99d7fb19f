//! What the end-to-end tests need: both real daemons as processes, a visitor and an upstream that see every byte, a
//! line between Agent and Gateway that can break, and peers that break the protocol.
//!
//! Knows nothing of the daemons' code: only their binaries, settings, API and wire formats, as a user would. The
//! tests themselves are in `tests/it`.
//!
//! | To | use |
//! |---|---|
//! | start Gateways and Agents | [`world::World`] |
//! | get an upstream of one's own behind a shared pair of daemons | [`site::Site`] |
//! | send requests and look at answers | [`visitor::Visitor`] |
//! | decide what the upstream does | [`upstream::Upstream`], [`sample`] for ready-made behaviour |
//! | cut, freeze or delay the network | [`line::Line`] |
//! | be an Agent or a Gateway by hand | [`peer`] |
//! | have a real Caddy in front | [`caddy::Caddy`] |
//! | run only where a machine has what it takes | [`machine`] |
//! | have a page judged by a parser of others | [`python`] |

pub mod bytes;
pub mod caddy;
pub mod certificates;
pub mod daemon;
pub mod journal;
pub mod line;
pub mod machine;
pub mod message;
pub mod peer;
pub mod python;
pub mod sample;
pub mod site;
pub mod socket;
pub mod upstream;
pub mod visitor;
pub mod websocket;
pub mod world;
