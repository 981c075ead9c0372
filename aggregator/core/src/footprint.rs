//! What one item of each limit needs in memory at worst, measured on the types themselves.
//!
//! It must never be an average. The hard case is growth: a vector may hold twice what it needs, a tree's nodes may be
//! less than half full, and every name may be as long as it can be.
use vedette_common::limits::{NAME_BYTES_MAX, TAG_SET_BYTES_MAX};

use crate::correlate::{HORIZONS, Point};
use crate::region::{Cell, Series};
use crate::scopes::{Noise, ScopeKey, Shown, Sums};
use crate::window::{Deviating, Sum};

/// Scopes that one more series adds at worst: its cell, its stack, device and group, each in its region and everywhere.
const SCOPES_PER_SERIES: usize = 10;

/// An entry of a B-tree: nodes have room for eleven and hold five at least.
const fn tree_entry<K, V>() -> usize {
    (size_of::<K>() + size_of::<V>()) * 11 / 5
}

/// An item of a vector, which doubles when it is full.
const fn vector_item<T>() -> usize {
    2 * size_of::<T>()
}

/// A cell of the lattice, with the names of a device and a stack that no other cell has.
pub const CELL_BYTES: u64 = (vector_item::<Cell>()
    + tree_entry::<(u16, u16), u32>()
    + vector_item::<Vec<(u16, u32)>>()
    + 4 * (NAME_BYTES_MAX + 2 * size_of::<String>())) as u64;

/// A metric of a cell: its sums and history, its scopes, what is learned of their noise, and the room to judge them in.
pub const SERIES_BYTES: u64 = (vector_item::<Series>()
    + vector_item::<(u32, u16)>()
    + vector_item::<(u16, u32)>()
    + vector_item::<Point>()
    + vector_item::<[u16; 4]>()
    + vector_item::<u32>()
    + SCOPES_PER_SERIES
        * (tree_entry::<ScopeKey, Noise>()
            + vector_item::<ScopeKey>()
            + vector_item::<usize>()
            + 3 * vector_item::<u32>()
            + vector_item::<[Sums; HORIZONS]>()
            + tree_entry::<u32, Shown>())) as u64;

/// A metric of a cell in a window that waits.
pub const ROLL_UP_BYTES: u64 = vector_item::<Option<Sum>>() as u64;

/// A deviation in a window that waits, its tags at their longest.
pub const DEVIATION_BYTES: u64 = (vector_item::<Deviating>() + TAG_SET_BYTES_MAX) as u64;
