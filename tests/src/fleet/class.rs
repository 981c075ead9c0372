//! Classes of events: how often, how long, how strong, in what form, and on whom how much.
//!
//! Owns what can be learned of an event. The hard case is that classes differ between fleets: ranges are wide, and each
//! seed draws its own strengths, unevenness and signs from them.

use super::occurrence::Effect;
use super::random::Random;
use super::world::World;

/// A class of events. Ranges are drawn from for each event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Class {
    pub(super) name: &'static str,
    pub(super) announced: bool,
    /// In each region.
    pub(super) a_week: f64,
    pub(super) hours: (f64, f64),
    /// Logarithm of the factor on traffic.
    traffic_log: (f64, f64),
    /// Factor on errors.
    errors: (f64, f64),
    /// Parts of its length until full strength, and of fading.
    edges: (f64, f64),
    /// When it begins, by the region's clock.
    pub(super) local_hours: (f64, f64),
    /// Chance that a stack is moved the other way.
    both_ways: f64,
    /// Chance that it hits several regions at once.
    pub(super) wide: f64,
}

/// The class that recurs each week at the same local time.
pub(super) const CLUB_NIGHT: &str = "club-night";

const CALM: Class = Class {
    name: "",
    announced: false,
    a_week: 0.4,
    hours: (1.0, 3.0),
    traffic_log: (-0.5, -0.2),
    errors: (1.0, 1.5),
    edges: (0.1, 0.1),
    local_hours: (7.0, 21.0),
    both_ways: 0.0,
    wide: 0.0,
};

pub(super) const CLASSES: [Class; 10] = [
    Class {
        name: "football",
        announced: true,
        a_week: 0.8,
        hours: (1.8, 2.2),
        traffic_log: (-0.6, -0.2),
        local_hours: (15.0, 20.5),
        ..CALM
    },
    Class {
        name: "final",
        announced: true,
        hours: (2.0, 3.0),
        traffic_log: (-1.2, -0.5),
        errors: (1.0, 1.8),
        edges: (0.03, 0.08),
        local_hours: (18.0, 20.5),
        wide: 0.3,
        ..CALM
    },
    Class {
        name: "holiday",
        announced: true,
        hours: (10.0, 15.0),
        traffic_log: (-0.45, -0.12),
        errors: (1.0, 1.2),
        edges: (0.25, 0.25),
        local_hours: (5.0, 8.0),
        wide: 0.2,
        ..CALM
    },
    Class {
        name: "premiere",
        announced: true,
        hours: (1.0, 3.0),
        traffic_log: (0.2, 0.8),
        errors: (1.0, 2.2),
        edges: (0.05, 0.4),
        local_hours: (17.0, 21.0),
        ..CALM
    },
    Class {
        name: CLUB_NIGHT,
        announced: true,
        a_week: 1.0,
        hours: (2.0, 2.0),
        traffic_log: (-0.4, -0.25),
        local_hours: (20.0, 20.0),
        ..CALM
    },
    Class {
        name: "weather",
        hours: (4.0, 12.0),
        traffic_log: (-0.35, -0.1),
        errors: (1.0, 1.3),
        edges: (0.35, 0.35),
        local_hours: (6.0, 14.0),
        ..CALM
    },
    Class {
        name: "power_cut",
        hours: (0.5, 3.0),
        traffic_log: (-1.6, -0.4),
        errors: (1.0, 1.8),
        edges: (0.0, 0.3),
        local_hours: (6.0, 21.0),
        ..CALM
    },
    Class {
        name: "breaking_news",
        hours: (0.6, 2.0),
        traffic_log: (-0.8, -0.25),
        edges: (0.06, 0.5),
        both_ways: 0.25,
        wide: 0.2,
        ..CALM
    },
    Class {
        name: "bad_network",
        a_week: 0.3,
        hours: (0.7, 4.0),
        traffic_log: (-0.5, -0.1),
        errors: (1.5, 3.0),
        edges: (0.05, 0.1),
        ..CALM
    },
    Class {
        name: "rush",
        a_week: 0.3,
        hours: (0.5, 2.0),
        traffic_log: (0.3, 1.0),
        errors: (1.2, 2.5),
        edges: (0.03, 0.5),
        ..CALM
    },
];

/// How a class acts in one region: the part that can be learned.
#[derive(Clone, Debug)]
pub(super) struct Nature {
    stacks: Vec<f64>,
    devices: Vec<f64>,
    strength: f64,
    /// How much each event differs from the nature of its class.
    restless: f64,
}

/// How a class acts everywhere, from which regions differ a little.
pub(super) struct Character {
    stacks: Vec<f64>,
    devices: Vec<f64>,
    restless: f64,
}

impl Character {
    pub(super) fn draw(random: &mut Random, world: &World, class: &Class) -> Self {
        let (by_stack, by_device) = (random.between(0.1, 0.4), random.between(0.05, 0.3));
        let sign = |random: &mut Random| if random.chance(class.both_ways) { -0.7 } else { 1.0 };
        let stacks =
            world.stacks.iter().map(|_| sign(random) * random.log_normal(by_stack).clamp(0.2, 2.0)).collect();
        let devices = world.devices.iter().map(|_| random.log_normal(by_device).clamp(0.3, 1.8)).collect();
        Self { stacks, devices, restless: random.between(0.03, 0.15) }
    }

    pub(super) fn nature(&self, random: &mut Random) -> Nature {
        let mut vary =
            |weights: &[f64]| weights.iter().map(|weight| weight * random.log_normal(0.12)).collect();
        let (stacks, devices) = (vary(&self.stacks), vary(&self.devices));
        Nature { stacks, devices, strength: random.unit(), restless: self.restless }
    }
}

impl Nature {
    pub(super) fn effect(&self, random: &mut Random, class: &Class, length_s: i64) -> Effect {
        let (least, most) = class.traffic_log;
        let strength = least + (most - least) * (0.6 * self.strength + 0.4 * random.unit());
        let vary = |weights: &[f64], random: &mut Random, deviation: f64| -> Vec<f64> {
            weights.iter().map(|weight| weight * random.log_normal(deviation)).collect()
        };
        let part = |part: f64| (part * length_s as f64 / 60.0).round() as i64 * 60;
        Effect {
            traffic_log: strength,
            errors: random.between(class.errors.0, class.errors.1),
            rise_s: part(class.edges.0),
            fall_s: part(class.edges.1),
            stack_weights: vary(&self.stacks, random, self.restless),
            device_weights: vary(&self.devices, random, self.restless),
            error_weights: vary(&vec![1.0; self.devices.len()], random, 0.2),
            latency: 1.0 + 0.3 * random.unit(),
            ..Effect::NONE
        }
    }
}
