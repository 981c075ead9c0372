//! Whether a database holds what the aggregator means it to hold, beyond SQLite's own checks.
//! It must never change anything. The hard case is two accounts of one thing, the core's live incidents and the states that were told:
//! they are committed together, so at any one moment they agree; a running aggregator commits between two looks.

use std::collections::BTreeMap;

use serde_json::Value;
use vedette_aggregator_core::Part;

use crate::store::{Store, StoreError};

/// What a database holds, and what is wrong with it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Version of its tables.
    pub schema: i64,
    /// Parts of the core.
    pub parts: usize,
    /// Incidents of which states are kept.
    pub incidents: usize,
    /// Deliveries that wait.
    pub deliveries: u64,
    /// What is wrong; nothing when it is whole.
    pub problems: Vec<String>,
}

/// Looks at everything in `store`.
///
/// # Errors
/// What SQLite says when it cannot even look.
pub fn verify(store: &Store) -> Result<Report, StoreError> {
    store.at_one_moment(look)
}

fn look(store: &Store) -> Result<Report, StoreError> {
    let mut report =
        Report { schema: store.schema_version()?, problems: store.integrity()?, ..Report::default() };
    // What is damaged below cannot be understood, and what is older is understood once it was brought up to date.
    if !report.problems.is_empty() || report.schema < Store::schema_known() {
        return Ok(report);
    }
    let live = core_incidents(store, &mut report)?;
    told_incidents(store, &live, &mut report)?;
    report.deliveries = store.outbox_rows()?;
    Ok(report)
}

/// The state of each live incident by id, as the core has it.
fn core_incidents(store: &Store, report: &mut Report) -> Result<BTreeMap<String, &'static str>, StoreError> {
    let mut live = BTreeMap::new();
    for (key, body) in store.parts()? {
        report.parts += 1;
        match serde_json::from_str::<Part>(&body) {
            Ok(part) if part.key().is_some_and(|own| own != key) => {
                report.problems.push(format!("the part `{key}` holds another one"));
            }
            Ok(part) => live.extend(part.live_incident().map(|(id, state)| (id.to_owned(), state.as_str()))),
            Err(error) => report.problems.push(format!("the part `{key}` cannot be read: {error}")),
        }
    }
    Ok(live)
}

/// Compares what was told of each incident with itself and with `live`.
fn told_incidents(
    store: &Store,
    live: &BTreeMap<String, &'static str>,
    report: &mut Report,
) -> Result<(), StoreError> {
    let mut last = BTreeMap::new();
    store.each_state(|row| {
        let body = serde_json::from_str::<Value>(&row.body).unwrap_or_default();
        if body["id"] != row.id.as_str() || body["state"] != row.state.as_str() {
            report
                .problems
                .push(format!("state {} of incident `{}` says something else", row.number, row.id));
        }
        last.insert(row.id, row.state);
    })?;
    report.incidents = last.len();
    for (id, state) in &last {
        let known = live.get(id).copied();
        let agree = if state == "resolved" { known.is_none() } else { known == Some(state) };
        if !agree {
            let core = known.unwrap_or("not live");
            report.problems.push(format!("incident `{id}` was last told as {state}, the core has it {core}"));
        }
    }
    let untold = live.keys().filter(|id| !last.contains_key(*id));
    report.problems.extend(untold.map(|id| format!("the core has incident `{id}`, which was never told")));
    Ok(())
}
