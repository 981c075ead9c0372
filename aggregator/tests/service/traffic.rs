//! One region's traffic, sent window by window from the past towards now.
//! It must never invent time: windows follow each other without a gap. The hard case is an aggregator that went away before it answered:
//! the same window is sent again on another connection.

use vedette_common::wire::{self, F24, Heartbeat, RollUp, Summary};
use vedette_common::{BootId, Lane, WallMs};

use crate::agent::{Session, acknowledged, key, now};

const WINDOW_MS: u32 = 10_000;

/// What playback has in a window without a fault, and what the other two stacks have in every window.
pub(crate) const CALM: f32 = 1_000.0;

/// An agent's windows.
pub(crate) struct Traffic {
    pub(crate) session: Session,
    start: WallMs,
    pub(crate) sequence: u64,
}

impl Traffic {
    /// Windows of which the first begins `windows_ago` before now.
    pub(crate) fn beginning(session: Session, windows_ago: u64) -> Self {
        let ago_ms = i64::try_from(windows_ago).unwrap() * i64::from(WINDOW_MS);
        Self { session, start: now().window_start(WINDOW_MS).plus_ms(-ago_ms), sequence: 0 }
    }

    /// Sends `windows` more, playback as `observed`, each once the one before was answered.
    pub(crate) async fn send(&mut self, windows: u64, observed: f32) {
        for _ in 0..windows {
            self.say(observed).await;
            assert_eq!(self.session.answer().await, acknowledged(self.sequence));
        }
    }

    /// Sends the next window and waits for nothing.
    pub(crate) async fn say(&mut self, observed: f32) {
        self.sequence += 1;
        self.say_again(observed).await;
    }

    /// Sends the latest window once more.
    pub(crate) async fn say_again(&mut self, observed: f32) {
        let start = self.start.plus_ms(i64::try_from(self.sequence).unwrap() * i64::from(WINDOW_MS));
        self.session.say(&window(self.sequence, start, observed)).await;
    }

    /// Says, as agents do on every connection, that what comes before the next window will never come again.
    pub(crate) async fn say_horizon(&mut self) {
        let horizon = Heartbeat {
            at: now(),
            boot: BootId(7),
            series: 3,
            spooled_records: 0,
            spooled_bytes: 0,
            horizons: Lane::ALL.map(|lane| (lane == Lane::RollUps).then(|| key(self.sequence + 1))),
            observed: 0,
            delivered: 0,
            dropped: heapless::Vec::new(),
        };
        self.session.say(&horizon).await;
    }
}

fn window(sequence: u64, start: WallMs, observed: f32) -> Summary {
    let mut summary = Summary::new(key(sequence), start, WINDOW_MS);
    let metric = summary.strings.intern("activity").unwrap();
    let (region, device) = (summary.strings.intern("uk").unwrap(), summary.strings.intern("tv").unwrap());
    for (cell, name) in ["playback", "browse", "search"].into_iter().enumerate() {
        let stack = summary.strings.intern(name).unwrap();
        summary.cells.push(wire::CellName { region, device, stack }).unwrap();
        let observed = F24::from_f32(if name == "playback" { observed } else { CALM });
        let roll_up = RollUp { cell: cell as u8, metric, observed, expected: F24::from_f32(CALM), count: 10 };
        summary.roll_ups.push(roll_up).unwrap();
    }
    summary
}
