//! Observers: they see the values of a tensor sample by sample and propose the range that its codes should cover.
//!
//! What they keep has a fixed size, merges, and does not depend on the order of the samples. Ranges are those of all
//! values; distributions are estimated from a part of them.

pub mod entropy;
pub mod minmax;
pub mod moving_average;
pub mod mse;
pub mod percentile;

use crate::histogram::Histogram;
use quantal_kernels::float::{Survey, survey};
use quantal_kernels::{Isa, Threads};
use serde::{Deserialize, Serialize};

/// How the range of an activation is chosen from what was seen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields, expecting = "a table with the key `kind`")]
pub enum Observer {
    /// The smallest and the largest value seen.
    MinMax {},
    /// The mean over samples of each sample's smallest and largest value: what a moving average tends to, without its
    /// dependence on the order of the samples.
    MovingAverage {},
    /// The range that holds this share of the values, the rest cut off evenly at both ends.
    Percentile {
        /// In percent, above 50 and at most 100.
        #[serde(default = "default_percent")]
        percent: f64,
    },
    /// The range with the least expected squared error of quantization.
    Mse {
        /// Histogram bins on each side of zero.
        #[serde(default = "default_bins")]
        bins: usize,
    },
    /// The range whose codes tell most about the distribution: least Kullback-Leibler divergence.
    Entropy {
        /// Histogram bins on each side of zero.
        #[serde(default = "default_bins")]
        bins: usize,
        /// Codes that cover one side: 128 or 256.
        #[serde(default = "default_levels")]
        levels: usize,
    },
}

fn default_percent() -> f64 {
    99.999
}

fn default_bins() -> usize {
    2048
}

fn default_levels() -> usize {
    128
}

/// Histogram bins of the percentile observer, on each side of zero.
const PERCENTILE_BINS: usize = 8192;

impl Observer {
    /// The least squared error: of the observers, it keeps the outputs of real models closest to float.
    pub const DEFAULT: Self = Self::Mse { bins: 2048 };

    /// Its name in recipes.
    pub fn name(&self) -> &'static str {
        match self {
            Self::MinMax {} => "min_max",
            Self::MovingAverage {} => "moving_average",
            Self::Percentile { .. } => "percentile",
            Self::Mse { .. } => "mse",
            Self::Entropy { .. } => "entropy",
        }
    }

    /// A field whose number lies where it must not, and what it must keep to.
    pub fn problem(&self) -> Option<(&'static str, String)> {
        match *self {
            Self::Percentile { percent } if !(percent > 50.0 && percent <= 100.0) => {
                Some(("percent", format!("must be above 50 and at most 100, found {percent}")))
            }
            Self::Mse { bins } | Self::Entropy { bins, .. } if !(512..=65536).contains(&bins) => {
                Some(("bins", format!("must be from 512 to 65536, found {bins}")))
            }
            Self::Entropy { levels, .. } if levels != 128 && levels != 256 => {
                Some(("levels", format!("must be 128 or 256, found {levels}")))
            }
            Self::MinMax {}
            | Self::MovingAverage {}
            | Self::Percentile { .. }
            | Self::Mse { .. }
            | Self::Entropy { .. } => None,
        }
    }
}

/// Two ends of an interval, `min ≤ max`, both finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// The lower end.
    pub min: f32,
    /// The upper end.
    pub max: f32,
}

impl Range {
    /// The smallest range that holds both.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// A tensor held NaN or an infinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFinite;

/// Smallest and largest of the values; `None` if there are none.
pub fn range_of(isa: Isa, values: &[f32]) -> Result<Option<Range>, NotFinite> {
    surveyed(&survey(isa, values, [1, 1], &Threads::new(1)))
}

/// Smallest and largest value of a survey; `None` if it saw none.
pub fn surveyed(found: &Survey) -> Result<Option<Range>, NotFinite> {
    if !found.finite {
        return Err(NotFinite);
    }
    // Adding zero turns −0 into +0: which of the two zeros comes first must not show.
    Ok(found.range.map(|(min, max)| Range { min: min + 0.0, max: max + 0.0 }))
}

/// Values of one tensor of one sample that a histogram counts for all.
const COUNTED: usize = 1 << 14;
/// Values next to each other that are counted together: four cache lines.
const PIECE: usize = 64;

/// Counts all values of a small tensor, and of a large one an even part: of each of equal stretches one piece is drawn,
/// by the checksum of all values, so that samples differ, in whatever order they come. A piece counts for its stretch.
/// Rare large values, which weigh most, are not left to chance: those beyond all that were drawn count one by one.
fn count(histogram: &mut Histogram, isa: Isa, values: &[f32], found: &Survey) {
    let pieces = values.len().div_ceil(PIECE);
    let stretch = pieces.div_ceil(COUNTED / PIECE);
    if stretch <= 1 {
        histogram.add(isa, values, 1);
        return;
    }
    let mut picked = Vec::with_capacity(COUNTED);
    for i in 0..pieces / stretch {
        let drawn = i * stretch + mixed(found.checksum ^ mixed(i as u32)) as usize % stretch;
        picked.extend_from_slice(&values[drawn * PIECE..values.len().min((drawn + 1) * PIECE)]);
    }
    histogram.add(isa, &picked, stretch as u64);
    // What is left of the last stretch.
    let rest = &values[values.len().min(pieces / stretch * stretch * PIECE)..];
    histogram.add(isa, rest, 1);
    let ends = [&picked[..], rest].map(|x| survey(isa, x, [1, 1], &Threads::new(1)).range);
    let (low, high) =
        ends.into_iter().flatten().fold((f32::INFINITY, f32::NEG_INFINITY), |a, b| (a.0.min(b.0), a.1.max(b.1)));
    histogram.add(isa, &found.beyond(values, low, high), 1);
}

/// Every bit of the result depends on every bit of `x` (the finalizer of MurmurHash3).
pub(crate) fn mixed(mut x: u32) -> u32 {
    x = (x ^ (x >> 16)).wrapping_mul(0x85eb_ca6b);
    x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
    x ^ (x >> 16)
}

/// What an observer keeps of the values that it saw.
#[derive(Clone, Debug, PartialEq)]
pub enum Statistics {
    /// For [`Observer::MinMax`].
    MinMax(minmax::MinMax),
    /// For [`Observer::MovingAverage`].
    MovingAverage(Box<moving_average::MovingAverage>),
    /// For the observers that look at the distribution.
    Histogram(Histogram),
}

impl Statistics {
    /// Nothing seen yet.
    pub fn new(observer: &Observer) -> Self {
        match *observer {
            Observer::MinMax {} => Self::MinMax(minmax::MinMax::default()),
            Observer::MovingAverage {} => Self::MovingAverage(Box::default()),
            Observer::Percentile { .. } => Self::Histogram(Histogram::new(PERCENTILE_BINS)),
            Observer::Mse { bins } | Observer::Entropy { bins, .. } => Self::Histogram(Histogram::new(bins)),
        }
    }

    /// Takes in the values of one tensor of one sample, of which `found` is a survey.
    pub fn observe(&mut self, isa: Isa, values: &[f32], found: &Survey) -> Result<(), NotFinite> {
        let Some(range) = surveyed(found)? else { return Ok(()) };
        match self {
            Self::MinMax(m) => m.add(range),
            Self::MovingAverage(m) => m.add(range),
            Self::Histogram(h) => {
                h.see(range);
                count(h, isa, values, found);
            }
        }
        Ok(())
    }

    /// Takes in all that `other` saw.
    ///
    /// # Panics
    /// If they were made for different observers.
    pub fn merge(&mut self, other: &Self) {
        match (self, other) {
            (Self::MinMax(a), Self::MinMax(b)) => a.merge(b),
            (Self::MovingAverage(a), Self::MovingAverage(b)) => a.merge(b),
            (Self::Histogram(a), Self::Histogram(b)) => a.merge(b),
            (Self::MinMax(_) | Self::MovingAverage(_) | Self::Histogram(_), _) => {
                panic!("statistics of different observers")
            }
        }
    }

    /// Smallest and largest value seen; `None` before the first.
    pub fn seen(&self) -> Option<Range> {
        match self {
            Self::MinMax(m) => m.seen(),
            Self::MovingAverage(m) => m.seen(),
            Self::Histogram(h) => h.seen(),
        }
    }

    /// The range that `observer`, for which this was made, proposes for codes of `levels` steps (255 for 8 bits), around
    /// zero if `symmetric`. It lies inside [`Statistics::seen`] widened to hold zero; `None` if nothing was seen.
    pub fn range(&self, observer: &Observer, levels: u32, symmetric: bool) -> Option<Range> {
        let seen = self.seen()?;
        match (self, *observer) {
            (Self::MovingAverage(m), _) => m.mean(),
            (Self::Histogram(h), Observer::Percentile { percent }) => Some(percentile::range(h, seen, percent)),
            (Self::Histogram(h), Observer::Mse { .. }) => Some(mse::range(h, seen, levels, symmetric)),
            (Self::Histogram(h), Observer::Entropy { levels, .. }) => Some(entropy::range(h, seen, levels)),
            (Self::MinMax(_) | Self::Histogram(_), _) => Some(seen),
        }
    }
}

#[cfg(test)]
mod tests;
