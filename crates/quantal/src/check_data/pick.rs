//! The part of the samples that covers them best.
//!
//! Each feature of a sample (its class, its figures, the ends of each range in it) lies in one of few bins, eight for a
//! figure, as evenly filled as ties allow. Samples are taken one by one, each time the one that adds most to
//!
//! ```text
//! Σ over features  weight · Σ over bins  √(samples taken of the bin)
//! ```
//!
//! a concave function of modular ones, for which this greedy choice reaches at least 1 − 1/e of the best (Lin & Bilmes, *A
//! Class of Submodular Functions for Document Summarization*, ACL 2011, §4). So rare kinds are taken early and common ones
//! more often. The three families of features weigh alike.

use super::Seen;
use super::classes::classes;
use super::distribution::of;
use std::collections::BTreeSet;

/// Bins of a feature that has an order.
const BINS: usize = 8;

/// `count` indices, sorted; those named in `without` are left out.
pub(super) fn pick(seen: &Seen, count: usize, without: &[&String]) -> Vec<usize> {
    let families = [class_bins(seen), figure_bins(seen), range_bins(seen)];
    let features: Vec<(f64, &Vec<usize>)> =
        families.iter().flat_map(|f| f.iter().map(|bins| (1.0 / f.len() as f64, bins))).collect();
    let mut taken: Vec<Vec<u32>> =
        features.iter().map(|(_, bins)| vec![0; bins.iter().max().map_or(0, |m| m + 1)]).collect();
    let spoilt: BTreeSet<&String> = without.iter().copied().collect();
    let mut left: Vec<usize> = (0..seen.notes.len()).filter(|&i| !spoilt.contains(&seen.notes[i].name)).collect();
    let mut picked = Vec::new();
    while picked.len() < count && !left.is_empty() {
        let gain = |i: usize| -> f64 {
            let of_feature = |((weight, bins), taken): (&(f64, &Vec<usize>), &Vec<u32>)| {
                let n = f64::from(taken[bins[i]]);
                weight * ((n + 1.0).sqrt() - n.sqrt())
            };
            features.iter().zip(&taken).map(of_feature).sum()
        };
        // Of equals the first.
        let best = left.iter().enumerate().map(|(at, &i)| (gain(i), at)).reduce(|a, b| if b.0 > a.0 { b } else { a });
        let Some((_, at)) = best else { break };
        let i = left.remove(at);
        for ((_, bins), taken) in features.iter().zip(&mut taken) {
            taken[bins[i]] += 1;
        }
        picked.push(i);
    }
    picked.sort_unstable();
    picked
}

fn class_bins(seen: &Seen) -> Vec<Vec<usize>> {
    let Some(classes) = classes(seen) else { return Vec::new() };
    let known: BTreeSet<u32> = classes.iter().copied().collect();
    let known: Vec<u32> = known.into_iter().collect();
    vec![classes.iter().map(|c| known.binary_search(c).unwrap_or(0)).collect()]
}

fn figure_bins(seen: &Seen) -> Vec<Vec<usize>> {
    let names = seen.notes.first().map_or(&[][..], |n| &n.figures);
    names.iter().map(|(name, _)| bins(&of(seen, name))).collect()
}

fn range_bins(seen: &Seen) -> Vec<Vec<usize>> {
    let count = seen.sampled.ranges.first().map_or(0, Vec::len);
    let ends = |i: usize| {
        let end = |max: bool| -> Vec<f64> {
            seen.sampled.ranges.iter().map(|r| f64::from(if max { r[i].max } else { r[i].min })).collect()
        };
        [bins(&end(false)), bins(&end(true))]
    };
    // What is the same in all samples tells nothing.
    (0..count).flat_map(ends).filter(|b| b.iter().any(|&x| x > 0)).collect()
}

/// The eighth of the values that each lies in; equal ones lie in the same.
fn bins(values: &[f64]) -> Vec<usize> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = |v: &f64| sorted.partition_point(|x| x.total_cmp(v).is_lt());
    values.iter().map(|v| rank(v) * BINS / values.len().max(1)).collect()
}
