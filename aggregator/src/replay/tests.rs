//! Tests of the replay: the same bytes twice, whatever the form and the order of the input, and what bad lines get.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;
use std::rc::Rc;

use super::input::Input;
use super::*;
use crate::calendar::Calendar;

/// A fleet of one metric: regions x devices x stacks, with a daily season, noise from a fixed generator, and one
/// malfunction in its last hours.
struct Fleet {
    windows: i64,
    fault: std::ops::Range<i64>,
}

/// 2026-03-02T00:00:00Z.
const START_MS: i64 = 1_772_409_600_000;
const STEP_MS: i64 = 300_000;

impl Fleet {
    fn values(&self) -> Vec<(i64, [&'static str; 3], &'static str, f64)> {
        let mut noise = 1_u64;
        let mut values = Vec::new();
        for window in 0..self.windows {
            for region in ["uk", "de"] {
                for device in ["tv", "web", "phone"] {
                    for stack in ["playback", "browse"] {
                        noise = noise
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1_442_695_040_888_963_407);
                        let jitter = (noise >> 40) as f64 / f64::from(1_u32 << 24) - 0.5;
                        let season =
                            1.0 + 0.3 * ((window % 288) as f64 / 288.0 * std::f64::consts::TAU).sin();
                        let faulty = self.fault.contains(&window) && region == "uk" && device == "tv";
                        let level = if faulty { 60.0 } else { 1000.0 };
                        let value = (level * season * (1.0 + 0.04 * jitter)).round();
                        values.push((
                            START_MS + window * STEP_MS,
                            [region, device, stack],
                            "activity",
                            value,
                        ));
                        let errors = if faulty { 300.0 } else { 10.0 + (4.0 * jitter).round() };
                        values.push((START_MS + window * STEP_MS, [region, device, stack], "errors", errors));
                    }
                }
            }
        }
        values
    }

    fn line_protocol(&self) -> String {
        self.values().iter().fold(String::new(), |mut text, (at, [region, device, stack], metric, value)| {
            let ns = at * 1_000_000;
            writeln!(text, "{metric},region={region},device={device},stack={stack} value={value} {ns}")
                .expect("memory");
            text
        })
    }

    fn csv(&self) -> String {
        let head = "timestamp,measurement,region,device,stack,value\n".to_owned();
        self.values().iter().fold(head, |mut text, (at, [region, device, stack], metric, value)| {
            writeln!(text, "{},{metric},{region},{device},{stack},{value}", at / 1000).expect("memory");
            text
        })
    }
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

fn config() -> Config {
    let text = "[metrics.activity]\nrole = \"traffic\"\nalarm_on = \"drop\"\n[metrics.errors]\nrole = \"errors\"\n\
                alarm_on = \"rise\"\n[regions.uk]\ntimezone = \"Europe/London\"\n[replay]\nseries_max = 100\n";
    Config::parse(std::path::Path::new("fleet.toml"), text).expect("valid")
}

/// Plays files with these names and texts; gives the report, the alarms and the ledger.
fn play(files: &[(&str, &str)], calendar: Calendar) -> (Report, String, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let paths: Vec<PathBuf> = files.iter().map(|(name, _)| folder.path().join(name)).collect();
    for (path, (_, text)) in paths.iter().zip(files) {
        std::fs::write(path, text).expect("written");
    }
    let config = config();
    let (alarms, ledger) = (Shared::default(), Shared::default());
    let outputs = Outputs { alarms: Box::new(alarms.clone()), ledger: Box::new(ledger.clone()) };
    let mut replay = Replay::new(&config, calendar, outputs);
    let mut input = Input::open(&paths, &config).expect("readable");
    while let Some(line) = input.next_line().expect("readable") {
        replay.handle_line(&line).expect("written");
    }
    let report = replay.finish(&input.dropped).expect("written");
    let text = |shared: &Shared| String::from_utf8(shared.0.borrow().clone()).expect("text");
    (report, text(&alarms), text(&ledger))
}

const FLEET: Fleet = Fleet { windows: 5 * 288, fault: 5 * 288 - 30..5 * 288 - 8 };

#[test]
fn twice_the_same_bytes_and_a_malfunction_pages() {
    let text = FLEET.line_protocol();
    let (report, alarms, ledger) = play(&[("fleet.lp", &text)], Calendar::default());
    let again = play(&[("fleet.lp", &text)], Calendar::default());
    assert_eq!((report.clone(), alarms.clone(), ledger), again);
    assert_eq!((report.observations, report.series), (5 * 288 * 24, 24));
    assert_eq!(report.dropped, BTreeMap::new());
    let opened: Vec<&str> = alarms.lines().filter(|line| line.contains(r#""state":"open""#)).collect();
    assert!(opened.iter().any(|line| line.contains(r#""region":["uk"]"#) && line.contains("tv")), "{alarms}");
    assert!(report.paged >= 1);
    assert!(report.decisions >= report.paged);
    assert_eq!(report.decisions_derived, report.decisions, "each comes out again from its basis");
}

#[test]
fn forms_and_files_do_not_matter() {
    let (report, alarms, _) = play(&[("fleet.lp", &FLEET.line_protocol())], Calendar::default());
    let as_csv = play(&[("fleet.csv", &FLEET.csv())], Calendar::default());
    assert_eq!((&report, &alarms), (&as_csv.0, &as_csv.1));
    // Regions in files of their own, with each window's lines in another order.
    let csv = FLEET.csv();
    let (head, rows) = csv.split_once('\n').expect("a header");
    let of = |region: &str| {
        rows.lines()
            .rev()
            .filter(|row| row.contains(region))
            .fold(String::new(), |text, row| row.to_owned() + "\n" + &text)
    };
    let (uk, de) = (format!("{head}\n{}", of(",uk,")), format!("{head}\n{}", of(",de,")));
    let split = play(&[("uk.csv", &uk), ("de.csv", &de)], Calendar::default());
    assert_eq!(report.observations, split.0.observations);
    assert_eq!(report.paged, split.0.paged);
}

#[test]
fn lines_out_of_order_within_the_lateness_are_sorted() {
    let fleet = Fleet { windows: 40, fault: 0..0 };
    let text = fleet.line_protocol();
    let mut lines: Vec<&str> = text.lines().collect();
    // Swaps neighbouring windows: five minutes of disorder.
    for pair in lines.chunks_exact_mut(48) {
        pair.rotate_left(24);
    }
    let (report, ..) = play(&[("fleet.lp", &lines.join("\n"))], Calendar::default());
    assert_eq!((report.observations, report.scored), (40 * 24, 40 * 24));
    assert_eq!(report.dropped, BTreeMap::new());
}

#[test]
fn bad_lines_are_counted_with_their_reason_and_the_rest_is_played() {
    let fleet = Fleet { windows: 20, fault: 0..0 };
    let text = fleet.line_protocol();
    let (first, second) =
        text.split_at(text.len() / 2 - text[..text.len() / 2].lines().last().map_or(0, str::len));
    let far = "activity,region=uk,device=tv,stack=browse value=1 3471292800000000000\n";
    let bad = format!(
        "{far}no timestamp here\nactivity,region=uk value=nan 1772409600000000000\n# a comment\n\n{}\n\
         activity,region=uk,device=tv,stack=browse value=1 99\n",
        "x".repeat(10_000)
    );
    let (report, ..) = play(&[("fleet.lp", &format!("{first}{bad}{second}"))], Calendar::default());
    assert_eq!(report.scored, 20 * 24, "{:?}", report.dropped);
    let dropped = |reason: &str| report.dropped.get(reason).copied().unwrap_or(0);
    assert_eq!(dropped("timestamp_out_of_range"), 2, "{:?}", report.dropped);
    assert_eq!((dropped("timestamp_missing"), dropped("line_too_long")), (1, 1), "{:?}", report.dropped);
    assert_eq!(report.observations, report.scored + report.dropped.values().sum::<u64>());
}

#[test]
fn late_lines_are_dropped_and_counted() {
    let fleet = Fleet { windows: 60, fault: 0..0 };
    let text =
        fleet.line_protocol() + "activity,region=uk,device=tv,stack=browse value=1 1772409600000000000\n";
    let (report, ..) = play(&[("fleet.lp", &text)], Calendar::default());
    assert_eq!(report.dropped.get("late"), Some(&1), "{:?}", report.dropped);
}

#[test]
fn nothing_in_gives_nothing_out() {
    let (report, alarms, ledger) = play(&[("empty.lp", "")], Calendar::default());
    assert_eq!((report.observations, alarms.as_str(), ledger.as_str()), (0, "", ""));
}

#[test]
fn a_region_is_found_with_and_without_escapes() {
    let config = config();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("f.lp");
    let text = "a,region=uk v=1 1772409600000000000\na,region=the\\ uk v=1 1772409600000000000\na v=1 1772409600000000000\n";
    std::fs::write(&file, text).expect("written");
    let mut input = Input::open(&[file], &config).expect("readable");
    let mut regions = Vec::new();
    while let Some(line) = input.next_line().expect("readable") {
        regions.push(line.region("region").into_owned());
    }
    assert_eq!(regions, ["uk", "the uk", "-"]);
}
