//! What a seed decides before anything happens: sizes, speeds, and which faults come how often.
//!
//! It must never leave every fault on: a world in which everything fails always never gets to the states in between, so
//! each seed draws its own mix (swarm testing; Groce and others 2012). The hard case is a mix of none at all, which is kept:
//! it shows that the oracle is silent when nothing is wrong.
use vedette_agent_core::link::LinkSettings;
use vedette_agent_core::spool::{SpoolSettings, SyncPolicy};

use crate::fleet::random::Random;

/// Everything that can go wrong, apart from what ways do to single frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The agent's process ends; its medium keeps every write.
    AgentKilled,
    /// The agent's power is cut: of writes that were not synced any part may be missing, torn or garbage.
    AgentPowerCut,
    /// The agent's medium takes no further bytes.
    MediumFull,
    /// The agent's medium can be read only.
    MediumReadOnly,
    /// The agent's medium fails to read and write.
    MediumBroken,
    /// One bit of the agent's medium flips, synced or not.
    BitFlip,
    /// The agent's wall clock jumps, forward or back.
    ClockJump,
    /// Nothing passes between the agent and the rest; noticed late or at once.
    Partition,
    /// The connection breaks, with what was on it.
    ConnectionCut,
    /// The agent's certificate is past its time: no handshake succeeds until it has a new one.
    CertificateExpired,
    /// The agent asks for another certificate with its present one, over its connection.
    CertificateRenewed,
    /// The agent is revoked: the aggregator sends it away, until a token takes it back.
    Revoked,
    /// The aggregator takes no connections and answers that it is overloaded.
    Overload,
    /// The aggregator's process ends, in the middle of a commit or not.
    AggregatorKilled,
    /// A commit takes seconds.
    StoreSlow,
    /// No commit succeeds.
    StoreFailing,
    /// The aggregator's wall clock jumps.
    AggregatorClockJump,
    /// The CA has another key; certificates under the former ones stay good, up to a number of them.
    AuthorityRotated,
    /// The CA has another key and no former one is trusted: every agent must enrol again, each in its own time.
    AuthorityReplaced,
    /// The broker starts again and knows its sessions and messages.
    BrokerRestarted,
    /// The broker starts again and has forgotten everything.
    BrokerForgot,
    /// The broker cannot be reached.
    BrokerDown,
    /// The broker confirms messages and then loses a third of them.
    BrokerSilent,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 23] = [
        Self::AgentKilled,
        Self::AgentPowerCut,
        Self::MediumFull,
        Self::MediumReadOnly,
        Self::MediumBroken,
        Self::BitFlip,
        Self::ClockJump,
        Self::Partition,
        Self::ConnectionCut,
        Self::CertificateExpired,
        Self::CertificateRenewed,
        Self::Revoked,
        Self::Overload,
        Self::AggregatorKilled,
        Self::StoreSlow,
        Self::StoreFailing,
        Self::AggregatorClockJump,
        Self::AuthorityRotated,
        Self::AuthorityReplaced,
        Self::BrokerRestarted,
        Self::BrokerForgot,
        Self::BrokerDown,
        Self::BrokerSilent,
    ];

    /// The name in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AgentKilled => "agent killed",
            Self::AgentPowerCut => "power cut",
            Self::MediumFull => "disk full",
            Self::MediumReadOnly => "disk read-only",
            Self::MediumBroken => "disk broken",
            Self::BitFlip => "bit flipped on disk",
            Self::ClockJump => "clock jump",
            Self::Partition => "partition",
            Self::ConnectionCut => "connection cut",
            Self::CertificateExpired => "certificate expired",
            Self::CertificateRenewed => "certificate renewed",
            Self::Revoked => "agent revoked",
            Self::Overload => "overload",
            Self::AggregatorKilled => "aggregator killed",
            Self::StoreSlow => "store slow",
            Self::StoreFailing => "store failing",
            Self::AggregatorClockJump => "aggregator clock jump",
            Self::AuthorityRotated => "CA rotated",
            Self::AuthorityReplaced => "CA replaced",
            Self::BrokerRestarted => "broker restarted",
            Self::BrokerForgot => "broker forgot",
            Self::BrokerDown => "broker down",
            Self::BrokerSilent => "broker drops silently",
        }
    }

    /// The place in [`Fault::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Whether it strikes one agent, rather than what all share.
    #[must_use]
    pub const fn is_of_one_agent(self) -> bool {
        (self as usize) <= Self::Revoked as usize
    }

    const fn needs_broker(self) -> bool {
        (self as usize) >= Self::BrokerRestarted as usize
    }

    /// How long it lasts at most; 0 for what happens in a moment. For a process, how long it stays away.
    #[must_use]
    pub const fn ms_max(self) -> u64 {
        match self {
            Self::BitFlip
            | Self::ClockJump
            | Self::ConnectionCut
            | Self::CertificateRenewed
            | Self::AggregatorClockJump
            | Self::AuthorityRotated
            | Self::AuthorityReplaced
            | Self::BrokerRestarted
            | Self::BrokerForgot => 0,
            Self::AgentKilled | Self::AgentPowerCut | Self::AggregatorKilled | Self::StoreFailing => {
                20 * MINUTE_MS
            }
            Self::MediumFull | Self::MediumReadOnly | Self::MediumBroken => HOUR_MS,
            Self::Partition | Self::CertificateExpired | Self::Revoked | Self::BrokerDown => 3 * HOUR_MS,
            Self::Overload | Self::StoreSlow | Self::BrokerSilent => 30 * MINUTE_MS,
        }
    }
}

pub(super) const MINUTE_MS: u64 = 60_000;
pub(super) const HOUR_MS: u64 = 60 * MINUTE_MS;

/// How frames travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// A connection of each agent's own, in order and without loss until it breaks: QUIC.
    Stream,
    /// The same without its promises: frames are lost, repeated and overtake each other.
    Wild,
    /// Through a broker, at least once; `keeps` says whether it holds messages for those who are away.
    Broker { keeps: bool },
}

/// What breaks a promise on which everything rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Nothing.
    None,
    /// The aggregator answers before it has committed.
    AnswersEarly,
    /// Half-way, each agent's medium loses a segment.
    SegmentLost,
    /// Half-way, the aggregator is killed and its store forgets every session.
    SessionForgotten,
    /// A certificate is good no longer once another one was given out, which then does not arrive.
    FormerKeyEnds,
}

/// Everything that a seed decides beforehand.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Everything follows from it.
    pub seed: u64,
    /// How many agents there are.
    pub agents: usize,
    /// How long faults happen.
    pub rough_ms: u64,
    pub(super) window_ms: u32,
    pub(super) way: Way,
    pub(super) spool: SpoolSettings,
    pub(super) link: LinkSettings,
    /// The chance that one frame is lost, and that it is sent twice.
    pub(super) loss: f64,
    pub(super) duplication: f64,
    /// How long a frame is on its way at most.
    pub(super) delay_ms_max: u64,
    /// How long a commit takes at most when the store is well.
    pub(super) commit_ms_max: u64,
    /// What is broken on purpose, to show that the oracle notices.
    pub sabotage: Sabotage,
    /// Faults that happen, with the mean time from one to the next.
    pub(super) faults: Vec<(Fault, u64)>,
}

impl Plan {
    /// The plan of `seed`.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let mut random = Random::new(seed, "plan");
        let way = match random.index(4) {
            0 => Way::Stream,
            1 => Way::Wild,
            2 => Way::Broker { keeps: true },
            _ => Way::Broker { keeps: false },
        };
        let window_ms = [10_000, 60_000, 300_000, 300_000, 300_000][random.index(5)];
        let heartbeat_ms = window_ms.clamp(10_000, 60_000);
        let hours = if window_ms == 10_000 { 2.0 } else { random.between(4.0, 36.0) };
        let rough_ms = (hours * HOUR_MS as f64) as u64;
        let is_wild = way != Way::Stream;
        Self {
            seed,
            agents: 1 + random.index(6),
            rough_ms,
            window_ms,
            way,
            spool: spool(&mut random),
            link: LinkSettings { heartbeat_ms, ..LinkSettings::default() },
            loss: if is_wild && random.chance(0.5) { random.between(0.0, 0.2) } else { 0.0 },
            duplication: if is_wild && random.chance(0.5) { random.between(0.0, 0.2) } else { 0.0 },
            delay_ms_max: [20, 200, 3_000][random.index(3)],
            commit_ms_max: [2, 20, 400][random.index(3)],
            sabotage: Sabotage::None,
            faults: faults(&mut random, way, rough_ms),
        }
    }
}

/// A spool that overflows within minutes, one that holds an hour, or one that holds everything.
fn spool(random: &mut Random) -> SpoolSettings {
    let segment_bytes = 1_024;
    let segments = [4, 16, 64, 128][random.index(4)];
    let bytes_max = segments * segment_bytes;
    let sync = if random.chance(0.7) { SyncPolicy::EachWindow } else { SyncPolicy::Interval { ms: 30_000 } };
    SpoolSettings {
        bytes_max,
        segment_bytes,
        deviations_bytes_max: bytes_max / 2,
        frame_bytes_max: 512,
        sync,
    }
}

fn faults(random: &mut Random, way: Way, rough_ms: u64) -> Vec<(Fault, u64)> {
    let share = [0.0, 0.2, 0.5, 0.5, 0.8][random.index(5)];
    let by_broker = matches!(way, Way::Broker { .. });
    let possible = Fault::ALL.into_iter().filter(|fault| by_broker || !fault.needs_broker());
    let mut drawn = Vec::new();
    for fault in possible {
        // Both drawn for every fault, so that one more fault in the list changes little in the others.
        let (happens, mean) = (random.chance(share), rough_ms as f64 / random.between(1.0, 12.0));
        if happens {
            drawn.push((fault, mean as u64));
        }
    }
    drawn
}
