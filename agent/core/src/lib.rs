//! The deterministic core of the agent: parse, series table, scorers, summaries, spool, link.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod deviation;
pub mod score;
pub mod spool;
