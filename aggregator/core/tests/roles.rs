//! Metrics that are neither traffic nor errors: how long things take, and how full a resource is.
//!
//! It must never depend on a seed's luck: each case differs from its neighbour in one thing. The hard case is a rise that all
//! stacks share: an overload from outside is held back, and the same rise of one stack is told.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    dead_code,
    reason = "a test, and it uses a part of the fleet's tools"
)]

mod fleet;

use std::collections::BTreeMap;

use fleet::{DEVICES, Dice, REGIONS, STACKS, START, WINDOW_MS};
use vedette_aggregator_core::{
    Aggregator, Alarm, AllowedRegions, Effect, IncidentState, MetricSettings, Role, Settings, Verdict,
};
use vedette_common::wire::{CellName, F24, RollUp, Summary};
use vedette_common::{AgentId, BootId, Lane, MonoMs, Now, RecordKey, Sequence};

const CALM_WINDOWS: i64 = 100;
const CHANGED_WINDOWS: i64 = 24;

/// What happens to a cell after the calm: a factor on what is observed.
type Change = fn(region: &str, stack: &str) -> f64;

fn now(window: i64) -> Now {
    let wall = START.plus_ms((window + 1) * i64::from(WINDOW_MS));
    Now { wall, mono: MonoMs(wall.0.unsigned_abs()) }
}

fn summary(dice: &mut Dice, window: i64, region: &str, change: Change) -> Summary {
    let key = RecordKey { boot: BootId(1), lane: Lane::RollUps, sequence: Sequence(window as u64 + 1) };
    let mut summary = Summary::new(key, START.plus_ms(window * i64::from(WINDOW_MS)), WINDOW_MS);
    let (place, metric) = (summary.strings.intern(region).unwrap(), summary.strings.intern("p95").unwrap());
    for (cell, (stack_name, device_name)) in
        STACKS.iter().flat_map(|stack| DEVICES.iter().map(move |device| (*stack, *device))).enumerate()
    {
        let factor = if window < CALM_WINDOWS { 1.0 } else { change(region, stack_name) };
        let noise = (0.03 * dice.normal()).exp();
        let (device, stack) =
            (summary.strings.intern(device_name).unwrap(), summary.strings.intern(stack_name).unwrap());
        summary.cells.push(CellName { region: place, device, stack }).unwrap();
        let (observed, expected) = (F24::from_f64(1_500.0 * factor * noise), F24::from_f64(1_500.0));
        summary.roll_ups.push(RollUp { cell: cell as u8, metric, observed, expected, count: 5 }).unwrap();
    }
    summary
}

/// Every state that an incident enters when a metric of `role` changes.
fn told(role: Role, change: Change) -> Vec<Alarm> {
    let metric = MetricSettings { role, alarm_on: role.default_alarm_on() };
    let metrics = BTreeMap::from([("p95".into(), metric)]);
    let mut aggregator = Aggregator::new(Settings { metrics, ..Settings::default() });
    let (mut dice, mut told) = (Dice(7), Vec::new());
    for window in 0..CALM_WINDOWS + CHANGED_WINDOWS {
        for region in REGIONS {
            let agent = AgentId::parse(&format!("edge-{region}")).unwrap();
            let summary = summary(&mut dice, window, region, change);
            aggregator.handle_summary(now(window), &agent, &AllowedRegions::All, &summary);
        }
        aggregator.handle_deadline(Now { wall: now(window).wall.plus_ms(60_000), ..now(window) });
        while let Some(effect) = aggregator.poll_effect() {
            // That it worsens with time is told as well.
            if let Effect::Incident(alarm) = effect
                && (alarm.opens() || alarm.state != IncidentState::Open)
            {
                told.push(*alarm);
            }
        }
    }
    told
}

fn both(mut check: impl FnMut(Role)) {
    for role in [Role::Latency, Role::Saturation] {
        check(role);
    }
}

#[test]
fn a_rise_of_one_stack_is_told_with_its_scope() {
    both(|role| {
        let told = told(role, |region, stack| if (region, stack) == ("uk", "search") { 2.0 } else { 1.0 });
        assert_eq!(told.len(), 1, "{told:#?}");
        assert_eq!((told[0].state, told[0].verdict), (IncidentState::Open, Verdict::Malfunction));
        assert_eq!(told[0].scope.region, ["uk"]);
        assert_eq!(told[0].scope.stack, ["search"]);
        assert_eq!(told[0].series[0].measurement, "p95");
    });
}

#[test]
fn a_rise_that_all_stacks_share_is_held_back() {
    both(|role| {
        let told = told(role, |region, _| if region == "uk" { 1.6 } else { 1.0 });
        assert!(!told.is_empty());
        for alarm in &told {
            assert_eq!((alarm.state, alarm.verdict), (IncidentState::Suppressed, Verdict::ExternalEvent));
        }
    });
}

#[test]
fn a_fall_is_good_news() {
    both(|role| {
        let told = told(role, |region, stack| if (region, stack) == ("uk", "search") { 0.5 } else { 1.0 });
        assert!(told.iter().all(|alarm| alarm.state != IncidentState::Open), "{told:#?}");
    });
}
