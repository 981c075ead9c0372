//! Makes a fleet from a seed (`fleet generate`), grades alarms against its truth (`fleet grade`), and does both for many
//! fleets (`fleet measure`).
//!
//! A thin shell: everything it does stands in `vedette_tests::fleet`. It must never mix the two: what is graded does not see
//! the truth.

use anyhow::{Context, Result, anyhow};
use clap::{Parser, Subcommand};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use vedette_aggregator::replay::recording::Recording;
use vedette_aggregator_core::Ingredients;
use vedette_tests::fleet::grade::{self, Grade};
use vedette_tests::fleet::measure;
use vedette_tests::fleet::table::{self, Seeds};
use vedette_tests::fleet::{Fleet, Options, files};

/// Simulated fleets with the truth beside them.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Writes telemetry.lp, config.toml, calendar.ics and truth.json.
    Generate {
        /// Everything follows from it.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Length of the recording; the first two fifths are history.
        #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(2..=366))]
        days: u32,
        /// The folder; it is created.
        #[arg(long)]
        out: PathBuf,
        #[command(flatten)]
        wishes: Wishes,
    },
    /// Prints recall, precision and what else was measured, as JSON.
    Grade {
        /// truth.json of the fleet.
        #[arg(long)]
        truth: PathBuf,
        /// Alarms as NDJSON.
        #[arg(long)]
        alarms: PathBuf,
        /// Ledger of suppressions as NDJSON.
        #[arg(long)]
        ledger: Option<PathBuf>,
    },
    /// Judges the fleets of many seeds as `replay` would, and prints a table of how well: a row for each, and their mean.
    ///
    /// Nothing is written unless --keep says where to. A fleet of 24 days takes some 20 seconds with --release, and for each
    /// ingredient of --ablate some five more.
    Measure {
        /// Seeds and ranges of seeds, as 31-32,41.
        #[arg(long, default_value = "31-32")]
        seeds: Seeds,
        /// Length of each recording; the first two fifths are history.
        #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(2..=366))]
        days: u32,
        /// Print each fault that was missed, with its strength and what was held back there, and each page that was false
        /// or one too many, with what it was paged for; then how many paged of each sort of fault and class of events.
        #[arg(long)]
        list: bool,
        /// Judge once more without each ingredient of the judgement, and print a row for each.
        #[arg(long)]
        ablate: bool,
        /// Keep the alarms and what the agents sent in this folder, some 20 MB a fleet, and take the latter from there if it
        /// is there already: a repeat only judges. Scoring is not asked again: empty the folder when it has changed.
        #[arg(long)]
        keep: Option<PathBuf>,
        #[command(flatten)]
        wishes: Wishes,
    },
}

/// What may be wished of a fleet.
#[derive(clap::Args)]
struct Wishes {
    /// Measure traffic only.
    #[arg(long)]
    without_errors: bool,
    /// Length of an interval and of a window, seconds.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(10..=3_600))]
    interval_s: u32,
    /// Factor on all traffic.
    #[arg(long, default_value_t = 1.0, value_parser = factor)]
    size: f64,
    /// Factor on all noise but that of counts.
    #[arg(long, default_value_t = 1.0, value_parser = factor)]
    noise: f64,
}

/// A factor that leaves a fleet in which something can be seen.
fn factor(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if (0.001..=1_000.0).contains(&number) {
        Ok(number)
    } else {
        Err("a factor is within 0.001 and 1000".into())
    }
}

impl Wishes {
    fn options(&self, days: u32) -> Options {
        let interval_s = i64::from(self.interval_s);
        Options { days, interval_s, errors: !self.without_errors, size: self.size, noise: self.noise }
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fleet: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a line at once: a table of many fleets is read while it grows.
fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    Ok(writeln!(out, "{text}").and_then(|()| out.flush())?)
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Generate { seed, days, out, wishes } => {
            let fleet = Fleet::new(seed, &wishes.options(days));
            let lines = files::write(&fleet, &out).with_context(|| out.display().to_string())?;
            let occurrences = fleet.plan.occurrences.len();
            say(&format!("{}: {lines} lines over {days} days, {occurrences} occurrences", out.display()))
        }
        Command::Grade { truth, alarms, ledger } => {
            let truth_text = read(&truth)?;
            let known = serde_json::from_str(&truth_text).with_context(|| truth.display().to_string())?;
            let parsed = grade::parse_alarms(&read(&alarms)?)
                .map_err(|error| anyhow!("{}: {error}", alarms.display()))?;
            let mut result = grade::grade(&known, &parsed);
            if let Some(ledger) = ledger {
                result.ledger_entries =
                    Some(read(&ledger)?.lines().filter(|line| !line.trim().is_empty()).count());
            }
            say(&serde_json::to_string_pretty(&result)?)
        }
        Command::Measure { seeds, days, list, ablate, keep, wishes } => {
            let told = Told { list, ablate, keep };
            tell(&seeds, &wishes.options(days), &told)
        }
    }
}

/// What is wished of a table.
struct Told {
    list: bool,
    ablate: bool,
    keep: Option<PathBuf>,
}

fn tell(seeds: &Seeds, options: &Options, told: &Told) -> Result<()> {
    say(table::HEADING)?;
    let (mut grades, mut without) = (Vec::new(), BTreeMap::<&str, Vec<Grade>>::new());
    for &seed in &seeds.0 {
        let fleet = Fleet::new(seed, options);
        let recording = recording(&fleet, options, told.keep.as_deref())?;
        let settings = measure::settings(&fleet);
        let alarms = measure::judge(&fleet, &recording, &settings);
        if let Some(folder) = &told.keep {
            fs::write(kept(folder, &fleet, options, "alarms.ndjson"), &alarms)?;
        }
        let grade = measure::grade(&fleet, &alarms);
        say(&table::row(&format!("seed {seed}"), std::slice::from_ref(&grade)))?;
        if told.list {
            grade.mistakes.iter().try_for_each(|mistake| say(&format!("  {mistake}")))?;
        }
        grades.push(grade);
        for (name, ingredients) in Ingredients::ablations().into_iter().filter(|_| told.ablate) {
            let mut settings = settings.clone();
            settings.judgement.ingredients = ingredients;
            without.entry(name).or_default().push(measure::measure(&fleet, &recording, &settings));
        }
    }
    say(&table::row("all", &grades))?;
    for (name, _) in Ingredients::ablations() {
        without.get(name).map_or(Ok(()), |of| say(&table::row(&format!("without {name}"), of)))?;
    }
    if told.list { table::sorts(&grades).iter().try_for_each(|row| say(row)) } else { Ok(()) }
}

/// The file of a fleet in the folder of what is kept.
fn kept(folder: &Path, fleet: &Fleet, options: &Options, ending: &str) -> PathBuf {
    let Options { days, interval_s, errors, size, noise } = options;
    let errors = if *errors { "errors" } else { "traffic" };
    folder.join(format!("{}-{days}-{interval_s}-{errors}-{size}-{noise}.{ending}", fleet.seed))
}

/// What the agents of `fleet` send: as it was kept, or scored now.
fn recording(fleet: &Fleet, options: &Options, keep: Option<&Path>) -> Result<Recording> {
    let Some(folder) = keep else { return Ok(measure::record(fleet)) };
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let path = kept(folder, fleet, options, "frames");
    if let Ok(bytes) = fs::read(&path) {
        return Ok(Recording { bytes });
    }
    let recording = measure::record(fleet);
    fs::write(&path, &recording.bytes).with_context(|| path.display().to_string())?;
    Ok(recording)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}
