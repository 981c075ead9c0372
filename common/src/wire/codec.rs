//! Messages to frames and back: the only file that names bincode.
//!
//! It must never let bincode read past a payload or leave bytes behind: bincode accepts trailing bytes, so
//! consumption is compared here. The hard case is a length prefix that promises more than the frame holds;
//! the limit below and the bounded containers of the messages stop it before any room is made.
use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use serde::de::DeserializeOwned;

use super::frame::{FRAME_HEADER_BYTES, Frame, WireError, seal};
use super::message::Message;
use crate::limits::FRAME_BYTES_MAX;

const CONFIG: Configuration<LittleEndian, Varint, Limit<FRAME_BYTES_MAX>> =
    bincode::config::standard().with_limit::<FRAME_BYTES_MAX>();

/// Writes `message` as one frame at the beginning of `buffer`; gives the frame's whole length in bytes.
///
/// # Errors
/// [`WireError::BufferTooSmall`] when the frame does not fit `buffer` or [`FRAME_BYTES_MAX`].
pub fn encode<M: Message>(message: &M, buffer: &mut [u8]) -> Result<usize, WireError> {
    let room = buffer.len().min(FRAME_BYTES_MAX);
    let too_small = WireError::BufferTooSmall(room);
    let payload = buffer.get_mut(FRAME_HEADER_BYTES..room).ok_or(too_small)?;
    let payload_bytes = bincode::serde::encode_into_slice(message, payload, CONFIG).map_err(|_| too_small)?;
    seal(buffer, M::KIND, payload_bytes);
    Ok(FRAME_HEADER_BYTES + payload_bytes)
}

/// Reads the payload of `frame` as an `M`, which must use up every byte of it.
///
/// # Errors
/// [`WireError::WrongKind`], [`WireError::BadPayload`] or [`WireError::TrailingBytes`].
pub fn decode<M: Message + DeserializeOwned>(frame: &Frame<'_>) -> Result<M, WireError> {
    if frame.kind != M::KIND {
        return Err(WireError::WrongKind { expected: M::KIND, found: frame.kind });
    }
    let (message, used) = bincode::serde::decode_from_slice::<M, _>(frame.payload, CONFIG)
        .map_err(|_| WireError::BadPayload(frame.kind))?;
    match frame.payload.len() - used {
        0 => Ok(message),
        left => Err(WireError::TrailingBytes { kind: frame.kind, left }),
    }
}
