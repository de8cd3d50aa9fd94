//! Softmax on 8-bit codes: equation (8) of `arith`, without a float but the one multiplication of a requantize.

#[cfg(test)]
mod tests;

use quantal_tensor::arith::softmax_multiplier;

use crate::chunks::{for_chunks, rows_per_task};
use crate::eltwise::OutCodes;
use crate::error::{KernelError, check_length};
use crate::gemm::epilogue::clamp_ends;
use crate::pooling::{Round, round_sums};
use crate::{Isa, Threads};

/// Softmax over each row of `[rows, cols]` codes. `table` is `arith::softmax_table(s_x)`; the zero point of x does not
/// matter.
///
/// # Errors
/// If a slice is shorter than the dimensions say, or a zero point or range of codes does not fit 8 bits.
pub fn softmax(
    isa: Isa,
    table: &[u32; 256],
    x: &[u8],
    signed: bool,
    cols: usize,
    scale_y: f32,
    y: OutCodes,
    out: &mut [u8],
    threads: &Threads,
) -> Result<(), KernelError> {
    let (lo, hi) = clamp_ends(y.zero_point, y.qmin, y.qmax)?;
    check_length("the output", out.len(), x.len())?;
    if cols == 0 || !x.len().is_multiple_of(cols) {
        return if x.is_empty() {
            Ok(())
        } else {
            Err(KernelError::Geometry("the input of a softmax is not whole rows"))
        };
    }
    // Entries are at most 2²², so they are i32 as well.
    let terms = table.map(|t| t as i32);
    // Two's complement codes compare as bytes once their sign is flipped, and differences stay what they are.
    let flip = if signed { 0x80 } else { 0 };
    let rows = rows_per_task(x.len() / cols, 4 * cols, threads);
    for_chunks(&mut out[..x.len()], rows * cols, 4 * x.len(), threads, |i, out| {
        for (r, out) in out.chunks_exact_mut(cols).enumerate() {
            let x = &x[(i * rows + r) * cols..][..cols];
            let max = x.iter().map(|&q| q ^ flip).max().unwrap_or(0);
            let sum = x.iter().map(|&q| u64::from(table[usize::from(max - (q ^ flip))])).sum();
            let mut codes = [0; 256];
            let args = Round {
                sums: terms.as_ptr(),
                n: 256,
                add: 0,
                multiplier: softmax_multiplier(sum, scale_y),
                zero_point: y.zero_point,
                lo,
                hi,
                out: codes.as_mut_ptr(),
            };
            // SAFETY: both arrays have 256 elements.
            unsafe { round_sums(isa, &args) }
            for (y, &q) in out.iter_mut().zip(x) {
                *y = codes[usize::from(max - (q ^ flip))];
            }
        }
    });
    Ok(())
}
