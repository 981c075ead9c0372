//! Makes a fleet from a seed (`fleet generate`), and grades alarms against its truth (`fleet grade`).
//!
//! A thin shell: everything it does stands in `vedette_tests::fleet`. It must never mix the two: what is graded does not see
//! the truth.

use anyhow::{Context, Result, anyhow};
use clap::{Parser, Subcommand};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use vedette_tests::fleet::{Fleet, Options, files, grade};

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
    #[arg(long, default_value_t = 1.0)]
    size: f64,
    /// Factor on all noise but that of counts.
    #[arg(long, default_value_t = 1.0)]
    noise: f64,
}

impl Wishes {
    fn options(&self, days: u32) -> Options {
        let interval_s = i64::from(self.interval_s);
        Options { days, interval_s, errors: !self.without_errors, size: self.size, noise: self.noise }
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(text) => match writeln!(std::io::stdout(), "{text}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            eprintln!("fleet: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<String> {
    match command {
        Command::Generate { seed, days, out, wishes } => {
            let fleet = Fleet::new(seed, &wishes.options(days));
            let lines = files::write(&fleet, &out).with_context(|| out.display().to_string())?;
            Ok(format!(
                "{}: {lines} lines over {days} days, {} occurrences",
                out.display(),
                fleet.plan.occurrences.len()
            ))
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
            Ok(serde_json::to_string_pretty(&result)?)
        }
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}
