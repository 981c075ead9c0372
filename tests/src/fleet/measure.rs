//! Many fleets judged under many settings: each is scored once, its summaries are kept, and the judgement is repeated.
//!
//! The way of `replay`, with its own virtual agents and its own judgement, from memory in place of files. Must never show the truth to
//! either. The hard case is size: a fleet of a month is millions of observations, so what is kept is what would travel on the
//! wire, some twenty megabytes.

use super::grade::{self, Grade};
use super::{Fleet, Kind, Telemetry, calendar, files, telemetry};
use std::cell::RefCell;
use std::io::{self, Write};
use std::path::Path;
use std::rc::Rc;
use vedette_agent_core::parse::Precision;
use vedette_aggregator::calendar::Calendar;
use vedette_aggregator::config::Config;
use vedette_aggregator::replay::input::Line;
use vedette_aggregator::replay::recording::{Recorder, Recording};
use vedette_aggregator::replay::{Judging, Outputs, schedule};
use vedette_aggregator_core::Settings;
use vedette_common::WallMs;

/// The config that a replay of the fleet's files would read.
///
/// # Panics
/// When the fleet's own config is not valid.
pub fn config(fleet: &Fleet) -> Config {
    Config::parse(Path::new("config.toml"), &files::config(fleet)).expect("the fleet's config is valid")
}

/// What that config says to the judgement.
///
/// # Panics
/// When the fleet's own config is not valid.
pub fn settings(fleet: &Fleet) -> Settings {
    config(fleet).core_settings()
}

fn calendar_of(fleet: &Fleet) -> Calendar {
    Calendar::read(calendar::write(fleet).as_bytes()).calendar
}

/// Scores the telemetry of `fleet` as the agents of its regions would.
///
/// # Panics
/// When a summary does not fit a frame.
pub fn record(fleet: &Fleet) -> Recording {
    let config = config(fleet);
    let mut recorder = Recorder::new(&config, calendar_of(fleet));
    let mut text = String::new();
    for interval in Telemetry::new(fleet) {
        text.clear();
        for sample in &interval.samples {
            telemetry::write_lines(&mut text, fleet, sample, interval.from_s * 1_000_000_000);
        }
        let at = WallMs(interval.from_s * 1000);
        for line in text.lines() {
            let line = Line::of_line_protocol(at, line.as_bytes(), Precision::Nanoseconds);
            recorder.handle_line(&line).expect("a summary fits a frame");
        }
    }
    recorder.finish().expect("a summary fits a frame")
}

/// Judges what was recorded of `fleet`; gives every state that an incident entered, as NDJSON.
///
/// # Panics
/// When the recording is none.
pub fn judge(fleet: &Fleet, recording: &Recording, settings: &Settings) -> String {
    let config = config(fleet);
    let alarms = Shared::default();
    let outputs = Outputs { alarms: Box::new(alarms.clone()), ledger: Box::new(io::sink()) };
    let mut judging = Judging::new(settings.clone(), outputs).without_deriving();
    judging.handle_calendar(schedule(&config, &calendar_of(fleet), WallMs(fleet.plan.from_s * 1000)));
    recording.judge(&mut judging, settings.timing.lateness_ms).expect("a recording is judged");
    drop(judging);
    String::from_utf8(alarms.0.take()).expect("alarms are text")
}

/// Memory that is written by one and read by another.
#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Judges a recording and grades what came of it.
///
/// # Panics
/// When the recording is none.
pub fn measure(fleet: &Fleet, recording: &Recording, settings: &Settings) -> Grade {
    grade(fleet, &judge(fleet, recording, settings))
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
