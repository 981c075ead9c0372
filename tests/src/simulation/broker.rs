//! A broker: messages that wait for those who are away, and what a broker may do to them.
//!
//! It must never hold more than its limits: over them the newest is dropped without a word, as brokers do. The hard case is QoS 1 over
//! a connection that broke: what was given out and not yet confirmed comes again.
use std::collections::VecDeque;
use std::rc::Rc;

/// Messages that wait for one receiver, at most.
const WAITING_MAX: usize = 1_000;
/// Messages given out whose confirmations may have been lost with a connection.
const UNCONFIRMED_MAX: usize = 8;

/// A frame from or for an agent.
pub(super) type Message = (usize, Rc<[u8]>);

/// One receiver's session.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    waiting: VecDeque<Message>,
    given: VecDeque<Message>,
    is_open: bool,
}

impl Mailbox {
    /// Takes a message; gives it back for delivery if its receiver is there. `keeps`: hold it for one who is away.
    pub(super) fn take(&mut self, message: Message, keeps: bool) -> Option<Message> {
        if self.is_open {
            self.given.push_back(message.clone());
            if self.given.len() > UNCONFIRMED_MAX {
                self.given.pop_front();
            }
            return Some(message);
        }
        if keeps && self.waiting.len() < WAITING_MAX {
            self.waiting.push_back(message);
        }
        None
    }

    /// The receiver is there: what it may not have confirmed, then what waited.
    pub(super) fn open(&mut self, keeps: bool) -> Vec<Message> {
        self.is_open = true;
        let mut all = Vec::new();
        if keeps {
            all.extend(self.given.drain(..));
            all.extend(self.waiting.drain(..));
        }
        self.given.clear();
        self.waiting.clear();
        all
    }

    /// The receiver is gone.
    pub(super) const fn close(&mut self) {
        self.is_open = false;
    }

    /// The broker forgets everything.
    pub(super) fn forget(&mut self) {
        self.waiting.clear();
        self.given.clear();
    }
}

/// The broker.
#[derive(Debug)]
pub(super) struct Broker {
    pub(super) is_up: bool,
    pub(super) drops_silently: bool,
    pub(super) centre: Mailbox,
    pub(super) edges: Vec<Mailbox>,
}

impl Broker {
    pub(super) fn new(agents: usize) -> Self {
        let edges = (0..agents).map(|_| Mailbox::default()).collect();
        Self { is_up: true, drops_silently: false, centre: Mailbox::default(), edges }
    }

    /// Every connection ends; `forgets`: and every session with it.
    pub(super) fn disconnect(&mut self, forgets: bool) {
        for mailbox in self.edges.iter_mut().chain([&mut self.centre]) {
            mailbox.close();
            if forgets {
                mailbox.forget();
            }
        }
    }
}
