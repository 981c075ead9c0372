//! A made-up fleet with the truth beside it: traffic and errors of every region x device x stack, with seasons, noise,
//! events that should page nobody and malfunctions that should.
//!
//! Everything follows from a seed; nothing here may look at a clock or a file. The hard case is to be harder than
//! reality in the ways that matter: events act unevenly, calendars are wrong, small cells are noisy, some faults are
//! slow, some flap, and some strike in the middle of an event.
//!
//! | question | file |
//! |---|---|
//! | which regions, devices, stacks, and what is normal | `world.rs` |
//! | what happens, when, to whom | `plan.rs`, `occurrence.rs` |
//! | what is measured | `telemetry.rs` |
//! | what is written | `files.rs`, `calendar.rs` |
//! | how good were the alarms | `grade.rs` |

pub mod calendar;
pub mod files;
pub mod grade;
pub mod occurrence;
pub mod plan;
pub mod random;
pub mod telemetry;
pub mod world;

pub use occurrence::{Kind, Occurrence, Scope};
pub use plan::Plan;
pub use telemetry::{Sample, Telemetry};
pub use world::World;

/// Length of one interval: an observation counts what happened in it. Seconds.
pub const INTERVAL_S: i64 = 300;

/// A world and what happens in it; `Telemetry` measures it.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// Everything else follows from it.
    pub seed: u64,
    /// The regions, devices and stacks, and their normal life.
    pub world: World,
    /// What happens, and when.
    pub plan: Plan,
}

impl Fleet {
    /// The fleet of `seed` over `days` days (at least 2).
    pub fn new(seed: u64, days: u32) -> Self {
        let world = World::new(seed);
        let plan = Plan::new(seed, days, &world);
        Self { seed, world, plan }
    }
}
