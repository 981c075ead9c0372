//! Telemetry that is missing: agents that do not speak, and cells that used to report and no longer do.
//!
//! It must never read a gap as a drop. The hard case is a cell that reports now and then: it is missing only after a
//! gap much longer than the gaps that are usual for it.
use crate::alarm::{Scope, Severity, Verdict};
use crate::evidence::{Direction, Evidence, MissingEvidence};
use crate::incident::{Finding, Source};
use crate::instant::Instant;
use crate::session::Session;

/// The finding about an agent that is silent.
pub(crate) fn silent(session: &Session) -> Finding {
    let region: Vec<String> = session.regions.keys().cloned().collect();
    let missing = MissingEvidence {
        agent: session.agent.as_str().into(),
        last_seen_at: Instant(session.last_heard_at),
        cells: 0,
    };
    Finding {
        source: Source::Silent,
        scope: Scope { region, ..Scope::default() },
        verdict: Verdict::DataFault,
        notify: true,
        at_once: true,
        weight: 1.0,
        severity: Severity::Warning,
        started_at: session.last_heard_at,
        evidence: Evidence {
            reason: "the agent has sent neither summary nor heartbeat".into(),
            counterfactual: "would have resolved had the agent spoken".into(),
            missing: Some(missing),
            ..Evidence::nothing(Direction::Drop)
        },
        series: Vec::new(),
    }
}
