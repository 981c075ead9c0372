//! The inbox: listeners put in what arrives, the core's task takes out what is next.
//! It must never make a listener wait: what [`Admission`] does not let in is refused at once, and the agent keeps it.
//! The hard case is the end: what comes after the core's task has closed the inbox is told so, and was never acknowledged.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::Input;
use super::admission::{Admission, Offer};
use crate::metrics::{Metrics, Tally};

/// The core's task takes nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the core takes nothing more")]
pub struct InboxClosed;

/// The listeners' end.
#[derive(Clone, Debug)]
pub struct Inbox {
    shared: Arc<Shared>,
    metrics: Metrics,
}

/// The end of the core's task.
#[derive(Debug)]
pub struct Inputs {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    arrived: Notify,
    begun: Instant,
}

#[derive(Debug, Default)]
struct State {
    admission: Admission,
    closed: bool,
}

/// An inbox with both its ends.
#[must_use]
pub fn inbox(metrics: Metrics) -> (Inbox, Inputs) {
    let (state, arrived, begun) = (Mutex::default(), Notify::new(), Instant::now());
    let shared = Arc::new(Shared { state, arrived, begun });
    (Inbox { shared: Arc::clone(&shared), metrics }, Inputs { shared })
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the rooms consistent enough to be emptied: each holds whole inputs.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Inbox {
    /// Puts `input` in, if there is room for it. What is not taken is counted.
    ///
    /// # Errors
    /// [`InboxClosed`] once the core's task has stopped.
    pub fn offer(&self, input: Input) -> Result<Offer, InboxClosed> {
        let jitter = f64::from(getrandom::u32().unwrap_or(0)) / f64::from(u32::MAX);
        let (offer, forgotten) = {
            let mut state = self.shared.lock();
            if state.closed {
                return Err(InboxClosed);
            }
            let offer = state.admission.offer(self.shared.now_ms(), input, jitter);
            (offer, state.admission.take_forgotten())
        };
        match offer {
            Offer::Taken => self.shared.arrived.notify_one(),
            Offer::Refused(_, name) => self.metrics.count(Tally::Refused, name),
            Offer::Behind => self.metrics.count(Tally::Refused, "behind_refused"),
            Offer::Over => self.metrics.count(Tally::Refused, "connection_over"),
        }
        (0..forgotten).for_each(|_| self.metrics.count(Tally::Refused, "connection_over"));
        Ok(offer)
    }
}

impl Inputs {
    /// What is next, as soon as there is anything. Dropping the future in between loses nothing.
    pub async fn next(&mut self) -> Input {
        loop {
            if let Some(input) = self.take() {
                return input;
            }
            self.shared.arrived.notified().await;
        }
    }

    /// What is next, if there is anything.
    pub fn take(&mut self) -> Option<Input> {
        let now_ms = self.shared.now_ms();
        self.shared.lock().admission.take(now_ms)
    }

    /// How much waits.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.lock().admission.len()
    }

    /// Lets nothing more in; what is in can still be taken.
    pub fn close(&mut self) {
        self.shared.lock().closed = true;
    }
}

impl Drop for Inputs {
    fn drop(&mut self) {
        // The ways back that wait inside end with it.
        *self.shared.lock() = State { closed: true, ..State::default() };
    }
}
