//! Random numbers for made-up series, the same on every target.
//!
//! It must never use the platform's mathematics: a table that is compared to the last digit hangs on it. The hard
//! case is a heavy tail, whose rare values decide how many false alarms there are.

/// SplitMix64 (Steele, Lea and Flood 2014).
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d)
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in (0, 1).
    pub(crate) fn uniform(&mut self) -> f64 {
        ((self.bits() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// Normal with mean 0 and standard deviation 1 (Box and Muller 1958).
    pub(crate) fn normal(&mut self) -> f64 {
        let radius = libm::sqrt(-2.0 * libm::log(self.uniform()));
        radius * libm::cos(core::f64::consts::TAU * self.uniform())
    }

    /// Student's t with three degrees of freedom, scaled to standard deviation 1: its fourth moment is infinite.
    pub(crate) fn heavy(&mut self) -> f64 {
        let square = (0..3).map(|_| self.normal()).map(|z| z * z).sum::<f64>();
        self.normal() / libm::sqrt(square / 3.0) / libm::sqrt(3.0)
    }

    /// A count of a Poisson process with this mean; from 30 on by the normal approximation.
    pub(crate) fn count(&mut self, mean: f64) -> f64 {
        if mean >= 30.0 {
            return libm::round(mean + libm::sqrt(mean) * self.normal()).max(0.0);
        }
        let limit = libm::exp(-mean);
        let mut product = self.uniform();
        let mut count = 0.0;
        while product > limit {
            product *= self.uniform();
            count += 1.0;
        }
        count
    }
}
