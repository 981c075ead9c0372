//! The demo: a real aggregator and real agents on this machine, a simulated fleet at great speed, and this machine itself.
//!
//! Owns the play and its processes; must never leave one behind, nor write anywhere but in its temporary folder. The hard
//! case is to be honest: whether people were paged is read from what the aggregator wrote, never from what was planned.

mod play;
mod processes;
mod show;

pub use play::Play;
pub use processes::Processes;
pub use show::{Outcome, show};
