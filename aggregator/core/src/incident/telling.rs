//! What is told of an incident, and when: the states that it enters, and what is new about one that it is in.
//!
//! It must never tell people twice of the same thing. The hard case is what is held back for days while its verdict
//! flickers: each further word about it takes longer to come, so that its record stays short.
use serde::{Deserialize, Serialize};
use vedette_common::{Now, WallMs};

use super::held::minutes;
use super::{Incident, Stage, Step, Told};
use crate::alarm::{Alarm, IncidentState, Severity, Verdict, summarise};
use crate::instant::Instant;
use crate::ledger::{Decision, LedgerEntry};

/// Each further word about what is held back doubles the windows until the next, up to this many times.
const RETOLD_COUNTED_MAX: u32 = 16;

/// What was last told of something that is held back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Retold {
    verdict: Option<Verdict>,
    windows: u32,
    times: u32,
}

impl Incident {
    /// Enters `next`, unless it is there already or people were notified and the verdict only softens.
    pub(super) fn enter(
        &mut self,
        next: IncidentState,
        severity_before: Severity,
        extends: bool,
        step: Step<'_>,
    ) -> Option<Told> {
        let at = step.at;
        match (self.stage, next) {
            (Stage::Told(IncidentState::Open), _) => (self.severity > severity_before).then(|| {
                let rise = || {
                    format!("severity rose from {} to {}", severity_before.as_str(), self.severity.as_str())
                };
                self.change = self.change.take().or_else(|| Some(rise()));
                self.rises = true;
                self.entered_at = at;
                self.tell(None, at)
            }),
            (Stage::Told(IncidentState::Suppressed), IncidentState::Suppressed) => {
                let decision = if extends { Decision::Extend } else { Decision::Suppress };
                self.is_worth_retelling(extends, step).then(|| {
                    self.told.times = self.told.times.saturating_add(1);
                    self.tell(Some(decision), at)
                })
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

    /// Whether there is something new to say of what is held back: its extension begins, or another verdict has held for
    /// long enough. On the way to being told, it is told once, when it is. Each word doubles the time to the next, so
    /// that a verdict that flickers for ever is recorded some dozen times.
    fn is_worth_retelling(&self, extends: bool, step: Step<'_>) -> bool {
        let hold_windows = step.judgement.hold_windows;
        let turned = self.told.verdict.is_some_and(|told| told != self.verdict)
            && self.verdict_windows >= hold_windows
            && self.notify_windows == 0;
        let pause = hold_windows.saturating_mul(1 << self.told.times.min(RETOLD_COUNTED_MAX));
        (extends || turned) && self.windows.saturating_sub(self.told.windows) >= pause
    }

    /// Ends it at `at`.
    pub(crate) fn resolve(&mut self, at: WallMs) -> Told {
        (self.change, self.held, self.rises) = (None, None, false);
        let decision = self.is(IncidentState::Suppressed).then_some(Decision::End);
        self.become_state(IncidentState::Resolved, decision, at)
    }

    /// Ends it because what it is about has been gone for long.
    pub(crate) fn give_up(&mut self, now: Now) -> Told {
        let told = self.resolve(now.wall);
        let unheard = minutes(self.unheard_ms(now.mono));
        self.change = Some(format!("nothing was heard of it for {unheard}, so it is taken for gone"));
        Told { alarm: self.alarm(), ..told }
    }

    fn become_state(&mut self, state: IncidentState, decision: Option<Decision>, at: WallMs) -> Told {
        self.stage = Stage::Told(state);
        self.entered_at = at;
        self.opened_at = (state == IncidentState::Open).then_some(at);
        self.told.times = 0;
        if state == IncidentState::Open {
            self.held = None;
        }
        self.tell(decision, at)
    }

    fn tell(&mut self, decision: Option<Decision>, at: WallMs) -> Told {
        (self.told.verdict, self.told.windows) = (Some(self.verdict), self.windows);
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
            rises: self.rises,
            returns: self.returns,
            split_from: self.split_from.clone(),
            evidence: self.evidence.clone(),
            series: self.series.clone(),
        }
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
