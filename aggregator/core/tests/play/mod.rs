//! A small fleet under a test's hand: what its regions send, what was told, and every decision taken again.
//!
//! It must never hide a decision that does not come out again. The hard case is time: every deadline on the way is met.
use std::collections::BTreeMap;

use vedette_aggregator_core::{
    Aggregator, Alarm, AllowedRegions, Basis, Derivation, Effect, IncidentState, Kind, MetricSettings, Role,
    Settings,
};
use vedette_common::wire::{CellName, F24, RollUp, Summary};
use vedette_common::{AgentId, BootId, Lane, MonoMs, Now, RecordKey, Sequence, WallMs};

pub const START: WallMs = WallMs(1_772_000_400_000);
pub const MINUTE: i64 = 60_000;
pub const WIDE_MS: u32 = 300_000;
const STACKS: [&str; 4] = ["browse", "payments", "playback", "search"];
const DEVICES: [&str; 3] = ["mobile", "tv-lg", "web"];

/// Traffic and errors of a cell, by region, device and stack, as factors of what is expected.
pub type Change<'a> = &'a dyn Fn(&str, &str, &str) -> (f64, f64);

pub const CALM: Change<'static> = &|_, _, _| (1.0, 1.0);

pub fn settings() -> Settings {
    let metric = |role: Role| MetricSettings { role, alarm_on: role.default_alarm_on() };
    let metrics =
        BTreeMap::from([("activity".into(), metric(Role::Traffic)), ("errors".into(), metric(Role::Errors))]);
    Settings { metrics, ..Settings::default() }
}

/// A fleet of one agent for each region, and what it was told.
pub struct Play {
    pub aggregator: Aggregator,
    pub now: WallMs,
    sequences: BTreeMap<String, u64>,
    /// Every state that an incident entered.
    pub told: Vec<Alarm>,
    /// Whether latency is measured; it goes the way of errors.
    pub latency: bool,
    /// What every decision came out as when it was taken again from what was stored of it.
    pub derived: Vec<Derivation>,
}

impl Play {
    pub fn new(settings: Settings) -> Self {
        let (now, sequences) = (START, BTreeMap::new());
        let (told, derived) = (Vec::new(), Vec::new());
        Self { aggregator: Aggregator::new(settings), now, sequences, told, latency: false, derived }
    }

    pub fn summary(&mut self, region: &str, start: WallMs, window_ms: u32, change: Change<'_>) {
        let sequence = self.sequences.entry(region.into()).or_default();
        *sequence += 1;
        let key = RecordKey { boot: BootId(1), lane: Lane::RollUps, sequence: Sequence(*sequence) };
        let mut summary = Summary::new(key, start, window_ms);
        let place = summary.strings.intern(region).unwrap();
        let activity = summary.strings.intern("activity").unwrap();
        let errors = summary.strings.intern("errors").unwrap();
        for (cell, (stack, device)) in
            STACKS.iter().flat_map(|stack| DEVICES.iter().map(move |device| (*stack, *device))).enumerate()
        {
            // A few percent up and down, another way for each cell and window.
            let mixed = start.0 / i64::from(window_ms) * 7 + cell as i64 * 5 + sequence.rotate_left(2) as i64;
            let noise = (mixed % 11 - 5) as f64 / 150.0;
            let (traffic, failed) = change(region, device, stack);
            let names = [device, stack].map(|name| summary.strings.intern(name).unwrap());
            summary.cells.push(CellName { region: place, device: names[0], stack: names[1] }).unwrap();
            for (metric, observed, expected) in [
                (activity, 3_000.0 * traffic * (1.0 + noise), 3_000.0),
                (errors, 20.0 * traffic * failed * (1.0 - noise), 20.0),
            ] {
                let (observed, expected) = (F24::from_f64(observed.round()), F24::from_f64(expected));
                summary
                    .roll_ups
                    .push(RollUp { cell: cell as u8, metric, observed, expected, count: 5 })
                    .unwrap();
            }
        }
        if self.latency {
            let p95 = summary.strings.intern("p95").unwrap();
            for cell in 0..summary.cells.len() {
                let of = &summary.roll_ups[2 * cell + 1];
                let (observed, expected) = (of.observed, of.expected);
                let row = RollUp { cell: cell as u8, metric: p95, observed, expected, count: 5 };
                summary.roll_ups.push(row).unwrap();
            }
        }
        let agent = AgentId::parse(&format!("edge-{region}")).unwrap();
        self.aggregator.handle_summary(self.instant(), &agent, &AllowedRegions::All, &summary);
    }

    pub fn instant(&self) -> Now {
        Now { wall: self.now, mono: MonoMs(self.now.0.unsigned_abs()) }
    }

    /// Time passes, with every deadline on its way.
    pub fn pass(&mut self, ms: i64) -> Vec<Alarm> {
        let until = self.now.plus_ms(ms);
        for _ in 0..1_000 {
            let Some(due) = self.aggregator.poll_deadline().filter(|due| *due <= until) else { break };
            self.now = due.max(self.now);
            self.aggregator.handle_deadline(self.instant());
        }
        self.now = until;
        self.aggregator.handle_deadline(self.instant());
        let mut told: Vec<Alarm> = Vec::new();
        while let Some(effect) = self.aggregator.poll_effect() {
            match effect {
                Effect::Incident(alarm) => told.push(*alarm),
                Effect::Basis { basis, .. } => self.derive(&basis, told.last().unwrap()),
                Effect::Ledger(_) | Effect::Acknowledge { .. } | Effect::Refuse { .. } => {}
            }
        }
        self.told.extend(told.iter().cloned());
        told
    }

    /// Takes a decision again from what a store would hold of it.
    fn derive(&mut self, basis: &Basis, alarm: &Alarm) {
        let basis: Basis = serde_json::from_str(&serde_json::to_string(basis).unwrap()).unwrap();
        let alarm: Alarm = serde_json::from_str(&serde_json::to_string(alarm).unwrap()).unwrap();
        let derived = basis.derive(&alarm);
        assert!(derived.equal, "{}: {:#?}", alarm.summary, derived.differences);
        self.derived.push(derived);
    }

    /// `windows` windows of five minutes of `regions`.
    pub fn windows(&mut self, windows: usize, regions: &[&str], change: Change<'_>) -> Vec<Alarm> {
        let mut told = Vec::new();
        for _ in 0..windows {
            let start = self.now;
            told.extend(self.pass(i64::from(WIDE_MS)));
            for region in regions {
                self.summary(region, start, WIDE_MS, change);
            }
        }
        told.extend(self.pass(0));
        told
    }
}

/// Payments in uk at a tenth with many errors.
pub const BROKEN: Change<'static> =
    &|region, _, stack| if (region, stack) == ("uk", "payments") { (0.1, 20.0) } else { (1.0, 1.0) };

/// The states of one kind, in order.
pub fn states(told: &[Alarm], kind: Kind) -> Vec<IncidentState> {
    told.iter().filter(|alarm| alarm.kind == kind).map(|alarm| alarm.state).collect()
}
