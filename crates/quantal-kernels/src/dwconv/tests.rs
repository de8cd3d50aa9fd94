use quantal_tensor::arith;

use super::rows::twins::TWINS;
use super::strips::Strips;
use super::{DwConvCall, PackedDwConv, dwconv};
use crate::gemm::{Epilogue, Residual};
use crate::testing::{DRAWS, Seeded, apart, code, odd_window, on_every_width};
use crate::{ConvGeometry, Isa, Threads};

struct Case {
    g: ConvGeometry,
    signed: [bool; 2],
    x_zero: i32,
    w_zeros: Vec<i32>,
}

fn geometry(c: usize, kernel: [usize; 2], [batch, h, w, h_out, w_out]: [usize; 5], pad: [usize; 2]) -> ConvGeometry {
    let pads = [pad[0], pad[1], 0, 0];
    let (stride, dilation) = ([1, 1], [1, 1]);
    ConvGeometry { batch, h, w, c_in: c, c_out: c, kernel, stride, dilation, pads, groups: c, h_out, w_out }
}

impl Case {
    fn reference(&self, x: &[u8], w: &[u8]) -> Vec<i32> {
        let Self { g, signed, x_zero, .. } = *self;
        let ConvGeometry { c_in: c, kernel: [kh, kw], stride, dilation, pads, .. } = g;
        let mut out = Vec::new();
        for i in 0..g.batch * g.h_out * g.w_out * c {
            let (pixel, channel) = (i / c, i % c);
            let (image, y, xx) = (pixel / (g.h_out * g.w_out), pixel / g.w_out % g.h_out, pixel % g.w_out);
            let w_zero = if self.w_zeros.is_empty() { 0 } else { self.w_zeros[channel % self.w_zeros.len()] };
            let mut sum = 0;
            for ky in 0..kh {
                for kx in 0..kw {
                    let iy = (y * stride[0] + ky * dilation[0]).wrapping_sub(pads[0]);
                    let ix = (xx * stride[1] + kx * dilation[1]).wrapping_sub(pads[1]);
                    if iy < g.h && ix < g.w {
                        let byte = x[((image * g.h + iy) * g.w + ix) * c + channel];
                        let weight = code(w[(channel * kh + ky) * kw + kx], signed[1]) - w_zero;
                        sum += (code(byte, signed[0]) - x_zero) * weight;
                    }
                }
            }
            out.push(sum);
        }
        out
    }
}

/// A case of any shape, types and zero points, for a seed.
fn drawn(seed: u64) -> Case {
    let mut random = Seeded::new(seed);
    let c = random.pick(&[1, 1, 3, 8, 16, 17, 32, 64, 70]);
    let g = odd_window(&mut random, [c, c, c]);
    let signed = [random.below(2) == 1, random.below(2) == 1];
    let code = |random: &mut Seeded, signed| random.below(256) as i32 - if signed { 128 } else { 0 };
    let x_zero = code(&mut random, signed[0]);
    let w_zeros = (0..random.pick(&[0, 0, 1, c])).map(|_| code(&mut random, signed[1])).collect();
    Case { g, signed, x_zero, w_zeros }
}

#[test]
fn codes_of_drawn_shapes_equal_the_definition_on_every_row() {
    for seed in 0..DRAWS {
        check_codes(&drawn(seed), false, seed % 3 == 0, (seed % 5 * 60) as i32, [0, 255], false);
    }
}

#[test]
fn depthwise_convolutions_equal_their_definition() {
    let mut cases = Vec::new();
    for c in [1, 3, 7, 8, 15, 16, 17, 24, 63, 64, 65, 100, 144] {
        let signed = [c % 2 == 1, c % 3 != 0];
        let w_zeros = if c % 3 == 0 { vec![255] } else { vec![] };
        cases.push(Case { g: geometry(c, [3, 3], [2, 7, 11, 7, 11], [1, 1]), signed, x_zero: 9, w_zeros });
    }
    let w_zeros = (0..20).map(|z| z * 12).collect();
    let g = ConvGeometry { stride: [2, 2], ..geometry(20, [5, 5], [1, 9, 9, 5, 5], [2, 2]) };
    cases.push(Case { g, signed: [false, false], x_zero: 255, w_zeros });
    let g = ConvGeometry { stride: [1, 2], dilation: [2, 2], ..geometry(33, [2, 3], [1, 5, 9, 5, 6], [1, 4]) };
    cases.push(Case { g, signed: [true, true], x_zero: -128, w_zeros: vec![] });
    let g = geometry(16, [1, 1], [1, 3, 3, 3, 3], [0, 0]);
    cases.push(Case { g, signed: [false, true], x_zero: 0, w_zeros: vec![] });
    cases.extend((0..DRAWS).map(drawn));
    for case in cases {
        let mut seeded = Seeded::new(case.g.c_in as u64);
        let x = seeded.bytes(case.g.batch * case.g.h * case.g.w * case.g.c_in);
        let w = seeded.bytes(case.g.c_in * case.g.kernel[0] * case.g.kernel[1]);
        let want = case.reference(&x, &w);
        on_every_width(|isa| {
            let weights = PackedDwConv::pack(isa, &case.g, &w, case.signed[1], &case.w_zeros).unwrap();
            for threads in [1, 2] {
                let mut out = vec![0; want.len()];
                let call = DwConvCall {
                    x: &x,
                    x_signed: case.signed[0],
                    x_zero_point: case.x_zero,
                    geometry: &case.g,
                    weights: &weights,
                    epilogue: Epilogue::I32 { bias: None, out: &mut out, ldc: case.g.c_in },
                };
                dwconv(call, &Threads::new(threads)).unwrap();
                assert!(out == want, "{isa}: {:?}", case.g);
            }
        });
    }
}

#[test]
fn the_last_channels_are_written_once_as_far_as_anyone_sees() {
    // 70 channels are two overlapping chunks; a table that is not idempotent would show a second application.
    let g = geometry(70, [3, 3], [1, 6, 6, 6, 6], [1, 1]);
    let case = Case { g, signed: [false, true], x_zero: 40, w_zeros: vec![] };
    let mut seeded = Seeded::new(5);
    let (x, w, r) = (seeded.bytes(36 * 70), seeded.bytes(9 * 70), seeded.bytes(36 * 70));
    let table: [u8; 256] = std::array::from_fn(|i| (i * 3 + 1) as u8);
    let multiplier: Vec<f32> = (0..70).map(|_| seeded.float(1e-4, 5e-3)).collect();
    let add = Residual {
        codes: Some(&r),
        signed: false,
        ld: 70,
        zero_point: 99,
        multiplier: 0.5,
        sum_multiplier: 0.9,
        out_zero_point: 20,
        qmin: 0,
        qmax: 255,
    };
    let one = |(i, &sum): (usize, &i32)| {
        let c = arith::requantize(sum, multiplier[i % 70], 128, 0, 255) - 128;
        table[arith::add(c, 0.9, i32::from(r[i]) - 99, 0.5, 20, 0, 255) as usize]
    };
    let want: Vec<u8> = case.reference(&x, &w).iter().enumerate().map(one).collect();
    on_every_width(|isa| {
        let weights = PackedDwConv::pack(isa, &case.g, &w, true, &[]).unwrap();
        let run = |add: Residual<'_>, out: &mut [u8]| {
            let epilogue = Epilogue::Codes {
                bias: None,
                multiplier: &multiplier,
                zero_point: 128,
                qmin: 0,
                qmax: 255,
                add: Some(add),
                table: Some(&table),
                out,
                ldc: 70,
            };
            let call =
                DwConvCall { x: &x, x_signed: false, x_zero_point: 40, geometry: &case.g, weights: &weights, epilogue };
            dwconv(call, &Threads::new(1))
        };
        let mut out = vec![0; want.len()];
        run(add, &mut out).unwrap();
        assert_eq!(out, want, "{isa}");
        // So they could not be written over the residual.
        assert!(run(Residual { codes: None, ..add }, &mut out).is_err());
    });
}

/// Checks codes on every row of the table that this CPU can run, on the emulated ones, and with 1 to 3 threads.
fn check_codes(case: &Case, extreme: bool, with_table: bool, zero_point: i32, [qmin, qmax]: [i32; 2], serves: bool) {
    let Case { g, signed, x_zero, .. } = case;
    let c = g.c_in;
    let mut seeded = Seeded::new((c + g.w) as u64);
    let (mut x, mut w) = (seeded.bytes(g.batch * g.h * g.w * c), seeded.bytes(c * g.kernel[0] * g.kernel[1]));
    if extreme {
        // The largest sums of either sign: both ends of the codes by both ends of the weights.
        for x in &mut x {
            *x = if *x < 30 { 0x80 } else { 0x7F } ^ if signed[0] { 0 } else { 0x80 };
        }
        for w in &mut w {
            *w = if *w < 60 { 0x80 } else { 0x7F };
        }
    }
    let bias: Vec<i32> = (0..c).map(|_| seeded.below(4000) as i32 - 2000).collect();
    let multiplier: Vec<f32> = (0..c).map(|_| seeded.float(1e-4, 9e-3)).collect();
    let table: [u8; 256] = std::array::from_fn(|i| (i * 3 + 1) as u8);
    let one = |(i, &sum): (usize, &i32)| {
        let code = arith::requantize(sum + bias[i % c], multiplier[i % c], zero_point, qmin, qmax) as u8;
        if with_table { table[usize::from(code)] } else { code }
    };
    let want: Vec<u8> = case.reference(&x, &w).iter().enumerate().map(one).collect();
    let check = |weights: &PackedDwConv, what: &str| {
        for (threads, gap) in [(1, 0), (3, 0), (1, 5)] {
            let want = apart(&want, c, gap, 0xA5);
            let mut out = vec![0xA5; want.len()];
            let epilogue = Epilogue::Codes {
                bias: Some(&bias),
                multiplier: &multiplier,
                zero_point,
                qmin,
                qmax,
                add: None,
                table: with_table.then_some(&table),
                out: &mut out,
                ldc: c + gap,
            };
            let (x_signed, x_zero_point) = (signed[0], *x_zero);
            dwconv(
                DwConvCall { x: &x, x_signed, x_zero_point, geometry: g, weights, epilogue },
                &Threads::new(threads),
            )
            .unwrap();
            assert!(out == want, "{what}: {g:?}");
        }
    };
    for isa in Isa::available() {
        let weights = PackedDwConv::pack(isa, g, &w, signed[1], &case.w_zeros).unwrap();
        if serves && c >= 64 {
            assert!(weights.strips.is_some(), "{isa}: {g:?}");
        }
        check(&weights, weights.kernel());
    }
    let zero = |channel: usize| if case.w_zeros.is_empty() { 0 } else { case.w_zeros[channel % case.w_zeros.len()] };
    let taps = g.kernel[0] * g.kernel[1];
    for kernel in TWINS {
        let mut weights = PackedDwConv::pack(Isa::PORTABLE, g, &w, signed[1], &case.w_zeros).unwrap();
        weights.strips =
            Strips::pack_for(kernel, g, |channel, tap| code(w[channel * taps + tap], signed[1]) - zero(channel));
        check(&weights, kernel.name);
    }
}

#[test]
fn codes_equal_the_definition_on_every_row() {
    let case = |g, signed, x_zero| Case { g, signed: [signed, true], x_zero, w_zeros: vec![] };
    let u8s = [0, 255];
    // Windows, strides, channels of one register, of several, of parts of one, and lines of one pixel and many.
    for kernel in [1, 2, 3, 4, 5, 7] {
        for stride in [1, 2] {
            for (i, c) in [8, 16, 24, 32, 64, 80, 144].into_iter().enumerate() {
                let pad = kernel / 2;
                let (h, w) = (kernel + i % 3, kernel + 4 * (i % 4) + stride);
                let g = ConvGeometry::new([2, h, w, c], c, [kernel; 2], [stride; 2], [1, 1], [pad; 4], c).unwrap();
                let zero_point = [0, 1, 127, 128, 255][(i + kernel) % 5];
                check_codes(
                    &case(g, i % 2 == 1, if i % 2 == 1 { -128 } else { 255 }),
                    false,
                    i % 3 == 0,
                    zero_point,
                    u8s,
                    true,
                );
            }
        }
    }
    // Wide lines make several strips; stride and padding differ by axis.
    for (w, c, stride, pads) in [(150, 32, 1, [1, 1, 1, 1]), (151, 64, 1, [0, 2, 1, 0]), (231, 96, 2, [2, 1, 0, 2])] {
        let g = ConvGeometry::new([1, 6, w, c], c, [3, 3], [2, stride], [1, 1], pads, c).unwrap();
        check_codes(&case(g, false, 3), false, true, 7, u8s, true);
    }
    let g = ConvGeometry::new([1, 9, 9, 64], 64, [5, 3], [3, 1], [1, 1], [4, 1, 4, 1], 64).unwrap();
    check_codes(&case(g, true, 5), false, false, 0, u8s, true);
}

#[test]
fn no_sum_saturates_on_the_way_to_a_code() {
    for (kernel, signed) in [(3, false), (5, true), (5, false)] {
        let g = ConvGeometry::new([1, 8, 8, 64], 64, [kernel; 2], [1, 1], [1, 1], [kernel / 2; 4], 64).unwrap();
        for x_zero in [0, 1, 127] {
            let case = Case { g, signed: [signed, true], x_zero, w_zeros: vec![] };
            check_codes(&case, true, false, 128, [0, 255], true);
            check_codes(&case, true, false, -1, [-128, 127], true);
            check_codes(&case, true, true, 10, [10, 200], true);
        }
    }
}

#[test]
fn what_strips_do_not_serve_is_served_all_the_same() {
    let g = ConvGeometry::new([1, 8, 8, 64], 64, [3, 3], [1, 1], [1, 1], [1; 4], 64).unwrap();
    let shifted = Case { g, signed: [false, false], x_zero: 4, w_zeros: vec![9] };
    check_codes(&shifted, false, true, 0, [0, 255], false);
    let dilated = ConvGeometry::new([1, 8, 8, 64], 64, [3, 3], [1, 1], [2, 2], [2; 4], 64).unwrap();
    check_codes(&Case { g: dilated, ..shifted }, false, true, 0, [0, 255], false);
}
