//! Incidents: findings that belong together over time, with a life of candidate, open or suppressed, and resolved.
//!
//! It must never judge; a finding brings its verdict. The hard case is a deviation that flickers, grows and shrinks: it
//! keeps one id, because it is recognised by the cells it covers and remembered for a while after its end.
use serde::{Deserialize, Serialize};
use vedette_common::WallMs;

use crate::alarm::{Alarm, AlarmSeries, IncidentState, Kind, Scope, Severity, Verdict, summarise};
use crate::evidence::Evidence;
use crate::identity::incident_id;
use crate::instant::Instant;
use crate::ledger::{Decision, LedgerEntry};
use crate::settings::Judgement;

/// Scopes that an incident remembers having had; the least supported gives way.
const VOTES_MAX: usize = 6;
/// The share of its support that a scope keeps from one window to the next.
const VOTE_DECAY: f64 = 0.8;

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

    const fn as_str(self) -> &'static str {
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

/// What one judgement says of one scope in one window.
#[derive(Clone, Debug, PartialEq)]
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
}

/// Where an incident stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// Seen, but not for long enough to be told.
    Candidate,
    /// In a state that was told.
    Told(IncidentState),
}

/// A deviation with its life. About 1 KB, its series included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    pub(crate) id: String,
    pub(crate) source: Source,
    pub(crate) stage: Stage,
    pub(crate) verdict: Verdict,
    pub(crate) severity: Severity,
    pub(crate) scope: Scope,
    votes: Vec<(Scope, f64)>,
    pub(crate) started_at: WallMs,
    /// When its present state was entered, event time.
    pub(crate) entered_at: WallMs,
    /// End of the latest window that showed it.
    pub(crate) seen_at: WallMs,
    /// Judged windows that showed it since it last began.
    pub(crate) windows: u32,
    /// The latest of them, without a break, that were worth notifying of.
    pub(crate) notify_windows: u32,
    /// Judged windows since the latest that showed it.
    pub(crate) quiet: u32,
    pub(crate) evidence: Evidence,
    pub(crate) series: Vec<AlarmSeries>,
}

/// What entering a state brings forth.
pub(crate) type Told = (Alarm, Option<LedgerEntry>);

impl Incident {
    /// A candidate that `finding` begins.
    pub(crate) fn new(finding: &Finding) -> Self {
        let evidence = &finding.evidence;
        let subject = [finding.source.as_str(), evidence.direction.as_str(), &evidence.metric];
        let agent = evidence.missing.as_ref().map_or("", |missing| missing.agent.as_str());
        Self {
            id: incident_id(finding.started_at, &finding.scope, subject.into_iter().chain([agent])),
            source: finding.source,
            stage: Stage::Candidate,
            verdict: finding.verdict,
            severity: finding.severity,
            scope: finding.scope.clone(),
            votes: Vec::new(),
            started_at: finding.started_at,
            entered_at: finding.started_at,
            seen_at: finding.started_at,
            windows: 0,
            notify_windows: 0,
            quiet: 0,
            evidence: evidence.clone(),
            series: Vec::new(),
        }
    }

    /// Whether it was told and is not over.
    pub(crate) const fn is_live(&self) -> bool {
        matches!(self.stage, Stage::Told(IncidentState::Open | IncidentState::Suppressed))
    }

    pub(crate) fn is(&self, state: IncidentState) -> bool {
        self.stage == Stage::Told(state)
    }

    /// Takes the finding of a window that ended at `at`; returns what to tell if a state is entered.
    pub(crate) fn take(&mut self, finding: Finding, at: WallMs, settings: &Judgement) -> Option<Told> {
        if self.quiet > 0 && !self.is_live() {
            (self.windows, self.notify_windows) = (0, 0);
        }
        self.quiet = 0;
        self.windows = self.windows.saturating_add(1);
        let outlasted = finding.notify_after.is_some_and(|windows| self.windows >= windows);
        self.notify_windows =
            if finding.notify || outlasted { self.notify_windows.saturating_add(1) } else { 0 };
        self.seen_at = at;
        let verdict_before = self.verdict;
        self.vote(finding.scope, finding.weight);
        self.verdict = finding.verdict;
        self.severity = finding.severity.max(if self.is_live() { self.severity } else { Severity::Info });
        self.series = finding.series;
        self.evidence = Evidence { windows: self.windows, ..finding.evidence };
        let enough = |windows: u32| windows >= settings.hold_windows || (finding.at_once && windows > 0);
        let next = if enough(self.notify_windows) {
            IncidentState::Open
        } else if enough(self.windows) {
            IncidentState::Suppressed
        } else {
            return None;
        };
        self.enter(next, verdict_before, at)
    }

    /// Enters `next`, unless it is there already or people were notified and the verdict only softens.
    fn enter(&mut self, next: IncidentState, verdict_before: Verdict, at: WallMs) -> Option<Told> {
        match (self.stage, next) {
            (Stage::Told(IncidentState::Open), _) => None,
            (Stage::Told(IncidentState::Suppressed), IncidentState::Suppressed) => {
                // On the way to being told, it is told once, when it is.
                let changed = self.verdict != verdict_before && self.notify_windows == 0;
                changed.then(|| self.tell(Some(Decision::Suppress), at))
            }
            (Stage::Told(IncidentState::Suppressed), _) => {
                Some(self.become_state(next, Some(Decision::Release), at))
            }
            (_, IncidentState::Suppressed) => Some(self.become_state(next, Some(Decision::Suppress), at)),
            _ => Some(self.become_state(next, None, at)),
        }
    }

    /// A judged window, ending at `at`, that did not show it. Returns what to tell if that ends it.
    pub(crate) fn rest(&mut self, at: WallMs, quiet_windows: u32) -> Option<Told> {
        self.quiet = self.quiet.saturating_add(1);
        self.notify_windows = 0;
        (self.is_live() && self.quiet >= quiet_windows).then(|| self.resolve(at))
    }

    /// Ends it at `at`.
    pub(crate) fn resolve(&mut self, at: WallMs) -> Told {
        let decision = self.is(IncidentState::Suppressed).then_some(Decision::End);
        self.become_state(IncidentState::Resolved, decision, at)
    }

    fn become_state(&mut self, state: IncidentState, decision: Option<Decision>, at: WallMs) -> Told {
        self.stage = Stage::Told(state);
        self.entered_at = at;
        self.tell(decision, at)
    }

    fn tell(&self, decision: Option<Decision>, at: WallMs) -> Told {
        let alarm = self.alarm();
        let entry = decision.map(|decision| LedgerEntry {
            id: self.id.clone(),
            at: Instant(at),
            decision,
            started_at: alarm.started_at,
            region: self.scope.region.clone(),
            scope: self.scope.clone(),
            verdict: self.verdict,
            reason: self.evidence.reason.clone(),
            evidence: self.evidence.clone(),
            counterfactual: self.evidence.counterfactual.clone(),
        });
        (alarm, entry)
    }

    /// The object of its present state, with the latest evidence.
    pub(crate) fn alarm(&self) -> Alarm {
        Alarm {
            id: self.id.clone(),
            state: match self.stage {
                Stage::Told(state) => state,
                Stage::Candidate => IncidentState::Suppressed,
            },
            kind: self.source.kind(),
            at: Instant(self.entered_at),
            started_at: Instant(self.started_at),
            severity: self.severity,
            verdict: self.verdict,
            scope: self.scope.clone(),
            summary: summarise(&self.scope, &self.evidence),
            evidence: self.evidence.clone(),
            series: self.series.clone(),
        }
    }

    /// The scope with the most support over the latest windows becomes the incident's.
    fn vote(&mut self, scope: Scope, weight: f64) {
        for (_, support) in &mut self.votes {
            *support *= VOTE_DECAY;
        }
        match self.votes.iter_mut().find(|(known, _)| *known == scope) {
            Some((_, support)) => *support += weight,
            None => self.votes.push((scope, weight)),
        }
        self.votes.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        self.votes.truncate(VOTES_MAX);
        if let Some((best, _)) = self.votes.first() {
            self.scope.clone_from(best);
        }
    }
}
