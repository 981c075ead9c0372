//! The journal of incidents: which finding belongs to which incident, and what has to be told.
//!
//! It must never grow past its limit. The hard case is recognition: a finding belongs to the incident of the same source
//! and direction whose cells it shares most, and ties go to the earlier id.
use std::collections::{BTreeMap, BTreeSet};

use vedette_common::WallMs;

use crate::alarm::{IncidentState, Scope};
use crate::basis::Basis;
use crate::counts::{Counts, Reason};
use crate::incident::{Finding, Incident, Source, Step, Told};
use crate::settings::Settings;

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

/// Shared cells over all cells of two scopes (Jaccard), more where one lies inside the other. Counted as if every device
/// and stack were in every region, so that the cost does not grow with the lattice.
fn overlap(a: &Scope, b: &Scope, sizes: [usize; 3]) -> f64 {
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
    let shared = in_both / f64::max(in_a + in_b - in_both, 1.0);
    let within = in_both > 0.0 && in_both >= in_a.min(in_b);
    if within { shared.max(OVERLAP_MIN) } else { shared }
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
        findings: Vec<Finding>,
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
                told.extend(take(incident, finding, step));
            }
            self.changed.insert(id);
        }
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
        let mut parents = self.incidents.values().filter(|i| i.is_live() && i.source == finding.source);
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
        // The same metric in the other direction is another trouble; an incident may be told by several metrics in turn.
        let same = |incident: &&Incident| {
            let turned = incident.evidence.direction != finding.evidence.direction
                && incident.evidence.metric == finding.evidence.metric;
            incident.source == finding.source && !turned
        };
        let score = |incident: &Incident| {
            let told = (incident.is_live(), finding.notify && incident.is(IncidentState::Open));
            (told, overlap(&incident.scope, &finding.scope, judged.sizes))
        };
        let mut best: Option<(&Incident, Likeness)> = None;
        for incident in self.incidents.values().filter(same) {
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
        let ended = self.incidents.values().filter(|i| !i.is_live() && i.seen_at < now);
        let Some(oldest) = ended.min_by(|a, b| (a.seen_at, &a.id).cmp(&(b.seen_at, &b.id))) else {
            return false;
        };
        let oldest = oldest.id.clone();
        self.incidents.remove(&oldest);
        self.changed.insert(oldest);
        true
    }

    /// Opens, or shows again, the incident of a silent agent.
    pub(crate) fn silent(&mut self, finding: Finding, at: WallMs, settings: &Settings) -> Option<Told> {
        let incident = Incident::new(&finding);
        let id = incident.id.clone();
        let incident = self.incidents.entry(id.clone()).or_insert(incident);
        self.changed.insert(id);
        let (judgement, lifecycle) = (&settings.judgement, &settings.lifecycle);
        take(incident, finding, Step { at, window_ms: 0, judgement, lifecycle })
    }

    /// Ends the incidents about the silence of `agent`.
    pub(crate) fn heard(&mut self, agent: &str, at: WallMs) -> Vec<Told> {
        let mut told = Vec::new();
        for incident in self.incidents.values_mut().filter(|i| i.source == Source::Silent && i.is_live()) {
            let about = incident.evidence.missing.as_ref().is_some_and(|missing| missing.agent == agent);
            if about {
                told.push(incident.resolve(at));
                self.changed.insert(incident.id.clone());
            }
        }
        told
    }

    /// Whether `cell` lies in an incident that was told and is not over; the open ones first.
    pub(crate) fn covering(&self, cell: CellNames<'_>) -> Option<&Incident> {
        let live = || self.incidents.values().filter(|i| i.is_live() && i.scope.holds(cell));
        live().find(|i| i.is(IncidentState::Open)).or_else(|| live().next())
    }
}

/// Lets `incident` take `finding`; what is told carries what it was decided from.
fn take(incident: &mut Incident, mut finding: Finding, step: Step<'_>) -> Option<Told> {
    finding.evidence = finding.evidence.settled();
    let (before, shown) = (incident.clone(), finding.clone());
    let mut told = incident.take(finding, step)?;
    told.basis = Some(Box::new(Basis::new(step, before, shown)));
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
        }
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
            let judged = Judged { end, window_ms: 10_000, regions: BTreeSet::from(["uk"]), sizes: [3, 5, 5] };
            let told = journal.step(vec![finding(metric, direction)], &judged, &settings, &mut counts);
            opened.extend(told.into_iter().map(|told| told.alarm.id));
        }
        assert_eq!((opened.len(), journal.iter().count()), (1, 1));
    }
}
