//! MQTT with real processes: an agent, Debian's mosquitto and an aggregator, through kills of each of the three.
//!
//! It must never sleep and hope: every wait asks for a fact and has a bound. The hard case is the count at the end: every
//! record that was made is applied exactly once, whatever the broker forgot or repeated.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod stage;

use stage::{Session, Stage};
use vedette_tests::rig::eventually;

#[test]
fn nothing_is_lost_or_doubled_through_kills_of_the_broker_over_mqtt_5() {
    through_kills_of_the_broker("5");
}

fn through_kills_of_the_broker(version: &str) {
    let mut stage = Stage::set(version);
    stage.send(20);
    drained(&stage, 2);

    for session in [Session::Kept, Session::Lost] {
        stage.kill_broker();
        let before = stage.made();
        eventually("records while the broker is away", 30, || {
            stage.send(1);
            (stage.made() >= before + 4 && stage.spooled() >= 4).then_some(())
        });
        stage.start_broker(session);
        drained(&stage, before + 4);
    }
    assert_eq!(stage.agent("vedette_agent_records_dropped_total"), 0);
    assert_eq!(stage.aggregator("core_left_out_total{reason=\"missing\"}"), 0);
    stage.stop();
}

/// Waits until at least `least` records were made and all of them are delivered, each applied once.
fn drained(stage: &Stage, least: u64) {
    eventually("every record delivered and applied once", 90, || {
        let made = stage.made();
        let (spooled, applied) = (stage.spooled(), stage.aggregator("core_summaries_total"));
        assert!(applied <= stage.made(), "{applied} records applied of {} made", stage.made());
        // Windows close all the time: the counts agree when none closed in between.
        (made >= least && spooled == 0 && applied == made && made == stage.made()).then_some(())
    });
}
