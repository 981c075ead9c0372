//! Many fleets judged under many settings: each is scored once, its summaries are kept, and the judgement is repeated.
//!
//! The way of `replay` without its files: the agents' own pipelines, the aggregator's own core, virtual time. Must never
//! show the truth to either. The hard case is size: a fleet of a month is millions of observations, so what is kept is
//! what would travel on the wire, some twenty megabytes.

use super::grade::{self, Grade};
use super::{Fleet, Kind, Telemetry, World, files};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use vedette_agent_core::key::{DefaultTags, Observation};
use vedette_agent_core::pipeline::{Pipeline, PipelineMemory, PipelineSettings};
use vedette_aggregator_core::{
    Aggregator, AlarmOn, AllowedRegions, Effect, MetricSettings, Role, ScheduleEntry, Settings,
};
use vedette_common::limits::{CALENDAR_ENTRIES_MAX, FRAME_BYTES_MAX};
use vedette_common::wire::{Birth, Calendar, CalendarEntry, Frame, Summary, decode, encode};
use vedette_common::{AgentId, BootId, Lane, MonoMs, Now, RecordKey, Sequence, WallMs};

const SERIES_MAX: u32 = 512;
/// No zone changes its offset between two quarters of an hour.
const UPKEEP_S: i64 = 900;
const NEVER_MS: i64 = i64::MAX / 4;

/// What the agents of a fleet sent, in the order in which it came: each frame after the time and its agent's place.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// Milliseconds and place as little-endian numbers of eight and two bytes, then the frame, again and again.
    pub bytes: Vec<u8>,
}

/// One region's agent.
struct Scorer {
    pipeline: Pipeline<'static>,
    sequences: [u64; 2],
}

/// Scores the telemetry of `fleet` as the agents of its regions would.
///
/// # Panics
/// When a pipeline refuses its own settings.
pub fn record(fleet: &Fleet) -> Recording {
    let mut recording = Recording::default();
    let mut scorers: Vec<Scorer> = fleet.world.regions.iter().map(|_| scorer(fleet.interval_s)).collect();
    let mut summary = Box::new(Summary::new(key(Lane::RollUps, 0), WallMs(0), 1));
    let schedule = schedule(fleet);
    for interval in Telemetry::new(fleet) {
        let now = now(fleet, interval.from_s);
        for (region, scorer) in scorers.iter_mut().enumerate() {
            scorer.close(now, region, &mut summary, &mut recording);
            if interval.from_s % UPKEEP_S < fleet.interval_s {
                scorer.keep_up(now, &fleet.world, region, &schedule);
            }
        }
        for sample in &interval.samples {
            let world = &fleet.world;
            let tags = [
                ("region", world.regions[sample.cell.region].name),
                ("device", world.devices[sample.cell.device].name),
                ("stack", world.stacks[sample.cell.stack].name),
            ];
            for (measurement, value) in sample.values(fleet.errors) {
                let observation =
                    Observation { measurement, field: "value", tags: &tags, value, at: Some(now.wall) };
                let pipeline = &mut scorers[sample.cell.region].pipeline;
                // The pipeline counts what it drops.
                let _ = pipeline.handle_observation(now, &DefaultTags::default(), &observation);
            }
        }
    }
    let end = now(fleet, fleet.plan.until_s);
    for (region, scorer) in scorers.iter_mut().enumerate() {
        scorer.close(end, region, &mut summary, &mut recording);
    }
    recording
}

impl Scorer {
    fn close(&mut self, now: Now, region: usize, summary: &mut Summary, recording: &mut Recording) {
        while self.pipeline.poll_deadline().is_some_and(|due| due <= now.wall) {
            self.pipeline.handle_deadline(now);
            while self.pipeline.poll_summary(summary) {
                let lane = if summary.deviations.is_empty() { Lane::RollUps } else { Lane::Deviations };
                self.sequences[lane.index()] += 1;
                summary.key = key(lane, self.sequences[lane.index()]);
                recording.push(now.wall, region, summary);
            }
        }
    }

    fn keep_up(&mut self, now: Now, world: &World, region: usize, schedule: &[ScheduleEntry]) {
        let name = world.regions[region].name;
        let offset_s = world.utc_offset_s(region, now.wall.0.div_euclid(1000));
        self.pipeline.set_utc_offset(name, i32::try_from(offset_s).unwrap_or(0));
        let concerns =
            |it: &&ScheduleEntry| it.until > now.wall && it.region.as_deref().is_none_or(|of| of == name);
        let entry = |it: &ScheduleEntry| {
            Some(CalendarEntry {
                region: name.try_into().ok()?,
                class: it.class.as_str().try_into().unwrap_or_default(),
                from: it.from,
                until: it.until,
            })
        };
        let soonest = schedule.iter().filter(concerns).filter_map(entry).take(CALENDAR_ENTRIES_MAX);
        self.pipeline.set_calendar(&Calendar { version: 1, entries: soonest.collect() });
    }
}

impl Recording {
    fn push(&mut self, at: WallMs, place: usize, summary: &Summary) {
        let mut frame = vec![0; FRAME_BYTES_MAX];
        let length = encode(summary, &mut frame).expect("a summary fits a frame");
        self.bytes.extend(at.0.to_le_bytes());
        self.bytes.extend((place as u16).to_le_bytes());
        self.bytes.extend(&frame[..length]);
    }

    /// Judges what was recorded; gives every state that an incident entered, as NDJSON.
    ///
    /// # Panics
    /// When the recording is none.
    pub fn judge(&self, fleet: &Fleet, settings: &Settings) -> String {
        let mut core = Aggregator::new(settings.clone());
        core.handle_calendar(schedule(fleet));
        let mut alarms = String::new();
        let agents: Vec<AgentId> =
            fleet.world.regions.iter().map(|region| birth(fleet, &mut core, region.name)).collect();
        let mut rest = &self.bytes[..];
        while let Some((head, tail)) = rest.split_first_chunk::<10>() {
            let (at, place) = head.split_at(8);
            let at = WallMs(i64::from_le_bytes(at.try_into().expect("eight bytes")));
            let place = usize::from(u16::from_le_bytes(place.try_into().expect("two bytes")));
            pass(&mut core, at, &mut alarms);
            let (frame, used) = Frame::parse(tail).expect("a whole frame was recorded");
            let summary: Summary = decode(&frame).expect("a summary was recorded");
            core.handle_summary(moment(at), &agents[place], &AllowedRegions::All, &summary);
            rest = &tail[used..];
        }
        pass(&mut core, WallMs(fleet.plan.until_s * 1000 + 60_000), &mut alarms);
        alarms
    }
}

/// Lets virtual time pass until `at`.
fn pass(core: &mut Aggregator, at: WallMs, alarms: &mut String) {
    while let Some(due) = core.poll_deadline().filter(|due| *due < at) {
        core.handle_deadline(moment(due));
        while let Some(effect) = core.poll_effect() {
            if let Effect::Incident(alarm) = effect {
                let line = serde_json::to_string(&alarm).expect("an alarm is JSON");
                // Writing to a string cannot fail.
                let _ = writeln!(alarms, "{line}");
            }
        }
        // Nobody commits; taking the changes keeps the list of them short.
        drop(core.take_changes());
    }
}

fn birth(fleet: &Fleet, core: &mut Aggregator, region: &str) -> AgentId {
    let agent = AgentId::parse(&format!("replay-{region}")).expect("regions have plain names");
    let started_at = WallMs(fleet.plan.from_s * 1000);
    let birth = Birth {
        agent: agent.clone(),
        boot: BootId(1),
        version: Default::default(),
        started_at,
        window_ms: window_ms(fleet.interval_s),
        regions: region.try_into().into_iter().collect(),
        series_max: SERIES_MAX,
    };
    core.handle_birth(moment(started_at), &agent, &birth);
    agent
}

/// What the config of a fleet says.
pub fn settings(fleet: &Fleet) -> Settings {
    let metric = |role: Role| MetricSettings { role, alarm_on: role.default_alarm_on() };
    let mut metrics = BTreeMap::from([("activity".to_owned(), metric(Role::Traffic))]);
    if fleet.errors {
        metrics.insert("errors".to_owned(), metric(Role::Errors));
        metrics.insert("latency".to_owned(), metric(Role::Latency));
    }
    debug_assert!(metrics["activity"].alarm_on == AlarmOn::Drop, "traffic that falls is what matters");
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let dependent = fleet.world.stacks.iter().filter(|stack| !stack.depends_on.is_empty());
    let mut settings = Settings {
        metrics,
        depends_on: dependent.map(|stack| (stack.name.to_owned(), owned(stack.depends_on))).collect(),
        ..Settings::default()
    };
    (settings.timing.past_max_ms, settings.timing.history_after_ms) = (NEVER_MS, NEVER_MS);
    settings
}

/// The calendar of a fleet, expanded.
pub fn schedule(fleet: &Fleet) -> Vec<ScheduleEntry> {
    let mut entries = Vec::new();
    for occurrence in &fleet.plan.occurrences {
        let Some((from_s, until_s)) = occurrence.announced_s else { continue };
        let all = occurrence.scope.regions.len() == fleet.world.regions.len();
        let names = occurrence.scope.regions.iter().map(|&region| Some(fleet.world.regions[region].name));
        let names: Vec<Option<&str>> = if all { vec![None] } else { names.collect() };
        entries.extend(names.into_iter().map(|region| ScheduleEntry {
            from: WallMs(from_s * 1000),
            until: WallMs(until_s * 1000),
            region: region.map(ToOwned::to_owned),
            class: occurrence.cause.to_owned(),
            title: occurrence.cause.to_owned(),
        }));
    }
    entries.sort();
    entries
}

/// Judges a recording and grades what came of it.
///
/// # Panics
/// When the recording is none.
pub fn measure(fleet: &Fleet, recording: &Recording, settings: &Settings) -> Grade {
    grade(fleet, &recording.judge(fleet, settings))
}

/// Grades alarms about `fleet`.
///
/// # Panics
/// When they are not NDJSON.
pub fn grade(fleet: &Fleet, alarms: &str) -> Grade {
    grade::grade(&files::truth(fleet), &grade::parse_alarms(alarms).expect("alarms are NDJSON"))
}

/// How many faults and events a fleet has, for a first look.
pub fn describe(fleet: &Fleet) -> String {
    let count = |kind: Kind| fleet.plan.occurrences.iter().filter(|it| it.kind == kind).count();
    let world = &fleet.world;
    let cells = world.regions.len() * world.devices.len() * world.stacks.len();
    format!("{cells} cells, {} faults, {} events", count(Kind::Malfunction), count(Kind::Event))
}

fn now(fleet: &Fleet, at_s: i64) -> Now {
    let since_ms = (at_s - fleet.plan.from_s).unsigned_abs() * 1000;
    Now { mono: MonoMs(since_ms), wall: WallMs(at_s * 1000) }
}

/// Of a core, which asks for wall time alone.
fn moment(at: WallMs) -> Now {
    Now { mono: MonoMs(at.0.unsigned_abs()), wall: at }
}

fn key(lane: Lane, sequence: u64) -> RecordKey {
    RecordKey { boot: BootId(1), lane, sequence: Sequence(sequence) }
}

fn window_ms(interval_s: i64) -> u32 {
    u32::try_from(interval_s * 1000).unwrap_or(u32::MAX)
}

/// An agent as `replay` makes it. Its memory is never given back.
fn scorer(interval_s: i64) -> Scorer {
    fn lend<T: Clone + Default>(length: usize) -> &'static mut [T] {
        vec![T::default(); length].leak()
    }
    let base = PipelineSettings::for_series(SERIES_MAX);
    let settings =
        PipelineSettings { cells_max: SERIES_MAX, window_ms: window_ms(interval_s), lateness_ms: 0, ..base };
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
    let pipeline = Pipeline::new(settings, memory, 1).expect("the settings are within their limits");
    Scorer { pipeline, sequences: [0; 2] }
}
