//! From a value that found its slot to a score, the sums of its window, and a deviation that waits to be told.
//!
//! It must never let a scorer see time run backwards, unless the clock was wrong before, nor score a series twice at once.
//! The hard case is order: values of several series are scored side by side, and each series must still see its own in the
//! order in which they came, and the others, where it borrows from one, as they were then.
use vedette_common::{
    DropReason, WallMs,
    wire::{Course, Fraction, Phase, Scorer},
};

use crate::{
    batch::{self, LANES, Observation},
    counter::Counted,
    intake::Arrival,
    parse::statsd,
    pending::{Pending, Placed},
    pipeline::Pipeline,
    score::{Learning, Moment, Score, Scorers},
    table::Origin,
};

/// Series that are asked for silence when a window closes: a million are gone through in sixteen windows.
const SILENCE_ASKED_MAX: u32 = 65_536;

/// A value that is to be scored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Due {
    /// The slot of its series.
    pub(crate) place: u32,
    /// The window that it counts in.
    pub(crate) window: u8,
    /// When it counts as seen.
    pub(crate) at: WallMs,
    /// The value.
    pub(crate) value: f64,
    /// From here on values mean something else, and the scorers begin anew.
    pub(crate) anew: bool,
}

/// Values of different series that are scored at once.
pub(crate) type Dues = heapless::Vec<Due, LANES>;

impl Pipeline<'_> {
    /// Takes a value of the series at `place`, unless it comes twice or too late; it is to be scored then.
    #[inline]
    pub(crate) fn accept(&mut self, place: u32, arrival: &Arrival, value: f64) -> Result<Due, DropReason> {
        let slot = self.table.slot_mut(place);
        let mut at = arrival.at;
        if at.0 <= slot.last_ms {
            if arrival.stated && at.0 == slot.last_ms {
                return Err(DropReason::Duplicate);
            }
            let latest = arrival.now.wall.plus_ms(i64::from(self.settings.future_ms_max));
            if slot.last_ms <= latest.0 {
                if arrival.stated && slot.last_ms - at.0 > i64::from(self.settings.lateness_ms) {
                    return Err(DropReason::Late);
                }
                // A little late: scored as if it had come with the one before, so that time stands still at worst.
                at = WallMs(slot.last_ms);
            }
            // Else the clock was wrong when the series was last seen, and the right time counts from here on.
        }
        let step_ms = at.0.saturating_sub(slot.last_ms);
        (slot.last_ms, slot.seen_s) = (at.0, arrival.seen_s());
        let (moment, may_count) = (Moment::new(at, self.regions.offset_s(slot.region)), slot.may_count());
        self.table.prefetch_week(place, moment);
        let due = Due { place, window: arrival.window, at, value, anew: false };
        if may_count { self.count(due, step_ms) } else { Ok(due) }
    }

    /// Takes a value of what is a counter, or may turn out to be one.
    fn count(&mut self, due: Due, step_ms: i64) -> Result<Due, DropReason> {
        match self.table.slot_mut(due.place).count(due.value, step_ms) {
            Counted::Value(value) => Ok(Due { value, ..due }),
            Counted::Anew(value) => Ok(Due { value, anew: true, ..due }),
            Counted::Late => Err(DropReason::Late),
            Counted::Start => Err(DropReason::CounterStart),
        }
    }

    /// Lets the scorers of a series begin anew; a deviation that is open ends.
    #[cold]
    fn begin_anew(&mut self, due: &Due) {
        let slot = self.table.slot(due.place);
        let in_event = self.regions.in_event(slot.region, due.at);
        if let Some(course) = slot.deviation.ended(in_event) {
            self.note_deviation(due.place, due.window, course, due.value, &Score::default());
        }
        self.table.begin_anew(due.place);
    }

    /// Puts a value beside others that are due; scores those first when there is no room.
    #[inline]
    pub(crate) fn await_score(&mut self, dues: &mut Dues, due: Due) {
        if dues.is_full() {
            self.score_dues(dues);
        }
        dues.push(due).expect("full ones were emptied just before");
    }

    /// Scores what is due, values of one series in their order.
    #[inline(never)]
    pub(crate) fn score_dues(&mut self, dues: &mut Dues) {
        if dues.is_full() && !dues.iter().any(|due| self.is_apart(due)) {
            let places = core::array::from_fn(|lane| dues[lane].place as usize);
            if !self.score_at(places, dues) {
                self.score_apart(dues);
            }
        } else {
            self.score_apart(dues);
        }
        dues.clear();
    }

    /// Whether a value is to be scored by itself: one with which its series comes to borrow, for how values fall together
    /// must not show; or begins anew.
    #[inline]
    fn is_apart(&self, due: &Due) -> bool {
        due.anew | self.table.slot(due.place).state.will_borrow()
    }

    /// Scores dues that are few, or among which a series stands twice: in parts within which none does.
    #[inline(never)]
    fn score_apart(&mut self, dues: &[Due]) {
        let mut rest = dues;
        while let [first, ..] = rest {
            let again = |at: &usize| rest[..*at].iter().any(|before| before.place == rest[*at].place);
            let ends = |at: &usize| again(at) || self.is_apart(&rest[*at - 1]) || self.is_apart(&rest[*at]);
            let (part, after) = rest.split_at((1..rest.len()).find(ends).unwrap_or(rest.len()));
            let scored =
                part.len() > 1 && self.places(part).is_some_and(|places| self.score_at(places, part));
            if !scored {
                _ = self.score(*first);
            }
            rest = if scored { after } else { &rest[1..] };
        }
    }

    /// The slots of those that are due, and as many others as make up a full batch; `None` if there are not so many.
    fn places(&self, dues: &[Due]) -> Option<[usize; LANES]> {
        if (self.table.slots() as usize) < LANES {
            return None;
        }
        let mut places = [0; LANES];
        let mut other = 0;
        for (lane, place) in places.iter_mut().enumerate() {
            *place = match dues.get(lane) {
                Some(due) => due.place as usize,
                None => {
                    while dues.iter().any(|due| due.place == other) {
                        other += 1;
                    }
                    other += 1;
                    other as usize - 1
                }
            };
        }
        Some(places)
    }

    /// Scores dues at these places; `false` if two are the same, and then nothing was done.
    #[inline]
    fn score_at(&mut self, places: [usize; LANES], dues: &[Due]) -> bool {
        let Some(slots) = self.table.parts(places) else { return false };
        let mut observations: heapless::Vec<Observation<'_>, LANES> = slots
            .into_iter()
            .zip(dues)
            .map(|((slot, week), due)| {
                let in_event = self.regions.in_event(slot.region, due.at);
                let learning = learning(in_event, slot.deviation.is_stuck());
                let moment = Moment::new(due.at, self.regions.offset_s(slot.region));
                let (state, deviation) = (&mut slot.state, &mut slot.deviation);
                Observation { state, week, deviation, moment, value: due.value, learning, in_event }
            })
            .collect();
        let outcomes = batch::observe(&self.settings.deviation, &mut observations);
        drop(observations);
        for (lane, due) in dues.iter().enumerate() {
            let (ready, expected) = outcomes.scores.expected(lane);
            self.sum(due, ready, expected);
            if let Some(course) = outcomes.courses[lane] {
                self.note_deviation(due.place, due.window, course, due.value, &outcomes.scores.score(lane));
            }
        }
        true
    }

    /// Scores one value.
    pub(crate) fn score(&mut self, due: Due) -> Score {
        if due.anew {
            self.begin_anew(&due);
        }
        let [(slot, week)] =
            self.table.parts([due.place as usize]).expect("a place is not another than itself");
        let in_event = self.regions.in_event(slot.region, due.at);
        let learning = learning(in_event, slot.deviation.is_stuck());
        let moment = Moment::new(due.at, self.regions.offset_s(slot.region));
        let (state, deviation) = (&mut slot.state, &mut slot.deviation);
        let one = Observation { state, week, deviation, moment, value: due.value, learning, in_event };
        let outcome = batch::observe_one(&self.settings.deviation, one);
        let score = outcome.scores.score(0);
        self.sum(&due, score.ready, score.expected);
        if let Some(course) = outcome.courses[0] {
            self.note_deviation(due.place, due.window, course, due.value, &score);
        }
        score
    }

    /// Adds a scored value to its window, and lets its series meet others now and then.
    #[inline]
    fn sum(&mut self, due: &Due, ready: bool, expected: f32) {
        let slot = self.table.slot(due.place);
        let meets = slot.state.may_borrow() || slot.state.may_lend();
        let sums = &mut self.lattice.rows[slot.row as usize].sums[usize::from(due.window)];
        sums.seen += 1;
        if ready && !slot.deviation.is_stuck() {
            sums.observed += due.value;
            sums.expected += f64::from(expected);
            sums.count += 1;
        }
        self.windows.mark(due.window);
        self.counts.scored += 1;
        if meets {
            self.meet_cohort(due);
        }
    }

    /// Lets a new series borrow from one of its metric in its cell, and one that has learned offer itself.
    #[cold]
    fn meet_cohort(&mut self, due: &Due) {
        let place = due.place;
        let slot = self.table.slot(place);
        let row = slot.row;
        if slot.state.may_lend() {
            if slot.state.can_lend() && !slot.deviation.is_deviating() {
                self.cohorts.offer(row, place);
            }
            return;
        }
        let Some(lends) = self.cohorts.find(row).filter(|lends| *lends != place) else { return };
        let lender = self.table.slot(lends);
        if lender.row != row || !lender.state.can_lend() {
            return;
        }
        if lender.origin == slot.origin {
            let moment = Moment::new(due.at, self.regions.offset_s(slot.region));
            self.table.borrow(place, lends, moment);
            self.counts.borrowed += 1;
        } else if lender.origin == Origin::LearnedCounter {
            self.table.slot_mut(place).trust_neighbours(Scorers::BORROWS_AT as u16);
        }
    }

    /// At the close of a window, asks the next series of the table whether nothing came from them for too long.
    pub(crate) fn ask_silent(&mut self, window: u8) {
        let now = self.windows.last_ms().plus_ms(1);
        let slots = self.table.slots();
        for _ in 0..slots.min(SILENCE_ASKED_MAX) {
            // When everything falls silent at once, as much as half of the room tells the story.
            if self.queue.len() * 2 > self.settings.deviations_pending_max as usize {
                return;
            }
            self.next_asked = if self.next_asked + 1 < slots { self.next_asked + 1 } else { 0 };
            let slot = self.table.slot_mut(self.next_asked);
            // A StatsD counter has said zero for a while before it stops: that is for the scorers of its values.
            let comes = match slot.origin.told() {
                Origin::Direct | Origin::Counter | Origin::Folded(statsd::Kind::Gauge) => true,
                Origin::Free | Origin::Folded(_) | Origin::Overflow | Origin::LearnedCounter => false,
            };
            if !comes || slot.last_ms >= now.0 {
                continue;
            }
            let in_event = self.regions.in_event(slot.region, now);
            let moment = Moment::new(now, self.regions.offset_s(slot.region));
            let Some(overdue) = slot.deviation.overdue(&self.settings.deviation, moment, in_event) else {
                continue;
            };
            let said = Score { expected: overdue.usual_s, ..Score::default() };
            self.note_deviation(self.next_asked, window, overdue.course, f64::from(overdue.gap_s), &said);
        }
    }

    /// Puts a deviation into the queue, or into what waits there of the same series and window.
    fn note_deviation(&mut self, place: u32, window: u8, course: Course, value: f64, score: &Score) {
        let onset = u64::from(course.phase == Phase::Onset);
        let slot = self.table.slot_mut(place);
        if !slot.deviation.wants(course) {
            self.counts.unwanted += onset;
            return;
        }
        self.counts.onsets += onset;
        // Spread, flat lines and silence are sure of themselves, and have no score of the values.
        let least = if course.scorer == Scorer::Value { 0.0 } else { 0.5 };
        let hint = &mut slot.pending[usize::from(window)];
        let pending = Pending {
            slot: place,
            row: slot.row,
            tags: slot.tags,
            window,
            course,
            onset: slot.deviation.onset(),
            observed: value,
            expected: score.expected,
            score: Fraction::from_f32(score.combined.max(least)),
            forecast: Fraction::from_f32(score.forecast),
            derivative: Fraction::from_f32(score.derivative),
            distribution: Fraction::from_f32(score.distribution),
            shape: slot.deviation.shape(),
        };
        if let Some(waiting) = hint.checked_sub(1) {
            return self.queue.merge(waiting, pending);
        }
        let (row, tags) = (pending.row, pending.tags);
        let waiting = match self.queue.push(pending) {
            Placed::At(waiting) => waiting,
            Placed::Instead(waiting, gone) => {
                self.forget_deviation(&gone);
                waiting
            }
            Placed::Refused => return self.counts.drops.add(DropReason::DeviationLimit, 1),
        };
        self.table.slot_mut(place).pending[usize::from(window)] = waiting + 1;
        self.lattice.retain_row(row);
        self.names.retain_id(tags);
    }

    fn forget_deviation(&mut self, gone: &Pending) {
        self.counts.drops.add(DropReason::DeviationLimit, 1);
        if gone.slot != Pending::EVICTED {
            self.table.slot_mut(gone.slot).pending[usize::from(gone.window)] = 0;
        }
        self.lattice.release(&mut self.names, gone.row);
        self.names.release(gone.tags);
    }
}

/// A value that stands still says nothing of what it measures: it neither teaches nor counts.
fn learning(in_event: bool, stuck: bool) -> Learning {
    if in_event || stuck { Learning::SeasonRests } else { Learning::Normal }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::DefaultTags;
    use crate::parse::{Format, Precision};
    use crate::pipeline::{PipelineMemory, PipelineSettings};
    use std::{format, string::String, vec, vec::Vec};
    use vedette_common::{MonoMs, Now};

    fn pipeline() -> Pipeline<'static> {
        fn leak<T: Clone + Default>(length: usize) -> &'static mut [T] {
            vec![T::default(); length].leak()
        }
        let settings = PipelineSettings { cells_max: 4, metrics_max: 16, ..PipelineSettings::for_series(16) };
        let lengths = settings.lengths();
        let memory = PipelineMemory {
            slots: leak(lengths.slots),
            weeks: leak(lengths.weeks),
            index: leak(lengths.index),
            names: leak(lengths.names),
            name_bytes: leak(lengths.name_bytes),
            cells: leak(lengths.cells),
            rows: leak(lengths.rows),
            pending: leak(lengths.pending),
        };
        Pipeline::new(settings, memory, 1).expect("settings in range")
    }

    /// Feeds the lines of one moment in several reads, ten minutes after those before.
    fn feed(pipeline: &mut Pipeline<'_>, step: i64, reads: &[String]) {
        let now = Now {
            mono: MonoMs(step.unsigned_abs() * 600_000),
            wall: WallMs(1_748_822_400_000 + step * 600_000),
        };
        while pipeline.poll_deadline().is_some_and(|deadline| deadline <= now.wall) {
            pipeline.handle_deadline(now);
            let key = vedette_common::RecordKey {
                boot: vedette_common::BootId(0),
                lane: vedette_common::Lane::RollUps,
                sequence: vedette_common::Sequence(0),
            };
            let mut summary = vedette_common::wire::Summary::new(key, WallMs(0), 10_000);
            while pipeline.poll_summary(&mut summary) {}
        }
        for read in reads {
            let format = Format::LineProtocol(Precision::Milliseconds);
            pipeline.handle_bytes(now, format, &DefaultTags::default(), read.as_bytes());
        }
    }

    #[test]
    fn who_lends_what_does_not_depend_on_how_the_bytes_were_cut() {
        let (mut whole, mut cut) = (pipeline(), pipeline());
        let wave = |step: i64| 1_000 + (step % 144 - 72).abs() * 5 + step * 7 % 11;
        for step in 0..9 * 144 + 30 {
            // The new one comes first, before the value that its lender learns from.
            let new = (step >= 9 * 144).then(|| format!("a,host=new value={}\n", wave(step)));
            let old = (1..=7).map(|host| format!("a,host=old{host} value={}\n", host * wave(step + host)));
            let lines: Vec<String> = new.into_iter().chain(old).collect();
            feed(&mut whole, step, &[lines.concat()]);
            feed(&mut cut, step, &lines);
        }
        assert_eq!((whole.counts.borrowed, cut.counts.borrowed), (1, 1));
        let states = |of: &Pipeline<'_>| -> Vec<String> {
            (0..of.table.slots()).map(|place| format!("{:?}", of.table.slot(place).state)).collect()
        };
        assert!(whole.table.weeks() == cut.table.weeks(), "the hours of one of the weeks differ");
        assert!(states(&whole) == states(&cut), "one of the states differs");
    }
}
