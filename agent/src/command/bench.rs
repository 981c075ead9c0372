//! `vedette-agent bench`: how fast this machine scores, and how fast it gets from received bytes to scores.
//!
//! Owns the made-up telemetry. Must never time the making of it, nor anything before the series are mature: the ranges
//! of young ones still widen all the time. The hard case is an honest number: series are visited in an order that the
//! caches cannot guess, each one once a round, and the second half runs the agent's own pipeline, windows and summaries
//! included. To mature a million series would take minutes, so the first half matures a few thousand and fills the rest
//! of the memory with copies of them: each has its own place in memory and goes its own way from there, but what the
//! branches of the scorers see is less varied than in as many series that have nothing in common. Those of the second
//! half mature one by one, as in an agent that has run for an hour and a half.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use serde::Serialize;
use vedette_agent_core::batch::{self, LANES, Observation};
use vedette_agent_core::deviation::{DeviationSettings, DeviationState};
use vedette_agent_core::key::DefaultTags;
use vedette_agent_core::parse::{Format, Precision};
use vedette_agent_core::pipeline::{Pipeline, PipelineSettings};
use vedette_agent_core::prefetch::prefetch;
use vedette_agent_core::score::{Learning, Moment, SeriesState};
use vedette_agent_core::table::SLOT_BYTES;
use vedette_common::wire::Summary;
use vedette_common::{BootId, Lane, MonoMs, Now, RecordKey, Sequence, WallMs};

use crate::allocation;
use crate::memory;

/// Series for the way from bytes to scores.
const INGESTED_SERIES_MAX: u32 = 10_000;
/// Series that mature in the first half, for all others to be copies of them, and the observations that takes.
const PATTERNS: u32 = 4096;
const MATURE_OBSERVATIONS: i64 = 500;
/// Bytes handed over at once, as a stream socket would.
const CHUNK_BYTES: usize = 64 * 1024;
/// Blocks whose states are on their way from memory while one is scored.
const BLOCKS_AHEAD: usize = 2;
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
    /// What is kept to score one series: the scorers' state and the life of its deviation.
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
        state_bytes_per_series: size_of::<Scored>(),
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

/// Places of series that are scored at once.
type Block = heapless::Vec<usize, LANES>;

/// One series of the first half.
#[derive(Clone)]
struct Scored {
    state: SeriesState,
    deviation: DeviationState,
}

fn measure_scoring(series: u32, time: Duration) -> anyhow::Result<(Effort, u64)> {
    let settings = DeviationSettings::default();
    let mut values = Values::new();
    let mut states = mature(series.min(PATTERNS), &settings, &mut values);
    fill_with_copies(&mut states, series as usize);
    let mut round = MATURE_OBSERVATIONS;
    // Long rounds are cut, so that the time asked for is kept within a fraction of a second.
    let visits = u64::from(series).min(1 << 20);
    let mut effort = Effort::default();
    while effort.time < time {
        effort.add(|| score_round(&mut states, &settings, &mut values, round, visits));
        round += 1;
    }
    Ok((effort, resident_bytes()?))
}

/// So many series that have seen enough for their ranges to rest.
fn mature(series: u32, settings: &DeviationSettings, values: &mut Values) -> Vec<Scored> {
    let new = |number| Scored { state: SeriesState::new(number), deviation: DeviationState::default() };
    let mut states: Vec<Scored> = (0..series).map(new).collect();
    for round in 0..MATURE_OBSERVATIONS {
        score_round(&mut states, settings, values, round, u64::from(series));
    }
    states
}

/// Copies the states over and over until there are so many.
fn fill_with_copies(states: &mut Vec<Scored>, length: usize) {
    let patterns = states.len();
    states.reserve_exact(length - patterns);
    while states.len() < length {
        let more = patterns.min(length - states.len());
        states.extend_from_within(..more);
    }
}

/// Visits series in an order that looks random and meets each one once, a batch after the other: while one is
/// scored, the states of those after it are on their way from memory.
fn score_round(
    states: &mut [Scored],
    settings: &DeviationSettings,
    values: &mut Values,
    round: i64,
    visits: u64,
) -> u64 {
    let moment = Moment::new(START.plus_ms(round * STEP_MS), 0);
    let mut order = Order::new(states.len(), round as usize);
    let mut left = visits as usize;
    let mut deviating = 0u64;
    let mut ahead: heapless::Deque<Block, { BLOCKS_AHEAD + 1 }> = heapless::Deque::new();
    loop {
        while !ahead.is_full() && left > 0 {
            let _ = ahead.push_back(order.block(&mut left, states));
        }
        let Some(block) = ahead.pop_front() else { break };
        deviating += score_block(states, &block, settings, values, moment);
    }
    std::hint::black_box(deviating);
    visits
}

/// Scores one block of different series: side by side if it is full, else one after the other.
fn score_block(
    states: &mut [Scored],
    block: &Block,
    settings: &DeviationSettings,
    values: &mut Values,
    moment: Moment,
) -> u64 {
    let places: Result<[usize; LANES], _> = block.as_slice().try_into();
    if let Ok(places) = places
        && let Ok(ones) = states.get_disjoint_mut(places)
    {
        let mut number = places.iter();
        let mut observations = ones.map(|one| {
            let place = number.next().copied().unwrap_or_default();
            observation(one, values.of(place, moment), moment)
        });
        return batch::observe(settings, &mut observations).courses.iter().flatten().count() as u64;
    }
    let mut deviating = 0;
    for &place in block {
        let one = observation(&mut states[place], values.of(place, moment), moment);
        deviating += u64::from(batch::observe_one(settings, one).courses[0].is_some());
    }
    deviating
}

fn observation(one: &mut Scored, value: f64, moment: Moment) -> Observation<'_> {
    let Scored { state, deviation } = one;
    let ((state, week), learning) = (state.parts(), Learning::Normal);
    Observation { state, week, deviation, moment, value, learning, in_event: false }
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

    /// The next few places, as long as any are `left`; their states are asked for.
    fn block(&mut self, left: &mut usize, states: &[Scored]) -> Block {
        let length = LANES.min(*left);
        *left -= length;
        let block: Block = (0..length).map(|_| self.next()).collect();
        for &place in &block {
            prefetch(&states[place]);
        }
        block
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
            let one = Scored { state: SeriesState::new(0), deviation: DeviationState::default() };
            let mut states = vec![one; series];
            for round in 0..=i64::from(vedette_agent_core::score::WARM_UP_OBSERVATIONS) {
                score_round(
                    &mut states,
                    &DeviationSettings::default(),
                    &mut Values::new(),
                    round,
                    series as u64,
                );
            }
            let now = Moment::new(START.plus_ms(1 << 30), 0);
            let ready = states.iter_mut().map(|one| one.state.update(now, 100.0, Learning::Normal).ready);
            assert_eq!(ready.filter(|ready| *ready).count(), series);
        }
    }
}
