//! `quantal eval`: how often a classifier is right.

use crate::error::Error;
use quantal_data::{Dataset, Sample, metric};
use quantal_ptq::Progress;
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

/// Runs every labelled sample of `data` and ranks its label by the first output's scores.
pub fn evaluate(session: &mut Session, data: &Dataset, progress: &mut dyn Progress) -> Result<Evaluation, Error> {
    let all: Vec<usize> = (0..data.len()).collect();
    let mut ranks = Vec::with_capacity(all.len());
    progress.begin("evaluating", Some(all.len()));
    for sample in data.stream(&all) {
        let sample = sample?;
        label_of(&sample)?;
        let scores = scores(&session.run(&sample.feeds)?)?;
        ranks.extend(rank(&scores, &sample)?);
        progress.step();
    }
    progress.done();
    let a = metric::Accuracy::from_ranks(&ranks);
    Ok(Evaluation { top1: a.top1, top5: a.top5, count: a.count, top1_ci95: a.ci95, ranks })
}

/// The scores of one sample: the first output as floats. Empty where a detector found nothing.
pub(crate) fn scores(outputs: &[(String, Tensor)]) -> Result<Vec<f32>, Error> {
    let Some((name, tensor)) = outputs.first() else { return Err(Error::job("the model has no outputs", "")) };
    tensor
        .to_f32_vec()
        .ok_or_else(|| Error::job(format!("output `{}` ({}) holds no scores", name.escape_debug(), tensor.dtype()), ""))
}

/// The place of the sample's label among the scores, 0 for a hit; `None` without a label.
pub(crate) fn rank(scores: &[f32], sample: &Sample) -> Result<Option<usize>, Error> {
    let Some(label) = sample.label else { return Ok(None) };
    if label as usize >= scores.len() {
        let text =
            format!("sample `{}` has the label {label}, but the model gives {} scores", sample.name, scores.len());
        return Err(Error::job(text, "labels count from 0: are these of another data set, or do they count from 1?"));
    }
    Ok(Some(metric::rank(scores, label)))
}

fn label_of(sample: &Sample) -> Result<u32, Error> {
    sample.label.ok_or_else(|| {
        let hint = "give --labels FILE, a CSV with the columns file and label";
        Error::usage(format!("sample `{}` has no label to compare with", sample.name), hint)
    })
}

/// Whether the first sample has a label: to be asked before long work whose end needs them.
pub fn check_labelled(data: &Dataset) -> Result<(), Error> {
    label_of(&data.sample(0)?).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_no_score_belongs_to_are_refused() {
        let sample = |label| Sample { name: "cat.png".into(), feeds: Vec::new(), label };
        let scores = [0.1, 0.7, 0.2];
        assert_eq!(rank(&scores, &sample(Some(2))).unwrap(), Some(1));
        assert_eq!(rank(&scores, &sample(None)).unwrap(), None);
        let refused = rank(&scores, &sample(Some(3))).unwrap_err().to_string();
        assert!(
            refused.contains("cat.png") && refused.contains("label 3") && refused.contains("3 scores"),
            "{refused}"
        );
    }
}
