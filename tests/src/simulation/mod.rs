//! The simulation: agents, their media, the ways between, a broker or none, and an aggregator with its store, in one thread
//! and virtual time, with everything drawn from one seed.
//!
//! Owns the proof that nothing is lost silently and nothing is applied twice. Nothing here may read a clock or a random
//! number that is not the seed's: a seed that failed must fail again. The hard case is being as unkind as the world is and no
//! more: a fault that contradicts what a medium or a broker promises would condemn code that is right.
//!
//! The cores are the real ones: `Spool` and `Link` of the agent, `Aggregator` with its sessions and judgement. What a shell
//! adds (sockets, files, SQLite) is modelled here in a few lines: what it promises, and how it fails.
mod broker;
mod centre;
mod edge;
mod medium;
mod oracle;
mod plan;
mod report;
mod telemetry;
mod world;

pub use plan::{Fault, Plan};
pub use report::{Failure, Report};

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs the simulation of `plan` to its end.
///
/// # Errors
/// [`Failure`] with the seed and the moment, when something did not hold or something panicked.
pub fn run(plan: &Plan) -> Result<Report, Failure> {
    let outcome = catch_unwind(AssertUnwindSafe(|| world::play(plan)));
    outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let what = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words");
        Err(Failure { seed: plan.seed, at_ms: 0, what: format!("panicked: {what}") })
    })
}

/// Runs one seed after the other from `seed` on, until `agent_hours` have passed in them.
///
/// # Errors
/// The first [`Failure`].
pub fn run_many(
    seed: u64,
    agent_hours: f64,
    mut progress: impl FnMut(u64, &Report),
) -> Result<Report, Failure> {
    let mut total = Report::default();
    for seed in seed.. {
        if total.agent_hours >= agent_hours {
            break;
        }
        total.add(&run(&Plan::draw(seed))?);
        progress(seed, &total);
    }
    Ok(total)
}
