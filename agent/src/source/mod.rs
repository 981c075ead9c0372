//! Where observations come from: this machine, StatsD, line protocol over the network, files and standard input.
//!
//! Owns reading and its limits. Must never parse: whole lines go to the core as bytes. The hard case is a sender that
//! is faster, longer or slower than it may be: each limit cuts it off and counts why.

pub mod lines;
