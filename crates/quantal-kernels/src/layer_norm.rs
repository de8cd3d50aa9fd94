//! Layer and RMS normalization of 8-bit codes: equation (10) of `arith`, from exact integer moments of each row.

#[cfg(test)]
mod tests;

use quantal_tensor::arith::layer_norm_factor;

use crate::chunks::{for_chunks, rows_per_task};
use crate::eltwise::{Operand, OutCodes};
use crate::error::{KernelError, check_length};
use crate::gemm::epilogue::{clamp_ends, store_tail};
use crate::simd::{Simd, isa_fn, load_code};
use crate::softmax::lanes;
use crate::{Isa, Threads};

/// Most columns: a row's codes times their number fit 32 bits, and their sum as well.
pub const MAX_COLUMNS: usize = 1 << 22;
/// So many squares of at most 255² surely fit one 32-bit lane.
const SQUARES_PER_LANE: usize = 1 << 14;

/// What the moments become.
#[derive(Clone, Copy)]
pub struct LayerNorm<'a> {
    /// The scale of x.
    pub scale_x: f32,
    /// `γ / s_y` of each column.
    pub factor: &'a [f32],
    /// `β / s_y` of each column.
    pub addend: &'a [f32],
    /// Added to the mean square.
    pub epsilon: f32,
    /// Whether the mean stays.
    pub rms: bool,
}

/// Normalizes each row of `[rows, cols]` codes, `cols` being the number of factors.
///
/// # Errors
/// If a slice is shorter than the dimensions say, a row is longer than [`MAX_COLUMNS`], or a zero point or range of codes
/// does not fit 8 bits.
pub fn layer_norm(
    isa: Isa,
    x: Operand,
    norm: LayerNorm,
    y: OutCodes,
    out: &mut [u8],
    threads: &Threads,
) -> Result<(), KernelError> {
    let (lo, hi) = clamp_ends(y.zero_point, y.qmin, y.qmax)?;
    let (n, cols) = (x.codes.len(), norm.factor.len());
    check_length("the output", out.len(), n)?;
    check_length("the addends of a norm", norm.addend.len(), cols)?;
    if n == 0 {
        return Ok(());
    }
    if cols == 0 || cols > MAX_COLUMNS || !n.is_multiple_of(cols) {
        return Err(KernelError::Geometry("the input of a norm is not whole rows, or they are too long"));
    }
    if !(-128..=255).contains(&x.zero_point) {
        return Err(KernelError::Geometry("a zero point or range of codes does not fit 8 bits"));
    }
    let rows = rows_per_task(n / cols, 4 * cols, threads);
    for_chunks(&mut out[..n], rows * cols, 4 * n, threads, |i, out| {
        for (r, out) in out.chunks_exact_mut(cols).enumerate() {
            let args = Row {
                x: x.codes[(i * rows + r) * cols..][..cols].as_ptr(),
                signed: x.signed,
                x_zero: x.zero_point,
                cols,
                scale_x: norm.scale_x,
                epsilon: norm.epsilon,
                rms: norm.rms,
                factor: norm.factor.as_ptr(),
                addend: norm.addend.as_ptr(),
                zero_point: y.zero_point,
                lo,
                hi,
                out: out.as_mut_ptr(),
            };
            // SAFETY: `x` and `out` were just sliced to `cols` codes; as many factors and addends were checked.
            unsafe { norm_row(isa, &args) }
        }
    });
    Ok(())
}

/// One row of a call.
struct Row {
    x: *const u8,
    signed: bool,
    x_zero: i32,
    cols: usize,
    scale_x: f32,
    epsilon: f32,
    rms: bool,
    factor: *const f32,
    addend: *const f32,
    zero_point: i32,
    lo: f32,
    hi: f32,
    out: *mut u8,
}

isa_fn! {
    /// # Safety
    /// All pointers are valid for `cols` elements.
    unsafe fn norm_row(row: &Row) = norm_body
}

/// # Safety
/// As [`norm_row`] and [`Simd`].
#[inline(always)]
unsafe fn norm_body<S: Simd>(row: &Row) {
    let cols = row.cols;
    let whole = cols - cols % S::LANES;
    // SAFETY: `norm_row`'s contract; where fewer than `LANES` columns are left, they go through the stack.
    unsafe {
        let neg_zero = S::splat(-row.x_zero);
        // Past the end lies the zero point, which adds nothing.
        let mut last = [row.x_zero as u8; 16];
        std::ptr::copy_nonoverlapping(row.x.add(whole), last.as_mut_ptr(), cols - whole);
        let (mut sum, mut squares) = (0, 0);
        let block = SQUARES_PER_LANE * S::LANES;
        for from in (0..cols).step_by(block) {
            let (mut s, mut s2) = (S::splat(0), S::splat(0));
            for i in (from..cols.min(from + block)).step_by(S::LANES) {
                let x = if i < whole { row.x.add(i) } else { last.as_ptr() };
                let q = S::add(load_code::<S>(x, row.signed), neg_zero);
                s = S::add(s, q);
                s2 = S::add(s2, S::mul(q, q));
            }
            sum += lanes::<S>(s).iter().take(S::LANES).map(|&q| i64::from(q)).sum::<i64>();
            squares += lanes::<S>(s2).iter().take(S::LANES).map(|&q| i64::from(q)).sum::<i64>();
        }
        let sum = if row.rms { 0 } else { sum };
        let (count, neg_sum) = (S::splat(cols as i32), S::splat(-sum as i32));
        let a = S::splat_f(layer_norm_factor(sum, squares, cols, row.scale_x, row.epsilon));
        let (lo, hi, zero_point) = (S::splat_f(row.lo), S::splat_f(row.hi), S::splat(row.zero_point));
        let (mut last_factor, mut last_addend) = ([0.0; 16], [0.0; 16]);
        std::ptr::copy_nonoverlapping(row.factor.add(whole), last_factor.as_mut_ptr(), cols - whole);
        std::ptr::copy_nonoverlapping(row.addend.add(whole), last_addend.as_mut_ptr(), cols - whole);
        for i in (0..cols).step_by(S::LANES) {
            let (x, factor, addend) = if i < whole {
                (row.x.add(i), row.factor.add(i), row.addend.add(i))
            } else {
                (last.as_ptr(), last_factor.as_ptr(), last_addend.as_ptr())
            };
            let q = S::add(load_code::<S>(x, row.signed), neg_zero);
            let from_mean = S::to_f(S::add(S::mul(q, count), neg_sum));
            let scaled = S::mul_f(S::mul_f(from_mean, a), S::load_f(factor));
            let value = S::zero_nan(S::add_f(scaled, S::load_f(addend)));
            let code = S::add(S::clamp_round(value, lo, hi), zero_point);
            store_tail!(S::LANES, u8, row.out.add(i), cols - i, |p| S::store_bytes(p, code));
        }
    }
}
