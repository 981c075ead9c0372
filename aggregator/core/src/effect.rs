//! What the core asks its shell to do, and which parts of its state have changed and are to be committed first.
//!
//! It must never hold a promise that the shell cannot keep: the shell commits the changes, then carries out the
//! effects in order. The hard case is a crash in between: nothing was acknowledged, so the agent sends it again.
use serde::{Deserialize, Serialize};
use vedette_common::wire::RefuseReason;
use vedette_common::{AgentId, RecordKey};

use crate::alarm::{Alarm, IncidentState, Scope};
use crate::basis::Basis;
use crate::incident::Incident;
use crate::judge::Memory;
use crate::ledger::LedgerEntry;
use crate::region::{FleetNames, Region};
use crate::sensitivity::Sensitivities;
use crate::session::Session;
use crate::window::PendingWindow;

/// Something to do, once the changes are committed.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Tell `agent` that everything through `key` is committed.
    Acknowledge {
        /// Whom to tell.
        agent: AgentId,
        /// The last applied key of its boot and lane; sequence 0 when there is none.
        key: RecordKey,
    },
    /// Tell `agent` that a record was not taken. It counts as consumed; an acknowledgement follows.
    Refuse {
        /// Whom to tell.
        agent: AgentId,
        /// The record.
        key: RecordKey,
        /// Why.
        reason: RefuseReason,
    },
    /// An incident has entered a state: store it, and notify people unless it is suppressed.
    Incident(Box<Alarm>),
    /// A decision for the ledger.
    Ledger(Box<LedgerEntry>),
    /// What the latest state of an incident was decided from: store it beside that.
    Basis {
        /// The incident.
        id: String,
        /// What it was decided from.
        basis: Box<Basis>,
    },
}

/// One part of the persistent state, small enough to be written whenever it changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// One agent's session.
    Session(Box<Session>),
    /// The shared names.
    Names(Box<FleetNames>),
    /// One region of the lattice.
    Region(Box<Region>),
    /// A window that waits to be judged.
    Window(Box<PendingWindow>),
    /// The learned noise of one region, or of what belongs to several.
    Memory(Box<Memory>),
    /// One incident.
    Incident(Box<Incident>),
    /// How sensitive the regions are.
    Sensitivities(Box<Sensitivities>),
}

/// A part that changed: to be written under its key, or removed.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Names the part: `session/<agent>`, `names`, `region/<name>`, `window/<start>/<width>`, `memory/<place>`,
    /// `incident/<id>`, `sensitivities`.
    pub key: String,
    /// What to write; none to remove.
    pub part: Option<Part>,
}

impl Part {
    /// The key under which it is stored; none for what was learned, which does not say of which region.
    #[must_use]
    pub fn key(&self) -> Option<String> {
        Some(match self {
            Self::Session(session) => format!("session/{}", session.agent),
            Self::Names(_) => "names".into(),
            Self::Region(region) => format!("region/{}", region.name),
            Self::Window(window) => format!("window/{}/{}", window.start.0, window.window_ms),
            Self::Memory(_) => return None,
            Self::Incident(incident) => format!("incident/{}", incident.id),
            Self::Sensitivities(_) => "sensitivities".into(),
        })
    }

    /// The names in `scope` that no agent has reported, if this is the part that holds the names.
    #[must_use]
    pub fn unreported<'s>(&self, scope: &'s Scope) -> Option<Vec<&'s str>> {
        let Self::Names(known) = self else { return None };
        let dimensions =
            [(&scope.region, &known.regions), (&scope.device, &known.devices), (&scope.stack, &known.stacks)];
        let mut unreported = Vec::new();
        for (names, known) in dimensions {
            unreported.extend(names.iter().map(String::as_str).filter(|name| known.find(name).is_none()));
        }
        Some(unreported)
    }

    /// The incident that was told and is not over, with its state, if it is one.
    #[must_use]
    pub fn live_incident(&self) -> Option<(&str, IncidentState)> {
        let Self::Incident(incident) = self else { return None };
        incident.is_live().then(|| (incident.id.as_str(), incident.alarm().state))
    }
}
