//! How often somebody was wrong lately, and how long they have to wait.
//! It must never grow beyond its limit, nor be passed by asking many times at once: an attempt counts as wrong until it is known to be right,
//! and being right takes back that one attempt alone, or an account of one's own would make guessing at another's free.
//! The hard case is a full table: the entry whose wait ends first goes, so that those who wait longest are kept.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use vedette_common::MonoMs;

use crate::limits::{LOGIN_ATTEMPTS_FREE, LOGIN_FORGIVEN, LOGIN_MEMORY, LOGIN_PAUSE_MAX, LOGIN_PAUSE_MIN};

#[derive(Debug, Clone, Copy)]
struct Record {
    wrong: u32,
    last: MonoMs,
    until: MonoMs,
}

/// The attempts of each source.
#[derive(Debug)]
pub struct Attempts<K> {
    records: BTreeMap<K, Record>,
    records_max: usize,
}

impl<K: Ord + Clone> Attempts<K> {
    /// An empty table of at most `records_max` sources.
    #[must_use]
    pub const fn new(records_max: usize) -> Self {
        Self { records: BTreeMap::new(), records_max }
    }

    /// Counts an attempt as wrong, until [`Attempts::undo`] says that it was not. One is forgiven after each [`LOGIN_FORGIVEN`] without any.
    ///
    /// # Errors
    /// The seconds, rounded up, that `source` has to wait first; the attempt does not count then.
    pub fn begin(&mut self, source: K, now: MonoMs) -> Result<(), u64> {
        let memory_ms = u64::try_from(LOGIN_MEMORY.as_millis()).unwrap_or(u64::MAX);
        let forgiven_ms = u64::try_from(LOGIN_FORGIVEN.as_millis()).unwrap_or(u64::MAX);
        self.records.retain(|_, record| now.0.saturating_sub(record.last.0) < memory_ms);
        let wrong = match self.records.get(&source) {
            Some(record) if record.until > now => return Err((record.until.0 - now.0).div_ceil(1_000)),
            Some(record) => {
                let forgiven = now.0.saturating_sub(record.last.0) / forgiven_ms;
                let forgiven = u32::try_from(forgiven).unwrap_or(u32::MAX);
                record.wrong.saturating_sub(forgiven).saturating_add(1)
            }
            None => 1,
        };
        if self.records.len() >= self.records_max && !self.records.contains_key(&source) {
            let first = self.records.iter().min_by_key(|(_, record)| (record.until, record.last));
            if let Some(first) = first.map(|(source, _)| source.clone()) {
                self.records.remove(&first);
            }
        }
        let until = MonoMs(now.0.saturating_add(pause_ms(wrong)));
        self.records.insert(source, Record { wrong, last: now, until });
        Ok(())
    }

    /// An attempt was right, or could not be looked at.
    pub fn undo(&mut self, source: &K) {
        let Some(record) = self.records.get_mut(source) else { return };
        record.wrong = record.wrong.saturating_sub(1);
        record.until = MonoMs(record.last.0.saturating_add(pause_ms(record.wrong)));
        if record.wrong == 0 {
            self.records.remove(source);
        }
    }
}

/// None for the first few, then doubling.
fn pause_ms(wrong: u32) -> u64 {
    let Some(over) = wrong.checked_sub(LOGIN_ATTEMPTS_FREE) else { return 0 };
    let pause = LOGIN_PAUSE_MIN.saturating_mul(1 << over.min(20)).min(LOGIN_PAUSE_MAX);
    u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)
}

/// What counts as one source: an IPv4 address, or the /64 that one IPv6 customer has.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wrong_attempt_after_the_free_ones_doubles_the_wait() {
        let mut attempts = Attempts::new(8);
        let mut now = MonoMs(0);
        for _ in 0..LOGIN_ATTEMPTS_FREE {
            assert_eq!(attempts.begin("a", now), Ok(()));
        }
        for pause_s in [15, 30, 60, 120, 240, 480, 900, 900] {
            assert_eq!(attempts.begin("a", now), Err(pause_s));
            assert_eq!(attempts.begin("b", now), Ok(()), "another source does not wait");
            attempts.undo(&"b");
            now = MonoMs(now.0 + pause_s * 1_000 - 1);
            assert_eq!(attempts.begin("a", now), Err(1), "not a moment early");
            now = MonoMs(now.0 + 1);
            assert_eq!(attempts.begin("a", now), Ok(()));
        }
    }

    #[test]
    fn being_right_takes_back_one_attempt_and_an_hour_without_any_all() {
        let mut attempts = Attempts::new(8);
        for _ in 0..LOGIN_ATTEMPTS_FREE {
            attempts.begin("a", MonoMs(0)).unwrap();
        }
        assert!(attempts.begin("a", MonoMs(0)).is_err());
        attempts.undo(&"a");
        assert_eq!(attempts.begin("a", MonoMs(0)), Ok(()), "the right one did not count");
        assert!(attempts.begin("a", MonoMs(0)).is_err(), "those before it do");
        assert_eq!(attempts.begin("a", MonoMs(3_600_000)), Ok(()));
        assert_eq!(attempts.begin("a", MonoMs(3_600_000)), Ok(()), "it began anew");
    }

    #[test]
    fn the_table_is_bounded_and_keeps_who_waits_longest() {
        let mut attempts = Attempts::new(2);
        for _ in 0..LOGIN_ATTEMPTS_FREE {
            attempts.begin(0, MonoMs(0)).unwrap();
        }
        for source in 1..1_000 {
            attempts.begin(source, MonoMs(1)).unwrap();
            assert!(attempts.records.len() <= 2);
        }
        assert_eq!(attempts.begin(0, MonoMs(1)), Err(15));
    }

    #[test]
    fn one_customer_is_one_source() {
        let same = |a: &str, b: &str| network(a.parse().unwrap()) == network(b.parse().unwrap());
        assert!(same("2001:db8::1", "2001:db8::ffff:1") && same("::ffff:10.0.0.1", "10.0.0.1"));
        assert!(!same("2001:db8::1", "2001:db8:0:1::1") && !same("10.0.0.1", "10.0.0.2"));
    }
}
