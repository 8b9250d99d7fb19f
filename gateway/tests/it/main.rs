//! Tests of the Gateway from outside.

mod cli;
mod examples;
