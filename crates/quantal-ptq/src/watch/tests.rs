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
    let looked = runs.watch("", &graph, &mut kept, look)?;
    Ok((looked.samples, kept))
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

/// Like any look of ours: refuses what is not finite before it takes anything in.
fn sum(kept: &mut Vec<f32>, _: usize, seen: &Watched<'_>) -> Seen {
    let values = seen.standard()?;
    let values = values.as_slice::<f32>();
    if values.iter().any(|x| !x.is_finite()) {
        return Ok(Err(NotFinite));
    }
    kept.push(values.iter().sum());
    Ok(Ok(()))
}

#[test]
fn of_samples_that_fail_the_first_is_named_and_nobody_waits_for_it() {
    let mut samples = even_samples(&[1, 8], 40);
    // The first to fail does so at its outputs, those after it at once.
    samples[20].feeds[0].1 = Tensor::from_slice(&[1, 8], &[f32::NAN; 8]).unwrap();
    samples[21].feeds.clear();
    samples[22].feeds.clear();
    for threads in [1, 2, 5] {
        let error = watch(&samples, threads, &Vec::new(), &sum).unwrap_err();
        assert!(
            matches!(&error, Error::ActivationsNotFinite { sample, .. } if sample == "sample 20"),
            "{threads} threads: {error}"
        );
    }
}

#[test]
fn what_is_not_finite_but_reaches_no_output_counts_as_zero_and_is_noted() {
    // Where is the mask: 1 where the input is a number.
    let mut b = Build::new();
    let x = b.input("x", &[1, 4]);
    let nan = b.unary(Op::IsNaN, x);
    b.graph.value_mut(nan).dtype = Some(DType::Bool);
    let zero = b.scalar(0.0);
    let y = b.node(Op::Where, &[nan, zero, x], quantal_ir::Attrs::new());
    b.graph.outputs = vec![y];
    let mut samples = even_samples(&[1, 4], 6);
    for (i, bad) in [(2, f32::NAN), (3, f32::NAN), (5, f32::NAN)] {
        samples[i].feeds[0].1 = Tensor::from_slice(&[1, 4], &[1.0, bad, 2.0, 4.0]).unwrap();
    }
    for threads in [1, 3] {
        let mut kept: BTreeMap<ValueId, Vec<f32>> = [(x, Vec::new()), (y, Vec::new())].into();
        let stream = || -> Stream<'_> { Box::new(samples.iter().cloned().map(Ok)) };
        let mut runs = Runs { samples: &stream, isa: Isa::PORTABLE, threads, progress: &mut Silent };
        let looked = runs.watch("", &b.graph, &mut kept, &sum).unwrap();
        assert_eq!(looked.samples, 6);
        let hole = Hole { sample: "sample 2".into(), samples: 3, infinite: false };
        assert_eq!(looked.holes, BTreeMap::from([(x, hole)]));
        assert_eq!([2, 3, 5].map(|i| kept[&x][i]), [7.0; 3]);
        assert_eq!(kept[&x], kept[&y]);
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
