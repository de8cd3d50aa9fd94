//! Softmax on 8-bit codes: equation (8) of `arith`, without a float but the one multiplication of a requantize.

#[cfg(test)]
mod tests;

use quantal_tensor::arith::softmax_multiplier;

use crate::arena::with_scratch;
use crate::chunks::{for_chunks, rows_per_task};
use crate::eltwise::OutCodes;
use crate::error::{KernelError, check_length};
use crate::gemm::epilogue::{clamp_ends, store_tail};
use crate::simd::{Simd, isa_fn, load_code};
use crate::{Isa, Threads};

/// What lies after the last code of a row: far below every code and mask.
const NOTHING: i32 = i32::MIN / 2;
/// So many terms of at most 2²² surely fit one 32-bit lane.
const TERMS_PER_LANE: usize = 256;

/// What is added to the codes of each row first: an attention mask in units of the codes' scale.
#[derive(Clone, Copy)]
pub struct Mask<'a> {
    /// `[m, cols]`, each between −2²⁰ and 2²⁰.
    pub terms: &'a [i32],
    /// For each row of the codes, which of the `m` rows is added.
    pub rows: &'a [u32],
}

/// Softmax over each row of `[rows, cols]` codes. `table` is `arith::softmax_table(s_x)`, or the longer
/// `arith::softmax_mask_table` where there is a mask; the zero point of x does not matter.
///
/// # Errors
/// If a slice is shorter than the dimensions say, the table is shorter than 256, or a zero point or range of codes does
/// not fit 8 bits.
pub fn softmax(
    isa: Isa,
    table: &[u32],
    x: &[u8],
    signed: bool,
    mask: Option<Mask>,
    cols: usize,
    scale_y: f32,
    y: OutCodes,
    out: &mut [u8],
    threads: &Threads,
) -> Result<(), KernelError> {
    let (lo, hi) = clamp_ends(y.zero_point, y.qmin, y.qmax)?;
    check_length("the output", out.len(), x.len())?;
    check_length("the table of a softmax", table.len(), 256)?;
    if x.is_empty() {
        return Ok(());
    }
    if cols == 0 || !x.len().is_multiple_of(cols) {
        return Err(KernelError::Geometry("the input of a softmax is not whole rows"));
    }
    if let Some(mask) = &mask {
        check_length("the rows of a mask", mask.rows.len(), x.len() / cols)?;
        let most = mask.rows.iter().max().map_or(0, |&r| r as usize + 1);
        check_length("the mask", mask.terms.len(), most.saturating_mul(cols))?;
        if mask.terms.iter().any(|t| t.unsigned_abs() > 1 << 20) {
            return Err(KernelError::Geometry("a term of a mask lies outside of what is exact"));
        }
    }
    let padded = cols.next_multiple_of(16);
    let rows = rows_per_task(x.len() / cols, 4 * cols, threads);
    for_chunks(&mut out[..x.len()], rows * cols, 4 * x.len(), threads, |i, out| {
        with_scratch(4 * padded, |terms| {
            for (r, out) in out.chunks_exact_mut(cols).enumerate() {
                let row = i * rows + r;
                let mask = mask.map_or(std::ptr::null(), |m| m.terms[m.rows[row] as usize * cols..][..cols].as_ptr());
                let args = Row {
                    table: table.as_ptr().cast(),
                    last: table.len() as i32 - 1,
                    x: x[row * cols..][..cols].as_ptr(),
                    signed,
                    mask,
                    cols,
                    terms: terms.as_mut_ptr().cast(),
                    scale_y,
                    zero_point: y.zero_point,
                    lo,
                    hi,
                    out: out.as_mut_ptr(),
                };
                // SAFETY: the slices of this row were just taken; scratch holds `cols` rounded up to 16, and mask terms
                // were checked to be small, so a distance is never negative nor overflows.
                unsafe { softmax_row(isa, &args) }
            }
        });
    });
    Ok(())
}

/// One row of a call.
struct Row {
    table: *const i32,
    /// The table's last index.
    last: i32,
    x: *const u8,
    signed: bool,
    /// `cols` terms, or null.
    mask: *const i32,
    cols: usize,
    /// Scratch.
    terms: *mut i32,
    scale_y: f32,
    zero_point: i32,
    lo: f32,
    hi: f32,
    out: *mut u8,
}

isa_fn! {
    /// # Safety
    /// The table holds `last + 1` entries, `x`, `out` and, if it is not null, `mask` hold `cols` elements, `terms` as
    /// many rounded up to 16.
    unsafe fn softmax_row(row: &Row) = softmax_body
}

/// # Safety
/// As [`softmax_row`] and [`Simd`].
#[inline(always)]
unsafe fn softmax_body<S: Simd>(row: &Row) {
    let Row { cols, terms, .. } = *row;
    // SAFETY: `softmax_row`'s contract; where fewer than `LANES` codes are left, they go through the stack.
    unsafe {
        let mut most = S::splat(NOTHING);
        for i in (0..cols).step_by(S::LANES) {
            let value = value::<S>(row, i);
            most = S::max(most, value);
            S::store(terms.add(i), value);
        }
        let most = S::splat(lanes::<S>(most).into_iter().take(S::LANES).max().unwrap_or(0));
        let (last, mut sum) = (S::splat(row.last), 0);
        let block = TERMS_PER_LANE * S::LANES;
        for from in (0..cols).step_by(block) {
            let mut part = S::splat(0);
            for i in (from..cols.min(from + block)).step_by(S::LANES) {
                let distance = S::min(S::minus(most, S::load(terms.add(i))), last);
                let term = S::gather(row.table, distance);
                S::store(terms.add(i), term);
                part = S::add(part, term);
            }
            sum += lanes::<S>(part).iter().take(S::LANES).map(|&t| u64::from(t as u32)).sum::<u64>();
        }
        // Lanes past the end took the last entry.
        let past = (cols.next_multiple_of(S::LANES) - cols) as u64;
        sum -= past * u64::from(*row.table.add(row.last as usize) as u32);
        let multiplier = S::splat_f(softmax_multiplier(sum, row.scale_y));
        let (lo, hi, zero_point) = (S::splat_f(row.lo), S::splat_f(row.hi), S::splat(row.zero_point));
        for i in (0..cols).step_by(S::LANES) {
            let scaled = S::mul_f(S::to_f(S::load(terms.add(i))), multiplier);
            let code = S::add(S::clamp_round(scaled, lo, hi), zero_point);
            store_tail!(S::LANES, u8, row.out.add(i), cols - i, |p| S::store_bytes(p, code));
        }
    }
}

/// The codes from `i` on, with their mask; [`NOTHING`] past the end.
///
/// # Safety
/// As [`softmax_body`].
#[inline(always)]
unsafe fn value<S: Simd>(row: &Row, i: usize) -> S::I {
    let left = row.cols - i;
    // SAFETY: the caller's promise.
    unsafe {
        if left >= S::LANES {
            let codes = load_code::<S>(row.x.add(i), row.signed);
            return if row.mask.is_null() { codes } else { S::add(codes, S::load(row.mask.add(i))) };
        }
        let (mut codes, mut mask) = ([0; 16], [NOTHING; 16]);
        std::ptr::copy_nonoverlapping(row.x.add(i), codes.as_mut_ptr(), left);
        if row.mask.is_null() {
            mask[..left].fill(0);
        } else {
            std::ptr::copy_nonoverlapping(row.mask.add(i), mask.as_mut_ptr(), left);
        }
        S::add(load_code::<S>(codes.as_ptr(), row.signed), S::load(mask.as_ptr()))
    }
}

/// The lanes of a register, the rest 0.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
pub(crate) unsafe fn lanes<S: Simd>(v: S::I) -> [i32; 16] {
    let mut lanes = [0; 16];
    // SAFETY: no register has more than 16 lanes.
    unsafe { S::store(lanes.as_mut_ptr(), v) };
    lanes
}
