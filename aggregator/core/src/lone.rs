//! Deviations of series that cannot be compared: metrics without a role in the config.
//!
//! It must never page for a spike. The hard case is an installation without any config: what deviates is shown, held
//! back as undecided, and told only when it is both extreme and lasting.
use std::collections::BTreeMap;

use vedette_common::wire::Phase;

use crate::alarm::{AlarmSeries, Scope, Severity, Verdict};
use crate::correlate::log_ratio;
use crate::evidence::{Direction, Evidence};
use crate::incident::{Finding, SinceRuled, Source};
use crate::judge::Bench;
use crate::region::{Fleet, Region};
use crate::window::Deviating;

/// One finding for each cell that has a deviation of a metric without a role.
pub(crate) fn judge(fleet: &Fleet, bench: &Bench<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let of_metric = |metric: u16| bench.case.settings.metric(fleet.names.metrics.get(metric));
    let metrics = (0..=u16::MAX).take(fleet.names.metrics.len());
    let has_role: Vec<bool> = metrics.map(|metric| of_metric(metric).is_some()).collect();
    for place in &bench.regions {
        let (Some(region), Some(reported)) = (fleet.get(*place), bench.window.regions.get(place)) else {
            continue;
        };
        let mut by_cell: BTreeMap<(&str, &str), Vec<&Deviating>> = BTreeMap::new();
        let lasting = |d: &&Deviating| d.phase != Phase::Ended && d.scorer.trusts_values();
        for deviating in reported.deviations.iter().filter(lasting) {
            let Some((cell, metric)) = region.series_key(deviating.series) else { continue };
            if !has_role.get(usize::from(metric)).is_some_and(|has_role| *has_role) {
                let cell = &region.cells[cell as usize];
                let names = (fleet.names.devices.get(cell.device), fleet.names.stacks.get(cell.stack));
                by_cell.entry(names).or_default().push(deviating);
            }
        }
        findings.extend(
            by_cell.into_values().filter_map(|deviations| find(fleet, bench, (*place, region), deviations)),
        );
    }
    findings
}

fn find(
    fleet: &Fleet,
    bench: &Bench<'_>,
    (place, region): (u16, &Region),
    mut deviations: Vec<&Deviating>,
) -> Option<Finding> {
    let metric = |d: &Deviating| fleet.names.metrics.get(region.series[d.series as usize].metric);
    deviations.sort_by(|a, b| {
        b.score.total_cmp(&a.score).then_with(|| (metric(a), &a.tags).cmp(&(metric(b), &b.tags)))
    });
    let worst = *deviations.first()?;
    let cell = &region.cells[region.series[worst.series as usize].cell as usize];
    let (device, stack) = (fleet.names.devices.get(cell.device), fleet.names.stacks.get(cell.stack));
    let settings = bench.case.settings;
    let lasting_ms = i64::from(bench.window.window_ms) * i64::from(settings.judgement.lone_windows);
    let lasts = bench.window.end().ms_since(worst.onset_at) >= lasting_ms;
    let notify = lasts && worst.score >= settings.judgement.lone_score;
    let direction = if worst.observed < worst.expected { Direction::Drop } else { Direction::Rise };
    let series = deviations.iter().take(settings.limits.series_per_alarm_max).map(|d| AlarmSeries {
        measurement: metric(d).into(),
        tags: bench.tags(fleet, place, cell.device, cell.stack, &d.tags),
        observed: d.observed,
        expected: d.expected,
        score: d.score,
    });
    let scope =
        Scope { region: vec![region.name.clone()], device: vec![device.into()], stack: vec![stack.into()] };
    Some(Finding {
        source: Source::Lone,
        scope,
        verdict: if notify { Verdict::Malfunction } else { Verdict::Undecided },
        notify,
        notify_after: None,
        at_once: false,
        weight: worst.score,
        severity: if notify { Severity::Warning } else { Severity::Info },
        started_at: worst.onset_at.min(bench.window.start),
        series: series.collect(),
        since_ruled: SinceRuled::default(),
        evidence: Evidence {
            metric: metric(worst).into(),
            observed: worst.observed,
            expected: worst.expected,
            log_ratio: log_ratio(worst.observed, worst.expected, false).0,
            score: worst.score,
            reason: "the metric has no role in the config, so the series is judged by its own scores alone"
                .into(),
            counterfactual: format!(
                "would have notified at a score of {} for {} windows, or by a role in the config",
                settings.judgement.lone_score, settings.judgement.lone_windows
            ),
            ..Evidence::nothing(direction)
        },
    })
}
