//! A small made-up fleet: traffic and errors of every cell, with events that act unevenly and malfunctions, from a seed.
//!
//! It must never tell the judgement anything but sums and expectations. The hard case is an honest expectation: it errs
//! as forecasts do, slowly for a stack and at once for a cell.
use vedette_common::wire::{CellName, F24, RollUp, Summary};
use vedette_common::{BootId, Lane, RecordKey, Sequence, WallMs};

pub const REGIONS: [&str; 3] = ["fr", "jp", "uk"];
pub const DEVICES: [&str; 4] = ["mobile", "tv-lg", "tv-sony", "web"];
pub const STACKS: [&str; 4] = ["browse", "payments", "playback", "search"];
pub const WINDOW_MS: u32 = 300_000;
pub const START: WallMs = WallMs(1_772_000_100_000);

/// SplitMix64 (Steele, Lea, Flood 2014).
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn normal(&mut self) -> f64 {
        let (u, v) = (self.unit().max(1e-12), self.unit());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    pub fn poisson(&mut self, mean: f64) -> f64 {
        if mean > 50.0 {
            return (mean + mean.sqrt() * self.normal()).round().max(0.0);
        }
        let (limit, mut product, mut count) = ((-mean).exp(), self.unit(), 0.0);
        while product > limit {
            product *= self.unit();
            count += 1.0;
        }
        count
    }
}

/// Something that moves the numbers of some cells for a while.
#[derive(Clone, Debug)]
pub struct Happening {
    pub malfunction: bool,
    pub announced: bool,
    pub from: usize,
    pub until: usize,
    /// None for all.
    pub region: Option<usize>,
    pub device: Option<usize>,
    pub stack: Option<usize>,
    /// Log ratio by stack and device.
    pub effect: [[f64; 4]; 4],
    /// Factor of errors per unit of traffic.
    pub errors: f64,
}

impl Happening {
    pub fn covers(&self, region: usize, device: usize, stack: usize) -> bool {
        let hit = |wanted: Option<usize>, found| wanted.is_none_or(|wanted| wanted == found);
        hit(self.region, region) && hit(self.device, device) && hit(self.stack, stack)
    }

    fn size(&self, window: usize) -> f64 {
        match (self.from..self.until).contains(&window) {
            false => 0.0,
            true if self.malfunction => 1.0,
            // An event swells and ebbs over a quarter of its length on each side.
            true => {
                let ramp = ((self.until - self.from) as f64 / 4.0).max(1.0);
                let near = (window - self.from + 1).min(self.until - window) as f64;
                (near / ramp).min(1.0)
            }
        }
    }
}

fn event(dice: &mut Dice, from: usize, unevenness: f64) -> Happening {
    let sign = if dice.unit() < 0.5 { -1.0 } else { 1.0 };
    let common = sign * dice.between(0.3, 1.0);
    let by_stack: [f64; 4] = std::array::from_fn(|_| (1.0 + unevenness * dice.normal()).max(0.1));
    let by_device: [f64; 4] = std::array::from_fn(|_| (1.0 + 0.67 * unevenness * dice.normal()).max(0.1));
    Happening {
        malfunction: false,
        announced: dice.unit() < 0.5,
        from,
        until: from + 12 + dice.below(30),
        region: Some(dice.below(3)),
        device: None,
        stack: None,
        effect: std::array::from_fn(|s| std::array::from_fn(|d| common * by_stack[s] * by_device[d])),
        errors: dice.between(1.0, 1.4),
    }
}

fn malfunction(dice: &mut Dice, from: usize) -> Happening {
    let (region, device, stack) = (dice.below(3), dice.below(4), dice.below(4));
    let places = [
        (Some(region), None, Some(stack)),
        (Some(region), Some(device), None),
        (None, Some(device), None),
        (None, None, Some(stack)),
        (Some(region), Some(device), Some(stack)),
        (Some(region), None, None),
    ];
    let (region, device, stack) = places[dice.below(6)];
    let depth = dice.between(0.35, 0.95);
    Happening {
        malfunction: true,
        announced: false,
        from,
        until: from + 6 + dice.below(20),
        region,
        device,
        stack,
        effect: [[(1.0 - depth).ln(); 4]; 4],
        errors: dice.between(3.0, 10.0),
    }
}

pub struct Fleet {
    dice: Dice,
    base: [[[f64; 4]; 4]; 3],
    stack_error: [[f64; 4]; 3],
    hardness: Hardness,
    pub happenings: Vec<Happening>,
}

/// How hard the fleet is to judge.
#[derive(Clone, Copy, Debug)]
pub struct Hardness {
    /// Whether errors are measured.
    pub errors: bool,
    /// Standard deviation of the response of stacks to an event, as a share of it; devices vary by two thirds of it.
    pub unevenness: f64,
}

impl Default for Hardness {
    fn default() -> Self {
        Self { errors: true, unevenness: 0.3 }
    }
}

impl Fleet {
    /// A fleet whose happenings stand apart, except for malfunctions that fall into an event.
    pub fn new(seed: u64, windows: usize, hardness: Hardness) -> Self {
        let mut dice = Dice(seed);
        let base = std::array::from_fn(|_| {
            std::array::from_fn(|_| std::array::from_fn(|_| dice.between(3.0, 8.0).exp()))
        });
        let mut happenings = Vec::new();
        let mut at = 200;
        while at + 120 < windows {
            if dice.unit() < 0.6 {
                let event = event(&mut dice, at, hardness.unevenness);
                if dice.unit() < 0.25 {
                    let inside = malfunction(&mut dice, at + 8);
                    happenings.push(inside);
                }
                happenings.push(event);
            } else {
                happenings.push(malfunction(&mut dice, at));
            }
            at += 80 + dice.below(40);
        }
        Self { dice, base, stack_error: [[0.0; 4]; 3], hardness, happenings }
    }

    /// The summaries of one window, one for each region.
    pub fn window(&mut self, window: usize) -> Vec<Summary> {
        (0..REGIONS.len()).map(|region| self.summary(window, region)).collect()
    }

    fn summary(&mut self, window: usize, region: usize) -> Summary {
        let start = START.plus_ms(window as i64 * i64::from(WINDOW_MS));
        let mut summary = Summary::new(key(Lane::RollUps, window as u64 + 1), start, WINDOW_MS);
        let name = summary.strings.intern(REGIONS[region]).unwrap();
        let (traffic, errors) =
            (summary.strings.intern("activity").unwrap(), summary.strings.intern("errors").unwrap());
        for (stack, stack_name) in STACKS.iter().enumerate() {
            let error = &mut self.stack_error[region][stack];
            *error = 0.95 * *error + 0.015 * self.dice.normal();
            for (device, device_name) in DEVICES.iter().enumerate() {
                let place = summary.cells.len() as u8;
                let (d, s) = (
                    summary.strings.intern(device_name).unwrap(),
                    summary.strings.intern(stack_name).unwrap(),
                );
                summary.cells.push(CellName { region: name, device: d, stack: s }).unwrap();
                let [(to, te), (eo, ee)] = self.cell(window, region, device, stack);
                let row = |metric, observed, expected| RollUp {
                    cell: place,
                    metric,
                    observed: F24::from_f64(observed),
                    expected: F24::from_f64(expected),
                    count: 5,
                };
                summary.roll_ups.push(row(traffic, to, te)).unwrap();
                if self.hardness.errors {
                    summary.roll_ups.push(row(errors, eo, ee)).unwrap();
                }
            }
        }
        summary
    }

    /// Observed and expected traffic, observed and expected errors.
    fn cell(&mut self, window: usize, region: usize, device: usize, stack: usize) -> [(f64, f64); 2] {
        let (mut effect, mut errors) = (0.0, 1.0);
        for happening in self.happenings.iter().filter(|h| h.covers(region, device, stack)) {
            let size = happening.size(window);
            effect += size * happening.effect[stack][device];
            errors *= 1.0 + size * (happening.errors - 1.0);
        }
        let base = self.base[region][device][stack];
        let traffic = self.dice.poisson(base * effect.exp());
        let failed = self.dice.poisson((0.02 * base * effect.exp() * errors).max(0.0));
        let wrong = (self.stack_error[region][stack] + 0.03 * self.dice.normal()).exp();
        [(traffic, base * wrong), (failed, 0.02 * base * wrong)]
    }
}

pub fn key(lane: Lane, sequence: u64) -> RecordKey {
    RecordKey { boot: BootId(7), lane, sequence: Sequence(sequence) }
}
