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
    /// Mean traffic in five minutes in the largest region over all devices.
    pub traffic: f64,
    /// Errors for each unit of traffic.
    pub error_ratio: f64,
    /// Milliseconds that a request takes, where that is measured.
    pub latency_ms: Option<f64>,
    /// Traffic on a weekend relative to a weekday.
    pub weekend: f64,
    /// What it needs, as the config declares; stacks that share one fail together with it.
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

/// How restless the quiet life is: deviations of logarithms, besides the noise of counts.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    /// How deep the seasons are: 1 is usual.
    pub seasonality: f64,
    /// From interval to interval, of each cell.
    pub jitter: f64,
    /// From interval to interval, shared by a region for an hour or so.
    pub gusts: f64,
    /// Slow wandering of each stack of a region, and of each cell; hours that it takes.
    pub drift: (f64, f64, f64),
    /// From interval to interval, of the errors of each cell.
    pub errors_jitter: f64,
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
    /// Two stacks that need the same thing although no config says so.
    pub undeclared: Option<[usize; 2]>,
    /// Its noises.
    pub life: Life,
    /// What makes each cell differ from region x device x stack: how large it is, in the order of `cells`.
    sizes: Vec<f64>,
}

const REGIONS: [Region; 9] = [
    Region { name: "us-east", zone: Tz::America__New_York, size: 1.0 },
    Region { name: "us-west", zone: Tz::America__Los_Angeles, size: 0.8 },
    Region { name: "uk", zone: Tz::Europe__London, size: 0.6 },
    Region { name: "germany", zone: Tz::Europe__Berlin, size: 0.5 },
    Region { name: "brazil", zone: Tz::America__Sao_Paulo, size: 0.35 },
    Region { name: "japan", zone: Tz::Asia__Tokyo, size: 0.7 },
    Region { name: "india", zone: Tz::Asia__Kolkata, size: 0.5 },
    Region { name: "australia", zone: Tz::Australia__Sydney, size: 0.2 },
    Region { name: "chile", zone: Tz::America__Santiago, size: 0.1 },
];

const DEVICES: [Device; 6] = [
    Device { name: "android", share: 0.32, peak_hour: 19.5 },
    Device { name: "ios", share: 0.28, peak_hour: 20.0 },
    Device { name: "web", share: 0.22, peak_hour: 15.0 },
    Device { name: "tv-lg", share: 0.13, peak_hour: 21.0 },
    Device { name: "console", share: 0.05, peak_hour: 21.5 },
    Device { name: "car", share: 0.03, peak_hour: 8.0 },
];

const fn stack(
    name: &'static str,
    traffic: f64,
    error_ratio: f64,
    weekend: f64,
    depends_on: &'static [&'static str],
) -> Stack {
    Stack { name, traffic, error_ratio, latency_ms: None, weekend, depends_on }
}

const STACKS: [Stack; 7] = [
    stack("playback", 7_000.0, 0.012, 1.25, &[]),
    stack("browse", 4_500.0, 0.006, 1.15, &[]),
    stack("search", 2_000.0, 0.008, 1.1, &[]),
    stack("payments", 600.0, 0.02, 0.85, &["identity"]),
    stack("accounts", 1_200.0, 0.015, 0.95, &["identity"]),
    stack("live", 3_000.0, 0.02, 1.35, &[]),
    stack("adverts", 2_500.0, 0.01, 1.2, &[]),
];

/// How many of the above the plain world has.
const PLAIN: (usize, usize, usize) = (6, 5, 5);

impl World {
    /// The world of a seed: its regions, stacks, sizes and noises are drawn over wide ranges.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed, "world");
        let r = &mut random;
        let regions =
            some(r, &REGIONS, 6).into_iter().map(|it| Region { size: it.size * r.log_normal(0.4), ..it });
        let regions: Vec<Region> = regions.collect();
        let devices: Vec<Device> = some(r, &DEVICES, 5)
            .into_iter()
            .map(|it| Device {
                share: it.share * r.log_normal(0.3),
                peak_hour: it.peak_hour + r.between(-2.0, 2.0),
                ..it
            })
            .collect();
        let scale = r.log_between(0.08, 1.2);
        let stacks: Vec<Stack> = draw_stacks(r, scale);
        let free: Vec<usize> = (0..stacks.len()).filter(|&it| stacks[it].depends_on.is_empty()).collect();
        let undeclared = (free.len() > 2 && r.chance(0.5)).then(|| [free[0], free[free.len() - 1]]);
        let life = Life {
            seasonality: r.between(0.5, 1.2),
            jitter: r.between(0.0, 0.06),
            gusts: r.between(0.0, 0.04),
            drift: (r.between(0.01, 0.05), r.between(0.01, 0.05), r.between(6.0, 36.0)),
            errors_jitter: r.between(0.0, 0.25),
        };
        let spread = r.between(0.2, 0.7);
        Self::with(r, regions, devices, stacks, undeclared, life, spread)
    }

    /// The plain world that the demo plays in: the same names for each seed, other sizes of cells.
    pub fn plain(seed: u64) -> Self {
        let mut random = Random::new(seed, "world");
        let life = Life {
            seasonality: 1.0,
            jitter: 0.0,
            gusts: 0.0,
            drift: (0.025, 0.03, 12.0),
            errors_jitter: 0.0,
        };
        let (regions, devices, stacks) = PLAIN;
        let (regions, devices) = (REGIONS[..regions].to_vec(), DEVICES[..devices].to_vec());
        Self::with(&mut random, regions, devices, STACKS[..stacks].to_vec(), None, life, 0.35)
    }

    fn with(
        random: &mut Random,
        regions: Vec<Region>,
        devices: Vec<Device>,
        stacks: Vec<Stack>,
        undeclared: Option<[usize; 2]>,
        life: Life,
        spread: f64,
    ) -> Self {
        let cells = regions.len() * devices.len() * stacks.len();
        let sizes = (0..cells).map(|_| random.log_normal(spread)).collect();
        Self { regions, devices, stacks, undeclared, life, sizes }
    }

    /// Three of its regions with hardly a season, for a play of a few minutes in which nobody could learn one.
    #[must_use]
    pub fn excerpt(mut self) -> Self {
        self.regions = vec![REGIONS[0].clone(), REGIONS[2].clone(), REGIONS[5].clone()];
        self.life.seasonality = 0.1;
        self
    }

    /// Multiplies all traffic, and all noise but that of counts.
    pub fn scale(&mut self, size: f64, noise: f64) {
        self.stacks.iter_mut().for_each(|stack| stack.traffic *= size);
        let life = &mut self.life;
        let (shared, own, hours) = life.drift;
        life.drift = (shared * noise, own * noise, hours);
        for deviation in [&mut life.jitter, &mut life.gusts, &mut life.errors_jitter] {
            *deviation *= noise;
        }
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

    /// Mean traffic of a cell in five minutes, over a week.
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
        ((daily + weekly).exp() / 1.2).powf(self.life.seasonality)
    }

    /// Seconds that the region's clock is ahead of UTC at that moment.
    pub fn utc_offset_s(&self, region: usize, at_s: i64) -> i64 {
        let local = local(self.regions[region].zone, at_s);
        i64::from(local.offset().fix().local_minus_utc())
    }
}

/// At least `least` of `all`, in their order; nobody knows how many.
fn some<T: Clone>(random: &mut Random, all: &[T], least: usize) -> Vec<T> {
    let mut left = least + random.index(all.len() + 1 - least);
    let mut chosen = Vec::new();
    for (place, one) in all.iter().enumerate() {
        if random.chance(left as f64 / (all.len() - place) as f64) {
            chosen.push(one.clone());
            left -= 1;
        }
    }
    chosen
}

fn draw_stacks(random: &mut Random, scale: f64) -> Vec<Stack> {
    let mut stacks = some(random, &STACKS, 4);
    for stack in &mut stacks {
        stack.traffic *= scale * random.log_normal(0.5);
        stack.error_ratio *= random.log_between(0.4, 2.5);
        stack.weekend *= random.log_normal(0.1);
        stack.latency_ms = random.chance(0.5).then(|| random.log_between(20.0, 800.0));
    }
    stacks
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
        let world = World::plain(1);
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
        let world = World::plain(1);
        for cell in world.cells().take(25) {
            let sum: f64 = (0..7 * 24).map(|hour| world.season(cell, 1_772_323_200 + hour * 3_600)).sum();
            let mean = sum / (7.0 * 24.0);
            assert!((0.85..1.25).contains(&mean), "{cell:?}: {mean}");
        }
    }
}
