//! Simulator, scenarios, end-to-end tests, quality and speed benchmarks, and the demo.
//!
//! Owns everything that judges Vedette from outside. Nothing of it ships. The hard case is to stay a fair judge: the
//! simulator and the grader know nothing of how scoring and judgement work.

#[cfg(feature = "scenarios")]
pub mod chaos;
#[cfg(feature = "scenarios")]
pub mod demo;
#[cfg(feature = "scenarios")]
pub mod fleet;
#[cfg(feature = "scenarios")]
pub mod overload;
#[cfg(feature = "scenarios")]
pub mod rig;
#[cfg(feature = "scenarios")]
pub mod simulation;
