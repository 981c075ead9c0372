//! Which stacks are independent, and which findings of one window are the same trouble.
//!
//! It must never join what only happens at the same time. The hard case is an undeclared dependency: two stacks fail
//! together in the same places with the same shape, and become one finding with both stacks in its scope.
use std::collections::{BTreeMap, BTreeSet};

use crate::alarm::{IncidentState, Scope};
use crate::incident::{Finding, Source};
use crate::journal::Journal;
use crate::region::{Fleet, HISTORY_WINDOWS};

/// Cosine similarity from which two shapes look alike.
const ALIKE_MIN: f64 = 0.8;

/// The group of every stack: stacks that are connected by dependencies share the smallest place among them.
pub(crate) fn groups(fleet: &Fleet, depends_on: &BTreeMap<String, Vec<String>>) -> BTreeMap<u16, u16> {
    let mut group_of: BTreeMap<&str, usize> = BTreeMap::new();
    let mut parent: Vec<usize> = Vec::new();
    let links =
        depends_on.iter().flat_map(|(stack, on)| on.iter().map(move |dependency| (stack, dependency)));
    for (stack, dependency) in links {
        let mut node = |name| {
            *group_of.entry(name).or_insert_with(|| {
                parent.push(parent.len());
                parent.len() - 1
            })
        };
        let (a, b) = (node(stack.as_str()), node(dependency.as_str()));
        let (a, b) = (root(&parent, a), root(&parent, b));
        let (low, high) = (a.min(b), a.max(b));
        parent[high] = low;
    }
    let stacks = &fleet.names.stacks;
    let mut first: BTreeMap<usize, u16> = BTreeMap::new();
    let mut groups = BTreeMap::new();
    for place in stacks.sorted() {
        let shared = group_of.get(stacks.get(place)).map(|node| root(&parent, *node));
        let group = shared.map_or(place, |node| *first.entry(node).or_insert(place));
        groups.insert(place, group);
    }
    groups
}

fn root(parent: &[usize], mut node: usize) -> usize {
    while parent[node] != node {
        node = parent[node];
    }
    node
}

/// Joins findings of one window that are the same trouble. The strongest come first, and speak for what joins them.
pub(crate) fn combine(
    mut findings: Vec<Finding>,
    fleet: &Fleet,
    journal: &Journal,
    shapes: bool,
) -> Vec<Finding> {
    let order = |f: &Finding| (!f.notify, f.source, !f.evidence.metric_is_traffic);
    findings.sort_by(|a, b| {
        order(a)
            .cmp(&order(b))
            .then_with(|| b.weight.total_cmp(&a.weight))
            .then_with(|| a.scope.cmp(&b.scope))
    });
    let fallen: BTreeSet<String> = fallen_regions(&findings, journal);
    let mut kept: Vec<Finding> = Vec::new();
    for finding in findings {
        let within =
            !finding.scope.region.is_empty() && finding.scope.region.iter().all(|name| fallen.contains(name));
        if within && finding.source == Source::Leftover {
            continue;
        }
        match kept.iter_mut().find(|known| same_trouble(known, &finding, fleet, shapes)) {
            Some(known) => known.absorb(finding, fleet),
            None => kept.push(finding),
        }
    }
    kept
}

/// Regions that are down as a whole: what is left over in them is part of that.
fn fallen_regions(findings: &[Finding], journal: &Journal) -> BTreeSet<String> {
    let now = findings.iter().filter(|f| f.source == Source::Common && f.notify).map(|f| &f.scope);
    let before =
        journal.iter().filter(|i| i.source == Source::Common && i.is(IncidentState::Open)).map(|i| &i.scope);
    now.chain(before).flat_map(|scope| scope.region.iter().cloned()).collect()
}

fn same_trouble(known: &Finding, other: &Finding, fleet: &Fleet, shapes: bool) -> bool {
    if known.source != other.source {
        return false;
    }
    if known.evidence.metric != other.evidence.metric {
        return known.scope.contains(&other.scope) || other.scope.contains(&known.scope);
    }
    let alike = known.evidence.direction == other.evidence.direction && known.notify == other.notify;
    alike
        && shapes
        && known.source == Source::Leftover
        && known.scope.differs_in_one(&other.scope)
        && cosine(&shape(known, fleet), &shape(other, fleet)) >= ALIKE_MIN
}

impl Finding {
    /// Takes in another finding of the same trouble: the scope widens where only one dimension differs.
    fn absorb(&mut self, other: Self, fleet: &Fleet) {
        self.since_ruled.joined = self.since_ruled.joined.saturating_add(1);
        // What is held back hastens nothing that people are told of.
        self.at_once |= other.at_once && (other.notify || !self.notify);
        if self.evidence.metric == other.evidence.metric {
            self.scope = self.scope.joined(&other.scope, fleet);
            self.evidence.observed += other.evidence.observed;
            self.evidence.expected += other.evidence.expected;
            self.evidence.log_ratio =
                crate::correlate::log_ratio(self.evidence.observed, self.evidence.expected, true).0;
            let joined: BTreeSet<&String> = self.scope.stack.iter().collect();
            self.evidence.peers.retain(|peer| !joined.contains(peer));
        }
        self.series.extend(other.series);
        self.severity = self.severity.max(other.severity);
    }
}

impl Scope {
    /// Whether every cell of `other` lies inside, as far as the names tell.
    pub(crate) fn contains(&self, other: &Self) -> bool {
        let within = |outer: &[String], inner: &[String]| {
            outer.is_empty() || (!inner.is_empty() && inner.iter().all(|name| outer.contains(name)))
        };
        within(&self.region, &other.region)
            && within(&self.device, &other.device)
            && within(&self.stack, &other.stack)
    }

    fn differs_in_one(&self, other: &Self) -> bool {
        // Where several regions are hit at once, noise decides which of them show it in a window.
        let shared = self.region.iter().filter(|name| other.region.contains(name)).count();
        let alike = self.region.len().min(other.region.len()) > 1
            && 2 * shared >= self.region.len().max(other.region.len());
        let differs =
            [self.region != other.region && !alike, self.device != other.device, self.stack != other.stack];
        differs.into_iter().filter(|differs| *differs).count() == 1
    }

    /// The union of both; a dimension that comes to hold every name becomes "all".
    fn joined(&self, other: &Self, fleet: &Fleet) -> Self {
        let union = |a: &[String], b: &[String], all: usize| -> Vec<String> {
            if a.is_empty() || b.is_empty() {
                return Vec::new();
            }
            let names: BTreeSet<&String> = a.iter().chain(b).collect();
            if names.len() >= all.max(2) { Vec::new() } else { names.into_iter().cloned().collect() }
        };
        let names = &fleet.names;
        Self {
            region: union(&self.region, &other.region, names.regions.len()),
            device: union(&self.device, &other.device, names.devices.len()),
            stack: union(&self.stack, &other.stack, names.stacks.len()),
        }
    }
}

/// The latest leftovers of the finding's cells, added up.
fn shape(finding: &Finding, fleet: &Fleet) -> [f64; HISTORY_WINDOWS] {
    let mut shape = [0.0; HISTORY_WINDOWS];
    let metric = fleet.names.metrics.find(&finding.evidence.metric);
    for region in &fleet.regions {
        for series in region.series.iter().filter(|s| Some(s.metric) == metric) {
            let cell = &region.cells[series.cell as usize];
            let names = (
                region.name.as_str(),
                fleet.names.devices.get(cell.device),
                fleet.names.stacks.get(cell.stack),
            );
            if finding.scope.holds(names) {
                shape.iter_mut().zip(series.history).for_each(|(sum, value)| *sum += f64::from(value));
            }
        }
    }
    shape
}

pub(crate) fn cosine(a: &[f64; HISTORY_WINDOWS], b: &[f64; HISTORY_WINDOWS]) -> f64 {
    let dot = |x: &[f64; HISTORY_WINDOWS], y: &[f64; HISTORY_WINDOWS]| {
        x.iter().zip(y).map(|(p, q)| p * q).sum::<f64>()
    };
    let size = (dot(a, a) * dot(b, b)).sqrt();
    if size > 0.0 { dot(a, b) / size } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_connect_stacks() {
        let mut fleet = Fleet::default();
        for name in ["search", "payments", "accounts", "orders"] {
            fleet.names.stacks.intern(name, 10);
        }
        let on = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let depends_on = BTreeMap::from([
            ("payments".into(), on(&["ledger"])),
            ("orders".into(), on(&["ledger", "accounts"])),
        ]);
        let groups = groups(&fleet, &depends_on);
        let of = |name: &str| groups[&fleet.names.stacks.find(name).unwrap()];
        assert_eq!(of("payments"), of("orders"));
        assert_eq!(of("payments"), of("accounts"));
        assert_ne!(of("payments"), of("search"));
    }

    #[test]
    fn shapes_compare_by_form() {
        let a = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, -2.0];
        let b = a.map(|v| v * 0.3);
        assert!(cosine(&a, &b) > 0.999);
        assert_eq!(cosine(&a, &[0.0; 8]), 0.0);
    }
}
