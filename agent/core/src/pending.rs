//! Deviations that wait for their window to close.
//!
//! It must never say one series twice in one window: what comes later in the window is merged. The hard case is
//! a storm with more deviations than room: ongoing ones give way first, because the next window repeats them.
use vedette_common::{
    WallMs,
    wire::{Course, Fraction, Phase, Shape},
};

use crate::names::NameId;
use crate::room::{Room, Vacant};

/// One deviation of one series in one window. 56 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    pub(crate) slot: u32,
    pub(crate) row: u32,
    pub(crate) tags: NameId,
    /// Which of the two open windows it belongs to.
    pub(crate) window: u8,
    pub(crate) course: Course,
    pub(crate) onset: WallMs,
    pub(crate) observed: f64,
    pub(crate) expected: f32,
    /// The largest of each in the window.
    pub(crate) score: Fraction,
    pub(crate) forecast: Fraction,
    pub(crate) derivative: Fraction,
    pub(crate) distribution: Fraction,
    pub(crate) shape: Shape,
}

impl Default for Pending {
    fn default() -> Self {
        use vedette_common::wire::{Direction, Scorer};
        Self {
            slot: 0,
            row: 0,
            tags: NameId::NONE,
            window: 0,
            course: Course {
                phase: Phase::Ongoing,
                direction: Direction::Up,
                in_event: false,
                scorer: Scorer::Value,
            },
            onset: WallMs(0),
            observed: 0.0,
            expected: 0.0,
            score: Fraction(0),
            forecast: Fraction(0),
            derivative: Fraction(0),
            distribution: Fraction(0),
            shape: Shape::default(),
        }
    }
}

impl Pending {
    /// Stands in the place of a slot that its series has lost.
    pub(crate) const EVICTED: u32 = u32::MAX;

    /// Takes what came later in the same window: the latest values, the largest scores, and an onset stays one.
    pub(crate) fn merge(&mut self, later: Self) {
        let stays = self.course.phase == Phase::Onset && later.course.phase == Phase::Ongoing;
        let phase = if stays { Phase::Onset } else { later.course.phase };
        *self = Self {
            course: Course { phase, ..later.course },
            score: self.score.max(later.score),
            forecast: self.forecast.max(later.forecast),
            derivative: self.derivative.max(later.derivative),
            distribution: self.distribution.max(later.distribution),
            ..later
        };
    }
}

/// What became of a deviation that was handed over.
#[derive(Debug)]
pub(crate) enum Placed {
    /// It waits here.
    At(u16),
    /// It waits here, in the place of this one, which is dropped.
    Instead(u16, Pending),
    /// There is no room and nothing may give way.
    Refused,
}

/// The deviations that wait, in the order of their coming as long as there is room.
#[derive(Debug)]
pub(crate) struct Queue<'m> {
    waiting: Room<'m, Pending>,
    length: usize,
    ongoing: usize,
    /// Where the search for one that gives way goes on, so that a storm costs one step each.
    search: usize,
}

impl<'m> Queue<'m> {
    pub(crate) fn new(waiting: &'m mut [Vacant<Pending>]) -> Self {
        Self { waiting: Room::new(waiting), length: 0, ongoing: 0, search: 0 }
    }

    pub(crate) const fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn get(&self, place: usize) -> Option<&Pending> {
        self.waiting[..self.length].get(place)
    }

    /// Changes the one at `place`.
    pub(crate) fn merge(&mut self, place: u16, later: Pending) {
        let known = &mut self.waiting[usize::from(place)];
        self.ongoing -= usize::from(known.course.phase == Phase::Ongoing);
        known.merge(later);
        self.ongoing += usize::from(known.course.phase == Phase::Ongoing);
    }

    /// The series of the one at `place` lost its slot.
    pub(crate) fn forget_slot(&mut self, place: u16) {
        self.waiting[usize::from(place)].slot = Pending::EVICTED;
    }

    /// Adds one.
    pub(crate) fn push(&mut self, new: Pending) -> Placed {
        let is_ongoing = new.course.phase == Phase::Ongoing;
        if self.length < self.waiting.capacity() {
            match self.waiting.get_mut(self.length) {
                Some(place) => *place = new,
                None => _ = self.waiting.push(new),
            }
            self.length += 1;
            self.ongoing += usize::from(is_ongoing);
            return Placed::At((self.length - 1) as u16);
        }
        if self.ongoing == 0 {
            return Placed::Refused;
        }
        while self.waiting[self.search % self.length].course.phase != Phase::Ongoing {
            self.search += 1;
        }
        let place = self.search % self.length;
        self.search = place + 1;
        self.ongoing -= usize::from(!is_ongoing);
        Placed::Instead(place as u16, core::mem::replace(&mut self.waiting[place], new))
    }

    /// Removes those of `window`. Tells `settled` of each where it stands now, `None` for the removed.
    pub(crate) fn close(&mut self, window: u8, mut settled: impl FnMut(&Pending, Option<u16>)) {
        let mut kept = 0;
        for place in 0..self.length {
            if self.waiting[place].window == window {
                settled(&self.waiting[place], None);
            } else {
                self.waiting.swap(kept, place);
                settled(&self.waiting[kept], Some(kept as u16));
                kept += 1;
            }
        }
        self.length = kept;
        self.ongoing = self.waiting[..kept].iter().filter(|one| one.course.phase == Phase::Ongoing).count();
        self.search = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{vec, vec::Vec};

    fn pending(slot: u32, phase: Phase) -> Pending {
        let course = Course { phase, ..Pending::default().course };
        Pending { slot, course, score: Fraction(slot as u8), ..Pending::default() }
    }

    #[test]
    fn an_onset_stays_one_and_scores_only_rise_within_a_window() {
        let mut one = Pending { score: Fraction(200), ..pending(1, Phase::Onset) };
        one.merge(Pending { observed: 5.0, ..pending(1, Phase::Ongoing) });
        assert_eq!((one.course.phase, one.score, one.observed), (Phase::Onset, Fraction(200), 5.0));
        one.merge(pending(1, Phase::Ended));
        assert_eq!(one.course.phase, Phase::Ended);
    }

    #[test]
    fn ongoing_ones_give_way_and_onsets_never() {
        let mut memory = vec![Vacant::new(); 3];
        let mut queue = Queue::new(&mut memory);
        for (slot, phase) in [(0, Phase::Onset), (1, Phase::Ongoing), (2, Phase::Ongoing)] {
            assert!(
                matches!(queue.push(pending(slot, phase)), Placed::At(place) if u32::from(place) == slot)
            );
        }
        for expected in [1, 2] {
            let placed = queue.push(pending(9, Phase::Onset));
            assert!(matches!(placed, Placed::Instead(_, gone) if gone.slot == expected));
        }
        assert!(matches!(queue.push(pending(9, Phase::Ongoing)), Placed::Refused));
        assert!(matches!(queue.push(pending(9, Phase::Onset)), Placed::Refused));
    }

    #[test]
    fn closing_a_window_keeps_the_other() {
        let mut memory = vec![Vacant::new(); 8];
        let mut queue = Queue::new(&mut memory);
        for slot in 0..6 {
            queue.push(Pending { window: (slot % 2) as u8, ..pending(slot, Phase::Onset) });
        }
        let mut settled = Vec::new();
        queue.close(0, |one, place| settled.push((one.slot, place)));
        assert_eq!(settled, [(0, None), (1, Some(0)), (2, None), (3, Some(1)), (4, None), (5, Some(2))]);
        assert_eq!(queue.len(), 3);
    }
}
