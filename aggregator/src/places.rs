//! Places for strangers: how many may be in at a time, in all and from one address.
//! It must never remember an address longer than somebody from there is in. The hard case is a customer with many addresses: a whole /64 of
//! IPv6 counts as one (RFC 6177).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::auth::attempts::network;

/// The places behind one door; clones share them.
#[derive(Clone, Debug)]
pub struct Places {
    taken: Arc<Mutex<Taken>>,
    total_max: usize,
    per_address_max: usize,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    by_address: BTreeMap<IpAddr, usize>,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPlace {
    /// Too many are in.
    Full,
    /// Too many are in from this address.
    AddressFull,
}

/// One place, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Places,
    address: IpAddr,
}

impl Places {
    /// Empty places.
    #[must_use]
    pub fn new(total_max: usize, per_address_max: usize) -> Self {
        Self { taken: Arc::default(), total_max, per_address_max }
    }

    /// How many are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.lock().total
    }

    /// Takes a place; somebody who is trusted with many counts in the total alone.
    ///
    /// # Errors
    /// [`NoPlace`] with the reason.
    pub fn take(&self, address: IpAddr, is_trusted: bool) -> Result<Place, NoPlace> {
        let address = network(address);
        let mut taken = self.lock();
        if taken.total >= self.total_max {
            return Err(NoPlace::Full);
        }
        let of_address = taken.by_address.entry(address).or_default();
        if *of_address >= self.per_address_max && !is_trusted {
            return Err(NoPlace::AddressFull);
        }
        *of_address += 1;
        taken.total += 1;
        Ok(Place { places: self.clone(), address })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // Nothing in between can panic; the numbers agree.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// From where it was taken: an address, or the /64 of one.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.total -= 1;
        if let Some(of_address) = taken.by_address.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                taken.by_address.remove(&self.address);
            }
        }
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
        let places = Places::new(5, 2);
        let of_one: Vec<Place> = (0..2).map(|_| places.take(address("10.0.0.1"), false).unwrap()).collect();
        assert_eq!(places.take(address("10.0.0.1"), false).unwrap_err(), NoPlace::AddressFull);
        assert_eq!(places.take(address("::ffff:10.0.0.1"), false).unwrap_err(), NoPlace::AddressFull);
        let trusted = places.take(address("10.0.0.1"), true).unwrap();
        let others = [places.take(address("10.0.0.2"), false), places.take(address("10.0.0.3"), false)];
        assert_eq!(places.take(address("10.0.0.4"), true).unwrap_err(), NoPlace::Full);
        drop((of_one, trusted, others));
        assert_eq!(places.taken(), 0);
        assert!(places.lock().by_address.is_empty());
    }

    #[test]
    fn all_of_a_customers_addresses_count_as_one() {
        let places = Places::new(100, 2);
        let first = places.take(address("2001:db8::1"), false).unwrap();
        assert_eq!(first.address(), address("2001:db8::"));
        let _second = places.take(address("2001:db8::ffff:2"), false).unwrap();
        assert_eq!(places.take(address("2001:db8::3"), false).unwrap_err(), NoPlace::AddressFull);
        assert!(places.take(address("2001:db8:0:1::3"), false).is_ok());
    }
}
