//! Drives the core: takes what listeners received, commits what followed, and only then answers and lets notifiers know.
//! It is the only task that touches the core; it must never answer an agent before the store has the batch.
//! The hard case is a disk that fails or fills: the batch is kept and tried again, nothing more is taken in, nothing is acknowledged,
//! so the agents keep their records in their spools.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use vedette_aggregator_core::{
    Aggregator, AllowedRegions, Change, Effect, IncidentState, Part, Settings, Snapshot,
};
use vedette_common::wire::{Acknowledge, Birth, Refuse};
use vedette_common::{AgentId, BootId, Lane, RecordKey};

use crate::clock::Clock;
use crate::limits::{BATCH_RECORDS_MAX, COMMIT_LINGER, COMMIT_RETRY, PUBLISH_INTERVAL};
use crate::listen::inbox::Inputs;
use crate::listen::{AgentMessage, Input, Replies, stopped};
use crate::metrics::{Metrics, Tally};
use crate::outbox::Routes;
use crate::pulse::Pulse;
use crate::schedule::Schedule;
use crate::store::{Batch, Notified, StoreClosed, StoreError, StoreHandle, StoredPart, StoredState};

/// What the rest of the process asks of the driver.
#[derive(Debug)]
pub enum Order {
    /// The calendar or the silences are these from now on.
    Schedule(Box<Schedule>),
    /// The config was read again.
    Settings(Box<Settings>, Box<Routes>),
}

/// What can end the driver before it is stopped, or keep it from starting.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// The store's thread is gone.
    #[error(transparent)]
    Closed(#[from] StoreClosed),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stored part is not what this program wrote.
    #[error(
        "the stored state `{key}` cannot be read: {source}; restore the database from a backup, or remove it to start over"
    )]
    Part {
        /// The part.
        key: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// Where the driver's results go.
#[derive(Debug, Clone)]
pub struct Outlets {
    /// Pictures of the core for the API and the console.
    pub snapshots: watch::Sender<Arc<Snapshot>>,
    /// Woken when deliveries were put into the outbox.
    pub outbox: Arc<Notify>,
    /// Whether the last commit went well.
    pub ready: Arc<AtomicBool>,
    /// Where to count.
    pub metrics: Metrics,
    /// Beats with each turn.
    pub pulse: Arc<Pulse>,
}

/// The core and everything around it.
pub struct Driver {
    core: Aggregator,
    clock: Clock,
    store: StoreHandle,
    outlets: Outlets,
    routes: Routes,
    schedule: Schedule,
    links: BTreeMap<AgentId, Link>,
    batch: Pending,
    published_at: Instant,
    stale: bool,
}

/// The connection that speaks for an agent.
struct Link {
    connection: u64,
    replies: Replies,
    /// The regions that it speaks for by its birth: what its calendar is about.
    regions: AllowedRegions,
}

/// What waits for the next commit.
#[derive(Default)]
struct Pending {
    records: usize,
    refusals: Vec<(AgentId, Refuse)>,
    acknowledged: BTreeMap<(AgentId, BootId, Lane), RecordKey>,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("links", &self.links.len()).finish_non_exhaustive()
    }
}

impl Driver {
    /// A driver whose core knows everything that was committed, and what is scheduled and silenced: windows that wait are
    /// judged on its first turn.
    ///
    /// # Errors
    /// [`DriveError`] when the store cannot be read or holds what this program did not write.
    pub async fn restore(
        settings: Settings,
        schedule: Schedule,
        routes: Routes,
        store: StoreHandle,
        outlets: Outlets,
    ) -> Result<Self, DriveError> {
        let parts = store.with(|store| store.parts()).await??;
        let parts = parts
            .into_iter()
            .map(|(key, body)| {
                serde_json::from_str::<Part>(&body).map_err(|source| DriveError::Part { key, source })
            })
            .collect::<Result<Vec<_>, _>>()?;
        tracing::info!(parts = parts.len(), "state restored");
        let mut driver = Self {
            core: Aggregator::restore(settings, parts),
            clock: Clock::start(),
            store,
            outlets,
            routes,
            schedule: Schedule::default(),
            links: BTreeMap::new(),
            batch: Pending::default(),
            published_at: Instant::now(),
            stale: true,
        };
        driver.obey(Order::Schedule(Box::new(schedule)));
        Ok(driver)
    }

    /// Takes inputs until a stop, then what is queued, commits, answers, and lets go of the connections.
    ///
    /// # Errors
    /// [`DriveError::Closed`] when the store's thread is gone.
    pub async fn run(
        mut self,
        mut inputs: Inputs,
        mut orders: mpsc::Receiver<Order>,
        mut stopping: watch::Receiver<bool>,
    ) -> Result<(), DriveError> {
        self.core.handle_start(self.clock.now());
        self.publish();
        loop {
            let wake = self.wake_at();
            tokio::select! {
                biased;
                () = stopped(&mut stopping) => break,
                Some(order) = orders.recv() => self.obey(order),
                input = inputs.next() => self.gather(input, &mut inputs).await,
                () = sleep_until(wake) => {}
            }
            self.outlets.pulse.beat(Instant::now());
            self.core.handle_deadline(self.clock.now());
            self.commit(&stopping).await?;
            if self.stale && self.published_at.elapsed() >= PUBLISH_INTERVAL {
                self.publish();
            }
        }
        inputs.close();
        while let Some(input) = inputs.take() {
            self.take(input);
        }
        self.commit(&stopping).await?;
        self.publish();
        Ok(())
    }

    /// The core's deadline, but never later than the next picture is due: the wall clock may step.
    fn wake_at(&self) -> Instant {
        let latest = Instant::now() + PUBLISH_INTERVAL;
        let Some(deadline) = self.core.poll_deadline() else { return latest };
        let wait_ms = deadline.ms_since(self.clock.now().wall);
        latest.min(Instant::now() + Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0)))
    }

    /// Takes `first` and what comes shortly after it, so that many records share one commit.
    async fn gather(&mut self, first: Input, inputs: &mut Inputs) {
        self.take(first);
        let until = Instant::now() + COMMIT_LINGER;
        while self.batch.records < BATCH_RECORDS_MAX && Instant::now() < until {
            let Ok(input) = timeout_at(until, inputs.next()).await else { break };
            self.take(input);
        }
        self.outlets.metrics.core_queue.set(i64::try_from(inputs.waiting()).unwrap_or(i64::MAX));
    }

    fn take(&mut self, input: Input) {
        self.batch.records += 1;
        match input {
            Input::Opened { agent, connection, replies } => {
                // Dropping the replies of a former connection ends it.
                let regions = AllowedRegions::Named(BTreeSet::new());
                self.links.insert(agent, Link { connection, replies, regions });
            }
            Input::Received { agent, connection, regions, message } => {
                // What a former connection still had queued was not acknowledged; it comes again on the present one.
                if self.links.get(&agent).is_some_and(|link| link.connection == connection) {
                    self.hear(&agent, &regions, &message);
                }
            }
            Input::Elsewhere { agent, key } => {
                self.core.handle_elsewhere(self.clock.now(), &agent, key);
                self.stale = true;
            }
            Input::Closed { agent, connection } => {
                if self.links.get(&agent).is_some_and(|link| link.connection == connection) {
                    self.links.remove(&agent);
                }
            }
        }
        let links = i64::try_from(self.links.len()).unwrap_or(i64::MAX);
        self.outlets.metrics.agents_connected.set(links);
    }

    fn hear(&mut self, agent: &AgentId, regions: &AllowedRegions, message: &AgentMessage) {
        let now = self.clock.now();
        match message {
            AgentMessage::Birth(birth) => {
                self.core.handle_birth(now, agent, birth);
                self.send_calendar(agent, concerned(birth, regions));
            }
            AgentMessage::Heartbeat(heartbeat) => {
                self.core.handle_heartbeat(now, agent, heartbeat);
            }
            AgentMessage::Summary(summary) => {
                // What became of it is among the effects.
                let _ = self.core.handle_summary(now, agent, regions, summary);
            }
        }
        self.stale = true;
    }

    fn send_calendar(&mut self, agent: &AgentId, regions: AllowedRegions) {
        let calendar = self.schedule.calendar_for(&regions, self.clock.now().wall);
        if let Some(link) = self.links.get_mut(agent) {
            link.regions = regions;
            if link.replies.send(&calendar).is_err() {
                self.links.remove(agent);
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Settings(settings, routes) => {
                self.core.set_settings(*settings);
                self.routes = *routes;
            }
            Order::Schedule(schedule) => {
                self.core.handle_calendar(schedule.entries.clone());
                self.core.handle_silences(schedule.silences.clone());
                self.schedule = *schedule;
                let (schedule, now) = (&self.schedule, self.clock.now().wall);
                // An agent that does not read its answers is let go.
                self.links
                    .retain(|_, link| link.replies.send(&schedule.calendar_for(&link.regions, now)).is_ok());
            }
        }
        self.stale = true;
    }

    /// Commits everything that followed from the inputs taken, then answers. Tries until the disk takes it, or the process is stopped.
    async fn commit(&mut self, stopping: &watch::Receiver<bool>) -> Result<(), DriveError> {
        let batch = Arc::new(self.drain());
        if !batch.is_empty() {
            self.stale = true;
            while !self.try_commit(&batch).await? {
                if *stopping.borrow() {
                    tracing::error!("stopping without the last commit; agents will send it again");
                    return Ok(());
                }
                // A disk that refuses is told by readiness; a restart would not mend it.
                self.outlets.pulse.beat(Instant::now());
                sleep(COMMIT_RETRY).await;
            }
        }
        self.answer();
        if !batch.states.is_empty() {
            self.outlets.outbox.notify_waiters();
        }
        Ok(())
    }

    async fn try_commit(&self, batch: &Arc<Batch>) -> Result<bool, DriveError> {
        let (metrics, now_ms) = (&self.outlets.metrics, self.clock.now().wall.0);
        let (outbox_max, shared, begun) = (self.routes.outbox_max, Arc::clone(batch), Instant::now());
        let result = self.store.with(move |store| store.commit(&shared, now_ms, outbox_max)).await?;
        self.outlets.ready.store(result.is_ok(), Ordering::Relaxed);
        match result {
            Ok(dropped) => {
                metrics.commits.inc();
                metrics.commit_seconds.observe(begun.elapsed().as_secs_f64());
                for (notifier, count) in dropped {
                    metrics.count_deliveries(&notifier, "outbox_full", count);
                }
                Ok(true)
            }
            Err(error) => {
                metrics.commit_failures.inc();
                tracing::error!(%error, "commit failed; nothing is acknowledged until it succeeds");
                Ok(false)
            }
        }
    }

    /// What followed from the inputs since the last commit.
    fn drain(&mut self) -> Batch {
        let parts = self.core.take_changes().into_iter().filter_map(stored_part).collect();
        let mut batch = Batch { parts, ..Batch::default() };
        while let Some(effect) = self.core.poll_effect() {
            self.sort_effect(effect, &mut batch);
        }
        batch
    }

    fn sort_effect(&mut self, effect: Effect, batch: &mut Batch) {
        match effect {
            Effect::Acknowledge { agent, key } => {
                // Acknowledgements are cumulative: the last one of a lane says what the earlier ones said.
                self.batch.acknowledged.insert((agent, key.boot, key.lane), key);
            }
            Effect::Refuse { agent, key, reason } => {
                self.outlets.metrics.count(Tally::Refused, reason.as_str());
                self.batch.refusals.push((agent, Refuse { reason, key: Some(key), retry_after_ms: 0 }));
            }
            Effect::Incident(alarm) => {
                self.outlets.metrics.count(Tally::State, alarm.state.as_str());
                let notified = self.routes.notified(alarm.state);
                batch.states.extend(stored_state(&alarm.id, alarm.state, &alarm, notified));
            }
            Effect::Basis { id, basis } => {
                // A state that could not be stored has no place for what it was decided from.
                if let Some(state) = batch.states.iter_mut().rev().find(|state| state.id == id) {
                    state.basis = to_json(&basis);
                }
            }
            Effect::Ledger(entry) => {
                batch.ledger.extend(to_json(&entry).map(|body| (entry.id.clone(), body)));
            }
        }
    }

    /// Tells the agents what was committed; refusals go before the acknowledgements that count them as consumed.
    fn answer(&mut self) {
        let Pending { refusals, acknowledged, .. } = std::mem::take(&mut self.batch);
        for (agent, refuse) in refusals {
            self.reply(&agent, |replies| replies.send(&refuse).is_ok());
        }
        for ((agent, ..), key) in acknowledged {
            self.reply(&agent, |replies| replies.send(&Acknowledge { key }).is_ok());
        }
    }

    fn reply(&mut self, agent: &AgentId, send: impl FnOnce(&Replies) -> bool) {
        if self.links.get(agent).is_some_and(|link| !send(&link.replies)) {
            self.links.remove(agent);
        }
    }

    fn publish(&mut self) {
        self.outlets.snapshots.send_replace(Arc::new(self.core.snapshot()));
        self.published_at = Instant::now();
        self.stale = false;
    }
}

/// The regions that an agent names at birth; all that it may speak for when it knows none yet.
fn concerned(birth: &Birth, allowed: &AllowedRegions) -> AllowedRegions {
    if birth.regions.is_empty() {
        return allowed.clone();
    }
    AllowedRegions::Named(birth.regions.iter().map(|name| name.as_str().to_owned()).collect())
}

fn stored_part(change: Change) -> Option<StoredPart> {
    let body = match &change.part {
        Some(part) => Some(to_json(part)?),
        None => None,
    };
    Some(StoredPart { key: change.key, body })
}

fn stored_state(
    id: &str,
    state: IncidentState,
    alarm: &impl serde::Serialize,
    notified: Vec<Notified>,
) -> Option<StoredState> {
    let body = to_json(alarm)?;
    Some(StoredState { id: id.to_owned(), state: state.as_str().to_owned(), body, basis: None, notified })
}

/// The core's types are plain data with text keys, which always become JSON; should one not, it is said and left out.
fn to_json(value: &impl serde::Serialize) -> Option<String> {
    serde_json::to_string(value).inspect_err(|error| tracing::error!(%error, "not storable as JSON")).ok()
}
