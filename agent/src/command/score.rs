//! `score`: a CSV file of one series in, the same rows with their scores out.
//!
//! It must never look ahead or reorder: one row in, one row out, with the agent's own scoring code and its
//! default parameters. The hard case is a bad row: it is named with its line, its scores stay empty of meaning
//! (0, and no expectation), and the count of rows still matches.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use anyhow::Context as _;
use chrono::{DateTime, NaiveDateTime};
use csv::{ByteRecord, ReaderBuilder, Writer};
use vedette_agent_core::score::{Learning, Moment, Rest, RestSettings, Score, SeriesState, Standing};
use vedette_common::WallMs;

/// The columns of the output, in order.
pub const OUTPUT_COLUMNS: [&str; 7] = [
    "timestamp",
    "value",
    "anomaly_score",
    "expected",
    "forecast_score",
    "derivative_score",
    "distribution_score",
];
/// Two more where the band is asked for.
pub const BAND_COLUMNS: [&str; 2] = ["next", "band"];
/// So many bad rows are named one by one; the rest is counted.
pub const BAD_ROWS_NAMED_MAX: u64 = 20;
/// Starts the generator behind the scorers' rounding: the same file gives the same scores.
const SEED: u32 = 0;

/// Scores a CSV file of one series: the same rows with their scores, on standard output.
#[derive(Debug, clap::Args)]
pub struct ScoreArgs {
    /// Name of the column of event times: RFC 3339, YYYY-MM-DD HH:MM:SS or Unix seconds.
    #[arg(long, value_name = "COL", default_value = "timestamp")]
    timestamp: String,
    /// Name of the column of values.
    #[arg(long, value_name = "COL", default_value = "value")]
    value: String,
    /// Score how severe each row is by itself: without rest after an alarm, a lasting fault scores high while it lasts.
    #[arg(long)]
    no_rest: bool,
    /// Two more columns: `next`, the best forecast of this one value, and `band`: nine values of ten lie within it of `next`.
    #[arg(long)]
    band: bool,
    /// The file to read; standard input without it.
    file: Option<PathBuf>,
}

/// Runs `score`. Rows that cannot be scored are named on standard error and are no error.
///
/// # Errors
/// A file that cannot be read, a missing column, or an output that cannot be written.
pub fn score(args: ScoreArgs) -> anyhow::Result<()> {
    let ScoreArgs { timestamp, value, no_rest, band, file } = args;
    let rest = (!no_rest).then(RestSettings::default);
    let options = ScoreOptions { timestamp, value, rest, band };
    let (output, problems) = (io::BufWriter::new(io::stdout().lock()), io::stderr());
    match file {
        None => score_csv(io::stdin().lock(), output, problems, &options)?,
        Some(path) => {
            let named = || path.display().to_string();
            let input = File::open(&path).with_context(named)?;
            score_csv(io::BufReader::new(input), output, problems, &options).with_context(named)?
        }
    };
    Ok(())
}

/// Which columns to read, and what becomes of an alarm that lasts.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreOptions {
    /// Name of the column of event times; default `timestamp`.
    pub timestamp: String,
    /// Name of the column of values; default `value`.
    pub value: String,
    /// For how long the anomaly score rests after an alarm; `None` means not at all.
    pub rest: Option<RestSettings>,
    /// Whether to write [`BAND_COLUMNS`] as well; default no.
    pub band: bool,
}

impl Default for ScoreOptions {
    fn default() -> Self {
        let rest = Some(RestSettings::default());
        ScoreOptions { timestamp: "timestamp".into(), value: "value".into(), rest, band: false }
    }
}

impl ScoreOptions {
    fn band_columns(&self) -> &'static [&'static str] {
        if self.band { &BAND_COLUMNS } else { &[] }
    }
}

/// How many rows were read, and how many of them could not be scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScoreTally {
    /// Rows after the header.
    pub rows: u64,
    /// Rows without a usable time or value.
    pub bad: u64,
}

/// Why a file cannot be scored at all.
#[derive(Debug, thiserror::Error)]
pub enum ScoreCsvError {
    /// Not even a header.
    #[error("the input is empty: expected a header row with the columns `{timestamp}` and `{value}`")]
    Empty {
        /// The column of times asked for.
        timestamp: String,
        /// The column of values asked for.
        value: String,
    },
    /// A column is not in the header.
    #[error("line 1: no column `{wanted}`; the header has: {found}. Name the right one with --{option}")]
    MissingColumn {
        /// The column asked for.
        wanted: String,
        /// The columns there are, separated by commas.
        found: String,
        /// The option that names it.
        option: &'static str,
    },
    /// The input could not be read.
    #[error("cannot read the input: {0}")]
    Read(#[source] csv::Error),
    /// The output could not be written.
    #[error("cannot write the output: {0}")]
    Write(#[from] io::Error),
}

impl From<csv::Error> for ScoreCsvError {
    /// An error of the writer; a reader's is wrapped where it is read.
    fn from(error: csv::Error) -> Self {
        match error.into_kind() {
            csv::ErrorKind::Io(error) => ScoreCsvError::Write(error),
            other => ScoreCsvError::Write(io::Error::other(format!("{other:?}"))),
        }
    }
}

/// What is wrong with one row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRow {
    /// The row ends before the column of times or values.
    #[error("{fields} fields, too few for the columns of time and value")]
    Short {
        /// How many fields there are.
        fields: usize,
    },
    /// A time in none of the three forms.
    #[error("`{0}` is no time: expected RFC 3339, YYYY-MM-DD HH:MM:SS or Unix seconds")]
    Time(String),
    /// A value that is not a finite number.
    #[error("`{0}` is no finite number")]
    Value(String),
}

/// Scores the CSV rows of `input` onto `output`, in order, one for one; bad rows are named on `problems`.
///
/// # Errors
/// A missing header or column, or a failure to read or write. Bad rows are no error.
pub fn score_csv(
    input: impl Read,
    output: impl Write,
    mut problems: impl Write,
    options: &ScoreOptions,
) -> Result<ScoreTally, ScoreCsvError> {
    let mut reader = ReaderBuilder::new().flexible(true).from_reader(input);
    let columns = Columns::find(reader.byte_headers().map_err(ScoreCsvError::Read)?, options)?;
    let mut writer = Writer::from_writer(output);
    writer.write_record(OUTPUT_COLUMNS.iter().chain(options.band_columns()))?;
    let (mut watch, mut row, mut tally) =
        (Watch::new(options.rest), ByteRecord::new(), ScoreTally::default());
    while reader.read_byte_record(&mut row).map_err(ScoreCsvError::Read)? {
        tally.rows += 1;
        let score = match columns.observation(&row) {
            Ok((moment, value)) => Some(watch.observe(moment, value)),
            Err(bad) => {
                tally.bad += 1;
                name_bad_row(&mut problems, &row, &bad, tally.bad)?;
                None
            }
        };
        write_row(&mut writer, columns.texts(&row), score, options)?;
    }
    writer.flush()?;
    if tally.bad > BAD_ROWS_NAMED_MAX {
        writeln!(problems, "{} of {} rows could not be scored", tally.bad, tally.rows)?;
    }
    Ok(tally)
}

/// The series of the file, the rest after its alarms, or its long run.
struct Watch {
    series: SeriesState,
    rest: Rest,
    standing: Standing,
    settings: Option<RestSettings>,
}

impl Watch {
    fn new(settings: Option<RestSettings>) -> Self {
        Watch { series: SeriesState::new(SEED), rest: Rest::new(), standing: Standing::new(), settings }
    }

    /// The anomaly score of one observation, and what the scorers said of it.
    fn observe(&mut self, moment: Moment, value: f64) -> (f32, Score) {
        let score = self.series.update(moment, value, Learning::Normal);
        let anomaly = match &self.settings {
            Some(settings) => self.rest.admit(settings, moment.at, &score),
            None => self.standing.rank(&score, value),
        };
        (anomaly, score)
    }
}

fn name_bad_row(problems: &mut impl Write, row: &ByteRecord, bad: &BadRow, nth: u64) -> io::Result<()> {
    if nth > BAD_ROWS_NAMED_MAX {
        return Ok(());
    }
    let line = row.position().map_or(0, csv::Position::line);
    writeln!(problems, "line {line}: {bad}")
}

fn write_row(
    writer: &mut Writer<impl Write>,
    (timestamp, value): (&[u8], &[u8]),
    scored: Option<(f32, Score)>,
    options: &ScoreOptions,
) -> Result<(), csv::Error> {
    let [expected, next, band] = [|s: Score| s.expected, |s: Score| s.next, |s: Score| s.band]
        .map(|part| scored.map(|(_, score)| part(score).to_string()).unwrap_or_default());
    let (anomaly, score) = scored.unwrap_or_default();
    let Score { forecast, derivative, distribution, .. } = score;
    let [anomaly, forecast, derivative, distribution] =
        [anomaly, forecast, derivative, distribution].map(|part| part.to_string());
    let numbers = [&anomaly, &expected, &forecast, &derivative, &distribution, &next, &band];
    let shown = OUTPUT_COLUMNS.len() - 2 + options.band_columns().len();
    writer.write_record(
        [timestamp, value].into_iter().chain(numbers[..shown].iter().map(|text| text.as_bytes())),
    )
}

/// Where time and value stand in a row.
#[derive(Clone, Copy, Debug)]
struct Columns {
    timestamp: usize,
    value: usize,
}

impl Columns {
    fn find(header: &ByteRecord, options: &ScoreOptions) -> Result<Self, ScoreCsvError> {
        if header.is_empty() {
            let ScoreOptions { timestamp, value, .. } = options.clone();
            return Err(ScoreCsvError::Empty { timestamp, value });
        }
        let names: Vec<String> = header.iter().map(column_name).collect();
        let find = |wanted: &str, option| {
            names.iter().position(|name| name == wanted).ok_or_else(|| ScoreCsvError::MissingColumn {
                wanted: wanted.into(),
                found: names.join(", "),
                option,
            })
        };
        Ok(Columns {
            timestamp: find(&options.timestamp, "timestamp")?,
            value: find(&options.value, "value")?,
        })
    }

    /// The two fields as they stand in the row; one that is missing is empty.
    fn texts(self, row: &ByteRecord) -> (&[u8], &[u8]) {
        (row.get(self.timestamp).unwrap_or_default(), row.get(self.value).unwrap_or_default())
    }

    fn observation(self, row: &ByteRecord) -> Result<(Moment, f64), BadRow> {
        if row.len() <= self.timestamp.max(self.value) {
            return Err(BadRow::Short { fields: row.len() });
        }
        let (timestamp, value) = self.texts(row);
        let (timestamp, value) = (String::from_utf8_lossy(timestamp), String::from_utf8_lossy(value));
        let moment = parse_moment(timestamp.trim()).ok_or_else(|| BadRow::Time(timestamp.into_owned()))?;
        match value.trim().parse::<f64>() {
            Ok(number) if number.is_finite() => Ok((moment, number)),
            _ => Err(BadRow::Value(value.into_owned())),
        }
    }
}

/// The name of a column, without spaces around it and without the byte order mark that some editors put first.
fn column_name(field: &[u8]) -> String {
    String::from_utf8_lossy(field).trim_start_matches('\u{feff}').trim().to_owned()
}

/// A time as RFC 3339, `YYYY-MM-DD HH:MM:SS` (taken as UTC, a fraction or a `T` allowed) or Unix seconds.
///
/// The offset of an RFC 3339 time is that of the region: seasons follow it.
fn parse_moment(text: &str) -> Option<Moment> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(Moment::new(WallMs(time.timestamp_millis()), time.offset().local_minus_utc()));
    }
    let naive = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f"]
        .iter()
        .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
    if let Some(time) = naive {
        return Some(Moment::new(WallMs(time.and_utc().timestamp_millis()), 0));
    }
    let ms = text.parse::<f64>().ok()? * 1000.0;
    (ms.abs() < UNIX_MS_MAX).then(|| Moment::new(WallMs(ms.round() as i64), 0))
}

/// Unix seconds up to the year 9999, in milliseconds.
const UNIX_MS_MAX: f64 = 253_402_300_800_000.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn run(input: &str, options: &ScoreOptions) -> (Result<ScoreTally, ScoreCsvError>, String, String) {
        let (mut output, mut problems) = (Vec::new(), Vec::new());
        let result = score_csv(input.as_bytes(), &mut output, &mut problems, options);
        let text = |bytes| String::from_utf8(bytes).expect("the output is text");
        (result, text(output), text(problems))
    }

    #[test]
    fn each_row_gives_one_row_and_is_echoed_as_it_stood() {
        let input = "timestamp,other,value\n2014-04-01 00:00:00,x,0.50\n2014-04-01T00:05:00Z,x,1e3\n\
                     1396311000,x, 7 \n2014-04-01T02:00:00.5+02:00,x,-1\n";
        let (tally, output, problems) = run(input, &ScoreOptions::default());
        assert_eq!(tally.expect("a good file"), ScoreTally { rows: 4, bad: 0 });
        assert_eq!(problems, "");
        let lines: Vec<&str> = output.lines().collect();
        assert_eq!(lines[0], OUTPUT_COLUMNS.join(","));
        assert!(lines[1].starts_with("2014-04-01 00:00:00,0.50,0,"), "{}", lines[1]);
        assert!(lines[2].starts_with("2014-04-01T00:05:00Z,1e3,0,"), "{}", lines[2]);
        assert!(lines[3].starts_with("1396311000, 7 ,0,"), "{}", lines[3]);
        assert_eq!(lines.len(), 5);
    }

    #[test]
    fn a_bad_row_is_named_and_still_gives_a_row() {
        let input =
            "timestamp,value\nsoon,1\n2014-04-01 00:00:00,NaN\n2014-04-01 00:00:00\n2014-04-01 00:05:00,3\n";
        let (tally, output, problems) = run(input, &ScoreOptions::default());
        assert_eq!(tally.expect("bad rows are no error"), ScoreTally { rows: 4, bad: 3 });
        assert_eq!(output.lines().count(), 5);
        assert_eq!(output.lines().nth(1), Some("soon,1,0,,0,0,0"));
        assert_eq!(output.lines().nth(3), Some("2014-04-01 00:00:00,,0,,0,0,0"));
        let problems: Vec<&str> = problems.lines().collect();
        assert!(problems[0].starts_with("line 2: `soon` is no time"), "{problems:?}");
        assert!(problems[1].starts_with("line 3: `NaN` is no finite number"), "{problems:?}");
        assert!(problems[2].starts_with("line 4: 1 fields"), "{problems:?}");
    }

    #[test]
    fn the_band_is_shown_on_demand_behind_the_other_columns() {
        let rows: String = (0..60).map(|i| format!("{},{}\n", i * 300, 100 + i % 3)).collect();
        let options = ScoreOptions { band: true, ..ScoreOptions::default() };
        let (_, output, _) = run(&format!("timestamp,value\n{rows}soon,1\n"), &options);
        let lines: Vec<Vec<&str>> = output.lines().map(|line| line.split(',').collect()).collect();
        assert_eq!(lines[0][..7], OUTPUT_COLUMNS);
        assert_eq!(lines[0][7..], BAND_COLUMNS);
        let [next, band] = [7, 8].map(|at| lines[60][at].parse::<f32>().expect("a number"));
        assert!((97.0..105.0).contains(&next) && (0.0..10.0).contains(&band), "{next} {band}");
        assert_eq!(lines[61][2..], ["0", "", "0", "0", "0", "", ""]);
    }

    #[test]
    fn a_missing_column_is_named_with_what_there_is() {
        let (result, output, _) = run("TimeStamp,Value\n1,2\n", &ScoreOptions::default());
        let message = result.expect_err("no such column").to_string();
        assert!(message.contains("no column `timestamp`; the header has: TimeStamp, Value"), "{message}");
        assert_eq!(output, "");
        let named =
            ScoreOptions { timestamp: "TimeStamp".into(), value: "Value".into(), rest: None, band: false };
        assert_eq!(run("\u{feff}TimeStamp,Value\n1,2\n", &named).0.expect("found").rows, 1);
    }

    #[test]
    fn an_empty_input_has_no_header() {
        assert!(matches!(run("", &ScoreOptions::default()).0, Err(ScoreCsvError::Empty { .. })));
        assert_eq!(run("timestamp,value\n", &ScoreOptions::default()).0.expect("no rows").rows, 0);
    }

    #[test]
    fn many_bad_rows_are_counted_not_listed() {
        let input = "timestamp,value\n".to_owned() + &"x,y\n".repeat(100);
        let (tally, _, problems) = run(&input, &ScoreOptions::default());
        assert_eq!(tally.expect("bad rows are no error").bad, 100);
        assert_eq!(problems.lines().count() as u64, BAD_ROWS_NAMED_MAX + 1);
        assert!(problems.ends_with("100 of 100 rows could not be scored\n"));
    }

    #[test]
    fn times_agree_in_every_form() {
        let utc = WallMs(1_396_310_400_000);
        for text in ["2014-04-01T00:00:00Z", "2014-04-01 00:00:00", "1396310400", "1396310400.0"] {
            assert_eq!(parse_moment(text), Some(Moment::new(utc, 0)), "{text}");
        }
        assert_eq!(parse_moment("2014-04-01T02:00:00+02:00"), Some(Moment::new(utc, 7200)));
        for text in ["", "1e300", "NaN", "2014-13-01 00:00:00", "yesterday"] {
            assert_eq!(parse_moment(text), None, "{text}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_a_bad_row() {
        let mut output = Vec::new();
        let tally = score_csv(
            &b"timestamp,value\n\xff\xfe,\xff\n"[..],
            &mut output,
            io::sink(),
            &ScoreOptions::default(),
        );
        assert_eq!(tally.expect("a bad row is no error"), ScoreTally { rows: 1, bad: 1 });
    }
}
