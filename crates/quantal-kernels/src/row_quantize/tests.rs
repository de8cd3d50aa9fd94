use quantal_tensor::arith;

use super::{quantize_rows, scale_rows};
use crate::Threads;
use crate::testing::{Seeded, on_every_width};

#[test]
fn rows_equal_the_arithmetic() {
    for cols in [1, 7, 16, 33, 384] {
        let mut random = Seeded::new(cols as u64);
        let mut x: Vec<f32> = (0..6 * cols).map(|_| random.float(-3.0, 2.0)).collect();
        // Nothing but zeros, denormals, and something that is no number.
        x[..cols].fill(0.0);
        x[cols..2 * cols].fill(1e-41);
        x[2 * cols] = f32::NAN;
        let (mut codes, mut scales) = (Vec::new(), Vec::new());
        for row in x.chunks(cols) {
            let scale = arith::row_scale(row.iter().fold(0.0, |m: f32, v| m.max(v.abs())));
            scales.push(scale);
            codes.extend(row.iter().map(|&v| arith::quantize(v, scale, 128, 0, 255) as u8));
        }
        on_every_width(|isa| {
            let (mut s, mut q) = (vec![0.0; 6], vec![0; x.len()]);
            quantize_rows(isa, &x, cols, &mut s, &mut q, &Threads::new(2)).unwrap();
            assert_eq!((&s, &q), (&scales, &codes), "{isa}: {cols} columns");
        });
    }
}

#[test]
fn rows_are_scaled_and_biased() {
    for cols in [1, 19, 64] {
        let mut random = Seeded::new(cols as u64);
        let y: Vec<f32> = (0..3 * cols).map(|_| random.float(-3.0, 2.0)).collect();
        let (scales, bias) = ([0.3, 7.0, 1e-3], (0..cols).map(|_| random.float(-1.0, 1.0)).collect::<Vec<f32>>());
        for bias in [None, Some(&bias[..])] {
            let want: Vec<f32> =
                (y.iter().enumerate()).map(|(i, v)| v * scales[i / cols] + bias.map_or(0.0, |b| b[i % cols])).collect();
            on_every_width(|isa| {
                let mut out = y.clone();
                scale_rows(isa, &mut out, cols, &scales, bias, &Threads::new(2)).unwrap();
                assert_eq!(out, want, "{isa}: {cols} columns");
            });
        }
    }
}
