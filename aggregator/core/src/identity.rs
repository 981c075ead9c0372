//! Ids of incidents: 26 characters in the form of a ULID, derived from when and where an incident began.
//!
//! It must never use randomness: the same inputs give the same ids. The hard case is two incidents that begin in the
//! same window: the hash of scope and subject in the last 80 bits tells them apart.
use vedette_common::WallMs;

use crate::alarm::Scope;

const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// 48 bits of milliseconds, then 80 bits of hash, in Crockford's base 32: ids sort by beginning.
pub(crate) fn incident_id<'a>(
    started_at: WallMs,
    scope: &Scope,
    subject: impl Iterator<Item = &'a str>,
) -> String {
    let mut hash = Fnv::default();
    for names in [&scope.region, &scope.device, &scope.stack] {
        names.iter().for_each(|name| hash.write(name));
        hash.write("");
    }
    subject.for_each(|word| hash.write(word));
    let ms = u128::from(started_at.0.clamp(0, (1 << 48) - 1).unsigned_abs());
    let bits = ms << 80 | (hash.0 & ((1 << 80) - 1));
    (0..26).rev().map(|place| char::from(CROCKFORD[(bits >> (5 * place) & 31) as usize])).collect()
}

/// FNV-1a with 128 bits (Fowler, Noll, Vo); words are ended by a byte that no UTF-8 text holds.
struct Fnv(u128);

impl Default for Fnv {
    fn default() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }
}

impl Fnv {
    fn write(&mut self, word: &str) {
        for byte in word.bytes().chain([0xff]) {
            self.0 = (self.0 ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_stable_sorted_and_distinct() {
        let scope = |region: &str| Scope { region: vec![region.into()], ..Scope::default() };
        let id = |ms, region| incident_id(WallMs(ms), &scope(region), ["leftover", "drop"].into_iter());
        assert_eq!(id(1_773_087_300_000, "uk"), id(1_773_087_300_000, "uk"));
        assert_ne!(id(1_773_087_300_000, "uk"), id(1_773_087_300_000, "fr"));
        assert!(id(1_773_087_300_000, "uk") < id(1_773_087_300_001, "fr"));
        assert_eq!(id(1_773_087_300_000, "uk").len(), 26);
        assert!(id(-5, "uk").starts_with("0000000000"));
        assert!(id(1_773_087_300_000, "uk").starts_with("01K"));
    }
}
