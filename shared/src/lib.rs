//! What Gateway and Agent have in common: the tunnel's protocol, HTTP on the wire, settings, logging.
//!
//! In reading order. *Pure* modules take bytes and `now` and give values; they know no socket, thread, file or clock
//! (a test greps for them).

// Pure: the tunnel's protocol.
pub mod alive;
pub mod assembly;
pub mod backoff;
pub mod control;
pub mod credit;
pub mod exchange;
pub mod frame;
pub mod hello;
pub mod reason;
pub mod schedule;
pub mod streams;
pub mod ws;

// Pure: HTTP and names.
pub mod body;
pub mod forwarded;
pub mod head;
pub mod hostname;
pub mod landing;
pub mod lasting;
pub mod login;
pub mod mapping;
pub mod target;
pub mod version;

// With sockets and threads.
pub mod carrier;
pub mod context;
pub mod link;
pub mod links;
pub mod monotime;
pub mod os;
pub mod outbox;
pub mod outer;
pub mod poll;
pub mod spread;
pub mod threads;

// Being a daemon.
pub mod activation;
pub mod clock;
pub mod logging;
pub mod metrics;
pub mod notify;
pub mod process;
pub mod secret;
pub mod settings;
pub mod stop;
