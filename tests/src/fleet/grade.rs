//! How good alarms were, measured against the truth: recall, precision, events that paged, delay, overlap of scopes.
//!
//! A page is an incident of kind malfunction that enters the state open: once more for each time it was closed between.
//! A page belongs to a fault if they overlap in time (with the truth's grace after the fault's end) and in scope; the first
//! one found it, the others are extra; a page without a fault is false. Must never look at how alarms came about. The hard
//! case is a page that several faults could explain: it counts for the one with the largest overlap of scope.

use super::Kind;
use super::files::{TrueOccurrence, Truth};
use super::occurrence::NamedScope;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The fields of an alarm that are judged.
#[derive(Clone, Debug, Deserialize)]
pub struct Alarm {
    id: String,
    state: String,
    kind: String,
    at: DateTime<Utc>,
    #[serde(default)]
    scope: NamedScope,
    #[serde(default)]
    evidence: Said,
}

/// The part of an alarm's evidence that tells a reader of mistakes the most.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    metric: String,
    residual: f64,
    common_mode: f64,
    significance: f64,
    reason: String,
}

/// An incident that notified people.
#[derive(Clone, Debug)]
struct Page {
    id: String,
    at: DateTime<Utc>,
    /// As large as it became while open.
    scope: NamedScope,
    said: Said,
}

/// What was measured. Ratios in [0, 1]; a ratio of nothing is absent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Grade {
    /// Faults in the graded time.
    pub malfunctions: usize,
    /// Of them, those that paged.
    pub malfunctions_paged: usize,
    /// Pages without a fault.
    pub false_pages: usize,
    /// Pages beyond the first one of a fault.
    pub extra_pages: usize,
    /// Events in the graded time.
    pub events: usize,
    /// Of them, those during which and where a false page fell.
    pub events_paged: usize,
    /// Silent agents that were reported as telemetry, and all of them.
    pub silences_reported: [usize; 2],
    /// Faults that paged, of all faults.
    pub recall: Option<f64>,
    /// Faults that paged, of them and the false pages.
    pub precision: Option<f64>,
    /// Harmonic mean of both.
    pub f1: Option<f64>,
    /// Events that paged, of all events.
    pub events_paged_share: Option<f64>,
    /// Median time from the beginning of a fault to its page, minutes.
    pub median_delay_minutes: Option<f64>,
    /// Mean Jaccard overlap of the cells of a fault and of its page.
    pub scope_jaccard: Option<f64>,
    /// Faults by sort.
    pub by_cause: BTreeMap<String, Sort>,
    /// Events by class: paged, of all.
    pub events_by_class: BTreeMap<String, [usize; 2]>,
    /// One line for each fault missed, false page and extra page: where to look.
    pub mistakes: Vec<String>,
    /// Entries in the ledger of suppressions, if one was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ledger_entries: Option<usize>,
}

/// How faults of one sort fared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sort {
    /// Those that paged, of all.
    pub paged: [usize; 2],
    /// Median time to the page, minutes.
    pub median_delay_minutes: Option<f64>,
    /// Mean overlap of scope.
    pub scope_jaccard: Option<f64>,
}

/// Alarms from NDJSON; the error names the line.
pub fn parse_alarms(text: &str) -> Result<Vec<Alarm>, String> {
    let numbered = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    numbered
        .map(|(index, line)| {
            serde_json::from_str(line).map_err(|error| format!("line {}: {error}", index + 1))
        })
        .collect()
}

/// Grades alarms against the truth.
pub fn grade(truth: &Truth, alarms: &[Alarm]) -> Grade {
    let graded = |kind: Kind| -> Vec<&TrueOccurrence> {
        truth.occurrences.iter().filter(|it| it.kind == kind && it.from >= truth.graded_from).collect()
    };
    let (faults, events, silences) = (graded(Kind::Malfunction), graded(Kind::Event), graded(Kind::Silence));
    let mut pages = pages(alarms);
    pages.retain(|page| page.at >= truth.graded_from);

    let mut found: Vec<Option<&Page>> = vec![None; faults.len()];
    let (mut false_pages, mut extra_pages, mut mistakes) = (Vec::new(), 0, Vec::new());
    for page in &pages {
        match explanation(truth, &faults, page) {
            Some(index) if found[index].is_none() => found[index] = Some(page),
            Some(index) => {
                extra_pages += 1;
                mistakes.push(format!("extra page {} for {}", told(page), named(faults[index])));
            }
            None => false_pages.push(page),
        }
    }
    mistakes.extend(false_pages.iter().map(|page| false_page(truth, page)));
    let missed = faults.iter().zip(&found).filter(|(_, page)| page.is_none());
    mistakes.extend(missed.map(|(fault, _)| missed_fault(truth, alarms, fault)));

    let event_paged = |event: &TrueOccurrence| false_pages.iter().any(|page| overlaps(truth, event, page));
    let events_paged = events.iter().filter(|event| event_paged(event)).count();
    let reported = silences.iter().filter(|silence| is_reported(truth, alarms, silence)).count();
    let pairs: Vec<(&TrueOccurrence, &Page)> =
        faults.iter().zip(&found).filter_map(|(fault, page)| Some((*fault, (*page)?))).collect();
    let precision = ratio(pairs.len(), pairs.len() + false_pages.len());
    let recall = ratio(pairs.len(), faults.len());
    Grade {
        malfunctions: faults.len(),
        malfunctions_paged: pairs.len(),
        false_pages: false_pages.len(),
        extra_pages,
        events: events.len(),
        events_paged,
        silences_reported: [reported, silences.len()],
        recall,
        precision,
        f1: recall.zip(precision).map(|(recall, precision)| {
            2.0 * recall * precision / (recall + precision).max(f64::MIN_POSITIVE)
        }),
        events_paged_share: ratio(events_paged, events.len()),
        median_delay_minutes: median(pairs.iter().map(|(fault, page)| delay_minutes(fault, page)).collect()),
        scope_jaccard: mean(pairs.iter().map(|(fault, page)| jaccard(truth, &fault.scope, &page.scope))),
        by_cause: by_cause(truth, &faults, &found),
        events_by_class: tally(events.iter().map(|event| (event.cause.clone(), event_paged(event)))),
        mistakes,
        ledger_entries: None,
    }
}

fn by_cause(truth: &Truth, faults: &[&TrueOccurrence], found: &[Option<&Page>]) -> BTreeMap<String, Sort> {
    let causes: BTreeSet<&String> = faults.iter().map(|fault| &fault.cause).collect();
    let sort = |cause: &String| {
        let all = faults.iter().zip(found).filter(|(fault, _)| fault.cause == *cause);
        let paged: Vec<(&TrueOccurrence, &Page)> =
            all.clone().filter_map(|(fault, page)| Some((*fault, (*page)?))).collect();
        Sort {
            paged: [paged.len(), all.count()],
            median_delay_minutes: median(
                paged.iter().map(|(fault, page)| delay_minutes(fault, page)).collect(),
            ),
            scope_jaccard: mean(paged.iter().map(|(fault, page)| jaccard(truth, &fault.scope, &page.scope))),
        }
    };
    causes.into_iter().map(|cause| (cause.clone(), sort(cause))).collect()
}

fn delay_minutes(fault: &TrueOccurrence, page: &Page) -> f64 {
    (page.at - fault.from).num_seconds() as f64 / 60.0
}

/// Each opening of an incident of kind malfunction, with its scope at its largest.
fn pages(alarms: &[Alarm]) -> Vec<Page> {
    let mut open: BTreeMap<&str, usize> = BTreeMap::new();
    let mut pages: Vec<Page> = Vec::new();
    for alarm in alarms.iter().filter(|alarm| alarm.kind == "malfunction") {
        if alarm.state != "open" {
            open.remove(alarm.id.as_str());
        } else if let Some(&index) = open.get(alarm.id.as_str()) {
            pages[index].scope = alarm.scope.clone();
        } else {
            open.insert(&alarm.id, pages.len());
            let (id, scope, said) = (alarm.id.clone(), alarm.scope.clone(), alarm.evidence.clone());
            pages.push(Page { id, at: alarm.at, scope, said });
        }
    }
    pages
}

/// The fault that explains a page best.
fn explanation(truth: &Truth, faults: &[&TrueOccurrence], page: &Page) -> Option<usize> {
    let candidates = faults.iter().enumerate().filter(|(_, fault)| overlaps(truth, fault, page));
    candidates
        .map(|(index, fault)| (index, jaccard(truth, &fault.scope, &page.scope)))
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(index, _)| index)
}

fn overlaps(truth: &Truth, occurrence: &TrueOccurrence, page: &Page) -> bool {
    occurrence.from <= page.at
        && page.at <= occurrence.until + grace(truth)
        && jaccard(truth, &occurrence.scope, &page.scope) > 0.0
}

fn grace(truth: &Truth) -> TimeDelta {
    TimeDelta::seconds(truth.grace_s)
}

fn is_reported(truth: &Truth, alarms: &[Alarm], silence: &TrueOccurrence) -> bool {
    alarms.iter().any(|alarm| {
        let during = silence.from <= alarm.at && alarm.at <= silence.until + grace(truth);
        alarm.kind == "telemetry"
            && alarm.state == "open"
            && during
            && jaccard(truth, &silence.scope, &alarm.scope) > 0.0
    })
}

/// Overlap of two scopes in cells, in [0, 1].
fn jaccard(truth: &Truth, first: &NamedScope, second: &NamedScope) -> f64 {
    let dimensions = [
        (&truth.names.region, &first.region, &second.region),
        (&truth.names.device, &first.device, &second.device),
        (&truth.names.stack, &first.stack, &second.stack),
    ];
    let (mut shared, mut of_first, mut of_second) = (1.0, 1.0, 1.0);
    for (all, first, second) in dimensions {
        let expand = |list: &Vec<String>| -> BTreeSet<String> {
            if list.is_empty() { all } else { list }.iter().cloned().collect()
        };
        let (first, second) = (expand(first), expand(second));
        shared *= first.intersection(&second).count() as f64;
        of_first *= first.len() as f64;
        of_second *= second.len() as f64;
    }
    shared / (of_first + of_second - shared)
}

fn tally(outcomes: impl Iterator<Item = (String, bool)>) -> BTreeMap<String, [usize; 2]> {
    let mut counts: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    for (name, paged) in outcomes {
        let count = counts.entry(name).or_default();
        count[0] += usize::from(paged);
        count[1] += 1;
    }
    counts
}

/// What paged for nothing, and what went on there.
fn false_page(truth: &Truth, page: &Page) -> String {
    let during = truth.occurrences.iter().find(|it| it.kind != Kind::Growth && overlaps(truth, it, page));
    let during = during.map_or(String::new(), |it| format!(" during {}", named(it)));
    format!("false page {}{during}", told(page))
}

/// Incidents that were held back told of a missed fault at most.
const HELD_TOLD_MAX: usize = 3;

/// What was missed, how strong it was, and what was held back where it was.
fn missed_fault(truth: &Truth, alarms: &[Alarm], fault: &TrueOccurrence) -> String {
    let held = alarms.iter().filter(|alarm| alarm.state == "suppressed" && alarm.kind == "malfunction");
    let mut near: Vec<(f64, Page)> = held
        .map(|alarm| Page {
            id: alarm.id.clone(),
            at: alarm.at,
            scope: alarm.scope.clone(),
            said: alarm.evidence.clone(),
        })
        .filter(|page| overlaps(truth, fault, page))
        .map(|page| (jaccard(truth, &fault.scope, &page.scope), page))
        .collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    let near = near.iter().take(HELD_TOLD_MAX).map(|(_, page)| format!("; held back: {}", told(page)));
    format!("missed {}{}", named(fault), near.collect::<String>())
}

fn named(occurrence: &TrueOccurrence) -> String {
    let strength = &occurrence.strength;
    format!(
        "{} {} from {} to {} (traffic x {:.2} of {:.0} in five minutes, errors x {:.1})",
        occurrence.cause,
        place(&occurrence.scope),
        occurrence.from.format("%m-%dT%H:%M"),
        occurrence.until.format("%m-%dT%H:%M"),
        strength.traffic,
        strength.expected,
        strength.errors
    )
}

fn told(page: &Page) -> String {
    let said = &page.said;
    format!(
        "{} {} at {} [{} shared {:+.2} left {:+.2}, {:.1} deviations: {}]",
        page.id,
        place(&page.scope),
        page.at.format("%m-%dT%H:%M"),
        said.metric,
        said.common_mode,
        said.residual,
        said.significance,
        said.reason
    )
}

fn place(scope: &NamedScope) -> String {
    let list = |names: &[String]| if names.is_empty() { "*".to_owned() } else { names.join("+") };
    format!("{}/{}/{}", list(&scope.region), list(&scope.device), list(&scope.stack))
}

fn ratio(part: usize, of: usize) -> Option<f64> {
    (of > 0).then(|| part as f64 / of as f64)
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::Strength;
    use super::super::{Fleet, files};
    use super::*;
    use serde_json::json;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn occurrence(kind: Kind, region: &str, stack: &[&str], from: &str, until: &str) -> TrueOccurrence {
        let scope = NamedScope { region: list(&[region]), device: vec![], stack: list(stack) };
        let time = |text: &str| format!("2026-04-01T{text}:00Z").parse().expect("a time");
        TrueOccurrence {
            kind,
            cause: "test".into(),
            scope,
            from: time(from),
            until: time(until),
            announced: false,
            strength: Strength::default(),
        }
    }

    fn truth() -> Truth {
        let mut truth = files::truth(&Fleet::of_days(1, 2));
        truth.graded_from = "2026-04-01T00:00:00Z".parse().expect("a time");
        truth.occurrences = vec![
            occurrence(Kind::Malfunction, "uk", &["search"], "10:00", "11:00"),
            occurrence(Kind::Malfunction, "japan", &["search"], "10:00", "11:00"),
            occurrence(Kind::Event, "uk", &[], "13:00", "15:00"),
            occurrence(Kind::Event, "japan", &[], "13:00", "15:00"),
            occurrence(Kind::Silence, "brazil", &[], "16:00", "17:00"),
        ];
        truth
    }

    fn alarm(id: &str, state: &str, at: &str, region: &str, stack: &[&str]) -> String {
        let kind = if region == "brazil" { "telemetry" } else { "malfunction" };
        let scope = json!({"region": [region], "device": [], "stack": stack});
        json!({"id": id, "state": state, "kind": kind, "at": format!("2026-04-01T{at}:00Z"), "scope": scope, "extra": 1}).to_string()
    }

    fn graded(lines: &[String]) -> Grade {
        grade(&truth(), &parse_alarms(&lines.join("\n")).expect("alarms"))
    }

    #[test]
    fn a_perfect_run_is_perfect() {
        let grade = graded(&[
            alarm("A", "open", "10:10", "uk", &["search"]),
            alarm("B", "open", "10:05", "japan", &["search"]),
            alarm("C", "suppressed", "13:10", "uk", &[]),
            alarm("D", "open", "16:10", "brazil", &[]),
        ]);
        assert_eq!((grade.recall, grade.precision, grade.f1), (Some(1.0), Some(1.0), Some(1.0)));
        assert_eq!((grade.events_paged, grade.extra_pages, grade.false_pages), (0, 0, 0));
        assert_eq!(grade.silences_reported, [1, 1]);
        assert_eq!(grade.median_delay_minutes, Some(7.5));
        assert_eq!(grade.scope_jaccard, Some(1.0));
        assert!(grade.mistakes.is_empty());
    }

    #[test]
    fn every_mistake_costs() {
        let grade = graded(&[
            alarm("A", "open", "10:10", "uk", &["search", "browse"]),
            alarm("A", "open", "10:15", "uk", &["search", "browse", "playback"]),
            alarm("A", "resolved", "10:20", "uk", &["search"]),
            alarm("A", "open", "10:40", "uk", &["search"]),
            alarm("E", "open", "13:30", "uk", &["browse"]),
            alarm("F", "open", "20:00", "uk", &["browse"]),
        ]);
        assert_eq!((grade.malfunctions_paged, grade.malfunctions), (1, 2));
        assert_eq!((grade.extra_pages, grade.false_pages), (1, 2));
        assert_eq!((grade.events_paged, grade.events), (1, 2));
        assert_eq!(grade.recall, Some(0.5));
        assert_eq!(grade.precision, Some(1.0 / 3.0));
        assert_eq!(grade.scope_jaccard, Some(1.0 / 3.0));
        assert_eq!(grade.silences_reported, [0, 1]);
        assert_eq!(grade.mistakes.len(), 4);
    }

    #[test]
    fn nonsense_is_named_by_its_line() {
        let error = parse_alarms("\n{\"id\":1}\n").expect_err("an id is text");
        assert!(error.starts_with("line 2:"), "{error}");
    }
}
