//! How sensitive each region is: learned from how often it pages, where the config names a target of pages a week.
//!
//! It must never leave its bounds, and never touch a region without a target. The hard case is a region that was quiet
//! for months: its sensitivity rises no further than the bound, so that the first small deviation does not flood people.
//!
//! The method is a stochastic approximation (Robbins and Monro, 1951) with a constant step: each page raises the bar by
//! one step, and each week lowers it by the target's number of steps, so that it rests where pages come as often as wanted.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vedette_common::WallMs;

use crate::alarm::Verdict;
use crate::evidence::SensitivityEvidence;
use crate::incident::{Finding, Source};
use crate::settings::Settings;

/// One page moves the bar by this much, as a logarithm: 12 %.
const STEP: f64 = 0.113;
/// The bar's bounds as a factor: from two thirds of what the judgement asks for to three times as much.
const FACTOR_MIN: f64 = 0.67;
const FACTOR_MAX: f64 = 3.0;
const WEEK_MS: f64 = 7.0 * 86_400_000.0;

/// What was learned of one region. 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Sensitivity {
    /// Logarithm of the factor on what the judgement asks for.
    level: f64,
    at: WallMs,
}

impl Sensitivity {
    /// The level at `now`, with `target` pages a week allowed since.
    fn level_at(self, now: WallMs, target: f64) -> f64 {
        let weeks = now.ms_since(self.at).max(0) as f64 / WEEK_MS;
        (self.level - STEP * target * weeks).clamp(FACTOR_MIN.ln(), FACTOR_MAX.ln())
    }
}

/// What was learned of every region with a target, by name. Bounded by the regions in the config.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sensitivities {
    regions: BTreeMap<String, Sensitivity>,
}

impl Sensitivities {
    /// A page at `at` that concerns `region`, or every region when none is named.
    pub(crate) fn page(&mut self, region: &[String], at: WallMs, targets: &BTreeMap<String, f64>) -> bool {
        let concerned = targets.iter().filter(|(name, _)| region.is_empty() || region.contains(name));
        let mut learned = false;
        for (name, target) in concerned {
            let known = self.regions.entry(name.clone()).or_insert(Sensitivity { level: 0.0, at });
            let level = (known.level_at(at, *target) + STEP).min(FACTOR_MAX.ln());
            *known = Sensitivity { level, at };
            learned = true;
        }
        // Regions whose target was taken out of the config are forgotten.
        self.regions.retain(|name, _| targets.contains_key(name));
        learned
    }

    /// Begins to count time for regions with a target that were never paged.
    pub(crate) fn begin(&mut self, at: WallMs, targets: &BTreeMap<String, f64>) -> bool {
        let known = self.regions.len();
        for name in targets.keys() {
            self.regions.entry(name.clone()).or_insert(Sensitivity { level: 0.0, at });
        }
        self.regions.len() != known
    }

    /// The factor on what the judgement asks of a finding about `region`, with the target: of several, the least
    /// sensitive one. None where no region has a target.
    fn factor(
        &self,
        region: &[String],
        at: WallMs,
        targets: &BTreeMap<String, f64>,
    ) -> Option<SensitivityEvidence> {
        let concerned = targets.iter().filter(|(name, _)| region.is_empty() || region.contains(name));
        let of = |(name, target): (&String, &f64)| {
            let level = self.regions.get(name).map_or(0.0, |known| known.level_at(at, *target));
            SensitivityEvidence { factor: level.exp(), pages_per_week: *target }
        };
        concerned.map(of).max_by(|a, b| a.factor.total_cmp(&b.factor))
    }

    /// Asks more of a finding where the region pages more often than wanted, and less where it pages less often.
    pub(crate) fn apply(&self, finding: &mut Finding, settings: &Settings) {
        if finding.source != Source::Leftover && finding.source != Source::Common {
            return;
        }
        let at = finding.started_at;
        let Some(learned) = self.factor(&finding.scope.region, at, &settings.pages_per_week) else { return };
        let evidence = &mut finding.evidence;
        let asked = evidence.significance_threshold * learned.factor;
        // Raised errors are evidence too: both signs together have to pass.
        let errors = evidence.errors.as_ref().filter(|errors| errors.raised).map_or(0.0, |e| e.significance);
        let shown = evidence.significance.hypot(errors);
        let target = learned.pages_per_week;
        evidence.sensitivity = Some(learned);
        if finding.notify && shown < asked {
            finding.verdict = Verdict::Undecided;
            evidence.counterfactual =
                format!("would have notified at {asked:.1} standard deviations; {}", evidence.counterfactual);
            evidence.reason = format!(
                "{}; but {shown:.1} standard deviations are fewer than the {asked:.1} that a target of {target} pages a week \
                 asks of this region by now",
                evidence.reason
            );
            finding.hold();
        } else if let Some(windows) = finding.notify_after.filter(|_| learned.factor < 1.0) {
            // What people are told of only after a long time comes sooner where they want to hear more.
            let sooner = (f64::from(windows) * learned.factor * learned.factor).round().max(1.0);
            finding.notify_after = Some(sooner as u32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;

    fn factor_after(pages_per_day: i64, days: i64, target: f64) -> f64 {
        let targets = BTreeMap::from([("uk".to_owned(), target)]);
        let mut learned = Sensitivities::default();
        learned.begin(WallMs(0), &targets);
        for page in 0..pages_per_day * days {
            learned.page(&["uk".into()], WallMs(page * DAY / pages_per_day.max(1)), &targets);
        }
        learned.factor(&["uk".into()], WallMs(days * DAY), &targets).unwrap().factor
    }

    #[test]
    fn many_pages_raise_the_bar_and_none_lower_it_within_bounds() {
        assert!(factor_after(1, 14, 1.0) > 2.0);
        assert!(factor_after(10, 60, 1.0) <= FACTOR_MAX + 1e-9);
        assert!(factor_after(0, 365, 2.0) >= FACTOR_MIN - 1e-9);
        assert!(factor_after(0, 365, 2.0) < 0.68);
    }

    #[test]
    fn pages_as_often_as_wanted_leave_the_bar_where_it_is() {
        let factor = factor_after(1, 70, 7.0);
        assert!((factor - 1.0).abs() < 0.15, "{factor}");
    }

    #[test]
    fn a_region_without_a_target_learns_nothing() {
        let mut learned = Sensitivities::default();
        assert!(!learned.page(&["uk".into()], WallMs(0), &BTreeMap::new()));
        assert_eq!(learned, Sensitivities::default());
        assert!(learned.factor(&[], WallMs(0), &BTreeMap::new()).is_none());
    }
}
