//! Faults of the telemetry and the settings of a metric, through the pipeline: silence, stuck values, counters that
//! begin anew, and directions that nobody asked for.
//!
//! It must never pass by accident: each test says what is told, by which scorer, and what is not. The hard case is what
//! a fault of the telemetry must not look like: a drop.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use vedette_agent_core::deviation::Interest;
use vedette_agent_core::key::DefaultTags;
use vedette_agent_core::metric::MetricRule;
use vedette_agent_core::parse::{Format, Precision};
use vedette_agent_core::pipeline::{Pipeline, PipelineMemory, PipelineSettings};
use vedette_common::drops::DropUnit;
use vedette_common::wire::{Direction, Phase, Scorer, Summary};
use vedette_common::{BootId, DropReason, Lane, MonoMs, Now, RecordKey, Sequence, WallMs};

const START_MS: i64 = 1_748_822_400_000;
const MINUTE_MS: i64 = 60_000;

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

/// An agent that is fed once a minute.
struct Agent {
    pipeline: Pipeline<'static>,
    minute: i64,
    summary: Summary,
    /// Observed, expected and how many of the first row of the latest window.
    sums: (f32, f32, u32),
}

/// What a window said of one series, `(minute of its end, scorer, phase, direction)`.
type Told = (i64, Scorer, Phase, Direction);

impl Agent {
    fn new(rules: &[(&str, Interest, bool)]) -> Self {
        let mut settings = PipelineSettings {
            cells_max: 8,
            metrics_max: 32,
            window_ms: 60_000,
            silent_ms: 600_000,
            ..PipelineSettings::for_series(16)
        };
        for &(pattern, interest, counter) in rules {
            let pattern = heapless::String::try_from(pattern).unwrap();
            settings
                .metrics
                .push(MetricRule { pattern, interest, counter: counter.then_some(true) })
                .unwrap();
        }
        let memory = lend(&settings);
        let key = RecordKey { boot: BootId(0), lane: Lane::RollUps, sequence: Sequence(0) };
        Self {
            pipeline: Pipeline::new(settings, memory, 1).unwrap(),
            minute: 0,
            summary: Summary::new(key, WallMs(0), 60_000),
            sums: (0.0, 0.0, 0),
        }
    }

    /// Closes the windows up to the next minute and feeds it; returns what was told.
    fn minute(&mut self, lines: &str) -> Vec<Told> {
        let ms = self.minute * MINUTE_MS;
        let now = Now { mono: MonoMs(ms.unsigned_abs()), wall: WallMs(START_MS + ms) };
        let mut told = Vec::new();
        while self.pipeline.poll_deadline().is_some_and(|deadline| deadline <= now.wall) {
            self.pipeline.handle_deadline(now);
            while self.pipeline.poll_summary(&mut self.summary) {
                let end = (self.summary.window_start.0 - START_MS) / MINUTE_MS + 1;
                if let Some(sums) = self.summary.roll_ups.first() {
                    self.sums = (sums.observed.to_f32(), sums.expected.to_f32(), sums.count);
                }
                let courses = self.summary.deviations.iter().map(|deviation| deviation.course);
                told.extend(courses.map(|course| (end, course.scorer, course.phase, course.direction)));
            }
        }
        let format = Format::LineProtocol(Precision::Milliseconds);
        self.pipeline.handle_bytes(now, format, &DefaultTags::default(), lines.as_bytes());
        self.minute += 1;
        told
    }

    fn days(&mut self, days: i64, mut lines: impl FnMut(i64) -> String) -> Vec<Told> {
        let end = self.minute + days * 1_440;
        let mut told = Vec::new();
        while self.minute < end {
            told.extend(self.minute(&lines(self.minute)));
        }
        told
    }
}

/// 100 and a little, never the same twice in a row.
fn lively(minute: i64) -> i64 {
    100 + minute * 7 % 11 - minute * 5 % 7
}

#[test]
fn a_silent_series_is_told_as_silence_and_ends_with_its_return() {
    let mut agent = Agent::new(&[]);
    assert_eq!(
        agent.days(1, |minute| format!("a value={}\nb value={}", lively(minute), lively(minute + 3))),
        []
    );
    let mut told = Vec::new();
    for minute in 0..30 {
        told.extend(agent.minute(&format!("b value={}", lively(minute))));
    }
    assert!(told.iter().all(|(_, scorer, ..)| *scorer == Scorer::Silence), "{told:?}");
    assert_eq!(told[0].2, Phase::Onset);
    assert!((1_443..=1_446).contains(&told[0].0), "{told:?}");
    assert!(told.len() > 20 && told[1..].iter().all(|(_, _, phase, _)| *phase == Phase::Ongoing), "{told:?}");
    let back = agent.days(1, |minute| format!("a value={}\nb value={}", lively(minute), lively(minute + 3)));
    let phases: Vec<Phase> = back.iter().map(|(_, _, phase, _)| *phase).collect();
    assert_eq!(phases.last(), Some(&Phase::Ended), "{back:?}");
    assert!(back.len() <= 2, "{back:?}");
}

#[test]
fn a_series_that_left_for_good_is_forgotten() {
    let mut agent = Agent::new(&[]);
    agent.days(1, |minute| format!("a value={}\nb value=1", lively(minute)));
    let told = agent.days(3, |_| "b value=1".into());
    let ended: Vec<&Told> = told.iter().filter(|(_, _, phase, _)| *phase == Phase::Ended).collect();
    assert_eq!(ended.len(), 1);
    assert!((2_870..2_900).contains(&ended[0].0), "after a day: {ended:?}");
}

#[test]
fn a_stuck_series_is_no_drop_and_leaves_the_sums() {
    let mut agent = Agent::new(&[]);
    // The value moves by the hour of the day, so that a stuck one is soon far from where it should be.
    let true_value = |minute: i64| 1_000 + (minute % 1_440 - 720).abs() / 2 + 3 * lively(minute);
    agent.days(8, |minute| format!("a value={}", true_value(minute)));
    let stuck = true_value(agent.minute);
    let mut told = Vec::new();
    for _ in 0..600 {
        told.extend(agent.minute(&format!("a value={stuck}")));
        let late = agent.minute > 8 * 1_440 + 30;
        assert!(!late || agent.sums.2 == 0, "a stuck value counts: {:?}", agent.sums);
    }
    assert_eq!(told[0].2, Phase::Onset);
    assert!(told.iter().all(|(_, scorer, ..)| *scorer == Scorer::FlatLine), "{told:?}");
    let back = agent.days(1, |minute| format!("a value={}", true_value(minute)));
    assert_eq!(back.iter().filter(|(_, _, phase, _)| *phase == Phase::Ended).count(), 1, "{back:?}");
    assert!(back.iter().all(|(_, scorer, ..)| *scorer == Scorer::FlatLine), "no echo: {back:?}");
}

#[test]
fn zeros_are_a_drop_and_no_flat_line() {
    let mut agent = Agent::new(&[]);
    agent.days(2, |minute| format!("a value={}", minute * 7 % 11 % 4));
    let told = agent.days(1, |_| "a value=0".into());
    let expected = (Scorer::Value, Phase::Onset, Direction::Down);
    assert_eq!(told.first().map(|&(_, scorer, phase, direction)| (scorer, phase, direction)), Some(expected));
    assert!(told[0].0 < 2 * 1_440 + 20, "{:?}", told[0]);
}

#[test]
fn a_counter_is_scored_as_its_rate_through_resets_and_wraps() {
    let mut agent = Agent::new(&[("bytes*", Interest::Both, true)]);
    let mut count = 4_294_000_000_i64;
    let told = agent.days(3, |minute| {
        count += 60 * lively(minute);
        // A restart each eleven hours, and a wrap at 32 bits on the way there.
        count = if minute % 660 == 0 { 0 } else { count % 4_294_967_296 };
        format!("bytes_sent value={count}")
    });
    assert_eq!(told, [], "neither restart nor wrap is a spike");
    let counts = agent.pipeline.counts();
    assert!(counts.drops.get(DropReason::CounterStart) >= 7, "{counts:?}");
    assert_eq!(counts.observed, counts.scored + counts.drops.total(DropUnit::Observation));
    let told = agent.days(1, |minute| {
        count += 6 * lively(minute);
        format!("bytes_sent value={count}")
    });
    assert_eq!(told.first().map(|told| told.3), Some(Direction::Down), "a tenth of the rate");
}

#[test]
fn a_direction_that_nobody_asked_for_is_counted_and_not_sent() {
    for (interest, sent) in [(Interest::Both, true), (Interest::Drop, false), (Interest::Rise, true)] {
        let mut agent = Agent::new(&[("a", interest, false)]);
        agent.days(1, |minute| format!("a value={}", lively(minute)));
        let mut told = Vec::new();
        for minute in 0..60 {
            told.extend(agent.minute(&format!("a value={}", 9 * lively(minute))));
        }
        assert_eq!(!told.is_empty(), sent, "{interest:?}: {told:?}");
        assert_eq!(agent.pipeline.counts().unwanted > 0, !sent, "{interest:?}");
    }
}

#[test]
fn a_drop_is_told_though_an_unwanted_rise_goes_on() {
    let mut agent = Agent::new(&[("a", Interest::Drop, false)]);
    agent.days(1, |minute| format!("a value={}", lively(minute)));
    for minute in 0..5 {
        assert_eq!(agent.minute(&format!("a value={}", 3 * lively(minute))), []);
    }
    let mut told = Vec::new();
    for _ in 0..30 {
        told.extend(agent.minute("a value=1"));
    }
    let first = told.first().map(|&(_, scorer, phase, direction)| (scorer, phase, direction));
    assert_eq!(first, Some((Scorer::Value, Phase::Onset, Direction::Down)), "{told:?}");
}

#[test]
fn a_new_series_of_a_known_cell_is_awake_within_its_first_half_hour() {
    let wave = |minute: i64| 1_000 + (minute % 1_440 - 720).abs() / 2 + 3 * lively(minute);
    for cohort in [true, false] {
        let mut agent = Agent::new(&[]);
        let metric = if cohort { "a" } else { "other" };
        agent.days(9, |minute| format!("{metric},host=old value={}", wave(minute)));
        let both = |minute: i64, new: i64| {
            format!("{metric},host=old value={}\na,host=new value={new}", wave(minute))
        };
        let mut told = Vec::new();
        for _ in 0..60 {
            let minute = agent.minute;
            // A tenth of its neighbour's size, and from the twentieth minute on a fifth of that.
            let share = if minute < 9 * 1_440 + 20 { 10 } else { 50 };
            told.extend(agent.minute(&both(minute, wave(minute) / share)));
        }
        assert_eq!(agent.pipeline.counts().borrowed, u64::from(cohort));
        let first = told.iter().find(|(_, _, phase, _)| *phase == Phase::Onset);
        let early = first.is_some_and(|told| told.0 < 9 * 1_440 + 30 && told.3 == Direction::Down);
        assert_eq!(early, cohort, "{told:?}");
    }
}

#[test]
fn a_counter_that_nobody_named_is_found_and_its_restarts_are_no_spikes() {
    let mut agent = Agent::new(&[]);
    let mut count = 4_294_000_000_i64;
    let told = agent.days(3, |minute| {
        count += 60 * lively(minute);
        // A restart each eleven hours, and a wrap at 32 bits on the way there.
        count = if minute % 660 == 659 { 0 } else { count % 4_294_967_296 };
        format!("bytes_sent value={count}")
    });
    assert_eq!(told, [], "neither what it was taken for at first, nor restart, nor wrap");
    let counts = agent.pipeline.counts();
    assert_eq!(counts.observed, counts.scored + counts.drops.total(DropUnit::Observation));
    assert!((80.0..120.0).contains(&agent.sums.0), "a rate a second: {:?}", agent.sums);
    let told = agent.days(1, |minute| {
        count += 6 * lively(minute);
        format!("bytes_sent value={count}")
    });
    assert_eq!(told.first().map(|told| told.3), Some(Direction::Down), "a tenth of the rate");
}

#[test]
fn a_gauge_that_grew_from_its_birth_on_is_a_gauge_again_after_its_first_falls() {
    let mut agent = Agent::new(&[]);
    agent.days(2, |minute| {
        let value = if minute < 90 { 10 + minute } else { lively(minute) };
        format!("load value={value}")
    });
    let (observed, expected, count) = agent.sums;
    assert!(
        count == 1 && (80.0..120.0).contains(&observed) && (80.0..120.0).contains(&expected),
        "{:?}",
        agent.sums
    );
    let mut told = Vec::new();
    for _ in 0..30 {
        told.extend(agent.minute("load value=20"));
    }
    assert_eq!(told.first().map(|told| told.3), Some(Direction::Down), "{told:?}");
}

#[test]
fn a_new_counter_beside_an_old_one_is_known_at_its_tenth_value() {
    let mut agent = Agent::new(&[]);
    let wave = |minute: i64| 60 * (1_000 + (minute % 1_440 - 720).abs() / 2 + 3 * lively(minute));
    let (mut old, mut new) = (0, 0);
    agent.days(9, |minute| {
        old += wave(minute);
        format!("sent,host=old value={old}")
    });
    let mut told = Vec::new();
    for _ in 0..60 {
        let minute = agent.minute;
        let share = if minute < 9 * 1_440 + 30 { 10 } else { 50 };
        (old, new) = (old + wave(minute), new + wave(minute) / share);
        told.extend(agent.minute(&format!("sent,host=old value={old}\nsent,host=new value={new}")));
    }
    assert_eq!(agent.pipeline.counts().borrowed, 1);
    let first = told.iter().find(|(_, _, phase, _)| *phase == Phase::Onset);
    assert!(first.is_some_and(|told| (30..40).contains(&(told.0 - 9 * 1_440))), "{told:?}");
}
