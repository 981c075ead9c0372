//! Replays of what nobody wishes for: calendars of nonsense, configs that name nothing, one stack alone, clocks that are hours
//! off, regions that come and go.
//!
//! It must never ask how well a good fleet is judged. The hard case is to be quiet about the oddity and still page for the fault
//! that is in each of these recordings.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;
use std::rc::Rc;

use serde_json::Value;
use vedette_aggregator::calendar::Calendar;
use vedette_aggregator::config::Config;
use vedette_aggregator::replay::input::Input;
use vedette_aggregator::replay::{Outputs, Replay, Report};

/// 2026-03-09T00:00:00Z, a Monday.
const FROM_S: i64 = 1_773_014_400;
const INTERVALS: i64 = 3 * 288;
/// Two hours near the end in which the fault is.
const FAULT: std::ops::Range<i64> = INTERVALS - 60..INTERVALS - 36;
const STACKS: [&str; 4] = ["browse", "payments", "playback", "search"];
const METRICS: &str = "[metrics.activity]\nrole = \"traffic\"\nalarm_on = \"drop\"\n";
const REGIONS: &str =
    "[regions.uk]\ntimezone = \"Europe/London\"\n[regions.japan]\ntimezone = \"Asia/Tokyo\"\n";

/// One value of a recording: its interval and cell.
#[derive(Clone, Copy)]
struct Told {
    interval: i64,
    region: &'static str,
    stack: &'static str,
}

/// A recording of two regions, two devices and four stacks, of which `kept` keeps a part and moves it in time, in seconds.
/// Traffic is 400 in the mean and restless; search in the uk loses nine tenths in the end.
fn telemetry(kept: impl Fn(Told) -> Option<i64>) -> String {
    let (mut text, mut dice) = (String::new(), 7_u64);
    for interval in 0..INTERVALS {
        for region in ["uk", "japan"] {
            for (device, stack) in ["tv", "web"].iter().flat_map(|device| STACKS.map(|stack| (device, stack)))
            {
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let restless = ((dice >> 33) % 61) as i64 - 30;
                let fails = region == "uk" && stack == "search" && FAULT.contains(&interval);
                let value = if fails { 40 + restless / 3 } else { 400 + restless };
                let Some(moved_s) = kept(Told { interval, region, stack }) else { continue };
                let at_ns = (FROM_S + interval * 300 + moved_s) * 1_000_000_000;
                writeln!(
                    text,
                    "activity,device={device},region={region},stack={stack} value={value} {at_ns}"
                )
                .expect("memory");
            }
        }
    }
    text
}

#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Replays `text`; gives the report and every alarm. Every decision has to come out again from what is stored of it.
fn replay(config: &str, text: &str, calendar: &[u8]) -> (Report, Vec<Value>) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("telemetry.lp");
    std::fs::write(&path, text).expect("the folder is ours");
    let config = Config::parse(Path::new("odd.toml"), config).expect("the config is valid");
    let alarms = Shared::default();
    let outputs = Outputs { alarms: Box::new(alarms.clone()), ledger: Box::new(std::io::sink()) };
    let calendar = Calendar::read(calendar);
    let mistakes = calendar.mistakes_total;
    let mut replay = Replay::new(&config, calendar.calendar, outputs);
    let mut input = Input::open(&[path], &config).expect("telemetry is written");
    while let Some(line) = input.next_line().expect("telemetry can be read") {
        replay.handle_line(&line).expect("results can be written");
    }
    let mut report = replay.finish(&input.dropped).expect("results can be written");
    report.calendar_mistakes = mistakes;
    assert_eq!(report.decisions_derived, report.decisions, "{report:?}");
    let text = String::from_utf8(alarms.0.borrow().clone()).expect("text");
    (report, text.lines().map(|line| serde_json::from_str(line).expect("NDJSON")).collect())
}

/// Who was paged: the scopes of malfunctions that opened, as `region/stack`.
fn paged(alarms: &[Value]) -> Vec<String> {
    let opened = alarms.iter().filter(|alarm| alarm["state"] == "open" && alarm["kind"] == "malfunction");
    let names = |list: &Value| {
        let names: Vec<&str> = list.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        names.join("+")
    };
    let mut scopes: Vec<String> = opened
        .map(|alarm| format!("{}/{}", names(&alarm["scope"]["region"]), names(&alarm["scope"]["stack"])))
        .collect();
    scopes.sort();
    scopes.dedup();
    scopes
}

fn calendar(entries: &str) -> Vec<u8> {
    format!("BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//odd//EN\r\n{entries}END:VCALENDAR\r\n").into_bytes()
}

#[test]
fn a_calendar_of_nonsense_costs_nothing_but_its_entries() {
    let entry = |uid: &str, lines: &str| {
        format!("BEGIN:VEVENT\r\nUID:{uid}\r\n{lines}CATEGORIES:football\r\nLOCATION:uk\r\nEND:VEVENT\r\n")
    };
    let mut entries = entry("no-start", "SUMMARY:nobody knows when\r\n");
    entries += &entry("no-zone", "DTSTART;TZID=Atlantis/Sunken:20260310T200000\r\nDURATION:PT2H\r\n");
    entries += &entry("backwards", "DTSTART:20260310T200000Z\r\nDTEND:20260310T180000Z\r\n");
    entries += &entry("endless", "DTSTART:20200101T030000Z\r\nDURATION:PT1M\r\nRRULE:FREQ=DAILY\r\n");
    entries += &entry("flood", "DTSTART:20260309T000000Z\r\nDURATION:PT1S\r\nRRULE:FREQ=SECONDLY\r\n");
    entries += "BEGIN:VEVENT\r\nDTSTART:not a time\r\nEND:VEVENT\r\n\x07\u{fffd}garbage\r\n";
    let config = format!("{METRICS}{REGIONS}");
    let (report, alarms) = replay(&config, &telemetry(|_| Some(0)), &calendar(&entries));
    assert!(report.calendar_mistakes >= 3, "{report:?}");
    assert_eq!(paged(&alarms), ["uk/search"]);
}

#[test]
fn ten_thousand_entries_in_the_hour_of_the_fault_hold_nothing_back_that_peers_do_not_share() {
    let mut entries = String::new();
    for number in 0..10_000 {
        let (minute, second) = (number / 60 % 60, number % 60);
        write!(
            entries,
            "BEGIN:VEVENT\r\nUID:{number}\r\nDTSTART:20260311T19{minute:02}{second:02}Z\r\nDURATION:PT2H\r\n\
             CATEGORIES:class-{}\r\nEND:VEVENT\r\n",
            number % 500
        )
        .expect("memory");
    }
    let config = format!("{METRICS}{REGIONS}");
    let (report, alarms) = replay(&config, &telemetry(|_| Some(0)), &calendar(&entries));
    assert_eq!(report.calendar_entries, 10_000);
    assert_eq!(paged(&alarms), ["uk/search"]);
}

#[test]
fn what_the_config_does_not_name_is_judged_all_the_same() {
    let (report, alarms) = replay(METRICS, &telemetry(|_| Some(0)), b"");
    assert_eq!(report.scored, report.observations, "{report:?}");
    assert_eq!(paged(&alarms), ["uk/search"]);
}

#[test]
fn one_stack_alone_pages_and_says_that_it_had_nothing_to_compare_with() {
    let alone = telemetry(|told| (told.stack == "search").then_some(0));
    let (_, alarms) = replay(METRICS, &alone, b"");
    assert_eq!(paged(&alarms), ["uk/search"]);
    let opened = alarms.iter().find(|alarm| alarm["state"] == "open").expect("it paged");
    assert_eq!(opened["evidence"]["peers"], serde_json::json!([]), "{opened}");
    let reason = opened["evidence"]["reason"].as_str().unwrap_or_default();
    assert!(reason.starts_with("no independent stack to compare with"), "{reason}");
}

#[test]
fn a_region_whose_clock_is_hours_behind_neither_pages_nor_hides_a_fault() {
    for hours in [-7, -3] {
        let moved = telemetry(|told| Some(if told.region == "japan" { hours * 3_600 } else { 0 }));
        let (report, alarms) = replay(METRICS, &moved, b"");
        // What lies further back than the disorder that is allowed for is late, and counted as such.
        let told = report.scored + report.dropped.values().sum::<u64>();
        assert_eq!(told, report.observations, "{report:?}");
        assert_eq!(paged(&alarms), ["uk/search"], "{hours} hours");
    }
}

#[test]
fn a_region_that_appears_or_vanishes_is_no_malfunction() {
    let comes = telemetry(|told| (told.region == "uk" || told.interval >= INTERVALS / 2).then_some(0));
    let goes = telemetry(|told| (told.region == "uk" || told.interval < INTERVALS / 2).then_some(0));
    for text in [comes, goes] {
        let (_, alarms) = replay(METRICS, &text, b"");
        assert_eq!(paged(&alarms), ["uk/search"]);
    }
}

#[test]
fn a_line_told_twice_or_late_changes_no_verdict() {
    let text = telemetry(|_| Some(0));
    let mut lines: Vec<&str> = text.lines().collect();
    // The last lines of the recording come a second time, and some of the first day once more at its end.
    let (again, late) = (lines[lines.len() - 64..].to_vec(), lines[..64].to_vec());
    lines.extend(again.into_iter().chain(late));
    let (report, alarms) = replay(METRICS, &lines.join("\n"), b"");
    assert_eq!(report.dropped.get("late"), Some(&64), "{report:?}");
    assert_eq!(paged(&alarms), ["uk/search"]);
}
