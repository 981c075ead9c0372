//! From entries to occurrences within a span of time.
//!
//! Owns the bounds of an expansion and what is counted when one is reached. Must never depend on the zone of the
//! machine. The hard case is an entry in floating time for all regions: it begins at another instant in each, so it
//! becomes one occurrence for each region. Recurrences run on local clocks without zones, where no time is skipped,
//! and each occurrence is placed in its zone afterwards.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{NaiveDateTime, TimeDelta};
use chrono_tz::Tz;
use rrule::RRuleSet;
use vedette_common::WallMs;

use super::entry::{Entry, local_on};
use super::time::{Clock, instant_ms};
use super::{Calendar, OCCURRENCES_PER_ENTRY_MAX, STEPS_PER_ENTRY_MAX};

/// Where occurrences are looked for: those that touch `from..until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Begin.
    pub from: WallMs,
    /// End; the horizon of endless rules.
    pub until: WallMs,
}

/// One event at one time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Occurrence {
    /// Begin.
    pub from: WallMs,
    /// End, after the begin.
    pub until: WallMs,
    /// The region, or none for all.
    pub region: Option<String>,
    /// The class of the event.
    pub class: String,
    /// What people call it; may be empty.
    pub title: String,
}

/// The occurrences within a span, and what was left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expansion {
    /// Ordered by begin, end, region and class, without doubles.
    pub occurrences: Vec<Occurrence>,
    /// Rules without an end, cut at the span's end.
    pub endless: u64,
    /// Entries with more occurrences, or a longer way to them, than one entry may have.
    pub exhausted: u64,
    /// Occurrences past the limit of all, the latest first.
    pub dropped: u64,
}

impl Calendar {
    /// Expands every entry within `span`. `zones` are those of the known regions; `most` bounds the occurrences.
    pub fn expand(&self, span: Span, zones: &BTreeMap<String, Tz>, most: usize) -> Expansion {
        let replaced = self.replaced();
        let mut expansion = Expansion::default();
        let mut found = BTreeSet::new();
        for entry in self.entries.iter().filter(|entry| !entry.cancelled) {
            expansion.endless += u64::from(entry.recurrence.endless);
            let (starts, exhausted) = entry.starts(span);
            expansion.exhausted += u64::from(exhausted);
            for start in starts {
                if entry.replaces.is_none() && replaced.contains(&(entry.uid.as_str(), start)) {
                    continue;
                }
                entry.place(start, span, zones, &mut |occurrence| {
                    found.insert(occurrence);
                    if found.len() > most {
                        found.pop_last();
                        expansion.dropped += 1;
                    }
                });
            }
        }
        expansion.occurrences = found.into_iter().collect();
        expansion
    }

    /// The occurrences that other entries stand for, by UID and local time.
    fn replaced(&self) -> BTreeSet<(&str, NaiveDateTime)> {
        let clocks: BTreeMap<&str, Clock> = self
            .entries
            .iter()
            .filter(|entry| entry.replaces.is_none())
            .map(|entry| (entry.uid.as_str(), entry.start.clock))
            .collect();
        let replaces = |entry: &'_ Entry| entry.replaces;
        self.entries
            .iter()
            .filter_map(|entry| Some((entry.uid.as_str(), replaces(entry)?)))
            .map(|(uid, stamp)| (uid, local_on(stamp, *clocks.get(uid).unwrap_or(&stamp.clock))))
            .collect()
    }
}

impl Entry {
    /// The local starts of the occurrences that may touch the span, and whether a bound ended the search.
    fn starts(&self, span: Span) -> (Vec<NaiveDateTime>, bool) {
        // Local times are at most 14 hours off, and a length that spans a clock change by a few more.
        let margin = TimeDelta::hours(30);
        let from = naive(span.from) - self.length - margin;
        let until = naive(span.until) + margin;
        if self.recurrence.rules.is_empty() && self.recurrence.also.is_empty() {
            return (vec![self.start.local], false);
        }
        let mut starts = Vec::new();
        for (step, local) in self.recurring().enumerate() {
            if local > until {
                break;
            }
            if step >= STEPS_PER_ENTRY_MAX || starts.len() >= OCCURRENCES_PER_ENTRY_MAX {
                return (starts, true);
            }
            let over = self.recurrence.until.is_some_and(|last| local > last);
            if local >= from && (!over || self.recurrence.also.contains(&local)) {
                starts.push(local);
            }
        }
        (starts, false)
    }

    /// Every local start in order. A rule that was valid when it was read is valid now.
    fn recurring(&self) -> impl Iterator<Item = NaiveDateTime> + use<> {
        let zoned = |local: &NaiveDateTime| local.and_utc().with_timezone(&rrule::Tz::UTC);
        let start = zoned(&self.start.local);
        let rules = self.recurrence.rules.iter().filter_map(|rule| rule.clone().validate(start).ok());
        let set = RRuleSet::new(start)
            .set_rrules(rules.collect())
            .set_rdates(self.rdates().iter().map(zoned).collect())
            .set_exdates(self.recurrence.except.iter().map(zoned).collect())
            .limit();
        set.into_iter().map(|at| at.naive_utc())
    }

    /// The listed dates; without a rule the start is one of them (RFC 5545, 3.8.5.2).
    fn rdates(&self) -> Vec<NaiveDateTime> {
        let mut dates = self.recurrence.also.clone();
        if self.recurrence.rules.is_empty() {
            dates.push(self.start.local);
        }
        dates.sort_unstable();
        dates.dedup();
        dates
    }

    /// Places one local start in the zone of its clock, or in that of each region.
    fn place(
        &self,
        start: NaiveDateTime,
        span: Span,
        zones: &BTreeMap<String, Tz>,
        take: &mut dyn FnMut(Occurrence),
    ) {
        let mut place = |region: Option<&String>, zone: Tz| {
            let from = instant_ms(start, zone);
            // Whole days end at a local midnight, whatever the clocks do; times last as long as they last.
            let until = if self.start.all_day {
                instant_ms(start + self.length, zone)
            } else {
                from + self.length.num_milliseconds()
            };
            if until > span.from.0 && from < span.until.0 && until > from {
                let (class, title) = (self.class.clone(), self.title.clone());
                take(Occurrence {
                    from: WallMs(from),
                    until: WallMs(until),
                    region: region.cloned(),
                    class,
                    title,
                });
            }
        };
        let zone_in = |region: &String| zones.get(region).copied().unwrap_or(Tz::UTC);
        match (self.start.clock, self.regions.is_empty()) {
            (Clock::Zone(zone), true) => place(None, zone),
            (Clock::Zone(zone), false) => self.regions.iter().for_each(|region| place(Some(region), zone)),
            (Clock::Floating, false) => self.regions.iter().for_each(|it| place(Some(it), zone_in(it))),
            (Clock::Floating, true) if zones.is_empty() => place(None, Tz::UTC),
            (Clock::Floating, true) => zones.iter().for_each(|(region, zone)| place(Some(region), *zone)),
        }
    }
}

fn naive(at: WallMs) -> NaiveDateTime {
    chrono::DateTime::from_timestamp_millis(at.0).unwrap_or_default().naive_utc()
}
