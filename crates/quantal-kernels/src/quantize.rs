//! Between floats and codes: equations (1), (2) and (9) of `arith` over slices.

#[cfg(test)]
mod tests;

use quantal_tensor::arith;

use crate::chunks::for_chunks;
use crate::eltwise::OutCodes;
use crate::error::{KernelError, check_length};
use crate::gemm::epilogue::{clamp_ends, store_tail};
use crate::pooling::{Round, round_sums};
use crate::simd::{Simd, isa_fn, load_code};
use crate::transpose::{MAX_PLANES, interleave};
use crate::{Isa, Threads};

/// Elements in one task.
const CHUNK: usize = 1 << 13;

/// Quantizes floats to 8-bit codes of one scale: equation (1).
///
/// # Errors
/// If `out` is shorter than `x`, or a zero point or range of codes does not fit 8 bits.
pub fn quantize(
    isa: Isa,
    x: &[f32],
    scale: f32,
    y: OutCodes,
    out: &mut [u8],
    threads: &Threads,
) -> Result<(), KernelError> {
    let (lo, hi) = clamp_ends(y.zero_point, y.qmin, y.qmax)?;
    check_length("the output", out.len(), x.len())?;
    for_chunks(&mut out[..x.len()], CHUNK, 4 * x.len(), threads, |i, out| {
        let x = &x[i * CHUNK..][..out.len()];
        let args = Floats { x: x.as_ptr(), n: x.len(), scale, zero_point: y.zero_point, lo, hi, out: out.as_mut_ptr() };
        // SAFETY: `x` and `out` both hold `n` elements.
        unsafe { quantize_span(isa, &args) }
    });
    Ok(())
}

/// Most channels that [`quantize_interleaved`] takes.
pub const MAX_INTERLEAVED: usize = MAX_PLANES;
/// Pixels in one task of [`quantize_interleaved`].
const PIXELS: usize = 1 << 10;

/// Quantizes images `[batch, channels, pixels]` to 8-bit codes of one scale that lie `[batch, pixels, channels]`:
/// equation (1), and the move to channels-last with it.
///
/// # Errors
/// As [`quantize`], or if there are more than [`MAX_INTERLEAVED`] channels.
pub fn quantize_interleaved(
    isa: Isa,
    x: &[f32],
    [batch, channels, pixels]: [usize; 3],
    scale: f32,
    y: OutCodes,
    out: &mut [u8],
    threads: &Threads,
) -> Result<(), KernelError> {
    let (lo, hi) = clamp_ends(y.zero_point, y.qmin, y.qmax)?;
    let size = channels.saturating_mul(pixels);
    let n = batch.saturating_mul(size);
    check_length("the input", x.len(), n)?;
    check_length("the output", out.len(), n)?;
    if channels > MAX_INTERLEAVED {
        return Err(KernelError::Geometry("an image has too many channels to interleave"));
    }
    if n == 0 {
        return Ok(());
    }
    for (x, out) in x[..n].chunks_exact(size).zip(out[..n].chunks_exact_mut(size)) {
        for_chunks(out, PIXELS * channels, 4 * size, threads, |i, out| {
            let count = out.len() / channels;
            if channels == 3 {
                let x = [0, 1, 2].map(|c| x[c * pixels + i * PIXELS..][..count].as_ptr());
                let (zero_point, out) = (y.zero_point, out.as_mut_ptr());
                // SAFETY: each of `x` holds `count` floats, and `out` three bytes for each.
                unsafe { quantize_triples(isa, x, &Floats { x: x[0], n: count, scale, zero_point, lo, hi, out }) }
                return;
            }
            let mut planes = [[0; PIXELS]; MAX_PLANES];
            for (c, plane) in planes[..channels].iter_mut().enumerate() {
                let x = &x[c * pixels + i * PIXELS..][..count];
                let (zero_point, out) = (y.zero_point, plane.as_mut_ptr());
                let args = Floats { x: x.as_ptr(), n: count, scale, zero_point, lo, hi, out };
                // SAFETY: `x` holds `count` elements, and so does a plane: a task has at most `PIXELS` of them.
                unsafe { quantize_span(isa, &args) }
            }
            let planes = planes.each_ref().map(|plane| &plane[..count]);
            interleave(&planes[..channels], out);
        });
    }
    Ok(())
}

/// Quantizes `[outer, channels, inner]` floats with a scale for each channel, and one zero point or one for each.
///
/// # Errors
/// As [`quantize`], or if there are fewer scales than channels.
pub fn quantize_channels(
    isa: Isa,
    x: &[f32],
    [outer, channels, inner]: [usize; 3],
    scales: &[f32],
    zero_points: &[i32],
    [qmin, qmax]: [i32; 2],
    out: &mut [u8],
    threads: &Threads,
) -> Result<(), KernelError> {
    let n = check_channels(x.len(), out.len(), [outer, channels, inner], scales.len(), zero_points.len())?;
    for &z in zero_points {
        clamp_ends(z, qmin, qmax)?;
    }
    for_chunks(&mut out[..n], inner, 4 * n, threads, |row, out| {
        let c = row % channels;
        let zero_point = if zero_points.len() == 1 { zero_points[0] } else { zero_points[c] };
        let (lo, hi) = ((qmin - zero_point) as f32, (qmax - zero_point) as f32);
        let x = &x[row * inner..][..inner];
        let args = Floats { x: x.as_ptr(), n: inner, scale: scales[c], zero_point, lo, hi, out: out.as_mut_ptr() };
        // SAFETY: `x` and `out` both hold `inner` elements.
        unsafe { quantize_span(isa, &args) }
    });
    Ok(())
}

fn check_channels(
    x: usize,
    out: usize,
    [outer, channels, inner]: [usize; 3],
    scales: usize,
    zero_points: usize,
) -> Result<usize, KernelError> {
    let n = outer.checked_mul(channels).and_then(|v| v.checked_mul(inner)).unwrap_or(usize::MAX);
    check_length("the input", x, n)?;
    check_length("the output", out, n)?;
    check_length("the scales", scales, channels)?;
    check_length("the zero points", zero_points, if zero_points == 1 { 1 } else { channels })?;
    Ok(n)
}

struct Floats {
    x: *const f32,
    n: usize,
    scale: f32,
    zero_point: i32,
    lo: f32,
    hi: f32,
    out: *mut u8,
}

isa_fn! {
    /// # Safety
    /// `x` and `out` are valid for `n` elements.
    unsafe fn quantize_span(args: &Floats) = quantize_body
}

/// # Safety
/// As [`quantize_span`] and [`Simd`].
#[inline(always)]
unsafe fn quantize_body<S: Simd>(args: &Floats) {
    for i in (0..args.n).step_by(S::LANES) {
        let left = args.n - i;
        // SAFETY: `quantize_span`'s contract.
        unsafe {
            let code = codes::<S>(args, args.x.add(i), left);
            store_tail!(S::LANES, u8, args.out.add(i), left, |p| S::store_bytes(p, code));
        }
    }
}

isa_fn! {
    /// Three planes to the codes of pixels.
    ///
    /// # Safety
    /// Each of `x` is valid for `n` elements, and `out` for three times as many.
    unsafe fn quantize_triples(x: [*const f32; 3], args: &Floats) = quantize_triples_body
}

/// # Safety
/// As [`quantize_triples`] and [`Simd`].
#[inline(always)]
unsafe fn quantize_triples_body<S: Simd>(x: [*const f32; 3], args: &Floats) {
    for i in (0..args.n).step_by(S::LANES) {
        let left = args.n - i;
        // SAFETY: `quantize_triples`' contract; a last part is copied from the stack.
        unsafe {
            let [a, b, c] = x;
            let pixels =
                [codes::<S>(args, a.add(i), left), codes::<S>(args, b.add(i), left), codes::<S>(args, c.add(i), left)];
            let (to, mut last) = (args.out.add(3 * i), [0; 48]);
            if left < S::LANES {
                S::store_triples(last.as_mut_ptr(), pixels);
                std::ptr::copy_nonoverlapping(last.as_ptr(), to, 3 * left);
            } else {
                S::store_triples(to, pixels);
            }
        }
    }
}

/// The codes of a register of floats, of which `left` are there.
///
/// # Safety
/// As [`Simd`]; `from` is valid for `left` floats.
#[inline(always)]
unsafe fn codes<S: Simd>(args: &Floats, mut from: *const f32, left: usize) -> S::I {
    // SAFETY: the caller's promise; a last part is copied to the stack.
    unsafe {
        let mut last = [0.0; 16];
        if left < S::LANES {
            std::ptr::copy_nonoverlapping(from, last.as_mut_ptr(), left);
            from = last.as_ptr();
        }
        let steps = S::zero_nan(S::div_f(S::load_f(from), S::splat_f(args.scale)));
        let code = S::clamp_round(steps, S::splat_f(args.lo), S::splat_f(args.hi));
        S::add(code, S::splat(args.zero_point))
    }
}

/// Turns 8-bit codes of one scale back to floats: equation (2).
///
/// # Errors
/// If `out` is shorter than `x`.
pub fn dequantize(
    isa: Isa,
    x: &[u8],
    signed: bool,
    scale: f32,
    zero_point: i32,
    out: &mut [f32],
    threads: &Threads,
) -> Result<(), KernelError> {
    check_length("the output", out.len(), x.len())?;
    for_chunks(&mut out[..x.len()], CHUNK, 2 * x.len(), threads, |i, out| {
        let x = &x[i * CHUNK..][..out.len()];
        let args = Codes { x: x.as_ptr(), n: x.len(), signed, scale, zero_point, out: out.as_mut_ptr() };
        // SAFETY: `x` and `out` both hold `n` elements.
        unsafe { dequantize_span(isa, &args) }
    });
    Ok(())
}

/// Turns `[outer, channels, inner]` codes back to floats with a scale for each channel, and one zero point or one for
/// each.
///
/// # Errors
/// If `out` is shorter than `x`, or there are fewer scales than channels.
pub fn dequantize_channels(
    isa: Isa,
    x: &[u8],
    signed: bool,
    [outer, channels, inner]: [usize; 3],
    scales: &[f32],
    zero_points: &[i32],
    out: &mut [f32],
    threads: &Threads,
) -> Result<(), KernelError> {
    let n = check_channels(x.len(), out.len(), [outer, channels, inner], scales.len(), zero_points.len())?;
    for_chunks(&mut out[..n], inner, 2 * n, threads, |row, out| {
        let c = row % channels;
        let zero_point = if zero_points.len() == 1 { zero_points[0] } else { zero_points[c] };
        let x = &x[row * inner..][..inner];
        let args = Codes { x: x.as_ptr(), n: inner, signed, scale: scales[c], zero_point, out: out.as_mut_ptr() };
        // SAFETY: `x` and `out` both hold `inner` elements.
        unsafe { dequantize_span(isa, &args) }
    });
    Ok(())
}

struct Codes {
    x: *const u8,
    n: usize,
    signed: bool,
    scale: f32,
    zero_point: i32,
    out: *mut f32,
}

isa_fn! {
    /// # Safety
    /// `x` and `out` are valid for `n` elements.
    unsafe fn dequantize_span(args: &Codes) = dequantize_body
}

/// # Safety
/// As [`dequantize_span`] and [`Simd`].
#[inline(always)]
unsafe fn dequantize_body<S: Simd>(args: &Codes) {
    for i in (0..args.n).step_by(S::LANES) {
        let left = args.n - i;
        // SAFETY: `dequantize_span`'s contract; a last part is copied to and from the stack.
        unsafe {
            let mut last = [0; 16];
            let mut from = args.x.add(i);
            if left < S::LANES {
                std::ptr::copy_nonoverlapping(from, last.as_mut_ptr(), left);
                from = last.as_ptr();
            }
            let centred = S::add(load_code::<S>(from, args.signed), S::splat(args.zero_point.wrapping_neg()));
            let x = S::mul_f(S::splat_f(args.scale), S::to_f(centred));
            store_tail!(S::LANES, f32, args.out.add(i), left, |p| S::store_f(p, x));
        }
    }
}

/// Turns accumulators to 8-bit codes by equation (3).
///
/// # Errors
/// As [`quantize`].
pub fn requantize(
    isa: Isa,
    sums: &[i32],
    multiplier: f32,
    y: OutCodes,
    out: &mut [u8],
    threads: &Threads,
) -> Result<(), KernelError> {
    let (lo, hi) = clamp_ends(y.zero_point, y.qmin, y.qmax)?;
    check_length("the output", out.len(), sums.len())?;
    for_chunks(&mut out[..sums.len()], CHUNK, 2 * sums.len(), threads, |i, out| {
        let sums = &sums[i * CHUNK..][..out.len()];
        let (n, zero_point, out) = (sums.len(), y.zero_point, out.as_mut_ptr());
        let args = Round { sums: sums.as_ptr(), n, add: 0, multiplier, zero_point, lo, hi, out };
        // SAFETY: `sums` and `out` both hold `n` elements.
        unsafe { round_sums(isa, &args) }
    });
    Ok(())
}

/// The smallest and the largest of `x`, NaN left out; `(0, 0)` if there are none.
pub fn min_max(isa: Isa, x: &[f32], threads: &Threads) -> (f32, f32) {
    let mut ends = vec![(f32::INFINITY, f32::NEG_INFINITY); x.len().div_ceil(CHUNK)];
    for_chunks(&mut ends, 1, x.len(), threads, |i, end| {
        let x = &x[i * CHUNK..x.len().min((i + 1) * CHUNK)];
        // SAFETY: `x` is valid for its length.
        unsafe { min_max_span(isa, x.as_ptr(), x.len(), &mut end[0]) }
    });
    let (min, max) = ends.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |a, b| (a.0.min(b.0), a.1.max(b.1)));
    if min <= max { (min, max) } else { (0.0, 0.0) }
}

isa_fn! {
    /// # Safety
    /// `x` is valid for `n` elements.
    unsafe fn min_max_span(x: *const f32, n: usize, ends: &mut (f32, f32)) = min_max_body
}

/// Plain loops over 16 lanes, which the compiler turns into registers.
///
/// # Safety
/// As [`min_max_span`].
#[inline(always)]
unsafe fn min_max_body<S: Simd>(x: *const f32, n: usize, ends: &mut (f32, f32)) {
    // SAFETY: the caller's promise.
    let x = unsafe { std::slice::from_raw_parts(x, n) };
    let (mut low, mut high) = ([f32::INFINITY; 16], [f32::NEG_INFINITY; 16]);
    for x in x.chunks(16) {
        for ((&x, low), high) in x.iter().zip(&mut low).zip(&mut high) {
            *low = if x < *low { x } else { *low };
            *high = if x > *high { x } else { *high };
        }
    }
    *ends = (low.into_iter().fold(ends.0, f32::min), high.into_iter().fold(ends.1, f32::max));
}

/// Quantizes floats to u8 codes with the scale and zero point of their own range, by equation (9), and gives both.
///
/// # Errors
/// If `out` is shorter than `x`, or the range is not finite.
pub fn quantize_dynamic(isa: Isa, x: &[f32], out: &mut [u8], threads: &Threads) -> Result<(f32, i32), KernelError> {
    let (min, max) = min_max(isa, x, threads);
    let (scale, zero_point) =
        arith::dynamic_qparams(min, max).ok_or(KernelError::Geometry("the range of a tensor is not finite"))?;
    quantize(isa, x, scale, OutCodes { zero_point, qmin: 0, qmax: 255 }, out, threads)?;
    Ok((scale, zero_point))
}
