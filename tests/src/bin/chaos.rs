//! Kills a real agent, aggregator and broker at moments that a seed decides, and asks their stores whether anything was lost or doubled.
//!
//! A thin shell: everything it does stands in `vedette_tests::chaos`. It must never go on after a failure, which ends it with a panic.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use vedette_tests::chaos::{SKIPPED, Way, play};
use vedette_tests::rig::{Network, program};

/// Kill -9 of real processes, with an oracle over the real stores.
#[derive(Parser)]
struct Arguments {
    /// Who is killed, and when.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Kills.
    #[arg(long, default_value_t = 100)]
    kills: u32,
    /// How the agent reaches the aggregator.
    #[arg(long, value_enum, default_value_t = Way::Both)]
    way: Way,
    /// Play between namespaces of this program's own, and cut, slow and lose what goes between them.
    #[arg(long)]
    network: bool,
}

fn main() -> ExitCode {
    let Arguments { seed, kills, way, network } = Arguments::parse();
    if network {
        if let Some(missing) = Network::missing() {
            eprintln!("skipped: no network of its own can be had here: {missing}");
            return ExitCode::from(SKIPPED);
        }
        // Built before, for a network of its own reaches nothing.
        program("vedette-agent");
        if let Err(error) = Network::alone() {
            eprintln!("chaos: it cannot begin anew in a network of its own: {error}");
            return ExitCode::FAILURE;
        }
    }
    let report = play(seed, kills, way, network);
    // Nobody may read it.
    let _ = writeln!(std::io::stdout(), "seed {seed}, {way:?}: {report}");
    ExitCode::SUCCESS
}
