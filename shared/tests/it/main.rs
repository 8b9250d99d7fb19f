//! Tests that need sockets, or look at the project from outside.

mod guides;
mod links;
mod protocol;
mod stream;
mod tidy;
