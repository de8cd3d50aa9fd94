//! A convolution and the depthwise one that alone reads it, in strips of rows: what lies between them, often the
//! largest value of a network, is never in memory whole, and a strip of it stays in the level-2 cache.

use super::conv::{PackedConv, source};
use super::dwconv::{DwRow, PackedDw, finished_row};
use super::gemm::{Epilogue, Part, Residual, SCRATCH, rows};
use super::rows::row;
use super::scratch::{Shared, with_scratch};
use crate::{ConvGeometry, Isa, Threads};

/// One of two convolutions in a row.
#[derive(Clone, Copy)]
pub struct Stage<'a, W> {
    /// Its geometry.
    pub geometry: &'a ConvGeometry,
    /// Its weight, packed for that geometry.
    pub weight: &'a W,
    /// What follows its sum.
    pub epilogue: Epilogue<'a>,
}

/// Values of a strip, about: 256 KiB.
const STRIP: usize = 1 << 16;

/// Convolves `x` with `first`, which has one group and no residual, and the result with `second`, which is depthwise,
/// into `out`: the same bits as [`conv`](super::conv()) and [`dwconv`](super::dwconv()) one after the other.
///
/// # Panics
/// When a geometry is not valid, of another kind or not that of its weight, the first weight is
/// [packed for tiles](PackedConv::goes_in_strips), the second does not begin where the first
/// ends, or a slice is too short.
pub fn conv_dw(
    isa: Isa,
    x: &[f32],
    first: &Stage<'_, PackedConv>,
    second: &Stage<'_, PackedDw>,
    out: &mut [f32],
    threads: &Threads,
) {
    let (f, g) = (first.geometry, second.geometry);
    first.weight.assert_fits(f, x);
    let b = first.weight.window().expect("a first convolution of one group, packed for windows");
    assert!(first.epilogue.residual.is_none(), "a residual between two convolutions");
    first.epilogue.assert_covers(0, f.c_out);
    assert_eq!([f.batch, f.h_out, f.w_out, f.c_out], [g.batch, g.h, g.w, g.c_in], "the image between two convolutions");
    second.weight.assert_fits(g);
    assert!(Some(out.len()) >= g.checked_output_len(), "an output of {} values", out.len());
    second.epilogue.assert_covers(g.pixels_out(), g.c_out);
    if g.checked_output_len() == Some(0) {
        return;
    }
    let (row, out) = (row(isa), Shared::new(out));
    let part = Part { source: source(f, x, 0), b, column: 0 };
    let (line, width) = (g.w * g.c_in, g.w_out * g.c_out);
    let reach = (g.kernel[0] - 1) * g.dilation[0] + 1;
    // Rows of the output that a strip makes, and rows between the convolutions that it has.
    let made = ((STRIP / line.max(1)).saturating_sub(reach) / g.stride[0] + 1).min(g.h_out);
    let held = ((made - 1) * g.stride[0] + reach).min(g.h);
    // Where one image must feed several threads, the rows around a cut are computed twice.
    let cuts = if threads.count() == 1 { 1 } else { (2 * threads.count()).div_ceil(g.batch).min(g.h_out) };
    threads.parallel_for(g.batch * cuts, &|task| {
        let (image, cut) = (task / cuts, task % cuts);
        let (begin, end) = (cut * g.h_out / cuts, (cut + 1) * g.h_out / cuts);
        with_scratch(held * line + SCRATCH, |scratch| {
            let (strip, a) = scratch.split_at_mut(held * line);
            // The rows that the strip holds.
            let mut have = (0, 0);
            for oy in (begin..end).step_by(made) {
                let count = made.min(end - oy);
                // Rows of the padding above the first window, and rows of the image from there to the last one's end.
                let top = g.pads[0].saturating_sub(oy * g.stride[0]);
                let from = (oy * g.stride[0] + top - g.pads[0]).min(g.h);
                let to = ((oy + count - 1) * g.stride[0] + reach).saturating_sub(g.pads[0]).clamp(from, g.h);
                let known = have.1.max(from);
                if have.1 > from {
                    strip.copy_within((from - have.0) * line..(have.1 - have.0) * line, 0);
                }
                have = (from, to);
                let pixels = [known, to].map(|y| (image * f.h_out + y) * f.w_out);
                let at = Shared::new(&mut strip[(known - from) * line..(to - from) * line]);
                // SAFETY: these are pixels of the geometry, whose input `x` covers; there is a row for each.
                unsafe { rows(row, &part, &first.epilogue, (pixels[0], pixels[1]), at, f.c_out, a) };
                let pads = [top, g.pads[1], 0, g.pads[3]];
                let local = ConvGeometry { batch: 1, h: to - from, h_out: count, pads, ..*g };
                let done = image * g.h_out + oy;
                let residual =
                    second.epilogue.residual.map(|r| Residual { data: &r.data[done * g.w_out * r.row_stride..], ..r });
                let epilogue = Epilogue { residual, ..second.epilogue };
                for r in 0..count {
                    let to = out.at((done + r) * width);
                    let call =
                        DwRow { g: &local, x: strip, weight: second.weight, epilogue: &epilogue, row: r, out: to };
                    // SAFETY: the strip holds the rows of the image that the windows of these rows lie in; the
                    // epilogue's slices cover the output, of which this row is this task's own.
                    unsafe { finished_row(row, &call) };
                }
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::super::test_data::{assert_same_bits, random};
    use super::super::{conv, dwconv};
    use super::*;

    #[test]
    fn strips_make_what_two_convolutions_make() {
        // A strip takes a part of these images, or the whole of the last one.
        for (input, middle, kernel, stride) in [
            ([2, 60, 40, 5], 48, [1, 1], [1, 1]),
            ([1, 61, 43, 3], 40, [3, 3], [1, 1]),
            ([2, 19, 40, 7], 96, [1, 1], [1, 1]),
            ([1, 120, 90, 3], 33, [3, 3], [2, 2]),
            ([3, 5, 6, 8], 20, [1, 1], [1, 1]),
            // The last strip of these ends in padding and needs no row more.
            ([1, 128, 128, 3], 144, [1, 1], [1, 1]),
        ] {
            let f = ConvGeometry::new(input, middle, kernel, stride, [1, 1], [0; 4], 1).expect("valid");
            let between = [f.batch, f.h_out, f.w_out, f.c_out];
            for (taps, stride, dilation, pads) in [
                ([3, 3], [1, 1], [1, 1], [1; 4]),
                ([3, 3], [2, 2], [1, 1], [0, 0, 1, 1]),
                ([5, 5], [1, 1], [1, 1], [2; 4]),
                ([2, 3], [3, 1], [2, 1], [4, 1, 4, 1]),
            ] {
                let g = ConvGeometry::new(between, middle, taps, stride, dilation, pads, middle);
                check(&f, &g.expect("valid"));
            }
        }
    }

    fn check(f: &ConvGeometry, g: &ConvGeometry) {
        let x = random(f.batch * f.h * f.w * f.c_in, 1);
        let (w, bias) = (PackedConv::pack(f, &random(f.c_out * f.k(), 2)).unwrap(), random(f.c_out, 3));
        let (dw, residual) =
            (PackedDw::pack(g, &random(g.c_out * g.k(), 4)).unwrap(), random(g.pixels_out() * g.c_out, 5));
        let residual = Some(Residual { data: &residual, row_stride: g.c_out });
        let first = Stage {
            geometry: f,
            weight: &w,
            epilogue: Epilogue { bias: Some(&bias), residual: None, activation: None, clamp: (0.0, 6.0) },
        };
        let second = Stage { geometry: g, weight: &dw, epilogue: Epilogue { residual, ..Epilogue::NONE } };
        let (mut between, mut expected) = (vec![0.0; f.pixels_out() * f.c_out], vec![0.0; g.pixels_out() * g.c_out]);
        let one = Threads::new(1);
        conv(Isa::PORTABLE, f, &x, &w, &first.epilogue, &mut between, &one);
        dwconv(Isa::PORTABLE, g, &between, &dw, &second.epilogue, &mut expected, &one);
        for isa in Isa::available() {
            for count in [1, 3, 4] {
                let mut out = vec![f32::NAN; expected.len()];
                conv_dw(isa, &x, &first, &second, &mut out, &Threads::new(count));
                assert_same_bits(&out, &expected, &format!("{isa} {f:?} {g:?} on {count}"));
            }
        }
    }
}
