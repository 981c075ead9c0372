//! Admission under more load than it can take: fairness, urgency, bounds, and the account of everything that was offered.

use std::sync::Arc;

use tokio::sync::mpsc;
use vedette_aggregator_core::AllowedRegions;
use vedette_common::wire::{F24, Heartbeat, RollUp, Summary};
use vedette_common::{BootId, Sequence, WallMs};

use super::*;
use crate::listen::Replies;

fn agent(name: &str) -> AgentId {
    AgentId::parse(name).unwrap()
}

fn key(lane: Lane, sequence: u64) -> RecordKey {
    RecordKey { boot: BootId(1), lane, sequence: Sequence(sequence) }
}

fn received(name: &str, connection: u64, message: AgentMessage) -> Input {
    let (regions, message) = (Arc::new(AllowedRegions::All), Box::new(message));
    Input::Received { agent: agent(name), connection, regions, message }
}

fn record(name: &str, lane: Lane, sequence: u64) -> Input {
    received(name, 1, AgentMessage::Summary(Summary::new(key(lane, sequence), WallMs(0), 1_000)))
}

fn heartbeat(name: &str) -> Input {
    received(name, 1, AgentMessage::Heartbeat(Heartbeat::default()))
}

fn opened(name: &str, connection: u64) -> Input {
    Input::Opened { agent: agent(name), connection, replies: Replies::new(mpsc::channel(1).0) }
}

fn offer(admission: &mut Admission, input: Input) -> Offer {
    admission.offer(0, input, 0.0)
}

/// An admission with these agents connected, their openings taken.
fn admission(names: &[&str]) -> Admission {
    let mut admission = Admission::default();
    for name in names {
        assert_eq!(offer(&mut admission, opened(name, 1)), Offer::Taken);
        assert!(matches!(admission.take(0), Some(Input::Opened { .. })));
    }
    admission
}

/// Who is next, and in which lane; none for anything but a record.
fn next(admission: &mut Admission) -> Option<(String, Lane, u64)> {
    match admission.take(0)? {
        Input::Received { agent, message, .. } => match *message {
            AgentMessage::Summary(summary) => {
                Some((agent.to_string(), summary.key.lane, summary.key.sequence.0))
            }
            _ => None,
        },
        _ => None,
    }
}

#[test]
fn a_greedy_agent_leaves_room_for_a_quiet_one_which_is_served_in_its_turn() {
    for lane in Lane::ALL {
        let mut admission = admission(&["greedy", "quiet"]);
        let taken = (1..10_000)
            .take_while(|sequence| offer(&mut admission, record("greedy", lane, *sequence)) == Offer::Taken)
            .count();
        assert_eq!(taken, ADMITTED_MAX[lane.index()] / 2, "one alone gets half of the room");
        assert_eq!(offer(&mut admission, record("quiet", lane, 1)), Offer::Taken);
        let before = (0..).take_while(|_| next(&mut admission).unwrap().0 != "quiet").count();
        assert!(before <= QUANTUM / RECORD_COST, "{before} records of the greedy one went first");
    }
}

#[test]
fn turns_are_shared_by_cost_and_not_by_count() {
    let mut admission = admission(&["long", "short"]);
    for sequence in 1..=64 {
        let mut summary = Summary::new(key(Lane::RollUps, sequence), WallMs(0), 1_000);
        let one = F24::from_f32(1.0);
        let roll_up = RollUp { cell: 0, metric: 0, observed: one, expected: one, count: 1 };
        while summary.roll_ups.push(roll_up).is_ok() {}
        offer(&mut admission, received("long", 1, AgentMessage::Summary(summary)));
        offer(&mut admission, record("short", Lane::RollUps, sequence));
    }
    let first: Vec<String> = (0..64).map(|_| next(&mut admission).unwrap().0).collect();
    let long = first.iter().filter(|name| *name == "long").count();
    assert!((1..=4).contains(&long), "{long} long records among the first 64");
}

#[test]
fn deviations_come_in_and_go_first_while_roll_ups_are_refused_but_roll_ups_are_not_forgotten() {
    let mut admission = admission(&["edge"]);
    let mut sequence = 1;
    while offer(&mut admission, record("edge", Lane::RollUps, sequence)) == Offer::Taken {
        sequence += 1;
    }
    for sequence in 1..=40 {
        assert_eq!(offer(&mut admission, record("edge", Lane::Deviations, sequence)), Offer::Taken);
    }
    let lanes: Vec<Lane> = (0..40).map(|_| next(&mut admission).unwrap().1).collect();
    assert_eq!(lanes[0], Lane::Deviations);
    let deviations = lanes.iter().filter(|lane| **lane == Lane::Deviations).count();
    assert_eq!(deviations, 35, "seven of eight");
}

#[test]
fn a_refused_record_comes_first_again_and_a_heartbeat_clears_the_way() {
    let mut admission = admission(&["edge"]);
    let mut refused = 0;
    let refuse = loop {
        refused += 1;
        if let Offer::Refused(refuse, name) = offer(&mut admission, record("edge", Lane::RollUps, refused)) {
            assert_eq!(name, "overloaded_roll_ups");
            break refuse;
        }
    };
    assert_eq!((refuse.reason, refuse.key), (RefuseReason::Overloaded, Some(key(Lane::RollUps, refused))));
    assert!(refuse.retry_after_ms >= RETRY_AFTER_MS_MIN);
    while admission.take(0).is_some() {}
    assert_eq!(offer(&mut admission, record("edge", Lane::RollUps, refused + 1)), Offer::Behind);
    assert_eq!(offer(&mut admission, record("edge", Lane::RollUps, refused)), Offer::Taken);
    assert_eq!(offer(&mut admission, record("edge", Lane::RollUps, refused + 1)), Offer::Taken);
    admission.set_refused(&agent("edge"), Lane::RollUps, Some(key(Lane::RollUps, refused + 2)));
    assert_eq!(offer(&mut admission, heartbeat("edge")), Offer::Taken);
    assert_eq!(offer(&mut admission, record("edge", Lane::RollUps, refused + 9)), Offer::Taken);
    assert_eq!(admission.refused, 0);
}

#[test]
fn heartbeats_of_one_agent_wait_as_one_and_hold_up_nobody() {
    let mut admission = admission(&["edge", "chatty"]);
    offer(&mut admission, record("edge", Lane::RollUps, 1));
    for _ in 0..100 {
        offer(&mut admission, heartbeat("chatty"));
    }
    assert_eq!(admission.len(), 2);
    let notices = (0..).take_while(|_| {
        let record = next(&mut admission).is_none();
        offer(&mut admission, heartbeat("chatty"));
        record
    });
    assert_eq!(notices.count(), PASSED_OVER_MAX as usize);
}

#[test]
fn no_record_overtakes_the_opening_of_its_connection() {
    let names: Vec<String> = (0..100).map(|index| format!("edge-{index}")).collect();
    let mut admission = Admission::default();
    for name in &names {
        offer(&mut admission, opened(name, 1));
        offer(&mut admission, record(name, Lane::RollUps, 1));
    }
    let mut known = Vec::new();
    while let Some(input) = admission.take(0) {
        match input {
            Input::Opened { agent, .. } => known.push(agent),
            Input::Received { agent, .. } => assert!(known.contains(&agent), "{agent} is not known yet"),
            Input::Closed { .. } | Input::Elsewhere { .. } => panic!("nobody left"),
        }
    }
    assert_eq!(known.len(), names.len());
}

#[test]
fn an_agent_that_connects_again_and_again_waits_once() {
    let mut admission = Admission::default();
    for connection in 1..=3 {
        assert_eq!(admission.offer(0, opened("edge", connection), 0.5), Offer::Taken);
        assert_eq!(admission.len(), 1);
    }
    assert!(matches!(admission.take(0), Some(Input::Opened { connection: 3, .. })));
    assert!(admission.is_empty() && admission.take(0).is_none());
}

#[test]
fn what_was_acknowledged_elsewhere_waits_once_for_each_lane_also_of_who_is_not_connected() {
    let mut admission = Admission::default();
    for sequence in 1..=5 {
        for lane in Lane::ALL {
            let key = RecordKey { boot: BootId(1), lane, sequence: Sequence(sequence) };
            let offered = admission.offer(0, Input::Elsewhere { agent: agent("edge"), key }, 0.5);
            assert_eq!((offered, admission.len()), (Offer::Taken, 1));
        }
    }
    let taken: Vec<Input> = std::iter::from_fn(|| admission.take(0)).collect();
    assert!(matches!(&taken[..], [Input::Elsewhere { key: a, .. }, Input::Elsewhere { key: b, .. }]
        if (a.lane, b.lane) == (Lane::Deviations, Lane::RollUps) && a.sequence.0.min(b.sequence.0) == 5));
}

#[test]
fn what_a_connection_left_behind_is_forgotten_and_its_words_no_longer_heard() {
    let mut admission = admission(&["edge"]);
    offer(&mut admission, record("edge", Lane::RollUps, 1));
    offer(&mut admission, heartbeat("edge"));
    assert_eq!(offer(&mut admission, opened("edge", 2)), Offer::Taken);
    assert_eq!(admission.take_forgotten(), 1);
    assert_eq!(offer(&mut admission, record("edge", Lane::RollUps, 2)), Offer::Over);
    let closed = |connection| Input::Closed { agent: agent("edge"), connection };
    assert_eq!(offer(&mut admission, closed(1)), Offer::Over, "the former connection ends late");
    assert_eq!(offer(&mut admission, closed(2)), Offer::Taken);
    assert!(matches!(admission.take(0), Some(Input::Opened { connection: 2, .. })));
    assert!(matches!(admission.take(0), Some(Input::Closed { connection: 2, .. })));
    assert!(admission.take(0).is_none() && admission.places.is_empty());
}

#[test]
fn the_time_to_wait_grows_with_those_who_wait_and_while_the_core_stands_still() {
    let names: Vec<String> = (0..3 * ADMITTED_MAX[1]).map(|index| format!("edge-{index}")).collect();
    let mut admission = admission(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut waits = Vec::new();
    for (at_ms, name) in names.iter().enumerate() {
        let offered = admission.offer(at_ms as u64 / 100, record(name, Lane::RollUps, 1), 0.0);
        if let Offer::Refused(refuse, _) = offered {
            waits.push(refuse.retry_after_ms);
        }
    }
    assert_eq!(waits.len(), 2 * ADMITTED_MAX[1]);
    assert!(waits[0] < 1_000, "a room that drains in half a second: {}", waits[0]);
    assert!(*waits.last().unwrap() >= 2 * waits[0], "{waits:?}");
    let later = admission.offer(600_000, record(&names[2_000 % names.len()], Lane::RollUps, 1), 0.0);
    assert!(
        matches!(later, Offer::Refused(Refuse { retry_after_ms: RETRY_AFTER_MS_MAX, .. }, _)),
        "{later:?}"
    );
}

/// Whatever is offered is taken, refused, forgotten or waits: for many agents, seeds and mixes, within the bounds.
#[test]
fn everything_is_accounted_for_and_nothing_is_reordered() {
    let names: Vec<String> = (0..20).map(|index| format!("edge-{index}")).collect();
    for seed in 1..=50_u64 {
        let mut random = seed;
        let mut draw = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let mut admission = Admission::default();
        let (mut offered, mut refused, mut taken, mut forgotten) = (0, 0, 0, 0);
        let mut connections = vec![0; names.len()];
        let mut seen: BTreeMap<(String, Lane), u64> = BTreeMap::new();
        let mut known: BTreeMap<String, u64> = BTreeMap::new();
        for step in 1..4_000_u64 {
            let who = draw(names.len() as u64) as usize;
            match draw(40) {
                0 => {
                    connections[who] = step;
                    offer(&mut admission, opened(&names[who], step));
                    seen.retain(|(name, _), _| *name != names[who]);
                }
                1 => {
                    let (agent, connection) = (agent(&names[who]), connections[who]);
                    offer(&mut admission, Input::Closed { agent, connection });
                }
                2 => drop(offer(&mut admission, heartbeat(&names[who]))),
                3..20 => match admission.take(0) {
                    Some(Input::Opened { agent, connection, .. }) => {
                        known.insert(agent.to_string(), connection);
                    }
                    Some(Input::Received { agent, connection, message, .. }) => {
                        let name = agent.to_string();
                        assert_eq!(
                            known.get(&name),
                            Some(&connection),
                            "seed {seed}: heard before its opening"
                        );
                        if let AgentMessage::Summary(summary) = *message {
                            taken += 1;
                            let (lane, sequence) = (summary.key.lane, summary.key.sequence.0);
                            let former = seen.insert((name, lane), sequence);
                            assert!(former < Some(sequence), "seed {seed}: {former:?} before {sequence}");
                        }
                    }
                    _ => {}
                },
                _ => {
                    let summary = Summary::new(key(Lane::ALL[draw(2) as usize], step), WallMs(0), 1_000);
                    let input = received(&names[who], connections[who], AgentMessage::Summary(summary));
                    offered += 1;
                    refused += u64::from(offer(&mut admission, input) != Offer::Taken);
                }
            }
            forgotten += admission.take_forgotten();
            for lane in Lane::ALL {
                assert!(admission.records[lane.index()] <= ADMITTED_MAX[lane.index()]);
            }
        }
        let waiting = admission.records.iter().sum::<usize>() as u64;
        assert_eq!(offered, refused + taken + forgotten + waiting, "seed {seed}");
        while admission.take(0).is_some() {}
        assert!(admission.is_empty() && admission.turns.iter().all(VecDeque::is_empty), "seed {seed}");
    }
}
