//! Memory against the number of cells, counted at the allocator: linear, and below what the limits state.
//!
//! It must never measure the process, where other things live too. The hard case is growth in steps, for a vector doubles: fleets of powers of two are
//! compared, each filled to the same degree. The figure is printed (`--nocapture`).
#![allow(unsafe_code, reason = "GlobalAlloc is an unsafe trait; each call is passed on unchanged")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use vedette_aggregator_core::footprint::{CELL_BYTES, ROLL_UP_BYTES, SERIES_BYTES};
use vedette_aggregator_core::{Aggregator, AlarmOn, AllowedRegions, MetricSettings, Role, Settings};
use vedette_common::wire::{CellName, F24, RollUp, Summary};
use vedette_common::{AgentId, BootId, Lane, MonoMs, Now, RecordKey, Sequence, WallMs};

/// Bytes that are allocated now.
static LIVE: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every method hands its arguments to `System`, which is a correct allocator, and returns its result as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`, which is that of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller got `block` from this allocator, that is, from `System`, with this `layout`.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const WINDOW_MS: u32 = 300_000;
const CELLS_PER_AGENT: usize = 64;
const WINDOWS: u64 = 12;

/// One window of an agent's 64 cells, with two metrics each.
fn summary(agent: usize, window: u64) -> Summary {
    let key = RecordKey { boot: BootId(1), lane: Lane::RollUps, sequence: Sequence(window + 1) };
    let start = WallMs(1_772_000_100_000).plus_ms(window as i64 * i64::from(WINDOW_MS));
    let mut summary = Summary::new(key, start, WINDOW_MS);
    let mut intern = |text: String| summary.strings.intern(&text).unwrap();
    let region = intern(format!("region-{}", agent / 4));
    let metrics = ["activity", "errors"].map(|name| intern(name.into()));
    for cell in 0..CELLS_PER_AGENT {
        let device = intern(format!("device-{}-{}", agent % 4, cell / 8));
        let stack = intern(format!("stack-{}", cell % 8));
        summary.cells.push(CellName { region, device, stack }).unwrap();
    }
    for cell in 0..CELLS_PER_AGENT {
        for metric in metrics {
            let noise = ((agent * 31 + cell * 17 + window as usize * 7) % 100) as f32;
            let (observed, expected) = (F24::from_f32(1_000.0 + noise), F24::from_f32(1_050.0));
            let row = RollUp { cell: cell as u8, metric, observed, expected, count: 10 };
            summary.roll_ups.push(row).unwrap();
        }
    }
    summary
}

/// Bytes that an aggregator holds once it has judged a dozen windows of that many agents.
fn held(agents: usize) -> usize {
    let before = LIVE.load(Ordering::Relaxed);
    let metric = |role, alarm_on| MetricSettings { role, alarm_on };
    let metrics = BTreeMap::from([
        ("activity".to_owned(), metric(Role::Traffic, AlarmOn::Drop)),
        ("errors".to_owned(), metric(Role::Errors, AlarmOn::Rise)),
    ]);
    let mut core = Aggregator::new(Settings { metrics, ..Settings::default() });
    for window in 0..WINDOWS {
        let wall = WallMs(1_772_000_100_000).plus_ms((window as i64 + 1) * i64::from(WINDOW_MS));
        let now = Now { mono: MonoMs(window * u64::from(WINDOW_MS)), wall };
        for agent in 0..agents {
            let id = AgentId::parse(&format!("agent-{agent}")).unwrap();
            core.handle_summary(now, &id, &AllowedRegions::All, &summary(agent, window));
        }
        core.handle_deadline(Now { mono: now.mono, wall: wall.plus_ms(1_000) });
        while core.poll_effect().is_some() {}
        core.forget_changes();
    }
    assert_eq!(core.counts().roll_ups, WINDOWS * (agents * CELLS_PER_AGENT * 2) as u64);
    LIVE.load(Ordering::Relaxed) - before
}

#[test]
fn memory_grows_with_the_cells_and_stays_below_what_is_stated() {
    let agents = [16, 32, 64, 128];
    let bytes = agents.map(held);
    let per_cell: Vec<usize> = agents
        .windows(2)
        .zip(bytes.windows(2))
        .map(|(agents, bytes)| (bytes[1] - bytes[0]) / ((agents[1] - agents[0]) * CELLS_PER_AGENT))
        .collect();
    println!("bytes for each further cell with two metrics: {per_cell:?}; in all {bytes:?}");
    let (least, most) = (per_cell.iter().min().unwrap(), per_cell.iter().max().unwrap());
    assert!(*most as f64 <= 1.15 * *least as f64, "not linear: {per_cell:?}");
    let stated = CELL_BYTES + 2 * SERIES_BYTES + 2 * ROLL_UP_BYTES;
    assert!(*most as u64 <= stated, "{most} bytes a cell, stated are {stated}");
}
