//! What keeps people from being notified besides the judgement: silences, maintenance windows, and a region's target of
//! pages.
//!
//! It must never hide a finding: what is held back is recorded with what held it. The hard case is a finding that spans
//! regions: it is held back only where every one of them is covered.
use crate::alarm::{Scope, Verdict};
use crate::evidence::{Suppressor, SuppressorKind};
use crate::incident::{Finding, Source};
use crate::instant::Instant;
use crate::schedule::{Schedule, ScheduleEntry, Silence};
use crate::sensitivity::Sensitivities;
use crate::settings::Settings;
use vedette_common::WallMs;

/// What may hold a finding back.
pub(crate) struct Holds<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) schedule: &'a Schedule,
    pub(crate) silences: &'a [Silence],
    pub(crate) sensitivities: &'a Sensitivities,
}

impl Holds<'_> {
    /// Holds `finding` of the window that begins at `at` back where something covers it; the finding is recorded all
    /// the same.
    pub(crate) fn apply(&self, finding: &mut Finding, at: WallMs) {
        if let Some(silence) = self.silences.iter().find(|silence| silence.covers(&finding.scope, at)) {
            return hold_silenced(finding, silence);
        }
        if let Some(entry) = self.maintenance(&finding.scope, at) {
            return hold_maintained(finding, entry);
        }
        if finding.source != Source::Silent {
            self.sensitivities.apply(finding, self.settings);
        }
    }

    /// The maintenance that covers every region of `scope` at `at`: of several entries, the one that ends first.
    fn maintenance(&self, scope: &Scope, at: WallMs) -> Option<&ScheduleEntry> {
        let classes = &self.settings.maintenance_classes;
        if classes.is_empty() {
            return None;
        }
        let of = |region: Option<&str>| {
            // A margin is for events, whose times others set; maintenance begins and ends as announced.
            let known = self
                .schedule
                .iter()
                .filter(|entry| classes.contains(&entry.class) && entry.from <= at && at < entry.until);
            let here = known.filter(|entry| entry.region.is_none() || entry.region.as_deref() == region);
            here.max_by_key(|entry| entry.until)
        };
        if scope.region.is_empty() {
            return of(None);
        }
        let covering = scope.region.iter().map(|region| of(Some(region))).collect::<Option<Vec<_>>>()?;
        covering.into_iter().min_by_key(|entry| entry.until)
    }
}

fn hold_silenced(finding: &mut Finding, silence: &Silence) {
    finding.hold();
    let by = if silence.author.is_empty() { String::new() } else { format!(" by {}", silence.author) };
    let evidence = &mut finding.evidence;
    evidence.reason = format!("silenced{by} ({}): {}", silence.id, silence.comment);
    evidence.counterfactual = "would have been judged by its numbers without the silence".into();
    evidence.suppressor = Some(Suppressor {
        kind: SuppressorKind::Silence,
        name: silence.comment.clone(),
        until: Some(Instant(silence.until)),
    });
}

fn hold_maintained(finding: &mut Finding, entry: &ScheduleEntry) {
    if finding.notify {
        finding.verdict = Verdict::ScheduledEvent;
    }
    finding.hold();
    let evidence = &mut finding.evidence;
    let until = Instant(entry.until);
    evidence.reason = format!("maintenance ({}) until {until}; {}", entry.describe(), evidence.reason);
    evidence.counterfactual = "would have been judged by its numbers without the maintenance".into();
    evidence.suppressor =
        Some(Suppressor { kind: SuppressorKind::Maintenance, name: entry.describe(), until: Some(until) });
}
