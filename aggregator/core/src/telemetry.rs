//! Telemetry that is missing: agents that do not speak, cells that used to report and no longer do, and series that
//! are silent or stuck in cells that report.
//!
//! It must never read a gap as a drop. The hard case is a cell that reports now and then: it is missing only after a
//! gap much longer than the gaps that are usual for it.
use std::collections::{BTreeMap, BTreeSet};

use vedette_common::WallMs;
use vedette_common::wire::{Phase, Scorer};

use crate::alarm::{AlarmSeries, Scope, Severity, Verdict};
use crate::evidence::{Direction, Evidence, MissingEvidence};
use crate::incident::{Finding, SinceRuled, Source};
use crate::instant::Instant;
use crate::judge::Bench;
use crate::region::{Cell, Fleet, Names, Region};
use crate::session::Session;
use crate::settings::Timing;
use crate::window::Deviating;

/// The finding about an agent that is silent.
pub(crate) fn silent(session: &Session) -> Finding {
    let region: Vec<String> = session.regions.keys().cloned().collect();
    let missing = MissingEvidence {
        agent: session.agent.as_str().into(),
        last_seen_at: Instant(session.last_heard_at),
        cells: 0,
    };
    Finding {
        source: Source::Silent,
        scope: Scope { region, ..Scope::default() },
        verdict: Verdict::DataFault,
        notify: true,
        notify_after: None,
        at_once: true,
        weight: 1.0,
        severity: Severity::Warning,
        started_at: session.last_heard_at,
        evidence: Evidence {
            reason: "the agent has sent neither summary nor heartbeat".into(),
            counterfactual: "would have resolved had the agent spoken".into(),
            missing: Some(missing),
            ..Evidence::nothing(Direction::Drop)
        },
        series: Vec::new(),
        since_ruled: SinceRuled::default(),
    }
}

/// Windows in a row that a cell must have been reported in before a gap means anything.
const STREAK_MIN: u16 = 20;
/// A gap is missing data once it is this many times as long as usual for the cell.
const GAP_FACTOR: i64 = 4;
/// A cell without data for this many windows is gone for good.
const GONE_WINDOWS: i64 = 2016;
/// A gap is usual for a cell that reported for at most this many times as long before it.
const USUAL_RUN_FACTOR: i64 = 8;

impl Region {
    /// `cell` was reported in the window that begins at `start`.
    pub(crate) fn see(&mut self, cell: u32, start: WallMs, window_ms: u32) {
        let Some(cell) = self.cells.get_mut(cell as usize) else { return };
        if cell.seen >= start {
            return;
        }
        let gap = start.ms_since(cell.seen) / i64::from(window_ms.max(1)) - 1;
        if gap > 0 {
            if cell.streak > 0 && i64::from(cell.run) <= USUAL_RUN_FACTOR * gap {
                cell.usual_gap = cell.usual_gap.max(u16::try_from(gap).unwrap_or(u16::MAX));
            }
            cell.run = 0;
        }
        cell.run = cell.run.saturating_add(1);
        if gap > GONE_WINDOWS {
            cell.streak = 0;
        }
        cell.streak = cell.streak.saturating_add(1);
        cell.seen = start;
    }

    fn is_missing(&self, cell: &Cell, start: WallMs, timing: &Timing) -> bool {
        let gap_ms = start.ms_since(cell.seen);
        if cell.streak < STREAK_MIN || gap_ms < timing.silent_after_ms {
            return false;
        }
        let gap = gap_ms / i64::from(self.window_ms.max(1));
        let long = timing.silent_after_windows.max(GAP_FACTOR * i64::from(cell.usual_gap));
        gap >= long && gap <= GONE_WINDOWS
    }
}

/// Findings about cells that used to report and no longer do, one for each region and agent that reported them.
pub(crate) fn missing(fleet: &Fleet, bench: &Bench<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for place in &bench.regions {
        let Some(region) = fleet.get(*place) else { continue };
        let timing = &bench.case.settings.timing;
        let mut by_reporter: BTreeMap<&str, Vec<&Cell>> = BTreeMap::new();
        let gone = region.cells.iter().filter(|c| region.is_missing(c, bench.window.start, timing));
        for cell in gone.filter(|c| !bench.case.silent.contains(&c.reporter)) {
            let reporter = fleet.names.reporters.get(cell.reporter);
            if !bench.window.ahead.iter().any(|agent| agent.as_str() == reporter) {
                by_reporter.entry(reporter).or_default().push(cell);
            }
        }
        findings
            .extend(by_reporter.into_iter().map(|(agent, cells)| find_missing(fleet, region, agent, &cells)));
    }
    findings
}

fn find_missing(fleet: &Fleet, region: &Region, agent: &str, cells: &[&Cell]) -> Finding {
    let dimension = |of: fn(&Cell) -> u16, names: &Names| -> Vec<String> {
        let every: BTreeSet<u16> = region.cells.iter().map(of).collect();
        let some: BTreeSet<u16> = cells.iter().map(|c| of(c)).collect();
        let mut listed: Vec<String> = some.iter().map(|place| names.get(*place).into()).collect();
        listed.sort();
        if some.len() == every.len() && every.len() > 1 { Vec::new() } else { listed }
    };
    let last_seen = cells.iter().map(|c| c.seen).max().unwrap_or_default();
    Finding {
        source: Source::Missing,
        scope: Scope {
            region: vec![region.name.clone()],
            device: dimension(|c| c.device, &fleet.names.devices),
            stack: dimension(|c| c.stack, &fleet.names.stacks),
        },
        verdict: Verdict::DataFault,
        notify: true,
        notify_after: None,
        at_once: true,
        weight: cells.len() as f64,
        severity: Severity::Warning,
        started_at: last_seen.plus_ms(i64::from(region.window_ms)),
        evidence: Evidence {
            reason:
                "cells that used to report send no data; a gap is no drop, so their traffic is not judged"
                    .into(),
            counterfactual: "would have resolved had the cells reported".into(),
            missing: Some(MissingEvidence {
                agent: agent.into(),
                last_seen_at: Instant(last_seen),
                cells: cells.len(),
            }),
            ..Evidence::nothing(Direction::Drop)
        },
        series: Vec::new(),
        since_ruled: SinceRuled::default(),
    }
}

/// Findings about series that their agents found silent or stuck: one for each cell. They are never judged as a drop of
/// traffic, and a single series notifies nobody: a cell of which nothing comes is found by [`missing`].
pub(crate) fn unwell(fleet: &Fleet, bench: &Bench<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for place in &bench.regions {
        let (Some(region), Some(reported)) = (fleet.get(*place), bench.window.regions.get(place)) else {
            continue;
        };
        let mut by_cell: BTreeMap<(&str, &str), Vec<&Deviating>> = BTreeMap::new();
        let lasting = |d: &&Deviating| d.phase != Phase::Ended && !d.scorer.trusts_values();
        for deviating in reported.deviations.iter().filter(lasting) {
            let Some(series) = region.series.get(deviating.series as usize) else { continue };
            let cell = &region.cells[series.cell as usize];
            let names = (fleet.names.devices.get(cell.device), fleet.names.stacks.get(cell.stack));
            by_cell.entry(names).or_default().push(deviating);
        }
        let found = by_cell
            .into_iter()
            .filter_map(|(names, deviations)| find_unwell(fleet, bench, (*place, region), names, deviations));
        findings.extend(found);
    }
    findings
}

fn find_unwell(
    fleet: &Fleet,
    bench: &Bench<'_>,
    (place, region): (u16, &Region),
    (device, stack): (&str, &str),
    mut deviations: Vec<&Deviating>,
) -> Option<Finding> {
    let metric = |d: &Deviating| fleet.names.metrics.get(region.series[d.series as usize].metric);
    deviations.sort_by(|a, b| (metric(a), &a.tags).cmp(&(metric(b), &b.tags)));
    let first = *deviations.first()?;
    let cell = &region.cells[region.series[first.series as usize].cell as usize];
    let silent = deviations.iter().filter(|d| d.scorer == Scorer::Silence).count();
    let stuck = deviations.len() - silent;
    let most = bench.case.settings.limits.series_per_alarm_max;
    let series = deviations.iter().take(most).map(|d| AlarmSeries {
        measurement: metric(d).into(),
        tags: bench.tags(fleet, place, cell.device, cell.stack, &d.tags),
        observed: d.observed,
        expected: d.expected,
        score: d.score,
    });
    Some(Finding {
        source: Source::Unwell,
        scope: Scope {
            region: vec![region.name.clone()],
            device: vec![device.into()],
            stack: vec![stack.into()],
        },
        verdict: Verdict::DataFault,
        notify: false,
        notify_after: None,
        at_once: false,
        weight: deviations.len() as f64,
        severity: Severity::Info,
        started_at: deviations.iter().map(|d| d.onset_at).min().unwrap_or(bench.window.start),
        series: series.collect(),
        since_ruled: SinceRuled::default(),
        evidence: Evidence {
            reason: format!(
                "{silent} series silent and {stuck} stuck at one value in a cell that reports: a fault of the telemetry, \
                 left out of the cell's sums and never read as a drop"
            ),
            counterfactual: "would have notified had the whole cell been missing".into(),
            ..Evidence::nothing(Direction::Drop)
        },
    })
}
