//! What StatsD sends, folded over an interval into one observation of each series.
//!
//! It must never grow with the number of values: a series keeps a sum and a weight. The hard case is what
//! a silent interval means: for a counter, that nothing happened, so it is observed as 0 for a while; for a
//! gauge or a timer, nothing. Source: the flush of StatsD (Etsy); stale gauges are not repeated, as in Datadog's.
use crate::{
    parse::statsd::{Kind, Value},
    table::Slot,
};

/// A timer's sum and weight are halved together here, before single events vanish in the weight's rounding.
const WEIGHT_MAX: f32 = 4_194_304.0;

/// Adds one value that stands for `weight` real events.
pub(crate) fn fold(slot: &mut Slot, kind: Kind, value: Value, weight: f64) {
    let (Value::Absolute(size) | Value::Change(size)) = value;
    match (kind, value) {
        (Kind::Gauge, Value::Absolute(_)) => slot.sum = size,
        (Kind::Gauge, Value::Change(_)) => slot.sum += size,
        (Kind::Counter | Kind::Timer, _) => slot.sum += size * weight,
    }
    slot.weight += weight as f32;
    if kind == Kind::Timer && slot.weight > WEIGHT_MAX {
        slot.sum /= 2.0;
        slot.weight /= 2.0;
    }
}

/// The observation of the interval that ends, if there is one.
pub(crate) fn flush(slot: &mut Slot, kind: Kind, quiet_flushes_max: u16) -> Option<f64> {
    let weight = core::mem::take(&mut slot.weight);
    let fresh = weight > 0.0;
    slot.quiet_flushes = if fresh { 0 } else { slot.quiet_flushes.saturating_add(1) };
    match kind {
        Kind::Gauge => fresh.then_some(slot.sum),
        Kind::Timer => {
            let sum = core::mem::take(&mut slot.sum);
            fresh.then(|| sum / f64::from(weight))
        }
        Kind::Counter => {
            let sum = core::mem::take(&mut slot.sum);
            (slot.quiet_flushes <= quiet_flushes_max).then_some(sum)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_sum_and_fall_to_zero_and_then_silent() {
        let mut slot = Slot::free();
        fold(&mut slot, Kind::Counter, Value::Absolute(3.0), 10.0);
        fold(&mut slot, Kind::Counter, Value::Absolute(1.0), 1.0);
        let flushes = [(); 4].map(|()| flush(&mut slot, Kind::Counter, 2));
        assert_eq!(flushes, [Some(31.0), Some(0.0), Some(0.0), None]);
        fold(&mut slot, Kind::Counter, Value::Absolute(1.0), 1.0);
        assert_eq!(flush(&mut slot, Kind::Counter, 2), Some(1.0));
    }

    #[test]
    fn gauges_keep_their_value_for_changes_and_say_it_once() {
        let mut slot = Slot::free();
        fold(&mut slot, Kind::Gauge, Value::Absolute(10.0), 1.0);
        fold(&mut slot, Kind::Gauge, Value::Change(-4.0), 1.0);
        assert_eq!(flush(&mut slot, Kind::Gauge, 2), Some(6.0));
        assert_eq!(flush(&mut slot, Kind::Gauge, 2), None);
        fold(&mut slot, Kind::Gauge, Value::Change(1.0), 1.0);
        assert_eq!(flush(&mut slot, Kind::Gauge, 2), Some(7.0));
    }

    #[test]
    fn timers_are_averaged_by_weight() {
        let mut slot = Slot::free();
        fold(&mut slot, Kind::Timer, Value::Absolute(100.0), 3.0);
        fold(&mut slot, Kind::Timer, Value::Absolute(20.0), 1.0);
        assert_eq!(flush(&mut slot, Kind::Timer, 2), Some(80.0));
        assert_eq!(flush(&mut slot, Kind::Timer, 2), None);
    }
}
