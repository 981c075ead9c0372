//! `vedette-agent bench`: how fast this machine scores, and how fast it gets from received bytes to scores.
//!
//! Owns the made-up telemetry. Must never time the making of it, nor anything before the series are mature: the ranges
//! of young ones still widen all the time. The hard case is an honest number: series are visited in an order that the
//! caches cannot guess, each one once a round, and the second half runs the agent's own pipeline, windows and summaries
//! included. To mature a million series would take minutes, so the first half matures a few thousand and fills the rest
//! of the memory with copies of them: each has its own place in memory and goes its own way from there, but what the
//! branches of the scorers see is less varied than in as many series that have nothing in common. Those of the second
//! half mature one by one, as in an agent that has run for an hour and a half.

use std::cell::Cell;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use serde::Serialize;
use vedette_agent_core::batch::{self, LANES, Observation, STOPS};
use vedette_agent_core::deviation::{DeviationSettings, DeviationState};
use vedette_agent_core::key::DefaultTags;
use vedette_agent_core::parse::{Format, Precision};
use vedette_agent_core::pipeline::{Pipeline, PipelineSettings};
use vedette_agent_core::prefetch::Places;
use vedette_agent_core::score::{Learning, Moment, Scorers, WEEK, Week};
use vedette_agent_core::table::SLOT_BYTES;
use vedette_common::wire::Summary;
use vedette_common::{BootId, Lane, MonoMs, Now, RecordKey, Sequence, WallMs};

use crate::allocation;
use crate::memory;
use crate::pages;

/// Series for the way from bytes to scores.
const INGESTED_SERIES_MAX: u32 = 10_000;
/// Series that mature in the first half, for all others to be copies of them, and the observations that takes.
const PATTERNS: u32 = 4096;
const MATURE_OBSERVATIONS: i64 = 500;
/// Bytes handed over at once, as a stream socket would.
const CHUNK_BYTES: usize = 64 * 1024;
/// Blocks after the one being scored whose states were asked for already.
const BLOCKS_AHEAD: usize = 1;
/// Observations that are made up before they are scored.
const MADE_AT_ONCE: usize = 1 << 15;
/// Between two observations of a series.
const STEP_MS: i64 = 10_000;
/// 2025-06-02T00:00:00Z, a Monday.
const START: WallMs = WallMs(1_748_822_400_000);

/// What `bench` is asked for.
#[derive(Clone, Copy, Debug, Args)]
pub struct BenchArgs {
    /// Series to score. Unless given: 1,000,000, halved until they take at most half of the free memory
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    series: Option<u32>,
    /// How long to measure, half of it for each of the two numbers; maturing the series comes on top
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
}

/// What `bench` prints.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Measured {
    /// Series scored in the first half; the second half has at most 10,000.
    pub series: u32,
    /// Observations through the full ensemble and the life of a deviation, per second, on one core.
    pub scored_per_s: f64,
    /// Observations from received line protocol to scores and summaries, per second, on one core.
    pub ingested_per_s: f64,
    /// What is kept to score one series: the scorers' state, the life of its deviation and the hours of its week.
    pub state_bytes_per_series: usize,
    /// Resident memory of this process with all `series` in memory.
    pub resident_bytes: u64,
    /// Heap allocations for each observation of both halves; null where the program does not count them.
    pub allocations_per_observation: Option<f64>,
}

/// Measures and prints one JSON object.
///
/// # Errors
/// When the memory of this process cannot be read, or standard output is closed.
pub fn bench(args: &BenchArgs) -> anyhow::Result<()> {
    let measured = measure(args.series.unwrap_or_else(fitting_series), Duration::from_secs(args.seconds))?;
    let line = serde_json::to_string(&measured).context("writing the result as JSON")?;
    writeln!(io::stdout(), "{line}")?;
    Ok(())
}

/// Scores made-up telemetry of `series` series, then takes some of it in as bytes, for half of `time` each.
///
/// # Errors
/// When the memory of this process cannot be read, or the pipeline refuses its settings.
pub fn measure(series: u32, time: Duration) -> anyhow::Result<Measured> {
    let (scored, resident_bytes) = measure_scoring(series, time / 2)?;
    let ingested = measure_ingesting(series.min(INGESTED_SERIES_MAX), time / 2)?;
    let allocations = (scored.allocations + ingested.allocations) as f64;
    let observations = (scored.observations + ingested.observations) as f64;
    Ok(Measured {
        series,
        scored_per_s: scored.per_s(),
        ingested_per_s: ingested.per_s(),
        state_bytes_per_series: size_of::<Scored>() + WEEK,
        resident_bytes,
        allocations_per_observation: allocation::is_counted().then(|| allocations / observations),
    })
}

/// What one half took.
#[derive(Clone, Copy, Debug, Default)]
struct Effort {
    observations: u64,
    allocations: u64,
    time: Duration,
}

impl Effort {
    fn per_s(&self) -> f64 {
        self.observations as f64 / self.time.as_secs_f64()
    }

    /// Adds what `work` takes; it returns how many observations it made.
    fn add(&mut self, work: impl FnOnce() -> u64) {
        let (allocations, start) = (allocation::allocations(), Instant::now());
        self.observations += work();
        self.time += start.elapsed();
        self.allocations += allocation::allocations() - allocations;
    }
}

/// A value, and the place of its series.
type Made = (usize, f64);

/// One series of the first half, on whole cache lines.
#[derive(Clone)]
#[repr(C, align(64))]
struct Scored {
    state: Scorers,
    deviation: DeviationState,
}

/// Cache lines of it that an observation touches which shows nothing: all but the last.
const LINES: usize = size_of::<Scored>() / 64 - 1;

/// All series of the first half; as in the agent's own table, the hours of their weeks lie apart, those of one hour side by
/// side.
struct Fleet {
    series: Vec<Scored>,
    weeks: &'static mut [i8],
    settings: DeviationSettings,
    deviating: u64,
}

fn measure_scoring(series: u32, time: Duration) -> anyhow::Result<(Effort, u64)> {
    let mut values = Values::new();
    let mut fleet = Fleet::new(series);
    fleet.mature(&mut values);
    fleet.fill_with_copies();
    let mut made = Vec::with_capacity(MADE_AT_ONCE);
    let (mut round, mut effort) = (MATURE_OBSERVATIONS, Effort::default());
    while effort.time < time {
        let moment = moment_of(round);
        let mut order = Order::new(series as usize, round as usize);
        let mut left = series as usize;
        while left > 0 && effort.time < time {
            left -= make(&mut made, left, &mut order, &mut values, moment);
            effort.add(|| fleet.score(&made, moment));
        }
        round += 1;
    }
    std::hint::black_box(fleet.deviating);
    Ok((effort, resident_bytes()?))
}

fn moment_of(round: i64) -> Moment {
    Moment::new(START.plus_ms(round * STEP_MS), 0)
}

/// Makes up the next observations of those that are `left` of a round; how many.
fn make(made: &mut Vec<Made>, left: usize, order: &mut Order, values: &mut Values, moment: Moment) -> usize {
    made.clear();
    made.extend((0..left.min(MADE_AT_ONCE)).map(|_| {
        let place = order.next();
        (place, values.of(place, moment))
    }));
    made.len()
}

impl Fleet {
    /// The first series, which have seen nothing, and room for all others.
    fn new(series: u32) -> Self {
        let new = |number| Scored { state: Scorers::new(number), deviation: DeviationState::default() };
        let mut scored = Vec::with_capacity(series as usize);
        pages::prefer_huge(scored.spare_capacity_mut());
        scored.extend((0..series.min(PATTERNS)).map(new));
        let weeks = memory::lend_huge(WEEK * series as usize);
        Self { series: scored, weeks, settings: DeviationSettings::default(), deviating: 0 }
    }

    /// Lets them see enough for their ranges to rest.
    fn mature(&mut self, values: &mut Values) {
        let (mut made, length) = (Vec::new(), self.series.len());
        for round in 0..MATURE_OBSERVATIONS {
            let moment = moment_of(round);
            make(&mut made, length, &mut Order::new(length, round as usize), values, moment);
            self.score(&made, moment);
        }
    }

    /// Copies them over and over until there is no more room.
    fn fill_with_copies(&mut self) {
        let (patterns, length) = (self.series.len(), self.weeks.len() / WEEK);
        while self.series.len() < length {
            let more = patterns.min(length - self.series.len());
            self.series.extend_from_within(..more);
        }
        let is_known = |hour: &&mut [i8]| hour.iter().any(|factor| *factor != 0);
        for hour in self.weeks.chunks_exact_mut(length).filter(is_known) {
            (patterns..length).for_each(|place| hour[place] = hour[place % patterns]);
        }
    }

    /// Scores one observation after the other, a block at a time; how many. While one block is scored, the states of the
    /// next one are on their way from memory.
    fn score(&mut self, made: &[Made], moment: Moment) -> u64 {
        let Self { series, weeks, settings, deviating } = self;
        let length = weeks.len() / WEEK;
        let hours = Cell::from_mut(&mut **weeks).as_slice_of_cells();
        let (states, rows) = (Places::of(series), Week::hours_around(moment));
        let rows = rows.map(|hour| Places::of(&hours[hour * length..]));
        let ask = |block: &[Made], stop: usize, lane: usize| match block.get(lane) {
            Some((place, _)) if stop < LINES => states.prefetch(*place, stop),
            Some((place, _)) => rows[(stop - LINES) % 2].prefetch(*place, 0),
            None => (),
        };
        let mut ahead = made.chunks(LANES);
        for block in ahead.by_ref().take(BLOCKS_AHEAD) {
            (0..STOPS * LANES).for_each(|n| ask(block, n / LANES, n % LANES));
        }
        for block in made.chunks(LANES) {
            let next = ahead.next().unwrap_or_default();
            let seen = (block, moment);
            *deviating +=
                score_block(series, (hours, length), settings, seen, |stop, lane| ask(next, stop, lane));
        }
        made.len() as u64
    }
}

/// Scores one block of different series: side by side if it is full, else one after the other. How many deviate.
fn score_block(
    series: &mut [Scored],
    weeks: (&[Cell<i8>], usize),
    settings: &DeviationSettings,
    (block, moment): (&[Made], Moment),
    meanwhile: impl FnMut(usize, usize),
) -> u64 {
    if let Some(block) = block.first_chunk::<LANES>()
        && let Ok(ones) = series.get_disjoint_mut(block.map(|(place, _)| place))
    {
        let mut made = block.iter();
        let mut observations =
            ones.map(|one| observation(one, weeks, made.next().copied().unwrap_or_default(), moment));
        let outcomes = batch::observe_while(settings, &mut observations, meanwhile);
        return outcomes.courses.iter().flatten().count() as u64;
    }
    let mut deviating = 0;
    for made in block {
        let one = observation(&mut series[made.0], weeks, *made, moment);
        deviating += u64::from(batch::observe_one(settings, one).courses[0].is_some());
    }
    deviating
}

#[inline(always)]
fn observation<'a>(
    one: &'a mut Scored,
    (hours, length): (&'a [Cell<i8>], usize),
    (place, value): Made,
    moment: Moment,
) -> Observation<'a> {
    let Scored { state, deviation } = one;
    let week = Week::among(hours, length, place);
    Observation { state, week, deviation, moment, value, learning: Learning::Normal, in_event: false }
}

/// All numbers below `length`, shuffled: a linear congruential generator with a full period over the next power of
/// two (Hull and Dobell 1962), leaving out numbers past the end.
struct Order {
    state: usize,
    mask: usize,
    length: usize,
}

impl Order {
    fn new(length: usize, seed: usize) -> Self {
        let mask = length.next_power_of_two() - 1;
        Self { state: seed & mask, mask, length }
    }

    fn next(&mut self) -> usize {
        loop {
            // Only bits below the mask count, so a narrow machine's half of the constants gives the same order.
            let (factor, summand) = (0x5851_f42d_4c95_7f2d_u64 as usize, 0x1405_7b7e_f767_814f_u64 as usize);
            self.state = self.state.wrapping_mul(factor).wrapping_add(summand) & self.mask;
            // The low bits of such a generator alternate; mixing them keeps the order a permutation.
            let mixed = (self.state ^ self.state >> 7).wrapping_mul(0x9e37_79b9) & self.mask;
            if mixed < self.length {
                return mixed;
            }
        }
    }
}

/// Made-up values: a level for each series, a day's wave in it, and noise; cheap to make.
struct Values {
    random: u64,
}

impl Values {
    fn new() -> Self {
        Self { random: 0x2545_f491_4f6c_dd1d }
    }

    /// The value of the series in this place, whose pattern many share.
    fn of(&mut self, place: usize, moment: Moment) -> f64 {
        self.next(place as u64 % u64::from(PATTERNS), moment.local_s)
    }

    fn next(&mut self, series: u64, local_s: i64) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        // The sum of four bytes is close enough to a bell.
        let noise: u32 = self.random.to_le_bytes().into_iter().take(4).map(u32::from).sum();
        let level = 100.0 + (series % 1000) as f64;
        // A triangle from 0 at midnight to 1 at noon.
        let wave = 1.0 - (local_s % 86_400 - 43_200).abs() as f64 / 43_200.0;
        level * (1.0 + 0.5 * wave) + f64::from(noise) / 16.0
    }
}

fn measure_ingesting(series: u32, time: Duration) -> anyhow::Result<Effort> {
    let settings = PipelineSettings::for_series(series);
    let memory = memory::lend_pipeline(&settings);
    let mut pipeline = Pipeline::new(settings, memory, 1).context("making the pipeline")?;
    let mut summary = Box::new(Summary::new(
        RecordKey { boot: BootId(0), lane: Lane::RollUps, sequence: Sequence(0) },
        START,
        1000,
    ));
    let mut text = Vec::new();
    let mut values = Values::new();
    let mut effort = Effort::default();
    for round in 0.. {
        if round == MATURE_OBSERVATIONS {
            effort = Effort::default();
        } else if effort.time >= time && round > MATURE_OBSERVATIONS {
            break;
        }
        let at = START.plus_ms(round * STEP_MS);
        write_round(&mut text, &mut values, series, at)?;
        let now = Now { mono: MonoMs(at.ms_since(START).unsigned_abs()), wall: at };
        effort.add(|| ingest_round(&mut pipeline, &text, now, &mut summary));
    }
    anyhow::ensure!(pipeline.counts().drops.iter().all(|(_, n)| n == 0), "the pipeline dropped observations");
    Ok(effort)
}

fn ingest_round(pipeline: &mut Pipeline<'_>, text: &[u8], now: Now, summary: &mut Summary) -> u64 {
    let defaults = DefaultTags::default();
    let format = Format::LineProtocol(Precision::Nanoseconds);
    while pipeline.poll_deadline().is_some_and(|deadline| deadline <= now.wall) {
        pipeline.handle_deadline(now);
        while pipeline.poll_summary(summary) {}
    }
    let (mut rest, mut accepted) = (text, 0);
    while !rest.is_empty() {
        let reach = rest.len().min(CHUNK_BYTES);
        let end = rest[..reach].iter().rposition(|&byte| byte == b'\n').map_or(reach, |at| at + 1);
        accepted += u64::from(pipeline.handle_bytes(now, format, &defaults, &rest[..end]).accepted);
        rest = &rest[end..];
    }
    accepted
}

/// One line for each series, shuffled by a stride, all at one moment.
fn write_round(text: &mut Vec<u8>, values: &mut Values, series: u32, at: WallMs) -> io::Result<()> {
    const DEVICES: [&str; 8] =
        ["tv-lg", "tv-samsung", "stb-arm", "phone-ios", "phone-android", "web", "console", "stick"];
    const STACKS: [&str; 5] = ["playback", "browse", "login", "search", "payments"];
    text.clear();
    for step in 0..u64::from(series) {
        let number = step * 7_919 % u64::from(series);
        let (device, stack) = (DEVICES[(number % 8) as usize], STACKS[(number / 8 % 5) as usize]);
        let value = values.next(number, at.0 / 1000);
        writeln!(
            text,
            "activity,device={device},host=edge-{number:05},region=uk,stack={stack} value={value:.2} {}000000",
            at.0
        )?;
    }
    Ok(())
}

/// Resident memory of this process, from /proc.
fn resident_bytes() -> anyhow::Result<u64> {
    let process = procfs::process::Process::myself().context("opening /proc/self")?;
    let pages = process.statm().context("reading /proc/self/statm")?.resident;
    Ok(pages * procfs::page_size())
}

/// As many series as take at most half of the memory that is free, 1,000,000 at most and 10,000 at least.
fn fitting_series() -> u32 {
    use procfs::Current;
    let free = procfs::Meminfo::current().ok().and_then(|memory| memory.mem_available).unwrap_or(0);
    let mut series = 1_000_000;
    while series > 20_000 && u64::from(series) * SLOT_BYTES as u64 > free / 2 {
        series /= 2;
    }
    series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measuring_gives_numbers_of_the_right_kind() {
        let measured = measure(300, Duration::from_millis(20)).unwrap();
        assert_eq!(measured.series, 300);
        assert!(measured.scored_per_s > 1000.0 && measured.ingested_per_s > 1000.0, "{measured:?}");
        assert!(measured.resident_bytes > 1 << 16);
        assert_eq!(measured.allocations_per_observation, None, "nothing counts allocations here");
    }

    #[test]
    fn a_round_visits_every_series_once() {
        for series in [1, 2, 3, 100, 1000] {
            let mut fleet = Fleet::new(series);
            let (mut made, mut values) = (Vec::new(), Values::new());
            for round in 0..=i64::from(vedette_agent_core::score::WARM_UP_OBSERVATIONS) {
                let (moment, mut order) = (moment_of(round), Order::new(series as usize, round as usize));
                assert_eq!(
                    make(&mut made, series as usize, &mut order, &mut values, moment),
                    series as usize
                );
                fleet.score(&made, moment);
            }
            let now = Moment::new(START.plus_ms(1 << 30), 0);
            for place in 0..series as usize {
                let hours = Cell::from_mut(&mut *fleet.weeks).as_slice_of_cells();
                let one =
                    observation(&mut fleet.series[place], (hours, series as usize), (place, 100.0), now);
                let outcome = batch::observe_one(&fleet.settings, one);
                assert!(outcome.scores.score(0).ready, "{place} of {series}");
            }
        }
    }
}
