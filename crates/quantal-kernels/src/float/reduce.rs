//! Reductions in a fixed order.
//!
//! Along the last axis, value i goes to virtual lane i mod 16, each lane sums blocks of 64 and then the blocks, and the
//! lanes are folded as a tree (8, 4, 2, 1). Along any other axis lanes run across the outputs, with the same blocks.

use super::lanes::{FloatIsa, LANES};
use super::pooling::{max_or_nan, min_or_nan};
use super::rows::row;
use super::scratch::Shared;
use crate::{Isa, Threads};

/// What to make of the values along an axis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reduce {
    /// The sum; 0 of nothing.
    Sum,
    /// The sum over the number of values; NaN of nothing.
    Mean,
    /// The product; 1 of nothing.
    Product,
    /// The largest, NaN if there is one; −∞ of nothing.
    Max,
    /// The smallest, NaN if there is one; ∞ of nothing.
    Min,
}

/// Reduces `x` `[outer, axis, inner]` to `out` `[outer, inner]`. `inner = 1` reduces the last axis; an image
/// `[batch, h·w, c]` with `Mean` is global average pooling.
///
/// # Panics
/// When a slice is too short for the shape.
pub fn reduce(isa: Isa, kind: Reduce, x: &[f32], axes: [usize; 3], out: &mut [f32], threads: &Threads) {
    let [outer, axis, inner] = axes;
    let len = outer.checked_mul(axis).and_then(|n| n.checked_mul(inner));
    assert!(len.is_some_and(|len| len <= x.len()), "an input of {} values for {axes:?}", x.len());
    let len = outer.checked_mul(inner);
    assert!(len.is_some_and(|len| len <= out.len()), "an output of {} values for {axes:?}", out.len());
    let row = row(isa);
    let out = Shared::new(out);
    // A task is a vector of outputs, or one output of the last axis; some of them together.
    let columns = inner.div_ceil(LANES);
    let tasks = outer * columns;
    let together = (1 << 15) / (axis * inner.min(LANES)).max(1) + 1;
    threads.parallel_for(tasks.div_ceil(together), &|task| {
        for t in task * together..tasks.min((task + 1) * together) {
            let (o, first) = (t / columns, t % columns * LANES);
            let count = (inner - first).min(LANES);
            let x = &x[o * axis * inner..(o + 1) * axis * inner];
            let call = Outputs { kind, x, axis, inner, first, count, out: out.at(o * inner + first) };
            // SAFETY: `x` has axis·inner values, first + count ≤ inner, and `count` outputs are this task's own.
            unsafe { (row.reduce_axis)(&call) };
        }
    });
}

/// Up to 16 outputs next to each other.
pub(super) struct Outputs<'a> {
    kind: Reduce,
    x: &'a [f32],
    axis: usize,
    inner: usize,
    first: usize,
    count: usize,
    out: *mut f32,
}

/// # Safety
/// `x` has `axis·inner` values, `first + count ≤ inner`, and `out` is good for writing `count` values.
#[inline(always)]
pub(super) unsafe fn reduce_axis<I: FloatIsa>(isa: I, a: &Outputs<'_>) {
    let join = |a: I::V, b: I::V| isa.add(a, b);
    // SAFETY: the contract of this function, for each arm.
    unsafe {
        match a.kind {
            Reduce::Sum => axis_by(isa, a, 0.0, 1.0, join),
            Reduce::Mean => axis_by(isa, a, 0.0, a.axis as f32, join),
            Reduce::Product => axis_by(isa, a, 1.0, 1.0, |a, b| isa.mul(a, b)),
            Reduce::Max => axis_by(isa, a, f32::NEG_INFINITY, 1.0, |a, b| max_or_nan(isa, a, b)),
            Reduce::Min => axis_by(isa, a, f32::INFINITY, 1.0, |a, b| min_or_nan(isa, a, b)),
        }
    }
}

/// # Safety
/// As for `reduce_axis`.
#[inline(always)]
unsafe fn axis_by<I: FloatIsa>(isa: I, a: &Outputs<'_>, start: f32, divisor: f32, join: impl Fn(I::V, I::V) -> I::V) {
    let y = if a.inner == 1 {
        isa.splat(across(isa, a.x, start, &Same, &join))
    } else {
        let from = a.x.as_ptr().wrapping_add(a.first);
        // SAFETY: row i < axis of `x`, `count` values from `first`.
        blocks(isa, a.axis, start, &join, |i| unsafe { isa.load_part(from.add(i * a.inner), a.count) })
    };
    // SAFETY: `count` values writable.
    unsafe { isa.store_part(a.out, isa.div(y, isa.splat(divisor)), a.count) };
}

/// Vectors per block.
const BLOCK: usize = 64;

/// Joins `n` vectors in blocks.
#[inline(always)]
fn blocks<I: FloatIsa>(
    isa: I,
    n: usize,
    start: f32,
    join: &impl Fn(I::V, I::V) -> I::V,
    load: impl Fn(usize) -> I::V,
) -> I::V {
    let mut total = isa.splat(start);
    let mut i = 0;
    while i < n {
        let mut part = isa.splat(start);
        let end = n.min(i + BLOCK);
        while i < end {
            part = join(part, load(i));
            i += 1;
        }
        total = join(total, part);
    }
    total
}

/// A function of each vector of a row. Not a closure: a method can be told to be inlined, and only what is inlined is
/// compiled for the instruction set of the loop around it.
pub(super) trait Each<I: FloatIsa> {
    /// Of `x`, whose `count` lanes are values `first …` of the row.
    fn of(&self, isa: I, x: I::V, first: usize, count: usize) -> I::V;
}

/// The vector as it is.
pub(super) struct Same;

impl<I: FloatIsa> Each<I> for Same {
    #[inline(always)]
    fn of(&self, _: I, x: I::V, _: usize, _: usize) -> I::V {
        x
    }
}

/// Joins `map` of all values of a row into one: `start` joins to nothing and fills the last vector.
#[inline(always)]
pub(super) fn across<I: FloatIsa>(
    isa: I,
    x: &[f32],
    start: f32,
    map: &impl Each<I>,
    join: &impl Fn(I::V, I::V) -> I::V,
) -> f32 {
    let (mut total, mut part) = (isa.splat(start), isa.splat(start));
    for (i, values) in x.chunks(LANES).enumerate() {
        let whole = values.len() == LANES;
        if i > 0 && (i % BLOCK == 0 || !whole) {
            total = join(total, part);
            part = isa.splat(start);
        }
        // SAFETY: `values` has so many.
        let lanes =
            unsafe { if whole { isa.load(values.as_ptr()) } else { isa.load_part(values.as_ptr(), values.len()) } };
        let lanes = map.of(isa, lanes, i * LANES, values.len());
        if whole {
            part = join(part, lanes);
        } else {
            // The last values are a block of their own.
            let mut filled = [start; LANES];
            filled[..values.len()].copy_from_slice(&isa.lanes(lanes)[..values.len()]);
            // SAFETY: 16 values.
            part = unsafe { isa.load(filled.as_ptr()) };
        }
    }
    if !x.is_empty() {
        total = join(total, part);
    }
    let mut width = LANES / 2;
    while width > 0 {
        let lanes = isa.lanes(total);
        let mut upper = [start; LANES];
        upper[..width].copy_from_slice(&lanes[width..2 * width]);
        // SAFETY: 16 values.
        total = join(total, unsafe { isa.load(upper.as_ptr()) });
        width /= 2;
    }
    isa.lanes(total)[0]
}

#[cfg(test)]
mod tests {
    use super::super::test_data::{assert_same_bits, random};
    use super::*;

    #[test]
    fn reductions_agree_with_wide_sums_and_among_rows() {
        for axes in [[3, 1, 1], [2, 15, 1], [2, 16, 1], [1, 5000, 1], [2, 7, 3], [3, 130, 16], [1, 9, 37], [2, 0, 3]] {
            let [outer, axis, inner] = axes;
            let x = random(outer * axis * inner, 9);
            for kind in [Reduce::Sum, Reduce::Mean, Reduce::Product, Reduce::Max, Reduce::Min] {
                let mut portable = vec![0.0; outer * inner];
                reduce(Isa::PORTABLE, kind, &x, axes, &mut portable, &Threads::new(1));
                for (i, y) in portable.iter().enumerate() {
                    let values = (0..axis).map(|a| f64::from(x[(i / inner * axis + a) * inner + i % inner]));
                    let exact = match kind {
                        Reduce::Sum => values.sum(),
                        Reduce::Mean => values.sum::<f64>() / axis as f64,
                        Reduce::Product => values.product(),
                        Reduce::Max => values.fold(f64::NEG_INFINITY, f64::max),
                        Reduce::Min => values.fold(f64::INFINITY, f64::min),
                    };
                    let same = (f64::from(*y) - exact).abs() <= 1e-6 * (axis as f64).sqrt();
                    assert!(
                        same || f64::from(*y) == exact || exact.is_nan() && y.is_nan(),
                        "{kind:?} {axes:?} {y} {exact}"
                    );
                }
                for isa in Isa::available() {
                    let mut out = vec![0.0; outer * inner];
                    reduce(isa, kind, &x, axes, &mut out, &Threads::new(2));
                    assert_same_bits(&out, &portable, &format!("{isa} {kind:?} {axes:?}"));
                }
            }
        }
    }

    #[test]
    fn nan_wins() {
        for isa in Isa::available() {
            for at in [0, 3, 16, 20] {
                let mut x = random(21, 1);
                x[at] = f32::NAN;
                for kind in [Reduce::Max, Reduce::Min] {
                    let mut y = [0.0];
                    reduce(isa, kind, &x, [1, 21, 1], &mut y, &Threads::new(1));
                    assert!(y[0].is_nan(), "{isa} {kind:?} {at}");
                }
            }
        }
    }
}
