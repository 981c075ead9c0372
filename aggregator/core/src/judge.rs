//! The judgement of one window: from sums to findings, metric by metric, in order of names.
//!
//! It must never tell anybody; it says what it finds. The hard case is order: regions, cells and metrics are walked by
//! name, so that what arrived first does not show in the result.
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use vedette_common::wire::Scorer;

use crate::alarm::Scope;
use crate::correlate::{self, CommonMode, HORIZONS, LONG_KEEP, Point, log_ratio};
use crate::errors::Roles;
use crate::evidence::Direction;
use crate::incident::{Finding, Source};
use crate::journal::Journal;
use crate::region::{Fleet, HISTORY_WINDOWS, Names};
use crate::schedule::Schedule;
use crate::scopes::{self, ALL, GROUP, LONG_VARIANCE, Membership, Noise, ScopeKey, Search};
use crate::settings::{MetricSettings, Role, Settings};
use crate::window::PendingWindow;
use crate::{combine, lone, telemetry, verdict};

/// What the judgement has learned. About 40 bytes for each scope: some seven times the cells.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "StoredMemory", into = "StoredMemory")]
pub struct Memory {
    noise: BTreeMap<ScopeKey, Noise>,
    /// Metrics that had a value between whole numbers: they do not count things.
    measures: BTreeSet<u16>,
    /// The scopes of each metric as they were in its latest window; not stored.
    memberships: BTreeMap<u16, Membership>,
}

#[derive(Clone, Serialize, Deserialize)]
struct StoredMemory {
    noise: Vec<(ScopeKey, Noise)>,
    measures: Vec<u16>,
}

impl From<StoredMemory> for Memory {
    fn from(stored: StoredMemory) -> Self {
        Self {
            noise: stored.noise.into_iter().collect(),
            measures: stored.measures.into_iter().collect(),
            memberships: BTreeMap::new(),
        }
    }
}

impl PartialEq for Memory {
    fn eq(&self, other: &Self) -> bool {
        self.noise == other.noise && self.measures == other.measures
    }
}

impl From<Memory> for StoredMemory {
    fn from(memory: Memory) -> Self {
        Self { noise: memory.noise.into_iter().collect(), measures: memory.measures.into_iter().collect() }
    }
}

impl Memory {
    /// Takes in a stored part.
    pub(crate) fn merge(&mut self, part: Self) {
        self.noise.extend(part.noise);
        self.measures.extend(part.measures);
    }

    /// What was learned of the regions `regions`, by region, with its name as a part of the state. What belongs to
    /// several regions stands in a part of its own.
    pub(crate) fn parts(&self, regions: &BTreeSet<u16>) -> BTreeMap<String, Self> {
        let mut parts: BTreeMap<u16, Self> =
            regions.iter().map(|region| (*region, Self::default())).collect();
        parts.insert(ALL, Self { measures: self.measures.clone(), ..Self::default() });
        for (key, noise) in &self.noise {
            if let Some(part) = parts.get_mut(&key.region) {
                part.noise.insert(*key, *noise);
            }
        }
        let name = |region: u16| if region == ALL { "memory/all".into() } else { format!("memory/{region}") };
        parts.into_iter().map(|(region, part)| (name(region), part)).collect()
    }

    /// Every region that something was learned of.
    pub(crate) fn regions(&self) -> BTreeSet<u16> {
        self.noise.keys().map(|key| key.region).collect()
    }
}

/// What the judgement may look at besides the numbers.
pub(crate) struct Case<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) schedule: &'a Schedule,
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
    pub(crate) roles: Roles,
    /// The group of each stack.
    pub(crate) groups: BTreeMap<u16, u16>,
    /// The rank of each device's and each stack's name.
    ranks: (Vec<u16>, Vec<u16>),
    /// Scopes of leftovers that were told and are not over: region, device, stack or group.
    live: BTreeSet<[u16; 3]>,
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
    findings.extend(telemetry::unwell(fleet, &bench));
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
        for (index, sum) in reported.sums.iter() {
            let Some(series) = region.series.get_mut(index as usize) else { continue };
            series.latest = sum;
            series.age = series.age.saturating_add(u32::from(sum.count > 0));
            if sum.observed.fract() != 0.0 {
                memory.measures.insert(series.metric);
            }
            let cell = series.cell;
            region.see(cell, window.start, window.window_ms);
        }
        // A silence is said by the agent, not by the cell: it does not make the cell seen.
        for deviating in reported.deviations.iter().filter(|d| d.scorer != Scorer::Silence) {
            let Some(series) = region.series.get_mut(deviating.series as usize) else { continue };
            if deviating.scorer.trusts_values() {
                series.score = series.score.max(deviating.score);
            }
            let cell = series.cell;
            region.see(cell, window.start, window.window_ms);
        }
    }
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
        let groups = combine::groups(fleet, &case.settings.depends_on);
        let live = case.journal.iter().filter(|i| i.is_live() && i.source == Source::Leftover);
        Self {
            case,
            window,
            ranks: (fleet.names.devices.ranks(), fleet.names.stacks.ranks()),
            regions: order.filter(|region| window.regions.contains_key(region)).collect(),
            roles: Roles { errors: of_role(Role::Errors), traffic: of_role(Role::Traffic) },
            live: live.filter_map(|incident| places(fleet, &groups, &incident.scope)).collect(),
            groups,
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
            settle(fleet, *region, metric, &mut of_region, &mode, counts);
            modes.insert(*region, mode);
            points.append(&mut of_region);
        }
        let mut findings = Vec::new();
        for (region, mode) in &modes {
            let key = ScopeKey { metric, region: *region, device: ALL, stack: ALL };
            let noise = memory.noise.entry(key).or_default();
            findings.extend(self.common(fleet, noise, settings, key, mode, &points));
        }
        findings.extend(self.leftovers(fleet, memory, metric, settings, &modes, points));
        findings
    }

    /// Searches what is left over for the scopes that explain it.
    fn leftovers(
        &self,
        fleet: &Fleet,
        memory: &mut Memory,
        metric: u16,
        settings: MetricSettings,
        modes: &BTreeMap<u16, CommonMode>,
        mut points: Vec<Point>,
    ) -> Vec<Finding> {
        let judgement = &self.case.settings.judgement;
        let mut membership = memory.memberships.remove(&metric).unwrap_or_default();
        let scopes = membership.of(metric, &points);
        let is_live = |key: ScopeKey| self.live.contains(&[key.region, key.device, key.stack]);
        scopes::learn(&mut memory.noise, scopes, &points, judgement, &is_live);
        let allowed = self.allowed(fleet, metric);
        let base = match settings.role {
            Role::Traffic => judgement.significance_with_errors,
            Role::Errors | Role::Latency | Role::Saturation => judgement.significance,
        };
        let lower = base.min(judgement.significance * judgement.hysteresis);
        let matters = |direction| verdict::matters(settings.alarm_on, direction);
        let search = Search {
            noise: &scopes::noises(&memory.noise, scopes),
            settings: judgement,
            allowed: &allowed,
            needed: &|key| if is_live(key) { lower } else { base },
            residual_min: if settings.role == Role::Errors {
                judgement.large
            } else {
                judgement.residual_min
            },
            directions: (matters(Direction::Drop), matters(Direction::Rise)),
        };
        let original = points.clone();
        let found = search.explain(scopes, &mut points);
        memory.memberships.insert(metric, membership);
        found.iter().filter_map(|pooled| self.leftover(fleet, settings, modes, pooled, &original)).collect()
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
        let (devices, stacks) = &self.ranks;
        points.sort_by_key(|p| (devices[usize::from(p.device)], stacks[usize::from(p.stack)]));
        points
    }

    /// The least common mode to allow for: what lingers of one, more where the calendar announces an event.
    fn allowed(&self, fleet: &Fleet, metric: u16) -> Vec<Option<f64>> {
        let announced = 1.5 * self.case.settings.judgement.common_mode_min;
        let names = &fleet.names.regions;
        let least = |place: &u16| {
            let region = fleet.get(*place)?;
            let lingering = region.common_modes.get(&metric).map_or(0.0, |shared| shared.lingering);
            let covered = self.case.schedule.covering(names.get(*place), self.window.start).next().is_some();
            Some(lingering.max(if covered { announced } else { 0.0 }))
        };
        let mut allowed = vec![None; fleet.regions.len()];
        self.regions.iter().for_each(|place| allowed[usize::from(*place)] = least(place));
        allowed
    }

    /// Whether an event that was told is not over in one of `regions`.
    pub(crate) fn has_live_event(&self, fleet: &Fleet, regions: &BTreeSet<u16>) -> bool {
        let names = &fleet.names.regions;
        let common = self.case.journal.iter().filter(|i| i.source == Source::Common && i.is_live());
        let mut places =
            common.flat_map(|incident| &incident.scope.region).filter_map(|name| names.find(name));
        places.any(|place| regions.contains(&place))
    }
}

/// The places of a scope with at most one region and one device, and one stack, a whole group or all; the inverse of
/// [`Bench::scope`].
fn places(fleet: &Fleet, groups: &BTreeMap<u16, u16>, scope: &Scope) -> Option<[u16; 3]> {
    let names = &fleet.names;
    let one = |listed: &[String], of: &Names| match listed {
        [] => Some(ALL),
        [name] => of.find(name),
        _ => None,
    };
    let stack = match scope.stack.as_slice() {
        [first, _, ..] => {
            let group = *groups.get(&names.stacks.find(first)?)?;
            let members = groups.iter().filter(|(_, of)| **of == group).map(|(stack, _)| *stack);
            let members: BTreeSet<&str> = members.map(|stack| names.stacks.get(stack)).collect();
            members.iter().eq(&scope.stack).then_some(GROUP | group)?
        }
        few => one(few, &names.stacks)?,
    };
    Some([one(&scope.region, &names.regions)?, one(&scope.device, &names.devices)?, stack])
}

/// Remembers the common mode and leftovers of the window, and completes the points with the longer horizon.
fn settle(fleet: &mut Fleet, place: u16, metric: u16, points: &mut [Point], mode: &CommonMode, counts: bool) {
    let Some(region) = fleet.regions.get_mut(usize::from(place)) else { return };
    let peers = u16::try_from(mode.groups.len()).unwrap_or(u16::MAX);
    let window_ms = region.window_ms;
    region.common_modes.entry(metric).or_default().follow(mode.value, peers, window_ms);
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
