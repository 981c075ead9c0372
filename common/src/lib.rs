//! Units, ids, limits, drop reasons and wire messages shared by every part of Vedette.
#![no_std]
#![forbid(unsafe_code)]
