//! How evenly a set of samples holds the classes.

use super::Seen;
use serde::Serialize;
use std::collections::BTreeMap;

/// The classes of the samples: their labels, or what the model takes them for.
#[derive(Clone, Debug, Serialize)]
pub struct Classes {
    /// `labels` or `predictions`.
    pub by: &'static str,
    /// Number of classes that the model tells apart, where it gives a list of scores.
    pub of: Option<usize>,
    /// Number of classes among the samples.
    pub seen: usize,
    /// The most common one.
    pub most_common: u32,
    /// Its share of the samples, 0 to 1.
    pub share: f64,
}

impl Classes {
    /// By labels if all samples have one, else by predictions; `None` where there is neither.
    pub(super) fn of(seen: &Seen) -> Option<Self> {
        let by = if seen.notes.iter().all(|n| n.label.is_some()) { "labels" } else { "predictions" };
        let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
        for class in classes(seen)? {
            *counts.entry(class).or_default() += 1;
        }
        // Of equals the first.
        let (&most_common, &count) = counts.iter().max_by_key(|(class, n)| (**n, std::cmp::Reverse(**class)))?;
        let share = count as f64 / seen.notes.len() as f64;
        let of = (seen.sampled.classes > 0).then_some(seen.sampled.classes);
        Some(Self { by, of, seen: counts.len(), most_common, share })
    }
}

/// The class of each sample.
pub(super) fn classes(seen: &Seen) -> Option<Vec<u32>> {
    let labels: Option<Vec<u32>> = seen.notes.iter().map(|n| n.label).collect();
    labels.or_else(|| seen.sampled.answers.iter().copied().collect())
}
