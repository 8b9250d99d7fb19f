//! Tests of the Agent from outside.

mod api;
mod cli;
mod examples;
