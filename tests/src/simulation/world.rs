//! The world: virtual time, what happens in it, and the ways between agents and aggregator.
//!
//! It must never let two runs of one seed differ: events at the same moment happen in the order in which they were planned. The
//! hard case is what is still on its way when its connection or its receiver is gone: a frame names the connection it
//! was sent on, and an event the process that it was meant for.
mod faults;
mod identity;
mod ways;

use std::collections::BTreeMap;
use std::rc::Rc;

use vedette_agent_core::link::LinkOutput;
use vedette_common::RecordKey;
use vedette_common::limits::FRAME_BYTES_MAX;
use vedette_common::wire::{Refuse, RefuseReason};

use super::broker::Broker;
use super::centre::{Centre, Next, frame};
use super::edge::{Edge, End, Room};
use super::oracle::Oracle;
use super::plan::{Fault, HOUR_MS, MINUTE_MS, Plan, Sabotage, Way};
use super::report::{Failure, Report};
use crate::fleet::random::Random;
use identity::{Authority, Identity};

/// How long after the last fault a fresh deviation may take to be committed.
const FRESH_MS_MAX: u64 = 3 * MINUTE_MS;
/// How long after the last fault everything may take to drain.
const DRAIN_MS_MAX: u64 = HOUR_MS;
/// How long a deviation may take when nothing is wrong, apart from what ways and commits take.
const CALM_MS_MAX: u64 = 1_000;
/// How long a connection stands after nothing comes through any more.
const IDLE_TIMEOUT_MS: u64 = 30_000;
/// How long the broker's client of the aggregator waits before it connects again.
const BROKER_RETRY_MS: u64 = 1_000;
/// How long a frame that found no room is held back.
const HELD_BACK_MS: u64 = 50;
/// Turns of an agent between two looks at its sums.
const CHECK_EVERY: u64 = 32;

#[derive(Debug)]
enum Event {
    EdgeTurn { edge: usize, turn: u64 },
    EdgeStarts { edge: usize, life: u64 },
    Connected { edge: usize, connection: u64 },
    ConnectionLost { edge: usize, connection: u64 },
    ToCentre { edge: usize, connection: u64, bytes: Rc<[u8]> },
    ToEdge { edge: usize, connection: u64, bytes: Rc<[u8]> },
    ToBroker { edge: usize, bytes: Rc<[u8]> },
    FromCentre { edge: usize, bytes: Rc<[u8]> },
    CentreTurn { turn: u64 },
    CentreStarts,
    BrokerOpens,
    Sabotage,
    FaultBegins { place: usize, edge: usize },
    RenewalAsked { edge: usize, life: u64 },
    RenewalAnswered { edge: usize, life: u64, number: u64 },
    FaultEnds { fault: Fault, edge: usize, time: u64 },
}

/// What the world knows of an agent beside its process.
#[derive(Clone, Debug, Default)]
struct Line {
    /// The connection that stands or is being made; each attempt has a new number.
    connection: u64,
    is_open: bool,
    is_cut: bool,
    identity: Identity,
    is_revoked: bool,
    /// Frames on a stream keep their order: none arrives before this.
    up_at: u64,
    down_at: u64,
    turn: u64,
    life: u64,
    /// Begins of each fault, so that an old one's end does not end a newer one.
    times: BTreeMap<Fault, u64>,
}

struct World<'m> {
    plan: &'m Plan,
    ms: u64,
    order: u64,
    events: BTreeMap<(u64, u64), Event>,
    edges: Vec<Edge<'m>>,
    lines: Vec<Line>,
    centre: Centre,
    centre_turn: u64,
    broker: Broker,
    /// No message of the broker arrives at the aggregator before this, and none of the aggregator at the broker.
    centre_at: u64,
    broker_at: u64,
    authority: Authority,
    is_overloaded: bool,
    is_rough: bool,
    random: Random,
    oracle: Oracle,
    report: Report,
    buffer: Box<[u8; FRAME_BYTES_MAX]>,
}

/// Plays `plan`: first faults, then calm.
pub(super) fn play(plan: &Plan) -> Result<Report, Failure> {
    let mut rooms: Vec<Room> = (0..plan.agents).map(|_| Room::new(&plan.spool)).collect();
    let edges: Vec<Edge<'_>> =
        rooms.iter_mut().enumerate().map(|(place, room)| Edge::new(place, plan, room.lend())).collect();
    let mut world = World::new(plan, edges);
    world.begin();
    let outcome = world.play();
    let (seed, at_ms) = (plan.seed, world.ms);
    match outcome.err().or_else(|| world.oracle.failure.take()) {
        Some(what) => Err(Failure { seed, at_ms, what }),
        None => Ok(world.report),
    }
}

impl<'m> World<'m> {
    fn new(plan: &'m Plan, edges: Vec<Edge<'m>>) -> Self {
        let agents = edges.iter().map(|edge| edge.id.clone()).collect();
        Self {
            plan,
            ms: 0,
            order: 0,
            events: BTreeMap::new(),
            lines: vec![Line::default(); edges.len()],
            oracle: Oracle::new(edges.len()),
            broker: Broker::new(edges.len()),
            edges,
            centre: Centre::new(agents),
            centre_turn: 0,
            centre_at: 0,
            broker_at: 0,
            authority: Authority::default(),
            is_overloaded: false,
            is_rough: true,
            random: Random::new(plan.seed, "world"),
            report: Report { seeds: 1, ..Report::default() },
            buffer: Box::new([0; FRAME_BYTES_MAX]),
        }
    }

    fn at(&mut self, ms: u64, event: Event) {
        self.order += 1;
        self.events.insert((ms, self.order), event);
    }

    fn begin(&mut self) {
        self.at(0, Event::CentreStarts);
        for edge in 0..self.edges.len() {
            let starts = self.random.index(20_000) as u64;
            self.at(starts, Event::EdgeStarts { edge, life: 0 });
        }
        for place in 0..self.plan.faults.len() {
            self.plan_fault(place);
        }
        if self.plan.sabotage != Sabotage::None {
            self.at(self.plan.rough_ms / 2, Event::Sabotage);
        }
    }

    fn sabotage(&mut self) {
        match self.plan.sabotage {
            Sabotage::SegmentLost => {
                self.edges.iter().for_each(|edge| edge.medium.borrow_mut().lose_segment());
            }
            Sabotage::SessionForgotten => {
                self.kill_centre();
                self.centre.forget_sessions();
                self.start_centre();
            }
            Sabotage::None | Sabotage::AnswersEarly | Sabotage::FormerKeyEnds => {}
        }
    }

    /// The rough time, then the calm one, each with what it must show.
    fn play(&mut self) -> Result<(), String> {
        self.run_until(self.plan.rough_ms, |_| false)?;
        self.end_faults();
        let fresh = self.deviate();
        self.expect_from_all(&fresh);
        let ended = self.ms;
        let mut fresh_ms = None;
        self.run_until(ended + DRAIN_MS_MAX, |world| {
            let arrived = fresh.iter().all(|(edge, key)| world.oracle.is_committed(*edge, *key));
            if arrived && fresh_ms.is_none() {
                fresh_ms = Some(world.ms - ended);
            }
            arrived && world.is_drained()
        })?;
        self.report.fresh_after_faults_ms = fresh_ms.unwrap_or(u64::MAX);
        self.report.drained_after_faults_ms = self.ms - ended;
        self.expect_in_time("a fresh deviation after the last fault", fresh_ms, FRESH_MS_MAX);
        self.expect_in_time(
            "the end of the backlog",
            self.is_drained().then(|| self.ms - ended),
            DRAIN_MS_MAX,
        );
        self.show_calm()?;
        self.close();
        Ok(())
    }

    fn expect_in_time(&mut self, what: &str, took_ms: Option<u64>, ms_max: u64) {
        let in_time = took_ms.is_some_and(|ms| ms <= ms_max);
        self.oracle.expect(in_time, || format!("{what} took {took_ms:?} ms, more than {ms_max} ms"));
    }

    /// With nothing wrong and nothing waiting, a deviation is there at once.
    fn show_calm(&mut self) -> Result<(), String> {
        let (fresh, began) = (self.deviate(), self.ms);
        self.expect_from_all(&fresh);
        let mut took = None;
        // By a broker it goes two ways, and a commit may be under way when it comes.
        let ms_max = CALM_MS_MAX + 2 * self.plan.delay_ms_max + 2 * self.plan.commit_ms_max;
        self.run_until(began + ms_max, |world| {
            let arrived = fresh.iter().all(|(edge, key)| world.oracle.is_committed(*edge, *key));
            took = arrived.then(|| world.ms - began);
            arrived
        })?;
        self.report.fresh_in_calm_ms = took.unwrap_or(u64::MAX);
        self.expect_in_time("a deviation in calm", took, ms_max);
        let (committed, mut drained) = (self.ms, None);
        self.run_until(committed + ms_max, |world| {
            drained = world.is_drained().then(|| world.ms - committed);
            drained.is_some()
        })?;
        self.expect_in_time("its acknowledgement in calm", drained, ms_max);
        Ok(())
    }

    /// With no fault left, every agent runs and its medium takes what it has to say.
    fn expect_from_all(&mut self, fresh: &[(usize, RecordKey)]) {
        let silent: Vec<usize> =
            (0..self.edges.len()).filter(|edge| !fresh.iter().any(|(of, _)| of == edge)).collect();
        self.oracle.expect(silent.is_empty(), || {
            format!("agents {silent:?} could spool nothing with no fault left")
        });
    }

    /// A deviation of every agent now; gives the keys under which media took them.
    fn deviate(&mut self) -> Vec<(usize, RecordKey)> {
        let mut made = Vec::new();
        for edge in 0..self.edges.len() {
            made.extend(self.edges[edge].deviate(self.ms, &mut self.oracle).map(|key| (edge, key)));
            self.turn_edge(edge);
        }
        made
    }

    fn is_drained(&self) -> bool {
        self.centre.is_idle() && self.edges.iter().all(Edge::is_drained)
    }

    fn close(&mut self) {
        self.centre.check(&mut self.oracle);
        for edge in &mut self.edges {
            edge.check(&mut self.oracle);
            edge.close(self.ms, &mut self.oracle);
        }
        let (delivered, gone) = self.oracle.close();
        let hours: u64 = self.edges.iter().map(|edge| edge.hours_ms).sum();
        self.report.agent_hours = hours as f64 / HOUR_MS as f64;
        (self.report.delivered, self.report.gone) = (delivered, gone);
        self.report.made = self.oracle.made;
        self.report.refused = self.oracle.refused;
        self.report.repeated = self.oracle.repeated;
        self.report.incident_states = self.oracle.incident_states;
        (self.report.lost, self.report.doubled) = (self.oracle.lost, self.oracle.doubled);
        self.report.dropped = self.oracle.allowances.iter().map(|allowance| allowance.dropped).sum();
    }

    /// Lets time pass until `ms`, or until `done`.
    fn run_until(&mut self, ms: u64, mut done: impl FnMut(&mut Self) -> bool) -> Result<(), String> {
        while !done(self) {
            let Some(entry) = self.events.first_entry() else { break };
            if entry.key().0 > ms {
                break;
            }
            let ((at, _), event) = entry.remove_entry();
            self.ms = at;
            self.happen(event);
            if let Some(what) = self.oracle.failure.take() {
                return Err(what);
            }
        }
        self.ms = if self.is_rough { ms } else { self.ms };
        Ok(())
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::EdgeTurn { edge, turn } if self.lines[edge].turn == turn => self.turn_edge(edge),
            Event::EdgeTurn { .. } => {}
            Event::EdgeStarts { edge, life } => self.start_edge(edge, life),
            Event::Connected { edge, connection } => self.connect(edge, connection),
            Event::ConnectionLost { edge, connection } => self.lose(edge, connection),
            Event::ToCentre { edge, connection, bytes } => self.arrive_at_centre(edge, connection, bytes),
            Event::ToEdge { edge, connection, bytes } => self.arrive_at_edge(edge, connection, &bytes),
            Event::ToBroker { edge, bytes } => self.arrive_at_broker(edge, bytes, true),
            Event::FromCentre { edge, bytes } => self.arrive_at_broker(edge, bytes, false),
            Event::CentreTurn { turn } if self.centre_turn == turn => self.turn_centre(),
            Event::CentreTurn { .. } => {}
            Event::CentreStarts => self.start_centre(),
            Event::BrokerOpens => self.open_broker(),
            Event::Sabotage => self.sabotage(),
            Event::FaultBegins { place, edge } => self.begin_fault(place, edge),
            Event::RenewalAsked { edge, life } => self.answer_renewal(edge, life),
            Event::RenewalAnswered { edge, life, number } => self.take_certificate(edge, life, number),
            Event::FaultEnds { fault, edge, time } => self.end_fault(fault, edge, time),
        }
    }
}

/// Agents and their connections.
impl World<'_> {
    fn start_edge(&mut self, edge: usize, life: u64) {
        if self.lines[edge].life == life && !self.edges[edge].is_running() {
            self.edges[edge].start(self.ms, &mut self.oracle);
            self.turn_edge(edge);
        }
    }

    fn stop_edge(&mut self, edge: usize, end: End) {
        self.edges[edge].stop(self.ms, end, &mut self.oracle);
        self.hang_up(edge);
        self.lines[edge].life += 1;
    }

    /// Lets an agent do what is due, and plans its next turn.
    fn turn_edge(&mut self, edge: usize) {
        if !self.edges[edge].is_running() {
            return;
        }
        self.edges[edge].close_windows(self.ms, self.is_rough, &mut self.oracle);
        while let Some(output) = self.edges[edge].poll(self.ms, &mut self.buffer) {
            match output {
                LinkOutput::Connect => self.dial(edge),
                LinkOutput::Send(length) => {
                    let bytes = Rc::from(&self.buffer[..length]);
                    self.send_up(edge, &bytes);
                }
                LinkOutput::Close => self.hang_up(edge),
            }
        }
        self.lines[edge].turn += 1;
        let turn = self.lines[edge].turn;
        if turn.is_multiple_of(CHECK_EVERY) {
            self.edges[edge].check(&mut self.oracle);
        }
        if let Some(due) = self.edges[edge].deadline(self.ms) {
            self.at(due, Event::EdgeTurn { edge, turn });
        }
    }

    /// Whether a handshake of `edge` would succeed now.
    fn is_reachable(&self, edge: usize) -> bool {
        let line = &self.lines[edge];
        let peer = match self.plan.way {
            Way::Broker { .. } => self.broker.is_up,
            Way::Stream | Way::Wild => self.centre.is_running(),
        };
        peer && line.identity.is_good(&self.authority) && !line.is_cut
    }

    fn dial(&mut self, edge: usize) {
        self.lines[edge].connection += 1;
        let connection = self.lines[edge].connection;
        let takes = if self.is_reachable(edge) { 1 + self.delay() * 2 } else { 5_000 };
        self.at(self.ms + takes, Event::Connected { edge, connection });
    }

    /// A handshake ended, well if everything needed is there by now.
    fn connect(&mut self, edge: usize, connection: u64) {
        if self.lines[edge].connection != connection || !self.edges[edge].is_running() {
            return;
        }
        if !self.is_reachable(edge) {
            self.edges[edge].disconnected(self.ms);
            return self.turn_edge(edge);
        }
        let line = &mut self.lines[edge];
        (line.is_open, line.up_at, line.down_at) = (true, self.ms, self.ms);
        line.identity.show();
        self.edges[edge].connected(self.ms);
        if let Way::Broker { keeps } = self.plan.way {
            let kept = self.broker.edges[edge].open(keeps);
            self.give_to_edge(kept);
        } else if self.lines[edge].is_revoked {
            self.send_away(edge);
        } else if self.is_overloaded {
            let retry_after_ms = 1 + self.random.index(10_000) as u32;
            let refuse = Refuse { reason: RefuseReason::Overloaded, key: None, retry_after_ms };
            self.send_down(edge, &Rc::from(frame(&refuse)));
        }
        self.turn_edge(edge);
    }

    /// The aggregator has no more to do with a revoked agent, and says so.
    fn send_away(&mut self, edge: usize) {
        let refuse = Refuse { reason: RefuseReason::Revoked, key: None, retry_after_ms: 0 };
        self.answer(edge, Rc::from(frame(&refuse)));
    }

    /// The connection is over for both sides; its frames go nowhere any more.
    fn hang_up(&mut self, edge: usize) {
        self.lines[edge].connection += 1;
        self.lines[edge].is_open = false;
        self.broker.edges[edge].close();
    }

    /// The connection broke, and the agent notices.
    fn lose(&mut self, edge: usize, connection: u64) {
        if self.lines[edge].connection == connection {
            self.hang_up(edge);
            self.edges[edge].disconnected(self.ms);
            self.turn_edge(edge);
        }
    }

    fn lose_now(&mut self, edge: usize) {
        let connection = self.lines[edge].connection;
        self.lose(edge, connection);
    }

    fn arrive_at_edge(&mut self, edge: usize, connection: u64, bytes: &[u8]) {
        if self.lines[edge].connection == connection && self.edges[edge].is_connected() {
            self.edges[edge].receive(self.ms, bytes, &mut self.oracle);
            self.turn_edge(edge);
        }
    }
}

/// The aggregator.
impl World<'_> {
    fn start_centre(&mut self) {
        if !self.centre.is_running() {
            self.centre.start(self.ms);
            self.at(self.ms, Event::BrokerOpens);
            self.plan_centre();
        }
    }

    fn kill_centre(&mut self) {
        let commits = self.random.chance(0.5);
        self.centre.kill(commits, &mut self.oracle);
        self.broker.centre.close();
        if matches!(self.plan.way, Way::Stream | Way::Wild) {
            for edge in 0..self.edges.len() {
                self.break_line(edge);
            }
        }
    }

    fn turn_centre(&mut self) {
        match self.centre.next(self.ms) {
            Next::Gathered(due) if due <= self.ms => {
                let commit_ms = 1 + self.random.index(self.plan.commit_ms_max as usize) as u64;
                self.centre.commit(self.ms, commit_ms, &mut self.oracle);
                if self.plan.sabotage == Sabotage::AnswersEarly {
                    let answers = self.centre.early_answers();
                    answers.into_iter().for_each(|(edge, bytes)| self.answer(edge, Rc::from(bytes)));
                }
            }
            Next::Committed(due) if due <= self.ms => {
                for (edge, bytes) in self.centre.finish(self.ms, &mut self.oracle) {
                    self.answer(edge, Rc::from(bytes));
                }
            }
            _ => {}
        }
        self.plan_centre();
    }

    fn answer(&mut self, edge: usize, bytes: Rc<[u8]>) {
        match self.plan.way {
            Way::Broker { .. } => {
                self.broker_at = self.arrival(self.broker_at);
                self.at(self.broker_at, Event::FromCentre { edge, bytes });
            }
            Way::Stream | Way::Wild => self.send_down(edge, &bytes),
        }
    }

    fn plan_centre(&mut self) {
        self.centre_turn += 1;
        let turn = self.centre_turn;
        match self.centre.next(self.ms) {
            Next::Gathered(due) | Next::Committed(due) => self.at(due, Event::CentreTurn { turn }),
            Next::Nothing => {}
        }
    }
}
