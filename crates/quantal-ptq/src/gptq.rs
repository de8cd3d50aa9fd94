//! GPTQ: weights rounded one after the other, each taking up the error of those before.
//!
//! Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (2022), algorithm 1
//! with the inputs in order of decreasing `H_kk` ("act-order") and 1 % of the mean diagonal added to it. The paper
//! pushes each error onto the weights still to come through the Cholesky factor of `H⁻¹`. The same codes come from the
//! factor of H itself (Chen et al., "The Geometry of LLM Quantization: GPTQ as Babai's Nearest Plane Algorithm", 2025),
//! with no inverse: with `H = R Rᵀ`, R upper triangular,
//!
//! ```text
//! δᵀ H δ = Σ_i (R_ii δ_i + Σ_{j<i} R_ji δ_j)²,   so   q_i = round(w_i + Σ_{j<i} R_ji (w_j − ŵ_j) / R_ii)
//! ```
//!
//! Sums run in a fixed order without fused operations: the same codes on every CPU.

use crate::rounding::Grid;
use quantal_tensor::OutOfMemory;
use quantal_tensor::bytes::Claimed;

/// Rows of weights that are rounded together, lane by lane.
const LANES: usize = 16;

/// Codes for rows of weights `[outputs, k]` with the second moment `h` `[k, k]` of their data; `None` if the data are
/// all zero. Takes memory for a factor of as many elements as `h`.
pub(crate) fn round(weights: &[f32], k: usize, h: &[f32], grids: &[Grid]) -> Result<Option<Vec<i32>>, OutOfMemory> {
    let mut order: Vec<usize> = (0..k).collect();
    order.sort_by(|&a, &b| h[b * k + b].total_cmp(&h[a * k + a]));
    let Some(factor) = Factor::of(h, k, &order)? else { return Ok(None) };
    let mut codes = vec![0; weights.len()];
    for (block, grids) in grids.chunks(LANES).enumerate() {
        let first = block * LANES;
        let mut errors = vec![[0.0_f32; LANES]; k];
        for (i, &column) in order.iter().enumerate() {
            let row = factor.row(i);
            let mut pushed = [0.0_f32; LANES];
            for (r, e) in row[..i].iter().zip(&errors) {
                for (p, e) in pushed.iter_mut().zip(e) {
                    *p += r * e;
                }
            }
            for (lane, grid) in grids.iter().enumerate() {
                let at = (first + lane) * k + column;
                let code = grid.code(weights[at] + pushed[lane] / row[i]);
                errors[i][lane] = weights[at] - grid.real(code);
                codes[at] = code;
            }
        }
    }
    Ok(Some(codes))
}

/// The lower triangle of Rᵀ, row by row: row i has the elements `R_ji`, j ≤ i.
struct Factor(Claimed<f32>);

fn start(i: usize) -> usize {
    i * (i + 1) / 2
}

/// Rows that are factored together before the rows above see them: they stay in the cache meanwhile.
const BLOCK: usize = 32;

impl Factor {
    fn of(h: &[f32], k: usize, order: &[usize]) -> Result<Option<Self>, OutOfMemory> {
        let mean = order.iter().map(|&i| f64::from(h[i * k + i])).sum::<f64>() / k.max(1) as f64;
        if mean <= 0.0 || !mean.is_finite() {
            return Ok(None);
        }
        let mut a = Claimed::<f64>::zeroed(start(k))?;
        for (i, &row) in order.iter().enumerate() {
            let to = &mut a[start(i)..=start(i) + i];
            to.iter_mut().zip(order).for_each(|(a, &column)| *a = f64::from(h[row * k + column]));
            to[i] += 0.01 * mean;
        }
        // From the last row up: each leaves the rows above as if it had never been.
        let mut end = k;
        while end > 0 {
            let begin = end.saturating_sub(BLOCK);
            for i in (begin..end).rev() {
                let (above, row) = a.split_at_mut(start(i));
                let row = &mut row[..=i];
                let root = row[i].max(f64::MIN_POSITIVE).sqrt();
                for v in row.iter_mut() {
                    *v /= root;
                }
                row[i] = root;
                for j in begin..i {
                    subtract(&mut above[start(j)..=start(j) + j], row, row[j]);
                }
            }
            let (above, block) = a.split_at_mut(start(begin));
            for j in 0..begin {
                let target = &mut above[start(j)..=start(j) + j];
                for i in (begin..end).rev() {
                    let row = &block[start(i) - start(begin)..];
                    subtract(target, row, row[j]);
                }
            }
            end = begin;
        }
        let mut rounded = Claimed::zeroed(a.len())?;
        rounded.iter_mut().zip(a.iter()).for_each(|(r, &v)| *r = v as f32);
        Ok(Some(Self(rounded)))
    }

    fn row(&self, i: usize) -> &[f32] {
        &self.0[start(i)..=start(i) + i]
    }
}

fn subtract(target: &mut [f64], row: &[f64], factor: f64) {
    for (t, r) in target.iter_mut().zip(row) {
        *t -= factor * r;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_gives_the_matrix_back() {
        // H = Bᵀ B of any B: 40 rows cross a block.
        let k = 40;
        let b: Vec<f64> = (0..k * k).map(|i| ((i * 7919 + 13) % 1009) as f64 / 504.5 - 1.0).collect();
        let h: Vec<f32> =
            (0..k * k).map(|e| (0..k).map(|r| b[r * k + e / k] * b[r * k + e % k]).sum::<f64>() as f32).collect();
        let order: Vec<usize> = (0..k).rev().collect();
        let factor = Factor::of(&h, k, &order).unwrap().unwrap();
        let damp = 0.01 * (0..k).map(|i| h[i * k + i]).sum::<f32>() / k as f32;
        for i in 0..k {
            for j in 0..=i {
                // Rows of Rᵀ: (R Rᵀ)_ij = Σ_m R_im R_jm, R_im at row m.
                let sum: f32 = (i..k).map(|m| factor.row(m)[i] * factor.row(m)[j]).sum();
                let expected = h[order[i] * k + order[j]] + if i == j { damp } else { 0.0 };
                assert!((sum - expected).abs() < 1e-3 * damp.max(1.0), "{i} {j}: {sum} {expected}");
            }
        }
    }

    #[test]
    fn an_error_is_taken_up_by_what_moves_with_it() {
        // Two inputs that are always equal: the sum of the weights is all that counts. 0.4 + 0.4 rounds to 0 + 0 one by
        // one; the second takes up the first one's error and becomes 1, nearest to 0.8.
        let grid = Grid { scale: 1.0, zero_point: 0, qmin: -127, qmax: 127 };
        let codes = round(&[0.4, 0.4], 2, &[1.0, 1.0, 1.0, 1.0], &[grid]).unwrap().unwrap();
        assert_eq!(codes.iter().sum::<i32>(), 1);
        // Inputs that have nothing to do with one another: the nearest codes.
        let apart = round(&[0.4, 0.4, -0.6, 1.6], 2, &[1.0, 0.0, 0.0, 4.0], &[grid; 2]).unwrap();
        assert_eq!(apart.unwrap(), [0, 0, -1, 2]);
        assert_eq!(round(&[0.4], 1, &[0.0], &[grid]), Ok(None));
    }
}
