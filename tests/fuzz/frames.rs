//! Fuzzes frames and every message: bytes from a wire give the very message or a typed error.
//!
//! Random bytes hardly ever carry a right crc, so the same bytes are also tried as the payload of each kind under a right
//! header. What decodes must encode again, and to something that decodes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde::de::DeserializeOwned;
use vedette_common::limits::FRAME_BYTES_MAX;
use vedette_common::wire::{
    Acknowledge, Birth, Calendar, Enroll, Enrolled, FRAME_HEADER_BYTES, Frame, Heartbeat, Kind, MAGIC,
    Message, Refuse, Renew, Summary, VERSION, decode, encode,
};

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Ok((frame, taken)) = Frame::parse(rest) {
        decode_any(&frame);
        rest = &rest[taken..];
    }
    if let Some((&kind, payload)) = bytes.split_first() {
        let sealed = seal(1 + kind % 9, payload);
        if let Ok((frame, _)) = Frame::parse(&sealed) {
            decode_any(&frame);
        }
    }
});

/// A frame with a right header around the payload.
fn seal(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = MAGIC.to_vec();
    frame.extend([VERSION, kind]);
    frame.extend((payload.len() as u32).to_le_bytes());
    let crc = !payload.iter().fold(frame.iter().fold(u32::MAX, step), step);
    frame.extend(crc.to_le_bytes());
    assert_eq!(frame.len(), FRAME_HEADER_BYTES);
    frame.extend(payload);
    frame
}

/// One byte of crc32c (Castagnoli), from a table: most of a run would be spent on sums bit by bit.
fn step(crc: u32, byte: &u8) -> u32 {
    CRC_OF_BYTE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8)
}

const CRC_OF_BYTE: [u32; 256] = {
    let (mut table, mut byte) = ([0; 256], 0);
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

fn decode_any(frame: &Frame<'_>) {
    match frame.kind {
        Kind::Birth => again::<Birth>(frame),
        Kind::Summary => again::<Summary>(frame),
        Kind::Heartbeat => again::<Heartbeat>(frame),
        Kind::Acknowledge => again::<Acknowledge>(frame),
        Kind::Refuse => again::<Refuse>(frame),
        Kind::Calendar => again::<Calendar>(frame),
        Kind::Enroll => again::<Enroll>(frame),
        Kind::Enrolled => again::<Enrolled>(frame),
        Kind::Renew => again::<Renew>(frame),
    }
}

fn again<M: Message + DeserializeOwned>(frame: &Frame<'_>) {
    let Ok(message) = decode::<M>(frame) else { return };
    let mut buffer = [0; FRAME_BYTES_MAX];
    let length = encode(&message, &mut buffer).expect("what fitted a frame once fits again");
    let (frame, _) = Frame::parse(&buffer[..length]).expect("a frame of our own is right");
    assert!(decode::<M>(&frame).is_ok(), "a message of our own decodes");
}
