//! What an agent knows of its regions: the UTC offset that seasons follow, and the scheduled events.
//!
//! It must never hold more regions than a birth can name. The hard case is that every observation asks
//! whether an event is on: the answer is kept together with the time for which it holds.
use vedette_common::{
    WallMs,
    limits::{CALENDAR_ENTRIES_MAX, NAME_BYTES_MAX, REGIONS_MAX},
    wire::Calendar,
};

type Name = heapless::String<NAME_BYTES_MAX>;

#[derive(Debug)]
struct Region {
    name: Name,
    offset_s: i32,
    /// `in_event` holds from here, until there.
    from: WallMs,
    until: WallMs,
    in_event: bool,
}

#[derive(Debug)]
struct Event {
    /// Empty for all regions.
    region: Name,
    from: WallMs,
    until: WallMs,
}

/// The regions met or told of so far, and the calendar. About 7 KB.
#[derive(Debug, Default)]
pub(crate) struct Regions {
    regions: heapless::Vec<Region, REGIONS_MAX>,
    events: heapless::Vec<Event, CALENDAR_ENTRIES_MAX>,
}

impl Regions {
    /// The place of a region, added if it is new; `None` when there are too many or its name is too long.
    pub(crate) fn place(&mut self, name: &str) -> Option<u8> {
        if let Some(place) = self.regions.iter().position(|region| region.name == name) {
            return Some(place as u8);
        }
        let name = Name::try_from(name).ok()?;
        self.regions
            .push(Region { name, offset_s: 0, from: WallMs(0), until: WallMs(0), in_event: false })
            .ok()?;
        Some((self.regions.len() - 1) as u8)
    }

    pub(crate) fn set_offset(&mut self, region: u8, offset_s: i32) {
        self.regions[usize::from(region)].offset_s = offset_s;
    }

    #[inline]
    pub(crate) fn offset_s(&self, region: u8) -> i32 {
        self.regions[usize::from(region)].offset_s
    }

    /// Takes the calendar in place of the one before.
    pub(crate) fn set_calendar(&mut self, calendar: &Calendar) {
        self.events.clear();
        for entry in &calendar.entries {
            let region = Name::try_from(entry.region.as_str()).unwrap_or_default();
            // Both lists have the same limit, so nothing is left over.
            let _ = self.events.push(Event { region, from: entry.from, until: entry.until });
        }
        for region in &mut self.regions {
            (region.from, region.until) = (WallMs(0), WallMs(0));
        }
    }

    /// Whether a scheduled event of this region is on.
    #[inline]
    pub(crate) fn in_event(&mut self, region: u8, at: WallMs) -> bool {
        let known = &self.regions[usize::from(region)];
        if at < known.from || at >= known.until {
            self.look_up(region, at);
        }
        self.regions[usize::from(region)].in_event
    }

    #[cold]
    fn look_up(&mut self, region: u8, at: WallMs) {
        let region = &mut self.regions[usize::from(region)];
        (region.from, region.until, region.in_event) = (WallMs(i64::MIN), WallMs(i64::MAX), false);
        for event in self.events.iter().filter(|event| event.region.is_empty() || event.region == region.name)
        {
            region.in_event |= event.from <= at && at < event.until;
            for edge in [event.from, event.until] {
                if edge <= at {
                    region.from = region.from.max(edge);
                } else {
                    region.until = region.until.min(edge);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vedette_common::wire::CalendarEntry;

    #[test]
    fn events_begin_end_and_overlap() {
        let mut regions = Regions::default();
        let (uk, de) = (regions.place("uk").unwrap(), regions.place("de").unwrap());
        let mut calendar = Calendar::default();
        for (region, from, until) in [("uk", 10, 20), ("", 15, 30), ("uk", 40, 40)] {
            let region = region.try_into().unwrap();
            let entry = CalendarEntry {
                region,
                class: heapless::String::new(),
                from: WallMs(from),
                until: WallMs(until),
            };
            calendar.entries.push(entry).unwrap();
        }
        assert!(!regions.in_event(uk, WallMs(12)));
        regions.set_calendar(&calendar);
        for at in (0..50).chain((0..50).rev()) {
            assert_eq!(regions.in_event(uk, WallMs(at)), (10..30).contains(&at), "uk at {at}");
            assert_eq!(regions.in_event(de, WallMs(at)), (15..30).contains(&at), "de at {at}");
        }
    }

    #[test]
    fn the_number_of_regions_is_limited() {
        let mut regions = Regions::default();
        for number in 0..REGIONS_MAX {
            assert_eq!(regions.place(&std::format!("r{number}")), Some(number as u8));
        }
        assert_eq!(regions.place("one more"), None);
        assert_eq!(regions.place("r3"), Some(3));
    }
}
