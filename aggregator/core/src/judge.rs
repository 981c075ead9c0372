//! The judgement of one window: from sums to findings, metric by metric, in order of names.
//!
//! It must never tell anybody; it says what it finds. The hard case is order: regions, cells and metrics are walked by
//! name, so that what arrived first does not show in the result.
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::alarm::{AlarmSeries, Scope};
use crate::correlate::{self, CommonMode, HORIZONS, LONG_KEEP, Point, log_ratio};
use crate::errors::{self, Roles};
use crate::evidence::{Direction, Evidence};
use crate::incident::{Finding, Source};
use crate::journal::Journal;
use crate::region::{Fleet, HISTORY_WINDOWS};
use crate::schedule::{Schedule, Silence};
use crate::scopes::{self, ALL, GROUP, LONG_VARIANCE, Noise, Pooled, ScopeKey, Search};
use crate::settings::{MetricSettings, Role, Settings};
use crate::window::{Deviating, PendingWindow};
use crate::{combine, lone, telemetry, verdict};

/// What the judgement has learned. About 40 bytes for each scope: some seven times the cells.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "StoredMemory", into = "StoredMemory")]
pub struct Memory {
    noise: BTreeMap<ScopeKey, Noise>,
    /// Metrics that had a value between whole numbers: they do not count things.
    measures: BTreeSet<u16>,
}

#[derive(Clone, Serialize, Deserialize)]
struct StoredMemory {
    noise: Vec<(ScopeKey, Noise)>,
    measures: Vec<u16>,
}

impl From<StoredMemory> for Memory {
    fn from(stored: StoredMemory) -> Self {
        Self { noise: stored.noise.into_iter().collect(), measures: stored.measures.into_iter().collect() }
    }
}

impl From<Memory> for StoredMemory {
    fn from(memory: Memory) -> Self {
        Self { noise: memory.noise.into_iter().collect(), measures: memory.measures.into_iter().collect() }
    }
}

/// What the judgement may look at besides the numbers.
pub(crate) struct Case<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) schedule: &'a Schedule,
    pub(crate) silences: &'a [Silence],
    pub(crate) journal: &'a Journal,
    /// Agents known to be silent, by their place among the reporters.
    pub(crate) silent: &'a BTreeSet<u16>,
}

/// One window under judgement.
pub(crate) struct Bench<'a> {
    pub(crate) case: &'a Case<'a>,
    pub(crate) window: &'a PendingWindow,
    /// The regions of the window, in order of their names.
    pub(crate) regions: Vec<u16>,
    roles: Roles,
    groups: BTreeMap<u16, u16>,
    /// Scopes of leftovers that were told and are not over.
    live: BTreeSet<Scope>,
}

/// Judges the regions of `window` together.
pub(crate) fn judge(
    fleet: &mut Fleet,
    memory: &mut Memory,
    case: &Case<'_>,
    window: &PendingWindow,
) -> Vec<Finding> {
    absorb(fleet, memory, window);
    let bench = Bench::new(fleet, case, window);
    let mut findings = Vec::new();
    // Errors first: traffic is weighed against them.
    for metric in bench.roles.errors.clone() {
        findings.extend(bench.judge_metric(fleet, memory, metric));
    }
    for metric in bench.others(fleet) {
        findings.extend(bench.judge_metric(fleet, memory, metric));
    }
    let mut findings = combine::combine(findings, fleet, case.journal);
    findings.extend(lone::judge(fleet, &bench));
    findings.extend(telemetry::missing(fleet, &bench));
    findings.iter_mut().for_each(|finding| silence(finding, case.silences, window));
    findings
}

/// Moves the window's sums into the lattice.
fn absorb(fleet: &mut Fleet, memory: &mut Memory, window: &PendingWindow) {
    for (place, reported) in &window.regions {
        let Some(region) = fleet.regions.get_mut(usize::from(*place)) else { continue };
        region.judged = Some(window.start);
        for series in &mut region.series {
            (series.latest, series.score) = (Default::default(), 0.0);
        }
        for (index, sum) in &reported.sums {
            let Some(series) = region.series.get_mut(*index as usize) else { continue };
            series.latest = *sum;
            series.age = series.age.saturating_add(u32::from(sum.count > 0));
            if sum.observed.fract() != 0.0 {
                memory.measures.insert(series.metric);
            }
            let cell = series.cell;
            region.see(cell, window.start, window.window_ms);
        }
        for deviating in &reported.deviations {
            let Some(series) = region.series.get_mut(deviating.series as usize) else { continue };
            series.score = series.score.max(deviating.score);
            let cell = series.cell;
            region.see(cell, window.start, window.window_ms);
        }
    }
}

/// A silence in force keeps people from being notified; the finding is recorded all the same.
fn silence(finding: &mut Finding, silences: &[Silence], window: &PendingWindow) {
    let Some(silence) = silences.iter().find(|s| s.covers(&finding.scope, window.start)) else { return };
    (finding.notify, finding.notify_after) = (false, None);
    finding.evidence.reason = format!("silenced by {} ({}): {}", silence.author, silence.id, silence.comment);
    finding.evidence.counterfactual = "would have been judged by its numbers without the silence".into();
}

impl<'a> Bench<'a> {
    fn new(fleet: &Fleet, case: &'a Case<'a>, window: &'a PendingWindow) -> Self {
        let of_role = |role: Role| -> Vec<u16> {
            let names = &fleet.names.metrics;
            names
                .sorted()
                .filter(|m| case.settings.metric(names.get(*m)).is_some_and(|s| s.role == role))
                .collect()
        };
        let order = fleet.names.regions.sorted();
        let live = case.journal.iter().filter(|i| i.is_live() && i.source == Source::Leftover);
        Self {
            case,
            window,
            regions: order.filter(|region| window.regions.contains_key(region)).collect(),
            roles: Roles { errors: of_role(Role::Errors), traffic: of_role(Role::Traffic) },
            groups: combine::groups(fleet, &case.settings.depends_on),
            live: live.map(|incident| incident.scope.clone()).collect(),
        }
    }

    /// Metrics with a role other than errors, in order of their names.
    fn others(&self, fleet: &Fleet) -> Vec<u16> {
        let names = &fleet.names.metrics;
        let settings = self.case.settings;
        names
            .sorted()
            .filter(|m| settings.metric(names.get(*m)).is_some_and(|s| s.role != Role::Errors))
            .collect()
    }

    fn judge_metric(&self, fleet: &mut Fleet, memory: &mut Memory, metric: u16) -> Vec<Finding> {
        let Some(settings) = self.case.settings.metric(fleet.names.metrics.get(metric)) else {
            return Vec::new();
        };
        let counts = !memory.measures.contains(&metric);
        let mut points = Vec::new();
        let mut modes = BTreeMap::new();
        for region in &self.regions {
            let mut of_region = self.points(fleet, *region, metric, settings.role, counts);
            let mode = correlate::take_common_mode(&mut of_region);
            self.settle(fleet, *region, metric, &mut of_region, &mode, counts);
            modes.insert(*region, mode);
            points.append(&mut of_region);
        }
        let scopes = scopes::members(metric, &points);
        let judgement = &self.case.settings.judgement;
        let is_live = |key: ScopeKey| self.live.contains(&self.scope(fleet, key, None));
        scopes::learn(&mut memory.noise, &scopes, &points, judgement, &is_live);
        let mut findings = Vec::new();
        for (region, mode) in &modes {
            findings.extend(self.common(fleet, memory, metric, settings, *region, mode, &points));
        }
        let announced = self.announced(fleet);
        let base = if settings.role == Role::Traffic {
            judgement.significance_with_errors
        } else {
            judgement.significance
        };
        let needed = |key: ScopeKey| {
            if is_live(key) { base.min(judgement.significance * judgement.hysteresis) } else { base }
        };
        let (down, up) = (
            verdict::matters(settings.alarm_on, Direction::Drop),
            verdict::matters(settings.alarm_on, Direction::Rise),
        );
        let search = Search {
            noise: &memory.noise,
            settings: judgement,
            announced: &announced,
            needed: &needed,
            residual_min: if settings.role == Role::Errors {
                judgement.large
            } else {
                judgement.residual_min
            },
            directions: (down, up),
        };
        let original = points.clone();
        for pooled in search.explain(&scopes, &mut points) {
            findings.extend(self.leftover(fleet, settings, &modes, &pooled, &original));
        }
        findings
    }

    /// The region's cells of `metric` that take part, by device and stack.
    fn points(&self, fleet: &Fleet, place: u16, metric: u16, role: Role, counts: bool) -> Vec<Point> {
        let Some(region) = fleet.get(place) else { return Vec::new() };
        let young = self.case.settings.judgement.young_windows;
        let mut points = Vec::new();
        for (index, series) in (0u32..).zip(&region.series) {
            let takes_part = series.metric == metric && series.latest.count > 0 && series.age > young;
            let Some(cell) = region.cells.get(series.cell as usize).filter(|_| takes_part) else { continue };
            let factor =
                if role == Role::Errors { self.roles.traffic_factor(region, series.cell) } else { 1.0 };
            let expected = series.latest.expected * factor;
            if expected <= 0.0 {
                continue;
            }
            let (ratio, poisson) = log_ratio(series.latest.observed, expected, counts);
            points.push(Point {
                region: place,
                device: cell.device,
                stack: cell.stack,
                group: self.groups.get(&cell.stack).copied().unwrap_or(cell.stack),
                series: index,
                observed: series.latest.observed,
                expected,
                log_ratio: ratio,
                common_mode: 0.0,
                residual: [0.0; HORIZONS],
                poisson: [poisson; HORIZONS],
                explained: 0.0,
            });
        }
        let names = &fleet.names;
        points.sort_by_key(|p| (names.devices.get(p.device), names.stacks.get(p.stack)));
        points
    }

    /// Remembers the common mode and leftovers of the window, and completes the points with the longer horizon.
    fn settle(
        &self,
        fleet: &mut Fleet,
        place: u16,
        metric: u16,
        points: &mut [Point],
        mode: &CommonMode,
        counts: bool,
    ) {
        let Some(region) = fleet.regions.get_mut(usize::from(place)) else { return };
        let peers = u16::try_from(mode.groups.len()).unwrap_or(u16::MAX);
        region.common_modes.insert(metric, (mode.value, peers));
        for point in points {
            let Some(series) = region.series.get_mut(point.series as usize) else { continue };
            let factor = point.expected / series.latest.expected;
            series.decay(LONG_KEEP, factor * point.common_mode.exp());
            let (long, poisson) = log_ratio(series.long.observed, series.long.expected, counts);
            (point.residual[1], point.poisson[1]) = (long, poisson * LONG_VARIANCE);
            series.residual = point.residual[0];
            series.noise = (point.poisson[0] + 0.01).sqrt();
            series.history.rotate_left(1);
            #[allow(clippy::cast_possible_truncation, reason = "a log ratio within 14 of zero")]
            let latest = point.residual[0] as f32;
            series.history[HISTORY_WINDOWS - 1] = latest;
        }
    }

    /// The least common mode to allow for where the calendar announces an event.
    fn announced(&self, fleet: &Fleet) -> BTreeMap<u16, f64> {
        let least = self.case.settings.judgement.common_mode_min;
        let names = &fleet.names.regions;
        let covered =
            |r: &&u16| self.case.schedule.covering(names.get(**r), self.window.start).next().is_some();
        self.regions.iter().filter(covered).map(|region| (*region, 1.5 * least)).collect()
    }

    fn calendar(&self, fleet: &Fleet, regions: &BTreeSet<u16>) -> Vec<String> {
        let names = regions.iter().map(|region| fleet.names.regions.get(*region));
        let entries = names.flat_map(|name| self.case.schedule.covering(name, self.window.start));
        let described: BTreeSet<String> = entries.map(crate::ScheduleEntry::describe).collect();
        described.into_iter().take(CALENDAR_NAMED_MAX).collect()
    }

    /// The scope of a key by its names; `regions` lists those of a key for all regions where not every one takes part.
    pub(crate) fn scope(&self, fleet: &Fleet, key: ScopeKey, regions: Option<&BTreeSet<u16>>) -> Scope {
        let names = &fleet.names;
        let one = |place: u16, of: &crate::region::Names| {
            if place == ALL { Vec::new() } else { vec![of.get(place).into()] }
        };
        let stack = if key.stack != ALL && key.stack & GROUP != 0 {
            let of_group = self.groups.iter().filter(|(_, group)| **group == key.stack & !GROUP);
            let mut stacks: Vec<String> =
                of_group.map(|(stack, _)| names.stacks.get(*stack).into()).collect();
            stacks.sort();
            stacks
        } else {
            one(key.stack, &names.stacks)
        };
        let region = match regions.filter(|some| key.region == ALL && some.len() < self.regions.len()) {
            Some(some) => {
                let mut region: Vec<String> =
                    some.iter().map(|place| names.regions.get(*place).into()).collect();
                region.sort();
                region
            }
            None => one(key.region, &names.regions),
        };
        Scope { region, device: one(key.device, &names.devices), stack }
    }

    fn leftover(
        &self,
        fleet: &Fleet,
        settings: MetricSettings,
        modes: &BTreeMap<u16, CommonMode>,
        pooled: &Pooled,
        points: &[Point],
    ) -> Option<Finding> {
        let scope = self.scope(fleet, pooled.key, Some(&pooled.regions));
        let metric = fleet.names.metrics.get(pooled.key.metric);
        let members: Vec<&Point> = pooled
            .members
            .iter()
            .map(|i| &points[*i])
            .filter(|p| pooled.regions.contains(&p.region))
            .collect();
        let (observed, expected) =
            members.iter().fold((0.0, 0.0), |sum, p| (sum.0 + p.observed, sum.1 + p.expected));
        let regions: Vec<u16> = pooled.regions.iter().copied().collect();
        let inside: BTreeSet<(u16, u16, u16)> =
            members.iter().map(|p| (p.region, p.device, p.stack)).collect();
        let judgement = &self.case.settings.judgement;
        let thresholds = (judgement.errors_raised, judgement.errors_strongly_raised);
        let counter = settings.role != Role::Errors;
        let errors = counter.then(|| {
            errors::weigh(fleet, &self.roles, &regions, &|r, d, s| inside.contains(&(r, d, s)), thresholds)
        });
        let groups: BTreeSet<u16> = members.iter().map(|p| p.group).collect();
        let mut evidence = Evidence {
            metric: metric.into(),
            metric_is_traffic: settings.role == Role::Traffic,
            observed,
            expected,
            log_ratio: log_ratio(observed, expected, true).0,
            common_mode: pooled.common_mode,
            residual: pooled.shift,
            tolerance: pooled.deviation * judgement.significance,
            significance: pooled.significance,
            significance_threshold: judgement.significance,
            peers: self.peers(fleet, modes, &pooled.regions, &groups, pooled.key),
            errors: errors.flatten(),
            calendar: self.calendar(fleet, &pooled.regions),
            score: self.score(fleet, &inside, pooled.key.metric),
            ..Evidence::nothing(Direction::of(pooled.shift))
        };
        let ruling = verdict::rule_leftover(&evidence, settings.role, judgement)?;
        (evidence.reason, evidence.counterfactual) = (ruling.reason, ruling.counterfactual);
        Some(Finding {
            source: Source::Leftover,
            severity: verdict::severity(&scope, &evidence, ruling.notify),
            scope,
            verdict: ruling.verdict,
            notify: ruling.notify,
            notify_after: ruling.notify_after,
            at_once: ruling.at_once,
            weight: pooled.gain,
            started_at: self.window.start,
            evidence,
            series: self.series(fleet, &members, metric),
        })
    }

    /// The independent stacks that a scope was compared with, dependent ones joined.
    fn peers(
        &self,
        fleet: &Fleet,
        modes: &BTreeMap<u16, CommonMode>,
        regions: &BTreeSet<u16>,
        own: &BTreeSet<u16>,
        key: ScopeKey,
    ) -> Vec<String> {
        let mut groups = BTreeSet::new();
        let mut by_device = false;
        for mode in regions.iter().filter_map(|region| modes.get(region)) {
            groups.extend(mode.groups.iter().copied());
            by_device |= mode.by_device;
        }
        // A device that fails on every stack is compared with the other devices of the same stacks.
        let whole_device = key.stack == ALL && groups.len() > 1;
        let others = groups.iter().filter(|group| whole_device || by_device || !own.contains(*group));
        let mut peers: Vec<String> = others.map(|group| self.group_name(fleet, *group)).collect();
        if by_device && key.device == ALL {
            peers.clear();
        }
        peers.sort();
        peers
    }

    fn group_name(&self, fleet: &Fleet, group: u16) -> String {
        let members = self.groups.iter().filter(|(_, of)| **of == group).map(|(stack, _)| *stack);
        let mut names: Vec<&str> = members.map(|stack| fleet.names.stacks.get(stack)).collect();
        names.sort_unstable();
        names.join("+")
    }

    fn score(&self, fleet: &Fleet, inside: &BTreeSet<(u16, u16, u16)>, metric: u16) -> f64 {
        let mut score: f64 = 0.0;
        for place in &self.regions {
            let Some(region) = fleet.get(*place) else { continue };
            for series in region.series.iter().filter(|s| s.metric == metric) {
                let cell = &region.cells[series.cell as usize];
                if inside.contains(&(*place, cell.device, cell.stack)) {
                    score = score.max(series.score);
                }
            }
        }
        score
    }

    /// The series of the cells, the largest difference first, with the deviations that their agents saw.
    fn series(&self, fleet: &Fleet, members: &[&Point], metric: &str) -> Vec<AlarmSeries> {
        let mut series = Vec::new();
        for point in members {
            let Some(reported) = self.window.regions.get(&point.region) else { continue };
            let deviating: Vec<&Deviating> =
                reported.deviations.iter().filter(|d| d.series == point.series).collect();
            let best = deviating.iter().map(|d| d.score).fold(0.0, f64::max);
            series.push(AlarmSeries {
                measurement: metric.into(),
                tags: self.tags(fleet, point.region, point.device, point.stack, ""),
                observed: point.observed,
                expected: point.expected,
                score: best,
            });
        }
        let size = |s: &AlarmSeries| (s.observed - s.expected).abs();
        series.sort_by(|a, b| size(b).total_cmp(&size(a)).then_with(|| a.tags.cmp(&b.tags)));
        series.truncate(self.case.settings.limits.series_per_alarm_max);
        series
    }

    /// The tags of a series: its dimensions, and `further` in canonical form.
    pub(crate) fn tags(
        &self,
        fleet: &Fleet,
        region: u16,
        device: u16,
        stack: u16,
        further: &str,
    ) -> BTreeMap<String, String> {
        let keys = &self.case.settings.dimensions;
        let names = &fleet.names;
        let cell = [
            (&keys.region, names.regions.get(region)),
            (&keys.device, names.devices.get(device)),
            (&keys.stack, names.stacks.get(stack)),
        ];
        let cell =
            cell.into_iter().filter(|(_, value)| !value.is_empty()).map(|(k, v)| (k.clone(), v.to_string()));
        let further =
            further.split(',').filter_map(|tag| tag.split_once('=')).map(|(k, v)| (k.into(), v.into()));
        cell.chain(further).collect()
    }

    /// The finding about what the independent stacks of a region share, if it is large enough.
    #[allow(clippy::too_many_arguments, reason = "one metric of one region, with what was found of it")]
    fn common(
        &self,
        fleet: &Fleet,
        memory: &mut Memory,
        metric: u16,
        settings: MetricSettings,
        place: u16,
        mode: &CommonMode,
        points: &[Point],
    ) -> Option<Finding> {
        let judgement = &self.case.settings.judgement;
        let members: Vec<&Point> = points.iter().filter(|p| p.region == place).collect();
        let counting = members.iter().map(|p| 1.0 / p.poisson[0].max(1e-9)).sum::<f64>().max(1e-9).recip();
        let key = ScopeKey { metric, region: place, device: ALL, stack: ALL };
        let noise = memory.noise.entry(key).or_default();
        let deviation = (noise.variance(0) + 2.0 * counting).sqrt();
        noise.learn([mode.value; HORIZONS], [2.0 * counting; HORIZONS], judgement.noise_half_life_windows);
        let significance = mode.value.abs() / deviation;
        let comparable = mode.groups.len() > 1 || mode.by_device;
        let least = if settings.role == Role::Errors {
            judgement.errors_strongly_raised
        } else {
            judgement.common_mode_min
        };
        if !comparable || mode.value.abs() < least || significance < judgement.significance {
            return None;
        }
        let regions = BTreeSet::from([place]);
        let (observed, expected) =
            members.iter().fold((0.0, 0.0), |sum, p| (sum.0 + p.observed, sum.1 + p.expected));
        let thresholds = (judgement.errors_raised, judgement.errors_strongly_raised);
        let errors = errors::weigh(fleet, &self.roles, &[place], &|_, _, _| true, thresholds);
        let mut evidence = Evidence {
            metric: fleet.names.metrics.get(metric).into(),
            metric_is_traffic: settings.role == Role::Traffic,
            observed,
            expected,
            log_ratio: log_ratio(observed, expected, true).0,
            common_mode: mode.value,
            tolerance: deviation * judgement.significance,
            significance,
            significance_threshold: judgement.significance,
            peers: self.peers(
                fleet,
                &BTreeMap::from([(place, mode.clone())]),
                &regions,
                &BTreeSet::new(),
                ScopeKey { device: 0, ..key },
            ),
            errors,
            calendar: self.calendar(fleet, &regions),
            ..Evidence::nothing(Direction::of(mode.value))
        };
        let ruling = verdict::rule_common(&evidence, settings.alarm_on, judgement);
        let scope = self.scope(fleet, key, None);
        (evidence.reason, evidence.counterfactual) = (ruling.reason, ruling.counterfactual);
        Some(Finding {
            source: Source::Common,
            severity: verdict::severity(&scope, &evidence, ruling.notify),
            scope,
            verdict: ruling.verdict,
            notify: ruling.notify,
            notify_after: ruling.notify_after,
            at_once: ruling.at_once,
            weight: significance,
            started_at: self.window.start,
            series: self.series(fleet, &members, &evidence.metric),
            evidence,
        })
    }
}

/// Calendar entries named in one evidence.
const CALENDAR_NAMED_MAX: usize = 5;
