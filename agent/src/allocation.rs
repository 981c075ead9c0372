//! Counts heap allocations, so that "allocates nothing after start" is measured and not hoped for.
//!
//! Large blocks are mappings of their own, whatever the C library does: what a limit allows is zeros that no memory stands
//! behind until something is written there, and some libraries write those zeros themselves. It must never allocate itself,
//! nor change what becomes of small blocks. The hard case is the counter: it is one per thread, since other threads may allocate as
//! they like while one is measured, and it needs no destructor, so that it works from the first allocation of a thread to the last.
#![allow(unsafe_code, reason = "GlobalAlloc is an unsafe trait, and so are the kernel's calls for mappings")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;

use rustix::mm::{MapFlags, MremapFlags, ProtFlags, mmap_anonymous, mremap, munmap};

/// Blocks of so many bytes are mappings.
const MAPPED_BYTES_MIN: usize = 128 << 10;
/// The least that any kernel aligns a mapping to.
const PAGE_BYTES_MIN: usize = 4_096;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, but for large blocks, with a count of what the current thread allocates. Install it with
/// `#[global_allocator]`.
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

/// Whether a block of this layout is a mapping. Nothing else decides it, so a block ends as it began.
const fn is_mapped(layout: Layout) -> bool {
    layout.size() >= MAPPED_BYTES_MIN && layout.align() <= PAGE_BYTES_MIN
}

/// A mapping of so many bytes, all zero; null if there is no memory.
fn map(bytes: usize) -> *mut u8 {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: the kernel chooses a place that nothing lies at.
    let mapping = unsafe { mmap_anonymous(ptr::null_mut(), bytes, access, MapFlags::PRIVATE) };
    mapping.map_or(ptr::null_mut(), <*mut c_void>::cast)
}

impl CountingAllocator {
    /// Moves a block to where one of another size may lie; null, and the block stays, if there is no memory.
    ///
    /// # Safety
    /// That of [`GlobalAlloc::realloc`].
    unsafe fn relocate(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's size is right for a layout of this alignment.
        let (layout_after, bytes) =
            (unsafe { Layout::from_size_align_unchecked(size, layout.align()) }, size.min(layout.size()));
        // SAFETY: the size is not 0; both blocks hold so many bytes, and a fresh one lies apart; the old one is given back
        // with the layout that it was taken with.
        unsafe {
            let moved = self.alloc(layout_after);
            if !moved.is_null() {
                ptr::copy_nonoverlapping(block, moved, bytes);
                self.dealloc(block, layout);
            }
            moved
        }
    }
}

// SAFETY: a small block comes from `System`, which is a correct allocator, and goes back to it with the same layout; the
// callers' duties are those of `System`. A large one is a mapping of at least its size, aligned to a page, and goes back to the
// kernel with that size; which of both a block is depends on its layout alone, which callers repeat. `count` neither allocates
// (the thread local is const-initialised and has no destructor) nor unwinds (`try_with` does not panic, and the addition
// wraps).
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        if is_mapped(layout) {
            return map(layout.size());
        }
        // SAFETY: the caller keeps the contract of `alloc`, which is that of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        if is_mapped(layout) {
            return map(layout.size());
        }
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        let is_large = size >= MAPPED_BYTES_MIN;
        match (is_mapped(layout), is_large && layout.align() <= PAGE_BYTES_MIN) {
            // SAFETY: the caller got `block` from this allocator, that is, from `System`, with this `layout`.
            (false, false) => unsafe { System.realloc(block, layout, size) },
            (true, true) => {
                // SAFETY: the block is a mapping of that many bytes, and nobody else knows where it lies.
                let moved = unsafe { mremap(block.cast(), layout.size(), size, MremapFlags::MAYMOVE) };
                moved.map_or(ptr::null_mut(), <*mut c_void>::cast)
            }
            // SAFETY: the caller keeps the contract of `realloc`.
            _ => unsafe { self.relocate(block, layout, size) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if is_mapped(layout) {
            // SAFETY: the block is a mapping of that many bytes, and the caller uses it no more. The kernel refuses only what
            // is none.
            let _ = unsafe { munmap(block.cast(), layout.size()) };
            return;
        }
        // SAFETY: as in `realloc`.
        unsafe { System.dealloc(block, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 8).unwrap()
    }

    /// Bytes resident of the mapping that begins here.
    #[cfg(target_arch = "x86_64")]
    fn resident_bytes(start: usize) -> usize {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = smaps.lines().skip_while(|line| {
            let range = line.split_whitespace().next().and_then(|range| range.split_once('-'));
            let Some((first, end)) = range else { return true };
            let address = |text| usize::from_str_radix(text, 16).unwrap_or(0);
            !(address(first)..address(end)).contains(&start)
        });
        let line = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn nothing_stands_behind_a_large_block_before_it_is_written_to() {
        let bytes = 256 << 20;
        // SAFETY: the layout is of more than 0 bytes, the block as long as that, and given back with it.
        unsafe {
            let block = CountingAllocator.alloc_zeroed(layout(bytes));
            let before = resident_bytes(block.addr());
            assert!(before < bytes / 2, "{before}");
            assert_eq!((*block, *block.add(bytes - 1)), (0, 0));
            block.add(bytes / 2).write(7);
            assert_eq!(*block.add(bytes / 2), 7);
            CountingAllocator.dealloc(block, layout(bytes));
        }
    }

    #[test]
    fn a_block_keeps_what_it_holds_through_every_change_of_its_size() {
        let sizes = [
            100,
            MAPPED_BYTES_MIN - 1,
            MAPPED_BYTES_MIN,
            10 * MAPPED_BYTES_MIN,
            MAPPED_BYTES_MIN + 1,
            200,
            90,
        ];
        // SAFETY: no size is 0; each block is used up to its size only and given back with its layout.
        unsafe {
            let mut block = CountingAllocator.alloc(layout(sizes[0]));
            (0..90).for_each(|place| block.add(place).write(place as u8));
            for pair in sizes.windows(2) {
                block = CountingAllocator.realloc(block, layout(pair[0]), pair[1]);
                assert!(!block.is_null());
                block.add(pair[1] - 1).write((pair[1] - 1) as u8);
                assert!((0..90).all(|place| *block.add(place) == place as u8), "{pair:?}");
            }
            CountingAllocator.dealloc(block, layout(sizes[6]));
        }
    }
}
