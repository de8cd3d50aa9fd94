//! `quantal eval`: how often a classifier is right.

use crate::error::Error;
use quantal_data::{Dataset, metric};
use quantal_runtime::Session;
use quantal_tensor::Tensor;
use serde::Serialize;

/// The accuracy of a classifier on labelled samples.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Share of samples whose label has the highest score, 0 to 1.
    pub top1: f64,
    /// Share of samples whose label is among the five highest scores.
    pub top5: f64,
    /// Number of samples.
    pub count: usize,
    /// 95 % confidence interval of `top1` (Wilson).
    pub top1_ci95: (f64, f64),
    /// Place of each sample's label among the scores, 0 for a hit: for paired comparisons.
    #[serde(skip)]
    pub ranks: Vec<usize>,
}

/// Runs every labelled sample of `data` and ranks its label by the first output's scores. `progress` is called with the
/// samples done and all.
pub fn evaluate(
    session: &mut Session,
    data: &Dataset,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Evaluation, Error> {
    let Some(labels) = data.labels() else {
        let hint = "give --labels FILE, a CSV with the columns file and label";
        return Err(Error::job("the data has no labels to compare with", hint));
    };
    let all: Vec<usize> = (0..data.len()).collect();
    let mut ranks = Vec::with_capacity(all.len());
    for (i, sample) in data.stream(&all).enumerate() {
        let sample = sample?;
        let outputs = session.run(&sample.feeds)?;
        ranks.push(metric::rank(&scores(&outputs)?, sample.label.unwrap_or(labels[i])));
        progress(i + 1, all.len());
    }
    let a = metric::Accuracy::from_ranks(&ranks);
    Ok(Evaluation { top1: a.top1, top5: a.top5, count: a.count, top1_ci95: a.ci95, ranks })
}

/// The scores of one sample: the first output as floats.
pub(crate) fn scores(outputs: &[(String, Tensor)]) -> Result<Vec<f32>, Error> {
    let Some((name, tensor)) = outputs.first() else { return Err(Error::job("the model has no outputs", "")) };
    tensor
        .to_f32_vec()
        .filter(|s| !s.is_empty())
        .ok_or_else(|| Error::job(format!("output `{}` ({}) holds no scores", name.escape_debug(), tensor.dtype()), ""))
}
