//! Pooling of channels-last images: channels across lanes.

use super::dwconv::inside;
use super::lanes::{FloatIsa, LANES, Lanes};
use super::rows::row;
use super::scratch::Shared;
use crate::{ConvGeometry, Isa, Threads};

/// What to take of a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pool {
    /// The largest value; NaN if there is one; −∞ of a window wholly in the padding.
    Max,
    /// The mean of the values that lie in the image.
    Mean,
    /// The sum of the values that lie in the image, over the number of taps in the padded image.
    MeanWithPadding,
}

/// Pools `x` `[batch, h, w, c]` into `out` `[batch, h_out, w_out, c]`, with `c = c_in = c_out`. Sums run over the taps
/// (ky, kx) in order. (For a whole image see [`reduce`](super::reduce): axes `[batch, h·w, c]`.)
///
/// # Panics
/// When the geometry is not valid, its channels differ, or a slice is too short for it.
pub fn pool(isa: Isa, kind: Pool, g: &ConvGeometry, x: &[f32], out: &mut [f32], threads: &Threads) {
    assert!(ConvGeometry { groups: 1, ..*g }.valid() && g.c_in == g.c_out, "a valid geometry");
    assert!(Some(x.len()) >= g.checked_input_len(), "an input of {} values", x.len());
    assert!(Some(out.len()) >= g.checked_output_len(), "an output of {} values", out.len());
    if g.checked_output_len() == Some(0) {
        return;
    }
    let row = row(isa);
    let out = Shared::new(out);
    let width = g.w_out * g.c_out;
    let rows = g.batch * g.h_out;
    let together = (1 << 15) / (width * g.kernel[0] * g.kernel[1]).max(1) + 1;
    threads.parallel_for(rows.div_ceil(together), &|task| {
        for r in task * together..rows.min((task + 1) * together) {
            // SAFETY: input and output cover the geometry, asserted above; row r is this task's own.
            unsafe { (row.pool_row)(&PoolRow { kind, g, x, row: r, out: out.at(r * width) }) };
        }
    });
}

/// One row of output pixels.
pub(super) struct PoolRow<'a> {
    kind: Pool,
    g: &'a ConvGeometry,
    x: &'a [f32],
    /// Counted over all images.
    row: usize,
    out: *mut f32,
}

/// The larger of both, NaN if either is.
#[inline(always)]
pub(super) fn max_or_nan<L: Lanes>(l: L, a: L::V, b: L::V) -> L::V {
    // Each order keeps the NaN of its second operand, and a NaN keeps its exponent under OR.
    l.bits_or(l.max(a, b), l.max(b, a))
}

/// The smaller of both, NaN if either is.
#[inline(always)]
pub(super) fn min_or_nan<L: Lanes>(l: L, a: L::V, b: L::V) -> L::V {
    l.bits_or(l.min(a, b), l.min(b, a))
}

/// # Safety
/// The input covers the geometry, and `out` is good for writing `w_out·c_out` values.
#[inline(always)]
pub(super) unsafe fn pool_row<I: FloatIsa>(isa: I, p: &PoolRow<'_>) {
    let g = p.g;
    let (oy, image) = (p.row % g.h_out, p.row / g.h_out);
    let y0 = (oy * g.stride[0]).cast_signed() - g.pads[0].cast_signed();
    let ky = inside(y0, g.kernel[0], g.dilation[0], g.h);
    let padded_y = inside(y0, g.kernel[0], g.dilation[0], g.h + g.pads[2]).1;
    for ox in 0..g.w_out {
        let x0 = (ox * g.stride[1]).cast_signed() - g.pads[1].cast_signed();
        let kx = inside(x0, g.kernel[1], g.dilation[1], g.w);
        let padded_x = inside(x0, g.kernel[1], g.dilation[1], g.w + g.pads[3]).1;
        let divisor = match p.kind {
            Pool::Max => 1.0,
            Pool::Mean => ((ky.1 - ky.0) * (kx.1 - kx.0)) as f32,
            Pool::MeanWithPadding => (padded_y * padded_x) as f32,
        };
        for c in (0..g.c_in).step_by(LANES) {
            let count = (g.c_in - c).min(LANES);
            let mut acc = isa.splat(if p.kind == Pool::Max { f32::NEG_INFINITY } else { 0.0 });
            for ky in ky.0..ky.1 {
                let iy = (y0 + (ky * g.dilation[0]).cast_signed()).cast_unsigned();
                for kx in kx.0..kx.1 {
                    let ix = (x0 + (kx * g.dilation[1]).cast_signed()).cast_unsigned();
                    // SAFETY: the tap lies in the image, by `inside`; channels c … c + count are below c_in.
                    let x =
                        unsafe { isa.load_part(p.x.as_ptr().add(((image * g.h + iy) * g.w + ix) * g.c_in + c), count) };
                    acc = if p.kind == Pool::Max { max_or_nan(isa, acc, x) } else { isa.add(acc, x) };
                }
            }
            if p.kind != Pool::Max {
                acc = isa.div(acc, isa.splat(divisor));
            }
            // SAFETY: the output row has c_out = c_in channels per pixel.
            unsafe { isa.store_part(p.out.add(ox * g.c_out + c), acc, count) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_data::{assert_same_bits, random};
    use super::*;
    use crate::testing::{DRAWS, Seeded, odd_window};

    /// Against plain loops over the taps, on every instruction set.
    fn check(g: &ConvGeometry) {
        assert!(ConvGeometry { groups: 1, ..*g }.valid(), "{g:?}");
        let channels = g.c_in;
        let x = random(g.batch * g.h * g.w * channels, 5);
        for kind in [Pool::Max, Pool::Mean, Pool::MeanWithPadding] {
            let mut expected = Vec::new();
            for o in 0..g.pixels_out() * channels {
                let (c, pixel) = (o % channels, o / channels);
                let (ox, oy, image) = (pixel % g.w_out, pixel / g.w_out % g.h_out, pixel / g.w_out / g.h_out);
                let (mut max, mut sum, mut taps, mut padded) = (f32::NEG_INFINITY, 0.0f32, 0, 0);
                for (ky, kx) in (0..g.kernel[0]).flat_map(|ky| (0..g.kernel[1]).map(move |kx| (ky, kx))) {
                    let py = oy * g.stride[0] + ky * g.dilation[0];
                    let px = ox * g.stride[1] + kx * g.dilation[1];
                    let (iy, ix) = (py.wrapping_sub(g.pads[0]), px.wrapping_sub(g.pads[1]));
                    if iy < g.h && ix < g.w {
                        let x = x[((image * g.h + iy) * g.w + ix) * channels + c];
                        (max, sum, taps) = (max.max(x), sum + x, taps + 1);
                    }
                    let within = py < g.h + g.pads[0] + g.pads[2] && px < g.w + g.pads[1] + g.pads[3];
                    padded += usize::from(within);
                }
                expected.push(match kind {
                    Pool::Max => max,
                    Pool::Mean => sum / taps as f32,
                    Pool::MeanWithPadding => sum / padded as f32,
                });
            }
            for isa in Isa::available() {
                let mut out = vec![0.0; expected.len()];
                pool(isa, kind, g, &x, &mut out, &Threads::new(2));
                assert_same_bits(&out, &expected, &format!("{isa} {kind:?} {g:?}"));
            }
        }
    }

    #[test]
    fn windows_are_taken_tap_by_tap() {
        for (stride, dilation, pads) in
            [([1, 1], [1, 1], [0; 4]), ([2, 2], [1, 1], [1, 1, 1, 1]), ([2, 1], [2, 1], [1, 2, 2, 0])]
        {
            let g = ConvGeometry::new([2, 8, 7, 19], 19, [3, 3], stride, dilation, pads, 1).expect("valid");
            // Rounded up: the last windows hang over the padding.
            for g in [g, ConvGeometry { h_out: g.h_out + usize::from(stride[0] == 2 && dilation[0] == 1), ..g }] {
                check(&g);
            }
        }
    }

    #[test]
    fn windows_of_drawn_shapes_are_taken_tap_by_tap() {
        for seed in 0..DRAWS {
            let mut drawn = Seeded::new(seed);
            let c = drawn.pick(&[1, 1, 3, 16, 19]);
            check(&odd_window(&mut drawn, [c, c, 1]));
        }
    }

    #[test]
    fn nan_wins() {
        let g = ConvGeometry::new([1, 1, 3, 1], 1, [1, 3], [1, 1], [1, 1], [0; 4], 1).expect("valid");
        for isa in Isa::available() {
            for at in 0..3 {
                let mut x = [1.0, f32::INFINITY, -2.0];
                x[at] = f32::NAN;
                let mut y = [0.0];
                pool(isa, Pool::Max, &g, &x, &mut y, &Threads::new(1));
                assert!(y[0].is_nan(), "{isa} {at}");
            }
        }
    }
}
