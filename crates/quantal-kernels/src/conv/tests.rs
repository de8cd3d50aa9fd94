use super::{ConvCall, PackedConv, conv};
use crate::gemm::Epilogue;
use crate::gemm::rows::twins::TWINS;
use crate::testing::{DRAWS, Seeded, apart, code, odd_channels, odd_transposed, odd_window};
use crate::{ConvGeometry, Isa, KernelError, Threads};

/// A convolution over one pixel, to be given a s.
fn shape(c_in: usize, c_out: usize, kernel: [usize; 2]) -> ConvGeometry {
    let (stride, dilation, pads) = ([1, 1], [1, 1], [0; 4]);
    ConvGeometry { batch: 1, h: 1, w: 1, c_in, c_out, kernel, stride, dilation, pads, groups: 1, h_out: 1, w_out: 1 }
}

/// `Σ (x − z_x)(w − z_w)` for each output, as plain loops over what the definition of a convolution says.
pub(super) fn reference(
    s: &ConvGeometry,
    x: impl Fn(usize, usize, usize, usize) -> i32,
    w: impl Fn(usize, usize, usize, usize) -> i32,
) -> Vec<i32> {
    let (c, n) = (s.c_in / s.groups, s.c_out / s.groups);
    let mut out = Vec::new();
    for b in 0..s.batch {
        for y in 0..s.h_out {
            for xx in 0..s.w_out {
                for o in 0..s.c_out {
                    let mut sum = 0;
                    for ky in 0..s.kernel[0] {
                        for kx in 0..s.kernel[1] {
                            let iy = (y * s.stride[0] + ky * s.dilation[0]) as isize - s.pads[0] as isize;
                            let ix = (xx * s.stride[1] + kx * s.dilation[1]) as isize - s.pads[1] as isize;
                            if iy < 0 || ix < 0 || iy >= s.h as isize || ix >= s.w as isize {
                                continue;
                            }
                            for i in 0..c {
                                sum += x(b, iy as usize, ix as usize, o / n * c + i) * w(o, i, ky, kx);
                            }
                        }
                    }
                    out.push(sum);
                }
            }
        }
    }
    out
}

/// The same for a transposed convolution: each input pixel is spread over the outputs that it reaches.
fn reference_transposed(
    s: &ConvGeometry,
    x: impl Fn(usize, usize, usize, usize) -> i32,
    w: impl Fn(usize, usize, usize, usize) -> i32,
) -> Vec<i32> {
    let (c, n) = (s.c_in / s.groups, s.c_out / s.groups);
    let mut out = vec![0; s.batch * s.h_out * s.w_out * s.c_out];
    for b in 0..s.batch {
        for iy in 0..s.h {
            for ix in 0..s.w {
                for ky in 0..s.kernel[0] {
                    for kx in 0..s.kernel[1] {
                        let y = (iy * s.stride[0] + ky * s.dilation[0]) as isize - s.pads[0] as isize;
                        let xx = (ix * s.stride[1] + kx * s.dilation[1]) as isize - s.pads[1] as isize;
                        if y < 0 || xx < 0 || y >= s.h_out as isize || xx >= s.w_out as isize {
                            continue;
                        }
                        let pixel = (b * s.h_out + y as usize) * s.w_out + xx as usize;
                        for i in 0..s.c_in {
                            for o in 0..n {
                                let g = i / c;
                                out[pixel * s.c_out + g * n + o] += x(b, iy, ix, i) * w(i, o, ky, kx);
                            }
                        }
                    }
                }
            }
        }
    }
    out
}

struct Case {
    geometry: ConvGeometry,
    x_signed: bool,
    x_zero: i32,
    w_signed: bool,
    w_zeros: Vec<i32>,
    transposed: bool,
}

fn run(case: &Case) {
    let Case { geometry: s, x_signed, x_zero, w_signed, ref w_zeros, transposed } = *case;
    let mut seeded = Seeded::new((s.c_in * 100 + s.c_out * 10 + s.kernel[0]) as u64);
    let x = seeded.bytes(s.batch * s.h * s.w * s.c_in);
    let w = seeded.bytes(s.c_out * (s.c_in / s.groups) * s.kernel[0] * s.kernel[1]);
    // Most are small, as most real ones are: for kernels whose steps are placed by the weights.
    let flip = if w_signed { 0 } else { 0x80 };
    let w: Vec<u8> = w.iter().map(|&w| if w % 16 == 0 { w } else { (w as i8 / 2) as u8 ^ flip }).collect();
    let [kh, kw] = s.kernel;
    let at = |b, y, xx, c| code(x[((b * s.h + y) * s.w + xx) * s.c_in + c], x_signed) - x_zero;
    let zero = |o: usize| match w_zeros.as_slice() {
        [] => 0,
        [one] => *one,
        many => many[o],
    };
    let want = if transposed {
        let n = s.c_out / s.groups;
        let c = s.c_in / s.groups;
        let weight = |i: usize, o: usize, ky: usize, kx: usize| {
            code(w[((i * n + o) * kh + ky) * kw + kx], w_signed) - zero(i / c * n + o)
        };
        reference_transposed(&s, at, weight)
    } else {
        let c = s.c_in / s.groups;
        let weight =
            |o: usize, i: usize, ky: usize, kx: usize| code(w[((o * c + i) * kh + ky) * kw + kx], w_signed) - zero(o);
        reference(&s, at, weight)
    };
    let kernels = Isa::available().into_iter().map(|isa| (isa, None));
    for (isa, kernel) in kernels.chain(TWINS.iter().map(|&twin| (Isa::PORTABLE, Some(twin)))) {
        let weights = match (transposed, kernel) {
            (false, None) => PackedConv::pack(isa, &s, &w, w_signed),
            (false, Some(_)) => PackedConv::pack_direct(isa, kernel, &s, &w, w_signed),
            (true, _) => PackedConv::pack_phases(isa, kernel, &s, &w, w_signed),
        };
        let weights = weights.unwrap();
        for threads in [1, 3] {
            let gap = 4 * (threads - 1);
            let want = apart(&want, s.c_out, gap, i32::MIN);
            let mut out = vec![i32::MIN; want.len()];
            let call = ConvCall {
                x: &x,
                x_signed,
                x_zero_point: x_zero,
                geometry: &s,
                weights: &weights,
                w_zero_points: w_zeros,
                epilogue: Epilogue::I32 { bias: None, out: &mut out, ldc: s.c_out + gap },
            };
            conv(call, &Threads::new(threads)).unwrap();
            assert!(out == want, "{isa}, {kernel:?}, {threads} threads: {s:?} transposed {transposed}");
        }
    }
}

type Size = [usize; 5];

fn resized(g: ConvGeometry, [batch, h, w, h_out, w_out]: Size) -> ConvGeometry {
    ConvGeometry { batch, h, w, h_out, w_out, ..g }
}

#[test]
fn convolutions_equal_their_definition() {
    let base = shape(8, 5, [3, 3]);
    let cases = [
        (shape(8, 70, [1, 1]), [2, 5, 6, 5, 6]),
        (shape(7, 3, [1, 1]), [1, 5, 6, 5, 6]),
        (ConvGeometry { stride: [2, 2], ..shape(8, 5, [1, 1]) }, [2, 5, 6, 3, 3]),
        (ConvGeometry { pads: [1, 1, 0, 0], ..base }, [2, 7, 6, 7, 6]),
        (ConvGeometry { pads: [1, 0, 0, 0], stride: [2, 1], ..base }, [1, 7, 9, 4, 8]),
        (ConvGeometry { pads: [3, 3, 0, 0], stride: [2, 2], ..shape(3, 17, [7, 7]) }, [2, 20, 18, 10, 9]),
        (ConvGeometry { pads: [4, 2, 0, 0], dilation: [2, 3], ..base }, [1, 6, 11, 10, 7]),
        (ConvGeometry { pads: [1, 1, 0, 0], groups: 4, ..shape(16, 12, [3, 3]) }, [2, 6, 5, 6, 5]),
        (ConvGeometry { groups: 3, stride: [2, 2], ..shape(9, 6, [2, 2]) }, [1, 6, 6, 3, 3]),
        (ConvGeometry { pads: [1, 1, 0, 0], groups: 6, ..shape(6, 12, [3, 3]) }, [1, 5, 5, 5, 5]),
        (ConvGeometry { pads: [5, 5, 0, 0], ..base }, [1, 2, 2, 10, 10]),
        (ConvGeometry { pads: [0, 2, 0, 0], ..shape(4, 4, [1, 5]) }, [1, 1, 30, 1, 30]),
        (ConvGeometry { pads: [1, 1, 0, 0], ..shape(64, 64, [3, 3]) }, [1, 14, 14, 14, 14]),
        (ConvGeometry { pads: [1, 1, 0, 0], stride: [2, 2], ..shape(32, 40, [3, 3]) }, [2, 15, 14, 8, 7]),
        (ConvGeometry { stride: [2, 3], ..shape(64, 16, [1, 1]) }, [3, 7, 9, 4, 3]),
        (ConvGeometry { pads: [1, 1, 0, 0], stride: [2, 1], ..shape(40, 6, [3, 3]) }, [1, 34, 35, 17, 35]),
        (ConvGeometry { pads: [0, 2, 0, 0], stride: [1, 3], ..shape(3, 9, [1, 7]) }, [2, 1, 400, 1, 133]),
        (ConvGeometry { pads: [0, 3, 0, 0], dilation: [1, 3], ..shape(33, 9, [1, 3]) }, [2, 1, 90, 1, 90]),
        (ConvGeometry { pads: [2, 0, 0, 0], ..shape(5, 9, [5, 1]) }, [1, 40, 1, 40, 1]),
    ];
    for (geometry, size) in cases {
        let geometry = resized(geometry, size);
        let per_channel = (0..geometry.c_out as i32).collect();
        for (x_signed, x_zero, w_signed, w_zeros) in [
            (false, 0, true, vec![]),
            (false, 255, true, vec![]),
            (true, -7, true, vec![]),
            (false, 128, false, vec![128]),
            (true, 100, true, per_channel),
        ] {
            run(&Case { geometry, x_signed, x_zero, w_signed, w_zeros, transposed: false });
        }
    }
}

#[test]
fn transposed_convolutions_equal_their_definition() {
    let cases = [
        (shape(8, 5, [3, 3]), [2, 4, 5, 6, 7]),
        (ConvGeometry { stride: [2, 2], ..shape(8, 5, [2, 2]) }, [1, 4, 5, 8, 10]),
        (ConvGeometry { stride: [2, 2], pads: [1, 1, 0, 0], ..shape(4, 6, [3, 3]) }, [2, 4, 5, 8, 10]),
        (ConvGeometry { stride: [3, 2], pads: [2, 0, 0, 0], groups: 2, ..shape(6, 4, [4, 3]) }, [1, 3, 4, 8, 9]),
        (ConvGeometry { stride: [3, 3], ..shape(3, 3, [1, 2]) }, [1, 3, 3, 9, 8]),
        (ConvGeometry { stride: [1, 2], pads: [0, 1, 0, 0], ..shape(40, 8, [1, 4]) }, [2, 1, 30, 1, 60]),
        (ConvGeometry { stride: [2, 2], ..shape(8, 5, [1, 2]) }, [1, 1, 5, 2, 10]),
        (ConvGeometry { stride: [2, 1], dilation: [2, 3], pads: [1, 2, 0, 0], ..shape(3, 4, [3, 2]) }, [1, 4, 5, 9, 6]),
    ];
    for (geometry, size) in cases {
        let geometry = resized(geometry, size);
        for (x_signed, x_zero, w_zeros) in [(false, 3, vec![]), (true, -128, vec![5])] {
            run(&Case { geometry, x_signed, x_zero, w_signed: true, w_zeros, transposed: true });
        }
    }
}

#[test]
fn convolutions_of_drawn_shapes_equal_their_definition() {
    for seed in 0..DRAWS {
        let mut random = Seeded::new(seed);
        let channels = odd_channels(&mut random);
        let geometry = odd_window(&mut random, channels);
        run(&drawn(&mut random, geometry, false));
    }
}

#[test]
fn transposed_convolutions_of_drawn_shapes_equal_their_definition() {
    for seed in 0..DRAWS {
        let mut random = Seeded::new(seed);
        let channels = odd_channels(&mut random);
        let geometry = odd_transposed(&mut random, channels);
        run(&drawn(&mut random, geometry, true));
    }
}

/// A case whose types and zero points are drawn, too.
fn drawn(random: &mut Seeded, geometry: ConvGeometry, transposed: bool) -> Case {
    let (x_signed, w_signed) = (random.below(2) == 1, random.below(2) == 1);
    let code = |random: &mut Seeded, signed| random.below(256) as i32 - if signed { 128 } else { 0 };
    let x_zero = code(random, x_signed);
    let zeros = [0, 0, 1, geometry.c_out];
    let w_zeros = (0..random.pick(&zeros)).map(|_| code(random, w_signed)).collect();
    Case { geometry, x_signed, x_zero, w_signed, w_zeros, transposed }
}

/// The one that wrote outside of its output: on one line, a vertical stride of 2 leaves phases without lines.
#[test]
fn a_transposed_convolution_of_one_line_fills_every_second_line() {
    for (stride, h_out) in [(2, 1), (2, 2), (64, 64), (64, 1)] {
        let geometry = ConvGeometry { stride: [stride, 1], ..shape(1, 1, [1, 1]) };
        let g = resized(geometry, [1, 1, 4, h_out, 4]);
        for isa in Isa::available() {
            let weights = PackedConv::pack_transposed(isa, &g, &[1], true).unwrap();
            let mut out = vec![-1; h_out * 4];
            let call = ConvCall {
                x: &[1, 2, 3, 4],
                x_signed: true,
                x_zero_point: 0,
                geometry: &g,
                weights: &weights,
                w_zero_points: &[],
                epilogue: Epilogue::I32 { bias: None, out: &mut out, ldc: 1 },
            };
            conv(call, &Threads::new(1)).unwrap();
            assert_eq!(out[..4], [1, 2, 3, 4], "{isa}, stride {stride}");
            assert!(out[4..].iter().all(|&y| y == 0), "{isa}, stride {stride}");
        }
    }
}

#[test]
fn few_pixels_of_a_pointwise_convolution_get_the_kernel_of_few_rows() {
    for isa in Isa::available() {
        let pack = |kernel: [usize; 2]| {
            let g = shape(8, 24, kernel);
            PackedConv::pack(isa, &g, &vec![1; g.k() * g.c_out], true).unwrap()
        };
        let pointwise = pack([1, 1]);
        let few = pointwise.kernel().few.map_or(pointwise.kernel(), |few| few.1);
        assert_eq!(pointwise.kernel_for(1), few, "{isa}");
        assert_eq!(pointwise.kernel_for(1000), pointwise.kernel(), "{isa}");
        assert_eq!(pack([3, 1]).kernel_for(1), pack([3, 1]).kernel(), "{isa}");
    }
}

#[test]
fn what_is_no_convolution_is_refused() {
    let isa = Isa::PORTABLE;
    let pack = |s: ConvGeometry, weights: usize| PackedConv::pack(isa, &s, &vec![1; weights], true).err();
    let geometry = |e| matches!(e, Some(KernelError::Geometry(_)));
    assert!(geometry(pack(ConvGeometry { groups: 3, ..shape(4, 6, [1, 1]) }, 24)));
    assert!(geometry(pack(ConvGeometry { groups: 0, ..shape(4, 6, [1, 1]) }, 24)));
    assert!(geometry(pack(ConvGeometry { stride: [0, 1], ..shape(4, 6, [1, 1]) }, 24)));
    assert!(geometry(pack(shape(4, 6, [0, 1]), 24)));
    assert!(matches!(pack(shape(4, 6, [3, 3]), 215), Some(KernelError::Length { .. })));
    // Taps a billion pixels apart, and an image that is nearly all padding.
    let far = 1 << 29;
    let s = ConvGeometry { pads: [far, far, far, far], dilation: [far, far], ..shape(1, 1, [3, 3]) };
    let weights = PackedConv::pack(isa, &s, &[1; 9], true).unwrap();
    let call = ConvCall {
        x: &[0],
        x_signed: false,
        x_zero_point: 0,
        geometry: &s,
        weights: &weights,
        w_zero_points: &[],
        epilogue: Epilogue::I32 { bias: None, out: &mut [0], ldc: 1 },
    };
    assert!(geometry(conv(call, &Threads::new(1)).err()));
}
