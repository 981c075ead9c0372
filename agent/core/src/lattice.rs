//! The agent's cells and the metrics of each: where observations are summed over a window.
//!
//! It must never keep what no series uses: rows are freed with their last user, cells at the next close of a
//! window. The hard case is that windows overlap while late observations are awaited, so each row sums for two.
use crate::names::{NameId, Names, NamesFull};
use crate::room::{Room, Vacant};

const NONE: u32 = u32::MAX;

/// The metric under which a cell counts observations whose series found no slot.
pub const OVERFLOW_METRIC: &str = "overflow";

/// One region x device x stack. 40 bytes.
#[derive(Clone, Debug)]
pub struct Cell {
    pub(crate) names: [NameId; 3],
    pub(crate) region: u8,
    /// The first of its rows, that of its overflow series among them.
    pub(crate) first_row: u32,
    /// The row of its overflow series; a cell without one is free.
    pub(crate) overflow_row: u32,
    /// The slot of its overflow series, once there was something to count.
    pub(crate) overflow_slot: u32,
    /// Rows that series use.
    rows: u32,
    /// Observations without a slot since the last window closed.
    pub(crate) overflowed: u32,
}

/// One metric of one cell. 64 bytes.
#[derive(Clone, Debug)]
pub struct Row {
    pub(crate) metric: NameId,
    pub(crate) cell: u32,
    /// The next row of the cell, or the next free row.
    pub(crate) next: u32,
    users: u32,
    pub(crate) sums: [Sums; 2],
}

/// What one window saw of a row. 24 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Sums {
    /// Of the observations that had an expectation.
    pub(crate) observed: f64,
    pub(crate) expected: f64,
    pub(crate) count: u32,
    /// All observations, those of series that still learn included.
    pub(crate) seen: u32,
}

impl Cell {
    /// An unused cell: what memory is filled with at start.
    pub const fn free() -> Self {
        let names = [NameId::NONE; 3];
        let none = NONE;
        Self {
            names,
            region: 0,
            first_row: none,
            overflow_row: none,
            overflow_slot: none,
            rows: 0,
            overflowed: 0,
        }
    }

    /// The slot of its overflow series, if it has one.
    pub(crate) fn overflow_slot(&self) -> Option<u32> {
        (self.overflow_slot != NONE).then_some(self.overflow_slot)
    }
}

impl Row {
    /// An unused row.
    pub const fn free() -> Self {
        let none = Sums { observed: 0.0, expected: 0.0, count: 0, seen: 0 };
        Self { metric: NameId::NONE, cell: NONE, next: NONE, users: 0, sums: [none; 2] }
    }
}

impl Default for Cell {
    fn default() -> Self {
        Self::free()
    }
}

impl Default for Row {
    fn default() -> Self {
        Self::free()
    }
}

/// No room for another cell, another row, or one of their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room for another cell or metric")]
pub(crate) struct LatticeFull;

impl From<NamesFull> for LatticeFull {
    fn from(_: NamesFull) -> Self {
        Self
    }
}

/// All cells and rows in use. There are as many rows as metrics are allowed, and one more for each cell.
#[derive(Debug)]
pub(crate) struct Lattice<'m> {
    pub(crate) cells: &'m mut [Cell],
    pub(crate) rows: Room<'m, Row>,
    overflow: NameId,
    /// The first of the rows that are free again; those never used come after them.
    free_row: u32,
    cells_used: u32,
    /// One past the last cell that was ever used.
    cells_reached: u32,
    rows_used: u32,
}

impl<'m> Lattice<'m> {
    /// No cells yet; needs room for one name.
    pub(crate) fn new(
        cells: &'m mut [Cell],
        rows: &'m mut [Vacant<Row>],
        names: &mut Names<'m>,
    ) -> Result<Self, LatticeFull> {
        cells.fill(Cell::free());
        let (rows, overflow) = (Room::new(rows), names.retain(OVERFLOW_METRIC)?);
        Ok(Self { cells, rows, overflow, free_row: NONE, cells_used: 0, cells_reached: 0, rows_used: 0 })
    }

    pub(crate) const fn cells_used(&self) -> u32 {
        self.cells_used
    }

    /// How many cells to walk: those beyond were never used.
    pub(crate) const fn cells_reached(&self) -> u32 {
        self.cells_reached
    }

    /// Rows of metrics, those of overflow series not counted.
    pub(crate) const fn metrics_used(&self) -> u32 {
        self.rows_used - self.cells_used
    }

    /// The cell of these names, added if it is new.
    pub(crate) fn cell(
        &mut self,
        names: &mut Names<'m>,
        cell: [&str; 3],
        region: u8,
    ) -> Result<u32, LatticeFull> {
        if let Some(place) = self.find_cell(names, cell) {
            return Ok(place);
        }
        let place = self.cells.iter().position(Cell::is_free).ok_or(LatticeFull)? as u32;
        let ids = retain_all(names, cell)?;
        self.cells[place as usize] = Cell { names: ids, region, ..Cell::free() };
        self.cells_used += 1;
        self.cells_reached = self.cells_reached.max(place + 1);
        names.retain_id(self.overflow);
        let row = self.add_row(place, self.overflow);
        self.rows[row as usize].users = 1;
        self.cells[place as usize].overflow_row = row;
        Ok(place)
    }

    fn find_cell(&self, names: &Names<'_>, cell: [&str; 3]) -> Option<u32> {
        let [region, device, stack] = cell;
        let wanted = [names.find(region)?, names.find(device)?, names.find(stack)?];
        let matches = |known: &Cell| !known.is_free() && known.names == wanted;
        self.cells.iter().position(matches).map(|place| place as u32)
    }

    /// The row of this metric in a cell, with one user more.
    pub(crate) fn retain(
        &mut self,
        names: &mut Names<'m>,
        cell: u32,
        metric: &str,
    ) -> Result<u32, LatticeFull> {
        let row = match self.find_row(names, cell, metric) {
            Some(row) => row,
            None => {
                // The rows of cells still to come are kept for their overflow series.
                let kept = self.cells.len() as u32 - self.cells_used;
                if self.rows_used + kept >= self.rows.capacity() as u32 {
                    return Err(LatticeFull);
                }
                let metric = names.retain(metric)?;
                self.cells[cell as usize].rows += 1;
                self.add_row(cell, metric)
            }
        };
        self.retain_row(row);
        Ok(row)
    }

    /// One user more of a row that has one.
    pub(crate) fn retain_row(&mut self, row: u32) {
        self.rows[row as usize].users += 1;
    }

    /// One user less; the last one frees the row.
    pub(crate) fn release(&mut self, names: &mut Names<'m>, row: u32) {
        self.rows[row as usize].users -= 1;
        if self.rows[row as usize].users == 0 {
            let cell = self.rows[row as usize].cell;
            self.cells[cell as usize].rows -= 1;
            self.free_row(names, row);
        }
    }

    /// Frees a cell that nothing uses and that overflowed nothing since the last close of a window; gives back
    /// the slot of its overflow series.
    pub(crate) fn free_unused(&mut self, names: &mut Names<'m>, place: u32) -> Option<u32> {
        let cell = &self.cells[place as usize];
        if cell.is_free() || cell.rows > 0 || cell.overflowed > 0 {
            return None;
        }
        let row = cell.overflow_row;
        if self.rows[row as usize].users > 1 {
            return None;
        }
        self.free_row(names, row);
        let freed = core::mem::take(&mut self.cells[place as usize]);
        freed.names.into_iter().for_each(|id| names.release(id));
        self.cells_used -= 1;
        freed.overflow_slot()
    }

    fn free_row(&mut self, names: &mut Names<'m>, row: u32) {
        let freed = core::mem::take(&mut self.rows[row as usize]);
        names.release(freed.metric);
        self.unlink(freed.cell, row, freed.next);
        self.rows[row as usize].next = self.free_row;
        self.free_row = row;
        self.rows_used -= 1;
    }

    fn unlink(&mut self, cell: u32, row: u32, next: u32) {
        let first = &mut self.cells[cell as usize].first_row;
        if *first == row {
            *first = next;
            return;
        }
        let mut at = *first;
        while self.rows[at as usize].next != row {
            at = self.rows[at as usize].next;
        }
        self.rows[at as usize].next = next;
    }

    fn find_row(&self, names: &Names<'_>, cell: u32, metric: &str) -> Option<u32> {
        let metric = names.find(metric)?;
        let home = &self.cells[cell as usize];
        self.rows_from(home.first_row)
            .find(|&row| self.rows[row as usize].metric == metric && row != home.overflow_row)
    }

    /// `row` and those after it in the same cell.
    pub(crate) fn rows_from(&self, row: u32) -> impl Iterator<Item = u32> + '_ {
        let some = |row: u32| (row != NONE).then_some(row);
        core::iter::successors(some(row), move |&row| some(self.rows[row as usize].next))
    }

    /// Links a free row into a cell; the callers see to it that there is one.
    fn add_row(&mut self, cell: u32, metric: NameId) -> u32 {
        let home = &mut self.cells[cell as usize];
        let row = Row { metric, cell, next: home.first_row, ..Row::free() };
        let place = if self.free_row == NONE {
            self.rows.push(row).expect("there is a row for every metric and cell that is let in") as u32
        } else {
            let place = self.free_row;
            self.free_row = core::mem::replace(&mut self.rows[place as usize], row).next;
            place
        };
        home.first_row = place;
        self.rows_used += 1;
        place
    }
}

impl Cell {
    pub(crate) const fn is_free(&self) -> bool {
        self.overflow_row == NONE
    }
}

/// One user more for each of three names, or for none.
fn retain_all(names: &mut Names<'_>, texts: [&str; 3]) -> Result<[NameId; 3], LatticeFull> {
    let mut ids = [NameId::NONE; 3];
    for (index, text) in texts.into_iter().enumerate() {
        match names.retain(text) {
            Ok(id) => ids[index] = id,
            Err(full) => {
                ids[..index].iter().for_each(|&id| names.release(id));
                return Err(full.into());
            }
        }
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::HashKey;

    #[test]
    fn cells_and_rows_come_and_go_with_their_users() {
        let (mut arena, mut entries, mut index) = ([0; 256], [const { Vacant::new() }; 16], [0; 32]);
        let mut names = Names::new(HashKey::new(1), &mut arena, &mut entries, &mut index);
        let (mut cells, mut rows) = ([Cell::free(), Cell::free()], [const { Vacant::new() }; 4]);
        let mut lattice = Lattice::new(&mut cells, &mut rows, &mut names).unwrap();
        let uk = lattice.cell(&mut names, ["uk", "tv", "a"], 0).unwrap();
        let de = lattice.cell(&mut names, ["de", "tv", "a"], 1).unwrap();
        assert_eq!(lattice.cell(&mut names, ["uk", "tv", "a"], 0), Ok(uk));
        assert_eq!(lattice.cell(&mut names, ["fr", "tv", "a"], 2), Err(LatticeFull));
        let cpu = lattice.retain(&mut names, uk, "cpu").unwrap();
        assert_eq!(lattice.retain(&mut names, uk, "cpu"), Ok(cpu));
        let load = lattice.retain(&mut names, de, "load").unwrap();
        assert_eq!(lattice.retain(&mut names, de, "disk"), Err(LatticeFull));
        assert_eq!((lattice.cells_used(), lattice.metrics_used()), (2, 2));
        lattice.release(&mut names, cpu);
        assert_eq!(lattice.free_unused(&mut names, uk), None);
        lattice.release(&mut names, cpu);
        lattice.free_unused(&mut names, uk);
        assert!(lattice.cells[uk as usize].is_free() && names.find("uk").is_none());
        assert_eq!(lattice.rows_from(lattice.cells[de as usize].first_row).count(), 2);
        lattice.release(&mut names, load);
        assert_eq!((lattice.cells_used(), lattice.metrics_used()), (1, 0));
    }
}
