//! Exponential, logarithm and their kin, from IEEE operations in a fixed order: the same bits on every machine.
//!
//! Coefficients are our own minimax fits (weighted least squares, Lawson), rounded to f32. Bounds on the error are
//! asserted by the tests against f64.

use super::lanes::Lanes;

/// 1.5·2²³: added and taken away, it rounds to the nearest integer and leaves that integer in the low bits.
const ROUNDER: f32 = 12_582_912.0;
/// 355/512: few enough bits that its products with exponents are exact.
const LN_2_HIGH: f32 = 355.0 / 512.0;
/// ln 2 − 355/512.
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// `c[0] + c[1]·x + …`, by Horner.
#[inline(always)]
fn polynomial<L: Lanes, const N: usize>(l: L, x: L::V, c: [f32; N]) -> L::V {
    let mut y = l.splat(c[N - 1]);
    for i in (0..N - 1).rev() {
        y = l.fma(y, x, l.splat(c[i]));
    }
    y
}

/// `x = n·ln 2 + r` with |r| ≤ ln 2 / 2: gives n as i32 bits and `e^r − 1`.
#[inline(always)]
fn reduced_exp<L: Lanes>(l: L, x: L::V) -> (L::V, L::V) {
    let rounder = l.splat(ROUNDER);
    let shifted = l.fma(x, l.splat(std::f32::consts::LOG2_E), rounder);
    let n = l.sub(shifted, rounder);
    let r = l.fma(n, l.splat(-LN_2_HIGH), x);
    let r = l.fma(n, l.splat(-LN_2_LOW), r);
    let p = polynomial(l, r, [0.5, 0.166_666_66, 0.041_666_295, 0.008_333_498, 0.001_394_470_5, 1.979_030_3e-4]);
    (l.bits_sub(shifted, rounder), l.fma(l.mul(r, r), p, r))
}

/// 2ⁿ for n as i32 bits, −126 ≤ n ≤ 127.
#[inline(always)]
fn power_of_2<L: Lanes>(l: L, n: L::V) -> L::V {
    l.bits_shl::<23>(l.bits_add(n, l.splat_bits(127)))
}

/// `e^x`, subnormal results and overflow to infinity included.
#[inline(always)]
pub(super) fn exp<L: Lanes>(l: L, x: L::V) -> L::V {
    // Beyond these ends the result is 0 or infinity anyway. NaN passes: it is the second operand.
    let x = l.min(l.splat(89.0), l.max(l.splat(-104.0), x));
    let (n, e) = reduced_exp(l, x);
    // 2ⁿ in two halves, each a normal number.
    let half = l.bits_sar::<1>(n);
    let rest = l.bits_sub(n, half);
    l.mul(l.mul(l.add(e, l.splat(1.0)), power_of_2(l, half)), power_of_2(l, rest))
}

/// `e^x − 1` for x held to −20 … 20.
#[inline(always)]
pub(super) fn exp_m1<L: Lanes>(l: L, x: L::V) -> L::V {
    let x = l.min(l.splat(20.0), l.max(l.splat(-20.0), x));
    let (n, e) = reduced_exp(l, x);
    let scale = power_of_2(l, n);
    l.fma(scale, e, l.sub(scale, l.splat(1.0)))
}

/// `ln x`: −∞ of zero, NaN of negative numbers.
#[inline(always)]
pub(super) fn ln<L: Lanes>(l: L, x: L::V) -> L::V {
    let normal = l.splat(f32::MIN_POSITIVE);
    let scaled = l.select_lt(x, normal, l.mul(x, l.splat(8_388_608.0)), x);
    let shift = l.select_lt(x, normal, l.splat(-23.0), l.splat(0.0));
    // x = 2ᵏ·m with √½ ≤ m < √2: the exponent is counted from √½.
    let root = l.splat(std::f32::consts::FRAC_1_SQRT_2);
    let above = l.bits_sub(scaled, root);
    let k = l.bits_sar::<23>(above);
    let m = l.bits_add(l.bits_and(above, l.splat_bits(0x007F_FFFF)), root);
    let rounder = l.splat(ROUNDER);
    let k = l.add(l.sub(l.bits_add(k, rounder), rounder), shift);
    // ln(1 + f) = 2·atanh(s) = f − s·(f − R) with s = f / (2 + f).
    let f = l.sub(m, l.splat(1.0));
    let s = l.div(f, l.add(f, l.splat(2.0)));
    let z = l.mul(s, s);
    let r = l.mul(z, polynomial(l, z, [0.666_666_6, 0.400_003_37, 0.285_371_7, 0.235_849_9]));
    let low = l.fma(k, l.splat(LN_2_LOW), l.sub(l.splat(0.0), l.mul(s, l.sub(f, r))));
    let y = l.fma(k, l.splat(LN_2_HIGH), l.add(f, low));
    let y = l.select_lt(x, l.splat(f32::INFINITY), y, x);
    let y = l.select_lt(x, l.splat(0.0), l.splat(f32::NAN), y);
    l.select_lt(l.abs(x), l.splat_bits(1), l.splat(f32::NEG_INFINITY), y)
}

/// `1 / (1 + e^−x)`.
#[inline(always)]
pub(super) fn sigmoid<L: Lanes>(l: L, x: L::V) -> L::V {
    // Of −|x|, so that nothing overflows and small results keep their digits.
    let (zero, one) = (l.splat(0.0), l.splat(1.0));
    let e = exp(l, l.sub(zero, l.abs(x)));
    l.div(l.select_lt(x, zero, e, one), l.add(one, e))
}

/// The sign of `x` put on `y` ≥ 0.
#[inline(always)]
fn signed<L: Lanes>(l: L, y: L::V, x: L::V) -> L::V {
    l.bits_or(y, l.bits_and(x, l.splat_bits(0x8000_0000)))
}

/// The hyperbolic tangent.
#[inline(always)]
pub(super) fn tanh<L: Lanes>(l: L, x: L::V) -> L::V {
    let a = l.abs(x);
    let e = exp_m1(l, l.add(a, a));
    signed(l, l.div(e, l.add(e, l.splat(2.0))), x)
}

/// The error function.
#[inline(always)]
pub(super) fn erf<L: Lanes>(l: L, x: L::V) -> L::V {
    let a = l.min(l.splat(4.0), l.abs(x));
    let near = {
        let c =
            [0.128_379_17, -0.376_126_32, 0.112_836_64, -0.026_857_706, 0.005_196_952, -8.097_702_5e-4, 8.185_091e-5];
        l.fma(polynomial(l, l.mul(a, a), c), a, a)
    };
    let far = {
        // −ln(1 − erf a).
        let c = [
            -1.824_603_7e-4,
            1.129_552,
            0.633_272_4,
            0.108_361_55,
            -0.025_171_807,
            0.004_190_855,
            -4.385_298_2e-4,
            2.144_555_2e-5,
        ];
        let e = exp(l, l.sub(l.splat(0.0), polynomial(l, a, c)));
        l.sub(l.splat(1.0), e)
    };
    signed(l, l.select_lt(a, l.splat(0.95), near, far), x)
}

/// `x·Φ(x) = x/2·(1 + erf(x/√2))`.
#[inline(always)]
pub(super) fn gelu<L: Lanes>(l: L, x: L::V) -> L::V {
    let e = erf(l, l.mul(x, l.splat(std::f32::consts::FRAC_1_SQRT_2)));
    l.mul(l.mul(l.splat(0.5), x), l.add(l.splat(1.0), e))
}

/// `x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
#[inline(always)]
pub(super) fn gelu_tanh<L: Lanes>(l: L, x: L::V) -> L::V {
    let cubic = l.fma(l.mul(l.splat(0.044_715), l.mul(x, x)), x, x);
    let t = tanh(l, l.mul(l.splat(0.797_884_6), cubic));
    l.mul(l.mul(l.splat(0.5), x), l.add(l.splat(1.0), t))
}

/// `ln(1 + e^x)`.
#[inline(always)]
pub(super) fn softplus<L: Lanes>(l: L, x: L::V) -> L::V {
    let zero = l.splat(0.0);
    let t = exp(l, l.sub(zero, l.abs(x)));
    let s = l.div(t, l.add(t, l.splat(2.0)));
    let z = l.mul(s, s);
    let c = [0.666_666_7, 0.400_000_54, 0.285_683_84, 0.223_017_66, 0.171_454_56, 0.218_003_47];
    let log = l.fma(l.mul(s, z), polynomial(l, z, c), l.add(s, s));
    l.add(l.max(x, zero), log)
}
