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

pub use plan::{Fault, Plan, Sabotage};
pub use report::{Failure, Report};

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;

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

/// Runs one seed after the other from `seed` on, `jobs` at a time, until `agent_hours` have passed in them. The sum is the same with any number of
/// jobs: seeds count in their order.
///
/// # Errors
/// The first [`Failure`] in the order of the seeds.
pub fn run_many(
    seed: u64,
    agent_hours: f64,
    jobs: usize,
    mut progress: impl FnMut(u64, &Report),
) -> Result<Report, Failure> {
    let next = AtomicU64::new(seed);
    let (done, outcomes) = sync_channel(jobs);
    std::thread::scope(|scope| {
        let outcomes = outcomes;
        for _ in 0..jobs.max(1) {
            let (done, next) = (done.clone(), &next);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    // Nobody listens any more once there is enough, or a failure.
                    if done.send((seed, run(&Plan::draw(seed)))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        let (mut total, mut waiting, mut expected) = (Report::default(), BTreeMap::new(), seed);
        while total.agent_hours < agent_hours {
            let Some(outcome) = waiting.remove(&expected) else {
                let (seed, outcome) = outcomes.recv().expect("the threads go on while somebody listens");
                waiting.insert(seed, outcome);
                continue;
            };
            total.add(&outcome?);
            progress(expected, &total);
            expected += 1;
        }
        Ok(total)
    })
}
