//! Replays a small simulated fleet through the library, and grades what was told against the truth.
//!
//! It must never hold the judgement to more than it promises for every seed: the bounds are modest, the figures for large
//! fleets are measured with `fleet measure`. The hard case is sameness: two replays of the same
//! files give the same bytes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use vedette_aggregator::calendar::Calendar;
use vedette_aggregator::config::Config;
use vedette_aggregator::replay::input::Input;
use vedette_aggregator::replay::{Outputs, Replay};
use vedette_tests::fleet::{Fleet, files, grade, measure};

const SEED: u64 = 11;
const DAYS: u32 = 4;

/// Replays the fleet in `folder`; gives the alarms and the ledger as text.
fn replay(folder: &Path, run: &str) -> (String, String) {
    let config = Config::load(Some(&folder.join("config.toml"))).expect("the fleet's config is valid");
    let calendar = Calendar::read(&fs::read(folder.join("calendar.ics")).expect("the calendar is written"));
    assert_eq!(calendar.mistakes_total, 0, "the fleet's calendar is valid");
    let out = |name: &str| -> PathBuf { folder.join(format!("{run}-{name}.ndjson")) };
    let create = |name: &str| Box::new(File::create(out(name)).expect("the folder is ours"));
    let outputs = Outputs { alarms: create("alarms"), ledger: create("ledger") };
    let mut input = Input::open(&[folder.join("telemetry.lp")], &config).expect("telemetry is written");
    let mut replay = Replay::new(&config, calendar.calendar, outputs);
    while let Some(line) = input.next_line().expect("telemetry can be read") {
        replay.handle_line(&line).expect("results can be written");
    }
    let report = replay.finish(&input.dropped).expect("results can be written");
    assert_eq!(report.scored, report.observations, "{report:?}");
    assert_eq!(
        report.decisions_derived, report.decisions,
        "each decision comes out again from its basis: {report:?}"
    );
    let read = |name| fs::read_to_string(out(name)).expect("results were written");
    (read("alarms"), read("ledger"))
}

#[test]
fn what_is_measured_in_process_is_what_a_replay_of_the_files_tells() {
    let folder = tempfile::tempdir().expect("a folder for the fleet");
    let fleet = Fleet::of_days(SEED, 2);
    files::write(&fleet, folder.path()).expect("the folder is ours");
    let (alarms, _) = replay(folder.path(), "files");
    let judged = measure::judge(&fleet, &measure::record(&fleet), &measure::settings(&fleet));
    assert!(alarms.lines().count() > 3, "{alarms}");
    assert!(judged == alarms, "the frames of the agents give the alarms of the files, to the byte");
}

#[test]
fn a_small_fleet_is_judged_well_and_twice_the_same() {
    let folder = tempfile::tempdir().expect("a folder for the fleet");
    let fleet = Fleet::of_days(SEED, DAYS);
    files::write(&fleet, folder.path()).expect("the folder is ours");
    let (first, second) = std::thread::scope(|scope| {
        let second = scope.spawn(|| replay(folder.path(), "second"));
        (replay(folder.path(), "first"), second.join().expect("the second replay ends"))
    });
    assert!(first == second, "the same input gives the same bytes");

    let alarms = grade::parse_alarms(&first.0).expect("alarms are NDJSON");
    let grade = grade::grade(&files::truth(&fleet), &alarms);
    assert!(grade.malfunctions >= 3 && grade.events >= 3, "{grade:?}");
    assert!(grade.malfunctions_paged * 100 >= grade.malfunctions * 85, "{grade:?}");
    assert!(grade.false_pages <= 1 && grade.extra_pages <= 1 && grade.events_paged <= 1, "{grade:?}");
    assert_eq!(grade.silences_reported[0], grade.silences_reported[1], "{grade:?}");
    assert!(!first.1.is_empty(), "what was held back stands in the ledger");
}
