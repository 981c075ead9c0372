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
//! | what happens, when, to whom | `plan.rs`, `class.rs` (events), `fault.rs`, `occurrence.rs` |
//! | what is measured | `telemetry.rs` |
//! | what is written | `files.rs`, `calendar.rs` |
//! | how good were the alarms | `grade.rs` |
//! | how good are they over many fleets | `measure.rs`, `table.rs` |

pub mod calendar;
mod class;
mod fault;
pub mod files;
pub mod grade;
pub mod measure;
pub mod occurrence;
pub mod plan;
pub mod random;
pub mod table;
pub mod telemetry;
pub mod world;

pub use occurrence::{Kind, Occurrence, Scope};
pub use plan::Plan;
pub use telemetry::{Sample, Telemetry};
pub use world::World;

/// Length of one interval unless wished otherwise: an observation counts what happened in it. Seconds.
pub const INTERVAL_S: i64 = 300;

/// What may be wished of a fleet besides its seed.
#[derive(Clone, Debug)]
pub struct Options {
    /// Days recorded, at least 2; the first two fifths are history.
    pub days: u32,
    /// Length of one interval, seconds.
    pub interval_s: i64,
    /// Whether errors are measured, and latency where a stack has it; else traffic alone.
    pub errors: bool,
    /// Factor on all traffic.
    pub size: f64,
    /// Factor on all noise but that of counts.
    pub noise: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { days: 24, interval_s: INTERVAL_S, errors: true, size: 1.0, noise: 1.0 }
    }
}

/// A world and what happens in it; `Telemetry` measures it.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// Everything else follows from it.
    pub seed: u64,
    /// Length of one interval, seconds.
    pub interval_s: i64,
    /// Whether errors and latency are measured.
    pub errors: bool,
    /// The regions, devices and stacks, and their normal life.
    pub world: World,
    /// What happens, and when.
    pub plan: Plan,
}

impl Fleet {
    /// The fleet of `seed` with these wishes.
    pub fn new(seed: u64, options: &Options) -> Self {
        let mut world = World::new(seed);
        world.scale(options.size, options.noise);
        let plan = Plan::new(seed, options.days, &world);
        Self { seed, interval_s: options.interval_s, errors: options.errors, world, plan }
    }

    /// The fleet of `seed` over so many days, nothing else wished.
    pub fn of_days(seed: u64, days: u32) -> Self {
        Self::new(seed, &Options { days, ..Options::default() })
    }
}
