//! What operators order, by command, API or console alike: silences and labels, with the same checks and words.
//! It must never decide anything. The hard case is a silence without an end, which nobody remembers: each has one, at most 90 days away.

use std::time::Duration;

use serde::Deserialize;
use vedette_aggregator_core::{Part, Scope, Silence};
use vedette_common::WallMs;

use crate::config::Config;
use crate::store::{Label, Store, StoreError, UnixMs};

/// The longest silence.
const SILENCE_MAX: Duration = Duration::from_secs(90 * 86_400);
/// Bytes of a comment or an author.
const TEXT_BYTES_MAX: usize = 1_024;
/// Names in each dimension of a silence.
const NAMES_MAX: usize = 256;

/// Why an order is not taken.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// It ends before it begins.
    #[error("the silence is over before it begins, or already")]
    Over,
    /// It lasts too long.
    #[error("a silence lasts at most {} days", SILENCE_MAX.as_secs() / 86_400)]
    TooLong,
    /// A text is too long.
    #[error("a comment and an author have at most {TEXT_BYTES_MAX} bytes each")]
    Text,
    /// A silence without a reason.
    #[error("a silence needs a comment: why")]
    NoComment,
    /// Too many names, or an empty or endless one.
    #[error(
        "a silence names at most {NAMES_MAX} regions, devices and stacks each, of 1 to {TEXT_BYTES_MAX} bytes"
    )]
    Names,
    /// The incident is not known.
    #[error("there is no incident `{0}`")]
    NoIncident(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is to be silenced.
#[derive(Debug, Clone)]
pub struct NewSilence {
    /// Regions, devices and stacks; an empty list means all.
    pub scope: Scope,
    /// When it begins.
    pub from_ms: UnixMs,
    /// When it ends.
    pub until_ms: UnixMs,
    /// Who orders it.
    pub author: String,
    /// Why.
    pub comment: String,
}

/// What an incident was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelKind {
    /// The application was broken: a page was right, holding it back was wrong.
    Real,
    /// Something outside the application moved the numbers.
    External,
    /// There was nothing.
    Noise,
}

impl LabelKind {
    /// Its name in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Real => "real",
            Self::External => "external",
            Self::Noise => "noise",
        }
    }
}

/// The names in `scope` that stand neither in the config nor in anything that an agent reported: a silence of them silences nothing
/// so far.
///
/// # Errors
/// What the store says.
pub fn unknown(store: &Store, config: &Config, scope: &Scope) -> Result<Vec<String>, StoreError> {
    let names = store.part("names")?.and_then(|body| serde_json::from_str::<Part>(&body).ok());
    let all = || [&scope.region, &scope.device, &scope.stack].into_iter().flatten().map(String::as_str);
    let unreported = names.and_then(|part| part.unreported(scope)).unwrap_or_else(|| all().collect());
    let is_configured =
        |name: &&str| !config.regions.contains_key(*name) && !config.stacks.contains_key(*name);
    Ok(unreported.into_iter().filter(is_configured).map(str::to_owned).collect())
}

/// Stores a silence; gives its number.
///
/// # Errors
/// [`OrderError`]: what is wrong with it, or the store.
pub fn silence(store: &mut Store, new: NewSilence, now_ms: UnixMs) -> Result<(i64, Silence), OrderError> {
    let NewSilence { scope, from_ms, until_ms, author, comment } = new;
    if until_ms <= from_ms.max(now_ms) {
        return Err(OrderError::Over);
    }
    if i128::from(until_ms) - i128::from(from_ms) > SILENCE_MAX.as_millis().cast_signed() {
        return Err(OrderError::TooLong);
    }
    check_texts(&author, &comment)?;
    if comment.trim().is_empty() {
        return Err(OrderError::NoComment);
    }
    let good = |name: &String| (1..=TEXT_BYTES_MAX).contains(&name.len());
    for names in [&scope.region, &scope.device, &scope.stack] {
        if names.len() > NAMES_MAX || !names.iter().all(good) {
            return Err(OrderError::Names);
        }
    }
    let (from, until) = (WallMs(from_ms), WallMs(until_ms));
    let named = |number| {
        let (scope, author, comment) = (scope.clone(), author.clone(), comment.clone());
        Silence { id: format!("silence-{number}"), scope, from, until, author, comment }
    };
    // Plain data with text keys always becomes JSON.
    let body = |number| serde_json::to_string(&named(number)).unwrap_or_default();
    let number = store.add_silence(until_ms, now_ms, body)?;
    Ok((number, named(number)))
}

/// Stores what an incident was.
///
/// # Errors
/// [`OrderError`]: no such incident, an endless text, or the store.
pub fn label(
    store: &mut Store,
    id: &str,
    kind: LabelKind,
    author: String,
    comment: String,
    now_ms: UnixMs,
) -> Result<Label, OrderError> {
    check_texts(&author, &comment)?;
    let label = Label { label: kind.as_str().into(), author, comment, written_ms: now_ms };
    if store.put_label(id, &label)? { Ok(label) } else { Err(OrderError::NoIncident(id.to_owned())) }
}

fn check_texts(author: &str, comment: &str) -> Result<(), OrderError> {
    let long = author.len() > TEXT_BYTES_MAX || comment.len() > TEXT_BYTES_MAX;
    if long { Err(OrderError::Text) } else { Ok(()) }
}
