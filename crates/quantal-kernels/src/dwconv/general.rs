//! Any depthwise convolution: taps in pairs, the codes of two taps interleaved as i16 and multiplied by interleaved i16
//! weights, exact for any 8-bit weights less any zero point.

use std::ops::Range;

use super::PackedDwConv;
use crate::gemm::epilogue::{Block, Columns, RawEpilogue, finish};
use crate::kernel::MAX_NR;
use crate::simd::emulated::Lanes;
use crate::simd::{Simd, isa_fn};
use crate::{ConvGeometry, Threads};

/// Weights of any depthwise convolution.
pub(super) struct Pairs {
    /// `[pairs of taps, channels, 2]`, zero points taken off, the odd last tap paired with zeros.
    weights: Vec<i16>,
    /// Offsets of the taps from the input pixel, padded to a whole pair.
    taps: Vec<[isize; 2]>,
}

impl Pairs {
    /// Packs the weights `w(channel, tap)`.
    pub(super) fn pack(g: &ConvGeometry, w: impl Fn(usize, usize) -> i32) -> Self {
        let &ConvGeometry { c_in: c, kernel: [kh, kw], dilation, pads, .. } = g;
        let count = kh * kw;
        let mut taps: Vec<[isize; 2]> = Vec::with_capacity(count + 1);
        for ky in 0..kh {
            let dy = (ky * dilation[0]) as isize - pads[0] as isize;
            taps.extend((0..kw).map(|kx| [dy, (kx * dilation[1]) as isize - pads[1] as isize]));
        }
        if !count.is_multiple_of(2) {
            taps.push(taps[0]);
        }
        let mut weights = vec![0; taps.len() * c];
        for (t, channel) in (0..count).flat_map(|t| (0..c).map(move |channel| (t, channel))) {
            weights[(t / 2 * c + channel) * 2 + t % 2] = w(channel, t) as i16;
        }
        Self { weights, taps }
    }
}

/// Output pixels whose sums are ended together.
const PIXELS: usize = 8;

/// Computes a call of at least one output, whose slices hold what its geometry says.
///
/// # Panics
/// When the pixels and channels of the output are not those that the epilogue was checked for.
pub(super) fn compute(image: &Image, threads: &Threads) {
    let g = image.g;
    image.epilogue.assert_holds(g.pixels_out(), g.c_in);
    let lines = g.batch * g.h_out;
    let line_work = g.w_out * g.c_in * image.weights.general.taps.len() / 16;
    let tasks = if lines * line_work < 1 << 14 { 1 } else { lines.min(4 * threads.count()) };
    let task = |i: usize| image.lines(i * lines / tasks..(i + 1) * lines / tasks);
    if tasks == 1 {
        task(0);
    } else {
        threads.parallel_for(tasks, &task);
    }
}

/// One call.
pub(super) struct Image<'a> {
    pub(super) x: &'a [u8],
    pub(super) x_signed: bool,
    pub(super) x_zero_point: i32,
    pub(super) g: &'a ConvGeometry,
    pub(super) weights: &'a PackedDwConv,
    pub(super) epilogue: &'a RawEpilogue,
}

/// Some channels of a run of output pixels.
struct RunArgs {
    /// `2 · pairs` pointers to `cols` codes each, for the first pixel.
    taps: *const *const u8,
    /// What each pointer moves by from one pixel to the next.
    steps: *const usize,
    pairs: usize,
    /// `[pairs, channels, 2]` from the first channel on.
    weights: *const i16,
    channels: usize,
    cols: usize,
    signed: bool,
    pixels: usize,
    /// `[pixels, MAX_NR]`.
    sums: *mut i32,
}

#[repr(align(64))]
struct SumRows([i32; PIXELS * MAX_NR]);

impl Image<'_> {
    /// Output lines `lines`, counted over the whole batch.
    fn lines(&self, lines: Range<usize>) {
        let Self { weights, g, .. } = *self;
        let c = g.c_in;
        let pad = [self.x_zero_point as u8; MAX_NR];
        let mut sums = SumRows([0; PIXELS * MAX_NR]);
        let mut taps = vec![pad.as_ptr(); weights.general.taps.len()];
        let mut steps = vec![0; weights.general.taps.len()];
        let inner = self.inner_columns();
        let chunks = c.div_ceil(MAX_NR);
        let cols = c.div_ceil(chunks).next_multiple_of(16).min(c);
        let mut columns = Columns::NONE;
        for chunk in 0..chunks {
            // The last chunk overlaps the one before rather than being narrow: the same bytes are written twice.
            let first = (chunk * cols).min(c - cols);
            // SAFETY: the chunk's columns lie inside the checked `c`.
            unsafe {
                columns.set(self.epilogue, first, &weights.sums[first..first + cols], self.x_zero_point, |_| 0);
            }
            for line in lines.clone() {
                let mut x = 0;
                while x < g.w_out {
                    let count = if inner.contains(&x) { PIXELS.min(inner.end - x) } else { 1 };
                    self.point(&mut taps, &mut steps, &pad, [line / g.h_out, line % g.h_out, x], first);
                    let args = RunArgs {
                        taps: taps.as_ptr(),
                        steps: steps.as_ptr(),
                        pairs: taps.len() / 2,
                        weights: weights.general.weights[2 * first..].as_ptr(),
                        channels: c,
                        cols,
                        signed: self.x_signed,
                        pixels: count,
                        sums: sums.0.as_mut_ptr(),
                    };
                    let pixels: [usize; PIXELS] = std::array::from_fn(|i| line * g.w_out + x + i);
                    let block = Block {
                        sums: sums.0.as_ptr(),
                        ld: MAX_NR,
                        rows: count,
                        cols,
                        first,
                        columns: &columns,
                        summed: false,
                        pixels: pixels.as_ptr(),
                        row_terms: std::ptr::null(),
                    };
                    // SAFETY: each tap points to `cols` codes for every pixel of the run, in the image or, with a step
                    // of 0, in `pad`; the weights hold `pairs · channels` pairs; `sums` has a row of `MAX_NR` for each
                    // pixel; narrow images take one channel at a time. Pixels and columns are those of the checked
                    // output, and a line belongs to one task.
                    unsafe {
                        if cols < 16 {
                            sum_narrow(&args);
                        } else {
                            sum_run(weights.isa, &args);
                        }
                        finish(weights.isa, &block, self.epilogue);
                    }
                    x += count;
                }
            }
        }
    }

    /// The output columns whose taps are all inside the image, or above or below it.
    fn inner_columns(&self) -> Range<usize> {
        let g = self.g;
        let reach = (g.kernel[1] - 1) * g.dilation[1];
        let from = g.pads[1].div_ceil(g.stride[1]);
        let to = (g.w + g.pads[1]).checked_sub(reach + 1).map_or(0, |last| last / g.stride[1] + 1);
        from..to.min(g.w_out)
    }

    /// Points `taps` to channel `first` of the codes under an output pixel, or to the padding, and says in `steps` how
    /// far the codes of the next pixel are.
    fn point(&self, taps: &mut [*const u8], steps: &mut [usize], pad: &[u8], [image, y, x]: [usize; 3], first: usize) {
        let g = self.g;
        let (top, left) = ((y * g.stride[0]) as isize, (x * g.stride[1]) as isize);
        for ((tap, step), &[dy, dx]) in taps.iter_mut().zip(steps).zip(&self.weights.general.taps) {
            let (y, x) = (top + dy, left + dx);
            let inside = (0..g.h as isize).contains(&y) && (0..g.w as isize).contains(&x);
            (*tap, *step) = if inside {
                let pixel = (image * g.h + y as usize) * g.w + x as usize;
                (self.x.as_ptr().wrapping_add(pixel * g.c_in + first), g.stride[1] * g.c_in)
            } else {
                (pad.as_ptr(), 0)
            };
        }
    }
}

isa_fn! {
    /// # Safety
    /// The pointers hold what [`RunArgs`] says, and `cols` is at least 16.
    unsafe fn sum_run(args: &RunArgs) = sum_run_body
}

/// # Safety
/// As [`sum_run`], for any `cols`.
unsafe fn sum_narrow(args: &RunArgs) {
    // SAFETY: one lane reads no further than one channel.
    unsafe { sum_run_body::<Lanes<1>>(args) }
}

/// # Safety
/// As [`sum_run`] and [`Simd`].
#[inline(always)]
unsafe fn sum_run_body<S: Simd>(args: &RunArgs) {
    // SAFETY: handed on.
    unsafe { if args.signed { sum_columns::<S, true>(args) } else { sum_columns::<S, false>(args) } }
}

/// # Safety
/// As [`sum_run`] and [`Simd`].
#[inline(always)]
unsafe fn sum_columns<S: Simd, const SIGNED: bool>(args: &RunArgs) {
    for col in (0..args.cols).step_by(S::LANES) {
        // The last register overlaps the one before.
        let col = col.min(args.cols - S::LANES);
        let mut pixel = 0;
        // SAFETY: `col + LANES <= cols`, since `cols` is at least a register wide, and only pixels of the run are read.
        unsafe {
            while pixel + 4 <= args.pixels {
                sum_pixels::<S, SIGNED, 4>(args, pixel, col);
                pixel += 4;
            }
            while pixel < args.pixels {
                sum_pixels::<S, SIGNED, 1>(args, pixel, col);
                pixel += 1;
            }
        }
    }
}

/// A register of channels of `P` pixels, which share the loads of weights and pointers.
///
/// # Safety
/// As [`sum_run`] and [`Simd`]; the pixels are in the run, and `col + LANES <= cols`.
#[inline(always)]
unsafe fn sum_pixels<S: Simd, const SIGNED: bool, const P: usize>(args: &RunArgs, pixel: usize, col: usize) {
    let &RunArgs { taps, steps, pairs, weights, channels, sums, .. } = args;
    // SAFETY: the caller's promise.
    unsafe {
        let mut acc = [S::splat(0); P];
        let mut w = weights.add(2 * col);
        for pair in 0..pairs {
            let (step0, step1) = (*steps.add(2 * pair), *steps.add(2 * pair + 1));
            let mut x0 = (*taps.add(2 * pair)).add(pixel * step0 + col);
            let mut x1 = (*taps.add(2 * pair + 1)).add(pixel * step1 + col);
            for acc in &mut acc {
                *acc = S::dot_two::<SIGNED>(*acc, x0, x1, w);
                (x0, x1) = (x0.wrapping_add(step0), x1.wrapping_add(step1));
            }
            w = w.wrapping_add(2 * channels);
        }
        for (p, acc) in acc.into_iter().enumerate() {
            S::store(sums.add((pixel + p) * MAX_NR + col), acc);
        }
    }
}
