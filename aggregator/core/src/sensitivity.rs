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
use crate::evidence::{SensitivityEvidence, round};
use crate::incident::{Finding, Source};
use crate::settings::{Judgement, Settings};
use crate::verdict;

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
            // Time that was counted once is not counted again, however late a window comes.
            *known = Sensitivity { level, at: at.max(known.at) };
            learned = true;
        }
        learned
    }

    /// Begins to count time for regions with a target that were never paged, and forgets those whose target was taken
    /// out of the config. Says whether there were any.
    pub(crate) fn begin(&mut self, at: WallMs, targets: &BTreeMap<String, f64>) -> bool {
        let known = self.regions.len();
        self.regions.retain(|name, _| targets.contains_key(name));
        let kept = self.regions.len();
        for name in targets.keys() {
            self.regions.entry(name.clone()).or_insert(Sensitivity { level: 0.0, at });
        }
        kept != known || self.regions.len() != kept
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
            // As it is written, so that what is decided can be decided again from what was written.
            SensitivityEvidence { factor: round(level.exp()), pages_per_week: round(*target) }
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
        ask(finding, learned, &settings.judgement);
    }
}

/// Asks of `finding` what `learned` says, and holds it back where it shows less.
pub(crate) fn ask(finding: &mut Finding, learned: SensitivityEvidence, judgement: &Judgement) {
    let evidence = &mut finding.evidence;
    let asked = evidence.significance_threshold * learned.factor;
    // What confirms it is evidence too: both signs together have to pass.
    let shown = evidence.significance.hypot(verdict::confirming(evidence, judgement));
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
    } else if let Some(windows) = finding.notify_after {
        // What people are told of only after a long time comes sooner where they want to hear more, later where less.
        let patience = (f64::from(windows) * learned.factor * learned.factor).round().max(1.0);
        finding.notify_after = Some(patience as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alarm::{Scope, Severity};
    use crate::evidence::{Direction, ErrorEvidence, Evidence};
    use crate::incident::SinceRuled;

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

    fn drop_of(significance: f64) -> Finding {
        let errors = ErrorEvidence {
            metric: "errors".into(),
            inside: 0.0,
            outside: 0.0,
            significance: 0.0,
            threshold: 0.4,
            raised: false,
        };
        let latency =
            ErrorEvidence { metric: "p95".into(), significance: 5.5, raised: true, ..errors.clone() };
        Finding {
            source: Source::Leftover,
            scope: Scope { region: vec!["uk".into()], ..Scope::default() },
            verdict: Verdict::Malfunction,
            notify: true,
            notify_after: None,
            at_once: false,
            weight: 1.0,
            severity: Severity::Warning,
            started_at: WallMs(0),
            evidence: Evidence {
                metric_is_traffic: true,
                residual: -0.4,
                significance,
                significance_threshold: 4.5,
                errors: Some(errors),
                latency: Some(latency),
                ..Evidence::nothing(Direction::Drop)
            },
            series: Vec::new(),
            since_ruled: SinceRuled::default(),
        }
    }

    /// The finding after a target of a page a week whose region paged `pages` times today.
    fn asked(pages: i64, mut finding: Finding) -> Finding {
        let pages_per_week = BTreeMap::from([("uk".to_owned(), 1.0)]);
        let settings = Settings { pages_per_week, ..Settings::default() };
        let mut learned = Sensitivities::default();
        learned.begin(WallMs(0), &settings.pages_per_week);
        for _ in 0..pages {
            learned.page(&["uk".into()], WallMs(0), &settings.pages_per_week);
        }
        learned.apply(&mut finding, &settings);
        finding
    }

    #[test]
    fn a_target_alone_changes_no_decision() {
        let confirmed = asked(0, drop_of(3.5));
        assert!(confirmed.notify, "latency confirms it: {}", confirmed.evidence.reason);
        assert_eq!(confirmed.verdict, Verdict::Malfunction);
        assert_eq!(confirmed.evidence.sensitivity.map(|it| it.factor), Some(1.0));
    }

    #[test]
    fn more_pages_than_wanted_ask_for_more_and_say_so() {
        let held = asked(10, drop_of(6.0));
        assert!(!held.notify && held.since_ruled.held);
        assert_eq!((held.verdict, held.severity), (Verdict::Undecided, Severity::Info));
        assert!(held.evidence.reason.contains("8.1 standard deviations are fewer than the 13.5"));
        assert!(asked(10, drop_of(16.0)).notify);
    }

    #[test]
    fn patience_grows_with_the_bar() {
        let patient = || Finding { notify: false, notify_after: Some(48), ..drop_of(6.0) };
        assert_eq!(asked(0, patient()).notify_after, Some(48));
        assert_eq!(asked(10, patient()).notify_after, Some(432));
    }

    #[test]
    fn time_is_counted_once_however_late_a_page_comes() {
        let targets = BTreeMap::from([("uk".to_owned(), 2.0)]);
        let uk = ["uk".to_owned()];
        let mut learned = Sensitivities::default();
        learned.begin(WallMs(0), &targets);
        learned.page(&uk, WallMs(14 * DAY), &targets);
        learned.page(&uk, WallMs(DAY), &targets);
        learned.page(&uk, WallMs(14 * DAY), &targets);
        let level = learned.regions["uk"].level;
        // Two weeks lower it to the bound; the three pages come after that.
        assert!((level - (FACTOR_MIN.ln() + 3.0 * STEP)).abs() < 1e-9, "{level}");
    }

    #[test]
    fn a_region_whose_target_is_gone_is_forgotten_with_the_next_window() {
        let mut learned = Sensitivities::default();
        assert!(learned.begin(WallMs(0), &BTreeMap::from([("uk".to_owned(), 2.0)])));
        assert!(learned.begin(WallMs(1), &BTreeMap::new()));
        assert_eq!(learned, Sensitivities::default());
    }
}
