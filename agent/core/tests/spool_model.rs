//! The spool against a plain queue: random appends, acknowledgements, refusals, faults of the medium, syncs,
//! kills and power cuts, with limits shrunk so that everything overflows.
//!
//! What must hold after every step: appended + recovered = acknowledged + spooled + dropped; what comes out is
//! the newer end of what went in, in order; roll-ups push out no deviation; the cap holds on the medium. A
//! kill loses nothing; a power cut loses nothing that was synced.
use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use proptest::prelude::*;
use vedette_agent_core::spool::{
    AppendError, Segment, Spool, SpoolMemory, SpoolSettings, Storage, StorageFault, SyncPolicy,
};
use vedette_common::drops::DropUnit;
use vedette_common::{BootId, Lane, MonoMs, RecordKey};

const SETTINGS: SpoolSettings = SpoolSettings {
    bytes_max: 1600,
    segment_bytes: 200,
    deviations_bytes_max: 800,
    frame_bytes_max: 60,
    sync: SyncPolicy::EachWindow,
};

/// A medium that remembers what was synced, can be told to fail, and can lose its power.
#[derive(Default)]
struct Medium {
    segments: Vec<Option<Vec<u8>>>,
    synced: Vec<Option<Vec<u8>>>,
    fault: Option<StorageFault>,
    /// Bytes of a failing write that arrive all the same.
    arrives: usize,
}

#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("{0:?}")]
struct MediumError(StorageFault);

impl Medium {
    fn change(&self) -> Result<(), MediumError> {
        self.fault.map_or(Ok(()), |fault| Err(MediumError(fault)))
    }

    fn bytes(&self) -> usize {
        self.segments.iter().flatten().map(Vec::len).sum()
    }

    /// What was synced survives; of the rest of each segment so many hundredths, perhaps ending in garbage.
    fn cut_power(&mut self, keep: usize, garbage: bool) {
        for (held, synced) in self.segments.iter_mut().zip(&mut self.synced) {
            if let Some(bytes) = held {
                let same =
                    bytes.iter().zip(synced.iter().flatten()).take_while(|(held, synced)| held == synced);
                let safe = same.count();
                let kept = safe + (bytes.len() - safe) * keep / 100;
                bytes.truncate(kept);
                if garbage && kept > safe {
                    bytes[kept - 1] ^= 0x55;
                }
            }
            synced.clone_from(held);
        }
    }
}

#[derive(Clone)]
struct Handle(Rc<RefCell<Medium>>);

impl Storage for Handle {
    type Error = MediumError;
    fn fault(error: &MediumError) -> StorageFault {
        error.0
    }
    fn length(&mut self, segment: u16) -> Result<Option<u32>, MediumError> {
        Ok(self.0.borrow().segments[usize::from(segment)].as_ref().map(|bytes| bytes.len() as u32))
    }
    fn read(&mut self, segment: u16, at: u32, out: &mut [u8]) -> Result<usize, MediumError> {
        let medium = self.0.borrow();
        let broken = MediumError(StorageFault::Broken);
        if medium.fault == Some(StorageFault::Broken) {
            return Err(broken);
        }
        let held = medium.segments[usize::from(segment)].as_ref().ok_or(broken)?;
        let rest = held.get(at as usize..).ok_or(broken)?;
        let taken = rest.len().min(out.len());
        out[..taken].copy_from_slice(&rest[..taken]);
        Ok(taken)
    }
    fn write(&mut self, segment: u16, at: u32, bytes: &[u8]) -> Result<(), MediumError> {
        let mut medium = self.0.borrow_mut();
        let result = medium.change();
        let arrives = if result.is_ok() { bytes.len() } else { medium.arrives.min(bytes.len()) };
        if arrives > 0 {
            let (at, held) =
                (at as usize, medium.segments[usize::from(segment)].get_or_insert_with(Vec::new));
            assert!(held.len() >= at, "a hole in a segment");
            held.resize(held.len().max(at + arrives), 0);
            held[at..at + arrives].copy_from_slice(&bytes[..arrives]);
        }
        result
    }
    fn sync(&mut self, segment: u16) -> Result<(), MediumError> {
        let mut medium = self.0.borrow_mut();
        medium.change()?;
        medium.synced[usize::from(segment)] = medium.segments[usize::from(segment)].clone();
        Ok(())
    }
    fn truncate(&mut self, segment: u16, length: u32) -> Result<(), MediumError> {
        let mut medium = self.0.borrow_mut();
        medium.change()?;
        if let Some(bytes) = &mut medium.segments[usize::from(segment)] {
            bytes.truncate(length as usize);
        }
        Ok(())
    }
    fn remove(&mut self, segment: u16) -> Result<(), MediumError> {
        let mut medium = self.0.borrow_mut();
        // A full medium still lets go of segments.
        if medium.fault != Some(StorageFault::Full) {
            medium.change()?;
        }
        medium.segments[usize::from(segment)] = None;
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Append {
        lane: Lane,
        bytes: usize,
    },
    /// Acknowledges the record at this part of the queue, in hundredths.
    Acknowledge {
        lane: Lane,
        part: usize,
    },
    Refuse {
        lane: Lane,
    },
    WindowClosed,
    Fault {
        fault: Option<StorageFault>,
        arrives: usize,
    },
    /// The process ends; the medium keeps everything.
    Kill,
    PowerCut {
        keep: usize,
        garbage: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let lane = prop_oneof![Just(Lane::Deviations), Just(Lane::RollUps)];
    let fault =
        prop_oneof![2 => Just(None), 1 => prop::sample::select(&StorageFault::ALL[..]).prop_map(Some)];
    let step = prop_oneof![
        12 => (lane.clone(), 1usize..60).prop_map(|(lane, bytes)| Step::Append { lane, bytes }),
        4 => (lane.clone(), 0usize..100).prop_map(|(lane, part)| Step::Acknowledge { lane, part }),
        1 => lane.prop_map(|lane| Step::Refuse { lane }),
        3 => Just(Step::WindowClosed),
        2 => (fault, 0usize..110).prop_map(|(fault, arrives)| Step::Fault { fault, arrives }),
        1 => Just(Step::Kill),
        1 => (0usize..=100, any::<bool>()).prop_map(|(keep, garbage)| Step::PowerCut { keep, garbage }),
    ];
    prop::collection::vec(step, 1..150)
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    key: RecordKey,
    frame: Vec<u8>,
}

/// The plain queue of each lane, and what a crash may bring back or take.
#[derive(Default)]
struct Model {
    queues: [Vec<Entry>; 2],
    /// Keys in the queues that were synced.
    synced: Vec<RecordKey>,
    /// Keys in the queues that were acknowledged while the medium failed: still there, or not after a restart.
    acknowledged: Vec<RecordKey>,
    /// Everything ever made, taken by the medium or not.
    made: Vec<Entry>,
}

type SpoolUnderTest<'m> = Spool<'m, Handle>;

fn drain(spool: &mut SpoolUnderTest<'_>, lane: Lane) -> Vec<Entry> {
    let (mut out, mut after) = (Vec::new(), None);
    while let Some(next) = spool.next(lane, after).expect("the medium can be read") {
        assert!(after.is_none_or(|after| next.position > after), "out of order");
        out.push(Entry { key: next.key, frame: next.frame.to_vec() });
        after = Some(next.position);
    }
    assert_eq!(out.len() as u64, spool.records(lane));
    assert_eq!(out.first().map(|entry| entry.key), spool.horizon(lane));
    out
}

impl Model {
    /// After a step of a running spool: what is left of each lane is the newer end of its queue.
    fn check_running(&mut self, spool: &mut SpoolUnderTest<'_>, deviations_stay: bool) {
        for (lane, queue) in Lane::ALL.into_iter().zip(&mut self.queues) {
            let out = drain(spool, lane);
            assert!(queue.ends_with(&out), "{lane:?}: {queue:?} does not end with {out:?}");
            assert!(!deviations_stay || lane == Lane::RollUps || *queue == out, "deviations were pushed out");
            *queue = out;
        }
    }

    /// After opening: nothing was made up, and what must have survived is there.
    fn check_opened(&mut self, spool: &mut SpoolUnderTest<'_>, power_was_cut: bool) {
        for (lane, queue) in Lane::ALL.into_iter().zip(&mut self.queues) {
            let out = drain(spool, lane);
            assert!(out.iter().all(|entry| self.made.contains(entry)), "{out:?} was made up");
            let safe = |entry: &&Entry| !power_was_cut || self.synced.contains(&entry.key);
            for entry in queue.iter().filter(safe) {
                let settled = self.acknowledged.contains(&entry.key);
                assert!(settled || out.contains(entry), "{entry:?} is lost");
            }
            *queue = out;
        }
    }

    fn take(&mut self, spool: &mut SpoolUnderTest<'_>, medium: &Handle, step: Step) {
        match step {
            Step::Append { lane, bytes } => {
                let mut made = None;
                let appended = spool.append(lane, |key, buffer| {
                    let frame: Vec<u8> =
                        (0..bytes).map(|i| (key.sequence.0 * 31 + key.boot.0 * 7) as u8 ^ i as u8).collect();
                    buffer[..bytes].copy_from_slice(&frame);
                    made = Some(Entry { key, frame });
                    Ok::<_, Infallible>(bytes)
                });
                let made = made.expect("append calls its closure");
                self.made.push(made.clone());
                match appended {
                    Ok(_) => self.queues[lane.index()].push(made),
                    Err(AppendError::Dropped { key, .. }) => assert_eq!(key, made.key),
                    Err(other) => panic!("{other}"),
                }
            }
            Step::Acknowledge { lane, part } => {
                let queue = &self.queues[lane.index()];
                let through = queue.len() * part / 100;
                if let Some(entry) = queue.get(through) {
                    spool.acknowledge(entry.key).expect("the record was made");
                    let covered = queue[..=through].iter().filter(|other| other.key.boot == entry.key.boot);
                    self.acknowledged.extend(covered.map(|other| other.key));
                }
            }
            Step::Refuse { lane } => {
                if let Some(entry) = self.queues[lane.index()].first() {
                    spool.refuse(entry.key).expect("the record was made");
                    self.acknowledged.push(entry.key);
                }
            }
            Step::WindowClosed => {
                spool.handle_window_closed(MonoMs(0));
                if medium.0.borrow().fault.is_none() {
                    self.synced = self.queues.iter().flatten().map(|entry| entry.key).collect();
                }
            }
            Step::Fault { fault, arrives } => {
                let mut medium = medium.0.borrow_mut();
                (medium.fault, medium.arrives) = (fault, arrives);
            }
            Step::Kill | Step::PowerCut { .. } => unreachable!("these end the process"),
        }
    }
}

fn check_sum(spool: &SpoolUnderTest<'_>) {
    let counts = spool.counts();
    let spooled: u64 = Lane::ALL.into_iter().map(|lane| spool.records(lane)).sum();
    let gone = counts.acknowledged + counts.dropped.total(DropUnit::Record);
    assert_eq!(counts.appended + counts.recovered, gone + spooled, "{counts:?}");
}

/// One process: opens the spool and takes steps until one ends it, which it gives.
fn live(
    model: &mut Model,
    medium: &Handle,
    boot: u64,
    before: Step,
    steps: &mut std::vec::IntoIter<Step>,
) -> Option<Step> {
    let mut segments = [Segment::default(); 8];
    let mut buffer = [0; SETTINGS.buffer_bytes()];
    let memory = SpoolMemory { segments: &mut segments, buffer: &mut buffer };
    let mut spool = Spool::open(medium.clone(), SETTINGS, memory, BootId(boot)).expect("the settings fit");
    check_sum(&spool);
    model.check_opened(&mut spool, matches!(before, Step::PowerCut { .. }));
    for step in steps {
        if matches!(step, Step::Kill | Step::PowerCut { .. }) {
            return Some(step);
        }
        model.take(&mut spool, medium, step);
        check_sum(&spool);
        assert!(medium.0.borrow().bytes() <= SETTINGS.bytes_max as usize, "over the cap");
        assert!(spool.bytes() <= u64::from(SETTINGS.bytes_max), "over the cap");
        if medium.0.borrow().fault != Some(StorageFault::Broken) {
            let may_change = matches!(
                step,
                Step::Append { lane: Lane::Deviations, .. }
                    | Step::Acknowledge { lane: Lane::Deviations, .. }
                    | Step::Refuse { lane: Lane::Deviations }
                    | Step::Fault { .. }
            );
            model.check_running(&mut spool, !may_change);
        }
    }
    None
}

fn run(steps: Vec<Step>) {
    let room = Medium { segments: vec![None; 1024], synced: vec![None; 1024], ..Medium::default() };
    let medium = Handle(Rc::new(RefCell::new(room)));
    let mut model = Model::default();
    let mut steps = steps.into_iter();
    let mut ended = Step::Kill;
    for boot in 1.. {
        match live(&mut model, &medium, boot, ended, &mut steps) {
            Some(step) => ended = step,
            None => break,
        }
        let mut medium = medium.0.borrow_mut();
        medium.fault = None;
        if let Step::PowerCut { keep, garbage } = ended {
            medium.cut_power(keep, garbage);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_spool_behaves_like_a_queue(steps in steps()) {
        run(steps);
    }
}
