//! Figures of samples as distributions, and how far two of them lie apart.

use super::Seen;
use serde::Serialize;

/// One figure of the samples.
#[derive(Clone, Debug, Serialize)]
pub struct FigureRow {
    /// Its name.
    pub figure: &'static str,
    /// Over the samples.
    pub data: Distribution,
    /// Over those that they were held against, where they have this figure.
    pub against: Option<Distribution>,
    /// How far both lie apart: the largest difference between the shares of samples below any one value, 0 to 1.
    pub apart: Option<f64>,
}

/// Where the samples lie.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Distribution {
    /// The least.
    pub min: f64,
    /// A tenth is below.
    pub low: f64,
    /// Half is below.
    pub median: f64,
    /// A tenth is above.
    pub high: f64,
    /// The most.
    pub max: f64,
}

/// A row for each figure of `a`.
pub(super) fn rows(a: &Seen, b: Option<&Seen>) -> Vec<FigureRow> {
    let names = a.notes.first().map_or(&[][..], |n| &n.figures);
    let row = |&(figure, _): &(&'static str, f64)| {
        let (mine, theirs) = (of(a, figure), b.map(|b| of(b, figure)).filter(|v| !v.is_empty()));
        FigureRow {
            figure,
            data: Distribution::of(&mine),
            against: theirs.as_deref().map(Distribution::of),
            apart: theirs.as_deref().map(|t| apart(&mine, t)),
        }
    };
    names.iter().map(row).collect()
}

/// One figure of each sample.
pub(super) fn of(seen: &Seen, figure: &str) -> Vec<f64> {
    seen.notes.iter().flat_map(|n| &n.figures).filter(|f| f.0 == figure).map(|f| f.1).collect()
}

impl Distribution {
    fn of(values: &[f64]) -> Self {
        let [min, low, median, high, max] = [0.0, 0.1, 0.5, 0.9, 1.0].map(|share| quantile(values, share));
        Self { min, low, median, high, max }
    }
}

/// The value that this share of the others is below: one of them, the lower of two; 0 if there are none.
pub(super) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(((sorted.len().max(1) - 1) as f64 * share) as usize).copied().unwrap_or(0.0)
}

/// The statistic of Kolmogorov and Smirnov: the largest difference between the two distribution functions.
fn apart(a: &[f64], b: &[f64]) -> f64 {
    let below = |values: &[f64], x: f64| values.iter().filter(|v| **v <= x).count() as f64 / values.len() as f64;
    a.iter().chain(b).map(|&x| (below(a, x) - below(b, x)).abs()).fold(0.0, f64::max)
}
