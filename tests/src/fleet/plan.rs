//! What happens to a fleet, and when: events that recur and events that do not, faults of every sort, silent agents.
//!
//! Owns all the chance in the schedule. The hard case is a truth that can be judged: two faults of one region keep apart,
//! a fault meets an event only where that is its point, and nothing but events happens while the history is young.

use super::occurrence::{Effect, Kind, Occurrence, Scope};
use super::random::Random;
use super::world::{Cell, World};

const MINUTE_S: i64 = 60;
const HOUR_S: i64 = 3_600;
const DAY_S: i64 = 86_400;

/// 2026-03-29, when clocks change in Europe; every plan of a week or more holds this day.
const CLOCK_CHANGE_S: i64 = 1_774_742_400;
/// Draws before a thing is left out for want of room.
const PLACES_TRIED_MAX: usize = 400;

/// Everything that happens between two moments.
#[derive(Clone, Debug)]
pub struct Plan {
    /// First interval, Unix seconds.
    pub from_s: i64,
    /// End of the last interval, Unix seconds.
    pub until_s: i64,
    /// Before it there are only events and growth: time to learn. Unix seconds.
    pub graded_from_s: i64,
    /// In order of their beginning.
    pub occurrences: Vec<Occurrence>,
}

/// A class of events: how often, how long, how strong, in what form. Weights on stacks and devices are drawn for each
/// class and region once, so that they can be learned.
struct Class {
    name: &'static str,
    announced: bool,
    a_week: f64,
    hours: (f64, f64),
    traffic_log: (f64, f64),
    rise_part: f64,
    fall_part: f64,
    local_hours: (f64, f64),
}

const CLASSES: [Class; 8] = [
    Class {
        name: "football",
        announced: true,
        a_week: 1.0,
        hours: (1.8, 2.2),
        traffic_log: (-0.6, -0.25),
        rise_part: 0.1,
        fall_part: 0.1,
        local_hours: (17.0, 20.5),
    },
    Class {
        name: "final",
        announced: true,
        a_week: 0.5,
        hours: (2.0, 2.5),
        traffic_log: (-1.0, -0.6),
        rise_part: 0.04,
        fall_part: 0.08,
        local_hours: (19.0, 20.5),
    },
    Class {
        name: "holiday",
        announced: true,
        a_week: 0.5,
        hours: (10.0, 14.0),
        traffic_log: (-0.4, -0.15),
        rise_part: 0.25,
        fall_part: 0.25,
        local_hours: (6.0, 8.0),
    },
    Class {
        name: "premiere",
        announced: true,
        a_week: 0.5,
        hours: (1.5, 3.0),
        traffic_log: (0.2, 0.5),
        rise_part: 0.1,
        fall_part: 0.4,
        local_hours: (18.0, 21.0),
    },
    Class {
        name: CLUB_NIGHT,
        announced: true,
        a_week: 1.0,
        hours: (2.0, 2.0),
        traffic_log: (-0.35, -0.25),
        rise_part: 0.1,
        fall_part: 0.1,
        local_hours: (20.0, 20.0),
    },
    Class {
        name: "weather",
        announced: false,
        a_week: 0.5,
        hours: (5.0, 10.0),
        traffic_log: (-0.35, -0.12),
        rise_part: 0.35,
        fall_part: 0.35,
        local_hours: (7.0, 14.0),
    },
    Class {
        name: "power_cut",
        announced: false,
        a_week: 0.4,
        hours: (1.0, 3.0),
        traffic_log: (-1.4, -0.5),
        rise_part: 0.0,
        fall_part: 0.3,
        local_hours: (6.0, 21.0),
    },
    Class {
        name: "breaking_news",
        announced: false,
        a_week: 0.4,
        hours: (0.7, 1.7),
        traffic_log: (-0.7, -0.3),
        rise_part: 0.1,
        fall_part: 0.5,
        local_hours: (7.0, 22.0),
    },
];

/// The class that recurs each week at the same local time.
pub const CLUB_NIGHT: &str = "club-night";

/// The sorts of faults, in turn.
const FAULTS: [&str; 11] = [
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
];

impl Plan {
    /// The plan of `seed` over `days` days (at least 2); the first two fifths are history.
    pub fn new(seed: u64, days: u32, world: &World) -> Self {
        let days = i64::from(days.max(2));
        let from_s = CLOCK_CHANGE_S - days * 11 / 20 * DAY_S;
        let graded_from_s = from_s + days * DAY_S * 2 / 5;
        let mut plan =
            Self { from_s, until_s: from_s + days * DAY_S, graded_from_s, occurrences: Vec::new() };
        plan.add_events(&mut Random::new(seed, "events"), world);
        plan.add_no_shows(&mut Random::new(seed, "no-shows"), world);
        plan.add_faults(&mut Random::new(seed, "faults"), world);
        plan.add_silences(&mut Random::new(seed, "silences"), world);
        plan.add_growth(&mut Random::new(seed, "growth"), world);
        plan.occurrences.sort_by_key(|occurrence| (occurrence.from_s, occurrence.until_s, occurrence.cause));
        plan
    }

    /// The occurrences that can be felt at a moment.
    pub fn active(&self, at_s: i64) -> impl Iterator<Item = &Occurrence> {
        self.occurrences
            .iter()
            .filter(move |occurrence| occurrence.from_s <= at_s && at_s < occurrence.until_s)
    }

    fn weeks(&self) -> f64 {
        (self.until_s - self.from_s) as f64 / (7 * DAY_S) as f64
    }

    fn graded_days(&self) -> f64 {
        (self.until_s - self.graded_from_s) as f64 / DAY_S as f64
    }

    fn add_events(&mut self, random: &mut Random, world: &World) {
        for class in &CLASSES {
            for region in 0..world.regions.len() {
                let nature = Nature::draw(random, world);
                if class.name == CLUB_NIGHT {
                    self.add_club_nights(random, world, class, region, &nature);
                    continue;
                }
                let wanted = class.a_week * self.weeks();
                let count = wanted as usize + usize::from(random.chance(wanted.fract()));
                for _ in 0..count {
                    let found = (0..PLACES_TRIED_MAX).find_map(|_| {
                        let event = self.draw_event(random, world, class, region, &nature);
                        self.has_room(&event, HOUR_S).then_some(event)
                    });
                    self.occurrences.extend(found);
                }
            }
        }
    }

    fn draw_event(
        &self,
        random: &mut Random,
        world: &World,
        class: &Class,
        region: usize,
        nature: &Nature,
    ) -> Occurrence {
        let days = (self.until_s - self.from_s) / DAY_S;
        let day_s = self.from_s + random.index(days as usize) as i64 * DAY_S;
        let hour = random.between(class.local_hours.0, class.local_hours.1);
        let from_s = day_s + minutes(hour * 60.0) - world.utc_offset_s(region, day_s);
        let length_s = minutes(random.between(class.hours.0, class.hours.1) * 60.0);
        let announced_s = class.announced.then_some((from_s, from_s + length_s));
        // A fifth of what is announced takes place at another time.
        let moved_s =
            if class.announced && random.chance(0.2) { minutes(random.between(-150.0, 150.0)) } else { 0 };
        let from_s = from_s + moved_s;
        Occurrence {
            kind: Kind::Event,
            cause: class.name,
            scope: Scope::region(region),
            from_s,
            until_s: from_s + length_s,
            announced_s,
            effect: nature.effect(random, class, length_s),
        }
    }

    fn add_club_nights(
        &mut self,
        random: &mut Random,
        world: &World,
        class: &Class,
        region: usize,
        nature: &Nature,
    ) {
        let first_s = self.from_s + (1 + random.index(6) as i64) * DAY_S;
        let length_s = minutes(class.hours.0 * 60.0);
        for week in 0.. {
            let day_s = first_s + week * 7 * DAY_S;
            let from_s =
                day_s + minutes(class.local_hours.0 * 60.0) - world.utc_offset_s(region, day_s + 12 * HOUR_S);
            if from_s + length_s > self.until_s {
                break;
            }
            let effect = nature.effect(random, class, length_s);
            let until_s = from_s + length_s;
            let scope = Scope::region(region);
            let night = Occurrence {
                kind: Kind::Event,
                cause: CLUB_NIGHT,
                scope,
                from_s,
                until_s,
                announced_s: Some((from_s, until_s)),
                effect,
            };
            self.occurrences.push(night);
        }
    }

    /// Entries of the calendar that do not take place.
    fn add_no_shows(&mut self, random: &mut Random, world: &World) {
        let count = (self.weeks() * 2.0).ceil() as usize;
        for _ in 0..count {
            let region = random.index(world.regions.len());
            let nature = Nature::draw(random, world);
            let mut event = self.draw_event(random, world, &CLASSES[0], region, &nature);
            event.kind = Kind::NoShow;
            event.effect = Effect::NONE;
            if self.has_room(&event, 2 * HOUR_S) {
                self.occurrences.push(event);
            }
        }
    }

    fn add_faults(&mut self, random: &mut Random, world: &World) {
        let count = (self.graded_days() * 26.0 / 14.0).ceil() as usize;
        let first = random.index(FAULTS.len());
        for turn in 0..count {
            let cause = FAULTS[(first + turn) % FAULTS.len()];
            let found = (0..PLACES_TRIED_MAX).find_map(|_| self.draw_fault(random, world, cause));
            self.occurrences.extend(found);
        }
    }

    /// One try: a fault at some time and place, if there is room for it.
    fn draw_fault(&self, random: &mut Random, world: &World, cause: &'static str) -> Option<Occurrence> {
        if cause == "amid_event" {
            return self.draw_fault_amid_event(random, world);
        }
        let hours = if cause == "slow_burn" { (6.0, 9.0) } else { (0.75, 3.5) };
        let length_s = minutes(random.between(hours.0, hours.1) * 60.0);
        let room_s = self.until_s - self.graded_from_s - length_s - 2 * HOUR_S;
        let from_s = self.graded_from_s + minutes(random.unit() * room_s as f64 / 60.0);
        let scope = draw_scope(random, world, cause);
        let everywhere = scope.regions.is_empty();
        let effect = draw_fault_effect(random, cause, length_s);
        let until_s = from_s + length_s;
        let fault =
            Occurrence { kind: Kind::Malfunction, cause, scope, from_s, until_s, announced_s: None, effect };
        let near = |other: &&Occurrence| fault.meets(other, 90 * MINUTE_S);
        let clash =
            self.occurrences.iter().filter(near).any(|other| other.kind == Kind::Malfunction || !everywhere);
        (!clash && awake(world, &fault) && large_enough(world, &fault)).then_some(fault)
    }

    fn draw_fault_amid_event(&self, random: &mut Random, world: &World) -> Option<Occurrence> {
        let strikes = |event: &&Occurrence| {
            event.kind == Kind::Event
                && event.effect.traffic_log < 0.0
                && event.from_s > self.graded_from_s
                && event.until_s - event.from_s >= 80 * MINUTE_S
                && event.until_s + 2 * HOUR_S < self.until_s
        };
        let events: Vec<&Occurrence> = self.occurrences.iter().filter(strikes).collect();
        let event = *events.get(random.index(events.len()))?;
        let region = event.scope.regions[0];
        let like = if random.chance(0.6) { "stack_in_region" } else { "device_in_region" };
        let mut scope = draw_scope(random, world, like);
        scope.regions = vec![region];
        let from_s = event.from_s + minutes(random.between(15.0, 35.0));
        let until_s = from_s + minutes(random.between(45.0, 120.0));
        let effect = draw_fault_effect(random, "amid_event", until_s - from_s);
        let fault = Occurrence {
            kind: Kind::Malfunction,
            cause: "amid_event",
            scope,
            from_s,
            until_s,
            announced_s: None,
            effect,
        };
        let near = |other: &&Occurrence| fault.meets(other, 90 * MINUTE_S);
        let clash = self.occurrences.iter().filter(near).any(|other| other.kind != Kind::Event);
        (!clash && large_enough(world, &fault)).then_some(fault)
    }

    fn add_silences(&mut self, random: &mut Random, world: &World) {
        let count = (self.graded_days() / 3.0).ceil() as usize;
        for _ in 0..count {
            let found = (0..PLACES_TRIED_MAX).find_map(|_| {
                let length_s = minutes(random.between(20.0, 120.0));
                let room_s = self.until_s - self.graded_from_s - length_s - HOUR_S;
                let from_s = self.graded_from_s + minutes(random.unit() * room_s as f64 / 60.0);
                let scope = Scope::region(random.index(world.regions.len()));
                let until_s = from_s + length_s;
                let silence = Occurrence {
                    kind: Kind::Silence,
                    cause: "agent_silent",
                    scope,
                    from_s,
                    until_s,
                    announced_s: None,
                    effect: Effect::NONE,
                };
                self.has_room(&silence, HOUR_S).then_some(silence)
            });
            self.occurrences.extend(found);
        }
    }

    /// A few cells, stacks or regions have more traffic from some day on.
    fn add_growth(&mut self, random: &mut Random, world: &World) {
        for _ in 0..self.weeks().ceil() as usize {
            let cause = ["stack_in_region", "device_in_region"][random.index(2)];
            let scope = draw_scope(random, world, cause);
            let from_s = self.from_s + minutes(random.unit() * (self.until_s - self.from_s) as f64 / 60.0);
            let effect =
                Effect { traffic_log: random.between(0.08, 0.18), rise_s: 2 * HOUR_S, ..Effect::NONE };
            let until_s = self.until_s;
            self.occurrences.push(Occurrence {
                kind: Kind::Growth,
                cause: "growth",
                scope,
                from_s,
                until_s,
                announced_s: None,
                effect,
            });
        }
    }

    /// True if nothing else happens in its regions within `distance_s`.
    fn has_room(&self, wanted: &Occurrence, distance_s: i64) -> bool {
        let inside = wanted.from_s >= self.from_s && wanted.until_s + distance_s < self.until_s;
        inside && !self.occurrences.iter().any(|other| wanted.meets(other, distance_s))
    }
}

/// How a class of events acts in one region: the part that can be learned.
struct Nature {
    stacks: Vec<f64>,
    devices: Vec<f64>,
    strength: f64,
}

impl Nature {
    fn draw(random: &mut Random, world: &World) -> Self {
        let stacks = world.stacks.iter().map(|_| random.between(0.65, 1.25)).collect();
        let devices = world.devices.iter().map(|_| random.between(0.75, 1.2)).collect();
        Self { stacks, devices, strength: random.unit() }
    }

    fn effect(&self, random: &mut Random, class: &Class, length_s: i64) -> Effect {
        let (least, most) = class.traffic_log;
        let strength = least + (most - least) * (0.7 * self.strength + 0.3 * random.unit());
        let vary = |weights: &[f64], random: &mut Random| {
            weights.iter().map(|weight| weight * random.log_normal(0.08)).collect()
        };
        Effect {
            traffic_log: strength,
            errors: random.between(1.1, 1.6),
            rise_s: minutes(class.rise_part * length_s as f64 / 60.0),
            fall_s: minutes(class.fall_part * length_s as f64 / 60.0),
            pulse_s: None,
            stack_weights: vary(&self.stacks, random),
            device_weights: vary(&self.devices, random),
        }
    }
}

fn minutes(count: f64) -> i64 {
    count.round() as i64 * MINUTE_S
}

/// Whom a fault of this sort hits.
fn draw_scope(random: &mut Random, world: &World, cause: &str) -> Scope {
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
        "shared_dependency" => Scope { regions: region, devices: everything(), stacks: dependents(world) },
        _ => Scope { regions: region, devices: everything(), stacks: stack },
    }
}

/// The stacks that need something.
fn dependents(world: &World) -> Vec<usize> {
    (0..world.stacks.len()).filter(|&stack| !world.stacks[stack].depends_on.is_empty()).collect()
}

fn draw_fault_effect(random: &mut Random, cause: &str, length_s: i64) -> Effect {
    let lost = if cause == "region_down" { random.between(0.5, 0.95) } else { random.between(0.35, 0.9) };
    let pulse =
        |random: &mut Random| (minutes(random.between(12.0, 25.0)), minutes(random.between(8.0, 15.0)));
    Effect {
        traffic_log: (1.0 - lost).ln(),
        errors: random.between(4.0, 18.0),
        rise_s: if cause == "slow_burn" { length_s * 2 / 3 } else { minutes(random.between(0.0, 6.0)) },
        pulse_s: (cause == "flapping").then(|| pulse(random)),
        ..Effect::NONE
    }
}

/// Faults begin while people are awake, or hit more than one region.
fn awake(world: &World, fault: &Occurrence) -> bool {
    let Some(&region) = fault.scope.regions.first() else { return true };
    let hour = (fault.from_s + world.utc_offset_s(region, fault.from_s)).rem_euclid(DAY_S) / HOUR_S;
    (6..23).contains(&hour)
}

/// There must be something to see: in the mean at least forty units of traffic an interval in one cell of the scope.
fn large_enough(world: &World, fault: &Occurrence) -> bool {
    let traffic = |cell: Cell| world.traffic(cell) * world.season(cell, fault.from_s);
    world.cells().filter(|&cell| fault.scope.covers(cell)).map(traffic).fold(0.0, f64::max) >= 40.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_sort_of_fault_has_its_turn() {
        for seed in 1..6 {
            let world = World::new(seed);
            let plan = Plan::new(seed, 24, &world);
            let faults = plan.occurrences.iter().filter(|occurrence| occurrence.kind == Kind::Malfunction);
            let causes: BTreeSet<&str> = faults.clone().map(|fault| fault.cause).collect();
            assert_eq!(causes, FAULTS.into_iter().collect(), "seed {seed}");
            assert!((20..=30).contains(&faults.count()), "seed {seed}");
        }
    }

    #[test]
    fn faults_keep_apart_and_the_history_is_quiet() {
        for seed in 1..6 {
            let plan = Plan::new(seed, 24, &World::new(seed));
            let disturbing =
                |occurrence: &&Occurrence| matches!(occurrence.kind, Kind::Malfunction | Kind::Silence);
            let found: Vec<&Occurrence> = plan.occurrences.iter().filter(disturbing).collect();
            for (index, first) in found.iter().enumerate() {
                assert!(
                    first.from_s >= plan.graded_from_s && first.until_s <= plan.until_s,
                    "seed {seed}: {first:?}"
                );
                let clash = found[index + 1..].iter().find(|second| first.meets(second, HOUR_S));
                assert!(clash.is_none(), "seed {seed}: {first:?} meets {clash:?}");
            }
        }
    }

    #[test]
    fn some_announced_events_are_moved_and_some_never_come() {
        let plan = Plan::new(3, 24, &World::new(3));
        let announced =
            plan.occurrences.iter().filter(|event| event.kind == Kind::Event && event.announced_s.is_some());
        let moved = announced
            .clone()
            .filter(|event| event.announced_s != Some((event.from_s, event.until_s)))
            .count();
        let part = moved as f64 / announced.count() as f64;
        assert!((0.05..0.35).contains(&part), "{part}");
        assert!(plan.occurrences.iter().any(|occurrence| occurrence.kind == Kind::NoShow));
    }

    #[test]
    fn the_same_seed_gives_the_same_plan() {
        let plan = |seed| format!("{:?}", Plan::new(seed, 10, &World::new(seed)));
        assert_eq!(plan(4), plan(4));
        assert_ne!(plan(4), plan(5));
    }
}
