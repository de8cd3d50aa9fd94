use quantal_tensor::arith;

use super::{Operand, OutCodes, add, mul};
use crate::testing::{Seeded, code, on_every_width};
use crate::{Isa, Threads};

const Y: OutCodes = OutCodes { zero_point: -4, qmin: -127, qmax: 127 };

#[test]
fn all_pairs_of_codes_equal_the_arithmetic() {
    let a: Vec<u8> = (0..65_536_u32).map(|i| i as u8).collect();
    let b: Vec<u8> = (0..65_536_u32).map(|i| (i >> 8) as u8).collect();
    for (a_signed, b_signed, m_a, m_b) in
        [(false, true, 0.5, -0.5), (true, false, 0.731, 0.4999), (true, true, 1e38, -1e38)]
    {
        let (z_a, z_b) = (if a_signed { -128 } else { 255 }, 3);
        let centred = |i: usize| (code(a[i], a_signed) - z_a, code(b[i], b_signed) - z_b);
        let sum = |i: usize| {
            let (a, b) = centred(i);
            arith::add(a, m_a, b, m_b, Y.zero_point, Y.qmin, Y.qmax) as u8
        };
        let product = |i: usize| {
            let (a, b) = centred(i);
            arith::requantize(a * b, m_a / 100.0, Y.zero_point, Y.qmin, Y.qmax) as u8
        };
        on_every_width(|isa| {
            let mut out = vec![0; a.len()];
            let x = Operand { codes: &a, signed: a_signed, zero_point: z_a };
            let y = Operand { codes: &b, signed: b_signed, zero_point: z_b };
            add(isa, x, m_a, y, m_b, 1, Y, &mut out, &Threads::new(2)).unwrap();
            assert!(out.iter().enumerate().all(|(i, &v)| v == sum(i)), "{isa}: sum");
            mul(isa, x, y, m_a / 100.0, 1, Y, &mut out, &Threads::new(2)).unwrap();
            assert!(out.iter().enumerate().all(|(i, &v)| v == product(i)), "{isa}: product");
        });
    }
}

#[test]
fn the_second_operand_may_be_one_code_a_row_or_a_row_for_each_image() {
    let mut seeded = Seeded::new(3);
    for cols in [1, 5, 16, 37] {
        let (images, pixels) = (3, 4);
        let n = images * pixels * cols;
        let a = seeded.bytes(n);
        for b_len in [1, cols, images * cols, n] {
            let b = seeded.bytes(b_len);
            let at = |i: usize| match b_len {
                1 => 0,
                len if len == n => i,
                len => i / cols / (images * pixels / (len / cols)) * cols + i % cols,
            };
            let want: Vec<u8> = (0..n)
                .map(|i| arith::add(i32::from(a[i]) - 9, 0.3, i32::from(b[at(i)]) - 200, 0.7, 50, 0, 255) as u8)
                .collect();
            on_every_width(|isa| {
                let mut out = vec![0; n];
                let x = Operand { codes: &a, signed: false, zero_point: 9 };
                let y = Operand { codes: &b, signed: false, zero_point: 200 };
                let codes = OutCodes { zero_point: 50, qmin: 0, qmax: 255 };
                add(isa, x, 0.3, y, 0.7, cols, codes, &mut out, &Threads::new(1)).unwrap();
                assert_eq!(out, want, "{isa}: {cols} columns against {b_len}");
            });
        }
    }
    let x = Operand { codes: &[0; 12], signed: false, zero_point: 0 };
    let y = Operand { codes: &[0; 8], signed: false, zero_point: 0 };
    assert!(add(Isa::PORTABLE, x, 1.0, y, 1.0, 4, Y, &mut [0; 12], &Threads::new(1)).is_err());
}

#[test]
fn rows_of_whole_registers_equal_the_arithmetic() {
    let mut seeded = Seeded::new(11);
    for (cols, pixels) in [(8, 40), (16, 61), (32, 33), (64, 9), (65, 7), (96, 5), (144, 300), (48, 4)] {
        for (a_signed, b_signed, y) in [
            (false, false, OutCodes { zero_point: 0, qmin: 0, qmax: 255 }),
            (true, false, OutCodes { zero_point: 127, qmin: -128, qmax: 127 }),
            (false, true, OutCodes { zero_point: 255, qmin: 3, qmax: 250 }),
            (true, true, OutCodes { zero_point: -128, qmin: -127, qmax: 127 }),
        ] {
            let (z_a, z_b) = (if a_signed { -128 } else { 255 }, if b_signed { 1 } else { 128 });
            for b_rows in [1, 2, 2 * pixels] {
                let n = 2 * pixels * cols;
                let (a, b) = (seeded.bytes(n), seeded.bytes(b_rows * cols));
                let pair = |i: usize| {
                    let at = i / cols / (2 * pixels / b_rows) * cols + i % cols;
                    (code(a[i], a_signed) - z_a, code(b[at], b_signed) - z_b)
                };
                let sums: Vec<u8> = (0..n)
                    .map(|i| arith::add(pair(i).0, 0.31, pair(i).1, -0.7, y.zero_point, y.qmin, y.qmax) as u8)
                    .collect();
                let products: Vec<u8> = (0..n)
                    .map(|i| arith::requantize(pair(i).0 * pair(i).1, 0.004, y.zero_point, y.qmin, y.qmax) as u8)
                    .collect();
                let check = |isa: Isa, threads: usize| {
                    let threads = &Threads::new(threads);
                    let mut out = vec![0; n];
                    let x = Operand { codes: &a, signed: a_signed, zero_point: z_a };
                    let w = Operand { codes: &b, signed: b_signed, zero_point: z_b };
                    add(isa, x, 0.31, w, -0.7, cols, y, &mut out, threads).unwrap();
                    assert!(out == sums, "{isa}: {pixels} sums of {cols} by {b_rows} rows");
                    mul(isa, x, w, 0.004, cols, y, &mut out, threads).unwrap();
                    assert!(out == products, "{isa}: {pixels} products of {cols} by {b_rows} rows");
                };
                on_every_width(|isa| check(isa, 1));
                for isa in Isa::available() {
                    check(isa, 3);
                }
            }
        }
    }
}
