//! The wire: frames, messages, and the one place where bytes become meaning. The byte layout is in WIRE.md.
//!
//! It must never accept what it cannot explain: unknown versions and kinds, lengths over a limit and trailing
//! bytes are each an error of their own. The hard case is a peer one version ahead; it gets a typed refusal.
mod codec;
mod frame;
mod message;
mod quantity;
mod strings;
mod summary;

pub use codec::{decode, encode};
pub use frame::{FRAME_HEADER_BYTES, Frame, Kind, MAGIC, VERSION, WireError};
pub use message::{
    Acknowledge, Birth, Calendar, CalendarEntry, DropCount, Enroll, Enrolled, Heartbeat, Message, Name,
    Refuse, RefuseReason, Renew,
};
pub use quantity::{F24, Fraction, Shape};
pub use strings::{StringTable, StringsFull};
pub use summary::{CellName, Course, Deviation, Direction, NO_TAGS, Phase, RollUp, Scorer, Summary};
