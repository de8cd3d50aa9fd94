//! Transposed convolution on channels-last images: for each output pixel, the taps that reach it.

use super::gemm::{Epilogue, NO_CLAMP};
use super::lanes::{FloatIsa, LANES};
use super::pack::PackedB;
use super::rows::row;
use super::scratch::Shared;
use super::unary;
use crate::{ConvGeometry, Isa, KernelError, Threads};

/// The weight of a transposed convolution, packed per group: rows in the order (ky, kx, channel).
pub struct PackedConvTranspose {
    groups: Vec<PackedB>,
}

/// Whether `g` describes a transposed convolution: `h`, `w`, `c_in` of its input and `h_out`, `w_out`, `c_out` of its
/// output, of any size, but nothing zero where one divides and no number that overflows.
pub fn valid_transposed(g: &ConvGeometry) -> bool {
    let axis = |a: usize, size: usize| {
        let reach = g.kernel[a].checked_sub(1)?.checked_mul(g.dilation[a])?;
        size.checked_add(reach)?.checked_add(g.pads[a]).filter(|&end| end <= isize::MAX as usize / 8)
    };
    g.groups > 0
        && g.c_in.is_multiple_of(g.groups)
        && g.c_out.is_multiple_of(g.groups)
        && g.stride.iter().chain(&g.dilation).all(|&s| s > 0)
        && axis(0, g.h_out).is_some()
        && axis(1, g.w_out).is_some()
        && [g.checked_input_len(), g.checked_output_len(), g.checked_weight_len()]
            .iter()
            .all(|len| len.is_some_and(|len| len <= isize::MAX as usize / 8))
}

impl PackedConvTranspose {
    /// Packs a weight laid out as ONNX does, `[c_in, c_out / groups, kernel[0], kernel[1]]`.
    ///
    /// # Errors
    /// If memory runs out.
    ///
    /// # Panics
    /// When the geometry is not [valid](valid_transposed) or `weight` is too short.
    pub fn pack(g: &ConvGeometry, weight: &[f32]) -> Result<Self, KernelError> {
        assert!(valid_transposed(g), "a valid geometry");
        assert!(Some(weight.len()) >= g.checked_weight_len(), "a weight of {} values", weight.len());
        let (channels, n) = (g.c_in / g.groups, g.c_out / g.groups);
        let taps = g.kernel[0] * g.kernel[1];
        let pack = |group: usize| {
            PackedB::from_fn(g.k(), n, |k, j| {
                let (tap, channel) = (k / channels, k % channels);
                weight[((group * channels + channel) * n + j) * taps + tap]
            })
        };
        Ok(Self { groups: (0..g.groups).map(pack).collect::<Result<_, _>>()? })
    }
}

/// `out[oy, ox] = epilogue(Σ x[iy, ix]·weight[ky, kx])` over all taps with `oy + pad = iy·stride + ky·dilation` (and so
/// for x): a chain in the order (ky, kx, channel). Of the pads only top and left count; the output size is given.
///
/// # Panics
/// When the geometry is not [valid](valid_transposed) or not that of `weight`, or a slice is too short for it.
pub fn conv_transpose(
    isa: Isa,
    g: &ConvGeometry,
    x: &[f32],
    weight: &PackedConvTranspose,
    epilogue: &Epilogue<'_>,
    out: &mut [f32],
    threads: &Threads,
) {
    assert!(valid_transposed(g), "a valid geometry");
    assert!(Some(x.len()) >= g.checked_input_len(), "an input of {} values", x.len());
    assert!(Some(out.len()) >= g.checked_output_len(), "an output of {} values", out.len());
    let (k, n) = (g.k(), g.c_out / g.groups);
    assert!(
        weight.groups.len() == g.groups && weight.groups.iter().all(|b| b.k() == k && b.n() == n),
        "a weight packed for another geometry"
    );
    epilogue.assert_covers(g.pixels_out(), g.c_out);
    if g.checked_output_len() == Some(0) {
        return;
    }
    let row = row(isa);
    let out = Shared::new(out);
    let width = g.w_out * g.c_out;
    threads.parallel_for(g.batch * g.h_out, &|r| {
        let call = TransposedRow { g, x, weight, epilogue, row: r, out: out.at(r * width) };
        // SAFETY: the input, the weight, the epilogue's slices and the output cover the geometry, asserted above; row r
        // of the output is this task's own.
        unsafe { (row.transposed_row)(&call) };
        if let Some(activation) = epilogue.activation {
            // SAFETY: as above.
            let y = unsafe { std::slice::from_raw_parts_mut(out.at(r * width), width) };
            unary::apply(row, activation, epilogue.clamp, y);
        }
    });
}

/// One row of output pixels.
pub(super) struct TransposedRow<'a> {
    g: &'a ConvGeometry,
    x: &'a [f32],
    weight: &'a PackedConvTranspose,
    epilogue: &'a Epilogue<'a>,
    /// Counted over all images.
    row: usize,
    out: *mut f32,
}

/// Where tap `k` that reaches output coordinate `o` begins in the input, if it lies in it.
#[inline(always)]
fn source(g: &ConvGeometry, axis: usize, o: usize, k: usize, size: usize) -> Option<usize> {
    let at = (o + g.pads[axis]).checked_sub(k * g.dilation[axis])?;
    (at.is_multiple_of(g.stride[axis]) && at / g.stride[axis] < size).then_some(at / g.stride[axis])
}

/// # Safety
/// The slices cover the geometry, and `out` is good for writing `w_out·c_out` values.
#[inline(always)]
pub(super) unsafe fn transposed_row<I: FloatIsa>(isa: I, t: &TransposedRow<'_>) {
    let g = t.g;
    let (oy, image) = (t.row % g.h_out, t.row / g.h_out);
    let (channels, n) = (g.c_in / g.groups, g.c_out / g.groups);
    for ox in 0..g.w_out {
        for (group, b) in t.weight.groups.iter().enumerate() {
            for first in (0..n).step_by(LANES) {
                let mut acc = isa.splat(0.0);
                for ky in 0..g.kernel[0] {
                    let Some(iy) = source(g, 0, oy, ky, g.h) else { continue };
                    for kx in 0..g.kernel[1] {
                        let Some(ix) = source(g, 1, ox, kx, g.w) else { continue };
                        let pixel = (image * g.h + iy) * g.w + ix;
                        let x = &t.x[pixel * g.c_in + group * channels..][..channels];
                        let line = (ky * g.kernel[1] + kx) * channels;
                        for (c, &x) in x.iter().enumerate() {
                            let w = b.line(line + c, first / LANES);
                            // SAFETY: 16 values.
                            acc = isa.fma(isa.splat(x), unsafe { isa.load(w.as_ptr()) }, acc);
                        }
                    }
                }
                let (column, count) = (group * n + first, (n - first).min(LANES));
                // SAFETY: the epilogue's slices and the output cover the geometry; `count` channels from `column`.
                unsafe {
                    if let Some(bias) = t.epilogue.bias {
                        acc = isa.add(acc, isa.load_part(bias.as_ptr().add(column), count));
                    }
                    if let Some(r) = t.epilogue.residual {
                        let at = (t.row * g.w_out + ox) * r.row_stride + column;
                        acc = isa.add(acc, isa.load_part(r.data.as_ptr().add(at), count));
                    }
                    let clamp = if t.epilogue.activation.is_none() { t.epilogue.clamp } else { NO_CLAMP };
                    acc = isa.min(isa.splat(clamp.1), isa.max(isa.splat(clamp.0), acc));
                    isa.store_part(t.out.add(ox * g.c_out + column), acc, count);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_data::{assert_same_bits, random};
    use super::*;
    use crate::testing::{DRAWS, Seeded, odd_channels, odd_transposed};

    /// By scattering: each input pixel into the outputs it reaches, in f64.
    fn scattered(g: &ConvGeometry, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f64> {
        let (channels, n) = (g.c_in / g.groups, g.c_out / g.groups);
        let mut out: Vec<f64> = (0..g.pixels_out() * g.c_out).map(|i| f64::from(bias[i % g.c_out])).collect();
        for pixel in 0..g.batch * g.h * g.w {
            let (ix, iy, image) = (pixel % g.w, pixel / g.w % g.h, pixel / g.w / g.h);
            for (ky, kx) in (0..g.kernel[0]).flat_map(|ky| (0..g.kernel[1]).map(move |kx| (ky, kx))) {
                let oy = (iy * g.stride[0] + ky * g.dilation[0]).wrapping_sub(g.pads[0]);
                let ox = (ix * g.stride[1] + kx * g.dilation[1]).wrapping_sub(g.pads[1]);
                if oy >= g.h_out || ox >= g.w_out {
                    continue;
                }
                for c in 0..g.c_in {
                    for j in 0..n {
                        let w = weight[((c * n + j) * g.kernel[0] + ky) * g.kernel[1] + kx];
                        let o = ((image * g.h_out + oy) * g.w_out + ox) * g.c_out + c / channels * n + j;
                        out[o] += f64::from(x[pixel * g.c_in + c]) * f64::from(w);
                    }
                }
            }
        }
        out
    }

    /// By gathering: for each output the chain over (ky, kx, channel) of the taps that reach it, and the bias.
    fn chains(g: &ConvGeometry, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
        let (channels, n) = (g.c_in / g.groups, g.c_out / g.groups);
        let mut out = Vec::new();
        for o in 0..g.pixels_out() * g.c_out {
            let (j, pixel) = (o % g.c_out, o / g.c_out);
            let (ox, oy, image) = (pixel % g.w_out, pixel / g.w_out % g.h_out, pixel / g.w_out / g.h_out);
            let mut sum = 0.0_f32;
            for (ky, kx) in (0..g.kernel[0]).flat_map(|ky| (0..g.kernel[1]).map(move |kx| (ky, kx))) {
                let reaches = |iy: usize, ix: usize| {
                    [iy * g.stride[0] + ky * g.dilation[0], ix * g.stride[1] + kx * g.dilation[1]]
                        == [oy + g.pads[0], ox + g.pads[1]]
                };
                for (iy, ix) in (0..g.h).flat_map(|iy| (0..g.w).map(move |ix| (iy, ix))).filter(|&(y, x)| reaches(y, x))
                {
                    for c in 0..channels {
                        let x = x[((image * g.h + iy) * g.w + ix) * g.c_in + j / n * channels + c];
                        let w = weight[(((j / n * channels + c) * n + j % n) * g.kernel[0] + ky) * g.kernel[1] + kx];
                        sum = x.mul_add(w, sum);
                    }
                }
            }
            out.push(sum + bias[j]);
        }
        out
    }

    #[test]
    fn drawn_shapes_are_chains_bit_for_bit() {
        for seed in 0..DRAWS {
            let mut drawn = Seeded::new(seed);
            let channels = odd_channels(&mut drawn);
            let g = odd_transposed(&mut drawn, channels);
            assert!(valid_transposed(&g), "{g:?}");
            let x = random(g.batch * g.h * g.w * g.c_in, 1);
            let (weight, bias) = (random(g.k() * g.c_out, 2), random(g.c_out, 3));
            let expected = chains(&g, &x, &weight, &bias);
            let packed = PackedConvTranspose::pack(&g, &weight).unwrap();
            let e = Epilogue { bias: Some(&bias), ..Epilogue::NONE };
            for isa in Isa::available() {
                let mut out = vec![0.0; expected.len()];
                conv_transpose(isa, &g, &x, &packed, &e, &mut out, &Threads::new(2));
                assert_same_bits(&out, &expected, &format!("{isa} {g:?}"));
            }
        }
    }

    #[test]
    fn gathering_is_scattering() {
        for (stride, dilation, pads, size) in [
            ([1, 1], [1, 1], [0; 4], [6, 7]),
            ([2, 2], [1, 1], [1, 1, 1, 1], [7, 10]),
            ([2, 3], [2, 1], [0, 2, 1, 0], [12, 16]),
        ] {
            for (c_in, c_out, groups) in [(3, 17, 1), (4, 6, 2)] {
                let g = ConvGeometry {
                    batch: 2,
                    h: 4,
                    w: 5,
                    c_in,
                    c_out,
                    kernel: [3, 3],
                    stride,
                    dilation,
                    pads,
                    groups,
                    h_out: size[0],
                    w_out: size[1],
                };
                let (x, weight, bias) = (random(40 * c_in, 1), random(9 * c_in * c_out / groups, 2), random(c_out, 3));
                let exact = scattered(&g, &x, &weight, &bias);
                let packed = PackedConvTranspose::pack(&g, &weight).unwrap();
                let e = Epilogue { bias: Some(&bias), ..Epilogue::NONE };
                let mut portable = vec![0.0; exact.len()];
                conv_transpose(Isa::PORTABLE, &g, &x, &packed, &e, &mut portable, &Threads::new(1));
                for (y, e) in portable.iter().zip(&exact) {
                    assert!((f64::from(*y) - e).abs() < 1e-5, "{y} {e} {g:?}");
                }
                for isa in Isa::available() {
                    let mut out = vec![0.0; exact.len()];
                    conv_transpose(isa, &g, &x, &packed, &e, &mut out, &Threads::new(2));
                    assert_same_bits(&out, &portable, &format!("{isa} {g:?}"));
                }
            }
        }
    }
}
