//! The calendar and the silences that operators stored, made ready for the core and for agents.
//! It must never parse a calendar by itself; it reads, expands and watches.
//! The hard case is an event that recurs for ever: occurrences are expanded up to a horizon and anew every hour.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval};
use vedette_aggregator_core::{AllowedRegions, ScheduleEntry, Silence};
use vedette_common::WallMs;
use vedette_common::limits::CALENDAR_ENTRIES_MAX;
use vedette_common::wire;

use crate::calendar::{Calendar, Occurrence, Span};
use crate::clock::Clock;
use crate::config::Config;
use crate::drive::Order;
use crate::limits::{OPERATIONS_POLL, SCHEDULE_LOOKBACK_MS, SCHEDULE_RENEWAL};
use crate::store::{Store, StoreClosed, StoreError, StoreHandle, Versions};

/// What is scheduled and silenced, as of one reading.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Schedule {
    /// Changes whenever the stored calendars do.
    pub version: u64,
    /// Occurrences within the horizon, the earliest first.
    pub entries: Vec<ScheduleEntry>,
    /// Silences that have not ended, and those that lately did: windows of their time may still come.
    pub silences: Vec<Silence>,
}

impl Schedule {
    /// Reads and expands what `store` holds.
    ///
    /// # Errors
    /// What SQLite says. Bad calendar entries and silences are logged and left out.
    pub fn read(store: &Store, config: &Config, now: WallMs) -> Result<Self, StoreError> {
        let version = store.versions()?.calendars.unsigned_abs();
        let mut calendar = Calendar::default();
        for file in store.calendars()? {
            calendar.append(Calendar::read(file.body.as_bytes()).calendar);
        }
        let horizon_ms = i64::from(config.limits.calendar_horizon_days) * 86_400_000;
        let span = Span { from: now.plus_ms(-SCHEDULE_LOOKBACK_MS), until: now.plus_ms(horizon_ms) };
        let zones: BTreeMap<_, _> =
            config.regions.keys().map(|name| (name.clone(), config.timezone(name))).collect();
        let most = usize::try_from(config.limits.calendar_entries_max).unwrap_or(usize::MAX);
        let expansion = calendar.expand(span, &zones, most);
        if expansion.dropped > 0 {
            tracing::warn!(
                dropped = expansion.dropped,
                "calendar entries over `limits.calendar_entries_max`"
            );
        }
        let entries = expansion.occurrences.into_iter().map(entry).collect();
        Ok(Self { version, entries, silences: read_silences(store, now)? })
    }

    /// What an agent for `regions` needs to know: the soonest entries that have not ended.
    #[must_use]
    pub fn calendar_for(&self, regions: &AllowedRegions, now: WallMs) -> wire::Calendar {
        let concerns = |entry: &&ScheduleEntry| {
            entry.until > now && entry.region.as_deref().is_none_or(|region| regions.allows(region))
        };
        let entries = self.entries.iter().filter(concerns).filter_map(wire_entry);
        wire::Calendar { version: self.version, entries: entries.take(CALENDAR_ENTRIES_MAX).collect() }
    }
}

fn entry(occurrence: Occurrence) -> ScheduleEntry {
    let Occurrence { from, until, region, class, title } = occurrence;
    ScheduleEntry { from, until, region, class, title }
}

/// None for names that are too long for the wire; the aggregator itself still knows the entry.
fn wire_entry(entry: &ScheduleEntry) -> Option<wire::CalendarEntry> {
    Some(wire::CalendarEntry {
        region: entry.region.as_deref().unwrap_or("").try_into().ok()?,
        class: entry.class.as_str().try_into().ok()?,
        from: entry.from,
        until: entry.until,
    })
}

fn read_silences(store: &Store, now: WallMs) -> Result<Vec<Silence>, StoreError> {
    let rows = store.silences(now.plus_ms(-SCHEDULE_LOOKBACK_MS).0)?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            serde_json::from_str(&row.body)
                .inspect_err(|error| tracing::warn!(number = row.number, %error, "unreadable silence"))
                .ok()
        })
        .collect())
}

/// Hands the driver a new schedule whenever the stored one changed, the config was read again, or an hour went by.
///
/// # Errors
/// [`StoreClosed`] when the store's thread is gone.
pub async fn watch(
    store: StoreHandle,
    mut config: watch::Receiver<Arc<Config>>,
    orders: mpsc::Sender<Order>,
) -> Result<(), StoreClosed> {
    let clock = Clock::start();
    let mut ticks = interval(OPERATIONS_POLL);
    let mut known: Option<(Versions, Instant)> = None;
    loop {
        ticks.tick().await;
        let versions = match store.with(|store| store.versions()).await? {
            Ok(versions) => versions,
            Err(error) => {
                tracing::warn!(%error, "cannot look for changes of calendar and silences");
                continue;
            }
        };
        let reloaded = config.has_changed().unwrap_or(false);
        let fresh = known.is_some_and(|(last, at)| last == versions && at.elapsed() < SCHEDULE_RENEWAL);
        if fresh && !reloaded {
            continue;
        }
        let present = Arc::clone(&config.borrow_and_update());
        let now = clock.now().wall;
        let schedule = match store.with(move |store| Schedule::read(store, &present, now)).await? {
            Ok(schedule) => schedule,
            Err(error) => {
                tracing::warn!(%error, "cannot read calendar and silences");
                continue;
            }
        };
        known = Some((versions, Instant::now()));
        if orders.send(Order::Schedule(Box::new(schedule))).await.is_err() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_folder::StateFolder;
    use vedette_aggregator_core::Scope;

    #[test]
    fn a_silence_speaks_for_its_time_as_long_as_records_may_come() {
        let folder = tempfile::tempdir().expect("a folder for a test");
        let folder = StateFolder::open(&folder.path().join("state")).expect("a state folder");
        let mut store = Store::open(&folder).expect("a store");
        let now = WallMs(1_772_000_000_000);
        let hours_ago = |hours: i64| now.plus_ms(-hours * 3_600_000);
        for ended in [14 * 24, 16 * 24] {
            let (from, until) = (hours_ago(ended + 1), hours_ago(ended));
            let body = |number: i64| {
                let (id, author, comment) = (number.to_string(), String::new(), String::new());
                let silence = Silence { id, scope: Scope::default(), from, until, author, comment };
                serde_json::to_string(&silence).expect("plain data")
            };
            store.add_silence(until.0, 0, body).expect("added");
        }
        let read = Schedule::read(&store, &Config::default(), now).expect("readable");
        let ids: Vec<&str> = read.silences.iter().map(|silence| silence.id.as_str()).collect();
        assert_eq!(ids, ["1"], "the one that ended two weeks ago");
    }
}
