//! Samples that make ranges wider by themselves.

use super::Seen;
use super::distribution::quantile;
use serde::Serialize;

/// A range is stretched if it would be narrower by this part without the sample.
const STRETCH: f64 = 0.2;

/// A sample that alone stretches ranges.
#[derive(Clone, Debug, Serialize)]
pub struct StretchRow {
    /// The sample.
    pub sample: String,
    /// Number of ranges that it stretches.
    pub ranges: usize,
    /// Without it, half of those ranges would be at most this part as wide.
    pub width_without: f64,
    /// Without it, the one that it stretches most would be this part as wide.
    pub least_width: f64,
}

/// The samples without which ranges would be clearly narrower, those that stretch most of them first.
pub(super) fn stretching(seen: &Seen) -> Vec<StretchRow> {
    let (samples, count) = (&seen.sampled.ranges, seen.sampled.ranges.first().map_or(0, Vec::len));
    let mut found: Vec<Vec<f64>> = vec![Vec::new(); samples.len()];
    for i in 0..count {
        // The ends, and what they would be without the sample that makes them.
        let (mut max, mut min) = ([(0.0, 0); 2], [(0.0, 0); 2]);
        for (s, ranges) in samples.iter().enumerate() {
            for (top, v) in [(&mut max, ranges[i].max), (&mut min, -ranges[i].min)] {
                if v > top[0].0 {
                    *top = [(v, s), top[0]];
                } else if v > top[1].0 {
                    top[1] = (v, s);
                }
            }
        }
        let width = max[0].0 + min[0].0;
        let mut makers = vec![max[0].1, min[0].1];
        makers.dedup();
        for s in makers {
            let without = |top: &[(f32, usize); 2]| if top[0].1 == s { top[1].0 } else { top[0].0 };
            let left = f64::from((without(&max) + without(&min)) / width);
            if left <= 1.0 - STRETCH {
                found[s].push(left);
            }
        }
    }
    let mut rows: Vec<StretchRow> = found
        .iter()
        .zip(&seen.notes)
        .filter(|(left, _)| !left.is_empty())
        .map(|(left, note)| StretchRow {
            sample: note.name.clone(),
            ranges: left.len(),
            width_without: quantile(left, 0.5),
            least_width: quantile(left, 0.0),
        })
        .collect();
    rows.sort_by_key(|r| std::cmp::Reverse(r.ranges));
    rows
}
