//! One row of a CSV file as an observation: which column is what, and how a value or a time is written.
//!
//! Owns the CSV form of telemetry: `timestamp` and `value`, `measurement` if the file holds more than one, and every
//! other column a tag. Must never guess at a cell that cannot be read. The hard case is a quoted cell: commas and
//! doubled quotes inside it belong to the text. A cell without text is a tag that the row does not have.

use std::borrow::Cow;

use chrono::{DateTime, NaiveDateTime};

/// Columns that one file may have: the tags of a series and the three with a meaning.
pub const COLUMNS_MAX: usize = vedette_common::limits::TAGS_MAX + 3;

/// Why the header of a file makes no table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// A column that every table needs.
    #[error(
        "the header has no column `{0}`: a CSV file needs `timestamp` and `value`, other columns are tags"
    )]
    Missing(&'static str),
    /// Two columns of one name.
    #[error("the header names the column `{0}` twice")]
    Twice(String),
    /// More columns than a series has tags.
    #[error("the header has more than {COLUMNS_MAX} columns")]
    TooMany,
}

/// The columns of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    names: Vec<String>,
    timestamp: usize,
    value: usize,
    measurement: Option<usize>,
    /// The measurement when no column names it: the file's name without its ending.
    measurement_default: String,
}

impl Columns {
    /// Reads a header.
    ///
    /// # Errors
    /// [`HeaderError`] for one that makes no table.
    pub fn parse(header: &str, measurement_default: &str) -> Result<Self, HeaderError> {
        let names: Vec<String> =
            cells(header).map(|it| it.trim().trim_start_matches('\u{feff}').to_owned()).collect();
        if names.len() > COLUMNS_MAX {
            return Err(HeaderError::TooMany);
        }
        if let Some(name) =
            names.iter().enumerate().find_map(|(at, it)| names[..at].contains(it).then_some(it))
        {
            return Err(HeaderError::Twice(name.clone()));
        }
        let position = |name: &str| names.iter().position(|it| it.eq_ignore_ascii_case(name));
        let timestamp = position("timestamp").ok_or(HeaderError::Missing("timestamp"))?;
        let value = position("value").ok_or(HeaderError::Missing("value"))?;
        let measurement = position("measurement");
        Ok(Self { timestamp, value, measurement, measurement_default: measurement_default.to_owned(), names })
    }

    /// Whether a first line is a header rather than line protocol, whose fields have a `=`.
    #[must_use]
    pub fn is_header(line: &str) -> bool {
        let named =
            |name| cells(line).any(|it| it.trim().trim_start_matches('\u{feff}').eq_ignore_ascii_case(name));
        !line.contains('=') && (named("timestamp") || named("value"))
    }

    /// The time of a row, in Unix milliseconds.
    #[must_use]
    pub fn time_ms(&self, line: &str) -> Option<i64> {
        time_ms(cells(line).nth(self.timestamp)?.trim())
    }
}

/// One row, cut into its cells.
#[derive(Clone, Debug)]
pub struct Row<'a> {
    columns: &'a Columns,
    cells: heapless::Vec<Cow<'a, str>, COLUMNS_MAX>,
}

impl<'a> Row<'a> {
    /// Cuts a line; none if it has another number of cells than the header.
    #[must_use]
    pub fn cut(columns: &'a Columns, line: &'a str) -> Option<Self> {
        let mut row = Self { columns, cells: heapless::Vec::new() };
        for cell in cells(line) {
            row.cells.push(cell).ok()?;
        }
        (row.cells.len() == columns.names.len()).then_some(row)
    }

    /// What is measured.
    #[must_use]
    pub fn measurement(&self) -> &str {
        self.columns.measurement.map_or(&self.columns.measurement_default, |at| self.cells[at].trim())
    }

    /// The value.
    ///
    /// # Errors
    /// Why there is none.
    pub fn value(&self) -> Result<f64, &'static str> {
        let text = self.cells[self.columns.value].trim();
        if text.is_empty() {
            return Err("value_missing");
        }
        text.parse().map_err(|_| "malformed_line")
    }

    /// The tags that have a value.
    pub fn tags(&self) -> impl Iterator<Item = (&str, &str)> {
        let columns = self.columns;
        let meaning = move |at: &usize| {
            *at == columns.timestamp || *at == columns.value || Some(*at) == columns.measurement
        };
        let tag = move |at: usize| (columns.names[at].as_str(), self.cells[at].trim());
        (0..self.cells.len()).filter(move |at| !meaning(at)).map(tag).filter(|(_, value)| !value.is_empty())
    }
}

/// The cells of a line (RFC 4180, but a cell does not span lines).
fn cells(line: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let text = rest?;
        if let Some(quoted) = text.strip_prefix('"') {
            let (cell, after) = quoted_cell(quoted);
            rest = after;
            return Some(cell);
        }
        let (cell, after) = text.split_once(',').map_or((text, None), |(cell, after)| (cell, Some(after)));
        rest = after;
        Some(Cow::Borrowed(cell))
    })
}

/// The cell whose opening quote is behind us, and what follows its comma.
fn quoted_cell(text: &str) -> (Cow<'_, str>, Option<&str>) {
    let mut end = 0;
    while let Some(at) = text[end..].find('"').map(|at| end + at) {
        if text[at + 1..].starts_with('"') {
            end = at + 2;
            continue;
        }
        let after = text[at + 1..].split_once(',').map(|(_, after)| after);
        let cell = &text[..at];
        let plain =
            if cell.contains('"') { Cow::Owned(cell.replace("\"\"", "\"")) } else { Cow::Borrowed(cell) };
        return (plain, after);
    }
    (Cow::Borrowed(text), None)
}

/// A time as RFC 3339, `YYYY-MM-DD HH:MM:SS` in UTC, or Unix seconds.
fn time_ms(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse::<f64>() {
        let ms = (seconds * 1000.0).round();
        return (ms.abs() < 1e15).then_some(ms as i64);
    }
    if let Ok(time) = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f") {
        return Some(time.and_utc().timestamp_millis());
    }
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.timestamp_millis());
    }
    let time = NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f");
    time.or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M"))
        .ok()
        .map(|it| it.and_utc().timestamp_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_says_which_column_is_what() {
        let columns = Columns::parse("timestamp,measurement,region,device,value", "file").expect("complete");
        let row =
            Row::cut(&columns, "2026-03-09 20:15:00,activity,uk,\"tv, \"\"big\"\"\",12.5").expect("complete");
        assert_eq!((row.measurement(), row.value()), ("activity", Ok(12.5)));
        assert_eq!(row.tags().collect::<Vec<_>>(), [("region", "uk"), ("device", "tv, \"big\"")]);
        assert_eq!(columns.time_ms("2026-03-09 20:15:00,a,b,c,1"), Some(1_773_087_300_000));
    }

    #[test]
    fn a_file_without_measurements_is_one() {
        let columns = Columns::parse("timestamp,value", "demand").expect("complete");
        assert_eq!(Row::cut(&columns, "1,2").expect("complete").measurement(), "demand");
    }

    #[test]
    fn times_are_read_in_each_form() {
        for text in ["2026-03-09T20:15:00Z", "2026-03-09T21:15:00+01:00", "2026-03-09 20:15:00", "1773087300"]
        {
            assert_eq!(time_ms(text), Some(1_773_087_300_000), "{text}");
        }
        assert_eq!(time_ms("soon"), None);
        assert_eq!(time_ms("1e300"), None);
        assert_eq!(time_ms("NaN"), None);
    }

    #[test]
    fn what_is_no_table_is_said() {
        assert_eq!(Columns::parse("timestamp,region", "f"), Err(HeaderError::Missing("value")));
        assert_eq!(Columns::parse("timestamp,value,a,a", "f"), Err(HeaderError::Twice("a".into())));
        assert!(Columns::is_header("timestamp,value") && !Columns::is_header("cpu,host=a value=1 1"));
        let columns = Columns::parse("timestamp,value", "f").expect("complete");
        assert!(Row::cut(&columns, "1").is_none() && Row::cut(&columns, "1,2,3").is_none());
        assert_eq!(Row::cut(&columns, "1,").expect("two cells").value(), Err("value_missing"));
        assert_eq!(Row::cut(&columns, "1,x").expect("two cells").value(), Err("malformed_line"));
    }
}
