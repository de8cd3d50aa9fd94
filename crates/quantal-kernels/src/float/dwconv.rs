//! Depthwise convolution on channels-last images: channels across lanes, weights and pixels kept in registers.

use super::gemm::{Epilogue, NO_CLAMP};
use super::lanes::{FloatIsa, LANES};
use super::rows::{Row, row};
use super::scratch::{Line, Shared};
use super::unary;
use crate::{ConvGeometry, Isa, KernelError, Threads};
use quantal_tensor::bytes::Claim;

/// The weight of a depthwise convolution: for each block of 16 output channels, one line per tap.
#[derive(Clone)]
pub struct PackedDw {
    lines: Vec<Line>,
    _claim: Claim,
    taps: usize,
    channels: usize,
}

impl PackedDw {
    /// Packs a weight laid out as ONNX does, `[c_out, 1, kernel[0], kernel[1]]`.
    ///
    /// # Panics
    /// When the geometry is not valid or not depthwise, or `weight` is too short.
    pub fn pack(g: &ConvGeometry, weight: &[f32]) -> Result<Self, KernelError> {
        assert!(g.valid() && g.groups == g.c_in, "a valid depthwise geometry");
        assert!(Some(weight.len()) >= g.checked_weight_len(), "a weight of {} values", weight.len());
        let taps = g.kernel[0] * g.kernel[1];
        let count = g.c_out.div_ceil(LANES) * taps;
        let bytes = count.saturating_mul(size_of::<Line>());
        let claim = Claim::new(bytes).map_err(|_| KernelError::OutOfMemory { bytes })?;
        let mut lines = Vec::new();
        lines.try_reserve_exact(count).map_err(|_| KernelError::OutOfMemory { bytes })?;
        lines.resize(count, Line::ZERO);
        for channel in 0..g.c_out {
            for tap in 0..taps {
                lines[channel / LANES * taps + tap].0[channel % LANES] = weight[channel * taps + tap];
            }
        }
        Ok(Self { lines, _claim: claim, taps, channels: g.c_out })
    }

    /// Asserts that it is packed for this geometry.
    pub(super) fn assert_fits(&self, g: &ConvGeometry) {
        assert!(g.valid() && g.groups == g.c_in, "a valid depthwise geometry");
        assert!(
            self.channels == g.c_out && self.taps == g.kernel[0] * g.kernel[1],
            "a weight packed for another geometry"
        );
    }
}

/// Convolves each channel of `x` `[batch, h, w, c_in]` by itself into `out` `[batch, h_out, w_out, c_out]`, with
/// `groups = c_in` and `c_out` a multiple of it: each output is the chain over the taps (ky, kx) that lie in the
/// image.
///
/// # Panics
/// When the geometry is not valid, not depthwise or not that of `weight`, or a slice is too short for it.
pub fn dwconv(
    isa: Isa,
    g: &ConvGeometry,
    x: &[f32],
    weight: &PackedDw,
    epilogue: &Epilogue<'_>,
    out: &mut [f32],
    threads: &Threads,
) {
    weight.assert_fits(g);
    assert!(Some(x.len()) >= g.checked_input_len(), "an input of {} values", x.len());
    assert!(Some(out.len()) >= g.checked_output_len(), "an output of {} values", out.len());
    epilogue.assert_covers(g.pixels_out(), g.c_out);
    if g.checked_output_len() == Some(0) {
        return;
    }
    let row = row(isa);
    let out = Shared::new(out);
    let width = g.w_out * g.c_out;
    // Some rows a task: 65,536 multiplications or more.
    let rows = g.batch * g.h_out;
    let together = (1 << 16) / (width * weight.taps).max(1) + 1;
    threads.parallel_for(rows.div_ceil(together), &|task| {
        for r in task * together..rows.min((task + 1) * together) {
            let call = DwRow { g, x, weight, epilogue, row: r, out: out.at(r * width) };
            // SAFETY: the input, the weight, the epilogue's slices and the output cover the geometry, asserted above;
            // row r of the output is this task's own.
            unsafe { finished_row(row, &call) };
        }
    });
}

/// One row of output pixels.
pub(super) struct DwRow<'a> {
    pub(super) g: &'a ConvGeometry,
    pub(super) x: &'a [f32],
    pub(super) weight: &'a PackedDw,
    pub(super) epilogue: &'a Epilogue<'a>,
    /// Counted over all images.
    pub(super) row: usize,
    pub(super) out: *mut f32,
}

/// Computes a row and what follows its sums.
///
/// # Safety
/// The slices cover the geometry, and `out` is good for writing `w_out·c_out` values.
pub(super) unsafe fn finished_row(row: &Row, d: &DwRow<'_>) {
    // SAFETY: the contract of this function.
    unsafe { (row.dw_row)(d) };
    if let Some(activation) = d.epilogue.activation {
        // SAFETY: as above; the values have just been written.
        let y = unsafe { std::slice::from_raw_parts_mut(d.out, d.g.w_out * d.g.c_out) };
        unary::apply(row, activation, d.epilogue.clamp, y);
    }
}

/// Output pixels that a pass computes together.
const PIXELS: usize = 4;

/// Blocks of 16 channels that a pass along the row takes, at most: their weights stay in the level-1 cache, and the
/// channels of a pixel are read from beginning to end, as prefetchers like it.
const BLOCKS: usize = 12;

/// Sixteen channels of a row.
struct Channels<'a> {
    d: &'a DwRow<'a>,
    /// The first row of the window in the image; may be negative.
    y0: isize,
    /// The taps (ky) that lie in the image.
    ky: (usize, usize),
    /// The first output channel, and how many there are.
    first: usize,
    count: usize,
    image: *const f32,
    lines: *const f32,
}

/// # Safety
/// The slices cover the geometry, and `out` is good for writing `w_out·c_out` values.
#[inline(always)]
pub(super) unsafe fn dw_row<I: FloatIsa>(isa: I, d: &DwRow<'_>) {
    let g = d.g;
    let (oy, image) = (d.row % g.h_out, d.row / g.h_out);
    let y0 = (oy * g.stride[0]).cast_signed() - g.pads[0].cast_signed();
    let ky = inside(y0, g.kernel[0], g.dilation[0], g.h);
    let image = d.x[image * g.h * g.w * g.c_in..].as_ptr();
    let lines = super::scratch::values(&d.weight.lines);
    // Output columns whose whole window lies in the image: from the first tap at or after 0 to the last one within.
    let begin = g.pads[1].div_ceil(g.stride[1]).min(g.w_out);
    let reach = (g.kernel[1] - 1) * g.dilation[1];
    let end = (g.w + g.pads[1]).checked_sub(reach + 1).map_or(0, |last| last / g.stride[1] + 1).clamp(begin, g.w_out);
    let side_by_side = g.c_out == g.c_in && g.dilation[1] == 1 && end - begin >= PIXELS;
    let kernel = (g.kernel[1], g.stride[1]);
    let blocks = g.c_out.div_ceil(LANES);
    let passes = blocks.div_ceil(BLOCKS);
    for pass in 0..passes {
        let mut ox = 0;
        while ox < g.w_out {
            let several = side_by_side && (begin..end).contains(&ox);
            // The last pixels of the middle are computed together too: with some that were done before.
            let at = if several { ox.min(end - PIXELS) } else { ox };
            let x0 = (at * g.stride[1]).cast_signed() - g.pads[1].cast_signed();
            let kx = inside(x0, g.kernel[1], g.dilation[1], g.w);
            for block in pass * blocks / passes..(pass + 1) * blocks / passes {
                let first = block * LANES;
                let lines = lines[first * d.weight.taps..].as_ptr();
                let c = Channels { d, y0, ky, first, count: (g.c_out - first).min(LANES), image, lines };
                // SAFETY: the contract of this function; columns below w_out; those of `middle` have whole windows.
                unsafe {
                    match kernel {
                        (3, 1) if several && c.count == LANES => middle::<I, 3, 1>(isa, &c, at),
                        (3, 2) if several && c.count == LANES => middle::<I, 3, 2>(isa, &c, at),
                        (5, 1) if several && c.count == LANES => middle::<I, 5, 1>(isa, &c, at),
                        (5, 2) if several && c.count == LANES => middle::<I, 5, 2>(isa, &c, at),
                        _ if several => (at..at + PIXELS).for_each(|ox| edge(isa, &c, ox, (0, g.kernel[1]))),
                        _ => edge(isa, &c, at, kx),
                    }
                }
            }
            ox = if several { at + PIXELS } else { ox + 1 };
        }
    }
}

/// The range of taps of a window beginning at `at` that lie in `0 … size`.
#[inline(always)]
pub(super) fn inside(at: isize, taps: usize, dilation: usize, size: usize) -> (usize, usize) {
    let before = (-at).max(0).cast_unsigned().div_ceil(dilation).min(taps);
    let room = (size.cast_signed() - at).max(0).cast_unsigned();
    (before, room.div_ceil(dilation).clamp(before, taps))
}

/// Any output pixel, one tap after the other, of those from `kx.0` to `kx.1`.
///
/// # Safety
/// As for `dw_row`; `ox < w_out`, and these taps lie in the image.
#[inline(always)]
unsafe fn edge<I: FloatIsa>(isa: I, c: &Channels<'_>, ox: usize, kx: (usize, usize)) {
    let g = c.d.g;
    let x0 = (ox * g.stride[1]).cast_signed() - g.pads[1].cast_signed();
    let mut acc = isa.splat(0.0);
    for ky in c.ky.0..c.ky.1 {
        let iy = (c.y0 + (ky * g.dilation[0]).cast_signed()).cast_unsigned();
        for kx in kx.0..kx.1 {
            let ix = (x0 + (kx * g.dilation[1]).cast_signed()).cast_unsigned();
            // SAFETY: the tap lies in the image, by the contract; channels first … first + count are below c_out, so those
            // of the input are below c_in; a line for each tap.
            unsafe {
                let pixel = c.image.add((iy * g.w + ix) * g.c_in);
                let x = if g.c_out == g.c_in {
                    isa.load_part(pixel.add(c.first), c.count)
                } else {
                    let multiplier = g.c_out / g.c_in;
                    let mut lanes = [0.0; LANES];
                    for l in 0..c.count {
                        lanes[l] = *pixel.add((c.first + l) / multiplier);
                    }
                    isa.load(lanes.as_ptr())
                };
                let w = isa.load(c.lines.add((ky * g.kernel[1] + kx) * LANES));
                acc = isa.fma(x, w, acc);
            }
        }
    }
    // SAFETY: as for `dw_row`.
    unsafe { finish(isa, c, ox, acc) };
}

/// The epilogue of one output pixel.
///
/// # Safety
/// As for `dw_row`; `ox < w_out`.
#[inline(always)]
unsafe fn finish<I: FloatIsa>(isa: I, c: &Channels<'_>, ox: usize, acc: I::V) {
    let (g, e) = (c.d.g, c.d.epilogue);
    let mut y = acc;
    // SAFETY: the epilogue's slices and the output cover the geometry; `count` channels from `first` exist.
    unsafe {
        if let Some(bias) = e.bias {
            y = isa.add(y, isa.load_part(bias.as_ptr().add(c.first), c.count));
        }
        if let Some(r) = e.residual {
            let at = (c.d.row * g.w_out + ox) * r.row_stride + c.first;
            y = isa.add(y, isa.load_part(r.data.as_ptr().add(at), c.count));
        }
        let clamp = if e.activation.is_none() { e.clamp } else { NO_CLAMP };
        y = isa.min(isa.splat(clamp.1), isa.max(isa.splat(clamp.0), y));
        let to = c.d.out.add(ox * g.c_out + c.first);
        if c.count == LANES {
            isa.store(to, y);
        } else {
            isa.store_part(to, y, c.count);
        }
    }
}

/// Output pixels from `ox`, each with its whole window in the image, for 16 channels: several at a time, so that each
/// input pixel is loaded once for all the windows that it lies in.
///
/// # Safety
/// As for `dw_row`; the kernel is `KW` wide, the stride `S`, the dilation 1, all 16 channels exist, and so do `PIXELS`
/// such pixels.
#[inline(always)]
unsafe fn middle<I: FloatIsa, const KW: usize, const S: usize>(isa: I, c: &Channels<'_>, ox: usize) {
    let g = c.d.g;
    let mut acc = [isa.splat(0.0); PIXELS];
    for ky in c.ky.0..c.ky.1 {
        let iy = (c.y0 + (ky * g.dilation[0]).cast_signed()).cast_unsigned();
        // SAFETY: columns ox·S − pad … + (PIXELS − 1)·S + KW lie in the image, by the contract, and rows by `ky`; a
        // line for each tap.
        unsafe {
            let x = c.image.add((iy * g.w + ox * S - g.pads[1]) * g.c_in + c.first);
            let mut w = [isa.splat(0.0); KW];
            for kx in 0..KW {
                w[kx] = isa.load(c.lines.add((ky * KW + kx) * LANES));
            }
            for i in 0..(PIXELS - 1) * S + KW {
                let x = isa.load(x.add(i * g.c_in));
                for p in 0..PIXELS {
                    if i >= p * S && i - p * S < KW {
                        acc[p] = isa.fma(x, w[i - p * S], acc[p]);
                    }
                }
            }
        }
    }
    for p in 0..PIXELS {
        // SAFETY: ox + p < w_out, by the contract.
        unsafe { finish(isa, c, ox + p, acc[p]) };
    }
}

#[cfg(test)]
mod tests {
    use super::super::Residual;
    use super::super::test_data::{assert_same_bits, random};
    use super::*;
    use crate::testing::{DRAWS, Seeded, odd_window};

    #[test]
    fn drawn_shapes_are_chains_bit_for_bit() {
        for seed in 0..DRAWS {
            let mut drawn = Seeded::new(seed);
            let (channels, multiplier) = (drawn.pick(&[1, 1, 2, 16, 19, 33]), drawn.pick(&[1, 1, 1, 2, 3]));
            check(&odd_window(&mut drawn, [channels, channels * multiplier, channels]), multiplier);
        }
    }

    #[test]
    fn each_output_is_a_chain_over_the_taps_in_the_image() {
        for (channels, multiplier) in [(16, 1), (37, 1), (5, 3), (32, 1)] {
            for (kernel, stride, dilation) in [
                ([3, 3], [1, 1], [1, 1]),
                ([3, 3], [2, 2], [1, 1]),
                ([5, 5], [1, 1], [1, 1]),
                ([5, 5], [2, 2], [1, 1]),
                ([2, 3], [1, 1], [2, 1]),
                ([3, 4], [3, 2], [1, 2]),
            ] {
                for pads in [[0; 4], [1, 1, 1, 1], [2, 3, 0, 1]] {
                    let input = [2, 9, 11, channels];
                    let c_out = channels * multiplier;
                    let g = ConvGeometry::new(input, c_out, kernel, stride, dilation, pads, channels).expect("valid");
                    check(&g, multiplier);
                }
            }
        }
    }

    fn check(g: &ConvGeometry, multiplier: usize) {
        let (x, weight) = (random(g.batch * g.h * g.w * g.c_in, 1), random(g.c_out * g.k(), 2));
        let (bias, residual) = (random(g.c_out, 3), random(g.pixels_out() * g.c_out, 4));
        let e = Epilogue {
            bias: Some(&bias),
            residual: Some(Residual { data: &residual, row_stride: g.c_out }),
            activation: None,
            clamp: (-1.0, 1.0),
        };
        let mut expected = Vec::new();
        for pixel in 0..g.pixels_out() {
            let (ox, oy, image) = (pixel % g.w_out, pixel / g.w_out % g.h_out, pixel / g.w_out / g.h_out);
            for o in 0..g.c_out {
                let mut sum = 0.0f32;
                for (ky, kx) in (0..g.kernel[0]).flat_map(|ky| (0..g.kernel[1]).map(move |kx| (ky, kx))) {
                    let iy = (oy * g.stride[0] + ky * g.dilation[0]).wrapping_sub(g.pads[0]);
                    let ix = (ox * g.stride[1] + kx * g.dilation[1]).wrapping_sub(g.pads[1]);
                    if iy < g.h && ix < g.w {
                        let x = x[((image * g.h + iy) * g.w + ix) * g.c_in + o / multiplier];
                        sum = x.mul_add(weight[(o * g.kernel[0] + ky) * g.kernel[1] + kx], sum);
                    }
                }
                sum = sum + bias[o] + residual[pixel * g.c_out + o];
                expected.push(sum.clamp(-1.0, 1.0));
            }
        }
        let packed = PackedDw::pack(g, &weight).unwrap();
        for isa in Isa::available() {
            for count in [1, 3] {
                let mut out = vec![0.0; expected.len()];
                dwconv(isa, g, &x, &packed, &e, &mut out, &Threads::new(count));
                assert_same_bits(&out, &expected, &format!("{isa} {g:?} on {count}"));
            }
        }
    }
}
