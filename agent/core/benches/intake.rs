//! How long a line takes from received bytes to a score, and how much of that is parsing and look-up.
//!
//! It must never be a test: a busy machine is no failure. The hard case is to see parsing and look-up without scoring: a
//! batch that comes a second time is read and looked up as before, and then dropped as a duplicate.
#![allow(missing_docs, reason = "the functions that criterion's macros make have no place for them")]

use std::fmt::Write;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vedette_agent_core::key::DefaultTags;
use vedette_agent_core::parse::{Format, Precision, line_protocol, lines};
use vedette_agent_core::pipeline::{Pipeline, PipelineMemory, PipelineSettings};
use vedette_common::{MonoMs, Now, WallMs};

const SERIES: u32 = 1_000;
const WARM_UP_ROUNDS: i64 = 300;
const STEP_MS: i64 = 10_000;
const START: WallMs = WallMs(1_748_822_400_000);
const FORMAT: Format = Format::LineProtocol(Precision::Nanoseconds);

/// One line for each series, all at one moment.
fn text(round: i64) -> String {
    let (mut text, at) = (String::new(), START.0 + round * STEP_MS);
    for series in 0..SERIES {
        let noise = (i64::from(series) * 7_919 + round * 104_729) % 1_000;
        writeln!(
            text,
            "activity,device=tv-lg,host=edge-{series:05},region=uk,stack=playback value={}.{noise:03} {at}000000",
            100 + series
        )
        .expect("a string takes any text");
    }
    text
}

fn now(round: i64) -> Now {
    Now { mono: MonoMs((round * STEP_MS).unsigned_abs()), wall: START.plus_ms(round * STEP_MS) }
}

fn lend<T: Default + Clone>(length: usize) -> &'static mut [T] {
    vec![T::default(); length].leak()
}

/// A pipeline with as many series, past their warm-up. Its windows stay open: nothing here asks for summaries.
fn pipeline() -> Pipeline<'static> {
    let settings = PipelineSettings { window_ms: 86_400_000, ..PipelineSettings::for_series(SERIES) };
    let settings = PipelineSettings { silent_ms: 4 * 86_400_000, ..settings };
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
    let mut pipeline =
        Pipeline::new(settings, memory, 1).expect("these settings with memory of their lengths");
    for round in 0..WARM_UP_ROUNDS {
        pipeline.handle_bytes(now(round), FORMAT, &DefaultTags::default(), text(round).as_bytes());
    }
    pipeline
}

fn any_form(criterion: &mut Criterion) {
    let text = text(0);
    let mut group = criterion.benchmark_group("intake");
    group.throughput(Throughput::Elements(SERIES.into()));
    group.bench_function("parse, the reader of lines of any form", |bencher| {
        bencher.iter(|| {
            for line in lines(text.as_bytes()) {
                if let Ok(Some(line)) = line_protocol::Line::split(line) {
                    line.fields().for_each(|field| _ = black_box(field));
                }
            }
        });
    });
    group.finish();
}

fn look_up(criterion: &mut Criterion) {
    let (mut pipeline, last) = (pipeline(), WARM_UP_ROUNDS - 1);
    let text = text(last);
    let mut group = criterion.benchmark_group("intake");
    group.throughput(Throughput::Elements(SERIES.into()));
    group.bench_function("parse and look-up, duplicates", |bencher| {
        bencher.iter(|| pipeline.handle_bytes(now(last), FORMAT, &DefaultTags::default(), text.as_bytes()));
    });
    group.finish();
}

fn all_the_way(criterion: &mut Criterion) {
    let (mut pipeline, mut round) = (pipeline(), WARM_UP_ROUNDS);
    let mut group = criterion.benchmark_group("intake");
    group.throughput(Throughput::Elements(SERIES.into()));
    group.bench_function("from bytes to scores", |bencher| {
        bencher.iter_batched(
            || {
                round += 1;
                (now(round), text(round))
            },
            |(now, text)| pipeline.handle_bytes(now, FORMAT, &DefaultTags::default(), text.as_bytes()),
            criterion::BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, any_form, look_up, all_the_way);
criterion_main!(benches);
