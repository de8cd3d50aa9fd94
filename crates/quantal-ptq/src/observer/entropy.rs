//! The range whose codes tell most about the distribution: least Kullback-Leibler divergence.
//!
//! After S. Migacz, "8-bit Inference with TensorRT" (GTC 2017). For each threshold on the magnitudes, the histogram cut
//! there (P, what lies beyond added to its last bin) is compared with the same bins pooled into `levels` codes and
//! spread evenly again over those that are not empty (Q). Unlike there, Q is pooled from the bins without what lies
//! beyond, as the published pseudocode does and its text does not say, and exact zeros take no part.

use super::Range;
use crate::histogram::Histogram;

/// The part of `seen` within the best threshold for `levels` codes on each side of zero.
pub fn range(histogram: &Histogram, seen: Range, levels: usize) -> Range {
    let mut counts = histogram.magnitudes();
    counts.truncate(counts.iter().rposition(|n| *n > 0).map_or(0, |i| i + 1));
    let total: u64 = counts.iter().sum();
    let mut best = (f64::INFINITY, counts.len());
    let mut within: u64 = counts.iter().take(levels).sum();
    for cut in levels..=counts.len() {
        if cut > levels {
            within += counts[cut - 1];
        }
        let divergence = divergence(&counts[..cut], total - within, levels);
        // Of equals, the widest stays.
        if divergence <= best.0 {
            best = (divergence, cut);
        }
    }
    let threshold = (best.1 as f64 * histogram.width()) as f32;
    Range { min: seen.min.max(-threshold), max: seen.max.min(threshold) }
}

/// KL(P‖Q) of the cut histogram and its pooled form.
fn divergence(counts: &[u64], beyond: u64, levels: usize) -> f64 {
    let inside = counts.iter().sum::<u64>();
    let (sum_p, sum_q) = ((inside + beyond) as f64, inside as f64);
    let last = counts.len() - 1;
    let mut sum = 0.0;
    for level in 0..levels {
        let bins = level * counts.len() / levels..(level + 1) * counts.len() / levels;
        let pooled: u64 = counts[bins.clone()].iter().sum();
        let filled = counts[bins.clone()].iter().filter(|n| **n > 0).count();
        for i in bins {
            let p = (counts[i] + if i == last { beyond } else { 0 }) as f64 / sum_p;
            if p > 0.0 {
                // A last bin that holds only what was cut has no Q: as unlikely as one value in all.
                let q = if counts[i] > 0 { pooled as f64 / filled as f64 / sum_q } else { 1.0 / sum_p };
                sum += p * (p / q).ln();
            }
        }
    }
    sum
}
