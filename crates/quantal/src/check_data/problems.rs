//! What is wrong with a set of samples, in words, and the limits that say so.

use super::distribution::{FigureRow, of, quantile};
use super::stretch::StretchRow;
use super::{Classes, DataCheck, Seen};
use serde::Serialize;

/// Something about the samples that would cost accuracy.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    /// `too_few`, `one_class`, `dark`, `washed_out`, `blank`, `saturated`, `noise`, `stretching`, `drift` or `clipped`.
    pub kind: &'static str,
    /// What it is, with its figures.
    pub what: String,
    /// What to do.
    pub advice: String,
    /// The samples that it lies in, where it lies in few.
    pub samples: Vec<String>,
}

// Measured on ResNet-20 (CIFAR-10), EfficientNet-lite0 (ImageNet) and MiniLM-L6 (SST-2), on random subsets of their
// calibration data ("good") and on spoilt ones.

/// Scales that differ by this part are near: 0.8 dB of noise.
const NEAR: f64 = 0.1;
/// Below this the bootstrap has too little to draw from: it finds 8 samples hardly less certain than 64.
const LEAST_SAMPLES: usize = 16;
/// The standard error of one scale in ten. Good, with 32 samples or more: 0.02 to 0.14.
const MOST_SPREAD: f64 = 0.15;
/// The share of ranges that one sample may stretch. Good: 6 of 30, in 32 and in 48 images; noise 14.
const STRETCHED_SHARE: f64 = 0.3;
/// In a small network, chance alone stretches one or two.
const LEAST_STRETCHED: f64 = 3.0;
/// What one sample may leave of one range: below this it costs all others one bit. Good, in 32 sentences: 0.58.
const LEAST_WIDTH: f64 = 0.5;
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
/// The contrast of an image of one shade, with the traces of JPEG: two grey levels and a half.
const BLANK: f64 = 0.01;
/// The share of pixels at black or white in an image that is saturated. 4,000 good photographs: 0.66 at most.
const SATURATED: f64 = 0.8;
/// The share at the rarer of both ends: photographs may have a white background, but hardly a black one too. Good: 0.22 at
/// most, two above 0.1; with six times the contrast 0.3 in half of them.
const SATURATED_AT_BOTH: f64 = 0.25;
/// The roughness of noise is 1, that of an image half of which is noise 0.67 or more, scaled down less. 4,000 good
/// photographs: 0.54 at most; digits 0.43.
const NOISE: f64 = 0.6;
/// How far figures of two sets may lie apart. Good: 0.05; the darkest eighth of images against all: 0.85.
const APART: f64 = 0.25;
/// √(−ln(0.001 / 2) / 2): two sets of one kind lie farther apart once in a thousand (Smirnov 1948).
const SMIRNOV: f64 = 1.949;
/// Scales of two sets. Good: 0.86 to 1.08 times as large.
const DRIFTED: f64 = 1.25;
/// The share of ranges that may be so: single ones are (one scale of a good set cuts off 4 % of another's values).
const DRIFTED_SHARE: f64 = 0.1;
/// The share of values beyond the codes. Good: 0.0002 in the worst tenth; from dark images to normal ones 0.003.
const CLIPPED: f64 = 0.001;

/// Whether scales that differ by this part are near.
pub(super) fn within(off: f64) -> bool {
    off <= NEAR
}

/// All that is wrong.
pub(super) fn problems(found: &DataCheck, a: &Seen, b: Option<&Seen>) -> Vec<Problem> {
    let mut all = Vec::new();
    all.extend(stretched(found));
    all.extend(blank(a));
    all.extend(saturated(a));
    all.extend(noise(a));
    if all.is_empty() || found.samples < LEAST_SAMPLES {
        // One damaged sample makes ranges uncertain in the same way.
        all.extend(too_few(found));
    }
    all.extend(one_class(found, b));
    all.extend(exposure(found, a));
    all.extend(found.figures.iter().filter_map(|f| apart(f, a, b)));
    all.extend(drifted(found));
    all.extend(clipped(found));
    all
}

fn too_few(found: &DataCheck) -> Option<Problem> {
    let spread: Vec<f64> = found.ranges.iter().filter_map(|r| r.spread).collect();
    let most = quantile(&spread, 0.9);
    let (what, advice) = if found.samples < LEAST_SAMPLES {
        let s = if found.samples == 1 { " is" } else { "s are" };
        let what = format!("{} sample{s} too few: chance makes the ranges", found.samples);
        (what, "give 100 to 500 samples of what the model will see".to_owned())
    } else if most > MOST_SPREAD {
        let what = format!(
            "{} samples are too few: with others of the same kind, one scale in ten would differ by {:.0} % or more",
            found.samples,
            100.0 * most
        );
        // The error falls with the root of their number.
        let needed = found.samples as f64 * (most / MOST_SPREAD).powi(2);
        (what, format!("about {needed:.0} samples of this kind should do"))
    } else {
        return None;
    };
    Some(Problem { kind: "too_few", what, advice, samples: Vec::new() })
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
    (c.share > limit.max(usual + MORE_ALIKE)).then(|| Problem {
        kind: "one_class",
        what: format!("{:.0} % of the samples {alike} {}", 100.0 * c.share, c.most_common),
        advice: "add samples of the other classes".to_owned(),
        samples: Vec::new(),
    })
}

fn exposure(found: &DataCheck, a: &Seen) -> Option<Problem> {
    let row = |name: &str| found.figures.iter().find(|f| f.figure == name);
    let (brightness, contrast) = (row("brightness")?, row("contrast")?);
    if brightness.against.is_some() {
        // What the model will see may be as dark: how far the two differ is looked at.
        return None;
    }
    let (b, c) = (&brightness.data, &contrast.data);
    let (kind, what) = if b.high + 2.0 * c.high < BRIGHT || b.high < DIM && !drawings(&ends(a)) {
        ("dark", format!("dark: nine in ten have a brightness below {:.2}", b.high))
    } else if b.low - 2.0 * c.high > PALE {
        ("washed_out", format!("nearly white: nine in ten have a brightness above {:.2}", b.low))
    } else {
        return None;
    };
    Some(Problem {
        kind,
        what: format!("the images are all {what}, where black is 0 and white is 1"),
        advice: "add images in the light that the model will see".to_owned(),
        samples: Vec::new(),
    })
}

fn blank(a: &Seen) -> Option<Problem> {
    let blank = of(a, "contrast").iter().map(|c| *c < BLANK).collect();
    damaged("blank", "are of a single shade", a, blank)
}

/// The share of pixels at black or white in each image, and that at the rarer of both.
fn ends(a: &Seen) -> Vec<[f64; 2]> {
    of(a, "black").into_iter().zip(of(a, "white")).map(|(b, w)| [b + w, b.min(w)]).collect()
}

/// Whether half of the images are mostly black or white, as drawings and digits are.
fn drawings(ends: &[[f64; 2]]) -> bool {
    quantile(&ends.iter().map(|e| e[0]).collect::<Vec<_>>(), 0.5) > SATURATED / 2.0
}

fn saturated(a: &Seen) -> Option<Problem> {
    let ends = ends(a);
    let usual = drawings(&ends);
    let saturated = ends.iter().map(|[all, both]| !usual && (*all > SATURATED || *both > SATURATED_AT_BOTH)).collect();
    damaged("saturated", "are mostly black or white, unlike the others", a, saturated)
}

fn noise(a: &Seen) -> Option<Problem> {
    let roughness = of(a, "roughness");
    // Spectrograms and scans may be rough, all of them.
    let usual = quantile(&roughness, 0.5) > NOISE / 2.0;
    damaged("noise", "look like noise, unlike the others", a, roughness.iter().map(|r| !usual && *r > NOISE).collect())
}

fn damaged(kind: &'static str, how: &str, a: &Seen, damaged: Vec<bool>) -> Option<Problem> {
    let samples: Vec<String> = a.notes.iter().zip(damaged).filter(|(_, is)| *is).map(|(n, _)| n.name.clone()).collect();
    (!samples.is_empty()).then(|| Problem {
        kind,
        what: format!("{} of {} images {how}", samples.len(), a.notes.len()),
        advice: "look at them, and leave them out unless the model will see such images".to_owned(),
        samples,
    })
}

fn stretched(found: &DataCheck) -> Option<Problem> {
    let least = (STRETCHED_SHARE * found.ranges.len() as f64).max(LEAST_STRETCHED);
    let rows: Vec<&StretchRow> =
        found.stretching.iter().filter(|r| r.ranges as f64 >= least || r.least_width < LEAST_WIDTH).collect();
    let first = rows.first()?;
    Some(Problem {
        kind: "stretching",
        what: format!(
            "`{}` alone makes {} of {} ranges wider; without it one of them would be {:.0} % narrower",
            first.sample,
            first.ranges,
            found.ranges.len(),
            100.0 * (1.0 - first.least_width)
        ),
        advice: "look at it: leave it out if it is damaged, give more like it if it is not".to_owned(),
        samples: rows.iter().map(|r| r.sample.clone()).collect(),
    })
}

fn apart(figure: &FigureRow, a: &Seen, b: Option<&Seen>) -> Option<Problem> {
    let (apart, other) = (figure.apart?, figure.against?);
    let (n, m) = (a.notes.len() as f64, b?.notes.len() as f64);
    let chance = SMIRNOV * ((n + m) / (n * m)).sqrt();
    (apart > APART.max(chance)).then(|| Problem {
        kind: "drift",
        what: format!(
            "the two sets differ in {}: half lie below {:.3} here and below {:.3} there",
            figure.figure, figure.data.median, other.median
        ),
        advice: "take calibration samples from where the model will be used".to_owned(),
        samples: Vec::new(),
    })
}

fn drifted(found: &DataCheck) -> Option<Problem> {
    let ratios: Vec<f64> = found.ranges.iter().filter_map(|r| Some(r.against?.scale_ratio)).collect();
    let off = ratios.iter().filter(|r| **r > DRIFTED || **r < 1.0 / DRIFTED).count();
    (off as f64 > DRIFTED_SHARE * found.ranges.len() as f64).then(|| Problem {
        kind: "drift",
        what: format!(
            "{off} of {} ranges would be others if they came from the other data, half of all {:.2} times as wide",
            found.ranges.len(),
            quantile(&ratios, 0.5)
        ),
        advice: "take calibration samples from where the model will be used".to_owned(),
        samples: Vec::new(),
    })
}

fn clipped(found: &DataCheck) -> Option<Problem> {
    let clipped: Vec<f64> = found.ranges.iter().filter_map(|r| Some(r.against?.clipped)).collect();
    let over = clipped.iter().filter(|c| **c > CLIPPED).count();
    (over as f64 > DRIFTED_SHARE * found.ranges.len() as f64).then(|| Problem {
        kind: "clipped",
        what: format!(
            "{over} of {} ranges cut off more than {} % of the other data's values",
            found.ranges.len(),
            100.0 * CLIPPED
        ),
        advice: "take calibration samples from where the model will be used".to_owned(),
        samples: Vec::new(),
    })
}
