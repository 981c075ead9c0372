//! `bench`: measures decoding, sessions and judgement on one core with frames of a large made-up fleet.
//! It must never measure the making of the frames. The hard case is what a figure stands for: the time of a record is that of its decoding, its
//! session and its place in the region's window, and its share of judging that window; the judging alone is the decision.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use serde::Serialize;
use vedette_aggregator_core::{Aggregator, AlarmOn, AllowedRegions, MetricSettings, Role, Settings};
use vedette_common::limits::{CELLS_MAX, DEVIATIONS_MAX, FRAME_BYTES_MAX};
use vedette_common::wire::{
    CellName, Course, Deviation, Direction, F24, Fraction, Frame, NO_TAGS, Phase, RollUp, Scorer, Shape,
    Summary, decode, encode,
};
use vedette_common::{AgentId, BootId, Lane, MonoMs, Now, RecordKey, Sequence, WallMs};

/// Agents of the fleet, two for each of 64 regions.
const AGENTS: usize = 128;
const AGENTS_PER_REGION: usize = 2;
/// Devices and stacks of each agent's cells.
const DEVICES: usize = 8;
const STACKS: usize = CELLS_MAX / DEVICES;
const WINDOW_MS: u32 = 10_000;
/// 2026-01-01T00:00:00Z.
const START: WallMs = WallMs(1_767_225_600_000);
/// Decisions whose times are kept; later ones replace the earliest.
const DECISIONS_MAX: usize = 100_000;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// How long to measure.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Figures {
    deviations_per_s: u64,
    rollups_per_s: u64,
    decision_p99_ms: f64,
    resident_bytes: u64,
}

/// Processor time spent and things done in it.
#[derive(Debug, Default)]
struct Meter {
    spent: Duration,
    done: u64,
}

impl Meter {
    fn per_s(&self) -> u64 {
        (self.done as f64 / self.spent.as_secs_f64().max(1e-9)) as u64
    }
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let figures = measure(Duration::from_secs(arguments.seconds))?;
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&figures)?)?;
    Ok(())
}

fn measure(limit: Duration) -> anyhow::Result<Figures> {
    let mut core = Aggregator::new(settings());
    let agents =
        (0..AGENTS).map(|it| AgentId::parse(&format!("agent-{it}"))).collect::<Result<Vec<_>, _>>()?;
    let mut meters = [Meter::default(), Meter::default()];
    let mut decisions = Vec::new();
    let begun = Instant::now();
    let mut window = 0_u64;
    while begun.elapsed() < limit {
        let end = START.plus_ms((window as i64 + 1) * i64::from(WINDOW_MS));
        let now = Now { mono: MonoMs((window + 1) * u64::from(WINDOW_MS)), wall: end };
        for lane in Lane::ALL {
            let frames = frames(agents.len(), window, lane)?;
            let meter = &mut meters[lane.index()];
            let before = processor_time(begun);
            for (agent, frame) in agents.iter().zip(&frames) {
                meter.done += receive(&mut core, now, agent, frame)?;
            }
            meter.spent += processor_time(begun).saturating_sub(before);
        }
        let (started, before) = (Instant::now(), processor_time(begun));
        core.handle_deadline(Now { mono: now.mono, wall: end.plus_ms(1_000) });
        while core.poll_effect().is_some() {}
        let spent = processor_time(begun).saturating_sub(before);
        // Every summary of the window has its share in the decision.
        meters.iter_mut().for_each(|meter| meter.spent += spent / 2);
        if decisions.len() < DECISIONS_MAX {
            decisions.push(started.elapsed());
        }
        core.forget_changes();
        window += 1;
    }
    decisions.sort_unstable();
    let p99 = decisions.get(decisions.len().saturating_sub(1) * 99 / 100).copied().unwrap_or_default();
    Ok(Figures {
        deviations_per_s: meters[Lane::Deviations.index()].per_s(),
        rollups_per_s: meters[Lane::RollUps.index()].per_s(),
        decision_p99_ms: p99.as_secs_f64() * 1_000.0,
        resident_bytes: resident_bytes(),
    })
}

/// The one metric is traffic, so that it is judged as traffic is.
fn settings() -> Settings {
    let traffic = MetricSettings { role: Role::Traffic, alarm_on: AlarmOn::Drop };
    Settings { metrics: BTreeMap::from([("activity".to_owned(), traffic)]), ..Settings::default() }
}

/// What all agents say of one window in one lane, as it travels.
fn frames(agents: usize, window: u64, lane: Lane) -> anyhow::Result<Vec<Vec<u8>>> {
    let frame = |agent| {
        let mut frame = vec![0; FRAME_BYTES_MAX];
        let length = encode(&summary(agent, window, lane), &mut frame)?;
        frame.truncate(length);
        Ok(frame)
    };
    (0..agents).map(frame).collect()
}

/// Takes one frame the whole way into its window; gives the number of its records.
fn receive(core: &mut Aggregator, now: Now, agent: &AgentId, bytes: &[u8]) -> anyhow::Result<u64> {
    let (frame, _) = Frame::parse(bytes)?;
    let summary: Summary = decode(&frame)?;
    core.handle_summary(now, agent, &AllowedRegions::All, &summary);
    while core.poll_effect().is_some() {}
    Ok((summary.deviations.len() + summary.roll_ups.len()) as u64)
}

/// The processor time of this thread, so that it counts for nothing what else the machine does; the time since `begun` where the
/// kernel does not tell. The kernel counts in ticks of some milliseconds: only sums over many windows say something.
fn processor_time(begun: Instant) -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let told = told.as_deref().and_then(|it| it.split(' ').next()?.parse::<u64>().ok());
    told.map_or_else(|| begun.elapsed(), Duration::from_nanos)
}

/// What an agent says of one window in one lane. In every tenth window a stack of every eighth region has lost half its
/// traffic; the other windows hold deviations of noise.
fn summary(agent: usize, window: u64, lane: Lane) -> Summary {
    let key = RecordKey { boot: BootId(1), lane, sequence: Sequence(window + 1) };
    let start = START.plus_ms(window as i64 * i64::from(WINDOW_MS));
    let mut summary = Summary::new(key, start, WINDOW_MS);
    let mut intern = |text: String| summary.strings.intern(&text).unwrap_or(NO_TAGS);
    let region = intern(format!("region-{}", agent / AGENTS_PER_REGION));
    let metric = intern("activity".into());
    for cell in 0..CELLS_MAX {
        let device = intern(format!("device-{}-{}", agent % AGENTS_PER_REGION, cell / STACKS));
        let stack = intern(format!("stack-{}", cell % STACKS));
        // The cells are as many as the limit, so none is turned away.
        let _ = summary.cells.push(CellName { region, device, stack });
    }
    let noise = |at: usize| ((agent * 31 + at * 17 + window as usize * 7) % 100) as f32 / 100.0 - 0.5;
    let is_faulty = |at: usize| {
        window.is_multiple_of(10)
            && (agent / AGENTS_PER_REGION).is_multiple_of(8)
            && at % CELLS_MAX % STACKS == 3
    };
    let pair = |at: usize| {
        let lost = if is_faulty(at) { 0.5 } else { 1.0 };
        (F24::from_f32(lost * (1_000.0 + 40.0 * noise(at))), F24::from_f32(1_000.0))
    };
    if lane == Lane::RollUps {
        for cell in 0..CELLS_MAX {
            let (observed, expected) = pair(cell);
            let _ = summary.roll_ups.push(RollUp { cell: cell as u8, metric, observed, expected, count: 10 });
        }
        return summary;
    }
    for at in 0..DEVIATIONS_MAX {
        let (observed, expected) = pair(at);
        let score = Fraction::from_f32(0.5 + noise(at).abs());
        let course = Course {
            phase: Phase::Ongoing,
            direction: Direction::Down,
            in_event: false,
            scorer: Scorer::Value,
        };
        let _ = summary.deviations.push(Deviation {
            cell: (at % CELLS_MAX) as u8,
            metric,
            tags: NO_TAGS,
            course,
            onset_s_ago: 60,
            observed,
            expected,
            score,
            forecast: score,
            derivative: score,
            distribution: score,
            shape: Shape::from_samples(&[1.0; 8]),
        });
    }
    summary
}

/// The memory that the kernel says this process holds; 0 where it does not say.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|it| it.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}
