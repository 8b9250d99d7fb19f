//! Measures Octoporty beside its peers on one machine: an Upstream, load generators, an emulated line,
//! and the orchestration that starts every system, asks each in turn and prints one table.
//!
//! In scope: speed, CPU, memory and recovery times, always as ratios to peers measured in the same run.
//! Out of scope: correctness (the tests of the daemons' own crates and `e2e`).
//!
//! The generators are processes of their own (`bench load ...`), because a network namespace is a
//! property of a process and because their CPU must not be counted with a daemon's.

pub mod args;
pub mod fault;
pub mod stats;

pub mod answer;
pub mod target;
pub mod wire;

pub mod load;
pub mod paced;
pub mod sockets;
pub mod transfer;
pub mod upstream;

pub mod line;
pub mod mapping;

pub mod daemon;
pub mod lab;
pub mod stages;
pub mod systems;

pub mod report;
