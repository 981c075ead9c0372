//! Fuzzes what an enrolled agent may say: whatever the messages are, the aggregator's core takes each or names a reason, and judges on.
//!
//! The hard case is a message that is right and absurd: times at the ends of the calendar, widths of a millisecond, counts without end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use vedette_aggregator_core::{Aggregator, AlarmOn, AllowedRegions, MetricSettings, Role, Settings};
use vedette_common::wire::{Birth, Frame, Heartbeat, Kind, Summary, decode};
use vedette_common::{AgentId, MonoMs, Now, WallMs};

/// 2026-03-01.
const BEGINNING_MS: i64 = 1_772_323_200_000;
/// The longest message that is cut from the input.
const MESSAGE_BYTES_MAX: usize = 255;

static SETTINGS: LazyLock<Settings> = LazyLock::new(|| {
    let mut settings = Settings::default();
    let traffic = MetricSettings { role: Role::Traffic, alarm_on: AlarmOn::Drop };
    settings.metrics.insert("activity".into(), traffic);
    let errors = MetricSettings { role: Role::Errors, alarm_on: AlarmOn::Rise };
    settings.metrics.insert("errors".into(), errors);
    settings
});

// The input is cut into messages: a kind, how much time has passed, a length, and that many bytes.
fuzz_target!(|bytes: &[u8]| {
    let mut core = Aggregator::new(SETTINGS.clone());
    let mut ms = 0;
    let now = |ms| Now { mono: MonoMs(ms), wall: WallMs(BEGINNING_MS + ms as i64) };
    core.handle_start(now(ms));
    let mut rest = bytes;
    while let [kind, minutes, length, more @ ..] = rest {
        let (payload, behind) = more.split_at(usize::from(*length).min(more.len()).min(MESSAGE_BYTES_MAX));
        rest = behind;
        ms += u64::from(*minutes) * 60_000;
        take(&mut core, now(ms), *kind, payload);
        core.handle_deadline(now(ms));
        while core.poll_effect().is_some() {}
        core.take_changes();
    }
    core.handle_deadline(now(ms + 86_400_000));
    core.snapshot();
});

fn take(core: &mut Aggregator, now: Now, kind: u8, payload: &[u8]) {
    let agent = AgentId::parse("edge-1").expect("a good name");
    // Sums are what the target for frames looks at.
    match kind % 4 {
        0 => {
            let frame = Frame { kind: Kind::Birth, payload };
            decode::<Birth>(&frame).into_iter().for_each(|birth| core.handle_birth(now, &agent, &birth));
        }
        1 => {
            let frame = Frame { kind: Kind::Heartbeat, payload };
            let heartbeat = decode::<Heartbeat>(&frame).into_iter();
            heartbeat.for_each(|heartbeat| core.handle_heartbeat(now, &agent, &heartbeat));
        }
        _ => {
            let frame = Frame { kind: Kind::Summary, payload };
            decode::<Summary>(&frame).into_iter().for_each(|summary| {
                core.handle_summary(now, &agent, &AllowedRegions::All, &summary);
            });
        }
    }
}
