//! The judgement on a made-up fleet: events are held back, malfunctions are told, and the same inputs give the same bytes.
//!
//! It must never be tuned to its seeds; the large simulator in `tests/` measures. The hard case is order of arrival: it
//! must not show.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test")]

mod fleet;

use std::collections::{BTreeMap, BTreeSet};

use fleet::{Fleet, Happening, Hardness, REGIONS, START, WINDOW_MS};
use vedette_aggregator_core::{
    Aggregator, Alarm, AlarmOn, AllowedRegions, Effect, IncidentState, Kind, MetricSettings, Role,
    ScheduleEntry, Settings,
};
use vedette_common::wire::Summary;
use vedette_common::{AgentId, MonoMs, Now};

fn settings() -> Settings {
    let metric = |role: Role| MetricSettings { role, alarm_on: role.default_alarm_on() };
    let metrics =
        BTreeMap::from([("activity".into(), metric(Role::Traffic)), ("errors".into(), metric(Role::Errors))]);
    assert_eq!(Role::Traffic.default_alarm_on(), AlarmOn::Drop);
    Settings { metrics, ..Settings::default() }
}

fn now(window: usize) -> Now {
    let wall = START.plus_ms((window as i64 + 1) * i64::from(WINDOW_MS));
    Now { wall, mono: MonoMs(wall.0.unsigned_abs()) }
}

fn agent(region: usize) -> AgentId {
    AgentId::parse(&format!("edge-{}", REGIONS[region])).unwrap()
}

fn feed(aggregator: &mut Aggregator, now: Now, region: usize, summary: &Summary) {
    aggregator.handle_summary(now, &agent(region), &AllowedRegions::All, summary);
}

fn drain(aggregator: &mut Aggregator, told: &mut Vec<Alarm>) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(effect) = aggregator.poll_effect() {
        match effect {
            Effect::Incident(alarm) => {
                serde_json::to_writer(&mut bytes, &alarm).unwrap();
                told.push(*alarm);
            }
            Effect::Ledger(entry) => serde_json::to_writer(&mut bytes, &entry).unwrap(),
            Effect::Acknowledge { .. } | Effect::Refuse { .. } | Effect::Basis { .. } => {}
        }
    }
    bytes
}

fn finish(aggregator: &mut Aggregator, now: Now, told: &mut Vec<Alarm>) -> Vec<u8> {
    aggregator.handle_deadline(Now { wall: now.wall.plus_ms(60_000), ..now });
    drain(aggregator, told)
}

fn calendar(fleet: &Fleet) -> Vec<ScheduleEntry> {
    let at = |window: usize| START.plus_ms(window as i64 * i64::from(WINDOW_MS));
    let entry = |event: &Happening| ScheduleEntry {
        from: at(event.from),
        until: at(event.until),
        region: event.region.map(|region| REGIONS[region].into()),
        class: "football".into(),
        title: String::new(),
    };
    fleet.happenings.iter().filter(|h| h.announced).map(entry).collect()
}

/// Every alarm of a fleet, and the bytes of all alarms and ledger entries.
fn run(seed: u64, windows: usize, reversed: bool, hardness: Hardness) -> (Vec<Alarm>, Vec<u8>, Fleet) {
    let mut fleet = Fleet::new(seed, windows, hardness);
    let mut aggregator = Aggregator::new(settings());
    aggregator.handle_calendar(calendar(&fleet));
    let (mut told, mut bytes) = (Vec::new(), Vec::new());
    for window in 0..windows {
        let summaries = fleet.window(window);
        let mut order: Vec<usize> = (0..summaries.len()).collect();
        if reversed {
            order.reverse();
        }
        for region in order {
            feed(&mut aggregator, now(window), region, &summaries[region]);
        }
        bytes.extend(finish(&mut aggregator, now(window), &mut told));
    }
    (told, bytes, fleet)
}

#[derive(Debug, Default)]
struct Outcome {
    malfunctions: usize,
    found: usize,
    events: usize,
    events_paged: usize,
    pages: usize,
    false_pages: usize,
    extra_pages: usize,
    delays: Vec<i64>,
}

fn touches(alarm: &Alarm, happening: &Happening) -> bool {
    let at = |window: usize| START.plus_ms(window as i64 * i64::from(WINDOW_MS));
    let in_time = alarm.at.0 > at(happening.from) && alarm.at.0 <= at(happening.until + 6);
    let here = |region| {
        alarm.scope.region.is_empty() || alarm.scope.region.iter().any(|name| name == REGIONS[region])
    };
    in_time && happening.region.is_none_or(here)
}

fn judge(alarms: &[Alarm], fleet: &Fleet) -> Outcome {
    let mut outcome = Outcome::default();
    let open = |alarm: &&Alarm| alarm.state == IncidentState::Open && alarm.kind == Kind::Malfunction;
    let mut explained = BTreeSet::new();
    for malfunction in fleet.happenings.iter().filter(|h| h.malfunction) {
        let hits: Vec<&Alarm> = alarms.iter().filter(open).filter(|a| touches(a, malfunction)).collect();
        outcome.malfunctions += 1;
        outcome.found += usize::from(!hits.is_empty());
        explained.extend(hits.iter().map(|alarm| alarm.id.clone()));
        outcome.extra_pages += hits.len().saturating_sub(1);
        let began = START.plus_ms(malfunction.from as i64 * i64::from(WINDOW_MS));
        outcome.delays.extend(hits.iter().map(|a| a.at.0.ms_since(began) / i64::from(WINDOW_MS)).min());
        if std::env::var("VERBOSE").is_ok() {
            eprintln!(
                "{:?} {:?} {:?} {:.2} {}..{} -> {:?}",
                malfunction.region,
                malfunction.device,
                malfunction.stack,
                malfunction.effect[0][0],
                malfunction.from,
                malfunction.until,
                hits.iter().map(|a| &a.summary).collect::<Vec<_>>()
            );
        }
    }
    let unexplained: Vec<&Alarm> =
        alarms.iter().filter(open).filter(|a| !explained.contains(&a.id)).collect();
    if std::env::var("VERBOSE").is_ok() {
        for a in &unexplained {
            eprintln!("FALSE {} {:?} {}", a.summary, a.at, serde_json::to_string(&a.evidence).unwrap());
        }
    }
    outcome.pages = alarms.iter().filter(open).count();
    outcome.false_pages = unexplained.len();
    for event in fleet.happenings.iter().filter(|h| !h.malfunction) {
        outcome.events += 1;
        outcome.events_paged += usize::from(unexplained.iter().any(|alarm| touches(alarm, event)));
    }
    outcome.delays.sort_unstable();
    outcome
}

/// The outcome over several seeds; each one's is printed.
fn measure(seeds: std::ops::RangeInclusive<u64>, hardness: Hardness) -> Outcome {
    let mut total = Outcome::default();
    for seed in seeds {
        let (alarms, _, fleet) = run(seed, 1300, false, hardness);
        let outcome = judge(&alarms, &fleet);
        eprintln!("{hardness:?} seed {seed}: {outcome:?}");
        total.malfunctions += outcome.malfunctions;
        total.found += outcome.found;
        total.events += outcome.events;
        total.events_paged += outcome.events_paged;
        total.false_pages += outcome.false_pages;
        total.extra_pages += outcome.extra_pages;
    }
    eprintln!("{hardness:?} total: {total:?}");
    total
}

#[test]
fn events_are_held_back_and_malfunctions_are_told() {
    let total = measure(1..=4, Hardness::default());
    assert!(total.malfunctions > 12 && total.events > 12, "{total:?}");
    assert!(total.found * 100 >= total.malfunctions * 95, "{total:?}");
    assert!(total.events_paged == 0 && total.false_pages == 0, "{total:?}");
}

#[test]
fn harder_fleets_are_judged_well_too() {
    let uneven = measure(11..=14, Hardness { errors: true, unevenness: 0.5 });
    assert!(uneven.found * 100 >= uneven.malfunctions * 85, "{uneven:?}");
    assert!(uneven.events_paged * 100 <= uneven.events * 10, "{uneven:?}");
    let traffic_alone = measure(11..=14, Hardness { errors: false, unevenness: 0.3 });
    assert!(traffic_alone.found * 100 >= traffic_alone.malfunctions * 60, "{traffic_alone:?}");
    assert!(traffic_alone.events_paged * 100 <= traffic_alone.events * 25, "{traffic_alone:?}");
}

#[test]
fn the_same_inputs_give_the_same_bytes_in_any_order_of_arrival() {
    let (_, once, _) = run(9, 700, false, Hardness::default());
    let (_, again, _) = run(9, 700, false, Hardness::default());
    let (_, reversed, _) = run(9, 700, true, Hardness::default());
    assert!(!once.is_empty());
    assert!(once == again, "twice the same inputs");
    assert!(once == reversed, "agents in another order");
}

#[test]
fn a_restored_aggregator_goes_on_with_the_same_incidents() {
    let windows = 700;
    let (_, whole, _) = run(9, windows, false, Hardness::default());
    let mut fleet = Fleet::new(9, windows, Hardness::default());
    let mut stored: BTreeMap<String, String> = BTreeMap::new();
    let mut aggregator = Aggregator::new(settings());
    aggregator.handle_calendar(calendar(&fleet));
    let (mut told, mut bytes) = (Vec::new(), Vec::new());
    for window in 0..windows {
        let summaries = fleet.window(window);
        for (region, summary) in summaries.iter().enumerate() {
            feed(&mut aggregator, now(window), region, summary);
            if window % 37 == 5 && region == 1 {
                // A crash between two summaries: only what was committed comes back.
                commit(&mut aggregator, &mut stored);
                let parts = stored.values().map(|text| serde_json::from_str(text).unwrap());
                aggregator = Aggregator::restore(settings(), parts);
                aggregator.handle_calendar(calendar(&fleet));
            }
        }
        commit(&mut aggregator, &mut stored);
        bytes.extend(finish(&mut aggregator, now(window), &mut told));
        commit(&mut aggregator, &mut stored);
    }
    assert!(whole == bytes, "restarts must not show");
}

fn commit(aggregator: &mut Aggregator, stored: &mut BTreeMap<String, String>) {
    for change in aggregator.take_changes() {
        match change.part {
            Some(part) => stored.insert(change.key, serde_json::to_string(&part).unwrap()),
            None => stored.remove(&change.key),
        };
    }
}

#[test]
fn a_silent_agent_is_told_and_its_return_ends_it() {
    let mut fleet = Fleet::new(3, 100, Hardness::default());
    let mut aggregator = Aggregator::new(settings());
    let mut told = Vec::new();
    for window in 0..60 {
        for (region, summary) in fleet.window(window).iter().enumerate() {
            // The agent of uk says nothing for ten windows, and then sends what it had spooled.
            if region == 2 && (30..40).contains(&window) {
                continue;
            }
            let mut summary = summary.clone();
            if region == 2 && window >= 40 {
                summary.key.sequence.0 -= 10;
            }
            feed(&mut aggregator, now(window), region, &summary);
        }
        finish(&mut aggregator, now(window), &mut told);
    }
    let states: Vec<_> =
        told.iter().filter(|a| a.kind == Kind::Telemetry).map(|a| (a.state, a.id.clone())).collect();
    assert_eq!(states.len(), 2, "{states:?}");
    assert_eq!((states[0].0, states[1].0), (IncidentState::Open, IncidentState::Resolved));
    assert_eq!(states[0].1, states[1].1);
    assert!(!told.iter().any(|a| a.kind == Kind::Malfunction), "a gap is no drop");
    assert!(told[0].summary.contains("edge-uk is silent"), "{}", told[0].summary);
}
