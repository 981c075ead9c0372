//! The agent's core without an operating system: a sample in, a frame out; and the proof of the same bits everywhere.
//!
//! It scores a made-up recording and prints a digest of every bit of every score and frame, on a board and on a machine
//! with an operating system alike, for `cross/test.sh` to compare. It must never use what a board lacks: no heap, no
//! clock, no file. The hard case is memory: every byte is on the stack of [`run`], and what each part takes is printed.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![deny(unsafe_code)]

#[cfg(target_os = "none")]
mod board;
mod digest;
#[cfg(has_room)]
mod frames;
mod recording;
mod scores;

use core::fmt::{self, Write};

/// Scores the recording both ways and prints the digests.
///
/// # Errors
/// The output's own.
fn run(out: &mut impl Write) -> fmt::Result {
    let scores = scores::of_recording();
    writeln!(out, "scores {:016x} of {} observations", scores.digest, scores.observations)?;
    writeln!(out, "memory {} bytes for each series that is scored alone", scores::SERIES_BYTES)?;
    #[cfg(has_room)]
    tell_frames(out)?;
    Ok(())
}

#[cfg(has_room)]
fn tell_frames(out: &mut impl Write) -> fmt::Result {
    for (name, input) in [("samples", frames::Input::Samples), ("lines", frames::Input::Lines)] {
        let sent = frames::of_recording(input);
        writeln!(out, "frames {:016x} of {name}, {} in {} bytes", sent.digest, sent.frames, sent.bytes)?;
    }
    writeln!(out, "memory {} bytes for a pipeline of {} series", frames::PIPELINE_BYTES, frames::SERIES_MAX)
}

#[cfg(not(target_os = "none"))]
fn main() {
    let mut text = String::new();
    run(&mut text).expect("a string takes any text");
    print!("{text}");
}
