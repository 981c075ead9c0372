//! Identities: which certificates are good, renewal over an open connection, and the CA's keys.
//!
//! It must never know of records: what is proven here is that no order of renewal, kill and rotation locks an agent out. The hard
//! case is an answer that never arrives: the aggregator then knows a certificate that its agent does not have.
use super::{Event, Fault, Sabotage, World};

/// How many former keys of the CA are trusted beside the present one.
const FORMER_AUTHORITIES_MAX: u64 = 4;
/// The share of answers to a renewal that never arrive.
const ANSWERS_LOST: f64 = 0.25;

/// The CA: its keys are numbered as they follow one another.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Authority {
    key: u64,
    /// The oldest key that is still trusted.
    trusts_from: u64,
    certificates: u64,
}

impl Authority {
    /// Another key; the former ones stay trusted, up to a number.
    pub(super) const fn rotate(&mut self) {
        self.key += 1;
        let oldest = self.key.saturating_sub(FORMER_AUTHORITIES_MAX);
        self.trusts_from = if oldest > self.trusts_from { oldest } else { self.trusts_from };
    }

    const fn distrust(&mut self) {
        self.key += 1;
        self.trusts_from = self.key;
    }

    const fn issue(&mut self) -> u64 {
        self.certificates += 1;
        self.certificates
    }
}

/// What agent and aggregator know of one agent's certificates.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Identity {
    /// The number of the certificate on the agent's disk, and the key of the CA that it is from.
    held: u64,
    held_key: u64,
    /// What the aggregator takes: the certificate that was used last, and one that was given out since and not used yet.
    used: u64,
    given: Option<(u64, u64)>,
    pub(super) is_expired: bool,
}

impl Identity {
    /// Whether a handshake with it succeeds.
    pub(super) fn is_good(&self, authority: &Authority) -> bool {
        let is_known = self.held == self.used || self.given.is_some_and(|(number, _)| number == self.held);
        is_known && self.held_key >= authority.trusts_from && !self.is_expired
    }

    /// The first handshake with a new certificate ends the former one.
    pub(super) fn show(&mut self) {
        if self.given.is_some_and(|(number, _)| number == self.held) {
            (self.used, self.given) = (self.held, None);
        }
    }

    /// The agent enrols anew, if what it has is of no use.
    pub(super) fn enrol(&mut self, authority: &Authority) {
        self.is_expired = false;
        if self.held_key < authority.trusts_from {
            self.held_key = authority.key;
        }
    }
}

impl World<'_> {
    /// The agent asks over a connection of its own, which shows what it has; that which carries goes on beside it.
    pub(super) fn ask_renewal(&mut self, edge: usize) {
        let (life, arrives) = (self.lines[edge].life, self.ms + self.delay());
        if self.edges[edge].is_running() && !self.lines[edge].is_cut {
            self.at(arrives, Event::RenewalAsked { edge, life });
        }
    }

    /// The aggregator gives a certificate once it stands in its store. That and the one that was shown are good from then on, and no other: a
    /// connection that stands with an earlier one ends.
    pub(super) fn answer_renewal(&mut self, edge: usize, life: u64) {
        let line = &self.lines[edge];
        let refuses = line.is_revoked || !line.identity.is_good(&self.authority) || self.centre.store_fails;
        if refuses || !self.centre.is_running() || line.is_cut || line.life != life {
            return;
        }
        let number = self.authority.issue();
        let identity = &mut self.lines[edge].identity;
        let is_former_over = identity.used != identity.held;
        (identity.used, identity.given) = (identity.held, Some((number, self.authority.key)));
        if self.plan.sabotage == Sabotage::FormerKeyEnds {
            identity.used = number;
            return;
        }
        // A connection may break at any time, this one too.
        if !self.random.chance(ANSWERS_LOST) {
            let arrives = self.ms + self.delay();
            self.at(arrives, Event::RenewalAnswered { edge, life, number });
        }
        if is_former_over {
            self.lose_now(edge);
        }
    }

    /// The answer is on the agent's disk and is shown at the next handshake; the open connection goes on.
    pub(super) fn take_certificate(&mut self, edge: usize, life: u64, number: u64) {
        let line = &mut self.lines[edge];
        if let Some((given, key)) = line.identity.given
            && given == number
            && line.life == life
            && self.edges[edge].is_running()
        {
            (line.identity.held, line.identity.held_key) = (number, key);
        }
    }

    /// No certificate is good any more; people enrol each agent in their own time.
    pub(super) fn replace_authority(&mut self) {
        self.authority.distrust();
        let fault = Fault::CertificateExpired;
        for edge in 0..self.edges.len() {
            self.lose_now(edge);
            let time = self.lines[edge].times.entry(fault).or_default();
            *time += 1;
            let (time, wait) = (*time, 1 + self.random.index(fault.ms_max() as usize) as u64);
            self.at(self.ms + wait, Event::FaultEnds { fault, edge, time });
        }
    }
}
