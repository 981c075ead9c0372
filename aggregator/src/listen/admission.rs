//! Admission: which records are let in when more come than the core can take, and whose turn is next. A pure state machine.
//!
//! It must never grow beyond its two rooms, nor let one agent take them all. The hard case is fairness without knowing
//! how many agents want what: a lane of one agent may fill its room only up to what it leaves free (dynamic thresholds;
//! Choudhury and Hahne, IEEE/ACM Transactions on Networking 6, 1998), so the first record of a quiet agent finds a place,
//! and turns are shared out by what records cost (deficit round robin; Shreedhar and Varghese, SIGCOMM 1995).

use std::collections::{BTreeMap, VecDeque};

use vedette_common::wire::{Refuse, RefuseReason, Summary};
use vedette_common::{AgentId, Lane, RecordKey};

use super::{AgentMessage, Input};
use crate::limits::{ADMITTED_MAX, RETRY_AFTER_MS_MAX, RETRY_AFTER_MS_MIN};

/// What each visit of the round adds to what an agent may spend: the cost of the longest record.
const QUANTUM: usize =
    RECORD_COST + vedette_common::limits::ROLL_UPS_MAX + vedette_common::limits::DEVIATIONS_MAX;
/// What a record costs beside its entries.
const RECORD_COST: usize = 8;
/// How often in a row what waits may be passed over by what is more urgent.
const PASSED_OVER_MAX: u32 = 7;
/// How long the pace of the core is measured before it counts.
const PACE_MS: u64 = 250;
/// The classes of what waits, the most urgent first: notices, deviations, roll-ups.
const CLASSES: usize = 3;

/// What became of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// The core will get it.
    Taken,
    /// There is no room: the agent is to be told this, and counted under this name.
    Refused(Refuse, &'static str),
    /// It follows one that was refused, which comes again first; nobody needs to be told.
    Behind,
    /// Another connection speaks for the agent by now.
    Over,
}

/// What waits of one agent in one lane.
#[derive(Debug, Default)]
struct Line {
    records: VecDeque<Input>,
    /// What it may still spend in its turn.
    deficit: usize,
    /// The record that was refused, until it comes again or its horizon has passed it.
    refused: Option<RecordKey>,
}

/// What waits of one agent.
#[derive(Debug, Default)]
struct Place {
    /// The connection that speaks for it.
    connection: Option<u64>,
    /// Its opening and its end: the latest of each, in order.
    notices: VecDeque<Input>,
    /// The latest birth and heartbeat.
    birth: Option<Input>,
    heartbeat: Option<Input>,
    /// What was last acknowledged elsewhere, of each lane.
    elsewhere: [Option<Input>; 2],
    lines: [Line; 2],
}

impl Place {
    fn take_notice(&mut self) -> Option<Input> {
        let word = self.notices.pop_front().or_else(|| self.birth.take()).or_else(|| self.heartbeat.take());
        word.or_else(|| self.elsewhere.iter_mut().find_map(Option::take))
    }

    fn has_notice(&self) -> bool {
        let has_word = self.birth.is_some() || self.heartbeat.is_some();
        !self.notices.is_empty() || has_word || self.elsewhere.iter().any(Option::is_some)
    }

    fn is_empty(&self) -> bool {
        self.connection.is_none() && !self.has_notice()
    }
}

/// How many records the core takes in a second, while it has any.
#[derive(Debug)]
struct Pace {
    since_ms: u64,
    taken: u64,
    per_s: u64,
}

impl Pace {
    fn begin(&mut self, now_ms: u64) {
        (self.since_ms, self.taken) = (now_ms, 0);
    }

    fn count(&mut self, now_ms: u64) {
        self.taken += 1;
        let elapsed_ms = now_ms.saturating_sub(self.since_ms);
        if elapsed_ms >= PACE_MS {
            self.per_s = (self.per_s + self.taken * 1_000 / elapsed_ms).div_ceil(2);
            self.begin(now_ms);
        }
    }

    /// How long `records` will take; a core that has come to a halt makes it longer and longer.
    fn drain_ms(&self, now_ms: u64, records: u64) -> u64 {
        let halted_ms = now_ms.saturating_sub(self.since_ms);
        let of_late = (self.taken + 1) * 1_000 / halted_ms.max(1);
        let per_s = if halted_ms > PACE_MS { of_late.min(self.per_s) } else { self.per_s };
        records * 1_000 / per_s.max(1)
    }
}

/// What was let in and not yet taken by the core.
#[derive(Debug)]
pub struct Admission {
    places: BTreeMap<AgentId, Place>,
    /// Whose turn it is in each class; everybody who has something waiting there, once.
    turns: [VecDeque<AgentId>; CLASSES],
    passed_over: [u32; CLASSES],
    /// Records of each lane.
    records: [usize; 2],
    /// Lines whose record was refused.
    refused: usize,
    /// Records that were let in and forgotten, because their connection ended first.
    forgotten: u64,
    pace: Pace,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            places: BTreeMap::new(),
            turns: Default::default(),
            passed_over: [0; CLASSES],
            records: [0; 2],
            refused: 0,
            forgotten: 0,
            // A thousand a second, until it is known better.
            pace: Pace { since_ms: 0, taken: 0, per_s: 1_000 },
        }
    }
}

impl Admission {
    /// Everything that waits, notices of one agent as one.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.iter().sum::<usize>() + self.turns[0].len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Records that were let in and then forgotten since this was last asked, because their connection had ended. They
    /// were not acknowledged, so they come again.
    pub fn take_forgotten(&mut self) -> u64 {
        std::mem::take(&mut self.forgotten)
    }

    /// Lets `input` in, or says why not. Openings, ends, births, heartbeats and what was acknowledged elsewhere always come in: of each
    /// agent at most the latest of each waits. `jitter` (0 to 1) spreads the times at which those who are refused try again.
    pub fn offer(&mut self, now_ms: u64, input: Input, jitter: f64) -> Offer {
        if self.is_empty() {
            self.pace.begin(now_ms);
        }
        match input {
            Input::Opened { ref agent, connection, .. } => {
                let agent = agent.clone();
                let place = self.places.entry(agent.clone()).or_default();
                place.connection = Some(connection);
                // Before its turn is looked at: without a notice it has none.
                place.notices.clear();
                self.clear(&agent);
                self.notice(&agent, |place| place.notices.push_back(input));
                Offer::Taken
            }
            Input::Elsewhere { ref agent, key } => {
                let agent = agent.clone();
                self.notice(&agent, |place| place.elsewhere[key.lane.index()] = Some(input));
                Offer::Taken
            }
            Input::Closed { ref agent, connection } => {
                let agent = agent.clone();
                if self.connection(&agent) != Some(connection) {
                    return Offer::Over;
                }
                self.clear(&agent);
                self.notice(&agent, |place| {
                    place.connection = None;
                    place.notices.push_back(input);
                });
                Offer::Taken
            }
            Input::Received { agent, connection, regions, message } => {
                if self.connection(&agent) != Some(connection) {
                    return Offer::Over;
                }
                let record = match &*message {
                    AgentMessage::Summary(summary) => Some(summary.key),
                    _ => None,
                };
                let input = Input::Received { agent: agent.clone(), connection, regions, message };
                match record {
                    Some(key) => self.offer_record(now_ms, &agent, key, input, jitter),
                    None => {
                        self.offer_word(&agent, input);
                        Offer::Taken
                    }
                }
            }
        }
    }

    /// What the core is to have next.
    pub fn take(&mut self, now_ms: u64) -> Option<Input> {
        let class = self.next_class()?;
        for (lower, turns) in self.turns.iter().enumerate().skip(class + 1) {
            self.passed_over[lower] += u32::from(!turns.is_empty());
        }
        self.passed_over[class] = 0;
        match class {
            0 => self.take_notice(),
            class => self.take_record(now_ms, Lane::ALL[class - 1]),
        }
    }

    /// The most urgent class that has anything, unless one that is less urgent was passed over too often.
    fn next_class(&self) -> Option<usize> {
        let waits = |class: &usize| !self.turns[*class].is_empty();
        let neglected = |class: &usize| self.passed_over[*class] >= PASSED_OVER_MAX;
        (0..CLASSES).rev().filter(waits).find(neglected).or_else(|| (0..CLASSES).find(waits))
    }

    fn connection(&self, agent: &AgentId) -> Option<u64> {
        self.places.get(agent).and_then(|place| place.connection)
    }

    fn notice(&mut self, agent: &AgentId, put: impl FnOnce(&mut Place)) {
        let place = self.places.entry(agent.clone()).or_default();
        if !place.has_notice() {
            self.turns[0].push_back(agent.clone());
        }
        put(place);
    }

    /// A birth or heartbeat takes the place of one that still waits: a horizon never lies beyond a record that is to come.
    fn offer_word(&mut self, agent: &AgentId, input: Input) {
        let is_birth =
            matches!(&input, Input::Received { message, .. } if matches!(**message, AgentMessage::Birth(_)));
        self.notice(agent, |place| {
            *(if is_birth { &mut place.birth } else { &mut place.heartbeat }) = Some(input);
        });
        // The horizon may lie beyond what was refused: nothing waits for that any more.
        for lane in Lane::ALL {
            self.set_refused(agent, lane, None);
        }
    }

    fn offer_record(
        &mut self,
        now_ms: u64,
        agent: &AgentId,
        key: RecordKey,
        input: Input,
        jitter: f64,
    ) -> Offer {
        let lane = key.lane.index();
        let Some(place) = self.places.get_mut(agent) else { return Offer::Over };
        let line = &mut place.lines[lane];
        if line.refused.is_some_and(|refused| refused.boot == key.boot && refused.sequence < key.sequence) {
            return Offer::Behind;
        }
        if line.records.len() >= ADMITTED_MAX[lane] - self.records[lane] {
            self.set_refused(agent, key.lane, Some(key));
            let (reason, retry_after_ms) =
                (RefuseReason::Overloaded, self.retry_after_ms(now_ms, lane, jitter));
            let name = ["overloaded_deviations", "overloaded_roll_ups"][lane];
            return Offer::Refused(Refuse { reason, key: Some(key), retry_after_ms }, name);
        }
        if line.records.is_empty() {
            line.deficit = QUANTUM;
            self.turns[lane + 1].push_back(agent.clone());
        }
        line.records.push_back(input);
        self.records[lane] += 1;
        self.set_refused(agent, key.lane, None);
        Offer::Taken
    }

    /// When a refused agent can expect a place: once the room is drained, as often as those who wait fill it.
    fn retry_after_ms(&self, now_ms: u64, lane: usize, jitter: f64) -> u32 {
        let room = ADMITTED_MAX[lane] as u64;
        let rounds = (self.refused as u64).div_ceil(room).max(1);
        let drain_ms = self.pace.drain_ms(now_ms, self.records.iter().sum::<usize>() as u64);
        let expected_ms = (drain_ms * rounds) as f64 * (1.0 + jitter);
        // A float beyond the range becomes its end.
        (expected_ms as u32).clamp(RETRY_AFTER_MS_MIN, RETRY_AFTER_MS_MAX)
    }

    fn set_refused(&mut self, agent: &AgentId, lane: Lane, key: Option<RecordKey>) {
        let Some(place) = self.places.get_mut(agent) else { return };
        let former = std::mem::replace(&mut place.lines[lane.index()].refused, key);
        self.refused = self.refused + usize::from(key.is_some()) - usize::from(former.is_some());
    }

    /// Forgets what waits of a connection that is over: it was not acknowledged, and comes again on the next.
    fn clear(&mut self, agent: &AgentId) {
        for lane in Lane::ALL {
            self.set_refused(agent, lane, None);
        }
        let Some(place) = self.places.get_mut(agent) else { return };
        (place.birth, place.heartbeat) = (None, None);
        for (lane, line) in place.lines.iter_mut().enumerate() {
            if !line.records.is_empty() {
                self.turns[lane + 1].retain(|other| other != agent);
            }
            self.records[lane] -= line.records.len();
            self.forgotten += line.records.len() as u64;
            *line = Line::default();
        }
        if !place.has_notice() {
            self.turns[0].retain(|other| other != agent);
        }
    }

    fn take_notice(&mut self) -> Option<Input> {
        let agent = self.turns[0].front()?.clone();
        self.take_notice_of(&agent)
    }

    fn take_notice_of(&mut self, agent: &AgentId) -> Option<Input> {
        let place = self.places.get_mut(agent)?;
        let notice = place.take_notice();
        if !place.has_notice() {
            self.turns[0].retain(|other| other != agent);
            if place.is_empty() {
                self.places.remove(agent);
            }
        }
        notice
    }

    fn take_record(&mut self, now_ms: u64, lane: Lane) -> Option<Input> {
        let class = lane.index() + 1;
        loop {
            let agent = self.turns[class].pop_front()?;
            let place = self.places.get_mut(&agent)?;
            if place.has_notice() {
                // No record overtakes the opening of its connection, or the horizon that makes it the next one.
                self.turns[class].push_front(agent.clone());
                return self.take_notice_of(&agent);
            }
            let line = &mut place.lines[lane.index()];
            let cost = line.records.front().map_or(0, cost);
            if line.deficit < cost {
                line.deficit += QUANTUM;
                self.turns[class].push_back(agent);
                continue;
            }
            let record = line.records.pop_front();
            line.deficit -= cost;
            if line.records.is_empty() {
                // Nobody saves up for later.
                line.deficit = 0;
            } else {
                self.turns[class].push_front(agent);
            }
            self.records[lane.index()] -= 1;
            self.pace.count(now_ms);
            return record;
        }
    }
}

/// What a record costs the core, about: its entries.
fn cost(input: &Input) -> usize {
    let entries = |summary: &Summary| summary.roll_ups.len() + summary.deviations.len();
    match input {
        Input::Received { message, .. } => match &**message {
            AgentMessage::Summary(summary) => RECORD_COST + entries(summary),
            _ => 0,
        },
        _ => 0,
    }
}

#[cfg(test)]
mod agents;
#[cfg(test)]
mod tests;
