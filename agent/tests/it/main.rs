//! Tests of the Agent from outside.

mod api;
mod cli;
mod events;
mod examples;
mod transfer;
mod world;
