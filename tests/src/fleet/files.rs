//! A fleet as files: telemetry, configuration, calendar and truth, in the formats that operators would have.
//!
//! The only place of the simulator that writes to a disk. The truth is for the grader and never for what is graded.

use super::occurrence::NamedScope;
use super::{Fleet, INTERVAL_S, Kind, Occurrence, Telemetry, World, calendar, telemetry};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// What happened, for the grader.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Truth {
    /// Seed of the fleet.
    pub seed: u64,
    /// First interval.
    pub from: DateTime<Utc>,
    /// End of the last interval.
    pub until: DateTime<Utc>,
    /// Alarms before it are not judged: the history is too young.
    pub graded_from: DateTime<Utc>,
    /// After the end of an occurrence an alarm may still be about it, for this many seconds.
    pub grace_s: i64,
    /// Names of all regions, device families and stacks, to expand empty lists.
    pub names: NamedScope,
    /// Everything that happened, in order of its beginning.
    pub occurrences: Vec<TrueOccurrence>,
}

/// One thing that happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrueOccurrence {
    /// What it was.
    pub kind: Kind,
    /// What it was more precisely.
    pub cause: String,
    /// Whom it concerned; an empty list means all.
    pub scope: NamedScope,
    /// When it began.
    pub from: DateTime<Utc>,
    /// When it was over.
    pub until: DateTime<Utc>,
    /// True if the calendar held it at any time, right or wrong.
    pub announced: bool,
    /// How strong it was.
    #[serde(default)]
    pub strength: Strength,
}

/// What an occurrence does at full strength to a cell of weight 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Strength {
    /// Factor on traffic.
    pub traffic: f64,
    /// Factor on errors.
    pub errors: f64,
    /// Traffic of all its cells in five minutes, as it is usual when it begins.
    pub expected: f64,
}

/// The truth of a fleet.
pub fn truth(fleet: &Fleet) -> Truth {
    let (world, plan) = (&fleet.world, &fleet.plan);
    let occurrences = plan.occurrences.iter().map(|occurrence| TrueOccurrence {
        kind: occurrence.kind,
        cause: occurrence.cause.to_owned(),
        scope: occurrence.scope.named(world),
        from: moment(occurrence.from_s),
        until: moment(occurrence.until_s),
        announced: occurrence.announced_s.is_some(),
        strength: strength(world, occurrence),
    });
    Truth {
        seed: fleet.seed,
        from: moment(plan.from_s),
        until: moment(plan.until_s),
        graded_from: moment(plan.graded_from_s),
        grace_s: 6 * INTERVAL_S.max(fleet.interval_s),
        names: NamedScope {
            region: world.regions.iter().map(|region| region.name.to_owned()).collect(),
            device: world.devices.iter().map(|device| device.name.to_owned()).collect(),
            stack: world.stacks.iter().map(|stack| stack.name.to_owned()).collect(),
        },
        occurrences: occurrences.collect(),
    }
}

fn strength(world: &World, occurrence: &Occurrence) -> Strength {
    let cells = world.cells().filter(|&cell| occurrence.scope.covers(cell));
    let usual = cells.map(|cell| world.traffic(cell) * world.season(cell, occurrence.from_s));
    Strength {
        traffic: occurrence.effect.traffic_log.exp(),
        errors: occurrence.effect.errors,
        expected: usual.sum(),
    }
}

fn moment(at_s: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(at_s, 0).unwrap_or(DateTime::UNIX_EPOCH)
}

/// The configuration of the aggregator for a fleet, as TOML.
pub fn config(fleet: &Fleet) -> String {
    let mut out = String::from(
        "[dimensions]\nregion = \"region\"\ndevice = \"device\"\nstack = \"stack\"\n\n\
         [metrics.activity]\nrole = \"traffic\"\nalarm_on = \"drop\"\n",
    );
    if fleet.errors {
        out.push_str("\n[metrics.errors]\nrole = \"errors\"\nalarm_on = \"rise\"\n");
    }
    if fleet.errors && fleet.world.stacks.iter().any(|stack| stack.latency_ms.is_some()) {
        out.push_str("\n[metrics.latency]\nrole = \"latency\"\nalarm_on = \"rise\"\n");
    }
    // No region has more series; writing to a string cannot fail.
    let _ = write!(out, "\n[replay]\nseries_max = 512\nwindow_ms = {}\n", fleet.interval_s * 1_000);
    for region in &fleet.world.regions {
        let _ = write!(out, "\n[regions.{}]\ntimezone = \"{}\"\n", region.name, region.zone);
    }
    for stack in fleet.world.stacks.iter().filter(|stack| !stack.depends_on.is_empty()) {
        let _ = write!(out, "\n[stacks.{}]\ndepends_on = {:?}\n", stack.name, stack.depends_on);
    }
    out
}

/// Writes `telemetry.lp`, `config.toml`, `calendar.ics` and `truth.json` into the folder, which is created; gives the
/// number of lines of telemetry.
pub fn write(fleet: &Fleet, folder: &Path) -> io::Result<u64> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("config.toml"), config(fleet))?;
    fs::write(folder.join("calendar.ics"), calendar::write(fleet))?;
    let mut json = serde_json::to_string_pretty(&truth(fleet))?;
    json.push('\n');
    fs::write(folder.join("truth.json"), json)?;
    let mut file = BufWriter::new(File::create(folder.join("telemetry.lp"))?);
    let (mut text, mut lines) = (String::new(), 0);
    for interval in Telemetry::new(fleet) {
        text.clear();
        for sample in &interval.samples {
            lines += telemetry::write_lines(&mut text, fleet, sample, interval.from_s * 1_000_000_000);
        }
        file.write_all(text.as_bytes())?;
    }
    file.flush()?;
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_truth_survives_its_file() {
        let truth = truth(&Fleet::of_days(2, 6));
        let text = serde_json::to_string(&truth).expect("JSON");
        let back: Truth = serde_json::from_str(&text).expect("the same shape");
        assert_eq!(serde_json::to_string(&back).expect("JSON"), text);
        assert!(text.contains(r#""kind":"malfunction""#) && text.contains(r#""from":"2026-"#));
    }

    fn plain() -> Fleet {
        Fleet { world: crate::fleet::World::plain(2), ..Fleet::of_days(2, 6) }
    }

    #[test]
    fn the_config_is_what_an_operator_would_write() {
        let text = config(&plain());
        assert!(text.contains("[regions.us-east]\ntimezone = \"America/New_York\"\n"));
        assert!(text.contains("[stacks.payments]\ndepends_on = [\"identity\"]\n"));
        assert!(!config(&Fleet { errors: false, ..plain() }).contains("errors"));
    }
}
