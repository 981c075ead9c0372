//! MQTT with real processes: an agent, Debian's mosquitto or nats-server, and an aggregator, through kills of each of the three.
//!
//! It must never sleep and hope: every wait asks for a fact and has a bound. The hard case is the count at the end: every
//! record that was made is applied exactly once, whatever the broker forgot or repeated.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod attacks;
mod stage;

use stage::{Broker, Session, Setup, Stage};
use vedette_tests::fleet::random::Random;
use vedette_tests::rig::{Loss, eventually};

#[test]
fn nothing_is_lost_or_doubled_through_kills_of_the_broker_over_mqtt_5() {
    through_kills_of_the_broker(Setup::new("5"));
}

#[test]
fn nothing_is_lost_or_doubled_through_kills_of_the_broker_over_mqtt_3() {
    through_kills_of_the_broker(Setup::new("3.1.1"));
}

#[test]
fn nothing_is_lost_or_doubled_through_kills_of_nats_server_which_asks_for_a_password() {
    through_kills_of_the_broker(Setup { broker: Broker::Nats, ..Setup::new("3.1.1") });
}

fn through_kills_of_the_broker(setup: Setup) {
    let mut stage = Stage::set(setup);
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
    assert_eq!(stage.agent("vedette_agent_records_dropped_total"), Some(0));
    assert_eq!(stage.aggregator("core_left_out_total{reason=\"missing\"}"), Some(0));
    stage.stop();
}

#[test]
fn a_broker_that_drops_messages_silently_loses_and_doubles_nothing() {
    let stage = Stage::set(Setup { loses: Some(Loss::Summaries), ..Setup::new("5") });
    eventually("messages dropped by the broker", 60, || {
        stage.send(5);
        (stage.lost() >= 4).then_some(())
    });
    eventually("every record delivered and applied once, behind the losses", 240, || {
        let (made, spooled, applied) = (stage.made(), stage.spooled(), stage.applied());
        assert!(applied <= stage.made(), "{applied} records applied of {} made", stage.made());
        (spooled == 0 && applied == made && made == stage.made() && applied >= 10).then_some(())
    });
    assert!(stage.agent("vedette_agent_records_resent_total").unwrap() > 0);
    assert_eq!(stage.agent("vedette_agent_records_dropped_total"), Some(0));
    assert_eq!(stage.aggregator("core_left_out_total{reason=\"missing\"}"), Some(0));
    stage.stop();
}

#[test]
fn a_region_other_than_that_of_the_topics_is_refused_and_counted_on_both_sides() {
    let stage = Stage::set(Setup::new("5"));
    stage.send(5);
    drained(&stage, 1);
    stage.send_lines("activity,region=fr,device=tv,stack=playback value=1\n");
    let refused = "refused_total{reason=\"region_forbidden\"}";
    eventually("the refusal at the aggregator", 30, || stage.aggregator(refused));
    eventually("the refusal at the agent", 30, || {
        stage.agent("vedette_agent_dropped_total{reason=\"refused\"").filter(|count| *count > 0)
    });
    eventually("an empty spool", 60, || (stage.spooled() == 0).then_some(()));
    stage.stop();
}

/// Mosquitto deals the messages of a shared subscription out in turn, so each aggregator gets parts of what an agent says.
/// That is slow, but safe: each acknowledges only what it has committed, and what was acknowledged is below the horizon that
/// the agent tells the other.
#[test]
fn two_aggregators_that_share_the_summaries_apply_each_record_once_even_in_turns() {
    let setup = Setup { is_shared: true, window_ms: 5_000, ..Setup::new("5") };
    let stage = Stage::set(setup);
    stage.send(5);
    applied_by_one_of_two(&stage, 3);
    stage.stop();
}

/// What one aggregator has committed comes again when the agent does not hear of it, and as likely to the other one; that one has heard
/// the acknowledgement.
#[test]
fn two_aggregators_apply_each_record_once_when_acknowledgements_are_lost() {
    let setup = Setup { is_shared: true, window_ms: 5_000, loses: Some(Loss::Answers), ..Setup::new("5") };
    let stage = Stage::set(setup);
    stage.send(5);
    eventually("answers lost", 120, || (stage.lost() >= 4).then_some(()));
    applied_by_one_of_two(&stage, 3);
    stage.stop();
}

/// The other one goes on where the dead one stopped: what that one committed and answered is not applied again. Of what it committed in the
/// moment of its death and could not answer any more nobody knows: that is the limit, a record in each lane here.
#[test]
fn an_aggregator_that_dies_leaves_its_agents_to_the_other_one() {
    let setup = Setup { is_shared: true, window_ms: 5_000, ..Setup::new("5") };
    let mut stage = Stage::set(setup);
    stage.send(5);
    applied_by_one_of_two(&stage, 3);
    let companion = |stage: &Stage| stage.companion("core_summaries_total");
    let (made, applied) = (stage.made(), companion(&stage).unwrap());
    stage.kill_aggregator();
    eventually("what was made since, applied by the other one", 180, || {
        let (made_before, applied_since) = (stage.made() - made, companion(&stage)? - applied);
        let made_since = stage.made() - made;
        assert!(applied_since <= made_since, "{applied_since} records applied of {made_since} made since");
        let settled = made_since >= 4 && made_since == made_before && stage.spooled() == 0;
        (settled && applied_since.abs_diff(made_since) <= 2).then_some(())
    });
    assert_eq!(stage.agent("vedette_agent_records_dropped_total"), Some(0));
    stage.stop();
}

/// Waits until at least `least` records were made and all of them are delivered, each applied by one of two aggregators.
fn applied_by_one_of_two(stage: &Stage, least: u64) {
    eventually("each record applied by one of the two", 180, || {
        let (made, spooled) = (stage.made(), stage.spooled());
        let companion = stage.companion("core_summaries_total")?;
        let applied = stage.applied() + companion;
        assert!(applied <= stage.made(), "{applied} records applied of {} made", stage.made());
        (made >= least && spooled == 0 && applied == made && made == stage.made()).then_some(())
    });
}

/// The preferred way is cut at first; once it stands, the agent goes over to it, and what it had sent over the other is applied once.
#[test]
fn an_agent_falls_back_to_the_broker_and_returns_to_quic_without_a_loss() {
    let kind = "[\"quic\", \"mqtt\"]";
    let stage = Stage::set(Setup { kind, ..Setup::new("5") });
    stage.send(20);
    drained(&stage, 2);
    let received = |transport: &str| {
        let name =
            format!("vedette_agent_wire_bytes_total{{transport=\"{transport}\",direction=\"received\"");
        stage.agent(&name).unwrap_or_default()
    };
    assert!(received("mqtt") > 0 && received("quic") == 0, "it went through the broker");
    stage.relay().set_open(true);
    eventually("the connection over QUIC", 60, || {
        stage.send(1);
        stage.aggregator("frames_total{kind=\"birth\"}").filter(|_| received("quic") > 0)
    });
    let before = stage.made();
    drained(&stage, before + 2);
    let mqtt = received("mqtt");
    let before = stage.made();
    drained(&stage, before + 2);
    assert_eq!(received("mqtt"), mqtt, "the broker is out of it");

    // The agent's address changes in the middle: the connection goes on.
    let reconnects = stage.agent("vedette_agent_link_reconnects_total");
    stage.relay().change_address();
    let before = stage.made();
    drained(&stage, before + 2);
    assert_eq!(stage.agent("vedette_agent_link_reconnects_total"), reconnects);

    // The path carries less than it did: what was sent in datagrams that were lost comes again in shorter ones.
    eventually("datagrams as long as the path carries", 60, || {
        stage.send(90);
        (stage.relay().bytes_seen() >= 1_400).then_some(())
    });
    stage.relay().set_bytes_max(1_250);
    let before = stage.made();
    drained(&stage, before + 4);
    assert_eq!(stage.agent("vedette_agent_link_reconnects_total"), reconnects);

    stage.relay().set_open(false);
    let before = stage.made();
    drained(&stage, before + 2);
    assert!(received("mqtt") > mqtt, "it fell back to the broker");
    assert_eq!(stage.agent("vedette_agent_records_dropped_total"), Some(0));
    assert_eq!(stage.aggregator("core_left_out_total{reason=\"missing\"}"), Some(0));
    stage.stop();
}

#[test]
fn an_aggregator_that_was_killed_finds_its_agents_again() {
    let mut stage = Stage::set(Setup::new("5"));
    stage.send(20);
    drained(&stage, 2);
    stage.kill_aggregator();
    let delivered = stage.agent("vedette_agent_records_delivered_total").unwrap();
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
        let since = stage.agent("vedette_agent_records_delivered_total")? - delivered;
        let applied = stage.aggregator("core_summaries_total")?;
        (applied.abs_diff(since) <= 2).then_some(())
    });
    stage.stop();
}

#[test]
fn certificates_of_the_aggregator_open_the_broker_when_quic_fails() {
    let brokers = [(Broker::Mosquitto, "5"), (Broker::Mosquitto, "3.1.1"), (Broker::Nats, "3.1.1")];
    for (broker, version) in brokers {
        let stage = Stage::set_with_tls_at(broker, version);
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
    let mut stage = Stage::set(Setup::new("5"));
    stage.send(20);
    drained(&stage, 2);
    for kill in 1..=kills {
        live(&stage, random.index(3) as u64);
        match random.index(4) {
            0 => {
                // What the next process drops is asked below; of this one, as late as can be.
                assert_eq!(stage.agent("vedette_agent_records_dropped_total"), Some(0), "{kill} of {seed}");
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
        assert_eq!(stage.agent("vedette_agent_records_dropped_total"), Some(0), "kill {kill} of seed {seed}");
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
        let applied = stage.applied();
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
        let (spooled, applied) = (stage.spooled(), stage.applied());
        assert!(applied <= stage.made(), "{applied} records applied of {} made", stage.made());
        // Windows close all the time: the counts agree when none closed in between.
        (made >= least && spooled == 0 && applied == made && made == stage.made()).then_some(())
    });
}
