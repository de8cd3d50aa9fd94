//! How close the outputs of two models are. The reference is the model as it came, not its rewritten graph, which would
//! hide what the rewrite did.

use crate::error::Error;
use crate::eval::scores;
use quantal_tensor::Tensor;
use quantal_tensor::stats::SqnrSums;

/// What the outputs of samples add up to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Closeness {
    /// Of all float outputs.
    pub(crate) sums: SqnrSums,
    /// Samples whose highest score is the same.
    pub(crate) agreeing: usize,
    /// Samples whose label has the highest score: of the reference, and of the other model.
    pub(crate) hits: [usize; 2],
    /// Samples.
    pub(crate) samples: usize,
}

impl Closeness {
    /// Adds the outputs of one sample: those of the reference, and those of the other model.
    pub(crate) fn add(
        &mut self,
        reference: &[(String, Tensor)],
        other: &[(String, Tensor)],
        label: Option<u32>,
    ) -> Result<(), Error> {
        add_outputs(&mut self.sums, reference, other);
        let answers = [highest(&scores(reference)?), highest(&scores(other)?)];
        self.agreeing += usize::from(answers[0] == answers[1]);
        for (hits, answer) in self.hits.iter_mut().zip(answers) {
            *hits += usize::from(label.is_some_and(|label| label as usize == answer));
        }
        self.samples += 1;
        Ok(())
    }
}

/// Adds each float output of one sample.
pub(crate) fn add_outputs(sums: &mut SqnrSums, reference: &[(String, Tensor)], other: &[(String, Tensor)]) {
    for ((_, a), (_, b)) in reference.iter().zip(other) {
        if let (Some(a), Some(b)) = (a.floats(), b.floats()) {
            sums.add(&a, &b);
        }
    }
}

/// The index of the highest score, the first of equals.
pub(crate) fn highest(scores: &[f32]) -> usize {
    (0..scores.len()).fold(0, |best, i| if scores[i] > scores[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_without_scores_counts_as_any_other() {
        let outputs = |boxes: &[f32], scores: &[f32]| {
            let of = |name: &str, t: &[f32]| (name.to_owned(), Tensor::from_slice(&[t.len()], t).unwrap());
            [of("boxes", boxes), of("scores", scores)]
        };
        let mut closeness = Closeness::default();
        closeness.add(&outputs(&[], &[1.0, 2.0]), &outputs(&[], &[1.0, 2.5]), None).unwrap();
        closeness.add(&outputs(&[3.0, 1.0], &[1.0]), &outputs(&[1.0, 3.0], &[1.0]), None).unwrap();
        assert_eq!((closeness.samples, closeness.agreeing), (2, 1));
    }
}
