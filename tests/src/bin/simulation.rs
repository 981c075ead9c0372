//! Runs the simulation of the delivery: one seed, or one after the other until enough agent-hours have passed.
//!
//! A thin shell: everything it does stands in `vedette_tests::simulation`. It must never go on after a failure.

use clap::Parser;
use std::io::Write;
use std::process::ExitCode;
use vedette_tests::simulation::{Failure, Plan, Report, run, run_many};

/// Agents, ways, broker and aggregator with every fault there is, in virtual time.
#[derive(Parser)]
struct Arguments {
    /// The first seed; everything follows from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Go on with the next seeds until so many hours of agents have passed. Default: this seed alone.
    #[arg(long)]
    agent_hours: Option<f64>,
    /// Seeds at a time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=256))]
    jobs: u64,
}

fn main() -> ExitCode {
    match play(&Arguments::parse()) {
        Ok(report) => match writeln!(std::io::stdout(), "{report}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(failure) => {
            eprintln!("simulation: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn play(arguments: &Arguments) -> Result<Report, Failure> {
    let Some(agent_hours) = arguments.agent_hours else {
        let plan = Plan::draw(arguments.seed);
        eprintln!("{plan:?}");
        return run(&plan);
    };
    run_many(arguments.seed, agent_hours, arguments.jobs as usize, |seed, total| {
        if seed.is_multiple_of(1_000) {
            eprintln!("seed {seed}: {:.0} of {agent_hours:.0} agent-hours", total.agent_hours);
        }
    })
}
