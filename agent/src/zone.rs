//! Time zones by their IANA names: how far a region's clocks are ahead of UTC at a moment.
//!
//! Must never read the machine's own tables, which many edge hosts lack: the zones are part of the program. The hard
//! case is their size: they are kept in the compact form of RFC 9636 and only those that a config names are unpacked.

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone, TimeZoneDatabase};
use vedette_common::WallMs;

/// The rules of one time zone; a few kilobytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(TimeZone);

impl Zone {
    /// Coordinated Universal Time.
    #[must_use]
    pub const fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// The zone of this name, as `Europe/London`; none when there is no such zone.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        TimeZoneDatabase::bundled().get(name).ok().map(Self)
    }

    /// Seconds that its clocks are ahead of UTC at this moment.
    #[must_use]
    pub fn offset_s(&self, at: WallMs) -> i32 {
        let offset = |at| self.0.to_offset(at);
        Timestamp::from_millisecond(at.0).map_or(Offset::UTC, offset).seconds()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_change_when_the_zone_says() {
        let london = Zone::named("Europe/London").unwrap();
        let change_ms = 1_774_746_000_000; // 2026-03-29 01:00 UTC
        assert_eq!((london.offset_s(WallMs(change_ms - 1)), london.offset_s(WallMs(change_ms))), (0, 3_600));
        let kathmandu = Zone::named("Asia/Kathmandu").unwrap();
        assert_eq!(kathmandu.offset_s(WallMs(change_ms)), 20_700);
        assert_eq!(Zone::named("Mars/Olympus"), None);
    }

    #[test]
    fn a_moment_out_of_range_has_no_offset() {
        assert_eq!(Zone::named("Europe/London").unwrap().offset_s(WallMs(i64::MAX)), 0);
        assert_eq!(Zone::utc().offset_s(WallMs(0)), 0);
    }
}
