//! The regions, device families and stacks of the fleet, and what is normal in each cell at each time of its local week.
//!
//! Owns the quiet life only; what happens to it is the plan's. The hard case is local time: a season follows the
//! region's own clock, through its changes.

use super::random::Random;
use chrono::{DateTime, Datelike, Offset, TimeZone, Timelike, Utc};
use chrono_tz::Tz;

/// A region and its people.
#[derive(Clone, Debug)]
pub struct Region {
    /// Value of the tag `region`.
    pub name: &'static str,
    /// Whose clock its seasons follow.
    pub zone: Tz,
    /// Traffic relative to the largest region.
    pub size: f64,
}

/// A family of devices.
#[derive(Clone, Debug)]
pub struct Device {
    /// Value of the tag `device`.
    pub name: &'static str,
    /// Part of all traffic.
    pub share: f64,
    /// Local hour at which it is used most.
    pub peak_hour: f64,
}

/// A part of the application with its own technology.
#[derive(Clone, Debug)]
pub struct Stack {
    /// Value of the tag `stack`.
    pub name: &'static str,
    /// Mean traffic an interval in the largest region over all devices.
    pub traffic: f64,
    /// Errors for each unit of traffic.
    pub error_ratio: f64,
    /// Traffic on a weekend relative to a weekday.
    pub weekend: f64,
    /// What it needs; stacks that share one fail together with it.
    pub depends_on: &'static [&'static str],
}

/// Indices of region, device and stack in the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// Index of the region.
    pub region: usize,
    /// Index of the device family.
    pub device: usize,
    /// Index of the stack.
    pub stack: usize,
}

/// The fleet's quiet life.
#[derive(Clone, Debug)]
pub struct World {
    /// All regions.
    pub regions: Vec<Region>,
    /// All device families.
    pub devices: Vec<Device>,
    /// All stacks.
    pub stacks: Vec<Stack>,
    /// What makes each cell differ from region x device x stack: how large it is, in the order of `cells`.
    sizes: Vec<f64>,
    /// How much of the seasons there is: 1 is all.
    seasonality: f64,
}

const REGIONS: [Region; 6] = [
    Region { name: "us-east", zone: Tz::America__New_York, size: 1.0 },
    Region { name: "us-west", zone: Tz::America__Los_Angeles, size: 0.8 },
    Region { name: "uk", zone: Tz::Europe__London, size: 0.6 },
    Region { name: "germany", zone: Tz::Europe__Berlin, size: 0.5 },
    Region { name: "brazil", zone: Tz::America__Sao_Paulo, size: 0.35 },
    Region { name: "japan", zone: Tz::Asia__Tokyo, size: 0.7 },
];

const DEVICES: [Device; 5] = [
    Device { name: "android", share: 0.32, peak_hour: 19.5 },
    Device { name: "ios", share: 0.28, peak_hour: 20.0 },
    Device { name: "web", share: 0.22, peak_hour: 15.0 },
    Device { name: "tv-lg", share: 0.13, peak_hour: 21.0 },
    Device { name: "console", share: 0.05, peak_hour: 21.5 },
];

const STACKS: [Stack; 5] = [
    Stack { name: "playback", traffic: 7_000.0, error_ratio: 0.012, weekend: 1.25, depends_on: &[] },
    Stack { name: "browse", traffic: 4_500.0, error_ratio: 0.006, weekend: 1.15, depends_on: &[] },
    Stack { name: "search", traffic: 2_000.0, error_ratio: 0.008, weekend: 1.1, depends_on: &[] },
    Stack { name: "payments", traffic: 600.0, error_ratio: 0.02, weekend: 0.85, depends_on: &["identity"] },
    Stack {
        name: "accounts",
        traffic: 1_200.0,
        error_ratio: 0.015,
        weekend: 0.95,
        depends_on: &["identity"],
    },
];

impl World {
    /// The world of a seed: the same names for each, other sizes of cells.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed, "world");
        let cells = REGIONS.len() * DEVICES.len() * STACKS.len();
        let sizes = (0..cells).map(|_| random.log_normal(0.35)).collect();
        Self {
            regions: REGIONS.to_vec(),
            devices: DEVICES.to_vec(),
            stacks: STACKS.to_vec(),
            sizes,
            seasonality: 1.0,
        }
    }

    /// Three of its regions with hardly a season, for a play of a few minutes in which nobody could learn one.
    #[must_use]
    pub fn excerpt(mut self) -> Self {
        self.regions = vec![REGIONS[0].clone(), REGIONS[2].clone(), REGIONS[5].clone()];
        self.seasonality = 0.1;
        self
    }

    /// Every cell, regions first; `position` is its place in this order.
    pub fn cells(&self) -> impl Iterator<Item = Cell> + use<> {
        let (regions, devices, stacks) = (self.regions.len(), self.devices.len(), self.stacks.len());
        (0..regions).flat_map(move |region| {
            (0..devices).flat_map(move |device| (0..stacks).map(move |stack| Cell { region, device, stack }))
        })
    }

    /// The place of a cell in the order of `cells`.
    pub fn position(&self, cell: Cell) -> usize {
        (cell.region * self.devices.len() + cell.device) * self.stacks.len() + cell.stack
    }

    /// Mean traffic of a cell an interval, over a week.
    pub fn traffic(&self, cell: Cell) -> f64 {
        let (region, device, stack) =
            (&self.regions[cell.region], &self.devices[cell.device], &self.stacks[cell.stack]);
        region.size * device.share * stack.traffic * self.sizes[self.position(cell)]
    }

    /// Traffic of a cell at a moment relative to its mean: hour of day and day of week by the region's own clock.
    pub fn season(&self, cell: Cell, at_s: i64) -> f64 {
        let (hour, weekday) = local_hour_and_weekday(self.regions[cell.region].zone, at_s);
        let turn = (hour - self.devices[cell.device].peak_hour) / 24.0 * std::f64::consts::TAU;
        let daily = 0.85 * turn.cos() + 0.25 * (2.0 * turn).cos();
        // Weekends begin on Friday evening and end on Sunday evening; a smooth edge, for people do not switch at midnight.
        let weekend_hours = f64::from(weekday) * 24.0 + hour - 4.0 * 24.0;
        let weekend = edge(weekend_hours - 18.0) - edge(weekend_hours - 66.0);
        let weekly = self.stacks[cell.stack].weekend.ln() * weekend;
        // Divided by the mean of exp(daily), about 1.2, so that 1 is the week's mean.
        ((daily + weekly).exp() / 1.2).powf(self.seasonality)
    }

    /// Seconds that the region's clock is ahead of UTC at that moment.
    pub fn utc_offset_s(&self, region: usize, at_s: i64) -> i64 {
        let local = local(self.regions[region].zone, at_s);
        i64::from(local.offset().fix().local_minus_utc())
    }
}

/// 0 well before, 1 well after, three hours wide.
fn edge(hours: f64) -> f64 {
    1.0 / (1.0 + (-hours).exp())
}

fn local(zone: Tz, at_s: i64) -> DateTime<Tz> {
    let utc = DateTime::<Utc>::from_timestamp(at_s, 0).unwrap_or(DateTime::UNIX_EPOCH);
    zone.from_utc_datetime(&utc.naive_utc())
}

/// Hour with its fraction, and days since Monday.
fn local_hour_and_weekday(zone: Tz, at_s: i64) -> (f64, u32) {
    let local = local(zone, at_s);
    (f64::from(local.num_seconds_from_midnight()) / 3600.0, local.weekday().num_days_from_monday())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seasons_follow_the_local_clock_through_its_change() {
        let world = World::new(1);
        let uk = Cell { region: 2, device: 0, stack: 0 };
        let before = 1_774_544_400; // Thursday 2026-03-26 17:00 in London, UTC
        let after = before + 7 * 86_400 - 3_600; // Thursday 2026-04-02 17:00 in London, an hour ahead of UTC
        assert_eq!(world.utc_offset_s(2, before), 0);
        assert_eq!(world.utc_offset_s(2, after), 3_600);
        assert!((world.season(uk, before) - world.season(uk, after)).abs() < 1e-12);
        assert!((world.season(uk, before) - world.season(uk, after + 3_600)).abs() > 1e-3);
    }

    #[test]
    fn a_season_averages_near_one() {
        let world = World::new(1);
        for cell in world.cells().take(25) {
            let sum: f64 = (0..7 * 24).map(|hour| world.season(cell, 1_772_323_200 + hour * 3_600)).sum();
            let mean = sum / (7.0 * 24.0);
            assert!((0.85..1.25).contains(&mean), "{cell:?}: {mean}");
        }
    }
}
