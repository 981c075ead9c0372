//! Counters: series whose values only grow until what counts them begins anew, scored as their rate a second.
//!
//! Whether a series is one is told by the settings, or learned: nothing but growth since its first value. It must never
//! take a gauge for a counter for long: each fall that is no plausible restart costs more trust than many growths
//! bring, and without trust a series is a gauge for good. The hard case is a gauge that happens to grow from its birth
//! on, a disk that fills or the load of a machine that starts: it is found out by its first falls, and begins anew.

use crate::table::{Origin, Slot};

/// Growths without a fall after which a series counts as a counter: by the end of its warm-up, so that nothing was told
/// of it before.
const RECOGNISED: u16 = 39;
/// The most trust there is; a growth brings one.
const TRUST_MAX: u16 = 1_024;
/// What a fall costs that a restart explains, so that one that falls more often than this is a gauge; and any other.
const RESTART_COSTS: u16 = 16;
const FALL_COSTS: u16 = 256;
/// After a restart the value is at most what the greatest rate so far, this many times, gives since the value before.
const RESTART_RATES: f32 = 4.0;
/// What is left of the greatest rate after each growth: one burst must not explain every fall for ever.
const RATE_KEPT: f32 = 0.99;
/// A rate counts as at most this, which is all that scorers take, so that sums stay finite.
const RATE_MAX: f64 = crate::score::VALUE_MAX;
/// For what a restart may explain, time counts as at least this, in milliseconds: values that come at once tell no rate.
const STEP_MS_MIN: i64 = 1_000;
/// Stands for a series that fell, or is told to be no counter: it is a gauge as long as it lives.
const GAUGE: u16 = u16::MAX;

/// What a value is worth to the scorers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Counted {
    /// This.
    Value(f64),
    /// This, and values mean something else than before: the scorers begin anew.
    Anew(f64),
    /// Nothing: no time has passed since the value before.
    Late,
    /// Nothing: the counter began anew, or was not seen before, and nobody knows how far it had come.
    Start,
}

impl Slot {
    /// Whether its values have to be looked at before they are scored.
    #[inline]
    pub(crate) fn may_count(&self) -> bool {
        match self.origin {
            Origin::Direct => self.quiet_flushes != GAUGE,
            Origin::Counter | Origin::LearnedCounter => true,
            Origin::Free | Origin::Folded(_) | Origin::Overflow => false,
        }
    }

    /// It is no counter, whatever it looks like.
    pub(crate) fn never_count(&mut self) {
        if self.origin == Origin::Direct {
            self.quiet_flushes = GAUGE;
        }
    }

    /// What `value` is worth, `step_ms` after the one before.
    pub(crate) fn count(&mut self, value: f64, step_ms: i64) -> Counted {
        match self.origin {
            Origin::Direct if step_ms > 0 => self.suspect(value, step_ms),
            Origin::Counter | Origin::LearnedCounter if step_ms == 0 => Counted::Late,
            Origin::Counter | Origin::LearnedCounter if step_ms < 0 => {
                // A clock was put right: nobody knows how long it has counted.
                self.sum = value;
                Counted::Start
            }
            Origin::Counter => self.grow(value, step_ms).map_or(Counted::Start, Counted::Value),
            Origin::LearnedCounter => self.trust(value, step_ms),
            _ => Counted::Value(value),
        }
    }

    /// Takes a series that has only grown for a counter with its next growth, because its neighbours are.
    pub(crate) fn trust_neighbours(&mut self, growths: u16) {
        if self.origin == Origin::Direct && (growths..GAUGE).contains(&self.quiet_flushes) {
            self.quiet_flushes = self.quiet_flushes.max(RECOGNISED);
        }
    }

    /// The rate a second since the value before; `None` for the first value and after a fall.
    fn grow(&mut self, value: f64, step_ms: i64) -> Option<f64> {
        let known = core::mem::replace(&mut self.weight, 1.0) > 0.0;
        let grown = value - core::mem::replace(&mut self.sum, value);
        (known && grown >= 0.0).then(|| rate(grown, step_ms))
    }

    /// Looks at a value of a series that has only grown so far. The trust is one more than there were growths, and 0
    /// before the first value; the weight is the greatest rate.
    fn suspect(&mut self, value: f64, step_ms: i64) -> Counted {
        let grown = value - self.sum;
        if self.quiet_flushes == 0 {
            self.sum = value;
            self.quiet_flushes = if value >= 0.0 { 1 } else { GAUGE };
        } else if grown < 0.0 {
            self.lose(value, step_ms);
        } else if grown > 0.0 {
            let rate = self.gain(value, grown, step_ms);
            if self.quiet_flushes > RECOGNISED {
                self.origin = Origin::LearnedCounter;
                return Counted::Anew(rate);
            }
        }
        Counted::Value(value)
    }

    fn trust(&mut self, value: f64, step_ms: i64) -> Counted {
        let grown = value - self.sum;
        if grown >= 0.0 {
            return Counted::Value(self.gain(value, grown, step_ms));
        }
        if self.lose(value, step_ms) {
            return Counted::Start;
        }
        self.origin = Origin::Direct;
        Counted::Anew(value)
    }

    fn gain(&mut self, value: f64, grown: f64, step_ms: i64) -> f64 {
        let rate = rate(grown, step_ms);
        self.sum = value;
        self.weight = (RATE_KEPT * self.weight).max(self::rate(grown, step_ms.max(STEP_MS_MIN)) as f32);
        self.quiet_flushes = TRUST_MAX.min(self.quiet_flushes + u16::from(grown > 0.0));
        rate
    }

    /// Takes in a fall; whether the series may still be a counter.
    fn lose(&mut self, value: f64, step_ms: i64) -> bool {
        let most = f64::from(RESTART_RATES * self.weight) * step_ms as f64 * 0.001;
        let costs = if (0.0..=most).contains(&value) { RESTART_COSTS } else { FALL_COSTS };
        self.sum = value;
        let left = self.quiet_flushes.checked_sub(costs).filter(|left| *left > 0);
        self.quiet_flushes = left.unwrap_or(GAUGE);
        left.is_some()
    }
}

fn rate(grown: f64, step_ms: i64) -> f64 {
    (grown / (step_ms as f64 * 0.001)).min(RATE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn slot(origin: Origin) -> Slot {
        let mut slot = Slot::free();
        slot.origin = origin;
        slot
    }

    /// One value a second.
    fn feed(slot: &mut Slot, values: impl IntoIterator<Item = i32>) -> Vec<Counted> {
        let mut count = |value: i32| slot.may_count().then(|| slot.count(value.into(), 1_000));
        values.into_iter().map(|value| count(value).unwrap_or(Counted::Value(value.into()))).collect()
    }

    #[test]
    fn a_counter_that_was_told_starts_grows_and_restarts() {
        let mut slot = slot(Origin::Counter);
        let worth = feed(&mut slot, [100, 130, 130, 5, 8]);
        let value = Counted::Value;
        assert_eq!(worth, [Counted::Start, value(30.0), value(0.0), Counted::Start, value(3.0)]);
        assert_eq!((slot.count(9.0, 0), slot.count(7.0, -5_000)), (Counted::Late, Counted::Start));
        assert_eq!(slot.count(9.0, 1_000), Counted::Value(2.0));
    }

    #[test]
    fn a_series_that_only_grows_is_learned_to_be_a_counter() {
        let mut slot = slot(Origin::Direct);
        let worth = feed(&mut slot, (0..60).map(|n| 1_000 + 7 * n));
        assert_eq!(worth[38], Counted::Value(1_266.0));
        assert_eq!(worth[39..41], [Counted::Anew(7.0), Counted::Value(7.0)]);
        // A restart shortly before this value, one a while ago, and a wrap.
        assert_eq!(feed(&mut slot, [0, 7, 20, 21]).first(), Some(&Counted::Start));
        assert_eq!(slot.origin, Origin::LearnedCounter);
    }

    #[test]
    fn a_series_that_stands_still_between_growths_is_one_too() {
        let mut slot = slot(Origin::Direct);
        feed(&mut slot, (0..500).map(|n| n / 10));
        assert_eq!(slot.origin, Origin::LearnedCounter);
    }

    #[test]
    fn gauges_are_none_or_not_for_long() {
        let mut falls = slot(Origin::Direct);
        feed(&mut falls, [5, 6, 4]);
        assert!(!falls.may_count());
        let mut rises = slot(Origin::Direct);
        feed(&mut rises, 0..300);
        let worth = feed(&mut rises, (290..300).rev());
        assert!(
            worth[..3].contains(&Counted::Anew(298.0)) || worth[..3].contains(&Counted::Anew(297.0)),
            "{worth:?}"
        );
        assert!(!rises.may_count() && rises.origin == Origin::Direct);
        let mut saw = slot(Origin::Direct);
        feed(&mut saw, (0..500).map(|n| n % 8));
        assert!(!saw.may_count(), "it falls to nothing far too often");
        let mut below = slot(Origin::Direct);
        feed(&mut below, -500..0);
        assert!(!below.may_count());
    }

    #[test]
    fn a_burst_does_not_explain_falls_for_ever() {
        let mut saw = slot(Origin::Direct);
        feed(&mut saw, (0..50).map(|n| if n == 0 { 0 } else { 1_000_000 + n }));
        feed(&mut saw, (50..1_000).map(|n| 1_000_000 + n % 50));
        assert!(!saw.may_count(), "it falls to a million each time, by far more than it grows in a second");
    }

    #[test]
    fn what_is_told_to_be_no_counter_never_is() {
        let mut slot = slot(Origin::Direct);
        slot.never_count();
        assert!(feed(&mut slot, 0..100).iter().zip(0..).all(|(worth, n)| *worth == Counted::Value(n.into())));
    }

    #[test]
    fn rates_are_finite() {
        let mut slot = slot(Origin::Counter);
        let worth = [-1.7e308, 1.7e308].map(|value| slot.count(value, 1));
        assert_eq!(worth, [Counted::Start, Counted::Value(RATE_MAX)]);
    }

    #[test]
    fn a_sum_of_counters_may_lose_one_now_and_then() {
        let mut slot = slot(Origin::Direct);
        feed(&mut slot, 0..900);
        assert_eq!(feed(&mut slot, [600, 601]), [Counted::Start, Counted::Value(1.0)]);
    }

    #[test]
    fn neighbours_tell_soon() {
        let mut slot = slot(Origin::Direct);
        feed(&mut slot, 0..10);
        slot.trust_neighbours(11);
        assert_eq!(slot.count(10.0, 1_000), Counted::Value(10.0));
        slot.trust_neighbours(10);
        assert_eq!(slot.count(13.0, 1_000), Counted::Anew(3.0));
    }
}
