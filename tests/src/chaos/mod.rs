//! Chaos: a real aggregator, a real agent and a real broker, killed at moments that a seed decides, and looked at through their
//! real stores.
//!
//! Owns the proof that `kill -9` loses nothing and doubles nothing. It must never take a process's word for what it stored: the spool's
//! files and the database are read by themselves. The hard case is a process that is killed while it starts, or twice in a row;
//! moments are therefore drawn in time, not at places where a process is ready.
mod books;
mod stage;

use std::fmt;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::fleet::random::Random;
use crate::rig::eventually;
use books::Books;
use stage::Stage;

/// Kills between two moments at which everything must drain and every sum must hold.
const KILLS_TO_CALM: u32 = 8;
/// The longest time between two kills.
const LIFE_MS_MAX: usize = 2_500;
/// How long everything may take to drain once nothing is killed any more.
const DRAIN_S_MAX: u64 = 180;

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
    /// Moments at which everything had drained and every sum held.
    pub calms: u32,
    /// Records made, over all processes of the agent.
    pub made: u64,
    /// Records on the agent's disk that were looked for in the aggregator's database after a kill.
    pub compared: u64,
    /// How long it took.
    pub took: Duration,
}

impl Report {
    const fn count(&mut self, victim: Victim) {
        self.kills[0] += matches!(victim, Victim::Agent | Victim::Both) as u32;
        self.kills[1] += matches!(victim, Victim::Aggregator | Victim::Both) as u32;
        self.kills[2] += matches!(victim, Victim::Broker { .. }) as u32;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kills: [agent, aggregator, broker], calms, made, compared, took } = self;
        write!(
            out,
            "{} kills (agent {agent}, aggregator {aggregator}, broker {broker}) in {} s: {made} records made, {compared} found on disk after \
             kills, every sum held {calms} times; lost 0, doubled 0",
            agent + aggregator + broker,
            took.as_secs()
        )
    }
}

/// Kills `kills` times over `way`, as `seed` decides.
///
/// # Panics
/// When anything does not hold; the message says what, and the logs of all processes follow.
pub fn play(seed: u64, kills: u32, way: Way) -> Report {
    let began = Instant::now();
    let mut random = Random::new(seed, "chaos");
    let mut stage = Stage::set(way);
    let mut books = Books::default();
    let mut report = Report::default();
    calm(&mut stage, &mut books, &mut report);
    let mut killed = 0;
    while killed < kills {
        live(&stage, random.index(LIFE_MS_MAX) as u64);
        let victim = draw(&mut random, way, &stage);
        strike(&mut stage, &mut books, victim, random.index(1_000) as u64);
        report.count(victim);
        let before = killed;
        killed = report.kills.iter().sum();
        if killed / KILLS_TO_CALM > before / KILLS_TO_CALM || killed >= kills {
            calm(&mut stage, &mut books, &mut report);
        }
    }
    stage.stop();
    Report { made: books.made(), compared: books.compared, took: began.elapsed(), ..report }
}

fn draw(random: &mut Random, way: Way, stage: &Stage) -> Victim {
    let victims = if way == Way::Quic { 3 } else { 5 };
    match random.index(victims) {
        0 => Victim::Agent,
        1 => Victim::Aggregator,
        2 => Victim::Both,
        which => Victim::Broker { keeps: which == 3 && stage.broker_has_database() },
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
            books.note_agent(stage);
            stage.kill_agent();
            books.compare_disks(stage);
            live(stage, dead_ms);
            stage.start_agent();
        }
        Victim::Aggregator => {
            stage.kill_aggregator();
            books.note_store(stage);
            books.begin_aggregator();
            live(stage, dead_ms);
            stage.start_aggregator();
        }
        Victim::Both => {
            stage.kill_aggregator();
            books.note_store(stage);
            books.begin_aggregator();
            live(stage, 2 * dead_ms + 1_000);
            books.note_agent(stage);
            stage.kill_agent();
            books.compare_disks(stage);
            stage.start_agent();
            live(stage, dead_ms);
            stage.start_aggregator();
        }
        Victim::Broker { keeps } => {
            stage.kill_broker();
            live(stage, dead_ms);
            stage.start_broker(keeps);
        }
    }
}

/// Everything drains, and every sum holds.
fn calm(stage: &mut Stage, books: &mut Books, report: &mut Report) {
    stage.wait_until_ready();
    books.note_agent(stage);
    eventually("everything drained, and as much applied as made", DRAIN_S_MAX, || {
        stage.send();
        books.balance(stage)
    });
    report.calms += 1;
}
