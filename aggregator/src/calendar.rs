//! iCalendar (RFC 5545) as a calendar of events: entries with a region, a class and a recurrence, and their occurrences.
//!
//! Owns the reading of a file into entries and their bounded expansion into occurrences. Must never lose the good
//! part of a file to its bad part, nor run for ever on a rule without an end. The hard case is a nonsense entry in the
//! middle: the file is cut into entries before any of them is parsed, so that each fails alone, named by line and UID.

mod entry;
mod expand;
mod time;

use std::fmt;

use chrono_tz::Tz;

use entry::Entry;
pub use entry::Problem;
pub use expand::{Expansion, Occurrence, Span};

/// Bytes of one calendar file that are read; the entries past them are counted as one mistake.
pub const FILE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Entries of one file; each further one is a mistake.
pub const ENTRIES_MAX: usize = 20_000;
/// Bytes of one entry.
pub const ENTRY_BYTES_MAX: usize = 64 * 1024;
/// Components inside one another in one entry: an entry, its alarms, and one to spare.
pub const DEPTH_MAX: usize = 3;
/// Mistakes of one file that are described; all are counted.
pub const MISTAKES_MAX: usize = 100;
/// Occurrences of one entry in one expansion: a year and more of daily events.
pub const OCCURRENCES_PER_ENTRY_MAX: usize = 1_000;
/// Steps that the recurrence of one entry may take, those before the span included: 270 years of daily events.
pub const STEPS_PER_ENTRY_MAX: usize = 100_000;
/// Days that one occurrence may last.
pub const OCCURRENCE_DAYS_MAX: i64 = 366;
/// Dates listed one by one (RDATE, EXDATE) in one entry.
pub const DATES_PER_ENTRY_MAX: usize = 4_000;
/// Characters of an entry's title that are kept.
pub const TITLE_CHARS_MAX: usize = 120;
/// The class of an entry without CATEGORIES.
pub const CLASS_DEFAULT: &str = "event";

/// The entries of one or more files, not yet expanded.
#[derive(Clone, Debug, Default)]
pub struct Calendar {
    entries: Vec<Entry>,
    /// Entries that were called off (STATUS:CANCELLED) and therefore left out.
    pub cancelled: u64,
}

/// What was read of one file.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// The good part.
    pub calendar: Calendar,
    /// The first mistakes, in the order of the file; at most [`MISTAKES_MAX`].
    pub mistakes: Vec<Mistake>,
    /// All mistakes.
    pub mistakes_total: u64,
}

/// One entry that could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Mistake {
    /// Line of the entry's begin, from 1.
    pub line: usize,
    /// Its UID, if that could be read.
    pub uid: String,
    /// What is wrong.
    pub problem: Problem,
}

impl fmt::Display for Mistake {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "line {}", self.line)?;
        if !self.uid.is_empty() {
            write!(out, ", UID {}", self.uid)?;
        }
        write!(out, ": {}", self.problem)
    }
}

impl Calendar {
    /// Reads the bytes of one file. Whatever the bytes are, this returns: bad entries are mistakes beside the good ones.
    pub fn read(bytes: &[u8]) -> Reading {
        let mut reading = Reading::default();
        let kept = &bytes[..bytes.len().min(FILE_BYTES_MAX)];
        let text = String::from_utf8_lossy(kept);
        let zone = calendar_zone(&text);
        let blocks = cut_blocks(&text, &mut reading);
        if kept.len() < bytes.len() {
            reading.note(0, "", Problem::FileTooLarge);
        }
        for block in blocks {
            reading.take_block(&block, zone);
        }
        if reading.calendar.entries.is_empty()
            && reading.mistakes_total == 0
            && !text.contains("BEGIN:VCALENDAR")
        {
            reading.note(1, "", Problem::NotACalendar);
        }
        reading
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds the entries of another file.
    pub fn append(&mut self, other: Self) {
        self.entries.extend(other.entries);
        self.cancelled += other.cancelled;
    }
}

impl Reading {
    fn note(&mut self, line: usize, uid: &str, problem: Problem) {
        self.mistakes_total += 1;
        if self.mistakes.len() < MISTAKES_MAX {
            self.mistakes.push(Mistake { line, uid: uid.chars().take(80).collect(), problem });
        }
    }

    fn take_block(&mut self, block: &Block<'_>, zone: Option<Tz>) {
        if self.calendar.entries.len() >= ENTRIES_MAX {
            return self.note(block.line, "", Problem::TooManyEntries);
        }
        match Entry::parse(block.text, zone) {
            Ok(entry) if entry.cancelled => {
                self.calendar.cancelled += 1;
                self.calendar.entries.push(entry);
            }
            Ok(entry) => self.calendar.entries.push(entry),
            Err((uid, problem)) => self.note(block.line, &uid, problem),
        }
    }
}

/// The text of one entry, from its begin to its end.
struct Block<'t> {
    line: usize,
    text: &'t str,
}

/// Where a cut stands: inside an entry that began at a line and an offset, so deep in components.
#[derive(Clone, Copy)]
struct Begun {
    line: usize,
    offset: usize,
    depth: usize,
    deepest: usize,
}

/// Cuts a file into its entries by their begin and end lines alone.
fn cut_blocks<'t>(text: &'t str, reading: &mut Reading) -> Vec<Block<'t>> {
    let mut blocks = Vec::new();
    let mut begun: Option<Begun> = None;
    let mut offset = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let end = offset + line.len();
        let (keyword, name) = line.trim_end().split_once(':').unwrap_or_default();
        let begins = keyword.eq_ignore_ascii_case("BEGIN");
        let event = name.eq_ignore_ascii_case("VEVENT");
        if begins && event {
            if let Some(unfinished) = begun {
                reading.note(unfinished.line, "", Problem::Unfinished);
            }
            begun = Some(Begun { line: index + 1, offset, depth: 1, deepest: 1 });
        } else if let Some(inside) = &mut begun {
            if begins {
                inside.depth += 1;
                inside.deepest = inside.deepest.max(inside.depth);
            } else if keyword.eq_ignore_ascii_case("END") {
                inside.depth = inside.depth.saturating_sub(1);
            }
            if event && inside.depth == 0 {
                let block = Block { line: inside.line, text: &text[inside.offset..end] };
                match block_problem(&block, inside.deepest) {
                    None => blocks.push(block),
                    Some(problem) => reading.note(block.line, "", problem),
                }
                begun = None;
            }
        }
        offset = end;
    }
    if let Some(unfinished) = begun {
        reading.note(unfinished.line, "", Problem::Unfinished);
    }
    blocks
}

/// What forbids even parsing an entry. The parser goes down a level for each component, so the depth is bounded here.
fn block_problem(block: &Block<'_>, deepest: usize) -> Option<Problem> {
    if block.text.len() > ENTRY_BYTES_MAX {
        Some(Problem::TooLarge)
    } else if deepest > DEPTH_MAX {
        Some(Problem::TooDeep)
    } else {
        None
    }
}

/// The zone that a calendar names for times that name none (X-WR-TIMEZONE, which every large publisher writes).
fn calendar_zone(text: &str) -> Option<Tz> {
    let line = text.lines().take(200).find_map(|line| line.strip_prefix("X-WR-TIMEZONE:"))?;
    time::zone(line.trim())
}

#[cfg(test)]
mod tests;
