//! How what a scope shows becomes a finding: its names, its numbers as evidence, its series, its verdict.
//!
//! It must never find anything itself. The hard case is a reader who asks why: every number that the verdict was taken
//! from stands in the evidence, and no other.
use std::collections::{BTreeMap, BTreeSet};

use crate::alarm::{self, AlarmSeries, Scope};
use crate::basis::{Grounds, Look, Part};
use crate::correlate::{CommonMode, HORIZONS, Point, log_ratio};
use crate::errors::Asked;
use crate::evidence::{Direction, ErrorEvidence, Evidence};
use crate::incident::{Finding, SinceRuled, Source};
use crate::judge::Bench;
use crate::region::{Fleet, HISTORY_WINDOWS};
use crate::scopes::{ALL, GROUP, Noise, Noises, Pooled, ScopeKey};
use crate::settings::{MetricSettings, Role};
use crate::verdict::{self, Ruling};
use crate::{combine, errors, evenness};

/// Calendar entries named in one evidence.
const CALENDAR_NAMED_MAX: usize = 5;

/// How unevenly an event raises errors: the share of its size, as a log ratio.
const ERRORS_UNEVEN: f64 = 0.4;

/// A cell by its places: region, device, stack.
type CellPlace = (u16, u16, u16);

impl Bench<'_> {
    /// The scope of a key by its names; `regions` lists those of a key for all regions where not every region of the fleet
    /// takes part: some are judged in windows of another width, and nothing is known of them here.
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
        let region = match regions.filter(|some| key.region == ALL && some.len() < fleet.regions.len()) {
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

    fn calendar(&self, fleet: &Fleet, regions: &BTreeSet<u16>) -> Vec<String> {
        let names = regions.iter().map(|region| fleet.names.regions.get(*region));
        let entries = names.flat_map(|name| self.events(name));
        let described: BTreeSet<String> = entries.map(crate::ScheduleEntry::describe).collect();
        described.into_iter().take(CALENDAR_NAMED_MAX).collect()
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
        if by_device && key.device == ALL && key.stack != ALL {
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
            let is_touched = inside.range((*place, 0, 0)..).next().is_some_and(|cell| cell.0 == *place);
            let Some(region) = fleet.get(*place).filter(|_| is_touched) else { continue };
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
            let own =
                reported.deviations.iter().filter(|d| d.series == point.series && d.scorer.trusts_values());
            let best = own.map(|d| d.score).fold(0.0, f64::max);
            series.push(AlarmSeries {
                measurement: metric.into(),
                tags: self.tags(fleet, point.region, point.device, point.stack, ""),
                observed: point.observed,
                expected: point.expected,
                score: best,
            });
        }
        alarm::keep_worst(&mut series, self.case.settings.limits.series_per_alarm_max);
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

    /// The finding about what is left over in one scope; none when it is too weak to be told.
    pub(crate) fn leftover(
        &self,
        fleet: &Fleet,
        (settings, counts, modes, noises): (MetricSettings, bool, &BTreeMap<u16, CommonMode>, &Noises),
        (pooled, before): (&Pooled, &[Pooled]),
        points: &[Point],
    ) -> Option<Finding> {
        let inside = |index: &usize| Some(&points[*index]).filter(|p| pooled.regions.contains(&p.region));
        let members: Vec<&Point> = pooled.members.iter().filter_map(inside).collect();
        let cells: BTreeSet<CellPlace> = members.iter().map(|p| (p.region, p.device, p.stack)).collect();
        let groups: BTreeSet<u16> = members.iter().map(|p| p.group).collect();
        let judgement = &self.case.settings.judgement;
        let weighed =
            (settings.role != Role::Errors).then(|| self.weigh(fleet, noises, &pooled.regions, &cells));
        let regions: Vec<u16> = pooled.regions.iter().copied().collect();
        let within = |r, d, s| cells.contains(&(r, d, s));
        let latency = (settings.role == Role::Traffic)
            .then(|| errors::weigh_latency(fleet, noises, &self.roles, &regions, &within));
        let evidence = Evidence {
            common_mode: pooled.shown.common_mode,
            residual: pooled.shown.shift,
            tolerance: pooled.shown.deviation * judgement.significance,
            significance: pooled.shown.significance,
            peers: self.peers(fleet, modes, &pooled.regions, &groups, pooled.shown.key),
            errors: weighed.flatten(),
            latency: latency.flatten(),
            disturbance: self.moved(fleet, settings.role, pooled),
            synchrony: synchrony(fleet, pooled.shown.key.metric, &members),
            significance_threshold: self.asked(noises, pooled.shown.key),
            recovering: judgement.ingredients.derivative && is_recovering(fleet, &members),
            score: self.score(fleet, &cells, pooled.shown.key.metric),
            ..self.evidence(
                fleet,
                pooled.shown.key.metric,
                settings.role,
                &pooled.regions,
                &members,
                pooled.shown.shift,
            )
        }
        .settled();
        let ruling = verdict::rule_leftover(&evidence, settings.role, judgement)?;
        let scope = self.scope(fleet, pooled.shown.key, Some(&pooled.regions));
        let series = self.series(fleet, &members, &evidence.metric);
        let mut finding = self.finding(Source::Leftover, scope, evidence, ruling, series);
        let held: BTreeSet<CellPlace> = pooled.members.iter().map(|index| points[*index].cell()).collect();
        let regions: BTreeSet<u16> = held.iter().map(|cell| cell.0).collect();
        let compared: Vec<&Point> = points.iter().filter(|p| regions.contains(&p.region)).collect();
        let explained = |p: &Point| {
            let over = before.iter().filter(|it| it.members.iter().any(|at| points[*at].cell() == p.cell()));
            over.map(|it| it.shown.shift).collect()
        };
        let part = |p: &Point| Part {
            inside: held.contains(&p.cell()),
            named: pooled.regions.contains(&p.region),
            explained: explained(p),
        };
        let (MetricSettings { role, alarm_on }, horizon) = (settings, pooled.shown.horizon);
        let look = Look { role, alarm_on, counts, horizon, evidence: &finding.evidence };
        let names = |p: &Point| fleet.names.of(p.cell());
        finding.evidence.grounds = Some(Grounds::new(&look, &compared, &part, &names));
        Some(Finding { weight: pooled.shown.gain, ..finding })
    }

    /// The standard deviations that a scope has to show: more where it keeps straying, less once people were told.
    fn asked(&self, noises: &Noises, key: ScopeKey) -> f64 {
        let judgement = &self.case.settings.judgement;
        if self.open_keys.contains(&[key.region, key.device, key.stack]) {
            return judgement.significance * judgement.hysteresis;
        }
        let bar = noises.get(&key).filter(|_| judgement.ingredients.tails).map_or(1.0, Noise::bar);
        judgement.significance * bar
    }

    /// The finding about what the independent stacks of a region share, if it is large enough.
    pub(crate) fn common(
        &self,
        fleet: &Fleet,
        noises: &mut Noises,
        (settings, counts): (MetricSettings, bool),
        key: ScopeKey,
        mode: &CommonMode,
        members: &[Point],
    ) -> Option<Finding> {
        let judgement = &self.case.settings.judgement;
        let precision: f64 = members.iter().map(|p| 1.0 / p.poisson[0].max(1e-9)).sum();
        // A median is less sure than a mean: about half as precise.
        let counting = 2.0 / precision.max(1e-9);
        let noise = noises.entry(key).or_default();
        let deviation = (noise.variance(0) + counting).sqrt();
        noise.learn([mode.value; HORIZONS], [counting; HORIZONS], judgement.noise_half_life_windows);
        let significance = mode.value.abs() / deviation;
        let comparable = mode.groups.len() > 1 || mode.by_device;
        let least = match settings.role {
            Role::Errors => judgement.errors_strongly_raised,
            Role::Traffic | Role::Latency | Role::Saturation => judgement.common_mode_min,
        };
        if !comparable || mode.value.abs() < least || significance < judgement.significance {
            return None;
        }
        let members: Vec<&Point> = members.iter().collect();
        let asked = self.errors_asked(0.0);
        let errors = errors::weigh_common(fleet, noises, &self.roles, key.region, &self.groups, asked);
        let even = errors.is_none() && settings.role == Role::Traffic && judgement.ingredients.evenness;
        let evenness = if even { evenness::log_odds(mode, &members, noises, key) } else { 0.0 };
        let regions = BTreeSet::from([key.region]);
        let modes = BTreeMap::from([(key.region, mode.clone())]);
        let evidence = Evidence {
            common_mode: mode.value,
            tolerance: deviation * judgement.significance,
            significance,
            peers: self.peers(fleet, &modes, &regions, &BTreeSet::new(), key),
            disturbance: mode.disturbance,
            traffic: self.traffic_mode(fleet, key.region),
            evenness,
            errors,
            ..self.evidence(fleet, key.metric, settings.role, &regions, &members, mode.value)
        }
        .settled();
        let ruling = verdict::rule_common(&evidence, settings.alarm_on, judgement);
        let series = self.series(fleet, &members, &evidence.metric);
        let scope = self.scope(fleet, key, None);
        let mut finding = self.finding(Source::Common, scope, evidence, ruling, series);
        let MetricSettings { role, alarm_on } = settings;
        let look = Look { role, alarm_on, counts, horizon: 0, evidence: &finding.evidence };
        let whole = |_: &Point| Part { inside: true, named: true, ..Part::default() };
        let names = |p: &Point| fleet.names.of(p.cell());
        finding.evidence.grounds = Some(Grounds::new(&look, &members, &whole, &names));
        Some(Finding { weight: significance, ..finding })
    }

    /// Errors of `cells` against those of the other cells of `regions`.
    fn weigh(
        &self,
        fleet: &Fleet,
        noises: &Noises,
        regions: &BTreeSet<u16>,
        cells: &BTreeSet<CellPlace>,
    ) -> Option<ErrorEvidence> {
        let stirred = self.stirred_traffic(fleet, regions);
        let regions: Vec<u16> = regions.iter().copied().collect();
        let inside = |r, d, s| cells.contains(&(r, d, s));
        errors::weigh(fleet, noises, &self.roles, &regions, &inside, self.errors_asked(stirred))
    }

    /// How far the peers of a scope have moved. An event that moves traffic raises errors unevenly, whatever those share.
    fn moved(&self, fleet: &Fleet, role: Role, pooled: &Pooled) -> f64 {
        let own = self.stirred(fleet, pooled.shown.key.metric, &pooled.regions).max(pooled.shown.disturbance);
        if role == Role::Errors { self.stirred_traffic(fleet, &pooled.regions).max(own) } else { own }
    }

    /// How much of a disturbance lingers in the traffic of `regions`.
    fn stirred_traffic(&self, fleet: &Fleet, regions: &BTreeSet<u16>) -> f64 {
        let stirred = self.roles.traffic.iter().map(|metric| self.stirred(fleet, *metric, regions));
        stirred.fold(0.0, f64::max)
    }

    /// What the independent stacks of a region share in their traffic; 0 when none is measured.
    fn traffic_mode(&self, fleet: &Fleet, region: u16) -> f64 {
        let Some(region) = fleet.get(region) else { return 0.0 };
        let modes = self.roles.traffic.iter().filter_map(|metric| region.common_modes.get(metric));
        modes
            .map(|shared| shared.value)
            .fold(0.0, |least: f64, value| if value.abs() > least.abs() { value } else { least })
    }

    /// What is asked of errors to count as raised while a region is `stirred` so far: what acts unevenly on traffic does so on
    /// errors too.
    fn errors_asked(&self, stirred: f64) -> Asked {
        let judgement = &self.case.settings.judgement;
        let calm = stirred < judgement.common_mode_min;
        Asked {
            raised: judgement.errors_raised + if calm { 0.0 } else { ERRORS_UNEVEN * stirred },
            strongly: judgement.errors_strongly_raised,
            horizons: if calm { HORIZONS } else { HORIZONS - 1 },
        }
    }

    /// The numbers that every finding of a metric has.
    fn evidence(
        &self,
        fleet: &Fleet,
        metric: u16,
        role: Role,
        regions: &BTreeSet<u16>,
        members: &[&Point],
        shift: f64,
    ) -> Evidence {
        let (observed, expected) =
            members.iter().fold((0.0, 0.0), |sum, p| (sum.0 + p.observed, sum.1 + p.expected));
        Evidence {
            metric: fleet.names.metrics.get(metric).into(),
            metric_is_traffic: role == Role::Traffic,
            observed,
            expected,
            log_ratio: log_ratio(observed, expected, false).0,
            significance_threshold: self.case.settings.judgement.significance,
            calendar: if self.case.settings.judgement.ingredients.calendar {
                self.calendar(fleet, regions)
            } else {
                Vec::new()
            },
            event_is_live: self.has_live_event(fleet, regions),
            ..Evidence::nothing(Direction::of(shift))
        }
    }

    fn finding(
        &self,
        source: Source,
        scope: Scope,
        evidence: Evidence,
        ruling: Ruling,
        series: Vec<AlarmSeries>,
    ) -> Finding {
        Finding {
            source,
            severity: verdict::severity(&scope, &evidence, ruling.notify),
            scope,
            verdict: ruling.verdict,
            notify: ruling.notify,
            notify_after: ruling
                .patient
                .then(|| self.case.settings.judgement.patience_windows_of(self.window.window_ms)),
            at_once: ruling.at_once,
            weight: 0.0,
            started_at: self.window.start,
            evidence: Evidence { reason: ruling.reason, counterfactual: ruling.counterfactual, ..evidence },
            series,
            since_ruled: SinceRuled::default(),
        }
    }
}

/// How alike the latest leftovers of these cells are to how far their peers moved in the same windows: the cosine of the
/// angle between both.
fn synchrony(fleet: &Fleet, metric: u16, members: &[&Point]) -> f64 {
    let (mut left, mut moved) = ([0.0_f64; HISTORY_WINDOWS], [0.0_f64; HISTORY_WINDOWS]);
    for point in members {
        let Some(region) = fleet.get(point.region) else { continue };
        let Some(series) = region.series.get(point.series as usize) else { continue };
        let Some(shared) = region.common_modes.get(&metric) else { continue };
        left.iter_mut().zip(series.history).for_each(|(sum, it)| *sum += point.expected * f64::from(it));
        moved.iter_mut().zip(shared.moved).for_each(|(sum, it)| *sum += point.expected * f64::from(it));
    }
    left.iter_mut().for_each(|it| *it = it.abs());
    combine::cosine(&left, &moved)
}

/// The part of its largest leftover below which a scope is on its way back.
const RECOVERING: f64 = 0.6;

/// Whether the trend of these cells has turned: what is left over now is well below what it was.
fn is_recovering(fleet: &Fleet, members: &[&Point]) -> bool {
    let mut history = [0.0_f64; HISTORY_WINDOWS];
    for point in members {
        let Some(series) = fleet.get(point.region).and_then(|r| r.series.get(point.series as usize)) else {
            continue;
        };
        history.iter_mut().zip(series.history).for_each(|(sum, value)| *sum += f64::from(value));
    }
    let largest = history.iter().map(|value| value.abs()).fold(0.0, f64::max);
    history[HISTORY_WINDOWS - 1].abs() < RECOVERING * largest
}
