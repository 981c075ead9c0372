//! The distribution scorer: how often has this value been seen.
//!
//! It must never assume a shape of the distribution. The hard case is a value between two modes: well inside
//! the range and yet never seen; the histogram knows, a mean and a deviation would not.

use super::histogram::Histogram;

/// What the values of a series have been.
#[repr(C)]
#[derive(Clone, Debug)]
pub(super) struct Distribution {
    values: Histogram,
}

impl Distribution {
    pub(super) const fn new() -> Self {
        Distribution { values: Histogram::new() }
    }

    /// How often each value was seen.
    pub(super) fn values(&mut self) -> &mut Histogram {
        &mut self.values
    }
}
