//! Softmax and normalization along the last axis; sums as in [`reduce`](super::reduce()).

use super::lanes::{FloatIsa, LANES};
use super::math;
use super::reduce::{Each, Same, across};
use super::rows::row;
use super::scratch::Shared;
use super::unary::Unary;
use crate::{Isa, Threads};

/// Values that make a task: some microseconds.
const TASK: usize = 1 << 13;

/// `e^x / Σ e^x` of each row of `x` `[rows, columns]`, or its logarithm, into `out` of the same shape.
///
/// # Panics
/// When the lengths differ or are not a multiple of `columns`.
pub fn softmax(isa: Isa, x: &[f32], columns: usize, log: bool, out: &mut [f32], threads: &Threads) {
    by_row(isa, x, columns, out, threads, &|x, out| Norm { kind: Kind::Softmax { log }, x, out });
}

/// How to normalize a row.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm<'a> {
    /// A factor per column.
    pub scale: Option<&'a [f32]>,
    /// An addend per column.
    pub bias: Option<&'a [f32]>,
    /// Added to the mean square before the root.
    pub epsilon: f32,
    /// Whether to leave the mean where it is: RMS normalization.
    pub rms: bool,
}

/// `(x − mean) / √(mean((x − mean)²) + epsilon) · scale + bias` of each row of `x` `[rows, columns]`.
///
/// # Panics
/// When the lengths differ or are not a multiple of `columns`, or scale or bias are shorter.
pub fn layer_norm(isa: Isa, x: &[f32], columns: usize, norm: LayerNorm<'_>, out: &mut [f32], threads: &Threads) {
    for affine in [norm.scale, norm.bias].into_iter().flatten() {
        assert!(affine.len() >= columns, "scale or bias of {} values for {columns} columns", affine.len());
    }
    by_row(isa, x, columns, out, threads, &|x, out| Norm { kind: Kind::Layer(norm), x, out });
}

fn by_row<'a>(
    isa: Isa,
    x: &'a [f32],
    columns: usize,
    out: &mut [f32],
    threads: &Threads,
    call: &(dyn Fn(&'a [f32], *mut f32) -> Norm<'a> + Sync),
) {
    assert_eq!(x.len(), out.len(), "lengths of input and output");
    if x.is_empty() {
        return;
    }
    assert!(columns > 0 && x.len().is_multiple_of(columns), "{} values are not rows of {columns}", x.len());
    let row = row(isa);
    let out = Shared::new(out);
    let rows = x.len() / columns;
    let together = TASK / columns + 1;
    threads.parallel_for(rows.div_ceil(together), &|task| {
        for r in task * together..rows.min((task + 1) * together) {
            let call = call(&x[r * columns..(r + 1) * columns], out.at(r * columns));
            // SAFETY: row r of the output has as many values and is this task's own; scale and bias have a value per
            // column, asserted by `layer_norm`.
            unsafe { (row.norm)(&call) };
        }
    });
}

#[derive(Clone, Copy)]
enum Kind<'a> {
    Softmax { log: bool },
    Layer(LayerNorm<'a>),
}

/// One row.
pub(super) struct Norm<'a> {
    kind: Kind<'a>,
    x: &'a [f32],
    out: *mut f32,
}

/// # Safety
/// `out` is good for writing as many values as `x` has; scale and bias have as many.
#[inline(always)]
pub(super) unsafe fn norm<I: FloatIsa>(isa: I, n: &Norm<'_>) {
    // SAFETY: the contract of this function.
    unsafe {
        match n.kind {
            Kind::Softmax { log } => softmax_row(isa, n, log),
            Kind::Layer(norm) => layer_row(isa, n, norm),
        }
    }
}

/// Stores `map(i, lanes)` for each vector of `from`, `i` its first value and the number of values given too.
///
/// # Safety
/// `from` is good for reading and `to` for writing `n` values.
#[inline(always)]
unsafe fn map<I: FloatIsa>(isa: I, from: *const f32, to: *mut f32, n: usize, map: &impl Each<I>) {
    for i in (0..n).step_by(LANES) {
        let count = LANES.min(n - i);
        // SAFETY: i + count ≤ n.
        unsafe {
            let x = if count == LANES { isa.load(from.add(i)) } else { isa.load_part(from.add(i), count) };
            let y = map.of(isa, x, i, count);
            if count == LANES {
                isa.store(to.add(i), y);
            } else {
                isa.store_part(to.add(i), y, count);
            }
        }
    }
}

#[inline(always)]
unsafe fn softmax_row<I: FloatIsa>(isa: I, n: &Norm<'_>, log: bool) {
    let len = n.x.len();
    let add = |a, b| isa.add(a, b);
    let max = isa.splat(across(isa, n.x, f32::NEG_INFINITY, &Same, &|a, b| isa.max(a, b)));
    // SAFETY: the contract of `norm`; `out` is initialised by the first pass before it is read.
    unsafe {
        if log {
            let sum = across(isa, n.x, 0.0, &ExpFrom(max), &add);
            let ln = isa.splat(Unary::Ln.of(sum));
            map(isa, n.x.as_ptr(), n.out, len, &Less(max, ln));
        } else {
            map(isa, n.x.as_ptr(), n.out, len, &ExpFrom(max));
            let sum = across(isa, std::slice::from_raw_parts(n.out, len), 0.0, &Same, &add);
            map(isa, n.out, n.out, len, &Over(isa.splat(sum)));
        }
    }
}

#[inline(always)]
unsafe fn layer_row<I: FloatIsa>(isa: I, n: &Norm<'_>, norm: LayerNorm<'_>) {
    let len = n.x.len() as f32;
    let add = |a, b| isa.add(a, b);
    let mean = if norm.rms { 0.0 } else { across(isa, n.x, 0.0, &Same, &add) / len };
    let mean = isa.splat(mean);
    let variance = across(isa, n.x, 0.0, &SquareFrom(mean), &add) / len;
    let inverse = isa.splat(1.0 / (variance + norm.epsilon).sqrt());
    // SAFETY: the contract of `norm`.
    unsafe { map(isa, n.x.as_ptr(), n.out, n.x.len(), &Affine { mean, inverse, norm }) };
}

/// `e^(x − max)`.
struct ExpFrom<V>(V);
/// `x − a − b`.
struct Less<V>(V, V);
/// `x / sum`.
struct Over<V>(V);
/// `(x − mean)²`.
struct SquareFrom<V>(V);
/// `(x − mean)·inverse·scale + bias`. Made by `layer_row` alone: scale and bias have as many values as the row.
struct Affine<'a, V> {
    mean: V,
    inverse: V,
    norm: LayerNorm<'a>,
}

impl<I: FloatIsa> Each<I> for ExpFrom<I::V> {
    #[inline(always)]
    fn of(&self, isa: I, x: I::V, _: usize, _: usize) -> I::V {
        math::exp(isa, isa.sub(x, self.0))
    }
}

impl<I: FloatIsa> Each<I> for Less<I::V> {
    #[inline(always)]
    fn of(&self, isa: I, x: I::V, _: usize, _: usize) -> I::V {
        isa.sub(isa.sub(x, self.0), self.1)
    }
}

impl<I: FloatIsa> Each<I> for Over<I::V> {
    #[inline(always)]
    fn of(&self, isa: I, x: I::V, _: usize, _: usize) -> I::V {
        isa.div(x, self.0)
    }
}

impl<I: FloatIsa> Each<I> for SquareFrom<I::V> {
    #[inline(always)]
    fn of(&self, isa: I, x: I::V, _: usize, _: usize) -> I::V {
        let d = isa.sub(x, self.0);
        isa.mul(d, d)
    }
}

impl<I: FloatIsa> Each<I> for Affine<'_, I::V> {
    #[inline(always)]
    fn of(&self, isa: I, x: I::V, first: usize, count: usize) -> I::V {
        let part = |values: &[f32]| {
            let values = &values[first..first + count];
            // SAFETY: `count` values.
            unsafe { isa.load_part(values.as_ptr(), values.len()) }
        };
        let mut y = isa.mul(isa.sub(x, self.mean), self.inverse);
        if let Some(scale) = self.norm.scale {
            y = isa.mul(y, part(scale));
        }
        if let Some(bias) = self.norm.bias {
            y = isa.add(y, part(bias));
        }
        y
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_data::{assert_same_bits, random};
    use super::*;

    #[test]
    fn softmax_is_what_f64_says() {
        for columns in [1, 5, 16, 197, 3000] {
            let x: Vec<f32> = random(3 * columns, 4).iter().map(|x| x * 20.0).collect();
            for log in [false, true] {
                let mut portable = vec![0.0; x.len()];
                softmax(Isa::PORTABLE, &x, columns, log, &mut portable, &Threads::new(1));
                for (x, y) in x.chunks(columns).zip(portable.chunks(columns)) {
                    let sum: f64 = x.iter().map(|x| libm::exp(f64::from(*x))).sum();
                    for (x, y) in x.iter().zip(y) {
                        let exact = f64::from(*x) - libm::log(sum);
                        let exact = if log { exact } else { libm::exp(exact) };
                        let scale = exact.abs() + if log { 1.0 } else { 1e-34 };
                        assert!((f64::from(*y) - exact).abs() <= 4e-6 * scale, "{y} {exact}");
                    }
                }
                for isa in Isa::available() {
                    let mut out = vec![0.0; x.len()];
                    softmax(isa, &x, columns, log, &mut out, &Threads::new(2));
                    assert_same_bits(&out, &portable, &format!("{isa} {columns} {log}"));
                }
            }
        }
    }

    #[test]
    fn layer_norm_is_what_f64_says() {
        for columns in [1, 5, 16, 197, 3000] {
            let x: Vec<f32> = random(3 * columns, 4).iter().map(|x| x + 3.0).collect();
            let (scale, bias) = (random(columns, 5), random(columns, 6));
            for (scale, bias) in [(None, None), (Some(&scale[..]), Some(&bias[..]))] {
                for rms in [false, true] {
                    let norm = LayerNorm { scale, bias, epsilon: 1e-3, rms };
                    let mut portable = vec![0.0; x.len()];
                    layer_norm(Isa::PORTABLE, &x, columns, norm, &mut portable, &Threads::new(1));
                    for (x, y) in x.chunks(columns).zip(portable.chunks(columns)) {
                        let mean =
                            |f: &dyn Fn(f64) -> f64| x.iter().map(|x| f(f64::from(*x))).sum::<f64>() / columns as f64;
                        let centre = if rms { 0.0 } else { mean(&|x| x) };
                        let deviation = (mean(&|x| (x - centre).powi(2)) + f64::from(1e-3f32)).sqrt();
                        for (i, (x, y)) in x.iter().zip(y).enumerate() {
                            let exact = (f64::from(*x) - centre) / deviation * scale.map_or(1.0, |s| f64::from(s[i]))
                                + bias.map_or(0.0, |b| f64::from(b[i]));
                            assert!((f64::from(*y) - exact).abs() < 4e-6, "{y} {exact}");
                        }
                    }
                    for isa in Isa::available() {
                        let mut out = vec![0.0; x.len()];
                        layer_norm(isa, &x, columns, norm, &mut out, &Threads::new(2));
                        assert_same_bits(&out, &portable, &format!("{isa} {columns} {rms}"));
                    }
                }
            }
        }
    }
}
