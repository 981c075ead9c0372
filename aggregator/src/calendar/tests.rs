//! Tests of the calendar: recurrences, zones and clock changes, nonsense that must not take the good part with it, and bounds.

use super::*;
use chrono::DateTime;
use std::collections::BTreeMap;
use vedette_common::WallMs;

fn at(text: &str) -> WallMs {
    WallMs(DateTime::parse_from_rfc3339(text).expect("a time").timestamp_millis())
}

fn year(year: i32) -> Span {
    Span { from: at(&format!("{year}-01-01T00:00:00Z")), until: at(&format!("{}-01-01T00:00:00Z", year + 1)) }
}

fn event(lines: &str) -> String {
    format!("BEGIN:VEVENT\r\n{}\r\nEND:VEVENT\r\n", lines.replace('\n', "\r\n"))
}

fn calendar(events: &[String]) -> Vec<u8> {
    format!("BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//test\r\n{}END:VCALENDAR\r\n", events.concat())
        .into_bytes()
}

fn zones() -> BTreeMap<String, Tz> {
    BTreeMap::from([("uk".to_owned(), Tz::Europe__London), ("us-east".to_owned(), Tz::America__New_York)])
}

/// Reads one event that is fine and gives its occurrences in a year as texts.
fn occurrences(lines: &str, in_year: i32) -> Vec<String> {
    let reading = Calendar::read(&calendar(&[event(lines)]));
    assert_eq!(reading.mistakes, [], "{lines}");
    let expansion = reading.calendar.expand(year(in_year), &zones(), 10_000);
    let time = |at: WallMs| DateTime::from_timestamp_millis(at.0).expect("in range").format("%m-%dT%H:%MZ");
    let line = |it: &Occurrence| {
        format!("{}/{} {} {}", time(it.from), time(it.until), it.region.as_deref().unwrap_or("*"), it.class)
    };
    expansion.occurrences.iter().map(line).collect()
}

fn problem(lines: &str) -> Problem {
    let reading = Calendar::read(&calendar(&[event(lines)]));
    assert_eq!(reading.mistakes.len(), 1, "{lines}: {:?}", reading.mistakes);
    assert_eq!(reading.mistakes[0].line, 4, "the entry begins on line 4");
    assert!(reading.calendar.is_empty());
    reading.mistakes[0].problem.clone()
}

#[test]
fn a_plain_entry_has_region_class_and_times() {
    let lines = "UID:1\nDTSTART:20260309T190000Z\nDTEND:20260309T210000Z\nLOCATION:uk\nCATEGORIES:football";
    assert_eq!(occurrences(lines, 2026), ["03-09T19:00Z/03-09T21:00Z uk football"]);
}

#[test]
fn no_location_means_all_regions_and_no_category_a_plain_event() {
    let lines = "DTSTART;TZID=Europe/London:20260709T190000\nDURATION:PT90M";
    assert_eq!(occurrences(lines, 2026), ["07-09T18:00Z/07-09T19:30Z * event"]);
}

#[test]
fn several_locations_are_several_regions() {
    let lines = "DTSTART:20260309T190000Z\nDURATION:PT1H\nLOCATION:uk\\, us-east";
    assert_eq!(occurrences(lines, 2026).len(), 2);
}

#[test]
fn floating_times_are_local_in_each_region() {
    let lines = "DTSTART:20260309T190000\nDURATION:PT1H\nCATEGORIES:final";
    let expected = ["03-09T19:00Z/03-09T20:00Z uk final", "03-09T23:00Z/03-10T00:00Z us-east final"];
    assert_eq!(occurrences(lines, 2026), expected);
}

#[test]
fn a_day_lasts_from_midnight_to_midnight_through_a_clock_change() {
    let lines = "DTSTART;VALUE=DATE:20260329\nLOCATION:uk\nCATEGORIES:holiday";
    assert_eq!(occurrences(lines, 2026), ["03-29T00:00Z/03-29T23:00Z uk holiday"]);
}

#[test]
fn weekly_rules_keep_their_local_hour_through_a_clock_change() {
    let lines =
        "DTSTART;TZID=Europe/London:20260322T200000\nDURATION:PT1H\nRRULE:FREQ=WEEKLY;COUNT=2\nLOCATION:uk";
    let expected = ["03-22T20:00Z/03-22T21:00Z uk event", "03-29T19:00Z/03-29T20:00Z uk event"];
    assert_eq!(occurrences(lines, 2026), expected);
}

#[test]
fn skipped_local_times_move_past_the_gap() {
    let lines = "DTSTART;TZID=Europe/London:20260329T013000\nDURATION:PT1H\nLOCATION:uk";
    assert_eq!(occurrences(lines, 2026), ["03-29T01:30Z/03-29T02:30Z uk event"]);
}

#[test]
fn exceptions_additions_and_replacements_apply() {
    let rule = "UID:x\nDTSTART:20260105T100000Z\nDURATION:PT1H\nRRULE:FREQ=DAILY;UNTIL=20260108\n\
                EXDATE:20260106T100000Z\nRDATE:20260201T100000Z";
    assert_eq!(occurrences(rule, 2026).len(), 4, "5th, 7th, 8th and the added one");
    let moved = "UID:x\nRECURRENCE-ID:20260107T100000Z\nDTSTART:20260107T150000Z\nDURATION:PT1H";
    let reading = Calendar::read(&calendar(&[event(rule), event(moved)]));
    let starts: Vec<_> =
        reading.calendar.expand(year(2026), &zones(), 100).occurrences.iter().map(|it| it.from).collect();
    assert!(starts.contains(&at("2026-01-07T15:00:00Z")) && !starts.contains(&at("2026-01-07T10:00:00Z")));
    assert_eq!(starts.len(), 4);
}

#[test]
fn until_is_accepted_in_every_form_that_programs_write() {
    for until in ["20260107", "20260107T100000", "20260107T100000Z"] {
        let lines = format!(
            "DTSTART;TZID=Europe/London:20260105T100000\nDURATION:PT1H\nRRULE:FREQ=DAILY;UNTIL={until}"
        );
        assert_eq!(occurrences(&lines, 2026).len(), 3, "{until}");
    }
}

#[test]
fn an_endless_rule_is_cut_at_the_horizon_and_counted() {
    let lines = "DTSTART:19700101T120000Z\nDURATION:PT1H\nRRULE:FREQ=WEEKLY";
    let calendar = Calendar::read(&calendar(&[event(lines)])).calendar;
    let expansion = calendar.expand(year(2026), &zones(), 1_000);
    assert_eq!((expansion.occurrences.len(), expansion.endless, expansion.exhausted), (53, 1, 0));
}

#[test]
fn a_rule_that_floods_or_never_fires_is_stopped_and_counted() {
    let flood = "DTSTART:20260101T000000Z\nDURATION:PT1S\nRRULE:FREQ=SECONDLY";
    let expansion = Calendar::read(&calendar(&[event(flood)])).calendar.expand(year(2026), &zones(), 100_000);
    assert_eq!((expansion.occurrences.len(), expansion.exhausted), (OCCURRENCES_PER_ENTRY_MAX, 1));
    let never = "DTSTART:20260101T000000Z\nDURATION:PT1S\nRRULE:FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30";
    let reading = Calendar::read(&calendar(&[event(never)]));
    assert!(reading.calendar.expand(year(2026), &zones(), 10).occurrences.len() <= 1);
    let far = "DTSTART:19000101T000000Z\nDURATION:PT1S\nRRULE:FREQ=SECONDLY";
    let expansion = Calendar::read(&calendar(&[event(far)])).calendar.expand(year(2026), &zones(), 10);
    assert_eq!((expansion.occurrences.len(), expansion.exhausted), (0, 1));
}

#[test]
fn occurrences_past_the_limit_are_dropped_latest_first_and_counted() {
    let lines = "DTSTART:20260101T120000Z\nDURATION:PT1H\nRRULE:FREQ=DAILY";
    let calendar = Calendar::read(&calendar(&[event(lines)])).calendar;
    let expansion = calendar.expand(year(2026), &zones(), 10);
    assert_eq!((expansion.occurrences.len(), expansion.dropped), (10, 355));
    assert_eq!(expansion.occurrences[0].from, at("2026-01-01T12:00:00Z"));
}

/// Lines of an event, and whether a problem is the one that they are.
type Nonsense = (&'static str, fn(&Problem) -> bool);

#[test]
fn nonsense_is_named_and_typed() {
    let cases: [Nonsense; 14] = [
        ("UID:a", |it| *it == Problem::NoStart),
        ("DTSTART:yesterday\nDURATION:PT1H", |it| matches!(it, Problem::BadTime { property: "DTSTART", .. })),
        ("DTSTART:20260231T100000Z\nDURATION:PT1H", |it| matches!(it, Problem::BadTime { .. })),
        ("DTSTART:99991231T100000Z\nDURATION:PT1H", |it| matches!(it, Problem::BadTime { .. })),
        ("DTSTART:20260101T250000Z\nDURATION:PT1H", |it| matches!(it, Problem::BadTime { .. })),
        ("DTSTART;TZID=Mars/Olympus:20260101T100000\nDURATION:PT1H", |it| {
            *it == Problem::UnknownZone("Mars/Olympus".into())
        }),
        ("DTSTART:20260101T100000Z\nDTEND:20260101T090000Z", |it| *it == Problem::NoLength),
        ("DTSTART:20260101T100000Z", |it| *it == Problem::NoLength),
        ("DTSTART:20260101T100000Z\nDURATION:-PT1H", |it| matches!(it, Problem::BadDuration(_))),
        ("DTSTART:20260101T100000Z\nDTEND:20290101T100000Z", |it| *it == Problem::TooLong),
        ("DTSTART:20260101T100000Z\nDURATION:PT1H\nRRULE:FREQ=SOMETIMES", |it| {
            matches!(it, Problem::BadRule { .. })
        }),
        ("DTSTART:20260101T100000Z\nDURATION:PT1H\nRRULE:FREQ=WEEKLY;BYDAY=TU,.\u{428}", |it| {
            matches!(it, Problem::BadRule { .. })
        }),
        ("DTSTART:20260101T100000Z\nDURATION:PT1H\nRRULE:FREQ=DAILY;INTERVAL=0", |it| {
            matches!(it, Problem::BadRule { .. })
        }),
        ("DTSTART:20260101T100000Z\nDURATION:PT1H\nthis is no property", |it| {
            *it == Problem::Malformed("this is no property".into())
        }),
    ];
    for (lines, expected) in cases {
        let problem = problem(lines);
        assert!(expected(&problem), "{lines}: {problem:?}");
    }
}

#[test]
fn the_good_part_is_kept_and_mistakes_name_line_and_uid() {
    let good = |day: u32| event(&format!("UID:good{day}\nDTSTART:202601{day:02}T100000Z\nDURATION:PT1H"));
    let bad = event("UID:bad\nDTSTART:20260101T100000Z\nDURATION:soon");
    let unfinished = "BEGIN:VEVENT\r\nUID:open\r\nDTSTART:20260101T100000Z\r\n".to_owned();
    let reading = Calendar::read(&calendar(&[good(1), bad, unfinished, good(2)]));
    assert_eq!((reading.calendar.len(), reading.mistakes_total), (2, 2));
    let texts: Vec<_> = reading.mistakes.iter().map(ToString::to_string).collect();
    assert!(texts.iter().any(|it| it.starts_with("line 9, UID bad: DURATION `soon`")), "{texts:?}");
    assert!(
        texts.iter().any(|it| it == "line 14: the entry does not end: END:VEVENT is missing"),
        "{texts:?}"
    );
}

#[test]
fn bytes_of_any_kind_are_survived() {
    let deep = format!("BEGIN:VEVENT\n{}END:VEVENT\n", "BEGIN:VALARM\n".repeat(50_000));
    let deep_closed =
        event(&format!("{}\n{}", ["BEGIN:VALARM"; 2_000].join("\n"), ["END:VALARM"; 2_000].join("\n")));
    let long = event(&format!("UID:{}", "x".repeat(ENTRY_BYTES_MAX)));
    for (bytes, least) in [
        (b"".to_vec(), 1),
        (b"\xff\xfe\x00BEGIN:VEVENT\xc3".to_vec(), 1),
        (deep.into_bytes(), 1),
        (deep_closed.into_bytes(), 1),
        (long.into_bytes(), 1),
        (b"{\"not\": \"a calendar\"}".to_vec(), 1),
    ] {
        let reading = Calendar::read(&bytes);
        assert!(reading.mistakes_total >= least && reading.calendar.is_empty());
    }
}

#[test]
fn folded_lines_and_cancelled_entries_are_understood() {
    let folded = "UID:long\nDTSTART:20260309T19\n 0000Z\nDURATION:PT1H\nCATEGORIES:foot\n ball,final";
    assert_eq!(occurrences(folded, 2026), ["03-09T19:00Z/03-09T20:00Z * football"]);
    let off = event("DTSTART:20260309T190000Z\nDURATION:PT1H\nSTATUS:CANCELLED");
    let reading = Calendar::read(&calendar(&[off]));
    assert_eq!(reading.calendar.cancelled, 1);
    assert_eq!(reading.calendar.expand(year(2026), &zones(), 10), Expansion::default());
}

#[test]
fn ten_thousand_entries_are_read_and_expanded() {
    let one = |index: usize| {
        let (month, day, hour) = (index % 12 + 1, index / 12 % 28 + 1, index / 336 % 24);
        event(&format!(
            "UID:{index}\nDTSTART:2026{month:02}{day:02}T{hour:02}0000Z\nDURATION:PT{}M",
            index % 50 + 1
        ))
    };
    let events: Vec<_> = (0..10_000).map(one).collect();
    let reading = Calendar::read(&calendar(&events));
    assert_eq!((reading.calendar.len(), reading.mistakes_total), (10_000, 0));
    let expansion = reading.calendar.expand(year(2026), &zones(), 20_000);
    assert!(expansion.occurrences.len() > 9_000 && expansion.dropped == 0);
    let bounded = reading.calendar.expand(year(2026), &zones(), 500);
    assert_eq!(bounded.occurrences.len(), 500);
}

#[test]
fn entries_past_the_limit_are_mistakes() {
    let events: Vec<_> =
        (0..ENTRIES_MAX + 5).map(|_| event("DTSTART:20260101T000000Z\nDURATION:PT1H")).collect();
    let reading = Calendar::read(&calendar(&events));
    assert_eq!((reading.calendar.len(), reading.mistakes_total), (ENTRIES_MAX, 5));
    assert_eq!(reading.mistakes[0].problem, Problem::TooManyEntries);
}
