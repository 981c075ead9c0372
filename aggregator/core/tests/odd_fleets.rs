//! Fleets that are not as they should be: one stack alone, regions that come and go, clocks that are hours off.
//!
//! It must never take a missing peer for a quiet one. The hard case is a lattice of a single cell: nothing can be compared,
//! the evidence says so, and a large fall pages all the same.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    dead_code,
    reason = "a test, and it uses a part of the fleet's tools"
)]

mod fleet;

use std::collections::BTreeMap;

use fleet::{Dice, START, WINDOW_MS};
use vedette_aggregator_core::{
    Aggregator, Alarm, AllowedRegions, Effect, IncidentState, Kind, MetricSettings, Reason, Role,
    ScheduleEntry, Settings,
};
use vedette_common::wire::{CellName, F24, RollUp, Summary};
use vedette_common::{AgentId, BootId, Lane, MonoMs, Now, RecordKey, Sequence};

const CALM_WINDOWS: i64 = 100;
const WINDOWS: i64 = 130;

type Cell = (&'static str, &'static str, &'static str);

/// A fleet under test: its cells, and what each observes of a thousand expected in a window; none for no data.
struct Odd<F: Fn(i64, Cell) -> Option<f64>> {
    cells: Vec<Cell>,
    observed: F,
    calendar: Vec<ScheduleEntry>,
    /// How far the clock of each agent but the first region's is ahead, in windows.
    ahead: i64,
}

fn now(window: i64) -> Now {
    let wall = START.plus_ms((window + 1) * i64::from(WINDOW_MS));
    Now { wall, mono: MonoMs(wall.0.unsigned_abs()) }
}

impl<F: Fn(i64, Cell) -> Option<f64>> Odd<F> {
    fn summary(&self, dice: &mut Dice, window: i64, region: &str, ahead: i64) -> Summary {
        let key = RecordKey { boot: BootId(1), lane: Lane::RollUps, sequence: Sequence(window as u64 + 1) };
        let start = START.plus_ms((window + ahead) * i64::from(WINDOW_MS));
        let mut summary = Summary::new(key, start, WINDOW_MS);
        let metric = summary.strings.intern("activity").unwrap();
        for cell in self.cells.iter().filter(|cell| cell.0 == region) {
            let Some(mean) = (self.observed)(window, *cell) else { continue };
            let mut name = |text| summary.strings.intern(text).unwrap();
            let (region, device, stack) = (name(cell.0), name(cell.1), name(cell.2));
            summary.cells.push(CellName { region, device, stack }).unwrap();
            let place = summary.cells.len() as u8 - 1;
            let (observed, expected) = (F24::from_f64(dice.poisson(mean)), F24::from_f64(1_000.0));
            summary.roll_ups.push(RollUp { cell: place, metric, observed, expected, count: 5 }).unwrap();
        }
        summary
    }

    fn judge(&self) -> (Vec<Alarm>, Aggregator) {
        let metric = MetricSettings { role: Role::Traffic, alarm_on: Role::Traffic.default_alarm_on() };
        let metrics = BTreeMap::from([("activity".into(), metric)]);
        let mut aggregator = Aggregator::new(Settings { metrics, ..Settings::default() });
        aggregator.handle_calendar(self.calendar.clone());
        let mut regions: Vec<&str> = self.cells.iter().map(|cell| cell.0).collect();
        regions.dedup();
        let (mut dice, mut told) = (Dice(7), Vec::new());
        for window in 0..WINDOWS {
            for (place, region) in regions.iter().enumerate() {
                let agent = AgentId::parse(&format!("edge-{region}")).unwrap();
                let ahead = if place == 0 { 0 } else { self.ahead };
                let summary = self.summary(&mut dice, window, region, ahead);
                aggregator.handle_summary(now(window), &agent, &AllowedRegions::All, &summary);
            }
            aggregator.handle_deadline(Now { wall: now(window).wall.plus_ms(60_000), ..now(window) });
            while let Some(effect) = aggregator.poll_effect() {
                if let Effect::Incident(alarm) = effect {
                    told.push(*alarm);
                }
            }
        }
        (told, aggregator)
    }
}

fn pages(told: &[Alarm]) -> Vec<&Alarm> {
    told.iter().filter(|a| a.state == IncidentState::Open && a.kind == Kind::Malfunction).collect()
}

fn lattice(regions: &[&'static str], devices: &[&'static str], stacks: &[&'static str]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for region in regions {
        for device in devices {
            cells.extend(stacks.iter().map(|stack| (*region, *device, *stack)));
        }
    }
    cells
}

const STACKS: [&str; 4] = ["browse", "payments", "playback", "search"];
const DEVICES: [&str; 4] = ["mobile", "tv-lg", "tv-sony", "web"];

#[test]
fn a_single_cell_has_no_peers_and_says_so() {
    let cells = lattice(&["uk"], &["web"], &["shop"]);
    let falls = |window: i64, _: Cell| Some(if window < CALM_WINDOWS { 1_000.0 } else { 300.0 });
    let fleet = Odd { cells, observed: falls, calendar: Vec::new(), ahead: 0 };
    let (told, _) = fleet.judge();
    let pages = pages(&told);
    assert_eq!(pages.len(), 1, "{told:#?}");
    assert!(pages[0].evidence.peers.is_empty());
    assert!(pages[0].evidence.reason.contains("no independent stack"), "{}", pages[0].evidence.reason);
}

#[test]
fn a_single_cell_amid_a_scheduled_event_is_held_back() {
    let entry = ScheduleEntry {
        from: START.plus_ms(CALM_WINDOWS * i64::from(WINDOW_MS)),
        until: START.plus_ms(WINDOWS * i64::from(WINDOW_MS)),
        region: None,
        class: "football".into(),
        title: String::new(),
    };
    let falls = |window: i64, _: Cell| Some(if window < CALM_WINDOWS { 1_000.0 } else { 300.0 });
    let cells = lattice(&["uk"], &["web"], &["shop"]);
    let (told, _) = Odd { cells, observed: falls, calendar: vec![entry], ahead: 0 }.judge();
    assert!(pages(&told).is_empty() && !told.is_empty(), "{told:#?}");
}

#[test]
fn with_one_stack_devices_are_compared_with_each_other() {
    let fails = |window: i64, cell: Cell| {
        let event = if window < CALM_WINDOWS { 1.0 } else { 0.6 };
        let fault = if window >= CALM_WINDOWS + 10 && cell.1 == "tv-lg" { 0.3 } else { 1.0 };
        Some(1_000.0 * event * fault)
    };
    let cells = lattice(&["uk"], &DEVICES, &["shop"]);
    let (told, _) = Odd { cells, observed: fails, calendar: Vec::new(), ahead: 0 }.judge();
    let pages = pages(&told);
    assert_eq!(pages.len(), 1, "{told:#?}");
    assert_eq!(pages[0].scope.device, ["tv-lg"]);
}

#[test]
fn a_region_that_appears_and_vanishes_is_no_fault_of_the_application() {
    let comes = |window: i64, cell: Cell| (cell.0 != "new" || (40..110).contains(&window)).then_some(1_000.0);
    let cells = lattice(&["fr", "new", "uk"], &DEVICES, &STACKS);
    let (told, aggregator) = Odd { cells, observed: comes, calendar: Vec::new(), ahead: 0 }.judge();
    assert!(pages(&told).is_empty(), "{told:#?}");
    let missing: Vec<&Alarm> = told.iter().filter(|a| a.kind == Kind::Telemetry).collect();
    assert!(missing.iter().any(|a| a.scope.region == ["new"]), "{told:#?}");
    assert_eq!(aggregator.snapshot().regions.len(), 3);
}

#[test]
fn clocks_that_are_hours_off_are_refused_and_counted() {
    let calm = |_: i64, _: Cell| Some(1_000.0);
    let cells = lattice(&["fr", "uk"], &DEVICES, &STACKS);
    let (told, aggregator) = Odd { cells, observed: calm, calendar: Vec::new(), ahead: 36 }.judge();
    assert!(pages(&told).is_empty(), "{told:#?}");
    assert_eq!(aggregator.counts().get(Reason::WindowFuture), WINDOWS as u64);
    assert!(aggregator.counts().windows_judged >= WINDOWS as u64 - 2);
}

#[test]
fn a_flood_of_calendar_entries_changes_nothing_but_a_count() {
    let entry = |number: i64| ScheduleEntry {
        from: START.plus_ms(CALM_WINDOWS * i64::from(WINDOW_MS) + number * 360),
        until: START.plus_ms(CALM_WINDOWS * i64::from(WINDOW_MS) + number * 360 + 1),
        region: Some("elsewhere".into()),
        class: format!("class {number}"),
        title: String::new(),
    };
    let fails = |window: i64, cell: Cell| {
        Some(if window >= CALM_WINDOWS && cell.2 == "search" { 300.0 } else { 1_000.0 })
    };
    let cells = lattice(&["fr", "uk"], &DEVICES, &STACKS);
    let calendar = (0..20_000).map(entry).collect();
    let (told, aggregator) = Odd { cells, observed: fails, calendar, ahead: 0 }.judge();
    assert_eq!(aggregator.counts().get(Reason::CalendarEntry), 10_000);
    assert_eq!(pages(&told).len(), 1, "{told:#?}");
}
