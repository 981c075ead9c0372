//! Chaos: a real aggregator, a real agent and a real broker, killed at moments that a seed decides, and looked at through their
//! real stores.
//!
//! Owns the proof that `kill -9` loses nothing and doubles nothing. It must never take a process's word for what it stored: the spool's
//! files and the database are read by themselves. The hard case is a process that is killed while it starts, or twice in a row;
//! moments are therefore drawn in time, not at places where a process is ready.
mod books;
mod stage;
mod weather;

use std::fmt;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::fleet::random::Random;
use crate::rig::{Network, eventually};
use books::Books;
use stage::{PORTS, Stage};
use weather::Weather;

/// Kills between two moments at which everything must drain and every sum must hold.
const KILLS_TO_CALM: u32 = 8;
/// The longest time between two kills.
const LIFE_MS_MAX: usize = 2_500;
/// The longest time that the dead are left dead; the aggregator's is up to three times as long and a second.
const DEAD_MS_MAX: usize = 3_000;
/// How long everything may take to drain once nothing is killed any more.
const DRAIN_S_MAX: u64 = 180;

/// The exit code of the command where namespaces are not allowed.
pub const SKIPPED: u8 = 77;

/// How the agent reaches the aggregator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// QUIC with mutual TLS; there is no broker.
    Quic,
    /// Debian's mosquitto, MQTT 5.
    Mqtt,
    /// The first, and the second when it fails.
    Both,
}

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Agent,
    Aggregator,
    /// The aggregator, and the agent while records wait for it on its disk.
    Both,
    /// Everything there is, at once.
    All,
    /// The broker, which finds its database again or not.
    Broker {
        keeps: bool,
    },
}

/// What was gone through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Kills of the agent, the aggregator, and the broker.
    pub kills: [u32; 3],
    /// Times that the network was cut, slow, and lossy while somebody was killed.
    pub weather: [u32; 3],
    /// Packets that it lost while it was lossy.
    pub packets_lost: u64,
    /// Moments at which everything had drained and every sum held.
    pub calms: u32,
    /// Records made, over all processes of the agent.
    pub made: u64,
    /// Records on the agent's disk that were looked for in the aggregator's database after a kill, each time anew.
    pub compared: u64,
    /// Of those, the ones that the database did not have yet: the disk alone held them.
    pub spooled: u64,
    /// How long it took.
    pub took: Duration,
}

impl Report {
    const fn count(&mut self, victim: Victim, way: Way) {
        self.kills[0] += matches!(victim, Victim::Agent | Victim::Both | Victim::All) as u32;
        self.kills[1] += matches!(victim, Victim::Aggregator | Victim::Both | Victim::All) as u32;
        let has_broker = !matches!(way, Way::Quic);
        self.kills[2] += (matches!(victim, Victim::Broker { .. } | Victim::All) && has_broker) as u32;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kills: [agent, aggregator, broker], calms, made, compared, spooled, took, .. } = self;
        let [cuts, delays, losses] = self.weather;
        let (kills, seconds) = (agent + aggregator + broker, took.as_secs());
        write!(
            out,
            "{kills} kills (agent {agent}, aggregator {aggregator}, broker {broker}) in {seconds} s"
        )?;
        if cuts + delays + losses > 0 {
            let packets = self.packets_lost;
            write!(
                out,
                ", network cut {cuts}, slow {delays} and lossy {losses} times ({packets} packets lost)"
            )?;
        }
        write!(
            out,
            ": {made} records made, {compared} times one was found on the disk after a kill, {spooled} times it was nowhere else, every sum \
             held {calms} times; lost 0, doubled 0"
        )
    }
}

/// Kills `kills` times over `way`, as `seed` decides; `networked`: between namespaces, through cuts, delay and loss.
///
/// # Panics
/// When anything does not hold; the message says what, and the logs of all processes follow.
pub fn play(seed: u64, kills: u32, way: Way, networked: bool) -> Report {
    let began = Instant::now();
    let mut random = Random::new(seed, "chaos");
    let network = networked.then(|| Network::set(&PORTS));
    let mut stage = Stage::set(way, network);
    let mut books = Books::default();
    let mut report = Report::default();
    calm(&mut stage, &mut books, &mut report);
    let mut killed = 0;
    while killed < kills {
        let weather = Weather::draw(&mut random).filter(|_| networked);
        if let (Some(weather), Some(network)) = (weather, &stage.network) {
            weather.come(network);
        }
        live(&stage, random.index(LIFE_MS_MAX) as u64);
        let victim = draw(&mut random, way, &stage);
        let dead_ms = random.index(DEAD_MS_MAX) as u64;
        strike(&mut stage, &mut books, victim, dead_ms);
        report.count(victim, way);
        if let (Some(weather), Some(network)) = (weather, &stage.network) {
            live(&stage, random.index(LIFE_MS_MAX) as u64);
            report.packets_lost += network.lost();
            report.weather[weather.kind()] += 1;
            Weather::go(network);
        }
        let before = killed;
        killed = report.kills.iter().sum();
        if killed / KILLS_TO_CALM > before / KILLS_TO_CALM || killed >= kills {
            calm(&mut stage, &mut books, &mut report);
        }
    }
    stage.stop();
    let (compared, spooled) = (books.compared, books.spooled);
    Report { made: books.made(), compared, spooled, took: began.elapsed(), ..report }
}

fn draw(random: &mut Random, way: Way, stage: &Stage) -> Victim {
    let victims = if way == Way::Quic { 4 } else { 6 };
    match random.index(victims) {
        0 => Victim::Agent,
        1 => Victim::Aggregator,
        2 => Victim::Both,
        3 => Victim::All,
        which => Victim::Broker { keeps: which == 4 && stage.broker_has_database() },
    }
}

/// Lets telemetry flow for a while.
fn live(stage: &Stage, ms: u64) {
    let end = Instant::now() + Duration::from_millis(ms);
    while Instant::now() < end {
        stage.send();
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Kills the victim, leaves it dead for a while, and starts it again without waiting until it is ready.
fn strike(stage: &mut Stage, books: &mut Books, victim: Victim, dead_ms: u64) {
    match victim {
        Victim::Agent => {
            kill_agent(stage, books);
            live(stage, dead_ms);
            stage.start_agent();
        }
        Victim::Aggregator => {
            kill_aggregator(stage, books);
            live(stage, dead_ms);
            stage.start_aggregator();
        }
        Victim::Both => {
            kill_aggregator(stage, books);
            live(stage, 2 * dead_ms + 1_000);
            kill_agent(stage, books);
            stage.start_agent();
            live(stage, dead_ms);
            stage.start_aggregator();
        }
        Victim::All => {
            let keeps = stage.broker_has_database();
            stage.kill_broker();
            kill_aggregator(stage, books);
            kill_agent(stage, books);
            stage.start_agent();
            live(stage, dead_ms);
            stage.start_broker(keeps);
            stage.start_aggregator();
        }
        Victim::Broker { keeps } => {
            stage.kill_broker();
            live(stage, dead_ms);
            stage.start_broker(keeps);
        }
    }
}

fn kill_agent(stage: &mut Stage, books: &mut Books) {
    books.note_agent(stage);
    stage.kill_agent();
    books.compare_disks(stage);
}

fn kill_aggregator(stage: &mut Stage, books: &mut Books) {
    stage.kill_aggregator();
    books.note_store(stage);
    books.begin_aggregator();
}

/// Everything drains, and every sum holds.
fn calm(stage: &mut Stage, books: &mut Books, report: &mut Report) {
    stage.wait_until_ready();
    books.note_agent(stage);
    eventually("everything drained, and as much applied as made", DRAIN_S_MAX, || books.balance(stage));
    report.calms += 1;
}
