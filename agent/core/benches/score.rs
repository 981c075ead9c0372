//! How long one observation takes to score: one series in order, many in turn, and many of them eight at a time with
//! their deviations.
//!
//! It must never be a test: a busy machine is no failure. The hard case is memory: 20,000 states are far larger
//! than a cache, and each is visited once a round.
#![allow(missing_docs, reason = "the functions that criterion's macros make have no place for them")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vedette_agent_core::batch::{self, LANES, Observation};
use vedette_agent_core::deviation::{DeviationSettings, DeviationState};
use vedette_agent_core::score::{Learning, Moment, SeriesState};
use vedette_common::WallMs;

const SERIES: usize = 20_000;
const WARM_UP_ROUNDS: i64 = 300;

/// A day's wave with some noise, the same on every run.
fn value(n: i64) -> f64 {
    let noise = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407) >> 40;
    (n % 288 - 144).abs() as f64 + (noise & 0xff) as f64 * 0.1
}

fn moment(n: i64) -> Moment {
    Moment::new(WallMs(1_700_000_000_000 + n * 300_000), 3_600)
}

fn in_order(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("score");
    group.throughput(Throughput::Elements(1));
    let (mut series, mut n) = (SeriesState::new(1), 0);
    group.bench_function("one series", |bencher| {
        bencher.iter(|| {
            n += 1;
            black_box(series.update(moment(n), value(n), Learning::Normal))
        });
    });
    group.finish();
}

fn in_turn(criterion: &mut Criterion) {
    let mut states: Vec<SeriesState> = (0..SERIES).map(|seed| SeriesState::new(seed as u32)).collect();
    let mut n = 0;
    let mut round = |states: &mut [SeriesState]| {
        n += 1;
        for (offset, state) in (0..).zip(states) {
            black_box(state.update(moment(n), value(n + offset), Learning::Normal));
        }
    };
    for _ in 0..WARM_UP_ROUNDS {
        round(&mut states);
    }
    let mut group = criterion.benchmark_group("score");
    group.throughput(Throughput::Elements(SERIES as u64));
    group.bench_function("20,000 series in turn", |bencher| bencher.iter(|| round(&mut states)));
    group.finish();
}

fn eight_at_a_time(criterion: &mut Criterion) {
    let new = |seed| (SeriesState::new(seed), DeviationState::default());
    let mut series: Vec<_> = (0..SERIES as u32).map(new).collect();
    let (settings, mut n) = (DeviationSettings::default(), 0);
    let mut round = |series: &mut [(SeriesState, DeviationState)]| {
        n += 1;
        for (offset, eight) in (0..).zip(series.chunks_mut(LANES)) {
            let (moment, value, learning) = (moment(n), value(n + offset), Learning::Normal);
            let mut batch: heapless::Vec<Observation<'_>, LANES> = eight
                .iter_mut()
                .map(|(state, deviation)| {
                    let (state, week) = state.parts();
                    Observation { state, week, deviation, moment, value, learning, in_event: false }
                })
                .collect();
            black_box(batch::observe(&settings, &mut batch).courses);
        }
    };
    for _ in 0..WARM_UP_ROUNDS {
        round(&mut series);
    }
    let mut group = criterion.benchmark_group("score");
    group.throughput(Throughput::Elements(SERIES as u64));
    group.bench_function("20,000 series, eight at a time", |bencher| bencher.iter(|| round(&mut series)));
    group.finish();
}

criterion_group!(benches, in_order, in_turn, eight_at_a_time);
criterion_main!(benches);
