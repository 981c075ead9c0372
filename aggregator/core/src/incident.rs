//! Incidents: findings that belong together over time, with a life of candidate, open or suppressed, and resolved.
//!
//! It must never judge; a finding brings its verdict. The hard case is a deviation that flickers, grows and shrinks: it
//! keeps one id, because it is recognised by the cells it covers and remembered for a while after its end.
use serde::{Deserialize, Serialize};
use vedette_common::{MonoMs, WallMs};

use crate::alarm::{Alarm, AlarmSeries, IncidentState, Kind, Scope, Severity, Verdict};
use crate::basis::Basis;
use crate::evidence::Evidence;
use crate::identity::incident_id;
use crate::ledger::LedgerEntry;
use crate::settings::{AlarmOn, Judgement, Lifecycle};
use crate::verdict;

mod finding;
mod held;
mod telling;

pub(crate) use finding::{Finding, SinceRuled, Source};
pub(crate) use held::minutes;
use held::{Held, size_of};
use telling::Retold;

/// Scopes that an incident remembers having had; the least supported gives way.
const VOTES_MAX: usize = 6;
/// The share of the best supported scope's support from which an incident had a scope not long ago.
const LATELY_MIN: f64 = 0.01;
/// The share of its support that a scope keeps from one window to the next.
const VOTE_DECAY: f64 = 0.8;

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
    /// Whether it was open before, and only its severity rose.
    #[serde(default)]
    rises: bool,
    /// The widest window that showed it since it last began; only those of this width may end it.
    #[serde(default)]
    pub(crate) window_ms: u32,
    /// The verdict that was told last, after how many windows, and how often without a change of state.
    #[serde(default)]
    told: Retold,
    /// Windows without a break that had its present verdict.
    #[serde(default)]
    verdict_windows: u32,
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
    /// When something last looked at it: a window of its regions, or a look for its agent. Monotonic, for a wall clock may step.
    /// Not stored, for a process that begins counts from its beginning.
    #[serde(skip)]
    looked_at: MonoMs,
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
            rises: false,
            window_ms: 0,
            told: Retold::default(),
            verdict_windows: 0,
            votes: Vec::new(),
            started_at: finding.started_at,
            entered_at: finding.started_at,
            seen_at: finding.started_at,
            windows: 0,
            notify_windows: 0,
            quiet: 0,
            looked_at: MonoMs::default(),
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

    /// Takes the finding of a window about a metric of which `alarm_on` notifies, if it has one; returns what to tell if
    /// a state is entered.
    pub(crate) fn take(
        &mut self,
        mut finding: Finding,
        alarm_on: Option<AlarmOn>,
        step: Step<'_>,
    ) -> Option<Told> {
        self.count(&finding, step);
        let matters = alarm_on.is_some_and(|on| verdict::matters(on, finding.evidence.direction));
        let extends = self.linger(&mut finding, matters, step);
        self.await_event(&mut finding, step);
        let outlasted = finding.notify_after.is_some_and(|windows| self.windows >= windows);
        if outlasted && !finding.notify {
            finding.outlast(step.at.ms_since(self.since));
        }
        self.notify_windows =
            if finding.notify || outlasted { self.notify_windows.saturating_add(1) } else { 0 };
        let severity_before = self.severity;
        let at_once = finding.at_once;
        self.show(finding);
        let held_long = step.at.ms_since(self.since) >= step.lifecycle.hold_ms;
        let enough =
            |windows: u32| held_long && (windows >= step.judgement.hold_windows || (at_once && windows > 0));
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
        self.enter(next, severity_before, extends, step)
    }

    /// Counts the window.
    fn count(&mut self, finding: &Finding, step: Step<'_>) {
        if self.quiet > 0 && !self.is_live() {
            (self.windows, self.notify_windows) = (0, 0);
        }
        if self.windows == 0 {
            // An agent was silent before that was noticed.
            let silent = finding.source == Source::Silent;
            let begun = step.at.plus_ms(-i64::from(step.window_ms));
            self.since = if silent { finding.started_at } else { begun };
            (self.window_ms, self.told, self.verdict_windows) = (0, Retold::default(), 0);
        }
        let goes_on = self.windows > 0 && self.verdict == finding.verdict;
        self.verdict_windows = if goes_on { self.verdict_windows.saturating_add(1) } else { 1 };
        self.window_ms = self.window_ms.max(step.window_ms);
        self.quiet = 0;
        self.windows = self.windows.saturating_add(1);
        (self.change, self.rises) = (None, false);
        self.seen_at = step.at;
    }

    /// Takes over what the window shows.
    fn show(&mut self, finding: Finding) {
        // Of what people know of, the gravest; what is held back is as grave as it is now.
        let known = if self.is(IncidentState::Open) { self.severity } else { Severity::Info };
        self.source = finding.source;
        self.vote(finding.scope, finding.weight);
        self.verdict = finding.verdict;
        self.severity = finding.severity.max(known);
        self.series = finding.series;
        let evidence = Evidence { windows: self.windows, grounds: None, ..finding.evidence };
        self.evidence = evidence.settled();
    }

    /// An open incident that lasts becomes critical: soon if it is large, later if not, and not while people are not to
    /// be notified of it.
    fn worsen(&mut self, step: Step<'_>) {
        if self.source.kind() != Kind::Malfunction || self.evidence.suppressor.is_some() {
            return;
        }
        let lasted_ms = step.at.ms_since(self.opened_at.unwrap_or(self.entered_at));
        let soon = size_of(&self.evidence) >= WORSENS_SOON;
        let after_ms = step.lifecycle.worsens_after_ms.saturating_mul(if soon { 1 } else { 4 });
        if self.severity == Severity::Warning && lasted_ms >= after_ms {
            self.severity = Severity::Critical;
            self.change =
                Some(format!("severity rose from warning to critical after {}", minutes(lasted_ms)));
        }
    }

    /// The agent whose silence it is about, if it is about one.
    pub(crate) fn agent(&self) -> Option<&str> {
        let missing = self.evidence.missing.as_ref().filter(|_| self.source == Source::Silent);
        missing.map(|missing| missing.agent.as_str())
    }

    /// When the silence that it is about is to be judged again: once it has lasted for as long as that takes, and once
    /// nothing holds it back any more. None when people know of it or it is over.
    pub(crate) fn silence_due_at(&self, lifecycle: &Lifecycle) -> Option<WallMs> {
        match self.stage {
            Stage::Candidate => Some(self.since.plus_ms(lifecycle.hold_ms)),
            Stage::Told(IncidentState::Suppressed) => {
                let by = self.evidence.suppressor.as_ref();
                Some(by.and_then(|by| by.until).map_or(self.entered_at, |until| until.0))
            }
            Stage::Told(IncidentState::Open | IncidentState::Resolved) => None,
        }
    }

    /// Something looks at it at `now`.
    pub(crate) fn look(&mut self, now: MonoMs) {
        self.looked_at = self.looked_at.max(now);
    }

    /// Whether nothing has looked at it for so long that what it is about must be gone.
    pub(crate) fn is_gone(&self, now: MonoMs, lifecycle: &Lifecycle) -> bool {
        self.is_live() && self.unheard_ms(now) >= lifecycle.gone_ms
    }

    fn unheard_ms(&self, now: MonoMs) -> i64 {
        i64::try_from(now.0.saturating_sub(self.looked_at.0)).unwrap_or(i64::MAX)
    }

    /// Whether a window of `window_ms` that ends at `end` may say that it is over. Where its regions are judged in windows
    /// of several widths, only the widest that showed it knows; when those no longer come, others will do.
    pub(crate) fn may_rest(&self, end: WallMs, step: Step<'_>) -> bool {
        let own_ms = i64::from(self.window_ms);
        let missed_ms =
            own_ms.saturating_mul(i64::from(self.quiet.saturating_add(step.judgement.quiet_windows)));
        step.window_ms >= self.window_ms || end.ms_since(self.seen_at) > missed_ms
    }

    /// A judged window that did not show it. Returns what to tell if that ends it.
    pub(crate) fn rest(&mut self, step: Step<'_>) -> Option<Told> {
        self.quiet = self.quiet.saturating_add(1);
        self.notify_windows = 0;
        (self.is_live() && self.is_quiet(step, 0)).then(|| self.resolve(step.at))
    }

    /// Whether it has been quiet for long enough to be over, and for `longer_ms` beyond that.
    fn is_quiet(&self, step: Step<'_>, longer_ms: i64) -> bool {
        let width_ms = i64::from(self.window_ms.max(step.window_ms));
        let least_ms = i64::from(step.judgement.quiet_windows) * width_ms;
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

    /// Whether it had such a scope not long ago: some twenty windows, more if that was a large one.
    pub(crate) fn had_lately(&self, alike: impl Fn(&Scope) -> bool) -> bool {
        let most = self.votes.first().map_or(0.0, |(_, support)| *support);
        self.votes.iter().any(|(scope, support)| *support >= LATELY_MIN * most && alike(scope))
    }

    /// Whether it had such a scope, however long ago.
    pub(crate) fn had(&self, alike: impl Fn(&Scope) -> bool) -> bool {
        self.votes.iter().any(|(scope, _)| alike(scope))
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

#[cfg(test)]
mod tests;
