//! The basis of a decision: everything that it was taken from, so that it can be taken again.
//!
//! It must never hold a conclusion that is not checked without saying so: [`Basis::derive`] runs the judgement's own
//! functions on what is stored. The hard case is what needs all that was learned: it is named, not taken on trust.
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use vedette_common::WallMs;

use crate::alarm::{Alarm, Verdict};
use crate::correlate::take_common_mode;
use crate::evidence::{Evidence, SuppressorKind};
use crate::incident::{Finding, Incident, SinceRuled, Source, Step};
use crate::sensitivity;
use crate::settings::{Judgement, Lifecycle};
use crate::verdict::{self, Ruling};

mod grounds;

pub(crate) use grounds::{Grounds, Look, Part};

/// Everything that one decision was taken from. About 5 KB and 200 bytes for each cell compared, so at most some 56 KB.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Basis {
    /// The end of the window judged, and its width.
    at: WallMs,
    window_ms: u32,
    judgement: Judgement,
    lifecycle: Lifecycle,
    /// The incident before the window.
    before: Box<Incident>,
    /// What the window showed of it.
    finding: Box<Finding>,
    grounds: Option<Box<Grounds>>,
}

/// What came out when a decision was taken again.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Derivation {
    /// Whether everything came out as it was told.
    pub equal: bool,
    /// What did not, in words.
    pub differences: Vec<String>,
    /// What was taken again, in words.
    pub checked: Vec<String>,
    /// What was not, because not all of what it was taken from is stored, in words.
    pub unchecked: Vec<String>,
    /// The peers and what they showed.
    pub compared: Vec<Compared>,
    /// What would have been decided had the peers deviated like the scope; none without peers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counterfactual: Option<String>,
}

/// One stack of a region that a scope was compared with.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// The region.
    pub region: String,
    /// The stack.
    pub stack: String,
    /// Whether its cells belong to the scope.
    pub inside: bool,
    /// Sums over its cells.
    pub observed: f64,
    /// Sums over its cells.
    pub expected: f64,
}

impl Basis {
    pub(crate) fn new(
        step: Step<'_>,
        before: Incident,
        finding: Finding,
        grounds: Option<Box<Grounds>>,
    ) -> Self {
        Self {
            at: step.at,
            window_ms: step.window_ms,
            judgement: step.judgement.clone(),
            lifecycle: step.lifecycle.clone(),
            before: Box::new(before),
            finding: Box::new(finding),
            grounds,
        }
    }

    /// Takes the decision again with the judgement's own functions, and compares it with what was `told`.
    pub fn derive(&self, told: &Alarm) -> Derivation {
        let mut derivation = Derivation::default();
        if let Some(grounds) = &self.grounds {
            self.derive_numbers(grounds, &mut derivation);
            self.derive_finding(grounds, &mut derivation);
            derivation.compared = compared(grounds);
            derivation.counterfactual = self.had_peers_followed(grounds);
        } else {
            derivation.unchecked.push("what the window showed: no cells are compared for it".into());
        }
        self.derive_state(told, &mut derivation);
        derivation.equal = derivation.differences.is_empty();
        derivation
    }

    fn derive_numbers(&self, grounds: &Grounds, derivation: &mut Derivation) {
        let evidence = &grounds.evidence;
        derivation.unchecked.push(
            "how sure each number is, errors, latency and the calendar: they need all that was learned"
                .into(),
        );
        if !grounds.complete {
            return derivation.unchecked.push("the numbers of the cells: not all are kept".into());
        }
        let inside = grounds.cells.iter().filter(|cell| cell.part.inside && cell.part.named);
        let sums = inside.fold((0.0, 0.0), |sum, cell| (sum.0 + cell.observed, sum.1 + cell.expected));
        derivation.compare("observed", round(sums.0), evidence.observed);
        derivation.compare("expected", round(sums.1), evidence.expected);
        if self.finding.source == Source::Common {
            // The size of an event is measured as if each cell felt all of it.
            let mut points = grounds.points(0.0);
            points.iter_mut().for_each(|point| point.share.value = 1.0);
            let mode = take_common_mode(&mut points).value;
            return derivation.compare("common mode", round(mode), evidence.common_mode);
        }
        let (leftover, common_mode) = grounds.leftover(0.0);
        derivation.compare("leftover", round(leftover), evidence.residual);
        derivation.compare("common mode", round(common_mode), evidence.common_mode);
    }

    /// Rules on the numbers again, and takes the ruling through what became of it since.
    fn derive_finding(&self, grounds: &Grounds, derivation: &mut Derivation) {
        let Some(ruling) = grounds.rule(self.finding.source, &grounds.evidence, &self.judgement) else {
            return derivation.differences.push("the numbers are too weak to be told at all".into());
        };
        let said = (&grounds.evidence.reason, &grounds.evidence.counterfactual);
        if (&ruling.reason, &ruling.counterfactual) == said {
            derivation.checked.push("the ruling, from the numbers".into());
        } else {
            derivation.differences.push(format!("ruled now: {}; told: {}", ruling.reason, said.0));
        }
        let told = &*self.finding;
        let mut again = self.found(grounds, ruling);
        if let Some(learned) = told.evidence.sensitivity {
            sensitivity::ask(&mut again, learned, &self.judgement);
            derivation.unchecked.push("what the region's target had learned".into());
        }
        if let Some(by) = &told.evidence.suppressor {
            if by.kind == SuppressorKind::Maintenance && again.notify {
                again.verdict = Verdict::ScheduledEvent;
            }
            again.hold();
            (again.evidence.reason, again.evidence.counterfactual) =
                (told.evidence.reason.clone(), told.evidence.counterfactual.clone());
            derivation.unchecked.push(format!("whether {} covered it", by.name));
        }
        if told.since_ruled.joined > 0 {
            (again.at_once, again.severity) = (told.at_once, told.severity);
            let others = told.since_ruled.joined;
            derivation.unchecked.push(format!("{others} further findings of the window that it speaks for"));
        }
        derivation.same("finding", &again, told);
    }

    /// The finding that `ruling` makes, before anything became of it.
    fn found(&self, grounds: &Grounds, ruling: Ruling) -> Finding {
        let told = &*self.finding;
        let evidence = Evidence {
            reason: ruling.reason,
            counterfactual: ruling.counterfactual,
            ..(*grounds.evidence).clone()
        };
        Finding {
            severity: verdict::severity(&told.scope, &evidence, ruling.notify),
            verdict: ruling.verdict,
            notify: ruling.notify,
            notify_after: ruling.patient.then(|| self.judgement.patience_windows_of(self.window_ms)),
            at_once: ruling.at_once,
            evidence,
            since_ruled: SinceRuled::default(),
            ..told.clone()
        }
    }

    fn derive_state(&self, told: &Alarm, derivation: &mut Derivation) {
        let mut incident = (*self.before).clone();
        let step = Step {
            at: self.at,
            window_ms: self.window_ms,
            judgement: &self.judgement,
            lifecycle: &self.lifecycle,
        };
        let alarm_on = self.grounds.as_ref().map(|grounds| grounds.alarm_on);
        let again = incident.take((*self.finding).clone(), alarm_on, step).map(|told| told.alarm);
        match again {
            Some(alarm) if alarm == *told => {
                derivation.checked.push("the state, from the incident before and the finding".into());
            }
            Some(alarm) => derivation.differences.push(format!(
                "decided now: {}, {}, {}; told: {}, {}, {}",
                alarm.state.as_str(),
                alarm.severity.as_str(),
                alarm.evidence.reason,
                told.state.as_str(),
                told.severity.as_str(),
                told.evidence.reason
            )),
            None => derivation
                .differences
                .push(format!("nothing would be told now; told: {}", told.state.as_str())),
        }
    }

    /// Lets the peers deviate like the scope, and judges that.
    fn had_peers_followed(&self, grounds: &Grounds) -> Option<String> {
        let evidence = &grounds.evidence;
        let outside = grounds.cells.iter().filter(|cell| !cell.part.inside);
        let outside: BTreeSet<&str> = outside.map(|cell| grounds.name(2, cell)).collect();
        if self.finding.source == Source::Common || outside.is_empty() || !grounds.complete {
            return None;
        }
        let (now, common_mode) = grounds.leftover(evidence.residual);
        let deviation = evidence.tolerance / self.judgement.significance;
        let significance = if deviation > 0.0 { now.abs() / deviation } else { 0.0 };
        let (residual, common_mode, significance) = (round(now), round(common_mode), round(significance));
        let moved = Evidence { residual, common_mode, significance, ..(**evidence).clone() }.without_signs();
        let ruling = grounds.rule(self.finding.source, &moved, &self.judgement);
        let verdict = match ruling {
            Some(ruling) if ruling.notify && ruling.verdict == Verdict::Malfunction => {
                "would still have notified"
            }
            Some(_) => "would have been held back",
            None => "would not have been told at all",
        };
        let names: Vec<String> = outside.into_iter().map(Into::into).collect();
        Some(format!(
            "had {} deviated by {:+.0} % too, with errors and latency as usual, {:+.0} % would be left over, and it {verdict}",
            crate::alarm::list(&names),
            (evidence.residual.exp() - 1.0) * 100.0,
            (now.exp() - 1.0) * 100.0
        ))
    }
}

impl Derivation {
    /// Says that what a decision was taken from cannot be read: it was stored by another version, or is damaged.
    pub fn unreadable(error: impl std::fmt::Display) -> Self {
        let differences = vec![format!("what was stored of it cannot be read: {error}")];
        Self { differences, ..Self::default() }
    }

    /// Compares what was concluded.
    fn same(&mut self, what: &str, again: &Finding, told: &Finding) {
        let concluded = |it: &Finding| {
            let Evidence { reason, counterfactual, .. } = &it.evidence;
            let said = format!("{reason}; {counterfactual}");
            (it.verdict, it.notify, it.notify_after, it.at_once, it.severity, said)
        };
        let (again, told) = (concluded(again), concluded(told));
        if again == told {
            self.checked.push(format!("the {what}, from the ruling"));
        } else {
            self.differences.push(format!("{what}: {again:?} now, {told:?} told"));
        }
    }

    fn compare(&mut self, what: &str, again: f64, told: f64) {
        if again.to_bits() == told.to_bits() {
            self.checked.push(format!("{what}, from the cells"));
        } else {
            self.differences.push(format!("{what}: {again} now, {told} told"));
        }
    }
}

/// Sums by region and stack, the scope's own first.
fn compared(grounds: &Grounds) -> Vec<Compared> {
    let mut sums: BTreeMap<(bool, &str, &str), (f64, f64)> = BTreeMap::new();
    for cell in &grounds.cells {
        let key = (!cell.part.inside, grounds.name(0, cell), grounds.name(2, cell));
        let (observed, expected) = sums.entry(key).or_default();
        (*observed, *expected) = (*observed + cell.observed, *expected + cell.expected);
    }
    let compared = |((outside, region, stack), (observed, expected)): ((bool, &str, &str), (f64, f64))| {
        Compared { region: region.into(), stack: stack.into(), inside: !outside, observed, expected }
    };
    sums.into_iter().map(compared).collect()
}

fn round(value: f64) -> f64 {
    crate::evidence::round(value)
}
