use quantal_tensor::arith::{self, Affine, softmax_table};

use super::softmax;
use crate::Threads;
use crate::eltwise::OutCodes;
use crate::testing::{Seeded, code, on_every_width};

#[test]
fn rows_equal_the_arithmetic() {
    for (cols, scale_x, signed, y) in [
        (1, 0.1, false, Affine { scale: 1.0 / 256.0, zero_point: 0, qmin: 0, qmax: 255 }),
        (10, 0.5, true, Affine { scale: 1.0 / 256.0, zero_point: -128, qmin: -128, qmax: 127 }),
        (197, 0.03, true, Affine { scale: 0.0005, zero_point: 3, qmin: -127, qmax: 127 }),
        (1000, 1e-6, false, Affine { scale: 1e-4, zero_point: 0, qmin: 0, qmax: 255 }),
    ] {
        let mut x = Seeded::new(cols as u64).bytes(9 * cols);
        x[..cols].fill(200);
        let want: Vec<u8> = x
            .chunks(cols)
            .flat_map(|row| {
                let codes: Vec<i32> = row.iter().map(|&q| code(q, signed)).collect();
                arith::softmax(&codes, scale_x, y).into_iter().map(|q| q as u8)
            })
            .collect();
        on_every_width(|isa| {
            let mut out = vec![0; x.len()];
            let codes = OutCodes { zero_point: y.zero_point, qmin: y.qmin, qmax: y.qmax };
            let table = softmax_table(scale_x);
            softmax(isa, &table, &x, signed, cols, y.scale, codes, &mut out, &Threads::new(2)).unwrap();
            assert_eq!(out, want, "{isa}: {cols} columns");
        });
    }
}
