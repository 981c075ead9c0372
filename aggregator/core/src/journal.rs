//! The journal of incidents: which finding belongs to which incident, and what has to be told.
//!
//! It must never grow past its limit, and never keep what nobody can end. The hard case is recognition: a finding belongs
//! to the incident of the same source and direction whose cells it shares most, and ties go to the earlier id.
use std::collections::{BTreeMap, BTreeSet};

use vedette_common::{MonoMs, Now, WallMs};

use crate::alarm::{IncidentState, Scope};
use crate::basis::Basis;
use crate::counts::{Counts, Reason};
use crate::incident::{Finding, Incident, Source, Stage, Step, Told};
use crate::settings::{Lifecycle, Settings};

/// The share of common cells from which two scopes are the same trouble.
const OVERLAP_MIN: f64 = 0.3;

/// How well an incident fits a finding: whether it is live, whether people were told of it, and shared cells.
type Likeness = ((bool, bool), f64);

/// A cell by its names: region, device, stack.
pub(crate) type CellNames<'a> = (&'a str, &'a str, &'a str);

/// Every incident by id, and which of them changed since the last commit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Journal {
    incidents: BTreeMap<String, Incident>,
    changed: BTreeSet<String>,
}

/// One judged window: its end, and the regions that it judged.
pub(crate) struct Judged<'a> {
    /// When it is judged, by the aggregator's clock.
    pub(crate) now: Now,
    pub(crate) end: WallMs,
    pub(crate) window_ms: u32,
    pub(crate) regions: BTreeSet<&'a str>,
    /// How many regions, devices and stacks there are: what an empty list of a scope stands for.
    pub(crate) sizes: [usize; 3],
}

impl Judged<'_> {
    fn concerns(&self, scope: &Scope) -> bool {
        scope.region.is_empty() || scope.region.iter().any(|name| self.regions.contains(name.as_str()))
    }
}

impl Scope {
    /// Whether the cell lies inside.
    pub(crate) fn holds(&self, cell: CellNames<'_>) -> bool {
        let within =
            |names: &[String], name: &str| names.is_empty() || names.iter().any(|known| known == name);
        within(&self.region, cell.0) && within(&self.device, cell.1) && within(&self.stack, cell.2)
    }
}

/// Shared cells over all cells of two scopes (Jaccard), more where one lies inside the other.
fn overlap(a: &Scope, b: &Scope, sizes: [usize; 3]) -> f64 {
    let [in_a, in_b, in_both] = cells(a, b, sizes);
    let shared = in_both / f64::max(in_a + in_b - in_both, 1.0);
    let within = in_both > 0.0 && in_both >= in_a.min(in_b);
    if within { shared.max(OVERLAP_MIN) } else { shared }
}

/// Whether half of the cells of `part` or more lie inside `whole`.
fn is_part(part: &Scope, whole: &Scope, sizes: [usize; 3]) -> bool {
    let [in_part, _, in_both] = cells(part, whole, sizes);
    2.0 * in_both >= in_part
}

/// The cells of two scopes and those that they share, as if every device and stack were in every region: so the cost does not
/// grow with the lattice.
fn cells(a: &Scope, b: &Scope, sizes: [usize; 3]) -> [f64; 3] {
    let (mut in_a, mut in_b, mut in_both) = (1.0, 1.0, 1.0);
    let dimensions = [(&a.region, &b.region), (&a.device, &b.device), (&a.stack, &b.stack)];
    for ((of_a, of_b), size) in dimensions.into_iter().zip(sizes) {
        let count = |names: &[String]| if names.is_empty() { size.max(1) } else { names.len() };
        let both = match (of_a.is_empty(), of_b.is_empty()) {
            (true, _) => count(of_b),
            (_, true) => count(of_a),
            _ => of_a.iter().filter(|name| of_b.contains(name)).count(),
        };
        in_a *= count(of_a) as f64;
        in_b *= count(of_b) as f64;
        in_both *= both as f64;
    }
    [in_a, in_b, in_both]
}

impl Journal {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Incident> {
        self.incidents.values()
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Incident> {
        self.incidents.get(id)
    }

    pub(crate) fn restore(&mut self, incident: Incident) {
        self.incidents.insert(incident.id.clone(), incident);
    }

    /// Ids changed since the last call; one that is gone is to be removed from the store.
    pub(crate) fn take_changed(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.changed)
    }

    /// Takes the findings of one judged window; incidents of its regions that none of them shows come to rest.
    pub(crate) fn step(
        &mut self,
        mut findings: Vec<Finding>,
        judged: &Judged<'_>,
        settings: &Settings,
        counts: &mut Counts,
    ) -> Vec<Told> {
        let step = Step {
            at: judged.end,
            window_ms: judged.window_ms,
            judgement: &settings.judgement,
            lifecycle: &settings.lifecycle,
        };
        let mut told = Vec::new();
        let mut shown = BTreeSet::new();
        // What people should be notified of speaks for its incident before what is held back.
        findings.sort_by_key(|finding| !finding.notify);
        let mut lone = self.lone_by_scope();
        let mut is_full = false;
        for finding in findings {
            let known = match finding.source {
                Source::Lone => {
                    lone.get(&finding.scope).filter(|id| self.incidents.contains_key(*id)).cloned()
                }
                _ => self.recognise(&finding, judged),
            };
            let id = match known {
                // Two findings of one window in one incident: the first, stronger one speaks for it.
                Some(known) if shown.contains(&known) => continue,
                Some(known) => known,
                None => {
                    is_full = is_full || !self.has_room(judged.end, settings.limits.incidents_max);
                    if is_full {
                        counts.add(Reason::IncidentsFull, 1);
                        continue;
                    }
                    self.begin(&finding, &mut lone, judged)
                }
            };
            shown.insert(id.clone());
            if let Some(incident) = self.incidents.get_mut(&id) {
                incident.look(judged.now.mono);
                told.extend(take(incident, finding, step));
            }
            self.changed.insert(id);
        }
        self.forget_silences(judged.now.wall, settings);
        self.rest(&shown, judged, step, &mut told);
        told
    }

    /// The incidents about a single cell's deviations: each has the scope of its cell, and that scope alone.
    fn lone_by_scope(&self) -> BTreeMap<Scope, String> {
        let lone = self.incidents.values().filter(|incident| incident.source == Source::Lone);
        lone.map(|incident| (incident.scope.clone(), incident.id.clone())).collect()
    }

    /// Begins the incident of `finding`; gives its id.
    fn begin(
        &mut self,
        finding: &Finding,
        lone: &mut BTreeMap<Scope, String>,
        judged: &Judged<'_>,
    ) -> String {
        let mut incident = Incident::new(finding);
        let alike = |scope: &Scope| overlap(scope, &finding.scope, judged.sizes) >= OVERLAP_MIN;
        let mut parents = self.incidents.values().filter(|i| i.is_live() && same_trouble(i, finding));
        incident.split_from = parents.find(|parent| parent.had(alike)).map(|parent| parent.id.clone());
        let id = incident.id.clone();
        if finding.source == Source::Lone {
            lone.insert(incident.scope.clone(), id.clone());
        }
        self.incidents.insert(id.clone(), incident);
        id
    }

    /// The incident that `finding` goes on with: one that people were told of before one that is held back, a live one
    /// before an ended one, then the one with most cells in common.
    fn recognise(&self, finding: &Finding, judged: &Judged<'_>) -> Option<String> {
        let score = |incident: &Incident| {
            let told = (incident.is_live(), finding.notify && incident.is(IncidentState::Open));
            let shared = overlap(&incident.scope, &finding.scope, judged.sizes);
            // People know of what was a part of it until lately; it is no further page.
            let known = finding.notify
                && incident.is_live()
                && incident.had_lately(|scope| is_part(&finding.scope, scope, judged.sizes));
            (told, if known { shared.max(OVERLAP_MIN) } else { shared })
        };
        let mut best: Option<(&Incident, Likeness)> = None;
        for incident in self.incidents.values().filter(|incident| same_trouble(incident, finding)) {
            let new = score(incident);
            let better = best.is_none_or(|(_, old)| new.0.cmp(&old.0).then(new.1.total_cmp(&old.1)).is_gt());
            if new.1 >= OVERLAP_MIN && better {
                best = Some((incident, new));
            }
        }
        best.map(|(incident, _)| incident.id.clone())
    }

    fn rest(&mut self, shown: &BTreeSet<String>, judged: &Judged<'_>, step: Step<'_>, told: &mut Vec<Told>) {
        let mut over = Vec::new();
        for incident in self.incidents.values_mut().filter(|i| i.source != Source::Silent) {
            if shown.contains(&incident.id) || !judged.concerns(&incident.scope) {
                continue;
            }
            incident.look(judged.now.mono);
            if !incident.may_rest(judged.end, step) {
                continue;
            }
            told.extend(incident.rest(step));
            if incident.is_forgotten(step) {
                over.push(incident.id.clone());
            }
            self.changed.insert(incident.id.clone());
        }
        over.iter().for_each(|id| drop(self.incidents.remove(id)));
    }

    /// Makes sure of room for one more: over the limit, the incident that ended longest ago is forgotten. False when every
    /// one is live or was seen in the window that ends at `now`.
    fn has_room(&mut self, now: WallMs, incidents_max: usize) -> bool {
        if self.incidents.len() < incidents_max {
            return true;
        }
        // A candidate of an agent's silence is shown once only, and comes to be told by time alone.
        let ended =
            self.incidents.values().filter(|i| !i.is_live() && i.seen_at < now && i.agent().is_none());
        let Some(oldest) = ended.min_by(|a, b| (a.seen_at, &a.id).cmp(&(b.seen_at, &b.id))) else {
            return false;
        };
        let oldest = oldest.id.clone();
        self.incidents.remove(&oldest);
        self.changed.insert(oldest);
        true
    }

    /// Takes the finding about a silent agent: its incident opens, comes back, or is judged again. One that does not fit
    /// is counted.
    pub(crate) fn silent(
        &mut self,
        finding: Finding,
        now: Now,
        settings: &Settings,
        counts: &mut Counts,
    ) -> Option<Told> {
        self.forget_silences(now.wall, settings);
        let new = Incident::new(&finding);
        let known = self.incidents.values().find(|known| known.agent() == new.agent());
        let id = known.map_or_else(|| new.id.clone(), |known| known.id.clone());
        if !self.incidents.contains_key(&id) && !self.has_room(now.wall, settings.limits.incidents_max) {
            counts.add(Reason::IncidentsFull, 1);
            return None;
        }
        let incident = self.incidents.entry(id.clone()).or_insert(new);
        self.changed.insert(id);
        incident.look(now.mono);
        let (judgement, lifecycle) = (&settings.judgement, &settings.lifecycle);
        take(incident, finding, Step { at: now.wall, window_ms: 0, judgement, lifecycle })
    }

    /// Whether the silence of `agent` is an incident, told or on its way to be.
    pub(crate) fn knows_silence_of(&self, agent: &str) -> bool {
        self.incidents.values().any(|incident| incident.agent() == Some(agent))
    }

    /// Ends the incidents about the silence of `agent`.
    pub(crate) fn heard(&mut self, agent: &str, now: WallMs) -> Vec<Told> {
        let mut told = Vec::new();
        let mut unknown = Vec::new();
        for incident in self.incidents.values_mut().filter(|it| it.agent() == Some(agent)) {
            self.changed.insert(incident.id.clone());
            if incident.is_live() {
                told.push(incident.resolve(now));
            } else if incident.stage == Stage::Candidate {
                unknown.push(incident.id.clone());
            }
        }
        unknown.iter().for_each(|id| drop(self.incidents.remove(id)));
        told
    }

    /// The silent agents that people were not notified of, each with the time from which that is to be judged again.
    pub(crate) fn silences_held(&self, lifecycle: &Lifecycle) -> impl Iterator<Item = (&str, WallMs)> {
        let held = self.incidents.values().filter(|incident| !incident.is(IncidentState::Open));
        held.filter_map(move |incident| Some((incident.agent()?, incident.silence_due_at(lifecycle)?)))
    }

    /// Forgets the silences that ended so long ago that another one is another incident.
    fn forget_silences(&mut self, now: WallMs, settings: &Settings) {
        let flap_ms = settings.lifecycle.flap_ms;
        let over = |incident: &Incident| {
            let ended = incident.is(IncidentState::Resolved) && incident.source == Source::Silent;
            ended && now.ms_since(incident.entered_at) >= flap_ms
        };
        let (incidents, changed) = (&mut self.incidents, &mut self.changed);
        incidents.retain(|id, incident| {
            let keep = !over(incident);
            if !keep {
                changed.insert(id.clone());
            }
            keep
        });
    }

    /// Nobody could look at anything while the process was away: the time without a look counts from `now`.
    pub(crate) fn start(&mut self, now: MonoMs) {
        self.incidents.values_mut().for_each(|incident| incident.look(now));
    }

    /// Ends what nothing has looked at for long: regions that send no windows any more, agents that stay silent.
    pub(crate) fn end_gone(&mut self, now: Now, lifecycle: &Lifecycle) -> Vec<Told> {
        let mut told = Vec::new();
        for incident in self.incidents.values_mut().filter(|incident| incident.is_gone(now.mono, lifecycle)) {
            self.changed.insert(incident.id.clone());
            told.push(incident.give_up(now));
        }
        told
    }

    /// Whether `cell` lies in an incident that was told and is not over; the open ones first.
    pub(crate) fn covering(&self, cell: CellNames<'_>) -> Option<&Incident> {
        let live = || self.incidents.values().filter(|i| i.is_live() && i.scope.holds(cell));
        live().find(|i| i.is(IncidentState::Open)).or_else(|| live().next())
    }
}

/// Whether `finding` may be about the trouble of `incident`: the same metric in the other direction is another one, but an
/// incident may be told by several metrics in turn.
fn same_trouble(incident: &Incident, finding: &Finding) -> bool {
    let turned = incident.evidence.direction != finding.evidence.direction
        && incident.evidence.metric == finding.evidence.metric;
    (incident.source == finding.source || has_spread(incident, finding)) && !turned
}

/// Whether what people were told of a part of a region is now everybody's failure there.
fn has_spread(incident: &Incident, finding: &Finding) -> bool {
    let everybodys = finding.source == Source::Common && finding.notify;
    everybodys
        && incident.source == Source::Leftover
        && incident.is(IncidentState::Open)
        && finding.scope.contains(&incident.scope)
}

/// Lets `incident` take `finding`; what is told carries what it was decided from.
fn take(incident: &mut Incident, mut finding: Finding, step: Step<'_>) -> Option<Told> {
    finding.evidence = finding.evidence.settled();
    // The grounds are most of a finding, and few findings are told: they are moved, never copied.
    let grounds = finding.evidence.grounds.take();
    let alarm_on = grounds.as_ref().map(|grounds| grounds.alarm_on);
    let (before, shown) = (incident.clone(), finding.clone());
    let mut told = incident.take(finding, alarm_on, step)?;
    told.basis = Some(Box::new(Basis::new(step, before, shown, grounds)));
    Some(told)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alarm::{Severity, Verdict};
    use crate::evidence::{Direction, Evidence};

    fn finding(metric: &str, direction: Direction) -> Finding {
        Finding {
            source: Source::Leftover,
            scope: Scope { region: vec!["uk".into()], stack: vec!["browse".into()], ..Scope::default() },
            verdict: Verdict::Malfunction,
            notify: true,
            notify_after: None,
            at_once: true,
            weight: 1.0,
            severity: Severity::Critical,
            started_at: WallMs(0),
            evidence: Evidence { metric: metric.into(), ..Evidence::nothing(direction) },
            series: Vec::new(),
            since_ruled: crate::incident::SinceRuled::default(),
        }
    }

    fn moment(wall: WallMs) -> Now {
        Now { mono: MonoMs(wall.0.unsigned_abs()), wall }
    }

    fn judged(end: WallMs) -> Judged<'static> {
        Judged { now: moment(end), end, window_ms: 10_000, regions: BTreeSet::from(["uk"]), sizes: [3, 5, 5] }
    }

    #[test]
    fn a_silence_of_one_part_does_not_hide_the_rest_of_an_incident() {
        let (mut journal, mut counts) = (Journal::default(), Counts::default());
        let settings = Settings::default();
        let part = |stack: &str, notify: bool| {
            let mut part = finding("activity", Direction::Drop);
            part.scope.stack = vec![stack.into()];
            if !notify {
                part.hold();
            }
            part
        };
        let mut both = part("browse", false);
        both.scope.stack.push("payments".into());
        let told = journal.step(vec![both], &judged(WallMs(10_000)), &settings, &mut counts);
        assert_eq!(told[0].alarm.state, IncidentState::Suppressed);
        let parts = vec![part("browse", false), part("payments", true)];
        let told = journal.step(parts, &judged(WallMs(20_000)), &settings, &mut counts);
        assert_eq!(told[0].alarm.state, IncidentState::Open);
    }

    #[test]
    fn a_part_of_what_people_know_of_is_no_further_page() {
        let (mut journal, mut counts) = (Journal::default(), Counts::default());
        let settings = Settings::default();
        let part = |regions: &[&str], device: &[&str], stack: &[&str]| {
            let mut part = finding("activity", Direction::Drop);
            let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
            part.scope = Scope { region: owned(regions), device: owned(device), stack: owned(stack) };
            part
        };
        let windows = [
            vec![part(&["uk"], &[], &["browse"])],
            // Two parts of it at once, one of which spreads a little.
            vec![part(&["uk"], &["tv"], &["browse"]), part(&["uk"], &["web"], &["browse", "payments"])],
            // Then everybody's failure in that region.
            vec![Finding { source: Source::Common, ..part(&["uk"], &[], &[]) }],
        ];
        let mut opened = BTreeSet::new();
        for (window, findings) in (1..).zip(windows) {
            let told = journal.step(findings, &judged(WallMs(window * 10_000)), &settings, &mut counts);
            opened.extend(told.into_iter().map(|told| told.alarm.id));
        }
        assert_eq!((opened.len(), journal.iter().count()), (1, 1), "{opened:?}");
        let elsewhere = vec![part(&["uk"], &["tv"], &["payments", "search"])];
        journal.step(elsewhere, &judged(WallMs(50_000)), &settings, &mut counts);
        assert_eq!(journal.iter().count(), 2, "what lies elsewhere is another one");
    }

    #[test]
    fn what_goes_the_other_way_did_not_split_off() {
        let (mut journal, mut counts) = (Journal::default(), Counts::default());
        let settings = Settings::default();
        for (window, direction) in [(1, Direction::Drop), (2, Direction::Rise)] {
            let found = vec![finding("activity", direction)];
            let told = journal.step(found, &judged(WallMs(window * 10_000)), &settings, &mut counts);
            assert_eq!((told[0].alarm.state, &told[0].alarm.split_from), (IncidentState::Open, &None));
        }
        assert_eq!(journal.iter().count(), 2);
    }

    #[test]
    fn a_fault_that_shows_in_traffic_and_errors_by_turns_is_one_incident() {
        let (mut journal, mut counts) = (Journal::default(), Counts::default());
        let settings = Settings::default();
        let mut opened = BTreeSet::new();
        let turns = ["activity", "errors", "errors", "activity", "activity", "errors", "errors"];
        for (window, metric) in (1..).zip(turns) {
            let direction = if metric == "errors" { Direction::Rise } else { Direction::Drop };
            let end = WallMs(window * 10_000);
            let judged = judged(end);
            let told = journal.step(vec![finding(metric, direction)], &judged, &settings, &mut counts);
            opened.extend(told.into_iter().map(|told| told.alarm.id));
        }
        assert_eq!((opened.len(), journal.iter().count()), (1, 1));
    }
}
