//! What virtual agents sent, kept in the order in which it came: scored once, it can be judged again and again, or sent to an
//! aggregator that runs.
//!
//! Must never hold what would not travel on the wire: frames and the moments at which they were sent. The hard case is a calendar,
//! which the region's side knows by itself: whoever judges hands it in.

use std::io;

use vedette_common::limits::FRAME_BYTES_MAX;
use vedette_common::wire::{Birth, Frame, Kind, Message, Summary, WireError, decode, encode};
use vedette_common::{AgentId, Now, WallMs};

use super::agents::Agents;
use super::input::Line;
use super::{Judging, virtual_now};
use crate::calendar::Calendar;
use crate::config::Config;

/// Frames with the moment at which each was sent, and by whom.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// Each frame after its moment in Unix milliseconds and its agent's place, little-endian numbers of eight and two bytes.
    pub bytes: Vec<u8>,
}

/// One frame of a recording.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'r> {
    /// When it was sent.
    pub at: WallMs,
    /// The place of its agent, in order of appearance.
    pub agent: u16,
    /// A birth or a summary.
    pub frame: Frame<'r>,
    /// The frame as it travels.
    pub bytes: &'r [u8],
}

impl Recording {
    fn push<M: Message>(&mut self, at: WallMs, agent: u16, message: &M) -> Result<(), WireError> {
        self.bytes.extend(at.0.to_le_bytes());
        self.bytes.extend(agent.to_le_bytes());
        let begin = self.bytes.len();
        self.bytes.resize(begin + FRAME_BYTES_MAX, 0);
        let length = encode(message, &mut self.bytes[begin..])?;
        self.bytes.truncate(begin + length);
        Ok(())
    }

    /// The frames in the order in which they were sent; ends at the first that is none.
    pub fn iter(&self) -> impl Iterator<Item = Sent<'_>> {
        let mut rest = &self.bytes[..];
        std::iter::from_fn(move || {
            let (at, tail) = rest.split_first_chunk::<8>()?;
            let (agent, tail) = tail.split_first_chunk::<2>()?;
            let (frame, length) = Frame::parse(tail).ok()?;
            let bytes;
            (bytes, rest) = tail.split_at(length);
            Some(Sent {
                at: WallMs(i64::from_le_bytes(*at)),
                agent: u16::from_le_bytes(*agent),
                frame,
                bytes,
            })
        })
    }

    /// Judges what was recorded, until `lateness_ms` after its last frame.
    ///
    /// # Errors
    /// When the results cannot be written, or a frame is neither a birth nor a summary.
    pub fn judge(&self, judging: &mut Judging, lateness_ms: i64) -> io::Result<()> {
        let mut agents: Vec<AgentId> = Vec::new();
        let mut now = WallMs(i64::MIN);
        for sent in self.iter() {
            judging.advance(&mut now, sent.at.plus_ms(-1))?;
            now = sent.at;
            match sent.frame.kind {
                Kind::Birth => {
                    let birth: Birth = decode(&sent.frame).map_err(io::Error::other)?;
                    judging.handle_birth(now, &birth);
                    agents.push(birth.agent);
                }
                _ => {
                    let summary: Summary = decode(&sent.frame).map_err(io::Error::other)?;
                    let agent = agents.get(usize::from(sent.agent));
                    let agent =
                        agent.ok_or_else(|| io::Error::other("a summary before its agent's birth"))?;
                    judging.handle_summary(now, agent, &summary);
                }
            }
        }
        let end = now.plus_ms(lateness_ms);
        judging.advance(&mut now, end)?;
        judging.flush()
    }
}

/// Virtual agents of which everything is kept that they send.
pub struct Recorder<'c> {
    agents: Agents<'c>,
    first: Option<WallMs>,
    now: WallMs,
    recording: Recording,
}

impl<'c> Recorder<'c> {
    /// Agents that have seen nothing.
    pub fn new(config: &'c Config, calendar: Calendar) -> Self {
        let agents = Agents::new(config, calendar);
        Self { agents, first: None, now: WallMs(i64::MIN), recording: Recording::default() }
    }

    /// Takes the next line; lines come in the order of their time.
    ///
    /// # Errors
    /// When a summary does not fit a frame.
    pub fn handle_line(&mut self, line: &Line<'_>) -> Result<(), WireError> {
        self.first.get_or_insert(line.at);
        self.advance(line.at)?;
        let (now, recording, mut result) = (self.virtual_now(), &mut self.recording, Ok(()));
        let place = self.agents.count();
        self.agents.take(now, line, &mut |birth| result = recording.push(now.wall, place, birth));
        result
    }

    /// Closes the windows of the last lines, and gives what was sent.
    ///
    /// # Errors
    /// When a summary does not fit a frame.
    pub fn finish(mut self) -> Result<Recording, WireError> {
        if self.first.is_some() {
            self.advance(self.agents.last_close(self.now))?;
        }
        Ok(self.recording)
    }

    fn virtual_now(&self) -> Now {
        virtual_now(self.first, self.now)
    }

    fn advance(&mut self, at: WallMs) -> Result<(), WireError> {
        while let Some(wake) = self.agents.deadline().filter(|wake| *wake <= at) {
            self.now = self.now.max(wake);
            let (now, recording, mut result) = (self.virtual_now(), &mut self.recording, Ok(()));
            self.agents.close(now, &mut |place, _, summary| {
                if result.is_ok() {
                    result = recording.push(now.wall, place, summary);
                }
            });
            result?;
        }
        self.now = self.now.max(at);
        // The calendar is for the agents alone here.
        drop(self.agents.keep_up(self.now));
        Ok(())
    }
}
