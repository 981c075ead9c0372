//! The doorway: how many connections may be under way before their agent is known, in all and from one address, and how
//! often an address may come for nothing.
//! It must never cost a newcomer's address more than a number, nor remember more addresses than a number. The hard case is a flood
//! with forged addresses: from a threshold on, and from an address that came for nothing lately, a newcomer must first prove its address,
//! which costs this side no memory (RFC 9000, section 8.1); what an address did not prove is never held against it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vedette_common::MonoMs;

use crate::auth::attempts::network;
use crate::clock::Clock;
use crate::limits::{
    FRUITLESS_FORGIVEN, FRUITLESS_MAX, HANDSHAKES_MAX, HANDSHAKES_PER_ADDRESS_MAX, HANDSHAKES_UNPROVEN_MAX,
    SUSPECTS_MAX,
};
use crate::places::{NoPlace, Place, Places};

/// Who is under way, and who came for nothing; clones share it.
#[derive(Clone, Debug)]
pub struct Doorway {
    places: Places,
    suspects: Arc<Mutex<Suspects>>,
    clock: Clock,
}

/// Addresses that came for nothing; [`SUSPECTS_MAX`] at most.
#[derive(Debug, Default)]
struct Suspects(BTreeMap<IpAddr, Suspect>);

/// An address that came for nothing: how often, less what was forgiven until `at`.
#[derive(Clone, Copy, Debug)]
struct Suspect {
    fruitless: u32,
    at: MonoMs,
}

impl Suspect {
    /// What is left of it at `now`; none when all is forgiven.
    fn until(self, now: MonoMs) -> Option<Self> {
        let forgiven_ms = u64::try_from(FRUITLESS_FORGIVEN.as_millis()).unwrap_or(u64::MAX);
        let forgiven = now.0.saturating_sub(self.at.0) / forgiven_ms;
        let fruitless = self.fruitless.checked_sub(u32::try_from(forgiven).ok()?).filter(|left| *left > 0)?;
        Some(Self { fruitless, at: MonoMs(self.at.0 + forgiven * forgiven_ms) })
    }
}

impl Suspects {
    /// How often the address came for nothing lately.
    fn fruitless(&mut self, address: IpAddr, now: MonoMs) -> u32 {
        let left = self.0.get(&address).and_then(|suspect| suspect.until(now));
        match left {
            Some(suspect) => self.0.insert(address, suspect),
            None => self.0.remove(&address),
        };
        left.map_or(0, |suspect| suspect.fruitless)
    }

    fn suspect(&mut self, address: IpAddr, weight: u32, now: MonoMs) {
        let fruitless = self.fruitless(address, now);
        if fruitless == 0 && self.0.len() >= SUSPECTS_MAX {
            self.make_room(now);
        }
        let suspect = self.0.entry(address).or_insert(Suspect { fruitless: 0, at: now });
        // Not beyond the limit: whoever stops is let in again after one is forgiven.
        suspect.fruitless = fruitless.saturating_add(weight).min(FRUITLESS_MAX);
    }

    /// Forgets who is forgiven, and if nobody is, who came for nothing least often.
    fn make_room(&mut self, now: MonoMs) {
        self.0.retain(|_, suspect| match suspect.until(now) {
            Some(left) => {
                *suspect = left;
                true
            }
            None => false,
        });
        if self.0.len() >= SUSPECTS_MAX {
            let least = self.0.iter().min_by_key(|(_, suspect)| (suspect.fruitless, suspect.at));
            if let Some(least) = least.map(|(address, _)| *address) {
                self.0.remove(&least);
            }
        }
    }
}

/// One place in the doorway, given back when it is dropped.
#[derive(Debug)]
pub struct Pass {
    doorway: Doorway,
    place: Place,
    /// Whether the address could not be forged.
    proven: bool,
    /// As how many fruitless handshakes its end counts.
    weight: u32,
}

impl Pass {
    /// The peer showed that it is where it says.
    pub const fn prove(&mut self) {
        self.proven = true;
    }

    /// It ends well, or through no fault of the peer.
    pub fn end_well(mut self) {
        self.weight = 0;
    }

    /// It ends for nothing, and counts as so many such handshakes.
    pub fn end_as(mut self, weight: u32) {
        self.weight = weight;
    }
}

/// Why a newcomer does not come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnedAway {
    /// It is to prove its address and come again at once.
    ProveAddress,
    /// Too many are under way.
    Full,
    /// Too many are under way from its address.
    AddressFull,
    /// Too many came from its address for nothing.
    TooOften,
}

impl TurnedAway {
    /// The name for the counter.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ProveAddress => "address_unproven",
            Self::Full => "turned_away",
            Self::AddressFull => "address_full",
            Self::TooOften => "address_too_often",
        }
    }
}

impl Doorway {
    /// An empty one that tells the time by `clock`.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        let places = Places::new(HANDSHAKES_MAX, HANDSHAKES_PER_ADDRESS_MAX);
        Self { places, suspects: Arc::default(), clock }
    }

    /// Lets a newcomer in, whose address is `proven` or could be forged.
    ///
    /// # Errors
    /// [`TurnedAway`] with the reason.
    pub fn enter(&self, address: IpAddr, proven: bool) -> Result<Pass, TurnedAway> {
        self.enter_at(address, proven, self.clock.now().mono)
    }

    fn enter_at(&self, address: IpAddr, proven: bool, now: MonoMs) -> Result<Pass, TurnedAway> {
        let under_way = self.places.taken();
        if under_way >= HANDSHAKES_MAX {
            return Err(TurnedAway::Full);
        }
        let fruitless = self.suspects().fruitless(network(address), now);
        if !proven && (fruitless > 0 || under_way >= HANDSHAKES_UNPROVEN_MAX) {
            return Err(TurnedAway::ProveAddress);
        }
        if fruitless >= FRUITLESS_MAX {
            return Err(TurnedAway::TooOften);
        }
        let place = self.places.take(address, false).map_err(|no_place| match no_place {
            NoPlace::Full => TurnedAway::Full,
            NoPlace::AddressFull => TurnedAway::AddressFull,
        })?;
        Ok(Pass { doorway: self.clone(), place, proven, weight: 1 })
    }

    fn suspects(&self) -> MutexGuard<'_, Suspects> {
        // Nothing in between can panic; each entry stands for itself.
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.proven && self.weight > 0 {
            let now = self.doorway.clock.now().mono;
            self.doorway.suspects().suspect(self.place.address(), self.weight, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::REFUSED_ENROLMENT_WEIGHT;

    const NOW: MonoMs = MonoMs(1_000_000);

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn doorway() -> Doorway {
        Doorway::new(Clock::start())
    }

    #[test]
    fn from_a_number_on_a_newcomer_proves_its_address_and_one_address_leaves_room() {
        let doorway = doorway();
        let flood: Vec<Pass> = (0..HANDSHAKES_PER_ADDRESS_MAX)
            .map(|_| doorway.enter(address("10.0.0.1"), true).unwrap())
            .collect();
        assert_eq!(doorway.enter(address("10.0.0.1"), true).unwrap_err(), TurnedAway::AddressFull);
        assert_eq!(doorway.enter(address("10.0.0.2"), false).unwrap_err(), TurnedAway::ProveAddress);
        doorway.enter(address("10.0.0.2"), true).unwrap().end_well();
        flood.into_iter().for_each(Pass::end_well);
        assert!(doorway.suspects().0.is_empty());
        drop(doorway.enter(address("10.0.0.1"), false).unwrap());
    }

    #[test]
    fn the_total_holds() {
        let doorway = doorway();
        let within = |index: usize| address(&format!("2001:db8:0:{}::{:x}", index / 64, index + 1));
        let flood: Vec<Pass> =
            (0..HANDSHAKES_MAX).map(|index| doorway.enter(within(index), true).unwrap()).collect();
        assert_eq!(doorway.enter(address("2001:db8:9::1"), true).unwrap_err(), TurnedAway::Full);
        drop(flood);
        assert!(doorway.enter(address("2001:db8:9::1"), true).is_ok());
    }

    #[test]
    fn who_comes_for_nothing_too_often_waits_and_others_do_not() {
        let doorway = doorway();
        let (bad, forgiven_ms) = (address("10.0.0.1"), FRUITLESS_FORGIVEN.as_millis() as u64);
        let fail = |now| {
            let pass = doorway.enter_at(bad, true, now)?;
            pass.end_well();
            doorway.suspects().suspect(bad, 1, now);
            Ok::<(), TurnedAway>(())
        };
        for _ in 0..FRUITLESS_MAX {
            assert_eq!(fail(NOW), Ok(()));
        }
        assert_eq!(fail(NOW), Err(TurnedAway::TooOften));
        assert!(doorway.enter_at(address("10.0.0.2"), false, NOW).is_ok(), "somebody else");
        let in_its_name = doorway.enter_at(bad, false, NOW).unwrap_err();
        assert_eq!(in_its_name, TurnedAway::ProveAddress, "anybody may write its address");
        assert_eq!(fail(MonoMs(NOW.0 + forgiven_ms - 1)), Err(TurnedAway::TooOften));
        let later = MonoMs(NOW.0 + forgiven_ms);
        assert_eq!(fail(later), Ok(()), "one is forgiven");
        assert_eq!(fail(later), Err(TurnedAway::TooOften));
        let much_later = MonoMs(NOW.0 + (u64::from(FRUITLESS_MAX) + 1) * forgiven_ms);
        assert!(doorway.enter_at(bad, false, much_later).is_ok(), "all are forgiven");
        assert!(doorway.suspects().0.is_empty());
    }

    #[test]
    fn what_an_address_did_not_prove_is_not_held_against_it_and_a_refused_enrolment_weighs_more() {
        let doorway = doorway();
        let one = address("10.0.0.1");
        for _ in 0..2 * FRUITLESS_MAX {
            drop(doorway.enter(one, false).unwrap());
        }
        assert!(doorway.suspects().0.is_empty());
        let mut shown = doorway.enter(one, false).unwrap();
        shown.prove();
        shown.end_as(REFUSED_ENROLMENT_WEIGHT);
        assert_eq!(doorway.suspects().0[&one].fruitless, REFUSED_ENROLMENT_WEIGHT);
    }

    #[test]
    fn the_memory_of_suspects_is_bounded_and_keeps_the_worst() {
        let mut suspects = Suspects::default();
        let worst = address("192.0.2.1");
        suspects.suspect(worst, 10, NOW);
        for index in 0..2 * SUSPECTS_MAX as u32 {
            suspects.suspect(IpAddr::V4((index + (10 << 24)).into()), 1, NOW);
            assert!(suspects.0.len() <= SUSPECTS_MAX);
        }
        assert_eq!(suspects.fruitless(worst, NOW), 10);
        suspects.suspect(address("192.0.2.2"), 1, MonoMs(NOW.0 + 60_000));
        assert_eq!(suspects.0.len(), 1, "who is forgiven goes first");
    }
}
