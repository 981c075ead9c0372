//! The deterministic core of the aggregator: session, region, correlate, verdict, incident.
//!
//! It must never do IO, read a clock or use randomness: the same inputs give the same incidents, byte for byte. The
//! hard case is a crash between two inputs: whatever was acknowledged is in the changes that the shell committed before.
//!
//! The shell hands inputs to an [`Aggregator`], then drains [`Aggregator::take_changes`] and commits, then drains
//! [`Aggregator::poll_effect`] and acts, and wakes it at [`Aggregator::poll_deadline`].
#![forbid(unsafe_code)]

pub mod aggregator;
pub mod alarm;
pub mod basis;
mod combine;
mod correlate;
mod counting;
pub mod counts;
mod dependency;
pub mod effect;
mod errors;
mod evenness;
pub mod evidence;
mod findings;
pub mod footprint;
mod identity;
mod incident;
pub mod ingredients;
pub mod instant;
mod intake;
mod journal;
mod judge;
mod learned;
pub mod ledger;
mod lone;
mod membership;
mod region;
pub mod schedule;
mod scopes;
pub mod sensitivity;
pub mod session;
pub mod settings;
mod silences;
pub mod snapshot;
mod telemetry;
mod verdict;
mod view;
mod window;

pub use aggregator::{Aggregator, Disposition};
pub use alarm::{Alarm, IncidentState, Kind, Scope, Severity, Verdict};
pub use basis::{Basis, Derivation};
pub use counts::{Counts, Reason};
pub use effect::{Change, Effect, Part};
pub use evidence::{Direction, Evidence, Suppressor, SuppressorKind};
pub use ingredients::Ingredients;
pub use instant::Instant;
pub use ledger::{Decision, LedgerEntry};
pub use schedule::{ScheduleEntry, Silence, Span};
pub use session::AllowedRegions;
pub use settings::{
    AlarmOn, Dimensions, Judgement, Lifecycle, Limits, MetricSettings, Role, Settings, Timing,
};
pub use snapshot::{CellState, CellView, RegionView, Snapshot};
