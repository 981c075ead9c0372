//! The hours of the week of one series: a factor for each, one byte.
//!
//! An observation looks at two of them, and a series needs none of an hour that it has not lived through. So they may lie
//! apart from the rest of a series, those of one hour of all series side by side: memory that was never written to is
//! none, and what is looked at together is in the same caches. It must never write what is there already. The hard case
//! is a series that takes the place of another: its hours are cleared first.

use core::cell::Cell;

use super::Moment;
use super::season::Place;
use crate::prefetch::prefetch;

/// Hours of a week.
pub const WEEK: usize = 168;

/// The factors less 1 of one series, in units that its season knows, wherever they lie; whoever has it may change them.
#[derive(Clone, Copy, Debug)]
pub struct Week<'a> {
    /// From its first hour on, one each `step` bytes.
    factors: &'a [Cell<i8>],
    step: usize,
}

impl<'a> Week<'a> {
    /// Of a series by itself.
    pub(crate) fn own(factors: &'a mut [i8; WEEK]) -> Self {
        Self { factors: Cell::from_mut(&mut factors[..]).as_slice_of_cells(), step: 1 }
    }

    /// Of the series at `place` among `series`, the hours of all of which are in `factors`: [`WEEK`] for each.
    #[inline(always)]
    pub fn among(factors: &'a [Cell<i8>], series: usize, place: usize) -> Self {
        Self { factors: factors.get(place..).unwrap_or_default(), step: series }
    }

    #[inline(always)]
    pub(super) fn factor(self, hour: usize) -> i8 {
        self.factors.get(hour * self.step).map_or(0, Cell::get)
    }

    #[inline(always)]
    pub(super) fn put(self, hour: usize, factor: i8) {
        if let Some(cell) = self.factors.get(hour * self.step) {
            cell.set(factor);
        }
    }

    /// Changes every hour; `change` must leave 0 as it is.
    pub(super) fn change(self, change: impl Fn(i8) -> i8) {
        for cell in self.factors.iter().step_by(self.step).take(WEEK).filter(|cell| cell.get() != 0) {
            cell.set(change(cell.get()));
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(self) {
        self.change(|_| 0);
    }

    /// The largest factor, whatever its sign.
    pub(super) fn most(self) -> u8 {
        let cells = self.factors.iter().step_by(self.step).take(WEEK);
        cells.map(|cell| cell.get().unsigned_abs()).fold(0, u8::max)
    }

    /// Takes over the hours of another series.
    pub(super) fn borrow(self, donor: Week<'_>) {
        for hour in 0..WEEK {
            let factor = donor.factor(hour);
            if factor != self.factor(hour) {
                self.put(hour, factor);
            }
        }
    }

    /// The hours that an observation looks at, counted from the week's first.
    pub fn hours_around(moment: Moment) -> [usize; 2] {
        Place::new(moment.local_s).week.map(usize::from)
    }

    /// Asks memory for the hours around a moment.
    #[inline]
    pub(crate) fn prefetch(self, moment: Moment) {
        for hour in Place::new(moment.local_s).week {
            if let Some(factor) = self.factors.get(usize::from(hour) * self.step) {
                prefetch(factor);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weeks_side_by_side_do_not_touch_and_are_cleared_one_by_one() {
        let (series, mut factors) = (3, [0; 3 * WEEK]);
        let cells = Cell::from_mut(&mut factors[..]).as_slice_of_cells();
        let weeks: [Week<'_>; 3] = core::array::from_fn(|place| Week::among(cells, series, place));
        for hour in 0..WEEK {
            for (place, week) in (0..).zip(weeks) {
                week.put(hour, (hour % 40) as i8 * 3 - place);
            }
        }
        assert_eq!((weeks[1].factor(167), weeks[2].factor(167), weeks[2].most()), (20, 19, 115));
        weeks[0].borrow(weeks[2]);
        weeks[2].clear();
        assert_eq!((weeks[0].most(), weeks[1].most(), weeks[2].most()), (115, 116, 0));
        weeks[1].change(|factor| factor / 2);
        assert_eq!((weeks[0].factor(39), weeks[1].factor(39)), (115, 58));
    }
}
