//! The pipeline from bytes to summaries, through its public interface alone.
//!
//! It must never look inside: what is checked here is what the agent and replay rely on. The hard cases are the
//! sums (nothing is lost without a reason) and windows that close while observations are late.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use proptest::prelude::*;
use vedette_agent_core::key::{DefaultTags, Observation};
use vedette_agent_core::parse::{Format, ParseError, Precision};
use vedette_agent_core::pipeline::{
    Pipeline, PipelineCounts, PipelineMemory, PipelineSettings, Rejection, SettingsError,
};
use vedette_common::drops::DropUnit;
use vedette_common::wire::{Phase, Summary};
use vedette_common::{BootId, DropReason, Lane, MonoMs, Now, RecordKey, Sequence, WallMs};

const START: i64 = 1_748_822_400_000;
const LINES: Format = Format::LineProtocol(Precision::Milliseconds);

fn lend(settings: &PipelineSettings) -> PipelineMemory<'static> {
    fn leak<T: Clone + Default>(length: usize) -> &'static mut [T] {
        vec![T::default(); length].leak()
    }
    let lengths = settings.lengths();
    PipelineMemory {
        slots: leak(lengths.slots),
        weeks: leak(lengths.weeks),
        index: leak(lengths.index),
        names: leak(lengths.names),
        name_bytes: leak(lengths.name_bytes),
        cells: leak(lengths.cells),
        rows: leak(lengths.rows),
        pending: leak(lengths.pending),
    }
}

fn small() -> PipelineSettings {
    PipelineSettings { cells_max: 8, metrics_max: 32, silent_ms: 60_000, ..PipelineSettings::for_series(16) }
}

fn pipeline(settings: PipelineSettings) -> Pipeline<'static> {
    let memory = lend(&settings);
    Pipeline::new(settings, memory, 1).unwrap()
}

fn now(ms: i64) -> Now {
    Now { mono: MonoMs(ms.unsigned_abs()), wall: WallMs(START + ms) }
}

fn empty() -> Summary {
    Summary::new(RecordKey { boot: BootId(0), lane: Lane::RollUps, sequence: Sequence(0) }, WallMs(0), 1000)
}

fn feed(pipeline: &mut Pipeline<'_>, ms: i64, text: &str) -> (u32, u32) {
    let tally = pipeline.handle_bytes(now(ms), LINES, &DefaultTags::default(), text.as_bytes());
    (tally.accepted, tally.dropped)
}

/// Every summary of every window that is due.
fn close(pipeline: &mut Pipeline<'_>, ms: i64) -> Vec<Summary> {
    let (mut out, mut found) = (empty(), Vec::new());
    while pipeline.poll_deadline().is_some_and(|deadline| deadline <= WallMs(START + ms)) {
        pipeline.handle_deadline(now(ms));
        while pipeline.poll_summary(&mut out) {
            assert!(out.is_consistent() && (out.deviations.is_empty() || out.roll_ups.is_empty()));
            found.push(out.clone());
        }
    }
    found
}

fn assert_sums(counts: &PipelineCounts) {
    let dropped = counts.drops.total(DropUnit::Observation);
    assert_eq!(counts.observed, counts.scored + dropped, "{counts:?}");
}

#[test]
fn a_series_is_learned_summed_and_its_fault_reported() {
    const STEP_MS: i64 = 60_000;
    const FAULT_MS: i64 = 400 * STEP_MS;
    let mut pipeline = pipeline(PipelineSettings { window_ms: 60_000, silent_ms: 600_000, ..small() });
    let (mut ready, mut phases) = (0, Vec::new());
    for round in 0..460 {
        let ms = round * STEP_MS;
        let value = if ms >= FAULT_MS { 900 } else { 100 + round * 7 % 11 };
        let line = format!("hits,region=uk,device=tv,stack=a,host=h1 value={value} {}", START + ms);
        let closed = close(&mut pipeline, ms);
        assert_eq!(feed(&mut pipeline, ms, &line), (1, 0));
        for summary in closed {
            assert_eq!(summary.window_start.0 % STEP_MS, 0);
            let names = summary.strings.resolve();
            for roll_up in &summary.roll_ups {
                assert_eq!(names[usize::from(roll_up.metric)], "hits");
                if roll_up.count == 1 && summary.window_start.0 < START + FAULT_MS {
                    ready += 1;
                    let ratio = roll_up.observed.to_f32() / roll_up.expected.to_f32();
                    assert!((ratio - 1.0).abs() < 0.15, "{ratio} in round {round}: {roll_up:?}");
                }
            }
            for deviation in &summary.deviations {
                assert_eq!(names[usize::from(deviation.tags)], "host=h1");
                assert_eq!(deviation.observed.to_f32(), 900.0);
                phases.push((summary.window_start.0 - START - FAULT_MS, deviation.course.phase));
            }
        }
    }
    assert!(ready > 300, "{ready}");
    assert!((0..=15 * STEP_MS).contains(&phases[0].0) && phases[0].1 == Phase::Onset, "{phases:?}");
    assert!(phases.len() > 10 && phases[1].1 == Phase::Ongoing, "{phases:?}");
    assert_sums(&pipeline.counts());
}

#[test]
fn spellings_of_one_series_meet_in_one_slot() {
    let mut pipeline = pipeline(small());
    let tags = [("region", "uk")];
    let with_default = DefaultTags::new(&tags);
    feed(&mut pipeline, 0, "m,a=1,b=2,region=uk value=1");
    feed(&mut pipeline, 1, "m,b=2,region=uk,a=1 value=1");
    pipeline.handle_bytes(now(2), LINES, &with_default, b"m,a=1,b=2 value=1");
    let observation =
        Observation { measurement: "m", field: "", tags: &[("b", "2"), ("a", "1")], value: 1.0, at: None };
    pipeline.handle_observation(now(3), &with_default, &observation).unwrap();
    assert_eq!((pipeline.counts().series, pipeline.counts().scored), (1, 4));
    feed(&mut pipeline, 4, "m,a=1,b=2,region=de value=1\nm,a=1,b=2,region=uk value=1,other=2");
    assert_eq!(pipeline.counts().series, 3);
}

#[test]
fn a_bad_line_is_counted_and_the_rest_is_kept() {
    let mut pipeline = pipeline(small());
    let text = b"m value=1\nbroken\nm,\xff=1 value=1\nm a=1,b=NaN,c=\"text\",d=x\n# comment\n";
    let tally = pipeline.handle_bytes(now(0), LINES, &DefaultTags::default(), text);
    assert_eq!((tally.lines, tally.accepted, tally.dropped), (5, 2, 5));
    let first = tally.rejection.unwrap();
    assert_eq!((first.line, first.error), (2, Some(ParseError::ValueMissing)));
    let counts = pipeline.counts();
    for (reason, count) in [
        (DropReason::MalformedLine, 2),
        (DropReason::NotUtf8, 1),
        (DropReason::NotFinite, 1),
        (DropReason::UnsupportedType, 1),
    ] {
        assert_eq!(counts.drops.get(reason), count, "{reason:?}");
    }
    assert_sums(&counts);
}

#[test]
fn event_times_have_limits() {
    let mut pipeline = pipeline(small());
    let at = |ms: i64| format!("m value=1 {ms}");
    assert_eq!(feed(&mut pipeline, 60_000, &at(START + 60_000)), (1, 0));
    for (ms, reason) in [
        (1000, DropReason::TimestampOutOfRange),
        (START + 60_000 + 3_600_001, DropReason::TimestampOutOfRange),
        (START + 60_000, DropReason::Duplicate),
        (START + 20_000, DropReason::Late),
    ] {
        let before = pipeline.counts().drops.get(reason);
        assert_eq!(feed(&mut pipeline, 60_000, &at(ms)), (0, 1), "{ms}");
        assert_eq!(pipeline.counts().drops.get(reason), before + 1, "{ms}: {reason:?}");
    }
    assert_eq!(feed(&mut pipeline, 60_000, &at(START + 55_000)), (1, 0), "late, its window still open");
    assert_sums(&pipeline.counts());
}

#[test]
fn past_the_limit_series_are_counted_in_their_cell() {
    let mut pipeline = pipeline(PipelineSettings { series_max: 4, ..small() });
    let mut overflow = 0.0;
    for round in 0..60 {
        let ms = round * 10_000;
        let text: String = (0..7).map(|series| format!("m,region=uk,id={series} value=5\n")).collect();
        assert_eq!(feed(&mut pipeline, ms, &text), (4, 3));
        for summary in close(&mut pipeline, ms) {
            let names = summary.strings.resolve();
            let rows = summary.roll_ups.iter().filter(|row| names[usize::from(row.metric)] == "overflow");
            rows.filter(|row| row.count > 0).for_each(|row| overflow = row.observed.to_f32());
        }
    }
    let counts = pipeline.counts();
    assert_eq!((counts.series, counts.drops.get(DropReason::SeriesLimit)), (4, 180));
    assert_eq!(overflow, 3.0);
    assert_sums(&counts);
}

#[test]
fn the_silent_give_way_and_cells_are_freed() {
    let mut pipeline = pipeline(PipelineSettings { series_max: 4, cells_max: 2, ..small() });
    for round in 0..100 {
        let ms = round * 30_000;
        assert_eq!(feed(&mut pipeline, ms, &format!("m,region=uk,id={round} value=5")), (1, 0), "{round}");
        close(&mut pipeline, ms);
    }
    assert!(pipeline.counts().evicted >= 96);
    for round in 100..200 {
        let ms = round * 120_000;
        close(&mut pipeline, ms);
        feed(&mut pipeline, ms, &format!("m,region=uk,device=d{round} value=5"));
    }
    let counts = pipeline.counts();
    assert!(counts.cells <= 2 && counts.drops.get(DropReason::CellLimit) < 100, "{counts:?}");
    assert_sums(&counts);
}

#[test]
fn statsd_is_folded_and_observed_once_an_interval() {
    let mut pipeline = pipeline(PipelineSettings { counter_quiet_ms: 20_000, ..small() });
    let text =
        b"hits:3|c|@0.5|#region:uk\nhits:1|c|#region:uk\nload:5|g\nload:-2|g\ntime:10:20|ms\nusers:x|s";
    let tally = pipeline.handle_bytes(now(1000), Format::StatsD, &DefaultTags::default(), text);
    assert_eq!((tally.accepted, tally.dropped), (6, 1));
    assert_eq!(pipeline.counts().scored, 0);
    assert_eq!(pipeline.poll_deadline(), Some(WallMs(START + 5_000)), "the window before, then the flush");
    close(&mut pipeline, 10_000);
    assert_eq!(pipeline.counts().scored, 3);
    let mut seen = Vec::new();
    for ms in [20_000, 30_000, 40_000, 50_000] {
        close(&mut pipeline, ms);
        seen.push(pipeline.counts().scored);
    }
    assert_eq!(seen, [4, 5, 5, 5], "the counter is 0 for two intervals, then silent");
    let mixed =
        pipeline.handle_bytes(now(51_000), Format::StatsD, &DefaultTags::default(), b"hits:1|g|#region:uk");
    assert_eq!(mixed.rejection.unwrap().reason, DropReason::UnsupportedType);
    assert_sums(&pipeline.counts());
}

#[test]
fn more_than_a_summary_holds_becomes_several() {
    let settings = PipelineSettings { cells_max: 200, ..PipelineSettings::for_series(2000) };
    let mut pipeline = pipeline(settings);
    let mut largest = (0, 0, 0);
    for round in 0..70 {
        let (ms, value) = (round * 10_000, if round >= 60 { 5000 } else { 100 });
        let text: String = (0..600)
            .map(|series| {
                let (device, stack) = (series % 20, series / 20 % 5);
                format!(
                    "metric-{},region=uk,device=d{device},stack=s{stack},id=i{series} value={value}\n",
                    series / 100
                )
            })
            .collect();
        feed(&mut pipeline, ms, &text);
        let mut windows = std::collections::BTreeMap::<i64, (usize, usize, usize)>::new();
        for summary in close(&mut pipeline, ms) {
            let sums = windows.entry(summary.window_start.0).or_default();
            sums.0 += 1;
            sums.1 += summary.roll_ups.len();
            sums.2 += summary.deviations.len();
        }
        largest = windows.into_values().max().unwrap_or_default().max(largest);
    }
    assert_eq!((largest.1, largest.2), (600, 600), "in {} summaries", largest.0);
    assert!(largest.0 >= 9, "{}", largest.0);
}

#[test]
fn a_clock_that_jumps_stops_nothing() {
    let mut pipeline = pipeline(small());
    let year = 365 * 86_400_000;
    for ms in [0, year, year + 10_000, 5_000, 40_000, 80_000] {
        assert_eq!(feed(&mut pipeline, ms, "m value=1"), (1, 0), "at {ms}");
        assert!(close(&mut pipeline, ms).len() <= 20, "at {ms}");
        let deadline = pipeline.poll_deadline().unwrap();
        assert!(deadline.ms_since(WallMs(START + ms)) <= 20_000, "at {ms}");
    }
    assert_eq!(feed(&mut pipeline, 80_001, &format!("m value=1 {}", START + 80_001)), (1, 0));
}

#[test]
fn wrong_memory_and_settings_are_refused() {
    let settings = small();
    let other = lend(&PipelineSettings { cells_max: 9, ..small() });
    assert_eq!(Pipeline::new(settings, other, 1).err(), Some(SettingsError::MemoryMismatch));
    let settings = PipelineSettings { window_ms: 10, lateness_ms: 0, ..small() };
    let memory = lend(&settings);
    assert!(matches!(
        Pipeline::new(settings, memory, 1),
        Err(SettingsError::OutOfRange { key: "window_ms", .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_comes_nothing_is_lost_without_a_reason(
        batches in proptest::collection::vec(
            (0i64..90_000, "[m-o]{1,2}(,[a-c]=[1-3xé]{1,2}){0,2} [v-x]=[0-9]{1,3}i?( [0-9]{1,2})?\n?[,=\\\\ |:c@#.]{0,9}", any::<bool>()),
            0..60,
        ),
    ) {
        let mut pipeline = pipeline(PipelineSettings { series_max: 5, cells_max: 2, ..small() });
        let mut ms = 0;
        for (step, text, is_statsd) in batches {
            ms += step;
            let format = if is_statsd { Format::StatsD } else { Format::LineProtocol(Precision::Seconds) };
            pipeline.handle_bytes(now(ms), format, &DefaultTags::default(), text.as_bytes());
            close(&mut pipeline, ms);
            assert_sums(&pipeline.counts());
            prop_assert!(pipeline.counts().series <= 5 && pipeline.counts().cells <= 2);
        }
    }

    /// Values of a batch wait for their slots together; that may not change what becomes of them.
    #[test]
    fn a_batch_is_worth_as_much_as_its_lines_one_by_one(
        batches in proptest::collection::vec(
            (0i64..90_000, proptest::collection::vec("[m-o](,a=[1-4])? [v-x]=[0-9]{1,3}(,w=[0-9x])?( [0-9]{1,2})?", 1..50)),
            1..12,
        ),
    ) {
        let settings = PipelineSettings { series_max: 12, cells_max: 2, ..small() };
        let (mut whole, mut single) = (pipeline(settings.clone()), pipeline(settings));
        let (mut ms, format) = (0, Format::LineProtocol(Precision::Seconds));
        for (step, lines) in batches {
            ms += step;
            // Times of their own lie around now, so that some are late and some are doubled.
            let start_s = (START + ms) / 1000 - 50;
            let lines: Vec<_> = lines.iter().map(|line| restate(line, start_s)).collect();
            let defaults = DefaultTags::default();
            let tally = whole.handle_bytes(now(ms), format, &defaults, lines.join("\n").as_bytes());
            let mut rejection = None;
            for (number, line) in (1..).zip(&lines) {
                let found = single.handle_bytes(now(ms), format, &defaults, line.as_bytes()).rejection;
                rejection = rejection.or(found.map(|first| Rejection { line: number, ..first }));
            }
            prop_assert_eq!(tally.rejection, rejection);
            prop_assert_eq!(whole.counts(), single.counts());
            prop_assert_eq!(close(&mut whole, ms), close(&mut single, ms));
        }
    }
}

/// A line whose timestamp, if it has one, counts from `start_s`.
fn restate(line: &str, start_s: i64) -> String {
    match line.rsplit_once(' ') {
        Some((rest, seconds)) if !seconds.contains('=') => {
            format!("{rest} {}", start_s + seconds.parse::<i64>().unwrap())
        }
        _ => line.to_owned(),
    }
}
