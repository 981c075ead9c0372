//! Windows of event time, and the summaries that they close into.
//!
//! It must never lose a roll-up or a deviation silently, nor exceed a limit of the wire: what does not fit one
//! summary goes into the next. The hard case is that two windows are open at once, the oldest still waiting
//! for late observations; it closes on the clock alone, so that a silent agent still says that it watched.
use vedette_common::{
    Now, WallMs,
    wire::{CellName, Deviation, F24, NO_TAGS, RollUp, StringsFull, Summary},
};

use crate::{
    lattice::{Lattice, Sums},
    names::Names,
    pending::Pending,
    pipeline::Pipeline,
};

/// A gap of more than this many empty windows is not summarised window by window: the clock jumped.
const EMPTY_WINDOWS_MAX: i64 = 16;

/// How far the closing window has been handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cursor {
    /// Deviations come next, from this place of the queue.
    Deviations(usize),
    /// Roll-ups come next: this cell, after this many of its rows; whether a summary was already made.
    RollUps { cell: u32, rows_done: u32, said: bool },
}

/// The two open windows.
#[derive(Debug)]
pub(crate) struct Windows {
    window_ms: u32,
    lateness_ms: u32,
    /// Where the older one begins.
    start: Option<WallMs>,
    /// Which of the two sums belongs to the older one.
    front: u8,
    seen: [bool; 2],
    closing: Option<Cursor>,
}

impl Windows {
    pub(crate) fn new(window_ms: u32, lateness_ms: u32) -> Self {
        Self { window_ms, lateness_ms, start: None, front: 0, seen: [false; 2], closing: None }
    }

    fn first_start(&self, now: Now) -> WallMs {
        now.wall.plus_ms(-i64::from(self.lateness_ms)).window_start(self.window_ms)
    }

    /// Opens the windows at the first input, and again when the clock was set back by more than both of them.
    pub(crate) fn open(&mut self, now: Now) {
        let width = i64::from(self.window_ms);
        let is_lost = self.start.is_none_or(|start| now.wall < start.plus_ms(-2 * width));
        if is_lost && self.closing.is_none() {
            self.start = Some(self.first_start(now));
        }
    }

    /// The window of an event time; `None` when it has closed. What lies beyond both counts into the newer one.
    #[inline]
    pub(crate) fn place(&self, at: WallMs) -> Option<u8> {
        let start = self.start?;
        if at >= start.plus_ms(i64::from(self.window_ms)) {
            Some(self.front ^ 1)
        } else if at >= start && self.closing.is_none() {
            Some(self.front)
        } else {
            None
        }
    }

    /// The oldest window that still takes observations.
    pub(crate) fn oldest(&self) -> u8 {
        if self.closing.is_some() { self.front ^ 1 } else { self.front }
    }

    #[inline]
    pub(crate) fn mark(&mut self, window: u8) {
        self.seen[usize::from(window)] = true;
    }

    /// When the older window closes.
    pub(crate) fn poll_deadline(&self) -> Option<WallMs> {
        Some(self.start?.plus_ms(i64::from(self.window_ms) + i64::from(self.lateness_ms)))
    }

    /// Whether the older window is to be closed now; leaps over a long run of empty ones.
    pub(crate) fn is_due(&mut self, now: Now) -> bool {
        let Some(deadline) = self.poll_deadline() else { return false };
        if self.closing.is_some() || now.wall < deadline {
            return false;
        }
        let behind_ms = now.wall.ms_since(deadline);
        if self.seen == [false; 2] && behind_ms > EMPTY_WINDOWS_MAX * i64::from(self.window_ms) {
            self.start = Some(self.first_start(now));
            return false;
        }
        true
    }

    /// The last millisecond of the older window.
    pub(crate) fn last_ms(&self) -> WallMs {
        self.end().plus_ms(-1)
    }

    fn end(&self) -> WallMs {
        self.start.unwrap_or_default().plus_ms(i64::from(self.window_ms))
    }

    pub(crate) fn close(&mut self) {
        self.closing = Some(Cursor::Deviations(0));
    }

    fn advance(&mut self) {
        self.start = Some(self.end());
        self.seen[usize::from(self.front)] = false;
        self.front ^= 1;
        self.closing = None;
    }
}

impl Pipeline<'_> {
    /// Fills `out` with the next part of the window that [`handle_deadline`](Self::handle_deadline) closed and
    /// returns `true`; `false` when all of it is handed out. Deviations come first, in summaries of their own, then
    /// roll-ups in at least one summary, even an empty one, which says that the window was watched. The caller
    /// sets `out.key`.
    pub fn poll_summary(&mut self, out: &mut Summary) -> bool {
        let Some(start) = self.windows.start else { return false };
        clear(out, start, self.windows.window_ms);
        while let Some(cursor) = self.windows.closing {
            match cursor {
                Cursor::Deviations(from) => {
                    let next = self.write_deviations(from, out);
                    self.windows.closing = Some(Cursor::Deviations(next));
                    if next == self.queue.len() {
                        self.close_deviations();
                        self.windows.closing = Some(Cursor::RollUps { cell: 0, rows_done: 0, said: false });
                    }
                    if !out.deviations.is_empty() {
                        return true;
                    }
                }
                Cursor::RollUps { said, .. } => {
                    self.write_roll_ups(out);
                    if !said || !out.roll_ups.is_empty() {
                        return true;
                    }
                }
            }
        }
        false
    }

    /// Writes deviations of the closing window from a place of the queue on; returns where it stopped.
    fn write_deviations(&self, from: usize, out: &mut Summary) -> usize {
        let (front, end) = (self.windows.front, self.windows.end());
        let mut place = from;
        while let Some(pending) = self.queue.get(place) {
            if pending.window == front
                && write_deviation(&self.lattice, &self.names, pending, end, out).is_err()
            {
                break;
            }
            place += 1;
        }
        place
    }

    /// Takes the closing window's deviations out of the queue.
    fn close_deviations(&mut self) {
        let Self { queue, table, lattice, names, windows, .. } = self;
        queue.close(windows.front, |pending, place| {
            if pending.slot != Pending::EVICTED {
                let hint = place.map_or(0, |place| place + 1);
                table.slot_mut(pending.slot).pending[usize::from(pending.window)] = hint;
            }
            if place.is_none() {
                lattice.release(names, pending.row);
                names.release(pending.tags);
            }
        });
    }

    /// Writes roll-ups of the closing window until the summary is full or the window is done.
    fn write_roll_ups(&mut self, out: &mut Summary) {
        let Some(Cursor::RollUps { cell: first, rows_done, .. }) = self.windows.closing else { return };
        let Self { lattice, names, windows, .. } = self;
        let window = usize::from(windows.front);
        let mut skip = rows_done;
        for cell in first..lattice.cells_reached() {
            let mut row = lattice.rows_from(lattice.cells[cell as usize].first_row).nth(skip as usize);
            while let Some(place) = row {
                let sums = lattice.rows[place as usize].sums[window];
                if sums.seen > 0 && write_roll_up(lattice, names, place, sums, out).is_err() {
                    windows.closing = Some(Cursor::RollUps { cell, rows_done: skip, said: true });
                    return;
                }
                lattice.rows[place as usize].sums[window] = Sums::default();
                row = lattice.rows_from(place).nth(1);
                skip += 1;
            }
            skip = 0;
        }
        windows.advance();
    }
}

fn clear(out: &mut Summary, start: WallMs, window_ms: u32) {
    (out.window_start, out.window_ms) = (start, window_ms);
    out.strings.clear();
    out.cells.clear();
    out.roll_ups.clear();
    out.deviations.clear();
}

/// The summary has no room for one entry more.
struct SummaryFull;

impl From<StringsFull> for SummaryFull {
    fn from(_: StringsFull) -> Self {
        Self
    }
}

/// Runs `write`; takes back the strings and cells that it added when the entry does not fit as a whole.
fn whole(
    out: &mut Summary,
    write: impl FnOnce(&mut Summary) -> Result<(), SummaryFull>,
) -> Result<(), SummaryFull> {
    let (strings, cells) = (out.strings.len(), out.cells.len());
    let written = write(out);
    if written.is_err() {
        out.strings.truncate(strings);
        out.cells.truncate(cells);
    }
    written
}

fn write_cell(
    lattice: &Lattice<'_>,
    names: &Names<'_>,
    cell: u32,
    out: &mut Summary,
) -> Result<u8, SummaryFull> {
    let [region, device, stack] = lattice.cells[cell as usize].names;
    let mut intern = |id| out.strings.intern(names.text(id));
    let name = CellName { region: intern(region)?, device: intern(device)?, stack: intern(stack)? };
    if let Some(place) = out.cells.iter().position(|known| *known == name) {
        return Ok(place as u8);
    }
    out.cells.push(name).map_err(|_| SummaryFull)?;
    Ok((out.cells.len() - 1) as u8)
}

fn write_roll_up(
    lattice: &Lattice<'_>,
    names: &Names<'_>,
    row: u32,
    sums: Sums,
    out: &mut Summary,
) -> Result<(), SummaryFull> {
    whole(out, |out| {
        let row = &lattice.rows[row as usize];
        let cell = write_cell(lattice, names, row.cell, out)?;
        let metric = out.strings.intern(names.text(row.metric))?;
        let (observed, expected) = (F24::from_f64(sums.observed), F24::from_f64(sums.expected));
        let roll_up = RollUp { cell, metric, observed, expected, count: sums.count };
        out.roll_ups.push(roll_up).map_err(|_| SummaryFull)
    })
}

fn write_deviation(
    lattice: &Lattice<'_>,
    names: &Names<'_>,
    pending: &Pending,
    end: WallMs,
    out: &mut Summary,
) -> Result<(), SummaryFull> {
    whole(out, |out| {
        let row = &lattice.rows[pending.row as usize];
        let cell = write_cell(lattice, names, row.cell, out)?;
        let metric = out.strings.intern(names.text(row.metric))?;
        let tags = match names.text(pending.tags) {
            "" => NO_TAGS,
            tags => out.strings.intern(tags)?,
        };
        let onset_s_ago = end.ms_since(pending.onset).div_euclid(1000).clamp(0, u32::MAX.into());
        let deviation = Deviation {
            cell,
            metric,
            tags,
            course: pending.course,
            onset_s_ago: onset_s_ago as u32,
            observed: F24::from_f64(pending.observed),
            expected: F24::from_f32(pending.expected),
            score: pending.score,
            forecast: pending.forecast,
            derivative: pending.derivative,
            distribution: pending.distribution,
            shape: pending.shape,
        };
        out.deviations.push(deviation).map_err(|_| SummaryFull)
    })
}
