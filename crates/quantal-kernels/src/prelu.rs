//! PRelu of codes: a multiplier for what is above 0, and one for each column for what is below.

use crate::chunks::{for_chunks, rows_per_task};
use crate::eltwise::OutCodes;
use crate::error::{KernelError, check_length};
use crate::simd::{Simd, isa_fn, load_code};
use crate::{Isa, Threads};
use quantal_tensor::arith;

/// Codes `x`, as rows of as many columns as there are slopes.
#[derive(Clone, Copy, Debug)]
pub struct PRelu<'a> {
    /// The codes.
    pub x: &'a [u8],
    /// Whether they are s8 rather than u8.
    pub signed: bool,
    /// Their zero point.
    pub zero_point: i32,
    /// The multiplier `s_x / s_y` of positive values.
    pub positive: f32,
    /// The multiplier `s_x · slope / s_y` of negative values, for each column.
    pub negative: &'a [f32],
}

/// Elements in one task where a row is longer.
const PIECE: usize = 1 << 14;

/// `out = round((x − z) · m)` by equation (3) of `arith`, with `m` chosen by the sign of `x − z`.
///
/// # Errors
/// If there are no slopes, the codes are no whole number of rows or `out` is shorter than they are.
pub fn prelu(isa: Isa, call: PRelu, y: OutCodes, out: &mut [u8], threads: &Threads) -> Result<(), KernelError> {
    let (len, cols) = (call.x.len(), call.negative.len());
    if cols == 0 || !len.is_multiple_of(cols) {
        return Err(KernelError::Geometry("the slopes of a PRelu do not divide its input"));
    }
    check_length("the output", out.len(), len)?;

    if cols > PIECE {
        for (row, out) in out[..len].chunks_mut(cols).enumerate() {
            for_chunks(out, PIECE, cols, threads, |i, out| {
                let first = i * PIECE;
                let x = &call.x[row * cols + first..][..out.len()];
                rows(isa, &PRelu { x, negative: &call.negative[first..][..out.len()], ..call }, y, out);
            });
        }
        return Ok(());
    }

    let piece = rows_per_task(len / cols, cols, threads) * cols;
    for_chunks(&mut out[..len], piece, len, threads, |i, out| {
        rows(isa, &PRelu { x: &call.x[i * piece..][..out.len()], ..call }, y, out);
    });
    Ok(())
}

fn rows(isa: Isa, call: &PRelu, y: OutCodes, out: &mut [u8]) {
    assert_eq!(call.x.len(), out.len());
    assert!(call.x.len().is_multiple_of(call.negative.len()));
    // SAFETY: both slices hold the same whole number of rows.
    unsafe { all_rows(isa, call, y, out.as_mut_ptr()) }
}

isa_fn! {
    /// # Safety
    /// `call.x` is a whole number of rows, and `out` is valid for as many bytes.
    unsafe fn all_rows(call: &PRelu, y: OutCodes, out: *mut u8) = all_rows_body
}

/// # Safety
/// As [`all_rows`] and [`Simd`].
#[inline(always)]
unsafe fn all_rows_body<S: Simd>(call: &PRelu, y: OutCodes, out: *mut u8) {
    let cols = call.negative.len();
    for first in (0..call.x.len()).step_by(cols) {
        // A last register overlaps the one before it rather than being partial.
        let mut col = 0;
        while cols >= S::LANES && col < cols {
            let at = col.min(cols - S::LANES);
            // SAFETY: `at + LANES` is within the row, in the codes, the slopes and the output.
            unsafe { register::<S>(call, y, first, at, out) }
            col += S::LANES;
        }
        for (at, &m) in call.negative.iter().enumerate().skip(col) {
            let byte = call.x[first + at];
            let code = if call.signed { i32::from(byte as i8) } else { i32::from(byte) };
            let real = code - call.zero_point;
            let m = if real < 0 { m } else { call.positive };
            let code = arith::requantize(real, m, y.zero_point, y.qmin, y.qmax);
            // SAFETY: the output holds as many bytes as the codes.
            unsafe { out.add(first + at).write(code as u8) }
        }
    }
}

/// # Safety
/// As [`Simd`], and `LANES` codes lie from column `at` on in the row that begins at `first`.
#[inline(always)]
unsafe fn register<S: Simd>(call: &PRelu, y: OutCodes, first: usize, at: usize, out: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe {
        let (x, zero) = (call.x.as_ptr().add(first + at), S::splat(0));
        let real = S::minus(load_code::<S>(x, call.signed), S::splat(call.zero_point));
        // One of the two products is 0, so their sum is the other, exactly.
        let above = S::mul_f(S::to_f(S::max(real, zero)), S::splat_f(call.positive));
        let below = S::mul_f(S::to_f(S::min(real, zero)), S::load_f(call.negative.as_ptr().add(at)));
        let (lo, hi) = ((y.qmin - y.zero_point) as f32, (y.qmax - y.zero_point) as f32);
        let code = S::clamp_round(S::add_f(above, below), S::splat_f(lo), S::splat_f(hi));
        S::store_bytes(out.add(first + at), S::add(code, S::splat(y.zero_point)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_every_column_is_the_one_of_arith() {
        for isa in Isa::available() {
            for (signed, zero_point) in [(false, 100), (true, -7)] {
                for cols in [1, 3, 8, 16, 31, 64, 100, 20_000] {
                    let rows = if cols > 1000 { 2 } else { 37 };
                    let x: Vec<u8> = (0..rows * cols).map(|i| (i * 37 + i / 251) as u8).collect();
                    let negative: Vec<f32> = (0..cols).map(|c| (c % 13) as f32 * 0.11 - 0.4).collect();
                    let call = PRelu { x: &x, signed, zero_point, positive: 0.83, negative: &negative };
                    let y = OutCodes { zero_point: 20, qmin: 0, qmax: 255 };
                    let mut out = vec![0; x.len()];
                    prelu(isa, call, y, &mut out, &Threads::new(3)).unwrap();
                    for (i, (&x, &out)) in x.iter().zip(&out).enumerate() {
                        let real = if signed { i32::from(x as i8) } else { i32::from(x) } - zero_point;
                        let m = if real < 0 { negative[i % cols] } else { 0.83 };
                        assert_eq!(i32::from(out), arith::requantize(real, m, 20, 0, 255), "{isa}: {cols} at {i}");
                    }
                }
            }
        }
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        let y = OutCodes { zero_point: 0, qmin: 0, qmax: 255 };
        let call = PRelu { x: &[0; 6], signed: false, zero_point: 0, positive: 1.0, negative: &[0.5; 4] };
        assert!(prelu(Isa::PORTABLE, call, y, &mut [0; 6], &Threads::new(1)).is_err());
        let call = PRelu { negative: &[0.5; 3], ..call };
        assert!(prelu(Isa::PORTABLE, call, y, &mut [0; 5], &Threads::new(1)).is_err());
        let call = PRelu { negative: &[], ..call };
        assert!(prelu(Isa::PORTABLE, call, y, &mut [0; 6], &Threads::new(1)).is_err());
    }
}
