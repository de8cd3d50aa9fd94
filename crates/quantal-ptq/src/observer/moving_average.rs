//! The mean over samples of each sample's smallest and largest value.
//!
//! A moving average of the ends weighs late samples more, so its result depends on their order. Its limit for small
//! constants is the plain mean, which does not; NNCF offers the same as "mean min-max". The mean is exact: it is summed
//! by exponent, in integers.

use super::{Range, minmax::MinMax};

/// Sums of the ends of each sample's range.
#[derive(Clone, Debug, PartialEq)]
pub struct MovingAverage {
    min: ExactSum,
    max: ExactSum,
    seen: MinMax,
    samples: u64,
}

/// A sum of f32 that is exact, hence the same in any order: for each exponent, the sum of the 24-bit significands.
#[derive(Clone, Debug, PartialEq)]
struct ExactSum([i64; 256]);

impl ExactSum {
    fn add(&mut self, x: f32) {
        let bits = x.to_bits();
        let exponent = (bits >> 23 & 0xff) as usize;
        let hidden = if exponent == 0 { 0 } else { 1 << 23 };
        let significand = i64::from(bits & 0x7f_ffff | hidden);
        // A denormal counts in units of exponent 1.
        self.0[exponent.max(1)] += if x.is_sign_negative() { -significand } else { significand };
    }

    fn total(&self) -> f64 {
        (1..255).rev().map(|e| self.0[e] as f64 * 2.0_f64.powi(e as i32 - 150)).sum()
    }
}

impl Default for MovingAverage {
    fn default() -> Self {
        let zero = || ExactSum([0; 256]);
        Self { min: zero(), max: zero(), seen: MinMax::default(), samples: 0 }
    }
}

impl MovingAverage {
    /// Takes in the range of one tensor of one sample.
    pub fn add(&mut self, range: Range) {
        self.min.add(range.min);
        self.max.add(range.max);
        self.seen.add(range);
        self.samples += 1;
    }

    /// Takes in all that `other` saw.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in [(&mut self.min, &other.min), (&mut self.max, &other.max)] {
            mine.0.iter_mut().zip(&theirs.0).for_each(|(a, b)| *a += b);
        }
        self.seen.merge(&other.seen);
        self.samples += other.samples;
    }

    /// Smallest and largest value of all samples; `None` before the first.
    pub fn seen(&self) -> Option<Range> {
        self.seen.seen()
    }

    /// The mean ends; `None` before the first sample.
    pub fn mean(&self) -> Option<Range> {
        let n = self.samples as f64;
        let mean = |sum: &ExactSum| (sum.total() / n) as f32;
        (self.samples > 0).then(|| Range { min: mean(&self.min), max: mean(&self.max) })
    }
}
