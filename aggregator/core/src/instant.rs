//! Instants as people read them: RFC 3339 in UTC, as alarms and ledger entries carry them.
//!
//! It must never depend on a time zone or a clock. The hard case is an instant far outside the calendar's four-digit
//! years: it is clamped to them, so that whatever an agent's clock says, the text stays valid RFC 3339.
use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use vedette_common::WallMs;

const DAY_MS: i64 = 86_400_000;
/// 0000-01-01T00:00:00Z and 9999-12-31T23:59:59.999Z, the ends of what RFC 3339 can say.
const FIRST_MS: i64 = -62_167_219_200_000;
const LAST_MS: i64 = 253_402_300_799_999;

/// A wall or event time that serialises as RFC 3339 with `Z`: whole seconds, or milliseconds where there are some.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub WallMs);

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.0.clamp(FIRST_MS, LAST_MS);
        let (year, month, day) = civil_from_days(ms.div_euclid(DAY_MS));
        let in_day = ms.rem_euclid(DAY_MS);
        let (hour, minute, second) = (in_day / 3_600_000, in_day / 60_000 % 60, in_day / 1000 % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        match in_day % 1000 {
            0 => f.write_str("Z"),
            rest => write!(f, ".{rest:03}Z"),
        }
    }
}

/// Year, month and day of a count of days since 1970-01-01, in the proleptic Gregorian calendar.
/// After Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms": eras of 400 years that begin in March.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// Days since 1970-01-01 of a date; the inverse of [`civil_from_days`].
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Reads back exactly what [`Instant`] writes; other spellings of RFC 3339 are refused.
fn parse(text: &str) -> Option<Instant> {
    let bytes = text.as_bytes();
    let number = |from: usize, until: usize| -> Option<i64> {
        let digits = text.get(from..until)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if !marks.iter().all(|&(at, mark)| bytes.get(at) == Some(&mark)) || bytes.last() != Some(&b'Z') {
        return None;
    }
    let ms = match bytes.len() {
        20 => 0,
        24 if bytes.get(19) == Some(&b'.') => number(20, 23)?,
        _ => return None,
    };
    let (month, day) = (number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let in_range =
        (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second < 60;
    in_range.then_some(())?;
    let days = days_from_civil(number(0, 4)?, month, day);
    Some(Instant(WallMs(days * DAY_MS + hour * 3_600_000 + minute * 60_000 + second * 1000 + ms)))
}

impl Serialize for Instant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Instant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text)
            .ok_or_else(|| D::Error::custom(format!("{text:?} is no instant like 2026-03-09T20:15:00Z")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_instants_read_as_expected() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (1_773_087_300_000, "2026-03-09T20:15:00Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (i64::MAX, "9999-12-31T23:59:59.999Z"),
            (i64::MIN, "0000-01-01T00:00:00Z"),
        ];
        for (ms, text) in cases {
            assert_eq!(Instant(WallMs(ms)).to_string(), text);
        }
    }

    #[test]
    fn every_day_of_a_century_reads_back() {
        for day in -20_000..30_000 {
            let instant = Instant(WallMs(day * DAY_MS + 12_345_678));
            assert_eq!(parse(&instant.to_string()), Some(instant));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for bad in
            ["", "2026-03-09", "2026-03-09 20:15:00Z", "2026-13-09T20:15:00Z", "2026-03-09T20:15:00+01:00"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
