//! The judgement of one window: from sums to findings, metric by metric, in order of names.
//!
//! It must never tell anybody; it says what it finds. The hard case is order: regions, cells and metrics are walked by
//! name, so that what arrived first does not show in the result.
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use vedette_common::wire::Scorer;

use crate::alarm::{self, IncidentState, Scope};
use crate::correlate::{self, CommonMode, HORIZONS, Point, decayed_variance, log_ratio};
use crate::dependency::{self, Dependencies};
use crate::errors::Roles;
use crate::evidence::Direction;
use crate::incident::{Finding, Incident, Source};
use crate::journal::Journal;
use crate::learned::{self, Effects, Share, ShareKey};
use crate::membership::Membership;
use crate::region::{Fleet, HISTORY_WINDOWS, Names};
use crate::schedule::Schedule;
use crate::scopes::{ALL, GROUP, Learning, Noise, Noises, Pooled, Room, ScopeKey, Search};
use crate::settings::{MetricSettings, Role, Settings};
use crate::silences::Holds;
use crate::window::PendingWindow;
use crate::{combine, lone, telemetry, verdict};

/// What the judgement has learned. About 40 bytes for each scope, some seven times the cells, and 40 for each cell and
/// class of events that was seen.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "StoredMemory", into = "StoredMemory")]
pub struct Memory {
    pub(crate) noise: Noises,
    /// How events act on cells, by the places of their classes.
    effects: Effects,
    classes: Names,
    /// Which stacks keep failing together.
    dependencies: Dependencies,
    /// Metrics that had a value between whole numbers: they do not count things.
    measures: BTreeSet<u16>,
    /// The scopes of each metric as they were in its latest window; not stored.
    memberships: BTreeMap<u16, Membership>,
    /// Not stored either.
    points: Vec<Point>,
    room: Room,
}

#[derive(Clone, Serialize, Deserialize)]
struct StoredMemory {
    noise: Vec<(ScopeKey, Noise)>,
    #[serde(default)]
    effects: Effects,
    #[serde(default)]
    classes: Names,
    #[serde(default)]
    dependencies: Dependencies,
    measures: Vec<u16>,
}

impl From<StoredMemory> for Memory {
    fn from(stored: StoredMemory) -> Self {
        Self {
            noise: stored.noise.into_iter().collect(),
            effects: stored.effects,
            classes: stored.classes,
            dependencies: stored.dependencies,
            measures: stored.measures.into_iter().collect(),
            memberships: BTreeMap::new(),
            points: Vec::new(),
            room: Room::default(),
        }
    }
}

impl From<Memory> for StoredMemory {
    fn from(memory: Memory) -> Self {
        Self {
            noise: memory.noise.into_iter().collect(),
            effects: memory.effects,
            classes: memory.classes,
            dependencies: memory.dependencies,
            measures: memory.measures.into_iter().collect(),
        }
    }
}

impl PartialEq for Memory {
    fn eq(&self, other: &Self) -> bool {
        let learned = |it: &Self| (it.noise.clone(), it.effects.clone(), it.classes.clone());
        learned(self) == learned(other)
            && self.dependencies == other.dependencies
            && self.measures == other.measures
    }
}

impl Memory {
    /// Takes in a stored part.
    pub(crate) fn merge(&mut self, part: Self) {
        self.noise.extend(part.noise);
        self.effects.merge(part.effects);
        if part.classes.len() > 0 {
            self.classes = part.classes;
        }
        if part.dependencies != Dependencies::default() {
            self.dependencies = part.dependencies;
        }
        self.measures.extend(part.measures);
    }

    /// What was learned of the regions `regions`, by region, with its name as a part of the state. What belongs to
    /// several regions stands in a part of its own.
    pub(crate) fn parts(&self, regions: &BTreeSet<u16>) -> BTreeMap<String, Self> {
        let mut parts: BTreeMap<u16, Self> =
            regions.iter().map(|region| (*region, Self::default())).collect();
        parts.insert(
            ALL,
            Self {
                measures: self.measures.clone(),
                classes: self.classes.clone(),
                dependencies: self.dependencies.clone(),
                ..Self::default()
            },
        );
        for (region, share) in self.effects.iter() {
            if let Some(part) = parts.get_mut(&region) {
                part.effects.restore(share);
            }
        }
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
        self.noise.keys().map(|key| key.region).chain(self.effects.regions()).collect()
    }
}

/// Classes of events that are told apart.
const CLASSES_MAX: usize = 1_024;
/// Variance of the logarithm of the latency of a single request.
const LATENCY_VARIANCE: f64 = 0.3;

/// What the judgement may look at besides the numbers.
pub(crate) struct Case<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) schedule: &'a Schedule,
    pub(crate) journal: &'a Journal,
    /// Agents known to be silent, by their place among the reporters.
    pub(crate) silent: &'a BTreeSet<u16>,
    /// What keeps people from being notified besides the judgement.
    pub(crate) holds: &'a Holds<'a>,
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
    /// Scopes of leftovers that were told and are not over, and the keys of those that are one scope.
    live: Vec<Scope>,
    /// Those of them that people were told of.
    open: Vec<Scope>,
    live_keys: BTreeSet<[u16; 3]>,
    /// The keys of those that people were told of.
    pub(crate) open_keys: BTreeSet<[u16; 3]>,
    /// The rank of each device's and each stack's name.
    ranks: (Vec<u16>, Vec<u16>),
}

/// Judges the regions of `window` together.
pub(crate) fn judge(
    fleet: &mut Fleet,
    memory: &mut Memory,
    case: &Case<'_>,
    window: &PendingWindow,
) -> Vec<Finding> {
    absorb(fleet, memory, window);
    let bench = Bench::new(fleet, memory, case, window);
    let mut findings = Vec::new();
    // Errors and latency first: traffic is weighed against them.
    for metric in bench.order(fleet) {
        findings.extend(bench.judge_metric(fleet, memory, metric));
    }
    // What is held back neither speaks for what is not nor teaches anything.
    findings.iter_mut().for_each(|finding| case.holds.apply(finding));
    let shapes = case.settings.judgement.ingredients.shapes;
    let mut findings = combine::combine(findings, fleet, case.journal, shapes);
    let series_max = case.settings.limits.series_per_alarm_max;
    findings.iter_mut().for_each(|finding| alarm::keep_worst(&mut finding.series, series_max));
    bench.learn_dependencies(fleet, memory, &findings);
    let mut by_itself = lone::judge(fleet, &bench);
    by_itself.extend(telemetry::missing(fleet, &bench));
    by_itself.extend(telemetry::unwell(fleet, &bench));
    by_itself.iter_mut().for_each(|finding| case.holds.apply(finding));
    findings.append(&mut by_itself);
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
        // Series of one metric come together, more often than not.
        let mut measured = None;
        for (index, sum) in reported.sums.iter() {
            let Some(series) = region.series.get_mut(index as usize) else { continue };
            if measured != Some(series.metric) {
                if sum.observed.fract() != 0.0 {
                    memory.measures.insert(series.metric);
                }
                measured = Some(series.metric).filter(|metric| memory.measures.contains(metric));
            }
            series.take(sum, measured.is_none());
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

/// A common mode from which it is learned how cells share in it.
const LEARNED_MODE_MIN: f64 = 0.12;
/// A common mode from which what was learned is asked.
const SHARED_MODE_MIN: f64 = 0.05;

impl<'a> Bench<'a> {
    fn new(fleet: &Fleet, memory: &Memory, case: &'a Case<'a>, window: &'a PendingWindow) -> Self {
        let ingredients = case.settings.judgement.ingredients;
        let of_role = |role: Role| -> Vec<u16> {
            let names = &fleet.names.metrics;
            names
                .sorted()
                .filter(|m| case.settings.metric(names.get(*m)).is_some_and(|s| s.role == role))
                .collect()
        };
        let order = fleet.names.regions.sorted();
        let of = |told: &dyn Fn(&Incident) -> bool| -> Vec<Scope> {
            let leftovers = case.journal.iter().filter(|i| i.source == Source::Leftover && told(i));
            leftovers.map(|incident| incident.scope.clone()).collect()
        };
        let (live, open) = (of(&Incident::is_live), of(&|i| i.is(IncidentState::Open)));
        let none = BTreeMap::new();
        let declared = if ingredients.dependencies { &case.settings.depends_on } else { &none };
        let mut groups = combine::groups(fleet, declared);
        if ingredients.dependencies {
            dependency::join(&mut groups, memory.dependencies.pairs(window.start));
        }
        let errors = if ingredients.errors { of_role(Role::Errors) } else { Vec::new() };
        let latency = if ingredients.latency { of_role(Role::Latency) } else { Vec::new() };
        Self {
            case,
            window,
            regions: order.filter(|region| window.regions.contains_key(region)).collect(),
            roles: Roles { errors, traffic: of_role(Role::Traffic), latency },
            live_keys: live.iter().filter_map(|scope| places(fleet, &groups, scope)).collect(),
            open_keys: open.iter().filter_map(|scope| places(fleet, &groups, scope)).collect(),
            ranks: (fleet.names.devices.ranks(), fleet.names.stacks.ranks()),
            groups,
            live,
            open,
        }
    }

    /// The metrics that have a role, those that others are weighed against first, each kind in order of names.
    fn order(&self, fleet: &Fleet) -> Vec<u16> {
        let names = &fleet.names.metrics;
        let settings = self.case.settings;
        let saturation = names
            .sorted()
            .filter(|m| settings.metric(names.get(*m)).is_some_and(|s| s.role == Role::Saturation));
        let Roles { errors, latency, traffic } = &self.roles;
        errors.iter().chain(latency).chain(traffic).copied().chain(saturation).collect()
    }

    fn judge_metric(&self, fleet: &mut Fleet, memory: &mut Memory, metric: u16) -> Vec<Finding> {
        let Some(settings) = self.case.settings.metric(fleet.names.metrics.get(metric)) else {
            return Vec::new();
        };
        let counts = !memory.measures.contains(&metric);
        let mut points = std::mem::take(&mut memory.points);
        points.clear();
        let (mut modes, mut places) = (BTreeMap::new(), BTreeMap::new());
        for region in &self.regions {
            let begin = points.len();
            self.points(fleet, *region, metric, (settings.role, counts), &mut points);
            let of_region = &mut points[begin..];
            let mode = self.common_mode(fleet, memory, *region, metric, of_region);
            settle(fleet, *region, metric, of_region, &mode, counts);
            modes.insert(*region, mode);
            places.insert(*region, begin..points.len());
        }
        let mut findings = Vec::new();
        for ((region, mode), place) in modes.iter().zip(places.into_values()) {
            let key = ScopeKey { metric, region: *region, device: ALL, stack: ALL };
            let settings = (settings, counts);
            findings.extend(self.common(fleet, &mut memory.noise, settings, key, mode, &points[place]));
        }
        findings.extend(self.leftovers(fleet, memory, metric, settings, &modes, &points));
        memory.points = points;
        findings
    }

    /// What a region shares, taken off its points; where it is worth asking, as much of it as each cell usually feels.
    fn common_mode(
        &self,
        fleet: &Fleet,
        memory: &mut Memory,
        region: u16,
        metric: u16,
        points: &mut [Point],
    ) -> CommonMode {
        let judgement = &self.case.settings.judgement;
        if !judgement.ingredients.common_mode {
            return correlate::take_nothing(points);
        }
        let mode = correlate::take_common_mode(points);
        if !judgement.ingredients.effects || mode.value.abs() < SHARED_MODE_MIN {
            return mode;
        }
        let (class, any) = self.class(fleet, memory, region, mode.value);
        for point in points.iter_mut() {
            let (device, stack) = (point.device, point.stack);
            let key = ShareKey { class, metric, region, device, stack };
            point.share = memory.effects.share(key, any, judgement.unevenness);
        }
        // The size of the event stays what was measured; only its parts are told apart.
        CommonMode { value: mode.value, ..correlate::take_common_mode(points) }
    }

    /// The class of event that goes on in a region, if one does, and the one that stands for any.
    fn class(&self, fleet: &Fleet, memory: &mut Memory, region: u16, mode: f64) -> (u16, u16) {
        let any = if mode < 0.0 { learned::ANY_DROP } else { learned::ANY_RISE };
        let name = fleet.names.regions.get(region);
        let asked = self.case.settings.judgement.ingredients.calendar;
        let maintenance = &self.case.settings.maintenance_classes;
        let named =
            if asked { self.case.schedule.nearest_class(name, self.window.start, maintenance) } else { None };
        let class = named.and_then(|class| memory.classes.intern(class, CLASSES_MAX));
        (class.unwrap_or(any), any)
    }

    /// Learns how the cells that are not in trouble themselves share in the common modes.
    fn learn_effects(
        &self,
        fleet: &Fleet,
        memory: &mut Memory,
        metric: u16,
        modes: &BTreeMap<u16, CommonMode>,
        points: &[Point],
        found: &[Pooled],
    ) {
        let names = &fleet.names;
        let of =
            |(region, mode): (&u16, &CommonMode)| (*region, self.class(fleet, memory, *region, mode.value));
        let classes: BTreeMap<u16, (u16, u16)> = modes.iter().map(of).collect();
        let learned = |mode: &CommonMode| mode.groups.len() > 1 && mode.value.abs() >= LEARNED_MODE_MIN;
        let regions: BTreeSet<u16> =
            modes.iter().filter(|(_, mode)| learned(mode)).map(|(region, _)| *region).collect();
        if regions.is_empty() {
            return;
        }
        for (index, point) in points.iter().enumerate().filter(|(_, p)| regions.contains(&p.region)) {
            if point.mode.abs() < LEARNED_MODE_MIN
                || found.iter().any(|scope| scope.members.binary_search(&index).is_ok())
            {
                continue;
            }
            let cell = (
                names.regions.get(point.region),
                names.devices.get(point.device),
                names.stacks.get(point.stack),
            );
            if self.live.iter().any(|scope| scope.holds(cell)) {
                continue;
            }
            let (class, any) = classes[&point.region];
            let (region, device, stack) = (point.region, point.device, point.stack);
            let key = ShareKey { class, metric, region, device, stack };
            memory.effects.learn(key, any, point.mode, point.log_ratio, point.poisson[0]);
        }
    }

    /// Takes note of stacks that fail as a whole.
    fn learn_dependencies(&self, fleet: &Fleet, memory: &mut Memory, findings: &[Finding]) {
        let names = &fleet.names;
        for region in &self.regions {
            let name = names.regions.get(*region);
            if self.is_maintained(name) {
                continue;
            }
            let failing = findings.iter().filter(|f| {
                let traffic = f.source == Source::Leftover && f.notify && f.evidence.metric_is_traffic;
                let here = f.scope.region.is_empty() || f.scope.region.iter().any(|of| of == name);
                traffic && f.scope.device.is_empty() && here
            });
            let stacks = failing.filter(|f| f.scope.stack.len() <= 2).flat_map(|f| &f.scope.stack);
            let failing: BTreeSet<u16> = stacks.filter_map(|stack| names.stacks.find(stack)).collect();
            memory.dependencies.observe(*region, &failing, self.window.start, self.window.window_ms);
        }
    }

    /// Searches what is left over for the scopes that explain it.
    fn leftovers(
        &self,
        fleet: &Fleet,
        memory: &mut Memory,
        metric: u16,
        settings: MetricSettings,
        modes: &BTreeMap<u16, CommonMode>,
        points: &[Point],
    ) -> Vec<Finding> {
        let judgement = &self.case.settings.judgement;
        let mut membership = memory.memberships.remove(&metric).unwrap_or_default();
        membership.follow(metric, points, judgement.ingredients.neighbours);
        let mut room = std::mem::take(&mut memory.room);
        room.sum(&membership, points);
        let is_live = |key: ScopeKey| self.live_keys.contains(&[key.region, key.device, key.stack]);
        let allowed = self.allowed(fleet, metric);
        let base = match settings.role {
            Role::Traffic => judgement.significance_with_errors,
            Role::Errors | Role::Latency | Role::Saturation => judgement.significance,
        };
        let lower = base.min(judgement.significance * judgement.hysteresis);
        let matters = |direction| verdict::matters(settings.alarm_on, direction);
        let search = Search {
            allowed: &allowed,
            needed: &|key| if is_live(key) { lower } else { base },
            counts: judgement.ingredients.counting && !memory.measures.contains(&metric),
            torn: judgement.ingredients.synchrony,
            residual_min: if settings.role == Role::Errors {
                judgement.large
            } else {
                judgement.residual_min
            },
            directions: (matters(Direction::Drop), matters(Direction::Rise)),
        };
        let rests = self.rests(fleet, metric, &membership, points);
        let calm: Vec<bool> =
            (0..).zip(&fleet.regions).map(|(region, _)| self.is_calm(fleet, metric, region)).collect();
        let learning = Learning {
            half_life_windows: judgement.noise_half_life_windows,
            rests: &rests,
            is_calm: &|region| calm.get(usize::from(region)).is_some_and(|calm| *calm),
        };
        search.show(&membership, points, &mut room, &mut memory.noise, &learning);
        let found = search.explain(&membership, &mut room, &memory.noise, points);
        memory.room = room;
        memory.memberships.insert(metric, membership);
        if judgement.ingredients.effects {
            self.learn_effects(fleet, memory, metric, modes, points, &found);
        }
        let case = (settings, !memory.measures.contains(&metric), modes, &memory.noise);
        let each = found.iter().enumerate();
        each.filter_map(|(at, pooled)| self.leftover(fleet, case, (pooled, &found[..at]), points)).collect()
    }

    /// Which scopes have no noise to learn from: what a live incident explains is none, neither of its scope nor of those
    /// that lie in it by a quarter.
    fn rests(&self, fleet: &Fleet, metric: u16, membership: &Membership, points: &[Point]) -> Vec<bool> {
        let mut rests = vec![false; membership.len()];
        for [region, device, stack] in self.live_keys.iter().copied() {
            if let Some(place) = membership.find(ScopeKey { metric, region, device, stack }) {
                rests[place] = true;
            }
        }
        if self.open.is_empty() {
            return rests;
        }
        let mut inside = vec![0; rests.len()];
        let covered = self.covered(fleet, points);
        for (places, _) in membership.of_points().zip(covered).filter(|(_, covered)| *covered) {
            places.iter().for_each(|place| inside[*place as usize] += 1);
        }
        let quarters =
            membership.iter().zip(inside).map(|((_, members), inside)| 4 * inside >= members.len().max(1));
        rests.iter_mut().zip(quarters).for_each(|(rests, is_inside)| *rests |= is_inside);
        rests
    }

    /// Which of the points lie in an incident that people were told of and that is not over.
    fn covered(&self, fleet: &Fleet, points: &[Point]) -> Vec<bool> {
        let names = &fleet.names;
        let mut covered = Vec::with_capacity(points.len());
        for of_region in points.chunk_by(|a, b| a.region == b.region) {
            let region = of_region.first().map_or("", |p| names.regions.get(p.region));
            let here = |scope: &&Scope| scope.region.is_empty() || scope.region.iter().any(|it| it == region);
            let open: Vec<&Scope> = self.open.iter().filter(here).collect();
            let name = |p: &Point| (region, names.devices.get(p.device), names.stacks.get(p.stack));
            covered.extend(of_region.iter().map(|p| open.iter().any(|scope| scope.holds(name(p)))));
        }
        covered
    }

    /// Adds the region's cells of `metric` that take part to `points`, by device and stack.
    fn points(
        &self,
        fleet: &Fleet,
        place: u16,
        metric: u16,
        (role, counts): (Role, bool),
        points: &mut Vec<Point>,
    ) {
        let Some(region) = fleet.get(place) else { return };
        let young = self.case.settings.judgement.young_windows;
        let begin = points.len();
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
            // The mean of few is restless.
            let traffic =
                (role == Role::Latency && !counts).then(|| self.roles.traffic(region, series.cell)).flatten();
            let poisson = traffic.map_or(poisson, |traffic| LATENCY_VARIANCE / (traffic + 1.0));
            points.push(Point {
                region: place,
                device: cell.device,
                stack: cell.stack,
                group: self.groups.get(&cell.stack).copied().unwrap_or(cell.stack),
                series: index,
                observed: series.latest.observed,
                expected,
                log_ratio: ratio,
                share: Share { value: 1.0, uneven: self.case.settings.judgement.unevenness },
                mode: 0.0,
                common_mode: 0.0,
                disturbance: 0.0,
                counted: [[series.latest.observed, expected]; HORIZONS],
                residual: [0.0; HORIZONS],
                poisson: [poisson; HORIZONS],
                explained: 0.0,
            });
        }
        let (devices, stacks) = &self.ranks;
        points[begin..].sort_by_key(|p| (devices[usize::from(p.device)], stacks[usize::from(p.stack)]));
    }

    /// The least common mode to allow for: what lingers of one, more where the calendar announces an event.
    fn allowed(&self, fleet: &Fleet, metric: u16) -> Vec<Option<f64>> {
        let announced = 1.5 * self.case.settings.judgement.common_mode_min;
        let names = &fleet.names.regions;
        let least = |place: &u16| {
            let region = fleet.get(*place)?;
            let lingering = region.common_modes.get(&metric).map_or(0.0, |shared| shared.lingering);
            let asked = self.case.settings.judgement.ingredients.calendar;
            let covered = asked && self.events(names.get(*place)).next().is_some();
            Some(lingering.max(if covered { announced } else { 0.0 }))
        };
        let mut allowed = vec![None; fleet.regions.len()];
        self.regions.iter().for_each(|place| allowed[usize::from(*place)] = least(place));
        allowed
    }

    /// Whether nothing from outside moves the region: not now, not a little while ago. Of all regions together nobody knows.
    fn is_calm(&self, fleet: &Fleet, metric: u16, region: u16) -> bool {
        let shared = fleet.get(region).and_then(|region| region.common_modes.get(&metric));
        shared.is_some_and(|shared| shared.stirred < self.case.settings.judgement.common_mode_min)
    }

    /// How much of a disturbance lingers in `regions`.
    pub(crate) fn stirred(&self, fleet: &Fleet, metric: u16, regions: &BTreeSet<u16>) -> f64 {
        let regions = regions.iter().filter_map(|region| fleet.get(*region));
        let shared = regions.filter_map(|region| region.common_modes.get(&metric));
        shared.map(|shared| shared.stirred).fold(0.0, f64::max)
    }

    /// The entries of the calendar that cover `region`. A maintenance is no event: it begins and ends as announced.
    pub(crate) fn events<'b>(&'b self, region: &'b str) -> impl Iterator<Item = &'b crate::ScheduleEntry> {
        let maintenance = &self.case.settings.maintenance_classes;
        let covering = self.case.schedule.covering(region, self.window.start);
        covering.filter(move |entry| !maintenance.contains(&entry.class))
    }

    /// Whether a maintenance is on in `region`: what fails then says nothing about dependencies.
    fn is_maintained(&self, region: &str) -> bool {
        let maintenance = &self.case.settings.maintenance_classes;
        let mut covering = self.case.schedule.covering(region, self.window.start);
        covering.any(|entry| maintenance.contains(&entry.class))
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
    region.common_modes.entry(metric).or_default().follow((mode.value, mode.disturbance), peers, window_ms);
    for point in points {
        let Some(series) = region.series.get_mut(point.series as usize) else { continue };
        let factor = point.expected / series.latest.expected;
        series.decay(factor * point.common_mode.exp());
        for horizon in 1..HORIZONS {
            let sum = series.longer[horizon - 1];
            let (long, poisson) = log_ratio(sum.observed, sum.expected, counts);
            // What does not count has no variance of its own: that of the window, over more windows.
            let poisson = if counts { poisson } else { point.poisson[0] };
            (point.residual[horizon], point.poisson[horizon]) = (long, poisson * decayed_variance(horizon));
            point.counted[horizon] = [sum.observed, sum.expected];
        }
        series.residual = point.residual[0];
        series.noise = (point.poisson[0] + 0.01).sqrt();
        series.history.rotate_left(1);
        #[allow(clippy::cast_possible_truncation, reason = "a log ratio within 14 of zero")]
        let latest = point.residual[0] as f32;
        series.history[HISTORY_WINDOWS - 1] = latest;
    }
}
