//! The scale of a row of weights with the least squared error of rounding and clipping.
//!
//! A scale below that of the largest weight clips a few weights so that all others get finer steps. Sakr et al., "Optimal
//! Clipping and Magnitude-aware Differentiation for Improved Quantization-aware Training" (2022, "OCTAV"), find it by a
//! fixed point that takes the error inside the range for even noise. A row has few weights (a depthwise filter nine), so
//! here they are rounded: for the codes q that a trial scale gives, with d = w − s·q, the best scale and its error are
//!
//! ```text
//! s* = s + Σ h·q·d / Σ h·q²        Σ h·(w − s*·q)² = Σ h·d² − (Σ h·q·d)² / Σ h·q²
//! ```
//!
//! where h is how much the input of a weight varies: a mean shift is the bias's to take back, and a weight that reads a
//! dead channel is clipped where enough others gain. Trials go half a code of the largest weight apart, from a range
//! somewhat too wide (short rows may fit a coarser grid by chance) down to where what is clipped errs by more than the
//! best trial does in all. Of normally distributed weights in 8 bits, the scale of the largest errs 2.2 times as much
//! on rows of 9, 1.4 of 27 and 1.03 of 1,152, and the fixed point's 2.2, 1.4 and 1.02.
//!
//! It is no default: the formula leaves out that inputs vary together, and clipping lessens what a channel answers to
//! most. With a scale for each channel it changed top-1 of eight classifiers by −0.07 points on average (± 0.12 of
//! chance; three draws), and with 4 bits by −2.2 (ResNet-20), +2.2 (MobileNetV1-0.25) and −4.7 (SqueezeNet 1.1). It is
//! for weights with one scale: MobileNetV1-0.25 then kept 36.3 % of top-1 instead of 7.0, the other two what they had
//! (−0.1).

use crate::balance::Balance;
use crate::place::Product;
use crate::weight_rows::WeightRows;
use quantal_ir::{Graph, ValueId};
use quantal_tensor::{Granularity, Scheme};
use std::collections::BTreeMap;

/// The weights of one scale, and how much the squared error of each counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    weights: Vec<f32>,
    importance: Vec<f32>,
}

/// Added to the variance of each input, as a part of their mean: in some 2¹⁶ positions calibration cannot have missed more.
const UNSEEN: f64 = 1e-4;

/// The weights that `products` share, by scale; `None` where they are no matrix. Inputs of unknown variance count alike.
pub(super) fn rows(
    graph: &Graph,
    products: &[&Product],
    granularity: Granularity,
    balances: &BTreeMap<ValueId, Balance>,
) -> Option<Vec<Row>> {
    let weights = WeightRows::of(graph, products[0])?;
    let inputs = weights.form.inputs();
    let mut variances = vec![0.0; inputs];
    for product in products {
        let seen = balances.get(&product.weighted.data).map(Balance::variances);
        let seen = seen.filter(|v| v.len() == inputs).unwrap_or_else(|| vec![1.0; inputs]);
        variances.iter_mut().zip(seen).for_each(|(v, s)| *v += s);
    }
    let mean = (variances.iter().sum::<f64>() / inputs as f64).max(f64::MIN_POSITIVE);
    let importance: Vec<f32> = variances.iter().map(|v| (v / mean + UNSEEN) as f32).collect();
    let one = granularity == Granularity::PerTensor;
    let mut rows = vec![Row::default(); if one { 1 } else { weights.form.groups * weights.form.outputs }];
    weights.each(|o, c, w| {
        let row = &mut rows[if one { 0 } else { o }];
        row.weights.push(w);
        row.importance.push(importance[c]);
    });
    Some(rows)
}

/// Scale and zero point for a row whose weights lie in `min` to `max`; `None` if nothing in it counts.
pub(super) fn params(row: &Row, scheme: &Scheme, min: f32, max: f32) -> Option<(f32, i32)> {
    let levels = scheme.qmax.abs_diff(scheme.qmin) as i32;
    let widest = (f64::from(levels) / (row.weights.len() as f64).sqrt()) as i32;
    let mut best: Option<(f64, f32, i32)> = None;
    for wider in (1 - levels..=widest).rev() {
        let width = 1.0 + f64::from(wider) / f64::from(levels);
        let end = |x: f32| (f64::from(x) * width) as f32;
        let (scale, zero_point) = scheme.params_of_range(end(min), end(max))?;
        let sums = Sums::of(row, scheme, scale, zero_point);
        if best.is_some_and(|b| sums.clipped > b.0) {
            break;
        }
        if sums.squares > 0.0 {
            let error = sums.error - sums.slope * sums.slope / sums.squares;
            let fitted = (f64::from(scale) + sums.slope / sums.squares) as f32;
            if fitted.is_normal() && fitted > 0.0 && best.is_none_or(|b| error < b.0) {
                best = Some((error, fitted, zero_point));
            }
        }
    }
    best.map(|(_, scale, zero_point)| (scale, zero_point))
}

/// What one trial scale gives, d being `w − s·q`.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    /// `Σ h·d²`.
    error: f64,
    /// The part of it that lies beyond the range.
    clipped: f64,
    /// `Σ h·q·d`.
    slope: f64,
    /// `Σ h·q²`.
    squares: f64,
}

const LANES: usize = 8;
/// Weights whose sums are held in f32.
const BLOCK: usize = 1024;
/// Adding and subtracting it rounds to an integer, half to even, as far as ±2²².
const ROUND: f32 = 12_582_912.0;

impl Sums {
    fn of(row: &Row, scheme: &Scheme, scale: f32, zero_point: i32) -> Self {
        let (low, high) = ((scheme.qmin - zero_point) as f32, (scheme.qmax - zero_point) as f32);
        let per_step = 1.0 / scale;
        let mut all = Self::default();
        for (weights, importance) in row.weights.chunks(BLOCK).zip(row.importance.chunks(BLOCK)) {
            let [mut error, mut clipped, mut slope, mut squares] = [[0.0_f32; LANES]; 4];
            let ((weights, last), (importance, last_importance)) = (weights.as_chunks(), importance.as_chunks());
            let last = (&padded(last), &padded(last_importance));
            for (w, h) in weights.iter().zip(importance).chain([last]) {
                let x: [f32; LANES] = w.map(|w| w * per_step);
                let inside = x.map(|x| x.clamp(low, high));
                let q = inside.map(|x| (x + ROUND) - ROUND);
                let [d, beyond] = [&q, &inside].map(|part| std::array::from_fn(|i| x[i] - part[i]));
                add(&mut error, h, &d, &d);
                add(&mut clipped, h, &beyond, &beyond);
                add(&mut slope, h, &q, &d);
                add(&mut squares, h, &q, &q);
            }
            let [error, clipped, slope, squares] =
                [error, clipped, slope, squares].map(|lanes| lanes.iter().map(|&v| f64::from(v)).sum::<f64>());
            all.error += error;
            all.clipped += clipped;
            all.slope += slope;
            all.squares += squares;
        }
        // Summed in steps: squares of tiny weights are no numbers.
        let s = f64::from(scale);
        Self { error: all.error * s * s, clipped: all.clipped * s * s, slope: all.slope * s, squares: all.squares }
    }
}

/// Adds `h · a · b`, lane by lane.
fn add(sums: &mut [f32; LANES], h: &[f32; LANES], a: &[f32; LANES], b: &[f32; LANES]) {
    for (((sum, h), a), b) in sums.iter_mut().zip(h).zip(a).zip(b) {
        *sum += h * a * b;
    }
}

/// Zeros never err.
fn padded(rest: &[f32]) -> [f32; LANES] {
    let mut all = [0.0; LANES];
    all[..rest.len()].copy_from_slice(rest);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use quantal_tensor::{Storage, arith};

    /// Numbers around 0 that lie the closer the nearer to it, one in 32 eight times as far out.
    fn row(n: usize, seed: usize) -> Row {
        let of = |i: usize| {
            let even = |k: usize| (((i + seed) * 2741 + k * 7919 + 97) % 4093) as f32 / 4093.0;
            let w = even(0) + even(1) + even(2) - 1.5;
            if i % 32 == 7 { 8.0 * w } else { w }
        };
        let importance = (0..n).map(|i| ((i * 37 + seed) % 11) as f32 + 0.1).collect();
        Row { weights: (0..n).map(of).collect(), importance }
    }

    fn error(row: &Row, scheme: &Scheme, (scale, zero_point): (f32, i32)) -> f64 {
        let of = |(&w, &h): (&f32, &f32)| {
            let q = arith::quantize(w, scale, zero_point, scheme.qmin, scheme.qmax);
            f64::from(h) * (f64::from(w) - f64::from(arith::dequantize(q, scale, zero_point))).powi(2)
        };
        row.weights.iter().zip(&row.importance).map(of).sum()
    }

    #[test]
    fn no_scale_errs_much_less_and_that_of_the_largest_weight_no_less() {
        let s8 = Scheme::weight_per_tensor();
        let four_bits = Scheme { qmin: -7, qmax: 7, ..s8 };
        let u8 = Scheme { storage: Storage::U8, qmin: 0, qmax: 255, symmetric: false, ..s8 };
        for (scheme, n) in [s8, four_bits, u8].into_iter().flat_map(|s| [1, 2, 9, 64, 1500].map(|n| (s, n))) {
            let row = row(n, n);
            let (min, max) = row.weights.iter().fold((0.0_f32, 0.0_f32), |(a, b), &w| (a.min(w), b.max(w)));
            let found = error(&row, &scheme, params(&row, &scheme, min, max).unwrap());
            let of = |width: f32| error(&row, &scheme, scheme.params_of_range(min * width, max * width).unwrap());
            let least = (1..=4000).map(|i| of(i as f32 / 2000.0)).fold(f64::INFINITY, f64::min);
            // Of a single weight no scale need err: only the rounding of f32 is left.
            let most = (1.001 * of(1.0)).min(1.2 * least) + 1e-12;
            assert!(found <= most, "{n} {scheme:?}: {found}, at most {most}");
        }
    }

    #[test]
    fn weights_whose_input_does_not_vary_are_clipped_for_the_others() {
        let mut row = row(64, 3);
        (row.weights[5], row.importance[5]) = (1000.0, 1e-9);
        let (scale, zero_point) = params(&row, &Scheme::weight_per_tensor(), -10.0, 1000.0).unwrap();
        assert!(zero_point == 0 && scale < 0.1, "{scale}");
    }
}
