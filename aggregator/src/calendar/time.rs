//! Dates, times, durations and zones as RFC 5545 writes them.
//!
//! Owns their reading and the way from a local time to an instant. Must never guess: what cannot be read is an error
//! that says which text it was. The hard case is a local time that a clock change skips or doubles: skipped times are
//! moved past the gap by its length, doubled ones take the first of the two, as RFC 5545 (3.3.5) says.

use chrono::offset::LocalResult;
use chrono::{NaiveDate, NaiveDateTime, TimeDelta, TimeZone};
use chrono_tz::Tz;

use super::entry::Problem;

/// Years that a date may have.
const YEARS: std::ops::RangeInclusive<i32> = 1900..=2200;

/// What a local time is relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clock {
    /// The clock of one zone.
    Zone(Tz),
    /// The clock of whichever region it is read in.
    Floating,
}

/// A point in time as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) local: NaiveDateTime,
    pub(super) clock: Clock,
    pub(super) all_day: bool,
}

/// Reads a DATE or DATE-TIME; `zone` is that of the TZID parameter.
pub(super) fn stamp(property: &'static str, text: &str, zone: Option<Tz>) -> Result<Stamp, Problem> {
    let bad = || Problem::BadTime { property, text: text.chars().take(40).collect() };
    let text = text.trim();
    if text.len() == 8 {
        let local = date(text).ok_or_else(bad)?;
        return Ok(Stamp { local, clock: zone.map_or(Clock::Floating, Clock::Zone), all_day: true });
    }
    let (text, utc) = match text.strip_suffix('Z') {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    let (day, time) = text.split_once('T').ok_or_else(bad)?;
    let local = date(day).and_then(|midnight| Some(midnight + time_of_day(time)?)).ok_or_else(bad)?;
    let clock = if utc { Clock::Zone(Tz::UTC) } else { zone.map_or(Clock::Floating, Clock::Zone) };
    Ok(Stamp { local, clock, all_day: false })
}

fn digits(text: &str, length: usize) -> Option<u32> {
    (text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

fn date(text: &str) -> Option<NaiveDateTime> {
    let number = digits(text, 8)?;
    let year = i32::try_from(number / 10_000).ok().filter(|year| YEARS.contains(year))?;
    NaiveDate::from_ymd_opt(year, number / 100 % 100, number % 100)?.and_hms_opt(0, 0, 0)
}

fn time_of_day(text: &str) -> Option<TimeDelta> {
    let number = digits(text, 6)?;
    let (hour, minute, second) = (number / 10_000, number / 100 % 100, number % 100);
    // A leap second counts as the one before it.
    let fits = hour < 24 && minute < 60 && second <= 60;
    fits.then(|| TimeDelta::seconds(i64::from(hour * 3_600 + minute * 60 + second.min(59))))
}

/// Reads a DURATION such as `PT1H30M`, `P1DT12H` or `P2W`; None if it is not one, or is negative.
pub(super) fn duration(text: &str) -> Option<TimeDelta> {
    let text = text.trim();
    let text = text.strip_prefix('+').unwrap_or(text).strip_prefix('P')?;
    let (days, time) = text.split_once('T').map_or((text, None), |(days, time)| (days, Some(time)));
    let mut seconds = amounts(days, &[('W', 604_800), ('D', 86_400)])?;
    if let Some(time) = time.filter(|time| !time.is_empty()) {
        seconds = seconds.checked_add(amounts(time, &[('H', 3_600), ('M', 60), ('S', 1)])?)?;
    }
    let written = !days.is_empty() || time.is_some_and(|time| !time.is_empty());
    (written && seconds <= 86_400 * 36_600).then(|| TimeDelta::seconds(seconds))
}

/// Adds up `12H30M` with the given units, each at most once and in that order.
fn amounts(text: &str, units: &[(char, i64)]) -> Option<i64> {
    let (mut rest, mut total) = (text, 0_i64);
    for (unit, seconds) in units {
        if let Some((number, after)) = rest.split_once(*unit) {
            let number = digits(number, number.len()).filter(|_| !number.is_empty())?;
            total = total.checked_add(i64::from(number).checked_mul(*seconds)?)?;
            rest = after;
        }
    }
    rest.is_empty().then_some(total)
}

/// Finds a zone by IANA name; a path before the name, as some programs write, is passed over.
pub(super) fn zone(name: &str) -> Option<Tz> {
    let name = name.trim_matches('"');
    let tail = |parts: usize| name.rsplitn(parts + 1, '/').take(parts).collect::<Vec<_>>();
    let joined = |parts| tail(parts).into_iter().rev().collect::<Vec<_>>().join("/");
    name.parse().ok().or_else(|| joined(3).parse().ok()).or_else(|| joined(2).parse().ok())
}

/// The instant of a local time in a zone, in Unix milliseconds.
pub(super) fn instant_ms(local: NaiveDateTime, zone: Tz) -> i64 {
    let found = match zone.from_local_datetime(&local) {
        LocalResult::Single(one) | LocalResult::Ambiguous(one, _) => Some(one),
        // In the gap of a clock change: the offset of three hours before it holds for the skipped times.
        LocalResult::None => zone
            .from_local_datetime(&(local - TimeDelta::hours(3)))
            .earliest()
            .map(|before| before + TimeDelta::hours(3)),
    };
    found.map_or_else(|| local.and_utc().timestamp_millis(), |at| at.timestamp_millis())
}
