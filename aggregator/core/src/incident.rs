//! Incidents: findings that belong together over time, with a life of candidate, open or suppressed, and resolved.
//!
//! It must never judge; a finding brings its verdict. The hard case is a deviation that flickers, grows and shrinks: it
//! keeps one id, because it is recognised by the cells it covers and remembered for a while after its end.
use serde::{Deserialize, Serialize};
use vedette_common::WallMs;

use crate::alarm::{Alarm, AlarmSeries, IncidentState, Kind, Scope, Severity, Verdict, summarise};
use crate::basis::Basis;
use crate::evidence::{Evidence, Suppressor, SuppressorKind};
use crate::identity::incident_id;
use crate::instant::Instant;
use crate::ledger::{Decision, LedgerEntry};
use crate::settings::{Judgement, Lifecycle};
use crate::verdict;

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

/// What held an incident back, and when it last did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Held {
    by: Suppressor,
    covered_at: WallMs,
    /// The largest deviation that it covered, as a log ratio.
    size: f64,
    /// Whether it is over and the extension has begun.
    extended: bool,
}

/// The share of the largest deviation during an event that has to be left for it to have outlived the event.
const OUTLIVED_MIN: f64 = 0.5;
/// The size from which an open incident worsens soon: a third less or half as much more.
const WORSENS_SOON: f64 = 0.4;
/// Each return doubles the quiet that an end needs, up to this many times.
const RETURNS_COUNTED_MAX: u32 = 5;

/// The window under judgement, and the settings that hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step<'a> {
    /// Its end.
    pub(crate) at: WallMs,
    pub(crate) window_ms: u32,
    pub(crate) judgement: &'a Judgement,
    pub(crate) lifecycle: &'a Lifecycle,
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
}

impl Finding {
    /// Holds it back: it is for the record only.
    pub(crate) fn hold(&mut self) {
        (self.notify, self.notify_after, self.severity) = (false, None, Severity::Info);
    }
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
    /// The incident whose scope it once was a part of.
    #[serde(default)]
    pub(crate) split_from: Option<String>,
    /// How often it came back after it had ended.
    #[serde(default)]
    returns: u32,
    /// When it last began.
    #[serde(default)]
    since: WallMs,
    #[serde(default)]
    opened_at: Option<WallMs>,
    #[serde(default)]
    held: Option<Held>,
    /// What brought it into its present state.
    #[serde(default)]
    change: Option<String>,
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
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) alarm: Alarm,
    pub(crate) entry: Option<LedgerEntry>,
    /// What it was decided from; none where only time has passed.
    pub(crate) basis: Option<Box<Basis>>,
}

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
            split_from: None,
            returns: 0,
            since: finding.started_at,
            opened_at: None,
            held: None,
            change: None,
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

    /// Takes the finding of a window; returns what to tell if a state is entered.
    pub(crate) fn take(&mut self, mut finding: Finding, step: Step<'_>) -> Option<Told> {
        let at = step.at;
        if self.quiet > 0 && !self.is_live() {
            (self.windows, self.notify_windows) = (0, 0);
        }
        if self.windows == 0 {
            self.since = at.plus_ms(-i64::from(step.window_ms));
        }
        self.quiet = 0;
        self.windows = self.windows.saturating_add(1);
        self.change = None;
        let extends = self.linger(&mut finding, step);
        self.await_event(&mut finding, step);
        let outlasted = finding.notify_after.is_some_and(|windows| self.windows >= windows);
        self.notify_windows =
            if finding.notify || outlasted { self.notify_windows.saturating_add(1) } else { 0 };
        self.seen_at = at;
        let before = (self.verdict, self.severity);
        self.vote(finding.scope, finding.weight);
        self.verdict = finding.verdict;
        self.severity = finding.severity.max(if self.is_live() { self.severity } else { Severity::Info });
        self.series = finding.series;
        let evidence = Evidence { windows: self.windows, grounds: None, ..finding.evidence };
        self.evidence = evidence.settled();
        let held_long = at.ms_since(self.since) >= step.lifecycle.hold_ms;
        let enough = |windows: u32| {
            (windows >= step.judgement.hold_windows && held_long) || (finding.at_once && windows > 0)
        };
        let next = if enough(self.notify_windows) {
            IncidentState::Open
        } else if enough(self.windows) {
            IncidentState::Suppressed
        } else {
            return None;
        };
        if self.is(IncidentState::Open) {
            self.worsen(step);
        }
        self.enter(next, before, extends, at)
    }

    /// Holds back for a while what an event or a maintenance leaves behind, and tells what outgrew or outlived it.
    /// Returns whether the extension begins.
    fn linger(&mut self, finding: &mut Finding, step: Step<'_>) -> bool {
        let size = size_of(&finding.evidence);
        if let Some(by) = covering(finding) {
            let largest = self.held.as_ref().map_or(size, |held| held.size.max(size));
            self.held = Some(Held { by, covered_at: step.at, size: largest, extended: false });
            return false;
        }
        let Some(held) = &mut self.held else { return false };
        let over_ms = step.at.ms_since(held.covered_at);
        let name = held.by.name.clone();
        if held.by.kind == SuppressorKind::Silence
            || (finding.notify && held.by.kind == SuppressorKind::Event)
        {
            if held.by.kind == SuppressorKind::Event && !held.extended && self.stage != Stage::Candidate {
                finding.evidence.reason = format!("it outgrew {name}: {}", finding.evidence.reason);
            }
            self.held = None;
            return false;
        }
        if over_ms < step.lifecycle.extension_ms {
            let until = Instant(held.covered_at.plus_ms(step.lifecycle.extension_ms));
            let began = !std::mem::replace(&mut held.extended, true);
            finding.evidence.suppressor = Some(Suppressor { until: Some(until), ..held.by.clone() });
            finding.hold();
            let reason = std::mem::take(&mut finding.evidence.reason);
            finding.evidence.reason =
                format!("{name} is over, and what it leaves behind is held back until {until}; {reason}");
            finding.evidence.counterfactual = format!("will notify if it lasts beyond {until}");
            return began && self.is(IncidentState::Suppressed);
        }
        if !finding.notify && matters(finding) && size >= OUTLIVED_MIN * held.size {
            finding.notify = true;
            finding.verdict = Verdict::Malfunction;
            finding.severity = finding.severity.max(Severity::Warning);
            finding.evidence.counterfactual = format!("would have been held back had it ended with {name}");
        }
        if finding.notify {
            let reason = std::mem::take(&mut finding.evidence.reason);
            finding.evidence.reason = format!("it outlived {name} by {}: {reason}", minutes(over_ms));
        }
        false
    }

    /// Gives an event that the calendar announces time to show itself before its first sign is told as a fault.
    fn await_event(&self, finding: &mut Finding, step: Step<'_>) {
        let evidence = &mut finding.evidence;
        let raised = evidence.errors.as_ref().is_some_and(|errors| errors.raised);
        let awaited = finding.notify && !finding.at_once && !evidence.calendar.is_empty() && !raised;
        let until = self.since.plus_ms(step.lifecycle.wait_ms);
        if !awaited || evidence.event_is_live || self.is(IncidentState::Open) || step.at >= until {
            return;
        }
        finding.notify = false;
        let name = crate::alarm::list(&evidence.calendar);
        let reason = std::mem::take(&mut evidence.reason);
        evidence.reason = format!("waits until {} for {name} to show itself; {reason}", Instant(until));
    }

    /// An open incident that lasts becomes critical: soon if it is large, later if not.
    fn worsen(&mut self, step: Step<'_>) {
        let Some(opened_at) = self.opened_at.filter(|_| self.source.kind() == Kind::Malfunction) else {
            return;
        };
        let lasted_ms = step.at.ms_since(opened_at);
        let soon = size_of(&self.evidence) >= WORSENS_SOON;
        let after_ms = step.lifecycle.worsens_after_ms.saturating_mul(if soon { 1 } else { 4 });
        if self.severity == Severity::Warning && lasted_ms >= after_ms {
            self.severity = Severity::Critical;
            self.change =
                Some(format!("severity rose from warning to critical after {}", minutes(lasted_ms)));
        }
    }

    /// Enters `next`, unless it is there already or people were notified and the verdict only softens.
    fn enter(
        &mut self,
        next: IncidentState,
        (verdict_before, severity_before): (Verdict, Severity),
        extends: bool,
        at: WallMs,
    ) -> Option<Told> {
        match (self.stage, next) {
            (Stage::Told(IncidentState::Open), _) => (self.severity > severity_before).then(|| {
                let rise = || {
                    format!("severity rose from {} to {}", severity_before.as_str(), self.severity.as_str())
                };
                self.change = self.change.take().or_else(|| Some(rise()));
                self.entered_at = at;
                self.tell(None, at)
            }),
            (Stage::Told(IncidentState::Suppressed), IncidentState::Suppressed) => {
                if extends {
                    return Some(self.tell(Some(Decision::Extend), at));
                }
                // On the way to being told, it is told once, when it is.
                let changed = self.verdict != verdict_before && self.notify_windows == 0;
                changed.then(|| self.tell(Some(Decision::Suppress), at))
            }
            (Stage::Told(IncidentState::Suppressed), _) => {
                self.change = Some("held back before".into());
                Some(self.become_state(next, Some(Decision::Release), at))
            }
            (before, _) => {
                if before == Stage::Told(IncidentState::Resolved) {
                    self.returns = self.returns.saturating_add(1);
                    self.change = Some(format!("came back, for the {} time", ordinal(self.returns)));
                }
                let decision = (next == IncidentState::Suppressed).then_some(Decision::Suppress);
                Some(self.become_state(next, decision, at))
            }
        }
    }

    /// A judged window that did not show it. Returns what to tell if that ends it.
    pub(crate) fn rest(&mut self, step: Step<'_>) -> Option<Told> {
        self.quiet = self.quiet.saturating_add(1);
        self.notify_windows = 0;
        (self.is_live() && self.is_quiet(step, 0)).then(|| self.resolve(step.at))
    }

    /// Whether it has been quiet for long enough to be over, and for `longer_ms` beyond that.
    fn is_quiet(&self, step: Step<'_>, longer_ms: i64) -> bool {
        let least_ms = i64::from(step.judgement.quiet_windows) * i64::from(step.window_ms);
        let once_ms = step.lifecycle.quiet_ms.max(least_ms);
        let doubled_ms = once_ms.saturating_mul(1 << self.returns.min(RETURNS_COUNTED_MAX));
        let needed_ms = once_ms.max(doubled_ms.min(step.lifecycle.flap_ms));
        let quiet_ms = step.at.ms_since(self.seen_at);
        self.quiet >= step.judgement.quiet_windows && quiet_ms >= needed_ms.saturating_add(longer_ms)
    }

    /// Whether its return would be another incident.
    pub(crate) fn is_forgotten(&self, step: Step<'_>) -> bool {
        match self.stage {
            Stage::Candidate => self.quiet >= step.judgement.quiet_windows,
            Stage::Told(_) => !self.is_live() && self.is_quiet(step, step.lifecycle.flap_ms),
        }
    }

    /// Whether `scope` once was a part of its scope.
    pub(crate) fn had(&self, alike: impl Fn(&Scope) -> bool) -> bool {
        self.votes.iter().any(|(scope, _)| alike(scope))
    }

    /// Ends it at `at`.
    pub(crate) fn resolve(&mut self, at: WallMs) -> Told {
        (self.change, self.held) = (None, None);
        let decision = self.is(IncidentState::Suppressed).then_some(Decision::End);
        self.become_state(IncidentState::Resolved, decision, at)
    }

    fn become_state(&mut self, state: IncidentState, decision: Option<Decision>, at: WallMs) -> Told {
        self.stage = Stage::Told(state);
        self.entered_at = at;
        self.opened_at = (state == IncidentState::Open).then_some(at);
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
        Told { alarm, entry, basis: None }
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
            change: self.change.clone(),
            returns: self.returns,
            split_from: self.split_from.clone(),
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

/// What holds `finding` back by its own judgement, if something scheduled or ordered does.
fn covering(finding: &Finding) -> Option<Suppressor> {
    let evidence = &finding.evidence;
    let event = finding.verdict == Verdict::ScheduledEvent && !finding.notify;
    let scheduled = || Suppressor {
        kind: SuppressorKind::Event,
        name: crate::alarm::list(&evidence.calendar),
        until: None,
    };
    evidence.suppressor.clone().or_else(|| (event && !evidence.calendar.is_empty()).then(scheduled))
}

/// Whether people are notified of deviations in the finding's direction.
fn matters(finding: &Finding) -> bool {
    let evidence = &finding.evidence;
    evidence.grounds.as_ref().is_some_and(|grounds| verdict::matters(grounds.alarm_on, evidence.direction))
}

/// How large a deviation is, as a log ratio.
fn size_of(evidence: &Evidence) -> f64 {
    evidence.residual.abs().max(evidence.common_mode.abs())
}

/// A length of time as people say it.
fn minutes(ms: i64) -> String {
    match ms / 60_000 {
        few @ 0..120 => format!("{few} min"),
        many => format!("{} h {} min", many / 60, many % 60),
    }
}

fn ordinal(number: u32) -> String {
    let ending = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}

#[cfg(test)]
mod tests;
