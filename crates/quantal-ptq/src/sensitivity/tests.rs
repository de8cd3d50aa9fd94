use super::*;
use crate::place::tests::Build;
use crate::{Recipe, Silent, Stream, prepare};
use quantal_data::Sample;
use quantal_ir::{Attrs, Op};
use quantal_kernels::Isa;
use quantal_runtime::{Mode, Session, compile};

fn data() -> Vec<Sample> {
    let of = |s: usize| {
        let x: Vec<f32> = (0..64).map(|i| (((s * 64 + i) * 2741 + 97) % 4093) as f32 / 1023.0 - 1.5).collect();
        let feeds = vec![("x".to_owned(), Tensor::from_slice(&[1, 8, 8, 1], &x).unwrap())];
        Sample { name: format!("sample {s}"), feeds, label: Some(s as u32 % 8) }
    };
    (0..5).map(of).collect()
}

/// A convolution with a dead channel, one with a huge weight for that channel (all others drown in its scale), a residual
/// sum, a product.
fn model() -> Graph {
    let mut b = Build::new();
    let x = b.input("x", &[1, 8, 8, 1]);
    let first: Vec<f32> =
        (0..64).map(|i| if i / 8 == 5 { 0.0 } else { ((i * 23 + 5) % 61) as f32 / 30.0 - 1.0 }).collect();
    let w = b.graph.add_constant("first", Tensor::from_slice(&[8, 8, 1, 1], &first).unwrap());
    let a = b.binary(Op::Conv, x, w);
    let a = b.unary(Op::Relu, a);
    let mut wide: Vec<f32> = (0..64).map(|i| ((i * 31 + 7) % 67) as f32 / 67.0 - 0.5).collect();
    wide[5] = 300.0;
    let w = b.graph.add_constant("wide", Tensor::from_slice(&[8, 8, 1, 1], &wide).unwrap());
    let c = b.named(Op::Conv, "coarse", &[a, w], Attrs::new());
    let sum = b.binary(Op::Add, c, a);
    let mean = b.unary(Op::GlobalAveragePool, sum);
    let flat = b.unary(Op::Flatten, mean);
    let y = b.matmul(flat, 8);
    b.graph.outputs = vec![y];
    b.graph
}

fn recipe() -> Recipe {
    // Bias correction would take back most of what the coarse weights do to a mean.
    Recipe::from_toml(
        "bias_correction = false\n[weights]\ngranularity = \"per_tensor\"\n[observer]\nkind = \"min_max\"\n",
    )
    .unwrap()
}

fn found(graph: &Graph, samples: &[Sample]) -> (Prepared, Quantized, Sensitivity) {
    let stream = || -> Stream<'_> { Box::new(samples.iter().cloned().map(Ok)) };
    let mut runs = Runs { samples: &stream, isa: Isa::PORTABLE, threads: 1, progress: &mut Silent };
    let prepared = prepare(graph, &recipe(), &mut runs).unwrap();
    let quantized = prepared.quantize(&BTreeMap::new()).unwrap();
    let found = sensitivity(&prepared, &quantized, &mut runs).unwrap();
    (prepared, quantized, found)
}

/// The noise of a whole graph against the float one: the same figure without any walking.
fn noise(float: &Graph, other: &Graph, samples: &[Sample]) -> f64 {
    let mut sums = SqnrSums::default();
    let run = |g: &Graph, mode, s: &Sample| {
        let mut session = Session::new(compile(g, mode, Isa::PORTABLE).unwrap(), 1);
        session.run(&s.feeds).unwrap().remove(0).1.as_slice::<f32>().to_vec()
    };
    for s in samples {
        sums.add(&run(float, Mode::Simulate, s), &run(other, Mode::Integer, s));
    }
    sums.noise
}

#[test]
fn the_effects_are_those_of_whole_models() {
    let (graph, samples) = (model(), data());
    let (prepared, quantized, found) = found(&graph, &samples);
    assert_eq!((found.samples, found.labelled), (5, 5));
    assert_eq!(found.all.sums.noise, noise(&graph, &quantized.graph, &samples));
    // The sum reads a value that a node before it reads too: there whole models round it for both.
    for row in found.rows.iter().filter(|r| r.op != "Add") {
        let (alone, plan) = (only(&prepared, &quantized, row.node), own_plan(&quantized, row.node));
        let whole = quantal_ir::insert_qdq(&alone, &plan).unwrap();
        assert_eq!(row.alone.sums.noise, noise(&graph, &whole, &samples), "{}", row.name);
    }
}

#[test]
fn the_node_with_the_coarse_weights_does_the_harm() {
    let (graph, samples) = (model(), data());
    let (.., found) = found(&graph, &samples);
    let coarse = found.rows.iter().find(|r| &*r.name == "coarse").unwrap();
    for other in found.rows.iter().filter(|r| &*r.name != "coarse") {
        assert!(coarse.alone.sums.noise > 4.0 * other.alone.sums.noise, "{}", other.name);
        assert!(coarse.without.sums.noise < other.without.sums.noise, "{}", other.name);
    }
    assert!(coarse.without.sums.noise < found.all.sums.noise / 2.0);
}
