//! The range that holds a given share of the values.

use super::Range;
use crate::histogram::Histogram;

/// The range that holds `percent` of the values of `histogram`, what is left out shared evenly between both ends.
/// Within a bin, values are taken to lie evenly.
pub fn range(histogram: &Histogram, seen: Range, percent: f64) -> Range {
    let cut = (100.0 - percent) / 200.0 * histogram.total() as f64;
    let width = histogram.width();
    let low = quantile(with_zeros(histogram), cut);
    let high = quantile(with_zeros(histogram).rev().map(|(edge, w, n)| (edge + w, -w, n)), cut);
    let clamp = |x: Option<f64>, end: f32| x.map_or(end, |x| (x as f32).clamp(seen.min, seen.max));
    let (min, max) = (clamp(low, seen.min), clamp(high, seen.max));
    // With few values both cuts can fall into one bin from opposite sides.
    if min <= max && width > 0.0 { Range { min, max } } else { seen }
}

/// The bins, and the exact zeros as a bin without width before the first positive one: edge, width and count.
fn with_zeros(histogram: &Histogram) -> impl DoubleEndedIterator<Item = (f64, f64, u64)> {
    let bins: Vec<_> = histogram.bins().collect();
    let at = bins.partition_point(|(low, _)| *low < 0.0);
    let width = histogram.width();
    let mut all: Vec<(f64, f64, u64)> = bins.into_iter().map(|(low, n)| (low, width, n)).collect();
    all.insert(at, (0.0, 0.0, histogram.zeros()));
    all.into_iter()
}

/// Where `cut` values lie before, walking over bins given by the edge that is met first and the (signed) way to the
/// other; `None` if nothing is to be cut or there are not as many values.
fn quantile(bins: impl Iterator<Item = (f64, f64, u64)>, cut: f64) -> Option<f64> {
    let mut before = 0.0;
    for (edge, width, n) in bins {
        let n = n as f64;
        if cut > 0.0 && before + n > cut {
            return Some(edge + width * ((cut - before) / n));
        }
        before += n;
    }
    None
}
