//! The deterministic core of the agent: parse, series table, scorers, summaries, spool, link.
//!
//! It must never see a clock, a socket, a file or a source of randomness: `now` and seeds are arguments. The
//! hard case is that it allocates nothing: memory is lent by the shell, once, at start, and not touched before it is used.
#![no_std]
#![deny(unsafe_code)]

#[cfg(test)]
extern crate std;

mod admission;
pub mod batch;
mod cohort;
mod counter;
pub mod deviation;
mod fold;
pub mod index;
mod intake;
pub mod key;
pub mod lattice;
pub mod link;
pub mod metric;
pub mod names;
mod observe;
pub mod parse;
pub mod pending;
pub mod pipeline;
pub mod prefetch;
mod region;
pub mod room;
pub mod score;
pub mod settings;
pub mod spool;
pub mod summary;
pub mod table;
