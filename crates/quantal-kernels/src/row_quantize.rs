//! Dynamic quantization of each row by itself, equation (11) of `arith`, and what brings products of such rows back.

#[cfg(test)]
mod tests;

use quantal_tensor::arith::row_scale;

use crate::chunks::{for_chunks, rows_per_task};
use crate::error::{KernelError, check_length};
use crate::gemm::epilogue::store_tail;
use crate::simd::{Simd, isa_fn};
use crate::{Isa, Threads};

/// Quantizes each row of `[rows, cols]` floats to u8 codes around 128, one pass for the range and one for the codes.
/// `codes` is `[rows, cols]`, `scales` has one element a row. A NaN gets the zero point.
///
/// # Errors
/// If the lengths do not fit together.
pub fn quantize_rows(
    isa: Isa,
    x: &[f32],
    cols: usize,
    scales: &mut [f32],
    codes: &mut [u8],
    threads: &Threads,
) -> Result<(), KernelError> {
    if x.is_empty() {
        return Ok(());
    }
    if cols == 0 || !x.len().is_multiple_of(cols) {
        return Err(KernelError::Geometry("the input of a quantization by rows is not whole rows"));
    }
    check_length("the codes", codes.len(), x.len())?;
    check_length("the scales", scales.len(), x.len() / cols)?;
    let scales = &mut scales[..x.len() / cols];
    let rows = rows_per_task(scales.len(), 2 * cols, threads);
    for_chunks(scales, rows, 2 * x.len(), threads, |i, scales| {
        for (r, scale) in scales.iter_mut().enumerate() {
            let row = &x[(i * rows + r) * cols..][..cols];
            let mut most = 0.0;
            // SAFETY: the row holds `cols` floats, and `most` is one.
            unsafe { largest(isa, row.as_ptr(), cols, &mut most) };
            *scale = row_scale(most);
        }
    });
    let scales = &*scales;
    for_chunks(&mut codes[..x.len()], rows * cols, 2 * x.len(), threads, |i, codes| {
        for (r, codes) in codes.chunks_exact_mut(cols).enumerate() {
            let row = &x[(i * rows + r) * cols..][..cols];
            // SAFETY: both hold `cols` elements.
            unsafe { round_row(isa, row.as_ptr(), cols, scales[i * rows + r], codes.as_mut_ptr()) };
        }
    });
    Ok(())
}

/// `y = y · scale of its row + bias of its column`, two operations, over `[rows, cols]` floats.
///
/// # Errors
/// If the lengths do not fit together.
pub fn scale_rows(
    isa: Isa,
    y: &mut [f32],
    cols: usize,
    scales: &[f32],
    bias: Option<&[f32]>,
    threads: &Threads,
) -> Result<(), KernelError> {
    if y.is_empty() {
        return Ok(());
    }
    if cols == 0 || !y.len().is_multiple_of(cols) {
        return Err(KernelError::Geometry("the output of a product is not whole rows"));
    }
    check_length("the scales", scales.len(), y.len() / cols)?;
    if let Some(bias) = bias {
        check_length("the bias", bias.len(), cols)?;
    }
    let rows = rows_per_task(y.len() / cols, cols, threads);
    let work = y.len();
    for_chunks(y, rows * cols, work, threads, |i, y| {
        for (r, y) in y.chunks_exact_mut(cols).enumerate() {
            let bias = bias.map_or(std::ptr::null(), <[f32]>::as_ptr);
            // SAFETY: the row and, if there is one, the bias hold `cols` floats.
            unsafe { scale_row(isa, y.as_mut_ptr(), cols, scales[i * rows + r], bias) };
        }
    });
    Ok(())
}

isa_fn! {
    /// The largest magnitude of `n` floats.
    ///
    /// # Safety
    /// `x` is valid for `n` floats.
    unsafe fn largest(x: *const f32, n: usize, most: &mut f32) = largest_body
}

/// # Safety
/// As [`largest`] and [`Simd`].
#[inline(always)]
unsafe fn largest_body<S: Simd>(x: *const f32, n: usize, most: &mut f32) {
    // SAFETY: `largest`'s contract; where fewer than `LANES` floats are left, they go through the stack.
    unsafe {
        let mut lanes = S::splat_f(0.0);
        for i in (0..n).step_by(S::LANES) {
            let mut last = [0.0; 16];
            let mut from = x.add(i);
            if n - i < S::LANES {
                std::ptr::copy_nonoverlapping(from, last.as_mut_ptr(), n - i);
                from = last.as_ptr();
            }
            lanes = S::max_f(S::abs_f(S::load_f(from)), lanes);
        }
        let mut all = [0.0; 16];
        S::store_f(all.as_mut_ptr(), lanes);
        *most = all.into_iter().fold(0.0, f32::max);
    }
}

isa_fn! {
    /// # Safety
    /// `x` and `out` are valid for `n` elements.
    unsafe fn round_row(x: *const f32, n: usize, scale: f32, out: *mut u8) = round_row_body
}

/// # Safety
/// As [`round_row`] and [`Simd`].
#[inline(always)]
unsafe fn round_row_body<S: Simd>(x: *const f32, n: usize, scale: f32, out: *mut u8) {
    // SAFETY: as in `largest_body`.
    unsafe {
        let (scale, lo, hi, zero_point) = (S::splat_f(scale), S::splat_f(-128.0), S::splat_f(127.0), S::splat(128));
        for i in (0..n).step_by(S::LANES) {
            let mut last = [0.0; 16];
            let mut from = x.add(i);
            if n - i < S::LANES {
                std::ptr::copy_nonoverlapping(from, last.as_mut_ptr(), n - i);
                from = last.as_ptr();
            }
            let value = S::zero_nan(S::div_f(S::load_f(from), scale));
            let code = S::add(S::clamp_round(value, lo, hi), zero_point);
            store_tail!(S::LANES, u8, out.add(i), n - i, |p| S::store_bytes(p, code));
        }
    }
}

isa_fn! {
    /// # Safety
    /// `y` and, unless it is null, `bias` are valid for `n` floats.
    unsafe fn scale_row(y: *mut f32, n: usize, scale: f32, bias: *const f32) = scale_row_body
}

/// # Safety
/// As [`scale_row`] and [`Simd`].
#[inline(always)]
unsafe fn scale_row_body<S: Simd>(y: *mut f32, n: usize, scale: f32, bias: *const f32) {
    let whole = n - n % S::LANES;
    // SAFETY: `scale_row`'s contract; the last floats one by one, by the same two operations.
    unsafe {
        let factor = S::splat_f(scale);
        for i in (0..whole).step_by(S::LANES) {
            let mut value = S::mul_f(S::load_f(y.add(i)), factor);
            if !bias.is_null() {
                value = S::add_f(value, S::load_f(bias.add(i)));
            }
            S::store_f(y.add(i), value);
        }
        for i in whole..n {
            let product = *y.add(i) * scale;
            *y.add(i) = if bias.is_null() { product } else { product + *bias.add(i) };
        }
    }
}
