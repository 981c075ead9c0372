//! How the state is copied into a snapshot.
//!
//! It must never change anything. The hard case is order: everything is listed by name, incidents by urgency or time.
use vedette_common::DropReason;

use crate::alarm::IncidentState;
use crate::counts::Counts;
use crate::incident::Incident;
use crate::instant::Instant;
use crate::journal::Journal;
use crate::region::{Cell, Fleet, Region, Series, Shared};
use crate::session::{Session, Sessions};
use crate::settings::Settings;
use crate::snapshot::{AgentView, CellState, CellView, CommonModeView, IncidentView, RegionView, Snapshot};

/// What there is to see.
pub(crate) struct Parts<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) sessions: &'a Sessions,
    pub(crate) fleet: &'a Fleet,
    pub(crate) journal: &'a Journal,
    pub(crate) counts: &'a Counts,
}

pub(crate) fn snapshot(parts: &Parts<'_>) -> Snapshot {
    let mut open = incidents(parts.journal, IncidentState::Open);
    open.sort_by(|a, b| b.alarm.severity.cmp(&a.alarm.severity).then_with(|| b.alarm.id.cmp(&a.alarm.id)));
    let order = &parts.fleet.names.regions;
    Snapshot {
        open,
        suppressed: incidents(parts.journal, IncidentState::Suppressed),
        resolved: incidents(parts.journal, IncidentState::Resolved),
        regions: order
            .sorted()
            .filter_map(|place| parts.fleet.get(place))
            .map(|r| region(parts, r))
            .collect(),
        agents: parts.sessions.iter().map(agent).collect(),
        counts: parts.counts.clone(),
    }
}

/// The incidents in `state`, the latest first.
fn incidents(journal: &Journal, state: IncidentState) -> Vec<IncidentView> {
    let view = |incident: &Incident| IncidentView {
        alarm: incident.alarm(),
        last_seen_at: Instant(incident.seen_at),
        windows: incident.windows,
    };
    let mut views: Vec<IncidentView> = journal.iter().filter(|i| i.is(state)).map(view).collect();
    views.sort_by(|a, b| b.alarm.at.cmp(&a.alarm.at).then_with(|| a.alarm.id.cmp(&b.alarm.id)));
    views
}

fn region(parts: &Parts<'_>, region: &Region) -> RegionView {
    let names = &parts.fleet.names;
    let common = |(metric, shared): (&u16, &Shared)| CommonModeView {
        metric: names.metrics.get(*metric).into(),
        role: parts.settings.metric(names.metrics.get(*metric)).map(|m| m.role),
        common_mode: shared.value,
        peers: usize::from(shared.peers),
    };
    let mut common_modes: Vec<CommonModeView> = region.common_modes.iter().map(common).collect();
    common_modes.sort_by(|a, b| a.metric.cmp(&b.metric));
    let of_cell = |s: &Series| region.cells.get(s.cell as usize).map(|c| cell(parts, region, c, s));
    let mut cells: Vec<CellView> = region.series.iter().filter_map(of_cell).collect();
    cells.sort_by(|a, b| (&a.device, &a.stack, &a.metric).cmp(&(&b.device, &b.stack, &b.metric)));
    let end = |start: vedette_common::WallMs| Instant(start.plus_ms(i64::from(region.window_ms)));
    RegionView {
        region: region.name.clone(),
        window_ms: region.window_ms,
        judged_through: region.judged.map(end),
        common_modes,
        cells,
    }
}

fn cell(parts: &Parts<'_>, region: &Region, cell: &Cell, series: &Series) -> CellView {
    let names = &parts.fleet.names;
    let (device, stack) = (names.devices.get(cell.device), names.stacks.get(cell.stack));
    let incident = parts.journal.covering((&region.name, device, stack));
    let missing = region.judged.is_some_and(|judged| cell.seen < judged);
    let state = match incident {
        Some(incident) if incident.is(IncidentState::Open) => CellState::Open,
        _ if missing => CellState::Missing,
        Some(_) => CellState::Suppressed,
        None if series.age < parts.settings.judgement.young_windows => CellState::Learning,
        None => CellState::Quiet,
    };
    let ratio = (series.latest.observed.max(0.0) + 0.5) / (series.latest.expected.max(0.0) + 0.5);
    CellView {
        device: device.into(),
        stack: stack.into(),
        metric: names.metrics.get(series.metric).into(),
        observed: series.latest.observed,
        expected: series.latest.expected,
        count: series.latest.count,
        log_ratio: ratio.ln(),
        residual: series.residual,
        noise: series.noise,
        score: series.score,
        state,
        incident: incident.map(|incident| incident.id.clone()),
    }
}

fn agent(session: &Session) -> AgentView {
    let heartbeat = session.heartbeat.clone().unwrap_or_default();
    // A reason that this build does not know keeps its number.
    let reason = |number: u8| match DropReason::ALL.get(usize::from(number)) {
        Some(known) => known.as_str().to_string(),
        None => format!("reason_{number}"),
    };
    AgentView {
        agent: session.agent.as_str().into(),
        version: session.version.clone(),
        regions: session.regions.keys().cloned().collect(),
        last_heard_at: Instant(session.last_heard_at),
        clock_ahead_ms: session.clock_ahead_ms,
        series: heartbeat.series,
        spooled_records: heartbeat.spooled_records,
        spooled_bytes: heartbeat.spooled_bytes,
        observed: heartbeat.observed,
        missing: session.missing,
        dropped: heartbeat.dropped.iter().map(|d| (reason(d.reason), d.count)).collect(),
        silent: session.silent,
    }
}
