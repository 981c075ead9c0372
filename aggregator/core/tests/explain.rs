//! Every decision comes out again from what was stored of it, whatever it was taken from.
//!
//! It must never trust a conclusion: the fleet's tools take each one again. The hard case is two faults that cross: the
//! second one is ruled on what the first one left.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, dead_code, reason = "a test")]

mod play;

use std::collections::BTreeMap;

use play::{BROKEN, CALM, Change, Play, settings};
use vedette_aggregator_core::{Basis, Derivation, IncidentState, MetricSettings, Role, Settings};

#[test]
fn two_faults_that_cross_come_out_again() {
    let mut play = Play::new(settings());
    let regions = ["br", "de", "fr", "it", "jp", "uk"];
    play.windows(60, &regions, CALM);
    // A bad release on one device everywhere, and in one region a worse fault of one stack.
    let both: Change<'_> = &|region, device, stack| match (region, device, stack) {
        ("uk", "tv-lg", "browse") => (0.18, 32.0),
        ("uk", _, "browse") => (0.3, 8.0),
        (_, "tv-lg", _) => (0.6, 4.0),
        _ => (1.0, 1.0),
    };
    play.windows(3, &regions, both);
    let has = |region: &[&str], device: &[&str], stack: &[&str]| {
        let open = play.told.iter().filter(|alarm| alarm.state == IncidentState::Open);
        let mut scopes = open.map(|alarm| &alarm.scope);
        scopes.any(|of| of.region == region && of.device == device && of.stack == stack)
    };
    assert!(has(&[], &["tv-lg"], &[]) && has(&["uk"], &[], &["browse"]), "{:#?}", play.told);
}

#[test]
fn a_latency_in_whole_numbers_comes_out_again() {
    let mut with_latency = settings();
    let metric = MetricSettings { role: Role::Latency, alarm_on: Role::Latency.default_alarm_on() };
    with_latency.metrics.insert("p95".into(), metric);
    with_latency.metrics.remove("errors");
    let mut play = Play::new(Settings { metrics: with_latency.metrics, ..Settings::default() });
    play.latency = true;
    play.windows(60, &["uk"], CALM);
    let slow: Change<'_> = &|_, _, stack| if stack == "search" { (1.0, 2.5) } else { (1.0, 1.0) };
    play.windows(3, &["uk"], slow);
    let told = play.told.iter().find(|alarm| alarm.state == IncidentState::Open).unwrap();
    assert_eq!(told.evidence.metric, "p95");
    assert!(!play.derived.is_empty());
}

#[test]
fn what_is_not_taken_again_is_said() {
    let mut settings = settings();
    settings.pages_per_week = BTreeMap::from([("uk".into(), 1.0)]);
    let mut play = Play::new(settings);
    play.windows(60, &["uk"], CALM);
    play.windows(3, &["uk"], BROKEN);
    let Derivation { checked, unchecked, .. } = play.derived.last().unwrap();
    for said in ["the ruling, from the numbers", "the finding, from the ruling", "leftover, from the cells"] {
        assert!(checked.iter().any(|it| it == said), "{checked:#?}");
    }
    assert!(unchecked.iter().any(|it| it.contains("target")), "{unchecked:#?}");
}

#[test]
fn a_basis_that_cannot_be_read_is_a_difference() {
    let error = serde_json::from_str::<Basis>("{}").unwrap_err();
    let derived = Derivation::unreadable(error);
    assert!(!derived.equal && derived.differences[0].contains("cannot be read"));
}
