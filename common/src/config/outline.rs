//! Where each key of a TOML document stands, and reading a document past its first mistake.
//!
//! Owns the way from a byte span or a key path to a line. Must never know what a key means. The hard case is a
//! document with several unknown keys or wrong types: a deserialiser stops at the first, so the offending entry is
//! noted and taken out, and the rest is read again.

use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

/// Mistakes noted in one document before giving up.
const MISTAKES_MAX: usize = 32;

/// One mistake, with the place where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    /// Line of the key, from 1.
    pub(super) line: usize,
    /// Dotted path of the key.
    pub(super) key: String,
    /// What is wrong and what would be right.
    pub(super) problem: String,
}

/// A parsed document that remembers where its keys stand.
pub(super) struct Outline<'i> {
    text: &'i str,
    root: Spanned<DeTable<'i>>,
}

impl<'i> Outline<'i> {
    /// Parses the text; syntax errors come back beside what could be read.
    pub(super) fn parse(text: &'i str) -> (Self, Vec<Mistake>) {
        let (root, errors) = DeTable::parse_recoverable(text);
        let outline = Self { text, root };
        let mistakes = errors.iter().take(MISTAKES_MAX).map(|error| outline.syntax(error)).collect();
        (outline, mistakes)
    }

    /// Reads the document as a `T`, noting each entry that does not fit and going on without it.
    pub(super) fn read<T: DeserializeOwned>(&self) -> (Option<T>, Vec<Mistake>) {
        let mut root = self.root.clone();
        let mut mistakes = Vec::new();
        while mistakes.len() < MISTAKES_MAX {
            let error = match T::deserialize(Deserializer::from(root.clone())) {
                Ok(read) => return (Some(read), mistakes),
                Err(error) => error,
            };
            let offset = error.span().map_or(0, |span| span.start);
            let key = path_at(root.get_ref(), offset);
            mistakes.push(self.mistake(&key, error.message().replace('\n', " ")));
            if !remove(root.get_mut(), &key) {
                break;
            }
        }
        (None, mistakes)
    }

    /// A mistake at a key, or at the nearest table above it that the document names.
    pub(super) fn mistake(&self, key: &[String], problem: String) -> Mistake {
        let offset = offset_of(self.root.get_ref(), key).unwrap_or(0);
        Mistake { line: self.line(offset), key: key.join("."), problem }
    }

    fn syntax(&self, error: &toml::de::Error) -> Mistake {
        let offset = error.span().map_or(0, |span| span.start);
        let key = path_at(self.root.get_ref(), offset).join(".");
        Mistake { line: self.line(offset), key, problem: error.message().replace('\n', " ") }
    }

    fn line(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
    }
}

/// The deepest key whose name or value covers `offset`.
fn path_at(table: &DeTable<'_>, offset: usize) -> Vec<String> {
    for (name, value) in table {
        let in_name = name.span().contains(&offset);
        let below = match value.get_ref() {
            DeValue::Table(inner) if !in_name => path_at(inner, offset),
            _ => Vec::new(),
        };
        if in_name || !below.is_empty() || value.span().contains(&offset) {
            let mut path = vec![name.get_ref().to_string()];
            path.extend(below);
            return path;
        }
    }
    Vec::new()
}

/// Where the deepest part of `key` that the document names stands.
fn offset_of(table: &DeTable<'_>, key: &[String]) -> Option<usize> {
    let (first, rest) = key.split_first()?;
    let (name, value) = table.get_key_value(first.as_str())?;
    let below = match value.get_ref() {
        DeValue::Table(inner) => offset_of(inner, rest),
        _ => None,
    };
    Some(below.unwrap_or(name.span().start))
}

/// Takes the entry at `key` out; false if there is none, which ends the reading.
fn remove(table: &mut DeTable<'_>, key: &[String]) -> bool {
    let Some((first, rest)) = key.split_first() else { return false };
    if rest.is_empty() {
        return table.remove(first.as_str()).is_some();
    }
    match table.get_mut(first.as_str()).map(Spanned::get_mut) {
        Some(DeValue::Table(inner)) => remove(inner, rest),
        _ => false,
    }
}
