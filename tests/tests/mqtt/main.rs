//! MQTT with real processes: an agent, Debian's mosquitto and an aggregator, through kills of each of the three.
//!
//! It must never sleep and hope: every wait asks for a fact and has a bound. The hard case is the count at the end: every
//! record that was made is applied exactly once, whatever the broker forgot or repeated.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod stage;

use stage::{Session, Stage};
use vedette_tests::fleet::random::Random;
use vedette_tests::rig::eventually;

#[test]
fn nothing_is_lost_or_doubled_through_kills_of_the_broker_over_mqtt_5() {
    through_kills_of_the_broker("5");
}

#[test]
fn nothing_is_lost_or_doubled_through_kills_of_the_broker_over_mqtt_3() {
    through_kills_of_the_broker("3.1.1");
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

#[test]
fn an_aggregator_that_was_killed_finds_its_agents_again() {
    let mut stage = Stage::set("5");
    stage.send(20);
    drained(&stage, 2);
    stage.kill_aggregator();
    let delivered = stage.agent("vedette_agent_records_delivered_total");
    let before = stage.made();
    eventually("records while the aggregator is away", 30, || {
        stage.send(1);
        (stage.made() >= before + 4).then_some(())
    });
    assert!(stage.spooled() >= 4, "the broker's word frees nothing");
    stage.start_aggregator();
    eventually("an empty spool", 90, || (stage.spooled() == 0).then_some(()));
    // The former process had committed what the agent had heard of, and at most what was on its way beyond that.
    eventually("what was delivered since, applied", 10, || {
        let since = stage.agent("vedette_agent_records_delivered_total") - delivered;
        let applied = stage.aggregator("core_summaries_total");
        (applied.abs_diff(since) <= 2).then_some(())
    });
    stage.stop();
}

#[test]
fn certificates_of_the_aggregator_open_the_broker_when_quic_fails() {
    for version in ["5", "3.1.1"] {
        let stage = Stage::set_with_tls(version);
        stage.send(20);
        drained(&stage, 2);
        stage.stop();
    }
}

/// Each of the three is killed at random, and then what counts over all processes is asked: nothing was given up, everything is
/// delivered, and what is made after the last kill is applied once. More kills, other moments:
/// `VEDETTE_CHAOS_KILLS=300 VEDETTE_CHAOS_SEED=7 cargo test -p vedette-tests --test mqtt -- random_kills`.
#[test]
fn nothing_is_lost_through_random_kills_of_all_three() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (kills, seed) = (number("VEDETTE_CHAOS_KILLS", 6), number("VEDETTE_CHAOS_SEED", 1));
    let mut random = Random::new(seed, "chaos");
    let mut stage = Stage::set("5");
    stage.send(20);
    drained(&stage, 2);
    for kill in 1..=kills {
        live(&stage, random.index(3) as u64);
        match random.index(4) {
            0 => {
                stage.kill_agent();
                stage.start_agent();
            }
            1 => {
                stage.kill_aggregator();
                live(&stage, random.index(3) as u64);
                stage.start_aggregator();
            }
            which => {
                stage.kill_broker();
                live(&stage, random.index(3) as u64);
                let has_database = which == 2 && stage.broker_has_database();
                stage.start_broker(if has_database { Session::Kept } else { Session::Lost });
            }
        }
        assert_eq!(stage.agent("vedette_agent_records_dropped_total"), 0, "kill {kill} of seed {seed}");
    }
    eventually("an empty spool", 180, || (stage.spooled() == 0).then_some(()));
    assert_eq!(stage.missing(), 0, "seed {seed}");
    applied_once_from_now_on(&stage);
    stage.stop();
}

/// Lets the agent make `records` more.
fn live(stage: &Stage, records: u64) {
    let before = stage.made();
    eventually("more records", 30, || {
        stage.send(1);
        (stage.made() >= before + records).then_some(())
    });
}

/// What is made from here on is applied once, as the counts of both processes say.
fn applied_once_from_now_on(stage: &Stage) {
    let calm = || {
        let made = stage.made();
        let applied = stage.aggregator("core_summaries_total");
        (stage.spooled() == 0 && made == stage.made()).then_some((made, applied))
    };
    let (made, applied) = eventually("a quiet moment", 30, calm);
    live(stage, 5);
    eventually("as many applied as made", 60, || {
        let (made_now, applied_now) = calm()?;
        assert!(applied_now - applied <= made_now - made + 1, "applied more than was made");
        (applied_now - applied == made_now - made).then_some(())
    });
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
