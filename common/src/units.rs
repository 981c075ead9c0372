//! Units of time as types, so that a monotonic instant is never compared with a wall clock.
//!
//! It must never read a clock: instants are arguments. The hard case is a wall clock that jumps; only
//! saturating arithmetic is offered, so that no jump can overflow.
use serde::{Deserialize, Serialize};

/// Wall or event time: milliseconds since 1970-01-01T00:00:00Z, negative before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WallMs(pub i64);

/// Monotonic time: milliseconds since the process (or the simulation) began. Orders what one agent does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MonoMs(pub u64);

/// Both clocks, read once by the shell and handed to a core with each input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock: deadlines and order.
    pub mono: MonoMs,
    /// The wall clock: windows, event times and people.
    pub wall: WallMs,
}

impl WallMs {
    /// This instant moved by `ms`, saturating at the ends of the range.
    pub const fn plus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this instant; negative when `earlier` is later.
    pub const fn ms_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The start of the window of `window_ms` that holds this instant; windows are aligned to the epoch.
    /// A `window_ms` of 0 counts as 1.
    pub const fn window_start(self, window_ms: u32) -> Self {
        let width = if window_ms == 0 { 1 } else { window_ms as i64 };
        Self(self.0.saturating_sub(self.0.rem_euclid(width)))
    }

    /// Whole Unix seconds, rounded down.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }
}

impl MonoMs {
    /// This instant moved forward by `ms`, saturating.
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds since `earlier`; 0 when `earlier` is later.
    pub const fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_aligned_also_before_the_epoch() {
        assert_eq!(WallMs(12_345).window_start(10_000), WallMs(10_000));
        assert_eq!(WallMs(-1).window_start(10_000), WallMs(-10_000));
        assert_eq!(WallMs(i64::MIN).window_start(0), WallMs(i64::MIN));
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(WallMs(i64::MAX).plus_ms(1), WallMs(i64::MAX));
        assert_eq!(WallMs(i64::MIN).ms_since(WallMs(1)), i64::MIN);
        assert_eq!(MonoMs(1).ms_since(MonoMs(2)), 0);
    }
}
