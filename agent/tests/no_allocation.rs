//! After start, the whole way from received bytes to scores and summaries allocates nothing.
//!
//! It must never pass because nothing was counted or nothing happened: the counter is proved first, and
//! scores, windows, deviations, new series, evictions and bad input all have to occur.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fmt::Write;

use vedette_agent::allocation::{CountingAllocator, allocations, is_counted};
use vedette_agent::memory;
use vedette_agent_core::key::{DefaultTags, Observation};
use vedette_agent_core::parse::{Format, Precision};
use vedette_agent_core::pipeline::{Pipeline, PipelineSettings};
use vedette_common::wire::Summary;
use vedette_common::{BootId, DropReason, Lane, MonoMs, Now, RecordKey, Sequence, WallMs};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const START: WallMs = WallMs(1_748_822_400_000);
const LINES: Format = Format::LineProtocol(Precision::Milliseconds);

fn now(at: WallMs) -> Now {
    Now { mono: MonoMs(at.ms_since(START).unsigned_abs()), wall: at }
}

/// What is sent in one round: good lines of every kind, and bad ones.
fn lines(text: &mut String, round: i64, at: WallMs) {
    text.clear();
    let level = if round > 80 { 900 } else { 100 };
    for series in 0..40 {
        let value = level + (round * 7 + series * 3) % 11;
        writeln!(
            text,
            r"activity,region=uk,device=tv,stack=s{},host=h\ {series} value={value},ok=t {}",
            series % 3,
            at.0
        )
        .unwrap();
    }
    // A series that never comes again, so that the table fills and evicts.
    writeln!(text, "short,region=uk,id=x{round} value=1 {}", at.0).unwrap();
    writeln!(text, "broken line\nactivity value=NaN\nactivity,a= value=1\nnote text=\"hello\"").unwrap();
}

fn take_round(pipeline: &mut Pipeline<'_>, text: &str, at: WallMs, summary: &mut Summary) -> (u64, usize) {
    let tags = [("region", "uk"), ("stack", "statsd")];
    let defaults = DefaultTags::new(&tags);
    let before = allocations();
    pipeline.handle_bytes(now(at), LINES, &DefaultTags::default(), text.as_bytes());
    let statsd = b"hits:3|c|@0.5|#device:tv\nhits:1|c\ntemperature:+2|g\nlatency:12:14|ms\nusers:x|s";
    pipeline.handle_bytes(now(at), Format::StatsD, &defaults, statsd);
    let cpu = Observation { measurement: "cpu", field: "user", tags: &[("cpu", "0")], value: 0.5, at: None };
    pipeline.handle_observation(now(at), &defaults, &cpu).unwrap();
    let mut deviations = 0;
    while pipeline.poll_deadline().is_some_and(|deadline| deadline <= at) {
        pipeline.handle_deadline(now(at));
        while pipeline.poll_summary(summary) {
            deviations += summary.deviations.len();
        }
    }
    (allocations() - before, deviations)
}

#[test]
fn the_scoring_path_allocates_nothing() {
    assert!(is_counted(), "the counting allocator is not installed");
    let settings = PipelineSettings { silent_ms: 60_000, ..PipelineSettings::for_series(100) };
    let memory = memory::lend_pipeline(&settings);
    let mut pipeline = Pipeline::new(settings, memory, 7).unwrap();
    let key = RecordKey { boot: BootId(1), lane: Lane::RollUps, sequence: Sequence(1) };
    let mut summary = Box::new(Summary::new(key, START, 1000));
    let (mut text, mut deviations) = (String::with_capacity(64 * 1024), 0);
    for round in 0..120 {
        let at = START.plus_ms(round * 10_000);
        lines(&mut text, round, at);
        let (allocated, found) = take_round(&mut pipeline, &text, at, &mut summary);
        assert_eq!(allocated, 0, "in round {round}");
        deviations += found;
    }
    let counts = pipeline.counts();
    assert!(counts.scored > 9000 && counts.evicted > 0 && counts.onsets > 0 && deviations > 0, "{counts:?}");
    for reason in [DropReason::MalformedLine, DropReason::NotFinite, DropReason::UnsupportedType] {
        assert!(counts.drops.get(reason) >= 120, "{counts:?}");
    }
}
