//! One entry of a calendar: from the properties of a VEVENT to a start, a length and a recurrence.
//!
//! Owns what each property means. Must never fail for a property that nothing depends on. The hard case is UNTIL,
//! which programs write as a date, in UTC or in local time whatever the standard says: it is taken out of the rule
//! here and applied as a plain end, so that all of them work.

use chrono::{NaiveDateTime, TimeDelta};
use chrono_tz::Tz;
use icalendar::parser::{Component, Property, unfold};
use rrule::{RRule, Unvalidated};

use super::time::{Clock, Stamp, duration, stamp, zone};
use super::{CLASS_DEFAULT, DATES_PER_ENTRY_MAX, OCCURRENCE_DAYS_MAX, TITLE_CHARS_MAX};

/// Why an entry cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The file has no calendar in it.
    #[error("this is no iCalendar file: BEGIN:VCALENDAR is missing")]
    NotACalendar,
    /// The file is longer than what is read.
    #[error("the file has more than {} bytes: what comes after is left out", super::FILE_BYTES_MAX)]
    FileTooLarge,
    /// More entries than a file may have.
    #[error("more than {} entries: this one is left out", super::ENTRIES_MAX)]
    TooManyEntries,
    /// An entry that has no end of its own.
    #[error("the entry does not end: END:VEVENT is missing")]
    Unfinished,
    /// An entry that is too long.
    #[error("the entry has more than {} bytes", super::ENTRY_BYTES_MAX)]
    TooLarge,
    /// Components in components in components.
    #[error("the entry has components more than {} deep", super::DEPTH_MAX)]
    TooDeep,
    /// A line that is no property.
    #[error("`{0}` is no property: NAME:VALUE was expected")]
    Malformed(String),
    /// No DTSTART.
    #[error("DTSTART is missing")]
    NoStart,
    /// A date or time that cannot be read.
    #[error(
        "{property} `{text}` is no time: YYYYMMDD, YYYYMMDDTHHMMSS or the latter with Z, from 1900 to 2200"
    )]
    BadTime {
        /// Which property.
        property: &'static str,
        /// What it says.
        text: String,
    },
    /// A TZID that names no zone.
    #[error("`{0}` is no time zone: use an IANA name as Europe/London")]
    UnknownZone(String),
    /// A DURATION that cannot be read.
    #[error("DURATION `{0}` is none: PT90M or P1D was expected, and not negative")]
    BadDuration(String),
    /// DTEND not after DTSTART, or a length of nothing.
    #[error("it ends when or before it starts")]
    NoLength,
    /// A length past the limit.
    #[error("it lasts longer than {OCCURRENCE_DAYS_MAX} days")]
    TooLong,
    /// An RRULE that cannot be followed.
    #[error("RRULE `{rule}` cannot be followed: {why}")]
    BadRule {
        /// The rule as it stands.
        rule: String,
        /// Why not.
        why: String,
    },
    /// More listed dates than an entry may have.
    #[error("more than {DATES_PER_ENTRY_MAX} dates in RDATE and EXDATE")]
    TooManyDates,
}

/// How an entry repeats, in the local time of its clock.
#[derive(Clone, Debug, Default)]
pub(super) struct Recurrence {
    pub(super) rules: Vec<RRule<Unvalidated>>,
    /// The last local time that the rules reach, if they end by one.
    pub(super) until: Option<NaiveDateTime>,
    /// Whether a rule has neither UNTIL nor COUNT.
    pub(super) endless: bool,
    pub(super) also: Vec<NaiveDateTime>,
    pub(super) except: Vec<NaiveDateTime>,
}

/// One entry.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) uid: String,
    /// Regions by name; none means all.
    pub(super) regions: Vec<String>,
    pub(super) class: String,
    pub(super) title: String,
    pub(super) start: Stamp,
    pub(super) length: TimeDelta,
    pub(super) recurrence: Recurrence,
    /// The occurrence of the entry with the same UID that this one stands for.
    pub(super) replaces: Option<Stamp>,
    pub(super) cancelled: bool,
}

impl Entry {
    /// Reads the text of one VEVENT. An error comes with the UID, as far as that could be read.
    pub(super) fn parse(text: &str, calendar_zone: Option<Tz>) -> Result<Self, (String, Problem)> {
        let unfolded = unfold(&text.replace("\r\n", "\n"));
        let component = Component::try_from(unfolded.as_str())
            .map_err(|_| (uid_of(&unfolded), Problem::Malformed(malformed_line(&unfolded))))?;
        let uid = value(&component, "UID").unwrap_or_default();
        Self::from_component(&component, calendar_zone, &uid).map_err(|problem| (uid, problem))
    }

    fn from_component(
        component: &Component<'_>,
        calendar_zone: Option<Tz>,
        uid: &str,
    ) -> Result<Self, Problem> {
        let start = component.find_prop("DTSTART").ok_or(Problem::NoStart)?;
        let start = stamp_of("DTSTART", start, calendar_zone)?;
        let length = length(component, calendar_zone, start)?;
        let replaces = component
            .find_prop("RECURRENCE-ID")
            .map(|property| stamp_of("RECURRENCE-ID", property, calendar_zone))
            .transpose()?;
        Ok(Self {
            uid: uid.to_owned(),
            regions: names(component, "LOCATION"),
            class: names(component, "CATEGORIES").into_iter().next().unwrap_or_else(|| CLASS_DEFAULT.into()),
            title: title(component),
            start,
            length,
            recurrence: Recurrence::parse(component, calendar_zone, start)?,
            replaces,
            cancelled: value(component, "STATUS").is_some_and(|it| it.eq_ignore_ascii_case("CANCELLED")),
        })
    }
}

impl Recurrence {
    fn parse(component: &Component<'_>, calendar_zone: Option<Tz>, start: Stamp) -> Result<Self, Problem> {
        let mut recurrence = Self::default();
        for property in component.properties.iter().filter(|it| it.name == "RRULE") {
            recurrence.take_rule(property.val.as_str(), start)?;
        }
        recurrence.also = dates(component, "RDATE", calendar_zone, start)?;
        recurrence.except = dates(component, "EXDATE", calendar_zone, start)?;
        if recurrence.also.len() + recurrence.except.len() > DATES_PER_ENTRY_MAX {
            return Err(Problem::TooManyDates);
        }
        Ok(recurrence)
    }

    fn take_rule(&mut self, rule: &str, start: Stamp) -> Result<(), Problem> {
        let bad = |why: String| Problem::BadRule { rule: rule.chars().take(120).collect(), why };
        let is_until = |part: &&str| part.len() >= 6 && part.as_bytes()[..6].eq_ignore_ascii_case(b"UNTIL=");
        let (untils, rest): (Vec<&str>, Vec<&str>) = rule.trim().split(';').partition(is_until);
        // RFC 5545 knows no others here, and the library that reads rules cuts them between bytes.
        if let Some(other) = rule.chars().find(|it| !it.is_ascii()) {
            return Err(bad(format!("`{other}` has no meaning in a rule")));
        }
        let parsed: RRule<Unvalidated> = rest.join(";").parse().map_err(|why| bad(format!("{why}")))?;
        if parsed.get_interval() == 0 {
            return Err(bad("INTERVAL=0 never moves on: 1 or more was expected".into()));
        }
        if let [until, ..] = untils[..] {
            // A date includes its whole day.
            let until = stamp("UNTIL", &until[6..], None)?;
            let until = if until.all_day {
                Stamp { local: until.local + TimeDelta::seconds(86_399), ..until }
            } else {
                until
            };
            let local = local_on(until, start.clock);
            self.until = Some(self.until.map_or(local, |other| other.max(local)));
        } else if parsed.get_count().is_none() {
            self.endless = true;
        }
        // Validation happens in the clock of the rule, where every local time exists.
        let at = start.local.and_utc().with_timezone(&rrule::Tz::UTC);
        parsed.clone().validate(at).map_err(|why| bad(format!("{why}")))?;
        self.rules.push(parsed);
        Ok(())
    }
}

/// How long each occurrence lasts: DTEND, DURATION, or a day for a date alone.
fn length(component: &Component<'_>, calendar_zone: Option<Tz>, start: Stamp) -> Result<TimeDelta, Problem> {
    let length = if let Some(end) = component.find_prop("DTEND") {
        let end = stamp_of("DTEND", end, calendar_zone)?;
        match (start.clock, end.clock) {
            (Clock::Zone(one), Clock::Zone(other)) if one != other => TimeDelta::milliseconds(
                super::time::instant_ms(end.local, other) - super::time::instant_ms(start.local, one),
            ),
            _ => end.local - start.local,
        }
    } else if let Some(text) = value(component, "DURATION") {
        duration(&text).ok_or_else(|| Problem::BadDuration(text.chars().take(40).collect()))?
    } else {
        if start.all_day { TimeDelta::days(1) } else { TimeDelta::zero() }
    };
    if length <= TimeDelta::zero() {
        return Err(Problem::NoLength);
    }
    if length > TimeDelta::days(OCCURRENCE_DAYS_MAX) { Err(Problem::TooLong) } else { Ok(length) }
}

/// The dates of RDATE or EXDATE properties, on the clock of the entry. A period counts by its start.
fn dates(
    component: &Component<'_>,
    name: &'static str,
    calendar_zone: Option<Tz>,
    start: Stamp,
) -> Result<Vec<NaiveDateTime>, Problem> {
    let mut dates = Vec::new();
    for property in component.properties.iter().filter(|property| property.name == name) {
        let zone = zone_of(property)?.or(calendar_zone);
        for text in property.val.as_str().split(',').take(DATES_PER_ENTRY_MAX + 1) {
            let text = text.split_once('/').map_or(text, |(from, _)| from);
            let date = stamp(name, text, zone)?;
            // A date alone, where times are meant, is the occurrence of that day.
            let time = if date.all_day { start.local.time() } else { date.local.time() };
            dates.push(local_on(Stamp { local: date.local.date().and_time(time), ..date }, start.clock));
        }
    }
    Ok(dates)
}

/// A stamp as the given clock shows it.
pub(super) fn local_on(stamp: Stamp, clock: Clock) -> NaiveDateTime {
    match (stamp.clock, clock) {
        (Clock::Zone(from), Clock::Zone(to)) if from != to && !stamp.all_day => {
            let instant = super::time::instant_ms(stamp.local, from);
            chrono::DateTime::from_timestamp_millis(instant)
                .map_or(stamp.local, |at| at.with_timezone(&to).naive_local())
        }
        _ => stamp.local,
    }
}

fn stamp_of(
    name: &'static str,
    property: &Property<'_>,
    calendar_zone: Option<Tz>,
) -> Result<Stamp, Problem> {
    stamp(name, property.val.as_str(), zone_of(property)?.or(calendar_zone))
}

fn zone_of(property: &Property<'_>) -> Result<Option<Tz>, Problem> {
    let parameter = property.params.iter().find(|it| it.key.as_str().eq_ignore_ascii_case("TZID"));
    let Some(name) = parameter.and_then(|it| it.val.as_ref()) else { return Ok(None) };
    zone(name.as_str())
        .map(Some)
        .ok_or_else(|| Problem::UnknownZone(name.as_str().chars().take(60).collect()))
}

fn value(component: &Component<'_>, name: &str) -> Option<String> {
    component.find_prop(name).map(|property| property.val.as_str().trim().to_owned())
}

/// The comma-separated names of a property, unescaped, without the empty ones.
fn names(component: &Component<'_>, name: &str) -> Vec<String> {
    let text = value(component, name).unwrap_or_default().replace("\\,", ",").replace("\\;", ";");
    text.split(',').map(str::trim).filter(|it| !it.is_empty()).map(str::to_owned).collect()
}

/// What people call it, cut to what a line of text can hold.
fn title(component: &Component<'_>) -> String {
    let text = value(component, "SUMMARY").unwrap_or_default().replace("\\,", ",").replace("\\;", ";");
    text.replace("\\n", " ").chars().take(TITLE_CHARS_MAX).collect()
}

fn uid_of(text: &str) -> String {
    text.lines().find_map(|line| line.strip_prefix("UID:")).unwrap_or_default().trim().to_owned()
}

/// The first line that cannot be a property, or what is known when each line could be one.
fn malformed_line(text: &str) -> String {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let malformed = |line: &&str| {
        let name = line.split([':', ';']).next().unwrap_or_default();
        !line.trim().is_empty() && (!line.contains(':') || name.is_empty() || !name.bytes().all(is_name))
    };
    text.lines().find(malformed).unwrap_or("the entry").chars().take(80).collect()
}
