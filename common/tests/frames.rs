//! Frames from a hostile world: whatever the bytes are, there is a typed error or the very message; and the
//! sizes that the interface promises.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod samples;

use proptest::prelude::*;
use vedette_common::limits::{DEVIATIONS_MAX, FRAME_BYTES_MAX};
use vedette_common::wire::{
    Acknowledge, Birth, Calendar, CellName, Course, Deviation, Direction, Enroll, Enrolled, F24,
    FRAME_HEADER_BYTES, Fraction, Frame, Heartbeat, Kind, Message, Phase, Refuse, Renew, RollUp, Scorer,
    Shape, Summary, WireError, decode, encode,
};
use vedette_common::{DropReason, Lane, WallMs};

fn framed<M: Message>(message: &M) -> Vec<u8> {
    let mut buffer = vec![0; FRAME_BYTES_MAX];
    let length = encode(message, &mut buffer).unwrap();
    buffer.truncate(length);
    buffer
}

/// Decodes a checked frame as what its kind says; whether it was a message.
fn decodes(frame: &Frame<'_>) -> bool {
    match frame.kind {
        Kind::Birth => decode::<Birth>(frame).is_ok(),
        Kind::Summary => decode::<Summary>(frame).is_ok(),
        Kind::Heartbeat => decode::<Heartbeat>(frame).is_ok(),
        Kind::Acknowledge => decode::<Acknowledge>(frame).is_ok(),
        Kind::Refuse => decode::<Refuse>(frame).is_ok(),
        Kind::Calendar => decode::<Calendar>(frame).is_ok(),
        Kind::Enroll => decode::<Enroll>(frame).is_ok(),
        Kind::Enrolled => decode::<Enrolled>(frame).is_ok(),
        Kind::Renew => decode::<Renew>(frame).is_ok(),
    }
}

/// The same payload under a header that is right again.
fn resealed(payload: &[u8], kind: Kind) -> Vec<u8> {
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);
    let mut frame = vec![b'V', b'd', 1, kind as u8];
    frame.extend(u32::try_from(payload.len()).unwrap().to_le_bytes());
    let mut digest = crc.digest();
    digest.update(&frame);
    digest.update(payload);
    frame.extend(digest.finalize().to_le_bytes());
    frame.extend(payload);
    frame
}

#[test]
fn every_cut_asks_for_more() {
    let bytes = framed(&samples::summary());
    for length in 0..bytes.len() {
        let error = Frame::parse(&bytes[..length]).unwrap_err();
        assert!(error.wants_more(), "{length}: {error}");
        assert_eq!(error.drop_reason(), DropReason::FrameTruncated);
    }
    assert!(Frame::parse(&bytes).is_ok());
}

#[test]
fn every_flipped_bit_is_noticed() {
    let bytes = framed(&samples::heartbeat());
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Frame::parse(&flipped).is_err(), "bit {bit} flipped and nobody noticed");
    }
}

#[test]
fn each_fault_has_its_own_error() {
    let good = framed(&samples::acknowledge());
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        Frame::parse(&bytes).map(|_| ()).unwrap_err()
    };
    assert_eq!(with(0, b'X'), WireError::BadMagic(*b"Xd"));
    assert_eq!(with(2, 9), WireError::UnknownVersion(9));
    assert_eq!(with(3, 0), WireError::UnknownKind(0));
    assert_eq!(with(3, 10), WireError::UnknownKind(10));
    assert!(matches!(with(7, 0xff), WireError::TooLong(_)));
    assert!(matches!(with(8, good[8] ^ 1), WireError::BadChecksum { .. }));

    let (frame, _) = Frame::parse(&good).unwrap();
    let wrong = decode::<Birth>(&frame).unwrap_err();
    assert_eq!(wrong, WireError::WrongKind { expected: Kind::Birth, found: Kind::Acknowledge });
    let mut payload = frame.payload.to_vec();
    payload.push(0);
    let trailing = resealed(&payload, Kind::Acknowledge);
    let error = decode::<Acknowledge>(&Frame::parse(&trailing).unwrap().0).unwrap_err();
    assert_eq!(error, WireError::TrailingBytes { kind: Kind::Acknowledge, left: 1 });
    let short = resealed(&payload[..3], Kind::Acknowledge);
    let error = decode::<Acknowledge>(&Frame::parse(&short).unwrap().0).unwrap_err();
    assert_eq!(error, WireError::BadPayload(Kind::Acknowledge));
    assert_eq!(encode(&samples::summary(), &mut [0; 40]), Err(WireError::BufferTooSmall(40)));
    assert_eq!(encode(&samples::summary(), &mut []), Err(WireError::BufferTooSmall(0)));
}

#[test]
fn indices_that_point_nowhere_do_not_decode() {
    let spoil: [fn(&mut Summary); 6] = [
        |s| s.cells[0].stack = 6,
        |s| s.roll_ups[0].cell = 1,
        |s| s.roll_ups[0].metric = 6,
        |s| s.deviations[0].cell = 1,
        |s| s.deviations[0].tags = 6,
        |s| s.window_ms = 0,
    ];
    for (index, spoil) in spoil.into_iter().enumerate() {
        let mut summary = samples::summary();
        spoil(&mut summary);
        let bytes = framed(&summary);
        let error = decode::<Summary>(&Frame::parse(&bytes).unwrap().0).unwrap_err();
        assert_eq!(error, WireError::BadPayload(Kind::Summary), "case {index}");
    }
}

#[test]
fn a_hundred_deviations_take_at_most_24_bytes_each() {
    let mut summary =
        Summary::new(samples::key(Lane::Deviations, 1_000_000), WallMs(1_772_000_000_000), 300_000);
    let mut names = vec![];
    for name in
        ["uk", "tv-lg", "tv-samsung", "phone", "stick", "playback", "browse", "search", "activity", "errors"]
    {
        names.push(summary.strings.intern(name).unwrap());
    }
    for device in 1..5 {
        for stack in 5..8 {
            summary.cells.push(CellName { region: 0, device, stack }).unwrap();
        }
    }
    for index in 0..DEVIATIONS_MAX {
        let tags = summary.strings.intern(&format!("host=h{}", index % 12)).unwrap();
        let deviation = Deviation {
            cell: u8::try_from(index % 12).unwrap(),
            metric: 8,
            tags,
            course: Course {
                phase: Phase::Ongoing,
                direction: Direction::Down,
                in_event: false,
                scorer: Scorer::Value,
            },
            onset_s_ago: 1_800,
            observed: F24::from_f32(310.25),
            expected: F24::from_f32(821.75),
            score: Fraction(252),
            forecast: Fraction(251),
            derivative: Fraction(3),
            distribution: Fraction(240),
            shape: Shape::from_samples(&[0.0, 0.0, 0.0, -0.4, -1.0, -1.0, -0.9, -1.0]),
        };
        summary.deviations.push(deviation).unwrap();
    }
    let bytes = framed(&summary).len();
    println!("{bytes} bytes for {DEVIATIONS_MAX} deviations");
    assert!(bytes <= 24 * DEVIATIONS_MAX, "{bytes} bytes");
}

#[test]
fn a_quiet_roll_up_takes_at_most_12_bytes_and_its_names_stand_once() {
    let mut summary = Summary::new(samples::key(Lane::RollUps, 1_000_000), WallMs(1_772_000_000_000), 10_000);
    let mut intern = |name: &str| summary.strings.intern(name).unwrap();
    let (region, traffic, errors) = (intern("uk"), intern("activity"), intern("errors"));
    let devices: Vec<u8> = (0..12).map(|index| intern(&format!("tv-model-{index}"))).collect();
    let stacks = ["playback", "browse", "search", "accounts", "payments"].map(intern);
    for device in devices {
        for stack in stacks {
            let cell = u8::try_from(summary.cells.len()).unwrap();
            summary.cells.push(CellName { region, device, stack }).unwrap();
            for metric in [traffic, errors] {
                let (observed, expected) = (F24::from_f32(818.0), F24::from_f32(821.75));
                summary.roll_ups.push(RollUp { cell, metric, observed, expected, count: 1 }).unwrap();
            }
        }
    }
    let (bytes, roll_ups) = (framed(&summary).len(), summary.roll_ups.len());
    let names = summary.strings.text_bytes() + summary.strings.len();
    println!("{bytes} bytes for {roll_ups} roll-ups of {} cells, {names} of them names", summary.cells.len());
    assert!(bytes - names <= 12 * roll_ups, "{bytes} bytes, {names} of them names");
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok((frame, used)) = Frame::parse(&bytes) {
            prop_assert!(used <= bytes.len());
            decodes(&frame);
        }
    }

    #[test]
    fn random_payloads_under_a_good_header_never_panic(
        payload in prop::collection::vec(any::<u8>(), 0..400), kind in 0..Kind::ALL.len()
    ) {
        let bytes = resealed(&payload, Kind::ALL[kind]);
        let (frame, used) = Frame::parse(&bytes).unwrap();
        prop_assert_eq!(used, bytes.len());
        decodes(&frame);
    }

    #[test]
    fn a_spoiled_summary_decodes_consistently_or_not_at_all(at in 0usize..200, byte: u8) {
        let bytes = framed(&samples::summary());
        let mut payload = bytes[FRAME_HEADER_BYTES..].to_vec();
        let at = at % payload.len();
        payload[at] = byte;
        let bytes = resealed(&payload, Kind::Summary);
        if let Ok(summary) = decode::<Summary>(&Frame::parse(&bytes).unwrap().0) {
            prop_assert!(summary.is_consistent());
            prop_assert!(summary.roll_ups.iter().all(|r| r.observed.to_f32().is_finite()));
        }
    }

    #[test]
    fn heartbeats_come_back_as_they_were(series: u32, observed: u64, delivered: u64, boot: u64, at: i64) {
        let mut sent = samples::heartbeat();
        (sent.series, sent.observed, sent.delivered) = (series, observed, delivered);
        (sent.boot, sent.at) = (vedette_common::BootId(boot), WallMs(at));
        let bytes = framed(&sent);
        prop_assert_eq!(decode::<Heartbeat>(&Frame::parse(&bytes).unwrap().0).unwrap(), sent);
    }
}
