//! Crash images of the spool: a script of appends, acknowledgements and syncs is cut off at every operation on the medium, and
//! every image that a power cut may leave there is opened.
//!
//! What must hold of each image: what was synced and not acknowledged is there, unharmed and in order; nothing is made up; the
//! sum of the counts holds; the spool takes new records and finds them again. The hard case is the number of images: all
//! subsets of the writes since the last sync while they are few, else all prefixes and all with one missing.
use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use vedette_agent_core::spool::{
    Segment, Spool, SpoolMemory, SpoolSettings, Storage, StorageFault, SyncPolicy,
};
use vedette_common::drops::DropUnit;
use vedette_common::{BootId, Lane, MonoMs, RecordKey};

const SETTINGS: SpoolSettings = SpoolSettings {
    bytes_max: 1_200,
    segment_bytes: 200,
    deviations_bytes_max: 600,
    frame_bytes_max: 60,
    sync: SyncPolicy::EachWindow,
};
/// Unsynced changes of which every subset is tried.
const SUBSETS_MAX: usize = 6;

/// One change of the medium.
#[derive(Clone, Debug)]
enum Change {
    Write { segment: u16, at: u32, bytes: Vec<u8> },
    Truncate { segment: u16, length: u32 },
    Remove { segment: u16 },
}

type Segments = Vec<Option<Vec<u8>>>;

fn apply(segments: &mut Segments, change: &Change) {
    match change {
        Change::Write { segment, at, bytes } => {
            let held = segments[usize::from(*segment)].get_or_insert_with(Vec::new);
            let (at, end) = (*at as usize, *at as usize + bytes.len());
            // An earlier write that was lost leaves a hole, which reads as zeros.
            held.resize(held.len().max(end), 0);
            held[at..end].copy_from_slice(bytes);
        }
        Change::Truncate { segment, length } => {
            if let Some(held) = &mut segments[usize::from(*segment)] {
                held.truncate(*length as usize);
            }
        }
        Change::Remove { segment } => segments[usize::from(*segment)] = None,
    }
}

/// A medium that remembers what was synced, and in which order the rest came.
#[derive(Clone, Debug)]
struct Medium {
    held: Segments,
    synced: Segments,
    unsynced: Vec<Change>,
    fault: Option<StorageFault>,
    /// Everything that a power cut may leave, gathered at every change.
    images: Option<Vec<Image>>,
    safe: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Image {
    segments: Segments,
    /// Records that must be there.
    safe: Vec<Entry>,
    what: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    key: RecordKey,
    frame: Vec<u8>,
}

impl Medium {
    fn new() -> Self {
        let (held, synced) = (vec![None; 1_024], vec![None; 1_024]);
        Self { held, synced, unsynced: Vec::new(), fault: None, images: Some(Vec::new()), safe: Vec::new() }
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.held, &change);
        self.unsynced.push(change);
        self.imagine();
    }

    fn image(&mut self, changes: &[Change], what: &str) {
        let mut segments = self.synced.clone();
        changes.iter().for_each(|change| apply(&mut segments, change));
        let image = Image { segments, safe: self.safe.clone(), what: what.to_owned() };
        self.images.get_or_insert_default().push(image);
    }

    /// Every image that a power cut may leave now.
    fn imagine(&mut self) {
        if self.images.is_none() {
            return;
        }
        let changes = self.unsynced.clone();
        if changes.len() <= SUBSETS_MAX {
            for chosen in 0..1_usize << changes.len() {
                let subset: Vec<Change> = (0..changes.len())
                    .filter(|place| chosen >> place & 1 == 1)
                    .map(|place| changes[place].clone())
                    .collect();
                self.image(&subset, &format!("subset {chosen:b} of {}", changes.len()));
            }
        } else {
            for length in 0..=changes.len() {
                self.image(&changes[..length], &format!("prefix {length}"));
            }
            for missing in 0..changes.len() {
                let mut others = changes.clone();
                others.remove(missing);
                self.image(&others, &format!("without {missing}"));
            }
        }
        self.imagine_torn(changes);
    }

    /// The last write torn at every few bytes, ending in garbage, or with a flipped bit.
    fn imagine_torn(&mut self, mut changes: Vec<Change>) {
        let Some(Change::Write { segment, at, bytes }) = changes.pop() else { return };
        for length in (0..bytes.len()).step_by(5) {
            let mut torn = bytes.clone();
            torn.truncate(length);
            let cut = Change::Write { segment, at, bytes: torn.clone() };
            self.image(&[changes.clone(), vec![cut]].concat(), &format!("torn at {length}"));
            torn.resize(bytes.len(), 0xa5);
            let garbage = Change::Write { segment, at, bytes: torn };
            self.image(&[changes.clone(), vec![garbage]].concat(), &format!("garbage from {length}"));
            let mut flipped = bytes.clone();
            flipped[length] ^= 1 << (length % 8);
            let flipped = Change::Write { segment, at, bytes: flipped };
            self.image(&[changes.clone(), vec![flipped]].concat(), &format!("flipped at {length}"));
        }
    }
}

#[derive(Clone)]
struct Handle(Rc<RefCell<Medium>>);

#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("{0:?}")]
struct MediumError(StorageFault);

impl Handle {
    fn change(&self, change: Change) -> Result<(), MediumError> {
        let mut medium = self.0.borrow_mut();
        medium.fault.map_or(Ok(()), |fault| Err(MediumError(fault)))?;
        medium.change(change);
        Ok(())
    }
}

impl Storage for Handle {
    type Error = MediumError;
    fn fault(error: &MediumError) -> StorageFault {
        error.0
    }
    fn length(&mut self, segment: u16) -> Result<Option<u32>, MediumError> {
        Ok(self.0.borrow().held[usize::from(segment)].as_ref().map(|held| held.len() as u32))
    }
    fn read(&mut self, segment: u16, at: u32, out: &mut [u8]) -> Result<usize, MediumError> {
        let medium = self.0.borrow();
        let broken = MediumError(StorageFault::Broken);
        if medium.fault == Some(StorageFault::Broken) {
            return Err(broken);
        }
        let held = medium.held[usize::from(segment)].as_ref().ok_or(broken)?;
        let rest = held.get(at as usize..).ok_or(broken)?;
        let taken = rest.len().min(out.len());
        out[..taken].copy_from_slice(&rest[..taken]);
        Ok(taken)
    }
    fn write(&mut self, segment: u16, at: u32, bytes: &[u8]) -> Result<(), MediumError> {
        self.change(Change::Write { segment, at, bytes: bytes.to_vec() })
    }
    fn sync(&mut self, segment: u16) -> Result<(), MediumError> {
        let mut medium = self.0.borrow_mut();
        medium.fault.map_or(Ok(()), |fault| Err(MediumError(fault)))?;
        let held = medium.held[usize::from(segment)].clone();
        medium.synced[usize::from(segment)] = held;
        // The folder is synced with it: what was removed is gone.
        let gone: Vec<usize> = (0..1_024).filter(|&place| medium.held[place].is_none()).collect();
        gone.iter().for_each(|&place| medium.synced[place] = None);
        medium.unsynced.retain(|change| {
            let (Change::Write { segment: of, .. }
            | Change::Truncate { segment: of, .. }
            | Change::Remove { segment: of }) = change;
            *of != segment && !gone.contains(&usize::from(*of))
        });
        medium.imagine();
        Ok(())
    }
    fn truncate(&mut self, segment: u16, length: u32) -> Result<(), MediumError> {
        self.change(Change::Truncate { segment, length })
    }
    fn remove(&mut self, segment: u16) -> Result<(), MediumError> {
        self.change(Change::Remove { segment })
    }
}

/// Opens the spool on `medium` as start `boot` and lets `body` work with it.
fn with_spool<T>(medium: &Handle, boot: u64, body: impl FnOnce(&mut Spool<'_, Handle>) -> T) -> T {
    let mut segments = vec![Segment::default(); SETTINGS.segments()];
    let mut buffer = vec![0; SETTINGS.buffer_bytes()];
    let memory = SpoolMemory { segments: &mut segments, buffer: &mut buffer };
    let mut spool = Spool::open(medium.clone(), SETTINGS, memory, BootId(boot)).expect("the settings fit");
    body(&mut spool)
}

fn append(spool: &mut Spool<'_, Handle>, lane: Lane) -> Option<Entry> {
    let mut made = None;
    let appended = spool.append(lane, |key, buffer| {
        let bytes = 10 + (key.sequence.0 as usize * 7 + key.boot.0 as usize) % 40;
        let frame: Vec<u8> =
            (0..bytes).map(|i| (key.sequence.0 * 31 + key.boot.0 * 7) as u8 ^ i as u8).collect();
        buffer[..bytes].copy_from_slice(&frame);
        made = Some(Entry { key, frame });
        Ok::<_, Infallible>(bytes)
    });
    appended.ok().and(made)
}

fn held_in(spool: &mut Spool<'_, Handle>) -> Vec<Entry> {
    let mut held = Vec::new();
    for lane in Lane::ALL {
        let mut after = None;
        while let Some(next) = spool.next(lane, after).expect("the medium can be read") {
            assert!(after.is_none_or(|after| next.position > after), "out of order");
            after = Some(next.position);
            held.push(Entry { key: next.key, frame: next.frame.to_vec() });
        }
    }
    held
}

fn check_sum(spool: &Spool<'_, Handle>, what: &str) {
    let counts = spool.counts();
    let spooled: u64 = Lane::ALL.into_iter().map(|lane| spool.records(lane)).sum();
    let gone = counts.acknowledged + counts.dropped.total(DropUnit::Record);
    assert_eq!(counts.appended + counts.recovered, gone + spooled, "{what}: {counts:?}");
}

/// Three starts that append, overflow, acknowledge in part and sync; gives every image on the way, and all that was made.
fn play_script() -> (Vec<Image>, Vec<Entry>) {
    let medium = Handle(Rc::new(RefCell::new(Medium::new())));
    let mut made: Vec<Entry> = Vec::new();
    for boot in 1..=3 {
        with_spool(&medium, boot, |spool| {
            for step in 0..24_u64 {
                let lane = if step % 3 == 0 { Lane::Deviations } else { Lane::RollUps };
                let images = medium.0.borrow().images.as_ref().map_or(0, Vec::len);
                made.extend(append(spool, lane));
                keep_safe(&medium, images, &held_in(spool));
                if step % 5 == 4 {
                    let held = held_in(spool);
                    let some: Vec<&Entry> = held.iter().filter(|entry| entry.key.lane == lane).collect();
                    if let Some(entry) = some.get(some.len() / 2) {
                        // Safe no more from the moment that the acknowledgement is known.
                        let covered = |known: &Entry| {
                            known.key.lane == lane
                                && known.key.boot == entry.key.boot
                                && known.key.sequence <= entry.key.sequence
                        };
                        medium.0.borrow_mut().safe.retain(|known| !covered(known));
                        spool.acknowledge(entry.key).expect("it was made");
                    }
                }
                if step % 4 == 3 {
                    spool.handle_window_closed(MonoMs(0));
                    let held = held_in(spool);
                    medium.0.borrow_mut().safe = held;
                }
            }
        });
    }
    let images = medium.0.borrow_mut().images.take().unwrap_or_default();
    (images, made)
}

/// What the append pushed out to make room need not be safe any more, nor in the images since it began.
fn keep_safe(medium: &Handle, images_before: usize, held: &[Entry]) {
    let mut medium = medium.0.borrow_mut();
    medium.safe.retain(|known| held.contains(known));
    let images = medium.images.as_mut().and_then(|images| images.get_mut(images_before..));
    for image in images.into_iter().flatten() {
        image.safe.retain(|known| held.contains(known));
    }
}

fn check(image: &Image, made: &[Entry]) {
    let mut medium = Medium::new();
    (medium.images, medium.synced) = (None, image.segments.clone());
    medium.held.clone_from(&image.segments);
    let medium = Handle(Rc::new(RefCell::new(medium)));
    let new = with_spool(&medium, 100, |spool| {
        check_sum(spool, &image.what);
        let held = held_in(spool);
        for entry in &held {
            assert!(made.contains(entry), "{}: {entry:?} was made up", image.what);
        }
        for entry in &image.safe {
            assert!(held.contains(entry), "{}: {:?} is lost", image.what, entry.key);
        }
        let new = append(spool, Lane::Deviations);
        check_sum(spool, &image.what);
        new.expect("a good medium takes a record")
    });
    let again = with_spool(&medium, 101, held_in);
    assert!(again.contains(&new), "{}: the new record is lost", image.what);
}

#[test]
fn every_image_of_a_power_cut_keeps_what_was_synced() {
    let (images, made) = play_script();
    assert!(images.len() > 5_000, "{} images are too few to show anything", images.len());
    images.iter().for_each(|image| check(image, &made));
}

/// An agent whose disk fails at the start writes nothing until it knows what is there: its records would stand before
/// those of earlier starts, whose acknowledgements would cover them.
#[test]
fn records_after_a_start_on_a_broken_medium_are_not_taken_for_acknowledged() {
    let medium = Handle(Rc::new(RefCell::new(Medium::new())));
    medium.0.borrow_mut().images = None;
    for boot in 1..=3 {
        with_spool(&medium, boot, |spool| {
            let entry = append(spool, Lane::RollUps).expect("a good medium takes a record");
            spool.acknowledge(entry.key).expect("it was made");
            append(spool, Lane::RollUps).expect("a good medium takes a record");
        });
    }
    medium.0.borrow_mut().fault = Some(StorageFault::Broken);
    let kept = with_spool(&medium, 4, |spool| {
        assert_eq!(append(spool, Lane::RollUps), None);
        medium.0.borrow_mut().fault = None;
        let kept = append(spool, Lane::RollUps).expect("the medium is well again");
        assert!(held_in(spool).len() >= 2, "what earlier starts left is there again");
        check_sum(spool, "after the medium recovered");
        kept
    });
    assert!(with_spool(&medium, 5, held_in).contains(&kept));
}

/// A start that finds nothing takes the first place in the order, as the one before it did: what that one wrote must not come
/// back, or what it said of acknowledgements would cover the younger records.
#[test]
fn what_an_earlier_start_said_of_acknowledgements_covers_no_younger_one() {
    let medium = Handle(Rc::new(RefCell::new(Medium::new())));
    let mut made = Vec::new();
    with_spool(&medium, 1, |spool| {
        // Roll-ups stand in the second segment, and begin in the first one after the next start.
        for lane in [Lane::Deviations, Lane::RollUps, Lane::RollUps, Lane::RollUps] {
            let entry = append(spool, lane).expect("a good medium takes a record");
            spool.handle_window_closed(MonoMs(0));
            spool.acknowledge(entry.key).expect("it was made");
            made.push(entry);
        }
    });
    with_spool(&medium, 2, |spool| {
        assert_eq!(held_in(spool), [], "everything was acknowledged");
        made.extend([append(spool, Lane::RollUps), append(spool, Lane::RollUps)].into_iter().flatten());
        spool.handle_window_closed(MonoMs(0));
        let held = held_in(spool);
        assert_eq!(held.len(), 2);
        medium.0.borrow_mut().safe = held;
        made.extend(append(spool, Lane::Deviations));
    });
    let images = medium.0.borrow_mut().images.take().unwrap_or_default();
    images.iter().for_each(|image| check(image, &made));
}
