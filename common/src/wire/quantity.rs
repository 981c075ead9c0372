//! Numbers in few bytes: a 24-bit float, a fraction in one byte, and the shape of a deviation in four.
//!
//! It must never carry a NaN or an infinity. The hard case is a value that a float of this width cannot
//! hold: it saturates at the largest finite one, and the smallest ones become zero.
use serde::{Deserialize, Deserializer, Serialize};

use crate::limits::SHAPE_SAMPLES;

/// A 32-bit float without its last eight bits: 1 sign, 8 exponent, 15 fraction bits, little-endian.
/// Relative error at most 2^-16 (1.5e-5); NaN becomes 0, infinities the largest finite value. 3 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct F24([u8; 3]);

const INFINITE_EXPONENT: u32 = 0x7f80_0000;

impl F24 {
    /// Rounds `value` to the nearest 24-bit float, half to even.
    pub const fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        if bits & !0x8000_0000 > INFINITE_EXPONENT {
            return Self([0; 3]);
        }
        let sign = bits & 0x8000_0000;
        let magnitude = bits & 0x7fff_ffff;
        let rounded = magnitude.saturating_add(0x7f + ((magnitude >> 8) & 1)) & 0x7fff_ff00;
        let finite = if rounded >= INFINITE_EXPONENT { INFINITE_EXPONENT - 0x100 } else { rounded };
        let [_, b0, b1, b2] = (sign | finite).to_le_bytes();
        Self([b0, b1, b2])
    }

    /// The same for a 64-bit value, saturating where 32 bits do not reach.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "narrowing is what this type is for; from_f32 saturates"
    )]
    pub const fn from_f64(value: f64) -> Self {
        Self::from_f32(value as f32)
    }

    /// The value; always finite.
    pub const fn to_f32(self) -> f32 {
        f32::from_bits(u32::from_le_bytes([0, self.0[0], self.0[1], self.0[2]]))
    }
}

impl<'de> Deserialize<'de> for F24 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Self(<[u8; 3]>::deserialize(deserializer)?);
        if value.to_f32().is_finite() {
            Ok(value)
        } else {
            Err(serde::de::Error::custom("a quantity must be finite"))
        }
    }
}

/// A number in [0, 1] as one byte, in steps of 1/255. 0.5 rounds up to 128, so that a score at the shipped
/// threshold stays at or above it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fraction(pub u8);

impl Fraction {
    /// Rounds `value`, clamped to [0, 1]; NaN becomes 0.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=255 before")]
    pub const fn from_f32(value: f32) -> Self {
        let scaled = value * 255.0 + 0.5;
        Self(if scaled >= 255.0 { 255 } else { scaled as u8 })
    }

    /// The value in [0, 1].
    pub const fn to_f32(self) -> f32 {
        self.0 as f32 / 255.0
    }
}

/// The last eight values of a deviating series against their expectation, each in [-1, 1] of the largest of
/// them, 4 bits a sample, the oldest first. Compared by cosine similarity. 4 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape([u8; 4]);

impl Shape {
    /// Scales `samples` (observed less expected) by their largest magnitude and rounds to sevenths.
    /// Samples that are not finite count as 0; all zeros give the flat shape.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rounded values lie in 1..=15"
    )]
    pub fn from_samples(samples: &[f32; SHAPE_SAMPLES]) -> Self {
        let finite = |v: f32| if v.is_finite() { v } else { 0.0 };
        let peak = samples.iter().fold(0.0f32, |peak, &v| peak.max(finite(v).abs()));
        let scale = if peak > 0.0 { 7.0 / peak } else { 0.0 };
        let mut packed = [0u8; 4];
        for (index, &sample) in samples.iter().enumerate() {
            let level = finite(sample) * scale + 8.5;
            let nibble = if level >= 15.0 { 15 } else { level as u8 };
            packed[index / 2] |= nibble << (4 * (index % 2));
        }
        Self(packed)
    }

    /// The samples in [-1, 1].
    pub fn to_samples(self) -> [f32; SHAPE_SAMPLES] {
        core::array::from_fn(|index| {
            let nibble = (self.0[index / 2] >> (4 * (index % 2))) & 15;
            (f32::from(nibble) - 8.0).max(-7.0) / 7.0
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_24_bit_float_is_close_and_finite() {
        for value in [0.0, 1.0, -1.0, 310.0, 1e-9, 1e15, 0.1, 65_535.5, -3.4e38] {
            let back = F24::from_f32(value).to_f32();
            assert!((back - value).abs() <= value.abs() * 1.6e-5, "{value} became {back}");
        }
        assert_eq!(F24::from_f32(f32::NAN).to_f32(), 0.0);
        assert!(F24::from_f32(f32::INFINITY).to_f32() > 3.4e38);
        assert!(F24::from_f64(-1e300).to_f32() < -3.4e38);
        assert!(F24::from_f32(f32::MAX).to_f32().is_finite());
    }

    #[test]
    fn a_fraction_keeps_the_threshold() {
        assert!(Fraction::from_f32(0.5).to_f32() >= 0.5);
        assert_eq!(Fraction::from_f32(2.0).0, 255);
        assert_eq!(Fraction::from_f32(-2.0).0, 0);
        assert_eq!(Fraction::from_f32(f32::NAN).0, 0);
    }

    #[test]
    fn a_shape_keeps_its_form() {
        let samples = [0.0, 0.0, -50.0, -100.0, -100.0, -75.0, 25.0, f32::NAN];
        let back = Shape::from_samples(&samples).to_samples();
        for (sample, level) in samples.iter().zip(back).take(7) {
            assert!((sample / 100.0 - level).abs() < 0.08, "{sample} became {level}");
        }
        assert_eq!(Shape::from_samples(&[0.0; 8]).to_samples(), [0.0; 8]);
    }
}
