//! The pages of the program's own files that are mapped and no longer used.
//!
//! Starting, reading a config and shaking hands touch most of the program once, and the kernel maps sixteen pages around
//! each that is touched; all of them count as this process's until somebody takes them away. Must never touch a page that
//! this process has changed. The hard case is telling those apart: a mapping is given back only if it cannot be written
//! and the kernel knows no page of it that differs from the file. And what is in use stands scattered among what is not:
//! with sixteen pages around each of its own, nearly all of the program would be back within a minute. The kernel never maps
//! beyond the end of a mapping, so the program's are cut into short ones first.
#![allow(unsafe_code, reason = "only the kernel's own call can unmap pages; each is told why it may")]

use std::ffi::c_void;
use std::io;
use std::ops::Range;

use rustix::mm::{Advice, madvise};

/// Length of the mappings that the program is cut into, and the largest page of the machines that it is made for. Each takes
/// about 200 bytes in the kernel.
const PIECE_BYTES: usize = 16 * 1024;

/// Gives back all pages of the program and its libraries that are as in their files. What is still in use comes back from
/// the kernel's cache at its next use, at the cost of a fault each.
///
/// # Errors
/// Those of reading `/proc/self/smaps`; nothing is given back then.
pub(crate) fn give_back() -> io::Result<()> {
    for addresses in unchanged(&std::fs::read_to_string("/proc/self/smaps")?) {
        for piece in every_other_piece(&addresses) {
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

/// Every other piece of these addresses; always the same ones.
fn every_other_piece(addresses: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let Range { start, end } = addresses.clone();
    let first = start / PIECE_BYTES | 1;
    let pieces = (first * PIECE_BYTES..end).step_by(2 * PIECE_BYTES);
    pieces.map(move |piece| piece.max(start)..(piece + PIECE_BYTES).min(end))
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
    Some((addresses, is_of_file && permissions.starts_with('r') && permissions.get(1..2) == Some("-")))
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn every_other_piece_of_a_mapping_is_told_apart() {
        let pieces = |addresses| every_other_piece(&addresses).collect::<Vec<_>>();
        assert_eq!(pieces(0x3000..0x1_1000), [0x4000..0x8000, 0xc000..0x1_0000]);
        assert_eq!(pieces(0x5000..0x6000), [0x5000..0x6000]);
        assert_eq!(pieces(0x8000..0xb000), []);
    }

    #[test]
    fn the_program_goes_on_with_fewer_pages_of_its_files() {
        let of_files = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
            line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap()
        };
        // Formatting text and numbers again must work after its instructions were given back.
        let before = of_files();
        give_back().unwrap();
        let after = of_files();
        assert!(after < before, "{after} kB after {before} kB");
    }
}
