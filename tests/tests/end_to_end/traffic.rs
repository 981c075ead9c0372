//! The traffic of one region: three devices times four stacks, five-minute counts with a daily season and noise.
//!
//! It must never depend on the hour at which the test runs: the season is laid relative to the end of the history.
use std::f64::consts::TAU;
use std::time::{SystemTime, UNIX_EPOCH};

use super::stage::Stage;

const INTERVAL_S: u64 = 300;
const HISTORY_STEPS: u64 = 4 * 288;
const FUTURE_STEPS: u64 = 48;
const DEVICES: [&str; 3] = ["tv-lg", "phone", "web"];
const STACKS: [&str; 4] = ["playback", "browse", "search", "accounts"];

pub(crate) struct Traffic {
    step: u64,
    start_s: u64,
    noise: u64,
}

impl Traffic {
    /// Traffic whose faults and all end shortly before the present.
    pub(crate) fn ending_now() -> Self {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / INTERVAL_S * INTERVAL_S;
        Self { step: 0, start_s: now_s - (HISTORY_STEPS + FUTURE_STEPS) * INTERVAL_S, noise: 0x5eed }
    }

    /// Four days without a fault, a day at a time, and one line that is no telemetry.
    pub(crate) fn history(&mut self, stage: &mut Stage) {
        stage.send_lines("this is not line protocol at all\n");
        for _ in 0..4 {
            self.send(stage, HISTORY_STEPS / 4, 1.0);
        }
    }

    /// `steps` intervals in which playback loses seven of ten of its users and its errors rise.
    pub(crate) fn fault(&mut self, stage: &mut Stage, steps: u64) {
        self.send(stage, steps, 0.3);
    }

    /// `steps` intervals as ever.
    pub(crate) fn calm(&mut self, stage: &mut Stage, steps: u64) {
        self.send(stage, steps, 1.0);
    }

    fn send(&mut self, stage: &Stage, steps: u64, playback: f64) {
        let mut lines = String::new();
        for _ in 0..steps {
            let at = self.start_s + self.step * INTERVAL_S;
            let season = 1.0 + 0.4 * (TAU * (self.step % 288) as f64 / 288.0).sin();
            for (place, device) in DEVICES.iter().enumerate() {
                for stack in STACKS {
                    let share = if stack == "playback" { playback } else { 1.0 };
                    let base = 1_000.0 * (place + 1) as f64 * season;
                    let activity = self.noisy(base * share);
                    let errors = self.noisy(base * 0.02 * (2.0 - share).powi(4));
                    lines += &format!("activity,device={device},stack={stack} value={activity} {at}\n");
                    lines += &format!("errors,device={device},stack={stack} value={errors} {at}\n");
                }
            }
            self.step += 1;
        }
        stage.send_lines(&lines);
    }

    /// A count around `mean` with about the spread of a Poisson variable: the sum of twelve uniform ones is near normal.
    fn noisy(&mut self, mean: f64) -> u64 {
        let mut sum = -6.0;
        for _ in 0..12 {
            self.noise =
                self.noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            sum += (self.noise >> 33) as f64 / f64::from(1u32 << 31);
        }
        (mean + sum * mean.sqrt()).max(0.0).round() as u64
    }
}
