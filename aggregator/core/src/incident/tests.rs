//! Tests of an incident's life: its times, what held it back, and that a decision can be taken again.
//!
//! They must never depend on how a finding comes about. The hard case is a decision whose stored basis was changed by one
//! bit: that has to be said.

use super::*;
use crate::basis::Grounds;
use crate::correlate::{Point, log_ratio, take_common_mode};
use crate::evidence::Direction;
use crate::journal::{Journal, Judged};
use crate::scopes;
use crate::settings::{AlarmOn, Role, Settings};
use std::collections::BTreeSet;

const WINDOW_MS: u32 = 300_000;
const MINUTE: i64 = 60_000;

/// A scope that shows `residual`, ruled on as the judgement would.
fn finding(window: i64, residual: f64, calendar: &[&str], notify: bool) -> Finding {
    let started_at = WallMs(window * i64::from(WINDOW_MS));
    let verdict = match (notify, calendar.is_empty()) {
        (true, _) => Verdict::Malfunction,
        (false, true) => Verdict::ExternalEvent,
        (false, false) => Verdict::ScheduledEvent,
    };
    let evidence = Evidence {
        metric: "activity".into(),
        residual,
        calendar: calendar.iter().map(ToString::to_string).collect(),
        reason: "of its numbers".into(),
        ..Evidence::nothing(Direction::Drop)
    };
    let part = (Role::Traffic, AlarmOn::Drop);
    let grounds = Grounds::new(part, &evidence, &[], &|_| (true, true), &|_| <[String; 3]>::default());
    Finding {
        source: Source::Leftover,
        scope: Scope { region: vec!["uk".into()], stack: vec!["browse".into()], ..Scope::default() },
        verdict,
        notify,
        notify_after: None,
        at_once: false,
        weight: 1.0,
        severity: if notify { Severity::Warning } else { Severity::Info },
        started_at,
        evidence: Evidence { grounds: Some(grounds), ..evidence },
        series: Vec::new(),
    }
}

/// A journal and the windows that it has judged.
struct Play {
    journal: Journal,
    settings: Settings,
    window: i64,
}

impl Play {
    fn new() -> Self {
        let mut settings = Settings::default();
        settings.lifecycle.extension_ms = 30 * MINUTE;
        Self { journal: Journal::default(), settings, window: 0 }
    }

    /// `windows` windows that show what `make` makes of each, or nothing.
    fn show(&mut self, windows: i64, make: impl Fn(i64) -> Option<Finding>) -> Vec<Told> {
        let mut told = Vec::new();
        for _ in 0..windows {
            self.window += 1;
            let end = WallMs((self.window + 1) * i64::from(WINDOW_MS));
            let regions = BTreeSet::from(["uk"]);
            let judged = Judged { end, window_ms: WINDOW_MS, regions, sizes: [3, 5, 5] };
            let findings = make(self.window).into_iter().collect();
            let mut counts = crate::Counts::default();
            told.extend(self.journal.step(findings, &judged, &self.settings, &mut counts));
        }
        told
    }

    fn fault(&mut self, windows: i64, residual: f64) -> Vec<Told> {
        self.show(windows, |window| Some(finding(window, residual, &[], true)))
    }

    fn quiet(&mut self, windows: i64) -> Vec<Told> {
        self.show(windows, |_| None)
    }
}

fn states(told: &[Told]) -> Vec<IncidentState> {
    told.iter().map(|told| told.alarm.state).collect()
}

use IncidentState::{Open, Resolved, Suppressed};

#[test]
fn times_hold_whatever_the_width_of_a_window() {
    let mut play = Play::new();
    play.settings.lifecycle.hold_ms = 20 * MINUTE;
    assert_eq!(states(&play.fault(3, -0.3)), []);
    assert_eq!(states(&play.fault(1, -0.3)), [Open]);
    play.settings.lifecycle.quiet_ms = 60 * MINUTE;
    assert_eq!(states(&play.quiet(11)), []);
    assert_eq!(states(&play.quiet(1)), [Resolved]);
}

#[test]
fn what_flaps_is_one_incident_that_takes_longer_to_end() {
    let mut play = Play::new();
    let first = play.fault(2, -0.3);
    assert_eq!(states(&play.quiet(4)), [Resolved]);
    let again = play.fault(2, -0.3);
    assert_eq!(states(&again), [Open]);
    assert_eq!((&again[0].alarm.id, again[0].alarm.returns), (&first[0].alarm.id, 1));
    assert!(again[0].alarm.change.as_ref().is_some_and(|change| change.contains("1st time")));
    assert_eq!(states(&play.quiet(7)), [], "after a return the quiet has to last twice as long");
    assert_eq!(states(&play.quiet(1)), [Resolved]);
    play.quiet(40);
    assert_ne!(play.fault(2, -0.3)[0].alarm.id, first[0].alarm.id, "long after its end it is another one");
}

#[test]
fn an_incident_that_lasts_worsens_once_and_a_large_one_sooner() {
    for (residual, windows) in [(-0.5, 6), (-0.3, 24)] {
        let mut play = Play::new();
        assert_eq!(states(&play.fault(2, residual)), [Open]);
        assert_eq!(states(&play.fault(windows - 1, residual)), []);
        let worse = play.fault(1, residual);
        assert_eq!((states(&worse), worse[0].alarm.severity), (vec![Open], Severity::Critical));
        assert!(!worse[0].alarm.opens(), "it is no further page");
        assert_eq!(states(&play.fault(60, residual)), []);
    }
}

#[test]
fn what_outlives_its_event_opens_after_the_extension_under_the_same_id() {
    let mut play = Play::new();
    let held = play.show(6, |window| Some(finding(window, -0.5, &["football: final"], false)));
    assert_eq!(states(&held), [Suppressed]);
    let after = |window| Some(finding(window, -0.45, &[], false));
    let extended = play.show(5, after);
    assert_eq!(extended[0].entry.as_ref().map(|entry| entry.decision), Some(Decision::Extend));
    assert!(extended[0].alarm.evidence.reason.contains("football: final is over"));
    assert_eq!(extended.len(), 1, "nothing is told twice");
    let opened = play.show(4, after);
    assert_eq!((states(&opened), &opened[0].alarm.id), (vec![Open], &held[0].alarm.id));
    assert_eq!(opened[0].entry.as_ref().map(|entry| entry.decision), Some(Decision::Release));
    assert!(opened[0].alarm.evidence.reason.contains("it outlived football: final by"));
    assert_eq!(opened[0].alarm.severity, Severity::Warning);
}

#[test]
fn what_fades_with_its_event_does_not_open() {
    let mut play = Play::new();
    play.show(6, |window| Some(finding(window, -0.8, &["football: final"], false)));
    let after = play.show(20, |window| Some(finding(window, -0.2, &[], false)));
    assert!(!states(&after).contains(&Open));
}

#[test]
fn what_outgrows_its_event_opens_at_once_under_the_same_id() {
    let mut play = Play::new();
    let held = play.show(4, |window| Some(finding(window, -0.5, &["football: final"], false)));
    let opened = play.fault(2, -1.2);
    assert_eq!((states(&opened), &opened[0].alarm.id), (vec![Open], &held[0].alarm.id));
}

#[test]
fn an_announced_event_is_waited_for_where_that_is_asked() {
    let announced = |window| Some(finding(window, -0.4, &["football: final"], true));
    let mut play = Play::new();
    play.settings.lifecycle.wait_ms = 20 * MINUTE;
    let held = play.show(3, announced);
    assert_eq!(states(&held), [Suppressed]);
    assert!(held[0].alarm.evidence.reason.contains("waits until"));
    let opened = play.show(3, announced);
    assert_eq!((states(&opened), &opened[0].alarm.id), (vec![Open], &held[0].alarm.id));
    assert_eq!(states(&Play::new().show(3, announced)), [Open], "without a wait it is told");
}

#[test]
fn a_part_that_goes_on_by_itself_says_what_it_split_from() {
    let mut play = Play::new();
    let whole = |window| {
        let mut whole = finding(window, -0.5, &[], true);
        whole.scope.stack = vec!["browse".into(), "search".into()];
        Some(whole)
    };
    let first = play.show(4, whole);
    play.fault(8, -0.5);
    let part = play.show(3, |window| {
        let mut part = finding(window, -0.5, &[], true);
        part.scope.stack = vec!["search".into()];
        Some(part)
    });
    let split = part.iter().find(|told| told.alarm.state == Open).unwrap();
    assert_eq!(split.alarm.split_from.as_ref(), Some(&first[0].alarm.id));
}

/// Four stacks on three devices in one region: `browse` has lost half.
fn ruled(settings: &Settings) -> (Finding, Evidence) {
    let point = |device: u16, stack: u16| {
        let observed = if stack == 0 { 500.0 } else { 990.0 + f64::from(device) };
        let (ratio, poisson) = log_ratio(observed, 1000.0, true);
        Point {
            region: 0,
            device,
            stack,
            group: stack,
            series: 0,
            observed,
            expected: 1000.0,
            log_ratio: ratio,
            share: crate::learned::Share { value: 1.0, uneven: 0.3 },
            mode: 0.0,
            common_mode: 0.0,
            disturbance: 0.0,
            counted: [[0.0; 2]; crate::correlate::HORIZONS],
            residual: [0.0; crate::correlate::HORIZONS],
            poisson: [poisson; crate::correlate::HORIZONS],
            explained: 0.0,
        }
    };
    let mut points: Vec<Point> =
        (0..3).flat_map(|device| (0..4).map(move |stack| point(device, stack))).collect();
    take_common_mode(&mut points);
    let members: Vec<usize> = (0..points.len()).filter(|index| points[*index].stack == 0).collect();
    let scopes::Sums { shift, common_mode, .. } = scopes::pool(&points, &members, 0);
    let evidence = Evidence {
        metric_is_traffic: true,
        observed: 1500.0,
        expected: 3000.0,
        common_mode,
        residual: shift,
        tolerance: 0.4,
        significance: shift.abs() / 0.4 * settings.judgement.significance,
        significance_threshold: settings.judgement.significance,
        peers: vec!["payments".into(), "play".into(), "search".into()],
        ..finding(0, shift, &[], true).evidence
    }
    .settled();
    let ruling = verdict::rule_leftover(&evidence, Role::Traffic, &settings.judgement).unwrap();
    let evidence =
        Evidence { reason: ruling.reason, counterfactual: ruling.counterfactual, grounds: None, ..evidence };
    let names = |point: &Point| {
        let stack = ["browse", "payments", "play", "search"][usize::from(point.stack)];
        ["uk".to_owned(), format!("tv-{}", point.device), stack.to_owned()]
    };
    let compared: Vec<&Point> = points.iter().collect();
    let part = (Role::Traffic, AlarmOn::Drop);
    let grounds = Grounds::new(part, &evidence, &compared, &|p| (p.stack == 0, true), &names);
    let ruled = Finding {
        notify: ruling.notify,
        verdict: ruling.verdict,
        evidence: Evidence { grounds: Some(grounds), ..evidence.clone() },
        ..finding(1, shift, &[], true)
    };
    (ruled, evidence)
}

fn stored_decision() -> (String, Alarm) {
    let mut play = Play::new();
    let (ruled, _) = ruled(&play.settings);
    let told = play.show(2, |_| Some(ruled.clone())).pop().unwrap();
    let alarm = serde_json::to_string(&told.alarm).unwrap();
    (serde_json::to_string(&told.basis.unwrap()).unwrap(), serde_json::from_str(&alarm).unwrap())
}

#[test]
fn a_decision_comes_out_again_to_the_bit_from_what_was_stored() {
    let (basis, alarm) = stored_decision();
    let derived = serde_json::from_str::<Basis>(&basis).unwrap().derive(&alarm);
    assert!(derived.equal, "{:#?}", derived.differences);
    assert!(derived.checked.len() >= 5, "{:?}", derived.checked);
    assert_eq!(derived.compared.len(), 4);
    let followed = derived.counterfactual.unwrap();
    assert!(
        followed.contains("payments, play and search") && followed.contains("held back")
            || followed.contains("not have been told"),
        "{followed}"
    );
}

#[test]
fn a_changed_bit_in_the_basis_is_told() {
    let (basis, alarm) = stored_decision();
    let basis: serde_json::Value = serde_json::from_str(&basis).unwrap();
    let flips = [
        "/grounds/cells/0/observed",
        "/grounds/cells/0/expected",
        "/grounds/evidence/residual",
        "/grounds/evidence/observed",
        "/finding/evidence/score",
    ];
    for path in flips {
        let mut changed = basis.clone();
        let place = changed.pointer_mut(path).unwrap_or_else(|| panic!("no {path}"));
        let value = place.as_f64().unwrap();
        // Evidence is written with six digits; its last one is the least that can differ.
        let flipped =
            if path.contains("cells") { f64::from_bits(value.to_bits() ^ (1 << 40)) } else { value + 1e-6 };
        *place = serde_json::json!(flipped);
        let derived = serde_json::from_value::<Basis>(changed).unwrap().derive(&alarm);
        assert!(!derived.equal && !derived.differences.is_empty(), "{path}");
    }
}
