//! Recorded telemetry as one stream of lines in the order of their time.
//!
//! Owns the reading of files, the sorting within each file's lateness and the merging of files. Must never hold more
//! lines of a file than `pending_max`, nor let one absurd time decide about the rest. The hard case is a single time
//! far ahead of its neighbours: it would make all that follow late, so a leap counts only once the next line agrees.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use vedette_agent_core::parse::Precision;
use vedette_agent_core::parse::line_protocol::{self, Head};
use vedette_common::WallMs;
use vedette_common::limits::{LINE_BYTES_MAX, NAME_BYTES_MAX};

pub use super::row::HeaderError;
use super::row::{Columns, Row};
use crate::config::{Config, Replay};

/// Files of one replay.
pub const FILES_MAX: usize = 1_000;
/// A time this far ahead of those before it counts only once the next line agrees.
const LEAP_MS: i64 = 86_400_000;
/// Event times that are believed at all: the years 2000 to 2099.
const TIMES_MS: std::ops::Range<i64> = 946_684_800_000..4_102_444_800_000;
/// The region of a line that names none, as the pipeline calls it.
const NO_REGION: &str = "-";

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The operating system's word.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What it says.
        source: std::io::Error,
    },
    /// A CSV file whose header makes no table.
    #[error("{}:1: {source}", file.display())]
    Header {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        source: HeaderError,
    },
    /// More files than can be open.
    #[error("{0} input files: at most {FILES_MAX}")]
    TooManyFiles(usize),
}

/// What a line says.
#[allow(clippy::large_enum_variant, reason = "one at a time, and only for as long as its line is read")]
pub(super) enum Body<'a> {
    /// A line of line protocol.
    LineProtocol {
        /// Its bytes.
        bytes: &'a [u8],
        /// The unit of its timestamp.
        precision: Precision,
    },
    /// A row of a table.
    Row(Row<'a>),
}

/// The next line of the stream.
pub struct Line<'a> {
    /// Its event time.
    pub at: WallMs,
    pub(super) body: Body<'a>,
}

impl<'a> Line<'a> {
    /// A line of line protocol with the time that it carries in that unit.
    pub const fn of_line_protocol(at: WallMs, bytes: &'a [u8], precision: Precision) -> Self {
        Self { at, body: Body::LineProtocol { bytes, precision } }
    }
    /// The region that the tag `tag` names.
    pub(super) fn region(&self, tag: &str) -> Cow<'_, str> {
        let found = match &self.body {
            Body::LineProtocol { bytes, .. } => region_of_line(bytes, tag),
            Body::Row(row) => row.tags().find(|(key, _)| *key == tag).map(|(_, value)| Cow::Borrowed(value)),
        };
        found.filter(|name| name.len() <= NAME_BYTES_MAX).unwrap_or(Cow::Borrowed(NO_REGION))
    }
}

/// Finds a tag in a line of line protocol; the rare line with escapes is taken apart in full.
fn region_of_line<'a>(bytes: &'a [u8], tag: &str) -> Option<Cow<'a, str>> {
    if bytes.contains(&b'\\') {
        let mut scratch = [0; line_protocol::SCRATCH_BYTES];
        let line = line_protocol::Line::split(bytes).ok().flatten()?;
        let head = Head::parse(line.head, &mut scratch).ok()?;
        let value = head.tags.iter().find(|(key, _)| *key == tag)?.1;
        return Some(Cow::Owned(value.to_owned()));
    }
    let head = bytes.split(|byte| *byte == b' ').next()?;
    let value = head
        .split(|byte| *byte == b',')
        .skip(1)
        .find_map(|part| part.strip_prefix(tag.as_bytes())?.strip_prefix(b"="))?;
    std::str::from_utf8(value).ok().map(Cow::Borrowed)
}

/// The merged stream.
pub struct Input {
    files: Vec<Source>,
    /// Lines that were left out before they reached a pipeline, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    current: Vec<u8>,
}

impl Input {
    /// Opens every file and reads its first lines.
    ///
    /// # Errors
    /// A file that cannot be read, or a table without its columns.
    pub fn open(files: &[PathBuf], config: &Config) -> Result<Self, InputError> {
        if files.len() > FILES_MAX {
            return Err(InputError::TooManyFiles(files.len()));
        }
        let mut input = Self { files: Vec::new(), dropped: BTreeMap::new(), current: Vec::new() };
        for file in files {
            let io = |source| InputError::Io { file: file.clone(), source };
            let reader: Box<dyn BufRead> =
                Box::new(BufReader::with_capacity(64 * 1024, File::open(file).map_err(io)?));
            input.files.push(Source::open(file, reader, config)?);
        }
        for place in 0..input.files.len() {
            input.files[place].refill(&mut input.dropped)?;
        }
        Ok(input)
    }

    /// The line with the earliest time; of two with the same, that of the file named first.
    ///
    /// # Errors
    /// What the operating system says while reading.
    pub fn next_line(&mut self) -> Result<Option<Line<'_>>, InputError> {
        loop {
            let heads = self.files.iter().enumerate().filter_map(|(place, it)| Some((it.head()?, place)));
            let Some((_, place)) = heads.min() else { return Ok(None) };
            let Some(Reverse(pending)) = self.files[place].pending.pop() else { return Ok(None) };
            self.current = pending.bytes;
            self.files[place].released = pending.at;
            self.files[place].refill(&mut self.dropped)?;
            let at = WallMs(pending.at);
            let form = &self.files[place].form;
            // Whether it can be cut is looked at first, so that the borrow ends before the next turn.
            if let Form::Table(columns) = form
                && std::str::from_utf8(&self.current).ok().and_then(|text| Row::cut(columns, text)).is_none()
            {
                *self.dropped.entry("malformed_line").or_default() += 1;
                continue;
            }
            return Ok(self.files[place].form.body(&self.current).map(|body| Line { at, body }));
        }
    }

    /// Bytes read so far, of all files.
    pub fn bytes_read(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// What a file holds.
enum Form {
    LineProtocol(Precision),
    Table(Columns),
}

impl Form {
    fn body<'a>(&'a self, bytes: &'a [u8]) -> Option<Body<'a>> {
        match self {
            Self::LineProtocol(precision) => Some(Body::LineProtocol { bytes, precision: *precision }),
            Self::Table(columns) => Some(Body::Row(Row::cut(columns, std::str::from_utf8(bytes).ok()?)?)),
        }
    }

    /// The time of a line, or why it has none; nothing at all for a blank or a comment.
    fn time_ms(&self, bytes: &[u8]) -> Result<Option<i64>, &'static str> {
        let text = bytes.trim_ascii();
        if text.is_empty() {
            return Ok(None);
        }
        let at = match self {
            Self::LineProtocol(_) if text[0] == b'#' => return Ok(None),
            Self::LineProtocol(precision) => {
                let last = text.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
                let stamp = std::str::from_utf8(last).ok().and_then(|it| it.parse().ok());
                precision.to_ms(stamp.ok_or("timestamp_missing")?)
            }
            Self::Table(columns) => {
                let text = std::str::from_utf8(bytes).map_err(|_| "not_utf8")?;
                columns.time_ms(text).ok_or("malformed_line")?
            }
        };
        if TIMES_MS.contains(&at) { Ok(Some(at)) } else { Err("timestamp_out_of_range") }
    }
}

/// A line that waits for its turn; ordered by time, then by its place in the file.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Pending {
    at: i64,
    number: u64,
    bytes: Vec<u8>,
}

/// One file.
struct Source {
    file: PathBuf,
    reader: Box<dyn BufRead>,
    form: Form,
    lateness_ms: i64,
    pending_max: usize,
    pending: BinaryHeap<Reverse<Pending>>,
    suspect: Option<Pending>,
    newest: Option<i64>,
    released: i64,
    number: u64,
    bytes: u64,
    ended: bool,
}

impl Source {
    fn open(file: &Path, reader: Box<dyn BufRead>, config: &Config) -> Result<Self, InputError> {
        let Replay { lateness_ms, pending_max, .. } = config.replay;
        let mut source = Self {
            file: file.to_owned(),
            reader,
            form: Form::LineProtocol(super::precision(config)),
            lateness_ms: i64::from(lateness_ms),
            pending_max: pending_max as usize,
            pending: BinaryHeap::new(),
            suspect: None,
            newest: None,
            released: i64::MIN,
            number: 0,
            bytes: 0,
            ended: false,
        };
        source.read_header()?;
        Ok(source)
    }

    /// Looks at the first line without taking it, unless it is the header of a table.
    fn read_header(&mut self) -> Result<(), InputError> {
        let io = |file: &Path, source| InputError::Io { file: file.to_owned(), source };
        let start = self.reader.fill_buf().map_err(|error| io(&self.file, error))?;
        let length = start.iter().position(|byte| *byte == b'\n').map_or(start.len(), |at| at + 1);
        let Ok(header) = std::str::from_utf8(&start[..length]) else { return Ok(()) };
        let is_csv = self.file.extension().is_some_and(|it| it.eq_ignore_ascii_case("csv"));
        if !is_csv && !Columns::is_header(header) {
            return Ok(());
        }
        let stem = self.file.file_stem().unwrap_or_default().to_string_lossy();
        let columns = Columns::parse(header.trim_end(), &stem)
            .map_err(|source| InputError::Header { file: self.file.clone(), source })?;
        self.form = Form::Table(columns);
        self.reader.consume(length);
        self.bytes += length as u64;
        Ok(())
    }

    /// The time and number of the line to be released next.
    fn head(&self) -> Option<i64> {
        self.pending.peek().map(|Reverse(pending)| pending.at)
    }

    /// Reads until the earliest line held is certain to be the next.
    fn refill(&mut self, dropped: &mut BTreeMap<&'static str, u64>) -> Result<(), InputError> {
        while !self.ended && !self.is_certain() {
            let mut bytes = Vec::new();
            match self.read_line(&mut bytes) {
                Err(source) => return Err(InputError::Io { file: self.file.clone(), source }),
                Ok(None) => {
                    self.ended = true;
                    // Nothing can contradict the last line any more.
                    if let Some(suspect) = self.suspect.take() {
                        self.admit(suspect, dropped);
                    }
                }
                Ok(Some(false)) => *dropped.entry("line_too_long").or_default() += 1,
                Ok(Some(true)) => match self.form.time_ms(&bytes) {
                    Err(reason) => *dropped.entry(reason).or_default() += 1,
                    Ok(None) => {}
                    Ok(Some(at)) => {
                        self.number += 1;
                        self.weigh(Pending { at, number: self.number, bytes }, dropped);
                    }
                },
            }
        }
        Ok(())
    }

    fn is_certain(&self) -> bool {
        let settled = self.newest.unwrap_or(i64::MIN).saturating_sub(self.lateness_ms);
        self.head().is_some_and(|at| at <= settled) || self.pending.len() >= self.pending_max
    }

    /// Holds a line back when its time leaps ahead, and judges the one held back by its successor.
    fn weigh(&mut self, line: Pending, dropped: &mut BTreeMap<&'static str, u64>) {
        if let Some(suspect) = self.suspect.take() {
            if line.at >= suspect.at - LEAP_MS {
                self.admit(suspect, dropped);
            } else {
                *dropped.entry("timestamp_out_of_range").or_default() += 1;
            }
        }
        if self.newest.is_none_or(|newest| line.at > newest.saturating_add(LEAP_MS)) {
            self.suspect = Some(line);
        } else {
            self.admit(line, dropped);
        }
    }

    fn admit(&mut self, line: Pending, dropped: &mut BTreeMap<&'static str, u64>) {
        if line.at < self.released {
            *dropped.entry("late").or_default() += 1;
            return;
        }
        self.newest = self.newest.max(Some(line.at));
        self.pending.push(Reverse(line));
    }

    /// Reads one line without its end; `false` for one that was too long and is skipped, none at the end of the file.
    fn read_line(&mut self, line: &mut Vec<u8>) -> std::io::Result<Option<bool>> {
        let (mut fits, mut begun) = (true, false);
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                return Ok(begun.then_some(fits));
            }
            begun = true;
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let part = &buffer[..end.unwrap_or(buffer.len())];
            fits &= line.len() + part.len() <= LINE_BYTES_MAX;
            if fits {
                line.extend_from_slice(part);
            }
            let used = end.map_or(part.len(), |end| end + 1);
            self.reader.consume(used);
            self.bytes += used as u64;
            if end.is_some() {
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                return Ok(Some(fits));
            }
        }
    }
}
