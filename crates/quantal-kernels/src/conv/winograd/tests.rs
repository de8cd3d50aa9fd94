use quantal_tensor::arith;

use super::transform::MOST_SUM;
use super::{WINOGRAD_KERNELS, WinogradKernel, select};
use crate::conv::tests::reference;
use crate::conv::{ConvCall, PackedConv, conv};
use crate::gemm::{Epilogue, Residual};
use crate::testing::{Seeded, code};
use crate::{ConvGeometry, Isa, KernelError, Level, Threads};

/// Runs `test` on every kernel that this CPU can run.
fn on_every_kernel(test: impl Fn(Isa, &'static WinogradKernel)) {
    for isa in Isa::available() {
        WINOGRAD_KERNELS.iter().filter(|k| k.product.level == isa.level()).for_each(|k| test(isa, k));
    }
}

fn geometry(batch: usize, [h, w]: [usize; 2], c_in: usize, c_out: usize, pads: [usize; 4]) -> ConvGeometry {
    ConvGeometry::new([batch, h, w, c_in], c_out, [3, 3], [1, 1], [1, 1], pads, 1).expect("a window fits")
}

struct Case {
    g: ConvGeometry,
    x: Vec<u8>,
    x_signed: bool,
    x_zero: i32,
    w: Vec<u8>,
    w_signed: bool,
    w_zeros: Vec<i32>,
}

impl Case {
    fn random(g: ConvGeometry) -> Self {
        let mut seeded = Seeded::new((g.h * 1000 + g.w * 100 + g.c_in * 10 + g.c_out) as u64);
        let (x, w) = (seeded.bytes(g.batch * g.h * g.w * g.c_in), seeded.bytes(9 * g.c_in * g.c_out));
        Self { g, x, x_signed: false, x_zero: 0, w, w_signed: true, w_zeros: Vec::new() }
    }

    fn filled(g: ConvGeometry, x: u8, w: u8) -> Self {
        let random = Self::random(g);
        Self { x: vec![x; random.x.len()], w: vec![w; random.w.len()], ..random }
    }

    /// `Σ (x − z_x)(w − z_w)` by the definition of a convolution.
    fn sums(&self) -> Vec<i32> {
        let g = &self.g;
        let zero = |o: usize| match self.w_zeros.as_slice() {
            [] => 0,
            [one] => *one,
            many => many[o],
        };
        reference(
            g,
            |b, y, x, c| code(self.x[((b * g.h + y) * g.w + x) * g.c_in + c], self.x_signed) - self.x_zero,
            |o, i, y, x| code(self.w[((o * g.c_in + i) * 3 + y) * 3 + x], self.w_signed) - zero(o),
        )
    }

    fn pack(&self, isa: Isa, kernel: &'static WinogradKernel) -> Option<PackedConv> {
        PackedConv::pack_winograd(isa, kernel, &self.g, &self.w, self.w_signed).unwrap()
    }

    fn run(&self, weights: &PackedConv, epilogue: Epilogue, threads: usize) {
        let call = ConvCall {
            x: &self.x,
            x_signed: self.x_signed,
            x_zero_point: self.x_zero,
            geometry: &self.g,
            weights,
            w_zero_points: &self.w_zeros,
            epilogue,
        };
        conv(call, &Threads::new(threads)).unwrap();
    }

    /// Compares the sums of every kernel with the definition, and that nothing between rows was written.
    fn check(&self) {
        const UNTOUCHED: i32 = 0x5AFE;
        let (g, want) = (&self.g, self.sums());
        on_every_kernel(|isa, kernel| {
            let weights = self.pack(isa, kernel).expect("the sums are small enough");
            let ldc = g.c_out + 3;
            for threads in 1..=3 {
                let mut out = vec![UNTOUCHED; g.pixels_out() * ldc];
                self.run(&weights, Epilogue::I32 { bias: None, out: &mut out, ldc }, threads);
                for (i, (row, want)) in out.chunks(ldc).zip(want.chunks(g.c_out)).enumerate() {
                    let name = kernel.product.name;
                    assert_eq!(&row[..g.c_out], want, "{name}, {threads} threads, pixel {i} of {g:?}");
                    assert!(row[g.c_out..].iter().all(|&v| v == UNTOUCHED), "{name} wrote past a row of {g:?}");
                }
            }
        });
    }
}

#[test]
fn extremes_are_exact() {
    // Every corner of what transforms and products can reach: codes and weights at their ends, alike and alternating.
    for (x, w) in [(255, 0x80), (255, 127), (0, 0x80), (128, 0x81), (255, 1)] {
        Case::filled(geometry(1, [9, 6], 33, 17, [1; 4]), x, w).check();
    }
    for seed in 0..4 {
        let mut case = Case::random(geometry(1, [8, 8], 48, 20, [1; 4]));
        let mut seeded = Seeded::new(seed);
        case.x.iter_mut().for_each(|x| *x = if seeded.below(2) == 0 { 0 } else { 255 });
        case.w.iter_mut().for_each(|w| *w = if seeded.below(2) == 0 { 0x80 } else { 127 });
        case.check();
    }
}

#[test]
fn sums_are_exact_up_to_the_largest_and_refused_beyond() {
    // 2^25 / (255 · 128 · 9) = 114.2 channels of the largest weights.
    for (w, most) in [(0x80, 114), (127, 115), (0x81, 115)] {
        let fits = Case::filled(geometry(1, [3, 3], most, 2, [1; 4]), 255, w);
        assert!(255 * 9 * most as u64 * u64::from((w as i8).unsigned_abs()) < MOST_SUM);
        fits.check();
        let too_deep = Case::filled(geometry(1, [3, 3], most + 1, 2, [1; 4]), 255, w);
        on_every_kernel(|isa, kernel| assert!(too_deep.pack(isa, kernel).is_none()));
    }
}

#[test]
fn every_size_of_image_and_pad_is_exact() {
    for (h, w) in [(1, 1), (1, 4), (2, 2), (3, 5), (4, 4), (5, 4), (6, 7), (7, 6), (8, 8), (9, 11), (14, 14), (13, 30)]
    {
        for pads in [[0; 4], [1; 4], [1, 0, 0, 1], [2; 4], [0, 1, 2, 0]] {
            if h + pads[0] + pads[2] >= 3 && w + pads[1] + pads[3] >= 3 {
                Case { x_zero: 7, ..Case::random(geometry(1, [h, w], 16, 16, pads)) }.check();
            }
        }
    }
    Case { x_zero: 200, ..Case::random(geometry(3, [7, 9], 32, 24, [1; 4])) }.check();
}

#[test]
fn every_number_of_channels_is_exact() {
    for c_in in (1..=35).chain([63, 64, 65, 129]) {
        Case { x_zero: 128, ..Case::random(geometry(2, [5, 6], c_in, 5, [1; 4])) }.check();
    }
    for c_out in (1..=18).chain([31, 33, 63, 64, 65, 130]) {
        Case { x_zero: 1, ..Case::random(geometry(1, [6, 5], 10, c_out, [1; 4])) }.check();
    }
}

#[test]
fn zero_points_and_signs_are_exact() {
    let g = geometry(1, [7, 6], 19, 21, [1; 4]);
    for (x_signed, w_signed) in [(false, true), (true, true), (false, false), (true, false)] {
        for x_zero in [0, 1, 128, 255] {
            for w_zeros in [vec![], vec![1], vec![128], (0..21).map(|j| j * 12).collect()] {
                let x_zero = if x_signed { x_zero - 128 } else { x_zero };
                let shift = if w_signed { 128 } else { 0 };
                let w_zeros = w_zeros.into_iter().map(|z| z - shift).collect();
                Case { x_signed, x_zero, w_signed, w_zeros, ..Case::random(g) }.check();
            }
        }
    }
}

#[test]
fn codes_equal_the_arithmetic() {
    let table: [u8; 256] = std::array::from_fn(|i| (i * 77 + 5) as u8);
    let case = Case { x_zero: 3, ..Case::random(geometry(2, [9, 10], 24, 37, [1; 4])) };
    let (n, pixels) = (case.g.c_out, case.g.pixels_out());
    let mut seeded = Seeded::new(5);
    let residual = seeded.bytes(pixels * n);
    let bias: Vec<i32> = (0..n).map(|_| seeded.below(20000) as i32 - 10000).collect();
    let multiplier: Vec<f32> = (0..n).map(|_| seeded.float(1e-4, 1e-3)).collect();
    let add = Residual {
        codes: Some(&residual),
        signed: false,
        ld: n,
        zero_point: 9,
        multiplier: 0.7,
        sum_multiplier: 1.1,
        out_zero_point: 20,
        qmin: 20,
        qmax: 255,
    };
    let sums = case.sums();
    let want = |with: bool| -> Vec<u8> {
        let one = |(i, &sum): (usize, &i32)| {
            let c = arith::requantize(sum + bias[i % n], multiplier[i % n], 100, 0, 255);
            let r = i32::from(residual[i]) - add.zero_point;
            let y = arith::add(c - 100, add.sum_multiplier, r, add.multiplier, add.out_zero_point, add.qmin, add.qmax);
            if with { table[y as usize] } else { c as u8 }
        };
        sums.iter().enumerate().map(one).collect()
    };
    on_every_kernel(|isa, kernel| {
        let weights = case.pack(isa, kernel).expect("the sums are small enough");
        let over = Residual { codes: None, ..add };
        for (add, mut out) in
            [(None, vec![0; pixels * n]), (Some(add), vec![0; pixels * n]), (Some(over), residual.clone())]
        {
            let epilogue = Epilogue::Codes {
                bias: Some(&bias),
                multiplier: &multiplier,
                zero_point: 100,
                qmin: 0,
                qmax: 255,
                add,
                table: add.map(|_| &table),
                out: &mut out,
                ldc: n,
            };
            case.run(&weights, epilogue, 2);
            let over = add.is_some_and(|add| add.codes.is_none());
            assert_eq!(out, want(add.is_some()), "{}, over the residual: {over}", kernel.product.name);
        }
    });
}

#[test]
fn a_level_and_a_shape_choose() {
    let wide = geometry(1, [28, 28], 128, 128, [1; 4]);
    let chosen = |isa: Isa, g: &ConvGeometry| select(isa, g).map(|k| k.product.level);
    for isa in Isa::available() {
        let level = isa.level();
        let with = [Level::Portable, Level::Avx2, Level::AvxVnni, Level::Avx512Vnni];
        assert_eq!(chosen(isa, &wide), with.contains(&level).then_some(level));
        let wider = geometry(1, [28, 28], 256, 256, [1; 4]);
        assert_eq!(chosen(isa, &wider), [Level::Portable, Level::Avx2].contains(&level).then_some(level));
        assert_eq!(chosen(isa, &ConvGeometry { stride: [2, 2], ..wide }), None);
        assert_eq!(chosen(isa, &ConvGeometry { dilation: [2, 2], ..wide }), None);
        assert_eq!(chosen(isa, &ConvGeometry { groups: 2, ..wide }), None);
        assert_eq!(chosen(isa, &geometry(1, [28, 28], 3, 64, [1; 4])), None);
        assert_eq!(chosen(isa, &geometry(1, [1, 1], 128, 128, [1; 4])), None);
    }
}

#[test]
fn what_a_kernel_is_not_for_is_refused() {
    on_every_kernel(|isa, kernel| {
        let refused = |g: &ConvGeometry| {
            let packed = PackedConv::pack_winograd(isa, kernel, g, &[0; 9 * 16 * 16], true).err();
            assert!(matches!(packed, Some(KernelError::Geometry(_))));
        };
        let g = geometry(1, [8, 8], 16, 16, [1; 4]);
        refused(&ConvGeometry { stride: [1, 2], ..g });
        refused(&ConvGeometry { kernel: [1, 3], ..g });
        if kernel.product.level != Level::Portable {
            let packed = PackedConv::pack_winograd(Isa::PORTABLE, kernel, &g, &[0; 9 * 16 * 16], true);
            assert!(matches!(packed.err(), Some(KernelError::Geometry(_))));
        }
    });
}
