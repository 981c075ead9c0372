//! The ledger: every decision not to notify, and every later change of it, with the evidence of that moment.
//!
//! It must never be edited after the fact. The hard case is a suppression that lasts: it is re-judged each window, and
//! a new entry is written only when the decision or its verdict changes, or at its end.
use serde::{Deserialize, Serialize};

use crate::alarm::{Scope, Verdict};
use crate::evidence::Evidence;
use crate::instant::Instant;

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Nobody is notified.
    Suppress,
    /// What held it back is over; it is held back for an extension.
    Extend,
    /// It outgrew or outlived what had held it back: people are notified after all.
    Release,
    /// It ended while held back.
    End,
}

/// One entry of the ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// The incident.
    pub id: String,
    /// Event time of the decision.
    pub at: Instant,
    /// What was decided.
    pub decision: Decision,
    /// When the deviation began.
    pub started_at: Instant,
    /// The regions; empty for all.
    pub region: Vec<String>,
    /// Which cells.
    pub scope: Scope,
    /// What it was taken for.
    pub verdict: Verdict,
    /// Why, in words.
    pub reason: String,
    /// The numbers.
    pub evidence: Evidence,
    /// What would have changed the decision.
    pub counterfactual: String,
}
