//! What operators put in: calendars, silences and labels, written by other processes beside a running aggregator.
//! It must never interpret them. The hard case is noticing a change without a signal: each write moves a version that the run loop looks at.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, TransactionBehavior, params};
use serde::Serialize;

use super::{Store, StoreError, UnixMs};
use crate::limits::SILENCES_MAX;

/// An imported calendar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CalendarFile {
    /// Its name, usually that of the file; importing the same name again replaces it.
    pub name: String,
    /// The iCalendar text.
    pub body: String,
}

/// A stored silence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SilenceRow {
    /// Its number, given by the store.
    pub number: i64,
    /// When it ends.
    pub until_ms: UnixMs,
    /// What it silences, as JSON.
    pub body: String,
}

/// What an operator said of an incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Label {
    /// `real`, `external` or `noise`.
    pub label: String,
    /// Who said it.
    pub author: String,
    /// Why; may be empty.
    pub comment: String,
    /// When, Unix milliseconds.
    pub written_ms: UnixMs,
}

/// Move whenever the thing changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Versions {
    /// Of the calendars.
    pub calendars: i64,
    /// Of the silences.
    pub silences: i64,
}

impl Store {
    /// Adds a calendar or replaces the one of the same name.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn put_calendar(&mut self, calendar: &CalendarFile, now_ms: UnixMs) -> Result<(), StoreError> {
        self.change("calendars", |transaction| {
            transaction.execute(
                "INSERT OR REPLACE INTO calendars (name, imported_ms, body) VALUES (?1, ?2, ?3)",
                params![calendar.name, now_ms, calendar.body],
            )
        })
        .map(drop)
    }

    /// Removes the calendar `name`; says whether there was one.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn remove_calendar(&mut self, name: &str) -> Result<bool, StoreError> {
        self.change("calendars", |transaction| {
            transaction.execute("DELETE FROM calendars WHERE name = ?1", [name])
        })
        .map(|rows| rows > 0)
    }

    /// All calendars, by name.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn calendars(&self) -> Result<Vec<CalendarFile>, StoreError> {
        let mut statement =
            self.connection.prepare_cached("SELECT name, body FROM calendars ORDER BY name")?;
        let rows =
            statement.query_map([], |row| Ok(CalendarFile { name: row.get(0)?, body: row.get(1)? }))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Adds the silence that `body` makes of its number, which is given.
    ///
    /// # Errors
    /// [`StoreError::Full`], or what SQLite says.
    pub fn add_silence(
        &mut self,
        until_ms: UnixMs,
        now_ms: UnixMs,
        body: impl FnOnce(i64) -> String,
    ) -> Result<i64, StoreError> {
        self.change("silences", |transaction| {
            let lasting = "SELECT count(*) FROM silences WHERE until_ms > ?1";
            let lasting: i64 = transaction.query_row(lasting, [now_ms], |row| row.get(0))?;
            if usize::try_from(lasting).is_ok_and(|lasting| lasting >= SILENCES_MAX) {
                return Ok(None);
            }
            transaction.execute("INSERT INTO silences (until_ms, body) VALUES (?1, '')", [until_ms])?;
            let number = transaction.last_insert_rowid();
            let body = body(number);
            transaction.execute("UPDATE silences SET body = ?2 WHERE number = ?1", params![number, body])?;
            Ok(Some(number))
        })?
        .ok_or(StoreError::Full {
            what: "silences",
            max: SILENCES_MAX,
            remedy: "remove some, or silence more with one",
        })
    }

    /// Removes the silence `number`; says whether there was one.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn remove_silence(&mut self, number: i64) -> Result<bool, StoreError> {
        self.change("silences", |transaction| {
            transaction.execute("DELETE FROM silences WHERE number = ?1", [number])
        })
        .map(|rows| rows > 0)
    }

    /// The silences that have not ended by `now_ms`, the oldest first.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn silences(&self, now_ms: UnixMs) -> Result<Vec<SilenceRow>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT number, until_ms, body FROM silences WHERE until_ms > ?1 ORDER BY number",
        )?;
        let rows = statement.query_map([now_ms], |row| {
            Ok(SilenceRow { number: row.get(0)?, until_ms: row.get(1)?, body: row.get(2)? })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Says of the incident `id` what it was, in place of what was said before; false when there is no such incident.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn put_label(&mut self, id: &str, label: &Label) -> Result<bool, StoreError> {
        let rows = self.connection.execute(
            "INSERT OR REPLACE INTO labels (id, label, author, comment, written_ms)
             SELECT ?1, ?2, ?3, ?4, ?5 WHERE EXISTS (SELECT 1 FROM incidents WHERE id = ?1)",
            params![id, label.label, label.author, label.comment, label.written_ms],
        )?;
        Ok(rows > 0)
    }

    /// What was said of the incident `id`, if anything.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn label(&self, id: &str) -> Result<Option<Label>, StoreError> {
        let sql = "SELECT label, author, comment, written_ms FROM labels WHERE id = ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let row = statement.query_row([id], |row| {
            let (label, author, comment) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok(Label { label, author, comment, written_ms: row.get(3)? })
        });
        Ok(row.optional()?)
    }

    /// What was said of the incidents `ids`, by id; the labels of others are not looked at.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn labels<'i>(
        &self,
        ids: impl IntoIterator<Item = &'i str>,
    ) -> Result<BTreeMap<String, Label>, StoreError> {
        let mut labels = BTreeMap::new();
        for id in ids {
            if let Some(label) = self.label(id)? {
                labels.insert(id.to_owned(), label);
            }
        }
        Ok(labels)
    }

    /// The present versions.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn versions(&self) -> Result<Versions, StoreError> {
        let mut statement = self.connection.prepare_cached("SELECT version FROM versions WHERE name = ?1")?;
        let mut version = |name: &str| statement.query_row([name], |row| row.get(0));
        Ok(Versions { calendars: version("calendars")?, silences: version("silences")? })
    }

    pub(super) fn change<T>(
        &mut self,
        what: &str,
        write: impl FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let result = write(&transaction)?;
        transaction.execute("UPDATE versions SET version = version + 1 WHERE name = ?1", [what])?;
        transaction.commit()?;
        Ok(result)
    }
}
