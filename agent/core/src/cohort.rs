//! Cohorts: which series can lend its seasons to a new one of the same metric in the same cell.
//!
//! It must never hold more than a fixed number of places, nor anything of a series itself: a lender is looked up where it
//! lives, and refused if somebody else lives there by now. The hard case is that places are reused, slots and rows
//! alike: whoever stands in the slot has to be of the row that asks.

/// Lenders remembered; rows that share a place take turns.
const LENDERS_MAX: usize = 256;

/// One lender for each of the latest rows that had one. 2 KiB.
#[derive(Clone, Debug)]
pub(crate) struct Cohorts {
    /// Row and slot.
    lenders: [(u32, u32); LENDERS_MAX],
}

impl Cohorts {
    pub(crate) const fn new() -> Self {
        Self { lenders: [(u32::MAX, 0); LENDERS_MAX] }
    }

    /// `slot` is of `row` and can lend.
    pub(crate) fn offer(&mut self, row: u32, slot: u32) {
        self.lenders[row as usize % LENDERS_MAX] = (row, slot);
    }

    /// The slot that could lend to one of `row`, if it still is what it was.
    pub(crate) fn find(&self, row: u32) -> Option<u32> {
        let (of, slot) = self.lenders[row as usize % LENDERS_MAX];
        (of == row).then_some(slot)
    }
}
