//! `run`: puts the parts together, reacts to signals, and takes them apart in the right order.
//! It must never leave a task behind unnoticed: the end of any task that should live on ends the process with its error.
//! The hard case is the stop: no new frames, then everything taken is committed and acknowledged, then connections and the store close.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use anyhow::{Context, anyhow};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{interval, timeout};
use vedette_aggregator_core::{Aggregator, Snapshot};

use crate::api::{self, Desk};
use crate::ca::Authority;
use crate::config::Config;
use crate::credentials::Credentials;
use crate::drive::{Driver, Order, Outlets};
use crate::enroll::{Enroller, unix_ms};
use crate::http::{self, CoreCounts, Health};
use crate::limits::{HISTORY_SWEEP, SERVER_CERTIFICATE_RENEWAL, STOP_TIMEOUT};
use crate::listen::Reception;
use crate::listen::inbox::{self, Inbox};
use crate::listen::mqtt::MqttListener;
use crate::listen::quic::QuicListener;
use crate::metrics::Metrics;
use crate::notify::Notifier;
use crate::outbox::{self, Routes};
use crate::schedule;
use crate::state_folder::StateFolder;
use crate::store::{Store, StoreHandle, StoreThread};

/// Orders that wait for the driver.
const ORDERS_MAX: usize = 16;

/// A running aggregator.
#[derive(Debug)]
pub struct Service {
    listener: Arc<QuicListener>,
    mqtt: Option<Arc<MqttListener>>,
    http_address: SocketAddr,
    metrics: Metrics,
    credentials: Credentials,
    store: StoreHandle,
    store_threads: Vec<StoreThread>,
    config: watch::Sender<Arc<Config>>,
    orders: mpsc::Sender<Order>,
    outbox: Arc<Notify>,
    stop: watch::Sender<bool>,
    driver: JoinHandle<anyhow::Result<()>>,
    tasks: JoinSet<anyhow::Result<()>>,
    notifiers: JoinSet<()>,
    // Last, so that the next aggregator can start only when everything above is gone.
    _lock: File,
}

/// The two connections to the database: one that commits, and one for those who only read.
struct Stores {
    writes: StoreHandle,
    reads: StoreHandle,
    threads: Vec<StoreThread>,
}

impl Stores {
    fn open(folder: &StateFolder) -> anyhow::Result<Self> {
        let (writer, writes) = StoreThread::start(Store::open(folder)?, "store")?;
        let (reader, reads) = StoreThread::start(Store::open(folder)?, "store-reads")?;
        Ok(Self { writes, reads, threads: vec![writer, reader] })
    }
}

impl Service {
    /// Starts everything that `config` says.
    ///
    /// # Errors
    /// What keeps it from starting, in words for people.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let folder = StateFolder::open(&config.state_dir)?;
        let lock = folder.lock()?;
        let authority = Arc::new(Authority::open(&folder, SystemTime::now())?);
        let stores = Stores::open(&folder)?;
        let enroller = Arc::new(Enroller::start(authority, stores.writes.clone(), folder.clone()).await?);
        let metrics = Metrics::default();
        let (inbox, received) = inbox::inbox(metrics.clone());
        let reception = reception(&config, &enroller, inbox, &metrics);
        let mqtt = mqtt_listener(&config, &reception);
        let listener = Arc::new(QuicListener::bind(config.listen.quic, reception)?);
        let web = http::bind(config.listen.http).await?;
        let http_address = web.local_addr()?;
        let (outlets, pictures) = outlets(&config, &metrics);
        let (stop, stopping) = watch::channel(false);
        let (orders, ordered) = mpsc::channel(ORDERS_MAX);
        let driver = Driver::restore(
            config.core_settings(),
            Routes::new(&config),
            stores.writes.clone(),
            outlets.clone(),
        )
        .await?;
        let driver = driver.run(received, ordered, stopping.clone());
        let driver = tokio::spawn(async move { Ok(driver.await?) });

        let config = Arc::new(config);
        let (config_sender, configs) = watch::channel(Arc::clone(&config));
        let desk = Desk::new(pictures.clone(), stores.reads.clone(), configs.clone());
        let health = health(&metrics, &outlets, pictures);
        let router = http::router(health).merge(api::router(desk.clone()));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { Ok(http::serve(web, router, stopping).await?) });
        tasks.spawn(run_listener(Arc::clone(&listener)));
        let credentials = Credentials::new(folder, Arc::clone(&listener), enroller);
        tasks.spawn(watch_credentials(credentials.clone()));
        if let Some(mqtt) = mqtt.clone() {
            tasks.spawn(run_mqtt_listener(mqtt));
        }
        tasks.spawn(watch_desk(desk));
        let watched = schedule::watch(stores.reads, configs.clone(), orders.clone());
        tasks.spawn(async move { Ok(watched.await?) });
        tasks.spawn(sweep_history(stores.writes.clone(), configs));

        let mut service = Self {
            listener,
            mqtt,
            http_address,
            metrics,
            credentials,
            store: stores.writes,
            store_threads: stores.threads,
            config: config_sender,
            orders,
            outbox: outlets.outbox,
            stop,
            driver,
            tasks,
            notifiers: JoinSet::new(),
            _lock: lock,
        };
        service.start_notifiers(&config);
        Ok(service)
    }

    /// The UDP address for agents.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn quic_address(&self) -> std::io::Result<SocketAddr> {
        self.listener.address()
    }

    /// The TCP address of console, API, health and metrics.
    #[must_use]
    pub const fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// The counters.
    #[must_use]
    pub const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The store that commits.
    #[must_use]
    pub const fn store(&self) -> &StoreHandle {
        &self.store
    }

    /// Takes over another config and the CA's present file. Addresses, limits of connections and the state folder need a restart.
    ///
    /// # Errors
    /// What keeps it from doing so; the former config then stays.
    pub async fn reload(&mut self, config: Config) -> anyhow::Result<()> {
        let former = Arc::clone(&self.config.borrow());
        if former.listen != config.listen || former.state_dir != config.state_dir {
            tracing::warn!("`listen` and `state_dir` change with the next start only");
        }
        self.renew_certificates().await?;
        let order = Order::Settings(Box::new(config.core_settings()), Box::new(Routes::new(&config)));
        self.orders.send(order).await.map_err(|_| anyhow!("the core's task has ended"))?;
        self.start_notifiers(&config);
        self.config.send_replace(Arc::new(config));
        Ok(())
    }

    /// Reads the CA again, as it may have been rotated, and shows a fresh server certificate.
    ///
    /// # Errors
    /// What is wrong with the CA; the former certificates then stay.
    pub async fn renew_certificates(&self) -> anyhow::Result<()> {
        self.credentials.renew().await
    }

    /// Waits until a part that should live on has ended, and says why.
    pub async fn failed(&mut self) -> anyhow::Error {
        let ended = tokio::select! {
            ended = &mut self.driver => ended,
            Some(ended) = self.tasks.join_next() => ended,
        };
        match ended {
            Ok(Ok(())) => anyhow!("a part of the aggregator ended by itself"),
            Ok(Err(error)) => error,
            Err(error) => anyhow!(error).context("a part of the aggregator broke down"),
        }
    }

    /// Stops gracefully: everything that was received is committed and acknowledged.
    ///
    /// # Errors
    /// When that took longer than [`STOP_TIMEOUT`], or the store failed.
    pub async fn stop(self) -> anyhow::Result<()> {
        let Self {
            listener, mqtt, stop, driver, mut tasks, mut notifiers, store_threads, credentials, ..
        } = {
            self.listener.stop();
            self
        };
        mqtt.iter().for_each(|mqtt| mqtt.stop());
        stop.send_replace(true);
        let driven = timeout(STOP_TIMEOUT, driver).await.context("the core's task did not stop in time")?;
        if let Some(mqtt) = mqtt {
            mqtt.finish().await;
        }
        tasks.shutdown().await;
        notifiers.shutdown().await;
        drop(credentials);
        if let Some(listener) = Arc::into_inner(listener) {
            listener.finish().await;
        }
        drop(store_threads);
        driven?
    }

    /// Starts one task for each notifier, in place of those before. A delivery under way may be made again: at least once.
    fn start_notifiers(&mut self, config: &Config) {
        self.notifiers.abort_all();
        for notifier in Notifier::all(config) {
            let deliveries = outbox::deliver_all(
                Arc::new(notifier),
                self.store.clone(),
                Arc::clone(&self.outbox),
                self.metrics.clone(),
            );
            // It ends only with the store, which ends the driver too; that is where the error is told.
            self.notifiers.spawn(async { drop(deliveries.await) });
        }
    }
}

fn health(metrics: &Metrics, outlets: &Outlets, pictures: watch::Receiver<Arc<Snapshot>>) -> Health {
    let page = metrics.page();
    page.add(Box::new(CoreCounts::new(pictures)));
    Health { ready: Arc::clone(&outlets.ready), page: Arc::new(page) }
}

fn reception(config: &Config, enroller: &Arc<Enroller>, inbox: Inbox, metrics: &Metrics) -> Reception {
    Reception {
        enroller: Arc::clone(enroller),
        inbox,
        metrics: metrics.clone(),
        connections_max: usize::try_from(config.limits.connections_max).unwrap_or(usize::MAX),
    }
}

fn mqtt_listener(config: &Config, reception: &Reception) -> Option<Arc<MqttListener>> {
    let mqtt = config.listen.mqtt.clone();
    let agents_max = usize::try_from(config.limits.agents_max).unwrap_or(usize::MAX);
    mqtt.is_enabled().then(|| Arc::new(MqttListener::new(mqtt, reception.clone(), agents_max)))
}

fn outlets(config: &Config, metrics: &Metrics) -> (Outlets, watch::Receiver<Arc<Snapshot>>) {
    let empty = Aggregator::new(config.core_settings()).snapshot();
    let (snapshots, pictures) = watch::channel(Arc::new(empty));
    let outlets = Outlets {
        snapshots,
        outbox: Arc::new(Notify::new()),
        ready: Arc::new(AtomicBool::new(true)),
        metrics: metrics.clone(),
    };
    (outlets, pictures)
}

async fn run_listener(listener: Arc<QuicListener>) -> anyhow::Result<()> {
    listener.serve().await;
    Ok(())
}

async fn run_mqtt_listener(listener: Arc<MqttListener>) -> anyhow::Result<()> {
    listener.serve().await;
    Ok(())
}

async fn watch_credentials(credentials: Credentials) -> anyhow::Result<()> {
    credentials.watch().await;
    Ok(())
}

async fn watch_desk(desk: Desk) -> anyhow::Result<()> {
    desk.watch().await;
    Ok(())
}

/// Removes history past its retention, once an hour.
async fn sweep_history(store: StoreHandle, configs: watch::Receiver<Arc<Config>>) -> anyhow::Result<()> {
    let mut ticks = interval(HISTORY_SWEEP);
    loop {
        ticks.tick().await;
        let kept_ms = i64::from(configs.borrow().limits.retention_days) * 86_400_000;
        let before_ms = unix_ms(SystemTime::now()).saturating_sub(kept_ms);
        match store.with(move |store| store.forget_history(before_ms)).await? {
            Ok(rows) => tracing::debug!(rows, "history past its retention removed"),
            Err(error) => tracing::warn!(%error, "history cannot be swept"),
        }
    }
}

/// Runs until SIGTERM or SIGINT. SIGHUP reads `file` and the CA again.
///
/// # Errors
/// What kept it from starting or running, in words for people.
pub async fn run(file: Option<PathBuf>, config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    // Where systemd does not watch, the signs of life go nowhere, and seldom.
    let mut life =
        interval(sd_notify::watchdog_enabled().map_or(SERVER_CERTIFICATE_RENEWAL, |period| period / 2));
    let state_dir = config.state_dir.clone();
    let mut service = Service::start(config).await?;
    tracing::info!(
        quic = %service.quic_address()?, http = %service.http_address(), state_dir = %state_dir.display(),
        "running"
    );
    tell_systemd(&NotifyState::Ready);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => reload(&mut service, file.as_deref()).await,
            _ = life.tick() => tell_systemd(&NotifyState::Watchdog),
            error = service.failed() => return Err(error),
        }
    }
    tracing::info!("stopping");
    tell_systemd(&NotifyState::Stopping);
    service.stop().await
}

/// Says nothing where there is no systemd.
fn tell_systemd(state: &NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

/// A config with mistakes changes nothing.
async fn reload(service: &mut Service, file: Option<&Path>) {
    let result = match Config::load(file) {
        Ok(config) => service.reload(config).await,
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => tracing::info!("config read again"),
        Err(error) => tracing::error!(error = format!("{error:#}"), "the former config stays"),
    }
}
