//! `quantal check-data`: whether data is fit to calibrate with, and which part of it is the best.

mod classes;
mod damaged;
mod distribution;
mod drift;
mod pick;
mod problems;
mod stretch;

use crate::engine::Engine;
use crate::error::Error;
use crate::model::Model;
use crate::quantize::{HoleRow, Rewritten};
pub use classes::Classes;
use distribution::quantile;
pub use distribution::{Distribution, FigureRow};
use problems::within;
pub use problems::{LEAST_SAMPLES, Problem};
use quantal_data::{Dataset, Skipped, SmallCrop};
use quantal_ir::Graph;
use quantal_ptq::{Covered, Progress, Recipe, Runs, Sampled, Stream, Tracked};
use serde::Serialize;
use std::sync::Mutex;
pub use stretch::StretchRow;
use stretch::stretching;

/// What was found about a set of samples.
#[derive(Clone, Debug, Serialize)]
pub struct DataCheck {
    /// The model.
    pub model: String,
    /// The recipe whose ranges were looked at.
    pub recipe: Recipe,
    /// The samples, in words.
    pub data: String,
    /// Number of samples.
    pub samples: usize,
    /// The samples that they were held against, in words.
    pub against: Option<String>,
    /// The crop of the images, if it leaves most of them out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub small_crop: Option<SmallCrop>,
    /// Files in the folder that no sample was read from, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<Skipped>,
    /// Values that were not finite in samples whose outputs are: left out of ranges.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub holes: Vec<HoleRow>,
    /// What is wrong; empty if the data is fit to calibrate with.
    pub problems: Vec<Problem>,
    /// Number of samples from which nine ranges in ten stay near those of all samples.
    pub enough: usize,
    /// How near ranges are for growing numbers of samples.
    pub growth: Vec<GrowthRow>,
    /// A row for each range that calibration would choose, in graph order.
    pub ranges: Vec<RangeRow>,
    /// Samples that alone stretch ranges, those that stretch most of them first.
    pub stretching: Vec<StretchRow>,
    /// Figures of the samples themselves, as `Dataset::figures` names them.
    pub figures: Vec<FigureRow>,
    /// How evenly classes are held, where samples have labels or the model gives scores.
    pub classes: Option<Classes>,
    /// The samples that cover the data best, in order, if they were asked for.
    pub picked: Vec<String>,
}

/// The ranges of the first samples against those of all.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct GrowthRow {
    /// Number of samples.
    pub samples: usize,
    /// Half of the scales are as near to those of all samples: the difference as a part of the scale.
    pub half_within: f64,
    /// Nine scales in ten are as near.
    pub most_within: f64,
}

/// One range that calibration would choose.
#[derive(Clone, Debug, Serialize)]
pub struct RangeRow {
    /// The value, the first of those that share the range.
    pub value: String,
    /// Smallest value seen, or 0.
    pub min: f32,
    /// Largest value seen, or 0.
    pub max: f32,
    /// The scale that the recipe's observer chooses.
    pub scale: f32,
    /// Its standard error over other samples of the same kind, as a part of it; `None` for one sample.
    pub spread: Option<f64>,
    /// Number of samples from which the scale stays near that of all samples.
    pub settled_at: usize,
    /// What the other data makes of it.
    pub against: Option<AgainstRow>,
}

/// A range from one set of samples, held against the values of another.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct AgainstRow {
    /// Share of the other data's values that lie beyond the codes, 0 to 1.
    pub clipped: f64,
    /// Share of the codes that the other data does not reach, 0 to 1.
    pub wasted: f64,
    /// The scale that the other data would have given, as a multiple of this one.
    pub scale_ratio: f64,
}

/// Looks at `members` of `data`, with the eyes of the model: each is run, and what calibration would see is kept. `against`
/// is data that the ranges are to serve, with the samples of it to look at. Of the samples, `pick` are chosen that cover
/// them best.
pub fn check_data(
    model: &Model,
    (data, members): (&Dataset, &[usize]),
    against: Option<(&Dataset, &[usize])>,
    pick: usize,
    recipe: &Recipe,
    engine: Engine,
    progress: &mut dyn Progress,
) -> Result<DataCheck, Error> {
    let float = Rewritten::of(model, data, members[0], engine)?;
    let graph = &float.model.graph;
    let tracked = quantal_ptq::tracked(graph, recipe)?;
    if tracked.is_empty() {
        let message = format!("{}: nothing would be held in codes whose range follows from data", model.name);
        return Err(Error::job(message, "`quantal quantize` says why each node stays in float"));
    }
    let mut look = |data: &Dataset, members: &[usize], covered: &[Covered]| {
        Seen::of(graph, &tracked, data, members, covered, engine, progress)
    };
    let a = look(data, members, &[])?;
    let covered = a.sampled.encodings(graph, &tracked)?;
    let b = against.map(|(data, members)| look(data, members, &covered)).transpose()?;

    let (growth, settled) = growth(&a.sampled.growth(graph, &tracked)?);
    let ranges = ranges(graph, &tracked, &a, b.as_ref(), &covered, &settled)?;
    let mut found = DataCheck {
        model: model.name.clone(),
        recipe: recipe.clone(),
        data: data.describe(),
        samples: a.notes.len(),
        against: against.map(|(data, _)| data.describe()),
        small_crop: data.small_crop(),
        skipped: data.skipped().cloned(),
        holes: a.sampled.holes.iter().map(|(&v, hole)| HoleRow::of(&graph.value(v).name, hole)).collect(),
        problems: Vec::new(),
        enough: enough(&growth),
        growth,
        ranges,
        stretching: stretching(&a),
        figures: distribution::rows(&a, b.as_ref()),
        classes: Classes::of(&a),
        picked: Vec::new(),
    };
    found.problems = problems::problems(&found, &a, b.as_ref());
    let spoilt: Vec<&String> = found.problems.iter().flat_map(|p| &p.samples).collect();
    found.picked = pick::pick(&a, pick, &spoilt).into_iter().map(|i| a.notes[i].name.clone()).collect();
    Ok(found)
}

/// One set of samples as the model sees it.
struct Seen {
    notes: Vec<Note>,
    sampled: Sampled,
}

/// What is kept of a sample itself.
struct Note {
    name: String,
    label: Option<u32>,
    figures: Vec<(&'static str, f64)>,
}

impl Seen {
    fn of(
        graph: &Graph,
        tracked: &[Tracked],
        data: &Dataset,
        members: &[usize],
        covered: &[Covered],
        engine: Engine,
        progress: &mut dyn Progress,
    ) -> Result<Self, Error> {
        let notes = Mutex::new(Vec::with_capacity(members.len()));
        let note = |s: &quantal_data::Sample| {
            let figures = data.figures(s);
            let note = Note { name: s.name.clone(), label: s.label, figures };
            notes.lock().expect("nobody panics with it").push(note);
        };
        let samples = || -> Stream<'_> {
            Box::new(data.stream(members).inspect(|s| {
                let _ = s.as_ref().map(note);
            }))
        };
        let mut runs = Runs { samples: &samples, isa: engine.isa, threads: engine.threads, progress };
        let sampled = quantal_ptq::sample(graph, tracked, covered, &mut runs)?;
        Ok(Self { notes: notes.into_inner().expect("nobody panics with it"), sampled })
    }
}

/// A row for each number of samples, and for each scale the number from which it stays near that of all.
fn growth(scales: &[(usize, Vec<f32>)]) -> (Vec<GrowthRow>, Vec<usize>) {
    let Some((_, last)) = scales.last() else { return (Vec::new(), Vec::new()) };
    let mut settled = vec![scales[0].0; last.len()];
    let mut rows = Vec::new();
    for (i, (samples, scales_here)) in scales.iter().enumerate() {
        let off: Vec<f64> = scales_here.iter().zip(last).map(|(s, l)| f64::from((s / l - 1.0).abs())).collect();
        for (settled, _) in settled.iter_mut().zip(&off).filter(|(_, off)| !within(**off)) {
            *settled = scales[i + 1].0;
        }
        rows.push(GrowthRow { samples: *samples, half_within: quantile(&off, 0.5), most_within: quantile(&off, 0.9) });
    }
    (rows, settled)
}

fn enough(growth: &[GrowthRow]) -> usize {
    let settled = growth.iter().rev().take_while(|r| within(r.most_within)).last();
    settled.map_or(0, |r| r.samples)
}

fn ranges(
    graph: &Graph,
    tracked: &[Tracked],
    a: &Seen,
    b: Option<&Seen>,
    covered: &[Covered],
    settled: &[usize],
) -> Result<Vec<RangeRow>, Error> {
    let spread = a.sampled.spread(graph, tracked)?;
    let others = b.map(|b| b.sampled.encodings(graph, tracked)).transpose()?;
    let row = |i: usize| {
        let all = |seen: &Seen| seen.sampled.ranges.iter().map(|r| r[i]).reduce(quantal_ptq::Range::union);
        let (seen, own) = (all(a), covered[i]);
        let against = b.zip(others.as_ref()).map(|(b, others)| {
            let reached = all(b).map_or(0.0, |r| r.max.min(own.range.max) - r.min.max(own.range.min));
            AgainstRow {
                clipped: b.sampled.clipped[i],
                wasted: f64::from(1.0 - reached / (own.range.max - own.range.min)).max(0.0),
                scale_ratio: f64::from(others[i].scale) / f64::from(own.scale),
            }
        });
        RangeRow {
            value: graph.value(tracked[i].group.members[0]).name.escape_debug().to_string(),
            min: seen.map_or(0.0, |r| r.min),
            max: seen.map_or(0.0, |r| r.max),
            scale: own.scale,
            spread: spread.as_ref().map(|s| s[i]),
            settled_at: settled[i],
            against,
        }
    };
    Ok((0..tracked.len()).map(row).collect())
}
