//! Faults of a medium that were found by simulation or review, each with the history that showed it.
//!
//! They must never lean on a seed. The hard case is a medium that cannot be read when a process starts and can when a later one
//! does: what the first ones wrote and what the later ones acknowledge must not be taken for one another.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::rc::Rc;

use vedette_agent_core::spool::{
    AppendError, Segment, Spool, SpoolMemory, SpoolSettings, Storage, StorageFault, SyncPolicy,
};
use vedette_common::drops::DropUnit;
use vedette_common::{BootId, Lane, RecordKey};

const SETTINGS: SpoolSettings = SpoolSettings {
    bytes_max: 1_600,
    segment_bytes: 200,
    deviations_bytes_max: 800,
    frame_bytes_max: 60,
    sync: SyncPolicy::EachWindow,
};

/// Segments that are kept, and those of them that fail.
#[derive(Debug, Default)]
struct Disk {
    segments: BTreeMap<u16, Vec<u8>>,
    unreadable: BTreeSet<u16>,
    keeps_all: bool,
}

#[derive(Clone, Debug, Default)]
struct Handle(Rc<RefCell<Disk>>);

#[derive(Debug, thiserror::Error)]
#[error("the test says no")]
struct Refused;

impl Storage for Handle {
    type Error = Refused;

    fn fault(_: &Refused) -> StorageFault {
        StorageFault::Broken
    }

    fn length(&mut self, segment: u16) -> Result<Option<u32>, Refused> {
        Ok(self.0.borrow().segments.get(&segment).map(|bytes| bytes.len() as u32))
    }

    fn read(&mut self, segment: u16, at: u32, out: &mut [u8]) -> Result<usize, Refused> {
        let disk = self.0.borrow();
        let bytes =
            disk.segments.get(&segment).filter(|_| !disk.unreadable.contains(&segment)).ok_or(Refused)?;
        let rest = &bytes[at as usize..];
        let taken = rest.len().min(out.len());
        out[..taken].copy_from_slice(&rest[..taken]);
        Ok(taken)
    }

    fn write(&mut self, segment: u16, at: u32, bytes: &[u8]) -> Result<(), Refused> {
        let mut disk = self.0.borrow_mut();
        if disk.unreadable.contains(&segment) {
            return Err(Refused);
        }
        let held = disk.segments.entry(segment).or_default();
        held.truncate(at as usize);
        held.extend(bytes);
        Ok(())
    }

    fn sync(&mut self, _: u16) -> Result<(), Refused> {
        Ok(())
    }

    fn truncate(&mut self, segment: u16, length: u32) -> Result<(), Refused> {
        let mut disk = self.0.borrow_mut();
        if disk.keeps_all || disk.unreadable.contains(&segment) {
            return Err(Refused);
        }
        if let Some(held) = disk.segments.get_mut(&segment) {
            held.truncate(length as usize);
        }
        Ok(())
    }

    fn remove(&mut self, segment: u16) -> Result<(), Refused> {
        let mut disk = self.0.borrow_mut();
        if disk.keeps_all || disk.unreadable.contains(&segment) {
            return Err(Refused);
        }
        disk.segments.remove(&segment);
        Ok(())
    }
}

/// Runs one process on the disk.
fn process<T>(disk: &Handle, boot: u64, body: impl FnOnce(&mut Spool<'_, Handle>) -> T) -> T {
    let mut segments = vec![Segment::default(); SETTINGS.segments()];
    let mut buffer = vec![0; SETTINGS.buffer_bytes()];
    let memory = SpoolMemory { segments: &mut segments, buffer: &mut buffer };
    let mut spool = Spool::open(disk.clone(), SETTINGS, memory, BootId(boot)).unwrap();
    check_sum(&spool);
    let result = body(&mut spool);
    check_sum(&spool);
    result
}

fn check_sum(spool: &Spool<'_, Handle>) {
    let counts = spool.counts();
    let spooled: u64 = Lane::ALL.into_iter().map(|lane| spool.records(lane)).sum();
    let gone = counts.acknowledged + counts.dropped.total(DropUnit::Record);
    assert_eq!(counts.appended + counts.recovered, gone + spooled, "{counts:?}, {spooled} spooled");
}

fn append(spool: &mut Spool<'_, Handle>, lane: Lane) -> Option<RecordKey> {
    let appended = spool.append(lane, |_, frame| {
        frame[..50].fill(7);
        Ok::<usize, Infallible>(50)
    });
    check_sum(spool);
    match appended {
        Ok(key) => Some(key),
        Err(AppendError::Dropped { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Every key of a lane, in the order of delivery.
fn keys(spool: &mut Spool<'_, Handle>, lane: Lane) -> Vec<RecordKey> {
    let (mut keys, mut after) = (Vec::new(), None);
    while let Some(next) = spool.next(lane, after).unwrap() {
        keys.push(next.key);
        after = Some(next.position);
    }
    keys
}

/// Acknowledges one key after the other, as the aggregator does; gives those of `boot`.
fn deliver(spool: &mut Spool<'_, Handle>, lane: Lane) -> Vec<RecordKey> {
    let mut delivered = Vec::new();
    while let Some(key) = spool.next(lane, None).unwrap().map(|next| next.key) {
        delivered.push(key);
        assert_eq!(spool.acknowledge(key).unwrap(), 1, "{key:?} frees itself alone");
        check_sum(spool);
    }
    delivered
}

/// Records of a start that cannot be read while a later one writes and is acknowledged are there when they can be read again.
/// Found by simulation: they were covered by the later start's acknowledgements and lost without a count.
#[test]
fn what_could_not_be_read_at_one_start_is_delivered_after_the_next() {
    let disk = Handle::default();
    let hidden: Vec<RecordKey> =
        process(&disk, 1, |spool| (0..4).filter_map(|_| append(spool, Lane::RollUps)).collect());
    disk.0.borrow_mut().unreadable = [0].into();
    process(&disk, 2, |spool| {
        for _ in 0..6 {
            append(spool, Lane::RollUps).unwrap();
        }
        let delivered = deliver(spool, Lane::RollUps);
        assert_eq!(delivered.iter().filter(|key| key.boot == BootId(2)).count(), 6);
        append(spool, Lane::RollUps).unwrap();
    });
    disk.0.borrow_mut().unreadable.clear();
    let found = process(&disk, 3, |spool| deliver(spool, Lane::RollUps));
    let in_hidden: Vec<RecordKey> = hidden.into_iter().take(2).collect();
    assert!(in_hidden.iter().all(|key| found.contains(key)), "{in_hidden:?} are not in {found:?}");
    assert!(found.iter().any(|key| key.boot == BootId(2)));
}

/// Two starts in a row that each could not read what the one before had written took the same place in the order; then an acknowledgement of
/// the one freed records of the other.
#[test]
fn starts_that_could_not_see_one_another_are_not_taken_for_one() {
    let disk = Handle::default();
    process(&disk, 1, |spool| append(spool, Lane::RollUps).unwrap());
    // Something else cannot be read, so the second start does not know who wrote there.
    let own = |boot: u64, hidden: &[u16]| {
        disk.0.borrow_mut().unreadable = hidden.iter().copied().collect();
        let before: BTreeSet<u16> = disk.0.borrow().segments.keys().copied().collect();
        process(&disk, boot, |spool| {
            for _ in 0..6 {
                append(spool, Lane::RollUps).unwrap();
            }
        });
        let mut written: Vec<u16> = disk.0.borrow().segments.keys().copied().collect();
        written.retain(|segment| !before.contains(segment));
        written
    };
    disk.0.borrow_mut().segments.insert(7, vec![0; 100]);
    let second = own(2, &[7]);
    let hidden: Vec<u16> = second.iter().copied().chain([7]).collect();
    own(3, &hidden);
    disk.0.borrow_mut().unreadable.clear();
    process(&disk, 4, |spool| {
        let all = keys(spool, Lane::RollUps);
        for boot in [2, 3] {
            let of_boot = all.iter().filter(|key| key.boot == BootId(boot)).count();
            assert!(of_boot >= 4, "{of_boot} records of boot {boot} in {all:?}");
        }
        assert_eq!(deliver(spool, Lane::RollUps), all, "each is delivered, and frees itself alone");
    });
}

/// A medium with a torn record and a segment that cannot be read is opened anew at each append. Found by review: what the torn one was counted as
/// was forgotten on one side of the sum.
#[test]
fn the_sum_holds_while_a_spool_is_opened_anew_at_each_append() {
    for keeps_all in [false, true] {
        let disk = Handle::default();
        {
            let mut disk = disk.0.borrow_mut();
            disk.segments.insert(0, vec![1; 50]);
            disk.segments.insert(1, vec![2; 50]);
            disk.unreadable.insert(1);
            disk.keeps_all = keeps_all;
        }
        process(&disk, 1, |spool| {
            for _ in 0..3 {
                assert_eq!(
                    append(spool, Lane::RollUps),
                    None,
                    "nothing is written before earlier starts can be seen"
                );
            }
            let corrupt = spool.counts().dropped.get(vedette_common::DropReason::SpoolCorrupt);
            assert_eq!(corrupt, 1, "one torn record, counted once");
        });
    }
}

/// Damage is known by its segment: found by review, one number for all of them hid what came to light late, and counted twice what was hidden for
/// a while.
#[test]
fn each_segments_damage_is_counted_once_whatever_else_cannot_be_read() {
    let disk = Handle::default();
    let torn = |disk: &Handle, segment: u16| disk.0.borrow_mut().segments.insert(segment, vec![1; 50]);
    let is_readable = |disk: &Handle, segment: u16, readable: bool| {
        let unreadable = &mut disk.0.borrow_mut().unreadable;
        let changed = if readable { unreadable.remove(&segment) } else { unreadable.insert(segment) };
        assert!(changed);
    };
    (0..3).for_each(|segment| drop(torn(&disk, segment)));
    (1..3).for_each(|segment| is_readable(&disk, segment, false));
    let corrupt =
        |spool: &Spool<'_, Handle>| spool.counts().dropped.get(vedette_common::DropReason::SpoolCorrupt);
    process(&disk, 1, |spool| {
        assert_eq!((append(spool, Lane::RollUps), corrupt(spool)), (None, 1));
        is_readable(&disk, 1, true);
        assert_eq!((append(spool, Lane::RollUps), corrupt(spool)), (None, 2), "another segment's");
    });

    let disk = Handle::default();
    disk.0.borrow_mut().keeps_all = true;
    (0..2).for_each(|segment| drop(torn(&disk, segment)));
    is_readable(&disk, 1, false);
    process(&disk, 1, |spool| {
        assert_eq!((append(spool, Lane::RollUps), corrupt(spool)), (None, 1));
        is_readable(&disk, 0, false);
        assert_eq!((append(spool, Lane::RollUps), corrupt(spool)), (None, 1));
        is_readable(&disk, 0, true);
        assert_eq!((append(spool, Lane::RollUps), corrupt(spool)), (None, 1), "the same as before");
    });
}

/// A segment that can be neither read nor emptied does not stop an otherwise empty spool for ever.
#[test]
fn one_segment_that_is_lost_for_good_does_not_stop_the_spool() {
    let disk = Handle::default();
    disk.0.borrow_mut().segments.insert(3, vec![1; 50]);
    disk.0.borrow_mut().unreadable.insert(3);
    process(&disk, 1, |spool| {
        let taken = (0..100).position(|_| append(spool, Lane::Deviations).is_some());
        assert!(taken.is_some_and(|refused| refused > 0), "after a while it is given up: {taken:?}");
        assert!(append(spool, Lane::RollUps).is_some());
    });
}
