//! Scheduled events and silences as data: which of them cover a region at a time.
//!
//! It must never parse a calendar; entries arrive expanded. The hard case is an entry whose times are a little wrong:
//! it covers a margin on both sides, and weighs only where the numbers agree with it.
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use vedette_common::WallMs;

use crate::alarm::Scope;
use crate::counts::{Counts, Reason};

/// How far outside its times an entry still explains something: announced times are often wrong by this much.
pub const SCHEDULE_MARGIN_MS: i64 = 30 * 60_000;

/// One occurrence of a scheduled event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ScheduleEntry {
    /// When it begins.
    pub from: WallMs,
    /// When it has ended.
    pub until: WallMs,
    /// The region; none for all.
    pub region: Option<String>,
    /// The class of the event.
    pub class: String,
    /// What people call it; may be empty.
    pub title: String,
}

impl ScheduleEntry {
    fn covers(&self, region: &str, at: WallMs) -> bool {
        let here = self.region.as_deref().is_none_or(|name| name == region);
        here && self.from.plus_ms(-SCHEDULE_MARGIN_MS) <= at && at < self.until.plus_ms(SCHEDULE_MARGIN_MS)
    }

    /// The entry as evidence names it.
    pub fn describe(&self) -> String {
        match self.title.as_str() {
            "" => self.class.clone(),
            title if self.class.is_empty() => title.into(),
            title => format!("{}: {title}", self.class),
        }
    }
}

/// A window or, where it ends as it begins, a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its beginning.
    pub from: WallMs,
    /// Its end.
    pub until: WallMs,
}

impl Span {
    /// Whether a part of it lies between `from` and `until`.
    pub fn overlaps(self, from: WallMs, until: WallMs) -> bool {
        from < self.until.max(self.from.plus_ms(1)) && self.from < until
    }
}

/// A person's order not to be notified of something for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// Names it.
    pub id: String,
    /// What it matches: an incident all of whose cells lie inside; an empty list matches all.
    pub scope: Scope,
    /// When it begins, event time.
    pub from: WallMs,
    /// When it has ended.
    pub until: WallMs,
    /// Who ordered it.
    pub author: String,
    /// Why.
    pub comment: String,
}

impl Silence {
    /// Whether it covers `scope` in a part of `span`.
    pub fn covers(&self, scope: &Scope, span: Span) -> bool {
        let within = |outer: &[String], inner: &[String]| {
            outer.is_empty() || (!inner.is_empty() && inner.iter().all(|name| outer.contains(name)))
        };
        span.overlaps(self.from, self.until)
            && within(&self.scope.region, &scope.region)
            && within(&self.scope.device, &scope.device)
            && within(&self.scope.stack, &scope.stack)
    }
}

/// The calendar, sorted by beginning. Bounded by `calendar_entries_max`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Schedule {
    entries: Vec<ScheduleEntry>,
    /// The longest entry, so that a look-up may stop early.
    longest_ms: i64,
}

impl Schedule {
    /// Every entry, in order of their beginning.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &ScheduleEntry> {
        self.entries.iter()
    }

    /// Sorts `entries`, drops those that end before they begin and, over the limit, those that begin last.
    pub(crate) fn new(mut entries: Vec<ScheduleEntry>, entries_max: usize, counts: &mut Counts) -> Self {
        let given = entries.len();
        entries.retain(|entry| entry.from < entry.until);
        entries.sort();
        entries.dedup();
        let distinct_lost = given - entries.len();
        let over = entries.len().saturating_sub(entries_max);
        entries.truncate(entries_max);
        counts.add(Reason::CalendarEntry, (distinct_lost + over) as u64);
        let longest_ms = entries.iter().map(|e| e.until.ms_since(e.from)).max().unwrap_or(0);
        Self { entries, longest_ms }
    }

    /// The entries that cover `region` at `at`, the margin included, in order of their beginning.
    pub(crate) fn covering<'a>(
        &'a self,
        region: &'a str,
        at: WallMs,
    ) -> impl Iterator<Item = &'a ScheduleEntry> {
        let reach = self.longest_ms.saturating_add(SCHEDULE_MARGIN_MS);
        let first = self.entries.partition_point(|entry| entry.from.plus_ms(reach) < at);
        let last = self.entries.partition_point(|entry| entry.from.plus_ms(-SCHEDULE_MARGIN_MS) <= at);
        self.entries[first.min(last)..last].iter().filter(move |entry| entry.covers(region, at))
    }
}

/// How far from an entry an event of its class is still looked for: events are moved at short notice.
const SCHEDULE_REACH_MS: i64 = 3 * 3_600_000;

impl Schedule {
    /// The class of the entry nearest to `at` in `region`, if one is within reach: what is going on, if anything is. Of
    /// several that are on it is the shortest: a final within a month of sales is the final. Entries of the classes
    /// `without` are left out.
    pub(crate) fn nearest_class<'a>(
        &'a self,
        region: &'a str,
        at: WallMs,
        without: &BTreeSet<String>,
    ) -> Option<&'a str> {
        let reach = self.longest_ms.saturating_add(SCHEDULE_REACH_MS);
        let first = self.entries.partition_point(|entry| entry.from.plus_ms(reach) < at);
        let last = self.entries.partition_point(|entry| entry.from.plus_ms(-SCHEDULE_REACH_MS) <= at);
        let here = self.entries[first.min(last)..last]
            .iter()
            .filter(|entry| entry.region.as_deref().is_none_or(|name| name == region))
            .filter(|entry| !without.contains(&entry.class));
        let distance = |entry: &ScheduleEntry| entry.from.ms_since(at).max(at.ms_since(entry.until)).max(0);
        let near = here.map(|entry| (distance(entry), entry)).filter(|(far, _)| *far <= SCHEDULE_REACH_MS);
        near.min_by_key(|(far, entry)| (*far, entry.until.ms_since(entry.from)))
            .map(|(_, entry)| entry.class.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    fn entry(from: i64, until: i64, region: Option<&str>) -> ScheduleEntry {
        ScheduleEntry {
            from: WallMs(from),
            until: WallMs(until),
            region: region.map(Into::into),
            class: "football".into(),
            title: String::new(),
        }
    }

    #[test]
    fn entries_cover_their_region_and_a_margin() {
        let mut counts = Counts::default();
        let entries = vec![
            entry(10 * HOUR, 12 * HOUR, Some("uk")),
            entry(0, 48 * HOUR, None),
            entry(5 * HOUR, 5 * HOUR, None),
        ];
        let schedule = Schedule::new(entries, 100, &mut counts);
        assert_eq!(counts.get(Reason::CalendarEntry), 1);
        let hits = |region: &str, at| schedule.covering(region, WallMs(at)).count();
        assert_eq!(hits("uk", 11 * HOUR), 2);
        assert_eq!(hits("fr", 11 * HOUR), 1);
        assert_eq!(hits("uk", 12 * HOUR + SCHEDULE_MARGIN_MS - 1), 2);
        assert_eq!(hits("uk", 12 * HOUR + SCHEDULE_MARGIN_MS), 1);
        assert_eq!(hits("uk", 60 * HOUR), 0);
        let nearest = |at, without: &BTreeSet<String>| schedule.nearest_class("uk", WallMs(at), without);
        assert_eq!(nearest(50 * HOUR, &BTreeSet::new()), Some("football"));
        assert_eq!(nearest(50 * HOUR, &BTreeSet::from(["football".into()])), None);
        assert_eq!(nearest(60 * HOUR, &BTreeSet::new()), None);
    }

    #[test]
    fn of_several_that_are_on_the_shortest_names_the_class() {
        let sales = ScheduleEntry { class: "sales".into(), ..entry(0, 700 * HOUR, None) };
        let entries = vec![sales, entry(100 * HOUR, 102 * HOUR, Some("uk"))];
        let schedule = Schedule::new(entries, 100, &mut Counts::default());
        let nearest = |at| schedule.nearest_class("uk", WallMs(at), &BTreeSet::new());
        assert_eq!(nearest(101 * HOUR), Some("football"));
        assert_eq!(nearest(50 * HOUR), Some("sales"));
    }

    #[test]
    fn a_flood_of_entries_is_cut_and_counted() {
        let mut counts = Counts::default();
        let entries = (0..100).map(|i| entry(i, i + 1, None)).collect();
        let schedule = Schedule::new(entries, 10, &mut counts);
        assert_eq!(schedule.entries.len(), 10);
        assert_eq!(counts.get(Reason::CalendarEntry), 90);
    }

    #[test]
    fn a_silence_covers_only_what_lies_inside() {
        let uk = Scope { region: vec!["uk".into()], ..Scope::default() };
        let silence = Silence {
            id: "s1".into(),
            scope: uk.clone(),
            from: WallMs(0),
            until: WallMs(10),
            author: "ada".into(),
            comment: "maintenance".into(),
        };
        let at = |at| Span { from: WallMs(at), until: WallMs(at) };
        assert!(silence.covers(&uk, at(5)));
        assert!(!silence.covers(&uk, at(10)));
        assert!(!silence.covers(&Scope::default(), at(5)), "all regions are more than one");
    }
}
