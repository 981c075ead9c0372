//! The books: what the agent's disk and the aggregator's database say of every boot of the agent, and what must agree.
//!
//! It must never forget a boot that it once saw. The hard case is that the aggregator remembers the latest boots alone, and that the
//! spool's files go with their last acknowledgement: each is read at every kill, and the highest of each counts.
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;
use vedette_agent_core::spool::record;
use vedette_aggregator::state_folder::StateFolder;
use vedette_aggregator::store::Store;

use super::stage::{Stage, Sums};

/// A boot of the agent and a lane of its records.
type Stream = (u64, usize);

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Books {
    /// The highest sequence that stood on the agent's disk.
    on_disk: BTreeMap<Stream, u64>,
    /// The highest sequence that the database says is applied.
    applied: BTreeMap<Stream, u64>,
    /// Records made by processes of the agent that are dead, as far as they could be asked before.
    made_before: u64,
    /// The same of the living one.
    made_now: u64,
    /// Records on disk that were compared with the database.
    pub(super) compared: u64,
    /// Those of them that the database did not have.
    pub(super) spooled: u64,
    /// What was applied when the living process of the aggregator began.
    applied_before: Option<u64>,
}

impl Books {
    /// Records that were made for sure.
    pub(super) fn made(&self) -> u64 {
        self.made_before + self.made_now
    }

    fn applied(&self) -> u64 {
        self.applied.values().sum()
    }

    /// The agent is about to die, or everything is about to drain: what it has made so far must arrive.
    pub(super) fn note_agent(&mut self, stage: &Stage) {
        if let Some(sums) = stage.agent_sums() {
            assert!(sums.holds(), "the agent's sum does not hold: {sums:?}");
            assert_eq!(sums.dropped, 0, "nothing need be dropped");
            self.made_now = self.made_now.max(sums.made);
        }
    }

    /// Reads the spool of an agent that is dead: what its records say is acknowledged must be in the database.
    pub(super) fn compare_disks(&mut self, stage: &Stage) {
        let spooled = read_spool(&stage.spool());
        self.note_store(stage);
        self.made_before += std::mem::take(&mut self.made_now);
        for found in spooled {
            let stream = (found.boot, found.lane);
            let highest = self.on_disk.entry(stream).or_default();
            *highest = (*highest).max(found.sequence);
            self.compared += 1;
            self.spooled +=
                u64::from(self.applied.get(&stream).is_none_or(|applied| found.sequence > *applied));
            // The acknowledgement in a record's head is that of the record's own boot if the ordinals say so.
            if found.acknowledged_ordinal == found.ordinal && found.acknowledged > 0 {
                let applied = self.applied.get(&stream).copied().unwrap_or(0);
                assert!(
                    found.acknowledged <= applied,
                    "acknowledged through {} of {stream:?}, but only {applied} are in the database",
                    found.acknowledged
                );
            }
        }
    }

    /// Reads the database: what is applied of each boot, and that nothing was ever given up.
    pub(super) fn note_store(&mut self, stage: &Stage) {
        for (stream, through) in read_sessions(&stage.aggregator_folder()) {
            let applied = self.applied.entry(stream).or_default();
            assert!(through >= *applied, "{stream:?} went back from {applied} to {through}");
            *applied = through;
        }
    }

    /// Whether everything is delivered; with the sums that must hold then.
    pub(super) fn balance(&mut self, stage: &Stage) -> Option<()> {
        let sums = stage.agent_sums()?;
        assert!(sums.holds(), "the agent's sum does not hold: {sums:?}");
        self.made_now = self.made_now.max(sums.made);
        let accepted = stage.accepted()?;
        self.note_store(stage);
        let now = stage.agent_sums()?;
        if now.spooled > 0 || now.made != sums.made || self.applied() < self.made() {
            return None;
        }
        self.note_store(stage);
        for (stream, sequence) in &self.on_disk {
            let applied = self.applied.get(stream).copied().unwrap_or(0);
            assert!(
                applied >= *sequence,
                "{stream:?} stood on the disk through {sequence}, {applied} are applied"
            );
        }
        // What a killed process made after it was last asked is known to the database alone; it is made from here on.
        self.made_before = self.applied() - self.made_now;
        // Each record that this process took as new moved its lane by one: none was taken twice.
        let taken = self.applied() - *self.applied_before.get_or_insert(0);
        assert!(accepted <= taken, "{accepted} records were applied, the database moved by {taken}");
        Some(())
    }

    /// A new process of the aggregator counts from here.
    pub(super) fn begin_aggregator(&mut self) {
        self.applied_before = Some(self.applied());
    }
}

impl Sums {
    /// Nothing is gone without a count.
    fn holds(&self) -> bool {
        self.made + self.recovered == self.delivered + self.spooled + self.dropped
    }
}

/// A record in the spool's files.
struct Found {
    boot: u64,
    lane: usize,
    ordinal: u32,
    sequence: u64,
    acknowledged_ordinal: u32,
    acknowledged: u64,
}

/// Every whole record in a folder of segments.
fn read_spool(folder: &Path) -> Vec<Found> {
    let mut found = Vec::new();
    for file in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = file.file_name().to_string_lossy().into_owned();
        let number = name.strip_prefix("segment-").and_then(|rest| rest.strip_suffix(".spool"));
        let Some(number) = number.and_then(|digits| digits.parse().ok()) else { continue };
        let bytes = fs::read(file.path()).expect("a segment can be read");
        found.extend(record::records(number, &bytes).map(|(head, _)| Found {
            boot: head.position.boot.0,
            lane: head.lane.index(),
            ordinal: head.position.ordinal,
            sequence: head.position.sequence.0,
            acknowledged_ordinal: head.acknowledged.ordinal,
            acknowledged: head.acknowledged.sequence.0,
        }));
    }
    found
}

/// What the database says of the agents' boots.
fn read_sessions(folder: &Path) -> Vec<(Stream, u64)> {
    let folder = StateFolder::open(folder).expect("the aggregator's folder is there");
    let parts = Store::open(&folder).and_then(|store| store.parts()).expect("the database can be read");
    let sessions = parts.iter().filter(|(key, _)| key.starts_with("session/"));
    sessions.flat_map(|(_, body)| streams(&serde_json::from_str(body).expect("a part is JSON"))).collect()
}

fn streams(part: &Value) -> Vec<(Stream, u64)> {
    let session = session_in(part).expect("a session has boots");
    assert_eq!(session["missing"], 0, "records were given up: {session}");
    let boots = session["boots"].as_array().into_iter().flatten();
    boots
        .flat_map(|boot| {
            let id = boot["boot"].as_u64().expect("a boot has an id");
            let through = boot["through"].as_array().into_iter().flatten().enumerate();
            through.map(move |(lane, sequence)| ((id, lane), sequence.as_u64().unwrap_or(0)))
        })
        .collect()
}

/// The object with the boots, however it is wrapped.
fn session_in(part: &Value) -> Option<&Value> {
    if part.get("boots").is_some() {
        return Some(part);
    }
    part.as_object()?.values().find_map(session_in)
}
