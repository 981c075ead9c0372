//! The stages from received bytes to a summary, each in a function of its own, for a profiler to count.
//!
//! `tests/instructions.sh` runs it under callgrind. It must never be timed: it prints nothing but how many observations
//! each stage had. The hard case is that parsing and look-up happen inside the pipeline; a batch that comes a second time
//! goes through them alone, since all of it is dropped as duplicates then.
#![allow(clippy::print_stdout, reason = "the number of observations is its result")]

use std::fmt::Write;
use std::hint::black_box;

use vedette_agent_core::batch::{self, LANES, Observation};
use vedette_agent_core::deviation::{DeviationSettings, DeviationState, Interest};
use vedette_agent_core::key::DefaultTags;
use vedette_agent_core::parse::{Format, Precision};
use vedette_agent_core::pipeline::{Pipeline, PipelineMemory, PipelineSettings};
use vedette_agent_core::score::{Learning, Moment, SeriesState};
use vedette_common::wire::Summary;
use vedette_common::{BootId, Lane, MonoMs, Now, RecordKey, Sequence, WallMs};

const SERIES: i64 = 200;
/// Rounds that only teach, and rounds that are counted.
const WARM_UP: i64 = 400;
const COUNTED: i64 = 100;
const STEP_MS: i64 = 10_000;
const START: WallMs = WallMs(1_748_822_400_000);

/// A level for each series, a day's wave and noise, the same on every run.
fn value(series: i64, round: i64) -> f64 {
    let n = series * 1_000_003 + round;
    let noise = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407) >> 40;
    let wave = (round * STEP_MS / 1000 % 86_400 - 43_200).abs() as f64 / 43_200.0;
    (100.0 + series as f64) * (1.5 - 0.5 * wave) + (noise & 0xff) as f64 / 16.0
}

fn text(round: i64, at: WallMs) -> String {
    let mut text = String::new();
    for series in 0..SERIES {
        let (value, at) = (value(series, round), at.0);
        writeln!(
            text,
            "activity,device=tv,host=edge-{series:05},region=uk,stack=playback value={value:.2} {at}000000"
        )
        .expect("a string takes any text");
    }
    text
}

fn lend<T: Default + Clone>(length: usize) -> &'static mut [T] {
    vec![T::default(); length].leak()
}

fn pipeline() -> Pipeline<'static> {
    let settings = PipelineSettings::for_series(SERIES as u32);
    let lengths = settings.lengths();
    let memory = PipelineMemory {
        slots: lend(lengths.slots),
        weeks: lend(lengths.weeks),
        index: lend(lengths.index),
        names: lend(lengths.names),
        name_bytes: lend(lengths.name_bytes),
        cells: lend(lengths.cells),
        rows: lend(lengths.rows),
        pending: lend(lengths.pending),
    };
    Pipeline::new(settings, memory, 1).expect("default settings with memory of their lengths")
}

#[inline(never)]
fn stage_score(states: &mut [(SeriesState, DeviationState)], round: i64, at: WallMs) {
    let settings = DeviationSettings::default();
    let moment = Moment::new(at, 0);
    let mut series = 0;
    for states in states.chunks_exact_mut(LANES) {
        let mut states = states.iter_mut();
        let mut batch: [Observation<'_>; LANES] = std::array::from_fn(|_| {
            let (state, deviation) = states.next().expect("a chunk has so many");
            let value = value(series, round);
            series += 1;
            let ((state, week), learning) = (state.parts(), Learning::Normal);
            Observation { state, week, deviation, moment, value, learning, in_event: false }
        });
        black_box(batch::observe(&settings, &mut batch).courses);
    }
}

#[inline(never)]
fn stage_pipeline(pipeline: &mut Pipeline<'_>, now: Now, text: &str) {
    let format = Format::LineProtocol(Precision::Nanoseconds);
    black_box(pipeline.handle_bytes(now, format, &DefaultTags::default(), text.as_bytes()));
}

/// Parsing and look-up: of what came already.
#[inline(never)]
fn stage_intake(pipeline: &mut Pipeline<'_>, now: Now, text: &str) {
    let format = Format::LineProtocol(Precision::Nanoseconds);
    let tally = pipeline.handle_bytes(now, format, &DefaultTags::default(), text.as_bytes());
    assert_eq!(tally.dropped, SERIES as u32, "all of them are duplicates");
}

#[inline(never)]
fn stage_window(pipeline: &mut Pipeline<'_>, now: Now, summary: &mut Summary) {
    while pipeline.poll_deadline().is_some_and(|deadline| deadline <= now.wall) {
        pipeline.handle_deadline(now);
        while pipeline.poll_summary(summary) {
            black_box(&summary);
        }
    }
}

/// The rounds that teach, kept apart from those that are counted.
#[inline(never)]
fn warm_up(pipeline: &mut Pipeline<'_>, states: &mut [(SeriesState, DeviationState)], summary: &mut Summary) {
    for round in 0..WARM_UP {
        let at = START.plus_ms(round * STEP_MS);
        let now = Now { mono: MonoMs((round * STEP_MS).unsigned_abs()), wall: at };
        while pipeline.poll_deadline().is_some_and(|deadline| deadline <= now.wall) {
            pipeline.handle_deadline(now);
            while pipeline.poll_summary(summary) {}
        }
        let format = Format::LineProtocol(Precision::Nanoseconds);
        pipeline.handle_bytes(now, format, &DefaultTags::default(), text(round, at).as_bytes());
        for (series, (state, _)) in (0..).zip(&mut *states) {
            state.update(Moment::new(at, 0), value(series, round), Learning::Normal);
        }
    }
}

fn main() {
    let mut pipeline = pipeline();
    let new = |seed| (SeriesState::new(seed), DeviationState::new(Interest::Both));
    let mut states: Vec<_> = (0..SERIES as u32).map(new).collect();
    let key = RecordKey { boot: BootId(0), lane: Lane::RollUps, sequence: Sequence(0) };
    let mut summary = Box::new(Summary::new(key, START, 1000));
    warm_up(&mut pipeline, &mut states, &mut summary);
    for round in WARM_UP..WARM_UP + COUNTED {
        let at = START.plus_ms(round * STEP_MS);
        let now = Now { mono: MonoMs((round * STEP_MS).unsigned_abs()), wall: at };
        let text = text(round, at);
        stage_window(&mut pipeline, now, &mut summary);
        stage_score(&mut states, round, at);
        stage_pipeline(&mut pipeline, now, &text);
        stage_intake(&mut pipeline, now, &text);
    }
    println!("{}", SERIES * COUNTED);
}
