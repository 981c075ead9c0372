//! The frame around every message: magic, version, kind, length, crc32c, then the payload; little-endian.
//!
//! It must never look at a payload before the checksum agreed. The hard case is a stream: [`Frame::parse`]
//! tells "more bytes are needed" apart from "these bytes can never become a frame".
use crc::{CRC_32_ISCSI, Crc, Table};

use crate::drops::DropReason;
use crate::limits::FRAME_BYTES_MAX;

/// The first two bytes of every frame.
pub const MAGIC: [u8; 2] = *b"Vd";
/// The version of the byte layout that this build writes and reads.
pub const VERSION: u8 = 1;
/// Bytes before the payload: magic 2, version 1, kind 1, length 4, crc32c 4.
pub const FRAME_HEADER_BYTES: usize = 12;

static CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// What a payload holds. The number is the byte on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// An agent introduces itself; the first frame of every connection.
    Birth = 1,
    /// Roll-ups and deviations of one window.
    Summary = 2,
    /// Signs of life, counts and horizons.
    Heartbeat = 3,
    /// Everything through a key is committed.
    Acknowledge = 4,
    /// Something was not taken, with the reason and when to try again.
    Refuse = 5,
    /// Scheduled events, for the agent.
    Calendar = 6,
    /// A request for a certificate.
    Enroll = 7,
    /// The certificate.
    Enrolled = 8,
    /// A request for another certificate in place of the present one.
    Renew = 9,
}

impl Kind {
    /// Every kind, in the order of its number.
    pub const ALL: [Self; 9] = [
        Self::Birth,
        Self::Summary,
        Self::Heartbeat,
        Self::Acknowledge,
        Self::Refuse,
        Self::Calendar,
        Self::Enroll,
        Self::Enrolled,
        Self::Renew,
    ];

    const fn from_byte(byte: u8) -> Option<Self> {
        if byte >= 1 && byte as usize <= Self::ALL.len() { Some(Self::ALL[byte as usize - 1]) } else { None }
    }
}

/// Why bytes are no frame, or a frame is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// More bytes are needed; on a datagram or in a file this means that the frame was cut off.
    #[error("the frame is incomplete: {have} of {need} bytes")]
    Truncated {
        /// Bytes at hand.
        have: usize,
        /// Bytes that are known to be needed.
        need: usize,
    },
    /// The first two bytes are not [`MAGIC`].
    #[error("not a frame: begins with {0:02x?} instead of \"Vd\"")]
    BadMagic([u8; 2]),
    /// A version that this build does not know.
    #[error("frame version {0} is not known here (known: {VERSION})")]
    UnknownVersion(u8),
    /// A kind that this version does not have.
    #[error("frame kind {0} is not known")]
    UnknownKind(u8),
    /// A length over [`FRAME_BYTES_MAX`].
    #[error("the frame claims {0} bytes, over the limit of {FRAME_BYTES_MAX}")]
    TooLong(usize),
    /// The checksum in the header is not that of the bytes.
    #[error("checksum mismatch: header {header:08x}, bytes {bytes:08x}")]
    BadChecksum {
        /// What the header says.
        header: u32,
        /// What the bytes give.
        bytes: u32,
    },
    /// A frame of another kind than the one asked for.
    #[error("expected a frame of kind {expected:?}, got {found:?}")]
    WrongKind {
        /// The kind asked for.
        expected: Kind,
        /// The kind of the frame.
        found: Kind,
    },
    /// The payload does not decode: a bad value, a length over a limit, or an early end.
    #[error("the payload does not decode as {0:?}")]
    BadPayload(Kind),
    /// The payload decodes, but bytes are left over.
    #[error("{left} bytes are left over after the {kind:?}")]
    TrailingBytes {
        /// The kind of the frame.
        kind: Kind,
        /// Bytes left over.
        left: usize,
    },
    /// The caller's buffer is too small for the message.
    #[error("the buffer of {0} bytes is too small for the frame")]
    BufferTooSmall(usize),
}

impl WireError {
    /// The reason under which the frame is counted.
    pub const fn drop_reason(&self) -> DropReason {
        match self {
            Self::Truncated { .. } => DropReason::FrameTruncated,
            Self::BadMagic(_) => DropReason::BadMagic,
            Self::UnknownVersion(_) => DropReason::UnknownVersion,
            Self::UnknownKind(_) | Self::WrongKind { .. } => DropReason::UnknownKind,
            Self::TooLong(_) | Self::BufferTooSmall(_) => DropReason::FrameTooLong,
            Self::BadChecksum { .. } => DropReason::BadChecksum,
            Self::BadPayload(_) | Self::TrailingBytes { .. } => DropReason::BadPayload,
        }
    }

    /// Whether more bytes could still make a frame of these.
    pub const fn wants_more(&self) -> bool {
        matches!(self, Self::Truncated { .. })
    }
}

/// One checked frame: its checksum agreed, its payload is not decoded yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What the payload holds.
    pub kind: Kind,
    /// The payload, at most [`FRAME_BYTES_MAX`] less the header.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads the frame at the beginning of `bytes`; gives it and its whole length, header included.
    ///
    /// # Errors
    /// [`WireError::Truncated`] when more bytes are needed (so far, all was right); any other error is final
    /// for these bytes. The length is checked before the payload is waited for.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, usize), WireError> {
        let (kind, header, length) = parse_header(bytes)?;
        let Some(payload) = bytes.get(FRAME_HEADER_BYTES..length) else {
            return Err(WireError::Truncated { have: bytes.len(), need: length });
        };
        let sum = checksum(&bytes[..8], payload);
        if sum != header {
            return Err(WireError::BadChecksum { header, bytes: sum });
        }
        Ok((Self { kind, payload }, length))
    }
}

/// The kind, the checksum and the whole length that a header states.
fn parse_header(bytes: &[u8]) -> Result<(Kind, u32, usize), WireError> {
    let prefix = &bytes[..bytes.len().min(2)];
    if !MAGIC.starts_with(prefix) {
        return Err(WireError::BadMagic([prefix[0], prefix.get(1).copied().unwrap_or(0)]));
    }
    if bytes.len() > 2 && bytes[2] != VERSION {
        return Err(WireError::UnknownVersion(bytes[2]));
    }
    let Some((head, _)) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>() else {
        return Err(WireError::Truncated { have: bytes.len(), need: FRAME_HEADER_BYTES });
    };
    let kind = Kind::from_byte(head[3]).ok_or(WireError::UnknownKind(head[3]))?;
    let payload_bytes = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
    if payload_bytes > FRAME_BYTES_MAX - FRAME_HEADER_BYTES {
        return Err(WireError::TooLong(payload_bytes.saturating_add(FRAME_HEADER_BYTES)));
    }
    let header = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
    Ok((kind, header, FRAME_HEADER_BYTES + payload_bytes))
}

/// Writes the header for a payload of `payload_bytes` that stands in `frame` behind the header already.
pub(super) fn seal(frame: &mut [u8], kind: Kind, payload_bytes: usize) {
    let length = u32::try_from(payload_bytes).unwrap_or(u32::MAX);
    frame[..2].copy_from_slice(&MAGIC);
    frame[2] = VERSION;
    frame[3] = kind as u8;
    frame[4..8].copy_from_slice(&length.to_le_bytes());
    let sum = checksum(&frame[..8], &frame[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + payload_bytes]);
    frame[8..FRAME_HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
}

/// CRC-32C (Castagnoli, RFC 3720 appendix B.4) over the first eight header bytes and the payload.
fn checksum(head: &[u8], payload: &[u8]) -> u32 {
    let mut digest = CRC32C.digest();
    digest.update(head);
    digest.update(payload);
    digest.finalize()
}
