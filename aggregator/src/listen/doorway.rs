//! The doorway: how many connections may be under way before their agent is known, in all and from one address.
//! It must never cost a newcomer's address more than a number. The hard case is a flood with forged addresses: from a
//! threshold on, a newcomer must first prove its address, which costs this side no memory (RFC 9000, section 8.1).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::limits::{HANDSHAKES_MAX, HANDSHAKES_PER_ADDRESS_MAX, HANDSHAKES_UNPROVEN_MAX};

/// Who is under way; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Doorway(Arc<Mutex<UnderWay>>);

#[derive(Debug, Default)]
struct UnderWay {
    total: usize,
    by_address: BTreeMap<IpAddr, usize>,
}

/// One place in the doorway, given back when it is dropped.
#[derive(Debug)]
pub struct Pass {
    doorway: Doorway,
    address: IpAddr,
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
}

impl TurnedAway {
    /// The name for the counter.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ProveAddress => "address_unproven",
            Self::Full => "turned_away",
            Self::AddressFull => "address_full",
        }
    }
}

impl Doorway {
    /// Lets a newcomer in, whose address is `proven` or could be forged.
    ///
    /// # Errors
    /// [`TurnedAway`] with the reason.
    pub fn enter(&self, address: IpAddr, proven: bool) -> Result<Pass, TurnedAway> {
        let address = network(address);
        let mut under_way = self.lock();
        if under_way.total >= HANDSHAKES_MAX {
            return Err(TurnedAway::Full);
        }
        if under_way.total >= HANDSHAKES_UNPROVEN_MAX && !proven {
            return Err(TurnedAway::ProveAddress);
        }
        let of_address = under_way.by_address.entry(address).or_default();
        if *of_address >= HANDSHAKES_PER_ADDRESS_MAX {
            return Err(TurnedAway::AddressFull);
        }
        *of_address += 1;
        under_way.total += 1;
        Ok(Pass { doorway: self.clone(), address })
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        // Nothing in between can panic; the numbers agree.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut under_way = self.doorway.lock();
        under_way.total -= 1;
        if let Some(of_address) = under_way.by_address.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                under_way.by_address.remove(&self.address);
            }
        }
    }
}

/// What counts as one address: a customer has a /64 of IPv6 at least (RFC 6177).
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => Ipv6Addr::from_bits(six.to_bits() & !u128::from(u64::MAX)).into(),
        four @ IpAddr::V4(_) => four,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_leaves_room_for_others_and_everything_is_given_back() {
        let doorway = Doorway::default();
        let flood: Vec<Pass> = (0..HANDSHAKES_PER_ADDRESS_MAX)
            .map(|_| doorway.enter(address("10.0.0.1"), true).unwrap())
            .collect();
        assert_eq!(doorway.enter(address("10.0.0.1"), true).unwrap_err(), TurnedAway::AddressFull);
        assert_eq!(doorway.enter(address("::ffff:10.0.0.1"), true).unwrap_err(), TurnedAway::AddressFull);
        assert_eq!(doorway.enter(address("10.0.0.2"), false).unwrap_err(), TurnedAway::ProveAddress);
        drop(doorway.enter(address("10.0.0.2"), true).unwrap());
        drop(flood);
        assert!(doorway.lock().by_address.is_empty());
        assert_eq!(doorway.lock().total, 0);
        drop(doorway.enter(address("10.0.0.1"), false).unwrap());
    }

    #[test]
    fn all_of_a_customers_addresses_count_as_one_and_the_total_holds() {
        let doorway = Doorway::default();
        let within = |index: usize| address(&format!("2001:db8:0:{}::{:x}", index / 64, index + 1));
        let flood: Vec<Pass> =
            (0..HANDSHAKES_MAX).map(|index| doorway.enter(within(index), true).unwrap()).collect();
        assert_eq!(doorway.enter(address("2001:db8:9::1"), true).unwrap_err(), TurnedAway::Full);
        drop(flood.into_iter().nth(70));
        assert_eq!(doorway.lock().total, 0);
        for index in 0..HANDSHAKES_PER_ADDRESS_MAX {
            std::mem::forget(doorway.enter(within(index), true).unwrap());
        }
        assert_eq!(doorway.enter(within(63), true).unwrap_err(), TurnedAway::AddressFull);
    }
}
