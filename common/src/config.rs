//! Reading a program's config: from TOML text to settings, or to every mistake in it with its line and key.
//!
//! Only the two programs ask for it (feature `config`); it must never open a file nor know what a key means. The hard
//! case is a file with many mistakes: a user gets all of them at once, in the order of the file.

mod outline;

use core::fmt;
use std::path::{Path, PathBuf};
use std::string::{String, ToString};
use std::vec::Vec;

use serde::de::DeserializeOwned;

use outline::{Mistake, Outline};

/// What is wrong with values of the right type: pairs of key path and problem.
pub type Problems = Vec<(Vec<String>, String)>;

/// One mistake in a config.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The file as the user named it.
    pub file: PathBuf,
    /// Line of the key, from 1; none if the file could not be read.
    pub line: Option<usize>,
    /// Dotted path of the key; empty for the file as a whole.
    pub key: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(out, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(out, ": {}", self.key)?;
        }
        write!(out, ": {}", self.problem)
    }
}

/// Every mistake in a config, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl ConfigErrors {
    /// One mistake with the file as a whole.
    #[must_use]
    pub fn of_file(file: &Path, problem: String) -> Self {
        ConfigErrors(std::vec![ConfigError { file: file.into(), line: None, key: String::new(), problem }])
    }

    fn in_order(file: &Path, mut mistakes: Vec<Mistake>) -> Self {
        mistakes.sort_by(|a, b| (a.line, &a.key).cmp(&(b.line, &b.key)));
        let located = |mistake: Mistake| ConfigError {
            file: file.into(),
            line: Some(mistake.line),
            key: mistake.key,
            problem: mistake.problem,
        };
        ConfigErrors(mistakes.into_iter().map(located).collect())
    }
}

/// Reads settings from TOML; `file` is only for the errors, and `problems` says what is wrong with values that have
/// the right type.
///
/// # Errors
/// Every mistake: syntax, unknown keys, wrong types, and what `problems` finds. Values are looked at only if the syntax
/// is right.
pub fn parse<T: DeserializeOwned>(
    file: &Path,
    text: &str,
    problems: impl FnOnce(&T) -> Problems,
) -> Result<T, ConfigErrors> {
    let (outline, syntax) = Outline::parse(text);
    if !syntax.is_empty() {
        return Err(ConfigErrors::in_order(file, syntax));
    }
    let (config, mut mistakes) = outline.read::<T>();
    let found = config.as_ref().map(problems).unwrap_or_default();
    mistakes.extend(found.into_iter().map(|(key, problem)| outline.mistake(&key, problem)));
    match config {
        Some(config) if mistakes.is_empty() => Ok(config),
        _ => Err(ConfigErrors::in_order(file, mistakes)),
    }
}
