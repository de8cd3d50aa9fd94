//! AdaRound: each weight rounded up or down so that the outputs, not the weights, are nearest.
//!
//! Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization" (2020), section 3: for each row of
//! weights, `min_δ δᵀ H δ` with every weight rounded to one of its two neighbours, a quadratic problem in binary
//! unknowns. The paper relaxes it and descends by gradients. Here one weight after the other is turned wherever that
//! lowers the objective, until no single turn does: with `g = H δ`, turning δ_k by d changes it by `2 d g_k + d² H_kk`.

use crate::rounding::Grid;

/// Sweeps over a row, at most; real layers settle in three to six.
const SWEEPS: usize = 20;

/// Improves `codes` of rows of weights `[outputs, k]`, with the second moment `h` `[k, k]` of their data.
pub(crate) fn refine(weights: &[f32], k: usize, h: &[f32], grids: &[Grid], codes: &mut [i32]) {
    for ((row, codes), grid) in weights.chunks(k).zip(codes.chunks_mut(k)).zip(grids) {
        let mut gradient = vec![0.0_f32; k];
        for ((&w, &code), h) in row.iter().zip(&*codes).zip(h.chunks(k)) {
            let d = grid.real(code) - w;
            gradient.iter_mut().zip(h).for_each(|(g, h)| *g += d * h);
        }
        for _ in 0..SWEEPS {
            let mut turned = false;
            for i in 0..k {
                let other = grid.other(row[i], codes[i]);
                let d = grid.real(other) - grid.real(codes[i]);
                let gain = -(2.0 * d * gradient[i] + d * d * h[i * k + i]);
                // Rounding of the gradient must not turn a weight to and fro.
                if gain > 1e-5 * d * d * h[i * k + i] {
                    codes[i] = other;
                    gradient.iter_mut().zip(&h[i * k..]).for_each(|(g, h)| *g += d * h);
                    turned = true;
                }
            }
            if !turned {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(w: &[f32], h: &[f32], codes: &[i32]) -> f64 {
        let k = w.len();
        let d: Vec<f64> = w.iter().zip(codes).map(|(w, q)| f64::from(*q) - f64::from(*w)).collect();
        (0..k * k).map(|e| d[e / k] * d[e % k] * f64::from(h[e])).sum()
    }

    #[test]
    fn no_single_turn_helps_any_more_and_small_problems_are_near_the_best() {
        let grid = Grid { scale: 1.0, zero_point: 0, qmin: -8, qmax: 7 };
        let k = 6;
        for seed in 0..20_u32 {
            let at = |i: u32| (i.wrapping_mul(2_654_435_761).wrapping_add(seed * 40_503) >> 8) as f32 / 16_777_216.0;
            let b: Vec<f32> = (0..36).map(|i| at(i * 3 + 1) - 0.3).collect();
            let h: Vec<f32> = (0..36).map(|e| (0..6).map(|r| b[r * 6 + e / 6] * b[r * 6 + e % 6]).sum()).collect();
            let w: Vec<f32> = (0..6).map(|i| 6.0 * at(i * 7 + 200) - 3.0).collect();
            let nearest: Vec<i32> = w.iter().map(|w| w.round_ties_even() as i32).collect();
            let mut codes = nearest.clone();
            refine(&w, k, &h, &[grid], &mut codes);
            let found = error(&w, &h, &codes);
            assert!(found <= error(&w, &h, &nearest) + 1e-6);
            let neighbours = |m: usize, i: usize| w[i].floor() as i32 + ((m >> i) & 1) as i32;
            let best = (0..64).map(|m| error(&w, &h, &(0..6).map(|i| neighbours(m, i)).collect::<Vec<_>>()));
            let best = best.fold(f64::INFINITY, f64::min);
            assert!(found < 3.0 * best + 0.05, "{seed}: {found} {best}");
            for i in 0..k {
                let mut turned = codes.clone();
                turned[i] = grid.other(w[i], codes[i]);
                assert!(error(&w, &h, &turned) > found - 1e-4);
            }
        }
    }
}
