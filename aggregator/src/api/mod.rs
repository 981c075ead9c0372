//! The JSON API below `/api/v1` and the console at `/`: a look at the core's latest picture and at the store, and what operators order.
//!
//! Owns what a stranger's browser may do: nothing. Must never change anything for who is not known, nor answer a page of another site. The
//! hard case is DNS rebinding, where another site's name points at this address: a request counts only when it asks
//! for an address, for localhost, or for a name from the config.

pub mod explain;
mod guard;
mod history;
mod login;
mod operate;

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;
use vedette_aggregator_core::Snapshot;
use vedette_aggregator_core::snapshot::IncidentView;

use crate::auth::Gate;
use crate::config::Config;
use crate::console;
use crate::limits::REQUEST_BODY_BYTES_MAX;
use crate::schedule::Schedule;
use crate::store::{StoreClosed, StoreError, StoreHandle};
use explain::Explanation;
pub(crate) use guard::metrics_guard;
pub use guard::{comes_from_here, is_ours, session_cookie};
use history::History;
pub use operate::{LabelOrder, SilenceOrder};

/// Ledger entries and past incidents in one answer.
const ROWS_MAX: usize = 500;

/// What the API and the console read from; clones share everything.
#[derive(Clone)]
pub struct Desk {
    pictures: watch::Receiver<Arc<Snapshot>>,
    store: StoreHandle,
    writes: StoreHandle,
    gate: Gate,
    config: watch::Receiver<Arc<Config>>,
    history: Arc<Mutex<History>>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Desk").finish_non_exhaustive()
    }
}

impl Desk {
    /// Reads from the core's pictures, the store and the config; writes what operators order; the gate says who they are.
    pub fn new(
        pictures: watch::Receiver<Arc<Snapshot>>,
        store: StoreHandle,
        writes: StoreHandle,
        gate: Gate,
        config: watch::Receiver<Arc<Config>>,
    ) -> Self {
        let limits = config.borrow().limits.clone();
        let windows_max = limits.history_windows_max as usize;
        let history = Arc::new(Mutex::new(History::new(limits.history_series_max as usize, windows_max)));
        Self { pictures, store, writes, gate, config, history }
    }

    /// Keeps the console's curves up to date, until the core is gone.
    pub async fn watch(mut self) {
        while self.pictures.changed().await.is_ok() {
            let picture = Arc::clone(&self.pictures.borrow_and_update());
            self.history.lock().unwrap_or_else(PoisonError::into_inner).take(&picture);
        }
    }

    fn picture(&self) -> Arc<Snapshot> {
        Arc::clone(&self.pictures.borrow())
    }
}

/// The routes of API and console, with the guard before them.
pub fn router(desk: Desk) -> Router {
    Router::new()
        .route("/api/v1/incidents", get(incidents))
        .route("/api/v1/history", get(ended))
        .route("/api/v1/incidents/{id}", get(incident))
        .route("/api/v1/incidents/{id}/explain", get(explained))
        .route("/api/v1/suppressed", get(suppressed))
        .route("/api/v1/lattice", get(lattice))
        .route("/api/v1/curves", get(curves))
        .route("/api/v1/agents", get(agents))
        .route("/api/v1/calendar", get(calendar))
        .route("/api/v1/silences", get(operate::silences).post(operate::silence))
        .route("/api/v1/silences/{number}", delete(operate::end_silence))
        .route("/api/v1/incidents/{id}/label", post(operate::label))
        .route("/login", get(login::form).post(login::log_in))
        .route("/logout", post(login::log_out))
        .route("/api/v1/{*rest}", get(async || Refusal::no_such("path")))
        .merge(console::router())
        .layer(DefaultBodyLimit::max(REQUEST_BODY_BYTES_MAX))
        .layer(from_fn_with_state(guard::Guard::new(desk.gate.clone()), guard::guard))
        .with_state(desk)
}

/// An error as JSON with a message.
#[derive(Debug)]
struct Refusal(StatusCode, String);

impl Refusal {
    fn no_such(what: &str) -> Self {
        Self(StatusCode::NOT_FOUND, format!("there is no such {what}"))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        answer(self.0, &json!({ "message": self.1 }))
    }
}

impl From<StoreClosed> for Refusal {
    fn from(error: StoreClosed) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

impl From<serde_json::Error> for Refusal {
    fn from(error: serde_json::Error) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

type Answer = Result<Response, Refusal>;

fn answer(status: StatusCode, body: &impl Serialize) -> Response {
    (status, axum::Json(body)).into_response()
}

/// Which incidents, or which region, and how many.
#[derive(Debug, Default, Deserialize)]
struct Filter {
    state: Option<String>,
    region: Option<String>,
    limit: Option<usize>,
}

impl Filter {
    fn takes(&self, view: &IncidentView) -> bool {
        let regions = &view.alarm.scope.region;
        let here = |region: &String| regions.is_empty() || regions.contains(region);
        self.state.as_deref().is_none_or(|state| view.alarm.state.as_str() == state)
            && self.region.as_ref().is_none_or(here)
    }
}

async fn incidents(State(desk): State<Desk>, Query(filter): Query<Filter>) -> Answer {
    if let Some(state) = filter.state.as_deref()
        && !["open", "suppressed", "resolved"].contains(&state)
    {
        let message = format!("`{state}` is no state: open, suppressed or resolved");
        return Err(Refusal(StatusCode::BAD_REQUEST, message));
    }
    let picture = desk.picture();
    let all = picture.open.iter().chain(&picture.suppressed).chain(&picture.resolved);
    let found: Vec<&IncidentView> = all.filter(|view| filter.takes(view)).collect();
    let ids: Vec<String> = found.iter().map(|view| view.alarm.id.clone()).collect();
    let labels = desk.store.with(move |store| store.labels(ids.iter().map(String::as_str))).await??;
    let labelled = |view: &IncidentView| {
        let mut object = serde_json::to_value(view)?;
        object["label"] = serde_json::to_value(labels.get(&view.alarm.id))?;
        Ok::<_, serde_json::Error>(object)
    };
    let found = found.into_iter().map(labelled).collect::<Result<Vec<_>, _>>()?;
    Ok(answer(StatusCode::OK, &json!({ "incidents": found })))
}

async fn ended(State(desk): State<Desk>, Query(filter): Query<Filter>) -> Answer {
    let limit = filter.limit.unwrap_or(ROWS_MAX).min(ROWS_MAX);
    let read = move |store: &mut crate::store::Store| {
        let rows = store.ended_incidents(limit)?;
        let labels = store.labels(rows.iter().map(|(row, _)| row.id.as_str()))?;
        Ok::<_, StoreError>((rows, labels))
    };
    let (rows, labels) = desk.store.with(read).await??;
    let read = |(row, notified): &(crate::store::Incident, bool)| {
        let label = labels.get(&row.id);
        serde_json::from_str::<Value>(&row.body)
            .map(|alarm| json!({ "alarm": alarm, "notified": notified, "label": label }))
    };
    let incidents = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    Ok(answer(StatusCode::OK, &json!({ "incidents": incidents })))
}

async fn incident(State(desk): State<Desk>, Path(id): Path<String>) -> Answer {
    let read =
        move |store: &mut crate::store::Store| Ok::<_, StoreError>((store.incident(&id)?, store.label(&id)?));
    let (rows, label) = desk.store.with(read).await??;
    let states = rows.iter().map(|row| serde_json::from_str(&row.body)).collect::<Result<Vec<Value>, _>>()?;
    let last = states.last().cloned().ok_or_else(|| Refusal::no_such("incident"))?;
    Ok(answer(StatusCode::OK, &json!({ "incident": last, "states": states, "label": label })))
}

async fn explained(State(desk): State<Desk>, Path(id): Path<String>) -> Answer {
    let wanted = id.clone();
    let read = move |store: &mut crate::store::Store| {
        let label = store.label(&wanted)?;
        Ok::<_, StoreError>((store.incident(&wanted)?, store.ledger(&wanted)?, label))
    };
    let (states, ledger, label) = desk.store.with(read).await??;
    let explanation =
        Explanation::new(&id, &states, &ledger, label)?.ok_or_else(|| Refusal::no_such("incident"))?;
    Ok(answer(StatusCode::OK, &explanation))
}

async fn suppressed(State(desk): State<Desk>) -> Answer {
    let rows = desk.store.with(|store| store.latest_ledger(ROWS_MAX)).await??;
    let ledger = rows.iter().map(|row| serde_json::from_str(&row.body)).collect::<Result<Vec<Value>, _>>()?;
    Ok(answer(StatusCode::OK, &json!({ "suppressed": desk.picture().suppressed, "ledger": ledger })))
}

async fn lattice(State(desk): State<Desk>, Query(filter): Query<Filter>) -> Answer {
    let picture = desk.picture();
    let regions: Vec<_> = picture
        .regions
        .iter()
        .filter(|it| filter.region.as_ref().is_none_or(|region| *region == it.region))
        .collect();
    if regions.is_empty() && filter.region.is_some() {
        return Err(Refusal::no_such("region"));
    }
    Ok(answer(StatusCode::OK, &json!({ "regions": regions })))
}

async fn curves(State(desk): State<Desk>, Query(filter): Query<Filter>) -> Answer {
    let history = desk.history.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(answer(StatusCode::OK, &json!({ "curves": history.curves(filter.region.as_deref()) })))
}

async fn agents(State(desk): State<Desk>) -> Answer {
    Ok(answer(StatusCode::OK, &json!({ "agents": desk.picture().agents })))
}

async fn calendar(State(desk): State<Desk>) -> Answer {
    let config = Arc::clone(&desk.config.borrow());
    let now = crate::clock::Clock::start().now().wall;
    let schedule = desk.store.with(move |store| Schedule::read(store, &config, now)).await??;
    let entries: Vec<_> = schedule.entries.iter().filter(|it| it.until > now).take(ROWS_MAX).collect();
    Ok(answer(StatusCode::OK, &json!({ "entries": entries, "silences": schedule.silences })))
}
