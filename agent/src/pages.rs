//! The pages of the program's own files that are mapped and no longer used.
//!
//! Starting, reading a config and shaking hands touch most of the program once, and the kernel maps sixteen pages around
//! each that is touched; all of them count as this process's until somebody takes them away. Must never touch a page that
//! this process has changed. The hard case is telling those apart: a mapping is given back only if it cannot be written
//! and the kernel knows no page of it that differs from the file. And what is in use stands scattered among what is not:
//! with sixteen pages around each of its own, nearly all of the program would be back within a minute. The kernel never maps
//! beyond the end of a mapping, so the program's are cut into one for each page first.
//!
//! And huge pages under what is large.
#![allow(
    unsafe_code,
    reason = "only the kernel's own call can unmap pages or back them in another way; each is told why it may"
)]

use std::ffi::c_void;
use std::io;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::mm::{Advice, madvise};

/// Least time from one giving back to the next: a connection that comes and goes must not cost a fault for each page each
/// time.
const INTERVAL: Duration = Duration::from_secs(3_600);

/// Gives back what the handshake just made was the last to need for long, unless that was done lately.
///
/// # Errors
/// Those of [`give_back`].
pub(crate) fn give_back_now_and_then() -> io::Result<()> {
    static LATEST: Mutex<Option<Instant>> = Mutex::new(None);
    let mut latest = LATEST.lock().unwrap_or_else(PoisonError::into_inner);
    if latest.is_some_and(|latest| latest.elapsed() < INTERVAL) {
        return Ok(());
    }
    *latest = Some(Instant::now());
    give_back()
}

/// Gives back all pages of the program and its libraries that are as in their files. What is still in use comes back from
/// the kernel's cache at its next use, at the cost of a fault each. The kernel needs about 200 bytes for each of the mappings
/// that it makes of them: 130 KB for a program of 3 MB, of which 1.8 MB less are resident then.
///
/// # Errors
/// Those of reading `/proc/self/smaps`; nothing is given back then.
fn give_back() -> io::Result<()> {
    let smaps = std::fs::read_to_string("/proc/self/smaps")?;
    let page_bytes = page_bytes(&smaps);
    for addresses in unchanged(&smaps) {
        for piece in every_other_page(&addresses, page_bytes) {
            // Neighbours that differ in something stay apart; files are in no core dump anyway.
            advise(piece, Advice::LinuxDontDump);
        }
        advise(addresses, Advice::LinuxDontNeed);
    }
    Ok(())
}

/// Says what is to become of these pages, which are of a mapping that is [`unchanged`].
fn advise(addresses: Range<usize>, advice: Advice) {
    let start = addresses.start as *mut c_void;
    // SAFETY: the mapping belongs to this process for as long as it runs: it is of a file of the program, cannot be
    // written, and no page of it differs from that file, so that a page that comes back holds what it held before.
    // Advice that the kernel does not take changes nothing.
    let _ = unsafe { madvise(start, addresses.len(), advice) };
}

/// Memory of at least so many bytes is worth huge pages; and how large those are.
const LARGE_BYTES: usize = 16 << 20;
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Asks for huge pages under memory that is large and visited in any order: with small ones each visit walks through tables
/// that are larger than the caches themselves. It is to be used from its beginning on, since a huge page is resident as a
/// whole.
pub(crate) fn prefer_huge<T>(memory: &mut [T]) {
    let bytes = size_of_val(memory);
    if bytes < LARGE_BYTES {
        return;
    }
    let start = memory.as_mut_ptr().cast::<u8>();
    let before = start.align_offset(HUGE_PAGE_BYTES);
    let whole = bytes.saturating_sub(before) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    // SAFETY: these whole pages lie within memory that is borrowed here and by nobody else, and the advice is about how
    // they are backed, not what they hold. Where the kernel does not take it nothing changes.
    let _ = unsafe { madvise(start.wrapping_add(before).cast(), whole, Advice::LinuxHugepage) };
}

/// Every other page of these addresses; always the same ones.
fn every_other_page(addresses: &Range<usize>, page_bytes: usize) -> impl Iterator<Item = Range<usize>> {
    let first = (addresses.start / page_bytes) | 1;
    let pages = (first * page_bytes..addresses.end).step_by(2 * page_bytes);
    pages.map(move |page| page..page + page_bytes)
}

/// Bytes of a page, from the text of `smaps`; 4 KiB where it does not say.
fn page_bytes(smaps: &str) -> usize {
    let size = smaps.lines().find_map(|line| line.strip_prefix("KernelPageSize:"));
    let kib: Option<usize> = size.and_then(|size| size.trim().strip_suffix(" kB")?.parse().ok());
    kib.filter(|kib| kib.is_power_of_two()).unwrap_or(4) * 1024
}

/// The mappings of files that cannot be written and whose pages are all as in the file, from the text of `smaps` (`proc(5)`).
/// A page that differs is anonymous, or was and lies in swap: what moved its addresses when the program started, say.
fn unchanged(smaps: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let (mut candidate, mut is_as_in_file) = (None, false);
    for line in smaps.lines() {
        let is_nothing = |size: &str| size.trim() == "0 kB";
        if let Some((addresses, is_of_file)) = header(line) {
            (candidate, is_as_in_file) = (is_of_file.then_some(addresses), false);
        } else if let Some(size) = line.strip_prefix("Anonymous:") {
            is_as_in_file = is_nothing(size);
        } else if let Some(size) = line.strip_prefix("Swap:") {
            found.extend(candidate.take().filter(|_| is_as_in_file && is_nothing(size)));
        }
    }
    found
}

/// The addresses of a mapping, and whether it is of a file and private and cannot be written; `None` for any other line.
fn header(line: &str) -> Option<(Range<usize>, bool)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    let (addresses, permissions) = (address(start)?..address(end)?, words.next()?);
    let is_of_file = words.nth(3).is_some_and(|path| path.starts_with('/'));
    let is_right = permissions.starts_with("r-") && permissions.ends_with('p');
    Some((addresses, is_of_file && is_right))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::mm::{MapFlags, ProtFlags, mmap};
    use std::ptr;

    const SMAPS: &str = "\
5000-6000 r--p 00000000 fe:00 42    /usr/bin/vedette-agent
Rss:                   4 kB
Anonymous:             0 kB
Swap:                  0 kB
6000-8000 r-xp 00001000 fe:00 42    /usr/bin/vedette-agent
Anonymous:             0 kB
Swap:                  0 kB
8000-9000 r--p 00003000 fe:00 42    /usr/bin/vedette-agent
Anonymous:             4 kB
Swap:                  0 kB
9000-a000 rw-p 00004000 fe:00 42    /usr/bin/vedette-agent
Anonymous:             0 kB
Swap:                  0 kB
9000-a000 r--s 00004000 fe:00 43    /usr/share/shared
Anonymous:             0 kB
Swap:                  0 kB
a000-b000 r--p 00000000 00:00 0
Anonymous:             0 kB
Swap:                  0 kB
b000-c000 r--p 00000000 00:00 0     [vvar]
Anonymous:             0 kB
Swap:                  0 kB
c000-d000 r--p 00003000 fe:00 42    /usr/bin/vedette-agent
Anonymous:             0 kB
Swap:                  4 kB
";

    #[test]
    fn only_what_is_as_in_its_file_and_stays_so_is_given_back() {
        assert_eq!(unchanged(SMAPS), [0x5000..0x6000, 0x6000..0x8000]);
    }

    #[test]
    fn every_other_page_of_a_mapping_is_told_apart() {
        let pages = |addresses, page_bytes| every_other_page(&addresses, page_bytes).collect::<Vec<_>>();
        assert_eq!(pages(0x3000..0x7000, 0x1000), [0x3000..0x4000, 0x5000..0x6000]);
        assert_eq!(pages(0x8000..0x1_8000, 0x4000), [0xc000..0x1_0000, 0x1_4000..0x1_8000]);
        assert!(pages(0x8000..0xc000, 0x4000).is_empty());
        assert_eq!(page_bytes("Rss: 1 kB\nKernelPageSize:       16 kB\n"), 16 * 1024);
        assert_eq!((page_bytes(SMAPS), page_bytes("KernelPageSize: 0 kB\n")), (4096, 4096));
    }

    /// Bytes resident of the mapping that begins here.
    fn resident_bytes(start: usize) -> usize {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&format!("{start:x}-")));
        let line = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
    }

    #[test]
    #[cfg_attr(not(target_arch = "x86_64"), ignore = "an emulator does not say what is resident")]
    fn a_file_is_given_back_and_comes_back_page_by_page() {
        let (length, mut file) = (64 * 4096, tempfile::tempfile().unwrap());
        io::Write::write_all(&mut file, &vec![7; length]).unwrap();
        // SAFETY: a new mapping that nobody else knows of, of a file that nobody else changes.
        let start = unsafe { mmap(ptr::null_mut(), length, ProtFlags::READ, MapFlags::PRIVATE, &file, 0) };
        let start = start.unwrap();
        // SAFETY: the mapping is as long as that, is never written to, and stays until the process ends.
        let bytes = unsafe { std::slice::from_raw_parts(start.cast::<u8>(), length) };
        assert!(bytes.iter().all(|byte| *byte == 7));
        assert_eq!(resident_bytes(start.addr()), length);
        give_back().unwrap();
        assert_eq!(resident_bytes(start.addr()), 0);
        let middle = length / 2;
        assert_eq!(std::hint::black_box(bytes)[middle], 7);
        assert_eq!(resident_bytes(start.addr() + middle), 4096);
    }
}
