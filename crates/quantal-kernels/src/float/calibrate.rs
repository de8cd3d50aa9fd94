//! What calibration counts: the range of values and their histogram.

use super::lanes::{FloatIsa, LANES};
use super::rows::row;
use crate::Isa;

/// The range of the finite values, and how many others there were.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Extremes {
    /// The smallest and the largest finite value; `None` if there is none.
    pub range: Option<(f32, f32)>,
    /// NaNs and infinities.
    pub non_finite: usize,
}

/// The range of `x`.
pub fn min_max(isa: Isa, x: &[f32]) -> Extremes {
    let mut found = Extremes { range: None, non_finite: 0 };
    // Counters are 32 bits for each lane.
    for x in x.chunks(1 << 30) {
        let mut out = [0.0; 2];
        let mut non_finite = 0;
        let call = MinMax { x, range: &raw mut out, non_finite: &raw mut non_finite };
        // SAFETY: both pointers are to locals.
        unsafe { (row(isa).min_max)(&call) };
        found.non_finite += non_finite;
        if non_finite < x.len() {
            let (low, high) = found.range.unwrap_or((out[0], out[1]));
            found.range = Some((if out[0] < low { out[0] } else { low }, if out[1] > high { out[1] } else { high }));
        }
    }
    found
}

/// A pass over values.
pub(super) struct MinMax<'a> {
    x: &'a [f32],
    range: *mut [f32; 2],
    non_finite: *mut usize,
}

/// # Safety
/// `range` and `non_finite` are good for writing.
#[inline(always)]
pub(super) unsafe fn min_max_by<I: FloatIsa>(isa: I, m: &MinMax<'_>) {
    let infinity = isa.splat(f32::INFINITY);
    let (one, zero) = (isa.splat_bits(1), isa.splat_bits(0));
    let (mut low, mut high, mut finite) = (infinity, isa.splat(f32::NEG_INFINITY), zero);
    let mut step = |x: I::V| {
        let size = isa.abs(x);
        // Where x is not finite both comparisons are false and what was stays.
        low = isa.select_lt(size, infinity, isa.min(x, low), low);
        high = isa.select_lt(size, infinity, isa.max(x, high), high);
        finite = isa.bits_add(finite, isa.select_lt(size, infinity, one, zero));
    };
    // One place that calls `step`: a function with two of them is not inlined, and so not compiled for the instruction set
    // either.
    for values in m.x.chunks(LANES) {
        let mut last = [f32::NAN; LANES];
        let from = if values.len() == LANES {
            values.as_ptr()
        } else {
            last[..values.len()].copy_from_slice(values);
            last.as_ptr()
        };
        // SAFETY: 16 values.
        step(unsafe { isa.load(from) });
    }
    let lanes = isa.lanes(finite).iter().map(|x| x.to_bits() as usize).sum::<usize>();
    let range = [
        isa.lanes(low).into_iter().fold(f32::INFINITY, |a, b| if b < a { b } else { a }),
        isa.lanes(high).into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a }),
    ];
    // SAFETY: the contract of this function.
    unsafe {
        m.range.write(range);
        m.non_finite.write(m.x.len() - lanes);
    }
}

/// Adds each value of `low … high` to the bin it falls into; bins are equally wide, and the last one includes `high`.
/// Gives how many values were counted: others, NaN among them, are left out.
///
/// # Panics
/// When there are no bins, or `low` and `high` are not finite and in order.
pub fn histogram(isa: Isa, x: &[f32], low: f32, high: f32, bins: &mut [u64]) -> usize {
    assert!(!bins.is_empty(), "a histogram without bins");
    assert!(low.is_finite() && high.is_finite() && low <= high, "a histogram of {low} … {high}");
    // In f64, so that a range wider than f32 holds does not overflow.
    let width = f64::from(high) - f64::from(low);
    let scale = if width > 0.0 { bins.len() as f64 / width } else { 0.0 };
    let scale = scale.min(f64::from(f32::MAX)) as f32;
    let last = bins.len() - 1;
    let mut index = [0.0f32; 1024];
    let mut counted = 0;
    for x in x.chunks(index.len()) {
        let call = Bins { x, low, high, scale, index: index.as_mut_ptr() };
        // SAFETY: `index` has as many values as a chunk.
        unsafe { (row(isa).histogram_index)(&call) };
        for &i in &index[..x.len()] {
            if i >= 0.0 {
                bins[(i as usize).min(last)] += 1;
                counted += 1;
            }
        }
    }
    counted
}

/// The bins of some values, as numbers; −1 for values out of range.
pub(super) struct Bins<'a> {
    x: &'a [f32],
    low: f32,
    high: f32,
    scale: f32,
    index: *mut f32,
}

/// # Safety
/// `index` is good for writing as many values as `x` has.
#[inline(always)]
pub(super) unsafe fn histogram_index<I: FloatIsa>(isa: I, c: &Bins<'_>) {
    let (low, high, scale) = (isa.splat(c.low), isa.splat(c.high), isa.splat(c.scale));
    let outside = isa.splat(-1.0);
    for i in (0..c.x.len()).step_by(LANES) {
        let n = (c.x.len() - i).min(LANES);
        // SAFETY: i + n ≤ len.
        unsafe {
            let x = isa.load_part(c.x.as_ptr().add(i), n);
            let index = isa.mul(isa.sub(x, low), scale);
            let index = isa.select_lt(x, low, outside, index);
            let index = isa.select_lt(high, x, outside, index);
            if n == LANES {
                isa.store(c.index.add(i), index);
            } else {
                isa.store_part(c.index.add(i), index, n);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_data::random;
    use super::*;

    #[test]
    fn the_range_is_that_of_finite_values() {
        for isa in Isa::available() {
            for n in [1, 15, 16, 17, 1000] {
                let mut x = random(n, 3);
                let low = x.iter().copied().fold(f32::INFINITY, f32::min);
                let high = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                assert_eq!(min_max(isa, &x), Extremes { range: Some((low, high)), non_finite: 0 }, "{isa} {n}");
                x.extend([f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
                x.rotate_right(5 % n);
                assert_eq!(min_max(isa, &x), Extremes { range: Some((low, high)), non_finite: 3 }, "{isa} {n}");
            }
            assert_eq!(min_max(isa, &[]), Extremes { range: None, non_finite: 0 });
            assert_eq!(min_max(isa, &[f32::NAN; 20]), Extremes { range: None, non_finite: 20 });
        }
    }

    #[test]
    fn bins_are_half_open_but_the_last() {
        let mut x = vec![0.0, 0.25, 0.999, 1.0, 3.999, 4.0, -0.01, 4.01, f32::NAN, f32::INFINITY];
        x.extend(vec![2.5; 3000]);
        for isa in Isa::available() {
            let mut bins = [0; 4];
            assert_eq!(histogram(isa, &x, 0.0, 4.0, &mut bins), 3006, "{isa}");
            assert_eq!(bins, [3, 1, 3000, 2], "{isa}");
            let mut bins = [0; 3];
            assert_eq!(histogram(isa, &[1.0, 2.0, f32::NAN], 1.0, 1.0, &mut bins), 1, "{isa}");
            assert_eq!(bins, [1, 0, 0], "{isa}");
            let mut bins = [0; 2];
            assert_eq!(histogram(isa, &[-3e38, 3e38], -3.4e38, 3.4e38, &mut bins), 2, "{isa}");
            assert_eq!(bins, [1, 1], "{isa}");
        }
    }
}
