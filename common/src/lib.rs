//! What every part of Vedette shares: units, ids, limits, drop reasons and the messages on the wire.
//!
//! It must never allocate, read a clock, or know a transport; only `config`, which the programs ask for by the feature
//! of that name, allocates. The hard case is a hostile frame: whatever
//! the bytes are, decoding ends in a typed error and reads no more than the frame holds.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "config")]
extern crate std;

#[cfg(feature = "config")]
pub mod config;
pub mod datagrams;
pub mod drops;
pub mod ids;
pub mod limits;
pub mod units;
pub mod wire;

pub use drops::{DropCounts, DropReason};
pub use ids::{AgentId, BootId, IdError, Lane, RecordKey, Sequence};
pub use units::{MonoMs, Now, WallMs};
