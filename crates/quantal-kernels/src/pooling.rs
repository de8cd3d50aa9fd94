//! Maxima, means and sums of codes, channels-last.

mod columns;
#[cfg(test)]
mod tests;

pub use columns::{mean, sum};

use std::ops::Range;

use quantal_tensor::arith::mean_multiplier;

use crate::arena::with_scratch;
use crate::chunks::{for_chunks, rows_per_task};
use crate::conv::{check_size, check_window};
use crate::eltwise::OutCodes;
use crate::error::{KernelError, check_length};
use crate::gemm::epilogue::{clamp_ends, store_tail};
use crate::simd::{Bytes, Simd, isa_fn};
use crate::{ConvGeometry, Isa, Threads};

/// The most codes whose sum surely fits an i32.
pub const MAX_MEAN: usize = i32::MAX as usize / 255;

/// How many elements a mean divides by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Divisor {
    /// Those inside the image.
    Inside,
    /// Those inside the image and its padding.
    Padded,
}

/// Elements of the output, if the window and the slices are sound.
fn check(g: &ConvGeometry, x: usize, out: usize) -> Result<usize, KernelError> {
    check_window(g)?;
    if g.c_in != g.c_out {
        return Err(KernelError::Geometry("a pool has as many channels at its end as at its start"));
    }
    let (elements, pixels) = check_size(g)?;
    check_length("the input", x, elements)?;
    check_length("the output", out, pixels * g.c_in)?;
    Ok(pixels * g.c_in)
}

/// The taps of `axis` at output position `at` that fall in `0..limit`, and the position of tap 0, where `pad` pixels
/// lie before position 0.
fn window_taps(g: &ConvGeometry, axis: usize, at: usize, pad: usize, limit: usize) -> Taps {
    let origin = (at * g.stride[axis]) as isize - pad as isize;
    let d = g.dilation[axis] as isize;
    let clip = |bound: isize| ((bound - origin + d - 1).div_euclid(d)).clamp(0, g.kernel[axis] as isize) as usize;
    (clip(0)..clip(limit as isize).max(clip(0)), origin)
}

/// An output pixel: image, row and column.
type Place = [usize; 3];

/// The output pixels from number `first` on, without a division for each.
fn places(g: &ConvGeometry, first: usize) -> impl Iterator<Item = Place> {
    let (w, h) = (g.w_out, g.h_out);
    let first = [first / (h * w), first / w % h, first % w];
    std::iter::successors(Some(first), move |&[image, py, px]| {
        Some(match (px + 1 == w, py + 1 == h) {
            (false, _) => [image, py, px + 1],
            (true, false) => [image, py + 1, 0],
            (true, true) => [image + 1, 0, 0],
        })
    })
}

/// A row or column of the output: the taps that are inside the image, and the position of tap 0.
type Taps = (Range<usize>, isize);

/// Most rows, and columns, whose taps are found once.
const MOST_TAPS: usize = 1 << 12;

/// The taps of the first rows and columns of the output.
struct Under {
    rows: Vec<Taps>,
    columns: Vec<Taps>,
}

impl Under {
    fn new(g: &ConvGeometry) -> Self {
        let taps = |axis: usize, length: usize| (0..length.min(MOST_TAPS)).map(|at| inside(g, axis, at)).collect();
        Self { rows: taps(0, g.h_out), columns: taps(1, g.w_out) }
    }

    /// Those of a row and a column.
    fn at(&self, g: &ConvGeometry, row: usize, column: usize) -> [Taps; 2] {
        let of = |known: &[Taps], axis, at: usize| known.get(at).cloned().unwrap_or_else(|| inside(g, axis, at));
        [of(&self.rows, 0, row), of(&self.columns, 1, column)]
    }
}

/// The taps inside the image at position `at` of an axis.
fn inside(g: &ConvGeometry, axis: usize, at: usize) -> Taps {
    window_taps(g, axis, at, g.pads[axis], [g.h, g.w][axis])
}

/// Calls `each` with the channels of every input pixel under output pixel `place`.
fn for_each<'a>(g: &ConvGeometry, under: &Under, x: &'a [u8], place: Place, mut each: impl FnMut(&'a [u8])) {
    let [image, py, px] = place;
    let [(rows, top), (columns, left)] = under.at(g, py, px);
    for ky in rows {
        let y = (top + (ky * g.dilation[0]) as isize) as usize;
        for kx in columns.clone() {
            let at = (left + (kx * g.dilation[1]) as isize) as usize;
            each(&x[((image * g.h + y) * g.w + at) * g.c_in..][..g.c_in]);
        }
    }
}

/// The largest code under each window; where a window covers no pixel, the smallest code there is.
///
/// # Errors
/// If a slice is shorter than the sizes say, or the window has a zero or huge dimension.
pub fn max_pool(
    isa: Isa,
    x: &[u8],
    signed: bool,
    g: &ConvGeometry,
    out: &mut [u8],
    threads: &Threads,
) -> Result<(), KernelError> {
    let n = check(g, x.len(), out.len())?;
    let c = g.c_in;
    if n == 0 {
        return Ok(());
    }
    let (taps, under) = (g.kernel[0] * g.kernel[1], Under::new(g));
    let rows = rows_per_task(n / c, c * taps / 8, threads);
    for_chunks(&mut out[..n], rows * c, n * taps, threads, |i, out| {
        for (to, place) in out.chunks_exact_mut(c).zip(places(g, i * rows)) {
            if c >= WIDEST && largest_of_window(isa, x, signed, g, &under, place, to) {
                continue;
            }
            to.fill(if signed { 0x80 } else { 0 });
            // SAFETY: `to` and `from` are both `c` bytes.
            for_each(g, &under, x, place, |from| unsafe {
                keep_larger(isa, to.as_mut_ptr(), from.as_ptr(), c, signed);
            });
        }
    });
    Ok(())
}

/// The largest codes under output pixel `place`, of at least [`WIDEST`] channels; false if there are none under it.
fn largest_of_window(
    isa: Isa,
    x: &[u8],
    signed: bool,
    g: &ConvGeometry,
    under: &Under,
    [image, py, px]: Place,
    to: &mut [u8],
) -> bool {
    let [(rows, top), (cols, left)] = under.at(g, py, px);
    if rows.is_empty() || cols.is_empty() {
        return false;
    }
    let y = (top + (rows.start * g.dilation[0]) as isize) as usize;
    let at = (left + (cols.start * g.dilation[1]) as isize) as usize;
    let args = Window {
        from: x[((image * g.h + y) * g.w + at) * g.c_in..].as_ptr(),
        rows: rows.len(),
        row_step: g.dilation[0] * g.w * g.c_in,
        cols: cols.len(),
        col_step: g.dilation[1] * g.c_in,
        channels: to.len(),
        flip: if signed { 0x80 } else { 0 },
        to: to.as_mut_ptr(),
    };
    // SAFETY: the taps are those inside the image, whose length was checked, and each holds the channels.
    unsafe { keep_largest(isa, &args) }
    true
}

/// Taps that are all inside an image.
struct Window {
    from: *const u8,
    rows: usize,
    row_step: usize,
    cols: usize,
    col_step: usize,
    channels: usize,
    flip: u8,
    to: *mut u8,
}

isa_fn! {
    /// `to[i] = max from[row · row_step + col · col_step + i]` over a window of at least one tap.
    ///
    /// # Safety
    /// The taps and `to` are valid for `channels` bytes, at least [`WIDEST`].
    unsafe fn keep_largest(args: &Window) = keep_largest_body
}

/// # Safety
/// As [`keep_largest`] and [`Simd`].
#[inline(always)]
unsafe fn keep_largest_body<S: Bytes>(args: &Window) {
    let &Window { from, rows, row_step, cols, col_step, channels, flip, to } = args;
    let size = 4 * S::LANES;
    // SAFETY: the caller's promise; each register lies in a tap.
    unsafe {
        let flip = S::splat8(flip);
        let mut next = 0;
        while next < channels {
            // The last register overlaps the one before.
            let channel = next.min(channels - size);
            next += size;
            let mut most = S::splat(0);
            for row in 0..rows {
                for col in 0..cols {
                    let codes = S::load(from.add(row * row_step + col * col_step + channel).cast());
                    most = S::max8(most, S::xor(codes, flip));
                }
            }
            S::store(to.add(channel).cast(), S::xor(most, flip));
        }
    }
}

isa_fn! {
    /// `to[i] = max(to[i], from[i])`.
    ///
    /// # Safety
    /// Both are valid for `n` bytes and do not overlap.
    unsafe fn keep_larger(to: *mut u8, from: *const u8, n: usize, signed: bool) = keep_larger_body
}

/// Plain loops, which the compiler turns into byte maxima.
///
/// # Safety
/// As [`keep_larger`].
#[inline(always)]
unsafe fn keep_larger_body<S: Simd>(to: *mut u8, from: *const u8, n: usize, signed: bool) {
    // SAFETY: the caller's promise.
    let (to, from) = unsafe { (std::slice::from_raw_parts_mut(to, n), std::slice::from_raw_parts(from, n)) };
    if signed {
        for (a, &b) in to.iter_mut().zip(from) {
            *a = (*a as i8).max(b as i8) as u8;
        }
    } else {
        for (a, &b) in to.iter_mut().zip(from) {
            *a = (*a).max(b);
        }
    }
}

/// The mean under each window by equation (5) of `arith`, `n` being what `divisor` says; padding is real 0.
///
/// # Errors
/// As [`max_pool`], or if the window is too large for its sum to fit 32 bits.
pub fn avg_pool(
    isa: Isa,
    x: &[u8],
    signed: bool,
    x_zero_point: i32,
    scales: [f32; 2],
    g: &ConvGeometry,
    divisor: Divisor,
    y: OutCodes,
    out: &mut [u8],
    threads: &Threads,
) -> Result<(), KernelError> {
    let n = check(g, x.len(), out.len())?;
    let (lo, hi) = clamp_ends(y.zero_point, y.qmin, y.qmax)?;
    let taps = g.kernel[0].saturating_mul(g.kernel[1]);
    if taps > MAX_MEAN {
        return Err(KernelError::TooDeep { k: taps, most: MAX_MEAN });
    }
    let c = g.c_in;
    if n == 0 {
        return Ok(());
    }
    let under = Under::new(g);
    let rows = rows_per_task(n / c, c * taps / 4, threads);
    for_chunks(&mut out[..n], rows * c, n * taps, threads, |i, out| {
        with_sums(c, |sums| {
            for (to, place) in out.chunks_exact_mut(c).zip(places(g, i * rows)) {
                sums.fill(0);
                let mut inside = 0;
                for_each(g, &under, x, place, |from| {
                    inside += 1;
                    // SAFETY: `sums` and `from` both hold `c` elements.
                    unsafe { add_codes(isa, sums.as_mut_ptr(), from.as_ptr(), c, signed) }
                });
                let count = match divisor {
                    Divisor::Inside => inside as usize,
                    Divisor::Padded => {
                        let [_, py, px] = place;
                        let within = |axis: usize, at: usize, length: usize| {
                            window_taps(g, axis, at, 0, g.pads[axis] + length + g.pads[axis + 2]).0.len()
                        };
                        within(0, py, g.h) * within(1, px, g.w)
                    }
                };
                let multiplier = mean_multiplier(scales[0], scales[1], count.max(1));
                let args = Round {
                    sums: sums.as_ptr(),
                    n: c,
                    add: -inside * x_zero_point,
                    multiplier,
                    zero_point: y.zero_point,
                    lo,
                    hi,
                    out: to.as_mut_ptr(),
                };
                // SAFETY: `sums` and `to` both hold `c` elements.
                unsafe { round_sums(isa, &args) }
            }
        });
    });
    Ok(())
}

/// Bytes in the widest register.
const WIDEST: usize = 64;

fn with_sums<R>(n: usize, work: impl FnOnce(&mut [i32]) -> R) -> R {
    // SAFETY: scratch is aligned to 64, and any bytes are integers.
    with_scratch(4 * n, |bytes| work(unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), n) }))
}

isa_fn! {
    /// `sums[i] += codes[i]`.
    ///
    /// # Safety
    /// Both are valid for `n` elements.
    unsafe fn add_codes(sums: *mut i32, codes: *const u8, n: usize, signed: bool) = add_codes_body
}

/// Plain loops, which the compiler widens.
///
/// # Safety
/// As [`add_codes`].
#[inline(always)]
unsafe fn add_codes_body<S: Simd>(sums: *mut i32, codes: *const u8, n: usize, signed: bool) {
    // SAFETY: the caller's promise.
    let (sums, codes) = unsafe { (std::slice::from_raw_parts_mut(sums, n), std::slice::from_raw_parts(codes, n)) };
    if signed {
        sums.iter_mut().zip(codes).for_each(|(s, &q)| *s += i32::from(q as i8));
    } else {
        sums.iter_mut().zip(codes).for_each(|(s, &q)| *s += i32::from(q));
    }
}

/// `n` sums to be rounded by equation (3), `add` added first.
pub(crate) struct Round {
    pub(crate) sums: *const i32,
    pub(crate) n: usize,
    pub(crate) add: i32,
    pub(crate) multiplier: f32,
    pub(crate) zero_point: i32,
    pub(crate) lo: f32,
    pub(crate) hi: f32,
    pub(crate) out: *mut u8,
}

isa_fn! {
    /// # Safety
    /// `sums` and `out` are valid for `n` elements.
    pub(crate) unsafe fn round_sums(args: &Round) = round_sums_body
}

/// # Safety
/// As [`round_sums`] and [`Simd`].
#[inline(always)]
unsafe fn round_sums_body<S: Simd>(args: &Round) {
    for i in (0..args.n).step_by(S::LANES) {
        let left = args.n - i;
        // SAFETY: `round_sums`'s contract; a last part is copied to and from the stack.
        unsafe {
            let mut last = [0; 16];
            let mut from = args.sums.add(i);
            if left < S::LANES {
                std::ptr::copy_nonoverlapping(from, last.as_mut_ptr(), left);
                from = last.as_ptr();
            }
            let sum = S::add(S::load(from), S::splat(args.add));
            let scaled = S::mul_f(S::to_f(sum), S::splat_f(args.multiplier));
            let code = S::clamp_round(scaled, S::splat_f(args.lo), S::splat_f(args.hi));
            let code = S::add(code, S::splat(args.zero_point));
            store_tail!(S::LANES, u8, args.out.add(i), left, |p| S::store_bytes(p, code));
        }
    }
}
