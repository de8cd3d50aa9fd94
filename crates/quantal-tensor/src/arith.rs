//! The arithmetic of quantization, defined once. Normative: kernels, simulation and export agree with this file bit
//! for bit, or they are wrong.
//!
//! A real number `x` is held as an integer `q` with a `scale` s > 0 and a `zero_point` z, so that real 0 is exact:
//!
//! ```text
//! (1) quantize      q = clamp(rne(x / s) + z, qmin, qmax)
//! (2) dequantize    x = s · (q − z)
//! (3) requantize    y = clamp(rne(f32(acc) · m) + z_y, qmin, qmax),   m = (s_x · s_w) / s_y
//! (4) add           y = clamp(rne((a − z_a) · m_a + (b − z_b) · m_b) + z_y),   m_a = s_a / s_y,  m_b = s_b / s_y
//! (5) mean          as (3), acc = Σ (x − z_x) over n elements,   m = s_x / (s_y · n)
//! (6) table         y = quantize(f32(f(f64(dequantize(q))))) for each of the 256 codes q
//! (7) range         asymmetric: s = (max − min) / (qmax − qmin), z = clamp(rne(qmin − min / s));
//!                   symmetric: s = 2·max(|min|, |max|) / (qmax − qmin), z = the middle code
//! (8) softmax       y = clamp(rne(f32(t[d]) · m) + z_y) over a row, with d = max q − q, t[d] = rne(2²² · exp(−s_x · d)),
//!                   m = 1 / (f32(Σ t[d]) · s_y): t from f64, the sum exact in 64 bits. A mask is added to the codes as
//!                   clamp(rne(mask / s_x), −2²⁰, 2²⁰) first; t is 0 where d lies past its table
//! (9) dynamic       u8: s = (max − min) / 255, z = clamp(rne(0 − min / s), 0, 255), min and max of the tensor and 0
//! (10) layer norm   y = clamp(rne((f32(n·q − Σq) · a) · (γ / s_y) + β / s_y) + z_y) over a row of n centred codes q, with
//!                   a = f32(s_x / (n · √(s_x² · (n·Σq² − (Σq)²) / n² + ε))) in f64 from exact sums; RMS takes Σq as 0
//! (11) per token    u8, by rows: s = max(max|x| / 127, 2⁻¹²⁶), z = 128
//! ```
//!
//! `rne` rounds half to even. Every operation is one IEEE-754 f32 operation, in the order written: `x / s` is a true
//! division (ONNX says so; multiplying by 1/s differs at half-way points), products are never contracted into a fused
//! multiply-add, and clamping happens in float, before the conversion to integer. So every machine gives the same bits.
//! The accumulator is a 32-bit integer and never saturates on the way. Each range is first widened to hold zero.
//!
//! Degenerate cases, in words: NaN quantizes to the zero point and ±Inf to the nearer end. A range whose scale would
//! lie below the smallest normal f32 (an all-zero channel, a constant zero tensor, denormals) gets scale 1 and zero
//! point 0. A range with a NaN or infinite end has no parameters: [`range_to_qparams`] gives `None`.

/// Equation (1): one real number to an integer code in `[qmin, qmax]`.
#[inline]
pub fn quantize(x: f32, scale: f32, zero_point: i32, qmin: i32, qmax: i32) -> i32 {
    // `as` saturates and takes NaN to 0, hence to the zero point.
    let code = i64::from((x / scale).round_ties_even() as i32) + i64::from(zero_point);
    code.clamp(i64::from(qmin), i64::from(qmax)) as i32
}

/// Equation (2): one code back to the real number that it stands for.
#[inline]
pub fn dequantize(q: i32, scale: f32, zero_point: i32) -> f32 {
    scale * q.wrapping_sub(zero_point) as f32
}

/// The multiplier of equation (3), in this order of operations.
#[inline]
pub fn multiplier(scale_x: f32, scale_w: f32, scale_y: f32) -> f32 {
    scale_x * scale_w / scale_y
}

/// Equation (3): an accumulator to a code. `multiplier` must be finite.
#[inline]
pub fn requantize(acc: i32, multiplier: f32, zero_point: i32, qmin: i32, qmax: i32) -> i32 {
    round_to_code(acc as f32 * multiplier, zero_point, qmin, qmax)
}

/// Equation (4): the sum of two codes of different scales. Subtraction is addition with `-m_b`.
#[inline]
pub fn add(a: i32, m_a: f32, b: i32, m_b: f32, zero_point: i32, qmin: i32, qmax: i32) -> i32 {
    round_to_code(a as f32 * m_a + b as f32 * m_b, zero_point, qmin, qmax)
}

/// The multiplier of equation (5) for a mean over `count` elements.
#[inline]
pub fn mean_multiplier(scale_x: f32, scale_y: f32, count: usize) -> f32 {
    scale_x / (scale_y * count as f32)
}

/// The common end of (3) and (4): round half to even, clamp in float, then move by the zero point.
#[inline]
pub fn round_to_code(value: f32, zero_point: i32, qmin: i32, qmax: i32) -> i32 {
    value.round_ties_even().clamp((qmin - zero_point) as f32, (qmax - zero_point) as f32) as i32 + zero_point
}

/// Equation (6): the table of a unary function on 8-bit codes, indexed by the input's byte. `signed_in` says whether
/// that byte is a two's complement code; the entries are the output's codes as bytes.
pub fn table(f: impl Fn(f64) -> f64, input: Affine, output: Affine) -> [u8; 256] {
    std::array::from_fn(|byte| {
        let code = if input.qmin < 0 { i32::from(byte as u8 as i8) } else { byte as i32 };
        let y = f(f64::from(dequantize(code, input.scale, input.zero_point))) as f32;
        quantize(y, output.scale, output.zero_point, output.qmin, output.qmax) as u8
    })
}

/// Scale, zero point and code range of one per-tensor quantized value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine {
    /// Size of one step, > 0.
    pub scale: f32,
    /// The code of real 0.
    pub zero_point: i32,
    /// Smallest code.
    pub qmin: i32,
    /// Largest code.
    pub qmax: i32,
}

/// Equation (7): the parameters for values in `[min, max]`, or `None` if an end is NaN or infinite.
pub fn range_to_qparams(min: f32, max: f32, qmin: i32, qmax: i32, symmetric: bool) -> Option<(f32, i32)> {
    if !min.is_finite() || !max.is_finite() {
        return None;
    }
    let (min, max) = (f64::from(min).min(0.0), f64::from(max).max(0.0));
    let levels = f64::from(qmax - qmin);
    let scale = if symmetric { 2.0 * max.max(-min) / levels } else { (max - min) / levels };
    if scale < f64::from(f32::MIN_POSITIVE) {
        return Some((1.0, 0));
    }
    let zero_point = if symmetric { f64::from(qmin + qmax) / 2.0 } else { f64::from(qmin) - min / scale };
    let zero_point = zero_point.round_ties_even().clamp(f64::from(qmin), f64::from(qmax)) as i32;
    Some((scale as f32, zero_point))
}

/// The terms of equation (8), indexed by the distance from the largest code of the row.
pub fn softmax_table(scale_x: f32) -> [u32; 256] {
    std::array::from_fn(|d| softmax_term(scale_x, d))
}

/// The terms of equation (8) where a mask takes distances past 255: at least 256, the last one 0 and for all that lies
/// beyond. `None` if the scale is so small that they would be more than 2¹⁴.
pub fn softmax_mask_table(scale_x: f32) -> Option<Vec<u32>> {
    let last = (256..1 << 14).find(|&d| softmax_term(scale_x, d) == 0)?;
    Some((0..=last).map(|d| softmax_term(scale_x, d)).collect())
}

fn softmax_term(scale_x: f32, d: usize) -> u32 {
    (4_194_304.0 * libm::exp(-f64::from(scale_x) * d as f64)).round_ties_even() as u32
}

/// What a mask adds to a code of equation (8).
#[inline]
pub fn softmax_mask(mask: f32, scale_x: f32) -> i32 {
    quantize(mask, scale_x, 0, -(1 << 20), 1 << 20)
}

/// The multiplier of equation (8) for a row whose terms add up to `sum`.
#[inline]
pub fn softmax_multiplier(sum: u64, scale_y: f32) -> f32 {
    1.0 / (sum as f32 * scale_y)
}

/// Equation (8) over one row of codes, masked or not, with the table of their scale.
pub fn softmax(row: &[i32], table: &[u32], output: Affine) -> Vec<i32> {
    let max = row.iter().copied().max().unwrap_or(0);
    let terms: Vec<u32> = row.iter().map(|q| table[((max - q) as usize).min(table.len() - 1)]).collect();
    let multiplier = softmax_multiplier(terms.iter().copied().map(u64::from).sum(), output.scale);
    let code = |t: &u32| round_to_code(*t as f32 * multiplier, output.zero_point, output.qmin, output.qmax);
    terms.iter().map(code).collect()
}

/// Equation (9), the parameters of ONNX `DynamicQuantizeLinear`: each operation in f32. A range of zero width gets scale
/// 1 and zero point 0; one that is not finite has no parameters.
pub fn dynamic_qparams(min: f32, max: f32) -> Option<(f32, i32)> {
    let (min, max) = (min.min(0.0), max.max(0.0));
    let scale = (max - min) / 255.0;
    if !scale.is_finite() {
        return None;
    }
    if scale < f32::MIN_POSITIVE {
        return Some((1.0, 0));
    }
    Some((scale, (0.0 - min / scale).round_ties_even().clamp(0.0, 255.0) as i32))
}

/// The factor `a` of equation (10) for `n` centred codes: their sum, or 0 for RMS, and the sum of their squares.
#[inline]
pub fn layer_norm_factor(sum: i64, squares: i64, n: usize, scale_x: f32, epsilon: f32) -> f32 {
    let (count, scale) = (n as f64, f64::from(scale_x));
    let spread = (n as i128 * i128::from(squares) - i128::from(sum) * i128::from(sum)) as f64;
    let variance = scale * scale * spread / (count * count) + f64::from(epsilon);
    (scale / (count * variance.sqrt())) as f32
}

/// Equation (10) over one row of codes; `factor` and `addend` are `γ / s_y` and `β / s_y`.
pub fn layer_norm(
    row: &[i32],
    input: Affine,
    factor: &[f32],
    addend: &[f32],
    epsilon: f32,
    rms: bool,
    output: Affine,
) -> Vec<i32> {
    let centred = || row.iter().map(|q| q - input.zero_point);
    let sum = if rms { 0 } else { centred().map(i64::from).sum() };
    let a = layer_norm_factor(sum, centred().map(|q| i64::from(q * q)).sum(), row.len(), input.scale, epsilon);
    let code = |(i, q): (usize, i32)| {
        let from_mean = (row.len() as i64 * i64::from(q) - sum) as f32;
        round_to_code(from_mean * a * factor[i] + addend[i], output.zero_point, output.qmin, output.qmax)
    };
    centred().enumerate().map(code).collect()
}

/// The scale of equation (11) for a row whose largest magnitude is `most`.
#[inline]
pub fn row_scale(most: f32) -> f32 {
    (most / 127.0).max(f32::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantize_rounds_half_to_even_and_saturates() {
        let q = |x| quantize(x, 0.5, 0, -128, 127);
        assert_eq!([0.25, 0.75, 1.25, -0.25, -0.75].map(q), [0, 2, 2, 0, -2]);
        assert_eq!([1e9, -1e9, f32::INFINITY, f32::NEG_INFINITY].map(q), [127, -128, 127, -128]);
        assert_eq!(quantize(f32::NAN, 0.5, 7, -128, 127), 7);
    }

    #[test]
    fn quantize_divides_rather_than_multiplying_by_the_reciprocal() {
        // 0.15 / 0.1 rounds to 1.5 in f32, and 0.15 · (1 / 0.1) too, but 0.35 / 0.1 is 3.5 where the product is 3.4999998.
        let (x, s) = (0.05_f32 * 9.0, 0.1_f32);
        assert_eq!(quantize(x, s, 0, -128, 127), (x / s).round_ties_even() as i32);
    }

    #[test]
    fn requantize_clamps_before_it_converts() {
        assert_eq!(requantize(i32::MAX, 1e30, 3, 0, 255), 255);
        assert_eq!(requantize(i32::MIN, 1e30, 3, 0, 255), 0);
        assert_eq!([1, 3, 5, -1, -3].map(|a| requantize(a, 0.5, 10, 0, 255)), [10, 12, 12, 10, 8]);
    }

    #[test]
    fn degenerate_ranges_get_scale_one() {
        assert_eq!(range_to_qparams(0.0, 0.0, 0, 255, false), Some((1.0, 0)));
        assert_eq!(range_to_qparams(-1e-45, 1e-45, -127, 127, true), Some((1.0, 0)));
        assert_eq!(range_to_qparams(f32::NAN, 1.0, 0, 255, false), None);
        assert_eq!(range_to_qparams(0.0, f32::INFINITY, 0, 255, false), None);
    }

    #[test]
    fn softmax_is_within_a_step_of_the_real_one() {
        let output = Affine { scale: 1.0 / 256.0, zero_point: -128, qmin: -128, qmax: 127 };
        let row: Vec<i32> = (0..197).map(|i| i * 89 % 256 - 128).collect();
        let exp: Vec<f64> = row.iter().map(|&q| (0.1 * f64::from(q)).exp()).collect();
        let sum: f64 = exp.iter().sum();
        for (y, e) in softmax(&row, &softmax_table(0.1), output).iter().zip(&exp) {
            assert!((f64::from(*y + 128) - 256.0 * e / sum).abs() < 0.501);
        }
        assert_eq!(softmax(&[7], &softmax_table(0.1), output), [127]);
    }

    #[test]
    fn masks_hide_and_shift_as_reals_do() {
        let (scale, table) = (0.02, softmax_mask_table(0.02).unwrap());
        let output = Affine { scale: 1.0 / 255.0, zero_point: 0, qmin: 0, qmax: 255 };
        let row: Vec<i32> = (0..50).map(|i| i * 89 % 256).collect();
        let mask: Vec<f32> = (0..50).map(|i| if i % 3 == 0 { f32::MIN } else { -0.2 * i as f32 }).collect();
        let exp: Vec<f64> =
            row.iter().zip(&mask).map(|(&q, &m)| libm::exp(0.02 * f64::from(q) + f64::from(m))).collect();
        let sum: f64 = exp.iter().sum();
        let masked: Vec<i32> = row.iter().zip(&mask).map(|(q, &m)| q + softmax_mask(m, scale)).collect();
        for (y, e) in softmax(&masked, &table, output).iter().zip(&exp) {
            assert!((f64::from(*y) - 255.0 * e / sum).abs() < 0.501);
        }
        assert_eq!(softmax_mask(f32::NEG_INFINITY, scale), -(1 << 20));
        assert_eq!(softmax_mask_table(1e-6), None);
    }

    #[test]
    fn layer_norm_is_within_a_step_of_the_real_one() {
        let input = Affine { scale: 0.037, zero_point: 101, qmin: 0, qmax: 255 };
        let output = Affine { scale: 0.03, zero_point: 125, qmin: 0, qmax: 255 };
        let row: Vec<i32> = (0..771).map(|i| i * 89 % 256).collect();
        let real: Vec<f64> = row.iter().map(|q| 0.037_f32 as f64 * f64::from(q - 101)).collect();
        let (gamma, beta) = ((0..771).map(|i| 1.0 + 0.001 * i as f32), (0..771).map(|i| 0.3 - 0.0005 * i as f32));
        let factor: Vec<f32> = gamma.clone().map(|g| g / output.scale).collect();
        let addend: Vec<f32> = beta.clone().map(|b| b / output.scale).collect();
        for rms in [false, true] {
            let mean = if rms { 0.0 } else { real.iter().sum::<f64>() / 771.0 };
            let variance = real.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / 771.0;
            let want = (real.iter().zip(gamma.clone().zip(beta.clone())))
                .map(|(x, (g, b))| (x - mean) / (variance + 1e-5).sqrt() * f64::from(g) + f64::from(b));
            let found = layer_norm(&row, input, &factor, &addend, 1e-5, rms, output);
            for (y, w) in found.iter().zip(want) {
                let w = (w / f64::from(output.scale) + 125.0).clamp(0.0, 255.0);
                assert!((f64::from(*y) - w).abs() < 0.501, "{y} {w}");
            }
        }
        // A row without spread is all beta, or nothing where there is no epsilon.
        assert_eq!(layer_norm(&[7, 7], input, &[3.0, 3.0], &[1.0, 2.0], 1e-5, false, output), [126, 127]);
        assert_eq!(layer_norm(&[7, 7], input, &[3.0, 3.0], &[1.0, 2.0], 0.0, false, output), [125, 125]);
    }

    #[test]
    fn dynamic_parameters_take_in_zero() {
        assert_eq!(dynamic_qparams(0.0, 0.0), Some((1.0, 0)));
        assert_eq!(dynamic_qparams(2.0, 5.1), Some((5.1 / 255.0, 0)));
        assert_eq!(dynamic_qparams(-5.0, -1.0), Some((5.0 / 255.0, 255)));
        assert_eq!(dynamic_qparams(-3e38, 3e38), None);
        assert_eq!(dynamic_qparams(0.0, f32::NAN.max(f32::INFINITY)), None);
    }

    #[test]
    fn ranges_always_hold_zero() {
        assert_eq!(range_to_qparams(2.0, 5.1, 0, 255, false), Some(((5.1_f32 as f64 / 255.0) as f32, 0)));
        let (s, z) = range_to_qparams(-3.0, -1.0, 0, 255, false).unwrap();
        assert_eq!((s, z), ((3.0_f64 / 255.0) as f32, 255));
    }
}
