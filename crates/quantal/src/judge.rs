//! What a quantized model costs: its answers, its outputs and its time beside those of the float model, on samples that
//! calibration did not see.

use crate::bench::time_sessions;
use crate::closeness::highest;
use crate::engine::Engine;
use crate::error::Error;
use crate::eval::{rank, scores};
use crate::model::Model;
use crate::quantize::{Rewritten, coverage_with_macs};
use quantal_data::Dataset;
use quantal_ptq::Progress;
use quantal_runtime::Mode;
use quantal_tensor::stats::SqnrSums;
use serde::Serialize;

/// What one quantized model was found to cost.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Share of labelled samples whose label has the highest score, 0 to 1; `None` without labels.
    pub top1: Option<f64>,
    /// Points of top-1 lost against the model as it came: negative if more answers are right.
    pub drop: Option<f64>,
    /// Answers that are right for one of the two models alone.
    pub changed: Option<usize>,
    /// Share of samples whose highest score is that of the model as it came.
    pub agreement: f64,
    /// SQNR of the outputs, in decibels.
    pub sqnr_db: f64,
    /// Least time of one sample, in milliseconds.
    pub ms: f64,
    /// Least time of one sample in the rewritten float model, timed in turns with it, in milliseconds.
    pub float_ms: f64,
    /// The part of multiply-accumulates that runs in integers, 0 to 1, where shapes are known.
    pub integer_mac_share: Option<f64>,
}

/// The float model's answers, to judge others by.
pub(crate) struct Judge<'a> {
    data: &'a Dataset,
    members: Vec<usize>,
    engine: Engine,
    /// The rewritten float model, whose time is the reference.
    float: &'a Model,
    answers: Vec<Answer>,
}

struct Answer {
    outputs: Vec<Vec<f32>>,
    highest: usize,
    labelled: bool,
    hit: bool,
}

/// Bytes that the float model's outputs may take; samples beyond are left out.
const ANSWER_BYTES: usize = 512 << 20;
/// Seconds that each of two models is timed.
const TIMING_SECONDS: f64 = 0.25;

impl<'a> Judge<'a> {
    /// Runs the model as it came over the samples of these indices.
    pub(crate) fn new(
        float: &'a Rewritten<'_>,
        data: &'a Dataset,
        mut members: Vec<usize>,
        engine: Engine,
        progress: &mut dyn Progress,
    ) -> Result<Self, Error> {
        let mut session = float.original().session(Mode::Simulate, engine)?;
        let (mut answers, mut bytes) = (Vec::with_capacity(members.len()), 0);
        progress.begin("float model", Some(members.len()));
        for sample in data.stream(&members) {
            let sample = sample?;
            let outputs = session.run(&sample.feeds)?;
            let scores = scores(&outputs)?;
            let hit = rank(&scores, &sample)? == Some(0);
            let outputs: Vec<Vec<f32>> =
                outputs.iter().filter_map(|(_, t)| t.floats().map(std::borrow::Cow::into_owned)).collect();
            bytes += outputs.iter().map(|o| 4 * o.len()).sum::<usize>();
            answers.push(Answer { outputs, highest: highest(&scores), labelled: sample.label.is_some(), hit });
            progress.step();
            if bytes > ANSWER_BYTES {
                break;
            }
        }
        progress.done();
        members.truncate(answers.len());
        if members.is_empty() {
            return Err(Error::job("there is no sample left to judge by", "give more samples, or some with --eval"));
        }
        Ok(Self { data, members, engine, float: &float.model, answers })
    }

    /// Number of samples.
    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// Top-1 of the float model; `None` if a sample has no label.
    pub(crate) fn float_top1(&self) -> Option<f64> {
        let labelled = self.answers.iter().all(|a| a.labelled);
        labelled.then(|| self.answers.iter().filter(|a| a.hit).count() as f64 / self.answers.len() as f64)
    }

    /// Runs a quantized model over the same samples.
    pub(crate) fn judge(&self, model: &Model, progress: &mut dyn Progress) -> Result<Outcome, Error> {
        let mut session = model.session(Mode::Integer, self.engine)?;
        let (mut sums, mut same, mut hits, mut changed) = (SqnrSums::default(), 0, 0, 0);
        progress.begin("judging", Some(self.members.len()));
        for (sample, answer) in self.data.stream(&self.members).zip(&self.answers) {
            let sample = sample?;
            let outputs = session.run(&sample.feeds)?;
            for (a, b) in answer.outputs.iter().zip(outputs.iter().filter_map(|(_, t)| t.floats())) {
                sums.add(a, &b);
            }
            let scores = scores(&outputs)?;
            let hit = rank(&scores, &sample)? == Some(0);
            same += usize::from(highest(&scores) == answer.highest);
            hits += usize::from(hit);
            changed += usize::from(hit != answer.hit);
            progress.step();
        }
        progress.done();
        let count = self.members.len() as f64;
        let feeds = self.data.sample(self.members[0])?.feeds;
        let coverage = coverage_with_macs(model, &session, &feeds);
        let mut float = self.float.session(Mode::Simulate, self.engine)?;
        let [float, integer] = time_sessions([&mut float, &mut session], &feeds, TIMING_SECONDS)?;
        let float_top1 = self.float_top1();
        let top1 = float_top1.map(|_| hits as f64 / count);
        Ok(Outcome {
            top1,
            drop: top1.zip(float_top1).map(|(a, b)| 100.0 * (b - a)),
            changed: float_top1.map(|_| changed),
            agreement: same as f64 / count,
            sqnr_db: sums.db(),
            ms: integer.wall_ms.min,
            float_ms: float.wall_ms.min,
            integer_mac_share: coverage.integer_mac_share(),
        })
    }
}
