//! Convolution on channels-last images, without im2col: the windows of a few pixels are gathered into a block that
//! stays in cache, then multiplied like any matrix; or Winograd's tiles.

use super::gather::Source;
use super::gemm::{AView, Epilogue, Part, products};
use super::pack::PackedB;
use super::rows::row;
use super::scratch::Shared;
use super::winograd::{PackedTiles, serves, tiles};
use crate::{ConvGeometry, Isa, KernelError, Threads};

/// The weight of a convolution.
pub struct PackedConv(Form);

enum Form {
    /// For each group, rows in the order (ky, kx, channel).
    Windows(Vec<PackedB>),
    Tiles(PackedTiles),
}

impl PackedConv {
    /// Packs a weight laid out as ONNX does, `[c_out, c_in / groups, kernel[0], kernel[1]]`, for images of about the
    /// size of that of `g`: it decides between windows and tiles. Any image may follow.
    ///
    /// # Panics
    /// When the geometry is not valid or `weight` is too short.
    pub fn pack(g: &ConvGeometry, weight: &[f32]) -> Result<Self, KernelError> {
        assert!(g.valid(), "a valid geometry");
        assert!(Some(weight.len()) >= g.checked_weight_len(), "a weight of {} values", weight.len());
        if serves(g) {
            return Ok(Self(Form::Tiles(PackedTiles::pack(g, weight)?)));
        }
        let n = g.c_out / g.groups;
        let taps = g.kernel[0] * g.kernel[1];
        let pack = |group: usize| {
            let own = &weight[group * n * g.k()..][..n * g.k()];
            PackedB::from_taps(own, (g.k(), n), taps)
        };
        let groups = (0..g.groups).map(pack).collect::<Result<_, _>>()?;
        Ok(Self(Form::Windows(groups)))
    }

    /// The one group of a weight that is packed for windows, if it is.
    pub(super) fn window(&self) -> Option<&PackedB> {
        match &self.0 {
            Form::Windows(groups) if groups.len() == 1 => groups.first(),
            _ => None,
        }
    }

    /// Whether it may come before a depthwise convolution in [`conv_dw`](super::conv_dw()).
    pub fn goes_in_strips(&self) -> bool {
        self.window().is_some()
    }

    /// Asserts that it is packed for this geometry, of which `x` covers the input.
    pub(super) fn assert_fits(&self, g: &ConvGeometry, x: &[f32]) {
        assert!(g.valid(), "a valid geometry");
        assert!(Some(x.len()) >= g.checked_input_len(), "an input of {} values", x.len());
        let (k, n) = (g.k(), g.c_out / g.groups);
        let fits = match &self.0 {
            Form::Windows(groups) => groups.len() == g.groups && groups.iter().all(|b| b.k() == k && b.n() == n),
            Form::Tiles(weight) => weight.fits(g),
        };
        assert!(fits, "a weight packed for another geometry");
    }
}

/// Convolves `x` `[batch, h, w, c_in]` into `out` `[batch, h_out, w_out, c_out]`: each output is the chain over
/// (ky, kx, channel), padding taking part as 0.0. A residual has rows of output pixels.
///
/// Where Winograd's tiles serve, an output comes out of the 4 × 4 that it lies in: its error is relative to the largest
/// products of the tile's window, and what is not finite there reaches the whole tile.
///
/// # Panics
/// When the geometry is not valid or not that of `weight`, or a slice is too short for it.
pub fn conv(
    isa: Isa,
    g: &ConvGeometry,
    x: &[f32],
    weight: &PackedConv,
    epilogue: &Epilogue<'_>,
    out: &mut [f32],
    threads: &Threads,
) {
    weight.assert_fits(g, x);
    assert!(Some(out.len()) >= g.checked_output_len(), "an output of {} values", out.len());
    let (n, m) = (g.c_out / g.groups, g.pixels_out());
    epilogue.assert_covers(m, g.c_out);
    let (row, out) = (row(isa), Shared::new(out));
    match &weight.0 {
        Form::Windows(groups) => {
            let part = |(group, b)| Part { source: source(g, x, group), b, column: group * n };
            let parts: Vec<_> = groups.iter().enumerate().map(part).collect();
            // SAFETY: the input and the output have the geometry's lengths, each group its own n columns of c_out, the
            // epilogue's slices cover the output: asserted above.
            unsafe { products(row, m, &parts, epilogue, out, g.c_out, threads) };
        }
        // SAFETY: as above.
        Form::Tiles(weight) => unsafe { tiles(row, g, x, weight, epilogue, out, threads) },
    }
}

/// The windows of a group: the left side of the product that a convolution is.
pub(super) fn source<'a>(g: &'a ConvGeometry, x: &'a [f32], group: usize) -> Source<'a> {
    if g.is_pointwise() && [g.h_out, g.w_out] == [g.h, g.w] {
        Source::Matrix(AView { data: x, m: g.pixels_out(), row_stride: g.c_in, col_stride: 1 })
    } else {
        Source::Windows { x, geometry: g, group }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Residual;
    use super::super::test_data::{assert_same_bits, random};
    use super::*;
    use crate::testing::{DRAWS, Seeded, odd_channels, odd_window};

    fn reference(g: &ConvGeometry, x: &[f32], weight: &[f32], e: &Epilogue<'_>) -> Vec<f32> {
        let (channels, per_group) = (g.c_in / g.groups, g.c_out / g.groups);
        let mut out = Vec::new();
        for pixel in 0..g.pixels_out() {
            let (ox, oy, image) = (pixel % g.w_out, pixel / g.w_out % g.h_out, pixel / g.w_out / g.h_out);
            for o in 0..g.c_out {
                let mut sum = 0.0f32;
                for (ky, kx) in (0..g.kernel[0]).flat_map(|ky| (0..g.kernel[1]).map(move |kx| (ky, kx))) {
                    for c in 0..channels {
                        let iy = (oy * g.stride[0] + ky * g.dilation[0]).wrapping_sub(g.pads[0]);
                        let ix = (ox * g.stride[1] + kx * g.dilation[1]).wrapping_sub(g.pads[1]);
                        let inside = iy < g.h && ix < g.w;
                        let at = || ((image * g.h + iy) * g.w + ix) * g.c_in + o / per_group * channels + c;
                        let w = weight[((o * channels + c) * g.kernel[0] + ky) * g.kernel[1] + kx];
                        sum = if inside { x[at()] } else { 0.0 }.mul_add(w, sum);
                    }
                }
                sum += e.bias.map_or(0.0, |b| b[o]);
                sum += e.residual.map_or(0.0, |r| r.data[pixel * r.row_stride + o]);
                out.push(sum.max(e.clamp.0).min(e.clamp.1));
            }
        }
        out
    }

    fn check(g: &ConvGeometry) {
        let x = random(g.batch * g.h * g.w * g.c_in, 1);
        let weight = random(g.c_out * g.k(), 2);
        let (bias, residual) = (random(g.c_out, 3), random(g.pixels_out() * g.c_out, 4));
        let residual = Residual { data: &residual, row_stride: g.c_out };
        let e = Epilogue { bias: Some(&bias), residual: Some(residual), activation: None, clamp: (-0.5, 1.5) };
        let expected = reference(g, &x, &weight, &e);
        let packed = PackedConv::pack(g, &weight).unwrap();
        for isa in Isa::available() {
            for count in [1, 3] {
                let mut out = vec![0.0; expected.len()];
                conv(isa, g, &x, &packed, &e, &mut out, &Threads::new(count));
                assert_same_bits(&out, &expected, &format!("{isa} {g:?} on {count}"));
            }
        }
    }

    #[test]
    fn drawn_shapes_are_chains_bit_for_bit() {
        for seed in 0..DRAWS {
            let mut drawn = Seeded::new(seed);
            let channels = odd_channels(&mut drawn);
            let g = odd_window(&mut drawn, channels);
            // Tiles round otherwise.
            if !serves(&g) {
                check(&g);
            }
        }
    }

    #[test]
    fn each_output_is_a_chain_over_its_window() {
        let shapes = [
            ([1, 9, 7, 5], 18, [3, 3], 1),
            ([2, 6, 5, 40], 33, [3, 2], 1),
            ([1, 8, 8, 3], 16, [7, 7], 1),
            ([1, 7, 6, 12], 8, [3, 3], 4),
            ([1, 7, 9, 6], 6, [2, 3], 6),
            ([2, 5, 5, 20], 17, [1, 1], 1),
        ];
        for (input, c_out, kernel, groups) in shapes {
            for stride in [[1, 1], [2, 3]] {
                for dilation in [[1, 1], [1, 2], [2, 1]] {
                    for pads in [[0; 4], [1, 1, 1, 1], [0, 2, 3, 1]] {
                        if let Some(g) = ConvGeometry::new(input, c_out, kernel, stride, dilation, pads, groups) {
                            check(&g);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn windows_wholly_in_the_padding_and_blocks_of_k() {
        let wide = ConvGeometry::new([1, 2, 2, 3], 4, [3, 3], [1, 1], [1, 1], [5, 4, 4, 5], 1);
        check(&wide.expect("valid"));
        let deep = ConvGeometry::new([1, 4, 4, 70], 20, [3, 3], [1, 1], [1, 1], [1; 4], 1);
        check(&deep.expect("valid"));
        // Rounded up output sizes: the last windows hang over the padded edge.
        let hanging = ConvGeometry { stride: [3, 3], pads: [0; 4], h_out: 2, w_out: 2, ..deep.expect("valid") };
        assert!(hanging.valid());
        check(&hanging);
    }
}
