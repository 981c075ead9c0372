//! What bad input gets: a typed answer, a count, and the good part kept.
//!
//! It must never pass by accident: each case names the count that has to rise. The hard case is a summary that is good
//! in parts.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test")]

use std::collections::BTreeSet;

use vedette_aggregator_core::{
    Aggregator, AllowedRegions, Disposition, Effect, IncidentState, Kind, Limits, Reason, Settings, Verdict,
};
use vedette_common::wire::{
    CellName, Course, Deviation, Direction, F24, Fraction, NO_TAGS, Phase, RefuseReason, RollUp, Scorer,
    Shape, Summary,
};
use vedette_common::{AgentId, BootId, Lane, MonoMs, Now, RecordKey, Sequence, WallMs};

const WINDOW_MS: u32 = 10_000;
const START: i64 = 1_772_000_000_000;

fn now(window: i64) -> Now {
    Now { wall: WallMs(START + (window + 1) * i64::from(WINDOW_MS)), mono: MonoMs(0) }
}

fn agent() -> AgentId {
    AgentId::parse("edge-1").unwrap()
}

/// A summary of one cell with one roll-up.
fn summary(lane: Lane, sequence: u64, window: i64, region: &str) -> Summary {
    let key = RecordKey { boot: BootId(1), lane, sequence: Sequence(sequence) };
    let mut summary = Summary::new(key, WallMs(START + window * i64::from(WINDOW_MS)), WINDOW_MS);
    let region = summary.strings.intern(region).unwrap();
    let cell = summary.strings.intern("host").unwrap();
    let metric = summary.strings.intern("cpu.busy").unwrap();
    summary.cells.push(CellName { region, device: cell, stack: cell }).unwrap();
    let value = F24::from_f32(1.0);
    summary.roll_ups.push(RollUp { cell: 0, metric, observed: value, expected: value, count: 1 }).unwrap();
    summary
}

fn take(aggregator: &mut Aggregator, window: i64, summary: &Summary) -> Disposition {
    let allowed = AllowedRegions::Named(BTreeSet::from(["uk".into()]));
    aggregator.handle_summary(now(window), &agent(), &allowed, summary)
}

#[test]
fn every_record_is_answered_and_only_the_next_is_applied() {
    let mut aggregator = Aggregator::new(Settings::default());
    assert_eq!(take(&mut aggregator, 0, &summary(Lane::RollUps, 1, 0, "uk")), Disposition::Accepted);
    assert_eq!(take(&mut aggregator, 0, &summary(Lane::RollUps, 1, 0, "uk")), Disposition::Duplicate);
    assert_eq!(take(&mut aggregator, 0, &summary(Lane::RollUps, 3, 0, "uk")), Disposition::Gap);
    assert_eq!(take(&mut aggregator, 0, &summary(Lane::Deviations, 1, 0, "uk")), Disposition::Accepted);
    let mut acknowledged = Vec::new();
    while let Some(effect) = aggregator.poll_effect() {
        let Effect::Acknowledge { key, .. } = effect else { panic!("{effect:?}") };
        acknowledged.push((key.lane, key.sequence.0));
    }
    let (roll_ups, deviations) = ((Lane::RollUps, 1), (Lane::Deviations, 1));
    assert_eq!(acknowledged, [roll_ups, roll_ups, roll_ups, deviations]);
    assert_eq!(aggregator.counts().get(Reason::Duplicate), 1);
    assert_eq!(aggregator.counts().get(Reason::Gap), 1);
    assert_eq!(aggregator.counts().roll_ups, 2);
}

#[test]
fn foreign_regions_and_absurd_windows_are_refused_and_consumed() {
    let mut aggregator = Aggregator::new(Settings::default());
    let refused = Disposition::Refused;
    assert_eq!(
        take(&mut aggregator, 0, &summary(Lane::RollUps, 1, 0, "fr")),
        refused(RefuseReason::RegionForbidden)
    );
    let future = summary(Lane::RollUps, 2, 1_000, "uk");
    assert_eq!(take(&mut aggregator, 0, &future), refused(RefuseReason::WindowOutOfRange));
    let past = summary(Lane::RollUps, 3, -1_000_000, "uk");
    assert_eq!(take(&mut aggregator, 0, &past), refused(RefuseReason::WindowOutOfRange));
    let mut wide = summary(Lane::RollUps, 4, 0, "uk");
    wide.window_ms = 0;
    assert_eq!(take(&mut aggregator, 0, &wide), refused(RefuseReason::Malformed));
    assert_eq!(take(&mut aggregator, 0, &summary(Lane::RollUps, 5, 0, "uk")), Disposition::Accepted);
    for reason in [Reason::RegionForbidden, Reason::WindowFuture, Reason::WindowPast, Reason::WindowWidth] {
        assert_eq!(aggregator.counts().get(reason), 1, "{reason:?}");
    }
}

#[test]
fn an_empty_summary_speaks_for_no_region_that_is_forbidden_by_now() {
    let mut aggregator = Aggregator::new(Settings::default());
    assert_eq!(take(&mut aggregator, 0, &summary(Lane::RollUps, 1, 0, "uk")), Disposition::Accepted);
    let mut empty = summary(Lane::RollUps, 2, 1, "uk");
    (empty.cells, empty.roll_ups) = Default::default();
    let agent = AgentId::parse("edge-1").unwrap();
    let now = Now { mono: MonoMs(20_000), wall: empty.window_start.plus_ms(20_000) };
    let other = AllowedRegions::Named(["fr".to_owned()].into());
    assert_eq!(aggregator.handle_summary(now, &agent, &other, &empty), Disposition::Accepted);
    aggregator.handle_deadline(Now { wall: now.wall.plus_ms(3_600_000), ..now });
    assert_eq!(aggregator.counts().windows_judged, 1, "the first window alone");
}

#[test]
fn the_good_part_of_a_summary_is_kept() {
    let mut aggregator = Aggregator::new(Settings::default());
    let mut bad = summary(Lane::RollUps, 1, 0, "uk");
    bad.roll_ups.push(RollUp { cell: 9, ..bad.roll_ups[0] }).unwrap();
    bad.roll_ups.push(RollUp { metric: 99, ..bad.roll_ups[0] }).unwrap();
    bad.cells.push(CellName { region: 77, device: 0, stack: 0 }).unwrap();
    assert_eq!(take(&mut aggregator, 0, &bad), Disposition::Accepted);
    assert_eq!(aggregator.counts().roll_ups, 1);
    assert_eq!(aggregator.counts().get(Reason::BadIndex), 3);
}

#[test]
fn late_windows_and_full_tables_are_counted() {
    let limits = Limits { cells_per_region_max: 1, ..Limits::default() };
    let mut aggregator = Aggregator::new(Settings { limits, ..Settings::default() });
    take(&mut aggregator, 5, &summary(Lane::RollUps, 1, 5, "uk"));
    aggregator.handle_deadline(now(20));
    take(&mut aggregator, 20, &summary(Lane::RollUps, 2, 5, "uk"));
    assert_eq!(aggregator.counts().get(Reason::Late), 1);
    let mut second = summary(Lane::RollUps, 3, 20, "uk");
    let other = second.strings.intern("other").unwrap();
    second.cells.push(CellName { stack: other, ..second.cells[0] }).unwrap();
    take(&mut aggregator, 20, &second);
    assert_eq!(aggregator.counts().get(Reason::CellsFull), 1);
    assert_eq!(aggregator.snapshot().regions[0].cells.len(), 1);
}

fn deviating(window: i64, score: f32) -> Summary {
    let mut summary = summary(Lane::Deviations, window as u64 + 1, window, "uk");
    let metric = summary.roll_ups[0].metric;
    summary.roll_ups.clear();
    let row = Deviation {
        cell: 0,
        metric,
        tags: NO_TAGS,
        course: Course {
            phase: Phase::Ongoing,
            direction: Direction::Up,
            in_event: false,
            scorer: Scorer::Value,
        },
        onset_s_ago: 10 * (window as u32 + 1),
        observed: F24::from_f32(97.0),
        expected: F24::from_f32(20.0),
        score: Fraction::from_f32(score),
        forecast: Fraction::from_f32(score),
        derivative: Fraction::from_f32(0.0),
        distribution: Fraction::from_f32(score),
        shape: Shape::default(),
    };
    summary.deviations.push(row).unwrap();
    summary
}

fn states(score: f32, windows: i64) -> Vec<(IncidentState, Verdict)> {
    let mut aggregator = Aggregator::new(Settings::default());
    let mut states = Vec::new();
    for window in 0..windows {
        take(&mut aggregator, window, &deviating(window, score));
        aggregator.handle_deadline(now(window + 3));
        while let Some(effect) = aggregator.poll_effect() {
            if let Effect::Incident(alarm) = effect {
                states.push((alarm.state, alarm.verdict));
            }
        }
    }
    states
}

#[test]
fn without_a_config_deviations_are_shown_and_only_lasting_extremes_are_told() {
    let held = (IncidentState::Suppressed, Verdict::Undecided);
    assert_eq!(states(0.9, 1), [], "one window is a spike");
    assert_eq!(states(0.9, 60), [held]);
    assert_eq!(states(1.0, 20), [held]);
    assert_eq!(states(1.0, 60), [held, (IncidentState::Open, Verdict::Malfunction)]);
}

#[test]
fn silent_and_stuck_series_are_faults_of_the_telemetry_and_tell_nobody() {
    for scorer in [Scorer::Silence, Scorer::FlatLine] {
        let mut aggregator = Aggregator::new(Settings::default());
        let mut alarms = Vec::new();
        for window in 0..100 {
            let mut found = deviating(window, 1.0);
            found.deviations[0].course =
                Course { scorer, direction: Direction::Down, ..found.deviations[0].course };
            take(&mut aggregator, window, &found);
            take(&mut aggregator, window, &summary(Lane::RollUps, window as u64 + 1, window, "uk"));
            aggregator.handle_deadline(now(window + 3));
            while let Some(effect) = aggregator.poll_effect() {
                if let Effect::Incident(alarm) = effect {
                    alarms.push((alarm.state, alarm.kind, alarm.verdict));
                }
            }
        }
        assert_eq!(alarms, [(IncidentState::Suppressed, Kind::Telemetry, Verdict::DataFault)], "{scorer:?}");
    }
}
