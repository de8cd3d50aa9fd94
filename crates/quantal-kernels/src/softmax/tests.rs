use quantal_tensor::arith::{self, Affine, softmax_mask_table, softmax_table};

use super::{Mask, softmax};
use crate::Threads;
use crate::eltwise::OutCodes;
use crate::testing::{Seeded, code, on_every_width};

#[test]
fn rows_equal_the_arithmetic() {
    for (cols, scale_x, signed, y) in [
        (1, 0.1, false, Affine { scale: 1.0 / 256.0, zero_point: 0, qmin: 0, qmax: 255 }),
        (10, 0.5, true, Affine { scale: 1.0 / 256.0, zero_point: -128, qmin: -128, qmax: 127 }),
        (197, 0.03, true, Affine { scale: 0.0005, zero_point: 3, qmin: -127, qmax: 127 }),
        (5000, 1e-6, false, Affine { scale: 1e-4, zero_point: 0, qmin: 0, qmax: 255 }),
    ] {
        let mut x = Seeded::new(cols as u64).bytes(9 * cols);
        x[..cols].fill(200);
        let want: Vec<u8> = x
            .chunks(cols)
            .flat_map(|row| {
                let codes: Vec<i32> = row.iter().map(|&q| code(q, signed)).collect();
                arith::softmax(&codes, &softmax_table(scale_x), y).into_iter().map(|q| q as u8)
            })
            .collect();
        on_every_width(|isa| {
            let mut out = vec![0; x.len()];
            let codes = OutCodes { zero_point: y.zero_point, qmin: y.qmin, qmax: y.qmax };
            let table = softmax_table(scale_x);
            softmax(isa, &table, &x, signed, None, cols, y.scale, codes, &mut out, &Threads::new(2)).unwrap();
            assert_eq!(out, want, "{isa}: {cols} columns");
        });
    }
}

#[test]
fn masked_rows_equal_the_arithmetic() {
    let y = Affine { scale: 1.0 / 255.0, zero_point: 0, qmin: 0, qmax: 255 };
    let codes = OutCodes { zero_point: 0, qmin: 0, qmax: 255 };
    for (cols, scale_x, signed) in [(1, 0.1, false), (19, 0.04, true), (128, 0.02, false), (300, 0.3, true)] {
        let mut random = Seeded::new(cols as u64);
        let x = random.bytes(6 * cols);
        let table = softmax_mask_table(scale_x).unwrap();
        // No mask, some hidden, a slope that takes distances past 255, all hidden.
        let mut terms = vec![0; 4 * cols];
        for (j, t) in terms.iter_mut().enumerate() {
            *t = match j / cols {
                1 if random.below(3) == 0 => -(1 << 20),
                2 => -((j % cols) as i32) * 3,
                3 => -(1 << 20),
                _ => 0,
            };
        }
        let rows = [0, 1, 2, 3, 1, 0];
        let want: Vec<u8> = (x.chunks(cols).zip(&rows))
            .flat_map(|(row, &m)| {
                let mask = &terms[m as usize * cols..][..cols];
                let values: Vec<i32> = row.iter().zip(mask).map(|(&q, &m)| code(q, signed) + m).collect();
                arith::softmax(&values, &table, y).into_iter().map(|q| q as u8)
            })
            .collect();
        on_every_width(|isa| {
            let mut out = vec![0; x.len()];
            let mask = Some(Mask { terms: &terms, rows: &rows });
            softmax(isa, &table, &x, signed, mask, cols, y.scale, codes, &mut out, &Threads::new(2)).unwrap();
            assert_eq!(out, want, "{isa}: {cols} columns");
        });
    }
}
