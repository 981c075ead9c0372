//! The link against a real spool in memory: order, going back, refusals, attempts.
use core::convert::Infallible;
use std::vec::Vec;

use vedette_common::drops::DropUnit;
use vedette_common::limits::IN_FLIGHT_MAX;
use vedette_common::{AgentId, BootId, DropReason, WallMs};

use super::*;
use crate::spool::{MemoryStorage, Segment, SpoolMemory, SpoolSettings, SyncPolicy};

const SETTINGS: SpoolSettings = SpoolSettings {
    bytes_max: 1 << 16,
    segment_bytes: 1 << 13,
    deviations_bytes_max: 1 << 15,
    frame_bytes_max: 64,
    sync: SyncPolicy::EachWindow,
};

fn at(ms: u64) -> Now {
    Now { mono: MonoMs(ms), wall: WallMs(ms as i64) }
}

fn birth() -> Birth {
    Birth {
        agent: AgentId::parse("edge-1").unwrap(),
        boot: BootId(1),
        version: heapless::String::new(),
        started_at: WallMs(0),
        window_ms: 1_000,
        regions: heapless::Vec::new(),
        series_max: 1,
    }
}

fn with_link(body: impl FnOnce(&mut Link, &mut Spool<'_, MemoryStorage<'_>>)) {
    let (mut bytes, mut lengths) = ([0; 1 << 16], [None; 8]);
    let (mut segments, mut buffer) = ([Segment::default(); 8], [0; SETTINGS.buffer_bytes()]);
    let memory = SpoolMemory { segments: &mut segments, buffer: &mut buffer };
    let storage = MemoryStorage::new(&mut bytes, &mut lengths);
    let mut spool = Spool::open(storage, SETTINGS, memory, BootId(1)).unwrap();
    body(&mut Link::new(LinkSettings::default(), birth(), 1), &mut spool);
}

fn append(spool: &mut Spool<'_, MemoryStorage<'_>>, lane: Lane) -> RecordKey {
    let write = |key, buffer: &mut [u8]| Ok::<_, Infallible>(encode(&Acknowledge { key }, buffer).unwrap());
    spool.append(lane, write).unwrap()
}

fn answer<M: Message>(link: &mut Link, spool: &mut Spool<'_, MemoryStorage<'_>>, ms: u64, message: &M) {
    let mut buffer = [0; 256];
    let length = encode(message, &mut buffer).unwrap();
    let (frame, _) = Frame::parse(&buffer[..length]).unwrap();
    link.handle_frame(at(ms), &frame, spool).unwrap();
}

/// Everything the link sends at `ms`: the kind, and the key where a record stands for itself.
fn drain(
    link: &mut Link,
    spool: &mut Spool<'_, MemoryStorage<'_>>,
    ms: u64,
) -> Vec<(Kind, Option<RecordKey>)> {
    let mut sent = Vec::new();
    let mut buffer = [0; FRAME_BYTES_MAX];
    while let Some(output) = link.poll_output(at(ms), spool, &mut buffer) {
        match output {
            LinkOutput::Connect => link.handle_connected(at(ms)),
            LinkOutput::Close => break,
            LinkOutput::Send(length) => {
                let (frame, _) = Frame::parse(&buffer[..length]).unwrap();
                let key = decode::<Acknowledge>(&frame).ok().map(|acknowledge| acknowledge.key);
                sent.push((frame.kind, key));
            }
        }
    }
    sent
}

#[test]
fn birth_and_horizons_come_first_and_a_backlog_never_holds_up_a_deviation() {
    with_link(|link, spool| {
        for _ in 0..IN_FLIGHT_MAX + 5 {
            append(spool, Lane::RollUps);
        }
        let sent = drain(link, spool, 0);
        assert_eq!((sent[0].0, sent[1].0), (Kind::Birth, Kind::Heartbeat));
        assert_eq!(sent.len(), 2 + IN_FLIGHT_MAX);
        let deviation = append(spool, Lane::Deviations);
        let sent = drain(link, spool, 1);
        assert_eq!(sent, [(Kind::Heartbeat, None), (Kind::Acknowledge, Some(deviation))]);
    });
}

#[test]
fn silence_makes_it_go_back_and_in_the_end_close() {
    with_link(|link, spool| {
        let key = append(spool, Lane::RollUps);
        drain(link, spool, 0);
        let again = drain(link, spool, 5_000);
        assert_eq!(again, [(Kind::Heartbeat, None), (Kind::Acknowledge, Some(key))]);
        assert_eq!((link.counts().resent, link.counts().timeouts), (1, 1));
        for ms in [15_000, 35_000, 75_000] {
            drain(link, spool, ms);
        }
        assert!(!link.is_connected());
        assert_eq!(spool.records(Lane::RollUps), 1);
    });
}

/// Two aggregators behind one broker may get a record each time it is sent: the one that was sent a moment before the time-out of
/// another is not repeated while its first receiver may be about to commit it.
#[test]
fn a_time_out_repeats_the_oldest_record_and_none_that_was_just_sent() {
    with_link(|link, spool| {
        let first = append(spool, Lane::RollUps);
        drain(link, spool, 0);
        let second = append(spool, Lane::RollUps);
        assert_eq!(records(&drain(link, spool, 4_900)), [second]);
        assert_eq!(records(&drain(link, spool, 5_000)), [first], "its time is up");
        answer(link, spool, 5_010, &Acknowledge { key: first });
        assert_eq!(records(&drain(link, spool, 5_010)), []);
        let third = append(spool, Lane::RollUps);
        assert_eq!(records(&drain(link, spool, 5_020)), [], "nothing overtakes");
        assert_eq!(link.poll_deadline(), Some(MonoMs(9_900)));
        assert_eq!(records(&drain(link, spool, 9_900)), [second, third], "its time is up as well");
        answer(link, spool, 9_910, &Acknowledge { key: third });
        assert_eq!(spool.records(Lane::RollUps), 0);
    });
}

#[test]
fn refusals_rest_drop_or_dismiss() {
    with_link(|link, spool| {
        let key = append(spool, Lane::RollUps);
        drain(link, spool, 0);
        let refuse = |reason, key, retry_after_ms| Refuse { reason, key, retry_after_ms };
        answer(link, spool, 1, &refuse(RefuseReason::Overloaded, Some(key), 2_000));
        let rests_until = link.poll_deadline().unwrap();
        assert!((2_001..=2_501).contains(&rests_until.0), "{rests_until:?}");
        assert_eq!(drain(link, spool, rests_until.0 - 1), []);
        assert_eq!(drain(link, spool, rests_until.0).last(), Some(&(Kind::Acknowledge, Some(key))));
        answer(link, spool, 2_600, &refuse(RefuseReason::Malformed, Some(key), 0));
        answer(link, spool, 2_600, &Acknowledge { key });
        assert_eq!(spool.counts().dropped.get(DropReason::Refused), 1);
        assert_eq!((spool.counts().acknowledged, spool.records(Lane::RollUps)), (0, 0));
        answer(link, spool, 2_700, &refuse(RefuseReason::WrongIdentity, None, 0));
        drain(link, spool, 2_700);
        assert_eq!(link.poll_deadline(), Some(MonoMs(62_700)));
    });
}

/// The records among what was sent.
fn records(sent: &[(Kind, Option<RecordKey>)]) -> Vec<RecordKey> {
    sent.iter().filter_map(|(_, key)| *key).collect()
}

#[test]
fn overload_of_one_lane_slows_it_down_and_leaves_the_other_alone() {
    with_link(|link, spool| {
        let keys: Vec<RecordKey> = (0..200).map(|_| append(spool, Lane::RollUps)).collect();
        assert_eq!(records(&drain(link, spool, 0)).len(), IN_FLIGHT_MAX);
        let refuse = Refuse { reason: RefuseReason::Overloaded, key: Some(keys[3]), retry_after_ms: 1_000 };
        answer(link, spool, 1, &refuse);
        answer(link, spool, 2, &Acknowledge { key: keys[2] });
        let deviation = append(spool, Lane::Deviations);
        assert_eq!(records(&drain(link, spool, 3)), [deviation], "the other lane goes on");
        let sent = records(&drain(link, spool, 2_000));
        assert_eq!(sent, keys[3..3 + IN_FLIGHT_MAX / 2], "half as many, from the refused one on");
        answer(link, spool, 2_001, &Refuse { key: Some(keys[3]), ..refuse });
        answer(link, spool, 2_002, &Refuse { key: Some(keys[3]), ..refuse });
        assert_eq!(records(&drain(link, spool, 4_000)).len(), IN_FLIGHT_MAX / 4);
        answer(link, spool, 4_001, &Acknowledge { key: keys[3 + IN_FLIGHT_MAX / 4 - 1] });
        assert_eq!(
            records(&drain(link, spool, 4_002)).len(),
            IN_FLIGHT_MAX / 2,
            "grows by what is acknowledged"
        );
        assert_eq!(spool.counts().dropped.total(DropUnit::Record), 0);
    });
}

#[test]
fn an_aggregator_without_room_for_the_agent_is_left_alone_for_as_long_as_it_says() {
    with_link(|link, spool| {
        append(spool, Lane::RollUps);
        drain(link, spool, 0);
        let refuse = Refuse { reason: RefuseReason::Overloaded, key: None, retry_after_ms: 30_000 };
        answer(link, spool, 1, &refuse);
        link.handle_disconnected(at(2));
        let attempt_at = link.poll_deadline().unwrap();
        assert!((30_001..=37_501).contains(&attempt_at.0), "{attempt_at:?}");
        assert_eq!(spool.records(Lane::RollUps), 1);
    });
}

#[test]
fn attempts_spread_and_slow_down_to_a_limit() {
    with_link(|link, spool| {
        let (mut now, mut buffer) = (0, [0; FRAME_BYTES_MAX]);
        for attempt in 0..12 {
            assert_eq!(link.poll_output(at(now), spool, &mut buffer), Some(LinkOutput::Connect));
            link.handle_disconnected(at(now));
            let full = (1_000 << attempt).min(60_000);
            let waits = link.poll_deadline().unwrap().0 - now;
            assert!((full / 2..=full).contains(&waits), "attempt {attempt} waits {waits} ms");
            now += waits;
        }
        assert_eq!(link.counts().reconnects, 11);
    });
}

#[test]
fn the_longest_heartbeat_and_birth_fit_a_frame() {
    with_link(|link, spool| {
        let mut longest = birth();
        while longest.regions.push("r".repeat(64).as_str().try_into().unwrap()).is_ok() {}
        link.set_birth(longest);
        let mut dropped = DropCounts::new();
        DropReason::ALL.into_iter().for_each(|reason| dropped.add(reason, u64::MAX));
        link.set_vitals(Vitals { series: u32::MAX, observed: u64::MAX, dropped });
        assert_eq!(drain(link, spool, 0), [(Kind::Birth, None), (Kind::Heartbeat, None)]);
    });
}
