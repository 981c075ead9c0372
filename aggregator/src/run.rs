//! `run`: puts the parts together, reacts to signals, and takes them apart in the right order.
//! It must never leave a task behind unnoticed: the end of any task that should live on ends the process with its error.
//! The hard case is the stop: no new frames, then everything taken is committed and acknowledged, then connections and the store close.

use std::fs::File;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use anyhow::{Context, anyhow, bail};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, interval, timeout};
use vedette_aggregator_core::{Aggregator, Snapshot};

use crate::api::{self, Desk};
use crate::auth::{Gate, is_closed};
use crate::ca::Authority;
use crate::clock::Clock;
use crate::config::{Config, Listen};
use crate::credentials::Credentials;
use crate::drive::{Driver, Order, Outlets};
use crate::enroll::{Enroller, unix_ms};
use crate::housekeeping::{check_store, sweep_history};
use crate::http::listener::{Shown, WebListener, read_certificate};
use crate::http::{self, CoreCounts, Health};
use crate::limits::{CONFIG_POLL, SERVER_CERTIFICATE_RENEWAL, STOP_TIMEOUT};
use crate::listen::Reception;
use crate::listen::inbox::{self, Inbox};
use crate::listen::mqtt::MqttListener;
use crate::listen::quic::{DroppedDatagrams, QuicListener};
use crate::metrics::{Metrics, Tally};
use crate::outbox::{Deliveries, Routes};
use crate::pulse::Pulse;
use crate::reload::ConfigFile;
use crate::schedule::{self, Schedule};
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
    http_shown: Option<Shown>,
    metrics: Metrics,
    credentials: Credentials,
    store: StoreHandle,
    store_threads: Vec<StoreThread>,
    config: watch::Sender<Arc<Config>>,
    orders: mpsc::Sender<Order>,
    outbox: Arc<Notify>,
    pulse: Arc<Pulse>,
    stop: watch::Sender<bool>,
    driver: JoinHandle<anyhow::Result<()>>,
    tasks: JoinSet<anyhow::Result<()>>,
    deliveries: Option<Deliveries>,
    lock: File,
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
        admit_somebody(&config, &stores.reads).await?;
        let shown = shown_certificate(&config)?;
        let web = http::bind(config.listen.http).await?;
        let http_address = web.local_addr()?;
        let (outlets, pictures) = outlets(&config, &metrics);
        let (stop, stopping) = watch::channel(false);
        let (orders, ordered) = mpsc::channel(ORDERS_MAX);
        let config = Arc::new(config);
        let schedule = read_schedule(&stores.reads, &config).await?;
        let (settings, routes) = (config.core_settings(), Routes::new(&config));
        let driver =
            Driver::restore(settings, schedule, routes, stores.writes.clone(), outlets.clone()).await?;
        let driver = driver.run(received, ordered, stopping.clone());
        let driver = tokio::spawn(async move { Ok(driver.await?) });
        let (config_sender, configs) = watch::channel(Arc::clone(&config));
        let (reads, writes) = (stores.reads.clone(), stores.writes.clone());
        let gate = Gate::new(configs.clone(), reads.clone(), writes.clone(), metrics.clone())?;
        let desk = Desk::new(pictures.clone(), reads, writes, gate.clone(), configs.clone());
        let health = health(&metrics, &outlets, pictures, listener.dropped_datagrams());
        let router = http::router(health, gate.clone()).merge(api::router(desk.clone()));
        let web = WebListener::new(web, shown.clone(), gate);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { Ok(http::serve(web, router, stopping).await?) });
        tasks.spawn(run_listener(Arc::clone(&listener)));
        let credentials = Credentials::new(folder.clone(), Arc::clone(&listener), enroller);
        tasks.spawn(watch_credentials(credentials.clone()));
        if let Some(mqtt) = mqtt.clone() {
            tasks.spawn(run_mqtt_listener(mqtt));
        }
        tasks.spawn(watch_desk(desk));
        tasks.spawn(watch_schedule(stores.reads, configs.clone(), orders.clone()));
        tasks.spawn(sweep_history(stores.writes.clone(), configs, metrics.clone()));
        tasks.spawn(check_store(folder, metrics.clone()));

        let mut service = Self {
            listener,
            mqtt,
            http_address,
            http_shown: shown,
            metrics,
            credentials,
            store: stores.writes,
            store_threads: stores.threads,
            config: config_sender,
            orders,
            outbox: outlets.outbox,
            pulse: outlets.pulse,
            stop,
            driver,
            tasks,
            deliveries: None,
            lock,
        };
        service.start_deliveries(&config);
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

    /// Whether the core's task turns.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.pulse.is_alive(Instant::now())
    }

    /// Takes over another config and the CA's present file. What needs a restart is named in the log. Everything
    /// that can fail comes first, so that the former config is in force as a whole or not at all.
    ///
    /// # Errors
    /// What keeps it from doing so; the former config then stays.
    pub async fn reload(&mut self, config: Config) -> anyhow::Result<()> {
        let former = Arc::clone(&self.config.borrow());
        let keys = former.restart_keys(&config);
        if !keys.is_empty() {
            tracing::warn!(keys = keys.join(", "), "these change with the next start only");
        }
        let listen = Listen { http: former.listen.http, ..config.listen.clone() };
        admit_somebody(&Config { listen, ..config.clone() }, &self.store).await?;
        let show = self.read_console_certificate(&config)?;
        self.renew_certificates().await?;
        show();
        let order = Order::Settings(Box::new(config.core_settings()), Box::new(Routes::new(&config)));
        self.orders.send(order).await.map_err(|_| anyhow!("the core's task has ended"))?;
        if former.notify != config.notify {
            self.start_deliveries(&config);
        }
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

    /// Reads the certificate that `config` names for the console, if that speaks TLS; what is given shows it.
    fn read_console_certificate(&self, config: &Config) -> anyhow::Result<impl FnOnce() + use<>> {
        let fresh = match (&self.http_shown, config.listen.http_tls()) {
            (Some(shown), Some(files)) => Some((Arc::clone(shown), read_certificate(files)?)),
            _ => None,
        };
        Ok(move || {
            if let Some((shown, fresh)) = fresh {
                *shown.write().unwrap_or_else(PoisonError::into_inner) = fresh;
            }
        })
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
        self.listener.stop();
        let Self {
            listener, mqtt, stop, driver, tasks, deliveries, store_threads, credentials, lock, ..
        } = self;
        let mut tasks = tasks;
        mqtt.iter().for_each(|mqtt| mqtt.stop());
        stop.send_replace(true);
        let driven = timeout(STOP_TIMEOUT, driver).await.context("the core's task did not stop in time")?;
        if let Some(mqtt) = mqtt {
            mqtt.finish().await;
        }
        tasks.shutdown().await;
        if let Some(deliveries) = deliveries {
            deliveries.stop(STOP_TIMEOUT).await;
        }
        drop(credentials);
        if let Some(listener) = Arc::into_inner(listener) {
            listener.finish().await;
        }
        let close = move || store_threads.into_iter().try_for_each(StoreThread::close);
        let closed = timeout(STOP_TIMEOUT, tokio::task::spawn_blocking(close)).await;
        // The next aggregator can start only now.
        drop(lock);
        closed.context("the store did not close in time")???;
        driven?
    }

    /// Delivers to whom `config` names, in place of those before.
    fn start_deliveries(&mut self, config: &Config) {
        let former = self.deliveries.take();
        let started = Deliveries::start(config, &self.store, &self.outbox, &self.metrics, former);
        self.deliveries = Some(started);
    }
}

/// Keeps an address that other machines reach from being open by oversight, and from being closed to everybody.
async fn admit_somebody(config: &Config, store: &StoreHandle) -> anyhow::Result<()> {
    let address = config.listen.http;
    let exposed = !address.ip().is_loopback();
    if is_closed(config.auth.mode, exposed) {
        let now_ms = unix_ms(SystemTime::now());
        if !store.with(move |store| store.has_accounts(now_ms)).await?? {
            bail!(
                "console and API at {address} need a log-in and nobody has one: run `vedette-aggregator user add NAME` \
                 or `token api create --name NAME`, keep `listen.http` on loopback, or say `[auth] mode = \"none\"` where \
                 something in front lets people in"
            );
        }
        if exposed && config.listen.http_tls().is_none() && config.auth.proxies.is_empty() {
            tracing::warn!(
                %address,
                "passwords and tokens reach the console unencrypted: set `listen.http_certificate_file` or put a proxy in front"
            );
        }
    } else if exposed {
        tracing::warn!(%address, "everybody who reaches this address can read: `[auth] mode` is \"none\"");
    }
    Ok(())
}

fn shown_certificate(config: &Config) -> anyhow::Result<Option<Shown>> {
    let shown = config.listen.http_tls().map(read_certificate).transpose()?;
    Ok(shown.map(|shown| Arc::new(RwLock::new(shown))))
}

/// What is scheduled and silenced now: the core has to know before the first window is judged.
async fn read_schedule(store: &StoreHandle, config: &Arc<Config>) -> anyhow::Result<Schedule> {
    let (config, now) = (Arc::clone(config), Clock::start().now().wall);
    let read = store.with(move |store| Schedule::read(store, &config, now)).await?;
    read.context("the calendar and the silences cannot be read")
}

fn health(
    metrics: &Metrics,
    outlets: &Outlets,
    pictures: watch::Receiver<Arc<Snapshot>>,
    dropped: DroppedDatagrams,
) -> Health {
    let page = metrics.page();
    page.add(Box::new(CoreCounts::new(pictures)));
    page.add(Box::new(dropped));
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
        pulse: Arc::default(),
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

async fn watch_schedule(
    store: StoreHandle,
    configs: watch::Receiver<Arc<Config>>,
    orders: mpsc::Sender<Order>,
) -> anyhow::Result<()> {
    Ok(schedule::watch(store, configs, orders).await?)
}

async fn watch_desk(desk: Desk) -> anyhow::Result<()> {
    desk.watch().await;
    Ok(())
}

/// Runs until SIGTERM or SIGINT. SIGHUP, and a new content of the config's file, have it read again, and the CA with it.
///
/// # Errors
/// What kept it from starting or running, in words for people.
pub(crate) async fn run(mut file: ConfigFile, config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut looks = interval(CONFIG_POLL);
    // Where systemd does not watch, the signs of life go nowhere, and seldom.
    let mut life =
        interval(sd_notify::watchdog_enabled().map_or(SERVER_CERTIFICATE_RENEWAL, |period| period / 2));
    let state_dir = config.state_dir.clone();
    let mut service = Service::start(config).await?;
    service.metrics.name_config(file.active(), true);
    tracing::info!(
        quic = %service.quic_address()?, http = %service.http_address(), state_dir = %state_dir.display(),
        config = file.active(), "running"
    );
    tell_systemd(&NotifyState::Ready);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => reload(&mut service, &mut file).await,
            _ = looks.tick() => if file.look() { reload(&mut service, &mut file).await },
            _ = life.tick() => {
                // A core that hangs is ended and started again by the service manager.
                if service.is_alive() {
                    tell_systemd(&NotifyState::Watchdog);
                }
            }
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

/// A config with mistakes, or one that cannot be put in force, changes nothing.
async fn reload(service: &mut Service, file: &mut ConfigFile) {
    let result = match file.read() {
        Ok(config) => service.reload(config).await,
        Err(error) => Err(error.into()),
    };
    let metrics = &service.metrics;
    match result {
        Ok(()) => {
            file.accept();
            metrics.count(Tally::Reload, "done");
            tracing::info!(config = file.active(), "config read again");
        }
        Err(error) => {
            metrics.count(Tally::Reload, "refused");
            let (error, refused, active) = (format!("{error:#}"), file.tried(), file.active());
            tracing::error!(error, refused, active, "the former config stays in force");
        }
    }
    metrics.name_config(file.active(), file.active() == file.tried());
}
