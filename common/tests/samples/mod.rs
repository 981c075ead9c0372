//! One fixed message of every kind, for the tests of the wire format. They must never change: golden bytes
//! were made from them.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses its part of the samples")]

use heapless::Vec;
use vedette_common::wire::{
    Acknowledge, Birth, Calendar, CalendarEntry, CellName, Course, Deviation, Direction, DropCount, Enroll,
    Enrolled, F24, Fraction, Heartbeat, NO_TAGS, Phase, Refuse, RefuseReason, Renew, RollUp, Scorer, Shape,
    Summary,
};
use vedette_common::{AgentId, BootId, Lane, RecordKey, Sequence, WallMs};

pub(crate) fn key(lane: Lane, sequence: u64) -> RecordKey {
    RecordKey { boot: BootId(0x0123_4567_89ab_cdef), lane, sequence: Sequence(sequence) }
}

fn text<const N: usize>(text: &str) -> heapless::String<N> {
    heapless::String::try_from(text).unwrap()
}

pub(crate) fn birth() -> Birth {
    Birth {
        agent: AgentId::parse("edge-7").unwrap(),
        boot: BootId(7),
        version: text("0.1.0"),
        started_at: WallMs(1_772_000_000_000),
        window_ms: 10_000,
        regions: Vec::from_slice(&[text("uk"), text("eu-west")]).unwrap(),
        series_max: 10_000,
    }
}

pub(crate) fn summary() -> Summary {
    let mut summary = Summary::new(key(Lane::Deviations, 42), WallMs(1_772_000_000_000), 300_000);
    for name in ["uk", "tv-lg", "playback", "activity", "errors", "host=a,zone=Zürich"] {
        summary.strings.intern(name).unwrap();
    }
    summary.cells.push(CellName { region: 0, device: 1, stack: 2 }).unwrap();
    let (observed, expected) = (F24::from_f32(310.0), F24::from_f32(820.5));
    summary.roll_ups.push(RollUp { cell: 0, metric: 3, observed, expected, count: 5 }).unwrap();
    summary.roll_ups.push(RollUp { cell: 0, metric: 4, observed, expected, count: 70_000 }).unwrap();
    for (tags, phase, direction) in
        [(5, Phase::Onset, Direction::Down), (NO_TAGS, Phase::Ended, Direction::Up)]
    {
        let deviation = Deviation {
            cell: 0,
            metric: 3,
            tags,
            course: Course { phase, direction, in_event: tags == NO_TAGS, scorer: Scorer::Value },
            onset_s_ago: 600,
            observed,
            expected,
            score: Fraction(252),
            forecast: Fraction(200),
            derivative: Fraction(9),
            distribution: Fraction(0),
            shape: Shape::from_samples(&[0.0, 0.0, -0.1, -0.5, -0.9, -1.0, -1.0, 1.0]),
        };
        summary.deviations.push(deviation).unwrap();
    }
    summary
}

/// The same with deviations that are faults of the telemetry.
pub(crate) fn summary_of_telemetry() -> Summary {
    let mut summary = summary();
    summary.deviations[0].course.scorer = Scorer::FlatLine;
    summary.deviations[1].course.scorer = Scorer::Silence;
    summary
}

pub(crate) fn heartbeat() -> Heartbeat {
    Heartbeat {
        at: WallMs(1_772_000_010_000),
        boot: BootId(7),
        series: 1_000,
        spooled_records: 3,
        spooled_bytes: 70_000,
        horizons: [None, Some(key(Lane::RollUps, 300))],
        observed: 5_000_000_000,
        delivered: 299,
        dropped: Vec::from_slice(&[DropCount { reason: 0, count: 12 }, DropCount { reason: 14, count: 251 }])
            .unwrap(),
    }
}

pub(crate) fn acknowledge() -> Acknowledge {
    Acknowledge { key: key(Lane::RollUps, 300) }
}

pub(crate) fn refuse() -> Refuse {
    Refuse { reason: RefuseReason::Overloaded, key: Some(key(Lane::Deviations, 1)), retry_after_ms: 5_000 }
}

pub(crate) fn calendar() -> Calendar {
    let entry = |region: &str, class: &str| CalendarEntry {
        region: text(region),
        class: text(class),
        from: WallMs(1_772_000_000_000),
        until: WallMs(1_772_007_200_000),
    };
    Calendar {
        version: 3,
        entries: Vec::from_slice(&[entry("uk", "football"), entry("", "holiday")]).unwrap(),
    }
}

pub(crate) fn enroll() -> Enroll {
    Enroll { token_secret: *b"0123456789abcdef", csr_der: Vec::from_slice(&[0x30, 0x03, 1, 2, 255]).unwrap() }
}

pub(crate) fn enrolled() -> Enrolled {
    Enrolled {
        certificate_der: Vec::from_slice(&[0x30, 0x01, 0]).unwrap(),
        ca_der: Vec::from_slice(&[0x30, 0x02, 1, 2]).unwrap(),
    }
}

pub(crate) fn renew() -> Renew {
    Renew { csr_der: Vec::from_slice(&[0x30, 0x03, 1, 2, 255]).unwrap() }
}
