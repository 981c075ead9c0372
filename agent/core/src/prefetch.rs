//! Asking memory for what is needed a little later.
//!
//! With a million series each observation finds its slot in none of the caches; asked for in time, the lines of
//! many slots are on their way at once. It must never change a result: a request is a hint, and nothing is read
//! into the program. The hard case is that stable Rust has no safe function for it, so this is one of the few files with
//! `unsafe` in them. Why that is sound: neither instruction faults, writes, or touches anything but caches,
//! whatever the address.
#![allow(
    unsafe_code,
    reason = "a prefetch is an instruction without a safe name; it has no effect but on time"
)]

const LINE_BYTES: usize = 64;

/// Asks for every cache line of `value`.
#[inline]
pub fn prefetch<T>(value: &T) {
    prefetch_first(value, size_of::<T>());
}

/// Asks for the cache lines of the first `bytes` of `value`.
#[inline]
pub fn prefetch_first<T>(value: &T, bytes: usize) {
    let start = core::ptr::from_ref(value).cast::<u8>();
    for offset in (0..bytes).step_by(LINE_BYTES) {
        line(start.wrapping_add(offset));
    }
}

/// Where the elements of a slice lie: to ask for lines of some while others change.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    first: usize,
    step: usize,
}

impl Places {
    /// Those of a slice.
    pub fn of<T>(elements: &[T]) -> Self {
        Self { first: elements.as_ptr() as usize, step: size_of::<T>() }
    }

    /// Asks for one cache line of the element at `place`, counted from its beginning.
    #[inline]
    pub fn prefetch(self, place: usize, number: usize) {
        let address = self.first.wrapping_add(place.wrapping_mul(self.step));
        line(core::ptr::without_provenance(address.wrapping_add(number * LINE_BYTES)));
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn line(address: *const u8) {
    use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: PREFETCHT0 is a hint that never faults; SSE is part of x86-64.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
}

#[cfg(target_arch = "aarch64")]
#[inline]
fn line(address: *const u8) {
    // SAFETY: PRFM is a hint that never faults, and writes neither memory nor registers nor flags.
    unsafe {
        core::arch::asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
}

/// Elsewhere nothing is asked for.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[inline]
fn line(_: *const u8) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_as_it_was() {
        let value = [7_u8; 1000];
        prefetch(&value);
        prefetch(&());
        Places::of(&value[..]).prefetch(usize::MAX, 7);
        assert_eq!(value, [7; 1000]);
    }
}
