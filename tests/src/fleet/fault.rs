//! Faults: whom each sort hits, what it does, and whether anybody could see it.
//!
//! Owns the chance in a fault, not its time. The hard case is a truth that can be asked for: a fault that moves no more
//! than the noise of its cells is no test of anything.

use super::occurrence::{Effect, Occurrence, Scope};
use super::random::Random;
use super::world::{Cell, World};

/// The sorts of faults, in turn.
pub(super) const FAULTS: [&str; 12] = [
    "stack_in_region",
    "device_in_region",
    "cell",
    "device_everywhere",
    "amid_event",
    "shared_dependency",
    "slow_burn",
    "region_down",
    "flapping",
    "stack_everywhere",
    "amid_event",
    "stack_in_region",
];

/// Counts that a fault moves: squared loss times expectation, over all of it and in five minutes.
const VISIBLE_MIN: f64 = 120.0;
const VISIBLE_AT_ONCE_MIN: f64 = 5.0;

/// Whom a fault of this sort hits.
pub(super) fn scope(random: &mut Random, world: &World, cause: &str) -> Scope {
    let region = vec![random.index(world.regions.len())];
    let device = vec![random.index(world.devices.len())];
    let stack = vec![random.index(world.stacks.len())];
    let everything = Vec::new;
    match cause {
        "device_in_region" => Scope { regions: region, devices: device, stacks: everything() },
        "device_everywhere" => Scope { regions: everything(), devices: device, stacks: everything() },
        "stack_everywhere" => Scope { regions: everything(), devices: everything(), stacks: stack },
        "cell" => Scope { regions: region, devices: device, stacks: stack },
        "region_down" => Scope { regions: region, devices: everything(), stacks: everything() },
        "shared_dependency" => {
            Scope { regions: region, devices: everything(), stacks: together(random, world, stack) }
        }
        _ => Scope { regions: region, devices: everything(), stacks: stack },
    }
}

/// Stacks that need the same thing, declared or not; one by itself where there are none.
fn together(random: &mut Random, world: &World, otherwise: Vec<usize>) -> Vec<usize> {
    let declared: Vec<usize> =
        (0..world.stacks.len()).filter(|&stack| !world.stacks[stack].depends_on.is_empty()).collect();
    let undeclared = world.undeclared.map(|pair| pair.to_vec());
    match (declared.len() > 1, undeclared) {
        (true, Some(_)) if random.chance(0.5) => declared,
        (_, Some(pair)) => pair,
        (true, None) => declared,
        (false, None) => otherwise,
    }
}

/// What a fault of this sort does: most raise errors, a few lose traffic before anything could count one.
pub(super) fn effect(random: &mut Random, cause: &str, length_s: i64) -> Effect {
    let minutes = |count: f64| count.round() as i64 * 60;
    let down = cause == "region_down";
    let lost = if down { random.between(0.4, 0.97) } else { random.between(0.3, 0.95) };
    let mute = !down && random.chance(0.08);
    let pulse =
        |random: &mut Random| (minutes(random.between(10.0, 25.0)), minutes(random.between(6.0, 15.0)));
    Effect {
        traffic_log: (1.0 - lost).ln(),
        errors: if mute { 1.0 } else { random.log_between(3.0, 25.0) },
        rise_s: match cause {
            "slow_burn" => length_s * 2 / 3,
            _ if random.chance(0.5) => 0,
            _ => minutes(random.between(1.0, 12.0)),
        },
        pulse_s: (cause == "flapping").then(|| pulse(random)),
        latency: if random.chance(0.5) { random.between(1.2, 4.0) } else { 1.0 },
        ..Effect::NONE
    }
}

/// Faults begin while people are awake, or hit more than one region.
pub(super) fn awake(world: &World, fault: &Occurrence) -> bool {
    let Some(&region) = fault.scope.regions.first() else { return true };
    let hour = (fault.from_s + world.utc_offset_s(region, fault.from_s)).rem_euclid(86_400) / 3_600;
    (6..23).contains(&hour)
}

/// There must be something to see, over its length and in any five minutes at full strength.
pub(super) fn visible(world: &World, fault: &Occurrence) -> bool {
    let lost = 1.0 - fault.effect.traffic_log.exp();
    let traffic = |cell: Cell| world.traffic(cell) * world.season(cell, fault.from_s);
    let expected: f64 = world.cells().filter(|&cell| fault.scope.covers(cell)).map(traffic).sum();
    let at_once = expected * lost * lost;
    let windows = (fault.until_s - fault.from_s) as f64 / 300.0;
    at_once >= VISIBLE_AT_ONCE_MIN && at_once * windows >= VISIBLE_MIN
}
