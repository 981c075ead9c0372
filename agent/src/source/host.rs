//! This machine's own metrics from `/proc`: processor, memory, load, disks, network.
//!
//! Owns turning counters into rates. Must never fail as a whole: what cannot be read is left out. The hard case is a
//! counter that begins anew (a device that was replaced, a 32-bit counter that went round): no rate is reported then,
//! rather than an absurd one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use procfs::{Current, CurrentSI};
use tokio::time::MissedTickBehavior;
use vedette_common::units::MonoMs;

use super::Stop;
use crate::config;
use crate::engine::Engine;

/// Bytes of a sector in `/proc/diskstats`, whatever the disk's own (Linux, Documentation/admin-guide/iostats.rst).
const SECTOR_BYTES: u64 = 512;
/// Disks and interfaces of each kind that are reported; the first by name.
const DEVICES_MAX: usize = 64;

/// Reads this machine's metrics at an interval.
#[derive(Debug)]
pub struct HostSource {
    interval: Duration,
}

impl HostSource {
    /// A source that reads nothing yet.
    #[must_use]
    pub fn new(settings: &config::HostSource) -> Self {
        Self { interval: Duration::from_millis(settings.interval_ms.into()) }
    }

    /// Reads until `stop`.
    pub async fn run(self, engine: Arc<Engine>, mut stop: Stop) {
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before: Option<(MonoMs, Totals)> = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.stopped() => return,
            }
            let (now, totals) = (engine.now().mono, Totals::read());
            report_levels(&engine);
            if let Some((then, before)) = &before {
                totals.report_rates(before, now.ms_since(*then), |reading| engine.observe(&reading));
            }
            before = Some((now, totals));
        }
    }
}

/// One value of this machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading<'a> {
    /// What is measured.
    pub measurement: &'a str,
    /// The device it belongs to, as a tag.
    pub tag: Option<(&'a str, &'a str)>,
    /// The value.
    pub value: f64,
}

fn report_levels(engine: &Engine) {
    let report = |measurement, value| engine.observe(&Reading { measurement, tag: None, value });
    if let Ok(memory) = procfs::Meminfo::current()
        && let (Some(available), total @ 1..) = (memory.mem_available, memory.mem_total)
    {
        report("memory.used_percent", 100.0 * (1.0 - available as f64 / total as f64));
    }
    if let Ok(load) = procfs::LoadAverage::current() {
        report("load1", f64::from(load.one));
    }
}

/// Counters since the machine's start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Totals {
    /// Ticks spent working, and all ticks.
    cpu: Option<(u64, u64)>,
    /// Bytes read and written, by disk.
    disks: BTreeMap<String, (u64, u64)>,
    /// Bytes received and transmitted, by interface.
    interfaces: BTreeMap<String, (u64, u64)>,
}

impl Totals {
    fn read() -> Self {
        Self {
            cpu: procfs::KernelStats::current().ok().map(|stats| cpu_ticks(&stats.total)),
            disks: read_disks(),
            interfaces: read_interfaces(),
        }
    }

    fn report_rates(&self, before: &Self, elapsed_ms: u64, mut report: impl FnMut(Reading<'_>)) {
        if let (Some((busy, all)), Some((busy_before, all_before))) = (self.cpu, before.cpu)
            && let (Some(busy), Some(all @ 1..)) =
                (busy.checked_sub(busy_before), all.checked_sub(all_before))
        {
            let value = 100.0 * busy as f64 / all as f64;
            report(Reading { measurement: "cpu.busy_percent", tag: None, value });
        }
        let disks = ["disk.read_bytes_per_s", "disk.write_bytes_per_s"];
        report_pairs("disk", disks, &self.disks, &before.disks, elapsed_ms, &mut report);
        let interfaces = ["network.receive_bytes_per_s", "network.transmit_bytes_per_s"];
        report_pairs("interface", interfaces, &self.interfaces, &before.interfaces, elapsed_ms, &mut report);
    }
}

fn report_pairs(
    tag: &str,
    measurements: [&str; 2],
    now: &BTreeMap<String, (u64, u64)>,
    before: &BTreeMap<String, (u64, u64)>,
    elapsed_ms: u64,
    report: &mut impl FnMut(Reading<'_>),
) {
    for (name, (first, second)) in now {
        let Some((first_before, second_before)) = before.get(name) else { continue };
        for (measurement, now, before) in
            [(measurements[0], first, first_before), (measurements[1], second, second_before)]
        {
            if let (Some(bytes), 1..) = (now.checked_sub(*before), elapsed_ms) {
                let value = bytes as f64 * 1000.0 / elapsed_ms as f64;
                report(Reading { measurement, tag: Some((tag, name)), value });
            }
        }
    }
}

/// Ticks spent working, and all of them. Guest time is in user time already; waiting for a disk is idling.
fn cpu_ticks(time: &procfs::CpuTime) -> (u64, u64) {
    let some = Option::unwrap_or_default;
    let busy = [time.user, time.nice, time.system, some(time.irq), some(time.softirq), some(time.steal)];
    let busy = busy.into_iter().fold(0, u64::saturating_add);
    (busy, busy.saturating_add(time.idle).saturating_add(some(time.iowait)))
}

fn read_disks() -> BTreeMap<String, (u64, u64)> {
    let disks = procfs::diskstats().unwrap_or_default();
    let disks = disks.into_iter().filter(|disk| is_whole_disk(&disk.name)).map(|disk| {
        let bytes = |sectors: u64| sectors.saturating_mul(SECTOR_BYTES);
        (disk.name, (bytes(disk.sectors_read), bytes(disk.sectors_written)))
    });
    disks.take(DEVICES_MAX).collect()
}

/// A partition's traffic is its disk's too; loop and memory disks have none of their own.
fn is_whole_disk(name: &str) -> bool {
    let virtual_disk = ["loop", "ram", "zram"].iter().any(|kind| name.starts_with(kind));
    // The kernel writes `!` for a slash in the names of this folder.
    !virtual_disk && Path::new("/sys/block").join(name.replace('/', "!")).exists()
}

fn read_interfaces() -> BTreeMap<String, (u64, u64)> {
    let interfaces: BTreeMap<_, _> = procfs::net::dev_status().unwrap_or_default().into_iter().collect();
    let real =
        interfaces.into_values().filter(|status| status.name != "lo" && !status.name.starts_with("veth"));
    real.take(DEVICES_MAX).map(|status| (status.name, (status.recv_bytes, status.sent_bytes))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(now: &Totals, before: &Totals, elapsed_ms: u64) -> Vec<(String, f64)> {
        let mut found = Vec::new();
        now.report_rates(before, elapsed_ms, |reading| {
            let device = reading.tag.map_or(String::new(), |(key, value)| format!("{key}={value}"));
            found.push((format!("{},{device}", reading.measurement), reading.value));
        });
        found
    }

    fn totals(busy: u64, all: u64, read: u64) -> Totals {
        let disks = BTreeMap::from([("sda".to_owned(), (read, 0))]);
        Totals { cpu: Some((busy, all)), disks, interfaces: BTreeMap::new() }
    }

    #[test]
    fn counters_become_rates() {
        let found = rates(&totals(150, 1200, 5000), &totals(100, 1000, 1000), 2000);
        let expected = [("cpu.busy_percent,", 25.0), ("disk.read_bytes_per_s,disk=sda", 2000.0)];
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!((found.0.as_str(), found.1), expected);
        }
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn a_counter_that_begins_anew_gives_no_rate() {
        let found = rates(&totals(5, 10, 100), &totals(100, 1000, 1000), 2000);
        assert_eq!(found, [("disk.write_bytes_per_s,disk=sda".to_owned(), 0.0)]);
    }

    #[test]
    fn no_time_gives_no_rate() {
        assert!(rates(&totals(1, 2, 3), &totals(1, 2, 3), 0).is_empty());
    }

    #[test]
    fn this_machine_can_be_read() {
        let totals = Totals::read();
        let (busy, all) = totals.cpu.unwrap();
        assert!(busy > 0 && all >= busy);
    }
}
