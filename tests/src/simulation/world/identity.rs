//! Identities: which certificates are good, renewal over an open connection, and the CA's keys.
//!
//! It must never know of records: what is proven here is that no order of renewal, kill and rotation locks an agent out. The hard
//! case is an answer that never arrives: the aggregator then knows a certificate that its agent does not have.
use super::{Event, Fault, Sabotage, World};

/// How many former keys of the CA are trusted beside the present one.
const FORMER_AUTHORITIES_MAX: u64 = 4;

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
    /// The agent asks over the connection that it has.
    pub(super) fn ask_renewal(&mut self, edge: usize) {
        let line = &self.lines[edge];
        if line.is_open && !line.is_cut && self.edges[edge].is_connected() {
            let (connection, arrives) = (line.connection, self.ms + self.delay());
            self.at(arrives, Event::RenewalAsked { edge, connection });
        }
    }

    /// The aggregator gives a certificate once it stands in its store; both are good from then on.
    pub(super) fn answer_renewal(&mut self, edge: usize, connection: u64) {
        let line = &self.lines[edge];
        let refuses = line.is_revoked || !line.identity.is_good(&self.authority) || self.centre.store_fails;
        if refuses || !self.centre.is_running() || line.connection != connection {
            return;
        }
        let number = self.authority.issue();
        let identity = &mut self.lines[edge].identity;
        identity.given = Some((number, self.authority.key));
        if self.plan.sabotage == Sabotage::FormerKeyEnds {
            identity.used = number;
            return;
        }
        let arrives = self.ms + self.delay();
        self.at(arrives, Event::RenewalAnswered { edge, connection, number });
    }

    /// The answer is on the agent's disk and is shown at the next handshake; the open connection goes on.
    pub(super) fn take_certificate(&mut self, edge: usize, connection: u64, number: u64) {
        let is_there = self.edges[edge].is_running() && self.lines[edge].connection == connection;
        let identity = &mut self.lines[edge].identity;
        if let (true, Some((given, key))) = (is_there, identity.given)
            && given == number
        {
            (identity.held, identity.held_key) = (number, key);
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
