//! The transaction behind every acknowledgement: accepted inputs, the effects they had and how far each session is.
//! It must never be split: either all of a batch is on the disk or nothing of it.
//! The hard case is recovery: inputs after the last picture of the core are replayed, so their effects come a second time;
//! states and ledger entries that are here already are left alone, and nobody is notified of them twice.

use rusqlite::{OptionalExtension, Transaction, TransactionBehavior, params};
use sha2::{Digest, Sha256};
use vedette_common::ids::{AgentId, RecordKey};
use vedette_common::units::{MonoMs, Now, WallMs};

use super::{Store, StoreError, UnixMs};

/// What a journal row holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum JournalKind {
    /// A frame, header included; `source` is the agent, then the regions it may speak for.
    Frame = 1,
    /// A deadline that the core handled; no body.
    Deadline = 2,
    /// The calendar's entries, as JSON.
    Calendar = 3,
    /// The silences, as JSON.
    Silences = 4,
}

impl JournalKind {
    /// The kind with this number, if there is one.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Frame),
            2 => Some(Self::Deadline),
            3 => Some(Self::Calendar),
            4 => Some(Self::Silences),
            _ => None,
        }
    }
}

/// One input that the core took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalRow {
    /// Order of the inputs; one more than the row before.
    pub position: i64,
    /// When the core took it.
    pub now: Now,
    /// What `body` holds.
    pub kind: JournalKind,
    /// Where it came from.
    pub source: String,
    /// The input.
    pub body: Vec<u8>,
}

/// One state that an incident entered, to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredState {
    /// The incident.
    pub id: String,
    /// `open`, `suppressed` or `resolved`.
    pub state: String,
    /// `malfunction` or `telemetry`.
    pub kind: String,
    /// The event time at which the state was entered, RFC 3339.
    pub at: String,
    /// The alarm object as JSON.
    pub body: String,
    /// The notifiers that are to be told.
    pub notifiers: Vec<String>,
}

/// A picture of the core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreState {
    /// The last input that is part of it.
    pub position: i64,
    /// The core's time.
    pub now: Now,
    /// The state as JSON.
    pub body: String,
}

/// Everything that one transaction commits.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    /// Inputs that the core took.
    pub journal: Vec<JournalRow>,
    /// Positions that will be acknowledged once this is committed.
    pub acknowledged: Vec<(AgentId, RecordKey)>,
    /// States that incidents entered.
    pub states: Vec<StoredState>,
    /// Ledger entries: incident and JSON.
    pub ledger: Vec<(String, String)>,
    /// A picture of the core after all of the above; the journal is emptied.
    pub core_state: Option<CoreState>,
}

impl Batch {
    /// Whether committing it would change nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.journal.is_empty()
            && self.acknowledged.is_empty()
            && self.states.is_empty()
            && self.ledger.is_empty()
            && self.core_state.is_none()
    }
}

/// What a restart begins with.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The last picture of the core.
    pub core_state: Option<CoreState>,
    /// Inputs after it, in order.
    pub journal: Vec<JournalRow>,
}

impl Store {
    /// Commits `batch` to the disk; gives the number of deliveries given up because a notifier's queue was longer than `outbox_max`.
    ///
    /// # Errors
    /// What SQLite says; nothing of the batch is stored then.
    pub fn commit(&mut self, batch: &Batch, now_ms: UnixMs, outbox_max: u32) -> Result<u64, StoreError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        insert_journal(&transaction, &batch.journal)?;
        insert_sessions(&transaction, &batch.acknowledged)?;
        let mut dropped = 0;
        for state in &batch.states {
            dropped += insert_state(&transaction, state, now_ms, outbox_max)?;
        }
        insert_ledger(&transaction, &batch.ledger, now_ms)?;
        if let Some(core_state) = &batch.core_state {
            replace_core_state(&transaction, core_state)?;
        }
        transaction.commit()?;
        Ok(dropped)
    }

    /// The last picture of the core and the inputs since.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn recover(&self) -> Result<Recovered, StoreError> {
        let core_state = self
            .connection
            .query_row("SELECT position, mono_ms, wall_ms, body FROM core_state", [], |row| {
                Ok(CoreState {
                    position: row.get(0)?,
                    now: now_of(row.get(1)?, row.get(2)?),
                    body: row.get(3)?,
                })
            })
            .optional()?;
        let mut statement = self.connection.prepare(
            "SELECT position, mono_ms, wall_ms, kind, source, body FROM journal WHERE position > ?1 ORDER BY position",
        )?;
        let after = core_state.as_ref().map_or(i64::MIN, |state| state.position);
        let journal = statement.query_map([after], journal_row)?.collect::<Result<_, _>>()?;
        Ok(Recovered { core_state, journal })
    }

    /// How far the lane of `key` is committed for `agent`, and so acknowledged at most.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn acknowledged_through(&self, agent: &AgentId, key: RecordKey) -> Result<Option<u64>, StoreError> {
        Ok(self
            .connection
            .query_row(
                "SELECT through FROM sessions WHERE agent = ?1 AND boot = ?2 AND lane = ?3",
                params![agent.as_str(), boot_text(key), key.lane.as_str()],
                |row| row.get::<_, i64>(0),
            )
            .optional()?
            .and_then(|through| u64::try_from(through).ok()))
    }
}

fn insert_journal(transaction: &Transaction<'_>, rows: &[JournalRow]) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO journal (position, mono_ms, wall_ms, kind, source, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    for row in rows {
        let mono_ms = i64::try_from(row.now.mono.0).unwrap_or(i64::MAX);
        statement.execute(params![
            row.position,
            mono_ms,
            row.now.wall.0,
            row.kind as u8,
            row.source,
            row.body
        ])?;
    }
    Ok(())
}

/// A boot is a random 64-bit number; SQLite's integers are signed, so it is kept as text.
fn boot_text(key: RecordKey) -> String {
    format!("{:016x}", key.boot.0)
}

fn insert_sessions(
    transaction: &Transaction<'_>,
    acknowledged: &[(AgentId, RecordKey)],
) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO sessions (agent, boot, lane, through) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE SET through = max(through, excluded.through)",
    )?;
    for (agent, key) in acknowledged {
        let through = i64::try_from(key.sequence.0).unwrap_or(i64::MAX);
        statement.execute(params![agent.as_str(), boot_text(*key), key.lane.as_str(), through])?;
    }
    Ok(())
}

/// Inserts the state and its deliveries, unless a replay brought it here before; gives the number of deliveries given up.
fn insert_state(
    transaction: &Transaction<'_>,
    state: &StoredState,
    now_ms: UnixMs,
    outbox_max: u32,
) -> rusqlite::Result<u64> {
    let inserted = transaction
        .prepare_cached(
            "INSERT OR IGNORE INTO incidents (id, state, kind, at, written_ms, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![state.id, state.state, state.kind, state.at, now_ms, state.body])?;
    if inserted == 0 {
        return Ok(0);
    }
    let number = transaction.last_insert_rowid();
    let key = format!("{}-{}-{number}", state.id, state.state);
    let mut dropped = 0;
    for notifier in &state.notifiers {
        dropped += super::outbox::insert(transaction, notifier, &key, number, now_ms, outbox_max)?;
    }
    Ok(dropped)
}

/// The digest recognises an entry that a replay brings again.
fn insert_ledger(
    transaction: &Transaction<'_>,
    entries: &[(String, String)],
    now_ms: UnixMs,
) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached(
        "INSERT OR IGNORE INTO ledger (id, digest, written_ms, body) VALUES (?1, ?2, ?3, ?4)",
    )?;
    for (id, body) in entries {
        let digest: [u8; 32] = Sha256::digest(format!("{id}\n{body}")).into();
        statement.execute(params![id, digest, now_ms, body])?;
    }
    Ok(())
}

fn replace_core_state(transaction: &Transaction<'_>, state: &CoreState) -> rusqlite::Result<()> {
    let mono_ms = i64::try_from(state.now.mono.0).unwrap_or(i64::MAX);
    transaction.execute(
        "INSERT OR REPLACE INTO core_state (id, position, mono_ms, wall_ms, body) VALUES (1, ?1, ?2, ?3, ?4)",
        params![state.position, mono_ms, state.now.wall.0, state.body],
    )?;
    transaction.execute("DELETE FROM journal WHERE position <= ?1", [state.position])?;
    Ok(())
}

fn now_of(mono_ms: i64, wall_ms: i64) -> Now {
    Now { mono: MonoMs(u64::try_from(mono_ms).unwrap_or(0)), wall: WallMs(wall_ms) }
}

fn journal_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<JournalRow> {
    let number: u8 = row.get(3)?;
    let kind =
        JournalKind::from_number(number).ok_or(rusqlite::Error::IntegralValueOutOfRange(3, number.into()))?;
    Ok(JournalRow {
        position: row.get(0)?,
        now: now_of(row.get(1)?, row.get(2)?),
        kind,
        source: row.get(4)?,
        body: row.get(5)?,
    })
}
