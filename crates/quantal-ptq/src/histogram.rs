//! A histogram that grows, merges, and does not depend on the order of what it saw.
//!
//! On each side of zero, bin `i` of `n` holds the values with `i·2^e ≤ |x| < (i + 1)·2^e`. The exponent `e` is the
//! smallest one whose bins reach the largest magnitude seen, so it follows from the data alone. When it grows by one,
//! neighbours `2i` and `2i + 1` become bin `i`: exactly the bins that the values would have fallen into, because
//! `floor(floor(|x| / 2^e) / 2) = floor(|x| / 2^(e + 1))` and scaling by a power of two is exact. Exact zeros are
//! counted apart: every encoding holds them without error.

use crate::observer::Range;
use quantal_kernels::Isa;
use quantal_kernels::float::bin;
use quantal_tensor::bytes::Claim;

/// The smallest exponent in use: below it `2^−e` is no f32, and no scale would follow from the range anyway.
const MIN_EXPONENT: i32 = -126;

/// Counters of zeros, as [`bin`] has them.
const ZEROS: usize = 16;

/// Counts of values in bins of a power-of-two width, on both sides of zero.
#[derive(Clone, Debug)]
pub struct Histogram {
    exponent: i32,
    /// `n` bins of positive values, `n` of negative ones, and 16 counters that hold the zeros together.
    counts: Vec<u64>,
    /// Smallest and largest value seen.
    seen: Option<Range>,
    /// Small each, but a model has thousands.
    _claim: Claim,
}

impl Histogram {
    /// An empty histogram with `bins` bins on each side of zero; at least half of one side is in use once a value other
    /// than zero was seen.
    pub fn new(bins: usize) -> Self {
        let counts = vec![0; 2 * bins.max(1) + ZEROS];
        let mut claim = Claim::default();
        claim.note(counts.len() * size_of::<u64>());
        Self { exponent: MIN_EXPONENT, counts, seen: None, _claim: claim }
    }

    fn side(&self) -> usize {
        (self.counts.len() - ZEROS) / 2
    }

    /// Says that values over `range`, whose ends are finite, were seen, before some of them are added.
    pub fn see(&mut self, range: Range) {
        self.grow_to(range);
    }

    /// Adds values that all lie in what was seen, each `weight` times.
    pub fn add(&mut self, isa: Isa, values: &[f32], weight: u64) {
        bin(isa, values, 2.0_f64.powi(-self.exponent) as f32, weight, &mut self.counts);
    }

    /// Adds all that `other` saw. Both have the same number of bins.
    pub fn merge(&mut self, other: &Self) {
        let Some(range) = other.seen else { return };
        self.grow_to(range);
        let mut other = other.clone();
        other.grow_to(self.seen.unwrap_or(range));
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
    }

    fn grow_to(&mut self, range: Range) {
        let first = self.seen.is_none();
        let seen = self.seen.map_or(range, |s| s.union(range));
        self.seen = Some(seen);
        let magnitude = f64::from(seen.max).max(-f64::from(seen.min));
        let side = self.side();
        while magnitude >= side as f64 * 2.0_f64.powi(self.exponent) {
            self.exponent += 1;
            if first {
                continue;
            }
            for half in self.counts[..2 * side].chunks_mut(side) {
                for i in 0..side {
                    let moved = std::mem::take(&mut half[i]);
                    half[i / 2] += moved;
                }
            }
        }
    }

    /// Smallest and largest value seen; `None` before the first.
    pub fn seen(&self) -> Option<Range> {
        self.seen
    }

    /// Width of a bin.
    pub fn width(&self) -> f64 {
        2.0_f64.powi(self.exponent)
    }

    /// Number of exact zeros.
    pub fn zeros(&self) -> u64 {
        self.counts[2 * self.side()..].iter().sum()
    }

    /// Number of values.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The bins that hold something, from the lowest: lower edge and count.
    pub fn bins(&self) -> impl DoubleEndedIterator<Item = (f64, u64)> {
        let (side, width) = (self.side(), self.width());
        let negative = (0..side).rev().map(move |i| (-((i + 1) as f64) * width, self.counts[side + i]));
        let positive = (0..side).map(move |i| (i as f64 * width, self.counts[i]));
        negative.chain(positive).filter(|(_, n)| *n > 0)
    }

    /// Counts of magnitudes, zeros left out: bin `i` holds the values with `i·width ≤ |x| < (i + 1)·width`.
    pub fn magnitudes(&self) -> Vec<u64> {
        let side = self.side();
        (0..side).map(|i| self.counts[i] + self.counts[side + i]).collect()
    }
}

impl PartialEq for Histogram {
    fn eq(&self, other: &Self) -> bool {
        let bins = |h: &Self| h.counts[..2 * h.side()].to_vec();
        (self.exponent, self.seen, self.zeros(), bins(self)) == (other.exponent, other.seen, other.zeros(), bins(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observer::range_of;

    fn of(values: &[f32]) -> Histogram {
        let mut h = Histogram::new(64);
        if let Some(range) = range_of(Isa::PORTABLE, values).unwrap() {
            h.see(range);
            h.add(Isa::PORTABLE, values, 1);
        }
        h
    }

    /// Magnitudes over many powers of two, both signs, zeros, bin edges, extremes.
    fn values() -> Vec<f32> {
        let mut state = 1_u32;
        let mut values: Vec<f32> = (0..2000)
            .map(|i| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state as f32 / 2.0_f32.powi(31) - 1.0) * 2.0_f32.powi(i % 30 - 10)
            })
            .collect();
        values.extend([0.0, -0.0, 1.0, -1.0, 64.0, -64.0, 1e-45, -1e-45, 3e30, -1e-30]);
        values
    }

    #[test]
    fn order_and_splits_do_not_show() {
        let values = values();
        let whole = of(&values);
        let mut reversed = values.clone();
        reversed.reverse();
        assert_eq!(of(&reversed), whole);
        let mut one_by_one = Histogram::new(64);
        for &x in &reversed {
            one_by_one.see(Range { min: x, max: x });
            one_by_one.add(Isa::PORTABLE, &[x], 1);
        }
        assert_eq!(one_by_one, whole);
        for at in [0, 1, 700, 2005] {
            let (mut a, b) = (of(&values[..at]), of(&values[at..]));
            let mut b_first = b.clone();
            b_first.merge(&a);
            a.merge(&b);
            assert_eq!(a, whole);
            assert_eq!(b_first, whole);
        }
    }

    #[test]
    fn every_value_lies_in_its_bin() {
        let values: Vec<f32> = values().into_iter().filter(|x| x.abs() < 1e6).collect();
        let h = of(&values);
        let w = h.width();
        let mut total = h.zeros();
        for (low, n) in h.bins() {
            // The edge farther from zero belongs to the next bin.
            let holds = |x: f64| if x > 0.0 { low <= x && x < low + w } else { low < x && x <= low + w };
            let inside = values.iter().filter(|&&x| x != 0.0 && holds(f64::from(x)));
            assert_eq!(inside.count() as u64, n, "bin at {low}");
            total += n;
        }
        assert_eq!(total, values.len() as u64);
        assert_eq!(h.total(), total);
    }

    #[test]
    fn at_least_half_of_a_side_is_in_use() {
        let h = of(&[-3.0, 5.0]);
        assert!(5.0 / h.width() >= 32.0 && 5.0 / h.width() < 64.0);
        assert_eq!(h.magnitudes().iter().sum::<u64>(), 2);
    }
}
