//! Every fixed limit that more than one part must agree on, related to each other at compile time.
//!
//! It must never hold what a config may change: those limits stand in the configs with their defaults. The
//! hard case is a limit raised alone; the assertions below fail the build when two no longer fit together.

/// Bytes of an agent id.
pub const AGENT_ID_BYTES_MAX: usize = 64;
/// Bytes of a tag's value, of a measurement's name, and so of a region's, device's or stack's name.
pub const NAME_BYTES_MAX: usize = 64;
/// Bytes of a metric's name: `measurement.field`.
pub const METRIC_BYTES_MAX: usize = 2 * NAME_BYTES_MAX + 1;
/// Tags of one observation, the dimensions included.
pub const TAGS_MAX: usize = 16;
/// Bytes of the further tags of a series in canonical form, `k=v,k2=v2`.
pub const TAG_SET_BYTES_MAX: usize = 255;
/// Bytes of one received line of telemetry.
pub const LINE_BYTES_MAX: usize = 4096;

/// Bytes of a whole frame, header included. A spool record holds exactly one frame.
pub const FRAME_BYTES_MAX: usize = 16 * 1024;
/// Strings in a summary's table; indices stay below 251, which bincode writes as one byte.
pub const STRINGS_MAX: usize = 250;
/// Bytes of all strings of a summary's table together.
pub const STRINGS_BYTES_MAX: usize = 4096;
/// Cells that one summary names.
pub const CELLS_MAX: usize = 64;
/// Roll-ups in one summary.
pub const ROLL_UPS_MAX: usize = 256;
/// Deviations in one summary.
pub const DEVIATIONS_MAX: usize = 100;
/// Samples in the shape of a deviation.
pub const SHAPE_SAMPLES: usize = 8;

/// Regions that one agent may speak for.
pub const REGIONS_MAX: usize = 16;
/// Entries in one calendar message.
pub const CALENDAR_ENTRIES_MAX: usize = 64;
/// Different drop reasons that one heartbeat reports.
pub const DROP_REASONS_MAX: usize = 32;
/// Records that a link may have sent and not yet seen acknowledged, per lane.
pub const IN_FLIGHT_MAX: usize = 64;
/// Bytes of a certificate signing request and of a certificate in the enrolment messages.
pub const CERTIFICATE_BYTES_MAX: usize = 2048;
/// Bytes of the secret part of an enrolment token.
pub const TOKEN_SECRET_BYTES: usize = 16;

// A string of the table is as long as its one-byte length can say, and every limit on names respects that.
const _: () = assert!(TAG_SET_BYTES_MAX <= u8::MAX as usize);
const _: () = assert!(METRIC_BYTES_MAX <= u8::MAX as usize);
// Indices are single bytes on the wire up to 250, and 255 is kept for "none".
const _: () = assert!(STRINGS_MAX <= 250 && CELLS_MAX <= 250);
// A summary that is full in every part still fits a frame: strings (one length byte each), cells (3 bytes),
// roll-ups (1 + 1 + 3 + 3 + 5) and deviations (3 + 1 + 5 + 6 + 4 + 4) at their longest, keys and counts in 128.
const _: () = assert!(
    128 + STRINGS_BYTES_MAX + STRINGS_MAX + 3 * CELLS_MAX + 13 * ROLL_UPS_MAX + 23 * DEVIATIONS_MAX
        <= FRAME_BYTES_MAX
);
// The largest names of one cell, one metric and one tag set fit an empty string table, so that a summary
// can always take at least one entry.
const _: () = assert!(3 * NAME_BYTES_MAX + METRIC_BYTES_MAX + TAG_SET_BYTES_MAX <= STRINGS_BYTES_MAX);
// A full calendar message and both certificates of an answer fit a frame.
const _: () = assert!(64 + CALENDAR_ENTRIES_MAX * (2 * (NAME_BYTES_MAX + 1) + 18) <= FRAME_BYTES_MAX);
const _: () = assert!(64 + 2 * (CERTIFICATE_BYTES_MAX + 3) <= FRAME_BYTES_MAX);
// The longest legal name fits a line many times over.
const _: () = assert!(TAGS_MAX * 2 * NAME_BYTES_MAX <= LINE_BYTES_MAX);
