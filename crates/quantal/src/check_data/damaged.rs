//! Samples that are damaged, by the looks of them or by what they do to ranges. Each is named once, for the first reason.

use super::distribution::{of, quantile};
use super::problems::Problem;
use super::stretch::StretchRow;
use super::{DataCheck, Seen};

/// The contrast of an image of one shade, with the traces of JPEG: two grey levels and a half. Of arrays, whose units are
/// their own, as a part of what is usual.
const BLANK: f64 = 0.01;
/// The roughness of noise is 1, that of an image half of which is noise 0.67 or more, scaled down less. 4,500 good
/// photographs: 0.54 at most; digits 0.43.
const NOISE: f64 = 0.6;
/// The share of pixels at black or white in an image that is saturated. 4,500 good photographs: 0.66 at most.
const SATURATED: f64 = 0.7;
/// The share at the rarer of both ends: photographs may have a white background, but hardly a black one too. Good: 0.22 at
/// most, two above 0.1; with six times the contrast 0.3 in half of them.
const SATURATED_AT_BOTH: f64 = 0.25;
/// The share of tokens that are different in a text that repeats itself. 6,920 sentences: 0.53 at least, 2,226 paragraphs:
/// 0.17; one word 60 times: 0.05.
const REPEATS: f64 = 0.1;
/// What half of the samples show is not damage: half of the least that would be.
const USUAL: f64 = 0.5;
/// The share of ranges that one sample may stretch. Good: 6 of 30, in 32 and in 48 images; noise 14.
const STRETCHED_SHARE: f64 = 0.3;
/// In a small network, chance alone stretches one or two.
const LEAST_STRETCHED: f64 = 3.0;
/// What one sample may leave of one range: below this it costs all others one bit. Good, in 32 sentences: 0.58.
const LEAST_WIDTH: f64 = 0.5;

/// A problem for each kind of damage.
pub(super) fn damaged(found: &DataCheck, a: &Seen) -> Vec<Problem> {
    let looks = [
        ("blank", "a single shade or value throughout", blank(a)),
        ("noise", "noise, unlike the others", over(&of(a, "roughness"), NOISE)),
        ("saturated", "mostly black or white, unlike the others", saturated(a)),
        ("saturated", "few values again and again, unlike the others", over(&of(a, "repeated"), SATURATED)),
        ("repeats", "the same few words again and again", below(&of(a, "variety"), REPEATS)),
    ];
    let mut named = vec![false; a.notes.len()];
    let mut problems = Vec::new();
    for (kind, how, is) in looks {
        let new: Vec<usize> = (0..is.len()).filter(|&i| is[i] && !named[i]).collect();
        if new.is_empty() {
            continue;
        }
        problems.push(Problem {
            kind,
            what: format!("{} of {} samples: {how}", new.len(), named.len()),
            figures: Vec::new(),
            advice: "look at them, and leave them out unless the model will see such samples".to_owned(),
            samples: new.iter().map(|&i| a.notes[i].name.clone()).collect(),
        });
        for i in new {
            named[i] = true;
        }
    }
    problems.extend(stretched(found, &problems));
    problems
}

fn blank(a: &Seen) -> Vec<bool> {
    let deviation = of(a, "deviation");
    [below(&of(a, "contrast"), BLANK), below(&deviation, BLANK * quantile(&deviation, 0.5))].concat()
}

/// The share of pixels at black or white in each image, and that at the rarer of both.
fn ends(a: &Seen) -> (Vec<f64>, Vec<f64>) {
    of(a, "black").iter().zip(of(a, "white")).map(|(b, w)| (b + w, b.min(w))).unzip()
}

/// Whether the images are mostly black or white, as drawings and digits are.
pub(super) fn drawings(a: &Seen) -> bool {
    usual(&ends(a).0, SATURATED)
}

fn saturated(a: &Seen) -> Vec<bool> {
    let (all, both) = ends(a);
    let drawings = usual(&all, SATURATED);
    all.iter().zip(both).map(|(all, both)| !drawings && (*all > SATURATED || both > SATURATED_AT_BOTH)).collect()
}

fn below(values: &[f64], limit: f64) -> Vec<bool> {
    values.iter().map(|v| *v < limit).collect()
}

/// Those above the limit, unless most come near it: digits are black and white, spectrograms rough, padded arrays repeated.
fn over(values: &[f64], limit: f64) -> Vec<bool> {
    let usual = usual(values, limit);
    values.iter().map(|v| !usual && *v > limit).collect()
}

fn usual(values: &[f64], limit: f64) -> bool {
    quantile(values, 0.5) > USUAL * limit
}

fn stretched(found: &DataCheck, named: &[Problem]) -> Option<Problem> {
    let least = (STRETCHED_SHARE * found.ranges.len() as f64).max(LEAST_STRETCHED);
    let new = |r: &&StretchRow| !named.iter().any(|p| p.samples.contains(&r.sample));
    let rows: Vec<&StretchRow> = found
        .stretching
        .iter()
        .filter(|r| r.ranges as f64 >= least || r.least_width < LEAST_WIDTH)
        .filter(new)
        .collect();
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
        figures: Vec::new(),
        advice: "look at it: leave it out if it is damaged, give more like it if it is not".to_owned(),
        samples: rows.iter().map(|r| r.sample.clone()).collect(),
    })
}
