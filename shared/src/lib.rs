//! What Gateway and Agent have in common: the tunnel's protocol, HTTP on the wire, settings, logging.
//!
//! In reading order. *Pure* modules take bytes and `now` and give values; they know no socket, thread, file or clock
//! (a test greps for them).

// Pure: the tunnel's protocol.
pub mod alive;
pub mod backoff;
pub mod credit;
pub mod frame;
pub mod hello;
pub mod reason;
pub mod schedule;
pub mod streams;
pub mod ws;

// With sockets and threads.
pub mod link;
pub mod monotime;
pub mod outbox;
pub mod poll;
pub mod threads;
