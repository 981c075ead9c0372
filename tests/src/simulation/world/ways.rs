//! Ways: how frames travel between agents, a broker or none, and the aggregator.
//!
//! It must never break what a way promises once the faults are over. The hard case is order: a stream and a broker's topic keep it,
//! whatever each frame's own delay.
use std::rc::Rc;

use super::super::broker::{Mailbox, Message};
use super::super::plan::Way;
use super::{Event, HELD_BACK_MS, World};

impl World<'_> {
    pub(super) fn delay(&mut self) -> u64 {
        1 + self.random.index(self.plan.delay_ms_max as usize) as u64
    }

    /// How often a frame arrives: once, twice, or not at all.
    pub(super) fn copies(&mut self) -> usize {
        if self.is_rough && self.random.chance(self.plan.loss) {
            return 0;
        }
        1 + usize::from(self.is_rough && self.random.chance(self.plan.duplication))
    }

    /// When a frame arrives: on a stream after the one before it.
    pub(super) fn arrival(&mut self, before: u64) -> u64 {
        let arrival = self.ms + self.delay();
        if self.plan.way == Way::Wild && self.is_rough { arrival } else { arrival.max(before) }
    }

    pub(super) fn send_up(&mut self, edge: usize, bytes: &Rc<[u8]>) {
        if !self.lines[edge].is_open || self.lines[edge].is_cut {
            return;
        }
        for _ in 0..self.copies() {
            let arrival = self.arrival(self.lines[edge].up_at);
            self.lines[edge].up_at = arrival;
            let (connection, bytes) = (self.lines[edge].connection, Rc::clone(bytes));
            let event = match self.plan.way {
                Way::Broker { .. } => Event::ToBroker { edge, bytes },
                Way::Stream | Way::Wild => Event::ToCentre { edge, connection, bytes },
            };
            self.at(arrival, event);
        }
    }

    pub(super) fn send_down(&mut self, edge: usize, bytes: &Rc<[u8]>) {
        if !self.lines[edge].is_open || self.lines[edge].is_cut {
            return;
        }
        for _ in 0..self.copies() {
            let arrival = self.arrival(self.lines[edge].down_at);
            self.lines[edge].down_at = arrival;
            let connection = self.lines[edge].connection;
            self.at(arrival, Event::ToEdge { edge, connection, bytes: Rc::clone(bytes) });
        }
    }

    /// A message reached the broker, from an agent or for one.
    pub(super) fn arrive_at_broker(&mut self, edge: usize, bytes: Rc<[u8]>, is_for_centre: bool) {
        let Way::Broker { keeps } = self.plan.way else { return };
        let lost = self.broker.drops_silently && self.random.chance(0.33);
        if !self.broker.is_up || lost {
            return;
        }
        let mailbox: &mut Mailbox =
            if is_for_centre { &mut self.broker.centre } else { &mut self.broker.edges[edge] };
        let Some(message) = mailbox.take((edge, bytes), keeps) else { return };
        if is_for_centre { self.give_to_centre(vec![message]) } else { self.give_to_edge(vec![message]) }
    }

    pub(super) fn give_to_edge(&mut self, messages: Vec<Message>) {
        messages.into_iter().for_each(|(edge, bytes)| self.send_down(edge, &bytes));
    }

    /// A broker keeps the order of what one publisher sends to a topic.
    pub(super) fn give_to_centre(&mut self, messages: Vec<Message>) {
        for (edge, bytes) in messages {
            self.centre_at = self.arrival(self.centre_at);
            self.at(self.centre_at, Event::ToCentre { edge, connection: 0, bytes });
        }
    }

    /// The aggregator connects to the broker, if both are there.
    pub(super) fn open_broker(&mut self) {
        let Way::Broker { keeps } = self.plan.way else { return };
        if self.broker.is_up && self.centre.is_running() {
            let kept = self.broker.centre.open(keeps);
            self.give_to_centre(kept);
        }
    }

    pub(super) fn arrive_at_centre(&mut self, edge: usize, connection: u64, bytes: Rc<[u8]>) {
        let by_broker = matches!(self.plan.way, Way::Broker { .. });
        if !self.centre.is_running() || !(by_broker || self.lines[edge].connection == connection) {
            return;
        }
        if self.lines[edge].is_revoked {
            return self.send_away(edge);
        }
        if !self.centre.has_room() {
            return self.at(self.ms + HELD_BACK_MS, Event::ToCentre { edge, connection, bytes });
        }
        self.centre.receive(self.ms, edge, bytes, &mut self.oracle);
        self.plan_centre();
    }
}
