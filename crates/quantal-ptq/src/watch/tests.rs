//! What tests of all that looks at samples have in common.

use super::*;
use crate::Silent;
use quantal_runtime::compile;
use quantal_tensor::Tensor;
use quantal_tensor::stats::SqnrSums;

/// Samples of an input `x`, spread evenly over −1 … 1.
pub(crate) fn even_samples(shape: &[usize], count: usize) -> Vec<Sample> {
    let n: usize = shape.iter().product();
    let of = |s: usize| {
        let x: Vec<f32> = (0..n).map(|i| (((s * n + i) * 2741 + 97) % 4093) as f32 / 2046.5 - 1.0).collect();
        let feeds = vec![("x".to_owned(), Tensor::from_slice(shape, &x).unwrap())];
        Sample { name: format!("sample {s}"), feeds, label: None }
    };
    (0..count).map(of).collect()
}

pub(crate) fn over<T>(samples: &[Sample], job: impl FnOnce(&mut Runs<'_>) -> T) -> T {
    let stream = || -> Box<dyn Iterator<Item = _>> { Box::new(samples.iter().cloned().map(Ok)) };
    job(&mut Runs { samples: &stream, isa: Isa::PORTABLE, threads: 1, progress: &mut Silent })
}

/// How near the first outputs of two graphs are over the samples.
pub(crate) fn sqnr_db(samples: &[Sample], graph: &Graph, other: &Graph) -> f64 {
    let mut sums = SqnrSums::default();
    let [mut graph, mut other] =
        [graph, other].map(|g| Session::new(compile(g, Mode::Simulate, Isa::PORTABLE).unwrap(), 1));
    let run = |s: &mut Session, x: &Sample| s.run(&x.feeds).unwrap().remove(0).1.as_slice::<f32>().to_vec();
    for x in samples {
        sums.add(&run(&mut graph, x), &run(&mut other, x));
    }
    sums.db()
}
