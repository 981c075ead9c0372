//! The aggregator: listeners, store, notifiers, API, console and replay around the deterministic core.
//!
//! Owns everything that touches sockets, files, clocks and people. Must never decide what is an incident: that is
//! the core's. The hard case is a crash between two effects, so what is acknowledged is always committed first.

pub mod ca;
pub mod calendar;
pub mod config;
pub mod identity;
pub mod limits;
pub mod state_folder;
pub mod store;
