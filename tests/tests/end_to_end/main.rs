//! The whole way with real processes: StatsD and line protocol into real agents, QUIC with mutual TLS to a real
//! aggregator, an incident posted to a real webhook receiver and to Debian's Alertmanager, and the same incident after
//! `kill -9` of each.
//!
//! It must never sleep and hope: every wait asks for a fact and has a bound. The hard case is the outage in the middle:
//! what happens while the aggregator is dead must arrive from the spool of an agent that was killed as well.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod full_disk;
mod renewal;
mod stage;
mod traffic;

use std::collections::BTreeSet;

use stage::Stage;
use traffic::Traffic;
use vedette_tests::rig::eventually;

#[test]
fn telemetry_becomes_one_alarm_and_stays_one_through_kills() {
    // The traffic of the test ends now: its fault lies hours back.
    let mut stage = Stage::set(86_400);
    let mut traffic = Traffic::ending_now();

    traffic.history(&mut stage);
    traffic.fault(&mut stage, 24);
    let id = opened(&stage);
    explained(&stage, &id);
    alerted(&stage, &id);
    counted(&stage);
    folded(&stage);

    stage.kill_aggregator();
    stage.start_aggregator();
    eventually("the incident after the aggregator's kill", 30, || stage.incident(&id, "open"));

    stage.kill_aggregator();
    traffic.calm(&mut stage, 18);
    eventually("records in the spool", 30, || (stage.spooled_records() >= 10).then_some(()));
    stage.kill_agent();
    stage.start_agent();
    stage.start_aggregator();
    eventually("the end of the incident, from the spool", 60, || stage.incident(&id, "resolved"));
    eventually("an empty spool", 30, || (stage.spooled_records() == 0).then_some(()));
    posted_once(&stage, &id);
    stage.stop();
}

/// What an agent kept through an outage of hours is judged and recorded; people hear of what is, and not of what was.
#[test]
fn a_backlog_of_hours_is_history_and_what_is_fresh_pages() {
    let mut stage = Stage::set(3_600);
    let mut traffic = Traffic::ending_now();
    traffic.history(&mut stage);
    eventually("an empty spool", 60, || (stage.spooled_records() == 0).then_some(()));
    stage.kill_aggregator();
    traffic.fault(&mut stage, 16);
    traffic.calm(&mut stage, 20);
    eventually("hours of records in the spool", 30, || (stage.spooled_records() >= 30).then_some(()));
    stage.start_aggregator();
    eventually("an empty spool", 90, || (stage.spooled_records() == 0).then_some(()));
    let held = eventually("the fault in the ledger", 60, || {
        let ledger = stage.api("/api/v1/suppressed")?;
        let entries = ledger["ledger"].as_array()?.iter();
        let reasons: Vec<String> =
            entries.filter_map(|entry| Some(entry["reason"].as_str()?.to_owned())).collect();
        reasons.into_iter().find(|reason| reason.starts_with("history: it came "))
    });
    assert!(held.contains("late"), "{held}");
    let pages = || {
        let posts = stage.webhook.posts().into_iter();
        let of = |body: &serde_json::Value| body["kind"] == "malfunction" && body["state"] == "open";
        posts.filter(|post| of(&post.body)).count()
    };
    assert_eq!(pages(), 0, "nobody is paged for what is over");

    let mut stage = stage;
    traffic.fault(&mut stage, 8);
    opened(&stage);
    stage.stop();
}

/// Waits for the page, and looks at the object that the interface promises.
fn opened(stage: &Stage) -> String {
    let alarm = eventually("the alarm at the webhook", 60, || {
        stage.webhook.posts().into_iter().map(|post| post.body).find(|body| body["state"] == "open")
    });
    assert_eq!(alarm["kind"], "malfunction", "{alarm}");
    assert_eq!(alarm["verdict"], "malfunction", "{alarm}");
    assert_eq!(alarm["scope"]["region"], serde_json::json!(["uk"]), "{alarm}");
    assert_eq!(alarm["scope"]["stack"], serde_json::json!(["playback"]), "{alarm}");
    for key in ["at", "started_at"] {
        assert!(alarm[key].as_str().is_some_and(|at| at.ends_with('Z')), "{key}: {alarm}");
    }
    assert!(alarm["summary"].as_str().is_some_and(|summary| summary.contains("playback")), "{alarm}");
    let series = &alarm["series"][0];
    assert!(series["observed"].as_f64().unwrap() < 0.6 * series["expected"].as_f64().unwrap(), "{alarm}");
    alarm["id"].as_str().unwrap().to_owned()
}

fn explained(stage: &Stage, id: &str) {
    let text = stage.aggregator_says(&["explain", id]);
    assert!(text.contains("playback") && text.contains("uk"), "{text}");
    assert!(text.contains("browse"), "the peers that were compared are named: {text}");
    assert!(text.contains("equal to the bit") && !text.contains("DIFFERS"), "{text}");
}

/// Alertmanager itself must know of the incident, not only have been told.
fn alerted(stage: &Stage, id: &str) {
    eventually("the alert at Alertmanager", 30, || {
        let alerts = stage.alerts()?;
        alerts.as_array()?.iter().any(|alert| alert["labels"]["id"] == id).then_some(())
    });
}

/// What came in was scored or dropped with a reason; nothing else became of it.
fn counted(stage: &Stage) {
    let metrics = stage.agent_metrics();
    let sum = |name: &str| -> f64 {
        let lines = metrics.lines().filter(|line| line.starts_with(name) && !line.starts_with('#'));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    let dropped: f64 = metrics
        .lines()
        .filter(|line| {
            line.starts_with("vedette_agent_dropped_total") && line.contains("unit=\"observation\"")
        })
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    let (observed, scored) =
        (sum("vedette_agent_observations_total"), sum("vedette_agent_observations_scored_total"));
    assert!(observed > 10_000.0 && dropped >= 1.0, "{observed} observed, {dropped} dropped");
    assert_eq!(observed, scored + dropped);
}

/// StatsD counters of the other agent reach the lattice in the region of its own certificate.
fn folded(stage: &Stage) {
    stage.send_statsd("sign_ins:7|c|#stack:accounts");
    eventually("the StatsD series in the lattice", 60, || {
        let lattice = stage.api("/api/v1/lattice")?;
        let regions = lattice["regions"].as_array()?;
        let region = regions.iter().find(|region| region["region"] == "ie")?;
        let cells = region["cells"].as_array()?;
        cells.iter().find(|cell| cell["metric"] == "sign_ins" && cell["stack"] == "accounts").map(|_| ())
    });
}

/// Nobody was paged twice, and for nothing else.
fn posted_once(stage: &Stage, id: &str) {
    eventually("the all-clear at the webhook", 30, || {
        let posts = stage.webhook.posts();
        posts.iter().any(|post| post.body["id"] == id && post.body["state"] == "resolved").then_some(())
    });
    let posts = stage.webhook.posts();
    let keys: BTreeSet<&str> = posts.iter().map(|post| post.idempotency_key.as_str()).collect();
    assert!(!keys.contains(""), "every post carries an idempotency key");
    let malfunctions: BTreeSet<&str> = posts
        .iter()
        .filter(|post| post.body["kind"] == "malfunction")
        .filter_map(|post| post.body["id"].as_str())
        .collect();
    assert_eq!(malfunctions.len(), 1, "one fault, one incident: {malfunctions:?}");
    let opens: BTreeSet<&str> = posts
        .iter()
        .filter(|post| post.body["id"] == id && post.body["state"] == "open")
        .map(|post| post.idempotency_key.as_str())
        .collect();
    assert_eq!(opens.len(), 1, "the incident opened once");
}
