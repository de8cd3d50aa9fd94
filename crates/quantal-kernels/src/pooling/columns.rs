//! Sums and means over one axis.

use quantal_tensor::arith::mean_multiplier;

use super::{MAX_MEAN, Round, WIDEST, add_codes, round_sums, with_sums};
use crate::chunks::for_chunks;
use crate::eltwise::OutCodes;
use crate::error::{KernelError, check_length};
use crate::gemm::epilogue::clamp_ends;
use crate::simd::{Bytes, isa_fn};
use crate::{Isa, Threads};

/// The mean over the middle axis of `[outer, reduced, inner]` codes by equation (5) of `arith`. A global average pool
/// has the images as `outer`, their pixels as `reduced` and the channels as `inner`. `scales` are those of x and y.
///
/// # Errors
/// If a slice is shorter than the dimensions say, or the sum of `reduced` codes may not fit 32 bits.
pub fn mean(
    isa: Isa,
    x: &[u8],
    signed: bool,
    x_zero_point: i32,
    [outer, reduced, inner]: [usize; 3],
    scales: [f32; 2],
    y: OutCodes,
    out: &mut [u8],
    threads: &Threads,
) -> Result<(), KernelError> {
    let (lo, hi) = clamp_ends(y.zero_point, y.qmin, y.qmax)?;
    let multiplier = mean_multiplier(scales[0], scales[1], reduced.max(1));
    check_reduction(x.len(), out.len(), [outer, reduced, inner])?;
    let chunk = piece(inner);
    let work = outer * reduced * inner;
    for_chunks(&mut out[..outer * inner], chunk, work, threads, |i, out| {
        with_sums(out.len(), |sums| {
            sum_piece(isa, x, signed, [reduced, inner], i * chunk, sums);
            let args = Round {
                sums: sums.as_ptr(),
                n: out.len(),
                add: (reduced as i32).wrapping_mul(-x_zero_point),
                multiplier,
                zero_point: y.zero_point,
                lo,
                hi,
                out: out.as_mut_ptr(),
            };
            // SAFETY: `sums` and `out` have the same length.
            unsafe { round_sums(isa, &args) }
        });
    });
    Ok(())
}

/// `Σ (x − z_x)` over the middle axis of `[outer, reduced, inner]` codes.
///
/// # Errors
/// As [`mean`].
pub fn sum(
    isa: Isa,
    x: &[u8],
    signed: bool,
    x_zero_point: i32,
    [outer, reduced, inner]: [usize; 3],
    out: &mut [i32],
    threads: &Threads,
) -> Result<(), KernelError> {
    check_reduction(x.len(), out.len(), [outer, reduced, inner])?;
    let chunk = piece(inner);
    for_chunks(&mut out[..outer * inner], chunk, outer * reduced * inner, threads, |i, out| {
        sum_piece(isa, x, signed, [reduced, inner], i * chunk, out);
        let offset = (reduced as i32).wrapping_mul(x_zero_point);
        for s in out {
            *s -= offset;
        }
    });
    Ok(())
}

fn check_reduction(x: usize, out: usize, [outer, reduced, inner]: [usize; 3]) -> Result<(), KernelError> {
    if reduced > MAX_MEAN {
        return Err(KernelError::TooDeep { k: reduced, most: MAX_MEAN });
    }
    let kept = outer.saturating_mul(inner);
    check_length("the input", x, kept.saturating_mul(reduced))?;
    check_length("the output", out, kept)
}

/// Outputs in one task: a divisor of `inner` where that is large, or else any number of whole rows.
fn piece(inner: usize) -> usize {
    const WIDE: usize = 256;
    if inner <= WIDE {
        inner.max(1)
    } else {
        (1..=WIDE).rev().find(|&d| inner.is_multiple_of(d)).filter(|&d| d >= 64).unwrap_or(inner)
    }
}

/// Sums of outputs `from..from + sums.len()`, which lie in one `[reduced, inner]` slab.
fn sum_piece(isa: Isa, x: &[u8], signed: bool, [reduced, inner]: [usize; 2], from: usize, sums: &mut [i32]) {
    let (slab, column) = (from / inner, from % inner);
    let x = &x[slab * reduced * inner..(slab + 1) * reduced * inner];
    if inner == 1 {
        sums[0] =
            if signed { x.iter().map(|&q| i32::from(q as i8)).sum() } else { x.iter().map(|&q| i32::from(q)).sum() };
        return;
    }
    let n = sums.len();
    // Rows that are narrower than a register are taken several at a time, and their sums added.
    if inner < WIDEST && WIDEST.is_multiple_of(inner) && reduced * inner >= 4 * WIDEST {
        let (whole, mut wide) = (x.len() / WIDEST, [0; WIDEST]);
        // SAFETY: `x` holds `whole` rows of `WIDEST` codes.
        unsafe { add_columns(isa, x.as_ptr(), whole, WIDEST, WIDEST, signed, wide.as_mut_ptr()) }
        for (j, sum) in sums.iter_mut().enumerate() {
            let rest = x[whole * WIDEST..].iter().skip(j).step_by(inner);
            let rest = rest.map(|&q| if signed { i32::from(q as i8) } else { i32::from(q) });
            *sum = wide.iter().skip(j).step_by(inner).copied().chain(rest).sum();
        }
    } else if n >= WIDEST {
        // SAFETY: `x` holds `reduced` rows of `inner` codes, of which `n` from `column` on are summed.
        unsafe { add_columns(isa, x[column..].as_ptr(), reduced, inner, n, signed, sums.as_mut_ptr()) }
    } else {
        sums.fill(0);
        for row in x.chunks_exact(inner) {
            // SAFETY: the slice holds `sums.len()` codes.
            unsafe { add_codes(isa, sums.as_mut_ptr(), row[column..][..n].as_ptr(), n, signed) }
        }
    }
}

isa_fn! {
    /// `sums[j] = Σ x[r·ld + j]` over `rows` rows, for `cols` columns.
    ///
    /// # Safety
    /// `x` is valid for the rows and `sums` for `cols` elements, at least [`WIDEST`].
    unsafe fn add_columns(x: *const u8, rows: usize, ld: usize, cols: usize, signed: bool, sums: *mut i32) = add_columns_body
}

/// A register of columns at a time, in 16 bits for as long as they hold the sum.
///
/// # Safety
/// As [`add_columns`] and [`Bytes`].
#[inline(always)]
unsafe fn add_columns_body<S: Bytes>(x: *const u8, rows: usize, ld: usize, cols: usize, signed: bool, sums: *mut i32) {
    /// 257 · 255 is the largest sum that fits.
    const MOST: usize = 256;
    let size = 4 * S::LANES;
    let mut next = 0;
    while next < cols {
        // The last register overlaps the one before.
        let col = next.min(cols - size);
        next += size;
        let mut totals = [[0; 16]; 4];
        // SAFETY: the caller's promise; each register lies in its row, and `totals` holds whole registers.
        unsafe {
            let (zero, flip) = (S::splat(0), S::splat8(if signed { 0x80 } else { 0 }));
            let mut total = [zero; 4];
            for first in (0..rows).step_by(MOST) {
                let (mut low, mut high) = (zero, zero);
                for r in first..rows.min(first + MOST) {
                    let (a, b) = S::unpack8(S::xor(S::load(x.add(r * ld + col).cast()), flip), zero);
                    // Two sums of 16 bits in each lane, neither of which carries.
                    (low, high) = (S::add(low, a), S::add(high, b));
                }
                let ((a, b), (c, d)) = (S::unpack16(low, zero), S::unpack16(high, zero));
                total = [S::add(total[0], a), S::add(total[1], b), S::add(total[2], c), S::add(total[3], d)];
            }
            S::store(totals[0].as_mut_ptr(), total[0]);
            S::store(totals[1].as_mut_ptr(), total[1]);
            S::store(totals[2].as_mut_ptr(), total[2]);
            S::store(totals[3].as_mut_ptr(), total[3]);
            let offset = if signed { -128 * rows as i32 } else { 0 };
            for (v, total) in totals.iter().enumerate() {
                for (i, &sum) in total[..S::LANES].iter().enumerate() {
                    // The order in which unpacking leaves the columns.
                    *sums.add(col + 16 * (i / 4) + 4 * v + i % 4) = sum + offset;
                }
            }
        }
    }
}
