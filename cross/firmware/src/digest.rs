//! One number from many bytes, so that two machines can be compared by a line.
//!
//! It must never depend on the width of a pointer or the order of bytes in memory. The hard case is a difference in the
//! last bit of one score among thousands: every bit counts (FNV-1a, 64 bits).

/// The digest so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Digest(u64);

impl Digest {
    pub(crate) const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub(crate) fn float(&mut self, value: f32) {
        self.bytes(&value.to_bits().to_le_bytes());
    }

    pub(crate) const fn value(self) -> u64 {
        self.0
    }
}
