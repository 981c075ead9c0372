//! Kills a real agent, aggregator and broker at moments that a seed decides, and asks their stores whether anything was lost or doubled.
//!
//! A thin shell: everything it does stands in `vedette_tests::chaos`. It must never go on after a failure, which ends it with a panic.

use clap::Parser;
use std::io::Write;
use vedette_tests::chaos::{Way, play};

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
}

fn main() {
    let Arguments { seed, kills, way } = Arguments::parse();
    let report = play(seed, kills, way);
    // Nobody may read it.
    let _ = writeln!(std::io::stdout(), "seed {seed}, {way:?}: {report}");
}
