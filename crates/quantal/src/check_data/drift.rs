//! Whether the samples are like those that the model will see.

use super::distribution::{FigureRow, quantile};
use super::problems::Problem;
use super::{AgainstRow, DataCheck, Seen};

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

/// One problem for all that differs, since its remedy is one.
pub(super) fn drift(found: &DataCheck, a: &Seen, b: &Seen) -> Option<Problem> {
    let (n, m) = (a.notes.len() as f64, b.notes.len() as f64);
    let limit = APART.max(SMIRNOV * ((n + m) / (n * m)).sqrt());
    let mut figures: Vec<String> = found.figures.iter().filter_map(|f| apart(f, limit)).collect();
    figures.extend(ranges(found));
    (!figures.is_empty()).then(|| Problem {
        kind: "drift",
        what: "the two sets differ: these samples are not like the other data".to_owned(),
        figures,
        advice: "take calibration samples from where the model will be used".to_owned(),
        samples: Vec::new(),
    })
}

fn apart(figure: &FigureRow, limit: f64) -> Option<String> {
    let (apart, other) = (figure.apart?, figure.against?);
    let (name, here, there) = (figure.figure, figure.data.median, other.median);
    (apart > limit).then(|| format!("{name}: half lie below {here:.3} here, below {there:.3} there"))
}

fn ranges(found: &DataCheck) -> Vec<String> {
    let rows: Vec<AgainstRow> = found.ranges.iter().filter_map(|r| r.against).collect();
    let all = rows.len();
    let many = |is: &dyn Fn(&AgainstRow) -> bool| {
        let count = rows.iter().filter(|r| is(r)).count();
        (count as f64 > DRIFTED_SHARE * all as f64).then_some(count)
    };
    let ratios: Vec<f64> = rows.iter().map(|r| r.scale_ratio).collect();
    let others = many(&|r| r.scale_ratio > DRIFTED || r.scale_ratio < 1.0 / DRIFTED).map(|count| {
        let times = quantile(&ratios, 0.5);
        format!(
            "ranges: {count} of {all} would be others if they came from there, half of all {times:.2} times as wide"
        )
    });
    let cut = many(&|r| r.clipped > CLIPPED).map(|count| {
        format!("cut off: {count} of {all} ranges lose more than {} % of the values there", 100.0 * CLIPPED)
    });
    others.into_iter().chain(cut).collect()
}
