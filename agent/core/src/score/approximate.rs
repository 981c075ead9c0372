//! Elementary functions from additions, multiplications, comparisons and bit patterns alone, so that every target
//! agrees on every bit.
//!
//! They must never call a fused multiply-add or the platform's libm. The hard case is the argument at the
//! edge of the domain: `ln` is for finite, normal, positive numbers only and its callers see to that.

/// Natural logarithm of a finite, normal, positive number; the error stays below 1e-4.
///
/// The exponent is taken from the bit pattern and the mantissa goes through a polynomial of degree five
/// (minimax on [1, 2)).
#[inline(always)]
pub(super) fn ln(x: f32) -> f32 {
    let bits = x.to_bits();
    let exponent = ((bits >> 23) as i32 - 127) as f32;
    let y = f32::from_bits((bits & 0x007f_ffff) | 0x3f80_0000) - 1.0;
    let p =
        y * (0.999_495_56 + y * (-0.491_908_96 + y * (0.289_474_8 + y * (-0.136_062_75 + y * 0.032_158_45))));
    exponent * core::f32::consts::LN_2 + p
}

/// One of two, without a branch: what comes is hard to predict, and a loop without branches can do several series at
/// once.
#[inline(always)]
pub(crate) fn choose<T>(first: bool, one: T, other: T) -> T {
    core::hint::select_unpredictable(first, one, other)
}

/// The bounds of numbers, each one comparison that every processor has as one instruction.
///
/// Those of the standard library answer for what is not a number at several times the cost, and check that the bounds
/// are in order. Here what is not a number becomes the bound.
pub(crate) trait Bounded {
    /// This or `least`, whichever is greater.
    fn at_least(self, least: Self) -> Self;
    /// This or `most`, whichever is less.
    fn at_most(self, most: Self) -> Self;
    /// This or the nearest between two bounds.
    fn between(self, least: Self, most: Self) -> Self;
}

impl Bounded for f32 {
    #[inline(always)]
    fn at_least(self, least: Self) -> Self {
        choose(self > least, self, least)
    }

    #[inline(always)]
    fn at_most(self, most: Self) -> Self {
        choose(self < most, self, most)
    }

    #[inline(always)]
    fn between(self, least: Self, most: Self) -> Self {
        self.at_least(least).at_most(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ln_is_close_over_the_whole_range() {
        let mut x = 1.0e-30_f32;
        while x < 1.0e30 {
            assert!((ln(x) - x.ln()).abs() < 1.5e-4, "ln({x}) = {} instead of {}", ln(x), x.ln());
            x *= 1.07;
        }
    }

    #[test]
    fn what_is_not_a_number_becomes_the_bound() {
        assert_eq!([3.0, 0.5, -1.0].map(|x: f32| x.between(0.0, 1.0)), [1.0, 0.5, 0.0]);
        assert_eq!(
            (f32::NAN.at_least(2.0), f32::NAN.at_most(2.0), f32::NAN.between(1.0, 2.0)),
            (2.0, 2.0, 1.0)
        );
    }
}
