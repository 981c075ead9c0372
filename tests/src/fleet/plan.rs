//! What happens to a fleet, and when: events that recur and events that do not, faults of every sort, silent agents.
//!
//! Owns all the chance in the schedule. The hard case is a truth that can be judged: two faults of one region keep apart,
//! a fault meets an event only where that is its point, and nothing but events happens while the history is young.

use super::class::{CLASSES, CLUB_NIGHT, Character, Class, Nature};
use super::fault::{self, FAULTS};
use super::occurrence::{Effect, Kind, Occurrence, Scope};
use super::random::Random;
use super::world::World;

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
            let often = class.a_week * random.between(0.5, 1.5);
            let character = Character::draw(random, world, class);
            for region in 0..world.regions.len() {
                let nature = character.nature(random);
                if class.name == CLUB_NIGHT {
                    self.add_club_nights(random, world, class, region, &nature);
                    continue;
                }
                let wanted = often * self.weeks();
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
            if class.announced && random.chance(0.2) { minutes(random.between(-180.0, 180.0)) } else { 0 };
        let from_s = from_s + moved_s;
        Occurrence {
            kind: Kind::Event,
            cause: class.name,
            scope: Scope { regions: wide(random, world, class, region), ..Scope::default() },
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
            let nature = Character::draw(random, world, &CLASSES[0]).nature(random);
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
        let hours = if cause == "slow_burn" { (5.0, 12.0) } else { (0.6, 5.0) };
        let length_s = minutes(random.between(hours.0, hours.1) * 60.0);
        let room_s = self.until_s - self.graded_from_s - length_s - 2 * HOUR_S;
        let from_s = self.graded_from_s + minutes(random.unit() * room_s as f64 / 60.0);
        let scope = fault::scope(random, world, cause);
        let everywhere = scope.regions.is_empty();
        let effect = fault::effect(random, cause, length_s);
        let until_s = from_s + length_s;
        let fault =
            Occurrence { kind: Kind::Malfunction, cause, scope, from_s, until_s, announced_s: None, effect };
        let near = |other: &&Occurrence| fault.meets(other, 90 * MINUTE_S);
        let clash =
            self.occurrences.iter().filter(near).any(|other| other.kind == Kind::Malfunction || !everywhere);
        (!clash && fault::awake(world, &fault) && fault::visible(world, &fault)).then_some(fault)
    }

    fn draw_fault_amid_event(&self, random: &mut Random, world: &World) -> Option<Occurrence> {
        let strikes = |event: &&Occurrence| {
            event.kind == Kind::Event
                && event.from_s > self.graded_from_s
                && event.until_s - event.from_s >= 80 * MINUTE_S
                && event.until_s + 2 * HOUR_S < self.until_s
        };
        let events: Vec<&Occurrence> = self.occurrences.iter().filter(strikes).collect();
        let event = *events.get(random.index(events.len()))?;
        let region = event.scope.regions[random.index(event.scope.regions.len())];
        let like = if random.chance(0.6) { "stack_in_region" } else { "device_in_region" };
        let mut scope = fault::scope(random, world, like);
        scope.regions = vec![region];
        let from_s = event.from_s + minutes(random.between(5.0, 60.0));
        let until_s = from_s + minutes(random.between(40.0, 150.0));
        let effect = fault::effect(random, "amid_event", until_s - from_s);
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
        (!clash && fault::visible(world, &fault)).then_some(fault)
    }

    fn add_silences(&mut self, random: &mut Random, world: &World) {
        let count = (self.graded_days() / 3.0).ceil() as usize;
        for _ in 0..count {
            let found = (0..PLACES_TRIED_MAX).find_map(|_| {
                let length_s = minutes(random.between(20.0, 120.0));
                let room_s = self.until_s - self.graded_from_s - length_s - HOUR_S;
                let from_s = self.graded_from_s + minutes(random.unit() * room_s as f64 / 60.0);
                let region = Scope::region(random.index(world.regions.len()));
                // An agent speaks for a region, or for one family of devices in it.
                let devices =
                    if random.chance(0.3) { vec![random.index(world.devices.len())] } else { Vec::new() };
                let scope = Scope { devices, ..region };
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

    /// A few cells, stacks, devices or regions have more traffic from some day on.
    fn add_growth(&mut self, random: &mut Random, world: &World) {
        for _ in 0..self.weeks().ceil() as usize {
            let cause = ["stack_in_region", "device_in_region", "cell", "region_down"][random.index(4)];
            let scope = fault::scope(random, world, cause);
            let from_s = self.from_s + minutes(random.unit() * (self.until_s - self.from_s) as f64 / 60.0);
            let effect = Effect {
                traffic_log: random.between(0.08, 0.4),
                rise_s: minutes(random.between(0.0, 180.0)),
                ..Effect::NONE
            };
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

/// The regions of an event that begins in `region`.
fn wide(random: &mut Random, world: &World, class: &Class, region: usize) -> Vec<usize> {
    if !random.chance(class.wide) {
        return vec![region];
    }
    (0..world.regions.len()).filter(|&other| other == region || random.chance(0.5)).collect()
}

fn minutes(count: f64) -> i64 {
    count.round() as i64 * MINUTE_S
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
