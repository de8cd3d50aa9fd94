//! What the choice of samples does to ranges: what each sample alone makes of them, what a part of the samples would
//! have made, and how far chance reaches.
//!
//! Of each sample only the ends of each range are kept. What an observer keeps is kept once for each of 16 parts of the
//! samples (every 16th belongs to one): parts merge exactly, so they stand for growing numbers of samples, and drawn with
//! replacement for other samples of the same kind (the bootstrap: Efron & Tibshirani, *An Introduction to the Bootstrap*,
//! 1993, §6). Memory grows by 8 bytes for each sample and range.

use crate::calibrate::Calibration;
use crate::error::Result;
use crate::observer::{NotFinite, Range, Statistics, mixed, surveyed};
use crate::place::{Group, place};
use crate::recipe::Recipe;
use crate::watch::{Hole, Runs, Seen};
use quantal_ir::{Graph, ValueId};
use quantal_kernels::Isa;
use quantal_kernels::float::survey;
use quantal_runtime::session::Watched;
use quantal_tensor::Scheme;
use std::collections::BTreeMap;

/// Parts that the samples are dealt to.
pub const PARTS: usize = 16;
/// Draws of the bootstrap: they tell a standard error within an eighth.
const DRAWS: u32 = 32;

/// An encoding whose range follows from samples.
#[derive(Clone, Debug)]
pub struct Tracked {
    /// The values that share it.
    pub group: Group,
    /// The form of its codes.
    pub scheme: Scheme,
}

/// The encodings that `recipe` would give a float graph, as far as samples decide about them.
pub fn tracked(graph: &Graph, recipe: &Recipe) -> Result<Vec<Tracked>> {
    let placement = place(graph, recipe)?;
    let scheme = |g: &Group| placement.plan.encodings[&g.members[0]].scheme;
    let seen = |g: &&Group| g.sources.iter().any(|&v| graph.value(v).constant.is_none());
    Ok(placement.groups.iter().filter(seen).map(|g| Tracked { group: g.clone(), scheme: scheme(g) }).collect())
}

/// The scale of an encoding, and the values that its codes reach.
#[derive(Clone, Copy, Debug)]
pub struct Covered {
    /// The step of the codes.
    pub scale: f32,
    /// What is neither below the lowest code nor above the highest by more than half a step.
    pub range: Range,
}

/// What one pass over samples saw.
#[derive(Debug)]
pub struct Sampled {
    /// For each sample the range of each encoding in it, widened to hold zero.
    pub ranges: Vec<Vec<Range>>,
    /// For each sample the highest of the scores that the model gives, where its first output is a list of scores.
    pub answers: Vec<Option<u32>>,
    /// Number of scores in that list.
    pub classes: usize,
    /// For each encoding the share of values that are not covered, 0 to 1; empty where nothing was given to cover.
    pub clipped: Vec<f64>,
    /// Values that were not finite in samples whose outputs are.
    pub holes: BTreeMap<ValueId, Hole>,
    parts: Vec<BTreeMap<ValueId, Statistics>>,
}

/// What is kept of one value while samples run.
#[derive(Default)]
struct Kept {
    /// The encoding that it is a source of.
    encoding: Option<usize>,
    /// Statistics for each part.
    parts: Vec<Statistics>,
    /// The number of a sample and the range in it.
    ranges: Vec<(usize, Range)>,
    /// Values that are not covered, and all that were held against what is.
    counts: [u64; 2],
    /// The number of a sample, the highest of its scores and their number, where the value is the model's answer.
    answers: Option<Vec<(usize, u32, usize)>>,
}

impl Kept {
    fn look(&mut self, isa: Isa, covered: &[Covered], number: usize, seen: &Watched<'_>) -> Seen {
        let tensor = seen.floats()?;
        let values = tensor.as_slice::<f32>();
        let survey = survey(isa, values, [1, 1], seen.threads);
        // Before anything is taken in: what is not finite is looked at again without what is not.
        let Ok(range) = surveyed(&survey) else { return Ok(Err(NotFinite)) };
        if let Some(answers) = &mut self.answers
            && let [leading @ .., scores] = tensor.shape()
            && *scores > 1
            && leading.iter().all(|&d| d == 1)
        {
            let highest = (0..*scores).fold(0, |a, b| if values[b] > values[a] { b } else { a });
            answers.push((number, highest as u32, *scores));
        }
        let Some(range) = range else { return Ok(Ok(())) };
        let Some(i) = self.encoding else { return Ok(Ok(())) };
        self.ranges.push((number, range));
        if let Some(Covered { range: c, .. }) = covered.get(i) {
            self.counts[0] += values.iter().filter(|&&x| x < c.min || x > c.max).count() as u64;
            self.counts[1] += values.len() as u64;
        }
        Ok(self.parts[number % PARTS].observe(isa, values, &survey))
    }
}

/// Runs the float `graph` over the samples. `covered`, if not empty, is what values are held against.
pub fn sample(graph: &Graph, tracked: &[Tracked], covered: &[Covered], runs: &mut Runs<'_>) -> Result<Sampled> {
    let mut kept: BTreeMap<ValueId, Kept> = BTreeMap::new();
    for (i, t) in tracked.iter().enumerate() {
        for &v in t.group.sources.iter().filter(|&&v| graph.value(v).constant.is_none()) {
            let parts = vec![Statistics::new(&t.group.observer); PARTS];
            kept.insert(v, Kept { encoding: Some(i), parts, ..Kept::default() });
        }
    }
    if let Some(&answer) = graph.outputs.first() {
        kept.entry(answer).or_default().answers = Some(Vec::new());
    }
    let isa = runs.isa;
    let looked =
        runs.watch("looking", graph, &mut kept, &|kept, number, seen| kept.look(isa, covered, number, seen))?;
    let samples = looked.samples;
    let nothing = Range { min: 0.0, max: 0.0 };
    let mut found = Sampled {
        ranges: vec![vec![nothing; tracked.len()]; samples],
        answers: vec![None; samples],
        classes: 0,
        clipped: Vec::new(),
        holes: looked.holes,
        parts: vec![BTreeMap::new(); PARTS.min(samples)],
    };
    let mut counts = vec![[0_u64; 2]; covered.len()];
    for (v, kept) in kept {
        for (number, highest, classes) in kept.answers.into_iter().flatten() {
            (found.answers[number], found.classes) = (Some(highest), classes);
        }
        let Some(i) = kept.encoding else { continue };
        for (number, range) in kept.ranges {
            found.ranges[number][i] = found.ranges[number][i].union(range);
        }
        if let Some(count) = counts.get_mut(i) {
            *count = [count[0] + kept.counts[0], count[1] + kept.counts[1]];
        }
        for (part, statistics) in found.parts.iter_mut().zip(kept.parts) {
            part.insert(v, statistics);
        }
    }
    found.clipped = counts.iter().map(|[out, all]| *out as f64 / (*all).max(1) as f64).collect();
    Ok(found)
}

impl Sampled {
    /// What each encoding would cover if it were made of all samples.
    pub fn encodings(&self, graph: &Graph, tracked: &[Tracked]) -> Result<Vec<Covered>> {
        self.of_parts(graph, tracked, &(0..self.parts.len()).collect::<Vec<_>>())
    }

    /// The scale of each encoding for growing numbers of samples; the last row is that of all.
    pub fn growth(&self, graph: &Graph, tracked: &[Tracked]) -> Result<Vec<(usize, Vec<f32>)>> {
        let row = |n: usize| {
            // Part p holds samples p, p + 16, p + 32, …
            let samples = (0..n).map(|p| (self.ranges.len() - p).div_ceil(PARTS)).sum();
            let parts: Vec<usize> = (0..n).collect();
            Ok((samples, self.of_parts(graph, tracked, &parts)?.iter().map(|c| c.scale).collect()))
        };
        (1..=self.parts.len()).map(row).collect()
    }

    /// The standard error of each scale, as a part of it: how far it would differ with other samples of the same kind.
    /// `None` if there is one sample alone.
    pub fn spread(&self, graph: &Graph, tracked: &[Tracked]) -> Result<Option<Vec<f64>>> {
        let parts = self.parts.len();
        if parts < 2 {
            return Ok(None);
        }
        let mut sums = vec![[0.0_f64; 2]; tracked.len()];
        for draw in 0..DRAWS {
            let drawn: Vec<usize> =
                (0..PARTS as u32).map(|i| mixed(draw * PARTS as u32 + i + 1) as usize % parts).take(parts).collect();
            for (sum, c) in sums.iter_mut().zip(self.of_parts(graph, tracked, &drawn)?) {
                let scale = f64::from(c.scale);
                *sum = [sum[0] + scale, sum[1] + scale * scale];
            }
        }
        let n = f64::from(DRAWS);
        // Drawn from so few parts, the variance comes out short by one part.
        let short = parts as f64 / (parts - 1) as f64;
        let error = |[sum, squares]: &[f64; 2]| {
            let mean = sum / n;
            ((squares / n - mean * mean).max(0.0) * short).sqrt() / mean
        };
        Ok(Some(sums.iter().map(error).collect()))
    }

    fn of_parts(&self, graph: &Graph, tracked: &[Tracked], parts: &[usize]) -> Result<Vec<Covered>> {
        let mut merged = Calibration { observed: self.parts[parts[0]].clone(), ..Calibration::default() };
        for &part in &parts[1..] {
            for (mine, theirs) in merged.observed.values_mut().zip(self.parts[part].values()) {
                mine.merge(theirs);
            }
        }
        let covered = |Tracked { group, scheme }: &Tracked| {
            let levels = scheme.qmax.abs_diff(scheme.qmin);
            let (_, chosen) = merged.range(graph, group, levels, scheme.symmetric)?;
            let (scale, zero) =
                scheme.params_of_range(chosen.min, chosen.max).expect("observers refuse what is not finite");
            let end = |code: i32, half: f32| scale * ((code - zero) as f32 + half);
            Ok(Covered { scale, range: Range { min: end(scheme.qmin, -0.5), max: end(scheme.qmax, 0.5) } })
        };
        tracked.iter().map(covered).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::tests::Build;
    use crate::quantize;
    use crate::watch::tests::over;
    use quantal_data::Sample;
    use quantal_ir::{Op, Params};
    use quantal_tensor::Tensor;

    /// Eight values each, the least and the largest of which depend on the sample.
    fn data(count: usize) -> Vec<Sample> {
        let of = |s: usize| {
            let reach = (s * 389 % 1009) as f32 / 1009.0 + 1.0;
            let x: Vec<f32> = (0..8).map(|i| reach * (i as f32 / 3.5 - 1.0)).collect();
            let feeds = vec![("x".to_owned(), Tensor::from_slice(&[1, 8], &x).unwrap())];
            Sample { name: format!("sample {s}"), feeds, label: None }
        };
        (0..count).map(of).collect()
    }

    fn model() -> Graph {
        let mut b = Build::new();
        let x = b.input("x", &[1, 8]);
        let y = b.matmul(x, 8);
        let y = b.unary(Op::Relu, y);
        b.graph.outputs = vec![b.matmul(y, 8)];
        b.graph
    }

    #[test]
    fn merged_parts_give_the_scales_that_quantizing_with_their_samples_gives() {
        let (graph, samples) = (model(), data(37));
        for kind in ["min_max", "moving_average", "percentile", "mse", "entropy"] {
            let recipe = Recipe::from_toml(&format!("[observer]\nkind = \"{kind}\"")).unwrap();
            let tracked = tracked(&graph, &recipe).unwrap();
            let sampled = over(&samples, |runs| sample(&graph, &tracked, &[], runs)).unwrap();
            let growth = sampled.growth(&graph, &tracked).unwrap();
            for (parts, (count, scales)) in (1..).zip(&growth) {
                let held: Vec<Sample> =
                    samples.iter().enumerate().filter(|(i, _)| i % PARTS < parts).map(|(_, s)| s.clone()).collect();
                let plan = over(&held, |runs| quantize(&graph, &recipe, runs)).unwrap().plan;
                let of_plan = |t: &Tracked| match &plan.encodings[&t.group.members[0]].params {
                    Params::Static(params) => params.scale.clone(),
                    other @ Params::Unset => panic!("{other:?}"),
                };
                assert_eq!(*count, held.len());
                assert!(tracked.iter().zip(scales).all(|(t, s)| of_plan(t) == [*s]), "{kind}, {count} samples");
            }
            assert_eq!(growth.last().map(|g| g.0), Some(37));
        }
    }

    #[test]
    fn the_spread_of_a_mean_is_its_standard_error() {
        let (graph, samples) = (model(), data(64));
        let recipe = Recipe::from_toml("[observer]\nkind = \"moving_average\"").unwrap();
        let tracked = tracked(&graph, &recipe).unwrap();
        let spread = |samples: &[Sample]| {
            over(samples, |runs| sample(&graph, &tracked, &[], runs)).unwrap().spread(&graph, &tracked).unwrap()
        };
        // The input reaches from −r to r in each sample: its scale is the mean of r, but for a factor.
        let reach: Vec<f64> = samples.iter().map(|s| f64::from(s.feeds[0].1.as_slice::<f32>()[7])).collect();
        let mean = reach.iter().sum::<f64>() / 64.0;
        let expected = (reach.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / 63.0 / 64.0).sqrt() / mean;
        let input = tracked.iter().position(|t| t.group.members.contains(&graph.inputs[0])).unwrap();
        let ratio = spread(&samples).unwrap()[input] / expected;
        // 16 parts know the variance within 18 %, 32 draws within 12 %: three times both together.
        assert!((0.35..1.65).contains(&ratio), "{ratio}");
        assert_eq!(spread(&vec![samples[0].clone(); 20]), Some(vec![0.0; tracked.len()]));
        assert_eq!(spread(&samples[..1]), None);
    }
}
