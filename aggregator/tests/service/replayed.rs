//! Replays beside what runs: the same frames are judged alike by both, and what operators set in the config and the calendar does to a
//! replay by the real program what it says.
//!
//! It must never compare with numbers that were only observed: each setting is compared with the same input without it. The hard case is a
//! region that the setting does not name: nothing changes there.

use std::fmt::Write;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use vedette_agent_core::parse::Precision;
use vedette_aggregator::calendar::Calendar;
use vedette_aggregator::config::Config;
use vedette_aggregator::replay::input::Line;
use vedette_aggregator::replay::recording::{Recorder, Recording};
use vedette_aggregator::replay::{Judging, Outputs};
use vedette_aggregator::run::Service;
use vedette_common::wire::{Birth, Kind, Summary, decode};
use vedette_common::{Lane, WallMs};

use crate::agent::{Answer, enroll, now};
use crate::program::Program;
use crate::{QUIET, config, read_token, wait_for};

const STEP_S: u64 = 300;
const DAY: u64 = 288;
/// 2026-03-02T00:00:00Z, a Monday.
const START_S: u64 = 1_772_409_600;
const DEVICES: [&str; 2] = ["tv", "phone"];
const STACKS: [&str; 4] = ["playback", "browse", "search", "accounts"];

/// What one stack of `region` keeps of its traffic from one step to another.
#[derive(Clone, Copy)]
struct Fault {
    region: &'static str,
    stack: &'static str,
    from: u64,
    steps: u64,
    kept: f64,
}

/// What is recorded: so many steps from a moment on, in these regions.
struct Telemetry<'f> {
    from_s: u64,
    steps: u64,
    regions: &'f [&'static str],
    faults: &'f [Fault],
}

/// Days of two regions from a Monday on.
fn telemetry(days: u64, faults: &[Fault]) -> String {
    Telemetry { from_s: START_S, steps: days * DAY, regions: &["uk", "ie"], faults }.lines()
}

impl Telemetry<'_> {
    /// Counts of about 1,000 with the spread of a Poisson variable.
    fn lines(&self) -> String {
        let mut lines = String::new();
        let mut seed = 0x5eed_u64;
        let mut normal = || {
            (0..12).fold(-6.0, |sum, _| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                sum + (seed >> 33) as f64 / f64::from(1_u32 << 31)
            })
        };
        for step in 0..self.steps {
            for region in self.regions {
                for (device, stack) in DEVICES.iter().flat_map(|device| STACKS.map(|stack| (device, stack))) {
                    let here = |fault: &&Fault| {
                        fault.region == *region
                            && fault.stack == stack
                            && (fault.from..fault.from + fault.steps).contains(&step)
                    };
                    let fault = self.faults.iter().find(here);
                    let mean = 1_000.0 * fault.map_or(1.0, |fault| fault.kept);
                    let value = (mean + normal() * mean.sqrt()).max(0.0).round();
                    let at_s = self.from_s + step * STEP_S;
                    writeln!(
                        lines,
                        "activity,region={region},device={device},stack={stack} value={value} {at_s}"
                    )
                    .unwrap();
                }
            }
        }
        lines
    }
}

/// The alarms and the ledger of a replay with that much more in the config.
fn replay(lines: &str, more: &str, calendar: Option<&str>) -> (Vec<Value>, Vec<Value>) {
    let roles = "[replay]\nprecision = \"s\"\n[metrics.activity]\nrole = \"traffic\"\nalarm_on = \"drop\"\n";
    let program = Program::new(false, &format!("{roles}{more}"));
    let path = |name: &str| program.path(name).to_str().unwrap().to_owned();
    std::fs::write(path("a.lp"), lines).unwrap();
    let mut args = vec!["replay".to_owned(), "--input".into(), path("a.lp")];
    args.extend(["--alarms".into(), path("alarms"), "--ledger".into(), path("ledger")]);
    if let Some(calendar) = calendar {
        std::fs::write(path("a.ics"), calendar).unwrap();
        args.extend(["--calendar".into(), path("a.ics")]);
    }
    program.order(&args.iter().map(String::as_str).collect::<Vec<_>>(), "");
    let read = |name: &str| {
        let text = std::fs::read_to_string(path(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    (read("alarms"), read("ledger"))
}

/// Alarms that notify, in that region.
fn pages<'a>(alarms: &'a [Value], region: &str) -> Vec<&'a Value> {
    let here =
        |alarm: &&Value| alarm["state"] == "open" && alarm["scope"]["region"] == serde_json::json!([region]);
    alarms.iter().filter(here).collect()
}

/// Memory that is written by one and read by another.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What the agents of a config send of `lines`.
fn record(config: &Config, lines: &str) -> Recording {
    let mut recorder = Recorder::new(config, Calendar::default());
    for line in lines.lines() {
        let at_s: i64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        let line = Line::of_line_protocol(WallMs(at_s * 1000), line.as_bytes(), Precision::Seconds);
        recorder.handle_line(&line).unwrap();
    }
    recorder.finish().unwrap()
}

/// Every state that an incident enters, as a replay tells it.
fn replayed(config: &Config, recording: &Recording) -> Vec<String> {
    let alarms = Shared::default();
    let outputs = Outputs { alarms: Box::new(alarms.clone()), ledger: Box::new(std::io::sink()) };
    let settings = config.core_settings();
    let lateness_ms = settings.timing.lateness_ms;
    recording.judge(&mut Judging::new(settings, outputs), lateness_ms).unwrap();
    let text = String::from_utf8(alarms.0.lock().unwrap().clone()).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// Every state that an incident entered, in the order in which it was stored.
async fn stored(service: &Service) -> Vec<String> {
    let read = service.store().with(|store| {
        let mut states = Vec::new();
        store.each_state(|state| states.push(state.body)).map(|()| states)
    });
    read.await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_judges_the_frames_as_a_replay_does() {
    // Some hours ago, for an aggregator that runs takes nothing from last month.
    let from_s = u64::try_from(now().0 / 1000).unwrap() / STEP_S * STEP_S - 260 * STEP_S;
    let fault = Fault { region: "uk", stack: "playback", from: 200, steps: 20, kept: 0.02 };
    let lines = Telemetry { from_s, steps: 240, regions: &["uk"], faults: &[fault] }.lines();
    let folder = tempfile::tempdir().unwrap();
    let roles = "[metrics.activity]\nrole = \"traffic\"\nalarm_on = \"drop\"\n[replay]\nseries_max = 64\n\
         [judge]\nhistory_after_s = 1209600\n";
    let config = config(folder.path(), &format!("{QUIET}{roles}"));
    let recording = record(&config, &lines);
    let expected = replayed(&config, &recording);
    assert!(expected.iter().any(|state| state.contains("\"state\":\"open\"")), "{expected:?}");
    assert!(expected.iter().any(|state| state.contains("\"state\":\"resolved\"")), "{expected:?}");

    let service = Service::start(config).await.unwrap();
    let quic = service.quic_address().unwrap();
    let agent = enroll(quic, &read_token(folder.path()), "replay-uk").await.unwrap();
    let mut session = agent.connect(quic).await.unwrap();
    let mut last = None;
    for sent in recording.iter() {
        session.say_bytes(sent.bytes).await;
        match sent.frame.kind {
            Kind::Birth => assert_eq!(decode::<Birth>(&sent.frame).unwrap().agent, agent.id),
            _ => {
                last = Some(decode::<Summary>(&sent.frame).unwrap().key)
                    .filter(|key| key.lane == Lane::RollUps)
                    .or(last);
            }
        }
    }
    while !matches!(session.answer().await, Answer::Acknowledge(told) if Some(told.key) == last) {}
    wait_for("every state to be stored", async || stored(&service).await.len() >= expected.len()).await;
    assert_eq!(stored(&service).await, expected, "to the byte, and in that order");
}

#[test]
fn maintenance_notifies_nobody_in_its_region_and_everybody_elsewhere() {
    let fault = |region, stack| Fault { region, stack, from: 5 * DAY + 146, steps: 12, kept: 0.3 };
    let lines = telemetry(6, &[fault("uk", "playback"), fault("ie", "search")]);
    let (without, _) = replay(&lines, "", None);
    assert_eq!((pages(&without, "uk").len(), pages(&without, "ie").len()), (1, 1), "{without:?}");

    let calendar = "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:test\r\nBEGIN:VEVENT\r\nUID:1\r\nDTSTAMP:20260301T000000Z\r\n\
         DTSTART:20260307T120000Z\r\nDTEND:20260307T150000Z\r\nSUMMARY:Release 7\r\nCATEGORIES:deploy\r\nLOCATION:uk\r\n\
         END:VEVENT\r\nEND:VCALENDAR\r\n";
    let (with, ledger) = replay(&lines, "[calendar]\nmaintenance_classes = [\"deploy\"]\n", Some(calendar));
    assert_eq!((pages(&with, "uk").len(), pages(&with, "ie").len()), (0, 1), "{with:?}");
    let held =
        ledger.iter().find(|entry| entry["region"] == serde_json::json!(["uk"])).expect("in the ledger");
    let by = &held["evidence"]["suppressor"];
    assert_eq!((&by["kind"], &by["name"]), (&"maintenance".into(), &"deploy: Release 7".into()), "{held}");
    assert!(held["reason"].as_str().unwrap().contains("Release 7"), "{held}");
}

#[test]
fn a_target_of_pages_a_week_asks_more_of_a_region_that_pages_too_often() {
    // A dozen faults that grow no larger, six hours apart, on each of two regions.
    let faults: Vec<Fault> = (0..24)
        .map(|at| {
            // Never at the same time, for then they would be one.
            let (region, stack) = if at % 2 == 0 { ("uk", "playback") } else { ("ie", "search") };
            Fault { region, stack, from: 4 * DAY + at * 36 + 20, steps: 5, kept: 0.75 }
        })
        .collect();
    let lines = telemetry(8, &faults);
    let (without, _) = replay(&lines, "", None);
    let (uk, ie) = (pages(&without, "uk").len(), pages(&without, "ie").len());
    assert!(uk >= 8 && ie >= 8, "{uk} and {ie} of 12 faults each paged");

    let (with, ledger) = replay(&lines, "[regions.uk]\npages_per_week = 0.5\n", None);
    let (fewer, same) = (pages(&with, "uk").len(), pages(&with, "ie").len());
    assert!(fewer >= 1 && fewer < uk, "{fewer} of {uk} with a target");
    assert_eq!(same, ie, "nothing changes where there is no target");
    let factors: Vec<f64> = pages(&with, "uk")
        .iter()
        .filter_map(|page| page["evidence"]["sensitivity"]["factor"].as_f64())
        .collect();
    assert!(factors.windows(2).all(|pair| pair[0] < pair[1]), "each page raises what is asked: {factors:?}");
    let held =
        |entry: &&Value| entry["evidence"]["sensitivity"]["factor"].as_f64().is_some_and(|it| it > 1.0);
    assert!(ledger.iter().any(|entry| held(&entry)), "what the target held back says so");
}
