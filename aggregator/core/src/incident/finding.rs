//! What one judgement says of one scope in one window, before anything of its history is known.
//!
//! It must never know an incident. The hard case is a finding that is held back: its own ruling stays in its grounds, and
//! what became of it since is marked, so that the one can be told from the other.
use serde::{Deserialize, Serialize};
use vedette_common::WallMs;

use super::held::minutes;
use crate::alarm::{AlarmSeries, Kind, Scope, Severity, Verdict};
use crate::evidence::Evidence;

/// Where a finding comes from; findings of different sources never share an incident, except as told in `journal.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Source {
    /// What the independent stacks of a region share.
    Common,
    /// What is left over in some cells.
    Leftover,
    /// Deviations of series that cannot be compared.
    Lone,
    /// An agent that does not speak.
    Silent,
    /// Cells without data.
    Missing,
    /// Series that are silent or stuck in cells that report.
    Unwell,
}

impl Source {
    pub(crate) const fn kind(self) -> Kind {
        match self {
            Self::Silent | Self::Missing | Self::Unwell => Kind::Telemetry,
            Self::Common | Self::Leftover | Self::Lone => Kind::Malfunction,
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Common => "common",
            Self::Leftover => "leftover",
            Self::Lone => "lone",
            Self::Silent => "silent",
            Self::Missing => "missing",
            Self::Unwell => "unwell",
        }
    }
}

/// What became of a finding since it was ruled on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SinceRuled {
    /// Whether something besides its ruling holds it back.
    pub(crate) held: bool,
    /// Other findings of the window that it speaks for.
    pub(crate) joined: u16,
}

/// What one judgement says of one scope in one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Finding {
    pub(crate) source: Source,
    pub(crate) scope: Scope,
    pub(crate) verdict: Verdict,
    /// Whether people should be notified, were it to last.
    pub(crate) notify: bool,
    /// Windows after which people should be notified all the same.
    pub(crate) notify_after: Option<u32>,
    /// Whether one window is enough.
    pub(crate) at_once: bool,
    /// How strongly the window supports the scope.
    pub(crate) weight: f64,
    pub(crate) severity: Severity,
    pub(crate) started_at: WallMs,
    pub(crate) evidence: Evidence,
    pub(crate) series: Vec<AlarmSeries>,
    #[serde(default)]
    pub(crate) since_ruled: SinceRuled,
}

impl Finding {
    /// Nothing has explained it for `lasted_ms`: people are to be notified of it after all.
    pub(super) fn outlast(&mut self, lasted_ms: i64) {
        self.verdict = Verdict::Malfunction;
        self.severity = self.severity.max(Severity::Warning);
        let (evidence, lasted) = (&mut self.evidence, minutes(lasted_ms));
        evidence.reason = format!("has lasted for {lasted} and nothing explains it: {}", evidence.reason);
        evidence.counterfactual = format!("would have been held back had it ended within {lasted}");
    }

    /// Holds it back: it is for the record only.
    pub(crate) fn hold(&mut self) {
        (self.notify, self.notify_after, self.severity) = (false, None, Severity::Info);
        self.since_ruled.held = true;
    }
}
