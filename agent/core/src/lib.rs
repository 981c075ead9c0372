//! The deterministic core of the agent: parse, series table, scorers, summaries, spool, link.
#![no_std]
#![forbid(unsafe_code)]

pub mod deviation;
pub mod score;
