//! The calendar of a fleet as iCalendar (RFC 5545): what was announced, which is not always what takes place.
//!
//! Times that recur each week stand in the region's own time zone, as people write them; all others in UTC.

use super::class::CLUB_NIGHT;
use super::{Fleet, Occurrence};
use chrono::{DateTime, TimeZone, Utc};
use std::collections::BTreeSet;
use std::fmt::Write;

/// The whole calendar, lines ended by CR LF.
pub fn write(fleet: &Fleet) -> String {
    let mut out = String::new();
    line(&mut out, "BEGIN:VCALENDAR");
    line(&mut out, "VERSION:2.0");
    line(&mut out, "PRODID:-//Vedette//fleet//EN");
    let mut recurring = BTreeSet::new();
    for (index, occurrence) in fleet.plan.occurrences.iter().enumerate() {
        let Some((from_s, until_s)) = occurrence.announced_s else { continue };
        let times = if occurrence.cause == CLUB_NIGHT {
            // The first of a region stands for all of its nights.
            if !recurring.insert(occurrence.scope.regions.clone()) {
                continue;
            }
            weekly(fleet, occurrence, from_s, until_s)
        } else {
            [format!("DTSTART:{}", utc(from_s)), format!("DTEND:{}", utc(until_s))].join("\r\n")
        };
        write_event(&mut out, fleet, occurrence, index, &times);
    }
    line(&mut out, "END:VCALENDAR");
    out
}

fn write_event(out: &mut String, fleet: &Fleet, occurrence: &Occurrence, index: usize, times: &str) {
    line(out, "BEGIN:VEVENT");
    line(out, &format!("UID:{}-{index}@fleet", fleet.seed));
    line(out, &format!("DTSTAMP:{}", utc(fleet.plan.from_s)));
    line(out, times);
    line(out, &format!("SUMMARY:{}", occurrence.cause));
    line(out, &format!("CATEGORIES:{}", occurrence.cause));
    // None means all.
    let regions = occurrence.scope.regions.iter().map(|&region| fleet.world.regions[region].name);
    let regions: Vec<&str> = regions.collect();
    if regions.len() < fleet.world.regions.len() {
        line(out, &format!("LOCATION:{}", regions.join(",")));
    }
    line(out, "END:VEVENT");
}

fn weekly(fleet: &Fleet, occurrence: &Occurrence, from_s: i64, until_s: i64) -> String {
    let zone = fleet.world.regions[occurrence.scope.regions[0]].zone;
    let local =
        |at_s: i64| zone.from_utc_datetime(&moment(at_s).naive_utc()).format("%Y%m%dT%H%M%S").to_string();
    let last = utc(fleet.plan.until_s);
    [
        format!("DTSTART;TZID={zone}:{}", local(from_s)),
        format!("DTEND;TZID={zone}:{}", local(until_s)),
        format!("RRULE:FREQ=WEEKLY;UNTIL={last}"),
    ]
    .join("\r\n")
}

fn moment(at_s: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(at_s, 0).unwrap_or(DateTime::UNIX_EPOCH)
}

fn utc(at_s: i64) -> String {
    moment(at_s).format("%Y%m%dT%H%M%SZ").to_string()
}

fn line(out: &mut String, text: &str) {
    // Writing to a string cannot fail.
    let _ = write!(out, "{text}\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_announcement_stands_in_it_once() {
        let fleet = Fleet::of_days(5, 24);
        let text = write(&fleet);
        let single = fleet
            .plan
            .occurrences
            .iter()
            .filter(|it| it.announced_s.is_some() && it.cause != CLUB_NIGHT)
            .count();
        assert_eq!(text.matches("BEGIN:VEVENT").count(), single + fleet.world.regions.len());
        assert_eq!(text.matches("RRULE:FREQ=WEEKLY").count(), fleet.world.regions.len());
        assert!(text.contains("DTSTART;TZID=Europe/London:2026") && text.contains("T200000"));
        assert!(!text.contains("power_cut"), "a power cut is not announced");
        assert!(text.lines().all(|line| line.len() <= 75));
    }
}
