//! Counts heap allocations, so that "allocates nothing after start" is measured and not hoped for.
//!
//! It must never change what the system's allocator does, nor allocate itself. The hard case is the counter:
//! it is one per thread, since other threads may allocate as they like while one is measured, and it needs no
//! destructor, so that it works from the first allocation of a thread to the last.
#![allow(unsafe_code, reason = "GlobalAlloc is an unsafe trait; each call is passed on unchanged")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator with a count of what the current thread allocates. Install it with `#[global_allocator]`.
#[derive(Debug)]
pub struct CountingAllocator;

/// How often the current thread has allocated or grown memory; stays 0 unless [`CountingAllocator`] is installed.
pub fn allocations() -> u64 {
    ALLOCATIONS.try_with(Cell::get).unwrap_or(0)
}

/// Whether [`CountingAllocator`] is installed in this program.
pub fn is_counted() -> bool {
    let before = allocations();
    drop(std::hint::black_box(Box::new(before)));
    allocations() > before
}

fn count() {
    // Fails only while a thread is being torn down; such an allocation is nobody's observation.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get().wrapping_add(1)));
}

// SAFETY: every method hands its arguments to `System`, which is a correct allocator, and returns its result as it is;
// the callers' duties are those of `System`. `count` neither allocates (the thread local is const-initialised and has
// no destructor) nor unwinds (`try_with` does not panic, and the addition wraps).
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`, which is that of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller got `block` from this allocator, that is, from `System`, with this `layout`.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as in `realloc`.
        unsafe { System.dealloc(block, layout) }
    }
}
