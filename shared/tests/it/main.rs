//! Tests that need sockets, or look at the project from outside.

mod corpus;
mod exchange;
mod guides;
mod links;
mod protocol;
mod tidy;
