//! Tests of an incident's life: its times, what held it back, and that a decision can be taken again.
//!
//! They must never depend on how a finding comes about. The hard case is a decision whose stored basis was changed by one
//! bit: that has to be said.

use super::*;
use crate::basis::{Grounds, Look, Part};
use crate::correlate::{Point, log_ratio, take_common_mode};
use crate::evidence::{Direction, ErrorEvidence, Suppressor, SuppressorKind};
use crate::instant::Instant;
use crate::journal::{Journal, Judged};
use crate::ledger::Decision;
use crate::scopes;
use crate::settings::{AlarmOn, Role, Settings};
use std::collections::BTreeSet;
use vedette_common::Now;

const WINDOW_MS: u32 = 300_000;
const MINUTE: i64 = 60_000;

fn look(evidence: &Evidence) -> Look<'_> {
    Look { role: Role::Traffic, alarm_on: AlarmOn::Drop, counts: true, horizon: 0, evidence }
}

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
    let grounds = Grounds::new(&look(&evidence), &[], &|_| Part::default(), &|_| <[String; 3]>::default());
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
        since_ruled: SinceRuled::default(),
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
            let now = Now { mono: MonoMs(end.0.unsigned_abs()), wall: end };
            let judged = Judged { now, end, window_ms: WINDOW_MS, regions, sizes: [3, 5, 5] };
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
fn what_everybody_shares_without_failing_does_not_outlive_its_event() {
    let mut play = Play::new();
    play.show(6, |window| Some(finding(window, -0.5, &["football: final"], false)));
    let after = play.show(20, |window| {
        let mut shared = finding(window, -0.5, &[], false);
        let errors = ErrorEvidence {
            metric: "errors".into(),
            inside: 0.0,
            outside: 0.0,
            significance: 0.0,
            threshold: 1.0,
            raised: false,
        };
        shared.evidence.errors = Some(errors);
        Some(shared)
    });
    assert!(!states(&after).contains(&Open), "errors are measured, and nothing fails");
}

#[test]
fn what_fades_with_its_event_does_not_open() {
    let mut play = Play::new();
    play.show(6, |window| Some(finding(window, -0.8, &["football: final"], false)));
    let after = play.show(20, |window| Some(finding(window, -0.2, &[], false)));
    assert!(!states(&after).contains(&Open));
}

#[test]
fn what_outgrows_its_event_opens_under_the_same_id_and_says_so() {
    let mut play = Play::new();
    let held = play.show(4, |window| Some(finding(window, -0.5, &["football: final"], false)));
    let opened = play.show(2, |window| Some(finding(window, -1.2, &["football: final"], true)));
    assert_eq!((states(&opened), &opened[0].alarm.id), (vec![Open], &held[0].alarm.id));
    let entry = opened[0].entry.as_ref().unwrap();
    assert_eq!(entry.decision, Decision::Release);
    assert_eq!(entry.reason, "it outgrew football: final: of its numbers");
    assert_eq!(opened[0].alarm.evidence.reason, entry.reason);
}

#[test]
fn one_window_is_enough_for_what_outgrows_its_event_by_far() {
    let mut play = Play::new();
    play.show(4, |window| Some(finding(window, -0.5, &["football: final"], false)));
    let far = |window| Some(Finding { at_once: true, ..finding(window, -3.0, &["football: final"], true) });
    let opened = play.show(1, far);
    assert_eq!(states(&opened), [Open]);
    assert!(opened[0].alarm.evidence.reason.starts_with("it outgrew football: final"));
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
fn what_lasts_without_an_explanation_opens_as_a_warning_that_says_so() {
    let lasting = |window| {
        let mut lasting = finding(window, -0.5, &[], false);
        (lasting.notify_after, lasting.verdict) = (Some(6), Verdict::Undecided);
        Some(lasting)
    };
    let mut play = Play::new();
    assert_eq!(states(&play.show(6, lasting)), [Suppressed]);
    let opened = play.show(1, lasting);
    assert_eq!(states(&opened), [Open]);
    let alarm = &opened[0].alarm;
    assert_eq!((alarm.severity, alarm.verdict), (Severity::Warning, Verdict::Malfunction));
    assert!(alarm.evidence.reason.starts_with("has lasted for 35 min"), "{}", alarm.evidence.reason);
    let worse = play.show(6, lasting);
    assert_eq!((states(&worse), worse[0].alarm.severity), (vec![Open], Severity::Critical));
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
    play.fault(24, -0.5);
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
    let part = |p: &Point| Part { inside: p.stack == 0, named: true, explained: Vec::new() };
    let grounds = Grounds::new(&look(&evidence), &compared, &part, &names);
    let ruled = Finding {
        notify: ruling.notify,
        verdict: ruling.verdict,
        at_once: ruling.at_once,
        severity: verdict::severity(&finding(1, shift, &[], true).scope, &evidence, ruling.notify),
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
    assert_eq!(
        derived.counterfactual.unwrap(),
        "had payments, play and search deviated by -49 % too, with errors and latency as usual, -0 % would be left over, and \
         it would not have been told at all"
    );
}

#[test]
fn a_changed_bit_in_the_basis_is_told() {
    let (basis, alarm) = stored_decision();
    let basis: serde_json::Value = serde_json::from_str(&basis).unwrap();
    let flips = [
        "/grounds/cells/0/2/0",
        "/grounds/cells/0/2/1",
        "/grounds/evidence/residual",
        "/grounds/evidence/observed",
        "/finding/evidence/score",
        "/finding/notify",
        "/finding/verdict",
        "/finding/severity",
    ];
    for path in flips {
        let mut changed = basis.clone();
        let place = changed.pointer_mut(path).unwrap_or_else(|| panic!("no {path}"));
        // Evidence is written with six digits; its last one is the least that can differ.
        *place = match place.as_f64() {
            Some(value) if path.contains("cells") => {
                serde_json::json!(f64::from_bits(value.to_bits() ^ (1 << 40)))
            }
            Some(value) => serde_json::json!(value + 1e-6),
            None if path.ends_with("notify") => serde_json::json!(!place.as_bool().unwrap()),
            None if path.ends_with("verdict") => serde_json::json!("undecided"),
            None => serde_json::json!("info"),
        };
        let derived = serde_json::from_value::<Basis>(changed).unwrap().derive(&alarm);
        assert!(!derived.equal && !derived.differences.is_empty(), "{path}");
    }
}

/// A fault as a silence or a maintenance holds it back.
fn covered(window: i64, residual: f64, kind: SuppressorKind) -> Option<Finding> {
    let mut finding = finding(window, residual, &[], true);
    finding.hold();
    let until = Some(Instant(finding.started_at.plus_ms(MINUTE)));
    finding.evidence.suppressor = Some(Suppressor { kind, name: "deploy".into(), until });
    Some(finding)
}

#[test]
fn nobody_is_told_of_an_open_incident_while_something_covers_it() {
    for kind in [SuppressorKind::Silence, SuppressorKind::Maintenance] {
        let mut play = Play::new();
        assert_eq!(states(&play.fault(2, -0.5)), [Open]);
        assert_eq!(states(&play.show(60, |window| covered(window, -0.9, kind))), [], "{kind:?}");
        let after = play.fault(1, -0.5);
        assert_eq!((states(&after), after[0].alarm.severity), (vec![Open], Severity::Critical));
    }
}

#[test]
fn a_fault_that_a_maintenance_leaves_behind_is_told_as_any_other() {
    let mut play = Play::new();
    let held = play.show(4, |window| covered(window, -0.9, SuppressorKind::Maintenance));
    assert_eq!(states(&held), [Suppressed]);
    let opened = play.fault(2, -0.9);
    assert_eq!((states(&opened), &opened[0].alarm.id), (vec![Open], &held[0].alarm.id));
    let reason = &opened[0].alarm.evidence.reason;
    assert!(reason.contains("it outlived deploy by 10 min"), "{reason}");
    assert_eq!(opened[0].entry.as_ref().map(|entry| entry.decision), Some(Decision::Release));
}

#[test]
fn a_maintenance_makes_no_page_of_what_never_was_one() {
    let power_cut = |window| {
        let mut finding = finding(window, -0.9, &[], false);
        finding.source = Source::Common;
        finding
    };
    let mut play = Play::new();
    let during = play.show(12, |window| {
        let mut finding = power_cut(window);
        finding.evidence.suppressor = covered(window, -0.9, SuppressorKind::Maintenance)?.evidence.suppressor;
        Some(finding)
    });
    assert_eq!(states(&during), [Suppressed]);
    assert!(!states(&play.show(60, |window| Some(power_cut(window)))).contains(&Open));
}

#[test]
fn what_a_target_holds_back_does_not_outlive_its_event() {
    let mut play = Play::new();
    play.show(6, |window| Some(finding(window, -0.5, &["football: final"], false)));
    let after = play.show(20, |window| {
        let mut finding = finding(window, -0.5, &[], true);
        finding.hold();
        Some(finding)
    });
    assert!(!states(&after).contains(&Open));
}

#[test]
fn the_hold_asked_for_counts_for_large_deviations_too() {
    let large = |window| Some(Finding { at_once: true, ..finding(window, -1.5, &[], true) });
    let mut play = Play::new();
    play.settings.lifecycle.hold_ms = 15 * MINUTE;
    assert_eq!(states(&play.show(2, large)), []);
    assert_eq!(states(&play.show(1, large)), [Open]);
    assert_eq!(states(&Play::new().show(1, large)), [Open], "without a hold one window is enough");
}

#[test]
fn a_large_deviation_waits_for_an_announced_event_too_unless_errors_are_raised() {
    let large = |window, raised| {
        let mut finding = Finding { at_once: true, ..finding(window, -1.5, &["football: final"], true) };
        finding.evidence.errors = Some(ErrorEvidence {
            metric: "errors".into(),
            inside: 1.0,
            outside: 0.0,
            significance: 8.0,
            threshold: 0.4,
            raised,
        });
        Some(finding)
    };
    for (raised, expected) in [(false, Suppressed), (true, Open)] {
        let mut play = Play::new();
        play.settings.lifecycle.wait_ms = 20 * MINUTE;
        assert_eq!(states(&play.show(1, |window| large(window, raised))), [expected]);
    }
}

#[test]
fn what_waits_is_for_the_record_and_says_until_when() {
    let mut play = Play::new();
    play.settings.lifecycle.wait_ms = 20 * MINUTE;
    let held = play.show(3, |window| Some(finding(window, -0.4, &["football: final"], true)));
    let Alarm { severity, verdict, evidence, .. } = &held[0].alarm;
    assert_eq!((*severity, *verdict), (Severity::Info, Verdict::Undecided));
    assert!(
        evidence.counterfactual.contains("will notify if it lasts beyond"),
        "{}",
        evidence.counterfactual
    );
}

#[test]
fn what_is_held_back_is_no_graver_than_its_latest_window() {
    let announced = |window| Some(finding(window, -0.5, &["football: final"], false));
    let mut play = Play::new();
    play.show(3, announced);
    play.fault(1, -1.2);
    play.show(2, announced);
    let severity = play.journal.iter().map(|incident| incident.severity).next();
    assert_eq!(severity, Some(Severity::Info));
}

#[test]
fn an_incident_stored_before_openings_were_remembered_worsens_all_the_same() {
    let mut play = Play::new();
    play.fault(2, -0.5);
    let mut stored = serde_json::to_value(play.journal.iter().next().unwrap()).unwrap();
    stored.as_object_mut().unwrap().remove("opened_at");
    play.journal.restore(serde_json::from_value(stored).unwrap());
    assert_eq!(states(&play.fault(6, -0.5)), [Open], "it rises to critical");
}

#[test]
fn a_verdict_that_flickers_is_told_ever_more_seldom() {
    let mut play = Play::new();
    let told = play.show(2_000, |window| {
        let calendar: &[&str] = if window % 6 < 3 { &[] } else { &["football: final"] };
        Some(finding(window, -0.5, calendar, false))
    });
    assert!((2..20).contains(&told.len()), "{}", told.len());
}
