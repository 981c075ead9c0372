//! The agent: sources, spool files and uplinks around the deterministic core.
//!
//! Owns everything that touches the world: sockets, files, clocks, randomness, signals. Must never decide what a
//! deviation is; that is the core's. The hard case is a machine where anything can be missing or full: whatever
//! fails is counted, logged at a limited rate, and the rest goes on.
pub mod allocation;
pub mod clock;
pub mod command;
pub mod config;
pub mod engine;
pub mod health;
pub mod http;
pub mod identity;
pub mod log;
pub mod memory;
mod pages;
pub mod run;
pub mod source;
pub mod storage;
pub mod supervisor;
pub mod tags;
pub mod uplink;
pub mod validity;
pub mod zone;

pub use command::main_from;
