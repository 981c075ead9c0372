//! The weather: what the network between agent and aggregator does while somebody is killed.
//!
//! It must never be left as it is: whoever lets it come lets it go. The hard case is a cut at the centre alone: the agent's own wire is
//! up, and nothing answers.
use crate::fleet::random::Random;
use crate::rig::{Network, Place};

/// The longest delay, each way.
const DELAY_MS_MAX: usize = 900;
/// The most packets of a hundred that are lost, on each wire and each way.
const LOSS_PERCENT_MAX: usize = 25;

/// What is wrong with the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weather {
    /// Nothing comes through to this place.
    Cut(Place),
    /// Everything takes so much longer.
    Slow { delay_ms: u64 },
    /// So many packets of a hundred are lost on each wire.
    Lossy { percent: u8 },
}

impl Weather {
    /// Three of four times something is wrong.
    pub(super) fn draw(random: &mut Random) -> Option<Self> {
        let (kind, size) = (random.index(4), random.unit());
        let up_to = |most: usize| 1 + (size * most as f64) as usize;
        match kind {
            0 => Some(Self::Cut(if size < 0.5 { Place::Edge } else { Place::Centre })),
            1 => Some(Self::Slow { delay_ms: up_to(DELAY_MS_MAX) as u64 }),
            2 => Some(Self::Lossy { percent: up_to(LOSS_PERCENT_MAX) as u8 }),
            _ => None,
        }
    }

    /// Its place in the report.
    pub(super) const fn kind(self) -> usize {
        match self {
            Self::Cut(_) => 0,
            Self::Slow { .. } => 1,
            Self::Lossy { .. } => 2,
        }
    }

    pub(super) fn come(self, network: &Network) {
        match self {
            Self::Cut(place) => network.set_cut(place, true),
            Self::Slow { delay_ms } => network.set_delay(delay_ms),
            Self::Lossy { percent } => network.set_loss(percent),
        }
    }

    /// All is well again.
    pub(super) fn go(network: &Network) {
        network.set_loss(0);
        network.set_delay(0);
        network.set_cut(Place::Edge, false);
        network.set_cut(Place::Centre, false);
    }
}
