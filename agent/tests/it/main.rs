//! Tests of the Agent from outside.

mod api;
mod cli;
mod database;
mod events;
mod examples;
mod hostile;
mod original;
mod transfer;
mod world;
