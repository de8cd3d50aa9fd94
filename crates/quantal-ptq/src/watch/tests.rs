//! What tests of all that looks at samples have in common.

use super::*;
use crate::Silent;
use crate::place::tests::Build;
use quantal_ir::Op;
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
    let stream = || -> Stream<'_> { Box::new(samples.iter().cloned().map(Ok)) };
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

/// A product and a Relu; with those of its values that may be watched.
fn model() -> (Graph, [ValueId; 3]) {
    let mut b = Build::new();
    let x = b.input("x", &[1, 8]);
    let y = b.matmul(x, 8);
    let z = b.unary(Op::Relu, y);
    b.graph.outputs = vec![z];
    (b.graph, [x, y, z])
}

fn watch<T: Clone + Send>(
    samples: &[Sample],
    threads: usize,
    kept: &T,
    look: &(dyn Fn(&mut T, usize, &Watched<'_>) -> Seen + Sync),
) -> Result<(usize, BTreeMap<ValueId, T>)> {
    let (graph, taps) = model();
    let mut kept = taps.map(|v| (v, kept.clone())).into();
    let stream = || -> Stream<'_> { Box::new(samples.iter().cloned().map(Ok)) };
    let mut runs = Runs { samples: &stream, isa: Isa::PORTABLE, threads, progress: &mut Silent };
    let count = runs.watch("", &graph, &mut kept, look)?;
    Ok((count, kept))
}

#[test]
fn what_is_kept_of_a_value_meets_the_samples_in_order_for_any_number_of_threads() {
    let samples = even_samples(&[1, 8], 40);
    let look = |kept: &mut Vec<(usize, Vec<f32>)>, number: usize, seen: &Watched<'_>| {
        // Every third sample dawdles, so that others would overtake it.
        std::thread::sleep(std::time::Duration::from_micros(if number.is_multiple_of(3) { 500 } else { 0 }));
        kept.push((number, seen.standard()?.as_slice().to_vec()));
        Ok(Ok(()))
    };
    let (_, [x, ..]) = model();
    let alone = watch(&samples, 1, &Vec::new(), &look).unwrap();
    let fed = samples.iter().map(|s| s.feeds[0].1.as_slice::<f32>().to_vec());
    assert_eq!(alone.1[&x], fed.enumerate().collect::<Vec<_>>());
    for threads in [2, 5] {
        assert_eq!(watch(&samples, threads, &Vec::new(), &look).unwrap(), alone, "{threads} threads");
    }
}

#[test]
fn of_samples_that_fail_the_first_is_named_and_nobody_waits_for_it() {
    let mut samples = even_samples(&[1, 8], 40);
    // The first to fail does so at the last value, those after it at the first.
    samples[21].feeds.clear();
    samples[22].feeds.clear();
    let look = |(): &mut (), number: usize, seen: &Watched<'_>| {
        let (_, [.., z]) = model();
        Ok(if number == 20 && seen.value == z { Err(NotFinite) } else { Ok(()) })
    };
    for threads in [1, 2, 5] {
        let error = watch(&samples, threads, &(), &look).unwrap_err();
        assert!(
            matches!(&error, Error::ActivationsNotFinite { sample, .. } if sample == "sample 20"),
            "{threads} threads: {error}"
        );
    }
}

#[test]
fn as_many_samples_run_at_a_time_as_their_values_leave_room_for() {
    let fit = [2 * RUN_BYTES, RUN_BYTES, RUN_BYTES / 3, RUN_BYTES / 4, 1, 0].map(|b| at_once(b, usize::MAX, 4));
    assert_eq!(fit, [1, 1, 3, 4, 4, 4]);
    // A session may hold several times what its values take.
    assert_eq!([0, 3999, 4000, 12_000].map(|unused| at_once(1000, unused, 4)), [1, 1, 1, 3]);
    assert_eq!(at_once(1000, 8000, 4), 2);
}
