use quantal_tensor::arith::{self, Affine};

use super::{LayerNorm, layer_norm};
use crate::Threads;
use crate::eltwise::{Operand, OutCodes};
use crate::testing::{Seeded, code, on_every_width};

#[test]
fn rows_equal_the_arithmetic() {
    for (cols, zero_point, signed, rms) in [
        (1, 0, false, false),
        (15, 128, false, false),
        (16, -7, true, true),
        (384, 117, false, false),
        (771, 255, false, true),
    ] {
        let mut random = Seeded::new(cols as u64);
        let mut x = random.bytes(7 * cols);
        // A row of equal codes has no spread; one of extremes has the most.
        x[..cols].fill(9);
        x[cols..2 * cols].iter_mut().enumerate().for_each(|(i, q)| *q = if i % 2 == 0 { 0 } else { 255 });
        let input = Affine { scale: 0.013, zero_point, qmin: -128, qmax: 255 };
        let y = Affine { scale: 0.021, zero_point: 119, qmin: 0, qmax: 255 };
        let factor: Vec<f32> = (0..cols).map(|_| random.float(-2.0, 3.0) / y.scale).collect();
        let addend: Vec<f32> = (0..cols).map(|_| random.float(-1.0, 1.0) / y.scale).collect();
        for epsilon in [0.0, 1e-5] {
            let want: Vec<u8> = x
                .chunks(cols)
                .flat_map(|row| {
                    let codes: Vec<i32> = row.iter().map(|&q| code(q, signed)).collect();
                    arith::layer_norm(&codes, input, &factor, &addend, epsilon, rms, y).into_iter().map(|q| q as u8)
                })
                .collect();
            on_every_width(|isa| {
                let mut out = vec![0; x.len()];
                let operand = Operand { codes: &x, signed, zero_point };
                let norm = LayerNorm { scale_x: input.scale, factor: &factor, addend: &addend, epsilon, rms };
                let codes = OutCodes { zero_point: y.zero_point, qmin: y.qmin, qmax: y.qmax };
                layer_norm(isa, operand, norm, codes, &mut out, &Threads::new(2)).unwrap();
                assert_eq!(out, want, "{isa}: {cols} columns");
            });
        }
    }
}
