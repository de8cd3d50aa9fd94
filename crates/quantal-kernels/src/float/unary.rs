//! Functions of one value.

use super::gemm::NO_CLAMP;
use super::lanes::{FloatIsa, LANES, Lanes, One};
use super::math;
use super::rows::{Row, row};
use super::scratch::{CHUNK, Shared};
use crate::{Isa, Threads};

/// A function of one value. NaN gives NaN. The errors stated are the largest found against f64.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Unary {
    /// `|x|`.
    Abs,
    /// `e^x` within 1 ulp, subnormal results included.
    Exp,
    /// The error function within 2 ulp.
    Erf,
    /// `x < 0 ? alpha·(e^x − 1) : x`.
    Elu {
        /// The limit towards −∞, negated.
        alpha: f32,
    },
    /// `x/2·(1 + erf(x/√2))`, within 2·10⁻⁷·|x|.
    Gelu,
    /// The approximation of gelu by tanh that ONNX names `tanh`.
    GeluTanh,
    /// `clamp(alpha·x + beta, 0, 1)`, product and sum each rounded.
    HardSigmoid {
        /// The slope.
        alpha: f32,
        /// The value at 0.
        beta: f32,
    },
    /// `x·hard_sigmoid(x)` with slope 1/6 and value 1/2 at 0.
    HardSwish,
    /// `x < 0 ? slope·x : x`.
    LeakyRelu {
        /// The slope of the negative side.
        slope: f32,
    },
    /// The natural logarithm within 1 ulp: −∞ of zeros, NaN of negative numbers.
    Ln,
    /// `−x`.
    Neg,
    /// `1/x`.
    Reciprocal,
    /// `max(x, 0)`; −0 stays.
    Relu,
    /// `1/(1 + e^−x)` within 3 ulp.
    Sigmoid,
    /// `x·sigmoid(x)` within 3 ulp; NaN at −∞.
    Silu,
    /// `ln(1 + e^x)` within 3 ulp.
    Softplus,
    /// The square root, correctly rounded.
    Sqrt,
    /// The hyperbolic tangent within 3 ulp.
    Tanh,
}

/// Evaluates `$run!(f)` with `f` the function on vectors: the choice is made once, outside of the loop in `$run`.
macro_rules! with_function {
    ($function:expr, $l:ident, |$f:ident| $run:expr) => {{
        macro_rules! run {
            (|$x:ident| $y:expr) => {{
                let $f = |$x| $y;
                $run
            }};
        }
        let (zero, one) = ($l.splat(0.0), $l.splat(1.0));
        match $function {
            Unary::Abs => run!(|x| $l.abs(x)),
            Unary::Exp => run!(|x| math::exp($l, x)),
            Unary::Erf => run!(|x| math::erf($l, x)),
            Unary::Elu { alpha } => {
                run!(|x| $l.select_lt(x, zero, $l.mul($l.splat(alpha), math::exp_m1($l, x)), x))
            }
            Unary::Gelu => run!(|x| math::gelu($l, x)),
            Unary::GeluTanh => run!(|x| math::gelu_tanh($l, x)),
            Unary::HardSigmoid { alpha, beta } => run!(|x| {
                let line = $l.add($l.mul($l.splat(alpha), x), $l.splat(beta));
                $l.min(one, $l.max(zero, line))
            }),
            Unary::HardSwish => run!(|x| {
                let line = $l.add($l.mul($l.splat(1.0 / 6.0), x), $l.splat(0.5));
                $l.mul(x, $l.min(one, $l.max(zero, line)))
            }),
            Unary::LeakyRelu { slope } => run!(|x| $l.select_lt(x, zero, $l.mul($l.splat(slope), x), x)),
            Unary::Ln => run!(|x| math::ln($l, x)),
            Unary::Neg => run!(|x| $l.bits_add(x, $l.splat_bits(0x8000_0000))),
            Unary::Reciprocal => run!(|x| $l.div(one, x)),
            Unary::Relu => run!(|x| $l.max(zero, x)),
            Unary::Sigmoid => run!(|x| math::sigmoid($l, x)),
            Unary::Silu => run!(|x| $l.mul(x, math::sigmoid($l, x))),
            Unary::Softplus => run!(|x| math::softplus($l, x)),
            Unary::Sqrt => run!(|x| $l.sqrt(x)),
            Unary::Tanh => run!(|x| math::tanh($l, x)),
        }
    }};
}

impl Unary {
    /// The function of one value: the same bits as the slice versions give.
    pub fn of(self, x: f32) -> f32 {
        let l = One;
        with_function!(self, l, |f| f(x))
    }
}

/// `to[i] = clamp(function(from[i]))` for `n` values.
pub(super) struct Map {
    function: Unary,
    clamp: (f32, f32),
    from: *const f32,
    to: *mut f32,
    n: usize,
}

/// # Safety
/// `from` is good for reading and `to` for writing `n` values; they are the same or apart.
#[inline(always)]
pub(super) unsafe fn map<I: FloatIsa>(isa: I, m: &Map) {
    let (low, high) = (isa.splat(m.clamp.0), isa.splat(m.clamp.1));
    with_function!(m.function, isa, |f| {
        // One place that calls `f`: a function with two of them is not inlined, and so not compiled for the instruction
        // set either.
        for i in (0..m.n).step_by(LANES) {
            let count = LANES.min(m.n - i);
            // SAFETY: i + count ≤ n.
            unsafe {
                let x = if count == LANES { isa.load(m.from.add(i)) } else { isa.load_part(m.from.add(i), count) };
                let y = isa.min(high, isa.max(low, f(x)));
                if count == LANES {
                    isa.store(m.to.add(i), y);
                } else {
                    isa.store_part(m.to.add(i), y, count);
                }
            }
        }
    });
}

/// `x = clamp(function(x))` in place.
pub(super) fn apply(row: &Row, function: Unary, clamp: (f32, f32), x: &mut [f32]) {
    let to = x.as_mut_ptr();
    // SAFETY: both pointers are `x`, of this length.
    unsafe { (row.map)(&Map { function, clamp, from: to, to, n: x.len() }) };
}

/// `y[i] = function(x[i])`.
///
/// # Panics
/// When the lengths differ.
pub fn unary(isa: Isa, function: Unary, x: &[f32], y: &mut [f32], threads: &Threads) {
    assert_eq!(x.len(), y.len(), "lengths of input and output");
    let (row, n, to) = (row(isa), x.len(), Shared::new(y));
    threads.parallel_for(n.div_ceil(CHUNK), &|task| {
        let x = &x[task * CHUNK..n.min((task + 1) * CHUNK)];
        let to = to.at(task * CHUNK);
        // SAFETY: the chunk lies in both slices, of the same length; chunks are disjoint.
        unsafe { (row.map)(&Map { function, clamp: NO_CLAMP, from: x.as_ptr(), to, n: x.len() }) };
    });
}

/// `x[i] = function(x[i])`.
pub fn unary_in_place(isa: Isa, function: Unary, x: &mut [f32], threads: &Threads) {
    let (row, n, to) = (row(isa), x.len(), Shared::new(x));
    threads.parallel_for(n.div_ceil(CHUNK), &|task| {
        let to = to.at(task * CHUNK);
        // SAFETY: the chunk lies in the slice; chunks are disjoint.
        unsafe { (row.map)(&Map { function, clamp: NO_CLAMP, from: to, to, n: CHUNK.min(n - task * CHUNK) }) };
    });
}

#[cfg(test)]
mod tests;
