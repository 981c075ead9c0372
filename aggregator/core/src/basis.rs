//! The basis of a decision: everything that it was taken from, so that it can be taken again.
//!
//! It must never hold a conclusion that is not checked: [`Basis::derive`] runs the judgement's own functions on what is
//! stored. The hard case is a scope with more cells than are kept: what needs all of them is then said to be unchecked.
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use vedette_common::WallMs;

use crate::alarm::{Alarm, Verdict};
use crate::correlate::{HORIZONS, Point, log_ratio, take_common_mode};
use crate::evidence::Evidence;
use crate::incident::{Finding, Incident, Source, Step};
use crate::learned::Share;
use crate::scopes;
use crate::settings::{AlarmOn, Judgement, Lifecycle, Role};
use crate::verdict::{self, Ruling};

/// Cells kept of one decision at most.
const CELLS_MAX: usize = 256;

/// What a ruling was taken from besides its evidence, as it came out of the lattice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Grounds {
    role: Role,
    pub(crate) alarm_on: AlarmOn,
    /// The numbers as they were ruled on, before anything held the finding back.
    evidence: Box<Evidence>,
    /// Whether the metric counts things.
    counts: bool,
    /// The cells of the scope and those it was compared with.
    cells: Vec<ComparedCell>,
    /// Whether these are all.
    complete: bool,
}

/// One cell that took part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct ComparedCell {
    region: String,
    device: String,
    stack: String,
    /// Places of region, device, stack and group, which name them in one decision only.
    places: [u16; 4],
    /// Whether the scope holds it, and whether it lies in a region that the incident names.
    inside: bool,
    named: bool,
    observed: f64,
    expected: f64,
    /// The leftover and its variance from counting over the latest windows, by horizon after that of the window alone.
    #[serde(default)]
    longer: [[f64; 2]; HORIZONS - 1],
    /// The share of what its region shares that it was taken to feel, and how unevenly; its variance from counting.
    share: [f64; 3],
}

impl Grounds {
    /// The grounds of a ruling on the points `inside` among `points`. `names` gives a point's names.
    pub(crate) fn new(
        (role, alarm_on): (Role, AlarmOn),
        evidence: &Evidence,
        points: &[&Point],
        inside: &dyn Fn(&Point) -> (bool, bool),
        names: &dyn Fn(&Point) -> [String; 3],
    ) -> Box<Self> {
        let counts = role != Role::Latency && points.first().is_some_and(|point| point.poisson[0] > 0.0);
        let cell = |point: &&Point| {
            let [region, device, stack] = names(point);
            ComparedCell {
                region,
                device,
                stack,
                places: [point.region, point.device, point.stack, point.group],
                inside: inside(point).0,
                named: inside(point).1,
                observed: point.observed,
                expected: point.expected,
                longer: std::array::from_fn(|it| [point.residual[it + 1], point.poisson[it + 1]]),
                share: [point.share.value, point.share.uneven, point.poisson[0]],
            }
        };
        let complete = points.len() <= CELLS_MAX;
        let cells = points.iter().take(CELLS_MAX).map(cell).collect();
        Box::new(Self { role, alarm_on, evidence: Box::new(evidence.clone()), counts, cells, complete })
    }

    fn rule(&self, source: Source, evidence: &Evidence, judgement: &Judgement) -> Option<Ruling> {
        match source {
            Source::Common => Some(verdict::rule_common(evidence, self.alarm_on, judgement)),
            _ => verdict::rule_leftover(evidence, self.role, judgement),
        }
    }

    /// The cells as the judgement saw them, those outside the scope moved by `peers_by` as a log ratio.
    fn points(&self, peers_by: f64) -> Vec<Point> {
        let point = |(index, cell): (u32, &ComparedCell)| {
            let moved = if cell.inside { 1.0 } else { peers_by.exp() };
            let observed = if peers_by == 0.0 { cell.observed } else { cell.observed * moved };
            let (ratio, _) = log_ratio(observed, cell.expected, self.counts);
            let [value, uneven, now] = cell.share;
            let longer = |of: usize| cell.longer.iter().map(move |it| it[of]);
            let (mut residual, mut poisson) = ([0.0; HORIZONS], [now; HORIZONS]);
            residual[1..].iter_mut().zip(longer(0)).for_each(|(to, from)| *to = from);
            poisson[1..].iter_mut().zip(longer(1)).for_each(|(to, from)| *to = from);
            let [region, device, stack, group] = cell.places;
            Point {
                region,
                device,
                stack,
                group,
                series: index,
                observed,
                expected: cell.expected,
                log_ratio: ratio,
                share: Share { value, uneven },
                mode: 0.0,
                common_mode: 0.0,
                disturbance: 0.0,
                counted: [[observed, cell.expected]; HORIZONS],
                residual,
                poisson,
                explained: 0.0,
            }
        };
        let mut points: Vec<Point> = (0..).zip(&self.cells).map(point).collect();
        // Each region has a common mode of its own.
        points.chunk_by_mut(|a, b| a.region == b.region).for_each(|region| drop(take_common_mode(region)));
        points
    }

    /// The leftover of the scope by horizon, once more from its cells, and what its peers share.
    fn leftover(&self, peers_by: f64) -> ([f64; HORIZONS], f64) {
        let points = self.points(peers_by);
        let members: Vec<usize> = (0..points.len()).filter(|index| self.cells[*index].inside).collect();
        let pooled: [scopes::Sums; HORIZONS] =
            std::array::from_fn(|horizon| scopes::pool(&points, &members, horizon));
        (pooled.map(|it| it.shift), pooled[0].common_mode)
    }
}

/// Everything that one decision was taken from. A few KB; bounded by the cells and series kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Basis {
    /// The end of the window judged, and its width.
    at: WallMs,
    window_ms: u32,
    judgement: Judgement,
    lifecycle: Lifecycle,
    /// The incident before the window.
    before: Box<Incident>,
    /// What the window showed of it.
    finding: Box<Finding>,
    grounds: Option<Box<Grounds>>,
}

/// What came out when a decision was taken again.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Derivation {
    /// Whether everything came out as it was told.
    pub equal: bool,
    /// What did not, in words.
    pub differences: Vec<String>,
    /// What was taken again, in words.
    pub checked: Vec<String>,
    /// The peers and what they showed.
    pub compared: Vec<Compared>,
    /// What would have been decided had the peers deviated like the scope; none without peers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counterfactual: Option<String>,
}

/// One stack of a region that a scope was compared with.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// The region.
    pub region: String,
    /// The stack.
    pub stack: String,
    /// Whether its cells belong to the scope.
    pub inside: bool,
    /// Sums over its cells.
    pub observed: f64,
    /// Sums over its cells.
    pub expected: f64,
}

impl Basis {
    pub(crate) fn new(step: Step<'_>, before: Incident, mut finding: Finding) -> Self {
        let grounds = finding.evidence.grounds.take();
        Self {
            at: step.at,
            window_ms: step.window_ms,
            judgement: step.judgement.clone(),
            lifecycle: step.lifecycle.clone(),
            before: Box::new(before),
            finding: Box::new(finding),
            grounds,
        }
    }

    /// Takes the decision again with the judgement's own functions, and compares it with what was `told`.
    pub fn derive(&self, told: &Alarm) -> Derivation {
        let mut derivation = Derivation {
            equal: true,
            differences: Vec::new(),
            checked: Vec::new(),
            compared: Vec::new(),
            counterfactual: None,
        };
        if let Some(grounds) = &self.grounds {
            self.derive_numbers(grounds, &mut derivation);
            self.derive_ruling(grounds, &mut derivation);
            derivation.compared = compared(grounds);
            derivation.counterfactual = self.had_peers_followed(grounds);
        }
        self.derive_state(told, &mut derivation);
        derivation.equal = derivation.differences.is_empty();
        derivation
    }

    fn derive_numbers(&self, grounds: &Grounds, derivation: &mut Derivation) {
        let evidence = &grounds.evidence;
        let inside = grounds.cells.iter().filter(|cell| cell.inside && cell.named);
        let sums = inside.fold((0.0, 0.0), |sum, cell| (sum.0 + cell.observed, sum.1 + cell.expected));
        if !grounds.complete {
            return derivation
                .checked
                .push("the numbers of the cells are not checked: not all are kept".into());
        }
        derivation.compare("observed", round(sums.0), evidence.observed);
        derivation.compare("expected", round(sums.1), evidence.expected);
        let (leftover, common_mode) = grounds.leftover(0.0);
        let now = leftover[0];
        match self.finding.source {
            Source::Common => {
                // The size of an event is measured as if each cell felt all of it.
                let mut points = grounds.points(0.0);
                points.iter_mut().for_each(|point| point.share.value = 1.0);
                derivation.compare(
                    "common mode",
                    round(take_common_mode(&mut points).value),
                    evidence.common_mode,
                );
            }
            // A cell that a broader scope explained first shows only what that left.
            _ if leftover.iter().any(|left| round(*left) == evidence.residual) => {
                derivation.checked.push("the leftover and the common mode, from the cells".into());
                if round(now) == evidence.residual {
                    derivation.compare("common mode", round(common_mode), evidence.common_mode);
                }
            }
            _ => derivation.compare("leftover", round(now), evidence.residual),
        }
    }

    fn derive_ruling(&self, grounds: &Grounds, derivation: &mut Derivation) {
        let source = self.finding.source;
        let Some(ruling) = grounds.rule(source, &grounds.evidence, &self.judgement) else {
            return derivation.differences.push("the numbers are too weak to be told at all".into());
        };
        let said = (&grounds.evidence.reason, &grounds.evidence.counterfactual);
        if (&ruling.reason, &ruling.counterfactual) == said {
            derivation.checked.push("the ruling, from the numbers".into());
        } else {
            derivation.differences.push(format!("ruled now: {}; told: {}", ruling.reason, said.0));
        }
    }

    fn derive_state(&self, told: &Alarm, derivation: &mut Derivation) {
        let mut incident = (*self.before).clone();
        let step = Step {
            at: self.at,
            window_ms: self.window_ms,
            judgement: &self.judgement,
            lifecycle: &self.lifecycle,
        };
        let mut finding = (*self.finding).clone();
        finding.evidence.grounds.clone_from(&self.grounds);
        let again = incident.take(finding, step).map(|told| told.alarm);
        match again {
            Some(alarm) if alarm == *told => {
                derivation.checked.push("the state, from the incident before and the finding".into());
            }
            Some(alarm) => derivation.differences.push(format!(
                "decided now: {}, {}, {}; told: {}, {}, {}",
                alarm.state.as_str(),
                alarm.severity.as_str(),
                alarm.evidence.reason,
                told.state.as_str(),
                told.severity.as_str(),
                told.evidence.reason
            )),
            None => derivation
                .differences
                .push(format!("nothing would be told now; told: {}", told.state.as_str())),
        }
    }

    /// Lets the peers deviate like the scope, and judges that.
    fn had_peers_followed(&self, grounds: &Grounds) -> Option<String> {
        let evidence = &grounds.evidence;
        let outside: BTreeSet<&str> =
            grounds.cells.iter().filter(|cell| !cell.inside).map(|cell| cell.stack.as_str()).collect();
        if self.finding.source == Source::Common || outside.is_empty() || !grounds.complete {
            return None;
        }
        let ([now, ..], common_mode) = grounds.leftover(evidence.residual);
        let deviation = evidence.tolerance / self.judgement.significance;
        let significance = if deviation > 0.0 { now.abs() / deviation } else { 0.0 };
        let (residual, common_mode, significance) = (round(now), round(common_mode), round(significance));
        let errors = None;
        let moved = Evidence { residual, common_mode, significance, errors, ..(**evidence).clone() };
        let ruling = grounds.rule(self.finding.source, &moved, &self.judgement);
        let verdict = match ruling {
            Some(ruling) if ruling.notify && ruling.verdict == Verdict::Malfunction => {
                "would still have notified"
            }
            Some(_) => "would have been held back",
            None => "would not have been told at all",
        };
        let names: Vec<String> = outside.into_iter().map(Into::into).collect();
        Some(format!(
            "had {} deviated by {:+.0} % too, {:+.0} % would be left over, and it {verdict}",
            crate::alarm::list(&names),
            (evidence.residual.exp() - 1.0) * 100.0,
            (now.exp() - 1.0) * 100.0
        ))
    }
}

impl Derivation {
    fn compare(&mut self, what: &str, again: f64, told: f64) {
        if again.to_bits() == told.to_bits() {
            self.checked.push(format!("{what}, from the cells"));
        } else {
            self.differences.push(format!("{what}: {again} now, {told} told"));
        }
    }
}

/// Sums by region and stack, the scope's own first.
fn compared(grounds: &Grounds) -> Vec<Compared> {
    let mut compared: Vec<Compared> = Vec::new();
    for cell in &grounds.cells {
        let same = |known: &&mut Compared| {
            (known.inside, &known.region, &known.stack) == (cell.inside, &cell.region, &cell.stack)
        };
        match compared.iter_mut().find(same) {
            Some(known) => {
                known.observed += cell.observed;
                known.expected += cell.expected;
            }
            None => compared.push(Compared {
                region: cell.region.clone(),
                stack: cell.stack.clone(),
                inside: cell.inside,
                observed: cell.observed,
                expected: cell.expected,
            }),
        }
    }
    compared.sort_by(|a, b| (!a.inside, &a.region, &a.stack).cmp(&(!b.inside, &b.region, &b.stack)));
    compared
}

fn round(value: f64) -> f64 {
    crate::evidence::round(value)
}
