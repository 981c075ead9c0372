//! What happens in the demo: a few events, a few faults, one of them in the middle of an event.
//!
//! One interval of the fleet, five minutes, passes in a fraction of a second. Must
//! never need a clock: times are intervals from the beginning. The hard case is a short play: the history is just long
//! enough for the scorers' warm-up.

use crate::fleet::occurrence::Effect;
use crate::fleet::{Fleet, INTERVAL_S, Kind, Occurrence, Plan, Scope, World, files};
use chrono::{DateTime, TimeDelta, Utc};

/// Intervals of the whole play.
pub(super) const INTERVALS: i64 = 312;

const US_EAST: usize = 0;
const UK: usize = 1;
const JAPAN: usize = 2;
const TV_LG: usize = 3;
const BROWSE: usize = 1;
const SEARCH: usize = 2;
const PAYMENTS: usize = 3;
const ACCOUNTS: usize = 4;

/// The fleet of the demo, and how fast its time passes.
#[derive(Clone, Debug)]
pub struct Play {
    /// Who, and what happens to them.
    pub fleet: Fleet,
    /// Real milliseconds that one interval takes, at least 100.
    pub interval_ms: i64,
}

impl Play {
    /// A play that takes about `seconds` with its beginning and end; at least 45.
    pub fn new(seconds: u32) -> Self {
        const SEED: u64 = 20_260_329;
        let interval_ms = (i64::from(seconds.max(45)) - 13) * 1_000 / INTERVALS;
        let occurrences = script();
        let plan = Plan { from_s: 0, until_s: INTERVALS * INTERVAL_S, graded_from_s: 0, occurrences };
        let world = World::plain(SEED).excerpt();
        let fleet = Fleet { seed: SEED, interval_s: INTERVAL_S, errors: true, world, plan };
        Self { fleet, interval_ms: interval_ms.clamp(100, 1_000) }
    }

    /// When a moment of the fleet's time takes place, if the play began at `began`.
    pub fn real_time(&self, began: DateTime<Utc>, at_s: i64) -> DateTime<Utc> {
        began + TimeDelta::milliseconds(at_s * self.interval_ms / INTERVAL_S)
    }

    /// The truth in real time.
    pub fn truth(&self, began: DateTime<Utc>) -> files::Truth {
        let mut truth = files::truth(&self.fleet);
        let real = |moment: DateTime<Utc>| self.real_time(began, moment.timestamp());
        truth.from = real(truth.from);
        truth.until = real(truth.until);
        truth.graded_from = real(truth.graded_from);
        truth.grace_s = 3;
        for occurrence in &mut truth.occurrences {
            occurrence.from = real(occurrence.from);
            occurrence.until = real(occurrence.until);
        }
        truth
    }
}

fn script() -> Vec<Occurrence> {
    let stacks = |region, stacks: &[usize]| Scope { stacks: stacks.to_vec(), ..Scope::region(region) };
    let device = |region, device| Scope { devices: vec![device], ..Scope::region(region) };
    vec![
        event("final", JAPAN, (104, 142), -0.5, (6, 6)),
        fault("stack_in_region", stacks(UK, &[SEARCH]), (108, 140), 0.7),
        event("power_cut", US_EAST, (120, 152), -0.9, (0, 12)),
        event("breaking_news", UK, (172, 206), -0.6, (3, 12)),
        fault("device_in_region", device(JAPAN, TV_LG), (176, 206), 0.75),
        fault("shared_dependency", stacks(US_EAST, &[PAYMENTS, ACCOUNTS]), (186, 216), 0.8),
        event("weather", UK, (238, 298), -0.45, (16, 12)),
        fault("amid_event", stacks(UK, &[BROWSE]), (262, 288), 0.75),
    ]
}

fn event(
    cause: &'static str,
    region: usize,
    intervals: (i64, i64),
    traffic_log: f64,
    edges: (i64, i64),
) -> Occurrence {
    let effect = Effect {
        traffic_log,
        errors: 1.25,
        rise_s: edges.0 * INTERVAL_S,
        fall_s: edges.1 * INTERVAL_S,
        pulse_s: None,
        // Events act unevenly.
        stack_weights: vec![1.1, 0.95, 1.0, 0.85, 0.9],
        device_weights: vec![0.95, 1.0, 1.05, 1.1, 1.0],
        ..Effect::NONE
    };
    occurrence(Kind::Event, cause, Scope::region(region), intervals, effect)
}

fn fault(cause: &'static str, scope: Scope, intervals: (i64, i64), lost: f64) -> Occurrence {
    let effect = Effect { traffic_log: (1.0 - lost).ln(), errors: 10.0, ..Effect::NONE };
    occurrence(Kind::Malfunction, cause, scope, intervals, effect)
}

fn occurrence(
    kind: Kind,
    cause: &'static str,
    scope: Scope,
    intervals: (i64, i64),
    effect: Effect,
) -> Occurrence {
    let (from_s, until_s) = (intervals.0 * INTERVAL_S, intervals.1 * INTERVAL_S);
    Occurrence { kind, cause, scope, from_s, until_s, announced_s: None, effect }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_play_fits_its_time_and_leaves_room_to_learn() {
        for seconds in [45, 90, 300] {
            let play = Play::new(seconds);
            assert!((100..=1_000).contains(&play.interval_ms));
            assert!(INTERVALS * play.interval_ms <= i64::from(seconds) * 1_000 - 10_000);
        }
        let began = DateTime::UNIX_EPOCH;
        let truth = Play::new(90).truth(began);
        assert!(truth.occurrences.iter().all(|it| it.from < it.until && it.until < truth.until));
        assert!(truth.occurrences[0].from - began >= TimeDelta::seconds(20));
    }
}
