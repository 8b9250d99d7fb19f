//! Tests that need sockets, or look at the project from outside.

mod links;
mod protocol;
mod tidy;
