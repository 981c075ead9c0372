//! Room that is lent at start and used from its beginning on, element by element.
//!
//! It must never touch what is not used yet: pages of memory that nobody wrote to are none, so that a limit costs only what
//! of it is used. The hard case is that such memory holds no values: it has a type of its own, and only a `Room`, which
//! knows how far it was written, makes a slice of it. That is the place of this file with `unsafe` in it. Why that is sound:
//! elements are written one after the other, in the one function that counts them, and never taken back.
#![allow(
    unsafe_code,
    reason = "a slice of what was written so far, of memory that is not written yet beyond"
)]

use core::mem::{MaybeUninit, needs_drop};
use core::ops::{Deref, DerefMut};
use core::{fmt, slice};

/// Memory for one element. Making and copying it writes nothing.
#[repr(transparent)]
pub struct Vacant<T>(MaybeUninit<T>);

impl<T> Vacant<T> {
    /// Memory that holds nothing.
    pub const fn new() -> Self {
        Self(MaybeUninit::uninit())
    }
}

impl<T> Default for Vacant<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Clone for Vacant<T> {
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Vacant<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Vacant")
    }
}

/// The elements in use of the memory lent.
pub(crate) struct Room<'m, T> {
    memory: &'m mut [Vacant<T>],
    used: usize,
}

impl<'m, T> Room<'m, T> {
    /// All of it unused.
    pub(crate) fn new(memory: &'m mut [Vacant<T>]) -> Self {
        // What is lent is never dropped.
        const { assert!(!needs_drop::<T>()) };
        Self { memory, used: 0 }
    }

    /// How many elements there may be.
    pub(crate) const fn capacity(&self) -> usize {
        self.memory.len()
    }

    /// Puts an element behind those in use; its place, or `None` when there is no more room.
    pub(crate) fn push(&mut self, element: T) -> Option<usize> {
        self.memory.get_mut(self.used)?.0.write(element);
        self.used += 1;
        Some(self.used - 1)
    }
}

impl<T> Deref for Room<'_, T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: the first `used` elements were written by `push`, and lie within `memory`, whose elements are laid out as
        // those of the slice are.
        unsafe { slice::from_raw_parts(self.memory.as_ptr().cast(), self.used) }
    }
}

impl<T> DerefMut for Room<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `memory` is borrowed as long as the slice is.
        unsafe { slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), self.used) }
    }
}

impl<T: fmt::Debug> fmt::Debug for Room<'_, T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(&**self).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_come_one_after_the_other_until_the_room_is_full() {
        let mut memory = [const { Vacant::new() }; 2];
        let mut room = Room::new(&mut memory);
        assert_eq!((room.len(), room.capacity()), (0, 2));
        assert_eq!((room.push(7_u64), room.push(8), room.push(9)), (Some(0), Some(1), None));
        room[0] += 1;
        assert_eq!(*room, [8, 8]);
        assert_eq!(room.get_disjoint_mut([1, 2]), Err(core::slice::GetDisjointMutError::IndexOutOfBounds));
    }
}
