//! Faults: when they happen, what they do, and how they end.
//!
//! It must never do to a part of the world what its real counterpart promises not to do. The hard case is one fault over another
//! of its kind: only the end of the latest one ends it.
use vedette_agent_core::spool::StorageFault;

use super::super::edge::End;
use super::super::plan::Fault;
use super::{BROKER_RETRY_MS, Event, IDLE_TIMEOUT_MS, World};

impl World<'_> {
    /// Plans when the fault at `place` of the plan happens next, and to whom.
    pub(super) fn plan_fault(&mut self, place: usize) {
        let mean = self.plan.faults[place].1 as f64;
        let wait = (-(1.0 - self.random.unit()).ln() * mean) as u64;
        let edge = self.random.index(self.edges.len());
        self.at(self.ms + 1 + wait, Event::FaultBegins { place, edge });
    }

    pub(super) fn begin_fault(&mut self, place: usize, edge: usize) {
        if !self.is_rough {
            return;
        }
        let fault = self.plan.faults[place].0;
        // What all share has one time for all.
        let edge = if fault.is_of_one_agent() { edge } else { 0 };
        self.report.faults[fault.index()] += 1;
        self.strike(fault, edge);
        if fault.ms_max() > 0 {
            let time = self.lines[edge].times.entry(fault).or_default();
            *time += 1;
            let time = *time;
            // Short ones are as frequent as long ones: uniform in the logarithm, from a second up.
            let lasts = (1_000.0 * (fault.ms_max() as f64 / 1_000.0).powf(self.random.unit())) as u64;
            self.at(self.ms + lasts, Event::FaultEnds { fault, edge, time });
        }
        self.plan_fault(place);
    }

    pub(super) fn strike(&mut self, fault: Fault, edge: usize) {
        match fault {
            Fault::AgentKilled => self.stop_edge(edge, End::Kill),
            Fault::AgentPowerCut => self.stop_edge(edge, End::PowerCut),
            Fault::MediumFull => self.fail_medium(edge, StorageFault::Full),
            Fault::MediumReadOnly => self.fail_medium(edge, StorageFault::ReadOnly),
            Fault::MediumBroken => self.fail_medium(edge, StorageFault::Broken),
            Fault::BitFlip => self.edges[edge].flip_bit(&mut self.oracle),
            Fault::ClockJump => {
                self.edges[edge].ahead_ms = self.clock_error();
                self.turn_edge(edge);
            }
            Fault::Partition => {
                self.lines[edge].is_cut = true;
                self.break_line(edge);
            }
            Fault::ConnectionCut => self.lose_now(edge),
            Fault::CertificateExpired => self.lines[edge].identity.is_expired = true,
            Fault::CertificateRenewed => self.ask_renewal(edge),
            Fault::Revoked => {
                self.lines[edge].is_revoked = true;
                if self.centre.is_running() && self.lines[edge].is_open {
                    self.send_away(edge);
                }
            }
            Fault::Overload => self.is_overloaded = true,
            Fault::AggregatorKilled => self.kill_centre(),
            Fault::StoreSlow => self.centre.slowness = 1 + self.random.index(200) as u64,
            Fault::StoreFailing => self.centre.store_fails = true,
            Fault::AggregatorClockJump => {
                self.centre.ahead_ms = self.clock_error();
                self.plan_centre();
            }
            Fault::AuthorityRotated => self.authority.rotate(),
            Fault::AuthorityReplaced => self.replace_authority(),
            Fault::BrokerRestarted => self.break_broker(false, true),
            Fault::BrokerForgot => self.break_broker(true, true),
            Fault::BrokerDown => self.break_broker(false, false),
            Fault::BrokerSilent => self.broker.drops_silently = true,
        }
    }

    /// Mostly small, at times more than the aggregator puts up with.
    pub(super) fn clock_error(&mut self) -> i64 {
        let ms_max = if self.random.chance(0.8) { 60_000.0 } else { 600_000.0 };
        self.random.between(-ms_max, ms_max) as i64
    }

    pub(super) fn fail_medium(&mut self, edge: usize, fault: StorageFault) {
        // What cannot be written takes not one byte.
        let arrives = if fault == StorageFault::ReadOnly { 0 } else { self.random.index(200) };
        self.edges[edge].medium.borrow_mut().fail(fault, arrives);
    }

    /// The line of an agent breaks; it notices at once, or when its connection has been idle for too long.
    pub(super) fn break_line(&mut self, edge: usize) {
        let connection = self.lines[edge].connection;
        let notices = if self.random.chance(0.5) { 1 } else { IDLE_TIMEOUT_MS };
        self.at(self.ms + notices, Event::ConnectionLost { edge, connection });
    }

    pub(super) fn break_broker(&mut self, forgets: bool, comes_back: bool) {
        self.broker.disconnect(forgets);
        self.broker.is_up = comes_back;
        for edge in 0..self.edges.len() {
            self.lose_now(edge);
        }
        self.at(self.ms + BROKER_RETRY_MS, Event::BrokerOpens);
    }

    pub(super) fn end_fault(&mut self, fault: Fault, edge: usize, time: u64) {
        if self.lines[edge].times.get(&fault) == Some(&time) {
            self.heal(fault, edge);
        }
    }

    pub(super) fn heal(&mut self, fault: Fault, edge: usize) {
        match fault {
            Fault::AgentKilled | Fault::AgentPowerCut => {
                let life = self.lines[edge].life;
                self.start_edge(edge, life);
            }
            Fault::MediumFull | Fault::MediumReadOnly | Fault::MediumBroken => {
                self.edges[edge].medium.borrow_mut().fault = None;
            }
            Fault::Partition => self.lines[edge].is_cut = false,
            Fault::CertificateExpired => self.lines[edge].identity.enrol(&self.authority),
            Fault::Revoked => self.lines[edge].is_revoked = false,
            Fault::Overload => self.is_overloaded = false,
            Fault::AggregatorKilled => self.start_centre(),
            Fault::StoreSlow => self.centre.slowness = 1,
            Fault::StoreFailing => self.centre.store_fails = false,
            Fault::BrokerDown => {
                self.broker.is_up = true;
                self.at(self.ms, Event::BrokerOpens);
            }
            Fault::BrokerSilent => self.broker.drops_silently = false,
            Fault::BitFlip
            | Fault::ClockJump
            | Fault::ConnectionCut
            | Fault::CertificateRenewed
            | Fault::AggregatorClockJump
            | Fault::AuthorityRotated
            | Fault::AuthorityReplaced
            | Fault::BrokerRestarted
            | Fault::BrokerForgot => {}
        }
    }

    /// Every fault ends, whenever it was to end.
    pub(super) fn end_faults(&mut self) {
        self.is_rough = false;
        for fault in Fault::ALL {
            for edge in 0..self.edges.len() {
                self.heal(fault, edge);
            }
        }
        for edge in 0..self.edges.len() {
            // What could not be read at one start is delivered after the next.
            if self.edges[edge].has_set_aside() {
                self.stop_edge(edge, End::Kill);
                self.start_edge(edge, self.lines[edge].life);
            }
        }
    }
}
