//! What frames are answered with, and what bad ones end with.

use std::net::UdpSocket;

use vedette_aggregator::identity::Regions;
use vedette_aggregator::metrics::Tally;
use vedette_aggregator::store::NewToken;
use vedette_common::wire::{Enrolled, FRAME_HEADER_BYTES, Heartbeat, RefuseReason};

use crate::agent::{Answer, TestAgent, acknowledged, agent_id, birth, enroll, frame, key, summary};
use crate::{QUIET, Rig, wait_for};

async fn rig_with_agent() -> (Rig, TestAgent) {
    let rig = Rig::start().await;
    let agent = enroll(rig.quic(), &rig.local_token(), "edge-1").await.unwrap();
    (rig, agent)
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_acknowledged_once_they_are_in_the_store() {
    let (rig, agent) = rig_with_agent().await;
    let mut session = agent.session(rig.quic()).await;
    for sequence in 1..=3 {
        session.say(&summary(sequence, "uk")).await;
        assert_eq!(session.answer().await, acknowledged(sequence));
        let parts = rig.service.store().with(|store| store.parts()).await.unwrap().unwrap();
        let stored = parts.iter().find(|(name, _)| name == "session/edge-1").expect("the session is stored");
        assert!(stored.1.contains(&sequence.to_string()), "{}", stored.1);
    }
    session.say(&summary(2, "uk")).await;
    assert_eq!(session.answer().await, acknowledged(3), "a duplicate is acknowledged again");
    session.say(&summary(9, "uk")).await;
    assert_eq!(session.answer().await, acknowledged(3), "a gap is not applied");
    let horizon = Heartbeat { boot: key(9).boot, horizons: [None, Some(key(9))], ..Heartbeat::default() };
    session.say(&horizon).await;
    session.say(&summary(9, "uk")).await;
    assert_eq!(session.answer().await, acknowledged(9), "what will never come is passed over");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_goes_on_when_its_agents_address_changes_and_its_bytes_are_counted() {
    let (rig, agent) = rig_with_agent().await;
    let mut session = agent.session(rig.quic()).await;
    session.say(&summary(1, "uk")).await;
    assert_eq!(session.answer().await, acknowledged(1));
    let metrics = rig.service.metrics();
    let handshakes = metrics.counted(Tally::Handshake, "done");
    for (sequence, address) in [(2, "127.0.0.1:0"), (3, "127.0.0.5:0")] {
        session.endpoint.rebind(UdpSocket::bind(address).unwrap()).unwrap();
        session.say(&summary(sequence, "uk")).await;
        assert_eq!(session.answer().await, acknowledged(sequence));
    }
    assert_eq!(metrics.counted(Tally::Handshake, "done"), handshakes);
    let udp = session.connection.stats();
    session.connection.close(0_u32.into(), b"done");
    wait_for("what the agent sent to be counted", async || {
        metrics.wire_bytes("quic")[1] >= udp.udp_tx.bytes && metrics.wire_bytes("quic")[0] > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_for_other_regions_are_refused_counted_and_consumed() {
    let rig = Rig::start().await;
    let mut token = rig.local_token();
    token.secret = [7; 16];
    let new = NewToken {
        secret_hash: token.secret_hash(),
        regions: Regions::parse(["uk"]).unwrap(),
        replaces: None,
        expires_ms: i64::MAX,
    };
    rig.service.store().with(move |store| store.create_token(&new, 0)).await.unwrap().unwrap();
    let agent = enroll(rig.quic(), &token, "edge-1").await.unwrap();
    let mut session = agent.session(rig.quic()).await;
    session.say(&summary(1, "us")).await;
    let Answer::Refuse(refuse) = session.answer().await else { panic!("a refusal comes first") };
    assert_eq!((refuse.reason, refuse.key), (RefuseReason::RegionForbidden, Some(key(1))));
    assert_eq!(session.answer().await, acknowledged(1));
    session.say(&summary(2, "uk")).await;
    assert_eq!(session.answer().await, acknowledged(2));
    assert_eq!(rig.service.metrics().counted(Tally::Refused, "region_forbidden"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_frames_are_counted_by_reason_and_end_the_connection_with_words() {
    let (rig, agent) = rig_with_agent().await;
    let good = frame(&summary(1, "uk"));
    let altered = |index: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[index] = value;
        bytes
    };
    let enrolled = Enrolled { certificate_der: heapless::Vec::new(), ca_der: heapless::Vec::new() };
    let cases = [
        (altered(0, b'X'), "bad_magic", "not a frame"),
        (altered(2, 99), "unknown_version", "version 99"),
        (altered(3, 99), "unknown_kind", "kind 99"),
        (altered(7, 0x7f), "frame_too_long", "over the limit"),
        (altered(FRAME_HEADER_BYTES + 1, good[FRAME_HEADER_BYTES + 1] ^ 1), "bad_checksum", "checksum"),
        (frame(&enrolled), "unknown_kind", "expected a frame of kind"),
        (with_trailing_bytes(&good), "bad_payload", "left over"),
    ];
    for (bytes, reason, words) in cases {
        let metrics = rig.service.metrics();
        let before = metrics.counted(Tally::BadFrame, reason);
        let mut session = agent.session(rig.quic()).await;
        session.say_bytes(&bytes).await;
        let farewell = session.farewell().await;
        assert!(farewell.contains(words), "{reason}: {farewell}");
        assert_eq!(metrics.counted(Tally::BadFrame, reason), before + 1, "{reason}");
    }
    let mut session = agent.session(rig.quic()).await;
    session.say_bytes(&good).await;
    assert_eq!(session.answer().await, acknowledged(1), "the listener goes on");
}

/// The same frame with four more payload bytes, its length and checksum right.
fn with_trailing_bytes(good: &[u8]) -> Vec<u8> {
    let mut bytes = [good, &[0; 4]].concat();
    let length = u32::try_from(bytes.len() - FRAME_HEADER_BYTES).unwrap();
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    let sum = crc32c(&[&bytes[..8], &bytes[FRAME_HEADER_BYTES..]].concat());
    bytes[8..12].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// CRC-32C bit by bit, independent of the code under test.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut sum = !0_u32;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ 0x82f6_3b78 } else { sum >> 1 };
        }
    }
    !sum
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_inside_a_frame_is_counted_as_truncated() {
    let (rig, agent) = rig_with_agent().await;
    let mut session = agent.session(rig.quic()).await;
    let good = frame(&summary(1, "uk"));
    session.say_bytes(&good[..good.len() - 1]).await;
    session.send.finish().unwrap();
    assert!(session.farewell().await.contains("ends inside a frame"));
    assert_eq!(rig.service.metrics().counted(Tally::BadFrame, "frame_truncated"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_speaks_only_for_itself() {
    let (rig, agent) = rig_with_agent().await;
    let mut session = agent.connect(rig.quic()).await.unwrap();
    session.say(&birth(&agent_id("edge-2"))).await;
    assert!(
        matches!(session.answer().await, Answer::Refuse(refuse) if refuse.reason == RefuseReason::WrongIdentity)
    );
    assert!(session.farewell().await.contains("birth"));
    wait_for("the first end", async || rig.service.metrics().counted(Tally::Closed, "wrong_identity") == 1)
        .await;
    let mut session = agent.connect(rig.quic()).await.unwrap();
    session.say(&summary(1, "uk")).await;
    assert!(
        matches!(session.answer().await, Answer::Refuse(refuse) if refuse.reason == RefuseReason::WrongIdentity)
    );
    wait_for("the second end", async || rig.service.metrics().counted(Tally::Closed, "wrong_identity") == 2)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newer_of_two_connections_speaks_for_an_agent() {
    let (rig, agent) = rig_with_agent().await;
    let older = agent.session(rig.quic()).await;
    let mut newer = agent.session(rig.quic()).await;
    assert!(older.farewell().await.contains("connected again"));
    newer.say(&summary(1, "uk")).await;
    assert_eq!(newer.answer().await, acknowledged(1));
    let metrics = rig.service.metrics();
    wait_for("one connection", async || metrics.connections.get() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_agent_too_many_is_told_when_to_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let config = crate::config(folder.path(), &format!("{QUIET}[limits]\nconnections_max = 1\n"));
    let service = vedette_aggregator::run::Service::start(config).await.unwrap();
    let rig = Rig { service, folder };
    let first = enroll(rig.quic(), &rig.local_token(), "edge-1").await.unwrap();
    let second = enroll(rig.quic(), &rig.local_token(), "edge-2").await.unwrap();
    let _held = first.session(rig.quic()).await;
    let mut session = second.connect(rig.quic()).await.unwrap();
    session.say(&birth(&second.id)).await;
    let Answer::Refuse(refuse) = session.answer().await else { panic!("a refusal") };
    assert_eq!(refuse.reason, RefuseReason::Overloaded);
    assert!(refuse.retry_after_ms > 0);
    assert!(session.farewell().await.contains("too many agents"));
}
