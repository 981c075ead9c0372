//! Random numbers that are the same on every machine and in every version: SplitMix64 (Steele, Lea, Flood 2014).
//!
//! Must never be seeded by anything but an argument. The hard case is independence: each use names its own stream, so that
//! a new draw in one place does not change the draws in another.

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream `purpose` of the given seed.
    pub fn new(seed: u64, purpose: &str) -> Self {
        let hash = purpose.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut random = Self(seed ^ hash);
        random.bits();
        random
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in [low, high).
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// In [low, high), uniform by its logarithm.
    pub fn log_between(&mut self, low: f64, high: f64) -> f64 {
        self.between(low.ln(), high.ln()).exp()
    }

    /// Uniform in 0..count.
    pub fn index(&mut self, count: usize) -> usize {
        ((self.unit() * count as f64) as usize).min(count.saturating_sub(1))
    }

    /// True with the given probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Standard normal (Box and Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Log-normal with median 1 and the given deviation of the logarithm.
    pub fn log_normal(&mut self, deviation: f64) -> f64 {
        (deviation * self.normal()).exp()
    }

    /// Poisson with the given mean: by multiplication when it is small (Knuth), else by the square root, whose normal
    /// approximation is close from 30 up (Anscombe 1948).
    pub fn poisson(&mut self, mean: f64) -> u64 {
        if mean <= 0.0 {
            return 0;
        }
        if mean < 30.0 {
            let limit = (-mean).exp();
            let mut product = self.unit();
            let mut count = 0;
            while product > limit {
                product *= self.unit();
                count += 1;
            }
            return count;
        }
        let root = (mean + 0.375).sqrt() + self.normal() / 2.0;
        (root * root - 0.375).round().max(0.0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn poisson_has_its_mean_and_variance() {
        for mean in [0.3, 4.0, 29.0, 31.0, 900.0] {
            let mut random = Random::new(7, "poisson");
            let draws: Vec<f64> = (0..20_000).map(|_| random.poisson(mean) as f64).collect();
            let average = draws.iter().sum::<f64>() / draws.len() as f64;
            let variance =
                draws.iter().map(|draw| (draw - average).powi(2)).sum::<f64>() / draws.len() as f64;
            assert!((average / mean - 1.0).abs() < 0.03, "mean {mean}: {average}");
            assert!((variance / mean - 1.0).abs() < 0.06, "mean {mean}: variance {variance}");
        }
    }

    #[test]
    fn streams_differ_by_purpose_and_seed() {
        let first = Random::new(1, "a").bits();
        assert_ne!(first, Random::new(1, "b").bits());
        assert_ne!(first, Random::new(2, "a").bits());
        assert_eq!(first, Random::new(1, "a").bits());
    }
}
