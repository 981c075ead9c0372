//! What a spool may use, and when it makes its records safe from a power cut.
//!
//! It must never let a spool start with limits that contradict each other. The hard case is a share for
//! deviations that leaves roll-ups no room at all; [`SpoolSettings::check`] refuses it.
use vedette_common::limits::FRAME_BYTES_MAX;

use super::index::Segment;
use super::record::{RECORD_BYTES_MAX, RECORD_HEADER_BYTES};

/// Segments that a spool may have. Fixes how far a new start looks for segments of a larger, earlier setting.
pub const SEGMENTS_MAX: usize = 1024;

/// The limits of a spool.
///
/// Memory: [`memory_bytes`](Self::memory_bytes), which is 80 bytes a segment and one record,
/// 21,548 bytes with the defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpoolSettings {
    /// Bytes of all segments together; a hard cap. Default 16 MiB. At least four segments.
    pub bytes_max: u32,
    /// Bytes of one segment, the unit in which room is made. Default 256 KiB. At least one record; at most
    /// [`SEGMENTS_MAX`] segments must make up `bytes_max`.
    pub segment_bytes: u32,
    /// Bytes that deviations may take, pushing out roll-ups as they need; roll-ups never push out
    /// deviations. Default half of `bytes_max`. At least two segments, and it leaves two for roll-ups.
    pub deviations_bytes_max: u32,
    /// Bytes of one frame. Default and at most [`FRAME_BYTES_MAX`].
    pub frame_bytes_max: u32,
    /// When written records are made safe from a power cut. Default: at the end of each window.
    pub sync: SyncPolicy,
}

/// When written records are made safe from a power cut. The end of the process alone loses none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Once after each window: a power cut loses at most the open window.
    EachWindow,
    /// At most once in so many milliseconds, at least 1: gentler on flash memory, loses up to that much.
    Interval {
        /// Milliseconds between two syncs.
        ms: u32,
    },
}

/// Why limits do not fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// `frame_bytes_max` is 0 or over [`FRAME_BYTES_MAX`].
    #[error("frame_bytes_max is {0}; it must be 1 to {FRAME_BYTES_MAX}")]
    Frame(u32),
    /// A segment could not hold the longest record.
    #[error("segment_bytes is {have}; it must be at least {need}, one record")]
    Segment {
        /// What was set.
        have: u32,
        /// What one record takes.
        need: u32,
    },
    /// Fewer than four segments, or more than [`SEGMENTS_MAX`].
    #[error("bytes_max holds {0} segments of segment_bytes; it must hold 4 to {SEGMENTS_MAX}")]
    Segments(u32),
    /// One lane would have less than two segments.
    #[error("deviations_bytes_max is {have}; it must be {min} to {max}, two segments for each lane")]
    Deviations {
        /// What was set.
        have: u32,
        /// Two segments.
        min: u32,
        /// `bytes_max` less two segments.
        max: u32,
    },
    /// An interval of nothing.
    #[error("the sync interval must be at least 1 ms")]
    Interval,
    /// The memory handed over is smaller than these settings need.
    #[error("the spool needs memory for {segments} segments and {buffer_bytes} bytes of buffer")]
    Memory {
        /// Places in the index.
        segments: usize,
        /// Bytes of the buffer.
        buffer_bytes: usize,
    },
}

impl Default for SpoolSettings {
    fn default() -> Self {
        Self::with_bytes_max(16 * 1024 * 1024)
    }
}

impl SpoolSettings {
    /// The defaults for a cap of `bytes_max`: 64 segments, though none smaller than 32 KiB or larger than
    /// 1 MiB, and half of it for deviations. Fit from 128 KiB to 1 GiB.
    pub const fn with_bytes_max(bytes_max: u32) -> Self {
        let share = bytes_max / 64;
        let segment_bytes = if share < 32 * 1024 {
            32 * 1024
        } else if share > 1024 * 1024 {
            1024 * 1024
        } else {
            share
        };
        Self {
            bytes_max,
            segment_bytes,
            deviations_bytes_max: bytes_max / 2,
            frame_bytes_max: FRAME_BYTES_MAX as u32,
            sync: SyncPolicy::EachWindow,
        }
    }

    /// Places that the index needs.
    pub const fn segments(&self) -> usize {
        match self.bytes_max.checked_div(self.segment_bytes) {
            Some(segments) => segments as usize,
            None => 0,
        }
    }

    /// Bytes that the buffer needs: one record.
    pub const fn buffer_bytes(&self) -> usize {
        RECORD_HEADER_BYTES.saturating_add(self.frame_bytes_max as usize)
    }

    /// Bytes of memory that a spool with these settings works in: its index and its buffer.
    pub const fn memory_bytes(&self) -> usize {
        self.segments().saturating_mul(size_of::<Segment>()).saturating_add(self.buffer_bytes())
    }

    /// Checks that the limits fit together.
    ///
    /// # Errors
    /// [`SettingsError`] with the first limit that does not.
    pub fn check(&self) -> Result<(), SettingsError> {
        if self.frame_bytes_max == 0 || self.frame_bytes_max > FRAME_BYTES_MAX as u32 {
            return Err(SettingsError::Frame(self.frame_bytes_max));
        }
        let need = self.buffer_bytes() as u32;
        if self.segment_bytes < need {
            return Err(SettingsError::Segment { have: self.segment_bytes, need });
        }
        let segments = self.segments();
        if !(4..=SEGMENTS_MAX).contains(&segments) {
            return Err(SettingsError::Segments(segments as u32));
        }
        let (min, max) = (2 * self.segment_bytes, self.bytes_max - 2 * self.segment_bytes);
        if !(min..=max).contains(&self.deviations_bytes_max) {
            return Err(SettingsError::Deviations { have: self.deviations_bytes_max, min, max });
        }
        match self.sync {
            SyncPolicy::Interval { ms: 0 } => Err(SettingsError::Interval),
            _ => Ok(()),
        }
    }
}

// The defaults need exactly the buffer for the longest record there is.
const _: () = assert!(SpoolSettings::with_bytes_max(1 << 24).buffer_bytes() == RECORD_BYTES_MAX);
const _: () = assert!(size_of::<Segment>() <= 80);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_fit_from_the_smallest_to_the_largest() {
        for bytes_max in [128 << 10, 200_000, 1 << 20, 16 << 20, 100_000_000, 1 << 30] {
            assert_eq!(SpoolSettings::with_bytes_max(bytes_max).check(), Ok(()), "{bytes_max}");
        }
        assert_eq!(SpoolSettings::default().segments(), 64);
    }

    #[test]
    fn contradictions_are_named() {
        let good = SpoolSettings::default();
        let check = |change: fn(&mut SpoolSettings)| {
            let mut settings = good;
            change(&mut settings);
            settings.check()
        };
        assert_eq!(check(|s| s.frame_bytes_max = 0), Err(SettingsError::Frame(0)));
        assert_eq!(
            check(|s| s.segment_bytes = 100),
            Err(SettingsError::Segment { have: 100, need: RECORD_BYTES_MAX as u32 })
        );
        assert!(check(|s| s.segment_bytes = 0).is_err());
        assert_eq!(check(|s| s.bytes_max = 600_000), Err(SettingsError::Segments(2)));
        let (min, max) = (512 << 10, (16 << 20) - (512 << 10));
        assert_eq!(
            check(|s| s.deviations_bytes_max = 16 << 20),
            Err(SettingsError::Deviations { have: 16 << 20, min, max })
        );
        assert_eq!(check(|s| s.sync = SyncPolicy::Interval { ms: 0 }), Err(SettingsError::Interval));
    }
}
