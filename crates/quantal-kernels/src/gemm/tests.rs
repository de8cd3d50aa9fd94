use quantal_tensor::arith;

use super::rows::twins::TWINS;
use super::{Epilogue, GemmCall, Residual, gemm};
use crate::kernel::{GemmKernel, KERNELS, MAX_MR, MAX_NR, MAX_TILE, Steps, select};
use crate::pack::{BView, MAX_K_SIGNED, PackedB};
use crate::testing::{Seeded, apart, code, emulate};
use crate::{Isa, KernelError, Level, Threads};

/// Runs `test` on every kernel that this CPU can run, and then on the emulated twins of all, their ends emulated too.
fn on_every_kernel(test: impl Fn(Isa, &'static GemmKernel)) {
    for isa in Isa::available() {
        KERNELS.iter().filter(|k| k.level == isa.level()).for_each(|k| test(isa, k));
    }
    for kernel in TWINS {
        let lanes = if kernel.name.contains("512") { 16 } else { 8 };
        emulate(lanes, || test(Isa::PORTABLE, kernel));
    }
}

/// Which operands to multiply.
#[derive(Clone, Copy, Debug)]
enum Fill {
    /// The largest products there are: codes at one end, weights at the other.
    Extreme {
        a: u8,
        b: u8,
    },
    Random,
}

#[derive(Clone, Debug)]
struct Case {
    m: usize,
    k: usize,
    n: usize,
    fill: Fill,
    a_signed: bool,
    b_signed: bool,
    a_zero: i32,
    b_zeros: Vec<i32>,
    /// Elements beyond the row in A and in the output.
    gap: usize,
    /// Whether B lies transposed.
    transposed: bool,
}

impl Case {
    fn new(m: usize, k: usize, n: usize, fill: Fill) -> Self {
        let (a_signed, b_signed, a_zero, b_zeros) = (false, true, 0, Vec::new());
        Self { m, k, n, fill, a_signed, b_signed, a_zero, b_zeros, gap: 0, transposed: false }
    }

    fn operands(&self) -> (Vec<u8>, Vec<u8>) {
        let mut seeded = Seeded::new((self.m * 31 + self.k * 7 + self.n) as u64);
        let (rows, columns) = ((self.m * (self.k + self.gap)).max(1), self.k * self.n);
        match self.fill {
            Fill::Extreme { a, b } => (vec![a; rows], vec![b; columns]),
            Fill::Random => (seeded.bytes(rows), seeded.bytes(columns)),
        }
    }

    /// `Σ (a − z_a)(b − z_b)` as plain loops, in 64 bits.
    fn reference(&self, a: &[u8], b: &[u8]) -> Vec<i32> {
        let zero = |j: usize| match self.b_zeros.as_slice() {
            [] => 0,
            [one] => *one,
            many => many[j],
        };
        let mut sums = Vec::new();
        for i in 0..self.m {
            for j in 0..self.n {
                let mut sum = 0_i64;
                for k in 0..self.k {
                    let at = if self.transposed { j * self.k + k } else { k * self.n + j };
                    let x = code(a[i * (self.k + self.gap) + k], self.a_signed) - self.a_zero;
                    sum += i64::from(x) * i64::from(code(b[at], self.b_signed) - zero(j));
                }
                sums.push(i32::try_from(sum).expect("the cases keep to 32 bits"));
            }
        }
        sums
    }

    fn pack(&self, isa: Isa, kernel: &'static GemmKernel, b: &[u8]) -> PackedB {
        let view = if self.transposed {
            BView::transposed(b, self.b_signed, self.k, self.n)
        } else {
            BView::new(b, self.b_signed, self.k, self.n)
        };
        let mut packed = PackedB::empty(isa);
        packed.repack_for(kernel, &view, view.k).unwrap();
        packed
    }

    fn call<'a>(&'a self, a: &'a [u8], b: &'a PackedB, epilogue: Epilogue<'a>) -> GemmCall<'a> {
        GemmCall {
            a,
            a_signed: self.a_signed,
            a_zero_point: self.a_zero,
            m: self.m,
            row_stride: self.k + self.gap,
            b,
            b_zero_points: &self.b_zeros,
            epilogue,
        }
    }

    /// Compares the sums of `kernel` with the reference, and that nothing between rows was written.
    fn check(&self, isa: Isa, kernel: &'static GemmKernel) {
        const UNTOUCHED: i32 = 0x5AFE;
        let (a, b) = self.operands();
        let packed = self.pack(isa, kernel, &b);
        let ldc = self.n + self.gap;
        let mut out = vec![UNTOUCHED; self.m * ldc];
        gemm(self.call(&a, &packed, Epilogue::I32 { bias: None, out: &mut out, ldc }), &Threads::new(1)).unwrap();
        let want = self.reference(&a, &b);
        for (row, want) in out.chunks(ldc.max(1)).zip(want.chunks(self.n.max(1))) {
            assert_eq!(&row[..self.n], want, "{} on {self:?}", kernel.name);
            assert!(row[self.n..].iter().all(|&v| v == UNTOUCHED), "{} wrote past a row on {self:?}", kernel.name);
        }
    }
}

#[test]
fn extremes_never_saturate() {
    on_every_kernel(|isa, kernel| {
        for (a, b) in [(255, 0x80), (255, 127), (0, 0x80), (128, 0x81), (127, 1)] {
            for k in [1, 2, 3, 4, 64, 65, 1000] {
                Case::new(kernel.mr + 1, k, kernel.nr + 1, Fill::Extreme { a, b }).check(isa, kernel);
            }
        }
        Case::new(1, MAX_K_SIGNED, 1, Fill::Extreme { a: 255, b: 0x80 }).check(isa, kernel);
    });
}

#[test]
fn every_shape_around_a_tile_is_exact() {
    on_every_kernel(|isa, kernel| {
        let (mr, nr) = (kernel.mr, kernel.nr);
        for m in [0, 1, mr - 1, mr, mr + 1, 2 * mr + 1, 37] {
            for n in [0, 1, nr - 1, nr, nr + 1, 2 * nr + 3] {
                Case::new(m, 23, n, Fill::Random).check(isa, kernel);
            }
        }
        for k in (0..=17).chain([31, 32, 33, 63, 64, 65, 257, 512, 1024]) {
            for m in [1, 2, 3, mr + 2] {
                Case::new(m, k, nr + 5, Fill::Random).check(isa, kernel);
            }
        }
    });
}

#[test]
fn zero_points_signs_and_strides_are_exact() {
    on_every_kernel(|isa, kernel| {
        for (m, k, gap) in [(3, 4, 0), (kernel.mr + 1, 19, 1), (kernel.mr + 1, 64, 0), (3, 64, 3), (2, 515, 2)] {
            for (a_signed, b_signed) in [(false, true), (true, true), (false, false), (true, false)] {
                for a_zero in [0, 1, 127, 128, 255] {
                    for b_zeros in [vec![], vec![1], vec![127], (0..11).map(|j| j * 12).collect::<Vec<_>>()] {
                        let a_zero = if a_signed { a_zero - 128 } else { a_zero };
                        let shift = if b_signed { 60 } else { 0 };
                        let b_zeros = b_zeros.into_iter().map(|z| z - shift).collect();
                        let case = Case::new(m, k, 11, Fill::Random);
                        Case { a_signed, b_signed, a_zero, b_zeros, gap, transposed: k % 2 == 1, ..case }
                            .check(isa, kernel);
                    }
                }
            }
        }
    });
}

/// Bytes between rows of codes, and what they hold.
const GAP: usize = 3;
const UNTOUCHED: u8 = 0xA5;

/// The codes of a case by the equations of `arith`, one after the other; `codes` are those of the residual.
fn reference_codes(
    sums: &[i32],
    n: usize,
    bias: &[i32],
    multiplier: &[f32],
    residual: &Residual,
    codes: &[u8],
) -> Vec<u8> {
    let one = |(i, &sum): (usize, &i32)| {
        let m = if multiplier.len() == 1 { multiplier[0] } else { multiplier[i % n] };
        let c = arith::requantize(sum + bias[i % n], m, -3, -100, 120);
        let r = code(codes[i / n * residual.ld + i % n], residual.signed) - residual.zero_point;
        let (m_c, m_r, z) = (residual.sum_multiplier, residual.multiplier, residual.out_zero_point);
        arith::add(c + 3, m_c, r, m_r, z, residual.qmin, residual.qmax) as u8
    };
    sums.iter().enumerate().map(one).collect()
}

#[test]
fn codes_equal_the_arithmetic() {
    let table: [u8; 256] = std::array::from_fn(|i| (i * 77 + 5) as u8);
    on_every_kernel(|isa, kernel| {
        let mut seeded = Seeded::new(9);
        for (m, k, n, per_column, signed) in
            [(7, 33, 70, true, true), (13, 64, 9, false, false), (3, 5, 128, true, false)]
        {
            let case = Case { a_zero: 100, ..Case::new(m, k, n, Fill::Random) };
            let (a, b) = case.operands();
            let packed = case.pack(isa, kernel, &b);
            let sums = case.reference(&a, &b);
            let bias: Vec<i32> = (0..n).map(|_| seeded.below(20_000) as i32 - 10_000).collect();
            let count = if per_column { n } else { 1 };
            let multiplier: Vec<f32> = (0..count).map(|_| seeded.float(1e-4, 4e-3)).collect();
            let codes = apart(&seeded.bytes(m * n), n, GAP, UNTOUCHED);
            let residual = Residual {
                codes: Some(&codes),
                signed,
                ld: n + GAP,
                zero_point: if signed { -9 } else { 77 },
                multiplier: 0.731,
                sum_multiplier: 1.37,
                out_zero_point: 11,
                qmin: 11,
                qmax: 255,
            };
            let want = reference_codes(&sums, n, &bias, &multiplier, &residual, &codes);
            for table in [None, Some(&table)] {
                let want: Vec<u8> = want.iter().map(|&c| table.map_or(c, |t| t[usize::from(c)])).collect();
                let want = apart(&want, n, GAP, UNTOUCHED);
                for (over, mut out) in [(false, vec![UNTOUCHED; want.len()]), (true, codes.clone())] {
                    let epilogue = Epilogue::Codes {
                        bias: Some(&bias),
                        multiplier: &multiplier,
                        zero_point: -3,
                        qmin: -100,
                        qmax: 120,
                        add: Some(Residual { codes: (!over).then_some(&codes), ..residual }),
                        table,
                        out: &mut out,
                        ldc: n + GAP,
                    };
                    gemm(case.call(&a, &packed, epilogue), &Threads::new(2)).unwrap();
                    assert_eq!(out, want, "{}, over the residual: {over}", kernel.name);
                }
            }
        }
    });
}

#[test]
fn codes_without_a_residual_equal_the_arithmetic() {
    let table: [u8; 256] = std::array::from_fn(|i| (i * 59 + 3) as u8);
    on_every_kernel(|isa, kernel| {
        let mut seeded = Seeded::new(11);
        for (n, b_zeros) in
            [(70, vec![]), (16, vec![3]), (33, (0..33).collect()), (45, (-20..25).collect()), (5, vec![-9])]
        {
            let case = Case { a_zero: 90, b_zeros, ..Case::new(34, 70, n, Fill::Random) };
            let (a, b) = case.operands();
            let packed = case.pack(isa, kernel, &b);
            let sums = case.reference(&a, &b);
            let multiplier: Vec<f32> = (0..n).map(|_| seeded.float(1e-4, 4e-3)).collect();
            // u8, s8, a fused Relu, and a range that is of neither type.
            for (zero_point, qmin, qmax) in [(7, 0, 255), (-5, -128, 127), (3, 3, 255), (-20, -20, 100), (9, -30, 250)]
            {
                for table in [None, Some(&table)] {
                    let code = |(i, &s): (usize, &i32)| {
                        let code = arith::requantize(s, multiplier[i % n], zero_point, qmin, qmax) as u8;
                        table.map_or(code, |table| table[usize::from(code)])
                    };
                    let want: Vec<u8> = sums.iter().enumerate().map(code).collect();
                    let want = apart(&want, n, GAP, UNTOUCHED);
                    let mut out = vec![UNTOUCHED; want.len()];
                    let epilogue = Epilogue::Codes {
                        bias: None,
                        multiplier: &multiplier,
                        zero_point,
                        qmin,
                        qmax,
                        add: None,
                        table,
                        out: &mut out,
                        ldc: n + GAP,
                    };
                    gemm(case.call(&a, &packed, epilogue), &Threads::new(1)).unwrap();
                    assert!(out == want, "{} on {n} columns", kernel.name);
                }
            }
        }
    });
}

#[test]
fn rounding_is_half_to_even_and_clamps_before_converting() {
    // k = 1 and b = 1 make the accumulator the code itself; a multiplier of a half makes every other one a tie.
    let a: Vec<u8> = (0..=255).collect();
    on_every_kernel(|isa, kernel| {
        for multiplier in [0.5_f32, 1e30, -1e30, 1e-30] {
            let case = Case { a_zero: 128, ..Case::new(256, 1, 1, Fill::Random) };
            let packed = case.pack(isa, kernel, &[1]);
            let mut out = vec![0; 256];
            let epilogue = Epilogue::Codes {
                bias: None,
                multiplier: &[multiplier],
                zero_point: 10,
                qmin: 3,
                qmax: 200,
                add: None,
                table: None,
                out: &mut out,
                ldc: 1,
            };
            gemm(case.call(&a, &packed, epilogue), &Threads::new(1)).unwrap();
            let want = (0..256).map(|q| arith::requantize(q - 128, multiplier, 10, 3, 200) as u8);
            assert!(want.eq(out), "{} at {multiplier}", kernel.name);
        }
    });
}

#[test]
fn the_largest_sums_end_at_the_ends_of_the_range() {
    // 1 − 2⁻²⁴ keeps 2³¹ within an i32 after the product, 1 does not.
    let a = [0; 40];
    on_every_kernel(|isa, kernel| {
        for (multiplier, qmax) in [(1.0 - f32::EPSILON / 2.0, 255), (1.0, 255), (1.0 - f32::EPSILON / 2.0, 9)] {
            let case = Case::new(1, 40, 40, Fill::Random);
            let packed = case.pack(isa, kernel, &[0; 1600]);
            let bias: Vec<i32> =
                (0..40).map(|j| if j % 2 == 0 { i32::MAX - j / 4 } else { i32::MIN + j / 4 }).collect();
            let mut out = vec![7; 40];
            let epilogue = Epilogue::Codes {
                bias: Some(&bias),
                multiplier: &[multiplier],
                zero_point: 5,
                qmin: 2,
                qmax,
                add: None,
                table: None,
                out: &mut out,
                ldc: 40,
            };
            gemm(case.call(&a, &packed, epilogue), &Threads::new(1)).unwrap();
            let want = (0..40).map(|j| if j % 2 == 0 { qmax as u8 } else { 2 });
            assert!(want.eq(out), "{} at {multiplier}", kernel.name);
        }
    });
}

#[test]
fn floats_are_one_product_and_one_sum() {
    on_every_kernel(|isa, kernel| {
        let case = Case::new(5, 40, 19, Fill::Random);
        let (a, b) = case.operands();
        let packed = case.pack(isa, kernel, &b);
        let scale: Vec<f32> = (0..19).map(|j| 0.001 + j as f32 * 0.003).collect();
        let bias: Vec<f32> = (0..19).map(|j| j as f32 * 0.7 - 3.0).collect();
        let sums = case.reference(&a, &b);
        for bias_f32 in [Some(&bias[..]), None] {
            let mut out = vec![0.0; 5 * 19];
            let epilogue = Epilogue::F32 { bias: None, scale: &scale, bias_f32, out: &mut out, ldc: 19 };
            gemm(case.call(&a, &packed, epilogue), &Threads::new(1)).unwrap();
            let added = |j: usize| bias_f32.map_or(0.0, |bias| bias[j]);
            let value = |(i, &s): (usize, &i32)| s as f32 * scale[i % 19] + added(i % 19);
            assert_eq!(out, sums.iter().enumerate().map(value).collect::<Vec<_>>(), "{}", kernel.name);
        }
    });
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for (m, k, n, a_signed) in
        [(200, 130, 100, false), (3, 500, 700, false), (1000, 64, 64, false), (700, 64, 40, true)]
    {
        let case = Case { a_zero: 3, a_signed, ..Case::new(m, k, n, Fill::Random) };
        let (a, b) = case.operands();
        let want = case.reference(&a, &b);
        for isa in Isa::available() {
            let packed = PackedB::pack(isa, &BView::new(&b, true, k, n)).unwrap();
            for count in [1, 2, 3] {
                let mut out = vec![0; m * n];
                let epilogue = Epilogue::I32 { bias: None, out: &mut out, ldc: n };
                gemm(case.call(&a, &packed, epilogue), &Threads::new(count)).unwrap();
                assert_eq!(out, want, "{isa}, {count} threads");
            }
        }
    }
}

#[test]
fn steps_are_placed_only_where_they_stay_few() {
    assert_eq!(select(Level::Portable, 64).level, Level::Portable);
    for isa in Isa::available().into_iter().filter(|isa| isa.level() == Level::Avx2) {
        let steps = |b: &[u8]| PackedB::pack(isa, &BView::new(b, true, b.len(), 1)).unwrap().kernel().steps;
        // 128 of one sign fit, and of two signs any.
        assert_eq!(steps(&[64, 64, 0xC0, 0xC0, 127, 0x80, 0x80]), Steps::Placed);
        // A pair in 16 that does not fit is parted by one step more than the 8 that there are.
        let mut few = [1; 32];
        few[8..10].copy_from_slice(&[100, 100]);
        assert_eq!(steps(&few), Steps::Placed);
        assert_eq!(steps(&[127; 32]), Steps::Even);
    }
}

#[test]
fn the_table_keeps_its_promises() {
    for kernel in KERNELS.iter().chain(TWINS) {
        assert!(
            kernel.mr <= kernel.run * MAX_MR && kernel.nr <= MAX_NR && kernel.mr * kernel.nr <= MAX_TILE,
            "{}",
            kernel.name
        );
        assert!(kernel.nr.is_multiple_of(kernel.lanes), "{}", kernel.name);
        let one_row = kernel.few.map_or(*kernel, |few| few.1);
        assert_eq!(one_row.run, 1, "{}: column sums are taken with a single row", kernel.name);
        let tile = format!("_{}x{}x{}_", kernel.mr, kernel.nr, kernel.kr);
        assert!(kernel.name.contains(&tile), "{} is not {tile}", kernel.name);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let isa = Isa::PORTABLE;
    let deep = vec![0; MAX_K_SIGNED + 1];
    let refused = PackedB::pack(isa, &BView::new(&deep, true, MAX_K_SIGNED + 1, 1));
    assert!(matches!(refused.err(), Some(KernelError::TooDeep { .. })));
    assert!(matches!(PackedB::pack(isa, &BView::new(&[1; 5], true, 2, 3)).err(), Some(KernelError::Length { .. })));
    let on_each_other = BView { stride_n: 0, ..BView::new(&[1; 6], true, 2, 3) };
    assert!(matches!(PackedB::pack(isa, &on_each_other).err(), Some(KernelError::Geometry(_))));
    let b = PackedB::pack(isa, &BView::new(&[1; 6], true, 2, 3)).unwrap();
    let case = Case::new(2, 2, 3, Fill::Random);
    let run = |a: &[u8], out: &mut [i32]| {
        gemm(case.call(a, &b, Epilogue::I32 { bias: None, out, ldc: 3 }), &Threads::new(1)).is_ok()
    };
    assert!(run(&[1; 4], &mut [0; 6]));
    assert!(!run(&[1; 3], &mut [0; 6]));
    assert!(!run(&[1; 4], &mut [0; 5]));
}
