//! What a simulation went through, and how a failure is told.
//!
//! It must never hide what was not tried: a fault that never happened stands there as 0. The hard case is a failure
//! that somebody else has to repeat: it names the seed and the command.
use std::fmt;

use super::plan::Fault;

/// What did not hold, when, under which seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Everything follows from it.
    pub seed: u64,
    /// Virtual time since the beginning; 0 for a panic.
    pub at_ms: u64,
    /// What did not hold.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, at_ms, what } = self;
        write!(
            out,
            "seed {seed} at {at_ms} ms: {what}\nrepeat it: cargo run -p vedette-tests --bin simulation -- --seed {seed}"
        )
    }
}

impl std::error::Error for Failure {}

/// Sums over one seed or many.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Seeds played.
    pub seeds: u64,
    /// Hours that agents lived, summed.
    pub agent_hours: f64,
    /// Records made.
    pub made: u64,
    /// Records that the aggregator consumed and committed.
    pub delivered: u64,
    /// Records refused by the aggregator for good, among the delivered.
    pub refused: u64,
    /// Records never delivered: each within what the spools counted as dropped and what a power cut took unsynced.
    pub gone: u64,
    /// Records that spools counted as dropped.
    pub dropped: u64,
    /// Records that came again after they were applied.
    pub repeated: u64,
    /// Records never delivered that nothing explains: a failure.
    pub lost: u64,
    /// Records that the aggregator consumed twice: a failure.
    pub doubled: u64,
    /// Incidents that entered a state.
    pub incident_states: u64,
    /// Times that each fault began, by its place in [`Fault::ALL`].
    pub faults: [u64; Fault::ALL.len()],
    /// The longest time from the end of all faults to the commit of a fresh deviation.
    pub fresh_after_faults_ms: u64,
    /// The longest time from the end of all faults until everything was drained.
    pub drained_after_faults_ms: u64,
    /// The longest time to the commit of a deviation when nothing is wrong.
    pub fresh_in_calm_ms: u64,
}

impl Report {
    /// Adds what another seed went through.
    pub fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.agent_hours += other.agent_hours;
        self.made += other.made;
        self.delivered += other.delivered;
        self.refused += other.refused;
        self.gone += other.gone;
        self.dropped += other.dropped;
        self.repeated += other.repeated;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.incident_states += other.incident_states;
        self.faults.iter_mut().zip(other.faults).for_each(|(sum, count)| *sum += count);
        self.fresh_after_faults_ms = self.fresh_after_faults_ms.max(other.fresh_after_faults_ms);
        self.drained_after_faults_ms = self.drained_after_faults_ms.max(other.drained_after_faults_ms);
        self.fresh_in_calm_ms = self.fresh_in_calm_ms.max(other.fresh_in_calm_ms);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: u64 = self.faults.iter().sum();
        writeln!(out, "{} seeds, {:.0} agent-hours, {faults} faults", self.seeds, self.agent_hours)?;
        for (fault, count) in Fault::ALL.iter().zip(self.faults) {
            writeln!(out, "  {:<22}{count}", fault.as_str())?;
        }
        writeln!(
            out,
            "{} records made, {} delivered ({} of them refused), {} not; {} were counted as dropped, {} came again",
            self.made, self.delivered, self.refused, self.gone, self.dropped, self.repeated
        )?;
        let Self { incident_states, lost, doubled, .. } = self;
        writeln!(out, "{incident_states} states of incidents; lost {lost}, doubled {doubled}")?;
        write!(
            out,
            "a fresh deviation is committed {} ms after the last fault, {} ms in calm; all is drained after {} ms",
            self.fresh_after_faults_ms, self.fresh_in_calm_ms, self.drained_after_faults_ms
        )
    }
}
