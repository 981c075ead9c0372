//! Which slot a series has: found by its name, given to a new one, taken from one that fell silent.
//!
//! It must never give a slot that holds another series, nor lose count of an observation that found none. The hard case is
//! a full table: the series that were silent longest go, and until some were silent for long enough, new ones count
//! in the overflow series of their cell.
use vedette_common::{DropReason, Now};

use crate::{
    deviation::Interest,
    intake::{Arrival, Fault},
    key::{DefaultTags, Observation, SeriesName},
    metric,
    observe::Due,
    pipeline::Pipeline,
    table::{NewSeries, Origin},
};

impl Pipeline<'_> {
    /// The slot of a series under a spelling that was not seen before; a new series gets one.
    pub(crate) fn resolve(
        &mut self,
        arrival: &Arrival,
        defaults: &DefaultTags<'_>,
        observation: &Observation<'_>,
        origin: Origin,
        spelling: u64,
    ) -> Result<u32, Fault> {
        let name = SeriesName::new(&self.settings.dimensions, defaults, observation)?;
        let identity = name.identity(self.key);
        let (interest, counter) = metric::look_up(&self.settings.metrics, &name.metric);
        let origin = if counter == Some(true) && origin == Origin::Direct { Origin::Counter } else { origin };
        let place = match self.table.find(identity) {
            // One name for a counter and a gauge, or for StatsD and line protocol, would mix two meanings.
            Some(place) if self.table.slot(place).origin.told() != origin => {
                return Err(DropReason::UnsupportedType.into());
            }
            Some(place) => place,
            None => {
                let place = self.admit(arrival, &name, identity, (origin, interest))?;
                if counter == Some(false) {
                    self.table.slot_mut(place).never_count();
                }
                place
            }
        };
        self.table.respell(place, spelling);
        Ok(place)
    }

    /// Gives a new series a slot, or counts it in the overflow series of its cell.
    fn admit(
        &mut self,
        arrival: &Arrival,
        name: &SeriesName<'_>,
        identity: u128,
        kind: (Origin, Interest),
    ) -> Result<u32, DropReason> {
        let region = self.regions.place(name.cell[0]).ok_or(DropReason::CellLimit)?;
        let cell =
            self.lattice.cell(&mut self.names, name.cell, region).map_err(|_| DropReason::CellLimit)?;
        if self.table.is_full() {
            self.evict(arrival.seen_s());
        }
        let place = self.fill_slot(arrival, name, identity, kind, (cell, region));
        place.ok_or_else(|| {
            self.lattice.cells[cell as usize].overflowed += 1;
            DropReason::SeriesLimit
        })
    }

    fn fill_slot(
        &mut self,
        arrival: &Arrival,
        name: &SeriesName<'_>,
        identity: u128,
        (origin, interest): (Origin, Interest),
        (cell, region): (u32, u8),
    ) -> Option<u32> {
        if self.table.is_full() {
            return None;
        }
        let row = self.lattice.retain(&mut self.names, cell, &name.metric).ok()?;
        let Ok(tags) = self.names.retain(&name.tags) else {
            self.lattice.release(&mut self.names, row);
            return None;
        };
        let seen_s = arrival.seen_s();
        self.table.insert(NewSeries { identity, origin, row, tags, region, seen_s, interest })
    }

    /// Makes room: the series that were silent longest go, if they were silent long enough.
    #[cold]
    fn evict(&mut self, now_s: u32) {
        let Some(cutoff_s) = self.table.eviction_cutoff(now_s, self.settings.silent_ms / 1000) else {
            return;
        };
        for place in 0..self.table.slots() {
            if self.table.is_silent_since(place, cutoff_s) {
                self.remove_series(place);
                self.counts.evicted += 1;
            }
        }
    }

    fn remove_series(&mut self, place: u32) {
        let slot = self.table.remove(place);
        for waiting in slot.pending.into_iter().filter_map(|hint| hint.checked_sub(1)) {
            self.queue.forget_slot(waiting);
        }
        self.lattice.release(&mut self.names, slot.row);
        self.names.release(slot.tags);
    }

    /// Before a window closes: frees cells that nothing uses, and observes how much overflowed in the others.
    pub(crate) fn close_cells(&mut self, now: Now) {
        let (at, window) = (self.windows.last_ms(), self.windows.oldest());
        for cell in 0..self.lattice.cells_reached() {
            if let Some(slot) = self.lattice.free_unused(&mut self.names, cell) {
                let freed = self.table.remove(slot);
                self.names.release(freed.tags);
            }
            let known = &self.lattice.cells[cell as usize];
            if known.is_free() || known.overflowed == 0 && known.overflow_slot().is_none() {
                continue;
            }
            let value = f64::from(core::mem::take(&mut self.lattice.cells[cell as usize].overflowed));
            if let Some(place) = self.overflow_slot(now, cell) {
                self.counts.observed += 1;
                self.score(Due { place, window, at, value, anew: false });
            }
        }
    }

    /// The slot of a cell's overflow series.
    fn overflow_slot(&mut self, now: Now, cell: u32) -> Option<u32> {
        let known = &self.lattice.cells[cell as usize];
        if let Some(slot) = known.overflow_slot() {
            return Some(slot);
        }
        let new = NewSeries {
            // Never looked up, and unlike any hash: a cell has one overflow series.
            identity: u128::from(cell),
            origin: Origin::Overflow,
            row: known.overflow_row,
            tags: self.names.retain("").ok()?,
            region: known.region,
            seen_s: u32::try_from(now.mono.0 / 1000).unwrap_or(u32::MAX),
            interest: Interest::Both,
        };
        let place = self.table.insert(new);
        match place {
            Some(place) => self.lattice.cells[cell as usize].overflow_slot = place,
            None => self.names.release(new.tags),
        }
        place
    }
}
