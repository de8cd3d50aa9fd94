//! The range with the least expected squared error.
//!
//! A value inside the range is off by at most half a step, evenly: `s² / 12` on average. A value outside is off by its
//! distance from the nearer end. With the values of a bin spread evenly over it,
//!
//! ```text
//! error(lo, hi) = inside · ((hi − lo) / levels)² / 12 + Σ_{x < lo} (lo − x)² + Σ_{x > hi} (x − hi)²
//! ```
//!
//! Exact zeros are never off and count nowhere. Both ends are searched on bin edges together: first every 16th edge,
//! then all edges around the best. A range always holds zero.

use super::Range;
use crate::histogram::Histogram;

/// The range inside `seen` with the least error for `levels` steps; around zero if `symmetric`.
pub fn range(histogram: &Histogram, seen: Range, levels: u32, symmetric: bool) -> Range {
    let low_side = Side::new(histogram.bins().rev().filter(|b| b.0 < 0.0).map(|(low, n)| (-low, n)), histogram.width());
    let high_side = Side::new(
        histogram.bins().filter(|b| b.0 >= 0.0).map(|(low, n)| (low + histogram.width(), n)),
        histogram.width(),
    );
    let levels = f64::from(levels);
    let error = |lo: usize, hi: usize| {
        let (l, h) = (low_side.edge(lo), high_side.edge(hi));
        let step = if symmetric { 2.0 * l.max(h) } else { l + h } / levels;
        // Around zero, a longer end is free: the shorter one reaches as far.
        let (l, h) = if symmetric { (l.max(h), l.max(h)) } else { (l, h) };
        let (lo, hi) = (low_side.index(l), high_side.index(h));
        let inside = low_side.inside[lo] + high_side.inside[hi];
        inside * step * step / 12.0 + low_side.beyond[lo] + high_side.beyond[hi]
    };
    let (lows, highs) = (low_side.inside.len() - 1, high_side.inside.len() - 1);
    let mut best = (f64::INFINITY, lows, highs);
    // From the widest range down, and only a smaller error replaces: of equals, the widest stays.
    let search = |low: &[usize], high: &[usize], best: &mut (f64, usize, usize)| {
        for &lo in low {
            for &hi in high {
                let e = error(lo, hi);
                if e < best.0 {
                    *best = (e, lo, hi);
                }
            }
        }
    };
    search(&coarse(lows), &coarse(highs), &mut best);
    let (_, lo, hi) = best;
    search(&around(lo, lows), &around(hi, highs), &mut best);
    let (_, lo, hi) = best;
    // The last edge lies beyond the last value.
    Range {
        min: (-low_side.edge(lo) as f32).max(seen.min.min(0.0)),
        max: (high_side.edge(hi) as f32).min(seen.max.max(0.0)),
    }
}

const COARSE: usize = 16;

fn coarse(last: usize) -> Vec<usize> {
    (0..=last).rev().step_by(COARSE).collect()
}

fn around(at: usize, last: usize) -> Vec<usize> {
    (at.saturating_sub(COARSE)..=(at + COARSE).min(last)).rev().collect()
}

/// One side of zero, by distance: for each edge `i·width`, what lies inside and the squared error of what lies beyond.
struct Side {
    width: f64,
    inside: Vec<f64>,
    beyond: Vec<f64>,
}

impl Side {
    /// `bins` by the distance of their far edge, nearest first.
    fn new(bins: impl Iterator<Item = (f64, u64)>, width: f64) -> Self {
        let bins: Vec<(usize, f64)> = bins.map(|(far, n)| ((far / width).round() as usize, n as f64)).collect();
        let last = bins.last().map_or(0, |b| b.0);
        let mut counts = vec![0.0; last];
        for (far, n) in bins {
            counts[far - 1] = n;
        }
        let mut inside = vec![0.0; last + 1];
        for i in 0..last {
            inside[i + 1] = inside[i] + counts[i];
        }
        // Moving the end in by w: Σ n (d + w)² = Σ n d² + 2w Σ n d + w² Σ n, and the new bin adds n·w²/3.
        let (mut beyond, mut n, mut first, mut second) = (vec![0.0; last + 1], 0.0, 0.0, 0.0);
        for i in (0..last).rev() {
            second += 2.0 * width * first + width * width * n + counts[i] * width * width / 3.0;
            first += width * n + counts[i] * width / 2.0;
            n += counts[i];
            beyond[i] = second;
        }
        Self { width, inside, beyond }
    }

    fn edge(&self, i: usize) -> f64 {
        i as f64 * self.width
    }

    fn index(&self, edge: f64) -> usize {
        ((edge / self.width).round() as usize).min(self.inside.len() - 1)
    }
}
