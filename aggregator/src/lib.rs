//! The aggregator: listeners, store, notifiers, API, console and replay around the deterministic core.
//!
//! Owns everything that touches sockets, files, clocks and people. Must never decide what is an incident: that is
//! the core's. The hard case is a crash between two effects, so what is acknowledged is always committed first.

pub mod api;
pub mod auth;
pub mod ca;
pub mod calendar;
pub mod clock;
mod command;
pub mod config;
pub mod console;
pub mod credentials;
pub mod drive;
pub mod enroll;
mod housekeeping;
pub mod http;
pub mod identity;
pub mod limits;
pub mod listen;
pub mod metrics;
pub mod notify;
pub mod operators;
pub mod outbox;
pub mod places;
pub mod pulse;
mod reload;
pub mod replay;
pub mod run;
pub mod schedule;
pub mod settings;
pub mod state_folder;
pub mod store;
pub mod verify;

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the command that `args`, the program's name first, ask for: what the binary does, and what the demo does to start an aggregator.
pub fn main_from(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    command::main_from(args)
}
