//! What held an incident back, and what becomes of it afterwards: it is told, waits for an extension, or fades.
//!
//! It must never hold back what notifies by its own numbers once nothing covers it. The hard case is what an event leaves
//! behind: events are moved at short notice, so it may linger for a while, and only what then stays as large is told.
use serde::{Deserialize, Serialize};
use vedette_common::WallMs;

use super::{Finding, Incident, Step};
use crate::alarm::{IncidentState, Severity, Verdict};
use crate::evidence::{Evidence, Suppressor, SuppressorKind};
use crate::instant::Instant;

/// The share of the largest deviation during an event that has to be left for it to have outlived the event.
const OUTLIVED_MIN: f64 = 0.5;

/// What held an incident back, and when it last did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Held {
    by: Suppressor,
    covered_at: WallMs,
    /// The largest deviation that it covered, as a log ratio.
    size: f64,
    /// Whether it is over and the extension has begun.
    extended: bool,
    /// Whether it is still on, and no longer covers what the incident shows.
    #[serde(default)]
    outgrown: bool,
}

impl Held {
    /// Why people are told after all, `over_ms` after it last covered the incident.
    fn released(&self, over_ms: i64) -> String {
        let name = &self.by.name;
        match self.by.kind {
            SuppressorKind::Silence => format!("the silence ({name}) is over"),
            SuppressorKind::History => "it came late and lasts to the present".into(),
            _ if self.outgrown => format!("it outgrew {name}"),
            _ => format!("it outlived {name} by {}", minutes(over_ms)),
        }
    }
}

impl Incident {
    /// Holds back for a while what an event or a maintenance leaves behind, and says what outgrew or outlived it. What
    /// held it is remembered until a state is entered. `matters` says whether people are notified of the direction.
    /// Returns whether the extension begins.
    pub(super) fn linger(&mut self, finding: &mut Finding, matters: bool, step: Step<'_>) -> bool {
        if self.is(IncidentState::Open) {
            self.held = None;
            return false;
        }
        let size = size_of(&finding.evidence);
        if let Some(by) = covering(finding) {
            let largest = self.held.as_ref().map_or(size, |held| held.size.max(size));
            let held = Held { by, covered_at: step.at, size: largest, extended: false, outgrown: false };
            self.held = Some(held);
            return false;
        }
        let Some(held) = &mut self.held else { return false };
        let over_ms = step.at.ms_since(held.covered_at);
        let by_event = held.by.kind == SuppressorKind::Event;
        if finding.notify {
            held.outgrown |= by_event && !finding.evidence.calendar.is_empty();
            finding.evidence.reason = format!("{}: {}", held.released(over_ms), finding.evidence.reason);
            return false;
        }
        held.outgrown = false;
        if matches!(held.by.kind, SuppressorKind::Silence | SuppressorKind::History) {
            self.held = None;
            return false;
        }
        if over_ms < step.lifecycle.extension_ms {
            let until = Instant(held.covered_at.plus_ms(step.lifecycle.extension_ms));
            let began = !std::mem::replace(&mut held.extended, true);
            finding.evidence.suppressor = Some(Suppressor { until: Some(until), ..held.by.clone() });
            let name = held.by.name.clone();
            finding.hold();
            let evidence = &mut finding.evidence;
            evidence.reason = format!(
                "{name} is over, and what it leaves behind is held back until {until}; {}",
                evidence.reason
            );
            evidence.counterfactual = format!("will notify if it lasts beyond {until}");
            return began && self.is(IncidentState::Suppressed);
        }
        // Only an event explains traffic; after a maintenance the finding's own ruling counts, and a region's target
        // always does.
        // What everybody shares without failing comes from outside by its own numbers, announced or not.
        let from_outside = finding.verdict == Verdict::ExternalEvent && finding.evidence.errors.is_some();
        let held_back = finding.since_ruled.held || from_outside;
        if by_event && matters && !held_back && size >= OUTLIVED_MIN * held.size {
            finding.notify = true;
            finding.verdict = Verdict::Malfunction;
            finding.severity = finding.severity.max(Severity::Warning);
            let evidence = &mut finding.evidence;
            evidence.counterfactual = format!("would have been held back had it ended with {}", held.by.name);
            evidence.reason = format!("{}: {}", held.released(over_ms), evidence.reason);
        }
        false
    }

    /// Gives an event that the calendar announces time to show itself before its first sign is told as a fault; raised
    /// errors are no sign of an event.
    pub(super) fn await_event(&self, finding: &mut Finding, step: Step<'_>) {
        let evidence = &finding.evidence;
        let raised = evidence.errors.as_ref().is_some_and(|errors| errors.raised);
        let awaited = finding.notify && !evidence.calendar.is_empty() && !raised;
        let until = self.since.plus_ms(step.lifecycle.wait_ms);
        if !awaited || evidence.event_is_live || self.is(IncidentState::Open) || step.at >= until {
            return;
        }
        finding.hold();
        finding.verdict = Verdict::Undecided;
        let (evidence, until) = (&mut finding.evidence, Instant(until));
        let name = crate::alarm::list(&evidence.calendar);
        evidence.reason = format!("waits until {until} for {name} to show itself; {}", evidence.reason);
        evidence.counterfactual = format!("will notify if it lasts beyond {until}");
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

/// How large a deviation is, as a log ratio.
pub(super) fn size_of(evidence: &Evidence) -> f64 {
    evidence.residual.abs().max(evidence.common_mode.abs())
}

/// A length of time as people say it.
pub(crate) fn minutes(ms: i64) -> String {
    match ms / 60_000 {
        few @ 0..120 => format!("{few} min"),
        many => format!("{} h {} min", many / 60, many % 60),
    }
}
