//! Measures load against delay, from a tenth to ten times of what an aggregator on this machine can take.
//!
//! A thin shell: everything it does stands in `vedette_tests::overload`. It must never be part of the tests: it measures time.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use vedette_tests::overload::{Plan, draw, run, table};

/// A real aggregator and many agents, from idle to ten times too much.
#[derive(Parser)]
struct Arguments {
    /// Agents.
    #[arg(long, default_value_t = 48)]
    agents: usize,
    /// Roll-ups in a record, 1 to 64.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u16).range(1..=64))]
    roll_ups: u16,
    /// Seconds of each step.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Starts the aggregator through this command, which must become the program that it is given: to hold it to a part of the machine, so
    /// that the rest can make ten times its load. For instance `systemd-run --scope -p CPUQuota=25%`.
    #[arg(long)]
    through: Option<String>,
    /// Where to write the graph, as SVG.
    #[arg(long)]
    graph: Option<PathBuf>,
}

fn main() -> ExitCode {
    match measure(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("overload: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> anyhow::Result<()> {
    let plan = Plan {
        agents: arguments.agents,
        roll_ups: usize::from(arguments.roll_ups),
        deviations_per_s: 1.0,
        step: Duration::from_secs(arguments.seconds),
    };
    let through = arguments.through.as_deref().unwrap_or_default();
    let steps = run(plan, through, |step| eprintln!("{step:?}"))?;
    write!(std::io::stdout(), "{}", table(&steps))?;
    if let Some(path) = &arguments.graph {
        std::fs::write(path, draw(&steps))?;
    }
    Ok(())
}
