//! Golden bytes: every version of the wire format stays readable for ever, and what is written today is
//! exactly what WIRE.md describes.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod samples;

use serde::de::DeserializeOwned;
use vedette_common::limits::FRAME_BYTES_MAX;
use vedette_common::wire::{Frame, Message, VERSION, decode, encode};

const GOLDEN_V1: &str = include_str!("golden/v1.txt");
const WIRE_MD: &str = include_str!("../WIRE.md");
/// FNV-1a of WIRE.md. Whoever changes the document compares it with the code, then changes this number.
const WIRE_MD_FNV1A: u64 = 0xb4f8_a6c0_282b_8be8;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn golden(name: &str) -> Vec<u8> {
    let line = GOLDEN_V1.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let digits = line.unwrap_or_else(|| panic!("golden/v1.txt has no line for {name}"));
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

#[track_caller]
fn holds<M: Message + DeserializeOwned + PartialEq + std::fmt::Debug>(name: &str, sample: &M) {
    let mut buffer = [0; FRAME_BYTES_MAX];
    let length = encode(sample, &mut buffer).unwrap();
    let bytes = golden(name);
    assert_eq!(hex(&buffer[..length]), hex(&bytes), "{name} is written differently");
    let (frame, used) = Frame::parse(&bytes).unwrap();
    assert_eq!(used, bytes.len());
    assert_eq!(&decode::<M>(&frame).unwrap(), sample, "{name} is read differently");
}

#[test]
fn version_1_is_written_and_read_as_ever() {
    assert_eq!(VERSION, 1, "a new version needs a golden file of its own; the old ones stay");
    holds("birth", &samples::birth());
    holds("summary", &samples::summary());
    holds("summary_of_telemetry", &samples::summary_of_telemetry());
    holds("heartbeat", &samples::heartbeat());
    holds("acknowledge", &samples::acknowledge());
    holds("refuse", &samples::refuse());
    holds("calendar", &samples::calendar());
    holds("enroll", &samples::enroll());
    holds("enrolled", &samples::enrolled());
    holds("renew", &samples::renew());
}

#[test]
fn the_document_is_the_one_that_was_compared_with_the_code() {
    let hash = WIRE_MD.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    assert_eq!(
        hash, WIRE_MD_FNV1A,
        "WIRE.md changed: compare it with the code, then set WIRE_MD_FNV1A to {hash:#x}"
    );
}
