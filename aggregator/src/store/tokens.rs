//! Enrolment tokens.
//! It must never hold a token's secret, only its SHA-256, nor answer two enrolments with one token.
//! The hard case is two agents that present the same token at once: the check and the mark share one transaction.

use rusqlite::{OptionalExtension, TransactionBehavior, params};
use vedette_common::ids::AgentId;

use super::agents::{find_agent, regions_of, regions_text};
use super::{Store, StoreError, UnixMs};
use crate::identity::Regions;
use crate::limits::{TOKEN_MEMORY, TOKENS_MAX};

/// A token to be stored.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// SHA-256 of its secret.
    pub secret_hash: [u8; 32],
    /// The regions that it grants.
    pub regions: Regions,
    /// The agent whose key it may replace: none, one by name, or `*` for any.
    pub replaces: Option<String>,
    /// When it stops being valid.
    pub expires_ms: UnixMs,
}

/// What a token granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The regions for the certificate.
    pub regions: Regions,
}

/// Why a token was not taken.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// No such token.
    #[error("the token is not known here")]
    Unknown,
    /// It was used before.
    #[error("the token was used before; each is for one enrolment")]
    Used,
    /// It is past its time.
    #[error("the token has expired")]
    Expired,
    /// The agent's certificates were revoked.
    #[error("agent {0} was revoked; `token create --replace {0}` makes a token that takes it back")]
    Revoked(AgentId),
    /// The name belongs to another key.
    #[error(
        "agent {0} has enrolled with another key; `token create --replace {0}` makes a token that may replace it"
    )]
    AgentKnown(AgentId),
    /// There are too many unused tokens.
    #[error("{TOKENS_MAX} unused tokens exist, which is the limit; they go when they are used or expire")]
    TooMany,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for TokenError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

struct TokenRow {
    regions: String,
    replaces: String,
    expires_ms: UnixMs,
    used: bool,
}

impl Store {
    /// Stores a token, and forgets those that were used or expired long ago.
    ///
    /// # Errors
    /// [`TokenError::TooMany`] when the table is full, or what SQLite says.
    pub fn create_token(&mut self, token: &NewToken, now_ms: UnixMs) -> Result<(), TokenError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let forget_ms = now_ms.saturating_sub(i64::try_from(TOKEN_MEMORY.as_millis()).unwrap_or(i64::MAX));
        transaction.execute("DELETE FROM tokens WHERE coalesce(used_ms, expires_ms) < ?1", [forget_ms])?;
        let unused: i64 = transaction.query_row(
            "SELECT count(*) FROM tokens WHERE used_ms IS NULL AND expires_ms > ?1",
            [now_ms],
            |row| row.get(0),
        )?;
        if usize::try_from(unused).unwrap_or(0) >= TOKENS_MAX {
            return Err(TokenError::TooMany);
        }
        transaction.execute(
            "INSERT INTO tokens (secret_hash, regions, replaces, created_ms, expires_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                token.secret_hash,
                regions_text(&token.regions),
                token.replaces.as_deref().unwrap_or(""),
                now_ms,
                token.expires_ms
            ],
        )?;
        transaction.commit()?;
        Ok(())
    }

    /// Whether the token can still be used.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn token_is_usable(&self, secret_hash: &[u8; 32], now_ms: UnixMs) -> Result<bool, StoreError> {
        Ok(self.connection.query_row(
            "SELECT count(*) FROM tokens WHERE secret_hash = ?1 AND used_ms IS NULL AND expires_ms > ?2",
            params![secret_hash, now_ms],
            |row| row.get::<_, i64>(0),
        )? > 0)
    }

    /// Uses the token up for `agent` and its key. The same agent with the same key may enrol again under any fresh token; another key only
    /// under a token that replaces it, and a revoked agent only under one that names it. A token that is refused for the agent's name is not
    /// used up.
    ///
    /// # Errors
    /// [`TokenError`] with the reason.
    pub fn use_token(
        &mut self,
        secret_hash: &[u8; 32],
        agent: &AgentId,
        key_fingerprint: &[u8; 32],
        now_ms: UnixMs,
        not_after_ms: UnixMs,
    ) -> Result<Grant, TokenError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let token = find_token(&transaction, secret_hash)?.ok_or(TokenError::Unknown)?;
        if token.used {
            return Err(TokenError::Used);
        }
        if token.expires_ms <= now_ms {
            return Err(TokenError::Expired);
        }
        let known = find_agent(&transaction, agent)?;
        let is_named = token.replaces == agent.as_str();
        if known.as_ref().is_some_and(|known| known.revoked_ms.is_some()) && !is_named {
            return Err(TokenError::Revoked(agent.clone()));
        }
        let may_replace = is_named || token.replaces == "*";
        if known.is_some_and(|known| !known.has_key(key_fingerprint)) && !may_replace {
            return Err(TokenError::AgentKnown(agent.clone()));
        }
        transaction.execute(
            "UPDATE tokens SET used_ms = ?2, used_by = ?3 WHERE secret_hash = ?1",
            params![secret_hash, now_ms, agent.as_str()],
        )?;
        transaction.execute(
            "INSERT OR REPLACE INTO agents (agent, key_fingerprint, regions, enrolled_ms, not_after_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![agent.as_str(), key_fingerprint, token.regions, now_ms, not_after_ms],
        )?;
        transaction.commit()?;
        Ok(Grant { regions: regions_of(&token.regions) })
    }
}

fn find_token(
    transaction: &rusqlite::Transaction<'_>,
    secret_hash: &[u8; 32],
) -> rusqlite::Result<Option<TokenRow>> {
    transaction
        .query_row(
            "SELECT regions, replaces, expires_ms, used_ms IS NOT NULL FROM tokens WHERE secret_hash = ?1",
            [secret_hash],
            |row| {
                Ok(TokenRow {
                    regions: row.get(0)?,
                    replaces: row.get(1)?,
                    expires_ms: row.get(2)?,
                    used: row.get(3)?,
                })
            },
        )
        .optional()
}
