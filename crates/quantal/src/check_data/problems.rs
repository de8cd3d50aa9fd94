//! What is wrong with a set of samples, in words, and the limits that say so.

use super::damaged::{damaged, drawings};
use super::distribution::quantile;
use super::drift::drift;
use super::{Classes, DataCheck, Seen};
use quantal_ptq::Range;
use serde::Serialize;
use std::collections::BTreeSet;

/// Something about the samples that would cost accuracy.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    /// `blank`, `noise`, `saturated`, `repeats`, `stretching`, `too_few`, `one_class`, `dark`, `washed_out` or `drift`.
    pub kind: &'static str,
    /// What it is.
    pub what: String,
    /// The figures that show it, a sentence each, where `what` does not hold them.
    pub figures: Vec<String>,
    /// What to do.
    pub advice: String,
    /// The samples that it lies in, where it lies in few.
    pub samples: Vec<String>,
}

impl Problem {
    /// A problem of the set as a whole.
    pub(super) fn of_all(kind: &'static str, what: String, advice: impl Into<String>) -> Self {
        Self { kind, what, figures: Vec::new(), advice: advice.into(), samples: Vec::new() }
    }
}

// Limits that follow from no theorem were measured on ResNet-20 (CIFAR-10), EfficientNet-lite0 (ImageNet) and MiniLM-L6
// (SST-2), on random subsets of their calibration data ("good") and on spoilt ones.

/// Scales that differ by this part are near: 0.8 dB of noise.
const NEAR: f64 = 0.1;
/// With fewer, more than one new sample in 20 may reach beyond all of them, at 95 % confidence: 0.95⁵⁹ < 0.05, whatever
/// the distribution (Wilks, *Determination of Sample Sizes for Setting Tolerance Limits*, 1941).
pub const LEAST_SAMPLES: usize = 59;
/// The standard error of one scale in ten. Good, with 32 samples or more: 0.02 to 0.14.
const MOST_SPREAD: f64 = 0.15;
/// The share of samples with one label.
const MOST_LABELLED_ALIKE: f64 = 0.9;
/// A share of one class that exceeds what the other data has by this.
const MORE_ALIKE: f64 = 0.1;
/// What mean and two deviations of the brighter images reach. Good photographs: 1.2, digits on black: 0.9; at three tenths
/// of the light: 0.35.
const BRIGHT: f64 = 0.6;
/// The brightness that one photograph in ten exceeds. Good: 0.51 to 0.68; the darkest eighth of a set: 0.32.
const DIM: f64 = 0.4;
/// What two deviations below the mean of the darker images reach. Good: below 0.
const PALE: f64 = 0.4;

/// Whether scales that differ by this part are near.
pub(super) fn within(off: f64) -> bool {
    off <= NEAR
}

/// All that is wrong.
pub(super) fn problems(found: &DataCheck, a: &Seen, b: Option<&Seen>) -> Vec<Problem> {
    let mut all = damaged(found, a);
    // One damaged sample makes ranges uncertain in the same way as too few.
    let uncertain = if all.is_empty() { uncertain(found) } else { None };
    all.extend(too_few(a).or(uncertain));
    all.extend(one_class(found, b));
    all.extend(exposure(found, a));
    all.extend(b.and_then(|b| drift(found, a, b)));
    all
}

fn too_few(a: &Seen) -> Option<Problem> {
    let bits = |r: &Range| [r.min.to_bits(), r.max.to_bits()];
    // A copy tells nothing new.
    let different: BTreeSet<Vec<[u32; 2]>> = a.sampled.ranges.iter().map(|r| r.iter().map(bits).collect()).collect();
    let (count, different) = (a.notes.len(), different.len());
    if different >= LEAST_SAMPLES {
        return None;
    }
    let few = match (count, different) {
        (1, _) => "1 sample is too few".to_owned(),
        _ if different < count => format!("{count} samples of which only {different} differ are too few"),
        _ => format!("{count} samples are too few"),
    };
    // The share beyond the largest of n samples is at most p with confidence 1 − (1 − p)ⁿ.
    let beyond = 100.0 * (1.0 - 0.05_f64.powf(1.0 / different as f64));
    let what = format!("{few}: up to {beyond:.0} in 100 new ones may reach beyond all of them (at 95 % confidence)");
    Some(Problem::of_all("too_few", what, "give 100 to 500 different samples of what the model will see"))
}

fn uncertain(found: &DataCheck) -> Option<Problem> {
    let spread: Vec<f64> = found.ranges.iter().filter_map(|r| r.spread).collect();
    let (count, most) = (found.samples, quantile(&spread, 0.9));
    if most <= MOST_SPREAD {
        return None;
    }
    let percent = 100.0 * most;
    let what = format!(
        "{count} samples are too few: with others of the same kind, one scale in ten would differ by {percent:.0} % or more"
    );
    // The error falls with the root of their number.
    let needed = count as f64 * (most / MOST_SPREAD).powi(2);
    Some(Problem::of_all("too_few", what, format!("about {needed:.0} samples of this kind should do")))
}

fn one_class(found: &DataCheck, b: Option<&Seen>) -> Option<Problem> {
    let c = found.classes.as_ref()?;
    let limit = match (c.by, c.of) {
        // Models err: half-way between all classes alike and one alone.
        ("predictions", Some(n)) => f64::midpoint(1.0, 1.0 / n as f64),
        _ => MOST_LABELLED_ALIKE,
    };
    // What the model will see may be as uneven.
    let usual = b.and_then(Classes::of).filter(|b| b.most_common == c.most_common).map_or(0.0, |b| b.share);
    let alike = if c.by == "labels" { "have the label" } else { "look to the model like class" };
    let what = format!("{:.0} % of the samples {alike} {}", 100.0 * c.share, c.most_common);
    (c.share > limit.max(usual + MORE_ALIKE))
        .then(|| Problem::of_all("one_class", what, "add samples of the other classes"))
}

fn exposure(found: &DataCheck, a: &Seen) -> Option<Problem> {
    let row = |name: &str| found.figures.iter().find(|f| f.figure == name);
    let (brightness, contrast) = (row("brightness")?, row("contrast")?);
    if brightness.against.is_some() {
        // What the model will see may be as dark: how far the two differ is looked at.
        return None;
    }
    let (b, c) = (&brightness.data, &contrast.data);
    let (kind, what) = if b.high + 2.0 * c.high < BRIGHT || b.high < DIM && !drawings(a) {
        ("dark", format!("dark: nine in ten have a brightness below {:.2}", b.high))
    } else if b.low - 2.0 * c.high > PALE {
        ("washed_out", format!("nearly white: nine in ten have a brightness above {:.2}", b.low))
    } else {
        return None;
    };
    let what = format!("the images are all {what}, where black is 0 and white is 1");
    Some(Problem::of_all(kind, what, "add images in the light that the model will see"))
}
