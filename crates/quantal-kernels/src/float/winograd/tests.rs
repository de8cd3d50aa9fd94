use super::super::gemm::{Epilogue, Residual};
use super::super::test_data::{assert_same_bits, random};
use super::super::{PackedConv, Unary, conv};
use super::serves;
use crate::{ConvGeometry, Isa, Threads};

/// The sums in f64.
fn reference(g: &ConvGeometry, x: &[f32], weight: &[f32], e: &Epilogue<'_>) -> Vec<f64> {
    let mut out = Vec::new();
    for (pixel, o) in (0..g.pixels_out()).flat_map(|p| (0..g.c_out).map(move |o| (p, o))) {
        let (ox, oy, image) = (pixel % g.w_out, pixel / g.w_out % g.h_out, pixel / g.w_out / g.h_out);
        let mut sum = e.bias.map_or(0.0, |b| f64::from(b[o]));
        sum += e.residual.map_or(0.0, |r| f64::from(r.data[pixel * r.row_stride + o]));
        for (tap, c) in (0..9).flat_map(|tap| (0..g.c_in).map(move |c| (tap, c))) {
            let (iy, ix) = ((oy + tap / 3).wrapping_sub(g.pads[0]), (ox + tap % 3).wrapping_sub(g.pads[1]));
            if iy < g.h && ix < g.w {
                let x = x[((image * g.h + iy) * g.w + ix) * g.c_in + c];
                sum += f64::from(x) * f64::from(weight[(o * g.c_in + c) * 9 + tap]);
            }
        }
        let sum = if e.activation.is_some() { sum.abs() } else { sum };
        out.push(sum.clamp(f64::from(e.clamp.0), f64::from(e.clamp.1)));
    }
    out
}

/// Far above the error of the transforms, 1e-6 of the deviation of a sum of products of two values evenly in −1 … 1,
/// and far below what a wrong constant makes.
fn bound(g: &ConvGeometry) -> f64 {
    2e-5 * (g.k() as f64 / 9.0).sqrt()
}

#[test]
fn tiles_make_the_sums_within_their_rounding_and_the_same_bits_everywhere() {
    // Whole tiles and tiles over the edges, no padding and uneven padding, parts of vectors, two blocks of channels,
    // two parts of columns, two images.
    for (input, c_out, pads) in [
        ([1, 16, 16, 16], 16, [1; 4]),
        ([2, 13, 18, 20], 70, [1; 4]),
        ([1, 15, 17, 40], 130, [0; 4]),
        ([1, 14, 14, 272], 33, [0, 2, 2, 1]),
    ] {
        let g = ConvGeometry::new(input, c_out, [3, 3], [1, 1], [1, 1], pads, 1).expect("valid");
        assert!(serves(&g), "{g:?}");
        let (x, weight) = (random(g.batch * g.h * g.w * g.c_in, 1), random(g.c_out * g.k(), 2));
        let (bias, residual) = (random(g.c_out, 3), random(g.pixels_out() * (g.c_out + 3), 4));
        let residual = Some(Residual { data: &residual, row_stride: g.c_out + 3 });
        let full = Epilogue { bias: Some(&bias), residual, activation: None, clamp: (-1.0, 1.5) };
        let packed = PackedConv::pack(&g, &weight).unwrap();
        for e in [Epilogue::NONE, full, Epilogue { activation: Some(Unary::Abs), clamp: (0.5, 2.0), ..full }] {
            let mut one = vec![f32::NAN; g.pixels_out() * g.c_out];
            conv(Isa::PORTABLE, &g, &x, &packed, &e, &mut one, &Threads::new(1));
            for (i, (got, sum)) in one.iter().zip(reference(&g, &x, &weight, &e)).enumerate() {
                assert!((f64::from(*got) - sum).abs() < bound(&g), "{g:?}: [{i}] is {got}, not {sum}");
            }
            for isa in Isa::available() {
                for count in [1, 3] {
                    let mut out = vec![f32::NAN; one.len()];
                    conv(isa, &g, &x, &packed, &e, &mut out, &Threads::new(count));
                    assert_same_bits(&out, &one, &format!("{isa} {g:?} on {count}"));
                }
            }
        }
    }
}

#[test]
fn another_image_than_the_one_packed_for_is_tiled_alike() {
    let packed_for = ConvGeometry::new([1, 32, 32, 16], 24, [3, 3], [1, 1], [1, 1], [1; 4], 1).expect("valid");
    let weight = random(24 * packed_for.k(), 2);
    let packed = PackedConv::pack(&packed_for, &weight).unwrap();
    for [h, w] in [[1, 1], [2, 9], [5, 3]] {
        let g = ConvGeometry::new([1, h, w, 16], 24, [3, 3], [1, 1], [1, 1], [1; 4], 1).expect("valid");
        let (x, mut out) = (random(h * w * 16, 1), vec![f32::NAN; h * w * 24]);
        conv(Isa::PORTABLE, &g, &x, &packed, &Epilogue::NONE, &mut out, &Threads::new(1));
        for (got, sum) in out.iter().zip(reference(&g, &x, &weight, &Epilogue::NONE)) {
            assert!((f64::from(*got) - sum).abs() < bound(&g), "{h}x{w}: {got}, not {sum}");
        }
    }
}

#[test]
fn the_points_keep_the_error_near_that_of_the_direct_sum() {
    let g = ConvGeometry::new([1, 16, 16, 128], 16, [3, 3], [1, 1], [1, 1], [1; 4], 1).expect("valid");
    // Packed for one window: not for tiles.
    let direct = ConvGeometry::new([1, 3, 3, 128], 16, [3, 3], [1, 1], [1, 1], [0; 4], 1).expect("valid");
    assert!(serves(&g) && !serves(&direct));
    let (x, weight) = (random(16 * 16 * 128, 1), random(16 * g.k(), 2));
    let expected = reference(&g, &x, &weight, &Epilogue::NONE);
    let error = |packed_for: &ConvGeometry| {
        let mut out = vec![0.0; expected.len()];
        let packed = PackedConv::pack(packed_for, &weight).unwrap();
        conv(Isa::PORTABLE, &g, &x, &packed, &Epilogue::NONE, &mut out, &Threads::new(1));
        out.iter().zip(&expected).map(|(got, sum)| (f64::from(*got) - sum).powi(2)).sum::<f64>().sqrt()
    };
    // 2.1 times; with the points 0, ±1, ±2 it is above 4.
    assert!(error(&g) < 3.0 * error(&direct), "{} beside {}", error(&g), error(&direct));
}
