//! Tests that need sockets, or look at the project from outside.

mod exchange;
mod guides;
mod links;
mod protocol;
mod tidy;
