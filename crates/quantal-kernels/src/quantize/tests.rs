use quantal_tensor::arith;

use super::{
    PIXELS, dequantize, dequantize_channels, min_max, quantize, quantize_channels, quantize_dynamic,
    quantize_interleaved, requantize,
};
use crate::Threads;
use crate::eltwise::OutCodes;
use crate::testing::{Seeded, code, on_every_width};

/// Ties, their neighbours, the ends of f32 and what is no number, then noise.
fn floats(scale: f32) -> Vec<f32> {
    let mut x = vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-45, -0.0];
    for i in -300..300 {
        let tie = (i as f32 + 0.5) * scale;
        x.extend([tie, tie.next_up(), tie.next_down()]);
    }
    let mut seeded = Seeded::new(1);
    x.extend((0..20_000).map(|_| seeded.float(-200.0, 200.0) * scale));
    x
}

#[test]
fn quantizing_divides_and_rounds_half_to_even() {
    for (scale, zero_point, qmin, qmax) in
        [(0.1, 0, -128, 127), (0.037, 128, 0, 255), (1.0, -3, -127, 127), (1e-30, 255, 0, 255)]
    {
        let x = floats(scale);
        let want: Vec<u8> = x.iter().map(|&x| arith::quantize(x, scale, zero_point, qmin, qmax) as u8).collect();
        on_every_width(|isa| {
            let mut out = vec![0; x.len()];
            quantize(isa, &x, scale, OutCodes { zero_point, qmin, qmax }, &mut out, &Threads::new(2)).unwrap();
            assert_eq!(out, want, "{isa}: scale {scale}");
        });
    }
}

#[test]
fn channels_have_their_own_scales() {
    let mut seeded = Seeded::new(2);
    let dims = [2, 3, 19];
    let x: Vec<f32> = (0..114).map(|_| seeded.float(-9.0, 9.0)).collect();
    let (scales, zero_points) = ([0.1, 0.03, 0.5], [1, -2, 100]);
    let of = |i: usize| (scales[i / 19 % 3], zero_points[i / 19 % 3]);
    let codes: Vec<u8> = (0..114).map(|i| arith::quantize(x[i], of(i).0, of(i).1, -128, 127) as u8).collect();
    let back: Vec<f32> = (0..114).map(|i| arith::dequantize(code(codes[i], true), of(i).0, of(i).1)).collect();
    on_every_width(|isa| {
        let (mut q, mut y, threads) = (vec![0; 114], vec![0.0; 114], &Threads::new(1));
        quantize_channels(isa, &x, dims, &scales, &zero_points, [-128, 127], &mut q, threads).unwrap();
        assert_eq!(q, codes, "{isa}");
        dequantize_channels(isa, &q, true, dims, &scales, &zero_points, &mut y, threads).unwrap();
        assert_eq!(y, back, "{isa}");
        assert!(quantize_channels(isa, &x, dims, &scales[..2], &[0], [0, 255], &mut q, threads).is_err());
    });
}

#[test]
fn pixels_are_quantized_with_their_channels_side_by_side() {
    let mut seeded = Seeded::new(3);
    for [batch, channels, pixels] in
        [[1, 1, 5], [2, 2, 7], [1, 3, PIXELS + 1], [2, 3, 2 * PIXELS], [1, 4, 33], [1, 3, 0]]
    {
        let n = batch * channels * pixels;
        let x: Vec<f32> = (0..n).map(|_| seeded.float(-9.0, 9.0)).collect();
        let mut want = vec![0; n];
        for (i, &x) in x.iter().enumerate() {
            let (image, c, p) = (i / (channels * pixels), i / pixels % channels, i % pixels);
            want[(image * pixels + p) * channels + c] = arith::quantize(x, 0.07, 3, -100, 120) as u8;
        }
        let y = OutCodes { zero_point: 3, qmin: -100, qmax: 120 };
        on_every_width(|isa| {
            let mut out = vec![0; n];
            let size = [batch, channels, pixels];
            quantize_interleaved(isa, &x, size, 0.07, y, &mut out, &Threads::new(2)).unwrap();
            assert_eq!(out, want, "{isa}: {size:?}");
        });
    }
    let isa = crate::Isa::PORTABLE;
    let y = OutCodes { zero_point: 0, qmin: 0, qmax: 255 };
    assert!(quantize_interleaved(isa, &[0.0; 5], [1, 5, 1], 1.0, y, &mut [0; 5], &Threads::new(1)).is_err());
}

#[test]
fn every_code_comes_back_as_the_equation_says() {
    let x: Vec<u8> = (0..=255).collect();
    on_every_width(|isa| {
        for signed in [false, true] {
            let mut out = vec![0.0; 256];
            dequantize(isa, &x, signed, 0.013, 5, &mut out, &Threads::new(1)).unwrap();
            assert!(x.iter().zip(&out).all(|(&q, &y)| y == arith::dequantize(code(q, signed), 0.013, 5)), "{isa}");
        }
    });
}

#[test]
fn accumulators_become_codes_as_the_equation_says() {
    let mut sums = vec![i32::MIN, i32::MAX, 0, 16_777_217, -16_777_217];
    sums.extend(-2000..2000);
    on_every_width(|isa| {
        for multiplier in [0.5, 0.0371, 1e9, -0.25] {
            let mut out = vec![0; sums.len()];
            let y = OutCodes { zero_point: 9, qmin: 0, qmax: 255 };
            requantize(isa, &sums, multiplier, y, &mut out, &Threads::new(1)).unwrap();
            let want = sums.iter().map(|&s| arith::requantize(s, multiplier, 9, 0, 255) as u8);
            assert!(want.eq(out), "{isa}: {multiplier}");
        }
    });
}

#[test]
fn dynamic_ranges_take_in_zero_and_skip_nan() {
    on_every_width(|isa| {
        let threads = &Threads::new(3);
        let mut x = vec![0.25; 50_000];
        (x[7], x[31_111], x[49_999]) = (f32::NAN, -1.5, 3.25);
        assert_eq!(min_max(isa, &x, threads), (-1.5, 3.25));
        assert_eq!(min_max(isa, &[f32::NAN], threads), (0.0, 0.0));
        assert_eq!(min_max(isa, &[], threads), (0.0, 0.0));
        let mut out = vec![0; x.len()];
        let (scale, zero_point) = quantize_dynamic(isa, &x, &mut out, threads).unwrap();
        assert_eq!((scale, zero_point), (4.75 / 255.0, (1.5_f32 / (4.75 / 255.0)).round_ties_even() as i32));
        assert_eq!([out[7], out[31_111], out[49_999]], [zero_point as u8, 0, 255]);
        assert!(quantize_dynamic(isa, &[f32::INFINITY], &mut out, threads).is_err());
    });
}
