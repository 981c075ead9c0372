//! The routes that change something: silences and labels, ordered by who is logged in or holds a token.
//!
//! Must never take the author from the request: it is whoever asks. The hard case is a request that is wrong: it changes nothing and is
//! answered with what would be right.

use std::time::SystemTime;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Value, json};
use vedette_aggregator_core::Scope;

use super::{Answer, Desk, Refusal, answer};
use crate::auth::Caller;
use crate::enroll::unix_ms;
use crate::operators::{self, LabelKind, NewSilence, OrderError};

/// A silence as the API takes it; `until` or `for_s` says when it ends.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SilenceOrder {
    #[serde(default)]
    region: Vec<String>,
    #[serde(default)]
    device: Vec<String>,
    #[serde(default)]
    stack: Vec<String>,
    from: Option<chrono::DateTime<chrono::Utc>>,
    until: Option<chrono::DateTime<chrono::Utc>>,
    for_s: Option<u32>,
    comment: String,
}

/// A label as the API takes it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelOrder {
    label: LabelKind,
    #[serde(default)]
    comment: String,
}

pub(super) async fn silences(State(desk): State<Desk>) -> Answer {
    let now_ms = unix_ms(SystemTime::now());
    let rows = desk.store.with(move |store| store.silences(now_ms)).await??;
    let read = |row: &crate::store::SilenceRow| {
        serde_json::from_str::<Value>(&row.body)
            .map(|silence| json!({ "number": row.number, "silence": silence }))
    };
    let silences = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    Ok(answer(StatusCode::OK, &json!({ "silences": silences })))
}

pub(super) async fn silence(
    State(desk): State<Desk>,
    Extension(caller): Extension<Caller>,
    order: Result<Json<SilenceOrder>, JsonRejection>,
) -> Answer {
    let Json(order) = order?;
    let now_ms = unix_ms(SystemTime::now());
    let from_ms = order.from.map_or(now_ms, |from| from.timestamp_millis());
    let until_ms = match (order.until, order.for_s) {
        (Some(until), None) => until.timestamp_millis(),
        (None, Some(seconds)) => from_ms.saturating_add(i64::from(seconds) * 1_000),
        _ => return Err(Refusal(StatusCode::BAD_REQUEST, "say either `until` or `for_s`".into())),
    };
    let scope = Scope { region: order.region, device: order.device, stack: order.stack };
    let new = NewSilence { scope, from_ms, until_ms, author: caller.name.clone(), comment: order.comment };
    let (number, silence) = desk.writes.with(move |store| operators::silence(store, new, now_ms)).await??;
    tracing::info!(user = caller.name, number, "silence added");
    Ok(answer(StatusCode::CREATED, &json!({ "number": number, "silence": silence })))
}

pub(super) async fn end_silence(
    State(desk): State<Desk>,
    Extension(caller): Extension<Caller>,
    Path(number): Path<i64>,
) -> Answer {
    if !desk.writes.with(move |store| store.remove_silence(number)).await?? {
        return Err(Refusal::no_such("silence"));
    }
    tracing::info!(user = caller.name, number, "silence removed");
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) async fn label(
    State(desk): State<Desk>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    order: Result<Json<LabelOrder>, JsonRejection>,
) -> Answer {
    let Json(LabelOrder { label, comment }) = order?;
    let (author, incident) = (caller.name.clone(), id.clone());
    let now_ms = unix_ms(SystemTime::now());
    let write = move |store: &mut crate::store::Store| {
        operators::label(store, &incident, label, author, comment, now_ms)
    };
    let label = desk.writes.with(write).await??;
    tracing::info!(user = caller.name, incident = id, label = label.label, "incident labelled");
    Ok(answer(StatusCode::OK, &json!({ "id": id, "label": label })))
}

impl From<JsonRejection> for Refusal {
    fn from(error: JsonRejection) -> Self {
        Self(error.status(), error.body_text())
    }
}

impl From<OrderError> for Refusal {
    fn from(error: OrderError) -> Self {
        let status = match error {
            OrderError::NoIncident(_) => StatusCode::NOT_FOUND,
            OrderError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_REQUEST,
        };
        Self(status, error.to_string())
    }
}
