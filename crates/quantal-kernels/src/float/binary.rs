//! Functions of two values, element by element.

use super::lanes::{FloatIsa, LANES};
use super::pooling::{max_or_nan, min_or_nan};
use super::rows::{Row, row};
use super::scratch::{CHUNK, Shared, with_scratch};
use crate::{Isa, Threads};

/// A function of two values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Binary {
    /// `a + b`.
    Add,
    /// `a − b`.
    Sub,
    /// `a·b`.
    Mul,
    /// `a / b`.
    Div,
    /// The larger, NaN if either is.
    Max,
    /// The smaller, NaN if either is.
    Min,
}

/// A side of an element-wise operation on `[rows, columns]`.
#[derive(Clone, Copy, Debug)]
pub enum Operand<'a> {
    /// As many values as the output has.
    Full(&'a [f32]),
    /// One value for all.
    Scalar(f32),
    /// One value per column: the same for each row.
    PerColumn(&'a [f32]),
}

/// `out[i] = function(a[i], b[i])`.
///
/// # Panics
/// When a `Full` side has another length than `out`, or that of a `PerColumn` side does not divide it or is not that
/// of the other.
pub fn binary(isa: Isa, function: Binary, a: Operand<'_>, b: Operand<'_>, out: &mut [f32], threads: &Threads) {
    let len = out.len();
    // SAFETY: the sides are borrowed for the call and have the lengths that `side` asserts.
    unsafe { run(row(isa), function, [side(&a, len), side(&b, len)], Shared::new(out), len, threads) };
}

/// `x[i] = function(x[i], b[i])`.
///
/// # Panics
/// When a `Full` side has another length than `x`, or that of a `PerColumn` side does not divide it.
pub fn binary_in_place(isa: Isa, function: Binary, x: &mut [f32], b: Operand<'_>, threads: &Threads) {
    let len = x.len();
    let x = Shared::new(x);
    let own = Side { values: Shared::at(x, 0), period: None, step: 1 };
    // SAFETY: as for `binary`; the kernel reads each vector of `x` before it writes it.
    unsafe { run(row(isa), function, [own, side(&b, len)], x, len, threads) };
}

/// A side as addresses: value i of the output takes `values[i·step]`, i counted from the start of a period.
#[derive(Clone, Copy)]
struct Side {
    values: *const f32,
    period: Option<usize>,
    step: usize,
}

// SAFETY: read-only addresses of slices that outlive the call of `run`, or the output, of which tasks have parts.
unsafe impl Sync for Side {}

fn side(operand: &Operand<'_>, len: usize) -> Side {
    match operand {
        Operand::Full(x) => {
            assert_eq!(x.len(), len, "lengths of input and output");
            Side { values: x.as_ptr(), period: None, step: 1 }
        }
        Operand::Scalar(x) => Side { values: x, period: None, step: 0 },
        Operand::PerColumn(x) => {
            let rows = len.checked_rem(x.len());
            assert!(rows.map_or(len == 0, |rest| rest == 0), "{len} values are not rows of {}", x.len());
            Side { values: x.as_ptr(), period: Some(x.len()), step: 1 }
        }
    }
}

/// Values of a run of whole rows, at least: shorter rows are repeated so that a call is worth it.
const RUN: usize = 256;

/// # Safety
/// `out` is good for writing `len` values. A side has `len` values, or its period's, or one if the step is 0.
unsafe fn run(row: &Row, function: Binary, sides: [Side; 2], out: Shared, len: usize, threads: &Threads) {
    if len == 0 {
        return;
    }
    let period = sides.iter().find_map(|s| s.period);
    assert!(sides.iter().all(|s| s.period.is_none_or(|p| Some(p) == period)), "columns of both sides");
    let unit = period.map_or(CHUNK, |p| p * RUN.div_ceil(p).min(len / p));
    let together = CHUNK.div_ceil(unit);
    with_scratch(2 * unit, |scratch| {
        let mut parts = scratch.chunks_exact_mut(unit);
        let sides = sides.map(|s| {
            let Some(period) = s.period.filter(|&p| p < unit) else { return s };
            // SAFETY: a side with a period has as many values.
            let values = unsafe { std::slice::from_raw_parts(s.values, period) };
            let part = parts.next().expect("two parts for two sides");
            part.chunks_exact_mut(period).for_each(|row| row.copy_from_slice(values));
            Side { values: part.as_ptr(), ..s }
        });
        let sides = &sides;
        threads.parallel_for(len.div_ceil(unit).div_ceil(together), &|task| {
            for u in task * together..len.div_ceil(unit).min((task + 1) * together) {
                let at = |s: &Side| match s.period {
                    Some(_) => s.values,
                    None => s.values.wrapping_add(u * unit * s.step),
                };
                let pairs = Pairs {
                    function,
                    a: at(&sides[0]),
                    a_step: sides[0].step,
                    b: at(&sides[1]),
                    b_step: sides[1].step,
                    out: out.at(u * unit),
                    n: unit.min(len - u * unit),
                };
                // SAFETY: the run lies in the output and is this task's own; a side has as many values from there, or
                // from its start if it has a period (a unit is whole periods), or one.
                unsafe { (row.pairs)(&pairs) };
            }
        });
    });
}

/// `out[i] = function(a[i·a_step], b[i·b_step])` for `n` values, steps 0 or 1.
pub(super) struct Pairs {
    function: Binary,
    a: *const f32,
    a_step: usize,
    b: *const f32,
    b_step: usize,
    out: *mut f32,
    n: usize,
}

/// # Safety
/// `out` is good for writing `n` values; `a` and `b` for reading `n`, or one where the step is 0, and each is `out` or
/// apart from it.
#[inline(always)]
pub(super) unsafe fn pairs<I: FloatIsa>(isa: I, p: &Pairs) {
    // SAFETY: the contract of this function, for each arm.
    unsafe {
        match p.function {
            Binary::Add => pairs_by(isa, p, |a, b| isa.add(a, b)),
            Binary::Sub => pairs_by(isa, p, |a, b| isa.sub(a, b)),
            Binary::Mul => pairs_by(isa, p, |a, b| isa.mul(a, b)),
            Binary::Div => pairs_by(isa, p, |a, b| isa.div(a, b)),
            Binary::Max => pairs_by(isa, p, |a, b| max_or_nan(isa, a, b)),
            Binary::Min => pairs_by(isa, p, |a, b| min_or_nan(isa, a, b)),
        }
    }
}

/// # Safety
/// As for `pairs`.
#[inline(always)]
unsafe fn pairs_by<I: FloatIsa>(isa: I, p: &Pairs, f: impl Fn(I::V, I::V) -> I::V) {
    // A side of one value is read as a vector of it, again and again.
    // SAFETY: at least one value each, as `n > 0`.
    let (a_same, b_same) = unsafe { ([*p.a; LANES], [*p.b; LANES]) };
    let a = if p.a_step == 0 { a_same.as_ptr() } else { p.a };
    let b = if p.b_step == 0 { b_same.as_ptr() } else { p.b };
    // One place that calls `f`: a function with two of them may not be inlined, and so not compiled for the instruction
    // set.
    for i in (0..p.n).step_by(LANES) {
        let count = LANES.min(p.n - i);
        let (a, b) = (a.wrapping_add(i * p.a_step), b.wrapping_add(i * p.b_step));
        // SAFETY: i + count ≤ n; sides of one value are arrays of 16.
        unsafe {
            let whole = count == LANES;
            let (x, y) =
                if whole { (isa.load(a), isa.load(b)) } else { (isa.load_part(a, count), isa.load_part(b, count)) };
            let y = f(x, y);
            if whole {
                isa.store(p.out.add(i), y);
            } else {
                isa.store_part(p.out.add(i), y, count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_data::{assert_same_bits, random};
    use super::*;

    fn value(o: Operand<'_>, i: usize) -> f32 {
        match o {
            Operand::Full(x) => x[i],
            Operand::Scalar(x) => x,
            Operand::PerColumn(x) => x[i % x.len()],
        }
    }

    #[test]
    fn every_pair_of_sides() {
        for (rows, columns) in [(1, 1), (7, 3), (1, 40), (300, 65), (5, 300), (9000, 2)] {
            let n = rows * columns;
            let (full, other) = (random(n, 1), random(n, 2));
            let (c, d) = (random(columns, 3), random(columns, 4));
            let first = [Operand::Full(&full), Operand::Scalar(0.75), Operand::PerColumn(&c)];
            let second = [Operand::Full(&other), Operand::Scalar(-0.3), Operand::PerColumn(&d)];
            for (function, f) in [
                (Binary::Add, (|a, b| a + b) as fn(f32, f32) -> f32),
                (Binary::Sub, |a, b| a - b),
                (Binary::Mul, |a, b| a * b),
                (Binary::Div, |a, b| a / b),
                (Binary::Max, f32::max),
                (Binary::Min, f32::min),
            ] {
                for (a, b) in first.iter().flat_map(|a| second.iter().map(move |b| (*a, *b))) {
                    let expected: Vec<f32> = (0..n).map(|i| f(value(a, i), value(b, i))).collect();
                    for isa in Isa::available() {
                        let mut out = vec![0.0; n];
                        binary(isa, function, a, b, &mut out, &Threads::new(2));
                        assert_same_bits(&out, &expected, &format!("{isa} {function:?}"));
                        if let Operand::Full(a) = a {
                            let mut x = a.to_vec();
                            binary_in_place(isa, function, &mut x, b, &Threads::new(2));
                            assert_same_bits(&x, &expected, &format!("{isa} {function:?} in place"));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn nan_wins() {
        for isa in Isa::available() {
            for function in [Binary::Max, Binary::Min] {
                let mut out = [0.0; 2];
                let (a, b) = ([f32::NAN, 1.0], [f32::NEG_INFINITY, f32::NAN]);
                binary(isa, function, Operand::Full(&a), Operand::Full(&b), &mut out, &Threads::new(1));
                assert!(out.iter().all(|y| y.is_nan()), "{isa} {function:?}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "are not rows of 3")]
    fn columns_that_do_not_divide_are_refused() {
        let b = Operand::PerColumn(&[1.0; 3]);
        binary(Isa::PORTABLE, Binary::Add, Operand::Scalar(1.0), b, &mut [0.0; 4], &Threads::new(1));
    }
}
