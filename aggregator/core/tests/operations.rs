//! What operators do and what vanishes: silences, maintenance, targets of pages, agents that die, windows of two widths.
//!
//! It must never depend on a seed's luck: the noise is small, and what happens is large. The hard case is what only ends
//! when something else does: a silent agent under a silence, an incident of a region that is no more.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, dead_code, reason = "a test")]

mod play;

use std::collections::BTreeMap;

use play::{BROKEN, CALM, Change, MINUTE, Play, WIDE_MS, settings, states};
use vedette_aggregator_core::{Aggregator, Alarm, IncidentState, Kind, Scope, Settings, Silence};
use vedette_common::WallMs;

fn silence(region: &str, from: WallMs, until: WallMs) -> Silence {
    let scope = Scope { region: vec![region.into()], ..Scope::default() };
    Silence { id: "1".into(), scope, from, until, author: "ada".into(), comment: "known".into() }
}

#[test]
fn a_window_that_a_silence_begins_in_is_covered() {
    let mut play = Play::new(settings());
    play.windows(60, &["uk"], CALM);
    let from = play.now.plus_ms(2 * MINUTE);
    play.aggregator.handle_silences(vec![silence("uk", from, from.plus_ms(60 * MINUTE))]);
    let told = play.windows(6, &["uk"], BROKEN);
    assert_eq!(states(&told, Kind::Malfunction), [IncidentState::Suppressed]);
}

#[test]
fn an_agent_that_falls_silent_under_a_silence_is_told_when_that_ends() {
    let mut play = Play::new(settings());
    play.windows(20, &["uk", "fr"], CALM);
    let until = play.now.plus_ms(60 * MINUTE);
    play.aggregator.handle_silences(vec![silence("uk", play.now, until)]);
    let during = play.windows(11, &["fr"], CALM);
    assert_eq!(states(&during, Kind::Telemetry), [IncidentState::Suppressed]);
    let after = play.windows(3, &["fr"], CALM);
    assert_eq!(states(&after, Kind::Telemetry), [IncidentState::Open]);
    assert_eq!((&after[0].id, after[0].at.0), (&during[0].id, until), "at the end of the silence");
    let back = play.windows(2, &["fr", "uk"], CALM);
    assert_eq!(states(&back, Kind::Telemetry), [IncidentState::Resolved]);
}

#[test]
fn a_silence_that_is_removed_early_lets_the_silent_agent_be_told() {
    let mut play = Play::new(settings());
    play.windows(20, &["uk", "fr"], CALM);
    play.aggregator.handle_silences(vec![silence("uk", play.now, play.now.plus_ms(600 * MINUTE))]);
    assert_eq!(states(&play.windows(11, &["fr"], CALM), Kind::Telemetry), [IncidentState::Suppressed]);
    play.aggregator.handle_silences(Vec::new());
    assert_eq!(states(&play.pass(1), Kind::Telemetry), [IncidentState::Open]);
}

#[test]
fn an_agent_that_comes_and_goes_is_one_incident_and_is_forgotten() {
    let mut play = Play::new(settings());
    play.windows(20, &["uk"], CALM);
    for _ in 0..5 {
        play.pass(20 * MINUTE);
        play.windows(1, &["uk"], CALM);
    }
    let opened: Vec<&Alarm> = play.told.iter().filter(|it| it.state == IncidentState::Open).collect();
    assert_eq!(opened.len(), 5);
    assert!(opened.iter().all(|alarm| alarm.id == opened[0].id), "it is one incident");
    assert_eq!(opened[4].returns, 4);
    for _ in 0..10 {
        play.windows(40, &["uk"], CALM);
        play.pass(20 * MINUTE);
        play.windows(1, &["uk"], CALM);
    }
    let ids: std::collections::BTreeSet<&str> = play.told.iter().map(|alarm| alarm.id.as_str()).collect();
    assert_eq!(ids.len(), 11, "hours later it is another one");
    let remembered = play.aggregator.snapshot().resolved.len();
    assert_eq!(remembered, 1, "what ended long ago is forgotten");
}

#[test]
fn silences_of_agents_stay_within_the_limit_of_incidents() {
    let mut settings = settings();
    settings.limits.incidents_max = 3;
    settings.lifecycle.flap_ms = 7 * 24 * 60 * MINUTE;
    let mut play = Play::new(settings);
    let regions = ["a", "b", "c", "d", "e", "f"];
    play.windows(3, &regions, CALM);
    play.pass(60 * MINUTE);
    play.windows(3, &["g"], CALM);
    assert_eq!(play.aggregator.snapshot().open.len(), 3);
    assert_eq!(play.aggregator.counts().get(vedette_aggregator_core::Reason::IncidentsFull), 3, "each once");
    play.aggregator.set_settings(self::settings());
    play.windows(1, &["g"], CALM);
    assert_eq!(play.aggregator.snapshot().open.len(), 6, "told once there is room");
}

#[test]
fn a_target_of_pages_does_not_count_that_agents_are_silent() {
    let mut settings = settings();
    settings.pages_per_week = BTreeMap::from([("uk".into(), 1.0)]);
    let mut play = Play::new(settings);
    play.windows(20, &["uk"], CALM);
    let learned = |play: &Play| {
        let parts = serde_json::to_value(play.aggregator.state()).unwrap();
        let found = parts.as_array().unwrap().iter().find_map(|part| part.get("sensitivities").cloned());
        found.unwrap()["regions"]["uk"]["level"].as_f64().unwrap()
    };
    play.pass(60 * MINUTE);
    assert_eq!(states(&play.told, Kind::Telemetry), [IncidentState::Open]);
    assert_eq!(learned(&play), 0.0);
}

#[test]
fn a_fault_is_told_where_regions_have_windows_of_different_widths() {
    let mut play = Play::new(settings());
    let narrow_ms = 10_000;
    let bad: Change<'_> = &|_, device, _| if device == "tv-lg" { (0.72, 3.0) } else { (1.0, 1.0) };
    for wide in 0..70 {
        let (start, change) = (play.now, if wide < 60 { CALM } else { bad });
        for narrow in 0..30 {
            play.pass(narrow_ms);
            play.summary("uk", start.plus_ms(narrow * narrow_ms), narrow_ms as u32, CALM);
        }
        for region in ["fr", "jp"] {
            play.summary(region, start, WIDE_MS, change);
        }
    }
    play.pass(narrow_ms);
    let pages: Vec<&Alarm> = play.told.iter().filter(|it| it.state == IncidentState::Open).collect();
    assert_eq!(pages.len(), 1, "{:#?}", play.told);
    assert_eq!(
        (pages[0].scope.region.join(" "), pages[0].scope.device.join(" ")),
        ("fr jp".into(), "tv-lg".into())
    );
    assert!(play.told.iter().all(|alarm| alarm.state != IncidentState::Resolved), "it goes on");
}

#[test]
fn an_incident_of_a_region_that_is_no_more_ends_after_a_week() {
    let mut play = Play::new(settings());
    play.windows(60, &["uk", "fr"], CALM);
    play.windows(4, &["uk", "fr"], BROKEN);
    let fault = play.told.iter().find(|alarm| alarm.kind == Kind::Malfunction).unwrap().clone();
    for _ in 0..150 {
        play.pass(55 * MINUTE);
        play.windows(1, &["fr"], CALM);
    }
    let open = |play: &Play| play.aggregator.snapshot().open.len();
    assert_eq!(open(&play), 2, "the fault and the silence of its agent");
    for _ in 0..20 {
        play.pass(55 * MINUTE);
        play.windows(1, &["fr"], CALM);
    }
    assert_eq!(open(&play), 0);
    let end = play.told.iter().find(|it| it.id == fault.id && it.state == IncidentState::Resolved).unwrap();
    assert!(end.change.as_ref().unwrap().contains("taken for gone"));
}

/// The learned bar of a region three times as high as usual.
fn insensitive(play: &mut Play, settings: Settings) {
    let mut parts = serde_json::to_value(play.aggregator.state()).unwrap();
    for part in parts.as_array_mut().unwrap() {
        if let Some(learned) = part.get_mut("sensitivities") {
            learned["regions"]["uk"] = serde_json::json!({ "level": 1.0986, "at": play.now });
        }
    }
    let parts: Vec<vedette_aggregator_core::Part> = serde_json::from_value(parts).unwrap();
    play.aggregator = Aggregator::restore(settings, parts);
}

#[test]
fn what_a_target_holds_back_does_not_take_a_clear_fault_with_it() {
    let mut settings = settings();
    settings.pages_per_week = BTreeMap::from([("uk".into(), 0.01)]);
    let mut play = Play::new(settings.clone());
    play.windows(60, &["uk"], CALM);
    insensitive(&mut play, settings);
    // Everything falls a little with errors everywhere, and payments is all but gone.
    let both: Change<'_> = &|_, _, stack| if stack == "payments" { (0.05, 12.0) } else { (0.8, 2.9) };
    let told = play.windows(3, &["uk"], both);
    let opened: Vec<&Alarm> = told.iter().filter(|alarm| alarm.state == IncidentState::Open).collect();
    let held = told.iter().any(|it| it.evidence.reason.contains("a target of 0.01 pages a week"));
    assert!(held, "{told:#?}");
    assert!(opened.iter().any(|alarm| alarm.scope.stack == ["payments"]), "{told:#?}");
}
