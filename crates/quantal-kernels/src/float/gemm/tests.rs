use super::super::test_data::{assert_same_bits, random};
use super::*;
use crate::float::BView;

fn reference(a: AView<'_>, b: BView<'_>, e: &Epilogue<'_>, ldc: usize) -> Vec<f32> {
    let mut out = vec![7.0; a.m * ldc];
    for i in 0..a.m {
        for j in 0..b.n {
            let mut sum = 0.0f32;
            for k in 0..b.k {
                let x = a.data[i * a.row_stride + k * a.col_stride];
                sum = x.mul_add(b.data[k * b.stride_k + j * b.stride_n], sum);
            }
            sum += e.bias.map_or(0.0, |bias| bias[j]);
            if let Some(r) = e.residual {
                sum += r.data[i * r.row_stride + j];
            }
            sum = e.activation.map_or(sum, |f| f.of(sum));
            out[i * ldc + j] = sum.max(e.clamp.0).min(e.clamp.1);
        }
    }
    out
}

#[test]
fn every_row_is_a_chain_of_fused_multiply_adds() {
    let sizes = [(1, 1, 1), (5, 16, 17), (14, 33, 64), (15, 31, 255), (29, 48, 257), (13, 100, 600), (200, 9, 20)];
    for (m, n, k) in sizes {
        for transposed in [false, true] {
            let (ldc, pad) = (n + 3, 2);
            let (da, db) = (random((m + pad) * (k + pad), 1), random((k + pad) * (n + pad), 2));
            let (row_stride, col_stride) = if transposed { (1, m + pad) } else { (k + pad, 1) };
            let (stride_k, stride_n) = if transposed { (1, k + pad) } else { (n + pad, 1) };
            let a = AView { data: &da, m, row_stride, col_stride };
            let b = BView { data: &db, k, n, stride_k, stride_n };
            let (bias, residual) = (random(n, 3), random(m * (n + 1), 4));
            let full = Epilogue {
                bias: Some(&bias),
                residual: Some(Residual { data: &residual, row_stride: n + 1 }),
                clamp: (0.0, 6.0),
                activation: None,
            };
            let packed = PackedB::pack(b).unwrap();
            let curved = Epilogue { activation: Some(Unary::Silu), ..full };
            for e in [Epilogue::NONE, full, curved] {
                let expected = reference(a, b, &e, ldc);
                for isa in Isa::available() {
                    for count in 1..=3 {
                        let mut out = vec![7.0; m * ldc];
                        gemm(isa, a, &packed, &e, &mut out, ldc, &Threads::new(count));
                        assert_same_bits(&out, &expected, &format!("{isa} {m}x{n}x{k} on {count}"));
                    }
                }
            }
        }
    }
}

#[test]
fn an_empty_chain_leaves_the_epilogue() {
    let packed = PackedB::pack(BView { data: &[], k: 0, n: 2, stride_k: 2, stride_n: 1 }).unwrap();
    let a = AView { data: &[], m: 2, row_stride: 0, col_stride: 1 };
    for isa in Isa::available() {
        let mut out = [9.0; 4];
        let e = Epilogue { bias: Some(&[1.0, -2.0]), ..Epilogue::NONE };
        gemm(isa, a, &packed, &e, &mut out, 2, &Threads::new(1));
        assert_eq!(out, [1.0, -2.0, 1.0, -2.0]);
    }
}

#[test]
#[should_panic(expected = "the left matrix")]
fn short_slices_are_refused() {
    let packed = PackedB::pack(BView { data: &[1.0; 4], k: 2, n: 2, stride_k: 2, stride_n: 1 }).unwrap();
    let a = AView { data: &[1.0; 3], m: 2, row_stride: 2, col_stride: 1 };
    gemm(Isa::PORTABLE, a, &packed, &Epilogue::NONE, &mut [0.0; 4], 2, &Threads::new(1));
}

#[test]
fn nan_stays_nan_and_clamps_hold_the_rest() {
    let packed = PackedB::pack(BView { data: &[1.0; 16], k: 1, n: 16, stride_k: 16, stride_n: 1 }).unwrap();
    let a = AView { data: &[f32::NAN, f32::INFINITY, -3.0], m: 3, row_stride: 1, col_stride: 1 };
    for isa in Isa::available() {
        for activation in [None, Some(Unary::Relu)] {
            let mut out = [0.0; 48];
            let e = Epilogue { activation, clamp: (0.0, 6.0), ..Epilogue::NONE };
            gemm(isa, a, &packed, &e, &mut out, 16, &Threads::new(1));
            assert!(out[..16].iter().all(|y| y.is_nan()), "{isa}");
            assert!(out[16..32].iter().all(|&y| y == 6.0) && out[32..].iter().all(|&y| y == 0.0), "{isa}");
        }
    }
}
