//! The series table: a fixed number of slots, found by the spelling of a series or by its identity.
//!
//! It must never grow: a full table first gives up the series that were silent longest, and then refuses. The
//! hard case is speed: a line whose spelling was seen before costs one hash, one probe and one slot, without
//! looking into its tags; only a new spelling is parsed and brought into canonical form. A spelling is
//! recognised by a keyed 64-bit hash: that two of a million are equal by chance has a probability of 3 in 10^8.
use core::cell::Cell;

use crate::{
    deviation::{DeviationState, Interest},
    index::{self, Index},
    names::NameId,
    parse::statsd,
    prefetch::prefetch,
    room::{Room, Vacant},
    score::{Moment, Scorers, WEEK, Week},
};

/// No place in the table.
pub(crate) const NO_PLACE: u32 = u32::MAX;
/// Silence is measured in this many steps to find who was silent longest.
const SILENCE_STEPS: usize = 64;

/// Bytes of one series: identity and accumulators (64), the life of a deviation, the scorers' state and the hours of its
/// week.
pub const SLOT_BYTES: usize = size_of::<Slot>() + WEEK;

/// Where the values of a series come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nowhere: the slot is free.
    #[default]
    Free,
    /// Each observation is scored as it comes.
    Direct,
    /// Values of a counter: the rate since the one before is scored; `sum` is that one, if `weight` is not 0.
    Counter,
    /// Values that turned out to be those of a counter, see `counter.rs`.
    LearnedCounter,
    /// StatsD: folded over an interval, then observed once.
    Folded(statsd::Kind),
    /// The series of a cell that counts what found no slot.
    Overflow,
}

impl Origin {
    /// As it was told; what a counter turned out to be, nobody told.
    pub(crate) const fn told(self) -> Self {
        if matches!(self, Self::LearnedCounter) { Self::Direct } else { self }
    }
}

/// Bytes of the hours of the weeks of so many slots.
pub const fn weeks_for(slots: usize) -> usize {
    slots * WEEK
}

/// Everything that is kept for one series but the hours of its week. Plain data; what an observation touches lies together.
#[repr(C)]
#[derive(Clone, Debug)]
pub struct Slot {
    pub(crate) state: Scorers,
    pub(crate) deviation: DeviationState,
    spelling: u64,
    /// Event time of the latest observation.
    pub(crate) last_ms: i64,
    /// Monotonic seconds of the latest arrival.
    pub(crate) seen_s: u32,
    /// Its cell and metric; the next free slot while free.
    pub(crate) row: u32,
    pub(crate) tags: NameId,
    /// Where its deviation waits for each of the two open windows, plus one.
    pub(crate) pending: [u16; 2],
    /// What StatsD folded since the last flush; a weight of 0 says nothing came.
    pub(crate) sum: f64,
    pub(crate) weight: f32,
    /// Flushes since something came; of what is not StatsD's, how much speaks for a counter, see `counter.rs`.
    pub(crate) quiet_flushes: u16,
    pub(crate) region: u8,
    pub(crate) origin: Origin,
    identity: [u64; 2],
}

impl Slot {
    /// A free slot.
    pub const fn free() -> Self {
        Self {
            identity: [0; 2],
            spelling: 0,
            last_ms: i64::MIN,
            seen_s: 0,
            row: NO_PLACE,
            tags: NameId::NONE,
            pending: [0; 2],
            sum: 0.0,
            weight: 0.0,
            quiet_flushes: 0,
            region: 0,
            origin: Origin::Free,
            deviation: DeviationState::new(Interest::Both),
            state: Scorers::free(),
        }
    }

    fn is_identity(&self, identity: u128) -> bool {
        self.identity == halves(identity)
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self::free()
    }
}

const fn halves(identity: u128) -> [u64; 2] {
    [identity as u64, (identity >> 64) as u64]
}

/// What a new series brings to its slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewSeries {
    pub(crate) identity: u128,
    pub(crate) origin: Origin,
    pub(crate) row: u32,
    pub(crate) tags: NameId,
    pub(crate) region: u8,
    pub(crate) seen_s: u32,
    pub(crate) interest: Interest,
}

/// The slots and the two ways to them.
#[derive(Debug)]
pub struct SeriesTable<'m> {
    slots: Room<'m, Slot>,
    /// The hours of the week of every slot; those of one hour stand together.
    weeks: &'m mut [i8],
    by_identity: Index<'m>,
    by_spelling: Index<'m>,
    /// The first of the slots that are free again; those never used come after them.
    free: u32,
    series_max: u32,
    series: u32,
    folded: u32,
    /// Before this second nothing can have been silent long enough.
    nothing_silent_before_s: u32,
}

impl<'m> SeriesTable<'m> {
    /// An empty table for `series_max` series; the slots beyond those are kept for overflow series. `weeks` has
    /// [`weeks_for`] as many zeros. Each index needs [`index::cells_for`] as many cells as there are slots.
    pub fn new(
        slots: &'m mut [Vacant<Slot>],
        weeks: &'m mut [i8],
        identities: &'m mut [u32],
        spellings: &'m mut [u32],
        series_max: u32,
    ) -> Self {
        debug_assert!(
            slots.len() <= index::POSITIONS_MAX && identities.len() >= index::cells_for(slots.len())
        );
        Self {
            free: NO_PLACE,
            slots: Room::new(slots),
            weeks,
            by_identity: Index::new(identities),
            by_spelling: Index::new(spellings),
            series_max,
            series: 0,
            folded: 0,
            nothing_silent_before_s: 0,
        }
    }

    /// How many series have a slot, overflow series not counted.
    pub const fn series(&self) -> u32 {
        self.series
    }

    /// How many of them are folded by StatsD.
    pub(crate) const fn folded(&self) -> u32 {
        self.folded
    }

    /// How many slots to walk: those beyond were never used, however many there are.
    pub(crate) fn slots(&self) -> u32 {
        self.slots.len() as u32
    }

    pub(crate) fn slot(&self, place: u32) -> &Slot {
        &self.slots[place as usize]
    }

    #[inline]
    pub(crate) fn slot_mut(&mut self, place: u32) -> &mut Slot {
        &mut self.slots[place as usize]
    }

    /// Several slots at once, with the hours of their weeks; `None` unless they are different ones.
    #[inline]
    pub(crate) fn parts<const N: usize>(&mut self, places: [usize; N]) -> Option<[(&mut Slot, Week<'_>); N]> {
        let (series, weeks) = (self.slots.capacity(), Cell::from_mut(&mut *self.weeks).as_slice_of_cells());
        let slots = self.slots.get_disjoint_mut(places).ok()?;
        let mut at = places.into_iter();
        Some(slots.map(|slot| (slot, Week::among(weeks, series, at.next().unwrap_or_default()))))
    }

    /// The hours of the weeks of all slots.
    #[cfg(test)]
    pub(crate) fn weeks(&self) -> &[i8] {
        self.weeks
    }

    /// The hours of the week of the slot at `place`.
    fn week(&mut self, place: u32) -> Week<'_> {
        let series = self.slots.capacity();
        Week::among(Cell::from_mut(&mut *self.weeks).as_slice_of_cells(), series, place as usize)
    }

    /// Scorers that have seen nothing.
    pub(crate) fn begin_anew(&mut self, place: u32) {
        self.week(place).clear();
        let slot = self.slot_mut(place);
        slot.deviation.begin_anew();
        slot.state = Scorers::new(slot.identity[0] as u32);
    }

    /// Lets the series at `place` take over the seasons of the one at `lender`.
    #[cold]
    pub(crate) fn borrow(&mut self, place: u32, lender: u32, moment: Moment) {
        let Some([(slot, week), (donor, theirs)]) = self.parts([place as usize, lender as usize]) else {
            return;
        };
        slot.state.borrow(week, (&donor.state, theirs), moment);
    }

    /// Asks memory for the hours of the week around a moment.
    #[inline]
    pub(crate) fn prefetch_week(&mut self, place: u32, moment: Moment) {
        self.week(place).prefetch(moment);
    }

    /// The slot whose latest spelling has this hash.
    #[inline]
    pub(crate) fn find_spelling(&self, spelling: u64) -> Option<u32> {
        self.by_spelling.find(spelling, |place| self.slots[place as usize].spelling == spelling)
    }

    /// Asks memory for where the search for a spelling begins.
    #[inline]
    pub(crate) fn prefetch_spelling(&self, spelling: u64) {
        self.by_spelling.prefetch(spelling);
    }

    /// Asks memory for the slot that most likely has this spelling, without looking into it; [`NO_PLACE`] if none has.
    #[inline]
    pub(crate) fn prefetch_slot(&self, spelling: u64) -> u32 {
        let hint = self.by_spelling.find(spelling, |_| true).unwrap_or(NO_PLACE);
        if let Some(slot) = self.slots.get(hint as usize) {
            prefetch(slot);
        }
        hint
    }

    /// The slot whose latest spelling has this hash, when it most likely is the one at `hint`.
    #[inline]
    pub(crate) fn find_spelling_near(&self, hint: u32, spelling: u64) -> Option<u32> {
        match self.slots.get(hint as usize) {
            Some(slot) if slot.spelling == spelling => Some(hint),
            _ => self.find_spelling(spelling),
        }
    }

    /// The slot of this identity.
    pub(crate) fn find(&self, identity: u128) -> Option<u32> {
        self.by_identity.find(identity as u64, |place| self.slots[place as usize].is_identity(identity))
    }

    /// Remembers the spelling under which a series came; it takes the place of the one before.
    pub(crate) fn respell(&mut self, place: u32, spelling: u64) {
        self.forget_spelling(place);
        if spelling != 0 {
            self.slots[place as usize].spelling = spelling;
            self.by_spelling.insert(spelling, place);
        }
    }

    fn forget_spelling(&mut self, place: u32) {
        let known = core::mem::take(&mut self.slots[place as usize].spelling);
        if known != 0 {
            let slots = &*self.slots;
            self.by_spelling.remove(known, place, |other| slots[other as usize].spelling);
        }
    }

    /// Whether an ordinary series still finds a slot.
    pub(crate) fn is_full(&self) -> bool {
        self.series >= self.series_max || self.is_used_up()
    }

    /// Whether no slot is free.
    fn is_used_up(&self) -> bool {
        self.free == NO_PLACE && self.slots.len() == self.slots.capacity()
    }

    /// Gives a series a slot; `None` when there is none left.
    pub(crate) fn insert(&mut self, new: NewSeries) -> Option<u32> {
        let ordinary = new.origin != Origin::Overflow;
        if ordinary && self.is_full() {
            return None;
        }
        let place = self.take_free()?;
        let identity = halves(new.identity);
        let slot = &mut self.slots[place as usize];
        *slot = Slot { identity, row: new.row, tags: new.tags, region: new.region, ..Slot::free() };
        slot.origin = new.origin;
        slot.deviation = DeviationState::new(new.interest);
        slot.seen_s = new.seen_s;
        slot.state = Scorers::new(identity[0] as u32);
        self.by_identity.insert(identity[0], place);
        self.series += u32::from(ordinary);
        self.folded += u32::from(matches!(new.origin, Origin::Folded(_)));
        Some(place)
    }

    /// A slot that nothing uses, the hours of its week clear.
    fn take_free(&mut self) -> Option<u32> {
        if self.free == NO_PLACE {
            // One that was never used has no hours yet, and no memory of them is touched before it has some.
            return self.slots.push(Slot::free()).map(|place| place as u32);
        }
        let place = self.free;
        self.free = self.slot(place).row;
        self.week(place).clear();
        Some(place)
    }

    /// Frees a slot and gives back what it held.
    pub(crate) fn remove(&mut self, place: u32) -> Slot {
        self.forget_spelling(place);
        let slots = &*self.slots;
        let identity = slots[place as usize].identity[0];
        self.by_identity.remove(identity, place, |other| slots[other as usize].identity[0]);
        let free = Slot { row: self.free, ..Slot::free() };
        let slot = core::mem::replace(&mut self.slots[place as usize], free);
        self.free = place;
        self.series -= u32::from(slot.origin != Origin::Overflow);
        self.folded -= u32::from(matches!(slot.origin, Origin::Folded(_)));
        slot
    }

    /// The second of arrival up to which series are to be evicted, so that about a sixteenth of the table
    /// becomes free, the longest silent first; `None` when nobody was silent for `silent_s`.
    ///
    /// Two passes over the slots; skipped as long as an earlier pass proves that there is nothing to find.
    pub(crate) fn eviction_cutoff(&mut self, now_s: u32, silent_s: u32) -> Option<u32> {
        if now_s < self.nothing_silent_before_s {
            return None;
        }
        let seen = || self.slots.iter().filter(|slot| is_evictable(slot)).map(|slot| slot.seen_s);
        let oldest_s = seen().min()?;
        let newest_s = now_s.saturating_sub(silent_s);
        if now_s < silent_s || oldest_s > newest_s {
            self.nothing_silent_before_s = oldest_s.saturating_add(silent_s);
            return None;
        }
        let step_s = (newest_s - oldest_s) / SILENCE_STEPS as u32 + 1;
        let mut counts = [0u32; SILENCE_STEPS];
        for seen_s in seen().filter(|&seen_s| seen_s <= newest_s) {
            counts[((seen_s - oldest_s) / step_s) as usize] += 1;
        }
        let wanted = self.series_max / 16 + 1;
        let mut found = 0;
        let enough = counts.iter().position(|&count| {
            found += count;
            found >= wanted
        });
        let steps = enough.map_or(SILENCE_STEPS, |place| place + 1) as u32;
        Some((oldest_s + (steps * step_s - 1)).min(newest_s))
    }

    /// Whether the series at `place` may be evicted and was last heard of at `cutoff_s` or before.
    pub(crate) fn is_silent_since(&self, place: u32, cutoff_s: u32) -> bool {
        let slot = self.slot(place);
        is_evictable(slot) && slot.seen_s <= cutoff_s
    }
}

fn is_evictable(slot: &Slot) -> bool {
    !matches!(slot.origin, Origin::Free | Origin::Overflow)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    fn new(identity: u128, seen_s: u32) -> NewSeries {
        NewSeries {
            identity,
            origin: Origin::Direct,
            row: 7,
            tags: NameId::NONE,
            region: 0,
            seen_s,
            interest: Interest::Both,
        }
    }

    fn with_table(series_max: u32, test: impl FnOnce(&mut SeriesTable<'_>)) {
        let slots = series_max as usize + 2;
        let (mut memory, mut weeks) = (vec![Vacant::new(); slots], vec![0; weeks_for(slots)]);
        let (mut a, mut b) = (vec![0; index::cells_for(slots)], vec![0; index::cells_for(slots)]);
        test(&mut SeriesTable::new(&mut memory, &mut weeks, &mut a, &mut b, series_max));
    }

    #[test]
    fn a_series_is_found_by_identity_and_by_its_latest_spelling() {
        with_table(8, |table| {
            let place = table.insert(new(5 << 64 | 9, 0)).unwrap();
            let other = table.insert(new(6 << 64 | 9, 0)).unwrap();
            assert_eq!(table.find(5 << 64 | 9), Some(place));
            assert_eq!(table.find(6 << 64 | 9), Some(other));
            table.respell(place, 77);
            assert_eq!(table.find_spelling(77), Some(place));
            table.respell(place, 78);
            assert_eq!((table.find_spelling(77), table.find_spelling(78)), (None, Some(place)));
            table.remove(place);
            assert_eq!((table.find(5 << 64 | 9), table.find_spelling(78)), (None, None));
            assert_eq!(table.find(6 << 64 | 9), Some(other));
        });
    }

    #[test]
    fn a_series_in_the_place_of_another_has_no_hours_yet() {
        with_table(2, |table| {
            let place = table.insert(new(1, 0)).unwrap();
            let other = table.insert(new(2, 0)).unwrap();
            for place in [place, other] {
                table.weeks[place as usize + 3 * table.slots.capacity()] = 7;
            }
            table.remove(place);
            assert_eq!(table.insert(new(3, 0)), Some(place));
            assert_eq!(table.weeks.iter().map(|factor| i32::from(*factor)).sum::<i32>(), 7);
        });
    }

    #[test]
    fn a_full_table_refuses_and_still_has_room_for_overflow() {
        with_table(3, |table| {
            for identity in 0..3 {
                assert!(table.insert(new(identity, 0)).is_some());
            }
            assert!(table.insert(new(3, 0)).is_none());
            let overflow = NewSeries { origin: Origin::Overflow, ..new(4, 0) };
            assert!(table.insert(overflow).is_some());
            assert_eq!(table.series(), 3);
        });
    }

    #[test]
    fn the_longest_silent_go_first() {
        with_table(100, |table| {
            for identity in 0..100u32 {
                table.insert(new(u128::from(identity), identity * 10));
            }
            assert_eq!(table.eviction_cutoff(1000, 2000), None);
            assert_eq!(table.eviction_cutoff(1000, 2000), None, "proved by the first pass");
            let cutoff = table.eviction_cutoff(2500, 2000).unwrap();
            let silent = (0..100).filter(|&place| table.is_silent_since(place, cutoff)).count();
            assert!((7..20).contains(&silent), "{silent} of 51 candidates");
            assert!(table.is_silent_since(0, cutoff) && !table.is_silent_since(51, cutoff));
        });
    }
}
