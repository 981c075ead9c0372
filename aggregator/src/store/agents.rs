//! The agents that have certificates: which keys are theirs, for which regions they speak, and whose certificates were revoked.
//! It must never take a revoked agent back but under a token made for it by name.
//! The hard case is an agent that asked for another certificate and was killed before it could store it: the key that it has stays good
//! until the other one is used for the first time.

use rusqlite::{OptionalExtension, Transaction, TransactionBehavior, params};
use vedette_common::ids::AgentId;

use super::{Store, StoreError, TokenError, UnixMs};
use crate::identity::{Identity, Regions};

/// An agent that has a certificate, or had one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolledAgent {
    /// The agent's name.
    pub agent: String,
    /// SHA-256 of its public key; empty for an agent that was revoked and never known.
    pub key_fingerprint: Vec<u8>,
    /// The same of the key that it asked for a certificate for and has not used yet.
    pub next_fingerprint: Option<Vec<u8>>,
    /// The regions that it may speak for.
    pub regions: Regions,
    /// When it enrolled.
    pub enrolled_ms: UnixMs,
    /// End of its certificate's validity.
    pub not_after_ms: UnixMs,
    /// When its certificates were revoked.
    pub revoked_ms: Option<UnixMs>,
}

impl EnrolledAgent {
    /// Whether a key is one of the agent's.
    #[must_use]
    pub fn has_key(&self, fingerprint: &[u8; 32]) -> bool {
        self.key_fingerprint == fingerprint || self.next_fingerprint.as_deref() == Some(fingerprint)
    }
}

const COLUMNS: &str =
    "agent, key_fingerprint, next_fingerprint, regions, enrolled_ms, not_after_ms, revoked_ms FROM agents";

impl Store {
    /// The agents that have certificates or were revoked, by name.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn enrolled_agents(&self) -> Result<Vec<EnrolledAgent>, StoreError> {
        let mut statement = self.connection.prepare_cached(&format!("SELECT {COLUMNS} ORDER BY agent"))?;
        let rows = statement.query_map([], read)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Moves whenever an agent is revoked.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn agents_version(&self) -> Result<i64, StoreError> {
        let mut statement =
            self.connection.prepare_cached("SELECT version FROM versions WHERE name = 'agents'")?;
        Ok(statement.query_row([], |row| row.get(0))?)
    }

    /// Refuses every certificate of `agent` from now on, known or not; says whether it was known.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn revoke_agent(&mut self, agent: &AgentId, now_ms: UnixMs) -> Result<bool, StoreError> {
        self.change("agents", |transaction| {
            let rows = transaction
                .execute("UPDATE agents SET revoked_ms = ?2 WHERE agent = ?1", params![agent.as_str(), now_ms])?;
            if rows == 0 {
                transaction.execute(
                    "INSERT INTO agents (agent, key_fingerprint, regions, enrolled_ms, not_after_ms, revoked_ms)
                     VALUES (?1, x'', '', ?2, ?2, ?2)",
                    params![agent.as_str(), now_ms],
                )?;
            }
            Ok(rows > 0)
        })
    }

    /// Notes that the agent of `identity` gets a certificate for another key as well, and gives what it may speak for.
    ///
    /// # Errors
    /// [`TokenError::Revoked`] and [`TokenError::AgentKnown`] when the certificate that it asks with is no longer its own.
    pub fn renew_agent(
        &mut self,
        identity: &Identity,
        next: &[u8; 32],
        now_ms: UnixMs,
        not_after_ms: UnixMs,
    ) -> Result<EnrolledAgent, TokenError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let name = identity.agent.as_str();
        match find_agent(&transaction, &identity.agent)? {
            Some(known) if known.revoked_ms.is_some() => {
                return Err(TokenError::Revoked(identity.agent.clone()));
            }
            Some(known) if !known.has_key(&identity.key_fingerprint) => {
                return Err(TokenError::AgentKnown(identity.agent.clone()));
            }
            Some(_) => {}
            None => {
                let regions = regions_text(&identity.regions);
                transaction.execute(
                    "INSERT INTO agents (agent, key_fingerprint, regions, enrolled_ms, not_after_ms)
                     VALUES (?1, ?2, ?3, ?4, ?4)",
                    params![name, identity.key_fingerprint, regions, now_ms],
                )?;
            }
        }
        transaction.execute(
            "UPDATE agents SET key_fingerprint = ?2, next_fingerprint = ?3, not_after_ms = ?4 WHERE agent = ?1",
            params![name, identity.key_fingerprint, next, not_after_ms],
        )?;
        let renewed = find_agent(&transaction, &identity.agent)?.ok_or(TokenError::Unknown)?;
        transaction.commit()?;
        Ok(renewed)
    }

    /// The agent used the key that it asked for: its former one is good no longer. Gives whether there was such a key.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn settle_agent(&mut self, agent: &AgentId, key: &[u8; 32]) -> Result<bool, StoreError> {
        let rows = self.connection.execute(
            "UPDATE agents SET key_fingerprint = ?2, next_fingerprint = NULL
             WHERE agent = ?1 AND next_fingerprint = ?2 AND revoked_ms IS NULL",
            params![agent.as_str(), key],
        )?;
        Ok(rows > 0)
    }
}

/// The row of an agent.
pub(super) fn find_agent(
    transaction: &Transaction<'_>,
    agent: &AgentId,
) -> rusqlite::Result<Option<EnrolledAgent>> {
    let query = format!("SELECT {COLUMNS} WHERE agent = ?1");
    transaction.query_row(&query, [agent.as_str()], read).optional()
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<EnrolledAgent> {
    Ok(EnrolledAgent {
        agent: row.get(0)?,
        key_fingerprint: row.get(1)?,
        next_fingerprint: row.get(2)?,
        regions: regions_of(&row.get::<_, String>(3)?),
        enrolled_ms: row.get(4)?,
        not_after_ms: row.get(5)?,
        revoked_ms: row.get(6)?,
    })
}

/// Region names hold no white space, so a space separates them.
pub(super) fn regions_text(regions: &Regions) -> String {
    regions.names().collect::<Vec<_>>().join(" ")
}

/// The reverse of [`regions_text`]. Only what [`Regions`] wrote is read, but a damaged row must not become a right:
/// it grants a region that nobody has.
pub(super) fn regions_of(text: &str) -> Regions {
    Regions::parse(text.split(' ')).unwrap_or_else(|_| Regions::none())
}
