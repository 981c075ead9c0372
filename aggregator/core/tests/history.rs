//! Backlogs of hours: what came late is judged and recorded, pages nobody, and keeps nothing fresh waiting.
//!
//! It must never ask a clock: hours pass between two calls. The hard case is the order in which an agent drains after an
//! outage: the deviations of all its windows come before the first roll-up.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, dead_code, reason = "a test")]

mod play;

use play::{BROKEN, CALM, Change, MINUTE, Play, WIDE_MS, settings, states};
use vedette_aggregator_core::{Alarm, AllowedRegions, IncidentState, Kind, Reason, Settings};
use vedette_common::wire::{
    CellName, Course, Deviation, Direction, F24, Fraction, NO_TAGS, Phase, Scorer, Shape, Summary,
};
use vedette_common::{AgentId, BootId, Lane, RecordKey, Sequence, WallMs};

/// Windows of a backlog of twelve hours, and those of the fault in it.
const BACKLOG: i64 = 144;
const FAULT: std::ops::Range<i64> = 40..70;

/// An agent that reported for hours is cut off for twelve hours; gives when.
fn cut_off() -> (Play, WallMs) {
    let mut play = Play::new(settings());
    play.windows(60, &["uk"], CALM);
    let from = play.now.window_start(WIDE_MS);
    play.pass(BACKLOG * 5 * MINUTE);
    (play, from)
}

const fn window(from: WallMs, index: i64) -> WallMs {
    from.plus_ms(index * WIDE_MS as i64)
}

/// Everything that waited comes within a moment, broken in `fault`.
fn drain(play: &mut Play, from: WallMs, fault: &std::ops::Range<i64>) {
    for index in 0..BACKLOG {
        let change: Change<'_> = if fault.contains(&index) { BROKEN } else { CALM };
        play.summary("uk", window(from, index), WIDE_MS, change);
    }
}

/// The deviations of one window, which travel ahead of its roll-ups.
fn say_deviation(play: &mut Play, start: WallMs, sequence: u64) {
    let key = RecordKey { boot: BootId(1), lane: Lane::Deviations, sequence: Sequence(sequence) };
    let mut summary = Summary::new(key, start, WIDE_MS);
    let [region, device, stack, metric] =
        ["uk", "tv-lg", "playback", "activity"].map(|name| summary.strings.intern(name).unwrap());
    summary.cells.push(CellName { region, device, stack }).unwrap();
    let (phase, direction) = (Phase::Ongoing, Direction::Down);
    let row = Deviation {
        cell: 0,
        metric,
        tags: NO_TAGS,
        course: Course { phase, direction, in_event: false, scorer: Scorer::Value },
        onset_s_ago: 300,
        observed: F24::from_f32(900.0),
        expected: F24::from_f32(3_000.0),
        score: Fraction::from_f32(0.9),
        forecast: Fraction::from_f32(0.9),
        derivative: Fraction::from_f32(0.0),
        distribution: Fraction::from_f32(0.9),
        shape: Shape::default(),
    };
    summary.deviations.push(row).unwrap();
    let agent = AgentId::parse("edge-uk").unwrap();
    play.aggregator.handle_summary(play.instant(), &agent, &AllowedRegions::All, &summary);
}

/// What was told of malfunctions; that the agent was silent is another matter.
fn malfunctions(told: &[Alarm]) -> Vec<&Alarm> {
    told.iter().filter(|alarm| alarm.kind == Kind::Malfunction).collect()
}

#[test]
fn a_fault_that_was_over_hours_ago_is_recorded_and_pages_nobody() {
    let (mut play, from) = cut_off();
    drain(&mut play, from, &FAULT);
    let told = play.pass(MINUTE);
    assert_eq!(states(&told, Kind::Malfunction), [IncidentState::Suppressed, IncidentState::Resolved]);
    let reason = &malfunctions(&told)[0].evidence.reason;
    assert!(reason.starts_with("history: it came "), "{reason}");
    assert!(play.aggregator.counts().history_windows >= BACKLOG as u64 - 14);
    assert_eq!(play.aggregator.counts().get(Reason::Late), 0);
}

#[test]
fn a_fault_that_lasts_pages_as_soon_as_timely_data_shows_it() {
    let (mut play, from) = cut_off();
    drain(&mut play, from, &(FAULT.start..BACKLOG));
    let told = play.pass(MINUTE);
    let of = states(&told, Kind::Malfunction);
    assert_eq!(of, [IncidentState::Suppressed, IncidentState::Open], "one incident, one page");
    let of = malfunctions(&told);
    assert_eq!(of[0].id, of[1].id);
    let opened_after = of[1].at.0.ms_since(from) / i64::from(WIDE_MS);
    assert!(opened_after >= BACKLOG - 12, "the first window within the hour, not {opened_after}");
}

#[test]
fn how_late_is_too_late_is_a_setting() {
    let mut patient = settings();
    patient.timing.history_after_ms = 24 * 60 * MINUTE;
    for (settings, pages) in [(patient, true), (settings(), false)] {
        let mut play = Play::new(settings);
        play.windows(60, &["uk"], CALM);
        let from = play.now.window_start(WIDE_MS);
        play.pass(BACKLOG * 5 * MINUTE);
        drain(&mut play, from, &FAULT);
        let told = play.pass(MINUTE);
        assert_eq!(states(&told, Kind::Malfunction).contains(&IncidentState::Open), pages);
    }
}

/// The lane of deviations drains first, a fresh one at its end; then the roll-ups of twelve hours.
#[test]
fn deviations_that_come_hours_ahead_of_their_roll_ups_are_judged_with_them() {
    let (mut play, from) = cut_off();
    for (sequence, index) in (1..).zip(FAULT) {
        say_deviation(&mut play, window(from, index), sequence);
    }
    assert_eq!(play.aggregator.counts().get(Reason::WindowsFull), 0, "they wait for their roll-ups");
    drain(&mut play, from, &FAULT);
    let told = play.pass(MINUTE);
    assert_eq!(play.aggregator.counts().get(Reason::Late), 0, "no roll-up came too late");
    assert_eq!(states(&told, Kind::Malfunction), [IncidentState::Suppressed, IncidentState::Resolved]);
}

#[test]
fn what_waits_for_roll_ups_is_bounded() {
    let mut bounded = Settings { ..settings() };
    bounded.limits.ahead_deviations_max = 20;
    let mut play = Play::new(bounded);
    play.windows(60, &["uk"], CALM);
    let from = play.now.window_start(WIDE_MS);
    play.pass(BACKLOG * 5 * MINUTE);
    for (sequence, index) in (1..).zip(FAULT) {
        say_deviation(&mut play, window(from, index), sequence);
    }
    assert_eq!(play.aggregator.counts().get(Reason::WindowsFull), 10);
}
